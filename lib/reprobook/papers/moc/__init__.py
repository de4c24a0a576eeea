"""MoC (arXiv 2503.09600): what makes a chunk of text a good one, and a mixture of small models that cut."""

from reprobook.papers.moc import (  # noqa: F401
    bench,
    boundaries,
    chunkers,
    corpora,
    learning,
    metrics,
    miniatures,
    needs,
    pictures,
    printed,
    recovery,
    released,
    retrieval,
    study,
)
