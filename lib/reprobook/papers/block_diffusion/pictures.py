"""The chapter's figures; each function takes values and gives a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from reprobook import show
from reprobook.papers.block_diffusion.model import training_mask
from reprobook.papers.block_diffusion.noise import NoiseProcess, constant_loss_variance

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLIND = "unigram, blind"
PARTS = ("own noisy block", "clean blocks before", "clean, up to own")


def mask(L: int = 12, block_size: int = 3, p: float = 0.5) -> Figure:
    """The attention mask and one masking of a row, for any block size that divides L."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    process = NoiseProcess(mask_id=0, block_size=block_size, resample=False)
    rates, generator = torch.full((1, L // block_size), p), torch.Generator().manual_seed(1)
    masked = process.mask(rates, generator)[0]
    part = training_mask(L, block_size).float()
    part[:L, L:] *= 2
    part[L:, L:] *= 3
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 4.0), width_ratios=[2, 1])
    left.imshow(part, cmap=ListedColormap(["white", *show.COLOURS[:3]]), vmin=0, vmax=3)
    left.set(
        xlabel="key: noisy half, then clean half", ylabel="query", title=f"who sees whom, L = {L}, L' = {block_size}"
    )
    for k, name in enumerate(PARTS):
        left.plot([], [], "s", color=show.COLOURS[k], label=name)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    right.imshow(masked.view(-1, block_size).float(), cmap="Greys", vmin=0, vmax=1.4)
    right.set(
        xlabel="token of the block", ylabel="block", title=f"masked tokens (dark), p = {p:g}",
        xticks=range(block_size), yticks=range(L // block_size),
    )  # fmt: skip
    left.grid(False), right.grid(False)
    return fig


def variance(omega: float = 1.0, block_size: int = 4) -> Figure:
    """Closed-form variance of a block's loss over the lower end of the interval of mask rates."""
    import matplotlib.pyplot as plt

    betas = np.linspace(0.001, omega - 0.05, 200)
    fig, ax = plt.subplots(figsize=(6.4, 3.4))
    for size in sorted({1, block_size, 16}):
        ax.plot(betas, [constant_loss_variance(b, omega, size) for b in betas], label=f"L' = {size}")
    ax.set(
        xlabel="beta, lower end of the interval", ylabel="variance, c = 1 nat", yscale="log",
        title=f"p ~ U[beta, {omega:g}]",
    )  # fmt: skip
    ax.legend()
    return fig


def training(logged: pd.DataFrame) -> Figure:
    """Training losses of each corpus."""
    import matplotlib.pyplot as plt

    names = list(logged["corpus"].unique())
    fig, axes = plt.subplots(1, len(names), figsize=(4.8 * len(names), 3.8), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        part = logged[logged["corpus"] == name]
        show.curves(part, "step", "loss", hue="model", xlabel="update", ylabel="loss, nats a token", title=name, ax=ax)
        low = part["loss"].quantile(0.01)
        ax.set_ylim(min(0.0, low), part.groupby(["model", "seed"])["loss"].first().max() * 1.05)
        for line in ax.lines[len(show.COLOURS) :]:  # more models than colours
            line.set(color="0.4", ls="--")
        for band in ax.collections[len(show.COLOURS) :]:
            band.set(color="0.4")
        ax.legend(fontsize=7, ncols=2)
    return fig


def ladder(ours: pd.DataFrame, value: str, paper: pd.DataFrame) -> Figure:
    """From autoregression to full diffusion: ours with one point a seed, both schedules, and the paper's. Counts are
    lines; those of two tokens and fewer lie above all models and would press them together."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4))
    for n, style in ((3, ":"), (4, "--")):
        counts = ours.loc[ours["model"] == f"counts of {n} tokens", value]
        if len(counts):
            left.axhline(counts.mean(), color="0.5", ls=style, label=f"counts of {n} tokens")
    ours = ours[~ours["model"].str.startswith(("counts", BLIND))]
    order = sorted(ours["model"].str.split(",").str[0].unique(), key=_place)
    place = {name: k for k, name in enumerate(order)}
    for schedule, colour in {"linear": show.COLOURS[0], "searched": show.COLOURS[1], "": "0.3"}.items():
        told = ours[ours["model"].map(lambda name, s=schedule: name.partition(", ")[2] == s)]
        x = told["model"].str.split(",").str[0].map(place) + {"linear": -0.1, "searched": 0.1}.get(schedule, 0.0)
        left.plot(x, told[value], "o", ms=4, alpha=0.8, color=colour, label=schedule or "no schedule")
    left.set(ylabel=f"{value}, nats per token", title="ours", xticks=range(len(order)), xticklabels=order)
    left.legend(fontsize=8)
    known = paper[paper["Model"].str.contains("AR|L'|MDLM|SEDD")].copy()
    known["Model"] = known["Model"].str.removeprefix("BD3-LM ")
    known = known.sort_values("Model", key=lambda names: names.map(_place))
    right.plot(known["Model"], known["PPL"], "s", color=show.COLOURS[2])
    right.set(ylabel="perplexity per token", title="paper, Table 3 (LM1B)", xlabel="model")
    left.set_xlabel("model")
    return fig


def _place(name: str) -> float:
    return {"AR": 0.0, "MDLM": 1e6, "SEDD": 2e6}.get(name) or float(name.partition("=")[2] or 0)


def best_intervals(found: pd.DataFrame, limit: float) -> Figure:
    """Where the best interval lies, over the entropy of the source, by block size; a dotted line at ``limit``."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 3.4))
    for k, (size, part) in enumerate(found.groupby("L'")):
        part = part.sort_values("entropy")
        ax.errorbar(
            part["entropy"] + 0.006 * (k - 1), part["middle"], fmt="o", ms=4, alpha=0.8, color=show.COLOURS[k],
            yerr=[part["middle"] - part["beta"], part["omega"] - part["middle"]], lw=0.8, label=f"L' = {size}",
        )  # fmt: skip
    ax.axvline(limit, color="0.5", ls=":")
    ax.set(xlabel="entropy of the source, share of the largest", ylabel="mask rate", ylim=(0, 1))
    ax.set_title("best interval (bar) and its middle (dot)")
    ax.legend(loc="lower right")
    return fig


def beyond(frame: pd.DataFrame, own: float) -> Figure:
    """NLL under the source along texts beyond the training length; ``own``: that of the source's text."""
    fig = show.curves(
        frame, "part", "NLL", hue="model", marker="o", xlabel="stretch of the text (one training length each)",
        ylabel="NLL under the source, nats per token", title="writing beyond the training length",
    )  # fmt: skip
    fig.axes[0].axhline(own, color="grey", ls=":", label="the source's own text")
    fig.axes[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def strip(frame: pd.DataFrame) -> Figure:
    """A text while it is written: a column for each model, a line for each moment; dots are masks. Tokens of several
    letters widen a line as they appear."""
    import matplotlib.pyplot as plt

    names = list(frame["model"].unique())
    n = int(frame.groupby("model").size().max())
    fig, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 0.26 * n + 0.7))
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        _column(ax, frame[frame["model"] == name], name)
    return fig


def _column(ax: Axes, part: pd.DataFrame, name: str) -> None:
    lines: Sequence[str] = list(part["text"])
    for k, (line, calls) in enumerate(zip(lines, part["calls"], strict=True)):
        before = lines[k - 1] if k else "·" * len(line)
        pairs = list(zip(line, before.ljust(len(line)), strict=False))
        kinds = ["0.7" if a == "·" else show.COLOURS[1] if b == "·" else "0.1" for a, b in pairs]
        for colour in set(kinds):
            letters = "".join(a if its == colour else " " for a, its in zip(line, kinds, strict=True))
            ax.text(0, -k, letters, family="monospace", fontsize=7.5, va="center", color=colour)
        ax.text(-1.5, -k, str(calls), fontsize=7, ha="right", va="center", color="0.4")
    ax.set(xlim=(-4.5, max(map(len, lines))), ylim=(-len(lines) + 0.4, 0.6), title=name)
    ax.axis("off")
