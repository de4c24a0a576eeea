"""TPDiff against closed forms: the pyramid's algebra, the renoising, and exact Gaussian sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook.errors import ReprobookError
from reprobook.papers.tpdiff import costs, gaussian, pyramid, sampling
from reprobook.papers.tpdiff.schedule import FlowMatching, VariancePreserving

FM, VP = FlowMatching(), VariancePreserving()
PATHS = pytest.mark.parametrize("path", [FM, VP], ids=["flow", "vp"])


def video(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- paths


def test_vp_has_the_signal_of_stable_diffusion() -> None:
    """abar of the scheduler that diffusers builds with the same betas."""
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).alphas_cumprod
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    g, s = VP.signal_noise(t)
    assert torch.allclose(g**2, theirs.double(), atol=2e-6) and torch.allclose(g**2 + s**2, torch.ones_like(g))
    assert float(g[-1] ** 2) == pytest.approx(0.00466, abs=1e-5)


@PATHS
@given(t=st.floats(0.0, 0.999))
def test_a_time_is_found_again_from_its_noise_to_signal_ratio(path, t: float) -> None:
    g, s = path.signal_noise(torch.tensor(t, dtype=torch.float64))
    assert path.time_of(float(s / g)) == pytest.approx(t, abs=1e-9)


def test_a_ratio_beyond_the_path_is_refused() -> None:
    with pytest.raises(ReprobookError, match="outside this path"):
        VP.time_of(1e3)
    assert FM.time_of(math.inf) == 1.0


# ------------------------------------------------------------------------------------------------------------ stages


def test_junctions_of_the_worked_examples() -> None:
    assert [(s.k, s.stride) for s in pyramid.stages(FM, 3)] == [(3, 4), (2, 2), (1, 1)]
    starts = [s.start for s in pyramid.stages(FM, 3)]
    assert starts == pytest.approx([1.0, 0.7388, 0.4142], abs=1e-4)
    starts = [s.start * 1000 - 1 for s in pyramid.stages(VP, 3, [0.668, 0.334, 0.0])]  # ends at steps 667 and 333
    assert starts[1:] == pytest.approx([752, 438], abs=1.0)
    # abar 0.461538 at an end goes with 0.3 at the next start
    end = VP.time_of(math.sqrt((1 - 0.461538) / 0.461538))
    after = pyramid.stages(VP, 2, [end, 0.0])[1]
    assert after.g_s**2 == pytest.approx(0.3, abs=1e-6)


@PATHS
@pytest.mark.parametrize("n_stages", [2, 3, 4])
def test_doubling_the_frames_doubles_the_signal_to_noise_ratio(path, n_stages: int) -> None:
    for before, after in itertools.pairwise(pyramid.stages(path, n_stages)):
        assert after.s_s / after.g_s == pytest.approx(math.sqrt(2) * before.s_e / before.g_e)


@PATHS
@pytest.mark.parametrize("mode", ["subsample", "average"])
def test_a_stage_starts_and_ends_where_it_should(path, mode) -> None:
    """Eq. 10 at both ends; the sheet's D and S by hand."""
    x0 = video(2, 8, 3)
    for stage in pyramid.stages(path, 3):
        data, source = pyramid.stage_ends(x0, stage, mode)
        frames = x0[:, :: stage.stride] if mode == "subsample" else x0.view(2, -1, stage.stride, 3).mean(2)
        assert torch.equal(data, frames)
        if stage.k < 3:
            pairs = frames.view(2, -1, 2, 3)
            half = pairs[:, :, :1] if mode == "subsample" else pairs.mean(2, keepdim=True)
            assert torch.allclose(source, half.expand(-1, -1, 2, -1).flatten(1, 2))
        eps = video(*data.shape, seed=1)
        for t, (g, s, clean) in {
            stage.start: (stage.g_s, stage.s_s, source), stage.end: (stage.g_e, stage.s_e, data)
        }.items():  # fmt: skip
            x_t, _ = pyramid.diffuse(data, source, eps, torch.full((2,), t, dtype=torch.float64), stage, path)
            assert torch.allclose(x_t, g * clean + s * eps, atol=1e-9)


@PATHS
def test_one_stage_is_the_vanilla_method(path) -> None:
    x0, eps, t = video(3, 8, 2), video(3, 8, 2, seed=1), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    (stage,) = pyramid.stages(path, 1)
    x_t, target = pyramid.diffuse(*pyramid.stage_ends(x0, stage), eps, t, stage, path)
    g, s = (each.view(3, 1, 1) for each in path.signal_noise(t))
    assert torch.allclose(x_t, g * x0 + s * eps)
    assert torch.allclose(target, eps - x0 if path is FM else eps)


@PATHS
def test_a_static_clip_keeps_its_noise(path) -> None:
    x0 = video(2, 1, 3).expand(2, 8, 3)
    for stage in pyramid.stages(path, 3):
        data, source = pyramid.stage_ends(x0, stage)
        assert torch.equal(data, source)
        eps = video(*data.shape, seed=2)
        _, target = pyramid.diffuse(data, source, eps, torch.full((2,), stage.end, dtype=torch.float64), stage, path)
        expected = eps
        if path is FM:
            expected = (stage.g_s - stage.g_e) * data + (stage.s_s - stage.s_e) * eps
        assert torch.allclose(target, expected)


def test_both_parametrisations_take_the_same_path() -> None:
    """Eq. 12 is Eq. 10-11 for g = 1 - t: the straight line between the two ends."""
    x0 = video(2, 8, 3)
    for stage in pyramid.stages(FM, 3):
        data, source = pyramid.stage_ends(x0, stage)
        eps = video(*data.shape, seed=3)
        start, end = stage.g_s * source + stage.s_s * eps, stage.g_e * data + stage.s_e * eps
        for share in (0.0, 0.3, 1.0):
            t = stage.end + share * (stage.start - stage.end)
            x_t, _ = pyramid.diffuse(data, source, eps, torch.full((2,), t, dtype=torch.float64), stage, FM)
            assert torch.allclose(x_t, (1 - share) * end + share * start)


@PATHS
def test_one_step_with_the_true_target_crosses_a_stage(path) -> None:
    x0 = video(2, 8, 3)
    for stage in pyramid.stages(path, 3):
        data, source = pyramid.stage_ends(x0, stage)
        eps = video(*data.shape, seed=4)
        x, target = pyramid.diffuse(data, source, eps, torch.full((2,), stage.start, dtype=torch.float64), stage, path)
        found = sampling.step(x, target, stage.start, stage.end, stage, path)
        assert torch.allclose(found, stage.g_e * data + stage.s_e * eps, atol=1e-8)


def test_eq_11_where_it_can_be_computed_as_printed() -> None:
    x0 = video(2, 8, 3)
    for stage in pyramid.stages(VP, 3):
        data, source = pyramid.stage_ends(x0, stage)
        eps = video(*data.shape, seed=5)
        start, end = stage.g_s * source + stage.s_s * eps, stage.g_e * data + stage.s_e * eps
        printed = (end / stage.g_e - start / stage.g_s) / (stage.s_e / stage.g_e - stage.s_s / stage.g_s)
        _, target = pyramid.diffuse(data, source, eps, torch.full((2,), 0.5, dtype=torch.float64), stage, VP)
        assert torch.allclose(target, printed, atol=1e-8)


# --------------------------------------------------------------------------------------------------------- renoising


@PATHS
def test_renoised_frames_have_the_law_of_the_next_start(path) -> None:
    """Given x_0: mean g_s S and covariance s_s^2 I, without drawing anything."""
    stages = pyramid.stages(path, 3)
    x0 = video(1, 8, 1)
    for before, after in itertools.pairwise(stages):
        ended, _ = pyramid.stage_ends(x0, before)
        _, source = pyramid.stage_ends(x0, after)
        ratio, _ = pyramid.junction(before, after)
        assert torch.allclose(ratio * pyramid.up(before.g_e * ended), after.g_s * source)
        n = ended.shape[1]
        law = gaussian.renoised_covariance(before.s_e**2 * torch.eye(n).double(), before, after)
        assert torch.allclose(law, after.s_s**2 * torch.eye(2 * n).double())


def test_the_covariance_followed_is_that_of_the_noise_drawn() -> None:
    before, after = pyramid.stages(FM, 2)
    x = video(40_000, 2)
    for rule in ("correct", "printed", "white", "none"):
        drawn = pyramid.renoise(x, before, after, rule, torch.Generator().manual_seed(1))
        expected = gaussian.renoised_covariance(torch.eye(2).double(), before, after, rule)
        assert torch.allclose(torch.cov(drawn.T), expected, atol=0.03), rule


def test_added_noise_cancels_in_each_pair_of_frames() -> None:
    before, after = pyramid.stages(FM, 2)
    x = video(5, 4, 3)
    noise = pyramid.renoise(x, before, after) - pyramid.junction(before, after)[0] * pyramid.up(x)
    assert torch.allclose(noise[:, ::2] + noise[:, 1::2], torch.zeros(5, 4, 3).double(), atol=1e-12)
    assert pyramid.printed_factor(after) == pytest.approx(before.g_e)  # what Eq. 15 prints is g_e, not g_s / g_e
    assert before.g_e != pytest.approx(after.g_s / before.g_e, abs=0.1)


# --------------------------------------------------------------------------------------------------------- alignment


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_alignment_is_the_cheapest_permutation(n: int, seed: int) -> None:
    data, eps = video(n, 2, 3, seed=seed), video(n, 2, 3, seed=seed + 1)
    found = pyramid.align_noise(data, eps)
    cost = (data - found).square().sum()
    orders = itertools.permutations(range(n))
    assert float(cost) == pytest.approx(min(float((data - eps[list(p)]).square().sum()) for p in orders))
    assert sorted(found.flatten().tolist()) == sorted(eps.flatten().tolist())


def test_alignment_of_one_and_of_other_shapes() -> None:
    data = video(1, 4, 2)
    assert torch.equal(pyramid.align_noise(data, data + 1), data + 1)
    with pytest.raises(ReprobookError, match="align at one shape"):
        pyramid.align_noise(video(2, 4), video(2, 8))


def test_alignment_inside_autocast_is_that_outside() -> None:
    """Rounded to bfloat16 the inner products of long clips tie; the assignment must be float32's."""
    torch.manual_seed(0)
    data, eps = torch.randn(48, 8, 1, 16, 16), torch.randn(48, 8, 1, 16, 16)
    expected = pyramid.align_noise(data, eps)
    with torch.autocast("cpu", torch.bfloat16):
        found = pyramid.align_noise(data, eps)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    for half in (torch.bfloat16, torch.float16):
        found = pyramid.align_noise(data.to(half), eps.to(half))
        assert found.dtype == half and torch.equal(found.float().sort(0).values, eps.to(half).float().sort(0).values)


def test_alignment_brings_a_batch_of_64_closer_by_the_expected_shares() -> None:
    """Mean distance falls by 15 % in 64 and by 3.6 % in 1024 dimensions (computed apart from this code)."""
    for dim, share in ((64, 0.15), (1024, 0.036)):
        falls = []
        for seed in range(8):
            x, e = video(64, dim, seed=seed), video(64, dim, seed=100 + seed)
            before, after = ((x - y).norm(dim=1).mean() for y in (e, pyramid.align_noise(x, e)))
            falls.append(float(1 - after / before))
        assert np.mean(falls) == pytest.approx(share, rel=0.12)


# ----------------------------------------------------------------------------------------------- exact Gaussian video


@pytest.mark.parametrize(
    ("correlation", "rule", "distance", "difference"),
    [
        (0.95, "correct", 0.000, 0.100), (0.95, "none", 0.41, 0.014), (0.95, "white", 0.27, 0.077),
        (0.95, "printed", 3.43, 0.076), (0.6, "correct", 0.000, 0.800), (0.6, "none", 3.13, 0.070),
        (0.6, "white", 0.38, 0.50), (0.6, "printed", 2.07, 0.65),
    ],
)  # fmt: skip
def test_table_of_renoising_rules(correlation: float, rule, distance: float, difference: float) -> None:
    """Derived apart from this code, three stages, fine steps: Euler's error is linear, so two runs give the limit."""
    covariance, stages = gaussian.ar1_covariance(8, correlation), pyramid.stages(FM, 3)
    coarse, fine = (gaussian.sample_covariance(stages, FM, covariance, [n] * 3, rule) for n in (200, 400))
    law = 2 * fine - coarse
    assert gaussian.frechet_distance(law, covariance) == pytest.approx(distance, abs=0.0051)
    assert gaussian.frame_difference_variance(law) == pytest.approx(difference, abs=0.0051)


@PATHS
@pytest.mark.parametrize("mode", ["subsample", "average"])
def test_more_steps_bring_the_exact_sampler_to_the_data(path, mode) -> None:
    covariance = gaussian.ar1_covariance(8, 0.8)
    found = [
        gaussian.frechet_distance(
            gaussian.sample_covariance(pyramid.stages(path, 3), path, covariance, [n] * 3, mode=mode), covariance
        )
        for n in (10, 40, 160)
    ]
    assert found[0] > found[1] > found[2] and found[2] < 1e-3


def test_equal_junctions_make_flow_matching_and_ddim_agree() -> None:
    """One ODE in y = x / g over nsr: only the start of the VP path, which keeps some signal, differs."""
    covariance = gaussian.ar1_covariance(8, 0.6)
    ends = [VP.time_of(2.0), VP.time_of(0.5), 0.0]  # the ratios of flow matching at t = 2/3 and 1/3
    for rule in ("none", "white"):
        laws = [
            gaussian.sample_covariance(pyramid.stages(path, 3, e), path, covariance, [400] * 3, rule)
            for path, e in ((FM, None), (VP, ends))
        ]
        ours, theirs = (gaussian.frechet_distance(law, covariance) for law in laws)
        assert ours == pytest.approx(theirs, abs=0.01)


def test_best_prediction_is_the_regression_of_drawn_pairs() -> None:
    covariance = gaussian.ar1_covariance(4, 0.7)
    x0 = video(200_000, 4) @ torch.linalg.cholesky(covariance).T
    stage = pyramid.stages(FM, 2)[1]
    data, source = pyramid.stage_ends(x0, stage)
    t = torch.full((len(x0),), 0.3, dtype=torch.float64)
    x_t, target = pyramid.diffuse(data, source, video(*data.shape, seed=9), t, stage, FM)
    regression = torch.linalg.lstsq(x_t, target).solution.T
    assert torch.allclose(gaussian.best_prediction(0.3, stage, FM, covariance), regression, atol=0.02)


def test_frechet_distance_by_hand() -> None:
    a, b = torch.diag(torch.tensor([4.0, 1.0])).double(), torch.diag(torch.tensor([1.0, 9.0])).double()
    assert gaussian.frechet_distance(a, b) == pytest.approx((2 - 1) ** 2 + (1 - 3) ** 2)
    assert gaussian.frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_drawn_samples_follow_the_exact_law() -> None:
    """The sampler itself, with the best denoiser, over many draws."""
    covariance, stages = gaussian.ar1_covariance(8, 0.8), pyramid.stages(FM, 3)

    def predict(x, t, stage):
        return x @ gaussian.best_prediction(t, stage, FM, covariance).T

    generator = torch.Generator().manual_seed(0)
    drawn = sampling.sample(predict, stages, FM, (40_000, 8), [5] * 3, generator=generator, dtype=torch.float64)
    expected = gaussian.sample_covariance(stages, FM, covariance, [5] * 3)
    assert drawn.shape == (40_000, 8) and torch.allclose(torch.cov(drawn.T), expected, atol=0.04)


def test_frames_of_the_stages_while_sampling() -> None:
    seen = []

    def predict(x, t, stage):
        seen.append(x.shape[1])
        return torch.zeros_like(x)

    sampling.sample(predict, pyramid.stages(VP, 3), VP, (2, 16, 3), [1, 2, 3])
    assert seen == [4, 8, 8, 16, 16, 16]


# -------------------------------------------------------------------------------------------------------------- cost


def test_relative_costs_of_the_paper() -> None:
    assert costs.relative_cost([1, 1, 1], 2) == pytest.approx(0.4375)  # printed as 0.44
    assert 1 / costs.relative_cost([10] * 3, 1) == pytest.approx(12 / 7)
    assert 1 / costs.relative_cost([2, 1, 1], 1) == pytest.approx(2.0)
    assert 1 / costs.relative_cost([1, 1, 2], 1) == pytest.approx(1.455, abs=1e-3)
    assert [1 / costs.relative_cost([1] * k, p) for k in (4, 5) for p in (1, 2)] == pytest.approx(
        [2.13, 3.01, 2.58, 3.75], abs=0.01
    )
    assert costs.relative_cost([7], 1) == 1.0
    assert 12 / 7 < costs.predicted_speedup(128, 96, [10] * 3) < 16 / 7  # between linear and quadratic


# --------------------------------------------------------------------------------------------------------- bad input


def test_bad_input() -> None:
    for n_frames, n_stages, message in (
        (10, 3, "multiple of 4"), (8, 0, "at least 1"), (2, 3, "multiple of 4"), (9, 3, "causal VAE gives 1 \\+ 4n"),
    ):  # fmt: skip
        with pytest.raises(ReprobookError, match=message):
            pyramid.check_frames(n_frames, n_stages)
    for ends in ([0.3, 0.6, 0.0], [0.6, 0.3, 0.1], [0.6, 0.0], [1.0, 0.5, 0.0]):
        with pytest.raises(ReprobookError, match="ends must be 3 times"):
            pyramid.stages(FM, 3, ends)
    with pytest.raises(ReprobookError, match="number of stages must be at least 1"):
        pyramid.stages(FM, 0)
    with pytest.raises(ReprobookError, match="outside this path"):  # no start is noisy enough for such an end
        pyramid.stages(VP, 2, [0.99, 0.0])
    with pytest.raises(ReprobookError, match="cannot be reduced by 3"):
        pyramid.down(video(1, 8), 3)
    with pytest.raises(ReprobookError, match="'subsample' or 'average'"):
        pyramid.down(video(1, 8), 2, "median")
    with pytest.raises(ReprobookError, match="'correct', 'printed', 'white' or 'none'"):
        pyramid.renoise(video(1, 4), *pyramid.stages(FM, 2), "pink")
    for steps, shares in ((31, None), (0, None), (30, [1, 2]), (30, [1, 0, 2])):
        with pytest.raises(ReprobookError, match="cannot be split|positive whole numbers"):
            sampling.split_steps(steps, 3, shares)
    assert sampling.split_steps(32, 3, [2, 1, 1]) == [16, 8, 8]
