"""Changes that move no number: shown by a run, noted, and excused for that chapter alone."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from reprobook import record
from reprobook.authoring.neutral import _note, declare
from reprobook.cli import main
from reprobook.content.excuses import changed_definitions, excused, latest, path, to_excuse
from reprobook.content.key import content_key, differences
from reprobook.errors import ReprobookError
from reprobook.record import Record

SLUG = "block_diffusion"
FINISH = """
from pathlib import Path
from reprobook.metrics.statistics import mean_sd
from reprobook.params import resolve
from reprobook.record import Record, write
from reprobook.content.key import content_key
loss = mean_sd([LOSS, LOSS])[0]
params = {k: v for k, v in resolve("block_diffusion", "smoke").items() if k != "out_dir"}
write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete", metrics={"loss": loss},
             content=content_key("block_diffusion", params, {})), Path(out_dir) / "record.json")
print("done")
"""
MEAN_SD = "reprobook.metrics.statistics:mean_sd"


def _before(checkout: Any, loss: float) -> dict[str, Any]:
    """A smoke record as it would stand from before a change of mean_sd; returns its content."""
    checkout.notebook(FINISH.replace("LOSS", "2.5"))
    content = content_key(SLUG, {"scale": "smoke", "seed": 0, "device": "cpu", "lr": 1.0e-3, "steps": 2}, {})
    content = {**content, "definitions": {**content["definitions"], MEAN_SD: "before"}}
    made = Record(
        slug=SLUG, scale="smoke", seed=0, run_id="r", status="complete", metrics={"loss": loss}, content=content
    )
    record.write(made, checkout.root / "book" / "results" / "smoke" / f"{SLUG}.seed0.json")
    return content


def test_a_change_that_moves_no_metric_is_noted_and_excused(checkout: Any, capsys: Any) -> None:
    then = _before(checkout, 2.5)
    assert main(["neutral", SLUG, "--why", "one more option"]) == 0
    assert f"{SLUG}: neutral, 1 definitions moved no number" in capsys.readouterr().out
    now = content_key(SLUG, then["params"], {})
    assert differences(then, now) == [f"{MEAN_SD} changed"]  # the digests still differ,
    assert differences(then, now, SLUG) == []  # but this chapter's records stand,
    assert differences(then, now, "stasc") == [f"{MEAN_SD} changed"]  # and no other's
    assert "one more option" in path().read_text()


def test_a_change_that_moves_a_metric_is_refused(checkout: Any) -> None:
    _before(checkout, 2.5000001)
    told: list[str] = []
    assert declare([SLUG], "surely neutral", told.append) == [SLUG]
    assert told[0].startswith(f"{SLUG}: moved: 1 metrics, such as loss: 2.5000001 -> 2.5.")
    assert not path().exists()
    again: list[str] = []
    stamp = (checkout.root / "runs" / SLUG / "refresh" / "record.json").stat().st_mtime_ns
    assert main(["neutral", "--all", "--why", "surely neutral"]) == 1
    declare([SLUG], "surely neutral", again.append)
    assert again == told  # from the record of the run that was just made
    assert (checkout.root / "runs" / SLUG / "refresh" / "record.json").stat().st_mtime_ns == stamp


def test_one_chapter_that_moves_does_not_stop_the_others(checkout: Any, capsys: Any) -> None:
    _before(checkout, 2.5)
    for room in ("notebooks/{}.ipynb", "data_manifests/{}.yaml", "book/results/smoke/{}.seed0.json"):
        there = checkout.root / room.format(SLUG)
        here = checkout.root / room.format("stasc")
        here.write_text(there.read_text().replace(SLUG, "stasc").replace("[2.5", "[2.75"))
    assert main(["neutral", "--all", "--why", "one more option"]) == 1
    out = capsys.readouterr().out
    assert f"{SLUG}: neutral, 1 definitions moved no number" in out and "stasc: cells changed" in out
    assert main(["neutral", SLUG, "--why", "one more option"]) == 0
    assert f"{SLUG}: nothing changed" in capsys.readouterr().out


def test_a_published_record_that_knows_a_definition_by_its_earlier_module_stands_too(checkout: Any) -> None:
    then = _before(checkout, 2.5)
    elsewhere = {MEAN_SD.replace("metrics", "earlier"): then["definitions"][MEAN_SD]}
    rest = {name: digest for name, digest in then["definitions"].items() if name != MEAN_SD}
    content = {**then, "definitions": rest | elsewhere}
    laptop = Record(slug=SLUG, scale="laptop", seed=0, run_id="r", status="complete", content=content)
    record.write(laptop, checkout.root / "book" / "results" / "laptop" / f"{SLUG}.seed0.json")
    assert differences(laptop.content, then, SLUG) == [], "it only moved"
    assert declare([SLUG], "one more option") == []
    now = content_key(SLUG, then["params"], {})
    assert differences(laptop.content, now) != [] and differences(laptop.content, now, SLUG) == []


def test_what_cannot_be_excused() -> None:
    key = {"cells": "c", "params": {}, "data": {}, "packages": {"numpy": "2"}, "definitions": {"m:f": "1"}}
    for part, value in (("cells", "d"), ("params", {"lr": 1}), ("data", {"t": "x"}), ("packages", {"numpy": "3"})):
        with pytest.raises(ReprobookError, match=f"{part} changed: that cannot be excused"):
            to_excuse(key, {**key, part: value, "definitions": {"m:f": "2"}})
    with pytest.raises(ReprobookError, match="no definition changed"):
        to_excuse(key, key)
    assert to_excuse(key, {**key, "definitions": {"m:g": "2"}}) == {"m:f": ["1", None], "m:g": [None, "2"]}


def test_nothing_to_compare_with_and_no_reason(checkout: Any) -> None:
    checkout.notebook(FINISH.replace("LOSS", "1.0"))
    told: list[str] = []
    assert declare([SLUG], "because", told.append) == [SLUG] and "no smoke record" in told[0]
    with pytest.raises(ReprobookError, match="say why"):
        declare([SLUG], "  ")


def test_several_changes_in_a_row(checkout: Any) -> None:
    checkout.write(
        "book/results/neutral.yaml",
        f"- {{slug: {SLUG}, why: a, definitions: {{'m:f': [one, two], 'm:new': [null, x]}}}}\n"
        f"- {{slug: {SLUG}, why: b, definitions: {{'m:f': [two, three]}}}}\n",
    )
    assert excused(SLUG, "m:f", "one", "two") and excused(SLUG, "m:f", "one", "three")
    assert excused(SLUG, "m:new", None, "x")
    assert not excused(SLUG, "m:f", "three", "one")  # not backwards
    assert not excused(SLUG, "m:f", "one", "four") and not excused("stasc", "m:f", "one", "two")


def test_entries_for_several_chapters_and_the_next_step(checkout: Any) -> None:
    checkout.write(
        "book/results/neutral.yaml",
        f"- {{slugs: [{SLUG}, stasc], why: a, definitions: {{'m:f': [one, two]}}}}\n"
        f"- {{slug: {SLUG}, why: b, definitions: {{'m:f': [two, three]}}}}\n",
    )
    assert excused(SLUG, "m:f", "one", "three") and excused("stasc", "m:f", "one", "two")
    assert not excused("stasc", "m:f", "one", "three")
    _note({SLUG: {"m:f": [latest(SLUG, "m:f", "one"), "four"], "m:g": ["x", "y"]}, "stasc": {"m:g": ["x", "y"]}}, "c")
    assert excused(SLUG, "m:f", "three", "four")  # a record of the step between stays current too
    assert [entry["slugs"] for entry in yaml.safe_load(path().read_text())[2:]] == [[SLUG], [SLUG, "stasc"]]


def test_a_definition_that_only_moved_did_not_change() -> None:
    old = {"reprobook.runs.a:f": "1", "reprobook.runs.a:C.m": "2", "m:g": "3", "m:h": "4"}
    new = {"reprobook.other.b:f": "1", "reprobook.other.b:C.m": "2", "n:g": "5", "n:h": "4", "o:h": "4"}
    found = changed_definitions(old, new)
    assert found == {"m:g": ["3", None], "n:g": [None, "5"], "o:h": [None, "4"]}
