"""Citations that read the same in JupyterLab and in the book: links to a list that follows from them.

An author writes ``{cite}`key` ``; ``reprobook refresh`` puts a link in its place and makes the list at the end.
"""

from __future__ import annotations

import copy
import functools
import re
from typing import TYPE_CHECKING, NamedTuple

from reprobook.errors import ReprobookError
from reprobook.project import root

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nbformat import NotebookNode
    from pybtex.database import Entry

HEADING = "## References"
_ROLE = re.compile(r"\{cite(?::\w)?\}`([^`]*)`")
LINK = re.compile(r"\[([^\]]*)\]\(#([\w-]+)\)")


class Source(NamedTuple):
    """One entry of ``book/references.bib``: ``name`` is "Ran and Shou", ``line`` its line in a list."""

    name: str
    year: str
    line: str


def readable(notebook: NotebookNode) -> NotebookNode:
    """A copy whose prose cites by links and whose last section lists what the prose cites; a second time changes
    nothing. Raises :class:`ReprobookError` for a key that ``book/references.bib`` does not have."""
    path = root() / "book" / "references.bib"
    known = _sources(path, path.stat().st_mtime_ns) if path.is_file() else {}
    result = copy.deepcopy(notebook)
    prose = [cell for cell in result.cells if cell.cell_type == "markdown"]
    for cell in prose:
        before, heading, _ = cell.source.partition(HEADING)
        cell.source = _linked(before, known) + heading
    keys = {key for cell in prose for _, key in LINK.findall(cell.source)}
    lines = [each.line for each in sorted(known[key] for key in keys if key in known)]
    for cell in prose:
        if cell.source.endswith(HEADING):
            cell.source = "\n".join([cell.source, "", *lines]).rstrip()
    return result


def in_page(markdown: str) -> str:
    """``markdown`` with links to lines of the list as HTML: Sphinx would look for targets of its own."""
    return LINK.sub(r'<a href="#\2">\1</a>', markdown)


def _linked(text: str, known: Mapping[str, Source]) -> str:
    def link(role: re.Match[str]) -> str:
        keys = [key.strip() for key in role[1].split(",")]
        if unknown := [key for key in keys if key not in known]:
            raise ReprobookError(f"book/references.bib has no entry {unknown[0]!r}")
        said = [", ".join(filter(None, (known[key].name, known[key].year))) for key in keys]
        return f"({'; '.join(f'[{text}](#{key})' for text, key in zip(said, keys, strict=True))})"

    for key, each in known.items():  # who is named already isn't named twice
        said = f"{each.name} ({each.year})"
        text = re.sub(rf"{re.escape(said)}\s\{{cite\}}`{key}`", f"[{said}](#{key})", text)
    return _ROLE.sub(link, text)


@functools.lru_cache(maxsize=4)
def _sources(path: Path, _stamp: int) -> Mapping[str, Source]:
    """Key -> entry of the bibliography at ``path``."""
    from pybtex.database import parse_file

    return {key: _source(key, entry) for key, entry in parse_file(str(path)).entries.items()}


def _source(key: str, entry: Entry) -> Source:
    fields = {name: _plain(value) for name, value in entry.fields.items()}
    people = [_plain(" ".join((*each.prelast_names, *each.last_names))) for each in entry.persons["author"]]
    name = " and ".join(people) if len(people) < 3 and "others" not in people else f"{people[0]} et al."
    arxiv = f"https://arxiv.org/abs/{fields['eprint']}" if "eprint" in fields else ""
    url, year = fields.get("url", arxiv), fields.get("year", "")
    title = f"[{fields['title']}]({url})" if url else fields["title"]
    place = next((f" {fields[kind]}." for kind in ("journal", "booktitle", "howpublished") if kind in fields), "")
    return Source(name, year, f'- <a id="{key}"></a>{name}{f" ({year})" if year else ""}. {title}.{place}')


def _plain(text: str) -> str:
    """LaTeX as Unicode, on one line."""
    from pybtex.richtext import Text

    return " ".join(str(Text.from_latex(text)).split())
