"""RewardSDS (Chachy et al., 2025): score distillation whose noises are weighted by the reward of what they denoise to.

- :mod:`.diffusion`: noising, guidance, S steps of denoising; :mod:`.weighting`: six schemes, two normalisations.
- :mod:`.losses`: SDS, VSD, DDS, SDS-Bridge and their weighted gradient; :mod:`.loop`: one optimisation.
- :mod:`.exact`: mixtures whose best prediction is known, and what ranking must do to them.
"""

from __future__ import annotations

from reprobook.papers.reward_sds import diffusion, exact, loop, losses, weighting

__all__ = ["diffusion", "exact", "loop", "losses", "weighting"]
