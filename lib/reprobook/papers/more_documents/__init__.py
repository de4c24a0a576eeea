"""More Documents, Same Length (arXiv 2503.04388): sets of fewer, longer documents at the same total length."""

from reprobook.papers.more_documents import (  # noqa: F401  # noqa: F401
    bench,
    lm_reader,
    needs,
    network,
    pictures,
    planted,
    printed,
    readers,
    released,
    scoring,
    sets,
    study,
)
