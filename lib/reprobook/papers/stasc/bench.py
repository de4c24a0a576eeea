"""One iteration's samples: prompts read once for all that share them, against one call for each sample.

``python -m reprobook.papers.stasc.bench`` prints seconds and ratios for the small decoder and for SmolLM2-135M, at the
paper's counts (5 initial answers, 5 corrections each). Both ways must give the same samples.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.stasc import ciphers, countries
from reprobook.papers.stasc.dialogue import stop_ids
from reprobook.papers.stasc.learner import Learner, Tuning
from reprobook.papers.stasc.sampling import Prefix, Sampling, decode, uniforms

if TYPE_CHECKING:
    from reprobook.papers.stasc.dialogue import Prompts
    from reprobook.papers.stasc.learner import Answers, Corrections
    from reprobook.papers.stasc.questions import Question

WAYS = ("shared", "batched", "one call a sample")


def sampling_seconds(
    model: Any, tokenizer: Any, prompts: Prompts, questions: Sequence[Question], sampling: Sampling,
    n_init: int = 5, n_corr: int = 5, ways: Sequence[str] = WAYS,
) -> dict[str, float]:  # fmt: skip
    """Seconds of all initial answers and corrections of ``questions``, for each of :data:`WAYS`.

    ``batched`` reads every prompt whole for every sample, in batches; ``one call a sample`` in batches of one. Raises
    :class:`ReprobookError` if the ways give different samples."""
    found: dict[str, float] = {}
    made: dict[str, tuple[Answers, Corrections]] = {}
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            learner = Learner(
                model, tokenizer, prompts, sampling, Tuning(), fit=_no_training, folder=Path(folder), seed=0
            )
            if way != "shared":
                learner._sample = _unshared(learner, 1 if way != "batched" else 64)  # type: ignore[method-assign]
            start = time.perf_counter()
            y1 = learner.answers(learner.base, questions, n_init, "initial")
            y2 = learner.corrections(learner.base, questions, y1, n_corr, "corrections")
            found[way] = time.perf_counter() - start
            made[way] = y1, y2
    if other := next((way for way in ways if made[way] != made[ways[0]]), None):
        raise ReprobookError(f"{ways[0]!r} and {other!r} drew different samples from the same random numbers")
    return found


def _no_training(*_: Any, **__: Any) -> None:
    raise ReprobookError("the benchmark does not train")


def _unshared(learner: Learner, batch_size: int) -> Any:
    """Like ``Learner._sample``, but every sample reads its whole prompt."""

    def draw(by: Any, questions: Any, shown: Any, n: int, stream: str, at: int) -> Corrections:
        shape = (len(questions), max(map(len, shown)), n, learner.sampling.max_new_tokens)
        u = uniforms(learner.seed, f"{stream} from {at}", shape)
        jobs = [
            (learner._prompt_ids([(q.text, text)])[0], u[k, j, s])
            for k, (q, row) in enumerate(zip(questions, shown, strict=True))
            for j, text in enumerate(row)
            for s in range(n)
        ]  # fmt: skip
        texts: list[str] = []
        stops = stop_ids(learner.model, learner.tokenizer)
        for begin in range(0, len(jobs), batch_size):
            part = jobs[begin : begin + batch_size]
            ids = _whole(learner.model, [ids for ids, _ in part], np.stack([own for _, own in part]), learner, stops)
            texts += [text.strip() for text in learner.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        rest = iter(texts)
        return [[[next(rest) for _ in range(n)] for _ in row] for row in shown]

    return draw


@torch.no_grad()
def _whole(model: Any, prompts: list[list[int]], u: np.ndarray, learner: Learner, stops: list[int]) -> list[list[int]]:
    """One sample for each prompt, whatever prompts are equal."""
    state = Prefix(model).read(prompts)
    return decode(state, torch.as_tensor(u).to(model.device), learner.sampling, stops)


def main() -> None:
    """Print the comparison; about two minutes on 2 cores."""
    from reprobook.data import ChapterData
    from reprobook.nn.lm import load_lm

    world = ciphers.World(ciphers.Corpus(), 0)
    tokenizer = ciphers.tokenizer()
    small = ciphers.decoder(tokenizer, 64, 2, 4, 0).eval()
    questions = world.split(100, 1, 1)[0].train
    rows = [
        ("small decoder, 100 questions", small, tokenizer, ciphers.PROMPTS, questions[:100], Sampling(max_new_tokens=3))
    ]
    data = ChapterData("stasc", "laptop")
    model, chat = load_lm(data.path("smollm2-135m-instruct"), dtype="fp32")
    facts = countries.read_questions(data.path("geonames"))[:4]
    rows.append(("SmolLM2-135M, 4 questions", model, chat, countries.PROMPTS, facts, Sampling(max_new_tokens=8)))
    for name, net, tok, prompts, asked, sampling in rows:
        took = sampling_seconds(net, tok, prompts, asked, sampling)
        print(f"{name}, 5 initial answers and 5 corrections each, the same samples:")
        for way, seconds in took.items():
            print(f"  {way}: {seconds:.2f} s, {seconds / took['shared']:.1f} x the shared way")


if __name__ == "__main__":
    main()
