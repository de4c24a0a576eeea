"""Whether a run is complete, and if not, why and where: from its exit, its notebook, its log and its record."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.runs.process import Outcome

TAIL_LINES = 15


def problem(folder: Path, outcome: Outcome, identity: Mapping[str, Any]) -> str | None:
    """Why the run in ``folder`` is not complete; None if it is.

    papermill alone cannot tell: with a killed kernel, or after ``sys.exit(0)``, its notebook looks finished.
    """
    cells, end_time = executed(folder / "notebook.ipynb")
    at = _where(cells, outcome.cell)
    if outcome.stopped or outcome.error:
        return f"{outcome.stopped or outcome.error} in {at}"
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


def executed(path: Path) -> tuple[list[dict[str, Any]], str | None]:
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
