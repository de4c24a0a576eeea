"""DDIM sampling and inversion, with plain or equivariant attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm.models import schedulers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.papers.alias_free_ldm.attention import Memory

Context = Callable[[int], AbstractContextManager]  # of a time step: what surrounds the network's call


def plain(_: int) -> AbstractContextManager:
    """Attention as it is."""
    return nullcontext()


@torch.no_grad()
def denoise(unet: nn.Module, z: Tensor, n_steps: int, around: Context = plain, invert: bool = False) -> Tensor:
    """``z`` (N, C, h, w) through ``n_steps`` of DDIM (eta 0): noise to latents, or with ``invert`` back to noise.

    around: ``memory.store`` lets the reference frame pass, ``memory.load`` others with its keys and values."""
    device = next(unet.parameters()).device
    scheduler = schedulers(n_steps)[1 if invert else 0]
    z = z.to(device)
    for t in scheduler.timesteps:
        with around(int(t)):
            predicted = unet(z, t.to(device)).sample
        z = scheduler.step(predicted, t, z).prev_sample
    return z.cpu()


def between(unet: nn.Module, ends: Tensor, n_frames: int, n_steps: int, memory: Memory | None = None) -> Tensor:
    """Samples (n_frames, C, h, w) on the way between two initial noises ``ends`` (2, C, h, w), both included.

    Frame a in [0, 1] starts from cos(a pi / 2) of the first and sin(a pi / 2) of the second noise, which keeps the
    variance. With a ``memory`` it attends to both ends: (1 - a) CFA(first) + a CFA(second)."""
    if ends.shape[0] != 2 or n_frames < 2:
        raise ReprobookError(f"between needs two noises and two frames at least, got {list(ends.shape)}, {n_frames}")
    if memory is not None:
        for slot in (0, 1):
            denoise(unet, ends[slot : slot + 1], n_steps, lambda t, slot=slot: memory.store(t, slot))
    frames = []
    for i in range(n_frames):
        a = i / (n_frames - 1)
        noise = math.cos(a * math.pi / 2) * ends[:1] + math.sin(a * math.pi / 2) * ends[1:]
        around = plain if memory is None else (lambda t, a=a: memory.load(t, mix=a))
        frames.append(denoise(unet, noise, n_steps, around))
    if memory is not None:
        memory.clear()
    return torch.cat(frames)
