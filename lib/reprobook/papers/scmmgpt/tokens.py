"""Cells as sequences of (gene, value) tokens: choose genes, pad, put ``<cls>`` first. All cells of a batch at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt import h5ad
from reprobook.papers.scmmgpt.cells import read_counts
from reprobook.papers.scmmgpt.values import transform

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.scmmgpt.vocabulary import Vocabulary

CLS_VALUE = -2.0  # scGPT's pad value, which the released code gives to <cls>
INPUTS = ("values", "ranks", "names")


class Tokens(NamedTuple):
    """A batch: gene ids (B, L), values (B, L) and ``padding`` (B, L), True where there is NO token."""

    genes: Tensor
    values: Tensor
    padding: Tensor

    def take(self, rows: Tensor) -> Tokens:
        """The cells ``rows``, cut to the longest of them."""
        padding = self.padding[rows]
        longest = int((~padding).sum(1).max())
        return Tokens(self.genes[rows, :longest], self.values[rows, :longest], padding[:, :longest])


def top_genes(values: sp.csr_matrix, ids: np.ndarray, k: int) -> sp.csr_matrix:
    """The ``k`` largest values of every row; among equal ones the smaller gene id goes first, so that the order of
    the columns does not matter. Data are sorted by falling value within a row."""
    if k < 1:
        raise ReprobookError(f"k must be at least 1, got {k}")
    lengths = np.diff(values.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((ids[values.indices], -values.data, rows))
    return _first(values, order, lengths, k)


def random_genes(values: sp.csr_matrix, k: int, seed: int) -> sp.csr_matrix:
    """``k`` non-zero genes of every row at random, as scGPT chooses."""
    lengths = np.diff(values.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((np.random.default_rng(seed).random(len(rows)), rows))
    return _first(values, order, lengths, k)


def _first(values: sp.csr_matrix, order: np.ndarray, lengths: np.ndarray, k: int) -> sp.csr_matrix:
    """The first ``k`` entries of every row in the order ``order`` (which keeps rows together)."""
    rank = np.arange(len(order)) - np.repeat(values.indptr[:-1], lengths)
    kept = order[rank < k]
    indptr = np.concatenate([[0], np.cumsum(np.minimum(lengths, k))])
    return sp.csr_matrix((values.data[kept], values.indices[kept], indptr), shape=values.shape)


def collate(
    values: sp.csr_matrix, ids: np.ndarray, vocabulary: Vocabulary, max_length: int = 2048, inputs: str = "values",
    choose: str = "top", seed: int = 0,
) -> Tokens:  # fmt: skip
    """Tokens of cells: ``<cls>`` and at most ``max_length`` - 1 non-zero genes, padded to the longest cell.

    ``values`` (n, g); ``ids`` (g,) the columns' ids. ``inputs``: ``values``; ``ranks``, a line from 1 down over the
    chosen genes; ``names``, 1 for each: which genes, and nothing else. The line is ours: the released ``valrank`` is
    2.23785 - 0.67569 log10(1 + rank), rank from 1, over ``<cls>`` and padding too. Raises :class:`ReprobookError` for
    unknown genes (id -1) and cells without any."""
    if inputs not in INPUTS or choose not in ("top", "random"):
        raise ReprobookError(f"inputs {inputs!r} must be one of {', '.join(INPUTS)}, choose {choose!r} top or random")
    if max_length < 2:
        raise ReprobookError(f"max_length must leave room for <cls> and a gene, got {max_length}")
    if len(ids) != values.shape[1] or (np.asarray(ids) < 0).any():
        raise ReprobookError("every column needs the id of a known gene: drop unknown genes first (known_genes)")
    k = max_length - 1
    kept = top_genes(values, ids, k) if choose == "top" else random_genes(values, k, seed)
    lengths = np.diff(kept.indptr)
    if (lengths == 0).any():
        raise ReprobookError(f"cell {int(np.argmin(lengths))} of the batch has no known gene: filter it out")
    rows = np.repeat(np.arange(len(lengths)), lengths)
    places = 1 + np.arange(len(rows)) - np.repeat(kept.indptr[:-1], lengths)
    shape = (len(lengths), 1 + int(lengths.max()))
    genes = np.full(shape, vocabulary.pad, dtype=np.int64)
    numbers = np.zeros(shape, dtype=np.float32)
    genes[:, 0], numbers[:, 0] = vocabulary.cls_id, CLS_VALUE
    genes[rows, places] = np.asarray(ids)[kept.indices]
    if inputs == "values":
        numbers[rows, places] = kept.data
    else:
        line = 1.0 - (places - 1) / np.repeat(lengths, lengths)
        numbers[rows, places] = line if inputs == "ranks" else 1.0
    padding = np.arange(shape[1])[None, :] > lengths[:, None]
    return Tokens(torch.from_numpy(genes), torch.from_numpy(numbers), torch.from_numpy(padding))


def stream(
    path: str | Path, vocabulary: Vocabulary, ids: np.ndarray, *, max_length: int = 2048, how: str = "log1p",
    chunk: int = 1000, raw: bool = False,
) -> Iterator[Tokens]:  # fmt: skip
    """Tokens of an ``.h5ad`` file of counts, ``chunk`` cells at a time: memory does not grow with the file.

    ``ids`` (g,) of the file's genes, -1 for unknown ones; a cell's total runs over all of them."""
    keep = np.flatnonzero(ids >= 0)
    with h5ad.opened(path) as file:
        found = h5ad.matrix(file, raw)
        if len(ids) != found.shape[1]:
            raise ReprobookError(f"{found.name} has {found.shape[1]} columns but there are ids of {len(ids)} genes")
        for start in range(0, found.shape[0], chunk):
            counts = read_counts(found, start, min(start + chunk, found.shape[0]))
            totals = np.asarray(counts.sum(axis=1)).ravel()
            part = counts if len(keep) == len(ids) else counts[:, keep]
            yield collate(transform(part, totals, how), ids[keep], vocabulary, max_length)
