"""The chapter object in small checkouts: what it keeps, shows, refuses and writes."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import reprobook
import torch
import yaml
from reprobook import ReprobookError, record, show
from reprobook.chapter import open_chapter
from reprobook.chapter.tables import over_seeds, pages
from reprobook.params import ParameterError
from reprobook.project import root
from reprobook.record import ClaimData, Record, TableData

if TYPE_CHECKING:
    from reprobook.chapter import Chapter

SLUG = "block_diffusion"
DECLARED = {"scale": "smoke", "seed": 0, "device": "cpu", "out_dir": "", "lr": 1e-3, "steps": 2}
FACTS = yaml.safe_load("""
title: A & B
arxiv: {id: "2503.01234", version: 1}
authors: [A. Author]
year: 2025
code: {url: https://example.org/code, license: MIT}
licences: {text: CC-BY-4.0}
citation: author2025
one_line: A is better.
claims:
  C1: {says: A < B, paper: {A: 28.23, B: 1234.5}, where: Table 1, testable_at: [laptop, paper], how: order}
  C2: {says: people agree, paper: {share: most}, where: S 5, testable_at: [paper], how: not by us}
tables:
  table1: {caption: Main, where: Table 1, columns: [Model, PPL], rows: [[A, 28.23], [B, 30.6]]}
coverage:
  - {part: method, scales: [smoke, laptop]}
  - {part: study, scales: [], note: no people}
""")


@pytest.fixture
def book(checkout: Any) -> Any:
    """A checkout with the facts above, a parameters cell and no expected values."""
    checkout.notebook()
    checkout.write(f"book/papers/{SLUG}.yaml", yaml.safe_dump(FACTS, sort_keys=False))
    return checkout


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Every output that the code under test publishes, in place of the screen."""
    import reprobook.show.figures
    import reprobook.show.pictures
    import reprobook.show.tables

    outputs: list[dict[str, str]] = []
    for module in (show, reprobook.show.tables, reprobook.show.figures, reprobook.show.pictures):
        monkeypatch.setattr(module, "publish", lambda bundle, metadata=None: outputs.append(bundle))
    return outputs


def opened(**changes: Any) -> Chapter:
    """The chapter as a notebook opens it: the parameters cell's names are among the globals."""
    names = {**DECLARED, **changes, "np": np, "unrelated": object()}
    given = {name: names[name] for name in ("scale", "seed", "device", "out_dir")}
    return open_chapter(SLUG, **given, params=names)


def filled(ch: Chapter, metric: float = 0.5) -> Chapter:
    ch.metric("gap", metric)
    ch.claim("C1", value={"A": 1.0, "B": 2.0}, holds=True)
    ch.claim("C2", value={}, holds=None)
    return ch


def publish(seed: int, scale: str = "laptop", holds: bool | None = True, **fields: Any) -> Record:
    claims = {"C1": ClaimData(value={"A": 1.0 + seed / 10}, holds=holds, verdict=record.verdict([holds]))}
    found = Record(slug=SLUG, scale=scale, seed=seed, run_id="x", status="complete", claims=claims, **fields)
    record.write(found, root() / f"book/results/{scale}/{SLUG}.seed{seed}.json")
    return found


def table_of(rows: list[list[Any]]) -> dict[str, TableData]:
    return {"ppl": TableData(columns=["model", "ppl"], rows=rows)}


# ------------------------------------------------------------------------------------------------ opening


def test_opening_seeds_everything_and_the_order_of_calls_does_not_matter(book: Any) -> None:
    draws = []
    for _ in range(2):
        reprobook.open_chapter(SLUG, scale="smoke", seed=7)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    opened(seed=8)
    assert draws[0] == draws[1] != (random.random(), np.random.rand(), torch.rand(1).item())


def test_the_chapter_keeps_the_declared_names_in_canonical_form(book: Any) -> None:
    ch = opened(lr=1)
    assert ch.params == {**DECLARED, "lr": 1.0} and isinstance(ch.params["lr"], float)
    assert (ch.slug, ch.scale, ch.seed, ch.device, ch.facts.title) == (SLUG, "smoke", 0, torch.device("cpu"), "A & B")
    assert repr(ch) == "Chapter(block_diffusion, smoke scale, seed 0)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": "1e-4"}, "'lr' must be float, got '1e-4'.*write 0.0001"),
        ({"steps": 2.5}, "'steps' must be int"),
        ({"seed": "0"}, "'seed' must be int"),
        ({"scale": "huge"}, "unknown scale 'huge'; scales: smoke, laptop, paper"),
        ({"device": "cuda:7"}, "device 'cuda:7' is not available here"),
        ({"device": "abacus"}, "device 'abacus' is not available here"),
    ],
)
def test_a_wrong_parameter_is_refused_before_a_folder_is_made(book: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        opened(**changes)
    assert not (book.root / "runs").exists()


def test_the_parameters_cell_must_have_run(book: Any) -> None:
    with pytest.raises(ParameterError, match="lr, steps not set: run the parameters cell first"):
        open_chapter(SLUG, scale="smoke", seed=0, params={"scale": "smoke", "seed": 0, "device": "cpu", "out_dir": ""})
    with pytest.raises(ReprobookError, match="unknown chapter 'nonsense'"):
        open_chapter("nonsense", scale="smoke", seed=0)


def test_ad_hoc_folders_are_fresh_and_lose_their_checkpoints(book: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = filled(opened()), opened()
    assert first.out_dir != second.out_dir
    assert re.fullmatch(rf"runs/{SLUG}/adhoc/smoke-seed0-\w+", first.out_dir.relative_to(root()).as_posix())
    (first.out_dir / "checkpoints/model").mkdir(parents=True)
    first.finish()
    assert sorted(path.name for path in first.out_dir.iterdir()) == ["record.json"]


def test_a_given_folder_is_kept_and_an_old_record_never_passes_for_the_new_one(book: Any, tmp_path: Path) -> None:
    folder = tmp_path / "my run é"
    ch = filled(opened(out_dir=str(folder)))
    (ch.out_dir / "checkpoints/model").mkdir(parents=True)
    ch.finish()
    assert (folder / "record.json").is_file() and (folder / "checkpoints/model").is_dir()
    opened(out_dir=str(folder))
    assert not (folder / "record.json").exists() and (folder / "record.previous.json").is_file()


def test_fit_trains_in_the_run_folder_and_resumes(book: Any, tmp_path: Path) -> None:
    def train() -> tuple[torch.Tensor, Any]:
        ch = opened(out_dir=str(tmp_path / "run"))
        model = torch.nn.Linear(2, 1)
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        history = ch.fit(
            "model", model, lambda i: x, lambda m, b: (m(b) - 1).square().mean(), num_steps=3, lr=0.1, precision="fp32"
        )
        return model.weight.detach().clone(), history

    weight, _ = train()
    assert any((tmp_path / "run/checkpoints/model").iterdir())
    again, history = train()
    assert torch.equal(weight, again) and history.resumed_from == 3
    with pytest.raises(ReprobookError, match="'a/b' cannot name a folder"):
        opened().fit("a/b", torch.nn.Linear(1, 1), lambda i: i, lambda m, b: b)


def test_the_time_of_a_run_counts_its_interrupted_attempts(book: Any, tmp_path: Path) -> None:
    def attempt(pause_s: float) -> float:
        ch = filled(opened(out_dir=str(tmp_path / "run")))

        def slow(m: Any, b: Any) -> torch.Tensor:
            time.sleep(pause_s)
            return m(b).square().mean()

        ch.fit("model", torch.nn.Linear(2, 1), lambda i: torch.ones(4, 2), slow, num_steps=4, lr=0.1, precision="fp32")
        ch.finish()
        return record.read(tmp_path / "run" / "record.json").wall_s

    assert attempt(0.25) >= 1.0
    assert attempt(0.0) >= 1.0  # all was trained before


# ------------------------------------------------------------------------------------------------ measuring


def test_metrics_take_any_single_number_and_nothing_else(book: Any) -> None:
    ch = opened()
    for value in (1, 0.5, np.float32(0.5), torch.tensor([2.0]), True):
        ch.metric("m", value)
    for wrong in ("much", None, [1, 2], torch.zeros(2), np.zeros(3)):
        with pytest.raises(ReprobookError, match="metric 'm' must be one number, got"):
            ch.metric("m", wrong)  # type: ignore[arg-type]


def test_a_table_is_kept_and_shown_beside_the_papers(book: Any, shown: list[dict[str, str]]) -> None:
    frame = pd.DataFrame({"ppl": [1.23456, np.nan]}, index=pd.Index(["A", "B"], name="model"))
    ch = opened()
    ch.table("ppl", frame, paper_table="table1", caption="Perplexity")
    assert filled(ch)._tables["ppl"].rows == [["A", 1.23456], ["B", None]]
    html = shown[0]["text/html"]
    assert "Perplexity (smoke run, no evidence)" in html and "Paper, Table 1: Main" in html
    assert ">1.235<" in html and ">30.60<" in html and ">–<" in html
    ch.table("quiet", frame, display=False)
    assert len(shown) == 1
    with pytest.raises(ReprobookError, match="unknown table 'Table 9'; reported tables: table1"):
        ch.table("x", frame, paper_table="Table 9")


def test_a_claim_needs_a_known_id_a_truth_value_and_numbers(book: Any) -> None:
    ch = opened()
    with pytest.raises(ReprobookError, match="unknown claim 'C9'; claims of this paper: C1, C2"):
        ch.claim("C9", value={}, holds=True)
    with pytest.raises(ReprobookError, match="holds must be True, False or None, got 'yes'"):
        ch.claim("C1", value={}, holds="yes")  # type: ignore[arg-type]
    with pytest.raises(ReprobookError, match="one number per key"):
        ch.claim("C1", value={"A": "low"}, holds=True)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("scale", "cid", "holds", "verdict", "line"),
    [
        ("smoke", "C1", True, "not testable here", "C1 recorded; a smoke run is no evidence"),
        ("smoke", "C1", False, "not testable here", "C1 recorded; a smoke run is no evidence"),
        ("laptop", "C1", np.bool_(True), "reproduced", "C1 holds in this run"),
        ("laptop", "C1", False, "not reproduced", "C1 does not hold in this run"),
        ("laptop", "C1", None, "not testable here", "C1 cannot be told in this run"),
        ("laptop", "C2", True, "not testable here", "C2 cannot be told in this run"),
        ("paper", "C2", True, "reproduced", "C2 holds in this run"),
    ],
)
def test_a_verdict_needs_a_scale_that_can_test_the_claim(
    book: Any, capsys: pytest.CaptureFixture[str], scale: str, cid: str, holds: Any, verdict: str, line: str
) -> None:
    ch = opened(scale=scale)
    ch.claim(cid, value={"A": 1.0}, holds=holds)
    assert ch._claims[cid].verdict == verdict
    assert capsys.readouterr().out == line + "\n"


# ------------------------------------------------------------------------------------------------ evidence


def test_smoke_shows_the_committed_laptop_records_never_its_own_numbers(book: Any) -> None:
    for seed in (0, 1):
        publish(seed, tables=table_of([["A", 1.0 + seed]]))
    ch = opened()
    ch.table("ppl", pd.DataFrame({"model": ["A"], "ppl": [99.0]}), display=False)
    found = ch.evidence("ppl")
    assert found is not None
    assert found.to_dict("list") == {"model": ["A", "A"], "ppl": [1.0, 2.0], "seed": [0, 1]}
    assert ch.evidence_label() == "laptop scale, 2 seeds"


def test_without_records_and_at_other_scales_the_run_shows_itself(book: Any) -> None:
    frame = pd.DataFrame({"model": ["A"], "ppl": [99.0]})
    smoke = opened()
    assert smoke.evidence("ppl") is None
    smoke.table("ppl", frame, display=False)
    assert smoke.evidence("ppl").to_dict("list") == {"model": ["A"], "ppl": [99.0], "seed": [0]}  # type: ignore[union-attr]
    assert smoke.evidence_label() == "this smoke run: no evidence"
    publish(0, tables=table_of([["A", 1.0]]))
    laptop = opened(scale="laptop", seed=5)
    laptop.table("ppl", frame, display=False)
    assert laptop.evidence("ppl")["seed"].tolist() == [5]  # type: ignore[index]
    assert laptop.evidence_label() == "this laptop run, seed 5"


def test_a_smoke_page_shows_laptop_tables_over_their_seeds(
    book: Any, shown: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean and sample standard deviation of 1, 2 and 6: 3 and sqrt(7) = 2.65."""
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        publish(seed, tables=table_of([["A", value], ["B", 5.0]]))
    frame = pd.DataFrame({"model": ["A", "B"], "ppl": [99.0, 98.0]})
    opened().table("ppl", frame, caption="Perplexity")
    page = shown[-1]["text/html"]
    assert "3.0 ± 2.6" in page and ">5<" in page and "99" not in page
    assert "Perplexity (laptop scale, 3 seeds, mean ± sd)" in page
    monkeypatch.setenv("JPY_SESSION_NAME", "chapter.ipynb")  # a person moves a parameter: both are shown
    opened().table("ppl", frame)
    assert "99" in shown[-2]["text/html"] and "smoke run, no evidence" in shown[-2]["text/html"]
    assert "3.0 ± 2.6" in shown[-1]["text/html"]


def test_a_page_shows_the_caption_of_the_records_not_of_the_run(book: Any, shown: list[dict[str, str]]) -> None:
    kept = TableData(columns=["model", "ppl"], rows=[["A", 1.0]], caption="Perplexity, 48 pairs")
    publish(0, tables={"ppl": kept})
    opened().table("ppl", pd.DataFrame({"model": ["A"], "ppl": [99.0]}), caption="Perplexity, 4 pairs")
    assert "Perplexity, 48 pairs (laptop scale, 1 seed)" in shown[-1]["text/html"]


def test_rows_of_several_seeds_are_matched_by_key_with_their_number(book: Any, shown: list[dict[str, str]]) -> None:
    """Rows in another order and rows that one run lacks: mean of 1 and 2 with sd 0.71; B comes from one run."""
    publish(0, tables=table_of([["A", 1.0]]))
    publish(1, tables=table_of([["B", 3.0], ["A", 2.0]]))
    publish(2)
    opened().table("ppl", pd.DataFrame({"model": ["A"], "ppl": [99.0]}))
    html = shown[-1]["text/html"]
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)]
    assert cells == ["A", "1.50 ± 0.71", "2", "B", "3", "1"]
    assert "(laptop scale, 2 seeds, mean ± sd)" in html, "the third record has no such table"


def test_texts_that_differ_are_not_glued_and_truths_are_counted() -> None:
    def table(**cells: Any) -> TableData:
        return TableData(columns=["run", *cells], rows=[["A", *cells.values()]], key=["run"])

    several = {0: table(text="x", yes=True), 1: table(text="y", yes=False), 2: table(text="x", yes=True)}
    frame, how = over_seeds(several)  # samples: no table over seeds can be made of them
    assert frame["text"].tolist() == ["x"] and how == "seed 0 of 3; other seeds have other texts (text)"
    for each in several.values():
        each.rows.append(["B", "same", True])
    frame, how = over_seeds(several)
    assert frame["text"].tolist() == ["differs", "same"] and frame["yes"].tolist() == ["yes in 2 of 3", True]
    assert how == "3 seeds"


def test_rows_without_names_are_never_merged_by_position() -> None:
    table = TableData(columns=["x", "y"], rows=[[0.5, 1.0], [0.5, 2.0]])
    frame, how = over_seeds({3: table, 4: table})
    assert len(frame) == 2 and how == "seed 3 alone: the rows of 2 seeds have no names to match"


def rows_of(html: str) -> dict[str, list[str]]:
    """Cells of a claims table by claim id, lines joined with |, tags removed."""
    rows = re.findall(r"<tr>(<td.*?)</tr>", html, flags=re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    texts = [[re.sub("<.*?>", "", cell.replace("<br>", " | ")) for cell in row] for row in cells]
    return {row[0].split()[0]: row for row in texts}


def test_the_claims_table_of_a_smoke_run_rests_on_records_alone(book: Any, shown: list[dict[str, str]]) -> None:
    filled(opened()).claims_table()
    assert rows_of(shown.pop()["text/html"])["C1"][2:] == ["–", "never run"]
    publish(0), publish(1, holds=False), publish(2)
    filled(opened()).claims_table()
    html = shown.pop()["text/html"]
    found = rows_of(html)
    assert found["C1"][:3] == ["C1 A &lt; B | Table 1", "A: 28.23 | B: 1234.50", "A: 1.10 ± 0.10"]
    assert found["C1"][3].split(" | ") == [
        "partly",
        "laptop scale: holds in 2 of 3 runs (old rules)",
        "stale: the record does not say what it was made from",
    ]
    assert found["C2"][3] == "not testable here"
    assert 'class="rb-chip rb-partly" style="background:#8a5a00' in html


def test_a_run_that_cannot_tell_is_no_agreement(book: Any, shown: list[dict[str, str]]) -> None:
    publish(0), publish(1, holds=None), publish(2, holds=None)
    filled(opened()).claims_table()
    told = rows_of(shown.pop()["text/html"])["C1"][3].split(" | ")
    assert told[:2] == ["partly", "laptop scale: holds in 1 of 1 runs (old rules), 2 could not tell"]


def test_a_laptop_run_counts_itself_once(book: Any, shown: list[dict[str, str]]) -> None:
    publish(0, holds=False), publish(1)
    ch = opened(scale="laptop", seed=0)
    ch.claim("C1", value={"A": 1.2}, holds=True)
    ch.claims_table()
    row = rows_of(shown.pop()["text/html"])["C1"]
    assert row[2] == "A: 1.150 ± 0.071"
    assert row[3].startswith("reproduced | laptop scale: holds in 2 of 2 runs (old rules) | stale")


def test_a_run_with_changed_parameters_is_never_mixed_with_the_records(book: Any, shown: list[dict[str, str]]) -> None:
    publish(1, holds=False)
    ch = opened(scale="laptop", lr=0.5)
    ch.claim("C1", value={"A": 9.0}, holds=True)
    ch.claims_table()
    row = rows_of(shown.pop()["text/html"])["C1"]
    told = "reproduced | laptop scale with lr changed: holds in 1 of 1 runs (old rules) | this run alone"
    assert row[2:] == ["A: 9", told]


def test_current_records_are_called_current_and_a_changed_cell_makes_them_stale(
    book: Any, shown: list[dict[str, str]]
) -> None:
    ch = filled(opened(scale="laptop"))
    ch.finish()
    done = record.read(ch.out_dir / "record.json")
    record.write(done, book.root / f"book/results/laptop/{SLUG}.seed0.json")
    opened().claims_table()
    assert rows_of(shown.pop()["text/html"])["C1"][3].endswith(" | current")
    book.notebook("x = 1")
    opened().claims_table()
    assert rows_of(shown.pop()["text/html"])["C1"][3].endswith(" | stale: a code cell changed")


# ------------------------------------------------------------------------------------------------ effects


TESTED = {
    **FACTS["claims"]["C1"],
    "tests": [{"effect": "gain", "above": 0.0}],
    "controls": [{"effect": "learned", "above": 0.1, "why": "else nothing is compared"}],
}


@pytest.fixture
def judged(book: Any) -> Any:
    """A checkout whose claim C1 has a test and a control."""
    facts = {**FACTS, "claims": {**FACTS["claims"], "C1": TESTED}}
    book.write(f"book/papers/{SLUG}.yaml", yaml.safe_dump(facts, sort_keys=False))
    return book


def measured(shift: float = 0.0, **changes: Any) -> Chapter:
    """A run that has what the facts ask for; its paired differences are ``1 + shift``, give or take."""
    ch = opened(**changes)
    base = np.arange(6.0)
    seed = changes.get("seed", 0)
    better = base + np.array([0.9, 1.1, 1.0, 1.2, 0.8, 1.0]) + shift + 0.01 * seed
    ch.compare("gain", better, base, unit="points", over="question")
    ch.effect("learned", [0.4, 0.5 + 0.02 * seed], unit="accuracy", over="question")
    ch.exact("pairs", 6, unit="pairs")
    ch.metric("gap", 0.5)
    return ch


def commit_runs(book: Any, n: int = 5, **options: Any) -> None:
    for seed in range(n):
        ch = measured(scale="laptop", seed=seed, **options)
        ch.finish()
        target = book.root / f"book/results/laptop/{SLUG}.seed{seed}.json"
        record.write(record.read(ch.out_dir / "record.json"), target)
        target.with_suffix(".scores.npz").write_bytes((ch.out_dir / "record.scores.npz").read_bytes())


def test_a_run_keeps_effects_with_their_scores_and_decides_nothing_itself(judged: Any) -> None:
    ch = measured(scale="laptop")
    ch.finish()
    found = record.read(ch.out_dir / "record.json")
    assert found.schema_version == 2 and not found.claims
    gain = found.effects["gain"]
    assert (gain.kind, gain.estimate, gain.n, gain.unit, gain.over) == ("difference", 1.0, 6, "points", "question")
    assert gain.low == pytest.approx(1 - 2.5706 * 0.1414 / 6**0.5, abs=1e-3)
    assert found.effects["pairs"].estimate == 6 and found.effects["pairs"].low is None
    scores = record.read_scores(ch.out_dir / "record.json")
    assert set(scores) == {"gain", "learned"} and scores["gain"]["b"].tolist() == list(range(6))
    assert set(record.read_scores(ch.out_dir / "record.json", ["learned", "none"])) == {"learned"}


def test_verdicts_are_computed_from_committed_runs(judged: Any, shown: list[dict[str, str]]) -> None:
    measured().claims_table()
    assert rows_of(shown.pop()["text/html"])["C1"][3] == "never run"
    commit_runs(judged)
    measured().claims_table()
    row = rows_of(shown.pop()["text/html"])["C1"]
    assert row[3].startswith("reproduced | laptop scale: 5 seeds: 1 of 1 tests hold") and row[3].endswith("current")
    assert row[2] == "gain: 1.02 [1, 1.04]: holds | controls: 1 of 1 hold"
    commit_runs(judged, shift=-2.0)
    measured().claims_table()
    assert rows_of(shown.pop()["text/html"])["C1"][3].startswith("not reproduced")


def test_fewer_seeds_than_planned_leave_a_claim_undecided(judged: Any, shown: list[dict[str, str]]) -> None:
    commit_runs(judged, 3)
    ch = measured(scale="laptop", seed=3)
    ch.claims_table()
    told = rows_of(shown.pop()["text/html"])["C1"][3]
    assert told.startswith("undecided | laptop scale: 4 seeds: 0 of 1 tests hold") and "gain: 5 seeds" in told


def test_an_effect_that_the_facts_name_must_be_recorded(judged: Any) -> None:
    ch = opened()
    ch.metric("gap", 1)
    ch.effect("gains", [1.0, 2.0], unit="points", over="question")
    with pytest.raises(ReprobookError, match="C1: the facts name the effect 'gain'.* did you mean 'gains'"):
        ch.finish()
    assert not (ch.out_dir / "record.json").exists()


def test_figures_in_prose_come_from_the_records(judged: Any, shown: list[dict[str, str]]) -> None:
    measured().say("The gain is {gain}, or {gain:.1f}, over {pairs}.")
    assert shown.pop()["text/markdown"] == "The gain is –, or –, over –."
    commit_runs(judged)
    measured().say("The gain is {gain}, or {gain:.1f}, over {pairs}.")
    assert shown.pop()["text/markdown"] == "The gain is 1.02 [1, 1.04], or 1.0, over 6."
    ch = measured()
    ch.exact("EIE: gain", 3, unit="points")
    ch.say("{EIE: gain}, {EIE: gain:.1f}")
    assert shown.pop()["text/markdown"] == "–, –"
    with pytest.raises(ReprobookError, match="no effect 'gian'; effects of this run: gain, learned, pairs"):
        measured().say("{gian}")


def test_a_table_of_several_rows_needs_a_key_that_tells_them_apart(judged: Any) -> None:
    frame = pd.DataFrame({"model": ["A", "A"], "k": [1, 2], "ppl": [1.0, 2.0]})
    with pytest.raises(ReprobookError, match="table 'ppl': name the columns that tell its 2 rows apart"):
        opened().table("ppl", frame)
    with pytest.raises(ReprobookError, match="table 'ppl': .*two rows have the key A"):
        opened().table("ppl", frame, key=["model"])
    with pytest.raises(ReprobookError, match="key column 'seed' is none of model, k, ppl"):
        opened().table("ppl", frame, key=["seed"])
    ch = opened()
    ch.table("ppl", frame, key=["model", "k"])
    ch.recomputed("sums", frame, key=["k"], caption="Sums")
    assert ch._tables["sums"].key == ["k"]


def test_a_picture_is_a_file_beside_the_record(judged: Any, shown: list[dict[str, str]]) -> None:
    ch = measured(scale="laptop")
    ch.picture("sample", np.linspace(0, 1, 12).reshape(3, 4), "A ramp", alt="grey ramp from black to white")
    ch.finish()
    assert (ch.out_dir / "pictures" / "sample.png").read_bytes()[:4] == show.PNG_SIGNATURE
    assert record.read(ch.out_dir / "record.json").pictures["sample"].file == "sample.png"
    assert "**Figure 1.** A ramp (laptop scale, seed 0)" in str(shown)
    with pytest.raises(ReprobookError, match="no picture"):
        ch.picture("wild", np.full((2, 2), 7.0), "c", alt="a")
    with pytest.raises(ReprobookError, match="neither a PNG nor an MP4"):
        ch.picture("text", b"hello world", "c", alt="a")


# ------------------------------------------------------------------------------------------------ showing


def test_the_tables_of_facts(book: Any, shown: list[dict[str, str]]) -> None:
    ch = opened()
    for show_table in (ch.facts_table, ch.claims_in_paper, ch.provenance, ch.coverage, ch.data_table):
        assert show_table() is None, "nothing for a notebook to echo"
    facts, claims, provenance, coverage, data = (output["text/html"] for output in shown)
    assert "A &amp; B" in facts and '<a href="https://arxiv.org/abs/2503.01234v1">' in facts
    assert "A: 28.23<br>B: 1234.50" in claims and "at scale laptop and paper" in claims
    assert (
        ">lr<" in provenance and ">0.001<" in provenance and "paper: 1e-4" in provenance and ">seed<" not in provenance
    )
    assert "not covered" in coverage and "no people" in coverage
    assert "Data and models at smoke scale" in data
    assert all(len(output["text/plain"]) < 100 for output in shown)


def test_figures_are_numbered_and_closed(book: Any, shown: list[dict[str, str]]) -> None:
    ch = opened()
    before = plt.get_fignums()
    for _ in range(2):
        fig, _ = plt.subplots()
        ch.figure(fig, "A line.")
    assert plt.get_fignums() == before
    assert [output["text/markdown"] for output in shown if "text/markdown" in output] == [
        "**Figure 1.** A line.",
        "**Figure 2.** A line.",
    ]
    with pytest.raises(ReprobookError, match="a figure needs a caption"):
        ch.figure(plt.figure(), " ")


def draw(rows: pd.DataFrame) -> Any:
    """Each model's mean over seeds."""
    return show.curves(rows, "model", "ppl", marker="o")


def test_a_changed_parameter_draws_this_run_into_the_figure_of_the_records(
    book: Any, shown: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        publish(seed, tables=table_of([["A", 1.0 + seed], ["B", 3.0]]))

    def page(value: float = 9.0, **changes: Any) -> list[dict[str, str]]:
        shown.clear()
        ch = opened(**changes)
        ch.table("ppl", pd.DataFrame({"model": ["B", "C"], "ppl": [value, 9.0]}), display=False)
        ch.evidence_figure(draw, "ppl", caption="Perplexity ({evidence}).")
        return list(shown)

    there = plt.get_fignums()
    picture, caption = page()
    assert caption["text/markdown"] == "**Figure 1.** Perplexity (laptop scale, 2 seeds)."
    assert page(value=5.0)[0] == picture, "at the stored parameters the records stand alone"
    moved, caption = page(lr=0.5)
    assert "Crosses: this run with lr changed (smoke run, no evidence)." in caption["text/markdown"]
    assert moved["image/png"] != picture["image/png"] and page(value=5.0, lr=0.5)[0] != moved
    monkeypatch.setenv("JPY_SESSION_NAME", "chapter.ipynb")
    assert "Crosses: this run (smoke run, no evidence)." in page()[1]["text/markdown"]
    assert plt.get_fignums() == there


def test_a_figure_that_this_run_cannot_be_drawn_into_stands_above_its_own(
    book: Any, shown: list[dict[str, str]]
) -> None:
    publish(0, tables=table_of([["A", 1.0], ["B", 3.0]]))
    ch = opened(lr=0.5)
    ch.table("ppl", pd.DataFrame({"model": ["A", "B"], "ppl": [2.0, 9.0]}), display=False)

    def surface(rows: pd.DataFrame) -> Any:
        return show.heatmap(rows.set_index("model")[["ppl"]]).get_figure()

    ch.evidence_figure(surface, "ppl", caption="Perplexity ({evidence}).")
    captions = [output["text/markdown"] for output in shown if "text/markdown" in output]
    assert captions == ["**Figure 1.** Perplexity (laptop scale, 1 seed).",
                        "The same of this run with lr changed (smoke run, no evidence)."]  # fmt: skip
    shown.clear()
    ch.evidence_figure(surface, "no such table", caption="Nothing.")
    there = plt.get_fignums()

    def first(rows: pd.DataFrame) -> Any:
        fig, ax = plt.subplots()
        ax.set_title(rows.set_index("ppl").loc[1.0, "model"])
        return fig

    ch.evidence_figure(first, "ppl", caption="This run lacks what the figure names.")
    assert [output.get("text/markdown", "")[:12] for output in shown] == ["", "**Figure 2.*"]
    assert plt.get_fignums() == there


# ------------------------------------------------------------------------------------------------ finishing


def test_finish_writes_a_whole_record(book: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ch = filled(opened(scale="laptop", seed=3, lr=0.25), metric=float("nan"))
    ch.finish()
    assert capsys.readouterr().out.splitlines()[-1] == "laptop run recorded: 1 metrics, 2 claims"
    found = record.read(ch.out_dir / "record.json")
    assert (found.status, found.scale, found.seed, found.metrics) == ("complete", "laptop", 3, {"gap": None})
    assert found.params == {"scale": "laptop", "seed": 3, "device": "cpu", "lr": 0.25, "steps": 2}, "no folder in it"
    assert found.run_id.startswith("laptop-seed3-") and found.content and found.content["params"]["lr"] == 0.25
    assert found.claims["C1"].value == {"A": 1.0, "B": 2.0}
    assert (
        found.wall_s is not None
        and found.wall_s < 60
        and found.started
        and found.ended
        and found.ended >= found.started
    )
    assert str(book.root) not in (ch.out_dir / "record.json").read_text()


def test_finish_insists_on_every_claim_and_a_metric(book: Any) -> None:
    ch = opened()
    ch.metric("gap", 1)
    ch.claim("C1", value={}, holds=None)
    with pytest.raises(ReprobookError, match="nothing recorded for C2: call ch.claim"):
        ch.finish()
    ch = opened()
    ch.claim("C1", value={}, holds=None)
    ch.claim("C2", value={}, holds=None)
    with pytest.raises(ReprobookError, match="nothing recorded for any metric"):
        ch.finish()
    assert not (ch.out_dir / "record.json").exists()


def expect(book: Any, content: dict[str, Any]) -> None:
    book.write(f"notebooks/expected/{SLUG}.json", json.dumps(content))


@pytest.mark.parametrize(
    ("expected", "changes", "refresh", "line"),
    [
        (None, {}, "", "smoke metrics: 1 recorded, none expected yet"),
        ({"gap": {"value": 0.52, "atol": 0.05}}, {}, "", "smoke metrics: 1 of 1 within tolerance"),
        ({"gap": {"value": 9.0, "atol": 0.05}}, {}, "1", "smoke metrics: 1 of 1 within tolerance"),
        ({"gap": {"value": 9.0, "atol": 0.05}}, {"lr": 0.5}, "", "smoke metrics: 1 recorded, not compared: lr changed"),
        (
            {"gap": {"value": 9.0, "atol": 0.05}},
            {"seed": 1},
            "",
            "smoke metrics: 1 recorded, not compared: seed changed",
        ),
        ({"gap": {"value": 0.52, "atol": 0.05}}, {"device": "auto"}, "", "smoke metrics: 1 of 1 within tolerance"),
    ],
)
def test_a_smoke_run_ends_with_one_stable_line(
    book: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    expected: dict[str, Any] | None, changes: dict[str, Any], refresh: str, line: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("REPROBOOK_REFRESH", refresh)
    if expected is not None:
        expect(book, expected)
    ch = filled(opened(**changes))
    capsys.readouterr()
    ch.finish()
    assert capsys.readouterr().out == line + "\n"


def test_metrics_out_of_tolerance_are_listed_and_leave_no_record(book: Any) -> None:
    expect(book, {"gap": {"value": 0.25, "rtol": 0.1}, "lost": {"value": 1, "atol": 0}})
    ch = filled(opened())
    with pytest.raises(ReprobookError) as caught:
        ch.finish()
    assert str(caught.value).splitlines() == [
        "2 smoke metrics are not as in notebooks/expected/block_diffusion.json:",
        "  gap: 0.5 is outside the tolerance: expected 0.25 within 0.025",
        "  lost: expected, but not measured",
    ]
    assert not (ch.out_dir / "record.json").exists()


def test_two_runs_of_the_same_chapter_get_the_same_identity(book: Any) -> None:
    def identity(**changes: Any) -> tuple[str, Any]:
        ch = filled(opened(**changes))
        ch.finish()
        found = record.read(ch.out_dir / "record.json")
        return found.run_id, found.content

    assert identity() == identity()
    assert identity()[0] != identity(steps=3)[0]


def test_the_runner_and_the_chapter_agree_on_the_run_id(book: Any) -> None:
    from reprobook.content.key import content_key, run_id
    from reprobook.data import ChapterData
    from reprobook.params import resolve

    params = resolve(SLUG, "smoke", {"device": "cpu"})
    params.pop("out_dir")
    content = content_key(SLUG, params, ChapterData(SLUG, "smoke").checksums())
    ch = filled(opened())
    ch.finish()
    assert record.read(ch.out_dir / "record.json").run_id == run_id(SLUG, "smoke", 0, params, content)


def test_progress_bars_of_libraries_are_off(book: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    opened()
    assert are_progress_bars_disabled()


def test_a_table_too_wide_for_a_page_is_shown_in_two_parts() -> None:
    columns = [f"c{k}" for k in range(17)]
    frame = pd.DataFrame({"game": ["Points24", "EZ"], "method": ["RL, 0", "GTR"]})
    frame[[*columns, "n"]] = [[*["0.1 ± 0.2"] * 17, 5], [*["–"] * 17, 8]]
    first, second = pages((frame, "Hands"), None)
    assert list(first[0]) == ["game", "method", *columns[:9], "n"] and first[1] == "Hands"
    assert list(second[0]) == ["game", "method", *columns[9:], "n"] and second[1] == "Hands, further columns"
    narrow = frame[["game", "method", *columns[:14]]]
    assert pages((narrow, "Hands"), None)[0][0] is narrow
    (own, other) = pages((pd.DataFrame([range(17)], columns=columns), ""), None)  # rows without names
    assert [*own[0], *other[0]] == columns and other[1] == ""
