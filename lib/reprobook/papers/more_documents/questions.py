"""Questions of every scale behind one door: planted into real text, or the paper's own with their Wikipedia pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reprobook.errors import ReprobookError
from reprobook.papers.more_documents import released
from reprobook.papers.more_documents.planted import (
    articles,
    king_james,
    make_questions,
    wikipedia,
)
from reprobook.papers.more_documents.study import conditions, given, study

if TYPE_CHECKING:
    from reprobook.data import ChapterData
    from reprobook.papers.more_documents.planted import (
        Article,
        Names,
        Text,
    )
    from reprobook.papers.more_documents.sets import Instance, Spans
    from reprobook.papers.more_documents.study import Given, Study

PLANTED, REAL = ("wikipedia", "king james"), ("musique", "2wiki", "released")
PAGE_TOKENS = (450, 2500)  # least and most tokens of an article


def texts(name: str, data: ChapterData) -> list[Text]:
    """The articles of a planted collection as plain text."""
    if name == "wikipedia":
        return wikipedia(data.path("enwiki-extract"))
    if name == "king james":
        return king_james(data.path("king-james"))
    raise ReprobookError(f"collection {name!r} must be one of {', '.join(PLANTED)}")


def split_articles(found: Sequence[Text], spans: Spans) -> dict[str, list[Article]]:
    """``train`` and ``test`` articles: of every ten, the fourth, seventh and tenth test."""
    whole = articles(found, spans, least=PAGE_TOKENS[0], most=PAGE_TOKENS[1])
    test = [k % 10 in (3, 6, 9) for k in range(len(whole))]
    return {
        "train": [a for a, t in zip(whole, test, strict=True) if not t],
        "test": [a for a, t in zip(whole, test, strict=True) if t],
    }


def planted(
    where: Sequence[Article], spans: Spans, names: Names, n_each: int, n_documents: int, seed: int, prefix: str,
    width: tuple[int, int] = (5, 12),
) -> list[Instance]:  # fmt: skip
    """``n_each`` questions of one hop and as many of two."""
    made = [
        make_questions(
            where,
            spans,
            names,
            n_questions=n_each,
            n_documents=n_documents,
            hops=hops,
            width=width,
            seed=seed,
            prefix=f"{prefix}-",
        )
        for hops in (1, 2)
    ]
    return made[0] + made[1]


def real(
    name: str, data: ChapterData, spans: Spans, least: int = 1500, limit: int | None = None,
    report: Callable[[str], object] = print,
) -> list[Instance]:  # fmt: skip
    """The questions of a real collection, each paragraph on its Wikipedia page; only the first ``limit`` are read.

    2WikiMultiHopQA is cut to questions of at least ``least`` tokens, in the paper 1,500."""
    if name == "musique":
        found = released.musique(released.read_files(data.path("musique"), "*dev.jsonl"), spans)
    elif name == "2wiki":
        whole = released.two_wiki(released.read_files(data.path("2wiki"), "dev.parquet"), spans)
        found = released.long_enough(whole, least)
    else:
        raise ReprobookError(f"collection {name!r} must be one of {', '.join((*PLANTED, *REAL))}")
    found = found[:limit]
    titles = {document.title for question in found for document in question.documents}
    pages = released.wanted_pages(data.path("wikipedia-pages").rglob("*.parquet"), titles)
    return released.find_pages(found, pages, spans, report=report)


def real_sets(
    name: str, data: ChapterData, spans: Spans, ladder: Sequence[int], least: int, limit: int | None, seed: int
) -> Study | Given:  # fmt: skip
    """The sets of a real collection: built from its questions, or, for ``released``, as the authors published them."""
    if name == "released":
        return given(released.musique(released.released_sets(data.path("released-sets")), spans))
    return study(real(name, data, spans, least, limit), conditions(ladder, ablations=False), seed)
