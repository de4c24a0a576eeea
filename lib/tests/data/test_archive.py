"""Archives: named files come out whole, and nothing is written outside their folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from reprobook.data.archive import extract
from reprobook.data.errors import ChecksumError, DataError

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


def _extract(archive: Path, folder: Path, **wanted: int) -> None:
    """Take out the files of FILES, or ``wanted``: name -> bytes."""
    names = wanted or {name: len(content) for name, content in FILES.items()}
    extract("set", archive, archive.name, {name: (folder / name, size) for name, size in names.items()})


@pytest.mark.parametrize("make", [_tar, _zip])
def test_only_what_is_named_comes_out(tmp_path: Path, make: Any) -> None:
    _extract(make(tmp_path / "a.any", *FILES.items(), ("c.txt", b"unwanted")), tmp_path / "out")
    found = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in found} == FILES


@pytest.mark.parametrize("make", [_tar, _zip])
@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("../out.txt", b"x")], "holds the path '../out.txt', which leads out of its folder"),
        ([("sub/../../out.txt", b"x")], "leads out of its folder"),
        ([("/out.txt", b"x")], "leads out of its folder"),
        ([("C:\\out.txt", b"x")], "leads out of its folder"),
        ([("a", b"x"), ("a", b"y")], "holds 'a' twice"),
        ([("a", bytes(600))], "has 600 bytes, the manifest says 1"),
        ([("ab", b"x")], "has no file a; the nearest name is ab; correct `file`"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_refused_archives(tmp_path: Path, make: Any, members: Any, says: str) -> None:
    with pytest.raises(DataError, match=f"^set: .*a.any .*{says}") as caught:
        _extract(make(tmp_path / "a.any", *members), tmp_path / "out", a=1)
    assert isinstance(caught.value, ChecksumError) == ("bytes" in says)
    assert not list(tmp_path.rglob("out.txt"))


def test_a_size_that_the_header_hides_is_not_believed(tmp_path: Path) -> None:
    """A zip says 10 bytes and holds 5 MB: no more than what it says is ever written."""
    archive = _zip(tmp_path / "bomb.zip", ("a", bytes(5_000_000)))
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + offset
        content[at : at + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(DataError, match="bomb.zip is damaged or no zip or tar archive"):
        _extract(archive, tmp_path / "out", a=10)
    assert (tmp_path / "out" / "a").stat().st_size <= 10


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = _tar(tmp_path / "a.tar.gz", ("passwd", b""), kind=kind, link="/etc/passwd")
    with pytest.raises(DataError, match="'passwd' in a.tar.gz is a link, a device or encrypted"):
        _extract(archive, tmp_path / "out")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("passwd")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'passwd' in a.zip is a link"):
        _extract(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("make", [_tar, _zip])
def test_damaged_archives(tmp_path: Path, make: Any) -> None:
    archive = make(tmp_path / "a.any", ("a", bytes(range(256)) * 3))
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:60] + b"\xff\x00\xff" + whole[63:], b"no archive at all"):
        archive.write_bytes(content)
        with pytest.raises(DataError, match="set: a.any is damaged or no zip or tar archive"):
            _extract(archive, tmp_path / "out", a=768)
