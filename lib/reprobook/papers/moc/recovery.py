"""The regex-guided output of a meta-chunker (Section 3.2.3) and the way back to the text (Section 3.2.4).

A chunk is written as start + marker + end. The paper's recovery turns the marker into ``.*?`` and searches; where that
finds nothing, both anchors are replaced by the window of the text with the smallest edit distance. The robust recovery
beside it is this chapter's own: it looks for one anchor behind the other and returns *cuts*, so that the chunks are
always the text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.papers.moc.corpora import Cuts

MARKERS = ("<omitted>", "<ellipsis>", "[MASK]", "[ELLIPSIS]", ".*?", "<...>", "<.*>", "<pad>")
TOLERANCE = 0.34  # edits of an anchor, as a share of its length, up to which the robust recovery accepts it


class Anchors(NamedTuple):
    """Beginning and end of a chunk as a model wrote them; ``end`` is empty for a chunk written out."""

    start: str
    end: str


# ------------------------------------------------------------------------------------------------ writing


def rendered(chunks: Sequence[str], marker: str, words: int = 3, language: str = "en") -> list[str]:
    """Each chunk as its first and last ``words`` words (Chinese: twice as many characters) around the marker; a chunk
    that this would not shorten is written out. How many the paper keeps is not stated."""
    if marker not in MARKERS or words < 1:
        raise ReprobookError(f"marker {marker!r} must be one of {', '.join(MARKERS)}, and words ({words}) at least 1")
    pattern = r"\S+" if language == "en" else r"\S"
    n, found = words if language == "en" else 2 * words, []
    for chunk in chunks:
        at = [match.span() for match in re.finditer(pattern, chunk)]
        if len(at) <= 2 * n:
            found.append(chunk.strip())
        else:
            found.append(chunk[at[0][0] : at[n - 1][1]] + marker + chunk[at[-n][0] : at[-1][1]])
    return found


def as_json(elements: Sequence[str]) -> str:
    """The list as a model is to write it."""
    return json.dumps(list(elements), ensure_ascii=False)


def parsed(reply: str) -> list[str] | None:
    """The elements of a reply; None if it holds no JSON list of texts. What stands around the list is ignored."""
    begin, end = reply.find("["), reply.rfind("]")
    try:
        found = json.loads(reply[begin : end + 1]) if 0 <= begin < end else None
    except ValueError:
        return None
    is_texts = isinstance(found, list) and found and all(isinstance(each, str) and each for each in found)
    return found if is_texts else None


def split(element: str, marker: str) -> Anchors:
    """The anchors of an element, taken apart at its first marker."""
    start, _, end = element.partition(marker)
    return Anchors(start, end)


# ------------------------------------------------------------------------------------------------ the paper's way


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance by the paper's table ab[i][j], in plain Python: the slow way of the benchmark."""
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b, start=1):
            row.append(above[j - 1] if x == y else 1 + min(above[j - 1], above[j], row[j - 1]))
        above = row
    return above[-1]


def nearest_window(text: str, anchor: str) -> str:
    """The window of ``text`` as long as ``anchor`` with the smallest edit distance to it, the first of equals;
    distances come from rapidfuzz."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    size = len(anchor)
    if not size or size >= len(text):
        return text if size else ""
    if anchor in text:
        return anchor
    windows = [text[k : k + size] for k in range(len(text) - size + 1)]
    return windows[int(cdist([anchor], windows, scorer=Levenshtein.distance, dtype=np.int32)[0].argmin())]


def recover_paper(text: str, elements: Sequence[str], marker: str, released: bool = False) -> list[str | None]:
    """Section 3.2.4, element by element: the marker becomes ``.*?`` and the first match counts; without one, both
    anchors are replaced by their nearest windows, of which only brackets are escaped, and searched once more. None:
    lost (the paper asks a language model then). An element without a marker stays as it is if the text holds it; else
    its nearest window counts. ``released``: the code's ``findall``, which gives the *group* where an anchor has
    balanced parentheses.

    Every chunk is searched from the beginning of the text: chunks may overlap, leave gaps and go backwards."""
    found: list[str | None] = []
    for element in elements:
        if marker not in element:
            found.append(element if element in text else nearest_window(text, element) or None)
            continue
        chunk = _first_match(text, element.replace(marker, ".*?"), released)
        if chunk is None:
            start, end = (nearest_window(text, anchor) for anchor in split(element, marker))
            brackets = re.compile(r"([\[\]])")
            chunk = _first_match(text, ".*?".join(brackets.sub(r"\\\1", each) for each in (start, end)), released)
        found.append(chunk)
    return found


def _first_match(text: str, pattern: str, released: bool) -> str | None:
    try:
        match = re.search(pattern, text, re.DOTALL)
    except re.error:
        return None
    if match is None:
        return None
    return (match.group(1) or "") if released and match.re.groups else match.group() or None


# ------------------------------------------------------------------------------------------------ a robust way


def ends_of(text: str, anchor: str) -> np.ndarray:
    """Edit distance (n + 1,) of ``anchor`` to the nearest stretch of ``text`` that ends before each character: semi-
    global alignment (Sellers, 1980), a row of the table at a time."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    steps = np.arange(len(text) + 1)
    row = np.zeros(len(text) + 1, np.int64)
    for i, letter in enumerate(anchor, start=1):
        new = row + 1  # the letter of the anchor is missing in the text
        new[1:] = np.minimum(new[1:], row[:-1] + (codes != ord(letter)))
        new[0] = i
        row = np.minimum.accumulate(new - steps) + steps  # letters of the text that the anchor has not
    return row


def _first_end(text: str, anchor: str) -> int | None:
    """End of the first stretch nearest to ``anchor``; None if even that takes too many edits."""
    if (at := text.find(anchor)) >= 0:
        return at + len(anchor)
    row = ends_of(text, anchor)
    return int(row.argmin()) if row.min() <= TOLERANCE * len(anchor) else None


def _first_begin(text: str, anchor: str) -> int | None:
    """Beginning of the first stretch nearest to ``anchor``: of its mirror image the last end."""
    if (at := text.find(anchor)) >= 0:
        return at
    row = ends_of(text[::-1], anchor[::-1])
    return len(text) - int(np.flatnonzero(row == row.min())[-1]) if row.min() <= TOLERANCE * len(anchor) else None


def recover_robust(text: str, elements: Sequence[Anchors] | Sequence[tuple[str, str]], reach: int = 4000) -> Cuts:
    """Cuts of the text by anchors in their order. Each is looked for behind what was found last, not further than
    ``reach`` characters on; edits are allowed for; a chunk begins where its start was found, else where the chunk
    before it ended; what no chunk claims belongs to the chunk before it."""
    cuts: list[int] = []
    at = 0
    for k, (start, end) in enumerate(elements):
        window = text[at : at + reach]
        begin = _first_begin(window, start.strip()) if start.strip() else None
        if begin is not None and k:
            cuts.append(at + begin)
        elif k:
            cuts.append(at)
        behind = at + (begin + len(start.strip()) if begin is not None else 0)
        stop = _first_end(text[behind : behind + reach], end.strip()) if end.strip() else 0
        at = min(len(text), behind + stop if stop is not None else behind)
        while at < len(text) and text[at] == " ":
            at += 1
    return tuple(sorted({cut for cut in cuts if 0 < cut < len(text)}))


def recovered(text: str, elements: Sequence[str], marker: str) -> Cuts:
    """The robust recovery of a parsed reply."""
    return recover_robust(
        text, [split(each, marker) if marker in each else (each[:30], each[-30:]) for each in elements]
    )


# ------------------------------------------------------------------------------------------------ noise


def garbled(elements: Sequence[str], marker: str, rate: float, rng: np.random.Generator) -> list[str]:
    """The elements with errors in their anchors: each character is replaced, left out or followed by another one, a
    third of the ``rate`` each. Markers stay as they are."""
    if not 0 <= rate <= 1:
        raise ReprobookError(f"the error rate is {rate}; it must be in [0, 1]")
    letters = "abcdefghijklmnopqrstuvwxyz"
    found = []
    for element in elements:
        parts = []
        for part in element.split(marker):
            u, other = rng.random(len(part)), rng.integers(0, 26, len(part))
            kinds = np.where(u < rate, (3 * u / max(rate, 1e-12)).astype(int), 3)
            written = [
                {0: letters[o], 1: "", 2: c + letters[o], 3: c}[k] for c, o, k in zip(part, other, kinds, strict=True)
            ]
            parts.append("".join(written) or part)
        found.append(marker.join(parts))
    return found


class Recovery(NamedTuple):
    """What became of a chunking: share of ``exact`` chunks, share of the text ``covered``, characters told more than
    once as a share of the text (``twice``), share of chunks ``lost``."""

    exact: float
    covered: float
    twice: float
    lost: float


def judged(text: str, chunks: Sequence[str], found: Sequence[str | None]) -> Recovery:
    """Compare recovered chunks with the true ones, blanks at their ends aside; None is a lost one. A chunk that stands
    in the text more than once is taken to be the first that is not covered yet."""
    true = [chunk.strip() for chunk in chunks]
    told = np.zeros(len(text), int)
    for each in found:
        if each and each.strip():
            places = [m.start() for m in itertools.islice(re.finditer(re.escape(each.strip()), text), 50)]
            begin = next((at for at in places if not told[at]), places[0])
            told[begin : begin + len(each.strip())] += 1
    blank = np.array([c.isspace() for c in text])
    same = sum(a == b for a, b in zip(true, [(each or "").strip() for each in found], strict=False))
    return Recovery(
        same / len(true), float((told > 0)[~blank].mean()), float(np.maximum(told - 1, 0)[~blank].mean()),
        sum(not each for each in found) / max(1, len(found)),
    )  # fmt: skip
