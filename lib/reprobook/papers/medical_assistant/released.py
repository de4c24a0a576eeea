"""The paper's model and what its training needs, computed on the architecture without weights."""

from __future__ import annotations

from typing import Any

from reprobook.nn.needs import causal_lm, kv_cache, parameters
from reprobook.papers.medical_assistant.training import add_adapters

QWEN_7B: dict[str, Any] = {  # configuration of Qwen2.5-Coder-7B-Instruct
    "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "num_hidden_layers": 28,
    "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip


def needs(config: dict[str, Any], rank: int = 8, context: int = 4096) -> dict[str, float]:
    """Parameters of the base (millions) and of one adapter, its size in fp32, and memory (GB): base in bf16, adapter
    with gradient and AdamW's two moments, key-value cache of one session of ``context`` tokens in bf16."""
    base = causal_lm(config)
    n, cache = parameters(base), kv_cache(base.config, context)
    adapter = parameters(add_adapters(base, ["planner"], rank), trained=True)
    return {
        "base (M parameters)": n / 1e6, "adapter (parameters)": adapter, "adapter, fp32 (MB)": 4 * adapter / 1e6,
        "base, bf16 (GB)": 2 * n / 1e9, "two copies of the base (GB)": 4 * n / 1e9,
        "training one adapter (GB)": 16 * adapter / 1e9, "cache of a session (GB)": cache / 1e9,
    }  # fmt: skip
