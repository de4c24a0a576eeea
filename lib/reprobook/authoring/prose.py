"""Numbers in prose come from records or facts: a typed one that is in neither contradicts them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from reprobook import facts, record
from reprobook.authoring.citations import HEADING
from reprobook.params import resolve
from reprobook.project import SCALES, notebook_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?!\w|\.\d|\s?B\b)")
_APART = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|https?://\S+", re.DOTALL)


def typed_numbers(slug: str) -> list[str]:
    """Decimal numbers that the prose of chapter ``slug`` types and that stand in none of: the paper's figures, tests
    and controls, the parameters, the committed laptop and paper records (metrics, tables, effects), rounded as
    typed."""
    import nbformat

    known = sorted({round(abs(value), 9) for value in _known(slug)})
    found = []
    for cell in nbformat.read(notebook_path(slug), as_version=4).cells:
        if cell.cell_type == "markdown":
            text = _APART.sub(" ", cell.source.partition(HEADING)[0])
            found += [typed for typed in _DECIMAL.findall(text) if not _stands_in(typed, known)]
    return [f"the prose types {typed}, which is in no fact, parameter or record: use ch.say" for typed in found]


def _stands_in(typed: str, known: Iterable[float]) -> bool:
    value, decimals = float(typed), len(typed.partition(".")[2])
    half = 0.5000001 * 10.0**-decimals
    return any(abs(each - value) <= half or abs(100 * each - value) <= half for each in known)  # shares as per cent


def _known(slug: str) -> Iterator[float]:
    paper = facts.load(slug)
    yield from _numbers([claim.model_dump() for claim in paper.claims.values()])
    yield from _numbers([table.rows for table in paper.tables.values()])
    yield from _numbers([resolve(slug, scale) for scale in SCALES])
    for scale in ("laptop", "paper"):
        for each in record.results(slug, scale):
            effects = [effect.model_dump() for effect in each.effects.values()]
            yield from _numbers([each.metrics, [table.rows for table in each.tables.values()], effects])


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in nested lists and mappings; in texts too ("0.12 [0.05, 0.19]")."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, str):
        yield from map(float, re.findall(r"\d+\.\d+", value))
