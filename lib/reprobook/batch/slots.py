"""CPU, GPU and memory slots of this machine: which runs may work at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from reprobook.batch.plan import PlanError

if TYPE_CHECKING:
    from reprobook.batch.plan import LocalOptions, Resources


@dataclass(frozen=True)
class Slots:
    """What batches may use here. ``gpus`` are device numbers as CUDA counts them."""

    cpus: int
    gpus: list[int]
    memory_gb: float

    def fits(self, *wanted: Resources) -> bool:
        """Whether runs that want this can work side by side. Those that state no memory count as none."""
        return (
            sum(each.cpus for each in wanted) <= self.cpus
            and sum(each.gpus for each in wanted) <= len(self.gpus)
            and sum(each.memory_gb or 0.0 for each in wanted) <= self.memory_gb
        )

    def check(self, wanted: Resources, what: str) -> None:
        """Raise :class:`PlanError` if this machine can never run it."""
        for name, need, there in (
            ("cpus", wanted.cpus, self.cpus),
            ("gpus", wanted.gpus, len(self.gpus)),
            ("memory_gb", wanted.memory_gb or 0.0, self.memory_gb),
        ):
            if need > there:
                raise PlanError(
                    f"{what} wants {name}: {need:g}, but batches have {there:g} here: lower it in the plan's "
                    "resources, or raise it under 'local' if the machine has more"
                )


def slots(options: LocalOptions) -> Slots:
    """The slots that the plan's section ``local`` allows; what it leaves open is all there is."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Slots(
        options.cpus or usable,
        visible_gpus() if options.gpus is None else options.gpus,
        options.memory_gb or psutil.virtual_memory().total / 1e9,
    )


def visible_gpus() -> list[int]:
    """Numbers of the GPUs that this process may use: ``CUDA_VISIBLE_DEVICES`` if it is set, else nvidia-smi's list."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [int(part) for part in visible.split(",") if part.strip().isdigit()]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(line) for line in done.stdout.split() if line.isdigit()] if done.returncode == 0 else []
