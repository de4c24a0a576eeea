"""Cells to tokens: all cells of a chunk at once from a sparse file on disk, against the loop over cells.

``python -m reprobook.papers.scmmgpt.bench`` prints cells per second and peak memory for 1,000 to 100,000 simulated
cells of 3,000 genes. Both ways must give the same tokens."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt import h5ad
from reprobook.papers.scmmgpt.tokens import CLS_VALUE, Tokens, stream
from reprobook.papers.scmmgpt.values import normalise
from reprobook.papers.scmmgpt.vocabulary import Vocabulary


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


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and peak megabytes that Python and numpy allocated meanwhile (tracemalloc; slower, so apart)."""
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    tracemalloc.start()
    try:
        work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return seconds, peak / 1e6


def rates(
    n_cells: int, n_genes: int = 3000, expressed: int = 600, max_length: int = 512, chunk: int = 500
) -> dict[str, float]:
    """Cells per second and peak memory of both ways on one simulated file, and their ratio.

    The loop reads the same chunks. Raises :class:`ReprobookError` if the tokens differ."""
    vocabulary = Vocabulary.of([f"G{k}" for k in range(n_genes)])
    ids = np.arange(n_genes)

    def looped(path: Path, keep: int = 0) -> list[Tokens]:
        kept = []
        with h5ad.opened(path) as file:
            found = h5ad.matrix(file, False)
            for start in range(0, found.shape[0], chunk):
                counts = found.rows(start, min(start + chunk, found.shape[0]))
                values = normalise(counts, np.asarray(counts.sum(axis=1)).ravel())
                part = collate_in_a_loop(values, ids, vocabulary, max_length)
                kept += [part] if len(kept) < keep else []
        return kept

    def streamed(path: Path, keep: int = 0) -> list[Tokens]:
        parts = stream(path, vocabulary, ids, max_length=max_length, chunk=chunk)
        return [part for k, part in enumerate(parts) if k < keep]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        simulate(path, n_cells, n_genes, expressed)
        for a, b in zip(streamed(path, 1)[0], looped(path, 1)[0], strict=True):
            if not torch.equal(a, b):
                raise ReprobookError("the two ways made different tokens")
        fast, memory = measure(lambda: streamed(path))
        begin = time.perf_counter()
        looped(path)
        slow = time.perf_counter() - begin
    return {
        "cells": n_cells, "cells/s at once": n_cells / fast, "cells/s in a loop": n_cells / slow,
        "ratio": slow / fast, "peak MB at once": memory,
    }  # fmt: skip


def main() -> None:
    """Print the growth from 1,000 to 100,000 cells; about four minutes on one core."""
    frame = pd.DataFrame([rates(n) for n in (1_000, 10_000, 100_000)])
    print("tokens of a sparse file on disk, 3,000 genes, about 600 expressed, 512 tokens a cell:")
    print(frame.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
