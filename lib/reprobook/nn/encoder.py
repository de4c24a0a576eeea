"""Sentence encoder: a folder with a small BERT in safetensors, mean pooling, unit vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.nn.lm import without_progress_bars

if TYPE_CHECKING:
    from torch import Tensor


def load_encoder(folder: str | Path, *, device: str | torch.device = "cpu") -> tuple[Any, Any]:
    """Model (fp32, eval mode) and tokenizer of a sentence-transformers folder; the tokenizer knows the length limit."""
    from transformers import AutoModel, AutoTokenizer

    with without_progress_bars():
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    settings = Path(folder) / "sentence_bert_config.json"
    if settings.is_file():
        tokenizer.model_max_length = json.loads(settings.read_text(encoding="utf-8"))["max_seq_length"]
    return model.to(torch.device(device)).eval(), tokenizer


@torch.no_grad()
def encode(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 32) -> Tensor:
    """Unit vectors (n, width), fp32 on the CPU, in the order of ``texts``; the dot product is the cosine.

    Texts longer than the model's limit (256 tokens for all-MiniLM-L6-v2) are cut there, as its authors do.
    """
    if isinstance(texts, str) or batch_size < 1:
        raise ReprobookError(f"texts must be a list and batch_size at least 1, got {texts!r:.40} and {batch_size}")
    vectors = torch.empty(len(texts), model.config.hidden_size)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        x = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt").to(model.device)
        hidden = model(**x).last_hidden_state
        mask = x["attention_mask"].unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        vectors[rows] = F.normalize(pooled, dim=-1).cpu()
    return vectors
