"""ALFWorld as text, many games at once: its rules (``alfred.pddl``) and language (``alfred.twl2``) with their oddities.

B games keep their state in arrays over objects and receptacles; ``step`` plays one command in each. Rewards, the
reading of a response and the end of long games are those of the released GTR code. What the engine says where the
files surprise: ``use`` always turns a lamp on; ``look`` lists what was taken from one receptacle and put into another
at the same place, and sees nothing at the start; bowls are examined as if empty, never clean or hot; other objects are
examined in the hand alone (the domain file writes a comma into the list of variables of the other case).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.gtr.errands import (
    CLEAN,
    COOL,
    HEAT,
    LOOK,
    TASKS,
    TREATMENTS,
    TWO,
    Start,
    draw,
    homes,
    names,
    possible,
)
from reprobook.papers.gtr.floorplans import CAN, OPENABLE, VESSELS, engine_order, floor_plans

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

_KNIVES = ("ButterKnife", "Knife")
_HELD, _NONE = -1, -2  # an object that lies nowhere; no such thing
_MIDDLE = -1  # where a player starts, away from everything
NOTHING, REST = -1, -2  # choices: a command that is not admissible; a finished game's turn
MOST_ACTIONS, SAME_ACTIONS, CUT = 40, 5, -3.0
MOST_OBJECTS = 64

# An action is a number: three without an argument, then a block of receptacles for each verb, then one of objects.
_BARE = ("help", "inventory", "look")
_ON_RECEPTACLES = ("go to", "open", "close", "examine", "move", "clean", "heat", "cool")
_ON_OBJECTS = ("examine", "take", "use", "slice")
_GO, _OPEN, _CLOSE, _EXAMINE, _MOVE, _CLEAN_IT, _HEAT_IT, _COOL_IT = range(3, 11)
_EXAMINE_IT, _TAKE, _USE, _SLICE = range(11, 15)
_WAIT, _START = 15, 16  # what the last turn was, besides: not admissible; none yet

HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


class Outcome(NamedTuple):
    """What the commands led to, each (B,): reward, whether the task is done, whether the game was cut, and the share of
    the goal's conditions that hold."""

    reward: np.ndarray
    won: np.ndarray
    truncated: np.ndarray
    rate: np.ndarray


def respond(command: str, thoughts: str = "") -> str:
    """A response in the form that the paper's agent is taught."""
    return json.dumps({"thoughts": thoughts, "action": command})


class Alfworld:
    """B games, dealt by chance from ``tasks`` (all six) and ``plans`` (all that offer the task).

    ``truncated``: end a game, as the released training does, at its 41st command and at the fifth in a row that is the
    same, with a reward of -3, even if that command wins. Raises :class:`ReprobookError` for tasks, plans or a number of
    games that do not exist."""

    def __init__(
        self, n_games: int, rng: np.random.Generator, *, tasks: Sequence[str] = TASKS,
        plans: Sequence[int] | None = None, truncated: bool = True,
    ) -> None:  # fmt: skip
        if n_games < 1:
            raise ReprobookError(f"n_games is {n_games}; it must be at least 1")
        rooms = list(floor_plans()) if plans is None else list(plans)
        self._offers = {task: [plan for plan in rooms if possible(task, plan)] for task in tasks}
        if not tasks or not all(self._offers.values()):
            lacking = next((task for task, offered in self._offers.items() if not offered), "")
            raise ReprobookError(
                f"plans {rooms[:5]} do not offer the task {lacking!r}; leave it out of tasks, or add floor plans"
                if tasks else f"tasks is empty; name at least one of {', '.join(TASKS)}"
            )  # fmt: skip
        self.n_games, self.rng, self._cut = n_games, rng, truncated
        self._n_places = n_places = max(len(room.receptacles) for room in floor_plans().values())
        shape, things = (n_games, n_places), (n_games, MOST_OBJECTS)
        self._starts: list[Start] = [Start("", "", "", 0, 0, (), ())] * n_games
        self._things: list[list[str]] = [[] for _ in range(n_games)]
        self._stands: list[list[str]] = [[] for _ in range(n_games)]
        self._known: list[dict[int, str]] = [{} for _ in range(n_games)]  # action -> its command
        sizes = [1] * _GO + [n_places] * len(_ON_RECEPTACLES) + [MOST_OBJECTS] * len(_ON_OBJECTS)
        self._verb = np.repeat(np.arange(len(sizes)), sizes)  # of each action, and its receptacle or object
        self._what = np.concatenate([np.arange(size) for size in sizes])
        self._task = np.zeros(n_games, dtype=np.int64)
        self._spot = np.full(shape, _NONE)
        self._openable, self._goal_place, self._open = (np.zeros(shape, dtype=bool) for _ in range(3))
        self._tool = {task: np.zeros(shape, dtype=bool) for task in TREATMENTS}
        self._can = {name: np.zeros(things, dtype=bool) for name in (*CAN, "target", "lamp", "knife", "vessel")}
        self._fits = np.zeros((*things, n_places), dtype=bool)
        self._place = np.full(things, _NONE)
        self._left = np.zeros((*things, n_places), dtype=bool)  # was taken from there, and not put back
        self._is = {name: np.zeros(things, dtype=bool) for name in ("clean", "hot", "cool", "sliced", "on")}
        self._at, self._turn, self._same = (np.zeros(n_games, dtype=np.int64) for _ in range(3))
        self._over = np.zeros(n_games, dtype=bool)
        self._last = [""] * n_games
        self._did, self._with, self._in = (np.zeros(n_games, dtype=np.int64) for _ in range(3))
        self._menus: list[tuple[list[str], list[int]]] | None = None
        self.deal(np.ones(n_games, dtype=bool))

    def deal(self, games: np.ndarray) -> None:
        """A new game of a random task in each of the ``games`` (mask (B,))."""
        tasks = list(self._offers)
        starts = []
        for _ in range(int(games.sum())):
            task = tasks[self.rng.integers(len(tasks))]
            starts.append(draw(task, self.rng, int(self.rng.choice(self._offers[task]))))
        self.put(games, starts)

    def put(self, games: np.ndarray, starts: Sequence[Start]) -> None:
        """Given games in place of the ``games`` (mask): one start for each. Raises :class:`ReprobookError` for a start
        that is no game."""
        rows = np.flatnonzero(games)
        if len(rows) != len(starts):
            raise ReprobookError(f"starts has {len(starts)} games for {len(rows)}; give one for each")
        for start in starts:
            _check(start)
        for row, start in zip(rows, starts, strict=True):
            self._furnish(int(row), start)
        for array in (self._open, self._left, *self._is.values()):
            array[rows] = False
        self._at[rows], self._turn[rows], self._same[rows], self._over[rows] = _MIDDLE, 0, 0, False
        self._did[rows] = _START
        self._menus = None

    def _furnish(self, row: int, start: Start) -> None:
        room, n = floor_plans()[start.plan], len(start.objects)
        self._starts[row], self._things[row], self._stands[row] = start, names(start.objects), names(room.receptacles)
        self._last[row], self._task[row], self._known[row] = "", TASKS.index(start.task), {}
        self._spot[row], self._place[row] = _NONE, _NONE
        self._spot[row, : len(room.spots)], self._place[row, :n] = room.spots, start.places
        kinds = np.array(room.receptacles)
        wide = np.zeros(self._n_places, dtype=bool)

        def marked(mask: np.ndarray) -> np.ndarray:
            found = wide.copy()
            found[: len(kinds)] = mask
            return found

        self._openable[row] = marked(np.isin(kinds, list(OPENABLE)))
        self._goal_place[row] = marked(kinds == start.where)
        for task, (_, _, tool) in TREATMENTS.items():
            self._tool[task][row] = marked(kinds == tool)
        groups = {**CAN, "target": (start.target,), "lamp": (start.where,), "knife": _KNIVES, "vessel": VESSELS}
        self._fits[row] = False
        for name, members in groups.items():
            self._can[name][row, :n] = [kind in members for kind in start.objects]
            self._can[name][row, n:] = False
        for k, kind in enumerate(start.objects):
            if kind not in CAN["Toggleable"]:
                self._fits[row, k, list(homes(start.plan, kind))] = True

    # What may be done.

    def _there(self) -> np.ndarray:
        return self._spot == self._at[:, None]

    def _of_objects(self, of_places: np.ndarray) -> np.ndarray:
        """A mask of receptacles (B, R), read at the place of each object (B, O); False for what lies nowhere."""
        return np.take_along_axis(of_places, np.maximum(self._place, 0), 1) & (self._place >= 0)

    def _masks(self) -> np.ndarray:
        """Which actions may be done (B, A)."""
        there, held = self._there(), self._place == _HELD
        free = ~held.any(1, keepdims=True)
        ready = there & (~self._openable | self._open)
        carried = np.where(free[:, 0], 0, held.argmax(1))
        rows = np.arange(self.n_games)
        near = self._of_objects(there)
        treat = [
            there & self._tool[task] & (self._can[needed] & held).any(1, keepdims=True)
            for task, (_, needed, _) in TREATMENTS.items()
        ]
        armed = (held & self._can["knife"]).any(1, keepdims=True)
        blocks = [
            (self._spot != _NONE) & ~there,
            there & self._openable & ~self._open,
            there & self._open,
            there,
            ready & self._fits[rows, carried] & ~free,
            *treat,
            held,
            self._of_objects(ready) & free & ~self._can["Toggleable"],
            near & self._can["Toggleable"],
            near & self._can["Sliceable"] & armed,
        ]
        return np.concatenate([np.ones((self.n_games, len(_BARE)), dtype=bool), *blocks], 1)

    def _said(self, row: int, action: int, carried: str) -> str:
        """The command of an action; one that the state cannot reword is kept."""
        verb, what = int(self._verb[action]), int(self._what[action])
        said = self._worded(row, verb, what, carried)
        if verb not in (_MOVE, _CLEAN_IT, _HEAT_IT, _COOL_IT, _TAKE, _SLICE):
            self._known[row][action] = said
        return said

    def _worded(self, row: int, verb: int, what: int, carried: str) -> str:
        if verb < _GO:
            return _BARE[verb]
        if verb < _EXAMINE_IT:
            place, word = self._stands[row][what], _ON_RECEPTACLES[verb - _GO]
            link = {_MOVE: " to ", _CLEAN_IT: " with ", _HEAT_IT: " with ", _COOL_IT: " with "}.get(verb)
            return f"{word} {carried}{link}{place}" if link else f"{word} {place}"
        thing = self._things[row][what]
        if verb == _TAKE:
            return f"take {thing} from {self._stands[row][self._place[row, what]]}"
        return f"slice {thing} with {carried}" if verb == _SLICE else f"{_ON_OBJECTS[verb - _EXAMINE_IT]} {thing}"

    def _listed(self) -> list[tuple[list[str], list[int]]]:
        if self._menus is None:
            self._menus = []
            held = (self._place == _HELD).argmax(1)
            for row, mask in enumerate(self._masks()):
                carried = self._things[row][held[row]] if self._things[row] else ""
                known, actions = self._known[row], np.flatnonzero(mask).tolist()
                found = sorted((known.get(action) or self._said(row, action, carried), action) for action in actions)
                self._menus.append(([text for text, _ in found], [action for _, action in found]))
        return self._menus

    def admissible(self) -> list[list[str]]:
        """The commands that each game takes now, sorted as the engine sorts them."""
        return [list(texts) for texts, _ in self._listed()]

    def goals(self) -> list[str]:
        """The task of each game in words."""
        return [start.goal for start in self._starts]

    def starts(self) -> list[Start]:
        """The games as they began."""
        return list(self._starts)

    def over(self) -> np.ndarray:
        """Which games have ended (B,)."""
        return self._over.copy()

    # Which command is meant.

    def find(self, commands: Sequence[str]) -> np.ndarray:
        """Places (B,) of the commands among the admissible ones; ``NOTHING`` for one that is none of them."""
        menus = self._listed()
        if len(commands) != self.n_games:
            raise ReprobookError(f"there are {len(commands)} commands for {self.n_games} games; give one for each")
        pairs = zip(menus, commands, strict=True)
        found = [texts.index(said) if said in texts else NOTHING for (texts, _), said in pairs]
        return np.where(self._over, REST, found)

    def parse(self, responses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Choices (B,) that the responses mean, and whether each is legal (B,), as released: in lower case, from the
        first ``"action":`` on (else in the last 30 characters), the first admissible command that occurs; if none
        occurs, a random one that is not legal. (So ``go to drawer 12`` means ``go to drawer 1`` wherever that may be
        done.)"""
        if len(responses) != self.n_games:
            raise ReprobookError(f"there are {len(responses)} responses for {self.n_games} games; give one for each")
        chance = self.rng.random(self.n_games)
        choice, legal = np.full(self.n_games, REST), np.zeros(self.n_games, dtype=bool)
        for row in map(int, np.flatnonzero(~self._over)):
            said, texts = responses[row].lower(), self._listed()[row][0]
            start = said.find('"action":')
            said = said[start:] if start >= 0 else said[-30:]
            found = next((k for k, text in enumerate(texts) if text in said), None)
            legal[row] = found is not None
            choice[row] = int(chance[row] * len(texts)) if found is None else found
        return choice, legal

    # What it does.

    def step(self, choice: np.ndarray, legal: np.ndarray | None = None) -> Outcome:
        """Play the choices (B,), places among the admissible commands, ``NOTHING`` or, for games that have ended alone,
        ``REST``. ``legal`` (B,): whether each was read from a response and not drawn by chance (default: all were).

        The reward is 50 for the task done, plus the share of the goal's conditions that hold, less 1 if not legal.
        Raises :class:`ReprobookError` for a choice that does not exist and for one in a game that has ended."""
        choice = np.asarray(choice)
        menus = self._listed()
        self._check_choice(choice)
        actions = np.full(self.n_games, NOTHING)
        for row in map(int, np.flatnonzero(~self._over)):
            place = int(choice[row])
            if place >= 0:
                actions[row] = menus[row][1][place]
            said = menus[row][0][place] if place >= 0 else ""
            self._same[row] = self._same[row] + 1 if said and said == self._last[row] else 1
            self._last[row] = said
        playing = ~self._over
        self._apply(actions, playing)
        self._turn += playing
        self._menus = None
        met, total = self._conditions()
        won, rate = playing & (met == total), np.where(playing, met / total, 0.0)
        cut = playing & ((self._turn > MOST_ACTIONS) | (self._same >= SAME_ACTIONS)) & self._cut
        fine = np.ones(self.n_games, dtype=bool) if legal is None else np.asarray(legal)
        reward = np.where(cut, CUT, 50.0 * won + rate - (playing & ~fine))
        self._over |= won | cut
        return Outcome(reward, won, cut, rate)

    def _check_choice(self, choice: np.ndarray) -> None:
        if choice.shape != (self.n_games,):
            raise ReprobookError(f"choice has shape {choice.shape}; it must be ({self.n_games},), one for each game")
        for row, (place, (texts, _)) in enumerate(zip(choice.tolist(), self._listed(), strict=True)):
            if self._over[row] != (place == REST):
                state = "has ended; deal it anew, or let it rest" if self._over[row] else "goes on; choose a command"
                raise ReprobookError(f"choice[{row}] is {place}, but game {row} {state} (REST is {REST})")
            if not REST <= place < len(texts):
                raise ReprobookError(f"choice[{row}] is {place}; it must be from -1 to {len(texts) - 1}")

    def _apply(self, actions: np.ndarray, playing: np.ndarray) -> None:
        verb, what = np.where(actions < 0, _WAIT, self._verb[actions]), np.where(actions < 0, 0, self._what[actions])
        held = (self._place == _HELD).argmax(1)

        def doing(which: int) -> tuple[np.ndarray, np.ndarray]:
            rows = np.flatnonzero(verb == which)
            return rows, what[rows]

        self._did[playing], self._with[playing], self._in[playing] = verb[playing], held[playing], what[playing]
        rows, place = doing(_GO)
        self._at[rows] = self._spot[rows, place]
        for which, state in ((_OPEN, True), (_CLOSE, False)):
            self._open[doing(which)] = state
        rows, place = doing(_MOVE)
        self._place[rows, held[rows]] = place
        self._left[rows, held[rows], place] = False
        rows, thing = doing(_TAKE)
        self._with[rows], self._in[rows] = thing, self._place[rows, thing]
        self._left[rows, thing, self._in[rows]] = True
        self._place[rows, thing] = _HELD
        rows, _ = doing(_CLEAN_IT)
        self._is["clean"][rows, held[rows]] = True
        for which, gained, lost in ((_HEAT_IT, "hot", "cool"), (_COOL_IT, "cool", "hot")):
            rows, _ = doing(which)
            self._is[gained][rows, held[rows]], self._is[lost][rows, held[rows]] = True, False
        self._is["on"][doing(_USE)] = True
        self._is["sliced"][doing(_SLICE)] = True

    def _conditions(self) -> tuple[np.ndarray, np.ndarray]:
        """How many conditions of the goal hold, and how many it has (B,): ALFRED's count, of the text game."""
        target = self._can["target"]
        put = target & self._of_objects(self._goal_place)
        met, total = put.any(1).astype(np.int64), np.ones(self.n_games, dtype=np.int64)
        for task, flag in ((CLEAN, "clean"), (HEAT, "hot"), (COOL, "cool")):
            done, games = target & self._is[flag], self._task == task
            met[games] += (done.any(1).astype(np.int64) + (put & done).any(1))[games]
            total[games] = 3
        two = np.flatnonzero(self._task == TWO)
        counts = (np.where(put[two], self._place[two], _NONE)[:, :, None] == np.arange(self._n_places)).sum(1)
        met[two], total[two] = np.minimum(counts.max(1, initial=0), 2), 2
        look = self._task == LOOK
        lit = (self._can["lamp"] & self._is["on"] & self._of_objects(self._there())).any(1).astype(np.int64)
        met[look], total[look] = (lit + (target & (self._place == _HELD)).any(1))[look], 2
        return met, total

    # What is seen.

    def observations(self) -> list[str]:
        """What the engine answers to the last command of each game; before the first, its welcome with the task."""
        return [self._seen(row) for row in range(self.n_games)]

    def _a_list(self, row: int, things: np.ndarray) -> str:
        return _listing([f"a {self._things[row][k]}" for k in things])

    def _seen(self, row: int) -> str:
        verb, thing, place = int(self._did[row]), self._with[row], self._in[row]
        if verb == _START:
            seen = _around(_listing([f"a {name}" for name in self._stands[row]]))
            return f"-= Welcome to TextWorld, ALFRED! =-\n\n{seen}\n\nYour task is to: {self._starts[row].goal}."
        if verb == _WAIT:
            return "Nothing happens."
        if verb < _GO:
            return (HELP, self._inventory(row), self._look(row))[verb]
        if verb in (_EXAMINE_IT, _USE, _SLICE):
            item, knife = self._things[row][place], self._things[row][thing]
            if verb == _EXAMINE_IT:
                return self._looks(row, int(place), item)
            return f"You turn on the {item}." if verb == _USE else f"You sliced the {item} with the {knife}."
        item, stand = self._things[row][thing] if self._things[row] else "", self._stands[row][place]
        if verb in (_GO, _OPEN, _EXAMINE):
            before = {_GO: f"You arrive at {stand}. ", _OPEN: f"You open the {stand}. ", _EXAMINE: ""}
            return before[verb] + self._inside(row, int(place), stand)
        if verb in (_CLEAN_IT, _HEAT_IT, _COOL_IT):
            return f"You {_ON_RECEPTACLES[verb - _GO]} the {item} using the {stand}."
        return {
            _CLOSE: f"You close the {stand}.",
            _MOVE: f"You move the {item} to the {stand}.",
            _TAKE: f"You pick up the {item} from the {stand}.",
        }[verb]

    def _inventory(self, row: int) -> str:
        held = np.flatnonzero(self._place[row] == _HELD)
        return f"You are carrying: {self._a_list(row, held)}." if len(held) else "You are not carrying anything."

    def _inside(self, row: int, place: int, stand: str) -> str:
        if self._openable[row, place] and not self._open[row, place]:
            return f"The {stand} is closed."
        found = self._a_list(row, np.flatnonzero(self._place[row] == place))
        where = f"The {stand} is open. In it" if self._open[row, place] else f"On the {stand}"
        return f"{where}, you see {found}."

    def _look(self, row: int) -> str:
        near = np.flatnonzero(self._spot[row] == self._at[row])
        if not len(near):
            return _around("nothing")
        here = np.isin(self._place[row], near)
        moved = np.argwhere(here[:, None] & self._left[row][:, near])[:, 0]  # once for each place that it left
        facing = _listing([self._stands[row][place] for place in near])
        return f"You are facing the {facing}. Next to it, you see {self._a_list(row, moved)}."

    def _looks(self, row: int, thing: int, item: str) -> str:
        has = {name: bool(values[row, thing]) for name, values in self._is.items()}
        if self._can["vessel"][row, thing]:
            return f"This is a normal {item}. In it, you see nothing."
        warmth = "hot" if has["hot"] else "cool" if has["cool"] else ""
        parts = [warmth] if warmth else []
        parts += ["clean"] if has["clean"] else []
        if parts:
            if parts == ["cool"] and not has["sliced"]:
                parts = ["cold"]
            return f"This is a {' and '.join(parts)} {'sliced ' if has['sliced'] else ''}{item}."
        if has["on"]:
            return f"This {item} is on."
        return f"This is a sliced {item}." if has["sliced"] else f"There's nothing special about {item}."

    # What a good player does.

    def advise(self) -> list[str]:
        """A command for each game that brings its task nearer, by one who sees into closed receptacles; "" where the
        game has ended. Also right after bad moves: what does not belong in the hand is put down first."""
        return ["" if self._over[row] else self._advice(row) for row in range(self.n_games)]

    def _cost(self, row: int, place: int) -> int:
        """Commands until something can be taken from or put into the receptacle."""
        shut = self._openable[row, place] and not self._open[row, place]
        return int(self._spot[row, place] != self._at[row]) + int(shut)

    def _reach(self, row: int, place: int, command: str, *, opened: bool = True) -> str:
        """The next command on the way to do ``command`` at a receptacle."""
        if self._spot[row, place] != self._at[row]:
            return f"go to {self._stands[row][place]}"
        if opened and self._openable[row, place] and not self._open[row, place]:
            return f"open {self._stands[row][place]}"
        return command

    def _nearest(self, row: int, places: np.ndarray) -> int:
        return min(map(int, places), key=lambda place: (self._cost(row, place), place))

    def _advice(self, row: int) -> str:
        task, stands, things = int(self._task[row]), self._stands[row], self._things[row]
        held, place = np.flatnonzero(self._place[row] == _HELD), self._place[row]
        wanted = self._can["target"][row]
        goals = np.flatnonzero(self._goal_place[row])
        if task == TWO:  # where most of them are already
            counts = [int((wanted & (place == goal)).sum()) for goal in goals]
            goals = goals[np.array(counts) == max(counts)]
            goals = np.array([self._nearest(row, goals)])
        if len(held):
            mine = things[held[0]]
            if not wanted[held[0]]:
                down = self._nearest(row, np.flatnonzero(self._fits[row, held[0]]))
                return self._reach(row, down, f"move {mine} to {stands[down]}")
            if task == LOOK:
                lamp = int(np.flatnonzero(self._can["lamp"][row])[0])
                return self._reach(row, int(place[lamp]), f"use {things[lamp]}", opened=False)
            if task in TREATMENTS and not self._treated(row)[held[0]]:
                tool = self._nearest(row, np.flatnonzero(self._tool[task][row]))
                return self._reach(row, tool, f"{TREATMENTS[task][0]} {mine} with {stands[tool]}", opened=False)
            down = self._nearest(row, goals)
            return self._reach(row, down, f"move {mine} to {stands[down]}")
        left = [k for k in map(int, np.flatnonzero(wanted)) if task != TWO or place[k] not in goals]
        done = self._treated(row) if task in TREATMENTS else np.ones(MOST_OBJECTS, dtype=bool)
        thing = min(left, key=lambda k: (self._cost(row, int(place[k])) + 2 * int(not done[k]), k))
        return self._reach(row, int(place[thing]), f"take {things[thing]} from {stands[place[thing]]}")

    def _treated(self, row: int) -> np.ndarray:
        return self._is[{CLEAN: "clean", HEAT: "hot", COOL: "cool"}[int(self._task[row])]][row]


def _check(start: Start) -> None:
    if (start.target, start.where) not in possible(start.task, start.plan):
        wish = f"{start.task} with {start.target} and {start.where}"
        raise ReprobookError(f"floor plan {start.plan} does not offer {wish}; see errands.possible")
    n, most = len(start.objects), len(floor_plans()[start.plan].receptacles) - 1
    if n > MOST_OBJECTS or len(start.places) != n or list(start.objects) != sorted(start.objects, key=engine_order):
        raise ReprobookError(
            f"the start has {n} objects in {len(start.places)} places; give at most {MOST_OBJECTS}, sorted by kind, "
            "with a place each"
        )
    if not all(0 <= place <= most for place in start.places):
        raise ReprobookError(f"the start has objects in places {start.places}; they must be from 0 to {most}")


def _listing(items: Sequence[str]) -> str:
    """The grammar's lists: ``nothing``, ``x``, ``x, and y``, ``x, y, and z``."""
    if len(items) < 2:
        return items[0] if items else "nothing"
    return f"{', '.join(items[:-1])}, and {items[-1]}"


def _around(seen: str) -> str:
    return f"You are in the middle of a room. Looking quickly around you, you see {seen}."


def play(game: Alfworld, player: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Play every game to its end: whether it was won, the number of commands and the sum of the rewards, each (B,).

    ``player``: expert, or random (uniform over the admissible commands)."""
    if player not in ("expert", "random"):
        raise ReprobookError(f"player is {player!r}; it must be expert or random")
    won, steps, total = np.zeros((3, game.n_games))
    while not game.over().all():
        steps += ~game.over()
        if player == "expert":
            choice, legal = game.parse([respond(command) for command in game.advise()])
        else:
            sizes, chance = [len(menu) for menu in game.admissible()], rng.random(game.n_games)
            choice, legal = np.where(game.over(), REST, (chance * sizes).astype(np.int64)), ~game.over()
        outcome = game.step(choice, legal)
        won += outcome.won
        total += outcome.reward
    return won > 0, steps, total


def play_expert(n_games: int, seed: int) -> pd.DataFrame:
    """A row for each type of task, of ``n_games`` games each: how many the expert wins, its mean number of commands and
    mean return, and the same games played at random, all by the rules and limits of the released training. Its reading
    of responses can cost the expert a detour, see :meth:`Alfworld.parse`."""
    import pandas as pd

    rows = []
    for number, task in enumerate(TASKS):
        games = [Alfworld(n_games, np.random.default_rng([seed, number]), tasks=[task]) for _ in range(2)]
        best, steps, paid = play(games[0], "expert", np.random.default_rng([seed, number, 1]))
        lucky, tried, got = play(games[1], "random", np.random.default_rng([seed, number, 2]))
        expert = {"won by expert": int(best.sum()), "steps of expert": steps.mean(), "return of expert": paid.mean()}
        chance = {"won by chance": int(lucky.sum()), "steps by chance": tried.mean(), "return by chance": got.mean()}
        rows.append({"task": task, "games": n_games, **expert, **chance})
    return pd.DataFrame(rows)


def transcript(task: str, seed: int) -> pd.DataFrame:
    """One game of the task, played by the expert: a row for each step with what was seen before the command, the
    command and its reward; the last row shows what was seen at the end."""
    import pandas as pd

    game = Alfworld(1, np.random.default_rng(seed), tasks=[task])
    rows: list[dict[str, object]] = []
    while not game.over()[0]:
        seen, command = game.observations()[0], game.advise()[0]
        outcome = game.step(*game.parse([respond(command)]))
        rows.append({"step": len(rows), "observation": seen, "command": command, "reward": float(outcome.reward[0])})
    rows.append({"step": len(rows), "observation": game.observations()[0], "command": "", "reward": 0.0})
    return pd.DataFrame(rows)
