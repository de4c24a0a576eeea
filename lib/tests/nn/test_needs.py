"""Needs on the meta device against sums by hand, published sizes and the real thing on the processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.nn import needs as nd
from torch import nn

TINY = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
QWEN = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28,
    "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


def test_a_published_size_in_the_units_of_all_tables() -> None:
    """Qwen2.5-1.5B has 1,543,714,304 parameters; nothing is stored for it."""
    model = nd.causal_lm(QWEN)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    row = nd.needs(model, cache_tokens=1000, batch=2).row()
    n = 1_543_714_304
    assert row["parameters (M)"] == row["trained (M)"] == n / 1e6
    memory = [row[name] for name in ("weights (GB)", "gradients (GB)", "AdamW's moments (GB)")]
    assert memory == [4 * n / 1e9, 4 * n / 1e9, 8 * n / 1e9]
    assert row["KV cache (GB)"] == 2 * 28 * 2 * 128 * 1000 * 2 * 2 / 1e9
    assert row["activations of a step (GB)"] is None and row["TFLOP a step"] is None


def test_frozen_weights_have_no_gradient_and_their_own_type() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5))
    model[0].requires_grad_(False)
    found = nd.needs(model)
    assert (found.parameters, found.trained) == (220 + 105, 105)
    assert (found.weights, found.gradients, found.moments) == (2 * 220 + 4 * 105, 4 * 105, 8 * 105)
    assert found.training_state == 2 * 220 + 16 * 105
    assert nd.needs(model, frozen=nd.FP32).weights == 4 * 325


def test_operations_and_what_is_kept_by_hand() -> None:
    """y = relu(x A) B: products of 2 m n k operations; backward twice that but for x, which needs no gradient. Kept are
    x, and the hidden layer once: relu's output is what the second layer reads."""
    with torch.device("meta"):
        model, x = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)), torch.empty(5, 6)
    found = nd.traced(lambda: model(x).sum().backward(), model.parameters())
    assert found.flops == 2 * 5 * 6 * 8 * 2 + 2 * 5 * 8 * 3 * 3
    assert found.attention == 0 and found.kept == 4 * (5 * 6 + 5 * 8)
    assert nd.traced(lambda: model(x).sum().backward()).kept == found.kept + 4 * 8 * 3  # the first weight isn't read
    with torch.no_grad():
        assert nd.traced(lambda: model(x), model.parameters()).kept == 0


def test_what_is_kept_on_the_processor_is_what_the_meta_device_says() -> None:
    def kept(device: str) -> int:
        with torch.device(device):
            net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.GroupNorm(2, 4)), torch.ones(2, 3, 9, 9)
        return nd.traced(lambda: net(x).sum().backward(), net.parameters()).kept

    assert kept("cpu") == kept("meta") > 0


def test_a_step_of_a_language_model_costs_six_operations_a_weight_and_token() -> None:
    """6 N T, and the products of attention: 4 T^2 d a layer forward, three times in all."""
    model, rows, tokens = nd.causal_lm(TINY), 3, 7
    found = nd.needs(model, nd.lm_step(model, rows, tokens))
    norms = (2 * 2 + 1) * 16
    products = 6 * (found.parameters - norms) * rows * tokens
    attention = 3 * 4 * tokens**2 * 16 * 2 * rows
    assert found.flops == products + attention
    assert found.activations is not None and found.activations > rows * tokens * 50 * 4  # logits at least
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("changed", "heads"), [({}, 2 * 4), ({"head_dim": 6}, 2 * 6)])
def test_the_cache_is_as_large_as_a_real_one(changed: dict[str, int], heads: int) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.for_model(**TINY, **changed)
    model = AutoModelForCausalLM.from_config(config)
    cache = model(input_ids=torch.zeros(2, 5, dtype=torch.long), use_cache=True).past_key_values
    real = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert nd.kv_cache(config, 5, batch=2, number=nd.FP32) == real == 2 * 2 * heads * 5 * 2 * 4


def test_hours_are_operations_over_a_stated_share_of_the_peak() -> None:
    assert nd.gpu_hours(989.4e12 * 0.4 * 3600) == pytest.approx(1)
    assert nd.gpu_hours(312e12 * 1800, "A100, bf16", 0.5) == pytest.approx(1)
    for gpu, utilisation in (("Abacus", 0.4), ("A100, bf16", 0.0), ("A100, bf16", 1.1)):
        with pytest.raises(ReprobookError, match="gpu must be one of H100 SXM, bf16, .* and utilisation in"):
            nd.gpu_hours(1.0, gpu, utilisation)
