"""A corrector that is a model behind OpenAI's chat interface: GPT-4o as in the paper, or a local one that is served.

It is shown the table and the agent's thought and answers in JSON; what does not parse is asked again a few times, and
then counts as a failed call: the released code would ask for ever.
"""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.request
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.papers.gtr.corrector import Ability, Corrector, Verdict
from reprobook.papers.gtr.formulas import next_symbol, solve
from reprobook.papers.gtr.language import Thought

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from torch import Tensor

    from reprobook.papers.gtr.games import Game

TEMPERATURE, N_TOKENS = 0.4, 400  # of the released corrector
TRIES, SECONDS = 3, 60.0


class AskedCorrector(Corrector):
    """A corrector whose verdicts come from ``ask``. With the tool the formulas of the numbers that the model itself has
    read are put into the question while no formula is aimed at."""

    def __init__(
        self, ask: Callable[[Tensor, str], str], draw: Callable[[np.ndarray], Tensor], game: Game,
        rng: np.random.Generator, *, tool: bool = True,
    ) -> None:  # fmt: skip
        """``draw``: ranks (n,) of a table -> its picture."""
        super().__init__(Ability(tool=tool), game, rng)
        self.ask, self.draw = ask, draw

    def judge(self, thoughts: Sequence[Thought | None]) -> list[Verdict]:
        """A verdict for each table's thought (None: the response was not well-formed)."""
        texts, targets, ranks, found = self.game.texts(), self.game.targets(), self.game.ranks(), []
        for row, thought in enumerate(thoughts):
            verdict = Verdict("unread")
            if thought is not None:
                verdict = self._asked(row, thought, texts[row], int(targets[row]), self.draw(ranks[row]))
            self.said[verdict.word] += 1
            found.append(verdict)
        return found

    def _asked(self, row: int, thought: Thought, begun: str, target: int, picture: Tensor) -> Verdict:
        question = self.question(thought, begun, target, self.aims[row])
        for _ in range(TRIES):
            try:
                answer = read_answer(self.ask(picture, question))
            except (OSError, ValueError):  # no connection, no answer in time, or not what was asked for
                continue
            if answer["evaluation"]:
                self.aims[row] = self.aims[row] or thought.formula  # the first one is kept
                return Verdict("yes")
            if not answer["possible"]:
                return Verdict("impossible")
            self.aims[row] = answer["target"]  # after every no it is overwritten
            onward = answer["correction"].next or next_symbol(answer["target"], begun) or "="
            return Verdict("no", answer["correction"]._replace(next=onward))
        return Verdict("failed")

    def question(self, thought: Thought, begun: str, target: int, aim: str | None) -> str:
        """What is asked about one step, by the paper's description."""
        known = ""
        if self.ability.tool and aim is None and 2 <= len(thought.cards) <= 4:
            cards = [card for card in thought.cards if 1 <= card <= 10]
            ways = solve(tuple(sorted(cards)), target)[:20] if len(cards) == len(thought.cards) else ()
            known = f" If the cards are {list(cards)}, these formulas are right: {', '.join(ways) or 'none'}."
        return (
            f"A player must write a formula that equals {target} from the cards in the picture, each once (J, Q, K "
            f"count 10). The formula so far is '{begun}'. The player aims at: {aim or 'not determined'}. The player's "
            f"thought: {json.dumps(thought._asdict())}.{known} Which cards are in the picture? Are the thought's cards "
            "right, in any order? Does its formula match the aim, or one of the right ones? Is its next symbol right? "
            'Answer by JSON: {"evaluation": "YES" or "NO", "possible_solution": "YES" or "NO", "target_formula": '
            '"...", "correction": {"cards": [...], "formula": "...", "next": "..."}}'
        )


def read_answer(text: str) -> dict[str, Any]:
    """A corrector's answer: whether the thought is right, whether a solution is possible, target and correction.
    Raises :class:`ValueError` for anything else."""
    low, high = text.find("{"), text.rfind("}")
    data = json.loads(text[low : high + 1])
    words = [str(data.get(key, "")).upper() for key in ("evaluation", "possible_solution")]
    if words[0] not in ("YES", "NO") or (words[0] == "NO" and words[1] not in ("YES", "NO")):
        raise ValueError("no verdict")
    right, possible = (word == "YES" for word in words)
    told, target = data.get("correction") or {}, str(data.get("target_formula", ""))
    if not right and possible and not (isinstance(told, dict) and isinstance(told.get("cards"), list) and target):
        raise ValueError("no correction")
    cards = tuple(int(card) for card in told.get("cards", [])) if isinstance(told, dict) else ()
    thought = Thought(cards, target, str(told.get("next", ""))) if isinstance(told, dict) else Thought((), target, "")
    return {"evaluation": right, "possible": possible, "target": target, "correction": thought}


def check_service(where: str) -> tuple[str, str]:
    """Address and model of ``"address model"``. Raises :class:`ReprobookError` for anything but https or this host."""
    url, _, model = where.partition(" ")
    if not url.startswith(("https://", "http://localhost", "http://127.0.0.1")) or not model:
        raise ReprobookError(
            f"released_corrector is {where!r}; it must be exact, or an https address (or one of this host) and the "
            "name of a model, with a blank between"
        )
    return url, model


def service(where: str, key_variable: str = "OPENAI_API_KEY") -> Callable[[Tensor, str], str]:
    """A service with OpenAI's chat interface, far or on this host; a key is read from the environment, if it is there,
    and kept nowhere. ``where``: see :func:`check_service`."""
    url, model = check_service(where)

    def ask(picture: Tensor, question: str) -> str:
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "PNG")
        shown = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
        content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": shown}}]
        body = {
            "model": model, "temperature": TEMPERATURE, "max_tokens": N_TOKENS,
            "response_format": {"type": "json_object"}, "messages": [{"role": "user", "content": content}],
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(key_variable):
            headers["Authorization"] = f"Bearer {key}"
        asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(asked, timeout=SECONDS) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])

    return ask
