"""Transcripts of ALFWorld's real engine, the oracle of ``reprobook.papers.gtr.alfworld``; run once, by hand:

    pip install --target engine "textworld[pddl]==1.7.0" && pip install --target engine --no-deps alfworld==0.4.2
    PYTHONPATH=engine:lib python lib/tests/papers/gtr_alfworld_engine.py

The packages are not in the lock file, and two of them are compiled. The script draws games, writes each as a PDDL
problem, and lets the engine play it four times: the expert's commands, a random walk, a random walk that the expert
ends, and a tour through what seldom happens by chance; a few kitchens follow with a tour of what is left. What the
engine answers goes to ``gtr_alfworld.json.xz`` beside this file: for each game what ``errands.Start`` takes, and for
each step the command, the observation, the admissible commands (those that joined and those that left) and whether the
game is won.
"""

from __future__ import annotations

import functools
import json
import lzma
import random
import sys
from pathlib import Path

import numpy as np

WHERE = Path(__file__).with_name("gtr_alfworld.json.xz")
SEED, GAMES_A_TASK, WALK, KITCHENS = 90, 12, 20, 6
PICKED = ("take", "move", "open", "close", "use", "slice", "heat", "cool", "clean", "examine", "look", "inventory")


def things(kinds: tuple[str, ...]) -> list[str]:
    """The engine's names of these things: of one kind they sort in the order they are given."""
    ends = {"SinkBasin": "_bar_sinkbasin", "BathtubBasin": "_bar_bathtubbasin"}
    starts = {"SinkBasin": "sink", "BathtubBasin": "bathtub"}
    found = []
    for k, kind in enumerate(kinds):
        found.append(f"{starts.get(kind, kind.lower())}_bar_{kinds[:k].count(kind):02d}{ends.get(kind, '')}")
    return found


def problem(start, goal_of_task: str) -> str:
    """The game as ALFWorld writes it: ``PlannedGameState.state_to_pddl`` with its facts about where things are."""
    from reprobook.papers.gtr.floorplans import CAN, HOLDS, OPENABLE, VESSELS, floor_plans

    room = floor_plans()[start.plan]
    stands, objects = things(room.receptacles), things(start.objects)
    kinds = sorted({*start.objects, *(kind for held in HOLDS.values() for kind in held), "ButterKnife", "Knife"})
    declared = [
        "agent1 - agent", *(f"{name} - object" for name in objects), *(f"{name} - receptacle" for name in stands),
        *(f"loc_bar_{spot:02d} - location" for spot in sorted({*room.spots})), "loc_bar_start - location",
        *(f"{kind}Type - otype" for kind in kinds), *(f"{kind}Type - rtype" for kind in sorted(HOLDS)),
    ]  # fmt: skip
    facts = ["(= (total-cost) 0)", "(atLocation agent1 loc_bar_start)"]
    for name, kind, spot in zip(stands, room.receptacles, room.spots, strict=True):
        facts += [f"(receptacleType {name} {kind}Type)", f"(receptacleAtLocation {name} loc_bar_{spot:02d})"]
        facts += [f"(openable {name})"] if kind in OPENABLE else []
    for name, kind, place in zip(objects, start.objects, start.places, strict=True):
        facts += [f"(objectType {name} {kind}Type)", f"(inReceptacle {name} {stands[place]})"]
        facts += [f"(objectAtLocation {name} loc_bar_{room.spots[place]:02d})"]
        facts += [f"({what[0].lower()}{what[1:]} {name})" for what, members in CAN.items() if kind in members]
        facts += [f"(isReceptacleObject {name})"] if kind in VESSELS else []
        facts += [f"(pickupable {name})"] if kind not in CAN["Toggleable"] else []
    facts += [f"(canContain {stand}Type {kind}Type)" for stand, held in sorted(HOLDS.items()) for kind in sorted(held)]
    goal = goal_of_task.format(obj=start.target, recep=start.where, toggle=start.where).replace("#", "-")
    newline = "\n    "
    return (
        f"(define (problem game)\n (:domain alfred)\n (:objects\n    {newline.join(declared)})\n"
        f" (:init\n    {newline.join(facts)})\n{goal}"  # which closes the problem, too
    )


class Engine:
    """The real engine with one game."""

    def __init__(self, start) -> None:
        import alfworld
        import alfworld.gen.goal_library as goals
        import fast_downward
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs.pddl import PddlEnv

        if not hasattr(fast_downward.pddl2sas, "cache_info"):  # the engine translates a problem twice at every reset
            fast_downward.pddl2sas = functools.cache(fast_downward.pddl2sas)
        logic = Path(alfworld.__file__).parent / "data"
        assert start.goal in {
            text.format(obj=start.target.lower(), recep=start.where.lower(), toggle=start.where.lower())
            for text in goals.gdict[start.task]["templates"]
        }
        self.env = AlfredDemangler(PddlEnv(textworld.EnvInfos(admissible_commands=True, won=True, score=True)))
        self.env.load(
            {
                "pddl_domain": (logic / "alfred.pddl").read_text(),
                "grammar": (logic / "alfred.twl2").read_text().replace("UNKNOWN GOAL", start.goal),
                "pddl_problem": problem(start, goals.gdict[start.task]["pddl"]),
            }
        )

    def play(self, choose, most: int) -> list[list]:
        """Steps [command, observation, admissible commands, won] until won or ``choose(state)`` gives None."""
        state = self.env.reset()
        steps = [["", state.feedback, state["admissible_commands"], bool(state["won"])]]
        while len(steps) <= most and not state["won"] and (command := choose(state)) is not None:
            state, score, done = self.env.step(command)
            assert bool(score) == bool(done) == bool(state["won"])
            steps.append([command, state.feedback, state["admissible_commands"], bool(state["won"])])
        return steps


def walker(rng: random.Random):
    """A player by chance who prefers other verbs to going about, and now and then says what cannot be done."""

    def choose(state) -> str:
        menu = state["admissible_commands"]
        if rng.random() < 0.04:
            return rng.choice(["go to the moon", "take apple 1 from fridge 1", "open drawer 1", "go to countertop 1"])
        verb = rng.choice([*sorted({text.split()[0] for text in menu if text.startswith(PICKED)}), "go"])
        return rng.choice([text for text in menu if text.split()[0] == verb] or menu)

    return choose


def tour(start) -> list[str]:
    """Commands that slice, heat, clean, cool and examine one object, use a lamp twice, and move an object between
    receptacles that stand together, as far as the game allows; the engine refuses the rest."""
    from reprobook.papers.gtr.errands import homes, names
    from reprobook.papers.gtr.floorplans import CAN, OPENABLE, floor_plans

    room = floor_plans()[start.plan]
    called, stands = names(start.objects), names(room.receptacles)

    def reach(k: int) -> list[str]:
        place = start.places[k]
        return [f"go to {stands[place]}", *([f"open {stands[place]}"] if room.receptacles[place] in OPENABLE else [])]

    def first(kinds) -> int | None:
        return next((k for k, kind in enumerate(start.objects) if kind in kinds), None)

    found: list[str] = []
    knife, food, lamp = first(("ButterKnife", "Knife")), first(CAN["Sliceable"]), first(CAN["Toggleable"])
    if knife is not None and food is not None:
        item, place = called[food], stands[start.places[food]]
        found += [
            *reach(knife),
            f"take {called[knife]} from {stands[start.places[knife]]}",
            *reach(food),
            f"slice {item} with {called[knife]}",
        ]
        found += [
            f"examine {item}",
            f"move {called[knife]} to {place}",
            "go to countertop 1",
            f"move {called[knife]} to countertop 1",
        ]
        found += [f"go to {place}", f"take {item} from {place}", f"examine {item}"]
        for verb, tool in (("heat", "microwave 1"), ("clean", "sinkbasin 1"), ("cool", "fridge 1")):
            found += [f"go to {tool}", f"{verb} {item} with {tool}", f"examine {item}"]
        found += ["go to countertop 1", f"move {item} to countertop 1"]
    if lamp is not None:
        found += [*reach(lamp), *[f"examine {called[lamp]}", f"use {called[lamp]}"] * 2]
    for k, kind in enumerate(start.objects):
        here = start.places[k]
        beside = [place for place in homes(start.plan, kind) if place != here and room.spots[place] == room.spots[here]]
        if beside and kind not in CAN["Toggleable"] and k not in (knife, food):
            found += [*reach(k), f"open {stands[beside[0]]}", f"take {called[k]} from {stands[here]}"]
            return [*found, "look", f"move {called[k]} to {stands[beside[0]]}", "look", f"close {stands[here]}", "look"]
    return found


def kitchen(start) -> list[str]:
    """Commands that treat and examine an object before it is sliced, slice it in a closed fridge, and ask for help."""
    from reprobook.papers.gtr.errands import names
    from reprobook.papers.gtr.floorplans import CAN, floor_plans

    called, stands = names(start.objects), names(floor_plans()[start.plan].receptacles)
    knife = next(k for k, kind in enumerate(start.objects) if kind in ("ButterKnife", "Knife"))
    kinds = CAN["Sliceable"] & CAN["Heatable"] & CAN["Cleanable"]
    food = next(k for k, kind in enumerate(start.objects) if kind in kinds)
    item, blade, place, rack = called[food], called[knife], stands[start.places[food]], stands[start.places[knife]]
    found = ["help", f"go to {place}", f"open {place}", f"take {item} from {place}", f"examine {item}"]
    for verb, tool in (("heat", "microwave"), ("cool", "fridge"), ("clean", "sinkbasin"), ("heat", "microwave")):
        found += [f"go to {tool} 1", f"{verb} {item} with {tool} 1", f"examine {item}"]
    found += ["inventory", "go to fridge 1", "open fridge 1", f"move {item} to fridge 1", "close fridge 1"]
    found += [
        f"go to {rack}",
        f"open {rack}",
        f"take {blade} from {rack}",
        "go to fridge 1",
        f"slice {item} with {blade}",
    ]
    return [*found, "open fridge 1", "examine fridge 1", f"examine {item}", "help"]


def kitchens() -> list[dict]:
    """Games of the last task in kitchens, each with the play of :func:`kitchen` alone."""
    from reprobook.papers.gtr.errands import TASKS, draw
    from reprobook.papers.gtr.floorplans import CAN

    games: list[dict] = []
    kinds = CAN["Sliceable"] & CAN["Heatable"] & CAN["Cleanable"]
    for k in range(100):
        start = draw(TASKS[5], np.random.default_rng([SEED, len(TASKS), k]), 1 + k % 30)
        if len(games) < KITCHENS and "Knife" in start.objects and kinds & {*start.objects}:
            route = iter(kitchen(start))
            games.append({"start": list(start), "plays": [Engine(start).play(lambda state: next(route, None), 60)]})  # noqa: B023
            print("kitchen", k, len(games[-1]["plays"][0]), file=sys.stderr, flush=True)
    return games


def expert(start):
    """The expert of the simulator, who follows the engine's game."""
    from reprobook.papers.gtr.alfworld import Alfworld

    game = Alfworld(1, np.random.default_rng(0), truncated=False)
    game.put(np.ones(1, dtype=bool), [start])

    def follow(command: str) -> str:
        game.step(game.find([command]))
        return command

    return (lambda state: follow(game.advise()[0])), follow


def main() -> None:
    """See the module."""
    from reprobook.papers.gtr.errands import TASKS, draw

    games = []
    for number, task in enumerate(TASKS):
        for k in range(GAMES_A_TASK):
            start = draw(task, np.random.default_rng([SEED, number, k]))
            engine, rng = Engine(start), random.Random(1000 * number + k)
            best, _ = expert(start)
            walk = walker(rng)
            last, follow = expert(start)
            opening = [walk] * (WALK // 2)
            both = lambda state: follow(opening.pop()(state)) if opening else last(state)  # noqa: B023, E731
            plays = [engine.play(best, 40), engine.play(walk, WALK), engine.play(both, 60)]
            route = iter(tour(start))
            plays.append(engine.play(lambda state: next(route, None), 60))  # noqa: B023
            assert plays[0][-1][3] and plays[2][-1][3], f"{task} {k} was not won by the expert"
            games.append({"start": list(start), "plays": plays})
            print(task, k, [len(play) for play in plays], file=sys.stderr, flush=True)
    text = json.dumps(shared(games + kitchens()), separators=(",", ":"))
    WHERE.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def shared(games: list[dict]) -> dict:
    """The same with each list of admissible commands as what joined and left since the step before."""
    for game in games:
        for play in game["plays"]:
            before: list[str] = []
            for step in play:
                menu = step[2]
                step[2] = [sorted(set(menu) - set(before)), sorted(set(before) - set(menu))]
                before = menu
    return {"packages": {"textworld": "1.7.0", "alfworld": "0.4.2"}, "games": games}


if __name__ == "__main__":
    main()
