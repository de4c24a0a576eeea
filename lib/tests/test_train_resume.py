"""Kills, signals and several processes: whatever happens, the outcome is that of the run that nothing happened to."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import fit_in_child
from fit_in_child import NUM_STEPS

CONFIGS = sorted(fit_in_child.CONFIGS)


@pytest.fixture(scope="module")
def start() -> Callable[..., BaseProcess]:
    """Starts a function of ``fit_in_child`` in a process of its own (forked from a server that has torch loaded)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reprobook.train", "torch._dynamo"])

    def start(function: Callable[..., None], *args: Any, **kwargs: Any) -> BaseProcess:
        process = context.Process(target=function, args=args, kwargs=kwargs, daemon=True)
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def run_child(start: Callable[..., BaseProcess]) -> Callable[..., int]:
    def run_child(*args: Any, **kwargs: Any) -> int:
        process = start(fit_in_child.child, *args, **kwargs)
        process.join(timeout=60)
        return process.exitcode

    return run_child


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, run_child: Callable[..., int]) -> dict[str, dict[str, Any]]:
    """What runs give that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for config in CONFIGS:
        assert run_child(folder / config, config) == 0
    return {config: outcome(folder / config) for config in CONFIGS}


def outcome(folder: Path) -> dict[str, Any]:
    return torch.load(folder.parent / f"{folder.name}.outcome", weights_only=True)


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Equal to the last bit: weights (the average, if there is one), buffers, history, evaluations."""
    assert found["model"].keys() == wanted["model"].keys()
    different = [k for k, v in wanted["model"].items() if not torch.equal(v, found["model"][k])]
    assert not different, different
    assert found["rows"] == wanted["rows"]
    assert found["evals"] == wanted["evals"]


@pytest.mark.parametrize("config", CONFIGS)
def test_killed_at_random_steps(tmp_path: Path, run_child: Callable[..., int], expected: dict, config: str) -> None:
    rng = random.Random(config)
    micro = NUM_STEPS * fit_in_child.CONFIGS[config].get("accumulation", 1)
    for n, kill_at in enumerate(rng.sample(range(micro), 20)):
        folder = tmp_path / str(n)
        assert run_child(folder, config, kill_at=kill_at) == -signal.SIGKILL
        if n % 3 == 0:  # twice in a row: the second part goes further, or dies where the first did
            second = rng.randrange(kill_at, micro)
            assert run_child(folder, config, kill_at=second) == -signal.SIGKILL
        assert run_child(folder, config) == 0
        found = outcome(folder)
        assert_same(found, expected[config])
        assert n % 3 == 0 or (found["resumed_from"] or 0) == kill_at * NUM_STEPS // micro // 3 * 3


FAULTS = [
    *(f"{kind}:{n}" for kind in ("fsync", "replace-before", "replace-after") for n in (1, 2, 5)),
    "replace-after:10",  # the rename of finished.pt: step files are still there
    *(f"bytes:{n}" for n in (1, 3000, 9000)),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_while_a_checkpoint_is_written(
    tmp_path: Path, run_child: Callable[..., int], expected: dict, fault: str
) -> None:
    folder = tmp_path / "run"
    code = run_child(folder, "ema", fault)
    assert code == (-signal.SIGXFSZ if fault.startswith("bytes") else -signal.SIGKILL)
    if not fault.startswith("replace-after") and fault != "fsync:2":  # fsync 2: the folder, after the rename
        assert list(folder.glob(".*.tmp")), "died in the middle of a write"
    assert run_child(folder, "ema") == 0
    assert_same(outcome(folder), expected["ema"])
    assert [path.name for path in folder.iterdir()] == ["finished.pt"]


def test_killed_from_outside_at_random_moments(
    tmp_path: Path, start: Callable[..., BaseProcess], expected: dict
) -> None:
    rng, kills, finished = random.Random(7), 0, 0
    while kills < 12 and finished < 60:
        folder = tmp_path / str(finished)
        while True:
            process = start(fit_in_child.child, folder, "ema", checkpoint_every=1)
            process.join(timeout=rng.uniform(0.02, 0.25))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
        finished += 1
        assert_same(outcome(folder), expected["ema"])


@pytest.mark.parametrize("size", [2000, 6000])
def test_a_full_disk_is_an_error_that_loses_nothing(
    tmp_path: Path, run_child: Callable[..., int], expected: dict, size: int
) -> None:
    folder = tmp_path / "run"
    assert run_child(folder, "ema", kill_at=8) == -signal.SIGKILL
    before = (folder / "step-00000006.pt").read_bytes()
    assert run_child(folder, "ema", f"full:{size}") == 1
    assert (tmp_path / "run.error").read_text().startswith(f"CheckpointError: cannot write checkpoint {folder}/step-0")
    assert [path.name for path in folder.iterdir()] == ["step-00000006.pt"]
    assert (folder / "step-00000006.pt").read_bytes() == before
    assert run_child(folder, "ema") == 0
    assert_same(outcome(folder), expected["ema"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_the_last_step(
    tmp_path: Path, start: Callable[..., BaseProcess], expected: dict, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    process = start(fit_in_child.slow_child, folder, "ema", pause_at=11, checkpoint_every=None, checkpoint_s=None)
    wait_for(folder.parent / "run.paused")
    assert not folder.exists() or not list(folder.iterdir())
    os.kill(process.pid, number)
    process.join(timeout=20)
    assert process.exitcode == (1 if number == signal.SIGINT else -signal.SIGTERM)
    assert [path.name for path in folder.iterdir()] == ["step-00000012.pt"], "the step that was under way is saved"
    process = start(fit_in_child.child, folder, "ema")
    process.join(timeout=30)
    assert outcome(folder)["resumed_from"] == 12
    assert_same(outcome(folder), expected["ema"])


def test_the_second_signal_stops_at_once(tmp_path: Path, start: Callable[..., BaseProcess]) -> None:
    process = start(fit_in_child.slow_child, tmp_path / "run", "ema", pause_at=11, pause_s=60.0, checkpoint_every=None)
    wait_for(tmp_path / "run.paused")
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=20)
    assert process.exitcode == 1
    assert not list((tmp_path / "run").glob("*"))


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.01)


# --- several processes


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_group(start: Callable[..., BaseProcess], folder: Path, config: str, kill_at: int | None = None) -> list[int]:
    """Exit codes of two processes; once one is dead, the other is killed as a launcher would."""
    port = free_port()
    group = [start(fit_in_child.in_group, rank, 2, port, folder, config, kill_at=kill_at) for rank in range(2)]
    while all(process.is_alive() for process in group):
        time.sleep(0.02)
    if any(process.exitcode for process in group):
        [process.kill() for process in group]
    for process in group:
        process.join(timeout=60)
    return [process.exitcode for process in group]


def test_two_processes_resume_bit_for_bit(tmp_path: Path, start: Callable[..., BaseProcess]) -> None:
    assert run_group(start, tmp_path / "whole", "ema") == [0, 0]
    ranks = [torch.load(tmp_path / f"whole.rank{r}", weights_only=True) for r in range(2)]
    trainable = [k for k in ranks[0]["model"] if "running" not in k and "num_batches" not in k]
    assert all(torch.equal(ranks[0]["model"][k], ranks[1]["model"][k]) for k in trainable)
    for kill_at in (17, 40):
        folder = tmp_path / f"killed{kill_at}"
        assert -signal.SIGKILL in run_group(start, folder, "ema", kill_at=kill_at)
        assert run_group(start, folder, "ema") == [0, 0]
        found = torch.load(tmp_path / f"{folder.name}.rank0", weights_only=True)
        assert found["resumed_from"] == kill_at // 2 // 3 * 3
        assert_same(found, ranks[0])


def test_two_launched_processes_equal_one_at_equal_global_batch(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    threads = torch.get_num_threads()
    fit_in_child.linear_model(one, accumulation=4)
    torch.set_num_threads(threads)
    launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port"]
    command = [sys.executable, "-m", *launcher, str(free_port()), fit_in_child.__file__, str(two), "2"]
    environment = {k: v for k, v in os.environ.items() if not re.match("ACCELERATE_|RANK|WORLD_SIZE", k)}
    # what `accelerate launch` adds from a user's own defaults must not win over the chapter's options
    environment |= {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_MIXED_PRECISION": "bf16"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    a, b = (torch.load(folder / "outcome", weights_only=True) for folder in (one, two))
    assert (a["processes"], b["processes"]) == (1, 2)
    for x, y in zip(a["rows"], b["rows"], strict=True):
        assert x == pytest.approx(y, rel=1e-4)
    for name in a["model"]:
        torch.testing.assert_close(a["model"][name], b["model"][name], rtol=1e-3, atol=1e-5)
