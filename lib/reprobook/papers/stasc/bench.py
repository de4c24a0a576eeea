"""One iteration's samples: prompts read once for all that share them, against one call for each sample."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.bench import compare
from reprobook.errors import ReprobookError
from reprobook.nn.sampling import Prefix, Sampling, decode, uniforms
from reprobook.papers.stasc import ciphers
from reprobook.papers.stasc.learner import Learner, Tuning

if TYPE_CHECKING:
    from reprobook.bench import Comparison
    from reprobook.papers.stasc.dialogue import Prompts
    from reprobook.papers.stasc.learner import Answers, Corrections, Samples
    from reprobook.papers.stasc.questions import Question


def headline(n_questions: int = 10) -> Comparison:
    """Samples of an iteration of the small decoder at the paper's counts (5 initial answers, 5 corrections of each):
    one call a sample over prompts that are read once."""
    tokenizer = ciphers.tokenizer()
    model = ciphers.decoder(tokenizer, 64, 2, 4, 0).eval()
    asked = ciphers.World(ciphers.Corpus(), 0).split(n_questions, 1, 1)[0].train
    return sampling(model, tokenizer, ciphers.PROMPTS, asked, Sampling(max_new_tokens=3), n=3)


def sampling(
    model: Any, tokenizer: Any, prompts: Prompts, questions: Sequence[Question], sampling: Sampling,
    n_init: int = 5, n_corr: int = 5, n: int = 3,
) -> Comparison:  # fmt: skip
    """All initial answers and corrections of ``questions``: in one call a sample, with every prompt read once, and in
    batches in which every sample reads its whole prompt. The samples must be the same."""

    def way(batch_size: int | None) -> Callable[[], tuple[Answers, Corrections]]:
        def draw() -> tuple[Answers, Corrections]:
            with tempfile.TemporaryDirectory() as folder:
                options = {"fit": _no_training, "folder": Path(folder), "seed": 0}
                learner = Learner(model, tokenizer, prompts, sampling, Tuning(), **options)  # type: ignore[arg-type]
                if batch_size:
                    learner._sample = _unshared(learner, batch_size)  # type: ignore[method-assign]
                y1 = learner.answers(learner.base, questions, n_init, "initial")
                return y1, learner.corrections(learner.base, questions, y1, n_corr, "corrections")

        return draw

    ways = {"one call a sample": way(1), "shared": way(None), "batched": way(64)}
    what = f"({n_init}, {n_corr}) samples of {len(questions)} questions"
    return compare(ways, equal=lambda a, b: a == b, n=n, what=what, device=model.device)


def _no_training(*_: Any, **__: Any) -> None:
    raise ReprobookError("the benchmark does not train")


def _unshared(learner: Learner, batch_size: int) -> Callable[..., Samples]:
    """Like ``Learner._sample``, but every sample reads its whole prompt."""

    def draw(_: Any, questions: Any, shown: Any, n: int, stream: str, at: int) -> Samples:
        shape = (len(questions), max(map(len, shown)), n, learner.sampling.max_new_tokens)
        u = uniforms(learner.seed, f"{stream} from {at}", shape)
        jobs = [
            (learner._prompt_ids([(q.text, text)])[0], u[k, j, s])
            for k, (q, row) in enumerate(zip(questions, shown, strict=True))
            for j, text in enumerate(row)
            for s in range(n)
        ]  # fmt: skip
        texts: list[str] = []
        for begin in range(0, len(jobs), batch_size):
            part = jobs[begin : begin + batch_size]
            ids = _whole(learner, [ids for ids, _ in part], np.stack([own for _, own in part]))
            texts += [text.strip() for text in learner.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        rest = iter(texts)
        return [[[next(rest) for _ in range(n)] for _ in row] for row in shown], [0.0] * len(shown)

    return draw


@torch.no_grad()
def _whole(learner: Learner, prompts: list[list[int]], u: np.ndarray) -> list[list[int]]:
    """One sample for each prompt, whatever prompts are equal."""
    state = Prefix(learner.model).read(prompts)
    return decode(state, torch.as_tensor(u).to(learner.model.device), learner.sampling, learner.stops)
