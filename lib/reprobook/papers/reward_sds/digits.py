"""10,000 real digits, what can be measured on them, and blurred or noisy copies that stand for defects.

Pictures are (M, 784) with ink at 1 and paper at -1. Three attributes are measured that a prior conditioned on the class
does not know about: slant, thickness, and openness of the loops.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

SIDE, N_CLASSES = 28, 10
ATTRIBUTES = ("slant", "thickness", "openness")
LOOPED = (0, 6, 8, 9)  # classes whose digits have loops to open


class Digits(NamedTuple):
    """Pictures (M, 784) in [-1, 1], classes (M,), attributes (M, 3) in the order of ``ATTRIBUTES``."""

    x: Tensor
    y: Tensor
    attributes: Tensor

    def rows(self, index: Tensor) -> Digits:
        """A part of them."""
        return Digits(self.x[index], self.y[index], self.attributes[index])


def read_digits(folder: str | Path) -> Digits:
    """All digits of ``0.json`` .. ``9.json`` below ``folder``, sorted by class: ``{"data": [ink in [0, 1], ...]}``, 784
    numbers a picture."""
    files = {file.name: file for file in Path(folder).rglob("*.json")}
    missing = [f"{k}.json" for k in range(N_CLASSES) if f"{k}.json" not in files]
    if missing:
        raise ReprobookError(f"digits: no {', '.join(missing)} below {Path(folder).name}")
    found = []
    for k in range(N_CLASSES):
        ink = np.asarray(json.loads(files[f"{k}.json"].read_text("utf-8"))["data"], dtype=np.float32)
        if ink.size % SIDE**2:
            raise ReprobookError(f"digits: {k}.json holds {ink.size} numbers, no multiple of {SIDE**2}")
        found.append(torch.from_numpy(ink.reshape(-1, SIDE**2)))
    x = torch.cat(found) * 2 - 1
    y = torch.cat([torch.full((len(each),), k) for k, each in enumerate(found)])
    return Digits(x, y, measure(x))


def halves(digits: Digits, seed: int) -> tuple[Digits, Digits]:
    """Two random halves: one for prior and rewards, one for the judge."""
    order = torch.randperm(len(digits.y), generator=torch.Generator().manual_seed(seed))
    cut = len(order) // 2
    return digits.rows(order[:cut].sort().values), digits.rows(order[cut:].sort().values)


def measure(x: Tensor) -> Tensor:
    """Attributes (M, 3) of pictures (M, 784) from their pixels.

    - slant: how far strokes lean to the right, the angle in degrees whose tangent is -mu_11 / mu_02 (rows count down);
    - thickness: ink per length of its edge, 2 sum(ink) / sum |gradient of ink|, in pixels;
    - openness: pixels of paper that ink encloses, as a share of the digit's own area (ink and enclosed paper).
    """
    check_pictures(x)
    ink = ((x + 1) / 2).clamp(0, 1).view(-1, SIDE, SIDE)
    mass = ink.sum((1, 2)).clamp(min=1e-6)
    axis = torch.arange(SIDE, dtype=ink.dtype, device=ink.device)
    rows, columns = axis[:, None], axis[None]
    down = rows - ((ink * rows).sum((1, 2)) / mass)[:, None, None]
    right = columns - ((ink * columns).sum((1, 2)) / mass)[:, None, None]
    lean = -(ink * down * right).sum((1, 2)) / (ink * down**2).sum((1, 2)).clamp(min=1e-6)
    padded = torch.nn.functional.pad(ink, (1, 1, 1, 1))
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    along = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    edge = torch.sqrt(across**2 + along**2 + 1e-12).sum((1, 2)).clamp(min=1e-6)
    return torch.stack([torch.rad2deg(lean.atan()), 2 * mass / edge, _enclosed(ink)], 1)


def _enclosed(ink: Tensor) -> Tensor:
    from scipy.ndimage import label

    solid = ink.cpu().numpy() > 0.5
    framed = np.pad(~solid, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    apart = np.zeros((3, 3, 3), dtype=int)  # pictures do not touch each other, nor pixels across a corner
    apart[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    regions, n = label(framed, apart)
    outside = np.zeros(n + 1, dtype=bool)
    outside[regions[:, 0, 0]] = True
    holes = (framed & ~outside[regions]).sum((1, 2))
    return torch.from_numpy(holes / np.maximum(holes + solid.sum((1, 2)), 1)).to(ink)


def check_pictures(x: Tensor) -> None:
    """Raise :class:`ReprobookError` unless ``x`` is (M, 784)."""
    if x.ndim != 2 or x.shape[1] != SIDE**2:
        raise ReprobookError(f"pictures have the shape {list(x.shape)}; digits are (M, {SIDE**2})")


class Scale(NamedTuple):
    """Mean and deviation of each attribute in each class of real digits, both (10, 3)."""

    mean: Tensor
    sd: Tensor

    def standard(self, values: Tensor, y: Tensor) -> Tensor:
        """Attributes (M, 3) of classes y (M,) in deviations from the class's mean."""
        return (values - self.mean[y]) / self.sd[y]


def class_scale(digits: Digits) -> Scale:
    """The scale of real digits; an attribute that a class does not have gets the deviation 1."""
    parts = [digits.attributes[digits.y == k] for k in range(N_CLASSES)]
    sd = torch.stack([part.std(0) for part in parts])
    return Scale(torch.stack([part.mean(0) for part in parts]), sd.where(sd > 1e-3, 1.0))


def spoiled(x: Tensor, generator: torch.Generator) -> Tensor:
    """Copies of pictures (M, 784) with defects: blurred, noisy and of less contrast, each to a random degree."""
    n = len(x)
    draw = torch.rand(3, n, 1, 1, 1, generator=generator)
    picture = x.view(n, 1, SIDE, SIDE)
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    soft = torch.nn.functional.conv2d(picture, kernel.view(1, 1, 1, 5), padding=(0, 2))
    soft = torch.nn.functional.conv2d(soft, kernel.view(1, 1, 5, 1), padding=(2, 0))
    mixed = picture + draw[0] * (soft - picture)
    noisy = mixed + 0.4 * draw[1] * torch.randn(mixed.shape, generator=generator)
    return ((1 - 0.4 * draw[2]) * noisy).clamp(-1, 1).view(n, -1)
