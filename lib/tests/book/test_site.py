"""The built book is complete: every page, link and picture is there, and a flaw in a source stops the build."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from copies import copy_to_change
from reprobook import project
from reprobook.authoring import site
from reprobook.errors import ReprobookError

TOC = yaml.safe_load((project.root() / "book" / "_toc.yml").read_text())
ENTRIES = [TOC["root"], *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]


@functools.lru_cache(maxsize=64)
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def test_each_chapter_stands_in_its_part_in_the_order_of_the_book() -> None:
    parts = {part["caption"]: [Path(entry["file"]).name for entry in part["chapters"]] for part in TOC["parts"]}
    ours = {name: slugs for name, slugs in parts.items() if name in project.PARTS}
    there = {name: [s for s in slugs if s in project.chapters()] for name, slugs in project.PARTS.items()}
    assert ours == {name: slugs for name, slugs in there.items() if slugs}
    assert list(ours) == [name for name in project.PARTS if name in ours]


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_page_is_there_and_says_something(html: Path, entry: str) -> None:
    article = soup(html / f"{entry}.html").find("article")
    assert article and len(article.get_text(" ", strip=True)) > 400


def test_the_entry_page_leads_to_the_first_page(html: Path) -> None:
    assert "book/index.html" in (html / "index.html").read_text()


def targets(page: Path) -> list[tuple[str, str]]:
    """``(tag, address)`` of everything the page links to or loads."""
    found = [(tag.name, tag.get(name)) for name in ("href", "src") for tag in soup(page).find_all(attrs={name: True})]
    return [(tag, str(address)) for tag, address in found]


@pytest.mark.parametrize("entry", ENTRIES)
def test_links_and_pictures_resolve(html: Path, entry: str) -> None:
    page = html / f"{entry}.html"
    for tag, address in targets(page):
        parts = urlsplit(address)
        if parts.scheme == "data" or (tag == "a" and parts.scheme in ("http", "https", "mailto")):
            continue
        assert not parts.scheme and not parts.netloc, f"{entry} loads {address} from elsewhere"
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.is_file(), f"{entry} links to {address}, which is not there"
        if parts.fragment and target.suffix == ".html":
            name = unquote(parts.fragment)
            assert soup(target).find(id=name) or soup(target).find(attrs={"name": name}), f"{entry}: no place {address}"


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_page_with_its_pictures_is_below_two_megabytes(html: Path, entry: str) -> None:
    """What is the page's own: scripts and styles are shared by all pages and loaded once."""
    page = html / f"{entry}.html"
    pictures = {(page.parent / unquote(address)).resolve() for tag, address in targets(page) if tag == "img"}
    assert page.stat().st_size + sum(path.stat().st_size for path in pictures if path.is_file()) < 2_000_000


def test_the_site_is_below_sixty_megabytes(html: Path) -> None:
    assert sum(path.stat().st_size for path in html.rglob("*") if path.is_file()) < 60_000_000


def test_pages_name_no_machine(html: Path) -> None:
    for entry in ENTRIES:
        text = soup(html / f"{entry}.html").get_text()
        assert str(project.root()) not in text and str(Path.home()) + "/" not in text, entry
        assert not re.search(r"\b(?:127\.0\.0\.1|localhost)\b", text), entry


def test_a_second_gathering_writes_nothing(html: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in site.gather().rglob("*") if p.is_file()}
    assert {p: p.stat().st_mtime_ns for p in site.gather().rglob("*") if p.is_file()} == before


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Sources of a book of two pages, with the real settings."""
    source = tmp_path / "source"
    copy_to_change(project.root() / "book" / "_static", source / "book" / "_static")
    for name in ("_config.yml", "book/references.bib"):
        shutil.copy(project.root() / name, source / name)
    (source / "book" / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters: [{file: book/scales}]\n")
    (source / "book" / "index.md").write_text("# Small\n\n" + "A page of a small book. " * 40)
    (source / "book" / "scales.md").write_text("# Scales\n\nSee [the front page](index.md). $x^2$\n")
    (source / "book" / "_generated").mkdir()
    (source / "book" / "_generated" / "data.md").write_text("## A part of another page\n\n[](../notebooks/x.ipynb)\n")
    return source


def test_a_small_book_builds(small: Path, tmp_path: Path) -> None:
    """Also in a folder whose path a pattern could be."""
    source = shutil.move(small, tmp_path / "[a]* b")
    assert (site.build(source, tmp_path) / "book" / "scales.html").is_file()


@pytest.mark.parametrize("flaw", ["[no such page](nowhere.md)", "![no such picture](none.png)", "{cite}`nobody1900`"])
def test_a_flaw_stops_the_build(small: Path, tmp_path: Path, flaw: str) -> None:
    with (small / "book" / "index.md").open("a") as page:
        page.write(f"\n\n{flaw}\n")
    with pytest.raises(ReprobookError, match="did not build"):
        site.build(small, tmp_path)


def test_a_chapter_outside_the_table_of_contents_is_missed(small: Path, tmp_path: Path) -> None:
    slug = project.chapters()[0]
    (small / "notebooks").mkdir()
    shutil.copy(project.notebook_path(slug), small / "notebooks")
    with pytest.raises(ReprobookError, match=f"{slug}.html.*_toc.yml"):
        site.build(small, tmp_path)


def test_a_checkout_that_cannot_be_written_to_is_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(executed: bool) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "_build")

    monkeypatch.setattr(site, "gather", closed)
    assert site.main([]) == 1
    assert "Read-only file system: '_build'" in capsys.readouterr().err
