"""``reprobook neutral``: show by a smoke run that changes of the library move no number, and note them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reprobook.content.excuses import HEAD, to_excuse, path
from reprobook.errors import ReprobookError
from reprobook.project import atomic_write, check_slug


def declare(slug: str, why: str) -> list[str]:
    """Show by a smoke run that the changes since the smoke record of ``slug`` move no metric, and note them.

    Returns the definitions noted. Raises :class:`ReprobookError` if a metric moved, if something else than definitions
    changed (cells, parameters, data, packages), if nothing did, or if ``why`` is empty.
    """
    from reprobook import record
    from reprobook.authoring.refresh import execute
    from reprobook.params import resolve

    if not why.strip():
        raise ReprobookError("say why the change can move no number: --why '...'")
    before = next(iter(record.results(check_slug(slug), "smoke")), None)
    if before is None or before.content is None:
        raise ReprobookError(f"{slug} has no smoke record to compare with: reprobook refresh {slug}")
    result = execute(slug, resolve(slug, "smoke"))
    if result.status == "failed":
        raise ReprobookError(f"the smoke run failed: {result.where}")
    changed = to_excuse(before.content, result.record.content or {})
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


def _note(slug: str, why: str, definitions: Mapping[str, Any]) -> None:
    import yaml

    entries = yaml.safe_load(path().read_text("utf-8")) if path().is_file() else []
    entries.append({"slug": slug, "why": why, "definitions": dict(sorted(definitions.items()))})
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=118, default_flow_style=None)
    atomic_write(path(), HEAD + text)
