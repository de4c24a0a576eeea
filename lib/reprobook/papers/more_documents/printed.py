"""What the paper's printed tables say when they are worked with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.facts import Facts

N_MUSIQUE, N_TWO_WIKI, SPREAD = 2417, 994, 0.45  # questions, and about the spread of F1 over questions


def falls(facts: Facts) -> pd.Series:
    """Fall of F1 from 2-4 to 20 documents in each bin of Table 3."""
    bins = facts.frame("table3").set_index("Tokens")
    return (bins["2-4"] - bins["20"]).round(4)


def standard_error(n: int = N_MUSIQUE, spread: float = SPREAD) -> float:
    """Standard error of a difference of two means over ``n`` questions, as if they were independent."""
    return (2 * spread**2 / n) ** 0.5


def recomputed(facts: Facts) -> pd.DataFrame:
    """Rows (quantity, value, remark) for the page."""
    import pandas as pd

    bins, alone = facts.frame("table3").set_index("Tokens"), facts.frame("table1").set_index("Model")
    llama = facts.frame("table1_v1").set_index("Model").loc["Llama-3.1-70B", "supporting alone"]
    late = bins.astype(float).loc["3000+", ["10", "20"]].to_numpy()
    drop, support = falls(facts), alone["supporting, MuSiQue"]
    rows = [
        ("fall from 2-4 to 20 documents, points", ", ".join(f"{100 * d:.0f}" for d in drop), "by bin of Table 3"),
        ("the same, relative", ", ".join(f"{r:.0%}" for r in drop / bins["2-4"]),
         "whether the text's % are points is not said"),
        ("10 and 20 documents, bin 3000+", f"{late[0]:.2f} and {late[1]:.2f}",
         "the fall is not monotone there"),
        ("Llama-3.1-70B: supporting alone, and the best cell of Table 3",
         f"{float(str(llama)):.2f} and {bins.to_numpy().max():.2f}", "C5 does not show for this model"),
        ("supporting alone: GPT-4o and GPT-4o-mini", f"{support['GPT-4o']:.2f} and {support['GPT-4o-mini']:.2f}",
         "refusals would explain it; their share is not given"),
        ("standard error of a difference, 2,417 questions", f"{standard_error():.3f}",
         "for a spread of 0.45, unpaired; pairing makes it smaller"),
        ("prompts for one model and one sample", f"{5 * N_MUSIQUE + 4 * N_TWO_WIKI:,}",
         "five sets of 2,417 questions, four of 994"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Quantity", "Value", "Remark"])
