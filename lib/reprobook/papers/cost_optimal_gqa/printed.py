"""What the paper prints about heads and loss, as laws: the head-count fits of Appendix I, and a loss surface rebuilt
from its other figures, because the a, b and E that it fitted are not published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import differential_evolution

from reprobook.errors import ReprobookError
from reprobook.papers.cost_optimal_gqa.costs import Cost, Heads, Objective, Shape, body_parameters, parameters
from reprobook.papers.cost_optimal_gqa.laws import PowerLaw
from reprobook.papers.cost_optimal_gqa.search import Family, candidates

if TYPE_CHECKING:
    import pandas as pd

# Appendix I, training context 1K, MHA-like scaling: size -> a n_h^b + c
HEAD_FITS = {
    "470M": PowerLaw(0.579, 0.124, 2.473),
    "680M": PowerLaw(0.398, 0.177, 2.583),
    "1.2B": PowerLaw(0.301, 0.227, 2.622),
}
# The 470M model with the constant fixed to 1.53, by training context in thousands of tokens
CONTEXT_FITS = {1: PowerLaw(1.513, 0.039, 1.53), 2: PowerLaw(1.436, 0.041, 1.53), 8: PowerLaw(1.356, 0.044, 1.53)}

Anchor = tuple[Heads, float, float]  # heads, N without embeddings, loss


def llama3_rule(d: float, d_h: int = 64, n_kv: int = 8) -> Heads:
    """H = (d / d_h, 8), the head rule that the paper calls Llama-3 GQA; n_h rounded to a multiple of n_kv."""
    return (max(1, round(d / d_h / n_kv)) * n_kv, n_kv)


def printed_anchors() -> list[Anchor]:
    """The four losses that the paper prints with their heads (caption of Table 4, Section 5.2).

    N of the two models whose (L, d) is printed is counted; of "3B" and "8B" the label is taken for N.
    """
    family = Family()
    small, wide = Shape(36, 1536, 24, 8), Shape(36, 2048, 8, 1)
    anchors = [((24, 8), body_parameters(small), 2.615), ((8, 1), body_parameters(wide), 2.615)]
    for N, loss in ((3e9, 2.448), (8e9, 2.362)):
        anchors.append((llama3_rule(family.shape_for(N, (32, 8)).d), N, loss))
    return anchors


@dataclass(frozen=True)
class Surface:
    """Size laws for every H from few numbers: L(N; H) = (a_H / N)^b + E, a_H = a0 + u / n_h^p + v / n_kv^q."""

    b: float
    E: float
    p: float
    q: float
    a0: float
    u: float
    v: float

    def a(self, n_h: np.ndarray | float, n_kv: np.ndarray | float) -> np.ndarray | float:
        """The scale of the size law of n_h query and n_kv key-value heads."""
        return self.a0 + self.u / np.asarray(n_h, float) ** self.p + self.v / np.asarray(n_kv, float) ** self.q

    def law(self, H: Heads, largest: float = math.inf) -> PowerLaw:
        """The size law of heads H, trusted up to :data:`laws.TRUSTED` times ``largest`` parameters."""
        return PowerLaw(float(self.a(*H)) ** self.b, self.b, self.E, largest=largest)

    def laws(self, heads: Sequence[Heads], largest: float = math.inf) -> dict[Heads, PowerLaw]:
        """The size law of each head configuration."""
        return {H: self.law(H, largest) for H in heads}


def through(anchors: Sequence[Anchor], b: float, E: float, p: float, q: float) -> tuple[Surface, np.ndarray]:
    """The surface with exponents b, p, q and entropy E that meets ``anchors`` best, and the relative errors left in a.

    Given b and E each anchor says what a_H is, N (L - E)^(1/b), and a_H is linear in (a0, u, v).
    """
    a = np.array([N * (loss - E) ** (1 / b) for _, N, loss in anchors])
    design = np.array([[1.0, H[0] ** -p, H[1] ** -q] for H, _, _ in anchors]) / a[:, None]
    numbers, *_ = np.linalg.lstsq(design, np.ones(len(a)), rcond=None)
    return Surface(*map(float, (b, E, p, q, *numbers))), design @ numbers - 1


class OptimaTable:
    """The optima of a surface for fixed targets and contexts, fast enough to be searched over surfaces.

    It is :func:`search.optima` with L and N looked up on an even grid of log N; ``match`` compares with printed cells.
    """

    def __init__(
        self, targets: Sequence[float], contexts: Sequence[float], family: Family | None = None, n: int = 800
    ) -> None:
        family, heads = family or Family(), candidates(32)
        self.targets, self.contexts = np.asarray(targets, float), np.asarray(contexts, float)
        self.n_h, self.n_kv = np.array(heads, float).T
        self.d_h, self.grid = family.d_h, np.linspace(math.log(1e5), math.log(1e13), n)
        line = np.linspace(-5.0, len(family.references) + 4.0, n)
        looked_up = []
        for H in heads:
            shapes = [family.shape_at(s, H) for s in line]
            at = [math.log(body_parameters(s)) for s in shapes]
            looked_up.append([np.interp(self.grid, at, [f(s) for s in shapes]) for f in (_layers, parameters)])
        self.table = np.array(looked_up)  # (heads, 2, n): L and N with embeddings

    def __call__(self, surface: Surface, objective: Objective) -> np.ndarray:
        """(targets, contexts, 2): n_h and n_kv of least Z. Every target must lie above E."""
        needed = np.log(surface.a(self.n_h, self.n_kv)) - np.log(self.targets[:, None] - surface.E) / surface.b
        x = (needed - self.grid[0]) / (self.grid[1] - self.grid[0])
        i = np.clip(x.astype(int), 0, len(self.grid) - 2)
        each, part = np.arange(len(self.n_h)), np.clip(x - i, 0, 1)
        L, N = (self.table[each, k, i] * (1 - part) + self.table[each, k, i + 1] * part for k in (0, 1))
        grown = self.contexts[:, None, None] * L * self.d_h
        best = objective(Cost(N + 2 * grown * self.n_kv, 2 * N + 4 * grown * self.n_h)).argmin(-1).T
        return np.stack([self.n_h[best], self.n_kv[best]], -1)

    def match(self, surface: Surface, objective: Objective, printed: np.ndarray) -> dict[str, float]:
        """How far the optima are from ``printed``: cells equal, cells with equal n_h, mean doublings off per number."""
        ours = self(surface, objective)
        return {
            "cells equal": int((ours == printed).all(-1).sum()),
            "cells with equal n_h": int((ours[..., 0] == printed[..., 0]).sum()),
            "doublings off": float(np.abs(np.log2(ours) - np.log2(printed)).mean()),
            "cells": int(printed.shape[0] * printed.shape[1]),
        }


def _layers(shape: Shape) -> float:
    return shape.n_layers


def rebuild(
    anchors: Sequence[Anchor],
    table: OptimaTable,
    printed: np.ndarray,
    objective: Objective | None = None,
    seed: int = 0,
) -> Surface:
    """The surface that meets ``anchors`` and comes nearest to the ``printed`` optima (Table 4), in doublings of heads.

    Not the paper's law: the simplest one that agrees with what the paper prints. Searched by differential evolution
    over (b, E, p, q); the other three numbers follow from the anchors.
    """
    objective = objective or Objective()
    least = min(float(table.targets.min()), *(loss for _, _, loss in anchors))
    if least <= 0.02:
        raise ReprobookError(f"the lowest loss is {least}; the entropy must find room below it")

    def misfit(numbers: np.ndarray) -> float:
        surface, error = through(anchors, *numbers)
        if min(surface.a0, surface.u, surface.v) < 0:
            return 1e3
        off = np.abs(np.log2(table(surface, objective)) - np.log2(printed)).sum()
        return float(off + 1e4 * error @ error)

    bounds = [(0.1, 0.8), (0.5 * least, least - 0.01), (0.2, 2.5), (0.2, 2.5)]
    found = differential_evolution(misfit, bounds, seed=seed, popsize=12, maxiter=60, tol=1e-8, polish=False)
    return through(anchors, *found.x)[0]


def optima_array(frame: pd.DataFrame) -> np.ndarray:
    """Cells "n_h,n_kv" of the printed Table 4 (first column: the target) as an array (targets, contexts, 2)."""
    return np.array([[[float(part) for part in cell.split(",")] for cell in row[1:]] for row in frame.to_numpy()])


def crossings(laws: Mapping[str, PowerLaw]) -> list[dict[str, str | float | None]]:
    """n_h at which each pair of head-count fits crosses; beyond it the smaller model would win."""
    from reprobook.papers.cost_optimal_gqa.laws import crossing

    names = list(laws)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return [{"curves": f"{a} and {b}", "n_h": crossing(laws[a], laws[b])} for a, b in pairs]
