"""Who answers the tasks: writers of known score, blind ones, and language models."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.nn.completion import complete
from reprobook.papers.wildifeval.kinds import CATEGORIES
from reprobook.papers.wildifeval.tasks import write

if TYPE_CHECKING:
    from reprobook.papers.wildifeval.tasks import Task, Topic

TAIL = 1e-3  # of probability, left out of draws
# Satisfies the kinds that need no word of the task, but for lists and the lower bound, and holds no forbidden word.
FIXED = (
    "Why does it matter? I think people care about it. They ask again, so old books keep many pages on it. Teachers "
    "often start here. Nobody knows everything, but small facts help. Take your time! Good questions lead on to "
    "more. Some details remain open."
)


def template(task: Task) -> str:
    """The ceiling: every asked constraint holds."""
    return write(task)


def copy(task: Task) -> str:
    """Blind to what a response is: the prompt itself, of which nothing counts."""
    return task.prompt


def fixed(task: Task) -> str:  # noqa: ARG001 (every responder is called alike)
    """Blind to the task: one text for all, which satisfies most kinds that need no word of it."""
    return FIXED


def topic_thrice(task: Task) -> str:
    """Blind to the constraints: the topic of the task in three sentences, and nothing else."""
    return f"{task.topic}. It is {task.topic}! Who knows {task.topic}?"


def topic_and_sentence(task: Task) -> str:
    """Blind to the constraints, but for them a reader of the task: its topic three times and its sentence, within the
    fixed text."""
    return f"{task.topic}. It is {task.topic}! {task.source} {FIXED} Who knows {task.topic}?"


def ngram(where: Sequence[Topic], seed: int, n_words: int = 50) -> Callable[[Task], str]:
    """Blind to the task: words drawn from a trigram model of the articles' sentences."""
    follow: dict[tuple[str, str], list[str]] = defaultdict(list)
    for topic in where:
        for sentence in topic.sentences:
            said = ["", "", *re.findall(r"[A-Za-z]+|[.,]", sentence), ""]
            for a, b, c in zip(said, said[1:], said[2:], strict=False):
                follow[a, b].append(c)

    def draw(task: Task) -> str:
        rng = np.random.default_rng([seed, *task.id.encode()])
        said: list[str] = []
        state = ("", "")
        while len(said) < n_words or said[-1] != ".":
            choices = follow[state]
            word = choices[int(rng.integers(len(choices)))]
            state = (state[1], word) if word else ("", "")
            said += [word] if word else []
        return re.sub(r" ([.,])", r"\1", " ".join(said))

    return draw


def known_rate(rate: float | Mapping[str, float], seed: int) -> Callable[[Task], str]:
    """Satisfies each constraint with probability ``rate`` (or that of its category), independently."""
    rates = dict(rate) if isinstance(rate, Mapping) else dict.fromkeys(CATEGORIES, rate)
    if any(not 0 <= p <= 1 for p in rates.values()):
        raise ReprobookError(f"rate {rate} must be from 0 to 1")

    def draw(task: Task) -> str:
        u = np.random.default_rng([seed, 7, *task.id.encode()]).random(task.n)
        return write(task, [k for k, each in enumerate(task.asked) if u[k] >= rates[each.category]])

    return draw


def halves(tasks: Sequence[Task], seed: int) -> list[tuple[Task, str, str]]:
    """Each task with two texts: a random half of its constraints broken in one, the other half in the other. So each
    constraint is satisfied in one text and broken in its twin, and both classes are equally frequent."""
    pairs = []
    for task in tasks:
        order = np.random.default_rng([seed, 11, *task.id.encode()]).permutation(task.n)
        half = set(order[: task.n // 2].tolist())
        pairs.append((task, write(task, half), write(task, set(range(task.n)) - half)))
    return pairs


def answers(
    model: Any, tokenizer: Any, tasks: Sequence[Task], *, max_new: int, temperature: float, batch_size: int, seed: int
) -> list[str]:
    """Zero-shot answers: the task as the only message of the user (paper: at most 1,000 new tokens; temperature 0.7
    in its text, 0 in its released code). Draws leave out the last :data:`TAIL` of probability: to sort a vocabulary of
    150,000 for each token would cost more than the network."""
    prompts = [[{"role": "user", "content": task.prompt}] for task in tasks]
    return complete(model, tokenizer, prompts, max_new_tokens=max_new, batch_size=batch_size, temperature=temperature,
                    top_p=1 - TAIL, seed=seed)  # fmt: skip
