"""Do a chapter's smoke metrics stay within tolerance with other threads and other processor instructions?

``reprobook portability`` runs every chapter with 1 and 2 threads and with torch limited to the plainest instructions,
to AVX2, and not at all, and says how much of the tolerances is used. With ``--one`` it takes one chapter, the next one
after each commit (in a shallow clone, which can't count them, one by the commit's name), under three of the six.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reprobook import project, record
from reprobook.authoring.refresh import execute
from reprobook.errors import ReprobookError
from reprobook.record import circumstances


@dataclass(frozen=True)
class Setting:
    """``capability`` as ATEN_CPU_CAPABILITY takes it; ``native`` sets nothing."""

    threads: int
    capability: str

    @property
    def name(self) -> str:
        """``avx2-1``: instructions and threads."""
        return f"{self.capability}-{self.threads}"

    def environment(self) -> dict[str, str]:
        """Environment variables that make a run keep to the setting."""
        threads = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        return threads if self.capability == "native" else {**threads, "ATEN_CPU_CAPABILITY": self.capability}


CAPABILITIES = ("default", "avx2", "native")
ALL = tuple(Setting(threads, capability) for capability in CAPABILITIES for threads in (1, 2))
SOME = (Setting(1, "default"), Setting(2, "avx2"), Setting(2, "native"))


def check(slug: str, settings: Sequence[Setting] = ALL, report: Callable[[str], object] = print) -> list[str]:
    """Problems of ``slug`` under ``settings``, one line each; [] if all its metrics are within tolerance under all.

    Raises :class:`ReprobookError` if the chapter has no expected metrics.
    """
    expected = record.expected(project.check_slug(slug))
    if not expected:
        raise ReprobookError(f"notebooks/expected/{slug}.json has no metrics: run `reprobook refresh {slug}`")
    problems = []
    for setting in settings:
        found = _measure(slug, setting)
        wrong = [found] if isinstance(found, str) else [str(each) for each in record.compare(found, expected)]
        problems += [f"{slug}, {setting.name}: {each}" for each in wrong]
        used = "failed" if isinstance(found, str) else most_used(found, expected)
        report(f"{slug}  {setting.capability:8}{setting.threads} threads  {used}")
    return problems


def _measure(slug: str, setting: Setting) -> dict[str, float | None] | str:
    """The metrics of a smoke run under ``setting``, or why there are none."""
    result = execute(slug, f"portability/{setting.name}", setting.environment())
    return result.record.metrics if result.status == "complete" else str(result.where)


def most_used(metrics: Mapping[str, float | None], expected: Mapping[str, Mapping[str, Any]]) -> str:
    """The metric that uses most of its tolerance: ``at most 12 % of a tolerance (nats AR)``."""
    shares = {
        name: abs(value - entry["value"]) / allowed
        for name, entry in expected.items()
        if (value := metrics.get(name)) is not None and entry["value"] is not None and (allowed := tolerance(entry))
    }
    if not shares:
        return "nothing to compare"
    worst = max(shares, key=shares.__getitem__)
    return f"at most {shares[worst]:.2g} of a tolerance ({worst})"


def tolerance(entry: Mapping[str, Any]) -> float:
    """Largest allowed difference of an expected metric."""
    return entry["atol"] if "atol" in entry else entry["rtol"] * abs(entry["value"] or 0.0)


def in_turn(slugs: Sequence[str]) -> str:
    """One of the chapters, by the commit."""
    return slugs[circumstances.commit_count() % len(slugs)]
