r"""Scores of tasks and what the paper makes of them.

With judgements :math:`J\in\{0,1\}` of the constraints :math:`c_i^1,\dots,c_i^{N}` of task :math:`t_i`,

.. math:: \mathrm{soft}=\frac1N\sum_j J(t_i,r_i,c_i^j),\qquad \mathrm{strict}=\prod_j J(t_i,r_i,c_i^j).

Frames have one row a judged constraint: ``task``, ``n`` (constraints of the task), ``category``, ``met`` (0 or 1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.wildifeval.kinds import CATEGORIES

if TYPE_CHECKING:
    import pandas as pd

PMI_EPSILON = 1e-10  # released code


def soft(met: Sequence[bool | float]) -> float:
    """Share of fulfilled constraints. An empty list is an error: the released code gives 0 for it, and so counts a
    task without constraints as failed."""
    return math.fsum(_checked(met)) / len(met)


def strict(met: Sequence[bool | float]) -> float:
    """1 if all constraints are fulfilled, else 0; an empty list is an error."""
    return float(all(_checked(met)))


def _checked(met: Sequence[bool | float]) -> Sequence[bool | float]:
    if not len(met):
        raise ReprobookError("a task without constraints has no score: leave it out")
    if any(each not in (0, 1) for each in met):
        raise ReprobookError(f"judgements must be 0 or 1, got {list(met)}")
    return met


def task_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """``n``, ``soft`` and ``strict`` of each task (index), whatever the order of its constraints."""
    by = frame.groupby("task", sort=False)["met"]
    return frame.groupby("task", sort=False)[["n"]].first().assign(soft=by.mean(), strict=by.min().astype(float))


def by_count(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores by number of constraints ``n`` as the paper has them: ``strict``, mean over tasks; ``soft``, pooled over
    constraints, with ``half``, its :math:`1.96\\sqrt{p(1-p)/m}`, which takes constraints of a task as independent;
    ``normalised``, the mean of the categories' means."""
    tasks = task_scores(frame)
    by = frame.groupby("n")["met"]
    p, m = by.mean(), by.size()
    normalised = frame.groupby(["n", "category"])["met"].mean().groupby("n").mean()
    told = {"tasks": tasks.groupby("n").size(), "strict": tasks.groupby("n")["strict"].mean(), "soft": p,
            "half": 1.96 * np.sqrt(p * (1 - p) / m), "normalised": normalised}  # fmt: skip
    import pandas as pd

    return pd.DataFrame(told).reset_index()


def slope_scores(tasks: pd.DataFrame, measure: str, least: int = 2) -> pd.Series:
    """One number a task whose mean is the least-squares change of ``measure`` over the range of ``n`` from ``least`` on
    (``n`` = 2 to 8: six steps): the slope is linear in the scores."""
    used = tasks[tasks["n"] >= least]
    x = used["n"] - used["n"].mean()
    spread = float((x**2).sum())
    if spread == 0:
        raise ReprobookError(f"a slope needs two numbers of constraints from {least} on")
    return used[measure] * x / spread * len(used) * (used["n"].max() - used["n"].min())


def product_of_rates(frame: pd.DataFrame) -> pd.Series:
    """What strict would be for each task if its constraints were met independently at the rates of their kind and
    number of constraints: :math:`\\prod_j p_{k(j),n}`; with one rate this is :math:`p^n`."""
    rate = frame.groupby(["n", "kind"])["met"].transform("mean")
    return rate.groupby(frame["task"], sort=False).prod()


# ------------------------------------------------------------------------------------------------- categories


def cooccurrence(tasks: Sequence[Sequence[str]], form: str = "pmi") -> pd.DataFrame:
    r"""Co-occurrence of categories over the tasks with two or more of them, Other left out: :math:`N` of them, of which
    :math:`C_{ij}` have both.

    ``form`` "pmi" (third version): :math:`\ln\frac{C_{ij}/N+\epsilon}{(C_{ii}/N)(C_{jj}/N)+\epsilon}`, 0 on the
    diagonal; "ratio" (first version): :math:`C_{ij}N/(C_{ii}C_{jj})`, 1 on the diagonal."""
    import pandas as pd

    if form not in ("pmi", "ratio"):
        raise ReprobookError(f"form {form!r} must be pmi or ratio")
    held = np.array([[category in task for category in CATEGORIES] for task in tasks], dtype=float)
    held = held[held.sum(1) >= 2] if len(held) else np.zeros((0, len(CATEGORIES)))
    if not len(held):
        raise ReprobookError("no task has two categories")
    n, both = len(held), held.T @ held
    alone = np.outer(np.diag(both), np.diag(both))
    if form == "pmi":
        value = np.log((both / n + PMI_EPSILON) / (alone / n**2 + PMI_EPSILON))
        np.fill_diagonal(value, 0.0)
    else:
        value = np.divide(both * n, alone, out=np.full_like(both, np.nan), where=alone > 0)
        np.fill_diagonal(value, 1.0)
    return pd.DataFrame(value, index=CATEGORIES, columns=CATEGORIES)


def category_order(table: pd.DataFrame) -> pd.Series:
    """Mean rank of each category (rows of ``table``; columns: models), 1 the easiest, in this order; ties share."""
    return table.rank(ascending=False).mean(axis=1).sort_values()


def kendall(table: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b between the rankings of models (columns) that each pair of categories (rows) gives."""
    import pandas as pd
    from scipy.stats import kendalltau

    rows = table.to_numpy()
    value = [[kendalltau(a, b).statistic for b in rows] for a in rows]
    return pd.DataFrame(value, index=table.index, columns=table.index)


def category_agreement(frame: pd.DataFrame, n_groups: int = 20, seed: int = 0) -> pd.DataFrame:
    """Kendall's tau between the rankings of responders by category, mean over pairs of categories, and that of Length
    with the others minus that among these (NaN without them), each with a 95 % interval over tasks: jackknife, one of
    ``n_groups`` random groups of tasks left out at a time. ``frame``: as above, with ``responder``."""
    import pandas as pd
    from scipy.stats import t

    def measures(part: pd.DataFrame) -> list[float]:
        by = part.groupby(["category", "responder"])["met"].mean().unstack()
        tau = kendall(by.loc[[c for c in CATEGORIES if c in by.index]])
        value = tau.to_numpy(dtype=float, copy=True)
        np.fill_diagonal(value, np.nan)
        length = np.array(tau.index == "Length")
        apart = value[np.ix_(length, ~length)], value[np.ix_(~length, ~length)]
        gap = np.nanmean(apart[0]) - np.nanmean(apart[1]) if length.any() and len(tau) > 2 else np.nan
        return [float(np.nanmean(value)), float(gap)]

    tasks = frame["task"].unique()
    if len(tasks) < n_groups:
        raise ReprobookError(f"n_groups {n_groups} must be at most the {len(tasks)} tasks")
    order = np.random.default_rng(seed).permutation(len(tasks)) % n_groups
    group = frame["task"].map(dict(zip(tasks, order, strict=True)))
    left_out = np.array([measures(frame[group != g]) for g in range(n_groups)])
    estimate = np.array(measures(frame))
    half = t.ppf(0.975, n_groups - 1) * np.sqrt((n_groups - 1) * left_out.var(0))
    names = ["mean tau", "tau of Length minus others"]
    return pd.DataFrame({"measure": names, "estimate": estimate, "low": estimate - half, "high": estimate + half})


# ------------------------------------------------------------------------------------------------- significance


def mcnemar(a: Sequence[float] | pd.Series, b: Sequence[float] | pd.Series) -> tuple[float, float]:
    """McNemar's chi-square with continuity correction and its p-value, as the released code has it, of strict scores
    of the same tasks. Without a discordant pair: 0 and 1."""
    from scipy.stats import chi2

    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    n10, n01 = int((first & ~second).sum()), int((~first & second).sum())
    if n10 + n01 == 0:
        return 0.0, 1.0
    statistic = (abs(n10 - n01) - 1) ** 2 / (n10 + n01)
    return statistic, float(chi2.sf(statistic, 1))


def significance(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every pair of responders on the same tasks: McNemar on strict, paired t on soft (p-values)."""
    import pandas as pd
    from scipy.stats import ttest_rel

    rows = []
    for a, b in itertools.combinations(scores, 2):
        both = scores[a].merge(scores[b], left_index=True, right_index=True, suffixes=(" a", " b"))
        _, p = mcnemar(both["strict a"], both["strict b"])
        rows.append({"a": a, "b": b, "tasks": len(both), "strict, McNemar": p,
                     "soft, paired t": float(ttest_rel(both["soft a"], both["soft b"]).pvalue)})  # fmt: skip
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------- stability


def without_replacement(p: np.ndarray | float, n: int, total: int) -> np.ndarray:
    r"""Standard deviation of a strict mean p from n of M tasks: :math:`\sqrt{\frac{p(1-p)}{n}\frac{M-n}{M-1}}`."""
    if not 1 <= n <= total or total < 2:
        raise ReprobookError(f"n {n} must be from 1 to the {total} tasks")
    p = np.asarray(p, dtype=float)
    return np.sqrt(p * (1 - p) / n * (total - n) / (total - 1))


def stability(scores: np.ndarray, sizes: Sequence[int], replicates: int = 50, seed: int = 42) -> pd.DataFrame:
    """The released stability study of scores (tasks, models): for each size, ``std`` of the models' means over
    replicates (divisor r - 1, mean over models), ``tau`` to the full ranking, and ``width`` of the 2.5 to 97.5
    percentile range of best minus second best within a replicate. Draws are without replacement."""
    import pandas as pd
    from scipy.stats import kendalltau

    rng, full, rows = np.random.default_rng(seed), scores.mean(0), []
    for size in sizes:
        drawn = [rng.choice(len(scores), size, replace=False) for _ in range(replicates)]
        means = np.array([scores[index].mean(0) for index in drawn])
        ranked = np.sort(means, axis=1)
        low, high = np.percentile(ranked[:, -1] - ranked[:, -2], [2.5, 97.5])
        taus = [kendalltau(each, full).statistic for each in means]
        rows.append({"N": size, "std": means.std(0, ddof=1).mean(), "tau": np.mean(taus), "width": high - low})
    return pd.DataFrame(rows)


def simulated(p: Sequence[float] | np.ndarray, n_tasks: int, shared: float, seed: int) -> np.ndarray:
    """Strict scores (tasks, models) of models with means ``p``, whose tasks have a common difficulty: normal scores
    with correlation ``shared`` between any two models, cut at the quantiles of ``p``."""
    from scipy.stats import norm

    if not 0 <= shared < 1:
        raise ReprobookError(f"shared {shared} must be in [0, 1)")
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal((n_tasks, 1)), rng.standard_normal((n_tasks, len(p)))
    return (math.sqrt(shared) * common + math.sqrt(1 - shared) * own < norm.ppf(np.asarray(p))).astype(float)
