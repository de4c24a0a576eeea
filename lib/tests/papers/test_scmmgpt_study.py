"""scMMGPT: studies, tables, training that is interrupted, the paper's own parts, the paper's figures."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from reprobook import facts
from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt import (
    bench,
    language,
    miniatures,
    needs,
    pictures,
    printed,
    procedural,
    released,
    study,
    tables,
)
from reprobook.papers.scmmgpt.cells import make_cells, read_h5ad
from reprobook.papers.scmmgpt.encoder import load_scgpt
from reprobook.papers.scmmgpt.stage1 import Objective, Texts
from reprobook.papers.scmmgpt.study import Size
from reprobook.papers.scmmgpt.vocabulary import Vocabulary
from reprobook.train import fit

if TYPE_CHECKING:
    from torch import Tensor

TINY = Size(dim=8, encoder_layers=1, qformer_layers=1, n_heads=2, n_queries=2, max_length=12, batch_size=4)


@pytest.fixture(scope="module")
def made() -> study.Study:
    return study.generated(procedural.make_world(n_lineages=1, n_held_out=1, programme=8), 14, seed=0)


@pytest.fixture(scope="module")
def bank(made: study.Study) -> Texts:
    n = len(made.types)
    generator = torch.Generator().manual_seed(0)
    return Texts(
        torch.ones(n, 3, dtype=torch.long),
        torch.zeros(n, 3, dtype=torch.bool),
        torch.randn(n, 3, 6, generator=generator),
    )


def test_a_study_keeps_held_out_types_out_of_everything_but_the_test(made: study.Study) -> None:
    held = set(range(6)) - set(made.seen)
    assert len(held) == 1 and set(made.y[made.unseen]) == held
    for part in (made.train, made.valid, made.test):
        assert set(made.y[part]) == set(made.seen)
    assert sorted(np.concatenate([made.train, made.valid, made.test, made.unseen]).tolist()) == list(range(84))
    foreign = make_cells(made.cells.counts, made.cells.genes, ["nobody"] * 84)
    with pytest.raises(ReprobookError, match="no text for the cell types nobody"):
        study.make_study("x", foreign, made.vocabulary, made.types, (), 0)


def test_tokens_spread_out_are_the_values_they_came_from(made: study.Study) -> None:
    whole = made.tokens(10_000)
    np.testing.assert_array_equal(tables.spread_out(whole, made.ids), made.values().toarray())
    few = tables.spread_out(made.tokens(6), made.ids)
    assert ((few > 0).sum(1) == 5).all()
    np.testing.assert_allclose(np.sort(few, 1)[:, -5:], np.sort(made.values().toarray(), 1)[:, -5:])


def test_genes_of_a_rule_are_hidden_and_totals_stay(made: study.Study) -> None:
    hidden = study.only_genes(made, made.cells.genes[:3])
    assert hidden.cells.counts[:, :3].nnz == 0 and (hidden.cells.totals == made.cells.totals).all()
    assert (hidden.cells.counts[:, 3:] != made.cells.counts[:, 3:]).nnz == 0


class Stopped(Exception):
    pass


def test_an_interrupted_stage_1_ends_with_the_same_weights(made: study.Study, bank: Texts, tmp_path: Path) -> None:
    read = made.tokens(TINY.max_length)

    def run(folder: str, stop_at: int | None) -> dict[str, Tensor]:
        model = study.make_stage1(made, TINY, Objective(), 6, seed=0)
        calls = 0

        def fitted(name: str, net: torch.nn.Module, batches, loss, **options):
            def counted(net: torch.nn.Module, batch):
                nonlocal calls
                calls += 1
                if calls == stop_at:
                    raise Stopped
                return loss(net, batch)

            return fit(net, batches, counted, folder=tmp_path / folder, checkpoint_every=2, device="cpu", **options)

        study.train_stage1(fitted, "x", model, made, read, bank, TINY, 6, seed=0)
        return model.state_dict()

    with pytest.raises(Stopped):
        run("cut", 5)
    whole, resumed = run("whole", None), run("cut", None)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_evaluation_keeps_to_the_types_it_may_say(made: study.Study, bank: Texts) -> None:
    model = study.make_stage1(made, TINY, Objective(), 6, seed=0).eval()
    found = tables.evaluate(model, made, made.tokens(TINY.max_length), bank)
    assert set(found.test) <= set(made.seen) and set(found.unseen) == set(made.y[made.unseen])
    row = found.row(made)
    assert row["unseen, balanced"] == 1.0  # one held-out type: there is nothing else to say
    assert row["accuracy"] == np.mean(found.test == made.y[made.test])
    names = {r["method"]: r["balanced"] for r in tables.baseline_rows(made)}
    assert names["majority"] == pytest.approx(1 / 5) and names["ridge"] > 0.5


def test_generation_references_are_what_they_are_called(made: study.Study) -> None:
    near, labels = made.dense(made.train), made.y[made.train]
    cells = tables.reference_cells(made, made.test, near, labels, seed=0)
    rows = {r["cells from"]: r for r in tables.generation_rows(made, "seen", made.test, cells, near, labels)}
    assert rows["class mean (oracle)"]["variance ratio"] == pytest.approx(0, abs=1e-9)
    assert (
        rows["real cells (ceiling)"]["variance ratio"] == pytest.approx(1) and rows["real cells (ceiling)"]["MMD"] == 0
    )
    assert rows["noise"]["5-NN"] < 0.6 < rows["class mean (oracle)"]["5-NN"]
    np.testing.assert_allclose(tables.to_input_scale(np.log1p([[2.0]]), 100.0), np.log1p([[200.0]]))
    drawn = tables.counted(np.tile(np.log1p([[30.0, 0.0]]), (4000, 1)), [1000.0] * 4000, seed=0)
    assert np.expm1(drawn)[:, 0].mean() == pytest.approx(30, rel=0.05) and (drawn[:, 1] == 0).all()


def test_description_scores_know_a_perfect_and_a_copied_text(made: study.Study) -> None:
    def encode(texts: list[str]) -> Tensor:
        return torch.nn.functional.normalize(torch.tensor([[len(t) % 7 + 1.0, t.count("e")] for t in texts]), dim=1)

    gold = [made.types[k].text() for k in made.y[made.test]]
    scores, discrepancy = tables.description_row(gold, made, made.test, encode)
    assert scores["exact"] == scores["type"] == 1 and scores["BLEU-2"] == pytest.approx(100)
    assert np.allclose(discrepancy, 0, atol=1e-6) and scores["MMD"] == pytest.approx(0, abs=1e-6)
    copied = {r["text from"]: r for r in tables.copied_rows(made, encode)}
    assert copied["most frequent text"]["type"] == pytest.approx(1 / 5)
    assert 0 < copied["nearest cells' text"]["type"] <= 1


def test_both_small_language_models_learn_on_cells(made: study.Study, tmp_path: Path) -> None:
    def fitted(name: str, *args, **options):
        return fit(*args, folder=tmp_path / name, seed=0, device="cpu", log_every=1, **options)

    tuning = language.Tuning(dim=16, n_layers=1, num_steps=4, batch_size=4, lr=1e-2)
    z = torch.randn(len(made.cells), 2, 8, generator=torch.Generator().manual_seed(0))
    talker = language.second_stage(fitted, "a b", made, z, tuning, 8, seed=0)
    assert len(talker.describe(made.test[:3], beams=2, max_new=4)) == 3
    write = language.sentence_writer(fitted, made, tuning, 6, seed=0)
    cells = write(rows=made.test)
    assert cells.shape == (len(made.test), 400) and ((cells > 0).sum(1) <= 6).all()


def test_long_tables_hold_every_entry() -> None:
    frame = tables.long("v", np.array([[1, 2], [3, 4]]), ["i", "j"])
    assert frame.values.tolist() == [[0, 0, 1], [0, 1, 2], [1, 0, 3], [1, 1, 4]]
    values = np.array([[0.0, 2.0], [1.0, 4.0], [3.0, 0.0]])
    found = pictures.marker_table(values, ["x", "x", "y"], ["A", "B"], ["B"], ["x", "y"])
    assert found.to_dict("records") == [
        {"type": "x", "gene": "B", "share": 1.0, "mean": 3.0}, {"type": "y", "gene": "B", "share": 0.0, "mean": 0.0},
    ]  # fmt: skip
    with pytest.raises(ReprobookError, match="must be one of pca, umap"):
        pictures.two_dimensions(values, [], "tsne")


# --------------------------------------------------------------------------------------------------- paper scale


def test_a_cell_file_is_read_in_blocks_that_cover_it_once(tmp_path: Path) -> None:
    path = miniatures.place("miniature", "cells", tmp_path)
    vocabulary = Vocabulary(load_scgpt(miniatures.place("miniature", "scgpt", tmp_path))[1])
    cells = released.CellFile(path, vocabulary, n_valid=8)
    assert len(cells.known) == 60 and len(cells.types) == 3 and cells.n_train == 40
    block = cells.block(10, seed=0)
    starts = [block(i) for i in range(4)]
    assert sorted(starts) == [(0, 10), (10, 20), (20, 30), (30, 40)] and [block(i) for i in range(4)] == starts
    counts, totals, y = cells.rows(10, 20)
    assert counts.shape == (10, 60) and (totals >= np.asarray(counts.sum(1)).ravel()).all()
    assert [cells.types[k] for k in y] == cells.labels[10:20].tolist()
    with pytest.raises(ReprobookError, match="fewer than a batch of 50"):
        cells.block(50, seed=0)
    with pytest.raises(ReprobookError, match="no column 'kind'"):
        released.CellFile(path, vocabulary, label="kind")
    assert miniatures.place("/somewhere", "cells", tmp_path) == Path("/somewhere")


def test_texts_come_from_a_file_then_from_us_then_from_the_name(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"mast cell": "It holds histamine."}))
    found = released.texts_of(["mast cell", "B cell", "odd cell"], str(tmp_path / "t.json"))
    assert found[0] == "cell type: mast cell. It holds histamine."
    assert found[1].startswith("cell type: B cell. A lymphocyte") and found[2] == "cell type: odd cell."


def test_a_census_slice_is_fetched_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    obs = pd.DataFrame({"soma_joinid": np.arange(6), "cell_type": list("abcdef")})

    @contextmanager
    def open_soma(census_version: str) -> Any:
        table = SimpleNamespace(to_pandas=lambda: obs)
        reader = SimpleNamespace(read=lambda **_: SimpleNamespace(concat=lambda: table))
        yield {"census_data": {"homo_sapiens": SimpleNamespace(obs=reader)}}

    def get_anndata(census: Any, organism: str, obs_coords: np.ndarray, column_names: Any) -> SimpleNamespace:
        fetched.append(obs_coords.tolist())
        x = sp.csr_matrix(np.outer(obs_coords + 1, [1, 2]).astype(np.float32))
        var = pd.DataFrame({"feature_name": ["CD3E", "LYZ"]})
        return SimpleNamespace(n_obs=len(obs_coords), obs=obs.iloc[obs_coords], X=x, var=var)

    census = SimpleNamespace(open_soma=open_soma, get_anndata=get_anndata)
    monkeypatch.setitem(sys.modules, "cellxgene_census", census)
    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path / "cache"))
    one, two = (
        released.census_slice(tmp_path / run / "census.h5ad", "blood", 4, "2025-01-30") for run in ("run1", "run2")
    )
    assert len(fetched) == 1 and len(fetched[0]) == 4 and one.resolve() == two.resolve()
    cells = read_h5ad(one, label="cell_type")
    numbers = ["abcdef".index(label) for label in cells.labels]
    assert sorted(numbers) == fetched[0]
    assert cells.counts.toarray().tolist() == [[k + 1, 2 * k + 2] for k in numbers]  # a cell keeps its type


def test_a_census_slice_without_its_package_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReprobookError, match="pip install cellxgene-census.*or give cells_file"):
        released.census_slice(tmp_path / "x.h5ad", "blood", 10, "2025-01-30")
    (tmp_path / "x.h5ad").write_bytes(b"kept")
    assert released.census_slice(tmp_path / "x.h5ad", "blood", 10, "2025-01-30").read_bytes() == b"kept"


def test_the_papers_bars_carry_two_of_its_headlines() -> None:
    found = printed.recomputed(facts.load("scmmgpt"))["value"]
    assert found[0] == pytest.approx(4.1) and found[1] == pytest.approx(8.13, abs=0.01)
    assert found[4] == pytest.approx(1.406, abs=0.001)
    gains = printed.gains(facts.load("scmmgpt")).set_index("set")
    assert gains.loc["Myeloid", "whose"] == "LangCell" and gains.loc["PBMC-10K", "points"] == pytest.approx(3.3)


def test_needs_are_counted_on_the_papers_architectures() -> None:
    table = needs.table().set_index("part")["parameters (M)"]
    assert table["Llama-2-7B, frozen"] == pytest.approx(6738.4, abs=0.1)
    assert table["TinyLlama-1.1B, frozen"] == pytest.approx(1100.0, abs=0.1)
    assert table["expression decoder, 70,000 genes"] > 35.84  # its embedding alone


def test_the_benchmark_makes_the_same_tokens_both_ways() -> None:
    found = bench.readers(60, n_genes=80, expressed=20, max_length=16, chunk=25, n=1)
    assert found.same and found.what == "tokens of 60 cells on disk" and found.ratio().value > 0
