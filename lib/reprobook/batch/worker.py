"""One run in a process of its own: what both backends start.

``python -m reprobook.batch.worker`` reads a job (JSON) from its standard input and says on its standard output, one
JSON object a line, how the run goes (``{"cell": 4, "n_cells": 31, "fit": {...}}``) and how it ended
(``{"status": ...}``).
It runs until its parent is gone, or until SIGTERM: then the run saves a checkpoint and stops.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprobook import project
from reprobook.errors import ReprobookError
from reprobook.runs.training_log import last_steps

THREADS = tuple(
    f"{name}_THREADS" for name in "OMP_NUM MKL_NUM OPENBLAS_NUM NUMEXPR_NUM NUMBA_NUM VECLIB_MAXIMUM".split()
)
LOCK_POLL_S = 2.0


def main() -> None:
    """Execute the job of the standard input."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm may send it to all processes of a job; the job's first acts
    job = json.load(sys.stdin)
    threading.Thread(target=_stop_with_parent, args=(job["parent"],), daemon=True).start()
    try:
        message = execute(job)
    except ReprobookError as error:
        message = {"status": "failed", "where": str(error)}
    except OSError as error:  # a full or vanished disk: not even the record of the failure could be written
        message = {"status": "failed", "where": f"{error.strerror or error}: {error.filename or job['slug']}"}
    say(message)


def say(message: Mapping[str, Any]) -> None:
    """Tell the parent, if it still listens."""
    try:
        print(json.dumps(message), flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  nothing is to be flushed into the closed pipe at the end


def execute(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run the job's chapter; returns how it ended. ``busy`` means that another process has the run or the GPUs."""
    os.environ |= dict.fromkeys(THREADS, str(job["cpus"])) | {"REPROBOOK_GRACE_S": str(job["grace_s"])}
    from reprobook.runs.runner import BusyError, prepare, run_in

    folder, identity, params = prepare(job["slug"], job["scale"], job["overrides"])
    if identity["run_id"] != job["run_id"]:
        raise ReprobookError(
            f"{job['run_id']}: the code or the data changed after this run was planned: start the batch again"
        )
    while True:
        try:
            with gpus(job["gpus"], job["n_gpus"]) as env:
                options = {name: job[name] for name in ("time_limit", "memory_limit")} | {"env": env}
                result = run_in(folder, identity, params, **options, progress=lambda _, n, log: Report(n, log))
            return {"status": result.status, "where": result.where, "tail": result.tail, "signal": result.signal}
        except BusyError as error:
            if not job["wait"]:
                return {"status": "busy", "where": str(error)}
            say({"waiting": str(error)})
            time.sleep(LOCK_POLL_S)


@dataclass
class Report:
    """Says which cell runs and how far its training is, whenever one of them changed."""

    n_cells: int
    log: Path
    _said: dict[str, Any] = field(default_factory=dict)

    def show(self, cell: int | None, *, end: bool = False) -> None:
        message = {"cell": cell, "n_cells": self.n_cells, "fit": last_steps(self.log)}
        if message != self._said:
            self._said = message
            say(message)


@contextmanager
def gpus(candidates: Sequence[int] | None, n: int) -> Iterator[dict[str, str]]:
    """Environment in which a run sees ``n`` of the ``candidates`` and no other GPU; each is locked until the end.

    The lock is held by this process: a GPU has one run, whichever batch of this user started it. None: take what there
    is (on Slurm, which keeps jobs apart itself). Raises :class:`BusyError` if too few are free.
    """
    from filelock import FileLock, Timeout

    from reprobook.runs.runner import BusyError

    if candidates is None:
        yield {}
        return
    folder = project.cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        chosen: list[str] = []
        for gpu in candidates:
            try:
                if len(chosen) < n:
                    stack.enter_context(FileLock(folder / f"gpu-{socket.gethostname()}-{gpu}.lock", timeout=0))
                    chosen.append(str(gpu))
            except Timeout:
                continue
        if len(chosen) < n:
            raise BusyError(f"{n} GPUs wanted, {len(chosen)} of {len(candidates)} free: others have runs")
        yield {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}


def _stop_with_parent(parent: int) -> None:
    """Stop like after SIGTERM once the parent is gone, so that no run goes on unseen."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
