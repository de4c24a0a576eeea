"""Archives unpacked into the cache: once, within limits, and never outside their own folder."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from reprobook.data import cache
from reprobook.data.errors import DataError

_CHUNK = 1 << 20
_REMEDY = "raise the limit in `unpack` of the manifest if this is meant, else find another source"
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)


def unpack_once(artefact: str, archive: Path, *, max_bytes: int, max_files: int) -> Path:
    """Folder with the files of a zip or tar archive, unpacked once for all processes and runs.

    Raises :class:`DataError` if the archive holds more than ``max_files`` files or ``max_bytes`` bytes (counted while
    unpacking, whatever its headers say), a link or device, a path that leads out of the folder, or is damaged.
    """

    def unpack(folder: Path) -> None:
        left = max_bytes
        for count, (name, stream) in enumerate(_files(artefact, archive), 1):
            if count > max_files:
                raise DataError(f"{artefact}: {archive.name} holds more than {max_files} files; {_REMEDY}")
            left -= _copy(stream, _target(artefact, archive, folder, name), left)
            if left < 0:
                raise DataError(f"{artefact}: {archive.name} holds more than {max_bytes} bytes; {_REMEDY}")

    def explained(folder: Path) -> None:
        try:
            unpack(folder)
        except _DAMAGE as error:
            raise DataError(
                f"{artefact}: {archive.name} is no zip or tar archive, or is damaged ({type(error).__name__}: {error})"
                "; delete it from the cache and fetch again, or correct the manifest"
            ) from error

    return cache.convert_once(f"{artefact}-unpacked-v1-{cache.sha256_of(archive)}", explained)


def _target(artefact: str, archive: Path, folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
        raise DataError(
            f"{artefact}: {archive.name} holds the path {name!r}, which leads out of its folder; not unpacked"
        )
    target = folder.joinpath(*parts)
    if target.exists():
        raise DataError(f"{artefact}: {archive.name} holds {name!r} twice; not unpacked")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _copy(stream: IO[bytes], target: Path, left: int) -> int:
    """Copy at most ``left`` bytes and one chunk more; returns how many."""
    copied = 0
    with target.open("wb") as written:
        while copied <= left and (chunk := stream.read(_CHUNK)):
            copied += written.write(chunk)
    return copied


def _files(artefact: str, archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """``(path, stream)`` of every plain file; folders are passed over, anything else is refused."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                if stat.S_ISLNK(entry.external_attr >> 16) or entry.flag_bits & 1:
                    raise _not_plain(artefact, archive, entry.filename)
                if not entry.is_dir():
                    with content.open(entry) as stream:
                        yield entry.filename, stream
        return
    with tarfile.open(archive) as content:
        for member in content:
            if not (member.isfile() or member.isdir()):
                raise _not_plain(artefact, archive, member.name)
            if member.isfile() and (file := content.extractfile(member)):
                yield member.name, file


def _not_plain(artefact: str, archive: Path, name: str) -> DataError:
    return DataError(
        f"{artefact}: {name!r} in {archive.name} is a link, a device or encrypted; only plain files are unpacked"
    )
