"""ALFWorld in the loop of the paper's scale, on a model of a few thousand parameters."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from reprobook.data import load_manifest
from reprobook.errors import ReprobookError
from reprobook.papers.gtr import alfworld, games, homes, learning, ppo, released, start, study
from reprobook.papers.gtr.language import Thought
from reprobook.papers.gtr.policy import PAD_ID, token_logp
from reprobook.rehearsal.models import write_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("llava")
    (recipe,) = (each.miniature for each in load_manifest("gtr").artefacts if each.id.startswith("llava"))
    write_model(dict(recipe or {}), folder)
    return folder


def policy_of(model: Path, n_new: int) -> released.VisionPolicy:
    torch.manual_seed(0)
    return released.open_policy(model, released.Lora(2, 4, 0.0), 600, n_new, torch.device("cpu"))


@pytest.fixture(scope="module")
def policy(model: Path) -> released.VisionPolicy:
    return policy_of(model, 20)


@pytest.fixture(scope="module")
def words(policy: released.VisionPolicy) -> homes.HomeWords:
    return homes.HomeWords(policy.processor.tokenizer, dealt(), policy.shape.n_prompt)


def dealt(n: int = 2, seed: int = 0) -> homes.HomeGame:
    game = homes.open_game("ALFWorld", n, np.random.default_rng(seed))
    assert isinstance(game, homes.HomeGame)
    return game


def learner(policy: Any, words: Any, method: learning.Method, settings: learning.Settings) -> learning.Learner:
    game = dealt(settings.n_tables, 5)
    judge = homes.HomeCorrector(game, np.random.default_rng(0))
    return learning.Learner(
        policy, words, game, homes.NoPictures(), homes.ruled(method), settings, 0, judge  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_expert_wins_and_what_has_ended_rests(words: homes.HomeWords) -> None:
    game, rng = dealt(8), np.random.default_rng(1)
    total, over, kinds = np.zeros(8), np.zeros(8, dtype=bool), np.full(8, -1)
    while not over.all():
        got = words.read([alfworld.respond(command) for command in game.home.advise()], game, rng)
        assert got.legal[~over].all() and all(thought is not None for thought in got.thoughts)
        step = game.step(got.action)
        assert not step.reward[over].any() and not step.terminated[over].any()
        total, over = total + step.reward, over | step.terminated | step.truncated
        kinds = np.where(step.kind >= 0, step.kind, kinds)
    assert (total > 50).all() and (kinds == 0).all() and (game.ranks() == games.BLANK).all()
    assert game.has_formula is False and not game.targets().any()


def test_a_response_is_read_and_played_as_released(words: homes.HomeWords) -> None:
    game, rng = dealt(), np.random.default_rng(0)
    first, last = (menu[k] for menu, k in zip(game.home.admissible(), (0, -1), strict=True))
    assert all(text.count("Your task is to") == 2 and "help, inventory, look." in text for text in game.texts())
    got = words.read([alfworld.respond(f"{last}, no: {first}".upper()), alfworld.respond(last)], game, rng)
    assert [game.actions[k] for k in got.action] == [first, last] and got.legal.all(), "order of the list"
    before = game.texts()
    assert game.step(got.action).reward.min() >= 0 and game.texts() != before
    got = words.read([alfworld.respond("sing"), "?"], game, rng)
    named = [game.actions[k] for k in got.action]
    assert not got.legal.any() and all(each in menu for each, menu in zip(named, game.home.admissible(), strict=True))
    assert got.thoughts[1] is None
    rate = game.step(got.action).reward + 1
    assert ((rate >= 0) & (rate < 1)).all(), "1 is paid for what was not read"
    game.step(np.array([game.number(command) for command in named]))  # the same command, now read: not paid for
    assert game.number(named[0]) != game.number(named[0], legal=False)


def test_corrections_are_right_and_leave_the_action_alone(model: Path, words: homes.HomeWords) -> None:
    game = dealt()
    judge = homes.HomeCorrector(game, np.random.default_rng(0))
    no, unread = judge.judge([Thought((), "", "help"), None])
    assert no.word == "no" and unread.word == "unread" and no.thought is not None
    assert no.thought.next == game.home.advise()[0]
    ids = words.encode(no.thought, "look")
    text = words.text(ids)
    assert list(json.loads(text)) == ["thoughts", "action"] and words.thought(text) == no.thought
    assert judge.judge([words.thought(text), None])[0].word == "yes"
    assert dict(judge.said) == {"no": 1, "unread": 2, "yes": 1} and judge.prefix_of_aim().all()
    run = learner(policy_of(model, 400), words, learning.Method(), learning.Settings(2, 2, 1, 1, 4))
    response, labels = run._labelled([no, unread], np.array([run.tables.game.number("look")] * 2))  # type: ignore[attr-defined]
    at = len(ids) - words.action_length("look")
    assert response[0, : len(ids)].tolist() == ids and labels[0, :at].tolist() == ids[:at]
    assert (labels[0, at:] == -100).all() and (labels[1] == -100).all()
    assert words.split(response[:1].numpy(), np.array([len(ids)])) == at


def test_prompts_are_text_and_the_ratio_is_one_before_the_first_step(policy: Any, words: homes.HomeWords) -> None:
    settings = learning.Settings(2, 2, 1, 1, 4, temperature=0.2, repetition=1.2)
    run = learner(policy, words, learning.Method(cloning=0.0), settings)
    assert run.method.lam == 0.2 and not run.method.asks
    rollout = run.collect(1)
    assert not (rollout.prompt == policy.image_token).any()
    for rows in (torch.arange(4), torch.tensor([1])):  # beside longer prompts and alone
        logits, values = policy(torch.zeros(len(rows), 0), rollout.prompt[rows], rollout.response[rows])
        logp = token_logp(logits, rollout.response[rows], 0.2)
        ratio = (ppo.weighted_logp(logp, rollout.split[rows], 0.2) - rollout.logp[rows]).exp()
        assert torch.allclose(ratio, torch.ones(len(rows)), atol=2e-3)
        assert torch.allclose(values, rollout.values.flatten()[rows], atol=1e-4)
    with pytest.raises(ReprobookError, match="token of a picture, but there is none"):
        policy(torch.zeros(1, 0), torch.full((1, 3), policy.image_token), rollout.response[:1])


def test_demonstrations_are_the_experts_but_for_a_share(words: homes.HomeWords) -> None:
    for share in (0.0, 1.0):
        game, rng = dealt(6), np.random.default_rng(2)
        data = homes.demonstrations(game, words, start.Noise(0, 0, share), rng)
        assert len(data.response) == 6 and torch.equal(data.labels == -100, data.response == PAD_ID)
        assert data.prompt.shape == (6, homes.LONGER * 600)
        again = dealt(6)
        first = [text.rpartition("\nAdm")[0] for text in again.texts()]
        for row, told in enumerate(again.home.advise()):
            prompt, said = words.text(data.prompt[row].tolist()), json.loads(words.text(data.response[row].tolist()))
            assert f"'{said['action']}'" in said["thoughts"] and f"{said['action']}" in prompt
            if first[row] in prompt:  # the first point of the way
                assert (said["action"] == told) == (share == 0.0)


class StoppedError(Exception):
    """The machine goes down."""


def test_a_killed_run_ends_as_one_that_was_not(
    model: Path, words: homes.HomeWords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, method = learning.Settings(2, 2, 2, 1, 4, lr=1e-2), learning.Method()
    monkeypatch.setattr(homes.HomeWords, "thought", lambda *_: Thought((), "", "sing"))  # so that thoughts are cloned
    monkeypatch.setattr(homes.HomeWords, "_body", lambda _, thought: {"thoughts": thought.next})
    runs = [learner(policy_of(model, 50), words, method, settings) for _ in range(3)]
    for run in runs:  # the second table's game ends in the second update
        assert isinstance(run.tables.game, homes.HomeGame)
        for turn in range(38):
            run.tables.game.step(np.array([run.tables.game.number(("help", "look")[turn % 2])] * 2))
        run.tables.game.deal(np.array([True, False]))
    straight, killed, resumed = runs
    straight.run()
    calls, write = iter(range(100)), killed.policy.write

    def dying(*args: Any, **given: Any) -> Any:
        if next(calls) == 3:  # in the middle of the second rollout
            raise StoppedError
        return write(*args, **given)

    monkeypatch.setattr(killed.policy, "write", dying)
    with pytest.raises(StoppedError):
        killed.run(folder=tmp_path)
    resumed.run(folder=tmp_path)
    assert (
        straight.buffer.data is not None and straight.buffer.data.labels.max() > 0 and straight.history[1]["episodes"]
    )
    np.testing.assert_equal(resumed.history, straight.history)
    assert resumed.tables.game.texts() == straight.tables.game.texts()
    pairs = zip(straight.trained.values(), resumed.trained.values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_study_on_text(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alfworld, "MOST_ACTIONS", 5)
    policy, settings = policy_of(model, 6), learning.Settings(1, 2, 14, 1, 2, temperature=0.2)

    def fit(name: str, policy: Any, batch: Any, loss: Any, **_: Any) -> None:
        assert name == "start ALFWorld" and float(loss(policy, batch(0)).detach()) > 1

    how: dict[str, Any] = {"fit": fit, "lr": 1e-5, "n_hands": 2, "temperature": 0.2, "repetition": 1.2}
    world = released.open_world("ALFWorld", policy, 2, start.Noise(0, 0, 0.1), 0, **how)
    assert world.first is not None and world.first.sharp is world.first.sampled and (world.first.told != 0).any()
    found = released.train(world, ["RL only", "RL only with truncation"], settings, 2, 0, tmp_path)
    run = found["ALFWorld", "RL only"]
    assert list(found) == [("ALFWorld", "RL only")] and len(run.curve) == homes.N_UPDATES
    table = study.summary(found)
    assert table["names the cards"].isna().all() and (table["success"] == 0).all() and (table["legal"] == 0).all()
    assert all(np.isfinite(one).all() for pair in study.pairs({"RL only": run}).values() for one in pair)
    played = run.last.sampled
    assert not played._replace(returns=np.array([5.0, 5.0])).success.any(), "half a task is no success"
    with pytest.raises(ReprobookError, match="'NumberLine' has no formula; .* and ALFWorld"):
        released.open_world("NumberLine", policy, 2, start.Noise(0, 0, 0.1), 0, **how)
    with pytest.raises(ReprobookError, match=r"game 'AlfWorld' is not known; games: Points24, EZPoints, "):
        replace(world, name="AlfWorld").deal(1, 0)
