"""Croissant, the JSON-LD vocabulary for machine-learning data sets: one document per data set of a chapter.

It says what a data set is, under which licence, and where each file comes from with its SHA-256, as manifest and lock
have it. Specification: https://docs.mlcommons.org/croissant/docs/croissant-spec.html (version 1.0).
"""

from __future__ import annotations

import json
import mimetypes
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import project
from reprobook.data import package, sources
from reprobook.data.errors import DataError
from reprobook.data.manifest import (
    BundledSource,
    GeneratedSource,
    HubSource,
    PackageSource,
    UrlSource,
    load_manifest,
)

if TYPE_CHECKING:
    from reprobook.data.manifest import (
        Artefact,
    )

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "conformsTo": "dct:conformsTo",
    "includes": "cr:includes",
    "md5": "cr:md5",
}
# A git repository has no SHA-256 of its own; the hub's own documents put this address in its place.
_NO_SHA256 = "https://github.com/mlcommons/croissant/issues/80"
_FORMATS = {".parquet": "application/x-parquet", ".jsonl": "application/jsonlines", ".npy": "application/octet-stream"}


def export(slug: str, folder: Path) -> list[Path]:
    """Write ``<folder>/<id>.json`` for every data set of the chapter's manifest, at any scale; returns the files."""
    found = [artefact for artefact in load_manifest(slug).artefacts if artefact.kind == "dataset"]
    written = []
    for artefact in found:
        path = folder / f"{artefact.id}.json"
        project.atomic_write(path, json.dumps(document(slug, artefact), indent=1, ensure_ascii=False) + "\n")
        written.append(path)
    return written


def document(slug: str, artefact: Artefact) -> dict[str, Any]:
    """The Croissant document of one data set. Raises :class:`DataError` if a file's checksum is not known yet."""
    head = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": artefact.id,
        "description": artefact.what,
        "license": artefact.license,
        "url": _page(artefact),
        "citeAs": _bibtex(artefact.citation),
        "version": _version(artefact),
        "distribution": _distribution(slug, artefact),
    }
    return {name: value for name, value in head.items() if value}


def _distribution(slug: str, artefact: Artefact) -> list[dict[str, Any]]:
    source = artefact.source.value
    if isinstance(source, PackageSource):
        return [
            _file(
                spec.file,
                f"pkg:pypi/{source.name}@{source.version}#{spec.file}",
                spec.sha256,
                spec.bytes,
                package.names(source)[spec.file],
            )
            for spec in source.files
        ]
    if isinstance(source, BundledSource):
        path = project.root() / "data_manifests" / "bundled" / source.path
        return [_file(source.path, f"data_manifests/bundled/{source.path}", source.sha256, path.stat().st_size)]
    if isinstance(source, GeneratedSource):
        name = source.file or f"{artefact.id}.npy"
        return [_file(name, f"urn:reprobook:{source.function}", source.sha256, source.bytes)]
    if isinstance(source, UrlSource):
        return [_from_address(slug, artefact, source)]
    return _from_hub(slug, artefact, source)


def _from_address(slug: str, artefact: Artefact, source: UrlSource) -> dict[str, Any]:
    files = sources.expected_files(slug, artefact)
    if files is None:
        raise DataError(f"{artefact.id}: its checksum is not known yet; run `reprobook data fetch {slug}` first")
    [(name, sha256)] = files.items()
    entry = sources.locked(slug, artefact)
    return _file(name, source.url, sha256, source.bytes or (entry.sizes[name] if entry else None))


def _from_hub(slug: str, artefact: Artefact, source: HubSource) -> list[dict[str, Any]]:
    """Every file, once the first fetch has locked them; before, the repository and the patterns."""
    entry = sources.locked(slug, artefact)
    page = _page(artefact)
    if entry:
        address = f"{page}/resolve/{entry.revision}"
        return [_file(name, f"{address}/{name}", sha, entry.sizes[name]) for name, sha in sorted(entry.files.items())]
    repository = {
        "@type": "cr:FileObject",
        "@id": "repository",
        "name": "repository",
        "contentUrl": f"{page}/tree/{source.revision or 'main'}",
        "encodingFormat": "git+https",
        "sha256": _NO_SHA256,
    }
    files = {
        "@type": "cr:FileSet",
        "@id": "files",
        "name": "files",
        "containedIn": {"@id": "repository"},
        "encodingFormat": _format(source.allow_patterns[0]),
        "includes": source.allow_patterns,
    }
    return [repository, files]


def _file(name: str, address: str, sha256: str, size: int | None, local: str | None = None) -> dict[str, Any]:
    found = {
        "@type": "cr:FileObject",
        "@id": local or name,
        "name": local or name,
        "contentUrl": address,
        "contentSize": f"{size} B" if size is not None else None,
        "encodingFormat": _format(name),
        "sha256": sha256,
    }
    return {key: value for key, value in found.items() if value is not None}


def _format(name: str) -> str:
    """Media type by the file's name."""
    kind, packed = mimetypes.guess_type(name)
    if packed:
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}[packed]
    return _FORMATS.get(Path(name).suffix, kind or "application/octet-stream")


def _page(artefact: Artefact) -> str:
    """Where a person reads about the source."""
    source = artefact.source.value
    if isinstance(source, PackageSource):
        return f"https://pypi.org/project/{source.name}/{source.version}/"
    if isinstance(source, HubSource):
        return f"https://huggingface.co/{'datasets/' if source.repo_type == 'dataset' else ''}{source.repo_id}"
    return source.url if isinstance(source, UrlSource) else f"urn:reprobook:{artefact.id}"


def _version(artefact: Artefact) -> str | None:
    source = artefact.source.value
    return source.version if isinstance(source, PackageSource) else None


def _bibtex(key: str | None) -> str | None:
    """The entry ``key`` of the book's references, as it stands there."""
    path = project.root() / "book" / "references.bib"
    text = path.read_text("utf-8") if path.is_file() else ""
    found = re.search(rf"^@\w+\{{{re.escape(key)}\s*,.*?^\}}", text, re.MULTILINE | re.DOTALL) if key else None
    return found[0] if found else None
