"""The losses, the loop and the measures against closed forms, reference libraries and a PPO written anew."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reprobook.errors import ReprobookError
from reprobook.papers.gtr import collapse, games, ppo, start, study
from reprobook.papers.gtr.cards import Handwriting
from reprobook.papers.gtr.corrector import Ability
from reprobook.papers.gtr.formulas import symbols
from reprobook.papers.gtr.language import Language, Thought
from reprobook.papers.gtr.learning import Learner, Method, Settings, Tables, play
from reprobook.papers.gtr.policy import Policy, Shape, Written, penalised, token_logp
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


def test_a_free_critic_pays_half_the_squared_error() -> None:
    rng = torch.Generator().manual_seed(0)
    value, old, target = (5 * torch.randn(30, generator=rng) for _ in range(3))
    value.requires_grad_()
    loss = ppo.value_loss(value, old, target, math.inf)
    assert float(loss.detach()) == pytest.approx(float(((value - target) ** 2).detach().mean()) / 2)
    assert torch.allclose(torch.autograd.grad(loss, [value])[0], (value - target).detach() / 30)
    assert float(ppo.value_loss(value, old, target, 0.1).detach()) > float(loss.detach())


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


def test_the_cloning_weight_is_annealed_in_half_of_the_run(writing: Handwriting) -> None:
    """The gradient of the one mini-batch of an update: whole, then half, then none."""
    settings = Settings(8, 4, 4, 1, 32, grad_clip=1e9)

    def gradient(update: int, annealed: bool) -> torch.Tensor:
        run = learner(writing, Method(ppo=False, annealed=annealed), settings)
        before = [p.detach().clone() for p in run.trained.values()]
        run.learn(run.collect(update), update)
        found = torch.cat([p.grad.flatten() for p in run.trained.values() if p.grad is not None])
        moved = any(not torch.equal(a, b) for a, b in zip(before, run.trained.values(), strict=True))
        assert run.history[-1]["cloning loss"] > 0.1 and moved == bool(found.abs().max() > 0)
        return found

    for update, weight in ((1, 1.0), (2, 0.5), (3, 0.0), (4, 0.0)):
        whole = gradient(update, annealed=False)
        assert whole.abs().max() > 0.01
        assert torch.allclose(gradient(update, annealed=True), weight * whole, atol=1e-6)


def test_the_clip_of_values_is_the_methods(writing: Handwriting) -> None:
    method = Method(cloning=0, truncate=False)
    run = learner(writing, method, Settings(8, 4, 1, 1, 32))
    rollout, rows = run.collect(1), torch.arange(32)
    value, returns = rollout.values.flatten(), rollout.returns.flatten()
    old = returns - 7  # the critic was 7 below its target, and is elsewhere by now
    for clip in (0.1, math.inf):
        run.method = dataclasses.replace(method, value_clip=clip)
        found = run._losses(rollout, rows, None, torch.zeros(32), returns, old)["value loss"]
        near = torch.where(value > old, 7 - clip, 7 + clip) if clip < 1 else torch.zeros(32)
        expected = 0.5 * torch.maximum((value - returns) ** 2, near**2).mean()
        assert float(found.detach()) == pytest.approx(float(expected), rel=1e-4)


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
        (lambda: collapse.information(np.zeros((1, 1))), r"at least 2 hands; got \(1, 1\)"),
        (lambda: collapse.information(np.zeros((2, 3))), r"a square of log-probabilities .* got \(2, 3\)"),
        (lambda: collapse.information(np.zeros(4)), r"a square of log-probabilities .* got \(4,\)"),
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
    found = study.constant_thought(20)
    assert found["information (nats)"] == pytest.approx(0, abs=1e-12)
    assert found["template"] == 1 == found["self-BLEU-2"]
    assert found["distinct-2"] == pytest.approx(1 / 20)
    assert collapse.template_share(["a", "b", "a", "a"]) == 0.75 and collapse.template_share(["a"] * 9) == 1
    assert collapse.distinct([["a", "b", "a", "b"]], 2) == pytest.approx(2 / 3) and collapse.distinct([["a"]], 2) == 0


def test_information_by_hand() -> None:
    likelihood = np.array([[0.6, 0.2], [0.1, 0.3]])
    assert collapse.information(np.log(likelihood)) == pytest.approx(np.log([0.6 / 0.4, 0.3 / 0.2]))
    blind = np.repeat(np.array([[-3.0], [-700.0], [-0.1]]), 3, axis=1)  # each thought as likely under all pictures
    assert collapse.information(blind) == pytest.approx([0, 0, 0], abs=1e-12)
    for n in (2, 7):
        assert collapse.information(np.where(np.eye(n) > 0, -5.0, -900.0)) == pytest.approx([math.log(n)] * n)
    names = np.repeat(np.arange(3), 2)  # thoughts that tell three pairs of hands apart, and no more
    assert collapse.information(np.where(names[:, None] == names, -1.0, -900.0)) == pytest.approx([math.log(3)] * 6)
    misled = np.array([[-9.0, -1.0], [-1.0, -9.0]])  # each is more likely under the other's pictures
    assert (collapse.information(misled) < -5).all()


@given(
    arrays(np.float64, st.integers(2, 6).map(lambda n: (n, n)), elements=st.floats(-300, 0)),
    st.floats(-50, 50),
)
def test_information_is_bounded_and_needs_no_normalisation(logp: np.ndarray, shift: float) -> None:
    found = collapse.information(logp)
    assert found.shape == (len(logp),) and (found <= math.log(len(logp)) + 1e-9).all()
    likelihood = np.exp(logp - logp.max(1, keepdims=True))
    expected = np.diag(logp) - logp.max(1) - np.log(likelihood.mean(1))
    assert found == pytest.approx(expected, abs=1e-9)
    rows = shift * np.arange(len(logp))[:, None]
    assert collapse.information(logp + rows) == pytest.approx(found, abs=1e-6)
    others = np.arange(1, len(logp) + 1) % len(logp)  # hands in another order
    assert collapse.information(logp[np.ix_(others, others)]) == pytest.approx(found[others], abs=1e-9)


def small_world(writing: Handwriting, name: str = "Targets", temperature: float = 0.7) -> study.World:
    language = Language(games.open_game(name, 1, np.random.default_rng(0)).actions, True)
    return study.World(name, language, None, None, (writing, writing), started(name, writing), temperature=temperature)


def test_thoughts_under_their_own_pictures_are_as_likely_as_when_written(writing: Handwriting) -> None:
    world, n = small_world(writing), 6
    policy = world.start.eval()
    found = study.thoughts_under_pictures(policy, world, n, hands=2, seed=4)
    _, pictures, prompt = Tables(world.fixed(n, 2), writing, np.random.default_rng(4)).seen(world.language)
    written = policy.write(pictures, prompt, temperature=0.7, generator=torch.Generator().manual_seed(4))
    assert found.shape == (n, n)
    for i, (ids, logp) in enumerate(zip(written.ids.tolist(), written.logp, strict=True)):
        tokens = [world.language.tokens[k] for k in ids]
        end = max(k for k, token in enumerate(tokens) if '"action"' in token)
        assert end >= 5 and found[i, i] == pytest.approx(float(logp[:end].sum()), abs=1e-3)
        j = (i + 2) % n
        logits, _ = policy(pictures[[j]], prompt[[i]], written.ids[[i]])
        swapped = (logits[0] / 0.7).log_softmax(-1).gather(1, written.ids[i, :, None]).squeeze(1)
        assert found[i, j] == pytest.approx(float(swapped[:end].detach().sum()), abs=1e-3)
    off = found[~np.eye(n, dtype=bool)]
    assert np.ptp(off) > 0.1
    with torch.no_grad():
        policy.eye.out.weight.zero_()
    blind = collapse.information(study.thoughts_under_pictures(policy, world, n, hands=2, seed=4))
    assert blind == pytest.approx([0] * n, abs=1e-3)


def test_what_is_measured_and_at_which_temperature(writing: Handwriting) -> None:
    world = small_world(writing, temperature=1.0)
    found = study.measure(world.start, world, 40, seed=2)
    for played, temperature in ((found.sampled, 1.0), (found.sharp, 0.2), (found.greedy, 0.0)):
        game = world.fixed(40, 2)
        again = play(world.start, world.language, game, writing, seed=2, temperature=temperature)
        assert np.array_equal(played.returns, again.returns) and played.thoughts == again.thoughts
    assert found.sampled.thoughts != found.sharp.thoughts != found.greedy.thoughts
    told = [collapse.information(study.thoughts_under_pictures(world.start, world, 4, 2, 8 + k)) for k in range(4)]
    assert found.told == pytest.approx(np.mean(told, axis=0)) and found.told.shape == (4,)
    assert found.new is None is found.new_sharp  # this world holds nothing out
    pools = games.split(games.pool_of_targets(), 0.4, 2)
    held = study.World("Targets", world.language, *pools, (writing, writing), world.start)
    found = study.measure(world.start, held, 12, seed=2)
    for played, new, temperature in ((found.sampled, False, 1.0), (found.new, True, 1.0), (found.new_sharp, True, 0.2)):
        game = held.fixed(12, 2, new)
        again = play(world.start, world.language, game, writing, seed=2, temperature=temperature)
        assert played is not None and np.array_equal(played.returns, again.returns)


class Scripted:
    """In place of a policy: writes what it is told, step by step."""

    def __init__(self, steps: list[list[list[int]]]) -> None:
        self.steps = iter(steps)

    def write(self, _pictures: torch.Tensor, _prompt: torch.Tensor, **_how: Any) -> Written:
        rows = next(self.steps)
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for k, row in enumerate(rows):
            ids[k, : len(row)] = torch.tensor(row)
        return Written(ids, (ids > 0).sum(1), torch.zeros(ids.shape), torch.zeros(ids.shape), torch.zeros(len(rows)))


def test_only_first_thoughts_count_as_naming_the_cards(writing: Handwriting) -> None:
    pool = games.Pool(np.array([(12, 2)]), np.array([12]), np.ones(1))
    game = games.open_game("EZPoints", 3, np.random.default_rng(0), pool)
    language = Language(game.actions, True)
    right, wrong = Thought((2, 10), "2+10", "2"), Thought((2, 9), "2+10", "2")
    steps = [
        [language.encode(thought, action) for thought, action in rows]
        for rows in (
            [(right, "2"), (right, "="), (wrong, "=")],  # the second and third episode are over
            [(wrong, "+"), (wrong, "2"), (right, "2")],
            [(wrong, "10"), (wrong, "2"), (right, "2")],
            [(wrong, "="), (wrong, "2"), (right, "2")],
        )
    ]
    played = play(Scripted(steps), language, game, writing, seed=0)  # type: ignore[arg-type]
    assert played.named.tolist() == [True, True, False] and played.returns.tolist() == [10, -1, -1]


def demonstrated(name: str, n: int, noise: start.Noise, writing: Handwriting) -> list[tuple[list[int], int, Any]]:
    """Numbers, target and response as read of demonstrations on solvable hands."""
    rng = np.random.default_rng(0)
    game = games.open_game(name, n, rng)
    language = Language(game.actions, True)
    data = start.demonstrations(game, language, writing, noise, rng)
    said = [json.loads(language.text(row)) for row in data.response.tolist()]
    if len(said) < n:  # Points24 leaves hands out
        return [([], 24, each) for each in said]
    hands = [[min(rank, 10) for rank in row] for row in game.ranks().tolist()]
    return list(zip(hands, game.targets().tolist(), said, strict=True))


def test_demonstrations_are_right_at_the_stated_rate(writing: Handwriting) -> None:
    found = demonstrated("EZPoints", 2000, start.Noise(0.3, 0.4, 0.0), writing)
    named = np.mean([sorted(said["cards"]) == sorted(hand) for hand, _, said in found])
    right = np.mean([eval(said["formula"]) == 12 for _, _, said in found])
    assert named == pytest.approx(0.7 + 0.3 * 0.1, abs=0.04)  # one of ten wrong cards is the right one by luck
    assert right == pytest.approx(0.6, abs=0.04)  # a wrong one never makes 12 by luck
    assert all(said["thoughts"] == said["action"] in [*symbols(said["formula"]), "="] for _, _, said in found)


@pytest.mark.parametrize(("name", "n"), [("EZPoints", 400), ("Targets", 600), ("Points24", 60)])
def test_a_wrong_demonstration_misses_the_target(name: str, n: int, writing: Handwriting) -> None:
    found = demonstrated(name, n, start.Noise(0.0, 1.0, 0.0), writing)
    assert len(found) > n / 2
    for hand, target, said in found:
        formula = said["formula"]
        assert sorted(int(number) for number in re.findall(r"\d+", formula)) == sorted(hand or said["cards"])
        try:
            value = eval(formula)
        except ZeroDivisionError:
            continue
        assert value != target
        if name == "EZPoints":
            winning = {op for op in "+*" if eval(f"{hand[0]}{op}{hand[1]}") == 12}
            (operator,) = re.sub(r"\d", "", formula)
            assert len(winning) == 1 and {operator} == {"+", "*"} - winning
    right = demonstrated(name, 40, start.Noise(0.0, 0.0, 0.0), writing)
    assert all(eval(said["formula"]) == pytest.approx(target) for _, target, said in right)


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
