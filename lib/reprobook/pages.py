"""Pages that are made from records, facts and manifests: the scoreboard, the data page, the README's table of chapters.

Numbers on these pages are never typed: edit the record, the facts or the manifest and generate again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import project, record, show
from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.facts import Facts
    from reprobook.record import Record

README_START = "<!-- chapters: written by `reprobook pages`, don't edit -->"
README_END = "<!-- end of chapters -->"
NEVER_RUN = show.Html('<span class="rb-chip rb-never-run">never run</span>')


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
        return []  # an untouched file keeps its time, so the book does not rebuild it
    project.atomic_write(path, text)
    return [path]


# ------------------------------------------------------------------------------------------------ evidence


@dataclass(frozen=True)
class Evidence:
    """The best records that can tell about one claim; ``scale`` is None while there are none."""

    scale: str | None
    summary: Mapping[str, Any]
    records: Sequence[Record]

    @property
    def chip(self) -> str:
        """The verdict as a coloured label; a claim that no run was made for is "never run", not "not testable"."""
        return show.chip(self.summary["verdict"]) if self.scale else NEVER_RUN


def evidence(slug: str, facts: Facts, claim_id: str) -> Evidence:
    """Paper-scale records if there are any for this claim, else laptop records; smoke runs are no evidence."""
    for scale in ("paper", "laptop"):
        found = [r for r in record.results(slug, scale) if claim_id in r.claims]
        if found and scale in facts.claims[claim_id].testable_at:
            return Evidence(scale, record.summarise_claim(found, claim_id), found)
    if record.results(slug, "laptop") and "laptop" not in facts.claims[claim_id].testable_at:
        return Evidence("paper", record.summarise_claim([], claim_id), [])  # run as far as a laptop goes
    return Evidence(None, record.summarise_claim([], claim_id), [])


def state(records: Iterable[Record]) -> str:
    """``current``, or ``stale`` with what changed since these records were made."""
    from reprobook.runs.content import staleness

    reasons = dict.fromkeys(reason for found in records for reason in staleness(found))
    return f"stale: {'; '.join(reasons)}" if reasons else "current"


def cost(records: Sequence[Record]) -> str:
    """What these runs took: ``3 runs, 12 min each on 2 cores, 1.3 GB``."""
    times = [r.wall_s for r in records if r.wall_s is not None]
    if not times:
        return "–"
    hardware = records[0].hardware
    gpus = hardware.get("gpus") or []
    where = f"{len(gpus)} x {gpus[0]}" if gpus else f"{hardware.get('cores', '?')} cores"
    memory = max((r.peak_memory_mb or 0.0 for r in records), default=0.0)
    each = " each" if len(records) > 1 else ""
    runs = f"{len(records)} run{'s' if len(records) > 1 else ''}"
    return f"{runs}, {duration(statistics.fmean(times))}{each} on {where}, {memory / 1000:.1f} GB"


def duration(seconds: float | None) -> str:
    """``48 s``, ``12 min`` or ``3.5 h``; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------------ scoreboard


def scoreboard() -> str:
    """Markdown: one table of all verdicts, then a table of claims per chapter."""
    chapters = {slug: _facts(slug) for slug in project.chapters()}
    parts = [_overview(chapters), *(_chapter(slug, facts) for slug, facts in chapters.items())]
    return "\n\n".join(parts) + "\n"


def _facts(slug: str) -> Facts:
    from reprobook.facts import load

    return load(slug)


def _overview(chapters: Mapping[str, Facts]) -> str:
    width = max((len(facts.claims) for facts in chapters.values()), default=0)
    head = ["Paper", *(f"C{k}" for k in range(1, width + 1))]
    rows = []
    for slug, facts in chapters.items():
        chips = [evidence(slug, facts, cid).chip for cid in facts.claims]
        link = show.link(f"../notebooks/{slug}.html", facts.title)
        rows.append([_cell(link, "rb-says"), *map(_cell, chips), *[_cell("")] * (width - len(chips))])
    waiting = len(project.SLUGS) - len(chapters)
    note = (
        f"{len(chapters)} of {len(project.SLUGS)} papers have a chapter." if waiting else "All papers have a chapter."
    )
    return f"## All verdicts\n\n{note}\n\n{_html_table(head, rows)}"


def _chapter(slug: str, facts: Facts) -> str:
    head = ["Claim", "The paper says", "Paper", "Here", "Verdict", "Scale", "State", "Cost"]
    rows = [_claim_row(slug, facts, cid) for cid in facts.claims]
    title = f"## [{facts.title}](../notebooks/{slug}.ipynb)"
    paper = f"{facts.one_line} ([arXiv {facts.arxiv.id}v{facts.arxiv.version}]({facts.arxiv_url}))"
    return f"{title}\n\n{paper}\n\n{_html_table(head, rows)}"


def _claim_row(slug: str, facts: Facts, claim_id: str) -> list[str]:
    claim, found = facts.claims[claim_id], evidence(slug, facts, claim_id)
    told = f"{found.scale}<br>{found.summary['holds']} of {found.summary['n']} runs hold" if found.records else "–"
    return [
        _cell(claim_id),
        _cell(f"{escape(claim.says)}<br><small>{escape(claim.where)}</small>", "rb-says"),
        _cell(_lines((label, _number(value)) for label, value in claim.paper.items()), "rb-number"),
        _cell(_lines((key, mean_sd(spread)) for key, spread in found.summary["value"].items()) or "–", "rb-number"),
        _cell(found.chip),
        _cell(told if found.scale else "–", "rb-number"),
        _cell(escape(state(found.records)) if found.records else "never run"),
        _cell(escape(cost(found.records)) if found.records else "–"),
    ]


def mean_sd(spread: Mapping[str, Any]) -> str:
    """``1.918 ± 0.012 (n = 3)``: two digits of the spread, and as many decimals of the mean."""
    mean, sd = spread["mean"], spread["sd"]
    if mean is None:
        return "–"
    if not sd:
        return f"{_number(mean)} (n = {spread['n']})"
    decimals = min(6, max(0, 1 - math.floor(math.log10(sd))))
    return f"{mean:.{decimals}f} ± {sd:.{decimals}f} (n = {spread['n']})".replace("-", "−")


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
    return "<br>".join(f"{escape(label)}: {escape(text)}" for label, text in pairs)


def _cell(html: str, name: str = "") -> str:
    return f'<td class="{name}">{html}</td>' if name else f"<td>{html}</td>"


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of ready cells that scrolls in its own box; no blank lines, which would end Markdown's HTML block."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        '<div class="rb-table" tabindex="0"><table>\n'
        f"<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


# ------------------------------------------------------------------------------------------------ data page


def data_page() -> str:
    """Markdown: every artefact of every manifest, once, with the chapters and scales that use it."""
    from reprobook.data import load_manifest

    uses: dict[str, dict[str, Any]] = {}
    for slug in project.SLUGS:
        if not (project.root() / "data_manifests" / f"{slug}.yaml").is_file():
            continue
        for artefact in load_manifest(slug).artefacts:
            entry = uses.setdefault(artefact.id, {"artefact": artefact, "users": []})
            entry["users"].append(f"{slug} ({', '.join(artefact.scales)})")
    titles = {"dataset": "Data sets", "model": "Models", "tokenizer": "Tokenizers"}
    parts = []
    for kind, title in titles.items():
        chosen = [use for use in uses.values() if use["artefact"].kind == kind]
        if chosen:
            parts.append(f"## {title}\n\n{_html_table(_DATA_HEAD, [_data_row(**use) for use in chosen])}")
    return "\n\n".join(parts) + "\n"


_DATA_HEAD = ["Artefact", "What it is", "Source", "Download", "Licence", "Gated", "Used by"]


def _data_row(artefact: Any, users: Sequence[str]) -> list[str]:
    from reprobook.data import describe, download_bytes, readable_bytes

    size = download_bytes(artefact)
    return [
        _cell(f"<code>{escape(artefact.id)}</code>"),
        _cell(escape(artefact.what), "rb-says"),
        _cell(escape(describe(artefact))),
        _cell("none" if size == 0 else readable_bytes(size), "rb-number"),
        _cell(escape(artefact.license)),
        _cell("yes: ask its owner for access" if artefact.gated else "no"),
        _cell("<br>".join(map(escape, users))),
    ]


# ------------------------------------------------------------------------------------------------ README


def readme_table() -> str:
    """The README's table in Markdown: chapters that exist, their verdicts and measured times, and what is to come."""
    lines = ["| Chapter | Paper | Smoke run | Laptop run | Verdicts |", "|---|---|---|---|---|"]
    lines += [_readme_row(slug) for slug in project.chapters()]
    waiting = [f"`{slug}`" for slug in project.SLUGS if slug not in project.chapters()]
    return "\n".join(lines) + (f"\n\nNot written yet: {', '.join(waiting)}." if waiting else "")


def _readme_row(slug: str) -> str:
    facts = _facts(slug)
    verdicts = [(found := evidence(slug, facts, cid)).scale and found.summary["verdict"] for cid in facts.claims]
    counts = [f"{verdicts.count(v)} {v}" for v in record.VERDICTS if v in verdicts]
    counts += [f"{verdicts.count(None)} never run"] if None in verdicts else []
    paper = f"[{facts.title}]({facts.arxiv_url})"
    cells = [
        f"[`{slug}`](notebooks/{slug}.ipynb)",
        paper,
        _time(slug, "smoke"),
        _time(slug, "laptop"),
        ", ".join(counts),
    ]
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
