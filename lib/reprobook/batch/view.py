"""What a local batch shows: a live table on a terminal, a line now and then elsewhere, a summary at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reprobook.batch.child import parts, progress_line
from reprobook.batch.local import Watcher
from reprobook.runs.process import HEARTBEAT_S, elapsed

if TYPE_CHECKING:
    from rich.table import Table

    from reprobook.batch.local import Batch, Result, Running

Estimates = Mapping[tuple[str, str], float | None]
FAILED_SHOWN = 5


def time_left(running: Running, estimates: Estimates) -> str:
    """As earlier records of chapter and scale tell; without any, or past them, that of the training; else nothing."""
    usual = estimates.get((running.task.slug, running.task.scale)) or 0.0
    left, fit = usual - (time.monotonic() - running.since), running.worker.last.get("fit")
    if left > 0:
        return elapsed(left)
    return f"{elapsed(fit['left_s'])} ({fit['name']})" if fit else ""


class Live(Watcher):
    """A table of the runs that work, redrawn in place."""

    def __init__(self, estimates: Estimates) -> None:
        from rich.console import Console
        from rich.live import Live as Screen

        self.estimates = estimates
        self.screen = Screen(console=Console(stderr=True), auto_refresh=False, transient=True)
        self.screen.start()

    def tick(self, batch: Batch) -> None:
        self.screen.update(self._table(batch), refresh=True)

    def ended(self, batch: Batch, result: Result) -> None:
        self.screen.console.print(_ended(result), markup=False, highlight=False)

    def close(self) -> None:
        self.screen.stop()

    def _table(self, batch: Batch) -> Table:
        from rich.table import Table

        counts = ", ".join(f"{n} {name}" for name, n in batch.counts().items() if n)
        asked = "stopping: runs save and end; again to end at once. " if batch.stopping is not None else ""
        table = Table(title=f"{asked}{counts}", title_justify="left", box=None, header_style="")
        for name in ("run", "state", "cell", "step", "steps/s", "time", "left"):
            table.add_column(name, justify="left" if name in ("run", "state") else "right")
        for running in batch.running:
            message = running.worker.last
            state = "waiting for another process" if "waiting" in message else "running"
            spent = elapsed(time.monotonic() - running.since)
            table.add_row(str(running.task), state, *parts(message), spent, time_left(running, self.estimates))
        return table


class Lines(Watcher):
    """For logs: a line when a run ends, and the state of all runs now and then."""

    def __init__(self, estimates: Estimates) -> None:
        self.estimates = estimates
        self.last = time.monotonic()

    def tick(self, batch: Batch) -> None:
        now = time.monotonic()
        if now - self.last < HEARTBEAT_S:
            return
        self.last = now
        _say(", ".join(f"{n} {name}" for name, n in batch.counts().items() if n))
        for running in batch.running:
            left = time_left(running, self.estimates)
            line = f"  {running.task}: {progress_line(running.worker.last)}, {elapsed(now - running.since)}"
            _say(line + (f", {left} left" if left else ""))

    def ended(self, batch: Batch, result: Result) -> None:
        _say(_ended(result))

    def close(self) -> None: ...


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _ended(result: Result) -> str:
    status = "complete already, skipped" if result.status == "skipped" else result.status
    return f"{result.task}: {status}" + (f": {result.where}" if result.where else "")


def watch(estimates: Estimates) -> Live | Lines:
    """The view for where standard error goes."""
    return Live(estimates) if sys.stderr.isatty() else Lines(estimates)


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
