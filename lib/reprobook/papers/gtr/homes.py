"""ALFWorld at the paper's scale: what lies between the text games of :mod:`.alfworld` and the loop of :mod:`.learning`.

Model and loop are those of the card games. The paper's agent sees a picture of the room; here the engine's words stand
in the prompt in its place, so the model's vision tower rests. Limits are the environment's own, with or without a
corrector: -3 and the end at the 41st command or the fifth in a row that is the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.papers.gtr import games
from reprobook.papers.gtr.alfworld import MOST_ACTIONS, NOTHING, REST, Alfworld
from reprobook.papers.gtr.corrector import Ability, Corrector, Verdict
from reprobook.papers.gtr.errands import TASKS, draw
from reprobook.papers.gtr.games import ALFWORLD, BLANK, Step
from reprobook.papers.gtr.language import Read, Thought
from reprobook.papers.gtr.learning import Method
from reprobook.papers.gtr.policy import PAD_ID
from reprobook.papers.gtr.ppo import Correction
from reprobook.papers.gtr.words import Words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from reprobook.papers.gtr.errands import Start
    from reprobook.papers.gtr.games import Game, Pool
    from reprobook.papers.gtr.learning import Settings
    from reprobook.papers.gtr.start import Noise

LAM, N_UPDATES = 0.2, 4  # of the released code: weight of thoughts; whole rollouts in its 5,000 steps
LONGER = 4  # times as long as a prompt of the card games may one of these be
# There is no truncation rule besides the environment's, and no tool: the same as the method without the words.
SAME = ("RL only with truncation", "GTR without tool")


class HomeGame:
    """B games of ALFWorld as tables: no numbers on them; ``texts`` hold goal, last observation, admissible commands.

    An action is a command with how it came about: of two neighbours in ``actions``, which grows as commands are named,
    the first was read, the second drawn by chance because the response named none. All that is kept are arrays, of each
    game the seed that it is dealt by and the places of its commands in the lists; :meth:`replay` makes the rest."""

    name, n_places, has_formula = ALFWORLD, 1, False

    def __init__(self, n_tables: int, rng: np.random.Generator) -> None:
        self.n_tables, self.rng = n_tables, rng
        self.home = Alfworld(n_tables, np.random.default_rng(0))  # dealt anew at once
        self.actions: tuple[str, ...] = ()
        self._ids: dict[str, int] = {}
        self._seeds, self._made = (np.zeros(n_tables, dtype=np.int64) for _ in range(2))
        self._played = np.full((n_tables, MOST_ACTIONS + 1), NOTHING)
        self.deal(np.ones(n_tables, dtype=bool))

    def deal(self, tables: np.ndarray) -> None:
        """A game of a random task on each of the ``tables`` (mask)."""
        self._seeds[tables], self._made[tables] = self.rng.integers(0, 2**62, int(tables.sum())), 0
        self._put(tables)

    def _put(self, tables: np.ndarray) -> None:
        self.home.put(tables, [_start(seed) for seed in self._seeds[tables].tolist()])

    def replay(self) -> None:
        """Play what the arrays say, so that the games stand where they stood; of several lengths, the longest first."""
        rows = np.arange(self.n_tables)
        for left in range(int(self._made.max()), -1, -1):  # commands that the longest ones have left
            self._put(self._made == left)
            at = self._made - left
            if left:
                choice = np.where(at < 0, NOTHING, self._played[rows, np.maximum(at, 0)])
                self.home.step(np.where(self.home.over(), REST, choice))

    def number(self, command: str, legal: bool = True) -> int:
        """The action of a command: a place in ``actions``."""
        if command not in self._ids:
            self._ids[command] = len(self.actions)
            self.actions += (command, command)
        return self._ids[command] + (not legal)

    def read(self, texts: Sequence[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Actions (B,) that responses mean and whether each was legal (B,), see :meth:`Alfworld.parse`."""
        self.home.rng = rng
        choice, legal = self.home.parse(texts)
        found = zip(self.home.admissible(), choice.tolist(), legal.tolist(), strict=True)
        return np.array([self.number(menu[k] if k >= 0 else "", fine) for menu, k, fine in found]), legal

    def step(self, action: np.ndarray) -> Step:
        """Play the actions (B,); a game that has ended rests. One drawn by chance costs 1; rewards and ends are those
        of :meth:`Alfworld.step`, and a game that is won too late is not won."""
        choice = self.home.find([self.actions[k] for k in action])
        rows = np.flatnonzero(~self.home.over())
        self._played[rows, self._made[rows]] = choice[rows]
        self._made[rows] += 1
        found = self.home.step(choice, action % 2 == 0)
        return Step(found.reward, found.won, found.truncated, np.where(found.won & ~found.truncated, 0, -1))

    def ranks(self) -> np.ndarray:
        """No numbers (B, 1)."""
        return np.full((self.n_tables, 1), BLANK)

    def texts(self) -> list[str]:
        """What the prompt says of each game."""
        seen = zip(self.home.goals(), self.home.observations(), self.home.admissible(), strict=True)
        return [
            f"Your task is to: {goal}.\nWhat you see: {told}\nAdmissible commands: {', '.join(menu)}."
            for goal, told, menu in seen
        ]

    def targets(self) -> np.ndarray:
        """No number to be made: 0."""
        return np.zeros(self.n_tables, dtype=np.int64)


def open_game(name: str, n_tables: int, rng: np.random.Generator, pool: Pool | None = None) -> Game:
    """A game by its name, see :func:`.games.open_game`; ALFWorld, too, whose games no ``pool`` limits."""
    return HomeGame(n_tables, rng) if name == ALFWORLD else games.open_game(name, n_tables, rng, pool)


def _start(seed: int) -> Start:
    rng = np.random.default_rng(seed)
    return draw(TASKS[rng.integers(len(TASKS))], rng)


class NoPictures:
    """In place of the cards."""

    def pick(self, ranks: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
        """Places (..., 1), all the same."""
        return np.zeros((*ranks.shape, 1), dtype=np.int64)

    def draw(self, places: Tensor) -> Tensor:
        """Pictures (B, 0) without pixels, see :meth:`VisionPolicy._inputs`."""
        return torch.zeros(len(places), 0, dtype=torch.uint8)


class HomeWords(Words):
    """What the model writes about ALFWorld: the released keys ``thoughts`` and ``action``. A thought has no cards and
    no formula; ``next`` is the command that it names last in quotation marks.

    ``n_prompt``: tokens of a card game's prompt; one of these has room for ``LONGER`` times as many."""

    has_formula, keys = False, ("thoughts", "action")

    def __init__(self, tokenizer: Any, game: HomeGame, n_prompt: int) -> None:
        super().__init__(tokenizer, game, LONGER * n_prompt)

    def _body(self, thought: Thought) -> dict[str, Any]:
        return {"thoughts": f"What brings the task nearer now is '{thought.next}'"}

    def thought(self, text: str) -> Thought | None:
        """The thought of a response; None if the response is no JSON with both keys."""
        found = super().thought(text)
        return None if found is None else Thought((), "", found.next)

    def read(self, texts: Sequence[str], game: Game, rng: np.random.Generator) -> Read:
        """Actions and thoughts of ``texts``, as released: the first admissible command that occurs behind the key, else
        a random one."""
        assert isinstance(game, HomeGame)
        return Read(*game.read(texts, rng), [self.thought(text) for text in texts])

    def question(self, formula: str, target: int) -> str:  # noqa: ARG002
        """The prompt's parts by the paper's description: role, task and scene, commands, format. ``formula``: what the
        game says, see :meth:`HomeGame.texts`."""
        return (
            f"[INST] You are an expert in the household tasks of ALFWorld.\n{formula}\nAnswer by valid JSON: "
            '{"thoughts": "describe what you see, then consider which command brings the task nearer, and name it '
            'in quotation marks", "action": "the admissible command"} [/INST]'
        )


class HomeCorrector(Corrector):
    """Judges by :meth:`Alfworld.advise`: a thought is right if the command that it names is the expert's. That expert
    knows where everything is, in closed receptacles, too, which is more than GPT-4o with a picture of the room can
    know; and of commands that are equally good it takes one."""

    def __init__(self, game: HomeGame, rng: np.random.Generator) -> None:
        super().__init__(Ability(), game, rng)
        self.home = game.home

    def judge(self, thoughts: Sequence[Thought | None]) -> list[Verdict]:
        """A verdict for each table's thought (None: the response was not well-formed)."""
        found = []
        for thought, advised in zip(thoughts, self.home.advise(), strict=True):
            verdict = Verdict("no", Thought((), "", advised))
            if thought is None:
                verdict = Verdict("unread")
            elif thought.next == advised:
                verdict = Verdict("yes")
            self.said[verdict.word] += 1
            found.append(verdict)
        return found


def demonstrations(game: HomeGame, words: HomeWords, noise: Noise, rng: np.random.Generator) -> Correction:
    """One demonstration a game, at a random point of the expert's way; labels are the whole response. In the share
    ``noise.symbols`` thought and action name a random command but the right one; the way goes on with the right one."""
    n, turn = game.n_tables, 0
    kept = [("", "")] * n
    while not (over := game.home.over()).all():
        turn += 1
        texts, menus, advised = game.texts(), game.home.admissible(), game.home.advise()
        for row in np.flatnonzero(~over & (rng.random(n) < 1 / turn)):  # each point of the way is equally likely
            command = advised[row]
            if rng.random() < noise.symbols:
                others = [each for each in menus[row] if each != command]
                command = others[rng.integers(len(others))]
            kept[row] = texts[row], command
        game.step(np.array([game.number(command) for command in advised]))
    ids = words.prompts([text for text, _ in kept], game.targets())
    told = [words.encode(Thought((), "", command), command) for _, command in kept]
    width = max(map(len, told))
    response = torch.tensor([each + [PAD_ID] * (width - len(each)) for each in told])
    places = torch.from_numpy(NoPictures().pick(game.ranks(), rng))
    return Correction(places, torch.from_numpy(ids), response, torch.where(response == PAD_ID, -100, response))


def as_released(names: Sequence[str], settings: Settings) -> tuple[list[str], Settings]:
    """The methods without those that are others' ``SAME`` here, and at most as many updates as the released run has."""
    left = [name for name in names if name not in SAME]
    return left, replace(settings, n_updates=min(settings.n_updates, N_UPDATES))


def ruled(method: Method) -> Method:
    """A method with ALFWorld's weight of thoughts, unless its own is not the usual one, and without the truncation rule
    of the card games: a reward of -1 is an illegal response here, and the environment ends long games itself."""
    return replace(method, lam=LAM if method.lam == Method.lam else method.lam, truncate=False, prefix=False)
