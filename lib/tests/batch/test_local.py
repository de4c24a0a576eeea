"""Batches on this machine: slots, threads, failures, stopping, and every fault that may hit one. Processes are real."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import alive
from reprobook import record
from reprobook.batch.plan import LocalOptions, PlanError, Resources, load
from reprobook.batch.slots import Slots, listed_gpus, slots, visible_gpus
from reprobook.batch.tasks import expand
from reprobook.batch.view import columns
from reprobook.batch.work import locked, work
from reprobook.runs.process import Progress, Stop
from reprobook.runs.runner import BusyError
from tiny_chapter import FINISH, PARAMETERS, SLUG, TRAIN, family, logistic, power_cut, wait_for

KILLS = int(os.environ.get("REPROBOOK_KILLS", "2"))  # `make test-faults` asks for the 20 of the full test
RUNS = 6 if KILLS > 2 else 4


def test_a_batch_completes_then_skips_and_reports_failures(batches: Any) -> None:
    plan = batches.seeds(3, fault="raise", more="local: {cpus: 2}")
    out = batches.run(plan, code=1)
    assert "3 runs in" in out and "2 complete, 1 failed" in out
    assert "ValueError: seed 1 is broken in cell 3 of 4 (A chapter)" in out and "| ValueError: seed 1 is broken" in out
    assert [r.status for r in batches.records()] == ["complete", "failed", "complete"]
    out = batches.run("status", plan, code=1)
    assert "3 runs: 2 complete, 1 failed" in out and "| ValueError: seed 1 is broken" in out
    before = batches.starts()
    good = batches.plan(f"runs: [{{chapters: [{SLUG}], scale: smoke, seeds: [0, 2], set: {{fault: raise}}}}]", "good")
    assert "2 skipped" in batches.run(good) and batches.starts() == before

    path = batches.folders()[0] / "record.json"  # truncated by hand: it is made again
    path.write_text(path.read_text()[: len(path.read_text()) // 2])
    assert "is cut off or not JSON" in batches.run("status", good, code=1)
    assert "1 complete, 1 skipped" in batches.run(good)
    assert [r.metrics.get("x") for r in batches.records()] == [logistic(0), None, logistic(2)]


def test_slots() -> None:
    here, large = Slots(cpus=4, gpus=[0, 1], memory_gb=10.0), Resources(cpus=3, memory_gb=6.0)
    assert here.fits(large, Resources(cpus=1, gpus=2)) and not here.fits(large, Resources(cpus=2))
    assert not here.fits(large, Resources(memory_gb=5.0)) and here.fits(large, Resources(memory_gb=4.0))
    assert not here.fits(large, Resources(gpus=2), Resources(cpus=1))
    assert here.fits(Resources(gpus=2), Resources(cpus=3)) and not here.fits(Resources(gpus=2), Resources(gpus=1))
    with pytest.raises(PlanError, match="x wants gpus: 3, but batches have 2 here"):
        here.check(Resources(gpus=3), "x")


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == [3, 5] and slots(LocalOptions(gpus=[7])).gpus == [7]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


A, B, SLICE = "GPU-8932f937-d72c", "GPU-1b5075cd-f1c2", "MIG-7d1a6c7a-3bb1"


@pytest.mark.parametrize(
    "given",
    [A, f"{A},{B}", f"{A},{A}", f"{A},0", SLICE, f"{SLICE},MIG-GPU-8932f937/1/0", f"{SLICE},{A}", "0,-1,1", "-1", "0,0",
     "1, 0", "0,,1", "0,x,1", "1gpu2,2ampere", "no", "+1", f"0,{A}"],
)  # fmt: skip
def test_gpus_of_every_name_count_as_cuda_counts_them(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    import torch

    monkeypatch.setenv("PATH", "/nonexistent")  # no nvidia-smi
    listed_gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == torch.cuda._parse_visible_devices()


MACHINE = f"""\
GPU 0: NVIDIA H200 (UUID: {A}-00)
GPU 1: NVIDIA H200 (UUID: {B}-00)
  MIG 1g.18gb     Device  0: (UUID: {SLICE}-00)
  MIG 1g.18gb     Device  1: (UUID: {SLICE}-01)
"""


def test_gpus_that_are_not_there_and_slices_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    listed = tmp_path / "nvidia-smi"
    listed.write_text(f"#!/bin/sh\ncat <<'end'\n{MACHINE}end\n")
    listed.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listed_gpus.cache_clear()
    request.addfinalizer(listed_gpus.cache_clear)
    assert visible_gpus() == [0, f"{SLICE}-00", f"{SLICE}-01"]
    for given, found in {
        "1,2,0": [1], f"{A},GPU-none,{B}": [A], f"{A},{A}-00": [], "GPU-": [], f"GPU-8,{B}": ["GPU-8", B],
    }.items():  # fmt: skip
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_gpus() == found, given
    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path))
    with locked([A], 1) as env:
        assert env == {"CUDA_VISIBLE_DEVICES": A}
        with pytest.raises(BusyError), locked([0], 1):  # the same GPU by its number
            pass
    with locked(["MIG-GPU-8932f937/1/0"], 1) as env:
        assert env == {"CUDA_VISIBLE_DEVICES": "MIG-GPU-8932f937/1/0"}


def test_gpus_of_a_plan_have_numbers_or_names(batches: Any) -> None:
    assert slots(load(batches.seeds(1, more=f"local: {{gpus: [{A}, {SLICE}, 2]}}")).local).gpus == [A, SLICE, 2]
    for wrong, message in (("x", "match pattern"), (-1, "equal to 0"), (f"{A}, {A}", "names one twice")):
        with pytest.raises(PlanError, match=message):
            load(batches.seeds(1, more=f"local: {{gpus: [{wrong}]}}"))


def test_a_gpu_has_one_run_also_between_batches(batches: Any) -> None:
    """Two batches, two GPUs (as numbers; nothing here needs the devices), runs that note where and when."""
    note = """
    with open(Path(os.environ["REPROBOOK_ROOT"]) / "gpus.log", "a") as stream:
        stream.write(f"{os.environ['CUDA_VISIBLE_DEVICES']} begin\\n")
    time.sleep(0.7)
    with open(Path(os.environ["REPROBOOK_ROOT"]) / "gpus.log", "a") as stream:
        stream.write(f"{os.environ['CUDA_VISIBLE_DEVICES']} end\\n")
    """
    batches.checkout.notebook(TRAIN, note, FINISH, parameters=PARAMETERS)
    more = "resources: {gpus: 1}\nlocal: {gpus: [4, 6], cpus: 4}"
    both = [batches.start(batches.seeds(n, name=f"p{n}", more=more, steps=n)) for n in (1, 3)]
    outs = [command.communicate(timeout=120) for command in both]
    assert [command.returncode for command in both] == [0, 0], outs
    busy: set[str] = set()
    used = set()
    for line in (batches.root / "gpus.log").read_text().splitlines():
        gpu, what = line.split()
        assert (gpu in busy) == (what == "end"), "two runs on one GPU"
        busy ^= {gpu}
        used.add(gpu)
    assert used == {"4", "6"} and busy == set()


def test_a_run_that_can_never_fit_is_an_error_at_once(batches: Any) -> None:
    out = batches.run(batches.seeds(2, more="resources: {gpus: 1}\nlocal: {gpus: []}"), code=2)
    assert "seed 0 wants gpus: 1, but batches have 0 here" in out and not (batches.root / "runs").exists()


def test_threads_follow_the_cpus_and_a_limit_ends_one_run(batches: Any) -> None:
    """Nor does what stands in the way of a run's folder stop the others."""
    group = f"chapters: [{SLUG}], scale: smoke"
    plan = batches.plan(f"""
        runs:
          - {{{group}, seeds: [0], set: {{pause_s: 60.0}}, resources: {{memory_gb: 0.01}}}}
          - {{{group}, seeds: [1], resources: {{cpus: 2}}}}
          - {{{group}, seeds: [2]}}
          - {{{group}, seeds: [3]}}
        local: {{cpus: 2}}
    """)
    tasks = expand(load(plan))
    tasks[3].folder.parent.mkdir(parents=True)
    tasks[3].folder.write_text("in the way")
    out = batches.run(plan, code=1)
    assert "memory limit of 0.01 GB reached" in out and "File exists" in out and "2 complete, 2 failed" in out
    assert [r.hardware["threads"] for r in batches.records()[1:]] == [2, 1]


def test_time_limits_are_minutes_of_a_plan(batches: Any) -> None:
    [task] = expand(load(batches.seeds(1, pause_s=60.0)))
    short = dataclasses.replace(task, resources=Resources.model_construct(minutes=8 / 60))
    end = work(short, Stop(), Progress(), gpus=[])
    assert (end.status, end.where) == ("failed", "time limit of 8 s reached in cell 3 of 4 (A chapter)")


@pytest.mark.parametrize(("number", "scale"), [(signal.SIGINT, "smoke"), (signal.SIGTERM, "laptop")])
def test_a_signal_stops_cleanly_and_a_second_call_goes_on(batches: Any, number: signal.Signals, scale: str) -> None:
    plan = batches.seeds(3, scale=scale, pause_s=0.2, every=1000, more="local: {cpus: 2}")
    command = batches.start(plan)
    kernels = batches.wait_for_kernels(2)
    time.sleep(0.5)
    command.send_signal(number)
    out, errors = command.communicate(timeout=60)
    assert command.returncode == 128 + number and "3 stopped" in out and "the same command goes on" in out, errors
    assert "3 runs: 2 interrupted, 1 not run" in batches.run("status", plan)
    assert alive(kernels) == [] and [r.status for r in batches.records()] == ["failed", "failed"]
    assert record.results(SLUG, scale) == [], "a stopped run is not published"
    assert "3 complete" in batches.run(plan)
    batches.check_complete(3)
    assert [r.hardware["resumed"] > 0 for r in batches.records()] == [True, True, False]  # saved when stopped


def test_a_second_signal_ends_at_once(batches: Any) -> None:
    deaf = """
    import signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path(out_dir, "deaf").touch()
    time.sleep(600)
    """
    batches.checkout.notebook(TRAIN, deaf, FINISH, parameters=PARAMETERS)
    command = batches.start(batches.seeds(1))
    kernels = batches.wait_for_kernels(1)
    wait_for(lambda: next((batches.root / "runs").glob("*/*/deaf"), None))
    begin = time.monotonic()
    command.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert alive(kernels)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=60)
    assert command.returncode == 130 and time.monotonic() - begin < 10
    wait_for(lambda: not alive(kernels), 20)


def test_code_that_changes_under_a_batch_is_noticed(batches: Any) -> None:
    command = batches.start(batches.seeds(2, pause_s=0.2, more="local: {cpus: 1}"))
    batches.wait_for_kernels(1)
    batches.checkout.notebook(TRAIN, "x = 2", FINISH, parameters=PARAMETERS)
    out, _ = command.communicate(timeout=120)
    assert command.returncode == 1 and "the code or the data changed after this run was planned" in out


# ------------------------------------------------------------------------------------------------ faults


def test_two_batches_of_one_plan_at_once(batches: Any) -> None:
    """Every run is executed by one of them, and both end well."""
    plan = batches.seeds(4, pause_s=0.05, more="local: {cpus: 2}")
    both = [batches.start(plan), batches.start(plan)]
    outs = [command.communicate(timeout=120) for command in both]
    assert [command.returncode for command in both] == [0, 0], outs
    batches.check_complete(4)
    assert [len(pids) for pids in batches.starts().values()] == [1] * 4


def test_sigkill_of_the_batch(batches: Any) -> None:
    """Its runs end by themselves, and the next call goes on from their checkpoints."""
    plan = batches.seeds(2, pause_s=0.15, more="local: {cpus: 2}")
    command = batches.start(plan)
    kernels = batches.wait_for_kernels(2)
    time.sleep(1.2)
    command.kill()
    command.communicate(timeout=120)
    wait_for(lambda: not alive(kernels), 40)
    batches.run(plan)
    batches.check_complete(2)
    assert max(r.hardware["resumed"] for r in batches.records()) >= 5


def test_sigkill_of_a_kernel_and_of_another_run_s_papermill(batches: Any) -> None:
    """The others of its run end by themselves, other runs go on, and the next call completes what is missing."""
    plan = batches.seeds(3, pause_s=0.15, more="local: {cpus: 3}")
    command = batches.start(plan)
    kernels = batches.wait_for_kernels(3)
    time.sleep(1.2)
    papermill = next(p for p in psutil.Process(kernels[0]).parents() if "reprobook.runs.execute" in p.cmdline())
    for pid in (papermill.pid, kernels[1]):
        os.kill(pid, signal.SIGKILL)
    out, errors = command.communicate(timeout=120)
    assert command.returncode == 1 and "1 complete, 2 failed" in out, errors
    wait_for(lambda: not alive(kernels), 40)
    assert "child process was killed (signal 9)" in out and "the kernel died in cell 3 of 4" in out
    batches.run(plan)
    batches.check_complete(3)
    assert sorted(r.hardware["resumed"] >= 5 for r in batches.records()) == [False, True, True]


def test_power_cuts_at_random_moments(batches: Any) -> None:
    """kill -9 of all processes of a batch: after a restart every run is complete once, with the same metrics."""
    moments = random.Random(os.environ.get("REPROBOOK_KILLS_SEED", "20"))
    for k in range(KILLS):
        plan = batches.seeds(RUNS, name=f"plan{k}", pause_s=0.02, steps=20 + k, more="local: {cpus: 2}")
        command = batches.start(plan, start_new_session=True)
        time.sleep(moments.uniform(0.0, 2.5 * RUNS))
        if command.poll() is None:
            everyone = [process.pid for process in family(command.pid)]
            power_cut(command.pid)
            assert alive(everyone) == []
        command.communicate()
        batches.run(plan)
        batches.check_complete(RUNS, 20 + k)
        assert f"{RUNS} skipped" in batches.run(plan)
        for folder in batches.folders():
            assert not list(folder.glob("*.tmp")), "a half-written file stayed"
        subprocess.run(["rm", "-r", str(batches.root / "runs")], check=True)


@pytest.fixture
def small_disk(batches: Any) -> Any:
    """``runs/`` on a file system of 2 MB."""
    folder = batches.root / "runs"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_fails_runs_and_a_second_call_completes_them(batches: Any, small_disk: Path) -> None:
    plan = batches.seeds(2)
    (small_disk / "ballast").write_bytes(b"x" * (2_097_152 - 3 * 4096))  # room for a few small files, not for a run
    out = batches.run(plan, code=1)
    assert "No space left on device" in out and "2 failed" in out
    (small_disk / "ballast").unlink()
    assert "2 complete" in batches.run(plan)
    batches.check_complete(2)


# ------------------------------------------------------------------------------------------------ what is shown


def test_a_training_says_its_steps() -> None:
    """What a run tells reaches lines and table (how it is told: test_faults.py of runs)."""
    steps = {"name": "main", "step": 12, "total": 80, "steps_per_s": 3.25, "left_s": 21.0, "text": "main: step 12"}
    progress = Progress(n_cells=31, cell=4, steps=steps)
    assert progress.line() == "cell 5 of 31, 0:00 (main: step 12)" and columns(progress) == ("5/31", "12/80", "3.25")
    assert Progress().line() == "starting, 0:00" and columns(Progress(n_cells=31, cell=4)) == ("5/31", "", "")


def test_the_table_on_a_terminal(batches: Any) -> None:
    """A pseudo-terminal sees runs with cells while they work, and the command's end in plain text."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "reprobook.cli", "batch", str(batches.seeds(2, pause_s=0.1))]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=env)
    os.close(theirs)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "2 complete" in out
    for words in ("steps/s", "4/5", "block_diffusion smoke seed 1", "2 running", "complete"):
        assert words in seen.decode(), words


def test_logistic_by_hand() -> None:
    assert logistic(1, 1, 2.0) == pytest.approx(0.18) and logistic(1, 2, 2.0) == pytest.approx(0.2952)


def test_a_stopped_training_saves_and_goes_on(batches: Any) -> None:
    """The real loop in a real kernel: no checkpoints but the one that the signal asks for."""
    fit = """
    import time, torch
    from pathlib import Path
    from reprobook.train import fit
    torch.set_num_threads(1)
    torch.manual_seed(0)
    here, model = Path(out_dir), torch.nn.Linear(2, 1)
    with open(here / "starts", "a") as stream:
        stream.write("0\\n")

    def batch(i):
        time.sleep(pause_s)
        (here / "step").write_text(str(i))
        return torch.full((4, 2), float(i % 3))

    history = fit(model, batch, lambda m, x: (m(x) ** 2).mean(), num_steps=20, lr=0.1, folder=here / "checkpoints",
                  checkpoint_s=None)
    state, resumed = {"x": float(model.weight.sum())}, history.resumed_from or 0
    import os
    """
    batches.checkout.notebook(fit, FINISH, parameters=PARAMETERS)
    plan = batches.seeds(1, pause_s=0.3)
    command = batches.start(plan)
    wait_for(lambda: next((batches.root / "runs").glob("*/*/step"), None), 60)
    time.sleep(1.0)
    command.terminate()
    command.communicate(timeout=60)
    batches.run(plan)
    [found] = batches.records()
    assert found.status == "complete" and 0 < found.hardware["resumed"] < 20


def test_what_a_laptop_user_types(checkout_with_plans: Any, page_commands: Any) -> None:
    """The commands of "How to run a chapter", one after the other; the tiny chapter takes the place of the book's."""
    said = [checkout_with_plans.run(*words) for words in page_commands("Many runs")]
    assert "2 runs: 0 complete, 2 to do" in said[0]
    assert "2 complete" in said[1] and "2 runs: 2 complete" in said[2]
    assert "3 runs: 0 complete, 3 to do" in said[3] and "3 complete" in said[4]
    assert "3 written, 0 already there" in said[5]
    assert len(list((checkout_with_plans.root / "book/results/laptop").iterdir())) == 3
