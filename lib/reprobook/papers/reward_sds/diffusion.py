"""Noising, guidance, and denoising in S steps: what every loss and every score of a candidate goes through.

x_t = a_t x_0 + s_t eps with a_t^2 + s_t^2 = 1 (Section 3). Time steps are whole numbers 0 .. T - 1, of which
``alphas_cumprod`` (T,) holds a_t^2. A batch is (B, n, ...): n noises of each of B pictures, which all have the t of
their picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

Start = Literal["exact", "prepended", "released"]
# (x_t (R, n, ...), t (R,), which of the B pictures they are (R,)) -> predicted noise like x_t
Denoiser = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


class Prior(Protocol):
    """A pretrained diffusion model that predicts noise."""

    alphas_cumprod: Tensor

    def noise(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (M, ...), t (M,) whole, y (M, ...) conditions -> predicted noise like x."""
        ...

    def empty(self, y: Tensor) -> Tensor:
        """The empty condition in the form of ``y``."""
        ...


def linear_alphas(n_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """``alphas_cumprod`` (T,) of betas that rise linearly, as in DDPM."""
    return torch.cumprod(1 - torch.linspace(first, last, n_steps, dtype=torch.float64), 0).float()


def signal_noise(alphas_cumprod: Tensor, t: Tensor, n_dims: int) -> tuple[Tensor, Tensor]:
    """(a_t, s_t) of time steps ``t`` (B,), with ones behind up to ``n_dims`` dimensions; t = -1 is clean: (1, 0)."""
    abar = torch.where(t < 0, torch.ones((), device=t.device), alphas_cumprod.to(t.device)[t.clamp(min=0)])
    abar = abar.view(-1, *[1] * (n_dims - 1))
    return abar.sqrt(), (1 - abar).sqrt()


def add_noise(alphas_cumprod: Tensor, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t of x (B, ...) under each of the noises eps (B, n, ...), at its picture's t (B,)."""
    a, s = signal_noise(alphas_cumprod, t, eps.ndim)
    return a * x[:, None] + s * eps


def predicted_noise(prior: Prior, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The prior's prediction for x (B, n, ...) at t (B,) under the conditions y (B, ...), like x."""
    n = x.shape[1]
    found = prior.noise(x.flatten(0, 1), t.repeat_interleave(n), y.repeat_interleave(n, 0))
    return found.view_as(x)


def guided_noise(
    prior: Prior, x: Tensor, t: Tensor, y: Tensor, guidance: float, negative: Tensor | None = None
) -> Tensor:
    """Classifier-free guidance: e(x_t; empty) + c (e(x_t; y) - e(x_t; empty)), in one call of the prior.

    ``negative`` (B, ...): a condition in place of the empty one. At c = 1 the prior is asked once.
    Raises :class:`ReprobookError` for c <= 0, which would ignore the prompt or flee from it."""
    check_guidance(guidance)
    if guidance == 1:
        return predicted_noise(prior, x, t, y)
    negative = prior.empty(y) if negative is None else negative
    both = predicted_noise(prior, torch.cat([x, x]), torch.cat([t, t]), torch.cat([negative, y]))
    without, given = both.chunk(2)
    return without + guidance * (given - without)


def check_guidance(guidance: float) -> None:
    """Raise :class:`ReprobookError` unless ``guidance`` is above 0."""
    if not guidance > 0:
        raise ReprobookError(f"guidance is {guidance}; it must be above 0: at 0 the prompt is not read")


# ----------------------------------------------------------------------------------------------------------- S steps


def levels(t: Tensor, n_steps: int, total: int, start: Start = "exact") -> tuple[Tensor, Tensor]:
    """Time steps at which the prior is asked when pictures of noise level ``t`` (B,) are denoised, and how often.

    (levels (B, L) from noisy to clean, filled up with -1; how many of each row count (B,)).

    - ``exact``: ``n_steps`` levels, evenly from t down (its first is t, the clean picture comes after its last).
    - ``released``: the released 2-D code. A schedule of ``n_steps`` over the *whole* chain (diffusers' "leading"
      spacing with offset 1); those at or below t are run, so that pictures of level t are taken for cleaner ones, by up
      to T / n_steps levels, and the smallest t are not denoised at all but by one step at t = 1.
    - ``prepended``: the released 3-D code, which puts t itself before that schedule.
    """
    if start not in get_args(Start):
        raise ReprobookError(f"start is {start!r}; it must be one of {', '.join(get_args(Start))}")
    if not 0 <= n_steps <= total:
        raise ReprobookError(f"S is {n_steps}; it must be from 0 to the {total} steps of the chain")
    if start == "exact":
        share = 1 - torch.arange(n_steps, device=t.device) / max(n_steps, 1)
        found = (t[:, None] * share).round().long()
        return found, torch.full_like(t, n_steps)
    if not n_steps:
        return t.new_empty(len(t), 0), torch.zeros_like(t)
    grid = (torch.arange(n_steps, device=t.device) * (total // n_steps) + 1).flip(0)
    below = grid < t[:, None] if start == "prepended" else grid <= t[:, None]
    below[:, -1] |= start == "released"
    count = below.sum(1)
    order = (n_steps - count)[:, None] + torch.arange(n_steps, device=t.device)
    found = torch.where(order < n_steps, grid[order.clamp(max=n_steps - 1)], -1)
    if start == "prepended":
        return torch.cat([t[:, None], found], 1), count + 1
    return found, count


def ddim_step(alphas_cumprod: Tensor, x: Tensor, eps: Tensor, t: Tensor, following: Tensor) -> Tensor:
    """Deterministic DDIM from level t (B,) to ``following`` (B,), -1 for the clean picture."""
    a, s = signal_noise(alphas_cumprod, t, x.ndim)
    a_next, s_next = signal_noise(alphas_cumprod, following, x.ndim)
    return a_next * (x - s * eps) / a + s_next * eps


@torch.no_grad()
def denoise(
    denoiser: Denoiser, alphas_cumprod: Tensor, x: Tensor, t: Tensor, n_steps: int, start: Start = "exact"
) -> Tensor:
    """Candidates x_t (B, n, ...) brought to x_0 in S = ``n_steps`` steps of DDIM; S = 0 leaves them as they are.

    All candidates of all pictures go through the prior in one call for each step; a picture that is done is left out.
    """
    asked, count = levels(t, n_steps, len(alphas_cumprod), start)
    following = torch.cat([asked, torch.full_like(t, -1)[:, None]], 1)[:, 1:]
    for k in range(int(count.max())):
        rows = (count > k).nonzero()[:, 0]
        now, noisy = asked[rows, k], x[rows]
        eps = denoiser(noisy, now, rows)
        x = x.index_copy(0, rows, ddim_step(alphas_cumprod, noisy, eps, now, following[rows, k]))
    return x
