"""Real text: Wikipedia's XML dump to plain articles, cleaned in the text8 manner to 27 characters.

The rules follow the text8 data set (M. Mahoney, "About the Test Data", 2011): keep what a reader sees, spell out
digits, lower the case, keep a-z, and turn everything else into single spaces.
"""

from __future__ import annotations

import bz2
import html
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reprobook.errors import ReprobookError

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
_DIGITS = {str(i): f" {word} " for i, word in enumerate("zero one two three four five six seven eight nine".split())}


@dataclass(frozen=True)
class Article:
    """A page of an encyclopedia, with its markup as it was written."""

    title: str
    markup: str


def wikipedia_articles(path: str | Path) -> list[Article]:
    """Articles of a ``pages-articles`` dump (.xml.bz2) in its order; redirects and pages outside the main namespace
    are left out."""
    found = []
    with bz2.open(path) as stream:
        for _, page in ET.iterparse(stream):
            if not page.tag.endswith("}page"):
                continue
            field = {child.tag.rsplit("}", 1)[-1]: child for child in page.iter()}
            markup = field["text"].text or ""
            if field["ns"].text == "0" and "redirect" not in field and not markup.lower().startswith("#redirect"):
                found.append(Article(field["title"].text or "", markup))
            page.clear()
    if not found:
        raise ReprobookError(f"{Path(path).name} holds no article: is it a pages-articles dump?")
    return found


_INNERMOST = re.compile(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
_DROP = re.compile(
    r"<!--.*?-->|<(ref|math|gallery|timeline|code|pre|syntaxhighlight)\b[^<>]*?(?:/>|>.*?</\1\s*>)"
    r"|\[\[(?:category|[a-z]{2,3}(?:-[a-z]+)*):[^\[\]]*\]\]",
    re.DOTALL | re.IGNORECASE,
)
_MEDIA = re.compile(r"\[\[(?:file|image):(?:[^\[\]]|\[\[[^\[\]]*\]\]|\[[^\[\]]*\])*\]\]", re.IGNORECASE)
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_URL = re.compile(r"\[?\b(?:https?|ftp)://[^\s\]]+\s*([^\]\n]*)\]?")


def visible_text(markup: str) -> str:
    """What a reader of the article sees: templates, tables, comments, references, media and categories removed, link
    texts kept."""
    text = _DROP.sub(" ", html.unescape(markup))
    while (shorter := _INNERMOST.sub(" ", text)) != text:
        text = shorter
    text = _LINK.sub(r"\1", _MEDIA.sub(" ", text))
    return html.unescape(re.sub(r"<[^<>]*>", " ", _URL.sub(r"\1", text)))


def text8(text: str) -> str:
    """Lower case, digits as words, a-z only, single spaces in between: 27 symbols."""
    text = re.sub(r"\d", lambda digit: _DIGITS.get(digit.group(), " "), text.lower())
    return re.sub(r"[^a-z]+", " ", text).strip()


def encode_characters(text: str) -> np.ndarray:
    """Ids (n,) int64 of a text over :data:`ALPHABET`: space is 0, a..z are 1..26."""
    raw = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64)
    if not ((raw == 32) | ((raw >= 97) & (raw <= 122))).all():
        raise ReprobookError("the text has characters outside a-z and space: clean it with text8() first")
    return np.where(raw == 32, 0, raw - 96)


def decode_characters(ids: np.ndarray) -> str:
    """The text of ids over :data:`ALPHABET`."""
    return "".join(np.array(list(ALPHABET))[np.asarray(ids)])


def wrap(pieces: list[np.ndarray], length: int) -> np.ndarray:
    """Join pieces of ids and cut them into rows: (n, length); the tail that fills no row is dropped.

    Raises :class:`ReprobookError` for no text, or for a text shorter than one row.
    """
    if length < 1:
        raise ReprobookError(f"the context length must be at least 1, got {length}")
    joined = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
    if not joined.size:
        raise ReprobookError("the corpus is empty: no text is left to cut into contexts")
    if joined.size < length:
        raise ReprobookError(
            f"the text has {joined.size} tokens, less than one context of {length}: use more text or a shorter context"
        )
    return joined[: joined.size // length * length].reshape(-1, length)
