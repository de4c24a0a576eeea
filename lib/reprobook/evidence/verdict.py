"""Verdicts: what the effects of several runs say about tests and controls that were fixed before the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprobook.evidence.effects import LEVEL, student

if TYPE_CHECKING:
    from reprobook.evidence.effects import Pooled
    from reprobook.facts import Claim, Criterion

FIRST_LOOK, EXTENDED = 0.96, 0.99  # levels of a plan with one extension: together about 5 % of errors
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Outcome:
    """One test or control: ``state`` is "holds", "fails" or "undecided"; ``needs`` says what would decide."""

    test: Criterion
    pooled: Pooled | None
    level: float
    state: str
    needs: str = ""

    @property
    def text(self) -> str:
        """``gain 0.12 [0.05, 0.19], must be above 0: holds``."""
        return f"{self.test.effect} {self.figures}, must be {self.test.bar}: {self.state}"

    @property
    def figures(self) -> str:
        """``0.12 [0.05, 0.19]``; an exact effect has no interval."""
        if self.pooled is None:
            return "not measured"
        estimate = self.pooled.shown(self.pooled.estimate)
        if self.pooled.exact:
            return _number(estimate)
        low, high = self.pooled.interval(self.level)
        spread = f" [{_number(low)}, {_number(high)}]" if math.isfinite(low) else ", no interval"
        return _number(estimate) + spread


@dataclass(frozen=True)
class Judgement:
    """The verdict on one claim with the outcome of each test and control."""

    verdict: str
    why: str
    tests: Sequence[Outcome]
    controls: Sequence[Outcome]
    n_seeds: int


def looked_at(claim: Claim, n: int) -> tuple[int, float]:
    """``(runs that count, level)`` for ``n`` runs: a plan with an extension looks after ``seeds`` and ``extension``
    runs and at no other number, because looking after every seed errs twice as often."""
    if claim.extension is None:
        return n, LEVEL
    return (n, EXTENDED) if n >= claim.extension else (min(n, claim.seeds), FIRST_LOOK)


def outcome(test: Criterion, pooled: Pooled | None, level: float, failing: float, seeds: int) -> Outcome:
    """Whether ``test`` holds at ``level`` or fails at level ``failing``. Fewer runs than the plan's ``seeds`` decide
    nothing, unless the effect is exact."""
    if pooled is None:
        return Outcome(test, None, level, "undecided", "no run has this effect")
    if pooled.flaw:
        needs = f"{seeds} seeds" if pooled.k < seeds else pooled.flaw
        return Outcome(test, pooled, level, "undecided", needs)
    low, high = _bounds(test)
    if pooled.exact:
        inside = low <= pooled.estimate <= high if test.within else low < pooled.estimate < high
        return Outcome(test, pooled, level, "holds" if inside else "fails")
    if pooled.k < seeds:
        return Outcome(test, pooled, level, "undecided", f"{seeds} seeds")
    least, most = pooled.interval(level)
    if (low <= least and most <= high) if test.within else (low < least and most < high):
        return Outcome(test, pooled, level, "holds")
    least, most = pooled.interval(failing)
    if most < low or least > high:
        return Outcome(test, pooled, level, "fails")
    return Outcome(test, pooled, level, "undecided", needed(pooled, low, high, level))


def _bounds(test: Criterion) -> tuple[float, float]:
    if test.within:
        return test.within[0], test.within[1]
    return (test.above, math.inf) if test.above is not None else (-math.inf, float(test.below or 0.0))


def needed(pooled: Pooled, low: float, high: float, level: float = LEVEL) -> str:
    """About how many seeds would decide a test with these bounds if estimate and spread stay as they are."""
    ends = [pooled.scaled(end) for end in (low, high)]
    distance = min(abs(pooled.estimate - end) for end in ends if math.isfinite(end))
    units = pooled.parts(level)[1]
    if units >= distance:
        return "more units"
    spread = pooled.seed_variance * pooled.k
    for k in range(max(5, pooled.k + 1), MOST_SEEDS + 1):
        if math.hypot(student(level, k - 1) * math.sqrt(spread / k), units) <= distance:
            return f"about {k} seeds"
    return f"more than {MOST_SEEDS:,} seeds"


def judge(claim: Claim, scale: str, effects: Mapping[str, Pooled], n: int) -> Judgement:
    """The verdict on ``claim`` from the pooled effects of ``n`` runs at ``scale``.

    *Reproduced*: all tests and controls hold. *Partly*: some tests hold, some fail. *Not reproduced*: none holds, at
    least one fails, all controls hold. *Not testable here*: a control fails. *Undecided*: everything else. A failure
    counts at level 1 - alpha / m for m tests."""
    tests, controls = claim.tests_at(scale), claim.controls_at(scale)
    _, level = looked_at(claim, n)
    failing = 1 - (1 - level) / max(1, len(tests))

    def decide(each: Criterion, failing: float) -> Outcome:
        return outcome(each, effects.get(each.effect), level, failing, each.seeds or claim.seeds)

    told = [decide(each, failing) for each in tests]
    shown = [decide(each, level) for each in controls]
    states = [each.state for each in told]
    verdict, why = _verdict(states, [each.state for each in shown])
    if verdict == "not testable here":
        why = "a control fails: " + "; ".join(each.text for each in shown if each.state == "fails")
    if verdict == "undecided":
        open_ = [each for each in (*told, *shown) if each.state == "undecided"]
        wanted = ", ".join(dict.fromkeys(f"{each.test.effect}: {each.needs}" for each in open_))
        why += f"; to decide: {wanted}" if wanted else ""
    return Judgement(verdict, why, told, shown, n)


def _verdict(tests: Sequence[str], controls: Sequence[str]) -> tuple[str, str]:
    holds, fails, m = tests.count("holds"), tests.count("fails"), len(tests)
    why = f"{holds} of {m} tests hold" + (f", {fails} fail" if fails else "")
    if "fails" in controls:
        return "not testable here", why
    if "undecided" in controls:
        open_ = controls.count("undecided")
        return "undecided", f"{why}, but {open_} of {len(controls)} controls {'is' if open_ == 1 else 'are'} undecided"
    if holds == m:
        return "reproduced", why
    if holds and fails:
        return "partly", why
    return ("not reproduced", why) if fails and not holds else ("undecided", why)


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
