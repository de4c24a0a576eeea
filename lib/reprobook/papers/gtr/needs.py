"""What the paper's scale needs: parameters, memory and operations from the architecture, without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from reprobook.nn.lm import add_lora
from reprobook.nn.needs import gpu_hours, kv_cache, needs
from reprobook.papers.gtr.released import LORA_LAYERS

if TYPE_CHECKING:
    from reprobook.papers.gtr.released import Lora

# LLaVA-v1.6-mistral-7b; the vision tower is the class's default (CLIP ViT-L/14 at 336 pixels)
MISTRAL: dict[str, Any] = {
    "model_type": "mistral", "vocab_size": 32064, "hidden_size": 4096, "num_hidden_layers": 32,
    "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
PAPER_HOURS = 30.0  # of a run on one A100 of 40 GB, by third-party notes
UTILISATION = 0.4  # of the card's peak: ours


def llava(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None) -> Any:
    """The model without weights (on the meta device)."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    config = LlavaNextConfig(text_config=text or MISTRAL, vision_config=vision)
    with torch.device("meta"):
        return LlavaNextForConditionalGeneration(config)


def table(lora: Lora, tokens: int = 3000, model: Any = None) -> pd.DataFrame:
    """One row: parameters, trained ones, memory (GB) with a cache of one row of ``tokens`` (picture, prompt and
    response)."""
    base = llava() if model is None else model
    cache = kv_cache(base.config.text_config, tokens) / 1e9
    with torch.device("meta"):
        adapted = add_lora(base, r=lora.size, lora_alpha=lora.alpha, target_modules=LORA_LAYERS)
    row = {name: value for name, value in needs(adapted).row().items() if value is not None}
    return pd.DataFrame([{"model": "LLaVA-v1.6-mistral-7b with LoRA", **row, "KV cache (GB)": cache}])


def hours(
    parameters: float, steps: int = 14_336, tokens: int = 3000, epochs: int = 4, gpu: str = "A100, bf16"
) -> float:
    """GPU-hours of a run of GTR by operations: of each step a response is sampled and read again (2 N each a token),
    and in each epoch its row and one of the buffer go forward and back (6 N)."""
    return gpu_hours(steps * tokens * parameters * (2 * 2 + epochs * 2 * 6), gpu, UTILISATION)
