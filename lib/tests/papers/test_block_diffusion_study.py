"""The experiments of the block diffusion chapter on tiny sizes, and its judge of characters."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from reprobook.errors import ReprobookError
from reprobook.papers import block_diffusion as bd
from reprobook.ranges import resolve
from reprobook.train import fit

SETTING = bd.study.Setting(16, 2, 2, batch_size=4, lr=1e-3, warmup_steps=0, ema_decay=0.5, eval_batch=8)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> bd.study.Lab:
    folder = tmp_path_factory.mktemp("fits")

    def fitted(name: str, *args: object, **options: object) -> object:
        return fit(*args, folder=folder / name, seed=0, **options)  # type: ignore[arg-type]

    made = bd.study.open_source(3, 2, 0.5, 6, length=16, seed=0, setting=SETTING, fit=fitted, device="cpu")
    bd.study.ladder(made, [4], base_steps=2, tune_steps=2, search_every=2, search_batches=1)
    return made


def test_ladder_trains_every_model_with_like_and_like(lab: bd.study.Lab) -> None:
    names = {"base", "L'=4, linear", "L'=4, searched", "MDLM, linear", "MDLM, searched", "AR", "SEDD"}
    assert names <= set(lab.models)
    assert all(model.sigma_map is not None for name, model in lab.models.items() if name in names)
    assert lab.models["L'=4, searched"].interval.tolist() != [1e-3, 1.0]
    logged = bd.study.logged([lab], n_points=1)
    assert set(logged["model"]) == names


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("block_sizes", [1], "between 1"), ("block_sizes", [16], "length = 16"), ("block_sizes", [5], "not divide"),
        ("dim", 18, "multiple of 2"), ("source", [3, 2, 0.5], "symbols"), ("corpus", "text8", "text8"),
        ("text_schedules", ["searched"], "linear"), ("precision", "fp16", "fp32"), ("attention", "flash", "flash"),
        ("attention", "flex", "GPU"), ("rates", [], "learning rates"), ("top_p", 0.0, "in"),
        ("ngram", 9, "2 to 5"), ("released", ["bd3lm-owt-32"], "bd3lm-owt-4"), ("judge", "gpt3", "gpt2-large"),
        ("warmup_steps", 6, "at most 5"), ("ngram", 3, "word pieces"), ("released", ["ptb"], "bd3lm-owt-4"),
        ("judge", "bd3lm-owt-4", "gpt2-large"), ("judge", "ptb", "gpt2-large"), ("text_steps", [9], "two numbers"),
        ("n_samples", [300], "two numbers"), ("n_lengths", [500], "two numbers"), ("n_lengths", [500, 10241], "16"),
        ("n_documents", 0, "1 or more"), ("cost_shape", [16, 16, 1, 2], "turns"),
        ("cost_shape", [18, 16, 1, 2, 2], "8"), ("cost_shape", [16, 18, 1, 2, 2], "multiple of .4"),
    ],
)  # fmt: skip
def test_parameters_are_checked_before_anything_is_fetched(name: str, value: object, says: str) -> None:
    good: dict[str, object] = {
        "length": 16, "block_sizes": [4], "dim": 16, "n_heads": 2, "source": [3, 2, 0.5, 6], "corpus": "lm1b",
        "text_schedules": ["linear"], "precision": "fp32", "attention": "sdpa", "rates": [1e-3],
        "top_p": 0.9, "ngram": 0, "released": ["bd3lm-owt-4"], "judge": "gpt2-large", "warmup_steps": 5,
        "source_steps": [9, 9], "text_steps": [9, 9], "single_steps": 5, "n_samples": [4, 4], "n_lengths": [4, 160],
        "n_documents": 2, "cost_shape": [16, 16, 1, 2, 2],
    }  # fmt: skip
    known = ["bd3lm-owt-4", "gpt2-large", "ptb"]
    bd.study.check(good, torch.device("cpu"), known)
    bd.study.check({**good, "attention": "flex"}, torch.device("cuda"), known)
    with pytest.raises(ReprobookError, match=says):
        bd.study.check({**good, name: value}, torch.device("cpu"), known)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_parameters_of_every_scale_pass(scale: str) -> None:
    known = ["gpt2-large", *{name for pair in bd.released.WRITTEN_ORDER for name in pair}]
    bd.study.check(resolve("block_diffusion", scale), torch.device("cuda"), known)


def test_scores_of_the_exact_denoiser_are_the_true_likelihood(lab: bd.study.Lab) -> None:
    """Masks are common to model and denoiser, so a model that *is* the denoiser has no error left, with one draw; and
    what is subtracted is the true likelihood itself, up to the noise of the masks."""
    assert lab.source is not None
    x = lab.rows("test", 200)
    exact: dict[str, Any] = {"L'=8, exact": lab.source.denoiser(8), "SEDD": lab.source.denoiser(16).scores}
    true = lab.source.nll(x).float()
    found = bd.study.scores(replace(lab, models=exact), x, n_draws=1)
    for name, model in exact.items():
        torch.testing.assert_close(found[name], true, atol=1e-5, rtol=1e-5)
        drawn = bd.study.bound(lab, name, model, x, n_draws=4)
        assert (drawn - true).mean().abs() < 4 * (drawn - true).std() / math.sqrt(200)


def test_readers_that_count(lab: bd.study.Lab) -> None:
    """Of a source with a memory of two, counts of three tokens are right; fewer lose what the entropies say."""
    assert lab.source is not None
    x = torch.from_numpy(lab.corpus.train[:2000])
    found = {name: v.mean().item() for name, v in bd.study.counted(lab, x).items()}
    entropies = lab.source.entropies()
    assert found[bd.study.BLIND] == pytest.approx(entropies[0], abs=0.02)
    assert found["counts of 2 tokens"] == pytest.approx(entropies[1], abs=0.02)
    assert found["counts of 3 tokens"] == pytest.approx(entropies[2] + (entropies[1] - entropies[2]) / 15, abs=0.02)


def test_scores_of_untrained_models_are_near_uniform(lab: bd.study.Lab) -> None:
    found = bd.study.scores(lab, lab.rows("test", 8), n_draws=8)
    assert set(found) == set(lab.models) - {"base"}
    for name in ("AR", "L'=4, linear", "MDLM, linear", "SEDD"):
        assert found[name].mean().item() == pytest.approx(math.log(4), abs=0.5)
    table = bd.study.likelihood(lab, found, lab.rows("test", 8)).set_index("model")
    true = lab.source.nll(lab.rows("test", 8)).mean().item()  # type: ignore[union-attr]
    assert table.loc["AR", "above the source"] == pytest.approx(found["AR"].mean().item() - true, abs=1e-6)


def test_pairs_compare_like_schedules() -> None:
    pairs = bd.study.neighbours([16, 4], ("linear", "searched"))
    assert ("L'=4, linear", "AR") in bd.study.neighbours([4], ("linear",))
    assert ("L'=16, linear", "L'=4, linear") in pairs and ("MDLM, searched", "L'=16, searched") in pairs
    assert ("SEDD", "L'=16, linear") in pairs and ("L'=4, searched", "AR") in pairs
    assert all(a.split(", ")[1] == b.split(", ")[1] for a, b in pairs if "," in a and "," in b)
    assert bd.study.written_order([4])[-1] == ("SEDD", "L'=4, searched")


def test_one_token_models_choose_their_rate_and_touch_no_other_model(lab: bd.study.Lab) -> None:
    grid, ladder = [1e-3, 2e-3, 3e-3], dict(lab.models)
    lab = bd.study.single(lab, 1, grid)
    table, found = bd.study.single_scores(lab, lab.rows("valid", 8), lab.rows("test", 8))
    told = table.set_index("model")
    for name in bd.study.SINGLE:
        rates = grid if name in ("L'=1, linear", "AR", "L'=1, all masked") else [2e-3]
        edge = "" if len(rates) < 3 else "no" if told.loc[name, "chosen rate"] == 2e-3 else "yes"
        assert told.loc[name, "on the edge"] == edge
        best = min(rates, key=lambda lr, n=name: told.loc[n, f"valid at {lr:g}"])
        assert told.loc[name, "chosen rate"] == best
        model = lab.models[f"{name}, {best:g}"]
        x = lab.rows("test", 8)
        again = bd.objectives.ar_nll(model, x) if model.causal else bd.objectives.exact_nelbo(model, x, 1, lab.mask_id)
        torch.testing.assert_close(found[name], again)
    assert lab.models["AR"] not in ladder.values()
    assert (lab.models["AR without adaLN"].sigma_map is None) and lab.models["AR"].sigma_map is not None
    assert set(ladder) >= {"AR", "SEDD"} and len(lab.models) == 5 + 3 * 3 + 2
    assert bd.study.single_losses(lab, 6)["L'=1, linear"].shape == (6,)


def test_variance_table_and_pairs(lab: bd.study.Lab) -> None:
    table, pairs = bd.study.variances(lab, [4], skip=1, n=3)
    assert len(table) == 2 * (6 + 4) and pairs["L'=4"][0].shape == (3,)
    closed = table.set_index(["model", "mask rates"])["closed form, c = 1"]
    middles = bd.study.trained_middles(lab, 4, 3)
    assert middles.shape == (3,) and ((middles >= 0.25) & (middles <= 0.75)).all()
    assert closed["L'=4", "U[.5,1]"] == pytest.approx(bd.noise.constant_loss_variance(0.5, 1.0, 4))


def test_middle_of_the_interval_by_entropy() -> None:
    found = bd.study.best_intervals(0, [4], 16, 64, (2.5, 0.2))
    assert len(found) == 4 and set(found["L'"]) == {4, 16}
    low = found[found["source"] == 0].set_index("L'")["middle"]
    assert found["entropy"].iloc[0] < bd.study.LANGUAGE < found["entropy"].iloc[-1]
    assert bd.study.heavier(found).tolist() == pytest.approx([low[4] - low[16]])


def test_passes_agree_and_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bd.study.pass_gap(16, 4, seed=0) < 1e-8
    right = bd.model.two_pass_logits
    monkeypatch.setattr(bd.study, "two_pass_logits", lambda m, x_t, x, b: right(m, x_t, x.flip(1), b))
    assert bd.study.pass_gap(16, 4, seed=0) > 1e-3


def test_writer_of_pairs_knows_neighbours_and_nothing_else() -> None:
    """Its pairs are the source's, so a reader of pairs finds the same entropy; and it is far from the source."""
    source = bd.source.MarkovSource(5, 0.5, 3, 3, 1 / 20)
    pairs = source.of_pairs()
    assert pairs.entropies() == pytest.approx(source.entropies()[:2], abs=1e-6)
    assert source.order == 3 and source.entropies()[3] < source.entropies()[1] - 0.1
    text = pairs.sample(64, 200, torch.Generator().manual_seed(0), after_end=True)
    assert (text[:, 0] == 5).all() and source.nll(text).mean() > source.entropies()[3] + 0.2


def test_samples_documents_and_strip(lab: bd.study.Lab) -> None:
    table, judged, varied = bd.study.sampled(lab, ["AR", "L'=4, linear", "SEDD"], 8)
    assert set(table["calls"].dropna()) == {15.0} and judged["AR"].shape == (8,) and varied["SEDD"].shape == (8,)
    counts = {"AR": 4, "L'=4, linear": 4, "MDLM, linear": 2, "MDLM, linear at once": 3, "SEDD at once": 2}
    frame, parts, texts = bd.study.along(lab, counts, 48)
    assert len(frame) == 7 * 3 and {name: len(texts[name]) for name in counts} == counts
    assert (texts["MDLM, linear at once"] != lab.mask_id).all() and texts["SEDD at once"].shape == (2, 48)
    page, nll = bd.study.pages(lab, "SEDD", 2)
    assert page.shape == (2, 16) and nll.shape == (2,)
    each = lab.source.token_nll(torch.as_tensor(texts["AR"]))  # type: ignore[union-attr]
    assert parts["AR"][:, 0] == pytest.approx(each[:, :15].mean(1).numpy())
    assert parts["AR"][:, 2] == pytest.approx(each[:, 31:47].mean(1).numpy())
    told, ends = bd.study.documents(lab, texts, every=4)
    assert (told["max"] <= 48).all() and (ends["the source itself"] > 1).all()
    for row, end in zip(texts["AR"], ends["AR"], strict=True):
        found = np.flatnonzero(row == lab.corpus.eos_id)
        if len(found) > 1 and end != 48:
            assert end <= found[1] + 1
    written = bd.study.strip(lab, ["AR", "L'=4, linear", "MDLM, linear"], 16, n_shown=5)
    last = written.groupby("model", sort=False).last()
    assert not last["text"].str.contains("·").any() and last["calls"].tolist() == [15, 15, 15]


def test_pair_entropy_of_independent_tokens_is_that_of_one() -> None:
    tokens = torch.randint(4, (800, 50), generator=torch.Generator().manual_seed(0))
    assert bd.study.pair_entropies(tokens, 4).mean() == pytest.approx(math.log(4), abs=0.01)
    assert bd.study.pair_entropies(torch.arange(50).repeat(8, 1) % 4, 4).max() == pytest.approx(0.0, abs=1e-9)


def test_stacked_tables_have_none_where_nothing_is() -> None:
    frame = bd.study.stacked([{"a": 1.0}, {"b": 2.0}])
    assert frame.to_dict("records") == [{"a": 1.0, "b": None}, {"a": None, "b": 2.0}]


# ------------------------------------------------------------------------------------------------ the judge


def kneser_ney(rows: list[list[int]], v: int, order: int, word: int, context: tuple[int, ...]) -> float:
    """Interpolated Kneser-Ney by dictionaries and recursion."""
    grams = [tuple(r[i : i + order]) for r in rows for i in range(len(r) - order + 1)]

    def counts(n: int) -> dict[tuple[int, ...], int]:
        if n == order:
            return {g: grams.count(g) for g in set(grams)}
        longer = counts(n + 1)
        return {g[1:]: sum(h[1:] == g[1:] for h in longer) for g in longer}

    def p(n: int, context: tuple[int, ...]) -> float:
        if n == 0:
            return 1 / v
        c = counts(n)
        once, twice = (sum(x == k for x in c.values()) for k in (1, 2))
        d = once / (once + 2 * twice) if once and twice else 0.5
        here = {g[-1]: x for g, x in c.items() if g[:-1] == context}
        shorter = p(n - 1, context[1:])
        if not here:
            return shorter
        return (max(here.get(word, 0) - d, 0) + d * len(here) * shorter) / sum(here.values())

    return p(order, context)


def test_kneser_ney_equals_the_recursion_and_sums_to_one() -> None:
    rows = np.random.default_rng(0).integers(0, 3, (5, 9))
    judge = bd.ngram.KneserNey(rows, 3, 3)
    p = np.exp(judge.log_p).reshape(3, 3, 3)
    assert p.sum(-1) == pytest.approx(np.ones((3, 3)), abs=1e-5)
    for a, b, c in [(0, 1, 2), (2, 2, 0), (1, 0, 0)]:
        assert p[a, b, c] == pytest.approx(kneser_ney(rows.tolist(), 3, 3, c, (a, b)), rel=1e-4)
    told = judge.token_nll(rows[:1]).mean()
    assert told == pytest.approx(-np.mean([np.log(p[tuple(rows[0, i : i + 3])]) for i in range(7)]), rel=1e-4)


def test_kneser_ney_refuses_what_fits_no_memory() -> None:
    with pytest.raises(ReprobookError, match="order 9 of 27"):
        bd.ngram.KneserNey(np.zeros((1, 9), dtype=int), 27, 9)


# ------------------------------------------------------------------------------------------------ paper scale


def test_every_call_of_the_paper_scale_fits_the_stated_card() -> None:
    path = Path(__file__).parents[3] / "notebooks/params/block_diffusion.paper.yaml"
    params = yaml.safe_load(path.read_text())
    assert params["batch_size"] * params["accumulation"] == 512
    assert params["batch_size"] == bd.study.MICRO_BATCH and params["n_lengths"][1] == bd.study.LONGEST
    of_owt = params["eval_batch"] * params["length"] // 1024
    assert of_owt == bd.study.RELEASED_ROWS and params["block_sizes"] == list(bd.study.PAPER_SIZES)
    assert (bd.study.needs_table()["GB"] < bd.released.GPU_GB).all()
    whole = bd.released.peaks(512, 512, params["n_lengths"][1], n_models=1)
    assert whole["bound of a block model, OWT"] > 400  # with the batch of training it fits nothing


def test_peak_counts_the_logits_that_are_there() -> None:
    a, b = (bd.released.peaks(1, n, 16, n_models=3)["sample MDLM, one page"] for n in (1, 2))
    logits = 4 * 1024 * 50_258 * 2 / 1e9
    assert b - a == pytest.approx(logits + 2 * 4 * 12 * 1024**2 / 1e9)


def test_models_that_stay_count_in_every_call() -> None:
    none, some = (bd.released.peaks(1, 1, 16, n_models=n) for n in (0, 10))
    with torch.device("meta"):
        size = sum(p.numel() * 4 for p in bd.model.DiT(30_522).parameters()) / 1e9
    assert all(some[call] - none[call] == pytest.approx(10 * size) for call in none)


def test_hours_follow_from_the_operations() -> None:
    told = bd.study.hours_table().set_index("models")["A100 hours"].astype(float)
    layers = 12 * (24 * 768**2 + 4 * 768 * 128) + 2 * 768 * 30_522  # of a token, one block
    assert told["base"] == pytest.approx(850_000 * 512 * 128 * 3 * layers / (0.4 * 312e12) / 3600, rel=1e-6)
    assert told["all"] == pytest.approx(told.drop("all").sum())


def test_disk_is_that_of_the_manifest() -> None:
    assert 20 < bd.released.disk_gb() < 60  # OpenWebText is packed to 24 GB


def test_table_of_operations() -> None:
    table = bd.study.operation_table([4, 16]).set_index(["L'", "attention"])
    assert (table["one pass"] < 2).all() and (table["one pass"] > 1).all()
    dense, skipping = table.xs("dense", level="attention"), table.xs("skipping", level="attention")
    assert (dense["one pass"] >= skipping["one pass"]).all()
    assert dense["one pass"].to_numpy() == pytest.approx(dense["one pass"].iloc[0])
