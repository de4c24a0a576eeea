"""Drawings of correspondences: displacement arrows in one image, or lines between two, coloured by a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.collections import LineCollection

from reprobook import show

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Array = np.ndarray
RIGHT, WRONG = "#0072B2", "#D55E00"


def arrows(ax: Axes, c: Array, size: Array, wrong: Array | None = None) -> None:
    """Correspondences (N, 4) drawn in the frame of the second image, from the first end point to the second.

    ``wrong`` (N,) bool colours them; None: all right.
    """
    wrong = np.zeros(len(c), dtype=bool) if wrong is None else wrong
    for colour, which in ((WRONG, wrong), (RIGHT, ~wrong)):
        ax.add_collection(LineCollection(c[which].reshape(-1, 2, 2), colors=colour, linewidths=0.7, antialiaseds=False))
        ax.plot(c[which, 2], c[which, 3], ".", color=colour, ms=3)
    _frame(ax, size)


def lines(
    ax: Axes, c: Array, sizes: Array, weight: Array, images: tuple[Array, Array] | None = None, top: float | None = None
) -> LineCollection:
    """Two images side by side and lines between them, coloured by ``weight`` (N,), heavy ones on top; the colours run
    from 0 to ``top`` (None: the largest weight)."""
    (w, h), (w2, h2) = sizes
    if images is not None:
        for image, left in zip(images, (0, w), strict=True):
            image = cv2.GaussianBlur(image, (0, 0), 1.5)  # noise would fill the stored PNG
            ax.imshow(image, cmap="gray", extent=(left, left + image.shape[1], image.shape[0], 0), alpha=0.6)
    order = np.argsort(weight)
    moved = c[order] + np.array([0, 0, w, 0])
    drawn = LineCollection(moved.reshape(-1, 2, 2), array=weight[order], cmap="viridis", linewidths=0.8)
    drawn.set_clim(0, weight.max() if top is None else top)
    ax.add_collection(drawn)
    ax.axvline(w, color="k", lw=0.5)
    _frame(ax, np.array([w + w2, max(h, h2)]))
    return drawn


def heatmap(ax: Axes, table: pd.DataFrame) -> None:
    """Per cents by training (rows) and test (columns), with their values written in."""
    show.heatmap(table, decimals=0, low=0, high=100, cmap="viridis", rotation=30, ax=ax)
    ax.set(xlabel="", ylabel="")


def _frame(ax: Axes, size: Array) -> None:
    ax.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="equal", xlabel="x (px)", ylabel="y (px)")
    ax.grid(False)
