"""The Frechet distance against scipy and in closed form; its interval over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.metrics.frechet import frechet, frechet_gap


def test_frechet_is_the_formula_of_the_means_and_covariances() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 4)), rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)) + 1
    covs = [np.cov(each.T) for each in (a, b)]
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covs[0] + covs[1] - 2 * sqrtm(covs[0] @ covs[1]).real)
    a, b = torch.from_numpy(a), torch.from_numpy(b)
    assert float(frechet(a, b)) == pytest.approx(expected, rel=1e-8)
    assert float(frechet(a, a)) == pytest.approx(0, abs=1e-9)
    stacked = frechet(torch.stack([a[:100], a[100:]]), b)
    assert stacked.tolist() == pytest.approx([float(frechet(part, b)) for part in (a[:100], a[100:])])
    with pytest.raises(ReprobookError, match="equal width"):
        frechet(a, b[:, :3])


def test_interval_of_a_gap_holds_the_plain_estimate_and_finds_a_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, near, far = (torch.randn(300, 3, generator=generator) for _ in range(3))
    found = frechet_gap(far + 1, near, reference)
    assert found.low < found.mean < found.high and found.low > 0 and found.n == 300
    assert found.mean == pytest.approx(float(frechet(far + 1, reference) - frechet(near, reference)))
    none = frechet_gap(far, near, reference)
    assert none.low < 0 < none.high
    slack = frechet_gap(far + 1, near, reference, slack=0.5)
    assert slack.mean == pytest.approx(found.mean + 0.5 * float(frechet(far + 1, reference)))
    with pytest.raises(ReprobookError, match="must be equal"):
        frechet_gap(far[:5], near, reference)


def test_closed_form_of_white_features() -> None:
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), (x - x.mean(0)).T, upper=False).T
    assert float(frechet(2 * x + torch.tensor([1.0, 0, 0]), x)) == pytest.approx(1 + 3 * (2 - 1) ** 2)
    half = x[:500]
    gap = frechet_gap(3 * half, half, x, n_resamples=50)
    assert gap.low > 0 and gap.mean == pytest.approx(float(frechet(3 * half, x) - frechet(half, x)))
