"""How exact and how dear ideal resampling is: our two ways against the definition by zero insertion, scipy's Kaiser
FIR, and what plain diffusers does; and a training step, alias-free against vanilla."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from reprobook.bench import compare
from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm import operators as op
from reprobook.papers.alias_free_ldm.attention import cross_frame
from reprobook.papers.alias_free_ldm.data import textures
from reprobook.papers.alias_free_ldm.models import alphas_cumprod, small_vae, unet
from reprobook.papers.alias_free_ldm.objectives import AutoencoderObjective, DenoiserObjective
from reprobook.papers.alias_free_ldm.surgery import make_alias_free

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.bench import Comparison


def by_definition(x: Tensor) -> Tensor:
    """Upsampling by 2 as it is defined: insert zeros, full complex FFT, mask, inverse, times 4. For even lengths."""
    h, w = x.shape[-2:]
    sparse = x.new_zeros(*x.shape[:-2], 2 * h, 2 * w)
    sparse[..., ::2, ::2] = x
    masks = []
    for n in (h, w):
        f = (torch.fft.fftfreq(2 * n) * 2 * n).abs()
        masks.append((f < n / 2).float() + 0.5 * (f == n / 2))
    return torch.fft.ifft2(torch.fft.fft2(sparse) * masks[0][:, None] * masks[1]).real * 4


def kaiser(x: Tensor) -> Tensor:
    """Upsampling by 2 with scipy's polyphase FIR filter (``resample_poly``, Kaiser window, 41 taps), periodic ends."""
    from scipy.signal import resample_poly

    y = resample_poly(resample_poly(x.numpy(), 2, 1, axis=-2, padtype="wrap"), 2, 1, axis=-1, padtype="wrap")
    return torch.from_numpy(y)


def upsamplers(size: int = 32, batch: int = 16, repeats: int = 5) -> list[dict[str, float | str]]:
    """Per way to upsample by 2: milliseconds an image, time relative to the FFT, root mean square error against the
    continuous texture over its deviation (inner half: filters of finite length have no period).

    Asserts that both of our ways equal the definition to 1e-5."""
    sample = textures(batch, (size, size), 0.3, seed=0)
    x = sample((0, 0))
    truth = torch.stack([torch.stack([sample((-a / 2, -b / 2)) for b in (0, 1)], -1) for a in (0, 1)], -3)
    truth = truth.flatten(-2).flatten(-3, -2)  # (N, C, H, 2, W, 2) -> (N, C, 2H, 2W)
    ways = {
        "ideal, FFT": lambda: op.ideal_upsample(x, 2, "fft"),
        "ideal, matrices": lambda: op.ideal_upsample(x, 2, "matrix"),
        "ideal, by definition": lambda: by_definition(x),
        "Kaiser FIR (scipy)": lambda: kaiser(x),
        "bilinear": lambda: F.interpolate(x, scale_factor=2, mode="bilinear"),
        "nearest (diffusers)": lambda: F.interpolate(x, scale_factor=2, mode="nearest"),
    }
    made = {name: run() for name, run in ways.items()}
    for name in ("ideal, FFT", "ideal, matrices"):
        if (gap := float((made[name] - made["ideal, by definition"]).abs().max())) > 1e-5:
            raise ReprobookError(f"{name} differs from the definition by {gap:.1e}")
    # nearest and bilinear put samples half a fine pixel away: compare them where they claim to be
    late = sample((0.25, 0.25)), sample((0.25, -0.25)), sample((-0.25, 0.25)), sample((-0.25, -0.25))
    centred = torch.stack([torch.stack(late[:2], -1), torch.stack(late[2:], -1)], -3).flatten(-2).flatten(-3, -2)
    spent, inner = compare(ways, equal=None, n=repeats).medians, slice(size // 2, -size // 2)
    return [
        {
            "upsampling by 2": name,
            "ms an image": 1e3 * spent[name] / batch,
            "time / FFT": spent[name] / spent["ideal, FFT"],
            "error / deviation": float(
                (y - (centred if name.split()[0] in ("bilinear", "nearest") else truth))[..., inner, inner]
                .square().mean().sqrt() / truth.std()
            ),
        }
        for name, y in made.items()
    ]  # fmt: skip


def headline() -> Comparison:
    """Ideal upsampling by 2 of 16 images of 32 x 32: as it is defined, over ours (equal to 1e-5)."""
    x = textures(16, (32, 32), 0.3, seed=0)((0, 0))
    ways = {"by definition": lambda: by_definition(x), "ours": lambda: op.ideal_upsample(x)}
    return compare(
        ways, equal=lambda a, b: torch.allclose(a, b, rtol=0, atol=1e-5), n=21, what="ideal upsampling, 32 x 32"
    )


def training_steps(
    vae_widths: tuple[int, ...],
    unet_widths: tuple[int, ...],
    size: int,
    batch: int = 8,
    repeats: int = 3,
    groups: int = 8,
) -> dict[str, float]:
    """Seconds of forward and backward of each kind of training step, on the same batch."""
    k = 2 ** (len(vae_widths) - 1)
    x, z = torch.rand(batch, 3, size, size) * 2 - 1, torch.randn(batch, 4, size // k, size // k)
    runs: dict[str, Callable[[], object]] = {}

    def run(objective: torch.nn.Module, data: Tensor) -> Callable[[], None]:
        def step() -> None:
            objective.zero_grad(set_to_none=True)
            objective(data)[0].backward()

        return step

    for label, alias_free, loss in [("vanilla", 0, 0), ("modules", 1, 0), ("modules and loss", 1, 1)]:
        vae, net = small_vae(vae_widths, groups=groups), unet(unet_widths, size // k, groups=groups)
        if alias_free:
            make_alias_free(vae), make_alias_free(net)
        runs[f"VAE, {label}"] = run(AutoencoderObjective(vae, bool(loss)), x)
        memory = cross_frame(net) if loss else None
        runs[f"U-Net, {label}"] = run(DenoiserObjective(net, alphas_cumprod(), bool(loss), memory, k), z)
    return compare(runs, equal=None, n=repeats).medians
