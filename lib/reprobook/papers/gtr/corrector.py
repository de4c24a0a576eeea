"""The corrector: judges the thought of every step and repairs it; exact, with a stated rate of mistakes.

It sees the table, the agent's thought, the formula so far and the formula that the episode aims at. A misreading lasts
for the whole episode: the corrector then judges and corrects by the wrong card, consistently. Where the cards that it
believes in make no formula, it believes in one that it has got wrong as well.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.gtr.formulas import completions, is_formula, next_symbol, symbols
from reprobook.papers.gtr.games import BLANK, advice
from reprobook.papers.gtr.language import Thought

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reprobook.papers.gtr.games import Game

Word = Literal["yes", "no", "impossible", "failed", "unread"]


class Verdict(NamedTuple):
    """What the corrector says of a thought, and the corrected thought after a no."""

    word: Word
    thought: Thought | None = None


@dataclass(frozen=True)
class Ability:
    """``tool``: it may ask the exact solver; without, it repairs cards and next symbol, and takes any formula of the
    right cards for right. ``noise``: share of episodes in which it misreads a card. ``failing``: share of calls that
    fail or time out; such a step is kept without correction, and counted."""

    tool: bool = True
    noise: float = 0.0
    failing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("noise", "failing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ReprobookError(f"corrector: {name} is {getattr(self, name)}; it must be from 0 to 1")


class Corrector:
    """A corrector of B tables. ``said`` counts its verdicts."""

    def __init__(self, ability: Ability, game: Game, rng: np.random.Generator) -> None:
        self.ability, self.game, self.rng = ability, game, rng
        n = game.n_tables
        self.seen: list[tuple[int, ...]] = [()] * n
        self.aims: list[str | None] = [None] * n  # None: not determined
        self.said: Counter[str] = Counter()
        self._misread, self._place, self._shift = np.zeros(n, dtype=bool), np.zeros(n), np.zeros(n, dtype=np.int64)
        self._belief = np.zeros(n)
        self.begin(np.ones(n, dtype=bool))

    def begin(self, tables: np.ndarray) -> None:
        """A new episode on the ``tables`` (mask): draw its mistake; nothing is aimed at yet."""
        k = int(tables.sum())
        self._misread[tables] = self.rng.random(k) < self.ability.noise
        self._place[tables], self._shift[tables] = self.rng.random(k), self.rng.integers(0, 9, k)
        self._belief[tables] = self.rng.random(k)
        for row in np.flatnonzero(tables):
            self.aims[row] = None
        self._look(tables)

    def _look(self, tables: np.ndarray) -> None:
        ranks = self.game.ranks()
        for row in np.flatnonzero(tables):
            numbers = numbers_on(ranks[row])
            if self._misread[row]:
                at = int(self._place[row] * len(numbers))
                allowed = range(6) if self.game.name == "NumberLine" else range(1, 11)
                others = [number for number in allowed if number != numbers[at]]
                numbers[at] = others[self._shift[row] % len(others)]
            self.seen[row] = tuple(numbers)

    def judge(self, thoughts: Sequence[Thought | None]) -> list[Verdict]:
        """A verdict for each table's thought (None: the response was not well-formed)."""
        if not self.game.has_formula:  # there the numbers change within an episode
            self._look(np.ones(self.game.n_tables, dtype=bool))
        failed = self.rng.random(len(thoughts)) < self.ability.failing
        choice = self.rng.random(len(thoughts))
        texts, targets = self.game.texts(), self.game.targets()
        found = []
        for row, thought in enumerate(thoughts):
            if thought is None:
                verdict = Verdict("unread")
            elif failed[row]:
                verdict = Verdict("failed")
            elif self.game.has_formula:
                verdict = self._formula(row, thought, texts[row], int(targets[row]), float(choice[row]))
            else:
                right = Thought(self.seen[row], "", advice(self.game, self.seen[row]))
                verdict = Verdict("yes") if thought == right else Verdict("no", right)
            self.said[verdict.word] += 1
            found.append(verdict)
        return found

    def _formula(self, row: int, thought: Thought, begun: str, target: int, choice: float) -> Verdict:
        seen, aim = self.seen[row], self.aims[row]
        possible = self._possible(row, target, begun, thought, choice)
        fits = thought.formula == aim if aim is not None else thought.formula in possible
        same_cards = sorted(min(card, 10) for card in thought.cards) == sorted(seen)
        if fits and same_cards and thought.next == next_symbol(thought.formula, begun):
            self.aims[row] = thought.formula
            return Verdict("yes")
        if aim is None or next_symbol(aim, begun) is None:
            if not possible:
                return Verdict("impossible")
            # its own wish, if that is among the ways; else one of the shortest
            aim = thought.formula if thought.formula in possible else _one_of_the_shortest(possible, choice)
        self.aims[row] = aim
        onward = next_symbol(aim, begun)
        assert onward is not None
        return Verdict("no", Thought(seen, aim, onward))

    def _possible(self, row: int, target: int, begun: str, thought: Thought, choice: float) -> tuple[str, ...]:
        """Formulas that it believes to lead on. With the tool all that do. Without, the thought's own if it uses the
        cards, whatever it equals. Where these are none (with the tool: after a misreading), a guess: the cards in a
        random order with random signs."""
        seen, operators = self.seen[row], [op for op in "+-*/" if op in self.game.actions]
        if self.ability.tool:
            ways = ways_on(seen, target, begun, self.game.actions)
            return ways if ways or not self._misread[row] else _guess(seen, begun, operators, float(self._belief[row]))
        if next_symbol(thought.formula, begun) is not None and _uses(thought.formula, seen):
            return (thought.formula,)
        return _guess(seen, begun, operators, choice)

    def prefix_of_aim(self) -> np.ndarray:
        """Whether each table's formula still leads to the formula aimed at (B,); True where there is no aim."""
        pairs = zip(self.aims, self.game.texts(), strict=True)
        return np.array([aim is None or next_symbol(aim, text) is not None for aim, text in pairs])


def numbers_on(ranks: np.ndarray) -> list[int]:
    """The numbers that the ranks of a table (n,) count, without blanks."""
    return [min(int(rank), 10) for rank in ranks if rank != BLANK]


@lru_cache(maxsize=100_000)
def ways_on(cards: tuple[int, ...], target: int, begun: str, actions: tuple[str, ...]) -> tuple[str, ...]:
    """The solver's formulas that begin with ``begun`` and hold nothing that the game has no action for."""
    ways = completions(tuple(sorted(cards)), target, begun)
    return tuple(way for way in ways if set(symbols(way)) <= set(actions))


def _one_of_the_shortest(formulas: Sequence[str], choice: float) -> str:
    short = [each for each in formulas if len(each) == len(formulas[0])]
    return short[int(choice * len(short))]


def _uses(formula: str, cards: Sequence[int]) -> bool:
    numbers = [int(symbol) for symbol in symbols(formula) if symbol.isdigit()]
    return sorted(numbers) == sorted(cards) and is_formula(formula, len(cards))


def _guess(cards: Sequence[int], begun: str, operators: Sequence[str], choice: float) -> tuple[str, ...]:
    """One random formula over the cards that begins with ``begun``, if that has no brackets and no blanks."""
    rng = np.random.default_rng(int(choice * 2**32))
    written = symbols(begun)
    numbers = [int(symbol) for symbol in written if symbol.isdigit()]
    left = list((Counter(cards) - Counter(numbers)).elements())
    regular = all(symbol.isdigit() == (k % 2 == 0) for k, symbol in enumerate(written))
    if (
        "".join(written) != begun
        or not regular
        or "(" in written
        or ")" in written
        or len(left) + len(numbers) != len(cards)
    ):
        return ()
    for card in rng.permutation(left):
        if written and written[-1].isdigit():
            written.append(operators[int(rng.integers(len(operators)))])
        written.append(str(int(card)))
    return ("".join(written),) if not written[-1:] or written[-1].isdigit() else ()
