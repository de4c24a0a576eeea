"""Finding chunks for questions, how much of the evidence they hold, and how good an answer is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reprobook.nn.encoder import encode
from reprobook.papers.moc.corpora import spans

if TYPE_CHECKING:
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


class Vectors:
    """Unit vectors (n, width) of texts by a sentence encoder; what was encoded once is kept."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer, self._known = model, tokenizer, dict[str, Tensor]()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, width) in the order of ``texts``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, encode(self.model, self.tokenizer, new), strict=True))
        return torch.stack([self._known[text] for text in texts])


Encode = Callable[[Sequence[str]], Tensor]


def ranked_dense(queries: Tensor, chunks: Tensor) -> np.ndarray:
    """Rows (queries, chunks): the most similar first, by exact search (inner product of unit vectors)."""
    return (queries @ chunks.T).argsort(dim=1, descending=True, stable=True).numpy()


def ranked_bm25(queries: Sequence[str], chunks: Sequence[str], language: str = "en") -> np.ndarray:
    """Rows (queries, chunks), the best first by BM25 (bm25s, k1 = 1.5, b = 0.75)."""
    import bm25s

    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index([tokens(text, language) or [""] for text in chunks], show_progress=False)
    scores = [index.get_scores(tokens(query, language) or [""]) for query in queries]
    return np.argsort(-np.array(scores), axis=1, kind="stable")


def recall(question: Question, ranked: Iterable[Chunk], owner: Mapping[str, Document], budget: int) -> float:
    """Share of the evidence's characters in the first of ``ranked`` chunks that have ``budget`` words (Chinese:
    characters) together. Of the last one, which is longer than what is left, a window at a random place would be read:
    the expected share of it counts. So what is found has the same size however unequal chunks are, and no place in a
    chunk is better than another."""
    begin, end = question.span
    inside, left = 0.0, float(budget)
    for each in ranked:
        size = owner[each.document].size(each.begin, each.end)
        if each.document == question.document:
            inside += max(0, min(end, each.end) - max(begin, each.begin)) * min(1.0, left / max(1, size))
        left -= size
        if left <= 0:
            break
    return inside / (end - begin)


def overlap(question: Question, chunks: Sequence[Chunk]) -> np.ndarray:
    """(chunks,) characters of the evidence in each."""
    begin, end = question.span
    own = np.array([c.document == question.document for c in chunks])
    first, last = (np.array([getattr(c, side) for c in chunks]) for side in ("begin", "end"))
    return own * np.maximum(0, np.minimum(end, last) - np.maximum(begin, first))


def quality(
    documents: Sequence[Document], cuts: Mapping[str, Sequence[Cuts]], questions: Sequence[Question],
    vectors: Encode, budgets: Sequence[int],
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """Retriever -> chunker -> (questions,), recall of the evidence in so many words of the chunks of *all* documents,
    the mean over ``budgets``. ``perfect`` knows the evidence: what the lengths of chunks alone allow."""
    owner, asked = {d.id: d for d in documents}, [question.text for question in questions]
    found: dict[str, dict[str, np.ndarray]] = {"MiniLM": {}, "BM25": {}, "perfect": {}}
    for name, each in cuts.items():
        chunks = chunks_of(documents, each)
        told = [c.text for c in chunks]
        orders = {
            "MiniLM": ranked_dense(vectors(asked), vectors(told)),
            "BM25": ranked_bm25(asked, told, documents[0].language),
            "perfect": np.argsort([-overlap(q, chunks) for q in questions], axis=1, kind="stable"),
        }
        for retriever, order in orders.items():
            best = [[chunks[i] for i in rows] for rows in order.tolist()]
            found[retriever][name] = np.mean(
                [[recall(q, ranked, owner, budget) for q, ranked in zip(questions, best, strict=True)]
                 for budget in budgets], axis=0)  # fmt: skip
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
