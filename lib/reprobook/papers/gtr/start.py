"""The supervised start: noisy demonstrations of thoughts and actions, so that success is low and not zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as f

from reprobook.errors import ReprobookError
from reprobook.papers.gtr.corrector import numbers_on, ways_on
from reprobook.papers.gtr.formulas import outcome, symbols
from reprobook.papers.gtr.games import advice
from reprobook.papers.gtr.language import Thought
from reprobook.papers.gtr.policy import Eye, Shape, token_logp
from reprobook.papers.gtr.ppo import Correction

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from reprobook.papers.gtr.cards import Handwriting
    from reprobook.papers.gtr.games import Game
    from reprobook.papers.gtr.language import Language


@dataclass(frozen=True)
class Noise:
    """Shares of wrong demonstrations, independent of each other: ``cards`` name a wrong card; ``formulas`` aim at
    a formula of the same cards that misses the target; ``symbols`` continue with any symbol but the right one."""

    cards: float = 0.1
    formulas: float = 0.5
    symbols: float = 0.4

    def __post_init__(self) -> None:
        for name in ("cards", "formulas", "symbols"):
            if not 0 <= getattr(self, name) <= 1:
                raise ReprobookError(f"noise: {name} is {getattr(self, name)}; it must be from 0 to 1")


HIGHEST = 13  # rank of a king


class Reader(nn.Module):
    """An eye beside the words of the policy: before anything else it learns which word a picture shows, as CLIP's
    pretraining would bring that along."""

    def __init__(self, language: Language, width: int) -> None:
        super().__init__()
        self.eye, self.words = Eye(width), nn.Embedding(len(language), width)
        self.register_buffer("numbers", torch.tensor([language.ids[str(k)] for k in range(11)]))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, 11) of the numbers 0 to 10 for pictures (B, 2, 28, 28)."""
        words = self.words(self.numbers)
        return self.eye(pictures) @ words.T / words.shape[1] ** 0.5


def shown(writing: Handwriting, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Picture places (n, 2) of ``n`` random ranks from 0 to 13, and the numbers that they count (n,)."""
    ranks = rng.integers(0, HIGHEST + 1, n)
    return torch.from_numpy(writing.pick(ranks, rng)), torch.from_numpy(np.minimum(ranks, 10))


def reading_loss(reader: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of the number that each picture shows."""
    pictures, numbers = batch
    return f.cross_entropy(reader(pictures), numbers)


@torch.no_grad()
def read_right(reader: Reader, writing: Handwriting, n: int, seed: int) -> np.ndarray:
    """Whether each of ``n`` numbers, in the handwriting given, is read right (n,), as 0 or 1."""
    places, numbers = shown(writing, n, np.random.default_rng(seed))
    return (reader(writing.draw(places)).argmax(1) == numbers).float().numpy()


def shape_of(game: Game, language: Language, width: int, n_layers: int) -> Shape:
    """Sizes of a policy for a game: room for its longest prompt and response."""
    room = prompt_room(game)
    n_new = 2 * game.n_places + (2 * game.n_places + 3 if game.has_formula else 0) + 8 if language.thinks else 5
    return Shape(game.n_places, 2 + room, n_new, len(language), width, n_layers)


def prompt_room(game: Game) -> int:
    """Symbols of the longest formula that a prompt must show."""
    return getattr(game, "most", 0) + 1


def demonstrations(
    game: Game, language: Language, writing: Handwriting, noise: Noise, rng: np.random.Generator
) -> Correction:
    """One demonstration a table of ``game``, at a random point of a right way; labels are the whole response.

    Some are wrong, see :class:`Noise`. Hands without a solution are left out."""
    ranks, targets = game.ranks(), game.targets()
    rows, texts, told = [], [], []
    for row in range(game.n_tables):
        seen = tuple(numbers_on(ranks[row]))
        found = _along(game, seen, int(targets[row]), noise.formulas, rng)
        if found is None:
            continue
        begun, formula, onward = found
        cards = list(seen)
        if rng.random() < noise.cards:
            cards[int(rng.integers(len(cards)))] = int(rng.integers(1, 11))
        if rng.random() < noise.symbols:
            wrong = [action for action in game.actions if action != onward]
            onward = wrong[int(rng.integers(len(wrong)))]
        rows.append(row)
        texts.append(begun)
        told.append(language.encode(Thought(tuple(cards), formula, onward), onward))
    if not rows:
        raise ReprobookError("no hand that was dealt has a solution: there is nothing to demonstrate")
    ids = language.prompts(texts, targets[rows], prompt_room(game))
    width = max(map(len, told))
    response = torch.tensor([each + [0] * (width - len(each)) for each in told])
    labels = torch.where(response == 0, -100, response)
    return Correction(torch.from_numpy(writing.pick(ranks[rows], rng)), torch.from_numpy(ids), response, labels)


def _along(
    game: Game, seen: tuple[int, ...], target: int, noise: float, rng: np.random.Generator
) -> tuple[str, str, str] | None:
    """Formula so far, formula aimed at, next symbol; None where the hand has no solution."""
    if not game.has_formula:
        return "", "", advice(game, seen)
    ways = ways_on(seen, target, "", game.actions)
    if not ways:
        return None
    short = [way for way in ways if len(way) == len(ways[0])]
    way = symbols(short[int(rng.integers(len(short)))])
    if rng.random() < noise:
        way = _missing(way, seen, target, [op for op in "+-*/" if op in game.actions], rng)
    at = int(rng.integers(len(way) + 1))
    return "".join(way[:at]), "".join(way), way[at] if at < len(way) else "="


def _missing(
    way: list[str], seen: tuple[int, ...], target: int, operators: list[str], rng: np.random.Generator
) -> list[str]:
    """A formula of the same numbers and brackets that misses the target: numbers and operators drawn until it does."""
    while True:
        mixed = iter(rng.permutation(seen))
        found = [str(int(next(mixed))) if s.isdigit() else s for s in way]
        found = [operators[int(rng.integers(len(operators)))] if s in operators else s for s in found]
        if outcome("".join(found), target, len(seen)) is None:
            return found


def batches(
    data: Correction, order: Callable[[int], Tensor], writing: Handwriting
) -> Callable[[int], tuple[Tensor, ...]]:
    """Number of an update -> pictures, prompts and responses, in the training loop's order of epochs."""

    def batch(step: int) -> tuple[Tensor, ...]:
        part = data.rows(order(step))
        return writing.draw(part.places), part.prompt, part.response

    return batch


def imitation_loss(model: nn.Module, batch: Any) -> Tensor:
    """Mean negative log-likelihood of the responses' tokens."""
    pictures, prompt, response = batch
    logits, _ = model(pictures, prompt, response)
    return -token_logp(logits, response).sum() / (response != 0).sum()
