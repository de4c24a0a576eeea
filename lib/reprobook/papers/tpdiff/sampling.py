"""Sampling through the pyramid: a base sampler inside each stage, renoising between stages (Section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reprobook.errors import ReprobookError
from reprobook.papers.tpdiff.pyramid import Stage, check_frames, renoise

if TYPE_CHECKING:
    from reprobook.papers.tpdiff.pyramid import Renoising
    from reprobook.papers.tpdiff.schedule import Path

Predict = Callable[[Tensor, float, Stage], Tensor]  # (x_t, t, stage) -> velocity or noise, of the shape of x_t


def split_steps(n_steps: int, n_stages: int, shares: Sequence[int] | None = None) -> list[int]:
    """Steps of each stage in the order of sampling; ``shares`` such as (2, 1, 1), default equal.

    Raises :class:`ReprobookError` if a stage would get no step or the shares do not divide the total.
    """
    shares = [1] * n_stages if shares is None else list(shares)
    if len(shares) != n_stages or any(share < 1 for share in shares):
        raise ReprobookError(f"shares must be {n_stages} positive whole numbers, got {shares}")
    if n_steps < 1 or n_steps % sum(shares):
        raise ReprobookError(f"{n_steps} steps cannot be split as {shares}: use a multiple of {sum(shares)}")
    return [n_steps // sum(shares) * share for share in shares]


def step(x: Tensor, prediction: Tensor, t: float, t_next: float, stage: Stage, path: Path) -> Tensor:
    """One step from ``t`` to ``t_next`` inside a stage: Euler on the velocity, or DDIM (eta = 0) on the noise."""
    if path.kind == "flow":  # the velocity is x_start - x_end, for the whole stage
        return x + (t_next - t) / (stage.start - stage.end) * prediction
    times = torch.tensor([t, t_next], dtype=torch.float64)
    (g, g_next), (s, s_next) = (each.tolist() for each in path.signal_noise(times))
    return g_next / g * x + (s_next - g_next / g * s) * prediction


@torch.no_grad()
def sample(
    predict: Predict,
    stages: Sequence[Stage],
    path: Path,
    shape: Sequence[int],
    steps: Sequence[int],
    *,
    renoising: Renoising = "correct",
    move: Callable[..., Tensor] = step,
    ends: list[Tensor] | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Videos of ``shape`` (B, T, ...). ``steps``: network calls of each stage, in the order of ``stages``.

    move: the step. ends: a list that gets the state at the end of each stage."""
    check_frames(shape[1], len(stages))
    if len(steps) != len(stages):
        raise ReprobookError(f"steps must have one number for each of {len(stages)} stages, got {list(steps)}")
    first = (shape[0], stages[0].frames(shape[1]), *shape[2:])
    x = torch.randn(first, generator=generator, device=device, dtype=dtype)
    for i, (stage, n) in enumerate(zip(stages, steps, strict=True)):
        if i:
            x = renoise(x, stages[i - 1], stage, renoising, generator)
        times = torch.linspace(stage.start, stage.end, n + 1, dtype=torch.float64).tolist()
        for t, t_next in pairwise(times):
            x = move(x, predict(x, t, stage), t, t_next, stage, path)
        if ends is not None:
            ends.append(x)
    return x
