"""Cells as counts: what they are, where they come from, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt import h5ad


@dataclass(frozen=True)
class Cells:
    """Counts (n, g) of cells by genes.

    ``totals`` (n,) are the counts of a cell over ALL genes that were measured, also those that are not kept: the sum
    by which it is normalised. ``labels`` (n,) are names of cell types."""

    counts: sp.csr_matrix
    genes: np.ndarray
    totals: np.ndarray
    labels: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        return self.counts.shape[0]

    def take(self, rows: np.ndarray | Sequence[int]) -> Cells:
        """The cells ``rows``, in that order."""
        rows = np.asarray(rows)
        return replace(
            self, counts=self.counts[rows], totals=self.totals[rows], labels=self.labels[rows], names=self.names[rows]
        )

    def with_genes(self, genes: Sequence[str]) -> Cells:
        """The same cells in the columns ``genes``; genes that were not measured are zero. Totals stay."""
        place = {gene: k for k, gene in enumerate(self.genes)}
        columns = np.array([place.get(gene, -1) for gene in genes])
        counts = sp.csc_matrix((len(self), len(genes)), dtype=np.float32).tolil()
        here = np.flatnonzero(columns >= 0)
        counts[:, here] = self.counts[:, columns[here]]
        return replace(self, counts=sp.csr_matrix(counts), genes=np.asarray(genes, dtype=object))


def make_cells(
    counts: sp.spmatrix | np.ndarray, genes: Sequence[str], labels: Sequence[str] | None = None,
    totals: np.ndarray | None = None, names: Sequence[str] | None = None,
) -> Cells:  # fmt: skip
    """Checked cells. ``totals``: see :class:`Cells`; by default the sums of the rows.

    Raises :class:`ReprobookError` for what cannot be counts (:func:`check_counts`), for genes named twice and for
    cells without any count."""
    matrix = sp.csr_matrix(counts).astype(np.float32)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if len(nameless := np.flatnonzero(pd.isna(np.asarray(genes, dtype=object)))):
        raise ReprobookError(f"{len(nameless)} genes have no name ({nameless[0]} is the first column): name them")
    genes = np.asarray([str(gene) for gene in genes], dtype=object)
    n = matrix.shape[0]
    if len(genes) != matrix.shape[1]:
        raise ReprobookError(f"{matrix.shape[1]} columns of counts but {len(genes)} names of genes")
    check_counts(matrix)
    names = np.asarray([f"cell {k}" for k in range(n)] if names is None else list(names), dtype=object)
    twice = pd.Index(genes)[pd.Index(genes).duplicated()].unique()
    if len(twice):
        raise ReprobookError(
            f"{len(twice)} genes are named twice ({', '.join(twice[:3])}{', ...' if len(twice) > 3 else ''}): "
            "sum their columns, or make the names unique"
        )
    for what, given in (("labels", labels), ("totals", totals), ("names", names)):
        if given is not None and len(given) != n:
            raise ReprobookError(f"{n} rows of counts but {len(given)} {what}")
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    totals = sums if totals is None else np.asarray(totals, dtype=np.float64)
    empty = np.flatnonzero((totals <= 0) | (np.diff(matrix.indptr) == 0))
    if len(empty):
        raise ReprobookError(f"{len(empty)} cells have no count ({names[empty[0]]!r} is the first): filter them out")
    if (totals < sums * (1 - 1e-3)).any():
        raise ReprobookError("totals are smaller than the counts they belong to: they must cover all genes")
    labels = np.asarray(["unknown"] * n if labels is None else [str(each) for each in labels], dtype=object)
    return Cells(matrix, genes, totals, labels, names)


def check_counts(matrix: sp.csr_matrix) -> None:
    """Raise :class:`ReprobookError` unless all values are whole numbers from 0 on, saying what they look like."""
    values = matrix.data
    if not np.isfinite(values).all():
        raise ReprobookError(f"the counts hold {int((~np.isfinite(values)).sum())} values that are not finite")
    whole = np.abs(values - np.rint(values)) < 1e-3
    if (values < 0).any():
        what = "counts below zero" if whole.all() else "z-scores: negative and not whole"
        raise ReprobookError(
            f"the smallest value is {values.min():.3g}; these are {what}. Give raw counts (adata.raw, or a layer)"
        )
    if not whole.all():
        raise ReprobookError(
            f"{1 - whole.mean():.0%} of the values are not whole numbers: they look normalised or logged already, and "
            "a second logarithm would spoil them. Give raw counts, or use recover_counts if you know the scale"
        )


def read_counts(found: h5ad.Matrix, start: int, stop: int) -> sp.csr_matrix:
    """Rows [start, stop) of a file's matrix, checked to be counts; if not, the error says what else the file has."""
    counts = found.rows(start, stop)
    try:
        check_counts(counts)
    except ReprobookError as error:
        raise ReprobookError(f"{found.name}: {error}. The file has {found.others}") from error
    return counts


def recover_counts(logged: sp.csr_matrix, totals: np.ndarray, scale: float = 1e4) -> sp.csr_matrix:
    """Counts from ``log1p(scale * count / total)``: rounded; raises :class:`ReprobookError` if they weren't whole."""
    matrix = sp.csr_matrix(logged, copy=True).astype(np.float64)
    rows = np.repeat(np.asarray(totals, dtype=np.float64), np.diff(matrix.indptr))
    counts = np.expm1(matrix.data) * rows / scale
    off = np.abs(counts - np.rint(counts)) / np.maximum(counts, 1.0)
    if len(off) and off.max() > 0.05:
        raise ReprobookError(
            f"values are not log1p({scale:g} * count / total): a count comes out as {counts[off.argmax()]:.3f}"
        )
    matrix.data = np.rint(counts).astype(np.float64)
    return matrix


def from_anndata(
    adata: Any, label: str = "cell_type", gene: str | None = None, raw: bool | None = None, layer: str | None = None
) -> Cells:
    """Cells of an AnnData object: counts, ``obs[label]``, names of genes from ``var_names`` or from the column ``gene``
    of ``var`` (CELLxGENE files: ``feature_name``). ``raw`` and ``layer`` as in :func:`read_h5ad`."""
    raw = layer is None and adata.raw is not None if raw is None else raw
    side = adata.raw if raw else adata
    if side is None or (raw and layer is not None) or (layer is not None and layer not in adata.layers):
        raise ReprobookError(
            f"there is no raw={raw}, layer={layer!r}: give one of X (raw=False)"
            f"{'' if adata.raw is None else ', raw (raw=True)'} or a layer: {', '.join(adata.layers) or 'it has none'}"
        )
    counts = side.X if layer is None else adata.layers[layer]
    genes = side.var_names if gene is None else side.var[gene]
    return make_cells(counts, list(genes), labels_of(adata.obs, label), names=list(adata.obs_names))


def read_h5ad(
    path: str | Path, label: str = "cell_type", gene: str | None = None, totals: str | None = None,
    raw: bool | None = None, logged: float | None = None, limit: int | None = None, layer: str | None = None,
) -> Cells:  # fmt: skip
    """Cells of an ``.h5ad`` file. ``raw``: read ``raw/X`` (None: if there is one), else ``X``; ``layer``: that one;
    ``totals``: column of ``obs`` with all counts of a cell; ``logged``: the values are log1p(logged * count / total)
    and counts are recovered."""
    with h5ad.opened(path) as file:
        raw = layer is None and any(name in file for name in ("raw/X", "raw.X")) if raw is None else raw
        found = h5ad.matrix(file, raw, layer)
        obs, var = h5ad.tables(file, found)
        n = min(limit or found.shape[0], found.shape[0])
        values, obs = found.rows(0, n) if logged is not None else read_counts(found, 0, n), obs.iloc[:n]
    if totals is not None and totals not in obs:
        raise ReprobookError(f"{Path(path).name}: obs has no column {totals!r}; it has {', '.join(obs)}")
    all_counts = None if totals is None else obs[totals].to_numpy(np.float64)
    if logged is not None:
        if all_counts is None:
            raise ReprobookError("logged needs totals: without a cell's total its counts cannot be recovered")
        values = recover_counts(values, all_counts, logged)
    genes = list(var.index if gene is None else var[gene])
    return make_cells(values, genes, labels_of(obs, label), all_counts, list(obs.index))


def labels_of(obs: pd.DataFrame, label: str) -> list[str]:
    """The column ``label`` of ``obs`` as text; a missing label is "unknown"."""
    if label not in obs:
        raise ReprobookError(f"obs has no column {label!r} for the cell types; it has {', '.join(map(str, obs))}")
    return ["unknown" if pd.isna(each) else str(each) for each in obs[label]]


def write_h5ad(cells: Cells, path: str | Path) -> None:
    """Cells as an ``.h5ad`` file: counts in ``X``, ``obs`` with ``cell_type`` and ``total_counts``."""
    obs = pd.DataFrame({"cell_type": cells.labels, "total_counts": cells.totals}, index=pd.Index(cells.names))
    h5ad.write(path, cells.counts, obs, pd.DataFrame(index=pd.Index(cells.genes)))


def read_table(path: str | Path, labels: Sequence[str] | None = None) -> Cells:
    """Cells of a comma-separated table, a row per cell and a column per gene (celltypist's sample)."""
    import pyarrow.csv as csv

    read = csv.ReadOptions(block_size=64_000_000)  # one row of 33,000 genes must fit into a block
    rows = csv.read_csv(path, read_options=read)
    names = rows.column(0).to_pylist()
    counts = np.stack([column.to_numpy().astype(np.float32) for column in rows.columns[1:]], 1)
    return make_cells(sp.csr_matrix(counts), rows.column_names[1:], labels, names=names)


def split(labels: np.ndarray, parts: Sequence[float], seed: int) -> list[np.ndarray]:
    """Row numbers of stratified parts (such as 0.7, 0.15, 0.15). Every class has at least one cell in every part.

    Raises :class:`ReprobookError` if a class has fewer cells than there are parts."""
    rng = np.random.default_rng(seed)
    found: list[list[int]] = [[] for _ in parts]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < len(parts):
            raise ReprobookError(f"{str(label)!r} has {len(rows)} cells; {len(parts)} parts need one each")
        sizes = np.maximum(1, np.floor(np.asarray(parts[1:]) * len(rows)).astype(int))
        ends = np.concatenate([[0], np.cumsum([len(rows) - sizes.sum(), *sizes])])
        for part, (a, b) in zip(found, pairwise(ends), strict=True):
            part.extend(rows[a:b].tolist())
    return [np.sort(np.array(part)) for part in found]
