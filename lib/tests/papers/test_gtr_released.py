"""The paper's scale on a model of a few thousand parameters: its words, its policy, a model as corrector."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from reprobook.data import load_manifest
from reprobook.errors import ReprobookError
from reprobook.papers.gtr import asked, games, learning, needs, ppo, released, start
from reprobook.papers.gtr.language import Thought
from reprobook.papers.gtr.policy import PAD_ID, token_logp
from reprobook.rehearsal.models import write_model

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = {
    "evaluation": "NO", "possible_solution": "YES", "target_formula": "2*10",
    "correction": {"cards": [2, 10], "formula": "2*10", "next": "2"},
}  # fmt: skip


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> released.VisionPolicy:
    folder: Path = tmp_path_factory.mktemp("llava")
    (recipe,) = (each.miniature for each in load_manifest("gtr").artefacts if each.id.startswith("llava"))
    write_model(dict(recipe or {}), folder)
    torch.manual_seed(0)
    return released.open_policy(folder, released.Lora(2, 4, 0.0), 640, 8, torch.device("cpu"))


@pytest.fixture(scope="module")
def game() -> games.Game:
    return games.open_game("EZPoints", 3, np.random.default_rng(0))


@pytest.fixture(scope="module")
def words(policy: released.VisionPolicy, game: games.Game) -> Any:
    return released.Words(policy.processor.tokenizer, game, policy.shape.n_prompt)


def test_words_come_back_and_the_action_is_found(words: Any) -> None:
    for thought, action in ((Thought((2, 10), "2*10", "*"), "+"), (Thought((3, 4), "3*4", "="), "=")):
        ids = words.encode(thought, action)
        text = words.text(ids)
        assert json.loads(text)["action"] == action and words.thought(text) == thought
        at = len(ids) - words.action_length(action)
        padded = np.array([[*ids, PAD_ID, PAD_ID]])
        assert words.split(padded, np.array([len(ids)])) == at and words.text(ids[at:]).startswith('"action":')
    assert words.split(np.array([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]]), np.array([5, 3])).tolist() == [1, -1]
    court = '{"cards": ["J", "A"], "formula": "10+1", "thoughts": "next is \'10\'", "action": "10"}'
    assert words.thought(court) == Thought((10, 1), "10+1", "10")
    assert words.thought("[1]") is None is words.thought('{"cards": []}') and words.thought("no") is None
    with pytest.raises(ReprobookError, match=r"a prompt has \d+ tokens; n_prompt is 640"):
        words.prompts(["1+" * 400], np.array([12]), 0)


def test_cards_are_drawn_by_rank() -> None:
    cards = released.CardPictures()
    places = torch.from_numpy(cards.pick(np.array([[1, 13, 10]] * 40), np.random.default_rng(0)))
    drawn = cards.draw(places)
    assert drawn.shape == (40, 3, 2 * released.CARD, 2 * released.CARD) and drawn.dtype == torch.uint8
    assert len({tuple(table) for table in places[..., 0].tolist()}) > 10  # of several suits
    one, other = cards.draw(torch.tensor([[[4], [8]], [[4], [12]]]))
    assert torch.equal(one[:, :, : released.CARD], other[:, :, : released.CARD]) and not torch.equal(one, other)


def test_sampling_and_rereading_agree(policy: released.VisionPolicy, words: Any, game: games.Game) -> None:
    """With blanks on the left of prompts of several lengths, a row alone gives what it gives among others."""
    cards = released.CardPictures()
    pictures = cards.draw(torch.from_numpy(cards.pick(game.ranks(), np.random.default_rng(0))))
    prompt = torch.from_numpy(words.prompts(["", "10", "10*10"], game.targets(), 0))
    written = policy.write(
        pictures, prompt, temperature=0.5, generator=torch.Generator().manual_seed(0), repetition=1.2
    )
    assert not bool((written.ids == policy.image_token).any())
    logits, values = policy(pictures[2:], prompt[2:], written.ids[2:])
    assert torch.allclose(values, written.values[2:], atol=1e-4)
    assert torch.allclose(token_logp(logits, written.ids[2:], 0.5), written.logp[2:], atol=1e-3)
    greedy = policy.write(pictures, prompt, temperature=0, generator=torch.Generator())
    logits, _ = policy(pictures, prompt, greedy.ids)
    assert torch.equal(torch.where(greedy.ids != PAD_ID, logits.argmax(-1), 0), greedy.ids)
    with pytest.raises(ReprobookError, match="token of the picture once"):
        policy(pictures, prompt.masked_fill(prompt == policy.image_token, 5), written.ids)


def test_adapters_and_value_head_learn_from_rl_and_corrections(policy: released.VisionPolicy, words: Any) -> None:
    """One mini-batch row by row is one of all rows; the frozen weights stay."""
    cards, rng = released.CardPictures(), np.random.default_rng(0)
    game = games.open_game("EZPoints", 2, rng)
    settings = learning.Settings(2, 2, 1, 1, 4, micro=1, temperature=0.2, lr=1e-2, horizon=25)
    method = learning.Method(truncate=False)
    run = learning.Learner(policy, words, game, cards, method, settings, 0)  # type: ignore[arg-type]
    assert all("lora" in name or name.startswith("value") for name in run.trained)
    rollout = run.collect(1)
    data: Any = start.demonstrations(game, words, cards, start.Noise(0, 0, 0), rng)  # type: ignore[arg-type]
    labels = torch.where(torch.arange(data.labels.shape[1]) < 9, data.labels, -100)
    clone = ppo.Correction(data.places, data.prompt, data.response[:, :9], labels[:, :9])
    short = rollout._replace(response=torch.nn.functional.pad(rollout.response, (0, 1)))
    losses = run._losses(
        short, torch.arange(2), clone, rollout.returns.flatten(), rollout.returns.flatten(), rollout.values.flatten()
    )
    assert set(losses) == {"policy loss", "value loss", "cloning loss"} and float(losses["cloning loss"].detach()) > 1
    frozen = policy.model.get_base_model().lm_head.weight.clone()
    before = {name: p.detach().clone() for name, p in run.trained.items()}
    run.buffer.data = None
    run.method = learning.Method(cloning=0.0, truncate=False)
    run.learn(rollout, 1)
    assert torch.equal(frozen, policy.model.get_base_model().lm_head.weight)
    assert any(not torch.equal(before[name], p) for name, p in run.trained.items() if "lora_B" in name)


def test_a_model_as_corrector() -> None:
    game = games.open_game("EZPoints", 1, np.random.default_rng(0))
    told: list[str] = []
    answers = iter(["?", json.dumps(ANSWER), '{"evaluation": "YES"}', OSError(), "{}", "{}", '{"evaluation": "NO", '
                    '"possible_solution": "NO"}'])  # fmt: skip

    def ask(_picture: torch.Tensor, question: str) -> str:
        told.append(question)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    draw = lambda ranks: torch.zeros(3, 2, 2)  # noqa: E731
    corrector = asked.AskedCorrector(ask, draw, game, np.random.default_rng(0))
    thought = Thought((3, 4), "3+4", "3")
    (verdict,) = corrector.judge([thought])
    assert verdict.word == "no" and verdict.thought == Thought((2, 10), "2*10", "2")
    assert "3*4, 4*3" in told[0] and corrector.aims == ["2*10"]  # the tool, for what the thought has read
    assert corrector.judge([thought])[0].word == "yes" and "formulas are right" not in told[-1]
    assert corrector.judge([thought])[0].word == "failed" and corrector.judge([None])[0].word == "unread"
    assert corrector.judge([thought])[0].word == "impossible"
    assert dict(corrector.said) == {"no": 1, "yes": 1, "failed": 1, "unread": 1, "impossible": 1}
    for where in ("http://far.example model", "https://far.example", "gpt-4o"):
        with pytest.raises(ReprobookError, match="released_corrector is"):
            released.corrector_of(where, 0)
    assert released.corrector_of("exact", 0) is None and released.corrector_of("http://localhost:1 m", 0) is not None


@pytest.mark.parametrize(("name", "ruled"), [("EZPoints", False), ("Points24", True)])
def test_a_run_asks_as_its_method_and_game_say(
    name: str, ruled: bool, policy: released.VisionPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two methods with a model as corrector: the tool's formulas are in the questions of one; the rule about the aimed
    formula is asked for in games that have it."""
    told: list[str] = []

    def service(where: str) -> Any:
        assert where == "https://far.example model"

        def ask(_picture: torch.Tensor, question: str) -> str:
            told.append(question)
            return json.dumps(ANSWER)

        return ask

    kept, looked = asked.AskedCorrector.prefix_of_aim, []

    def prefix_of_aim(self: asked.AskedCorrector) -> np.ndarray:
        looked.append(self.game.name)
        return kept(self)

    monkeypatch.setattr(released, "service", service)
    monkeypatch.setattr(released, "measure", lambda *_: "measured")
    monkeypatch.setattr(asked.AskedCorrector, "prefix_of_aim", prefix_of_aim)
    game = games.open_game(name, 2, np.random.default_rng(0))
    words, cards = released.Words(policy.processor.tokenizer, game, policy.shape.n_prompt), released.CardPictures()
    monkeypatch.setattr(words, "thought", lambda _: Thought((2, 10), "2+10", "2"))  # the tiny model writes no JSON
    world = released.World(name, words, None, None, (cards, cards), policy, "first", 0.2)  # type: ignore[arg-type]
    settings = learning.Settings(2, 2, 1, 1, 4, micro=1, temperature=0.2)
    maker = released.corrector_of("https://far.example model", 0)
    questions = {}
    for method in ("GTR", "GTR without tool"):
        told.clear()
        looked.clear()
        found = released.train(world, [method], settings, 4, 0, tmp_path, maker)
        assert list(found) == [(name, method)] and len(told) == 4  # two steps on two tables
        assert looked == ([name] * 2 if ruled else [])
        questions[method] = told[0]
    assert "If the cards are [2, 10], these formulas are right: " in questions["GTR"]
    assert "these formulas are right" not in questions["GTR without tool"]
    assert ("10+2, 2+10" in questions["GTR"]) == (name == "EZPoints")


def test_the_step_size_falls_as_in_the_paper() -> None:
    settings = learning.Settings(lr=1e-5, horizon=25)
    assert settings.step_size(1) == 1e-5 and settings.step_size(14) == pytest.approx(4.69e-6, rel=1e-2)
    assert settings.step_size(15) == pytest.approx(4.06e-6, rel=1e-2)
    assert learning.Settings(lr=1e-5).step_size(20) == 1e-5
    assert settings.step_size(29) == pytest.approx(3.5e-7, rel=0.1)  # behind the horizon it rises again
    with pytest.raises(ReprobookError, match="horizon is -1"):
        learning.Settings(horizon=-1)


def test_what_the_scale_needs() -> None:
    text = needs.MISTRAL | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 100,
                            "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    table = needs.table(released.Lora(4.0, 8.0, 0.05), model=needs.llava(text))
    assert 0 < table["trained (M)"].item() < table["parameters (M)"].item()
    assert needs.hours(7e9, steps=1000) == pytest.approx(1000 * 3000 * 7e9 * 52 / (0.4 * 312e12) / 3600)
