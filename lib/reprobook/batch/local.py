"""The local backend: a thread per run, as many at once as CPU, GPU and memory slots allow."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reprobook.batch.work import Result, work
from reprobook.runs.process import Progress, stop_on_signals

if TYPE_CHECKING:
    from reprobook.batch.slots import Slots
    from reprobook.batch.tasks import Task
    from reprobook.runs.process import Stop

BUSY_S = 2.0  # before a run that another process executes is tried again


@dataclass
class Running:
    """A task that a thread works on."""

    task: Task
    progress: Progress
    future: Future[Result]


@dataclass
class Batch:
    """The state of a local batch, which a view shows."""

    waiting: list[Task]
    slots: Slots
    stop: Stop
    running: list[Running] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    not_before: dict[str, float] = field(default_factory=dict)  # run id -> when a busy run is tried again

    def counts(self) -> dict[str, int]:
        """How many runs are in which state."""
        found = {"running": len(self.running), "waiting": len(self.waiting)}
        for name in ("complete", "skipped", "failed", "stopped"):
            found[name] = sum(result.status == name for result in self.results)
        return found


def run(tasks: Sequence[Task], slots: Slots, show: Callable[[Batch], None], ended: Callable[[Result], None]) -> Batch:
    """Run all tasks; a failed one never stops the others. ``show`` is told how the batch is about twice a second,
    ``ended`` each run that ends. SIGINT and SIGTERM stop the runs (they save) and the batch; a second signal ends the
    runs at once. Raises :class:`ReprobookError` first if a task can never fit."""
    for task in tasks:
        slots.check(task.resources, str(task))
    order = sorted(tasks, key=lambda t: (t.resources.gpus, t.resources.cpus, t.resources.memory_gb or 0), reverse=True)
    with stop_on_signals() as stop, ThreadPoolExecutor(slots.cpus) as pool:
        batch = Batch(order, slots, stop)
        try:
            while batch.running or (batch.waiting and stop.signal is None):
                _start_what_fits(batch, pool)
                _see_to_the_ended(batch, ended)
                show(batch)
        except BaseException:  # an error of our own: the pool waits for its threads
            stop.ask(signal.SIGTERM)
            raise
    batch.results += [Result(task, "stopped", "was not started") for task in batch.waiting]
    batch.waiting.clear()
    return batch


def _start_what_fits(batch: Batch, pool: ThreadPoolExecutor) -> None:
    if batch.stop.signal is not None:
        return
    now, waiting = time.monotonic(), []
    for task in batch.waiting:
        taken = [each.task.resources for each in batch.running]
        if now < batch.not_before.get(task.run_id, 0.0) or not batch.slots.fits(*taken, task.resources):
            waiting.append(task)
            continue
        progress = Progress()
        future = pool.submit(work, task, batch.stop, progress, gpus=batch.slots.gpus)
        batch.running.append(Running(task, progress, future))
    batch.waiting = waiting


def _see_to_the_ended(batch: Batch, ended: Callable[[Result], None]) -> None:
    """Wait for half a second, or until a run ends."""
    if not batch.running:
        time.sleep(0.2)  # all that is left is busy elsewhere
        return
    wait([each.future for each in batch.running], timeout=0.5, return_when=FIRST_COMPLETED)
    for each in [each for each in batch.running if each.future.done()]:
        batch.running.remove(each)
        result = each.future.result()
        if result.status == "busy":
            batch.not_before[each.task.run_id] = time.monotonic() + BUSY_S
            batch.waiting.append(each.task)
            continue
        batch.results.append(result)
        ended(result)
