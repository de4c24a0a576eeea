"""The held-out judges: kernel ridge regression on the other half of the digits, and its nearest digits.

Other families than the reward model (no gradient descent, no layers, other pictures), so what the reward model is
fooled by need not fool them. Far from all digits the regression falls back to the mean: it is cautious there. Between
digits, and on blurred ones, it exaggerates; what the ten nearest digits of the class have cannot exceed what real
digits have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from reprobook.papers.reward_sds.digits import N_CLASSES, class_scale

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.reward_sds.digits import Digits


class Verdict(NamedTuple):
    """Of pictures (M, 784): class scores (M, 10); attributes in deviations of real digits of their class, by regression
    and of the nearest digits (both (M, 3)); distance to the nearest real digit of the class (M,), the root of the
    squared differences summed over pixels."""

    scores: Tensor
    attributes: Tensor
    neighbours: Tensor
    distance: Tensor

    def right(self, y: Tensor) -> Tensor:
        """Whether the class is recognised (M,)."""
        return (self.scores.argmax(1) == y).float()

    def margin(self, y: Tensor) -> Tensor:
        """Score of the class y (M,) minus that of the best other one (M,): above 0 where it is recognised."""
        own = torch.nn.functional.one_hot(y, N_CLASSES).bool()
        return self.scores[own] - self.scores.masked_fill(own, -torch.inf).max(1).values


class Judge:
    """Kernel ridge regression (Gaussian kernel) of classes and attributes on held-out digits."""

    def __init__(self, digits: Digits, width: float = 8.0, penalty: float = 1e-2, n_neighbours: int = 10) -> None:
        self.digits, self.width, self.scale = digits, width, class_scale(digits)
        self.n_neighbours = n_neighbours
        self.mean, self.sd = digits.attributes.mean(0), digits.attributes.std(0)
        targets = torch.cat([
            torch.nn.functional.one_hot(digits.y, N_CLASSES).float() - 1 / N_CLASSES,
            (digits.attributes - self.mean) / self.sd,
        ], 1)  # fmt: skip
        kernel = self._kernel(torch.cdist(digits.x, digits.x))
        kernel.diagonal().add_(penalty)
        self.coefficients = torch.cholesky_solve(targets, torch.linalg.cholesky(kernel))

    def _kernel(self, distance: Tensor) -> Tensor:
        return torch.exp(-(distance**2) / (2 * self.width**2))

    def __call__(self, x: Tensor, y: Tensor) -> Verdict:
        """The verdict on pictures x (M, 784) that should show the classes y (M,)."""
        distance = torch.cdist(x, self.digits.x)
        found = self._kernel(distance) @ self.coefficients
        attributes = found[:, N_CLASSES:] * self.sd + self.mean
        near = distance.masked_fill(y[:, None] != self.digits.y, torch.inf).topk(self.n_neighbours, largest=False)
        theirs = self.digits.attributes[near.indices].mean(1)
        standard = self.scale.standard
        return Verdict(found[:, :N_CLASSES], standard(attributes, y), standard(theirs, y), near.values[:, 0])


def nearest(x: Tensor, y: Tensor, digits: Digits) -> Tensor:
    """Root of the squared distance, summed over pixels, to the nearest of ``digits`` of the same class (M,)."""
    return torch.cdist(x, digits.x).masked_fill(y[:, None] != digits.y, torch.inf).min(1).values
