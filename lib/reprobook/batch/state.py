"""What is known of a run without starting it: its state from its record, its time from earlier records."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook import record
from reprobook.errors import ReprobookError
from reprobook.project import root
from reprobook.runs.runner import is_executed

if TYPE_CHECKING:
    from reprobook.batch.tasks import Task

COMPLETE, FAILED, RUNNING, INTERRUPTED, NEW = "complete", "failed", "running", "interrupted", "not run"


@dataclass(frozen=True)
class State:
    """``name`` is one of the five above; ``where`` says what went wrong, if something did."""

    name: str
    where: str = ""


def state(task: Task) -> State:
    """State of a run.

    A run folder's name is a digest of the content key, so its record is of this very code, data and parameters. The
    notebook is not looked at: `reprobook batch` does so before it skips a run.
    """
    found = _recorded(task.folder / "record.json")
    if found is not None and found.name == COMPLETE:
        return found
    if is_executed(task.folder):
        return State(RUNNING)
    return found or State(INTERRUPTED if task.folder.is_dir() else NEW)


def _recorded(path: Path) -> State | None:
    """What the record says. A run that somebody stopped did not fail: it goes on."""
    if not path.exists():
        return None
    try:
        found = record.read(path)
    except ReprobookError as error:
        return State(FAILED, str(error))
    where = found.where or ""
    if found.status == COMPLETE:
        return State(COMPLETE)
    return State(INTERRUPTED if where.startswith("stopped by SIG") else FAILED, where)


def estimates(tasks: Sequence[Task]) -> dict[tuple[str, str], float | None]:
    """``(slug, scale)`` -> median seconds of earlier complete runs of that chapter at that scale; None without any."""
    found: dict[tuple[str, str], float | None] = {}
    for slug, scale in dict.fromkeys((task.slug, task.scale) for task in tasks):
        files = [*(root() / "runs" / slug).glob(f"{scale}-seed*/record.json")]
        files += (root() / "book" / "results" / scale).glob(f"{slug}.seed*.json")
        times = [seconds for seconds in map(_seconds, files) if seconds is not None]
        found[slug, scale] = statistics.median(times) if times else None
    return found


def _seconds(path: Path) -> float | None:
    """Wall time of a complete run. The rest of the record is not checked: this is an estimate."""
    try:
        found = json.loads(path.read_bytes())
        return float(found["wall_s"]) if found["status"] == COMPLETE else None
    except (OSError, ValueError, TypeError, KeyError):  # none, cut off, of another form, or without a time
        return None
