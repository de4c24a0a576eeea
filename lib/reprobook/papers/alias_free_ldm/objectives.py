"""What is trained: the autoencoder's and the denoiser's losses with their equivariance terms (Section 3.3).

Both are modules around a network of diffusers, so that the training loop calls one forward pass (mixed precision and
several processes hook into it). Offsets are whole numbers of image pixels, one draw per batch and axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm.operators import circular_shift, cropped_shift, mask_mse, valid_mask

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.alias_free_ldm.attention import Memory

MAX_SHIFT = 0.375  # of the image side: 96 of 256 pixels (released configuration)
KL_WEIGHT = 1e-6


def draw_offset(size: Sequence[int], max_shift: float = MAX_SHIFT) -> tuple[int, int]:
    """(down, right) in image pixels, uniform over [-m, m] with m = floor(max_shift * side), from the global generator.

    ``size``: (H, W) of the image."""
    if not 0 < max_shift < 1:
        raise ReprobookError(f"max_shift must be a share of the image between 0 and 1, got {max_shift}")
    down, right = (int(torch.randint(-int(max_shift * n), int(max_shift * n) + 1, ())) for n in size)
    return down, right


def perceptual(x: Tensor, y: Tensor) -> Tensor:
    """1 - SSIM, in the place of LPIPS, whose weights are not available without a download. Images in [-1, 1].

    pytorch-msssim: a small, tested package on torch alone. Scalar in [0, 2]."""
    from pytorch_msssim import ssim

    window = min(7, (min(x.shape[-2:]) - 1) // 2 * 2 + 1)
    return 1 - ssim((x.float() + 1) / 2, (y.float() + 1) / 2, data_range=1.0, win_size=window)


class AutoencoderObjective(nn.Module):
    """MSE + 1 - SSIM + 1e-6 KL (+ L_enc + L_dec) of an ``AutoencoderKL``; images (N, 3, H, W) in [-1, 1].

    L_enc = mask_mse(E(T_D x), T_{D/k} E(x)), L_dec = mask_mse(Dec(T_{D/k} z), T_D Dec(z)), weight 1 each. Shifts are
    cropped, posterior samples stand on both sides, and only the branch of the shifted input gets gradients."""

    def __init__(self, vae: nn.Module, equivariance: bool, max_shift: float = MAX_SHIFT) -> None:
        super().__init__()
        self.vae, self.equivariance, self.max_shift = vae, equivariance, max_shift
        self.k = 2 ** (len(vae.config.block_out_channels) - 1)

    def equivariance_terms(self, x: Tensor, z: Tensor, y: Tensor, offset: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(L_enc, L_dec) for images ``x``, latents ``z`` (samples of E(x)) and reconstructions ``y`` of ``z``."""
        small = [d / self.k for d in offset]
        with torch.no_grad():
            z_moved, y_moved = cropped_shift(z, small), cropped_shift(y, offset)
        encoded = self.vae.encode(cropped_shift(x, offset)).latent_dist.sample()
        decoded = self.vae.decode(z_moved).sample
        masks = [valid_mask(t.shape[-2:], d, x.device) for t, d in ((z, small), (x, offset))]
        return mask_mse(encoded, z_moved, masks[0]), mask_mse(decoded, y_moved, masks[1])

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (N, 3, H, W) -> the loss and its parts."""
        posterior = self.vae.encode(x).latent_dist
        z = posterior.sample()
        y = self.vae.decode(z).sample
        mse = F.mse_loss(y.float(), x.float())
        total = mse + perceptual(x, y) + KL_WEIGHT * posterior.kl().mean()
        parts = {"mse": mse.detach()}
        if self.equivariance:
            enc, dec = self.equivariance_terms(x, z.detach(), y.detach(), draw_offset(x.shape[-2:], self.max_shift))
            total, parts = total + enc + dec, parts | {"L_enc": enc.detach(), "L_dec": dec.detach()}
        return total, parts


class DenoiserObjective(nn.Module):
    """Epsilon MSE (+ L_unet) of a U-Net over latents (N, C, h, w).

    L_unet = mask_mse(e(T_D z_t, t), T_D e(z_t, t)), D in latent samples, circular shifts and the mask of the cropped
    region; the target keeps its gradient. With a ``memory`` the first call stores the reference of the attention and
    the second attends to it (equivariant attention in the loss). ``k``: image pixels per latent sample."""

    def __init__(
        self, unet: nn.Module, alphas_cumprod: Tensor, equivariance: bool, memory: Memory | None = None, k: int = 4,
        max_shift: float = MAX_SHIFT,
    ) -> None:  # fmt: skip
        super().__init__()
        self.unet, self.equivariance, self.memory, self.k, self.max_shift = unet, equivariance, memory, k, max_shift
        self.register_buffer("alphas_cumprod", alphas_cumprod.clone(), persistent=False)

    def predict(self, z: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        """The U-Net's noise for ``z``; ``text`` (N, tokens, width) for a conditional one."""
        return (self.unet(z, t) if text is None else self.unet(z, t, text)).sample

    def equivariance_term(
        self, z_t: Tensor, t: Tensor, offset: Sequence[int], predicted: Tensor | None = None, text: Tensor | None = None
    ) -> Tensor:
        """L_unet at noisy latents ``z_t`` for an ``offset`` in image pixels. ``predicted``: e(z_t, t) if known
        (with a memory: and stored)."""
        shift = [d / self.k for d in offset]
        if predicted is None:
            predicted = self.reference(z_t, t, text)
        moved = circular_shift(z_t, shift)
        if self.memory is None:
            again = self.predict(moved, t, text)
        else:
            with self.memory.load():
                again = self.predict(moved, t, text)
            self.memory.clear()
        return mask_mse(again, circular_shift(predicted, shift), valid_mask(z_t.shape[-2:], shift, z_t.device))

    def reference(self, z_t: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        """e(z_t, t); its attention maps are stored if there is a memory and the loss will need them."""
        if self.memory is None or not self.equivariance:
            return self.predict(z_t, t, text)
        self.memory.clear()
        with self.memory.store():
            return self.predict(z_t, t, text)

    def forward(self, z: Tensor, text: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents (N, 4, h, w), states of their texts -> the loss and its parts."""
        t = torch.randint(len(self.alphas_cumprod), (len(z),), device=z.device)
        noise = torch.randn_like(z)
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1).to(z)
        z_t = a.sqrt() * z + (1 - a).sqrt() * noise
        predicted = self.reference(z_t, t, text)
        mse = F.mse_loss(predicted.float(), noise.float())
        if not self.equivariance:
            return mse, {}
        size = [self.k * n for n in z.shape[-2:]]
        term = self.equivariance_term(z_t, t, draw_offset(size, self.max_shift), predicted, text)
        return mse + term, {"mse": mse.detach(), "L_unet": term.detach()}
