"""The Dynamic Image Pyramid (Section 4): the layers of a large picture and the tiles that each is cut into."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from reprobook.errors import ReprobookError

RULES = ("code", "paper")


class Level(NamedTuple):
    """One layer: the picture at ``height x width`` pixels, at the top left of a grid of ``rows x cols`` tiles."""

    height: int
    width: int
    rows: int
    cols: int

    def cells(self, tile: int, per_tile: int) -> tuple[int, int]:
        """Rows and columns of its tokens, ``per_tile`` along the side of a tile of ``tile`` pixels; cells that hold
        padding alone are left out (*unpadding*)."""
        return math.ceil(self.height * per_tile / tile), math.ceil(self.width * per_tile / tile)

    def tiles(self) -> np.ndarray:
        """(rows * cols, 2) row and column of every tile."""
        return np.stack(np.divmod(np.arange(self.rows * self.cols), self.cols), axis=1)


def thumbnail(height: int, width: int, tile: int = 336) -> Level:
    """The whole picture in one tile, sides in proportion."""
    ratio = min(tile / height, tile / width)
    return Level(max(1, round(height * ratio)), max(1, round(width * ratio)), 1, 1)


def pyramid(height: int, width: int, *, tile: int = 336, least: int = 1008, rule: str = "code") -> list[Level]:
    """Levels I^1 ... I^P of a picture, coarse to fine (the thumbnail comes on top).

    Per level: blocks N = ceil(size / tile), then the picture is enlarged by r = min(N_h tile / H, N_w tile / W) >= 1,
    so that it fills one axis exactly. ``rule="code"``: ratios 1, 1/2, 1/4 ... as long as the *long* side is ``least``
    or more, and at last the ratio that makes it ``least``; the step between the first two levels lies in (1, 2].
    ``rule="paper"``: halved as long as the *short* side stays at ``least`` or more. A picture below that is one level.
    Raises :class:`ReprobookError` for sizes below 1 and an unknown rule."""
    if min(height, width, tile) < 1 or least < tile or rule not in RULES:
        raise ReprobookError(
            f"pyramid: height, width and tile must be 1 or more, least no less than tile and rule one of "
            f"{', '.join(RULES)}; got {height}, {width}, {tile}, {least} and {rule!r}"
        )
    ratios = [1.0]
    if rule == "paper":
        while ratios[-1] / 2 * min(height, width) >= least:
            ratios.append(ratios[-1] / 2)
    else:
        end = min(least / max(height, width), 1.0)
        while ratios[-1] / 2 >= end:
            ratios.append(ratios[-1] / 2)
        if ratios[-1] > end:
            ratios.append(end)
    return [_level(max(1, round(height * r)), max(1, round(width * r)), tile) for r in reversed(ratios)]


def _level(height: int, width: int, tile: int) -> Level:
    rows, cols = math.ceil(height / tile), math.ceil(width / tile)
    scale = min(rows * tile / height, cols * tile / width)
    height, width = round(height * scale), round(width * scale)
    return Level(height, width, math.ceil(height / tile), math.ceil(width / tile))


def tiles_below(
    cells: np.ndarray, level: Level, below: Level, *, tile: int, per_tile: int, rule: str = "centre"
) -> np.ndarray:
    """(n, 2) tile of ``below`` that each token cell (n, 2) of ``level`` maps to.

    ``centre``: the tile that holds the cell's centre in the picture. ``code``: floor(row * N_h / rows), which counts
    the padding of ``below`` as picture and can miss by a tile near the bottom and the right edge."""
    if rule == "code":
        grid = np.array(level.cells(tile, per_tile))
        return cells * np.array([below.rows, below.cols]) // grid
    side = tile / per_tile
    size, size_below = np.array([level.height, level.width]), np.array([below.height, below.width])
    inside = np.minimum((cells + 0.5) * side, size - 1e-6)  # the last cell may reach beyond the picture
    return np.floor(inside / size * size_below / tile).astype(np.int64)
