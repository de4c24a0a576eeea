"""The Slurm backend: job arrays through submitit, requeued with their checkpoints, asked about with squeue.

Slurm schedules; nothing here does. A job is one run: :class:`Supervisor` does it and prints a line about it now and
then; on Slurm's warning (before a time limit or at a preemption) the run saves and stops, and the job is requeued.
"""

from __future__ import annotations

import getpass
import json
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.batch.local import BUSY_S
from reprobook.batch.plan import PlanError
from reprobook.batch.work import Result, work
from reprobook.errors import ReprobookError
from reprobook.project import atomic_write, root
from reprobook.runs.judge import tail
from reprobook.runs.process import Progress, Stop, elapsed

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

    from reprobook.batch.plan import Plan, Resources
    from reprobook.batch.tasks import Task

PYTHON = f"{shlex.quote(sys.executable)} -P"  # no module of the working directory
GONE_S = 120.0  # how long `cancel` waits until no job is left


@dataclass(frozen=True)
class Queued:
    """A job that Slurm still has: its id, its state in Slurm's words, its node, and why it waits."""

    job_id: str
    state: str
    node: str
    reason: str


# ------------------------------------------------------------------------------------------------ inside a job


@dataclass
class Supervisor:
    """What submitit calls in a job. The main thread gets Slurm's signals; a thread beside it does the run."""

    grace_s: float = 20.0
    stop: Stop = field(default_factory=Stop)
    thread: threading.Thread | None = None

    def __call__(self, task: Task) -> str:
        """Do the run; returns how it ended. Raises :class:`ReprobookError` if it failed, so that the job fails too."""
        self.stop, results, begin = Stop(grace_s=self.grace_s), list[Result](), time.monotonic()
        # submitit would ignore it; at a preemption without a warning it is all the notice there is
        signal.signal(signal.SIGTERM, lambda *_: self._ask())
        print(f"{task.slug} {task.run_id}: starting", flush=True)
        self.thread = threading.Thread(target=lambda: results.append(self._work(task)))
        self.thread.start()
        self._join()
        [done] = results
        print(f"{task.run_id}: {done.status}, {elapsed(time.monotonic() - begin)}", flush=True)
        if done.status not in ("complete", "skipped"):
            raise ReprobookError("\n".join([f"{task.run_id} {done.status}: {done.where}", *done.tail]))
        return done.status

    def _work(self, task: Task) -> Result:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])  # here and below: Slurm may send it to all processes
        while (done := work(task, self.stop, Progress(sys.stdout))).status == "busy" and self.stop.signal is None:
            time.sleep(BUSY_S)
        return done

    def _ask(self) -> None:
        """Stop once: a second signal of Slurm is no haste of ours."""
        if self.stop.signal is None:
            self.stop.ask(signal.SIGTERM)

    def _join(self) -> None:
        """Wait for the thread without a lock: a signal's handler waits in the middle of the main thread's waiting."""
        while self.thread is not None and self.thread.is_alive():
            time.sleep(0.1)

    def checkpoint(self, task: Task) -> DelayedSubmission:
        """Stop the run, which saves a checkpoint, and say what the requeued job is to do: the same."""
        from submitit.core.utils import DelayedSubmission

        self._ask()
        self._join()
        return DelayedSubmission(Supervisor(self.grace_s), task)


# ------------------------------------------------------------------------------------------------ submitting


def folder_of(plan: Plan) -> Path:
    """Where a plan's submissions are kept: scripts, job logs, and ``jobs.json`` (job id -> run)."""
    return root() / "runs" / "batches" / plan.name


def settings(plan: Plan, wanted: Resources, n: int) -> dict[str, Any]:
    """submitit's parameters of an array of ``n`` runs."""
    options = plan.slurm
    found = {
        **options.model_dump(include={"partition", "account", "qos", "constraint", "exclude", "setup"}),
        "job_name": f"reprobook-{plan.name}",
        "time": wanted.minutes,
        "cpus_per_task": wanted.cpus,
        "gpus_per_node": wanted.gpus or None,
        "mem": f"{round(1000 * wanted.memory_gb)}MB" if wanted.memory_gb else None,
        "signal_delay_s": options.signal_s,
        "array_parallelism": options.at_once or n,
        "additional_parameters": {"requeue": True, **options.options},
    }
    return {name: value for name, value in found.items() if value not in (None, [])}


def script(plan: Plan, wanted: Resources, n: int) -> str:
    """The sbatch script of an array of ``n`` runs, as submitit writes it; needs no Slurm."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = folder_of(plan)
    count: dict[str, Any] = {"map_count": n} if n > 1 else {}
    command = f"{PYTHON} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return _make_sbatch_string(command, folder, **settings(plan, wanted, n), **count)


def arrays(plan: Plan, tasks: Sequence[Task]) -> Iterator[tuple[Resources, list[Task]]]:
    """Tasks that want the same, in arrays of at most ``array_size``. Slurm needs a time limit to requeue before it."""
    kinds: dict[str, list[Task]] = {}
    for task in tasks:
        if task.resources.minutes is None:
            raise PlanError(f"{task} has no time limit: Slurm wants 'minutes' in the plan's resources")
        kinds.setdefault(task.resources.model_dump_json(), []).append(task)
    size = plan.slurm.array_size
    for same in kinds.values():
        for k in range(0, len(same), size):
            yield same[0].resources, same[k : k + size]


def submit(plan: Plan, tasks: Sequence[Task]) -> list[tuple[str, Task]]:
    """Submit the tasks as arrays; returns ``(job id, task)``. What was submitted is kept at once, array by array."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    grace = max(5.0, 0.75 * plan.slurm.signal_s)  # the rest is for requeueing
    done: list[tuple[str, Task]] = []
    for wanted, group in list(arrays(plan, tasks)):
        executor = SlurmExecutor(folder_of(plan), max_num_timeout=plan.slurm.max_requeues, python=PYTHON)
        executor.update_parameters(**settings(plan, wanted, len(group)))
        try:
            jobs = executor.map_array(Supervisor(grace), group)
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            raise ReprobookError(
                f"sbatch refused an array of {len(group)} runs: {' '.join(str(error).split())}"
            ) from error
        done += [(job.job_id, task) for job, task in zip(jobs, group, strict=True)]
        _remember(plan, {**_jobs(plan), **{job_id: [task.run_id, plan.file] for job_id, task in done}})
    return done


def _remember(plan: Plan, jobs: Mapping[str, list[str]]) -> None:
    atomic_write(folder_of(plan) / "jobs.json", json.dumps(jobs, indent=1) + "\n")


def submitted(plan: Plan) -> dict[str, str]:
    """Job id -> run id of all that was ever submitted for plans of this name, oldest first."""
    return {job_id: run_id for job_id, (run_id, _) in _jobs(plan).items()}


def _jobs(plan: Plan) -> dict[str, list[str]]:
    """Job id -> run id and plan file."""
    path = folder_of(plan) / "jobs.json"
    try:
        found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return {job_id: [job, ""] if isinstance(job, str) else job for job_id, job in found.items()}
    except ValueError as error:
        raise ReprobookError(f"{path.relative_to(root())} is damaged ({error}): delete it") from error


# ------------------------------------------------------------------------------------------------ asking and cancelling


def queue() -> dict[str, Queued]:
    """Job id (``17_3`` in an array) -> this user's jobs that wait or work; asks squeue once."""
    if shutil.which("squeue") is None or shutil.which("sbatch") is None:
        raise ReprobookError("Slurm is not here: call this where squeue and sbatch are, or use --backend local")
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i|%T|%N|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        raise ReprobookError(f"squeue does not answer: {str(said).strip()}") from error
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {row[0]: Queued(*row) for row in rows if len(row) == 4}


def queued(plan: Plan) -> dict[str, Queued]:
    """Run id -> its job, for the plan's runs that Slurm still has."""
    there = queue()
    return {run_id: there[job_id] for job_id, run_id in submitted(plan).items() if job_id in there}


def cancel(plan: Plan, runs: Container[str]) -> list[str]:
    """Cancel the jobs of ``runs`` and those submitted from the plan's file before it or the code changed; wait until
    Slurm has none of them, and forget them; returns their ids. Raises :class:`ReprobookError` if there are none."""
    ours = {job_id for job_id, (run_id, file) in _jobs(plan).items() if file == plan.file or run_id in runs}
    if not ours:
        raise ReprobookError(f"plan {plan.name} has no jobs on Slurm; a local batch is stopped with Ctrl-C")
    ids = [job_id for job_id in queue() if job_id in ours]
    for k in range(0, len(ids), 500):
        subprocess.run(["scancel", *ids[k : k + 500]], check=False)
    end = time.monotonic() + GONE_S
    while ids and (left := [job_id for job_id in queue() if job_id in ids]):
        if time.monotonic() > end:
            raise ReprobookError(f"Slurm still has {', '.join(left)} after {GONE_S:g} s: look with squeue")
        time.sleep(0.5)
    _remember(plan, {job_id: job for job_id, job in _jobs(plan).items() if job_id not in ids})
    return ids


def log_lines(plan: Plan, run_id: str, n: int) -> list[str]:
    """Last lines that the newest job of a run printed, its errors after its output; [] if it never started."""
    ids = [job_id for job_id, run in submitted(plan).items() if run == run_id]
    if not ids:
        return []
    return [line for kind in ("out", "err") for line in tail(folder_of(plan) / f"{ids[-1]}_0_log.{kind}", n)][-n:]
