"""Which records speak for a claim: scales, old and new records, effects that nobody records, and all committed
records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from reprobook import project, record
from reprobook.chapter.tables import over_seeds
from reprobook.evidence.claims import EvidenceError, check_effects, evidence
from reprobook.evidence.effects import measure, scores_of
from reprobook.facts import Claim, Facts
from reprobook.record import ClaimData, Record

if TYPE_CHECKING:
    from reprobook.record import EffectData

SLUG = "block_diffusion"
BASE: dict[str, Any] = {"says": "A", "paper": {}, "where": "T", "testable_at": ["laptop", "paper"], "how": "so"}
OLD = Claim.model_validate(BASE)
NEW = Claim.model_validate({**BASE, "tests": [{"effect": "gain", "above": 0.0}]})


def made(seed: int, scale: str = "laptop", **fields: Any) -> Record:
    return Record(slug=SLUG, scale=scale, seed=seed, run_id=f"{scale}-{seed}", status="complete", **fields)


def old(seed: int, holds: bool | None, scale: str = "laptop") -> Record:
    return made(seed, scale, claims={"C1": ClaimData(value={"x": 1.0}, holds=holds, verdict=record.verdict([holds]))})


def gain(*values: float) -> EffectData:
    scores = scores_of("gain", values, None, None, None)
    return measure("mean", scores, unit="points", over="question", shared=False)


def new(scale: str = "laptop", *, shift: float = 0.0, k: int = 5) -> list[Record]:
    return [made(seed, scale, effects={"gain": gain(0.9 + 0.1 * seed + shift, 1.1 + shift)}) for seed in range(k)]


def test_the_evidence_of_a_claim_is_the_largest_scale_that_can_tell() -> None:
    laptop, paper = [old(0, True)], [old(0, False, "paper")]
    assert evidence("C1", OLD, {}).verdict == "never run"
    assert evidence("C1", OLD, {"laptop": laptop}).verdict == "reproduced"
    assert evidence("C1", OLD, {"laptop": laptop, "paper": paper}).verdict == "not reproduced"
    only_laptop, only_paper = (OLD.model_copy(update={"testable_at": [scale]}) for scale in ("laptop", "paper"))
    assert evidence("C1", only_laptop, {"laptop": laptop, "paper": paper}).scale == "laptop"
    assert evidence("C1", only_paper, {"laptop": laptop}).verdict == "not testable here"
    assert evidence("C2", OLD, {"laptop": laptop}).verdict == "never run"
    assert evidence("C1", OLD, {"smoke": [old(0, True, "smoke")]}).verdict == "never run"


def test_effects_of_new_records_decide_and_say_by_how_much() -> None:
    found = evidence("C1", NEW, {"laptop": new()})
    assert found.verdict == "reproduced" and found.told == "5 seeds: 1 of 1 tests hold"
    assert list(found.figures) == ["gain"] and found.figures["gain"].startswith("1.1 [1, 1.2]: holds")
    assert evidence("C1", NEW, {"laptop": new(shift=-3.0)}).verdict == "not reproduced"
    assert evidence("C1", NEW, {"laptop": new(), "paper": new("paper", shift=-3.0)}).scale == "paper"
    assert evidence("C1", NEW, {"laptop": new(k=4)}).verdict == "undecided"


def test_the_headline_is_what_keeps_a_claim_from_being_reproduced() -> None:
    tests = [{"effect": "gain", "above": 0.0}, {"effect": "cost", "above": 0.0}]
    controls = [{"effect": "learned", "above": 0.0, "why": "so"}]
    claim = Claim.model_validate({**BASE, "tests": tests, "controls": controls})

    def headline(cost: float, learned: float) -> str:
        effects = {"gain": 0.0, "cost": cost, "learned": learned}
        runs = [
            made(seed, effects={name: gain(0.9 + 0.1 * seed + by, 1.1 + by) for name, by in effects.items()})
            for seed in range(5)
        ]
        return evidence("C1", claim, {"laptop": runs}).headline

    assert headline(0.0, 0.0).startswith("gain 1.1 [1, 1.2]: holds")
    assert headline(-1.05, 0.0).startswith("cost 0.05 [")
    assert headline(-1.05, -3.0).startswith("control learned −1.9 [")  # a failure before what is open
    assert headline(0.0, -1.05).startswith("control learned 0.05 [")
    assert evidence("C1", OLD, {"laptop": [old(0, True)]}).headline.startswith("x 1")


def test_old_and_new_records_are_never_mixed() -> None:
    """A claim that has tests is decided by records with effects; while there are none, old runs speak, marked as
    such."""
    mixed = [*new(), old(5, False), old(6, False)]
    found = evidence("C1", NEW, {"laptop": mixed})
    assert (found.verdict, len(found.records)) == ("reproduced", 5)
    found = evidence("C1", NEW, {"laptop": [old(0, True)]})
    assert found.verdict == "reproduced" and found.told == "holds in 1 of 1 runs (old rules)"


def test_a_run_that_lacks_the_effect_leaves_the_claim_open() -> None:
    """Such as a paper-scale run whose own part did not get so far: what ran beside it decides nothing."""
    toy = [made(seed, "paper", effects={"toy gain": gain(1.0, 2.0)}) for seed in range(5)]
    found = evidence("C1", NEW, {"laptop": new(), "paper": toy})
    assert (found.scale, found.verdict) == ("paper", "undecided") and "no run has this effect" in found.told


def test_a_challenged_verdict_is_shown_as_that_whatever_the_records_say() -> None:
    for claim in (OLD, NEW):
        fallen = claim.model_copy(update={"challenged": "a blind reader does as well"})
        for records in ([old(0, True)], new(), []):
            found = evidence("C1", fallen, {"laptop": records})
            assert (found.verdict, found.told) == ("challenged", "a blind reader does as well")


def test_records_that_contradict_each_other_name_chapter_and_effect() -> None:
    other = made(5, effects={"gain": gain(1.0, 2.0).model_copy(update={"unit": "nats"})})
    with pytest.raises(EvidenceError, match="block_diffusion, effect 'gain': runs disagree"):
        evidence("C1", NEW, {"laptop": [*new(), other]})


def test_an_effect_that_no_cell_records_is_named_with_its_claim() -> None:
    content = {
        "title": "T", "arxiv": {"id": "2503.01234", "version": 1}, "authors": ["A"], "year": 2025, "licences": {},
        "citation": "a2025", "one_line": "A.", "claims": {"C1": NEW.model_dump()},
        "coverage": [{"part": "p", "scales": ["smoke"]}],
    }  # fmt: skip
    facts = Facts.model_validate(content)
    check_effects(facts, "laptop", ["gain", "else"])
    with pytest.raises(EvidenceError, match="C1: the facts name the effect 'gain'.*did you mean 'gains'"):
        check_effects(facts, "smoke", ["gains"])
    content["claims"]["C1"]["controls"] = [{"effect": "learned", "above": 0.0, "scale": "laptop"}]
    facts = Facts.model_validate(content)
    check_effects(facts, "paper", ["gain"])
    with pytest.raises(EvidenceError, match="C1: the facts name the effect 'learned'"):
        check_effects(facts, "laptop", ["gain"])


def test_a_claim_needs_its_effects_where_it_can_be_tested() -> None:
    content = {
        "title": "T", "arxiv": {"id": "2503.01234", "version": 1}, "authors": ["A"], "year": 2025, "licences": {},
        "citation": "a2025", "one_line": "A.", "claims": {"C1": NEW.model_dump() | {"testable_at": ["laptop"]}},
        "coverage": [{"part": "p", "scales": ["smoke"]}],
    }  # fmt: skip
    check_effects(Facts.model_validate(content), "paper", ["other"])
    for scale in ("smoke", "laptop"):
        with pytest.raises(EvidenceError, match="C1: the facts name the effect 'gain'"):
            check_effects(Facts.model_validate(content), scale, ["other"])


def test_a_run_may_lack_what_fewer_runs_are_planned_for() -> None:
    costly = NEW.model_dump() | {"seeds": 8, "controls": [{"effect": "costly", "above": 0.0, "seeds": 5}]}
    content = {
        "title": "T", "arxiv": {"id": "2503.01234", "version": 1}, "authors": ["A"], "year": 2025, "licences": {},
        "citation": "a2025", "one_line": "A.", "claims": {"C1": costly},
        "coverage": [{"part": "p", "scales": ["smoke"]}],
    }  # fmt: skip
    facts = Facts.model_validate(content)
    check_effects(facts, "laptop", ["gain"])
    for lacks in ({"scale": "smoke"}, {"scale": "laptop", "all_runs": True}):
        with pytest.raises(EvidenceError, match="C1: the facts name the effect 'costly'"):
            check_effects(facts, measured=["gain"], **lacks)  # type: ignore[arg-type]
    with pytest.raises(EvidenceError, match="C1: the facts name the effect 'gain'"):
        check_effects(facts, "laptop", ["costly"])
    content["claims"]["C2"] = NEW.model_dump() | {"seeds": 8, "tests": [{"effect": "costly", "above": 0.0}]}
    with pytest.raises(EvidenceError, match="C1 and C2: the facts name the effect 'costly'"):
        check_effects(Facts.model_validate(content), "laptop", ["gain"])


# ------------------------------------------------------------------------------------------------ committed records


@pytest.mark.parametrize("slug", project.chapters())
def test_tables_of_committed_records_merge_by_name(slug: str) -> None:
    """No table over seeds has two rows of one name, more rows than names, glued texts, or a spread of one number."""
    records = record.results(slug, "laptop")
    for name in dict.fromkeys(name for r in records for name in r.tables):
        found = {r.seed: r.tables[name] for r in records if name in r.tables}
        frame, how = over_seeds(found)
        one = " alone: " in how or f" of {len(found)}; " in how
        assert how.startswith(f"{len(found)} seed") or one, (name, how)
        texts = [cell for cell in frame.to_numpy().ravel() if isinstance(cell, str)]
        assert not any(" / " in cell and cell not in str(found) for cell in texts), name
        spread = [cell for cell in texts if " ± " in cell]
        assert ("mean ± sd" in how) == bool(spread), (name, how)
        if not one and len(found) > 1:
            longest = max(len(each.rows) for each in found.values())
            assert len(frame) <= len({tuple(map(str, row)) for each in found.values() for row in each.rows})
            assert len(frame) >= longest, name
