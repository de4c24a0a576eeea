"""The held-out judge: kernel ridge regression on the other half of the digits, and distances to real digits.

Another family than the reward model (no gradient descent, no layers, other pictures), so what the reward model is
fooled by need not fool it. Far from all digits its predictions fall back to the mean: it is a cautious judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from reprobook.papers.reward_sds.digits import N_CLASSES, class_scale

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.reward_sds.digits import Digits


class Verdict(NamedTuple):
    """Of pictures (M, 784): class scores (M, 10), attributes in deviations of real digits of their class (M, 3),
    root mean squared distance to the nearest real digit of the class (M,)."""

    scores: Tensor
    attributes: Tensor
    distance: Tensor

    def right(self, y: Tensor) -> Tensor:
        """Whether the class is recognised (M,)."""
        return (self.scores.argmax(1) == y).float()


class Judge:
    """Kernel ridge regression (Gaussian kernel) of classes and attributes on held-out digits."""

    def __init__(self, digits: Digits, width: float = 8.0, penalty: float = 1e-2) -> None:
        self.digits, self.width, self.scale = digits, width, class_scale(digits)
        self.mean, self.sd = digits.attributes.mean(0), digits.attributes.std(0)
        targets = torch.cat([
            torch.nn.functional.one_hot(digits.y, N_CLASSES).float() - 1 / N_CLASSES,
            (digits.attributes - self.mean) / self.sd,
        ], 1)  # fmt: skip
        kernel = self._kernel(digits.x)
        kernel.diagonal().add_(penalty)
        self.coefficients = torch.cholesky_solve(targets, torch.linalg.cholesky(kernel))

    def _kernel(self, x: Tensor) -> Tensor:
        return torch.exp(-(torch.cdist(x, self.digits.x) ** 2) / (2 * self.width**2))

    def __call__(self, x: Tensor, y: Tensor) -> Verdict:
        """The verdict on pictures x (M, 784) that should show the classes y (M,)."""
        found = self._kernel(x) @ self.coefficients
        attributes = found[:, N_CLASSES:] * self.sd + self.mean
        return Verdict(found[:, :N_CLASSES], self.scale.standard(attributes, y), nearest(x, y, self.digits))


def nearest(x: Tensor, y: Tensor, digits: Digits, itself: bool = False) -> Tensor:
    """Root of the squared distance, summed over pixels, to the nearest of ``digits`` of the same class (M,).
    ``itself``: ``x`` are these digits, and the nearest other one counts."""
    distance = torch.cdist(x, digits.x).masked_fill(y[:, None] != digits.y, torch.inf)
    return distance.kthvalue(2, 1).values if itself else distance.min(1).values
