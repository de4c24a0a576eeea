"""How far two segmentations agree, and how well a score tells true from false boundaries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reprobook.errors import ReprobookError


def boundary_f1(found: Sequence[int], true: Sequence[int]) -> float:
    """F1 of boundaries that agree exactly; 1 if there are none in both."""
    if not len(found) and not len(true):
        return 1.0
    return 2 * len(set(found) & set(true)) / (len(found) + len(true))


def _labels(cuts: Sequence[int], units: np.ndarray) -> np.ndarray:
    """Number of the chunk of each unit (n,), given the places where units begin and the end (n + 1,)."""
    return np.searchsorted(np.asarray(cuts), units[:-1], side="right")


def _window(true: Sequence[int], n: int, k: int | None) -> int:
    width = max(1, round(n / (len(true) + 1) / 2)) if k is None else k
    if not 1 <= width < n:
        raise ReprobookError(f"the window is {width}; it must be from 1 to the units of the text ({n}) minus 1")
    return width


def pk(found: Sequence[int], true: Sequence[int], units: np.ndarray, k: int | None = None) -> float:
    """Share of pairs of units ``k`` apart (default: half a mean true segment) of which one segmentation says that they
    are together and the other not (Beeferman et al., 1999). 0 is best."""
    width = _window(true, len(units) - 1, k)
    a, b = (_labels(cuts, units) for cuts in (found, true))
    return float(((a[width:] == a[:-width]) != (b[width:] == b[:-width])).mean())


def window_diff(found: Sequence[int], true: Sequence[int], units: np.ndarray, k: int | None = None) -> float:
    """Share of windows of ``k`` units in which the two have different numbers of boundaries (Pevzner and Hearst,
    2002). 0 is best."""
    width = _window(true, len(units) - 1, k)
    a, b = (_labels(cuts, units) for cuts in (found, true))
    return float(((a[width:] - a[:-width]) != (b[width:] - b[:-width])).mean())


def auc(positive: Sequence[float] | np.ndarray, negative: Sequence[float] | np.ndarray) -> float:
    """Probability that a positive score lies above a negative one; ties count half."""
    a, b = np.asarray(positive, float)[:, None], np.asarray(negative, float)[None]
    if not a.size or not b.size:
        raise ReprobookError(f"an AUC needs both classes; there are {a.size} true and {b.size} false boundaries")
    return float((a > b).mean() + (a == b).mean() / 2)
