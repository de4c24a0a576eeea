"""Hypotheses per second: our guided loop against OpenCV's and PoseLib's RANSAC on the same pairs, with the errors that
they reach; and minimal solvers one by one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd

from reprobook.bench import compare
from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry as g
from reprobook.papers.mc_diffusion_ransac import peers, ransac
from reprobook.papers.mc_diffusion_ransac.pairs import Pairs
from reprobook.papers.mc_diffusion_ransac.problems import ESSENTIAL, solve_homography
from reprobook.papers.mc_diffusion_ransac.scenes import draw_scenes, loftr_like

if TYPE_CHECKING:
    from reprobook.bench import Comparison
    from reprobook.papers.mc_diffusion_ransac.problems import Problem

Array = np.ndarray


def naive_score(problem: Problem, x: Array, models: Array, tau: float) -> list[int]:
    """Inliers of each model by a loop over the models, as released code does it."""
    return [int((problem.distance(x, model) < tau**2).sum()) for model in models]


def solvers(n: int = 200, repeats: int = 3, seed: int = 0) -> dict[str, float]:
    """Microseconds a minimal sample: 4 points by batched DLT and by OpenCV, 5 points by PoseLib and by OpenCV.

    Asserts that both homographies agree to 1e-6 on samples that are not nearly degenerate.
    """
    rng = np.random.default_rng(seed)
    samples = rng.uniform(-0.5, 0.5, (n, 4, 4))
    ends = [np.ascontiguousarray(samples[..., k : k + 2], dtype=np.float32) for k in (0, 2)]
    ours, owner = solve_homography(np.concatenate(ends, -1).astype(np.float64))
    theirs = np.stack([cv2.getPerspectiveTransform(a, b) for a, b in zip(*ends, strict=True)])[owner]
    gap = np.abs(ours - theirs).max((1, 2)) / np.abs(theirs).max((1, 2))
    if np.median(gap) > 1e-6:
        raise ReprobookError(f"batched DLT's and OpenCV's homographies differ by {np.median(gap):.1e}")
    scene = draw_scenes(1, 64, seed)
    x = g.calibrate(scene.free, scene.pairs(scene.free).K)[0]
    fives = x[rng.integers(0, len(x), (n, 5))]
    eye = np.eye(3)

    def opencv_five() -> None:
        for s in fives[:20]:
            cv2.findEssentialMat(s[:, :2].copy(), s[:, 2:].copy(), eye, cv2.RANSAC, 0.999, 1e-3, 1)

    ways = {
        "4 points, batched DLT": lambda: solve_homography(samples),
        "4 points, OpenCV in a loop": lambda: [cv2.getPerspectiveTransform(a, b) for a, b in zip(*ends, strict=True)],
        "5 points, PoseLib in a loop": lambda: ESSENTIAL.solve(fives),
        "5 points, OpenCV in a loop": opencv_five,
    }
    taken = compare(ways, equal=None, n=repeats).medians
    return {way: 1e6 * taken[way] / (20 if way == "5 points, OpenCV in a loop" else n) for way in ways}


def count_inliers(n_models: int = 256, n_matches: int = 256, repeats: int = 5, seed: int = 0) -> Comparison:
    """Counting the inliers of ``n_models`` essential matrices, one by one and all at once; the same counts, but for a
    match on the threshold (single against double precision)."""
    scenes = draw_scenes(1, n_matches, seed)
    pairs = scenes.pairs(loftr_like(scenes, np.random.default_rng(seed)))
    x, rng = ESSENTIAL.coordinates(pairs.matches, pairs)[0], np.random.default_rng(seed)
    models = ESSENTIAL.solve(x[rng.integers(0, n_matches, (n_models, 5))])[0][:n_models]
    tau = 1.0 / ESSENTIAL.pixels(pairs)[0]
    ways = {
        "model by model": lambda: np.array(naive_score(ESSENTIAL, x, models, tau)),
        "all models at once": lambda: ransac.score(ESSENTIAL, x, models, tau),
    }
    what = f"inliers of {n_models} models"
    return compare(ways, equal=lambda a, b: bool(np.abs(a - b).max() <= 1), n=repeats, what=what)


def scoring(n_models: int = 256, n_matches: int = 256, repeats: int = 5, seed: int = 0) -> dict[str, float]:
    """Median milliseconds of :func:`count_inliers`."""
    return {way: 1e3 * s for way, s in count_inliers(n_models, n_matches, repeats, seed).medians.items()}


def headline() -> Comparison:
    """Counting the inliers of 256 models among 256 matches: model by model over all at once."""
    return count_inliers(repeats=21)


def estimators(problem: Problem, pairs: Pairs, n: int, n_hypotheses: int, threshold_px: float) -> pd.DataFrame:
    """Per estimator: hypotheses per second, relative to our loop, and the median error that it reaches.

    ``pairs`` should be easy, so that all reach the same accuracy and only the speed differs.
    """
    x = problem.coordinates(pairs.filled(n, np.random.default_rng(0)), pairs)
    tau, rows = threshold_px / problem.pixels(pairs), []
    names = ["our guided loop", *peers.available(problem)]
    found: dict[str, list[Array | None]] = {}

    def estimate(name: str, i: int) -> Array | None:
        if name != names[0]:
            return peers.model_of(name, problem, x[i], tau[i], n_hypotheses)
        made = ransac.runs(problem, x[i], None, tau[i], 1, n_hypotheses, np.random.default_rng(i)).models[0]
        return made if np.isfinite(made).all() else None

    def run(name: str) -> None:
        found[name] = [estimate(name, i) for i in range(len(pairs))]

    spent = compare({name: partial(run, name) for name in names}, equal=None, n=1, warmup=0).medians
    for name, models in found.items():
        errors = [
            np.inf if model is None else
            problem.errors(model, x[i][problem.distance(x[i], model) < tau[i] ** 2], pairs, i)[0]
            for i, model in enumerate(models)
        ]  # fmt: skip
        row = {"estimator": name, "ms a pair": 1e3 * spent[name] / len(pairs), "median error": float(np.median(errors))}
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame.insert(2, "speed / our loop", frame["ms a pair"][0] / frame["ms a pair"])
    return frame


def easy_pairs(problem: Problem, n_pairs: int = 10, n: int = 256, seed: int = 0) -> Pairs:
    """Pairs with 70 % exact inliers: every estimator solves them."""
    scenes = draw_scenes(n_pairs, n, seed)
    rng, c = np.random.default_rng(seed), scenes.free.copy()
    pairs = scenes.pairs(c)
    if problem.name == "homography":
        H = np.array([[0.9, -0.2, 40], [0.15, 1.0, -10], [1e-4, 1e-4, 1]])
        c[..., 2:] = g.transfer(H, c[..., :2])
        pairs = Pairs(c, pairs.count, pairs.sizes, H=np.broadcast_to(H, (n_pairs, 3, 3)))
    wrong = rng.random((n_pairs, n)) < 0.3
    c[wrong, 2:] = rng.uniform([0, 0], [640, 480], (int(wrong.sum()), 2))
    return pairs
