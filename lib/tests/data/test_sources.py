"""Bundled, generated, url and hub artefacts; the plan; the gates."""

from __future__ import annotations

import io
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from reprobook import data
from reprobook.data import ChapterData, PlanRow
from reprobook.data.errors import AccessError, ChecksumError, DataError, ManifestError, OfflineError
from servers import COMMIT, Answer

if TYPE_CHECKING:
    from servers import Site


def test_bundled(book: Any) -> None:
    path = book.root / "data_manifests" / "bundled" / "a.csv"
    path.write_text("x,y\n1,2\n")
    digest = sha256(path.read_bytes()).hexdigest()
    book.manifest({"id": "a", "source": {"bundled": {"path": "a.csv", "sha256": digest}}})
    chapter = ChapterData("demo", "smoke")
    assert chapter.path("a") == path and list(chapter.table().checksum) == ["verified"]
    path.write_text("x,y\n1,3\n")
    with pytest.raises(ChecksumError, match="restore it from git"):
        chapter.path("a")
    path.unlink()
    with pytest.raises(DataError, match="bundled/a.csv is missing"):
        chapter.path("a")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("reprobook.made_for_this_test")
    module.array = lambda n, seed: np.random.default_rng(seed).integers(0, 27, n, dtype=np.uint8)  # type: ignore[attr-defined]
    module.text = lambda: "two words"  # type: ignore[attr-defined]
    module.wrong = lambda: 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def _generated(name: str, content: bytes, **fields: Any) -> dict[str, Any]:
    source = {"function": f"reprobook.made_for_this_test:{name}", "sha256": sha256(content).hexdigest(), "bytes": 1}
    return {"id": "source", "source": {"generated": {**source, **fields}}}


def test_generated(book: Any, made: None, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(3).integers(0, 27, 100, dtype=np.uint8)
    np.save(stored := io.BytesIO(), array)
    book.manifest(_generated("array", stored.getvalue(), arguments={"n": 100, "seed": 3}))
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")  # nothing is fetched
    path = ChapterData("demo", "smoke").path("source")
    assert path.name == "source.npy" and np.array_equal(np.load(path), array)
    book.manifest(_generated("array", stored.getvalue(), arguments={"n": 100, "seed": 3}, file="again.npy"))
    assert ChapterData("demo", "smoke").path("source").name == "again.npy"
    book.manifest(_generated("text", b"two words", file="words.txt"))
    assert ChapterData("demo", "smoke").path("source").read_text() == "two words"


def test_generated_faults(book: Any, made: None) -> None:
    for entry, error, says in [
        (_generated("array", b"", arguments={"n": 5, "seed": 0}), ChecksumError, "makes something else now"),
        (_generated("text", b"two words"), ManifestError, "name its `file`"),
        (_generated("wrong", b"1"), ManifestError, "returned int; bytes, str or a numpy array"),
        (_generated("nothing", b"2"), ManifestError, "there is no function"),
    ]:
        book.manifest(entry)
        with pytest.raises(error, match=says):
            ChapterData("demo", "smoke").path("source")


def test_url_is_locked_at_the_first_fetch(book: Any, site: Site) -> None:
    site.pages["/a.csv"] = Answer(200, {}, b"1,2,3\n")
    book.manifest({"id": "a", "source": {"url": {"url": f"{site.address}/a.csv?x=1", "sha256": None}}})
    assert ChapterData("demo", "smoke").checksums() == {"a": "not locked"}
    path = ChapterData("demo", "smoke").path("a")
    assert path.name == "a.csv" and path.read_bytes() == b"1,2,3\n"
    entry = yaml.safe_load((book.root / "data_manifests" / "demo.lock.yaml").read_text())["artefacts"]["a"]
    assert entry["files"] == {"a.csv": {"sha256": sha256(b"1,2,3\n").hexdigest(), "bytes": 6}}
    site.pages["/a.csv"] = Answer(200, {}, b"1,2,4\n")
    assert ChapterData("demo", "smoke").path("a").read_bytes() == b"1,2,3\n"  # the cached copy is still the locked one
    path.unlink()
    with pytest.raises(ChecksumError, match="damaged or the source has changed"):
        ChapterData("demo", "smoke").path("a")


def test_url_faults(book: Any, site: Site) -> None:
    book.manifest({"id": "a", "source": {"url": {"url": f"{site.address}/gone", "sha256": "0" * 64}}})
    with pytest.raises(DataError, match="a: .*/gone answered 404"):
        ChapterData("demo", "smoke").path("a")
    book.manifest({"id": "a", "source": {"url": {"url": "http://127.0.0.1:9/a", "sha256": "0" * 64}}})
    with pytest.raises(DataError, match="could not be reached .* check the network"):
        ChapterData("demo", "smoke").path("a")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache without network; ``_snapshot`` puts repositories into it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def _snapshot(hub: Path, files: dict[str, bytes]) -> Path:
    repository = hub / "models--org--tiny"
    folder = repository / "snapshots" / COMMIT
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


HUB = {"repo_id": "org/tiny", "revision": None, "allow_patterns": ["*.safetensors", "config.json"]}


def test_hub_snapshot_is_locked_and_watched(book: Any, hub_cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("REPROBOOK_LOCKS", str(tmp_path / "locks"))
    folder = _snapshot(hub_cache, {"config.json": b"{}", "a.safetensors": b"weights", "pytorch_model.bin": b"pickle"})
    book.manifest({"id": "tiny", "kind": "model", "source": {"hub": HUB}})
    chapter = ChapterData("demo", "smoke")
    assert chapter.path("tiny") == folder
    assert chapter.checksums() == {"tiny": COMMIT} and data.verify("demo", "smoke") == []
    entry = yaml.safe_load((tmp_path / "locks" / "demo.lock.yaml").read_text())["artefacts"]["tiny"]
    assert entry["revision"] == COMMIT and sorted(entry["files"]) == ["a.safetensors", "config.json"]
    (folder / "a.safetensors").write_bytes(b"other weights")
    with pytest.raises(DataError, match=r"tiny: .*(wrong checksum|could not be fetched)"):
        chapter.path("tiny")
    assert any("wrong checksum" in line for line in data.verify("demo", "smoke"))


def test_hub_faults(book: Any, hub_cache: Path) -> None:
    book.manifest({"id": "tiny", "kind": "model", "source": {"hub": HUB}})
    with pytest.raises(OfflineError, match="tiny: model org/tiny is not whole in the Hugging Face cache"):
        ChapterData("demo", "smoke").path("tiny")
    _snapshot(hub_cache, {"pytorch_model.bin": b"pickle"})
    with pytest.raises(DataError, match="no file of org/tiny matches"):
        ChapterData("demo", "smoke").path("tiny")


def test_gate_is_tried_before_anything_moves(book: Any, site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", site.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    site.pages["/api/models/org/tiny/auth-check"] = Answer(403, {"X-Error-Code": "GatedRepo"}, b"")
    site.pages["/a.csv"] = Answer(200, {}, b"1,2,3\n")
    book.manifest(
        {"id": "a", "source": {"url": {"url": f"{site.address}/a.csv", "sha256": None, "bytes": 6}}},
        {"id": "tiny", "gated": True, "license": "llama3", "source": {"hub": {**HUB, "bytes": 2_500_000_000}}},
    )
    assert data.plan(["demo"], "smoke") == [
        PlanRow("a", f"{site.address}/a.csv", 6, "CC0-1.0", gated=False, cached=False),
        PlanRow("tiny", "hub org/tiny @ first fetch", 2_500_000_000, "llama3", gated=True, cached=False),
    ]
    lines: list[str] = []
    with pytest.raises(AccessError, match="tiny: model org/tiny is gated: accept its terms"):
        data.fetch("demo", "smoke", report=lines.append)
    assert lines[1] == "tiny: hub org/tiny @ first fetch, 2.5 GB, llama3, gated" and len(lines) == 2
    assert not (book.cache / "objects").exists()


def test_too_little_space_is_said_before_anything_moves(book: Any) -> None:
    book.manifest({"id": "a", "source": {"url": {"url": "http://127.0.0.1:9/a", "sha256": None, "bytes": 10**18}}})
    with pytest.raises(DataError, match="needs 2000000.0 TB, .* free: make room"):
        data.fetch("demo", "smoke", report=lambda line: None)
