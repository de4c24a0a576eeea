"""What is known of a run without starting it: its state from the head of its record, its time from earlier records."""

from __future__ import annotations

import heapq
import json
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook.errors import ReprobookError
from reprobook.project import root

if TYPE_CHECKING:
    from reprobook.batch.tasks import Task

HEAD = re.compile(r'"status": "(\w+)",\n "where": (null|".*"),\n')
COMPLETE, FAILED, RUNNING, INTERRUPTED, NEW = "complete", "failed", "running", "interrupted", "not run"
EXAMPLES = 20  # records that an estimate reads for a chapter and scale


@dataclass(frozen=True)
class State:
    """``name`` is one of the five above; ``where`` says what went wrong, if something did."""

    name: str
    where: str = ""


def state(task: Task) -> State:
    """State of a run, from the first and last bytes of its record: thousands in a second.

    A run folder's name is a digest of the content key, so its record is of this very code, data and parameters. The
    notebook is not looked at: `reprobook batch` does so before it skips a run.
    """
    found = _recorded(f"{task.folder}/record.json")
    if found is not None and found.name == COMPLETE:
        return found
    if _locked(task.folder):
        return State(RUNNING)
    if found is not None:
        return found
    return State(INTERRUPTED) if os.path.isdir(task.folder) else State(NEW)


def states(tasks: Sequence[Task]) -> list[State]:
    """State of each run; of those that have neither folder nor lock, one listing per chapter says so for all."""
    there = {slug: _names(root() / "runs" / slug) for slug in {task.slug for task in tasks}}

    def known(task: Task) -> bool:
        return task.run_id in there[task.slug] or f".{task.run_id}.lock" in there[task.slug]

    return [state(task) if known(task) else State(NEW) for task in tasks]


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return frozenset()


def _recorded(path: str) -> State | None:
    try:
        stream = os.open(path, os.O_RDONLY)
        try:
            head = os.pread(stream, 2000, 0).decode("utf-8", "replace")
            whole = os.pread(stream, 2, max(0, os.fstat(stream).st_size - 2)) == b"}\n"
        finally:
            os.close(stream)
    except FileNotFoundError:
        return None
    except OSError as error:
        return State(FAILED, f"record.json cannot be read: {error.strerror}")
    if whole and (match := HEAD.search(head)):
        return _named(match[1], json.loads(match[2]) or "")
    return _read(Path(path))


def _read(path: Path) -> State:
    """The slow way, for a record that is not laid out as ours are: cut off, or edited by hand."""
    from reprobook import record

    try:
        found = record.read(path)
    except ReprobookError as error:
        return State(FAILED, str(error))
    return _named(found.status, found.where or "")


def _named(status: str, where: str) -> State:
    """A run that somebody stopped did not fail: it goes on."""
    if status == COMPLETE:
        return State(COMPLETE)
    return State(INTERRUPTED if where.startswith("stopped by SIG") else FAILED, where)


def _locked(folder: Path) -> bool:
    """Whether a process executes the run in ``folder`` now."""
    from filelock import FileLock, Timeout

    lock = f"{os.path.dirname(folder)}/.{folder.name}.lock"
    if not os.path.exists(lock):
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


# ------------------------------------------------------------------------------------------------ time


def estimates(tasks: Sequence[Task]) -> dict[tuple[str, str], float | None]:
    """``(slug, scale)`` -> median seconds of earlier complete runs of that chapter at that scale; None without any."""
    kinds = dict.fromkeys((task.slug, task.scale) for task in tasks)
    return {(slug, scale): _median(slug, scale) for slug, scale in kinds}


def _median(slug: str, scale: str) -> float | None:
    files = [f"{folder}/record.json" for folder in _latest(root() / "runs" / slug, f"{scale}-seed")]
    files += sorted(map(str, (root() / "book" / "results" / scale).glob(f"{slug}.seed*.json")))
    times = [seconds for seconds in map(_seconds, files) if seconds is not None]
    return statistics.median(times) if times else None


def _latest(folder: Path, prefix: str) -> list[str]:
    """The run folders whose names begin with ``prefix`` and that changed last, at most ``EXAMPLES``."""
    changed = []
    try:
        with os.scandir(folder) as entries:
            changed = [(each.stat().st_mtime, each.path) for each in entries if each.name.startswith(prefix)]
    except OSError:  # no folder, or one that vanished meanwhile
        pass
    return [path for _, path in heapq.nlargest(EXAMPLES, changed)]


def _seconds(path: str) -> float | None:
    """Wall time of a complete run. The rest of the record is not checked: this is an estimate."""
    try:
        found = json.loads(Path(path).read_bytes())
        return float(found["wall_s"]) if found["status"] == COMPLETE else None
    except (OSError, ValueError, TypeError, KeyError):  # none, cut off, of another form, or without a time
        return None
