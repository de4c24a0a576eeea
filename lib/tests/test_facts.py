"""Facts files: the format's promises, and every file of the book against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from reprobook import facts
from reprobook.facts import FactsError

SLUG = "block_diffusion"

BOOK = Path(__file__).resolve().parents[2] / "book"
FILES = sorted((BOOK / "papers").glob("*.yaml"))


def content() -> dict[str, Any]:
    figures = {"A": 1.5, "B": 2, "C": "n/a"}
    claim = {"says": "A beats B", "paper": figures, "where": "Table 1", "testable_at": ["laptop"], "how": "order"}
    table = {"caption": "Main", "where": "Table 1", "columns": ["Model", "PPL"], "rows": [["A", 1.5], ["B", None]]}
    human = {"part": "human study", "scales": [], "note": "no people"}
    return {
        "title": "A paper", "arxiv": {"id": "2503.01234", "version": 2}, "authors": ["A. Author"], "year": 2025,
        "licences": {"text": "CC-BY-4.0"}, "citation": "author2025", "one_line": "A is better.",
        "claims": {"C1": claim, "C2": {**claim, "testable_at": ["paper"]}},
        "tables": {"table1": table},
        "coverage": [{"part": "method", "scales": ["smoke", "laptop", "paper"]}, human],
    }  # fmt: skip


def parse(changed: dict[str, Any]) -> facts.Facts:
    return facts.parse(yaml.safe_dump({**content(), **changed}, sort_keys=False), "book/papers/x.yaml")


def test_a_whole_file_is_read(checkout: Any) -> None:
    checkout.write(f"book/papers/{SLUG}.yaml", yaml.safe_dump(content(), sort_keys=False))
    found = facts.load(SLUG)
    assert found.claim("C1").paper == {"A": 1.5, "B": 2, "C": "n/a"}
    assert found.arxiv_url == "https://arxiv.org/abs/2503.01234v2"
    assert found.code is None and found.venue is None
    labels = [label for label, _ in found.identity()]
    assert labels == ["Paper", "Authors", "arXiv", "Venue", "Licences", "In one line"]


def test_a_reported_table_becomes_a_frame() -> None:
    frame = parse({}).frame("table1")
    assert list(frame.columns) == ["Model", "PPL"]
    assert frame["PPL"].tolist()[0] == 1.5 and frame["PPL"].isna().tolist() == [False, True]


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(FactsError, match="unknown claim 'C7'; claims of this paper: C1, C2"):
        parse({}).claim("C7")
    with pytest.raises(FactsError, match="unknown table 'Table 1'; reported tables: table1"):
        parse({}).frame("Table 1")


def test_a_missing_file_says_where_it_belongs(checkout: Any) -> None:
    with pytest.raises(FactsError, match=f"book/papers/{SLUG}.yaml does not exist"):
        facts.load(SLUG)


CLAIM, TABLE = content()["claims"]["C1"], content()["tables"]["table1"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arxiv": {"id": 2503.01234, "version": 2}}, "arxiv.id: Input should be a valid string"),
        ({"arxiv": {"id": "2503.01234v2", "version": 2}}, "arxiv.id"),
        ({"titel": "x"}, "titel: Extra inputs are not permitted"),
        ({"title": ""}, "title"),
        ({"claims": {"C1": CLAIM, "C3": CLAIM}}, "must be named C1, C2 in this order"),
        ({"claims": {}}, "claims"),
        ({"claims": {"C1": {**CLAIM, "testable_at": ["smoke"]}}}, "claims.C1.testable_at.0"),
        ({"tables": {"t": {**TABLE, "rows": [["x"]]}}}, "has 1 cells, .* 2 columns"),
        ({"coverage": [{"part": "p", "scales": []}]}, "needs a note"),
        ({"year": "2025"}, "year"),
    ],
)  # fmt: skip
def test_a_file_that_breaks_the_format_names_file_and_place(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(FactsError, match=message) as caught:
        parse(changed)
    assert "book/papers/x.yaml" in str(caught.value)


def test_a_key_given_twice_is_not_lost_silently() -> None:
    with pytest.raises(FactsError, match="'C1' is given twice"):
        facts.parse("claims:\n  C1: {}\n  C1: {}\n", "x.yaml")


@pytest.mark.parametrize("text", ["", "- a list", "a: [1", "only text"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(FactsError, match="x.yaml"):
        facts.parse(text, "x.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_facts_file_of_the_book_is_valid(path: Path) -> None:
    found = facts.parse(path.read_text("utf-8"), path.name)
    for name in found.tables:
        assert len(found.frame(name)) == len(found.tables[name].rows)
    if (BOOK / "references.bib").is_file():
        assert f"{{{found.citation}," in (BOOK / "references.bib").read_text("utf-8"), (
            "the citation key is in references.bib"
        )
