"""Drawings of sets along the token axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reprobook import show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reprobook.papers.more_documents.sets import BuiltSet, Instance


def draw_sets(question: Instance, full: BuiltSet, built: BuiltSet, title: str) -> Figure:
    """The set of all documents above, a built set below: paragraphs with the answer orange, others blue, extensions
    grey; dotted lines where the evidence stood."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(9.0, 2.6))
    for y, each in ((1, full), (0, built)):
        sizes, support = question.lengths[each.kept], np.isin(each.kept, question.supporting)
        ax.barh(y, each.before + sizes + each.after, left=each.starts - each.before, height=0.5, color="#d8dee4",
                edgecolor="white", linewidth=1.5)  # fmt: skip
        for mask, colour in ((~support, show.COLOURS[5]), (support, show.COLOURS[1])):
            ax.barh(y, sizes[mask], left=each.starts[mask], height=0.5, color=colour)
    for at in full.starts[np.isin(full.kept, question.supporting)]:
        ax.axvline(at, color=show.COLOURS[1], lw=1, ls=":")
    n = len(built)
    ax.set(yticks=[0, 1], yticklabels=[f"{n} document{'s' if n > 1 else ''}", f"all {len(full)}"])
    ax.set(xlabel="position (words)", title=title)
    return fig
