"""Do the smoke metrics of a chapter stay within their tolerances with other threads and vector instructions?

PyTorch promises no equal digits across thread counts and instruction sets: reductions are split differently. A stored
metric must hold all the same, or its tolerance in ``notebooks/expected/<slug>.json`` says why not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from reprobook.project import check_slug, root
from reprobook.runs.runner import RunResult, run_in

THREADS = (1, 2)
CAPABILITIES = ("default", "avx2", "native")  # of ATen: none beyond the platform's, AVX2, all that the processor has


def variants() -> list[tuple[int, str]]:
    """``(threads, capability)`` of every run."""
    return [(n, capability) for n in THREADS for capability in CAPABILITIES]


def environment(threads: int, capability: str) -> dict[str, str]:
    """Variables that PyTorch and the libraries below it read when they start."""
    given = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return given if capability == "native" else {**given, "ATEN_CPU_CAPABILITY": capability}


def check(
    slug: str, report: Callable[[str], object] = print, only: Iterable[tuple[int, str]] | None = None
) -> list[RunResult]:
    """Run the smoke scale of ``slug`` once per variant and report a line each; returns the runs that failed.

    A metric outside its tolerance fails its run: ``ch.finish`` compares them. The runs stay below
    ``runs/<slug>/portability``.
    """
    from reprobook.params import resolve

    params = {name: value for name, value in resolve(check_slug(slug), "smoke").items() if name != "out_dir"}
    failed = []
    for threads, capability in variants() if only is None else only:
        name = f"{threads}-{capability}"
        identity = {"slug": slug, "scale": "smoke", "seed": params["seed"], "run_id": name}
        folder = root() / "runs" / slug / "portability" / name
        result = run_in(folder, identity, params, again=True, env=environment(threads, capability))
        what = f"{slug}: {threads} thread{'s' if threads > 1 else ''}, {capability}"
        if result.status == "failed":
            failed.append(result)
            report(f"{what}: {result.where}")
        else:
            report(f"{what}: {len(result.record.metrics)} metrics within tolerance")
    return failed


def in_turn(slugs: list[str], day: int) -> str:
    """The chapter whose turn it is on ``day``: all come round."""
    return slugs[day % len(slugs)]
