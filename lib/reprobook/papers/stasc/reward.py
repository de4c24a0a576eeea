"""In-accuracy (Section 3): a generation is right if it contains one of the reference answers.

Containing means: as a contiguous run of tokens after normalisation, as in the open-domain QA scripts that the paper's
code follows. Punctuation becomes a blank (SQuAD's F1 deletes it), so "U.S." is "u s" and not "us"; accents matter. The
released code blanks ASCII punctuation alone; other marks (“ ” ’ –) stay as tokens of their own, so that "N’Djamena"
does not match "N'Djamena" there. Ours blanks all punctuation; ``ascii_only`` is theirs.
"""

from __future__ import annotations

import functools
import string
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import regex

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.papers.stasc.questions import Question

Mode = Literal["default", "final"]
MODES = ("default", "final")
_ASCII = regex.escape(string.punctuation)
_PUNCTUATION = {True: regex.compile(f"[{_ASCII}]"), False: regex.compile(rf"[\p{{P}}{_ASCII}]")}
_ARTICLES = regex.compile(r"\b(?:a|an|the)\b")
_TOKENS = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
_FINAL = regex.compile(r"final\s+answer\s*:", regex.IGNORECASE)


@functools.lru_cache(maxsize=200_000)
def normalise(text: str, ascii_only: bool = False) -> tuple[str, ...]:
    """Tokens of ``text``: NFD, lower case, punctuation and articles to blanks; then runs of letters, digits, marks."""
    text = unicodedata.normalize("NFD", text).lower()
    return tuple(_TOKENS.findall(_ARTICLES.sub(" ", _PUNCTUATION[ascii_only].sub(" ", text))))


def final_answer(text: str) -> str:
    """What follows the first "Final Answer:" (any case); empty without that heading."""
    found = _FINAL.search(text)
    return text[found.end() :] if found else ""


def has_answer(text: str, references: Sequence[str], ascii_only: bool = False) -> bool:
    """Whether the tokens of any reference occur in those of ``text``, side by side and in order.

    Raises :class:`ReprobookError` for a reference of which normalisation leaves nothing: it would match everything.
    """
    line = _line(normalise(text, ascii_only))
    found = False
    for reference in references:
        tokens = normalise(reference, ascii_only)
        if not tokens:
            raise ReprobookError(
                f"reference {reference!r} normalises to nothing (articles and punctuation are blanks), so that every "
                "answer would contain it: leave it out"
            )
        found = found or _line(tokens) in line
    return found


def _line(tokens: Sequence[str]) -> str:
    return "\n" + "\n".join(tokens) + "\n"  # no token holds a line break


@functools.lru_cache(maxsize=500_000)
def reward(text: str, references: tuple[str, ...], mode: Mode = "default") -> float:
    """r in {0, 1}. ``default`` searches the whole generation, reasoning included; ``final`` only the final answer."""
    if mode not in MODES:
        raise ReprobookError(f"reward mode {mode!r} is not known; modes: {', '.join(MODES)}")
    return float(has_answer(text if mode == "default" else final_answer(text), references))


def rewards(texts: Sequence[Sequence[Any]], questions: Sequence[Question], mode: Mode = "default") -> np.ndarray:
    """r of nested texts, one entry per question: (Q, J) or, nested once more, (Q, J, K), as float64."""
    if len(texts) != len(questions):
        raise ReprobookError(f"{len(texts)} lists of answers for {len(questions)} questions")

    def score(item: Any, references: tuple[str, ...]) -> Any:
        if isinstance(item, str):
            return reward(item, references, mode)
        return [score(each, references) for each in item]

    rows = [score(row, q.references) for row, q in zip(texts, questions, strict=True)]
    return np.asarray(rows, dtype=np.float64)
