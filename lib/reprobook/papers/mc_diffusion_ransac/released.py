"""Matchers and matched sets at paper scale: SIFT by OpenCV, a LoFTR from transformers, or lists from files.

LoFTR's own weights come as a pickle; this chapter reads EfficientLoFTR's (a successor, safetensors) with
transformers, and, for whoever has LoFTR's matches, lists from files: ``<folder>/<i>.npy``, (n, 4) pixels of pair i at
the size that :func:`two_view_sets.load` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from tqdm import tqdm

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac.matching import match
from reprobook.papers.mc_diffusion_ransac.pairs import Pairs
from reprobook.papers.mc_diffusion_ransac.two_view_sets import Loaded, load, true_matches

if TYPE_CHECKING:
    from torch import nn

    from reprobook.papers.mc_diffusion_ransac.two_view_sets import Entry

Array = np.ndarray
Matcher = Callable[[int, Loaded], Array]


def sift(features: int, seed: int = 0) -> Matcher:
    """Mutual nearest neighbours of at most ``features`` SIFT keypoints a picture."""
    return lambda i, pair: match(*pair.pictures, "SIFT", features, np.random.default_rng([seed, i]), features)


def loftr(model: nn.Module, size: tuple[int, int] = (640, 480)) -> Matcher:
    """EfficientLoFTR on both pictures at ``size`` (W, H, multiples of 32); matches at the pictures' own size."""

    @torch.no_grad()
    def matcher(i: int, pair: Loaded) -> Array:  # noqa: ARG001 (a Matcher)
        device = next(model.parameters()).device
        small = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pair.pictures])
        pixels = torch.from_numpy(small.astype(np.float32) / 255)[None, :, None].expand(-1, -1, 3, -1, -1)
        out = model.eval()(pixels.to(device))
        good = (out.matches[0] > -1).all(0) & (out.matching_scores[0] > 0).all(0)
        ends = out.keypoints[0][:, good].double().cpu().numpy() * pair.sizes[:, None]  # keypoints are shares of a side
        return np.concatenate(ends, axis=-1)

    return matcher


def stored(folder: str | Path, numbers: Sequence[int] | None = None) -> Matcher:
    """Lists from files ``<folder>/<number>.npy``; ``numbers``: each pair's number in its index (None: as given)."""

    def matcher(i: int, pair: Loaded) -> Array:  # noqa: ARG001 (a Matcher)
        number = i if numbers is None else numbers[i]
        path = Path(folder) / f"{number}.npy"
        if not path.is_file():
            raise ReprobookError(f"no matches of pair {number}: {path.name} is missing in the folder of lists")
        found = np.load(path, allow_pickle=False)
        if found.ndim != 2 or found.shape[1] != 4:
            raise ReprobookError(f"{path.name} has shape {list(found.shape)}; it must be (n, 4)")
        return found.astype(np.float64)

    return matcher


def open_loftr(folder: str | Path, device: torch.device) -> nn.Module:
    """EfficientLoFTR from a folder of safetensors."""
    from transformers import EfficientLoFTRForKeypointMatching

    return EfficientLoFTRForKeypointMatching.from_pretrained(folder).to(device).eval()


def matched_sets(
    found: Sequence[Entry], matchers: dict[str, Matcher], n: int, longest: int, seed: int
) -> tuple[Pairs, dict[str, Pairs]]:
    """True correspondences, and every matcher's matches, of the same pairs. At most ``n`` a pair are kept.

    Pairs with fewer than 8 true correspondences, or where a matcher finds fewer than 8, are left out of all sets.
    """
    rng, kept = np.random.default_rng(seed), []
    for i, entry in enumerate(tqdm(found, desc="matching", leave=False)):
        pair = load(entry, longest)
        lists = [true_matches(pair, entry.R, entry.t, n, rng), *(m(i, pair) for m in matchers.values())]
        if min(map(len, lists)) >= 8:
            kept.append((entry, pair.sizes, pair.K, [each[rng.permutation(len(each))[:n]] for each in lists]))
    if not kept:
        raise ReprobookError(f"none of {len(found)} pairs has 8 true correspondences and 8 matches of every matcher")
    sizes, Ks = (np.stack([each[k] for each in kept]) for k in (1, 2))
    R, t = (np.stack([getattr(each[0], name) for each in kept]) for name in ("R", "t"))
    sets = [_padded([each[3][k] for each in kept], sizes, Ks, R, t) for k in range(1 + len(matchers))]
    truth = sets[0].with_matches(sets[0].filled(n, rng))
    return truth, dict(zip(matchers, sets[1:], strict=True))


def _padded(lists: list[Array], sizes: Array, K: Array, R: Array, t: Array) -> Pairs:
    count = np.array([len(each) for each in lists])
    matches = np.zeros((len(lists), count.max(), 4), dtype=np.float32)
    matches[np.arange(count.max()) < count[:, None]] = np.concatenate(lists)
    return Pairs(matches, count, sizes, K, R, t)
