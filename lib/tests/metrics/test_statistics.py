"""Statistics against numbers computed by hand and against exhaustive resampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from reprobook.errors import ReprobookError
from reprobook.metrics.statistics import Interval, all_above_zero, mean_sd, over_seeds, paired_bootstrap


def test_mean_sd_by_hand() -> None:
    assert mean_sd([2.0, 4.0, 9.0]) == pytest.approx((5.0, math.sqrt((9 + 1 + 16) / 2)))
    mean, sd = mean_sd([3.0])
    assert mean == 3.0 and math.isnan(sd)


@pytest.mark.parametrize(
    ("values", "message"), [([], "non-empty"), ([1.0, math.nan], "not finite"), ([[1.0]], "shape")]
)
def test_mean_sd_refuses(values: list, message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        mean_sd(values)


def test_paired_bootstrap_equals_the_exhaustive_bootstrap() -> None:
    a, b = np.array([3.0, 5.0, 4.0, 9.0, 2.0]), np.array([1.0, 4.5, 4.0, 5.0, 3.0])  # differences 2, .5, 0, 4, -1
    every = np.array(
        [np.mean(draw) for draw in itertools.product(a - b, repeat=5)]
    )  # all 3125 equally likely resamples
    found = paired_bootstrap(a, b, n_resamples=40_000, seed=3)
    assert found.mean == pytest.approx(1.1) and found.n == 5
    assert found.low == pytest.approx(np.quantile(every, 0.025), abs=0.11)
    assert found.high == pytest.approx(np.quantile(every, 0.975), abs=0.11)


def test_paired_bootstrap_uses_the_pairs() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 200)  # what the two have in common
    found = paired_bootstrap(hard + 1 + rng.normal(0, 0.1, 200), hard, n_resamples=2000)
    assert 0.97 < found.low < found.mean < found.high < 1.03


def test_paired_bootstrap_is_seeded_and_narrows_with_confidence() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=30), rng.normal(size=30)
    one = paired_bootstrap(a, b, n_resamples=1000, seed=7)
    assert one == paired_bootstrap(a, b, n_resamples=1000, seed=7)
    assert one != paired_bootstrap(a, b, n_resamples=1000, seed=8)
    inner = paired_bootstrap(a, b, n_resamples=1000, confidence=0.5, seed=7)
    assert one.low < inner.low < inner.high < one.high


def test_paired_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    zero = np.zeros(40)
    hits = [paired_bootstrap(rng.normal(size=40), zero, 300, confidence=0.9, seed=i) for i in range(200)]
    assert 0.82 < np.mean([i.low <= 0 <= i.high for i in hits]) < 0.96


def test_paired_bootstrap_at_the_edges() -> None:
    assert paired_bootstrap([1.0, 2.0], [0.0, 1.0], 100) == Interval(1.0, 1.0, 1.0, 2)  # no spread: no width
    single = paired_bootstrap([3.0], [1.0], 100)
    assert single.mean == 2.0 and single.n == 1 and math.isnan(single.low)
    with pytest.raises(ReprobookError, match="3 values and b has 2"):
        paired_bootstrap([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ReprobookError, match="confidence"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0], confidence=95)


def test_over_seeds_by_hand() -> None:
    frame = pd.DataFrame(
        {"method": ["b", "a", "b", "a", "c"], "seed": [0, 0, 1, 1, 0], "loss": [1.0, 5.0, 3.0, 5.0, 2.0]}
    )
    found = over_seeds(frame, "method", "loss")
    assert found["method"].tolist() == ["b", "a", "c"]
    assert found["mean"].tolist() == [2.0, 5.0, 2.0] and found["n"].tolist() == [2, 2, 1]
    assert found["sd"].tolist()[:2] == pytest.approx([math.sqrt(2), 0.0]) and math.isnan(found["sd"][2])
    assert len(over_seeds(frame, ["method", "seed"], "loss")) == 5
    with pytest.raises(ReprobookError, match="'acc'; columns: method, seed, loss"):
        over_seeds(frame, "method", "acc")


def test_a_direction_holds_fails_or_cannot_be_told() -> None:
    above, across, below = (Interval((low + high) / 2, low, high, 9) for low, high in ((1, 2), (-1, 2), (-2, -1)))
    assert all_above_zero([above, above]) is True
    assert all_above_zero([above, across]) is None
    assert all_above_zero([above, across, below]) is False
    assert all_above_zero([Interval(1.0, math.nan, math.nan, 1)]) is None  # one pair has no interval
