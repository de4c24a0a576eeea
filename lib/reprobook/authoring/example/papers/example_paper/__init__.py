"""Title of the paper (Authors, year): what it proposes, in a sentence.

- :mod:`.method`: the method, in the paper's notation; :mod:`.study`: the experiments that the notebook calls.
- :mod:`.bench`: what the paper makes cheaper, measured; :mod:`.pictures`: what the figures show.
"""

from __future__ import annotations

from reprobook.authoring.example.papers.example_paper import bench, method, pictures, study

__all__ = ["bench", "method", "pictures", "study"]
