"""``reprobook verify``: run a published seed again and say whether its numbers come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reprobook import project, record
from reprobook.authoring.portability import tolerance
from reprobook.content.key import staleness
from reprobook.errors import ReprobookError
from reprobook.hardware import arithmetic
from reprobook.record import versions
from reprobook.runs.runner import run_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reprobook.record import Record

# torch's names -> those that ATEN_CPU_CAPABILITY takes
CAPABILITIES = {"NO AVX": "default", "DEFAULT": "default", "AVX2": "avx2", "AVX512": "avx512"}
USUAL_TOLERANCE = 0.05  # of a metric that has no tolerance of its own, as a share of its value


@dataclass(frozen=True)
class Verified:
    """``outcome``: "bit-equal", "within tolerance" or "differs". ``moved``: metric or effect -> (then, now), all
    that are not equal to the last bit; ``reasons`` say what is another machine, package or code."""

    outcome: str
    moved: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


def verify(path: Path) -> Verified:
    """Run again what the record at ``path`` was made from, held to its instruction set where this machine can be, on as
    many threads. Raises :class:`ReprobookError` if the record can't be read or the run fails."""
    then = record.read(path)
    env = {"REPROBOOK_REFRESH": "1"}
    if capability := CAPABILITIES.get(str(then.hardware.get("instructions", "")).upper()):
        env["ATEN_CPU_CAPABILITY"] = capability
    if threads := then.hardware.get("threads"):
        env |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    params = {name: value for name, value in then.params.items() if name != "out_dir"}
    identity = {"slug": then.slug, "scale": then.scale, "seed": then.seed, "run_id": f"verify-{then.run_id}"}
    folder = project.root() / "runs" / project.check_slug(then.slug) / "verify" / then.run_id
    result = run_in(folder, identity, params, again=True, env=env)
    if result.status == "failed":
        raise ReprobookError(f"the run of {then.slug}, {then.scale}, seed {then.seed} failed: {result.where}")
    return compare(then, result.record)


def compare(then: Record, now: Record) -> Verified:
    """How metrics and effects of two runs of one seed differ, and what else does."""
    old, new = _numbers(then), _numbers(now)
    moved = {name: (old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)}
    if not moved:
        return Verified("bit-equal")
    allowed = record.expected(then.slug) or {}
    far = [name for name, pair in moved.items() if not _near(*pair, allowed.get(name))]
    return Verified("differs" if far else "within tolerance", moved, tuple(_reasons(then, now)))


def _numbers(of: Record) -> dict[str, float | None]:
    return {**of.metrics, **{name: effect.estimate for name, effect in of.effects.items()}}


def _near(old: float | None, new: float | None, entry: Mapping[str, float] | None) -> bool:
    if old is None or new is None:
        return False
    usual = USUAL_TOLERANCE * abs(old)
    return abs(old - new) <= (max(usual, tolerance({**entry, "value": old})) if entry else usual)


def _reasons(then: Record, now: Record) -> list[str]:
    """What is not as it was: processor and its arithmetic, packages, code and data."""
    found = []
    for name in ("cpu", *arithmetic()):
        old, new = then.hardware.get(name), now.hardware.get(name)
        if old != new:
            found.append(f"{name}: {old or 'not recorded'} then, {new} now")
    for name, new in versions().items():
        if (old := then.versions.get(name)) != new:
            found.append(f"package {name}: {old or 'not there'} then, {new} now")
    return found + staleness(then)
