"""Diffusion paths x_t = g_t x_0 + s_t eps: flow matching and variance preserving (DDIM), with their inverse.

``g`` is the signal, ``s`` the noise. ``nsr = s / g``, the noise-to-signal ratio, grows with t in [0, 1]: it names a
time in any path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor


class Path(Protocol):
    """A diffusion path over t in [0, 1]; t = 0 is data, t = 1 is where sampling starts."""

    kind: str  # "flow" predicts a velocity, "vp" predicts the noise

    def signal_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(g_t, s_t), each of the shape of ``t``."""
        ...

    def time_of(self, nsr: float) -> float:
        """The t at which s / g = ``nsr`` (infinity is allowed where g reaches 0)."""
        ...


@dataclass(frozen=True)
class FlowMatching:
    """g = 1 - t, s = t (rectified flow): starts from pure noise."""

    kind: str = "flow"

    def signal_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """g = 1 - t and s = t."""
        return 1 - t, t

    def time_of(self, nsr: float) -> float:
        """t at which s / g is ``nsr``."""
        return 1.0 if math.isinf(nsr) else nsr / (1 + nsr)


@dataclass(frozen=True)
class VariancePreserving:
    """g = sqrt(abar), s = sqrt(1 - abar) with Stable Diffusion 1.5's betas (scaled linear), made continuous.

    t = (i + 1) / n_steps is the discrete step i; nsr is interpolated linearly in t and is 0 at t = 0.
    """

    n_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    kind: str = "vp"
    table: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        roots = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.n_steps, dtype=torch.float64)
        alphas_bar = torch.cumprod(1 - roots**2, 0)
        nsr = torch.sqrt((1 - alphas_bar) / alphas_bar)
        object.__setattr__(self, "table", torch.cat([torch.zeros(1, dtype=torch.float64), nsr]))

    def nsr(self, t: Tensor) -> Tensor:
        """Noise-to-signal ratio at ``t``."""
        table = self.table.to(t.device)
        position = (t.double() * self.n_steps).clamp(0, self.n_steps)
        left = position.floor().clamp(max=self.n_steps - 1).long()
        return torch.lerp(table[left], table[left + 1], position - left)

    def signal_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """g and s at ``t``, with g^2 + s^2 = 1."""
        nsr = self.nsr(t)
        signal = torch.rsqrt(1 + nsr**2)
        return signal.to(t.dtype), (nsr * signal).to(t.dtype)

    def time_of(self, nsr: float) -> float:
        """t at which s / g is ``nsr``; raises :class:`ReprobookError` if no t has it."""
        if not 0 <= nsr <= float(self.table[-1]) * (1 + 1e-9):
            raise ReprobookError(
                f"nsr {nsr:.4g} is outside this path: it goes from 0 to {float(self.table[-1]):.4g} at t = 1"
            )
        right = int(torch.searchsorted(self.table, nsr).clamp(1, self.n_steps))
        low, high = float(self.table[right - 1]), float(self.table[right])
        return (right - 1 + (nsr - low) / (high - low)) / self.n_steps
