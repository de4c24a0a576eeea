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
    others, dashed what reads no chosen tile."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7.2, 3.8))
    told = frame.groupby(["way", "tiles", "seed"], sort=False)["right"].mean().groupby(["way", "tiles"], sort=False)
    means, spread = told.mean(), told.std().fillna(0.0)
    for k, way in enumerate(dict.fromkeys(means.index.get_level_values(0))):
        part = means[way].sort_index()
        colour = show.COLOURS[k % len(show.COLOURS)]
        if list(part.index) == [0]:
            ax.axhline(part.iloc[0], ls="--", color=colour, label=way)
        else:
            ax.errorbar(part.index, part, spread[way].sort_index(), marker="o", capsize=3, color=colour, label=way)
    ax.set(xlabel="tiles opened on each level", ylabel="accuracy", ylim=(0, 1.02), xscale="log")
    ticks = sorted(set(means.index.get_level_values(1)) - {0})
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.legend(ncols=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def over_share(frame: pd.DataFrame) -> Figure:
    """Accuracy of each reducer over the kept share of tokens, mean over seeds; a line for the module."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 3.6))
    told = frame.groupby(["way", "keep"], sort=False)["right"].mean()
    for k, way in enumerate(dict.fromkeys(told.index.get_level_values(0))):
        part = told[way].sort_index()
        ax.plot(part.index, part, marker="o", color=show.COLOURS[k % len(show.COLOURS)], label=way)
    ax.set(xlabel="kept share of the local tokens", ylabel="accuracy", ylim=(0, 1.02))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
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
