"""Which records speak for a claim, what they say, and whether they are current."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reprobook import record
from reprobook.content.key import staleness
from reprobook.errors import ReprobookError
from reprobook.evidence.effects import pool
from reprobook.evidence.verdict import judge, looked_at

if TYPE_CHECKING:
    from reprobook.evidence.effects import Pooled, Scores
    from reprobook.evidence.verdict import Judgement
    from reprobook.facts import Claim, Facts
    from reprobook.record import Record

CHALLENGED = "challenged"


class EvidenceError(ReprobookError):
    """Facts and records that do not fit: an effect that no run records, or records that contradict each other."""


@dataclass(frozen=True)
class Evidence:
    """What the best records say about one claim. ``scale`` is None while there are none; ``judgement`` is None where
    the runs decided for themselves (old schema), then ``summary`` holds their figures; ``challenge`` says why the
    verdict fell."""

    scale: str | None
    records: Sequence[Record]
    summary: Mapping[str, Any]
    judgement: Judgement | None = None
    challenge: str = ""

    @property
    def verdict(self) -> str:
        """The verdict; a claim that no run was made for is "never run", not "not testable here"."""
        if self.challenge:
            return CHALLENGED
        if self.judgement:
            return self.judgement.verdict
        return self.summary["verdict"] if self.scale else "never run"

    @property
    def told(self) -> str:
        """Why: the challenge, how many tests hold and what is missing, or how many runs of the old kind agree."""
        if self.challenge:
            return self.challenge
        if self.judgement:
            n = self.judgement.n_seeds
            return f"{n} seed{'' if n == 1 else 's'}: {self.judgement.why}"
        holds, n = self.summary["holds"], self.summary["n"]
        silent = len(self.records) - n
        return f"holds in {holds} of {n} runs (old rules)" + (f", {silent} could not tell" if silent else "")

    @property
    def headline(self) -> str:
        """The figure that a first screen has room for: what made the claim fail, else what keeps it open, tests before
        controls; the first figure of a claim that is reproduced or of the old kind."""
        figures = self.figures
        if told := self.judgement:
            labelled = [(each.test.effect, each.state) for each in told.tests]
            labelled += [(f"control {each.test.effect}", each.state) for each in told.controls]
            for state in ("fails", "undecided"):
                for label, found in labelled:
                    if found == state:
                        return f"{label} {figures[label]}"
        return next((f"{label} {text}" for label, text in figures.items()), "")

    @property
    def figures(self) -> dict[str, str]:
        """Label -> figure with its spread: of the tests, and of controls that do not hold; or the values that runs of
        the old kind gave."""
        from reprobook.show import mean_sd

        if not self.judgement:
            n = len(self.records)
            return {key: mean_sd(spread, n) for key, spread in self.summary["value"].items()}
        tests = {each.test.effect: f"{each.figures}: {each.state}" for each in self.judgement.tests}
        controls = self.judgement.controls
        held = [each for each in controls if each.state == "holds"]
        count = {"controls": f"{len(held)} of {len(controls)} hold"} if controls else {}
        rest = {f"control {c.test.effect}": f"{c.figures}: {c.state}" for c in controls if c not in held}
        return tests | count | rest


def pooled(
    records: Sequence[Record], names: Iterable[str], scores: Mapping[int, Mapping[str, Scores]]
) -> dict[str, Pooled]:
    """Effect -> its pooled value over the records that hold it. ``scores``: seed -> effect -> scores per unit."""
    found = {}
    for name in names:
        holders = [r for r in records if name in r.effects]
        if holders:
            units = [scores.get(r.seed, {}).get(name) for r in holders]
            try:
                found[name] = pool([r.effects[name] for r in holders], units)
            except ReprobookError as error:
                raise EvidenceError(f"{records[0].slug}, effect {name!r}: {error}") from error
    return found


def evidence(
    claim_id: str,
    claim: Claim,
    records: Mapping[str, Sequence[Record]],
    own: Mapping[str, Scores] | None = None,
) -> Evidence:
    """The evidence of the largest scale that tells about a claim. ``records``: scale -> records; smoke is no evidence.

    ``own``: scores per unit (effect -> arrays) of the run that is being made, the one record without a run id."""
    nothing = record.summarise_claim([], claim_id)
    for scale in ("paper", "laptop"):
        if scale not in claim.testable_at:
            continue
        every = records.get(scale, ())
        if claim.tests_at(scale) and (new := [r for r in every if r.effects]):
            n, _ = looked_at(claim, len(new))
            used = new[:n]
            wanted = [each.effect for each in (*claim.tests_at(scale), *claim.controls_at(scale))]
            effects = pooled(used, wanted, {r.seed: scores(r, wanted) if r.run_id else own or {} for r in used})
            return Evidence(scale, used, nothing, judge(claim, scale, effects, len(used)), claim.challenged)
        if old := [r for r in every if claim_id in r.claims]:
            return Evidence(scale, old, record.summarise_claim(old, claim_id), challenge=claim.challenged)
    reached = records.get("laptop") and "laptop" not in claim.testable_at  # run as far as a laptop goes
    return Evidence("paper" if reached else None, [], nothing, challenge=claim.challenged)


def scores(of: Record, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Effect -> scores per unit, of the effects ``names``, from the file beside a committed record."""
    return record.read_scores(record.result_path(of.slug, of.scale, of.seed), names)


def check_effects(facts: Facts, scale: str, measured: Iterable[str], all_runs: bool = False) -> None:
    """Raise :class:`EvidenceError` if a test or control of the facts names an effect that runs at ``scale`` did not
    record: its claim could never be decided. ``all_runs``: they are all runs there are; a single one, other than at
    smoke scale, may lack what the plan asks of fewer runs than of others."""
    known = list(measured)
    partial = () if all_runs or scale == "smoke" else _partial(facts)
    at = "laptop" if scale == "smoke" else scale
    for name, needing in facts.effects_at(scale).items():
        claims = [cid for cid in needing if at in facts.claims[cid].testable_at]
        if claims and name not in known and name not in partial:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it records: {', '.join(known) or 'none'}"
            who = " and ".join(dict.fromkeys(claims))
            raise EvidenceError(f"{who}: the facts name the effect {name!r}, which this run does not record; {hint}")


def _partial(facts: Facts) -> set[str]:
    """Effects that the plan asks of fewer runs than the paper's claims have at most."""
    planned: dict[str, int] = {}
    for claim in facts.claims.values():
        for each in (*claim.tests, *claim.controls):
            planned[each.effect] = max(planned.get(each.effect, 0), each.seeds or claim.seeds)
    return {name for name, n in planned.items() if n < max(planned.values())}


def state(records: Iterable[Record]) -> str:
    """``current``, or ``stale`` with what changed since these records were made; ``never run`` without records."""
    records = list(records)
    if not records:
        return "never run"
    reasons = staleness(*records)
    return f"stale: {'; '.join(reasons)}" if reasons else "current"
