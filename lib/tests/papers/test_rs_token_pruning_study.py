"""Token pruning for large pictures: painted scenes, trees, the experiments, the evaluator, the released formats."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.rs_token_pruning import aerial, bench, miniatures, released, scenes, scoring, study
from reprobook.papers.rs_token_pruning.model import VisionLanguage

# ------------------------------------------------------------------------------------------------- scenes


def half_land() -> scenes.World:
    """Water in the north, land in the south; dull colours."""
    pixels = np.full((1600, 3600, 3), 60, np.uint8)
    land = np.zeros((1600, 3600), bool)
    land[800:] = True
    return scenes.World("half", pixels, land)


@pytest.fixture(scope="module")
def items() -> list[scenes.Item]:
    return scenes.make_items([half_land()], 384, 6, n_decoys=6)


def test_questions_have_one_answer_and_decoys_that_need_the_question(items: list[scenes.Item]) -> None:
    decoys = 0
    for item in items:
        objects, target = item.scene.objects, item.scene.objects[0]
        column = 4 if item.question.kind == "color" else 3
        meant = (objects[:, [column, 5]] == target[[column, 5]]).all(1)
        assert meant.tolist() == [True] + [False] * (len(objects) - 1)
        alike = (objects[1:, 3:5] == target[3:5]).any(1)
        decoys += int((alike & (objects[1:, 5] != target[5])).sum())
        names = [list(scenes.COLOURS), scenes.SHAPES][item.question.kind == "shape"]
        assert item.question.answer == names[target[3 if item.question.kind == "color" else 4]]
        assert item.share == target[2] ** 2 / 384**2
    assert decoys >= len(items)


def test_who_takes_a_decoy_for_the_target_answers_wrongly() -> None:
    many = scenes.make_items([half_land()], 384, 100, n_decoys=8)
    told = study.lazy_readers(many).groupby(["reader", "kind"])["right"].mean()
    for kind, chance in (("color", 1 / 4), ("shape", 1 / 3)):
        assert told["wrong ground", kind] <= chance
        assert told["ground ignored", kind] < 0.7
        assert told["most frequent", kind] < chance + 0.2
    red_cross, green_cross = [0, 0, 9, 0, 1, 0], [40, 0, 9, 2, 1, 1]
    question = scenes.Question("color", "what color is cross on water", "red", 0)
    scene = scenes.Scene(np.zeros((96, 96, 3), np.uint8), np.array([red_cross, green_cross, [0, 40, 9, 0, 0, 0]]))
    by_hand = study.lazy_readers([scenes.Item("a", "a", scene, question, 0.1)]).set_index("reader")["right"]
    assert by_hand.to_dict() == {"wrong ground": 0.0, "ground ignored": 0.5, "most frequent": 1.0}


def test_larger_targets_stay_in_one_square_of_one_ground() -> None:
    for item in scenes.make_items([half_land()], 384, 4, n_decoys=4, sides=(14, 20), enlarge=4):
        objects = item.scene.objects
        assert ((objects[:, 2] >= 56) & (objects[:, 2] <= 80)).all()
        assert (objects[:, :2] // 128 == (objects[:, :2] + objects[:, 2:3] - 1) // 128).all()


def test_objects_are_where_they_are_said_to_be_one_a_tile_on_one_ground(items: list[scenes.Item]) -> None:
    world = half_land()
    for item in items:
        objects = item.scene.objects
        tiles = objects[:, :2] // 32
        assert len(np.unique(tiles, axis=0)) == len(objects)
        assert ((objects[:, :2] + objects[:, 2:3] - 1) // 32 == tiles).all()
        painted = (item.scene.pixels != 60).any(-1)
        for top, left, side, colour, _, _ in objects.tolist():
            patch = item.scene.pixels[top : top + side, left : left + side]
            assert tuple(patch[side // 2, 0]) in (tuple(scenes.COLOURS[list(scenes.COLOURS)[colour]]), (60, 60, 60))
            painted[top : top + side, left : left + side] = False
        assert not painted.any()
    grounds = scenes.crop(world, 384, np.random.default_rng(0))[1]
    assert (grounds * 8 % 1 == 0).all()  # whole rows of 8 samples
    assert len(np.unique(grounds[:, 0])) <= 3


def test_shapes_differ_in_most_of_their_pixels() -> None:
    forms = [scenes._stencil(12, k) for k in range(3)]
    for a in range(3):
        for b in range(a):
            assert (forms[a] != forms[b]).mean() > 0.25


def test_training_and_test_squares_do_not_meet_and_batches_are_pure() -> None:
    world, rng = half_land(), np.random.default_rng(0)
    for _ in range(5):
        west, east = (scenes.crop(world, 384, rng, test=t)[2][1] for t in (False, True))
        assert west + 384 <= scenes.EDGE * 3600 <= east + 1
    batches = scenes.training_batches([world], batch_size=3, least=96, scales=(1, 2), seed=4)
    a, b = batches(5), batches(5)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["tiles"], batches(6)["tiles"])
    assert a["tiles"].shape == (3, 9, 32, 32, 3)
    longer = scenes.training_batches([world], batch_size=8, least=96, scales=(1, 2), lengths=(2,), seed=4)(5)
    assert longer["tiles"].shape == (4, 36, 32, 32, 3)  # fewer squares, four times as many tiles
    later = scenes.training_batches([world], batch_size=8, least=96, scales=(1,), lengths=(1, 2), longer_from=9)
    assert all(later(k)["tiles"].shape[:2] == (8, 9) for k in range(5, 9))
    assert {later(k)["tiles"].shape[:2] for k in range(9, 15)} == {(8, 9), (4, 36)}
    assert study.loss("paper")(VisionLanguage(len(scenes.WORDS), dim=24), longer)[0].isfinite()
    width = a["text"].shape[1] // 3
    for row, at, turns in zip(a["text"], a["at"], a["turns"], strict=True):
        for k in turns.nonzero()[:, 0].tolist():  # a question ends where it is said to end, and holds no answer
            assert (row[k * width : int(at[k]) + 1] > 0).all()
            assert (row[int(at[k]) + 1 : (k + 1) * width] == 0).all()
    with pytest.raises(ReprobookError, match="multiple of 32"):
        scenes.crop(world, 100, rng)
    with pytest.raises(ReprobookError, match="does not know"):
        scenes.encode_words("what colour")


def test_labels_of_single_tiles_say_what_is_painted() -> None:
    batch = scenes.tile_batches([half_land()], batch_size=40, scales=(1,), seed=1)(0)
    painted = (batch["tiles"].numpy() != 60).any(-1)
    there = batch["colour"] < len(scenes.COLOURS)
    assert (there.sum((1, 2)).numpy() == painted.any((1, 2))).all()
    assert ((batch["shape"] < len(scenes.SHAPES)) == there).all()
    for k in there.any(2).any(1).nonzero()[:, 0].tolist():
        rows, cols = np.nonzero(painted[k])
        at = int((rows.min() + rows.max() + 1) / 2 >= 16), int((cols.min() + cols.max() + 1) / 2 >= 16)
        assert there[k][at]
        value = list(scenes.COLOURS.values())[batch["colour"][k][at]]
        assert tuple(batch["tiles"][k, rows[0], cols[0]].tolist()) == value
    parts = study.naming_loss(study.naming(VisionLanguage(len(scenes.WORDS), dim=24)), batch)[1]
    assert set(parts) == {"colour", "shape", "ground"}


def test_a_target_can_be_too_small_for_the_first_level(items: list[scenes.Item]) -> None:
    assert not scenes.invisible(items[0], 96)
    assert scenes.invisible(items[0], 96, threshold=256)


# ------------------------------------------------------------------------------------------------- trees


def test_ninths_count_centres(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 20, 20, -1], [10, 80, 20, 96, 1], [80, 80, 90, 90, 0], [90, 90, 120, 120, -1]])
    assert aerial.ninths(boxes, 0, 0, 99).tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 1]
    asked = aerial.questions(boxes, 0, 0, 99)
    assert [q.answer for q in asked if q.kind == "is there"] == ["yes", "no", "yes", *["no"] * 5, "yes"]
    assert not [q for q in asked if q.kind in ("most", "no tree")]
    full = np.array(
        [[33 * r, 33 * c, 33 * r + 20, 33 * c + 20, -1] for r in range(3) for c in range(3) if (r, c) != (1, 2)]
    )
    (empty,) = (q for q in aerial.questions(full, 0, 0, 99) if q.kind == "no tree")
    assert (empty.answer, empty.target) == ("middle-right", 5) and scenes.encode_words(empty.text)
    mirrored = aerial._mirrored(boxes, 0, 99)
    assert aerial.ninths(mirrored, 0, 0, 99).tolist() == [1, 0, 1, 0, 0, 0, 1, 0, 0]
    (tmp_path / "a.xml").write_text("<annotation><object><name>Tree</name></object></annotation>")
    with pytest.raises(ReprobookError, match="no picture"):
        aerial.load(tmp_path)


# ------------------------------------------------------------------------------------------------- experiments


@pytest.fixture(scope="module")
def model() -> VisionLanguage:
    torch.manual_seed(0)
    return VisionLanguage(len(scenes.WORDS), dim=24).eval()


def test_the_oracle_opens_the_target_s_tile_and_counts_are_equal(
    model: VisionLanguage, items: list[scenes.Item]
) -> None:
    frame = study.choose_tiles(model, items[:3], least=96, n_tiles=3, curve=(1,), pretrained=study.naming(model))
    assert not [what for what in study.tile_effects(frame, 3) if "all tiles" in what]
    told = frame.set_index(["way", "tiles"])
    assert told.loc["oracle", "found"].all()
    assert set(told.loc[[(w, 3) for w in study.CHOOSERS], "encoded"]) == {1 + 9 + 3 + 3}
    assert set(frame["way"]) == {*study.CHOOSERS, *study.FIXED}
    found = study.tile_effects(frame, 3)
    assert len(found["descent minus first level"]) == 3
    assert found["oracle tile: accuracy"]["b"].eq(0).all()
    assert len(study.by_size(frame)) == 3 + 6 + 5
    with pytest.raises(ReprobookError, match="no row"):
        study.scores_of(frame, "module", tiles=9)
    with pytest.raises(ReprobookError, match="chooser"):
        study.Asked(model, items[0], 96).scores("eyes")


def test_all_tiles_are_those_of_levels_within_the_limit(model: VisionLanguage, items: list[scenes.Item]) -> None:
    small = scenes.make_items([half_land()], 192, 1, n_decoys=3)
    frame = study.choose_tiles(model, [*items[:2], *small], least=96, n_tiles=3, whole_up_to=383,
                               pretrained=study.naming(model))  # fmt: skip
    whole = frame[frame["way"] == study.WHOLE]
    assert set(zip(whole["side"], whole["tiles"], whole["encoded"], whole["found"], strict=True)) == {
        (384, 36, 37, False), (192, 36, 37, True)
    }  # fmt: skip
    both = study.choose_tiles(model, [*items[:2], *small], least=96, n_tiles=3, whole_up_to=384,
                              pretrained=study.naming(model))  # fmt: skip
    finest = both[(both["way"] == study.WHOLE) & (both["tiles"] == 144)].set_index("question")["right"]
    assert set(finest.index) == {item.id for item in items[:2]}
    partly = study.tile_effects(frame, 3)
    assert set(partly["within the limit: descent minus all tiles"].index) == {item.id for item in small}
    assert set(partly["beyond the limit: descent minus all tiles"].index) == {item.id for item in items[:2]}
    quarter = partly["beyond the limit: all tiles minus a quarter of them"]
    assert quarter.equals(partly["all tiles: 36 minus first level"].loc[quarter.index]) and len(quarter) == len(
        items[:2]
    )
    found = study.tile_effects(both, 3)
    assert "beyond the limit: descent minus all tiles" not in found
    assert set(found["all tiles: 144 minus 36"].index) == set(finest.index)
    assert len(found["all tiles: 36 minus first level"]) == len(items[:2]) + len(small)
    assert found["all tiles: 144 minus 36"]["a"].to_dict() == finest.astype(float).to_dict()
    less = whole.set_index("question")["right"].astype(float)
    told = found["within the limit: descent minus all tiles"]
    assert told["a"].equals(study.scores_of(both, "module", tiles=3).rename("a"))
    assert told["b"].to_dict() == {**less.to_dict(), **finest.astype(float).to_dict()}
    odd = scenes.make_items([half_land()], 160, 1, n_decoys=2) + scenes.make_items([half_land()], 96, 1, n_decoys=1)
    mixed = study.choose_tiles(model, [*items[:2], *odd], least=96, n_tiles=3, whole_up_to=384,
                               pretrained=study.naming(model))  # fmt: skip
    for what, pair in study.tile_effects(mixed, 3).items():
        assert len(pair) and pair.notna().all(axis=None), what
    asked = study.Asked(model, items[0], 96)
    every = asked.right(asked.encode(2, asked.levels[2].tiles()))
    assert finest[items[0].id] == every


def test_layers_that_look_at_the_target(model: VisionLanguage, items: list[scenes.Item]) -> None:
    told = study.looks(model, items[:3], least=96).set_index("layer")["share"]
    assert list(told.index) == [1, 2, 3]
    by_teacher = study.choose_tiles(model, items[:3], least=96, n_tiles=1)
    last = by_teacher[by_teacher["way"] == "first level"]["ninth by teacher"]  # the last of its layers that teach
    assert told[model.pairs[-1]] == last.mean()
    x = torch.randn(1, 5, 24)
    at = torch.tensor([[4]])
    one, every = (model.teacher_logits(x, at, layers) for layers in ([2], [1, 2, 3]))
    assert torch.equal(one[0], every[1]) and len(model.teacher_logits(x, at)) == len(model.pairs)


def test_likeness_reads_the_words_of_pre_training(model: VisionLanguage) -> None:
    names = study.naming(copy.deepcopy(model))
    tokens = torch.randn(5, 24)
    logs = {name: each.log_softmax(-1) for name, each in names.named(tokens).items()}
    asked = scenes.encode_words("what color is cross on water")
    expected = logs["shape"][:, scenes.SHAPES.index("cross")] + logs["ground"][:, scenes.GROUNDS.index("water")]
    assert torch.allclose(names.likeness(tokens, asked), expected)


def test_saliency_finds_paint_on_a_dull_ground(model: VisionLanguage, items: list[scenes.Item]) -> None:
    asked = study.Asked(model, items[0], 96)
    first = asked.encode(0, asked.levels[0].tiles())
    scores = asked.scores("colour saliency")(0, first)
    best = first.cells[np.argsort(-scores)[: len(items[0].scene.objects)]]
    centres = (items[0].scene.objects[:, :2] + items[0].scene.objects[:, 2:3] / 2) // 64
    assert len({tuple(c) for c in centres.astype(int).tolist()} & {tuple(c) for c in best.tolist()}) >= len(best) / 2


def test_reducers_and_depths_have_a_row_for_every_question(model: VisionLanguage, items: list[scenes.Item]) -> None:
    small = scenes.make_items([half_land()], 192, 2, n_decoys=3)
    frame = study.reduce_tokens(model, small, least=96, shares=(0.5,), keep=0.25, pretrained=study.naming(model))
    assert frame.groupby(["way", "keep"]).size().eq(len(small)).all()
    assert set(frame["way"]) == set(study.REDUCERS)
    effects = {
        "tokens: module minus best reducer",
        "keep 0.25 minus keep 0.5",
        "objects kept: keep 0.25 minus keep 0.5",
    }
    assert effects <= set(study.token_effects(frame, 0.25))
    asked = study.Asked(model, small[0], 96, pretrained=study.naming(model))
    ways = study._reduced(asked, 0.25, (0.5,))
    tiles = ways["objects kept", 0.25][0].cells // 2
    assert asked.holds(1, tiles, 32).sum() == 4
    assert asked.holds(1, tiles, 32, any_object=True).sum() == 4 * len(small[0].scene.objects) == 16
    assert {len(ways[way, 0.25][0].cells) for way in ("module", "likeness", "objects kept")} == {36}
    deep = study.depths(model, items[:2], least=96, threshold=0.5, n_max=4, n_fixed=2)
    assert deep[deep["way"] == "deepest"]["tiles"].max() == 1 + 9 + 2 + 2
    assert (deep[deep["way"] == "deepest"]["level"] == 3).all()
    assert (deep[deep["way"] == "ended on level 1"]["level"] == 1).all()
    assert set(study.depth_effects(deep)["share of questions that stop early"]["a"]) <= {0.0, 1.0}


def test_blind_rows_are_shares_by_reader_and_kind(items: list[scenes.Item]) -> None:
    told = study.blind_rows(items).set_index(["reader", "kind"])["right"]
    asked = study.blind_items(items)
    answers = scoring.blind_answers(asked)
    assert set(told.index) == {(r, k) for r in ("majority", "naive Bayes") for k in set(asked["category"])}
    for (reader, kind), share in told.items():
        at = asked["category"] == kind
        assert share == (answers.loc[at, reader] == asked.loc[at, "ground_truth"]).mean()


def test_the_loss_falls(model: VisionLanguage) -> None:
    torch.manual_seed(0)
    fresh = VisionLanguage(len(scenes.WORDS), dim=24)
    batch = scenes.training_batches([half_land()], batch_size=8, least=96, scales=(1,))(0)
    optimiser, loss = torch.optim.AdamW(fresh.parameters(), 3e-3), study.loss("code")
    totals = []
    for _ in range(12):
        total, _ = loss(fresh, batch)
        optimiser.zero_grad(), total.backward(), optimiser.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.8 * totals[0]
    told = study.while_learning(batch)(fresh.eval(), 0)
    assert set(told) <= set(scenes.KINDS)


def test_windows_and_whole_levels_give_the_same_answer() -> None:
    assert bench.windows(512, 4, n=1).same
    model, picture = bench._model(), bench._noise(256)
    by_windows, whole = (bench.answer(model, picture, 2, whole=w) for w in (False, True))
    assert by_windows[1:] == whole[1:] == (2, 14)


def test_the_headline_goes_to_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench.headline(256, 2)
    assert list(found.seconds) == ["all tiles", "descent"] and "answer" in found.what
    model, picture = bench._model(), bench._noise(256)
    logits, tokens, tiles = bench.answer(model, picture, None)
    assert (logits.shape, tokens, tiles) == ((len(scenes.WORDS),), 64 * 4, 64 + 1)
    _, tokens, tiles = bench.answer(model, picture, 2)
    assert (tokens, tiles) == (2, 9 + 2 + 2 + 1)  # a quarter of the eight tokens of two tiles; two levels below
    whole = bench.answer
    monkeypatch.setattr(bench, "answer", lambda *a, **k: (whole(*a, **k)[0] + (a[2] is None), 1, 1))
    with pytest.raises(ReprobookError, match="answer differently"):
        bench.headline(256, 2)


def test_seconds_and_memory_by_size_of_the_picture() -> None:
    rows = bench.growth(bench._noise(256), [256, 0], n_tiles=2, up_to=256)
    ways = ["descent", "all tiles", "descent, levels in memory"]
    assert [(r["way"], r["height"], r["tiles"]) for r in rows] == [
        (way, 256, tiles) for way, tiles in zip(ways, (14, 65, 14), strict=True)
    ] * 2
    assert all(r["seconds"] > 0 and r["MB"] >= 0 for r in rows)
    (larger,) = bench.growth(bench._noise(128), [256], n_tiles=2, up_to=255)
    assert (larger["width"], larger["way"], larger["tiles"]) == (256, "descent", 14)


# ------------------------------------------------------------------------------------------------- evaluator


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> scoring.WordNet:
    """An index in WordNet's format: licence lines, then lemma, pos, counts, pointers, senses, offsets."""
    folder = tmp_path_factory.mktemp("dict")
    lines = {"noun": ["two n 1 1 @ 1 1 001", "2 n 1 0 1 1 001", "house n 2 1 @ 2 1 002 003", "gray n 1 0 1 0 004",
                      "grey n 1 0 1 0 004"], "verb": ["house v 1 0 1 0 002"], "adj": [], "adv": []}  # fmt: skip
    for kind, rows in lines.items():
        (folder / f"index.{kind}").write_text("  1 licence\n" + "".join(f"{row}\n" for row in rows))
    return scoring.WordNet(folder)


def test_words_that_share_a_synset_are_the_same(words: scoring.WordNet, tmp_path: Path) -> None:
    assert words.same("2", "two")
    assert words.same("Grey", "gray")
    assert words.same("houses", "house")
    assert words.same("Dark Blue", "dark blue")
    assert not words.same("two", "house")
    assert not words.same("two.", "two")  # a full stop fails, as it does in the benchmark
    assert words.synsets("house") == {"noun 002", "noun 003", "verb 002"}
    with pytest.raises(ReprobookError, match=r"index\.noun"):
        scoring.WordNet(tmp_path)


def test_averages_over_categories_and_their_weights() -> None:
    right, category = [1, 0, 1, 1, 0, 0], ["a", "a", "a", "a", "b", "b"]
    assert scoring.average_accuracy(right, category) == pytest.approx((0.75 + 0.0) / 2)
    assert scoring.weighted(right, category).mean() == pytest.approx(0.375)


def test_blind_readers_by_hand() -> None:
    frame = pd.DataFrame({
        "image": [f"i{k}" for k in range(10)], "category": "color",
        "text": ["the car", "the sea"] * 5, "ground_truth": ["red", "blue"] * 5,
    })  # fmt: skip
    frame.loc[10] = ["i10", "color", "the car", "red"]
    found = scoring.blind_answers(frame, folds=11)
    assert (found["naive Bayes"] == frame["ground_truth"]).all()
    assert found.loc[1, "majority"] == "red"
    rows = [{"question_id": "GLH-Bridge_3", "image": "a", "category": "count", "text": "?", "ground_truth": "1"}]
    assert scoring.read_questions(rows)["part"].tolist() == ["LRS-Bridge"]
    with pytest.raises(ReprobookError, match="must begin with"):
        scoring.read_questions([{**rows[0], "question_id": "x_1"}])
    with pytest.raises(ReprobookError, match="no field 'text'"):
        scoring.read_questions([{k: v for k, v in rows[0].items() if k != "text"}])


# ------------------------------------------------------------------------------------------------- released


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    miniatures.write_clip(root / "clip")
    miniatures.write_model(root / "qwen", "qwen2")
    return root


def test_the_checkpoint_s_names_find_their_places(folders: Path) -> None:
    model = released.Released(folders / "qwen", folders / "clip", torch.device("cpu"))
    from safetensors.torch import load_file, save_file

    stored = load_file(folders / "qwen" / "model.safetensors")
    layer = model.llava.model.language_model.layers[1].self_attn.q_proj.weight
    assert torch.equal(layer, stored["model.layers.1.self_attn.q_proj.weight"])
    assert torch.equal(model.focus[4].mlp.up_proj.weight, stored["model.rfm.layers.4.mlp.up_proj.weight"])
    assert torch.equal(model.llava.model.multi_modal_projector.linear_2.bias, stored["model.mm_projector.2.bias"])
    x = model._words("a question of some length")[None]
    own = model.llava.model.language_model(inputs_embeds=x).last_hidden_state[:, -1]
    token = int(model.llava.lm_head(own).argmax())
    said = model.answer(released.Built(x, torch.zeros(0).long(), torch.zeros(0).long()), 1)
    assert said == model.tokenizer.decode([token], skip_special_tokens=True).strip()
    limit = model.llava.config.text_config.max_position_embeddings
    with pytest.raises(ReprobookError, match=f"the model reads {limit}: shorten it"):
        model.sequence(None, None, "word " * limit)
    broken = folders / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((folders / "qwen" / "config.json").read_bytes())
    save_file({k: v for k, v in stored.items() if "rfm" not in k}, broken / "model.safetensors")
    with pytest.raises(ReprobookError, match="other names"):
        released.Released(broken, folders / "clip", torch.device("cpu"))


@pytest.mark.parametrize(
    ("size", "grid", "pixels"),
    [((4000, 4000), (5, 5), (1680, 1680)), ((1000, 3000), (3, 8), (896, 2688)), ((200, 4000), (1, 12), (202, 4032))],
)
def test_a_grid_of_25_tiles_holds_as_much_of_the_picture_as_fits(
    size: tuple[int, int], grid: tuple[int, int], pixels: tuple[int, int]
) -> None:
    level = released.anyres(*size, 25)
    assert (level.rows, level.cols) == grid
    assert (level.height, level.width) == pixels
    assert released.anyres(5000, 3000, 1)[2:] == (1, 1)
    with pytest.raises(ReprobookError, match="max_tiles"):
        released.anyres(*size, 0)


def test_every_way_of_reading_gives_an_answer_and_an_effect(folders: Path, words: scoring.WordNet) -> None:
    miniatures.write_mme(folders / "mme")
    rows = json.loads((folders / "mme" / "MME_RealWorld_RS.json").read_text())
    frame = released.mme_questions(rows).head(1)
    frame["path"] = str(folders / "mme" / frame["image"][0])
    model = released.Released(folders / "qwen", folders / "clip", torch.device("cpu"))
    ways = ("descent", "all tiles", "no picture")
    found = released.ask(model, "MME-RealWorld-RS", frame, ways, words, n_max=80, alpha=0.25, max_tiles=4, max_new=1)
    assert found["way"].tolist() == list(ways)
    assert found.set_index("way").loc["no picture", "tiles"] == 0
    assert {"m: accuracy", "m: picture minus no picture"} <= set(released.effects("m", found))
    with pytest.raises(ReprobookError, match="ways may hold"):
        released.check([], [], ["guess"])
    assert released.is_right("MME-RealWorld-RS", "(B) red", "B", words)
    assert not released.is_right("MME-RealWorld-RS", "because", "B", words)
