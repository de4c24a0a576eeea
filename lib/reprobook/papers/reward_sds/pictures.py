"""The figures of the chapter."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import denoise, signal_noise
from reprobook.papers.reward_sds.digits import ATTRIBUTES, N_CLASSES, SIDE
from reprobook.papers.reward_sds.exact import two_modes
from reprobook.papers.reward_sds.losses import sds
from reprobook.papers.reward_sds.weighting import weights

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor

    from reprobook.papers.reward_sds.digits import Digits
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
    for mode in (-2, 2):
        left.axvline(mode, ls="--", color="0.6", lw=1)
    left.set(xlabel="value of the one pixel", xlim=(-3.5, 3.5))
    left.set_yticks([0, 1, 2], ["picture", f"noisy, t = {t}", "denoised"])
    left.set_title("candidates: followed (green), fled (red)")
    right.bar(range(1, n + 1), w[clean.argsort(descending=True)].tolist(), color="tab:blue")
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
    """The first pixel of particles (points, B, d) over the iterations, a panel a method; the modes are dashed."""
    fig, axes = plt.subplots(1, len(tracks), figsize=(2.7 * len(tracks), 2.6), sharey=True, squeeze=False)
    for ax, (name, track) in zip(axes[0], tracks.items(), strict=True):
        ax.plot(np.arange(len(track)) * every, track[..., 0].numpy(), lw=0.6, color="tab:blue", alpha=0.5)
        for mode in (-2, 2):
            ax.axhline(mode, ls="--", color="0.4", lw=1)
        ax.set(xlabel="iteration", title=name)
    axes[0][0].set_ylabel("value of the pixel")
    return fig


def ranges(digits: Digits) -> Figure:
    """A row an attribute: the digit of each class with the lowest, a middle and the highest value at the 2nd, 50th and
    98th percentile, side by side."""
    fig, axes = plt.subplots(len(ATTRIBUTES), 1, figsize=(9.0, 1.6), squeeze=False)
    for j, (ax, name) in enumerate(zip(axes[:, 0], ATTRIBUTES, strict=True)):
        shown = []
        for k in range(N_CLASSES):
            rows = (digits.y == k).nonzero()[:, 0]
            order = rows[digits.attributes[rows, j].argsort()]
            shown.append(digits.x[order[[int(share * (len(order) - 1)) for share in (0.02, 0.5, 0.98)]]])
        _strip(ax, torch.cat(shown), name)
    axes[-1, 0].set_xticks([SIDE * (3 * k + 1.5) for k in range(N_CLASSES)], [str(k) for k in range(N_CLASSES)])
    axes[-1, 0].set_xlabel("class: little, middle, much of the attribute")
    return fig


def _strip(ax: Axes, x: Tensor, name: str) -> None:
    strip = x.detach().clamp(-1, 1).view(-1, SIDE, SIDE).permute(1, 0, 2).reshape(SIDE, -1)
    ax.imshow(-strip, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_yticks([SIDE / 2], [name])
    ax.set_xticks([])
    ax.grid(False)


def sheet(rows: Mapping[str, Tensor], classes: Sequence[int]) -> Figure:
    """Pictures (B, 784) of several methods, a labelled row each, a column a class."""
    fig, axes = plt.subplots(len(rows), 1, figsize=(7.5, 0.95 * len(rows)), squeeze=False)
    for ax, (name, x) in zip(axes[:, 0], rows.items(), strict=True):
        _strip(ax, x, name)
    axes[-1, 0].set_xticks([SIDE * (k + 0.5) for k in range(len(classes))], [str(k) for k in classes])
    axes[-1, 0].set_xlabel("asked class")
    return fig


def against(tracks: pd.DataFrame) -> Figure:
    """Reward (optimised) against the judge's value over the iterations, a line a method; on the diagonal they agree.
    ``tracks``: columns method, step, reward, judged."""
    fig, ax = plt.subplots(figsize=(4.6, 3.8))
    dialled = [name for name in dict.fromkeys(tracks["method"]) if name.startswith("reward gradient")]
    own = {"SDS": ("0.3", 1.8), "RewardSDS": ("tab:blue", 3.0)}
    shades = dict(zip(dialled, plt.get_cmap("Oranges")(np.linspace(0.35, 0.95, len(dialled))), strict=True))
    for name, part in tracks.groupby("method", sort=False):
        mean = part.groupby("step")[["reward", "judged"]].mean()
        color, width = own.get(str(name), (shades.get(name), 1.8))
        ax.plot(mean["reward"], mean["judged"], "-", lw=width, color=color, label=str(name))
    ends = [float(tracks[["reward", "judged"]].min().min()), float(tracks[["reward", "judged"]].max().max())]
    ax.plot(ends, ends, ":", color="0.5")
    ax.set(xlabel="optimised reward (deviations)", ylabel="held-out judge (deviations)")
    ax.legend()
    return fig


def curves(table: pd.DataFrame) -> Figure:
    """Training loss of each network, a line a seed. ``table``: columns network, step, loss, seed."""
    names = list(dict.fromkeys(table["network"]))
    fig, axes = plt.subplots(1, len(names), figsize=(3.8 * len(names), 2.8), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for _, part in table[table["network"] == name].groupby("seed"):
            ax.plot(part["step"], part["loss"], color="tab:blue", alpha=0.6)
        ax.set(xlabel="update", ylabel="loss", title=name, yscale="log")
    return fig


def bars(table: pd.DataFrame, value: str, xlabel: str) -> Figure:
    """One point a seed and method of a recorded table with columns method and ``value``; a stroke at the mean."""
    names = list(dict.fromkeys(table["method"]))
    fig, ax = plt.subplots(figsize=(6.2, 0.3 * len(names) + 1.1))
    for k, name in enumerate(names):
        values = table.loc[table["method"] == name, value].to_numpy(dtype=float)
        ax.plot(values, np.full(len(values), k), "o", color="tab:blue", alpha=0.6)
        ax.plot([values.mean()], [k], "|", color="k", ms=16)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    return fig


def tradeoff(table: pd.DataFrame) -> Figure:
    """Means over seeds: judged attribute against distance; the gradient's strengths are a line from SDS, and one from
    the best of restarts."""
    mean = table.groupby("method", sort=False)[["distance", "judged"]].mean()
    fig, ax = plt.subplots(figsize=(6.6, 4.2))
    climbing = [name for name in mean.index if name.startswith("reward gradient")]
    many = [name for name in climbing if name.endswith("best of restarts")]
    few = [name for name in climbing if name not in many]
    for names, color, label in (
        (["SDS", *few], "tab:orange", "reward gradient"),
        (["best of restarts", *many], "tab:red", "reward gradient, best of restarts"),
    ):
        ax.plot(*mean.loc[names].to_numpy().T, "o-", color=color, ms=4, label=label)
    rest = mean.drop(index=["SDS", "best of restarts", *climbing])
    for (name, row), mark in zip(rest.iterrows(), itertools.cycle("svD^<>PXHd"), strict=False):
        star = name == "RewardSDS"
        color, size = ("tab:blue", 13) if star else ("0.3", 6)
        ax.plot(row["distance"], row["judged"], "*" if star else mark, color=color, ls="", ms=size, label=str(name))
    ax.axvline(1.0, ls=":", color="0.5")
    ax.set(xlabel="distance from real digits (times that of real ones)", ylabel="judged attribute (deviations)")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


def costs(table: pd.DataFrame) -> Figure:
    """Judged attribute against evaluations of the prior of the sweeps over N, K and S, means over seeds."""
    mean = table.groupby("method", sort=False)[["calls", "judged"]].mean()
    fig, ax = plt.subplots(figsize=(5.4, 3.6))
    for sign in "NKS":
        part = mean[[name.startswith(f"{sign} =") or name == "RewardSDS" for name in mean.index]].sort_values("calls")
        ax.plot(part["calls"], part["judged"], "o-", ms=4, label=f"{sign} alone is moved")
    ax.set(xscale="log", xlabel="evaluations of the prior a picture", ylabel="judged attribute (deviations)")
    ax.legend()
    return fig


def editing(table: pd.DataFrame) -> Figure:
    """Judged attribute against how far a picture has moved from its source: a curve a method, means over seeds."""
    mean = table.groupby(["method", "point"], sort=False)[["moved", "judged"]].mean()
    fig, ax = plt.subplots(figsize=(5.4, 3.6))
    for name in dict.fromkeys(table["method"]):
        ax.plot(mean.loc[name, "moved"], mean.loc[name, "judged"], "o-", ms=3, label=name)
    ax.set(xlabel="change (root of the squared differences)", ylabel="judged attribute (deviations)")
    ax.legend()
    return fig


def particles(tracks: Mapping[str, Tensor], side: int = 200, frame_ms: int = 120) -> bytes:
    """An animated PNG: particles (points, B, 2) of the exact mixture, a panel a method; crosses are the modes."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    frames = []
    for k in range(min(map(len, tracks.values()))):
        page = Pillow.new("L", (side * len(tracks), side + 22), 255)
        draw = ImageDraw.Draw(page)
        for i, (name, track) in enumerate(tracks.items()):
            draw.text((side * i + 6, 3), name, fill=0, font_size=13)
            draw.rectangle((side * i, 22, side * (i + 1) - 1, side + 21), outline=160)
            middle = (side * (i + 0.5), 22 + side / 2)
            for a, b in track[k].clamp(-3.9, 3.9).tolist():
                x, y = middle[0] + a * side / 8, middle[1] - b * side / 8
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=60)
            for a, b in ((-2, -2), (-2, 2), (2, -2), (2, 2)):
                x, y = middle[0] + a * side / 8, middle[1] - b * side / 8
                draw.line((x - 5, y, x + 5, y), fill=0)
                draw.line((x, y - 5, x, y + 5), fill=0)
        frames.append(page)
    return _animated(frames, frame_ms)


def animation(tracks: Mapping[str, Tensor], zoom: int = 2, frame_ms: int = 150) -> bytes:
    """An animated PNG: pictures (steps, B, 784) of several methods, a labelled row each, changing over the steps."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    frames = []
    for k in range(min(map(len, tracks.values()))):
        width = max(track.shape[1] for track in tracks.values()) * SIDE * zoom
        page = Pillow.new("L", (150 + width, SIDE * zoom * len(tracks)), 255)
        draw = ImageDraw.Draw(page)
        for i, (name, track) in enumerate(tracks.items()):
            row = track[k].clamp(-1, 1).view(-1, SIDE, SIDE).permute(1, 0, 2).reshape(SIDE, -1)
            grey = ((1 - row) * 127.5).round().byte().numpy()
            page.paste(Pillow.fromarray(np.kron(grey, np.ones((zoom, zoom), np.uint8))), (150, SIDE * zoom * i))
            draw.text((4, SIDE * zoom * i + 20), name, fill=0, font_size=13)
        frames.append(page)
    return _animated(frames, frame_ms)


def _animated(frames: list[Image], frame_ms: int) -> bytes:
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0, optimize=True)
    return stream.getvalue()
