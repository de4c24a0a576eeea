"""Token pruning for large pictures: pyramid, windows, module, loss, descent, reducers, evaluator, questions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from reprobook import facts
from reprobook.errors import ReprobookError
from reprobook.papers.rs_token_pruning import compute, distill, printed, reducers, scenes, study
from reprobook.papers.rs_token_pruning.descent import (
    Tokens,
    above_threshold,
    descend,
    descend_by_tiles,
    token_cells,
    top_share,
)
from reprobook.papers.rs_token_pruning.model import VisionLanguage, local_places, pooled
from reprobook.papers.rs_token_pruning.pyramid import Level, pyramid, thumbnail, tiles_below
from reprobook.papers.rs_token_pruning.reading import Pyramid, from_array, open_picture, resized, write_tiled

SIZES = [(4000, 4000), (1500, 1500), (5400, 2700), (1000, 800), (27328, 9000), (1024, 20000), (300, 200), (337, 5000)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- pyramid


@pytest.mark.parametrize(
    ("size", "grids"),
    [
        ((4000, 4000), [(3, 3), (6, 6), (12, 12)]),
        ((1500, 1500), [(3, 3), (5, 5)]),
        ((5400, 2700), [(3, 2), (5, 3), (9, 5), (17, 9)]),
        ((1000, 800), [(3, 3)]),
    ],
)
def test_levels_have_the_sizes_of_the_released_code(size: tuple[int, int], grids: list[tuple[int, int]]) -> None:
    assert [(level.rows, level.cols) for level in pyramid(*size)] == grids


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", ["code", "paper"])
def test_levels_grow_and_fill_one_axis(size: tuple[int, int], rule: str) -> None:
    levels = pyramid(*size, rule=rule)
    assert all(a.height < b.height and a.width < b.width for a, b in itertools.pairwise(levels))
    for level in levels:
        gaps = level.rows * 336 - level.height, level.cols * 336 - level.width
        assert min(gaps) == 0
        assert 0 <= max(gaps) < 336
    if rule == "code" and max(size) > 1008:
        assert 1008 <= max(levels[0][:2]) < 1008 + 336 + 1
        assert max(levels[0].rows, levels[0].cols) == 3


def test_the_two_rules_end_at_the_long_and_at_the_short_side() -> None:
    assert len(pyramid(8000, 1100, rule="paper")) == 1  # half of the short side would be 550
    assert len(pyramid(8000, 1100, rule="code")) == 4  # long sides 8000, 4000, 2000 and 1008
    assert [level.height for level in pyramid(4032, 4032, rule="paper")] == [1008, 2016, 4032]


def test_a_small_or_extreme_picture_has_one_level_and_a_thumbnail() -> None:
    assert thumbnail(2700, 5400) == Level(168, 336, 1, 1)
    assert thumbnail(1, 5000).height == 1
    assert len(pyramid(20, 30, tile=32, least=96)) == 1
    assert pyramid(1, 5000)[0].rows == 1


@pytest.mark.parametrize("wrong", [{"height": 0}, {"rule": "short"}, {"tile": 0}, {"least": 100}])
def test_wrong_arguments_of_a_pyramid_are_named(wrong: dict) -> None:
    with pytest.raises(ReprobookError, match="pyramid"):
        pyramid(**{"height": 100, "width": 100, **wrong})


@pytest.mark.parametrize("size", SIZES)
def test_a_cell_maps_to_the_tile_that_holds_its_centre(size: tuple[int, int]) -> None:
    for level, below in itertools.pairwise(pyramid(*size)):
        rows, cols = level.cells(336, 12)
        cells = np.stack(np.divmod(np.arange(rows * cols), cols), 1)
        tiles = tiles_below(cells, level, below, tile=336, per_tile=12)
        assert (tiles >= 0).all()
        assert (tiles < [below.rows, below.cols]).all()
        assert (np.diff(tiles[::cols, 0]) >= 0).all()
        for cell, tile in zip(cells[:: max(1, len(cells) // 50)], tiles[:: max(1, len(cells) // 50)], strict=True):
            centre = np.minimum((cell + 0.5) * 28, np.array(level[:2]) - 1e-6) / level[:2]  # in parts of the picture
            low, high = tile * 336 / np.array(below[:2]), (tile + 1) * 336 / np.array(below[:2])
            assert ((low <= centre) & (centre < high)).all()


def test_the_code_s_rule_agrees_where_nothing_is_padded_and_strays_where_it_is() -> None:
    square, wide = pyramid(4032, 4032), pyramid(5400, 2700)
    cells = np.stack(np.divmod(np.arange(36 * 36), 36), 1)
    same = [tiles_below(cells, *square[:2], tile=336, per_tile=12, rule=rule) for rule in ("centre", "code")]
    assert (same[0] == same[1]).all()
    column = np.stack([np.zeros(18, int), np.arange(18)], 1)
    found = [tiles_below(column, *wide[:2], tile=336, per_tile=12, rule=rule)[:, 1] for rule in ("centre", "code")]
    assert (found[0] != found[1]).any()


# ------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("size", [(300, 210), (64, 500), (90, 90)])
def test_resizing_by_windows_is_pillow_s(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    pixels = noise(*size)
    monkeypatch.setattr("reprobook.papers.rs_token_pruning.reading.STRIP", 2000)  # several strips
    for level in pyramid(*size, tile=32, least=96):
        whole = Image.fromarray(pixels).resize((level.width, level.height), Image.Resampling.BILINEAR)
        bottom, right = min(30, level.height), min(31, level.width)
        part = resized(from_array(pixels), level, 5, bottom, 7, right)
        assert np.abs(part.astype(int) - np.asarray(whole)[5:bottom, 7:right]).max() <= 2


def test_tiles_of_a_file_are_those_of_the_array_and_padding_is_black(tmp_path: Path) -> None:
    pixels = noise(300, 210)
    write_tiled(tmp_path / "a.tif", from_array(pixels))
    by_file, by_array = (Pyramid(p, 32, 96, whole=w) for p, w in
                         ((open_picture(tmp_path / "a.tif"), False), (from_array(pixels), True)))  # fmt: skip
    for k, level in enumerate(by_file.levels):
        tiles = level.tiles()
        found = by_file.tiles(k, tiles)
        assert (found == by_array.tiles(k, tiles)).all()
        right = level.cols * 32 - level.width
        assert not right or not found[level.cols - 1, :, 32 - right :].any()
    assert by_file.opened == sum(level.rows * level.cols for level in by_file.levels)
    assert (by_file.thumbnail() == by_array.thumbnail()).all()
    with pytest.raises(ReprobookError, match="none of"):
        by_file.tiles(0, np.array([[0, 99]]))


def test_a_large_picture_is_never_read_whole() -> None:
    asked = []

    def read(top: int, bottom: int, left: int, right: int) -> np.ndarray:
        asked.append((bottom - top) * (right - left))
        return np.zeros((bottom - top, right - left, 3), np.uint8)

    from reprobook.papers.rs_token_pruning.reading import STRIP, Picture

    made = Pyramid(Picture(27328, 20000, read), 336, 1008)
    made.tiles(0, np.array([[1, 1]]))
    made.tiles(len(made.levels) - 1, np.array([[40, 40]]))
    assert max(asked) <= STRIP
    assert sum(asked) < 27328 * 20000 / 4


def test_sixteen_bits_one_band_nodata_and_broken_files(tmp_path: Path) -> None:
    import rasterio

    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) + 500
    values[:10] = 65535
    shape = {"driver": "GTiff", "height": 64, "width": 64, "count": 1, "dtype": "uint16", "nodata": 65535}
    with rasterio.open(tmp_path / "deep.tif", "w", **shape) as file:
        file.write(values, 1)
    picture = open_picture(tmp_path / "deep.tif")
    pixels = picture.read(0, 64, 0, 64)
    assert pixels.shape == (64, 64, 3)
    assert not pixels[:10].any()
    assert pixels[-1, -1, 0] == 255
    assert (np.diff(pixels[10:, :, 0].ravel().astype(int)) >= 0).all()
    with rasterio.open(tmp_path / "empty.tif", "w", **shape) as file:
        file.write(np.full((64, 64), 65535, np.uint16), 1)
    with pytest.raises(ReprobookError, match="empty.tif holds no data"):
        open_picture(tmp_path / "empty.tif")
    write_tiled(tmp_path / "good.tif", from_array(noise(600, 600)))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "good.tif").read_bytes()[:200_000])
    with pytest.raises(ReprobookError, match="cut.tif"):
        open_picture(tmp_path / "cut.tif").read(500, 600, 500, 600)
    (tmp_path / "text.tif").write_text("no picture")
    with pytest.raises(ReprobookError, match="text.tif"):
        open_picture(tmp_path / "text.tif")
    with pytest.raises(ReprobookError, match="uint8"):
        from_array(np.zeros((4, 4)))


# ------------------------------------------------------------------------------------------------- cost


def test_every_figure_of_table_4_follows_from_one_formula() -> None:
    paper = {"anyres-p144": 243.37, "+ PruMerge++": 43.75, "+ VisionZip": 83.56, "+ FastV": 109.21, "+ PDrop": 101.62,
             "+ prune (ours)": 82.56, "DIP-4layer + prune (ours)": 36.61}  # fmt: skip
    found = compute.costs()
    for name, flops in paper.items():
        assert found[name].tflops == pytest.approx(flops, abs=0.0051)
    assert (found["anyres-p144"].encoded, found["anyres-p144"].read) == (83520, 21312)
    assert (found["DIP-4layer + prune (ours)"].encoded, found["DIP-4layer + prune (ours)"].read) == (55296, 2376)
    flops, tokens, ratio = printed.distances(facts.load("rs_token_pruning"))
    assert flops < 0.0051
    assert tokens == 0
    assert ratio == pytest.approx(6.65, abs=0.005)


def test_printed_figures_that_do_not_add_up() -> None:
    told = printed.recomputed(facts.load("rs_token_pruning")).set_index("Quantity")["Recomputed"]
    assert told["accuracy of the three-layer pyramid (Table 3)"] == pytest.approx(41.51, abs=0.006)
    assert told["average of LLaVA-1.5*"] == pytest.approx(27.27, abs=0.006)
    assert told["pictures a second, method over all tiles"] == pytest.approx(1.42, abs=0.005)


# ------------------------------------------------------------------------------------------------- model and loss


@pytest.fixture
def model() -> VisionLanguage:
    torch.manual_seed(0)
    return VisionLanguage(len(scenes.WORDS), dim=24, n_layers=4).eval()


def test_the_module_s_start_is_its_teacher(model: VisionLanguage) -> None:
    x, at = torch.randn(2, 20, 24), torch.tensor([[19, 12], [19, 7]])
    teacher, student = model.teacher_logits(x, at), model.focus_logits(x, at)
    assert len(teacher) == len(student) == 3
    for t, s in zip(teacher, student, strict=True):
        assert torch.allclose(t, s, atol=1e-5)
    vision, local = torch.arange(15), torch.arange(5, 15)
    for style in distill.STYLES:
        assert distill.distillation(teacher, student, vision, local, style=style).abs() < 1e-6


def test_attention_logits_give_the_layer_s_own_attention(model: VisionLanguage) -> None:
    layer, x = model.layers[0], torch.randn(1, 9, 24)
    positions = torch.arange(9)[None]
    last = layer.logits(x, positions, torch.tensor([[8]]))[0, :, 0].softmax(-1)
    value = layer.v(layer.norm1(x))[0].view(9, layer.heads, -1)
    mixed = torch.einsum("ht,thd->hd", last, value).flatten()
    h = x[0, 8] + layer.out(mixed)
    expected = h + layer.down(torch.nn.functional.silu(layer.gate(layer.norm2(h))) * layer.up(layer.norm2(h)))
    assert torch.allclose(layer(x, positions)[0, 8], expected, atol=1e-5)


def test_the_loss_by_brute_force() -> None:
    torch.manual_seed(1)
    teacher, student = ([torch.randn(1, 2, 1, 5) for _ in range(2)] for _ in range(2))
    vision, local = [0, 1, 2, 3], [2, 3]
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        for h in range(2):

            def soft(row: torch.Tensor, places: list[int]) -> list[float]:
                e = [math.exp(row[p]) for p in places]
                return [v / sum(e) for v in e]

            for places, weight in ((vision, 1.0), (local, 2.0)):
                p, q = soft(t[0, h, 0], places), soft(s[0, h, 0], places)
                total += weight * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            p, q = soft(t[0, h, 0], local), soft(s[0, h, 0], local)
            total += sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / 2
    found = distill.distillation(teacher, student, torch.tensor(vision), torch.tensor(local))
    assert float(found) == pytest.approx(total / 4, rel=1e-5)


def test_a_constant_moves_the_code_s_loss_alone_and_turns_count() -> None:
    torch.manual_seed(2)
    teacher, student = ([torch.randn(2, 2, 3, 6)] for _ in range(2))
    shifted = [each + 3 for each in student]
    vision, local = torch.arange(5), torch.arange(2, 5)
    change = {s: distill.distillation(teacher, shifted, vision, local, style=s)
              - distill.distillation(teacher, student, vision, local, style=s) for s in distill.STYLES}  # fmt: skip
    assert change["paper"].abs() < 1e-5
    assert change["code"] > 0.1
    turns = torch.zeros(2, 3, dtype=torch.bool)
    turns[1, 2] = True
    alone = distill.distillation([t[1:, :, 2:] for t in teacher], [s[1:, :, 2:] for s in student], vision, local)
    assert torch.allclose(distill.distillation(teacher, student, vision, local, turns=turns), alone)
    with pytest.raises(ReprobookError, match="style"):
        distill.distillation(teacher, student, vision, local, style="mse")


@pytest.mark.parametrize("style", distill.STYLES)
@pytest.mark.parametrize(("pairs", "taught"), [((1,), [0]), ((1, 3), [0, 1]), ((1, 2, 3), [0, 2])])
def test_the_first_and_the_last_pair_are_distilled(style: str, pairs: tuple[int, ...], taught: list[int]) -> None:
    torch.manual_seed(4)
    model, batch = VisionLanguage(len(scenes.WORDS), dim=24, pairs=pairs), batch_of()
    with torch.no_grad():
        for p in model.focus.parameters():
            p += 0.1 * torch.randn_like(p)
    module = study.loss(style)(model, batch)[1]["module"]
    _, teacher, student, shown, local = model(batch["thumbnails"], batch["tiles"], batch["text"], batch["at"], (3, 3))
    places = local_places(local, 6)
    vision = torch.cat([torch.arange(shown.stop), places])
    chosen = ([each[k] for k in taught] for each in (teacher, student))
    expected = distill.distillation(*chosen, vision, places, style=style, turns=batch["turns"])
    assert torch.equal(module, expected)
    if len(pairs) == 3:  # all three would be another loss, and every block learns all the same
        whole = distill.distillation(teacher, student, vision, places, style=style, turns=batch["turns"])
        assert not torch.allclose(whole, module, rtol=1e-3)
        module.backward()
        for block in model.focus[:-1]:
            assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in block.parameters())


def batch_of(n: int = 2) -> dict[str, torch.Tensor]:
    asked = [scenes.Question("shape", "what shape is red on water", "frame", 0),
             scenes.Question("background", "what is below red frame", "water", 0)]  # fmt: skip
    pictures = torch.from_numpy(noise(96 * n, 96)).view(n, 96, 96, 3).permute(0, 3, 1, 2).float()
    return {**scenes.as_tiles(pictures), **scenes.as_text([asked, asked[:1]][:n], 2)}


def test_no_gradient_of_the_distillation_reaches_teacher_or_projector(model: VisionLanguage) -> None:
    batch = batch_of()
    _, parts = study.loss("paper")(model, batch)
    with torch.no_grad():  # student away from its teacher
        for p in model.focus.parameters():
            p += 0.1 * torch.randn_like(p)
    _, parts = study.loss("paper")(model, batch)
    parts["module"].backward()
    reached = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert reached == {"focus"}


def test_training_and_answering_read_the_same_sequence(model: VisionLanguage) -> None:
    batch = batch_of()
    logits, *_, shown, local = model(batch["thumbnails"], batch["tiles"], batch["text"], batch["at"], (3, 3))
    tiles = np.stack(np.divmod(np.arange(9), 3), 1)
    cells, real = token_cells(Level(96, 96, 3, 3), tiles, 32, 2)
    at = torch.from_numpy(cells)
    features = model.encode(batch["tiles"][0]).flatten(0, 2)[torch.from_numpy(real)] + model.whereabouts(at, (6, 6))
    width = batch["text"].shape[1] // 2
    for turn, length in enumerate((6, 5)):  # each turn reads as if it were asked alone
        question = batch["text"][0, turn * width : turn * width + length]
        assert batch["at"][0, turn] == turn * width + length - 1
        built = model.sequence(batch["thumbnails"][:1], features, at, question)
        assert torch.allclose(model.read(built.x)[0], logits[0, turn], atol=1e-4)
        assert built.x.shape[1] == 16 + 1 + 6 * 7 + length
    assert sorted(built.local.tolist()) == local_places(local, 6).tolist()
    assert shown.stop == 16


def test_wrong_sizes_of_the_model_are_named() -> None:
    for wrong, named in (
        ({"dim": 25}, "dim"),
        ({"tile": 40}, "tile"),
        ({"pairs": (0, 1)}, "pairs"),
        ({"pairs": (2, 9)}, "pairs"),
    ):
        with pytest.raises(ReprobookError, match=named):
            VisionLanguage(9, **{"dim": 24, **wrong})


# ------------------------------------------------------------------------------------------------- descent

LEVELS = pyramid(4032, 4032)


def dummy(calls: list[int]) -> study.Any:
    def encode(level: int, tiles: np.ndarray) -> Tokens:
        calls.append(level)
        cells, _ = token_cells(LEVELS[level], tiles, 336, 12)
        return Tokens(cells, cells)

    return encode


def hot(row: float, col: float) -> study.Any:
    """Scores of one hot place, given in parts of the picture."""

    def score(level: int, tokens: Tokens) -> np.ndarray:
        grid = np.array(LEVELS[level].cells(336, 12))
        return -np.abs((tokens.cells + 0.5) / grid - [row, col]).max(1)

    return score


def test_a_hot_cell_leads_down_a_chain_of_tiles_that_cover_it() -> None:
    found = descend(LEVELS, dummy([]), hot(0.41, 0.87), tile=336, per_tile=12, alpha=0.007, n_max=40)
    assert found.level == 2
    for level, tiles in zip(LEVELS, found.opened, strict=True):
        assert [math.floor(0.41 * level.rows), math.floor(0.87 * level.cols)] in tiles.tolist()
    assert len(found.opened[1]) <= 4  # nine tokens around the place


def test_too_many_tiles_end_the_descent_and_are_never_encoded() -> None:
    calls: list[int] = []
    found = descend(LEVELS, dummy(calls), hot(0.5, 0.5), tile=336, per_tile=12, alpha=0.25, n_max=8)
    assert (found.level, calls) == (0, [0])
    assert len(found.tokens.cells) == 324  # a quarter of 36 x 36
    calls.clear()
    forced = descend(LEVELS, dummy(calls), hot(0.5, 0.5), tile=336, per_tile=12, alpha=0.25, n_max=8, forced=True)
    assert (forced.level, calls, len(forced.opened[1])) == (2, [0, 1, 2], 8)
    none = descend(LEVELS, dummy([]), hot(0.5, 0.5), tile=336, per_tile=12, alpha=0.25, n_max=0)
    assert (none.level, len(none.tokens.cells)) == (0, 324)


def test_keeping_everything_reads_everything_and_keeping_nothing_the_thumbnail() -> None:
    calls: list[int] = []
    whole = descend(LEVELS, dummy(calls), hot(0.5, 0.5), tile=336, per_tile=12, alpha=1.0, n_max=math.inf)
    assert calls == [0, 1, 2]
    assert len(whole.tokens.cells) == 144 * 144
    assert 576 + len(whole.tokens.cells) == compute.read_tokens(144)
    assert not len(descend(LEVELS, dummy([]), hot(0.5, 0.5), tile=336, per_tile=12, alpha=0.0).tokens.cells)
    for wrong in ({"alpha": 1.1}, {"alpha": -0.1}, {"n_max": -1}, {"threshold": 1.0}):
        with pytest.raises(ReprobookError):
            descend(LEVELS, dummy([]), hot(0.5, 0.5), tile=336, per_tile=12, **wrong)


def test_shares_thresholds_and_equal_tiles() -> None:
    assert top_share(np.array([0.1, 0.9, 0.9, 0.2]), 0.5).tolist() == [1, 2]
    assert len(top_share(np.random.default_rng(0).random(103), 0.25)) == 25
    sharp, flat = np.eye(40)[3], np.linspace(0, 1, 40)
    assert above_threshold(flat, 0.5).tolist() == [k for k in range(40) if (k - 1.95) / 35.1 > 0.5]
    assert len(above_threshold(sharp, 0.5)) == 0  # its one peak lies beyond the 95th percentile
    found = descend_by_tiles(LEVELS, dummy([]), hot(0.1, 0.1), 3, tile=336, per_tile=12)
    assert [len(t) for t in found.opened] == [9, 3, 3]
    assert len(found.tokens.cells) == 3 * 144
    with pytest.raises(ReprobookError, match="n_tiles"):
        descend_by_tiles(LEVELS, dummy([]), hot(0.1, 0.1), 0, tile=336, per_tile=12)


def test_padding_has_no_tokens() -> None:
    level = pyramid(5400, 2700)[1]  # 1680 x 840 pixels in 5 x 3 tiles: the last column is half empty
    cells, real = token_cells(level, level.tiles(), 336, 12)
    assert cells.max(0).tolist() == [59, 29]
    assert len(cells) == len(real) == 60 * 30


# ------------------------------------------------------------------------------------------------- reducers


def test_dropping_inside_the_model_is_reading_less(model: VisionLanguage) -> None:
    torch.manual_seed(3)
    x, local = torch.randn(1, 30, 24), torch.arange(5, 25)
    everything = reducers.fastv(30, local, 20)
    assert torch.allclose(model.read(x, everything), model.read(x), atol=1e-5)
    seen: list[int] = []
    plan = reducers.pyramid_drop(30, local, 4, (1, 2, 3))
    spied = {k: (lambda w, f=f: (seen.append(int((w >= 0).sum())), f(w))[1]) for k, f in plan.items()}
    model.read(x, spied)
    assert seen == [30, 22, 17]  # 20 local tokens, then 12, 7 and at last 4
    weights = torch.arange(30.0)
    assert sorted(plan[3](weights).tolist()) == [0, 1, 2, 3, 4, 21, 22, 23, 24, 25, 26, 27, 28, 29]


def test_reducers_before_the_model() -> None:
    received = torch.tensor([[[0.1, 0.4], [0.3, 0.2]], [[0.7, 0.1], [0.1, 0.1]]])
    kept = reducers.per_tile_top(received, 0.25)
    assert kept.tolist() == [[False, True, False, False], [True, False, False, False]]
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [0.0, 3.0]])
    merged = reducers.merged_into(features, torch.tensor([True, True, False, False]))
    assert torch.allclose(merged, torch.tensor([[1.5, 0.05], [0.0, 2.0]]))
    with pytest.raises(ReprobookError, match="no token"):
        reducers.merged_into(features, torch.zeros(4, dtype=torch.bool))
    side = pooled(torch.arange(16.0).view(1, 4, 4, 1))[0, :, :, 0]
    assert side.tolist() == [[2.5, 4.5], [10.5, 12.5]]
