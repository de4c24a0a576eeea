"""What follows from the paper's own tables: gains by base loss, the noise of its grader, what an iteration costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from reprobook.papers.reward_sds.diffusion import levels

if TYPE_CHECKING:
    from reprobook.facts import Facts


def gains(facts: Facts) -> pd.DataFrame:
    """Gain of the grader by reward weighting for every pair of a base loss and its Reward form that the paper prints,
    and whether the loss subtracts the noise itself."""
    rows = []

    def add(where: str, base: str, without: float, given: float, noise: str) -> None:
        gain = given - without
        rows.append(
            {"table": where, "base": base, "without": without, "with": given, "gain": gain, "noise term": noise}
        )

    first = facts.frame("table1").set_index("reward")
    for base in ("SDS", "VSD"):
        column = f"{base}, grader"
        add("1", base, float(first[column]["none"]), float(first[column]["ImageReward"]), _NOISE[base])
    for name, base, key in (("table4", "DDS", "DDS"), ("table6", "SDS-Bridge", "SDS-Bridge")):
        table = facts.frame(name).set_index("method")["grader"]
        add(name[-1], base, table[key], table[f"Reward{key}" if base == "DDS" else "RewardSDS-Bridge"], _NOISE[base])
    third = facts.frame("table7").set_index("method")["grader"]
    for base in ("SDS", "VSD"):
        add("7", f"{base}, 3-D", third[base], third[f"Reward{base}"], _NOISE[base])
    return pd.DataFrame(rows)


_NOISE = {"SDS": "yes", "VSD": "only through its companion", "DDS": "cancels", "SDS-Bridge": "in its first stage"}


def schemes(facts: Facts) -> pd.DataFrame:
    """The paper's schemes beside the difference between its two runs of one setting (Tables 1 and 5)."""
    table = facts.frame("table5").set_index("scheme")["grader"]
    twice = facts.frame("table1").set_index("reward").loc["ImageReward", "SDS, grader"]
    best = "two best and two worst"
    reading = [name for name in table.index if name != "random"]
    span = max(table[reading]) - min(table[reading])
    return pd.DataFrame([
        {"what": "schemes that read the reward, highest minus lowest", "grader": span},
        {"what": "one setting, two runs", "grader": abs(twice - table[best])},
        {"what": "highest minus random", "grader": max(table[reading]) - table["random"]},
    ])  # fmt: skip


def costs(facts: Facts, total: int = 1000) -> pd.DataFrame:
    """Evaluations of the prior an iteration for the settings of Figure 9, relative to SDS, beside the printed times.

    Counted with the released schedule over the whole chain, of which only steps below t are run, t in 20..979."""
    rows = []
    for _, row in facts.frame("costs").iterrows():
        n, k, s = (int(row[name]) for name in ("N", "K", "S"))
        counted = levels(torch.arange(20, 980), s, total, "released")[1].float().mean().item() if s else 0.0
        one = n * counted + min(n, 4) if k else 1.0
        share = k / 1000
        seconds = row["seconds"]
        rows.append({
            "setting": row["setting"], "calls, relative": share * one + (1 - share),
            "seconds, relative": None if pd.isna(seconds) else float(seconds) / 45,
        })  # fmt: skip
    return pd.DataFrame(rows)
