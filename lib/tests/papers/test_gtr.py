"""The experiments' bookkeeping, the paper's tables and the benchmark."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from reprobook import facts
from reprobook.errors import ReprobookError
from reprobook.papers.gtr import bench, games, printed, study
from reprobook.papers.gtr.learning import Played
from reprobook.papers.gtr.policy import Policy, Shape


def played(returns: list[float], named: list[float]) -> Played:
    n = len(returns)
    return Played(np.array(returns), np.zeros(n), np.array(named), np.ones(n), ["a b"] * n, np.zeros(n))


def ends(returns: list[float], sharp: list[float], named: list[float], told: list[float]) -> study.Measured:
    """Sampled and sharp returns, how far sampled thoughts name the cards (sharp ones half as far); greedy reads the
    first hand."""
    n = len(returns)
    half = played(sharp, [each / 2 for each in named])
    return study.Measured(played(returns, named), half, played(returns, [1.0, 0.0]), np.array(told)[:n])


def run(first: study.Measured, last: study.Measured) -> study.Run:
    return study.Run(first, last, pd.DataFrame(), Policy(Shape(1, 1, 1, 4, 8)))


START = ends([-1, 9], [9, -1], [0.5, 1.0], [1.0, 0.0])
BLIND = ends([-1, -1], [-1, -1], [0.0, 0.0], [0.0, 0.0])
RL = run(START, ends([-3, -1], [-1, 5], [0.25, 0.0], [0.25, 0.0]))
GTR = run(START, ends([10, 8], [10, -1], [1.0, 0.75], [1.5, 0.5]))
ACTION = run(BLIND, ends([-1, 9], [10, 10], [0.0, 0.0], [0.0, 0.0]))
NAMED = "thoughts that name the cards"


def differences(pairs: study.Pairs) -> dict[str, list[float]]:
    return {name: (a - b).tolist() for name, (a, b) in pairs.items()}


def test_effects_pair_the_hands() -> None:
    runs = {"RL only": RL, "GTR": GTR}
    both = {
        "RL only: success, last minus first": [0, -1],
        f"RL only: {NAMED}, last minus first": [-0.25, -1],
        "at T = 0.2: RL only: success, last minus first": [-1, 1],
        f"at T = 0.2: RL only: {NAMED}, last minus first": [-0.125, -0.5],
        "GTR: success, last minus first": [1, 0],
        f"GTR: {NAMED}, last minus first": [0.5, -0.25],
        "at T = 0.2: GTR: success, last minus first": [0, 0],
        f"at T = 0.2: GTR: {NAMED}, last minus first": [0.25, -0.125],
        "GTR minus RL only": [1, 1],
        "at T = 0.2: GTR minus RL only": [1, -1],
        "GTR minus sharpened start": [0, 1],
        f"at T = 0.2: {NAMED}: GTR minus RL only": [0.375, 0.375],
    }
    assert differences(study.pairs(runs)) == both
    assert differences(study.pairs(runs | {"action only": ACTION})) == both | {
        "GTR minus action only": [1, 0],
        "at T = 0.2: GTR minus action only": [0, -1],
        "action only: success, last minus first": [0, 1],
        "at T = 0.2: action only: success, last minus first": [1, 1],
        "at T = 0.2: gain over the start: GTR minus action only": [-1, -1],  # [0, 0] from its own start, less [1, 1]
        "RL only minus action only": [0, -1],
        "at T = 0.2: gain over the start: RL only minus action only": [-2, 0],
    }
    assert list(study.pairs({"RL only": RL})) == list(both)[:4]
    perfect = differences(study.pairs(runs | {"GTR, perfect corrector": GTR}))
    assert perfect["GTR, perfect corrector minus sharpened start"] == [0, 1]
    assert perfect["GTR minus GTR, perfect corrector"] == [0, 0]
    assert perfect[f"at T = 0.2: {NAMED}: GTR, perfect corrector minus RL only"] == [0.375, 0.375]
    assert differences(study.moved("x", GTR)) == {
        "x: success, last minus first": [1, 0], f"x: {NAMED}, last minus first": [0.5, -0.25],
        "at T = 0.2: x: success, last minus first": [0, 0],
        f"at T = 0.2: x: {NAMED}, last minus first": [0.25, -0.125],
    }  # fmt: skip


def test_new_hands_have_effects_of_their_own() -> None:
    def with_new(measured: study.Measured, new: list[float], sharp: list[float]) -> study.Measured:
        return measured._replace(new=played(new, [0, 0]), new_sharp=played(sharp, [0, 0]))

    start = with_new(START, [-1, -1], [10, -1])
    rl, gtr = (
        run(start, with_new(each.last, *new)) for each, new in ((RL, ([-1, 10], [-1, -1])), (GTR, ([10, 10], [-1, 10])))
    )
    found = differences(study.pairs({"RL only": rl, "GTR": gtr}))
    assert found["GTR minus RL only"] == [1, 1]  # hands of training
    assert found["new hands: GTR minus RL only"] == [1, 0]
    assert found["new hands, T = 0.2: GTR minus RL only"] == [0, 1]
    assert found["new hands: RL only: success, last minus first"] == [0, 1]
    assert found["new hands, T = 0.2: GTR: success, last minus first"] == [-1, 1]
    row = gtr.last.row()
    assert (row["success, new hands"], row["success, new hands, T = 0.2"]) == (1.0, 0.5)
    assert math.isnan(GTR.last.row()["success, new hands"])


def test_effects_of_information_are_those_of_runs_that_think() -> None:
    told = differences(study.told({"RL only": RL, "action only": ACTION, "GTR": GTR}))
    assert told == {
        "RL only: information on the cards in thoughts, last minus first": [-0.75, 0],
        "GTR: information on the cards in thoughts, last minus first": [0.5, 0.5],
    }


def test_a_full_collapse_of_thoughts_is_no_run_without_thoughts() -> None:
    """No thought names its cards any more: the strongest case of the effect, and not to be left out."""
    runs = {"RL only": run(START, ends([-3, -1], [-1, 5], [0.0, 0.0], [0.0, 0.0]))}
    assert differences(study.pairs(runs))[f"RL only: {NAMED}, last minus first"] == [-0.5, -1]
    assert len(study.told(runs)) == 1


def test_levels_outcomes_and_slopes() -> None:
    levels = {name: values.tolist() for name, values in study.levels({"RL only": RL}).items()}
    assert levels == {"cards read": [1, 0], "middle game: start": [0, 1], "middle game: legal actions": [1, 1]}
    blind = study.levels({"RL only": RL, "action only": ACTION})["middle game: start without thoughts"]
    assert blind.tolist() == [0, 0]
    assert study.outcome({"RL only": RL}) == "thought collapse, as in the paper"
    assert study.outcome({"RL only": run(BLIND, GTR.last)}) == "learning with thoughts"
    blind = run(START, ends([1, 1], [1, 1], [0.1, 0.1], [0, 0]))
    assert study.outcome({"RL only": blind}) == "success without thoughts that see the hand"
    assert study.outcome({"RL only": run(START, START)}) == "neither learned nor collapsed"
    assert study.slopes([0.0, 0.5, 1.0], [GTR, RL, RL]).tolist() == pytest.approx([-1, -1])
    with pytest.raises(ReprobookError, match="a slope needs two values"):
        study.slopes([0.3, 0.3], [])


def test_the_effects_of_an_easy_game() -> None:
    runs = {("EZPoints", "RL only"): RL, ("EZPoints", "GTR"): GTR, ("NumberLine", "GTR"): RL}
    levels = {name: values.tolist() for name, values in study.easy_levels("EZPoints", runs).items()}
    assert levels == {
        "EZPoints: start": [0, 1], "EZPoints: start, T = 0.2": [1, 0], "EZPoints: RL only": [0, 0],
        "EZPoints: GTR": [1, 1],
    }  # fmt: skip
    assert differences(study.easy_pairs("EZPoints", runs)) == {
        "EZPoints: GTR minus RL only": [1, 1],
        "EZPoints: at T = 0.2: GTR minus RL only": [1, -1],
        "EZPoints: RL only minus sharpened start": [-1, 0],
        "EZPoints: RL only: success, last minus first": [0, -1],
        f"EZPoints: RL only: {NAMED}, last minus first": [-0.25, -1],
        "at T = 0.2: EZPoints: RL only: success, last minus first": [-1, 1],
        f"at T = 0.2: EZPoints: RL only: {NAMED}, last minus first": [-0.125, -0.5],
        "EZPoints: GTR: success, last minus first": [1, 0],
        f"EZPoints: GTR: {NAMED}, last minus first": [0.5, -0.25],
        "at T = 0.2: EZPoints: GTR: success, last minus first": [0, 0],
        f"at T = 0.2: EZPoints: GTR: {NAMED}, last minus first": [0.25, -0.125],
    }


def test_the_row_of_a_run_tells_temperatures_apart() -> None:
    row = ends([10, 8, -1, -1], [1, 1, 1, -1], [0.5, 1, 0, 0], [1.0, 0.5]).row()
    assert (row["success"], row["success, T = 0.2"], row["names the cards"]) == (0.5, 0.75, 0.375)
    assert row["information (nats)"] == 0.75 and row["cards read, greedy"] == 0.5


def test_what_needs_no_arithmetic() -> None:
    hands = games.Pool(
        np.array([(3, 8), (8, 3), (2, 2), (5, 1)]), np.array([11, 5, 4, 5]), np.array([0.1, 0.2, 0.3, 0.4])
    )
    pool = games.pool_of_targets()
    both = study.lazy_solvers(pool, {"few": hands, "all": pool}).set_index("solver")
    found, all_hands = both["few"].drop("by the target alone"), both["all"]
    assert found.to_dict() == pytest.approx({  # 3+8, 2+2; 8-3; 2*2, 5*1
        "always +": 0.4, "always -": 0.2, "always *": 0.7, "one of the three at random": 1.3 / 3,
    })  # fmt: skip
    for op in "+-*":
        won = [
            eval(f"{max(hand)}{op}{min(hand)}") == target
            for hand, target in zip(pool.ranks.tolist(), pool.targets.tolist(), strict=True)
        ]
        assert all_hands[f"always {op}"] == pytest.approx(np.mean(won)) and 0 < np.mean(won) < 1


def test_a_solver_that_sees_the_target_alone() -> None:
    dealt = games.Pool(  # 5: mostly "-", 27: "*"
        np.array([(3, 8), (9, 3), (2, 3), (9, 4)]), np.array([5, 27, 5, 5]), np.array([0.4, 0.3, 0.1, 0.2])
    )
    other = games.Pool(np.array([(1, 6), (4, 1), (3, 9), (4, 8)]), np.array([5, 5, 27, 32]), np.full(4, 0.25))
    assert study.by_target(dealt, dealt).tolist() == [True, True, False, True]
    assert study.by_target(dealt, other).tolist() == [True, False, True, False]  # 32 is never dealt: "-", as for most
    won = study.lazy_solvers(dealt, {"dealt": dealt, "other": other}).set_index("solver").loc["by the target alone"]
    assert won.tolist() == pytest.approx([0.9, 0.5])
    world = study.World("Targets", None, dealt, other, (None, None), None)  # type: ignore[arg-type]
    sharp = [10.0, -1.0] * 20
    last = ends([-1] * 40, sharp, [0] * 40, [0.0])._replace(new_sharp=played(sharp, [0] * 40))
    found = study.against_lazy(run(START, last), world, 40, 3)
    assert list(found) == [f"{mark} T = 0.2: GTR minus by the target alone" for mark in ("at", "new hands,")]
    for (mine, lazy), new, pool in zip(found.values(), (False, True), (dealt, other), strict=True):
        wins = dict(zip(map(tuple, pool.ranks.tolist()), study.by_target(dealt, pool).tolist(), strict=True))
        assert mine.tolist() == [1, 0] * 20
        assert lazy.tolist() == [wins[tuple(hand)] for hand in world.fixed(40, 3, new).ranks().tolist()]
        assert 0 < lazy.mean() < 1


def test_hands_of_a_kind_share_cards_and_target() -> None:
    dealt, new = games.split(games.pool_of_targets(), 0.4, 3)
    world = study.World("Targets", None, dealt, new, (None, None), None)  # type: ignore[arg-type]
    kinds = study.kinds_of_hands(world, 400, 3)
    assert len(kinds) == 400 and study.kinds_of_hands(world, 400, 3) == kinds != study.kinds_of_hands(world, 400, 4)
    game = world.fixed(400, 3)
    hands = list(zip(game.ranks().tolist(), game.targets().tolist(), strict=True))
    kind_of: dict[tuple[int, ...], set[str]] = {}
    for (ranks, target), kind in zip(hands, kinds, strict=True):
        kind_of.setdefault((min(ranks), max(ranks), target), set()).add(kind)
    assert all(len(each) == 1 for each in kind_of.values()) and len(kind_of) == len(set(kinds)) < 400
    assert len({(*ranks, target) for ranks, target in hands}) > len(kind_of)  # either order of a pair was dealt
    assert not set(kinds) & set(study.kinds_of_hands(world, 400, 3, new=True))  # what training never deals


def test_rows_are_what_their_names_say() -> None:
    assert not study.method("RL only", 0.3).asks and study.method("RL only with truncation", 0.3).asks
    assert (
        study.method("GTR", 0.3).ability.noise == 0.3 and study.method("GTR, perfect corrector", 0.3).ability.noise == 0
    )
    assert not study.method("GTR without tool", 0.3).ability.tool and not study.method("GTR without DAgger", 0).dagger
    assert [study.method(f"RL only{name}", 0).lam for name in (", lambda 0", "", ", lambda 1")] == [0, 0.5, 1]
    rl = study.method("RL only", 0)
    assert rl.step == 1 and rl.value_clip == 0.1  # as released
    changed = {", half the step": {"step": 0.5}, ", twice the step": {"step": 2.0}, ", free critic": {
        "value_clip": math.inf}}  # fmt: skip
    for name, change in changed.items():
        assert study.method(f"RL only{name}", 0) == dataclasses.replace(rl, **change)  # type: ignore[arg-type]
    assert not study.method("cloning only", 0).ppo and study.method("judge reward", 0).cloning == 0
    with pytest.raises(ReprobookError, match="method 'PPO' is not known; methods: RL only"):
        study.method("PPO", 0)
    with pytest.raises(ReprobookError, match="noise is 2"):
        study.method("GTR", 2)


def test_the_printed_tables_say_what_they_can() -> None:
    paper = facts.load("gtr")
    lost = printed.lost_episodes(paper).set_index("model")
    assert lost.loc["GTR", "a lost episode"] == pytest.approx((1.75 + 2.17) / 0.825)
    assert (lost["a lost episode"].dropna() > 1).all() and lost.loc["GTR", "return if truncated"] == pytest.approx(
        0.925
    )
    assert 12 < lost.loc["GTR", "low"] < 17.5 < lost.loc["GTR", "high"] < 24
    easier = printed.easier_games(paper)
    impossible = easier[easier["possible"].eq(False)]
    assert impossible[["game", "model"]].to_numpy().tolist() == [["EZPoints", "GTR"]]
    assert impossible["at most"].tolist() == pytest.approx([9.395])
    assert (easier["draws"].dropna() >= 0).all()


def test_the_benchmarks_compare_equal_results() -> None:
    assert len(bench.headline(rows=6, width=16).seconds) == 2
    assert len(bench.throughput(n_tables=4, n_steps=9).seconds) == 2


GIVEN: dict[str, object] = {
    "rows": ["GTR"], "taught": [], "parts": [], "others": [], "whole_below": 5, "released": [],
    "released_games": [],
    "released_corrector": "", "lora": [8, 16, 0.05], "controls": {"EZPoints": 1}, "noise": 0.3, "noises": [0.0],
    "n_tables": 16, "n_steps": 6, "n_updates": 1, "epochs": 1, "batch_size": 32, "micro": 0,
    "lr": 1e-4, "horizon": 0, "grad_clip": 0.5, "temperature": 1.0, "repetition": 1.0, "n_hands": 20, "width": 16,
    "n_layers": 1, "reading_steps": 1, "n_demonstrations": 8, "start_steps": 1, "start_lr": 1e-3,
    "wrong_cards": {"EZPoints": 0.1, "Targets": 0.1}, "wrong_formulas": {"EZPoints": 0.1, "Targets": 0.1},
    "wrong_symbols": {"EZPoints": 0.1, "Targets": 0.1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": ["PPO"]}, "method 'PPO' is not known"),
        ({"controls": {"Points24": 1}}, "controls names 'Points24'; it may have EZPoints, NumberLine, Blackjack"),
        ({"released_games": ["Three"]}, "released_games names 'Three'; it may have Points24, EZPoints, ALFWorld"),
        ({"released_games": ["ALFWorld"]}, "has no share for ALFWorld; all have one for EZPoints, Targets"),
        (
            {"released_games": ["ALFWorld"], "released_corrector": "https://far.example gpt"},
            "ALFWorld, whose corrector can only be exact",
        ),
        ({"controls": {"NumberLine": 0}}, "n_updates is 0; it must be at least 1"),
        ({"n_updates": 0}, "n_updates is 0; it must be at least 1"),
        ({"noises": [1.5]}, "noise is 1.5"),
        ({"batch_size": 1000}, "batch_size is 1000; a rollout has 96 steps"),
        ({"wrong_symbols": {"EZPoints": -1, "Targets": 0}}, "noise: symbols is -1"),
        ({"wrong_cards": {"EZPoints": 0.1}}, "has no share for Targets; all have one for EZPoints"),
        ({"temperature": 0.0}, "temperature is 0.0 and repetition 1.0; they must be > 0 and >= 1"),
        ({"lora": [0, 16, 0.05]}, "rank >= 1"),
        ({"n_hands": 2}, "n_hands is 2; it must be at least 4"),
        ({"whole_below": -1}, "whole_below is -1; it must be at least 0"),
        ({"released_corrector": "gpt-4o"}, "released_corrector is 'gpt-4o'"),
    ],
)
def test_parameters_are_checked_before_anything_is_trained(changed: dict[str, object], message: str) -> None:
    study.check(GIVEN)
    with pytest.raises(ReprobookError, match=message):
        study.check(GIVEN | changed)


def test_the_step_size_falls_by_the_same_share_in_every_run() -> None:
    long, short = (study.settings_of(GIVEN | {"n_updates": 30, "horizon": 54}, n) for n in (30, 15))
    assert (long.horizon, short.horizon) == (54, 27)
    assert long.step_size(31) == pytest.approx(short.step_size(16)) and long.step_size(31) < 0.42 * long.lr
