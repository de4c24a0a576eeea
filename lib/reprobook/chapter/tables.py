"""The tables that a chapter shows about its paper, as frames."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from reprobook import params as params_module
from reprobook import show
from reprobook.errors import ReprobookError
from reprobook.evidence.claims import pooled, scores, state

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.evidence.claims import Evidence
    from reprobook.evidence.effects import Pooled
    from reprobook.facts import Claim, Facts
    from reprobook.record import EffectData, Record, TableData


DIFFERS = "differs"
WIDEST = 16  # columns of a table on a page


def identity(facts: Facts) -> pd.DataFrame:
    """Which paper this is: title, authors, versions, code, licences."""
    rows = []
    for label, text in facts.identity():
        rows.append((show.Html(f"<strong>{label}</strong>"), show.link(text) if label == "arXiv" else text))
    return _frame(rows, ["", "The paper"])


def claims_in_paper(facts: Facts) -> pd.DataFrame:
    """The paper's claims, its figures, and what the chapter tests."""
    rows = []
    for cid, c in facts.claims.items():
        how = show.with_note(c.how, f"at scale {' and '.join(c.testable_at)}" if c.testable_at else "at no scale")
        rows.append((_says(cid, c), _figures(c), how))
    return _frame(rows, ["The paper says", "Its figures", "What we test"])


def coverage(facts: Facts) -> pd.DataFrame:
    """Every part of the paper and the scales at which the chapter has it."""
    rows = [(part.part, part.scales or "not covered", part.note) for part in facts.coverage]
    return _frame(rows, ["Part of the paper", "Scales", "Note"])


def provenance(slug: str) -> pd.DataFrame:
    """Every knob, its value at each scale, and where the paper's value comes from."""
    keys = ("name", "smoke", "laptop", "paper")
    rows = [[*(_value(row[key]) for key in keys), row["source"]] for row in params_module.provenance(slug)]
    return _frame(rows, ["Parameter", "smoke", "laptop", "paper", "Meaning and source"])


def claims(facts: Facts, found: Iterable[Evidence], note: str = "") -> pd.DataFrame:
    """The verdict on each claim and what it rests on; ``note`` qualifies the evidence."""
    rows = [_claim_row(cid, facts.claims[cid], each, note) for cid, each in zip(facts.claims, found, strict=True)]
    return _frame(rows, ["The paper says", "Its figures", "Ours", "Verdict"])


def _claim_row(cid: str, claim: Claim, found: Evidence, note: str) -> tuple[Any, ...]:
    verdict = show.chip(found.verdict)
    if found.records:
        told = f"{found.scale} scale{note}: {found.told}"
        published = [r for r in found.records if r.status == "complete"]
        verdict = show.with_note(verdict, told, state(published) if published else "this run alone")
    elif found.challenge:
        verdict = show.with_note(verdict, found.challenge)
    return _says(cid, claim), _figures(claim), show.lines(found.figures), verdict


def plan(facts: Facts) -> pd.DataFrame:
    """What must be true of which effect for each claim, as it was fixed before the runs."""
    rows = [
        (cid, kind, each.effect, each.bar, each.scale or "each", each.why)
        for cid, claim in facts.claims.items()
        for kind, several in (("test", claim.tests), ("control", claim.controls))
        for each in several
    ]
    return _frame(rows, ["Claim", "", "Effect", "must be", "Scale", "Why"])


def _says(cid: str, claim: Claim) -> show.Html:
    return show.with_note(show.Html(f"<strong>{cid}</strong> {escape(claim.says)}"), claim.where)


def _figures(claim: Claim) -> show.Html:
    cells = show.format_column(list(claim.paper.values()))  # numbers of one claim share their decimals; HTML already
    return show.Html(
        "<br>".join(f"{escape(label)}: {cell}" for label, cell in zip(claim.paper, cells, strict=True)) or "–"
    )


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return "none" if value is None or value == [] else "(empty)" if value == "" else show.joined(value)


Page = tuple["pd.DataFrame", str]  # a table and its caption


def recorded(name: str, caption: str, committed: Sequence[Record]) -> Page | None:
    """Table ``name`` over the seeds of the committed records that hold it; the caption is theirs, with its sizes."""
    found = {r.seed: r.tables[name] for r in committed if name in r.tables}
    if not found:
        return None
    frame, how = over_seeds(found)
    return frame, f"{next(iter(found.values())).caption or caption or name} (laptop scale, {how})"


def pages(ours: Page, recorded: Page | None) -> list[Page]:
    """What a reader sees: the records where there are any, and this run's table, too, if somebody moves a parameter.
    A recorded table of other columns is another one of the same name. A page has no room for more than ``WIDEST``
    columns: a wider table is shown in two parts."""
    shown = [ours]
    if recorded is not None and set(ours[0]) & set(recorded[0]):
        shown = [ours, recorded] if show.interactive() else [recorded]
    return [part for page in shown for part in _parts(page)]


def _parts(page: Page) -> list[Page]:
    """A table of at most ``WIDEST`` columns as it is; of a wider one two halves of the columns, each with the leading
    ones that name the rows and with the number of runs."""
    frame, caption = page
    if frame.shape[1] <= WIDEST:
        return [page]
    named = (any(isinstance(v, str) and v[:1].isalpha() for v in frame[name]) for name in frame)
    n_names = sum(itertools.takewhile(bool, named))
    names, counts = list(frame.columns[:n_names]), [name for name in ("n",) if name in frame]
    rest = [name for name in frame if name not in (*names, *counts)]
    half = -(-len(rest) // 2)
    told = ((rest[:half], caption), (rest[half:], f"{caption}, further columns" if caption else ""))
    return [(frame[[*names, *columns, *counts]], text) for columns, text in told]


def reported(facts: Facts, name: str | None) -> Page | None:
    """The paper's own table ``name`` with where it stands."""
    if name is None:
        return None
    table = facts.table(name)
    return facts.frame(name), f"Paper, {table.where}: {table.caption}"


def over_seeds(found: Mapping[int, TableData]) -> tuple[pd.DataFrame, str]:
    """One table for the runs of several seeds (seed -> table), and what it is: ``5 seeds, mean ± sd``.

    Rows are matched by the key columns. What all runs share stays; numbers become mean ± sd; a text that differs says
    so; a column ``n`` counts the runs where a row is not in all of them. A table of the old schema has no key: its
    leading columns that name the rows in every run serve, and where none do, the first seed stands alone and is called
    that."""
    import pandas as pd

    k = len(found)
    seed, first = next(iter(found.items()))
    key = first.key or _naming_columns(list(found.values()))
    if k == 1 or key is None:
        frame = pd.DataFrame(first.rows, columns=first.columns, dtype=object)
        return frame, "1 seed" if k == 1 else f"seed {seed} alone: the rows of {k} seeds have no names to match"
    columns = list(dict.fromkeys(name for each in found.values() for name in each.columns))
    merged: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for each in found.values():
        for row in each.rows:
            cells = dict(zip(each.columns, row, strict=True))
            merged.setdefault(tuple(str(cells[name]) for name in key), []).append(cells)
    rows = [
        {name: _merged([c[name] for c in cells if name in c], len(cells)) for name in columns}
        for cells in merged.values()
    ]
    if samples := _samples(rows, columns):
        frame = pd.DataFrame(first.rows, columns=first.columns, dtype=object)
        return frame, f"seed {seed} of {k}; other seeds have other texts ({', '.join(samples)})"
    counts = [len(cells) for cells in merged.values()]
    if min(counts, default=k) < k:
        rows, columns = [{**row, "n": n} for row, n in zip(rows, counts, strict=True)], [*columns, "n"]
    spread = any(isinstance(cell, str) and " ± " in cell for row in rows for cell in row.values())
    return pd.DataFrame(rows, columns=columns, dtype=object), f"{k} seeds" + (", mean ± sd" if spread else "")


def _samples(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Columns whose text differs between runs in most rows: samples, of which no table over seeds can be made."""
    return [name for name in columns if 2 * sum(row.get(name) == DIFFERS for row in rows) > len(rows)]


def _naming_columns(found: Sequence[TableData]) -> list[str] | None:
    """The fewest leading columns of texts and whole numbers that name every row in each run; [] for tables of one
    row."""
    if all(len(each.rows) == 1 for each in found):
        return []
    names: list[str] = []
    for column in found[0].columns:
        if any(column not in each.columns for each in found):
            return None
        cells = [[row[each.columns.index(column)] for row in each.rows] for each in found]
        if any(isinstance(cell, float) for several in cells for cell in several):
            continue
        names.append(column)
        if all(_named(each, names) for each in found):
            return names
    return None


def _named(table: TableData, names: Sequence[str]) -> bool:
    places = [table.columns.index(name) for name in names]
    return len({tuple(str(row[place]) for place in places) for row in table.rows}) == len(table.rows)


def _merged(cells: Sequence[Any], n: int) -> Any:
    if not cells or all(cell == cells[0] for cell in cells):
        return cells[0] if cells else None
    if all(isinstance(cell, bool) for cell in cells):
        return f"yes in {sum(cells)} of {len(cells)}"
    numbers = [cell for cell in cells if isinstance(cell, int | float) and not isinstance(cell, bool)]
    if len(numbers) + sum(cell is None for cell in cells) < len(cells):
        return DIFFERS
    sd = stdev(numbers) if len(numbers) > 1 else None
    return show.mean_sd({"mean": mean(numbers), "sd": sd, "n": len(numbers)}, n)


def effects(own: Mapping[str, EffectData], names: Iterable[str], records: Sequence[Record]) -> pd.DataFrame:
    """Effects pooled over ``records`` (or, without any that hold one, as this run found it) with 95 % intervals."""
    rows = []
    for name in names:
        pooled, effect, held = _pooled(name, own, records)
        low, high = pooled.interval() if pooled else (effect.low, effect.high)
        estimate = pooled.shown(pooled.estimate) if pooled else effect.estimate
        given = low is not None and low == low
        interval = "exact" if effect.kind == "exact" else f"[{low:.3g}, {high:.3g}]" if given else "none"
        units = f"{effect.n} x {effect.over}" if effect.over else ""
        rows.append((name, estimate, interval.replace("-", "−"), effect.unit, units, len(held) or 1))
    return _frame(rows, ["Effect", "Estimate", "95 % interval", "Unit", "Units in a run", "Runs"])


def _pooled(
    name: str, own: Mapping[str, EffectData], records: Sequence[Record]
) -> tuple[Pooled | None, EffectData, Sequence[Record]]:
    held = [r for r in records if name in r.effects]
    if not held and name not in own:
        raise ReprobookError(f"no effect {name!r}; effects of this run: {', '.join(own) or 'none yet'}")
    if not held:
        return None, own[name], held
    return pooled(held, [name], {r.seed: scores(r, [name]) for r in held})[name], held[0].effects[name], held


def filled(text: str, own: Mapping[str, EffectData], records: Sequence[Record]) -> str:
    """``text`` with ``{effect}`` as ``0.12 [0.05, 0.19]`` and ``{effect:.2f}`` as the estimate, from ``records``; a run
    without records has no evidence, so a dash stands there."""

    known = {*own, *(name for r in records for name in r.effects)}

    def figure(found: re.Match[str]) -> str:
        name, _, form = (found[1], "", "") if found[1] in known else found[1].rpartition(":")  # names may hold colons
        pooled, _, held = _pooled(name or form, own, records)
        if pooled is None or not held:
            return "–"
        estimate, (low, high) = pooled.shown(pooled.estimate), pooled.interval()
        if form:
            return format(estimate, form).replace("-", "−")
        interval = "" if pooled.exact or low != low else f" [{low:.3g}, {high:.3g}]"
        return f"{estimate:.3g}{interval}".replace("-", "−")

    return re.sub(r"\{([^{}]+)\}", figure, text)


def _frame(rows: Sequence[Sequence[Any]], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([list(row) for row in rows], columns=columns, dtype=object)
