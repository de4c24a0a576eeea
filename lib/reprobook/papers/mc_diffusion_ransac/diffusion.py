"""Monte Carlo diffusion of ground-truth correspondences, the paper's training data.

A correspondence is ``(x, y, x', y')`` in pixels; a batch is an array (B, N, 4); ``sizes`` (2, 2) or (B, 2, 2) holds
``(W, H)`` of both images. Nothing here needs torch: it is data preparation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reprobook.errors import ReprobookError

Schedule = Literal["ddpm", "offset"]
Origin = Literal["corner", "centre"]
Ends = Literal["second", "both"]
Array = np.ndarray


def beta_schedule(T: int = 1000, first: float = 1e-4, last: float = 0.02, kind: Schedule = "ddpm") -> Array:
    """Linear noise variances beta_1 .. beta_T, (T,).

    ``ddpm``: evenly spaced from ``first`` to ``last``. ``offset``: ``first + t/T (last - first)``, the other formula in
    use, whose beta_1 is already above ``first``. Which one the paper means is not known.
    """
    if T < 1 or not 0 < first <= last < 1:
        raise ReprobookError(f"beta_schedule: T {T} must be >= 1 and 0 < first {first} <= last {last} < 1")
    if kind == "ddpm":
        return np.linspace(first, last, T)
    if kind == "offset":
        return first + np.arange(1, T + 1) / T * (last - first)
    raise ReprobookError(f"beta_schedule: kind {kind!r} must be 'ddpm' or 'offset'")


def alpha_bar(betas: Array) -> Array:
    """Share of signal left, abar_0 = 1 (no step) to abar_T: (T + 1,)."""
    return np.concatenate([[1.0], np.cumprod(1.0 - np.asarray(betas, dtype=np.float64))])


def _columns(sizes: Array) -> Array:
    """(…, 2, 2) sizes -> (…, 1, 4): the extent that belongs to each of x, y, x', y'."""
    sizes = np.asarray(sizes, dtype=np.float64)
    return sizes.reshape(*sizes.shape[:-2], 1, 4)


def _noise_scale(sizes: Array) -> Array:
    """max(W, H) of the image that each of the four coordinates belongs to, (…, 1, 4)."""
    longer = np.asarray(sizes, dtype=np.float64).max(axis=-1)
    return np.repeat(longer, 2, axis=-1)[..., None, :]


def _origin(sizes: Array, origin: Origin) -> Array:
    if origin not in ("corner", "centre"):
        raise ReprobookError(f"origin {origin!r} must be 'corner' or 'centre'")
    return _columns(sizes) * (0.5 if origin == "centre" else 0.0)


def _moved(diffused: Array, c: Array, ends: Ends) -> Array:
    if ends not in ("second", "both"):
        raise ReprobookError(f"ends {ends!r} must be 'second' or 'both'")
    return diffused if ends == "both" else np.concatenate([c[..., :2], diffused[..., 2:]], axis=-1)


def diffuse(
    c: Array, abar: Array | float, s: Array | float, sizes: Array, rng: np.random.Generator,
    origin: Origin = "centre", ends: Ends = "second",
) -> Array:  # fmt: skip
    """Closed form: ``sqrt(abar) c + sqrt(1 - abar) eps s max(W, H)`` about ``origin``; (B, N, 4) or (N, 4).

    ``abar`` and ``s``: one number, or one per pair (B,). With ``ends="second"`` the first end point keeps its place.
    """
    abar, s = (np.asarray(v, dtype=np.float64)[..., None, None] for v in (abar, s))
    if np.any((abar < 0) | (abar > 1)) or np.any(s < 0):
        raise ReprobookError("diffuse: abar must be in [0, 1] and s >= 0")
    centre = _origin(sizes, origin)
    eps = rng.standard_normal(c.shape)
    out = centre + np.sqrt(abar) * (c - centre) + np.sqrt(1 - abar) * eps * s * _noise_scale(sizes)
    return _moved(out, c, ends)


def diffuse_steps(
    c: Array, t: int, betas: Array, s: float, sizes: Array, rng: np.random.Generator,
    origin: Origin = "centre", ends: Ends = "second",
) -> Array:  # fmt: skip
    """The same process step by step, ``c_t = sqrt(1 - beta_t) c_{t-1} + sqrt(beta_t) eps s max(W, H)``.

    Its law is that of :func:`diffuse` with ``alpha_bar(betas)[t]``; kept as the definition, too slow to train with.
    """
    if not 0 <= t <= len(betas):
        raise ReprobookError(f"diffuse_steps: t {t} must be from 0 to {len(betas)}")
    centre, scale = _origin(sizes, origin), s * _noise_scale(sizes)
    x = c - centre
    for beta in betas[:t]:
        x = np.sqrt(1 - beta) * x + np.sqrt(beta) * rng.standard_normal(c.shape) * scale
    return _moved(x + centre, c, ends)


def resample_outside(c: Array, sizes: Array, rng: np.random.Generator) -> Array:
    """Each end point outside ``[0, W) x [0, H)`` of its image is drawn again, uniformly in that image."""
    extent = _columns(sizes)
    inside = (c >= 0) & (c < extent)
    keep = np.repeat(inside[..., 0::2] & inside[..., 1::2], 2, axis=-1)
    return np.where(keep, c, rng.random(c.shape) * extent)


@dataclass(frozen=True)
class Msr:
    """Multi-stage randomisation: what is drawn once per image pair. The paper's ranges were not found.

    ``r``: share of correspondences that are diffused. ``t``: diffusion time, as shares of T. ``s``: noise scale, in
    units of the longer image side. ``noise="uniform"`` leaves the diffusion out: the ends are drawn uniformly.
    """

    T: int = 1000
    betas: tuple[float, float] = (1e-4, 0.02)
    schedule: Schedule = "ddpm"
    r: tuple[float, float] = (0.1, 0.95)
    t: tuple[float, float] = (0.0, 1.0)
    s: tuple[float, float] = (0.02, 0.5)
    origin: Origin = "centre"
    ends: Ends = "second"
    noise: Literal["diffusion", "uniform"] = "diffusion"

    def __post_init__(self) -> None:
        for name, top in (("r", 1.0), ("t", 1.0), ("s", np.inf)):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= top:
                raise ReprobookError(f"Msr: {name} {(low, high)} must be a range inside [0, {top:g}]")

    def without_msr(self) -> Msr:
        """The ablation: r, t and s fixed at the middle of their ranges."""
        middles = {name: (sum(getattr(self, name)) / 2,) * 2 for name in ("r", "t", "s")}
        return replace(self, **middles)

    def without_diffusion(self) -> Msr:
        """The ablation: r is drawn, outliers are uniform in the image."""
        return replace(self, noise="uniform")


@dataclass(frozen=True)
class Drawn:
    """A batch of training matches: ``matches`` and ``diffused`` (B, N), in the same shuffled order, and the draws."""

    matches: Array
    diffused: Array
    t: Array
    r: Array
    s: Array


def msr_sample(c: Array, sizes: Array, config: Msr, rng: np.random.Generator, keep: int = 5) -> Drawn:
    """One training sample per pair from true correspondences ``c`` (B, N, 4).

    Draw t, r, s; diffuse floor(r N) correspondences chosen by a random permutation; draw ends outside the image again;
    mix with the rest and shuffle. At least ``keep`` (the minimal set) stay untouched.
    Raises :class:`ReprobookError` for fewer than ``keep`` correspondences or values that are not finite.
    """
    B, N = c.shape[:2]
    if keep > N:
        raise ReprobookError(f"msr_sample: {N} correspondences; at least {keep}, the minimal set, are needed")
    if not np.isfinite(c).all():
        raise ReprobookError("msr_sample: correspondences must be finite")
    low, high = config.t
    t = np.maximum(1, np.ceil(rng.uniform(low, high, B) * config.T)).astype(int)
    r, s = rng.uniform(*config.r, B), rng.uniform(*config.s, B)
    n = np.minimum(np.floor(r * N).astype(int), N - keep)
    rank = np.argsort(np.argsort(rng.random((B, N)), axis=1), axis=1)  # a random permutation per pair
    chosen = rank < n[:, None]
    if config.noise == "uniform":
        noisy = _moved(rng.random(c.shape) * _columns(sizes), c, config.ends)
    else:
        abar = alpha_bar(beta_schedule(config.T, *config.betas, config.schedule))[t]
        noisy = resample_outside(diffuse(c, abar, s, sizes, rng, config.origin, config.ends), sizes, rng)
    mixed = np.where(chosen[..., None], noisy, c)
    order = np.argsort(rng.random((B, N)), axis=1)
    return Drawn(
        np.take_along_axis(mixed, order[..., None], axis=1), np.take_along_axis(chosen, order, axis=1), t, r, s
    )
