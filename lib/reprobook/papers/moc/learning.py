"""Meta-chunkers that write (Section 3.2): a small language model tuned to emit the anchors of every chunk as JSON, a
router for the granularity of a text, and one expert for each granularity.

All are adapters of one model. They begin as copies of one that was trained for all (*shared*); the single chunker and
the mixture are then given the same number of updates.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.nn.chat import collate, masked_loss, prompt_ids, stop_ids, training_examples
from reprobook.nn.completion import complete
from reprobook.nn.lm import add_lora
from reprobook.papers.moc.corpora import Segment, borders, document, pieces, windows
from reprobook.papers.moc.recovery import as_json, parsed, recovered, rendered, split
from reprobook.train import shuffled

if TYPE_CHECKING:
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


def lessons(paragraphs: Sequence[Segment], size: int, longest: int = 60) -> list[Document]:
    """Training texts of up to ``size`` characters: neighbouring paragraphs of at most ``longest`` words of one article,
    from every paragraph on; the last is cut behind its last sentence that fits, as a window cuts it. Texts with double
    quotes or backslashes, which JSON would escape, are left out, and so are texts of one chunk."""
    found = []
    for at, first in enumerate(paragraphs):
        part, used, k = [first], len(first.text) + 1, at + 1
        while k < len(paragraphs) and used < size and _runs_on(paragraphs[k - 1], paragraphs[k], longest):
            ends = borders(paragraphs[k].text)
            fitting = ends[(ends > 0) & (used + ends <= size)]
            if not len(fitting):
                break
            part.append(Segment(paragraphs[k].title, paragraphs[k].text[: int(fitting[-1])].strip(), part[0].group))
            used += int(fitting[-1]) + 1
            k += 1
        whole = document(f"{part[0].group}/{at}", part)
        if len(part) > 1 and len(whole.text) <= size and not set('"\\') & set(whole.text):
            found.append(whole)
    return found


def copying(lesson: Document, seed: int = 0) -> Document:
    """The same text with cuts at ends of sentences drawn at random, each with probability 0.4: practice in copying
    anchors, without anything to learn about where to cut."""
    inner = lesson.sentences[1:-1]
    drawn = np.random.default_rng([seed, len(lesson.text), *map(ord, lesson.text[:8])]).random(len(inner)) < 0.4
    cuts = tuple(inner[drawn].tolist())
    return replace(lesson, cuts=cuts, titles=("",) * (len(cuts) + 1))


def _runs_on(before: Segment, after: Segment, longest: int) -> bool:
    return before.group == after.group and max(len(each.text.split()) for each in (before, after)) <= longest


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


def batches(examples: Sequence[Example], batch_size: int, pad: int, seed: int) -> Callable[[int], Mapping[str, Any]]:
    """Batch i of epochs without replacement."""
    order = shuffled(len(examples), min(batch_size, len(examples)), seed=seed)
    return lambda i: collate([examples[k] for k in order(i).tolist()], pad)


# ------------------------------------------------------------------------------------------------ the models


@dataclass(frozen=True)
class Tuning:
    """Rank of the adapters, which stand in the layers from ``first_layer`` on (those below keep nothing for the way
    back: less time and memory); updates of the shared adapter, then of the single chunker; of the router, and of each
    expert. Single and mixture are given the same updates if ``single = router + 4 * expert``."""

    rank: int = 32
    lr: float = 5.0e-4
    batch_size: int = 4
    shared: int = 300
    single: int = 160
    router: int = 40
    expert: int = 30
    first_layer: int = 0

    def __post_init__(self) -> None:
        if self.single != self.router + N_CLASSES * self.expert:
            raise ReprobookError(
                f"single ({self.single}) must be router + {N_CLASSES} experts ({self.router} + {N_CLASSES} x "
                f"{self.expert}): equal updates"
            )


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
        self.roles = ["shared", "single", "router", *(f"expert {k}" for k in range(N_CLASSES))]
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
        """Tune one adapter on the true chunks (router: classes) of ``texts``, from a copy of ``begin``'s weights."""
        self.use(role)
        if begin is not None:
            weights = dict(self.model.named_parameters())
            with torch.no_grad():
                for name, p in weights.items():
                    if f".{self._name(role)}." in name:
                        p.copy_(weights[name.replace(f".{self._name(role)}.", f".{self._name(begin)}.")])
        if role == "router":
            prompts = [route_prompt(each.text) for each in texts]
            answers = [str(granularity(mean_length(each), self.bounds)) for each in texts]
        else:
            prompts = [chunk_prompt(each.text, self.marker) for each in texts]
            answers = [chunk_answer(each, self.marker) for each in texts]
        examples = training_examples(self.tokenizer, prompts, answers, self.stops)
        pad = self.tokenizer.pad_token_id or 0
        history = self.fit(
            role, self.model, batches(examples, self.tuning.batch_size, pad, self.seed), masked_loss, num_steps=steps,
            lr=self.tuning.lr, schedule="cosine", warmup_steps=max(1, steps // 10), precision="auto",
        )  # fmt: skip
        self.use(role)
        return history

    def train_all(self, texts: Sequence[Document], practice: Sequence[Document]) -> dict[str, Any]:
        """Shared, on ``practice`` in copying anchors; then single, router and experts on ``texts``. An expert sees the
        texts of its class (all of them if there are fewer than a batch). Returns the histories."""
        t, classes = self.tuning, [granularity(mean_length(each), self.bounds) for each in texts]
        told = {"shared": self.train("shared", [copying(each, self.seed) for each in practice], t.shared)}
        told["single"] = self.train("single", texts, t.single, "shared")
        told["router"] = self.train("router", texts, t.router, "shared")
        for k in range(N_CLASSES):
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
