"""Monte Carlo diffusion, CNNet, guided RANSAC and AUC against closed forms, worked numbers and libraries."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import bench, evaluation, peers, ransac, training
from reprobook.papers.mc_diffusion_ransac import geometry as g
from reprobook.papers.mc_diffusion_ransac.diffusion import (
    Msr,
    alpha_bar,
    beta_schedule,
    diffuse,
    diffuse_steps,
    msr_sample,
    resample_outside,
)
from reprobook.papers.mc_diffusion_ransac.needs import paper_needs
from reprobook.papers.mc_diffusion_ransac.network import (
    CNNet,
    Shared,
    kl_loss,
    kl_target,
    log_probabilities,
    n_parameters,
)
from reprobook.papers.mc_diffusion_ransac.pairs import Pairs
from reprobook.papers.mc_diffusion_ransac.problems import (
    ESSENTIAL,
    FUNDAMENTAL,
    HOMOGRAPHY,
    PROBLEMS,
    recover_pose,
    solve_homography,
)

SIZES = np.array([[640.0, 480.0], [640.0, 480.0]])
EACH = pytest.mark.parametrize("name", PROBLEMS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scene(n: int = 60, share: float = 1.0, seed: int = 0, baseline: float = 0.5) -> Pairs:
    """One pair: ``n`` points of a volume seen by two cameras; all but ``share`` of the second ends are random."""
    r = rng(seed)
    X = r.uniform([-1.5, -1, 3], [1.5, 1, 6], (n, 3))
    R, t = g.rotation(np.array([0.2, 1.0, 0.1]), np.radians(12.0)), np.array([baseline, 0.05, 0.02])
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    ends = [(P / P[:, 2:]) @ K.T for P in (X, X @ R.T + t)]
    c = np.concatenate([e[:, :2] for e in ends], axis=1)
    wrong = np.arange(n) >= share * n
    c[wrong, 2:] = r.uniform([0, 0], [640, 480], (int(wrong.sum()), 2))
    return Pairs(c[None], np.array([n]), SIZES[None], np.stack([K, K])[None], R[None], t[None])


def planar(n: int = 60, share: float = 1.0, seed: int = 0) -> Pairs:
    """One pair related by a homography."""
    r = rng(seed)
    H = np.array([[0.9, -0.2, 40], [0.15, 1.0, -10], [1e-4, 1e-4, 1]])
    first = r.uniform([100, 100], [540, 380], (n, 2))
    second = g.transfer(H, first)
    wrong = np.arange(n) >= share * n
    second[wrong] = r.uniform([0, 0], [640, 480], (int(wrong.sum()), 2))
    return Pairs(np.concatenate([first, second], 1)[None], np.array([n]), SIZES[None], H=H[None])


def example(name: str, **options: object) -> tuple:
    """A problem, one pair for it, its coordinates, and a threshold of 1 px."""
    problem = PROBLEMS[name]
    pairs = planar(**options) if name == "homography" else scene(**options)
    x = problem.coordinates(pairs.matches.astype(np.float64), pairs)[0]
    return problem, pairs, x, 1.0 / problem.pixels(pairs)[0]


# ------------------------------------------------------------------------------------------------ diffusion


def test_schedules_of_the_worked_example() -> None:
    assert beta_schedule(4, 0.1, 0.5, "offset") == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert alpha_bar(beta_schedule(4, 0.1, 0.5, "offset")) == pytest.approx([1, 0.8, 0.56, 0.336, 0.168])
    assert alpha_bar(beta_schedule(4, 0.1, 0.5))[-1] == pytest.approx(0.2185, abs=5e-5)
    for kind in ("ddpm", "offset"):
        signal = alpha_bar(beta_schedule(kind=kind))
        assert (np.diff(signal) < 0).all() and signal[0] == 1 and signal[-1] == pytest.approx(4e-5, rel=0.05)


def test_the_ddpm_schedule_is_the_one_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(1000, 1e-4, 0.02, "linear").alphas_cumprod
    assert alpha_bar(beta_schedule())[1:] == pytest.approx(theirs.numpy(), rel=1e-3)


@pytest.mark.parametrize("kind", ["ddpm", "offset"])
def test_steps_and_closed_form_have_the_same_law(kind: str) -> None:
    """Mean factor and variance of a worked example (0.40988, 0.832 with unit noise), and of both programs."""
    betas = beta_schedule(4, 0.1, 0.5, kind)
    abar = alpha_bar(betas)[4]
    if kind == "offset":
        assert math.sqrt(abar) == pytest.approx(0.40988, abs=1e-5) and 1 - abar == pytest.approx(0.832)
    point, n = np.array([400.0, 100.0, 150.0, 300.0]), 40_000
    c, s = np.broadcast_to(point, (n, 4)), 0.01
    centre = np.array([320.0, 240, 320, 240])
    for made in (
        diffuse(c, abar, s, SIZES, rng(1), ends="both"),
        diffuse_steps(c, 4, betas, s, SIZES, rng(2), ends="both"),
    ):
        assert made.mean(0) - centre == pytest.approx(math.sqrt(abar) * (point - centre), abs=0.15)
        assert made.std(0) == pytest.approx(np.full(4, math.sqrt(1 - abar) * 6.4), rel=0.015)


def test_the_origin_is_where_points_shrink_to() -> None:
    c = np.broadcast_to(np.array([400.0, 100, 400, 100]), (2000, 4))
    corner, centre = (diffuse(c, 0.0, 0.001, SIZES, rng(), origin=o, ends="both").mean(0) for o in ("corner", "centre"))
    assert corner == pytest.approx(np.zeros(4), abs=0.1) and centre == pytest.approx([320, 240, 320, 240], abs=0.1)


@pytest.mark.parametrize(
    ("s", "abar", "origin", "share"),
    [(0.1, 0.1, "corner", 0.852), (0.1, 0.0, "corner", 0.25), (0.5, 0.5, "centre", 0.599), (1.0, 0.0, "centre", 0.112)],
)
def test_the_share_that_stays_inside_is_the_gaussian_integral(s: float, abar: float, origin: str, share: float) -> None:
    c = np.broadcast_to(np.array([320.0, 240, 320, 240]), (40_000, 4))
    made = diffuse(c, abar, s, SIZES, rng(), origin=origin)[:, 2:]
    assert ((made >= 0) & (made < [640, 480])).all(-1).mean() == pytest.approx(share, abs=0.008)


def test_no_step_no_noise_no_share_leave_the_truth() -> None:
    c = scene().matches
    assert diffuse(c, 1.0, 0.5, SIZES, rng(), ends="both") == pytest.approx(c)
    assert diffuse_steps(c, 0, beta_schedule(), 0.5, SIZES, rng()) == pytest.approx(c)
    drawn = msr_sample(c, SIZES, Msr(r=(0, 0)), rng())
    assert sorted(map(tuple, drawn.matches[0])) == sorted(map(tuple, c[0])) and not drawn.diffused.any()


def test_only_the_second_end_moves_unless_both_are_asked_for() -> None:
    c = scene().matches
    assert (diffuse(c, 0.5, 0.1, SIZES, rng())[..., :2] == c[..., :2]).all()
    assert (diffuse(c, 0.5, 0.1, SIZES, rng(), ends="both") != c).all()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(5, 80), r=st.floats(0, 1), s=st.floats(0, 2), both=st.booleans(), corner=st.booleans(),
    uniform=st.booleans(), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_msr_keeps_its_promises(n, r, s, both, corner, uniform, seed) -> None:
    """Same number; exactly N - floor(rN) rows bitwise true (never fewer than 5); everything inside; t in range."""
    c = rng(seed).random((3, n, 4)) * [640, 480, 640, 480]
    config = Msr(
        r=(r, r), s=(s, s), ends="both" if both else "second", origin="corner" if corner else "centre",
        noise="uniform" if uniform else "diffusion",
    )  # fmt: skip
    drawn = msr_sample(c, SIZES, config, rng(seed))
    assert drawn.matches.shape == c.shape
    assert ((drawn.matches >= 0) & (drawn.matches < [640, 480, 640, 480])).all()
    assert (drawn.diffused.sum(1) == min(math.floor(r * n), n - 5)).all() and ((drawn.t >= 1) & (drawn.t <= 1000)).all()
    for found, diffused, true in zip(drawn.matches, drawn.diffused, c, strict=True):
        assert {tuple(row) for row in found[~diffused]} <= {tuple(row) for row in true}


def test_the_ranges_are_drawn_once_a_pair_and_reach_their_ends() -> None:
    drawn = msr_sample(np.tile(scene().matches, (4000, 1, 1)), SIZES, Msr(), rng())
    assert drawn.t.min() <= 5 and drawn.t.max() >= 996 and drawn.t.mean() == pytest.approx(500.5, abs=15)
    assert drawn.r.min() == pytest.approx(0.1, abs=0.01) and drawn.r.max() == pytest.approx(0.95, abs=0.01)
    fixed = msr_sample(np.tile(scene().matches, (50, 1, 1)), SIZES, Msr().without_msr(), rng())
    assert set(fixed.t) == {500} and set(fixed.r) == {0.525} and set(fixed.s) == {0.26}


def test_resampling_replaces_whole_ends_and_nothing_else() -> None:
    c = np.array([[[-1.0, 5, 10, 10], [5, 5, 640, 10], [5, 5, 639.9, 0]]])
    made = resample_outside(c, SIZES, rng())
    assert (made[0, 2] == c[0, 2]).all() and (made[0, 0, 2:] == [10, 10]).all() and (made[0, 1, :2] == [5, 5]).all()
    assert 0 <= made[0, 0, 0] < 640 and made[0, 0, 1] != 5 and made[0, 1, 2] < 640


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: beta_schedule(0), "T 0"),
        (lambda: beta_schedule(10, 0.5, 0.1), "first 0.5"),
        (lambda: beta_schedule(kind="cosine"), "'ddpm' or 'offset'"),
        (lambda: diffuse(scene().matches, 1.5, 0.1, SIZES, rng()), r"abar must be in \[0, 1\]"),
        (lambda: diffuse(scene().matches, 0.5, 0.1, SIZES, rng(), origin="middle"), "origin 'middle'"),
        (lambda: diffuse(scene().matches, 0.5, 0.1, SIZES, rng(), ends="first"), "ends 'first'"),
        (lambda: diffuse_steps(scene().matches, 5, beta_schedule(4), 0.1, SIZES, rng()), "t 5"),
        (lambda: Msr(r=(0.5, 1.5)), r"r \(0.5, 1.5\)"),
        (lambda: msr_sample(scene(4).matches, SIZES, Msr(), rng()), "at least 5, the minimal set"),
        (lambda: msr_sample(np.full((1, 9, 4), np.nan), SIZES, Msr(), rng()), "finite"),
    ],
)
def test_bad_settings_are_named(call, message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        call()


# ------------------------------------------------------------------------------------------------ network and losses


def test_cnnet_has_the_hosts_size() -> None:
    assert n_parameters(CNNet(12, 128)) == 403_329
    assert paper_needs(12, 128, 32, 2000)["weights (thousand)"] == pytest.approx(403.329)
    assert paper_needs(2, 8, 4, 50)["operations of a step (GFLOP)"] == pytest.approx(
        # forward 2 mnk per layer, backward twice that, but the first layer needs no gradient for its input
        2 * 4 * 50 * (3 * (4 * 8 * 8 + 8) + 2 * 5 * 8) / 1e9, rel=1e-6
    )  # fmt: skip


def test_cnnet_is_equivariant_and_blind_to_copies() -> None:
    torch.manual_seed(0)
    model, x = CNNet(3, 16), torch.randn(2, 40, 5)
    for mode in (True, False):
        model.train(mode)
        order = torch.randperm(40)
        assert torch.allclose(model(x)[:, order], model(x[:, order]), atol=1e-5)
    p = log_probabilities(model(x)).exp()
    twice = log_probabilities(model(torch.cat([x, x], dim=1))).exp()
    assert torch.allclose(p.sum(1), torch.ones(2)) and torch.allclose(twice[:, :40], p / 2, atol=1e-5)
    alone = log_probabilities(model(x[:1])).exp()
    assert torch.allclose(alone, p[:1], atol=1e-6), "a pair's context is its own list, not the batch"


def test_the_shared_layer_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer, x = Shared(5, 7), torch.randn(3, 5, 11)
    assert torch.allclose(layer(x), torch.nn.functional.conv1d(x, layer.weight[..., None], layer.bias), atol=1e-6)


def test_log_probabilities_use_the_log_sigmoid() -> None:
    p = log_probabilities(torch.tensor([[0.2, -0.1, 0.4]])).exp()
    assert p[0].tolist() == pytest.approx([0.33866, 0.29258, 0.36875], abs=1e-5)
    assert log_probabilities(torch.tensor([[-200.0, 300.0]])).isfinite().all()


def test_the_target_of_stage_1() -> None:
    target = kl_target(torch.tensor([[0.0, 1e-6, 4e-6]]), 1e-3)
    assert target[0].tolist() == pytest.approx([0.57410, 0.34821, 0.07770], abs=1e-5)
    log_p = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    by_hand = sum(t * math.log(t / q) for t, q in zip(target[0].tolist(), (0.5, 0.25, 0.25), strict=True))
    assert float(kl_loss(log_p, target)) == pytest.approx(by_hand, abs=1e-6)
    assert float(kl_loss(torch.log(target), target)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ReprobookError, match="tau 0"):
        kl_target(torch.zeros(1, 2), 0)


def test_a_network_refuses_other_shapes() -> None:
    with pytest.raises(ReprobookError, match=r"\[2, 9, 4\]; it must be \(B, N, 5\)"):
        CNNet(1, 4)(torch.zeros(2, 9, 4))


def test_the_policy_gradient_is_the_gradient_of_the_expected_loss() -> None:
    """With one draw of three, dE/dlog p = p (l - mean l); the estimator's mean is that number (worked by hand)."""
    p, losses = np.array([0.33866, 0.29258, 0.36875]), np.array([1.0, 2.0, 4.0])
    mean = (p * losses).sum()
    exact = p * (losses - mean)
    assert exact == pytest.approx([-0.47374, -0.11670, 0.59043], abs=2e-4) and exact.sum() == pytest.approx(0, abs=1e-4)
    r, K = rng(), 4
    picked = r.choice(3, p=p / p.sum(), size=(60_000, K))
    each = [training.policy_gradient(np.eye(3)[row], losses[row]) for row in picked]
    # the baseline is the mean over the same K runs, which scales the gradient by (K - 1) / K
    assert np.mean(each, axis=0) == pytest.approx(exact * (K - 1) / K, abs=0.02)
    assert np.abs(np.sum(each, axis=1)).max() < 1e-12


def test_stage_2_moves_probability_to_the_inliers() -> None:
    """On one easy pair, the expected gradient for log p is lower for inliers than for outliers."""
    pairs = scene(40, share=0.5)
    batch = training.make_batch(ESSENTIAL, pairs, 40, 1.0, rng())
    z = torch.zeros(1, 40, requires_grad=True)

    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.z = torch.nn.Parameter(z.detach().clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.z

    model = Constant()
    value, extras = training.stage2_loss(ESSENTIAL, n_runs=60, n_hypotheses=2)(model, batch)
    value.backward()
    right = batch.squared[0] < 1
    slope = model.z.grad[0]
    assert int(right.sum()) >= 20 and slope[right].mean() < slope[~right].mean()
    assert 0 < float(extras["expected loss"]) <= 180


def test_batches_are_a_function_of_their_index() -> None:
    pairs = scene(30)
    source = training.mcd_source(pairs, Msr(), 5)
    make = training.batches(ESSENTIAL, source, 1, 1, 24, 1.0, seed=3)
    again = training.batches(ESSENTIAL, source, 1, 1, 24, 1.0, seed=3)
    assert torch.equal(make(5).inputs, again(5).inputs) and not torch.equal(make(5).inputs, make(6).inputs)
    assert make(5).inputs.shape == (1, 24, 5) and (make(5).inputs[..., 4] == 0).all()


def test_training_goes_on_bit_equal_after_an_interruption(tmp_path) -> None:
    """Both stages: stopped in the middle by an error and started again, the weights are those of an undisturbed run."""
    from reprobook.train import fit

    def train(folder, stop_at: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        model = CNNet(1, 8)
        source = training.mcd_source(scene(30), Msr(), 5)
        for name, loss in (("one", training.stage1_loss), ("two", training.stage2_loss(ESSENTIAL, 2, 4))):
            make = training.batches(ESSENTIAL, source, 1, 1, 24, 1.0, seed=0)

            def batch(i: int, name=name, make=make):
                if name == "two" and i == stop_at:
                    raise KeyboardInterrupt
                return make(i)

            fit(model, batch, loss, num_steps=6, lr=1e-3, folder=folder / name, checkpoint_every=2, precision="fp32")
        return torch.cat([p.flatten() for p in model.parameters()])

    whole = train(tmp_path / "a", None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", 3)
    assert torch.equal(train(tmp_path / "b", None), whole)


def test_stage_1_learns_to_tell_inliers(tmp_path) -> None:
    from reprobook.train import fit

    torch.manual_seed(0)
    pairs = scene(60)
    model, source = CNNet(2, 16), training.mcd_source(pairs, Msr(s=(0.3, 0.5)), 5)
    fit(
        model, training.batches(ESSENTIAL, source, 1, 1, 60, 1.0, 0), training.stage1_loss, num_steps=60, lr=5e-3,
        folder=tmp_path, precision="fp32",
    )  # fmt: skip
    test = scene(60, share=0.5, seed=1)
    x, p = evaluation.probabilities(model, ESSENTIAL, test, 60, seed=0)
    right = ESSENTIAL.distance(x, ESSENTIAL.truth(test))[0] < (1 / 500) ** 2
    assert p[0][right].mean() > 1.5 * p[0][~right].mean()


# ------------------------------------------------------------------------------------------------ geometry and solvers


@EACH
def test_the_truth_explains_true_matches(name: str) -> None:
    problem, pairs, x, _ = example(name)
    assert problem.distance(x, problem.truth(pairs)[0]).max() < 1e-16


def test_sampson_is_the_first_order_distance() -> None:
    """For a small move of one coordinate, the distance to the surface is |residual| / |gradient|, by differences."""
    problem, pairs, x, _ = example("essential")
    E, c = problem.truth(pairs)[0], x[0] + [0, 0, 1e-3, -2e-3]

    def residual(c):
        return np.append(c[2:], 1) @ E @ np.append(c[:2], 1)

    gradient = [(residual(c + h) - residual(c - h)) / 2e-6 for h in np.eye(4) * 1e-6]
    assert g.sampson(c[None], E)[0] == pytest.approx(residual(c) ** 2 / np.dot(gradient, gradient), rel=1e-6)


def test_epipolar_distance_is_opencvs() -> None:
    problem, pairs, x, _ = example("fundamental", share=0.5)
    F = problem.truth(pairs)[0]
    lines = [cv2.computeCorrespondEpilines(x[:, k : k + 2].copy(), w, F)[:, 0] for k, w in ((0, 1), (2, 2))]
    both = [(g.homogeneous(e) * line).sum(1) ** 2 for e, line in zip((x[:, 2:], x[:, :2]), lines, strict=True)]
    assert g.epipolar_squared(x, F) == pytest.approx(sum(both), rel=1e-6)


def test_transfer_error_by_hand() -> None:
    H = np.diag([2.0, 2.0, 1.0])
    assert g.transfer_squared(np.array([[1.0, 0, 2, 3]]), H) == pytest.approx([(9 + 2.25) / 2])
    assert np.isinf(g.transfer_squared(np.array([[1.0, 0, 2, 3]]), np.zeros((3, 3)))).all()
    assert np.allclose(g.adjugate(H), np.linalg.inv(H) * np.linalg.det(H))


@EACH
def test_minimal_solvers_find_the_truth(name: str) -> None:
    """One of the roots is the truth, up to scale; a few of the samples are ill-conditioned."""
    gaps = []
    for seed in range(20):
        problem, pairs, x, _ = example(name, n=PROBLEMS[name].sample, seed=seed)
        models, owner = problem.solve(x[None])
        true = problem.truth(pairs)[0]
        models, true = models / np.linalg.norm(models, axis=(1, 2), keepdims=True), true / np.linalg.norm(true)
        gaps.append(np.minimum(np.abs(models - true).max((1, 2)), np.abs(models + true).max((1, 2))).min())
        assert (owner == 0).all()
    assert np.median(gaps) < 1e-5 and np.mean(np.array(gaps) < 1e-3) >= 0.9


def test_four_points_agree_with_opencv() -> None:
    samples = rng().uniform(-0.5, 0.5, (50, 4, 4)).astype(np.float32)
    ours, owner = solve_homography(samples.astype(np.float64))
    for H, i in zip(ours, owner, strict=True):
        theirs = cv2.getPerspectiveTransform(samples[i, :, :2].copy(), samples[i, :, 2:].copy())
        assert pytest.approx(theirs, rel=1e-4, abs=1e-4) == H


def test_four_points_with_three_on_a_line_have_no_model() -> None:
    flat = np.array([[0.0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 0, 1], [0, 1, 1, 1]])
    good = np.array([[0.0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1.2, 1.1]])
    models, owner = solve_homography(np.stack([flat, good, np.zeros((4, 4)), flat[:, [2, 3, 0, 1]]]))
    assert owner.tolist() == [1] and g.transfer(models[0], good[:, :2]) == pytest.approx(good[:, 2:])


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_recovered_pose_is_opencvs(seed: int) -> None:
    _, pairs, x, _ = example("essential", n=20, seed=seed)
    E = g.essential(pairs.R[0], pairs.t[0])
    R, t = recover_pose(-E, x)
    _, theirs_R, theirs_t, _ = cv2.recoverPose(E, x[:, :2].copy(), x[:, 2:].copy(), np.eye(3))
    assert pytest.approx(theirs_R, abs=1e-7) == R and t == pytest.approx(theirs_t[:, 0], abs=1e-7)
    assert g.rotation_error(R, pairs.R[0]) < 1e-4 and g.translation_error(t, pairs.t[0], fold=False) < 1e-4


def test_pose_errors_by_hand() -> None:
    turned = g.rotation(np.array([0, 0, 1.0]), np.radians(30.0))
    assert g.rotation_error(turned, np.eye(3)) == pytest.approx(30)
    assert turned @ [1, 0, 0] == pytest.approx([math.cos(math.pi / 6), 0.5, 0])
    a, b = np.array([1.0, 0, 0]), np.array([-1.0, 0, 0])
    assert g.translation_error(a, b) == pytest.approx(0, abs=1e-6) and g.translation_error(a, b, fold=False) == 180
    assert g.translation_error(a, np.array([0, 5.0, 0])) == pytest.approx(90)
    shifted = np.array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    assert g.corner_error(shifted, np.eye(3), np.array([640, 480])) == pytest.approx(5)


# ------------------------------------------------------------------------------------------------ AUC


def test_auc_of_the_worked_example() -> None:
    errors = [1, 3, 7, 15, 30]
    assert [g.auc_exact(errors, t) for t in (5, 10, 20)] == pytest.approx([0.30, 0.45, 0.615])
    assert [g.auc_binned(errors, t) for t in (5, 10, 20)] == pytest.approx([0.40, 0.50, 0.60])
    assert [g.area(errors, t).mean() for t in (5, 10)] == pytest.approx([(0.8 + 0.4) / 5, (0.9 + 0.7 + 0.3) / 5])


@given(st.lists(st.floats(0, 60), min_size=1, max_size=40))
def test_auc_has_its_bounds(errors: list[float]) -> None:
    exact = g.auc_exact(errors, 20)
    assert 0 <= g.area(errors, 20).mean() <= exact + 1e-12 <= 1 + 2e-12
    assert g.auc_exact([*errors, math.inf], 20) <= exact + 1e-12
    assert g.auc_exact([0.0] * len(errors), 20) == 1 == g.auc_binned([0.0], 20)
    assert g.auc_binned(errors, 20, 0.1) == pytest.approx(g.area(errors, 20).mean(), abs=0.006)


@pytest.mark.parametrize("errors", [[], [math.nan], [-1.0]])
def test_auc_refuses_what_is_no_error(errors: list[float]) -> None:
    with pytest.raises(ReprobookError, match="AUC needs"):
        g.auc_exact(errors, 5)


def test_bins_must_fit() -> None:
    with pytest.raises(ReprobookError, match="multiple of the bin width"):
        g.auc_binned([1.0], 7)


def test_gain_pairs_the_scenes() -> None:
    table = {("a", "a"): 60, ("b", "a"): 40, ("a", "b"): 10, ("b", "b"): 70, ("mcd", "a"): 58, ("mcd", "b"): 69}
    found = {key: np.full(20, float(value)) for key, value in table.items()}
    assert evaluation.gain(found, "mcd", "others", ["a", "b"]).mean == pytest.approx((18 + 59) / 2)
    assert evaluation.gain(found, "mcd", "own", ["a", "b"], slack=2.0).mean == pytest.approx((0 + 1) / 2)
    assert evaluation.gain(found, "mcd", ["a", "b"], ["a"]).mean == pytest.approx(58 - 50)
    noisy = {k: v + rng(len(k[0]) + 7).normal(0, 5, 20) for k, v in found.items()}
    interval = evaluation.gain(noisy, "mcd", "b", ["a"])
    assert interval.low < interval.mean < interval.high and interval.n == 20


# ------------------------------------------------------------------------------------------------ RANSAC


@EACH
@pytest.mark.parametrize("refine", ["none", "model"])
def test_exact_matches_give_the_truth(name: str, refine: str) -> None:
    problem, pairs, x, tau = example(name, share=0.7)
    found = ransac.estimate(problem, x, None, tau, 100, rng(), refine)
    assert not found.failed and max(ransac.error_of(problem, found, x, pairs, 0)) < 1
    assert found.inliers[:42].all()


@EACH
def test_refinement_never_loses_inliers_and_helps_with_noise(name: str) -> None:
    gains = []
    for seed in range(8):
        problem, pairs, x, tau = example(name, n=100, seed=seed)
        x = x + rng(seed).normal(0, 0.4 * tau, x.shape)
        plain, refined = (ransac.estimate(problem, x, None, tau, 30, rng(seed), r) for r in ("none", "model"))
        assert refined.inliers.sum() >= plain.inliers.sum()
        gains.append(*np.diff([ransac.error_of(problem, e, x, pairs, 0)[0] for e in (refined, plain)]))
    assert np.median(gains) > 0


def test_guidance_beats_chance() -> None:
    """Probabilities on the inliers solve a pair with 15 % inliers in 10 hypotheses; uniform draws don't (hit rate)."""
    problem, pairs, x, tau = example("essential", n=100, share=0.15)
    p = np.where(np.arange(100) < 15, 1 / 15, 0.0)
    guided = [ransac.estimate(problem, x, p, tau, 10, rng(k)) for k in range(10)]
    assert max(ransac.error_of(problem, e, x, pairs, 0)[0] for e in guided) < 1
    assert ransac.hit_rate(0.15, 5, 10) < 0.001


def test_uniform_draws_have_the_hit_rate_of_classic_ransac() -> None:
    w, m, M, n = 0.5, 5, 20, 4000
    picked = ransac.draw(None, 1000, (n, M, m), rng())
    assert (picked < w * 1000).all(-1).any(-1).mean() == pytest.approx(ransac.hit_rate(w, m, M), abs=0.02)
    assert ransac.hit_rate(w, m, M) == pytest.approx(1 - (1 - 0.5**5) ** 20)


def test_draws_follow_p_and_repeat() -> None:
    p = np.array([0.1, 0.0, 0.6, 0.3])
    picked = ransac.draw(p, 4, (50_000,), rng())
    assert np.bincount(picked, minlength=4) / 50_000 == pytest.approx(p, abs=0.01) and not (picked == 1).any()
    assert (picked == ransac.draw(p, 4, (50_000,), rng())).all()
    with pytest.raises(ReprobookError, match="p must hold 4"):
        ransac.draw(np.array([0.5, np.nan, 0.5, 0]), 4, (1,), rng())


def test_the_counts_of_a_run_are_all_its_draws() -> None:
    problem, _, x, tau = example("homography")
    found = ransac.runs(problem, x, None, tau, 3, 7, rng())
    assert found.counts.sum(1).tolist() == [28, 28, 28] and found.models.shape == (3, 3, 3)


def test_the_winner_is_the_model_with_most_inliers() -> None:
    """Brute force: every root of every sample of the same draws, counted one by one in double precision."""
    problem, _, x, tau = example("essential", share=0.6, n=50)
    found = ransac.runs(problem, x, None, tau, 2, 12, rng(4))
    picked = ransac.draw(None, 50, (2, 12, 5), rng(4))
    for run in range(2):
        counts = bench.naive_score(problem, x, problem.solve(x[picked[run]])[0], tau)
        assert found.inliers[run].sum() == max(counts)


BAD = {
    "fewer matches than the minimal set": (lambda x, m: x[: m - 1], "fewer than the minimal set"),
    "all matches equal": (lambda x, m: np.tile(x[:1], (30, 1)), "different matches"),
    "collinear": (lambda x, m: np.column_stack([np.linspace(0, 1, 30)] * 4), "collinear"),
    "NaN": (lambda x, m: np.where(np.arange(len(x))[:, None] == 3, np.nan, x), "NaN or infinite"),
    "infinite": (lambda x, m: np.where(np.arange(len(x))[:, None] == 3, np.inf, x), "NaN or infinite"),
    "no match": (lambda x, m: x[:0], "0 matches"),
}


@EACH
@pytest.mark.parametrize("kind", BAD)
def test_bad_matches_fail_with_a_reason(name: str, kind: str) -> None:
    problem, pairs, x, tau = example(name)
    change, reason = BAD[kind]
    bad = change(x, problem.sample)
    found = ransac.estimate(problem, bad, None, tau, 10, rng(), "model")
    assert found.model is None and reason in found.failed
    assert ransac.error_of(problem, found, bad, pairs, 0) == (math.inf, math.inf)


def test_a_pure_rotation_fails() -> None:
    problem, _, x, tau = example("essential", baseline=0.0)
    x[:, 2:] = g.transfer(g.rotation(np.array([0.2, 1.0, 0.1]), np.radians(12.0)), x[:, :2])
    x[:, 2:] += rng().normal(0, 1e-5, (len(x), 2))
    assert "no parallax" in ransac.estimate(problem, x, None, tau, 20, rng()).failed


def test_a_plane_does_not_determine_f() -> None:
    pairs = planar()
    x = FUNDAMENTAL.coordinates(pairs.matches, pairs)[0]
    assert "no parallax" in ransac.estimate(FUNDAMENTAL, x, None, 1 / 640, 20, rng()).failed


@EACH
def test_pure_noise_never_raises(name: str) -> None:
    problem, _, _, tau = example(name)
    for seed in range(5):
        x = rng(seed).uniform(-0.5, 0.5, (12, 4))
        found = ransac.estimate(problem, x, None, tau / 50, 5, rng(seed), "model")
        assert found.failed or found.inliers.sum() >= problem.sample
        if seed == 0:  # a sample of copies of one match
            ransac.estimate(problem, np.tile(x[:8], (3, 1)), np.eye(24)[0] * 0.97 + 0.00125, tau, 5, rng(), "model")


def test_matches_of_another_shape_are_refused() -> None:
    with pytest.raises(ReprobookError, match=r"\[3, 5\]; they must be \(N, 4\)"):
        ransac.estimate(ESSENTIAL, np.zeros((3, 5)), None, 1.0, 1, rng())


# ------------------------------------------------------------------------------------------------ peers, benchmark


@EACH
def test_every_peer_solves_an_easy_pair_and_survives_bad_ones(name: str) -> None:
    problem, pairs, x, tau = example(name, share=0.8, n=100)
    for peer in peers.available(problem):
        model = peers.model_of(peer, problem, x, tau, 200)
        inliers = problem.distance(x, model) < tau**2
        assert problem.errors(model, x[inliers], pairs, 0)[0] < 1.0, peer
        for bad in (x[:1], np.tile(x[:1], (30, 1)), x * np.nan):
            frame, _ = peers.evaluate(peer, problem, with_list(pairs, bad), len(bad), 10, 1.0, 0)
            assert np.isinf(frame["error"]).all() and frame["failed"][0], peer
    if name == "essential":
        with pytest.raises(ReprobookError, match="pydegensac"):
            peers.model_of("pydegensac", problem, x, tau, 10)


def with_list(pairs: Pairs, x: np.ndarray) -> Pairs:
    """The same pair with other matches, put into ``coordinates``' place: enough for what must fail."""
    return Pairs(x[None], np.array([len(x)]), pairs.sizes, pairs.K, pairs.R, pairs.t, pairs.H)


def test_prosac_order_comes_from_the_scores() -> None:
    pairs = scene(100, share=0.3)
    x = ESSENTIAL.coordinates(pairs.matches, pairs)
    p = np.where(np.arange(100) < 30, 1.0, 0.01)[None]
    frame, spent = peers.evaluate("PoseLib LO-RANSAC", ESSENTIAL, pairs, 100, 10, 1.0, 0, lambda pairs: (x, p))
    assert frame["error"][0] < 1 and spent > 0


def test_evaluation_counts_failures_as_infinite() -> None:
    pairs = scene(60)
    bad = Pairs(np.tile(pairs.matches[:, :1], (1, 60, 1)), pairs.count, pairs.sizes, pairs.K, pairs.R, pairs.t)
    frame = evaluation.evaluate(ESSENTIAL, bad, None, 60, 10, 1.0, 0)
    summary = evaluation.summary(ESSENTIAL, frame)
    assert np.isinf(frame["error"][0]) and summary["failed"] == 1 and summary["AUC@20"] == 0
    good = evaluation.summary(ESSENTIAL, evaluation.evaluate(ESSENTIAL, pairs, None, 60, 30, 1.0, 0))
    assert good["AUC@5"] > 95 and good["binned@5"] == 100
    assert evaluation.areas(ESSENTIAL, frame).tolist() == [0.0]


def test_all_at_once_counts_as_one_by_one() -> None:
    assert set(bench.scoring(32, 64, repeats=1)) == {"all models at once", "model by model"}
    assert len(bench.solvers(40, repeats=1)) == 4
    frame = bench.estimators(HOMOGRAPHY, bench.easy_pairs(HOMOGRAPHY, 2, 80), 80, 64, 3.0)
    assert frame["median error"].max() < 0.5 and frame["speed / our loop"][0] == 1
