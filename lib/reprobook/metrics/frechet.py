"""The Frechet distance of features. With the features of a small network or of components it is a proxy, not FID."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from reprobook.errors import ReprobookError
from reprobook.metrics.statistics import Interval

if TYPE_CHECKING:
    from torch import Tensor


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (..., D) and covariance (..., D, D) of features (..., N, D), float64."""
    features = features.double()
    mean = features.mean(-2)
    centred = features - mean[..., None, :]
    return mean, centred.mT @ centred / (features.shape[-2] - 1)


def frechet(features: Tensor, reference: Tensor) -> Tensor:
    """Squared Frechet distance of Gaussians fitted to features (..., N, D) and (M, D); the first axes stay."""
    if features.shape[-2] < 2 or len(reference) < 2 or features.shape[-1] != reference.shape[-1]:
        shapes = f"{list(features.shape)} and {list(reference.shape)}"
        raise ReprobookError(f"frechet needs two sets of at least two rows of equal width, got {shapes}")
    (mean, cov), (mean_r, cov_r) = _moments(features), _moments(reference)
    values, vectors = torch.linalg.eigh(cov_r)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov @ root).clamp_min(0).sqrt().sum(-1)
    traces = cov.diagonal(dim1=-2, dim2=-1).sum(-1) + cov_r.trace()
    return ((mean - mean_r).square().sum(-1) + traces - 2 * cross).clamp_min(0)


def frechet_gap(
    worse: Tensor, better: Tensor, reference: Tensor, slack: float = 0.0, n_resamples: int = 400, seed: int = 0
) -> Interval:
    """(1 + slack) times the distance of ``worse`` minus that of ``better`` to ``reference``, features (N, D), with a
    95 % bootstrap interval over rows.

    Row i of both was drawn for the same prompt, so rows are drawn together; the reference is fixed. Resampling inflates
    both distances alike, so the interval is moved to the plain estimate.
    """
    if worse.shape != better.shape:
        raise ReprobookError(f"frechet_gap: shapes {list(worse.shape)} and {list(better.shape)} must be equal")

    def gap(a: Tensor, b: Tensor) -> Tensor:
        return (1 + slack) * frechet(a, reference) - frechet(b, reference)

    rows = torch.randint(len(worse), (n_resamples, len(worse)), generator=torch.Generator().manual_seed(seed))
    gaps = torch.cat([gap(worse[part], better[part]) for part in rows.split(50)])
    low, high = torch.quantile(gaps, torch.tensor([0.025, 0.975], dtype=gaps.dtype)).tolist()
    plain = float(gap(worse, better))
    shift = plain - float(gaps.mean())
    return Interval(plain, low + shift, high + shift, len(worse))
