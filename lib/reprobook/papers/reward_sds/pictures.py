"""The figures of the chapter."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import denoise, signal_noise
from reprobook.papers.reward_sds.digits import SIDE
from reprobook.papers.reward_sds.exact import two_modes
from reprobook.papers.reward_sds.losses import sds
from reprobook.papers.reward_sds.weighting import weights

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from reprobook.papers.reward_sds.weighting import Scheme


def idea(x: float = 0.0, t: int = 400, n: int = 10, scheme: Scheme = "two best and two worst", seed: int = 1) -> Figure:
    """One iteration on the exact mixture: the picture (one number), its noisy candidates, what each is denoised to, and
    the weight that the reward (further right is better) gives it."""
    if not 0 <= t < 1000:
        raise ReprobookError(f"t is {t}; it must be from 0 to 999")
    prior, y = two_modes(), torch.zeros(1, dtype=torch.long)
    times = torch.tensor([t])
    a, s = (float(each) for each in signal_noise(prior.alphas_cumprod, times, 1))
    eps = torch.randn(1, n, 1, generator=torch.Generator().manual_seed(seed))
    noisy = a * x + s * eps
    clean = denoise(sds(prior, y, 1.0, 1.0).denoiser(0), prior.alphas_cumprod, noisy, times, 1)[0, :, 0]
    w = weights(clean[None], scheme)[0]
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), width_ratios=(3, 2))
    for start, end, weight in zip(noisy[0, :, 0].tolist(), clean.tolist(), w.tolist(), strict=True):
        colour = "tab:green" if weight > 0 else "tab:red" if weight < 0 else "0.75"
        left.plot([x, start, end], [0, 1, 2], "o-", color=colour, ms=4, lw=1.2)
    left.plot([x], [0], "ks")
    left.set(xlabel="value of the one pixel", xlim=(-3.5, 3.5))
    left.set_yticks([0, 1, 2], ["picture", f"noisy, t = {t}", "denoised"])
    left.set_title("candidates: followed (green), fled (red)")
    right.bar(range(n), w[clean.argsort(descending=True)].tolist(), color="tab:blue")
    right.set(xlabel="rank by reward", ylabel="weight", title=scheme)
    return fig


def noise_field(t: int = 400, n: int = 10, seed: int = 0) -> Figure:
    """Which noises get a weight: two pixels of the exact mixture, the reward is the first. The mean of each weight's
    noises is marked: ranking rewards ranks noises along the reward."""
    prior, size = two_modes(), 150
    eps = torch.randn(size, n, 2, generator=torch.Generator().manual_seed(seed))
    times = torch.full((size,), t)
    a, s = signal_noise(prior.alphas_cumprod, times, 3)
    loss = sds(prior, torch.zeros(size, dtype=torch.long), 1.0, 1.0)
    clean = denoise(loss.denoiser(0), prior.alphas_cumprod, a * torch.zeros(size, 1, 2) + s * eps, times, 1)
    w = weights(clean[..., 0])
    fig, ax = plt.subplots(figsize=(4.6, 4.2))
    for value, colour, name in ((0.0, "0.8", "0"), (0.9, "tab:green", "0.9"), (-0.1, "tab:red", "-0.1")):
        chosen = eps[(w - value).abs() < 1e-3]
        ax.plot(*chosen.T, "o", ms=2.5, color=colour, label=f"weight {name}")
        ax.plot(*chosen.mean(0), "X", ms=12, color=colour, mec="k")
    ax.set(xlabel="noise of the rewarded pixel", ylabel="noise of the other pixel", aspect="equal")
    ax.legend(loc="upper left")
    return fig


def paths(tracks: Mapping[str, Tensor], every: int) -> Figure:
    """Values of single pixels (steps, B) over the iterations, a panel a method; the modes are dashed."""
    fig, axes = plt.subplots(1, len(tracks), figsize=(3.1 * len(tracks), 3.0), sharey=True, squeeze=False)
    for ax, (name, track) in zip(axes[0], tracks.items(), strict=True):
        ax.plot(np.arange(len(track)) * every, track.numpy(), lw=0.6, color="tab:blue", alpha=0.5)
        for mode in (-2, 2):
            ax.axhline(mode, ls="--", color="0.4", lw=1)
        ax.set(xlabel="iteration", title=name)
    axes[0][0].set_ylabel("value of the pixel")
    return fig


def sheet(rows: Mapping[str, Tensor], classes: Sequence[int]) -> Figure:
    """Pictures (B, 784) of several methods, a labelled row each, a column a class."""
    fig, axes = plt.subplots(len(rows), 1, figsize=(7.5, 0.95 * len(rows)), squeeze=False)
    for ax, (name, x) in zip(axes[:, 0], rows.items(), strict=True):
        strip = x.detach().clamp(-1, 1).view(-1, SIDE, SIDE).permute(1, 0, 2).reshape(SIDE, -1)
        ax.imshow(-strip, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        ax.set_yticks([SIDE / 2], [name])
        ax.set_xticks([])
        ax.grid(False)
    axes[-1, 0].set_xticks([SIDE * (k + 0.5) for k in range(len(classes))], [str(k) for k in classes])
    axes[-1, 0].set_xlabel("asked class")
    return fig


def against(tracks: pd.DataFrame) -> Figure:
    """Reward (optimised) against the judge's value over the iterations, a line a method; on the diagonal they agree.
    ``tracks``: columns method, step, reward, judged."""
    fig, ax = plt.subplots(figsize=(4.6, 3.8))
    for name, part in tracks.groupby("method", sort=False):
        mean = part.groupby("step")[["reward", "judged"]].mean()
        ax.plot(mean["reward"], mean["judged"], "o-", ms=3, label=str(name))
    ends = [float(tracks[["reward", "judged"]].min().min()), float(tracks[["reward", "judged"]].max().max())]
    ax.plot(ends, ends, ":", color="0.5")
    ax.set(xlabel="optimised reward (deviations)", ylabel="held-out judge (deviations)")
    ax.legend()
    return fig


def bars(table: pd.DataFrame, value: str, xlabel: str) -> Figure:
    """One point a seed and method of a recorded table with columns method and ``value``."""
    names = list(dict.fromkeys(table["method"]))
    fig, ax = plt.subplots(figsize=(6.2, 0.36 * len(names) + 1.1))
    for k, name in enumerate(names):
        values = table.loc[table["method"] == name, value].to_numpy(dtype=float)
        ax.plot(values, np.full(len(values), k), "o", color="tab:blue", alpha=0.6)
        ax.plot([values.mean()], [k], "|", color="k", ms=16)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    return fig


def animation(tracks: Mapping[str, Tensor], zoom: int = 3, frame_ms: int = 150) -> bytes:
    """An animated PNG: pictures (steps, B, 784) of several methods, a labelled row each, changing over the steps."""
    from PIL import Image, ImageDraw

    frames = []
    for k in range(min(map(len, tracks.values()))):
        width = max(track.shape[1] for track in tracks.values()) * SIDE * zoom
        page = Image.new("L", (150 + width, SIDE * zoom * len(tracks)), 255)
        draw = ImageDraw.Draw(page)
        for i, (name, track) in enumerate(tracks.items()):
            row = track[k].clamp(-1, 1).view(-1, SIDE, SIDE).permute(1, 0, 2).reshape(SIDE, -1)
            grey = ((1 - row) * 127.5).round().byte().numpy()
            page.paste(Image.fromarray(np.kron(grey, np.ones((zoom, zoom), np.uint8))), (150, SIDE * zoom * i))
            draw.text((4, SIDE * zoom * i + 30), name, fill=0, font_size=13)
        frames.append(page)
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0, optimize=True)
    return stream.getvalue()
