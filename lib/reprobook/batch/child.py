"""The parent's side of a worker: start it, read what it says, stop it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reprobook.batch.tasks import Task


@dataclass(frozen=True)
class Job:
    """What a worker is told. ``gpus``: candidates (None: whatever is visible). ``wait``: for a run that another process
    executes, instead of ending as busy. ``grace_s``: what a run gets to save when it is stopped."""

    slug: str
    scale: str
    overrides: dict[str, Any]
    run_id: str
    cpus: int
    gpus: list[int] | None = None
    n_gpus: int = 0
    time_limit: float | None = None
    memory_limit: float | None = None
    wait: bool = False
    grace_s: float = 20.0


def job_of(task: Task, **options: Any) -> Job:
    """The job of a task; ``options`` are fields of :class:`Job`."""
    wanted = task.resources
    return Job(
        task.slug, task.scale, dict(task.overrides), task.run_id, wanted.cpus,
        n_gpus=wanted.gpus, memory_limit=wanted.memory_gb, **options,
    )  # fmt: skip


@dataclass
class Worker:
    """A worker that runs. ``last`` is the newest message about its progress, ``end`` the one about its end."""

    process: subprocess.Popen[bytes]
    last: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    _rest: bytes = b""
    _lines: deque[str] = field(default_factory=lambda: deque(maxlen=15))

    @classmethod
    def start(cls, job: Job) -> Worker:
        """Start a worker in a session of its own: a Ctrl-C at the terminal reaches the batch alone."""
        process = subprocess.Popen(
            [sys.executable, "-m", "reprobook.batch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps({**asdict(job), "parent": os.getpid()}).encode())
        return cls(process)

    @property
    def pipe(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def read(self) -> bool:
        """Take in what the worker said (blocks until it says something); False once it is gone."""
        chunk = os.read(self.pipe, 65536)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._take(line.decode("utf-8", "replace"))
        return bool(chunk)

    def _take(self, line: str) -> None:
        try:
            message = json.loads(line) if line.startswith("{") else None
        except ValueError:
            message = None
        if message is None:
            self._lines.append(line)  # a traceback or a warning
        elif "status" in message:
            self.end = message
        else:
            self.last = message

    def close(self) -> dict[str, Any]:
        """How a worker that is gone ended: its own word, else what the system says of it."""
        code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self.end is not None:
            return self.end
        why = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        return {"status": "failed", "where": f"the worker {why}", "tail": list(self._lines)}

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask the worker to stop (SIGTERM), or end it (SIGKILL)."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


def progress_line(message: dict[str, Any]) -> str:
    """``cell 5 of 31, main: step 120 of 800, 12.3 steps/s`` of a worker's message; ``starting`` before the first."""
    if "waiting" in message:
        return str(message["waiting"])
    if not message or message.get("cell") is None:
        return "starting"
    line = f"cell {message['cell'] + 1} of {message['n_cells']}"
    if fit := message.get("fit"):
        line += f", {fit['name']}: step {fit['step']} of {fit['total']}, {fit['steps_per_s']:.3g} steps/s"
    return line


def parts(messages: dict[str, Any]) -> Iterator[str]:
    """Columns of the live table: cell, step, steps/s."""
    fit = messages.get("fit") or {}
    cell = messages.get("cell")
    yield "starting" if cell is None else f"{cell + 1}/{messages['n_cells']}"
    yield f"{fit['step']}/{fit['total']}" if fit else ""
    yield f"{fit['steps_per_s']:.3g}" if fit else ""
