"""The cell-to-text projector: a Q-Former, which is a BERT whose learned queries look at the cell in every second layer.

Names follow BERT: post-norm layers, GELU. Queries and text share the self-attention and part at the feed-forward
network; the queries' one starts as a copy of the text's. Three ways to run it:

- queries alone, with the cell: what the cell says (contrast, and the prompt of stage 2)
- text alone: the first token's state is the text's vector (contrast)
- queries and text together, with the cell: all see all (matching), or, ``causal``, queries see queries and text sees
  queries and the text before it (captioning)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor


class Attention(nn.Module):
    """Multi-head attention with BERT's residual and LayerNorm. ``kv_dim``: width of what is looked at."""

    def __init__(self, dim: int, n_heads: int, kv_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % n_heads:
            raise ReprobookError(f"dim {dim} must be a multiple of n_heads {n_heads}")
        self.n_heads, self.dropout = n_heads, dropout
        self.query, self.key, self.value = (
            nn.Linear(dim, dim),
            nn.Linear(kv_dim or dim, dim),
            nn.Linear(kv_dim or dim, dim),
        )
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-12)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
        """x (B, q, dim), kv (B, k, kv_dim), mask (B, 1, 1 or q, k) True where attention is allowed."""
        q, k, v = self._heads(self.query(x)), self._heads(self.key(kv)), self._heads(self.value(kv))
        p = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        return self.norm(self.dense(found.transpose(1, 2).flatten(2)) + x)

    @torch.no_grad()
    def weights(self, x: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
        """Attention (B, heads, q, k), for pictures."""
        q, k = self._heads(self.query(x)), self._heads(self.key(kv))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return scores.masked_fill(~mask, -torch.inf).softmax(-1)


class FeedForward(nn.Module):
    """BERT's: linear, GELU, linear, residual, LayerNorm."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> the same shape."""
        return self.norm(self.down(F.gelu(self.up(x))) + x)


class Layer(nn.Module):
    """Shared self-attention; cross-attention of the queries (``cell_dim`` given); a feed-forward network for each."""

    def __init__(self, dim: int, n_heads: int, hidden: int, cell_dim: int | None, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, n_heads, dropout=dropout)
        self.cross = Attention(dim, n_heads, cell_dim, dropout) if cell_dim is not None else None
        self.text_ffn, self.query_ffn = FeedForward(dim, hidden), FeedForward(dim, hidden)

    def forward(
        self, x: Tensor, n_queries: int, mask: Tensor, cell: Tensor | None, cell_mask: Tensor | None, n_kept: int
    ) -> Tensor:  # fmt: skip
        """Only the first ``n_kept`` states are worked out; all are looked at."""
        x = self.attention(x[:, :n_kept], x, mask[:, :, :n_kept] if mask.shape[2] > 1 else mask)
        queries, text = x[:, :n_queries], x[:, n_queries:]
        if n_queries:
            if self.cross is not None:
                queries = self.cross(queries, cell, cell_mask)
            queries = self.query_ffn(queries)
        return torch.cat([queries, self.text_ffn(text)], 1) if text.shape[1] else queries


class QFormer(nn.Module):
    """Paper scale: dim 768, 12 layers, 12 heads, hidden 3072, 32 queries, cells of width 512."""

    def __init__(
        self, dim: int = 64, n_layers: int = 4, n_heads: int = 4, hidden: int | None = None, n_queries: int = 8,
        cell_dim: int = 64, cross_every: int = 2, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if n_queries < 1 or cross_every < 1:
            raise ReprobookError(f"n_queries {n_queries} and cross_every {cross_every} must be at least 1")
        self.dim, self.n_queries = dim, n_queries
        self.query_tokens = nn.Parameter(0.02 * torch.randn(n_queries, dim))
        self.norm, self.dropout = nn.LayerNorm(dim, eps=1e-12), nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(dim, n_heads, hidden or 4 * dim, cell_dim if i % cross_every == 0 else None, dropout)
            for i in range(n_layers)
        )
        for layer in self.layers:
            layer.query_ffn.load_state_dict(layer.text_ffn.state_dict())

    def forward(
        self, cell: Tensor | None = None, cell_padding: Tensor | None = None, text: Tensor | None = None,
        text_padding: Tensor | None = None, causal: bool = False, n_text: int | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """States of the queries (B, n_queries, dim), and of the text (B, L, dim); either may be empty.

        cell (B, n, cell_dim) and text (B, L, dim) with masks that are True at PADDING: the attention here wants the
        opposite, and turns them around once, in this place. ``n_text``: of the text only the first states are wanted
        (matching none, contrast one), so the last layer works out no more than these; the numbers are the same."""
        x, mask, n_queries, cell_mask = self._open(cell, cell_padding, text, text_padding, causal)
        for layer in self.layers[:-1]:
            x = layer(x, n_queries, mask, cell, cell_mask, x.shape[1])
        kept = x.shape[1] if n_text is None else n_queries + min(n_text, x.shape[1] - n_queries)
        x = self.layers[-1](x, n_queries, mask, cell, cell_mask, kept)
        return x[:, :n_queries], x[:, n_queries:]

    def _open(
        self, cell: Tensor | None, cell_padding: Tensor | None, text: Tensor | None, text_padding: Tensor | None,
        causal: bool,
    ) -> tuple[Tensor, Tensor, int, Tensor | None]:  # fmt: skip
        if cell is None and text is None:
            raise ReprobookError("the Q-Former needs a cell, a text or both")
        batch, n_queries = len(cell if cell is not None else text), 0
        parts, visible = [], []
        if cell is not None:
            n_queries = self.n_queries
            parts.append(self.query_tokens.expand(batch, -1, -1))
            visible.append(torch.ones(batch, n_queries, dtype=torch.bool, device=cell.device))
        if text is not None:
            parts.append(text)
            shown = (
                torch.zeros(text.shape[:2], dtype=torch.bool, device=text.device)
                if text_padding is None
                else text_padding
            )
            visible.append(~shown)
        x = self.dropout(self.norm(torch.cat(parts, 1)))
        mask = torch.cat(visible, 1)[:, None, None, :]
        if causal:
            mask = mask & prefix_mask(n_queries, x.shape[1] - n_queries, x.device)
        cell_mask = None
        if cell is not None and cell_padding is not None:
            cell_mask = ~cell_padding[:, None, None, :]
        elif cell is not None:
            cell_mask = torch.ones(batch, 1, 1, cell.shape[1], dtype=torch.bool, device=cell.device)
        return x, mask, n_queries, cell_mask

    @torch.no_grad()
    def attention_over_cell(self, cell: Tensor, cell_padding: Tensor) -> Tensor:
        """What the queries look at in the last cross-attention: (B, n_queries, n), mean over heads."""
        x, mask, n_queries, cell_mask = self._open(cell, cell_padding, None, None, False)
        last = max(i for i, layer in enumerate(self.layers) if layer.cross is not None)
        for layer in self.layers[:last]:
            x = layer(x, n_queries, mask, cell, cell_mask, x.shape[1])
        layer = self.layers[last]
        return layer.cross.weights(layer.attention(x, x, mask), cell, cell_mask).mean(1)


def prefix_mask(n_queries: int, n_text: int, device: torch.device | None = None) -> Tensor:
    """(1, 1, n, n) True where row may see column: queries see queries; text sees queries and the text up to itself."""
    n = n_queries + n_text
    mask = torch.ones(n, n, dtype=torch.bool, device=device).tril()
    mask[:n_queries, :n_queries] = True
    return mask[None, None]


def load_bert(qformer: QFormer, weights: Mapping[str, Tensor]) -> None:
    """Start from a BERT of the same width and depth (the paper: BiomedBERT). Cross-attention and queries stay new; the
    queries' feed-forward network is a copy of the text's. Names may begin with ``bert.``."""
    plain = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    names = {"norm": "embeddings.LayerNorm"}
    for i in range(len(qformer.layers)):
        at = f"encoder.layer.{i}"
        own = f"layers.{i}"
        names |= {f"{own}.attention.{part}": f"{at}.attention.self.{part}" for part in ("query", "key", "value")}
        names |= {f"{own}.attention.dense": f"{at}.attention.output.dense"}
        names |= {f"{own}.attention.norm": f"{at}.attention.output.LayerNorm"}
        for ffn in ("text_ffn", "query_ffn"):
            names |= {f"{own}.{ffn}.up": f"{at}.intermediate.dense", f"{own}.{ffn}.down": f"{at}.output.dense"}
            names |= {f"{own}.{ffn}.norm": f"{at}.output.LayerNorm"}
    found = {f"{a}.{kind}": plain.get(f"{b}.{kind}") for a, b in names.items() for kind in ("weight", "bias")}
    absent = [name for name, tensor in found.items() if tensor is None]
    if absent:
        raise ReprobookError(f"the BERT has no weight for {absent[0]} of the Q-Former: its depth is another")
    try:
        qformer.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise ReprobookError(f"the BERT does not fit the Q-Former: {error}") from error
