"""Loss curves: a power law plus a constant, fitted robustly, with its uncertainty (Sections 4.1, 5.2, Appendix I).

One form serves both of the paper's laws: ``y(x) = s x^-q + c``. In the size law L(N) = (a / N)^b + E it is b = q,
E = c, a = s^(1/q); in the head law L(n_h) = a n_h^b + c it is a = s, b = -q.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq, least_squares, minimize_scalar
from scipy.stats import t as student

from reprobook.errors import ReprobookError
from reprobook.papers.cost_optimal_gqa.costs import Heads

if TYPE_CHECKING:
    import pandas as pd

TRUSTED = 3.0  # a law is trusted up to so many times the largest x it was fitted to
STARTS = (0.1, 0.3, 0.7)  # exponents from which the fit starts, each with three constants
HUBER = 5e-3  # log residuals beyond half a per cent count linearly
ENDLESS = 1e18  # no model has so many parameters
RATIO = 10.0  # the search for a crossing begins at the smallest x and grows by this factor


@dataclass(frozen=True)
class PowerLaw:
    """y = scale x^-exponent + constant, and what its fit was like (NaN for a law that was not fitted).

    ``largest``: largest x of the fit. ``r2``: of y. ``left_out``: mean relative error of points that were left out.
    ``interval``: 95 % intervals of "a", "b", "E" from the curvature of the fit, (NaN, NaN) where too few points allow
    none.
    """

    scale: float
    exponent: float
    constant: float
    largest: float = math.inf
    n: int = 0
    r2: float = math.nan
    left_out: float = math.nan
    interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def a(self) -> float:
        """a of (a / N)^b + E; infinite for a law so flat that it has no digits."""
        return _exp(math.log(self.scale) / self.exponent)

    @property
    def b(self) -> float:
        """The exponent, as the paper names it."""
        return self.exponent

    @property
    def E(self) -> float:
        """The constant, as the paper names it."""
        return self.constant

    def __call__(self, x: float | np.ndarray) -> float | np.ndarray:
        """y(x) = a x^-b + E."""
        return self.scale * np.asarray(x, dtype=np.float64) ** -self.exponent + self.constant

    def size_for(self, y: float) -> float | None:
        """x with y(x) = y: N* = a / (L* - E)^(1/b). None ("infeasible") if y is not above the constant, which no size
        reaches, or so little above it that x would exceed :data:`ENDLESS`."""
        if not math.isfinite(y):
            raise ReprobookError(f"the target is {y}; it must be a finite loss")
        if y <= self.constant:
            return None
        log_x = (math.log(self.scale) - math.log(y - self.constant)) / self.exponent
        return math.exp(log_x) if log_x < math.log(ENDLESS) else None

    def extrapolates(self, x: float) -> bool:
        """Whether x is so far beyond the fitted points that the law is a guess."""
        return x > TRUSTED * self.largest


def fit_power_law(x: Sequence[float], y: Sequence[float], *, constant: float | None = None) -> PowerLaw:
    """Fit y = s x^-q + c: least squares on log y, Huber's loss, several starts; q in (0, 1], c in [0, min y).

    ``constant`` fixes c. Needs one point more than parameters to say anything about itself, and at least as many
    points as parameters; fewer, or values that are not positive, raise :class:`ReprobookError`.
    """
    x, y = _points(x, y, 3 if constant is None else 2, constant)
    found, jacobian = _fit(x, y, constant)
    law = PowerLaw(*found)
    residual = np.log(law(x)) - np.log(y)
    spread = float(((y - y.mean()) ** 2).sum())
    return PowerLaw(
        *found,
        largest=float(x.max()),
        n=len(x),
        r2=1 - float(((law(x) - y) ** 2).sum()) / spread if spread else math.nan,
        left_out=_left_out(x, y, constant, found),
        interval=_intervals(found, jacobian, residual, x),
    )


def _points(
    x: Sequence[float], y: Sequence[float], n_parameters: int, constant: float | None
) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(np.unique(x)) < n_parameters:
        raise ReprobookError(f"a law with {n_parameters} parameters needs as many different x; got {len(np.unique(x))}")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ReprobookError("sizes and losses must be positive finite numbers")
    if constant is not None and not 0 <= constant < y.min():
        raise ReprobookError(f"the constant is {constant}; it must be from 0 to below the least loss, {y.min():.4g}")
    return x, y


def _fit(
    x: np.ndarray, y: np.ndarray, constant: float | None, near: tuple[float, float, float] | None = None
) -> tuple[tuple[float, float, float], np.ndarray]:
    """(s, q, c) of the best start and the Jacobian of the log residuals in (log excess at the middle, q, c).

    The excess is taken at the geometric middle of x: there it hardly depends on q, which keeps the problem well posed.
    ``near``: start at this law alone.
    """
    middle, least = math.exp(np.log(x).mean()), float(y.min())
    ratio = np.log(x / middle)

    def full(p: np.ndarray) -> np.ndarray:
        return p if constant is None else np.append(p, constant)

    def residual(p: np.ndarray) -> np.ndarray:
        u, q, c = full(p)
        return np.log(np.exp(u - q * ratio) + c) - np.log(y)

    size = 3 if constant is None else 2
    low, high = np.array([-20.0, 1e-6, 0.0])[:size], np.array([10.0, 1.0, least * (1 - 1e-9)])[:size]
    if near is None:
        constants = [0.0, 0.5 * least, 0.9 * least] if constant is None else [constant]
        starts = [(math.log(max(float(y.mean()) - c, 1e-3 * least)), q, c) for q in STARTS for c in constants]
    else:
        starts = [(math.log(near[0]) - near[1] * math.log(middle), near[1], near[2])]
    tight = {"ftol": 1e-13, "xtol": 1e-13, "gtol": 1e-13, "max_nfev": 300}
    tries = [
        least_squares(
            residual,
            np.clip(np.array(start)[:size], low + 1e-9, high - 1e-9),
            bounds=(low, high),
            loss="huber",
            f_scale=HUBER,
            x_scale="jac",
            **tight,
        )
        for start in starts
    ]
    best = min(tries, key=lambda found: found.cost)
    u, q, c = full(best.x)
    return (math.exp(u + q * math.log(middle)), float(q), float(c)), best.jac


def _left_out(x: np.ndarray, y: np.ndarray, constant: float | None, law: tuple[float, float, float]) -> float:
    """Mean of |law without the point / point - 1| over the points; NaN if too few would be left."""
    if len(x) <= (3 if constant is None else 2):
        return math.nan
    errors = []
    for i in range(len(x)):
        keep = np.arange(len(x)) != i
        fixed = None if constant is None else min(constant, float(y[keep].min()) * (1 - 1e-9))
        errors.append(abs(float(PowerLaw(*_fit(x[keep], y[keep], fixed, near=law)[0])(x[i])) / y[i] - 1))
    return float(np.mean(errors))


def _intervals(
    found: tuple[float, float, float], jacobian: np.ndarray, residual: np.ndarray, x: np.ndarray
) -> dict[str, tuple[float, float]]:
    """95 % intervals of a, b, E by the delta method, Student's t; (NaN, NaN) without a degree of freedom."""
    n, size = jacobian.shape
    names = ("a", "b", "E")
    if n <= size:
        return dict.fromkeys(names, (math.nan, math.nan))
    s, q, c = found
    middle = np.log(x).mean()
    covariance = np.linalg.pinv(jacobian.T @ jacobian) * float(residual @ residual) / (n - size)
    log_a = math.log(s) / q  # = u / q + log(middle)
    by_log_a = np.array([1 / q, -(log_a - middle) / q, 0.0])[:size]
    width = student.ppf(0.975, n - size)
    spread = [width * math.sqrt(max(float(v), 0.0)) for v in (by_log_a @ covariance @ by_log_a, covariance[1, 1])]
    wide_c = width * math.sqrt(max(float(covariance[2, 2]), 0.0)) if size == 3 else 0.0

    return {
        "a": (_exp(log_a - spread[0]), _exp(log_a + spread[0])),
        "b": (float(q - spread[1]), float(q + spread[1])),
        "E": (float(c - wide_c), float(c + wide_c)),
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


Curves = Mapping[Heads, tuple[Sequence[float], Sequence[float]]]


def fit_size_laws(curves: Curves, *, shared_entropy: bool = True) -> dict[Heads, PowerLaw]:
    """One law L(N; H) = (a / N)^b + E for each H of ``curves`` (H -> sizes, losses).

    ``shared_entropy``: one E for all H (the paper calls E the entropy of language, which heads cannot change, but does
    not say how it is fitted), found by minimising the sum of squared log residuals; else an E for each H.
    """
    if not shared_entropy:
        return {H: fit_power_law(*points) for H, points in curves.items()}
    least = min(min(losses) for _, losses in curves.values())

    last: dict[Heads, tuple[float, float, float]] = {}  # each fit starts at the one for the E before

    def misfit(E: float) -> float:
        total = 0.0
        for H, points in curves.items():
            x, y = _points(*points, 2, E)
            last[H] = _fit(x, y, E, near=last.get(H))[0]
            residual = np.log(PowerLaw(*last[H])(x)) - np.log(y)
            total += float(residual @ residual)
        return total

    grid = np.linspace(0, least * 0.999, 25)
    start = int(np.argmin([misfit(E) for E in grid]))
    bracket = (grid[max(start - 1, 0)], grid[min(start + 1, len(grid) - 1)])
    E = float(minimize_scalar(misfit, bounds=bracket, method="bounded", options={"xatol": 1e-10}).x)
    return {H: fit_power_law(*points, constant=E) for H, points in curves.items()}


def fit_head_law(n_h: Sequence[float], losses: Sequence[float], *, constant: float | None = None) -> PowerLaw:
    """L(n_h) = a n_h^b + c of the first version and Appendix I, b < 0: ``scale`` is a, ``-exponent`` is b."""
    return fit_power_law(n_h, losses, constant=constant)


def crossing(first: Callable[[float], float], second: Callable[[float], float]) -> float | None:
    """Smallest x above 1 at which two curves cross; None if they do not up to 1e12."""
    low, sign = 1.0, np.sign(first(1.0) - second(1.0))
    while low < 1e12:
        high = low * RATIO
        if np.sign(first(high) - second(high)) != sign:
            return float(brentq(lambda x: first(x) - second(x), low, high, xtol=1e-9))
        low = high
    return None


def curves_of(models: pd.DataFrame, loss: str, n_sizes: int = 3) -> dict[Heads, tuple[list[float], list[float]]]:
    """H -> sizes and losses from a table of trained models (columns n_h, n_kv, N and ``loss``), for each H that has
    ``n_sizes`` different sizes; rows of several seeds are points like others."""
    found = {}
    for (n_h, n_kv), rows in models.groupby(["n_h", "n_kv"], sort=False):
        if rows["N"].nunique() >= n_sizes:
            found[int(n_h), int(n_kv)] = (rows["N"].astype(float).tolist(), rows[loss].astype(float).tolist())
    return found
