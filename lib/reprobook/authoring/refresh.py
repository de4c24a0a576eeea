"""``reprobook refresh``: execute a chapter at smoke scale, then store its outputs and its expected metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import record
from reprobook.authoring.citations import readable
from reprobook.authoring.notebook import normalise, write
from reprobook.params import resolve
from reprobook.project import atomic_write, check_package, check_slug, notebook_path, root
from reprobook.runs.runner import run_in

if TYPE_CHECKING:
    from reprobook.runs.runner import RunResult

NEW_TOLERANCE = {"rtol": 0.05}  # of a metric that has no tolerance yet,
# With several threads the last bits may depend on how busy the machine is; `reprobook neutral` compares all of them.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TINY, TINY_TOLERANCE = 1e-4, {"atol": 1e-4}  # and of one that is zero but for rounding


def refresh(slug: str, report: Callable[[str], object] = print) -> RunResult:
    """Execute ``slug`` at smoke scale and, if the run is complete, store notebook and expected metrics.

    Reports what changes before it writes. Tolerances and their reasons are kept; a new metric gets a usual one.
    """
    check_package()
    path = root() / "notebooks" / "expected" / f"{slug}.json"
    old = record.expected(check_slug(slug))
    if old is None:
        atomic_write(path, "{}\n")  # so that the stored last line is the one that later runs print
    result = execute(slug)
    if result.status == "failed":
        if old is None:
            path.unlink()
        return result
    new = merge(old or {}, result.record.metrics)
    for line in changes(old or {}, new):
        report(f"{slug}: {line}")
    _store(slug, result.folder, path, new)
    return result


def execute(slug: str, place: str = "refresh", env: Mapping[str, str] = ONE_THREAD) -> RunResult:
    """Execute ``slug`` at smoke scale in ``runs/<slug>/<place>``; its metrics are not compared with expected ones."""
    params = resolve(slug, "smoke")
    params.pop("out_dir", None)
    identity = {"slug": slug, "scale": "smoke", "seed": params["seed"], "run_id": place.replace("/", "-")}
    folder = root() / "runs" / slug / place
    return run_in(folder, identity, params, again=True, env={"REPROBOOK_REFRESH": "1", **env})


def _store(slug: str, folder: Path, expected: Path, metrics: Mapping[str, Any]) -> None:
    import nbformat

    write(normalise(readable(nbformat.read(folder / "notebook.ipynb", as_version=4))), notebook_path(slug))
    atomic_write(expected, json.dumps(metrics, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def merge(old: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, float | None]) -> dict[str, dict[str, Any]]:
    """Expected values from measured ones. A metric that hardly moved keeps its old value; one that moved by more than a
    tenth of its tolerance does not: the tolerance is there for other machines, not for what changed in the chapter."""
    merged = {}
    for name, value in sorted(metrics.items()):
        kept = old.get(name)
        if kept and not record.compare({name: value}, {name: _a_tenth(kept)}):
            merged[name] = dict(kept)
            continue
        rounded = None if value is None else float(f"{value:.6g}")
        tolerance = TINY_TOLERANCE if abs(value or 0.0) < TINY else NEW_TOLERANCE
        merged[name] = {**(kept or tolerance), "value": rounded}
    return merged


def _a_tenth(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value / 10 if name in ("atol", "rtol") else value for name, value in entry.items()}


def changes(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per expected metric that is new, gone or moved, and one that counts the others."""
    lines = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            lines.append(f"{name}: new, {after['value']}" if after else f"{name}: gone, was {before['value']}")  # type: ignore[index]
        elif before["value"] != after["value"]:
            lines.append(f"{name}: {before['value']} -> {after['value']}")
    same = len({*old} & {*new}) - sum("->" in line for line in lines)
    return [*lines, f"{same} expected metrics unchanged"] if old else lines
