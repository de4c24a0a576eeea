"""Robust estimators of well-kept libraries on the same matches: OpenCV, PoseLib, pydegensac.

Each gets the same threshold and at most the same number of hypotheses. They may stop earlier; that is their merit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import poselib
import pydegensac

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import evaluation, ransac
from reprobook.papers.mc_diffusion_ransac import geometry as g

if TYPE_CHECKING:
    from torch import nn

    from reprobook.papers.mc_diffusion_ransac.pairs import Pairs
    from reprobook.papers.mc_diffusion_ransac.problems import Problem

Array = np.ndarray
CONFIDENCE = 0.99999  # LoFTR's evaluation
OPENCV = {
    "OpenCV RANSAC": cv2.RANSAC, "OpenCV USAC": cv2.USAC_ACCURATE, "OpenCV MAGSAC++": cv2.USAC_MAGSAC,
}  # fmt: skip
NAMES = (*OPENCV, "PoseLib LO-RANSAC", "pydegensac")
PIXELS = 1000.0  # F and H: coordinates of about the size of pixels, for which the libraries' constants are made
UNIT = {"model": "PINHOLE", "width": 1, "height": 1, "params": [1.0, 1.0, 0.0, 0.0]}


def available(problem: Problem) -> tuple[str, ...]:
    """The estimators that can solve ``problem``: pydegensac knows no essential matrix."""
    return tuple(name for name in NAMES if name != "pydegensac" or problem.name != "essential")


def model_of(
    name: str, problem: Problem, x: Array, tau: float, n_hypotheses: int, seed: int = 0, ordered: bool = False
) -> Array | None:
    """The library's model of matches ``x`` (N, 4) in the problem's coordinates, or None if it found none.

    ``ordered``: best matches first, for PoseLib's progressive sampling (PROSAC).
    """
    if name not in available(problem):
        raise ReprobookError(f"estimator {name!r} for {problem.name}; there are: {', '.join(available(problem))}")
    scale = 1.0 if problem.name == "essential" else PIXELS
    first, second = (np.ascontiguousarray(x[:, k : k + 2]) * scale for k in (0, 2))
    found = _call(name, problem, first, second, tau * scale, n_hypotheses, seed, ordered)
    if found is None or found.shape != (3, 3) or not np.isfinite(found).all() or not np.abs(found).max() > 0:
        return None
    S, back = np.diag([scale, scale, 1.0]), np.diag([1 / scale, 1 / scale, 1.0])
    return back @ found @ S if problem.name == "homography" else S @ found @ S


def _call(
    name: str, problem: Problem, first: Array, second: Array, tau: float, n_hypotheses: int, seed: int, ordered: bool
) -> Array | None:
    if name in OPENCV:
        return _opencv(OPENCV[name], problem, first, second, tau, n_hypotheses, seed)
    if name == "pydegensac":
        return _degensac(problem, first, second, tau, n_hypotheses, seed)
    return _poselib(problem, first, second, tau, n_hypotheses, seed, ordered)


def _opencv(method: int, problem: Problem, first: Array, second: Array, tau: float, n: int, seed: int) -> Array | None:
    cv2.setRNGSeed(seed)
    try:
        if problem.name == "essential":
            found = cv2.findEssentialMat(first, second, np.eye(3), method, CONFIDENCE, tau, n)[0]
        elif problem.name == "fundamental":
            found = cv2.findFundamentalMat(first, second, method, tau, CONFIDENCE, n)[0]
        else:
            found = cv2.findHomography(first, second, method, tau, maxIters=n, confidence=CONFIDENCE)[0]
    except cv2.error:
        return None
    return None if found is None else found[:3]


def _poselib(
    problem: Problem, first: Array, second: Array, tau: float, n: int, seed: int, ordered: bool
) -> Array | None:
    options = {
        "max_iterations": n, "min_iterations": n, "max_epipolar_error": tau, "max_reproj_error": tau, "seed": seed,
        "success_prob": CONFIDENCE, "progressive_sampling": ordered,
    }  # fmt: skip
    if problem.name == "essential":
        pose, _ = poselib.estimate_relative_pose(first, second, UNIT, UNIT, options, {"loss_scale": tau})
        return g.essential(pose.R, pose.t) if np.linalg.norm(pose.t) > 0 else None
    estimator = poselib.estimate_fundamental if problem.name == "fundamental" else poselib.estimate_homography
    found, info = estimator(first, second, options, {"loss_scale": tau})
    return found if info["num_inliers"] else None


def _degensac(problem: Problem, first: Array, second: Array, tau: float, n: int, seed: int) -> Array | None:
    estimator = pydegensac.findHomography if problem.name == "homography" else pydegensac.findFundamentalMatrix
    try:
        return estimator(first, second, tau, CONFIDENCE, n, seed=seed + 1)[0]
    except (ValueError, RuntimeError):
        return None


def evaluate(
    name: str, problem: Problem, pairs: Pairs, n: int, n_hypotheses: int, threshold_px: float, seed: int,
    score: Callable[[Pairs], tuple[Array, Array]] | None = None,
) -> tuple[pd.DataFrame, float]:  # fmt: skip
    """Errors per pair as in :func:`evaluation.evaluate`, and mean seconds of the estimator per pair.

    ``score`` gives (coordinates, probabilities) of a network; matches are then handed over best first.
    """
    if score is None:
        x, p = problem.coordinates(pairs.filled(n, np.random.default_rng([seed, 77])), pairs), None
    else:
        x, p = score(pairs)
    tau, rows, spent = threshold_px / problem.pixels(pairs), [], 0.0
    for i in range(len(pairs)):
        c = x[i] if p is None else x[i][np.argsort(-p[i], kind="stable")]
        found = ransac.Estimate(None, np.zeros(len(c), dtype=bool), ransac.fault(problem, c))
        if not found.failed:
            begin = time.perf_counter()
            model = model_of(name, problem, c, tau[i], n_hypotheses, seed, ordered=p is not None)
            spent += time.perf_counter() - begin
            nothing = ransac.Estimate(None, found.inliers, "no model found")
            found = nothing if model is None else ransac.judged(problem, c, model, tau[i])
        folded, plain = ransac.error_of(problem, found, c, pairs, i)
        rows.append({"error": folded, "error, not folded": plain, "failed": found.failed})
    return pd.DataFrame(rows), spent / len(pairs)


def compare(
    problem: Problem, pairs: Pairs, model: nn.Module, n: int, n_hypotheses: int, threshold_px: float, seed: int
) -> pd.DataFrame:
    """Guided RANSAC with refinement (``model``'s probabilities) beside all libraries, first with at most
    ``n_hypotheses``, then with as many as fit into the seconds of ours, network included (16 to 4,000).

    Columns: estimator, same ("hypotheses" or "time"), AUC at the problem's largest threshold (%), hypotheses,
    time / ours.
    """
    top = f"AUC@{problem.thresholds[-1]:g}"
    begin = time.perf_counter()
    errors = evaluation.evaluate(problem, pairs, model, n, n_hypotheses, threshold_px, seed, "model")
    ours = (time.perf_counter() - begin) / len(pairs)
    rows = [("MCD, refined", "hypotheses", evaluation.summary(problem, errors)[top], n_hypotheses, 1.0)]
    for name in available(problem):
        errors, spent = evaluate(name, problem, pairs, n, n_hypotheses, threshold_px, seed)
        rows.append((name, "hypotheses", evaluation.summary(problem, errors)[top], n_hypotheses, spent / ours))
        budget = int(np.clip(n_hypotheses * ours / max(spent, 1e-9), 16, 4000))
        errors, spent = evaluate(name, problem, pairs, n, budget, threshold_px, seed)
        rows.append((name, "time", evaluation.summary(problem, errors)[top], budget, spent / ours))
    return pd.DataFrame(rows, columns=["estimator", "same", "AUC", "hypotheses", "time / ours"])
