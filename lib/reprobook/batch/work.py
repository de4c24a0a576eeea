"""One run of a batch, done in a thread of this process: what both backends do with a task."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from reprobook import project
from reprobook.batch.slots import gpu_number
from reprobook.errors import ReprobookError
from reprobook.runs.runner import BusyError, prepare, run_in

if TYPE_CHECKING:
    from reprobook.batch.tasks import Task
    from reprobook.runs.process import Progress, Stop
    from reprobook.runs.runner import RunResult

THREADS = tuple(
    f"{name}_THREADS" for name in "OMP_NUM MKL_NUM OPENBLAS_NUM NUMEXPR_NUM NUMBA_NUM VECLIB_MAXIMUM".split()
)


@dataclass
class Result:
    """How a task ended: ``complete``, ``skipped`` (complete before, or by another process), ``failed``, ``stopped``, or
    ``busy``: another process has the run or the GPUs."""

    task: Task
    status: str
    where: str = ""
    tail: list[str] = field(default_factory=list)


def work(task: Task, stop: Stop, progress: Progress, gpus: Sequence[int | str] | None = None) -> Result:
    """Do the run of a task; whatever goes wrong is a result. On Slurm ``gpus`` is None: the run takes what is visible,
    and has the job's time limit. Here ``gpus`` are candidates, and the time limit is the task's own."""
    try:
        done = _run(task, stop, progress, gpus)
    except BusyError as error:
        return Result(task, "busy", str(error))
    except ReprobookError as error:
        return Result(task, "failed", str(error))
    except OSError as error:  # a full or vanished disk: not even the record of the failure could be written
        return Result(task, "failed", f"{error.strerror or error}: {error.filename or task.slug}")
    except Exception as error:
        return Result(task, "failed", f"{type(error).__name__}: {error}", traceback.format_exc().splitlines()[-15:])
    return Result(task, "stopped" if done.signal else done.status, done.where or "", done.tail)


def _run(task: Task, stop: Stop, progress: Progress, gpus: Sequence[int | str] | None) -> RunResult:
    folder, identity, params = prepare(task.slug, task.scale, task.overrides)
    if identity["run_id"] != task.run_id:
        raise ReprobookError(
            f"{task.run_id}: the code or the data changed after this run was planned: start the batch again"
        )
    wanted = task.resources
    with locked(gpus, wanted.gpus) as env:
        return run_in(
            folder,
            identity,
            params,
            time_limit=60.0 * wanted.minutes if wanted.minutes and gpus is not None else None,
            memory_limit=wanted.memory_gb,
            env=env | dict.fromkeys(THREADS, str(wanted.cpus)),
            stop=stop,
            progress=progress,
        )


@contextmanager
def locked(gpus: Sequence[int | str] | None, n: int) -> Iterator[dict[str, str]]:
    """Environment in which a run sees ``n`` of ``gpus`` and no other GPU; each is locked until the end: a GPU has one
    run, whichever batch of this user started it. None: take what there is (on Slurm, which keeps jobs apart itself).
    Raises :class:`BusyError` if too few are free."""
    if gpus is None:
        yield {}
        return
    folder = project.cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        chosen: list[str] = []
        for gpu in gpus:
            try:
                if len(chosen) < n:
                    name = str(gpu_number(gpu)).replace("/", "_")  # a GPU has one lock, by number or by UUID
                    stack.enter_context(FileLock(folder / f"gpu-{socket.gethostname()}-{name}.lock", timeout=0))
                    chosen.append(str(gpu))
            except Timeout:
                continue
        if len(chosen) < n:
            raise BusyError(f"{n} GPUs wanted, {len(chosen)} of {len(gpus)} free: others have runs")
        yield {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}
