"""Changes that move no number: shown by a run, noted, and excused for that chapter alone."""

from __future__ import annotations

from typing import Any

import pytest
from reprobook import record
from reprobook.authoring.neutral import declare
from reprobook.cli import main
from reprobook.content.excuses import to_excuse, excused, path
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
    assert f"{MEAN_SD} moved no number" in capsys.readouterr().out
    now = content_key(SLUG, then["params"], {})
    assert differences(then, now) == [f"{MEAN_SD} changed"]  # the digests still differ,
    assert differences(then, now, SLUG) == []  # but this chapter's records stand,
    assert differences(then, now, "stasc") == [f"{MEAN_SD} changed"]  # and no other's
    assert "one more option" in path().read_text()


def test_a_change_that_moves_a_metric_is_refused(checkout: Any) -> None:
    _before(checkout, 2.5000001)
    with pytest.raises(ReprobookError, match="1 metrics of block_diffusion moved, such as loss: 2.5000001 -> 2.5"):
        declare(SLUG, "surely neutral")
    assert not path().exists()


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
    with pytest.raises(ReprobookError, match="no smoke record"):
        declare(SLUG, "because")
    with pytest.raises(ReprobookError, match="say why"):
        declare(SLUG, "  ")


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
