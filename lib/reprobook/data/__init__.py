"""Data sets and models of a chapter: manifest, fetching, verification.

A notebook uses :class:`ChapterData` (``ch.data``); the command uses :func:`plan`, :func:`fetch` and :func:`verify`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reprobook import project
from reprobook.data.cache import convert_once
from reprobook.data.errors import DataError, OfflineError
from reprobook.data.manifest import Manifest, load_manifest
from reprobook.data.source import offline
from reprobook.ranges import resolve

if TYPE_CHECKING:
    import pandas as pd

    from reprobook.data.manifest import Artefact

__all__ = [
    "ChapterData", "DataError", "Manifest", "PlanRow", "convert_once", "fetch", "free_bytes", "load_manifest", "plan",
    "verify",
]  # fmt: skip

NOT_AVAILABLE = "not available"  # in place of the checksum of an optional artefact that a run did without


class ChapterData:
    """The artefacts that one chapter uses at one scale, with these parameters (None: the scale's own)."""

    def __init__(self, slug: str, scale: str, params: Mapping[str, Any] | None = None) -> None:
        """Read the manifest; nothing is fetched yet. Raises :class:`ReprobookError` for a bad manifest or scale."""
        self.slug = slug
        self.scale = project.check_scale(scale)
        self._artefacts = {artefact.id: artefact for artefact in load_manifest(slug).at(scale, params)}

    def ids(self) -> list[str]:
        """Ids of the artefacts that this scale uses, in manifest order."""
        return list(self._artefacts)

    def path(self, artefact_id: str) -> Path:
        """The artefact's file (one) or folder (several files, or any hub artefact), fetched if need be and verified.

        With ``REPROBOOK_OFFLINE=1`` nothing is fetched. Raises :class:`DataError`: artefact, cause and remedy.
        """
        artefact = self._artefact(artefact_id)
        return artefact.supply.obtain(artefact.owner(self.slug))

    def path_or_none(self, artefact_id: str) -> Path | None:
        """As :meth:`path` for an artefact that the manifest calls optional, but None if it is not in the cache.

        Nothing is fetched here: ``reprobook data fetch`` and ``reprobook run`` have tried before, and what a run has is
        settled when it starts. A damaged copy is repaired or an error, as with :meth:`path`.
        """
        artefact = self._artefact(artefact_id)
        if not artefact.optional:
            raise DataError(f"{artefact_id} is not optional in data_manifests/{self.slug}.yaml: ask for its `path`")
        return self.path(artefact_id) if _is_there(self.slug, artefact) else None

    def bring_optional(self) -> None:
        """Fetch the optional artefacts that are not in the cache; what cannot be had is passed over."""
        for artefact in self._artefacts.values():
            if artefact.optional and not _is_there(self.slug, artefact):
                with suppress(DataError):
                    self.path(artefact.id)

    def _artefact(self, artefact_id: str) -> Artefact:
        if artefact_id not in self._artefacts:
            raise DataError(
                f"data_manifests/{self.slug}.yaml has no artefact {artefact_id!r} at scale {self.scale}; "
                f"it has: {', '.join(self.ids()) or 'none'}"
            )
        return self._artefacts[artefact_id]

    def available(self) -> dict[str, str]:
        """What a run here is made from: :meth:`checksums`, but ``not available`` for an optional artefact that is not
        in the cache."""
        gone = [a.id for a in self._artefacts.values() if a.optional and not _is_there(self.slug, a)]
        return self.checksums() | dict.fromkeys(gone, NOT_AVAILABLE)

    def checksums(self) -> dict[str, str]:
        """Artefact id -> what identifies its content (SHA-256 or hub commit; ``not locked`` before a first fetch)."""
        return {a.id: a.supply.checksum(a.owner(self.slug)) for a in self._artefacts.values()}

    def table(self) -> pd.DataFrame:
        """One row per artefact of this scale: id, what, kind, source, size, licence, gated, checksum (its state)."""
        import pandas as pd

        columns = ["id", "what", "kind", "source", "size", "licence", "gated", "checksum"]
        rows = []
        for artefact in self._artefacts.values():
            state = _problems(self.slug, artefact)
            checksum = "verified" if not state else state[0] if state[0].startswith("not ") else "damaged"
            about = artefact.supply.about()
            size = readable_bytes(about.to_keep, about.estimated)
            gated = "yes" if artefact.gated else "no"
            rows.append([artefact.id, artefact.what, artefact.kind, describe(artefact), size, artefact.license, gated,
                         checksum])  # fmt: skip
        return pd.DataFrame(rows, columns=columns)


class PlanRow(NamedTuple):
    """What fetching one artefact would mean; ``bytes`` is what has to move (None: not known; ``estimated``: about),
    ``why`` adds which of several mirrors it comes from."""

    id: str
    source: str
    bytes: int | None
    licence: str
    gated: bool
    cached: bool
    why: str = ""
    estimated: bool = False


def plan(slugs: Sequence[str], scale: str, overrides: Mapping[str, Any] | None = None) -> list[PlanRow]:
    """What these chapters need at ``scale`` (with ``overrides`` of its parameters, which all of them must have), each
    artefact once; moves nothing and asks no server."""
    rows: dict[str, PlanRow] = {}
    for slug in slugs:
        for artefact in _used(slug, scale, overrides):
            if artefact.id not in rows:
                rows[artefact.id] = PlanRow(
                    artefact.id, describe(artefact), download_bytes(artefact), artefact.license, artefact.gated,
                    cached=not _problems(slug, artefact), why=artefact.supply.why(artefact.owner(slug)),
                    estimated=artefact.supply.about().estimated,
                )  # fmt: skip
    return list(rows.values())


def fetch(
    slug: str, scale: str, report: Callable[[str], object] = print, overrides: Mapping[str, Any] | None = None
) -> None:
    """Bring every artefact of ``scale``, or of a run with ``overrides`` of its parameters, into the cache: plan, space
    and gates first, then one after the other.

    An artefact that fails does not keep the others from being fetched; raises :class:`DataError` with all failures.
    Of an optional one that fails it is only said.
    """
    missing = [a for a in _used(slug, scale, overrides) if _problems(slug, a)]
    if not missing:
        report(f"{slug}: all data of scale {scale} is there")
        return
    if offline() and (names := [a.id for a in missing if a.supply.needs_network and not a.optional]):
        raise OfflineError(f"REPROBOOK_OFFLINE=1 forbids fetching {', '.join(names)}: unset it, then try again")
    for artefact in missing:
        size = readable_bytes(download_bytes(artefact), artefact.supply.about().estimated)
        report(f"{artefact.id}: {describe(artefact)}, {size}, {artefact.license}{', gated' if artefact.gated else ''}")
    _check_space(missing)
    for artefact in missing:
        if artefact.gated:
            artefact.supply.check_access(artefact.owner(slug))
    failures = []
    for artefact in missing:
        try:
            artefact.supply.obtain(artefact.owner(slug, report))
            report(f"{artefact.id}: verified")
        except DataError as error:
            if artefact.optional:
                report(f"{error}\n{artefact.id}: not available; what needs it is left out of the run")
            else:
                failures.append(str(error))
    if failures:
        raise DataError("\n".join(failures))


def verify(slug: str, scale: str) -> list[str]:
    """Read every byte of the local copies again; returns a line per problem, [] if all is there and intact. Offline."""
    artefacts = _used(slug, scale, None)
    return [f"{a.id}: {problem}" for a in artefacts for problem in _problems(slug, a, again=True)]


def describe(artefact: Artefact) -> str:
    """The source in a few words for tables."""
    return artefact.supply.about().words


def download_bytes(artefact: Artefact) -> int | None:
    """Bytes that a fetch moves: the whole wheel where only files of it are kept; 0 for what is made here."""
    return artefact.supply.about().to_move


def readable_bytes(count: int | None, estimated: bool = False) -> str:
    """``1.7 MB`` (decimal units), ``about 1.7 MB`` if estimated; ``size not known`` for None."""
    if count is None:
        return "size not known"
    value, unit, about = float(count), "B", "about " * estimated
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{about}{value:.0f} {unit}" if unit == "B" else f"{about}{value:.1f} {unit}"


def _used(slug: str, scale: str, overrides: Mapping[str, Any] | None) -> list[Artefact]:
    params = resolve(slug, scale, overrides) if overrides else None
    return load_manifest(slug).at(project.check_scale(scale), params)


def _is_there(slug: str, artefact: Artefact) -> bool:
    return artefact.supply.locate(artefact.owner(slug)) is not None


def _problems(slug: str, artefact: Artefact, *, again: bool = False) -> list[str]:
    return artefact.supply.problems(artefact.owner(slug), again=again)


def free_bytes() -> int:
    """Free bytes of the disk that holds the cache, or will."""
    folder = project.cache_dir()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _check_space(artefacts: Sequence[Artefact]) -> None:
    """Refuse before anything moves when the disk cannot hold download and extracted copy together."""
    ours = {artefact.id: space for artefact in artefacts if (space := artefact.supply.space())}
    needed, free = sum(ours.values()), free_bytes()
    if needed > free:
        raise DataError(
            f"fetching {', '.join(ours)} needs {readable_bytes(needed)}, "
            f"{project.cache_dir()} has {readable_bytes(free)} free: make room or set REPROBOOK_CACHE to a folder on "
            "another disk"
        )
