"""The paper's figures on the drawings of tests: those of effects that a claim tests, made from its figures alone."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from reprobook import facts, project
from reprobook.authoring.scoreboard import forest, reported
from reprobook.evidence.effects import Pooled
from reprobook.evidence.verdict import Outcome
from reprobook.facts import Claim, Criterion
from reprobook.yaml_files import load_yaml

NAMED = load_yaml((project.root() / "book/reported.yaml").read_text("utf-8"), "reported.yaml")


@pytest.mark.parametrize(("slug", "cid"), [(slug, cid) for slug, claims in NAMED.items() for cid in claims])
def test_a_reported_figure_belongs_to_a_test_of_its_claim(slug: str, cid: str) -> None:
    claim = facts.load(slug).claim(cid)
    found = reported(slug, cid, claim)
    assert set(found) <= {test.effect for test in claim.tests} and len(found) == len(NAMED[slug][cid])
    assert all(math.isfinite(value) for value, _ in found.values())


def test_it_is_a_figure_a_difference_a_ratio_or_a_share_and_is_drawn(checkout: Any) -> None:
    checkout.write(
        "book/reported.yaml",
        """
stasc:
  C1: {a: {figures: [late]}, b minus c: {figures: [late, early], per: 100}, b over c: {figures: [late, early]}}
""",
    )
    claim = Claim(says="s", paper={"late": 3.0, "early": 2.0}, where="w", testable_at=["laptop"], how="h")
    found = reported("stasc", "C1", claim)
    assert found == {"a": (3.0, "late"), "b minus c": (0.01, "late minus early"), "b over c": (1.5, "late over early")}
    assert reported("stasc", "C2", claim) == {}
    pooled = Pooled("exact", 0.2, k=5)
    outcome = Outcome(test=Criterion(effect="a", above=0.0), pooled=pooled, level=0.95, state="holds")
    drawing = forest("C1", [outcome], [], found)
    assert "<title>the paper: 3, late</title>" in drawing and "rb-paper" not in forest("C1", [outcome], [], {})
    places = [float(x) for x in re.findall(r'(?:d="M|<rect x=")([\d.]+)', drawing)]
    assert places[0] < places[1], "0.2 stands left of 3"
