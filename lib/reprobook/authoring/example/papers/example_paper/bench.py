"""What the paper makes cheaper. The headline: Horner's rule against a sum of powers, equal results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from reprobook.authoring.example.papers.example_paper.method import features
from reprobook.bench import compare

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.bench import Comparison


def horner(x: Tensor, weights: Tensor) -> Tensor:
    """The polynomial in as many multiplications as its degree. x: (n,), weights: (degree + 1,) -> (n,)."""
    y = torch.zeros_like(x)
    for w in weights.flip(0):
        y = y * x + w
    return y


def headline(n: int = 100_000, degree: int = 9) -> Comparison:
    """Time of the sum of powers over that of Horner's rule."""
    generator = torch.Generator().manual_seed(0)
    x, weights = 2 * torch.rand(n, generator=generator) - 1, torch.randn(degree + 1, generator=generator)
    ways = {"sum of powers": lambda: features(x, degree) @ weights, "Horner's rule": lambda: horner(x, weights)}
    equal = lambda a, b: torch.allclose(a, b, atol=1e-4)  # noqa: E731
    return compare(ways, equal=equal, what=f"polynomial of degree {degree}, {n:,} points")
