"""The site: the book's sources gathered under ``_build/source`` and built into ``_build/html``.

Gathering has two reasons: ``make book`` shows notebooks that were executed here while the stored ones stay as they are,
and Sphinx never looks at the environment or at run folders.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reprobook import project
from reprobook.authoring import pages
from reprobook.authoring.page import as_page
from reprobook.authoring.standing import standings
from reprobook.errors import ReprobookError

SOURCES = (
    "_config.yml", "book/*.md", "book/*.bib", "book/_toc.yml", "book/plans/*.yaml", "book/_generated/*.md",
    "book/_static/**/*",
)  # fmt: skip


def gather(executed: bool = False) -> Path:
    """Bring ``_build/source`` up to date and return it; ``executed``: with notebooks run here at smoke scale.

    A file is written only if its content changed, so that a second build has little to do.
    """
    import nbformat

    chapters = standings()
    pages.write_generated(chapters)
    root, target = project.root(), project.root() / "_build" / "source"
    wanted = {
        path.relative_to(root): path.read_bytes() for glob in SOURCES for path in root.glob(glob) if path.is_file()
    }
    for chapter in chapters:
        path = project.notebook_path(chapter.slug)
        stored = _executed(chapter.slug) if executed else path.read_bytes()
        page, hero = as_page(nbformat.reads(stored.decode(), as_version=4), chapter)
        wanted[path.relative_to(root)] = nbformat.writes(page).encode()
        if hero:
            wanted[path.relative_to(root).with_suffix(".hero.png")] = hero
    for suffix in ("json", "csv"):
        file = Path("book/_static") / f"scoreboard.{suffix}"
        wanted[file] = (root / "book" / "_generated" / file.name).read_bytes()
    for old in [path for path in target.rglob("*") if path.is_file() and path.relative_to(target) not in wanted]:
        old.unlink()
    for name, content in wanted.items():
        if not (target / name).is_file() or (target / name).read_bytes() != content:
            project.atomic_write(target / name, content)
            if "_static" in name.parts:  # Sphinx copies static files only together with a page that changed
                shutil.rmtree(root / "_build" / "html", ignore_errors=True)
    return target


def _executed(slug: str) -> bytes:
    """The chapter as executed on this machine, run now unless it is complete already and no cell changed since."""
    from reprobook.runs.runner import run

    result = run(slug, "smoke")
    if result.status == "skipped" and _sources(result.folder / "notebook.ipynb") != _sources(
        project.notebook_path(slug)
    ):
        result = run(slug, "smoke", again=True)  # prose or a picture changed: the numbers, and so the run, did not
    if result.status == "failed":
        raise ReprobookError(f"{slug} failed at smoke scale: {result.where} (log: {result.folder / 'log.txt'})")
    return normalised(result.folder / "notebook.ipynb")


def normalised(path: Path) -> bytes:
    """The notebook without papermill's banners, times and paths."""
    import nbformat

    from reprobook.authoring.notebook import normalise

    return nbformat.writes(normalise(nbformat.read(path, as_version=4))).encode()


def _sources(path: Path) -> list[Any]:
    """Sources of all cells but papermill's own."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    own = [cell for cell in cells if "injected-parameters" not in cell["metadata"].get("tags", [])]
    return ["".join(cell["source"]) for cell in own]


def build(source: Path, output: Path) -> Path:
    """Build ``source`` with warnings as errors; returns the folder with ``index.html``.

    Raises :class:`ReprobookError` if Sphinx complains or a page of a chapter is missing."""
    jupyter_book = "import reprobook.authoring; from jupyter_book.cli.main import main; main()"
    call: list[str | Path] = [sys.executable, "-P", "-c", jupyter_book, "build", source, "--path-output", output]
    call += ["--toc", source / "book" / "_toc.yml", "--quiet", "-W", "-n", "--keep-going"]
    if subprocess.run(call, stdout=subprocess.DEVNULL).returncode:  # warnings come on the other stream
        raise ReprobookError("the book did not build: see the warnings above, each one counts as an error")
    html = output / "_build" / "html"
    expected = [
        html / "book" / "index.html",
        *(html / p.relative_to(source).with_suffix(".html") for p in notebooks(source)),
    ]
    missing = [str(page.relative_to(html)) for page in expected if not page.is_file() or page.stat().st_size < 1000]
    if missing:
        raise ReprobookError(f"pages missing or empty: {', '.join(missing)} (is each chapter in book/_toc.yml?)")
    for page in html.rglob("*.html"):
        text = page.read_text("utf-8")
        if '<th class="head">' in text:  # of a table in Markdown: for a screen reader
            page.write_text(text.replace('<th class="head">', '<th class="head" scope="col">'), "utf-8")
    return html


def notebooks(source: Path) -> list[Path]:
    """The chapters among the gathered sources."""
    return sorted((source / "notebooks").glob("*.ipynb"))


def keep_smoke_records() -> list[Path]:
    """Store each chapter's smoke record (``book/results/smoke``): the README's smoke times, evidence for nothing."""
    from reprobook.authoring.refresh import ONE_THREAD
    from reprobook.runs.runner import run

    project.check_package()
    kept = []
    os.environ.update(ONE_THREAD)  # as a refresh, so that `reprobook neutral` can compare the bits
    for slug in project.chapters():
        result = run(slug, "smoke", again=True)
        if result.status == "failed":
            raise ReprobookError(f"{slug} failed at smoke scale: {result.where}")
        kept.append(project.root() / "book" / "results" / "smoke" / f"{slug}.seed{result.record.seed}.json")
        kept[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result.folder / "record.json", kept[-1])
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m reprobook.authoring.site``: build the book, from stored outputs or from notebooks executed here."""
    parser = argparse.ArgumentParser(prog="python -m reprobook.authoring.site", description=main.__doc__)
    parser.add_argument("--execute", action="store_true", help="execute the chapters at smoke scale first")
    parser.add_argument("--records", action="store_true", help="only store the smoke records, for the README's times")
    options = parser.parse_args(arguments)
    try:
        if options.records:
            keep_smoke_records()
            return 0
        html = build(gather(options.execute), project.root())
    except (ReprobookError, OSError) as error:  # the checkout may be read-only
        print(f"reprobook: {error}", file=sys.stderr)
        return 1
    print(f"The book is in {html.relative_to(project.root())}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
