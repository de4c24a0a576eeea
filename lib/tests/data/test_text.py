"""Cleaning of Wikipedia markup in the text8 manner."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reprobook.data.text import (
    ALPHABET,
    decode_characters,
    encode_characters,
    text8,
    visible_text,
    wikipedia_articles,
    wrap,
)
from reprobook.errors import ReprobookError

DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
<page><title>Kept</title><ns>0</ns><revision><text>Text of '''Kept'''.</text></revision></page>
<page><title>Moved</title><ns>0</ns><redirect title="Kept"/><revision><text>#REDIRECT [[Kept]]</text></revision></page>
<page><title>Talk:Kept</title><ns>1</ns><revision><text>chat</text></revision></page>
</mediawiki>"""


def dump(folder: Path, text: str) -> Path:
    path = folder / "pages.xml.bz2"
    path.write_bytes(bz2.compress(text.encode()))
    return path


def test_articles_are_the_main_pages_without_redirects(tmp_path: Path) -> None:
    found = wikipedia_articles(dump(tmp_path, DUMP))
    assert [(a.title, a.markup) for a in found] == [("Kept", "Text of '''Kept'''.")]


def test_dump_without_articles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReprobookError, match="holds no article"):
        wikipedia_articles(dump(tmp_path, "<mediawiki/>"))


@pytest.mark.parametrize(
    "markup, seen",
    [
        ("[[Paris]] and [[London|the city]]", "paris and the city"),
        ("a {{cite|{{nested}} x}} b", "a b"),
        ("a {| class=x\n|-\n| cell {| inner |} \n|} b", "a b"),
        ("a<ref name=x>note</ref> b<ref name=x /> c", "a b c"),
        ("a <!-- not\nseen --> b", "a b"),
        ("[[File:x.jpg|thumb|a [[link]] in a caption]] text", "text"),
        ("[[Category:Cities]] [[fr:Ville]] text", "text"),
        ("see [http://example.org the site] now", "see the site now"),
        ("x &lt;b&gt;bold&lt;/b&gt; &amp;nbsp; y", "x bold y"),
        ("In 1905", "in one nine zero five"),
        ("Café – naïve!", "caf na ve"),
    ],
)
def test_only_what_a_reader_sees_is_kept(markup: str, seen: str) -> None:
    assert text8(visible_text(markup)) == seen


@given(st.text())
def test_text8_is_clean_and_stays_clean(text: str) -> None:
    clean = text8(text)
    assert set(clean) <= set(ALPHABET) and "  " not in clean and clean == clean.strip()
    assert text8(clean) == clean
    assert decode_characters(encode_characters(clean)) == clean


def test_ids_of_characters() -> None:
    assert encode_characters("a z").tolist() == [1, 0, 26]
    with pytest.raises(ReprobookError, match="text8"):
        encode_characters("A1")


@given(sizes=st.lists(st.integers(0, 20), max_size=6), length=st.integers(1, 8))
def test_wrap_keeps_order_and_drops_only_the_tail(sizes: list[int], length: int) -> None:
    pieces, total = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]) if sizes else [], sum(sizes)
    if total < length:
        with pytest.raises(ReprobookError):
            wrap(list(pieces), length)
        return
    rows = wrap(list(pieces), length)
    assert rows.shape == (total // length, length)
    assert rows.flatten().tolist() == list(range(total // length * length))


def test_wrap_names_the_trouble() -> None:
    with pytest.raises(ReprobookError, match="corpus is empty"):
        wrap([], 4)
    with pytest.raises(ReprobookError, match="3 tokens, less than one context of 4"):
        wrap([np.arange(3)], 4)
    with pytest.raises(ReprobookError, match="at least 1, got 0"):
        wrap([np.arange(3)], 0)
