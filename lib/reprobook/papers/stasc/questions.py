"""Questions with reference answers: the paper's columns, checked, and split by entity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reprobook.errors import ReprobookError

COLUMNS = ("question_id", "question_text", "reference")


@dataclass(frozen=True)
class Question:
    """One question; any of ``references`` is a right answer. ``entity`` is what it asks about: splits keep it whole."""

    qid: str
    text: str
    references: tuple[str, ...]
    entity: str = ""


@dataclass(frozen=True)
class Splits:
    """Train questions are rewarded and trained on, ``valid`` chooses the iteration, ``test`` only reports."""

    train: list[Question]
    valid: list[Question]
    test: list[Question]

    def __post_init__(self) -> None:
        check_questions([*self.train, *self.valid, *self.test])
        seen = {q.text for q in [*self.train, *self.valid]}
        if leaked := next((q for q in self.test if q.text in seen), None):
            raise ReprobookError(
                f"test question {leaked.qid!r} ({leaked.text!r:.60}) is also trained on or used to choose: leave it out"
            )


def check_questions(questions: Sequence[Question]) -> Sequence[Question]:
    """The questions, if they can be rewarded. Raises :class:`ReprobookError` that names the first bad one: no
    question at all, an id that stands twice, no text, no reference, a reference that normalises to nothing."""
    from reprobook.papers.stasc.reward import has_answer

    if not questions:
        raise ReprobookError("there are no questions: give at least one")
    seen: set[str] = set()
    for q in questions:
        if q.qid in seen:
            raise ReprobookError(f"question_id {q.qid!r} stands twice: ids name the questions, so make them unique")
        seen.add(q.qid)
        if not q.text.strip():
            raise ReprobookError(f"question {q.qid!r} has no text")
        if not q.references:
            raise ReprobookError(f"question {q.qid!r} has no reference: without one no answer can be rewarded")
        try:
            has_answer("", q.references)
        except ReprobookError as error:
            raise ReprobookError(f"question {q.qid!r}: {error}") from None
    return questions


def from_rows(rows: Iterable[Mapping[str, Any]], prefix: str = "") -> list[Question]:
    """Questions from rows with the paper's columns ``question_id, question_text, reference`` (a list of texts).
    ``prefix`` goes before each id: both splits may count from 0."""
    found = []
    for k, row in enumerate(rows):
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise ReprobookError(f"row {k} has no column {', '.join(missing)}; it has: {', '.join(map(str, row))}")
        references = row["reference"]
        if references is None or isinstance(references, str):
            raise ReprobookError(f"row {k}: reference must be a list of texts, got {references!r:.60}")
        found.append(Question(f"{prefix}{row['question_id']}", str(row["question_text"]), tuple(map(str, references))))
    check_questions(found)
    return found


def read_split(folder: Path, split: str) -> list[Question]:
    """Questions of ``split`` ("train", "test") in ``folder``: a data set saved by `datasets`, or parquet or jsonl files
    whose names begin with the split, at the top or under ``data/``."""
    if (folder / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        saved = load_from_disk(str(folder))
        if split not in saved:
            raise ReprobookError(f"{folder.name} has no split {split!r}; it has: {', '.join(saved)}")
        return from_rows(saved[split], f"{split} ")
    import pandas as pd

    files = sorted(path for kind in ("parquet", "jsonl") for path in folder.rglob(f"{split}*.{kind}"))
    if not files:
        raise ReprobookError(f"{folder.name} has no {split}*.parquet or {split}*.jsonl, and no saved data set")
    frames = [pd.read_parquet(f) if f.suffix == ".parquet" else pd.read_json(f, lines=True) for f in files]
    return from_rows(pd.concat(frames, ignore_index=True).astype(object).to_dict("records"), f"{split} ")  # type: ignore[arg-type]


def take_valid(train: Sequence[Question], n_valid: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Train and validation questions out of the paper's train split; the test split stays untouched."""
    if not 0 < n_valid < len(train):
        raise ReprobookError(
            f"n_valid is {n_valid}; it must be from 1 to {len(train) - 1}, one less than the train set"
        )
    order = np.random.default_rng([seed, 1]).permutation(len(train))
    return [train[i] for i in sorted(order[n_valid:])], [train[i] for i in sorted(order[:n_valid])]


def split_by_entity(questions: Sequence[Question], sizes: Sequence[int], seed: int) -> list[list[Question]]:
    """Parts of exactly ``sizes`` questions in which no entity is shared: entities are drawn in random order, and a
    part that is full closes (what is left of its last entity is dropped).

    Raises :class:`ReprobookError` if there are too few questions.
    """
    by_entity: dict[str, list[Question]] = {}
    for q in questions:
        by_entity.setdefault(q.entity, []).append(q)
    names = sorted(by_entity)
    order = iter([names[i] for i in np.random.default_rng([seed, 2]).permutation(len(names))])
    parts: list[list[Question]] = []
    for size in sizes:
        part: list[Question] = []
        while len(part) < size:
            name = next(order, None)
            if name is None:
                raise ReprobookError(
                    f"{len(questions)} questions about {len(names)} entities are too few for parts of "
                    f"{', '.join(map(str, sizes))} without shared entities"
                )
            part += by_entity[name]
        parts.append(part[:size])
    return parts
