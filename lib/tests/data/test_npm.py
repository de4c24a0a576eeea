"""Files from npm tarballs: a registry on loopback, and every fault with its message."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from reprobook import data
from reprobook.data import ChapterData, npm, web
from reprobook.data.errors import ChecksumError, DataError, ManifestError
from servers import Answer

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Site

FILES = {"package/emoji.json": b"[1, 2]", "package/img/32.png": bytes(range(99)), "package/unwanted.js": b"evil()"}


def _tarball(files: dict[str, bytes]) -> bytes:
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def published(book: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """Publish a tarball and write a manifest that takes two files of it; fields of the source can be overridden."""
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"{site.address}/npm/")
    monkeypatch.setattr(web, "FIRST_PAUSE_S", 0.05)

    def publish(files: dict[str, bytes] = FILES, **fields: Any) -> bytes:
        content = _tarball(files)
        site.pages["/npm/emoji/-/emoji-16.0.0.tgz"] = Answer(body=content)
        wanted = [
            {"file": name, "sha256": sha256(FILES[name]).hexdigest(), "bytes": len(FILES[name])}
            for name in ("package/emoji.json", "package/img/32.png")
        ]
        source = {"name": "emoji", "version": "16.0.0", "tarball": sha256(content).hexdigest(), "files": wanted}
        book.manifest({"id": "emoji", "source": {"npm": {**source, **fields}}})
        return content

    return publish


def test_fetch_then_use_without_a_registry(book: Any, site: Site, published: Any, monkeypatch: Any) -> None:
    published()
    assert data.plan(["demo"], "smoke")[0].source == "tarball emoji 16.0.0"
    folder = ChapterData("demo", "smoke").path("emoji")
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"emoji.json": b"[1, 2]", "img/32.png": bytes(range(99))}
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")
    assert ChapterData("demo", "smoke").path("emoji") == folder and data.verify("demo", "smoke") == []
    assert site.seen == ["GET /npm/emoji/-/emoji-16.0.0.tgz"] and list((book.cache / "tmp").iterdir()) == []


def _nothing_is_left(book: Any) -> None:
    assert not (book.cache / "objects").exists() and list((book.cache / "tmp").iterdir()) == []


def test_a_version_that_the_registry_knows_no_more(book: Any, published: Any) -> None:
    published(version="15.1.2")
    says = (
        "emoji: http.*/npm/emoji/-/emoji-15.1.2.tgz answered 404; the registry has no emoji 15.1.2, or no longer: pin a"
    )
    with pytest.raises(DataError, match=says):
        ChapterData("demo", "smoke").path("emoji")
    _nothing_is_left(book)


@pytest.mark.parametrize("path", ["package/../../../out.txt", "/out.txt", "../out.txt"])
def test_a_path_that_leads_outside(book: Any, published: Any, tmp_path: Path, path: str) -> None:
    """Even if nobody asked for that file."""
    published({path: b"owned", **FILES})
    with pytest.raises(DataError, match=f"emoji: the tarball of emoji 16.0.0 holds the path '{path}', which leads out"):
        ChapterData("demo", "smoke").path("emoji")
    _nothing_is_left(book)
    assert not list(tmp_path.rglob("out.txt"))


def test_another_tarball_of_the_same_version(book: Any, published: Any) -> None:
    published(tarball="a" * 64)
    with pytest.raises(ChecksumError, match=r"(?s)emoji: emoji-16.0.0.tgz has the wrong.*check npm's registry"):
        ChapterData("demo", "smoke").path("emoji")
    _nothing_is_left(book)


def test_another_file_in_the_right_tarball(book: Any, published: Any) -> None:
    published({**FILES, "package/emoji.json": b"[1, 3]"})
    with pytest.raises(ChecksumError, match=r"emoji: emoji.json has the wrong checksum"):
        ChapterData("demo", "smoke").path("emoji")
    _nothing_is_left(book)


@pytest.mark.parametrize("fault", ["cut", "stall", "corrupt"])
def test_a_tarball_that_does_not_come_whole(
    book: Any, site: Site, published: Any, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPROBOOK_TIMEOUT", "0.3")
    content = published()
    site.pages["/npm/emoji/-/emoji-16.0.0.tgz"] = Answer(body=content, fault=fault)
    with pytest.raises(DataError, match="broke off|was silent for 0.3 s|wrong checksum"):
        ChapterData("demo", "smoke").path("emoji")
    _nothing_is_left(book)
    site.pages["/npm/emoji/-/emoji-16.0.0.tgz"] = Answer(body=content)
    assert ChapterData("demo", "smoke").path("emoji").is_dir()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "@scope/emoji"}, "npm name '@scope/emoji' has a scope, which may live in a registry of its own"),
        ({"name": "Emoji/../x"}, "must be lower-case letters"),
        ({"version": "^16.0.0"}, "version '^16.0.0' is not one version: a range can move; pin one"),
        ({"version": "16.x"}, "version '16.x' is not one version"),
        ({"version": "latest"}, "version 'latest' is not one version"),
        ({"tarball": None}, "npm.tarball"),
    ],
)
def test_refused_manifests(published: Any, fields: dict[str, Any], says: str) -> None:
    published(**fields)
    with pytest.raises(ManifestError) as caught:
        ChapterData("demo", "smoke")
    assert "emoji: source.npm" in str(caught.value) and says in str(caught.value)


def test_the_registry_is_the_one_of_the_machine_s_configuration(tmp_path: Path, monkeypatch: Any) -> None:
    """The environment first, then what npm says, then its file, then the public registry."""
    for name in [name for name in os.environ if name.lower() == "npm_config_registry"]:
        monkeypatch.delenv(name)
    for name, value in {"HOME": tmp_path / "home", "PATH": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    assert npm._registry() == npm._PUBLIC
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".npmrc").write_text("//host/:_authToken=x\nregistry = http://127.0.0.1:1/file/\n")
    assert npm._registry() == "http://127.0.0.1:1/file"
    (tmp_path / "npm").write_text('#!/bin/sh\n[ "$*" = "config get registry" ] && echo http://127.0.0.1:2/npm/\n')
    (tmp_path / "npm").chmod(0o755)
    assert npm._registry() == "http://127.0.0.1:2/npm"
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:3")
    assert npm._registry() == "http://127.0.0.1:3"
