"""MoC's experiments on tiny models: effects, training of adapters, the released formats, pictures and the benchmark."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.nn.lm import load_lm
from reprobook.papers.moc import (
    bench,
    corpora,
    learning,
    metrics,
    miniatures,
    pictures,
    printed,
    recovery,
    released,
    study,
)
from reprobook.papers.moc.corpora import Segment
from reprobook.rehearsal.models import write_model
from reprobook.train import fit

if TYPE_CHECKING:
    from reprobook.papers.moc.corpora import Document

WORDS = "the of in a river house garden street city book letter stone glass".split()
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>{% endfor %}" + (
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
RECIPE = {
    "architecture": "LlamaForCausalLM",
    "config": {
        "vocab_size": 512, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 2048,
    },
    "tokenizer": {"kind": "bpe", "vocab_size": 512, "chat_template": TEMPLATE},
}  # fmt: skip


def prose(seed: int, n: int) -> str:
    rng = np.random.default_rng(seed)
    made = [f"Name{seed} " + " ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(n)]
    return ". ".join(made) + "."


def made(seed: int) -> Document:
    parts = [Segment(f"t{k}", prose(20 * seed + k, 3 + (seed + k) % 3), f"g{seed}") for k in range(4)]
    return corpora.document(f"d{seed}", parts)


def vectors(texts: Sequence[str]) -> torch.Tensor:
    """Stand-in for the sentence encoder: counts of words, at length 1."""
    counts = torch.tensor([[1e-3 + text.lower().split().count(w) for w in WORDS] for text in texts])
    return torch.nn.functional.normalize(counts, dim=-1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_model(RECIPE, folder)
    return folder


# ------------------------------------------------------------------------------------------------ effects


def test_a_jackknife_of_a_mean_is_the_mean_with_its_error() -> None:
    x = np.random.default_rng(0).normal(size=9)
    values = study.jackknife(lambda rows: float(x[rows].mean()), 9)
    np.testing.assert_allclose(values, x)
    squared = study.jackknife(lambda rows: float(x[rows].mean()) ** 2, 9)
    assert squared.mean() == pytest.approx(x.mean() ** 2)
    with pytest.raises(ReprobookError):
        study.jackknife(lambda rows: 0.0, 1)


def table(seed: int, chunkers: str, documents: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame([
        {"length": n, "chunker": c, "document": d, "x": rng.normal(), "y": rng.normal()}
        for n in (1, 2) for c in chunkers for d in range(documents)
    ])  # fmt: skip


@pytest.mark.parametrize("name", ["gain", "rank"])
def test_a_statistic_over_chunkers_by_hand(name: str) -> None:
    frame = table(1, "pqrst", 5)
    quality = pd.concat([frame.assign(y=frame["y"] + k) for k in range(3)]).drop(columns="x")  # three questions each

    def by_hand(x: pd.Series, y: pd.Series) -> float:
        if name == "rank":
            return printed.spearman(x.to_numpy(), y.to_numpy())
        return float(np.cov(x, y, ddof=0)[0, 1] / x.std(ddof=0))

    for told in (frame, frame[frame["document"] < 2]):  # measured on fewer documents than are searched
        statistic = study.gain if name == "gain" else printed.spearman
        values = study.over_chunkers(told, quality, "x", "y", ["t"], statistic)
        expected = []
        for length in (1, 2):
            x, y = (f[(f["length"] == length) & (f["chunker"] != "t")].groupby("chunker")[c].mean()
                    for f, c in ((told, "x"), (quality, "y")))  # fmt: skip
            expected.append(by_hand(x, y))
        assert values.mean() == pytest.approx(np.mean(expected)) and list(values.index) == list(range(5))
    exact = study.over_chunkers(frame, frame.assign(y=frame["x"] * 2 + 1), "x", "y", (), study.gain)
    sizes = [part.groupby("chunker")["x"].mean().std(ddof=0) for _, part in frame.groupby("length")]
    assert exact.mean() == pytest.approx(2 * np.mean(sizes))  # at most the deviation of the outcome
    rest = study.without_each(frame, frame, ["x"], "y", ["t"])
    assert list(rest["left out"]) == ["p", "q", "r", "s"]
    assert rest["x"][1] == pytest.approx(study.over_chunkers(frame, frame, "x", "y", ["t", "q"]).mean())
    flat = study.over_chunkers(frame.assign(x=1.0), frame, "x", "y")
    assert np.abs(flat).max() < 1e-6  # a measure that tells no chunkers apart gains nothing


def test_within_a_document_only_its_own_draws_are_compared() -> None:
    frame = table(2, "abcd", 6)
    frame = frame.assign(chunker="random " + frame["chunker"])
    others = table(3, "p", 6).assign(chunker="packing", x=99.0)
    found = study.within_documents(pd.concat([frame, others]), frame, "x", "y")
    part = frame[(frame["document"] == 4)].groupby("length")
    expected = [np.cov(each["x"], each["y"], ddof=0)[0, 1] / each["x"].std(ddof=0) for _, each in part]
    assert len(found) == 6 and found[4] == pytest.approx(np.mean(expected))
    easy = frame.assign(y=frame["y"] + 10 * frame["document"], x=frame["x"] - 5 * frame["document"])
    pd.testing.assert_series_equal(study.within_documents(easy, easy, "x", "y"), found)  # levels of documents are gone
    rng = np.random.default_rng(4)
    told = table(5, "abcdefgh", 3)
    told = told.assign(u=rng.normal(size=len(told)), chunker="random " + told["chunker"])
    told = told.assign(y=told["y"] + 7 * told["u"], x=told["x"] + 3 * told["u"])
    one = told[(told["document"] == 1) & (told["length"] == 1)]
    x, y = (one[c] - np.polyval(np.polyfit(one["u"], one[c], 1), one["u"]) for c in "xy")
    beyond = study.within_documents(told[told["length"] == 1], told, "x", "y", ["u"])
    assert beyond[1] == pytest.approx(np.corrcoef(x, y)[0, 1] * y.std(ddof=0))
    assert np.abs(study.within_documents(told, told, "u", "y", ["u"])).max() < 1e-6  # nothing is left of it
    by = study.quarters(frame, frame.assign(y=frame["x"]), "x", "y")
    assert by["quarter"].tolist() == [1, 2, 3, 4] and by["y over the mean"].is_monotonic_increasing
    assert by["y over the mean"].sum() == pytest.approx(0)
    means = study.averaged(pd.concat([frame, others]))
    own = means[(means["chunker"] == "random") & (means["document"] == 1) & (means["length"] == 2)]
    assert len(means) == 24 and own["y"].item() == pytest.approx(
        frame[(frame["document"] == 1) & (frame["length"] == 2)]["y"].mean()
    )


def test_concordance_counts_pairs_that_differ() -> None:
    frame = pd.DataFrame({
        "question": ["a"] * 3 + ["b"] * 3, "document": "d", "CP": [1, 2, 3, 1, 2, 3], "F1": [0.9, 0.5, 0.5, 1, 1, 1],
    })  # fmt: skip
    found = study.concordance(frame, "CP", "F1")
    assert found.to_dict() == {("a", "d"): 1.0, ("b", "d"): 0.0}  # a: two pairs differ; all answers to b are alike
    assert study.concordance(frame.assign(CP=-frame["CP"]), "CP", "F1").tolist() == [-1.0, 0.0]


def test_pairs_of_true_and_false_boundaries_are_alike_in_length() -> None:
    documents = [made(k) for k in range(6)]
    pairs = study.boundary_pairs(documents, 12, 10, seed=0)
    text = {d.id: d.text for d in documents}
    assert pairs["true"].mean() == 0.5
    for row in pairs.itertuples():
        cut = text[row.document].index(row.before) + len(row.before)
        assert text[row.document][cut:].startswith(row.after)
        inner = next(d for d in documents if d.id == row.document).cuts
        assert (cut in inner) == row.true
        assert not any(cut - len(row.before) < c < cut + len(row.after) for c in inner if c != cut)
    sizes = pairs.groupby("true")["size"].mean()
    assert abs(sizes[True] - sizes[False]) < 0.15 * sizes.mean()
    found = study.separation(pairs, {"none": metrics.Recurrence(["a"], 0.0)}, vectors)
    assert found["BC nll, none"].mean() == pytest.approx(0.5)  # a scorer that ignores context can't tell


def test_the_whole_comparison_on_word_counts() -> None:
    documents = [made(k) for k in range(4)]
    cloze = [corpora.cloze(each, 2, seed=0, least=4) for each in documents]
    asked = [question for each in cloze for question in each.questions]
    scorer = metrics.Recurrence([d.text for d in documents])
    written = {"asked": [d.cuts[:1] if k else () for k, d in enumerate(documents)]}
    cuts = study.chunkings(documents, 15, vectors, scorer=scorer, written=written, draws=3)
    n = [len(each) for each in cuts["packing"]]
    assert all([len(c) for c in each] == n for name, each in cuts.items() if name != "asked")
    assert len(cuts["asked"][0]) < len(cuts["asked"][1]) and study.apart(cuts) < 0.2  # equal over all, not in each
    told = study.lengths_table(documents, cuts).set_index("chunker")
    assert told.index.is_unique and told.loc["fixed", "unevenness"] < 0.2 < told.loc["random", "unevenness"]
    assert told.loc["true boundaries", "boundary F1"] > 0.6
    frame = study.clarity_frame(documents[:2], cuts, {"w": scorer})
    assert set(frame["document"]) == {"d0", "d1"}
    chunks = corpora.pieces(documents[1].text, cuts["packing"][1])
    row = frame[(frame["chunker"] == "packing") & (frame["document"] == "d1")].iloc[0]
    assert row["BC nll, w"] == pytest.approx(metrics.document_clarity(scorer, chunks, "nll"))
    plain = study.plain_frame(documents, cuts, vectors)
    own = plain[(plain["chunker"] == "packing") & (plain["document"] == "d1")].iloc[0]
    assert own["dissimilarity"] == pytest.approx(metrics.dissimilarity(vectors(chunks)).mean())
    assert own["evenness"] == -study.unevenness(documents[1], cuts["packing"][1])
    found = study.quality_frame(cloze, cuts, vectors, [10, 20])
    assert found[["MiniLM", "BM25"]].min().min() >= 0 and found["recall"].max() <= 1
    assert (found["perfect"] >= found[["MiniLM", "BM25"]].max(axis=1) - 1e-9).mean() > 0.9  # only the last chunk is cut
    np.testing.assert_allclose(found["recall"], (found["MiniLM"] + found["BM25"]) / 2)
    assert found["chunker"].str.startswith("random ").sum() == 3 * len(asked)
    sticky = study.stickiness_frame(documents[:1], cuts, scorer)
    assert set(sticky["convention"]) == set(study.CONVENTIONS)
    pair = study.paired(found, "recall", "packing", "fixed")
    assert list(pair.columns) == ["a", "b"] and len(pair) == 4
    for fig in (
        pictures.strips(documents[0], {k: v[0] for k, v in cuts.items()}, scorer),
        pictures.page(documents[0], {"true boundaries": documents[0].cuts, "packing": cuts["packing"][0]}),
        pictures.along(documents[0], scorer, 10),
        pictures.against(frame.assign(seed=0, length=15), found.assign(seed=0, length=15), ["BC nll, w"], "recall"),
        pictures.quarters(
            study.quarters(frame.assign(length=1), found.assign(length=1), "BC nll, w", "recall").assign(measure="BC")
        ),
    ):
        assert fig.axes


def test_noise_and_tokens() -> None:
    texts, tokenizer = [made(k) for k in range(3)], lambda text, **_: SimpleNamespace(input_ids=text.split())
    frame = study.noise_frame(texts, "[MASK]", [0.0, 0.3], seed=0)
    exact = frame.groupby(["recovery", "error rate"])["exact"].mean()
    assert exact["robust", 0.0] == exact["paper", 0.0] == 1 > exact["paper", 0.3]
    assert (frame[frame["recovery"] == "robust"]["covered"] == 1).all()  # its chunks are the text
    tokens = study.tokens_written(texts, [d.cuts for d in texts], tokenizer, ["[MASK]"])
    assert (tokens["anchors"] < tokens["whole text"]).all()
    assert pictures.recovery(frame).axes


# ------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize(("mean", "label"), [(120, 0), (120.5, 1), (150, 1), (180, 2), (180.1, 3)])
def test_granularity(mean: float, label: int) -> None:
    assert learning.granularity(mean) == label


def test_lessons_are_neighbours_and_practice_is_the_same_text() -> None:
    runs = [[Segment(f"t{k}", prose(4 * g + k, 3), f"g{g}") for k in range(4)] for g in range(3)]
    found = learning.lessons(runs, 200)
    assert found and all(len(d.text) <= 200 and d.cuts for d in found)
    for d in found:
        parts = [part.strip() for part in corpora.pieces(d.text, d.cuts)]
        run = next(run for run in runs if run[0].group == d.group)
        first = next(k for k, s in enumerate(run) if s.text.startswith(parts[0]))
        assert all(s.text == p for p, s in zip(parts[:-1], run[first:], strict=False))  # whole, but for the last
        assert run[first + len(parts) - 1].text.startswith(parts[-1])
    practice = learning.copying(found[0], 3)
    assert 1 < len({each.cuts for each in practice}) == len(practice) <= 3
    assert all(each.text == found[0].text for each in practice)
    assert {cut for each in practice for cut in each.cuts} <= set(found[0].sentences.tolist())
    quoted = [Segment("t", 'He said "no" twice to it.', "g"), Segment("t", prose(1, 2), "g")]
    assert learning.lessons([quoted], 300) == []
    train, test = study.split_lessons(found, 1, seed=0, without=["g0"])
    assert {d.group for d in train} & {d.group for d in test} == set()
    assert "g0" not in {d.group for d in (*train, *test)}
    with pytest.raises(ReprobookError, match="take more"):
        study.split_lessons(found, 99, seed=0)


def test_the_prompt_shows_where_ends_of_sentences_begin() -> None:
    told = learning.chunk_prompt("A b c d e f. One two three four five. A b c d e f g.", "[MASK]")[0]["content"]
    assert told.splitlines()[-3:] == ["A b c [MASK]d e f.", "One two three four five.", "A b c d [MASK]e f g."]
    text = made(3)
    shown = learning.chunk_prompt(text.text, "<...>")[0]["content"]
    elements = recovery.rendered(corpora.pieces(text.text, text.cuts), "<...>")
    assert all(recovery.split(each, "<...>").start in shown for each in elements)


def test_answers_side_by_side_are_as_likely_as_apart(tiny: Path) -> None:
    model, tokenizer = load_lm(tiny, dtype="fp32")
    stops = [tokenizer.eos_token_id]
    rows = []
    for text in (made(1), made(2)):
        prompt = [{"role": "user", "content": text.text[:80]}]
        rows.append(learning.training_examples(tokenizer, [prompt] * 3, ["one two", "one river stone", "one"], stops))
    batch = learning.side_by_side(rows, 0)
    with torch.no_grad():
        loss = learning.answers_loss(model, batch).item()
        said = []
        for row in rows:
            for k, each in enumerate(row):
                log_p = model(torch.tensor([each.ids])).logits[0].log_softmax(-1)
                n = each.labels.count(learning.IGNORED)
                said += [-log_p[at - 1, each.ids[at]].item() for at in range(n + (k > 0), len(each.ids))]
    assert loss == pytest.approx(np.mean(said), abs=1e-5)
    with pytest.raises(ReprobookError, match="same prompt"):
        learning.side_by_side([[rows[0][0], rows[1][0]]], 0)


def test_unequal_updates_are_refused() -> None:
    with pytest.raises(ReprobookError, match="equal updates"):
        learning.Tuning(single=10, router=2, expert=1)


def trainer(folder: Path) -> Callable[..., Any]:
    def run(name: str, net: Any, batches: Any, loss: Any, **options: Any) -> Any:
        return fit(net, batches, loss, folder=folder / name, device="cpu", checkpoint_s=None, **options)

    return run


def test_adapters_are_trained_one_at_a_time_from_the_shared_one(tiny: Path, tmp_path: Path) -> None:
    texts = [made(k) for k in range(6)]
    tuning = learning.Tuning(rank=2, lr=1e-2, batch_size=2, shared=2, single=5, router=1, expert=1)
    chunker = learning.MetaChunkers(
        *load_lm(tiny, dtype="fp32"), "[MASK]", tuning, fit=trainer(tmp_path), seed=0, bounds=(80, 90, 100),
        max_new_tokens=8,
    )  # fmt: skip

    with pytest.raises(ReprobookError, match="first_layer is 1; it must be one of 0 to 0"):
        learning.MetaChunkers(
            *load_lm(tiny, dtype="fp32"), "[MASK]", replace(tuning, first_layer=1), fit=trainer(tmp_path), seed=0
        )

    def state(role: str) -> torch.Tensor:
        name = f".{role.replace(' ', '_')}."
        return torch.cat([p.detach().flatten() for n, p in chunker.model.named_parameters() if name in n]).clone()

    base = {n: p.detach().clone() for n, p in chunker.model.named_parameters() if "lora" not in n}
    fresh = state("single")
    chunker.train("shared", texts, 2)
    assert torch.equal(state("single"), fresh)
    shared = state("shared")
    chunker.train("single", texts, 1, "shared")
    assert torch.equal(state("shared"), shared)
    moved = (state("single") - shared).abs().max()
    assert 0 < moved < (fresh - shared).abs().max() + 1  # it began at the shared weights
    assert all(torch.equal(p, base[n]) for n, p in chunker.model.named_parameters() if n in base)

    found = chunker.write([d.text for d in texts], "single")
    assert found.valid.tolist() == [0.0] * 6 and found.cuts == [()] * 6  # noise is no list
    classes = chunker.route([d.text for d in texts])
    assert set(classes.tolist()) <= {0, 1, 2, 3}
    table, written = study.learned_table(chunker, texts)
    assert len(written["mixture"].cuts) == 6 and table["chunker"].tolist()[:2] == ["single", "mixture"]
    for mixture in (False, True):
        for d, cuts in zip(texts, chunker.cut([d.text for d in texts], mixture, 120), strict=True):
            assert "".join(corpora.pieces(d.text, cuts)) == d.text


def test_a_good_reply_passes_the_gate_and_a_bad_one_does_not() -> None:
    text = made(1)
    good = learning.chunk_answer(text, "[MASK]")
    replies = [good, good.replace("Name", "Nome"), "I cannot do that."]
    found = learning.read_back([text.text] * 3, replies, "[MASK]", lambda t, **_: SimpleNamespace(input_ids=t.split()))
    gate = study.gate(found, [text] * 3)
    assert gate["valid"].tolist() == [1, 1, 0]
    assert gate["copied"][0] == 1 > gate["copied"][1] and gate["copied"][2] == 0
    assert gate["boundary F1"][0] == 1 and found.cuts[2] == ()


# ------------------------------------------------------------------------------------------------ released


def test_dureader_and_crud_are_read_and_missing_fields_are_named(tmp_path: Path) -> None:
    miniatures.dureader(tmp_path)
    documents, questions = released.open_qa("dureader", tmp_path / "data.zip", 3)
    assert released.open_qa("dureader", tmp_path, 3)[0] == documents  # the folder of a hub set
    assert len(documents) == 3 and documents[0].language == "zh" and "\n" in questions[0].answer
    rows = {"questions": "问？", "answers": "答。", "news1": "一篇。", "news2": "二篇。"}
    file = tmp_path / "split_merged.json"
    file.write_text(json.dumps({"questanswer_1doc": [rows], "questanswer_2docs": [rows]}), "utf-8")
    assert released.open_qa("crud single-hop", file, None)[0][0].text == "一篇。"
    assert released.open_qa("crud two-hop", file, None)[0][0].text == "一篇。\n二篇。"
    file.write_text(json.dumps({"questanswer_1doc": [{"questions": "?"}]}), "utf-8")
    with pytest.raises(ReprobookError, match="answers"):
        released.open_qa("crud single-hop", file, None)
    with pytest.raises(ReprobookError, match="qa names 'webcpm'"):
        released.check(["webcpm"], {}, [])
    with pytest.raises(ReprobookError, match="released names 'x'"):
        released.check([], {"released": ["x"]}, ["moc"])


def test_the_released_mixture_needs_a_router_and_four_experts(tiny: Path, tmp_path: Path) -> None:
    for name in ("moerouter", "trainmoe_0_120", "trainmoe_over180", "trainmoe_120_150", "trainmoe_150_180"):
        (tmp_path / name).symlink_to(tiny, target_is_directory=True)
    mixture = released.Mixture(tmp_path, "cpu", 2)
    assert mixture(["第一句。第二句。", "另一篇文章。"]) == [(), ()]
    (tmp_path / "moerouter").unlink()
    with pytest.raises(ReprobookError, match="one router"):
        released.Mixture(tmp_path, "cpu", 2)


def test_effects_of_a_question_set() -> None:
    rng = np.random.default_rng(0)
    names = ["fixed", "packing", "semantic", "single", "mixture", "LumberChunker"]
    rows = [
        {"chunker": c, "document": d, "question": f"{d}?", "BC nll, s": rng.random(), "CP, s": rng.random(),
         "F1": rng.random()}
        for c in names for d in "abc"
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    clear = frame.drop(columns=["F1", "CP, s"]).assign(dissimilarity=rng.random(len(frame)))
    sticky = clear.assign(cs=-clear["BC nll, s"], convention="CS sequential, unrelated")
    found = released.effects("dureader", clear, sticky, frame, "s")
    assert set(found) == {
        "dureader: rank of BC", "dureader: gain of BC", "dureader: rank of BC minus dissimilarity",
        "dureader: gain of BC minus dissimilarity",
        "dureader: rank of CS sequential, unrelated", "dureader: gain of CS sequential, unrelated",
        "dureader: answers, single minus packing", "dureader: answers, single minus semantic",
        "dureader: answers, single minus fixed", "dureader: CP, semantic minus single",
        "dureader: answers, single minus LumberChunker", "dureader: answers, mixture minus single",
        "dureader: BC, semantic over fixed, less half of packing's", "dureader: BC, packing minus semantic",
        "dureader: CP, fixed minus single", "dureader: CP, packing minus single",
        "dureader: CP and answers, concordance",
    }  # fmt: skip
    by = frame.groupby("chunker")[["BC nll, s", "F1"]].mean()
    assert found["dureader: rank of BC"].mean() == pytest.approx(printed.spearman(by["BC nll, s"], by["F1"]))
    assert found["dureader: rank of CS sequential, unrelated"].mean() == pytest.approx(
        -found["dureader: rank of BC"].mean()
    )
    gain = frame[frame["chunker"] == "single"]["F1"].mean() - frame[frame["chunker"] == "packing"]["F1"].mean()
    assert found["dureader: answers, single minus packing"].mean() == pytest.approx(gain)
    assert np.abs(found["dureader: CP and answers, concordance"]).max() <= 1
    fixed, packing, semantic = (by.loc[name, "BC nll, s"] for name in ("fixed", "packing", "semantic"))
    half = found["dureader: BC, semantic over fixed, less half of packing's"].mean()
    assert half == pytest.approx((semantic - fixed) - (packing - fixed) / 2)
    assert released.words("我们 是，学生。") == ["我们", "是", "学生"]


def test_the_benchmark_compares_equal_results(tiny: Path) -> None:
    found = bench.window_search(2, 80, n=1)
    assert found.same and list(found.seconds) == ["textbook", "library"]
    spent = bench.writing(*load_lm(tiny, dtype="fp32"), [made(2)], "[MASK]", n=1)
    assert spent.same and not math.isnan(spent.ratio().value)
    assert recovery.MARKERS[2] == "[MASK]"
