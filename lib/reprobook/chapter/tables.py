"""The tables that a chapter shows about its paper, as frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from reprobook import params as params_module
from reprobook import show
from reprobook.evidence.claims import state

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.evidence.claims import Evidence
    from reprobook.facts import Claim, Facts
    from reprobook.record import TableData


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
    return _frame(rows, ["The paper says", "Its figures", "Ours (mean ± sd)", "Verdict"])


def _claim_row(cid: str, claim: Claim, found: Evidence, note: str) -> tuple[Any, ...]:
    n = len(found.records)
    ours = show.lines({key: show.mean_sd(spread, n) for key, spread in found.summary["value"].items()})
    verdict = show.chip(found.verdict)
    if found.records:
        told = f"{found.scale} scale{note}: {found.told}"
        published = [r for r in found.records if r.status == "complete"]
        verdict = show.with_note(verdict, told, state(published) if published else "this run alone")
    return _says(cid, claim), _figures(claim), ours, verdict


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


def over_seeds(found: Sequence[TableData]) -> pd.DataFrame:
    """One table for the runs of several seeds, row by row: what all runs share stays, numbers become mean ± sd.

    Runs that differ in their columns or in the number of rows are stacked."""
    import pandas as pd

    frames = [pd.DataFrame(each.rows, columns=each.columns, dtype=object) for each in found]
    if any(f.shape != frames[0].shape or list(f.columns) != list(frames[0].columns) for f in frames):
        return pd.concat(frames, ignore_index=True)
    merged = {
        name: [_over_seeds(cells) for cells in zip(*(frame[name] for frame in frames), strict=True)]
        for name in frames[0].columns
    }
    return pd.DataFrame(merged, dtype=object)


def _over_seeds(cells: Sequence[Any]) -> Any:
    if all(cell == cells[0] for cell in cells):
        return cells[0]
    numbers = [cell for cell in cells if isinstance(cell, int | float) and not isinstance(cell, bool)]
    if len(numbers) < len(cells):
        return " / ".join(dict.fromkeys(str(cell) for cell in cells))
    return show.mean_sd({"mean": mean(numbers), "sd": stdev(numbers), "n": len(numbers)}, len(numbers))


def _frame(rows: Sequence[Sequence[Any]], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([list(row) for row in rows], columns=columns, dtype=object)
