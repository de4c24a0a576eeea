"""What thoughts are worth: their diversity, their truth, and what they tell of the hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


def information(logp: np.ndarray) -> np.ndarray:
    """What thoughts tell of the cards, in nats (n_hands,), at most log n_hands: log p(thought | its own pictures), less
    the log of its mean over the pictures of all hands. ``logp`` (n_hands, n_hands): the thought on hand i under the
    pictures of hand j, all else equal. The mean over hands estimates the mutual information of thought and pictures
    given the prompt; a thought that does not depend on the pictures tells 0."""
    if logp.ndim != 2 or logp.shape[0] != logp.shape[1] or len(logp) < 2:
        raise ReprobookError(f"information needs a square of log-probabilities over at least 2 hands; got {logp.shape}")
    return np.diag(logp) - (np.logaddexp.reduce(logp, 1) - math.log(len(logp)))


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Distinct n-grams over all n-grams; 0 where there are none."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(text: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(text[k : k + n]) for k in range(len(text) - n + 1)]


def self_bleu(texts: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Mean BLEU-n of each text with all others as references (uniform weights, smoothing method 1: a count of 0 is
    0.1); 1 for identical texts, and by convention for a single one."""
    if len(texts) < 2:
        return 1.0
    lengths = Counter(map(len, texts))
    counted = [[Counter(_grams(text, order)) for text in texts] for order in range(1, n + 1)]
    best: list[dict[Hashable, tuple[int, int]]] = []  # of each gram the two largest counts in a text
    for counts in counted:
        two: dict[Hashable, tuple[int, int]] = {}
        for count in counts:
            for gram, k in count.items():
                first, second = two.get(gram, (0, 0))
                two[gram] = (k, first) if k >= first else (first, max(second, k))
        best.append(two)
    return float(np.mean([_bleu(i, texts, counted, best, lengths) for i in range(len(texts))]))


def _bleu(
    i: int, texts: Sequence[Sequence[Hashable]], counted: list[list[Counter[tuple[Hashable, ...]]]],
    best: list[dict[Hashable, tuple[int, int]]], lengths: Counter[int],
) -> float:  # fmt: skip
    size = len(texts[i])
    logs: list[float] = []
    for counts, two in zip(counted, best, strict=True):
        own = counts[i]
        hits = sum(min(k, two[gram][1] if two[gram][0] == k else two[gram][0]) for gram, k in own.items())
        if not logs and not hits:
            return 0.0  # as the reference: without a common word no score
        logs.append(math.log((hits or 0.1) / max(own.total(), 1)))
    others = lengths - Counter({size: 1})
    closest = min(others, key=lambda length: (abs(length - size), length))
    penalty = 1.0 if size > closest else math.exp(1 - closest / max(size, 1))
    return penalty * math.exp(sum(logs) / len(logs))


def template_share(thoughts: Sequence[Hashable]) -> float:
    """Share of the most frequent thought: 1 is full collapse, whatever the hand."""
    return Counter(thoughts).most_common(1)[0][1] / len(thoughts)
