"""What the paper's models need, from their real architectures instantiated without storage (meta device)."""

from __future__ import annotations

import math
from typing import Any

from reprobook.nn.needs import causal_lm, gpu_hours, kv_cache, parameters

# Shapes as the published configurations have them.
QWEN: dict[str, dict[str, Any]] = {
    "Qwen2.5-1.5B": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
                     "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True},
    "Qwen2.5-7B, Qwen2-7B": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
                             "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
                             "tie_word_embeddings": False},
    "Qwen2.5-14B": {"hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
                    "intermediate_size": 13824, "vocab_size": 152064, "tie_word_embeddings": False},
    "Qwen2.5-72B": {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
                    "intermediate_size": 29568, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip


def needs(tokens: float, context: int, batch_size: int) -> list[dict[str, Any]]:
    """One row a model: parameters (10^9), GB of weights in bf16 and of the KV cache of a batch of ``context`` tokens,
    GPUs of 80 GB that hold both, and A100 hours of reading ``tokens`` tokens (2 N operations each, attention not
    counted, over 40 % of the peak: our estimate; the paper gives no times)."""
    rows = []
    for name, shape in QWEN.items():
        model = causal_lm({"model_type": "qwen2", **shape})
        size, cache = parameters(model), kv_cache(model.config, context, batch=batch_size)
        rows.append({
            "model": name, "parameters (10^9)": size / 1e9, "weights, bf16 (GB)": 2 * size / 1e9,
            "KV cache of a batch (GB)": cache / 1e9, "GPUs of 80 GB": math.ceil((2 * size + cache) / 80e9),
            "A100 hours": gpu_hours(2 * size * tokens, "A100, bf16"),
        })  # fmt: skip
    return rows
