"""A small transformer that is trained in the chapter to read sets of documents and to point at the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.papers.more_documents.planted import FAMILY, GIVEN, RELATIONS, cell, make_questions, word_spans
from reprobook.papers.more_documents.sets import TooShortError
from reprobook.papers.more_documents.study import Condition, lines
from reprobook.train import shuffled

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.more_documents.planted import Article, Question
    from reprobook.papers.more_documents.sets import BuiltSet
    from reprobook.papers.more_documents.study import Study

SPECIAL = ("[pad]", "[unk]", "[ask]", "[doc]")


class Words:
    """Words and single marks as ids: first the special ones, then the ``n_words`` most frequent of ``texts`` and those
    of facts and questions, then all names."""

    spans = staticmethod(word_spans)

    def __init__(self, texts: Sequence[str], n_words: int) -> None:
        self.names = [*GIVEN, *FAMILY]
        counts = Counter(text[a:b] for text in texts for a, b in word_spans(text))
        said = ["The", "of", "is", ".", "Who", "the", "?", *RELATIONS]
        frequent = (word for word, _ in counts.most_common(n_words))
        fixed = [word for word in dict.fromkeys([*SPECIAL, *said, *frequent]) if word not in set(self.names)]
        self.n_words, self._words = len(fixed), [*fixed, *self.names]
        self._ids = {word: k for k, word in enumerate(self._words)}

    def ids(self, text: str) -> list[int]:
        """Ids of the words of a text."""
        return [self._ids.get(text[a:b], SPECIAL.index("[unk]")) for a, b in word_spans(text)]

    def word(self, index: int) -> str:
        """The word of an index."""
        return self._words[index]


def rows(words: Words, questions: Sequence[Question], sets: Sequence[BuiltSet]) -> tuple[Tensor, Tensor]:
    """Rows for the reader: ``x`` (n, L) int64, "[ask] question [doc] document [doc] document ..." padded on the right,
    and ``y`` (n, L) bool, where the answer stands in a document."""
    doc, ask = SPECIAL.index("[doc]"), SPECIAL.index("[ask]")
    found, answers = [], []
    for question, built in zip(questions, sets, strict=True):
        front = [ask, *words.ids(question.question)]
        ids = torch.tensor([*front, *(k for text in built.texts for k in (doc, *words.ids(text)))])
        found.append(ids)
        answers.append((ids == words.ids(question.plain.answer)[0]) & (torch.arange(len(ids)) >= len(front)))
    pad = nn.utils.rnn.pad_sequence
    return pad(found, batch_first=True), pad(answers, batch_first=True)


class Reader(nn.Module):
    """Bidirectional transformer of a kind that learns to look up quickly, with a pointer at the answer.

    Queries and keys share one projection and no token attends to itself, so that from the start a name attends to the
    same name elsewhere; order comes from convolutions over neighbours, so that a set longer than those of training can
    be read. Names have fixed random vectors that are never trained. ``seed`` draws these and the initial weights."""

    def __init__(self, n_words: int, n_names: int, dim: int = 64, n_layers: int = 3, n_heads: int = 4,
                 seed: int = 0) -> None:  # fmt: skip
        super().__init__()
        if dim % n_heads:
            raise ReprobookError(f"dim {dim} must be a multiple of n_heads, {n_heads}")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._build(n_words, n_names, dim, n_layers, n_heads)

    def _build(self, n_words: int, n_names: int, dim: int, n_layers: int, n_heads: int) -> None:
        self.words, self.part = nn.Embedding(n_words, dim), nn.Embedding(2, dim)
        self.register_buffer("names", torch.randn(n_names, dim))
        self.blocks = nn.ModuleList(_Block(dim, n_heads) for _ in range(n_layers))
        self.norm, self.score = nn.LayerNorm(dim), nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, L) of each position as the answer from ids (B, L); -inf at padding and in the question."""
        seen = x != 0
        document = (x == SPECIAL.index("[doc]")).cumsum(-1) > 0
        h = F.embedding(x, torch.cat([self.words.weight, self.get_buffer("names")])) + self.part(document.long())
        pairs = seen[:, None, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        for block in self.blocks:
            h = block(h, seen[..., None], pairs)
        return self.score(self.norm(h))[..., 0].masked_fill(~(seen & document), -torch.inf)


class _Block(nn.Module):
    """Attention with one projection for queries and keys, a convolution over 7 neighbours, two dense layers."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.first, self.second, self.third = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qk, self.v, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.orthogonal_(self.qk.weight)
        self.near = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 3 * dim), nn.GELU(), nn.Linear(3 * dim, dim))

    def forward(self, h: Tensor, seen: Tensor, pairs: Tensor) -> Tensor:
        normed = self.first(h)
        q, v = (each.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for each in (self.qk(normed), self.v(normed)))
        found = F.scaled_dot_product_attention(q, q, v, attn_mask=pairs)
        h = h + self.out(found.transpose(1, 2).flatten(2))
        h = h + self.near((self.second(h) * seen).transpose(1, 2)).transpose(1, 2)
        return h + self.mlp(self.third(h))


def pointer_loss(scores: Tensor, y: Tensor) -> Tensor:
    """-log of the probability that the pointer stands on any place of the answer."""
    return -scores.log_softmax(-1).masked_fill(~y, -torch.inf).logsumexp(-1).mean()


def renamed(x: Tensor, words: Words, generator: torch.Generator) -> Tensor:
    """Ids (n, L) with the names of each row replaced by others of their kind (given or family), one-to-one within a
    row: endless training questions from a finite set."""
    kinds = [torch.rand(len(x), n, generator=generator).argsort(-1) for n in (len(GIVEN), len(FAMILY))]
    order = torch.cat([kinds[0], len(GIVEN) + kinds[1]], dim=1) + words.n_words
    at = (x - words.n_words).clamp_min(0)
    return torch.where(x >= words.n_words, order.gather(1, at), x)


@torch.no_grad()
def read(model: Reader, words: Words, asked: Sequence[Question], sets: Sequence[BuiltSet]) -> list[dict[str, Any]]:
    """One row a question: ``p``, the pointer's probability of the answer, and whether its best word is ``right``."""
    model.eval()
    x, y = rows(words, asked, sets)
    log_p = model(x.to(model.words.weight.device)).log_softmax(-1).cpu()
    best = x.gather(1, log_p.argmax(-1, keepdim=True))[:, 0]
    p = log_p.exp().masked_fill(~y, 0.0).sum(-1)
    return [
        {"p": each, "right": float(words.word(k) == q.plain.answer)}
        for q, each, k in zip(asked, p.tolist(), best.tolist(), strict=True)
    ]


def training_rows(
    words: Words, where: Sequence[Article], counts: Sequence[int], n: int, name_words: int, seed: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Rows ``x`` and ``y`` of ``n`` training questions, each in a set of one of the lines, drawn at random."""
    rng = np.random.default_rng([seed, 3])
    every = [each for line in lines(counts).values() for each in line]
    asked, sets = [], []
    for question in make_questions(where, words.spans, n_questions=n, n_documents=counts[-1], name_words=name_words,
                                   seed=1_000_000 + seed):  # fmt: skip
        chosen = every[rng.integers(len(every))]
        try:
            sets.append(cell(question, chosen.documents, chosen.look_alikes, seed=seed))
            asked.append(question)
        except TooShortError:
            continue
    return rows(words, asked, sets)


def batches(words: Words, x: Tensor, y: Tensor, batch_size: int, seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Step i -> a batch of renamed rows (B, L) and answers."""
    order = shuffled(len(x), batch_size, seed=seed)

    def batch(i: int) -> tuple[Tensor, Tensor]:
        chosen = order(i)
        return renamed(x[chosen], words, torch.Generator().manual_seed(seed * 1_000_003 + i)), y[chosen]

    return batch


def while_learning(words: Words, made: Study) -> Callable[[Reader, int], dict[str, float]]:
    """For ``fit``: share of right answers in the four corners of the grid of documents and look-alikes."""
    few, n = made.counts[0], made.counts[-1]
    corners = {
        f"{'one document' if c == few else 'all documents'}, {'all' if m else 'no'} look-alikes": [
            built for built in made.sets[Condition("set", c, m)] if built is not None
        ]
        for c in (few, n) for m in (n - 1, 0)
    }  # fmt: skip

    def evaluate(model: Reader, step: int) -> dict[str, float]:  # noqa: ARG001 (as the loop calls it)
        return {
            name: float(np.mean([row["right"] for row in read(model, words, made.questions, sets)]))
            for name, sets in corners.items()
        }

    return evaluate
