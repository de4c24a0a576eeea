"""Corpora, released checkpoints, decoding, planner and benchmark of the chapter on cost-optimal GQA."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers import cost_optimal_gqa as gqa
from reprobook.papers.cost_optimal_gqa import Family, Shape, bench, released, text
from reprobook.rehearsal.hub import write_miniature

FILES = {name: {"text": "text"} for name in ("chunk1/a.jsonl", "chunk2/b.jsonl")}
RECIPE = {"format": "jsonl", "rows": 40, "files": FILES}


# ------------------------------------------------------------------------------------------------ text


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path / "cache"))
    write_miniature(RECIPE, tmp_path / "slimpajama-chunked")
    write_miniature({"tokenizer": {"kind": "bpe", "vocab_size": 512}}, tmp_path / "gpt2-tokenizer")
    return SimpleNamespace(path=lambda name: tmp_path / name, checksums=lambda: {"slimpajama-chunked": "0" * 64})


def test_slimpajama_is_joined_by_eos_and_cut(data: SimpleNamespace) -> None:
    corpus = gqa.open_corpus("slimpajama", data, 32)
    assert corpus.vocab_size == 50_304 and corpus.train.shape[1] == 32 and len(corpus.valid) == len(corpus.test) > 0
    stream = np.concatenate([corpus.train, corpus.valid, corpus.test]).reshape(-1)
    documents = [json.loads(row)["text"] for name in ("chunk1/a", "chunk2/b")
                 for row in (data.path("slimpajama-chunked") / f"{name}.jsonl").read_text().splitlines()]  # fmt: skip
    ends = np.flatnonzero(stream == corpus.eos_id)
    assert corpus.decode(stream[: ends[0]]) == documents[0]
    assert corpus.decode(stream[ends[0] + 1 : ends[1]]) == documents[1]
    assert len(documents) - 2 <= len(ends) <= len(documents)  # the last short row is dropped


def test_a_folder_without_text_is_named(data: SimpleNamespace, tmp_path: Path) -> None:
    for file in (tmp_path / "slimpajama-chunked").rglob("*.jsonl"):
        file.unlink()
    with pytest.raises(ReprobookError, match="no .*jsonl files below the fetched folder slimpajama-chunked"):
        text.slimpajama(data, 32)


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("tied", [False, True])
def test_released_weights_load_by_their_names(tmp_path: Path, tied: bool) -> None:
    released.write_miniature(tmp_path, n_layers=3, tied=tied)
    model, shape = gqa.load_released(tmp_path, 64)
    assert (shape.n_layers, shape.d, shape.n_h, shape.n_kv, shape.d_h, shape.ffn) == (3, 32, 4, 2, 8, 85)
    expected = gqa.build(shape, 64, seed=0)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    stored = json.loads((tmp_path / "config.json").read_text())
    assert {"n_layer", "d_model", "n_head", "n_kv_head", "dim_k"} <= set(stored)


def test_released_checkpoint_with_other_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    released.write_miniature(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "model.layers.0.attn.q_proj.weight" in weights and "model.layers.1.mlp_norm.weight" in weights
    moved = weights.pop("model.layers.0.attn.q_proj.weight")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ReprobookError, match=r"missing in the checkpoint: model.layers.0.self_attn.q_proj.weight"):
        gqa.load_released(tmp_path, 64)
    save_file(
        {**weights, "model.layers.0.attn.q_proj.weight": moved, "odd": moved.clone()}, tmp_path / "model.safetensors"
    )
    with pytest.raises(ReprobookError, match="no place for: odd"):
        gqa.load_released(tmp_path, 64)


def test_released_checkpoint_that_is_no_llama_is_refused(tmp_path: Path) -> None:
    released.write_miniature(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "att_q_norm": 1}))
    with pytest.raises(ReprobookError, match="att_q_norm is 1; only 0 is a plain Llama"):
        gqa.load_released(tmp_path, 64)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ReprobookError, match="pickled checkpoints are not read"):
        gqa.load_released(tmp_path, 64)


# ------------------------------------------------------------------------------------------------ decoding


def test_a_filled_cache_is_read_like_a_growing_one() -> None:
    """Token by token, the preallocated cache gives the logits of the library's own cache with the same contents."""
    from transformers import DynamicCache

    model = gqa.build(Shape(2, 32, 4, 2, d_h=8, d_ff=88, vocab=27), 64, seed=0).eval()
    cache, grown = gqa.filled_cache(model, 12, room=2), DynamicCache(config=model.config)
    for i, layer in enumerate(cache.layers):
        assert layer.keys.shape == (1, 2, 12, 8)
        grown.update(layer.keys.clone(), layer.values.clone(), i)
    with torch.no_grad():
        for token in (5, 7):
            x = torch.tensor([[token]])
            a, b = (model(input_ids=x, past_key_values=c, use_cache=True).logits for c in (cache, grown))
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert gqa.cache_values(cache) == gqa.cache_values(grown) == gqa.kv_values(Shape(2, 32, 4, 2, d_h=8), 14)
    with pytest.raises(ReprobookError, match="room for 14 tokens, not 15"):
        model(input_ids=torch.tensor([[1]]), past_key_values=cache, use_cache=True)


def test_every_model_is_timed_at_every_context() -> None:
    models = {name: gqa.build(Shape(1, 16, 2, n_kv, d_h=8, d_ff=40, vocab=27), 64, seed=0).eval()
              for name, n_kv in (("a", 1), ("b", 2))}  # fmt: skip
    rows = gqa.decode_seconds(models, [8, 16], n_tokens=2, batch=3)
    assert [(r["T"], r["model"]) for r in rows] == [(8, "a"), (8, "b"), (16, "a"), (16, "b")]
    assert all(r["seconds"] > 0 for r in rows)
    with pytest.raises(ReprobookError, match="context T is 0"):
        gqa.decode_seconds(models, [0])


def test_line_and_slopes_by_hand() -> None:
    T = np.array([1, 2, 4, 8.0])
    assert gqa.line(T, 3 + 0.5 * T) == pytest.approx((3, 0.5, 1))
    slopes = {(n_h, n_kv): 2e-6 * n_h + 5e-6 * n_kv for n_h, n_kv in ((8, 8), (8, 1), (2, 1))}
    assert gqa.slope_by_heads(slopes) == pytest.approx((2e-6, 5e-6))
    assert gqa.slope_by_heads({(8, 8): 8.0, (8, 1): 1.0, (1, 1): 1.0}) == pytest.approx((0, 1))  # the cache alone


# ------------------------------------------------------------------------------------------------ planner


LAWS = gqa.Surface(0.4, 2.19, 0.95, 0.25, 5e7, 1.6e8, 8e7).laws(gqa.candidates(32), largest=1e9)


def test_plan_by_hand() -> None:
    T, batch, rule, N = 32_768, 4, (32, 8), 1.2e9
    table = gqa.plan(LAWS, rule, N, T, Family(), batch=batch, precision="int4 weights, bf16 cache").set_index(
        ["n_h", "n_kv"]
    )
    row = table.loc[rule]
    shape = Family().shape_for(N, rule)
    assert row["N"] == pytest.approx(N)
    assert row["weights_gb"] == pytest.approx(0.5 * gqa.parameters(shape) / 1e9)
    assert row["cache_gb"] == pytest.approx(2 * batch * 2 * T * shape.n_layers * 64 * 8 / 1e9)
    assert row["gflops"] == pytest.approx(gqa.inference_cost(shape, T).flops / 1e9)
    assert row["Z"] == pytest.approx(0.9 * (row["total_gb"] / 2) ** 0.5 + 0.1 * row["gflops"] ** (1 / 3))
    assert table["best"].sum() == 1 and table.loc[table["best"], "Z"].item() == table["Z"].min()


def test_plan_at_bf16_is_the_search() -> None:
    target = float(LAWS[32, 8](1e9))
    planned = gqa.plan(LAWS, (32, 8), 1e9, 65_536, Family(), batch=2, gpu_gb=1e6)
    searched = gqa.search(LAWS, target, 65_536, Family(), batch=2)
    np.testing.assert_allclose(planned["Z"], searched["Z"])
    assert (
        planned["best"].tolist() == searched["best"].tolist()
        and planned["status"].tolist() == searched["status"].tolist()
    )


def test_plan_leaves_out_what_does_not_fit() -> None:
    free = gqa.plan(LAWS, (32, 8), 1e9, 8192, Family(), gpu_gb=1e6)
    best = free[free["best"]].iloc[0]
    tight = gqa.plan(LAWS, (32, 8), 1e9, 8192, Family(), gpu_gb=0.999 * best["total_gb"])
    chosen = tight[tight["best"]]
    assert len(chosen) == 0 or chosen["total_gb"].item() < best["total_gb"]
    assert not tight.loc[free["best"], "fits"].item()
    nothing = gqa.plan(LAWS, (32, 8), 1e9, 8192, Family(), gpu_gb=0.01)
    assert not nothing["best"].any() and "Nothing fits" in gqa.advice(nothing, (32, 8), Family())


def test_plan_flags_extrapolation() -> None:
    table = gqa.plan(LAWS, (32, 8), 2.9e9, 131_072, Family())
    beyond = table["N"] > 3e9
    assert beyond.any() and (table["status"] == "extrapolated").tolist() == beyond.tolist()
    assert "EXTRAPOLATED" in gqa.advice(table, (32, 8), Family())
    near = gqa.plan(LAWS, (32, 8), 2e8, 131_072, Family())
    assert "EXTRAPOLATED" not in gqa.advice(near, (32, 8), Family())


# ------------------------------------------------------------------------------------------------ benchmark


def test_pair_of_equal_loss() -> None:
    rows = [(3, 48, 8, 2, 80, 1.6), (3, 64, 8, 2, 120, 1.5), (3, 64, 4, 1, 110, 1.55), (3, 64, 1, 1, 100, 1.59),
            (3, 64, 8, 1, 118, 1.4), (2, 32, 1, 1, 20, 2.2)]  # fmt: skip
    models = pd.DataFrame(rows, columns=["L", "d", "n_h", "n_kv", "N", "validation loss"])
    pair = bench.equal_loss_pair(models, (8, 2), 10_000, 8, 27)
    assert pair is not None
    assert (pair.rule["d"], pair.chosen["n_h"]) == (48, 1)  # no model with fewer heads reaches 1.5; (8, 1) has as many
    assert bench.equal_loss_pair(models.iloc[:2], (8, 2), 10_000, 8, 27) is None


def test_decoding_costs_count_the_cache_and_check_the_logits() -> None:
    models = {"a": gqa.build(Shape(2, 32, 4, 2, d_h=8, d_ff=88, vocab=27), 64, seed=0).eval()}
    (row,) = bench.decoding_costs(models, 40, n_tokens=2, batch=2)
    assert row["cache bytes"] == 4 * 2 * gqa.kv_values(Shape(2, 32, 4, 2, d_h=8), 40) and row["tokens/s"] > 0


def test_a_wrong_cache_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gqa.build(Shape(2, 32, 4, 2, d_h=8, d_ff=88, vocab=27), 64, seed=0).eval()
    bench.check_decoding(model)
    monkeypatch.setattr(bench, "kv_values", lambda shape, T: 2 * T * shape.n_layers * shape.d_h * shape.n_h)
    with pytest.raises(ReprobookError, match="the cache holds 1536.* values, the cost model says 3072"):
        bench.check_decoding(model)


# ------------------------------------------------------------------------------------ measured lines, figures


def test_slopes_are_relative_to_the_first_model() -> None:
    heads = {"a": (8, 8), "b": (2, 1)}
    rows = [
        {"model": name, "T": T, "seconds": 1e-3 + T * step} for name, step in (("a", 4e-9), ("b", 1e-9)) for T in (1, 5)
    ]
    first, second = gqa.slopes(rows, heads)
    assert first["slope / slope of the first"] == 1 and first["ns a token of context"] == pytest.approx(4)
    assert second["slope / slope of the first"] == pytest.approx(0.25)
    assert (second["FLOPs say"], second["cache says"]) == (0.25, 0.125)


def test_random_models_have_the_shapes_asked_for() -> None:
    models = gqa.random_models((1, 32), [(4, 2), (2, 1)], d_h=8, vocab=30)
    assert list(models) == ["(4, 2)", "(2, 1)"]
    assert gqa.shape_of(models["(4, 2)"].config) == gqa.rounded(Shape(1, 32, 4, 2, d_h=8, vocab=30))


def test_figures_show_every_choice_of_heads() -> None:
    import matplotlib.pyplot as plt

    rows = [(2, 32, n_h, 1, 2e4 * n_h, 2 - 0.1 * n_h) for n_h in (1, 2, 4)] + [(2, 16, 1, 1, 1e4, 2.2)]
    models = pd.DataFrame(rows, columns=["L", "d", "n_h", "n_kv", "N", "test loss"])
    heads = gqa.head_curves(models)
    assert heads.axes[0].get_title() == "2 layers of width 32"
    curves = gqa.loss_curves(models, {(1, 1): gqa.PowerLaw(10, 0.3, 1), (2, 1): gqa.PowerLaw(9, 0.3, 1)})
    assert [text.get_text() for text in curves.axes[0].get_legend().get_texts()] == ["(1, 1)", "(2, 1)"]
    for gpu_gb in (0.01, 80.0):  # nothing fits; everything does
        plan = gqa.plan(LAWS, (32, 8), 1e9, 8192, Family(), gpu_gb=gpu_gb)
        figure = gqa.plan_figure(plan, (32, 8), "words", gpu_gb)
        assert len(figure.axes[1].texts) == plan["Z"].notna().sum() == 21
    plt.close("all")
