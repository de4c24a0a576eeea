"""What the paper's model writes about a game of formulas, in place of the small :class:`.language.Language`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.gtr.language import KEY, Thought, read
from reprobook.papers.gtr.policy import PAD_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reprobook.papers.gtr.games import Game
    from reprobook.papers.gtr.language import Read


class Words:
    """What a language model writes about a game of formulas, by its own tokenizer: the released keys ``cards``,
    ``formula``, ``thoughts``, ``action``. ``n_prompt``: tokens of a prompt, blanks on the left.

    Raises :class:`ReprobookError` if token 0, which stands for blanks here, is not a special token."""

    has_formula, thinks = True, True
    keys: tuple[str, ...] = ("cards", "formula", "thoughts", "action")

    def __init__(self, tokenizer: Any, game: Game, n_prompt: int) -> None:
        if PAD_ID not in tokenizer.all_special_ids:
            raise ReprobookError(f"token {PAD_ID} of the tokenizer is not special: it cannot stand for blanks")
        self.tokenizer, self.actions, self.n_prompt = tokenizer, game.actions, n_prompt
        self.n_cards = game.n_places

    def _ids(self, text: str, special: bool = False) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def encode(self, thought: Thought, action: str) -> list[int]:
        """The response as token ids, with the end. Thought and action are cut into tokens apart from each other, so
        that the action's span is known."""
        text = json.dumps(self._body(thought)).removesuffix("}") + ", "
        return [*self._ids(text), *self._action(action)]

    def _body(self, thought: Thought) -> dict[str, Any]:
        return {"cards": list(thought.cards), "formula": thought.formula, "thoughts": reason(thought)}

    def _action(self, action: str) -> list[int]:
        return [*self._ids(f'{KEY} "{action}"}}'), self.tokenizer.eos_token_id]

    def action_length(self, action: str) -> int:
        """Tokens of an action's part, with the end."""
        return len(self._action(action))

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, without blanks and end."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def thought(self, text: str) -> Thought | None:
        """The thought of a response: its next symbol is the last one in quotation marks; J, Q, K count 10, A counts
        1. None if the response is no JSON with all keys."""
        try:
            data = json.loads(text)
        except ValueError:
            return None
        if not isinstance(data, dict) or not set(self.keys) <= set(data):
            return None
        named = data["cards"] if isinstance(data.get("cards"), list) else []
        cards = [_value(str(card)) for card in named]
        quoted = re.findall(r"'([^']*)'", str(data["thoughts"]))
        known = tuple(card for card in cards if card is not None)
        formula = str(data.get("formula", ""))
        return Thought(known if len(known) == len(cards) else (), formula, quoted[-1] if quoted else "")

    def read(self, texts: Sequence[str], _game: Game, rng: np.random.Generator) -> Read:
        """Actions and thoughts of the responses to a game's tables, see :func:`.language.read`."""
        return read(self, texts, rng)  # type: ignore[arg-type]

    def split(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Where the action begins in responses (B, T): the token that holds the first letter of its last key; else four
        tokens before the end; -1 where there are fewer."""
        found = []
        for row, length in zip(ids.tolist(), lengths.tolist(), strict=True):
            before, key, _ = self.text(row[:length]).rpartition(KEY)
            if not key:
                found.append(length - 4 if length >= 4 else -1)
                continue
            low, high = 0, length  # the fewest tokens whose text is longer than what is before the key
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if len(self.text(row[:middle])) > len(before) else (middle + 1, high)
            found.append(low - 1)
        return np.array(found)

    def prompts(self, texts: Sequence[str], targets: np.ndarray, _room: int = 0) -> np.ndarray:
        """Prompts (B, n_prompt) of ids; the picture is one token, see :meth:`VisionPolicy.forward`."""
        ids = np.full((len(texts), self.n_prompt), PAD_ID)
        for row, (formula, target) in enumerate(zip(texts, targets, strict=True)):
            own = self._ids(self.question(formula, int(target)), special=True)
            if len(own) > self.n_prompt:
                raise ReprobookError(f"a prompt has {len(own)} tokens; n_prompt is {self.n_prompt}")
            ids[row, -len(own) :] = own
        return ids

    def question(self, formula: str, target: int) -> str:
        """The prompt's parts by the paper's description: role, formula so far, symbols, rules, format."""
        return (
            f"[INST] <image>\nYou play a card game. The picture shows {self.n_cards} cards. The formula so far is: "
            f"{formula}. You append one of {list(self.actions)} to it. J, Q and K count as 10. The goal is a formula "
            f"that equals {target} and uses each number once. Answer by valid JSON: "
            '{"cards": [numbers in the picture], "formula": "the formula that you aim at", "thoughts": "check whether '
            f"the formula so far is complete and equals {target}; if so choose '=', otherwise consider which number "
            'or operator comes next", "action": "the number or operator"} [/INST]'
        )


def reason(thought: Thought) -> str:
    """The sentence of a corrected thought; it ends with the next symbol."""
    if thought.next == "=":
        return "The current formula is complete, so the next symbol is '='"
    return f"To reach {thought.formula}, the next symbol is '{thought.next}'"


def _value(card: str) -> int | None:
    if card.isdigit():
        return int(card)
    return {"A": 1, "J": 10, "Q": 10, "K": 10}.get(card.upper())
