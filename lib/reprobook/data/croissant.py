"""Croissant, the JSON-LD vocabulary for machine-learning data sets: one document per data set of a chapter.

It says what a data set is, under which licence, and where each file comes from with its SHA-256, as manifest and lock
have it. Specification: https://docs.mlcommons.org/croissant/docs/croissant-spec.html (version 1.0).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import project
from reprobook.data.errors import DataError
from reprobook.data.manifest import load_manifest
from reprobook.data.source import media_type

if TYPE_CHECKING:
    from reprobook.data.manifest import Artefact
    from reprobook.data.source import Owner

# In the place of a checksum that nobody knows yet, as in the hub's own documents.
_NO_SHA256 = "https://github.com/mlcommons/croissant/issues/80"

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
    """The Croissant document of one data set. Raises :class:`DataError` if a checksum is not known yet and there is no
    address either."""
    source, owner = artefact.supply, artefact.owner(slug)
    about = source.about()
    head = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": artefact.id,
        "description": artefact.what,
        "license": artefact.license,
        "url": about.page or f"urn:reprobook:{artefact.id}",
        "citeAs": _bibtex(artefact.citation),
        "version": about.release,
        "distribution": _files(artefact, owner),
    }
    return {name: value for name, value in head.items() if value}


def _files(artefact: Artefact, owner: Owner) -> list[dict[str, Any]]:
    """The files of a data set; one that nobody has fetched yet has an address and no checksum."""
    page = artefact.supply.about().page
    try:
        return artefact.supply.export(owner)
    except DataError:
        if page is None:
            raise
    name = page.rpartition("/")[2]
    return [{"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": page,
             "encodingFormat": media_type(name), "sha256": _NO_SHA256}]  # fmt: skip


def _bibtex(key: str | None) -> str | None:
    """The entry ``key`` of the book's references, as it stands there."""
    path = project.root() / "book" / "references.bib"
    text = project.read_text(path, path.name) if path.is_file() else ""
    found = re.search(rf"^@\w+\{{{re.escape(key)}\s*,.*?^\}}", text, re.MULTILINE | re.DOTALL) if key else None
    return found[0] if found else None
