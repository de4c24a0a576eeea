"""``reprobook new``: a small working chapter in all rooms, for its author to replace part by part."""

from __future__ import annotations

import re
from pathlib import Path

from reprobook.authoring import template
from reprobook.authoring.check import UNKNOWN_ARXIV
from reprobook.errors import ReprobookError
from reprobook.project import PARTS, SLUGS, atomic_write, chapters, root


def new(slug: str) -> list[Path]:
    """Write the files of chapter ``slug`` and enter it in contents and bibliography; returns what was written.

    The notebook is not executed yet (``reprobook refresh``). Raises :class:`ReprobookError` if ``slug`` is not a
    chapter of this book or one of its files exists.
    """
    if slug not in SLUGS:
        raise ReprobookError(f"{slug!r} is not a chapter of this book; chapters: {', '.join(SLUGS)}")
    base, texts = root(), files(slug)
    there = [path for path in texts if (base / path).exists()]
    if there:
        raise ReprobookError(f"{', '.join(there)} exists already: a new chapter overwrites nothing")
    for path, text in texts.items():
        atomic_write(base / path, text)
    return [*(base / path for path in texts), *_enter(slug)]


def files(slug: str) -> dict[str, str]:
    """Path -> text of every file that belongs to the chapter alone."""
    texts = {
        f"book/papers/{slug}.yaml": template.FACTS,
        f"data_manifests/{slug}.yaml": template.MANIFEST,
        f"notebooks/params/{slug}.laptop.yaml": template.LAPTOP,
        f"notebooks/params/{slug}.paper.yaml": template.PAPER,
        f"notebooks/params/{slug}.rehearsal.yaml": template.REHEARSAL,
        f"lib/reprobook/papers/{slug}.py": template.METHOD,
        f"lib/tests/papers/test_{slug}.py": template.TESTS,
    }
    return {path: _named(text, slug) for path, text in texts.items()} | {f"notebooks/{slug}.ipynb": _notebook(slug)}


def _named(text: str, slug: str) -> str:
    return text.replace("SLUG", slug).replace("ARXIV", UNKNOWN_ARXIV)


def _notebook(slug: str) -> str:
    import nbformat
    from nbformat import v4

    from reprobook.authoring.notebook import normalise

    cells = []
    text = _named(template.NOTEBOOK, slug)
    for kind, source in re.findall(r"^%% (\S+)\n(.*?)(?=^%% |\Z)", text, re.MULTILINE | re.DOTALL):
        make = v4.new_markdown_cell if kind == "markdown" else v4.new_code_cell
        tags = {} if kind in ("markdown", "code") else {"tags": [kind]}
        cells.append(make(source.strip(), metadata=tags))
    return nbformat.writes(normalise(v4.new_notebook(cells=cells))) + "\n"


def _enter(slug: str) -> list[Path]:
    """Enter the chapter in ``book/_toc.yml`` and ``book/references.bib``; returns those that exist and changed."""
    changed = []
    contents, bibliography = root() / "book" / "_toc.yml", root() / "book" / "references.bib"
    if contents.is_file():
        atomic_write(contents, in_contents(contents.read_text("utf-8"), slug))
        changed.append(contents)
    if bibliography.is_file():
        text = bibliography.read_text("utf-8")
        if f"{{{slug}," not in text:
            atomic_write(bibliography, text.rstrip("\n") + "\n" + _named(template.BIBLIOGRAPHY, slug))
            changed.append(bibliography)
    return changed


def in_contents(text: str, slug: str) -> str:
    """The contents with ``slug`` in its part, in the order of the book; a part that was a comment comes alive."""
    part = next(name for name, slugs in PARTS.items() if slug in slugs)
    entries = "".join(f"      - file: notebooks/{name}\n" for name in PARTS[part] if name in {*chapters(), slug})
    pattern = rf"^  (?:# )?- caption: {re.escape(part)}\n(?:    chapters:\n)?(?:      - file: .*\n)*"
    found, n = re.subn(pattern, f"  - caption: {part}\n    chapters:\n{entries}", text, count=1, flags=re.MULTILINE)
    if not n:
        raise ReprobookError(f"book/_toc.yml has no part {part!r}: add a line '  # - caption: {part}'")
    return found
