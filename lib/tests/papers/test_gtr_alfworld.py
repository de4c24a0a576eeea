"""ALFWorld as text: what the real engine said, step by step; rewards, ends, the reading of responses; the expert."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from reprobook.errors import ReprobookError
from reprobook.papers.gtr import bench
from reprobook.papers.gtr.alfworld import NOTHING, REST, Alfworld, play, play_expert, respond, transcript
from reprobook.papers.gtr.errands import TASKS, Start, draw, homes, possible
from reprobook.papers.gtr.floorplans import HOLDS, floor_plans

TRANSCRIPTS = Path(__file__).with_name("gtr_alfworld.json.xz")  # made by gtr_alfworld_engine.py
ONE = np.ones(1, dtype=bool)
# Floor plan 3 has four closed cabinets; the egg and the mug are on its countertop.
HOT_EGG = Start("pick_heat_then_place_in_recep", "Egg", "GarbageCan", 1, 3, ("Egg", "Mug"), (5, 5))


@cache
def transcripts() -> list[tuple[Start, list[list]]]:
    """Each play of each game: steps [command, observation, sorted admissible commands, won]."""
    found = []
    for game in json.loads(lzma.decompress(TRANSCRIPTS.read_bytes()))["games"]:
        *head, objects, places = game["start"]
        for steps in game["plays"]:
            menu: set[str] = set()
            told = []
            for command, seen, (joined, left), won in steps:
                menu = (menu | set(joined)) - set(left)
                told.append([command, seen, sorted(menu), won])
            found.append((Start(*head, tuple(objects), tuple(places)), told))
    return found


def one(start: Start, **options: bool) -> Alfworld:
    """A single given game."""
    game = Alfworld(1, np.random.default_rng(0), **options)
    game.put(ONE, [start])
    return game


def do(game: Alfworld, *commands: str) -> list[str]:
    """What is seen after each of the commands."""
    seen = []
    for command in commands:
        game.step(game.find([command]))
        seen += game.observations()
    return seen


def test_there_are_enough_transcripts_and_every_verb_is_in_them() -> None:
    games = {start for start, _ in transcripts()}
    assert len(games) >= 50
    assert {start.task for start in games} == set(TASKS)
    said = {command.split()[0] for _, steps in transcripts() for command, *_ in steps if command}
    assert said >= set("go open close take move examine use heat clean cool slice look inventory help".split())
    assert {start.plan // 100 for start in games} == {0, 2, 3, 4}, "all kinds of rooms"
    heard = " ".join(seen for _, steps in transcripts() for _, seen, *_ in steps)
    for state in ("hot", "cold", "clean", "cool and clean", "hot and clean", "hot sliced", "cool sliced", "sliced"):
        assert f" a {state} " in heard, state
    assert "Nothing happens." in heard and "Available commands:" in heard
    assert sum(steps[-1][3] for _, steps in transcripts()) >= 100, "games that were won"


def test_every_answer_of_the_real_engine_is_given_word_for_word() -> None:
    plays = transcripts()
    game = Alfworld(len(plays), np.random.default_rng(0), truncated=False)
    game.put(np.ones(len(plays), dtype=bool), [start for start, _ in plays])
    won = np.zeros(len(plays), dtype=bool)
    for turn in range(max(len(steps) for _, steps in plays)):
        if turn:
            going = [steps[turn][0] if turn < len(steps) else "" for _, steps in plays]
            won = game.step(game.find(going)).won
        seen, menus = game.observations(), game.admissible()
        for k, (start, steps) in enumerate(plays):
            if turn < len(steps):
                assert [seen[k], menus[k], bool(won[k])] == steps[turn][1:], f"{start}, step {turn}: {steps[turn][0]}"


def test_games_played_together_are_games_played_one_by_one() -> None:
    assert list(bench.alfworld_throughput(4, 12).seconds) == ["game by game", "all at once"]  # compares them


def test_rewards_are_the_released_ones() -> None:
    game, paid, read = one(HOT_EGG), [], []
    while not game.over()[0]:
        read += game.advise()
        paid.append(float(game.step(game.find(game.advise())).reward[0]))
    assert read[-1].startswith("move egg 1 to garbagecan")
    heated = next(k for k, command in enumerate(read) if command.startswith("heat"))
    assert paid == pytest.approx([0.0] * heated + [1 / 3] * (len(paid) - heated - 1) + [51.0])
    assert (game.find(["look"]) == REST).all()
    game = one(HOT_EGG)
    outcome = game.step(*game.parse([respond("fly to the moon")]))
    assert outcome.reward[0] == -1.0 and outcome.rate[0] == 0.0


def test_a_game_ends_at_its_41st_command_and_at_the_fifth_that_is_the_same() -> None:
    game = one(HOT_EGG)
    for turn in range(1, 42):
        outcome = game.step(game.find([("look", "inventory")[turn % 2]]))
        assert (outcome.reward[0], bool(outcome.truncated[0])) == ((-3.0, True) if turn == 41 else (0.0, False))
    assert game.over()[0]
    game = one(HOT_EGG)
    for turn, command in enumerate(["look"] * 4 + ["help"] + ["look"] * 5):
        outcome = game.step(game.find([command]))
        assert bool(outcome.truncated[0]) == (turn == 9)
    assert outcome.reward[0] == -3.0
    free = one(HOT_EGG, truncated=False)
    assert {float(free.step(free.find(["look"])).reward[0]) for _ in range(50)} == {0.0}


def test_a_command_that_wins_too_late_is_paid_as_cut() -> None:
    game = one(HOT_EGG)
    n_needed = int(play(one(HOT_EGG), "expert", np.random.default_rng(0))[1][0])
    for turn in range(41 - n_needed):
        game.step(game.find([("look", "inventory")[turn % 2]]))
    for _ in range(n_needed):
        outcome = game.step(game.find(game.advise()))
    assert outcome.won[0] and outcome.truncated[0] and outcome.reward[0] == -3.0


def test_the_first_admissible_command_that_occurs_is_meant() -> None:
    game = one(HOT_EGG)
    menu = game.admissible()[0]
    assert menu == sorted(menu)

    def meant(response: str) -> str:
        choice, legal = game.parse([response])
        assert legal[0]
        return menu[choice[0]]

    assert meant('{"thoughts": "look", "action": "go to fridge 1"}') == "go to fridge 1"
    assert meant('{"THOUGHTS": "", "ACTION": "Go To Fridge 1"}') == "go to fridge 1", "in lower case"
    assert meant('"action": "look, then go to cabinet 2"') == "go to cabinet 2", "order of the list, not of the text"
    assert meant('"action": "go to cabinet 11"') == "go to cabinet 1", "a part of a word counts"
    assert meant('"action": "help" "action": "look"') == "help", "from the first key on"
    assert meant("I would go to the fridge: inventory") == "inventory", "no key: the last thirty characters"
    assert not game.parse(["go to fridge 1" + "." * 30])[1][0]


def test_a_response_without_a_command_is_a_random_one_and_not_legal() -> None:
    game = Alfworld(120, np.random.default_rng(1))
    game.put(np.ones(120, dtype=bool), [HOT_EGG] * 120)
    choice, legal = game.parse(["", respond("sing")] * 60)
    n_commands = len(game.admissible()[0])
    assert not legal.any() and set(choice) == set(range(n_commands))
    assert (game.step(choice, legal).reward == -1.0).all()


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_wins_from_the_start_and_after_bad_moves(task: str) -> None:
    game = Alfworld(15, np.random.default_rng([7, TASKS.index(task)]), tasks=[task], truncated=False)
    assert all(start.task == task for start in game.starts())
    for walked in (0, 25):
        game.deal(np.ones(15, dtype=bool))
        assert not game.step(np.full(15, NOTHING)).won.any(), "no game begins solved"
        rng = np.random.default_rng(8)
        for _ in range(walked):
            sizes = np.array([len(menu) for menu in game.admissible()])
            game.step(np.where(game.over(), REST, (rng.random(15) * sizes).astype(int)))
        for _ in range(30):
            last = game.step(game.find(game.advise()))
        assert game.over().all() and last.reward.sum() == 0.0


def test_a_closed_receptacle_hides_what_is_in_it_and_hot_is_not_cold() -> None:
    game = one(HOT_EGG, truncated=False)
    assert do(game, "go to fridge 1", "examine fridge 1") == [
        "You arrive at fridge 1. The fridge 1 is closed.", "The fridge 1 is closed.",
    ]  # fmt: skip
    inside = floor_plans()[3].receptacles.index("Fridge")
    game = one(HOT_EGG._replace(places=(inside, 5)), truncated=False)
    do(game, "go to fridge 1")
    assert not [command for command in game.admissible()[0] if "egg" in command]
    assert do(game, "take egg 1 from fridge 1") == ["Nothing happens."]
    opened = do(game, "open fridge 1", "take egg 1 from fridge 1")
    assert opened[0].endswith("In it, you see a egg 1.") and opened[1] == "You pick up the egg 1 from the fridge 1."
    seen = do(game, "cool egg 1 with fridge 1", "examine egg 1", "go to microwave 1", "heat egg 1 with microwave 1",
              "examine egg 1", "go to fridge 1", "cool egg 1 with fridge 1", "examine egg 1")  # fmt: skip
    assert [seen[1], seen[4], seen[7]] == ["This is a cold egg 1.", "This is a hot egg 1.", "This is a cold egg 1."]


def test_an_object_is_taken_from_one_place_alone() -> None:
    game = Alfworld(40, np.random.default_rng(3), truncated=False)
    for turn in range(30):
        menus = game.admissible()
        for menu in menus:
            taken = [command.split(" from ")[0] for command in menu if command.startswith("take")]
            assert len(set(taken)) == len(taken)
            assert not (taken and any(command.startswith("move") for command in menu)), "one hand, one object"
        verb = ("take", "move")[turn % 2]
        wish = [next((c for c in menu if c.startswith(verb)), menu[turn % len(menu)]) for menu in menus]
        game.step(game.find(wish))


def test_games_are_set_where_the_rules_allow_it() -> None:
    assert len(floor_plans()) == 120 and set(HOLDS) >= {
        kind for room in floor_plans().values() for kind in room.receptacles
    }
    assert not possible("pick_heat_then_place_in_recep", 401), "no microwave in a bathroom"
    for number, task in enumerate(TASKS):
        start = draw(task, np.random.default_rng([5, number]))
        assert (start.target, start.where) in possible(task, start.plan)
        stands = floor_plans()[start.plan].receptacles
        for kind, place in zip(start.objects, start.places, strict=True):
            assert place in homes(start.plan, kind)
            assert kind != start.target or stands[place] != start.where
        assert start == draw(task, np.random.default_rng([5, number])) != draw(task, np.random.default_rng([6, number]))


def test_tables_for_the_chapter() -> None:
    table = play_expert(3, 90)
    assert (
        list(table.task) == list(TASKS) and (table["won by expert"] == 3).all() and (table["won by chance"] <= 3).all()
    )
    assert (table["steps of expert"] < 15).all() and (table["return of expert"] >= 51).all()
    assert table.equals(play_expert(3, 90))
    told = transcript(TASKS[5], 90)
    assert list(told) == ["step", "observation", "command", "reward"] and told.reward.iloc[-2] == 51.0
    assert told.observation[0].startswith("-= Welcome to TextWorld, ALFRED! =-") and told.command.iloc[-1] == ""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Alfworld(0, np.random.default_rng(0)), "n_games is 0; it must be at least 1"),
        (lambda: Alfworld(1, np.random.default_rng(0), tasks=["dance"]), "task 'dance' is not known; tasks: pick_and"),
        (lambda: Alfworld(1, np.random.default_rng(0), tasks=[]), "tasks is empty; name at least one of pick_and"),
        (lambda: Alfworld(1, np.random.default_rng(0), plans=[31]), "floor plan 31 is not known; floor plans: 1 to 30"),
        (lambda: Alfworld(1, np.random.default_rng(0), plans=[401]), r"plans \[401\] do not offer the task 'look_at"),
        (lambda: draw(TASKS[4], np.random.default_rng(0), 201), "floor plan 201 does not offer the task 'pick_cool"),
        (lambda: one(HOT_EGG).step(np.array([99])), r"choice\[0\] is 99; it must be from -1 to"),
        (lambda: one(HOT_EGG).step(np.array([REST])), r"choice\[0\] is -2, but game 0 goes on"),
        (lambda: one(HOT_EGG).step(np.zeros(2, dtype=int)), r"choice has shape \(2,\); it must be \(1,\)"),
        (lambda: one(HOT_EGG).parse([]), "there are 0 responses for 1 games"),
        (lambda: one(HOT_EGG).find(["look"] * 2), "there are 2 commands for 1 games"),
        (lambda: one(HOT_EGG).put(ONE, []), "starts has 0 games for 1"),
        (lambda: one(HOT_EGG._replace(places=(1,))), "the start has 2 objects in 1 places"),
        (lambda: one(HOT_EGG._replace(places=(1, 99))), r"objects in places \(1, 99\); they must be from 0 to 17"),
        (lambda: one(HOT_EGG._replace(target="Sofa")), "floor plan 3 does not offer pick_heat_then_place"),
        (lambda: play(one(HOT_EGG), "cheat", np.random.default_rng(0)), "player is 'cheat'; it must be expert or"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, said: str) -> None:
    with pytest.raises(ReprobookError, match=said):
        call()


def test_a_game_that_has_ended_takes_no_command() -> None:
    game = one(HOT_EGG)
    play(game, "expert", np.random.default_rng(0))
    with pytest.raises(ReprobookError, match=r"choice\[0\] is 0, but game 0 has ended; deal it anew"):
        game.step(np.array([0]))
    assert game.step(np.array([REST])).reward[0] == 0.0 and game.advise() == [""]
    game.deal(ONE)
    assert not game.over()[0] and "Your task is to" in game.observations()[0]
