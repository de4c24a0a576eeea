"""Fully sharded data parallelism: torch's ``fully_shard`` (FSDP2), on GPUs and on processors alike.

accelerate's own FSDP wants GPUs and a plugin; ``fully_shard`` is what it calls, and with it the loop stays one.
Checkpoints hold whole tensors, gathered one at a time onto the first process: a sharded fit writes the same files as
any other, and that process needs memory for all that is trained (12 bytes a trainable weight in fp32).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from reprobook.train.options import TrainingError

if TYPE_CHECKING:
    from torch import nn

WRAP = "REPROBOOK_SHARD"  # the class of the layers that are sharded as units; set in launched processes


def shard(model: nn.Module, device: torch.device) -> bool:
    """Shard ``model`` in place over all processes, if they were launched with strategy "fsdp"; True if it was.

    Raises :class:`TrainingError` if the model has no layer of the class that the launch named.
    """
    wrap = os.environ.get(WRAP)
    if not wrap or not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layers = [module for module in model.modules() if type(module).__name__ == wrap and module is not model]
    if not layers:
        found = ", ".join(sorted({type(module).__name__ for module in model.modules()}))
        raise TrainingError(f"launch: wrap is {wrap!r}; the model has no layer of that class, but {found}")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in (*layers, model):
        fully_shard(unit, mesh=mesh)
    return True


def whole(values: Any, to: str | None = None) -> Any:
    """``values`` (tensors in lists and dicts) with every sharded tensor gathered; all processes must call it.

    ``to``: device of gathered tensors; None leaves them where they are. Off the first process what goes to "cpu" is
    dropped at once, so that at most one whole tensor is held there.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0

    def gather(value: Any) -> Any:
        if not isinstance(value, Tensor) or not hasattr(value, "full_tensor"):
            return value
        full = value.full_tensor()
        if to is None:
            return full
        return full.to(to) if first else None

    return tree_map(gather, values)


def like(value: Tensor, target: Any) -> Tensor:
    """``value``, whole on every process, spread as ``target`` is; unchanged if that is not sharded."""
    if not hasattr(target, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh = target.device_mesh
    return distribute_tensor(value.to(target.device), mesh, target.placements, src_data_rank=None)


def spread(saved: Mapping[str, Any], targets: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`like` for a state dict and the model's own."""
    return {name: like(value, targets[name]) if name in targets else value for name, value in saved.items()}


def copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Each source into its target; sharded tensors have no ``torch._foreach_copy_``."""
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
