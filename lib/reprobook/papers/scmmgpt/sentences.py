"""Cells as sentences: names of genes by falling expression, the representation of Cell2Sentence, as a baseline.

To get a cell back, an expression is read off its rank: log-normalised values fall about linearly with the logarithm of
the rank, and the line is fitted on training cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt.objectives import IGNORE
from reprobook.papers.scmmgpt.tokens import top_genes

if TYPE_CHECKING:
    import scipy.sparse as sp


def ranked(values: sp.csr_matrix, k: int) -> list[np.ndarray]:
    """Columns of the ``k`` highest genes of every cell, highest first."""
    kept = top_genes(values, np.arange(values.shape[1]), k)
    return np.split(kept.indices, kept.indptr[1:-1])


@dataclass(frozen=True)
class RankLine:
    """value = intercept + slope * log10(rank), rank from 1."""

    intercept: float
    slope: float

    @classmethod
    def fit(cls, values: sp.csr_matrix, k: int) -> RankLine:
        """Least squares over the first ``k`` ranks of all cells."""
        kept = top_genes(values, np.arange(values.shape[1]), k)
        ranks = 1 + np.arange(kept.nnz) - np.repeat(kept.indptr[:-1], np.diff(kept.indptr))
        slope, intercept = np.polyfit(np.log10(ranks), kept.data, 1)
        return cls(float(intercept), float(slope))

    def cells(self, sentences: Sequence[np.ndarray], n_genes: int) -> np.ndarray:
        """Values (n, n_genes), not below 0; a gene that is named twice counts at its first place."""
        found = np.zeros((len(sentences), n_genes), dtype=np.float32)
        for row, names in zip(found, sentences, strict=True):
            genes, first = np.unique(names, return_index=True)
            order = genes[np.argsort(first)]
            row[order] = np.maximum(0.0, self.intercept + self.slope * np.log10(1 + np.arange(len(order))))
        return found


def sentence_batch(
    texts: Sequence[Sequence[int]], sentences: Sequence[np.ndarray], first_gene: int, bos: int, eos: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """BOS text, genes, EOS, supervised on genes and EOS: ids, labels, attention (B, L); gene g: id first_gene + g."""
    rows = [
        ([bos, *t], [*(first_gene + g for g in genes.tolist()), eos]) for t, genes in zip(texts, sentences, strict=True)
    ]
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(a + b) for a, b in rows], batch_first=True, padding_value=eos)
    labels = pad([torch.tensor([IGNORE] * len(a) + b) for a, b in rows], batch_first=True, padding_value=IGNORE)
    attention = pad([torch.ones(len(a) + len(b), dtype=torch.long) for a, b in rows], batch_first=True)
    return ids, labels, attention


@torch.no_grad()
def write_sentences(
    lm: Any, text: Sequence[int], n: int, k: int, first_gene: int, n_genes: int, bos: int, eos: int, seed: int
) -> list[np.ndarray]:
    """``n`` sampled sentences of at most ``k`` genes for one text (temperature 1)."""
    if n < 1 or k < 1:
        raise ReprobookError(f"n {n} and k {k} must be at least 1")
    prompt = torch.tensor([[bos, *text]], device=lm.device).expand(n, -1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = lm.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0, max_new_tokens=k,
            eos_token_id=eos, pad_token_id=eos,
        )  # fmt: skip
    genes = out[:, prompt.shape[1] :].cpu().numpy() - first_gene
    return [row[(row >= 0) & (row < n_genes)] for row in genes]
