"""What the paper's own figures and logs say, recomputed: what was kept, spreads, and the bias of a maximum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import integrate, stats

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.facts import Facts

ITERATIONS = [str(k) for k in range(11)]


def series(logs: pd.DataFrame, run: str, measure: str) -> np.ndarray:
    """A logged series over iterations, NaN where the log has nothing."""
    found = logs[(logs["run"] == run) & (logs["measure"] == measure)]
    if len(found) != 1:
        raise ReprobookError(f"the logs have {len(found)} series of {measure!r} for {run!r}")
    return found[ITERATIONS].iloc[0].to_numpy(dtype=np.float64)


def spread_over_iterations(values: Sequence[float] | np.ndarray) -> float:
    """Population standard deviation (divisor n) over the logged iterations: the paper's "±"."""
    array = np.asarray(values, dtype=np.float64)
    return float(np.nanstd(array))


def kept_against_change(kept: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept pairs of iteration n beside the change of accuracy from n to n + 1, where the log has both."""
    change = np.diff(accuracy)
    both = np.isfinite(change) & np.isfinite(kept[:-1])
    return kept[:-1][both], change[both]


def expected_maximum(n: int) -> float:
    """E[max] of n independent standard normal numbers: by how many standard errors the best of n scores of one and
    the same model exceeds its mean."""
    if n < 1:
        raise ReprobookError(f"n is {n}; it must be at least 1")
    density = stats.norm.pdf
    value, _ = integrate.quad(lambda x: x * n * density(x) * stats.norm.cdf(x) ** (n - 1), -12, 12)
    return float(value)


def standard_error(p: float, n: int) -> float:
    """Standard error of an accuracy ``p`` over ``n`` questions."""
    return math.sqrt(p * (1 - p) / n)


def counted(facts: Facts, n_questions: int = 500) -> pd.DataFrame:
    """What I and N kept at iteration 0, as shares of the pairs. For 0/1 rewards the training accuracy of corrections is
    the share that N as printed keeps, and that of I and N as run together."""
    rows = []
    for row in facts.frame("counts").itertuples(index=False):
        values: tuple[Any, ...] = row[:7]
        model, runs, n_init, n_corr, improving, kept, logged_accuracy = values
        pairs = n_questions * n_init * n_corr * n_init
        close = abs((improving + kept) - logged_accuracy * pairs) < 1.5
        rows.append({
            "model": model, "runs": runs, "kept by I": improving, "kept by N": kept, "I + N": improving + kept,
            "accuracy, logged": logged_accuracy, "N / crossed pairs": kept / pairs,
            "(I + N) / crossed pairs": (improving + kept) / pairs,
            "(I + N) / matched pairs": (improving + kept) / pairs * n_init,
            "I + N is all that is right": bool(close) if logged_accuracy == logged_accuracy else None,
        })  # fmt: skip
    return pd.DataFrame(rows)


def logged(facts: Facts) -> pd.DataFrame:
    """The printed maximum and "±" of each run beside what its logs give: maximum, spread over iterations, last
    iteration, and net repairs (corrections minus initial answers) before training and at the end."""
    logs, table = facts.frame("logs"), facts.frame("table2").set_index("Variant")
    rows = []
    for run in logs.loc[logs["measure"] == "correction", "run"]:
        model, variant = run.split()
        values = series(logs, run, "correction")
        first = values[:1]  # of fixed runs Table 2 has the initial answers
        if ((logs["run"] == run) & (logs["measure"] == "initial")).any():
            first = series(logs, run, "initial")
        elif variant[0] == "F":
            first = np.full(len(values), table.loc[variant, f"{model} r(Y1)"])
        net = values - first
        there = np.isfinite(net)
        rows.append({
            "run": run, "best": np.nanmax(values), "printed best": table.loc[variant, f"{model} r(Y2)"],
            "sd over iterations": spread_over_iterations(values), "printed ±": table.loc[variant, f"{model} sd 2"],
            "last logged": values[np.isfinite(values)][-1], "net repairs, before": net[0],
            "net repairs, last logged": net[there][-1],
        })  # fmt: skip
    return pd.DataFrame(rows)


def correlations(facts: Facts) -> pd.DataFrame:
    """Kept pairs against the next change of accuracy, for the runs whose logs have both."""
    logs = facts.frame("logs")
    rows = []
    for run in ("Phi-3 FIE", "Phi-3 ENE", "Qwen EIE", "Qwen EIF", "Qwen ENF"):
        kept, change = kept_against_change(*(series(logs, run, measure) for measure in ("kept", "correction")))
        rows.append({"run": run, "changes": len(kept), "r": np.corrcoef(kept, change)[0, 1]})
    return pd.DataFrame(rows)


def contradictions(facts: Facts) -> pd.DataFrame:
    """What the printed figures say twice, and differently, or what cannot be."""
    counts: Any = facts.frame("counts").iloc[1]
    second: Any = facts.frame("table2").set_index("Variant").loc["EIF"]
    first: Any = facts.frame("table1").set_index(["N_init", "N_corr"]).loc[(5, 5)]
    best_of = expected_maximum(len(ITERATIONS)) * standard_error(0.23, 500)
    return pd.DataFrame([
        ("Qwen EIF at (5, 5), initial answers: Table 1, Table 2", first["Qwen r(Y1)"], second["Qwen r(Y1)"]),
        ("Qwen EIF at (5, 5), corrections: Table 1, Table 2", first["Qwen r(Y2)"], second["Qwen r(Y2)"]),
        ("Phi-3 FNE, fixed initial answers: kept first, most later", counts["kept by N"], counts["most later"]),
        ("the best of 11 equal scores is too good by (0.23 right, 500 questions)", best_of, None),
    ], columns=["what", "one", "other"])  # fmt: skip
