"""Hypotheses per second: our guided loop against OpenCV's and PoseLib's RANSAC on the same pairs, with the errors that
they reach; and minimal solvers one by one. ``python -m reprobook.papers.mc_diffusion_ransac.bench`` prints ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry as g
from reprobook.papers.mc_diffusion_ransac import peers, ransac
from reprobook.papers.mc_diffusion_ransac.pairs import Pairs
from reprobook.papers.mc_diffusion_ransac.problems import ESSENTIAL, HOMOGRAPHY, solve_homography
from reprobook.papers.mc_diffusion_ransac.scenes import draw_scenes, loftr_like

if TYPE_CHECKING:
    from reprobook.papers.mc_diffusion_ransac.problems import Problem

Array = np.ndarray


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of ``call`` after one call that warms up."""
    taken = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return median(taken[1:])


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

    return {
        "4 points, batched DLT": 1e6 * seconds(lambda: solve_homography(samples), repeats) / n,
        "4 points, OpenCV in a loop": 1e6 * seconds(
            lambda: [cv2.getPerspectiveTransform(a, b) for a, b in zip(*ends, strict=True)], repeats) / n,
        "5 points, PoseLib in a loop": 1e6 * seconds(lambda: ESSENTIAL.solve(fives), repeats) / n,
        "5 points, OpenCV in a loop": 1e6 * seconds(opencv_five, repeats) / 20,
    }  # fmt: skip


def scoring(n_models: int = 256, n_matches: int = 256, repeats: int = 5, seed: int = 0) -> dict[str, float]:
    """Milliseconds to count the inliers of ``n_models`` essential matrices, all at once and one by one; same counts."""
    scenes = draw_scenes(1, n_matches, seed)
    pairs = scenes.pairs(loftr_like(scenes, np.random.default_rng(seed)))
    x, rng = ESSENTIAL.coordinates(pairs.matches, pairs)[0], np.random.default_rng(seed)
    models = ESSENTIAL.solve(x[rng.integers(0, n_matches, (n_models, 5))])[0][:n_models]
    tau = 1.0 / ESSENTIAL.pixels(pairs)[0]
    apart = np.abs(ransac.score(ESSENTIAL, x, models, tau) - naive_score(ESSENTIAL, x, models, tau)).max()
    if apart > 1:  # single against double precision, on the threshold
        raise ReprobookError(f"inlier counts differ by {apart}")
    return {
        "all models at once": 1e3 * seconds(lambda: ransac.score(ESSENTIAL, x, models, tau), repeats),
        "model by model": 1e3 * seconds(lambda: naive_score(ESSENTIAL, x, models, tau), repeats),
    }


def estimators(problem: Problem, pairs: Pairs, n: int, n_hypotheses: int, threshold_px: float) -> pd.DataFrame:
    """Per estimator: hypotheses per second, relative to our loop, and the median error that it reaches.

    ``pairs`` should be easy, so that all reach the same accuracy and only the speed differs.
    """
    x = problem.coordinates(pairs.filled(n, np.random.default_rng(0)), pairs)
    tau, rows = threshold_px / problem.pixels(pairs), []
    names = ["our guided loop", *peers.available(problem)]
    for name in names:
        begin, models = time.perf_counter(), []
        for i in range(len(pairs)):
            if name == names[0]:
                found = ransac.runs(problem, x[i], None, tau[i], 1, n_hypotheses, np.random.default_rng(i))
                models.append(found.models[0] if np.isfinite(found.models[0]).all() else None)
            else:
                models.append(peers.model_of(name, problem, x[i], tau[i], n_hypotheses))
        spent = time.perf_counter() - begin
        errors = [
            np.inf if model is None else
            problem.errors(model, x[i][problem.distance(x[i], model) < tau[i] ** 2], pairs, i)[0]
            for i, model in enumerate(models)
        ]  # fmt: skip
        row = {"estimator": name, "ms a pair": 1e3 * spent / len(pairs), "median error": float(np.median(errors))}
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


def main() -> None:
    """Print all comparisons; about 10 s on one core."""
    for name, us in solvers().items():
        print(f"{name}: {us:.1f} us a sample")
    for name, ms in scoring().items():
        print(f"counting inliers of 256 models, {name}: {ms:.2f} ms")
    for problem, threshold in ((ESSENTIAL, 1.0), (HOMOGRAPHY, 3.0)):
        print(f"{problem.name}, 64 hypotheses at most")
        print(estimators(problem, easy_pairs(problem), 256, 64, threshold).to_string(index=False))


if __name__ == "__main__":
    main()
