"""Batches on a real Slurm: a controller and two nodes on this host (see slurm_cluster.py)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
import tiny_chapter
from processes import alive
from reprobook.batch.plan import PlanError, load
from reprobook.batch.slurm import Supervisor, arrays, script, submitted
from reprobook.batch.tasks import expand
from reprobook.cli import main
from tiny_chapter import SLUG, wait_for

needs_slurm = pytest.mark.skipif(slurm_cluster.missing() is not None, reason=str(slurm_cluster.missing()))
RESOURCES = "resources: {minutes: 5}\nslurm: {signal_s: 20}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Cluster]:
    cluster = slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(running: slurm_cluster.Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[slurm_cluster.Cluster]:
    for name, value in running.env.items():
        monkeypatch.setenv(name, value)
    yield running
    running.ask("scancel", "--user=root")
    wait_until_done(running, 60)


def wait_until_done(cluster: slurm_cluster.Cluster, seconds: float = 180.0) -> None:
    """Until Slurm has no job left."""
    wait_for(lambda: not cluster.ask("squeue", "-h").strip(), seconds, every=0.5)


@needs_slurm
def test_an_array_of_six_runs_on_two_nodes(batches: Any, cluster: slurm_cluster.Cluster) -> None:
    plan = batches.seeds(6, more=RESOURCES, pause_s=0.1)
    out = batches.run(plan, "--backend", "slurm")
    assert "6 runs submitted, 0 complete already, 0 in the queue" in out
    assert "0 runs submitted, 0 complete already, 6 in the queue" in batches.run(plan, "--backend", "slurm")
    nodes = set()

    def both() -> bool:
        nodes.update(cluster.ask("squeue", "-h", "-o", "%N").split())
        return not cluster.ask("squeue", "-h").strip()

    line = re.compile(r"running +block_diffusion smoke seed 0 .*: job \d+_0 on n[12]\n")
    wait_for(lambda: line.search(batches.run("status", plan)), 30, every=1.0)
    wait_for(both, 180, every=0.3)
    assert nodes == {"n1", "n2"}
    batches.check_complete(6)
    assert "6 runs: 6 complete" in batches.run("status", plan)
    assert "0 runs submitted, 6 complete already" in batches.run(plan, "--backend", "slurm")
    ids = submitted(load(plan))
    assert len(ids) == 6 and len({job.partition("_")[0] for job in ids}) == 1  # one array
    [text] = [path.read_text() for path in (batches.root / "runs/batches/plan").glob("*_submission.sh")]
    tasks = expand(load(plan))
    assert text.strip() == script(load(plan), tasks[0].resources, 6).strip()  # what --print-script shows
    log = (batches.root / "runs/batches/plan" / f"{next(iter(ids))}_0_log.out").read_text()
    assert f"{tasks[0].run_id}: starting" in log and f"{tasks[0].run_id}: complete" in log


@needs_slurm
def test_a_node_that_dies_during_a_run(batches: Any, cluster: slurm_cluster.Cluster) -> None:
    """Its run is requeued on the other node and goes on from its checkpoint."""
    plan = batches.seeds(1, more=RESOURCES, pause_s=0.4)
    batches.run(plan, "--backend", "slurm")
    [folder] = wait_for(lambda: [f for f in batches.folders() if (f / "checkpoints" / "state.json").exists()], 60)
    node = cluster.ask("squeue", "-h", "-o", "%N").strip()
    kernels = batches.starts()[folder.name]
    cluster.kill_node(node)
    wait_for(lambda: not alive(kernels), 5)
    wait_for(lambda: len(batches.starts()[folder.name]) == 2, 120)
    assert cluster.ask("squeue", "-h", "-t", "running", "-o", "%N").strip() != node
    wait_until_done(cluster)
    batches.check_complete(1)
    assert batches.records()[0].hardware["resumed"] >= 5
    cluster.start_node(node)
    wait_for(lambda: cluster.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", 60, every=0.5)


@needs_slurm
def test_a_run_that_hits_its_time_limit_resumes(batches: Any, cluster: slurm_cluster.Cluster) -> None:
    """Slurm's shortest limit is a minute, the run wants more: it saves on the warning and is requeued."""
    plan = batches.seeds(1, more="resources: {minutes: 1}\nslurm: {signal_s: 20}", pause_s=1.0, steps=75, every=1000)
    batches.run(plan, "--backend", "slurm")
    [job] = submitted(load(plan))
    wait_until_done(cluster, 300)
    batches.check_complete(1, 75)
    [starts] = batches.starts().values()
    assert len(starts) >= 2 and batches.records()[0].hardware["resumed"] > 0
    log = (batches.root / "runs/batches/plan" / f"{job}_0_log.out").read_text()
    assert "Job has timed out" in log and "Requeued job" in log


@needs_slurm
def test_cancel_leaves_no_process_behind(batches: Any, cluster: slurm_cluster.Cluster) -> None:
    plan = batches.seeds(6, more=RESOURCES, pause_s=30.0)
    batches.run(plan, "--backend", "slurm")
    kernels = batches.wait_for_kernels(4)  # two nodes of two processors
    node_processes = [p for node in slurm_cluster.NODES for p in cluster.node_processes(node)]
    assert len(node_processes) > 8
    assert "6 jobs cancelled" in batches.run("cancel", plan)
    wait_for(lambda: not alive(kernels), 30)
    left = [p for p in node_processes if p.is_running() and p.name() != "slurmd"]
    wait_for(lambda: not [p for p in left if p.is_running()], 30)
    assert _ours(batches.root) == []
    assert "plan plan has no jobs on Slurm" in batches.run("cancel", plan, code=2)
    states = batches.run("status", plan)
    assert "4 interrupted, 2 not run" in states or "2 not run, 4 interrupted" in states, states


def _ours(root: Path) -> list[str]:
    """Command lines of processes that work in this checkout."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("REPROBOOK_ROOT") == str(root):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [line for line in found if "reprobook" in line or "ipykernel" in line]


@needs_slurm
def test_a_failed_run_is_reported_with_its_last_lines(batches: Any, cluster: slurm_cluster.Cluster) -> None:
    plan = batches.seeds(2, more=RESOURCES, fault="raise")
    batches.run(plan, "--backend", "slurm")
    wait_until_done(cluster)
    out = batches.run("status", plan, code=1)
    assert "2 runs: 1 complete, 1 failed" in out
    assert "ValueError: seed 1 is broken in cell 3 of 4 (A chapter)" in out and "| ValueError: seed 1 is broken" in out
    failed = cluster.ask("scontrol", "show", "job", next(job for job in submitted(load(plan)) if job.endswith("_1")))
    assert "JobState=FAILED" in failed


@needs_slurm
def test_a_preempted_job_goes_on(batches: Any, cluster: slurm_cluster.Cluster) -> None:
    """`scontrol requeue` is what preemption with PreemptMode=REQUEUE does: SIGTERM, later SIGKILL, another start.

    This cluster's linuxproc sends SIGTERM to kernels too, so what was done since the last checkpoint is done again."""
    plan = batches.seeds(1, more=RESOURCES, pause_s=0.4)
    batches.run(plan, "--backend", "slurm")
    wait_for(lambda: next((batches.root / "runs").glob("*/*/checkpoints/state.json"), None), 60)
    [job] = submitted(load(plan))
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait_until_done(cluster)
    batches.check_complete(1)
    assert batches.records()[0].hardware["resumed"] >= 5


@needs_slurm
def test_what_an_sbatch_user_types(
    checkout_with_plans: Any, page_commands: Any, cluster: slurm_cluster.Cluster
) -> None:
    """The commands of "How to run a chapter"."""
    script, submit, status, cancel = page_commands("On a Slurm cluster")
    assert checkout_with_plans.run(*script).startswith("#!/bin/bash")
    assert "2 runs submitted" in checkout_with_plans.run(*submit)
    assert "2 runs: " in checkout_with_plans.run(*status)
    wait_until_done(cluster)
    assert "2 runs: 2 complete" in checkout_with_plans.run(*status)
    assert "0 jobs cancelled" in checkout_with_plans.run(*cancel)


# ------------------------------------------------------------------------------------------------ without Slurm


def test_the_script_is_readable_and_has_the_plan_s_options(batches: Any) -> None:
    plan = batches.plan(f"""
        runs:
          - {{chapters: [{SLUG}], scale: paper, seeds: [0, 1, 2]}}
        resources: {{cpus: 8, gpus: 2, memory_gb: 64, minutes: 90}}
        slurm: {{partition: gpu, account: lab, qos: high, constraint: a100, signal_s: 300, at_once: 2,
                 setup: ["module load cuda"], options: {{mail-type: END}}}}
    """)
    out = batches.run(plan, "--print-script")
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", out, re.MULTILINE))
    expected = {
        "partition": "gpu", "account": "lab", "qos": "high", "constraint": "a100", "array": "0-2%2", "time": "90",
        "cpus-per-task": "8", "gpus-per-node": "2", "mem": "64000MB", "signal": "USR2@300", "mail-type": "END",
        "job-name": "reprobook-plan",
    }  # fmt: skip
    assert {name: flags.get(name) for name in expected} == expected
    assert "#SBATCH --requeue\n" in out and "\nmodule load cuda\n" in out and "\nsrun " in out
    assert not (batches.root / "runs").exists()


def test_arrays_are_split_by_resources_and_size(batches: Any) -> None:
    plan = load(
        batches.plan(f"""
        runs:
          - {{chapters: [{SLUG}], scale: smoke, seeds: [0, 1, 2, 3, 4]}}
          - {{chapters: [{SLUG}], scale: smoke, seeds: [5], resources: {{gpus: 1}}}}
        resources: {{minutes: 5}}
        slurm: {{array_size: 2}}
    """)
    )
    found = [(wanted.gpus, [task.seed for task in group]) for wanted, group in arrays(plan, expand(plan))]
    assert found == [(0, [0, 1]), (0, [2, 3]), (0, [4]), (1, [5])]
    with pytest.raises(PlanError, match="has no time limit"):
        list(arrays(plan, expand(load(batches.seeds(1)))))


def test_without_slurm_the_error_says_so(batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    out = batches.run(batches.seeds(1, more=RESOURCES), "--backend", "slurm", code=2)
    assert "Slurm is not here: call this where squeue and sbatch are" in out
    assert "plan plan has no jobs on Slurm" in batches.run("cancel", batches.seeds(1), code=2)


SLURM = {  # as much of it as submitting, asking and cancelling need
    "sbatch": "echo $((100 + $(ls -d job-* 2>/dev/null | wc -l))) > .n; touch job-$(cat .n); "
    "echo Submitted batch job $(cat .n)",
    "squeue": 'for job in $(ls -d job-* 2>/dev/null); do echo "${job#job-}|PENDING||Priority"; '
    'echo "${job#job-}_0|PENDING||Priority"; done',
    "scancel": "for id in $@; do rm -f job-${id%_0}; done",
    "srun": "true",
}


def test_cancel_takes_the_jobs_of_its_own_plan_alone(batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of plans whose files have the same name in two folders, and after the code changed."""
    for name, text in SLURM.items():
        batches.checkout.write(f"slurm/bin/{name}", f"#!/bin/sh\ncd '{batches.root}/slurm' && {text}\n").chmod(0o755)
    monkeypatch.setenv("PATH", f"{batches.root / 'slurm' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    one, two = (
        batches.plan(f"runs: [{{chapters: [{SLUG}], scale: smoke, seeds: [{seed}]}}]\n{RESOURCES}", f"{name}/plan")
        for seed, name in enumerate(("one", "two"))
    )
    assert main(["batch", "--backend", "slurm", str(one)]) == 0
    assert main(["batch", "cancel", str(two)]) == 2, "it has none"
    assert [path.name for path in (batches.root / "slurm").glob("job-*")] == ["job-100"]
    assert main(["batch", "--backend", "slurm", str(two)]) == 0
    assert main(["batch", "cancel", str(two)]) == 0
    assert [path.name for path in (batches.root / "slurm").glob("job-*")] == ["job-100"]
    batches.checkout.notebook("x = 1", parameters=tiny_chapter.PARAMETERS)  # other code, so other run ids
    assert main(["batch", "cancel", str(one)]) == 0
    assert list((batches.root / "slurm").glob("job-*")) == []


def test_sigterm_to_the_supervisor_alone_saves(batches: Any) -> None:
    """With proctrack/cgroup only the first process of a job gets Slurm's signals."""
    code = """
import sys
from pathlib import Path
from reprobook.batch.plan import load
from reprobook.batch.slurm import Supervisor
from reprobook.batch.tasks import expand
[task] = expand(load(Path(sys.argv[1])))
Supervisor()(task)
"""
    plan = batches.seeds(1, pause_s=0.3, every=1000)
    process = subprocess.Popen([sys.executable, "-c", code, str(plan)], stderr=subprocess.PIPE, text=True)
    kernels = batches.wait_for_kernels(1)
    time.sleep(1.0)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "stopped by SIGTERM in cell 3 of 4" in errors and not alive(kernels)
    batches.run(plan)
    batches.check_complete(1)
    assert batches.records()[0].hardware["resumed"] > 0


def test_a_requeued_job_does_the_same_again(batches: Any) -> None:
    """What submitit stores for the next start has the job, and no process of this one."""
    import pickle

    [task] = expand(load(batches.seeds(1)))
    again = pickle.loads(pickle.dumps(Supervisor(grace_s=90.0).checkpoint(task)))
    assert again.args == (task,) and again.function == Supervisor(grace_s=90.0)
