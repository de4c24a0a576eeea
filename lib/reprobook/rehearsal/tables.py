"""Miniature data sets: a few rows with the real files' names, formats and columns.

A recipe is ``{format: parquet | jsonl | json | csv | text, rows: N, files: {path: {column: kind}}}``. Kinds of column:
``text`` (a few sentences), ``word``, ``int``, ``float``, ``bool``, ``id`` (running number as text), ``image`` (a PNG as
the struct that `datasets` reads), ``{int: [low, high]}``, ``{choice: [a, b]}``, ``{value: x}``, ``{list: kind,
length: n}`` and ``{struct: {name: kind}}``. Files of format ``text`` have one column, a line per row.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprobook.errors import ReprobookError

FORMATS = ("parquet", "jsonl", "json", "csv", "text")
_WORDS = (
    "the a of in to and on for with from by at is was are were has had not but or if then when where who which "
    "small large old new early late red green blue long short open quiet river mountain house garden street city "
    "village table window door book letter paper story question answer number word name day night year water fire "
    "bread stone tree flower bird horse child mother father friend teacher doctor king queen soldier sailor write "
    "read give take make find keep leave walk run speak listen follow carry build open close begin end learn teach "
    "model data method result figure score test train sample value measure change"
).split()
_SIMPLE = ("text", "word", "int", "float", "bool", "id", "image")


def write_tables(recipe: Mapping[str, Any], folder: Path) -> None:
    """Write the files of a data set recipe below ``folder``. The same recipe gives the same rows."""
    rest = set(recipe) - {"format", "rows", "files"}
    if recipe.get("format") not in FORMATS or rest or not recipe.get("files"):
        raise ReprobookError(f"needs format ({', '.join(FORMATS)}), rows and files; got {', '.join(map(str, recipe))}")
    for path, columns in recipe["files"].items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        numbers = random.Random(path)
        rows = [
            {name: cell(kind, numbers, k) for name, kind in columns.items()} for k in range(int(recipe.get("rows", 8)))
        ]
        _write(rows, target, recipe["format"])


def cell(kind: Any, numbers: random.Random, row: int) -> Any:
    """One value of a column; ``row`` counts from 0."""
    if isinstance(kind, str) and kind in _SIMPLE:
        return _simple(kind, numbers, row)
    if isinstance(kind, Mapping):
        match kind:
            case {"int": [low, high]}:
                return numbers.randint(low, high)
            case {"choice": options}:
                return options[row % len(options)]
            case {"value": value}:
                return value
            case {"list": inner, **rest}:
                return [cell(inner, numbers, row) for _ in range(rest.get("length", 2))]
            case {"struct": fields}:
                return {name: cell(inner, numbers, row) for name, inner in fields.items()}
    raise ReprobookError(f"unknown kind of column {kind!r}; see reprobook.rehearsal.tables")


def _simple(kind: str, numbers: random.Random, row: int) -> Any:
    match kind:
        case "text":
            return text(numbers, n_sentences=numbers.randint(3, 6))
        case "word":
            return numbers.choice(_WORDS)
        case "int":
            return numbers.randint(0, 9)
        case "float":
            return round(numbers.random(), 4)
        case "bool":
            return row % 2 == 0
        case "id":
            return str(row)
        case _:
            return {"bytes": _png(numbers), "path": f"{row}.png"}


def text(numbers: random.Random, n_sentences: int) -> str:
    """Plain English words in sentences without meaning."""
    sentences = [" ".join(numbers.choices(_WORDS, k=numbers.randint(5, 14))) for _ in range(n_sentences)]
    return " ".join(sentence.capitalize() + "." for sentence in sentences)


def _png(numbers: random.Random, size: int = 32) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.frombytes("RGB", (size, size), numbers.randbytes(3 * size * size)).save(stream, "PNG")
    return stream.getvalue()


def _write(rows: list[dict[str, Any]], path: Path, kind: str) -> None:
    import pandas as pd

    match kind:
        case "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(rows), path)
        case "jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        case "json":
            path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
        case "csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        case "text":
            path.write_text("".join(f"{next(iter(row.values()))}\n" for row in rows), "utf-8")
