"""Chunkers, all cut to the same number of chunks of a document: its length over the wanted mean length.

So mean lengths are equal by construction, document by document, and what is left to compare is *where* they cut.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.nn.completion import complete
from reprobook.papers.moc.metrics import dissimilarity, words
from reprobook.papers.moc.recovery import recover_robust

if TYPE_CHECKING:
    from reprobook.papers.moc.corpora import Cuts, Document
    from reprobook.papers.moc.retrieval import Encode


def n_chunks(document: Document, length: int) -> int:
    """Chunks of a document for a mean of ``length`` words (Chinese: characters); at least one, and no more than it has
    sentences."""
    if length < 1:
        raise ReprobookError(f"the mean length is {length}; it must be at least 1")
    return max(1, min(round(document.size() / length), len(document.sentences) - 1))


def fixed(document: Document, n: int) -> Cuts:
    """*Original*: every n-th part of the words, wherever that falls."""
    words = document.words
    return tuple(words[np.round(np.linspace(0, len(words) - 1, n + 1)).astype(int)[1:-1]].tolist())


def snapped(document: Document, n: int) -> Cuts:
    """Fixed length, each cut moved to the nearest end of a sentence: what fixed length loses by halving sentences."""
    inner = document.sentences[1:-1]
    return resized(document, [int(inner[np.abs(inner - cut).argmin()]) for cut in fixed(document, n) if len(inner)], n)


def packed(document: Document, n: int) -> Cuts:
    """*LlamaIndex*: whole sentences up to a budget of words; the budget is the smallest that gives at most n chunks."""
    starts = document.sentences
    sizes = np.diff(np.searchsorted(document.words[:-1], starts))
    for budget in range(int(sizes.max(initial=1)), int(sizes.sum()) + 1):
        cuts, held = [], 0
        for start, size in zip(starts[:-1].tolist(), sizes.tolist(), strict=True):
            if held and held + size > budget:
                cuts.append(start)
                held = 0
            held += size
        if len(cuts) < n:
            return resized(document, cuts, n)
    return ()


def shuffled(document: Document, cuts: Sequence[int], seed: int = 0) -> Cuts:
    """The chunks of another chunking in another order of their lengths, each cut moved to the nearest end of a
    sentence: it has the other's lengths and knows nothing of the text."""
    bounds = document.words.searchsorted([0, *cuts, len(document.text)])
    sizes = np.random.default_rng([seed, len(document.text)]).permutation(np.diff(bounds))
    inner, wanted = document.sentences[1:-1], document.words[sizes.cumsum()[:-1]]
    found = [int(inner[np.abs(inner - cut).argmin()]) for cut in wanted if len(inner)]
    return resized(document, found, len(cuts) + 1)


def at_random(document: Document, n: int, seed: int = 0) -> Cuts:
    """The floor: the lengths of :func:`gold`, :func:`shuffled`."""
    return shuffled(document, gold(document, n), seed)


def gold(document: Document, n: int) -> Cuts:
    """The ceiling: the true boundaries, merged or cut to n chunks."""
    return resized(document, document.cuts, n)


def by_scores(document: Document, scores: np.ndarray, n: int) -> Cuts:
    """The n − 1 inner ends of sentences with the highest ``scores`` (one for each of ``document.sentences``)."""
    inner = document.sentences[1:-1]
    best = np.argsort(-np.asarray(scores)[1:-1], kind="stable")[: n - 1]
    return tuple(sorted(inner[best].tolist()))


def halved(document: Document, n: int) -> Cuts:
    """The longest chunk is cut in the middle until there are n."""
    return resized(document, (), n)


def semantic(document: Document, n: int, vectors: Encode, around: int = 1) -> Cuts:
    """*Semantic*: distances between groups of sentences, each with ``around`` to either side, and the next one's group;
    the largest are cut. The percentile of LlamaIndex's splitter is the one that gives n chunks."""
    starts = document.sentences.tolist()
    last = len(starts) - 1
    found = vectors(
        [document.text[starts[max(0, k - around)] : starts[min(last, k + 1 + around)]] for k in range(last)]
    )
    return by_scores(document, _inner(dissimilarity(found)), n)


def lexical(document: Document, n: int, blocks: int = 2) -> Cuts:
    """*Lexical*, a TextTiling: cut where the words of ``blocks`` sentences before and behind have the least in
    common (cosine of counts)."""
    starts = document.sentences.tolist()
    counts = [Counter(words(document.text[a:b])) for a, b in itertools.pairwise(starts)]
    gaps = []
    for k in range(1, len(counts)):
        before, behind = sum(counts[max(0, k - blocks) : k], Counter()), sum(counts[k : k + blocks], Counter())
        size = math.hypot(*before.values()) * math.hypot(*behind.values())
        gaps.append(1 - sum(c * behind[w] for w, c in before.items()) / max(size, 1e-9))
    return by_scores(document, _inner(np.array(gaps)), n)


def _inner(gaps: np.ndarray) -> np.ndarray:
    """Scores of the ends of sentences inside of a document, as :func:`by_scores` takes them."""
    return np.concatenate([[0.0], gaps, [0.0]])


def by_perplexity(document: Document, n: int, values: np.ndarray) -> Cuts:
    """*Perplexity*, the predecessor's method: cut where ``values``, the NLL of each sentence given all before it, are
    at a local minimum, the deepest first (depth: the smaller of the two falls). Where there are too few minima, the
    next best follow."""
    padded = np.concatenate([[np.inf], values, [np.inf]])
    depth = np.minimum(padded[:-2] - values, padded[2:] - values)
    depth[~np.isfinite(depth)] = 0.0
    return by_scores(document, np.concatenate([[0.0], depth]), n)  # a minimum ends its chunk


def resized(document: Document, cuts: Sequence[int], n: int) -> Cuts:
    """Another chunker's cuts, merged and cut until there are ``n`` chunks: the two neighbours that are shortest
    together are merged; the longest chunk is cut at the end of a sentence nearest to its middle (in words). With no
    sentence left to cut at, a document stays with fewer chunks."""
    size, found = document.size, sorted(set(cuts))
    while len(found) > max(0, n - 1):
        bounds = [0, *found, len(document.text)]
        found.pop(int(np.argmin([size(a, b) for a, b in zip(bounds, bounds[2:], strict=False)])))
    while len(found) < n - 1:
        bounds = [0, *found, len(document.text)]
        order = sorted(itertools.pairwise(bounds), key=lambda each: -size(*each))
        options = [(a, b, document.sentences[(document.sentences > a) & (document.sentences < b)]) for a, b in order]
        found_one = next(((a, b, inner) for a, b, inner in options if len(inner)), None)
        if found_one is None:
            break
        a, b, inner = found_one
        middle = [abs(size(a, int(each)) - size(int(each), b)) for each in inner]
        found = sorted([*found, int(inner[int(np.argmin(middle))])])
    return tuple(found)


# ------------------------------------------------------------------------------------------------ language models

Ask = Callable[[list[str]], list[str]]  # texts of users' turns -> replies
_LUMBER = (
    "Below are numbered passages of a document, in order. Find the first passage, not the first one of all, at which "
    "the content clearly shifts from what stands before. Answer with its number alone, like: ID 3\n\n{passages}"
)
_DIRECT = (
    "Split the text below into chunks that each hold one topic. Copy the text word by word, change and leave out "
    "nothing, and write a line of three dashes (---) between chunks.\n\n{text}"
)


def asking(model: Any, tokenizer: Any, max_new_tokens: int, batch_size: int = 16) -> Ask:
    """A chat model that answers greedily."""

    def ask(texts: list[str]) -> list[str]:
        prompts = [[{"role": "user", "content": text}] for text in texts]
        return complete(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)

    return ask


def lumber(documents: Sequence[Document], ask: Ask, shown: int = 290) -> list[Cuts]:
    """*LumberChunker*: sentences with numbers, up to about ``shown`` words, are shown; the model says at which the
    content shifts, and goes on from there. A reply that names none of them means the next sentence. All documents are
    asked about together, round by round."""
    at, cuts = [0] * len(documents), [list[int]() for _ in documents]
    while asked := [k for k, d in enumerate(documents) if at[k] < len(d.sentences) - 2]:
        ends = []
        for k in asked:
            starts, d = documents[k].sentences, documents[k]
            sizes = [d.size(int(starts[at[k]]), int(each)) for each in starts[at[k] + 1 :]]
            ends.append(at[k] + max(2, int(np.searchsorted(sizes, shown, side="right"))))
        replies = ask(
            [_LUMBER.format(passages=_numbered(documents[k], at[k], e)) for k, e in zip(asked, ends, strict=True)]
        )
        for k, end, reply in zip(asked, ends, replies, strict=True):
            named = re.search(r"ID\D{0,3}(\d+)|(\d+)", reply)
            found = int(named.group(1) or named.group(2)) if named else -1
            at[k] = found if at[k] < found < end else at[k] + 1
            cuts[k].append(int(documents[k].sentences[at[k]]))
    return [tuple(each) for each in cuts]


def _numbered(document: Document, begin: int, end: int) -> str:
    starts = document.sentences
    return "\n".join(f"ID {k}: {document.text[starts[k] : starts[k + 1]].strip()}" for k in range(begin, end))


def direct(texts: Sequence[str], ask: Ask) -> list[Cuts]:
    """Whole-text chunking by a language model, without training: cuts of the source where the reply's chunks begin."""
    replies = ask([_DIRECT.format(text=text) for text in texts])
    found = []
    for text, reply in zip(texts, replies, strict=True):
        parts = [part.strip() for part in re.split(r"\n?-{3,}\n?", reply) if part.strip()]
        found.append(recover_robust(text, [(part[:30], part[-30:]) for part in parts]))
    return found
