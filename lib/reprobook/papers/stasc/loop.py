"""The algorithm (Algorithm 1): sample, correct, filter, fine-tune, N times; and what is measured on the way."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from reprobook.errors import ReprobookError
from reprobook.papers.stasc.filters import PAIRINGS, kept_indices, transitions
from reprobook.papers.stasc.learner import Told
from reprobook.papers.stasc.reward import rewards
from reprobook.train.progress import watched

if TYPE_CHECKING:
    import numpy as np

    from reprobook.papers.stasc.filters import FilterMode, Pairing, Variant
    from reprobook.papers.stasc.learner import Learner, Snapshot
    from reprobook.papers.stasc.questions import Question, Splits
    from reprobook.papers.stasc.reward import Mode

logger = logging.getLogger("reprobook.train.stasc")  # the log of a run listens to reprobook.train


@dataclass(frozen=True)
class Plan:
    """One run: a variant, its sample counts and what the letter N means."""

    variant: Variant
    n_init: int
    n_corr: int
    n_iterations: int
    as_run: bool = False  # N keeps only right -> right, as the released code did
    pairing: Pairing = "matched"
    reward_mode: Mode = "default"

    def __post_init__(self) -> None:
        for name, value in (("N_init", self.n_init), ("N_corr", self.n_corr), ("N", self.n_iterations)):
            if value < 1:
                raise ReprobookError(f"{name} is {value}; it must be at least 1")
        if self.pairing not in PAIRINGS:
            raise ReprobookError(f"pairing {self.pairing!r} is not known; pairings: {', '.join(PAIRINGS)}")

    @property
    def filter_mode(self) -> FilterMode:
        return self.variant.filter_mode(self.as_run)


@dataclass(frozen=True)
class Scores:
    """Rewards of one initial answer and one correction per question, each (Q,)."""

    initial: np.ndarray
    corrected: np.ndarray


@dataclass(frozen=True)
class Iterate:
    """Model M_n of a run: its scores, and the training set D_{n+1} that was drawn from it (last n: none)."""

    n: int
    model: Snapshot
    valid: Scores
    asked: Callable[[], Scores]  # asks the test questions
    train_initial: float = float("nan")  # mean reward of the training samples of M_n
    train_corrected: float = float("nan")
    moves: dict[str, float] | None = None  # transition shares of the matched training pairs
    pairs: int = 0
    kept: int = 0
    updates: int = 0

    @functools.cached_property
    def test(self) -> Scores:
        """Scores on the test questions, which are not asked before somebody wants to know."""
        return self.asked()


def one_iteration(
    learner: Learner, plan: Plan, questions: Sequence[Question], latest: Snapshot, n: int
) -> tuple[list[Told], np.ndarray, np.ndarray, int]:
    """Steps 1 to 3 of iteration n: D_n, the rewards r1 (Q, J) and r2 (Q, J, K), and the number of pairs.

    Initial answers come from M_{n-1} or, with fixed initialisation, from M_0 (the same ones in every iteration);
    corrections always come from the latest model M_{n-1}.
    """
    evolving = plan.variant.evolving_initialisation
    first, draw = (latest, n) if evolving else (learner.base, 1)
    y1 = learner.answers(first, questions, plan.n_init, f"train initial {draw}")
    y2 = learner.corrections(latest, questions, y1, plan.n_corr, f"train corrections {n}")
    r1, r2 = rewards(y1, questions, plan.reward_mode), rewards(y2, questions, plan.reward_mode)
    indices, n_pairs = kept_indices(r1, r2, plan.filter_mode, plan.pairing)
    told = [Told(questions[i], y1[i][j], y2[i][own][k]) for i, j, own, k in indices.tolist()]
    return told, r1, r2, n_pairs


def evaluate(learner: Learner, plan: Plan, questions: Sequence[Question], model: Snapshot, n: int, name: str) -> Scores:
    """One sampled initial answer and one sampled correction per question, as in the paper. With fixed initialisation
    the initial answers are those of M_0, so their accuracy is constant."""
    first, draw = (model, n) if plan.variant.evolving_initialisation else (learner.base, 0)
    y1 = learner.answers(first, questions, 1, f"{name} initial {draw}")
    y2 = learner.corrections(model, questions, y1, 1, f"{name} corrections {n}")
    r1, r2 = rewards(y1, questions, plan.reward_mode), rewards(y2, questions, plan.reward_mode)
    return Scores(r1[:, 0], r2[:, 0, 0])


def run(learner: Learner, plan: Plan, splits: Splits, *, last_train: bool = False) -> list[Iterate]:
    """All iterates M_0..M_N of one variant. ``last_train``: draw training samples from M_N, too, for the curves.

    An empty D_n leaves M_n = M_{n-1} (evolving fine-tuning) or M_0 (fixed).
    """
    model = learner.base
    found: list[Iterate] = []
    steps = range(1, plan.n_iterations + 2)
    for n in tqdm(steps, desc=plan.variant.name, disable=not watched(), leave=False, file=sys.stderr):
        valid = evaluate(learner, plan, splits.valid, model, n - 1, "valid")
        test = functools.partial(evaluate, learner, plan, splits.test, model, n - 1, "test")
        if n > plan.n_iterations and not last_train:
            return [*found, Iterate(n - 1, model, valid, test)]
        told, r1, r2, n_pairs = one_iteration(learner, plan, splits.train, model, n)
        start = model if plan.variant.evolving_tuning else learner.base
        after, updates = learner.tune(start, told) if n <= plan.n_iterations else (model, 0)
        trained = float(r1.mean()), float(r2.mean()), transitions(r1, r2), n_pairs, len(told), updates
        found.append(Iterate(n - 1, model, valid, test, *trained))
        what = f"kept {len(told)} of {n_pairs}" if told else "nothing kept, the weights stay"
        if n <= plan.n_iterations:
            logger.info("%s: iteration %d of %d, %s", plan.variant.name, n, plan.n_iterations, what)
        model = after
    return found


def frame(iterates: Iterable[Iterate]) -> pd.DataFrame:
    """One row per iterate: accuracies, transition shares, kept pairs and updates."""
    rows = []
    for it in iterates:
        row = {
            "iteration": it.n, "test initial": it.test.initial.mean(), "test correction": it.test.corrected.mean(),
            "valid initial": it.valid.initial.mean(), "valid correction": it.valid.corrected.mean(),
            "train initial": it.train_initial, "train correction": it.train_corrected,
            "kept": it.kept, "pairs": it.pairs, "updates": it.updates,
        }  # fmt: skip
        rows.append({**row, **{f"train {name}": share for name, share in (it.moves or {}).items()}})
    return pd.DataFrame(rows)


def selected(iterates: Sequence[Iterate]) -> Iterate:
    """The iterate with the best corrections on the validation questions (the earliest of equals)."""
    return max(iterates, key=lambda it: (it.valid.corrected.mean(), -it.n))


def optimistic(iterates: Sequence[Iterate]) -> float:
    """The largest test accuracy of corrections over the iterations: what the paper reports, biased upwards."""
    return max(float(it.test.corrected.mean()) for it in iterates)
