"""Changes of the library that were shown to move no number of a chapter.

A definition's digest moves with its code, whether or not a number can. ``reprobook neutral --all --why "..."`` runs
each chapter at smoke scale. Only if every metric is equal, to the last bit, to the smoke record that was made before
the change, the digests of the changed definitions go into ``book/results/neutral.yaml``, with the reason; records made
with the old ones then stay current. Changed cells, parameters, data, packages and facts can't be excused.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprobook.errors import ReprobookError
from reprobook.project import read_text, root
from reprobook.yaml_files import load_yaml

Change = list[str | None]  # [old digest, new digest]; None: not used
Steps = dict[tuple[str, str], list[tuple[str | None, str | None]]]  # (slug, definition) -> [(old, new), ...]
HEAD = "# Library changes shown to move no number (lib/reprobook/content/excuses.py), written by `reprobook neutral`.\n"


def path() -> Path:
    """Where the excuses are kept."""
    return root() / "book" / "results" / "neutral.yaml"


def noted() -> Steps:
    """All steps that the file notes, read again only if it changed."""
    file = path()
    return _steps(file, file.stat().st_mtime_ns) if file.is_file() else {}


def excused(slug: str, definition: str, old: str | None, new: str | None, steps: Steps | None = None) -> bool:
    """Whether the change of ``definition`` from digest ``old`` to ``new`` (None: not used) was shown to be neutral for
    this chapter, in one step or several of ``steps`` (default: :func:`noted`)."""
    return new in _reached(slug, definition, old, noted() if steps is None else steps)


def latest(slug: str, definition: str, old: str | None) -> str | None:
    """The last digest that is known to move no more than ``old``: the next step begins there."""
    return _reached(slug, definition, old, noted())[-1]


def _reached(slug: str, definition: str, old: str | None, noted: Steps) -> list[str | None]:
    """``old``, and the digests that noted steps lead to from it, in their order."""
    steps = noted.get((slug, definition), ())
    reached = [old]
    for _ in steps:
        reached += [after for before, after in steps if before in reached and after not in reached]
    return reached


def entries(file: Path) -> list[dict[str, Any]]:
    """What the file of excuses holds; [] if there is none."""
    return (load_yaml(read_text(file, f"book/results/{file.name}"), file.name) if file.is_file() else None) or []


@functools.lru_cache(maxsize=4)
def _steps(file: Path, _stamp: int) -> Steps:
    found: Steps = {}
    for entry in entries(file):
        for slug in entry.get("slugs") or [entry["slug"]]:
            for definition, (old, new) in entry["definitions"].items():
                found.setdefault((slug, definition), []).append((old, new))
    return found


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """``(name, old value, new value)`` where two mappings differ, None for a value that is not there."""
    return [(name, old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def changed_definitions(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Change]:
    """Definition -> [old digest, new digest] (None: not used). What only moved to another module did not change."""
    found = changes(old, new)
    gone = Counter(_what(name, was) for name, was, now in found if now is None)
    came = Counter(_what(name, now) for name, was, now in found if was is None)
    moved = gone & came
    left, arrived = Counter(moved), Counter(moved)
    changed: dict[str, Change] = {}
    for name, was, now in found:
        counts = left if now is None else arrived
        if (was is None or now is None) and counts[_what(name, was or now)]:
            counts[_what(name, was or now)] -= 1
        else:
            changed[name] = [was, now]
    return changed


def _what(name: str, digest: str) -> tuple[str, str]:
    """A definition wherever it stands: its bare name and its digest."""
    return name.partition(":")[2], digest


def to_excuse(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Change]:
    """What :func:`changed_definitions` finds; raises :class:`ReprobookError` if anything else changed, or nothing."""
    parts = ("cells", "params", "data", "packages", "facts")
    other = [part for part in parts if (then.get(part) or None) != (now.get(part) or None)]
    if other:
        raise ReprobookError(f"{', '.join(other)} changed: that cannot be excused; make new records")
    changed = changed_definitions(then["definitions"], now["definitions"])
    if not changed:
        raise ReprobookError("no definition changed since the smoke record was made")
    return changed
