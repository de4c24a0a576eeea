"""Building sets of MuSiQue's size: our cuts out of the page against a builder that joins token by token, as the
released code does."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook.bench import compare
from reprobook.papers.more_documents.planted import word_spans
from reprobook.papers.more_documents.sets import (
    Document,
    Instance,
    build_set,
    gap_extension,
    page,
    retained,
)

if TYPE_CHECKING:
    from reprobook.bench import Comparison

LADDER = (3, 8, 10, 15, 20)


def questions(
    n: int, *, n_documents: int = 20, tokens: int = 120, page_tokens: int = 3000, seed: int = 0
) -> list[Instance]:
    """Synthetic questions of the real size; pages are shared among them, as a cache of Wikipedia pages would be."""
    rng = np.random.default_rng(seed)
    words = np.array(["".join(rng.choice(list("abcdefghij"), 5)) for _ in range(5000)])
    pages = [page(" ".join(words[rng.integers(0, 5000, page_tokens)]), word_spans) for _ in range(200)]
    made = []
    for k in range(n):
        lengths = rng.integers(tokens // 2, 3 * tokens // 2, n_documents)
        starts = rng.integers(0, page_tokens - lengths)
        chosen = rng.integers(0, len(pages), n_documents)
        documents = tuple(
            Document(pages[p], int(s), int(s + m)) for p, s, m in zip(chosen, starts, lengths, strict=True)
        )
        made.append(Instance(f"q{k}", "?", "x", documents, tuple(sorted(rng.permutation(n_documents)[:3].tolist()))))
    return made


def token_by_token(instance: Instance, count: int) -> list[str]:
    """The same texts the naive way: every token is decoded by itself and joined to the others."""
    kept = retained(instance, count)
    texts = []
    for k, before, after in zip(kept, *gap_extension(instance.lengths, kept), strict=True):
        document = instance.documents[k]
        n, out = len(document.page), ""
        for position in range(document.start - int(before), document.end + int(after)):
            at = position % n
            begin, end = document.page.spans[at]
            last = document.page.spans[at - 1, 1] if at else begin
            blank = document.page.text[last:begin] if out and at else " " if out else ""
            out = out + blank + document.page.text[begin:end]
        texts.append(out)
    return texts


def builders(made: Sequence[Instance], n: int = 5) -> Comparison:
    """All sets of the ladder for ``made``, token by token and by our builder; the texts must be the same."""
    ways = {
        "token by token": lambda: [tuple(token_by_token(q, count)) for q in made for count in LADDER],
        "cut out of the page": lambda: [build_set(q, count).texts for q in made for count in LADDER],
    }
    return compare(ways, equal=operator.eq, n=n, what=f"the sets of {len(made)} questions")


def headline() -> Comparison:
    """Five sets of 20 documents (about 2,400 tokens) for each of 20 questions: token by token over our builder."""
    return builders(questions(20))
