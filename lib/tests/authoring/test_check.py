"""What `reprobook check` says of facts, cells and records that do not fit each other."""

from __future__ import annotations

from typing import Any

import pytest
from reprobook.authoring.check import problems
from reprobook.record import EffectData, Record, write

SLUG = "block_diffusion"
FACTS = """
title: A paper
arxiv: {id: "2503.09573", version: 1}
authors: [A. Author]
year: 2025
licences: {text: unknown}
citation: arriola2025
one_line: One line.
claims:
  C1:
    says: It is better.
    paper: {gain: 0.5}
    where: Table 1
    testable_at: [laptop]
    how: Paired difference.
    tests: [{effect: gain, above: 0}]
    controls: [{effect: floor, above: 0.1, why: nothing was learned}]
coverage: [{part: all, scales: [laptop]}]
"""


def _about(checkout: Any, word: str) -> list[str]:
    return [problem for problem in problems(SLUG) if word in problem]


def test_an_effect_that_no_cell_records_is_named(checkout: Any) -> None:
    checkout.write(f"book/papers/{SLUG}.yaml", FACTS)
    checkout.notebook("ch.compare('gain', a, b, unit='accuracy', over='question')")
    where = f"book/papers/{SLUG}.yaml"
    assert _about(checkout, "effect") == [f"{where}: no cell records the effect 'floor' of C1"]
    checkout.notebook("ch.compare('gain', a, b, unit='x', over='y')", "ch.effect('floor', a, unit='x', over='y')")
    assert _about(checkout, "effect") == []


@pytest.mark.parametrize(("recorded", "found"), [(["gain", "floor"], 0), (["gain", "flour"], 1), ([], 0)])
def test_an_effect_that_the_runs_lack_is_named(checkout: Any, recorded: list[str], found: int) -> None:
    """The name is computed in the cell, so only the records can tell; records of the old kind tell nothing."""
    checkout.write(f"book/papers/{SLUG}.yaml", FACTS)
    checkout.notebook("for name, value in found.items():\n    ch.exact(name, value, unit='x')")
    effects = {name: EffectData(kind="exact", estimate=1.0, unit="x") for name in recorded}
    made = Record(slug=SLUG, scale="laptop", seed=1, run_id="r", status="complete", effects=effects)
    write(made, checkout.root / "book" / "results" / "laptop" / f"{SLUG}.seed1.json")
    said = _about(checkout, "the effect 'floor', which this run does not record; did you mean 'flour'?")
    assert len(said) == found


def test_a_record_of_the_old_kind_has_the_claims_of_the_facts(checkout: Any) -> None:
    checkout.write(f"book/papers/{SLUG}.yaml", FACTS)
    checkout.write(f"notebooks/expected/{SLUG}.json", "{}")
    checkout.notebook("ch.metric('a', 1)")
    for effects, n in (({}, 1), ({"gain": EffectData(kind="exact", estimate=1.0, unit="x")}, 0)):
        made = Record(slug=SLUG, scale="laptop", seed=1, run_id="r", status="complete", effects=effects)
        write(made, checkout.root / "book" / "results" / "laptop" / f"{SLUG}.seed1.json")
        assert len(_about(checkout, "has other claims than the facts: C1")) == n


def test_records_of_a_scale_are_one_set(checkout: Any) -> None:
    checkout.write(f"book/papers/{SLUG}.yaml", FACTS)
    checkout.notebook("ch.exact('gain', 1.0, unit='x')", "ch.exact('floor', 1.0, unit='x')")
    effects = {name: EffectData(kind="exact", estimate=1.0, unit="x") for name in ("gain", "floor")}

    def commit(seed: int, commit: str, **fields: Any) -> None:
        made = Record(slug=SLUG, scale="laptop", seed=seed, run_id="r", status="complete", commit=commit, **fields)
        write(made, checkout.root / "book" / "results" / "laptop" / f"{SLUG}.seed{seed}.json")

    commit(0, "a", effects=effects), commit(1, "a", effects=effects)
    assert _about(checkout, "book/results/laptop:") == []
    commit(2, "b", effects=effects), commit(3, "b")
    assert _about(checkout, "book/results/laptop:") == [
        f"book/results/laptop: seeds 3 of {SLUG} are of the old kind: delete them or run them again",
        f"book/results/laptop: the records of {SLUG} come from 2 commits that differ: one set, one code",
    ]


@pytest.mark.parametrize(
    ("extended", "n"),
    [
        ({}, 0),
        ({"digest": "other", "params": {"seed": 2, "lr": 0.1}}, 0),
        ({"params": {"seed": 2, "lr": 0.2}}, 1),
        ({"cells": "other"}, 1),
        ({"definitions": {"m:f": "b"}}, 1),
    ],
)
def test_seeds_that_extend_a_set_are_made_by_the_same_code(checkout: Any, extended: dict[str, Any], n: int) -> None:
    checkout.write(f"book/papers/{SLUG}.yaml", FACTS)
    checkout.notebook("ch.exact('gain', 1.0, unit='x')", "ch.exact('floor', 1.0, unit='x')")
    effects = {name: EffectData(kind="exact", estimate=1.0, unit="x") for name in ("gain", "floor")}
    content = {"digest": "d", "cells": "c", "definitions": {"m:f": "a"}, "params": {"seed": 0, "lr": 0.1}}
    for seed, commit, own in ((0, "a", {}), (1, "b", extended)):
        made = Record(
            slug=SLUG,
            scale="laptop",
            seed=seed,
            run_id="r",
            status="complete",
            commit=commit,
            effects=effects,
            content=content | own,
        )
        write(made, checkout.root / "book" / "results" / "laptop" / f"{SLUG}.seed{seed}.json")
    assert len(_about(checkout, "commits that differ")) == n


def test_a_notebook_that_cannot_be_read_is_a_problem(checkout: Any) -> None:
    checkout.write(f"book/papers/{SLUG}.yaml", FACTS)
    checkout.write(f"notebooks/{SLUG}.ipynb", "{")
    assert _about(checkout, "not a valid notebook")
