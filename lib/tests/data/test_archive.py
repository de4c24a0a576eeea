"""Archives: unpacked once and whole, within limits, and never outside their folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from reprobook.data import ChapterData, unpack_once
from reprobook.data.errors import DataError, ManifestError
from servers import Answer

if TYPE_CHECKING:
    from servers import Site

LIMITS = {"max_bytes": 1000, "max_files": 3}
FILES = {"a.txt": b"one", "sub/b.txt": b"two"}


def _tar(path: Path, *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _zip(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("make", [_tar, _zip])
def test_a_good_archive_becomes_a_folder(book: Any, tmp_path: Path, make: Any) -> None:
    archive = make(tmp_path / "a.any", *FILES.items())
    folder = unpack_once("set", archive, **LIMITS)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.txt")} == FILES
    (folder / "a.txt").unlink()
    assert unpack_once("set", archive, **LIMITS) == folder and (folder / "a.txt").read_bytes() == b"one"


@pytest.mark.parametrize("make", [_tar, _zip])
@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("../out.txt", b"x")], "holds the path '../out.txt', which leads out of its folder"),
        ([("sub/../../out.txt", b"x")], "leads out of its folder"),
        ([("/out.txt", b"x")], "leads out of its folder"),
        ([("C:\\out.txt", b"x")], "leads out of its folder"),
        ([("a", b"x"), ("./a", b"y")], "holds '(./)?a' twice"),
        ([(f"{k}", b"x") for k in range(4)], "holds more than 3 files; raise the limit in `unpack`"),
        ([("a", bytes(600)), ("b", bytes(600))], "holds more than 1000 bytes; raise the limit in `unpack`"),
        ([("a", bytes(5_000_000))], "holds more than 1000 bytes"),
    ],
)
def test_refused_archives_leave_nothing(book: Any, tmp_path: Path, make: Any, members: Any, says: str) -> None:
    with pytest.raises(DataError, match=f"set: a.any .*{says}"):
        unpack_once("set", make(tmp_path / "a.any", *members), **LIMITS)
    assert not (book.cache / "derived").exists() and list((book.cache / "tmp").iterdir()) == []
    assert not list(tmp_path.rglob("out.txt"))


def test_a_size_that_the_header_hides_is_not_believed(book: Any, tmp_path: Path) -> None:
    """A zip says 10 bytes and holds 5 MB: no more than one chunk beyond the limit is ever written."""
    archive = _zip(tmp_path / "bomb.zip", ("a", bytes(5_000_000)))
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + offset
        content[at : at + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(DataError, match="bomb.zip (is no zip or tar archive, or is damaged|holds more than)"):
        unpack_once("set", archive, **LIMITS)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(book: Any, tmp_path: Path, kind: bytes) -> None:
    archive = _tar(tmp_path / "a.tar.gz", ("passwd", b""), kind=kind, link="/etc/passwd")
    with pytest.raises(DataError, match="'passwd' in a.tar.gz is a link, a device or encrypted"):
        unpack_once("set", archive, **LIMITS)


def test_links_in_a_zip_are_refused(book: Any, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("passwd")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'passwd' in a.zip is a link"):
        unpack_once("set", tmp_path / "a.zip", **LIMITS)


@pytest.mark.parametrize("make", [_tar, _zip])
def test_damaged_archives(book: Any, tmp_path: Path, make: Any) -> None:
    archive = make(tmp_path / "a.any", ("a", bytes(range(256)) * 3))
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:60] + b"\xff\x00\xff" + whole[63:], b"no archive at all"):
        archive.write_bytes(content)
        with pytest.raises(DataError, match="set: a.any is no zip or tar archive, or is damaged"):
            unpack_once("set", archive, **LIMITS)
        assert not (book.cache / "derived").exists()


def test_an_archive_at_an_address(book: Any, site: Site, tmp_path: Path) -> None:
    content = _tar(tmp_path / "set.tar.gz", *FILES.items()).read_bytes()
    site.pages["/set.tar.gz"] = Answer(body=content)
    url = {"url": f"{site.address}/set.tar.gz", "sha256": sha256(content).hexdigest()}
    book.manifest({"id": "set", "source": {"url": {**url, "unpack": {"max_bytes": 100}}}})
    folder = ChapterData("demo", "smoke").path("set")
    assert (folder / "sub" / "b.txt").read_bytes() == b"two"
    assert ChapterData("demo", "smoke").path("set") == folder and site.seen == ["GET /set.tar.gz"]
    book.manifest({"id": "set", "source": {"url": {**url, "unpack": {"max_bytes": 0}}}})
    with pytest.raises(ManifestError, match="unpack.max_bytes"):
        ChapterData("demo", "smoke")
