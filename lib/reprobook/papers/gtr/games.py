"""The card games, many tables at once, with the rules of the released environment.

A game of B tables keeps its state in arrays. ``step`` takes one action a table and gives rewards and ends; whoever
plays deals anew with ``deal``. What a player sees are ``ranks``, drawn as handwritten numbers, and ``texts``.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.gtr.formulas import KINDS, outcome, solve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BLANK = -1  # a place of the picture with nothing on it
ALFWORLD = "ALFWorld"  # text games at the paper's scale, see homes.py


class Step(NamedTuple):
    """What an action led to, each (B,): the reward, whether the episode ended, or was cut, and by which kind of formula
    it was won (a place in ``KINDS``, -1: none)."""

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    kind: np.ndarray


class Game(Protocol):
    """B tables of one game."""

    rng: np.random.Generator
    n_tables: int

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def actions(self) -> tuple[str, ...]:
        """What a player may write."""

    @property
    def n_places(self) -> int:
        """Numbers that a picture shows."""

    @property
    def has_formula(self) -> bool:
        """Whether a thought holds a formula."""

    def deal(self, tables: np.ndarray) -> None:
        """Begin a new episode on the ``tables`` (mask (B,))."""

    def step(self, action: np.ndarray) -> Step:
        """Play the actions (B,), places in ``actions``."""

    def ranks(self) -> np.ndarray:
        """The numbers on the table (B, n_places), ``BLANK`` where there is none."""

    def texts(self) -> list[str]:
        """The formula so far of each table."""

    def targets(self) -> np.ndarray:
        """What a formula must equal (B,)."""


class Pool(NamedTuple):
    """Hands that are dealt: ranks (N, n) from 1 to 13, targets (N,), probabilities (N,)."""

    ranks: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def part(self, mask: np.ndarray) -> Pool:
        """The hands of a mask (N,), their probabilities made to sum to 1. Raises if there are none."""
        if not mask.any():
            raise ReprobookError("a pool of hands is empty; leave at least one hand on each side")
        return Pool(self.ranks[mask], self.targets[mask], self.weights[mask] / self.weights[mask].sum())


def card_values(ranks: np.ndarray) -> np.ndarray:
    """J, Q and K (11 to 13) count as 10."""
    return np.minimum(ranks, 10)


def pool24(n_cards: int = 4) -> Pool:
    """Points24's hands: ranks uniform from 1 to 13, independent; solvable or not."""
    ranks = np.array(list(itertools.product(range(1, 14), repeat=n_cards)))
    return Pool(ranks, np.full(len(ranks), 24), np.full(len(ranks), 1 / len(ranks)))


def pool12() -> Pool:
    """EZPoints' hands by the released law: the first card uniform from 2 to 13; where its value divides 12 the second
    makes 12 by multiplication with probability 1/2, else by addition; order by coin."""
    found: dict[tuple[int, int], float] = {}
    for rank in range(2, 14):
        card = min(rank, 10)
        seconds = [12 // card, 12 - card] if card in (2, 3, 4, 6) else [12 - card]
        for second in seconds:
            for hand in ((rank, second), (second, rank)):
                found[hand] = found.get(hand, 0.0) + 1 / (12 * 2 * len(seconds))
    return Pool(np.array(list(found)), np.full(len(found), 12), np.array(list(found.values())))


def pool_of_targets(operators: str = "+-*", most: int = 99) -> Pool:
    """The middle game: two cards and a target that one of the ``operators`` makes of them, from 1 to ``most``; every
    pair of ranks from 1 to 10 and every target it has equally likely."""
    ranks, targets = [], []
    for a, b in itertools.product(range(1, 11), repeat=2):
        made = {"+": a + b, "-": abs(a - b), "*": a * b}
        for target in sorted({made[op] for op in operators}):
            if 1 <= target <= most:
                ranks.append((a, b))
                targets.append(target)
    return Pool(np.array(ranks), np.array(targets), np.full(len(ranks), 1 / len(ranks)))


def split(pool: Pool, share: float, seed: int) -> tuple[Pool, Pool]:
    """Training and test hands: no multiset of values with its target is in both. ``share`` in (0, 1) of these is for
    tests."""
    if not 0 < share < 1:
        raise ReprobookError(f"share of test hands is {share}; it must be above 0 and below 1")
    hands = np.column_stack([np.sort(card_values(pool.ranks), 1), pool.targets])
    kinds, which = np.unique(hands, axis=0, return_inverse=True)
    held = np.random.default_rng(seed).permutation(len(kinds)) < round(share * len(kinds))
    return pool.part(~held[which.ravel()]), pool.part(held[which.ravel()])


class Points:
    """Points24, EZPoints and games between them: write a formula, symbol by symbol, and close it with ``=``.

    A number that is not (or no longer) on the table costs 1 and leaves a blank in the formula. ``=`` ends the episode:
    10 if Python's value of the joined text is the target and all cards were used, else -1. An action after more than
    ``most`` symbols costs 1 and cuts the episode. ``arithmetic_only`` refuses to pay for joined digits, powers and
    floor divisions, which the released environment pays."""

    has_formula = True

    def __init__(
        self, name: str, pool: Pool, n_tables: int, rng: np.random.Generator, *, operators: str = "+-*/()",
        most: int = 20, arithmetic_only: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.pool, self.n_tables, self.rng = name, pool, n_tables, rng
        self.actions = (*(str(k) for k in range(1, 11)), *operators, "=")
        self.n_places, self.most, self.arithmetic_only = pool.ranks.shape[1], most, arithmetic_only
        self._ranks = np.zeros((n_tables, self.n_places), dtype=np.int64)
        self._left = np.zeros((n_tables, 11), dtype=np.int64)  # of each value, cards not yet used
        self._targets = np.zeros(n_tables, dtype=np.int64)
        self._formula = np.full((n_tables, most + 1), -1)  # actions; len(actions): a blank
        self._length = np.zeros(n_tables, dtype=np.int64)
        self.deal(np.ones(n_tables, dtype=bool))

    def deal(self, tables: np.ndarray) -> None:
        """A hand of the pool for each of the tables."""
        self.put(tables, self.rng.choice(len(self.pool.weights), int(tables.sum()), p=self.pool.weights))

    def put(self, tables: np.ndarray, hands: np.ndarray) -> None:
        """Given hands of the pool on the ``tables`` (mask): one place a table."""
        self._ranks[tables], self._targets[tables] = self.pool.ranks[hands], self.pool.targets[hands]
        counts = (card_values(self.pool.ranks[hands])[:, :, None] == np.arange(11)).sum(1)
        self._left[tables], self._formula[tables], self._length[tables] = counts, -1, 0

    def step(self, action: np.ndarray) -> Step:
        """See the class."""
        rows = np.arange(self.n_tables)
        late = self._length > self.most
        is_number = (action < 10) & ~late
        number = np.where(is_number, action + 1, 0)
        refused = is_number & (self._left[rows, number] == 0)
        self._left[rows, number] -= is_number & ~refused
        ends = (action == len(self.actions) - 1) & ~late
        grows = ~late & ~ends
        written = np.where(refused, len(self.actions), action)
        self._formula[rows[grows], self._length[grows]] = written[grows]
        self._length += grows
        kind = np.full(self.n_tables, -1)
        for row in np.flatnonzero(ends & (self._left[:, 1:].sum(1) == 0)):
            found = outcome(self._text(int(row)), int(self._targets[row]), self.n_places)
            if found is not None and not (self.arithmetic_only and found != "arithmetic"):
                kind[row] = KINDS.index(found)
        reward = np.where(late | refused | ends, -1.0, 0.0)
        return Step(np.where(kind >= 0, 10.0, reward), ends, late, kind)

    def _text(self, row: int) -> str:
        names = (*self.actions, " ")
        return "".join(names[k] for k in self._formula[row, : self._length[row]])

    def texts(self) -> list[str]:
        """The joined formulas; a blank for each refused number."""
        return [self._text(row) for row in range(self.n_tables)]

    def ranks(self) -> np.ndarray:
        """The cards (B, n)."""
        return self._ranks.copy()

    def targets(self) -> np.ndarray:
        """What must be reached (B,)."""
        return self._targets.copy()


class NumberLine:
    """Reach the goal on 0 .. 5 by ``-`` and ``+``: +1 there, -1 for a step that brings it no nearer; ten steps.

    Start and goal are drawn independently; where they agree the goal moves on by one, modulo 5 as released."""

    name, actions, n_places, has_formula = "NumberLine", ("-", "+"), 2, False
    MOST = 5

    def __init__(self, n_tables: int, rng: np.random.Generator) -> None:
        self.n_tables, self.rng = n_tables, rng
        self._at, self._goal, self._made = (np.zeros(n_tables, dtype=np.int64) for _ in range(3))
        self.deal(np.ones(n_tables, dtype=bool))

    def deal(self, tables: np.ndarray) -> None:
        """New start and goal."""
        start, goal = self.rng.integers(0, self.MOST + 1, (2, int(tables.sum())))
        self._at[tables], self._goal[tables] = start, np.where(start == goal, (goal + 1) % self.MOST, goal)
        self._made[tables] = 0

    def step(self, action: np.ndarray) -> Step:
        """See the class."""
        before = np.abs(self._at - self._goal)
        self._at = np.clip(self._at + 2 * action - 1, 0, self.MOST)
        self._made += 1
        after = np.abs(self._at - self._goal)
        there = after == 0
        reward = np.where(there, 1.0, np.where(after >= before, -1.0, 0.0))
        return Step(reward, there, ~there & (self._made >= 2 * self.MOST), np.where(there, 0, -1))

    def ranks(self) -> np.ndarray:
        """Position and goal (B, 2)."""
        return np.stack([self._at, self._goal], 1)

    def texts(self) -> list[str]:
        """No formula."""
        return [""] * self.n_tables

    def targets(self) -> np.ndarray:
        """No number to be made: 0."""
        return np.zeros(self.n_tables, dtype=np.int64)


def hand_total(cards: np.ndarray) -> np.ndarray:
    """Blackjack totals (B,) of values (B, n), 0 for no card: an ace counts 11 unless that busts."""
    plain = cards.sum(-1)
    return plain + 10 * ((cards == 1).any(-1) & (plain <= 11))


class Blackjack:
    """Blackjack against a dealer who draws to 17, from an infinite deck, as in gymnasium: win +1, draw 0, loss -1.

    The picture shows the dealer's open card and the player's (at most ``n_places - 1`` of them; nobody gets so far
    in a billion games)."""

    name, actions, n_places, has_formula = "Blackjack", ("stand", "hit"), 12, False

    def __init__(self, n_tables: int, rng: np.random.Generator) -> None:
        self.n_tables, self.rng = n_tables, rng
        self._hand = np.full((n_tables, 22), BLANK)  # the longest hand that is not bust has 21 aces
        self._dealer = np.zeros((n_tables, 2), dtype=np.int64)
        self._held = np.zeros(n_tables, dtype=np.int64)
        self.deal(np.ones(n_tables, dtype=bool))

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.integers(1, 14, shape)

    def deal(self, tables: np.ndarray) -> None:
        """Two cards each."""
        n = int(tables.sum())
        self._dealer[tables], self._held[tables] = self._draw((n, 2)), 2
        fresh = np.full((n, 22), BLANK)
        fresh[:, :2] = self._draw((n, 2))
        self._hand[tables] = fresh

    def step(self, action: np.ndarray) -> Step:
        """See the class. Cards of all tables are drawn, whether a table needs them or not."""
        rows = np.arange(self.n_tables)
        hit = action == 1
        card = self._draw((self.n_tables,))
        self._hand[rows[hit], self._held[hit]] = card[hit]
        self._held += hit
        total = hand_total(card_values(np.maximum(self._hand, 0)))
        bust = hit & (total > 21)
        dealer = self._dealers_total(~hit)
        result = np.sign(total - np.where(dealer > 21, 0, dealer)).astype(float)
        reward = np.where(hit, -1.0 * bust, result)
        return Step(reward, ~hit | bust, np.zeros_like(hit), np.where(~hit & (reward > 0), 0, -1))

    def _dealers_total(self, playing: np.ndarray) -> np.ndarray:
        cards = card_values(self._dealer)
        while (draws := playing & (hand_total(cards) < 17)).any():
            more = np.where(draws, card_values(self._draw((self.n_tables,))), 0)
            cards = np.column_stack([cards, more])
        return hand_total(cards)

    def ranks(self) -> np.ndarray:
        """The dealer's open card and the player's cards (B, n_places)."""
        return np.column_stack([self._dealer[:, 0], self._hand[:, : self.n_places - 1]])

    def texts(self) -> list[str]:
        """No formula."""
        return [""] * self.n_tables

    def targets(self) -> np.ndarray:
        """No number to be made: 0."""
        return np.zeros(self.n_tables, dtype=np.int64)


@cache
def best_blackjack() -> dict[tuple[int, bool, int], str]:
    """The better action for (total, whether an ace counts 11, dealer's open card 1..10), by dynamic programming over
    the infinite deck."""
    odds = [(card, (4 if card == 10 else 1) / 13) for card in range(1, 11)]

    def added(total: int, soft: bool, card: int) -> tuple[int, bool]:
        if card == 1 and total + 11 <= 21:
            return total + 11, True
        total += card
        return (total - 10, False) if soft and total > 21 else (total, soft)

    @cache
    def dealer(total: int, soft: bool) -> dict[int, float]:
        if total >= 17:
            return {min(total, 22): 1.0}
        found: dict[int, float] = {}
        for card, p in odds:
            for end, q in dealer(*added(total, soft, card)).items():
                found[end] = found.get(end, 0.0) + p * q
        return found

    @cache
    def worth(total: int, soft: bool, shown: int) -> tuple[float, str]:
        if total > 21:
            return -1.0, "stand"
        ends = dealer(*added(0, False, shown))
        stand = sum(p * (end > 21 or total > end) - p * (total < end <= 21) for end, p in ends.items())
        hit = sum(p * worth(*added(total, soft, card), shown)[0] for card, p in odds)
        return (hit, "hit") if hit > stand else (stand, "stand")

    states = itertools.product(range(4, 22), (False, True), range(1, 11))
    return {state: worth(*state)[1] for state in states if not (state[1] and state[0] < 12)}


def advice(game: Game, cards: Sequence[int]) -> str:
    """The right action for the numbers (without blanks) seen on a table of NumberLine or Blackjack."""
    if game.name == "NumberLine":
        return "+" if cards[1] > cards[0] else "-"
    values = card_values(np.array([cards[1:]]))
    total = int(hand_total(values)[0])
    if total > 21 or total < 4:
        return "stand"
    return best_blackjack()[total, bool(total != values.sum()), min(cards[0], 10)]


def unsolvable(pool: Pool) -> float:
    """Probability of a hand that the exact solver cannot bring to its target."""
    values = np.sort(card_values(pool.ranks), 1)
    lost = [not solve(tuple(map(int, hand)), int(target)) for hand, target in zip(values, pool.targets, strict=True)]
    return float(pool.weights[np.array(lost)].sum())


def open_game(name: str, n_tables: int, rng: np.random.Generator, pool: Pool | None = None) -> Game:
    """A game by its name: Points24, EZPoints, Targets (the middle game), Three (three cards to 24), NumberLine,
    Blackjack.

    ``pool``: hands other than all of the game's. Raises :class:`ReprobookError` for another name."""
    points: dict[str, tuple[Callable[[], Pool], str, int]] = {
        "Points24": (pool24, "+-*/()", 20), "EZPoints": (pool12, "+*", 5), "Targets": (pool_of_targets, "+-*", 3),
        "Three": (lambda: pool24(3), "+-*/()", 12),
    }  # fmt: skip
    if n_tables < 1:
        raise ReprobookError(f"n_tables is {n_tables}; it must be at least 1")
    if name in points:
        hands, operators, most = points[name]
        return Points(name, pool or hands(), n_tables, rng, operators=operators, most=most)
    if name not in ("NumberLine", "Blackjack"):
        raise ReprobookError(f"game {name!r} is not known; games: {', '.join([*points, 'NumberLine', 'Blackjack'])}")
    return NumberLine(n_tables, rng) if name == "NumberLine" else Blackjack(n_tables, rng)
