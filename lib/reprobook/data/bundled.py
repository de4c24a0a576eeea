"""A small file that comes with the book."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from reprobook import project
from reprobook.data import cache, source
from reprobook.data.errors import DataError

_FOLDER = "data_manifests/bundled"
_REMEDY = "restore it from git, or put the new checksum into the manifest if the change is meant"


class BundledSource(source.SourceKind):
    """A small file under ``data_manifests/bundled/``."""

    needs_network: ClassVar[bool] = False

    path: source.RelativePath
    sha256: source.Sha256

    def about(self) -> source.About:
        path = project.root() / _FOLDER / self.path
        return source.About("bundled with the book", 0, path.stat().st_size if path.is_file() else None)

    def promised(self, of: source.Owner) -> dict[str, source.File]:
        return {self.path: source.File(self.sha256, self.about().to_keep, f"{_FOLDER}/{self.path}")}

    def locate(self, of: source.Owner) -> Path:
        return project.root() / _FOLDER

    def obtain(self, of: source.Owner) -> Path:
        name = f"{_FOLDER}/{self.path}"
        if not (project.root() / name).is_file():
            raise DataError(f"{of.id}: {name} is missing; restore it from git")
        cache.check(of.id, project.root(), {name: self.sha256}, _REMEDY)
        return project.root() / name
