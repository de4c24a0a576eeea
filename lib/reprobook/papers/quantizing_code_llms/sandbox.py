"""Runs code that a model wrote: Python functions that the caller calls from outside, and whole programs.

Tests never enter the sandbox. The caller's process holds them and asks the confined one for single values, which come
back as plain data; so nothing that the foreign code patches, prints or exits with can turn a wrong value into a right
one. :func:`guarantees` says on what each limit rests on this machine.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from reprobook.errors import ReprobookError
from reprobook.papers.quantizing_code_llms import guest

if TYPE_CHECKING:
    import pandas as pd

LATE, REFUSED = 124, 70  # exit codes of the confining process
SHOWN = 2_000  # characters of output that are kept
_SOURCE = (guest.encode, guest.decode, guest.confine, guest.refuse_by_audit, guest.serve, guest.main)


@dataclass(frozen=True)
class Limits:
    """Of one candidate: seconds on the wall and of the processor, megabytes of memory of each process, of files and
    output in all, number of processes, and kilobytes of one returned value."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_mb: int = 512
    file_mb: int = 4
    processes: int = 16
    reply_kb: int = 1_000

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ReprobookError(f"{name} is {value}; a limit must be above 0")


LIMITS = Limits()


class StoppedError(Exception):
    """The foreign code ended before it answered: out of time, killed, gone, or it said too much."""


class RaisedError(Exception):
    """The foreign code raised an exception; the text is its name and message."""


class Guest:
    """Confined Python code whose functions can be called: ``with Guest(code) as guest: guest.call("f", 1)``.

    Raises :class:`StoppedError` or :class:`RaisedError` for what the code does wrong, also when it is opened, and
    :class:`ReprobookError` if the sandbox cannot be built."""

    def __init__(self, code: str, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._open = contextlib.ExitStack()
        self._log = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  closed with the stack
        self._process = self._open.enter_context(_start(limits, self._log, isolation(), folder=self._folder()))
        self._open.callback(self._stop)
        try:
            self._ask("", code)
        except BaseException:
            self._open.close()
            raise

    def _folder(self) -> str:
        """A temporary folder where there is no mount namespace; its owner is the foreign code's."""
        return "" if isolation() == "namespaces" else _own_folder(self._open)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def call(self, name: str, *arguments: Any) -> Any:
        """What function ``name`` of the code returns for plain arguments, as plain data."""
        return guest.decode(self._ask(name, arguments))

    def output(self) -> str:
        """The beginning of what the code printed."""
        return _beginning(self._log)

    def _ask(self, name: str, argument: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        line, most = b"", 1000 * self._limits.reply_kb
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(repr((name, argument)).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline(most)
        if not line.endswith(b"\n"):
            raise StoppedError("its answer is too long" if len(line) == most else self._ended())
        try:
            answer = json.loads(line)
            if "error" not in answer:
                return answer["value"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise StoppedError("it wrote something else than an answer") from None
        raise RaisedError(str(answer["error"]))

    def _ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # the confining process is about to see it, too
        code = self._stop()
        if code == REFUSED:
            raise ReprobookError(f"the sandbox could not be built: {self.output()}")
        return "out of time" if code == LATE else f"the process ended ({code})"

    def _stop(self) -> int:
        self._process.terminate()
        return self._process.wait()


class Finished(NamedTuple):
    """How a program ended: its exit code (:data:`LATE`: out of time) and the beginning of its output."""

    code: int
    output: str


def run_program(program: Sequence[str], files: Mapping[str, str], limits: Limits) -> Finished:
    """Run ``program`` (absolute path and arguments) confined, in a folder that holds ``files`` (name -> text). Memory
    is counted as data, since a Java machine reserves more addresses than it uses. Needs namespaces."""
    if isolation() != "namespaces":
        raise ReprobookError("programs run with Linux namespaces alone; this machine does not allow them")
    with (
        tempfile.TemporaryFile() as log,
        _start(limits, log, "namespaces", program=program, files=files, memory_kind="DATA") as process,
    ):
        try:
            code = process.wait(limits.wall_s + 10)
        finally:
            process.terminate()
        text = _beginning(log)
    if code == REFUSED:
        raise ReprobookError(f"the sandbox could not be built: {text}")
    return Finished(code, text)


@functools.cache
def isolation() -> str:
    """``namespaces`` where Linux lets us make them (as root, or by user namespaces), else ``audit``: see
    :func:`guarantees`. Raises :class:`ReprobookError` where neither works."""
    told = ""
    for kind in ("namespaces", "audit"):
        with contextlib.ExitStack() as stack:
            log, folder = stack.enter_context(tempfile.TemporaryFile()), _own_folder(stack)
            process = stack.enter_context(_start(LIMITS, log, kind, folder=folder))
            answer, _ = process.communicate(b"('', 'import decimal')\n")
            if answer.startswith(b'{"value"'):
                return kind
            told = answer.decode() + _beginning(log)
    raise ReprobookError(f"no sandbox can be built on this machine: {told.strip()}")


def guarantees() -> pd.DataFrame:
    """What is kept from foreign code on this machine, and by what."""
    import pandas as pd

    walls, root = isolation() == "namespaces", os.geteuid() == 0
    other = "a user id that owns nothing" if root else "no capabilities"
    told = {
        "network": "own network namespace, without a device" if walls else "audit hook on Python's own sockets",
        "files": f"all mounts read-only, {other}; an own tmpfs of limited size" if walls
        else f"{other if root else 'audit hook on Python functions'}; a temporary folder",
        "processes": "own process namespace, ends as a whole; RLIMIT_NPROC" if walls else "none: RLIMIT_NPROC is 0",
        "memory": "RLIMIT_AS of each process (programs: RLIMIT_DATA)",
        "time": "RLIMIT_CPU; a clock outside kills",
        "output": "a file under RLIMIT_FSIZE; length of a reply",
        "tests": "held by the caller's process; values come back as JSON",
    }  # fmt: skip
    return pd.DataFrame({"what": list(told), "by": list(told.values())})


def _start(
    limits: Limits, log: IO[bytes], kind: str, *, folder: str = "", program: Sequence[str] = (),
    files: Mapping[str, str] | None = None, memory_kind: str = "AS",
) -> subprocess.Popen[bytes]:  # fmt: skip
    """The confining process, in its own session, with an empty environment."""
    walls = kind == "namespaces"
    settings = {
        **asdict(limits), "namespaces": walls, "folder": folder, "program": list(program), "files": dict(files or {}),
        "memory_kind": memory_kind, "owner": _owner(), "processes": limits.processes if walls else 0,
    }  # fmt: skip
    interpreter = getattr(sys, "_base_executable", sys.executable)
    return subprocess.Popen(
        [interpreter, "-I", "-S", "-B", "-X", "utf8", "-c", _source(), repr(settings)], stdin=subprocess.PIPE,
        stdout=log if program else subprocess.PIPE, stderr=log, cwd="/", env={}, start_new_session=True,
    )  # fmt: skip


@functools.cache
def _source() -> str:
    parts = [inspect.getsource(each) for each in _SOURCE]
    return "\n\n".join(["from __future__ import annotations", *parts, "main()"])


_COUNT = iter(range(1 << 62))


def _owner() -> int:
    """A user id that owns nothing, another one for each candidate: RLIMIT_NPROC counts by user."""
    return 50_000 + (os.getpid() + next(_COUNT)) % 10_000


def _own_folder(stack: contextlib.ExitStack) -> str:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    os.chmod(folder, 0o777)  # noqa: PTH101  the foreign code may run as another user
    return folder


def _beginning(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read(4 * SHOWN).decode(errors="replace")[:SHOWN]
