"""Readers without a network: they check the construction of the sets end to end, because what they must score is known.

Each takes a question and its set and returns the text of its answer.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.papers.more_documents.sets import BuiltSet, Instance, Spans

_FACT = re.compile(r"The (?P<relation>[a-z]+) of (?P<entity>\w+ \w+) is (?P<value>\w+(?: \w+)?)\.")
_CHAIN = re.compile(r"What is the (?P<chain>.+) of (?P<entity>\w+ \w+)\?")


def facts_in(text: str) -> list[tuple[str, str, str]]:
    """Planted facts of a text as (relation, entity, value), in its order."""
    return [match.group("relation", "entity", "value") for match in _FACT.finditer(text)]


def oracle(instance: Instance, built: BuiltSet) -> str:
    """Follow the chain of relations through the facts of all documents; "" if a link is missing. Scores 1 on every set
    that holds its supporting documents."""
    asked = _CHAIN.fullmatch(instance.question)
    if not asked:
        raise ReprobookError(f"question {instance.id!r} is not of the planted form: {instance.question!r}")
    known = {(relation, entity): value for text in built.texts for relation, entity, value in facts_in(text)}
    at = asked["entity"]
    for relation in reversed(asked["chain"].split(" of the ")):
        at = known.get((relation, at), "")
    return at


def look_alikes(instance: Instance, built: BuiltSet) -> int:
    """How many documents of the set state the asked relation for another entity."""
    return sum(instance.documents[k].look_alike for k in built.kept)


def soft_attention(instance: Instance, built: BuiltSet, gap: float = 1.5, seed: int = 0) -> str:
    """Pick the fact of a document with probability proportional to e^score: the right one scores ``gap`` above each of
    the m look-alikes, the others are ignored. Right with probability e^gap / (e^gap + m)."""
    rivals = [instance.documents[k].value for k in built.kept if instance.documents[k].look_alike]
    weight = np.concatenate([[np.exp(gap)], np.ones(len(rivals))])
    rng = np.random.default_rng([seed, zlib.crc32(instance.id.encode()), len(built)])
    return [instance.answer, *rivals][rng.choice(len(weight), p=weight / weight.sum())]


def position_only(instance: Instance, built: BuiltSet, spans: Spans, slack: int = 12) -> str:
    """Read the stretch of text in which the answer stood when all documents were there, and nothing else. As good with
    few documents as with all if, and only if, the evidence stays in its place.

    ``slack``: tokens to either side, for odd gaps."""
    k = next(k for k in instance.supporting if instance.documents[k].value == instance.answer)
    document = instance.documents[k]
    if document.evidence is None:
        raise ReprobookError(f"question {instance.id!r}: no document says where its evidence stands")
    first = int(instance.lengths[:k].sum()) + document.evidence[0] - document.start
    last = first + document.evidence[1] - document.evidence[0]
    joined = "\n".join(built.texts)
    at = spans(joined)[max(0, first - slack) : last + slack]
    found = facts_in(joined[at[0, 0] : at[-1, 1]]) if len(at) else []
    return next((value for _, _, value in found if value == instance.answer), found[0][2] if found else "")


def bm25(instance: Instance, built: BuiltSet) -> str:
    """Retrieve and extract: the document with the best BM25 score for the question, then the value that its fact
    states. With two hops the first answer replaces the asked name and the next relation is looked up.

    Scores come from `bm25s`, a well-kept implementation (Lucene's variant, k1 = 1.5, b = 0.75)."""
    asked = _CHAIN.fullmatch(instance.question)
    entity = asked["entity"] if asked else instance.question
    relations = list(reversed(asked["chain"].split(" of the "))) if asked else [""]
    scores = _Index(built.texts)
    for relation in relations:
        for text in scores.ranked(f"{relation} {entity}"):
            found = [value for rel, _, value in facts_in(text) if rel == relation or not asked]
            if found:
                entity = found[0]
                break
        else:
            return ""
    return entity


class _Index:
    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self.texts, self._tokens = texts, _bm25_tokens
        self.index = bm25s.BM25(k1=1.5, b=0.75)
        self.index.index(self._tokens(texts), show_progress=False)

    def ranked(self, query: str) -> list[str]:
        """Texts by falling score."""
        found = self.index.get_scores(self._tokens([query])[0])
        return [self.texts[k] for k in np.argsort(-found, kind="stable")]


def _bm25_tokens(texts: Sequence[str]) -> list[list[str]]:
    return [re.findall(r"\w+", text.lower()) for text in texts]
