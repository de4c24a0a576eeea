"""The method: pure functions and modules, in the paper's notation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor


def features(x: Tensor, degree: int) -> Tensor:
    """Powers of x: phi_k(x) = x^k for k = 0..degree (equation 1). x: (n,) -> (n, degree + 1)."""
    if degree < 0:
        raise ReprobookError(f"degree is {degree}; it must be 0 or more")
    return torch.stack([x**k for k in range(degree + 1)], dim=-1)


class Polynomial(nn.Module):
    """f(x) = sum_k w_k phi_k(x) (equation 2)."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree
        self.weights = nn.Parameter(torch.zeros(degree + 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (n,) -> (n,)."""
        return features(x, self.degree) @ self.weights


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean of (f(x) - y)^2 over the batch (equation 3)."""
    x, y = batch
    return (model(x) - y).square().mean()
