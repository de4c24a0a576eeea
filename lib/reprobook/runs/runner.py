"""One run of one chapter: its folder, its lock, when it is complete, and what a failure leaves behind.

A run folder ``runs/<slug>/<run id>/`` holds ``notebook.ipynb``, ``record.json``, ``log.txt`` and ``checkpoints/``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reprobook.errors import ReprobookError
from reprobook.project import check_scale, check_slug, notebook_path, root
from reprobook.runs.process import Outcome, Progress, execute

if TYPE_CHECKING:
    from reprobook.record import Record

TAIL_LINES = 15


class BusyError(ReprobookError):
    """The run is being executed by another process."""


@dataclass(frozen=True)
class RunResult:
    """``status`` "skipped" means that this very run was complete already; ``where`` and ``tail`` explain a failure."""

    run_id: str
    folder: Path
    status: Literal["complete", "skipped", "failed"]
    record: Record
    where: str | None = None
    tail: list[str] = field(default_factory=list)
    signal: int | None = None


def run(
    slug: str,
    scale: str = "smoke",
    overrides: Mapping[str, Any] | None = None,
    *,
    again: bool = False,
    time_limit: float | None = None,
    publish: bool = False,
) -> RunResult:
    """Run a chapter, or skip it if the same run (chapter, parameters, code, data) is complete; an interrupted one goes
    on from its checkpoints. ``again`` starts from nothing. ``time_limit`` is in seconds.

    Raises :class:`ReprobookError` before any kernel starts if chapter, scale or a parameter is not valid, or if the
    same run is being executed. A run that fails is a result, not an error.
    """
    folder, identity, params = prepare(slug, scale, overrides or {})
    if publish:
        from reprobook.runs.publish import check_publishable

        check_publishable(slug, scale, params)
    result = run_in(folder, identity, params, again=again, time_limit=time_limit)
    if publish and result.status != "failed":
        from reprobook.runs.publish import publish as publish_record

        publish_record(result.record)
    return result


def prepare(slug: str, scale: str, overrides: Mapping[str, Any]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Folder, identity and parameters of a run, as :func:`run_in` wants them; checks all names and types."""
    from reprobook.data import ChapterData
    from reprobook.params import resolve
    from reprobook.runs.content import content_key, run_id

    params = resolve(check_slug(slug), check_scale(scale), overrides)
    given = params.pop("out_dir", "")
    if given:
        raise ReprobookError(f"out_dir={given!r}: a run has its own folder below runs/{slug}; leave out_dir alone")
    data = ChapterData(slug, scale).checksums()
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
    time_limit: float | None = None,
    env: Mapping[str, str] | None = None,
    progress: Callable[[str, int], Progress] = Progress,
) -> RunResult:
    """Run the notebook of ``identity["slug"]`` in ``folder``. ``identity`` holds the fields that a failed record needs:
    slug, scale, seed, run_id, and optionally data and content. ``env`` adds environment variables for the kernel;
    ``progress(title, n_cells)`` makes what is told of each cell. Raises :class:`BusyError` if another process runs it.
    """
    with _lock(folder):
        if not again and (done := completed(folder, identity)):
            return RunResult(identity["run_id"], folder, "skipped", done)
        _make_room(folder, again)
        started, begin = _now(), time.monotonic()
        outcome = _execute(folder, identity, params, time_limit, env, progress)
        where = problem(folder, outcome, identity)
        if where is None:
            from reprobook import record

            return RunResult(identity["run_id"], folder, "complete", record.read(folder / "record.json"))
        failed = _failed_record(identity, params, where, started, time.monotonic() - begin)
        return _failure(folder, failed, outcome)


def completed(folder: Path, identity: Mapping[str, Any]) -> Record | None:
    """The record of a complete run in ``folder``, None if there is none: the notebook is looked at again, too."""
    from reprobook import record

    if not (folder / "record.json").is_file() or problem(folder, Outcome(exit_code=0), identity):
        return None
    return record.read(folder / "record.json")


def problem(folder: Path, outcome: Outcome, identity: Mapping[str, Any]) -> str | None:
    """Why the run in ``folder`` is not complete; None if it is.

    papermill alone cannot tell: with a killed kernel, or after ``sys.exit(0)``, its notebook looks finished.
    """
    cells, end_time = _executed(folder / "notebook.ipynb")
    at = _where(cells, outcome.cell)
    if outcome.stopped:
        return f"{outcome.stopped} in {at}"
    if error := _cell_error(cells):
        return error
    if outcome.exit_code < 0:
        return f"the runner's child process was killed (signal {-outcome.exit_code}) in {at}: out of memory?"
    if outcome.exit_code and "DeadKernelError" in "".join(tail(folder / "log.txt", 3)):
        return f"the kernel died in {at}: out of memory?"
    if outcome.exit_code:
        return f"papermill ended with exit code {outcome.exit_code} in {at}"
    waiting = [k for k, cell in enumerate(cells) if _status(cell) != "completed"]
    if waiting:
        return f"{_where(cells, waiting[0])} was never completed"
    if not end_time:
        return "notebook.ipynb has no end time"
    return _record_problem(folder / "record.json", identity)


def _record_problem(path: Path, identity: Mapping[str, Any]) -> str | None:
    from reprobook import record

    if not path.is_file():
        return "no record was written: the notebook must end with ch.finish()"
    try:
        found = record.read(path)
    except ReprobookError as error:
        return str(error)
    if found.status != "complete":
        return f"the record says {found.status}"
    wrong = [key for key in ("slug", "scale", "seed") if getattr(found, key) != identity[key]]
    return f"the record is of another run: {', '.join(wrong)} differ" if wrong else None


def _executed(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Cells and end time of an executed notebook, without papermill's error banners; no cells if unreadable."""
    try:
        content = json.loads(path.read_text("utf-8"))
        cells = [cell for cell in content["cells"] if "papermill-error-cell-tag" not in _tags(cell)]
        return cells, content["metadata"].get("papermill", {}).get("end_time")
    except (OSError, ValueError, KeyError):
        return [], None


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def _status(cell: Mapping[str, Any]) -> str:
    return (
        cell["metadata"].get("papermill", {}).get("status", "pending") if cell["cell_type"] == "code" else "completed"
    )


def _cell_error(cells: list[dict[str, Any]]) -> str | None:
    for k, cell in enumerate(cells):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return f"{output['ename']}: {_plain(output['evalue'])} in {_where(cells, k)}"
    return None


def _where(cells: list[dict[str, Any]], index: int | None) -> str:
    """``cell 12 of 31 (Training)``: counted from 1 as in the chapter's own notebook, with the last heading above."""
    if index is None:
        return "start-up"
    own = [k for k, cell in enumerate(cells) if "injected-parameters" not in _tags(cell)]
    above = "\n".join("".join(cell["source"]) for cell in cells[: index + 1] if cell["cell_type"] == "markdown")
    headings = re.findall(r"^#+ +(.+)$", above, re.MULTILINE)
    return f"cell {sum(k <= index for k in own)} of {len(own)}" + (f" ({headings[-1]})" if headings else "")


def tail(path: Path, n: int = TAIL_LINES) -> list[str]:
    """The last ``n`` lines of a log that say something, without colours."""
    lines = _plain(path.read_text("utf-8", errors="replace")).splitlines() if path.is_file() else []
    return [line.rstrip() for line in lines if line.strip()][-n:]


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _make_room(folder: Path, again: bool) -> None:
    """Prepare the folder: nothing of an earlier attempt may pass as this one's; ``again`` also drops checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("notebook.ipynb", "notebook.partial.ipynb"):
        (folder / name).unlink(missing_ok=True)
    if (folder / "record.json").exists():
        os.replace(folder / "record.json", folder / "record.previous.json")
    if again:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / "log.txt").unlink(missing_ok=True)


def _execute(
    folder: Path,
    identity: Mapping[str, Any],
    params: Mapping[str, Any],
    time_limit: float | None,
    env: Mapping[str, str] | None,
    progress: Callable[[str, int], Progress],
) -> Outcome:
    notebook, partial = notebook_path(identity["slug"]), folder / "notebook.partial.ipynb"
    n_cells = len(json.loads(notebook.read_text("utf-8"))["cells"]) + 1  # papermill adds a cell with the parameters
    outcome = execute(
        notebook,
        partial,
        {**params, "out_dir": str(folder)},
        log=folder / "log.txt",
        progress=progress(f"{identity['slug']} {identity['run_id']}", n_cells),
        time_limit=time_limit,
        env=env,
    )
    if _executed(partial)[0]:  # papermill's saves are not atomic: only a whole notebook takes the name
        os.replace(partial, folder / "notebook.ipynb")
    return outcome


def _failed_record(
    identity: Mapping[str, Any], params: Mapping[str, Any], where: str, started: str, wall_s: float
) -> Record:
    from reprobook import record

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


def _failure(folder: Path, failed: Record, outcome: Outcome) -> RunResult:
    from reprobook import record

    record.write(failed, folder / "record.json")
    return RunResult(failed.run_id, folder, "failed", failed, failed.where, tail(folder / "log.txt"), outcome.signal)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep the run to one process at a time; the system frees the lock of a process that dies."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(f"run {folder.name} is being executed by another process: wait for it") from None
    try:
        yield
    finally:
        lock.release()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
