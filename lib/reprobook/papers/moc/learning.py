"""Meta-chunkers that write (Section 3.2): a small language model tuned to emit the anchors of every chunk as JSON, a
router for the granularity of a text, and one expert for each granularity.

All are adapters of one model. They begin as copies of one that was trained for all (*shared*); the single chunker and
the mixture are then given the same number of updates.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.nn.chat import IGNORED, prompt_ids, stop_ids, training_examples
from reprobook.nn.completion import complete
from reprobook.nn.lm import add_lora
from reprobook.papers.moc.corpora import Segment, borders, document, pieces, windows
from reprobook.papers.moc.recovery import as_json, parsed, recovered, rendered, split
from reprobook.train import shuffled

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.nn.chat import Example, Messages
    from reprobook.papers.moc.corpora import Cuts, Document

PAPER_BOUNDS = (120.0, 150.0, 180.0)  # characters (Chinese): Section 3.2.2
N_CLASSES = 4
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_CHUNK = (
    "Split the text into chunks. Answer with a JSON list: of every chunk its first three words, {marker} and its last "
    "three words.\n\n{lines}"
)
_ROUTE = (
    "How long should the chunks of this text be? 0: very short, 1: short, 2: long, 3: very long. Answer with one "
    "number.\n\n{text}"
)


def granularity(mean_length: float, bounds: Sequence[float] = PAPER_BOUNDS) -> int:
    """Class 0 to 3 of a text by the mean length of its chunks; a bound belongs to the class below it."""
    if mean_length <= 0 or len(bounds) != N_CLASSES - 1 or sorted(bounds) != list(bounds):
        raise ReprobookError(
            f"mean length {mean_length} must be above 0 and bounds {list(bounds)} three rising numbers"
        )
    return int(np.searchsorted(bounds, mean_length, side="left"))


def mean_length(text: Document) -> float:
    """Mean characters of the true chunks."""
    return len(text.text) / (len(text.cuts) + 1)


# ------------------------------------------------------------------------------------------------ what is learned


def lessons(runs: Iterable[Sequence[Segment]], size: int) -> list[Document]:
    """Training texts of up to ``size`` characters: neighbouring segments of a run, from every one on; the last is cut
    behind its last sentence that fits, as a window cuts it. Texts with double quotes or backslashes, which JSON would
    escape, are left out, and so are texts of one chunk."""
    found: list[Document] = []
    for run in runs:
        for at, first in enumerate(run):
            part, used = list[Segment](), 0
            for each in run[at:]:
                ends = borders(each.text)[1:]
                fitting = ends[used + ends <= size]
                if not len(fitting):
                    break
                part.append(replace(each, text=each.text[: int(fitting[-1])].strip()))
                used += int(fitting[-1]) + 1
                if fitting[-1] < len(each.text):
                    break
            whole = document(f"{first.group}/{len(found)}", part) if len(part) > 1 else None
            if whole is not None and not set('"\\') & set(whole.text):
                found.append(whole)
    return found


def copying(lesson: Document, n: int, seed: int = 0) -> list[Document]:
    """The same text up to ``n`` times, each with other cuts at ends of sentences, drawn with probability 0.4: practice
    in copying anchors, without anything to learn about where to cut."""
    inner = lesson.sentences[1:-1]
    rng = np.random.default_rng([seed, len(lesson.text), *map(ord, lesson.text[:8])])
    drawn = dict.fromkeys(tuple(inner[row].tolist()) for row in rng.random((4 * n, len(inner))) < 0.4)
    return [replace(lesson, cuts=cuts, titles=("",) * (len(cuts) + 1)) for cuts in itertools.islice(drawn, n)]


def chunk_prompt(text: str, marker: str, words: int = 3) -> Messages:
    """The user's turn; the text stands there one sentence a line, which shows where chunks may end, with the marker
    before the last ``words`` words of each that has twice as many, which shows where the anchor of an end begins: a
    causal model that reads a word does not know yet that the sentence ends two words later."""
    lines = []
    for a, b in itertools.pairwise(borders(text)):
        told = text[a:b].strip()
        at = [match.start() for match in re.finditer(r"\S+", told)]
        lines.append(f"{told[: at[-words]]}{marker}{told[at[-words] :]}" if len(at) >= 2 * words else told)
    return [{"role": "user", "content": _CHUNK.format(marker=marker, lines="\n".join(lines))}]


def chunk_answer(text: Document, marker: str) -> str:
    """What the model is to write."""
    return as_json(rendered(pieces(text.text, text.cuts), marker, language=text.language))


def route_prompt(text: str) -> Messages:
    """The router's turn: what :func:`granularity` sorts by is asked for in words."""
    return [{"role": "user", "content": _ROUTE.format(text=text)}]


def batches(
    texts: Sequence[Document], examples: Callable[[Document], Sequence[Example]], batch_size: int, pad: int, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Batch i of epochs without replacement: what is drawn is a text, with all of its answers."""
    order = shuffled(len(texts), min(batch_size, len(texts)), seed=seed)
    return lambda i: side_by_side([examples(texts[k]) for k in order(i).tolist()], pad)


def side_by_side(rows: Sequence[Sequence[Example]], pad: int) -> dict[str, Tensor]:
    """A batch for :func:`answers_loss`: each row is a prompt, read once, and all answers to it that are given, one
    behind the other. No answer sees another one, and each goes on at the position where the prompt ends.

    ``input_ids``, ``labels`` and ``position_ids`` (B, longest), ``attention_mask`` (B, 1, longest, longest), true where
    a token sees. The first token of the second and later answers is not trained: it is that of the first."""
    parts: list[dict[str, Tensor]] = []
    for row in rows:
        n = row[0].labels.count(IGNORED)
        if any(each.ids[:n] != row[0].ids[:n] for each in row):
            raise ReprobookError("answers side by side must have the same prompt")
        tails = [each.ids[n:] for each in row]
        ids = [*row[0].ids[:n], *itertools.chain.from_iterable(tails)]
        labels = [IGNORED] * n + [t if k == 0 or at else IGNORED for k, tail in enumerate(tails)
                                  for at, t in enumerate(tail)]  # fmt: skip
        places = [*range(n), *(n + at for tail in tails for at in range(len(tail)))]
        owner = [0] * n + [k for k, tail in enumerate(tails, start=1) for _ in tail]
        parts.append({"input_ids": torch.tensor(ids), "labels": torch.tensor(labels),
                      "position_ids": torch.tensor(places), "owner": torch.tensor(owner)})  # fmt: skip
    fill = {"input_ids": pad, "labels": IGNORED, "position_ids": 0, "owner": 0}
    batch = {
        name: torch.nn.utils.rnn.pad_sequence([part[name] for part in parts], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }
    owners = batch.pop("owner")
    seen = (owners[:, None] == 0) | (owners[:, None] == owners[:, :, None])
    return {**batch, "attention_mask": torch.tril(seen)[:, None]}


def answers_loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood (nats) of the labelled tokens of :func:`side_by_side`; logits are made only where a
    row has a label."""
    targets = batch["labels"][:, 1:]
    columns = (targets != IGNORED).any(0).nonzero().flatten()
    out = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"],
        logits_to_keep=columns, use_cache=False,
    )  # fmt: skip
    return F.cross_entropy(out.logits.flatten(0, 1).float(), targets[:, columns].flatten(), ignore_index=IGNORED)


# ------------------------------------------------------------------------------------------------ the models


@dataclass(frozen=True)
class Tuning:
    """Rank of the adapters, which stand in the layers from ``first_layer`` on (those below keep nothing for the way
    back: less time and memory); texts of an update and ``copies``, answers of practice to a text; updates of the shared
    adapter, then of the single chunker; of the router, and of each expert (0: no mixture). A mixture and the single
    chunker are given the same updates: ``single = router + 4 * expert``."""

    rank: int = 32
    lr: float = 5.0e-4
    batch_size: int = 4
    copies: int = 4
    shared: int = 300
    single: int = 160
    router: int = 40
    expert: int = 30
    first_layer: int = 0

    def __post_init__(self) -> None:
        if self.mixture and self.single != self.router + N_CLASSES * self.expert:
            raise ReprobookError(
                f"single ({self.single}) must be router + {N_CLASSES} experts ({self.router} + {N_CLASSES} x "
                f"{self.expert}): equal updates"
            )

    @property
    def mixture(self) -> bool:
        """Whether there is one."""
        return bool(self.router or self.expert)


class Written(NamedTuple):
    """What a chunker made of texts: cuts, the replies, which of them were a list, share of anchors that stand in the
    text (NaN where there is no list), and tokens written."""

    cuts: list[Cuts]
    replies: list[str]
    valid: np.ndarray
    copied: np.ndarray
    tokens: np.ndarray


class MetaChunkers:
    """One language model with an adapter for each role: ``shared``, ``single``, ``router``, ``expert 0`` to ``3``.

    ``fit`` is :meth:`reprobook.chapter.Chapter.fit`; ``bounds`` are the borders of the four granularities, characters;
    ``max_new_tokens`` of a reply (paper: 1,280)."""

    def __init__(
        self, model: Any, tokenizer: Any, marker: str, tuning: Tuning, *, fit: Callable[..., Any], seed: int,
        bounds: Sequence[float] = PAPER_BOUNDS, max_new_tokens: int = 160,
    ) -> None:  # fmt: skip
        more = ["router", *(f"expert {k}" for k in range(N_CLASSES))] if tuning.mixture else []
        self.roles = ["shared", "single", *more]
        names = [self._name(role) for role in self.roles]
        layers = range(model.config.num_hidden_layers)
        if tuning.first_layer not in layers:
            raise ReprobookError(f"first_layer is {tuning.first_layer}; it must be one of 0 to {layers[-1]}")
        self.model = add_lora(
            model, names, r=tuning.rank, lora_alpha=2 * tuning.rank, target_modules=list(TARGETS),
            layers_to_transform=list(layers[tuning.first_layer :]),
        )  # fmt: skip
        self.tokenizer, self.marker, self.tuning, self.fit, self.seed = tokenizer, marker, tuning, fit, seed
        self.bounds, self.max_new_tokens = tuple(bounds), max_new_tokens
        self.stops = stop_ids(model, tokenizer)

    @staticmethod
    def _name(role: str) -> str:
        return role.replace(" ", "_")  # of an adapter

    def use(self, role: str) -> None:
        """Make the adapter of ``role`` the active one, and the only one that can be trained."""
        self.model.set_adapter(self._name(role))
        self.model.eval()

    def train(self, role: str, texts: Sequence[Document], steps: int, begin: str | None = None) -> Any:
        """Tune one adapter on the true chunks (router: classes; shared: chunks drawn at random) of ``texts``, from a
        copy of ``begin``'s weights."""
        self.use(role)
        if begin is not None:
            weights = dict(self.model.named_parameters())
            with torch.no_grad():
                for name, p in weights.items():
                    if f".{self._name(role)}." in name:
                        p.copy_(weights[name.replace(f".{self._name(role)}.", f".{self._name(begin)}.")])
        examples, pad = functools.partial(self._examples, role), self.tokenizer.pad_token_id or 0
        history = self.fit(
            role, self.model, batches(texts, examples, self.tuning.batch_size, pad, self.seed), answers_loss,
            num_steps=steps, lr=self.tuning.lr, schedule="cosine", warmup_steps=max(1, steps // 10), precision="auto",
        )  # fmt: skip
        self.use(role)
        return history

    def _examples(self, role: str, text: Document) -> list[Example]:
        if role == "router":
            prompt, answers = route_prompt(text.text), [str(granularity(mean_length(text), self.bounds))]
        else:
            told = copying(text, self.tuning.copies, self.seed) if role == "shared" else [text]
            prompt, answers = chunk_prompt(text.text, self.marker), [chunk_answer(each, self.marker) for each in told]
        return training_examples(self.tokenizer, [prompt] * len(answers), answers, self.stops)

    def train_all(self, texts: Sequence[Document]) -> dict[str, Any]:
        """Shared, in copying anchors; then single, router and experts. An expert sees the texts of its class (all of
        them if there are fewer than a batch). Returns the histories."""
        t, classes = self.tuning, [granularity(mean_length(each), self.bounds) for each in texts]
        told = {
            "shared": self.train("shared", texts, t.shared),
            "single": self.train("single", texts, t.single, "shared"),
        }
        if t.mixture:
            told["router"] = self.train("router", texts, t.router, "shared")
        for k in range(N_CLASSES) if t.mixture else ():
            own = [text for text, each in zip(texts, classes, strict=True) if each == k]
            own = own if len(own) >= t.batch_size else list(texts)
            told[f"expert {k}"] = self.train(f"expert {k}", own, t.expert, "shared")
        return told

    @torch.no_grad()
    def route(self, texts: Sequence[str]) -> np.ndarray:
        """Equation 5: the most probable of the four class tokens, (n,)."""
        self.use("router")
        labels = [self.tokenizer(str(k), add_special_tokens=False).input_ids[-1] for k in range(N_CLASSES)]
        found = []
        for ids in prompt_ids(self.tokenizer, [route_prompt(text) for text in texts]):
            x = torch.tensor([ids], device=self.model.device)
            found.append(int(self.model(input_ids=x, logits_to_keep=1).logits[0, -1, labels].argmax()))
        return np.array(found, dtype=int)

    def write(self, texts: Sequence[str], role: str, batch_size: int = 16) -> Written:
        """Chunk short texts, greedily, with one adapter; a reply that is no list leaves its text in one chunk."""
        self.use(role)
        prompts = [chunk_prompt(text, self.marker) for text in texts]
        replies = complete(
            self.model, self.tokenizer, prompts, max_new_tokens=self.max_new_tokens, batch_size=batch_size
        )
        return read_back(texts, replies, self.marker, self.tokenizer)

    def split_single(self, texts: list[str]) -> list[Cuts]:
        """The single chunker, for :func:`reprobook.papers.moc.corpora.windows`."""
        return self.write(texts, "single").cuts

    def split_mixture(self, texts: list[str]) -> list[Cuts]:
        """The mixture: each text goes to the expert that the router names."""
        found: list[Cuts] = [()] * len(texts)
        classes = self.route(texts)
        for k in sorted(set(classes.tolist())):
            rows = np.flatnonzero(classes == k).tolist()
            for row, cuts in zip(rows, self.write([texts[row] for row in rows], f"expert {k}").cuts, strict=True):
                found[row] = cuts
        return found

    def cut(self, texts: Sequence[str], mixture: bool, size: int) -> list[Cuts]:
        """Cuts of long texts by a sliding window of ``size`` characters with the chunk buffer."""
        return windows(texts, size, self.split_mixture if mixture else self.split_single)


def read_back(texts: Sequence[str], replies: Sequence[str], marker: str, tokenizer: Any) -> Written:
    """Replies as cuts (robust recovery), with what the gate asks for."""
    lists = [parsed(reply) for reply in replies]
    cuts = [recovered(text, elements, marker) if elements else () for text, elements in zip(texts, lists, strict=True)]
    copied = [copied_share(text, elements, marker) for text, elements in zip(texts, lists, strict=True)]
    tokens = [len(tokenizer(reply, add_special_tokens=False).input_ids) for reply in replies]
    valid = np.array([elements is not None for elements in lists], dtype=float)
    return Written(cuts, list(replies), valid, np.array(copied), np.array(tokens))


def copied_share(text: str, elements: Sequence[str] | None, marker: str) -> float:
    """Share of the anchors that stand in the text letter by letter; an element without a marker is one anchor."""
    if not elements:
        return float("nan")
    anchors = [part.strip() for each in elements for part in (split(each, marker) if marker in each else (each,))]
    return float(np.mean([bool(part) and part in text for part in anchors]))
