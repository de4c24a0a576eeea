"""``reprobook new``: the example chapter under the name of a new one, for its author to replace part by part."""

from __future__ import annotations

import re
from pathlib import Path

from reprobook.authoring.notebook import normalise
from reprobook.errors import ReprobookError
from reprobook.project import PARTS, SLUGS, atomic_write, chapters, read_text, root

EXAMPLE = Path(__file__).parent / "example"
NAME = "example_paper"
PLACES = {"papers": "lib/reprobook/papers", "tests": "lib/tests/papers"}  # other folders are named as in the checkout
BIBLIOGRAPHY = "book/references.bib"  # goes into the one that is there


def new(slug: str) -> list[Path]:
    """Write the files of chapter ``slug`` and enter it in contents and bibliography; returns what was written.

    The notebook is not executed yet (``reprobook refresh``). Raises :class:`ReprobookError` if ``slug`` is not a
    chapter of this book or one of its files exists.
    """
    if slug not in SLUGS:
        raise ReprobookError(f"{slug!r} is not a chapter of this book; chapters: {', '.join(SLUGS)}")
    base, texts = root(), files(slug)
    bibliography = texts.pop(BIBLIOGRAPHY)
    there = [path for path in texts if (base / path).exists()]
    if there:
        raise ReprobookError(f"{', '.join(there)} exists already: a new chapter overwrites nothing")
    for path, text in texts.items():
        atomic_write(base / path, text)
    return [*(base / path for path in texts), *_enter(slug, bibliography)]


def notebook(slug: str) -> str:
    """The example's notebook as chapter ``slug`` has it."""
    return _named(EXAMPLE / "notebooks" / f"{NAME}.ipynb", slug)


def files(slug: str) -> dict[str, str]:
    """Path -> text of every file of the example, as chapter ``slug`` has them."""
    import nbformat

    found = {BIBLIOGRAPHY: _named(EXAMPLE / BIBLIOGRAPHY, slug)}
    for file in sorted(EXAMPLE.rglob("*")):
        place, *rest = file.relative_to(EXAMPLE).parts
        path = "/".join([PLACES.get(place, place), *rest])
        if NAME in path and file.is_file() and "__pycache__" not in rest:
            found[path.replace(NAME, slug)] = _named(file, slug)
    notebook = f"notebooks/{slug}.ipynb"
    return found | {notebook: nbformat.writes(normalise(nbformat.reads(found[notebook], as_version=4))) + "\n"}


def _named(file: Path, slug: str) -> str:
    """The text of ``file`` about ``slug``, its imports in their new order."""
    text = file.read_text("utf-8").replace("reprobook.authoring.example.papers", "reprobook.papers").replace(NAME, slug)
    return re.sub(
        r"(?:^from reprobook.*\n)+", lambda found: "".join(sorted(found[0].splitlines(True))), text, flags=re.M
    )


def _enter(slug: str, entry: str) -> list[Path]:
    """Enter the chapter in ``book/_toc.yml`` and ``book/references.bib``; returns those that exist and changed."""
    changed = []
    contents, bibliography = root() / "book" / "_toc.yml", root() / BIBLIOGRAPHY
    if contents.is_file():
        atomic_write(contents, in_contents(read_text(contents, "book/_toc.yml"), slug))
        changed.append(contents)
    if bibliography.is_file():
        text = read_text(bibliography, BIBLIOGRAPHY)
        if f"{{{slug}," not in text:
            atomic_write(bibliography, f"{text.rstrip()}\n\n{entry}")
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
