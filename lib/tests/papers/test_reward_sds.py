"""The method: weights, losses, denoising and their identities; closed forms on Gaussian priors as oracles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers import reward_sds as rs
from reprobook.papers.reward_sds.diffusion import add_noise, ddim_step, denoise, guided_noise, levels, linear_alphas
from reprobook.papers.reward_sds.exact import Mixture, displacement, expected_order, gaussian, two_modes
from reprobook.papers.reward_sds.loop import Steps, Weighing, calls, optimise, picture, scored
from reprobook.papers.reward_sds.losses import Noised, bridge, dds, gradient, sds, surrogate, vsd
from reprobook.papers.reward_sds.weighting import SCHEMES, kept, normalised, shuffled_weights, weights

if TYPE_CHECKING:
    from torch import Tensor

ABAR = linear_alphas()
DEFAULT = "two best and two worst"


def noised(x: Tensor, n: int, t: int | list[int], seed: int = 0, step: int = 0) -> Noised:
    times = torch.full((len(x),), t) if isinstance(t, int) else torch.tensor(t)
    eps = torch.randn(len(x), n, *x.shape[1:], generator=torch.Generator().manual_seed(seed))
    return Noised(x, eps, times, add_noise(ABAR, x, eps, times), step)


def labels(n: int, value: int = 0) -> Tensor:
    return torch.full((n,), value)


def first_coordinate(x: Tensor, _: Tensor) -> Tensor:
    return x[:, 0]


def last(states: Any) -> Any:
    found = None
    for found in states:  # noqa: B007
        pass
    return found


# ------------------------------------------------------------------------------------------------------------- weights


def test_the_weights_of_the_paper_by_hand() -> None:
    rewards = torch.tensor([[0.1, 0.9, -0.3, 0.5, 0.2, 7.0]])
    expected = {
        "best": [0, 0, 0, 0, 0, 1],
        "best two": [0, 1, 0, 0, 0, 1],
        "best and worst": [0, 0, -0.1, 0, 0, 0.9],
        DEFAULT: [-0.1, 0.9, -0.1, 0, 0, 0.9],
    }
    for scheme, row in expected.items():
        assert weights(rewards, scheme)[0].tolist() == pytest.approx(row)  # type: ignore[arg-type]
    soft = weights(torch.tensor([[0.0, math.log(3.0)]]), "softmax")
    assert soft[0].tolist() == pytest.approx([0.25, 0.75])
    halved = weights(torch.tensor([[0.0, math.log(3.0)]]), "softmax", temperature=0.5)
    assert halved[0].tolist() == pytest.approx([0.1, 0.9])


def test_sums_order_and_shift() -> None:
    rewards = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    sums = [float(weights(rewards, s, generator=torch.Generator().manual_seed(0))[0].sum()) for s in SCHEMES]
    assert sums == pytest.approx([1, 1, 1, 2, 0.8, 1.6])
    for scheme in SCHEMES[2:]:  # the order of rewards is all that they read
        assert weights(rewards, scheme).equal(weights(rewards.exp() - 40, scheme))
    assert weights(rewards + 3, "softmax").allclose(weights(rewards, "softmax"), atol=1e-6)
    assert weights(torch.zeros(2, 4), "softmax").allclose(torch.full((2, 4), 0.25))
    drawn = weights(rewards, "random", generator=torch.Generator().manual_seed(3))
    assert drawn.sum(1).tolist() == [1] * 5
    assert drawn.equal(weights(-rewards, "random", generator=torch.Generator().manual_seed(3)))


def test_a_coin_keeps_the_distribution_of_weights_and_forgets_the_rewards() -> None:
    w = weights(torch.randn(4000, 10, generator=torch.Generator().manual_seed(0)), DEFAULT)
    mixed = shuffled_weights(w, torch.Generator().manual_seed(1))
    assert mixed.sort(1).values.equal(w.sort(1).values)
    assert float((mixed * w).sum(1).mean()) == pytest.approx(1.6 * 1.6 / 10, abs=0.03)


def test_the_two_normalisations_differ_by_a_constant() -> None:
    w = weights(torch.arange(10.0)[None], DEFAULT)
    assert normalised(w, DEFAULT)[0, -1] == pytest.approx(0.9 / 10)
    assert normalised(w, DEFAULT, "released")[0, -1] == pytest.approx(0.9 / 8)
    two = weights(torch.arange(10.0)[None], "best two")
    assert normalised(two, "best two", "released")[0, -1] == pytest.approx(1 / 4)
    soft = weights(torch.arange(10.0)[None], "softmax")
    assert normalised(soft, "softmax", "released").equal(soft / 10)


# ------------------------------------------------------------------------------------------------ the exact prediction


def test_the_mixtures_prediction_is_the_score_of_its_density() -> None:
    prior = Mixture(torch.tensor([-2.0, 0.5, 2.0]), 0.3, torch.tensor([[1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]))
    t, x = torch.tensor([400, 400]), torch.tensor([[0.3, -1.0], [1.5, 0.1]], dtype=torch.float64, requires_grad=True)
    a, s = math.sqrt(float(ABAR[400])), math.sqrt(1 - float(ABAR[400]))
    share = torch.tensor([[0.25, 0.5, 0.25], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)[:, None]
    variance = (0.3 * a) ** 2 + s**2
    density = (share * torch.exp(-((x[..., None] - a * prior.means.double()) ** 2) / (2 * variance))).sum(-1)
    (score,) = torch.autograd.grad(density.log().sum(), x)
    found = prior.noise(x.detach().float(), t, torch.tensor([0, 1]))
    assert found.double().allclose(-s * score, atol=1e-5)
    at_mode = gaussian(1.0, 0.5).log_prob(torch.ones(1, 3), labels(1))
    assert float(at_mode) == pytest.approx(-math.log(0.5 * math.sqrt(2 * math.pi)), rel=1e-6)


def test_guidance_extrapolates_from_the_empty_prompt_in_one_call() -> None:
    prior = Mixture(torch.tensor([-1.0, 1.0]), 0.5, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    z = noised(torch.zeros(2, 3), 4, [300, 700])
    one, none = (guided_noise(prior, z.x_t, z.t, labels(2, y), 1.0) for y in (0, 1))
    assert guided_noise(prior, z.x_t, z.t, labels(2), 3.0).allclose(none + 3 * (one - none), atol=1e-6)
    other = guided_noise(prior, z.x_t, z.t, labels(2), 3.0, negative=labels(2))
    assert other.allclose(one, atol=1e-6)


def test_small_steps_of_ddim_carry_a_gaussian_to_its_own_quantiles() -> None:
    prior = gaussian(1.0, 0.5)
    x = torch.tensor([[[-1.0], [0.0], [2.0]]])
    t = torch.tensor([900])
    a, s = math.sqrt(float(ABAR[900])), math.sqrt(1 - float(ABAR[900]))
    quantile = (x - a) / math.sqrt((0.5 * a) ** 2 + s**2)  # the flow keeps it
    clean = denoise(lambda z, now, _: guided_noise(prior, z, now, labels(1), 1.0), ABAR, x, t, 900)
    assert clean.allclose(1 + 0.5 * quantile, atol=5e-3)


def test_steps_are_those_of_diffusers() -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True, steps_offset=1,
        timestep_spacing="leading",
    )  # fmt: skip
    scheduler.set_timesteps(15)
    asked, count = levels(torch.tensor([999]), 15, 1000, "released")
    assert asked[0].tolist() == scheduler.timesteps.tolist()
    assert count.item() == 15
    x, eps = torch.randn(2, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    for t, following in ((463, 397), (1, -65)):
        theirs = scheduler.step(eps, t, x).prev_sample
        ours = ddim_step(ABAR, x, eps, torch.tensor([t]), torch.tensor([max(following, -1)]))
        assert ours.allclose(theirs, atol=1e-5)


def test_where_the_denoising_starts() -> None:
    t = torch.tensor([500, 66, 20])
    exact, count = levels(t, 5, 1000)
    assert exact[0].tolist() == [500, 400, 300, 200, 100]
    assert count.tolist() == [5, 5, 5]
    released, count = levels(t, 15, 1000, "released")
    assert released[0, :2].tolist() == [463, 397]
    assert count.tolist() == [8, 1, 1]
    assert released[1].tolist() == [1] + [-1] * 14
    first, count = levels(t, 15, 1000, "prepended")
    assert first[0, :3].tolist() == [500, 463, 397]
    assert count.tolist() == [9, 2, 2]
    assert levels(torch.tensor([700]), 1, 1000, "released")[0].tolist() == [[1]]
    all_t = torch.arange(20, 980)
    assert float(levels(all_t, 15, 1000, "released")[1].float().mean()) == pytest.approx(8.07, abs=0.03)
    assert max(all_t - levels(all_t, 15, 1000, "released")[0][:, 0]) == 65


def test_candidates_are_denoised_as_each_would_be_alone() -> None:
    prior = two_modes()
    z = noised(torch.zeros(3, 2), 4, [900, 400, 30])

    def alone(row: int, n: int, start: Any) -> Tensor:
        def ask(x: Tensor, t: Tensor, _: Tensor) -> Tensor:
            return guided_noise(prior, x, t, labels(len(x)), 1.0)

        return denoise(ask, ABAR, z.x_t[row : row + 1, n : n + 1], z.t[row : row + 1], 6, start)

    loss = sds(prior, labels(3), 1.0, 1.0)
    for start in ("exact", "released", "prepended"):
        together = denoise(loss.denoiser(0), ABAR, z.x_t, z.t, 6, start)
        single = torch.cat([torch.cat([alone(b, n, start) for n in range(4)], 1) for b in range(3)])
        assert together.allclose(single, atol=1e-5)
    assert denoise(loss.denoiser(0), ABAR, z.x_t, z.t, 0).equal(z.x_t)


# -------------------------------------------------------------------------------------------------------------- losses


def test_the_surrogate_has_the_gradient_it_is_given() -> None:
    x, g = picture((2, 3), 0), torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad(surrogate(x, g), x)
    assert found.allclose(g, atol=1e-6)


def test_equal_weights_are_the_mean_over_noises_and_one_noise_is_sds() -> None:
    loss, x = sds(two_modes(), labels(2), 1.0, 1.0), torch.tensor([[0.5, 1.0], [-2.0, 0.0]])
    many = noised(x, 6, [300, 800])
    each = [
        gradient(loss, many._replace(eps=many.eps[:, i : i + 1], x_t=many.x_t[:, i : i + 1]), torch.ones(2, 1))
        for i in range(6)
    ]
    assert gradient(loss, many, torch.full((2, 6), 1 / 6)).allclose(torch.stack(each).mean(0), atol=1e-6)


def test_sds_on_a_gaussian_has_the_closed_form() -> None:
    prior, x, t = gaussian(1.0, 0.5), torch.tensor([[3.0]]), 500
    z = noised(x, 400_000, t)
    abar = float(ABAR[t])
    a, s = math.sqrt(abar), math.sqrt(1 - abar)
    expected = s**2 * s * a * (3.0 - 1.0) / (a**2 * 0.25 + s**2)
    assert float(gradient(sds(prior, labels(1), 1.0), z, torch.full((1, 400_000), 1 / 400_000))) == pytest.approx(
        expected, abs=5e-3
    )


def test_order_of_the_candidates_changes_nothing() -> None:
    loss, z = sds(two_modes(), labels(1), 1.0, 1.0), noised(torch.zeros(1, 3), 7, 600)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    moved = z._replace(eps=z.eps[:, order], x_t=z.x_t[:, order])
    found = [
        gradient(loss, each, normalised(weights(scored(loss, first_coordinate, each, 3), DEFAULT), DEFAULT))
        for each in (z, moved)
    ]
    assert found[0].allclose(found[1], atol=1e-6)


def test_losses_that_must_vanish() -> None:
    prior = Mixture(torch.tensor([-1.0, 1.0]), 0.4, torch.tensor([[1.0, 0.2], [0.2, 1.0], [1.0, 1.0]]))
    x = torch.tensor([[0.7, -0.2]])
    z, even = noised(x, 5, 450, step=9), torch.full((1, 5), 0.2)
    nothing = torch.zeros_like(x)
    same = dds(prior, labels(1, 0), labels(1, 0), x)
    assert gradient(same, z, even).allclose(nothing, atol=1e-6)
    own = vsd(prior, labels(1), lambda z: guided_noise(prior, z.x_t, z.t, labels(1), 7.5))
    assert gradient(own, z, even).allclose(nothing, atol=1e-6)
    words = bridge(prior, labels(1), labels(1, 1), labels(1, 1), change=5)
    assert gradient(words, z, even).allclose(nothing, atol=1e-6)
    assert gradient(words, z._replace(step=4), even).allclose(gradient(sds(prior, labels(1), 40.0), z, even))
    parted = bridge(prior, labels(1), labels(1, 0), labels(1, 1), change=5, guidance=40.0)
    one, two = (guided_noise(prior, z.x_t, z.t, labels(1, y), 1.0).mean(1) for y in (0, 1))
    assert gradient(parted, z, even).allclose(40 * (1 - ABAR[450]) * (one - two), atol=1e-4)


def test_a_perfect_companion_of_one_particle_makes_vsd_sds() -> None:
    prior, x = two_modes(), torch.tensor([[0.7, -0.2]])
    z, even = noised(x, 5, [450]), torch.full((1, 5), 0.2)
    perfect = vsd(prior, labels(1), rs.exact.spread_companion(ABAR, 0.0), guidance=1.0)
    assert gradient(perfect, z, even).allclose(gradient(sds(prior, labels(1), 1.0), z, even), atol=1e-5)


# ------------------------------------------------------------------------------------------- what a ranking does (3.7)


def test_order_statistics_are_those_of_the_tables() -> None:
    assert expected_order(4) == pytest.approx([1.02938, 0.29701, -0.29701, -1.02938], abs=1e-4)
    assert expected_order(10)[:2] == pytest.approx([1.53875, 1.00136], abs=1e-4)


@pytest.mark.parametrize("companion", [0.0, 0.09, 0.25])
def test_ranked_weights_climb_the_reward_as_far_as_the_closed_form_says(companion: float) -> None:
    """N(1, 0.5^2), reward the first coordinate, t = 500: the mean gradient at the predicted resting point is 0 along
    the reward, and everywhere 0 across it; without the prediction (at the mean) it is not. A companion as spread as
    the prior leaves no pull at all."""
    prior, n, t = gaussian(1.0, 0.5), 10, 500
    shift = displacement(ABAR, torch.tensor([t]), 0.25, DEFAULT, n, companion)
    if companion == 0:  # by hand: a v (m_1 + m_2) / (1.6 s), the two terms of SDS at one t
        abar = float(ABAR[t])
        assert shift == pytest.approx(math.sqrt(abar) * 0.25 * 2.54011 / (1.6 * math.sqrt(1 - abar)), rel=1e-4)
    assert shift == pytest.approx(0.0, abs=1e-9) if companion == 0.25 else shift > 0.01
    size = 40_000
    rest = torch.tensor([[1.0 + shift, 1.0]]).expand(size, 2)
    loss = vsd(prior, labels(size), rs.exact.spread_companion(ABAR, companion), guidance=1.0, exploring=1.0)
    z = noised(rest, n, t)
    w = weights(scored(loss, first_coordinate, z, 1), DEFAULT)
    along, across = gradient(loss, z, w).mean(0).tolist()
    error = 1e-6 + 4 * gradient(loss, z, w).std(0).max().item() / math.sqrt(size)
    assert along == pytest.approx(0, abs=error)
    assert across == pytest.approx(0, abs=error)
    if shift > 0.01:
        at_mean = gradient(loss, noised(torch.ones(size, 2), n, t), w).mean(0)
        assert at_mean[0] < -2 * error


def test_where_the_noise_cancels_a_ranking_only_scales() -> None:
    """DDS on Gaussians: the two terms' difference has no noise left, so ranked weights multiply it by their sum."""
    prior = Mixture(torch.tensor([-1.0, 1.0]), 0.5, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    source, x = torch.tensor([[-1.2, -0.8]]), torch.tensor([[0.1, 0.4]])
    loss, z = dds(prior, labels(1, 1), labels(1, 0), source, 1.0, 1.0), noised(x, 10, 500)
    w = weights(scored(loss, first_coordinate, z, 1), DEFAULT)
    plain = gradient(loss, z, torch.full((1, 10), 0.1))
    assert gradient(loss, z, w).allclose(1.6 * plain, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ the loop

SHORT = Steps(n=30, lr=0.05)
FEW = Weighing(n=6, n_reward_steps=30, n_denoise=2)


def run(how: Weighing | None = None, steps: Steps = SHORT, **options: Any) -> Tensor:
    x = picture((8, 3), 5)
    last(optimise(sds(two_modes(), labels(8), 1.0, 1.0), [x], lambda: x, steps, how, first_coordinate, **options))
    return x.detach()


def test_without_rewarded_steps_a_run_is_plain_sds_bit_for_bit() -> None:
    assert run(replace(FEW, n_reward_steps=0), seed=3).equal(run(seed=3))
    assert not run(seed=3).equal(run(seed=4))


def test_after_k_steps_one_plain_noise_is_left() -> None:
    x = picture((2, 3), 5)
    how = replace(FEW, n_reward_steps=2)
    loss = sds(two_modes(), labels(2), 1.0, 1.0)
    states = list(optimise(loss, [x], lambda: x, replace(SHORT, n=4), how, first_coordinate))
    assert [s.step for s in states] == [1, 2, 3, 4]
    assert [s.rewards is not None for s in states] == [True, True, False, False]
    assert states[0].factors.shape == (2, 6)
    assert states[3].factors.tolist() == [[1], [1]]


def test_dropping_candidates_without_weight_changes_nothing() -> None:
    found = run(FEW)
    x = picture((8, 3), 5)
    loss, asked = sds(two_modes(), labels(8), 1.0, 1.0), []

    def terms(z: Noised) -> tuple[Tensor, Tensor]:
        asked.append(z.eps.shape[1])
        return loss.terms(z)

    last(optimise(loss._replace(terms=terms), [x], lambda: x, SHORT, FEW, first_coordinate))
    assert set(asked) == {4}
    full = picture((8, 3), 5)
    generator = torch.Generator().manual_seed(0)
    adam = torch.optim.AdamW([full], lr=0.05, betas=(0.9, 0.99), eps=1e-15, weight_decay=0)
    for step in range(30):  # the text book's way: every candidate alone, all of them
        t = SHORT.times(1000, 8, generator)
        eps = torch.randn(8, 6, 3, generator=generator)
        now = full.detach()
        z = Noised(now, eps, t, add_noise(ABAR, now, eps, t), step)
        g = torch.zeros(8, 3)
        w = weights(scored(loss, first_coordinate, z, 2), DEFAULT) / 6
        for i in range(6):
            single = z._replace(eps=eps[:, i : i + 1], x_t=z.x_t[:, i : i + 1])
            g += gradient(loss, single, w[:, i : i + 1])
        full.grad = g
        adam.step()
    assert found.allclose(full.detach(), atol=1e-4)
    assert found.equal(x.detach())


def test_reward_moves_pictures_to_it_and_a_coin_does_not() -> None:
    steps = Steps(n=120, lr=0.04)
    how = Weighing(n=10, n_reward_steps=120, n_denoise=1)
    ends = {}
    for name, weighing in {"sds": None, "reward": how, "coin": replace(how, ranking="coin")}.items():
        x = picture((100, 1), 1)
        loss = sds(two_modes(), labels(100), 1.0, 1.0)
        last(optimise(loss, [x], lambda x=x: x, steps, weighing, first_coordinate))
        ends[name] = float((x > 0).float().mean())
    assert ends["reward"] > 0.95
    assert ends["sds"] < 0.65
    assert ends["coin"] < 0.65


def test_views_of_one_scene_share_weights_and_t() -> None:
    theta = picture((2, 3), 5)
    loss = sds(two_modes(), labels(4), 1.0, 1.0)
    seen: list[Tensor] = []

    def terms(z: Noised) -> tuple[Tensor, Tensor]:
        seen.append(z.t)
        return loss.terms(z)

    render = lambda: theta.repeat_interleave(2, 0)  # noqa: E731
    state = last(
        optimise(loss._replace(terms=terms), [theta], render, replace(SHORT, n=2), replace(FEW, n_reward_steps=2),
                 first_coordinate, views=2)
    )  # fmt: skip
    assert state.rewards[0].equal(state.rewards[1])
    assert state.factors[2].equal(state.factors[3])
    assert not state.rewards[1].equal(state.rewards[2])
    assert all(t[0] == t[1] and t[2] == t[3] for t in seen)


def test_the_noise_term_alone_carries_the_ascent() -> None:
    """Gaussian prior, resting points of the three variants: the network term alone pulls backwards (its predictions
    follow the noise), the noise term alone forwards, and the method is what is left."""
    prior, n, t, size = gaussian(0.0, 1.0), 10, 500, 20_000
    loss, z = sds(prior, labels(size), 1.0, 1.0), noised(torch.zeros(size, 1), n, t)
    w = weights(scored(loss, first_coordinate, z, 1), DEFAULT)
    level = w.mean(1, keepdim=True).expand_as(w)
    both, network, noise = (
        gradient(loss, z, *pair).mean().item() for pair in ((w, w), (w, level), (level, w))
    )  # fmt: skip
    s2 = 1 - float(ABAR[t])
    pull = 2.54011  # m_1 + m_2 of ten; at the mean of a unit prior the prediction is s (a x + s eps): s^2 of the noise
    assert noise == pytest.approx(-s2 * pull, rel=0.03)
    assert network == pytest.approx(s2 * s2 * pull, rel=0.03)
    assert both == pytest.approx(-s2 * (1 - s2) * pull, rel=0.05, abs=0.02)


def test_calls_are_counted() -> None:
    steps = Steps(n=1000)
    assert calls(steps, None, 1000, guided=True) == 2000
    small = Weighing(n=10, n_reward_steps=1000, n_denoise=1)
    assert calls(steps, small, 1000, guided=False) == 14_000
    released = Weighing(start="released")
    assert calls(steps, released, 1000, guided=True) / 2000 == pytest.approx(10 * 8.07 + 4, abs=0.3)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weights(torch.zeros(1, 3), DEFAULT), "N is 3; 'two best and two worst' needs at least 4"),
        (lambda: kept("median", 4), "scheme 'median' is not known"),  # type: ignore[arg-type]
        (lambda: weights(torch.tensor([[0.0, math.nan]]), "best"), "picture 0, candidate 1 is nan: not finite"),
        (lambda: weights(torch.zeros(1, 2), "softmax", temperature=0), "temperature is 0; it must be above 0"),
        (lambda: normalised(torch.ones(1, 1), "best", "mean"), "normalisation is 'mean'"),  # type: ignore[arg-type]
        (lambda: Weighing(n_reward_steps=11).check(10), "K is 11; it must be from 0 to the 10 iterations"),
        (lambda: Weighing(ranking="dice").check(1000), "ranking is 'dice'"),  # type: ignore[arg-type]
        (lambda: sds(two_modes(), labels(1), exploring=0.0), "guidance is 0.0; it must be above 0"),
        (lambda: run(FEW, steps=Steps(n=30, t_range=(0.9, 0.1))), "t_range is"),
        (lambda: run(n_plain=0), "n_plain is 0"),
        (lambda: levels(torch.tensor([5]), 1001, 1000), "S is 1001; it must be from 0 to the 1000 steps"),
        (lambda: levels(torch.tensor([5]), 1, 1000, "late"), "start is 'late'"),  # type: ignore[arg-type]
        (lambda: surrogate(torch.zeros(2, 1), torch.zeros(2)), "the picture is"),
        (lambda: Mixture(torch.zeros(2), 0.1, torch.ones(1, 3)), "a mixture needs"),
        (lambda: displacement(ABAR, torch.tensor([5]), 1.0, "softmax", 4), "'softmax' does not rank"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        call()


def test_a_reward_model_of_the_wrong_size_is_refused() -> None:
    loss = sds(two_modes(), labels(2), 1.0, 1.0)
    with pytest.raises(ReprobookError, match=r"the reward model gave \[12, 3\] for 12 pictures"):
        scored(loss, lambda x, _: x, noised(torch.zeros(2, 3), 6, 100), 1)
