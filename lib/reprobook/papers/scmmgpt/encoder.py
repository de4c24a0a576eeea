"""The cell encoder: scGPT's transformer over (gene, value) tokens, with the names of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.scmmgpt.tokens import Tokens

MAX_VALUE = 512.0  # scGPT clips values here
_HEADS = (
    "decoder.",
    "cls_decoder.",
    "mvc_decoder.",
    "flag_encoder.",
    "sim.",
    "creterion_cce.",
    "grad_reverse_discriminator.",
)


class GeneEncoder(nn.Module):
    """Embedding of gene ids, with a LayerNorm."""

    def __init__(self, n_genes: int, dim: int, pad: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_genes, dim, padding_idx=pad)
        self.enc_norm = nn.LayerNorm(dim)

    def forward(self, genes: Tensor) -> Tensor:
        """genes: ids (B, L) -> (B, L, dim)."""
        return self.enc_norm(self.embedding(genes))


class ValueEncoder(nn.Module):
    """scGPT's continuous value encoder: linear, ReLU, linear, LayerNorm; values above 512 count as 512."""

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear1, self.linear2, self.norm = nn.Linear(1, dim), nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """values: (B, L) -> (B, L, dim)."""
        x = F.relu(self.linear1(values.clamp(max=MAX_VALUE).unsqueeze(-1)))
        return self.dropout(self.norm(self.linear2(x)))


class CellEncoder(nn.Module):
    """States (B, L, dim) of all tokens. No code of positions: the order of the genes carries nothing.

    Paper scale: dim 512, 12 layers, 8 heads, feed-forward 512, 60,697 genes."""

    def __init__(
        self, n_genes: int, pad: int, dim: int = 64, n_layers: int = 2, n_heads: int = 4, hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim = dim
        self.encoder, self.value_encoder = GeneEncoder(n_genes, dim, pad), ValueEncoder(dim, dropout)
        layer = nn.TransformerEncoderLayer(dim, n_heads, hidden or dim, dropout, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)

    def forward(self, tokens: Tokens) -> Tensor:
        """tokens of B cells -> (B, L, dim)."""
        x = self.encoder(tokens.genes) + self.value_encoder(tokens.values)
        return self.transformer_encoder(x, src_key_padding_mask=tokens.padding)


def rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a released checkpoint as this encoder has them: flash-attention's ``Wqkv`` is torch's ``in_proj``; the
    heads of the pre-training (decoders and classifiers) are left out."""
    found = {}
    for name, tensor in weights.items():
        name = name.removeprefix("module.")
        if name.startswith(_HEADS):
            continue
        name = name.replace("self_attn.Wqkv.weight", "self_attn.in_proj_weight")
        found[name.replace("self_attn.Wqkv.bias", "self_attn.in_proj_bias")] = tensor
    return found


def load_scgpt(folder: str | Path) -> tuple[CellEncoder, dict[str, int]]:
    """A released scGPT folder: ``args.json``, ``vocab.json`` and ``best_model.pt`` (read without running its pickle).

    Returns the encoder and the vocabulary name -> id with the special tokens. Raises :class:`ReprobookError` naming
    the first weight that is missing or does not fit."""
    folder = Path(folder)
    missing = [name for name in ("args.json", "vocab.json", "best_model.pt") if not (folder / name).is_file()]
    if missing:
        raise ReprobookError(
            f"scgpt_folder {folder.name!r} has no {', '.join(missing)}: download the whole-human checkpoint from the "
            "address in scGPT's README and give its folder"
        )
    settings = json.loads((folder / "args.json").read_text("utf-8"))
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    weights = rename(torch.load(folder / "best_model.pt", map_location="cpu", weights_only=True))
    encoder = CellEncoder(
        len(vocabulary), vocabulary[settings.get("pad_token", "<pad>")], settings["embsize"], settings["nlayers"],
        settings["nheads"], settings["d_hid"], settings.get("dropout", 0.2),
    )  # fmt: skip
    own = encoder.state_dict()
    for name, tensor in own.items():
        if name not in weights or weights[name].shape != tensor.shape:
            got = "nothing" if name not in weights else f"shape {list(weights[name].shape)}"
            raise ReprobookError(f"best_model.pt: {name} should have shape {list(tensor.shape)}, got {got}")
    encoder.load_state_dict({name: weights[name] for name in own})
    return encoder, vocabulary
