"""Croissant documents are valid for the vocabulary's own checker and say what manifest and lock say."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlcroissant
import pytest
from reprobook import data
from reprobook.cli import main
from reprobook.data import ChapterData, lock
from reprobook.data.croissant import export
from servers import COMMIT, Answer

if TYPE_CHECKING:
    from servers import Site

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = sorted(p.stem for p in (ROOT / "data_manifests").glob("*.yaml") if not p.name.endswith(".lock.yaml"))


def _checked(path: Path) -> dict[str, Any]:
    """The document, after the checker found no error in it."""
    found = mlcroissant.Dataset(jsonld=str(path)).metadata.ctx.issues
    assert not found.errors
    assert all(line.endswith("is recommended, but does not exist.") for line in found.warnings), found.warnings
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("slug", [name for name in MANIFESTS if name != "shared"])
def test_every_data_set_of_the_book_is_valid(slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPROBOOK_ROOT", str(ROOT))
    wanted = [a for a in data.load_manifest(slug).artefacts if a.kind == "dataset"]
    paths = export(slug, tmp_path)
    assert [path.stem for path in paths] == [artefact.id for artefact in wanted]
    for path, artefact in zip(paths, wanted, strict=True):
        found = _checked(path)
        assert (found["license"], found["description"]) == (artefact.license, artefact.what)
        assert found["citeAs"].startswith("@") if artefact.citation else "citeAs" not in found


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, book: Any, packaged: Any) -> None:
    content = packaged()
    (book.root / "data_manifests" / "demo.yaml").rename(book.root / "data_manifests" / "block_diffusion.yaml")
    assert main(["data", "croissant", "block_diffusion"]) == 0
    assert capsys.readouterr().out == "_build/croissant/block_diffusion/text.json\n"
    found = _checked(book.root / "_build/croissant/block_diffusion/text.json")
    assert found["distribution"] == [
        {
            "@type": "cr:FileObject",
            "@id": "text.txt",
            "name": "text.txt",
            "contentUrl": "pkg:pypi/corpus@1.0#corpus/data/text.txt",
            "contentSize": "27 B",
            "encodingFormat": "text/plain",
            "sha256": sha256(content).hexdigest(),
        }
    ]


def test_an_address_before_and_after_its_checksum_is_known(book: Any, site: Site, tmp_path: Path) -> None:
    site.pages["/a.csv"] = Answer(body=b"1,2\n")
    book.manifest({"id": "a", "source": {"url": {"url": f"{site.address}/a.csv", "sha256": None}}})
    [file] = _checked(export("demo", tmp_path)[0])["distribution"]
    assert file["contentUrl"] == f"{site.address}/a.csv" and "contentSize" not in file
    assert file["sha256"] == "https://github.com/mlcommons/croissant/issues/80"
    ChapterData("demo", "smoke").path("a")
    [file] = _checked(export("demo", tmp_path)[0])["distribution"]
    assert file["contentUrl"] == f"{site.address}/a.csv" and file["contentSize"] == "4 B"
    assert (file["sha256"], file["encodingFormat"]) == (sha256(b"1,2\n").hexdigest(), "text/csv")


def test_a_hub_data_set_before_and_after_its_first_fetch(book: Any, tmp_path: Path) -> None:
    hub = {"repo_id": "org/set", "repo_type": "dataset", "revision": None, "allow_patterns": ["data/*.parquet"]}
    book.manifest({"id": "set", "source": {"hub": hub}}, {"id": "m", "kind": "model", "source": {"hub": hub}})
    repository, files = _checked(export("demo", tmp_path)[0])["distribution"]
    assert repository["contentUrl"] == "https://huggingface.co/datasets/org/set/tree/main"
    assert (files["includes"], files["encodingFormat"]) == (["data/*.parquet"], "application/x-parquet")
    origin = "dataset org/set@first fetch"
    files = {"data/a.parquet": lock.LockedFile(sha256="1" * 64, bytes=12)}
    lock.write("demo", "set", lock.Locked(origin=origin, revision=COMMIT, files=files))
    [file] = _checked(export("demo", tmp_path)[0])["distribution"]
    assert file["contentUrl"] == f"https://huggingface.co/datasets/org/set/resolve/{COMMIT}/data/a.parquet"
    assert (file["sha256"], file["contentSize"]) == ("1" * 64, "12 B")


def test_mirrors_and_parts(book: Any, tmp_path: Path) -> None:
    whole = {"file": "a.csv", "sha256": "1" * 64, "bytes": 5}
    parts = [
        {"name": f"cut{k}", "version": "1.0", "file": f"cut{k}/a", "sha256": f"{k}" * 64, "bytes": k} for k in (2, 3)
    ]
    hub = {**whole, "repo_id": "org/set", "repo_type": "dataset", "revision": COMMIT}
    book.manifest({"id": "set", "source": {"hub": hub}, "mirrors": [{"joined": {**whole, "parts": parts}}]})
    files = {entry["@id"]: entry for entry in _checked(export("demo", tmp_path)[0])["distribution"]}
    assert sorted(files) == ["a.csv", "a.csv.part1", "a.csv.part2"]
    assert files["a.csv"]["contentUrl"] == f"https://huggingface.co/datasets/org/set/resolve/{COMMIT}/a.csv"
    assert files["a.csv"]["sameAs"] == ["urn:sha256:" + "1" * 64]
    assert files["a.csv"]["description"] == "a.csv.part1, a.csv.part2 joined in this order"
    assert (files["a.csv.part2"]["contentUrl"], files["a.csv.part2"]["sha256"]) == (
        "pkg:pypi/cut3@1.0#cut3/a",
        "3" * 64,
    )


def test_bundled_and_generated(book: Any, tmp_path: Path) -> None:
    (book.root / "data_manifests" / "bundled" / "a.csv").write_text("x\n1\n")
    made = {"function": "reprobook.data.text:clean", "sha256": "2" * 64, "bytes": 5, "file": "made.txt"}
    book.manifest(
        {"id": "a", "source": {"bundled": {"path": "a.csv", "sha256": sha256(b"x\n1\n").hexdigest()}}},
        {"id": "b", "source": {"generated": made}},
    )
    one, two = (_checked(path)["distribution"][0] for path in export("demo", tmp_path))
    assert (one["contentUrl"], one["contentSize"]) == ("data_manifests/bundled/a.csv", "4 B")
    assert (two["contentUrl"], two["sha256"]) == ("urn:reprobook:reprobook.data.text:clean", "2" * 64)
