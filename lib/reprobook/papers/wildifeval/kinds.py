"""Constraints that a rule can verify: three kinds in each of the paper's eight categories, and their rules.

Rules read the text without the markers of a list and, but for capitals, whatever its case, so that laying it out as a
list breaks no other constraint. Kinds were chosen by a pilot of their own: asked for alone, the larger of the two small
models fulfils each in 0.2 to 0.95 of 16 tasks; bounds of length were set so that it does. Of the candidates that
passed, those that need something of the task came first, for a text that reads nothing cannot fulfil them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from reprobook.errors import ReprobookError

# Order of the paper's classifier prompt (third version, Appendix A: 0 to 7).
CATEGORIES = (
    "Style and Tone", "Include / Avoid", "Format and Structure", "Length", "Persona and Role", "Focus / Emphasis",
    "Ensure Quality", "Editing",
)  # fmt: skip
_MARKER = re.compile(r"^[ \t]*\d+[.)][ \t]*", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z0-9]+(?:['’][A-Za-z]+)?")
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")


@dataclass(frozen=True)
class Constraint:
    """One constraint: its ``kind`` (a key of :data:`KINDS`), the ``text`` of it, and what its rule needs."""

    kind: str
    text: str
    needs: tuple[str | int, ...] = field(default=())

    @property
    def category(self) -> str:
        """The paper's category."""
        return KINDS[self.kind][0]

    def holds(self, response: str) -> bool:
        """Whether ``response`` satisfies the constraint, by its rule. An empty response satisfies none."""
        return bool(words(response)) and KINDS[self.kind][1](response, *self.needs)


def plain(response: str) -> str:
    """The text without the markers of a numbered list."""
    return _MARKER.sub("", response).strip()


def words(response: str) -> list[str]:
    """Lower-case words without list markers; digits count, marks do not."""
    return [word.lower() for word in _WORD.findall(plain(response))]


def sentences(response: str) -> list[str]:
    """Sentences, also ended by a line break, without list markers and without empty ones."""
    return [part.strip() for part in _END.split(plain(response)) if _WORD.search(part)]


def count_of(phrase: str, text: str) -> int:
    """How often the words of ``phrase`` stand in ``text`` one behind the other."""
    wanted, there = words(phrase), words(text)
    return sum(there[k : k + len(wanted)] == wanted for k in range(len(there) - len(wanted) + 1))


def _includes(response: str, phrase: str) -> bool:
    return count_of(phrase, response) > 0


def _includes_all(response: str, *phrases: str) -> bool:
    return all(count_of(phrase, response) > 0 for phrase in phrases)


def _avoids(response: str, word: str) -> bool:
    return count_of(word, response) == 0


def _often(response: str, phrase: str, least: int) -> bool:
    return count_of(phrase, response) >= least


def _bullets(response: str, k: int) -> bool:
    return len(re.findall(r"^[ \t]*[-*•][ \t]+\S", response, re.MULTILINE)) == k


def _brackets(response: str, word: str) -> bool:
    return f"({word})" in response.lower()


def _capitals(response: str, word: str) -> bool:
    return word.upper() in response


def _at_most(response: str, most: int) -> bool:
    return len(words(response)) <= most


def _at_least(response: str, least: int) -> bool:
    return len(words(response)) >= least


def _between(response: str, least: int, most: int) -> bool:
    return least <= len(words(response)) <= most


def _first_sentence(response: str, word: str) -> bool:
    return count_of(word, sentences(response)[0]) > 0


def _last_sentence(response: str, word: str) -> bool:
    return count_of(word, sentences(response)[-1]) > 0


def _new_starts(response: str) -> bool:
    starts = [words(sentence)[0] for sentence in sentences(response)]
    return len(set(starts)) == len(starts) > 1


def _ends(response: str) -> bool:
    return response.rstrip().rstrip("\"')]*").endswith((".", "!", "?"))


# kind -> its category and its rule, called with the response and what the constraint needs.
KINDS: dict[str, tuple[str, Callable[..., bool]]] = {
    "tone word": ("Style and Tone", _includes),
    "tone twice": ("Style and Tone", _often),
    "two tones": ("Style and Tone", _includes_all),
    "include a word": ("Include / Avoid", _includes),
    "avoid a word": ("Include / Avoid", _avoids),
    "two words": ("Include / Avoid", _includes_all),
    "bullet points": ("Format and Structure", _bullets),
    "word in brackets": ("Format and Structure", _brackets),
    "word in capitals": ("Format and Structure", _capitals),
    "at least": ("Length", _at_least),
    "between": ("Length", _between),
    "at most": ("Length", _at_most),
    "first person": ("Persona and Role", _includes),
    "trade at the end": ("Persona and Role", _last_sentence),
    "trade first": ("Persona and Role", _first_sentence),
    "first sentence": ("Focus / Emphasis", _first_sentence),
    "name it often": ("Focus / Emphasis", _often),
    "last sentence": ("Focus / Emphasis", _last_sentence),
    "new starts": ("Ensure Quality", _new_starts),
    "ends whole": ("Ensure Quality", _ends),
    "connective": ("Ensure Quality", _includes),
    "quote": ("Editing", _includes),
    "keep words": ("Editing", _includes),
    "keep the end": ("Editing", _includes),
}


def of_category(category: str) -> list[str]:
    """The kinds of a category."""
    found = [kind for kind, (its, _) in KINDS.items() if its == category]
    if not found:
        raise ReprobookError(f"category {category!r} is not known; categories: {', '.join(CATEGORIES)}")
    return found
