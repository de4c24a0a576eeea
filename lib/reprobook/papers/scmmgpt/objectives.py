"""The losses of stage 1 and their released variants: contrast, hard negatives, matching, captioning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100


def similarity(z: Tensor, t: Tensor) -> Tensor:
    """$s_{ij}=\\max_q z_{iq}^\\top t_j$: z (..., B, Q, d) and t (..., C, d), both L2-normalised, to (..., B, C)."""
    return torch.einsum("...bqd,...cd->...bqc", z, t).amax(-2)


def in_groups(x: Tensor, size: int | None) -> Tensor:
    """(B, ...) as (groups, size, ...); None: one group. The last, incomplete group is left out."""
    size = len(x) if size is None else size
    if not 2 <= size <= len(x):
        raise ReprobookError(f"a contrast group of {size} does not fit a batch of {len(x)}: from 2 to the batch")
    n = len(x) // size
    return x[: n * size].unflatten(0, (n, size))


def same_text(texts: Tensor) -> Tensor:
    """(g, B, B) True off the diagonal where two pairs of a group have the same text: false negatives."""
    same = texts[:, :, None] == texts[:, None, :]
    return same & ~torch.eye(texts.shape[1], dtype=torch.bool, device=texts.device)


def contrast_loss(
    s: Tensor, texts: Tensor, temperature: float = 0.1, symmetric: bool = False, mask_same: bool = True
) -> Tensor:
    """$-\\frac1B\\sum_i\\log\\frac{e^{s_{ii}/\\tau}}{\\sum_j e^{s_{ij}/\\tau}}$ inside groups, averaged.

    s (g, B, B) cells by texts; texts (g, B) numbers of the texts. Cell to text only, as released; ``symmetric``: mean
    of both directions. ``mask_same``: other pairs with the same text don't count as negatives (released: they do)."""
    if not temperature > 0:
        raise ReprobookError(f"temperature must be positive, got {temperature}")
    logits = s / temperature
    if mask_same:
        logits = logits.masked_fill(same_text(texts), -torch.inf)
    own = torch.arange(s.shape[-1], device=s.device).expand(s.shape[:2])
    loss = F.cross_entropy(logits.flatten(0, 1), own.flatten())
    if symmetric:
        loss = (loss + F.cross_entropy(logits.transpose(1, 2).flatten(0, 1), own.flatten())) / 2
    return loss


@torch.no_grad()
def hard_negatives(s: Tensor, texts: Tensor, temperature: float = 0.1, mask_same: bool = True) -> Tensor:
    """For each cell the position (g, B) of a wrong text of its group, drawn with probability
    ∝ softmax(s/τ) + 1e-4; the own text never, the same text of another pair only without ``mask_same``. -1 if a cell
    has no wrong text to draw."""
    weights = (s / temperature).softmax(-1) + 1e-4
    weights = weights * ~torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    if mask_same:
        weights = weights * ~same_text(texts)
    flat = weights.flatten(0, 1)
    none = flat.sum(-1) <= 0
    drawn = torch.multinomial(torch.where(none[:, None], torch.ones_like(flat), flat), 1)[:, 0]
    return drawn.masked_fill(none, -1).view(texts.shape)


def matching_loss(positive: Tensor, negative: Tensor, drawn: Tensor) -> Tensor:
    """Cross-entropy over B matching and B drawn pairs: logits (B, 2), class 1 = they belong together. Pairs without a
    wrong text (``drawn`` < 0) don't count."""
    kept = negative[drawn >= 0]
    logits = torch.cat([positive, kept])
    target = torch.cat([torch.ones(len(positive)), torch.zeros(len(kept))]).long().to(logits.device)
    return F.cross_entropy(logits, target)


def caption_loss(logits: Tensor, ids: Tensor, padding: Tensor) -> Tensor:
    """Next-token loss of the text: logits (B, L, V) at position i speak of ids at i + 1; padding is left out."""
    target = ids.masked_fill(padding, IGNORE)[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), target.flatten(), ignore_index=IGNORE)
