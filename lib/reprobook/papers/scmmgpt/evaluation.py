"""How good annotation, generated cells and descriptions are: scikit-learn, rapidfuzz and sacrebleu do the counting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.metrics.statistics import paired_bootstrap

if TYPE_CHECKING:
    from reprobook.metrics.statistics import Interval


def class_weights(truth: np.ndarray) -> np.ndarray:
    """Weights (n,) with which the mean of "is right" is the balanced accuracy: n / (classes * n of the class)."""
    names, inverse, counts = np.unique(truth, return_inverse=True, return_counts=True)
    return len(truth) / (len(names) * counts[inverse])


def balanced_accuracy(truth: Sequence, predicted: Sequence) -> float:
    """Mean recall over the classes that occur in ``truth``."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or not len(truth):
        raise ReprobookError(f"truth has shape {truth.shape} and predicted {predicted.shape}: equal and not empty")
    return float(np.mean(class_weights(truth) * (truth == predicted)))


def balanced_difference(truth: Sequence, a: Sequence, b: Sequence, seed: int = 0) -> Interval:
    """Balanced accuracy of ``a`` minus that of ``b`` on the same cells, with a bootstrap interval over cells."""
    truth = np.asarray(truth)
    w = class_weights(truth)
    return paired_bootstrap(w * (np.asarray(a) == truth), w * (np.asarray(b) == truth), seed=seed)


def balanced_interval(truth: Sequence, predicted: Sequence, seed: int = 0) -> Interval:
    """Balanced accuracy with a bootstrap interval over cells (weights stay those of the sample)."""
    truth = np.asarray(truth)
    right = class_weights(truth) * (np.asarray(predicted) == truth)
    return paired_bootstrap(right, np.zeros(len(truth)), seed=seed)


def knn_accuracy(
    train: np.ndarray, labels: Sequence, cells: np.ndarray, wanted: Sequence, ks: Sequence[int] = (3, 5, 10, 25)
) -> dict[int, float]:
    """Share of generated ``cells`` (n, g) that k nearest REAL training cells (m, g) take for the type they were
    asked to be, for each k (as far as there are as many training cells)."""
    from sklearn.neighbors import KNeighborsClassifier

    found = {}
    for k in ks:
        if k <= len(train):
            votes = KNeighborsClassifier(k).fit(train, np.asarray(labels).astype(str)).predict(cells)
            found[k] = float(np.mean(votes == np.asarray(wanted).astype(str)))
    return found


def mmd(x: np.ndarray, y: np.ndarray, gamma: float | None = None) -> float:
    """Squared maximum mean discrepancy of x (n, d) and y (m, d), biased estimator, Gaussian kernel. ``gamma`` None: one
    over the median squared distance within ``y``, so give the real cells as ``y``. 0 for equal samples."""
    from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

    if gamma is None:
        distances = euclidean_distances(y, squared=True)[np.triu_indices(len(y), 1)]
        gamma = 1.0 / max(float(np.median(distances)) if len(distances) else 1.0, 1e-12)
    found = rbf_kernel(x, x, gamma).mean() + rbf_kernel(y, y, gamma).mean() - 2 * rbf_kernel(x, y, gamma).mean()
    return float(max(found, 0.0))


def variance_ratio(generated: np.ndarray, real: np.ndarray, wanted: Sequence, labels: Sequence) -> float:
    """Variance within types, generated over real: means over genes and over the types of which both have at least
    two cells. 1 is right, 0 is one and the same cell for all."""
    wanted, labels = np.asarray(wanted), np.asarray(labels)
    pairs = []
    for label in np.unique(labels):
        a, b = generated[wanted == label], real[labels == label]
        if len(a) > 1 and len(b) > 1:
            pairs.append((a.var(0, ddof=1).mean(), b.var(0, ddof=1).mean()))
    if not pairs:
        raise ReprobookError("no type has two generated and two real cells: variances cannot be compared")
    a, b = np.mean(pairs, axis=0)
    if b == 0:
        raise ReprobookError("the real cells of each type are all the same: there is no variance to compare with")
    return float(a / b)


def zero_gap(generated: np.ndarray, real: np.ndarray, below: float = 1e-6) -> float:
    """Share of zeros, generated minus real."""
    return float((generated <= below).mean() - (real <= below).mean())


# --------------------------------------------------------------------------------------------- descriptions


def words(text: str) -> list[str]:
    """Lower-case words and numbers; a tokenizer's blanks and punctuation don't count."""
    return re.findall(r"[a-z0-9]+", text.lower())


def bleu2(found: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of one- and two-word pieces, 0 to 100 (sacrebleu); shared templates lift it."""
    from sacrebleu.metrics import BLEU

    plain = [[" ".join(words(t)) for t in texts] for texts in (found, references)]
    return float(BLEU(max_ngram_order=2, tokenize="none", force=True).corpus_score(plain[0], [plain[1]]).score)


def rouge_l(found: Sequence[str], references: Sequence[str]) -> float:
    """Mean F of the longest common subsequence of words, 0 to 100 (rapidfuzz finds its length)."""
    from rapidfuzz.distance import LCSseq

    scores = []
    for a, b in zip(map(words, found), map(words, references), strict=True):
        common = LCSseq.similarity(a, b)
        scores.append(200 * common / (len(a) + len(b)) if a or b else 100.0)
    return float(np.mean(scores))


def nearest_text(found: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """For each description the number of the class text that it is closest to, by edit distance over words."""
    from rapidfuzz.distance import Levenshtein

    classes = [words(t) for t in texts]
    return np.array([
        int(np.argmin([Levenshtein.normalized_distance(words(each), other) for other in classes])) for each in found
    ])  # fmt: skip


def is_exact(found: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Whether a description has exactly the reference's words."""
    return np.array([words(a) == words(b) for a, b in zip(found, references, strict=True)])
