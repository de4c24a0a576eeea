"""The base losses as gradients with respect to the rendered picture: SDS, VSD, DDS and SDS-Bridge (Section 3).

Each is w(t) times a difference of two predictions of noise. What RewardSDS and its kin add is one line: the differences
of the N noises of an iteration are weighted by reward (Equations 4 and 5). Whether the second term of a difference is
the noise itself decides how much a ranking can do: see :mod:`reprobook.papers.reward_sds.exact`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import add_noise, check_guidance, guided_noise, signal_noise

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.reward_sds.diffusion import Denoiser, Prior


class Noised(NamedTuple):
    """Pictures x (B, ...) under the noises eps (B, n, ...) at t (B,): x_t (B, n, ...), in iteration ``step``."""

    x: Tensor
    eps: Tensor
    t: Tensor
    x_t: Tensor
    step: int


class Loss(NamedTuple):
    """A base loss. ``terms``: the two predictions (B, n, ...) whose difference is descended. ``denoiser(step)``: the
    prediction with which candidates are denoised before a reward sees them. ``learn``: an update of what learns
    beside the pictures (B, ...)."""

    alphas_cumprod: Tensor
    terms: Callable[[Noised], tuple[Tensor, Tensor]]
    denoiser: Callable[[int], Denoiser]
    learn: Callable[[Tensor], None] | None = None


def _exploring(prior: Prior, y: Tensor, guidance: float, negative: Tensor | None = None) -> Denoiser:
    def denoiser(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        return guided_noise(prior, x, t, y[rows], guidance, None if negative is None else negative[rows])

    return denoiser


def sds(prior: Prior, y: Tensor, guidance: float = 100.0, exploring: float = 7.5) -> Loss:
    """Score distillation: e(x_t; y) minus eps. ``exploring``: guidance of the candidates' denoising."""
    check_guidance(exploring)

    def terms(z: Noised) -> tuple[Tensor, Tensor]:
        return guided_noise(prior, z.x_t, z.t, y, guidance), z.eps

    return Loss(prior.alphas_cumprod, terms, lambda _: _exploring(prior, y, exploring))


def vsd(
    prior: Prior, y: Tensor, companion: Callable[[Noised], Tensor], learn: Callable[[Tensor], None] | None = None,
    guidance: float = 7.5, exploring: float = 7.5,
) -> Loss:  # fmt: skip
    """Variational score distillation: e(x_t; y) minus the prediction of a ``companion`` that knows what the present
    pictures look like. ``learn``: its update, with noises of its own and no reward."""
    check_guidance(exploring)

    def terms(z: Noised) -> tuple[Tensor, Tensor]:
        return guided_noise(prior, z.x_t, z.t, y, guidance), companion(z)

    return Loss(prior.alphas_cumprod, terms, lambda _: _exploring(prior, y, exploring), learn)


def dds(
    prior: Prior, target: Tensor, source: Tensor, source_x: Tensor, guidance: float = 7.5, exploring: float = 7.5
) -> Loss:
    """Delta denoising score: e(x_t; target) minus e(source_t; source), both pictures under the same noise and t.

    ``source_x`` (B, ...): the pictures to be edited, from which the optimisation starts. With rewards the paper says
    "difference of two RewardSDS scores"; here both share the noises, and the target's candidates give the weights."""
    check_guidance(exploring)

    def terms(z: Noised) -> tuple[Tensor, Tensor]:
        source_t = add_noise(prior.alphas_cumprod, source_x, z.eps, z.t)
        given = guided_noise(prior, z.x_t, z.t, target, guidance)
        return given, guided_noise(prior, source_t, z.t, source, guidance)

    return Loss(prior.alphas_cumprod, terms, lambda _: _exploring(prior, target, exploring))


def bridge(
    prior: Prior, y: Tensor, good: Tensor, bad: Tensor, change: int, guidance: float = 40.0, exploring: float = 7.5
) -> Loss:
    """SDS-Bridge: SDS, and from iteration ``change`` on c (e(x_t; good) - e(x_t; bad)), without the noise.

    ``good`` and ``bad`` (B, ...): the prompt with words of quality and with words that name defects. In the second
    stage candidates are denoised with the defects in place of the empty prompt, as in the released code."""
    check_guidance(guidance)
    first = sds(prior, y, guidance, exploring)

    def terms(z: Noised) -> tuple[Tensor, Tensor]:
        if z.step < change:
            return first.terms(z)
        x, t = torch.cat([z.x_t, z.x_t]), torch.cat([z.t, z.t])
        rows = torch.arange(len(x), device=x.device)
        wanted, defect = _exploring(prior, torch.cat([good, bad]), 1.0)(x, t, rows).chunk(2)
        return guidance * wanted, guidance * defect

    def denoiser(step: int) -> Denoiser:
        return first.denoiser(step) if step < change else _exploring(prior, y, exploring, bad)

    return Loss(prior.alphas_cumprod, terms, denoiser)


def gradient(loss: Loss, z: Noised, factors: Tensor, noise_factors: Tensor | None = None) -> Tensor:
    """sum_i f_i w(t) (first term - second term)_i with respect to x (B, ...), where w(t) = s_t^2 (Equation 4).

    ``factors`` (B, n): normalised weights. ``noise_factors``: others for the second term, to see what each term does.
    """
    first, second = loss.terms(z)
    spread = (..., *[None] * (z.eps.ndim - 2))
    second_factors = factors if noise_factors is None else noise_factors
    total = (factors[spread] * first - second_factors[spread] * second).sum(1)
    _, s = signal_noise(loss.alphas_cumprod, z.t, total.ndim)
    return s**2 * total


def surrogate(x: Tensor, g: Tensor) -> Tensor:
    """0.5 ||x - stopgrad(x - g)||^2, a scalar whose gradient with respect to x is g."""
    if x.shape != g.shape:
        raise ReprobookError(f"the picture is {list(x.shape)}, its gradient {list(g.shape)}; they must be equal")
    return 0.5 * (x - (x - g).detach()).square().sum()
