"""Documents whose true boundaries are known, and questions whose evidence is known.

Three corpora: paragraphs of articles of English Wikipedia, joins of paragraphs of different articles, and a reference
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
from dataclasses import dataclass, replace
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


def wikipedia_runs(path: str | Path, least: int, most: int) -> list[list[Segment]]:
    """Runs of neighbouring paragraphs of ``least`` to ``most`` words of the Wikipedia extract, each under the heading
    of its section. A run ends where something else stands between two of them: a longer or a shorter paragraph, a list,
    another article. So inside of a run nothing is left out but headings, tables and pictures."""
    found: list[list[Segment]] = []
    for article in wikipedia_articles(path):
        text = visible_text(article.markup).replace("'''", "").replace("''", "")
        parts = _HEADING.split(text)
        run: list[Segment] = []
        for title, body in zip([article.title, *parts[1::2]], parts[::2], strict=True):
            name = title if title == article.title else f"{article.title}: {title}"
            for line in filter(str.strip, body.split("\n")):
                clean = "" if _NO_PROSE.match(line) or _EMPTY_TALK.fullmatch(title.strip()) else _clean(line)
                if least <= len(clean.split()) <= most and clean[-1] in ".!?\"')":
                    run.append(Segment(name, clean, article.title))
                else:
                    found, run = [*found, run], []
        found.append(run)
    return [run for run in found if run]


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\(\s*[;,]?\s*\)", "", text)).replace(" ,", ",").replace(" .", ".").strip()


def manual_runs(path: str | Path, language: str, least: int, most: int) -> list[list[Segment]]:
    """The same of the bundled manual: whole neighbouring sections of a chapter, one language; ``group`` is the
    chapter."""
    found: list[list[Segment]] = []
    last = ""
    for line in Path(path).read_text("utf-8").splitlines():
        row = json.loads(line)
        each = Segment(row[language]["title"], row[language]["text"], f"{row['chapter']}")
        fits = least <= len(word_borders(each.text, language)) - 1 <= most
        if not fits or each.group != last or not found:
            found.append([])
        if fits:
            found[-1].append(each)
        last = each.group
    return [run for run in found if run]


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


def document(name: str, parts: Sequence[Segment], language: str = "en", group: str | None = None) -> Document:
    """Segments joined by a blank (Chinese: by nothing)."""
    blank = " " if language == "en" else ""
    texts = [part.text.strip() + blank for part in parts]
    texts[-1] = texts[-1].rstrip()
    ends = np.cumsum([len(text) for text in texts]).tolist()
    titles = tuple(part.title for part in parts)
    return Document(name, "".join(texts), tuple(ends[:-1]), titles, group or parts[0].group, language)


def documents(runs: Iterable[Sequence[Segment]], size: int, language: str = "en") -> list[Document]:
    """Whole neighbouring segments of a run, joined until they have ``size`` words (Chinese: characters); what is left
    over at the end of a run, and documents of fewer than three segments, are left out."""
    found: list[Document] = []
    for run in runs:
        part, total = list[Segment](), 0
        for each in run:
            part.append(each)
            total += len(word_borders(each.text, language)) - 1
            if total >= size:
                if len(part) >= 3:
                    found.append(document(f"{each.group}/{len(found)}", part, language))
                part, total = [], 0
    return found


def joins(segments: Sequence[Segment], n: int, n_segments: int, seed: int = 0) -> list[Document]:
    """``n`` documents, each of segments of ``n_segments`` different groups; no segment comes twice."""
    rng = np.random.default_rng([seed, n_segments])
    groups: dict[str, list[Segment]] = {}
    for k in rng.permutation(len(segments)).tolist():
        groups.setdefault(segments[k].group, []).append(segments[k])
    found = []
    for k in range(n):
        left = [name for name, waiting in groups.items() if waiting]
        if len(left) < n_segments:
            raise ReprobookError(f"{len(left)} articles are left for a join of {n_segments}: take fewer joins")
        parts = [groups[name].pop() for name in rng.choice(left, n_segments, replace=False).tolist()]
        found.append(document(f"join {k}", parts, group=f"{k}"))
    return found


PILOT = 90  # seeds from here on are for trying things out
PUBLISHED = 5  # seeds that share no article; further ones meet their documents again


def chosen(documents: Sequence[Document], n: int, seed: int) -> list[Document]:
    """``n`` documents. Every third is kept for the seeds from :data:`PILOT` on, so that what is tried out is never what
    is published; of an article with many, some are. What a seed may take is dealt out by groups, so that
    :data:`PUBLISHED` seeds share none, as far as documents go: the largest first, each to the seed that has the fewest.
    A seed takes one document of each of its articles before it takes a second one.

    Raises :class:`ReprobookError` if there are fewer than ``n``."""
    order = np.random.default_rng(0).permutation(len(documents)).tolist()
    seen, turn = Counter[str](), {}
    for k in order:
        turn[k] = seen[documents[k].group]
        seen[documents[k].group] += 1
    order.sort(key=turn.__getitem__)
    groups: dict[str, list[int]] = {}
    for rank, k in enumerate(order):
        if (rank % 3 == 2) == (seed >= PILOT):
            groups.setdefault(documents[k].group, []).append(k)
    total = sum(map(len, groups.values()))
    if not 1 <= n <= total:
        raise ReprobookError(f"{n} documents are wanted; there are 1 to {total}")
    for size in range(min(total // n, len(groups), PUBLISHED), 0, -1):
        hands = [list[int]() for _ in range(size)]
        for each in sorted(groups.values(), key=len, reverse=True):
            min(hands, key=len).extend(each)
        if min(map(len, hands)) >= n:
            break
    place = {k: at for each in groups.values() for at, k in enumerate(each)}
    hand = sorted(hands[(seed - PILOT if seed >= PILOT else seed) % size], key=place.__getitem__)
    return [documents[k] for k in hand[:n]]


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
    """Asked of ``document``: ``span``, the characters of its evidence there; ``answer`` where there is a right one."""

    document: str
    text: str
    span: tuple[int, int]
    answer: str = ""


@dataclass(frozen=True)
class Cloze:
    """A document without the sentences that ask for their place. ``at`` and ``new``: where every sentence of the whole
    document began (the end among them), and where it begins now."""

    document: Document
    questions: list[Question]
    at: np.ndarray
    new: np.ndarray

    def moved(self, cuts: Sequence[int]) -> Cuts:
        """Where cuts of the whole document stand here. A cut inside of a sentence that was taken out moves to its end;
        chunks of which nothing is left go."""
        found = np.unique(np.interp(cuts, self.at, self.new).astype(int))
        return tuple(found[(found > 0) & (found < len(self.document.text))].tolist())


def cloze(document: Document, n: int, seed: int = 0, least: int = 8) -> Cloze:
    """Inverse cloze: up to ``n`` sentences of at least ``least`` words (Chinese: characters) are taken out of a
    document, and each asks for the place where it stood: the sentence before and the one behind, whichever segments
    they stand in. So a question is nowhere in the text, and a cut may fall between the two halves of its evidence.

    Sentences are drawn; two lie three apart, so that no evidence is shared, and a segment never loses its last one.
    Chunkers cut the whole document; :meth:`Cloze.moved` takes their cuts over."""
    at, text = document.sentences, document.text
    owner = np.searchsorted(document.cuts, at[:-1], side="right")
    sizes = np.array([document.size(a, b) for a, b in itertools.pairwise(at.tolist())])
    left, taken = Counter(owner.tolist()), list[int]()
    for k in (np.random.default_rng([seed, len(text), 1]).permutation(len(sizes) - 2) + 1).tolist():
        apart = all(abs(k - other) >= 3 for other in taken)
        if len(taken) < n and apart and sizes[k] >= least and left[int(owner[k])] > 1:
            taken.append(k)
            left[int(owner[k])] -= 1
    gone = np.zeros(len(sizes), bool)
    gone[taken] = True
    new = np.concatenate([[0], np.where(gone, 0, np.diff(at)).cumsum()])
    kept = "".join(text[a:b] for (a, b), lost in zip(itertools.pairwise(at.tolist()), gone, strict=True) if not lost)
    cuts = tuple(new[np.searchsorted(at, document.cuts)].tolist())
    asked = [Question(document.id, text[at[k] : at[k + 1]].strip(), (int(new[k - 1]), int(new[k + 2])))
             for k in sorted(taken)]  # fmt: skip
    return Cloze(replace(document, text=kept, cuts=cuts), asked, at, new)
