"""A campaign of kills: trainings and whole runs are killed at random until the count is reached, started again, and
must end with what an undisturbed one ends with, to the last bit. ``make chaos``, or
``python lib/tests/chaos.py --kills 20``.

Reports kills, losses (ended otherwise, or never) and duplicates (a step counted twice, a process that outlives its
run). Exit code 1 if there is any of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "runs")]
import fit_in_child  # noqa: E402
import psutil  # noqa: E402
import resuming  # noqa: E402
import torch  # noqa: E402
from conftest import SLUG, Checkout  # noqa: E402

SHARE_OF_RUNS = 0.2  # of the kills; a whole run takes seconds, a training a fraction of one
TRAINING_KILLS = ("at a step", "while writing", "from outside")
RUN_KILLS = ("kernel at a step", "kernel while writing", "kernel", "papermill", "command")
MOST_KILLS = 4  # in a row, of one training or run
PATIENCE_S = 90.0


@dataclass
class Campaign:
    """What happened so far."""

    rng: random.Random
    folder: Path
    kills: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.kills.items()))
        ended = ", ".join(f"{n} {kind}" for kind, n in sorted(self.ended.items()))
        found = [f"  loss: {line}" for line in self.losses] + [f"  duplicate: {line}" for line in self.duplicates]
        counts = f"{self.kills.total()} kills, {len(self.losses)} losses, {len(self.duplicates)} duplicates"
        return [counts, f"  killed: {kinds}", f"  ended: {ended}", *found]


# ------------------------------------------------------------------------------------------------ trainings


class Trainings:
    """Small trainings in processes forked from a server that has torch loaded."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign, self.count = campaign, 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["reprobook.train", "torch._dynamo"])
        self.expected = {}
        for config in sorted(fit_in_child.CONFIGS):
            assert self._live(campaign.folder / config, config) == 0
            self.expected[config] = self._outcome(campaign.folder / config)

    def one(self, left: int) -> None:
        """One training: at most ``left`` kills, then to its end."""
        rng, campaign = self.campaign.rng, self.campaign
        self.count += 1
        config, folder = rng.choice(sorted(self.expected)), campaign.folder / f"training{self.count}"
        for _ in range(min(left, rng.randint(1, MOST_KILLS))):
            kind, code = self._killed(folder, config)
            if code == 0:
                break
            campaign.kills[kind] += 1
        if self._live(folder, config) != 0:
            campaign.losses.append(f"{folder.name} ({config}) did not end")
            return
        campaign.ended["trainings"] += 1
        self._compare(folder, config)

    def _killed(self, folder: Path, config: str) -> tuple[str, int]:
        """How this process was to be killed, and its exit code (0: it was faster)."""
        rng = self.campaign.rng
        kind = rng.choice(TRAINING_KILLS)
        if kind == "at a step":
            steps = fit_in_child.NUM_STEPS * fit_in_child.CONFIGS[config].get("accumulation", 1)
            return kind, self._live(folder, config, kill_at=rng.randrange(steps))
        if kind == "while writing":
            place = rng.choice(["fsync", "replace-before", "replace-after", "bytes"])
            return kind, self._live(folder, config, f"{place}:{rng.randint(1, 9000 if place == 'bytes' else 9)}")
        return kind, self._live(folder, config, after_s=rng.uniform(0.02, 0.3))

    def _live(self, folder: Path, config: str, *fault: str, after_s: float | None = None, **options: Any) -> int:
        process = self.context.Process(
            target=fit_in_child.child, args=(folder, config, *fault), kwargs=options, daemon=True
        )
        process.start()
        process.join(timeout=PATIENCE_S if after_s is None else after_s)
        if process.exitcode is None:
            process.kill()
            process.join()
        return process.exitcode

    def _outcome(self, folder: Path) -> dict[str, Any]:
        return torch.load(folder.with_name(f"{folder.name}.outcome"), weights_only=True)

    def _compare(self, folder: Path, config: str) -> None:
        found, wanted = self._outcome(folder), self.expected[config]
        for name, rows in (("rows", found["rows"]), ("evaluations", found["evals"])):
            steps = [row["step"] for row in rows]
            if len(set(steps)) < len(steps):
                self.campaign.duplicates.append(f"{folder.name} ({config}): {name} of steps {steps}")
        same = found["model"].keys() == wanted["model"].keys() and all(
            torch.equal(value, found["model"][name]) for name, value in wanted["model"].items()
        )
        if not same or (found["rows"], found["evals"]) != (wanted["rows"], wanted["evals"]):
            self.campaign.losses.append(f"{folder.name} ({config}) ended otherwise than an undisturbed one")


# ------------------------------------------------------------------------------------------------ runs


class Runs:
    """Whole runs of a notebook by ``reprobook run``: command, papermill's process and kernel are killed."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign, self.seed = campaign, 0
        root = campaign.folder / "checkout"
        root.mkdir()
        Checkout(root).notebook(*resuming.CELLS)
        cache = str(campaign.folder / "cache")
        self.root, self.env = root, {**os.environ, "REPROBOOK_ROOT": str(root), "REPROBOOK_CACHE": cache}

    def one(self, left: int) -> None:
        """One run, at most ``left`` kills and then to its end; and the same run undisturbed, to compare."""
        campaign, rng = self.campaign, self.campaign.rng
        self.seed += 1
        for _ in range(min(left, rng.randint(1, MOST_KILLS))):
            kind = rng.choice(RUN_KILLS)
            if self._killed(kind) == 0:
                break
            campaign.kills[kind] += 1
        # a killed run that counts as complete is skipped now: if it is not, what it left differs
        expected = self._end("undisturbed")
        if expected and self._end() == expected:
            campaign.ended["runs"] += 1
        else:
            campaign.losses.append(f"seed {self.seed}: ended otherwise than an undisturbed run")

    def _killed(self, kind: str) -> int:
        """Exit code of a command whose run was killed in this way (0: it was faster); nothing of it lives on."""
        rng = self.campaign.rng
        fault = {
            "kernel at a step": str(rng.randrange(resuming.N_STEPS)),
            "kernel while writing": f"write:{rng.randint(1, 6)}",
        }.get(kind, "")
        command = self._start(fault)
        family: dict[int, psutil.Process] = {}
        end = time.monotonic() + (PATIENCE_S if fault else rng.uniform(0.5, 8.0))
        while command.poll() is None and time.monotonic() < end:
            family |= {p.pid: p for p in _children(command.pid)}
            time.sleep(0.05)
        if not fault and command.poll() is None:
            self._kill(kind, command, family)
        code = command.wait(timeout=PATIENCE_S)
        self._check_nobody_lives(family)
        return code

    def _kill(self, kind: str, command: subprocess.Popen[bytes], family: dict[int, psutil.Process]) -> None:
        parts = {"papermill": "reprobook.runs.execute", "kernel": "ipykernel_launcher"}
        wanted = [p.pid for p in family.values() if parts.get(kind, "no such part") in " ".join(_command_line(p))]
        for pid in wanted or [command.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _check_nobody_lives(self, family: dict[int, psutil.Process]) -> None:
        """A process that outlives its command would write beside the next one."""
        _, alive = psutil.wait_procs(list(family.values()), timeout=20)
        for process in alive:
            self.campaign.duplicates.append(f"seed {self.seed}: process {process.pid} lived on")
            process.kill()

    def _end(self, fault: str = "") -> str | None:
        """Digest of the outcome of a run to its end; ``undisturbed`` in a checkout of its own."""
        env = self.env
        if fault:
            root = self.campaign.folder / f"undisturbed{self.seed}"
            root.mkdir()
            Checkout(root).notebook(*resuming.CELLS)
            env = {**self.env, "REPROBOOK_ROOT": str(root)}
        else:
            root = self.root
        if self._start("", env).wait(timeout=PATIENCE_S) != 0:
            return None
        [folder] = (root / "runs" / SLUG).glob(f"smoke-seed{self.seed}-*")
        return resuming.digest(resuming.outcome(folder))

    def _start(self, fault: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "reprobook.cli", "run", SLUG, "-p", f"seed={self.seed}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env={**(env or self.env), resuming.KILL: fault}, **quiet)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


# ------------------------------------------------------------------------------------------------ the campaign


def run(kills: int, minutes: float, seed: int) -> Campaign:
    """Kill until the count or the time is reached."""
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        campaign = Campaign(random.Random(seed), Path(name))
        arms = {"runs": Runs(campaign), "trainings": Trainings(campaign)}
        told = time.monotonic()
        while (left := kills - campaign.kills.total()) > 0 and time.monotonic() < end:
            of_runs = sum(campaign.kills[kind] for kind in RUN_KILLS)
            arm = "runs" if of_runs < SHARE_OF_RUNS * (campaign.kills.total() + 1) else "trainings"
            arms[arm].one(left)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(campaign.lines()[0], flush=True)
        return campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--minutes", type=float, default=40, help="stop after this time (default: 40)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a campaign (default: another one each time)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    begin = time.monotonic()
    campaign = run(options.kills, options.minutes, seed)
    print("\n".join(campaign.lines()))
    print(f"  seed {seed}, {time.monotonic() - begin:.0f} s")
    short = campaign.kills.total() < options.kills
    if short:
        print(f"the time was over before {options.kills} kills")
    return 1 if campaign.losses or campaign.duplicates or short else 0


if __name__ == "__main__":
    sys.exit(main())
