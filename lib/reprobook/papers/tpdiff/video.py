"""Short videos with a label: digits that move on known paths, and patches of real clips.

Pixels are in [-1, 1]; networks see them with the mean and deviation of the training part taken out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

N_FRAMES, CANVAS, DIGIT = 8, 16, 8  # frames of a clip; pixels of the canvas and of a digit
ROOM = CANVAS - DIGIT  # pixels that a digit can move
SPEEDS = (0.6, 1.8)  # pixels a frame and axis
N_DIGITS, N_DIRECTIONS = 10, 4


@dataclass(frozen=True)
class Clips:
    """``pixels`` (N, T, 1, H, W) in [-1, 1]; ``labels`` (N, n) of ids below ``n_labels``, the words of the prompt;
    ``mean`` and ``std`` of the training pixels."""

    pixels: Tensor
    labels: Tensor
    n_labels: int
    mean: float
    std: float

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(videos as a network sees them, labels) of the rows ``index``."""
        return (self.pixels[index] - self.mean) / self.std, self.labels[index]

    def stills(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Single frames as videos (B, 1, C, H, W), and their labels, for an image model; ``index`` counts all frames,
        clip by clip. Only the first word tells what a frame shows; the others, of motion, are the empty word."""
        n_frames = self.pixels.shape[1]
        clip, frame = index // n_frames, index % n_frames
        labels = self.labels[clip].clone()
        labels[:, 1:] = self.n_labels
        return (self.pixels[clip, frame][:, None] - self.mean) / self.std, labels

    def to_pixels(self, videos: Tensor) -> Tensor:
        """What a network made, as pixels in [-1, 1]."""
        return (videos * self.std + self.mean).clamp(-1, 1)

    def __len__(self) -> int:
        return len(self.pixels)


# ------------------------------------------------------------------------------------------------------ moving digits


def digit_paths(n_train: int, n_test: int, n_images: int = 1797, seed: int = 0) -> np.ndarray:
    """Rows (image, x, y, vx, vy, is_test) float64, training rows first; pixels and pixels a frame.

    Four fifths of the images are for training, the others for testing, so that no test digit was ever seen.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_images)
    cut = n_images * 4 // 5
    parts = []
    for is_test, n, images in ((0, n_train, order[:cut]), (1, n_test, order[cut:])):
        start, speed = rng.uniform(0, ROOM, (n, 2)), rng.uniform(*SPEEDS, (n, 2)) * rng.choice([-1.0, 1.0], (n, 2))
        chosen = images[rng.integers(len(images), size=n)]
        parts.append(np.column_stack([chosen, start, speed, np.full(n, is_test)]))
    return np.concatenate(parts).astype(np.float64)


def bounce(position: np.ndarray, room: float = ROOM) -> np.ndarray:
    """Free motion folded into [0, ``room``]: constant speed, reflected at both walls."""
    return room - np.abs(position % (2 * room) - room)


def read_digits(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's ``digits.csv.gz``: images (1797, 8, 8) in [0, 1] and digits (1797,)."""
    rows = np.loadtxt(path, delimiter=",")
    return rows[:, :-1].reshape(-1, DIGIT, DIGIT) / 16, rows[:, -1].astype(np.int64)


def moving_digits(paths: np.ndarray, images: np.ndarray, digits: np.ndarray) -> tuple[Clips, Clips]:
    """(train, test) clips of ``paths``; the label is the digit and the quadrant of the first velocity (10 .. 13)."""
    chosen = paths[:, 0].astype(np.int64)
    quadrant = (paths[:, 3] > 0) + 2 * (paths[:, 4] > 0)
    labels = torch.from_numpy(np.column_stack([digits[chosen], N_DIGITS + quadrant]).astype(np.int64))
    frames = np.arange(N_FRAMES)[None, :, None]
    corners = bounce(paths[:, None, 1:3] + frames * paths[:, None, 3:5])
    videos = torch.from_numpy(render(images[chosen], corners)[:, :, None] * 2 - 1).float()
    is_test = torch.from_numpy(paths[:, 5] == 1)
    return _split([videos[~is_test], videos[is_test]], [labels[~is_test], labels[is_test]], N_DIGITS + N_DIRECTIONS)


def _split(videos: list[Tensor], labels: list[Tensor], n_labels: int) -> tuple[Clips, Clips]:
    """(train, test) with the training part's mean and deviation."""
    mean, std = float(videos[0].mean()), float(videos[0].std())
    train, test = (Clips(v, each, n_labels, mean, std) for v, each in zip(videos, labels, strict=True))
    return train, test


def render(images: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Images (N, 8, 8) drawn with their corner at ``corners`` (N, T, 2), x then y, in sub-pixels: (N, T, 16, 16)."""
    pixel, row = np.arange(CANVAS), np.arange(DIGIT)
    distance = pixel[:, None] - (corners[..., None, None] + row)
    weight = np.clip(1 - np.abs(distance), 0, None)  # bilinear: each digit row lands on at most two canvas rows
    return np.einsum("ntyi,nij,ntxj->ntyx", weight[:, :, 1], images, weight[:, :, 0], optimize=True)


# --------------------------------------------------------------------------------------------------------- real clips


def decode(path: str | Path, height: int) -> np.ndarray:
    """All frames of a video file as grey levels (T, height, W) uint8, width in proportion and even."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        width = round(stream.width * height / stream.height / 2) * 2
        frames = [f.reformat(width, height, format="gray").to_ndarray() for f in container.decode(stream)]
    if not frames:
        raise ReprobookError(f"{Path(path).name} holds no video frames")
    return np.stack(frames)


def patches(video: np.ndarray, every: int = 2, stride: int = 8, cut: float = 4.0) -> np.ndarray:
    """All windows (N, T, 16, 16) on a grid of places, of every second frame, that no cut crosses.

    cut: a change of the whole picture that is this many times the video's median change.
    """
    video = video[::every]
    change = np.abs(np.diff(video.astype(np.float32), axis=0)).mean((1, 2))
    jumps = np.lib.stride_tricks.sliding_window_view(change > cut * np.median(change), N_FRAMES - 1).any(1)
    windows = np.lib.stride_tricks.sliding_window_view(video, (N_FRAMES, CANVAS, CANVAS))
    return windows[~jumps][::2, ::stride, ::stride].reshape(-1, N_FRAMES, CANVAS, CANVAS)


def real_clips(
    files: Mapping[str, str | Path], height: int = 72, test_share: float = 0.25, min_contrast: float = 0.05
) -> tuple[Clips, Clips]:
    """(train, test) patches of real videos, labelled by the video; split by time, so that no frame is in both parts.

    Patches without texture or motion (standard deviation, or mean change a frame below a fifth of it) are left out.
    """
    parts: dict[bool, list[tuple[np.ndarray, np.ndarray]]] = {False: [], True: []}
    for label, path in enumerate(files.values()):
        video = decode(path, height)
        cut = round(len(video) * (1 - test_share))
        for is_test, frames in ((False, video[:cut]), (True, video[cut:])):
            found = patches(frames) / np.float32(255)
            alive = (found.std((1, 2, 3)) > min_contrast) & (
                np.abs(np.diff(found, axis=1)).mean((1, 2, 3)) > min_contrast / 5
            )
            parts[is_test].append((found[alive], np.full(int(alive.sum()), label)))
    videos = [torch.from_numpy(np.concatenate([v for v, _ in parts[k]])[:, :, None] * 2 - 1).float() for k in parts]
    labels = [torch.from_numpy(np.concatenate([each for _, each in parts[k]]))[:, None] for k in parts]
    return _split(videos, labels, len(files))
