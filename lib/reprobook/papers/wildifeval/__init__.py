"""WildIFEval (arXiv 2503.06573): instruction following in the wild, constraint by constraint."""

from reprobook.papers.wildifeval import (  # noqa: F401
    bench,
    curation,
    judge,
    judging,
    kinds,
    miniatures,
    needs,
    pictures,
    printed,
    published,
    released,
    responders,
    scores,
    store,
    study,
    tasks,
)
