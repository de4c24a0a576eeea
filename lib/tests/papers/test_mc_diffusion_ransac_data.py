"""The chapter's data: synthetic matchers, bundled real matches, ScanNet's and MegaDepth's layouts."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from reprobook import project
from reprobook.data import load_manifest
from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry as g
from reprobook.papers.mc_diffusion_ransac import matching, miniature, released, scenes, training, two_view_sets
from reprobook.papers.mc_diffusion_ransac.pairs import Pairs
from reprobook.papers.mc_diffusion_ransac.problems import ESSENTIAL, HOMOGRAPHY

BUNDLE = project.root() / "data_manifests" / "bundled" / "mc_diffusion_ransac_matches.npz"


@pytest.fixture(scope="module")
def drawn() -> scenes.Scenes:
    return scenes.draw_scenes(60, 120, seed=5)


@pytest.fixture(scope="module")
def matched(drawn: scenes.Scenes) -> dict[str, Pairs]:
    return scenes.matched(drawn, seed=5)


def inlier_share(pairs: Pairs, px: float) -> np.ndarray:
    x = ESSENTIAL.coordinates(pairs.matches, pairs)
    return (ESSENTIAL.distance(x, ESSENTIAL.truth(pairs)) < (px / scenes.FOCAL) ** 2).mean(1)


# ------------------------------------------------------------------------------------------------ synthetic scenes


def test_scenes_have_exact_truth_and_the_stated_ranges(drawn: scenes.Scenes) -> None:
    for c in (drawn.free, drawn.grid):
        assert c.shape == (60, 120, 4) and ((c >= 0) & (c < [640, 480, 640, 480])).all()
        pairs = drawn.pairs(c)
        x = ESSENTIAL.coordinates(c, pairs)
        assert ESSENTIAL.distance(x, ESSENTIAL.truth(pairs)).max() < 1e-18
    angle, baseline = g.rotation_error(drawn.R, np.eye(3)), np.linalg.norm(drawn.t, axis=1)
    assert angle.min() >= 5 and angle.max() <= 40 and baseline.min() >= 0.1 and baseline.max() <= 0.8
    assert ((drawn.grid[..., :2] - 4) % 8 == 0).all()


def test_scenes_have_parallax(drawn: scenes.Scenes) -> None:
    """No rotation explains them: the model is determined."""
    pairs = drawn.pairs(drawn.free)
    x = ESSENTIAL.coordinates(drawn.free, pairs)
    explained = g.transfer_squared(x, drawn.R) < (1 / scenes.FOCAL) ** 2
    assert explained.mean(1).max() < 0.5


@pytest.mark.parametrize(
    ("name", "low", "high", "px"),
    [("sift_like", 0.1, 0.4, 3), ("loftr_like", 0.5, 0.9, 5), ("repeat_like", 0.3, 0.6, 3), ("hub_like", 0.2, 0.5, 3)],
)
def test_matchers_have_the_stated_share_of_inliers(matched, name: str, low: float, high: float, px: float) -> None:
    """Some outliers land near their epipolar line, so the measured share may exceed the drawn one by a little."""
    share = inlier_share(matched[name], px)
    assert share.min() > low - 0.02 and share.max() < high + 0.15 and np.ptp(share) > 0.6 * (high - low)
    c = matched[name].matches
    assert ((c >= 0) & (c < [640, 480, 640, 480])).all() and np.isfinite(c).all()


def test_each_matcher_errs_in_its_own_way(drawn, matched) -> None:
    def wrong(name: str) -> list[np.ndarray]:
        pairs = matched[name]
        x = ESSENTIAL.coordinates(pairs.matches, pairs)
        far = ESSENTIAL.distance(x, ESSENTIAL.truth(pairs)) > (8 / scenes.FOCAL) ** 2
        return [c[f] for c, f in zip(pairs.matches, far, strict=True)]

    def crowding(name: str) -> float:
        """Share of outliers with more than a twentieth of all outliers' second ends within 16 px."""
        shares = []
        for c in wrong(name):
            gaps = np.linalg.norm(c[:, None, 2:] - c[None, :, 2:], axis=-1)
            shares.append(((gaps < 16).mean(1) > 0.05).mean())
        return float(np.mean(shares))

    assert crowding("hub_like") > 0.2 > 0.05 > crowding("sift_like")
    uniform = np.concatenate(wrong("sift_like"))[:, 2:] / [640, 480]
    assert uniform.mean(0) == pytest.approx([0.5, 0.5], abs=0.03) and uniform.std(0) == pytest.approx(
        [0.289] * 2, abs=0.02
    )
    first = matched["loftr_like"].matches[..., :2]
    assert ((first - 4) % 8 == 0).all() and not ((matched["sift_like"].matches[..., :2] - 4) % 8 == 0).any()


def test_scenes_repeat_with_their_seed() -> None:
    a, b, c = (scenes.draw_scenes(3, 40, seed) for seed in (1, 1, 2))
    assert (a.free == b.free).all() and not (a.free == c.free).all()
    with pytest.raises(ReprobookError, match="n_points 5000 must be from 5 to 2400"):
        scenes.draw_scenes(1, 5000, 0)


def test_a_test_set_survives_its_file() -> None:
    data = scenes.synthetic_pairs(4, 30, seed=9)
    found, made = scenes.read_pairs(data), scenes.matched(scenes.draw_scenes(4, 30, 9), 9)
    assert list(found) == list(made) == list(scenes.MATCHERS)
    for name in made:
        assert np.abs(found[name].matches - made[name].matches).max() <= 1 / 32 + 1e-9
        assert np.abs(found[name].R - made[name].R).max() < 1e-11
    assert hashlib.sha256(data).digest() == hashlib.sha256(scenes.synthetic_pairs(4, 30, seed=9)).digest()
    with pytest.raises(ReprobookError, match="not what its head says"):
        scenes.read_pairs(data[:-8])


# ------------------------------------------------------------------------------------------------ real matches


@pytest.fixture(scope="module")
def real() -> dict[str, dict[str, Pairs]]:
    return matching.read_matches(BUNDLE)


def test_the_bundle_is_the_one_of_the_manifest(real) -> None:
    (artefact,) = [a for a in load_manifest("mc_diffusion_ransac").artefacts if a.source.bundled]
    assert hashlib.sha256(BUNDLE.read_bytes()).hexdigest() == artefact.source.bundled.sha256
    assert BUNDLE.stat().st_size < 2e6
    for part in ("train", "test", "stereo"):
        assert set(real[part]) == {"SIFT", "ORB", "AKAZE"}
        for pairs in real[part].values():
            assert len(pairs) == 150 and (pairs.count >= 30).all() and (pairs.count <= 256).all()
    assert not set(matching.TRAIN) & set(matching.TEST)


def test_real_matches_agree_with_their_truth(real) -> None:
    """A large share of every detector's matches is near the truth, and the rest is not: real errors, right geometry."""
    for part, problem in (("test", HOMOGRAPHY), ("stereo", ESSENTIAL)):
        for name, pairs in real[part].items():
            x = problem.coordinates(pairs.matches, pairs)
            near = problem.distance(x, problem.truth(pairs)) < (3 / problem.pixels(pairs))[:, None] ** 2
            share = [near[i, : pairs.count[i]].mean() for i in range(len(pairs))]
            assert 0.25 < np.median(share) < 0.9, (part, name)


def test_a_rendered_pair_has_the_homography_it_says(tmp_path: Path) -> None:
    """SIFT on a textured picture: the median symmetric error of the better half of the matches is below a pixel."""
    rng = np.random.default_rng(0)
    picture = miniature.view_pair((480, 360), rng)[0][0]
    first, second, H = matching.photo_pair(picture, np.random.default_rng(3))
    found = matching.match(first, second, "SIFT", 256, rng)
    errors = np.sort(np.sqrt(g.transfer_squared(found, H)))
    assert len(found) > 50 and np.median(errors[: len(errors) // 4]) < 1.5


def test_turned_cameras_keep_the_parallax() -> None:
    """Two virtual cameras: points at the real depth fall where K R K^-1 of their own pictures puts them."""
    blank = np.zeros((500, 741), np.uint8)
    _, _, K, R, t = matching.stereo_pair(blank, blank.copy(), np.random.default_rng(0))
    f, (cx, _), b = matching.STEREO["focal"], matching.STEREO["centre"], matching.STEREO["baseline_m"]
    assert np.linalg.norm(t) == pytest.approx(b) and np.linalg.det(R) == pytest.approx(1)
    # rebuild the two rotations with the same generator, then project a point by hand
    rng = np.random.default_rng(0)
    look = rng.uniform([-9, -5, -20], [9, 5, 20])
    turns = []
    for k in range(2):
        own = look + rng.uniform([-6, -5, -40], [6, 5, 40])
        turn = np.eye(3)
        for axis, angle in zip(np.eye(3)[[1, 0, 2]], np.radians(own), strict=True):
            turn = g.rotation(axis, angle) @ turn
        zoom = rng.uniform(550, 1100)
        assert K[k, 0, 0] == zoom
        if k == 1:
            break
        turns.append(turn)
    turns.append(turn)
    X = np.array([0.3, -0.2, 2.5])
    left = turns[0] @ X
    right = turns[1] @ (X + np.array([-b, 0, 0]))
    assert R @ left + t == pytest.approx(right)
    disparity = f * b / X[2] - matching.STEREO["shift"]  # x_right = x_left - d with the right centre shifted
    left_x, right_x = f * X[0] / X[2] + cx, f * (X[0] - b) / X[2] + cx + matching.STEREO["shift"]
    assert left_x - right_x == pytest.approx(disparity)


@pytest.mark.parametrize("detector", matching.DETECTORS)
def test_blank_pictures_have_no_matches(detector: str) -> None:
    blank = np.zeros((100, 100), np.uint8)
    assert matching.match(blank, blank, detector, 50, np.random.default_rng(0)).shape == (0, 4)


def test_bad_pictures_and_detectors_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(ReprobookError, match=r"x\.png"):
        matching.read_picture(tmp_path / "x.png")
    with pytest.raises(ReprobookError, match="SURF"):
        matching.match(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8), "SURF", 5, np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------ lists of one length


def test_lists_are_cut_or_filled_with_copies() -> None:
    c = np.arange(2 * 6 * 4, dtype=float).reshape(2, 6, 4)
    pairs = Pairs(c, np.array([6, 2]), np.full((2, 2, 2), 100.0), H=np.tile(np.eye(3), (2, 1, 1)))
    made = pairs.filled(5, np.random.default_rng(0))
    rows = [{tuple(row) for row in each} for each in made]
    assert len(rows[0]) == 5 and rows[0] <= {tuple(row) for row in c[0]} and rows[1] == {tuple(row) for row in c[1, :2]}
    copies = sorted((made[1] == row).all(-1).sum() for row in c[1, :2])
    assert copies == [2, 3]
    with pytest.raises(ReprobookError, match="pair 1 has no matches"):
        Pairs(c, np.array([6, 0]), pairs.sizes).filled(5, np.random.default_rng(0))


def test_sources_give_what_they_say(real) -> None:
    rng, index = np.random.default_rng(0), np.array([3, 7, 7])
    sets = list(real["train"].values())
    assert (training.matcher_source(sets[0])(index, rng).matches == sets[0].matches[index]).all()
    mixed = training.mixture_source(sets, 64)(np.full(60, 4), rng)
    lists = [{tuple(row) for row in pairs.list(4)} for pairs in sets]
    origin = [[k for k, rows in enumerate(lists) if {tuple(r) for r in each} <= rows] for each in mixed.matches]
    assert {tuple(o) for o in origin} == {(0,), (1,), (2,)}
    truth = training.true_correspondences(sets[0][:5], 40, rng)
    x = HOMOGRAPHY.coordinates(truth.matches, truth)
    assert HOMOGRAPHY.distance(x, HOMOGRAPHY.truth(truth)).max() < 1e-18
    assert ((truth.matches >= 0) & (truth.matches < [480, 360, 480, 360])).all()


# ------------------------------------------------------------------------------------------------ ScanNet, MegaDepth


@pytest.fixture(scope="module", params=two_view_sets.KINDS)
def tiny(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, miniature.write_miniature(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("split", ["train", "test"])
def test_true_matches_come_from_depth(tiny, split: str) -> None:
    """Reprojection by the stored depth, pose and K agrees with the epipolar geometry; a wrong depth map is noticed."""
    kind, folder = tiny
    found = two_view_sets.entries(kind, folder, split)
    assert len(found) == 2
    for entry in found:
        pair = two_view_sets.load(entry)
        c = two_view_sets.true_matches(pair, entry.R, entry.t, 300, np.random.default_rng(0))
        assert len(c) == 300 and ((c >= 0) & (c < pair.sizes.reshape(4))).all()
        x = g.calibrate(c, pair.K)
        assert np.sqrt(g.sampson(x, g.essential(entry.R, entry.t))).max() * pair.K[0, 0, 0] < 1e-6
        hidden = two_view_sets.Loaded(pair.pictures, (pair.depths[0], pair.depths[1] * 1.2), pair.sizes, pair.K)
        assert len(two_view_sets.true_matches(hidden, entry.R, entry.t, 300, np.random.default_rng(0))) == 0


def test_shrinking_a_picture_shrinks_its_camera(tmp_path: Path) -> None:
    folder = miniature.write_miniature("megadepth", tmp_path)
    (entry, *_) = two_view_sets.entries("megadepth", folder, "test")
    pair = two_view_sets.load(entry, longest=160)
    assert pair.sizes.tolist() == [[160, 120], [160, 120]] and pair.depths[0].shape == (120, 160)
    assert pair.K[0][:2] == pytest.approx(entry.K[0][:2] / 2)


def test_sift_and_loftr_and_files_give_matched_sets(tiny, tmp_path: Path) -> None:
    from transformers import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching

    kind, folder = tiny
    found = two_view_sets.entries(kind, folder, "test")
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).uniform(0, 200, (20, 4)))
    matchers = {"SIFT": released.sift(500), "files": released.stored(tmp_path)}
    truth, sets = released.matched_sets(found, matchers, 100, 0, seed=0)
    assert len(truth) == 2 and truth.matches.shape == (2, 100, 4) and (truth.count == 100).all()
    share = inlier_share_of(sets["SIFT"])
    assert (share > 0.3).all() and (inlier_share_of(sets["files"]) < 0.2).all()
    torch.manual_seed(0)
    tiny_config = EfficientLoFTRConfig(**LOFTR)
    match = released.loftr(EfficientLoFTRForKeypointMatching(tiny_config), (128, 96))
    lists = match(0, two_view_sets.load(found[0]))
    assert lists.ndim == 2 and lists.shape[1] == 4 and np.isfinite(lists).all()
    with pytest.raises(ReprobookError, match=r"2\.npy is missing"):
        released.stored(tmp_path)(2, None)


LOFTR = {
    "stage_num_blocks": [1, 1, 1, 1], "out_features": [8, 8, 16, 32], "hidden_size": 32, "num_attention_layers": 1,
    "num_attention_heads": 8, "fine_matching_slice_dim": 4, "coarse_matching_threshold": 0.0,
    "coarse_matching_border_removal": 0,
}  # fmt: skip


def inlier_share_of(pairs: Pairs) -> np.ndarray:
    x = ESSENTIAL.coordinates(pairs.matches.astype(float), pairs)
    near = ESSENTIAL.distance(x, ESSENTIAL.truth(pairs)) < (2 / ESSENTIAL.pixels(pairs))[:, None] ** 2
    return np.array([near[i, : pairs.count[i]].mean() for i in range(len(pairs))])


def test_an_index_file_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    held = np.empty(1, dtype=object)
    held[0] = Evil()
    np.savez(tmp_path / "evil.npz", name=held)
    with pytest.raises(ReprobookError, match="only arrays are read"):
        two_view_sets.read_index(tmp_path / "evil.npz")
    assert not (tmp_path / "ran").exists()
    assert pickle.loads(pickle.dumps(1)) == 1  # the reader leaves pickle itself alone


def test_missing_data_sets_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReprobookError, match="scannet_dir is empty: ask for scannet"):
        two_view_sets.entries("scannet", "", "test")
    with pytest.raises(ReprobookError, match="copy LoFTR's index files"):
        two_view_sets.entries("megadepth", tmp_path, "test")
    with pytest.raises(ReprobookError, match="'kitti' must be one of"):
        two_view_sets.entries("kitti", tmp_path, "test")
    with pytest.raises(ReprobookError, match="16-bit"):
        two_view_sets.read_depth(tmp_path / "none.png")
