"""The chapter's figures: cells on a map, what queries look at, confusions, markers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from reprobook import show
from reprobook.errors import ReprobookError

MAPS = ("pca", "umap")


def two_dimensions(real: np.ndarray, others: Sequence[np.ndarray], how: str, seed: int = 0) -> list[np.ndarray]:
    """Coordinates (n, 2) of real cells (n, g) and of ``others``, which are placed into the map of the real ones.

    ``umap``: umap-learn on 30 principal components; it compiles for about a minute in each process, so small runs take
    the first two components (``pca``)."""
    from sklearn.decomposition import PCA

    if how not in MAPS:
        raise ReprobookError(f"map {how!r} must be one of {', '.join(MAPS)}")
    pca = PCA(2 if how == "pca" else min(30, *real.shape), random_state=seed).fit(real)
    parts = [pca.transform(x) for x in (real, *others)]
    if how == "pca":
        return parts
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        made = umap.UMAP(random_state=seed).fit(parts[0])
        return [made.embedding_, *(made.transform(x) for x in parts[1:])]


def draw_map(frame: pd.DataFrame, kinds: Sequence[str]) -> Any:
    """``frame`` has columns x, y, type, kind; real cells are dots, generated ones crosses, in the same colours."""
    import matplotlib.pyplot as plt

    types = list(dict.fromkeys(frame["type"]))
    colours = dict(zip(types, plt.get_cmap("tab10" if len(types) <= 10 else "tab20").colors * 3, strict=False))
    fig, axes = show.panels(list(kinds), size=(3.6, 3.8), extra=1.6, ylabel="second coordinate")
    real = frame[frame["kind"] == kinds[0]]
    for axis, kind in zip(axes, kinds, strict=True):
        axis.scatter(real["x"], real["y"], s=6, c="#d0d7de", lw=0)
        part = frame[frame["kind"] == kind]
        for name, rows in part.groupby("type", sort=False):
            marker = "o" if kind == kinds[0] else "X"
            look = {"s": 8, "edgecolors": "none"} if marker == "o" else {"s": 45, "edgecolors": "black"}
            axis.scatter(rows["x"], rows["y"], color=colours[name], marker=marker, label=name, linewidths=0.4, **look)
        axis.set(xlabel="first coordinate", xticks=[], yticks=[])
        axis.grid(False)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return fig


def draw_attention(weights: np.ndarray, genes: Sequence[str], title: str) -> Any:
    """Queries (rows) over the genes (columns) of one cell: weights (Q, n)."""
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(8.5, 2.9))
    image = axis.imshow(weights, aspect="auto", cmap="cividis", interpolation="nearest")
    axis.set(title=title, xlabel="genes, highest value first", ylabel="query", yticks=range(len(weights)))
    axis.set_xticks(range(len(genes)), genes, rotation=90, fontsize=7)
    axis.grid(False)
    fig.colorbar(image, ax=axis, label="attention")
    return fig


def draw_confusion(tables: dict[str, np.ndarray], labels: Sequence[str]) -> Any:
    """One matrix per method: true types in rows, normalised to 1."""
    fig, axes = show.panels(list(tables), size=(3.5, 3.9), extra=1.3)
    for axis, counts in zip(axes, tables.values(), strict=True):
        shares = pd.DataFrame(counts / np.maximum(counts.sum(1, keepdims=True), 1), labels, labels)
        image = show.heatmap(shares, decimals=None, low=0, high=1, fontsize=7, rotation=90, ax=axis)
        axis.set(xlabel="predicted", ylabel="true type" if axis is axes[0] else "", aspect="equal")
    fig.colorbar(image, ax=axes[-1], label="share of the true type")
    return fig


def draw_markers(groups: dict[str, pd.DataFrame], genes: Sequence[str]) -> Any:
    """Dot plot: size is the share of cells that express a gene, colour its mean value. Each frame has columns type,
    gene, share, mean."""
    fig, axes = show.panels(list(groups), size=(4.6, 3.8), extra=1.2)
    top = max(frame["mean"].max() for frame in groups.values())
    types = list(dict.fromkeys(next(iter(groups.values()))["type"]))
    for axis, frame in zip(axes, groups.values(), strict=True):
        x, y = frame["gene"].map(list(genes).index), frame["type"].map(types.index)
        dots = axis.scatter(x, y, s=90 * frame["share"], c=frame["mean"], cmap="cividis_r", vmin=0, vmax=top)
        axis.set_xticks(range(len(genes)), genes, rotation=90, fontsize=8)
        axis.set_yticks(range(len(types)), types, fontsize=7)
        axis.set(xlim=(-0.7, len(genes) - 0.3), ylim=(len(types) - 0.4, -0.6))
    fig.colorbar(dots, ax=axes[-1], label="mean value, log1p(1e4 x / sum)")
    return fig


def marker_table(
    values: np.ndarray, types: Sequence[str], genes: Sequence[str], chosen: Sequence[str], order: Sequence[str]
) -> pd.DataFrame:
    """Share of cells that express each chosen gene (value above 0.05) and mean value, by type."""
    place = {gene: k for k, gene in enumerate(genes)}
    types = np.asarray(types)
    rows = []
    for kind in order:
        part = values[types == kind]
        for gene in chosen:
            column = part[:, place[gene]] if len(part) else np.zeros(1)
            rows.append(
                {"type": kind, "gene": gene, "share": float((column > 0.05).mean()), "mean": float(column.mean())}
            )
    return pd.DataFrame(rows)
