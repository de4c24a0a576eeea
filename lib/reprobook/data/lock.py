"""Lock files: what the first fetch of an unpinned artefact got, so that a later change is an error.

``<slug>.lock.yaml`` lies beside the manifest, or in ``$REPROBOOK_LOCKS``::

    artefacts:
      <id>: {origin: <repository or address>, revision: <40 hex or null>, files: {<path>: {sha256: ..., bytes: ...}}}

Which of several mirrors gave an artefact is locked beside the copy in the cache: it is true of this copy only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from reprobook import project
from reprobook.data import cache
from reprobook.data.errors import ManifestError


class LockedFile(BaseModel):
    """One file as it came."""

    sha256: str
    bytes: int


class Locked(BaseModel):
    """What one artefact was at its first fetch."""

    origin: str
    revision: str | None
    files: dict[str, LockedFile]


def lock_path(slug: str) -> Path:
    """The lock file of a chapter, whether it is there or not."""
    override = os.environ.get("REPROBOOK_LOCKS")
    return (Path(override) if override else project.root() / "data_manifests") / f"{slug}.lock.yaml"


def read(slug: str, artefact: str, origin: str) -> Locked | None:
    """What is locked for this artefact; None before the first fetch or when the manifest now names another origin."""
    entry = _load(slug).get(artefact)
    if entry is None or entry.get("origin") != origin:
        return None
    try:
        return Locked.model_validate(entry)
    except ValidationError:
        raise ManifestError(
            f"{artefact}: its entry in {lock_path(slug).name} is damaged: restore it, or delete it to lock anew"
        ) from None


def measure(origin: str, revision: str | None, folder: Path, names: Iterable[str]) -> Locked:
    """The entry for these files below ``folder``, as they are."""
    paths = {name: folder / name for name in sorted(names)}
    files = {n: LockedFile(sha256=cache.sha256_of(path), bytes=path.stat().st_size) for n, path in paths.items()}
    return Locked(origin=origin, revision=revision, files=files)


def write(slug: str, artefact: str, locked: Locked) -> None:
    """Record ``locked`` for ``artefact``; other entries stay."""
    with cache.locked(f"lockfile-{slug}"):
        entries = _load(slug)
        entries[artefact] = locked.model_dump()
        text = "# What the first fetch got. Delete an entry to accept what its source offers now.\n"
        text += yaml.safe_dump({"artefacts": entries}, sort_keys=True)
        with cache.disk_errors(lock_path(slug).name, lock_path(slug).parent, "REPROBOOK_LOCKS"):
            project.atomic_write(lock_path(slug), text)


def record_place(files: Mapping[str, str], place: str) -> None:
    """Lock that the copy of these files (path -> SHA-256) came from ``place``."""
    project.atomic_write(_place_path(files), yaml.safe_dump({"origin": place}))


def place(files: Mapping[str, str]) -> str:
    """Where the copy of these files came from, in words."""
    try:
        return str(yaml.safe_load(_place_path(files).read_text("utf-8"))["origin"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return "a place that was not locked"


def _place_path(files: Mapping[str, str]) -> Path:
    folder = cache.object_dir(files)
    return folder.with_name(f"{folder.name}.lock.yaml")


def _load(slug: str) -> dict[str, Any]:
    path = lock_path(slug)
    if not path.exists():
        return {}
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["artefacts"]
        return dict(entries or {})
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{path.name} is damaged ({type(error).__name__}): restore it from git") from None
