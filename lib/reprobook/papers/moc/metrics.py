r"""The paper's measures of a chunking (Section 2): Boundary Clarity and Chunk Stickiness, the dissimilarity it is
compared with, and information support.

:math:`\ell(q\mid d)=-\frac1{|q|}\sum_t\log p(q_t\mid d,q_{<t})`, :math:`\mathrm{ppl}=e^{\ell}`: only the tokens of q
are scored. Texts are tokenised apart and their tokens joined; alone, q stands behind a single blank, so that its first
token is scored as well: both as in the released code.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.nn.lm import _log_p, token_logprobs
from reprobook.papers.moc.corpora import pieces

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.moc.corpora import Cuts

Reading = Literal["nll", "ppl"]
Keep = Literal["related", "unrelated"]
Graph = Literal["complete", "sequential"]
ALONE = " "  # what stands before a text without context, as in the released code


class Scorer(Protocol):
    """Mean negative log-likelihoods (nats per token) of texts behind contexts."""

    def nll(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(n,) of ``pairs`` (context, text); the context :data:`ALONE` means none."""
        ...

    def neighbours(self, texts: Sequence[str], cuts: Sequence[Sequence[Cuts]]) -> list[list[np.ndarray]]:
        """Of every text and every one of its chunkings (2, boundaries): the next chunk alone, and behind the one
        before."""
        ...

    def stretches(self, texts: Sequence[str], starts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Of every text the NLL of what stands between two ``starts`` (and behind the last), given all before it."""
        ...


class LMScorer:
    """A causal language model as scorer. What pairs have in common is read once: a context that several texts share
    (its keys and values are kept for the batch), and of texts that begin alike behind one context the longest. A blank
    at the end of a text is not scored."""

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int = 16, max_context: int = 1024) -> None:
        self.model, self.tokenizer, self.batch_size, self.max_context = model, tokenizer, batch_size, max_context
        self._known: dict[tuple[str, str], float] = {}
        self._rows: dict[tuple[str, str], Tensor] = {}  # log-likelihoods of tokens, while pairs are read
        self._ids: dict[str, list[int]] = {}
        self.tokens_read = 0

    def nll(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(n,) nats per token; of a longer context the last ``max_context`` tokens count."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        by_context: dict[str, list[str]] = {}
        for context, text in new:
            by_context.setdefault(context, []).append(text)
        single, whole = [], {}
        for context, texts in by_context.items():
            whole[context] = self._longest(texts)
            longest = list(dict.fromkeys(whole[context].values()))
            if len(longest) > 1 and context != ALONE:
                self._behind(context, longest)
            else:
                single += [(context, text) for text in longest]
        rows = [self.ids(context)[-self.max_context :] + self._scored(text) for context, text in single]
        found = token_logprobs(self.model, self.tokenizer, rows, batch_size=self.batch_size, max_tokens=8192)
        for (context, text), row in zip(single, found, strict=True):
            self._rows[context, text] = row[-len(self._scored(text)) :].double()
            self.tokens_read += len(row) + 1
        for context, text in new:
            part = self._rows[context, whole[context][text]][: len(self._scored(text))]
            self._known[context, text] = -part.mean().item()
        self._rows.clear()
        return np.array([self._known[pair] for pair in pairs])

    def neighbours(self, texts: Sequence[str], cuts: Sequence[Sequence[Cuts]]) -> list[list[np.ndarray]]:
        """The same numbers as :meth:`nll` of neighbouring chunks, but for tokens: a text is tokenised once, as a whole,
        and a token belongs to the chunk in which it ends. So one pass from the beginning of a chunk serves all
        chunkings that have one there, and all places where it may end."""
        blank, rows, places = self.ids(ALONE), list[list[int]](), list[tuple[int, int]]()
        ends, asked = [], []
        for k, (text, options) in enumerate(zip(texts, cuts, strict=True)):
            told = self.tokenizer(ALONE + text, add_special_tokens=False, return_offsets_mapping=True)
            ends.append(np.array(told.offset_mapping)[:, 1] - len(ALONE))
            bounds = [np.searchsorted(ends[k], [0, *each, len(text)], side="right") for each in options]
            reach: dict[int, int] = {}
            for each in bounds:
                for a, b in zip(each[:-1].tolist(), [*each[2:].tolist(), int(each[-1])], strict=True):
                    reach[a] = max(reach.get(a, 0), b)
            asked.append(bounds)
            places += [(k, a) for a in reach]
            rows += [[*blank, *told.input_ids[a:b]] for a, b in reach.items()]
        found = token_logprobs(self.model, self.tokenizer, rows, batch_size=self.batch_size, max_tokens=8192)
        self.tokens_read += sum(map(len, rows))
        sums = {place: np.concatenate([[0.0], row[len(blank) - 1 :].double().cumsum(0).numpy()])
                for place, row in zip(places, found, strict=True)}  # fmt: skip

        def mean(k: int, a: int, b: int, e: int) -> float:
            return float(sums[k, a][b - a] - sums[k, a][e - a]) / (e - b)

        return [
            [np.array([[mean(k, b, b, e) for _, b, e in _triples(each)], [mean(k, *three) for three in _triples(each)]])
             for each in bounds]
            for k, bounds in enumerate(asked)
        ]  # fmt: skip

    def stretches(self, texts: Sequence[str], starts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """As :meth:`Scorer.stretches`: one pass a text, tokenised as a whole."""
        rows, bounds = [], []
        for text, at in zip(texts, starts, strict=True):
            told = self.tokenizer(ALONE + text, add_special_tokens=False, return_offsets_mapping=True)
            ends = np.array(told.offset_mapping)[:, 1] - len(ALONE)
            bounds.append(np.searchsorted(ends, [0, *at, len(text)], side="right"))
            rows.append([*self.ids(ALONE), *told.input_ids[bounds[-1][0] :]])
        found = token_logprobs(self.model, self.tokenizer, rows, batch_size=self.batch_size, max_tokens=8192)
        self.tokens_read += sum(map(len, rows))
        sums = [np.concatenate([[0.0], row.double().cumsum(0).numpy()]) for row in found]
        return [
            -np.diff(told[each[1:] - each[0]]) / np.maximum(1, np.diff(each[1:]))
            for told, each in zip(sums, bounds, strict=True)
        ]

    def _scored(self, text: str) -> list[int]:
        return self.ids(text.rstrip() or text)

    def _longest(self, texts: Sequence[str]) -> dict[str, str]:
        """Text -> the longest of ``texts`` whose tokens begin with all of its own. Sorted by their tokens, what begins
        with a text stands right behind it."""
        found: dict[str, str] = {}
        after: str | None = None
        for text in sorted(texts, key=self._scored, reverse=True):
            ids = self._scored(text)
            if after is None or self._scored(after)[: len(ids)] != ids:
                after = text
            found[text] = after
        return found

    def ids(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False).input_ids
            if not self._ids[text]:
                raise ReprobookError(f"the text {text!r:.40} has no token, so it has no likelihood")
        return self._ids[text]

    @torch.no_grad()
    def _behind(self, context: str, texts: Sequence[str]) -> None:
        """Read the context once, then the texts in batches behind copies of its keys and values."""
        prefix = torch.tensor([self.ids(context)[-self.max_context :]], device=self.model.device)
        decoder = self.model.get_decoder()
        first = decoder(input_ids=prefix, use_cache=True)
        self.tokens_read += prefix.shape[1]
        order = sorted(texts, key=lambda text: len(self._scored(text)))
        for at in range(0, len(order), self.batch_size):
            part = order[at : at + self.batch_size]
            x = torch.nn.utils.rnn.pad_sequence([torch.tensor(self._scored(text)) for text in part], batch_first=True)
            mask = torch.arange(x.shape[1]) < torch.tensor([[len(self._scored(text))] for text in part])
            hidden = decoder(
                input_ids=x.to(prefix.device), past_key_values=_repeated(first.past_key_values, len(part)),
                attention_mask=torch.cat([torch.ones(len(part), prefix.shape[1]), mask], 1).long().to(prefix.device),
                use_cache=True,
            ).last_hidden_state  # fmt: skip
            last = first.last_hidden_state[:, -1:].expand(len(part), -1, -1)  # it says the text's first token
            log_p = _log_p(self.model, torch.cat([last, hidden[:, :-1]], 1)[mask.to(hidden.device)], x[mask])
            for text, row in zip(part, log_p.split(mask.sum(1).tolist()), strict=True):
                self._rows[context, text] = row.double()
                self.tokens_read += len(row)


def _triples(bounds: np.ndarray) -> list[tuple[int, int, int]]:
    """Beginning of a chunk, of the next one, and where that ends."""
    return list(zip(bounds[:-2].tolist(), bounds[1:-1].tolist(), bounds[2:].tolist(), strict=True))


def _repeated(cache: Any, n: int) -> Any:
    """``n`` copies of a cache of one row; the original stays as it is."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    made.batch_repeat_interleave(n)
    return made


class Recurrence:
    r"""A scorer without a network: words come from the frequencies p of a corpus and, with weight λ, from those of the
    context :math:`c`: :math:`p(w\mid d)=(1-\lambda)\,p(w)+\lambda\,c_d(w)/|d|`. What it sees of a boundary is which
    words come again."""

    def __init__(self, corpus: Sequence[str], weight: float = 0.5) -> None:
        if not 0 <= weight < 1:
            raise ReprobookError(f"weight is {weight}; it must be in [0, 1)")
        self.counts = Counter(word for text in corpus for word in words(text))
        self.total, self.weight = sum(self.counts.values()) + len(self.counts) + 1, weight

    def nll(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(n,) nats per word."""
        return np.array([self._one(words(context), words(text)) for context, text in pairs])

    def neighbours(self, texts: Sequence[str], cuts: Sequence[Sequence[Cuts]]) -> list[list[np.ndarray]]:
        """As :meth:`Scorer.neighbours`, pair by pair."""
        told = [[boundary_pairs(pieces(text, each)) for each in options]
                for text, options in zip(texts, cuts, strict=True)]  # fmt: skip
        return [[np.array([self.nll([(ALONE, q) for _, q in pairs]), self.nll(pairs)]) for pairs in each]
                for each in told]  # fmt: skip

    def stretches(self, texts: Sequence[str], starts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """As :meth:`Scorer.stretches`, pair by pair."""
        return [
            np.array([self.nll([(text[:a] or ALONE, text[a:b])])[0] for a, b in itertools.pairwise([*at, len(text)])])
            for text, at in zip(texts, starts, strict=True)
        ]

    def _one(self, context: list[str], text: list[str]) -> float:
        seen = Counter(context)
        plain = [(self.counts[word] + 1) / self.total for word in text]
        if context:
            plain = [
                (1 - self.weight) * p + self.weight * seen[w] / len(context) for p, w in zip(plain, text, strict=True)
            ]
        return -sum(map(math.log, plain)) / max(1, len(text))


def words(text: str) -> list[str]:
    """Words in lower case; every Chinese character is one."""
    return re.findall(r"[一-鿿]|[^\W一-鿿]+", text.lower())


# ------------------------------------------------------------------------------------------------ boundary clarity


def clarity(alone: np.ndarray, given: np.ndarray, reading: Reading = "ppl") -> np.ndarray:
    r"""Equation 1, :math:`BC(q,d)=\mathrm{ppl}(q\mid d)/\mathrm{ppl}(q)`, of mean NLLs (n,). ``nll``: the released
    code's :math:`\ell(q\mid d)/\ell(q)`, which fits the printed 0.77 to 0.88. 1: independent; above 1: d hurts."""
    return np.exp(given - alone) if reading == "ppl" else given / alone


def boundary_pairs(chunks: Sequence[str]) -> list[tuple[str, str]]:
    """(previous, next) for each boundary of one document; pairs never reach over two documents, as in the released
    code, where all chunks of a corpus stand in one list."""
    return list(itertools.pairwise(chunks))


def document_clarity(scorer: Scorer, chunks: Sequence[str], reading: Reading = "nll") -> float:
    """Mean over the boundaries of a document; NaN for a document of one chunk."""
    pairs = boundary_pairs(chunks)
    if not pairs:
        return math.nan
    return float(clarity(scorer.nll([(ALONE, q) for _, q in pairs]), scorer.nll(pairs), reading).mean())


# ------------------------------------------------------------------------------------------------ chunk stickiness


def edge_weights(
    scorer: Scorer, chunks: Sequence[str], reading: Reading = "ppl", graph: Graph = "complete"
) -> np.ndarray:
    r"""Equation 2 of all ordered pairs, (n, n): [i, j] is :math:`\mathrm{Edge}(c_j, c_i)=1-\mathrm{ppl}(c_j\mid c_i)/
    \mathrm{ppl}(c_j)`, what chunk i tells of chunk j. NaN: the diagonal, and with ``sequential`` all that lead back."""
    n = len(chunks)
    where = [(i, j) for i in range(n) for j in range(n) if (i != j if graph == "complete" else i < j)]
    given = scorer.nll([(chunks[i], chunks[j]) for i, j in where])
    alone = scorer.nll([(ALONE, chunk) for chunk in chunks])
    edges = np.full((n, n), np.nan)
    for (i, j), value in zip(where, given, strict=True):
        edges[i, j] = 1 - clarity(alone[j], value, reading)
    return edges


def kept_edges(
    edges: np.ndarray, k: float = 0.8, keep: Keep = "related", graph: Graph = "complete", gap: int = 0,
    distance: float = 0.0,
) -> np.ndarray:  # fmt: skip
    r"""Ordered pairs (m, 2) that stay. ``related``: the paper's rule, Edge > K. ``unrelated``: the released code's,
    :math:`1-\mathrm{Edge}+\delta\,|i-j|/(n-1)>K` with its δ as ``distance``; it keeps the pairs that tell little of
    each other. ``sequential``: j − i > ``gap``, the paper's δ: a least distance, for all that it is called a radius."""
    if keep not in ("related", "unrelated") or graph not in ("complete", "sequential"):
        raise ReprobookError(f"keep {keep!r} (related, unrelated) or graph {graph!r} (complete, sequential)")
    n = len(edges)
    i, j = np.indices((n, n))
    far = np.abs(i - j) / max(1, n - 1)
    score = edges if keep == "related" else 1 - edges + distance * far
    allowed = (i != j) if graph == "complete" else (j - i > gap)
    return np.argwhere(allowed & (np.nan_to_num(score, nan=-np.inf) > k))


def structural_entropy(pairs: np.ndarray) -> float:
    r"""Equation 3, :math:`CS=-\sum_i\frac{d_i}{2m}\log_2\frac{d_i}{2m}` of the kept pairs (m, 2): every pair counts one
    at both of its ends, both directions if both stay. 0 without edges; at most log2 of the nodes that have one."""
    if not len(pairs):
        return 0.0
    degrees = np.bincount(np.asarray(pairs).ravel())
    share = degrees[degrees > 0] / degrees.sum()
    return float(-(share * np.log2(share)).sum())


def stickiness(edges: np.ndarray, **options: Any) -> dict[str, float]:
    """``cs`` of one document with what it hangs on: mean ``degree`` and the share of chunks without an edge
    (``isolated``). ``options``: those of :func:`kept_edges`."""
    pairs, n = kept_edges(edges, **options), len(edges)
    return {
        "cs": structural_entropy(pairs), "degree": 2 * len(pairs) / max(1, n),
        "isolated": 1 - len(np.unique(pairs)) / max(1, n),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ the others


def dissimilarity(vectors: Tensor) -> np.ndarray:
    """1 − cosine of neighbouring unit vectors (n, width): (n − 1,)."""
    return (1 - (vectors[:-1] * vectors[1:]).sum(-1)).numpy()


def information_support(scorer: Scorer, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    r"""Equation 7, :math:`-\frac1M\sum_i\log P(a_i\mid a_{<i},\ \text{chunks},\ \text{question})`, nats per token (n,);
    lower is better. The printed formula leaves out the question and what was said of the answer before."""
    return scorer.nll(list(zip(prompts, answers, strict=True)))
