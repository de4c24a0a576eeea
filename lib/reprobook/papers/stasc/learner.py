"""A model that answers, corrects and is tuned; what it drew and learned is kept under the name of what made it.

Samples and weights are stored by a digest of everything they depend on (weights, questions, prompts, sampling, seed).
An iteration that was killed goes on where it stopped, nothing is drawn twice, and variants whose iterates coincide
(all of them do at n = 1) share samples and weights: the same files, not equal ones.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.nn.chat import Example, collate, masked_loss, prompt_ids, stop_ids, training_examples
from reprobook.nn.sampling import Reader, sample, uniforms
from reprobook.project import atomic_write
from reprobook.train import checkpoint

if TYPE_CHECKING:
    from reprobook.nn.chat import Messages
    from reprobook.nn.sampling import Sampling
    from reprobook.papers.stasc.dialogue import Prompts
    from reprobook.papers.stasc.questions import Question

logger = logging.getLogger("reprobook.train.stasc")  # the log of a run listens to reprobook.train
Fit = Callable[..., Any]  # reprobook.chapter.Chapter.fit
Train = Callable[[str, "Snapshot", Sequence[Example]], Path]
Answers = list[list[str]]  # [question][initial answer]
Corrections = list[list[list[str]]]  # [question][initial answer][correction]
Samples = tuple[Corrections, list[float]]  # and, for each question, the share of them that the limit of length cut


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning of one iteration (Appendix A, released configuration): one epoch, cosine with warm-up."""

    lr: float = 7.0e-6
    batch_size: int = 8
    epochs: int = 1
    warmup_ratio: float = 0.03
    weight_decay: float = 0.1
    precision: str = "bf16"
    accumulation: int = 1

    def steps(self, n_examples: int) -> int:
        """Updates of a set of ``n_examples``; the last batch of an epoch may be smaller."""
        return self.epochs * math.ceil(n_examples / self.batch_size)

    def options(self, n_examples: int) -> dict[str, Any]:
        """Arguments of :func:`reprobook.train.fit` that follow from the settings; the schedule's length depends on
        |D_n|."""
        warmup = math.ceil(self.warmup_ratio * self.steps(n_examples))
        return {
            "lr": self.lr, "weight_decay": self.weight_decay, "schedule": "cosine", "warmup_steps": warmup,
            "precision": self.precision,
        }  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """Weights by name: ``key`` says what made them, ``file`` holds them (None: the start model's)."""

    key: str
    file: Path | None = None


@dataclass(frozen=True)
class Told:
    """One dialogue to train on: a question, the initial answer shown (None: none is) and the answer to learn."""

    question: Question
    shown: str | None
    answer: str


def tuning_batches(
    examples: Sequence[Example], tuning: Tuning, pad: int, seed: int, processes: int = 1
) -> Callable[[int], Mapping[str, torch.Tensor]]:
    """Micro-batches of the epochs as a function of their index. Every epoch has an order of its own. Over several
    micro-steps or processes a last, smaller batch is filled up from the epoch's beginning, as accelerate does."""
    parts = tuning.accumulation * processes
    micro, rest = divmod(tuning.batch_size, parts)
    if rest or not micro:
        raise ReprobookError(
            f"batch_size {tuning.batch_size} is not a multiple of {tuning.accumulation} micro-steps x "
            f"{processes} processes"
        )
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(examples), generator=generator).tolist() for _ in range(tuning.epochs)]
    if parts > 1:
        full = math.ceil(len(examples) / tuning.batch_size) * tuning.batch_size
        orders = [(order * math.ceil(full / len(order)))[:full] for order in orders]
    per_epoch = math.ceil(len(examples) / tuning.batch_size)

    def batch(i: int) -> Mapping[str, torch.Tensor]:
        update, part = divmod(i, parts)
        epoch, k = divmod(update, per_epoch)
        at = k * tuning.batch_size + part * micro
        return collate([examples[j] for j in orders[epoch][at : at + micro]], pad)

    return batch


def digest(*parts: Any) -> str:
    """Name of a thing made from ``parts`` (plain values)."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, default=str).encode()).hexdigest()[:24]


class Learner:
    """``base`` is M_0: the weights that ``model`` has on construction. ``fit`` (``ch.fit``) trains the model itself;
    ``train(name, start, examples)`` trains elsewhere and returns the file of the weights. ``folder`` keeps samples and,
    below ``checkpoints``, weights. ``chunk``: questions whose samples are written together; ``batch_size``: questions
    whose samples are drawn together."""

    def __init__(
        self, model: Any, tokenizer: Any, prompts: Prompts, sampling: Sampling, tuning: Tuning, *, folder: Path,
        seed: int, fit: Fit | None = None, train: Train | None = None, batch_size: int = 64, chunk: int = 128,
    ) -> None:  # fmt: skip
        if (fit is None) == (train is None):
            raise ReprobookError("a learner needs either fit (in this process) or train (in processes of its own)")
        if not tokenizer.chat_template:
            raise ReprobookError("the tokenizer has no chat template, which the dialogues need")
        self.model, self.tokenizer, self.prompts = model, tokenizer, prompts
        self.sampling, self.tuning, self.fit, self.train = sampling, tuning, fit, train
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.folder, self.seed, self.batch_size, self.chunk = Path(folder), seed, batch_size, chunk
        self.stops = stop_ids(model, tokenizer)
        self.drawn = 0  # samples that were drawn, not read from files
        self.cut: dict[str, list[float]] = {}  # stream -> for each question, the share of answers cut by the limit
        self._start = {name: t.detach().cpu().clone() for name, t in checkpoint.weights(model).items()}
        fingerprint = hashlib.sha256()
        for name, t in self._start.items():
            fingerprint.update(name.encode() + t.contiguous().view(torch.uint8).numpy().tobytes())
        self.base = Snapshot(fingerprint.hexdigest()[:24])
        self.current = self.base
        self._reader = Reader(model)
        self._examples: dict[tuple[str, str | None, str], Example] = {}
        self._prompts: dict[tuple[str, str | None], list[int]] = {}

    # ------------------------------------------------------------------------------------------------ weights

    def use(self, snapshot: Snapshot) -> None:
        """Give the model the weights of ``snapshot``, bit for bit."""
        if snapshot.key != self.current.key:
            saved = self._start if snapshot.file is None else checkpoint.read(snapshot.file)["model"]
            checkpoint.load_weights(self.model, saved)
            self.current = snapshot
            self._reader.forget()
        self.model.eval()

    def tune(self, start: Snapshot, told: Sequence[Told], rate: float = 1.0) -> tuple[Snapshot, int]:
        """Weights after one pass of fine-tuning of ``start`` on ``told``, and the number of updates. A fresh optimiser
        and schedule each time; ``rate`` multiplies the learning rate. Nothing to train on: the weights of ``start``, 0
        updates."""
        if not told:
            return start, 0
        rows = [(t.question.qid, t.question.text, t.shown, t.answer) for t in told]
        tuning = replace(self.tuning, lr=rate * self.tuning.lr)
        key = digest(start.key, rows, asdict(tuning), asdict(self.prompts), self.seed)
        steps = tuning.steps(len(told))
        file = self.folder / "checkpoints" / f"tune-{key}" / checkpoint.FINISHED
        if not file.is_file():
            examples = self._encode(told)
            if self.train is not None:
                return Snapshot(key, self.train(f"tune-{key}", start, examples)), steps
            assert self.fit is not None
            self.use(start)
            self.fit(
                f"tune-{key}", self.model, tuning_batches(examples, tuning, self._pad, self.seed), masked_loss,
                num_steps=steps, seed=self.seed, **tuning.options(len(told)),
            )  # fmt: skip
            self.current = Snapshot(key, file)
            self._reader.forget()
        return Snapshot(key, file), steps

    def _encode(self, told: Sequence[Told]) -> list[Example]:
        """Token ids and labels of dialogues; equal ones are tokenised once."""
        keys = dict.fromkeys((t.question.text, t.shown, t.answer) for t in told)
        new = [key for key in keys if key not in self._examples]
        prompts = [self._turns(text, shown) for text, shown, _ in new]
        made = training_examples(self.tokenizer, prompts, [answer for _, _, answer in new], self.stops)
        self._examples.update(zip(new, made, strict=True))
        return [self._examples[t.question.text, t.shown, t.answer] for t in told]

    def _prompt_ids(self, asked: Sequence[tuple[str, str | None]]) -> list[list[int]]:
        """Token ids of prompts; equal ones are tokenised once."""
        new = [key for key in dict.fromkeys(asked) if key not in self._prompts]
        self._prompts.update(zip(new, prompt_ids(self.tokenizer, [self._turns(*key) for key in new]), strict=True))
        return [self._prompts[key] for key in asked]

    def _turns(self, text: str, shown: str | None) -> Messages:
        return self.prompts.initial(text) if shown is None else self.prompts.corrected(text, shown)

    # ------------------------------------------------------------------------------------------------ samples

    def answers(self, by: Snapshot, questions: Sequence[Question], n: int, stream: str) -> Answers:
        """``n`` initial answers to each question from the model ``by``. ``stream`` names the random numbers."""
        _check_count("N_init", n)
        self._reader.forget()  # only the corrections of these answers will need their questions again
        shown = [[None] for _ in questions]
        return [row[0] for row in self._draw(by, questions, shown, n, stream)]

    def corrections(
        self, by: Snapshot, questions: Sequence[Question], initial: Answers, n: int, stream: str
    ) -> Corrections:
        """``n`` corrections of each initial answer from the model ``by``."""
        _check_count("N_corr", n)
        return self._draw(by, questions, initial, n, stream)

    def _draw(
        self, by: Snapshot, questions: Sequence[Question], shown: Sequence[Sequence[str | None]], n: int, stream: str
    ) -> Corrections:
        found: Corrections = []
        self.cut[stream] = []
        for at in range(0, len(questions), self.chunk):
            part, texts = questions[at : at + self.chunk], shown[at : at + self.chunk]
            key = digest(
                by.key, [(q.qid, q.text) for q in part], texts, n, stream, self.seed, asdict(self.sampling),
                asdict(self.prompts),
            )  # fmt: skip
            drawn, cut = self._stored(key, functools.partial(self._sample, by, part, texts, n, stream, at))
            found += drawn
            self.cut[stream] += cut
        return found

    def _sample(
        self, by: Snapshot, questions: Sequence[Question], shown: Sequence[Sequence[str | None]], n: int, stream: str,
        at: int,
    ) -> Samples:  # fmt: skip
        self.use(by)
        logger.info("%s: %d questions from %d on, %d samples each", stream, len(questions), at, n)
        width = max(map(len, shown))
        ids = self._prompt_ids([(q.text, s) for q, row in zip(questions, shown, strict=True) for s in row])
        stems = self._prompt_ids([(q.text, None) for q, row in zip(questions, shown, strict=True) for _ in row])
        shape = (len(questions), width, n, self.sampling.max_new_tokens)
        u = uniforms(self.seed, f"{stream} from {at}", shape)
        u = np.concatenate([u[k, : len(row)] for k, row in enumerate(shown)])
        made = sample(
            self.model, ids, u, self.sampling, self.stops, stems=stems, batch_size=self.batch_size, reader=self._reader
        )  # fmt: skip
        self.drawn += len(made) * n
        flat = [row for rows in made for row in rows]
        texts = iter([text.strip() for text in self.tokenizer.batch_decode(flat, skip_special_tokens=True)])
        cut = iter([len(row) == self.sampling.max_new_tokens for row in flat])
        shares = [sum(next(cut) for _ in range(n * len(row))) / (n * len(row)) for row in shown]
        return [[[next(texts) for _ in range(n)] for _ in row] for row in shown], shares

    def _stored(self, key: str, make: Callable[[], Samples]) -> Samples:
        """What the file of ``key`` holds, made and written (whole or not at all) if there is none."""
        path = self.folder / "samples" / f"{key}.json"
        if path.is_file():
            try:
                drawn, cut = json.loads(path.read_text("utf-8"))
                return drawn, cut
            except ValueError as error:
                raise ReprobookError(f"samples/{path.name} cannot be read ({error}): delete it") from error
        made = make()
        atomic_write(path, json.dumps(made, ensure_ascii=False))
        return made


def _check_count(name: str, n: int) -> None:
    if n < 1:
        raise ReprobookError(f"{name} is {n}; it must be at least 1")
