"""Drawings: cuts of several chunkers on a page and along a document, clarity, measures against retrieval, recovery."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook import show
from reprobook.papers.moc.metrics import ALONE, clarity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from reprobook.papers.moc.corpora import Cuts, Document
    from reprobook.papers.moc.metrics import Scorer

TRUE = "true boundaries"


def page(document: Document, cuts: Mapping[str, Cuts], width: int = 92, lines: int = 22) -> Figure:
    """The beginning of a document as text, a coloured bar before each character at which a chunker cuts; the bars of
    several chunkers stand one below the other within a line."""
    import matplotlib.pyplot as plt

    wide = 2 if document.language == "zh" else 1
    told = _lines(document.text, width // wide)[:lines]
    fig, ax = plt.subplots(figsize=(9.4, 0.27 * len(told) + 0.9))
    for row, (begin, line) in enumerate(told):
        for word in re.finditer(r"\S+" if wide == 1 else r"\S", line):
            ax.text(wide * word.start(), row, word.group(), family="monospace", fontsize=11.4, va="center")
        for k, (name, each) in enumerate(cuts.items()):
            colour = "black" if name == TRUE else show.COLOURS[k % 6]
            top, height = row - 0.45 + 0.9 * k / len(cuts), 0.9 / len(cuts)
            for cut in each:
                if begin <= cut < begin + len(line):
                    ax.bar(wide * (cut - begin) - 0.7, height, 0.9, bottom=top, color=colour, align="center")
    for k, name in enumerate(cuts):
        ax.plot([], [], color="black" if name == TRUE else show.COLOURS[k % 6], lw=4, label=name)
    ax.set(xlim=(-1, width + 1), ylim=(len(told) - 0.4, -0.7))
    ax.axis("off")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return fig


def _lines(text: str, width: int) -> list[tuple[int, str]]:
    """(first character, line) of a text in lines of at most ``width`` characters, broken behind blanks."""
    found, at = [], 0
    for line in textwrap.wrap(text, width, break_long_words=True, drop_whitespace=False) or [text[:width]]:
        found.append((at, line))
        at += len(line)
    return found


def along(document: Document, scorer: Scorer, words: int = 40) -> Figure:
    """Boundary Clarity (by NLL) at every end of a sentence between about ``words`` words before and after it."""
    import matplotlib.pyplot as plt

    starts, places, values = document.sentences, [], []
    for cut in starts[1:-1].tolist():
        before = starts[starts < cut][
            np.abs([document.size(int(b), cut) - words for b in starts[starts < cut]]).argmin()
        ]
        after = starts[starts > cut][
            np.abs([document.size(cut, int(a)) - words for a in starts[starts > cut]]).argmin()
        ]
        pair = document.text[before:cut], document.text[cut:after]
        alone, given = scorer.nll([(ALONE, pair[1])]), scorer.nll([pair])
        places.append(document.size(0, cut))
        values.append(float(clarity(alone, given, "nll")[0]))
    fig, ax = plt.subplots(figsize=(8.6, 3.2))
    ax.plot(places, values, marker="o", ms=4, color=show.COLOURS[0])
    for k, cut in enumerate(document.cuts):
        ax.axvline(document.size(0, cut), color="black", ls=":", label="true boundary" if not k else None)
    ax.set(xlabel="position (words)", ylabel="Boundary Clarity (NLL ratio)")
    ax.legend(loc="lower right")
    return fig


def against(measures: pd.DataFrame, retrieval: pd.DataFrame, names: Sequence[str], outcome: str) -> Figure:
    """A measure a panel, one point a chunker, means over lengths and seeds: the tables of measures and of retrieval, a
    row a seed, length and chunker. Bars: two standard errors over seeds, without what all chunkers of a seed share."""
    import matplotlib.pyplot as plt

    both = measures.merge(retrieval[["seed", "length", "chunker", outcome]])
    values = both.groupby(["chunker", "seed"], sort=False)[[*names, outcome]].mean()
    level = values.groupby("seed").mean()  # documents of one seed are harder than those of another
    by = (values - level + level.mean()).groupby("chunker", sort=False)
    mean, error = by.mean(), 2 * by.sem().fillna(0.0)
    fig, axes = plt.subplots(1, len(names), figsize=(3.3 * len(names), 3.8), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for k, chunker in enumerate(mean.index):
            colour = {TRUE: "black", "random": "grey", "semantic, shuffled": "grey"}.get(chunker, show.COLOURS[k % 6])
            face = "white" if k >= 6 and chunker != TRUE else colour  # colours come again from the seventh on
            style = {"fmt": "os^Dv<>pXP*"[k % 11], "color": colour, "mfc": face, "capsize": 2}
            ax.errorbar(mean.loc[chunker, name], mean.loc[chunker, outcome], error.loc[chunker, outcome],
                        error.loc[chunker, name], label=chunker, **style)  # fmt: skip
        ax.set(xlabel=name)
    axes[0][0].set_ylabel("recall of the evidence (share)")
    fig.legend(*axes[0][0].get_legend_handles_labels(), ncols=4, loc="outside lower center", frameon=False)
    return fig


def quarters(frame: pd.DataFrame, outcome: str = "recall") -> Figure:
    """The table of quarters of random cuts: ``outcome`` over a document's mean, from the quarter with the lowest to
    that with the highest value of a measure, a panel a measure; means over seeds with bars of two standard errors."""
    import matplotlib.pyplot as plt

    names, value = list(frame["measure"].unique()), f"{outcome} over the mean"
    columns = min(4, len(names))
    shape = -(-len(names) // columns), columns
    fig, axes = plt.subplots(*shape, figsize=(9.4, 2.5 * shape[0]), sharex=True, sharey=True, squeeze=False)
    for k, ax in enumerate(axes.flat):
        if k >= len(names):
            ax.axis("off")
            continue
        by = frame[frame["measure"] == names[k]].groupby("quarter")[value]
        mean, error = by.mean(), 2 * by.sem().fillna(0.0)
        ax.axhline(0, color="black", lw=0.8)
        ax.errorbar(mean.index, mean, error, marker="o", capsize=2, color=show.COLOURS[k % len(show.COLOURS)])
        ax.set(title=names[k], xticks=sorted(frame["quarter"].unique()))
    fig.supxlabel("quarter of the random cuts, by the measure")
    fig.supylabel("recall over the mean (share)")
    return fig


def recovery(frame: pd.DataFrame) -> Figure:
    """Share of exact chunks over the error rate of the anchors, a line a way of recovery, means over
    texts."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.8, 3.4))
    for k, (way, part) in enumerate(frame.groupby("recovery", sort=False)):
        told = part.groupby("error rate")["exact"].mean()
        ax.plot(told.index, told, marker="o", color=show.COLOURS[k], label=way)
    ax.set_xticks(sorted(frame["error rate"].unique()))
    ax.set(xlabel="wrong characters of an anchor (share)", ylabel="chunks recovered exactly (share)", ylim=(0, 1.02))
    ax.legend(loc="lower left")
    return fig


def strips(document: Document, cuts: Mapping[str, Cuts], scorer: Scorer | None = None) -> Figure:
    """The idea: one document cut by several chunkers, each chunk a box along its words; with a ``scorer`` the clarity
    of every boundary stands above it."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(9.4, 0.46 * len(cuts) + 1.0))
    told = scorer.neighbours([document.text], [list(cuts.values())])[0] if scorer is not None else []
    for row, (name, each) in enumerate(cuts.items()):
        bounds = [0, *each, len(document.text)]
        at = [document.size(0, b) for b in bounds]
        for k, (a, b) in enumerate(itertools.pairwise(at)):
            colour = show.COLOURS[5] if name == TRUE else "#d8dee4"
            ax.barh(
                row, b - a, left=a, height=0.6, color=colour, alpha=0.6 if k % 2 else 1.0, edgecolor="black", lw=0.8
            )
        if told:
            alone, given = told[row]
            for place, value in zip(at[1:-1], clarity(alone, given, "nll"), strict=True):
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.2}
                ax.text(place, row - 0.43, f"{value:.2f}", fontsize=7.5, ha="center", va="center", bbox=box)
    for k, cut in enumerate(document.cuts):
        ax.axvline(document.size(0, cut), color="black", ls=":", lw=1, label="true boundary" if not k else None)
    ax.set(yticks=range(len(cuts)), yticklabels=list(cuts), xlabel="position (words)", ylim=(len(cuts) - 0.4, -0.8))
    ax.grid(visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return fig
