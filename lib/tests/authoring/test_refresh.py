"""Expected metrics: what a refresh keeps, changes and reports; and a refresh of a small notebook."""

from __future__ import annotations

import json
from typing import Any

import nbformat
from reprobook.authoring.refresh import changes, merge, refresh

SLUG = "block_diffusion"
FINISH = """
import os
from pathlib import Path
from reprobook.record import Record, expected, write
assert os.environ["REPROBOOK_REFRESH"] == "1" and expected("block_diffusion") is not None
write(Record(slug="block_diffusion", scale=scale, seed=seed, run_id="", status="complete",
             metrics={"loss": LOSS}), Path(out_dir) / "record.json")
print("done")
"""


def test_tolerances_are_kept_and_new_metrics_get_one() -> None:
    old = {
        "kept": {"value": 1.0, "rtol": 0.1, "why": "threads"},
        "moved": {"value": 1.0, "atol": 0.1, "why": "few points"},
        "drifted": {"value": 1.0, "rtol": 0.1},
        "gone": {"value": 3.0, "rtol": 0.1},
    }
    new = merge(old, {"kept": 1.005, "moved": 2.0, "drifted": 1.05, "fresh": 1 / 3, "gap": 3.0e-8, "none": None})
    assert new == {
        "kept": {"value": 1.0, "rtol": 0.1, "why": "threads"},
        "moved": {"value": 2.0, "atol": 0.1, "why": "few points"},
        "drifted": {"value": 1.05, "rtol": 0.1},
        "fresh": {"value": 0.333333, "rtol": 0.05},
        "gap": {"value": 3.0e-8, "atol": 1.0e-4},
        "none": {"value": None, "atol": 1.0e-4},
    }
    assert changes(old, new) == [
        "drifted: 1.0 -> 1.05",
        "fresh: new, 0.333333",
        "gap: new, 3e-08",
        "gone: gone, was 3.0",
        "moved: 1.0 -> 2.0",
        "none: new, None",
        "1 expected metrics unchanged",
    ]


def test_refresh_stores_outputs_and_metrics_or_nothing(checkout: Any) -> None:
    path = checkout.notebook("raise ValueError('no')", FINISH.replace("LOSS", "1.0"))
    before, expected = path.read_text(), checkout.root / "notebooks" / "expected" / f"{SLUG}.json"
    assert refresh(SLUG).status == "failed"
    assert path.read_text() == before and not expected.exists()

    checkout.notebook(FINISH.replace("LOSS", "1.0"))
    said: list[str] = []

    def report(line: str) -> None:
        assert json.loads(expected.read_text()) == {}, "told before it is written"
        said.append(line)

    assert refresh(SLUG, report).status == "complete"
    assert said == [f"{SLUG}: loss: new, 1.0"], "there were none that could be unchanged"
    assert json.loads(expected.read_text()) == {"loss": {"rtol": 0.05, "value": 1.0}}
    nb = nbformat.read(path, as_version=4)
    assert nb.cells[-1].outputs[0].text == "done\n" and "papermill" not in nb.metadata
    assert [cell.execution_count for cell in nb.cells[1:]] == [1, 2]
