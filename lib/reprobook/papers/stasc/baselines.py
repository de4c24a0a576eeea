"""What STaSC is compared with: gold answers, STaR, self-consistency. No training is iteration 0 of any run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.stasc.learner import Told
from reprobook.papers.stasc.reward import normalise, reward, rewards

if TYPE_CHECKING:
    from reprobook.papers.stasc.learner import Learner, Snapshot
    from reprobook.papers.stasc.questions import Question
    from reprobook.papers.stasc.reward import Mode


def majority(texts: Sequence[str]) -> str:
    """The most frequent answer after normalisation; of equals the one drawn first. Its first wording is returned."""
    if not texts:
        raise ReprobookError("majority needs at least one answer")
    counts = Counter(map(normalise, texts))
    best = max(counts.values())
    return next(text for text in texts if counts[normalise(text)] == best)


def self_consistency(
    learner: Learner, model: Snapshot, questions: Sequence[Question], n: int, mode: Mode = "default"
) -> np.ndarray:
    """Rewards (Q,) of the majority of ``n`` initial answers: an answer without training or reward."""
    answers = learner.answers(model, questions, n, "self-consistency")
    return np.array([reward(majority(a), q.references, mode) for a, q in zip(answers, questions, strict=True)])


def sft(learner: Learner, questions: Sequence[Question], repeats: int = 1) -> Snapshot:
    """Fine-tuning on the gold answers of the training questions (upper bound): as the initial answer, and as the
    correction of an initial answer of M_0. ``repeats`` initial answers a question give as many such pairs."""
    shown = learner.answers(learner.base, questions, repeats, "train initial 1")
    gold = [(q, q.references[0]) for q in questions]
    told = [Told(q, None, answer) for q, answer in gold for _ in range(repeats)]
    told += [Told(q, text, answer) for (q, answer), row in zip(gold, shown, strict=True) for text in row]
    return learner.tune(learner.base, told)[0]


def star(
    learner: Learner, questions: Sequence[Question], n_samples: int, n_iterations: int, mode: Mode = "default"
) -> list[tuple[Snapshot, int]]:
    """STaR (Zelikman et al., 2022) without rationalisation: keep right *initial* answers of M_{n-1}, fine-tune M_0 on
    them. Models M_1..M_N, each with the number of answers kept."""
    model, found = learner.base, []
    for n in range(1, n_iterations + 1):
        answers = learner.answers(model, questions, n_samples, f"train initial {n}")
        right = rewards(answers, questions, mode) > 0
        told = [Told(questions[i], None, answers[i][j]) for i, j in np.argwhere(right).tolist()]
        model, _ = learner.tune(learner.base, told)
        found.append((model, len(told)))
    return found
