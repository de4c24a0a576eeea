"""Priors whose best prediction is known in closed form, and what a ranking of noises must do to them.

A Gaussian prior N(mu, v) and a reward that rises along u: with the candidates denoised in one step, their rewards rise
with u.eps, so ranking rewards is ranking noises. Let m_j be the expected j-th largest of N standard normal numbers. The
mean gradient along u at x is

    (w(t) / N) [ sum_j w_j  s a (x - mu) / (a^2 v + s^2)  -  c_t  sum_j w_j m_j ],

where c_t is what the two terms of the loss leave of a noise: 1 - s^2 / (a^2 v + s^2) for SDS; with a companion that
knows particles of variance v' it is s^2 / (a^2 v' + s^2) - s^2 / (a^2 v + s^2), so nothing where particles are as
spread as the prior; and nothing at all for DDS and the second stage of SDS-Bridge, in which both terms have the same
noise. The second part is an evolution strategy: it climbs the reward, whose gradient nobody computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import linear_alphas, signal_noise
from reprobook.papers.reward_sds.weighting import RANKED

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.reward_sds.losses import Noised
    from reprobook.papers.reward_sds.weighting import Scheme


class Mixture:
    """A prior of d independent coordinates, each a mixture of normal modes (means (K,), all with deviation ``sd``).

    ``shares`` (C, K): of the modes under each of C prompts; the last prompt is the empty one."""

    def __init__(self, means: Tensor, sd: float, shares: Tensor, alphas_cumprod: Tensor | None = None) -> None:
        if shares.ndim != 2 or shares.shape[1] != len(means) or not sd > 0:
            raise ReprobookError(f"a mixture needs sd > 0 and shares (prompts, {len(means)}), got {list(shares.shape)}")
        self.means, self.sd = means, sd
        self.log_shares = (shares / shares.sum(1, keepdim=True)).log()
        self.alphas_cumprod = linear_alphas() if alphas_cumprod is None else alphas_cumprod

    def empty(self, y: Tensor) -> Tensor:
        """The empty prompt."""
        return torch.full_like(y, len(self.log_shares) - 1)

    def noise(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """E[eps | x_t] = s sum_k r_k (x_t - a mu_k) / (a^2 sd^2 + s^2), with r_k the posterior of mode k."""
        a, s = signal_noise(self.alphas_cumprod, t, x.ndim + 1)
        away, variance = x[..., None] - a * self.means, (a * self.sd) ** 2 + s**2
        prior = self.log_shares[y].view(len(x), *[1] * (x.ndim - 1), -1)
        posterior = torch.softmax(prior - away**2 / (2 * variance), -1)
        return (posterior * away).sum(-1) * (s / variance)[..., 0]

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Nats per coordinate of clean x (M, d) under its prompt y (M,) -> (M,)."""
        z = (x[..., None] - self.means) / self.sd
        parts = self.log_shares[y][:, None] - z**2 / 2 - math.log(self.sd * math.sqrt(2 * math.pi))
        return torch.logsumexp(parts, -1).mean(1)


def two_modes(gap: float = 2.0, sd: float = 0.3) -> Mixture:
    """Modes at -gap and gap, equally likely, without any prompt."""
    return Mixture(torch.tensor([-gap, gap]), sd, torch.ones(1, 2))


def gaussian(mean: float = 0.0, sd: float = 1.0) -> Mixture:
    """One mode."""
    return Mixture(torch.tensor([mean]), sd, torch.ones(1, 1))


def spread_companion(alphas_cumprod: Tensor, variance: float) -> Callable[[Noised], Tensor]:
    """The best companion of VSD for particles N(x, ``variance``) around each present picture x.

    At variance 0, one particle, its prediction is the noise itself: VSD with a perfect companion is SDS."""

    def companion(z: Noised) -> Tensor:
        a, s = signal_noise(alphas_cumprod, z.t, z.eps.ndim)
        return s * (z.x_t - a * z.x[:, None]) / (a**2 * variance + s**2)

    return companion


def expected_order(n: int) -> list[float]:
    """Expected values of n standard normal numbers, sorted from the largest: m_1 .. m_n, by a sum over a fine grid."""
    x = torch.linspace(-9, 9, 9001, dtype=torch.float64)
    below, above = torch.special.ndtr(x), torch.special.ndtr(-x)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    ways = [n * math.comb(n - 1, rank) for rank in range(n)]
    return [
        float((x * density * k * below ** (n - 1 - rank) * above**rank).sum() * (x[1] - x[0]))
        for rank, k in enumerate(ways)
    ]


def ranked_pull(scheme: Scheme, n: int) -> tuple[float, float]:
    """(sum of the weights, sum_j w_j m_j) of a scheme that ranks ``n`` candidates."""
    if scheme not in RANKED:
        raise ReprobookError(f"{scheme!r} does not rank; schemes that do: {', '.join(RANKED)}")
    best, worst = RANKED[scheme]
    m = expected_order(n)
    pull = sum(w * m[j] for j, w in enumerate(best)) + sum(w * m[-1 - j] for j, w in enumerate(worst))
    return sum(best) + sum(worst), pull


def displacement(
    alphas_cumprod: Tensor, times: Tensor, variance: float, scheme: Scheme, n: int, companion: float = 0.0
) -> float:
    """Where RewardSDS comes to rest on N(mu, ``variance``): its distance from mu along the reward, in units of x.

    ``times``: the t that are drawn, all equally likely. ``companion``: variance of the particles that VSD's companion
    knows; 0 is SDS. From the mean gradient above: (pull / sum of weights) E_t[w c_t] / E_t[w s a / (a^2 v + s^2)]."""
    a, s = (each.double() for each in signal_noise(alphas_cumprod, times, 1))
    total = a**2 * variance + s**2
    left = s**2 / (a**2 * companion + s**2) - s**2 / total
    weight, pull = ranked_pull(scheme, n)
    return float(pull / weight * (s**2 * left).mean() / (s**3 * a / total).mean())
