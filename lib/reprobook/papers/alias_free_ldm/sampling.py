"""DDIM sampling and inversion, with plain or equivariant attention."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from reprobook.papers.alias_free_ldm.models import schedulers

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
