"""What is kept of runs: one shown, two side by side, and what a prune would remove."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import project, record
from reprobook.authoring.scoreboard import cost
from reprobook.authoring.standing import standing
from reprobook.content.key import content_key, differences
from reprobook.data import ChapterData
from reprobook.errors import ReprobookError
from reprobook.params import resolve
from reprobook.runs.runner import BusyError, is_executed, lock_file, locked

if TYPE_CHECKING:
    from reprobook.record import EffectData, Record

Section = tuple[str, Sequence[tuple[str, ...]]]  # a heading and rows of columns
LEFT_ALONE_S = 86400.0  # nobody works on an ad hoc run whose files are that old


def find(name: str) -> Path:
    """The record that ``name`` means: its file, the run's folder, or the run's id or the beginning of it.

    Raises :class:`ReprobookError` if there is none or more than one."""
    path = Path(name)
    if path.exists():
        return path / "record.json" if path.is_dir() else path
    found = sorted((project.root() / "runs").glob(f"*/{name}*/record.json"))
    if len(found) == 1:
        return found[0]
    several = ", ".join(each.parent.name for each in found)
    raise ReprobookError(
        f"{name!r} is the beginning of several runs: {several}" if found
        else f"no run {name!r}: give the id of a run with a record below runs/, its folder, or the file of a record"
    )  # fmt: skip


def shown(path: Path) -> list[Section]:
    """One run: what it was, where its files are, its metrics, its effects with what the claims want of them, and the
    verdicts of the book, which rest on the published runs."""
    found = record.read(path)
    facts = standing(project.check_slug(found.slug))
    wanted: dict[str, list[str]] = {}
    for cid, claim in facts.facts.claims.items():
        for test in (*claim.tests_at(found.scale), *claim.controls_at(found.scale)):
            wanted.setdefault(test.effect, []).append(f"{cid}: {test.bar}")
    usual = resolve(found.slug, found.scale)
    own = {name: v for name, v in found.params.items() if name not in ("seed", "out_dir") and usual.get(name) != v}
    made = [("state", found.status + (f": {found.where}" if found.where else "")), ("took", cost([found]))]
    made += [("commit", f"{found.commit or 'unknown'}{'' if found.clean else ' with changes'}, {found.ended}")]
    made += [("parameters", ", ".join(f"{name} = {value}" for name, value in own.items()) or "those of the scale")]
    made += [("files", str(file)) for name in ("notebook.ipynb", "notebook.html", "log.txt")
             if (file := path.parent / name).is_file()]  # fmt: skip
    effects = [(name, _figure(each), each.unit, f"n = {each.n}", "; ".join(wanted.get(name, [])))
               for name, each in found.effects.items()]  # fmt: skip
    claims = [(cid, each.verdict, each.told if each.records else "") for cid, each in facts.found.items()]
    return [
        (f"{found.slug}, {found.scale}, seed {found.seed}: {found.run_id}", made),
        ("Metrics", [(name, _number(value)) for name, value in found.metrics.items()]),
        ("Effects [95 % interval of this run], and what claims want of them", effects),
        ("Verdicts of the book, from its published runs", claims),
    ]


def side_by_side(one: Path, other: Path) -> list[Section]:
    """Two runs of a chapter: what was not the same, then metrics and effects with the difference (second - first)."""
    a, b = record.read(one), record.read(other)
    if a.slug != b.slug:
        raise ReprobookError(f"runs of two chapters have no numbers in common: {a.slug} and {b.slug}")
    told = [(name, str(getattr(a, name)), str(getattr(b, name)))
            for name in ("run_id", "scale", "seed", "status", "commit", "ended")]  # fmt: skip
    told += [("took", cost([a]), cost([b]))]
    content = differences(a.content, b.content) if a.content and b.content else ["one does not say what it is made of"]
    return [
        (a.slug, told),
        ("Not the same", [(reason,) for reason in content]),
        ("Metrics", _pairs(a.metrics, b.metrics)),
        ("Effects", _pairs(*({name: e.estimate for name, e in each.effects.items()} for each in (a, b)))),
    ]


def _pairs(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> Sequence[tuple[str, ...]]:
    rows = []
    for name in dict.fromkeys((*one, *other)):
        a, b = one.get(name), other.get(name)
        moved = "" if a is None or b is None else "equal" if a == b else f"{b - a:+.4g}"
        rows.append((name, _number(a), _number(b), moved))
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _figure(effect: EffectData) -> str:
    spread = "" if effect.low is None else f" [{_number(effect.low)}, {_number(effect.high)}]"
    return _number(effect.estimate) + spread


def write_page(path: Path) -> Path:
    """The notebook of the run whose record is at ``path`` as one HTML file beside it."""
    from nbconvert import HTMLExporter

    notebook = path.parent / "notebook.ipynb"
    if not notebook.is_file():
        raise ReprobookError(f"no notebook.ipynb beside {path}: only the folder of a run that ended has one")
    page = notebook.with_suffix(".html")
    project.atomic_write(page, HTMLExporter().from_filename(str(notebook))[0])
    return page


# ------------------------------------------------------------------------------------------------ what may go


def prunable(slug: str) -> Iterator[tuple[Path, str, int]]:
    """``(folder, why, bytes)`` of runs that nothing needs: failed, interrupted, of older code or data, ad hoc.

    Never one that is being executed, nor one whose record is published."""
    published = {each.run_id for scale in ("laptop", "paper") for each in record.results(slug, scale)}
    runs = project.root() / "runs" / slug
    for folder in sorted(each for each in runs.glob("*-seed*") if each.is_dir() and each.name not in published):
        if not is_executed(folder) and (why := _why(folder)):
            yield folder, why, _bytes(folder)
    for kind in ("adhoc", "verify"):
        for folder in sorted(each for each in (runs / kind).glob("*") if each.is_dir()):
            if time.time() - max(file.stat().st_mtime for file in (folder, *folder.rglob("*"))) > LEFT_ALONE_S:
                yield folder, f"{kind}, not touched for a day", _bytes(folder)


def _why(folder: Path) -> str:
    """Why a run that nobody executes is of no more use; "" if it is of some."""
    if not (folder / "record.json").is_file():
        kept = ", its checkpoints go with it" if (folder / "checkpoints").is_dir() else ""
        return f"interrupted{kept}"
    try:
        found = record.read(folder / "record.json")
    except ReprobookError:
        return "its record cannot be read"
    if found.status != "complete":
        return f"{found.status}: {found.where}"
    reasons = _outdated(found)
    return f"superseded: {reasons[0]}" if reasons else ""


def _outdated(found: Record) -> list[str]:
    """What of the code and the data that a run was made from is not as it was; its parameters are its own."""
    params: dict[str, Any] = {name: value for name, value in found.params.items() if name != "out_dir"}
    try:
        now = content_key(found.slug, params, ChapterData(found.slug, found.scale, params).checksums())
    except ReprobookError as error:
        return [str(error)]
    return differences(found.content, now, found.slug) if found.content else ["it does not say what it was made from"]


def remove(folder: Path) -> bool:
    """Delete the folder of a run unless somebody began to execute it; whether it is gone."""
    with suppress(BusyError), locked(folder):
        shutil.rmtree(folder)
        lock_file(folder).unlink(missing_ok=True)
    return not folder.exists()


def _bytes(folder: Path) -> int:
    return sum((Path(at) / name).lstat().st_size for at, _, names in os.walk(folder) for name in names)
