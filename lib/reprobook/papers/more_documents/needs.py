"""What the paper's open models need, from their real architectures instantiated without storage (meta device)."""

from __future__ import annotations

import math
from typing import Any

from reprobook.nn.needs import causal_lm, gpu_hours, kv_cache, parameters

# Shapes as the published configurations have them.
OPEN_MODELS: dict[str, dict[str, Any]] = {
    "Llama-3.2-3B": {"model_type": "llama", "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24,
                     "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256,
                     "tie_word_embeddings": True},
    "Qwen2.5-7B": {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
                   "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
                   "tie_word_embeddings": False},
    "Gemma-2-9B": {"model_type": "gemma2", "hidden_size": 3584, "num_hidden_layers": 42, "num_attention_heads": 16,
                   "num_key_value_heads": 8, "head_dim": 256, "intermediate_size": 14336, "vocab_size": 256000},
    "Gemma-2-27B": {"model_type": "gemma2", "hidden_size": 4608, "num_hidden_layers": 46, "num_attention_heads": 32,
                    "num_key_value_heads": 16, "head_dim": 128, "intermediate_size": 36864, "vocab_size": 256000},
    "Llama-3.3-70B": {"model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
                      "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256,
                      "tie_word_embeddings": False},
    "Qwen2.5-72B": {"model_type": "qwen2", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
                    "num_key_value_heads": 8, "intermediate_size": 29568, "vocab_size": 152064,
                    "tie_word_embeddings": False},
}  # fmt: skip


def needs(prompt_tokens: int, batch_size: int, n_prompts: int) -> list[dict[str, Any]]:
    """One row a model: parameters (10^9), GB of its weights in bf16 and of the KV cache of a batch of prompts, the GPUs
    of 80 GB that hold both, and A100 hours of reading ``n_prompts`` (2 N operations a token, attention not counted,
    over 40 % of the peak: our estimate)."""
    rows = []
    for name, config in OPEN_MODELS.items():
        model = causal_lm(config)
        size, cache = parameters(model), kv_cache(model.config, prompt_tokens, batch=batch_size)
        rows.append({
            "model": name, "parameters (10^9)": size / 1e9, "weights, bf16 (GB)": 2 * size / 1e9,
            "KV cache of a batch (GB)": cache / 1e9, "GPUs of 80 GB": math.ceil((2 * size + cache) / 80e9),
            "A100 hours": gpu_hours(2 * size * prompt_tokens * n_prompts, "A100, bf16"),
        })  # fmt: skip
    return rows
