"""The same bytes in several places."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from reprobook.data import cache, lock, source
from reprobook.data.errors import DataError


class Mirrored(source.CachedSource):
    """Places in the order of trust, all under one checksum: the first that gives the right bytes is taken."""

    places: list[source.CachedSource]

    def about(self) -> source.About:
        """Of the place that comes first; the words name all."""
        first, *others = [place.about() for place in self._usable() or self.places]
        return first._replace(words="; else ".join(about.words for about in (first, *others)))

    def promised(self, of: source.Owner) -> dict[str, source.File] | None:
        return self.places[0].promised(of)

    def space(self) -> int:
        return max(place.space() for place in self.places)

    def why(self, of: source.Owner) -> str:
        files = self.digests(of)
        if files and not self.problems(of):
            return f"came from {lock.place(files)}"
        barred = [f"{place.about().words} is passed over: {place.barred()}" for place in self.places if place.barred()]
        usable = [place.about().words for place in self._usable()]
        first = f"{usable[0]} comes first in the order of trust" if usable else "nothing is left"
        return "; ".join([*barred, first, *(f"if it fails, {words}" for words in usable[1:])])

    def export(self, of: source.Owner) -> list[dict[str, Any]]:
        """As the first place has them, with the addresses in the others; the parts of a joined mirror come along."""
        entries = {entry["name"]: entry for entry in self.places[0].export(of)}
        for place in self.places[1:]:
            for entry in place.export(of):
                known = entries.setdefault(entry["name"], entry)
                if known is not entry:
                    known["sameAs"] = [*known.get("sameAs", []), entry["contentUrl"]]
                    known["description"] = "; ".join(filter(None, [known.get("description"), entry.get("description")]))
        return [{name: value for name, value in entry.items() if value} for entry in entries.values()]

    def fill(self, of: source.Owner, folder: Path) -> None:
        """Ask one place after the other; what a place gives that is not what was promised is thrown away."""
        files = self.digests(of) or {}
        failures = [f"{of.id}: {place.about().words}: {place.barred()}" for place in self.places if place.barred()]
        for place in self._usable():
            try:
                place.fill(of, folder)
                cache.check(of.id, folder, files, place.about().remedy)
            except DataError as error:
                failures.append(str(error))
                of.report(f"{error}\n{of.id}: {place.about().words} is passed over")
                shutil.rmtree(folder)
                folder.mkdir()
            else:
                lock.record_place(files, place.about().words)
                return
        raise DataError("\n".join(failures))

    def _usable(self) -> list[source.CachedSource]:
        return [place for place in self.places if not place.barred()]
