"""What every kind of source can do. A kind is a class in a file of its own, listed in ``manifest.Source``."""

from __future__ import annotations

import mimetypes
import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from reprobook.data import cache, lock
from reprobook.data.errors import DataError, OfflineError

_FORMATS = {".parquet": "application/x-parquet", ".jsonl": "application/jsonlines", ".npy": "application/octet-stream"}
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in parts[0]:
        raise ValueError(f"{path!r} must be a relative path with forward slashes and without '..'")
    return path


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[str, AfterValidator(_inside)]


class Strict(BaseModel):
    """A part of a manifest: unknown fields and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _silent(line: str) -> None:
    """Report to nobody."""


class Owner(NamedTuple):
    """Whose source it is: the chapter (its lock file) and the artefact (its id stands in every message); ``report``
    hears of what is no error, but has to be said."""

    slug: str
    id: str
    gated: bool
    report: Callable[[str], object] = _silent


class About(NamedTuple):
    """What a source says of itself: ``words`` for tables; bytes that a fetch moves (0: nothing has to come) and bytes
    of the files (None: not known); a page for people; its own version; what to do about a wrong checksum; whether the
    bytes are an estimate."""

    words: str
    to_move: int | None
    to_keep: int | None
    page: str | None = None
    release: str | None = None
    remedy: str = ""
    estimated: bool = False


class File(NamedTuple):
    """What manifest or lock promise of one file; ``address`` is where it comes from."""

    sha256: str
    bytes: int | None
    address: str


class SourceKind(Strict):
    """Where the files of an artefact, the owner ``of`` the source, come from; all methods raise :class:`DataError`."""

    needs_network: ClassVar[bool] = True
    rehearsed: ClassVar[bool] = False  # a miniature stands in for it in the rehearsal

    @abstractmethod
    def about(self) -> About:
        """The source in words and figures."""

    @abstractmethod
    def promised(self, of: Owner) -> dict[str, File] | None:
        """The files by their path in the artefact; None if the first fetch has still to tell."""

    @abstractmethod
    def locate(self, of: Owner) -> Path | None:
        """The folder that should hold the files, if it is there (its content is not judged here). Asks no server."""

    @abstractmethod
    def obtain(self, of: Owner) -> Path:
        """The verified file (one) or folder (several), fetched if need be."""

    def origin(self) -> str:
        """What a lock entry is about: it is void when the manifest names something else."""
        return self.about().words

    def locked(self, of: Owner) -> lock.Locked | None:
        """What the first fetch got; None before it."""
        return lock.read(of.slug, of.id, self.origin())

    def digests(self, of: Owner) -> dict[str, str] | None:
        """Path -> SHA-256 of the promised files."""
        files = self.promised(of)
        return None if files is None else {name: file.sha256 for name, file in files.items()}

    def checksum(self, of: Owner) -> str:
        """What identifies the content: SHA-256 (of the file, or over all files), or ``not locked``."""
        files = self.digests(of)
        return cache.content_key(files) if files else "not locked"

    def problems(self, of: Owner, *, again: bool = False) -> list[str]:
        """What is wrong with the local copy: [] if it is there and intact; ``again`` reads every byte anew."""
        folder, files = self.locate(of), self.digests(of)
        if folder is None:
            return ["not fetched"]
        if files is None:  # in the hub's cache by another way, and not locked yet
            return ["not locked"]
        return cache.problems(folder, files, again=again)

    def barred(self) -> str | None:
        """Why a setting of this machine forbids to ask here; None if it does not."""
        return None

    def why(self, of: Owner) -> str:  # noqa: ARG002
        """What a plan adds in words: which of several places it comes from and why, or why its size is not known."""
        return ""

    def space(self) -> int:
        """Bytes that a fetch takes in our cache while it goes on: the download beside the files."""
        return (self.about().to_move or 0) + (self.about().to_keep or 0)

    def check_access(self, of: Owner) -> None:
        """Ask, before anything moves, whether a gate would stop the fetch; raises :class:`AccessError`."""

    def stand_in(self, artefact: str, made: Path, hub: Path) -> None:
        """Put a miniature, the files in ``made``, where those of a ``rehearsed`` kind are looked for, below ``hub``."""

    def export(self, of: Owner) -> list[dict[str, Any]]:
        """The files as Croissant describes them."""
        files = self.promised(of)
        if files is None:
            raise DataError(f"{of.id}: its checksum is not known yet; run `reprobook data fetch {of.slug}` first")
        return [_file_object(name, file) for name, file in files.items()]


class CachedSource(SourceKind):
    """Kept in our cache under the digest of its content; what a fetch brings is checked before it gets there."""

    @abstractmethod
    def fill(self, of: Owner, folder: Path) -> None:
        """Put the files into the empty ``folder``."""

    def locate(self, of: Owner) -> Path | None:
        """The folder in our cache."""
        files = self.digests(of)
        folder = cache.object_dir(files) if files else None
        return folder if folder and folder.is_dir() else None

    def obtain(self, of: Owner) -> Path:
        """The file or folder in our cache, after a fetch if it is missing or damaged."""
        files = self.digests(of)
        if files is None or cache.problems(cache.object_dir(files), files):
            files = self._fetch(of, files)
        folder = cache.object_dir(files)
        return folder / next(iter(files)) if len(files) == 1 else folder

    def _fetch(self, of: Owner, files: dict[str, str] | None) -> dict[str, str]:
        if self.needs_network and offline():
            damaged = files is not None and cache.object_dir(files).is_dir()
            raise OfflineError(
                f"{of.id} is {'damaged' if damaged else 'not'} in the cache and REPROBOOK_OFFLINE=1 forbids "
                f"fetching: run `reprobook data fetch {of.slug}` where there is a network "
                "(with REPROBOOK_OFFLINE unset)"
            )
        with cache.locked(cache.content_key(files) if files else of.id, of.id):
            files = self.digests(of)  # another process may have brought it meanwhile
            if files is None or cache.problems(cache.object_dir(files), files):
                with cache.disk_errors(of.id), cache.workspace(of.id) as temporary:
                    fresh = temporary / "fresh"
                    fresh.mkdir()
                    self.fill(of, fresh)
                    if files is None:
                        got = lock.measure(self.origin(), None, fresh, [path.name for path in fresh.iterdir()])
                        lock.write(of.slug, of.id, got)
                        files = {name: file.sha256 for name, file in got.files.items()}
                    cache.check(of.id, fresh, files, self.about().remedy)
                    cache.put(fresh, cache.object_dir(files))
        return files


def offline() -> bool:
    """Whether ``REPROBOOK_OFFLINE`` forbids fetching."""
    return os.environ.get("REPROBOOK_OFFLINE", "") not in ("", "0")


def media_type(name: str) -> str:
    """Media type by the file's name."""
    kind, packed = mimetypes.guess_type(name)
    return _PACKED[packed] if packed else _FORMATS.get(Path(name).suffix, kind or "application/octet-stream")


def _file_object(name: str, file: File) -> dict[str, Any]:
    size = {} if file.bytes is None else {"contentSize": f"{file.bytes} B"}
    return {
        "@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": file.address, **size,
        "encodingFormat": media_type(name), "sha256": file.sha256,
    }  # fmt: skip
