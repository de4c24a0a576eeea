"""What the paper's printed tables say when they are worked with: rank correlations with exact p, and disagreements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.facts import Facts


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Rank correlation; equal values share their mean rank. NaN if one of the two does not vary."""
    a, b = _ranks(x), _ranks(y)
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


def _ranks(x: Sequence[float] | np.ndarray) -> np.ndarray:
    """Ranks around 0."""
    from scipy.stats import rankdata

    return rankdata(x) - (len(x) + 1) / 2


def exact_p(x: Sequence[float], y: Sequence[float]) -> float:
    """Two-sided p of the rank correlation by all orders of ``y`` (at most 8 values)."""
    if not 2 <= len(y) <= 8:
        raise ReprobookError(f"all orders of {len(y)} values: give 2 to 8")
    a, b = _ranks(x), _ranks(y)
    orders = np.abs(np.array(list(itertools.permutations(b))) @ a)
    return float((orders >= abs(b @ a) - 1e-9).mean())


def correlations(facts: Facts) -> pd.DataFrame:
    """Spearman of the measures of Table 3 (four chunkers) and Table 5 (six) with every column of Table 1."""
    import pandas as pd

    results = facts.frame("table1").set_index("Chunking")
    rows = []
    for table, wanted in (("table3", ("BC", "CS complete", "CS sequential")), ("table5", ("CP",))):
        measured = facts.frame(table).set_index("Chunking").astype(float)
        for name in measured.columns:
            measure, _, scorer = name.partition(", ")
            assert measure in wanted
            for column in results.columns:
                pair = pd.concat([measured[name], results[column]], axis=1, join="inner").astype(float).to_numpy().T
                rows.append({"measure": measure, "scorer": scorer, "column": column, "chunkers": pair.shape[1],
                             "Spearman": spearman(*pair), "exact p": exact_p(*pair.tolist())})  # fmt: skip
    return pd.DataFrame(rows)


def remarks(facts: Facts) -> pd.DataFrame:
    """Rows (quantity, value, remark) for the page."""
    import pandas as pd

    told, results = correlations(facts), facts.frame("table1").set_index("Chunking")
    cp = facts.frame("table5").set_index("Chunking").astype(float)["CP, Qwen-1.5B"]
    bleu = results.loc[cp.index, "CRUD-1 BLEU-1"].astype(float)
    markers = facts.frame("table2").set_index("Marker")["BLEU-1"].astype(float)
    alone = markers.drop("MoC")
    bc = told[(told["measure"] == "BC") & (told["scorer"] == "Qwen2.5-1.5B")].set_index("column")["Spearman"]
    rows = [
        ("BC with single-hop BLEU-1", f"{bc['CRUD-1 BLEU-1']:+.2f}", "four chunkers: exact p 0.33"),
        ("BC with two-hop BLEU-1", f"{bc['CRUD-2 BLEU-1']:+.2f}", "the opposite sign, same chunkers"),
        ("least p that four chunkers can reach", f"{exact_p([1, 2, 3, 4], [1, 2, 3, 4]):.3f}", "a perfect order"),
        ("rows of BC and CS with p below 0.05",
         f"{int((told[told['chunkers'] == 4]['exact p'] < 0.05).sum())} of {int((told['chunkers'] == 4).sum())}", ""),
        ("semantic: rank by CP, rank by BLEU-1", f"{int(cp.rank()['Semantic'])} and "
         f"{int(bleu.rank(ascending=False)['Semantic'])} of {len(cp)}", "best is 1: the two tables disagree"),
        ("MoC minus the best single marker, BLEU-1", f"{markers['MoC'] - alone.max():+.4f}",
         f"minus [MASK]: {markers['MoC'] - alone['[MASK]']:+.4f}; markers alone span {alone.max() - alone.min():.4f}"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Quantity", "Value", "Remark"])
