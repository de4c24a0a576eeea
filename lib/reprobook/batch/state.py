"""What is known of a run without starting it: its state from the head of its record, its time from earlier records."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobook.batch.tasks import Task
from reprobook.errors import ReprobookError
from reprobook.project import root

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


def _recorded(path: str) -> State | None:
    try:
        with open(path, "rb") as stream:
            head = stream.read(2000).decode("utf-8", "replace")
            stream.seek(max(-2, -os.fstat(stream.fileno()).st_size), os.SEEK_END)
            whole = stream.read() == b"}\n"
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
    from reprobook import record

    ours = sorted((root() / "runs" / slug).glob(f"{scale}-seed*"), key=_changed, reverse=True)[:EXAMPLES]
    files = [folder / "record.json" for folder in ours]
    files += sorted((root() / "book" / "results" / scale).glob(f"{slug}.seed*.json"))
    times = []
    for path in files:
        try:
            found = record.read(path)
        except ReprobookError:
            continue
        if found.status == COMPLETE and found.wall_s is not None:
            times.append(found.wall_s)
    return statistics.median(times) if times else None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
