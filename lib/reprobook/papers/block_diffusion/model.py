"""The DiT body, the three-part attention mask and the two ways to run a training pass (Sections 3.2, B.6, C.2).

Parameters carry the names of the released checkpoints, so that those load without a table of names.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprobook.errors import ReprobookError
from reprobook.papers.block_diffusion.noise import check_blocks


def training_mask(length: int, block_size: int, device: torch.device | str = "cpu") -> Tensor:
    r"""Who sees whom when the noisy and the clean sequence go through the network together (Section 3.2).

    Rows are queries, columns keys, both ordered ``x_t (+) x``; bool ``(2L, 2L)``:

    $$M = \begin{bmatrix} M_{BD} & M_{OBC} \\ 0 & M_{BC} \end{bmatrix}$$

    M_BD: a noisy token sees the noisy tokens of its own block.
    M_OBC: it sees the clean tokens of blocks strictly before its own (``<=`` would show it the answer).
    M_BC: a clean token sees the clean tokens of its own and earlier blocks.
    """
    check_blocks(length, block_size)
    block = torch.arange(length, device=device) // block_size
    query, key = block[:, None], block[None, :]
    own, before, up_to = query == key, query > key, query >= key
    return torch.cat([torch.cat([own, before], 1), torch.cat([torch.zeros_like(own), up_to], 1)], 0)


@lru_cache(maxsize=16)
def flex_training_mask(length: int, block_size: int, n_queries: int | None = None, device: str = "cpu") -> Any:
    """The same mask, or its first ``n_queries`` rows, for FlexAttention, which skips empty tiles (Appendix B.7)."""
    from torch.nn.attention.flex_attention import create_block_mask

    check_blocks(length, block_size)

    def visible(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        q_clean, k_clean = q >= length, k >= length
        q_block, k_block = (q % length) // block_size, (k % length) // block_size
        own = (q_block == k_block) & (q_clean == k_clean)
        return own | ((q_block > k_block) & k_clean)

    return create_block_mask(visible, B=None, H=None, Q_LEN=n_queries or 2 * length, KV_LEN=2 * length, device=device)


@lru_cache(maxsize=2)
def flex_kernel(device_type: str) -> Any:
    """FlexAttention, compiled where it is meant to be fast; uncompiled it is correct and skips nothing."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if device_type == "cuda" else flex_attention


def rotary(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotate pairs (i, i + d/2) of ``x`` (K, H, S, d) by angles ``positions * base^(-2i/d)``; computed in float32."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = positions.to(x.device, torch.float32)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    first, second = _wide(x).split(half, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


class KVCache:
    """Keys and values of finished, clean tokens, one pair a layer; at most ``max_length`` tokens are kept.

    Keys are stored after rotation at their absolute positions. Rotary scores depend on differences of positions
    alone, so dropping the oldest tokens needs no new rotation (the released code shifts un-rotated keys: the same
    scores).
    """

    def __init__(self, n_layers: int, max_length: int | None = None) -> None:
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * n_layers
        self.max_length = max_length
        self.next_position = 0

    def __len__(self) -> int:
        first = self.layers[0]
        return 0 if first is None else first[0].shape[2]

    def extended(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stored keys and values of ``layer`` followed by ``k`` and ``v``, each (K, H, past + S, d)."""
        past = self.layers[layer]
        return (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Replace the content of ``layer``, keeping its last ``max_length`` tokens."""
        start = 0 if self.max_length is None else max(0, k.shape[2] - self.max_length)
        self.layers[layer] = (k[:, :, start:], v[:, :, start:])


def _wide(x: Tensor) -> Tensor:
    """``x`` in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNorm(nn.Module):
    """Layer normalisation in float32 with a scale and no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> the same shape."""
        return F.layer_norm(_wide(x), self.weight.shape, _wide(self.weight)).to(x.dtype)


class TimestepEmbedder(nn.Module):
    """Sinusoidal features of the noise level ``sigma`` (K,) and a two-layer network -> (K, cond_dim)."""

    def __init__(self, cond_dim: int, n_features: int = 256) -> None:
        super().__init__()
        self.n_features = n_features
        self.mlp = nn.Sequential(nn.Linear(n_features, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma: (K,) -> (K, cond_dim)."""
        half = self.n_features // 2
        frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=sigma.device) / half)
        angle = sigma.float()[:, None] * frequency
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1).to(next(self.mlp.parameters()).dtype))


class TokenEmbedding(nn.Module):
    """A vector for each token; named and started as the released code does."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_size, dim))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (K, L) -> (K, L, dim)."""
        return self.embedding[tokens]


def _zero_linear(n_in: int, n_out: int) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """One transformer layer with adaLN modulation (shift, scale and gate for attention and MLP) or without."""

    def __init__(self, dim: int, n_heads: int, cond_dim: int, mlp_ratio: int, dropout: float, adaln: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.norm1 = LayerNorm(dim)
        self.attn_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn_out = nn.Linear(dim, dim, bias=False)
        self.norm2 = LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_ratio * dim), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * dim, dim)
        )
        self.adaLN_modulation = _zero_linear(cond_dim, 6 * dim) if adaln else None

    def attend(
        self, x: Tensor, positions: Tensor, mask: Any, cache: KVCache | None, store: bool, layer: int, n_queries: int
    ) -> Tensor:
        """Attention of the first ``n_queries`` tokens of x (K, L, dim) over x and ``cache`` -> (K, n_queries, dim)."""
        if n_queries == x.shape[1]:
            q, k, v = self.attn_qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            dim = x.shape[-1]
            q = F.linear(x[:, :n_queries], self.attn_qkv.weight[:dim]).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            k, v = F.linear(x, self.attn_qkv.weight[dim:]).unflatten(-1, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotary(q, positions[:n_queries]), rotary(k, positions)
        if cache is not None:
            k, v = cache.extended(layer, k, v)
            if store:
                cache.store(layer, k, v)
        if n_queries == 0:
            return x[:, :0]
        if mask is None or isinstance(mask, Tensor):
            out = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask)
        else:
            out = flex_kernel(q.device.type)(q, k, v.to(q.dtype), block_mask=mask)
        return self.attn_out(out.transpose(1, 2).flatten(2))

    def forward(
        self, x: Tensor, positions: Tensor, mask: Any, c: Tensor | None, cache: KVCache | None, store: bool, layer: int,
        n_outputs: int,
    ) -> Tensor:  # fmt: skip
        """x: (K, L, dim), c: (K, cond_dim) -> (K, n_outputs, dim); the other tokens only lend keys and values."""
        if self.adaLN_modulation is None:
            shift1 = scale1 = shift2 = scale2 = 0.0
            gate1 = gate2 = 1.0
        else:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        h = self.attend(self.norm1(x) * (1 + scale1) + shift1, positions, mask, cache, store, layer, n_outputs)
        x = x[:, :n_outputs] + gate1 * F.dropout(h, self.dropout, self.training)
        h = self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return x + gate2 * F.dropout(h, self.dropout, self.training)


class OutputLayer(nn.Module):
    """Final normalisation and the zero-initialised projection to the vocabulary: an untrained model is uniform."""

    def __init__(self, dim: int, vocab_size: int, cond_dim: int, adaln: bool) -> None:
        super().__init__()
        self.norm_final = LayerNorm(dim)
        self.linear = _zero_linear(dim, vocab_size)
        self.adaLN_modulation = _zero_linear(cond_dim, 2 * dim) if adaln else None

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        """x: (K, L, dim), c: (K, cond_dim) -> logits (K, L, V)."""
        x = self.norm_final(x)
        if self.adaLN_modulation is not None:
            shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, -1)
            x = x * (1 + scale) + shift
        return self.linear(x)


class DiT(nn.Module):
    """Diffusion transformer over tokens (Appendix C.2); with ``causal=True, adaln=False`` the AR baseline's body.

    ``time_conditioning=False`` (BD3-LM, MDLM) feeds sigma = 0, so that adaLN sees a constant; SEDD conditions on
    sigma. The buffer ``interval`` holds (beta, omega) of the clipped schedule: it is searched during training and is
    part of the model's state (the released checkpoints carry it too).
    """

    interval: Tensor

    def __init__(
        self, vocab_size: int, dim: int = 768, n_layers: int = 12, n_heads: int = 12, cond_dim: int = 128,
        mlp_ratio: int = 4, dropout: float = 0.1, adaln: bool = True, causal: bool = False,
        time_conditioning: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if dim % (2 * n_heads):
            raise ReprobookError(f"dim {dim} must be a multiple of 2 * n_heads = {2 * n_heads} (rotary pairs)")
        self.causal = causal
        self.time_conditioning = time_conditioning
        self.vocab_embed = TokenEmbedding(vocab_size, dim)
        self.sigma_map = TimestepEmbedder(cond_dim) if adaln else None
        self.blocks = nn.ModuleList([Block(dim, n_heads, cond_dim, mlp_ratio, dropout, adaln) for _ in range(n_layers)])
        self.output_layer = OutputLayer(dim, vocab_size, cond_dim, adaln)
        self.register_buffer("interval", torch.tensor([1e-3, 1.0], dtype=torch.float64))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the mask included."""
        return self.vocab_embed.embedding.shape[0]

    def forward(
        self, tokens: Tensor, *, positions: Tensor | None = None, mask: Any = None, last_mask: Any = None,
        sigma: Tensor | None = None, cache: KVCache | None = None, store: bool = False, n_outputs: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits ``(K, n_outputs, V)`` in float32 for ``tokens`` (K, S), by default all of them; in the last layer the
        tokens after the first ``n_outputs`` give keys and values and nothing else.

        positions: (S,) rotary positions, by default those after the cache. mask: bool (S, past + S), a FlexAttention
        block mask, or None for "every token sees every token" (for a causal model: the causal mask). last_mask: its
        first ``n_outputs`` rows, where the mask cannot be cut (FlexAttention). sigma: (K,) noise level, used only with
        time conditioning. cache: earlier clean tokens; ``store`` appends these ones to it.
        """
        past = 0 if cache is None else len(cache)
        start = 0 if cache is None else cache.next_position
        if positions is None:
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        if self.causal and mask is None:
            mask = torch.ones(tokens.shape[1], past + tokens.shape[1], dtype=torch.bool, device=tokens.device).tril(
                past
            )
        c = None
        if self.sigma_map is not None:
            if sigma is None or not self.time_conditioning:
                sigma = torch.zeros(1, device=tokens.device)
            c = F.silu(self.sigma_map(sigma))
        x = self.vocab_embed(tokens)
        n_tokens = tokens.shape[1]
        n_outputs = n_tokens if n_outputs is None else n_outputs
        for layer, block in enumerate(self.blocks):
            if layer + 1 < len(self.blocks) or n_outputs == n_tokens:
                x = block(x, positions, mask, c, cache, store, layer, n_tokens)
            else:  # of the other tokens nothing but keys and values is read any more
                rows = last_mask if last_mask is not None else None if mask is None else mask[:n_outputs]
                x = block(x, positions, rows, c, cache, store, layer, n_outputs)
        if cache is not None and store:
            cache.next_position = start + n_tokens
        return _wide(self.output_layer(x, c))


def one_pass_logits(
    model: nn.Module, x_t: Tensor, x: Tensor, block_size: int, attention: str = "sdpa", **kwargs: Any
) -> Tensor:
    """Logits (K, L, V) of every noisy block given the clean blocks before it, in one pass over ``x_t (+) x`` (2L
    tokens).

    Both halves carry the positions 0..L-1. With one block (L' = L) nothing of the clean half is visible to the noisy
    one, so that it is left out: that is MDLM.
    """
    length = x.shape[1]
    if check_blocks(length, block_size) == 1:
        return model(x_t, **kwargs)
    if attention not in ("sdpa", "flex"):
        raise ReprobookError(f"attention must be 'sdpa' or 'flex', got {attention!r}")
    positions = torch.arange(length, device=x.device).repeat(2)
    if attention == "flex":
        kwargs["last_mask"] = flex_training_mask(length, block_size, length, str(x.device))
        mask = flex_training_mask(length, block_size, device=str(x.device))
    else:
        mask = training_mask(length, block_size, x.device)
    return model(torch.cat([x_t, x], 1), positions=positions, mask=mask, n_outputs=length, **kwargs)


def two_pass_logits(model: DiT, x_t: Tensor, x: Tensor, block_size: int) -> Tensor:
    """The same logits by Algorithm 1: pass 1 over ``x`` stores keys and values, pass 2 over ``x_t`` reads those of
    earlier blocks."""
    length = x.shape[1]
    full = training_mask(length, block_size, x.device)
    own, before, up_to = full[:length, :length], full[:length, length:], full[length:, length:]
    cache = KVCache(len(model.blocks))
    model(x, mask=up_to, cache=cache, store=True, n_outputs=0)
    positions = torch.arange(length, device=x.device)
    return model(x_t, positions=positions, mask=torch.cat([before, own], 1), cache=cache)
