"""Typed numbers: those of facts, parameters and records may stand in prose, others contradict them."""

from __future__ import annotations

from typing import Any

import nbformat
import yaml
from nbformat.v4 import new_markdown_cell
from reprobook import record
from reprobook.authoring.prose import typed_numbers
from reprobook.record import EffectData, Record

SLUG = "block_diffusion"
FACTS = {
    "title": "T", "arxiv": {"id": "2503.01234", "version": 1}, "authors": ["A"], "year": 2025, "licences": {},
    "citation": "a2025", "one_line": "A.", "coverage": [{"part": "p", "scales": ["smoke"]}],
    "claims": {"C1": {"says": "A", "paper": {"ours": 28.23}, "where": "T", "testable_at": ["laptop"], "how": "so"}},
}  # fmt: skip


def test_a_typed_number_that_contradicts_the_record_is_found(checkout: Any) -> None:
    path = checkout.notebook()
    nb = nbformat.read(path, as_version=4)
    right = "The paper has 28.2; we have 0.35, or 35.1 %, at a step of 0.001."
    prose = f"{right} Not 0.36. Version `1.23`, $x^{{2.5}}$, 0.5 B models."
    nb.cells.append(new_markdown_cell(prose))
    nbformat.write(nb, path)
    checkout.write(f"book/papers/{SLUG}.yaml", yaml.safe_dump(FACTS))
    effects = {"gain": EffectData(kind="mean", estimate=0.351, unit="points")}
    made = Record(slug=SLUG, scale="laptop", seed=0, run_id="r", status="complete", effects=effects)
    record.write(made, checkout.root / f"book/results/laptop/{SLUG}.seed0.json")
    assert typed_numbers(SLUG) == ["the prose types 0.36, which is in no fact, parameter or record: use ch.say"]
