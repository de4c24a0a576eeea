"""Ways to read fewer tokens once all tiles are encoded. Each says which local tokens stay; one merges the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

Prune = dict[int, Callable[["Tensor"], "Tensor"]]


def fastv(n: int, local: Tensor, keep: int, *, layer: int = 2) -> Prune:
    """FastV: before layer K the ``keep`` local tokens stay that the last token attends to most. ``n``: tokens of the
    sequence, ``local`` their places; see :meth:`.model.VisionLanguage.read`."""
    return {layer: _dropper(n, local, keep)}


def pyramid_drop(n: int, local: Tensor, keep: int, layers: tuple[int, ...]) -> Prune:
    """PyramidDrop: at each of ``layers`` the local tokens shrink by the same factor, to ``keep`` at the last."""
    factor = (keep / max(len(local), 1)) ** (1 / len(layers))
    sizes = [round(len(local) * factor ** (k + 1)) for k in range(len(layers) - 1)] + [keep]
    return {at: _dropper(n, local, size) for at, size in zip(layers, sizes, strict=True)}


def _dropper(n: int, local: Tensor, keep: int) -> Callable[[Tensor], Tensor]:
    others = torch.ones(n, dtype=torch.bool)
    others[local.cpu()] = False

    def choose(weights: Tensor) -> Tensor:
        best = weights[local].topk(min(keep, len(local))).indices
        return torch.cat([others.nonzero()[:, 0].to(local.device), local[best]])

    return choose


def per_tile_top(received: Tensor, share: float) -> Tensor:
    """VisionZip-like: (n, c, c) attention received inside each tile -> (n, c * c) bool, the top ``share`` (one or more)
    of every tile alike. Which tile the question is about plays no part."""
    flat = received.flatten(1)
    best = flat.topk(max(1, round(share * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, best, value=True)


def merged_into(features: Tensor, kept: Tensor) -> Tensor:
    """PruMerge-like: tokens that go are averaged into the kept one that is most like them. ``features`` (n, d),
    ``kept`` (n,) bool -> (kept, d)."""
    if not kept.any():
        raise ReprobookError("no token is kept: there is nothing to merge into")
    centres, rest = features[kept], features[~kept]
    nearest = (torch.nn.functional.normalize(rest, dim=1) @ torch.nn.functional.normalize(centres, dim=1).T).argmax(1)
    total = centres.clone().index_add_(0, nearest, rest)
    counts = torch.ones(len(centres), device=features.device).index_add_(
        0, nearest, torch.ones(len(rest), device=features.device)
    )
    return total / counts[:, None]
