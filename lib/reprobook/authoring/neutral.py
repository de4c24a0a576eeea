"""``reprobook neutral``: show by smoke runs that changes of the library move no number, and note them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from reprobook import record
from reprobook.authoring.refresh import execute
from reprobook.content.excuses import HEAD, Change, changed_definitions, entries, excused, latest, path, to_excuse
from reprobook.content.key import content_key, differences
from reprobook.data import ChapterData
from reprobook.errors import ReprobookError
from reprobook.params import resolve
from reprobook.project import atomic_write, check_package, check_slug, root

if TYPE_CHECKING:
    from reprobook.record import Record


def declare(slugs: Iterable[str], why: str, report: Callable[[str], object] = print) -> list[str]:
    """Chapter by chapter: show by a smoke run that what changed in the library since its smoke record moves no metric,
    and note that. Reports each chapter; one that moved does not keep the others from their turn.

    Returns the chapters that are not shown to be neutral: a metric moved, more than definitions changed, or the run
    failed. Raises :class:`ReprobookError` if ``why`` is empty.
    """
    if not why.strip():
        raise ReprobookError("say why the change can move no number: --why '...'")
    check_package()
    shown: dict[str, list[dict[str, Change]]] = {}
    left = []
    try:
        for slug in slugs:
            try:
                changed = neutral_changes(check_slug(slug))
            except ReprobookError as error:
                left.append(slug)
                report(f"{slug}: {error}")
                continue
            shown[slug] = changed
            n = len({name for each in changed for name in each})
            report(f"{slug}: {f'neutral, {n} definitions moved no number' if n else 'nothing changed'}")
    finally:  # what was shown is noted, even if a later chapter is interrupted
        for k in range(max(map(len, shown.values()), default=0)):
            _note({slug: changed[k] for slug, changed in shown.items() if k < len(changed)}, why.strip())
    return left


def neutral_changes(slug: str) -> list[dict[str, Change]]:
    """Definition -> [old digest, new digest] of what changed since the smoke record and moves no metric; [] if nothing
    did. A published record that was current when the smoke record was made is as neutral; what else differs from it,
    because it knows a definition by an earlier module, comes as a second step.

    Raises :class:`ReprobookError` if a metric moved, if that cannot be told, or if the change cannot be excused."""
    before = next(iter(record.results(slug, "smoke")), None)
    if before is None or before.content is None:
        raise ReprobookError(f"no smoke record to compare with: reprobook refresh {slug}")
    params = resolve(slug, "smoke")
    known = {name: value for name, value in params.items() if name != "out_dir"}
    now = content_key(slug, known, ChapterData(slug, "smoke").checksums())
    found, more = _not_excused(slug, before.content, now), dict[str, Change]()
    for published in (*record.results(slug, "laptop"), *record.results(slug, "paper")):
        if published.content and not _not_excused(slug, published.content, before.content):
            more |= _not_excused(slug, published.content, now)
    steps = [found, {name: change for name, change in more.items() if found.get(name) != change}]
    if not any(steps) and not differences(before.content, now, slug):
        return []
    to_excuse(before.content, now)
    moved = _moved(before, _made(slug, now) or _make(slug))
    if moved:
        raise ReprobookError(
            f"moved: {len(moved)} metrics, such as {moved[0]}. Make new records, or, if the smoke record comes from "
            "another machine, refresh it here from the code before the change"
        )
    return [dict(sorted(each.items())) for each in steps if each]


def _not_excused(slug: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Change]:
    """Definition -> [last digest that is known to move no more than its old one, new digest] of what changed."""
    return {
        name: [latest(slug, name, old), new]
        for name, (old, new) in changed_definitions(then["definitions"], now["definitions"]).items()
        if not excused(slug, name, old, new)
    }


def _made(slug: str, now: Mapping[str, object]) -> Record | None:
    """The record of the last smoke run, if it was made from just this code."""
    file = root() / "runs" / slug / "refresh" / "record.json"
    found = record.read(file) if file.is_file() else None
    return found if found and found.status == "complete" and found.content == now else None


def _make(slug: str) -> Record:
    result = execute(slug)
    if result.status == "failed":
        raise ReprobookError(f"the smoke run failed: {result.where}")
    return result.record


def _moved(before: Record, after: Record) -> list[str]:
    """``name: old -> new`` of every metric that is not the same to the last bit."""
    names = sorted({*before.metrics, *after.metrics})
    pairs = [(name, before.metrics.get(name), after.metrics.get(name)) for name in names]
    return [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new]


def _note(shown: Mapping[str, Mapping[str, Change]], why: str) -> None:
    """Add changes (chapter -> definition -> digests) to the excuses: one entry for all chapters that share them."""
    import yaml

    chapters: dict[tuple[str, str | None, str | None], list[str]] = {}
    for slug, changes in shown.items():
        for name, (old, new) in changes.items():
            chapters.setdefault((name, old, new), []).append(slug)
    groups: dict[tuple[str, ...], dict[str, Change]] = {}
    for (name, old, new), slugs in chapters.items():
        groups.setdefault(tuple(slugs), {})[name] = [old, new]
    noted = entries(path())
    noted += [{"slugs": list(slugs), "why": why, "definitions": changes} for slugs, changes in groups.items()]
    text = yaml.safe_dump(noted, sort_keys=False, allow_unicode=True, width=118, default_flow_style=None)
    atomic_write(path(), HEAD + text)
