"""Manifests: what is refused, and that the message says where and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reprobook import project
from reprobook.data.errors import ManifestError
from reprobook.data.hub import HubSource
from reprobook.data.manifest import load_manifest, read_manifest_file, schema

ROOT = Path(__file__).resolve().parents[3]
SHA = "0" * 64
PACKAGE = {"name": "p", "version": "1.0", "file": "p/a.txt", "sha256": SHA, "bytes": 1}
HUB = {"repo_id": "org/name", "revision": None, "allow_patterns": ["*.safetensors"]}


def test_stored_schema_is_in_step() -> None:
    stored = (ROOT / "data_manifests" / "schema.json").read_text(encoding="utf-8")
    assert stored == schema(), "renew it: python -m reprobook.data > data_manifests/schema.json"


MANIFESTS = sorted(p.stem for p in (ROOT / "data_manifests").glob("*.yaml") if not p.name.endswith(".lock.yaml"))


@pytest.mark.parametrize("slug", MANIFESTS)
def test_every_manifest_of_the_book(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPROBOOK_ROOT", str(ROOT))
    for artefact in load_manifest(slug).artefacts:
        if isinstance(artefact.source.hub, HubSource):
            assert artefact.scales == ["paper"], f"{artefact.id}: smoke and laptop scale need no network"
            assert artefact.miniature, f"{artefact.id}: the rehearsal needs a miniature"
            hub = artefact.source.hub
            assert hub.bytes or hub.bytes_estimate or hub.size_unknown, f"{artefact.id}: how large is it?"
        if artefact.source.bundled:
            assert (ROOT / "data_manifests" / "bundled" / artefact.source.bundled.path).is_file()


def test_bundled_files_are_used_licensed_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A note with an SPDX line lies beside every file."""
    monkeypatch.setenv("REPROBOOK_ROOT", str(ROOT))
    folder = ROOT / "data_manifests" / "bundled"
    listed = {
        source.path
        for slug in MANIFESTS
        for artefact in load_manifest(slug).artefacts
        for each in (artefact.source, *artefact.mirrors)
        if (source := each.bundled)
    }
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert {name for name in paths if not name.endswith(".license")} == listed
    for name in listed:
        assert paths[f"{name}.license"].read_text("utf-8").startswith("SPDX-License-Identifier: "), name
    assert sum(path.stat().st_size for path in paths.values()) < 15_000_000


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"hub": {**HUB, "revision": "main"}}, "'main' can move"),
        ({"hub": {**HUB, "revision": "607a30d"}}, "'607a30d' can move"),
        ({"hub": {**HUB, "revision": "607A30D783DFA663CAF39E06633721C8D4CFCD7E"}}, "can move"),
        ({"hub": {**HUB, "allow_patterns": ["*.bin"]}}, "would fetch pickles or code"),
        ({"hub": {**HUB, "allow_patterns": ["modeling.py"]}}, "would fetch pickles or code"),
        ({"hub": {**HUB, "allow_patterns": ["*"]}}, "would fetch pickles or code"),
        ({"hub": {**HUB, "allow_patterns": []}}, "at least 1 item"),
        ({"hub": {**HUB, "trust_remote_code": True}}, "trust_remote_code is not possible: it runs whatever code"),
        ({"hub": HUB, "bundled": {"path": "a", "sha256": SHA}}, "exactly one of package, bundled"),
        ({}, "exactly one of package, bundled"),
        ({"package": {**PACKAGE, "file": "../../etc/passwd"}}, "relative path"),
        ({"package": {**PACKAGE, "file": "/etc/passwd"}}, "relative path"),
        ({"package": {**PACKAGE, "sha256": "abc"}}, "package.files.0.sha256"),
        ({"package": {**PACKAGE, "bytes": "12"}}, "valid integer"),
        ({"package": {**PACKAGE, "colour": "red"}}, "colour"),
        ({"bundled": {"path": "../facts.yaml", "sha256": SHA}}, "relative path"),
        ({"generated": {"function": "os:getcwd", "sha256": SHA, "bytes": 1}}, "generated.function"),
        ({"url": {"url": "ftp://a/b", "sha256": None}}, "url.url"),
        ({"package": {**PACKAGE, "version": ">=1.0"}}, "version '>=1.0' is not one version: a range can move; pin one"),
        ({"package": {**PACKAGE, "version": "1.*"}}, "version '1.*' is not one version"),
        ({"hub": {**HUB, "bytes": 1, "bytes_estimate": 2}}, "give one of bytes, bytes_estimate and size_unknown"),
        (
            {"hub": {"repo_id": "o/n", "revision": None, "file": "a.gguf", "sha256": SHA, "bytes": 1}},
            "hub.file.revision",
        ),
    ],
)
def test_refused_sources(book: Any, source: dict[str, Any], says: str) -> None:
    book.manifest({"id": "thing", "source": source})
    with pytest.raises(ManifestError) as caught:
        load_manifest("demo")
    message = str(caught.value)
    assert "data_manifests/demo.yaml" in message and "thing" in message and says in message


def test_refused_entries(book: Any) -> None:
    good = {"id": "a", "source": {"hub": HUB}}
    for entries, says in [
        ([good, good], "'a' stands there twice"),
        ([{**good, "id": "Bad Id"}], "Bad Id"),
        ([{**good, "scales": ["huge"]}], "'smoke', 'laptop' or 'paper'"),
        ([{**good, "licence": "MIT"}], "licence"),
        ([{"id": "a", "source": {"package": PACKAGE}, "miniature": {"rows": 3}}], "stands in for a hub artefact"),
    ]:
        book.manifest(*entries)
        with pytest.raises(ManifestError, match=says):
            load_manifest("demo")


def test_use_takes_the_shared_artefact_with_own_scales(book: Any) -> None:
    book.manifest({"id": "text", "source": {"package": PACKAGE}}, slug="shared")
    book.manifest({"use": "text", "scales": ["laptop"]})
    manifest = load_manifest("demo")
    assert [a.id for a in manifest.at("laptop")] == ["text"] and manifest.at("smoke") == []
    book.manifest({"use": "txet", "scales": ["laptop"]})
    with pytest.raises(ManifestError, match="'txet' is not in data_manifests/shared.yaml; it has: text"):
        load_manifest("demo")


def test_missing_and_broken_files(book: Any) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        load_manifest("demo")
    path = project.root() / "data_manifests" / "demo.yaml"
    for content in ("artefacts: [", "artefacts: 3", "", "- a"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ManifestError, match=r"data_manifests/demo\.yaml"):
            read_manifest_file(path)
