"""Several processes for one training: the real launcher, gloo on processors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from reprobook.train import TrainingError
from reprobook.train.devices import make_accelerator
from reprobook.train.launch import _run, accumulation, launch, launch_command

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def target(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launched processes find launch_target.py."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


STRATEGIES = {"ddp": {}, "fsdp": {"strategy": "fsdp", "wrap": "Linear"}}
N_WEIGHTS = 4 * 15 + 15 + 15 * 15 + 15 + 15 * 4 + 4


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one launched process finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        folder = tmp_path_factory.mktemp("alone")
        return launch("launch_target:train", {"micro_batch": 8}, folder=folder, num_processes=1, cpu=True)


@pytest.fixture(scope="module", params=STRATEGIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, Any]]:
    """Strategy, folder and findings of two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        folder, more = tmp_path_factory.mktemp(request.param), STRATEGIES[request.param]
        found = launch("launch_target:train", {"micro_batch": 8}, folder=folder, num_processes=2, cpu=True, **more)
    return request.param, folder, found


def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(
    pair: tuple[str, Path, dict[str, Any]], alone: dict[str, Any]
) -> None:
    strategy, folder, two = pair
    assert (alone["processes"], two["processes"], len(two["loss"])) == (1, 2, 12)
    for name in ("loss", "norm", "error"):
        assert two[name] == pytest.approx(alone[name], rel=1e-5)
    for ours, theirs in zip(two["weight"], alone["weight"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert alone["loss"][-1] < 0.8 * alone["loss"][0]
    # the first of two shards has 8 of 15 rows and 2 of 4
    assert two["held"] == (8 * 4 + 8 + 8 * 15 + 8 + 2 * 15 + 2 if strategy == "fsdp" else N_WEIGHTS)
    saved = torch.load(folder / "fit" / "finished.pt", weights_only=True)["model"]
    assert saved["0.weight"].tolist() == two["weight"] and "2.weight" not in saved  # whole, without frozen ones


def test_an_interrupt_saves_in_all_processes_and_the_next_call_goes_on(
    tmp_path: Path, pair: tuple[str, Path, dict[str, Any]]
) -> None:
    strategy, _, undisturbed = pair
    more = STRATEGIES[strategy]
    code = f"""
import signal
from pathlib import Path
from reprobook.train.launch import launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs without it
launch("launch_target:train", {{"micro_batch": 8, "pause_s": 0.5}}, folder=Path({str(tmp_path)!r}),
       num_processes=2, cpu=True, **{more!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (tmp_path / "step.1").exists() or int((tmp_path / "step.1").read_text() or 0) < 6:  # of 24 micro-steps
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode != 0 and not [p for p in below if p.is_running()]
    assert len(list((tmp_path / "fit").glob("step-*.pt"))) == 1 and not (tmp_path / "returned.json").exists()
    found = launch("launch_target:train", {"micro_batch": 8}, folder=tmp_path, num_processes=2, cpu=True, **more)
    assert 0 < found["resumed_from"] < 12
    assert found["weight"] == undisturbed["weight"] and found["loss"] == undisturbed["loss"]


def test_without_a_launcher_it_is_the_same_function(tmp_path: Path, alone: dict[str, Any]) -> None:
    """What a notebook would get in its own process."""
    import launch_target

    here = launch_target.train(tmp_path, micro_batch=8)
    assert alone["loss"] == pytest.approx(here["loss"], rel=1e-5)


def test_a_process_that_fails_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    """Here for a layer that the model has not."""
    said = "(?s)launch_target:train in 2 processes ended with exit code .*wrap is 'Llama'; the model has no layer of"
    with pytest.raises(TrainingError, match=f"{said} that class, but Linear, Seq"):
        launch("launch_target:train", {"micro_batch": 8}, folder=tmp_path, num_processes=2, cpu=True,
               strategy="fsdp", wrap="Llama")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "rest"),
    [({}, []), ({"strategy": "fsdp", "wrap": "LlamaDecoderLayer"}, ["LlamaDecoderLayer"]), ({"cpu": True}, [])],
)
def test_the_command_is_one_that_accelerate_understands(options: dict, rest: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    command = launch_command("a.b:train", Path("x"), 4, **options)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    call = launch_command_parser().parse_args(command[3:])
    assert (call.num_processes, call.multi_gpu, call.use_fsdp, call.module) == (4, True, False, True)
    assert (call.training_script, call.training_script_args) == ("reprobook.train.launch", ["a.b:train", "x", *rest])


def test_the_global_batch_stays() -> None:
    assert [accumulation(512, 8, n) for n in (1, 2, 8)] == [64, 32, 8]
    with pytest.raises(TrainingError, match="512 is not a multiple of 8 rows x 3 processes"):
        accumulation(512, 8, 3)


@pytest.mark.parametrize("given", ["4,2", " 4 ", "4"])
def test_threads_of_openmp_may_be_a_list(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    command = launch_command("a.b:train", Path("x"), 2)
    assert command[command.index("--num_cpu_threads_per_process") + 1] == "2"


@pytest.mark.parametrize("given", ["", "0", "many", "-3"])
def test_threads_that_are_no_number_are_the_share_of_this_process(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usual = launch_command("a.b:train", Path("x"), 1)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert launch_command("a.b:train", Path("x"), 1) == usual


LEFT_OVER = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "PMI_SIZE": "2",
             "OMPI_COMM_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}  # fmt: skip


def test_a_notebook_is_never_one_of_several_launched_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an address and a port it would wait for the others until its time limit; this port fails at once."""
    from IPython.core.interactiveshell import InteractiveShell

    for name, value in {**LEFT_OVER, "MASTER_PORT": "none"}.items():
        monkeypatch.setenv(name, value)
    InteractiveShell.instance()
    try:
        accelerator = make_accelerator("cpu", "fp32", 1)
    finally:
        InteractiveShell.clear_instance()
    assert (accelerator.num_processes, accelerator.device.type) == (1, "cpu")


def test_what_a_notebook_launches_has_no_launcher_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**LEFT_OVER, "MASTER_PORT": "29400", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "random.py").write_text("raise ImportError('the one in the working directory')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    code = "import json, os, sys; json.dump([os.environ.get(name) for name in sys.argv[1:]], open('seen', 'w'))"
    assert _run([sys.executable, "-c", f"import random; {code}", *LEFT_OVER], cpu=True) == (0, [])
    assert json.loads((tmp_path / "seen").read_text()) == [None] * len(LEFT_OVER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "zero"}, "strategy is 'zero'; it must be 'ddp' or 'fsdp'"),
        ({"strategy": "fsdp"}, "wrap is None; it names the class"),
        ({"wrap": "Linear"}, "wrap is 'Linear'"),
        ({"num_processes": 0}, "num_processes is 0; it must be at least 1"),
        ({"target": "launch_target.train"}, "write 'package.module:function'"),
    ],
)
def test_wrong_settings(tmp_path: Path, options: dict, message: str) -> None:
    target = options.pop("target", "launch_target:train")
    with pytest.raises(TrainingError, match=message):
        launch(target, {}, folder=tmp_path, cpu=True, **options)
