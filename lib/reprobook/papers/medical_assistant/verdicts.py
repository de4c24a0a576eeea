"""What the claims C1 to C3 and C6 compare: paired differences over turns and conversations, and orders of scenarios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from reprobook.metrics.statistics import paired_bootstrap
from reprobook.papers.medical_assistant.evaluate import by_turn
from reprobook.papers.medical_assistant.scenarios import APPOINTMENTS

if TYPE_CHECKING:
    from reprobook.metrics.statistics import Interval
    from reprobook.papers.medical_assistant.evaluate import Said


def appointment_turns(said: Sequence[Said], role: str) -> pd.DataFrame:
    """Measures of an agent's turns in appointment scenarios, one row each, in their order."""
    return by_turn([s for s in said if s.role == role and s.scenario in APPOINTMENTS])


def planner_gain(said: Sequence[Said], against: Sequence[Said], seed: int) -> Interval:
    """ROUGE-L of the planner minus that of other texts for the same turns, paired over turns."""
    pairs = {(s.trajectory, s.truth): s for s in against if s.role == "Planner" and s.scenario in APPOINTMENTS}
    own = [s for s in said if s.role == "Planner" and (s.trajectory, s.truth) in pairs]
    other = [pairs[s.trajectory, s.truth] for s in own]
    return paired_bootstrap(by_turn(own)["rougeL"].to_numpy(), by_turn(other)["rougeL"].to_numpy(), seed=seed)


def caller_gaps(said: Sequence[Said], seed: int) -> dict[str, Interval]:
    """Caller minus planner (ROUGE-L) and ToolAcc minus ValuesAcc of the caller, paired over conversations."""
    planner, caller = (appointment_turns(said, role).groupby("trajectory") for role in ("Planner", "Caller"))
    scores, rouge = caller[["ToolAcc", "ValuesAcc"]].mean(), planner["rougeL"].mean()
    return {
        "caller minus planner": paired_bootstrap(caller["rougeL"].mean().to_numpy(), rouge.to_numpy(), seed=seed),
        "ToolAcc minus ValuesAcc": paired_bootstrap(
            scores["ToolAcc"].to_numpy(), scores["ValuesAcc"].to_numpy(), seed=seed
        ),
    }


def orders(said: Sequence[Said]) -> dict[str, bool]:
    """The four orders of claim C3 among the means of ROUGE-L of the scenarios."""
    planner, caller = (
        appointment_turns(said, role).groupby("scenario")["rougeL"].mean() for role in ("Planner", "Caller")
    )
    return {
        "planner, General is best": planner.idxmax() == "General",
        "planner, Dietician is worst": planner.idxmin() == "Dietician",
        "caller, General is best": caller.idxmax() == "General",
        "caller, Negative is worst": caller.idxmin() == "Negative",
    }


def values_gain(augmented: Sequence[Said], plain: Sequence[Said], seed: int) -> Interval:
    """ValuesAcc of a caller trained with augmentation minus without, paired over turns."""
    a, b = (by_turn([s for s in each if s.role == "Caller"])["ValuesAcc"].to_numpy() for each in (augmented, plain))
    return paired_bootstrap(a, b, seed=seed)


def table(differences: Mapping[str, Interval]) -> pd.DataFrame:
    """One row per difference: mean, interval and number of pairs."""
    return pd.DataFrame(
        [{"difference": n, "mean": g.mean, "low": g.low, "high": g.high, "pairs": g.n} for n, g in differences.items()]
    )
