"""Generated pages say what the records say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from reprobook import project, record
from reprobook.authoring import pages
from reprobook.errors import ReprobookError
from reprobook.record import Record

SLUG = "block_diffusion"
FACTS = """\
title: "A <title> with signs"
arxiv: {id: "2503.00001", version: 2}
authors: [A. Author]
year: 2025
licences: {text: CC-BY-4.0}
citation: key
one_line: "One line."
claims:
  C1: {says: "a < b", paper: {ours: 28.23, theirs: 30.60}, where: "Table 1", testable_at: [laptop], how: "order"}
  C2: {says: "cheaper", paper: {}, where: "Section 2", testable_at: [paper], how: "time"}
coverage:
  - {part: "all of it", scales: [laptop]}
"""
MANIFEST = """\
artefacts:
  - {id: tiny, kind: dataset, what: "tiny & made here", license: CC0-1.0, scales: [smoke, laptop],
     source: {generated: {function: "reprobook.data.text:clean", sha256: "%s", bytes: 10}}}
  - {id: big-model, kind: model, what: "a big model", license: other, gated: true, scales: [paper],
     source: {hub: {repo_id: a/b, revision: null, allow_patterns: ["*.safetensors"], bytes: 2500000000}}}
""" % ("0" * 64)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one chapter, its facts and its manifest, and no record."""
    monkeypatch.setenv("REPROBOOK_ROOT", str(tmp_path))
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    files = {
        f"notebooks/{SLUG}.ipynb": json.dumps(notebook), f"book/papers/{SLUG}.yaml": FACTS,
        f"data_manifests/{SLUG}.yaml": MANIFEST,
        "README.md": f"# Head\n{pages.README_START}\nold\n{pages.README_END}\nTail\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def publish(root: Path, seed: int, holds: bool, ours: float, scale: str = "laptop") -> None:
    claim = {"value": {"ours": ours}, "holds": holds, "verdict": record.verdict([holds])}
    found: dict[str, Any] = {
        "slug": SLUG, "scale": scale, "seed": seed, "run_id": "x", "status": "complete", "claims": {"C1": claim},
        "wall_s": 600.0 + 60 * seed, "peak_memory_mb": 1200.0 + seed,
        "hardware": {"cores": 2, "threads": 1, "gpus": []},
    }  # fmt: skip
    record.write(Record.model_validate(found), root / "book" / "results" / scale / f"{SLUG}.seed{seed}.json")


def table(markdown: str, index: int) -> list[list[str]]:
    rows = BeautifulSoup(markdown, "html.parser").find_all("table")[index].find_all("tr")
    return [[cell.get_text(" ", strip=True) for cell in row.find_all(["td", "th"])] for row in rows]


def test_without_records_every_claim_is_never_run(checkout: Path) -> None:
    verdicts, claims = (table(pages.scoreboard(), k) for k in (0, 1))
    assert verdicts[0] == ["Paper", "C1", "C2"] and verdicts[1][1:] == ["never run", "never run"]
    assert verdicts[1][0] == "A <title> with signs"
    assert claims[1][:3] == ["C1", "a < b Table 1", "ours: 28.23 theirs: 30.6"] and claims[1][3] == "–"


def test_verdict_mean_spread_and_cost_come_from_the_records(checkout: Path) -> None:
    for seed, (holds, ours) in enumerate([(True, 1.0), (True, 2.0), (False, 3.0)]):
        publish(checkout, seed, holds, ours)
    first, second = table(pages.scoreboard(), 1)[1:]
    assert first[3:5] == ["ours: 2.0 ± 1.0", "partly"]
    assert first[5].startswith("laptop: holds in 2 of 3 runs (old rules) stale"), (
        "these records do not say what they were made from"
    )
    assert first[5].endswith("3 runs, 11 min each on 1 of 2 cores, 1.2 GB")
    assert second[4] == "not testable here", "the laptop was run, but cannot tell about C2"


def test_smoke_runs_are_no_evidence_but_give_the_smoke_time(checkout: Path) -> None:
    publish(checkout, 0, True, 1.0, scale="smoke")
    assert table(pages.scoreboard(), 0)[1][1] == "never run"
    assert "| 10 min | – | 2 never run |" in pages.readme_table()


def test_the_readme_has_times_and_verdicts(checkout: Path) -> None:
    for seed in (0, 1):
        publish(checkout, seed, True, 1.0)
    line = next(line for line in pages.readme_table().splitlines() if SLUG in line)
    assert line.endswith("| – | 10 min (2 seeds) | 1 reproduced, 1 not testable here |")
    assert "`scmmgpt`" in pages.readme_table().rpartition("Not written yet:")[2]


def test_generating_twice_changes_nothing_the_second_time(checkout: Path) -> None:
    assert {path.name for path in pages.generate()} == {"scoreboard.md", "data.md", "README.md"}
    assert pages.generate() == []
    text = (checkout / "README.md").read_text()
    assert text.startswith("# Head\n") and text.endswith("Tail\n") and "old" not in text


def test_a_readme_without_marks_is_an_error() -> None:
    with pytest.raises(ReprobookError, match="README.md needs the lines"):
        pages.with_table("# Head\n", "table")


def test_the_data_page_has_size_licence_and_gate(checkout: Path) -> None:
    text = pages.data_page()
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Data sets", "Models"]
    tiny, big = table(text, 0)[1], table(text, 1)[1]
    assert tiny[:2] == ["tiny", "tiny & made here"] and tiny[3:] == ["none", "CC0-1.0", "no", f"{SLUG}: smoke, laptop"]
    assert big[3:] == ["2.5 GB", "other", "yes: its owner grants access", f"{SLUG}: paper"]


def test_the_data_page_has_places_estimates_and_what_is_optional(checkout: Path) -> None:
    same = 'sha256: "%s", bytes: 3' % ("1" * 64)
    parts = ", ".join(f'{{name: p{k}, version: "1.0", file: p/a, sha256: "{str(k) * 64}", bytes: {k}}}' for k in (1, 2))
    (checkout / "data_manifests" / "shared.yaml").write_text(f"""artefacts:
  - {{id: twice, kind: dataset, what: a set, license: MIT, scales: [smoke], optional: true,
     source: {{hub: {{repo_id: a/b, revision: "{"1" * 40}", file: a.csv, {same}}}}},
     mirrors: [{{joined: {{file: a.csv, {same}, parts: [{parts}]}}}}]}}
  - {{id: large, kind: dataset, what: a set, license: MIT, scales: [paper],
     source: {{hub: {{repo_id: a/b, revision: null, allow_patterns: ["*.csv"], bytes_estimate: 2500000}}}}}}
  - {{id: dark, kind: dataset, what: a set, license: MIT, scales: [paper],
     source: {{hub: {{repo_id: a/b, revision: null, allow_patterns: ["*.csv"], size_unknown: nobody says}}}}}}
""")
    _, _, twice, large, dark = table(pages.data_page(), 0)
    assert twice[1] == "a set; chapters also work without it" and twice[3] == "3 B" and twice[6] == "no chapter yet"
    assert twice[2] == "hub a/b @ 1111111 or 2 wheels joined, p1 to p2"
    assert (large[3], dark[3]) == ("about 2.5 MB", "size not known: nobody says")


@pytest.mark.parametrize(("seconds", "text"), [(48, "48 s"), (99.4, "99 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert pages.duration(seconds) == text


def test_the_readme_in_the_checkout_is_in_step() -> None:
    readme = (project.root() / "README.md").read_text()
    assert pages.with_table(readme, pages.readme_table()) == readme, "run `reprobook pages`"
