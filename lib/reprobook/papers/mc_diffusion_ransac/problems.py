"""The three problems that the chapter solves: essential matrix, fundamental matrix, homography.

Each knows its minimal set and solver, its distance, its coordinates, and how far an estimate is from the truth. The
minimal solvers are PoseLib's (5 points) and OpenCV's (7 points), C++ called once a sample. For 4 points the linear
systems of all samples go to LAPACK at once; `bench.py` compares that with a loop over OpenCV's solver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import poselib

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry as g
from reprobook.papers.mc_diffusion_ransac import pairs as pairs_module

if TYPE_CHECKING:
    from reprobook.papers.mc_diffusion_ransac.pairs import Pairs

Array = np.ndarray
Solved = tuple[Array, Array]  # models (K, 3, 3) and the sample that each comes from (K,)


def _stack(found: list[Array], samples: list[int]) -> Solved:
    if not found:
        return np.zeros((0, 3, 3)), np.zeros(0, dtype=int)
    models, owner = np.stack(found), np.array(samples)
    good = np.isfinite(models).all((1, 2)) & (np.abs(models).max((1, 2)) > 0)
    return models[good], owner[good]


def solve_essential(samples: Array) -> Solved:
    """Up to ten essential matrices from each five calibrated correspondences (M, 5, 4), by PoseLib's solver."""
    rays = [g.homogeneous(samples[..., k : k + 2]) for k in (0, 2)]
    first, second = (r / np.linalg.norm(r, axis=-1, keepdims=True) for r in rays)
    found, owner = [], []
    for i in range(len(samples)):
        models = poselib.essential_matrix_5pt(first[i], second[i])
        found += models
        owner += [i] * len(models)
    return _stack(found, owner)


def solve_fundamental(samples: Array) -> Solved:
    """Up to three fundamental matrices from each seven correspondences (M, 7, 4), by OpenCV's 7-point solver."""
    found, owner = [], []
    for i, sample in enumerate(np.ascontiguousarray(samples, dtype=np.float64)):
        try:
            models, _ = cv2.findFundamentalMat(sample[:, :2].copy(), sample[:, 2:].copy(), cv2.FM_7POINT)
        except cv2.error:  # repeated points
            continue
        if models is not None and models.size:
            models = models.reshape(-1, 3, 3)
            found += list(models)
            owner += [i] * len(models)
    return _stack(found, owner)


TRIPLES = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
FLAT = 1e-9  # twice the area of a triangle over the square of the sample's extent, below which it counts as collinear


def _general_position(points: Array) -> Array:
    """Whether no three of four points (M, 4, 2) are collinear, (M,)."""
    a, b, c = (points[:, TRIPLES[:, k]] for k in range(3))
    (ux, uy), (vx, vy) = (np.moveaxis(d, -1, 0) for d in (b - a, c - a))
    extent = np.ptp(points, axis=1).max(-1, keepdims=True)
    return (np.abs(ux * vy - uy * vx) > FLAT * np.maximum(extent, 1e-12) ** 2).all(1)


def solve_homography(samples: Array) -> Solved:
    """The homography of each four correspondences (M, 4, 4) by the direct linear transform with H_33 = 1, all systems
    at once in LAPACK; none where three points of an image are collinear."""
    fine = np.flatnonzero(_general_position(samples[..., :2]) & _general_position(samples[..., 2:]))
    x, y, u, v = np.moveaxis(samples[fine], -1, 0)
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = [[x, y, one, zero, zero, zero, -u * x, -u * y], [zero, zero, zero, x, y, one, -v * x, -v * y]]
    A = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2).reshape(-1, 8, 8)
    b = np.stack([u, v], axis=-1).reshape(-1, 8, 1)
    try:
        h = np.linalg.solve(A, b)
    except np.linalg.LinAlgError:  # H_33 is exactly 0 for some sample: a horizon through the origin
        h = np.linalg.solve(A + 1e-12 * np.eye(8), b)
    models = np.concatenate([h[..., 0], np.ones((len(h), 1))], axis=1).reshape(-1, 3, 3)
    good = np.isfinite(models).all((1, 2))
    return models[good], fine[good]


def recover_pose(E: Array, c: Array) -> tuple[Array, Array]:
    """R and unit t of an essential matrix: of OpenCV's four decompositions the one that puts most of ``c`` (N, 4),
    calibrated, in front of both cameras. Raises :class:`ReprobookError` if E has no decomposition."""
    if not np.isfinite(E).all():
        raise ReprobookError("recover_pose: E must be finite")
    R1, R2, t = cv2.decomposeEssentialMat(np.ascontiguousarray(E, dtype=np.float64))
    Rs, ts = np.stack([R1, R1, R2, R2]), np.stack([t, -t, t, -t])[..., 0]
    x1, x2 = g.homogeneous(c[:, :2]), g.homogeneous(c[:, 2:])
    a = x1 @ np.swapaxes(Rs, 1, 2)  # (4, N, 3): rays of the first camera seen from the second
    side = g.cross(x2, a)  # depths z1 a + t = z2 x2, each by a cross product with the other ray
    z1 = -(side * g.cross(x2, ts[:, None])).sum(-1)
    z2 = -(side * g.cross(a, ts[:, None])).sum(-1)
    best = int(((z1 > 0) & (z2 > 0)).sum(1).argmax())
    return Rs[best], ts[best]


@dataclass(frozen=True)
class Problem:
    """One kind of model. ``distance`` gives squared distances in the problem's own coordinates; AUC ``thresholds`` and
    the cap of the training loss are in ``unit``."""

    name: str
    sample: int
    unit: str
    thresholds: tuple[float, ...]
    cap: float
    solve: Callable[[Array], Solved]
    distance: Callable[[Array, Array], Array]
    truth: Callable[[Pairs], Array]

    def coordinates(self, c: Array, pairs: Pairs) -> Array:
        """Pixels (P, N, 4) -> calibrated coordinates (E), or centred ones with the longer side from -0.5 to 0.5."""
        if self.name == "essential":
            if pairs.K is None:
                raise ReprobookError("problem 'essential' needs pairs with K")
            return g.calibrate(c, pairs.K)
        return g.centre_scale(c, pairs.sizes)

    def pixels(self, pairs: Pairs) -> Array:
        """How many pixels one unit of :meth:`coordinates` is, (P,): mean focal length, or mean longer side."""
        if self.name == "essential":
            return np.stack([pairs.K[:, :, 0, 0], pairs.K[:, :, 1, 1]]).mean((0, 2))
        return np.asarray(pairs.sizes, dtype=np.float64).max(-1).mean(-1)

    def errors(self, model: Array, x: Array, pairs: Pairs, i: int) -> tuple[float, float]:
        """Error of ``model`` for pair ``i``, with its inliers ``x`` in this problem's coordinates, in :attr:`unit`.

        E and F: max of rotation and translation error, the translation folded (t and -t alike), then not folded.
        H: mean corner error, twice.
        """
        if self.name == "homography":
            T = g.scaling(pairs.sizes[i])
            H = np.linalg.inv(T[1]) @ model @ T[0]
            error = float(g.corner_error(H, pairs.H[i], pairs.sizes[i, 0]))
            return error, error
        R, t = self.pose(model, x, pairs, i)
        turn = g.rotation_error(R, pairs.R[i])
        shift = [g.translation_error(t, pairs.t[i], fold=fold) for fold in (True, False)]
        return max(float(turn), float(shift[0])), max(float(turn), float(shift[1]))

    def pose(self, model: Array, x: Array, pairs: Pairs, i: int) -> tuple[Array, Array]:
        """Relative pose of a model of E or F."""
        if self.name == "fundamental":
            T, K = g.scaling(pairs.sizes[i]), pairs.K[i]
            model = K[1].T @ T[1].T @ model @ T[0] @ K[0]
            x = g.calibrate(self._back(x, pairs.sizes[i]), K)
        return recover_pose(model, x)

    @staticmethod
    def _back(x: Array, sizes: Array) -> Array:
        sizes = np.asarray(sizes, dtype=np.float64)
        return x * np.repeat(sizes.max(-1), 2) + sizes.reshape(4) / 2


ESSENTIAL = Problem(
    "essential", 5, "degrees", (5, 10, 20), 180.0, solve_essential, g.sampson, pairs_module.essential_truth
)
FUNDAMENTAL = Problem(
    "fundamental", 7, "degrees", (5, 10, 20), 180.0, solve_fundamental, g.epipolar_squared,
    pairs_module.fundamental_truth,
)  # fmt: skip
HOMOGRAPHY = Problem(
    "homography", 4, "px", (3, 5, 10), 50.0, solve_homography, g.transfer_squared, pairs_module.homography_truth
)
PROBLEMS = {p.name: p for p in (ESSENTIAL, FUNDAMENTAL, HOMOGRAPHY)}
