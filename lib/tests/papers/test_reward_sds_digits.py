"""Digits and their attributes, the small networks, the judge, the companion of VSD, the scene, the study."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds import bench, pictures, printed, study
from reprobook.papers.reward_sds.digits import (
    ATTRIBUTES,
    SIDE,
    Digits,
    class_scale,
    halves,
    measure,
    read_digits,
    spoiled,
)
from reprobook.papers.reward_sds.judging import Judge, Verdict, nearest
from reprobook.papers.reward_sds.loop import Steps, Weighing
from reprobook.papers.reward_sds.losses import Noised
from reprobook.papers.reward_sds.networks import (
    EMPTY,
    Companion,
    ResidualPrior,
    RewardNet,
    UNetPrior,
    denoising_error,
    prior_batches,
    prior_loss,
    prompt,
    reward_batches,
    reward_loss,
)
from reprobook.papers.reward_sds.scene import Scene, turn, view_angles

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def canvas(draw: Any) -> Tensor:
    """A picture (1, 784) whose ink at (row, column) is ``draw(row, column)``."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return (2 * draw(rows.float(), columns.float()).float() - 1).view(1, -1)


def bar(width: int, lean: float = 0.0) -> Tensor:
    """An upright bar of ``width`` columns and 20 rows, whose columns move ``lean`` to the right a row upwards."""
    return canvas(lambda r, c: ((c - 14 - lean * (14 - r)).abs() <= width / 2 - 0.25) & (r >= 4) & (r < 24))


def some_digits(n: int = 60, seed: int = 0) -> Digits:
    """Bars and rings that stand for ten classes, in random order."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n)[torch.randperm(n, generator=generator)] % 10
    x = torch.cat([
        ring(float(3 + k % 5)) if k % 2 else bar(2 + k % 5, 0.1 * (k % 4)) for k in y.tolist()
    ])  # fmt: skip
    x = (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
    return Digits(x, y, measure(x))


def ring(inner: float) -> Tensor:
    """A ring of two pixels around a hole of radius ``inner``."""
    return canvas(lambda r, c: (((r - 14) ** 2 + (c - 14) ** 2).sqrt() - inner - 1).abs() <= 1)


# ---------------------------------------------------------------------------------------------------------- attributes


def test_slant_is_the_angle_of_a_sheared_bar() -> None:
    straight, right, left = (float(measure(bar(4, lean))[0, 0]) for lean in (0.0, 0.5, -0.5))
    assert straight == pytest.approx(0, abs=0.5)
    assert right == pytest.approx(math.degrees(math.atan(0.5)), abs=2.5)
    assert left == pytest.approx(-right, abs=0.5)


def test_thickness_is_the_width_of_a_long_bar() -> None:
    thin, thick = (float(measure(bar(width))[0, 1]) for width in (3, 7))
    assert thin == pytest.approx(3 * 20 / (3 + 20), abs=0.6)  # ink over half the edge, ends included
    assert thick == pytest.approx(7 * 20 / (7 + 20), abs=0.6)


def test_openness_counts_what_ink_encloses() -> None:
    enclosed = canvas(
        lambda r, c: (r >= 8) & (r < 18) & (c >= 8) & (c < 18) & ~((r >= 10) & (r < 16) & (c >= 10) & (c < 16))
    )
    assert float(measure(enclosed)[0, 2]) == pytest.approx(36 / 100)
    gap = enclosed.clone().view(SIDE, SIDE)
    gap[8:10, 12] = -1
    assert float(measure(gap.view(1, -1))[0, 2]) == 0
    both = torch.cat([enclosed, gap.view(1, -1), enclosed])  # pictures do not leak into each other
    assert measure(both)[:, 2].tolist() == pytest.approx([0.36, 0, 0.36])


def test_standard_values_have_mean_0_and_deviation_1_in_every_class() -> None:
    digits = some_digits(120)
    found = class_scale(digits).standard(digits.attributes, digits.y)[:, :2]
    for k in range(10):
        assert found[digits.y == k].mean(0).abs().max() < 1e-3
        assert found[digits.y == k].std(0).tolist() == pytest.approx([1, 1], rel=1e-3)


def test_reading_and_halving(tmp_path: Path) -> None:
    for k in range(10):
        ink = [round((k + 1) / 10, 1)] * (SIDE**2 * 2)
        (tmp_path / f"{k}.json").write_text(json.dumps({"data": ink}))
    digits = read_digits(tmp_path)
    assert digits.y.tolist() == [k for k in range(10) for _ in range(2)]
    assert digits.x[6, 0] == pytest.approx(2 * 0.4 - 1)
    one, other = halves(digits, 3)
    assert len(one.y) == len(other.y) == 10
    assert sorted(one.y.tolist() + other.y.tolist()) == digits.y.tolist()
    (tmp_path / "4.json").write_text(json.dumps({"data": [0, 1]}))
    with pytest.raises(ReprobookError, match=r"4\.json holds 2 numbers"):
        read_digits(tmp_path)
    (tmp_path / "4.json").unlink()
    with pytest.raises(ReprobookError, match=r"no 4\.json below"):
        read_digits(tmp_path)


def test_defects_are_defects() -> None:
    x = torch.cat([ring(6.0)] * 50)
    y = spoiled(x, torch.Generator().manual_seed(0))
    assert y.min() >= -1
    assert y.max() <= 1
    assert (y - x).square().mean(1).min() > 1e-4


# ------------------------------------------------------------------------------------------------------------ networks


def test_a_prior_that_learns_one_picture_denoises_to_it() -> None:
    torch.manual_seed(0)
    prior = ResidualPrior(width=32, n_blocks=1)
    digits = Digits(ring(6.0).repeat(16, 1), torch.zeros(16, dtype=torch.long), torch.zeros(16, 3))
    adam = torch.optim.Adam(prior.parameters(), 3e-3)
    for _ in range(100):
        adam.zero_grad()
        prior_loss(prior, (digits.x, prompt(digits.y))).backward()
        adam.step()
    x, t = torch.randn(3, SIDE**2), torch.tensor([999, 600, 300])
    abar = prior.alphas_cumprod[t][:, None]
    with torch.no_grad():
        clean = (x - (1 - abar).sqrt() * prior.noise(x, t, prompt(torch.zeros(3, dtype=torch.long)))) / abar.sqrt()
    assert (clean - digits.x[:3]).square().mean() < 0.05
    assert prior.empty(torch.tensor([1, 2])).tolist() == [EMPTY, EMPTY]


def test_batches_are_pure_and_defects_are_named() -> None:
    digits = some_digits()
    batch = prior_batches(digits, 40, seed=1)
    (x, y), (again, same) = batch(7), batch(7)
    assert x.equal(again)
    assert y.equal(same)
    assert not batch(8)[0].equal(x)
    clean = (x[:, None] == digits.x).all(-1).any(1)
    assert clean.equal((y % 3 != 2) | (y == EMPTY))
    many = torch.cat([batch(i)[1] for i in range(60)])
    assert float((many == EMPTY).float().mean()) == pytest.approx(0.075, abs=0.02)
    assert float(((many % 3 == 2) & (many != EMPTY)).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_the_reward_model_learns_and_refuses_other_sizes() -> None:
    torch.manual_seed(0)
    net, digits = RewardNet(4), some_digits()
    batch = reward_batches(digits, net, 30, seed=0)
    before, adam = reward_loss(net, batch(0)).item(), torch.optim.Adam(net.parameters(), 5e-3)
    for i in range(40):
        adam.zero_grad()
        reward_loss(net, batch(i)).backward()
        adam.step()
    assert reward_loss(net, batch(0)).item() < before / 2
    with pytest.raises(ReprobookError, match=r"shape \[5, 64\]; digits are \(M, 784\)"):
        net(torch.zeros(5, 64))


# ----------------------------------------------------------------------------------------------------------- companion


def small_prior() -> ResidualPrior:
    torch.manual_seed(1)
    prior = ResidualPrior(width=24, n_blocks=1)
    torch.nn.init.normal_(prior.leave.weight, std=0.05)
    return prior.requires_grad_(False)


def companion_case(n: int = 3) -> tuple[Companion, ResidualPrior, Noised]:
    prior, y = small_prior(), prompt(torch.arange(2))
    eps = torch.randn(2, n, SIDE**2, generator=torch.Generator().manual_seed(2))
    x, t = torch.cat([ring(5.0), bar(4)]), torch.tensor([300, 700])
    abar = prior.alphas_cumprod[t].view(2, 1, 1)
    return Companion(prior, y), prior, Noised(x, eps, t, abar.sqrt() * x[:, None] + (1 - abar).sqrt() * eps, 0)


def test_an_untrained_companion_is_the_prior() -> None:
    companion, prior, z = companion_case()
    flat = prior.noise(z.x_t.flatten(0, 1), z.t.repeat_interleave(3), companion.y.repeat_interleave(3))
    assert companion(z).flatten(0, 1).allclose(flat, atol=1e-5)


def test_a_companion_draws_other_noise_than_the_optimisation_of_its_seed() -> None:
    companion, _, z = companion_case()
    own = torch.Generator().manual_seed(0)
    drawn = [torch.randint(1000, (len(z.x),), generator=each) for each in (own, companion.generator)]
    assert not drawn[0].equal(drawn[1])


def test_no_time_outweighs_the_others_in_what_a_companion_learns() -> None:
    """An error of one in every pixel counts 10 where hardly any noise is left, and 1 where there is nothing else."""
    x, found = torch.zeros(1, 4), torch.ones(1, 4)
    counted = [denoising_error(found, x, torch.tensor([[s]])).item() for s in (0.01, 0.5, 1.0)]
    assert counted == pytest.approx([10, 4, 1])


def test_a_companion_learns_the_pictures_and_each_only_its_own() -> None:
    companion, prior, z = companion_case()
    error = (companion(z) - z.eps).square().mean()
    for group in companion.optimiser.param_groups:
        group["lr"] = 1e-2
    for _ in range(60):
        companion.learn(z.x)
    assert (companion(z) - z.eps).square().mean() < 0.5 * error
    assert prior.leave.weight.equal(small_prior().leave.weight)
    other, _, _ = companion_case()
    for group in other.optimiser.param_groups:
        group["lr"] = 1e-2
    changed = torch.stack([z.x[0], -z.x[1]])
    for _ in range(60):
        other.learn(changed)
    assert other(z)[0].allclose(companion(z)[0], atol=1e-4)
    assert not other(z)[1].allclose(companion(z)[1], atol=1e-2)


# --------------------------------------------------------------------------------------------------------------- judge


def test_the_judge_knows_its_digits_and_is_cautious_far_away() -> None:
    digits = some_digits(200)
    judge = Judge(digits, penalty=1e-4)
    verdict = judge(digits.x, digits.y)
    assert verdict.right(digits.y).mean() == 1
    assert verdict.distance.max() < 0.05
    expected = class_scale(digits).standard(digits.attributes, digits.y)
    assert torch.corrcoef(torch.stack([verdict.attributes[:, 1], expected[:, 1]]))[0, 1] > 0.99
    noise = torch.randn(4, SIDE**2, generator=torch.Generator().manual_seed(0))
    far = judge(3 * noise, torch.zeros(4, dtype=torch.long))
    mean = class_scale(digits).standard(judge.mean.expand(4, 3), torch.zeros(4, dtype=torch.long))
    assert far.attributes.allclose(mean, atol=1e-2)


def test_neighbours_are_of_the_class() -> None:
    x = torch.zeros(3, SIDE**2)
    x[1], x[2] = 0.1, 0.5
    digits = Digits(x, torch.tensor([0, 0, 1]), torch.zeros(3, 3))
    assert nearest(x[:1], torch.tensor([1]), digits).item() == pytest.approx(0.5 * 28)
    values = torch.tensor([[1.0, 0, 0], [3, 0, 0], [50, 0, 0]])
    verdict = Judge(Digits(x, digits.y, values), penalty=1.0, n_neighbours=2)
    near = class_scale(Digits(x, digits.y, values)).standard(torch.tensor([[2.0, 0, 0]]), torch.tensor([0]))
    assert verdict(x[:1], torch.tensor([0])).neighbours.allclose(near)  # the mean of both of the class, not the third


def test_the_margin_is_above_zero_where_the_class_is_recognised() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.0], [0.3, 0.1, 0.4]])
    padded = torch.cat([scores, torch.full((2, 7), -1.0)], 1)
    verdict = Verdict(padded, torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2))
    assert verdict.margin(torch.tensor([0, 1])).tolist() == pytest.approx([0.7, -0.3])
    assert verdict.right(torch.tensor([0, 1])).tolist() == [1, 0]


# --------------------------------------------------------------------------------------------------------------- study


def untrained_lab() -> study.Lab:
    digits, net = some_digits(200), RewardNet(4).requires_grad_(False)
    reward_batches(digits, net, 10, 0)
    judge = Judge(some_digits(100, seed=1))
    return study.Lab(small_prior(), net, digits, class_scale(digits), judge, pd.DataFrame())


def test_tasks_and_rows_cover_what_they_promise() -> None:
    asked = study.tasks()
    assert len(set(asked.names)) == 20
    assert asked.names[0] == "0, slant"
    assert study.tasks(["thickness"]).names == [f"{k}, thickness" for k in range(10)]
    looped = study.tasks(["openness"])
    assert {(int(k), ATTRIBUTES[j]) for k, j in zip(*looped, strict=True)} == {(k, "openness") for k in (0, 6, 8, 9)}


@pytest.mark.parametrize("base", ["SDS", "VSD", "SDS-Bridge"])
def test_every_base_runs_with_and_without_rewards(base: str) -> None:
    lab, asked = untrained_lab(), study.Tasks(torch.tensor([0, 3]), torch.tensor([0, 1]))
    settings = study.Settings(steps=Steps(n=4, lr=0.05))
    rows = study.fair_rows(Weighing(n=4, n_denoise=1), 4, 3, (0.5,))
    seen: list[tuple[str, int]] = []
    ends = study.digit_ends(lab, asked, rows, settings, 0, base, watch=lambda name, s: seen.append((name, s.step)))
    assert set(ends) == set(rows)
    assert seen.count(("SDS, more steps", 12)) == 1
    scores = study.digit_scores(lab, asked, ends["RewardSDS"].x)
    assert all(values.shape == (2,) for values in scores.values())
    assert study.sampled(lab, torch.tensor([0, 1]), 2.0, 3, 0).shape == (2, SIDE**2)


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(ReprobookError, match="base is 'ISM'"):
        study.digit_ends(untrained_lab(), study.tasks(), {"SDS": study.Row()}, study.Settings(), 0, "ISM")


def test_methods_are_read_where_they_have_moved_equally_far() -> None:
    """Two tracks away from blank paper towards one ring, one twice as fast: at equal change they are the same."""
    lab = untrained_lab()
    start, ink = -torch.ones(2, SIDE**2), torch.cat([ring(5.0), ring(7.0)]) + 1
    todo = study.Edits(start, torch.tensor([1, 1]), study.Tasks(torch.tensor([1, 1]), torch.tensor([1, 1])))
    slow, fast = (torch.stack([start + share * k / 20 * ink for k in range(21)]) for share in (0.5, 1.0))
    found = study.at_equal_change(lab, todo, {"slow": slow, "fast": fast})
    assert found["slow"]["judged"] == pytest.approx(found["fast"]["judged"], abs=0.02)
    verdict = lab.judge(slow[-1], todo.asked.classes)
    assert found["slow"]["judged"] == pytest.approx(verdict.attributes[:, 1].numpy(), abs=1e-4)
    assert found["slow"]["margin"] == pytest.approx(verdict.margin(todo.asked.classes).numpy(), abs=1e-4)


def test_a_dial_is_read_at_the_asked_distance() -> None:
    lab = untrained_lab()
    asked = study.Tasks(torch.tensor([1, 1]), torch.tensor([1, 1]))
    start, ink = lab.judge.digits.x[lab.judge.digits.y == 1][:2], torch.cat([ring(9.0), bar(8)]) + 1
    positions = [(start + share * ink).clamp(-1, 1) for share in (0.0, 0.25, 0.5, 1.0)]
    scores = [study.digit_scores(lab, asked, x) for x in positions]
    found = study.at_equal_distance(lab, asked, positions, scores[1]["distance"])
    assert found["judged"] == pytest.approx(scores[1]["judged"], abs=1e-3)
    between = (scores[1]["distance"] + scores[2]["distance"]) / 2
    half = study.at_equal_distance(lab, asked, positions, between)
    assert half["neighbours"] == pytest.approx((scores[1]["neighbours"] + scores[2]["neighbours"]) / 2, abs=1e-3)
    assert half["reached"].tolist() == [1, 1]
    near = study.at_equal_distance(lab, asked, positions, np.array([between[0], -1.0]))
    assert near["reached"].tolist() == [1, 0]


def test_edits_start_from_held_out_digits_of_their_class() -> None:
    lab = untrained_lab()
    todo = study.edits(lab, 0)
    assert nearest(todo.x, todo.source, lab.judge.digits).max() < 0.05  # rounding of a distance of 0
    assert ((todo.asked.classes - todo.source) % 10).tolist() == 2 * ([1] * 10 + [9] * 10)
    settings = study.Settings(steps=Steps(n=5, lr=0.05))
    rows = {"DDS": study.Row(), "best of DDS": study.Row(restarts=4)}
    tracks = study.edit_tracks(lab, todo, rows, settings, 0, every=2)
    assert tracks["DDS"].shape == (4, 40, SIDE**2)
    assert tracks["DDS"][0].equal(todo.x)
    reward, own = study.attribute_reward(lab, todo.asked), torch.arange(40)
    assert (reward(tracks["best of DDS"][-1], own) >= reward(tracks["DDS"][-1], own) - 1e-5).all()
    curves = study.edit_curves(lab, todo, tracks)
    assert curves.groupby("method")["moved"].first().tolist() == [0, 0]


def test_sweeps_name_their_rows() -> None:
    how = Weighing(n=10, n_reward_steps=100)
    assert set(study.scheme_rows(how)) == {"random", "softmax", "best", "best two", "best and worst"}
    found = study.size_rows(how, 100, (2, 4), (0.25, 0.6), (1,))
    small = ["small setting", "small, random weights"]
    assert list(found) == ["N = 2", "N = 4", "K = 0.25 of all", "K = 0.6 of all", "S = 1", *small]
    assert found["N = 2"].how is not None
    assert found["N = 2"].how.scheme == "best and worst"  # the default needs four
    assert [found[f"K = {k} of all"].how.n_reward_steps for k in (0.25, 0.6)] == [25, 60]  # type: ignore[union-attr]
    assert found["small setting"].how == Weighing(2, 10, 1, "best and worst")
    assert next(iter(study.part_rows(how))) == "noise term alone"
    assert list(study.pair_rows(how, "DDS")) == ["DDS", "RewardDDS", "random weights"]


def test_rivals_that_optimise_nothing() -> None:
    lab, asked = untrained_lab(), study.Tasks(torch.tensor([0, 3]), torch.tensor([0, 1]))
    reward, own = study.attribute_reward(lab, asked), torch.arange(2)
    few, many = (study.best_of_samples(lab, asked, 5 * n, 0, n_steps=5) for n in (1, 8))
    assert (few.calls, many.calls) == (5, 40)
    assert (reward(many.x, own) > reward(few.x, own)).all()
    blind = study.blind_ends(lab, asked, 0)
    liked, ten = blind["the real digit with most reward"].x, blind["the mean of ten real digits"].x
    for b, k in enumerate(asked.classes.tolist()):
        rivals = lab.half.x[lab.half.y == k]
        assert reward(liked[b : b + 1], own[b : b + 1]) >= reward(rivals, torch.full((len(rivals),), b)).max() - 1e-5
        ranked = rivals[reward(rivals, torch.full((len(rivals),), b)).argsort(descending=True)[:10]]
        assert ten[b].allclose(ranked.mean(0), atol=1e-5)
    settings = study.Settings(steps=Steps(n=3, lr=0.1))
    chosen, tuned = study.tuned_sds(lab, asked, (1.5, 8.0), settings, 0)
    tried = [
        study.digit_ends(lab, asked, {"SDS": study.Row()}, study.Settings(c, steps=settings.steps), 0)["SDS"].x
        for c in (1.5, 8.0)
    ]
    judged = [study.digit_scores(lab, asked, x)["judged"].mean() for x in tried]
    assert chosen == (1.5, 8.0)[int(np.argmax(judged))]
    assert study.digit_scores(lab, asked, tuned.x)["judged"].mean() == pytest.approx(max(judged))


def test_judges_that_can_tell_see_the_tenths_apart() -> None:
    lab = untrained_lab()
    found = study.sharpness(lab, study.tasks(["thickness"]))
    assert set(found) == {"judged", "neighbours"}
    assert all(values.shape == (10,) and np.isfinite(values).all() for values in found.values())


def test_a_u_net_is_a_prior_of_digits() -> None:
    torch.manual_seed(0)
    prior = UNetPrior((8,))
    x, t, y = torch.randn(2, SIDE**2), torch.tensor([10, 900]), prompt(torch.tensor([1, 2]))
    abar = prior.alphas_cumprod[t][:, None]
    with torch.no_grad():
        clean = (x - (1 - abar).sqrt() * prior.noise(x, t, y)) / abar.sqrt()
        assert clean.allclose(prior(x, t, y), atol=1e-3)
        assert not prior(x, t, y).equal(prior(x, t, prior.empty(y)))


GIVEN = {
    "bases": ["VSD"], "released": ["DDS"], "n_candidates": 4, "digit_steps": 6, "n_denoise": 1, "ns": [2], "ss": [1],
    "guidance": 3.0, "exploring": 3.0, "edit_guidance": 3.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bases": ["ISM"]}, "bases names 'ISM'; it may have VSD, SDS-Bridge"),
        ({"released": ["NeRF"]}, "released names 'NeRF'"),
        ({"n_candidates": 3}, "N is 3; 'two best and two worst' needs at least 4"),
        ({"ns": [1]}, "N is 1; 'best and worst' needs at least 2"),
        ({"ss": [2000]}, "S is 2000; it must be from 0 to the 1000 steps"),
        ({"guidance": 0.0}, "guidance is 0.0; it must be above 0"),
    ],
)
def test_parameters_are_checked_before_anything_is_fetched(change: dict[str, Any], message: str) -> None:
    study.check(GIVEN)
    with pytest.raises(ReprobookError, match=message):
        study.check(GIVEN | change)


def test_mixture_scores_by_hand() -> None:
    scores = study.mixture_scores(torch.tensor([[2.0, 2.0], [2.0, -2.0]]))
    assert scores["reward"].tolist() == [2, 0]
    assert scores["in the mode"].tolist() == [1, 0.5]
    at_mode = math.log(0.5) - math.log(0.3 * math.sqrt(2 * math.pi))
    assert scores["nats"].tolist() == pytest.approx([at_mode, at_mode], abs=1e-4)


def test_the_best_restart_is_the_one_with_the_highest_reward() -> None:
    rows = {"one": study.Row(), "best": study.Row(restarts=12)}
    ends = study.mixture_ends(rows, 30, 1, Steps(n=40, lr=0.05), 0)
    assert ends["best"].calls == 12 * ends["one"].calls
    assert (ends["best"].x[:, 0] > 0).float().mean() > 0.95
    assert study.mixture_table(ends)["method"].tolist() == ["one", "best"]


def test_the_benchmark_compares_equal_gradients() -> None:
    found = bench.headline(n_pictures=2, width=16, n_denoise=2)
    assert list(found.seconds) == ["one candidate at a time", "batched"]


# --------------------------------------------------------------------------------------------------------------- scene


def test_a_scene_shows_its_ink_where_it_is() -> None:
    scene = Scene(size=15)
    with torch.no_grad():
        scene.grid.fill_(-20)
        scene.grid[0, 0, 7, 7, 11] = 8  # (z, y, x): right of the axis, half way up
    front, back, side = scene(view_angles([0, 180, 90])).view(3, SIDE, SIDE)
    assert front.argmax().item() % SIDE in range(20, 24)
    assert back.argmax().item() % SIDE in range(4, 8)
    assert side.argmax().item() % SIDE in (13, 14)
    assert front.max() > 0
    assert front.min().item() == pytest.approx(-1, abs=1e-3)
    assert turn(scene, 4)[0].allclose(front.flatten(), atol=1e-5)
    with pytest.raises(ReprobookError, match="n_frames is 0"):
        turn(scene, 0)


def test_a_scene_can_be_optimised_to_a_picture() -> None:
    scene, wanted = Scene(size=12, n_samples=12), ring(6.0)
    adam = torch.optim.Adam(scene.parameters(), 0.1)
    first = (scene(view_angles([0])) - wanted).square().mean().item()
    for _ in range(25):
        adam.zero_grad()
        (scene(view_angles([0])) - wanted).square().mean().backward()
        adam.step()
    assert (scene(view_angles([0])) - wanted).square().mean() < 0.5 * first


# ------------------------------------------------------------------------------------------------------ what is printed


def test_what_follows_from_the_papers_tables() -> None:
    from reprobook import facts as facts_module

    facts = facts_module.load("reward_sds")
    gains = printed.gains(facts).set_index(["table", "base"])["gain"]
    assert gains["1", "SDS"] == pytest.approx(0.45)
    assert gains["4", "DDS"] == pytest.approx(0.20)
    assert gains["6", "SDS-Bridge"] == pytest.approx(0.87)
    spans = printed.schemes(facts)["grader"].tolist()
    assert spans == pytest.approx([0.12, 0.02, 0.48])
    costs = printed.costs(facts).set_index("setting")
    assert costs.loc["large", "seconds, relative"] == pytest.approx(49.5, abs=0.1)
    assert costs.loc["large", "calls, relative"] == pytest.approx(84.7, abs=0.5)
    assert costs.loc["small", "calls, relative"] == pytest.approx(0.1 * 4 + 0.9)


def test_figures_draw() -> None:
    figures = [pictures.idea(), pictures.noise_field()]
    assert all(len(fig.axes) for fig in figures)
    tracks = {"SDS": torch.randn(3, 2, SIDE**2)}
    assert pictures.animation(tracks)[:4] == b"\x89PNG"
    assert pictures.particles({"SDS": torch.randn(3, 4, 2)})[:4] == b"\x89PNG"
    with pytest.raises(ReprobookError, match="t is 1000"):
        pictures.idea(t=1000)


def test_a_scene_is_sculpted_from_views() -> None:
    settings = study.Settings(steps=Steps(n=2, lr=0.1))
    how = Weighing(n=4, n_reward_steps=1, n_denoise=1)
    found = study.sculpt(untrained_lab(), (3, 5), (0, 90), study.Row(how), settings, seed=0)
    assert not found.grid.equal(Scene(seed=0).grid)
    with pytest.raises(ReprobookError, match="2 classes for 1 views"):
        study.sculpt(untrained_lab(), (3, 5), (0,), study.Row(how), settings, seed=0)
