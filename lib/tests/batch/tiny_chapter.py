"""Batches of a tiny chapter that saves checkpoints, and whose result is known in closed form."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from reprobook import record

SLUG = "block_diffusion"
PARAMETERS = """\
scale = "smoke"  # smoke, laptop or paper
seed = 0  # seed of everything random
device = "auto"  # auto, cpu or cuda
out_dir = ""  # folder of this run; empty: a fresh one
rate = 3.9  # of the logistic map
steps = 20  # number of steps
pause_s = 0.0  # seconds of a step
every = 5  # steps between checkpoints
fault = "none"  # what goes wrong
"""
TRAIN = """
import json, os, time
from pathlib import Path

here = Path(out_dir)
(here / "checkpoints").mkdir(exist_ok=True)
with open(here / "starts", "a") as stream:
    stream.write(f"{os.getpid()}\\n")
saved = here / "checkpoints" / "state.json"
state = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "x": (seed + 1) / 20}


def save():
    saved.with_suffix(".tmp").write_text(json.dumps(state))
    os.replace(saved.with_suffix(".tmp"), saved)


try:
    resumed = state["step"]
    while state["step"] < steps:
        time.sleep(pause_s)
        if fault == "raise" and seed == 1:
            raise ValueError("seed 1 is broken")
        state = {"step": state["step"] + 1, "x": rate * state["x"] * (1 - state["x"])}
        if state["step"] % every == 0:
            save()
except KeyboardInterrupt:
    save()
    raise
"""
FINISH = """
from reprobook.record import Record, commit, write
from reprobook.content.key import content_key, run_id

names = dict(scale=scale, seed=seed, device=device, rate=rate, steps=steps, pause_s=pause_s,
             every=every, fault=fault)
key = content_key("block_diffusion", names, {})
threads, gpus = int(os.environ["OMP_NUM_THREADS"]), os.environ.get("CUDA_VISIBLE_DEVICES", "")
write(Record(slug="block_diffusion", scale=scale, seed=seed, status="complete", content=key, params=names,
             run_id=run_id("block_diffusion", scale, seed, names, key), commit=commit()[0], clean=commit()[1],
             metrics={"x": state["x"]}, hardware={"threads": threads, "gpus": gpus, "resumed": resumed},
             wall_s=2.0), here / "record.json")
"""


def logistic(seed: int, steps: int = 20, rate: float = 3.9) -> float:
    """What the chapter measures."""
    x = (seed + 1) / 20
    for _ in range(steps):
        x = rate * x * (1 - x)
    return x


class Batches:
    """A checkout with the tiny chapter, and the command."""

    def __init__(self, checkout: Any) -> None:
        self.checkout, self.root = checkout, checkout.root
        checkout.notebook(TRAIN, FINISH, parameters=PARAMETERS)

    def plan(self, text: str, name: str = "plan") -> Path:
        return self.checkout.write(f"{name}.yaml", textwrap.dedent(text))

    def seeds(self, n: int, *, scale: str = "smoke", name: str = "plan", more: str = "", **given: Any) -> Path:
        """A plan of ``n`` runs that differ in their seed."""
        return self.plan(
            f"runs: [{{chapters: [{SLUG}], scale: {scale}, seeds: {list(range(n))}, set: {given}}}]\n{more}", name
        )

    def start(self, *words: Any, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "reprobook.cli", "batch", *map(str, words)]
        return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def run(self, *words: Any, code: int = 0) -> str:
        """Standard output and error of the command, which must end with ``code``."""
        command = self.start(*words)
        out, errors = command.communicate(timeout=240)
        assert command.returncode == code, f"exit code {command.returncode}\n{out}\n{errors}"
        assert "Traceback" not in errors, errors
        return out + errors

    def folders(self) -> list[Path]:
        return sorted(path for path in (self.root / "runs" / SLUG).glob("*-seed*") if path.is_dir())

    def records(self) -> list[record.Record]:
        """All records, by seed; there must be one in every run folder."""
        found = [record.read(folder / "record.json") for folder in self.folders()]
        return sorted(found, key=lambda each: each.seed)

    def starts(self) -> dict[str, list[int]]:
        """Run id -> process ids of the kernels that ever worked on it."""
        return {f.name: [int(p) for p in (f / "starts").read_text().split()] for f in self.folders()}

    def wait_for_kernels(self, n: int) -> list[int]:
        """Process ids of the first ``n`` kernels that work."""
        return wait_for(lambda: len(pids := _pids(self.root)) >= n and pids, 60)

    def check_complete(self, seeds: int, steps: int = 20) -> None:
        """Every run of the plan is complete exactly once, and measured what the closed form says."""
        found = self.records()
        assert [(r.seed, r.status) for r in found] == [(seed, "complete") for seed in range(seeds)]
        assert [r.metrics["x"] for r in found] == [logistic(seed, steps) for seed in range(seeds)]


def _pids(root: Path) -> list[int]:
    files = (root / "runs" / SLUG).glob("*/starts")
    return [int(pid) for file in files for pid in file.read_text().split()]


def wait_for(condition: Callable[[], Any], seconds: float = 30.0, every: float = 0.05) -> Any:
    """The first true value of ``condition``, asked ``every`` so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError("nothing happened in time")


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def power_cut(pid: int) -> None:
    """Kill a process and all below it at one moment: first nobody can start another, then all die."""
    processes = family(pid)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in {*processes, *family(pid)} if number == signal.SIGSTOP else processes:
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue
        processes = list({*processes, *family(pid)}) if number == signal.SIGSTOP else processes
    psutil.wait_procs(processes, timeout=10)
