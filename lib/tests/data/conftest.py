"""A small checkout with its own cache, and a package index made of wheels written by the tests."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from servers import Hub, Site, serving


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Book:
    """``root`` is the checkout, ``cache`` its cache, ``index`` the folder that pip takes wheels from."""

    root: Path
    cache: Path
    index: Path

    def manifest(self, *artefacts: dict[str, Any], slug: str = "demo") -> None:
        """Write a manifest; every artefact gets the fields that a test does not care about."""
        filled = [
            entry if "use" in entry
            else {"kind": "dataset", "what": "a test", "license": "CC0-1.0", "scales": ["smoke"], **entry}
            for entry in artefacts
        ]  # fmt: skip
        path = self.root / "data_manifests" / f"{slug}.yaml"
        path.write_text(yaml.safe_dump({"artefacts": filled}), encoding="utf-8")

    def wheel(self, name: str, files: dict[str, bytes], version: str = "1.0") -> None:
        """Publish a wheel with these files."""
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(self.index / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    made = Book(tmp_path / "buch süß", tmp_path / "my cache", tmp_path / "index")
    for folder in (made.root / "data_manifests" / "bundled", made.root / "notebooks", made.index):
        folder.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith(("PIP_", "REPROBOOK_"))]:
        monkeypatch.delenv(name)
    settings = {
        "REPROBOOK_ROOT": made.root, "REPROBOOK_CACHE": made.cache,
        "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": 1, "PIP_FIND_LINKS": made.index, "PIP_NO_CACHE_DIR": 1,
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    return made


@pytest.fixture
def packaged(book: Book) -> Callable[..., bytes]:
    """Publish a wheel with one text and write the manifest for it; fields of the source can be overridden."""

    def make(content: bytes = b"twenty seven bytes of text\n", **fields: Any) -> bytes:
        book.wheel("corpus", {"corpus/data/text.txt": content})
        file = {"file": "corpus/data/text.txt", "sha256": sha256(content), "bytes": len(content)}
        book.manifest({"id": "text", "source": {"package": {"name": "corpus", "version": "1.0", **file, **fields}}})
        return content

    return make


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as server:
        yield server


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub()) as server:
        yield server
