"""Verdicts: what intervals say about tests and controls that were fixed before."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError
from reprobook.evidence.effects import Pooled, student
from reprobook.evidence.verdict import judge, looked_at, needed, outcome
from reprobook.facts import Claim, Criterion

BASE: dict[str, Any] = {"says": "A", "paper": {}, "where": "T", "testable_at": ["laptop"], "how": "so"}


def claim(*tests: dict[str, Any], controls: list[dict[str, Any]] = [], **fields: Any) -> Claim:  # noqa: B006
    return Claim.model_validate({**BASE, "tests": list(tests), "controls": controls, **fields})


def at(estimate: float, half: float, k: int = 5, kind: str = "mean", **fields: Any) -> Pooled:
    """A pooled effect whose 95 % interval is ``estimate`` ± ``half``, all of it from the seeds."""
    return Pooled(kind, estimate, k, (half / student(0.95, k - 1)) ** 2, **fields)


ABOVE = {"effect": "gain", "above": 0.0}


@pytest.mark.parametrize(
    ("test", "estimate", "half", "state"),
    [
        (ABOVE, 1.0, 0.5, "holds"),
        (ABOVE, 1.0, 1.5, "undecided"),
        (ABOVE, -1.0, 0.5, "fails"),
        ({"effect": "gain", "below": 0.0}, -1.0, 0.5, "holds"),
        ({"effect": "gain", "below": 0.0}, 1.0, 0.5, "fails"),
        ({"effect": "gain", "within": [-0.1, 0.1]}, 0.02, 0.05, "holds"),
        ({"effect": "gain", "within": [-0.1, 0.1]}, 0.02, 0.2, "undecided"),
        ({"effect": "gain", "within": [-0.1, 0.1]}, 0.5, 0.2, "fails"),
    ],
)
def test_a_test_holds_fails_or_stays_open(test: dict[str, Any], estimate: float, half: float, state: str) -> None:
    assert outcome(Criterion.model_validate(test), at(estimate, half), 0.95, 0.95, 5).state == state


def test_no_difference_is_not_equality() -> None:
    """A wide interval around 0 never shows that something stays flat."""
    found = judge(claim({"effect": "loss", "within": [-0.05, 0.05]}), "laptop", {"loss": at(0.0, 0.3)}, 5)
    assert found.verdict == "undecided"


GOOD, BAD, OPEN = at(1.0, 0.5), at(-1.0, 0.5), at(1.0, 3.0)
CONTROL = {"effect": "learned", "above": 0.1, "why": "a model that learned nothing decides nothing"}


@pytest.mark.parametrize(
    ("effects", "verdict"),
    [
        ({"a": GOOD, "b": GOOD, "learned": GOOD}, "reproduced"),
        ({"a": GOOD, "b": BAD, "learned": GOOD}, "partly"),
        ({"a": BAD, "b": BAD, "learned": GOOD}, "not reproduced"),
        ({"a": BAD, "b": OPEN, "learned": GOOD}, "not reproduced"),
        ({"a": GOOD, "b": OPEN, "learned": GOOD}, "undecided"),
        ({"a": OPEN, "b": OPEN, "learned": GOOD}, "undecided"),
        ({"a": GOOD, "b": GOOD, "learned": BAD}, "not testable here"),
        ({"a": BAD, "b": BAD, "learned": BAD}, "not testable here"),
        ({"a": GOOD, "b": GOOD, "learned": OPEN}, "undecided"),
        ({"a": GOOD, "learned": GOOD}, "undecided"),
    ],
)
def test_verdicts(effects: dict[str, Pooled], verdict: str) -> None:
    two = claim({"effect": "a", "above": 0.0}, {"effect": "b", "above": 0.0}, controls=[CONTROL])
    assert judge(two, "laptop", effects, 5).verdict == verdict


def test_failures_of_several_tests_count_at_a_stricter_level() -> None:
    """An interval that ends just below 0 at 95 % is no failure among five tests (99 %), but one alone."""
    just = at(-1.0, 0.98)
    one = judge(claim({"effect": "a", "above": 0.0}), "laptop", {"a": just}, 5)
    five = judge(claim(*({"effect": e, "above": 0.0} for e in "abcde")), "laptop", dict.fromkeys("abcde", just), 5)
    assert (one.verdict, five.verdict) == ("not reproduced", "undecided")


def test_an_undecided_verdict_says_how_many_seeds_would_decide() -> None:
    """Estimate 1, sd 2: t(k - 1) 2 / sqrt(k) <= 1 first at k = 18."""
    wide = Pooled("mean", 1.0, 5, 4.0 / 5)
    first = next(k for k in range(6, 100) if student(0.95, k - 1) * 2 / math.sqrt(k) <= 1)
    assert needed(wide, 0.0, math.inf) == f"about {first} seeds" and first == 18
    assert "gain: about 18 seeds" in judge(claim(ABOVE), "laptop", {"gain": wide}, 5).why
    assert needed(Pooled("mean", 1e-6, 5, 4.0 / 5), 0.0, math.inf) == "more than 1,000 seeds"


def test_more_units_where_the_questions_are_the_limit() -> None:
    few = Pooled("mean", 1.0, 5, 0.01, unit_variance=1.0, n_groups=4)
    assert needed(few, 0.0, math.inf) == "more units"


def test_fewer_runs_than_planned_decide_nothing() -> None:
    found = judge(claim(ABOVE), "laptop", {"gain": at(1.0, 0.1, k=3)}, 3)
    assert found.verdict == "undecided" and "gain: 5 seeds" in found.why
    assert judge(claim(ABOVE, seeds=8), "laptop", {"gain": at(1.0, 0.1, k=7)}, 7).verdict == "undecided"


def test_a_costly_part_may_have_fewer_runs_than_its_claim() -> None:
    plan = claim(ABOVE, {"effect": "large gain", "above": 0.0, "seeds": 5}, seeds=20)
    effects = {"gain": at(1.0, 0.1, k=20), "large gain": at(1.0, 0.1, k=5)}
    assert judge(plan, "laptop", effects, 20).verdict == "reproduced"
    effects["large gain"] = at(1.0, 0.1, k=4)
    assert judge(plan, "laptop", effects, 20).verdict == "undecided"


def test_an_exact_effect_needs_no_seeds() -> None:
    exact = {"gain": Pooled("exact", 2.0, 1)}
    assert judge(claim(ABOVE), "laptop", exact, 1).verdict == "reproduced"
    assert judge(claim({"effect": "gain", "within": [1.0, 2.0]}), "laptop", exact, 1).verdict == "reproduced"
    assert judge(claim({"effect": "gain", "above": 2.0}), "laptop", exact, 1).verdict == "not reproduced"


def test_a_plan_with_an_extension_looks_twice_and_at_stricter_levels() -> None:
    plan = claim(ABOVE, seeds=5, extension=10)
    assert [looked_at(plan, n) for n in (5, 7, 10, 12)] == [(5, 0.96), (5, 0.96), (10, 0.99), (12, 0.99)]
    assert looked_at(claim(ABOVE), 7) == (7, 0.95)
    just = at(1.0, 0.99)  # clear of 0 at 95 %, not at 96 %
    assert judge(claim(ABOVE), "laptop", {"gain": just}, 5).verdict == "reproduced"
    assert judge(plan, "laptop", {"gain": just}, 5).verdict == "undecided"


def test_ratios_are_judged_in_their_own_unit() -> None:
    twice = at(math.log(2.0), 0.1, kind="ratio")
    assert judge(claim({"effect": "gain", "above": 1.5}), "laptop", {"gain": twice}, 5).verdict == "reproduced"
    assert judge(claim({"effect": "gain", "above": 2.5}), "laptop", {"gain": twice}, 5).verdict == "not reproduced"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": [{"effect": "a"}]}, "exactly one of above, below and within"),
        ({"tests": [{"effect": "a", "above": 0.0, "below": 1.0}]}, "exactly one of above, below and within"),
        ({"tests": [{"effect": "a", "within": [1.0, 0.0]}]}, "is no interval"),
        ({"controls": [CONTROL]}, "controls without tests decide nothing"),
        ({"tests": [ABOVE], "controls": [CONTROL, CONTROL]}, "given twice"),
        ({"tests": [ABOVE], "seeds": 3}, "greater than or equal to 5"),
        ({"tests": [ABOVE], "seeds": 8, "extension": 8}, "must be more than the 8 seeds"),
    ],
)
def test_a_plan_that_decides_nothing_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Claim.model_validate({**BASE, **change})
