"""The sets of the paper: fewer documents, each longer, the same total length and the same place of the evidence.

A :class:`Page` is an article as text and token spans; a :class:`Document` is a paragraph of a page. Texts are always
cut out of the page's own string, so no character is ever split and no token is decoded on its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reprobook.errors import ReprobookError

Spans = Callable[[str], np.ndarray]
Extension = Literal["position", "equal", "none"]
Source = Literal["article", "page_start"]
Order = Literal["original", "slots"]


class TooShortError(ReprobookError):
    """A page has too little text for the extension that a set asks for."""


@dataclass(frozen=True, eq=False)
class Page:
    """An article: ``text`` and ``spans`` (n, 2), the characters ``[begin, end)`` of each of its n tokens."""

    text: str
    spans: np.ndarray

    def __post_init__(self) -> None:
        spans = self.spans
        if spans.ndim != 2 or spans.shape[1] != 2 or not len(spans):
            raise ReprobookError(f"a page needs spans of shape (n, 2) with n >= 1, got {list(spans.shape)}")
        if spans[0, 0] < 0 or spans[-1, 1] > len(self.text) or (np.diff(spans[:, 0]) < 0).any():
            raise ReprobookError("the spans of a page must be increasing and inside its text")

    def __len__(self) -> int:
        return len(self.spans)

    def slice(self, start: int, end: int) -> str:
        """Text of the tokens ``[start, end)``; a character that a token border cuts is taken whole."""
        return self.text[self.spans[start, 0] : self.spans[end - 1, 1]] if end > start else ""


def page(text: str, spans: Spans) -> Page:
    """The page of a text, counted in the tokens that ``spans`` finds; raises :class:`ReprobookError` if it is empty."""
    found = spans(text)
    if not len(found):
        raise ReprobookError("a page needs text: this one has no token")
    return Page(text, found)


def splice(old: Page, start: int, end: int, new: Page) -> Page:
    """``old`` with its tokens ``[start, end)`` replaced by those of ``new``, set apart by blanks."""
    left = old.text[: old.spans[start - 1, 1]] if start else ""
    right = old.text[old.spans[end, 0] :] if end < len(old) else ""
    head = left + " " if left else ""
    tail_at = len(head) + len(new.text) + 1
    moved = old.spans[end:] + (tail_at - old.spans[end, 0]) if end < len(old) else old.spans[:0]
    text = head + new.text + (" " + right if right else "")
    return Page(text, np.concatenate([old.spans[:start], new.spans + len(head), moved]))


@dataclass(frozen=True, eq=False)
class Document:
    """A paragraph, tokens ``[start, end)`` of ``page``. ``located`` False: the page does not hold the paragraph (it was
    not found, and ``page`` is the paragraph itself)."""

    page: Page
    start: int
    end: int
    title: str = ""
    located: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= len(self.page):
            raise ReprobookError(
                f"document {self.title!r}: tokens [{self.start}, {self.end}) are not a paragraph of a page of "
                f"{len(self.page)} tokens"
            )

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def text(self) -> str:
        """What the document says."""
        return self.page.slice(self.start, self.end)


@dataclass(frozen=True, eq=False)
class Instance:
    """One question: its documents in the given order, which of them support the answer, and the gold strings."""

    id: str
    question: str
    answer: str
    documents: tuple[Document, ...]
    supporting: tuple[int, ...]
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.documents)
        wrong = [k for k in self.supporting if not 0 <= k < n]
        if wrong or not self.supporting or len(set(self.supporting)) < len(self.supporting):
            raise ReprobookError(
                f"question {self.id!r}: supporting is {self.supporting}; "
                f"it must hold different indices from 0 to {n - 1}"
            )

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each paragraph, (n,)."""
        return np.array([len(d) for d in self.documents])

    @property
    def golds(self) -> list[str]:
        """All strings that count as the answer."""
        return [self.answer, *self.aliases]


@dataclass(frozen=True, eq=False)
class BuiltSet:
    """A set as a reader gets it. ``kept`` (m,): indices of the documents, in their order here; ``before`` and ``after``
    (m,): tokens of extension; ``starts`` (m,): tokens in front of each paragraph in the whole set, those of headers
    among them; ``texts``: the documents, without headers; ``total``: all tokens."""

    kept: np.ndarray
    before: np.ndarray
    after: np.ndarray
    starts: np.ndarray
    texts: tuple[str, ...]
    total: int

    def __len__(self) -> int:
        return len(self.kept)


def retained(instance: Instance, count: int, seed: int = 0) -> np.ndarray:
    """Indices of the ``count`` documents that stay, ascending: the supporting ones and the first of one random order
    of the others, drawn for each question, so each set holds every document of the smaller sets (Section 2, step 2).

    Raises :class:`ReprobookError` if there are fewer than the supporting ones, or more than there are."""
    n, keep = len(instance.documents), len(instance.supporting)
    if not keep <= count <= n:
        raise ReprobookError(
            f"question {instance.id!r}: count is {count}; it must be from {keep} (its supporting documents) to {n}"
        )
    rng = np.random.default_rng([seed, zlib.crc32(instance.id.encode())])
    others = np.setdiff1d(np.arange(n), instance.supporting)
    return np.sort(np.concatenate([instance.supporting, rng.permutation(others)[: count - keep]]).astype(np.int64))


def gap_extension(lengths: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of extension ``before`` and ``after`` each kept document, (m,) each: it takes the place of what was
    removed beside it. A gap between two kept documents is split in halves; an odd one loses a token. So every kept
    paragraph stays where it was (released code, ``create_expanded``)."""
    edges = np.concatenate([[0], np.cumsum(lengths)])
    gaps = np.concatenate([edges[kept], edges[-1:]]) - np.concatenate([[0], edges[kept + 1]])
    half = gaps[1:-1] // 2
    return np.concatenate([gaps[:1], half]), np.concatenate([half, gaps[-1:]])


def equal_extension(lengths: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The naive rule: every kept document grows by the same amount, at its end. It moves the evidence."""
    removed = int(lengths.sum() - lengths[kept].sum())
    share = np.full(len(kept), removed // len(kept))
    share[: removed % len(kept)] += 1
    return np.zeros_like(share), share


def around(page: Page, start: int, end: int, before: int, after: int) -> str:
    """The paragraph with the ``before`` tokens in front of it and the ``after`` tokens behind it on its page.

    The page is read as a ring: where it ends, its beginning follows. The window never meets itself, so the paragraph
    occurs once. Raises :class:`TooShortError` if the page has too little other text."""
    n = len(page)
    if before + after > n - (end - start):
        raise TooShortError(
            f"the page has {n} tokens, {n - (end - start)} beside the paragraph; the extension needs {before + after}"
        )
    left, right = start - before, end + after
    pieces = [page.slice(max(left, 0), min(right, n))]
    if left < 0:
        pieces.insert(0, page.slice(n + left, n))
    if right > n:
        pieces.append(page.slice(0, right - n))
    return " ".join(pieces)


def from_page_start(page: Page, start: int, end: int, before: int, after: int) -> str:
    """Extension as in the released code: both sides from the *beginning* of the page, which is read again and again
    if it is too short. Where the paragraph opens its article, what follows it is the paragraph itself."""
    width = end - start
    pieces = [_cycle(page, width, before), page.slice(start, end), _cycle(page, 0, after)]
    return " ".join(piece for piece in pieces if piece)


def _cycle(page: Page, first: int, count: int) -> str:
    """``count`` tokens of the endlessly repeated page from token ``first``."""
    n, pieces, first = len(page), [], first % len(page)
    while count > 0:
        taken = min(count, n - first)
        pieces.append(page.slice(first, first + taken))
        count, first = count - taken, 0
    return " ".join(pieces)


def build_set(
    instance: Instance, count: int, *, seed: int = 0, extension: Extension = "position", source: Source = "article",
    order: Order = "original", header: int = 0, more: int = 0,
) -> BuiltSet:  # fmt: skip
    """The set of ``count`` documents (Section 2; released code, ``create_expanded``).

    ``extension``: ``position`` keeps total length and place of the evidence, ``equal`` only the length, ``none``
    neither. ``source``: text around the paragraph in its ``article``, or ``page_start`` as in the released code.
    ``order``: ``original``; ``slots``, one permutation for all questions, as the benchmark under the released code
    has it. ``header``: tokens of "Document 3:" and the like before each
    document; a removed document leaves the room of its header, too, or fewer documents would make a shorter prompt (the
    paper counts none); ``more``: tokens that the last document gets on top (it loses at most its extension).
    Raises :class:`TooShortError` if a page is too short."""
    kept, lengths = retained(instance, count, seed), instance.lengths
    rules = {"position": gap_extension, "equal": equal_extension, "none": _no_extension}
    if extension not in rules or source not in _SOURCES:
        raise ReprobookError(
            f"extension {extension!r} must be one of {', '.join(rules)}; source {source!r} one of {', '.join(_SOURCES)}"
        )
    before, after = rules[extension](lengths + header, kept)
    after[-1] = max(0, after[-1] + more)
    moved = _permutation(instance, kept, order, seed)
    kept, before, after = kept[moved], before[moved], after[moved]
    documents = [instance.documents[k] for k in kept]
    texts = []
    for document, b, a in zip(documents, before.tolist(), after.tolist(), strict=True):
        try:
            texts.append(_SOURCES[source](document.page, document.start, document.end, b, a))
        except TooShortError as error:
            raise TooShortError(f"question {instance.id!r}, document {document.title!r}: {error}") from None
    widths = header + before + lengths[kept] + after
    starts = np.cumsum(widths) - widths + header + before
    return BuiltSet(kept, before, after, starts, tuple(texts), int(widths.sum()))


_SOURCES = {"article": around, "page_start": from_page_start}


def _no_extension(lengths: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG001
    nothing = np.zeros(len(kept), dtype=np.int64)
    return nothing, nothing


def _permutation(instance: Instance, kept: np.ndarray, order: str, seed: int) -> np.ndarray:
    if order == "original":
        return np.arange(len(kept))
    if order == "slots":
        slots = np.random.default_rng([seed, 0]).permutation(len(instance.documents))
        return np.argsort(slots[: len(kept)], kind="stable")
    raise ReprobookError(f"order {order!r} must be original or slots")


def supporting_only(instance: Instance) -> BuiltSet:
    """The supporting documents as they are, without extension (Appendix B.2)."""
    return build_set(instance, len(instance.supporting), extension="none")


def replace_distractors(instance: Instance, pool: Sequence[tuple[str, Document]], seed: int = 0) -> Instance:
    """Every distractor becomes a random distractor of another question, cut to the same number of tokens or, if it is
    shorter, repeated (Appendix B.1). ``pool``: pairs of a question's id and one of its distractors. Everything keeps
    its place; the released code then moves the supporting documents to the front."""
    others = [document for owner, document in pool if owner != instance.id]
    if not others:
        raise ReprobookError(f"question {instance.id!r}: the pool has no distractor of another question")
    rng = np.random.default_rng([seed, 2, zlib.crc32(instance.id.encode())])
    documents = list(instance.documents)
    distractors = np.setdiff1d(np.arange(len(documents)), instance.supporting)
    for k in distractors:
        documents[k] = _cut_to(others[rng.integers(len(others))], len(documents[k]))
    return replace(instance, documents=tuple(documents))


def _cut_to(document: Document, length: int) -> Document:
    if len(document) >= length:
        return replace(document, end=document.start + length)
    paragraph = document.page.slice(document.start, document.end)
    times = length // len(document)
    spans = document.page.spans[document.start : document.end] - document.page.spans[document.start, 0]
    whole = np.concatenate([spans + k * (len(paragraph) + 1) for k in range(times + 1)])[:length]
    text = " ".join([paragraph] * (times + 1))[: whole[-1, 1]]
    new = splice(document.page, document.start, document.end, Page(text, whole))
    return replace(document, page=new, end=document.start + length)


def audit(instance: Instance, built: BuiltSet, header: int = 0) -> dict[str, float]:
    """What a set did to its question: its tokens, how many were lost, the largest shift of a supporting paragraph, and
    the largest number of times that one stands in its document."""
    lengths, support = instance.lengths + header, np.isin(built.kept, instance.supporting)
    original = np.cumsum(lengths) - lengths + header
    shifts = np.abs(built.starts - original[built.kept])[support]
    copies = [built.texts[j].count(instance.documents[built.kept[j]].text) for j in np.flatnonzero(support)]
    return {
        "tokens": built.total, "tokens lost": int(lengths.sum()) - built.total, "largest shift": int(shifts.max()),
        "copies of evidence": max(copies),
    }  # fmt: skip
