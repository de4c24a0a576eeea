"""Names, ids, dates, times and places in four disjoint pools, and how they look in text.

``SEED``: the few that a generator of trajectories repeats; ``WIDE``: what the augmentation draws from; ``VALIDATION``
and ``TEST``: never seen in training. The last three come from the same ranges, every eighth value for each of the
held-out ones: an unseen id is a new combination, not one from a range of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.tools import DATE_FORMAT

if TYPE_CHECKING:
    import numpy as np

# fmt: off
_FIRST = "Ana Tom Maya Leo Ines Noah".split()  # of the seed pool
_LAST = "Rao Smith Lopez Chen Novak Weber".split()
# names of the other pools are put together, so there are enough of them not to be learned by heart
_FIRST_PARTS = ("Ma Ri Lo Ta Ne So Vi Ka Be Du Fa Gi Ho Je Li Mo Na Pe Ru Sa Te Vo We Za".split(),
                "na lo ra mi ko da se vi ta ni ro le bi".split())
_LAST_PARTS = ("Al Bar Cor Dal El Fen Gar Hal Is Jan Kol Lam Mar Nor Os Pal Ros Sal Tol Ul Val Wen Yar Zel".split(),
               "berg man sen ley ford well wick ton by low stad ham dorf".split())
# fmt: on
FOODS = ("bread and soda", "sweets and coffee", "rice and soup", "pizza and juice", "pasta and cake")
PATTERNS = {  # what an entity of each kind looks like; every kind is found by its form
    "date": re.compile(r"\b\d\d/\d\d/\d\d\b"),
    "time": re.compile(r"\b\d\d:\d\d\b"),
    "user_id": re.compile(r"\bU\d{4}\b"),
    "specialist_id": re.compile(r"\bS\d{3}\b"),
    "ambulance_id": re.compile(r"\bA\d{2}\b"),
    "phone": re.compile(r"\b555-\d{4}\b"),
    "place": re.compile(r"\b\d{1,2}\.\d\d\b"),
    "doctor": re.compile(r"\bDr [A-Z][a-z]+\b"),
    "name": re.compile(rf"\b(?:{'|'.join(_FIRST)}|(?:{'|'.join(_FIRST_PARTS[0])})(?:{'|'.join(_FIRST_PARTS[1])}))\b"),
}
KINDS = tuple(PATTERNS)


@dataclass(frozen=True)
class Pool:
    """Values of each kind, in ascending order where the kind has one."""

    values: dict[str, tuple[str, ...]]

    def draw(self, kind: str, n: int, rng: np.random.Generator, without: frozenset[str] = frozenset()) -> list[str]:
        """``n`` different values of ``kind``, none of ``without``."""
        values = self.values[kind]
        drawn = [values[i] for i in rng.choice(len(values), min(len(values), n + len(without)), replace=False)]
        usable = [value for value in drawn if value not in without]
        if len(usable) < n:
            raise ReprobookError(f"a pool has {len(usable)} usable values of {kind!r}; {n} are asked for")
        return usable[:n]


# fmt: off
def _pool(first: Sequence[str], last: Sequence[str], users: Sequence[int], doctors: Sequence[int],
          ambulances: Sequence[int], phones: Sequence[int], days: Sequence[int], times: Sequence[str],
          places: Sequence[str]) -> Pool:
    start = datetime(2025, 3, 3)
    return Pool({
        "name": tuple(first), "doctor": tuple(f"Dr {each}" for each in last),
        "user_id": tuple(f"U{i}" for i in users), "specialist_id": tuple(f"S{i}" for i in doctors),
        "ambulance_id": tuple(f"A{i}" for i in ambulances), "phone": tuple(f"555-{i}" for i in phones),
        "date": tuple((start + timedelta(days=k)).strftime(DATE_FORMAT) for k in days),
        "time": tuple(times), "place": tuple(places),
    })


def _part(rest: Callable[[int], bool]) -> Pool:
    """The values whose number in their list has a ``rest`` (of a division by 8) that is wanted."""
    names = [[a + b for a in parts[0] for b in parts[1]] for parts in (_FIRST_PARTS, _LAST_PARTS)]
    times = [f"{m // 60:02d}:{m % 60:02d}" for m in range(7 * 60, 21 * 60, 5) if m % 30]
    places = [f"{i}.{d:02d}" for i in range(11, 60) for d in range(1, 100) if d % 10]
    lists = (*names, range(1100, 10000), range(110, 1000), range(14, 100), range(1100, 10000), range(14, 270), times,
             places)
    return _pool(*([value for k, value in enumerate(each) if rest(k % 8)] for each in lists))


SEED = _pool(_FIRST, _LAST, range(1000, 1006), range(100, 108), range(10, 14), range(1000, 1006), range(12),
             [f"{m // 60:02d}:{m % 60:02d}" for m in range(7 * 60, 21 * 60, 30)],
             [f"10.{d:02d}" for d in range(1, 100) if d % 10])
WIDE = _part(lambda rest: rest not in (2, 5))
VALIDATION, TEST = _part(lambda rest: rest == 2), _part(lambda rest: rest == 5)
# fmt: on
POOLS = {"seed": SEED, "wide": WIDE, "validation": VALIDATION, "test": TEST}


def found(text: str) -> list[tuple[str, str]]:
    """``(kind, value)`` of every entity in ``text``, in order, with repetitions."""
    hits = [(match.start(), kind, match[0]) for kind, pattern in PATTERNS.items() for match in pattern.finditer(text)]
    return [(kind, value) for _, kind, value in sorted(hits)]


@functools.lru_cache(maxsize=10_000)
def by_time(kind: str, value: str) -> tuple[int, str]:
    """Sort key: dates by day, everything else as text."""
    return (datetime.strptime(value, DATE_FORMAT).toordinal() if kind == "date" else 0, value)
