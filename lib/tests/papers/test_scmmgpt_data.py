"""scMMGPT: files, counts, vocabulary, values, tokens, generated cells, against independent arithmetic."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
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
from reprobook.papers.scmmgpt.released import CellFile
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


def whole_file(path: Path, n: int = 4, g: int = 3, counts: sp.csr_matrix | None = None) -> sp.csr_matrix:
    """A file as :func:`h5ad.write` writes it, with labels x, y in turn; returns its counts."""
    counts = random_counts(n, g) if counts is None else counts
    obs = pd.DataFrame({"cell_type": ["x", "y"] * (n // 2)}, index=[f"c{k}" for k in range(n)])
    h5ad.write(path, counts, obs, pd.DataFrame(index=[f"G{k}" for k in range(g)]))
    return counts


def by_reference(file: h5py.File) -> None:
    """anndata 0.7: codes in the column, and a reference to its categories as an attribute."""
    del file["obs/cell_type"]
    words = file["obs"].create_dataset("__categories/cell_type", data=["B", "T"], dtype=h5py.string_dtype())
    file["obs/cell_type"] = np.array([0, 1, -1, 0], dtype=np.int8)
    file["obs/cell_type"].attrs["categories"] = words.ref


def as_a_group(file: h5py.File) -> None:
    """anndata 0.8 and later."""
    del file["obs/cell_type"]
    file["obs/cell_type/codes"] = np.array([0, 1, -1, 0], dtype=np.int8)
    file["obs"]["cell_type"].create_dataset("categories", data=["B", "T"], dtype=h5py.string_dtype())


def compound(file: h5py.File, place: str, words: object = ("B", "T")) -> None:
    """anndata 0.6 and before: ``obs`` as one array of records, the categories elsewhere (one of them as a scalar)."""
    del file["obs"]
    rows = np.array([(b"c0", 0), (b"c1", 1), (b"c2", -1), (b"c3", 0)], dtype=[("index", "S2"), ("cell_type", "i1")])
    file["obs"] = rows
    file.create_dataset(place, data=words, dtype=h5py.string_dtype())


@pytest.mark.parametrize(
    "stored",
    [
        by_reference, as_a_group, lambda f: compound(f, "uns/cell_type_categories"),
        lambda f: compound(f, "cell_type_categories"),
    ],
    ids=["0.7", "0.8", "0.6", "before uns"],
)  # fmt: skip
def test_a_missing_label_is_unknown_in_every_layout(tmp_path: Path, stored) -> None:
    whole_file(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        stored(file)
    assert read_h5ad(tmp_path / "a.h5ad").labels.tolist() == ["B", "T", "unknown", "B"]
    assert CellFile(tmp_path / "a.h5ad", Vocabulary.of(["G0"])).types == ["B", "T", "unknown"]


def test_a_lone_category_and_codes_without_one(tmp_path: Path) -> None:
    whole_file(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        compound(file, "uns/cell_type_categories", "B")
        file["obs"][...] = np.array([(b"c0", 0), (b"c1", -1), (b"c2", 0), (b"c3", 0)], dtype=file["obs"].dtype)
    assert read_h5ad(tmp_path / "a.h5ad").labels.tolist() == ["B", "unknown", "B", "B"]
    for wrong in (1, -2):
        with h5py.File(tmp_path / "a.h5ad", "r+") as file:
            file["obs"][...] = np.array([(b"c", wrong)] * 4, dtype=file["obs"].dtype)
        with pytest.raises(ReprobookError, match=f"'cell_type' has codes from {wrong} to {wrong} for 1 categories"):
            read_h5ad(tmp_path / "a.h5ad")


def test_old_gene_names_of_raw_have_their_own_categories(tmp_path: Path) -> None:
    counts = whole_file(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file.move("X", "raw.X")
        file["raw.var"] = np.array([(b"e0", 1), (b"e1", 2), (b"e2", 0)], dtype=[("index", "S2"), ("symbol", "i1")])
        file.create_dataset("raw.cat/symbol_categories", data=["A", "B", "C"], dtype=h5py.string_dtype())
        file.create_dataset("uns/symbol_categories", data=["wrong"] * 3, dtype=h5py.string_dtype())
    cells = read_h5ad(tmp_path / "a.h5ad", gene="symbol")
    assert cells.genes.tolist() == ["B", "C", "A"] and (cells.counts != counts).nnz == 0
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["raw.var"][...] = np.array([(b"e0", 1), (b"e1", -1), (b"e2", 0)], dtype=file["raw.var"].dtype)
    with pytest.raises(ReprobookError, match="1 genes have no name .1 is the first column"):
        read_h5ad(tmp_path / "a.h5ad", gene="symbol")


def change(file: h5py.File, name: str, values: object) -> None:
    del file[name]
    file[name] = values


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change(f, "X/indices", [0, 1, 2, 0, 3]), "in column 3, of 3 columns"),
        (lambda f: change(f, "X/indices", [0, 1, 2, 0, -1]), "in column -1, of 3 columns"),
        (lambda f: change(f, "X/indices", [0, 1, 2, 0]), "5 values and 4 column numbers"),
        (lambda f: change(f, "X/data", np.ones(6)), "run from 0 to 5, and there are 6 values"),
        (lambda f: change(f, "X/indptr", [0, 3, 1, 4, 5]), "pointers do not fit"),
        (lambda f: change(f, "X/indptr", [1, 1, 3, 4, 5]), "run from 1 to 5"),
        (lambda f: change(f, "X/indptr", [0, 1, 5]), "4 rows but pointers to 2"),
        (lambda f: f["X"].attrs.modify("shape", (2, 3)), "2 rows but pointers to 4"),
        (lambda f: f["X"].attrs.modify("shape", (4, 5)), "X has 5 columns but var 3 entries"),
        (lambda f: f["X"].attrs.__delitem__("shape"), "shape, data, indices or indptr is missing"),
        (lambda f: f["X"].__delitem__("indices"), "shape, data, indices or indptr is missing"),
        (lambda f: change(f, "X", np.ones((4, 2))), "X has 2 columns but var 3 entries"),
        (lambda f: change(f, "X", np.ones((5, 3))), "X has 5 rows but obs 4 entries"),
        (lambda f: change(f, "X", np.ones(4)), r"X has the shape \(4,\)"),
        (lambda f: change(f, "obs/cell_type", ["x", "y", "x"]), "obs has 4 names but 3 values of 'cell_type'"),
    ],
)  # fmt: skip
def test_parts_that_disagree_are_refused_with_both_numbers(tmp_path: Path, damage, message: str) -> None:
    whole_file(tmp_path / "a.h5ad", counts=sp.csr_matrix([[1, 0, 0], [0, 2, 1], [3, 0, 0], [0, 4, 0.0]]))
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        damage(file)
    with pytest.raises(ReprobookError, match=message):
        read_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ReprobookError, match=message):
        CellFile(tmp_path / "a.h5ad", Vocabulary.of(["G0"])).rows(0, 4)


def test_a_shorter_obs_is_refused_also_when_only_its_first_cells_are_read(tmp_path: Path) -> None:
    whole_file(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        for column in ("_index", "cell_type"):
            values = file["obs"][column][:3]
            change(file, f"obs/{column}", values)
        file.copy("X", "raw/X")
        file.copy("var", "raw/var")
    for raw, where in ((False, "X"), (True, "raw/X")):
        with pytest.raises(ReprobookError, match=f"{where} has 4 rows but obs 3 entries"):
            read_h5ad(tmp_path / "a.h5ad", raw=raw, limit=2)
    with pytest.raises(ReprobookError, match="3 columns but there are ids of 2 genes"):
        next(tokens.stream(tmp_path / "a.h5ad", Vocabulary.of(["G0", "G1"]), np.arange(2)))
    for part in ({"labels": ["x"] * 3}, {"totals": np.full(3, 99.0)}, {"names": ["a", "b", "c"]}):
        with pytest.raises(ReprobookError, match=f"4 rows of counts but 3 {next(iter(part))}"):
            make_cells(random_counts(4, 3), ["a", "b", "c"], **part)


@pytest.mark.parametrize("kind", ["null", "group", "absent"])
def test_a_file_without_x_says_so_and_which_layers_it_has(tmp_path: Path, kind: str) -> None:
    counts = whole_file(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file.move("X", "layers/counts")
        if kind == "null":
            file["X"] = h5py.Empty("f4")
        elif kind == "group":
            file.create_group("X").attrs["encoding-type"] = "null"
    with pytest.raises(ReprobookError, match="X.*its layers: layer='counts'"):
        read_h5ad(tmp_path / "a.h5ad")
    assert (read_h5ad(tmp_path / "a.h5ad", layer="counts").counts != counts).nnz == 0


def test_counts_are_read_from_where_they_are_and_an_error_says_what_there_is(tmp_path: Path) -> None:
    counts = whole_file(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:  # counts in X, logged values in raw, another matrix in a layer
        file["raw/X"] = np.log1p(counts.toarray())
        file.copy("var", "raw/var")
        file["layers/spliced"] = counts.toarray() + 1
        file["layers/odd"] = np.ones((4, 2))
    for read in (read_h5ad, lambda path: CellFile(path, Vocabulary.of(["G0"])).rows(0, 4)):
        with pytest.raises(ReprobookError, match=r"raw/X: .* not whole.*X \(raw=False\).*layer='spliced'"):
            read(tmp_path / "a.h5ad")
    assert (read_h5ad(tmp_path / "a.h5ad", raw=False).counts != counts).nnz == 0
    assert (read_h5ad(tmp_path / "a.h5ad", layer="spliced").counts.toarray() == counts.toarray() + 1).all()
    for wrong, message in (
        ({"layer": "odd"}, "layers/odd has 2 columns but var 3"), ({"layer": "none"}, "no layers/none.*layer='odd'"),
        ({"layer": "odd", "raw": True}, "give one of them"),
    ):  # fmt: skip
        with pytest.raises(ReprobookError, match=message):
            read_h5ad(tmp_path / "a.h5ad", **wrong)

    class Raw:
        X, var_names = np.log1p(counts.toarray()), ["a", "b", "c"]

    class Data:
        X, raw, layers, var_names, obs_names = counts, Raw, {"more": counts + counts}, ["a", "b", "c"], list("1234")
        obs = pd.DataFrame({"cell_type": list("xyxy")})

    with pytest.raises(ReprobookError, match="not whole"):
        from_anndata(Data)
    assert (from_anndata(Data, raw=False).counts != counts).nnz == 0
    assert (from_anndata(Data, layer="more").counts != 2 * counts).nnz == 0
    with pytest.raises(ReprobookError, match="layer='less': give one of X .raw=False., raw .raw=True. or .* more"):
        from_anndata(Data, layer="less")


# What a second process does to a file before it says so and waits.
HOLD = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+', libver='latest'); f.flush(); print(flush=True); input()"


def test_a_file_that_another_process_writes_is_not_called_truncated(tmp_path: Path) -> None:
    whole_file(tmp_path / "a.h5ad")
    h5py.File(tmp_path / "new.h5ad", "w", libver="latest").close()  # a layout that marks who writes it
    for name in ("a.h5ad", "new.h5ad"):
        child = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / name], stdin=-1, stdout=-1)
        try:
            assert child.stdout.readline() and child.poll() is None
            with pytest.raises(ReprobookError, match=f"^{name} is open for writing in another process: [^;]*$"):
                read_h5ad(tmp_path / name)
        finally:
            child.kill()
            child.communicate()
    with pytest.raises(ReprobookError, match="new.h5ad is marked as being written.*h5clear"):
        read_h5ad(tmp_path / "new.h5ad")  # its writer was killed


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_without_permission_is_not_called_truncated(what: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole_file(folder / "a.h5ad")
        folder.chmod(0o755)
        (folder / "a.h5ad" if what == "file" else folder).chmod(0)
        root = os.geteuid() == 0
        if root:  # root reads everything: be somebody else for a moment
            os.seteuid(65534)
        try:
            with pytest.raises(ReprobookError, match="^a.h5ad may not be read: this user has no permission"):
                read_h5ad(folder / "a.h5ad")
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_other_refusals_of_the_system_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "none" / "a.h5ad", "a.h5ad does not exist")):
        with pytest.raises(ReprobookError, match=message):
            read_h5ad(path)
    (tmp_path / "empty.h5ad").touch()
    with pytest.raises(ReprobookError, match="empty.h5ad cannot be read as HDF5"):
        read_h5ad(tmp_path / "empty.h5ad")
    for code, text, message in (
        (errno.ENOLCK, "(unable to lock file, errno = 37)", "cannot be locked.*HDF5_USE_FILE_LOCKING=FALSE"),
        (errno.EIO, "(file read failed)", "the system refused"),
    ):

        def refused(*_: object, code: int = code, text: str = text) -> None:
            raise OSError(code, f"Unable to synchronously open file {text}")

        monkeypatch.setattr(h5py, "File", refused)  # as h5py raises it on such a file system
        with pytest.raises(ReprobookError, match=message):
            read_h5ad(tmp_path / "empty.h5ad")


def test_every_reader_takes_text_for_a_path(tmp_path: Path) -> None:
    counts = whole_file(tmp_path / "a.h5ad")
    path = str(tmp_path / "a.h5ad")
    assert (read_h5ad(path).counts != counts).nnz == 0
    assert CellFile(path, Vocabulary.of(["G0"])).shape == (4, 3)
    assert len(list(tokens.stream(path, Vocabulary.of(GENES[:3]), np.arange(3)))) == 1
    write_h5ad(make_cells(counts, GENES[:3]), str(tmp_path / "b.h5ad"))
    with pytest.raises(ReprobookError, match="obs has no column 'n'"):
        read_h5ad(str(tmp_path / "b.h5ad"), totals="n")
    (tmp_path / "v.json").write_text('{"A": 0}')
    assert Vocabulary.read(str(tmp_path / "v.json")).lookup(["A"]).tolist() == [0]
    (tmp_path / "e.csv").write_text("ENSG1,A\n")
    assert read_ensembl(str(tmp_path / "e.csv")) == {"ENSG1": "A"}
    (tmp_path / "t.csv").write_text(",A,B\nc1,0,2\n")
    assert read_table(str(tmp_path / "t.csv")).genes.tolist() == ["A", "B"]


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
    five = tokens.collate(
        sp.csr_matrix([[9.0, 8, 7, 6, 5]]), np.arange(5), Vocabulary.of(list("abcde")), inputs="ranks"
    )
    np.testing.assert_allclose(five.values[0, 1:], [1, 0.8, 0.6, 0.4, 0.2], rtol=1e-6)
    said = re.search(
        r"valrank`` is ([\d.]+) - ([\d.]+) log10\(1 \+ rank\)", " ".join((tokens.collate.__doc__ or "").split())
    )
    assert said is not None  # what we say of the released line is what it gives; ours is another
    line = float(said[1]) - float(said[2]) * np.log10(1 + np.arange(1, 6))
    np.testing.assert_allclose(line, [2.0345, 1.9155, 1.8310, 1.7656, 1.7121], atol=1e-4)
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
