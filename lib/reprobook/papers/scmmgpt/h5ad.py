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
def opened(path: str | Path) -> Iterator[h5py.File]:
    """The open file. Why it can't be opened is told by a :class:`ReprobookError`: missing, no permission, being
    written, no locks on its file system, left behind by a writer that was killed, or damaged."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ReprobookError(f"{Path(path).name} {_trouble(error)}") from error
    with file:
        yield file


def _trouble(error: OSError) -> str:
    """HDF5 sets errno where the system refused, and none where the content is wrong."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        what = "is a folder" if isinstance(error, IsADirectoryError) else "does not exist"
        return f"{what}: give the path of an .h5ad file"
    if "unable to lock file" in str(error):
        if isinstance(error, BlockingIOError):
            return "is open for writing in another process: close it there, or wait until it is written"
        return f"cannot be locked on its file system ({error}): set HDF5_USE_FILE_LOCKING=FALSE if nothing writes it"
    if isinstance(error, PermissionError):
        return "may not be read: this user has no permission for it, or for a folder above it"
    if "already open for write" in str(error):
        return "is marked as being written: close it there, or run h5clear -s on it if its writer was killed"
    if error.errno is not None:
        return f"cannot be read: the system refused ({error})"
    return f"cannot be read as HDF5 ({error}): it is truncated or no .h5ad file; fetch it again"


class Matrix:
    """A matrix (n, g) in an open file: sparse by rows, or dense; :meth:`rows` reads a slice and no more.

    ``others``: what else the file has, for messages."""

    def __init__(self, node: h5py.Group | h5py.Dataset, name: str, others: str = "") -> None:
        self.node, self.name, self.others = node, name, others
        self.dense = isinstance(node, h5py.Dataset)
        if self.dense:
            if node.shape is None or len(node.shape) != 2:
                found = "is empty" if node.shape is None else f"has the shape {node.shape}"
                raise ReprobookError(f"{name} {found}: there is no matrix of cells by genes in it; {others}")
            self.shape: tuple[int, int] = node.shape
            return
        kind = _text(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
        if not len(node) or kind == "null":
            raise ReprobookError(f"{name} is empty: there is no matrix of cells by genes in it; {others}")
        if kind not in ("csr", "csr_matrix"):
            raise ReprobookError(
                f"{name} is stored as {kind or 'something unknown'}; it must be csr_matrix or dense: "
                "rows of another layout cannot be read one after the other (adata.X = adata.X.tocsr())"
            )
        shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
        if shape is None or len(shape) != 2 or not {"data", "indices", "indptr"} <= set(node):
            raise ReprobookError(f"{name}: its shape, data, indices or indptr is missing: the file is damaged")
        self.shape = (int(shape[0]), int(shape[1]))
        self.indptr = node["indptr"][:]
        ends = (len(self.indptr) - 1, len(node["data"]), len(node["indices"]))
        if ends[0] != self.shape[0]:
            raise ReprobookError(f"{name}: {self.shape[0]} rows but pointers to {ends[0]}: the file is damaged")
        if self.indptr[0] != 0 or (np.diff(self.indptr.astype(np.int64)) < 0).any() or ends[1] != ends[2] or (
            self.indptr[-1] != ends[1]
        ):  # fmt: skip
            raise ReprobookError(
                f"{name}: its row pointers do not fit its data: they run from {self.indptr[0]} to {self.indptr[-1]}, "
                f"and there are {ends[1]} values and {ends[2]} column numbers: the file is damaged"
            )

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Rows [start, stop) as a CSR matrix."""
        if self.dense:
            return sp.csr_matrix(self.node[start:stop])
        pointers = self.indptr[start : stop + 1]
        part = slice(int(pointers[0]), int(pointers[-1]))
        columns = self.node["indices"][part]
        if len(columns) and (columns.min() < 0 or columns.max() >= self.shape[1]):
            wrong = columns.min() if columns.min() < 0 else columns.max()
            raise ReprobookError(
                f"{self.name}: a value of rows {start} to {stop - 1} is in column {wrong}, of {self.shape[1]} columns "
                "(counted from 0): the file is damaged"
            )
        content = (self.node["data"][part], columns, pointers - pointers[0])
        return sp.csr_matrix(content, shape=(len(pointers) - 1, self.shape[1]))


def matrix(file: h5py.File, use_raw: bool, layer: str | None = None) -> Matrix:
    """``X``; with ``use_raw``, ``raw/X`` (in old files ``raw.X``); with ``layer``, that one of ``layers``."""
    if use_raw and layer is not None:
        raise ReprobookError(f"raw and layer {layer!r} are two matrices: give one of them")
    names = (f"layers/{layer}",) if layer is not None else ("raw/X", "raw.X") if use_raw else ("X",)
    found = next((name for name in names if name in file), None)
    if found is None:
        raise ReprobookError(f"the file has no {names[0]}; it has {', '.join(file)}; {matrices(file)}")
    return Matrix(file[found], found, matrices(file))


def matrices(file: h5py.File) -> str:
    """The matrices of a file and how to ask for each, in words."""
    raw = [f"{name} (raw=True)" for name in ("raw/X", "raw.X") if name in file]
    layers = [f"layer={name!r}" for name in file["layers"]] if "layers" in file else []
    return f"its matrices: {', '.join([*(['X (raw=False)'] if 'X' in file else []), *raw]) or 'none'}; its layers: " + (
        ", ".join(layers) or "none"
    )


def tables(file: h5py.File, found: Matrix) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``obs`` and the ``var`` of the matrix ``found``: its rows and its columns. Raises if they are not as many."""
    obs, var = table(file, "obs"), table(file, "raw" if found.name.startswith("raw") else "var")
    for frame, n, name, what in ((obs, found.shape[0], "obs", "rows"), (var, found.shape[1], "var", "columns")):
        if len(frame) != n:
            raise ReprobookError(f"{found.name} has {n} {what} but {name} {len(frame)} entries: the file is damaged")
    return obs, var


def table(file: h5py.File, name: str) -> pd.DataFrame:
    """``obs`` or ``var`` (``raw``: ``raw/var``) as a frame, its index as text; categories are spelled out."""
    if name == "raw":
        name = "raw/var" if "raw/var" in file else "raw.var"
    if name not in file:
        raise ReprobookError(f"the file has no {name}; it has {', '.join(file)}")
    node = file[name]
    if isinstance(node, h5py.Dataset):  # files of 2019 and before: one compound array
        return _compound(file, node, name.startswith("raw"))
    key = _text(node.attrs["_index"])
    columns = [_text(c) for c in node.attrs.get("column-order", [])]
    index = pd.Index(_column(node, key), dtype=object)
    found = {c: _column(node, c) for c in columns}
    for column, values in found.items():
        if len(values) != len(index):
            raise ReprobookError(f"{name} has {len(index)} names but {len(values)} values of {column!r}: it is damaged")
    return pd.DataFrame(found, index=index)


def _compound(file: h5py.File, node: h5py.Dataset, raw: bool) -> pd.DataFrame:
    rows = node[:]
    first, *others = rows.dtype.names
    columns = {}
    for name in others:
        values = rows[name]
        places = (f"{where}/{name}_categories" for where in ("raw.cat" if raw else "uns", "."))
        words = next((file[place] for place in places if place in file), None)
        columns[name] = _strings(values) if words is None else _spelled(values, words[()], name)
    return pd.DataFrame(columns, index=pd.Index(_strings(rows[first]), dtype=object))


def _column(group: h5py.Group, name: str) -> np.ndarray:
    node = group[name]
    if isinstance(node, h5py.Group):
        if "codes" in node:
            return _spelled(node["codes"][:], _column(node, "categories"), name)
        if "values" in node and "mask" in node:  # nullable arrays, which pandas 3 uses for all text
            return np.where(node["mask"][:], None, _strings(node["values"][:]).astype(object))
        raise ReprobookError(f"column {name!r} is stored in a way that is not read here: it has {', '.join(node)}")
    if "categories" in node.attrs:  # anndata 0.7
        return _spelled(node[:], group.file[node.attrs["categories"]][:], name)
    return _strings(node[:])


def _spelled(codes: np.ndarray, words: np.ndarray, name: str) -> np.ndarray:
    """The category of each code, None for the code -1. A lone category may be stored as a scalar (2019)."""
    words = _strings(np.atleast_1d(words))
    if len(codes) and not (codes.min() >= -1 and codes.max() < len(words)):
        raise ReprobookError(
            f"column {name!r} has codes from {codes.min()} to {codes.max()} for {len(words)} categories: it is damaged"
        )
    return np.array([*words, None], dtype=object)[codes]


def _strings(values: np.ndarray) -> np.ndarray:
    """Bytes as text; other types as they are."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8").astype(object)
    if values.dtype.kind == "O":
        return np.array([_text(v) for v in values], dtype=object)
    return values


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def write(path: str | Path, x: sp.spmatrix | np.ndarray, obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Write a file that AnnData reads: ``X`` (csr or dense), ``obs`` and ``var`` with text, numbers or truth values.

    Written beside its place and renamed: an interrupted write leaves no half file."""
    if x.shape != (len(obs), len(var)):
        raise ReprobookError(f"X has shape {x.shape}, obs {len(obs)} rows and var {len(var)}: they must fit")
    path = Path(path)
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
