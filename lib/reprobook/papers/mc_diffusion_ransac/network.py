"""CNNet, the network of NG-RANSAC (Yi et al. 2018; Brachmann and Rother 2019), and the loss of its first stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor


class Shared(nn.Linear):
    """The same linear layer for each correspondence, (B, in, N) -> (B, out, N): a 1 x 1 convolution, but as a batched
    matrix product, which on a CPU takes less than half the time."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, N) -> (B, C', N)."""
        return torch.baddbmm(self.bias[None, :, None], self.weight.expand(len(x), -1, -1), x)


class Block(nn.Module):
    """Twice [shared layer, context norm, batch norm, ReLU], then the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Shared(channels, channels) for _ in range(2))
        self.context = nn.InstanceNorm1d(channels)  # over the correspondences of one pair; has no weights
        self.batch = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, N) -> the same shape."""
        y = x
        for layer, norm in zip(self.layers, self.batch, strict=True):
            y = F.relu(norm(self.context(layer(y))), inplace=True)
        return x + y


class CNNet(nn.Module):
    """Correspondences (B, N, 5) = (x, y, x', y', side channel) -> logits z (B, N).

    One layer shared by all correspondences, ``blocks`` residual blocks with context normalisation, one output layer.
    The side channel is the ratio of descriptor distances; diffused matches have none, so this chapter leaves it 0.
    """

    def __init__(self, blocks: int = 12, channels: int = 128, inputs: int = 5) -> None:
        super().__init__()
        self.first = Shared(inputs, channels)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.last = Shared(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, features) -> logits (B, N); raises :class:`ReprobookError` on another shape."""
        if x.ndim != 3 or x.shape[-1] != self.first.in_features or x.shape[1] < 2:
            raise ReprobookError(
                f"CNNet: input has shape {list(x.shape)}; it must be (B, N, {self.first.in_features}), N >= 2"
            )
        return self.last(self.blocks(F.relu(self.first(x.transpose(1, 2))))).squeeze(1)


def log_probabilities(z: Tensor) -> Tensor:
    """log p_i with p_i proportional to sigmoid(z_i) over the N correspondences of a pair; (B, N)."""
    scores = F.logsigmoid(z)
    return scores - scores.logsumexp(dim=-1, keepdim=True)


def kl_target(squared: Tensor, tau: float) -> Tensor:
    """Target of stage 1: w_i proportional to exp(-d_i / (2 tau^2)), d_i the squared distance to the true model."""
    if not tau > 0:
        raise ReprobookError(f"kl_target: tau {tau} must be positive")
    return torch.softmax(-squared / (2 * tau**2), dim=-1)


def kl_loss(log_p: Tensor, target: Tensor) -> Tensor:
    """KL(target || p), summed over the correspondences, averaged over the batch."""
    return F.kl_div(log_p, target, reduction="batchmean")


def n_parameters(model: nn.Module) -> int:
    """Number of trainable weights."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
