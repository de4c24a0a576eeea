"""The experiments: data sets split and tokenised, variants of stage 1 trained with equal budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt import procedural, texts
from reprobook.papers.scmmgpt.cells import read_h5ad, split
from reprobook.papers.scmmgpt.encoder import CellEncoder
from reprobook.papers.scmmgpt.qformer import QFormer
from reprobook.papers.scmmgpt.stage1 import Stage1, TextInput
from reprobook.papers.scmmgpt.tokens import Tokens, collate
from reprobook.papers.scmmgpt.values import INPUT_SCALE, normalise, transform
from reprobook.papers.scmmgpt.vocabulary import Vocabulary, known_genes
from reprobook.train import shuffled

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.scmmgpt.cells import Cells
    from reprobook.papers.scmmgpt.stage1 import Objective, Texts

PARTS = (0.7, 0.15, 0.15)
N_UNSEEN = 15  # cells of each held-out type; matching costs cells times classes
Fit = Callable[..., Any]


@dataclass(frozen=True)
class Study:
    """A data set: cells with known genes, types, and row numbers of train, valid, test and unseen cells.

    ``y`` (n,) are numbers into ``types``; ``seen`` are the types of which there are training cells."""

    name: str
    cells: Cells
    vocabulary: Vocabulary
    types: tuple[texts.CellType, ...]
    y: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    unseen: np.ndarray
    seen: tuple[int, ...]

    @property
    def ids(self) -> np.ndarray:
        """Ids (g,) of the genes in the vocabulary."""
        return self.vocabulary.lookup(self.cells.genes)

    def values(self, how: str = "log1p", scale: float = INPUT_SCALE, seed: int = 0) -> sp.csr_matrix:
        """Values (n, g) of all cells."""
        return transform(self.cells.counts, self.cells.totals, how, scale, seed)

    def tokens(self, max_length: int, how: str = "log1p", inputs: str = "values", scale: float = INPUT_SCALE) -> Tokens:
        """Tokens of all cells; which genes are kept is decided on log-normalised values whatever ``how`` is."""
        return collate(self.values(how, scale), self.ids, self.vocabulary, max_length, inputs)

    def dense(self, rows: np.ndarray, scale: float = INPUT_SCALE) -> np.ndarray:
        """Log-normalised values (rows, g)."""
        part = self.cells.take(rows)
        return normalise(part.counts, part.totals, scale).toarray()


def make_study(
    name: str, cells: Cells, vocabulary: Vocabulary, types: Sequence[texts.CellType], held_out: Sequence[int], seed: int
) -> Study:
    """Split the cells, stratified by type; cells of ``held_out`` types are for testing only."""
    number = {t.label: k for k, t in enumerate(types)}
    foreign = sorted({label for label in cells.labels if label not in number})
    if foreign:
        raise ReprobookError(f"{name}: no text for the cell types {', '.join(foreign[:5])}; texts: {', '.join(number)}")
    y = np.array([number[label] for label in cells.labels])
    unseen = np.concatenate([np.flatnonzero(y == k)[:N_UNSEEN] for k in held_out] or [np.zeros(0, dtype=np.int64)])
    rest = np.flatnonzero(~np.isin(y, list(held_out)))
    train, valid, test = (rest[part] for part in split(y[rest], PARTS, seed))
    seen = tuple(sorted(set(y[rest].tolist())))
    return Study(name, cells, vocabulary, tuple(types), y, train, valid, test, unseen, seen)


def pbmc(path: str | Path, published: Vocabulary, seed: int, limit: int | None = None) -> tuple[Study, float]:
    """scanpy's 700 blood cells: counts recovered from ``raw``, totals over all genes, known genes only. The model's own
    vocabulary is the part of the published one that these cells use. Also returns the share of known genes."""
    cells = read_h5ad(path, label="bulk_labels", totals="n_counts", logged=1e4)
    if limit is not None and limit < len(cells):
        keep = np.sort(np.random.default_rng(0).permutation(len(cells))[:limit])
        cells = cells.take(keep)
        names, counts = np.unique(cells.labels, return_counts=True)
        cells = cells.take(np.flatnonzero(np.isin(cells.labels, names[counts >= len(PARTS)])))
    known = known_genes(cells, published)
    return make_study(
        "blood cells", known.cells, Vocabulary.of(list(known.cells.genes)), texts.PBMC, (), seed
    ), known.share


def generated(world: procedural.World, n_per_type: int, seed: int) -> Study:
    """Cells of a world of known truth."""
    cells = procedural.sample(world, n_per_type, seed)
    return make_study("generated cells", cells, Vocabulary.of(list(world.genes)), world.types, world.held_out, seed)


# --------------------------------------------------------------------------------------------------- stage 1


@dataclass(frozen=True)
class Size:
    """Widths and depths of the small models, and how they are trained."""

    dim: int = 64
    encoder_layers: int = 2
    qformer_layers: int = 2
    n_heads: int = 4
    n_queries: int = 8
    max_length: int = 96
    batch_size: int = 32
    lr: float = 3e-3
    weight_decay: float = 1e-3


def make_stage1(
    study: Study, size: Size, objective: Objective, state_dim: int | None, seed: int, n_words: int | None = None
) -> Stage1:
    """A new model. Text is read from a frozen encoder's states of width ``state_dim``, or from own embeddings of
    ``n_words`` words (the last one is [DEC])."""
    torch.manual_seed(seed)
    encoder = CellEncoder(len(study.vocabulary), study.vocabulary.pad, size.dim, size.encoder_layers, size.n_heads)
    qformer = QFormer(size.dim, size.qformer_layers, size.n_heads, n_queries=size.n_queries, cell_dim=size.dim)
    own = objective.caption
    text = TextInput(size.dim, n_words, None) if own else TextInput(size.dim, None, state_dim)
    return Stage1(encoder, qformer, text, objective, size.dim, n_words - 1 if own and n_words else None)


def train_stage1(
    fit: Fit, name: str, model: Stage1, study: Study, tokens: Tokens, bank: Texts, size: Size, num_steps: int, seed: int
) -> Any:
    """Train on the training cells against the texts of seen types; returns the history. ``fit``: ``ch.fit``."""
    order = shuffled(len(study.train), min(size.batch_size, len(study.train)), seed=seed)
    place = np.full(len(study.types), -1)
    place[list(study.seen)] = np.arange(len(study.seen))
    own = torch.from_numpy(place[study.y[study.train]])
    rows, shown = torch.from_numpy(study.train), bank.take(torch.tensor(study.seen))

    def batch(i: int) -> tuple[Tokens, Tensor, Texts]:
        chosen = order(i)
        return tokens.take(rows[chosen]), own[chosen], shown

    warmup = min(20, num_steps // 5)
    return fit(
        name, model, batch, lambda net, b: net(*b), num_steps=num_steps, lr=size.lr, weight_decay=size.weight_decay,
        schedule="cosine", warmup_steps=warmup, precision="fp32",
    )  # fmt: skip


class Classifier(nn.Module):
    """The cell encoder with a linear layer on ``<cls>``: what a representation of cells allows."""

    def __init__(self, study: Study, size: Size, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = CellEncoder(
            len(study.vocabulary), study.vocabulary.pad, size.dim, size.encoder_layers, size.n_heads
        )
        self.head = nn.Linear(size.dim, len(study.types))

    def forward(self, tokens: Tokens) -> Tensor:
        """tokens of B cells -> logits (B, types)."""
        return self.head(self.encoder(tokens)[:, 0])

    @torch.no_grad()
    def predict(self, tokens: Tokens, rows: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """The most likely type (n,) of each of ``rows``."""
        device = self.head.weight.device
        parts = torch.from_numpy(rows).split(batch_size)
        return np.concatenate([
            self(Tokens(*(e.to(device) for e in tokens.take(p)))).argmax(-1).cpu().numpy() for p in parts
        ])  # fmt: skip


def train_classifier(
    fit: Fit, name: str, study: Study, tokens: Tokens, size: Size, num_steps: int, seed: int
) -> Classifier:
    """A classifier of the seen types, same budget for every representation."""
    model = Classifier(study, size, seed)
    order = shuffled(len(study.train), min(size.batch_size, len(study.train)), seed=seed)
    rows, y = torch.from_numpy(study.train), torch.from_numpy(study.y)

    def batch(i: int) -> tuple[Tokens, Tensor]:
        chosen = rows[order(i)]
        return tokens.take(chosen), y[chosen]

    fit(
        name, model, batch, lambda net, b: F.cross_entropy(net(b[0]), b[1]), num_steps=num_steps, lr=size.lr,
        weight_decay=size.weight_decay, schedule="cosine", warmup_steps=min(20, num_steps // 5), precision="fp32",
    )  # fmt: skip
    return model


@torch.no_grad()
def query_states(model: Stage1, tokens: Tokens, batch_size: int = 64) -> Tensor:
    """States (n, Q, dim) of all cells from the frozen model: what stage 2 reads."""
    device = next(model.parameters()).device
    parts = torch.arange(len(tokens.genes)).split(batch_size)
    return torch.cat([model.queries(Tokens(*(e.to(device) for e in tokens.take(p)))).cpu() for p in parts])


@torch.no_grad()
def name_states(model: Stage1, tokens: Tokens, n_slots: int = 32) -> Tensor:
    """Embeddings (n, n_slots, dim) of a cell's highest genes, names alone: the released ``use_sentence``, which puts
    them where the Q-Former's states would be. Cells with fewer genes end in ``<pad>``."""
    genes = tokens.genes[:, 1 : 1 + n_slots]
    device = model.encoder.encoder.embedding.weight.device
    pad = model.encoder.encoder.embedding.padding_idx
    genes = F.pad(genes, (0, n_slots - genes.shape[1]), value=pad)
    return model.encoder.encoder(genes.to(device)).cpu()


def only_genes(study: Study, without: Sequence[str]) -> Study:
    """The same study whose cells lack the counts of some genes (totals stay): what a marker rule looked at."""
    keep = sp.diags((~np.isin(study.cells.genes, list(without))).astype(np.float32))
    counts = sp.csr_matrix(study.cells.counts @ keep)
    counts.eliminate_zeros()
    return replace(study, cells=replace(study.cells, counts=counts))


def summary(studies: Mapping[str, Study]) -> pd.DataFrame:
    """Sizes of data sets and of their parts."""
    return pd.DataFrame([
        {
            "data": name, "cells": len(each.cells), "genes": len(each.cells.genes),
            "non-zero genes of a cell": each.cells.counts.getnnz(1).mean(), "types": len(each.types),
            "held-out types": len(each.types) - len(each.seen), "train": len(each.train), "valid": len(each.valid),
            "test": len(each.test), "of held-out types": len(each.unseen),
        }
        for name, each in studies.items()
    ])  # fmt: skip
