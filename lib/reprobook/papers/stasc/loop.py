"""The algorithm (Algorithm 1): sample, correct, filter, fine-tune, N times; and what is measured on the way."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from reprobook.errors import ReprobookError
from reprobook.papers.stasc.filters import PAIRINGS, Variant, kept_indices, transitions
from reprobook.papers.stasc.learner import Told
from reprobook.papers.stasc.reward import rewards
from reprobook.train.progress import watched

if TYPE_CHECKING:
    from reprobook.papers.stasc.filters import FilterMode, Pairing
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
    updates: int | None = None  # of every iteration, whatever was kept; None: one epoch of what was kept
    rate: float = 1.0  # factor of the learning rate

    def __post_init__(self) -> None:
        counts = {"N_init": self.n_init, "N_corr": self.n_corr, "N": self.n_iterations, "updates": self.updates}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ReprobookError(f"{name} is {value}; it must be at least 1")
        if self.pairing not in PAIRINGS:
            raise ReprobookError(f"pairing {self.pairing!r} is not known; pairings: {', '.join(PAIRINGS)}")

    @property
    def filter_mode(self) -> FilterMode:
        """What the letter in the middle keeps in this run."""
        return self.variant.filter_mode(self.as_run)


@dataclass(frozen=True)
class Scores:
    """Rewards of one initial answer and one correction per question, each (Q,)."""

    initial: np.ndarray
    corrected: np.ndarray

    @property
    def net(self) -> np.ndarray:
        """Net repairs (Q,): 1 for wrong to right, -1 for right to wrong, else 0. Copying the answer gives 0."""
        return self.corrected - self.initial


@dataclass(frozen=True)
class Drawn:
    """Steps 1 to 3 of an iteration: D_n, the rewards r1 (Q, J) and r2 (Q, J, K), and the number of pairs."""

    told: list[Told]
    r1: np.ndarray
    r2: np.ndarray
    pairs: int

    @property
    def kept(self) -> int:
        """|D_n|."""
        return len(self.told)


@dataclass(frozen=True)
class Iterate:
    """Model M_n of a run: its scores, and the training set D_{n+1} that was drawn from it (last n: None)."""

    n: int
    model: Snapshot
    valid: Scores
    asked: Callable[[], Scores] = field(repr=False)  # asks the test questions
    drawn: Drawn | None = None
    updates: int = 0

    @functools.cached_property
    def test(self) -> Scores:
        """Scores on the test questions, which are not asked before somebody wants to know."""
        return self.asked()

    @functools.cached_property
    def row(self) -> dict[str, float]:
        """Accuracies, net repairs, kept pairs, updates and shares of moves in the training pairs (NaN without)."""
        found: dict[str, float] = {"iteration": self.n, "updates": self.updates}
        for name, scores in (("test", self.test), ("valid", self.valid)):
            found |= {f"{name} initial": scores.initial.mean(), f"{name} correction": scores.corrected.mean()}
        if self.drawn is None:
            return found
        found |= {"kept": self.drawn.kept, "pairs": self.drawn.pairs}
        found |= {"train initial": self.drawn.r1.mean(), "train correction": self.drawn.r2.mean()}
        moves: Mapping[str, float] = transitions(self.drawn.r1, self.drawn.r2)
        return found | {f"train {name}": share for name, share in moves.items()}


def one_iteration(learner: Learner, plan: Plan, questions: Sequence[Question], latest: Snapshot, n: int) -> Drawn:
    """Steps 1 to 3 of iteration n.

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
    return Drawn(told, r1, r2, n_pairs)


def resized(told: Sequence[Told], size: int, seed: int) -> list[Told]:
    """``size`` of the dialogues in random order: a part of them, or all of them again and again, each as often as the
    others or once more. Nothing of nothing."""
    if not told:
        return []
    rng = np.random.default_rng([seed, 13])
    rounds = math.ceil(size / len(told))
    order = np.concatenate([rng.permutation(len(told)) for _ in range(rounds)])[:size]
    return [told[k] for k in order]


def evaluate(learner: Learner, plan: Plan, questions: Sequence[Question], model: Snapshot, n: int, name: str) -> Scores:
    """One sampled initial answer and one sampled correction per question, as in the paper. With fixed initialisation
    the initial answers are those of M_0, so their accuracy is constant."""
    first, draw = (model, n) if plan.variant.evolving_initialisation else (learner.base, 0)
    y1 = learner.answers(first, questions, 1, f"{name} initial {draw}")
    y2 = learner.corrections(model, questions, y1, 1, f"{name} corrections {n}")
    r1, r2 = rewards(y1, questions, plan.reward_mode), rewards(y2, questions, plan.reward_mode)
    return Scores(r1[:, 0], r2[:, 0, 0])


def score(learner: Learner, model: Snapshot, questions: Sequence[Question], name: str = "test") -> Scores:
    """Scores of a model that answers and corrects by itself, whatever trained it."""
    return evaluate(learner, Plan(Variant("EIE"), 1, 1, 1), questions, model, 0, name)


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
        last = n > plan.n_iterations
        drawn = None if last and not last_train else one_iteration(learner, plan, splits.train, model, n)
        if last or drawn is None:
            return [*found, Iterate(n - 1, model, valid, test, drawn)]
        told = drawn.told
        if plan.updates:
            told = resized(told, plan.updates * learner.tuning.batch_size, learner.seed + n)
        after, updates = learner.tune(model if plan.variant.evolving_tuning else learner.base, told, plan.rate)
        found.append(Iterate(n - 1, model, valid, test, drawn, updates))
        what = f"kept {drawn.kept} of {drawn.pairs}" if told else "nothing kept, the weights stay"
        logger.info("%s: iteration %d of %d, %s", plan.variant.name, n, plan.n_iterations, what)
        model = after
    return found


def frame(iterates: Iterable[Iterate]) -> pd.DataFrame:
    """One row per iterate, see :attr:`Iterate.row`."""
    return pd.DataFrame([it.row for it in iterates])


def selected(iterates: Sequence[Iterate]) -> Iterate:
    """The iterate with the best corrections on the validation questions (the earliest of equals)."""
    return max(iterates, key=lambda it: (it.valid.corrected.mean(), -it.n))


def optimistic(iterates: Sequence[Iterate]) -> float:
    """The largest test accuracy of corrections over the iterations: what the paper reports, biased upwards."""
    return max(float(it.test.corrected.mean()) for it in iterates)
