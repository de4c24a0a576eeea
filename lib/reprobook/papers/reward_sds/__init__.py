"""RewardSDS (Chachy et al., 2025): score distillation whose noises are weighted by the reward of what they denoise to.

- :mod:`.diffusion`: noising, guidance, S steps of denoising; :mod:`.weighting`: six schemes, two normalisations.
- :mod:`.losses`: SDS, VSD, DDS, SDS-Bridge and their weighted gradient; :mod:`.loop`: one optimisation.
- :mod:`.exact`: mixtures whose best prediction is known, and what ranking must do to them.
- :mod:`.digits`, :mod:`.networks`, :mod:`.judging`: real digits, the small prior, the reward model, the held-out judge.
- :mod:`.scene`: three dimensions; :mod:`.study`: the chapter's experiments; :mod:`.pictures`; :mod:`.bench`;
  :mod:`.printed`: the paper's figures, recomputed.
- :mod:`.released`, :mod:`.raters`, :mod:`.needs`: the paper's prior, what scores its pictures, what they need.
"""

from __future__ import annotations

from reprobook.papers.reward_sds import (
    bench,
    diffusion,
    digits,
    exact,
    judging,
    loop,
    losses,
    needs,
    networks,
    pictures,
    printed,
    raters,
    released,
    scene,
    study,
    weighting,
)

__all__ = [
    "bench", "diffusion", "digits", "exact", "judging", "loop", "losses", "needs", "networks", "pictures", "printed",
    "raters", "released", "scene", "study", "weighting",
]  # fmt: skip
