"""Documents whose true boundaries are known, and questions whose evidence is known.

Three corpora: sections of articles of English Wikipedia, joins of passages of different articles, and a reference
manual whose English and Chinese editions have the same sections. A document is its text and the characters at which a
new segment begins; a chunking is a list of such characters as well, so nothing can be lost or told twice.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reprobook.data.text import visible_text, wikipedia_articles
from reprobook.errors import ReprobookError

Cuts = tuple[int, ...]  # characters at which a new chunk begins, rising, without 0 and the end
LANGUAGES = ("en", "zh")
LONGEST = 600  # characters of a sentence; text without marks is cut there
_ENDS = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9\"'(\[])|(?<=[。！？；…])[」』”’）)]*\s*")
_HEADING = re.compile(r"^==+ *(.*?) *==+ *$", re.MULTILINE)
_NO_PROSE = re.compile(r"^[ =*#:;|!{}].*$", re.MULTILINE)
_EMPTY_TALK = re.compile(r"see also|references|external links|notes|further reading|bibliography|sources", re.I)


@dataclass(frozen=True)
class Document:
    """``cuts``: where its segments begin; ``titles``: one for each segment; ``group``: what it was taken from, the unit
    of resampling; ``language``: ``en`` or ``zh``."""

    id: str
    text: str
    cuts: Cuts
    titles: tuple[str, ...]
    group: str
    language: str = "en"

    def __post_init__(self) -> None:
        check(self.text, self.cuts)
        if len(self.titles) != len(self.cuts) + 1:
            raise ReprobookError(f"{self.id}: {len(self.titles)} titles for {len(self.cuts) + 1} segments")
        if self.language not in LANGUAGES:
            raise ReprobookError(f"language {self.language!r} must be one of {', '.join(LANGUAGES)}")

    @functools.cached_property
    def sentences(self) -> np.ndarray:
        """Characters at which its sentences begin, 0 and the end among them; every segment begins a sentence."""
        return np.union1d(borders(self.text), self.cuts).astype(int)

    @functools.cached_property
    def words(self) -> np.ndarray:
        """Characters at which words (Chinese: characters) begin, and the end: the unit of length."""
        return word_borders(self.text, self.language)

    def size(self, begin: int = 0, end: int | None = None) -> int:
        """Words (Chinese: characters) that begin in characters [begin, end)."""
        last = len(self.text) if end is None else end
        return int(np.searchsorted(self.words[:-1], last) - np.searchsorted(self.words[:-1], begin))


def check(text: str, cuts: Sequence[int]) -> None:
    """Raise :class:`ReprobookError` unless ``cuts`` rise and lie inside of a text that is not empty."""
    if not text.strip():
        raise ReprobookError("the document is empty: there is nothing to cut")
    bounds = [0, *cuts, len(text)]
    if any(a >= b for a, b in itertools.pairwise(bounds)):
        raise ReprobookError(f"cuts {list(cuts)[:6]} must rise and lie between 0 and {len(text)}")


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    """The chunks of a text; joined they are the text."""
    bounds = [0, *cuts, len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


def spans(text: str, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """First character and end of each chunk."""
    return list(zip([0, *cuts], [*cuts, len(text)], strict=True))


def borders(text: str, longest: int = LONGEST) -> np.ndarray:
    """Characters at which sentences begin, 0 and the end among them, by the marks of both scripts. The blank behind a
    sentence belongs to it; what has no mark within ``longest`` characters is cut behind the last blank before that, or
    there."""
    found = np.array([0, *(m.end() for m in _ENDS.finditer(text)), len(text)])
    found = np.unique(found)
    more: list[int] = []
    for k in np.flatnonzero(np.diff(found) > longest).tolist():
        at, end = int(found[k]), int(found[k + 1])
        while end - at > longest:
            blank = text.rfind(" ", at + 1, at + longest)
            at = blank + 1 if blank > at else at + longest
            more.append(at)
    return np.union1d(found, more).astype(int)


def word_borders(text: str, language: str) -> np.ndarray:
    """Characters at which words begin (Chinese: characters that are no blanks), and the end."""
    pattern = r"\S+" if language == "en" else r"\S"
    return np.array([*(m.start() for m in re.finditer(pattern, text)), len(text)])


# ------------------------------------------------------------------------------------------------- real texts


@dataclass(frozen=True)
class Segment:
    """A passage with a heading; ``group``: the article or the chapter it stands in."""

    title: str
    text: str
    group: str


def wikipedia_paragraphs(path: str | Path, least: int = 12) -> list[Segment]:
    """Paragraphs of at least ``least`` words of the Wikipedia extract, in order, under the heading of their section."""
    found = []
    for article in wikipedia_articles(path):
        text = visible_text(article.markup).replace("'''", "").replace("''", "")
        parts = _HEADING.split(text)
        for title, body in zip([article.title, *parts[1::2]], parts[::2], strict=True):
            if _EMPTY_TALK.fullmatch(title.strip()):
                continue
            for line in _NO_PROSE.sub("", body).split("\n"):
                if len((clean := _clean(line)).split()) >= least and clean[-1] in ".!?\"')":
                    name = title if title == article.title else f"{article.title}: {title}"
                    found.append(Segment(name, clean, article.title))
    return found


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\(\s*[;,]?\s*\)", "", text)).replace(" ,", ",").replace(" .", ".").strip()


def sections(paragraphs: Iterable[Segment]) -> list[Segment]:
    """Neighbouring paragraphs under the same heading as one segment."""
    found: list[Segment] = []
    for each in paragraphs:
        if found and (found[-1].title, found[-1].group) == (each.title, each.group):
            found[-1] = Segment(each.title, f"{found[-1].text} {each.text}", each.group)
        else:
            found.append(each)
    return found


def manual(path: str | Path, language: str) -> list[Segment]:
    """The bundled manual: its sections in the order of the book, one language; ``group`` is the chapter."""
    rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return [Segment(row[language]["title"], row[language]["text"], f"{row['chapter']}") for row in rows]


def manual_rows(folder: str | Path) -> str:
    """JSON lines of the bundled manual, from the XHTML pages of the manual's two packages: of every section that both
    have and whose own paragraphs are prose, chapter, name, and titles and texts in both languages."""
    editions = {language: dict(_xhtml(Path(folder), suffix)) for language, suffix in (("en", "en"), ("zh", "zh-cn"))}
    rows = []
    for (chapter, name), english in editions["en"].items():
        chinese = editions["zh"].get((chapter, name))
        if chinese and len(english["text"].split()) >= 12 and len(chinese["text"]) >= 12:
            rows.append({"chapter": chapter, "name": name, "en": english, "zh": chinese})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _xhtml(folder: Path, suffix: str) -> Iterator[tuple[tuple[str, str], dict[str, str]]]:
    tag = "{http://www.w3.org/1999/xhtml}"
    for page in sorted(folder.glob(f"ch*.{suffix}.html")):
        for section in ET.parse(page).iter(f"{tag}div"):
            if section.get("class") != "section":
                continue
            own = [each for part in section if part.get("class") != "section" for each in part.iter(f"{tag}p")]
            head = next(each for each in section.iter() if each.get("class") == "title")
            name = next(each for each in head.iter(f"{tag}a")).get("id", "")
            text = " ".join(_clean("".join(each.itertext())) for each in own)
            title = re.sub(r"^[\d.]+\s*", "", _clean("".join(head.itertext())))
            yield (page.name[2:4], name), {"title": title, "text": text.strip()}


# ------------------------------------------------------------------------------------------------- documents


def clipped(segment: Segment, most: int, language: str) -> Segment:
    """The segment's sentences within its first ``most`` words (Chinese: characters), at least one."""
    words = word_borders(segment.text, language)
    if len(words) - 1 <= most:
        return segment
    ends = borders(segment.text)[1:]
    fitting = ends[ends <= words[most]]
    end = int(fitting[-1] if len(fitting) else ends[0])
    return Segment(segment.title, segment.text[:end].strip(), segment.group)


def document(name: str, parts: Sequence[Segment], language: str = "en", group: str | None = None) -> Document:
    """Segments joined by a blank (Chinese: by nothing)."""
    blank = " " if language == "en" else ""
    texts = [part.text.strip() + blank for part in parts]
    texts[-1] = texts[-1].rstrip()
    ends = np.cumsum([len(text) for text in texts]).tolist()
    titles = tuple(part.title for part in parts)
    return Document(name, "".join(texts), tuple(ends[:-1]), titles, group or parts[0].group, language)


def consecutive(segments: Sequence[Segment], size: int, clip: int, language: str = "en") -> list[Document]:
    """Documents of neighbouring segments of one group, of about ``size`` words (Chinese: characters); those of fewer
    than three segments are left out. Each segment is clipped to 0.4 to 1.6 times ``clip`` words, drawn: were they all
    of one length, cutting at that length would find their ends without reading."""
    found, part, total = [], list[Segment](), 0
    widths = np.random.default_rng(0).uniform(0.4, 1.6, len(segments))
    for k, each in enumerate(segments):
        short = clipped(each, round(clip * widths[k]), language)
        part.append(short)
        total += len(word_borders(short.text, language)) - 1
        last = k + 1 == len(segments) or segments[k + 1].group != each.group
        if total >= size or last:
            if len(part) >= 3 and total >= size / 2:
                found.append(document(f"{each.group}/{k}", part, language))
            part, total = [], 0
    return found


def joins(segments: Sequence[Segment], n: int, n_segments: int, clip: int, seed: int = 0) -> list[Document]:
    """``n`` documents, each of passages of ``n_segments`` different groups, clipped as in :func:`consecutive`; no
    passage comes twice."""
    rng = np.random.default_rng([seed, n_segments])
    groups: dict[str, list[Segment]] = {}
    for k in rng.permutation(len(segments)).tolist():
        groups.setdefault(segments[k].group, []).append(segments[k])
    found = []
    for k in range(n):
        left = [name for name, waiting in groups.items() if waiting]
        if len(left) < n_segments:
            raise ReprobookError(f"{len(left)} articles are left for a join of {n_segments}: take fewer joins")
        names, widths = rng.choice(left, n_segments, replace=False).tolist(), rng.uniform(0.4, 1.6, n_segments)
        parts = [clipped(groups[name].pop(), round(clip * w), "en") for name, w in zip(names, widths, strict=True)]
        found.append(document(f"join {k}", parts, group=f"{k}"))
    return found


def chosen(documents: Sequence[Document], n: int, seed: int) -> list[Document]:
    """``n`` documents of a fixed shuffle, first one of every group, then a second one of those that have it, and so on;
    seeds take turns, so that the first ones share neither documents nor, while there are enough, groups.

    Raises :class:`ReprobookError` if there are fewer than ``n``."""
    if not 1 <= n <= len(documents):
        raise ReprobookError(f"{n} documents are wanted; there are 1 to {len(documents)}")
    order = np.random.default_rng(0).permutation(len(documents)).tolist()
    seen = Counter[str]()
    turn = {}
    for k in order:
        turn[k] = seen[documents[k].group]
        seen[documents[k].group] += 1
    order.sort(key=turn.__getitem__)
    return [documents[order[k % len(documents)]] for k in range(seed * n, seed * n + n)]


# ------------------------------------------------------------------------------------------------- windows


def windows(texts: Sequence[str], size: int, split: Callable[[list[str]], list[Cuts]]) -> list[Cuts]:
    """Cuts of long texts by a chunker for short ones, ``split(pieces) -> cuts``: a sliding window with the paper's
    chunk buffer. Whole sentences are packed up to ``size`` characters; the last chunk of a window begins the next one,
    and a window of one chunk is a chunk. All texts are asked about together, round by round.

    The windows hand on positions and no text, so nothing is lost or told twice."""
    if size < 1:
        raise ReprobookError(f"the size of a window is {size}; it must be at least 1")
    ends = [borders(text, min(LONGEST, size)) for text in texts]
    found, at = [list[int]() for _ in texts], [0] * len(texts)
    while going := [k for k, text in enumerate(texts) if at[k] < len(text)]:
        last = [_window_end(ends[k], at[k], size) for k in going]
        made = split([texts[k][at[k] : end] for k, end in zip(going, last, strict=True)])
        for k, end, cuts in zip(going, last, made, strict=True):
            inner = [at[k] + cut for cut in cuts]
            done = end == len(texts[k])
            found[k] += inner or ([] if done else [end])
            at[k] = end if done else found[k][-1]
    return [tuple(each) for each in found]


def _window_end(ends: np.ndarray, at: int, size: int) -> int:
    first = int(np.searchsorted(ends, at, side="right"))
    return int(ends[max(first, int(np.searchsorted(ends, at + size, side="right")) - 1)])


# ------------------------------------------------------------------------------------------------- questions


@dataclass(frozen=True)
class Question:
    """``kind``: ``heading`` (the title of a segment, whose text is the evidence) or ``statement`` (the first half of a
    sentence; the second half is the answer, and the sentence with its neighbours in its segment the evidence).
    ``span``: the evidence, ``said``: the sentence itself, in characters of the document."""

    kind: str
    document: str
    text: str
    answer: str
    span: tuple[int, int]
    said: tuple[int, int]


def heading_questions(document: Document) -> list[Question]:
    """One for each segment; of titles that come twice only the first."""
    found: dict[str, Question] = {}
    for title, span in zip(document.titles, spans(document.text, document.cuts), strict=True):
        found.setdefault(title, Question("heading", document.id, title, "", span, span))
    return list(found.values())


def statement_questions(document: Document, n: int, seed: int = 0, least: int = 12) -> list[Question]:
    """Up to ``n`` sentences of at least ``least`` words (Chinese: characters), of different segments as long as there
    are any, split behind their middle word; the evidence reaches one sentence to either side within the segment."""
    inner, bounds = document.sentences, np.array([0, *document.cuts, len(document.text)])
    found: list[list[Question]] = [[] for _ in bounds[1:]]
    for k, (begin, end) in enumerate(zip(inner[:-1].tolist(), inner[1:].tolist(), strict=True)):
        words = document.words[(document.words >= begin) & (document.words < end)]
        if len(words) < least:
            continue
        middle = int(words[len(words) // 2])
        segment = int(np.searchsorted(bounds, begin, side="right")) - 1
        first = max(int(inner[max(k - 1, 0)]), int(bounds[segment]))
        last = min(int(inner[min(k + 2, len(inner) - 1)]), int(bounds[segment + 1]))
        asked, answer = document.text[begin:middle].strip(), document.text[middle:end].strip()
        found[segment].append(Question("statement", document.id, asked, answer, (first, last), (begin, end)))
    rng = np.random.default_rng([seed, len(document.text)])
    for part in found:
        rng.shuffle(part)
    depth = max(map(len, found), default=0)
    order = [part[k] for k in range(depth) for part in (found[j] for j in rng.permutation(len(found))) if len(part) > k]
    return order[:n]
