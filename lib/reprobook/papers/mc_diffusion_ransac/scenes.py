"""Synthetic two-view scenes with exact truth, and four procedures that err as matchers do.

None of the four adds the Gaussian noise of the training diffusion to make its outliers: `sift_like` errs uniformly,
`loftr_like` by smooth displacement and copied neighbours, `repeat_like` to a second consistent motion, `hub_like`
many-to-one. All are vectorised over pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry
from reprobook.papers.mc_diffusion_ransac.pairs import Pairs

Array = np.ndarray
W, H, FOCAL = 640, 480, 525.0
SIZE = np.array([W, H], dtype=np.float64)
GRID = 8  # pixels between the first ends of loftr_like
K = np.array([[FOCAL, 0, W / 2], [0, FOCAL, H / 2], [0, 0, 1]])
N_PARTS, N_TRIED, CHUNK = 6, 8, 64  # planes at most; candidates per kept point; scenes drawn at once


@dataclass(frozen=True)
class Scenes:
    """``free`` and ``grid`` (B, N, 4): true correspondences from free pixels and from the pixels of an 8-px grid."""

    free: Array
    grid: Array
    R: Array
    t: Array

    def pairs(self, matches: Array) -> Pairs:
        """These scenes with ``matches`` (B, N, 4) as image pairs."""
        B = len(matches)
        sizes = np.broadcast_to(np.stack([SIZE, SIZE]), (B, 2, 2))
        Ks = np.broadcast_to(np.stack([K, K]), (B, 2, 3, 3))
        return Pairs(matches, np.full(B, matches.shape[1]), sizes, Ks, self.R, self.t)


def draw_scenes(n_scenes: int, n_points: int, seed: int) -> Scenes:
    """Three to six planes and a cloud, 1 to 6 m away; cameras 5 to 40 degrees and 0.1 to 0.8 m apart.

    Every kept point is visible in both images; scenes with too small an overlap are drawn again.
    """
    most = (W // GRID) * (H // GRID) // 2
    if not 5 <= n_points <= most:
        raise ReprobookError(f"draw_scenes: n_points {n_points} must be from 5 to {most}, half of the grid's pixels")
    rng, kept, found = np.random.default_rng(seed), [], 0
    while found < n_scenes:
        kept.append(_draw(CHUNK, n_points, rng))
        found += len(kept[-1][0])
        if found == 0 and len(kept) == 20:
            raise ReprobookError(f"draw_scenes: no scene shows {n_points} points in both images: ask for fewer")
    parts = (np.concatenate(each)[:n_scenes] for each in zip(*kept, strict=True))
    return Scenes(*parts)


def _draw(B: int, N: int, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    axis, angle = rng.standard_normal((B, 3)), np.radians(rng.uniform(5, 40, B))
    R = geometry.rotation(axis, angle)
    direction = rng.standard_normal((B, 3))
    t = direction / np.linalg.norm(direction, axis=1, keepdims=True) * rng.uniform(0.1, 0.8, (B, 1))
    n_parts = rng.integers(3, N_PARTS + 1, B)
    seeds = rng.uniform(0, 1, (B, N_PARTS, 2)) * SIZE  # a plane owns the pixels nearest to its seed
    seeds[np.arange(N_PARTS) >= n_parts[:, None]] = 1e6
    nearness = rng.uniform(1 / 6, 1, (B, N_PARTS))  # inverse depth at the seed; affine in the pixel, so a plane
    slope = rng.uniform(-0.4, 0.4, (B, N_PARTS, 2))
    cloud = rng.uniform(0.1, 0.3, (B, 1))

    def project(pixels: Array) -> tuple[Array, Array]:
        part = ((pixels[:, :, None] - seeds[:, None]) ** 2).sum(-1).argmin(-1)
        at = np.take_along_axis(seeds, part[..., None], axis=1)
        tilt = np.take_along_axis(slope, part[..., None], axis=1)
        near = np.take_along_axis(nearness, part, axis=1) + (tilt * (pixels - at) / FOCAL).sum(-1)
        near = np.where(rng.random(part.shape) < cloud, rng.uniform(1 / 6, 1, part.shape), near)
        X = geometry.homogeneous((pixels - SIZE / 2) / FOCAL) / near[..., None]
        Y = X @ np.swapaxes(R, 1, 2) + t[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            second = Y[..., :2] / Y[..., 2:] * FOCAL + SIZE / 2
        seen = (near >= 1 / 6) & (near <= 1) & (Y[..., 2] > 0.3) & ((second >= 0) & (second < SIZE)).all(-1)
        return np.concatenate([pixels, second], axis=-1), seen

    free, seen_free = project(rng.uniform(0, 1, (B, N_TRIED * N, 2)) * SIZE)
    cells = np.stack(np.meshgrid(np.arange(W // GRID), np.arange(H // GRID)), -1).reshape(-1, 2) * GRID + GRID / 2
    order = rng.random((B, len(cells))).argsort(1)[:, : N_TRIED * N]
    grid, seen_grid = project(cells[order])
    enough = (seen_free.sum(1) >= N) & (seen_grid.sum(1) >= N)
    return _first(free, seen_free, N)[enough], _first(grid, seen_grid, N)[enough], R[enough], t[enough]


def _first(c: Array, seen: Array, N: int) -> Array:
    """The first ``N`` seen correspondences of each scene (rows with fewer hold others and are thrown away)."""
    order = np.argsort(~seen, axis=1, kind="stable")[:, :N]
    return np.take_along_axis(c, order[..., None], axis=1)


# ---------------------------------------------------------------------------------------------------- matchers


def _uniform(c: Array, rng: np.random.Generator) -> Array:
    return rng.random((*c.shape[:2], 2)) * SIZE


def _outside(points: Array) -> Array:
    return ~((points >= 0) & (points < SIZE)).all(-1)


def _mix(c: Array, second: Array, wrong: Array, rng: np.random.Generator) -> Array:
    """``c`` with second ends replaced where ``wrong``; ends that leave the image are drawn uniformly; shuffled."""
    second = np.where(wrong[..., None], second, c[..., 2:])
    second = np.where((wrong & _outside(second))[..., None], _uniform(c, rng), second)
    second = np.clip(second, 0, np.nextafter(SIZE, 0))
    out = np.concatenate([c[..., :2], second], axis=-1)
    return np.take_along_axis(out, rng.random(c.shape[:2]).argsort(1)[..., None], axis=1)


def _wrong(c: Array, low: float, high: float, rng: np.random.Generator) -> Array:
    """Which correspondences become outliers, at random; the inlier share is uniform in [low, high]."""
    share = rng.uniform(low, high, (len(c), 1))
    return rng.random(c.shape[:2]).argsort(1) >= share * c.shape[1]


def _jitter(c: Array, sd: float, rng: np.random.Generator) -> Array:
    noise = np.zeros(c.shape)
    noise[..., 2:] = rng.normal(0, sd, (*c.shape[:2], 2))
    return c + noise


def _field(points: Array, rng: np.random.Generator, n_waves: int = 4) -> Array:
    """A random field that is smooth over the image, mean 0, deviation 1, at ``points`` (B, N, 2): (B, N, 2)."""
    B = len(points)
    length, angle = rng.uniform(100, 300, (B, n_waves)), rng.uniform(0, 2 * np.pi, (B, n_waves))
    wave = 2 * np.pi / length[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    phase = points @ np.swapaxes(wave, 1, 2)  # (B, N, waves)
    shift = rng.uniform(0, 2 * np.pi, (B, 1, n_waves, 2))
    return np.cos(phase[..., None] + shift).sum(2) / np.sqrt(n_waves / 2)


def sift_like(scenes: Scenes, rng: np.random.Generator) -> Array:
    """Sparse matcher: inlier share 0.1 to 0.4, noise 0.7 px, outliers end anywhere."""
    c = scenes.free
    return _mix(_jitter(c, 0.7, rng), _uniform(c, rng), _wrong(c, 0.1, 0.4, rng), rng)


def loftr_like(scenes: Scenes, rng: np.random.Generator) -> Array:
    """Semi-dense matcher: first ends on a grid, inlier share 0.5 to 0.9, smooth noise of 1 to 1.5 px; outliers are
    displaced by 5 to 60 px along a smooth field, or blobs that copy the displacement of a neighbour."""
    c = scenes.grid
    B, N = c.shape[:2]
    true = np.concatenate([c[..., :2], c[..., 2:] + rng.uniform(1.0, 1.5, (B, 1, 1)) * _field(c[..., :2], rng)], -1)
    n_wrong = N - (rng.uniform(0.5, 0.9, (B, 1)) * N)
    blob = rng.uniform(0.2, 0.6, (B, 1))  # share of the outliers that sit in blobs
    centres = rng.random((B, 3, 2)) * SIZE
    distance = np.sqrt(((c[:, :, None, :2] - centres[:, None]) ** 2).sum(-1)).min(-1)
    occluded = distance.argsort(1).argsort(1) < blob * n_wrong  # the points nearest to three centres
    gaps = ((c[:, :, None, :2] - c[:, None, :, :2]) ** 2).sum(-1)
    source = np.where(occluded[:, None, :], np.inf, gaps).argmin(-1)  # the nearest point outside
    copied = np.take_along_axis(c[..., 2:] - c[..., :2], source[..., None], axis=1)
    strength = _field(c[..., :2], rng)
    reach = 5 + 55 / (1 + np.exp(-2 * strength[..., :1]))
    direction = _field(c[..., :2], rng)
    direction /= np.maximum(np.linalg.norm(direction, axis=-1, keepdims=True), 1e-9)
    moved = np.where(occluded[..., None], c[..., :2] + copied, c[..., 2:] + reach * direction)
    others = np.where(occluded, np.inf, -strength[..., 1])  # displaced where the field is strong
    displaced = ~occluded & (others.argsort(1).argsort(1) < (1 - blob) * n_wrong)
    return _mix(true, moved, occluded | displaced, rng)


def repeat_like(scenes: Scenes, rng: np.random.Generator) -> Array:
    """Repeated texture: inlier share 0.3 to 0.6; outliers follow one or two other consistent motions."""
    c = scenes.free
    B = len(c)
    angle, size = rng.uniform(-0.3, 0.3, (B, 2)), rng.uniform(0.8, 1.25, (B, 2))
    shift = rng.uniform(40, 200, (B, 2, 1)) * _unit(rng.uniform(0, 2 * np.pi, (B, 2)))
    turn = size[..., None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2
    )
    turn = np.where((rng.random((B, 2)) < 0.5)[..., None, None], np.eye(2), turn)  # half are pure translations
    which = (rng.random(c.shape[:2]) < 0.4) & (rng.random((B, 1)) < 0.5)
    pick = which.astype(int)[..., None]
    moved = np.einsum("bmij,bnj->bnmi", turn, c[..., 2:] - SIZE / 2) + shift[:, None] + SIZE / 2
    second = np.take_along_axis(moved, pick[..., None], axis=2)[:, :, 0] + rng.normal(0, 0.7, (*c.shape[:2], 2))
    return _mix(_jitter(c, 0.7, rng), second, _wrong(c, 0.3, 0.6, rng), rng)


def _unit(angle: Array) -> Array:
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def hub_like(scenes: Scenes, rng: np.random.Generator) -> Array:
    """Many to one: inlier share 0.2 to 0.5; 60 % of the outliers end within 15 px of ten hubs, the others anywhere."""
    c = scenes.free
    B, N = c.shape[:2]
    hubs = rng.random((B, 10, 2)) * SIZE
    at = np.take_along_axis(hubs, rng.integers(0, 10, (B, N))[..., None], axis=1)
    near = at + 15 * np.sqrt(rng.random((B, N, 1))) * _unit(rng.uniform(0, 2 * np.pi, (B, N)))
    second = np.where(rng.random((B, N, 1)) < 0.6, near, _uniform(c, rng))
    return _mix(_jitter(c, 0.7, rng), second, _wrong(c, 0.2, 0.5, rng), rng)


MATCHERS: dict[str, Callable[[Scenes, np.random.Generator], Array]] = {
    "sift_like": sift_like, "loftr_like": loftr_like, "repeat_like": repeat_like, "hub_like": hub_like,
}  # fmt: skip


def matched(scenes: Scenes, seed: int) -> dict[str, Pairs]:
    """The matches of all four procedures on the same scenes, each with a generator of its own."""
    return {
        name: scenes.pairs(matcher(scenes, np.random.default_rng([seed, i])))
        for i, (name, matcher) in enumerate(MATCHERS.items())
    }


def synthetic_pairs(n_pairs: int, n_points: int, seed: int) -> bytes:
    """The fixed test pairs of the four procedures, as the bytes of one array file.

    Matches are stored in 1/16 px as integers, poses with 12 decimals, so that the last bits of a processor's sine do
    not change the checksum.
    """
    scenes = draw_scenes(n_pairs, n_points, seed)
    found = matched(scenes, seed)
    lists = np.stack([found[name].matches for name in MATCHERS])
    pose = np.concatenate([scenes.R.reshape(-1, 9), scenes.t], axis=1)
    head = np.array([len(MATCHERS), n_pairs, n_points], dtype="<i4")
    body = np.round(lists * 16).astype("<u2")
    return head.tobytes() + body.tobytes() + np.round(pose * 1e12).astype("<i8").tobytes()


def read_pairs(data: bytes) -> dict[str, Pairs]:
    """What :func:`synthetic_pairs` wrote, by matcher. Raises :class:`ReprobookError` for bytes of another length."""
    M, P, N = (int(v) for v in np.frombuffer(data[:12], "<i4"))
    if len(data) != 12 + M * P * N * 8 + P * 96:
        raise ReprobookError(f"the file of synthetic test pairs has {len(data)} bytes, which is not what its head says")
    lists = np.frombuffer(data, "<u2", M * P * N * 4, 12).reshape(M, P, N, 4) / 16
    pose = np.frombuffer(data, "<i8", P * 12, 12 + M * P * N * 8).reshape(P, 12) / 1e12
    R, t = pose[:, :9].reshape(-1, 3, 3), pose[:, 9:]
    scenes = Scenes(lists[0], lists[0], R, t)
    return {name: scenes.pairs(lists[m]) for m, name in enumerate(MATCHERS)}
