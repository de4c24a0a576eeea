"""The three-step search: candidates, the smallest size that reaches the loss, the cheapest heads (Section 4.1, B.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import brentq

from reprobook.errors import ReprobookError
from reprobook.papers.cost_optimal_gqa.costs import Objective, Shape, body_parameters, inference_cost

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.papers.cost_optimal_gqa.costs import Heads
    from reprobook.papers.cost_optimal_gqa.laws import PowerLaw

# (L, d) of the paper's models (Tables 9 and 7), smallest first
REFERENCES = (
    (4, 256), (6, 512), (12, 768), (12, 1024), (16, 1024), (24, 1280), (24, 1536), (36, 1536),
    (36, 2048), (48, 2560), (54, 3072), (64, 4096), (72, 6144), (80, 8192),
)  # fmt: skip


def candidates(max_heads: int = 32) -> list[Heads]:
    """Step 1: all (n_h, n_kv) of powers of two with n_kv <= n_h <= max_heads; 21 for the paper's 32."""
    if max_heads < 1:
        raise ReprobookError(f"max_heads is {max_heads}; it must be at least 1")
    powers = [2**k for k in range(int(math.log2(max_heads)) + 1)]
    return [(n_h, n_kv) for n_h in powers for n_kv in powers if n_kv <= n_h]


@dataclass(frozen=True)
class Family:
    """Models that differ in size alone: reference (L, d), smallest first, and what they share.

    Between neighbours L and the aspect ratio d / L run linearly; beyond the ends the ratio stays and L goes on
    (Appendix B.1). ``d_h``, ``vocab``, ``tied`` as in :class:`Shape`.
    """

    references: Sequence[tuple[float, float]] = REFERENCES
    d_h: int = 64
    vocab: int = 50_304
    tied: bool = True

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        layers, widths = np.asarray(self.references, dtype=np.float64).T
        return layers, widths / layers

    def shape_at(self, s: float, H: Heads) -> Shape:
        """Shape at position ``s`` on the line through the references: 0 is the first, 1 the second, and so on."""
        layers, ratio = self._table
        k = np.arange(len(layers))
        beyond = math.exp(s - np.clip(s, 0, len(layers) - 1))
        L = float(np.interp(s, k, layers)) * beyond
        return Shape(L, L * float(np.interp(s, k, ratio)), *H, d_h=self.d_h, vocab=self.vocab, tied=self.tied)

    def shape_for(self, N: float, H: Heads) -> Shape:
        """The shape with heads H and N parameters without embeddings, L and d real-valued, by bisection."""
        if not (math.isfinite(N) and N > 0):
            raise ReprobookError(f"N is {N}; a model has a positive number of parameters")

        def gap(s: float) -> float:
            return math.log(body_parameters(self.shape_at(s, H)) / N)

        return self.shape_at(self._root(gap), H)

    def shape_costing(self, amount: float, measure: Callable[[Shape], float], H: Heads) -> Shape:
        """The shape with heads H for which ``measure`` (memory, FLOPs or Z; it grows with the size) is ``amount``."""
        if not (math.isfinite(amount) and amount > 0):
            raise ReprobookError(f"the budget is {amount}; it must be above 0")
        return self.shape_at(self._root(lambda s: math.log(measure(self.shape_at(s, H)) / amount)), H)

    def _root(self, gap: Callable[[float], float]) -> float:
        """Where on the line of shapes a rising ``gap`` is zero."""
        low, high = -1.0, float(len(self.references))
        while gap(low) > 0:
            low *= 2
        while gap(high) < 0:
            high *= 2
        return float(brentq(gap, low, high, xtol=1e-12))

    def nearest_real(self, shape: Shape, multiple: int = 64) -> Shape:
        """The buildable shape nearest in N: whole L, d a multiple of ``multiple``, d_ff of 32 (Appendix D)."""
        target = body_parameters(shape)
        layers = {max(1, math.floor(shape.n_layers)), math.ceil(shape.n_layers)}
        widths = {max(multiple, f(shape.d / multiple) * multiple) for f in (math.floor, math.ceil)}
        options = [rounded(replace(shape, n_layers=L, d=d)) for L in sorted(layers) for d in sorted(widths)]
        return min(options, key=lambda each: abs(math.log(body_parameters(each) / target)))


def rounded(shape: Shape, multiple: int = 32) -> Shape:
    """The shape with d_ff = 8 d / 3 rounded to a multiple of ``multiple``, as in real models (Appendix D)."""
    return replace(shape, d_ff=max(multiple, round(shape.ffn / multiple) * multiple))


def trained_shape(row: Mapping[str, Any], d_h: int, vocab: int) -> Shape:
    """The shape of a row (L, d, n_h, n_kv) of a table of trained models; d_ff is a multiple of 32, of 8 if heads are
    smaller than that."""
    L, d, n_h, n_kv = (int(row[name]) for name in ("L", "d", "n_h", "n_kv"))
    return rounded(Shape(L, d, n_h, n_kv, d_h=d_h, vocab=vocab), multiple=32 if d_h >= 32 else 8)


def search(
    laws: Mapping[Heads, PowerLaw],
    target: float,
    T: float | Sequence[float],
    family: Family,
    objective: Objective | None = None,
    batch: int = 1,
) -> pd.DataFrame:
    """Steps 2 and 3: for each H of ``laws`` the smallest size that reaches the loss ``target``, and its cost at T.

    One row per H: n_h, n_kv, status ("ok", "extrapolated": far beyond the fitted sizes, "infeasible": the loss is not
    above E), N, L, d, memory (values), flops (a token), Z, ``best`` (least Z) and ``pareto`` (no other H is as good
    in both memory and FLOPs). Infeasible rows hold NaN and are never best.
    """
    import pandas as pd

    objective = objective or Objective()
    rows = [_row(H, law, target, T, family, objective, batch) for H, law in laws.items()]
    table = pd.DataFrame(rows)
    table["best"] = table["Z"] == table["Z"].min()
    table["pareto"] = pareto(table[["memory", "flops"]].to_numpy())
    return table


def _row(
    H: Heads, law: PowerLaw, target: float, T: float | Sequence[float], family: Family, objective: Objective, batch: int
) -> dict[str, float | int | str]:
    N = law.size_for(target)
    nothing = dict.fromkeys(("N", "L", "d", "memory", "flops", "Z"), math.nan)
    if N is None:
        inference_cost(family.shape_at(0, H), T, batch)  # a wrong context is an error for infeasible targets, too
        return {"n_h": H[0], "n_kv": H[1], "status": "infeasible", **nothing}
    shape = family.shape_for(N, H)
    cost = inference_cost(shape, T, batch)
    return {
        "n_h": H[0],
        "n_kv": H[1],
        "status": "extrapolated" if law.extrapolates(N) else "ok",
        "N": N,
        "L": shape.n_layers,
        "d": shape.d,
        "memory": cost.memory,
        "flops": cost.flops,
        "Z": float(objective(cost)),
    }


def best_heads(table: pd.DataFrame) -> Heads | None:
    """(n_h, n_kv) of the cheapest row of a search; None if every candidate is infeasible."""
    best = table[table["best"]]
    return (int(best["n_h"].iloc[0]), int(best["n_kv"].iloc[0])) if len(best) else None


def pareto(costs: np.ndarray) -> np.ndarray:
    """Whether each row of ``costs`` (n, 2) is dominated by no other: none is at most as dear in both and not equal.

    Rows with NaN are never in the set.
    """
    known = np.isfinite(costs).all(axis=1)
    no_dearer = (costs[None, :, :] <= costs[:, None, :]).all(-1)  # [i, j]: j costs at most what i costs
    cheaper = (costs[None, :, :] < costs[:, None, :]).any(-1)
    return known & ~(no_dearer & cheaper & known[None, :]).any(axis=1)


def optima(
    laws: Mapping[Heads, PowerLaw],
    targets: Iterable[float],
    contexts: Iterable[float],
    family: Family,
    objective: Objective | None = None,
) -> pd.DataFrame:
    """The cost-optimal H for every target and context (the layout of Table 4): target, T, n_h, n_kv, status.

    ``status`` is "infeasible" where no candidate reaches the target; n_h and n_kv are then NA.
    """
    import pandas as pd

    rows = []
    contexts = list(contexts)
    for target in targets:
        for T in contexts:
            table = search(laws, target, T, family, objective)
            H = best_heads(table)
            status = "infeasible" if H is None else table.loc[table["best"], "status"].iloc[0]
            n_h, n_kv = H or (pd.NA, pd.NA)
            rows.append({"target": target, "T": T, "n_h": n_h, "n_kv": n_kv, "status": status})
    return pd.DataFrame(rows)


def at_equal_cost(
    laws: Mapping[Heads, PowerLaw],
    rule: Heads,
    N: float,
    T: float,
    family: Family,
    equal: str,
    objective: Objective | None = None,
) -> pd.DataFrame:
    """The first version's way: the loss of each H at the memory, FLOPs or Z that ``rule`` with N parameters costs at T.

    ``equal`` is "memory", "flops" or "Z". One row per H: n_h, n_kv, N, loss, status ("ok" or "extrapolated"), ``best``.
    """
    import pandas as pd

    objective = objective or Objective()
    measures: dict[str, Callable[[Shape], float]] = {
        "memory": lambda shape: inference_cost(shape, T).memory,
        "flops": lambda shape: inference_cost(shape, T).flops,
        "Z": lambda shape: float(objective(inference_cost(shape, T))),
    }
    if equal not in measures:
        raise ReprobookError(f"equal is {equal!r}; it must be one of {', '.join(measures)}")
    budget, rows = measures[equal](family.shape_for(N, rule)), []
    for H, law in laws.items():
        size = body_parameters(family.shape_costing(budget, measures[equal], H))
        status = "extrapolated" if law.extrapolates(size) else "ok"
        rows.append({"n_h": H[0], "n_kv": H[1], "N": size, "loss": float(law(size)), "status": status})
    table = pd.DataFrame(rows)
    table["best"] = table["loss"] == table["loss"].min()
    return table


def saving(laws: Mapping[Heads, PowerLaw], rule: Heads, target: float, T: float, family: Family,
           objective: Objective | None = None) -> dict[str, Any]:  # fmt: skip
    """What the best H of the search saves against ``rule`` at equal loss: shares of memory and FLOPs that go away."""
    table = search(laws, target, T, family, objective)
    H = best_heads(table)
    ours = table[(table["n_h"] == rule[0]) & (table["n_kv"] == rule[1])]
    if H is None or not len(ours) or ours["status"].iloc[0] == "infeasible":
        raise ReprobookError(f"no saving to state: heads {rule} or all candidates cannot reach the loss {target:.4g}")
    best = table[table["best"]].iloc[0]
    return {
        "heads": f"({H[0]}, {H[1]})",
        "memory saved": 1 - best["memory"] / ours["memory"].iloc[0],
        "FLOPs saved": 1 - best["flops"] / ours["flops"].iloc[0],
        "N of the rule": round(float(ours["N"].iloc[0])),
        "N of the best": round(float(best["N"])),
        "status": best["status"],
    }
