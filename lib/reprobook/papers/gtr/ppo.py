"""PPO with weighed thoughts, and thought cloning: the losses, advantages and the buffer of corrections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch.nn import functional as f

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

SHORT = -2.0  # log-probability of a response in which no action can be found, as released


def check_lambda(lam: float) -> None:
    """Raise :class:`ReprobookError` unless the weight of thoughts is from 0 to 1."""
    if not 0 <= lam <= 1:
        raise ReprobookError(f"lam is {lam}; the weight of thoughts must be from 0 to 1")


def weighted_logp(logp: Tensor, split: Tensor, lam: float) -> Tensor:
    r"""log pi(a | o) = lambda sum_{i in th} log p_i + sum_{i in act} log p_i (section 3.2).

    logp: (B, T), 0 behind the end; split: (B,) first place of the action, -1 where a response is too short to have one
    (its log-probability is then the constant -2)."""
    check_lambda(lam)
    places = torch.arange(logp.shape[1], device=logp.device)
    weights = torch.where(places < split[:, None], lam, 1.0)
    return torch.where(split < 0, SHORT, (weights * logp).sum(1))


def gae(
    reward: Tensor, value: Tensor, ends: Tensor, last: Tensor, gamma: float, lam: float, bonus: Tensor | None = None,
    mode: Literal["after", "inside"] = "after",
) -> Tensor:  # fmt: skip
    """Returns (T, B): generalised advantages plus values. ``ends``: episode over after the step; ``last`` (B,): value
    of the table after the rollout. ``bonus`` (T, B), the format reward: added to the finished return (``after``, as
    released), or to the reward (``inside``)."""
    if mode not in ("after", "inside"):
        raise ReprobookError(f"mode is {mode!r}; the format reward may be added 'after' or 'inside'")
    bonus = torch.zeros_like(reward) if bonus is None else bonus
    reward = reward + bonus if mode == "inside" else reward
    following, running = last, torch.zeros_like(last)
    found = torch.zeros_like(reward)
    for t in reversed(range(len(reward))):
        goes_on = (~ends[t]).to(reward.dtype)
        delta = reward[t] + gamma * goes_on * following - value[t]
        running = delta + gamma * lam * goes_on * running
        found[t], following = running + value[t], value[t]
    return found + bonus if mode == "after" else found


def normalised(advantage: Tensor) -> Tensor:
    """Mean 0 and (unbiased) deviation 1 over the rollout."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-5)


def policy_loss(logp: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-min(rho A, clip(rho, 1 - c, 1 + c) A), mean; if any ratio exceeds 10, the clipped term alone. All (B,)."""
    ratio = (logp - old).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantage
    if bool((ratio > 10).any()):
        return -clipped.mean()
    return -torch.minimum(ratio * advantage, clipped).mean()


def value_loss(value: Tensor, old: Tensor, target: Tensor, clip: float) -> Tensor:
    """0.5 max of squared errors with and without clipping the change of the value, mean. All (B,)."""
    clipped = old + (value - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - target) ** 2, (clipped - target) ** 2).mean()


def cloning_loss(logits: Tensor, labels: Tensor, n_rows: int | None = None) -> Tensor:
    """-1/|th| sum_i log p(th_i), no temperature: mean over the labelled tokens of a row, then over ``n_rows`` rows
    (default: all given), of which those without labels count 0. logits: (B, T, V); labels: (B, T), -100 where nothing
    is cloned."""
    told = labels != -100
    found = f.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none").view_as(told)
    return (found.sum(1) / told.sum(1).clamp(min=1)).sum() / (n_rows or len(labels))


class Correction(NamedTuple):
    """Steps as they are kept for cloning: picture places (N, n, 2), prompts (N, P), responses (N, T), labels (N, T)
    with -100 where nothing is cloned (all of a step judged right, or unread)."""

    places: Tensor
    prompt: Tensor
    response: Tensor
    labels: Tensor

    def rows(self, index: Tensor) -> Correction:
        """A part of them."""
        return Correction(*(each[index] for each in self))


class Buffer:
    """D: all steps so far with their corrections (DAgger), or the last rollout's alone."""

    def __init__(self, keep: bool = True) -> None:
        self.keep = keep
        self.data: Correction | None = None

    def __len__(self) -> int:
        return 0 if self.data is None else len(self.data.response)

    def add(self, new: Correction) -> None:
        """Append a rollout's steps; without ``keep`` they replace what was there."""
        if self.data is None or not self.keep:
            self.data = new
        else:
            self.data = Correction(*(torch.cat(pair) for pair in zip(self.data, new, strict=True)))


class Draws:
    """Mini-batches of the numbers 0 .. n - 1 without replacement, mixed anew when they are used up."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        if n < 1:
            raise ReprobookError("there is nothing to draw from")
        self.n, self.generator = n, generator
        self.left = torch.randperm(n, generator=generator)

    def take(self, k: int) -> Tensor:
        """The next k numbers."""
        while len(self.left) < k:
            self.left = torch.cat([self.left, torch.randperm(self.n, generator=self.generator)])
        taken, self.left = self.left[:k], self.left[k:]
        return taken
