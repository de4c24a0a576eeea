"""Cells to tokens: all cells of a chunk at once from a sparse file on disk, against the loop over cells."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from reprobook.bench import compare
from reprobook.papers.scmmgpt import h5ad
from reprobook.papers.scmmgpt.tokens import CLS_VALUE, Tokens, stream
from reprobook.papers.scmmgpt.values import normalise
from reprobook.papers.scmmgpt.vocabulary import Vocabulary

if TYPE_CHECKING:
    from reprobook.bench import Comparison


def collate_in_a_loop(values: sp.csr_matrix, ids: np.ndarray, vocabulary: Vocabulary, max_length: int = 2048) -> Tokens:
    """What :func:`reprobook.papers.scmmgpt.tokens.collate` does, one cell after the other (the usual data loader)."""
    rows = []
    for k in range(values.shape[0]):
        part = slice(values.indptr[k], values.indptr[k + 1])
        genes, numbers = ids[values.indices[part]], values.data[part]
        order = np.lexsort((genes, -numbers))[: max_length - 1]
        rows.append((genes[order], numbers[order]))
    longest = 1 + max(len(genes) for genes, _ in rows)
    found = []
    for genes, numbers in rows:
        pad = longest - 1 - len(genes)
        found.append(
            (
                [vocabulary.cls_id, *genes.tolist(), *[vocabulary.pad] * pad],
                [CLS_VALUE, *numbers.tolist(), *[0.0] * pad],
                [False] * (1 + len(genes)) + [True] * pad,
            )
        )
    genes, numbers, padding = zip(*found, strict=True)
    return Tokens(torch.tensor(genes), torch.tensor(numbers, dtype=torch.float32), torch.tensor(padding))


def simulate(path: Path, n_cells: int, n_genes: int, expressed: int, seed: int = 0, chunk: int = 2000) -> None:
    """An ``.h5ad`` of ``n_cells`` with about ``expressed`` genes each; written in one go, of sparse parts."""
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, n_cells, chunk):
        n = min(chunk, n_cells - start)
        columns = rng.integers(0, n_genes, (n, expressed))
        rows = np.repeat(np.arange(n), expressed)
        data = 1.0 + rng.poisson(1.0, n * expressed)
        parts.append(sp.csr_matrix((data.astype(np.float32), (rows, columns.ravel())), shape=(n, n_genes)))
    genes = pd.DataFrame(index=[f"G{k}" for k in range(n_genes)])
    h5ad.write(path, sp.vstack(parts, "csr"), pd.DataFrame(index=np.arange(n_cells).astype(str)), genes)


def readers(
    n_cells: int, n_genes: int = 3000, expressed: int = 600, max_length: int = 512, chunk: int = 500, n: int = 3
) -> Comparison:
    """Tokens of all cells of one simulated file: cell after cell against all cells of a chunk at once.

    The loop reads the same chunks, and the tokens must be the same."""
    vocabulary = Vocabulary.of([f"G{k}" for k in range(n_genes)])
    ids = np.arange(n_genes)

    def looped(path: Path) -> list[Tokens]:
        with h5ad.opened(path) as file:
            found = h5ad.matrix(file, False)
            parts = [found.rows(at, min(at + chunk, found.shape[0])) for at in range(0, found.shape[0], chunk)]
        values = [normalise(counts, np.asarray(counts.sum(axis=1)).ravel()) for counts in parts]
        return [collate_in_a_loop(part, ids, vocabulary, max_length) for part in values]

    def same(a: list[Tokens], b: list[Tokens]) -> bool:
        return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        simulate(path, n_cells, n_genes, expressed)
        ways = {
            "cell after cell": lambda: looped(path),
            "a chunk at once": lambda: list(stream(path, vocabulary, ids, max_length=max_length, chunk=chunk)),
        }
        return compare(ways, equal=same, n=n, what=f"tokens of {n_cells:,} cells on disk")


def headline() -> Comparison:
    """2,000 cells of 3,000 genes, about 600 expressed, 512 tokens a cell: cell after cell over a chunk at once."""
    return readers(2000)
