"""What the paper's models need, from their real architectures without storage (meta device)."""

from __future__ import annotations

from typing import Any

from reprobook.nn.needs import BF16, causal_lm, gpu_hours, kv_cache, parameters
from reprobook.papers.rs_token_pruning.compute import costs

MODELS: dict[str, dict[str, Any]] = {
    "Qwen2-7B": {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
                 "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
                 "tie_word_embeddings": False},
    "Vicuna-1.5-7B": {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                      "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False},
}  # fmt: skip
TRAINING = {  # what the run of the authors is known, or assumed, to have been
    "projector": "558K captions; epochs not found (1 in the stock scripts)",
    "tuning": "484K samples; epochs not found (1 in the stock scripts)",
    "GPUs": "4 x A100 of 80 GB (summary of the paper)",
    "learning rate": "2e-5, cosine, warm-up 0.03, batch 16 a GPU, bf16: defaults of the stock scripts",
    "longest sequence": "8,192 (Qwen2), 2,048 (Vicuna): from the names of the checkpoints",
}


def needs(n_questions: int) -> list[dict[str, Any]]:
    """One row a model: parameters (10^9), GB of weights in bf16 with the module's five blocks, GB of the KV cache for
    all tokens of 144 tiles and for the descent, GB of a training state in fp32 with AdamW, and A100 hours of
    ``n_questions`` descents (Table 4's operations over 40 % of the peak: our estimate)."""
    rows, cost = [], costs()["DIP-4layer + prune (ours)"]
    for name, config in MODELS.items():
        model = causal_lm(config)
        size, block = parameters(model), parameters(model.model.layers[0])
        whole = size + 5 * block
        rows.append({
            "model": name, "parameters (10^9)": whole / 1e9, "weights, bf16 (GB)": BF16 * whole / 1e9,
            "KV cache, 21,312 tokens (GB)": kv_cache(model.config, 21_312) / 1e9,
            "KV cache, 2,376 tokens (GB)": kv_cache(model.config, cost.read) / 1e9,
            "training state (GB)": 16 * whole / 1e9,
            "A100 hours": gpu_hours(cost.tflops * 1e12 * n_questions, "A100, bf16"),
        })  # fmt: skip
    return rows
