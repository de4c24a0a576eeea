"""What few heads save while decoding: a model of the head rule against one of equal measured loss with fewer heads.

The same run asserts that decoding with the cache gives the logits of a full pass, that the cache holds what the cost
model says, and that GQA equals MHA with tiled heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from reprobook import record
from reprobook.errors import ReprobookError
from reprobook.papers.cost_optimal_gqa.costs import Shape, inference_cost, kv_values
from reprobook.papers.cost_optimal_gqa.decode import decode_seconds, steps_in_turns
from reprobook.papers.cost_optimal_gqa.models import build, cache_values, tile_kv_heads
from reprobook.papers.cost_optimal_gqa.search import trained_shape

if TYPE_CHECKING:
    from torch import nn

    from reprobook.bench import Comparison
    from reprobook.papers.cost_optimal_gqa.costs import Heads

LONG = 131_072
FP32_BYTES = 4


@dataclass(frozen=True)
class Pair:
    """Two rows of the table of trained models: the rule's, and one whose validation loss is no worse."""

    rule: dict[str, Any]
    chosen: dict[str, Any]


def equal_loss_pair(models: pd.DataFrame, rule: Heads, T: int, d_h: int, vocab: int) -> Pair | None:
    """The largest model of ``rule`` for which a trained model with fewer heads has no worse loss; of those the one with
    the fewest FLOPs at T. None if there is no such pair.

    ``models``: columns L, d, n_h, n_kv, N, "validation loss", one row per trained model.
    """
    rows = models.to_dict("records")
    for base in sorted((r for r in rows if (r["n_h"], r["n_kv"]) == rule), key=lambda r: -r["N"]):
        fewer = [r for r in rows if r["n_h"] < rule[0] and r["n_kv"] <= rule[1]]
        as_good = [r for r in fewer if r["validation loss"] <= base["validation loss"]]
        if as_good:
            return Pair(base, min(as_good, key=lambda r: inference_cost(trained_shape(r, d_h, vocab), T).flops))
    return None


def decoding_costs(models: dict[str, nn.Module], T: int, n_tokens: int = 8, batch: int = 1) -> list[dict[str, Any]]:
    """Rows {model, tokens/s, cache bytes}: decoding at context T in turns, after :func:`check_decoding` of each."""
    for model in models.values():
        check_decoding(model)
    rows = []
    for row in decode_seconds(models, [T], n_tokens=n_tokens, batch=batch):
        config = models[row["model"]].config
        values = 2 * T * config.num_hidden_layers * config.head_dim * config.num_key_value_heads * batch
        rows.append({"model": row["model"], "tokens/s": batch / row["seconds"], "cache bytes": FP32_BYTES * values})
    return rows


@torch.no_grad()
def check_decoding(model: Any, T: int = 24) -> None:
    """Raise :class:`ReprobookError` unless decoding token by token gives the logits of one pass, the cache holds
    2 T L d_h n_kv values, and the model equals its MHA twin with tiled K/V heads."""
    from transformers import DynamicCache

    config = model.config
    device = model.get_input_embeddings().weight.device
    x = torch.arange(T, device=device)[None] % config.vocab_size
    cache = DynamicCache(config=config)
    steps = [model(input_ids=x[:, t : t + 1], past_key_values=cache, use_cache=True).logits for t in range(T)]
    whole = model(input_ids=x, use_cache=False).logits
    gap = float((torch.cat(steps, 1) - whole).abs().max())
    tiled = float((tile_kv_heads(model)(input_ids=x, use_cache=False).logits - whole).abs().max())
    if max(gap, tiled) > 1e-3:
        raise ReprobookError(f"logits differ: cached {gap:.1e}, with tiled heads {tiled:.1e}")
    shape = Shape(
        config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.num_key_value_heads,
        d_h=config.head_dim,
    )  # fmt: skip
    if cache_values(cache) != kv_values(shape, T):
        raise ReprobookError(f"the cache holds {cache_values(cache)} values, the cost model says {kv_values(shape, T)}")


def headline() -> Comparison:
    """A decoding step with 128K tokens in the cache, fp32: a model of the head rule over one of no worse loss with
    fewer heads, the pair of the published laptop records. Each model is checked by :func:`check_decoding`."""
    rule, d_h, vocab = (8, 2), 8, 27
    published = [r.tables["models"] for r in record.results("cost_optimal_gqa", "laptop") if "models" in r.tables]
    frames = pd.concat([pd.DataFrame(t.rows, columns=t.columns) for t in published])
    mean = frames.groupby(["L", "d", "n_h", "n_kv"], as_index=False)[["N", "validation loss"]].mean()
    pair = equal_loss_pair(mean, rule, LONG, d_h, vocab)
    if pair is None:
        raise ReprobookError("the published records hold no pair of models of equal loss")
    models = {}
    for row in (pair.rule, pair.chosen):
        name = f"({row['n_h']:.0f}, {row['n_kv']:.0f}) heads, {row['L']:.0f} x {row['d']:.0f}"
        models[name] = build(trained_shape(row, d_h, vocab), LONG, seed=0).eval()
        check_decoding(models[name])
    return steps_in_turns(models, LONG, n_tokens=8)
