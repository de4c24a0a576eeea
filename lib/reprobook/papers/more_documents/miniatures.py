"""Tiny stand-ins for the rehearsal: records with the real fields, and pages that hold their paragraphs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from reprobook.errors import ReprobookError

_N_QUESTIONS, _N_PAGES = 5, 24
_WORDS = "the a of in to and on for with by at is was are but quiet river house garden street city book letter".split()


def _text(numbers: random.Random, n_sentences: int) -> str:
    """Words in sentences without meaning."""
    sentences = [" ".join(numbers.choices(_WORDS, k=numbers.randint(5, 14))) for _ in range(n_sentences)]
    return " ".join(sentence.capitalize() + "." for sentence in sentences)


def _paragraph(title: str) -> str:
    return _text(random.Random(f"paragraph {title}"), 3)


def _page(title: str) -> str:
    """The paragraph with much other text on both sides; of one title in eight a changed one."""
    numbers, own = random.Random(f"page {title}"), _paragraph(title)
    if title.endswith("7"):
        own = own.replace(" the ", " that ", 1)
    return "\n\n".join([_text(numbers, 120), own, _text(numbers, 160)])


def write_miniature(folder: Path, kind: str) -> None:
    """``kind``: musique (JSON lines), 2wiki (parquet), wikipedia (parquet) or released (both)."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "musique":
        _lines(folder / "musique_ans_v1.0_dev.jsonl", [_musique(k, 20) for k in range(_N_QUESTIONS)])
    elif kind == "released":
        _lines(folder / "data" / "train.jsonl", [_musique(k, n) for n in (2, 8) for k in range(2)])
        _parquet(folder / "data" / "train.parquet", [_musique(k, 20) for k in range(2)])
    elif kind == "2wiki":
        _parquet(folder / "dev.parquet", [_two_wiki(k) for k in range(_N_QUESTIONS)])
    elif kind == "wikipedia":
        titles = [f"Page {k}" for k in range(_N_PAGES)]
        rows = [{"id": str(k), "url": "", "title": t, "text": _page(t)} for k, t in enumerate(titles)]
        _parquet(folder / "20231101.en" / "train-00000-of-00001.parquet", rows)
    else:
        raise ReprobookError(f"kind {kind!r} must be one of musique, released, 2wiki, wikipedia")


def _titles(k: int, n: int) -> list[str]:
    """``n`` titles; the last question asks for a page that the dump doesn't have."""
    titles = [f"Page {i}" for i in random.Random(k).sample(range(_N_PAGES), n)]
    return [*titles[:-1], "No such page"] if k == _N_QUESTIONS - 1 else titles


def _musique(k: int, n: int) -> dict[str, Any]:
    paragraphs = [
        {"idx": i, "title": title, "paragraph_text": _paragraph(title), "is_supporting": i in (0, 1)}
        for i, title in enumerate(_titles(k, n))
    ]
    answer = str(paragraphs[0]["paragraph_text"]).split()[1]
    steps = [{"id": i, "question": "Which word?", "answer": answer, "paragraph_support_idx": i} for i in (0, 1)]
    return {"id": f"2hop__{k}", "paragraphs": paragraphs, "question": "Which word comes second?", "answer": answer,
            "question_decomposition": steps, "answer_aliases": [answer.upper()], "answerable": True}  # fmt: skip


def _two_wiki(k: int) -> dict[str, Any]:
    titles = _titles(k, 10)
    context = [[title, _paragraph(title).split(". ")] for title in titles]
    return {"_id": f"q{k}", "type": "compositional", "question": "Which word comes second?",
            "context": json.dumps(context), "supporting_facts": json.dumps([[titles[0], 0], [titles[1], 0]]),
            "evidences": "[]", "answer": _paragraph(titles[0]).split()[1]}  # fmt: skip


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
