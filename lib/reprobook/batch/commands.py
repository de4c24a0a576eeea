"""``reprobook batch``: what the command line does with a plan."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook.batch.plan import PlanError, load
from reprobook.batch.state import COMPLETE, FAILED, RUNNING, State, estimates, state
from reprobook.batch.tasks import check_locked, expand, inputs
from reprobook.project import root
from reprobook.runs.judge import TAIL_LINES, tail
from reprobook.runs.process import elapsed

if TYPE_CHECKING:
    from reprobook.batch.plan import Plan
    from reprobook.batch.slots import Slots
    from reprobook.batch.slurm import Queued
    from reprobook.batch.tasks import Task
    from reprobook.data import PlanRow

LOST = "its job ended without a record; submit again to go on"
Missing = Mapping[tuple[str, str], Mapping[str, "PlanRow"]]  # chapter and scale -> id -> what is not here yet
VERBS = ("run", "status", "cancel", "collect")


def batch(options: argparse.Namespace) -> int:
    """Do what the words say; returns the exit code."""
    verb, path = _words(options.words)
    plan = load(path)
    if options.cpus is not None:
        plan.local.cpus = options.cpus
        if options.cpus < 1:
            raise PlanError(f"--cpus is {options.cpus}; it must be at least 1")
    tasks = expand(plan)
    if verb == "status":
        return _status(plan, tasks)
    if verb == "cancel":
        return _cancel(plan, tasks)
    if verb == "collect":
        return _collect(tasks, [Path(folder) for folder in options.folders] or [root() / "runs"], options.replace)
    if options.print_script:
        from reprobook.batch.slurm import arrays, script

        print("\n".join(script(plan, wanted, len(group)) for wanted, group in arrays(plan, tasks)))
        return 0
    if options.dry_run:
        return _dry_run(plan, tasks)
    check_locked(tasks)
    return _submit(plan, tasks) if options.backend == "slurm" else _run(plan, tasks)


def _words(words: Sequence[str]) -> tuple[str, Path]:
    verb, *rest = words if len(words) == 2 else ("run", *words)
    if verb not in VERBS or len(rest) != 1:
        raise PlanError(f"cannot read {' '.join(words)!r}: write `reprobook batch [{'|'.join(VERBS)}] PLAN`")
    return verb, Path(rest[0])


# ------------------------------------------------------------------------------------------------ dry run


def _dry_run(plan: Plan, tasks: Sequence[Task]) -> int:
    from reprobook.batch.slots import slots

    found = [state(task) for task in tasks]
    usual = estimates(tasks)
    todo = [task for task, now in zip(tasks, found, strict=True) if now.name != COMPLETE]
    missing = _missing(todo)
    rows = [("run", "content", "state", "time", "GPU-hours", "to fetch", "what")]
    for task, now in zip(tasks, found, strict=True):
        costs = ("", "", "") if now.name == COMPLETE else _costs(task, usual[task.slug, task.scale], missing)
        rows.append((task.run_id, task.digest[:10], now.name, *costs, str(task)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{len(tasks)} runs: {len(tasks) - len(todo)} complete, {len(todo)} to do")
    for line in [*_needs(todo, missing), *_time(todo, usual, slots(plan.local))]:
        print(line)
    return 0


def _costs(task: Task, seconds: float | None, missing: Missing) -> tuple[str, str, str]:
    """Time, GPU-hours and bytes to fetch: "about" by earlier records, else the limit of a job."""
    from reprobook.data import readable_bytes

    limit, rows = task.resources.minutes, missing[task.slug, task.scale].values()
    how, most = ("about", seconds) if seconds else ("limit", 60.0 * limit if limit else None)
    time_of = f"{how} {elapsed(most)}" if most else "not known"
    hours = f"{how} {task.resources.gpus * most / 3600:.1f}" if most and task.resources.gpus else ""
    size = readable_bytes(sum(row.bytes or 0 for row in rows), any(row.estimated or row.bytes is None for row in rows))
    return time_of, hours or ("not known" if task.resources.gpus else "none"), size if rows else "there"


def _missing(tasks: Sequence[Task]) -> Missing:
    from reprobook.data import plan

    found: dict[tuple[str, str], dict[str, PlanRow]] = {}
    for slug, scale, overrides, _ in inputs(tasks):
        rows = {row.id: row for row in plan([slug], scale, overrides) if not row.cached}
        found.setdefault((slug, scale), {}).update(rows)
    return found


def _needs(tasks: Sequence[Task], missing: Missing) -> list[str]:
    """Data that is not here yet, and gates."""
    from reprobook.data import readable_bytes

    lines = []
    for (slug, scale), rows in missing.items():
        for row in rows.values():
            gate = ", gated: accept its terms on the hub and log in" if row.gated else ""
            lines.append(f"  {slug}, {scale}: {row.id}, {readable_bytes(row.bytes)}, licence: {row.licence}{gate}")
    if not lines:
        return ["data: all there"] if tasks else []
    return ["data to fetch first:", *lines, "with", *(f"  {command}" for *_, command in inputs(tasks))]


def _time(tasks: Sequence[Task], usual: Mapping[tuple[str, str], float | None], here: Slots) -> list[str]:
    """Hours of runs that earlier records promise, and how long they take side by side on this machine."""
    known = [(task, seconds) for task in tasks if (seconds := usual[task.slug, task.scale])]
    if not tasks:
        return []
    lines = []
    if known:
        total = sum(seconds for _, seconds in known)
        gpus = len(here.gpus) or 1
        shares = [min(1.0, max(t.resources.cpus / here.cpus, t.resources.gpus / gpus)) * s for t, s in known]
        wall = max(sum(shares), *(seconds for _, seconds in known))
        lines.append(f"time: about {elapsed(total)} of runs; here side by side at least {elapsed(wall)}")
        if hours := sum(task.resources.gpus * seconds for task, seconds in known) / 3600:
            lines.append(f"GPU-hours: about {hours:.1f}")
    if unknown := len(tasks) - len(known):
        limits = [task.resources.minutes for task in tasks if not usual[task.slug, task.scale]]
        most = f", at most {sum(filter(None, limits))} min by their limits" if all(limits) else ""
        lines.append(f"time of {unknown} runs not known: no earlier record of chapter and scale{most}")
    return lines


# ------------------------------------------------------------------------------------------------ running


def _run(plan: Plan, tasks: Sequence[Task]) -> int:
    from reprobook.batch.local import run
    from reprobook.batch.slots import slots
    from reprobook.batch.view import View, summary

    if sys.stderr.isatty():
        print(f"{len(tasks)} runs; Ctrl-C stops them, the same command goes on", file=sys.stderr)
    begin = time.monotonic()
    with View(estimates(tasks)) as view:
        done = run(tasks, slots(plan.local), view.show, view.ended)
    for line in summary(done, time.monotonic() - begin):
        print(line)
    if done.stop.signal is not None:
        return 128 + done.stop.signal
    return 1 if done.counts()["failed"] else 0


def _submit(plan: Plan, tasks: Sequence[Task]) -> int:
    from reprobook.batch import slurm

    there = slurm.queued(plan)
    now = [state(task).name for task in tasks]
    todo = [task for task, name in zip(tasks, now, strict=True) if name != COMPLETE and task.run_id not in there]
    done = slurm.submit(plan, todo)
    for job_id, task in done:
        print(f"{job_id:12}{task.run_id:28}{task}")
    complete = now.count(COMPLETE)
    print(f"{len(done)} runs submitted, {complete} complete already, {len(tasks) - len(done) - complete} in the queue")
    print("`reprobook batch status` says how they do; scripts and logs: "
          f"{slurm.folder_of(plan).relative_to(root())}")  # fmt: skip
    return 0


# ------------------------------------------------------------------------------------------------ afterwards


def _status(plan: Plan, tasks: Sequence[Task]) -> int:
    """A line per run that is not complete, failed ones with their last log lines; counts; exit code 1 if any failed."""
    from reprobook.batch import slurm

    jobs = slurm.submitted(plan)
    there = slurm.queued(plan) if jobs else {}
    known = {*jobs.values()}
    counts: dict[str, int] = {}
    for task in tasks:
        found = _state(state(task), there.get(task.run_id), task.run_id in known)
        counts[found.name] = counts.get(found.name, 0) + 1
        if found.name == COMPLETE:
            continue
        print(f"{task.run_id:28}{found.name:13}{task}" + (f": {found.where}" if found.where else ""))
        for line in _last_lines(plan, task, found):
            print(f"  | {line}")
    print(f"{len(tasks)} runs: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    return 1 if counts.get(FAILED) else 0


def _state(found: State, job: Queued | None, submitted: bool) -> State:
    """What the folder says, and Slurm's word for runs that it still has; a job that ended without a record failed."""
    if job is not None:
        place = f" on {job.node}" if job.node else f" ({job.reason})"
        return State(job.state.lower(), f"job {job.job_id}{place}")
    lost = submitted and found.name not in (COMPLETE, FAILED, RUNNING)
    return State(FAILED, LOST) if lost else found


def _last_lines(plan: Plan, task: Task, found: State) -> list[str]:
    """Of the run's log if it failed, of its job's if it works or never came so far."""
    from reprobook.batch.slurm import log_lines

    if found.name == FAILED:
        return (found.where != LOST and tail(task.folder / "log.txt")) or log_lines(plan, task.run_id, TAIL_LINES)
    return log_lines(plan, task.run_id, 1) if found.name == RUNNING else []


def _cancel(plan: Plan, tasks: Sequence[Task]) -> int:
    from reprobook.batch import slurm

    ids = slurm.cancel(plan, {task.run_id for task in tasks})
    print(f"{len(ids)} jobs cancelled" + (f": {', '.join(ids)}" if ids else ""))
    return 0


def _collect(tasks: Sequence[Task], folders: Sequence[Path], replace: bool) -> int:
    from reprobook.batch.collect import collect

    done = collect(tasks, folders, replace=replace)
    for what, names in (("written", done.written), ("already there", done.same), ("not complete", done.missing)):
        for name in names:
            print(f"{what}: {name}")
    for what, names in (("conflict", done.conflicts), ("not taken", done.refused)):
        for name in names:
            print(f"{what}: {name}", file=sys.stderr)
    print(f"{len(done.written)} written, {len(done.same)} already there, {len(done.conflicts)} conflicts, "
          f"{len(done.refused)} not taken, {len(done.missing)} not complete")  # fmt: skip
    return 1 if done.conflicts else 0
