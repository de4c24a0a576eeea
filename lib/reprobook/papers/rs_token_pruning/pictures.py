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
    """Accuracy over tiles opened a level, a panel for each side of the picture, mean and standard deviation over seeds:
    lines for the ways with a curve, points for the others, dashed what reads no chosen tile; *all tiles* of the finest
    level that was read whole."""
    import matplotlib.pyplot as plt

    frame = frame.assign(tiles=frame["tiles"].where(frame["way"] != "all tiles", 0)).drop_duplicates(
        ["seed", "side", "way", "tiles"], keep="last"
    )
    sides = sorted(frame["side"].unique())
    fig, axes = plt.subplots(1, len(sides), figsize=(2.2 * len(sides) + 1.6, 3.6), sharey=True, squeeze=False)
    ticks = sorted(set(frame["tiles"]) - {0})
    ways = list(dict.fromkeys(frame["way"]))
    chosen = [way for way in ways if set(frame.loc[frame["way"] == way, "tiles"]) != {0}]
    for ax, side in zip(axes[0], sides, strict=True):
        told = frame[frame["side"] == side].groupby(["way", "tiles"], sort=False)["right"]
        means, spread = told.mean(), told.std().fillna(0.0)
        for k, way in enumerate(way for way in ways if way not in chosen):
            ax.axhline(
                means[way].iloc[0],
                ls=("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))[k % 4],
                lw=1.2,
                color="#666666",
                zorder=1,
                label=way,
            )
        for k, way in enumerate(chosen):
            part = means[way].sort_index()
            ax.errorbar(part.index, part, spread[way].sort_index(), marker="o", ms=4, capsize=2, label=way,
                        color=show.COLOURS[k % len(show.COLOURS)])  # fmt: skip
        ax.set(title=f"{side} pixels", ylim=(0, 1.05), xscale="log")
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
    axes[0][0].set_ylabel("accuracy")
    fig.supxlabel("tiles opened on each level", fontsize=10)
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
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
    right.set(xlabel="kept share of the tokens", ylabel="accuracy", title="by share", xlim=(0, 1.0))
    right.set_ylim(min(0.8, right.get_ylim()[0]), 1.01)
    right.legend(loc="lower right")
    return fig


def learning(frame: pd.DataFrame) -> Figure:
    """Accuracy by kind of question while the model learns: each seed thin, their mean thick."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.8, 3.2))
    for k, (kind, part) in enumerate(frame.groupby("kind", sort=False)):
        colour, told = show.COLOURS[k % len(show.COLOURS)], part.groupby("step")["accuracy"].mean()
        for _, own in part.groupby("seed"):
            ax.plot(own["step"], own["accuracy"], lw=0.7, alpha=0.5, color=colour)
        ax.plot(told.index, told, marker=".", lw=2, color=colour, label=kind)
    ax.set(xlabel="update", ylabel="accuracy, held-out squares", ylim=(0, 1.02))
    ax.legend(loc="lower right")
    return fig
