"""Constraints that a rule can verify: two kinds in each of the paper's eight categories, and their rules.

Rules read the text without the markers of a numbered list and whatever its case, so that numbering a list or
lower-casing the text breaks no other constraint.
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


def phrase_in(phrase: str, text: str) -> bool:
    """Whether the words of ``phrase`` stand in ``text`` one behind the other."""
    wanted, there = words(phrase), words(text)
    return any(there[k : k + len(wanted)] == wanted for k in range(len(there) - len(wanted) + 1))


def _lower(response: str) -> bool:
    return not any(letter.isupper() for letter in response)


def _asks(response: str) -> bool:
    return "?" in response


def _includes(response: str, word: str) -> bool:
    return phrase_in(word, response)


def _avoids(response: str, word: str) -> bool:
    return not phrase_in(word, response)


def _numbered(response: str, k: int) -> bool:
    found = re.findall(r"^[ \t]*(\d+)[.)][ \t]*\S", response, re.MULTILINE)
    return [int(number) for number in found] == list(range(1, k + 1))


def _paragraphs(response: str, k: int) -> bool:
    return len([part for part in re.split(r"\n[ \t]*\n", response.strip()) if part.strip()]) == k


def _at_most(response: str, most: int) -> bool:
    return len(words(response)) <= most


def _between(response: str, least: int, most: int) -> bool:
    return least <= len(words(response)) <= most


def _opens(response: str, phrase: str) -> bool:
    return words(response)[: len(words(phrase))] == words(phrase)


def _closes(response: str, phrase: str) -> bool:
    return words(response)[-len(words(phrase)) :] == words(phrase)


def _first_sentence(response: str, word: str) -> bool:
    return phrase_in(word, sentences(response)[0])


def _often(response: str, word: str, least: int) -> bool:
    return words(response).count(word.lower()) >= least


def _new_starts(response: str) -> bool:
    starts = [words(sentence)[0] for sentence in sentences(response)]
    return len(set(starts)) == len(starts) > 1


def _ends(response: str) -> bool:
    return response.rstrip().rstrip("\"')]*").endswith((".", "!", "?"))


def _quotes(response: str, edited: str) -> bool:
    return phrase_in(edited, response)


# kind -> its category and its rule, called with the response and what the constraint needs.
KINDS: dict[str, tuple[str, Callable[..., bool]]] = {
    "lower case": ("Style and Tone", _lower),
    "question": ("Style and Tone", _asks),
    "include a word": ("Include / Avoid", _includes),
    "avoid a word": ("Include / Avoid", _avoids),
    "numbered list": ("Format and Structure", _numbered),
    "paragraphs": ("Format and Structure", _paragraphs),
    "at most": ("Length", _at_most),
    "between": ("Length", _between),
    "opening words": ("Persona and Role", _opens),
    "closing words": ("Persona and Role", _closes),
    "first sentence": ("Focus / Emphasis", _first_sentence),
    "name it often": ("Focus / Emphasis", _often),
    "new starts": ("Ensure Quality", _new_starts),
    "ends whole": ("Ensure Quality", _ends),
    "replace": ("Editing", _quotes),
    "remove": ("Editing", _quotes),
}


def of_category(category: str) -> list[str]:
    """The kinds of a category."""
    found = [kind for kind, (its, _) in KINDS.items() if its == category]
    if not found:
        raise ReprobookError(f"category {category!r} is not known; categories: {', '.join(CATEGORIES)}")
    return found
