"""Tiny stand-ins for the rehearsal: the real file names and fields, texts without meaning."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from reprobook.errors import ReprobookError
from reprobook.papers.wildifeval.released import MODELS

_N = 24
_ITEMS = ("Use at most 20 words", "Write between 5 and 30 words", "Write it as a numbered list", "Focus on the river",
          "Use a formal tone", "Mention the word garden", "Act as a doctor", "Check the grammar")  # fmt: skip


def _task(k: int) -> tuple[str, list[str]]:
    numbers = random.Random(k)
    return f"Tell me number {k} about the quiet river.", numbers.sample(_ITEMS, numbers.randint(2, 8))


def write_miniature(folder: Path, kind: str, judge: str = "") -> None:
    """``kind``: log (conversations), tasks (ids and decompositions), decomposed (the same with texts) or predictions
    (responses and scores of the 14 models; ``judge`` names the judge in their file names)."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "log":
        rows = [{"conversation_id": f"c{k}", "language": "English", "turn": 1,
                 "conversation": [{"role": "user", "content": _task(k)[0]}, {"role": "assistant", "content": "Yes."}]}
                for k in range(_N)]  # fmt: skip
        _parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
    elif kind == "tasks":
        rows = [{"conversation_id": f"c{k}", "decomposition": _task(k)[1]} for k in range(_N)]
        _parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    elif kind == "decomposed":
        rows = [{"conversation_id": f"c{k}", "task": _task(k)[0], "decomposition": _task(k)[1]} for k in range(_N)]
        _parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    elif kind == "predictions":
        for place, model in enumerate(MODELS):
            _predictions(folder, model, judge, 0.9 - 0.05 * place)
    else:
        raise ReprobookError(f"kind {kind!r} must be one of log, tasks, decomposed, predictions")


def _predictions(folder: Path, model: str, judge: str, rate: float) -> None:
    numbers = random.Random(model)
    said = {text: [{"role": "user", "content": text},
                   {"role": "assistant", "content": "word " * numbers.randint(5, 40)}]
            for text, _ in map(_task, range(_N))}  # fmt: skip
    given = {text: {"scores": {c: float(numbers.random() < rate) for c in held}, "explanations": {}}
             for text, held in map(_task, range(_N))}  # fmt: skip
    small = model.startswith(("Qwen2.5-0", "Llama-3.2-1"))
    _json(folder / "model_predictions" / f"{model}-0shot-wild-if-eval.json", {"predictions": said} if small else said)
    _json(folder / "llm_aaj_scores" / f"llm-aaj-{judge}.{model}-0shot-wild-if-eval.json", given)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
