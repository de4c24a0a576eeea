"""A file at any other address."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from reprobook.data import source, web
from reprobook.data.errors import ChecksumError

_REMEDY = "the download was damaged or the source has changed: fetch again; if it stays, find another source"


class UrlSource(source.CachedSource):
    """Anything else with an address; without a checksum the first fetch decides and locks it."""

    url: str = Field(pattern=r"^https?://")
    sha256: source.Sha256 | None
    bytes: int | None = Field(default=None, gt=0)

    def about(self) -> source.About:
        return source.About(self.url, self.bytes, self.bytes, page=self.url, remedy=_REMEDY)

    def promised(self, of: source.Owner) -> dict[str, source.File] | None:
        name, entry = self._name(), self.locked(of)
        sha256 = self.sha256 or (entry.files[name].sha256 if entry else None)
        size = self.bytes or (entry.files[name].bytes if entry else None)
        return {name: source.File(sha256, size, self.url)} if sha256 else None

    def fill(self, of: source.Owner, folder: Path) -> None:
        target = folder / self._name()
        web.download(of.id, self.url, target)
        got = target.stat().st_size
        if self.bytes is not None and got != self.bytes:
            raise ChecksumError(f"{of.id}: {self.url} gave {got} bytes, the manifest says {self.bytes}: fetch again")

    def _name(self) -> str:
        """The last part of the address, without query and fragment."""
        return self.url.split("?")[0].split("#")[0].rstrip("/").rpartition("/")[2] or "file"
