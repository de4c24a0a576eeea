"""The paper's model and what its training needs, computed on the architecture without weights."""

from __future__ import annotations

from typing import Any

import torch

from reprobook.papers.medical_assistant.training import adapter_parameters, add_adapters

QWEN_7B: dict[str, Any] = {  # configuration of Qwen2.5-Coder-7B-Instruct
    "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "num_hidden_layers": 28,
    "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip


def needs(config: dict[str, Any], rank: int = 8, context: int = 4096) -> dict[str, float]:
    """Parameters of the base (millions) and of one adapter, its size in fp32, and memory (GB): base in bf16, adapter
    with gradient and AdamW's two moments, key-value cache of one session of ``context`` tokens in bf16."""
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(**config)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(made)
        n = sum(p.numel() for p in base.parameters())
        wrapped = add_adapters(base, ["planner"], rank)
    adapter = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert adapter == adapter_parameters(made, rank)
    head = made.hidden_size // made.num_attention_heads
    cache = 2 * made.num_hidden_layers * made.num_key_value_heads * head * context * 2
    return {
        "base (M parameters)": n / 1e6, "adapter (parameters)": adapter, "adapter, fp32 (MB)": 4 * adapter / 1e6,
        "base, bf16 (GB)": 2 * n / 1e9, "two copies of the base (GB)": 4 * n / 1e9,
        "training one adapter (GB)": 16 * adapter / 1e9, "cache of a session (GB)": cache / 1e9,
    }  # fmt: skip
