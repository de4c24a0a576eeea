"""A small transformer that is trained in the chapter to read sets of documents and to point at the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    """Bidirectional transformer with rotary positions; a bilinear pointer from the first position over all others.

    Names have fixed random vectors that are never trained, so that a name never seen in training can be read."""

    def __init__(self, n_words: int, n_names: int, dim: int = 96, n_layers: int = 3, n_heads: int = 4,
                 seed: int = 0) -> None:  # fmt: skip
        super().__init__()
        if dim % (2 * n_heads):
            raise ReprobookError(f"dim {dim} must be a multiple of twice n_heads, {2 * n_heads}")
        generator = torch.Generator().manual_seed(seed)
        self.words = nn.Embedding(n_words, dim)
        self.register_buffer("names", torch.randn(n_names, dim, generator=generator))
        self.near = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.blocks = nn.ModuleList(_Block(dim, n_heads) for _ in range(n_layers))
        self.norm, self.query, self.key = nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, L) of each position as the answer, -inf at padding and at the question's mark, from ids (B, L)."""
        seen = x != 0
        table = torch.cat([self.words.weight, self.names])
        h = F.embedding(x, table)
        h = h + self.near((h * seen[..., None]).transpose(1, 2)).transpose(1, 2)
        turn = rotation(x.shape[1], self.blocks[0].size, x.device)
        for block in self.blocks:
            h = block(h, seen, turn)
        h = self.norm(h)
        scores = torch.einsum("bd,bld->bl", self.query(h[:, 0]), self.key(h)) / h.shape[-1] ** 0.5
        blocked = ~seen
        blocked[:, 0] = True
        return scores.masked_fill(blocked, -torch.inf)


class _Block(nn.Module):
    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads, self.size = n_heads, dim // n_heads
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 3 * dim), nn.GELU(), nn.Linear(3 * dim, dim))

    def forward(self, h: Tensor, seen: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.n_heads, self.size)).transpose(1, 2) for part in self.qkv(self.first(h)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(_turned(q, turn), _turned(k, turn), v, attn_mask=seen[:, None, None])
        h = h + self.out(mixed.transpose(1, 2).flatten(2))
        return h + self.mlp(self.second(h))


def rotation(length: int, size: int, device: Any) -> tuple[Tensor, Tensor]:
    """Cosine and sine (L, size / 2) of rotary positions, base 10,000."""
    angle = torch.arange(length, device=device)[:, None] / 10_000 ** (torch.arange(0, size, 2, device=device) / size)
    return angle.cos(), angle.sin()


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


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
