"""Answers: parsing what a model wrote, and SQuAD-style F1 as MuSiQue has it, in the four ways of the released script.

The measure is a dozen lines and its details (which marks are deleted, what an empty side scores) are the paper's, so it
stands here; the tests hold it against the SQuAD metric of another library's rules worked out by hand.
"""

from __future__ import annotations

import ast
import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_DELETE = str.maketrans("", "", string.punctuation)
_KEYS = ["isanswerable", "answercontent"]  # the key words of an answer, normalised
_OBJECT = re.compile(r"\{[^\n]*\}")


def normalised_tokens(text: str) -> list[str]:
    """Lower case, punctuation deleted (no blank in its place), the words a, an, the dropped, split at blanks."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_DELETE)).split()


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Largest F1 = 2PR / (P + R) over the gold strings, on multisets of normalised tokens, in [0, 1]. If a side has no
    token: 1 if both have none, else 0."""
    return max(_f1(normalised_tokens(prediction), normalised_tokens(gold)) for gold in golds)


def _f1(prediction: list[str], gold: list[str]) -> float:
    if not prediction or not gold:
        return float(prediction == gold)
    common = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * common / (len(prediction) + len(gold))


@dataclass(frozen=True)
class Answer:
    """What a model's text says. ``text`` is what is scored: "" if it declares the question unanswerable, the whole
    response if it cannot be parsed. ``value`` is the parsed object, or None."""

    text: str
    parsed: bool
    answerable: bool
    value: dict[str, Any] | None = None


def parse_answer(response: str) -> Answer:
    """Read ``{"is_answerable": ..., "answer_content": ...}`` from a response: from the first brace to the last on one
    line, as JSON or, failing that, as a Python literal. Nothing is ever evaluated (the released code does)."""
    for found in _OBJECT.finditer(response):
        value = _load(found.group())
        if isinstance(value, dict) and isinstance(value.get("is_answerable"), bool):
            content = value.get("answer_content")
            answerable = value["is_answerable"]
            return Answer(str(content) if answerable and content is not None else "", True, answerable, value)
    return Answer(response, False, True)


def _load(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def four_scores(response: str, golds: Sequence[str]) -> dict[str, float]:
    """Four scores of one response, for the four means that the released script prints. ``whole``: F1 of the printed
    object against the printed gold object, which gives 0.75 to a wrong one-word answer because the key words count;
    ``content``: F1 of the answer, the only one that says how good it is; ``format``: F1 of the key words that it
    holds, 2/3 for a refusal that leaves out the content; ``answerable``: whether it says so. These are the scores as
    meant, not the script's own where it slips: JSON's ``true`` is no Python name to it (``answerable`` 0), and it
    deletes an answer's words from the key words, too."""
    answer = parse_answer(response)
    printed = str(answer.value) if answer.value is not None else response
    return {
        "whole": f1(printed, [str({"is_answerable": True, "answer_content": gold}) for gold in golds]),
        "content": f1(answer.text, golds),
        "format": _f1([token for token in normalised_tokens(printed) if token in _KEYS], _KEYS),
        "answerable": float(answer.parsed and answer.answerable),
    }
