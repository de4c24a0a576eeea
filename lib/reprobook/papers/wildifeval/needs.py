"""What judging and answering at the paper's size need, from real architectures without storage (meta device)."""

from __future__ import annotations

import math
from typing import Any

from reprobook.nn.needs import causal_lm, gpu_hours, kv_cache, parameters

# Shapes as the published configurations have them.
OPEN_MODELS: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
                     "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936,
                     "tie_word_embeddings": True},
    "Qwen2.5-7B": {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
                   "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
                   "tie_word_embeddings": False},
    "Qwen2.5-72B": {"model_type": "qwen2", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
                    "num_key_value_heads": 8, "intermediate_size": 29568, "vocab_size": 152064,
                    "tie_word_embeddings": False},
    "Llama-3.3-70B": {"model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
                      "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256,
                      "tie_word_embeddings": False},
}  # fmt: skip


def needs(
    n_tasks: int, n_constraints: int, prefix: int, question: int, answer: int, batch: int
) -> list[dict[str, Any]]:
    """One row a model: parameters (10^9), GB of weights in bf16 and of the keys and values of ``batch`` prefixes, GPUs
    of 80 GB, A100 hours to write ``n_tasks`` answers of ``answer`` tokens and to judge their ``n_constraints``
    with and without a shared prefix (2 N operations a token over 40 % of the peak: our estimate)."""
    rows = []
    for name, config in OPEN_MODELS.items():
        model = causal_lm(config)
        size, cache = parameters(model), kv_cache(model.config, prefix + question, batch=batch)
        hours = [gpu_hours(2 * size * tokens, "A100, bf16") for tokens in (
            n_tasks * (prefix - answer) + n_tasks * answer, n_constraints * (prefix + question),
            n_tasks * prefix + n_constraints * question)]  # fmt: skip
        rows.append({
            "model": name, "parameters (10^9)": size / 1e9, "weights, bf16 (GB)": 2 * size / 1e9,
            "KV cache of a batch (GB)": cache / 1e9, "GPUs of 80 GB": math.ceil((2 * size + cache) / 80e9),
            "hours, answers": hours[0], "hours, judging, whole prompts": hours[1], "hours, judging, shared": hours[2],
        })  # fmt: skip
    return rows
