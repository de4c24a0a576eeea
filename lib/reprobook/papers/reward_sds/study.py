"""The chapter's experiments, as its cells call them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch

from reprobook.papers.reward_sds.exact import two_modes
from reprobook.papers.reward_sds.loop import calls, optimise, picture
from reprobook.papers.reward_sds.losses import sds

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from reprobook.papers.reward_sds.loop import Reward, Steps, Weighing
    from reprobook.papers.reward_sds.losses import Loss


@dataclass(frozen=True)
class Row:
    """One way of optimising: base loss alone, or with weighed candidates, or with a gradient of the reward."""

    how: Weighing | None = None
    n_plain: int = 1
    times_steps: float = 1.0  # iterations, as a multiple of the base loss's
    restarts: int = 1  # runs from other noise, of which the reward picks one
    ascent: float = 0.0  # step of the reward's own gradient
    options: Mapping[str, Any] = field(default_factory=dict)


class Ends(NamedTuple):
    """Where a row's pictures (B, ...) end, and evaluations of the prior and seconds for each."""

    x: Tensor
    calls: float
    seconds: float


def fair_rows(how: Weighing, n_steps: int, equal: int, strengths: tuple[float, ...] = ()) -> dict[str, Row]:
    """The method and what it is compared with; ``equal``: how many times as many calls the method needs.

    SDS with so many more steps, with so many averaged noises, the best of so many restarts by the same reward; the same
    weights on random candidates; the reward's own gradient at each of ``strengths``."""
    how = replace(how, n_reward_steps=min(how.n_reward_steps, n_steps))
    rows = {
        "RewardSDS": Row(how),
        "SDS": Row(),
        "SDS, more steps": Row(times_steps=equal),
        "SDS, averaged noises": Row(n_plain=equal),
        "best of restarts": Row(restarts=equal),
        "random weights": Row(replace(how, ranking="coin")),
    }
    return rows | {f"reward gradient, {c:g}": Row(ascent=c) for c in strengths}


def run_row(
    row: Row, make_loss: Callable[[int], Loss], start: Callable[[int], Tensor], steps: Steps, reward: Reward, *,
    seed: int, climbable: Reward | None = None,
) -> Ends:  # fmt: skip
    """Optimise B pictures the way ``row`` says. ``make_loss(copies)``: the loss of the B pictures, each so many times
    in a row; ``start(k)``: the k-th set of B initial pictures, equal for all rows. ``climbable``: the reward whose
    gradient at the present picture the row may use, if it is another one."""
    began = time.perf_counter()
    steps = replace(steps, n=round(steps.n * row.times_steps))
    first = start(0)
    size, copies = len(first), row.restarts
    x = torch.stack([start(k) for k in range(copies)], 1).flatten(0, 1).detach().requires_grad_()
    owner = torch.arange(size, device=x.device).repeat_interleave(copies)
    asked: Reward = lambda z, rows: reward(z, owner[rows])  # noqa: E731

    def climb(z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad((climbable or reward)(z, owner).sum(), z)
        return row.ascent * g

    loss = make_loss(copies)
    for _ in optimise(
        loss, [x], lambda: x, steps, row.how, asked, seed=seed, n_plain=row.n_plain,
        ascent=climb if row.ascent else None,
    ):  # fmt: skip
        pass
    x = x.detach()
    total = len(loss.alphas_cumprod)
    spent = copies * calls(steps, row.how, total, guided=False, n_plain=row.n_plain)
    if copies > 1:
        best = reward(x, owner).view(size, copies).argmax(1)
        x = x.view(size, copies, *x.shape[1:])[torch.arange(size), best]
    return Ends(x, spent, (time.perf_counter() - began) / size)


# ------------------------------------------------------------------------------------------------- the exact mixture


def mixture_ends(
    rows: Mapping[str, Row], n_pictures: int, n_coordinates: int, steps: Steps, seed: int
) -> dict[str, Ends]:
    """Rows on pictures of ``n_coordinates`` numbers with two equally likely modes each, -2 and 2; the reward is the
    mean coordinate, so 2 where every coordinate sits in its right mode."""
    prior = two_modes()

    def make_loss(copies: int) -> Loss:
        return sds(prior, torch.zeros(n_pictures * copies, dtype=torch.long), 1.0, 1.0)

    def start(k: int) -> Tensor:
        return picture((n_pictures, n_coordinates), seed * 1009 + k).detach()

    def reward(x: Tensor, _: Tensor) -> Tensor:
        return x.mean(1)

    return {name: run_row(row, make_loss, start, steps, reward, seed=seed) for name, row in rows.items()}


def mixture_scores(x: Tensor) -> dict[str, np.ndarray]:
    """For each picture: reward, nats per coordinate, and the share of coordinates inside the rewarded mode (within
    three deviations of it, where 99.7 % of its mass lie)."""
    prior = two_modes()
    inside = ((x - 2).abs() < 3 * prior.sd).float().mean(1)
    log_prob = prior.log_prob(x, torch.zeros(len(x), dtype=torch.long))
    return {"reward": x.mean(1).numpy(), "nats": log_prob.numpy(), "in the mode": inside.numpy()}


def mixture_table(ends: Mapping[str, Ends]) -> pd.DataFrame:
    """One row a way of optimising: means over pictures."""
    rows = []
    for name, end in ends.items():
        scores = {what: float(values.mean()) for what, values in mixture_scores(end.x).items()}
        size = {"mean |x|": float(end.x.abs().mean())}
        rows.append({"method": name, **scores, **size, "calls": end.calls, "ms a picture": 1000 * end.seconds})
    return pd.DataFrame(rows)
