"""What the policy writes: a thought and an action as JSON, in a small vocabulary; and how it is read.

A response is ``{"cards": [3, 8], "formula": "3*8", "thoughts": "*", "action": "*"}``: the numbers seen, the formula
aimed at, the symbol that comes next, the action. Games without formulas leave it out; a policy without thoughts writes
the action alone."""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.gtr.formulas import symbols

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reprobook.papers.gtr.games import Game

PAD, END = "<pad>", "<end>"
KEY = '"action":'  # the last one begins the action
CARDS, COMMA, FORMULA, CLOSE = '{"cards": [', ", ", '], "formula": "', '"}'
NEXT, NEXT_AFTER_CARDS = '", "thoughts": "', '], "thoughts": "'
ACTION, ACTION_ALONE = f'", {KEY} "', f'{{{KEY} "'
FRAME = (CARDS, COMMA, FORMULA, NEXT, NEXT_AFTER_CARDS, ACTION, ACTION_ALONE, CLOSE)


class Thought(NamedTuple):
    """Cards seen, formula aimed at (empty in games without), symbol that comes next."""

    cards: tuple[int, ...]
    formula: str
    next: str


class Language:
    """The vocabulary of a game. ``thinks``: whether responses hold a thought."""

    def __init__(self, actions: Sequence[str], has_formula: bool, thinks: bool = True) -> None:
        self.actions, self.has_formula, self.thinks = tuple(actions), has_formula, thinks
        numbers = [str(k) for k in range(11)]
        self.tokens = [PAD, END, *numbers, *"+-*/()=", "stand", "hit", *FRAME]
        self.ids = {token: k for k, token in enumerate(self.tokens)}
        thought = ("cards", "formula", "thoughts") if has_formula else ("cards", "thoughts")
        self.keys = (*thought, "action") if thinks else ("action",)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def key_ids(self) -> tuple[int, ...]:
        """Tokens that hold the action's key."""
        return tuple(k for k, token in enumerate(self.tokens) if KEY in token)

    def encode(self, thought: Thought, action: str) -> list[int]:
        """The response as token ids, closed by ``END``."""
        return [self.ids[token] for token in [*self._thought(thought), *self._action(action)]]

    def _thought(self, thought: Thought) -> list[str]:
        if not self.thinks:
            return []
        cards = [token for card in thought.cards for token in (COMMA, str(card))][1:]
        aim = [FORMULA, *symbols(thought.formula), NEXT] if self.has_formula else [NEXT_AFTER_CARDS]
        return [CARDS, *cards, *aim, thought.next]

    def _action(self, action: str) -> list[str]:
        return [ACTION if self.thinks else ACTION_ALONE, action, CLOSE, END]

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids up to ``END``."""
        words = [self.tokens[k] for k in ids]
        return "".join(words[: words.index(END)] if END in words else words).replace(PAD, "")

    def thought(self, text: str) -> Thought | None:
        """The thought of a response; None if that is not well-formed."""
        return read_response(text, self.keys)

    def read(self, texts: Sequence[str], _game: Game, rng: np.random.Generator) -> Read:
        """Actions and thoughts of the responses to a game's tables, see :func:`read`."""
        return read(self, texts, rng)

    def action_length(self, action: str) -> int:
        """Tokens of an action's part of a response, its end included."""
        return len(self._action(action))

    def split(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Where the action begins in responses (B, T) of ``lengths`` (B,): at the last token with the action's key,
        else four tokens before the end; -1 where there is no key and are fewer than four tokens (as released)."""
        places = np.arange(ids.shape[1])
        keys = np.isin(ids, self.key_ids) & (places < lengths[:, None])
        last = np.where(keys, places, -1).max(1)
        return np.where(last >= 0, last, np.where(lengths >= 4, lengths - 4, -1))

    def prompts(self, texts: Sequence[str], targets: np.ndarray, room: int) -> np.ndarray:
        """Prompts (B, 2 + room) of ids: two digits of the target, and the formula so far, right-aligned; a blank is
        ``PAD``. Raises :class:`ReprobookError` if a formula has more than ``room`` symbols."""
        ids = np.zeros((len(texts), 2 + room), dtype=np.int64)
        for row, (text, target) in enumerate(zip(texts, targets, strict=True)):
            ids[row, :2] = [self.ids[digit] for digit in f"{int(target):02d}"]
            spaced = [symbol for part in text.split(" ") for symbol in [*symbols(part), PAD]][:-1]
            if len(spaced) > room:
                raise ReprobookError(f"the formula {text!r} has {len(spaced)} symbols; the prompt has room for {room}")
            if spaced:
                ids[row, -len(spaced) :] = [self.ids[symbol] for symbol in spaced]
        return ids


@lru_cache(maxsize=200_000)
def parse_action(text: str, actions: tuple[str, ...]) -> int:
    """The action of a response, a place in ``actions``; -1 if none or several are named behind the last key.

    Behind the key all actions are sought as substrings; ``10`` first, and then taken out: it is not to be read as 1."""
    _, key, rest = text.lower().rpartition(KEY)
    if not key:
        return -1
    found = set()
    if "10" in actions and "10" in rest:
        found.add("10")
        rest = rest.replace("10", "")
    found |= {action for action in actions if action in rest}
    return actions.index(found.pop()) if len(found) == 1 else -1


@lru_cache(maxsize=200_000)
def read_response(text: str, keys: tuple[str, ...]) -> Thought | None:
    """The thought of a well-formed response: JSON with all ``keys``; None for any other. What a thought lacks is empty,
    and cards that are no whole numbers are none."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    if not isinstance(data, dict) or not set(keys) <= set(data):
        return None
    cards = data.get("cards", [])
    if not isinstance(cards, list) or not all(type(card) is int for card in cards):
        cards = []
    return Thought(tuple(cards), str(data.get("formula", "")), str(data.get("thoughts", "")))


class Read(NamedTuple):
    """Responses of B tables as read: actions (B,), whether each was legal, thoughts (None: not well-formed)."""

    action: np.ndarray
    legal: np.ndarray
    thoughts: list[Thought | None]


def read(language: Language, texts: Sequence[str], rng: np.random.Generator) -> Read:
    """Actions and thoughts of ``texts``; where no single action is named, a random one is played."""
    named = np.array([parse_action(text, language.actions) for text in texts])
    drawn = rng.integers(0, len(language.actions), len(texts))
    thoughts = [language.thought(text) for text in texts]
    return Read(np.where(named < 0, drawn, named), named >= 0, thoughts)
