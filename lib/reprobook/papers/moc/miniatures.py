"""A tiny stand-in for the rehearsal: LongBench's archive with the one set that is read."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

_LETTERS = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年"
_N = 4


def _text(numbers: random.Random, n_sentences: int) -> str:
    sentences = ["".join(numbers.choices(_LETTERS, k=numbers.randint(8, 24))) for _ in range(n_sentences)]
    return "。".join(sentences) + "。"


def dureader(folder: Path) -> None:
    """``data.zip`` with ``data/dureader.jsonl``: the real fields, text without meaning."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k in range(_N):
        numbers = random.Random(k)
        context = _text(numbers, 24)
        rows.append({
            "input": context[3:12], "context": context, "answers": [context[3:20], context[30:40]],
            "length": len(context), "dataset": "dureader", "language": "zh", "all_classes": None, "_id": f"mini{k}",
        })  # fmt: skip
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        archive.writestr(zipfile.ZipInfo("data/dureader.jsonl"), lines)
