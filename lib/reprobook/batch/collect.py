"""Records of many hosts, merged into ``book/results``: conflicts are reported, nothing is replaced unasked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook import record
from reprobook.authoring.publish import publish
from reprobook.errors import ReprobookError
from reprobook.runs.runner import completed

if TYPE_CHECKING:
    from reprobook.batch.tasks import Task
    from reprobook.record import Record

MEASURED = ("metrics", "tables", "claims", "effects")
SHOWN = 3  # metrics that a conflict names


@dataclass
class Collected:
    """What came of it; ``written`` and ``same`` name results, the others say why a record was not taken."""

    written: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def collect(tasks: Sequence[Task], folders: Sequence[Path], *, replace: bool = False) -> Collected:
    """Take the complete runs of a plan from ``folders`` (each a copy of some host's ``runs/``) into the book.

    Runs with parameters of their own (grids) and smoke runs have no place there. Two hosts that measured different
    things, or a committed record that says something else, are conflicts: nothing is written, unless ``replace`` lets a
    record of now take the place of the committed one.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ReprobookError(f"{folder} is not a folder: name a host's runs/")
    done = Collected()
    for task in tasks:
        name = f"{task.slug}, {task.scale}, seed {task.seed}"
        if task.scale == "smoke" or set(task.overrides) != {"seed"}:
            done.refused.append(f"{task}: only the scale's own parameters at laptop or paper scale are published")
            continue
        if found := _found(task, folders):
            _merge(name, found, replace, done)
        else:
            done.missing.append(name)
    return done


def _found(task: Task, folders: Sequence[Path]) -> list[tuple[Path, Record]]:
    """The records of this very run, one per folder where it is complete: the notebook must say so, too."""
    identity = {"slug": task.slug, "scale": task.scale, "seed": task.seed}
    paths = [folder / task.slug / task.run_id / "record.json" for folder in folders]
    return [(path, done) for path in paths if (done := completed(path.parent, identity))]


def _merge(name: str, found: Sequence[tuple[Path, Record]], replace: bool, done: Collected) -> None:
    first_path, first = found[0]
    for path, other in found[1:]:
        if why := _difference(first, other):
            done.conflicts.append(f"{name}: {first_path} and {path} differ: {why}; collect from one of them")
            return
    target = record.result_path(first.slug, first.scale, first.seed)
    there = record.read(target) if target.is_file() else None
    why = _difference(there, first) if there else None
    if there and not why and there.run_id == first.run_id:
        done.same.append(name)
        return
    if there and not replace:
        what = why or f"made by other code or data ({there.run_id}, now {first.run_id})"
        done.conflicts.append(f"{name}: the committed record differs: {what}; --replace puts the new one there")
        return
    try:
        publish(first, first_path.parent)
    except ReprobookError as error:
        done.refused.append(str(error))
        return
    done.written.append(name + (f" (replaced: {why or 'other code, same results'})" if there else ""))


def _difference(one: Record, other: Record) -> str | None:
    """How two records of one run differ in what they measured, with the hardware; None if they agree."""
    parts = [part for part in MEASURED if getattr(one, part) != getattr(other, part)]
    if not parts:
        return None
    moved = [
        f"{name} {one.metrics.get(name)} and {other.metrics.get(name)}"
        for name in sorted({*one.metrics, *other.metrics})
        if one.metrics.get(name) != other.metrics.get(name)
    ]
    more = f" and {len(moved) - SHOWN} more metrics" if len(moved) > SHOWN else ""
    hosts = [record_.hardware.get("cpu", "unknown hardware") for record_ in (one, other)]
    what = "; ".join(moved[:SHOWN]) + more if moved else ", ".join(parts)
    return f"{what} ({hosts[0]}; {hosts[1]})" if hosts[0] != hosts[1] else what
