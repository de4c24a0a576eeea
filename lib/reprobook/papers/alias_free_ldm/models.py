"""Small configurations of diffusers' own classes, the noise schedule, and latents of a fixed scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


def small_vae(widths: Sequence[int], layers: int = 1, groups: int = 8) -> nn.Module:
    """``AutoencoderKL`` with one level per width, 4 latent channels: k = 2 ** (levels - 1)."""
    from diffusers import AutoencoderKL

    n = len(widths)
    return AutoencoderKL(
        block_out_channels=tuple(widths), down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n, layers_per_block=layers, latent_channels=4, norm_num_groups=groups,
    )  # fmt: skip


def unet(widths: Sequence[int], size: int, head_dim: int = 8, layers: int = 1, groups: int = 8) -> nn.Module:
    """``UNet2DModel`` on latents of 4 channels, attention on all levels but the lowest, as the paper's (which has
    five levels: widths 192, 384, 384, 768, 768, head width 24, two layers, 32 groups)."""
    from diffusers import UNet2DModel

    n = len(widths) - 1
    return UNet2DModel(
        sample_size=size, in_channels=4, out_channels=4, block_out_channels=tuple(widths), layers_per_block=layers,
        down_block_types=(*("AttnDownBlock2D",) * n, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("AttnUpBlock2D",) * n), norm_num_groups=groups, attention_head_dim=head_dim,
    )  # fmt: skip


def schedulers(n_steps: int, **changes: Any) -> tuple[Any, Any]:
    """diffusers' (DDIM, inverse DDIM) schedulers of the released configuration, eta 0, ``n_steps`` calls."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    options = {**SCHEDULE, "clip_sample": False, "set_alpha_to_one": False, **changes}
    found = DDIMScheduler(**options), DDIMInverseScheduler(**options)
    for each in found:
        each.set_timesteps(n_steps)
    return found


def alphas_cumprod() -> Tensor:
    """Share of signal variance at each of the 1,000 time steps."""
    return schedulers(1)[0].alphas_cumprod


class Latents:
    """An autoencoder with latents brought to unit deviation: ``encode`` (posterior means), ``decode``, in batches."""

    def __init__(self, vae: nn.Module, sample: Tensor | None = None, scale: float | None = None, batch: int = 64):
        self.vae, self.batch, self.scale = vae.eval(), batch, 1.0
        self.scale = scale if scale is not None else 1 / float(self.encode(sample).std())

    @property
    def device(self) -> torch.device:
        """Where the autoencoder is."""
        return next(self.vae.parameters()).device

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] -> latents (N, 4, H/k, W/k), on the CPU."""
        found = [self.vae.encode(x.to(self.device)).latent_dist.mode().cpu() for x in images.split(self.batch)]
        return torch.cat(found) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The way back, clamped to [-1, 1], on the CPU."""
        found = [self.vae.decode(z.to(self.device) / self.scale).sample.cpu() for z in latents.split(self.batch)]
        return torch.cat(found).clamp(-1, 1)
