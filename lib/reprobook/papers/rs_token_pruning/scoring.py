"""The benchmark's evaluator, and what answers without looking: the majority and the words of the question."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError

FIELDS = ("question_id", "image", "category", "text", "ground_truth")
PARTS = {"FAIR": "LRS-FAIR", "GLH": "LRS-Bridge", "STAR": "LRS-STAR"}
ENDINGS = {  # WordNet's rules of detachment
    "noun": (("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
             ("men", "man"), ("ies", "y")),
    "verb": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}  # fmt: skip


class WordNet:
    """Which synsets a word is in, from the index files of WordNet. Irregular forms are not looked up: their files do
    not come with it."""

    def __init__(self, folder: str | Path) -> None:
        self._synsets: dict[str, dict[str, frozenset[str]]] = {}
        for kind in ENDINGS:
            found = list(Path(folder).rglob(f"index.{kind}"))
            if not found:
                raise ReprobookError(f"there is no index.{kind} of WordNet in the folder")
            lines = found[0].read_text("utf-8").splitlines()
            parts = (line.split() for line in lines if not line.startswith(" "))
            self._synsets[kind] = {p[0]: frozenset(f"{kind} {offset}" for offset in p[-int(p[2]) :]) for p in parts}

    def synsets(self, word: str) -> frozenset[str]:
        """All synsets of a word or of what it is a form of."""
        word, found = word.lower().replace(" ", "_"), frozenset[str]()
        for kind, endings in ENDINGS.items():
            forms = [word] + [word[: -len(a)] + b for a, b in endings if word.endswith(a) and len(word) > len(a)]
            for form in forms:
                found |= self._synsets[kind].get(form, frozenset())
        return found

    def same(self, a: str, b: str) -> bool:
        """The rule of LRS-VQA: equal in lower case, or a pair of synsets with a path similarity above 0.8. Path
        similarity is 1 / (1 + distance), so above 0.8 means 1: a synset in common."""
        return a.lower() == b.lower() or bool(self.synsets(a) & self.synsets(b))


def read_questions(lines: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of the released question file (``LRS_VQA_merged.jsonl``) with their ``part``."""
    rows = list(lines)
    for row in rows:
        if missing := [name for name in FIELDS if name not in row]:
            raise ReprobookError(f"a question of LRS-VQA has no field {missing[0]!r}; it has {', '.join(row)}")
    frame = pd.DataFrame(rows)
    frame["part"] = frame["question_id"].str.extract(r"^([A-Z]+)")[0].map(PARTS)
    if frame["part"].isna().any():
        odd = frame.loc[frame["part"].isna(), "question_id"].iloc[0]
        raise ReprobookError(f"question_id {odd!r} must begin with one of {', '.join(PARTS)}")
    return frame


def average_accuracy(right: Sequence[float], category: Sequence[str]) -> float:
    """AA, the figure of the paper's tables: the plain mean over categories of the share of right answers."""
    return float(pd.Series(np.asarray(right, float)).groupby(np.asarray(category)).mean().mean())


def weighted(right: Sequence[float], category: Sequence[str]) -> np.ndarray:
    """Scores of single questions whose plain mean is AA: questions of a rare category weigh more."""
    kinds, at, counts = np.unique(np.asarray(category), return_inverse=True, return_counts=True)
    return np.asarray(right, float) * len(at) / (len(kinds) * counts[at])


def blind_answers(frame: pd.DataFrame, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Answers of two readers that see no picture, ``majority`` (of the category) and ``naive Bayes`` (on the question's
    words, within the category, Laplace's rule), each trained on the other folds; folds are cut over pictures.
    ``frame``: ``image, category, text, ground_truth``; ``part`` if there is one keeps parts apart."""
    images = frame["image"].unique()
    fold = dict(zip(images, np.random.default_rng(seed).permutation(len(images)) % folds, strict=True))
    at = frame["image"].map(fold).to_numpy()
    by = ["part", "category"] if "part" in frame else ["category"]
    out = pd.DataFrame({"majority": "", "naive Bayes": ""}, index=frame.index)
    for _, part in frame.groupby(by):
        here = at[frame.index.get_indexer(part.index)]
        for k in range(folds):
            seen, asked = part[here != k], part[here == k]
            if len(seen) and len(asked):
                out.loc[asked.index, "majority"] = seen["ground_truth"].str.lower().mode()[0]
                out.loc[asked.index, "naive Bayes"] = _bayes(seen, asked["text"])
    return out


def _bayes(seen: pd.DataFrame, texts: pd.Series) -> list[str]:
    words = {w: k for k, w in enumerate(sorted({w for text in seen["text"] for w in _words(text)}))}
    answers, label = np.unique(seen["ground_truth"].str.lower(), return_inverse=True)
    counts = np.ones((len(answers), len(words)))
    rows = np.repeat(label, [len(_words(text)) for text in seen["text"]])
    columns = np.array([words[w] for text in seen["text"] for w in _words(text)], int)
    np.add.at(counts.reshape(-1), rows * len(words) + columns, 1)
    logs = np.log(counts / counts.sum(1, keepdims=True))
    prior = np.log(np.bincount(label))
    totals = [prior + logs[:, [words[w] for w in _words(t) if w in words]].sum(1) for t in texts]
    return [str(answers[int(total.argmax())]) for total in totals]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())
