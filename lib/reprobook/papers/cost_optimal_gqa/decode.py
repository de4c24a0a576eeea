"""Decoding with a real KV cache: seconds per token against context, and what the cost model expects (Section 5.5)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from reprobook.papers.cost_optimal_gqa.costs import Heads, check_context


def filled_cache(model: nn.Module, T: int, room: int, batch: int = 1) -> Any:
    """A preallocated cache of `transformers` that holds random keys and values of T tokens and room for ``room`` more.

    The time of a step doesn't depend on the values. A growing cache would add a copy of itself to every step."""
    from transformers import StaticCache

    check_context(T)
    config = model.config
    weight = model.get_input_embeddings().weight
    cache = StaticCache(config=config, max_cache_len=T + room)
    shape = (batch, config.num_key_value_heads, T, config.head_dim)
    for layer in range(config.num_hidden_layers):
        keys, values = (torch.randn(shape, dtype=weight.dtype, device=weight.device) for _ in range(2))
        cache.update(keys, values, layer)
    return cache


def decode_seconds(
    models: Mapping[str, nn.Module], contexts: Sequence[int], *, n_tokens: int = 8, batch: int = 1
) -> list[dict[str, Any]]:
    """Median seconds of one decoding step for every model at every context; rows {model, T, seconds}.

    At each context the models take turns, token by token, so that a change of the machine's speed meets all.
    """
    rows = []
    for T in contexts:
        taken: dict[str, list[float]] = {name: [] for name in models}
        caches = {name: filled_cache(model, T, n_tokens + 2, batch) for name, model in models.items()}
        for turn in range(n_tokens + 2):
            for name, model in models.items():
                seconds = _step(model, caches[name], batch)
                if turn > 1:  # the first two warm up
                    taken[name].append(seconds)
        rows += [{"model": name, "T": T, "seconds": median(values)} for name, values in taken.items()]
    return rows


@torch.no_grad()
def _step(model: nn.Module, cache: Any, batch: int) -> float:
    device = model.get_input_embeddings().weight.device
    token = torch.zeros(batch, 1, dtype=torch.long, device=device)
    start = time.perf_counter()
    model(input_ids=token, past_key_values=cache, use_cache=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def line(contexts: Sequence[float], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Least squares of seconds = fixed + slope * T: (fixed, slope, R^2)."""
    x, y = np.asarray(contexts, float), np.asarray(seconds, float)
    slope, fixed = np.polyfit(x, y, 1)
    rest, spread = y - fixed - slope * x, y - y.mean()
    return float(fixed), float(slope), float(1 - rest @ rest / (spread @ spread))


def slope_by_heads(slopes: Mapping[Heads, float]) -> tuple[float, float]:
    """Non-negative least squares of slope = x n_h + y n_kv: what a query head and a KV head add per token of context.

    Compute-bound decoding has y = 0 (FLOPs grow with n_h alone), bandwidth-bound decoding x = 0 (the cache that has to
    be read grows with n_kv alone)."""
    from scipy.optimize import nnls

    found, _ = nnls(np.array(list(slopes), float), np.array(list(slopes.values()), float))
    return float(found[0]), float(found[1])
