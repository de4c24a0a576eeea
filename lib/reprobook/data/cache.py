"""The cache of fetched and derived artefacts: folders named by content, written whole or not at all.

Layout below :func:`reprobook.project.cache_dir`::

    objects/<ab>/<key>/...   files of one artefact; the key is the digest of its content
    derived/<key>/...        what :func:`convert_once` built from an artefact
    stamps/                  checksum of a file at a size and time, so that a large file is not read at every open
    locks/  tmp/             one lock per key between processes; unfinished work
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from reprobook import project
from reprobook.data.errors import DataError, checksum_error

LOCK_TIMEOUT_S = 3600.0
_known: dict[tuple[str, int, int], str] = {}


def sha256_of(path: Path, *, again: bool = False) -> str:
    """SHA-256 of a file, remembered by (path, size, time of change) in this process and in a stamp on disk.

    ``again=True`` reads the bytes whatever is remembered.
    """
    real = path.resolve(strict=True)
    stat = real.stat()
    key = (str(real), stat.st_size, stat.st_mtime_ns)
    stamp = project.cache_dir() / "stamps" / f"{hashlib.sha256(key[0].encode()).hexdigest()[:32]}.json"
    if not again and (digest := _known.get(key) or _read_stamp(stamp, key)):
        _known[key] = digest
        return digest
    with real.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _known[key] = digest
    with suppress(OSError):  # a read-only cache stays usable: it is only slower
        project.atomic_write(stamp, json.dumps([*key, digest]))
    return digest


def _read_stamp(stamp: Path, key: tuple[str, int, int]) -> str | None:
    try:
        *seen, digest = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return digest if tuple(seen) == key else None


def content_key(files: Mapping[str, str]) -> str:
    """Name of an artefact's folder: the file's own SHA-256, or the digest of all (path, SHA-256) pairs."""
    if len(files) == 1:
        return next(iter(files.values()))
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def object_dir(files: Mapping[str, str]) -> Path:
    """Where the artefact with these files (path -> SHA-256) lies, or will lie."""
    key = content_key(files)
    return project.cache_dir() / "objects" / key[:2] / key


def problems(folder: Path, files: Mapping[str, str], *, again: bool = False) -> list[str]:
    """What is wrong with the files below ``folder``: a line per missing or changed file; [] if all is well."""
    found = []
    for name, expected in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif (got := sha256_of(path, again=again)) != expected:
            found.append(f"{name} has the wrong checksum (expected {expected}, got {got})")
    return found


def check(artefact: str, folder: Path, files: Mapping[str, str], remedy: str) -> None:
    """Raise :class:`ChecksumError` for the first file below ``folder`` that is not what ``files`` promise."""
    for name, expected in sorted(files.items()):
        path = folder / name
        got = sha256_of(path) if path.is_file() else "no such file"
        if got != expected:
            raise checksum_error(artefact, name, expected, got, remedy)


@contextmanager
def locked(key: str, name: str = "") -> Iterator[None]:
    """Hold the lock of ``key`` against other processes; waits for whoever is fetching the same thing. ``name`` is what
    an error calls it."""
    from filelock import FileLock, Timeout

    folder = project.cache_dir() / "locks"
    with disk_errors(name or key):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{key}.lock")
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S)
        except Timeout:
            raise DataError(
                f"another process has held the lock on {name or key} for {LOCK_TIMEOUT_S:.0f} s: end it, then try again"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def workspace(name: str) -> Iterator[Path]:
    """A fresh folder inside the cache's file system; removed at the end unless it was renamed away."""
    parent = project.cache_dir() / "tmp"
    with disk_errors(name):
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=f"{name[:40]}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(source: Path, target: Path) -> None:
    """Rename the finished folder ``source`` to ``target``; a damaged older one makes room first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        with workspace("old") as trash:
            target.rename(trash / "old")
    source.rename(target)


@contextmanager
def disk_errors(name: str, folder: Path | None = None, setting: str = "REPROBOOK_CACHE") -> Iterator[None]:
    """Turn a full or read-only disk into an error that names the artefact, the folder (default: our cache) and the
    remedy: the variable ``setting`` moves the folder."""
    try:
        yield
    except OSError as error:
        where = folder or project.cache_dir()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(
                f"{name}: the disk is full ({where}); make room or set {setting} to a folder on another disk"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise DataError(
                f"{name}: cannot write to {where} ({error.strerror}); set {setting} to a folder you may write to"
            ) from error
        raise


def convert_once(key: str, build: Callable[[Path], None]) -> Path:
    """Folder that ``build(folder)`` filled, built once for all processes and runs.

    ``key`` names the content (source checksum, kind of conversion and its version). The folder appears whole or not at
    all; one with a missing or truncated file is built again.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", key):
        raise ValueError(f"key {key!r} must be letters, digits, '.', '_' and '-'")
    target = project.cache_dir() / "derived" / key
    if _whole(target):
        return target
    with locked(f"derived-{key}"):
        if not _whole(target):
            with disk_errors(key), workspace(key) as folder:
                fresh = folder / "fresh"
                fresh.mkdir()
                build(fresh)
                (fresh / ".sizes.json").write_text(json.dumps(_sizes(fresh)), encoding="utf-8")
                put(fresh, target)
    return target


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".sizes.json"
    }


def _whole(folder: Path) -> bool:
    try:
        return json.loads((folder / ".sizes.json").read_text(encoding="utf-8")) == _sizes(folder)
    except (OSError, ValueError):
        return False
