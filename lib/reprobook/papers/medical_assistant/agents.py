"""Agents that speak for the planner and the caller: a language model with adapters, and retrieval with copying."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.augment import texts
from reprobook.papers.medical_assistant.decoding import Counts, Reader
from reprobook.papers.medical_assistant.entities import PATTERNS, found
from reprobook.papers.medical_assistant.environment import WHO
from reprobook.papers.medical_assistant.samples import AGENTS, interleave
from reprobook.papers.medical_assistant.scenarios import Trajectory

if TYPE_CHECKING:
    from reprobook.papers.medical_assistant.samples import Encoder

Draft = Callable[[Trajectory, str], str | None]


class Agent(Protocol):
    """Whoever can say the next turn of ``role`` after ``context``."""

    def respond(self, context: Trajectory, role: str) -> str:
        """What ``role`` says next."""


class LmAgent:
    """A language model. ``adapters``: role -> name of the adapter to switch to; None: the base with adapters off.

    ``models`` in place of ``model``: a model of its own for each role (small decoders without adapters).
    ``draft``: gives guesses of turns; they save time and never change what is said (:mod:`.decoding`)."""

    def __init__(
        self, encoder: Encoder, model: Any = None, adapters: Mapping[str, str] | None = None,
        models: Mapping[str, Any] | None = None, max_new_tokens: int = 100, draft: Draft | None = None,
    ) -> None:  # fmt: skip
        if (model is None) == (models is None):
            raise ReprobookError("LmAgent needs either model (with adapters) or models (one for each role)")
        self.encoder, self.adapters, self.max_new_tokens, self.draft = encoder, adapters, max_new_tokens, draft
        self.counts = Counts()
        self._models = dict(models) if models else dict.fromkeys(AGENTS, model)
        self._readers: dict[str, Reader] = {}

    def respond(self, context: Trajectory, role: str) -> str:
        """What the model says as ``role``, greedily; its own text, whatever it is."""
        model = self._models[role]
        if self.adapters is not None:
            model.set_adapter(self.adapters[role])
        key = self.adapters[role] if self.adapters is not None else f"model {id(model)}"
        reader = self._readers.setdefault(key, Reader(model, self.encoder.end, counts=self.counts))
        guess = self.draft(context, role) if self.draft else None
        draft = self.encoder.text(guess) if guess is not None else ()
        prompt = self.encoder.context(context, role)
        if self.adapters is None and hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                ids = reader.turn(prompt, self.max_new_tokens, draft)
        else:
            ids = reader.turn(prompt, self.max_new_tokens, draft)
        return self.encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()


def true_draft(trajectories: Sequence[Trajectory]) -> Draft:
    """The true next turn of sessions that began as one of ``trajectories`` and have followed it so far."""
    known = {(t.system, t.turns[0].text): t for t in trajectories}

    def guess(context: Trajectory, role: str) -> str | None:
        truth = known.get((context.system, context.turns[0].text))
        n = len(context.turns)
        if truth is None or len(truth.turns) <= n or truth.turns[n].role != role:
            return None
        return truth.turns[n].text

    return guess


class RetrievalAgent:
    """The baseline without a neural network: the training turn whose context is most similar (TF-IDF over the end of
    the session with entities masked), with its entities and symptoms replaced by those in the same places of the new
    context. Vectors come from scikit-learn."""

    def __init__(self, trajectories: Sequence[Trajectory], last: int = 4) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.last = last
        self._samples = {role: [s for t in trajectories for s in interleave(t, role)] for role in AGENTS}
        self._tfidf, self._vectors = {}, {}
        for role, samples in self._samples.items():
            if not samples:
                raise ReprobookError("RetrievalAgent needs training trajectories with turns of both agents")
            self._tfidf[role] = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True)
            self._vectors[role] = self._tfidf[role].fit_transform([self._key(s.context) for s in samples])

    def _key(self, context: Trajectory) -> str:
        """The end of a session, newest turn twice, with masked entities; the opening tells the scenario."""
        turns = [f"{turn.role} {turn.text}" for turn in context.turns]
        text = " ".join([turns[0], *turns[-self.last :], turns[-1], f"turns{len(turns)}"])
        return _mask(text)

    def respond(self, context: Trajectory, role: str) -> str:
        """The retrieved turn with copied entities."""
        scores = self._vectors[role] @ self._tfidf[role].transform([self._key(context)]).T
        best = self._samples[role][int(np.argmax(scores.toarray()))]
        return copy_entities(best.target, best.context, context)


def _phrases(text: str) -> list[tuple[str, str]]:
    """Symptoms and alarms in ``text``, each with its kind."""
    kinds = (("symptom", _SYMPTOM), ("alarm", _ALARM))
    return [(kind, match[0]) for kind, pattern in kinds for match in pattern.finditer(text)]


def _mask(text: str) -> str:
    for kind, pattern in PATTERNS.items():
        text = pattern.sub(f" {kind} ", text)
    return _ALARM.sub(" alarm ", _SYMPTOM.sub(" symptom ", text))


_ALARM = re.compile(r"(?:heart rate|blood oxygen) \d+ \S+ (?:at rest|in activity) is (?:below|above) \d+ (?:bpm|%)")
_SYMPTOM = re.compile("|".join(sorted(map(re.escape, [*WHO, "fever"]), key=len, reverse=True)))


def copy_entities(target: str, old: Trajectory, new: Trajectory) -> str:
    """``target`` with each entity exchanged: the value that is the k-th most recent of its kind in ``old`` becomes the
    k-th most recent of that kind in ``new`` (the oldest if there are fewer; unchanged if there are none)."""
    before, after = _recent(old), _recent(new)

    def other(kind: str, value: str) -> str:
        values = after.get(kind, [])
        if value not in before.get(kind, []) or not values:
            return value
        return values[min(before[kind].index(value), len(values) - 1)]

    for kind, pattern in [*PATTERNS.items(), ("symptom", _SYMPTOM), ("alarm", _ALARM)]:
        target = pattern.sub(lambda match, kind=kind: other(kind, match[0]), target)  # type: ignore[misc]
    return target


def _recent(context: Trajectory) -> dict[str, list[str]]:
    """Different values of each kind, most recent first."""
    kinds: dict[str, dict[str, None]] = {}
    for text in reversed(texts(context)):
        for kind, value in reversed([*_phrases(text), *found(text)]):
            kinds.setdefault(kind, {}).setdefault(value)
    return {kind: list(values) for kind, values in kinds.items()}
