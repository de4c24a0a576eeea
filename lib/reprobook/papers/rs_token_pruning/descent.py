"""Coarse to fine (Algorithm 1): from the tokens that a question attends to, to the tiles below them, and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.rs_token_pruning.pyramid import tiles_below

if TYPE_CHECKING:
    from reprobook.papers.rs_token_pruning.pyramid import Level

Encode = Callable[[int, np.ndarray], "Tokens"]  # level number, tiles (n, 2) -> their tokens
Score = Callable[[int, "Tokens"], np.ndarray]  # level number, its tokens -> a score each


class Tokens(NamedTuple):
    """Local tokens of a level: features (n, d), whatever holds them, and their cells (n, 2) in the unpadded grid."""

    features: object
    cells: np.ndarray

    def kept(self, index: np.ndarray) -> Tokens:
        """Those of ``index``, in its order."""
        return Tokens(self.features[index], self.cells[index])  # type: ignore[index]


class Found(NamedTuple):
    """Where a descent ended: level number, retained tokens, and the tiles opened on each level that was visited."""

    level: int
    tokens: Tokens
    opened: list[np.ndarray]

    @property
    def n_tiles(self) -> int:
        """Tiles opened on all levels."""
        return sum(map(len, self.opened))


def token_cells(level: Level, tiles: np.ndarray, tile: int, per_tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells (n, 2) of the tokens of ``tiles`` (m, 2) in the level's grid, and which of the m * c * c tokens they are:
    those that hold padding alone are left out."""
    inside = np.stack(np.divmod(np.arange(per_tile**2), per_tile), axis=1)
    cells = (tiles[:, None] * per_tile + inside).reshape(-1, 2)
    real = (cells < np.array(level.cells(tile, per_tile))).all(1)
    return cells[real], np.flatnonzero(real)


def top_share(scores: np.ndarray, alpha: float) -> np.ndarray:
    """Indices, rising, of the int(alpha * n) highest scores; of equal ones the first."""
    if not 0 <= alpha <= 1:
        raise ReprobookError(f"alpha must be in [0, 1], got {alpha}")
    return np.sort(np.argsort(-scores, kind="stable")[: int(alpha * len(scores))])


def above_threshold(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the scores above ``threshold`` once they are clipped to their 5th and 95th percentile and scaled to
    [0, 1]: a variant in the released code that nothing there calls. How many they are depends on how sharp they are."""
    if not 0 <= threshold < 1:
        raise ReprobookError(f"threshold must be in [0, 1), got {threshold}")
    low, high = np.percentile(scores, [5, 95])
    return np.flatnonzero((np.clip(scores, low, high) - low) / max(high - low, 1e-12) > threshold)


def descend(
    levels: list[Level], encode: Encode, score: Score, *, tile: int, per_tile: int, alpha: float = 0.25,
    n_max: float = 40, threshold: float | None = None, forced: bool = False, rule: str = "centre",
) -> Found:  # fmt: skip
    """Algorithm 1. All tiles of the first level are opened; the top ``alpha`` of its tokens name tiles of the next. If
    these are more than ``n_max``, or this was the last level, the top tokens of this level are what the language model
    reads. Tokens of levels are never mixed. For a fixed depth give the first ``levels`` alone.

    ``threshold`` in place of ``alpha``: see :func:`above_threshold`. ``forced``, for comparison: more tiles than
    ``n_max`` are cut to the best ones and the descent goes on."""
    if not n_max >= 0:
        raise ReprobookError(f"n_max must be 0 or more, got {n_max}")
    opened = [levels[0].tiles()]
    for at in range(len(levels)):
        tokens = encode(at, opened[-1])
        scores = score(at, tokens)
        key = top_share(scores, alpha) if threshold is None else above_threshold(scores, threshold)
        if at + 1 == len(levels) or not len(key):
            return Found(at, tokens.kept(key), opened)
        order = key[np.argsort(-scores[key], kind="stable")]
        below = tiles_below(tokens.cells[order], levels[at], levels[at + 1], tile=tile, per_tile=per_tile, rule=rule)
        chosen = first_seen(below)
        if len(chosen) > n_max and not (forced and n_max >= 1):
            return Found(at, tokens.kept(key), opened)
        opened.append(in_order(chosen[: int(min(n_max, len(chosen)))]))
    raise AssertionError("the last level returns")


def descend_by_tiles(
    levels: list[Level], encode: Encode, score: Score, n_tiles: int, *, tile: int, per_tile: int
) -> Found:
    """The experiment on choosers: on every level below the first exactly the ``n_tiles`` best tiles are opened (all, if
    there are fewer), and all tokens of the last ones are retained."""
    if n_tiles < 1:
        raise ReprobookError(f"n_tiles must be 1 or more, got {n_tiles}")
    opened = [levels[0].tiles()]
    for at in range(len(levels)):
        tokens = encode(at, opened[-1])
        if at + 1 == len(levels):
            return Found(at, tokens, opened)
        order = np.argsort(-score(at, tokens), kind="stable")
        below = tiles_below(tokens.cells[order], levels[at], levels[at + 1], tile=tile, per_tile=per_tile)
        opened.append(in_order(first_seen(below)[:n_tiles]))
    raise AssertionError("the last level returns")


def first_seen(tiles: np.ndarray) -> np.ndarray:
    """Distinct rows in the order in which they come first."""
    _, first = np.unique(tiles, axis=0, return_index=True)
    return tiles[np.sort(first)]


def in_order(tiles: np.ndarray) -> np.ndarray:
    """Rows sorted by row and column."""
    return tiles[np.lexsort((tiles[:, 1], tiles[:, 0]))]
