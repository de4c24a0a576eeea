"""How long ways to the same result take: medians in turns, their spread, and proof that the results agree.

Each chapter's ``bench.py`` has ``headline() -> Comparison``, the ratio it wants to be known for; ``reprobook bench``
prints them all in one table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    import pandas as pd
    import torch

T = TypeVar("T")
COLUMNS = ("what", "slow", "fast", "ratio", "spread", "n", "threads", "device")


class Ratio(NamedTuple):
    """How many times as long: median of the turns' ratios, the ends of their middle half, number of turns."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Measured times. Plain data: ``dataclasses.asdict`` and ``Comparison(**data)`` lead to JSON and back.

    ``seconds``: way -> one number a turn. The first way is the slow one of the headline, the second the fast one.
    ``same``: whether the ways were found to give equal results; False where they are different methods.
    """

    what: str
    seconds: dict[str, list[float]]
    threads: int
    device: str
    same: bool = True

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds of each way."""
        return {way: median(times) for way, times in self.seconds.items()}

    def ratio(self, slow: str | None = None, fast: str | None = None) -> Ratio:
        """Time of ``slow`` over that of ``fast`` (default: the headline), compared turn by turn: what slows the whole
        machine for a while slows both."""
        first, second = self._headline()
        pairs = zip(self._times(slow or first), self._times(fast or second), strict=True)
        found = [a / b for a, b in pairs]
        return Ratio(median(found), *_middle_half(found), len(found))

    def _headline(self) -> tuple[str, str]:
        if len(self.seconds) < 2:
            raise ReprobookError(f"a ratio needs two ways; there is {', '.join(self.seconds)}")
        slow, fast, *_ = self.seconds
        return slow, fast

    def _times(self, way: str) -> list[float]:
        if way not in self.seconds:
            raise ReprobookError(f"no way is named {way!r}; ways: {', '.join(self.seconds)}")
        return self.seconds[way]

    def frame(self) -> pd.DataFrame:
        """One row a way: milliseconds (median and quartiles), and how many times as long as the second way."""
        import pandas as pd

        _, fast = self._headline()
        rows = []
        for way, times in self.seconds.items():
            low, middle, high = (1e3 * s for s in (_middle_half(times)[0], median(times), _middle_half(times)[1]))
            shown = {"way": way, "ms": middle, "first quartile": low, "third quartile": high, "n": len(times)}
            rows.append({**shown, f"time / {fast}": self.ratio(way, fast).value})
        return pd.DataFrame(rows)

    def row(self) -> tuple[str, ...]:
        """The headline as texts, one for each of :data:`COLUMNS`."""
        ratio, (slow, fast) = self.ratio(), self._headline()
        spread = f"{ratio.low:.3g} to {ratio.high:.3g}"
        return self.what, slow, fast, f"{ratio.value:.3g}", spread, str(ratio.n), str(self.threads), self.device


def _middle_half(values: list[float]) -> tuple[float, float]:
    """First and third quartile: on a busy machine the extremes tell of other work."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return low, high


def compare(
    ways: Mapping[str, Callable[[], T]], *, equal: Callable[[T, T], bool] | None, n: int = 5, warmup: int = 1,
    what: str = "", device: torch.device | str = "cpu",
) -> Comparison:  # fmt: skip
    """Run all ``ways`` in turns: ``warmup`` turns that do not count, then ``n`` that do.

    ``equal(first, other)`` compares the results of every turn with the first way's first one, outside the measured
    time; None where the ways are different methods, whose results cannot agree. ``what`` says what is done.

    Raises :class:`ReprobookError` if results are not equal, and without any way or turn.
    """
    import torch

    if not ways or n < 1 or warmup < 0:
        raise ReprobookError(f"a comparison needs ways, n >= 1 and warmup >= 0; got {list(ways)}, {n} and {warmup}")
    device = torch.device(device)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    reference: list[T] = []
    for turn in range(warmup + n):
        for way, run in ways.items():
            start = time.perf_counter()
            made = run()
            if device.type == "cuda":  # the work was only queued
                torch.cuda.synchronize(device)
            spent = time.perf_counter() - start
            if turn >= warmup:
                seconds[way].append(spent)
            reference = reference or [made]
            if equal is not None and not equal(reference[0], made):
                raise ReprobookError(f"{way!r} and {next(iter(ways))!r} gave different results: {what or 'comparison'}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Comparison(what, seconds, torch.get_num_threads(), name, equal is not None)
