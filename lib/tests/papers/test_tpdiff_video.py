"""TPDiff's clips, networks, training, judges and public models."""

from __future__ import annotations

import io
import math
import zipfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pandas as pd
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.nn.needs import traced
from reprobook.papers import tpdiff as tp
from reprobook.papers.tpdiff import bench, judging, naive, network, openvid, pictures, released, video

FM, VP = tp.FlowMatching(), tp.VariancePreserving()
PATHS = pytest.mark.parametrize("path", [FM, VP], ids=["flow", "vp"])


def small(n_labels: int = 5, **size: int) -> tp.StageNetwork:
    torch.manual_seed(0)
    net = tp.small_wan(n_labels, **{"dim": 24, "n_layers": 1, **size})
    torch.nn.init.normal_(net.net.proj_out.weight, std=0.1)
    return net


# ------------------------------------------------------------------------------------------------------------- clips


def test_bounce_is_a_walk_with_reflections() -> None:
    position, speed, found = 7.0, 1.5, []
    for _ in range(9):
        found.append(position)
        position += speed
        if not 0 <= position <= 8:
            position, speed = (16 - position if position > 8 else -position), -speed
    assert np.allclose(video.bounce(7.0 + 1.5 * np.arange(9)), found)


def test_a_digit_is_drawn_where_its_path_says() -> None:
    image = np.zeros((1, 8, 8))
    image[0, 2, 3] = 1.0
    drawn = video.render(image, np.array([[[4.0, 1.0], [4.25, 1.0], [8.0, 8.0]]]))
    assert drawn.shape == (1, 3, 16, 16) and np.allclose(drawn.sum((2, 3)), 1.0)
    assert drawn[0, 0, 3, 7] == 1.0  # row 1 + 2, column 4 + 3
    assert drawn[0, 1, 3, 7] == 0.75 and drawn[0, 1, 3, 8] == 0.25
    assert drawn[0, 2, 10, 11] == 1.0


def test_no_digit_is_in_both_parts_and_labels_are_first_directions() -> None:
    paths = video.digit_paths(50, 30, n_images=40, seed=1)
    is_test = paths[:, 5] == 1
    assert is_test.sum() == 30 and not set(paths[is_test, 0]) & set(paths[~is_test, 0])
    assert np.array_equal(paths, video.digit_paths(50, 30, n_images=40, seed=1))
    images = np.random.default_rng(0).random((40, 8, 8))
    train, test = video.moving_digits(paths, images, np.arange(40) % 10)
    assert train.pixels.shape == (50, 8, 1, 16, 16) and len(test) == 30 and train.n_labels == 14
    row = paths[0]
    assert train.labels[0].tolist() == [int(row[0]) % 10, 10 + (row[3] > 0) + 2 * (row[4] > 0)]
    seen, _ = train.batch(torch.arange(50))
    assert abs(float(seen.mean())) < 1e-5 and float(seen.std()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(train.to_pixels(seen), train.pixels, atol=1e-5)


def test_stills_are_all_frames_without_the_word_of_motion() -> None:
    """Index 8 c + f is frame f of clip c; the digit stays, the direction becomes the empty word (id ``n_labels``)."""
    pixels = torch.rand(3, 8, 1, 16, 16)
    clips = tp.Clips(pixels, torch.tensor([[4, 10], [5, 11], [6, 13]]), 14, mean=0.5, std=2.0)
    frames, labels = clips.stills(torch.tensor([0, 7, 8, 23]))
    expected = torch.stack([pixels[0, 0], pixels[0, 7], pixels[1, 0], pixels[2, 7]])[:, None]
    assert torch.equal(frames, (expected - 0.5) / 2) and labels.tolist() == [[4, 14], [4, 14], [5, 14], [6, 14]]
    assert clips.labels[0].tolist() == [4, 10]  # untouched
    small(14)(frames, torch.full((4,), 0.5), tp.stages(FM, 1)[0], labels)  # the network knows the empty word


def test_patches_leave_out_cuts() -> None:
    """A slow ramp with one cut: every window of eight that crosses it is gone."""
    frames = np.tile(np.arange(80, dtype=np.uint8)[:, None, None], (1, 16, 16))
    frames[40:] += 100
    found = video.patches(frames, every=2)
    assert len(found) == (40 - 7 - 7 + 1) // 2
    assert (np.diff(found[..., 0, 0].astype(int), axis=1) == 2).all()


def test_real_clips_are_split_by_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    big = rng.random((72, 96, 3)) * 200
    frames = np.stack([np.roll(big, 2 * k, axis=1) for k in range(120)]).astype(np.uint8)
    released.write_video(torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1, tmp_path / "a.mp4", 25)
    train, test = video.real_clips({"a": tmp_path / "a.mp4"})
    assert train.pixels.shape[1:] == (8, 1, 16, 16) and len(train) > len(test) > 0
    assert set(train.labels.flatten().tolist()) == {0} and train.n_labels == 1


# ------------------------------------------------------------------------------------------------------------ networks


def test_strided_rope_is_the_formula_at_physical_time() -> None:
    """cos and sin of (n * stride) * theta^(-2j/d), each twice, then height and width."""
    net = network.small_wan(3, dim=64, n_heads=2, theta=100.0)
    rope = net.positions[0]
    rope.stride = 4
    cos, sin = rope(torch.empty(1, 1, 2, 16, 16))
    assert cos.shape == (1, 2 * 16, 1, 32)
    t_dim = 12
    frequency = 100.0 ** (-np.arange(0, t_dim, 2) / t_dim)
    for n in (0, 1):
        angle = np.repeat(4 * n * frequency, 2)
        assert np.allclose(cos[0, n * 16 : n * 16 + 16, 0, :t_dim], np.cos(angle), atol=1e-6)
        assert np.allclose(sin[0, n * 16 : n * 16 + 16, 0, :t_dim], np.sin(angle), atol=1e-6)
    rope.stride = 1
    plain = rope.inner(torch.empty(1, 1, 8, 16, 16))
    assert all(torch.equal(a, b) for a, b in zip(rope(torch.empty(1, 1, 8, 16, 16)), plain, strict=True))
    rope.stride = 40
    with pytest.raises(ReprobookError, match="2 frames of stride 40 leave the 64 positions"):
        rope(torch.empty(1, 1, 2, 16, 16))


def test_animatediff_positions_are_strided() -> None:
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding

    holder = torch.nn.ModuleDict({"pos_embed": SinusoidalPositionalEmbedding(8, max_seq_length=32)})
    (strided,) = network.attach_strides(holder)
    strided.stride = 4
    found = strided(torch.zeros(2, 4, 8))
    assert torch.equal(found[0], holder["pos_embed"].inner.pe[0, [0, 4, 8, 12]])
    with pytest.raises(ReprobookError, match="9 frames of stride 4 leave the 32 positions"):
        strided(torch.zeros(1, 9, 8))
    with pytest.raises(ReprobookError, match="no frame positions"):
        network.attach_strides(torch.nn.Linear(2, 2))


@PATHS
def test_times_of_stages_do_not_overlap_for_the_network(path) -> None:
    stages = tp.stages(path, 3)
    told = [tp.stage_time(torch.tensor([s.start, s.end], dtype=torch.float64), s).tolist() for s in stages]
    assert np.allclose(told, [[1, 2 / 3], [2 / 3, 1 / 3], [1 / 3, 0]])
    (vanilla,) = tp.stages(path, 1)
    t = torch.rand(4)
    assert torch.allclose(tp.stage_time(t, vanilla), t)


def test_the_network_sees_stage_time_and_stride() -> None:
    """The call of diffusers' own model, written out."""
    net = small()
    stage = tp.stages(FM, 3)[1]
    x, t, words = torch.randn(2, 4, 1, 16, 16), torch.tensor([0.4, 0.7]), torch.tensor([[0, 1], [2, 5]])
    seen = {}
    net.net.register_forward_pre_hook(lambda _, args: seen.update(x=args[0], t=args[1], text=args[2]))
    out = net(x, t, stage, words)
    assert out.shape == x.shape and net.positions[0].stride == 2
    assert torch.equal(seen["x"], x.transpose(1, 2)) and torch.equal(seen["text"], net.words.weight[words])
    assert torch.allclose(seen["t"], 1000 * (1 + (t - stage.end) / (stage.start - stage.end)) / 3)
    assert net.empty(words).tolist() == [[5, 5], [5, 5]]
    with pytest.raises(ReprobookError, match="dim 25 must be n_heads 2 times an even number"):
        tp.small_wan(3, dim=25)


def test_physical_time_changes_what_the_network_sees() -> None:
    net, x = small(), torch.randn(1, 2, 1, 16, 16)
    first, last = tp.stages(FM, 3)[0], tp.stages(FM, 1)[0]
    t = torch.tensor([0.9])
    words = torch.zeros(1, 2, dtype=torch.long)
    outputs = []
    for stride in (1, 4):
        stage = tp.pyramid.Stage(**{**first.__dict__, "k": 1 if stride == 1 else 3, "n_stages": 3})
        told = stage.end + (stage.start - stage.end) * ((0.9 * 3) - (stage.k - 1))  # the same tau for both
        outputs.append(net(x, torch.tensor([told]), stage, words))
    assert not torch.allclose(*outputs) and last.stride == 1 and t.shape == (1,)


# ------------------------------------------------------------------------------------------------------------ training


def test_every_cycle_trains_each_stage_once() -> None:
    turn = tp.stage_of_step(3, seed=1)
    drawn = [turn(i) for i in range(300)]
    assert all(sorted(drawn[i : i + 3]) == [0, 1, 2] for i in range(0, 300, 3))
    assert len({tuple(drawn[i : i + 3]) for i in range(0, 300, 3)}) == 6
    assert drawn == [tp.stage_of_step(3, seed=1)(i) for i in range(300)]


class Perfect(torch.nn.Module):
    """Knows clip and noise: returns the true target. With ``n`` words only its prompts matter."""

    def __init__(self, answers: list[torch.Tensor]) -> None:
        super().__init__()
        self.answers, self.seen = answers, []

    def forward(self, x, t, stage, prompt):
        self.seen.append((x, t, stage, prompt))
        return self.answers[0]

    def empty(self, prompt):
        return torch.full_like(prompt, 9)


@PATHS
def test_loss_is_the_mean_square_to_the_target(path) -> None:
    stages, videos = tp.stages(path, 3), torch.randn(3, 8, 1, 4, 4)
    model = Perfect([torch.zeros(3, 4, 1, 4, 4)])
    torch.manual_seed(1)
    value = tp.pyramid_loss(stages, path, align=False)(model, (videos, torch.zeros(3, 1), 1))
    torch.manual_seed(1)
    eps = torch.randn(3, 4, 1, 4, 4)
    t = stages[1].end + (stages[1].start - stages[1].end) * torch.rand(3)
    x_t, target = tp.diffuse(*tp.stage_ends(videos, stages[1]), eps, t, stages[1], path)
    assert torch.allclose(value, target.square().mean()) and torch.allclose(model.seen[0][0], x_t, atol=1e-6)


def test_alignment_happens_at_the_stage_s_shape_before_the_ends() -> None:
    stages, videos = tp.stages(FM, 3), torch.randn(6, 8, 1, 2, 2)
    models = [Perfect([torch.zeros(6, 2, 1, 2, 2)]) for _ in range(2)]
    for model, align in zip(models, (True, False), strict=True):
        torch.manual_seed(2)
        tp.pyramid_loss(stages, FM, align=align)(model, (videos, torch.zeros(6, 1), 0))
    torch.manual_seed(2)
    eps = torch.randn(6, 2, 1, 2, 2)
    data, source = tp.stage_ends(videos, stages[0])
    t = stages[0].end + (1 - stages[0].end) * torch.rand(6)
    expected, _ = tp.diffuse(data, source, tp.align_noise(data, eps), t, stages[0], FM)
    assert torch.allclose(models[0].seen[0][0], expected, atol=1e-6)
    assert not torch.allclose(models[1].seen[0][0], expected)


def test_prompts_are_dropped_in_the_share_asked_for() -> None:
    model = Perfect([torch.zeros(2000, 8, 1, 1, 1)])
    torch.manual_seed(0)
    tp.pyramid_loss(tp.stages(FM, 1), FM, align=False, drop_prompt=0.3)(
        model, (torch.randn(2000, 8, 1, 1, 1), torch.zeros(2000, 2), 0)
    )
    empty = (model.seen[0][3] == 9).all(1).float()
    assert float(empty.mean()) == pytest.approx(0.3, abs=0.03)
    with pytest.raises(ReprobookError, match="drop_prompt must be in"):
        tp.pyramid_loss(tp.stages(FM, 1), FM, drop_prompt=1.0)


def test_guidance_extrapolates_from_the_empty_prompt() -> None:
    net, stage = small(), tp.stages(FM, 1)[0]
    x, words = torch.randn(2, 8, 1, 16, 16), torch.tensor([[0, 1], [2, 3]])
    given = tp.predictor(net, words)(x, 0.5, stage)
    empty = tp.predictor(net, net.empty(words))(x, 0.5, stage)
    found = tp.predictor(net, words, guidance=3.0)(x, 0.5, stage)
    assert torch.allclose(found, empty + 3 * (given - empty), atol=1e-5)
    with pytest.raises(ReprobookError, match="need empty_text"):
        tp.StageNetwork(network.small_wan(2).net.__class__(
            num_attention_heads=1, attention_head_dim=12, num_layers=1, ffn_dim=8, text_dim=8, freq_dim=8
        )).empty(torch.zeros(1, 2, 8))  # fmt: skip


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    from reprobook.train import fit

    clips, path, turn = torch.randn(12, 8, 1, 16, 16), FM, tp.stage_of_step(3)

    def train(folder: Path, stop: int | None) -> dict[str, torch.Tensor]:
        model = small(dim=12)

        def batches(i: int):
            if stop is not None and i == stop:
                raise KeyboardInterrupt
            return clips[i % 3 :: 3], torch.zeros(4, 2, dtype=torch.long), turn(i)

        fit(
            model, batches, tp.pyramid_loss(tp.stages(path, 3), path), num_steps=6, lr=1e-3, folder=folder / "fit",
            precision="fp32", checkpoint_every=2, device="cpu", evaluate_every=3,
            evaluate=tp.keep_weights(folder / "kept"),
        )  # fmt: skip
        return tp.kept_weights(folder / "kept")

    whole = train(tmp_path / "a", None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", 5)
    resumed = train(tmp_path / "b", None)
    assert list(whole) == list(resumed) == [3, 6]
    assert all(torch.equal(whole[s][name], resumed[s][name]) for s in whole for name in whole[s])
    with pytest.raises(ReprobookError, match="no weights were kept"):
        tp.kept_weights(tmp_path)


def test_training_lowers_the_loss_of_every_stage() -> None:
    torch.manual_seed(0)
    clips = torch.linspace(-1, 2, 8).view(1, 8, 1, 1, 1).expand(16, 8, 1, 16, 16)  # all the same, brighter with time
    net, stages = tp.small_wan(2, dim=48, n_layers=1), tp.stages(FM, 3)
    loss = tp.pyramid_loss(stages, FM)
    prompts = torch.zeros(16, 2, dtype=torch.long)

    def values() -> list[float]:
        torch.manual_seed(5)
        with torch.no_grad():
            return [float(loss(net, (clips, prompts, k))) for k in range(3)]

    before, optimiser = values(), torch.optim.AdamW(net.parameters(), lr=5e-3)
    for i in range(60):
        optimiser.zero_grad()
        loss(net, (clips, prompts, i % 3)).backward()
        optimiser.step()
    assert all(b < 0.5 * a for a, b in zip(before, values(), strict=True))


# -------------------------------------------------------------------------------------------------------- naive stages


def test_the_naive_process_ends_at_the_stage_s_end_and_keeps_a_bias() -> None:
    stage, x0 = tp.stages(VP, 3)[1], torch.randn(2, 8, 3, dtype=torch.float64)
    data, source = tp.stage_ends(x0, stage)
    eps = torch.randn(data.shape, dtype=torch.float64)
    end = torch.full((2,), stage.end, dtype=torch.float64)
    x, target = naive.diffuse(data, source, eps, end, stage, VP)
    assert torch.allclose(x, stage.g_e * data + stage.s_e * eps)
    assert torch.allclose(target, stage.g_s * source + stage.s_s * eps)
    half = (stage.start + stage.end) / 2
    x, target = naive.diffuse(data, source, eps, torch.full_like(end, half), stage, VP)
    moved = naive.step(x, target, half, stage.end, stage, VP)  # with the true target one step is exact
    assert torch.allclose(moved, stage.g_e * data + stage.s_e * eps)
    truth, stages = tp.gaussian.ar1_covariance(8, 0.95), tp.stages(VP, 3)
    for control, low, high in ((False, 0.0, 0.01), (True, 0.25, 0.35)):
        law = tp.gaussian.sample_covariance(stages, VP, truth, [100] * 3, control=control)
        assert low <= tp.gaussian.frechet_distance(law, truth) <= high


# -------------------------------------------------------------------------------------------------------------- judges


def test_seconds_to_a_level() -> None:
    assert tp.seconds_to(3.0, [10, 20, 30], [5, 4, 2]) == pytest.approx(25)
    assert tp.seconds_to(3.5, [10, 20, 30], [5, 3, 4]) == pytest.approx(17.5)  # it was reached once
    assert np.isnan(tp.seconds_to(1.0, [10, 20], [5, 4])) and tp.seconds_to(9.0, [10, 20], [5, 4]) == 10


def square(corners: np.ndarray) -> torch.Tensor:
    """Clips of a bright 2 x 2 square with its corner at whole ``corners`` (N, T, 2)."""
    clips = torch.full((*corners.shape[:2], 1, 16, 16), -1.0)
    for i, row in enumerate(corners.astype(int)):
        for k, (x, y) in enumerate(row):
            clips[i, k, 0, y : y + 2, x : x + 2] = 1.0
    return clips


def test_centres_and_path_errors_by_hand() -> None:
    legal = np.stack([np.arange(8), 7 - np.arange(8)], 1)  # one pixel a frame on both axes
    still = np.full((8, 2), 4)
    clips = square(np.stack([legal, still]))
    assert torch.allclose(judging.centroids(clips)[0], torch.from_numpy(legal + 0.5).float(), atol=1e-4)
    good, bad = tp.trajectory_error(clips).tolist()
    assert good < 0.05 and bad > 0.8  # the slowest legal speed is 0.6 pixels a frame


def test_judges_inside_autocast_are_those_outside(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    clips = square(np.stack([np.stack([np.arange(8), 7 - np.arange(8)], 1), np.full((8, 2), 4)]))
    features = tp.pca_features(torch.rand(20, 8, 1, 16, 16, generator=torch.Generator().manual_seed(0)), 4)
    save_file({"latents": clips[0].half(), "text": torch.ones(2).half()}, tmp_path / "a.safetensors")
    with torch.autocast("cpu", torch.bfloat16):
        errors, seen = tp.trajectory_error(clips), features(clips.bfloat16())
        latents, _ = tp.read_batch([tmp_path / "a.safetensors"], torch.tensor([0, 0]))
    assert torch.equal(errors, tp.trajectory_error(clips)) and torch.allclose(seen, features(clips))  # pixels are +-1
    assert latents.dtype == torch.float32 and torch.equal(latents[1], clips[0])


def test_change_and_judder_by_hand() -> None:
    doubled = torch.randn(4, 4, 1, 2, 2).repeat_interleave(2, 1)
    assert tp.judder(doubled) == 0.0
    steady = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(2, 8, 1, 3, 3)
    assert tp.judder(steady) == pytest.approx(1.0) and tp.change(steady).tolist() == [1.0, 1.0]
    assert np.isnan(tp.judder(torch.zeros(2, 8, 1, 3, 3)))


def test_the_classifier_learns_digit_and_direction() -> None:
    paths = video.digit_paths(300, 60, n_images=10, seed=0)
    images = np.random.default_rng(0).random((10, 8, 8)) > 0.6
    train, _ = video.moving_digits(paths, images.astype(float), np.arange(10))
    torch.manual_seed(0)
    model = tp.ClipClassifier()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        tp.classifier_loss(model, (train.pixels, train.labels)).backward()
        optimiser.step()
    digit, direction = tp.recognised(model, train.pixels, train.labels)
    assert float(digit.float().mean()) > 0.5 and float(direction.float().mean()) > 0.5
    assert model.features(train.pixels[:3]).shape == (3, 32)


def test_pca_features_have_unit_variance() -> None:
    clips = torch.rand(200, 8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = tp.pca_features(clips, 8)(clips)
    assert found.shape == (200, 8) and torch.allclose(torch.cov(found.T), torch.eye(8), atol=1e-3)


# ------------------------------------------------------------------------------------------------------------ pictures


def test_clips_survive_a_record() -> None:
    clips = (torch.randint(256, (3, 8, 1, 16, 16)).float() / 127.5) - 1
    assert torch.allclose(pictures.from_text(pictures.to_text(clips), 8), clips, atol=1e-6)
    sheet = pictures.strip(clips)
    assert sheet.shape == (3 * 17, 8 * 17) and sheet[20, 40] == round((float(clips[1, 2, 0, 3, 6]) + 1) * 127.5)


def test_animation_has_a_frame_for_each_frame() -> None:
    from PIL import Image

    image = Image.open(
        io.BytesIO(pictures.animation({"a": torch.rand(2, 8, 1, 16, 16), "b": -torch.rand(2, 8, 1, 16, 16)}))
    )
    assert image.n_frames == 8 and image.size == (190 + 3 * 2 * 17, 2 * 3 * 17)


# ---------------------------------------------------------------------------------------------------------------- cost


def test_counted_operations_agree_with_the_formula() -> None:
    """Self-attention: 4 n^2 width operations a layer (two products, a multiply and an add each), cross 4 n m width."""
    net, n, layers, width, words = small(dim=24, n_layers=2).to("meta"), 128, 2, 24, 2
    stage = tp.stages(FM, 1)[0]
    x = torch.empty(1, 8, 1, 16, 16, device="meta")
    prompt = torch.zeros(1, words, dtype=torch.long, device="meta")
    with torch.no_grad():
        found = traced(lambda: net(x, torch.zeros(1, device="meta"), stage, prompt))
    assert found.kept == 0 and found.attention == layers * (4 * n * n * width + 4 * n * words * width)


def test_predictions_of_the_benchmark() -> None:
    net = small(dim=24)
    found = bench.predicted_speedups(net, (2, 8, 1, 16, 16), torch.zeros(2, 2, dtype=torch.long), FM)
    assert 12 / 7 < found["all operations"] < found["attention"] < 16 / 7  # cross-attention is linear
    assert next(net.parameters()).device.type == "cpu"


@PATHS
def test_the_benchmark_checks_itself(path) -> None:
    net, videos, prompts = small(dim=12), torch.randn(2, 8, 1, 16, 16), torch.zeros(2, 2, dtype=torch.long)
    found = bench.training_seconds(net, videos, prompts, path, repeats=1)
    assert set(found) == {"vanilla", "stride 4", "stride 2", "stride 1"}
    drawn = bench.sampling_seconds(net, videos.shape, prompts, path, n_steps=3, repeats=1)
    assert set(drawn) == {"vanilla", "TPDiff"}
    memory = bench.peak_memory_mb(net, videos, prompts, path)
    assert memory["TPDiff, mean"] < 0.7 * memory["vanilla"]

    class Broken(torch.nn.Module):
        calls = 0

        def forward(self, x, t, stage, prompt):
            self.calls += 1  # another answer each time
            return (self.calls * x).requires_grad_()

    with pytest.raises(ReprobookError, match="one stage is not the vanilla method"):
        bench.training_seconds(Broken(), videos, prompts, path, repeats=1)


# --------------------------------------------------------------------------------------------------------- paper scale


def test_openvid_clips_are_chosen_by_both_scores() -> None:
    """100 clips: the top 20 of both, or the top 3 of one."""
    motion = np.arange(100.0)
    looks = np.concatenate([np.arange(100.0)[::-1][:90], np.arange(200.0, 210.0)])  # the last ten are best in both
    table = pd.DataFrame({"video": range(100), "caption": "", "motion score": motion, "aesthetic score": looks})
    assert openvid.chosen(table)["video"].tolist() == list(range(90, 100))
    looks[0] = 1000.0  # now one clip is among the best three of one score alone
    assert openvid.chosen(table.assign(**{"aesthetic score": looks}))["video"].tolist() == [0, *range(90, 100)]
    with pytest.raises(ReprobookError, match="no column 'motion score'"):
        openvid.chosen(table.drop(columns="motion score"))


def test_openvid_miniature_has_the_real_columns_and_frames(tmp_path: Path) -> None:
    openvid.write_miniature(tmp_path, parts=1, n=10)
    table = pd.read_csv(tmp_path / openvid.TABLE)
    assert list(table) == [
        "video", "caption", "aesthetic score", "motion score", "temporal consistency score", "camera motion", "frame",
        "fps", "seconds",
    ]  # fmt: skip
    (first, second) = openvid.clips(tmp_path, 5, seconds=1.0)  # the others are too short
    frames = first.frames(12, (32, 32), fps=8)
    assert frames.shape == (12, 3, 32, 32) and -1 <= float(frames.min()) < float(frames.max()) <= 1
    # 8 of 24 frames a second: the square moves 3 pixels, in 48 x 64 scaled to 32 high and cut to 32 wide
    places = judging.centroids(frames[:, :1][None])[0, :, 0]
    assert float(places[7] - places[6]) == pytest.approx(2.0, abs=0.3)
    with pytest.raises(ReprobookError, match="64 frames|has .* frames at 24"):
        first.frames(65, (32, 32), fps=24)
    with pytest.raises(ReprobookError, match="none of the"):
        openvid.clips(tmp_path, 5, seconds=100.0)
    assert second.caption.startswith("a square")


def numbered(folder: Path, times: list[float], form: str = "mov", codec: str = "png") -> openvid.VideoFile:
    """A clip whose frame k is grey of level k and begins at times[k] seconds, in a zip file."""
    content, base = io.BytesIO(), Fraction(1, 600)
    with av.open(content, "w", format=form) as container:
        stream = container.add_stream(codec, rate=30)
        stream.width = stream.height = 16
        stream.pix_fmt, stream.codec_context.time_base = "bgr0" if codec == "ffv1" else "rgb24", base
        for k, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), k, np.uint8), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.mp4", content.getvalue())
    return openvid.VideoFile(folder / "a.zip", "a.mp4", "")


def levels(clip: openvid.VideoFile, n: int, fps: float) -> list[int]:
    frames = clip.frames(n, (16, 16), fps)
    return ((frames[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


EIGHTH = [math.ceil(k * 30 / 8) for k in range(16)]  # 0, 4, 8, 12, 15 .. 57: the first of 30 a second at k/8 or later
CLIPS = [
    ("a start at 1.5 s", [1.5 + k / 30 for k in range(120)], "mov", 8, EIGHTH),
    ("a start at 0", [k / 30 for k in range(120)], "mov", 8, EIGHTH),
    ("thousandths", [k / 30 for k in range(120)], "matroska", 30, list(range(100))),  # of a second: 0.033, 0.067, 0.1
    ("a gap", [0, 0.1, 0.2, 0.7, 0.8], "mov", 10, [0, 1, 2, 2, 2, 2, 2, 3, 4]),
    ("fewer frames than asked for", [k / 5 for k in range(5)], "mov", 10, [0, 0, 1, 1, 2, 2, 3, 3, 4]),
    ("faster and faster", [1, 1.4, 1.6, 1.7, 1.75, 1.8], "mov", 10, [0, 0, 0, 0, 1, 1, 2, 3, 5]),
    ("two at a time", [0, 0.1, 0.1, 0.2, 0.3], "matroska", 10, [0, 1, 3, 4]),
]


@pytest.mark.parametrize(("times", "form", "fps", "expected"), [c[1:] for c in CLIPS], ids=[c[0] for c in CLIPS])
def test_frames_are_those_of_the_clip_s_own_clock(
    tmp_path: Path, times: list[float], form: str, fps: float, expected: list[int]
) -> None:
    clip = numbered(tmp_path, times, form, "ffv1" if form == "matroska" else "png")
    assert levels(clip, len(expected), fps) == expected
    with pytest.raises(ReprobookError, match="are needed"):
        clip.frames(math.ceil((times[-1] - times[0]) * fps) + 2, (16, 16), fps)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([None] * 8, [0, 2, 4, 6]),  # no timestamps: the rate of the stream
        ([0.0, None, None, 0.3, None, None], [0, 2, 4]),
        ([None, 0.1, 0.2, 0.3, 0.4], [0, 2, 4]),
        ([9.0, 9.1, 9.2, 0.0, 0.1, 0.2, 0.3], [0, 2, 4, 6]),  # starts again, as streams that were joined do
        ([-0.3, -0.2, -0.1, 0.0, 0.1], [0, 2, 4]),
        ([0.0, 0.1, 0.05, 0.2, 0.3, 0.4], [0, 2, 5]),
    ],
)
def test_missing_and_falling_timestamps_go_on_at_the_stream_s_rate(times: list, expected: list[int]) -> None:
    frames = [SimpleNamespace(time=time, number=k) for k, time in enumerate(times)]
    assert [f.number for f in openvid.on_clock(frames, 5, 0.1)] == expected


def test_causal_vae_lengths() -> None:
    assert [released.latent_frames(n) for n in (1, 5, 61)] == [1, 2, 16]
    for n, near in ((60, 61), (64, 65), (0, 1)):
        with pytest.raises(ReprobookError, match=f"1 \\+ 4n: use {near}"):
            released.latent_frames(n)
    with pytest.raises(ReprobookError, match="wan, animatediff, got 'sora'"):
        tp.open_base("sora", None, torch.device("cpu"), (8, 8), 5, 4)


def test_lora_trains_attention_only() -> None:
    net = small(dim=24).net
    released.add_lora(net, 2)
    trained = [name for name, p in net.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name and "attn" in name for name in trained)
    assert sum(net.get_parameter(name).numel() for name in trained) == 2 * 4 * 2 * (24 + 24)  # 2 attentions, 4 layers


def test_needs_of_the_real_architectures() -> None:
    wan, animatediff = tp.paper_needs([13, 64, 64], [8, 64, 64], lora_rank=8)
    assert 1400 < wan["parameters (M)"] < 1450 and wan["latents (T, C, H, W)"] == "(4, 16, 8, 8)"
    assert wan["trained (M)"] == pytest.approx(30 * 8 * 8 * 2 * 1536 / 1e6)  # layers, projections, rank, both factors
    assert animatediff["trained (M)"] == pytest.approx(453.2, abs=1) and 12 / 7 - 0.1 < animatediff["ratio"] < 16 / 7


def test_prepared_clips_are_kept_and_belong_to_their_settings(tmp_path: Path) -> None:
    openvid.write_miniature(tmp_path, parts=1, n=10)
    files = openvid.clips(tmp_path, 2, seconds=1.0)
    calls = []

    def encode(frames: torch.Tensor) -> torch.Tensor:
        calls.append(frames.shape)
        return frames[:, :1, ::8, ::8]

    net = small()
    net.empty_text = torch.zeros(3, 4)
    base = released.Base(net, FM, 8, (8, 1, 4, 4), encode, lambda z: z, lambda texts: torch.ones(len(texts), 3, 4))
    paths = tp.prepare(base, files, (32, 32), 8, tmp_path / "latents")
    latents, text = tp.read_batch(paths, torch.tensor([1, 0, 1]))
    assert latents.shape == (3, 8, 1, 4, 4) and text.shape == (3, 3, 4) and torch.equal(latents[0], latents[2])
    assert tp.prepare(base, files, (32, 32), 8, tmp_path / "latents") == paths and len(calls) == 2
    tp.prepare(base, files, (32, 32), 6, tmp_path / "latents")
    assert len(calls) == 4  # other frames: other files
    base.shape = (8, 1, 5, 5)
    with pytest.raises(ReprobookError, match="latents .*, expected"):
        tp.prepare(base, files, (32, 32), 8, tmp_path / "latents")


def test_a_video_can_be_read_again(tmp_path: Path) -> None:
    frames = torch.full((6, 3, 32, 48), -1.0)
    frames[:, :, :, 24:] = 1.0
    tp.write_video(frames, tmp_path / "v" / "a.mp4", 8)
    grey = video.decode(tmp_path / "v" / "a.mp4", 32)
    assert grey.shape == (6, 32, 48) and grey[:, :, :20].mean() < 30 and grey[:, :, 28:].mean() > 200
