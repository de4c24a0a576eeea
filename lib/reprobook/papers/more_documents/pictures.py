"""Drawings: sets along the token axis, a set as a page of text, and accuracy over documents and look-alikes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reprobook import show
from reprobook.papers.more_documents.readers import BLIND, MAJORITY, facts_in

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from reprobook.papers.more_documents.planted import Question
    from reprobook.papers.more_documents.sets import BuiltSet

ANSWER, RIVAL, OTHER, PARAGRAPH = show.COLOURS[1], show.COLOURS[3], "0.55", show.COLOURS[5]


def draw_sets(question: Question, sets: Mapping[str, BuiltSet]) -> Figure:
    """Every set along the token axis, each document a box of its own: paragraphs blue, the text that fills the place of
    removed documents grey; facts as marks, the answer's orange, look-alikes' pink, others grey."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(9.4, 0.75 * len(sets) + 1.1))
    for y, built in enumerate(sets.values()):
        at = 0
        for k, text in zip(built.kept.tolist(), built.texts, strict=True):
            n = len(question.spans(text))
            ax.barh(y, n, left=at, height=0.62, color="#d8dee4", edgecolor="black", linewidth=1.0)
            paragraph = _paragraph(question, k, text)
            first = len(question.spans(text[: text.index(paragraph)])) if paragraph else 0
            ax.barh(y, len(question.spans(paragraph)), left=at + first, height=0.62, color=PARAGRAPH, alpha=0.45)
            for relation, _, value in facts_in(text):
                place = at + len(question.spans(text[: text.index(f"is {value}.")]))
                colour = ANSWER if value == question.plain.answer else RIVAL if relation == question.relation else OTHER
                ax.plot([place, place], [y - 0.31, y + 0.31], color=colour, lw=4 if colour == ANSWER else 2.5)
            at += n
    for colour, label in ((ANSWER, "the answer"), (RIVAL, "a look-alike"), (OTHER, "another fact")):
        ax.plot([], [], color=colour, lw=3, label=label)
    ax.set(yticks=range(len(sets)), yticklabels=list(sets), xlabel="position (tokens)", ylim=(len(sets) - 0.5, -0.5))
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return fig


def _paragraph(question: Question, k: int, text: str) -> str:
    """The document's own paragraph as it stands in ``text``, its fact of whatever relation in it."""
    for look_alikes in range(len(question.facts)):
        if (paragraph := question.instance(look_alikes).documents[k].text) in text:
            return paragraph
    return ""


def as_page(question: Question, built: BuiltSet) -> list[str]:
    """The documents of a set as text: the document's own paragraph in square brackets, the answer's fact behind a full
    triangle, look-alikes behind an empty one."""
    pages = []
    for j, (k, text) in enumerate(zip(built.kept.tolist(), built.texts, strict=True), start=1):
        paragraph = _paragraph(question, k, text)
        marked = text.replace(paragraph, f"[{paragraph}]") if paragraph else text
        for relation, entity, value in facts_in(text):
            said = f"The {relation} of {entity} is {value}."
            sign = "▶ " if value == question.plain.answer else "▷ " if relation == question.relation else ""
            marked = marked.replace(said, sign + said)
        pages.append(f"Document {j}: {marked}")
    return pages


def over_documents(frame: pd.DataFrame, blind: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Expected accuracy of each reader (a panel each) over the size of the set, one line for each of the three
    experiments, mean and spread over seeds; dotted: at each step of *count only* the best of the readers that do not
    use the person."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(names), figsize=(4.7 * len(names), 3.7), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        part = frame[(frame["reader"] == name)]
        for k, line in enumerate(("count only", "facts only", "both")):
            rows = part[part["line"] == line]
            size = rows["documents"] if line != "facts only" else rows["look-alikes"] + 1
            told = rows.groupby(size)["p"].agg(["mean", "std"]).fillna(0.0)
            ax.errorbar(told.index * (1 + 0.02 * (k - 1)), told["mean"], told["std"], marker="o", capsize=3, label=line,
                        color=show.COLOURS[k])  # fmt: skip
        rows = blind[(blind["reader"] == name) & (blind["line"] == "count only")]
        level = rows.groupby("documents")[[*BLIND, MAJORITY]].mean().max(axis=1)
        ax.plot(level.index, level, ls=":", marker=".", color="0.4", label="best blind reader")
        ax.set(title=name, xlabel="documents (facts only: facts of the kind)", ylim=(0, 1), xscale="log")
        sizes = sorted(part[part["line"] == "count only"]["documents"].unique())
        ax.set_xticks(sizes, [str(each) for each in sizes])
        ax.minorticks_off()
    axes[0][0].set_ylabel("expected accuracy")
    axes[0][-1].legend(loc="best")
    return fig


def learning(frame: pd.DataFrame) -> Figure:
    """Accuracy of the trained reader in the corners of the grid while it learns, means over seeds."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7.6, 3.4))
    for k, (name, part) in enumerate(frame.groupby("set", sort=False)):
        told = part.groupby("step")["accuracy"].mean()
        ax.plot(told.index, told, marker=".", color=show.COLOURS[k // 2], ls="-" if k % 2 == 0 else "--", label=name)
    ax.set(xlabel="update", ylabel="accuracy, test questions", ylim=(0, 1.02))
    ax.legend(loc="lower right")
    return fig
