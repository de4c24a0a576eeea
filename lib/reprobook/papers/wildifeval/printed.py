"""What follows from the paper's own figures: consistency of its counts, its two versions, its stability study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from reprobook.papers.wildifeval import scores

if TYPE_CHECKING:
    from reprobook.facts import Facts

TASKS, CONSTRAINTS, MEAN, MODELS = 7523, 24_731, 3.25, 14  # third version, Section 3 and Table 1
REPLICATES = 50


def counts(facts: Facts) -> pd.DataFrame:
    """Counts of the third version beside what they imply, and the first version's mean from its bars."""
    bars = facts.frame("tasks_v1")
    covered = facts.frame("coverage_v3")
    rows = [
        ("tasks times mean constraints (v3)", TASKS * MEAN, CONSTRAINTS),
        ("distinct constraints over tasks (v3)", CONSTRAINTS / TASKS, MEAN),
        ("mean constraints from the bars (v1)", float((bars["n"] * bars["tasks"]).sum() / bars["tasks"].sum()), MEAN),
        ("tasks in the bars (v1)", float(bars["tasks"].sum()), 11_813),
        ("largest difference of a printed share of tasks (v3)",
         float((covered["tasks"] / TASKS - covered["share"]).abs().max()), 0.0),
        ("judge calls, tasks times mean (v3)", MODELS * TASKS * MEAN, np.nan),
        ("judge calls, distinct constraints (v3)", float(MODELS * CONSTRAINTS), np.nan),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Quantity", "computed", "printed"])


def versions(facts: Facts) -> pd.DataFrame:
    """Soft scores of the same models in both versions, and their difference; task set, decomposer, judge and part of
    the responses changed together."""
    both = facts.frame("scores_v3").merge(facts.frame("scores_v1"), on="Model", validate="one_to_one")
    both = both.rename(columns={"soft": "soft (v3)", "mean fraction": "mean fraction (v1)", "strict": "strict (v3)"})
    both["difference"] = both["soft (v3)"] - both["mean fraction (v1)"]
    return both


def spread(facts: Facts) -> pd.DataFrame:
    """Published spread of the strict means over 50 subsamples beside the formula for drawing without replacement,
    averaged over the published means, and its relative difference."""
    table, p = facts.frame("subsampling"), facts.frame("scores_v3")["strict"].to_numpy()
    formula = [scores.without_replacement(p, n, TASKS).mean() for n in table["N"]]
    return pd.DataFrame({"N": table["N"], "published": table["std strict"], "formula": formula,
                         "difference": table["std strict"] - formula})  # fmt: skip


def shared_difficulty(facts: Facts, seed: int = 0) -> float:
    """Correlation of the latent difficulty at which simulated tasks have the published width of the first gap at 1,000
    tasks, from a grid of twentieths: independent tasks would be far too noisy."""
    p = facts.frame("scores_v3")["strict"].to_numpy()
    published = facts.frame("subsampling").set_index("N").loc[1000, "CI width strict"]
    grid = np.arange(0, 20) / 20
    widths = [scores.stability(scores.simulated(p, TASKS, each, seed), [1000], REPLICATES)["width"][0] for each in grid]
    return float(grid[np.argmin(np.abs(np.array(widths) - published))])


def agreement(facts: Facts) -> pd.DataFrame:
    """Kendall's tau between the model rankings of every pair of categories, first version, the six models printed."""
    return scores.kendall(facts.frame("categories_v1").set_index("Category"))


def order(facts: Facts) -> pd.DataFrame:
    """Mean rank of the categories over the six printed models of the first version, 1 the easiest."""
    ranks = scores.category_order(facts.frame("categories_v1").set_index("Category"))
    return ranks.rename("mean rank").rename_axis("Category").reset_index()
