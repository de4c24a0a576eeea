"""From conditioning states to expression: the text-to-cell projector, and the loss on what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor


class ExpressionDecoder(nn.Module):
    """Gene embeddings ask, conditioning states answer: one cross-attention, then a value per gene.

    $$v_g = \\mathrm{MLP}\\big[\\,\\mathrm{Attn}(e_g,\\,W C,\\,W C)\\,;\\,e_g\\big]$$

    with $C$ (M, cond_dim) the states. In the paper's figure these are states of the language model, several tokens. The
    released code passes ONE vector, the first projected query of the true cell: with a single key all attention
    weights are 1 and the layer is a linear map. Paper scale: 70,000 genes, dim 512, 4 heads, MLP 1024-512-1."""

    def __init__(self, n_genes: int, cond_dim: int, dim: int = 64, n_heads: int = 4) -> None:
        super().__init__()
        self.genes = nn.Embedding(n_genes, dim)
        self.cond = nn.Linear(cond_dim, dim)
        self.attention = nn.MultiheadAttention(dim, n_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, cond: Tensor, genes: Tensor) -> Tensor:
        """cond (B, M, cond_dim), genes (G,) or (B, G) ids, to values (B, G) on the scale of the target."""
        if cond.ndim != 3 or genes.ndim not in (1, 2):
            raise ReprobookError(
                f"cond must be (B, M, c) and genes (G,) or (B, G); got {list(cond.shape)}, {list(genes.shape)}"
            )
        e = self.genes(genes)
        e = e.expand(len(cond), -1, -1) if genes.ndim == 1 else e
        kv = self.cond(cond)
        context = self.attention(e, kv, kv, need_weights=False)[0]
        return self.mlp(torch.cat([context, e], -1)).squeeze(-1)


def expression_loss(values: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over genes where ``mask`` (B, G) is True (None: all). Pads and ``<cls>`` are no genes: the
    released code counts them, ``<cls>`` with its value of -2 among them."""
    if mask is None:
        return F.mse_loss(values, target)
    return ((values - target).square() * mask).sum() / mask.sum().clamp(min=1)
