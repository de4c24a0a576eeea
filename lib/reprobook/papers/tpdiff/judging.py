"""Judges of short videos: a proxy Frechet distance (not FVD), legal motion, flicker, digit and direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reprobook.papers.tpdiff.video import N_DIGITS, N_DIRECTIONS, N_FRAMES, ROOM, SPEEDS, bounce

if TYPE_CHECKING:
    from torch import Tensor

# ----------------------------------------------------------------------------------------------- proxy Frechet distance


class ClipClassifier(nn.Module):
    """A small 3-D convolutional network that tells digit and direction; its last layer gives the features."""

    def __init__(self, n_features: int = 32, width: int = 16) -> None:
        super().__init__()
        sizes = [1, width, 2 * width, 4 * width]
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv3d(a, b, 3, stride=(1, 2, 2), padding=1), nn.GroupNorm(4, b), nn.SiLU())
                for a, b in pairwise(sizes)
            ),
            nn.Flatten(),
            nn.Linear(sizes[-1] * N_FRAMES * 4, n_features),
        )
        self.heads = nn.Linear(n_features, N_DIGITS + N_DIRECTIONS)

    def features(self, videos: Tensor) -> Tensor:
        """(N, n_features) of videos (N, T, 1, H, W)."""
        return self.body(videos.transpose(1, 2))

    def forward(self, videos: Tensor) -> Tensor:
        """Logits (N, 14): ten digits, then four directions."""
        return self.heads(F.silu(self.features(videos)))


def classifier_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of digit and direction of (videos, labels)."""
    videos, labels = batch
    digit, direction = model(videos).split([N_DIGITS, N_DIRECTIONS], 1)
    return F.cross_entropy(digit, labels[:, 0]) + F.cross_entropy(direction, labels[:, 1] - N_DIGITS)


def recognised(model: ClipClassifier, videos: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the classifier sees the digit, and the direction, that were asked for: two bool (N,)."""
    digit, direction = model(videos).split([N_DIGITS, N_DIRECTIONS], 1)
    return digit.argmax(1) == labels[:, 0], direction.argmax(1) == labels[:, 1] - N_DIGITS


def pca_features(train: Tensor, n_features: int = 32) -> Callable[[Tensor], Tensor]:
    """Features for videos without classes: principal components of frames and their differences, unit variance."""
    from sklearn.decomposition import PCA

    def flat(videos: Tensor) -> np.ndarray:
        both = torch.cat([videos, 3 * videos.diff(dim=1)], 1)  # motion counts as much as looks
        return both.flatten(1).float().cpu().numpy()

    pca = PCA(n_features, whiten=True, svd_solver="randomized", random_state=0).fit(flat(train))
    return lambda videos: torch.from_numpy(pca.transform(flat(videos))).float()


def seconds_to(level: float, seconds: Sequence[float], distances: Sequence[float]) -> float:
    """When a curve of distances over training seconds first reaches ``level``, linear between points; NaN if never."""
    best = np.minimum.accumulate(np.asarray(distances, dtype=np.float64))
    if best[-1] > level:
        return float("nan")
    return float(np.interp(-level, -best, np.asarray(seconds, dtype=np.float64)))


# ------------------------------------------------------------------------------------------------------ motion, flicker


def centroids(videos: Tensor) -> Tensor:
    """Centre of light (N, T, 2), x then y in pixels, of videos (N, T, 1, H, W) in [-1, 1]; dim pixels don't count."""
    light = ((videos[:, :, 0] + 1) / 2 - 0.1).clamp_min(0) + 1e-9
    pixel = torch.arange(light.shape[-1], dtype=light.dtype, device=light.device)
    total = light.sum((2, 3))
    return torch.stack([(light.sum(2) * pixel).sum(-1) / total, (light.sum(3) * pixel).sum(-1) / total], -1)


def trajectory_error(videos: Tensor, n_starts: int = 33, n_speeds: int = 25) -> Tensor:
    """Pixels (N,) between the centroids and the nearest legal path: constant speed, reflected at the walls.

    Root mean square over the frames, from a grid of starts and speeds on each axis; where in the digit its centre lies
    is fitted. Real clips are not at 0, because the grid is finite and bright pixels land between pixels.
    """
    speeds = np.linspace(*SPEEDS, n_speeds)
    starts = np.linspace(0, ROOM, n_starts)
    legal = np.array([bounce(p + v * np.arange(N_FRAMES)) for p, v in product(starts, np.r_[-speeds, speeds])])
    paths = torch.from_numpy(legal - legal.mean(1, keepdims=True)).to(videos)  # the mean place is fitted
    found = centroids(videos)
    found = (found - found.mean(1, keepdim=True)).transpose(1, 2)  # (N, 2, T)
    with torch.autocast(videos.device.type, enabled=False):  # a difference of squares has no digits in half precision
        squared = found.square().sum(-1, keepdim=True) + paths.square().sum(-1) - 2 * found @ paths.T
    return squared.amin(-1).clamp_min(0).sum(1).div(N_FRAMES).sqrt()


def change(videos: Tensor) -> Tensor:
    """Energy of the frame differences (N,): mean square of neighbouring frames' difference. Low is still, high
    flickers."""
    return videos.diff(dim=1).square().flatten(1).mean(1)


def judder(videos: Tensor) -> float:
    """Change inside the pairs of frames (0, 1), (2, 3), ... over change between the pairs: 1 for steady motion, below
    1 where frames were doubled and not separated again; NaN if nothing moves."""
    steps = videos.diff(dim=1).square().flatten(2).mean(2)
    return float(steps[:, ::2].mean() / steps[:, 1::2].mean())
