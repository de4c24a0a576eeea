"""Real models of a :class:`Shape`: `transformers`' Llama with the head size set apart, counted and run (Appendix D)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from reprobook.errors import ReprobookError
from reprobook.papers.cost_optimal_gqa.costs import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import LlamaConfig, LlamaForCausalLM


def llama_config(shape: Shape, context: int, rope_theta: float = 500_000.0) -> LlamaConfig:
    """The paper's architecture as a Llama configuration: pre-norm RMSNorm (eps 1e-6), SwiGLU, RoPE, no bias, no
    dropout, std 0.02. L and d must be whole. `transformers` asks d to be a multiple of n_h, though n_h d_h need not
    equal it."""
    from transformers import LlamaConfig

    whole = {"n_layers": shape.n_layers, "d": shape.d, "d_ff": shape.ffn}
    broken = [f"{name} = {value:.4g}" for name, value in whole.items() if not float(value).is_integer()]
    if broken:
        raise ReprobookError(f"{', '.join(broken)}: a model needs whole sizes; see Family.nearest_real and rounded")
    if shape.d % shape.n_h:
        raise ReprobookError(f"d is {shape.d}; transformers wants a multiple of n_h = {shape.n_h}")
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=int(shape.d),
        intermediate_size=int(shape.ffn),
        num_hidden_layers=int(shape.n_layers),
        num_attention_heads=shape.n_h,
        num_key_value_heads=shape.n_kv,
        head_dim=shape.d_h,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=context,
        rms_norm_eps=1e-6,
        initializer_range=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )


def build(shape: Shape, context: int, *, device: torch.device | str = "cpu", seed: int | None = None) -> nn.Module:
    """A model with random weights (``seed`` None: from the current random state). ``device="meta"``: no storage."""
    from transformers import LlamaForCausalLM

    if seed is not None:
        torch.manual_seed(seed)
    with torch.device(device):
        return LlamaForCausalLM(llama_config(shape, context))


def shape_of(config: Any) -> Shape:
    """The sizes of a released Llama-like configuration; a missing head_dim means d / n_h."""
    n_h = config.num_attention_heads
    return Shape(
        config.num_hidden_layers,
        config.hidden_size,
        n_h,
        config.num_key_value_heads or n_h,
        d_h=getattr(config, "head_dim", None) or config.hidden_size // n_h,
        d_ff=config.intermediate_size,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
    )


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters without embeddings, and all; a tied table counts once."""
    total = sum(p.numel() for p in model.parameters())
    tables = {id(m.weight): m.weight.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    return total - sum(tables.values()), total


def cache_values(cache: Any) -> int:
    """Values that a KV cache of `transformers` holds."""
    return sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)


def token_nll(model: nn.Module, rows: Tensor, batch_size: int = 64) -> Tensor:
    """-log p of tokens 1..T-1 of each row given those before, (n, T - 1), nats; token 0 is context."""
    found = []
    with torch.no_grad():
        for x in rows.split(batch_size):
            logits = model(input_ids=x, use_cache=False).logits[:, :-1].float()
            found.append(F.cross_entropy(logits.transpose(1, 2), x[:, 1:], reduction="none"))
    return torch.cat(found)


def next_token_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Mean NLL of a batch of rows (K, T), nats per token: the training loss."""
    logits = model(input_ids=x, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1).float(), x[:, 1:].flatten())


@torch.no_grad()
def tile_kv_heads(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The MHA model that computes what the GQA ``model`` computes: each K/V head repeated for the query heads it
    serves, next to each other (``repeat_interleave``; ``repeat`` would hand them to other heads)."""
    from copy import deepcopy

    from transformers import LlamaForCausalLM

    config = deepcopy(model.config)
    group = config.num_attention_heads // config.num_key_value_heads
    config.num_key_value_heads = config.num_attention_heads
    tiled = LlamaForCausalLM(config)
    weights = {}
    for name, w in model.state_dict().items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            w = w.unflatten(0, (-1, config.head_dim)).repeat_interleave(group, 0).flatten(0, 1)
        weights[name] = w
    tiled.load_state_dict(weights)
    return tiled.to(model.device).eval()
