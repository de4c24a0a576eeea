"""STaSC (Moskvoretskii et al., 2025): a model samples answers and corrections, keeps what a reward likes, and learns.

- :mod:`.reward`: in-accuracy and its normalisation; :mod:`.questions`: the paper's columns, checks, splits.
- :mod:`.filters`: the eight variants, three filters, two pairings, transitions; :mod:`.dialogue`: what is said.
- :mod:`.learner`: samples and weights by the digest of what made them; :mod:`.loop`: Algorithm 1; :mod:`.baselines`.
- :mod:`.ciphers`: the small decoder's task; :mod:`.countries`: facts; :mod:`.released`: the paper's models.
- :mod:`.study`: the chapter's experiments; :mod:`.pictures`; :mod:`.printed`: the paper's figures, recomputed.
"""

from __future__ import annotations

from reprobook.papers.stasc import (
    baselines,
    bench,
    ciphers,
    countries,
    dialogue,
    filters,
    learner,
    loop,
    pictures,
    printed,
    questions,
    released,
    reward,
    study,
)

__all__ = [
    "baselines", "bench", "ciphers", "countries", "dialogue", "filters", "learner", "loop", "pictures", "printed",
    "questions", "released", "reward", "study",
]  # fmt: skip
