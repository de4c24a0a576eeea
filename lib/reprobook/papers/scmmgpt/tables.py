"""The rows of tables T1 to T5: representations, annotation, generation, description."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from reprobook.papers.scmmgpt import evaluation as ev
from reprobook.papers.scmmgpt import procedural, sentences
from reprobook.papers.scmmgpt.baselines import BASELINES, fitted
from reprobook.papers.scmmgpt.stage1 import annotate, choose_alpha
from reprobook.papers.scmmgpt.study import train_classifier
from reprobook.papers.scmmgpt.values import INPUT_SCALE

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.scmmgpt.stage1 import Scores, Stage1, Texts
    from reprobook.papers.scmmgpt.study import Fit, Size, Study
    from reprobook.papers.scmmgpt.tokens import Tokens

# --------------------------------------------------------------------------------------- T1, representations

LADDER = (
    ("names", 30),
    ("names", 100),
    ("names", None),
    ("ranks", 100),
    ("values", 30),
    ("values", 100),
    ("values", None),
)
LEARNED = (("names", 30), ("names", None), ("ranks", None), ("values", 30), ("values", None))


def spread_out(tokens: Tokens, ids: np.ndarray) -> np.ndarray:
    """Tokens as rows (n, g) for a linear model: a gene's value in its column, ``<cls>`` and pads nowhere."""
    column = np.full(int(max(tokens.genes.max(), ids.max())) + 1, -1)
    column[ids] = np.arange(len(ids))
    found = np.zeros((len(tokens.genes), len(ids)), dtype=np.float32)
    genes = column[tokens.genes.numpy()]
    rows, places = np.nonzero(genes >= 0)
    found[rows, genes[rows, places]] = tokens.values.numpy()[rows, places]
    return found


def ladder(fit: Fit, study: Study, size: Size, num_steps: int, seed: int) -> tuple[pd.DataFrame, dict[Any, np.ndarray]]:
    """Accuracies on test cells of a ridge classifier and of the cell encoder for each representation; and the encoder's
    predictions. ``None`` genes: all that fit ``max_length``."""
    rows, predicted, truth = [], {}, study.y[study.test]
    for inputs, k in dict.fromkeys((*LADDER, *LEARNED)):
        genes = k or size.max_length - 1
        tokens = study.tokens(1 + genes, inputs=inputs)
        row: dict[str, Any] = {"data": study.name, "input": inputs, "genes": k or f"up to {genes}"}
        x = spread_out(tokens, study.ids)
        parts = (x[study.train], study.y[study.train], x[study.valid], study.y[study.valid])
        ridge = fitted("ridge", *parts)(x[study.test])
        row |= {
            "ridge": np.mean(ridge == truth.astype(str)),
            "ridge, balanced": ev.balanced_accuracy(truth.astype(str), ridge),
        }
        if (inputs, k) in LEARNED:
            name = f"ladder-{study.name}-{inputs}-{k}".replace(" ", "-")
            model = train_classifier(fit, name, study, tokens, size, num_steps, seed)
            found = predicted[inputs, k] = model.predict(tokens, study.test)
            row |= {"encoder": np.mean(found == truth), "encoder, balanced": ev.balanced_accuracy(truth, found)}
        rows.append(row)
    return pd.DataFrame(rows), predicted


# --------------------------------------------------------------------------------------- T2 and T5, annotation


@dataclass(frozen=True)
class Annotated:
    """Predicted type numbers: of test cells among the seen types, of unseen cells among the unseen types and among all.
    ``alpha`` was chosen on validation cells of seen types."""

    alpha: float
    test: np.ndarray
    unseen: np.ndarray
    unseen_among_all: np.ndarray
    parts: Mapping[float, np.ndarray]  # test predictions by alpha = 1 (contrast) and 0 (matching)

    def row(self, study: Study) -> dict[str, Any]:
        """Accuracies for a table; NaN where the study has no unseen types."""
        truth = study.y[study.test]
        found = {"accuracy": np.mean(self.test == truth), **with_interval("balanced", truth, self.test)}
        if len(study.unseen):
            truth = study.y[study.unseen]
            found |= with_interval("unseen, balanced", truth, self.unseen)
            found |= {"unseen among all": ev.balanced_accuracy(truth, self.unseen_among_all)}
        return found | {"alpha": self.alpha}


def with_interval(name: str, truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Balanced accuracy and the ends of its bootstrap interval as three columns."""
    found = ev.balanced_interval(truth, predicted)
    return {name: found.mean, f"{name}, low": found.low, f"{name}, high": found.high}


def evaluate(model: Stage1, study: Study, tokens: Tokens, bank: Texts) -> Annotated:
    """Annotate test and unseen cells with the class texts ``bank`` (one per type)."""
    matching = model.objective.matching
    seen = torch.tensor(study.seen)
    place = np.full(len(study.types), -1)
    place[list(study.seen)] = np.arange(len(study.seen))

    def scored(rows: np.ndarray, types: Tensor) -> Scores:
        return annotate(model, tokens.take(torch.from_numpy(rows)), bank.take(types), matching=matching)

    alpha = choose_alpha(scored(study.valid, seen), torch.from_numpy(place[study.y[study.valid]])) if matching else 1.0
    test = scored(study.test, seen)
    among = {a: seen[test.fused(a).argmax(1)].numpy() for a in ((alpha, 1.0, 0.0) if matching else (1.0,))}
    empty = np.zeros(0, dtype=np.int64)
    if not len(study.unseen):
        return Annotated(alpha, among[alpha], empty, empty, among)
    whole = scored(study.unseen, torch.arange(len(study.types))).fused(alpha)
    others = torch.tensor([k for k in range(len(study.types)) if k not in study.seen])
    return Annotated(
        alpha, among[alpha], others[whole[:, others].argmax(1)].numpy(), whole.argmax(1).numpy(), among
    )  # fmt: skip


def baseline_rows(study: Study) -> list[dict[str, Any]]:
    """The baselines of annotation on log-normalised values; they have no way to name a type they never saw."""
    x, y = study.dense(study.train), study.y[study.train]
    rows, truth = [], study.y[study.test].astype(str)
    for name in BASELINES:
        found = fitted(name, x, y, study.dense(study.valid), study.y[study.valid])(study.dense(study.test))
        accuracy = {"accuracy": np.mean(found == truth), **with_interval("balanced", truth, found)}
        rows.append({"data": study.name, "method": name, **accuracy})
    return rows


def lineage_rows(
    model: Stage1, study: Study, rule: np.ndarray, tokens: Tokens, bank: Texts, alpha: float
) -> dict[str, Any]:
    """Other cells (n of ``tokens``) whose lineages a marker rule gives: share of them that are annotated with a type of
    that lineage, and the same for the most frequent lineage."""
    rows = np.flatnonzero(rule != "unlabelled")
    found = annotate(model, tokens.take(torch.from_numpy(rows)), bank).fused(alpha).argmax(1).numpy()
    lineage = np.array([t.lineage for t in study.types], dtype=object)[found]
    truth = rule[rows]
    common = max(set(truth), key=list(truth).count)
    return {
        "cells": len(truth), "lineages": len(set(truth)), "accuracy": np.mean(lineage == truth),
        "balanced": ev.balanced_accuracy(truth.astype(str), lineage.astype(str)),
        "most frequent, accuracy": np.mean(truth == common), "most frequent, balanced": 1 / len(set(truth)),
    }  # fmt: skip


# --------------------------------------------------------------------------------------- T3, generation


def to_input_scale(values: np.ndarray, scale: float) -> np.ndarray:
    """log1p values at ``scale`` as log1p values at 1e4, the space in which cells are compared."""
    return np.log1p(np.expm1(values) * (INPUT_SCALE / scale))


def counted(values: np.ndarray, depth: Sequence[float], seed: int) -> np.ndarray:
    """Poisson counts around ``values`` (n, g; log1p at 1e4) at total counts ``depth`` (n,), normalised again: our
    addition, which gives back the zeros that a mean cannot have."""
    rates = np.expm1(values) / INPUT_SCALE * np.asarray(depth)[:, None]
    return np.log1p(np.random.default_rng(seed).poisson(rates) * INPUT_SCALE / np.asarray(depth)[:, None])


def reference_cells(
    study: Study, rows: np.ndarray, reference: np.ndarray, labels: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """What generated cells are held against: real test cells, class means and random cells of the real ``reference``
    cells (m, g) with types ``labels``, and noise with the genes' own means and spreads."""
    rng = np.random.default_rng(seed)
    wanted = study.y[rows]
    means = {k: reference[labels == k].mean(0) for k in np.unique(wanted)}
    some = [rng.choice(np.flatnonzero(labels == k)) for k in wanted]
    noise = np.maximum(0, rng.normal(reference.mean(0), reference.std(0), (len(rows), reference.shape[1])))
    return {
        "real cells (ceiling)": study.dense(rows), "a real cell of the type": reference[some],
        "class mean (oracle)": np.stack([means[k] for k in wanted]), "noise": noise,
    }  # fmt: skip


def generation_rows(
    study: Study, part: str, rows: np.ndarray, made: Mapping[str, np.ndarray], reference: np.ndarray, labels: np.ndarray
) -> list[dict[str, Any]]:
    """k-NN accuracy, MMD, variance ratio and gap of zeros of every way of making cells for ``rows``."""
    real, wanted = study.dense(rows), study.y[rows]
    found = []
    for name, cells in made.items():
        accuracy = ev.knn_accuracy(reference, labels, cells, wanted)
        found.append({
            "data": f"{study.name}, {part}", "cells from": name, **{f"{k}-NN": v for k, v in accuracy.items()},
            "MMD": ev.mmd(cells, real), "variance ratio": ev.variance_ratio(cells, real, wanted, wanted),
            "zeros, difference": ev.zero_gap(cells, real, 0.05),
        })  # fmt: skip
    return found


def five_nn(reference: np.ndarray, labels: np.ndarray, cells: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whether 5 nearest real cells take each cell for the wanted type."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(5).fit(reference, labels).predict(cells) == wanted


def sentence_cells(
    lm: Any, study: Study, rows: np.ndarray, token_ids: Sequence[Sequence[int]],
    first_gene: int, k: int, bos: int, eos: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """Cells for ``rows`` from sampled sentences of their types, values read off the rank line of training cells."""
    line = sentences.RankLine.fit(study.values()[study.train], k)
    found = np.zeros((len(rows), len(study.cells.genes)), dtype=np.float32)
    for kind in np.unique(study.y[rows]):
        here = np.flatnonzero(study.y[rows] == kind)
        words = sentences.write_sentences(
            lm, token_ids[kind], len(here), k, first_gene, found.shape[1], bos, eos, seed + int(kind)
        )
        found[here] = line.cells(words, found.shape[1])
    return found


def fresh_cells(world: procedural.World, study: Study, n_per_type: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """New cells of ALL types of a world, values (n, g) and types: real neighbours for types that training never saw."""
    cells = procedural.sample(world, n_per_type, seed)
    other = replace(study, cells=cells)
    return other.dense(np.arange(len(cells))), np.repeat(np.arange(len(world.types)), n_per_type)


# --------------------------------------------------------------------------------------- T4, description


def description_row(
    said: Sequence[str], study: Study, rows: np.ndarray, encode: Callable[[Sequence[str]], Tensor]
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores of descriptions of the cells ``rows``, and the discrepancy of each: 1 - cosine to the true vector."""
    words = [t.text() for t in study.types]
    truth = study.y[rows]
    gold = [words[k] for k in truth]
    unique, place = np.unique([*said, *gold], return_inverse=True)  # texts repeat: each is encoded once
    vectors = encode(unique.tolist())[torch.from_numpy(place)]
    a, b = vectors[: len(said)], vectors[len(said) :]
    discrepancy = 1 - (a * b).sum(1).numpy()
    return {
        "exact": ev.is_exact(said, gold).mean(), "type": np.mean(ev.nearest_text(said, words) == truth),
        "BLEU-2": ev.bleu2(said, gold), "ROUGE-L": ev.rouge_l(said, gold), "MMD": ev.mmd(a.numpy(), b.numpy(), 1.0),
        "discrepancy": discrepancy.mean(),
    }, discrepancy  # fmt: skip


def copied_rows(study: Study, encode: Callable[[Sequence[str]], Tensor]) -> list[dict[str, Any]]:
    """Descriptions without a model: the most frequent type's text for all, and the text of the nearest training cells'
    type."""
    words = [t.text() for t in study.types]
    common = int(np.bincount(study.y[study.train]).argmax())
    parts = [study.dense(study.train), study.y[study.train], study.dense(study.valid), study.y[study.valid]]
    near = fitted("nearest neighbours", *parts)(study.dense(study.test)).astype(int)
    rows = []
    for label, chosen in (("most frequent text", [common] * len(near)), ("nearest cells' text", near)):
        scores, _ = description_row([words[k] for k in chosen], study, study.test, encode)
        rows.append({"data": f"{study.name}, seen", "text from": label, **scores})
    return rows


def long(name: str, matrix: np.ndarray, columns: Sequence[str], **shared: Any) -> pd.DataFrame:
    """A matrix as rows (first index, second index, value), so that a record can hold it."""
    i, j = np.indices(matrix.shape)
    found = {columns[0]: i.ravel(), columns[1]: j.ravel(), name: matrix.ravel()}
    return pd.DataFrame({**shared, **found})
