"""One run of one chapter: its folder, its lock, when it is complete, and what a failure leaves behind.

A run folder ``runs/<slug>/<run id>/`` holds ``notebook.ipynb``, ``record.json``, ``log.txt`` and ``checkpoints/``.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from filelock import FileLock, Timeout

from reprobook import record
from reprobook.content.key import content_key, run_id
from reprobook.data import ChapterData
from reprobook.errors import ReprobookError
from reprobook.project import check_scale, check_slug, notebook_path, root
from reprobook.ranges import resolve
from reprobook.runs.judge import executed, problem, tail
from reprobook.runs.process import Outcome, Progress, execute

if TYPE_CHECKING:
    from reprobook.runs.process import Options


class BusyError(ReprobookError):
    """The run is being executed by another process."""


class Stopped(KeyboardInterrupt):
    """A signal ended the run and what was to come after it; ``signal`` is its number."""

    def __init__(self, run: str, number: int) -> None:
        super().__init__(run)
        self.signal = number


@dataclass(frozen=True)
class RunResult:
    """``status`` "skipped" means that this very run was complete already; ``where`` and ``tail`` explain a failure."""

    run_id: str
    folder: Path
    status: Literal["complete", "skipped", "failed"]
    record: record.Record
    where: str | None = None
    tail: list[str] = field(default_factory=list)
    signal: int | None = None


def run(
    slug: str,
    scale: str = "smoke",
    overrides: Mapping[str, Any] | None = None,
    *,
    again: bool = False,
    **options: Unpack[Options],
) -> RunResult:
    """Run a chapter, or skip it if the same run (chapter, parameters, code, data) is complete; an interrupted one goes
    on from its checkpoints. ``again`` starts from nothing.

    Raises :class:`ReprobookError` before any kernel starts if chapter, scale or a parameter is not valid, or if the
    same run is being executed. A run that fails is a result, not an error.
    """
    ChapterData(slug, scale, resolve(check_slug(slug), check_scale(scale), overrides)).bring_optional()
    return run_in(*prepare(slug, scale, overrides or {}), again=again, **options)


def prepare(slug: str, scale: str, overrides: Mapping[str, Any]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Folder, identity and parameters of a run, as :func:`run_in` wants them; checks all names and types."""
    params = resolve(check_slug(slug), check_scale(scale), overrides)
    given = params.pop("out_dir", "")
    if given:
        raise ReprobookError(f"out_dir={given!r}: a run has its own folder below runs/{slug}; leave out_dir alone")
    data = ChapterData(slug, scale, params).available()
    content = content_key(slug, params, data)
    name = run_id(slug, scale, params["seed"], params, content)
    identity = {"slug": slug, "scale": scale, "seed": params["seed"], "run_id": name, "data": data, "content": content}
    return root() / "runs" / slug / name, identity, params


def run_in(
    folder: Path,
    identity: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    again: bool = False,
    **options: Unpack[Options],
) -> RunResult:
    """Run the notebook of ``identity["slug"]`` in ``folder``. ``identity`` holds the fields that a failed record needs:
    slug, scale, seed, run_id, and optionally data and content. Runs may work side by side in threads, each with a
    ``stop`` (they may share one). Raises :class:`BusyError` if the run is being executed already, :class:`Stopped` if a
    signal ended it and no ``stop`` says who else was to hear of it."""
    with _disk_errors(folder), locked(folder):
        if not again and (done := completed(folder, identity)):
            return RunResult(identity["run_id"], folder, "skipped", done)
        _make_room(folder, again)
        earlier_s = 0.0 if again else _earlier_s(folder)
        started, begin = _now(), time.monotonic() - earlier_s
        notebook, partial = notebook_path(identity["slug"]), folder / "notebook.partial.ipynb"
        progress = options["progress"] = options.get("progress") or Progress(sys.stderr)
        progress.title = f"{identity['slug']} {identity['run_id']}"
        progress.n_cells = len(json.loads(notebook.read_text("utf-8"))["cells"]) + 1  # papermill adds the parameters
        outcome = execute(notebook, partial, {**params, "out_dir": str(folder)}, folder / "log.txt", **options)
        if executed(partial)[0]:  # papermill's saves are not atomic: only a whole notebook takes the name
            partial.replace(folder / "notebook.ipynb")
        where = problem(folder, outcome, identity)
        if where is None:
            found = record.read(folder / "record.json")
            if earlier_s:
                wall_s = max(found.wall_s or 0.0, round(time.monotonic() - begin, 1))
                found = found.model_copy(update={"wall_s": wall_s})
                record.write(found, folder / "record.json")
            return RunResult(identity["run_id"], folder, "complete", found)
        failed = _failed_record(identity, params, where, started, time.monotonic() - begin)
        with suppress(OSError):  # no room for the record of a run that failed for lack of room: the message says it
            record.write(failed, folder / "record.json")
        if outcome.signal and not options.get("stop"):
            raise Stopped(f"{identity['slug']} {identity['run_id']}: {where}", outcome.signal)
        last = tail(folder / "log.txt")
        return RunResult(failed.run_id, folder, "failed", failed, where, last, outcome.signal)


def completed(folder: Path, identity: Mapping[str, Any]) -> record.Record | None:
    """The record of a complete run in ``folder``, None if there is none: the notebook is looked at again, too."""
    if not (folder / "record.json").is_file() or problem(folder, Outcome(exit_code=0), identity):
        return None
    return record.read(folder / "record.json")


def _make_room(folder: Path, again: bool) -> None:
    """Prepare the folder: nothing of an earlier attempt may pass as this one's; it is kept as ``*.previous.*``.
    ``again`` drops all else, since a chapter goes on with what it finds there: checkpoints, and what cells kept."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notebook.partial.ipynb").unlink(missing_ok=True)
    for name in ("notebook.ipynb", "record.json"):
        if (folder / name).exists():
            (folder / name).replace(folder / name.replace(".", ".previous.", 1))
    if again:
        for each in [each for each in folder.iterdir() if ".previous." not in each.name]:
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()


def _earlier_s(folder: Path) -> float:
    """Seconds of the attempts that ended early and with which this one goes on."""
    try:
        found = record.read(folder / "record.previous.json")
    except (OSError, ReprobookError):
        return 0.0
    return (found.wall_s or 0.0) if found.status == "failed" else 0.0


def _failed_record(
    identity: Mapping[str, Any], params: Mapping[str, Any], where: str, started: str, wall_s: float
) -> record.Record:
    commit, clean = record.commit()
    return record.Record(
        **identity,
        status="failed",
        where=where,
        params=dict(params),
        versions=record.versions(),
        commit=commit,
        clean=clean,
        started=started,
        ended=_now(),
        wall_s=round(wall_s, 1),
    )


def is_executed(folder: Path) -> bool:
    """Whether somebody executes the run in ``folder`` now."""
    if not lock_file(folder).exists():
        return False
    try:
        with locked(folder):
            return False
    except BusyError:
        return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep the run to one thread of one process; the system frees the lock of a process that dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(lock_file(folder), timeout=0).acquire()
    except Timeout:
        raise BusyError(f"run {folder.name} is being executed by another process: wait for it") from None
    with lock:
        yield


def lock_file(folder: Path) -> Path:
    """Where the lock of the run in ``folder`` is."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Explain a disk that is full or may not be written to."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        at, runs = error.filename or folder, root() / "runs"
        other = "" if not Path(at).is_relative_to(runs) else ", or make `runs` a link to another disk"
        raise ReprobookError(f"cannot write to {at} ({error.strerror}): make room{other}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
