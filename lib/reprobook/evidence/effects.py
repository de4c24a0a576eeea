"""Effects of one run and of several: estimates with intervals over independent units.

An effect is one number with a sign and a unit: a mean of scores, a paired difference or a ratio of means. Within a run
its error is that of the delete-one-group jackknife with Student's t over the groups (with few groups the percentile
bootstrap covers far too little). Over k runs the estimate is the mean of the runs' estimates, of their logarithms for
ratios:

- every run has units of its own: half width t(k - 1) s / sqrt(k), with s the spread of the runs' estimates;
- runs share their units: half^2 = t(k - 1)^2 s^2 / k + t(G - 1)^2 V, with V the jackknife variance of the *pooled*
  estimate, each of the G groups dropped from every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.record import EffectData

Scores = Mapping[str, np.ndarray]  # "a", "b" (paired effects), "groups" (labels); each of length n
Kind = Literal["mean", "difference", "ratio", "exact"]
LEVEL = 0.95
ROUNDING = 1e-15


@dataclass(frozen=True)
class Pooled:
    """An effect over ``k`` runs. ``half`` gives its half width at any level, on the scale where it is symmetric: for a
    ratio that of the logarithm. ``exact``: no interval. ``flaw`` says why there is none."""

    kind: str
    estimate: float  # on the symmetric scale
    k: int
    seed_variance: float = 0.0  # s^2 / k
    unit_variance: float = 0.0  # V
    n_groups: int = 0  # of shared units; 0: every run has units of its own
    flaw: str = ""

    @property
    def exact(self) -> bool:
        """Whether the effect is an identity, a count or a formula."""
        return self.kind == "exact"

    def parts(self, level: float = LEVEL) -> tuple[float, float]:
        """Half widths (from the seeds, from the shared units); their squares add up."""
        seeds = student(level, self.k - 1) * math.sqrt(self.seed_variance) if self.k > 1 else math.inf
        units = student(level, self.n_groups - 1) * math.sqrt(self.unit_variance) if self.n_groups > 1 else 0.0
        return seeds, units

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """``(low, high)`` in the effect's own unit; NaN where a flaw leaves nothing to say."""
        half = 0.0 if self.exact else math.nan if self.flaw else math.hypot(*self.parts(level))
        return self.shown(self.estimate - half), self.shown(self.estimate + half)

    def shown(self, value: float) -> float:
        """A value of the symmetric scale in the effect's own unit; what rounding leaves of zero is zero."""
        return math.exp(value) if self.kind == "ratio" else 0.0 if abs(value) < ROUNDING else value

    def scaled(self, value: float) -> float:
        """A value in the effect's own unit on the symmetric scale."""
        if self.kind != "ratio":
            return value
        return math.log(value) if value > 0 else -math.inf


def student(level: float, degrees: int) -> float:
    """Two-sided quantile of Student's t at ``level`` with ``degrees`` of freedom."""
    from scipy.stats import t

    return float(t.ppf(0.5 + level / 2, degrees))


def measure(kind: Kind, scores: Scores, *, unit: str, over: str, shared: bool, level: float = LEVEL) -> EffectData:
    """The effect of one run from scores per unit: estimate and interval over the groups of ``scores``.

    ``shared``: other runs have the same units. No interval (None) for one group, no spread, or scores that are not
    finite.
    """
    theta, dropped = _jackknife(kind, scores)
    values, half = list(dropped.values()), math.nan
    n_groups = len(values)
    variance = _jackknife_variance(values)
    if n_groups > 1 and variance > 0:
        half = student(level, n_groups - 1) * math.sqrt(variance)
    shown = math.exp if kind == "ratio" else float
    low, high = (shown(theta - half), shown(theta + half)) if math.isfinite(half) else (None, None)
    return EffectData(
        kind=kind, estimate=shown(theta) if math.isfinite(theta) else None, low=low, high=high,
        n=len(scores["a"]), groups=n_groups, unit=unit, over=over, shared=shared,
    )  # fmt: skip


def pool(effects: Sequence[EffectData], scores: Sequence[Scores | None]) -> Pooled:
    """One effect over the runs that hold it; ``scores`` belong to ``effects`` and are needed where units are shared.

    Raises :class:`ReprobookError` if the runs mean different things by it, or shared units come without scores."""
    first = effects[0]
    same = (first.kind, first.unit, first.shared)
    if other := next((e for e in effects if (e.kind, e.unit, e.shared) != same), None):
        raise ReprobookError(
            f"runs disagree about an effect: {first.kind} in {first.unit!r} and {other.kind} in {other.unit!r}"
        )
    values = [math.nan if e.estimate is None else float(e.estimate) for e in effects]
    if first.kind == "ratio":
        values = [math.log(v) if v > 0 else math.nan for v in values]
    mean, k = float(np.mean(values)), len(values)
    if first.kind == "exact":
        equal = all(math.isclose(v, values[0], rel_tol=1e-9, abs_tol=1e-12) for v in values)
        return Pooled("exact", mean, k, flaw="" if equal else "an exact effect differs between runs")
    if not all(map(math.isfinite, values)):
        return Pooled(first.kind, math.nan, k, flaw="a run has no number for it")
    spread = float(np.var(values, ddof=1)) / k if k > 1 else 0.0
    variance, n_groups = _shared_variance(first.kind, scores) if first.shared else (0.0, 0)
    flaw = _flaw(k, spread, variance, n_groups, first.shared)
    return Pooled(first.kind, mean, k, spread, variance, n_groups, flaw)


def _flaw(k: int, spread: float, variance: float, n_groups: int, shared: bool) -> str:
    if k < 2:
        return "one run has no spread over seeds"
    if shared and n_groups < 2:
        return "one group of units"
    if spread + variance <= 0 or not math.isfinite(variance):
        return "no spread at all"
    return ""


def _shared_variance(kind: str, scores: Sequence[Scores | None]) -> tuple[float, int]:
    """Jackknife variance of the mean over runs, each group dropped from every run, and the number of groups."""
    if any(each is None for each in scores):
        raise ReprobookError("an effect over shared units needs the scores file beside each record: publish it again")
    runs = [_jackknife(kind, each) for each in scores if each is not None]
    groups = sorted({label for _, dropped in runs for label in dropped})
    pooled = [float(np.mean([dropped.get(label, theta) for theta, dropped in runs])) for label in groups]
    return _jackknife_variance(pooled), len(groups)


def _jackknife_variance(values: Sequence[float]) -> float:
    """Variance of an estimate from its values with one group left out each: (G - 1) / G times their sum of squares."""
    g = len(values)
    return float((g - 1) / g * np.square(np.asarray(values) - np.mean(values)).sum()) if g > 1 else 0.0


def _jackknife(kind: str, scores: Scores) -> tuple[float, dict[str, float]]:
    """The estimate on its symmetric scale, and for each group the estimate without it."""
    labels, index = np.unique(scores["groups"], return_inverse=True)
    sums = [np.bincount(index, scores[name], len(labels)) for name in ("a", "b") if name in scores]
    counts = np.bincount(index, minlength=len(labels))
    combine = _COMBINE[kind]
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = combine([s.sum() for s in sums], counts.sum())
        left = combine([s.sum() - s for s in sums], counts.sum() - counts)
    return float(whole), dict(zip(map(str, labels), np.atleast_1d(left).tolist(), strict=True))


_COMBINE: Mapping[str, Callable[[list[Any], Any], Any]] = {
    "mean": lambda sums, n: sums[0] / n,
    "difference": lambda sums, n: (sums[0] - sums[1]) / n,
    "ratio": lambda sums, _: np.log(sums[0] / sums[1]),
}


def scores_of(
    name: str, a: Any, b: Any, keys: Sequence[Any] | None, groups: Sequence[Any] | None
) -> dict[str, np.ndarray]:
    """Checked scores of one effect, as :func:`measure` takes them and the file beside the record keeps them.

    Raises :class:`ReprobookError` for other shapes than (n,), unequal lengths, or units named twice."""
    found = {"a": _flat(name, "a", a)}
    if b is not None:
        found["b"] = _flat(name, "b", b)
    n = len(found["a"])
    units = None if keys is None else np.asarray([str(key) for key in keys])
    labels = units if groups is None else np.asarray([str(group) for group in groups])
    found["groups"] = np.arange(n).astype(str) if labels is None else labels
    wrong = {what: len(each) for what, each in (*found.items(), ("keys", units)) if each is not None and len(each) != n}
    if wrong:
        listing = ", ".join(f"{what} {size}" for what, size in wrong.items())
        raise ReprobookError(f"effect {name!r}: a has {n} units, but {listing}; every unit needs one of each")
    if units is not None and len(set(units)) < n:
        twice = next(str(unit) for k, unit in enumerate(units) if unit in units[:k])
        raise ReprobookError(f"effect {name!r}: unit {twice!r} occurs twice; bind units that hang together by groups")
    return found


def _flat(name: str, what: str, values: Any) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ReprobookError(f"effect {name!r}: {what} has shape {list(array.shape)}; it must be (n,), one per unit")
    return array
