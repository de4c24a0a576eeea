"""One file that was cut into parts, each shipped inside a package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from reprobook.data import cache, source
from reprobook.data.package import PackageSource


class JoinedSource(source.CachedSource):
    """Parts that are joined in the order of the manifest. Every part is kept in the cache until the whole is verified:
    whatever interrupts the fetch, no part moves twice."""

    file: source.RelativePath = Field(description="name of the whole")
    sha256: source.Sha256
    bytes: int = Field(gt=0)
    parts: list[PackageSource] = Field(description="one file each, in order")

    @model_validator(mode="after")
    def _parts_make_the_whole(self) -> JoinedSource:
        if len(self.parts) < 2:
            raise ValueError(f"{self.file} has {len(self.parts)} part: one file needs no joining, name it as `package`")
        if wrong := [part.name for part in self.parts if len(part.files) != 1]:
            raise ValueError(f"a part is one file; {', '.join(wrong)} names several")
        if (total := sum(part.files[0].bytes for part in self.parts)) != self.bytes:
            raise ValueError(f"the parts have {total} bytes together, {self.file} has {self.bytes}")
        return self

    def about(self) -> source.About:
        moved = sum(part.about().to_move or 0 for part in self.parts)
        first = self.parts[0].about()
        words = f"{len(self.parts)} wheels joined, {self.parts[0].name} to {self.parts[-1].name}"
        remedy = (
            "every part is what the manifest says, but joined in this order they are not the file: correct the order "
            "of `parts`, or the checksum of the whole"
        )
        return source.About(words, moved, self.bytes, first.page, first.release, remedy)

    def promised(self, of: source.Owner) -> dict[str, source.File]:
        return {self.file: source.File(self.sha256, self.bytes, f"urn:sha256:{self.sha256}")}

    def space(self) -> int:
        return 2 * self.bytes + max(part.about().to_move or 0 for part in self.parts)

    def fill(self, of: source.Owner, folder: Path) -> None:
        paths = [part.obtain(of._replace(id=f"{of.id}-part{k}")) for k, part in enumerate(self.parts, 1)]
        target = folder / self.file
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as whole:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
        cache.check(of.id, folder, {self.file: self.sha256}, self.about().remedy)
        for path in paths:
            shutil.rmtree(path.parent, ignore_errors=True)

    def export(self, of: source.Owner) -> list[dict[str, Any]]:
        """The parts in order, and the whole that is made of them."""
        [whole] = super().export(of)
        names = [f"{self.file}.part{k}" for k in range(1, len(self.parts) + 1)]
        parts = [{**part.export(of)[0], "@id": name, "name": name}
                 for name, part in zip(names, self.parts, strict=True)]  # fmt: skip
        return [*parts, {**whole, "description": f"{', '.join(names)} joined in this order"}]
