"""One optimisation: render, draw t and N noises, score the candidates, weigh them, step (Section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import add_noise, denoise, levels
from reprobook.papers.reward_sds.losses import Noised, gradient, surrogate
from reprobook.papers.reward_sds.weighting import kept, normalised, shuffled_weights, weights

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.reward_sds.diffusion import Start
    from reprobook.papers.reward_sds.losses import Loss
    from reprobook.papers.reward_sds.weighting import Normalisation, Scheme

Reward = Callable[["Tensor", "Tensor"], "Tensor"]  # (pictures (M, ...), which of the B they belong to (M,)) -> (M,)


@dataclass(frozen=True)
class Weighing:
    """How candidates are scored and weighed; the defaults are the paper's for 2-D generation.

    ``n``: N candidates; ``n_reward_steps``: K iterations with a reward, after which one plain noise is left;
    ``n_denoise``: S. ``ranking``: by ``reward``, or by a coin (the same weights on random candidates). ``parts``: which
    term of the difference is weighed; the other has the mean weight for all (``both`` is the method)."""

    n: int = 10
    n_reward_steps: int = 1000
    n_denoise: int = 15
    scheme: Scheme = "two best and two worst"
    temperature: float = 1.0
    normalisation: Normalisation = "paper"
    start: Start = "exact"
    ranking: Literal["reward", "coin"] = "reward"
    parts: Literal["both", "network", "noise"] = "both"

    def check(self, n_steps: int) -> None:
        """Raise :class:`ReprobookError` for settings that ``n_steps`` iterations cannot have."""
        kept(self.scheme, self.n)
        if not 0 <= self.n_reward_steps <= n_steps:
            raise ReprobookError(f"K is {self.n_reward_steps}; it must be from 0 to the {n_steps} iterations")
        for name, allowed in (("ranking", ("reward", "coin")), ("parts", ("both", "network", "noise"))):
            if getattr(self, name) not in allowed:
                raise ReprobookError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Steps:
    """The optimiser (the paper's Adam, or the released AdamW whose decay acts on the picture) and the range of t."""

    n: int = 1000
    lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15
    weight_decay: float = 0.0
    t_range: tuple[float, float] = (0.02, 0.98)

    def times(self, total: int, size: int, generator: torch.Generator) -> Tensor:
        """t (size,) uniform over the whole numbers of the range; ``total`` steps of the chain."""
        low, high = (round(share * total) for share in self.t_range)
        if not 0 <= low < high <= total:
            raise ReprobookError(f"t_range is {self.t_range}; it must rise inside [0, 1]")
        return torch.randint(low, high, (size,), generator=generator)


class State(NamedTuple):
    """After an iteration: its number (from 1), the rendered pictures before its step, the candidates' rewards (B, N) or
    None, and their factors (B, n)."""

    step: int
    x: Tensor
    rewards: Tensor | None
    factors: Tensor


def scored(loss: Loss, reward: Reward, z: Noised, n_denoise: int, start: Start = "exact", views: int = 1) -> Tensor:
    """Rewards (B, N) of the candidates, denoised in one call for each step. ``views``: so many pictures in a row show
    one scene, and a candidate's reward is the mean over them.

    Raises :class:`ReprobookError` if the reward model gives anything but one number a picture."""
    size, n = z.eps.shape[:2]
    clean = denoise(loss.denoiser(z.step), loss.alphas_cumprod, z.x_t, z.t, n_denoise, start)
    with torch.no_grad():
        found = reward(clean.flatten(0, 1), torch.arange(size, device=clean.device).repeat_interleave(n))
    if found.shape != (size * n,):
        raise ReprobookError(f"the reward model gave {list(found.shape)} for {size * n} pictures; one each is needed")
    found = found.view(size, n)
    return found.view(-1, views, n).mean(1).repeat_interleave(views, 0)


def _factors(
    loss: Loss, reward: Reward, z: Noised, how: Weighing, views: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    rewards = scored(loss, reward, z, how.n_denoise, how.start, views)
    w = weights(rewards[::views], how.scheme, temperature=how.temperature, generator=generator)
    if how.ranking == "coin":
        w = shuffled_weights(w, generator)
    return rewards, normalised(w, how.scheme, how.normalisation).repeat_interleave(views, 0)


def optimise(
    loss: Loss, theta: list[Tensor], render: Callable[[], Tensor], steps: Steps, how: Weighing | None = None,
    reward: Reward | None = None, *, seed: int = 0, n_plain: int = 1, views: int = 1,
    ascent: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[State]:  # fmt: skip
    """Optimise ``theta`` in place so that ``render()`` (B, ...) follows ``loss``; yields after every iteration.

    Without ``how`` this is the base loss, with the mean over ``n_plain`` noises. ``ascent``: a gradient (B, ...) of a
    differentiable reward at the picture, which is climbed in addition (a baseline). The reward of ``how`` is never
    differentiated. All noise comes from ``seed``: with K = 0 a run is the base loss, bit for bit."""
    if how is not None:
        how.check(steps.n)
        if reward is None:
            raise ReprobookError("weighing candidates needs a reward")
    if n_plain < 1:
        raise ReprobookError(f"n_plain is {n_plain}; it must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    options = {"lr": steps.lr, "betas": steps.betas, "eps": steps.eps, "weight_decay": steps.weight_decay}
    optimiser = torch.optim.AdamW(theta, **options)  # type: ignore[arg-type]
    for step in range(steps.n):
        rendered = render()
        x = rendered.detach().clone()  # the optimiser changes a parameter in place
        rewarded = how is not None and step < how.n_reward_steps
        n = how.n if how is not None and rewarded else n_plain
        t = steps.times(len(loss.alphas_cumprod), len(x) // views, generator).repeat_interleave(views).to(x.device)
        eps = torch.randn(len(x), n, *x.shape[1:], generator=generator).to(x)
        z = Noised(x, eps, t, add_noise(loss.alphas_cumprod, x, eps, t), step)
        rewards = None
        with torch.no_grad():
            if how is not None and reward is not None and rewarded:
                rewards, factors = _factors(loss, reward, z, how, views, generator)
                g = weighed_gradient(loss, z, factors, how)
            else:
                factors = torch.full((len(x), n), 1 / n, device=x.device)
                g = gradient(loss, z, factors)
        if ascent is not None:
            g = g - ascent(x)
        optimiser.zero_grad()
        surrogate(rendered, g).backward()
        optimiser.step()
        if loss.learn is not None:
            loss.learn(render().detach())
        yield State(step + 1, x, rewards, factors)


def weighed_gradient(loss: Loss, z: Noised, factors: Tensor, how: Weighing) -> Tensor:
    """The gradient of the candidates that have a weight; the others' predictions are not computed."""
    if how.parts != "both":
        level = factors.mean(1, keepdim=True).expand_as(factors)
        first, second = (factors, level) if how.parts == "network" else (level, factors)
        return gradient(loss, z, first, second)
    n = kept(how.scheme, how.n)
    chosen = factors.abs().topk(n, 1).indices.sort(1).values  # in their own order, so that sums do not hang on ranks
    index = chosen[(..., *[None] * (z.eps.ndim - 2))].expand(-1, -1, *z.eps.shape[2:])
    few = z._replace(eps=z.eps.gather(1, index), x_t=z.x_t.gather(1, index))
    return gradient(loss, few, factors.gather(1, chosen))


def calls(steps: Steps, how: Weighing | None, total: int, *, guided: bool, n_plain: int = 1) -> float:
    """Evaluations of the prior that an optimisation of one picture needs on average over t; guidance counts twice."""
    each = 2 if guided else 1
    if how is None:
        return float(each * n_plain * steps.n)
    low, high = (round(share * total) for share in steps.t_range)
    _, count = levels(torch.arange(low, high), how.n_denoise, total, how.start)
    one = how.n * count.float().mean().item() + kept(how.scheme, how.n)
    return each * (how.n_reward_steps * one + (steps.n - how.n_reward_steps) * n_plain)


def picture(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    """Pictures that start from noise N(0, scale^2) and are optimised themselves (2-D: the latent is the parameter)."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator)).requires_grad_()
