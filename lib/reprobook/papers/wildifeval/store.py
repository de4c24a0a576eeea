"""Costly rows that are made once: written line by line as they come, found again after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def digest(*parts: Any) -> str:
    """A key for what a row was made of."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()


def kept(
    path: str | Path, keys: Sequence[str], make: Callable[[list[int]], Sequence[Row]], chunk: int = 64
) -> list[Row]:
    """A row for each of ``keys``, in their order; equal keys share one. Rows that the file ``path`` does not have are
    made, ``chunk`` at a time, by ``make`` (positions in ``keys`` -> rows) and appended. What a run wrote before it died
    stays, and a half-written last line is dropped, so nothing is asked or counted twice."""
    path, done = Path(path), {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    good = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        done[row.pop("key")] = row
        good += len(line)
    with path.open("r+b") as stream:
        stream.truncate(good)
    first = {key: k for k, key in reversed(list(enumerate(keys))) if key not in done}
    missing = sorted(first.values())
    for at in range(0, len(missing), chunk):
        part = missing[at : at + chunk]
        made = {keys[k]: row for k, row in zip(part, make(part), strict=True)}
        with path.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"key": key, **row}) + "\n" for key, row in made.items())
        done |= made
    return [done[key] for key in keys]
