"""Block Diffusion (BD3-LM): autoregressive over blocks of tokens, masked diffusion inside a block (arXiv 2503.09573).

- :mod:`.noise`: mask rates, times, intervals; :mod:`.model`: DiT, three-part mask, one and two passes;
  :mod:`.objectives`: losses, bounds, search; :mod:`.sampling`: block, ancestral, AR and SEDD samplers, stop rules.
- :mod:`.source`: texts with known likelihood; :mod:`.corpus`: text as rows of tokens; :mod:`.ngram`: a judge of text.
- :mod:`.study`: the experiments; :mod:`.released`: the published checkpoints; :mod:`.bench`; :mod:`.pictures`.
"""

from __future__ import annotations

from reprobook.papers.block_diffusion import (
    bench,
    corpus,
    model,
    ngram,
    noise,
    objectives,
    pictures,
    released,
    sampling,
    source,
    study,
)

__all__ = [
    "bench", "corpus", "model", "ngram", "noise", "objectives", "pictures", "released", "sampling", "source", "study",
]  # fmt: skip
