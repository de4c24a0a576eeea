"""Tokens and operations (Table 4): one formula for a layer gives every total of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

DIM, MLP, LAYERS, MODULE = 3584, 18944, 28, 4  # Qwen2-7B; R = 4 blocks of the module
TILE_TOKENS, POOLED = 576, 144  # of the thumbnail, and of a tile


def layer(n: float) -> float:
    """Operations of a layer on n vision tokens: 4 n d^2 + 2 n^2 d + 3 n d m; no discount for grouped heads."""
    return 4 * n * DIM**2 + 2 * n**2 * DIM + 3 * n * DIM * MLP


class Cost(NamedTuple):
    """Vision tokens that are encoded, those that the language model reads, and TFLOPs. The vision encoder, where the
    pyramid saves most, is not counted in the paper's totals."""

    encoded: int
    read: int
    tflops: float


def read_tokens(n_tiles: float, keep: float = 1.0) -> float:
    """Tokens that reach the language model: the thumbnail's and the kept ones of ``n_tiles`` tiles."""
    return TILE_TOKENS + keep * POOLED * n_tiles


def costs(n_tiles: int = 144, opened: Sequence[int] = (9, 36, 50), keep: float = 0.25) -> dict[str, Cost]:
    """The rows of Table 4: a finest level of ``n_tiles`` tiles read whole, or by a descent that opens ``opened`` tiles
    on its levels (the last one is the paper's average)."""
    n, encoded = int(read_tokens(n_tiles)), TILE_TOKENS * (1 + n_tiles)
    own, last = int(read_tokens(n_tiles, keep)), int(read_tokens(opened[-1], keep))
    merged, zipped, pieces = n // 4, 64 * (1 + n_tiles), LAYERS // 4
    module = sum(MODULE * layer(read_tokens(t)) for t in opened)
    totals = {
        "anyres-p144": (encoded, n, LAYERS * layer(n)),
        "+ PruMerge++": (encoded, merged, LAYERS * layer(merged)),
        "+ VisionZip": (encoded, zipped, LAYERS * layer(zipped)),
        "+ FastV": (encoded, n, 2 * layer(n) + (LAYERS - 2) * layer(n / 2)),
        "+ PDrop": (encoded, n, sum(pieces * layer(n / 2**k) for k in range(4))),
        "+ prune (ours)": (encoded, own, MODULE * layer(n) + LAYERS * layer(own)),
        "DIP-4layer + prune (ours)": (TILE_TOKENS * (1 + sum(opened)), last, module + LAYERS * layer(last)),
    }
    return {name: Cost(a, b, c / 1e12) for name, (a, b, c) in totals.items()}
