"""The reader's tool: which heads to choose for a model size, a context, a batch, a precision and a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from reprobook.errors import ReprobookError
from reprobook.papers.cost_optimal_gqa.costs import (
    Cost,
    Objective,
    body_parameters,
    inference_cost,
    kv_values,
    parameters,
)

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.papers.cost_optimal_gqa.costs import (
        Heads,
        Shape,
    )
    from reprobook.papers.cost_optimal_gqa.laws import PowerLaw
    from reprobook.papers.cost_optimal_gqa.search import Family

# precision -> bytes of a weight, bytes of a cached value
PRECISIONS = {
    "fp32": (4.0, 4.0),
    "bf16": (2.0, 2.0),
    "int8 weights, bf16 cache": (1.0, 2.0),
    "int4 weights, bf16 cache": (0.5, 2.0),
    "int8": (1.0, 1.0),
}
BF16 = 2.0  # Z counts memory in values of BF16, whatever they are stored in


def plan(
    laws: Mapping[Heads, PowerLaw],
    rule: Heads,
    N: float,
    T: int,
    family: Family,
    *,
    batch: int = 1,
    precision: str = "bf16",
    gpu_gb: float = 80.0,
    objective: Objective | None = None,
) -> pd.DataFrame:
    """Every H of ``laws`` at the loss that ``rule`` reaches with N parameters (embeddings not counted).

    One row per H: n_h, n_kv, status, N, L, d, weights_gb, cache_gb (all ``batch`` sequences), total_gb, ``fits`` into
    ``gpu_gb`` (10^9 bytes; activations not counted), gflops per token, Z, ``best``: least Z among those that fit.
    ``status`` is "extrapolated" if the law is asked for a size far beyond those it was fitted to, "infeasible" if it
    can't reach the loss.
    """
    import pandas as pd

    if rule not in laws:
        raise ReprobookError(f"no law for the rule {rule}; laws: {', '.join(map(str, laws))}")
    if precision not in PRECISIONS:
        raise ReprobookError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    for name, value in (("N", N), ("gpu_gb", gpu_gb)):
        if not value > 0:
            raise ReprobookError(f"{name} is {value}; it must be above 0")
    objective, target = objective or Objective(), float(laws[rule](N))
    rows = []
    for H, law in laws.items():
        size = law.size_for(target)
        row = {"n_h": H[0], "n_kv": H[1], "status": "infeasible", "fits": False}
        if size is not None:
            status = "extrapolated" if law.extrapolates(size) else "ok"
            row |= {"status": status, **_needs(family.shape_for(size, H), T, batch, precision, objective)}
            row["fits"] = row["total_gb"] <= gpu_gb
        rows.append(row)
    table = pd.DataFrame(rows)
    table["best"] = table["Z"] == table.loc[table["fits"], "Z"].min()
    return table


def _needs(shape: Shape, T: int, batch: int, precision: str, objective: Objective) -> dict[str, float]:
    weight, value = PRECISIONS[precision]
    flops = inference_cost(shape, T, batch).flops
    weights, cache = weight * parameters(shape), value * batch * kv_values(shape, T)
    return {
        "N": body_parameters(shape),
        "L": shape.n_layers,
        "d": shape.d,
        "weights_gb": weights / 1e9,
        "cache_gb": cache / 1e9,
        "total_gb": (weights + cache) / 1e9,
        "gflops": flops / 1e9,
        "Z": float(objective(Cost((weights + cache) / BF16, flops))),
    }


def advice(table: pd.DataFrame, rule: Heads, family: Family, multiple: int = 64) -> str:
    """The plan in two sentences: the best heads, a buildable shape, and what they save against ``rule``."""
    best = table[table["best"]]
    if not len(best):
        return "Nothing fits: a shorter context, a smaller batch, fewer bits or more memory is needed."
    best = best.iloc[0]
    H = (int(best["n_h"]), int(best["n_kv"]))
    real = family.nearest_real(family.shape_for(best["N"], H), multiple)
    base = table[(table["n_h"] == rule[0]) & (table["n_kv"] == rule[1])].iloc[0]
    text = (
        f"{H[0]} query heads, {H[1]} KV head{'s' if H[1] > 1 else ''}; for example {real.n_layers:.0f} layers of width "
        f"{real.d:.0f} ({best['N'] / 1e9:.3g}B). Against {rule} at the same loss: memory "
        f"{best['total_gb'] / base['total_gb'] - 1:+.0%}, FLOPs per token {best['gflops'] / base['gflops'] - 1:+.0%}."
    )
    return text + (" EXTRAPOLATED: far beyond the fitted sizes." if best["status"] == "extrapolated" else "")
