"""Images: crops of real photographs and frames, split by image; textures whose shifts are known; pairs of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm.evaluation import optical_flow

if TYPE_CHECKING:
    from torch import Tensor

TEST = ("chelsea.png", "flower.jpg", "motorcycle_left.png")  # photographs that are never trained on


def read_image(path: str | Path, height: int) -> np.ndarray:
    """An RGB picture (height, W, 3) uint8, reduced with an anti-aliasing filter (Pillow's Lanczos)."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    width = round(image.width * height / image.height)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def read_frames(path: str | Path, height: int, every: int = 1) -> list[np.ndarray]:
    """Every ``every``-th frame of a video as RGB (height, W, 3) uint8, width even."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        width = round(stream.width * height / stream.height / 2) * 2
        frames = [f.reformat(width, height, "rgb24").to_ndarray() for f in container.decode(stream)][::every]
    if not frames:
        raise ReprobookError(f"{Path(path).name} holds no video frames")
    return frames


def to_tensor(images: Sequence[np.ndarray] | np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).float() / 127.5 - 1


class Crops:
    """Random crops of a list of pictures, mirrored at random: ``crops(i)`` is batch ``i`` (B, 3, size, size), a pure
    function of i. Every picture is as likely as any other; crops without texture are drawn again."""

    def __init__(self, images: Sequence[np.ndarray], size: int, batch_size: int, seed: int, contrast: float = 12.0):
        small = [image.shape for image in images if min(image.shape[:2]) < size]
        if small or not len(images):
            raise ReprobookError(f"crops of {size} pixels need larger pictures, got {small or 'none'}")
        self.images, self.size, self.batch_size, self.seed, self.contrast = images, size, batch_size, seed, contrast

    def one(self, rng: np.random.Generator) -> np.ndarray:
        """One crop (size, size, 3); a flat one is drawn again, up to 20 times."""
        for _ in range(20):
            image = self.images[rng.integers(len(self.images))]
            y, x = (int(rng.integers(n - self.size + 1)) for n in image.shape[:2])
            crop = image[y : y + self.size, x : x + self.size]
            if crop.std() >= self.contrast:
                break
        return crop[:, ::-1] if rng.random() < 0.5 else crop

    def __call__(self, i: int) -> Tensor:
        """Batch ``i``, (batch_size, 3, size, size) in [-1, 1]: the same for the same ``i``."""
        rng = np.random.default_rng([self.seed, i])
        return to_tensor([self.one(rng) for _ in range(self.batch_size)])


def photographs(
    folders: Sequence[str | Path], video: str | Path, height: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(train, test) pictures: the PNG and JPEG files of ``folders``, and every 30th frame of ``video`` to train."""
    files = [p for folder in folders for p in Path(folder).iterdir() if p.suffix in (".png", ".jpg")]
    files.sort(key=lambda p: p.name)
    test = [read_image(p, height) for p in files if p.name in TEST]
    train = [read_image(p, height) for p in files if p.name not in TEST]
    if not test or not train:
        raise ReprobookError(f"found {len(train)} training and {len(test)} test pictures; both are needed")
    frames = read_frames(video, height, every=30)
    return [*train, *frames], test


def frame_pairs(videos: Sequence[str | Path], height: int, size: int, n: int, seed: int, gap: int = 2) -> list[Tensor]:
    """[first (n, 3, size, size), second, backward flow (n, 2, size, size)] of ``n`` moving patches of videos.

    The flow is found on whole frames, ``gap`` frames apart; patches whose mean motion is between 0.3 and 4 pixels and
    whose contrast is not faint are kept, as many of each video."""
    rng, found = np.random.default_rng(seed), []
    films = [read_frames(video, height) for video in videos]
    for _ in range(400 * n):
        film = films[len(found) % len(films)]
        t = int(rng.integers(len(film) - gap))
        flow = optical_flow(film[t], film[t + gap])
        for _ in range(8):
            y, x = (int(rng.integers(m - size + 1)) for m in flow.shape[:2])
            box = (slice(y, y + size), slice(x, x + size))
            motion = np.hypot(*np.moveaxis(flow[box], -1, 0)).mean()
            if 0.3 <= motion <= 4 and film[t][box].std() >= 12:
                found.append((film[t][box], film[t + gap][box], flow[box]))
                break
        if len(found) == n:
            break
    if len(found) < n:
        raise ReprobookError(f"only {len(found)} of {n} moving patches found")
    first, second, flows = zip(*found, strict=True)
    return [to_tensor(first), to_tensor(second), torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).float()]


def textures(
    n: int, size: tuple[int, int], max_frequency: float = 0.2, n_waves: int = 12, seed: int = 0
) -> Callable[[Sequence[float]], Tensor]:
    """``n`` periodic band-limited RGB textures as a function of the shift (down, right) in pixels: the continuous
    waves are moved, not the samples. ``max_frequency`` in cycles per pixel, per axis, below 0.5. Values in [-1, 1]."""
    if not 0 < max_frequency < 0.5:
        raise ReprobookError(f"max_frequency must be between 0 and 0.5 cycles per pixel, got {max_frequency}")
    rng = np.random.default_rng(seed)
    top = [max(1, int(max_frequency * m)) for m in size]
    f = np.stack([rng.integers(-m, m + 1, (n, n_waves)) for m in top], -1) / np.array(size)
    phase = rng.uniform(0, 2 * np.pi, (n, 3, n_waves))

    def sample(shift: Sequence[float] = (0, 0)) -> Tensor:
        y, x = (np.arange(m) - d for m, d in zip(size, shift, strict=True))
        waves = f[:, None, :, 0, None, None] * y[:, None] + f[:, None, :, 1, None, None] * x
        return torch.from_numpy(np.cos(2 * np.pi * waves + phase[..., None, None]).mean(2)).float()

    return sample
