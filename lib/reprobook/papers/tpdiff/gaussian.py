r"""Linear-Gaussian video, where the best denoiser and the law of the samples are known exactly.

$x_0\sim N(0, C)$ over T frames. Inside a stage $x_t = M_t x_0 + s_t\epsilon$ and the target is $B x_0 + c\,\epsilon$.
The matrices follow from :func:`pyramid.diffuse`, so E[target | x_t] is linear in x_t and the covariance of the
samples can be followed through every step and every renoising.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from reprobook.errors import ReprobookError
from reprobook.papers.tpdiff import naive, pyramid
from reprobook.papers.tpdiff.pyramid import (
    junction,
    printed_factor,
    stage_ends,
    up,
)
from reprobook.papers.tpdiff.sampling import step

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.tpdiff.pyramid import (
        DownMode,
        Renoising,
        Stage,
    )
    from reprobook.papers.tpdiff.schedule import Path


def ar1_covariance(n_frames: int, correlation: float) -> Tensor:
    """Covariance (T, T) float64 of a stationary AR(1) video with unit variance."""
    if not -1 < correlation < 1:
        raise ReprobookError(f"the correlation of neighbouring frames must be in (-1, 1), got {correlation}")
    index = torch.arange(n_frames, dtype=torch.float64)
    return torch.tensor(correlation, dtype=torch.float64) ** (index[:, None] - index[None]).abs()


def best_prediction(
    t: float, stage: Stage, path: Path, covariance: Tensor, mode: DownMode = "subsample", way: ModuleType = pyramid
) -> Tensor:
    """Matrix G (T_k, T_k) of the Bayes-optimal prediction: E[target | x_t] = G x_t. ``way`` has the diffuse."""
    n = len(covariance)
    data, source = (each[..., 0].T for each in stage_ends(torch.eye(n).double()[..., None], stage, mode))
    zero, one = torch.zeros_like(data.T)[..., None], torch.eye(len(data)).double()[..., None]
    columns = torch.full((n,), t, dtype=torch.float64)
    # a linear map is known by what it makes of unit vectors: of x_0 (no noise), then of the noise (no data)
    of_data = way.diffuse(data.T[..., None], source.T[..., None], zero, columns, stage, path)
    nothing = torch.zeros_like(one)
    of_noise = way.diffuse(nothing, nothing, one, columns[: len(data)], stage, path)
    m, b = (each[..., 0].T for each in of_data)
    s, c = (each[..., 0].T for each in of_noise)
    joint = b @ covariance @ m.T + c @ s.T
    return torch.linalg.solve(m @ covariance @ m.T + s @ s.T, joint.T).T


def sample_covariance(
    stages: Sequence[Stage],
    path: Path,
    covariance: Tensor,
    steps: Sequence[int],
    renoising: Renoising = "correct",
    mode: DownMode = "subsample",
    control: bool = False,
) -> Tensor:
    """Covariance (T, T) of the videos that the sampler makes with the best denoiser: exact, nothing is drawn.

    control: every stage as a complete DDIM process of its own (:mod:`naive`)."""
    way, move = (naive, naive.step) if control else (pyramid, step)
    n = stages[0].frames(len(covariance))
    law = torch.eye(n, dtype=torch.float64)
    for i, (stage, count) in enumerate(zip(stages, steps, strict=True)):
        if i:
            law = renoised_covariance(law, stages[i - 1], stage, renoising)
        times = torch.linspace(stage.start, stage.end, count + 1, dtype=torch.float64).tolist()
        one = torch.eye(len(law), dtype=torch.float64)
        for t, t_next in pairwise(times):
            best = best_prediction(t, stage, path, covariance, mode, way)
            taken = move(one, best, t, t_next, stage, path)
            law = taken @ law @ taken.T
    return law


def renoised_covariance(law: Tensor, before: Stage, after: Stage, rule: Renoising = "correct") -> Tensor:
    """Covariance (2 T_k, 2 T_k) after :func:`pyramid.renoise` of videos with covariance ``law`` (T_k, T_k)."""
    ratio, alpha = junction(before, after)
    double = up(torch.eye(len(law), dtype=law.dtype)[None])[0]
    factor = printed_factor(after) if rule == "printed" else ratio
    pair = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=law.dtype)
    noise = {
        "none": torch.zeros_like(double @ double.T),
        "white": alpha**2 * torch.eye(2 * len(law), dtype=law.dtype),
    }.get(rule, alpha**2 * torch.kron(torch.eye(len(law), dtype=law.dtype), pair))
    return factor**2 * double @ law @ double.T + noise


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of N(0, a) and N(0, b): tr(a + b - 2 (b^1/2 a b^1/2)^1/2)."""
    values, vectors = torch.linalg.eigh(b)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ a @ root).clamp_min(0).sqrt().sum()
    return max(0.0, float(a.trace() + b.trace() - 2 * cross))


def frame_difference_variance(covariance: Tensor) -> float:
    """Mean variance of the difference of neighbouring frames: low is still, high flickers."""
    diagonal, beside = covariance.diagonal(), covariance.diagonal(1)
    return float((diagonal[1:] + diagonal[:-1] - 2 * beside).mean())
