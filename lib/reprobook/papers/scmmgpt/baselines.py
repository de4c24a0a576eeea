"""Baselines of annotation on log-normalised cells, from scikit-learn: same cells, same split, tuned on validation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np

from reprobook.papers.scmmgpt.evaluation import balanced_accuracy


def _majority(**_: float) -> object:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="most_frequent")


def _chance(**_: float) -> object:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="uniform", random_state=0)


def _knn(k: float) -> object:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(int(k))


def _centroid(**_: float) -> object:
    """Nearest class mean by the cosine of centred cells: unit vectors, on which the Euclidean order is the cosine's."""
    from sklearn.neighbors import NearestCentroid
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    return make_pipeline(StandardScaler(with_std=False), Normalizer(), NearestCentroid())


def _ridge(alpha: float) -> object:
    from sklearn.linear_model import RidgeClassifier

    return RidgeClassifier(alpha)


def _celltypist(c: float) -> object:
    """celltypist's recipe: log1p(1e4), z-scores clipped at 10, L2 logistic regression, one class against the rest."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    clip = FunctionTransformer(np.clip, kw_args={"a_min": -10.0, "a_max": 10.0})
    return make_pipeline(StandardScaler(), clip, OneVsRestClassifier(LogisticRegression(C=c, max_iter=1000)))


BASELINES: dict[str, tuple[Callable[..., object], list[Mapping[str, float]]]] = {
    "chance": (_chance, [{}]),
    "majority": (_majority, [{}]),
    "nearest neighbours": (_knn, [{"k": k} for k in (1, 5, 15)]),
    "centroid (cosine)": (_centroid, [{}]),
    "ridge": (_ridge, [{"alpha": a} for a in (1.0, 10.0, 100.0, 1000.0)]),
    "logistic (celltypist's recipe)": (_celltypist, [{"c": c} for c in (0.01, 0.1, 1.0)]),
}


def fitted(
    name: str, x: np.ndarray, y: np.ndarray, x_valid: np.ndarray, y_valid: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Baseline ``name`` with the setting that has the best balanced accuracy on validation cells; a predictor."""
    make, grid = BASELINES[name]
    y = np.asarray(y).astype(str)
    with warnings.catch_warnings():  # genes that no cell of a small class has: the centroid does not use spreads
        warnings.filterwarnings("ignore", message=".*within_class_std_dev_", category=UserWarning)
        models = [make(**setting).fit(x, y) for setting in grid]  # type: ignore[attr-defined]
    scores = [balanced_accuracy(np.asarray(y_valid).astype(str), model.predict(x_valid)) for model in models]
    return models[int(np.argmax(scores))].predict
