"""Readers without a network. Some are blind to a part of the task, so they say what a score is worth; others have a
known score, so they check the construction of the sets end to end.

Each takes a question and its set and returns the text of its answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.papers.more_documents.planted import Question
    from reprobook.papers.more_documents.sets import BuiltSet, Spans

_FACT = re.compile(r"The (?P<relation>[a-z]+) of (?P<entity>[A-Z]\w+(?: [A-Z]\w+)?) is (?P<value>[A-Z]\w+)\.")


def facts_in(text: str) -> list[tuple[str, str, str]]:
    """Planted facts of a text as (relation, entity, value), in its order."""
    return [(m["relation"], m["entity"], m["value"]) for m in _FACT.finditer(text)]


def first_fact(question: Question, built: BuiltSet) -> str:  # noqa: ARG001 (every reader is called alike)
    """Blind to the question: the first fact of the text, whatever it states."""
    return facts_in("\n".join(built.texts))[0][2]


def first_of_kind(question: Question, built: BuiltSet) -> str:
    """Blind to the person: the first fact that states the asked relation."""
    return next(v for r, _, v in facts_in("\n".join(built.texts)) if r == question.relation)


def least_crowded(question: Question, built: BuiltSet) -> str:  # noqa: ARG001
    """Blind to the question: the first fact of the document that states the fewest, if any."""
    return min(filter(None, map(facts_in, built.texts)), key=len)[0][2]


def most_isolated(question: Question, built: BuiltSet) -> str:  # noqa: ARG001
    """Blind to the question: the fact that stands farthest from the nearest other one, in characters."""
    text = "\n".join(built.texts)
    at = np.array([match.start() for match in _FACT.finditer(text)], dtype=float)
    gaps = np.diff(at, prepend=-np.inf, append=np.inf)
    return facts_in(text)[int(np.minimum(gaps[:-1], gaps[1:]).argmax())][2]


def nearest_document(question: Question, built: BuiltSet) -> str:
    """The first fact of the document that BM25 ranks first for the question.

    Scores come from `bm25s`, a well-kept implementation (Lucene's variant, k1 = 1.5, b = 0.75)."""
    for text in _ranked(built.texts, question.question):
        if found := facts_in(text):
            return found[0][2]
    raise ReprobookError(f"question {question.id!r}: its documents hold no fact")


def nearest_fact(question: Question, built: BuiltSet) -> str:
    """The fact whose sentence BM25 ranks first for the question: not blind, but without reading anything else."""
    found = facts_in("\n".join(built.texts))
    sentences = [f"The {relation} of {entity} is {value}." for relation, entity, value in found]
    return facts_in(_ranked(sentences, question.question)[0])[0][2]


def _ranked(texts: Sequence[str], query: str) -> list[str]:
    import bm25s

    tokens = [re.findall(r"\w+", text.lower()) for text in texts]
    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index(tokens, show_progress=False)
    scores = index.get_scores(re.findall(r"\w+", query.lower()))
    return [texts[k] for k in np.argsort(-scores, kind="stable")]


def majority(questions: Sequence[Question]) -> str:
    """The most frequent answer of all questions."""
    return Counter(question.plain.answer for question in questions).most_common(1)[0][0]


def oracle(question: Question, built: BuiltSet) -> str:
    """Look the fact up by its form, as nobody can who has to read: 1 on every set, "" if it is missing."""
    known = {(relation, entity): value for text in built.texts for relation, entity, value in facts_in(text)}
    return known.get((question.relation, question.facts[question.asked].entity), "")


def position_only(question: Question, built: BuiltSet, spans: Spans, slack: int = 12) -> str:
    """Read the stretch of text in which the answer stood when all documents were there, and nothing else. As good with
    few documents as with all if, and only if, the evidence stays in its place.

    ``slack``: tokens to either side, for odd gaps. Headers are not counted: build the set without."""
    k = question.asked
    lengths = question.instance(0).lengths
    length = len(spans(question.sentences(0)[k]))
    first = int(lengths[:k].sum()) + question.facts[k].at - question.plain.documents[k].start
    joined = "\n".join(built.texts)
    at = spans(joined)[max(0, first - slack) : first + length + slack]
    found = facts_in(joined[at[0, 0] : at[-1, 1]]) if len(at) else []
    return next((v for _, _, v in found if v == question.plain.answer), found[0][2] if found else "")


MAJORITY = "majority"
# None of them uses the person that is asked about; nor does the majority.
BLIND: Mapping[str, Callable[[Question, BuiltSet], str]] = {
    "first fact": first_fact, "first of its kind": first_of_kind, "least crowded document": least_crowded,
    "most isolated fact": most_isolated,
}  # fmt: skip
RETRIEVERS: Mapping[str, Callable[[Question, BuiltSet], str]] = {
    "nearest document (BM25)": nearest_document, "nearest fact (BM25)": nearest_fact, "oracle": oracle,
}  # fmt: skip
