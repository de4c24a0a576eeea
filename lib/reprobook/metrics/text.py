"""Measures of text: likelihood per token, in nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor, nn


def perplexity(nll_sum: float, n_tokens: int) -> float:
    """``exp(nll_sum / n_tokens)``: ``nll_sum`` in nats, summed over ``n_tokens`` scored tokens."""
    return math.exp(_per_unit(nll_sum, n_tokens, "n_tokens"))


def _per_unit(total: float, n: int, name: str) -> float:
    if n < 1:
        raise ReprobookError(f"{name} is {n}; it must be at least 1")
    return float(total) / n


def windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """``(begin, end, first)`` of the windows over ``length`` tokens: a window reads ``begin:end`` and scores
    ``first:end``. The first scores all it can (token 0 has no context); each later one its last ``stride`` tokens
    (the last window may score fewer), so every token but the first is scored exactly once."""
    if not 1 <= stride < window:
        raise ReprobookError(f"stride is {stride}; it must be from 1 to window - 1 (window is {window})")
    found, begin, end = [(0, min(window, length), 1)], 0, min(window, length)
    while end < length:
        begin, first, end = begin + stride, end, min(begin + stride + window, length)
        found.append((begin, end, first))
    return found


def windowed_nll(
    model: nn.Module, ids: Sequence[int] | Tensor, window: int = 1024, stride: int = 512, batch_size: int = 8
) -> tuple[float, int]:
    """Negative log-likelihood (nats, summed) of ``ids`` (L,) under a causal ``model``, and the number of tokens scored
    (L - 1), as in :func:`windows`: each token is scored once, with at least ``window - stride`` tokens of context where
    the text has them.

    ``model(ids)`` maps (B, W) to logits (B, W, V), as a tensor or in ``.logits``; it must be causal, because the last
    window is padded on the right. Runs in the model's mode and on its device, without gradients."""
    import torch

    ids = torch.as_tensor(ids, dtype=torch.long).flatten()
    if len(ids) < 2:
        raise ReprobookError(f"windowed_nll: ids has {len(ids)} tokens; it must have at least 2")
    spans = windows(len(ids), window, stride)
    device = next(model.parameters()).device
    total = 0.0
    with torch.inference_mode():
        for at in range(0, len(spans), batch_size):
            total += _batch_nll(model, ids.to(device), spans[at : at + batch_size])
    return total, len(ids) - 1


def _batch_nll(model: nn.Module, ids: Tensor, spans: list[tuple[int, int, int]]) -> float:
    """Summed nats of the scored tokens of some windows, read in one batch."""
    import torch
    from torch.nn.functional import cross_entropy

    width = max(end - begin for begin, end, _ in spans)
    x = ids.new_zeros(len(spans), width)
    targets = torch.full_like(x, -100)
    for row, (begin, end, first) in enumerate(spans):
        x[row, : end - begin] = ids[begin:end]
        targets[row, first - begin - 1 : end - begin - 1] = ids[first:end]
    out = model(x)
    logits = out if isinstance(out, torch.Tensor) else out.logits
    keep = targets != -100
    return cross_entropy(logits[keep].float(), targets[keep], reduction="none").double().sum().item()
