"""The chapter's figures; each function takes values and gives a matplotlib figure."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import torch

from reprobook import show
from reprobook.papers.quantizing_code_llms.aqlm import Format, Search, fit, objective
from reprobook.papers.quantizing_code_llms.storage import bits_per_weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.figure import Figure


BITS = "bits a weight, with codebooks, scales and grids"
SEARCH = Search(max_epochs=3, steps=20, lr=1e-3)  # of the small examples


def example(d_out: int, d_in: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random weight (d_out, d_in) and the G of correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    w, mixing = (torch.randn(n, d_in, generator=generator) for n in (d_out, d_in))
    inputs = torch.randn(4 * d_in, d_in, generator=generator) @ mixing
    return w, inputs.T @ inputs / len(inputs)


def codebook(w: torch.Tensor, gram: torch.Tensor, form: Format) -> Figure:
    """A weight, its codes, the codebooks, and the weight that the codes stand for. ``w`` (d_out, d_in) is small."""
    import matplotlib.pyplot as plt

    layer = fit(w, gram, form, SEARCH, 0).layer
    size, shown = float(w.abs().max()), layer.weight().detach()
    books = layer.codebooks.detach().flatten(0, 1)
    n = w.shape[1] // form.group
    fig, axes = plt.subplots(
        1, 4, figsize=(10.4, 3.4), width_ratios=[w.shape[1], 1.3 * n * form.n_codebooks + 2, 8, w.shape[1]]
    )
    image = {"cmap": "RdBu_r", "vmin": -size, "vmax": size, "aspect": "auto"}
    for ax, values, title in ((axes[0], w, "weight W"), (axes[3], shown, "words, added up and scaled")):
        ax.imshow(values, **image)
        for edge in range(form.group, w.shape[1], form.group):
            ax.axvline(edge - 0.5, color="k", lw=1)
        ax.set(title=title, xlabel="input")
    axes[0].set(ylabel="output")
    codes = layer.codes.flatten(1)
    axes[1].imshow(codes % (2**form.bits), cmap="tab20", aspect="auto", alpha=0.6)
    for (row, column), code in np.ndenumerate(codes.numpy()):
        axes[1].text(column, row, str(code), ha="center", va="center", fontsize=7)
    for edge in range(form.n_codebooks, codes.shape[1], form.n_codebooks):
        axes[1].axvline(edge - 0.5, color="k", lw=1)
    axes[1].set(title=f"codes, {form.n_codebooks} a group", xlabel="group and codebook", yticks=[])
    axes[2].imshow(books, **image | {"vmin": -float(books.abs().max()), "vmax": float(books.abs().max())})
    for edge in range(2**form.bits, len(books), 2**form.bits):
        axes[2].axhline(edge - 0.5, color="k", lw=1)
    words = range(0, len(books), max(1, 2**form.bits // 8))
    axes[2].set(yticks=list(words), yticklabels=[k % 2**form.bits for k in words])
    axes[2].set(title="code words", xlabel="place in group", ylabel=f"word, of {2**form.bits} a codebook")
    for ax in axes:
        ax.grid(False)
    return fig


def moved(codebooks: int = 2, bits: int = 4, group: int = 8) -> Figure:
    """How the output's error of an example falls with the stages of AQLM for a format."""
    import matplotlib.pyplot as plt

    (w, gram), form = example(64, 64), Format(codebooks, bits, group)
    power = objective(w, torch.zeros_like(w), gram)
    found = fit(w, gram, form, SEARCH, 0)
    names = ["k-means", *(f"{stage} {k // 2 + 1}" for k, (stage, _) in enumerate(found.history[1:]))]
    values = [value / power for _, value in found.history]
    fig, ax = plt.subplots(figsize=(7.4, 2.6))
    ax.barh(range(len(names)), values, color=[show.COLOURS[min(1, k)] for k in range(len(names))])
    bits_used = bits_per_weight(form, *w.shape)
    title = f"{form}: {bits_used.nominal:.2f} bits a weight, {bits_used.effective:.2f} with codebooks and scales"
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel="error of the output, share of its power", title=title)
    ax.invert_yaxis()
    return fig


def over_bits(frame: pd.DataFrame, values: Mapping[str, str]) -> Figure:
    """Each of the columns ``values`` (with its label) of every cell over its ``bits``: means over seeds, a bar from the
    lowest to the highest seed; the reference is a line. ``frame``: columns ``cell`` (``method bits, calibration[,
    tuned]``), ``bits``, ``seed``, and those of the values; a cell without a value (NaN) is left out of its panel."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(values), figsize=(7.4, 3.8) if len(values) == 1 else (10.4, 3.8), squeeze=False)
    frame = frame.assign(method=[re.sub(r" ?\d+( bits)?, ", ", ", name).lstrip(", ") for name in frame["cell"]])
    reference = frame["cell"] == "reference"
    for ax, (value, label) in zip(axes.flat, values.items(), strict=True):
        ax.axhline(frame.loc[reference, value].mean(), color="0.4", ls="--", lw=1, label="reference")
        told = frame[~reference].groupby(["method", "bits"], sort=False)[value].agg(["mean", "min", "max"])
        for k, (method, part) in enumerate(told.groupby("method", sort=False)):
            part = part.dropna()
            bits = part.index.get_level_values("bits").to_numpy()
            order = bits.argsort()
            middle, low, high = (part[name].to_numpy()[order] for name in ("mean", "min", "max"))
            ax.errorbar(
                bits[order], middle, np.stack([middle - low, high - middle]), marker="osD^v<>"[k % 7], capsize=3,
                color=show.COLOURS[k % 8], label=str(method),
            )  # fmt: skip
        ax.set(xlabel="bits a weight" if len(values) > 1 else BITS, ylabel=label)
    if len(values) == 1:
        axes[0, 0].legend()
    else:
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def tuned(frame: pd.DataFrame) -> Figure:
    """Validation divergence of every tuned cell over epochs: a line for each seed. ``frame``: columns ``cell``,
    ``epoch``, ``validation`` and ``seed``."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7.4, 3.0))
    for k, (cell, part) in enumerate(frame.groupby("cell", sort=False)):
        for j, (_, one) in enumerate(part.groupby("seed")):
            ax.plot(one["epoch"], one["validation"], marker="os^"[k % 3], color=show.COLOURS[k % 8],
                    label=None if j else str(cell))  # fmt: skip
    ax.set(xlabel="epoch", ylabel="divergence, nats a token", xticks=sorted(set(frame["epoch"])))
    ax.set_ylim(bottom=0)
    ax.legend()
    return fig


def side_by_side(told: pd.DataFrame, width: int = 62, lines: int = 34) -> Figure:
    """Answers of two arms to one problem, with what became of them: the rows of one problem of
    :func:`.solving.told_apart`."""
    import matplotlib.pyplot as plt

    texts = [_wrapped(text, width, lines) for text in told["text"]]
    height = max(text.count("\n") for text in texts) + 1
    fig, axes = plt.subplots(1, len(texts), figsize=(5.6 * len(texts), 0.17 * height + 0.6))
    for ax, text, (_, row) in zip(np.atleast_1d(axes), texts, told.iterrows(), strict=True):
        good = row["outcome"] == "passes"
        ax.text(0, 1, text, family="monospace", fontsize=7.5, va="top", transform=ax.transAxes)
        ax.set_title(f"{row['arm']}: {row['outcome'][:48]}", loc="left", color=show.COLOURS[2 if good else 1])
        ax.axis("off")
    return fig


def _wrapped(text: str, width: int, lines: int) -> str:
    found = [part for line in text.rstrip().split("\n") for part in textwrap.wrap(line, width, drop_whitespace=False,
             subsequent_indent="      ") or [""]]  # fmt: skip
    return "\n".join(found if len(found) <= lines else [*found[: lines - 1], "..."])
