"""What follows from the paper's own tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from reprobook.facts import Facts

BEST = {"NumberLine": (1.0, 0.0), "EZPoints": (10.0, -1.0)}  # return of a success, best return of a failure
EPISODES = 200  # of the evaluation window


def lost_episodes(facts: Facts) -> pd.DataFrame:
    """Points24: what a lost episode cost on average, (10 s - return) / (1 - s). With truncation it is 1, so these
    returns were measured without; and the 95 % interval of success over 200 episodes."""
    table = facts.frame("points24")
    s = table["success"] / 100
    low, high = zip(*(wilson(share) for share in s), strict=True)
    return table.assign(
        **{"a lost episode": (10 * s - table["return"]) / (1 - s)},
        **{"return if truncated": 10 * s - (1 - s)}, low=[100 * x for x in low], high=[100 * x for x in high],
    )  # fmt: skip


def wilson(share: float, n: int = EPISODES, z: float = 1.96) -> tuple[float, float]:
    """95 % interval (Wilson) of a share over n episodes."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def easier_games(facts: Facts) -> pd.DataFrame:
    """The largest return that each success allows, and whether what is printed is possible; Blackjack's draws, from
    wins and return."""
    table = facts.frame("table1")
    rows = []
    for _, row in table.iterrows():
        for game, (won, lost) in BEST.items():
            s, given = row[f"{game}, success"] / 100, row[f"{game}, return"]
            most = won * s + lost * (1 - s)
            possible = None if pd.isna(given) else bool(given <= most + 0.005)
            found = {"success": 100 * s, "return": given, "at most": most, "possible": possible}
            rows.append({"game": game, "model": row["model"], **found})
        wins, given = row["Blackjack, success"], row["Blackjack, return"]
        draws = 100 - 2 * wins + 100 * given
        rows.append({"game": "Blackjack", "model": row["model"], "success": wins, "return": given, "draws": draws})
    return pd.DataFrame(rows).sort_values("game", kind="stable").reset_index(drop=True)
