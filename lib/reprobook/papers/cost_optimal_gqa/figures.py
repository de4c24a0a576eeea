"""The chapter's figures that are more than a few lines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from reprobook.papers.cost_optimal_gqa.laws import fit_head_law
from reprobook.show import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reprobook.papers.cost_optimal_gqa.costs import Heads
    from reprobook.papers.cost_optimal_gqa.laws import PowerLaw


def loss_curves(models: pd.DataFrame, laws: Mapping[Heads, PowerLaw], loss: str = "test loss") -> Figure:
    """Losses of trained models (means over seeds) against N and the laws through them, one colour for each H."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.8, 4.0))
    for k, (H, law) in enumerate(laws.items()):
        mine = models[(models["n_h"] == H[0]) & (models["n_kv"] == H[1])].groupby("N")[loss].mean()
        line = np.geomspace(mine.index.min(), 1.2 * mine.index.max(), 50)
        ax.plot(line, law(line), color=COLOURS[k % len(COLOURS)], lw=1.2)
        ax.plot(mine.index, mine, "o", color=COLOURS[k % len(COLOURS)], label=f"({H[0]}, {H[1]})", ms=4)
    ax.set(xscale="log", xlabel="parameters without embeddings, N", ylabel=f"{loss} (nats per token)")
    ax.set_title("loss against size for each choice of heads")
    ax.legend(title="(n_h, n_kv)", ncols=2)
    return fig


def head_curves(models: pd.DataFrame, loss: str = "test loss") -> Figure:
    """Loss against n_h at the size that has most kinds of heads: MHA, and one KV head; mean and sd over seeds."""
    import matplotlib.pyplot as plt

    kinds = models.groupby(["L", "d"])["n_h"].nunique()
    L, d = kinds.index[int(kinds.argmax())]
    here = models[(models["L"] == L) & (models["d"] == d)]
    fig, ax = plt.subplots(figsize=(6.0, 3.6))
    for colour, (label, part) in zip(
        COLOURS,
        {"n_h = n_kv": here[here["n_h"] == here["n_kv"]], "n_kv = 1": here[here["n_kv"] == 1]}.items(),
        strict=False,
    ):
        stats = part.groupby("n_h")[loss].agg(["mean", "std"])
        ax.errorbar(stats.index, stats["mean"], yerr=stats["std"].fillna(0), fmt="o", color=colour, label=label)
        if len(stats) > 2:
            dense = np.geomspace(1, 2 * stats.index.max(), 60)
            ax.plot(dense, fit_head_law(stats.index, stats["mean"])(dense), color=colour, lw=1.2)
    ticks = sorted({int(n) for n in here["n_h"] if np.log2(n).is_integer()})
    ax.set(xscale="log", xlabel="query heads n_h", ylabel=f"{loss} (nats per token)", title=f"{L} layers of width {d}")
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.minorticks_off()
    ax.legend()
    return fig


def plan_figure(plan: pd.DataFrame, rule: Heads, advice: str, gpu_gb: float) -> Figure:
    """Left: memory of the rule and of the best heads against the GPU's. Right: memory and FLOPs of every H."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    base = plan[(plan["n_h"] == rule[0]) & (plan["n_kv"] == rule[1])]
    shown = {f"rule {rule}": base, "best": plan[plan["best"]]}
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.9), width_ratios=[1, 1.7])
    _bars(left, {name: row.iloc[0] for name, row in shown.items() if len(row)}, gpu_gb)
    for kind, part, look in (
        ("does not fit", plan[~plan["fits"]], {"color": "darkgrey", "s": 18}),
        ("fits", plan[plan["fits"]], {"color": COLOURS[0], "s": 18}),
        ("best", shown["best"], {"color": COLOURS[1], "s": 160, "marker": "*"}),
    ):
        right.scatter(part["total_gb"], part["gflops"], label=kind, **look)
    for row in plan[plan["Z"].notna()].itertuples():
        place = {"textcoords": "offset points", "xytext": (3, 3), "fontsize": 7}
        right.annotate(f"{row.n_h},{row.n_kv}", (row.total_gb, row.gflops), **place)
    right.set(xscale="log", yscale="log", xlabel="memory (GB)", ylabel="GFLOP a token")
    right.set_title("all choices of heads at equal loss")
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    right.legend(loc="lower right")
    fig.suptitle(textwrap.fill(advice, 110), fontsize=9)
    return fig


def _bars(ax: Axes, rows: Mapping[str, pd.Series], gpu_gb: float) -> None:
    for k, row in enumerate(rows.values()):
        ax.bar(k, row["weights_gb"], color=COLOURS[0], label=None if k else "weights")
        ax.bar(k, row["cache_gb"], bottom=row["weights_gb"], color=COLOURS[1], label=None if k else "KV cache")
    top = max(row["total_gb"] for row in rows.values())
    if gpu_gb < 3 * top:
        ax.axhline(gpu_gb, color="grey", ls=":", label="GPU")
        top = max(top, gpu_gb)
    ax.set_ylim(0, 1.35 * top)
    ax.set_xticks(range(len(rows)), list(rows))
    ax.set(ylabel="memory (GB)", title="memory")
    ax.legend(loc="upper center", ncols=3)
