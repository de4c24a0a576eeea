"""Generated pages say what the records say."""

from __future__ import annotations

import functools
import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bs4 import BeautifulSoup
from reprobook import project, record
from reprobook.authoring import pages, scoreboard, start
from reprobook.authoring.standing import exported, standings, version
from reprobook.errors import ReprobookError
from reprobook.record import Record

if TYPE_CHECKING:
    from bs4 import Tag

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
    return [[said(cell) for cell in row.find_all(["td", "th"])] for row in rows]


def said(cell: Tag) -> str:
    """The text of a cell, or what a screen reader says in place of a sign."""
    sign = cell.find(attrs={"aria-label": True})
    return str(sign["aria-label"]) if sign else cell.get_text(" ", strip=True)


def test_without_records_every_claim_is_never_run(checkout: Path) -> None:
    verdicts, claims = (table(scoreboard.scoreboard(standings()), k) for k in (0, 1))
    assert verdicts[0] == ["Paper", "C1", "C2"] and verdicts[1][1:] == ["C1: never run", "C2: never run"]
    assert verdicts[1][0] == "A <title> with signs"
    assert claims[1][:3] == ["C1", "a < b Table 1", "ours: 28.23 theirs: 30.6"] and claims[1][3] == "–"


def test_verdict_mean_spread_and_cost_come_from_the_records(checkout: Path) -> None:
    for seed, (holds, ours) in enumerate([(True, 1.0), (True, 2.0), (False, 3.0)]):
        publish(checkout, seed, holds, ours)
    first, second = table(scoreboard.scoreboard(standings()), 1)[1:]
    assert first[3:5] == ["ours: 2.0 ± 1.0", "partly"]
    assert first[5].startswith("laptop: holds in 2 of 3 runs (old rules) stale"), (
        "these records do not say what they were made from"
    )
    assert "3 runs, 11 min each on 1 of 2 cores, 1.2 GB" in first[5]
    assert second[4] == "not testable here", "the laptop was run, but cannot tell about C2"


@pytest.mark.parametrize("config", ["title: T\n", "repository: {url: https://example.org/a/b, branch: dev}\n"])
def test_evidence_leads_to_its_records(checkout: Path, config: str) -> None:
    for seed in (0, 3):
        publish(checkout, seed, holds=True, ours=1.0)
    (checkout / "_config.yml").write_text(config)
    cell = BeautifulSoup(scoreboard.scoreboard(standings()), "html.parser").find_all("table")[1].find_all("tr")[1]
    addresses = [str(link["href"]) for link in cell.find_all("a")]
    path = f"book/results/laptop/{SLUG}.seed"
    if "repository" in config:
        assert addresses == [f"https://example.org/a/b/blob/dev/{path}{seed}.json" for seed in (0, 3)]
    else:
        assert addresses == [] and cell.find_all("code")[-1].text == f"{path}*.json"


def test_the_results_have_a_version_that_each_record_changes(checkout: Path) -> None:
    assert version(standings()) == ""
    publish(checkout, 0, holds=True, ours=1.0)
    first = version(standings())
    assert re.fullmatch(r"undated-[0-9a-f]{7}", first) and first == version(standings())
    assert f"`{first}`" in scoreboard.scoreboard(standings()) and exported(standings())["version"] == first
    path = record.result_path(SLUG, "laptop", 0)
    found = record.read(path)
    record.write(found.model_copy(update={"run_id": "another", "ended": "2026-01-02T03:04:05+00:00"}), path)
    second = version(standings())
    assert second.startswith("2026-01-02-") and second[-7:] != first[-7:]


def test_smoke_runs_are_no_evidence_but_give_the_smoke_time(checkout: Path) -> None:
    publish(checkout, 0, True, 1.0, scale="smoke")
    assert table(scoreboard.scoreboard(standings()), 0)[1][1] == "C1: never run"
    assert "| 10 min | – | 2 never run |" in pages.readme_table(standings())


def test_the_readme_has_times_and_verdicts(checkout: Path) -> None:
    for seed in (0, 1):
        publish(checkout, seed, True, 1.0)
    line = next(line for line in pages.readme_table(standings()).splitlines() if SLUG in line)
    assert line.endswith("| – | 10 min (2 seeds) | 1 reproduced, 1 not testable here |")
    assert "`scmmgpt`" in pages.readme_table(standings()).rpartition("Not written yet:")[2]


def test_generating_twice_changes_nothing_the_second_time(checkout: Path) -> None:
    assert {path.name for path in pages.generate()} == {
        "README.md",
        "data.md",
        "scoreboard.csv",
        "scoreboard.json",
        "scoreboard.md",
        "times.md",
        "to_check.md",
        "verdicts.md",
    }
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
    assert scoreboard.duration(seconds) == text


def test_times_and_limits_in_prose_come_from_records() -> None:
    """A number of minutes in the book's own pages is an aim or a limit, or is included from the records."""
    amount = r"(?:under|up to|about) (?:a|an|\d+) (?:minute|min|second|hour)"
    measured = re.compile(rf"takes? {amount}|\b(?:in|within) {amount}|at most \d+ min")
    for path in [*(project.root() / "book").glob("*.md"), *map(project.notebook_path, project.chapters())]:
        assert not measured.findall(path.read_text("utf-8")), (
            f"{path.name} promises a time: include _generated/times.md"
        )


NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:[.,]\d+)*(?:e[−+]\d+|[MB])?(?!\w)")
FINDINGS = re.findall(r"^- (.+?)(?=^- |^## |\Z)", (project.root() / "book" / "findings.md").read_text(), re.M | re.S)


def cells(slug: str) -> list[Any]:
    return list(json.loads(project.notebook_path(slug).read_text("utf-8"))["cells"])


@functools.cache
def shown(slug: str) -> set[str]:
    """Every number that the stored outputs of the chapter print."""
    outputs = [output for cell in cells(slug) for output in cell.get("outputs", [])]
    texts = [line for each in outputs for line in (*each.get("text", []), *each.get("data", {}).get("text/html", []))]
    return set(NUMBER.findall(html.unescape(re.sub(r"<[^>]+>", " ", "".join(texts)))))


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda text: " ".join(text.split()[:4]))
def test_a_finding_has_its_numbers_from_the_chapter_that_it_leads_to(finding: str) -> None:
    """And it leans on no verdict: a claim may be challenged."""
    text, slug = re.findall(r"^(.*)\[[^\]]+\]\(\.\./notebooks/(\w+)\.ipynb#[a-z-]+\)\s*$", finding, re.S)[0]
    numbers = {n for n in NUMBER.findall(text.replace("**", "")) if "." in n or len(n) > 2}
    assert numbers and numbers - shown(slug) == set()
    assert not re.search(r"\bC\d\b", text)


def test_the_start_page_leads_to_each_chapter_and_says_what_to_try() -> None:
    row = re.compile(r"^\| \[\*\*(\w+)\*\*\]\((\w+)\.ipynb\) \|.*\| (In the parameters cell .+) \|$", re.MULTILINE)
    rows = row.findall(start.start_page())
    assert sorted(slug for slug, _, _ in rows) == sorted(project.chapters())
    assert all(name == slug for slug, name, _ in rows)


@pytest.mark.parametrize("slug", project.chapters())
def test_a_chapter_ends_with_three_exercises(slug: str) -> None:
    """One to move a parameter, one to change a function that exists, one to think about with the answer's number."""
    source = "\n".join("".join(cell["source"]) for cell in cells(slug))
    exercises = source.partition("\n### Exercises\n")[2].partition("\n## References")[0]
    exercise = r"^\d\. \*\*(?:Move a parameter|Change the code|Think)\.\*\* (.+)$"
    move, change, think = re.findall(exercise, exercises, re.MULTILINE)
    name = re.findall(r"set `(\w+) = ", move)[0]
    assert re.search(rf"^{name} = ", source, re.M), f"{name} is no parameter"
    path = re.findall(r"lib/reprobook/papers/\w+/\w+\.py", change)[0]
    assert re.findall(r"`(\w+)`", change)[0] in (project.root() / path).read_text()
    assert re.search(r"\(.*\d", think)
    assert len(exercises.split()) < 250


def test_every_variable_that_a_user_may_set_is_explained() -> None:
    """Those that only our own child processes read are set by the code that starts them."""
    lib = project.root() / "lib" / "reprobook"
    code = "".join(path.read_text("utf-8") for path in lib.rglob("*.py"))
    read = set(re.findall(r"REPROBOOK_[A-Z_]+", code))
    ours = {name for name in read if re.search(rf'"{name}": ', code)}
    page = (project.root() / "book" / "how_to_run.md").read_text("utf-8")
    internal = {
        "REPROBOOK_SHARD",
        "REPROBOOK_RUN_LOG",
        "REPROBOOK_PROGRESS_FILE",
        "REPROBOOK_PROGRESS",
        "REPROBOOK_LOCKS",
    }
    assert {name for name in read - ours - internal if name not in page} == set()


def test_the_readme_in_the_checkout_is_in_step() -> None:
    readme = (project.root() / "README.md").read_text()
    assert pages.with_table(readme, pages.readme_table(standings())) == readme, "run `reprobook pages`"
