"""The scoreboard: all verdicts at a glance, then each claim with its tests, drawn and in figures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from reprobook import project, record, show
from reprobook.authoring.standing import config, mean_time, peak_memory_gb, version
from reprobook.evidence.claims import CHALLENGED
from reprobook.yaml_files import load_yaml

if TYPE_CHECKING:
    from reprobook.authoring.standing import Standing
    from reprobook.evidence.verdict import Outcome
    from reprobook.facts import Claim
    from reprobook.record import Record

SIGNS = {
    "reproduced": "✓", "partly": "±", "not reproduced": "✗", "undecided": "?", "not testable here": "–",
    "challenged": "!", "never run": "·",
}  # fmt: skip
_WIDTH, _ROW, _NAME = 640, 44, 17  # of a drawing of tests: its width, the height of one and of its name; in pixels


def overview(chapters: Sequence[Standing], there: str = "") -> str:
    """HTML: papers x claims, each a coloured field that links to its claim on the page ``there``, and the totals."""
    width = max((len(each.found) for each in chapters), default=0)
    rows = []
    for each in chapters:
        fields = [
            show.Html(f'<a href="{there}#{anchor(each.slug, cid)}">{_field(found.verdict, f"{cid}: ")}</a>')
            for cid, found in each.found.items()
        ]
        paper = show.link(f"../notebooks/{each.slug}.html", _short(each))
        rows.append([paper, *fields, *[show.Html("")] * (width - len(fields))])
    table = html_rows(["Paper", *(f"C{k + 1}" for k in range(width))], rows)
    verdicts = [found.verdict for each in chapters for found in each.found.values()]
    counts = [f"{_field(v)} {verdicts.count(v)} {v}" for v in show.CHIPS if v in verdicts]
    many = f"{len(chapters)} of {len(project.SLUGS)} papers have a chapter; their {len(verdicts)} claims:"
    key = f'<p class="rb-key">{many} {", ".join(counts)}.</p>'
    return f"{table.replace('rb-table', 'rb-table rb-matrix', 1)}\n{key}"


def _field(verdict: str, name: str = "") -> str:
    """A verdict as one coloured sign; its words are there for those who point at it or can't see it."""
    said, look = f"{name}{verdict}", f"rb-field {show.CHIPS[verdict][0]}"
    return f'<span class="{look}" role="img" aria-label="{said}" title="{said}">{SIGNS[verdict]}</span>'


def _short(chapter: Standing) -> str:
    """The title of the chapter: the first words of the paper's, before its colon."""
    return chapter.facts.title.partition(": ")[0]


def counted(verdicts: Sequence[str]) -> str:
    """``3 reproduced, 1 partly; 2 challenged``."""
    fallen = verdicts.count(CHALLENGED)
    order = [v for v in dict.fromkeys((*record.VERDICTS, *verdicts)) if v in verdicts and v != CHALLENGED]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in order)
    return counts + (f"{'; ' if counts else ''}{fallen} challenged" if fallen else "")


def to_check(chapters: Sequence[Standing]) -> str:
    """HTML: what a smoke run and a laptop run of each chapter take, as measured, quickest first."""
    rows = []
    for each in chapters:
        smoke = each.runs["smoke"]
        laptop = [r for r in each.records if r.scale == "laptop"]
        cells = [
            text
            for of in (smoke, laptop)
            for text in (duration(mean_time(of)), f"{peak_memory_gb(of):.1f} GB" if of else "–")
        ]
        rows.append((mean_time(smoke) or math.inf, [show.link(f"../notebooks/{each.slug}.html", each.slug), *cells]))
    columns = ["Chapter", "Smoke run", "memory", "One laptop seed", "its memory"]
    return html_rows(columns, [row for _, row in sorted(rows, key=lambda row: row[0])])


def times(chapters: Sequence[Standing]) -> str:
    """A sentence: what runs of the two small scales took, the quickest and the slowest chapter."""
    smoke, laptop = (
        [t for each in chapters if (t := mean_time(each.runs[scale])) is not None] for scale in ("smoke", "laptop")
    )
    said = [
        f"{name} took {duration(min(found))} to {duration(max(found))}"
        for name, found in (("a smoke run", smoke), ("a laptop run of one seed", laptop))
        if found
    ]
    text = ", ".join(said) or "nothing yet"
    return f"Measured on two cores, depending on the chapter: {text}.\n"


def scoreboard(chapters: Sequence[Standing]) -> str:
    """Markdown: all verdicts, then a table of claims for each chapter, with the tests drawn."""
    which = f"Version of the results: `{version(chapters)}`."
    parts = [f"## All verdicts\n\n{overview(chapters)}\n\n{which}", *(_chapter(each) for each in chapters)]
    return "\n\n".join(parts) + "\n"


def anchor(slug: str, cid: str) -> str:
    """The name of a claim on the scoreboard."""
    return f"{slug.replace('_', '-')}-{cid.lower()}"


def _chapter(each: Standing) -> str:
    facts = each.facts
    links = (
        f"[Chapter](../notebooks/{each.slug}.ipynb), [arXiv {facts.arxiv.id}v{facts.arxiv.version}]({facts.arxiv_url})."
    )
    rows = [_claim_row(cid, each) for cid in each.found]
    table = html_rows(["Claim", "The paper says", "Paper", "Here", "Verdict", "Evidence"], rows).replace(
        'class="rb-table"', 'class="rb-table rb-claims"', 1
    )
    drawn = [
        forest(cid, found.judgement.tests, found.records, reported(each.slug, cid, facts.claims[cid]))
        for cid, found in each.found.items()
        if found.judgement
    ]
    drawings = f"\n\n{_DRAWN}\n\n" + "\n".join(drawn) if drawn else ""
    return f"## {facts.title}\n\n{facts.one_line} {links}\n\n{table}{drawings}"


_DRAWN = (
    "Each test below: a ring is one seed, the square and its line the pooled effect with its interval, the dashed line "
    "the bar that it must clear; a triangle is the paper's figure, of its models and data, where it has the same unit."
)


def _claim_row(cid: str, each: Standing) -> list[Any]:
    claim, found = each.facts.claims[cid], each.found[cid]
    told = [f"{found.scale}: {found.told}", each.states[cid], *_made(found.records)] if found.records else ["–"]
    if found.challenge and not found.records:
        told = [found.challenge]
    return [
        show.Html(f'<span id="{anchor(each.slug, cid)}">{cid}</span>'),
        show.Html(f"{escape(claim.says)}<br><small>{escape(claim.where)}</small>"),
        show.lines({label: show.number(value) for label, value in claim.paper.items()}),
        show.lines(found.figures),
        show.chip(found.verdict),
        show.Html("<br>".join([*map(escape, told), *_files(found.records)])),
    ]


def _files(records: Sequence[Record]) -> list[str]:
    """HTML: the records' files, linked where ``_config.yml`` names the repository (``repository: url``)."""
    repository = config().get("repository") or {}
    base = f"{repository['url'].rstrip('/')}/blob/{repository.get('branch', 'main')}" if repository.get("url") else ""
    paths = [record.result_path(r.slug, r.scale, r.seed).relative_to(project.root()).as_posix() for r in records]
    if base:
        seeds = ", ".join(show.link(f"{base}/{path}", f"{r.seed}") for path, r in zip(paths, records, strict=True))
        return [f"records of seeds {seeds}"]
    return [f"<code>{path.partition('.seed')[0]}.seed*.json</code>" for path in paths[:1]]


def _made(records: Sequence[Record]) -> list[str]:
    """Cost, commit and date of these runs."""
    commits = sorted({r.commit[:7] for r in records if r.commit})
    dates = sorted({r.ended[:10] for r in records if r.ended})
    made = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}" if commits else ""
    when = f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else "".join(dates)
    return [cost(records), ", ".join(part for part in (made, when) if part)]


def reported(slug: str, cid: str, claim: Claim) -> dict[str, tuple[float, str]]:
    """Effect -> the paper's figure in its unit and the labels that it is made of, as ``book/reported.yaml`` says."""
    path = project.root() / "book" / "reported.yaml"
    named = (load_yaml(path.read_text("utf-8"), path.name) or {}) if path.is_file() else {}
    found = {}
    for effect, given in named.get(slug, {}).get(cid, {}).items():
        first, *rest = (float(claim.paper[label]) for label in given["figures"])
        ratio = " over " in effect
        value = first / rest[0] if rest and ratio else first - sum(rest)
        found[effect] = value / given.get("per", 1), (" over " if ratio else " minus ").join(given["figures"])
    return found


def forest(
    cid: str, tests: Sequence[Outcome], records: Sequence[Record], paper: Mapping[str, tuple[float, str]]
) -> str:
    """SVG: one row per test with every seed's estimate, the pooled effect with its interval, the bar, and the figure of
    the ``paper`` (effect -> figure, what it is)."""
    drawn = [each for each in tests if each.pooled and math.isfinite(each.pooled.estimate)]
    rows = [_row(each, records, paper.get(each.test.effect)) for each in drawn]
    if not rows:
        return ""
    height = _ROW * len(rows) + 24
    body = "".join(f'<g transform="translate(0 {24 + k * _ROW})">{row}</g>' for k, row in enumerate(rows))
    said = "; ".join(each.text for each in tests)
    return (
        f'<svg class="rb-forest" role="img" aria-label="{escape(f"{cid}: {said}", quote=True)}" '
        f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}"><text x="0" y="15" class="rb-cid">{cid}</text>{body}</svg>'
    )


def _row(outcome: Outcome, records: Sequence[Record], paper: tuple[float, str] | None) -> str:
    """One test on an axis of its own, since effects of one claim may have several units."""
    pooled, test = outcome.pooled, outcome.test
    assert pooled is not None
    name = test.effect
    seeds = [r.effects[name].estimate for r in records if name in r.effects]
    low, high = pooled.interval(outcome.level)
    bars = [b for b in (test.within or (test.above, test.below)) if b is not None]
    centre = pooled.shown(pooled.estimate)
    shown = [v for v in (*seeds, low, high, centre, *bars, *(paper or ())[:1]) if v is not None and math.isfinite(v)]
    least, most = min(shown), max(shown)
    pad = 0.06 * (most - least) or 1.0

    def x(value: float) -> float:
        share = (value - least + pad) / (most - least + 2 * pad)
        return round(share * (_WIDTH - 8), 1)

    marks = [f'<line x1="{x(b)}" x2="{x(b)}" y1="2" y2="20" class="rb-bar"/>' for b in bars]
    marks += [f'<circle cx="{x(v)}" cy="11" r="4"/>' for v in seeds if v is not None and math.isfinite(v)]
    if math.isfinite(low) and math.isfinite(high):
        marks.append(f'<line x1="{x(low)}" x2="{x(high)}" y1="11" y2="11" class="rb-span"/>')
    marks.append(f'<rect x="{x(centre) - 4}" y="7" width="8" height="8"/>')
    if paper:
        said = escape(f"the paper: {show.number(paper[0])}, {paper[1]}")
        marks.append(f'<path d="M{x(paper[0])} 7l6 10h-12z" class="rb-paper"><title>{said}</title></path>')
    return f'<text x="0" y="13">{escape(name)}</text><g transform="translate(0 {_NAME})">{"".join(marks)}</g>'


# ------------------------------------------------------------------------------------------------ in figures


def exported_csv(board: Mapping[str, Any]) -> str:
    """A row per test (claims under the old rules: a row per claim) of :func:`reprobook.authoring.standing.exported`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow("slug claim verdict scale seeds state effect bar estimate low high unit test".split())
    for chapter in board["chapters"]:
        for claim in chapter["claims"]:
            first = [chapter["slug"], *(claim[key] for key in ("claim", "verdict", "scale"))]
            for test in claim["tests"] or [{}]:
                rest = [test.get(key) for key in ("effect", "bar", "estimate", "low", "high", "unit", "state")]
                writer.writerow([*first, len(claim["seeds"]), claim["state"], *rest])
    return stream.getvalue()


def cost(records: Sequence[Record]) -> str:
    """What these runs took: ``3 runs, 12 min each on 2 cores, 1.3 GB``; a dash without records."""
    n = sum(r.wall_s is not None for r in records)
    if not n:
        return "–"
    gpus = records[0].hardware.get("gpus") or []
    cores, threads = (records[0].hardware.get(key) for key in ("cores", "threads"))
    where = (
        f"{len(gpus)} x {gpus[0]}" if gpus else f"{threads} of {cores} cores" if threads else f"{cores or '?'} cores"
    )
    runs = f"{n} runs, {duration(mean_time(records))} each" if n > 1 else duration(mean_time(records))
    return f"{runs} on {where}, {peak_memory_gb(records):.1f} GB"


def duration(seconds: float | None) -> str:
    """``48 s``, ``12 min`` or ``3.5 h``; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def html_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of cells that may be :class:`show.Html`."""
    import pandas as pd

    return show.html_table(pd.DataFrame([list(row) for row in rows], columns=list(columns), dtype=object))
