"""Cells whose truth is known: types are combinations of a lineage, a state and a tissue, each with its programme.

The lineage says *which* genes are switched on, and so does the tissue; the state says *how much* of one and the same
set of genes there is. So names of genes suffice for lineage and tissue, while the state needs values. Counts are
negative binomial around rates that are known, so generated cells can be compared with a true mean."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt.cells import make_cells
from reprobook.papers.scmmgpt.texts import CellType

if TYPE_CHECKING:
    from reprobook.papers.scmmgpt.cells import Cells

LINEAGES = ("T cell", "B cell", "monocyte", "fibroblast")
STATES = ("resting", "activated", "exhausted")
TISSUES = ("blood", "lung")
_ABOUT = {
    "T cell": "a lymphocyte with a T cell receptor", "B cell": "a lymphocyte that makes antibodies",
    "monocyte": "a phagocyte that swallows particles", "fibroblast": "a cell of connective tissue that makes collagen",
    "resting": "It is quiet and divides rarely", "activated": "It is stimulated and divides often",
    "exhausted": "It is worn out by long stimulation", "blood": "it comes from the blood",
    "lung": "it comes from the lung",
}  # fmt: skip
STATE_LEVELS = (1.0, 4.0, 12.0)  # times the base rate of the state's genes
SWITCHED, DISPERSION, DEPTH = 30.0, 2.0, 1500.0  # fold of a programme; NB size; counts of a cell, about


@dataclass(frozen=True)
class World:
    """Genes, types and their true rates (types, genes), each row summing to 1; ``held_out`` are numbers of types."""

    genes: np.ndarray
    types: tuple[CellType, ...]
    rates: np.ndarray
    held_out: tuple[int, ...]

    @property
    def seen(self) -> tuple[int, ...]:
        """Indices of the types that are not held out."""
        return tuple(k for k in range(len(self.types)) if k not in self.held_out)


def make_world(
    n_genes: int = 400, n_lineages: int = 4, n_held_out: int = 6, programme: int = 16, seed: int = 0
) -> World:
    """A world of ``n_lineages`` x 3 states x 2 tissues. ``programme``: genes of each attribute.

    Every lineage, state and tissue stays among the types that are seen. Raises :class:`ReprobookError` if programmes
    don't fit into the genes or too many types are held out."""
    needed = programme * (n_lineages + 1 + len(TISSUES))
    if not 1 <= n_lineages <= len(LINEAGES) or needed > n_genes:
        raise ReprobookError(
            f"{n_lineages} lineages with programmes of {programme} genes need {needed} of {n_genes} genes"
        )
    rng = np.random.default_rng([seed, 12])
    base = rng.lognormal(0.0, 1.0, n_genes)
    order = rng.permutation(n_genes)
    blocks = [order[k * programme : (k + 1) * programme] for k in range(n_lineages + 1 + len(TISSUES))]
    base[np.concatenate(blocks)] = rng.uniform(0.1, 0.3, needed)  # programmes are low unless switched on
    base[blocks[n_lineages]] = rng.uniform(1.5, 3.0, programme)  # the state's genes are always there
    genes = np.array([f"GENE{k:03d}" for k in range(n_genes)], dtype=object)
    types, rates = [], []
    for lineage, state, tissue in product(range(n_lineages), range(len(STATES)), range(len(TISSUES))):
        rate = base.copy()
        rate[blocks[lineage]] *= SWITCHED
        rate[blocks[n_lineages]] *= STATE_LEVELS[state]
        rate[blocks[n_lineages + 1 + tissue]] *= SWITCHED
        rates.append(rate / rate.sum())
        markers = ", ".join(genes[blocks[lineage]][:2])
        types.append(_described(LINEAGES[lineage], STATES[state], TISSUES[tissue], markers, len(types)))
    held_out = _held_out(n_lineages, n_held_out, rng)
    return World(genes, tuple(types), np.stack(rates), held_out)


def _described(lineage: str, state: str, tissue: str, markers: str, number: int) -> CellType:
    about = f"{_ABOUT[lineage].capitalize()}, marked by {markers}. {_ABOUT[state]}, and {_ABOUT[tissue]}."
    name = f"{state} {lineage} of the {tissue}"
    return CellType(name, name, f"generated:{number:02d}", about, lineage)


def _held_out(n_lineages: int, n: int, rng: np.random.Generator) -> tuple[int, ...]:
    combinations = list(product(range(n_lineages), range(len(STATES)), range(len(TISSUES))))
    for _ in range(1000):
        found = sorted(rng.choice(len(combinations), n, replace=False).tolist())
        rest = [c for k, c in enumerate(combinations) if k not in found]
        if all(len({c[k] for c in rest}) == m for k, m in enumerate((n_lineages, len(STATES), len(TISSUES)))):
            return tuple(found)
    raise ReprobookError(f"{n} of {len(combinations)} types cannot be held out with every attribute still seen")


def sample(world: World, n_per_type: int, seed: int) -> Cells:
    """``n_per_type`` cells of every type: negative binomial counts, log-normal depth."""
    rng = np.random.default_rng([seed, 34])
    types = np.repeat(np.arange(len(world.types)), n_per_type)
    depth = DEPTH * rng.lognormal(0.0, 0.3, len(types))
    mean = depth[:, None] * world.rates[types]
    counts = rng.poisson(rng.gamma(DISPERSION, mean / DISPERSION))
    labels = [world.types[k].label for k in types]
    return make_cells(sp.csr_matrix(counts.astype(np.float32)), world.genes, labels)
