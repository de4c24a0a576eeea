"""Scores and gradient of N candidates: all of them in one call for each step, against one candidate after another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from reprobook.bench import compare
from reprobook.papers.reward_sds.diffusion import add_noise
from reprobook.papers.reward_sds.loop import Weighing, scored, weighed_gradient
from reprobook.papers.reward_sds.losses import Noised, gradient, sds
from reprobook.papers.reward_sds.networks import ResidualPrior, RewardNet, prompt
from reprobook.papers.reward_sds.weighting import normalised, weights

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.bench import Comparison
    from reprobook.papers.reward_sds.loop import Reward
    from reprobook.papers.reward_sds.losses import Loss


def headline(n_pictures: int = 4, width: int = 256, n_denoise: int = 5) -> Comparison:
    """One iteration of RewardSDS (N = 10, guidance 3) on digits with networks that have learned nothing: the text
    book's loop (each candidate alone, the gradients of those of weight 0 too) over the batched way."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior, net = ResidualPrior(width).eval(), RewardNet().eval()
        torch.nn.init.normal_(prior.leave.weight, std=0.02)
    how = Weighing(n_denoise=n_denoise)
    loss = sds(prior, prompt(torch.arange(n_pictures) % 10), 3.0, 3.0)
    x = torch.randn(n_pictures, 784, generator=generator)
    eps = torch.randn(n_pictures, how.n, 784, generator=generator)
    t = torch.randint(20, 980, (n_pictures,), generator=generator)
    z = Noised(x, eps, t, add_noise(prior.alphas_cumprod, x, eps, t), 0)

    def reward(pictures: Tensor, _: Tensor) -> Tensor:
        return net(pictures)[1][:, 0]

    def batched() -> Tensor:
        w = weights(scored(loss, reward, z, n_denoise), how.scheme)
        return weighed_gradient(loss, z, normalised(w, how.scheme), how)

    ways = {"one candidate at a time": lambda: _loop(loss, reward, z, how), "batched": batched}
    what = f"N = {how.n}, S = {n_denoise}, {n_pictures} pictures"
    with torch.no_grad():
        return compare(ways, equal=lambda a, b: torch.allclose(a, b, atol=1e-6), what=what)


def _loop(loss: Loss, reward: Reward, z: Noised, how: Weighing) -> Tensor:
    singles = [z._replace(eps=z.eps[:, i : i + 1], x_t=z.x_t[:, i : i + 1]) for i in range(how.n)]
    rewards = torch.cat([scored(loss, reward, each, how.n_denoise) for each in singles], 1)
    factors = normalised(weights(rewards, how.scheme), how.scheme)
    return sum(gradient(loss, each, factors[:, i : i + 1]) for i, each in enumerate(singles))  # type: ignore[return-value]
