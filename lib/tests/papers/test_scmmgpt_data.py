"""scMMGPT: files, counts, vocabulary, values, tokens, generated cells, against independent arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt import bench, h5ad, procedural, texts, tokens, values
from reprobook.papers.scmmgpt.cells import (
    from_anndata,
    make_cells,
    read_h5ad,
    read_table,
    recover_counts,
    split,
    write_h5ad,
)
from reprobook.papers.scmmgpt.vocabulary import Vocabulary, known_genes, read_ensembl


def random_counts(n: int, g: int, seed: int = 0, mean: float = 1.0) -> sp.csr_matrix:
    counts = np.random.default_rng(seed).poisson(mean, (n, g)).astype(np.float32)
    counts[:, 0] += 1  # no empty cell
    return sp.csr_matrix(counts)


GENES = [f"G{k}" for k in range(30)]


# --------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x - x.mean(0), "z-scores"),
        (lambda x: -x, "below zero"),
        (np.log1p, "not whole numbers"),
        (lambda x: np.where(x == 0, np.nan, x), "not finite"),
        (lambda x: x * (np.arange(len(x)) != 2)[:, None], "1 cells have no count .'cell 2'"),
    ],
)
def test_what_cannot_be_counts_is_refused_by_name(change, message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        make_cells(change(random_counts(5, 30).toarray()), GENES)


def test_double_names_and_wrong_totals_are_refused() -> None:
    counts = random_counts(3, 30)
    with pytest.raises(ReprobookError, match="1 genes are named twice .G1"):
        make_cells(counts, ["G1", *GENES[1:]])
    with pytest.raises(ReprobookError, match="totals are smaller"):
        make_cells(counts, GENES, totals=np.ones(3))
    with pytest.raises(ReprobookError, match="30 columns of counts but 2 names"):
        make_cells(counts, GENES[:2])


def test_counts_come_back_from_logged_values_and_only_from_these() -> None:
    counts = random_counts(20, 30)
    totals = 7.0 + np.asarray(counts.sum(1)).ravel()
    logged = values.normalise(counts, totals)
    assert (recover_counts(logged, totals) != counts).nnz == 0
    with pytest.raises(ReprobookError, match="comes out as"):
        recover_counts(logged, totals * 1.37)


def test_a_split_is_a_partition_with_every_class_in_every_part() -> None:
    labels = np.array(["a"] * 40 + ["b"] * 3 + ["c"] * 7)
    parts = split(labels, (0.7, 0.15, 0.15), seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(50))
    assert all(set(labels[p]) == {"a", "b", "c"} for p in parts)
    with pytest.raises(ReprobookError, match="'b' has 3 cells"):
        split(labels, (0.4, 0.2, 0.2, 0.2), seed=0)


def test_cells_in_other_columns_keep_their_counts() -> None:
    cells = make_cells(random_counts(4, 3), ["a", "b", "c"])
    moved = cells.with_genes(["c", "new", "a"])
    expected = cells.counts.toarray()
    np.testing.assert_array_equal(
        moved.counts.toarray(), np.stack([expected[:, 2], 0 * expected[:, 0], expected[:, 0]], 1)
    )
    np.testing.assert_array_equal(moved.totals, cells.totals)


# --------------------------------------------------------------------------------------------------- files


def test_an_h5ad_file_comes_back(tmp_path: Path) -> None:
    cells = make_cells(random_counts(7, 30), GENES, ["x", "y"] * 3 + ["z"], totals=np.full(7, 99.0))
    write_h5ad(cells, tmp_path / "cells.h5ad")
    again = read_h5ad(tmp_path / "cells.h5ad", totals="total_counts")
    assert (again.counts != cells.counts).nnz == 0
    assert again.genes.tolist() == GENES and again.labels.tolist() == cells.labels.tolist()
    assert again.names.tolist() == cells.names.tolist() and again.totals.tolist() == cells.totals.tolist()
    assert len(read_h5ad(tmp_path / "cells.h5ad", limit=3)) == 3
    with pytest.raises(ReprobookError, match="no column 'kind'.*cell_type, total_counts"):
        read_h5ad(tmp_path / "cells.h5ad", label="kind")


def test_a_truncated_file_and_a_missing_one_say_so(tmp_path: Path) -> None:
    write_h5ad(make_cells(random_counts(50, 30), GENES), tmp_path / "whole.h5ad")
    content = (tmp_path / "whole.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(content[: len(content) // 2])
    with pytest.raises(ReprobookError, match="cut.h5ad cannot be read as HDF5.*truncated"):
        read_h5ad(tmp_path / "cut.h5ad")
    with pytest.raises(ReprobookError, match="absent.h5ad does not exist"):
        read_h5ad(tmp_path / "absent.h5ad")


def test_files_as_anndata_writes_them_are_read(tmp_path: Path) -> None:
    """By hand from the format's specification: categories as codes, raw counts beside z-scores, gene symbols in var."""
    counts = random_counts(4, 3)
    with h5py.File(tmp_path / "spec.h5ad", "w") as file:
        obs, kind = file.create_group("obs"), h5py.string_dtype()
        obs.attrs["_index"] = "_index"
        obs.attrs.create("column-order", np.array(["cell_type", "n"], dtype=object), dtype=kind)
        obs.create_dataset("_index", data=["c0", "c1", "c2", "c3"], dtype=kind)
        obs.create_dataset("n", data=np.arange(4.0))
        labels = obs.create_group("cell_type")
        labels.create_dataset("codes", data=np.array([1, 0, 1, -1], dtype=np.int8))
        labels.create_dataset("categories", data=["B", "T"], dtype=kind)
        file.create_dataset("X", data=counts.toarray() - 1)
        raw = file.create_group("raw/X")
        raw.attrs["encoding-type"], raw.attrs["shape"] = "csr_matrix", (4, 3)
        for name in ("data", "indices", "indptr"):
            raw.create_dataset(name, data=getattr(counts, name))
        var = file.create_group("raw/var")
        var.attrs["_index"] = "_index"
        var.attrs.create("column-order", np.array(["feature_name"], dtype=object), dtype=kind)
        var.create_dataset("_index", data=["e0", "e1", "e2"], dtype=kind)
        var.create_dataset("feature_name", data=["A", "B", "C"], dtype=kind)
    cells = read_h5ad(tmp_path / "spec.h5ad", gene="feature_name")
    assert cells.labels.tolist() == ["T", "B", "T", "unknown"] and cells.genes.tolist() == ["A", "B", "C"]
    assert (cells.counts != counts).nnz == 0
    with h5py.File(tmp_path / "spec.h5ad", "r+") as file:
        file.move("raw/var", "var")
        file["X"][...] = counts.toarray() - 1.5
    with pytest.raises(ReprobookError, match="z-scores"):
        read_h5ad(tmp_path / "spec.h5ad", gene="feature_name", raw=False)


def test_nullable_text_is_read_and_what_is_not_known_is_refused(tmp_path: Path) -> None:
    """pandas 3 keeps all text in nullable arrays, which anndata writes as groups of values and mask."""
    cells = make_cells(random_counts(4, 30), GENES, ["x", "y", "x", "z"])
    write_h5ad(cells, tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        for name in ("_index", "cell_type"):
            values = file["obs"][name][:]
            del file["obs"][name]
            group = file["obs"].create_group(name)
            group.create_dataset("values", data=values, dtype=h5py.string_dtype())
            group.create_dataset("mask", data=np.array([False, False, name == "cell_type", False]))
    read = read_h5ad(tmp_path / "cells.h5ad")
    assert read.labels.tolist() == ["x", "y", "unknown", "z"] and read.names[1] == cells.names[1]
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        del file["obs/cell_type/mask"]
    with pytest.raises(ReprobookError, match="column 'cell_type' is stored in a way that is not read here"):
        read_h5ad(tmp_path / "cells.h5ad")


def test_rows_are_read_in_parts_and_columns_refused(tmp_path: Path) -> None:
    counts = random_counts(11, 30)
    h5ad.write(tmp_path / "a.h5ad", counts, pd.DataFrame(index=range(11)), pd.DataFrame(index=GENES))
    with h5ad.opened(tmp_path / "a.h5ad") as file:
        found = h5ad.matrix(file, False)
        parts = [found.rows(k, min(k + 4, 11)) for k in range(0, 11, 4)]
        assert (sp.vstack(parts) != counts).nnz == 0
        with pytest.raises(ReprobookError, match="no raw/X"):
            h5ad.matrix(file, True)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X"].attrs["encoding-type"] = "csc_matrix"
    with h5ad.opened(tmp_path / "a.h5ad") as file, pytest.raises(ReprobookError, match="stored as csc_matrix"):
        h5ad.matrix(file, False)


def test_anndata_reads_what_we_write(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata", reason="the last anndata for Python 3.11 (0.12.19) asks for pandas < 3")
    cells = make_cells(random_counts(7, 30), GENES, ["x", "y"] * 3 + ["z"])
    write_h5ad(cells, tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert (cells.counts != read.X).nnz == 0 and list(read.obs["cell_type"]) == cells.labels.tolist()
    assert (from_anndata(read).counts != cells.counts).nnz == 0


def test_an_object_like_anndata_is_taken_from_its_raw_side() -> None:
    class Side:
        X, var_names, var = random_counts(3, 2), ["a", "b"], pd.DataFrame({"symbol": ["A", "B"]})

    class Data(Side):
        X, raw, obs, obs_names = np.full((3, 2), -0.5), Side, pd.DataFrame({"type": list("xyz")}), ["1", "2", "3"]

    cells = from_anndata(Data, label="type", gene="symbol")
    assert cells.genes.tolist() == ["A", "B"] and (cells.counts != Side.X).nnz == 0


def test_a_table_of_cells_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",A,B,C\nc1,0,2,0\nc2,1,0,3\n")
    cells = read_table(tmp_path / "t.csv")
    assert cells.genes.tolist() == ["A", "B", "C"] and cells.names.tolist() == ["c1", "c2"]
    np.testing.assert_array_equal(cells.counts.toarray(), [[0, 2, 0], [1, 0, 3]])


# --------------------------------------------------------------------------------------------------- vocabulary


def test_the_vocabulary_is_contiguous_with_three_special_tokens_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(json.dumps({"B": 1, "A": 0, "C": 2}))
    read = Vocabulary.read(tmp_path / "v.json")
    assert sorted(read.ids.values()) == list(range(6)) and (read.pad, read.cls_id, read.ids["<eoc>"]) == (3, 4, 5)
    assert read.lookup(["C", "nope", "<pad>", "A"]).tolist() == [2, -1, -1, 0]
    (tmp_path / "v.json").write_text(json.dumps({"B": 1, "A": 1}))
    with pytest.raises(ReprobookError, match="must be 0 to 1, each once"):
        Vocabulary.read(tmp_path / "v.json")


def test_unknown_genes_are_dropped_and_reported_and_totals_stay() -> None:
    cells = make_cells(np.array([[1, 2, 3], [4, 0, 0]]), ["A", "odd", "B"])
    known = known_genes(cells, Vocabulary.of(["B", "A"]))
    assert known.ids.tolist() == [1, 0] and known.unknown == ("odd",) and known.share == pytest.approx(2 / 3)
    assert known.share_of_counts == pytest.approx(8 / 10) and known.cells.totals.tolist() == [6, 4]
    with pytest.raises(ReprobookError, match="none of the 3 genes"):
        known_genes(cells, Vocabulary.of(["Z"]))


def test_ensembl_identifiers_are_mapped_or_refused(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("ENSG00000000001,A\nENSG00000000002,B\nENSG00000000003,ENSG00000000003\n")
    cells = make_cells(np.array([[1, 2, 3]]), ["ENSG00000000001.7", "ENSG00000000002", "ENSG00000000003"])
    with pytest.raises(ReprobookError, match="100% of the genes are Ensembl identifiers"):
        known_genes(cells, Vocabulary.of(["A", "B"]))
    known = known_genes(cells, Vocabulary.of(["A", "B"]), read_ensembl(tmp_path / "e.csv"))
    assert known.cells.genes.tolist() == ["A", "B"] and known.unknown == ("ENSG00000000003",)


# --------------------------------------------------------------------------------------------------- values


@given(st.integers(0, 10_000), st.floats(1.0, 1e5), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_a_normalised_cell_sums_to_the_scale_whatever_its_depth(seed: int, scale: float, times: int) -> None:
    counts = random_counts(4, 12, seed)
    totals = np.asarray(counts.sum(1)).ravel()
    found = values.normalise(counts, totals, scale)
    np.testing.assert_allclose(np.expm1(found.toarray().astype(float)).sum(1), scale, rtol=1e-4)
    deeper = values.normalise(counts * times, totals * times, scale)
    np.testing.assert_allclose(deeper.toarray(), found.toarray(), rtol=1e-6)


def test_the_slips_do_what_the_docstring_says() -> None:
    counts = random_counts(6, 40, mean=2.0)
    totals = np.asarray(counts.sum(1)).ravel()
    alone = values.transform(counts[:1], totals[:1], "batch sum", 100.0)
    among = values.transform(counts, totals, "batch sum", 100.0)
    assert np.expm1(alone.toarray()).sum() == pytest.approx(100, rel=1e-4)
    assert np.expm1(among[:1].toarray()).sum() == pytest.approx(100 * totals[0] / totals.sum(), rel=1e-4)
    unscaled = values.transform(counts, totals, "no scale").data
    fraction = counts.data / np.repeat(totals, np.diff(counts.indptr))
    np.testing.assert_allclose(unscaled, fraction, rtol=0.05)  # log(1+u) = u (1 - u/2 ...), and u is below 0.1
    assert (values.transform(counts, totals, "raw") != counts).nnz == 0
    with pytest.raises(ReprobookError, match="'zscore' is not known"):
        values.transform(counts, totals, "zscore")


def scgpt_bins(row: np.ndarray, n_bins: int, u: np.ndarray) -> np.ndarray:
    """One cell by numpy's own quantile and digitize, as in scGPT."""
    edges = np.quantile(row, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(row, edges), np.digitize(row, edges, right=True)
    return np.ceil(u * (right - left) + left)


@given(st.integers(0, 10_000), st.sampled_from([3, 6, 51]))
@settings(max_examples=30, deadline=None)
def test_binning_is_scgpts_cell_by_cell(seed: int, n_bins: int) -> None:
    counts = random_counts(5, 60, seed, mean=3.0)
    found = values.bin_values(counts, n_bins, seed)
    u = np.random.default_rng(seed).random(counts.nnz)
    for k, (a, b) in enumerate(zip(counts.indptr[:-1], counts.indptr[1:], strict=True)):
        np.testing.assert_array_equal(
            found.data[a:b], scgpt_bins(counts.data[a:b].astype(float), n_bins, u[a:b]), err_msg=str(k)
        )
    assert found.data.min() >= 1 and found.data.max() <= n_bins - 1
    assert (found.indices == counts.indices).all()


def test_bins_are_monotone_and_invariant_under_a_rising_transform() -> None:
    row = sp.csr_matrix(np.random.default_rng(1).permutation(np.arange(1.0, 51.0))[None])  # 50 = 1 mod 49
    found = values.bin_values(row, 51)
    assert (np.diff(found.data[np.argsort(row.data)]) >= 0).all()
    raised = sp.csr_matrix(np.log1p(row.toarray()) ** 3)
    np.testing.assert_array_equal(values.bin_values(raised, 51).data, found.data)
    with pytest.raises(ReprobookError, match="positive values only"):
        values.bin_values(-row)


# --------------------------------------------------------------------------------------------------- tokens


def test_tokens_are_those_of_the_loop() -> None:
    counts = random_counts(30, 50, mean=0.8)
    vocabulary, ids = Vocabulary.of([f"G{k}" for k in range(80)]), np.random.default_rng(0).permutation(80)[:50]
    for length in (2, 9, 2048):
        fast, slow = (
            tokens.collate(counts, ids, vocabulary, length),
            bench.collate_in_a_loop(counts, ids, vocabulary, length),
        )
        for a, b in zip(fast, slow, strict=True):
            assert (a == b).all()
        assert (fast.genes[:, 0] == vocabulary.cls_id).all() and (fast.values[:, 0] == -2).all()
        assert ((fast.genes == vocabulary.pad) == fast.padding).all() and (fast.values[fast.padding] == 0).all()


@given(st.integers(0, 10_000), st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_the_largest_are_kept_and_the_order_of_columns_does_not_matter(seed: int, length: int) -> None:
    counts, ids = random_counts(6, 20, seed), np.arange(20)
    vocabulary = Vocabulary.of([f"G{k}" for k in range(20)])
    found = tokens.collate(counts, ids, vocabulary, length)
    order = np.random.default_rng(seed).permutation(20)
    again = tokens.collate(sp.csr_matrix(counts.toarray()[:, order]), ids[order], vocabulary, length)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))
    for k, row in enumerate(counts.toarray()):
        kept = found.values[k, 1:][~found.padding[k, 1:]].numpy()
        np.testing.assert_array_equal(kept, np.sort(row[row > 0])[::-1][: length - 1])


def test_ranks_and_names_hide_what_they_should() -> None:
    counts, vocabulary = sp.csr_matrix([[5.0, 0, 9, 1], [0, 2, 0, 0]]), Vocabulary.of(list("abcd"))
    names = tokens.collate(counts, np.arange(4), vocabulary, inputs="names")
    assert names.values.tolist() == [[-2, 1, 1, 1], [-2, 1, 0, 0]] and names.genes[0].tolist() == [5, 2, 0, 3]
    ranks = tokens.collate(counts, np.arange(4), vocabulary, inputs="ranks")
    np.testing.assert_allclose(ranks.values, [[-2, 1, 2 / 3, 1 / 3], [-2, 1, 0, 0]], rtol=1e-6)
    random = tokens.collate(counts, np.arange(4), vocabulary, 3, choose="random", seed=3)
    assert set(random.genes[0, 1:].tolist()) < {0, 2, 3}
    with pytest.raises(ReprobookError, match="id of a known gene"):
        tokens.collate(counts, np.array([0, 1, -1, 2]), vocabulary)
    with pytest.raises(ReprobookError, match="cell 1 of the batch has no known gene"):
        tokens.collate(sp.csr_matrix([[1.0, 0], [0, 0]]), np.arange(2), vocabulary)


def test_a_part_of_the_tokens_is_cut_to_its_longest() -> None:
    found = tokens.collate(sp.csr_matrix([[5.0, 2, 9], [0, 2, 0]]), np.arange(3), Vocabulary.of(list("abc")))
    short = found.take(found.genes.new_tensor([1]))
    assert short.genes.tolist() == [[4, 1]] and short.padding.tolist() == [[False, False]]


def test_a_stream_gives_what_the_whole_file_would(tmp_path: Path) -> None:
    cells = make_cells(random_counts(25, 30), GENES)
    write_h5ad(cells, tmp_path / "cells.h5ad")
    vocabulary = Vocabulary.of(GENES[5:])
    ids = vocabulary.lookup(GENES)
    parts = list(tokens.stream(tmp_path / "cells.h5ad", vocabulary, ids, max_length=8, chunk=10))
    known = known_genes(cells, vocabulary)
    whole = tokens.collate(values.transform(known.cells.counts, known.cells.totals), known.ids, vocabulary, 8)
    assert [len(p.genes) for p in parts] == [10, 10, 5]
    at = 0
    for part in parts:
        n, width = part.genes.shape
        assert (part.genes == whole.genes[at : at + n, :width]).all() and (
            part.values == whole.values[at : at + n, :width]
        ).all()
        at += n


# --------------------------------------------------------------------------------------------- cells of known truth


def test_the_world_holds_out_combinations_and_no_attribute() -> None:
    world = procedural.make_world(seed=3)
    assert len(world.types) == 24 and len(world.held_out) == 6
    np.testing.assert_allclose(world.rates.sum(1), 1)
    words = [w for k in world.seen for w in world.types[k].name.split()]
    assert all(each in " ".join(words) for each in ("fibroblast", "monocyte", "resting", "exhausted", "blood", "lung"))
    with pytest.raises(ReprobookError, match="need 112 of 50 genes"):
        procedural.make_world(n_genes=50)
    with pytest.raises(ReprobookError, match="23 of 24 types cannot be held out"):
        procedural.make_world(n_held_out=23)


def test_counts_have_the_negative_binomials_mean_and_variance() -> None:
    world = procedural.make_world(n_lineages=1, n_held_out=0, seed=0)
    cells = procedural.sample(world, 4000, seed=0)
    first = cells.counts[:4000].toarray()
    m = procedural.DEPTH * np.exp(0.3**2 / 2) * world.rates[0]  # mean of a log-normal depth
    big = m > 5
    np.testing.assert_allclose(first.mean(0)[big], m[big], rtol=0.08)
    spread = np.exp(0.3**2) * (1 + 1 / procedural.DISPERSION) - 1  # of depth times gamma: (1+cv1^2)(1+cv2^2)-1
    np.testing.assert_allclose(first.var(0)[big].mean() / (m + spread * m**2)[big].mean(), 1, rtol=0.1)


def test_the_marker_rule_labels_only_what_is_clear() -> None:
    genes = [*texts.RULE_GENES, "OTHER"]

    def cell(*names: str) -> list[int]:
        return [int(g in names or g == "OTHER") for g in genes]

    counts = np.array([
        cell("LYZ", "CD14"), cell("CD3E", "LYZ"), cell("MS4A1", "CD79A", "LYZ"), cell("NKG7", "GNLY"), cell("LYZ"),
        cell("CD3D", "CD14"),
    ])  # fmt: skip
    found = texts.rule_labels(make_cells(counts, genes))
    assert found.tolist() == ["monocyte", "T", "B", "NK", "unlabelled", "unlabelled"]
    with pytest.raises(ReprobookError, match="needs CD14"):
        texts.rule_labels(make_cells(counts[:, 1:], genes[1:]))


def test_texts_are_one_each_with_their_ontology_identifier() -> None:
    assert len({t.text() for t in texts.PBMC}) == len({t.ontology for t in texts.PBMC}) == 10
    assert all(t.ontology.startswith("CL:") and t.name in t.prompt() for t in texts.PBMC)
