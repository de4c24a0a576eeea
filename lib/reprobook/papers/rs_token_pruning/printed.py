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
    mean = two[["MME-RW-RS", "FAIR", "Bridge", "STAR"]].astype(float).mean(axis=1)
    off = str((mean - two["Avg"].astype(float)).abs().idxmax())
    weights = np.array(list(QUESTIONS.values()))
    columns = three[list(QUESTIONS)].astype(float).to_numpy() @ weights / weights.sum()
    by_columns = dict(zip(three.index, columns.tolist(), strict=True))
    printed, speed = (three[name].astype(float).to_dict() for name in ("Acc", "FPS"))
    dip, drop = "DIP-3layer + prune (ours)", "+ PDrop"
    rows: list[tuple[str, float, float, str]] = [
        (f"average of {off}", float(two["Avg"].astype(float)[off]), float(mean[off]), "the others agree to 0.01"),
        ("accuracy of the three-layer pyramid (Table 3)", printed[dip], by_columns[dip],
         "weighted by the questions of the three columns, which gives most other rows to 0.01"),
        ("its lead over PyramidDrop", printed[dip] - printed[drop], by_columns[dip] - by_columns[drop], "points"),
        ("pictures a second, method over FastV", 1.39, speed[dip] / speed["+ FastV"], "the text's +39 %"),
        ("pictures a second, method over all tiles", np.nan, speed[dip] / speed["anyres-p25"], "not printed"),
        ("pictures a second, pruning alone over all tiles", np.nan, speed["+ prune (ours)"] / speed["anyres-p25"],
         "without the pyramid pruning is slower than none"),
        *((f"standard error of an accuracy of 25 %, {name}", np.nan, 100 * (0.25 * 0.75 / n) ** 0.5,
           "points; gains are about one") for name, n in SETS.items()),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Quantity", "Printed", "Recomputed", "Remark"]).round(2)
