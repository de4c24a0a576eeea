"""Metrics under other threads and instructions: real runs, and what is said of one that moves too far."""

from __future__ import annotations

import json
from typing import Any

import pytest
from reprobook.authoring.check import is_loose, unexplained
from reprobook.authoring.portability import ALL, Setting, check, in_turn, most_used
from reprobook.errors import ReprobookError

SLUG = "block_diffusion"
CELLS = (
    """
    import os
    import torch
    from pathlib import Path
    from reprobook.record import Record, write
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete",
                 metrics={"threads": threads, "plain": float(capability == "DEFAULT")}), Path(out_dir) / "record.json")
    """,
)


def test_settings_reach_torch_and_what_moves_too_far_is_named(checkout: Any) -> None:
    checkout.notebook(*CELLS)
    expected = {"threads": {"value": 1.0, "atol": 0.5}, "plain": {"value": 1.0, "rtol": 0.05}}
    checkout.write(f"notebooks/expected/{SLUG}.json", json.dumps(expected))
    said: list[str] = []
    found = check(SLUG, [Setting(1, "default"), Setting(2, "avx2")], said.append)
    assert found == [
        f"{SLUG}, avx2-2: plain: 0.0 is outside the tolerance: expected 1.0 within 0.05",
        f"{SLUG}, avx2-2: threads: 2.0 is outside the tolerance: expected 1.0 within 0.5",
    ]
    assert said[0] == f"{SLUG}  default 1 threads  at most 0 of a tolerance (threads)"
    assert said[1] == f"{SLUG}  avx2    2 threads  at most 20 of a tolerance (plain)"


def test_a_run_that_fails_is_a_problem(checkout: Any) -> None:
    checkout.notebook("raise ValueError('no')")
    with pytest.raises(ReprobookError, match="has no metrics: run `reprobook refresh"):
        check(SLUG)
    checkout.write(f"notebooks/expected/{SLUG}.json", '{"a": {"value": 1.0, "atol": 0.5}}')
    said: list[str] = []
    found = check(SLUG, [Setting(1, "native")], said.append)
    assert found == [f"{SLUG}, native-1: ValueError: no in cell 3 of 3 (A chapter)"] and said[0].endswith("failed")


def test_the_settings_are_those_of_the_book() -> None:
    names = ["default-1", "default-2", "avx2-1", "avx2-2", "native-1", "native-2"]
    assert [setting.name for setting in ALL] == names
    assert "ATEN_CPU_CAPABILITY" not in ALL[-1].environment()


def test_one_chapter_in_turn(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_turn(["a", "b", "c"]) == "a", "a folder without git"
    monkeypatch.setattr("reprobook.record.circumstances.commit_count", lambda: 8)
    assert in_turn(["a", "b", "c"]) == "c"


def test_most_used() -> None:
    expected = {"a": {"value": 2.0, "rtol": 0.1}, "b": {"value": 0.0, "atol": 0.5}, "c": {"value": None, "atol": 1.0}}
    assert most_used({"a": 2.05, "b": -0.4, "c": None}, expected) == "at most 0.8 of a tolerance (b)"
    assert most_used({}, expected) == "nothing to compare"


@pytest.mark.parametrize(
    ("entry", "loose"),
    [
        ({"value": 3.0, "rtol": 0.05}, False),
        ({"value": 3.0, "rtol": 0.06}, True),
        ({"value": 3.0, "atol": 0.15}, False),
        ({"value": -3.0, "atol": 0.2}, True),
        ({"value": 1e-8, "atol": 1e-4}, False),
        ({"value": 0.0, "atol": 1e-3}, True),
        ({"value": None, "atol": 1e-4}, False),
    ],
)
def test_a_loose_tolerance(entry: dict[str, Any], loose: bool) -> None:
    assert is_loose(entry) is loose
    assert len(unexplained(SLUG, {"m": entry})) == loose
    assert unexplained(SLUG, {"m": {**entry, "why": "few samples"}}) == []
