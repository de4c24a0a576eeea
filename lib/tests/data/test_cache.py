"""Folders appear whole or not at all; a damaged one is made again; disk errors are explained."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reprobook.data import cache, convert_once
from reprobook.data.errors import DataError


def test_convert_once_builds_once_and_again_when_damaged(book: Any) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(1)
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_bytes(b"12345")

    folder = convert_once("thing-v1", build)
    assert convert_once("thing-v1", build) == folder and len(calls) == 1
    (folder / "sub" / "weights").write_bytes(b"123")
    assert convert_once("thing-v1", build) == folder and len(calls) == 2
    assert (folder / "sub" / "weights").read_bytes() == b"12345"
    assert list((book.cache / "tmp").iterdir()) == []
    with pytest.raises(ValueError, match="'../up'"):
        convert_once("../up", build)


def test_a_build_that_fails_leaves_nothing(book: Any) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_bytes(b"1")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        convert_once("thing-v1", build)
    assert not (book.cache / "derived" / "thing-v1").exists() and list((book.cache / "tmp").iterdir()) == []


def test_two_processes_convert_once(book: Any, tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from reprobook.data import convert_once
def build(folder):
    with open({str(tmp_path / "calls")!r}, "a") as log:
        log.write("x")
    time.sleep(0.3)
    (folder / "a").write_bytes(b"1")
print(convert_once("thing", build))
"""
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_checksum_is_remembered_until_the_file_changes(book: Any, tmp_path: Path) -> None:
    from hashlib import sha256

    path = tmp_path / "a"
    for content in (b"one", b"two!", b"three"):
        path.write_bytes(content)
        assert cache.sha256_of(path) == cache.sha256_of(path) == sha256(content).hexdigest()
    next((book.cache / "stamps").iterdir()).write_text("not json")
    cache._known.clear()
    assert cache.sha256_of(path) == sha256(b"three").hexdigest()


@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.ENOSPC, "disk is full .* REPROBOOK_CACHE"), (errno.EROFS, "cannot write to .* REPROBOOK_CACHE")],
)
def test_disk_errors_name_artefact_and_remedy(book: Any, code: int, says: str) -> None:
    with pytest.raises(DataError, match=f"corpus: .*{says}"), cache.disk_errors("corpus"):
        raise OSError(code, "fault")


def test_cache_that_is_a_file(book: Any) -> None:
    book.cache.write_text("in the way")
    with pytest.raises(DataError, match="my cache"):
        convert_once("thing", lambda folder: None)
