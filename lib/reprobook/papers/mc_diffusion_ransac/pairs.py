"""A set of image pairs: matches, image sizes and the true geometry, as arrays; and the three problems' view of it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry

Array = np.ndarray


@dataclass(frozen=True)
class Pairs:
    """``P`` image pairs. Rows of ``matches`` (P, N, 4), in pixels, are valid up to ``count`` (P,); the rest is 0.

    ``sizes`` (P, 2, 2): (W, H) of both images. Of calibrated pairs ``K`` (P, 2, 3, 3), ``R`` (P, 3, 3) and ``t`` (P, 3)
    with X' = R X + t; of pictures of a plane or by a rotating camera ``H`` (P, 3, 3) in pixels. The other is None.
    """

    matches: Array
    count: Array
    sizes: Array
    K: Array | None = None
    R: Array | None = None
    t: Array | None = None
    H: Array | None = None

    def __len__(self) -> int:
        return len(self.matches)

    def __getitem__(self, index: Array | slice | list[int]) -> Pairs:
        """The pairs at ``index`` (an array or a slice)."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return Pairs(**{name: None if value is None else value[index] for name, value in found.items()})

    def list(self, i: int) -> Array:
        """The valid matches of pair ``i``, (n, 4) float64."""
        return self.matches[i, : self.count[i]].astype(np.float64)

    def with_matches(self, matches: Array) -> Pairs:
        """The same pairs with other matches (P, N, 4), all valid."""
        count = np.full(len(matches), matches.shape[1])
        return Pairs(matches, count, self.sizes, self.K, self.R, self.t, self.H)

    def filled(self, n: int, rng: np.random.Generator) -> Array:
        """Exactly ``n`` matches of each pair, (P, n, 4) float64: a random choice of longer lists, shorter ones filled
        up with repeated shuffled copies (NG-RANSAC). Raises :class:`ReprobookError` for a pair without matches."""
        if (self.count < 1).any():
            raise ReprobookError(f"pair {int(np.argmin(self.count))} has no matches; leave it out, count it as failed")
        N = self.matches.shape[1]
        order = np.where(np.arange(N) < self.count[:, None], rng.random((len(self), N)), np.inf).argsort(axis=1)
        place = np.arange(n)[None] % self.count[:, None]  # copies follow each other
        chosen = np.take_along_axis(order, place, axis=1)
        return np.take_along_axis(self.matches, chosen[..., None], axis=1).astype(np.float64)


def essential_truth(pairs: Pairs) -> Array:
    """True essential matrices (P, 3, 3). Raises :class:`ReprobookError` for pairs without calibrated truth."""
    if pairs.R is None or pairs.t is None or pairs.K is None:
        raise ReprobookError("problem 'essential' needs pairs with K, R and t")
    return geometry.essential(pairs.R, pairs.t)


def fundamental_truth(pairs: Pairs) -> Array:
    """True fundamental matrices in the coordinates of :func:`geometry.scaling`, (P, 3, 3)."""
    E = essential_truth(pairs)
    T = np.linalg.inv(geometry.scaling(pairs.sizes))
    F = geometry.fundamental(E, pairs.K[:, 0], pairs.K[:, 1])
    return np.swapaxes(T[:, 1], -1, -2) @ F @ T[:, 0]


def homography_truth(pairs: Pairs) -> Array:
    """True homographies in the coordinates of :func:`geometry.scaling`, (P, 3, 3)."""
    if pairs.H is None:
        raise ReprobookError("problem 'homography' needs pairs with H")
    T = geometry.scaling(pairs.sizes)
    return T[:, 1] @ pairs.H @ np.linalg.inv(T[:, 0])
