"""Texts of cell types in our own words, keyed to Cell Ontology identifiers; and a marker rule for unlabelled cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.papers.scmmgpt.cells import Cells


@dataclass(frozen=True)
class CellType:
    """A label of a data set with its name, ontology identifier, definition and lineage."""

    label: str
    name: str
    ontology: str
    definition: str
    lineage: str

    def text(self) -> str:
        """The text of training: "cell type: NAME. DEFINITION"."""
        return f"cell type: {self.name}. {self.definition}"

    def prompt(self) -> str:
        """The class prompt of zero-shot annotation: "This cell belongs to NAME: TEXT"."""
        return f"This cell belongs to {self.name}: {self.definition}"


PBMC = tuple(
    CellType(*each)
    for each in (
        ("CD4+/CD25 T Reg", "regulatory T cell", "CL:0000792",
         "A helper T cell with much CD25 that restrains other immune cells and keeps tolerance.", "T"),
        ("CD4+/CD45RA+/CD25- Naive T", "naive CD4-positive T cell", "CL:0000895",
         "A helper T cell that left the thymus and has not met its antigen yet.", "T"),
        ("CD4+/CD45RO+ Memory", "memory CD4-positive T cell", "CL:0000897",
         "A helper T cell that met its antigen before, lives long and answers fast.", "T"),
        ("CD8+ Cytotoxic T", "cytotoxic CD8-positive T cell", "CL:0000794",
         "A killer T cell that destroys infected cells with granzymes and perforin.", "T"),
        ("CD8+/CD45RA+ Naive Cytotoxic", "naive CD8-positive T cell", "CL:0000900",
         "A killer T cell before its first antigen, without cytotoxic granules.", "T"),
        ("CD14+ Monocyte", "CD14-positive monocyte", "CL:0001054",
         "A phagocyte of the blood that carries CD14 and turns into a macrophage in tissue.", "monocyte"),
        ("CD19+ B", "B cell", "CL:0000236",
         "A lymphocyte that carries immunoglobulin on its surface and makes antibodies.", "B"),
        ("CD34+", "hematopoietic stem cell", "CL:0000037",
         "A progenitor from the bone marrow that gives rise to all lineages of the blood.", "progenitor"),
        ("CD56+ NK", "natural killer cell", "CL:0000623",
         "An innate lymphocyte that kills stressed cells without an antigen receptor.", "NK"),
        ("Dendritic", "dendritic cell", "CL:0000451",
         "A cell with branches that takes up antigens and presents them to T cells.", "dendritic"),
    )
)  # fmt: skip

# Lineage -> genes of which all must be there, genes of which one must be, genes of which none may be.
RULE: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "monocyte": (("LYZ",), ("CD14", "FCGR3A"), ("CD3D", "CD3E", "CD3G", "MS4A1", "CD79A", "GNLY")),
    "T": ((), ("CD3D", "CD3E", "CD3G"), ("CD14", "FCGR3A", "MS4A1", "CD79A")),
    "B": (("MS4A1",), ("CD79A", "CD79B"), ("CD3D", "CD3E", "CD3G", "CD14")),
    "NK": (("NKG7", "GNLY"), (), ("CD3D", "CD3E", "CD3G", "CD14", "MS4A1")),
}
RULE_GENES = tuple(sorted({gene for parts in RULE.values() for part in parts for gene in part}))


def rule_labels(cells: Cells) -> np.ndarray:
    """Lineage of every cell by :data:`RULE`, on counts of at least 1; "unlabelled" if none or several apply.

    Whoever tests a model against these labels takes :data:`RULE_GENES` from what the model sees."""
    place = {gene: k for k, gene in enumerate(cells.genes)}
    missing = [gene for gene in RULE_GENES if gene not in place]
    if missing:
        raise ReprobookError(f"the marker rule needs {', '.join(missing)}, which these cells do not have")
    seen = {gene: np.asarray((cells.counts[:, place[gene]] > 0).todense()).ravel() for gene in RULE_GENES}
    n = len(cells)

    def met(parts: tuple[tuple[str, ...], ...]) -> np.ndarray:
        all_of, one_of, none_of = ([seen[gene] for gene in part] for part in parts)
        found = np.ones(n, dtype=bool) if not all_of else np.all(all_of, axis=0)
        found &= np.any(one_of, axis=0) if one_of else True
        return found & ~np.any(none_of, axis=0)

    table = np.stack([met(parts) for parts in RULE.values()], 1)
    names = np.array([*RULE, "unlabelled"], dtype=object)
    return names[np.where(table.sum(1) == 1, table.argmax(1), len(RULE))]
