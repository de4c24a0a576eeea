"""What a decoder with grouped-query attention costs: parameters, FLOPs, values in memory (Tables 2, 3, 8).

N counts stored parameters, T tokens in context, H = (n_h, n_kv) heads of size d_h; n_h d_h need not equal d. Costs are
those of one new token with T tokens in context. M counts stored *values* (weights and KV cache), not bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError

Heads = tuple[int, int]
FFN_RATIO = 8 / 3  # d_ff / d of a SwiGLU network (Section 3)


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder: L layers, width d, heads H = (n_h, n_kv). L and d may be real numbers (Appendix B.1).

    ``d_ff`` None: 8 d / 3, as the paper. ``tied``: one table for input and output embedding.
    """

    n_layers: float
    d: float
    n_h: int
    n_kv: int
    d_h: int = 64
    d_ff: float | None = None
    vocab: int = 50_304
    tied: bool = True

    def __post_init__(self) -> None:
        for name in ("n_layers", "d", "n_h", "n_kv", "d_h", "vocab", *(["d_ff"] if self.d_ff is not None else [])):
            if not getattr(self, name) > 0:
                raise ReprobookError(f"{name} is {getattr(self, name)}; it must be above 0")
        check_heads(self.n_h, self.n_kv)

    @property
    def ffn(self) -> float:
        """Width of the feed-forward network."""
        return FFN_RATIO * self.d if self.d_ff is None else self.d_ff


def check_heads(n_h: int, n_kv: int) -> None:
    """Raise :class:`ReprobookError` unless every KV head serves the same whole number of query heads."""
    if n_h < 1 or n_kv < 1 or n_h % n_kv:
        raise ReprobookError(
            f"heads ({n_h}, {n_kv}): n_h must be a positive multiple of n_kv, so that each KV head serves equally many"
        )


def check_context(T: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """T as an array of float64; raises :class:`ReprobookError` unless every context holds at least one token."""
    contexts = np.asarray(T, dtype=np.float64)
    if not contexts.size or not np.isfinite(contexts).all() or (contexts < 1).any():
        raise ReprobookError(f"context T is {T}; it must be at least 1 token")
    return contexts


def body_parameters(shape: Shape) -> float:
    """N of the loss curves: everything but the embeddings (footnote 4).

    Attention 2 L d d_h (n_h + n_kv), SwiGLU with three matrices 3 L d d_ff (the printed 2 L d d_ff is for two), RMSNorm
    gains (2 L + 1) d.
    """
    s = shape
    attention = 2 * s.n_layers * s.d * s.d_h * (s.n_h + s.n_kv)
    return attention + 3 * s.n_layers * s.d * s.ffn + (2 * s.n_layers + 1) * s.d


def parameters(shape: Shape) -> float:
    """N of the costs: all stored parameters, one embedding table if it is tied, two if not."""
    return body_parameters(shape) + shape.vocab * shape.d * (1 if shape.tied else 2)


def kv_values(shape: Shape, T: float) -> float:
    """Values in the KV cache of one sequence after T tokens: 2 T L d_h n_kv."""
    return 2 * T * shape.n_layers * shape.d_h * shape.n_kv


def attention_flops(shape: Shape, T: float) -> float:
    """FLOPs of one token's scores and weighted values over T tokens: 4 T L d_h n_h. n_kv does not enter."""
    return 4 * T * shape.n_layers * shape.d_h * shape.n_h


def weight_flops(shape: Shape) -> float:
    """FLOPs of one token in the weights: 2 N, N with one embedding table (a second one is only looked up).

    As in Table 3, N counts the norm gains, which multiply once: 2 (2 L + 1) d FLOPs too many, below 0.1 % from d = 64.
    """
    return 2 * (body_parameters(shape) + shape.vocab * shape.d)


class Cost(NamedTuple):
    """Memory M in values, compute C in FLOPs for a token."""

    memory: float
    flops: float


def inference_cost(shape: Shape, T: float | Sequence[float], batch: int = 1) -> Cost:
    """M = N + batch * 2 T L d_h n_kv and C = 2 N + 4 T L d_h n_h, for one token of each of ``batch`` sequences.

    Both are affine in T, so for several contexts the cost of their mean is the mean cost (Appendix B). C is that of
    one sequence's token.
    """
    mean = float(check_context(T).mean())
    if batch < 1:
        raise ReprobookError(f"batch is {batch}; it must be at least 1")
    return Cost(parameters(shape) + batch * kv_values(shape, mean), weight_flops(shape) + attention_flops(shape, mean))


def training_cost(shape: Shape, n_tokens: float, T: float) -> Cost:
    """Training on ``n_tokens`` tokens in rows of T: M = 4 N + T d L, C = 3 D C_infer(T / 2) (equations 10 to 12).

    The factor 3 is forward and backward; on average a token of a row sees T / 2 tokens before it.
    """
    context = float(check_context(T))
    if n_tokens <= 0:
        raise ReprobookError(f"n_tokens is {n_tokens}; it must be above 0")
    per_token = weight_flops(shape) + attention_flops(shape, context / 2)
    return Cost(4 * parameters(shape) + context * shape.d * shape.n_layers, 3 * n_tokens * per_token)


def time_variant_shares(shape: Shape, T: float) -> tuple[float, float]:
    """Shares that grow with T: of attention in the FLOPs, of the KV cache in memory. Equal for MHA."""
    cost = inference_cost(shape, T)
    return attention_flops(shape, T) / cost.flops, kv_values(shape, T) / cost.memory


@dataclass(frozen=True)
class Objective:
    """Z = lambda M^alpha + (1 - lambda) C^beta (Section 4.1), M and C measured in ``unit`` values and FLOPs.

    The paper leaves the unit open, and the optimum depends on it; lambda = 1 is memory alone, 0 is compute alone.
    """

    lam: float = 0.9
    alpha: float = 1 / 2
    beta: float = 1 / 3
    unit: float = 1e9

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ReprobookError(f"lambda is {self.lam}; it must be from 0 to 1")
        for name in ("alpha", "beta", "unit"):
            if not getattr(self, name) > 0:
                raise ReprobookError(f"{name} is {getattr(self, name)}; it must be above 0")

    def __call__(self, cost: Cost) -> Any:
        """Z of a cost; works on arrays too."""
        memory = (np.asarray(cost.memory) / self.unit) ** self.alpha
        compute = (np.asarray(cost.flops) / self.unit) ** self.beta
        return self.lam * memory + (1 - self.lam) * compute
