"""Questions with a known answer in real text: a fact about an invented person stands in a paragraph of each article.

A question asks for one fact. The facts of the other documents either state the *same relation of somebody else* (a
look-alike) or another relation; nothing else about them differs, and all of them stand in every set. So the number of
look-alikes and the number of documents can be moved one at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reprobook.data.text import visible_text, wikipedia_articles
from reprobook.errors import ReprobookError
from reprobook.papers.more_documents.sets import (
    Document,
    Instance,
    Page,
    TooShortError,
    build_set,
    page,
    retained,
    splice,
)

if TYPE_CHECKING:
    from reprobook.papers.more_documents.sets import BuiltSet, Spans

# One token each, with a blank in front, in the vocabularies of SmolLM2 and Qwen2.5: a fact has the same number of
# tokens whatever its relation, and an answer is one token, so that no choice is longer than another.
RELATIONS = (
    "mentor", "rival", "tutor", "patron", "sponsor", "employer", "publisher", "architect", "guardian", "lawyer",
    "neighbor", "editor", "painter", "captain", "landlord", "tailor", "baker", "dentist", "coach", "judge",
)  # fmt: skip
FAMILY = tuple(
    "Adams Allen Anderson Baker Bennett Brooks Butler Campbell Carter Coleman Collins Cooper Davis Edwards Evans "
    "Fisher Foster Gordon Graham Griffin Hamilton Harris Hayes Henderson Hughes Hunter Jenkins Kelly Marshall Mason "
    "Miller Mitchell Morgan Morris Murphy Murray Myers Nelson Owens Palmer Parker Perry Peterson Phillips Porter "
    "Powell Reed Reynolds Richardson Roberts Rogers Sanders Shaw Simpson Stevens Stewart Sullivan Turner Tucker "
    "Wallace Watson"
    .split()
)  # fmt: skip
GIVEN = tuple(
    "Alice Anna Emma Julia Laura Maria Nina Rachel Sarah Helen Karen Linda Lucy Martha Nancy Rosa Ruth Susan Vera "
    "Oscar Victor Leo Otto Peter Philip Ralph Simon Stephen Vincent Walter Arthur Carl Daniel Edgar Frank Henry "
    "Ivan Jacob"
    .split()
)  # fmt: skip
LEAD_SHARE = 0.5  # of paragraphs that open their article if its first sentences have the length, as is common
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_WORD = re.compile(r"\w+|[^\w\s]")


def word_spans(text: str) -> np.ndarray:
    """Spans (n, 2) of words and single marks."""
    return np.array([match.span() for match in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)


class TokenizerSpans:
    """Spans (n, 2) of the tokens of a fast tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str) -> np.ndarray:
        """First and last character (n, 2) of each token of ``text``, without the blank that belongs to a token."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return np.array([(a + (b > a and text[a] == " "), b) for a, b in found["offset_mapping"]],
                        dtype=np.int64).reshape(-1, 2)  # fmt: skip


# ------------------------------------------------------------------------------------------------- real articles


@dataclass(frozen=True, eq=False)
class Article:
    """A page with its title and the tokens ``borders`` (k,) at which its sentences begin, and the end."""

    title: str
    page: Page
    borders: np.ndarray


def wikipedia(path: str | Path) -> dict[str, str]:
    """Title -> running text of the articles of the Wikipedia extract: headings, list marks and quotes of wiki markup
    removed."""
    found = {}
    for article in wikipedia_articles(path):
        text = re.sub(r"^[ =*#:;|!{}].*$", " ", visible_text(article.markup).replace("'''", "").replace("''", ""),
                      flags=re.MULTILINE)  # fmt: skip
        found[article.title] = re.sub(r"\s+", " ", text).strip()
    return found


def articles(texts: dict[str, str], spans: Spans, least: int = 700, most: int = 2500) -> list[Article]:
    """Every text of at least ``least`` tokens as an article; of longer ones the sentences in the first ``most`` tokens
    (the page is read as a ring, so its end must not cut one)."""
    found = []
    for title, text in texts.items():
        whole = page(text[: 12 * most], spans) if text else None
        if whole is not None and len(whole) >= least:
            n = int(_borders(whole)[_borders(whole) <= most][-1])
            short = Page(whole.text[: whole.spans[n - 1, 1]], whole.spans[:n])
            found.append(Article(title, short, _borders(short)))
    if not found:
        raise ReprobookError(f"no text has the {least} tokens that a page needs: take longer articles or smaller sets")
    return found


def _borders(text: Page) -> np.ndarray:
    """Tokens at which the sentences of a text begin, 0 and the end among them."""
    cuts = [0, *(match.end() for match in _SENTENCE.finditer(text.text)), len(text.text)]
    return np.unique(np.searchsorted(text.spans[:, 0], cuts))


# ------------------------------------------------------------------------------------------------- questions


@dataclass(frozen=True)
class Fact:
    """ "The R of ``entity`` is ``value``.", at token ``at`` of the page; R is the asked relation or ``other``."""

    entity: str
    value: str
    other: str
    at: int


@dataclass(frozen=True, eq=False)
class Question:
    """A question over real paragraphs. ``plain``: its documents without facts; ``facts``: one for each of them;
    ``relation``: what is asked; ``bin``: which of the lengths of a paragraph it has."""

    plain: Instance
    facts: tuple[Fact, ...]
    relation: str
    bin: int
    spans: Spans

    @property
    def id(self) -> str:
        """Name of the question."""
        return self.plain.id

    @property
    def question(self) -> str:
        """What is asked."""
        return self.plain.question

    @property
    def about(self) -> str:
        """Title of the article whose paragraph holds the answer."""
        return self.plain.documents[self.asked].title

    @property
    def asked(self) -> int:
        """Index of the document that holds the answer."""
        return self.plain.supporting[0]

    @property
    def stub(self) -> str:
        """How an answer in a full sentence begins: easy questions as the document says it, hard ones in another way."""
        person = self.facts[self.asked].entity
        return f"{person}'s {self.relation} is" if " " in person else f"The {self.relation} of {person} is"

    @property
    def choices(self) -> list[str]:
        """What the facts of all documents state: the answer and its rivals, in the order of the documents."""
        return [fact.value for fact in self.facts]

    def sentences(self, look_alikes: int, seed: int = 0) -> list[str]:
        """One sentence a document; ``look_alikes`` of them, and the answer's, state the asked relation. Which ones they
        are is nested, in the order in which documents are kept."""
        named = set(retained(self.plain, 1 + look_alikes, seed).tolist())
        return [
            f"The {self.relation if k in named else fact.other} of {fact.entity} is {fact.value}."
            for k, fact in enumerate(self.facts)
        ]

    def instance(self, look_alikes: int, seed: int = 0) -> Instance:
        """The documents with their facts in their paragraphs."""
        documents = []
        for document, fact, said in zip(
            self.plain.documents, self.facts, self.sentences(look_alikes, seed), strict=True
        ):
            new = page(said, self.spans)
            whole = splice(document.page, fact.at, fact.at, new)
            documents.append(replace(document, page=whole, end=document.end + len(new)))
        return replace(self.plain, documents=tuple(documents))


def make_questions(
    where: Sequence[Article], spans: Spans, *, n_questions: int, n_documents: int, name_words: int,
    widths: Sequence[int] = (16, 22, 28), seed: int = 0,
) -> list[Question]:  # fmt: skip
    """Questions with ``n_documents`` paragraphs of different articles, a fact in each. ``name_words``: persons have a
    given name, or with 2 a family name as well; then every one of either is shared by several persons of the question.
    ``widths``: tokens of real text in a paragraph, 30 % more or less. Widths and the place of the asked document take
    turns, and no article is asked about again before all were.

    Raises :class:`ReprobookError` if there are too few articles, relations or answers."""
    most = min(len(where), len(RELATIONS))
    if name_words not in (1, 2) or not 2 <= n_documents <= most or min(widths) < 16:
        raise ReprobookError(
            f"name_words is {name_words} (1 or 2), n_documents {n_documents} (2 to {most}), "
            f"widths {list(widths)} (16 or more: a fact must fit into the place of a removed document)"
        )
    rng = np.random.default_rng([seed, n_documents, name_words])
    turns, made = rng.permutation(len(where)), []
    for k in range(n_questions):
        relation, *others = rng.permutation(RELATIONS)[:n_documents].tolist()
        asked, about = k % n_documents, turns[k % len(where)]
        bin = (k + k // math.lcm(n_documents, len(widths))) % len(widths)  # every width with every place
        articles = np.insert(rng.permutation(np.delete(turns, k % len(where)))[: n_documents - 1], asked, about)
        chosen = [where[i] for i in articles]
        plain, places = zip(*(_paragraph(article, widths[bin], rng) for article in chosen), strict=True)
        free = [name for name in FAMILY if not any(name in article.page.text for article in chosen)]
        people, values = _people(free, n_documents, name_words, rng)
        others.insert(asked, relation)
        facts = tuple(map(Fact, people, values, others, places))
        text = f"Who is the {relation} of {people[asked]}?"
        instance = Instance(f"{seed}-{k}", text, values[asked], plain, (asked,))
        made.append(Question(instance, facts, relation, bin, spans))
    return made


def _people(free: Sequence[str], n: int, name_words: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """``n`` different persons and ``n`` different answers; a grid of given and family names with 2 words."""
    names, given = rng.permutation(free).tolist(), rng.permutation(GIVEN).tolist()
    side = math.ceil(n**0.5)
    if len(names) < n + side:
        raise ReprobookError(f"{len(names)} names do not stand in the articles; {n + side} are needed")
    values, family = names[:n], names[n : n + side]
    if name_words == 1:
        return given[:n], values
    cells = rng.permutation(side * side)[:n].tolist()
    return [f"{given[c % side]} {family[c // side]}" for c in cells], values


def _paragraph(article: Article, width: int, rng: np.random.Generator) -> tuple[Document, int]:
    """Whole sentences of about ``width`` tokens, and a sentence border in them as the place of the fact.

    Raises :class:`TooShortError` if the article has none."""
    borders = article.borders
    reach = [borders[(borders >= b + 0.7 * width) & (borders <= b + 1.3 * width)] for b in borders]
    begins = [(int(b), int(ends[0])) for b, ends in zip(borders, reach, strict=True) if len(ends)]
    if not begins:
        raise TooShortError(f"article {article.title!r} has no sentences of about {width} tokens")
    lead = begins[0][0] == 0 and rng.random() < LEAD_SHARE
    first, last = begins[0 if lead else int(rng.integers(len(begins)))]
    places = borders[(borders >= first) & (borders <= last)]
    return Document(article.page, first, last, article.title), int(rng.choice(places))


# ------------------------------------------------------------------------------------------------- sets


def cell(
    question: Question, count: int, look_alikes: int, *, header: int = 0, more: int = 0, seed: int = 0
) -> BuiltSet:  # fmt: skip
    """The set of ``count`` documents in which ``look_alikes`` facts state the asked relation of somebody else.

    The set is the paper's; then the facts of the removed documents come back into the text that fills their place, each
    at the sentence border nearest to where it stood, and as many tokens of that text go. So all facts, the answer's
    place and all tokens are the same for every ``count``, and only the documents differ. ``header`` and ``more`` as in
    :func:`build_set`. Raises :class:`TooShortError` if an extension is too short for the facts that belong into it."""
    instance = question.instance(look_alikes, seed)
    built = build_set(instance, count, seed=seed, header=header, more=more)
    widths, said = instance.lengths + header, question.sentences(look_alikes, seed)
    stood, begins = np.cumsum(widths) - widths + header, built.starts - built.before
    carried: dict[tuple[int, bool], list[tuple[int, str]]] = {}
    for k in np.setdiff1d(np.arange(len(instance.documents)), built.kept).tolist():
        place = int(stood[k]) + question.facts[k].at - instance.documents[k].start
        j = max(int(np.searchsorted(begins, place, "right")) - 1, 0)
        front = place < built.starts[j]
        origin = int(begins[j] if front else built.starts[j] + len(instance.documents[built.kept[j]]))
        carried.setdefault((j, front), []).append((place - origin, said[k]))
    texts = list(built.texts)
    for j in {j for j, _ in carried}:
        paragraph = instance.documents[built.kept[j]].text
        left, right = (part.strip() for part in texts[j].split(paragraph, 1))
        left = weave(left, carried.get((j, True), []), question.spans, keep_end=True)
        right = weave(right, carried.get((j, False), []), question.spans, keep_end=False)
        texts[j] = " ".join(part for part in (left, paragraph, right) if part)
    return replace(built, texts=tuple(texts))


def weave(text: str, facts: Sequence[tuple[int, str]], spans: Spans, *, keep_end: bool) -> str:
    """``text`` with sentences in it, each at the sentence border nearest to its token, as long as before: tokens of the
    text go at its beginning (``keep_end``) or at its end. Its end is no border: it is cut, or meets the paragraph. Its
    beginning is one: with neither, the fact of a paragraph that stays would stand apart from all others, which tells it
    to readers that never look at the question. Raises :class:`TooShortError` if they don't fit."""
    if not facts:
        return text
    whole, lengths = spans(text), [len(spans(said)) for _, said in facts]
    room = len(whole) - sum(lengths)
    if room < 0:
        raise TooShortError(f"{sum(lengths)} tokens of facts do not fit into an extension of {len(whole)}")
    kept = whole[len(whole) - room :] if keep_end else whole[:room]
    if not len(kept):
        return " ".join(said for _, said in sorted(facts))
    rest = page(text[kept[0, 0] : kept[-1, 1]], spans)
    borders, pieces, at, earlier = _borders(rest)[1:] if keep_end else _borders(rest)[:-1], [], 0, 0
    for (place, said), length in sorted(zip(facts, lengths, strict=True)):
        border = int(borders[np.abs(borders - (place - earlier)).argmin()])
        pieces += [rest.slice(at, max(at, border)), said]
        at, earlier = max(at, border), earlier + length
    return " ".join(piece for piece in [*pieces, rest.slice(at, len(rest))] if piece)


def alone(question: Question, look_alikes: int, seed: int = 0) -> BuiltSet:
    """The document that holds the answer without an extension, and all facts of the others around it, in their order:
    the supporting document alone (Appendix B.2) with constant facts."""
    instance, said = question.instance(look_alikes, seed), question.sentences(look_alikes, seed)
    built = build_set(instance, 1, seed=seed, extension="none")
    k = question.asked
    text = " ".join([*said[:k], instance.documents[k].text, *said[k + 1 :]])
    return replace(built, texts=(text,), total=len(question.spans(text)))
