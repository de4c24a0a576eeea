"""The experiments' bookkeeping, the paper's tables and the benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from reprobook import facts
from reprobook.errors import ReprobookError
from reprobook.papers.gtr import bench, printed, study
from reprobook.papers.gtr.learning import Played
from reprobook.papers.gtr.policy import Policy, Shape


def played(returns: list[float], named: list[bool]) -> Played:
    n = len(returns)
    return Played(np.array(returns), np.zeros(n), np.array(named), np.ones(n), ["a b"] * n, np.zeros(n))


def run(first: list[float], last: list[float]) -> study.Run:
    ends = [
        study.Measured(played(r, [r[0] > 0, False]), played(r, [True, False]), np.array([x, 0.0]))
        for r, x in ((first, 1.0), (last, 0.25))
    ]
    return study.Run(*ends, pd.DataFrame(), Policy(Shape(1, 1, 1, 4, 8)))


def test_effects_pair_the_hands() -> None:
    runs = {"RL only": run([-1, 9], [-3, -1]), "GTR": run([-1, 9], [10, 8])}
    pairs = study.pairs(runs)
    assert {name: (a - b).tolist() for name, (a, b) in pairs.items()} == {
        "RL only: success, last minus first": [0, -1],
        "RL only: thoughts that name the cards, last minus first": [0, 0],
        "GTR: success, last minus first": [1, 0],
        "GTR: thoughts that name the cards, last minus first": [1, 0],
        "GTR minus RL only": [1, 1],
        "thoughts that name the cards: GTR minus RL only": [1, 0],
    }
    a, b = study.pairs(runs | {"action only": run([-1, -1], [-1, 9])})["gain over the start: GTR minus action only"]
    assert (a.tolist(), b.tolist()) == ([1, 0], [0, 1])
    told = {name: (last - first).tolist() for name, (last, first) in study.told(runs).items()}
    assert told == {
        f"{name}: information of the hand in thoughts, last minus first": [-0.75, 0] for name in ("RL only", "GTR")
    }
    assert study.outcome(runs) == "neither learned nor collapsed"
    assert study.levels(runs["RL only"])["middle game: start"].tolist() == [0, 1]
    easy = study.easy_levels("EZPoints", {("EZPoints", name): each for name, each in runs.items()})
    assert {name: values.tolist() for name, values in easy.items()} == {
        "EZPoints: start": [0, 1], "EZPoints: RL only": [0, 0], "EZPoints: GTR": [1, 1],
    }  # fmt: skip
    slope = study.slopes([0.0, 0.5, 1.0], [runs["GTR"], runs["RL only"], runs["RL only"]])
    assert slope.tolist() == pytest.approx([-1, -1])
    with pytest.raises(ReprobookError, match="a slope needs two values"):
        study.slopes([0.3, 0.3], [])


def test_rows_are_what_their_names_say() -> None:
    assert not study.method("RL only", 0.3).asks and study.method("RL only with truncation", 0.3).asks
    assert (
        study.method("GTR", 0.3).ability.noise == 0.3 and study.method("GTR, perfect corrector", 0.3).ability.noise == 0
    )
    assert not study.method("GTR without tool", 0.3).ability.tool and not study.method("GTR without DAgger", 0).dagger
    assert [study.method(f"RL only{name}", 0).lam for name in (", lambda 0", "", ", lambda 1")] == [0, 0.5, 1]
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
    "rows": ["GTR"], "parts": [], "others": [], "forms": [], "released": [], "released_games": [],
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
        ({"released_games": ["ALFWorld"]}, "released_games names 'ALFWorld'; it may have Points24, EZPoints"),
        ({"controls": {"NumberLine": 0}}, "n_updates is 0; it must be at least 1"),
        ({"n_updates": 0}, "n_updates is 0; it must be at least 1"),
        ({"noises": [1.5]}, "noise is 1.5"),
        ({"batch_size": 1000}, "batch_size is 1000; a rollout has 96 steps"),
        ({"wrong_symbols": {"EZPoints": -1, "Targets": 0}}, "noise: symbols is -1"),
        ({"wrong_cards": {"EZPoints": 0.1}}, "has no share for Targets; all have one for EZPoints"),
        ({"temperature": 0.0}, "temperature is 0.0 and repetition 1.0; they must be > 0 and >= 1"),
        ({"lora": [0, 16, 0.05]}, "rank >= 1"),
        ({"n_hands": 2}, "n_hands is 2; it must be at least 4"),
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
