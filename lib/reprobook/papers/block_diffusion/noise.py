"""Mask-rate schedules, the stratified time sampler, clipped intervals and the masking of a batch.

Notation: ``t`` in [0, 1] is the time of a block, ``p(t) = 1 - alpha_t`` its mask rate, ``w(t) = -alpha'_t / (1 -
alpha_t)`` the positive weight of the masked tokens' negative log-likelihood (Eq. 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-3  # smallest time of training and evaluation in the released code
RESAMPLING_ROUNDS = 10_000


@dataclass(frozen=True)
class Schedule:
    """Mask rate ``p(t)`` and loss weight ``w(t) > 0``, both elementwise on t in (0, 1]."""

    rate: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]


def _root_weight(t: Tensor) -> Tensor:
    return 0.5 * t.pow(-0.5) / t.sqrt().clamp_min(EPS)


def _log_linear_weight(t: Tensor) -> Tensor:
    """``sigma' / expm1(sigma)`` with ``sigma = -log(1 - (1 - eps) t)``: equals 1/t."""
    sigma = -torch.log1p(-(1 - EPS) * t)
    return (1 - EPS) / (1 - (1 - EPS) * t) / torch.expm1(sigma)


def _cosine_rate(t: Tensor) -> Tensor:
    return 1 - (1 - EPS) * torch.cos(math.pi * t / 2)


def _cosine_weight(t: Tensor) -> Tensor:
    return (1 - EPS) * (math.pi / 2) * torch.sin(math.pi * t / 2) / (_cosine_rate(t) + EPS)


SCHEDULES: dict[str, Schedule] = {
    "linear": Schedule(lambda t: t, lambda t: 1 / t),
    "mdlm_log_linear": Schedule(lambda t: (1 - EPS) * t, _log_linear_weight),
    "square": Schedule(lambda t: t.square().clamp_min(EPS), lambda t: 2 * t / t.square().clamp_min(EPS)),
    "square_root": Schedule(lambda t: t.sqrt().clamp_min(EPS), _root_weight),
    "logarithmic": Schedule(lambda t: torch.log1p(t) / math.log(2), lambda t: 1 / (torch.log1p(t) * (1 + t))),
    "cosine": Schedule(_cosine_rate, _cosine_weight),
}


def check_blocks(length: int, block_size: int) -> int:
    """Number of blocks of ``block_size`` tokens in ``length`` tokens; both must be positive and divide."""
    if block_size < 1:
        raise ReprobookError(f"block_size must be at least 1, got {block_size}")
    if length < 1 or length % block_size:
        raise ReprobookError(
            f"block_size {block_size} does not divide the length {length}: choose a divisor of {length}"
        )
    return length // block_size


@dataclass(frozen=True)
class NoiseProcess:
    """How tokens of a block are masked and how their losses are weighted (Sections 3.1, 5 and 6).

    block_size: L', tokens per block. mask_id: id of the mask token m, must be inside the vocabulary.
    beta, omega: the time is drawn from U[beta, omega]; (1e-3, 1) covers everything and gives the NELBO, any other
    interval gives a training objective that is a biased estimate of it; (1, 1) masks every token.
    resample: redraw blocks whose share of masked tokens falls outside [beta, omega] (released code).
    weighting: "code": w(t), but 1 where beta > 0.5; "paper": (omega - beta) w(t), the weight that the interpolation
    p = beta + (omega - beta) t implies. Both differ by a constant factor, except where the code's rule applies.
    """

    mask_id: int
    block_size: int
    schedule: str = "linear"
    beta: float = EPS
    omega: float = 1.0
    resample: bool = True
    weighting: str = "code"

    def __post_init__(self) -> None:
        if self.mask_id < 0:
            raise ReprobookError(f"mask_id {self.mask_id} is not a token id: the vocabulary needs a mask token")
        if self.block_size < 1:
            raise ReprobookError(f"block_size must be at least 1, got {self.block_size}")
        if self.schedule not in SCHEDULES:
            raise ReprobookError(f"unknown schedule {self.schedule!r}; schedules: {', '.join(SCHEDULES)}")
        if self.weighting not in ("code", "paper"):
            raise ReprobookError(f"weighting must be 'code' or 'paper', got {self.weighting!r}")
        full = self.beta == self.omega == 1
        if not (full or 0 < self.beta < self.omega <= 1):
            raise ReprobookError(
                "the interval needs 0 < beta < omega <= 1 (or beta = omega = 1), "
                f"got beta={self.beta}, omega={self.omega}"
            )
        counts = range(self.block_size + 1)
        if self.resample and not any(self._inside(torch.tensor(k / self.block_size)).item() for k in counts):
            raise ReprobookError(
                f"no number of masked tokens in a block of {self.block_size} has a share inside "
                f"[{self.beta}, {self.omega}]: widen the interval or pass resample=False"
            )

    def _inside(self, share: Tensor) -> Tensor:
        """Which shares of masked tokens are accepted; the bounds 1e-3 and 1 are not enforced (released code)."""
        low = torch.ones_like(share, dtype=torch.bool) if self.beta == EPS else share >= self.beta
        high = torch.ones_like(share, dtype=torch.bool) if self.omega == 1 else share <= self.omega
        return low & high

    def rate_and_weight(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mask rate and loss weight for ``u`` ~ U[0, 1], after moving it into [beta, omega] (Appendix C.4)."""
        t = self.beta + (self.omega - self.beta) * u
        schedule = SCHEDULES[self.schedule]
        weight = schedule.weight(t)
        if self.weighting == "code" and self.beta > 0.5:
            weight = torch.ones_like(weight)
        elif self.weighting == "paper" and self.omega > self.beta:
            weight = (self.omega - self.beta) * weight
        return schedule.rate(t), weight

    def mask(self, rate: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw which tokens are masked: ``rate`` (K, B) of each block -> bool (K, B * L').

        Position 0 of a sequence is context (a BOS, or the last token of the chunk before): it is never masked.
        """
        rate = rate.repeat_interleave(self.block_size, dim=1).unflatten(1, (-1, self.block_size))
        masked = torch.rand(rate.shape, generator=generator, device=rate.device) < rate
        if self.resample:
            for _ in range(RESAMPLING_ROUNDS):
                again = ~self._inside(masked.float().mean(-1))
                if not again.any():
                    break
                fresh = torch.rand(rate[again].shape, generator=generator, device=rate.device) < rate[again]
                masked[again] = fresh
            else:
                raise ReprobookError(
                    f"resampling found no share of masked tokens inside [{self.beta}, {self.omega}] in "
                    f"{RESAMPLING_ROUNDS} rounds for blocks of {self.block_size}: widen the interval"
                )
        masked = masked.flatten(1)
        masked[:, 0] = False
        return masked


def stratified_times(
    n_sequences: int, n_blocks: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Low-discrepancy times (Appendix C.4): ``(K, B)``, exactly one draw in each of the K * B cells of [0, 1].

    Times grow with the sequence's index in the batch, so per-sequence statistics need a shuffle first.
    """
    cells = n_sequences * n_blocks
    u = torch.rand(cells, generator=generator, device=device)
    return ((torch.arange(cells, device=device) + u) / cells).view(n_sequences, n_blocks)


def candidate_intervals(
    block_size: int, widths: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9), delta: float = 0.05
) -> list[tuple[float, float]]:
    """Intervals that the search compares (Section 6): every width and start, and the whole range; two for L' = 1."""
    if block_size == 1:
        return [(EPS, 1.0), (1.0, 1.0)]
    found = [
        (max(round(k * delta, 4), EPS), round(k * delta + width, 4))
        for width in widths
        for k in range(round((1 - width) / delta) + 1)
    ]
    return [*found, (EPS, 1.0)]


def constant_loss_variance(beta: float, omega: float, block_size: int, c: float = 1.0) -> float:
    """Closed form of ``Var`` of a block's mean loss when every masked token costs ``c`` and the weight is 1/p.

    ``c^2 (E[1/p] - 1) / L'`` with ``E[1/p] = ln(omega / beta) / (omega - beta)`` (independent masks, no resampling):
    with k ~ Binomial(L', p) the block's mean is c k / (L' p), whose mean is c and whose variance is
    c^2 (1 - p) / (L' p).
    """
    inverse = 1 / omega if beta == omega else math.log(omega / beta) / (omega - beta)
    return c * c * (inverse - 1) / block_size
