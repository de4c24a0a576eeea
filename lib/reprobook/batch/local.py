"""The local backend: a process per run, as many at once as CPU, GPU and memory slots allow."""

from __future__ import annotations

import selectors
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from reprobook.batch.child import Worker, job_of

if TYPE_CHECKING:
    from reprobook.batch.slots import Slots
    from reprobook.batch.tasks import Task

BUSY_S = 2.0  # before a run that another process executes is tried again
KILL_AFTER_S = 30.0  # a worker that was asked to stop has this long; then it is killed
GRACE_S = 20.0  # what a run gets to save when it is stopped


@dataclass
class Result:
    """How a task ended: ``complete``, ``skipped`` (complete before, or by another process), ``failed``, ``stopped``."""

    task: Task
    status: str
    where: str = ""
    tail: list[str] = field(default_factory=list)


@dataclass
class Running:
    """A task with its worker; times are of the monotonic clock."""

    task: Task
    worker: Worker
    since: float


@dataclass
class Batch:
    """The state of a local batch, which a view shows."""

    waiting: deque[Task]
    slots: Slots
    running: list[Running] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    stopping: int | None = None  # the signal that ends the batch
    not_before: dict[str, float] = field(default_factory=dict)  # run id -> when a busy run is tried again

    def counts(self) -> dict[str, int]:
        found = {"running": len(self.running), "waiting": len(self.waiting)}
        for name in ("complete", "skipped", "failed", "stopped"):
            found[name] = sum(result.status == name for result in self.results)
        return found


class Watcher:
    """What a batch tells while it works; this one is silent."""

    def tick(self, batch: Batch) -> None: ...

    def ended(self, batch: Batch, result: Result) -> None: ...


def run(tasks: Sequence[Task], slots: Slots, watcher: Watcher) -> Batch:
    """Run all tasks; a failed one never stops the others. SIGINT and SIGTERM stop the runs (they save) and the batch;
    a second signal ends the runs at once. Raises :class:`ReprobookError` first if a task can never fit."""
    for task in tasks:
        slots.check(task.resources, str(task))
    order = sorted(tasks, key=lambda t: (t.resources.gpus, t.resources.cpus, t.resources.memory_gb or 0), reverse=True)
    batch = Batch(deque(order), slots)
    with selectors.DefaultSelector() as selector, _signals() as caught:
        try:
            while batch.running or (batch.waiting and batch.stopping is None):
                _start_what_fits(batch, selector)
                _listen(batch, selector, watcher)
                _stop_if_asked(batch, caught)
                watcher.tick(batch)
        finally:
            for running in batch.running:  # only after an error of our own
                running.worker.stop()
    batch.results += [Result(task, "stopped", "was not started") for task in batch.waiting]
    batch.waiting.clear()
    return batch


def _start_what_fits(batch: Batch, selector: selectors.BaseSelector) -> None:
    if batch.stopping is not None:
        return
    now, skipped = time.monotonic(), []
    while batch.waiting and len(skipped) < 100:
        task = batch.waiting.popleft()
        if now < batch.not_before.get(task.run_id, 0.0) or not batch.slots.fits(task.resources):
            skipped.append(task)
            continue
        minutes = task.resources.minutes
        limit = None if minutes is None else 60.0 * minutes
        job = job_of(task, gpus=batch.slots.gpus, time_limit=limit, grace_s=GRACE_S)
        running = Running(task, Worker.start(job), time.monotonic())
        batch.slots.take(task.resources)
        batch.running.append(running)
        selector.register(running.worker.pipe, selectors.EVENT_READ, running)
    batch.waiting.extendleft(reversed(skipped))


def _listen(batch: Batch, selector: selectors.BaseSelector, watcher: Watcher) -> None:
    """Take in what workers say for half a second; see to those that ended."""
    if not batch.running:
        time.sleep(0.2)  # all that is left is busy elsewhere
        return
    for key, _ in selector.select(timeout=0.5):
        running = key.data
        if running.worker.read():
            continue
        selector.unregister(running.worker.pipe)
        batch.running.remove(running)
        batch.slots.give(running.task.resources)
        end = running.worker.close()
        if end["status"] == "busy":
            batch.not_before[running.task.run_id] = time.monotonic() + BUSY_S
            batch.waiting.append(running.task)
            continue
        stopped = batch.stopping is not None and end["status"] == "failed"
        result = Result(
            running.task, "stopped" if stopped else end["status"], end.get("where") or "", end.get("tail", [])
        )
        batch.results.append(result)
        watcher.ended(batch, result)


def _stop_if_asked(batch: Batch, caught: list[tuple[int, float]]) -> None:
    if not caught:
        return
    if batch.stopping is None:
        batch.stopping = caught[0][0]
        for running in batch.running:
            running.worker.stop()
    if len(caught) > 1 or time.monotonic() - caught[0][1] > KILL_AFTER_S:
        for running in batch.running:
            running.worker.stop(signal.SIGKILL)  # kernel and papermill end with it


@contextmanager
def _signals() -> Iterator[list[tuple[int, float]]]:
    """Collect SIGINT and SIGTERM with their times instead of dying of them."""
    caught: list[tuple[int, float]] = []

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append((number, time.monotonic()))

    old = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
