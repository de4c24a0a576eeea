"""Finding chunks for questions, how much of the evidence they hold, and how good an answer is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.nn.encoder import encode
from reprobook.papers.moc.corpora import spans

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.moc.corpora import Cuts, Document, Question


def tokens(text: str, language: str = "en") -> list[str]:
    """Words in lower case; Chinese: single characters, Latin words and numbers whole."""
    pattern = r"\w+" if language == "en" else r"[一-鿿]|[^\W一-鿿]+"
    return re.findall(pattern, text.lower())


class Chunk(NamedTuple):
    """A chunk as an index holds it: whose, from which character to which, and its text."""

    document: str
    begin: int
    end: int
    text: str


def chunks_of(documents: Sequence[Document], cuts: Sequence[Cuts]) -> list[Chunk]:
    """All chunks of all documents, in order."""
    return [
        Chunk(document.id, begin, end, document.text[begin:end])
        for document, each in zip(documents, cuts, strict=True)
        for begin, end in spans(document.text, each)
    ]


def ranked_dense(queries: Tensor, chunks: Tensor, k: int) -> np.ndarray:
    """Rows (queries, k) of the most similar chunks by a vector index (faiss, inner product of unit vectors, exact)."""
    import faiss

    if not 1 <= k <= len(chunks):
        raise ReprobookError(f"k is {k}; it must be from 1 to the number of chunks ({len(chunks)})")
    index = faiss.IndexFlatIP(chunks.shape[1])
    index.add(chunks.numpy())
    return index.search(queries.numpy(), k)[1]


def ranked_bm25(queries: Sequence[str], chunks: Sequence[str], k: int, language: str = "en") -> np.ndarray:
    """Rows (queries, k) by BM25 (bm25s, k1 = 1.5, b = 0.75)."""
    import bm25s

    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index([tokens(text, language) or [""] for text in chunks], show_progress=False)
    scores = [index.get_scores(tokens(query, language) or [""]) for query in queries]
    return np.argsort(-np.array(scores), axis=1, kind="stable")[:, :k]


def evidence(question: Question, found: Sequence[Chunk]) -> tuple[float, float]:
    """Recall of the evidence's characters in the found chunks, and IoU: characters in both over those in either."""
    begin, end = question.span
    inside = sum(max(0, min(end, c.end) - max(begin, c.begin)) for c in found if c.document == question.document)
    total = sum(c.end - c.begin for c in found)
    return inside / (end - begin), inside / (total + (end - begin) - inside)


def quality(
    documents: Sequence[Document], cuts: Mapping[str, Sequence[Cuts]], questions: Sequence[Question],
    encoder: tuple[Any, Any] | None, k: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Chunker -> (questions, 2), recall and IoU of the evidence in the first ``k`` of *all* chunks of all documents.
    ``encoder`` None: BM25. Texts that several chunkers share are encoded once."""
    language = documents[0].language
    held = {name: chunks_of(documents, each) for name, each in cuts.items()}
    asked = [question.text for question in questions]
    if encoder is not None:
        texts = list(dict.fromkeys([*asked, *(c.text for each in held.values() for c in each)]))
        row, vectors = {text: i for i, text in enumerate(texts)}, encode(*encoder, texts)
    found = {}
    for name, chunks in held.items():
        size = min(k, len(chunks))
        if encoder is None:
            best = ranked_bm25(asked, [c.text for c in chunks], size, language)
        else:
            best = ranked_dense(vectors[[row[q] for q in asked]], vectors[[row[c.text] for c in chunks]], size)
        found[name] = np.array(
            [evidence(q, [chunks[i] for i in rows]) for q, rows in zip(questions, best, strict=True)]
        )
    return found


# ------------------------------------------------------------------------------------------------ answers


def ngram_precisions(answer: Sequence[str], reference: Sequence[str], most: int = 4) -> list[float]:
    """Clipped n-gram precision of each order: what the CRUD benchmark prints as BLEU-n."""
    found = []
    for n in range(1, most + 1):
        made, true = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (answer, reference))
        found.append(sum((made & true).values()) / max(1, made.total()))
    return found


def bleu_average(answer: Sequence[str], reference: Sequence[str]) -> float:
    """BLEU-4 with the brevity penalty divided out: the geometric mean of four precisions, 0 if one is."""
    return _geometric(ngram_precisions(answer, reference))


def bleu(answer: Sequence[str], reference: Sequence[str]) -> float:
    """BLEU-4 of one sentence, with its brevity penalty."""
    if not answer:
        return 0.0
    return min(1.0, math.exp(1 - len(reference) / len(answer))) * bleu_average(answer, reference)


def _geometric(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0


def rouge_l(answer: Sequence[str], reference: Sequence[str]) -> float:
    """F of the longest common subsequence."""
    row = [0] * (len(reference) + 1)
    for word in answer:
        above, row = row, [0]
        for j, other in enumerate(reference, start=1):
            row.append(above[j - 1] + 1 if word == other else max(above[j], row[-1]))
    return 2 * row[-1] / (len(answer) + len(reference)) if row[-1] else 0.0


def bag_f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two bags of tokens."""
    same = (Counter(answer) & Counter(reference)).total()
    return 2 * same / (len(answer) + len(reference)) if same else 0.0


def answer_scores(answer: str, references: Sequence[str], cut: Any = tokens) -> dict[str, float]:
    """The paper's measures of one answer against the best of its ``references``; ``cut`` makes words of a text."""
    made = cut(answer)
    rows = []
    for reference in references:
        true = cut(reference)
        precisions = {f"BLEU-{n}": p for n, p in enumerate(ngram_precisions(made, true), start=1)}
        rows.append({**precisions, "BLEU-Avg": bleu_average(made, true), "ROUGE-L": rouge_l(made, true),
                     "F1": bag_f1(made, true)})  # fmt: skip
    return {name: max(row[name] for row in rows) for name in rows[0]}
