"""CPU, GPU and memory slots of this machine: which runs may work at the same time."""

from __future__ import annotations

import functools
import os
import re
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
    """What batches may use here. ``gpus`` are numbers, as CUDA counts them, or names (UUIDs of GPUs and MIG slices)."""

    cpus: int
    gpus: list[int | str]
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


def visible_gpus() -> list[int | str]:
    """GPUs that this process may use: those of ``CUDA_VISIBLE_DEVICES`` if it is set, as CUDA counts them: up to the
    first that is of another kind or not there, none if one stands there twice; else all that nvidia-smi lists."""
    visible, there = os.environ.get("CUDA_VISIBLE_DEVICES"), listed_gpus()
    if visible is None:
        numbers: list[list[int | str]] = [[*slices] or [k] for k, (_, slices) in enumerate(there or [])]
        return [name for names in numbers for name in names]
    found: dict[int | str, int | str] = {}  # which GPU it is -> its name as given
    kind = visible[:4] if visible.startswith(("GPU-", "MIG-")) else ""
    for part in visible.split(","):
        number = re.match(r"\s*\+?(\d+)", part)
        if not (part.startswith(kind) if kind else number):
            break
        name = part if kind else int(number[1])  # type: ignore[index]
        which = gpu_number(name)
        if there is not None and kind != "MIG-" and (isinstance(which, str) or which >= len(there)):
            break
        if which in found:
            return []
        found[which] = name
    return [*found.values()]


def gpu_number(name: int | str) -> int | str:
    """Which GPU a UUID, or the beginning of one, names: its number in nvidia-smi's list; as given if that lacks it."""
    fitting = [k for k, (uuid, _) in enumerate(listed_gpus() or []) if uuid.startswith(str(name))]
    return fitting[0] if len(fitting) == 1 else name


@functools.cache
def listed_gpus() -> list[tuple[str, list[str]]] | None:
    """UUID and MIG slices of each GPU of this machine; None if nvidia-smi cannot tell."""
    if shutil.which("nvidia-smi") is None:
        return None
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    found: list[tuple[str, list[str]]] = []
    for kind, uuid in re.findall(r"^\s*(GPU|MIG) .*\(UUID: ([\w/-]+)\)", done.stdout, re.MULTILINE):
        if kind == "GPU":
            found.append((uuid, []))
        else:
            found[-1][1].append(uuid)
    return found if done.returncode == 0 else None
