"""What the paper's own figures say when they are worked with, and which of its headlines they carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.facts import Facts


def bars(facts: Facts) -> pd.DataFrame:
    """The bars of the repository's figure: an index of sets, a column per model, NaN where it has no bar."""
    frame = facts.frame("figure").set_index("set")
    return frame.apply(pd.to_numeric, errors="coerce")


def gains(facts: Facts) -> pd.DataFrame:
    """scMMGPT against the best other bar of each set: points (bars above 1 are per cent) and per cent relative."""
    found = bars(facts)
    if "scMMGPT" not in found:
        raise ReprobookError(f"the figure has no bar of scMMGPT; it has {', '.join(found)}")
    others = found.drop(columns="scMMGPT")
    best = others.max(axis=1)
    scale = found["scMMGPT"].gt(1).map({True: 1.0, False: 100.0})
    return pd.DataFrame({
        "set": found.index, "scMMGPT": found["scMMGPT"].to_numpy(), "best other": best.to_numpy(),
        "whose": others.idxmax(axis=1).to_numpy(), "points": ((found["scMMGPT"] - best) * scale).to_numpy(),
        "relative (%)": (100 * (found["scMMGPT"] / best - 1)).to_numpy(),
    })  # fmt: skip


def recomputed(facts: Facts) -> pd.DataFrame:
    """Headlines beside what follows from the bars and from the scripts."""
    by_set = gains(facts).set_index("set")
    rows = [
        ("k-NN accuracy of generated cells, points (abstract: +4)", by_set.loc["Immune Tissue, generation", "points"]),
        ("COVID-19, relative per cent (later version: +8.13)", by_set.loc["COVID-19", "relative (%)"]),
        ("Immune Tissue, description, relative per cent (abstract: 84 less discrepancy)",
         by_set.loc["Immune Tissue, description", "relative (%)"]),
        ("Tabula Sapiens, points (abstract: annotation 20.5 % better)", by_set.loc["Tabula Sapiens", "points"]),
        ("steps of 5 epochs of 27 M cells at 8 x 12, millions (1.4 stated)", 27e6 * 5 / 96 / 1e6),
        ("chance loss of a contrast group of 3, nats", 1.0986122886681098),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["quantity", "value"])
