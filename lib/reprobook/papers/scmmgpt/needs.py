"""What the paper's own models need, counted on architectures without storage."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from reprobook.nn.needs import causal_lm, parameters
from reprobook.papers.scmmgpt.decoder import ExpressionDecoder
from reprobook.papers.scmmgpt.encoder import CellEncoder
from reprobook.papers.scmmgpt.qformer import QFormer

LLAMAS: dict[str, dict[str, Any]] = {
    "Llama-2-7B": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    },
    "TinyLlama-1.1B": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632,
        "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
    },
}  # fmt: skip


def table() -> pd.DataFrame:
    """Parameters of each part, and gigabytes: fp32 with gradient and AdamW's moments if trained, bf16 if frozen."""
    with torch.device("meta"):
        trained = {
            "scGPT encoder, 60,697 genes": parameters(CellEncoder(60697, 60694, 512, 12, 8, 512)),
            "Q-Former, 32 queries": parameters(QFormer(768, 12, 12, 3072, 32, 512)),
            "its word and position embeddings": (30523 + 512) * 768,
            "expression decoder, 70,000 genes": parameters(ExpressionDecoder(70000, 4096, 512)),
        }
    frozen = {f"{name}, frozen": parameters(causal_lm(config)) for name, config in LLAMAS.items()}
    return pd.DataFrame(
        [
            {"part": name, "parameters (M)": n / 1e6, "memory (GB)": size * n / 1e9}
            for size, parts in ((16, trained), (2, frozen))
            for name, n in parts.items()
        ]
    )
