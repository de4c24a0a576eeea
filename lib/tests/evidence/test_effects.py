"""Effects: intervals against closed forms and other implementations, pooling rules by worked examples and by
simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reprobook import ReprobookError
from reprobook.evidence.effects import measure, pool, scores_of, student
from reprobook.record import EffectData
from scipy import stats

if TYPE_CHECKING:
    from reprobook.evidence.effects import Scores


def run(kind: str, a: Any, b: Any = None, keys: Any = None, groups: Any = None) -> tuple[EffectData, Scores]:
    scores = scores_of("x", a, b, keys, groups)
    return measure(kind, scores, unit="points", over="question", shared=keys is not None), scores


def pooled(runs: list[tuple[EffectData, Scores]]) -> Any:
    return pool([effect for effect, _ in runs], [scores for _, scores in runs])


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=20).filter(lambda v: np.ptp(v) > 1e-3))
def test_the_interval_of_a_mean_is_students(values: list[float]) -> None:
    """For a mean the jackknife is the usual standard error, so the interval is that of scipy's one-sample t test."""
    effect, _ = run("mean", values)
    wanted = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (effect.low, effect.high) == (pytest.approx(wanted.low, abs=1e-6), pytest.approx(wanted.high, abs=1e-6))


def test_what_rounding_leaves_of_zero_is_shown_as_zero() -> None:
    """The mean of 0.1, 0.2 and -0.3 is 0; in floating point their sum is 2.8e-17."""
    runs = [run("mean", [value - 1, value + 1]) for value in (0.1, 0.2, -0.3)]
    told = pooled(runs)
    assert told.estimate != 0
    assert told.shown(told.estimate) == 0
    assert told.shown(1e-9) == 1e-9


def test_a_difference_is_paired() -> None:
    """What the two have in common cancels: differences 1, 2, 3 around any shared difficulty."""
    base = np.array([100.0, -50.0, 7.0])
    effect, _ = run("difference", base + np.array([1, 2, 3]), base)
    assert (effect.estimate, effect.n, effect.groups) == (2.0, 3, 3)
    half = student(0.95, 2) / math.sqrt(3)  # sd 1 over sqrt(3)
    assert effect.low == pytest.approx(2 - half) and effect.high == pytest.approx(2 + half)


def test_a_ratio_of_means_agrees_with_scipys_jackknife_of_its_logarithm() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(1.0, 0.3, 40), rng.lognormal(0.5, 0.3, 40)
    effect, _ = run("ratio", a, b)
    left = [math.log(np.delete(a, i).mean() / np.delete(b, i).mean()) for i in range(40)]
    half = student(0.95, 39) * math.sqrt(39 / 40 * np.sum((left - np.mean(left)) ** 2))
    assert effect.estimate == pytest.approx(a.mean() / b.mean())
    assert effect.low == pytest.approx(effect.estimate * math.exp(-half))
    assert effect.high == pytest.approx(effect.estimate * math.exp(half))


def test_units_of_a_group_count_once() -> None:
    """Four copies of three conversations have the interval of the three conversations, not of twelve turns."""
    three, _ = run("mean", [1.0, 2.0, 4.0])
    twelve, _ = run("mean", np.repeat([1.0, 2.0, 4.0], 4), groups=np.repeat(["a", "b", "c"], 4))
    assert (twelve.low, twelve.high) == (pytest.approx(three.low), pytest.approx(three.high))
    assert (twelve.n, twelve.groups) == (12, 3)


@pytest.mark.parametrize(
    ("values", "groups"),
    [([1.0], None), ([1.0, 2.0], ["a", "a"]), ([3.0, 3.0, 3.0], None), ([1.0, math.nan], None)],
    ids=["one unit", "one group", "all equal", "NaN"],
)
def test_without_spread_there_is_no_interval(values: list[float], groups: Any) -> None:
    effect, _ = run("mean", values, groups=groups)
    assert effect.low is None and effect.high is None
    assert (effect.estimate is None) == any(map(math.isnan, values))


def test_own_units_are_pooled_by_the_spread_of_seeds() -> None:
    """Seeds 1, 2, 6: mean 3, sd sqrt(7); half width t(2) sqrt(7 / 3) = 6.57."""
    found = pooled([run("mean", [v - 0.1, v + 0.1]) for v in (1.0, 2.0, 6.0)])
    assert found.interval() == (pytest.approx(3 - 6.5728, abs=1e-3), pytest.approx(3 + 6.5728, abs=1e-3))


def test_two_agreeing_seeds_and_one_wide_one_do_not_decide() -> None:
    low, high = pooled([run("mean", [v, v + 0.01]) for v in (1.0, 1.02, 3.0)]).interval()
    assert low < 0 < high


def test_shared_units_add_the_jackknife_of_the_pooled_estimate() -> None:
    """Two runs on the same four questions, by hand: seeds' means 2.5 and 3.5, so s^2 / k = 0.25; question means over
    the runs 1, 3, 2, 6, so V is their variance over 4 (14/3/4)."""
    keys = list("abcd")
    found = pooled([run("mean", [0.0, 3, 1, 6], keys=keys), run("mean", [2.0, 3, 3, 6], keys=keys)])
    assert found.estimate == 3.0 and found.n_groups == 4
    assert found.seed_variance == pytest.approx(0.25) and found.unit_variance == pytest.approx(14 / 3 / 4)
    half = math.sqrt(student(0.95, 1) ** 2 * 0.25 + student(0.95, 3) ** 2 * 14 / 12)
    assert found.interval() == (pytest.approx(3 - half), pytest.approx(3 + half))


def test_shared_units_are_matched_by_key_and_not_by_position() -> None:
    one, two = run("mean", [1.0, 5.0, 9.0], keys=list("abc")), run("mean", [9.5, 1.5, 5.5], keys=list("cab"))
    straight = run("mean", [1.5, 5.5, 9.5], keys=list("abc"))
    assert pooled([one, two]).unit_variance == pytest.approx(pooled([one, straight]).unit_variance)


def test_a_group_that_some_runs_lack_is_dropped_where_it_is() -> None:
    """Pooled estimates without a, b, c: (2, 1.5)/2, (1, 1)/2 ..., here recomputed by leaving rows out by hand."""
    one, two = {"a": 1.0, "b": 2.0, "c": 6.0}, {"a": 2.0, "b": 4.0}
    runs = [run("mean", list(values.values()), keys=list(values)) for values in (one, two)]

    def mean(drop: str) -> float:
        return float(np.mean([np.mean([v for k, v in values.items() if k != drop]) for values in (one, two)]))

    left = np.array([mean(key) for key in "abc"])
    assert pooled(runs).unit_variance == pytest.approx(2 / 3 * np.sum((left - left.mean()) ** 2))


def test_identical_seeds_have_no_spread_unless_their_units_have() -> None:
    own = pooled([run("mean", [1.0, 3.0])] * 5)
    assert own.flaw == "no spread at all" and math.isnan(own.interval()[0])
    shared = pooled([run("mean", [1.0, 3.0, 4.0], keys=list("abc"))] * 5)
    assert not shared.flaw and shared.seed_variance == 0 and math.isfinite(shared.interval()[0])


def test_one_seed_and_a_missing_number_have_a_flaw() -> None:
    assert pooled([run("mean", [1.0, 2.0])]).flaw == "one run has no spread over seeds"
    found = pooled([run("mean", [1.0, 2.0]), run("mean", [1.0, math.nan])])
    assert found.flaw == "a run has no number for it" and math.isnan(found.interval()[0])


def test_exact_effects_are_decided_as_they_are_and_must_agree() -> None:
    exact = EffectData(kind="exact", estimate=4.0, unit="pairs")
    assert pool([exact] * 3, [None] * 3).interval() == (4.0, 4.0)
    other = exact.model_copy(update={"estimate": 5.0})
    assert pool([exact, other], [None, None]).flaw == "an exact effect differs between runs"


def test_runs_that_mean_different_things_are_not_pooled() -> None:
    with pytest.raises(ReprobookError, match="runs disagree about an effect: mean in 'points' and ratio in 'points'"):
        pooled([run("mean", [1.0, 2.0]), run("ratio", [1.0, 2.0], [1.0, 1.0])])


def test_shared_units_need_their_scores() -> None:
    effect, scores = run("mean", [1.0, 2.0], keys=["a", "b"])
    with pytest.raises(ReprobookError, match="needs the scores file beside each record"):
        pool([effect, effect], [scores, None])


@pytest.mark.parametrize(
    ("a", "b", "keys", "groups", "message"),
    [
        ([[1.0]], None, None, None, r"a has shape \[1, 1\]"),
        ([], None, None, None, r"a has shape \[0\]"),
        ([1.0, 2.0], [1.0], None, None, "a has 2 units, but b 1"),
        ([1.0, 2.0], None, ["q"], None, "a has 2 units, but groups 1, keys 1"),
        ([1.0, 2.0], None, ["q", "q"], None, "unit 'q' occurs twice"),
    ],
)
def test_scores_that_are_no_scores_are_refused(a: Any, b: Any, keys: Any, groups: Any, message: str) -> None:
    with pytest.raises(ReprobookError, match=f"effect 'gain': {message}"):
        scores_of("gain", a, b, keys, groups)


@pytest.mark.parametrize("shared", [True, False], ids=["shared units", "own units"])
def test_pooled_intervals_cover_the_truth(shared: bool) -> None:
    """400 studies of 5 seeds with 60 units: seeds move the effect by sd 0.3, units by sd 1, noise by sd 1. 95 %
    intervals must hold the truth 0 in 92 to 99 % of studies (standard error of a coverage of 95 %: 1.1)."""
    rng, inside, n = np.random.default_rng(7), 0, 60
    keys = [f"q{k}" for k in range(n)]
    for _ in range(400):
        difficulty = rng.normal(size=n)
        runs = []
        for _ in range(5):
            units = difficulty if shared else rng.normal(size=n)
            values = rng.normal(0, 0.3) + units + rng.normal(size=n)
            runs.append(run("mean", values, keys=keys if shared else None))
        low, high = pooled(runs).interval()
        inside += low < 0 < high
    assert 0.92 <= inside / 400 <= 0.99
