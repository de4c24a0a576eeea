"""Device and precision: what this machine computes well, and an Accelerator for it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import GradientAccumulationPlugin, parse_flag_from_env, patch_environment

from reprobook.errors import ReprobookError
from reprobook.hardware import bf16_is_fast

if TYPE_CHECKING:
    from torch import nn

# What launchers (torch's, accelerate's, MPI's) tell the processes that they start.
LAUNCHED = re.compile(
    "(LOCAL_|GROUP_|NODE_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|(PMI|OMPI_COMM|MV2_COMM|MPI_LOCAL|TORCHELASTIC).+"
)
MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # our names -> accelerate's


def make_accelerator(device: torch.device | str | None, precision: str, accumulation: int) -> Accelerator:
    """An Accelerator on ``device`` (None: the best there is), whatever an earlier one in this process used.

    accelerate keeps one state per process; a notebook trains several models, so precision and device start anew here.
    Raises :class:`ReprobookError` for fp16 off the GPU, and for a device of one's own among several processes."""
    state = _process_state(device)
    if precision == "auto":
        precision = "bf16" if bf16_is_fast(state.device) else "fp32"
    if precision == "fp16" and state.device.type == "cpu":
        raise ReprobookError("precision 'fp16' needs a GPU; use 'auto', 'bf16' or 'fp32' on a CPU")
    return Accelerator(
        cpu=state.device.type == "cpu",
        mixed_precision=MIXED[precision],
        # a plugin, because a launcher's environment would override the plain argument
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulation, sync_with_dataloader=False),
    )


def _process_state(device: torch.device | str | None) -> PartialState:
    """accelerate's state of this process, on ``device``; a single process starts anew, launched ones keep theirs.

    A notebook is no launched process: what a launcher left in its environment would make it wait for the others."""
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        for name in filter(LAUNCHED.fullmatch, [*os.environ]):
            del os.environ[name]
    AcceleratorState._reset_state()
    # accelerate takes CPU processes for single ones unless it is told that they are CPU processes
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes == 1 < launched:
        raise ReprobookError(
            f"launched as {launched} processes, but this one was set up alone before the first fit: "
            "make no Accelerator or PartialState of your own"
        )
    if state.num_processes > 1:
        if device is not None and not _same(torch.device(device), state.device):
            raise ReprobookError(f"device {str(device)!r}: of {launched} processes the launcher chooses it; use 'auto'")
        return state
    PartialState._reset_state()
    wanted = {} if device is None else {"accelerate_torch_device": str(device)}
    with patch_environment(**wanted):
        return PartialState(cpu=cpu if device is None else torch.device(device).type == "cpu")


def _same(wanted: torch.device, current: torch.device) -> bool:
    return wanted.type == current.type and (wanted.index is None or wanted.index == (current.index or 0))


def precision_name(accelerator: Accelerator) -> str:
    """``fp32``, ``bf16`` or ``fp16``."""
    return next(
        (ours for ours, theirs in MIXED.items() if theirs == accelerator.mixed_precision), accelerator.mixed_precision
    )


@contextmanager
def plain_forward(model: nn.Module) -> Iterator[None]:
    """Take off, at the end of the block, the autocast that accelerate puts on ``model.forward``."""
    own = model.__dict__.get("forward")
    try:
        yield
    finally:
        model.__dict__.pop("_original_forward", None)
        if own is None:
            model.__dict__.pop("forward", None)
        else:
            model.__dict__["forward"] = own
