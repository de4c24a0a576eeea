"""A further kind of source is a class with four methods; the cache, the lock and the export come with it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from reprobook.data.errors import ChecksumError, OfflineError
from reprobook.data.manifest import Source
from reprobook.data.source import About, CachedSource, File, Owner, SourceKind

OWNER = Owner("demo", "word", gated=False)


class Word(CachedSource):
    """The word that the manifest asks for, as a mirror spells it."""

    wanted: str | None
    spelt: str

    def about(self) -> About:
        return About(f"word {self.wanted}", len(self.spelt), len(self.spelt), remedy="ask another mirror")

    def promised(self, of: Owner) -> dict[str, File] | None:
        entry = self.locked(of)
        digest = sha256(self.wanted.encode()).hexdigest() if self.wanted else entry and entry.files["a.txt"].sha256
        return {"a.txt": File(digest, len(self.spelt), "mirror:word")} if digest else None

    def fill(self, of: Owner, folder: Path) -> None:
        (folder / "a.txt").write_text(self.spelt)


def test_a_further_kind_is_cached_checked_and_exported(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    good, wrong = Word(wanted="yes", spelt="yes"), Word(wanted="yes", spelt="yse")
    with pytest.raises(ChecksumError, match=r"(?s)word: a.txt has the wrong checksum.*ask another mirror"):
        wrong.obtain(OWNER)
    assert good.problems(OWNER) == ["not fetched"]
    path = good.obtain(OWNER)
    assert path.read_text() == "yes" and wrong.obtain(OWNER) == path, "who promises the same bytes finds them"
    path.write_text("yeah")
    assert "wrong checksum" in good.problems(OWNER)[0]
    monkeypatch.setenv("REPROBOOK_OFFLINE", "1")
    with pytest.raises(OfflineError, match="word is damaged in the cache"):
        good.obtain(OWNER)
    monkeypatch.delenv("REPROBOOK_OFFLINE")
    assert good.obtain(OWNER).read_text() == "yes" and good.checksum(OWNER) == path.parent.name
    [entry] = good.export(OWNER)
    assert (entry["contentUrl"], entry["contentSize"], entry["encodingFormat"]) == ("mirror:word", "3 B", "text/plain")


def test_without_a_checksum_its_first_fetch_is_locked(book: Any) -> None:
    open_word = Word(wanted=None, spelt="maybe")
    assert open_word.checksum(OWNER) == "not locked"
    path = open_word.obtain(OWNER)
    path.unlink()
    with pytest.raises(ChecksumError):
        Word(wanted=None, spelt="may be").obtain(OWNER)


def test_the_manifest_lists_kinds_that_are_whole() -> None:
    for name, field in Source.model_fields.items():
        kind = next(kind for kind in _kinds(SourceKind) if kind.__name__ in str(field.annotation))
        assert not kind.__abstractmethods__ and kind.__module__ == f"reprobook.data.{name}"


def _kinds(base: type[SourceKind]) -> list[type[SourceKind]]:
    return [kind for each in base.__subclasses__() for kind in (each, *_kinds(each))]
