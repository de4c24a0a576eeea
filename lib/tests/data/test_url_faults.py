"""A server that misbehaves in every way it can: the reader learns what and why, nothing half-written is used, and the
next call completes."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from reprobook import data
from reprobook.data import ChapterData, web
from reprobook.data.errors import AccessError, DataError
from servers import Answer

if TYPE_CHECKING:
    from servers import Site

CONTENT = bytes(range(256)) * 400
GOOD = Answer(body=CONTENT)


@pytest.fixture(autouse=True)
def quick(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPROBOOK_TIMEOUT", "0.3")
    monkeypatch.setattr(web, "FIRST_PAUSE_S", 0.05)


def _ask_for(book: Any, site: Site, digest: str | None = sha256(CONTENT).hexdigest(), **fields: Any) -> None:
    book.manifest({"id": "a", "source": {"url": {"url": f"{site.address}/a.bin", "sha256": digest, **fields}}})


def _nothing_is_left(book: Any) -> None:
    objects = book.cache / "objects"
    assert not objects.exists() or not [path for path in objects.rglob("*") if path.is_file()]
    assert list((book.cache / "tmp").iterdir()) == []
    assert not (book.root / "data_manifests" / "demo.lock.yaml").exists()


FAULTS = {
    "cut": (Answer(body=CONTENT, fault="cut"), "broke off before the whole file had come, 3 times; try again later"),
    "reset": (Answer(body=CONTENT, fault="reset"), "broke off|could not be reached"),
    "stall": (Answer(body=CONTENT, fault="stall"), "was silent for 0.3 s; try again later, or .* REPROBOOK_TIMEOUT"),
    "silent": (Answer(fault="silent"), "was silent for 0.3 s"),
    "circle": (Answer(302, {"Location": "/a.bin"}), "redirects in circles; correct `url`"),
    "401": (Answer(401), "answered 401: it wants a permission"),
    "403": (Answer(403), "answered 403: it wants a permission"),
    "404": (Answer(404), "answered 404; correct `url` in the manifest"),
    "410": (Answer(410), "answered 410; correct `url` in the manifest"),
    "429, long": (Answer(429, {"Retry-After": "3600"}), "answered 429: too many requests; try again in 3600 s"),
    "429, date": (Answer(429, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}), "too many requests; try again later"),
    "500": (Answer(500), "answered 500: the server has a fault; try again later"),
    "503": (Answer(503), "answered 503: the server has a fault; try again later"),
    "corrupt": (Answer(body=CONTENT, fault="corrupt"), "(?s)wrong checksum.*the download was damaged or the source"),
    "short": (Answer(body=CONTENT[:-1]), "(?s)wrong checksum.*fetch again"),
    "page": (Answer(body=b"<html>log in</html>"), "(?s)wrong checksum"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_explained_and_the_next_call_completes(book: Any, site: Site, fault: str) -> None:
    _ask_for(book, site)
    site.pages["/a.bin"], says = FAULTS[fault]
    with pytest.raises(DataError, match=says) as caught:
        ChapterData("demo", "smoke").path("a")
    assert str(caught.value).startswith(("a: http://127.0.0.1", "a: a.bin"))
    assert isinstance(caught.value, AccessError) == (fault in ("401", "403"))
    _nothing_is_left(book)
    site.pages["/a.bin"] = GOOD
    assert ChapterData("demo", "smoke").path("a").read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["cut", "reset", "stall", "500", "404"])
def test_nothing_is_locked_by_a_first_fetch_that_failed(book: Any, site: Site, fault: str) -> None:
    _ask_for(book, site, digest=None)
    site.pages["/a.bin"], _ = FAULTS[fault]
    with pytest.raises(DataError):
        ChapterData("demo", "smoke").path("a")
    _nothing_is_left(book)
    site.pages["/a.bin"] = GOOD
    assert ChapterData("demo", "smoke").path("a").read_bytes() == CONTENT
    assert ChapterData("demo", "smoke").checksums() == {"a": sha256(CONTENT).hexdigest()}


@pytest.mark.parametrize(
    "first",
    [FAULTS["500"][0], Answer(429, {"Retry-After": "1"}), FAULTS["cut"][0], FAULTS["reset"][0]],
    ids=["500", "429", "cut", "reset"],
)
def test_what_passes_by_itself_is_not_an_error(book: Any, site: Site, first: Answer) -> None:
    _ask_for(book, site)
    site.pages["/a.bin"] = [first, first, GOOD]
    assert ChapterData("demo", "smoke").path("a").read_bytes() == CONTENT
    assert site.seen == ["GET /a.bin"] * 3


def test_a_size_in_the_manifest_tells_a_body_without_length_from_a_whole_one(book: Any, site: Site) -> None:
    _ask_for(book, site, digest=None, bytes=len(CONTENT))
    site.pages["/a.bin"] = Answer(body=CONTENT[:-7])
    with pytest.raises(DataError, match="gave 102393 bytes, the manifest says 102400: fetch again"):
        ChapterData("demo", "smoke").path("a")
    _nothing_is_left(book)


def test_a_time_limit_that_is_none(book: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _ask_for(book, site)
    monkeypatch.setenv("REPROBOOK_TIMEOUT", "soon")
    with pytest.raises(DataError, match="REPROBOOK_TIMEOUT=soon: it must be a number of seconds"):
        ChapterData("demo", "smoke").path("a")


def test_two_processes_fetch_once(book: Any, site: Site) -> None:
    _ask_for(book, site, digest=None)
    site.pages["/a.bin"] = GOOD
    code = "from reprobook.data import ChapterData; print(ChapterData('demo', 'smoke').path('a'))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(paths) == 1
    assert Path(paths.pop()).read_bytes() == CONTENT
    assert site.seen == ["GET /a.bin"]


def test_a_killed_fetch_leaves_nothing_that_is_taken_for_whole(book: Any, site: Site) -> None:
    _ask_for(book, site)
    site.pages["/a.bin"] = Answer(body=CONTENT, fault="stall")
    code = "import os; os.environ['REPROBOOK_TIMEOUT'] = '30'; from reprobook import data; data.fetch('demo', 'smoke')"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not site.seen:
        assert child.poll() is None
    child.kill()
    child.wait()
    assert data.verify("demo", "smoke") == ["a: not fetched"]
    site.pages["/a.bin"] = GOOD
    assert ChapterData("demo", "smoke").path("a").read_bytes() == CONTENT
