"""The losses, the loop and the measures against closed forms, reference libraries and a PPO written anew."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.gtr import collapse, games, ppo, start
from reprobook.papers.gtr.cards import Handwriting
from reprobook.papers.gtr.corrector import Ability
from reprobook.papers.gtr.language import Language, Thought
from reprobook.papers.gtr.learning import Learner, Method, Settings, play
from reprobook.papers.gtr.policy import Policy, Shape, penalised, token_logp
from reprobook.papers.gtr.ppo import Buffer, Correction, Draws

# -------------------------------------------------------------------------------------------------------------- losses


def test_the_clipped_objective_by_hand() -> None:
    for ratio, advantage, loss in ((1.3, 1, -1.1), (1.3, -1, 1.3), (0.5, -1, 0.9), (0.5, 1, -0.5)):
        found = ppo.policy_loss(torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([float(advantage)]), 0.1)
        assert float(found) == pytest.approx(loss)
    far = ppo.policy_loss(torch.tensor([math.log(11), 0.0]), torch.zeros(2), torch.tensor([-1.0, 1.0]), 0.1)
    assert float(far) == pytest.approx((1.1 - 1.0) / 2)  # a ratio beyond 10: the clipped term alone
    value = torch.tensor([1.2], requires_grad=True)
    loss = ppo.value_loss(value, torch.tensor([1.0]), torch.tensor([9.0]), 0.1)
    assert float(loss.detach()) == pytest.approx(0.5 * 7.9**2)
    assert torch.autograd.grad(loss, [value])[0] == 0  # it has moved by 0.1 and stays there until the next update


def test_advantages_by_hand_and_as_a_sum() -> None:
    reward, value = torch.tensor([[0.0], [0.0], [10.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    ends = torch.tensor([[False], [False], [True]])
    found = ppo.gae(reward, value, ends, torch.tensor([99.0]), 0.9, 0.95)
    assert found.flatten().tolist() == pytest.approx([7.515675, 8.685, 10])
    rng = torch.Generator().manual_seed(0)
    reward, value, last = (torch.randn(s, generator=rng) for s in ((7, 3), (7, 3), (3,)))
    ends = torch.rand((7, 3), generator=rng) < 0.3
    found = ppo.gae(reward, value, ends, last, 0.9, 0.95)
    following = torch.cat([value[1:], last[None]])
    for b in range(3):
        for t in range(7):
            total, weight = 0.0, 1.0
            for k in range(t, 7):
                goes_on = not bool(ends[k, b])
                total += weight * float(reward[k, b] + 0.9 * following[k, b] * goes_on - value[k, b])
                if not goes_on:
                    break
                weight *= 0.9 * 0.95
            assert float(found[t, b]) == pytest.approx(total + float(value[t, b]), abs=1e-5)


def test_the_format_reward_after_and_inside() -> None:
    """A constant bonus of 5 added after settles values 7.25 higher (a bonus of 0.725 a step), inside 50 higher."""
    n, bonus = 300, torch.full((300, 1), 5.0)
    zero, never = torch.zeros(n, 1), torch.zeros(n, 1, dtype=torch.bool)
    for mode, offset in (("after", 7.25), ("inside", 50.0)):
        value = torch.full((n, 1), offset)
        target = ppo.gae(zero, value, never, torch.tensor([offset]), 0.9, 0.95, bonus, mode)  # type: ignore[arg-type]
        assert float(target[0]) == pytest.approx(offset, rel=1e-4)  # it predicts its own target: the fixed point


def test_the_weight_of_thoughts() -> None:
    logp = torch.tensor([[-1.0, -2.0, -4.0, 0.0], [-1.0, -1.0, -1.0, -1.0], [-3.0, 0.0, 0.0, 0.0]])
    split = torch.tensor([2, 0, -1])
    found = [ppo.weighted_logp(logp, split, lam).tolist() for lam in (0.0, 0.5, 1.0)]
    assert found == [[-4, -4, -2], [-5.5, -4, -2], [-7, -4, -2]]
    for lam in (-0.1, 1.1, float("nan")):
        with pytest.raises(ReprobookError, match="weight of thoughts must be from 0 to 1"):
            ppo.weighted_logp(logp, split, lam)
        with pytest.raises(ReprobookError, match="weight of thoughts must be from 0 to 1"):
            Method(lam=lam)


def test_cloning_is_the_mean_over_labels_then_over_rows() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 4, 5, generator=rng), torch.randint(0, 5, (3, 4), generator=rng)
    labels[0, 2:], labels[1] = -100, -100
    logp = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None]).squeeze(-1)
    by_hand = [-logp[0, :2].mean(), torch.zeros(()), -logp[2].mean()]
    assert float(ppo.cloning_loss(logits, labels)) == pytest.approx(float(sum(by_hand)) / 3)
    assert float(ppo.cloning_loss(logits[[0, 2]], labels[[0, 2]], n_rows=3)) == pytest.approx(float(sum(by_hand)) / 3)


def reference_ppo(
    logits: np.ndarray, actions: np.ndarray, advantage: np.ndarray, steps: int, lr: float, c: float
) -> Any:
    """PPO on a bandit by gradient descent, gradients by hand: -rho A (1[a] - pi) where the clip does not bind."""
    pi = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()  # noqa: E731
    old = pi(logits)[actions]
    for _ in range(steps):
        p = pi(logits)
        gradient = np.zeros_like(logits)
        for a, adv, before in zip(actions, advantage, old, strict=True):
            rho = p[a] / before
            if not (adv > 0 and rho > 1 + c) and not (adv < 0 and rho < 1 - c):
                gradient += -rho * adv * ((np.arange(len(p)) == a) - p) / len(actions)
        logits = logits - lr * gradient
    return logits


def test_the_update_of_a_bandit_agrees_with_a_reference() -> None:
    rng = np.random.default_rng(0)
    begin, actions = rng.normal(size=4), rng.integers(0, 4, 40)
    advantage = rng.normal(size=40)
    expected = reference_ppo(begin.copy(), actions, advantage, 60, 0.5, 0.1)
    logits = torch.tensor(begin, requires_grad=True)
    index, adv = torch.from_numpy(actions), torch.from_numpy(advantage)
    old = logits.detach().log_softmax(0)[index]
    for _ in range(60):
        loss = ppo.policy_loss(logits.log_softmax(0)[index], old, adv, 0.1)
        (gradient,) = torch.autograd.grad(loss, [logits])
        logits = (logits - 0.5 * gradient).detach().requires_grad_()
    moved = np.abs(expected - begin).max()
    assert moved > 0.1 and logits.detach().numpy() == pytest.approx(expected, abs=1e-9)


def test_ppo_learns_a_small_gridworld() -> None:
    """The number line with a table of logits and of values in place of a network: random play ends near 1."""
    game = games.NumberLine(64, np.random.default_rng(0))
    logits, values = torch.zeros(6, 6, 2, requires_grad=True), torch.zeros(6, 6, requires_grad=True)
    optimiser = torch.optim.Adam([logits, values], lr=0.05)
    shares = []
    for _ in range(12):
        steps, paid, won = [], np.zeros(64), []
        for _ in range(16):
            at = torch.from_numpy(game.ranks())
            odds = logits[at[:, 0], at[:, 1]].detach().log_softmax(-1)
            action = (torch.from_numpy(game.rng.random(64)) < odds[:, 1].exp()).long()
            step = game.step(action.numpy())
            over = step.terminated | step.truncated
            paid += step.reward
            won += (paid[over] > 0).tolist()
            paid[over] = 0
            value = values[at[:, 0], at[:, 1]].detach()
            logp = odds.gather(1, action[:, None]).squeeze(1)
            steps.append((at, action, logp, value, torch.from_numpy(step.reward).float(), torch.from_numpy(over)))
            game.deal(over)
        at, action, old, value, reward, ends = (torch.stack(each) for each in zip(*steps, strict=True))
        returns = ppo.gae(reward, value, ends, torch.zeros(64), 0.9, 0.95)
        advantage = ppo.normalised(returns - value)
        for _ in range(4):
            now = logits[at[..., 0], at[..., 1]].log_softmax(-1).gather(2, action[..., None]).squeeze(-1)
            loss = ppo.policy_loss(now.flatten(), old.flatten(), advantage.flatten(), 0.1)
            loss = loss + 0.5 * (values[at[..., 0], at[..., 1]] - returns).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        shares.append(np.mean(won))
    assert shares[0] < 0.45 and shares[-1] > 0.9


# -------------------------------------------------------------------------------------------------------------- buffer


def correction(n: int, first: int = 0) -> Correction:
    rows = torch.arange(first, first + n)[:, None]
    return Correction(rows[..., None].expand(n, 1, 2), rows, rows, rows)


def test_the_buffer_keeps_all_steps_or_the_last_rollout() -> None:
    everything, last = Buffer(), Buffer(keep=False)
    for k in range(3):
        for each in (everything, last):
            each.add(correction(5, 5 * k))
    assert (len(everything), len(last)) == (15, 5) and everything.data and last.data
    assert everything.data.prompt.flatten().tolist() == list(range(15))
    assert last.data.prompt.flatten().tolist() == list(range(10, 15))


def test_draws_do_not_repeat_before_all_were_drawn() -> None:
    draws = Draws(10, torch.Generator().manual_seed(0))
    taken = torch.cat([draws.take(4) for _ in range(5)])
    assert sorted(taken[:10].tolist()) == list(range(10)) == sorted(taken[10:].tolist())
    assert taken[:10].tolist() != taken[10:].tolist()
    with pytest.raises(ReprobookError, match="nothing to draw"):
        Draws(0, torch.Generator())


# -------------------------------------------------------------------------------------------------------------- policy


@pytest.fixture(scope="module")
def writing() -> Handwriting:
    rng = np.random.default_rng(0)
    return Handwriting([np.clip((k + 1) / 10 + 0.05 * rng.random((5, 28, 28)), 0, 1) for k in range(10)])


def small(game: games.Game, language: Language, seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    return Policy(start.shape_of(game, language, width=16, n_layers=2))


def test_sampling_and_rereading_agree(writing: Handwriting) -> None:
    """Log-probabilities while writing, with keys and values kept, are those of one pass over the response, so that all
    ratios begin at 1; and greedy writing takes the likeliest token of each."""
    game = games.open_game("Points24", 12, np.random.default_rng(0))
    game.step(np.arange(12))
    language = Language(game.actions, True)
    policy = small(game, language).eval()
    learner = Learner(policy, language, game, writing, Method(), Settings(12, 2, 1, 1, 8), seed=0)
    _, pictures, prompt = learner.tables.seen(language)
    for temperature in (1.0, 0.2):
        written = policy.write(pictures, prompt, temperature=temperature, generator=torch.Generator().manual_seed(1))
        logits, values = policy(pictures, prompt, written.ids)
        again = token_logp(logits, written.ids, temperature)
        assert torch.allclose(again, written.logp, atol=1e-4) and torch.allclose(values, written.values, atol=1e-5)
        entropy = torch.distributions.Categorical(logits=logits / temperature).entropy()
        assert torch.allclose(entropy * (written.ids != 0), written.entropy, atol=1e-4)
    greedy = policy.write(pictures, prompt, temperature=0, generator=torch.Generator())
    logits, _ = policy(pictures, prompt, greedy.ids)
    assert torch.equal(torch.where(greedy.ids != 0, logits.argmax(-1), 0), greedy.ids)
    rollout = learner.collect(1)
    logits, _ = policy(writing.pictures[rollout.places], rollout.prompt, rollout.response)
    logp = ppo.weighted_logp(token_logp(logits, rollout.response), rollout.split, 0.5)
    assert torch.allclose((logp - rollout.logp).exp(), torch.ones(24), atol=1e-4)


def test_what_is_blank_or_later_is_not_seen(writing: Handwriting) -> None:
    game = games.open_game("Points24", 2, np.random.default_rng(0))
    language = Language(game.actions, True)
    policy = small(game, language).eval()
    pictures = torch.rand(1, 4, 2, 28, 28)
    prompt = torch.zeros(1, policy.shape.n_prompt, dtype=torch.long)
    response = torch.randint(2, len(language), (1, 9))
    base, _ = policy(pictures, prompt, response)
    other = response.clone()
    other[:, 5:] = 2
    assert torch.allclose(policy(pictures, prompt, other)[0][:, :6], base[:, :6], atol=1e-6)
    with torch.no_grad():
        policy.places[4 : 4 + policy.shape.n_prompt - 1] += 1.0  # the places of blanks
    assert torch.allclose(policy(pictures, prompt, response)[0], base, atol=1e-5)


def test_a_weight_of_zero_leaves_thoughts_alone() -> None:
    """The PPO gradient on the logits of thought tokens is 0 at lambda 0, and not at 0.5."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 9, generator=rng, requires_grad=True)
    response, split = torch.randint(2, 9, (3, 6), generator=rng), torch.tensor([2, 4, 3])
    advantage = torch.tensor([1.0, -1.0, 2.0])
    thought = torch.arange(6) < split[:, None]
    for lam in (0.0, 0.5):
        logp = ppo.weighted_logp(token_logp(logits, response), split, lam)
        (gradient,) = torch.autograd.grad(ppo.policy_loss(logp, logp.detach(), advantage, 0.1), [logits])
        assert (gradient[thought].abs().max() > 0) == (lam > 0) and gradient[~thought].abs().max() > 0


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    rng = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(4, 9, generator=rng), torch.randint(0, 9, (4, 3), generator=rng)
    written = torch.zeros(4, 9, dtype=torch.bool).scatter_(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(1.2)(ids, logits.clone())
    assert torch.allclose(penalised(logits, written, 1.2), expected)


# ---------------------------------------------------------------------------------------------------------------- loop


STARTED: dict[str, Policy] = {}  # of each game, a policy that has learned the format


def started(name: str, writing: Handwriting) -> Policy:
    """A policy that has learned the format by heart from a few demonstrations."""
    if name not in STARTED:
        rng = np.random.default_rng(0)
        game = games.open_game(name, 24, rng)
        language = Language(game.actions, game.has_formula)
        policy = STARTED[name] = small(game, language)
        data = start.demonstrations(game, language, writing, start.Noise(), rng)
        optimiser = torch.optim.Adam(policy.parameters(), lr=0.02)
        for _ in range(40):
            optimiser.zero_grad()
            start.imitation_loss(policy, (writing.pictures[data.places], data.prompt, data.response)).backward()
            optimiser.step()
    return copy.deepcopy(STARTED[name])


def learner(writing: Handwriting, method: Method, settings: Settings, name: str = "EZPoints", seed: int = 3) -> Learner:
    game = games.open_game(name, settings.n_tables, np.random.default_rng(seed))
    language = Language(game.actions, game.has_formula)
    return Learner(started(name, writing), language, game, writing, method, settings, seed)


def test_what_is_cloned_is_the_thought_and_not_the_action(writing: Handwriting) -> None:
    run = learner(writing, Method(ability=Ability(failing=0.2)), Settings(12, 5, 1, 1, 32))
    run.collect(1)
    assert len(run.buffer) == 60 and run.buffer.data is not None
    said = run.corrector.said
    told = (run.buffer.data.labels != -100).any(1)
    assert int(told.sum()) == said["no"] > 0 and sum(said.values()) == 60 and said["failed"] > 0
    for response, labels in zip(run.buffer.data.response[told], run.buffer.data.labels[told], strict=True):
        end = int((labels != -100).sum())
        assert torch.equal(labels[:end], response[:end]) and (labels[end:] == -100).all()
        thought, action = run.language.text(response[:end].tolist()), run.language.text(response[end:].tolist())
        assert '"action"' not in thought and json.loads(thought + action)["thoughts"]
    whole = learner(writing, Method(whole=True), Settings(12, 5, 1, 1, 32))
    whole.collect(1)
    assert whole.buffer.data is not None
    full = whole.buffer.data.labels[(whole.buffer.data.labels != -100).any(1)]
    for labels in full:
        read = json.loads(whole.language.text([k for k in labels.tolist() if k >= 0]))
        assert read["action"] == read["thoughts"]


def test_truncation_ends_what_cannot_be_won(writing: Handwriting) -> None:
    settings = Settings(24, 8, 1, 1, 64)
    free = learner(writing, Method(cloning=0, truncate=False), settings, "Targets").collect(1)
    cut_run = learner(writing, Method(), settings, "Targets")
    cut = cut_run.collect(1)
    assert cut.ends.float().mean() > free.ends.float().mean() + 0.05
    assert cut_run.history[0]["return"] >= -1  # an episode that is cut costs 1, once
    assert learner(writing, Method(cloning=0, truncate=False), settings).corrector.said == {}


def test_methods_train_what_they_should(writing: Handwriting) -> None:
    """Cloning alone leaves the value head as it was, PPO moves it; equal seeds give equal weights."""
    settings = Settings(8, 4, 2, 1, 16)
    moved = {}
    for name, method in {
        "cloning": Method(ppo=False), "rl": Method(cloning=0, truncate=False), "gtr": Method(), "again": Method(),
        "last rollout": Method(dagger=False), "judge": Method(cloning=0, judge=1.0),
    }.items():  # fmt: skip
        run = learner(writing, method, settings)
        before = {key: value.clone() for key, value in run.policy.state_dict().items()}
        run.run()
        after = run.policy.state_dict()
        moved[name] = {key: float((after[key] - before[key]).abs().max()) for key in after}
        assert len(run.buffer) == (0 if not method.cloning else 32 * (2 if method.dagger else 1))
    assert moved["cloning"]["value.2.weight"] == 0 < moved["cloning"]["out.weight"]
    assert moved["rl"]["value.2.weight"] > 0 and moved["gtr"] == moved["again"] != moved["rl"]
    with pytest.raises(ReprobookError, match="needs PPO or a cloning weight"):
        Method(ppo=False, cloning=0)


class StoppedError(Exception):
    """The machine goes down."""


def test_a_run_that_is_killed_inside_a_rollout_ends_as_one_that_was_not(
    writing: Handwriting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, method = Settings(8, 4, 3, 1, 16), Method(ability=Ability(noise=0.3))
    straight = learner(writing, method, settings)
    rows = straight.run(lambda update: {"seen": update}, every=1)
    killed = learner(writing, method, settings)
    calls, write = iter(range(100)), killed.policy.write

    def dying(*args: Any, **given: Any) -> Any:
        if next(calls) == 9:  # in the middle of the third rollout
            raise StoppedError
        return write(*args, **given)

    monkeypatch.setattr(killed.policy, "write", dying)
    with pytest.raises(StoppedError):
        killed.run(lambda update: {"seen": update}, every=1, folder=tmp_path)
    resumed = learner(writing, method, settings)
    assert resumed.run(lambda update: {"seen": update}, every=1, folder=tmp_path) == rows
    assert all(
        torch.equal(a, b) for a, b in zip(straight.policy.parameters(), resumed.policy.parameters(), strict=True)
    )
    assert straight.history == resumed.history and len(straight.buffer) == len(resumed.buffer) == 96
    with pytest.raises(ReprobookError, match="another method, other settings or another seed"):
        learner(writing, Method(), settings).run(folder=tmp_path)


def test_episodes_are_played_to_their_end(writing: Handwriting) -> None:
    run = learner(writing, Method(), Settings(16, 4, 1, 1, 16), "NumberLine")
    for temperature in (1.0, 0.0):
        game = games.open_game("NumberLine", 50, np.random.default_rng(1))
        played = play(run.policy, run.language, game, writing, seed=0, temperature=temperature)
        assert ((played.returns > 0) == (played.returns == 1)).all() and (
            played.kinds >= 0
        ).sum() >= played.success.sum()
        assert played.legal.mean() > 0.5
        assert np.mean(["action" not in thought for thought in played.thoughts]) > 0.9  # all but broken ones


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Settings(n_updates=0), "n_updates is 0; it must be at least 1"),
        (lambda: Settings(n_tables=2, n_steps=2), "batch_size is 64; a rollout has 4 steps"),
        (lambda: Settings(gamma=1.2), "gamma is 1.2"),
        (lambda: Method(judge=-1), "judge -1"),
        (lambda: start.Noise(cards=2), "noise: cards is 2"),
        (lambda: Policy(Shape(1, 1, 1, 5, width=11)), "width is 11; it must be a multiple of 2"),
        (
            lambda: ppo.gae(*[torch.zeros(1, 1)] * 2, torch.ones(1, 1) > 0, torch.zeros(1), 1, 1, mode="x"),
            "mode is 'x'",
        ),  # type: ignore[arg-type]
        (lambda: collapse.information([["a", "b"]]), "at least 2 hands"),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        call()


# ------------------------------------------------------------------------------------------------------------ measures


def test_self_bleu_is_that_of_nltk() -> None:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    rng = np.random.default_rng(0)
    texts = [rng.choice(list("abcde"), rng.integers(1, 7)).tolist() for _ in range(12)] + [["z", "a"], ["y", "y"]]
    smooth = SmoothingFunction().method1
    each = [
        sentence_bleu(texts[:i] + texts[i + 1 :], text, weights=(0.5, 0.5), smoothing_function=smooth)
        for i, text in enumerate(texts)
    ]
    assert collapse.self_bleu(texts) == pytest.approx(np.mean(each))
    assert collapse.self_bleu([["a", "b", "c"]] * 4) == 1 == collapse.self_bleu([["a"]])


def test_a_constant_thought_is_full_collapse() -> None:
    constant = [["append 10"] * 8] * 20
    flat = [thought for each in constant for thought in each]
    assert (
        collapse.information(constant).mean() == 0
        and collapse.entropy(flat) == 0
        and collapse.template_share(flat) == 1
    )
    told = [[f"hand {k}"] * 8 for k in range(20)]
    assert 1.5 < collapse.information(told).mean() <= math.log(8)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 5, 8).tolist() for _ in range(40)]
    assert abs(collapse.information(noise).mean()) < 0.05
    assert collapse.entropy([item for each in noise for item in each]) == pytest.approx(math.log(5), abs=0.02)
    assert collapse.distinct([["a", "b", "a", "b"]], 2) == pytest.approx(2 / 3) and collapse.distinct([["a"]], 2) == 0


def test_demonstrations_are_right_at_the_stated_rate(writing: Handwriting) -> None:
    rng = np.random.default_rng(0)
    game = games.open_game("EZPoints", 2000, rng)
    language = Language(game.actions, True)
    data = start.demonstrations(game, language, writing, start.Noise(0.3, 0.4, 0.0), rng)
    texts = [language.text(row) for row in data.response.tolist()]
    read = [json.loads(text) for text in texts]
    hands = [sorted(min(int(r), 10) for r in row) for row in game.ranks()]
    named = np.mean([sorted(said["cards"]) == hand for said, hand in zip(read, hands, strict=True)])
    right = np.mean([eval(said["formula"]) == 12 for said in read])
    assert named == pytest.approx(0.7 + 0.3 * 0.1, abs=0.04)  # one of ten wrong cards is the right one by luck
    assert 0.6 < right < 0.85  # some of the changed formulas equal 12 all the same
    assert Thought(tuple(read[0]["cards"]), read[0]["formula"], read[0]["thoughts"]).next == read[0]["action"]


def test_the_eye_learns_to_read_with_the_words_of_the_policy(writing: Handwriting) -> None:
    torch.manual_seed(0)
    reader = start.Reader(Language((), has_formula=False), 16)
    optimiser = torch.optim.Adam(reader.parameters(), lr=0.01)
    for step in range(60):
        places, numbers = start.shown(writing, 64, np.random.default_rng(step))
        loss = start.reading_loss(reader, (writing.draw(places), numbers))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert start.read_right(reader, writing, 300, 1).mean() > 0.8
    _, numbers = start.shown(writing, 500, np.random.default_rng(0))
    assert float((numbers == 10).float().mean()) == pytest.approx(4 / 14, abs=0.06)  # ten, J, Q, K
