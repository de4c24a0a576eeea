"""Pages that are made from records, facts and manifests: the scoreboard, the data page, the README's table of chapters.

Numbers on these pages are never typed: edit the record, the facts or the manifest and generate again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import project, show
from reprobook.authoring.page import readable
from reprobook.authoring.scoreboard import (
    counted,
    duration,
    exported_csv,
    html_rows,
    overview,
    scoreboard,
    times,
    to_check,
)
from reprobook.authoring.standing import exported, mean_time, standings
from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.authoring.standing import Standing
    from reprobook.record import Record

README_START = "<!-- chapters: written by `reprobook pages`, don't edit -->"
README_END = "<!-- end of chapters -->"
KINDS = {"dataset": "Data sets", "model": "Models", "tokenizer": "Tokenizers"}


def generate() -> list[Path]:
    """Write ``book/_generated`` and the README's table; returns the files that changed."""
    readme, chapters = project.root() / "README.md", standings()
    text = with_table(project.read_text(readme, readme.name), readme_table(chapters))
    return [*write_generated(chapters), *_write(readme, text)]


def write_generated(chapters: Sequence[Standing]) -> list[Path]:
    """Write what the book includes of these chapters into ``book/_generated``; returns the files that changed."""
    folder, board = project.root() / "book" / "_generated", exported(chapters)
    pages = {
        "scoreboard.md": readable(scoreboard(chapters)), "verdicts.md": readable(overview(chapters, "scoreboard.html")),
        "to_check.md": readable(to_check(chapters)), "times.md": times(chapters), "data.md": data_page(),
        "scoreboard.json": json.dumps(board, indent=1) + "\n", "scoreboard.csv": exported_csv(board),
    }  # fmt: skip
    return [path for name, text in pages.items() for path in _write(folder / name, text)]


def _write(path: Path, text: str) -> list[Path]:
    if path.is_file() and path.read_text("utf-8") == text:
        return []
    project.atomic_write(path, text)
    return [path]


# ------------------------------------------------------------------------------------------------ data page


def data_page() -> str:
    """Markdown: every artefact of every manifest, once, with the chapters and scales that use it."""
    from reprobook.data import load_manifest

    artefacts: dict[str, Any] = {}
    users: dict[str, list[str]] = {}
    for slug in (*project.SLUGS, "shared"):
        if (project.root() / "data_manifests" / f"{slug}.yaml").is_file():
            for artefact in load_manifest(slug).artefacts:
                used = [f"{slug}: {', '.join(artefact.scales)}"] if slug != "shared" else []
                artefacts.setdefault(artefact.id, artefact)
                users.setdefault(artefact.id, []).extend(used)
    columns = ["Artefact", "What it is", "Source", "Download", "Licence", "Gated", "Used by"]
    parts = []
    for kind, title in KINDS.items():
        rows = [_data_row(artefact, users[key]) for key, artefact in artefacts.items() if artefact.kind == kind]
        table = html_rows(columns, rows).replace("rb-table", "rb-table rb-data", 1)
        parts += [f"## {title}\n\n{table}"] if rows else []
    return "\n\n".join(parts) + "\n"


def _data_row(artefact: Any, users: Sequence[str]) -> list[Any]:
    from reprobook.data import readable_bytes

    places = [each.value.about() for each in (artefact.source, *artefact.mirrors)]
    size = places[0].to_move
    unknown = artefact.source.value.why(artefact.owner("")) or readable_bytes(None)
    download = unknown if size is None else readable_bytes(size, places[0].estimated) if size else "none"
    gated = "yes: its owner grants access" if artefact.gated else "no"
    what = f"{artefact.what}; chapters also work without it" if artefact.optional else artefact.what
    return [
        show.Html(f"<code>{escape(artefact.id)}</code>"), what,
        show.Html("<br>or ".join(escape(place.words) for place in places)), download, artefact.license, gated,
        show.Html("<br>".join(map(escape, users)) or "no chapter yet"),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ README


def readme_table(chapters: Sequence[Standing]) -> str:
    """The README's table in Markdown: chapters that exist, their verdicts and measured times, and what is to come."""
    lines = ["| Chapter | Paper | Smoke run | Laptop run | Verdicts |", "|---|---|---|---|---|"]
    lines += [_readme_row(each) for each in chapters]
    waiting = [f"`{slug}`" for slug in project.SLUGS if slug not in project.chapters()]
    return "\n".join(lines) + (f"\n\nNot written yet: {', '.join(waiting)}." if waiting else "")


def _readme_row(each: Standing) -> str:
    verdicts = counted([found.verdict for found in each.found.values()])
    chapter, paper = f"[`{each.slug}`](notebooks/{each.slug}.ipynb)", f"[{each.facts.title}]({each.facts.arxiv_url})"
    cells = [chapter, paper, _time(each.runs["smoke"]), _time(each.runs["laptop"])]
    return f"| {' | '.join([*cells, verdicts])} |"


def _time(records: Sequence[Record]) -> str:
    """Measured time of a run and, where there is more than one, their number."""
    return duration(mean_time(records)) + (f" ({len(records)} seeds)" if len(records) > 1 else "")


def with_table(readme: str, table: str) -> str:
    """The README with ``table`` between its two marks; raises :class:`ReprobookError` if a mark is missing."""
    before, start, rest = readme.partition(README_START)
    _, end, after = rest.partition(README_END)
    if not (start and end):
        raise ReprobookError(f"README.md needs the lines {README_START!r} and {README_END!r}")
    return f"{before}{start}\n{table}\n{end}{after}"
