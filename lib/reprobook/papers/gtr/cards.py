"""Pictures of the numbers on a table: real handwritten digits, two places a number.

A rank below 10 is one digit in the left place; 10 to 13 (ten, J, Q, K) are two digits. A digit's picture stays the
same through an episode.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 28
PLACES = 2  # digits of a number


class Handwriting:
    """Pictures (N + 1, 28, 28) of ink in [0, 1], the last one blank, and where each digit's pictures are."""

    def __init__(self, digits: list[np.ndarray]) -> None:
        empty = np.zeros((1, SIDE, SIDE), dtype=np.float32)
        self.pictures = torch.from_numpy(np.concatenate([*digits, empty]).astype(np.float32))
        self.sizes = np.array([len(each) for each in digits])
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])

    def draw(self, places: Tensor) -> Tensor:
        """Pictures (..., 2, 28, 28) of picture places (..., 2)."""
        return self.pictures[places]

    def pick(self, ranks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A picture for each digit of ``ranks`` (..., from 0 to 13, or -1 for nothing): places in ``pictures``
        (..., 2)."""
        pair = np.stack([np.where(ranks > 9, 1, ranks), np.where(ranks > 9, ranks - 10, -1)], -1)
        shown = np.maximum(pair, 0)
        which = (rng.random(pair.shape) * self.sizes[shown]).astype(np.int64)
        return np.where(pair < 0, len(self.pictures) - 1, self.starts[shown] + which)


def read_handwriting(folder: str | Path, seed: int, test_share: float = 0.3) -> tuple[Handwriting, Handwriting]:
    """Digits ``0.json`` .. ``9.json`` below ``folder`` (``{"data": [ink, ...]}``, 784 numbers a picture), in two parts:
    one to train on and one that no training sees."""
    if not 0 < test_share < 1:
        raise ReprobookError(f"test_share is {test_share}; it must be above 0 and below 1")
    files = {file.name: file for file in Path(folder).rglob("*.json")}
    missing = [f"{k}.json" for k in range(10) if f"{k}.json" not in files]
    if missing:
        raise ReprobookError(f"digits: no {', '.join(missing)} below {Path(folder).name}")
    rng = np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for k in range(10):
        ink = np.asarray(json.loads(files[f"{k}.json"].read_text("utf-8"))["data"], dtype=np.float32)
        if ink.size % SIDE**2 or ink.size < 2 * SIDE**2:
            raise ReprobookError(f"digits: {k}.json holds {ink.size} numbers; it must hold {SIDE**2} for each picture")
        mixed = rng.permutation(ink.reshape(-1, SIDE, SIDE))
        cut = max(1, round(test_share * len(mixed)))
        parts[0].append(mixed[cut:])
        parts[1].append(mixed[:cut])
    return Handwriting(parts[0]), Handwriting(parts[1])


def picture(writing: Handwriting, places: np.ndarray) -> Tensor:
    """One table as a strip (28, 56 n) from its picture places (n, 2)."""
    drawn = writing.pictures[torch.from_numpy(places.ravel())]
    return drawn.transpose(0, 1).reshape(SIDE, -1)
