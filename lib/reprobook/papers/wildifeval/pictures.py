"""Drawings: a task taken apart, scores over the number of constraints, judges by kind, ranks before and after."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook import show
from reprobook.papers.wildifeval import judging
from reprobook.papers.wildifeval.kinds import CATEGORIES
from reprobook.papers.wildifeval.scores import kendall

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reprobook.papers.wildifeval.tasks import Task

MET, MISSED = show.COLOURS[2], show.COLOURS[1]


def taken_apart(task: Task, response: str, scores: Sequence[float] | None = None) -> Figure:
    """A task, its constraints, a response, the rule's verdict on each constraint (and a judge's ``scores``), and the
    two scores."""
    import matplotlib.pyplot as plt

    met = [each.holds(response) for each in task.asked]
    given = task.prompt.partition("\n- ")[0].replace("\n\n", " ") + " ..."
    said = [part for line in response.splitlines() for part in textwrap.wrap(line, 50) or [""]][:14]
    left = ["Task", *textwrap.wrap(given, 50), "", "Response", *said]
    height = 0.4 + max(0.2 * len(left), 0.42 * (task.n + 1))
    fig, axes = plt.subplots(1, 2, figsize=(9.8, height), width_ratios=(1, 1.4))
    for k, line in enumerate(left):
        weight = "bold" if line in ("Task", "Response") else "normal"
        axes[0].text(0, 0.2 * k, line, weight=weight, va="center", fontsize=9)
    axes[1].text(0.06, 0, "Constraint", weight="bold", va="center", fontsize=9)
    axes[1].text(0.7, 0, "Category", weight="bold", va="center", fontsize=9)
    if scores is not None:
        axes[1].text(1.1, 0, "Judge", weight="bold", va="center", ha="right", fontsize=9)
    for k, each in enumerate(task.asked):
        y, colour = 0.42 * (k + 0.9), MET if met[k] else MISSED
        axes[1].text(0.0, y, "✓" if met[k] else "✗", color=colour, weight="bold", va="center", fontsize=12)
        axes[1].text(0.06, y, textwrap.fill(each.text, 40), va="center", fontsize=9)
        axes[1].text(0.7, y, each.category, va="center", fontsize=9, color="0.35")
        if scores is not None:
            axes[1].text(1.1, y, f"{scores[k]:.2f}", va="center", ha="right", fontsize=9)
    told = f"soft = {sum(met)}/{task.n} = {np.mean(met):.2f}      strict = {int(all(met))}"
    axes[1].text(0.06, 0.42 * (task.n + 0.9), told, weight="bold", va="center")
    for ax in axes:
        ax.set(xlim=(0, 1.1), ylim=(height - 0.3, -0.1))
        ax.axis("off")
    return fig


def over_counts(frame: pd.DataFrame, responders: Sequence[str], rate: float) -> Figure:
    """Strict and soft over the number of constraints: mean and standard deviation over seeds of each responder, what
    independent constraints would give for strict (dashed), and the closed forms of the known rate (dotted)."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(9.4, 3.9), sharey=True)
    n = np.arange(1, 9)
    for ax, measure in zip(axes, ("strict", "soft"), strict=True):
        for k, name in enumerate(responders):
            colour = show.COLOURS[k % len(show.COLOURS)]
            part = frame[frame["responder"] == name].groupby("n")
            mean, sd = part[measure].mean(), part[measure].std().fillna(0.0)
            ax.plot(mean.index, mean, marker="o", color=colour, label=name)
            ax.fill_between(mean.index, mean - sd, mean + sd, color=colour, alpha=0.2, lw=0)
            if measure == "strict":
                ax.plot(mean.index, part["independent"].mean(), ls="--", lw=1.2, color=colour)
        ax.plot(n, rate**n if measure == "strict" else np.full(8, rate), ls=":", color="black", label=f"p = {rate}")
        ax.set(xlabel="number of constraints n", ylabel=f"{measure} score", ylim=(-0.03, 1.05), title=measure)
    axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def by_category(frame: pd.DataFrame, responders: Sequence[str]) -> Figure:
    """Share of constraints met by category: of those asked for, and of those that nobody asked for; a panel for each
    responder, a dot a seed."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(responders), figsize=(2.4 + 3.6 * len(responders), 4.4), sharey=True, squeeze=False)
    part = frame.melt(["responder", "category", "seed"], ["asked", "not asked"], "constraint", "met")
    part = _sorted(part)
    for ax, name in zip(axes[0], responders, strict=True):
        show.dots(part[part["responder"] == name], "met", "category", "constraint", xlabel="share met", title=name,
                  zero=False, ax=ax)  # fmt: skip
        ax.set(xlim=(-0.05, 1.05))
        ax.get_legend().remove()
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="constraint")
    return fig


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by category in the paper's order."""
    return frame.sort_values("category", key=lambda column: column.map(CATEGORIES.index), kind="stable")


def calibrated(frame: pd.DataFrame) -> Figure:
    """Share of satisfied constraints over a judge's score, in bins of equal size, a line a seed; a panel a judge."""
    judges = list(dict.fromkeys(frame["judge"]))
    fig, axes = show.panels(judges, size=(3.4, 3.2), ylabel="share satisfied")
    for k, (ax, name) in enumerate(zip(axes, judges, strict=True)):
        for _, part in frame[frame["judge"] == name].groupby("seed"):
            ax.plot(part["score"], part["truth"], "-o", ms=3, lw=0.8, alpha=0.5, color=show.COLOURS[k])
        ax.plot([0, 1], [0, 1], ls="--", color="0.5")
        ax.set(xlabel="score of the judge", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return fig


def judge_by_category(frame: pd.DataFrame) -> Figure:
    """Sensitivity, specificity and pairs of twins won of every judge by category for the fewest constraints, and pairs
    won for the most; a dot a seed."""
    import matplotlib.pyplot as plt

    part = _sorted(frame[frame["category"] != "all"])
    few, many = part["constraints"].min(), part["constraints"].max()
    fig, axes = plt.subplots(1, 4, figsize=(11.0, 4.6), sharey=True)
    drawn = [("sensitivity", few), ("specificity", few), ("pairs won", few), ("pairs won", many)]
    for ax, (measure, n) in zip(axes, drawn, strict=True):
        show.dots(part[part["constraints"] == n], measure, "category", "judge", xlabel=measure, title=f"n = {n}",
                  zero=False, ax=ax)  # fmt: skip
        ax.axvline(0.5, color="0.5", lw=1, ls="--")
        ax.set(xlim=(-0.05, 1.05), xticks=[0, 0.5, 1])
        ax.get_legend().remove()
    handles, labels = axes[3].get_legend_handles_labels()
    n_judges = part["judge"].nunique()
    axes[3].legend(handles[-n_judges:], labels[-n_judges:], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def ranks(frame: pd.DataFrame) -> Figure:
    """Success by category as the rules see it and as the judge sees it, lines joining a category; a panel for each
    judge. Where its errors are known, also after the correction by the measured and by the known ones."""
    import matplotlib.pyplot as plt

    judges = list(dict.fromkeys(frame["judge"]))
    names = {"corrected": "corrected,\ncounted", "by known errors": "corrected,\nknown"}
    fig, axes = plt.subplots(1, len(judges), figsize=(2.2 + 2.9 * len(judges), 4.2), sharey=True, squeeze=False,
                             width_ratios=[1] * (len(judges) - 1) + [1.4])  # fmt: skip
    for ax, name in zip(axes[0], judges, strict=True):
        steps = ["true", "judged", "corrected", "by known errors"]
        mean = frame[frame["judge"] == name].groupby("category")[steps].mean()
        if mean["by known errors"].isna().all():
            mean = mean[steps[:2]]
        steps = [names.get(step, step) for step in mean]
        for k, category in enumerate(CATEGORIES):
            length = category == "Length"
            ax.plot(steps, mean.loc[category], marker="o", color=show.COLOURS[k % len(show.COLOURS)],
                    lw=3.2 if length else 1.4, label=category)  # fmt: skip
        ax.set(title=name, ylim=(-0.03, 1.05), xlim=(-0.3, len(steps) - 0.7))
    axes[0][0].set_ylabel("share of constraints met")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def agreement(frame: pd.DataFrame) -> Figure:
    """Mean of Kendall's tau between the ranking of responders by one category and those by the others, a dot a seed."""
    import pandas as pd

    parts = []
    for seed, part in frame.groupby("seed"):
        table = part.pivot(index="category", columns="responder", values="asked").reindex(CATEGORIES)
        tau = kendall(table.dropna(how="all"))
        mean = (tau.sum() - 1) / (len(tau) - 1)
        parts.append(pd.DataFrame({"category": mean.index, "tau": mean.to_numpy(), "seed": seed}))
    return show.dots(pd.concat(parts), "tau", "category", xlabel="mean tau with the other categories")


def bending(s_length: float = 0.9, q_length: float = 0.3, s: float = 0.9, q: float = 0.9, rate: float = 0.6) -> Figure:
    """What a judge whose errors differ by kind makes of categories that are all equally hard, and of strict."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6))
    errors = {c: (s_length, q_length) if c == "Length" else (s, q) for c in CATEGORIES}
    seen = [float(judging.judged_as(rate, *errors[c])) for c in CATEGORIES]
    left.barh(range(8), seen, color=[show.COLOURS[1] if c == "Length" else show.COLOURS[0] for c in CATEGORIES])
    left.axvline(rate, color="black", ls=":", label="truth, all categories")
    left.set(yticks=range(8), yticklabels=CATEGORIES, xlabel="share met, as judged", xlim=(0, 1))
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    n = np.arange(1, 9)
    _line(right, n, rate**n, "strict, truth", ":")
    _line(right, n, float(np.mean(seen)) ** n, "strict, as judged", "-")
    _line(right, n, np.full(8, float(np.mean(seen))), "soft, as judged", "--")
    right.set(xlabel="number of constraints n", ylabel="score", ylim=(0, 1))
    right.legend(loc="upper right")
    return fig


def _line(ax: Axes, x: np.ndarray, y: np.ndarray, label: str, style: str) -> None:
    ax.plot(x, y, ls=style, label=label)
