"""One file joined from parts in several wheels, with the real pip: nothing half-joined is ever used."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from reprobook import data
from reprobook.data import ChapterData, cache
from reprobook.data.errors import ChecksumError, DataError, ManifestError

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(256)) * 4000  # 1 MB
SIZES = (600_000, 424_000)


def _parts() -> list[bytes]:
    return [CONTENT[sum(SIZES[:k]) : sum(SIZES[: k + 1])] for k in range(2)]


def _part(k: int) -> dict[str, Any]:
    content = _parts()[k]
    file = {"file": f"part{k}/part.bin", "sha256": sha256(content).hexdigest(), "bytes": len(content)}
    return {"name": f"part{k}", "version": "1.0", **file}


@pytest.fixture
def cut(book: Any) -> Callable[..., None]:
    """Publish the wheels (all, or those in ``there``) and write the manifest with the parts in this ``order``."""

    def make(order: tuple[int, ...] = (0, 1), there: tuple[int, ...] = (0, 1), **fields: Any) -> None:
        for path in book.index.iterdir():
            path.unlink()
        for k in there:
            book.wheel(f"part{k}", {f"part{k}/part.bin": _parts()[k]})
        whole = {"file": "model.bin", "sha256": sha256(CONTENT).hexdigest(), "bytes": len(CONTENT)}
        source = {**whole, "parts": [_part(k) for k in order], **fields}
        book.manifest({"id": "model", "kind": "model", "source": {"joined": source}})

    return make


def _files(cache: Path) -> list[str]:
    """Names of what the cache holds of models and parts, finished or not."""
    return sorted(path.name for folder in ("objects", "tmp") for path in (cache / folder).rglob("*.bin"))


def test_parts_become_the_file_and_make_room(book: Any, cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut()
    [row] = data.plan(["demo"], "smoke")
    assert (row.source, row.bytes) == ("2 wheels joined, part0 to part1", len(CONTENT))
    path = ChapterData("demo", "smoke").path("model")
    assert path.name == "model.bin" and path.read_bytes() == CONTENT and _files(book.cache) == ["model.bin"]
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")
    assert ChapterData("demo", "smoke").path("model") == path and data.verify("demo", "smoke") == []
    assert ChapterData("demo", "smoke").checksums() == {"model": sha256(CONTENT).hexdigest()}


def test_a_part_is_missing_and_the_next_fetch_goes_on(book: Any, cut: Any) -> None:
    cut(there=(0,))
    with pytest.raises(
        DataError, match="^model-part2: pip could not download part1==1.0: the package index has no such"
    ):
        ChapterData("demo", "smoke").path("model")
    assert _files(book.cache) == ["part.bin"] and data.verify("demo", "smoke") == ["model: not fetched"]
    cut(there=(1,))  # what was fetched is not asked for again: it is not even there any more
    assert ChapterData("demo", "smoke").path("model").read_bytes() == CONTENT


def _fetched() -> None:
    """Both parts are in the cache, as after a fetch that was interrupted when they had come."""
    for content in _parts():
        folder = cache.object_dir({"part.bin": sha256(content).hexdigest()})
        folder.mkdir(parents=True)
        (folder / "part.bin").write_bytes(content)


def test_parts_in_the_wrong_order(book: Any, cut: Any) -> None:
    cut(order=(1, 0), there=())
    _fetched()
    with pytest.raises(
        ChecksumError, match="(?s)model: model.bin has the wrong checksum.*correct the order of `parts`"
    ):
        ChapterData("demo", "smoke").path("model")
    assert _files(book.cache) == ["part.bin"] * 2 and data.verify("demo", "smoke") == ["model: not fetched"]
    cut(there=())
    assert ChapterData("demo", "smoke").path("model").read_bytes() == CONTENT


def test_the_disk_is_full_while_joining(cut: Any, disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = disk("size=1500k")  # room for the parts, but not for the whole beside them
    monkeypatch.setenv("REPROBOOK_CACHE", str(small))
    cut(there=())
    _fetched()
    with pytest.raises(DataError, match="^model: the disk is full"):
        ChapterData("demo", "smoke").path("model")
    assert _files(small) == ["part.bin"] * 2 and data.verify("demo", "smoke") == ["model: not fetched"]
    disk.remount(small, "size=8m")
    assert ChapterData("demo", "smoke").path("model").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"parts": [_part(0)], "bytes": 600_000},
            "model.bin has 1 part: one file needs no joining, name it as `package`",
        ),
        ({"bytes": 5}, "the parts have 1024000 bytes together, model.bin has 5"),
        ({"parts": [_part(0), {**_part(1), "version": ">=1.0"}]}, "version '>=1.0' is not one version"),
        ({"file": "../model.bin"}, "relative path"),
    ],
)
def test_refused_manifests(cut: Any, fields: dict[str, Any], says: str) -> None:
    cut(there=(), **fields)
    with pytest.raises(ManifestError) as caught:
        ChapterData("demo", "smoke")
    assert "model: source.joined" in str(caught.value) and says in str(caught.value)
