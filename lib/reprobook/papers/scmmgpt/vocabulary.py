"""scGPT's gene vocabulary: 60,694 names and three special tokens, and how the genes of a data set map into it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt.cells import Cells

SPECIAL = ("<pad>", "<cls>", "<eoc>")  # in this order after the names: 60694, 60695, 60696
ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?")


@dataclass(frozen=True)
class Vocabulary:
    """Name of a gene -> id, with ids 0..n-1 and the special tokens after them."""

    ids: Mapping[str, int]

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """The published file (a JSON object name -> id without special tokens) and the special tokens after it."""
        names = json.loads(Path(path).read_text("utf-8"))
        if sorted(names.values()) != list(range(len(names))):
            raise ReprobookError(f"{Path(path).name}: the ids of a vocabulary must be 0 to {len(names) - 1}, each once")
        return cls.of(sorted(names, key=names.__getitem__))

    @classmethod
    def of(cls, genes: Sequence[str]) -> Vocabulary:
        """A vocabulary of ``genes`` in their order."""
        if len(set(genes)) != len(genes) or set(SPECIAL) & set(genes):
            raise ReprobookError("names of a vocabulary must be unique and none of " + ", ".join(SPECIAL))
        return cls({name: k for k, name in enumerate([*genes, *SPECIAL])})

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pad(self) -> int:
        """Id of padding."""
        return self.ids["<pad>"]

    @property
    def cls_id(self) -> int:
        """Id of the token that stands for the whole cell."""
        return self.ids["<cls>"]

    def lookup(self, genes: Sequence[str]) -> np.ndarray:
        """Ids (g,) of ``genes``; -1 where the vocabulary has no such gene (never ``<pad>``)."""
        return np.array([-1 if gene in SPECIAL else self.ids.get(gene, -1) for gene in genes], dtype=np.int64)


@dataclass(frozen=True)
class Known:
    """What a vocabulary knows of a data set: the cells with known genes only, their ids, and what was left out."""

    cells: Cells
    ids: np.ndarray
    unknown: tuple[str, ...]
    share: float  # of the genes that are known
    share_of_counts: float  # of the counts that fall on known genes


def known_genes(cells: Cells, vocabulary: Vocabulary, ensembl: Mapping[str, str] | None = None) -> Known:
    """Drop the genes that ``vocabulary`` doesn't have; totals stay, so values don't change by it.

    Ensembl identifiers are mapped to symbols by ``ensembl`` (:func:`read_ensembl`); without it they are refused.
    Raises :class:`ReprobookError` if no gene is known, or if two identifiers map to one symbol."""
    genes = symbols(cells.genes, ensembl)
    ids = vocabulary.lookup(genes)
    here = np.flatnonzero(ids >= 0)
    if not len(here):
        raise ReprobookError(
            f"none of the {len(genes)} genes is in the vocabulary ({', '.join(map(str, genes[:3]))}, ...): "
            "give human gene symbols"
        )
    if len(np.unique(ids[here])) != len(here):
        raise ReprobookError("two columns map to the same gene: sum them first")
    kept = cells.counts[:, here]
    share_of_counts = float(kept.sum() / cells.counts.sum())
    part = Cells(kept, np.asarray(genes, dtype=object)[here], cells.totals, cells.labels, cells.names)
    unknown = tuple(gene for gene, k in zip(genes, ids, strict=True) if k < 0)
    return Known(part, ids[here], unknown, len(here) / len(genes), share_of_counts)


def symbols(genes: Sequence[str], ensembl: Mapping[str, str] | None) -> list[str]:
    """Gene symbols; Ensembl identifiers (their version is ignored) are looked up, unknown ones stay as they are."""
    is_id = [bool(ENSEMBL.fullmatch(gene)) for gene in genes]
    if not any(is_id):
        return list(genes)
    if ensembl is None:
        first = next(gene for gene, known in zip(genes, is_id, strict=True) if known)
        raise ReprobookError(
            f"{np.mean(is_id):.0%} of the genes are Ensembl identifiers ({first}): "
            "give a table that maps them to symbols (read_ensembl), or use the symbols (in CELLxGENE files the column "
            "feature_name)"
        )
    return [ensembl.get(g.partition(".")[0], g) if i else g for g, i in zip(genes, is_id, strict=True)]


def read_ensembl(path: str | Path) -> dict[str, str]:
    """Ensembl identifier -> symbol, from GENCODE's table (two columns, no head) as celltypist ships it."""
    pairs = (line.split(",") for line in Path(path).read_text("utf-8").splitlines() if line)
    return {identifier: name for identifier, name in pairs if identifier != name}
