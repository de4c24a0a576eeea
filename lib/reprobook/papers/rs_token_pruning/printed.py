"""What the paper's printed tables say when they are worked with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reprobook.papers.rs_token_pruning.compute import costs

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.facts import Facts

QUESTIONS = {"Color": 1255, "Count": 1226, "Position": 1257}  # of MME-RealWorld-RS
SETS = {"FAIR": 2272, "Bridge": 1062, "STAR": 3999}


def recomputed_costs(facts: Facts) -> pd.DataFrame:
    """Table 4 beside what the formula gives: tokens encoded, tokens read, TFLOPs."""
    table = facts.frame("table4").set_index("Setting")
    found = costs()
    table["encoded, recomputed"] = [found[name].encoded for name in table.index]
    table["read, recomputed"] = [found[name].read for name in table.index]
    table["TFLOPs, recomputed"] = [round(found[name].tflops, 4) for name in table.index]
    return table.reset_index()


def distances(facts: Facts) -> tuple[float, float, float]:
    """Largest distance of the formula's TFLOPs and of its token counts to Table 4, and the ratio of its operations of
    all tiles to those of the method. FastV and PyramidDrop read all tokens at first, as the table counts them."""
    table = recomputed_costs(facts)
    flops = (table["TFLOPs"] - table["TFLOPs, recomputed"]).abs().max()
    tokens = max(
        (table["tokens, total"] - table["encoded, recomputed"]).abs().max(),
        (table["tokens to the LLM"] - table["read, recomputed"]).abs().max(),
    )
    return (
        float(flops),
        float(tokens),
        float(costs()["anyres-p144"].tflops / costs()["DIP-4layer + prune (ours)"].tflops),
    )


def recomputed(facts: Facts) -> pd.DataFrame:
    """Rows (quantity, printed, recomputed, remark) for the page."""
    import pandas as pd

    two, three = facts.frame("table2").set_index("Method"), facts.frame("table3").set_index("Setting")
    columns = ["MME-RW-RS", "FAIR", "Bridge", "STAR"]
    mean = two[columns].astype(float).mean(axis=1)
    off = (mean - two["Avg"]).abs().idxmax()
    weights = np.array(list(QUESTIONS.values()))
    pooled = three[list(QUESTIONS)].astype(float).to_numpy() @ weights / weights.sum()
    by_columns = dict(zip(three.index, pooled, strict=True))
    dip, drop, fast, none = "DIP-3layer + prune (ours)", "+ PDrop", "+ FastV", "anyres-p25"
    speed = three["FPS"].astype(float)
    error = {name: (0.25 * 0.75 / n) ** 0.5 for name, n in SETS.items()}
    rows = [
        (f"average of {off}", two.loc[off, "Avg"], mean[off], "the other averages agree to 0.01"),
        ("accuracy of the three-layer pyramid (Table 3)", three.loc[dip, "Acc"], by_columns[dip],
         "weighted by the questions of the three columns, which gives most other rows to 0.01"),
        ("its lead over PyramidDrop", three.loc[dip, "Acc"] - three.loc[drop, "Acc"],
         by_columns[dip] - by_columns[drop], "points"),
        ("pictures a second, method over FastV", 1.39, speed[dip] / speed[fast], "the text's +39 %"),
        ("pictures a second, method over all tiles", np.nan, speed[dip] / speed[none], "not printed"),
        ("pictures a second, pruning alone over all tiles", np.nan, speed["+ prune (ours)"] / speed[none],
         "without the pyramid pruning is slower than none"),
        *((f"standard error of an accuracy of 25 %, {name}", np.nan, 100 * error[name], "points; gains are about one")
          for name in SETS),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Quantity", "Printed", "Recomputed", "Remark"]).round(2)
