"""A small transformer that is trained in the chapter to read sets of documents and to point at the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.papers.more_documents.planted import distractor_pool
from reprobook.papers.more_documents.scoring import f1
from reprobook.papers.more_documents.sets import build_set, replace_distractors
from reprobook.train import shuffled

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from reprobook.papers.more_documents.sets import BuiltSet, Instance
    from reprobook.papers.more_documents.study import Study

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
        """The word of an index."""
        return self._tokenizer.id_to_token(int(index))

    @classmethod
    def of(cls, texts: Sequence[str], names: Sequence[str], n_words: int) -> Words:
        """The ``n_words`` most frequent words of ``texts``, and all names."""
        from collections import Counter

        plain = cls([], [])
        counts = Counter(word for text in texts for word, _ in plain._tokenizer.pre_tokenizer.pre_tokenize_str(text))
        return cls([word for word, _ in counts.most_common(n_words)], names)


def rows(words: Words, questions: Sequence[Instance], sets: Sequence[BuiltSet | None]) -> dict[str, Tensor]:
    """Rows for the reader: ``x`` (n, L) int64, "[ask] question [doc] document [doc] document ..." padded on the right,
    and ``y`` (n, L) bool, where the answer stands in a document. A set may be None: no documents."""
    texts = [text for built in sets if built is not None for text in built.texts]
    documents, asked = iter(words.ids(texts)), words.ids([each.question for each in questions])
    gold = words.ids([each.answer for each in questions])
    doc, ask = SPECIAL.index("[doc]"), SPECIAL.index("[ask]")
    found, fronts = [], []
    for k, built in enumerate(sets):
        front = [ask, *asked[k]]
        documents_of = [[doc, *next(documents)] for _ in range(len(built) if built is not None else 0)]
        found.append(torch.tensor([*front, *chain.from_iterable(documents_of)]))
        fronts.append(len(front))
    x = nn.utils.rnn.pad_sequence(found, batch_first=True)
    answer = torch.tensor([ids[0] for ids in gold])
    behind = torch.arange(x.shape[1])[None] >= torch.tensor(fronts)[:, None]
    y = (x == answer[:, None]) & behind
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


def read_study(model: Reader, words: Words, made: Study) -> pd.DataFrame:
    """One row per question and condition: ``f1`` of the word pointed at, ``log_p`` of the answer (nats, NaN where no
    document has it), ``total`` tokens of the full set and ``hops``."""
    import pandas as pd

    found = []
    for condition in made.conditions:
        asked = made.instances(condition)
        data = rows(words, asked, made.sets(condition))
        answers, log_p = read(model, words, data["x"])
        right = log_p.masked_fill(~data["y"], -torch.inf).logsumexp(-1)
        right = right.masked_fill(~data["y"].any(-1), torch.nan)
        found += [
            {"question": q.id, "condition": condition.name, "count": condition.count, "f1": f1(answer, q.golds),
             "log_p": value, "total": int(q.lengths.sum()), "hops": len(q.supporting)}
            for q, answer, value in zip(asked, answers, right.tolist(), strict=True)
        ]  # fmt: skip
    return pd.DataFrame(found)


def training_rows(
    words: Words, questions: Sequence[Instance], ladder: Sequence[int], seed: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Rows ``x`` and ``y`` of training questions, each with a count of the ladder drawn at random, every third with
    random distractors."""
    rng = np.random.default_rng([seed, 3])
    pool = distractor_pool(questions)
    asked = [replace_distractors(q, pool, seed) if k % 3 == 2 else q for k, q in enumerate(questions)]
    counts = [int(rng.choice(ladder)) or len(q.supporting) for q in asked]
    data = rows(words, asked, [build_set(q, c, seed=seed) for q, c in zip(asked, counts, strict=True)])
    return data["x"], data["y"]


def batches(
    words: Words, parts: Sequence[tuple[Tensor, Tensor]], batch_size: int, seed: int
) -> Callable[[int], tuple[Tensor, Tensor]]:  # fmt: skip
    """Micro-step i -> a batch of renamed rows (B, L) and answers of part i mod n: each collection in its turn."""
    order = [shuffled(len(x), batch_size, seed=seed) for x, _ in parts]

    def batch(i: int) -> tuple[Tensor, Tensor]:
        turn, part = divmod(i, len(parts))
        x, y = parts[part]
        rows_at = order[part](turn)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        return renamed(x[rows_at], words, generator), y[rows_at]

    return batch


def while_learning(words: Words, ends: Mapping[str, Study]) -> Callable[[Reader, int], dict[str, float]]:
    """For ``fit``: F1 of each collection with the fewest and with all documents, hard distractors."""

    def evaluate(model: Reader, step: int) -> dict[str, float]:  # noqa: ARG001 (as the loop calls it)
        found = {}
        for name, made in ends.items():
            for count, part in read_study(model, words, made).groupby("count"):
                found[f"{name}, {'all' if count else 'fewest'}"] = float(part["f1"].mean())
        return found

    return evaluate
