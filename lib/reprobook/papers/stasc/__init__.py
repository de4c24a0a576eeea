"""STaSC (Moskvoretskii et al., 2025): a model samples answers and corrections, keeps what a reward likes, and learns.

- :mod:`.reward`: in-accuracy and its normalisation; :mod:`.questions`: the paper's columns, checks, splits.
- :mod:`.filters`: the eight variants, three filters, two pairings, transitions.
- :mod:`.dialogue`: chat templates and the loss on correction tokens; :mod:`.sampling`: answers with shared prefixes.
- :mod:`.learner`: samples and weights by the digest of what made them; :mod:`.loop`: Algorithm 1; :mod:`.baselines`.
- :mod:`.ciphers`: the small decoder's task; :mod:`.countries`: facts; :mod:`.released`: the paper's models.
- :mod:`.printed`: the paper's figures, recomputed.
"""

from __future__ import annotations

from reprobook.papers.stasc import baselines, ciphers, countries, printed, released
from reprobook.papers.stasc.dialogue import Prompts, correction_loss, prompt_ids, training_examples
from reprobook.papers.stasc.filters import (
    FILTERS,
    TRANSITIONS,
    VARIANTS,
    Variant,
    keep,
    kept_indices,
    pair_up,
    transitions,
)
from reprobook.papers.stasc.learner import Learner, Snapshot, Told, Tuning
from reprobook.papers.stasc.loop import Iterate, Plan, evaluate, frame, one_iteration, optimistic, run, selected
from reprobook.papers.stasc.questions import Question, Splits, check_questions, split_by_entity, take_valid
from reprobook.papers.stasc.reward import has_answer, normalise, reward, rewards
from reprobook.papers.stasc.sampling import Sampling, draw, sample

__all__ = [
    "FILTERS",
    "TRANSITIONS",
    "VARIANTS",
    "Iterate",
    "Learner",
    "Plan",
    "Prompts",
    "Question",
    "Sampling",
    "Snapshot",
    "Splits",
    "Told",
    "Tuning",
    "Variant",
    "baselines",
    "check_questions",
    "ciphers",
    "correction_loss",
    "countries",
    "draw",
    "evaluate",
    "frame",
    "has_answer",
    "keep",
    "kept_indices",
    "normalise",
    "one_iteration",
    "optimistic",
    "pair_up",
    "printed",
    "prompt_ids",
    "released",
    "reward",
    "rewards",
    "run",
    "sample",
    "selected",
    "split_by_entity",
    "take_valid",
    "training_examples",
    "transitions",
]  # fmt: skip
