"""A small transformer that is trained in the chapter to read sets of documents and to point at the answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.papers.more_documents.sets import BuiltSet, Instance

SPECIAL = ("[pad]", "[unk]", "[ask]", "[doc]")


class Words:
    """Words and single marks as ids: first the special ones, then ``text`` words, then ``names``.

    Made with the `tokenizers` library, whose offsets serve as the spans of pages."""

    def __init__(self, text: Sequence[str], names: Sequence[str]) -> None:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers

        fixed = [*SPECIAL, *dict.fromkeys(word for word in text if word not in set(names))]
        self.n_words, self.names = len(fixed), list(names)
        vocabulary = {word: k for k, word in enumerate([*fixed, *names])}
        if len(vocabulary) != len(fixed) + len(names):
            raise ReprobookError("a name stands twice in the vocabulary")
        self._tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)

    def __len__(self) -> int:
        return self.n_words + len(self.names)

    def spans(self, text: str) -> np.ndarray:
        """Characters (n, 2) of each word."""
        return np.array(self._tokenizer.encode(text).offsets, dtype=np.int64).reshape(-1, 2)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of the words of each text."""
        return [found.ids for found in self._tokenizer.encode_batch(list(texts))]

    def word(self, index: int) -> str:
        return self._tokenizer.id_to_token(int(index))

    @classmethod
    def of(cls, texts: Sequence[str], names: Sequence[str], n_words: int) -> Words:
        """The ``n_words`` most frequent words of ``texts``, and all names."""
        from collections import Counter

        plain = cls([], [])
        counts = Counter(word for text in texts for word, _ in plain._tokenizer.pre_tokenizer.pre_tokenize_str(text))
        return cls([word for word, _ in counts.most_common(n_words)], names)


def rows(words: Words, questions: Sequence[Instance], sets: Sequence[BuiltSet | None], width: int) -> dict[str, Tensor]:
    """Rows for the reader: ``x`` (n, width) int64, "[ask] question [doc] document [doc] document ..." padded on the
    right, and ``y`` (n, width) bool, where the answer stands in a document. A set may be None: no documents.

    Raises :class:`ReprobookError` if a row is longer than ``width``."""
    texts = [text for built in sets if built is not None for text in built.texts]
    documents, asked = iter(words.ids(texts)), words.ids([each.question for each in questions])
    gold = words.ids([each.answer for each in questions])
    doc, ask = SPECIAL.index("[doc]"), SPECIAL.index("[ask]")
    x = torch.zeros(len(questions), width, dtype=torch.long)
    y = torch.zeros(len(questions), width, dtype=torch.bool)
    for k, built in enumerate(sets):
        front = [ask, *asked[k]]
        row = np.concatenate([front, *([doc, *next(documents)] for _ in range(len(built) if built is not None else 0))])
        if len(row) > width:
            raise ReprobookError(f"question {questions[k].id!r}: its set has {len(row)} words; width is {width}")
        x[k, : len(row)] = torch.from_numpy(row.astype(np.int64))
        y[k, len(front) : len(row)] = x[k, len(front) : len(row)] == gold[k][0]
    return {"x": x, "y": y}


class Reader(nn.Module):
    """Bidirectional transformer of a kind that learns to look up quickly, with a pointer at the answer.

    Queries and keys share one projection and no token attends to itself, so that from the start a name attends to the
    same name elsewhere; order comes from convolutions over neighbours, so that a set longer than those of training can
    be read. Names have fixed random vectors that are never trained: a name never seen in training can be read, too."""

    def __init__(self, n_words: int, n_names: int, dim: int = 64, n_layers: int = 3, n_heads: int = 4,
                 seed: int = 0) -> None:  # fmt: skip
        super().__init__()
        if dim % n_heads:
            raise ReprobookError(f"dim {dim} must be a multiple of n_heads, {n_heads}")
        generator = torch.Generator().manual_seed(seed)
        self.words, self.part = nn.Embedding(n_words, dim), nn.Embedding(2, dim)
        self.register_buffer("names", torch.randn(n_names, dim, generator=generator))
        self.blocks = nn.ModuleList(_Block(dim, n_heads) for _ in range(n_layers))
        self.norm, self.score = nn.LayerNorm(dim), nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, L) of each position as the answer from ids (B, L); -inf at padding and in the question."""
        seen = x != 0
        document = (x == SPECIAL.index("[doc]")).cumsum(-1) > 0
        h = F.embedding(x, torch.cat([self.words.weight, self.names])) + self.part(document.long())
        pairs = seen[:, None, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        for block in self.blocks:
            h = block(h, seen[..., None], pairs)
        allowed = seen & document
        allowed[:, -1] |= ~allowed.any(-1)  # without documents the last position stands for "nothing"
        return self.score(self.norm(h))[..., 0].masked_fill(~allowed, -torch.inf)


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
    """-log of the probability that the pointer stands on any place of the answer; rows without one don't count."""
    log_p = scores.log_softmax(-1).masked_fill(~y, -torch.inf)
    has = y.any(-1)
    return -log_p[has].logsumexp(-1).mean()


@torch.no_grad()
def read(model: Reader, words: Words, x: Tensor, batch_size: int = 64) -> tuple[list[str], Tensor]:
    """The word at the best position of each row, and log-probabilities (n, L)."""
    model.eval()
    device = model.words.weight.device
    log_p = torch.cat([model(part.to(device)).log_softmax(-1).cpu() for part in x.split(batch_size)])
    best = x.gather(1, log_p.argmax(-1, keepdim=True))[:, 0]
    return [words.word(k) for k in best.tolist()], log_p


def renamed(x: Tensor, words: Words, generator: torch.Generator) -> Tensor:
    """Ids (n, L) with the names of each row replaced by others of their kind (given, family, value: thirds of the
    names), one-to-one within a row: endless training questions from a finite set."""
    third = len(words.names) // 3
    order = torch.rand(len(x), 3, third, generator=generator).argsort(-1)
    order = (order + third * torch.arange(3)[:, None]).flatten(1) + words.n_words
    at = (x - words.n_words).clamp_min(0)
    return torch.where(x >= words.n_words, order.gather(1, at), x)
