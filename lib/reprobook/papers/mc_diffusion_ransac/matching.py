"""Real matches: SIFT, ORB and AKAZE (OpenCV) on real photographs with known homographies, and on the real stereo pair.

``python -m reprobook.papers.mc_diffusion_ransac.matching FOLDER FILE`` makes the file of matches that is bundled with
the book from the pictures in FOLDER. It is bundled because a detector's last bits, and with them a few matches, differ
from processor to processor: a test set must not.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry as g
from reprobook.papers.mc_diffusion_ransac.pairs import Pairs

Array = np.ndarray
TRAIN = ("astronaut.png", "brick.png", "camera.png", "coffee.png", "coins.png", "hubble_deep_field.jpg", "ihc.png")
TEST = ("chelsea.png", "grass.png", "gravel.png", "page.png", "rocket.jpg", "text.png")
VIEW = (480, 360)  # width, height of every warped picture
MOST, LEAST, STEPS = 256, 30, 8  # matches of a pair; 1/8 px of storage
DETECTORS: dict[str, Callable[[int], cv2.Feature2D]] = {
    "SIFT": lambda n: cv2.SIFT_create(nfeatures=n),
    "ORB": lambda n: cv2.ORB_create(nfeatures=n),
    "AKAZE": lambda n: cv2.AKAZE_create(threshold=5e-4),  # noqa: ARG005 (it has no limit of its own)
}
STEREO = {  # of scikit-image's motorcycle pair, which it took from the Middlebury 2014 set
    "focal": 994.978, "centre": (311.193, 254.877), "shift": 31.086, "baseline_m": 0.193001,
}  # fmt: skip


def read_picture(path: str | Path) -> Array:
    """A picture as grey values (H, W) uint8. Raises :class:`ReprobookError` if it cannot be read."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ReprobookError(f"{Path(path).name} is not a picture that OpenCV can read; fetch the data again")
    return image


def match(
    first: Array, second: Array, detector: str, most: int, rng: np.random.Generator, features: int = 500
) -> Array:
    """Mutual nearest neighbours of one detector's descriptors, (n, 4) pixels, n at most ``most`` (a random choice).

    No ratio test: sorting out wrong matches is the task. Fewer than two keypoints in an image: (0, 4).
    """
    if detector not in DETECTORS:
        raise ReprobookError(f"detector {detector!r} must be one of {', '.join(DETECTORS)}")
    tool = DETECTORS[detector](features)
    (k1, d1), (k2, d2) = (tool.detectAndCompute(image, None) for image in (first, second))
    if d1 is None or d2 is None or min(len(k1), len(k2)) < 2:
        return np.zeros((0, 4))
    norm = cv2.NORM_L2 if detector == "SIFT" else cv2.NORM_HAMMING
    found = cv2.BFMatcher(norm, crossCheck=True).match(d1, d2)
    p1, p2 = cv2.KeyPoint.convert(k1), cv2.KeyPoint.convert(k2)
    pairs = np.array([[m.queryIdx, m.trainIdx] for m in found], dtype=int).reshape(-1, 2)
    out = np.concatenate([p1[pairs[:, 0]], p2[pairs[:, 1]]], axis=1).astype(np.float64)
    return out[rng.permutation(len(out))[:most]]


def _photometric(image: Array, rng: np.random.Generator) -> Array:
    """Other exposure, blur and noise, as between two photographs."""
    out = 255 * (image / 255.0) ** rng.uniform(0.6, 1.6) * rng.uniform(0.7, 1.1)
    out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.3, 2.5)) + rng.normal(0, rng.uniform(2, 16), image.shape)
    return out.clip(0, 255).astype(np.uint8)


def _warp(image: Array, M: Array) -> Array:
    return cv2.warpPerspective(image, M, VIEW, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def photo_pair(image: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Two views of a picture and the homography between them in pixels: corners moved by up to a quarter of a side,
    turned by up to 90 degrees, scaled by 0.5 to 1.5."""
    h, w = image.shape
    centre = np.array(VIEW) / 2
    fit = max(VIEW[0] / w, VIEW[1] / h)
    base = np.array([[fit, 0, centre[0] - fit * w / 2], [0, fit, centre[1] - fit * h / 2], [0, 0, 1]])
    corners = np.array([[0, 0], [VIEW[0], 0], VIEW, [0, VIEW[1]]], dtype=np.float32)
    bent = (corners + rng.uniform(-0.25, 0.25, (4, 2)) * VIEW).astype(np.float32)
    angle, size = np.radians(rng.uniform(-90, 90)), rng.uniform(0.5, 1.5)
    c, s = size * np.cos(angle), size * np.sin(angle)
    turn = np.eye(3)
    turn[:2, :2] = [[c, -s], [s, c]]
    turn[:2, 2] = centre - turn[:2, :2] @ centre + rng.uniform(-40, 40, 2)
    H = turn @ cv2.getPerspectiveTransform(corners, bent)
    first = cv2.GaussianBlur(_warp(image, base), (0, 0), 0.5)
    return first, _photometric(_warp(image, H @ base), rng), H


def stereo_pair(left: Array, right: Array, rng: np.random.Generator) -> tuple[Array, Array, Array, Array, Array]:
    """Two virtual cameras at the places of the real ones: views, K (2, 3, 3), and R, t with X' = R X + t (metres).

    Turning a camera about its centre maps its picture by the exact homography K' R K^-1, so the parallax stays real.
    """
    f, (cx, cy) = STEREO["focal"], STEREO["centre"]
    look = rng.uniform([-9, -5, -20], [9, 5, 20])  # pan, tilt, roll in degrees; both cameras look about the same way
    views, Ks, Rs = [], [], []
    for image, shift in ((left, 0.0), (right, STEREO["shift"])):
        own = look + rng.uniform([-6, -5, -40], [6, 5, 40])
        R = np.eye(3)
        for axis, angle in zip(np.eye(3)[[1, 0, 2]], np.radians(own), strict=True):
            R = g.rotation(axis, angle) @ R
        K0 = np.array([[f, 0, cx + shift], [0, f, cy], [0, 0, 1]])
        zoom = rng.uniform(550, 1100)
        K = np.array([[zoom, 0, VIEW[0] / 2], [0, zoom, VIEW[1] / 2], [0, 0, 1]])
        view = _warp(image, K @ R @ np.linalg.inv(K0))
        views.append(view if image is left else _photometric(view, rng))
        Ks.append(K)
        Rs.append(R)
    baseline = np.array([-STEREO["baseline_m"], 0, 0])
    return views[0], views[1], np.stack(Ks), Rs[1] @ Rs[0].T, Rs[1] @ baseline


def stereo_gap(disparity_file: str | Path, every: int = 997) -> float:
    """Largest Sampson distance in pixels of correspondences from the measured disparity to :data:`STEREO`'s model.

    x_right = x_left - d, indexed by the left picture, unknown = inf."""
    with np.load(disparity_file, allow_pickle=False) as archive:
        disparity = archive["arr_0"]
    y, x = (each[::every] for each in np.nonzero(np.isfinite(disparity)))
    c = np.stack([x, y, x - disparity[y, x], y], axis=-1).astype(np.float64)
    f, (cx, cy) = STEREO["focal"], STEREO["centre"]
    K = np.array([[[f, 0, cx], [0, f, cy], [0, 0, 1]], [[f, 0, cx + STEREO["shift"]], [0, f, cy], [0, 0, 1]]])
    model = g.essential(np.eye(3), np.array([-STEREO["baseline_m"], 0, 0]))
    return float(f * np.sqrt(g.sampson(g.calibrate(c, K), model)).max())


def _collect(draw: Callable[[int], tuple[Array, Array, Array]], n: int, rng: np.random.Generator) -> dict[str, Array]:
    """``n`` pairs that all detectors can match; truth (n, ...), lists one after the other, counts (3, n)."""
    truth, lists = [], {name: [] for name in DETECTORS}
    tried = 0
    while len(truth) < n:  # a pair that cannot be matched is drawn again
        if (tried := tried + 1) > 20 * n:
            raise ReprobookError(f"only {len(truth)} of {n} pairs have {LEAST} matches of every detector")
        first, second, true = draw(len(truth))
        found = {name: match(first, second, name, MOST, rng) for name in DETECTORS}
        if min(map(len, found.values())) >= LEAST:
            truth.append(true)
            for name, c in found.items():
                lists[name].append(c)
    body = np.concatenate([c for each in lists.values() for c in each])
    counts = np.array([[len(c) for c in each] for each in lists.values()], dtype=np.uint16)
    return {"matches": np.round(body.clip(0) * STEPS).astype(np.uint16), "counts": counts, "truth": np.stack(truth)}


def real_matches(folder: str | Path, n: int = 150, seed: int = 0) -> bytes:
    """All real matches of the chapter as a compressed archive of arrays: photographs (train, test) and stereo."""
    parts = {}
    for k, (name, files) in enumerate((("train", TRAIN), ("test", TEST))):
        images, rng = [read_picture(Path(folder) / file) for file in files], np.random.default_rng([seed, k])
        parts[name] = _collect(lambda i, images=images, rng=rng: photo_pair(images[i % len(images)], rng), n, rng)
    left, right = (read_picture(Path(folder) / f"motorcycle_{side}.png") for side in ("left", "right"))
    rng = np.random.default_rng([seed, 2])

    def stereo(i: int) -> tuple[Array, Array, Array]:  # noqa: ARG001 (always the same picture)
        first, second, K, R, t = stereo_pair(left, right, rng)
        return first, second, np.concatenate([K.ravel(), R.ravel(), t])

    parts["stereo"] = _collect(stereo, n, rng)
    stream = io.BytesIO()
    np.savez_compressed(stream, **{f"{p}_{k}": v for p, part in parts.items() for k, v in part.items()})
    return stream.getvalue()


def read_matches(path: str | Path) -> dict[str, dict[str, Pairs]]:
    """``{"train" | "test" | "stereo": {detector: pairs}}`` of the bundled file; the same pairs for each detector."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    return {part: _read_part(arrays, part) for part in ("train", "test", "stereo")}


def _read_part(arrays: dict[str, Array], part: str) -> dict[str, Pairs]:
    counts, truth = arrays[f"{part}_counts"].astype(int), arrays[f"{part}_truth"]
    P = counts.shape[1]
    matches = np.zeros((*counts.shape, counts.max(), 4))
    matches[np.arange(counts.max()) < counts[..., None]] = arrays[f"{part}_matches"] / STEPS
    sizes = np.broadcast_to(np.array([VIEW, VIEW], dtype=np.float64), (P, 2, 2))
    if part == "stereo":
        K, R = truth[:, :18].reshape(P, 2, 3, 3), truth[:, 18:27].reshape(P, 3, 3)
        geometry = {"K": K, "R": R, "t": truth[:, 27:]}
    else:
        geometry = {"H": truth}
    return {name: Pairs(matches[d], counts[d], sizes, **geometry) for d, name in enumerate(DETECTORS)}


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(real_matches(Path(sys.argv[1])))
