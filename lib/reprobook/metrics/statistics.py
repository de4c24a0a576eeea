"""Means with their spread, and intervals for paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 4_000_000  # resampled values in memory at once (32 MB)


@dataclass(frozen=True)
class Interval:
    """A mean difference with its confidence interval, from ``n`` pairs. ``low`` and ``high`` are NaN for one pair."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.4g} [{self.low:+.4g}, {self.high:+.4g}] (n = {self.n})"


def _finite(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """``values`` as a flat float64 array; raises :class:`ReprobookError` if it is empty or holds NaN or infinity."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ReprobookError(f"{name} has shape {list(array.shape)}; it must be a non-empty list of numbers")
    if not np.isfinite(array).all():
        raise ReprobookError(f"{name} holds {int((~np.isfinite(array)).sum())} values that are not finite")
    return array


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n - 1; NaN for one value)."""
    array = _finite("values", values)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], n_resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of ``a - b`` over pairs and its percentile bootstrap interval; whole pairs are drawn, so what the two have
    in common (an easy document, a lucky seed) cancels.

    ``a`` and ``b``: one number per unit (document, problem, seed), same order. Same ``seed``, same interval.
    Raises :class:`ReprobookError` if they differ in length or hold values that are not finite."""
    from scipy.stats import bootstrap

    a, b = _finite("a", a), _finite("b", b)  # type: ignore[assignment]
    if len(a) != len(b):
        raise ReprobookError(f"paired_bootstrap: a has {len(a)} values and b has {len(b)}; they must be pairs")
    if not 0 < confidence < 1 or n_resamples < 1:
        raise ReprobookError(
            f"paired_bootstrap: confidence {confidence} must be in (0, 1), n_resamples {n_resamples} >= 1"
        )
    difference = a - b  # type: ignore[operator]
    mean = float(difference.mean())
    if len(difference) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    found = bootstrap(
        (difference,),
        np.mean,
        n_resamples=n_resamples,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, CHUNK // len(difference)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), len(difference))


def all_above_zero(intervals: Sequence[Interval]) -> bool | None:
    """Whether a direction holds for every one of ``intervals``: True if all lie above 0, False if one lies below, None
    (it cannot be told) if none contradicts but one includes 0."""
    if all(each.low > 0 for each in intervals):
        return True
    return False if any(each.high < 0 for each in intervals) else None


def over_seeds(frame: pd.DataFrame, by: str | Sequence[str], value: str) -> pd.DataFrame:
    """One row per group of ``by`` (in order of appearance) with the ``mean``, ``sd`` (n - 1) and ``n`` of ``value``.

    Raises :class:`ReprobookError` for a column that ``frame`` does not have."""
    keys = [by] if isinstance(by, str) else list(by)
    missing = [name for name in [*keys, value] if name not in frame.columns]
    if missing:
        raise ReprobookError(
            f"over_seeds: no column {', '.join(map(repr, missing))}; columns: {', '.join(map(str, frame))}"
        )
    grouped = frame.groupby(keys, sort=False, dropna=False)[value]
    return grouped.agg(mean="mean", sd="std", n="count").reset_index()
