"""Augmentation of trajectories: other names, dates, times and ids, the same everywhere, and tools in another order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reprobook.papers.medical_assistant.entities import KINDS, PATTERNS, POOLS, by_time, found
from reprobook.papers.medical_assistant.scenarios import with_tools

if TYPE_CHECKING:
    import numpy as np

    from reprobook.papers.medical_assistant.scenarios import Trajectory


def texts(trajectory: Trajectory) -> list[str]:
    """Everything in a trajectory that may hold an entity."""
    return [trajectory.system, *(turn.text for turn in trajectory.turns)]


def mapping(trajectory: Trajectory, rng: np.random.Generator, pool: str = "wide") -> dict[str, str]:
    """A random new value for every entity of ``trajectory``, from ``pool``; no new value is an old one.

    Dates and times keep their order: what was past stays past, and a slot stays inside the hours that the user gave."""
    old: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for text in texts(trajectory):
        for kind, value in found(text):
            old[kind].add(value)
    made: dict[str, str] = {}
    for kind, values in old.items():
        new = POOLS[pool].draw(kind, len(values), rng, frozenset(values))
        if kind in ("date", "time"):
            new = sorted(new, key=lambda value: by_time(kind, value))
        made.update(zip(sorted(values, key=lambda value: by_time(kind, value)), new, strict=True))
    return made


def rename(trajectory: Trajectory, names: dict[str, str]) -> Trajectory:
    """The trajectory with every entity replaced as ``names`` says, in one pass: system line, reasons, actions,
    parameters and observations."""

    def renamed(text: str) -> str:
        for pattern in PATTERNS.values():  # kinds do not overlap, so their order is free
            text = pattern.sub(lambda match: names[match[0]], text)
        return text

    turns = tuple(replace(turn, text=renamed(turn.text)) for turn in trajectory.turns)
    return replace(trajectory, system=renamed(trajectory.system), turns=turns)


def shuffle_tools(trajectory: Trajectory, rng: np.random.Generator) -> Trajectory:
    """The same tools in a random order."""
    return with_tools(trajectory, [trajectory.tools[i] for i in rng.permutation(len(trajectory.tools))])


def augment(
    trajectory: Trajectory, rng: np.random.Generator, entities: bool = True, tools: bool = True, pool: str = "wide"
) -> Trajectory:
    """Both changes; each can be left out."""
    if entities:
        trajectory = rename(trajectory, mapping(trajectory, rng, pool))
    return shuffle_tools(trajectory, rng) if tools else trajectory
