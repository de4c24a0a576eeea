"""Several processes for one training: the real launcher, gloo on processors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from reprobook.train import TrainingError
from reprobook.train.launch import accumulation, launch, launch_command

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def target(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launched processes find launch_target.py."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(tmp_path: Path) -> None:
    one = launch("launch_target:train", {"micro_batch": 8}, folder=tmp_path / "one", num_processes=1, cpu=True)
    two = launch("launch_target:train", {"micro_batch": 8}, folder=tmp_path / "two", num_processes=2, cpu=True)
    assert (one["processes"], two["processes"], len(two["loss"])) == (1, 2, 12)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for ours, theirs in zip(two["weight"], one["weight"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert one["loss"][-1] < 0.8 * one["loss"][0]


def test_without_a_launcher_it_is_the_same_function(tmp_path: Path) -> None:
    """What a notebook would get in its own process."""
    import launch_target

    tmp_path.joinpath("here").mkdir()
    here = launch_target.train(tmp_path / "here", micro_batch=16)
    child = launch("launch_target:train", {"micro_batch": 16}, folder=tmp_path / "child", num_processes=1, cpu=True)
    assert child["loss"] == pytest.approx(here["loss"], rel=1e-5)


def test_an_interrupt_saves_in_all_processes_and_the_next_call_goes_on(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from reprobook.train.launch import launch
launch("launch_target:train", {{"micro_batch": 8, "num_steps": 40, "pause_s": 0.1}}, folder=Path({str(tmp_path)!r}),
       num_processes=2, cpu=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (tmp_path / "step.1").exists() or int((tmp_path / "step.1").read_text() or 0) < 6:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode != 0 and not [p for p in below if p.is_running()]
    assert len(list((tmp_path / "fit").glob("step-*.pt"))) == 1 and not (tmp_path / "returned.json").exists()
    arguments = {"micro_batch": 8, "num_steps": 40}
    found = launch("launch_target:train", arguments, folder=tmp_path, num_processes=2, cpu=True)
    assert found["resumed_from"] > 0
    fresh = launch("launch_target:train", arguments, folder=tmp_path / "fresh", num_processes=2, cpu=True)
    assert found["weight"] == fresh["weight"] and found["loss"] == fresh["loss"]


def test_a_process_that_fails_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match="(?s)launch_target:broken in 2 processes .*ValueError: rank [01] is broken"
    ):
        launch("launch_target:broken", {}, folder=tmp_path, num_processes=2, cpu=True)


@pytest.mark.parametrize(
    ("options", "multi", "fsdp"),
    [
        ({}, True, False),
        ({"strategy": "fsdp", "wrap": "LlamaDecoderLayer"}, False, True),
        ({"cpu": True}, True, False),
    ],
)
def test_the_command_is_one_that_accelerate_understands(options: dict, multi: bool, fsdp: bool) -> None:
    from accelerate.commands.launch import launch_command_parser

    command = launch_command("a.b:train", Path("x"), 4, **options)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    call = launch_command_parser().parse_args(command[3:])
    assert (call.num_processes, call.multi_gpu, call.use_fsdp, call.module) == (4, multi, fsdp, True)
    assert (call.training_script, call.training_script_args) == ("reprobook.train.launch", ["a.b:train", "x"])
    assert call.fsdp_transformer_layer_cls_to_wrap == options.get("wrap")


def test_the_global_batch_stays() -> None:
    assert [accumulation(512, 8, n) for n in (1, 2, 8)] == [64, 32, 8]
    with pytest.raises(TrainingError, match="512 is not a multiple of 8 rows x 3 processes"):
        accumulation(512, 8, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "zero"}, "strategy is 'zero'; it must be 'ddp' or 'fsdp'"),
        ({"strategy": "fsdp"}, "wrap is None; it names the class"),
        ({"strategy": "fsdp", "wrap": "Linear"}, "'fsdp' needs GPUs"),
        ({"wrap": "Linear"}, "wrap is 'Linear'"),
        ({"num_processes": 0}, "num_processes is 0; it must be at least 1"),
        ({"target": "launch_target.train"}, "write 'package.module:function'"),
    ],
)
def test_wrong_settings(tmp_path: Path, options: dict, message: str) -> None:
    target = options.pop("target", "launch_target:train")
    with pytest.raises(TrainingError, match=message):
        launch(target, {}, folder=tmp_path, cpu=True, **options)
