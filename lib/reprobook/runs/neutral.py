"""Changes of the library that were shown to move no number of a chapter.

A definition's digest moves with its code, whether or not a number can. ``reprobook neutral <slug> --why "..."`` runs
the chapter at smoke scale. Only if every metric is equal, to the last bit, to the smoke record that was made before the
change, the digests of the changed definitions go into ``book/results/neutral.yaml``, with the reason; records made with
the old ones then stay current. Changed cells, parameters, data and packages can't be excused.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprobook.errors import ReprobookError
from reprobook.project import atomic_write, check_slug, root

HEAD = (
    "# Library changes shown to move no number (see lib/reprobook/runs/neutral.py). Written by `reprobook neutral`.\n"
)


def path() -> Path:
    return root() / "book" / "results" / "neutral.yaml"


def excused(slug: str, definition: str, old: str | None, new: str | None) -> bool:
    """Whether the change of ``definition`` from digest ``old`` to ``new`` (None: not used) was shown to be neutral for
    this chapter, in one step or several."""
    file = path()
    steps = _steps(file, file.stat().st_mtime_ns).get((slug, definition), ()) if file.is_file() else ()
    reached, size = {old}, 0
    while new not in reached and size < len(reached):
        size = len(reached)
        reached |= {after for before, after in steps if before in reached}
    return new in reached


@functools.lru_cache(maxsize=4)
def _steps(file: Path, _stamp: int) -> dict[tuple[str, str], list[tuple[str | None, str | None]]]:
    import yaml

    found: dict[tuple[str, str], list[tuple[str | None, str | None]]] = {}
    for entry in yaml.safe_load(file.read_text("utf-8")) or []:
        for definition, (old, new) in entry["definitions"].items():
            found.setdefault((entry["slug"], definition), []).append((old, new))
    return found


def declare(slug: str, why: str) -> list[str]:
    """Show by a smoke run that the changes since the smoke record of ``slug`` move no metric, and note them.

    Returns the definitions noted. Raises :class:`ReprobookError` if a metric moved, if something else than definitions
    changed (cells, parameters, data, packages), if nothing did, or if ``why`` is empty.
    """
    from reprobook import record
    from reprobook.params import resolve
    from reprobook.runs.refresh import execute

    if not why.strip():
        raise ReprobookError("say why the change can move no number: --why '...'")
    before = next(iter(record.results(check_slug(slug), "smoke")), None)
    if before is None or before.content is None:
        raise ReprobookError(f"{slug} has no smoke record to compare with: reprobook refresh {slug}")
    result = execute(slug, resolve(slug, "smoke"))
    if result.status == "failed":
        raise ReprobookError(f"the smoke run failed: {result.where}")
    changed = changed_definitions(before.content, result.record.content or {})
    moved = {
        name: (before.metrics.get(name), result.record.metrics.get(name))
        for name in sorted({*before.metrics, *result.record.metrics})
        if before.metrics.get(name) != result.record.metrics.get(name)
    }
    if moved:
        name, (old, new) = next(iter(moved.items()))
        raise ReprobookError(
            f"{len(moved)} metrics of {slug} moved, such as {name}: {old} -> {new}. Make new records, or, if the smoke "
            "record comes from another machine, refresh it here from the code before the change"
        )
    _note(slug, why.strip(), changed)
    return sorted(changed)


def changed_definitions(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """Definition -> [old digest, new digest]; raises :class:`ReprobookError` if anything else changed, or nothing."""
    other = [part for part in ("cells", "params", "data", "packages") if then.get(part) != now.get(part)]
    if other:
        raise ReprobookError(f"{', '.join(other)} changed: that cannot be excused; make new records")
    old, new = then["definitions"], now["definitions"]
    changed = {name: [old.get(name), new.get(name)] for name in {*old, *new} if old.get(name) != new.get(name)}
    if not changed:
        raise ReprobookError("no definition changed since the smoke record was made")
    return changed


def _note(slug: str, why: str, definitions: Mapping[str, Any]) -> None:
    import yaml

    entries = yaml.safe_load(path().read_text("utf-8")) if path().is_file() else []
    entries.append({"slug": slug, "why": why, "definitions": dict(sorted(definitions.items()))})
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=118, default_flow_style=None)
    atomic_write(path(), HEAD + text)
