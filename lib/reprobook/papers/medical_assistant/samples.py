"""From trajectories to training samples: interleaving, token ids, labels on the target turn only.

A planner's sample is a planner turn given everything before it; a caller's sample has the current planner turn in its
input as well. All samples of a trajectory begin alike, so they can be read at once: one sequence with several target
turns has, summed over its targets, exactly the loss of its samples one by one (the model is causal).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.scenarios import ROLES
from reprobook.papers.medical_assistant.tools import find_specs, short_list

if TYPE_CHECKING:
    from reprobook.papers.medical_assistant.scenarios import Trajectory

AGENTS = ("Planner", "Caller")
IGNORED = -100  # label of a token that is not trained


@dataclass(frozen=True)
class Sample:
    """``context``: the trajectory with the turns before the target only; ``role`` speaks next."""

    role: str
    context: Trajectory
    target: str


def interleave(trajectory: Trajectory, role: str) -> list[Sample]:
    """The samples of one agent: one for each of its turns."""
    if role not in AGENTS:
        raise ReprobookError(f"role {role!r} has no samples; agents: {', '.join(AGENTS)}")
    turns = trajectory.turns
    return [
        Sample(role, replace(trajectory, turns=turns[:i]), turn.text)
        for i, turn in enumerate(turns) if turn.role == role
    ]  # fmt: skip


def prompt_text(context: Trajectory, full: bool = False) -> str:
    """What stands before the turns: user details and tools, in short or (``full``) as the paper's dictionaries."""
    tools = short_list(context.tools)
    if full:
        tools = "\n".join(repr(find_specs(name)[0].schema()) for name in context.tools)
    return f"System: {context.system}\nTools: {tools}"


class Encoder:
    """Token ids of prompts and targets. Every turn is tokenised alone and ends with the tokenizer's end token, so the
    ids of a context are a prefix of the ids of every later one. ``full``: the tools as whole dictionaries."""

    def __init__(self, tokenizer: Any, max_tokens: int = 4096, full: bool = False) -> None:
        if tokenizer.eos_token_id is None:
            raise ReprobookError("the tokenizer has no end token, which every turn needs")
        self.tokenizer, self.end, self.max_tokens = tokenizer, int(tokenizer.eos_token_id), max_tokens
        self.full = full
        self._tags = {role: self._ids(f"\n{role}:") for role in ROLES}
        self._known: dict[str, list[int]] = {}

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def text(self, text: str) -> list[int]:
        """Ids of one turn's text with the end token."""
        self._learn([text])
        return self._known[text]

    def _learn(self, texts: Sequence[str]) -> None:
        """Tokenise what is new of ``texts``, all at once; equal texts are tokenised once."""
        if len(self._known) > 50_000:
            self._known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            ids = self.tokenizer(new, add_special_tokens=False).input_ids
            self._known |= {text: [*each, self.end] for text, each in zip(new, ids, strict=True)}

    def context(self, context: Trajectory, role: str) -> list[int]:
        """Ids of a prompt after which ``role`` speaks."""
        ids = self._ids(prompt_text(context, self.full))
        self._learn([turn.text for turn in context.turns])
        for turn in context.turns:
            ids += self._tags[turn.role] + self.text(turn.text)
        return self._fitting(ids + self._tags[role])

    def packed(self, trajectory: Trajectory, roles: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of a whole trajectory, and labels: the ids in turns of ``roles`` (end token included), :data:`IGNORED`
        elsewhere. Whatever follows the last target is left out."""
        ids = self._ids(prompt_text(trajectory, self.full))
        labels = [IGNORED] * len(ids)
        self._learn([turn.text for turn in trajectory.turns])
        last = max((i for i, turn in enumerate(trajectory.turns) if turn.role in roles), default=-1)
        for turn in trajectory.turns[: last + 1]:
            tag, text = self._tags[turn.role], self.text(turn.text)
            ids += tag + text
            labels += [IGNORED] * len(tag) + (text if turn.role in roles else [IGNORED] * len(text))
        return self._fitting(ids), labels

    def _fitting(self, ids: list[int]) -> list[int]:
        """Cutting off the beginning would cut the tools first, so a session that is too long is an error."""
        if len(ids) > self.max_tokens:
            raise ReprobookError(f"a session has {len(ids)} tokens; the limit is max_tokens = {self.max_tokens}")
        return ids
