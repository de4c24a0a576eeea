"""What a local batch shows: a live table on a terminal, a line now and then elsewhere, a summary at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reprobook.runs.process import HEARTBEAT_S, elapsed

if TYPE_CHECKING:
    from rich.table import Table

    from reprobook.batch.local import Batch, Running
    from reprobook.batch.work import Result
    from reprobook.runs.process import Progress

Estimates = Mapping[tuple[str, str], float | None]
FAILED_SHOWN = 5


def time_left(running: Running, estimates: Estimates) -> str:
    """As earlier records of chapter and scale tell; without any, or past them, that of the training; else nothing."""
    usual = estimates.get((running.task.slug, running.task.scale)) or 0.0
    left, steps = usual - (time.monotonic() - running.progress.start), running.progress.steps
    if left > 0:
        return elapsed(left)
    return f"{elapsed(steps['left_s'])} ({steps['name']})" if steps else ""


def columns(progress: Progress) -> tuple[str, str, str]:
    """Cell, step and steps/s of the live table."""
    cell = "starting" if progress.cell is None else f"{progress.cell + 1}/{progress.n_cells}"
    if steps := progress.steps:
        return cell, f"{steps['step']}/{steps['total']}", f"{steps['steps_per_s']:.3g}"
    return cell, "", ""


class View:
    """On a terminal a table of the runs that work, redrawn in place; for logs a line now and then."""

    def __init__(self, estimates: Estimates) -> None:
        self.estimates, self.last, self.screen = estimates, time.monotonic(), None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.screen = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> View:
        if self.screen is not None:
            self.screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.screen is not None:
            self.screen.stop()

    def show(self, batch: Batch) -> None:
        """Show the state of the batch; called about twice a second."""
        counts = ", ".join(f"{n} {name}" for name, n in batch.counts().items() if n)
        if self.screen is not None:
            self.screen.update(self._table(batch, counts), refresh=True)
        elif time.monotonic() - self.last >= HEARTBEAT_S:
            self.last = time.monotonic()
            self._say(counts)
            for running in batch.running:
                left = time_left(running, self.estimates)
                self._say(f"  {running.task}: {running.progress.line()}" + (f", {left} left" if left else ""))

    def ended(self, result: Result) -> None:
        """Say how a run ended."""
        status = "complete already, skipped" if result.status == "skipped" else result.status
        self._say(f"{result.task}: {status}" + (f": {result.where}" if result.where else ""))

    def _say(self, line: str) -> None:
        if self.screen is not None:
            self.screen.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _table(self, batch: Batch, counts: str) -> Table:
        from rich.table import Table

        asked = "stopping: runs save and end; again to end at once. " if batch.stop.signal is not None else ""
        table = Table(title=f"{asked}{counts}", title_justify="left", box=None, header_style="")
        for name in ("run", "cell", "step", "steps/s", "time", "left"):
            table.add_column(name, justify="left" if name == "run" else "right")
        for running in batch.running:
            spent = elapsed(time.monotonic() - running.progress.start)
            left = time_left(running, self.estimates)
            table.add_row(str(running.task), *columns(running.progress), spent, left)
        return table


def summary(batch: Batch, seconds: float) -> list[str]:
    """What the batch did: counts, then the runs that failed with their last lines."""
    counts: dict[str, Any] = {name: n for name, n in batch.counts().items() if n and name not in ("running", "waiting")}
    lines = [f"{len(batch.results)} runs in {elapsed(seconds)}: " + ", ".join(f"{n} {k}" for k, n in counts.items())]
    failed = [result for result in batch.results if result.status == "failed"]
    for result in failed[:FAILED_SHOWN]:
        lines.append(f"{result.task} ({result.task.run_id}) failed: {result.where}")
        lines += [f"  | {line}" for line in result.tail]
    if len(failed) > FAILED_SHOWN:
        lines.append(f"and {len(failed) - FAILED_SHOWN} more: `reprobook batch status` lists them")
    if counts.get("stopped"):
        lines.append("the same command goes on where this one stopped")
    return lines
