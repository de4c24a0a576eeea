"""What a run uses: the artefacts that its parameters name, and the optional ones that are there; its record says so."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from reprobook import data, project, record
from reprobook.batch.plan import load
from reprobook.batch.tasks import expand, inputs
from reprobook.chapter import open_chapter
from reprobook.cli import main
from reprobook.content.key import differences
from reprobook.data import ChapterData, load_manifest
from reprobook.data.errors import ManifestError
from reprobook.params import read_parameters
from reprobook.runs.runner import prepare
from servers import Answer

if TYPE_CHECKING:
    from servers import Site

ROOT = Path(__file__).resolve().parents[3]
SLUG = "block_diffusion"
FACTS = {
    "title": "A paper", "arxiv": {"id": "2503.00001", "version": 1}, "authors": ["A. Author"], "year": 2025,
    "licences": {"text": "CC-BY-4.0"}, "citation": "key", "one_line": "One line.",
    "claims": {"C1": {"says": "a", "paper": {}, "where": "Table 1", "testable_at": ["laptop"], "how": "order"}},
    "coverage": [{"part": "all of it", "scales": ["laptop"]}],
}  # fmt: skip


def _artefact(name: str, address: str = "http://127.0.0.1:9", **fields: Any) -> dict[str, Any]:
    """An artefact whose content is its name."""
    url = {"url": f"{address}/{name}", "sha256": sha256(name.encode()).hexdigest(), "bytes": len(name)}
    return {
        "id": name,
        "kind": "model",
        "what": "a test",
        "license": "MIT",
        "scales": ["smoke"],
        "source": {"url": url},
    } | fields


@pytest.fixture
def chapter(checkout: Any) -> Any:
    """A chapter with the parameters ``judge`` and ``models``; returns a function that writes its manifest."""
    text = 'judge: str = "small"  # one model\nmodels: list[str] = ["small", "tiny"]  # several\n'
    checkout.notebook(
        parameters=(ROOT / "lib/tests/conftest.py").read_text().split('"""\\\n')[1].split('"""')[0] + text
    )
    checkout.write(f"book/papers/{SLUG}.yaml", yaml.safe_dump(FACTS, sort_keys=False))

    def write(*artefacts: dict[str, Any]) -> None:
        checkout.write(f"data_manifests/{SLUG}.yaml", yaml.safe_dump({"artefacts": list(artefacts)}))

    return write


def test_a_run_uses_what_its_parameters_name(chapter: Any) -> None:
    chapter(
        *(_artefact(name, when={"judge": name, "models": name}) for name in ("small", "tiny", "large")),
        _artefact("text", when={"models": ["large", "huge"]}),
        _artefact("always"),
    )
    assert ChapterData(SLUG, "smoke").ids() == ["small", "tiny", "always"]
    assert [row.id for row in data.plan([SLUG], "smoke")] == ["small", "tiny", "always"]
    given = {"models": ["huge"], "judge": "large"}
    assert [row.id for row in data.plan([SLUG], "smoke", given)] == ["large", "text", "always"]
    _, usual, _ = prepare(SLUG, "smoke", {})
    _, identity, params = prepare(SLUG, "smoke", given)
    assert sorted(identity["data"]) == ["always", "large", "text"] and sorted(usual["data"]) == [
        "always",
        "small",
        "tiny",
    ]
    ch = open_chapter(SLUG, scale="smoke", seed=0, device="cpu", params={**params, "out_dir": ""})
    assert sorted(ch.data.checksums()) == ["always", "large", "text"], "the notebook gets what the override names"


def test_a_planned_run_has_the_data_of_its_parameters(chapter: Any, checkout: Any) -> None:
    chapter(*(_artefact(name, when={"judge": name}) for name in ("small", "large")))
    plan = "runs: [{chapters: all, scale: smoke, product: {judge: [small, large], steps: [1, 2]}}]"
    tasks = expand(load(checkout.write("plan.yaml", plan)))
    for task in tasks:
        _, identity, _ = prepare(SLUG, "smoke", task.overrides)
        assert (identity["run_id"], identity["content"]["digest"]) == (task.run_id, task.digest)
        assert list(identity["data"]) == [task.overrides["judge"]]
    assert [command for *_, command in inputs(tasks)] == [
        f'reprobook data fetch {SLUG} --scale smoke -p judge="{name}"' for name in ("small", "large")
    ]


def test_a_parameter_that_the_chapter_does_not_have(chapter: Any) -> None:
    chapter(_artefact("small", when={"juge": "small"}))
    says = "small: when: the chapter has no parameter juge; it has: scale, seed, .*judge, models"
    with pytest.raises(ManifestError, match=says):
        ChapterData(SLUG, "smoke")


@pytest.mark.parametrize("slug", ["more_documents", "scmmgpt"])
def test_the_book_s_paper_scales_fetch_what_they_name(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPROBOOK_ROOT", str(ROOT))
    models = {
        "more_documents": [
            "qwen2.5-7b-instruct",
            "qwen2.5-72b-instruct",
            "llama-3.2-3b-instruct",
            "llama-3.3-70b-instruct",
            "gemma-2-9b-it",
            "gemma-2-27b-it",
        ],
        "scmmgpt": ["minilm-l6", "biomedbert", "llama-2-7b"],
    }
    assert [a.id for a in load_manifest(slug).at("paper") if a.kind == "model"] == models[slug]
    more = {"more_documents": {"models": ["gemma-2-9b-it"]}, "scmmgpt": {"released_lm": "tinyllama"}}
    rows, named = [row.id for row in data.plan([slug], "paper", more[slug])], next(iter(more[slug].values()))
    assert named in rows if isinstance(named, str) else [row for row in rows if row in models[slug]] == named


def test_every_choice_of_the_book_names_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPROBOOK_ROOT", str(ROOT))
    for slug in project.chapters():
        names = {name for scale in project.SCALES for name in load_manifest(slug).deciding(scale)}
        assert not names or names <= set(read_parameters(slug)), slug


def test_a_run_without_an_optional_model_is_complete_and_another_run(chapter: Any, site: Site) -> None:
    chapter(_artefact("model", site.address, optional=True))
    folder, identity, params = prepare(SLUG, "smoke", {"device": "cpu"})
    assert identity["data"] == {"model": "not available"}

    def run() -> record.Record:
        ch = open_chapter(SLUG, scale="smoke", seed=0, device="cpu", params={**params, "out_dir": ""})
        ch.metric("gap", 1.0 if ch.data.path_or_none("model") else 0.0)
        ch.claim("C1", value={}, holds=None)
        ch.finish()
        return record.read(ch.out_dir / "record.json")

    without = run()
    assert (without.status, without.data) == ("complete", {"model": "not available"})
    assert without.run_id == identity["run_id"] == folder.name and without.metrics == {"gap": 0.0}
    site.pages["/model"] = Answer(body=b"model")
    ChapterData(SLUG, "smoke").bring_optional()
    _, now, _ = prepare(SLUG, "smoke", {"device": "cpu"})
    assert now["run_id"] != without.run_id and without.content is not None
    assert differences(without.content, now["content"]) == ["data model was not available"]
    having = run()
    assert (having.data, having.metrics) == ({"model": sha256(b"model").hexdigest()}, {"gap": 1.0})
    assert having.run_id == now["run_id"]


def test_a_plan_sums_what_is_known_and_looks_at_the_disk(chapter: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hub = {"repo_id": "a/b", "revision": None, "allow_patterns": ["*.json"]}
    large = {"source": {"hub": {**hub, "bytes_estimate": 2 * 10**18}}, "when": {"judge": "large"}}
    chapter(
        _artefact("small"), _artefact("large", **large),
        _artefact("dark", source={"hub": {**hub, "size_unknown": "nobody says"}}),
    )  # fmt: skip
    assert main(["data", "plan", SLUG, "--scale", "smoke"]) == 0
    *_, why, total = capsys.readouterr().out.splitlines()
    assert why == "dark: size not known: nobody says"
    assert re.fullmatch(r"2 of 2 to fetch, 5 B and 1 of unknown size; the disk has [\d.]+ [MGT]B free", total)
    assert main(["data", "plan", SLUG, "--scale", "smoke", "-p", "judge=large"]) == 0
    *_, total = capsys.readouterr().out.splitlines()
    assert total.startswith("3 of 3 to fetch, about 2000000.0 TB and 1 of unknown size; the disk has ")
    assert total.endswith(" free: too little")
