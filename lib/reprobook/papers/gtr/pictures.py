"""The figures of the chapter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from reprobook.papers.gtr.cards import picture
from reprobook.papers.gtr.formulas import solve, symbols

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.figure import Figure

    from reprobook.papers.gtr.study import World

SIZE = (6.4, 3.2)  # inches
COLORS = {
    "start": "black", "RL only": "#D55E00", "cloning only": "#CC79A7", "GTR": "#009E73",
    "GTR, perfect corrector": "#56B4E9", "action only": "#0072B2", "RL only, lambda 0": "#E69F00",
    "GTR without tool": "#8C564B",
}  # fmt: skip
OTHERS = "0.7"  # the grey of all other rows
BOX = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "0.4"}


def idea() -> Figure:
    """Two hands; what RL alone comes to say to both, and what a corrector makes of it."""
    fig, ax = plt.subplots(figsize=(7.2, 3.4))
    ax.set(xlim=(0, 10), ylim=(0, 4))
    ax.axis("off")
    for y, hand, right in ((3.0, "3, 8 → 24", 'aim "3*8", next 3'), (1.0, "10, 4 → 6", 'aim "10-4", next 10')):
        ax.text(1.0, y, f"hand {hand}", ha="center", va="center", bbox=BOX)
        ax.text(4.6, y + 0.5, 'RL only: "append 10"', ha="center", va="center", color="tab:red", bbox=BOX)
        ax.text(4.6, y - 0.5, 'GTR: "append 10"', ha="center", va="center", color="tab:red", bbox=BOX)
        ax.text(7.0, y + 0.5, "reward: −1 or 10", ha="left", va="center", bbox=BOX)
        ax.text(7.0, y - 0.5, f"corrector: {right}", ha="left", va="center", color="tab:green", bbox=BOX)
        for dy in (0.5, -0.5):
            ax.annotate("", (3.0, y + dy), (2.05, y), arrowprops={"arrowstyle": "->", "color": "0.4"})
            ax.annotate("", (6.8, y + dy), (6.1, y + dy), arrowprops={"arrowstyle": "->", "color": "0.4"})
    return fig


def table_picture(world: World, n: int = 3) -> Figure:
    """Some hands of a world as the policy sees them."""
    game = world.deal(n, seed=0)
    ranks = game.ranks()
    first: Any = SimpleNamespace(random=np.zeros)  # of each digit its first picture
    places = world.writing[0].pick(ranks, first)
    fig, axes = plt.subplots(1, n, figsize=(7.2, 1.6), squeeze=False)
    for ax, each, hand, target in zip(axes[0], places, ranks, game.targets(), strict=True):
        ax.imshow(picture(world.writing[0], each), cmap="gray_r")
        shown = ", ".join(str(rank) for rank in hand if rank >= 0)
        ax.set(xticks=[], yticks=[], title=f"{shown}" + (f" → {target}" if target else ""))
    return fig


def ways_on(a: int = 3, b: int = 3, c: int = 8, d: int = 8) -> Figure:
    """Exact formulas of a hand by the symbol that they begin with: a thought that aims elsewhere cannot win."""
    first = [symbols(formula)[0] for formula in solve((a, b, c, d))]
    names = sorted({"(", *(str(card) for card in (a, b, c, d))}, key=lambda s: (not s.isdigit(), s.zfill(2)))
    fig, ax = plt.subplots(figsize=SIZE)
    ax.bar(names, [first.count(name) for name in names], color="tab:blue")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="first symbol", ylabel="formulas that equal 24", title=f"{a}, {b}, {c}, {d}: {len(first)} in all")
    return fig


def curves(rows: pd.DataFrame, columns: Sequence[str] = ("success", "names the cards", "entropy")) -> Figure:
    """Training on the middle game by update, the mean over seeds: a line a method, those of ``COLORS`` named. rows:
    columns game, method, update and those drawn."""
    rows = rows[rows["game"] == "Targets"]
    fig, axes = plt.subplots(len(columns), 1, figsize=(5.4, 2.4 * len(columns)), sharex=True, squeeze=False)
    for ax, column in zip(axes[:, 0], columns, strict=True):
        for name, part in rows.groupby("method", sort=False):
            line = part.groupby("update")[column].mean()
            color, order = COLORS.get(str(name), OTHERS), 2 if name in COLORS else 1
            ax.plot(line.index, line.to_numpy(), color=color, zorder=order, label=str(name) if name in COLORS else None)
        ax.set(ylabel=f"{column} ({'nats a token' if column == 'entropy' else 'share'})")
    axes[-1, 0].set(xlabel="update")
    axes[0, 0].plot([], [], color=OTHERS, label="other rows")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), ncols=2, loc="outside lower center", fontsize=9)
    return fig


def outcomes(rows: pd.DataFrame) -> Figure:
    """Success in the middle game against the share of thoughts that name the true cards: a small point a seed, a large
    one for their mean; methods of ``COLORS`` are named. rows: columns game, method, success, names the cards."""
    rows = rows[rows["game"] == "Targets"]
    fig, ax = plt.subplots(figsize=(5.4, 5.4))
    for name, part in rows.groupby("method", sort=False):
        color, order = COLORS.get(str(name), OTHERS), 3 if name in COLORS else 2
        ax.plot(part["names the cards"], part["success"], ".", color=color, alpha=0.5, zorder=order)
        middle = part["names the cards"].mean(), part["success"].mean()
        ax.plot(*middle, "o", color=color, zorder=order, label=str(name) if name in COLORS else None)
    ax.plot([], [], "o", color=OTHERS, label="other rows")
    ax.set(xlabel="thoughts that name the true cards (share)", ylabel="success (share)", xlim=(-0.05, 1.05))
    ax.set_ylim(-0.02, None)
    fig.legend(*ax.get_legend_handles_labels(), ncols=2, loc="outside lower center", fontsize=9)
    return fig


def carried(rows: pd.DataFrame) -> Figure:
    """Success in the middle game at the paper's temperature, a line a method: on hands as training deals them (full)
    and on new ones (open); a small point a seed, a large one their mean. rows: columns game, method, and the two
    successes."""
    rows = rows[rows["game"] == "Targets"]
    columns = {"success, T = 0.2": "as training deals", "success, new hands, T = 0.2": "new"}
    names = rows.groupby("method")["success, T = 0.2"].mean().sort_values().index
    fig, ax = plt.subplots(figsize=(6.4, 0.28 * len(names) + 1.4))
    for y, name in enumerate(names):
        part = rows[rows["method"] == name]
        means = [part[column].mean() for column in columns]
        ax.plot(means, [y, y], color=OTHERS, zorder=1)
        for column, face, mean in zip(columns, ("tab:blue", "white"), means, strict=True):
            ax.plot(
                part[column], [y] * len(part), "o", color="tab:blue", markerfacecolor=face, alpha=0.45, markersize=3
            )  # fmt: skip
            label = f"hands: {columns[column]}" if y == 0 else None
            ax.plot(mean, y, "o", color="tab:blue", markerfacecolor=face, zorder=3, label=label)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="success at T = 0.2 (share)", xlim=(-0.02, 1))
    fig.legend(*ax.get_legend_handles_labels(), ncols=2, loc="outside lower center", fontsize=9)
    return fig


def noise(rows: pd.DataFrame) -> Figure:
    """Success over the corrector's noise; a point a seed. rows: columns noise, success."""
    fig, ax = plt.subplots(figsize=SIZE)
    ax.plot(rows["noise"], rows["success"], "o", alpha=0.7)
    mean = rows.groupby("noise")["success"].mean()
    ax.plot(mean.index, mean.to_numpy(), "--", color="0.4")
    ax.set(xlabel="episodes that the corrector misreads (share)", ylabel="success (share)")
    ax.set_ylim(0, None)
    return fig


def shortened(text: str, most: int = 68) -> str:
    """The text, cut where a figure's line ends."""
    return text if len(text) <= most else text[: most - 2] + " …"


def hand_by_hand(steps: Mapping[str, Sequence[tuple[str, str]]]) -> Figure:
    """One hand as several methods play it: thought and action of each step. steps: method -> (thought, action)s."""
    n = [len(played) for played in steps.values()]
    fig, axes = plt.subplots(
        len(steps), 1, figsize=(5.4, 0.55 * sum(n) + 0.5 * len(n)), squeeze=False, height_ratios=n
    )  # fmt: skip
    for ax, (name, played) in zip(axes[:, 0], steps.items(), strict=True):
        ax.axis("off")
        ax.set_title(name, loc="left")
        for k, (thought, action) in enumerate(played):
            for shift, text, color in ((0.25, thought, "black"), (0.7, action, "tab:blue")):
                y = 1 - (k + shift) / len(played)
                label = ax.text(0, y, shortened(text), fontsize=8, family="monospace", va="center", color=color)
                label.set_in_layout(False)
    return fig
