"""From the scores of N candidates to their weights: the six schemes of Section 4.4, in two normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

Scheme = Literal["random", "softmax", "best", "best two", "best and worst", "two best and two worst"]
Normalisation = Literal["paper", "released"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)  # (i) to (vi) of the paper's Table 5
# Weights of the best, the second best, ... and of the last, the last but one, ...; all others are 0.
RANKED: dict[Scheme, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "best": ((1.0,), ()),
    "best two": ((1.0, 1.0), ()),
    "best and worst": ((0.9,), (-0.1,)),
    "two best and two worst": ((0.9, 0.9), (-0.1, -0.1)),
}


def kept(scheme: Scheme, n: int) -> int:
    """How many of ``n`` candidates a scheme gives a weight. Raises :class:`ReprobookError` where n is too small."""
    if scheme not in SCHEMES:
        raise ReprobookError(f"weighting scheme {scheme!r} is not known; schemes: {', '.join(SCHEMES)}")
    needed = n if scheme == "softmax" else sum(map(len, RANKED.get(scheme, ((1.0,), ()))))
    if n < max(needed, 1):
        raise ReprobookError(
            f"N is {n}; {scheme!r} needs at least {max(needed, 1)} candidates, or its best and worst would be the same"
        )
    return needed


def weights(
    rewards: Tensor, scheme: Scheme = "two best and two worst", *, temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """w (B, N) of rewards (B, N), higher is better. Their sums are 1, 1, 1, 2, 0.8 and 1.6 in the order of the schemes.

    ``temperature`` of the softmax (the paper is silent, the code has 1); ``generator`` draws for ``random``, which
    reads no reward. Equal rewards rank in the order of the candidates, which are exchangeable.
    Raises :class:`ReprobookError` for rewards that are not finite: ranks of NaN mean nothing."""
    n = rewards.shape[1]
    kept(scheme, n)
    if scheme != "random" and not torch.isfinite(rewards).all():
        bad = (~torch.isfinite(rewards)).nonzero()[0].tolist()
        raise ReprobookError(f"the reward of picture {bad[0]}, candidate {bad[1]} is {rewards[tuple(bad)]}: not finite")
    if scheme == "softmax":
        if not temperature > 0:
            raise ReprobookError(f"temperature is {temperature}; it must be above 0")
        return torch.softmax(rewards / temperature, 1)
    found = torch.zeros_like(rewards)
    if scheme == "random":
        chosen = torch.randint(n, (len(rewards), 1), generator=generator)  # on the processor, like all noise
        return found.scatter(1, chosen.to(rewards.device), 1.0)
    best, worst = RANKED[scheme]
    by_rank = torch.tensor([*best, *[0.0] * (n - len(best) - len(worst)), *reversed(worst)]).to(rewards)
    order = rewards.argsort(dim=1, descending=True, stable=True)
    return found.scatter(1, order, by_rank.expand_as(rewards))


def normalised(w: Tensor, scheme: Scheme, normalisation: Normalisation = "paper") -> Tensor:
    """The factors of the candidates' gradients.

    ``paper``: w_i / N (Equation 4). ``released``: the code averages the kept losses and has divided each of them by
    their number before: w / (n m) with n losses kept and m in an average, so 0.9 / 8 where the paper has 0.9 / N; of a
    softmax w / N. For Adam a common factor is nothing, for SGD a step size."""
    if normalisation not in get_args(Normalisation):
        raise ReprobookError(f"normalisation is {normalisation!r}; it must be paper or released")
    n = w.shape[1]
    if normalisation == "paper":
        return w / n
    averaged = {"best two": 2, "two best and two worst": 2}.get(scheme, 1)
    return w / (kept(scheme, n) * averaged)


def shuffled_weights(w: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The same weights on random candidates: a baseline in which only the ranking is gone. w: (B, N)."""
    return w.gather(1, torch.rand(w.shape, generator=generator).argsort(1).to(w.device))
