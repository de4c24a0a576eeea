"""Which corrections are kept (Section 3, Algorithm 1 step 3), and how answers move between right and wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from reprobook.errors import ReprobookError

FilterMode = Literal["improving", "non_decreasing", "equal_only"]
Pairing = Literal["matched", "cross"]
FILTERS = ("improving", "non_decreasing", "equal_only")
PAIRINGS = ("matched", "cross")
TRANSITIONS = ("wrong to wrong", "wrong to right", "right to wrong", "right to right")


@dataclass(frozen=True)
class Variant:
    """One of STaSC's eight variants, named by three letters: initialisation F/E, filter I/N, fine-tuning F/E."""

    name: str

    def __post_init__(self) -> None:
        allowed = ("FE", "IN", "FE")
        if len(self.name) != 3 or any(letter not in own for letter, own in zip(self.name, allowed, strict=True)):
            raise ReprobookError(
                f"variant {self.name!r} is not known: three letters, initialisation F or E, filter I or N, "
                "fine-tuning F or E, such as EIF"
            )

    @property
    def evolving_initialisation(self) -> bool:
        """Whether initial answers come from the latest model."""
        return self.name[0] == "E"

    @property
    def evolving_tuning(self) -> bool:
        """Whether fine-tuning starts from the latest model."""
        return self.name[2] == "E"

    def filter_mode(self, as_run: bool = False) -> FilterMode:
        """I is ``improving``; N is ``non_decreasing`` (the paper's definition) or, ``as_run``, ``equal_only``: what
        the released code kept under that name (the logged counts prove it)."""
        return "improving" if self.name[1] == "I" else "equal_only" if as_run else "non_decreasing"


VARIANTS = tuple(Variant(a + b + c) for a in "FE" for b in "IN" for c in "FE")


def keep(r1: np.ndarray, r2: np.ndarray, mode: FilterMode, threshold: float = 1.0) -> np.ndarray:
    """Mask of the pairs that a filter keeps, broadcast over rewards r1 (initial) and r2 (correction).

    ``improving``: D+ = {r2 > r1}. ``equal_only``: D= = {r2 = r1 >= t}. ``non_decreasing``: their union. For a 0/1
    reward any t in (0, 1] is the same; t = 0 would keep wrong answers that stay wrong, so it is refused.
    """
    if mode not in FILTERS:
        raise ReprobookError(f"filter_mode {mode!r} is not known; modes: {', '.join(FILTERS)}")
    if not threshold > 0:
        raise ReprobookError(f"threshold is {threshold}; it must be above 0, or wrong answers that stay wrong are kept")
    better, equal = r2 > r1, (r2 == r1) & (r1 >= threshold)
    return {"improving": better, "equal_only": equal, "non_decreasing": better | equal}[mode]


def pair_up(r1: np.ndarray, r2: np.ndarray, pairing: Pairing) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of all pairs as broadcastable views.

    r1 is (Q, J) and r2 (Q, J, K). ``matched`` pairs an initial answer with its own corrections: (Q, J, K) pairs.
    ``cross`` (as the released code did) pairs it with all corrections of the question: (Q, J, J, K), where the second
    index is the initial answer that is shown and the third the one that the correction was written for.
    """
    if pairing not in PAIRINGS:
        raise ReprobookError(f"pairing {pairing!r} is not known; pairings: {', '.join(PAIRINGS)}")
    if r1.ndim != 2 or r2.shape[:2] != r1.shape or r2.ndim != 3:
        raise ReprobookError(f"rewards must be (Q, J) and (Q, J, K), got {r1.shape} and {r2.shape}")
    if pairing == "matched":
        return r1[:, :, None], r2
    return r1[:, :, None, None], r2[:, None, :, :]


def kept_indices(
    r1: np.ndarray, r2: np.ndarray, mode: FilterMode, pairing: Pairing = "matched", threshold: float = 1.0
) -> tuple[np.ndarray, int]:
    """Indices (n, 4) of the kept triples, and the number of pairs looked at.

    A row is (question, shown initial answer, initial answer that the correction was written for, correction).
    """
    a, b = pair_up(r1, r2, pairing)
    mask = keep(a, b, mode, threshold)
    found = np.argwhere(mask)
    if pairing == "matched":
        found = found[:, [0, 1, 1, 2]]
    return found, mask.size


def transitions(r1: np.ndarray, r2: np.ndarray) -> dict[str, float]:
    """Shares of the four moves between initial answer and correction, in the order of :data:`TRANSITIONS`; they sum
    to 1. r1 is (Q, J) with r2 (Q, J, K), or both have one shape."""
    a, b = np.broadcast_arrays(r1[..., None] if r2.ndim == r1.ndim + 1 else r1, r2)
    right1, right2 = a > 0, b > 0
    shares = [np.mean((right1 == x) & (right2 == y)) for x in (False, True) for y in (False, True)]
    return dict(zip(TRANSITIONS, map(float, shares), strict=True))
