"""Starting, watching and stopping the child process of a run: progress, limits, signals, nothing left behind."""

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
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, TypedDict, Unpack

import psutil

from reprobook.errors import ReprobookError
from reprobook.hardware import openmp_threads
from reprobook.project import root
from reprobook.runs.training_log import LOG_FILE

HEARTBEAT_S = 30.0
PLACES = ("/tmp", "/var/tmp", "/dev/shm") if os.name == "posix" else (tempfile.gettempdir(),)
LONG = 60  # bytes of a place's path beside which a socket's, of 107 in all, has no room
FOLDERS = tuple(  # variables that name folders
    "REPROBOOK_ROOT REPROBOOK_CACHE REPROBOOK_LOCKS HF_HOME HF_HUB_CACHE HF_DATASETS_CACHE TMPDIR PYTHONPATH".split()
)
PACKAGE = Path(__file__).resolve().parents[1]
PROGRESS_FILE = "REPROBOOK_PROGRESS_FILE"  # variable for reprobook.train.progress, which is too heavy to import here


@dataclass
class Stop:
    """A wish that runs end: asked once, each gets ``grace_s`` to stop its kernel and save; asked again, nothing more.

    One may be shared by runs in several threads. ``signal`` is the number of the signal that asked first."""

    signal: int | None = None
    at_once: bool = False
    grace_s: float = 20.0

    def ask(self, number: int) -> None:
        """Ask, because of the signal ``number``."""
        self.at_once = self.signal is not None
        self.signal = self.signal or number


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM ask the yielded :class:`Stop` (in the main thread, where Python allows it)."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def catch(number: int, _: FrameType | None) -> None:
        stop.ask(number)

    old = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


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
    """How far a run is. ``stream`` (None: nobody) is told: in place on a terminal, a line now and then elsewhere."""

    stream: IO[str] | None = None
    title: str = ""
    n_cells: int = 0
    cell: int | None = None  # index of the cell that runs
    steps: dict[str, Any] | None = None  # what its training said last, as :mod:`reprobook.train.progress` writes it
    start: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)

    def show(self, *, end: bool = False) -> None:
        """Tell the stream; at the end a terminal's line is cleared."""
        if self.stream is None:
            return
        text, now = f"{self.title}: {self.line()}", time.monotonic()
        if self.stream.isatty():
            print(f"\r\x1b[K{'' if end else text}", end="", file=self.stream, flush=True)
        elif now - self._last >= HEARTBEAT_S:
            self._last = now
            print(text, file=self.stream, flush=True)

    def line(self) -> str:
        """``cell 19 of 46, 3:30 (base: step 300 of 850, loss 2.1, 3.1 steps/s, 177 s left)``."""
        where = "starting" if self.cell is None else f"cell {self.cell + 1} of {self.n_cells}"
        training = f" ({self.steps['text']})" if self.steps else ""
        return f"{where}, {elapsed(time.monotonic() - self.start)}{training}"


def elapsed(seconds: float) -> str:
    """``75.2`` as ``1:15``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Options(TypedDict, total=False):
    """What may be said of how a run is executed; each may be left out, or be None."""

    time_limit: float | None  # seconds
    memory_limit: float | None  # GB of 10^9 bytes, looked at twice a second
    env: Mapping[str, str] | None  # environment variables for papermill and kernel
    stop: Stop | None  # asks the run to end; without it SIGINT and SIGTERM do
    progress: Progress | None  # follows the run; without it standard error is told


def execute(
    notebook: Path, output: Path, parameters: Mapping[str, Any], log: Path, **options: Unpack[Options]
) -> Outcome:
    """Execute ``notebook`` with papermill in a child process and wait for it. A limit that is reached, or a wish to
    stop, ends the child and its kernel; the outcome says so."""
    private = private_folder()
    told = private / "progress.jsonl"
    reading, writing = os.pipe()
    job: dict[str, Any] = {"notebook": str(notebook), "output": str(output), "parameters": dict(parameters)}
    given = {"JUPYTER_RUNTIME_DIR": str(private), PROGRESS_FILE: str(told), LOG_FILE: str(log)}
    stop = options.get("stop")
    try:
        with log.open("ab") as stream, nullcontext(stop) if stop else stop_on_signals() as asked:
            child = subprocess.Popen(
                [sys.executable, "-m", "reprobook.runs.execute"],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                pass_fds=[writing],
                start_new_session=True,
                env=_environment(options.get("env") or {}) | given,
            )
            os.close(writing)
            with os.fdopen(reading, "rb", buffering=0) as pipe:
                job |= {"cwd": str(root()), "pipe": writing, "parent": os.getpid(), "package": str(PACKAGE)}
                return Watch(child, asked, options).wait(job, pipe, told)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def private_folder() -> Path:
    """A fresh folder for the sockets and the progress of one run, where files can be written: in TMPDIR, or, if its
    path is too long for sockets, rather in a usual place. Raises :class:`ReprobookError` if there is none."""
    places = [Path(place).expanduser().absolute() for place in (os.environ.get("TMPDIR"), *PLACES) if place]
    problems = []
    for place in sorted(dict.fromkeys(places), key=lambda place: len(os.fsencode(place)) > LONG):
        try:
            folder = Path(tempfile.mkdtemp(prefix="reprobook-", dir=place))
        except OSError as error:
            problems.append(f"{place} ({error.strerror})")
            continue
        try:
            (folder / "room").write_bytes(bytes(1 << 16))
            (folder / "room").unlink()
            return folder
        except OSError as error:
            problems.append(f"{place} ({error.strerror})")
            shutil.rmtree(folder, ignore_errors=True)
    raise ReprobookError(f"no folder takes temporary files: {', '.join(problems)}; set TMPDIR to one that does")


@dataclass
class Watch:
    """The child process of a run, and what may end it."""

    child: subprocess.Popen[bytes]
    stop: Stop
    options: Options
    kernels: list[int] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def wait(self, job: Mapping[str, Any], pipe: IO[bytes], told: Path) -> Outcome:
        """Give the child its job; take in what it says through ``pipe`` and its training in the file ``told``."""
        outcome, progress, n_told = Outcome(), self.options.get("progress") or Progress(sys.stderr), 0
        try:
            _send(self.child, job)
            for message in _messages(self.child, pipe):
                steps, n_told = _steps(told, n_told)
                progress.steps = steps or progress.steps
                if "cell" in message:
                    outcome.cell = progress.cell = message["cell"]
                    progress.steps = None  # of the cell before
                outcome.error = message.get("error", outcome.error)
                self.kernels += [message["kernel"]] if message.get("kernel") else []
                progress.show()
                if why := self._why_to_stop():
                    outcome.stopped, outcome.signal = why, self.stop.signal
                    break
        finally:
            outcome.exit_code = self._end(patience=0.0 if outcome.stopped else 30.0)
            progress.show(end=True)
        if outcome.exit_code and not outcome.stopped and self.stop.signal is not None:
            # Slurm signals kernel and child, too: they may be gone before this loop looked at its own wish
            outcome.stopped, outcome.signal = self._why_to_stop(), self.stop.signal
        return outcome

    def _why_to_stop(self) -> str | None:
        seconds, gigabytes = self.options.get("time_limit"), self.options.get("memory_limit")
        if self.stop.signal is not None:
            return f"stopped by {signal.Signals(self.stop.signal).name}"
        if seconds is not None and time.monotonic() - self.start > seconds:
            return f"time limit of {seconds:g} s reached"
        if gigabytes is not None and (used := memory_gb(self.child.pid)) > gigabytes:
            return f"memory limit of {gigabytes:g} GB reached ({used:.2g} GB in use)"
        return None

    def _end(self, patience: float) -> int:
        """Exit code of the child; one that has not ended after ``patience`` seconds is stopped, kindly first, and so is
        what an unhappy end left behind (kernel and child each lead a process group)."""
        child = self.child
        for seconds, act in ((patience, child.terminate), (self.stop.grace_s, child.kill)):
            end = time.monotonic() + seconds
            while child.poll() is None and time.monotonic() < end and not self.stop.at_once:
                time.sleep(0.05)
            if child.poll() is None:
                act()
        if child.wait() != 0:
            for group in [*self.kernels, child.pid]:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
        return child.returncode


def _steps(path: Path, start: int) -> tuple[dict[str, Any] | None, int]:
    """The last whole JSON line of a file from byte ``start`` on, if there is a new one, and where to go on."""
    with suppress(OSError, ValueError), path.open("rb") as stream:
        stream.seek(start)
        whole, newline, _ = stream.read().rpartition(b"\n")
        if newline:
            return json.loads(whole.rpartition(b"\n")[2]), start + len(whole) + 1
    return None, start


def memory_gb(pid: int) -> float:
    """Resident memory of a process and of all that it started, in GB of 10^9 bytes; shared pages count for each."""
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


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """The child's: numba follows ``OMP_NUM_THREADS``; left alone it raises the number for torch as well (UMAP does).
    The kernel works in the checkout, so relative folders become absolute; no folder of work is searched for modules."""
    env = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", **os.environ, **given, "PYTHONSAFEPATH": "1"}
    for name in FOLDERS:
        if env.get(name):
            parts = filter(None, env[name].split(os.pathsep))
            env[name] = os.pathsep.join(str(Path(part).expanduser().absolute()) for part in parts)
    threads = openmp_threads(env)
    return {"NUMBA_NUM_THREADS": str(threads), **env} if threads else env
