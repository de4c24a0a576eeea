"""Guided RANSAC: hypotheses from samples drawn with the network's probabilities (NG-RANSAC).

Bad input gives an :class:`Estimate` marked as failed, with the reason; it never reaches a C library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import poselib

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry as g
from reprobook.papers.mc_diffusion_ransac.problems import recover_pose

if TYPE_CHECKING:
    from reprobook.papers.mc_diffusion_ransac.problems import Problem

Array = np.ndarray
Refine = Literal["none", "model"]
NO_PARALLAX = 0.95  # of the inliers explained by a rotation (E) or a plane (F): the model is not determined
CHUNK = 2_000_000  # distances in memory at once


@dataclass(frozen=True)
class Estimate:
    """A model (3, 3) with its inliers (N,), or the reason why there is none."""

    model: Array | None
    inliers: Array
    failed: str = ""


@dataclass(frozen=True)
class Runs:
    """``R`` independent runs on one pair: winners (R, 3, 3) (NaN if none), their inliers (R, N), and how often each
    correspondence was drawn in all hypotheses of a run, ``counts`` (R, N)."""

    models: Array
    inliers: Array
    counts: Array


def fault(problem: Problem, x: Array) -> str:
    """Why no model can be estimated from matches ``x`` (N, 4); empty if nothing speaks against it."""
    if x.ndim != 2 or x.shape[1:] != (4,):
        raise ReprobookError(f"matches have shape {list(x.shape)}; they must be (N, 4)")
    if len(x) < problem.sample:
        return f"{len(x)} matches, fewer than the minimal set of {problem.sample}"
    if not np.isfinite(x).all():
        return "matches that are NaN or infinite"
    if len(np.unique(x, axis=0)) < problem.sample:
        return f"fewer than {problem.sample} different matches"
    for ends in (x[:, :2], x[:, 2:]):
        spread = np.linalg.eigvalsh(np.cov(ends.T))
        if spread[0] <= 1e-12 * max(spread[1], 1e-300):
            return "all points are collinear"
    return ""


def draw(p: Array | None, N: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Indices drawn with replacement from ``p`` (N,), uniformly if None; duplicates in a sample are possible."""
    if p is None:
        return rng.integers(0, N, shape)
    if p.shape != (N,) or not np.isfinite(p).all() or (p < 0).any() or not p.sum() > 0:
        raise ReprobookError(f"p must hold {N} probabilities, finite and not negative, not all zero")
    levels = np.cumsum(p, dtype=np.float64)
    return np.searchsorted(levels, rng.random(shape) * levels[-1], side="right").clip(max=N - 1)


def score(problem: Problem, x: Array, models: Array, tau: float) -> Array:
    """Number of inliers of each model (K,): matches closer than ``tau``, all models at once."""
    step = max(1, CHUNK // len(x))
    x, models = x.astype(np.float32), models.astype(np.float32)
    parts = [problem.distance(x, models[k : k + step]) < tau**2 for k in range(0, len(models), step)]
    return np.concatenate([part.sum(-1) for part in parts]) if parts else np.zeros(0, dtype=int)


def runs(
    problem: Problem, x: Array, p: Array | None, tau: float, n_runs: int, n_hypotheses: int, rng: np.random.Generator
) -> Runs:
    """``n_runs`` times RANSAC with ``n_hypotheses``: of all roots of all samples, the one with most inliers.

    ``x`` (N, 4) in the problem's coordinates, finite; ``tau`` in the same; ``p`` (N,) or None (uniform).
    """
    N, m = len(x), problem.sample
    picked = draw(p, N, (n_runs, n_hypotheses, m), rng)
    models, owner = problem.solve(x[picked.reshape(-1, m)])
    counts = np.stack([np.bincount(each.ravel(), minlength=N) for each in picked])
    best = np.full((n_runs, 3, 3), np.nan)
    inliers = np.zeros((n_runs, N), dtype=bool)
    if len(models):
        found, run = score(problem, x, models, tau), owner // n_hypotheses
        order = np.lexsort((np.arange(len(models)), -found, run))  # best of each run first; ties to the earlier one
        winners = order[np.unique(run[order], return_index=True)[1]]
        best[run[winners]] = models[winners]
        inliers[run[winners]] = problem.distance(x, models[winners]) < tau**2
    return Runs(best, inliers, counts)


def estimate(
    problem: Problem, x: Array, p: Array | None, tau: float, n_hypotheses: int, rng: np.random.Generator,
    refine: Refine = "none",
) -> Estimate:  # fmt: skip
    """One guided RANSAC. Bad input, no model, too few inliers and a degenerate pair are failures, not exceptions.

    ``refine="model"``: afterwards non-linear refinement of the pose (E, PoseLib), a fit to all inliers (F: OpenCV's
    8-point, H: OpenCV's DLT); kept only if it has at least as many inliers.
    """
    if reason := fault(problem, x):
        return Estimate(None, np.zeros(len(x), dtype=bool), reason)
    found = runs(problem, x, p, tau, 1, n_hypotheses, rng)
    model, inliers = found.models[0], found.inliers[0]
    if not np.isfinite(model).all():
        return Estimate(None, inliers, "no sample gave a model")
    return judged(problem, x, _refined(problem, x, model, tau) if refine == "model" else model, tau)


def judged(problem: Problem, x: Array, model: Array, tau: float) -> Estimate:
    """``model`` with its inliers; failed if they are fewer than the minimal set or do not determine it."""
    inliers = problem.distance(x, model) < tau**2
    if inliers.sum() < problem.sample:
        return Estimate(None, inliers, f"{int(inliers.sum())} inliers, fewer than the minimal set")
    if problem.name != "homography" and _undetermined(problem, x[inliers], model, tau):
        what = "a rotation" if problem.name == "essential" else "a homography"
        return Estimate(None, inliers, f"no parallax: {what} explains the inliers")
    return Estimate(model, inliers)


def _undetermined(problem: Problem, x: Array, model: Array, tau: float) -> bool:
    """Whether the inliers leave the translation (E) or the matrix (F) open."""
    if problem.name == "essential":
        H = recover_pose(model, x)[0]
    else:
        H, _ = cv2.findHomography(x[:, :2].copy(), x[:, 2:].copy(), 0)
        if H is None:
            return True
    return bool((g.transfer_squared(x, H) < tau**2).mean() >= NO_PARALLAX)


def _refined(problem: Problem, x: Array, model: Array, tau: float) -> Array:
    """The model after a fit to its inliers, if it loses none."""
    inliers = problem.distance(x, model) < tau**2
    if inliers.sum() <= problem.sample:
        return model
    first, second = (np.ascontiguousarray(x[inliers, k : k + 2]) for k in (0, 2))
    if problem.name == "essential":
        pose = poselib.CameraPose()
        pose.R, pose.t = recover_pose(model, x[inliers])
        unit = {"model": "PINHOLE", "width": 1, "height": 1, "params": [1, 1, 0, 0]}
        pose, _ = poselib.refine_relative_pose(first, second, pose, unit, unit, {"loss_scale": tau})
        fitted = g.essential(pose.R, pose.t) if np.linalg.norm(pose.t) > 0 else None
    elif problem.name == "fundamental":
        fitted = cv2.findFundamentalMat(first, second, cv2.FM_8POINT)[0] if inliers.sum() > 7 else None
    else:
        fitted = cv2.findHomography(first, second, 0)[0]
    if fitted is None or fitted.shape != (3, 3) or not np.isfinite(fitted).all():
        return model
    return fitted if (problem.distance(x, fitted) < tau**2).sum() >= inliers.sum() else model


def error_of(problem: Problem, found: Estimate, x: Array, pairs: object, i: int) -> tuple[float, float]:
    """Errors of an estimate for pair ``i`` (see :meth:`Problem.errors`); a failed one is infinitely far off."""
    if found.model is None:
        return np.inf, np.inf
    return problem.errors(found.model, x[found.inliers], pairs, i)  # type: ignore[arg-type]


def hit_rate(w: float, m: int, M: int) -> float:
    """Probability that at least one of ``M`` samples of ``m`` holds inliers only, at inlier share ``w``."""
    return 1.0 - (1.0 - w**m) ** M


__all__ = ["Estimate", "Runs", "draw", "error_of", "estimate", "fault", "hit_rate", "judged", "runs", "score"]
