"""From counts to the values that a model sees: the published variants, and two slips.

``x`` are the counts of a cell, and its sum runs over all genes that were measured:

- ``log1p``: $\\log(1 + s\\,x/\\sum x)$, $s$ = 1e4 by convention
- ``binned``: scGPT's 51 levels by the quantiles of the cell's own non-zero values
- ``raw``: the count itself, which is what the released code puts into the encoder
- ``no scale``: $\\log(1 + x/\\sum x)$, which is the fraction again, since $\\log(1+u)\\approx u$ for small $u$
- ``batch sum``: the released decoder target, with $\\sum$ by mistake over the whole batch
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from reprobook.errors import ReprobookError

TRANSFORMS = ("log1p", "binned", "raw", "no scale", "batch sum")
N_BINS = 51
INPUT_SCALE, TARGET_SCALE = 1e4, 100.0  # the scale of scanpy and scGPT, and that of the released decoder target


def transform(
    counts: sp.csr_matrix, totals: np.ndarray, how: str = "log1p", scale: float = INPUT_SCALE, seed: int = 0
) -> sp.csr_matrix:
    """Values (n, g) of ``counts`` (n, g), of which zeros stay zeros; ``totals`` (n,) are sums over all genes.

    ``seed`` is for the ties of ``binned``. Raises :class:`ReprobookError` for an unknown ``how``."""
    if how == "log1p":
        return normalise(counts, totals, scale)
    if how == "no scale":
        return normalise(counts, totals, 1.0)
    if how == "batch sum":
        return normalise(counts, np.full(counts.shape[0], np.sum(totals)), scale)
    if how == "raw":
        return counts.astype(np.float32)
    if how == "binned":
        return bin_values(counts, N_BINS, seed)
    raise ReprobookError(f"transform {how!r} is not known; transforms: {', '.join(TRANSFORMS)}")


def normalise(counts: sp.csr_matrix, totals: np.ndarray, scale: float = INPUT_SCALE) -> sp.csr_matrix:
    """log1p(scale * count / total), so that expm1 of a whole cell sums to ``scale``."""
    if not scale > 0:
        raise ReprobookError(f"scale must be positive, got {scale}")
    rows = np.repeat(np.asarray(totals, dtype=np.float64), np.diff(counts.indptr))
    values = np.log1p(scale * counts.data.astype(np.float64) / rows).astype(np.float32)
    return sp.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)


def bin_values(values: sp.csr_matrix, n_bins: int = N_BINS, seed: int = 0) -> sp.csr_matrix:
    """scGPT's binning: per cell, edges are quantiles of the non-zero values; levels 1 to ``n_bins`` - 1, zeros stay 0.

    A value that equals several edges gets a random level among those it could have, ``ceil(u (right - left) + left)``
    with u uniform on [0, 1) (scGPT's ``preprocess.py``). All cells at once; ``n_bins`` x n edges are in memory."""
    if n_bins < 3:
        raise ReprobookError(f"n_bins must be at least 3, got {n_bins}")
    x = values.data.astype(np.float64)
    if (x <= 0).any():
        raise ReprobookError("binning takes positive values only: zeros are not stored, and there are none below")
    lengths = np.diff(values.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((x, rows))
    edges = _quantiles(x[order], values.indptr, n_bins - 1)
    left = _count_edges(x, rows, edges, ties_count=True)
    right = _count_edges(x, rows, edges, ties_count=False)
    u = np.random.default_rng(seed).random(len(x))
    return sp.csr_matrix(
        (np.ceil(u * (right - left) + left).astype(np.float32), values.indices, values.indptr), shape=values.shape
    )


def _quantiles(sorted_x: np.ndarray, indptr: np.ndarray, n: int) -> np.ndarray:
    """Edges (rows, n): quantiles linspace(0, 1, n) of every row's sorted values, with numpy's own interpolation."""
    lengths = np.diff(indptr)
    at = np.linspace(0, 1, n)[None, :] * np.maximum(lengths - 1, 0)[:, None]
    low = np.floor(at)
    t = at - low
    first = np.minimum(indptr[:-1], max(len(sorted_x) - 1, 0))[:, None]  # an empty last row reads nothing of its own
    below = sorted_x[first + low.astype(np.int64)]
    above = sorted_x[first + np.minimum(low.astype(np.int64) + 1, np.maximum(lengths - 1, 0)[:, None])]
    difference = above - below
    return np.where(t < 0.5, below + difference * t, above - difference * (1 - t))


def _count_edges(x: np.ndarray, rows: np.ndarray, edges: np.ndarray, ties_count: bool) -> np.ndarray:
    """For each value the number of its row's edges that are <= it (``ties_count``) or < it: np.digitize by rows."""
    n_rows, n = edges.shape
    values = np.concatenate([edges.ravel(), x])
    owner = np.concatenate([np.repeat(np.arange(n_rows), n), rows])
    is_edge = np.concatenate([np.ones(edges.size, dtype=np.int8), np.zeros(len(x), dtype=np.int8)])
    order = np.lexsort((-is_edge if ties_count else is_edge, values, owner))
    seen = np.cumsum(is_edge[order]) - n * owner[order]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = seen
    return found[edges.size :]


def compared(counts: sp.csr_matrix, totals: np.ndarray) -> pd.DataFrame:
    """What every transform makes of a few cells, and by how much the first cell's values change with its company."""
    rows = []
    for how in TRANSFORMS:
        scale = TARGET_SCALE if how == "batch sum" else INPUT_SCALE
        together = transform(counts, totals, how, scale)
        alone = transform(counts[:1], totals[:1], how, scale)
        moved = float("nan") if how == "binned" else float(abs(together[:1] - alone).max())
        x = together.data
        rows.append({
            "values": how, "smallest": x.min(), "median": np.median(x), "largest": x.max(),
            "first cell: alone against in company": moved,
        })  # fmt: skip
    return pd.DataFrame(rows)
