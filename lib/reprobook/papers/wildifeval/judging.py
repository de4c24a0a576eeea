r"""How good a judge is where the truth is known, and what its errors do to a table.

A judge of sensitivity s and specificity q (shares of satisfied and of broken constraints that it calls right) turns a
rate p into :math:`p'=sp+(1-q)(1-p)`; the inverse, :math:`p=(p'+q-1)/(s+q-1)`, corrects a table (Rogan and Gladen).
Frames have one row a judged constraint: ``category``, ``truth`` (0 or 1), ``score`` (NaN: no yes and no no).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.wildifeval.judge import ERROR_SCORE, THRESHOLD

if TYPE_CHECKING:
    import pandas as pd

LEAST_YOUDEN = 0.1  # below it a judge tells next to nothing, and a correction divides by next to nothing


def judged_as(p: np.ndarray | float, s: np.ndarray | float, q: np.ndarray | float) -> np.ndarray:
    """The rate that a judge of sensitivity ``s`` and specificity ``q`` reports for a true rate ``p``."""
    p, s, q = (np.asarray(each, dtype=float) for each in (p, s, q))
    return s * p + (1 - q) * (1 - p)


def corrected(
    judged: np.ndarray | float, s: np.ndarray | float, q: np.ndarray | float, n: np.ndarray | float = np.inf
) -> np.ndarray:
    """The true rate behind a judged one, cut to [0, 1]; NaN where s + q - 1 is below 0.1, or its 95 % interval reaches
    0 (Wald, a success and a failure added to each class): nothing to invert. ``n``: constraints of each class that
    ``s`` and ``q`` were counted on; infinite: they are known."""
    judged, s, q, n = (np.asarray(each, dtype=float) for each in (judged, s, q, n))
    gain = s + q - 1
    p, r = ((n * each + 1) / (n + 2) if np.isfinite(n).all() else each for each in (s, q))
    error = np.sqrt((p * (1 - p) + r * (1 - r)) / (n + 2))
    value = np.full(np.broadcast(judged, gain).shape, np.nan)
    np.divide(judged + q - 1, gain, out=value, where=(gain >= LEAST_YOUDEN) & (p + r - 1 > 1.96 * error))
    return np.clip(value, 0.0, 1.0)


def decisions(frame: pd.DataFrame, threshold: float = THRESHOLD) -> pd.Series:
    """0 or 1 for each row; a missing score is the released code's 0."""
    return (frame["score"].fillna(ERROR_SCORE) >= threshold).astype(float)


def best_threshold(frame: pd.DataFrame) -> float:
    """The threshold of the highest balanced accuracy among the scores (the lowest such, if several)."""
    from sklearn.metrics import roc_curve

    fpr, tpr, thresholds = roc_curve(frame["truth"], frame["score"].fillna(ERROR_SCORE))
    finite = np.isfinite(thresholds)
    return float(thresholds[finite][np.argmax((tpr - fpr)[finite])])


def quality(frame: pd.DataFrame, threshold: float = THRESHOLD, by: str = "category") -> pd.DataFrame:
    """A row for each value of ``by`` and one for all: ``n``, ``accuracy``, ``AUC``, ``kappa`` (Cohen), ``sensitivity``,
    ``specificity``, ``said yes``, ``no answer`` (share without yes and no), ``Brier``, and for twins ``pairs won``."""
    import pandas as pd
    from sklearn.metrics import accuracy_score, brier_score_loss, cohen_kappa_score, roc_auc_score

    rows = []
    for name, part in [*frame.groupby(by, sort=False), ("all", frame)]:
        truth, said, score = part["truth"], decisions(part, threshold), part["score"].fillna(ERROR_SCORE)
        if truth.nunique() < 2:
            raise ReprobookError(f"{name}: a judge is measured on satisfied and broken constraints, there is one class")
        rows.append({
            by: name, "n": len(part), "accuracy": accuracy_score(truth, said), "AUC": roc_auc_score(truth, score),
            "kappa": float(np.nan_to_num(cohen_kappa_score(truth, said))) if said.nunique() > 1 else 0.0,
            "sensitivity": said[truth == 1].mean(), "specificity": 1 - said[truth == 0].mean(), "said yes": said.mean(),
            "no answer": part["score"].isna().mean(), "Brier": brier_score_loss(truth, score),
            **({"pairs won": twins_won(part).mean()} if "pair" in part else {}),
        })  # fmt: skip
    return pd.DataFrame(rows)


def calibration(frame: pd.DataFrame, bins: int = 5) -> pd.DataFrame:
    """Share of satisfied constraints (``truth``) against the mean score, in bins of equal size."""
    import pandas as pd
    from sklearn.calibration import calibration_curve

    truth, score = calibration_curve(
        frame["truth"], frame["score"].fillna(ERROR_SCORE), n_bins=bins, strategy="quantile"
    )
    return pd.DataFrame({"score": score, "truth": truth})


def twins_won(frame: pd.DataFrame) -> pd.Series:
    """For each pair of texts that differ in a constraint (column ``pair``): 1 if the satisfied one scores higher, 1/2
    for a tie. Its mean is an AUC within pairs: what else the two texts are cancels."""
    wide = frame.assign(score=frame["score"].fillna(ERROR_SCORE)).pivot(index="pair", columns="truth", values="score")
    return ((wide[1.0] > wide[0.0]) + 0.5 * (wide[1.0] == wide[0.0])).astype(float)


def rates(frame: pd.DataFrame, threshold: float = THRESHOLD, by: str = "category") -> pd.DataFrame:
    """Sensitivity ``s`` and specificity ``q`` for each value of ``by``, and the number ``n`` of constraints."""
    found = quality(frame, threshold, by).set_index(by)
    return found.rename(columns={"sensitivity": "s", "specificity": "q"})[["s", "q", "n"]]


def judged_strict(truth: pd.DataFrame, found: pd.DataFrame) -> pd.Series:
    r"""Expected judged strict score of each task of ``truth`` (columns task, category, truth) for a judge whose errors
    are independent, with rates ``found`` by category: :math:`\prod_j s_j^{m_j}(1-q_j)^{1-m_j}`."""
    s, q = (found[name].reindex(truth["category"]).to_numpy() for name in ("s", "q"))
    yes = np.where(truth["truth"] == 1, s, 1 - q)
    return truth.assign(yes=yes).groupby("task", sort=False)["yes"].prod()
