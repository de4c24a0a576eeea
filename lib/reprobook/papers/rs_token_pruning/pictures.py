"""Drawings: a descent on its picture, accuracy over tiles, accuracy over the kept share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reprobook import show
from reprobook.papers.rs_token_pruning.reading import resized

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from reprobook.papers.rs_token_pruning.descent import Found
    from reprobook.papers.rs_token_pruning.study import Asked

TARGET, OPENED = show.COLOURS[1], "white"


def descent(asked: Asked, found: Found) -> Figure:
    """Every level that was visited: the picture at that size, opened tiles bright, the others dark, the target in a
    circle."""
    import matplotlib.pyplot as plt

    n = len(found.opened)
    fig, axes = plt.subplots(1, n, figsize=(2.6 * n, 3.0), squeeze=False)
    top, left, size, *_ = asked.item.scene.objects[asked.item.question.target].tolist()
    whole = len(asked.item.scene.pixels)
    for ax, at, tiles in zip(axes[0], range(n), found.opened, strict=True):
        level, tile = asked.levels[at], asked.model.tile
        pixels = resized(asked.pyramid.picture, level, 0, level.height, 0, level.width).astype(float) / 255
        dark = np.full(pixels.shape[:2], 0.35)
        for row, col in tiles.tolist():
            dark[row * tile : (row + 1) * tile, col * tile : (col + 1) * tile] = 1.0
            corner = (col * tile - 0.5, row * tile - 0.5)
            ax.add_patch(plt.Rectangle(corner, tile, tile, fill=False, ec=OPENED, lw=1.0, zorder=3))
        ax.imshow(pixels * dark[..., None], interpolation="nearest")
        scale = level.height / whole
        ax.plot([(left + size / 2) * scale], [(top + size / 2) * scale], "o", mfc="none", mec=TARGET, ms=16, mew=2)
        ax.set(title=f"level {at + 1}: {len(tiles)} of {level.rows * level.cols} tiles", xlabel=f"{level.width} pixels")
        ax.set(xticks=[], yticks=[]), ax.grid(False)
    axes[0][0].set_ylabel(f"{asked.item.question.text}?", fontsize=8)
    return fig


def over_tiles(frame: pd.DataFrame) -> Figure:
    """Accuracy over tiles opened a level, mean and spread over seeds: lines for the ways with a curve, points for the
    others, dashed and labelled on its line what reads no chosen tile."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7.2, 3.8))
    told = frame.groupby(["way", "tiles", "seed"], sort=False)["right"].mean().groupby(["way", "tiles"], sort=False)
    means, spread = told.mean(), told.std().fillna(0.0)
    ticks = sorted(set(means.index.get_level_values(1)) - {0})
    colours = iter([*show.COLOURS, "#666666"])
    for way in dict.fromkeys(means.index.get_level_values(0)):
        part = means[way].sort_index()
        if list(part.index) == [0]:
            ax.axhline(part.iloc[0], ls="--", lw=1, color="#666666", zorder=1)
            ax.annotate(way, (ticks[0] / 1.25, part.iloc[0]), xytext=(0, -3), textcoords="offset points", va="top",
                        fontsize=9, color="#444444")  # fmt: skip
        else:
            ax.errorbar(part.index, part, spread[way].sort_index(), marker="o", ms=5, capsize=3, label=way,
                        color=next(colours))  # fmt: skip
    ax.set(xlabel="tiles opened on each level", ylabel="accuracy", ylim=(0, 1.05), xscale="log")
    ax.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.15)
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def over_share(frame: pd.DataFrame) -> Figure:
    """Left: accuracy of every way at the share that all of them keep, a dot for each seed and a bar at the mean. Right:
    mean accuracy over the share, for the ways with several."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.8), gridspec_kw={"wspace": 0.25})
    told = frame.groupby(["way", "keep", "seed"], sort=False)["right"].mean()
    common = frame.groupby("keep")["way"].nunique().idxmax()
    equal = told[told.index.get_level_values("keep").isin([common, 1.0])]
    order = equal.groupby("way").mean().sort_values().index
    for row, way in enumerate(order):
        values = equal[way]
        left.plot(values, np.full(len(values), row), "o", ms=4, mfc="none", color="#666666")
        left.plot([values.mean()] * 2, [row - 0.3, row + 0.3], lw=2.5, color=show.COLOURS[0])
    left.set_yticks(range(len(order)), order)
    left.set(xlabel="accuracy", title=f"{common:g} of the tokens (all tokens: 1)")
    curves = [way for way in order if told[way].index.get_level_values("keep").nunique() > 1]
    for k, way in enumerate(reversed(curves)):
        means = told[way].groupby("keep").mean()
        right.plot(means.index, means, marker="o", color=show.COLOURS[k], label=way)
    right.set(xlabel="kept share of the tokens", title="accuracy by share", xlim=(0, 1.0))
    right.set_ylim(min(0.8, right.get_ylim()[0]), 1.01)
    right.legend(loc="lower right")
    return fig


def learning(frame: pd.DataFrame) -> Figure:
    """Accuracy by kind of question while the model learns, mean over seeds."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.8, 3.2))
    for k, (kind, part) in enumerate(frame.groupby("kind", sort=False)):
        told = part.groupby("step")["accuracy"].mean()
        ax.plot(told.index, told, marker=".", color=show.COLOURS[k % len(show.COLOURS)], label=kind)
    ax.set(xlabel="update", ylabel="accuracy, held-out squares", ylim=(0, 1.02))
    ax.legend(loc="lower right")
    return fig
