"""Pages that are made from records, facts and manifests: the scoreboard, the data page, the README's table of chapters.

Numbers on these pages are never typed: edit the record, the facts or the manifest and generate again.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import project, record, show
from reprobook.errors import ReprobookError
from reprobook.evidence.claims import CHALLENGED, evidence, state

if TYPE_CHECKING:
    from reprobook.evidence.claims import Evidence
    from reprobook.facts import Facts
    from reprobook.record import Record

README_START = "<!-- chapters: written by `reprobook pages`, don't edit -->"
README_END = "<!-- end of chapters -->"
KINDS = {"dataset": "Data sets", "model": "Models", "tokenizer": "Tokenizers"}


def generate() -> list[Path]:
    """Write ``book/_generated/*.md`` and the README's table; returns the files that changed."""
    readme = project.root() / "README.md"
    return [*write_generated(), *_write(readme, with_table(readme.read_text("utf-8"), readme_table()))]


def write_generated() -> list[Path]:
    """Write ``book/_generated/scoreboard.md`` and ``data.md``; returns the files that changed."""
    folder = project.root() / "book" / "_generated"
    pages = {"scoreboard.md": scoreboard(), "data.md": data_page()}
    return [path for name, text in pages.items() for path in _write(folder / name, text)]


def _write(path: Path, text: str) -> list[Path]:
    if path.is_file() and path.read_text("utf-8") == text:
        return []
    project.atomic_write(path, text)
    return [path]


# ------------------------------------------------------------------------------------------------ scoreboard


def scoreboard() -> str:
    """Markdown: one table of all verdicts, then a table of claims per chapter."""
    chapters = {slug: _facts(slug) for slug in project.chapters()}
    found = {slug: _evidence(slug, facts) for slug, facts in chapters.items()}
    parts = [_overview(chapters, found), *(_chapter(slug, chapters[slug], found[slug]) for slug in chapters)]
    return "\n\n".join(parts) + "\n"


def _facts(slug: str) -> Facts:
    from reprobook.facts import load

    return load(slug)


def _evidence(slug: str, facts: Facts) -> dict[str, Evidence]:
    """Claim -> the committed records that speak for it."""
    records = {scale: record.results(slug, scale) for scale in ("paper", "laptop")}
    return {cid: evidence(cid, claim, records) for cid, claim in facts.claims.items()}


def _overview(chapters: Mapping[str, Facts], found: Mapping[str, Mapping[str, Evidence]]) -> str:
    width = max((len(claims) for claims in found.values()), default=0)
    rows = []
    for slug, facts in chapters.items():
        chips = [show.chip(each.verdict) for each in found[slug].values()]
        paper = show.link(f"../notebooks/{slug}.html", facts.title)
        rows.append([paper, *chips, *[show.Html("")] * (width - len(chips))])
    count = f"{len(chapters)} of {len(project.SLUGS)} papers have a chapter."
    return f"## All verdicts\n\n{count}\n\n{_table(['Paper', *(f'C{k + 1}' for k in range(width))], rows)}"


def _chapter(slug: str, facts: Facts, found: Mapping[str, Evidence]) -> str:
    head = ["Claim", "The paper says", "Paper", "Here", "Verdict", "Evidence"]
    rows = [_claim_row(cid, facts, each) for cid, each in found.items()]
    links = f"[Chapter](../notebooks/{slug}.ipynb), [arXiv {facts.arxiv.id}v{facts.arxiv.version}]({facts.arxiv_url})."
    return f"## {facts.title}\n\n{facts.one_line} {links}\n\n{_table(head, rows)}"


def _claim_row(cid: str, facts: Facts, found: Evidence) -> list[Any]:
    claim = facts.claims[cid]
    told = [f"{found.scale}: {found.told}", state(found.records), cost(found.records)] if found.records else ["–"]
    if found.challenge and not found.records:
        told = [found.challenge]
    return [
        cid,
        show.Html(f"{escape(claim.says)}<br><small>{escape(claim.where)}</small>"),
        show.lines({label: show.number(value) for label, value in claim.paper.items()}),
        show.lines(found.figures),
        show.chip(found.verdict),
        show.Html("<br>".join(map(escape, told))),
    ]


def cost(records: Sequence[Record]) -> str:
    """What these runs took: ``3 runs, 12 min each on 2 cores, 1.3 GB``; a dash without records."""
    times = [r.wall_s for r in records if r.wall_s is not None]
    if not times:
        return "–"
    gpus = records[0].hardware.get("gpus") or []
    cores, threads = (records[0].hardware.get(key) for key in ("cores", "threads"))
    where = (
        f"{len(gpus)} x {gpus[0]}" if gpus else f"{threads} of {cores} cores" if threads else f"{cores or '?'} cores"
    )
    memory = max((r.peak_memory_mb or 0.0 for r in records), default=0.0)
    runs = f"{len(times)} runs, {duration(statistics.fmean(times))} each" if len(times) > 1 else duration(times[0])
    return f"{runs} on {where}, {memory / 1000:.1f} GB"


def duration(seconds: float) -> str:
    """``48 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    import pandas as pd

    return show.html_table(pd.DataFrame([list(row) for row in rows], columns=list(columns), dtype=object))


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
        parts += [f"## {title}\n\n{_table(columns, rows)}"] if rows else []
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


def readme_table() -> str:
    """The README's table in Markdown: chapters that exist, their verdicts and measured times, and what is to come."""
    lines = ["| Chapter | Paper | Smoke run | Laptop run | Verdicts |", "|---|---|---|---|---|"]
    lines += [_readme_row(slug) for slug in project.chapters()]
    waiting = [f"`{slug}`" for slug in project.SLUGS if slug not in project.chapters()]
    return "\n".join(lines) + (f"\n\nNot written yet: {', '.join(waiting)}." if waiting else "")


def _readme_row(slug: str) -> str:
    facts = _facts(slug)
    verdicts = [each.verdict for each in _evidence(slug, facts).values()]
    fallen = verdicts.count(CHALLENGED)
    order = [v for v in dict.fromkeys((*record.VERDICTS, *verdicts)) if v in verdicts and v != CHALLENGED]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in order)
    counts += f"{'; ' if counts else ''}{fallen} challenged" if fallen else ""
    paper = f"[{facts.title}]({facts.arxiv_url})"
    cells = [f"[`{slug}`](notebooks/{slug}.ipynb)", paper, _time(slug, "smoke"), _time(slug, "laptop"), counts]
    return f"| {' | '.join(cells)} |"


def _time(slug: str, scale: str) -> str:
    """Measured time of a run and, where there is more than one, their number."""
    times = [r.wall_s for r in record.results(slug, scale) if r.wall_s is not None]
    if not times:
        return "–"
    return duration(statistics.fmean(times)) + (f" ({len(times)} seeds)" if len(times) > 1 else "")


def with_table(readme: str, table: str) -> str:
    """The README with ``table`` between its two marks; raises :class:`ReprobookError` if a mark is missing."""
    before, start, rest = readme.partition(README_START)
    _, end, after = rest.partition(README_END)
    if not (start and end):
        raise ReprobookError(f"README.md needs the lines {README_START!r} and {README_END!r}")
    return f"{before}{start}\n{table}\n{end}{after}"
