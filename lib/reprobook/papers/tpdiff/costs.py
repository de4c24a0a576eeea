"""What the pyramid saves: tokens, linear and attention operations of training and sampling (Section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

from reprobook.errors import ReprobookError


def relative_cost(steps: Sequence[int], power: int) -> float:
    """Cost of ``steps`` network calls per stage, lowest frame rate first, over as many calls at full rate.

    ``power`` 1: what grows with the number of tokens (projections, feed-forward); 2: attention over all frames. Equal
    steps give the mean over stages, which is also the cost of a training step with a uniformly drawn stage.
    """
    if not steps or any(n < 1 for n in steps) or power < 1:
        raise ReprobookError(f"steps must be positive and power at least 1, got {list(steps)} and {power}")
    strides = [2 ** (len(steps) - 1 - i) for i in range(len(steps))]
    return sum(n / stride**power for n, stride in zip(steps, strides, strict=True)) / sum(steps)


def predicted_speedup(n_tokens: int, width: int, steps: Sequence[int], mlp_ratio: float = 4.0) -> float:
    """Full-rate operations over pyramid operations of a transformer layer with ``n_tokens`` at full rate.

    Per token and layer: (8 + 4 mlp_ratio) width^2 linear operations and 4 n_tokens width for attention.
    """
    linear, attention = (8 + 4 * mlp_ratio) * width, 4.0 * n_tokens
    pyramid = linear * relative_cost(steps, 1) + attention * relative_cost(steps, 2)
    return (linear + attention) / pyramid
