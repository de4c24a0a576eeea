"""The chapter's figures; each function takes values and gives a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reprobook import show

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MOVES = ("wrong to right", "right to right", "right to wrong", "wrong to wrong")
COLOURS = dict(zip(MOVES, show.COLOURS, strict=False))
KEPT = {
    "all pairs": MOVES, "I: improving": ("wrong to right",), "N as printed": ("wrong to right", "right to right"),
    "N as run": ("right to right",),
}  # fmt: skip


def idea() -> Figure:
    """The loop: answer, correct, filter, fine-tune, and what each letter of a variant's name chooses."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(9.6, 2.7))
    boxes = [
        ("answer", "c37: 84", "F: start model\nE: latest model"), ("correct", "?  52", "always the\nlatest model"),
        ("filter", "84 wrong, 52 right: keep", "I: wrong to right\nN: right to right, too"),
        ("fine-tune", "on the 52 alone", "F: from the start model\nE: from the latest model"),
    ]  # fmt: skip
    for k, (title, example, choice) in enumerate(boxes):
        x, colour = 2.4 * k, show.COLOURS[k]
        ax.add_patch(plt.Rectangle((x, 0.9), 1.95, 1.1, fc=colour, alpha=0.15, ec=colour))
        ax.text(x + 0.97, 1.7, title, ha="center", va="center", weight="bold")
        ax.text(x + 0.97, 1.25, example, ha="center", va="center", fontsize=9)
        ax.text(x + 0.97, 0.45, choice, ha="center", va="center", fontsize=9, color="0.3")
        if k < 3:
            ax.annotate("", (x + 2.38, 1.45), (x + 1.97, 1.45), arrowprops={"arrowstyle": "->"})
    ax.annotate("", (0.9, 2.02), (8.2, 2.02), arrowprops={"arrowstyle": "->", "connectionstyle": "arc3,rad=0.12"})
    ax.text(4.55, 2.72, "N times", ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.1, 9.3), ylim=(0, 2.9))
    ax.axis("off")
    return fig


def filters(initial: float = 0.2, keep: float = 0.65, repair: float = 0.05) -> Figure:
    """Shares of the four moves and what each filter keeps of them. ``initial``: right initial answers; ``keep``: how
    often a right one stays right; ``repair``: how often a wrong one is corrected."""
    import matplotlib.pyplot as plt

    shares = {
        "wrong to right": (1 - initial) * repair, "right to right": initial * keep,
        "right to wrong": initial * (1 - keep), "wrong to wrong": (1 - initial) * (1 - repair),
    }  # fmt: skip
    fig, ax = plt.subplots(figsize=(8.6, 2.9))
    for y, moves in enumerate(KEPT.values()):
        left = 0.0
        for move, share in shares.items():
            width = share if move in moves else 0.0
            ax.barh(y, width, left=left, color=COLOURS[move], height=0.6, label=move if y == 0 else None)
            left += width
    right = initial * keep + (1 - initial) * repair
    title = f"initial answers {initial:.2f} right, corrections {right:.2f} right"
    ax.set(yticks=range(len(KEPT)), yticklabels=list(KEPT), xlabel="share of all pairs", xlim=(0, 1), title=title)
    ax.invert_yaxis()
    ax.legend(loc="center right")
    return fig


def dialogue(lines: Sequence[Sequence[tuple[str, bool]]]) -> Figure:
    """A dialogue as the model sees it, from :func:`.dialogue.marked`; trained tokens are marked."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(9.6, 0.34 * len(lines) + 0.3))
    longest = max(sum(len(text) for text, _ in line) for line in lines)
    for y, line in enumerate(lines):
        x = 0
        for text, trained in line:
            box = {"facecolor": show.COLOURS[4], "alpha": 0.5, "pad": 1.5, "edgecolor": "none"} if trained else None
            ax.text(x / max(longest, 60), -y, text, family="monospace", fontsize=9, va="center", bbox=box)
            x += len(text)
    ax.set(xlim=(0, 1), ylim=(-len(lines) + 0.4, 0.6))
    ax.axis("off")
    return fig


def panels(
    curves: pd.DataFrame, columns: Mapping[str, Sequence[str]], measures: Mapping[str, str], x: str = "iteration"
) -> Figure:
    """Small multiples over iterations: a column for each group of runs, which are named below it, a row for each
    measure (column -> label)."""
    import matplotlib.pyplot as plt

    most = max(map(len, columns.values()))
    size = (3.4 * len(columns) + 0.4, 2.7 * len(measures) + 0.3 + (0.25 * most if most > 1 else 0.0))
    fig, axes = plt.subplots(len(measures), len(columns), figsize=size, sharex=True, sharey="row", squeeze=False)
    for j, (title, runs) in enumerate(columns.items()):
        for i, (measure, label) in enumerate(measures.items()):
            ax, part = axes[i, j], curves[curves["run"].isin(runs)]
            if len(part):
                show.curves(part, x, measure, hue="run", marker="o", ax=ax)
            ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
            ax.set(title=title if i == 0 else "", xlabel=x if i + 1 == len(measures) else "")
            ax.set_ylabel(label if j == 0 else "")
            if (legend := ax.get_legend()) is not None:
                legend.remove()
                if most > 1 and i + 1 == len(measures):
                    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return fig


def dots(values: pd.DataFrame, value: str, label: str = "") -> Figure:
    """A dot for each seed and row (column ``what``), a bar for their mean, and a line at 0: no change."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(values["what"]))
    fig, ax = plt.subplots(figsize=(8.6, 0.42 * len(names) + 1.0))
    for y, name in enumerate(names):
        found = values.loc[values["what"] == name, value].to_numpy(dtype=float)
        ax.plot(found, np.full(len(found), y), "o", color=show.COLOURS[y % 6], alpha=0.6)
        ax.plot([np.mean(found)] * 2, [y - 0.3, y + 0.3], color=show.COLOURS[y % 6], lw=3)
    ax.axvline(0, color="0.4", lw=1)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel=label or value)
    ax.invert_yaxis()
    return fig


def moves(curves: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """Shares of the moves in the training pairs over iterations, means over seeds; the rest is wrong to wrong."""
    import matplotlib.pyplot as plt

    there = [name for name in runs if name in set(curves["run"])]
    fig, axes = plt.subplots(1, len(there), figsize=(3.0 * len(there) + 0.6, 2.9), sharey=True, squeeze=False)
    shown = MOVES[:3]
    for ax, name in zip(axes[0], there, strict=True):
        part = curves[curves["run"] == name].groupby("iteration")[[f"train {move}" for move in shown]].mean()
        ax.stackplot(part.index, part.to_numpy().T, colors=[COLOURS[move] for move in shown], labels=shown)
        ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
        ax.set(title=name, xlabel="iteration")
    axes[0, 0].set_ylabel("share of training pairs")
    axes[0, 0].legend(loc="upper left", fontsize=8)
    return fig


def grid(table: pd.DataFrame, values: Mapping[str, str], x: str = "N_corr", y: str = "N_init") -> Figure:
    """Heat maps over sample counts, means over seeds, each cell with its number; column -> format."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(values), figsize=(3.6 * len(values), 3.0), squeeze=False)
    for ax, (name, form) in zip(axes[0], values.items(), strict=True):
        square: Any = table.pivot_table(index=y, columns=x, values=name, aggfunc="mean")
        cells = square.to_numpy()
        ax.imshow(cells, origin="lower")
        ax.grid(False)
        ax.set(xticks=range(len(square.columns)), xticklabels=square.columns, xlabel=x, ylabel=y, title=name)
        ax.set(yticks=range(len(square)), yticklabels=square.index)
        for (row, column), value in np.ndenumerate(cells):
            dark = value <= (cells.min() + cells.max()) / 2
            ax.text(column, row, format(value, form), ha="center", va="center", color="w" if dark else "k")
    return fig
