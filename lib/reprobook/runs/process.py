"""Starting, watching and stopping the child process of a run: progress, time limit, signals, nothing left behind."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from reprobook.project import root
from reprobook.runs.training_log import VARIABLE, last_line

HEARTBEAT_S = 30.0
GRACE_S = float(os.environ.get("REPROBOOK_GRACE_S", "5"))  # what a child gets to stop its kernel and save, then: killed


@dataclass
class Outcome:
    """How a child ended. ``stopped`` says why we ended it (signal, limit), None if it ended by itself; ``error`` is
    what papermill itself ran into, such as a full disk."""

    exit_code: int = -1
    cell: int | None = None  # index of the last cell that was started
    stopped: str | None = None
    error: str | None = None
    signal: int | None = None


@dataclass
class Progress:
    """One line about a run that works: rewritten in place on a terminal, a line now and then elsewhere."""

    title: str
    n_cells: int
    log: Path | None = None  # of the run: what training said last is shown too
    stream: IO[str] = field(default_factory=lambda: sys.stderr)
    _start: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)

    def show(self, cell: int | None, *, end: bool = False) -> None:
        """Show cell ``cell`` (an index) as the one that runs."""
        now = time.monotonic()
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[K{'' if end else self.line(cell, now)}")
            self.stream.flush()
        elif now - self._last >= HEARTBEAT_S:
            self._last = now
            print(self.line(cell, now), file=self.stream, flush=True)

    def line(self, cell: int | None, now: float) -> str:
        """``title: cell 19 of 46, 3:30 (base: step 300 of 850, loss 2.1, 3.1 steps/s, 177 s left)``."""
        where = "starting" if cell is None else f"cell {cell + 1} of {self.n_cells}"
        training = last_line(self.log) if self.log else None
        return f"{self.title}: {where}, {elapsed(now - self._start)}" + (f" ({training})" if training else "")


def elapsed(seconds: float) -> str:
    """``75.2`` as ``1:15``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def execute(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    log: Path,
    progress: Progress,
    time_limit: float | None = None,
    memory_limit: float | None = None,
    env: Mapping[str, str] | None = None,
) -> Outcome:
    """Execute ``notebook`` with papermill in a child process and wait for it.

    SIGINT and SIGTERM, the end of ``time_limit`` (seconds), and more memory than ``memory_limit`` (GB of 10^9 bytes,
    looked at twice a second) stop the child and its kernel; the outcome says so.
    """
    # A socket's path may have 107 bytes, so a long TMPDIR gives way to /tmp.
    sockets = tempfile.mkdtemp(prefix="reprobook-", dir="/tmp" if os.path.isdir("/tmp") else None)
    reading, writing = os.pipe()
    job = {"notebook": str(notebook), "output": str(output), "parameters": dict(parameters), "cwd": str(root())}
    try:
        with log.open("ab") as stream, _signals() as caught:
            child = subprocess.Popen(
                [sys.executable, "-m", "reprobook.runs.execute"],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                pass_fds=[writing],
                start_new_session=True,
                env=_environment(env or {}) | {"JUPYTER_RUNTIME_DIR": sockets, VARIABLE: str(log)},
            )
            os.close(writing)
            with os.fdopen(reading, "rb", buffering=0) as pipe:
                job |= {"pipe": writing, "parent": os.getpid()}
                return _watch(child, pipe, job, caught, progress, time_limit, memory_limit)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _watch(
    child: subprocess.Popen[bytes],
    pipe: IO[bytes],
    job: Mapping[str, Any],
    caught: list[int],
    progress: Progress,
    time_limit: float | None,
    memory_limit: float | None,
) -> Outcome:
    outcome, kernels, start = Outcome(), [], time.monotonic()
    try:
        _send(child, job)
        for message in _messages(child, pipe):
            outcome.cell = message.get("cell", outcome.cell)
            outcome.error = message.get("error", outcome.error)
            kernels += [message["kernel"]] if message.get("kernel") else []
            progress.show(outcome.cell)
            if caught:
                outcome.signal = caught[0]
                outcome.stopped = f"stopped by {signal.Signals(caught[0]).name}"
            elif time_limit is not None and time.monotonic() - start > time_limit:
                outcome.stopped = f"time limit of {time_limit:g} s reached"
            elif memory_limit is not None and (used := memory_gb(child.pid)) > memory_limit:
                outcome.stopped = f"memory limit of {memory_limit:g} GB reached ({used:.2g} GB in use)"
            if outcome.stopped:
                break
    finally:
        outcome.exit_code = _end(child, kernels, patience=0.0 if outcome.stopped else 30.0)
        progress.show(outcome.cell, end=True)
    return outcome


def memory_gb(pid: int) -> float:
    """Resident memory of a process and of all that it started, in GB of 10^9 bytes; shared pages count for each."""
    import psutil

    total = 0
    with suppress(psutil.NoSuchProcess):
        root_process = psutil.Process(pid)
        for process in [root_process, *root_process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total / 1e9


def _send(child: subprocess.Popen[bytes], job: Mapping[str, Any]) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin:
        child.stdin.write(json.dumps(job).encode())


def _messages(child: subprocess.Popen[bytes], pipe: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Messages of the child until it ends; an empty one twice a second."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            ready = selector.select(timeout=0.5)
            chunk = pipe.read(65536) if ready else b""
            if ready and not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from [json.loads(line) for line in lines] or [{}]
            if not ready and child.poll() is not None:
                return


def _end(child: subprocess.Popen[bytes], kernels: list[int], patience: float) -> int:
    """Exit code of the child; one that has not ended after ``patience`` seconds is stopped, kindly first, and so is
    what an unhappy end left behind (kernel and child each lead a process group)."""
    for wait, stop in ((patience, child.terminate), (GRACE_S, child.kill)):
        try:
            child.wait(wait)
            break
        except subprocess.TimeoutExpired:
            stop()
    if child.wait() != 0:
        for group in [*kernels, child.pid]:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
    return child.returncode


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """The child's: numba follows ``OMP_NUM_THREADS``; left alone it raises the number for torch as well (UMAP does)."""
    env = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", **os.environ, **given}
    threads = env.get("OMP_NUM_THREADS", "").partition(",")[0]
    return {"NUMBA_NUM_THREADS": threads, **env} if threads else env


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them (in the main thread, where Python allows it)."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    old = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
