"""Runs as they are kept: one shown, two side by side, and which of them a prune takes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from reprobook import record
from reprobook.cli import main
from reprobook.content.key import content_key
from reprobook.record import EffectData, Record

SLUG = "block_diffusion"
FACTS = """
title: "A title"
arxiv: {id: "2503.00001", version: 2}
authors: [A. Author]
year: 2025
licences: {text: CC-BY-4.0}
citation: key
one_line: "One line."
claims:
  C1:
    says: "it gains"
    paper: {}
    where: "Table 1"
    testable_at: [laptop]
    how: "order"
    tests: [{effect: gain, above: 0.5}]
coverage:
  - {part: "all of it", scales: [laptop]}
"""
PARAMS = {"scale": "laptop", "seed": 0, "device": "auto", "lr": 1.0e-3, "steps": 2}


def keep(path: Path, name: str, gain: float = 1.0, **fields: Any) -> Record:
    """A record in the folder ``path`` (or at that file) that is of the code as it stands now."""
    params = {**PARAMS, **fields.pop("params", {})}
    values: dict[str, Any] = {
        "status": "complete", "metrics": {"loss": 0.25, "nothing": None},
        "effects": {"gain": EffectData(kind="mean", estimate=gain, low=0.5, high=1.5, n=8, groups=8, unit="points")},
        "content": content_key(SLUG, params, {}), "wall_s": 120.0, "peak_memory_mb": 1500.0,
    } | fields  # fmt: skip
    found = Record(slug=SLUG, scale="laptop", seed=params["seed"], run_id=name, params=params, **values)
    record.write(found, path if path.suffix else path / "record.json")
    return found


@pytest.fixture
def runs(checkout: Any) -> Path:
    checkout.write(f"book/papers/{SLUG}.yaml", FACTS)
    checkout.notebook("x = 1")
    return checkout.root / "runs" / SLUG


def test_show_names_what_a_run_measured_and_where_it_is(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(runs / "laptop-seed0-aaaa", "laptop-seed0-aaaa", params={"steps": 5})
    (runs / "laptop-seed0-aaaa" / "log.txt").write_text("said")
    assert main(["show", "laptop-seed0-aa"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "parameters steps = 5" in said and "took 120 s" not in said and "took 2 min on ? cores, 1.5 GB" in said
    assert "loss 0.25 nothing –" in said and "gain 1 [0.5, 1.5] points n = 8 C1: above 0.5" in said
    assert f"files {runs / 'laptop-seed0-aaaa' / 'log.txt'}" in said and "C1 never run" in said


def test_show_writes_the_notebook_as_a_page(runs: Path, checkout: Any, capsys: pytest.CaptureFixture[str]) -> None:
    keep(runs / "laptop-seed0-aaaa", "laptop-seed0-aaaa")
    assert main(["show", "laptop-seed0", "--html"]) == 2 and "no notebook.ipynb" in capsys.readouterr().err
    checkout.notebook("x = 1").rename(runs / "laptop-seed0-aaaa" / "notebook.ipynb")
    checkout.notebook("x = 1")
    assert main(["show", "laptop-seed0", "--html"]) == 0
    page = runs / "laptop-seed0-aaaa" / "notebook.html"
    assert str(page) in capsys.readouterr().out and "A chapter" in page.read_text()


def test_which_run_is_meant_must_be_clear(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("laptop-seed0-aaaa", "laptop-seed0-abbb"):
        keep(runs / name, name)
    assert main(["show", "laptop-seed0-a"]) == 2
    assert "several runs: laptop-seed0-aaaa, laptop-seed0-abbb" in capsys.readouterr().err
    assert main(["show", "paper-seed0"]) == 2 and "no run 'paper-seed0'" in capsys.readouterr().err


def test_two_runs_side_by_side(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(runs / "laptop-seed0-aaaa", "laptop-seed0-aaaa", commit="1" * 40)
    keep(runs / "laptop-seed0-bbbb", "laptop-seed0-bbbb", gain=1.25, commit="2" * 40, params={"lr": 0.5})
    assert main(["compare", "laptop-seed0-a", str(runs / "laptop-seed0-bbbb")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"commit {'1' * 40} {'2' * 40}" in said and "parameter lr 0.001 -> 0.5" in said
    assert "loss 0.25 0.25 equal" in said and "gain 1 1.25 +0.25" in said


def test_prune_takes_what_nothing_needs_and_says_so_first(
    runs: Path, checkout: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(runs / "laptop-seed1-old", "laptop-seed1-old", params={"seed": 1})
    published = keep(runs / "laptop-seed2-old", "laptop-seed2-old", params={"seed": 2})
    record.write(published, record.result_path(SLUG, "laptop", 2))
    checkout.notebook("x = 2")  # what was run so far is superseded
    keep(runs / "laptop-seed3-now", "laptop-seed3-now", params={"seed": 3, "lr": 0.5})
    keep(runs / "laptop-seed4-failed", "laptop-seed4-failed", status="failed")
    (runs / "laptop-seed5-cut" / "checkpoints").mkdir(parents=True)
    (runs / "laptop-seed5-cut" / "checkpoints" / "a.bin").write_bytes(bytes(3000))
    (runs / "laptop-seed6-works").mkdir()
    for name in ("fresh", "left"):
        keep(runs / "adhoc" / name, "", status="running")
    a_week_ago = time.time() - 7 * 86400
    for file in (runs / "adhoc" / "left" / "record.json", runs / "adhoc" / "left"):
        os.utime(file, (a_week_ago, a_week_ago))
    before = sorted(runs.rglob("*"))
    with FileLock(runs / ".laptop-seed6-works.lock"):
        assert main(["prune"]) == 0
        said = capsys.readouterr().out
        lines = {line.split()[0].rsplit("/", 1)[1]: line for line in said.splitlines()[:-1]}
        assert lines.keys() == {"laptop-seed1-old", "laptop-seed4-failed", "laptop-seed5-cut", "left"}
        assert "superseded: a code cell changed" in lines["laptop-seed1-old"] and "3.0 kB" in lines["laptop-seed5-cut"]
        assert "4 runs" in said and "nothing is deleted without --delete" in said
        assert not set(before) - {*runs.rglob("*")}, "the first call only tells"
        assert main(["prune", "--delete"]) == 0
    left = {path.name for path in (*runs.glob("*-seed*"), *(runs / "adhoc").glob("*")) if path.is_dir()}
    assert left == {"laptop-seed2-old", "laptop-seed3-now", "laptop-seed6-works", "fresh"}
    assert record.result_path(SLUG, "laptop", 2).is_file()
