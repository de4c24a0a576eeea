"""The timer: turns, medians and quartiles by hand, results that must agree; every chapter has a headline."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
from reprobook import bench, project
from reprobook.bench import Comparison, compare
from reprobook.cli import main
from reprobook.errors import ReprobookError

SECONDS = {"slow": [4.0, 8.0, 6.0, 2.0], "fast": [1.0, 2.0, 2.0, 1.0], "other": [2.0, 2.0, 2.0, 2.0]}


def test_a_ratio_compares_turn_by_turn() -> None:
    """Ratios 4, 4, 3, 2: median 3.5; quartiles 2.75 and 4. Ratio of the medians would be 5 / 1.5."""
    found = Comparison("work", SECONDS, 1, "cpu")
    assert found.ratio() == (3.5, 2.75, 4.0, 4)
    assert found.ratio("fast", "other").value == pytest.approx((0.5 + 1.0) / 2)
    assert found.medians == {"slow": 5.0, "fast": 1.5, "other": 2.0}
    assert found.row() == ("work", "slow", "fast", "3.5", "2.75 to 4", "4", "1", "cpu")
    frame = found.frame().set_index("way")
    assert frame.loc["slow", "ms"] == 5000 and frame.loc["slow", "time / fast"] == 3.5
    assert frame.loc["fast", ["first quartile", "third quartile", "n"]].tolist() == [1000, 2000, 4]
    assert Comparison(**json.loads(json.dumps(asdict(found)))) == found
    with pytest.raises(ReprobookError, match="no way is named 'quick'; ways: slow, fast, other"):
        found.ratio("quick")
    with pytest.raises(ReprobookError, match="a ratio needs two ways; there is a"):
        compare({"a": lambda: 1}, equal=None, n=1).row()


def test_ways_run_in_turns_and_the_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that only the ways move: the first turn is dear, the rest take 1 and 3 seconds."""
    clock, order = [0.0], []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])

    def way(name: str, seconds: float) -> Callable[[], str]:
        def run() -> str:
            clock[0] += seconds if name in order else 100.0
            order.append(name)
            return "same"

        return run

    def equal(a: str, b: str) -> bool:
        clock[0] += 50.0  # comparing is not part of the work
        return a == b

    found = compare({"a": way("a", 3.0), "b": way("b", 1.0)}, equal=equal, n=3, warmup=1)
    assert all(x != y for x, y in pairwise(order)) and len(order) == 8
    assert found.seconds == {"a": [3.0] * 3, "b": [1.0] * 3}
    assert found.ratio() == (3.0, 3.0, 3.0, 3) and found.same and found.device == "cpu"


@pytest.mark.parametrize("wrong_at", [1, 3])
def test_results_that_differ_are_an_error_in_any_turn(wrong_at: int) -> None:
    calls = iter(range(10))
    ways = {"plain": lambda: 7, "clever": lambda: 7 + (next(calls) == wrong_at - 1)}
    with pytest.raises(ReprobookError, match="'clever' and 'plain' gave different results: adding"):
        compare(ways, equal=lambda a, b: a == b, n=4, warmup=0, what="adding")
    assert not compare(ways, equal=None, n=1).same


@pytest.mark.parametrize("options", [{"n": 0}, {"warmup": -1}, {"ways": {}}])
def test_nothing_to_measure_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ReprobookError, match="a comparison needs ways, n >= 1 and warmup >= 0"):
        compare(**{"ways": {"a": lambda: 1}, "equal": None, **options})


@pytest.mark.parametrize("slug", project.chapters())
def test_every_chapter_has_a_headline_that_says_what_it_measures(slug: str) -> None:
    headline = import_module(f"reprobook.papers.{slug}.bench").headline
    assert " over " in (inspect.getdoc(headline) or "")
    assert all(p.default is not p.empty for p in inspect.signature(headline).parameters.values())


def test_the_command_prints_one_table_and_names_what_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = "reprobook.papers.{}.bench.headline"

    def broken() -> Comparison:
        raise ReprobookError("the ways disagree")

    monkeypatch.setattr(module.format("block_diffusion"), broken)
    monkeypatch.setattr(module.format("tpdiff"), lambda: Comparison("work", SECONDS, 1, "cpu"))
    assert main(["bench", "block_diffusion", "tpdiff"]) == 1
    said = capsys.readouterr()
    head, row = said.out.splitlines()
    assert head.split() == ["chapter", *bench.COLUMNS]
    assert row.split() == ["tpdiff", "work", "slow", "fast", "3.5", "2.75", "to", "4", "4", "1", "cpu"]
    assert said.err == "block_diffusion: the ways disagree\n"
    assert main(["bench", "nonsense"]) == 2 and "nothing to measure for nonsense" in capsys.readouterr().err
