"""What the paper's own figures and logs say, recomputed: what was kept, spreads, and the bias of a maximum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import integrate, stats

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    import pandas as pd

ITERATIONS = [str(k) for k in range(11)]


def series(logs: pd.DataFrame, run: str, measure: str) -> np.ndarray:
    """A logged series over iterations, NaN where the log has nothing."""
    found = logs[(logs["run"] == run) & (logs["measure"] == measure)]
    if len(found) != 1:
        raise ReprobookError(f"the logs have {len(found)} series of {measure!r} for {run!r}")
    return found[ITERATIONS].iloc[0].to_numpy(dtype=np.float64)


def correct_corrections(accuracy: float, n_questions: int, n_init: int, n_corr: int, pairing: str) -> float:
    """Number of pairs whose correction is right, at a mean correction reward ``accuracy``: |I| + |equal| (identity 1).

    ``matched``: Q J K pairs; ``cross``: Q J J K."""
    return accuracy * n_questions * n_init * n_corr * (n_init if pairing == "cross" else 1)


def spread_over_iterations(values: Sequence[float]) -> float:
    """Population standard deviation (divisor n) over the logged iterations: the paper's "±"."""
    array = np.asarray(values, dtype=np.float64)
    return float(np.nanstd(array))


def kept_against_change(kept: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept pairs of iteration n beside the change of accuracy from n to n + 1, where the log has both."""
    change = np.diff(accuracy)
    both = np.isfinite(change) & np.isfinite(kept[:-1])
    return kept[:-1][both], change[both]


def expected_maximum(n: int) -> float:
    """E[max] of n independent standard normal numbers: by how many standard errors the best of n scores of one and
    the same model exceeds its mean."""
    if n < 1:
        raise ReprobookError(f"n is {n}; it must be at least 1")
    density = stats.norm.pdf
    value, _ = integrate.quad(lambda x: x * n * density(x) * stats.norm.cdf(x) ** (n - 1), -12, 12)
    return float(value)


def standard_error(p: float, n: int) -> float:
    """Standard error of an accuracy ``p`` over ``n`` questions."""
    return math.sqrt(p * (1 - p) / n)
