"""Which records speak for a claim, and whether they are current."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reprobook import record

if TYPE_CHECKING:
    from reprobook.record import Record


@dataclass(frozen=True)
class Evidence:
    """The best records that can tell about one claim; ``scale`` is None while there are none."""

    scale: str | None
    records: Sequence[Record]
    summary: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """The verdict over the records; a claim that no run was made for is "never run", not "not testable here"."""
        return self.summary["verdict"] if self.scale else "never run"

    @property
    def told(self) -> str:
        """How many runs agree with the claim, of those that could tell."""
        holds, n = self.summary["holds"], self.summary["n"]
        silent = len(self.records) - n
        return f"holds in {holds} of {n} runs" + (f", {silent} could not tell" if silent else "")


def evidence(claim_id: str, testable_at: Sequence[str], records: Mapping[str, Sequence[Record]]) -> Evidence:
    """The records of the largest scale that tell about a claim. ``records``: scale -> records; smoke is no evidence."""
    for scale in ("paper", "laptop"):
        found = [r for r in records.get(scale, ()) if claim_id in r.claims]
        if found and scale in testable_at:
            return Evidence(scale, found, record.summarise_claim(found, claim_id))
    nothing = record.summarise_claim([], claim_id)
    reached = records.get("laptop") and "laptop" not in testable_at  # run as far as a laptop goes
    return Evidence("paper" if reached else None, [], nothing)


def state(records: Iterable[Record]) -> str:
    """``current``, or ``stale`` with what changed since these records were made; ``never run`` without records."""
    from reprobook.content.key import staleness

    records = list(records)
    if not records:
        return "never run"
    reasons = dict.fromkeys(reason for found in records for reason in staleness(found))
    return f"stale: {'; '.join(reasons)}" if reasons else "current"
