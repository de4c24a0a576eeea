"""Two-view geometry: distances of correspondences to models, poses from models, pose errors and their AUC.

Correspondences are (..., N, 4) = (x, y, x', y'), models (..., 3, 3); a model maps or relates the first image to the
second: ``x'^T E x = 0``, ``x'^T F x = 0``, ``x' ~ H x``. Leading dimensions broadcast.
"""

from __future__ import annotations

import numpy as np

from reprobook.errors import ReprobookError

Array = np.ndarray


def homogeneous(points: Array) -> Array:
    """(..., 2) -> (..., 3) with a last coordinate of 1."""
    return np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)


def _lines(c: Array, models: Array) -> tuple[Array, Array, Array]:
    """x'^T M x (..., N), and the epipolar lines M x and M^T x' as (..., 3, N)."""
    x1 = np.swapaxes(homogeneous(c[..., :2]), -1, -2)
    x2 = np.swapaxes(homogeneous(c[..., 2:]), -1, -2)
    second, first = models @ x1, np.swapaxes(models, -1, -2) @ x2
    return (x2 * second).sum(-2), second, first


def sampson(c: Array, models: Array) -> Array:
    """Squared Sampson distance to an essential or fundamental matrix, (..., N); inf where it is not defined."""
    algebraic, second, first = _lines(c, models)
    below = (second[..., :2, :] ** 2).sum(-2) + (first[..., :2, :] ** 2).sum(-2)
    return _ratio(algebraic**2, below)


def epipolar_squared(c: Array, models: Array) -> Array:
    """Squared distances to both epipolar lines, summed (NG-RANSAC's distance for F), (..., N)."""
    algebraic, second, first = _lines(c, models)
    top = algebraic**2
    return _ratio(top, (second[..., :2, :] ** 2).sum(-2)) + _ratio(top, (first[..., :2, :] ** 2).sum(-2))


def _ratio(top: Array, below: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        out = top / below
    return np.where(np.isnan(out), np.inf, out)


def transfer(models: Array, points: Array) -> Array:
    """Points (..., N, 2) mapped by homographies (..., 3, 3); what goes to infinity comes back as inf or NaN."""
    mapped = homogeneous(points) @ np.swapaxes(models, -1, -2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return mapped[..., :2] / mapped[..., 2:]


def transfer_squared(c: Array, models: Array) -> Array:
    """Symmetric transfer error of a homography: mean of the squared distances in both images, (..., N)."""
    with np.errstate(invalid="ignore", over="ignore"):
        forward = ((transfer(models, c[..., :2]) - c[..., 2:]) ** 2).sum(-1)
        back = ((transfer(adjugate(models), c[..., 2:]) - c[..., :2]) ** 2).sum(-1)
        out = (forward + back) / 2
    return np.where(np.isnan(out), np.inf, out)


def adjugate(m: Array) -> Array:
    """Adjugate of 3 x 3 matrices: the inverse up to scale, defined for singular matrices, too."""
    a, b, c = m[..., 0, :], m[..., 1, :], m[..., 2, :]
    return np.stack([cross(b, c), cross(c, a), cross(a, b)], axis=-1)


def cross(a: Array, b: Array) -> Array:
    """Cross products of (..., 3); ten times as fast as ``np.cross`` for short stacks."""
    (a0, a1, a2), (b0, b1, b2) = (np.moveaxis(v, -1, 0) for v in (a, b))
    return np.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], axis=-1)


def skew(t: Array) -> Array:
    """Cross-product matrices [t]_x of (..., 3)."""
    zero = np.zeros_like(t[..., 0])
    rows = [[zero, -t[..., 2], t[..., 1]], [t[..., 2], zero, -t[..., 0]], [-t[..., 1], t[..., 0], zero]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def essential(R: Array, t: Array) -> Array:
    """E = [t]_x R with a unit translation; X' = R X + t."""
    return skew(t / np.linalg.norm(t, axis=-1, keepdims=True)) @ R


def fundamental(E: Array, K1: Array, K2: Array) -> Array:
    """F = K2^-T E K1^-1."""
    return np.swapaxes(np.linalg.inv(K2), -1, -2) @ E @ np.linalg.inv(K1)


def rotation(axis: Array, angle: Array) -> Array:
    """Rotation matrices by ``angle`` (radians, (...)) about ``axis`` (..., 3), by Rodrigues' formula."""
    k = skew(axis / np.linalg.norm(axis, axis=-1, keepdims=True))
    angle = np.asarray(angle)[..., None, None]
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def calibrate(c: Array, K: Array) -> Array:
    """Pixels (..., N, 4) -> calibrated coordinates; ``K`` (..., 2, 3, 3) without skew."""
    focal = np.stack([K[..., 0, 0, 0], K[..., 0, 1, 1], K[..., 1, 0, 0], K[..., 1, 1, 1]], axis=-1)
    centre = np.concatenate([K[..., 0, :2, 2], K[..., 1, :2, 2]], axis=-1)
    return (c - centre[..., None, :]) / focal[..., None, :]


def scaling(sizes: Array) -> Array:
    """Matrices that move the centre of an image to 0 and its longer side to -0.5 .. 0.5; (..., 2) -> (..., 3, 3)."""
    sizes = np.asarray(sizes, dtype=np.float64)
    longer = sizes.max(-1)
    out = np.zeros((*sizes.shape[:-1], 3, 3))
    out[..., 0, 0] = out[..., 1, 1] = 1 / longer
    out[..., :2, 2] = -sizes / 2 / longer[..., None]
    out[..., 2, 2] = 1
    return out


def centre_scale(c: Array, sizes: Array) -> Array:
    """Pixels (..., N, 4) -> the coordinates of :func:`scaling` of both images, ``sizes`` (..., 2, 2)."""
    sizes = np.asarray(sizes, dtype=np.float64)
    columns = sizes.reshape(*sizes.shape[:-2], 1, 4)
    return (c - columns / 2) / np.repeat(sizes.max(-1), 2, axis=-1)[..., None, :]


def rotation_error(R: Array, R_true: Array) -> Array:
    """Angle between rotations in degrees, (...)."""
    trace = (R * R_true).sum((-1, -2))
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def translation_error(t: Array, t_true: Array, fold: bool = True) -> Array:
    """Angle between translation directions in degrees; ``fold``: t and -t count as the same (SuperGlue, LoFTR)."""
    norms = np.linalg.norm(t, axis=-1) * np.linalg.norm(t_true, axis=-1)
    angle = np.degrees(np.arccos(np.clip((t * t_true).sum(-1) / np.maximum(norms, 1e-15), -1, 1)))
    return np.minimum(angle, 180 - angle) if fold else angle


def corner_error(H: Array, H_true: Array, size: Array) -> Array:
    """Mean distance in pixels between the image's corners under both homographies (...); inf if it is not finite."""
    W, h = np.asarray(size, dtype=np.float64)
    corners = np.array([[0, 0], [W, 0], [W, h], [0, h]])
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.linalg.norm(transfer(H, corners) - transfer(H_true, corners), axis=-1).mean(-1)
    return np.where(np.isnan(gap), np.inf, gap)


def _errors(errors: Array) -> Array:
    out = np.asarray(errors, dtype=np.float64).ravel()
    if not len(out) or np.isnan(out).any() or (out < 0).any():
        raise ReprobookError("AUC needs at least one error; errors must be >= 0 (a failed pair is infinity), not NaN")
    return out


def auc_exact(errors: Array, threshold: float) -> float:
    """Area under the recall curve up to ``threshold``, by the trapezoid rule (SuperGlue, LoFTR); in [0, 1]."""
    found = np.sort(_errors(errors))
    recall = np.arange(1, len(found) + 1) / len(found)
    last = np.searchsorted(found, threshold)
    x = np.concatenate([[0.0], found[:last], [threshold]])
    y = np.concatenate([[0.0], recall[:last], [recall[last - 1] if last else 0.0]])
    return float(np.trapezoid(y, x) / threshold)


def auc_binned(errors: Array, threshold: float, width: float = 5.0) -> float:
    """Mean of the cumulative histogram in bins of ``width`` up to ``threshold`` (Yi et al., NG-RANSAC); in [0, 1]."""
    found = _errors(errors)
    edges = np.arange(1, round(threshold / width) + 1) * width
    if len(edges) == 0 or not np.isclose(edges[-1], threshold):
        raise ReprobookError(f"auc_binned: threshold {threshold} must be a multiple of the bin width {width}")
    return float((found[:, None] < edges).mean(0).mean())


def area(errors: Array, threshold: float) -> Array:
    """Each pair's part of the area under the recall *steps*, max(0, 1 - e / threshold): its mean is an AUC, and being
    one number per pair it can be compared pair by pair. Never above :func:`auc_exact` in the mean."""
    return np.clip(1 - _errors(errors) / threshold, 0, None)
