"""Reading and writing ``.h5ad``, the file format of AnnData, with h5py; rows of a sparse matrix without the rest.

`anndata` would be the library for it. On Python 3.11 no release of it goes with pandas 3: those from 0.12.7 on refuse
it, 0.12.6 installs and then cannot write text columns or read a sparse matrix in parts. The format is specified
("encoding-type" and "encoding-version" attributes), and h5py is pinned anyway. Objects of `anndata` are taken as they
are by :func:`reprobook.papers.scmmgpt.cells.from_anndata`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from reprobook.errors import ReprobookError


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The open file; a file that is not HDF5, or is cut short, is a :class:`ReprobookError` that says so."""
    if not path.is_file():
        raise ReprobookError(f"{path.name} does not exist: give the path of an .h5ad file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ReprobookError(
            f"{path.name} cannot be read as HDF5 ({error}): it is truncated or no .h5ad file; fetch it again"
        ) from error
    with file:
        yield file


class Matrix:
    """A matrix (n, g) in an open file: sparse by rows, or dense; :meth:`rows` reads a slice and no more."""

    def __init__(self, node: h5py.Group | h5py.Dataset, name: str) -> None:
        self.node, self.dense = node, isinstance(node, h5py.Dataset)
        if self.dense:
            self.shape: tuple[int, int] = node.shape
            return
        kind = _text(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
        if kind not in ("csr", "csr_matrix"):
            raise ReprobookError(
                f"{name} is stored as {kind or 'something unknown'}; it must be csr_matrix or dense: "
                "rows of another layout cannot be read one after the other (adata.X = adata.X.tocsr())"
            )
        shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
        self.shape = (int(shape[0]), int(shape[1]))
        self.indptr = node["indptr"][:]
        if len(self.indptr) != self.shape[0] + 1 or self.indptr[-1] != len(node["data"]):
            raise ReprobookError(f"{name}: its row pointers do not fit its data: the file is damaged")

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Rows [start, stop) as a CSR matrix."""
        if self.dense:
            return sp.csr_matrix(self.node[start:stop])
        pointers = self.indptr[start : stop + 1]
        part = slice(int(pointers[0]), int(pointers[-1]))
        content = (self.node["data"][part], self.node["indices"][part], pointers - pointers[0])
        return sp.csr_matrix(content, shape=(len(pointers) - 1, self.shape[1]))


def matrix(file: h5py.File, use_raw: bool) -> Matrix:
    """``X`` or, with ``use_raw``, ``raw/X`` (in old files ``raw.X``)."""
    names = ("raw/X", "raw.X") if use_raw else ("X",)
    found = next((name for name in names if name in file), None)
    if found is None:
        raise ReprobookError(f"the file has no {names[0]}; it has {', '.join(file)}")
    return Matrix(file[found], found)


def table(file: h5py.File, name: str) -> pd.DataFrame:
    """``obs`` or ``var`` (``raw``: ``raw/var``) as a frame, its index as text; categories are spelled out."""
    if name == "raw":
        name = "raw/var" if "raw/var" in file else "raw.var"
    if name not in file:
        raise ReprobookError(f"the file has no {name}; it has {', '.join(file)}")
    node = file[name]
    if isinstance(node, h5py.Dataset):  # files of 2019 and before: one compound array
        return _compound(file, node)
    key = _text(node.attrs["_index"])
    columns = [_text(c) for c in node.attrs.get("column-order", [])]
    index = pd.Index(_column(node, key), dtype=object)
    return pd.DataFrame({c: _column(node, c) for c in columns}, index=index)


def _compound(file: h5py.File, node: h5py.Dataset) -> pd.DataFrame:
    rows = node[:]
    first, *others = rows.dtype.names
    columns = {}
    for name in others:
        values = rows[name]
        words = file.get(f"uns/{name}_categories")
        columns[name] = _strings(words[:])[values] if words is not None else _strings(values)
    return pd.DataFrame(columns, index=pd.Index(_strings(rows[first]), dtype=object))


def _column(group: h5py.Group, name: str) -> np.ndarray:
    node = group[name]
    if isinstance(node, h5py.Group):
        if "codes" in node:
            codes, words = node["codes"][:], _column(node, "categories")
            return np.where(codes >= 0, words.astype(object)[codes], None)
        if "values" in node and "mask" in node:  # nullable arrays, which pandas 3 uses for all text
            return np.where(node["mask"][:], None, _strings(node["values"][:]).astype(object))
        raise ReprobookError(f"column {name!r} is stored in a way that is not read here: it has {', '.join(node)}")
    if "categories" in node.attrs:  # anndata 0.7
        return _strings(group.file[node.attrs["categories"]][:])[node[:]]
    return _strings(node[:])


def _strings(values: np.ndarray) -> np.ndarray:
    """Bytes as text; other types as they are."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8").astype(object)
    if values.dtype.kind == "O":
        return np.array([_text(v) for v in values], dtype=object)
    return values


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def write(path: Path, x: sp.spmatrix | np.ndarray, obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Write a file that AnnData reads: ``X`` (csr or dense), ``obs`` and ``var`` with text, numbers or truth values.

    Written beside its place and renamed: an interrupted write leaves no half file."""
    if x.shape != (len(obs), len(var)):
        raise ReprobookError(f"X has shape {x.shape}, obs {len(obs)} rows and var {len(var)}: they must fit")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with h5py.File(temporary, "w") as file:
        _encoded(file, "anndata", "0.1.0")
        _write_matrix(file, x)
        _write_table(file, "obs", obs)
        _write_table(file, "var", var)
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            _encoded(file.create_group(name), "dict", "0.1.0")
    temporary.replace(path)


def _encoded(node: Any, kind: str, version: str) -> None:
    node.attrs["encoding-type"], node.attrs["encoding-version"] = kind, version


def _write_matrix(file: h5py.File, x: sp.spmatrix | np.ndarray) -> None:
    if not sp.issparse(x):
        _encoded(file.create_dataset("X", data=np.asarray(x)), "array", "0.2.0")
        return
    rows = sp.csr_matrix(x)
    group = file.create_group("X")
    _encoded(group, "csr_matrix", "0.1.0")
    group.attrs["shape"] = np.array(rows.shape)
    for name in ("data", "indices", "indptr"):
        values = getattr(rows, name)
        group.create_dataset(name, data=values, chunks=True if len(values) else None, compression="gzip")


def _write_table(file: h5py.File, name: str, frame: pd.DataFrame) -> None:
    group = file.create_group(name)
    _encoded(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs.create("column-order", np.array(list(frame.columns), dtype=object), dtype=h5py.string_dtype())
    for column, values in {"_index": frame.index, **{c: frame[c] for c in frame.columns}}.items():
        array = np.asarray(values)
        if array.dtype.kind in "OUT":
            _encoded(
                group.create_dataset(column, data=array.astype(str).astype(object), dtype=h5py.string_dtype()),
                "string-array", "0.2.0",
            )  # fmt: skip
        else:
            _encoded(group.create_dataset(column, data=array), "array", "0.2.0")
