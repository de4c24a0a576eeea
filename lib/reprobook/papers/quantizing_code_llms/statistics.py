"""The paper's test of two models on the same completions, and tests that respect that completions of one problem hang
together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from reprobook.errors import ReprobookError
from reprobook.metrics.statistics import paired_bootstrap

COLUMNS = ("model", "quantization", "language", "problem", "pass")  # of the authors' table, a row a completion
PAIRING = ["model", "language", "problem"]


class McNemar(NamedTuple):
    """Counts of pairs that only the first and only the second passes, their ratio, and the exact two-sided p."""

    first: int
    second: int
    odds_ratio: float
    p: float


def mcnemar(first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray) -> McNemar:
    """Exact McNemar test of paired outcomes. The ratio is #(only ``first`` passes) / #(only ``second`` passes).

    The authors call (quantised, baseline) and read a ratio above 1 as harm by quantisation: there ``first`` is the
    baseline. Infinite where ``second`` never passes alone, NaN where the two never differ (p = 1)."""
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ReprobookError(f"first has shape {a.shape} and second {b.shape}; they must be equally long lists")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return McNemar(0, 0, math.nan, 1.0)
    ratio = only_a / only_b if only_b else math.inf
    return McNemar(only_a, only_b, ratio, float(stats.binomtest(only_a, only_a + only_b).pvalue))


def sign_flips(differences: Sequence[float] | np.ndarray, n: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of a mean of paired differences, one a problem: their signs are flipped at random ``n`` times."""
    found = stats.permutation_test(
        (np.asarray(differences, float),), np.mean, permutation_type="samples", vectorized=True, n_resamples=n,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def compared(outcomes: pd.DataFrame, baseline: str, *, margin: float = 0.08) -> pd.DataFrame:
    """Each quantisation of a model and language against ``baseline``: the authors' columns (``base_precision``,
    ``quant_precision``, ``lng``, ``model``, ``p.value`` after Benjamini-Hochberg over the precisions, ``OR``), the raw
    p, and by problem: the difference of pass@1 with its 95 % bootstrap interval, p of sign flips, and whether the 90 %
    interval lies within +-``margin``.

    ``outcomes`` has :data:`COLUMNS`; rows of two quantisations are paired in their order, so they must name the same
    model, language and problem (the test they use recycles silently what is too short)."""
    if missing := set(COLUMNS) - set(outcomes):
        raise ReprobookError(f"outcomes has no column {', '.join(sorted(missing))}; it needs {', '.join(COLUMNS)}")
    rows = []
    for (model, language), part in outcomes.groupby(["model", "language"], sort=False):
        arms = {str(name): arm for name, arm in part.groupby("quantization", sort=False)}
        if baseline not in arms:
            raise ReprobookError(f"{model}, {language}: no rows of {baseline!r}; there are: {', '.join(arms)}")
        base, found = arms.pop(baseline), []
        for name, arm in arms.items():
            if len(arm) != len(base) or (arm[PAIRING].to_numpy() != base[PAIRING].to_numpy()).any():
                raise ReprobookError(f"{model}, {language}: rows of {name!r} and {baseline!r} are not in one order")
            found.append(_row(base, arm, margin) | {"quant_precision": name})
        adjusted = stats.false_discovery_control([row["p"] for row in found]) if found else []
        rows += [
            {"base_precision": baseline, "lng": language, "model": model, **row, "p.value": float(p)}
            for row, p in zip(found, adjusted, strict=True)
        ]
    first = ["base_precision", "quant_precision", "lng", "model", "p.value", "OR"]
    return pd.DataFrame(rows)[[*first, "p", "difference", "low", "high", "p, by problem", "equivalent"]]


def _row(base: pd.DataFrame, arm: pd.DataFrame, margin: float) -> dict[str, float | bool]:
    """Of one quantisation against the baseline: the test over completions, and what problems say."""
    tested = mcnemar(base["pass"].to_numpy(), arm["pass"].to_numpy())
    a, b = (part.groupby("problem", sort=True)["pass"].mean().tolist() for part in (arm, base))
    wide, narrow = paired_bootstrap(a, b, 2_000), paired_bootstrap(a, b, 2_000, confidence=0.9)
    return {
        "OR": tested.odds_ratio, "p": tested.p, "difference": wide.mean, "low": wide.low, "high": wide.high,
        "p, by problem": sign_flips(np.subtract(a, b)),
        "equivalent": bool(-margin < narrow.low and narrow.high < margin),
    }  # fmt: skip
