"""A stored notebook as a page of the book: a head that answers first, and folds for what few readers want to see.

The stored notebook stays as it is; what a page adds is made from facts, records and the notebook's own figures.
"""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from reprobook import show
from reprobook.authoring import curves
from reprobook.authoring.citations import in_page
from reprobook.authoring.scoreboard import anchor, cost, duration
from reprobook.authoring.standing import config, mean_time, peak_memory_gb, version

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from reprobook.authoring.standing import Standing

_FOLDED_OUTPUTS = re.compile(r"\bch\.(facts_table|claims_in_paper|provenance|data_table)\(")
_LONGEST_OPEN = 10  # lines of a code cell that a page shows without a click
_MANY_COLUMNS = 12
_FOR_NBVAL = re.compile(r"^C\d+ recorded; a smoke run is no evidence\n?", re.MULTILINE)
_CAPTION = re.compile(r"^\*\*Figure \d+\.\*\* ")


def as_page(notebook: NotebookNode, chapter: Standing) -> tuple[NotebookNode, bytes | None]:
    """The notebook as the book shows it, and the PNG of its hero picture (the first of the cell tagged ``hero``)."""
    from nbformat.v4 import new_markdown_cell

    page = copy.deepcopy(notebook)
    hero = _hero(page)
    title, _, rest = page.cells[0].source.partition("\n\n")
    opening = [
        new_markdown_cell(text, id=f"{name}-{chapter.slug.replace('_', '-')}"[:64])
        for name, text in (("title", title), ("head", _head(chapter, hero)), ("opening", rest))
        if text
    ]
    page.cells[:1] = opening
    if trained := curves.drawn(chapter.records):
        ends = [k for k, cell in enumerate(page.cells) if cell.source.startswith("## Evaluation")]
        page.cells[ends[0] : ends[0]] = [new_markdown_cell(trained, id="learning-curves")]
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = in_page(cell.source)
        else:
            _fold(cell)
            _without_lines_for_checks(cell)
            for output in cell.outputs:
                for kind, legible in (("text/html", readable), ("text/markdown", without_markup)):
                    if kind in output.get("data", {}):
                        output.data[kind] = legible(output.data[kind])
            _name_claims(cell, chapter)
            _say_what_is_seen(cell)
    return page, base64.b64decode(hero["image/png"]) if hero else None


def _fold(cell: NotebookNode) -> None:
    """Hide what is plumbing (drawing, imports, long cells, parameters), and tables to look things up in."""
    tags, lines = set(cell.metadata.get("tags", [])), cell.source.strip().splitlines()
    plumbing = {"display", "parameters"} & tags or len(lines) > _LONGEST_OPEN or "import " in lines[0]
    if cell.source.strip() == "ch.finish()":
        tags.add("remove-cell")
    elif _FOLDED_OUTPUTS.search(cell.source):
        tags.add("hide-cell" if plumbing else "hide-output")
    elif plumbing:
        tags.add("hide-input")
    if tags:
        cell.metadata["tags"] = sorted(tags)


def _say_what_is_seen(cell: NotebookNode) -> None:
    """The texts for those who can't see the pictures, where MyST-NB looks for them: one for all pictures of a cell."""
    texts = [output.get("metadata", {}).get("image/png", {}).get("alt", "") for output in cell.outputs]
    if words := " ".join(" ".join(texts).split()):
        cell.metadata["mystnb"] = {"image": {"alt": words}}


def _without_lines_for_checks(cell: NotebookNode) -> None:
    for output in cell.outputs:
        if output.output_type == "stream":
            output.text = _FOR_NBVAL.sub("", output.text)
    cell.outputs = [each for each in cell.outputs if each.output_type != "stream" or each.text.strip()]


def _name_claims(cell: NotebookNode, chapter: Standing) -> None:
    """Anchors in the table of verdicts, for the links of the head."""
    if "ch.claims_table(" in cell.source:
        for output in _shown(cell):
            for cid in chapter.found:
                html = output.data.get("text/html", "")
                output.data["text/html"] = html.replace(
                    f"<strong>{cid}</strong>", f'<strong id="{cid.lower()}">{cid}</strong>', 1
                )


def readable(html: str) -> str:
    """Tables for everybody: headers that a screen reader knows as such, figures that no line break takes apart."""
    html = re.sub(r"<th(?! scope)(?=[ >])", '<th scope="col"', html)
    html = html.replace(" ± ", "\u00a0±\u00a0").replace("(n = ", "(n\u00a0=\u00a0").replace(" %", "\u00a0%")
    return re.sub(r"<table.*?</table>", _in_two_lines, html, flags=re.DOTALL)


def _in_two_lines(table: re.Match[str]) -> str:
    """A table of many columns would not fit a page unless a spread may stand below its mean."""
    n_columns = len(re.findall("<th ", table[0].partition("</tr>")[0]))
    return table[0] if n_columns < _MANY_COLUMNS else table[0].replace("\u00a0±\u00a0", " ±\u00a0")


def without_markup(markdown: str) -> str:
    """Listings whose docstrings hold no formulas in raw TeX and no roles: the chapter's prose has the formulas."""

    def cleaned(listing: re.Match[str]) -> str:
        code = re.sub(r"\n *\.\. math::.*(?:\n+ +\\.*)*\n", "", listing[0])
        code = re.sub(r"\n *\$\$(?:.|\n)*?\$\$ *(?=\n)", "", code)
        return re.sub(r":(?:math|class|func|meth|mod|data|attr):`~?([^`]*)`", r"\1", code)

    return re.sub(r"^`{3,}python\n(?:.|\n)*?^`{3,}$", cleaned, markdown, flags=re.MULTILINE)


def _shown(cell: NotebookNode) -> Iterator[NotebookNode]:
    yield from (output for output in cell.get("outputs", []) if "text/html" in output.get("data", {}))


def _hero(page: NotebookNode) -> dict[str, str] | None:
    """Image, caption and text for those who can't see it."""
    for cell in page.cells:
        if cell.cell_type == "code" and "hero" in cell.metadata.get("tags", []):
            outputs = [output for output in cell.outputs if "data" in output]
            data = [each.data | {"alt": each.metadata.get("image/png", {}).get("alt", "")} for each in outputs]
            image = next((each for each in data if "image/png" in each), None)
            caption = next((text for each in data if _CAPTION.match(text := each.get("text/markdown", ""))), "")
            return image | {"caption": _CAPTION.sub("", caption)} if image else None
    return None


def _head(chapter: Standing, hero: dict[str, str] | None) -> str:
    """Markdown: one line, the picture, a verdict per claim, what it rests on, what it costs to check."""
    parts = [f'<p class="rb-lead">{escape(chapter.facts.one_line)}</p>']
    if hero:
        alt = " ".join(hero["alt"].split())
        parts.append(f"```{{image}} {chapter.slug}.hero.png\n:alt: {alt}\n:class: rb-hero\n```")
        parts.append(f'<div class="rb-caption">\n\n{hero["caption"]}\n\n</div>')
    answers = f"{_listed(_rests_on(chapter))}\n{_verdicts(chapter)}"
    parts += [f'<div class="rb-answers full-width">\n{answers}\n</div>', _listed(_to_go_on(chapter))]
    return "\n\n".join(parts)


def _verdicts(chapter: Standing) -> str:
    rows = []
    for cid, found in chapter.found.items():
        says = chapter.facts.claims[cid].says
        figures = found.challenge or found.headline
        rows.append(
            f'<li><a href="#{cid.lower()}">{cid}</a> {show.chip(found.verdict)} '
            f'<span class="rb-says">{escape(says)}</span>'
            f'<span class="rb-effect">{escape(figures)}</span></li>'
        )
    return '<ul class="rb-verdicts">\n' + "\n".join(rows) + "\n</ul>"


def _listed(lines: dict[str, str]) -> str:
    items = "".join(f"<dt>{label}</dt><dd>{text}</dd>" for label, text in lines.items())
    return f'<dl class="rb-facts">{items}</dl>'


def _rests_on(chapter: Standing) -> dict[str, str]:
    """Seeds and commit, minutes and memory."""
    records, smoke = chapter.records, chapter.runs["smoke"]
    commits = ", ".join(sorted({r.commit[:7] for r in records if r.commit}))
    seeds = f"{cost(records)}, commit {commits}" if records else "no run yet"
    check = f"{duration(mean_time(smoke))}, {peak_memory_gb(smoke):.1f} GB" if smoke else "not measured"
    return {
        "Rests on": f'{escape(seeds)} (<a href="../book/scoreboard.html#{anchor(chapter.slug, "C1")}">all figures</a>)',
        "To check the code": f"{check}: <code>reprobook run {chapter.slug}</code>",
    }


def _to_go_on(chapter: Standing) -> dict[str, str]:
    """Buttons and links."""
    facts = chapter.facts
    paper = show.link(facts.arxiv_url, f"arXiv {facts.arxiv.id}v{facts.arxiv.version}")
    code = f", {show.link(facts.code.url, 'official code')}" if facts.code else ""
    return {
        "To move things": f"<code>make lab</code>, then <code>{chapter.slug}.ipynb</code>{_launchers(chapter.slug)}",
        "Paper": f"{paper}, {escape(_names(facts.authors))}{code}",
        "To cite": f"<details><summary>this chapter</summary><pre>{escape(_citation(chapter))}</pre></details>",
    }


def _names(authors: list[str]) -> str:
    return ", ".join(authors) if len(authors) < 6 else f"{', '.join(authors[:3])} and {len(authors) - 3} others"


def _citation(chapter: Standing) -> str:
    """A BibTeX entry of the chapter with the version of its results."""
    book, paper = config(), chapter.facts
    results = version([chapter])
    fields = {
        "author": f"{{{book['author']}}}",
        "title": f"{paper.title}, rerun",
        "howpublished": f"A chapter of {book['title']}",
        "year": results[:4] or book["copyright"],
        "note": f"{f'Results {results}. ' if results else ''}The paper: arXiv {paper.arxiv.id}v{paper.arxiv.version}",
    }
    lines = "".join(f"  {name} = {{{text}}},\n" for name, text in fields.items())
    return f"@misc{{reprobook_{chapter.slug},\n{lines}}}"


def _launchers(slug: str) -> str:
    """Links that open the notebook elsewhere, where ``_config.yml`` names the repository (``repository: url``)."""
    repository = config().get("repository") or {}
    url, branch = str(repository.get("url") or ""), repository.get("branch", "main")
    if not url.startswith("https://github.com/"):
        return ""
    name = url.removeprefix("https://github.com/").strip("/")
    path = f"notebooks/{slug}.ipynb"
    places = {
        "Colab": f"https://colab.research.google.com/github/{name}/blob/{branch}/{path}",
        "Binder": f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/{path}",
    }
    return "".join(f', <a href="{address}">{place}</a>' for place, address in places.items())
