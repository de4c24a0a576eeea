"""Named files taken out of zip and tar archives; an archive that could write outside its folder is refused whole."""

from __future__ import annotations

import difflib
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from reprobook.data.errors import ChecksumError, DataError

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)


def extract(artefact: str, archive: Path, called: str, wanted: Mapping[str, tuple[Path, int]]) -> None:
    """Take the files ``wanted`` (path in the archive -> where to, and its size in bytes) out of a zip or tar archive,
    which errors name ``called``.

    Raises :class:`DataError` if a file is missing, is there twice or has another size, if the archive is damaged, or if
    it holds, anywhere, a link, a device or a path that leads out of it.
    """
    names = set()
    try:
        for name, size, opened in _files(artefact, archive, called):
            if name in wanted:
                target, expected = wanted[name]
                if name in names:
                    raise DataError(f"{artefact}: {called} holds {name!r} twice; not unpacked")
                if size != expected:
                    raise ChecksumError(
                        f"{artefact}: {name} in {called} has {size} bytes, the manifest says {expected}: this is not "
                        "the published file, or the manifest is wrong"
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened() as read, target.open("wb") as written:
                    shutil.copyfileobj(read, written, 1 << 20)
            names.add(name)
    except _DAMAGE as error:
        raise DataError(
            f"{artefact}: {called} is damaged or no zip or tar archive ({type(error).__name__}: {error}); try "
            "again (after `pip cache purge` if it is a wheel that pip kept)"
        ) from error
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"; the nearest name is {near[0]}" if near else ""
            raise DataError(f"{artefact}: {called} has no file {name}{hint}; correct `file` in the manifest")


def _files(artefact: str, archive: Path, called: str) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """``(path, bytes, how to open it)`` of every plain file; folders are passed over, anything else is refused."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                plain = not stat.S_ISLNK(entry.external_attr >> 16) and not entry.flag_bits & 1
                _check(artefact, called, entry.filename, plain)
                if not entry.is_dir():
                    yield entry.filename, entry.file_size, partial(zipped.open, entry)
        return
    with tarfile.open(archive) as packed:
        for member in packed:
            _check(artefact, called, member.name, member.isfile() or member.isdir())
            if member.isfile():
                yield member.name, member.size, partial(cast("Callable[..., IO[bytes]]", packed.extractfile), member)


def _check(artefact: str, called: str, name: str, plain: bool) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
        raise DataError(f"{artefact}: {called} holds the path {name!r}, which leads out of its folder; not unpacked")
    if not plain:
        raise DataError(
            f"{artefact}: {name!r} in {called} is a link, a device or encrypted; only plain files are unpacked"
        )
