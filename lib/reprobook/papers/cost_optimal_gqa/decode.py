"""Decoding with a real KV cache: seconds per token against context, and what the cost model expects (Section 5.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from reprobook.bench import compare
from reprobook.errors import ReprobookError
from reprobook.papers.cost_optimal_gqa.costs import Shape, check_context
from reprobook.papers.cost_optimal_gqa.models import build
from reprobook.papers.cost_optimal_gqa.search import rounded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.bench import Comparison
    from reprobook.papers.cost_optimal_gqa.costs import Heads


class _Preallocated(DynamicLayer):
    """A layer of a `transformers` cache that grows inside memory it already has, as servers do: the library's growing
    layer copies itself at every token, its static one is read to its end under a mask."""

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._keys, self._values = keys, values
        self.keys, self.values = keys[:, :, :filled], values[:, :, :filled]

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002 (transformers' own)
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        end = self.keys.shape[-2] + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            raise ReprobookError(f"the cache has room for {self._keys.shape[-2]} tokens, not {end}")
        self._keys[:, :, self.keys.shape[-2] : end] = key_states
        self._values[:, :, self.values.shape[-2] : end] = value_states
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values


def filled_cache(model: nn.Module, T: int, room: int, batch: int = 1) -> DynamicCache:
    """A cache of `transformers` that holds random keys and values of T tokens, with memory for ``room`` more. The time
    of a step doesn't depend on the values."""
    check_context(T)
    config, weight = model.config, model.get_input_embeddings().weight
    shape = (batch, config.num_key_value_heads, T + room, config.head_dim)
    cache = DynamicCache(config=config)
    cache.layers = [
        _Preallocated(*(torch.randn(shape, dtype=weight.dtype, device=weight.device) for _ in range(2)), filled=T)
        for _ in range(config.num_hidden_layers)
    ]
    return cache


def decode_seconds(
    models: Mapping[str, nn.Module], contexts: Sequence[int], *, n_tokens: int = 15, batch: int = 1
) -> list[dict[str, Any]]:
    """Median seconds of one decoding step for every model at every context; rows {model, T, seconds}.

    At each context the models take turns, token by token, so that a change of the machine's speed meets all.
    """
    rows = []
    for T in contexts:
        taken = steps_in_turns(models, T, n_tokens, batch)
        rows += [{"model": name, "T": T, "seconds": seconds} for name, seconds in taken.medians.items()]
    return rows


def steps_in_turns(models: Mapping[str, nn.Module], T: int, n_tokens: int, batch: int = 1) -> Comparison:
    """Decoding ``n_tokens`` with T in the cache, after two that warm up; the models take turns, token by token."""
    caches = {name: filled_cache(model, T, n_tokens + 2, batch) for name, model in models.items()}
    ways = {name: partial(_step, model, caches[name], batch) for name, model in models.items()}
    device = next(iter(models.values())).get_input_embeddings().weight.device  # type: ignore[operator, union-attr]
    what = f"decoding with {T:,} tokens in the cache"
    return compare(ways, equal=None, n=n_tokens, warmup=2, what=what, device=device)


def random_models(
    size: tuple[int, int], heads: Sequence[Heads], device: torch.device | str = "cpu", d_h: int = 64, vocab: int = 1024
) -> dict[str, nn.Module]:
    """Models of ``size`` (L, d) with random weights, one for each H, named "(n_h, n_kv)": time needs no training."""
    shapes = {str(H): Shape(*size, *H, d_h=d_h, vocab=vocab) for H in heads}
    return {name: build(rounded(shape), 64, seed=0).to(device).eval() for name, shape in shapes.items()}


@torch.no_grad()
def _step(model: nn.Module, cache: Any, batch: int) -> None:
    token = torch.zeros(batch, 1, dtype=torch.long, device=model.get_input_embeddings().weight.device)
    model(input_ids=token, past_key_values=cache, use_cache=True)


def line(contexts: Sequence[float], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Least squares of seconds = fixed + slope * T: (fixed, slope, R^2)."""
    x, y = np.asarray(contexts, float), np.asarray(seconds, float)
    slope, fixed = np.polyfit(x, y, 1)
    rest, spread = y - fixed - slope * x, y - y.mean()
    return float(fixed), float(slope), float(1 - rest @ rest / (spread @ spread))


def slopes(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, Heads]) -> list[dict[str, Any]]:
    """Rows of :func:`decode_seconds` as one line for each model: how steep it is relative to the first model, and what
    the FLOPs (n_h) and the cache (n_kv) say it should be; ``heads``: model -> H."""
    found: dict[str, tuple[float, float, float]] = {}
    for name in heads:
        mine = [row for row in rows if row["model"] == name]
        found[name] = line([row["T"] for row in mine], [row["seconds"] for row in mine])
    first = next(iter(heads))
    return [
        {
            "model": name,
            "slope / slope of the first": slope / found[first][1],
            "FLOPs say": heads[name][0] / heads[first][0],
            "cache says": heads[name][1] / heads[first][1],
            "R2 of the line": r2,
            "ns a token of context": 1e9 * slope,
        }
        for name, (_, slope, r2) in found.items()
    ]


def slope_by_heads(slopes: Mapping[Heads, float]) -> tuple[float, float]:
    """Non-negative least squares of slope = x n_h + y n_kv: what a query head and a KV head add per token of context.

    Compute-bound decoding has y = 0 (FLOPs grow with n_h alone), bandwidth-bound decoding x = 0 (the cache that has to
    be read grows with n_kv alone)."""
    from scipy.optimize import nnls

    found, _ = nnls(np.array(list(slopes), float), np.array(list(slopes.values()), float))
    return float(found[0]), float(found[1])
