"""``reprobook check``: everything about a chapter that can be judged without running it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from reprobook import facts, ranges, record
from reprobook.authoring import scaffold
from reprobook.authoring.citations import readable
from reprobook.authoring.notebook import check_shape, effect_names
from reprobook.authoring.prose import typed_numbers
from reprobook.data import load_manifest
from reprobook.errors import ReprobookError
from reprobook.evidence.claims import check_effects
from reprobook.params import provenance, resolve
from reprobook.project import SCALES, notebook_path, read_text, root

LOOSE, TINY = 0.05, 1e-4  # a tolerance above this share of the value, and above this, needs a reason
SHORT_PROSE = 12  # words; shorter cells are headings and the like
UNKNOWN_ARXIV = "0000.00000"  # what `reprobook new` writes


def problems(slug: str) -> list[str]:
    """What is wrong with the files of chapter ``slug`` in all rooms, one line each; [] if nothing is."""
    found = []
    own = (_notebook, _citations, _scaffold, _prose, _parameters, _facts)
    for check in (*own, _manifest, _records, _effects, _sets, _rooms):
        found += _caught(check, slug)
    return list(dict.fromkeys(found))  # a file that several checks need is named once


def _caught(check: Callable[[str], list[str]], slug: str) -> list[str]:
    try:
        return check(slug)
    except (ReprobookError, OSError, ValueError, SyntaxError) as error:  # the others: a notebook that cannot be read
        return [str(error)]


def _notebook(slug: str) -> list[str]:
    return [f"notebooks/{slug}.ipynb: {problem}" for problem in check_shape(slug, _is_judged(slug))]


def _citations(slug: str) -> list[str]:
    import nbformat

    stored = nbformat.read(notebook_path(slug), as_version=4)
    if [cell.source for cell in readable(stored).cells] == [cell.source for cell in stored.cells]:
        return []
    return [f"notebooks/{slug}.ipynb: citations and list of references aren't in step: run `reprobook refresh {slug}`"]


def _scaffold(slug: str) -> list[str]:
    """Prose that the author of a new chapter has not replaced: the scaffold's cells of more than a few words."""
    import nbformat

    texts = scaffold.notebook(slug), notebook_path(slug).read_text("utf-8")
    theirs, ours = (nbformat.reads(text, as_version=4).cells for text in texts)
    known = {cell.source for cell in theirs if cell.cell_type == "markdown" and len(cell.source.split()) > SHORT_PROSE}
    return [
        f"notebooks/{slug}.ipynb: cell {k} still holds the scaffold's words: {' '.join(cell.source.split())[:60]!r}"
        for k, cell in enumerate(ours, start=1)
        if cell.cell_type == "markdown" and cell.source in known
    ]


def _prose(slug: str) -> list[str]:
    return [f"notebooks/{slug}.ipynb: {problem}" for problem in typed_numbers(slug)] if _is_judged(slug) else []


def _is_judged(slug: str) -> bool:
    try:
        return facts.load(slug).judged
    except ReprobookError:
        return False  # `_facts` says what is wrong with them


def _parameters(slug: str) -> list[str]:
    allowed = ranges.allowed(slug)
    for scale in SCALES:
        ranges.check(resolve(slug, scale), allowed, f"scale {scale}")
    resolve(slug, "paper", rehearsal=True)
    provenance(slug)
    return []


def _facts(slug: str) -> list[str]:
    found = facts.load(slug)
    invented = found.arxiv.id == UNKNOWN_ARXIV
    place = f"book/papers/{slug}.yaml"
    problems = [f"{place}: arxiv.id is still {UNKNOWN_ARXIV}, as the scaffold wrote it: fill in the paper's facts"]
    return (problems if invented else []) + _cited([found.citation])


def _manifest(slug: str) -> list[str]:
    manifest = load_manifest(slug)
    for scale in SCALES:
        manifest.at(scale)  # whether `when` names parameters that there are
    artefacts = manifest.artefacts
    bare = [a.id for a in artefacts if a.source.value.rehearsed and "paper" in a.scales and a.miniature is None]
    found = [f"data_manifests/{slug}.yaml: {name} comes from a hub and needs a miniature" for name in bare]
    return found + _cited([a.citation for a in artefacts if a.citation])


def _cited(keys: list[str]) -> list[str]:
    path = root() / "book" / "references.bib"
    text = read_text(path, "book/references.bib") if path.is_file() else ""
    known = set(re.findall(r"^@\w+\{([^,\s]+)", text, re.MULTILINE))
    return [f"book/references.bib has no entry {key!r}" for key in keys if key not in known]


def _records(slug: str) -> list[str]:
    """Expected metrics and published records can be read; a record of the old kind has the claims of the facts."""
    expected = record.expected(slug)
    if expected is None:
        return [f"notebooks/expected/{slug}.json does not exist: run `reprobook refresh {slug}`"]
    claims = set(facts.load(slug).claims)
    return unexplained(slug, expected) + [
        f"book/results/{scale}/{slug}.seed{found.seed}.json has other claims than the facts: {', '.join(sorted(other))}"
        for scale in ("laptop", "paper")
        for found in record.results(slug, scale)
        if not found.effects and (other := claims ^ set(found.claims))  # effects: verdicts are computed
    ]


def _effects(slug: str) -> list[str]:
    """Every effect that a test or control names is recorded by a cell, and was recorded by the runs there are."""
    paper, recorded = facts.load(slug), effect_names(slug)
    found = [
        f"book/papers/{slug}.yaml: no cell records the effect {name!r} of {' and '.join(claims)}"
        for scale in ("laptop", "paper")
        for name, claims in paper.effects_at(scale).items()
        if not recorded.fullmatch(name)
    ]
    for scale in () if found else SCALES:
        if measured := {name for each in record.results(slug, scale) for name in each.effects}:
            check_effects(paper, scale, measured, all_runs=True)
    return list(dict.fromkeys(found))


def _sets(slug: str) -> list[str]:
    """The records of a scale are one set: all with effects or none, and made by one code. Seeds that extend a set come
    from a later commit; then what the numbers hang on must be the same in all, by content."""
    found = []
    for scale in ("laptop", "paper"):
        records, place = record.results(slug, scale), f"book/results/{scale}"
        new = [each for each in records if each.effects]
        if new and len(new) < len(records):
            old = ", ".join(str(each.seed) for each in records if not each.effects)
            found.append(f"{place}: seeds {old} of {slug} are of the old kind: delete them or run them again")
        by = [_made_by(each) for each in new]
        if len(commits := {each.commit for each in new}) > 1 and (None in by or by[1:] != by[:-1]):
            found.append(
                f"{place}: the records of {slug} come from {len(commits)} commits that differ: one set, one code"
            )
    return found


def _made_by(made: record.Record) -> dict[str, Any] | None:
    """Cells, definitions, facts, packages, data and parameters but for the seed; None if the record has no content."""
    if made.content is None:
        return None
    return {**made.content, "digest": None, "params": {k: v for k, v in made.content["params"].items() if k != "seed"}}


def unexplained(slug: str, expected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Expected metrics with a loose tolerance and no reason for it."""
    return [
        f'notebooks/expected/{slug}.json: the tolerance of {name!r} is loose: say why (`"why": ...`) or tighten it'
        for name, entry in expected.items()
        if is_loose(entry) and not entry.get("why")
    ]


def is_loose(entry: Mapping[str, Any]) -> bool:
    """Whether an expected metric may move by more than 5 % (and by more than rounding does)."""
    value = abs(entry["value"] or 0.0)
    return entry["rtol"] > LOOSE if "rtol" in entry else entry["atol"] > max(LOOSE * value, TINY)


def _rooms(slug: str) -> list[str]:
    """The method and its tests exist, and the book knows the chapter."""
    base = root()
    rooms = {
        f"lib/reprobook/papers/{slug}": [f"lib/reprobook/papers/{slug}.py", f"lib/reprobook/papers/{slug}/__init__.py"],
        f"lib/tests/papers for {slug}": [f"lib/tests/papers/test_{slug}.py", f"lib/tests/papers/{slug}"],
    }
    found = [f"{name} is missing" for name, paths in rooms.items() if not any((base / p).exists() for p in paths)]
    toc = base / "book" / "_toc.yml"
    listed = toc.is_file() and re.search(rf"^\s*- file: notebooks/{slug}\s*$", read_text(toc, toc.name), re.MULTILINE)
    return found if listed else [*found, f"book/_toc.yml does not list notebooks/{slug}"]
