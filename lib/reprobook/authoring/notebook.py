"""The stored form of a chapter's notebook: normalised, and in the shape that all chapters share."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import record
from reprobook.authoring.citations import HEADING, LINK
from reprobook.content.key import plain_python
from reprobook.project import atomic_write, notebook_path

if TYPE_CHECKING:
    from nbformat import NotebookNode

SECTIONS = (
    "The paper in one page",
    "Parameters",
    "Data",
    "Method",
    "Training",
    "Evaluation",
    "Claims",
    "At paper scale",
    "Deviations",
    "References",
)
CHECKED = "NBVAL_CHECK_OUTPUT"
TAGS = frozenset({"parameters", "display", CHECKED, "NBVAL_IGNORE_OUTPUT", "hero", "hide-input", "hide-output"})
INNER = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp,
)  # fmt: skip
MAX_BYTES, MIN_FIGURES = 1_500_000, 2
MAX_LINES, MEDIAN_LINES, MAX_WORDS = 25, 8, 250  # of a code cell, of all code cells, of a prose cell
PROSE = (0.7, 1.5)  # prose cells for each code cell
MAX_PARAMETERS = 40  # lines of the parameters cell: each knob has a line of its own
OLD_CELLS, OLD_LINES = (25, 45), 30  # of chapters whose verdicts are not computed yet
SIGNIFICANT = 5  # digits by which a printed number is known as a metric's
EFFECTS = frozenset({"compare", "effect", "exact"})  # methods of the chapter object that record one
MAX_WIDTH = 105  # characters of a code line: longer ones scroll on the page
RECORDING = EFFECTS | {"metric", "claim", "table", "fit", "bench", "recomputed", "picture", "finish"}
_WIDGET = "application/vnd.jupyter.widget-view+json"
_UNWANTED = {  # what a stored output may not hold: it differs from machine to machine, or gives one away
    "an absolute path": r"(?<![\w./:<-])/(?:home|root|tmp|Users|work|var|opt|mnt|usr)/[\w.-]+|\b[A-Z]:\\\\?[\w.-]+",
    "a memory address": r"\b0x[0-9a-f]{6,}\b",
    "a script": r"<script\b",
    "a progress bar": r"\r|\bit/s\b|\d%\|",
    "a time of day": r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d",
    "a token": r"\b(?:hf|gh[pousr])_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b",
    "a host": r"\b(?:localhost|\d{1,3}(?:\.\d{1,3}){3}):\d+|\bip-\d+(?:-\d+){3}\b|\b[\w-]+\.(?:local|internal|lan)\b",
}
_PRINTED = {  # and what a printed text may not hold beside that
    "a time of day, as a clock shows it": r"\b\d{1,2}:\d\d:\d\d\b",
    "a number that is not rounded": r"[1-9]\d*\.\d{7,}|(?<!\d)0\.0*[1-9]\d{6,}",  # 0.0002462 is rounded
}


def normalise(nb: NotebookNode) -> NotebookNode:
    """A copy of an executed notebook without anything that only this execution knows: papermill's cells and metadata,
    widget states, standard error; execution counts run from 1, cell ids come from the cells' sources."""
    from nbformat import NotebookNode, from_dict

    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    dropped = {"injected-parameters", "papermill-error-cell-tag"}
    cells = [_plain_cell(cell) for cell in nb.cells if not dropped & set(cell.metadata.get("tags", []))]
    code = [cell for cell in cells if cell["cell_type"] == "code" and cell["source"].strip()]
    for count, cell in enumerate(code, start=1):
        ran = bool(cell["execution_count"])
        cell["execution_count"] = count if ran else None
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = cell["execution_count"]
    for cell, name in zip(cells, _ids(cells), strict=True):
        cell["id"] = name
    result = from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    assert isinstance(result, NotebookNode)
    return result


def _plain_cell(cell: NotebookNode) -> dict[str, Any]:
    tags = cell.metadata.get("tags", [])
    plain: dict[str, Any] = {
        "cell_type": cell.cell_type,
        "metadata": {"tags": list(tags)} if tags else {},
        "source": cell.source.rstrip(),
    }
    if cell.cell_type == "code":
        plain |= {"execution_count": cell.execution_count, "outputs": list(_outputs(cell.outputs))}
    return plain


def _outputs(outputs: list[NotebookNode]) -> Iterator[dict[str, Any]]:
    """Outputs without standard error and widgets; pieces of one printed text are joined."""
    printed = ""
    for output in json.loads(json.dumps(outputs)):
        if output["output_type"] == "stream":
            printed += output["text"] if output["name"] == "stdout" else ""
            continue
        if printed:
            yield {"output_type": "stream", "name": "stdout", "text": printed}
            printed = ""
        if _WIDGET not in output.get("data", {}):
            output.pop("transient", None)
            yield output
    if printed:
        yield {"output_type": "stream", "name": "stdout", "text": printed}


def _ids(cells: list[dict[str, Any]]) -> list[str]:
    seen: dict[str, int] = {}
    names = []
    for cell in cells:
        name = hashlib.sha256(f"{cell['cell_type']}\n{cell['source']}".encode()).hexdigest()[:8]
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def write(nb: NotebookNode, path: Path) -> None:
    """Store a notebook, atomically, in the layout that Jupyter writes."""
    import nbformat

    nbformat.validate(nb)
    atomic_write(path, nbformat.writes(nb) + "\n")


# ------------------------------------------------------------------------------------------------ shape


def check_shape(slug: str, judged: bool = False) -> list[str]:
    """What is wrong with the stored notebook of ``slug``, one line each; [] if it has the shape of a chapter.

    ``judged``: its verdicts are computed; chapters of the old kind keep their number and length of cells."""
    import nbformat

    path = notebook_path(slug)
    try:
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
    except FileNotFoundError:
        return [f"notebooks/{slug}.ipynb does not exist"]
    except (ValueError, nbformat.ValidationError) as error:
        return [f"not a valid notebook: {str(error).splitlines()[0]}"]
    size = path.stat().st_size
    problems = [f"{size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.1f}"] if size > MAX_BYTES else []
    if nbformat.writes(nb) != nbformat.writes(normalise(nb)):
        problems.append(f"not in its stored form: run `reprobook refresh {slug}`")
    cells = _short if judged else _old
    for check in (_headings, cells, _widths, _tags, _end, _execution, _stored_outputs, _figures, _display_cells):
        problems += check(nb.cells)
    return [*problems, *_decimals(slug, nb.cells)]


def _headings(cells: list[NotebookNode]) -> Iterator[str]:
    """One title, then the ten sections in their order."""
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^# +(.+?) *$", text, re.MULTILINE)
    if len(titles) != 1 or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        yield f"needs one title (# ...), in the first cell; found {len(titles)}"
    found = re.findall(r"^## +(.+?) *$", text, re.MULTILINE)
    if tuple(found) != SECTIONS:
        yield f"sections (##) must be {', '.join(SECTIONS)}; found {', '.join(found)}"


def _short(cells: list[NotebookNode]) -> Iterator[str]:
    """Short cells, as much prose as code, and no verdict that a cell decides."""
    code = [(k, cell.source) for k, cell in enumerate(cells, start=1) if _is_plain_code(cell)]
    prose = [(k, cell.source) for k, cell in enumerate(cells, start=1) if cell.cell_type == "markdown"]
    lengths = [len(source.splitlines()) for _, source in code]
    for (k, source), lines in zip(code, lengths, strict=True):
        if not 1 <= lines <= MAX_LINES:
            yield f"cell {k} has {lines} lines; 1 to {MAX_LINES} are allowed"
        if any(keyword.arg == "holds" for node in ast.walk(_tree(source)) for keyword in getattr(node, "keywords", [])):
            yield f"cell {k} decides with holds=: record an effect; tests and controls stand in the facts"
    if lengths and statistics.median(lengths) > MEDIAN_LINES:
        yield f"half of the code cells have more than {MEDIAN_LINES} lines: experiments belong into study.py"
    for k, source in prose:
        if not 1 <= (words := len(LINK.sub("", _without_list(source)).split())) <= MAX_WORDS:
            yield f"cell {k} has {words} words; 1 to {MAX_WORDS} are allowed"
    if code and not PROSE[0] <= len(prose) / len(code) <= PROSE[1]:
        yield f"{len(prose)} prose cells and {len(code)} code cells; there should be about as many of both"


def _without_list(source: str) -> str:
    """A cell without the list of references, which is as long as it is."""
    return "".join(source.partition(HEADING)[:2])


def _old(cells: list[NotebookNode]) -> Iterator[str]:
    if not OLD_CELLS[0] <= len(cells) <= OLD_CELLS[1]:
        yield f"{len(cells)} cells; a chapter has {OLD_CELLS[0]} to {OLD_CELLS[1]}"
    for k, cell in enumerate(cells, start=1):
        lines = len(_without_list(cell.source).splitlines())
        if not 1 <= lines <= OLD_LINES and "parameters" not in cell.metadata.get("tags", []):
            yield f"cell {k} has {lines} lines; 1 to {OLD_LINES} are allowed"


def _widths(cells: list[NotebookNode]) -> Iterator[str]:
    """Lines that fit on the page, and a parameters cell of a length that can be read."""
    for k, cell in enumerate(cells, start=1):
        lines = cell.source.splitlines()
        longest = max(map(len, lines), default=0)
        if cell.cell_type == "code" and longest > MAX_WIDTH:
            yield f"cell {k} has a line of {longest} characters; at most {MAX_WIDTH} fit on the page"
        if "parameters" in cell.metadata.get("tags", []) and len(lines) > MAX_PARAMETERS:
            yield f"cell {k} has {len(lines)} parameters; at most {MAX_PARAMETERS}"


def _is_plain_code(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])


def _tree(source: str) -> ast.Module:
    return ast.parse(plain_python(source))


def _tags(cells: list[NotebookNode]) -> Iterator[str]:
    """Only tags that mean something; one parameters cell."""
    for k, cell in enumerate(cells, start=1):
        if unknown := sorted(set(cell.metadata.get("tags", [])) - TAGS):
            yield f"cell {k} has the unknown tag {', '.join(unknown)}; tags: {', '.join(sorted(TAGS))}"
    n = sum("parameters" in cell.metadata.get("tags", []) for cell in cells)
    if n != 1:
        yield f"{n} cells tagged parameters; needs exactly one"


def _end(cells: list[NotebookNode]) -> Iterator[str]:
    """The last code cell ends the run, and nbval compares its line."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    if not code or "ch.finish()" not in code[-1].source or CHECKED not in code[-1].metadata.get("tags", []):
        yield f"the last code cell must call ch.finish() and have the tag {CHECKED}"


def _execution(cells: list[NotebookNode]) -> Iterator[str]:
    """Executed from top to bottom, in one go."""
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        yield "not stored as executed from top to bottom"


def _stored_outputs(cells: list[NotebookNode]) -> Iterator[str]:
    """No errors, no standard error, nothing of one machine or one moment."""
    for k, cell in enumerate(cells, start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"cell {k} stores {'an error' if output.output_type == 'error' else 'standard error'}"
            if {_WIDGET, "image/svg+xml"} & set(output.get("data", {})):
                yield f"cell {k} stores a widget or SVG; the static picture is a PNG"
            if "application/javascript" in output.get("data", {}):
                yield f"cell {k} stores a script"
            text = _text(output)
            patterns = _UNWANTED | _machine() | ({} if "text/markdown" in output.get("data", {}) else _PRINTED)
            for what, pattern in patterns.items():
                if found := re.search(pattern, text):
                    yield f"cell {k} stores {what}: {found[0]!r}"


def _machine() -> dict[str, str]:
    """What would give away the machine that checks, which may be the one that stored."""
    name = socket.gethostname().partition(".")[0]
    telling = len(name) > 5 and re.search(r"[\d-]", name)  # a plain word may stand in a text for other reasons
    return {"the name of this host": rf"(?i)\b{re.escape(name)}\b"} if telling else {}


def _decimals(slug: str, cells: list[NotebookNode]) -> Iterator[str]:
    """A smoke metric is printed with no more decimals than its tolerance supports: the others differ elsewhere."""
    metrics = {name: entry for name, entry in (record.expected(slug) or {}).items() if entry["value"]}
    for k, cell in enumerate(cells, start=1):
        texts = " ".join(_text(output) for output in cell.get("outputs", []))
        for number in dict.fromkeys(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", texts)):
            decimals = len(number.partition(".")[2])
            if len(number.replace(".", "").lstrip("0")) < SIGNIFICANT:
                continue  # so short that it may be any number
            for name, entry in metrics.items():
                allowed = entry.get("atol", entry.get("rtol", 0.0) * abs(entry["value"]))
                if abs(float(number) - entry["value"]) <= 0.5 * 10**-decimals and 10**-decimals < allowed / 10:
                    yield f"cell {k} prints {number}, but {name!r} is only sure to {allowed:.1g}: print fewer decimals"


def _text(output: NotebookNode) -> str:
    data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
    return "\n".join([str(output.get("text", "")), *(str(value) for value in data.values())])


def _figures(cells: list[NotebookNode]) -> Iterator[str]:
    """At least two figures, each with its caption below it."""
    n = 0
    for k, cell in enumerate(cells, start=1):
        kinds = [set(output.get("data", {})) for output in cell.get("outputs", [])]
        for j, kind in enumerate(kinds):
            if "image/png" in kind:
                n += 1
                if "text/markdown" not in set().union(*kinds[j + 1 : j + 2]):
                    yield f"cell {k} shows a picture without a caption: use ch.figure(fig, caption)"
    if n < MIN_FIGURES:
        yield f"{n} figures; a chapter has at least {MIN_FIGURES}: one of the method, one of the result"


def _display_cells(cells: list[NotebookNode]) -> Iterator[str]:
    """Cells tagged ``display`` don't count for staleness, so no number may hang on them."""
    code = [(k, cell) for k, cell in enumerate(cells, start=1) if cell.cell_type == "code"]
    counted = [_tree(c.source) for _, c in code if "display" not in c.metadata.get("tags", [])]
    names = [node for tree in counted for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | _definitions(counted)
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    for k, cell in code:
        if "display" not in cell.metadata.get("tags", []):
            continue
        tree = _tree(cell.source)
        stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        if needed := sorted((used - made) & (stored | _definitions([tree]))):
            yield f"cell {k} is tagged display, but defines {', '.join(needed)}, which cells that count use"
        later = [_tree(c.source) for j, c in code if j > k and "display" not in c.metadata.get("tags", [])]
        if lost := sorted(_lost(_bound(tree) & made, later)):
            yield f"cell {k} is tagged display, but binds {', '.join(lost)} anew, which a later cell that counts uses"
        calls = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _of_chapter(node)}
        if wrong := sorted(calls & RECORDING):
            yield f"cell {k} is tagged display, but calls ch.{', ch.'.join(wrong)}"
        if {"evidence", "figure"} <= calls:
            yield f"cell {k} draws a recorded table: with ch.evidence_figure a reader's own run is drawn into it"


def _bound(tree: ast.Module) -> set[str]:
    """Names that a cell leaves behind: not the arguments and inner names of its functions and comprehensions."""
    nodes = list(_outer(tree))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    named = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return (
        stored | named | {(alias.asname or alias.name).split(".")[0] for alias in nodes if isinstance(alias, ast.alias)}
    )


def _outer(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in the scope of a cell itself. (From Python 3.12 on symtable counts the names of comprehensions.)"""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, INNER):
            yield from _outer(child)


def _lost(names: set[str], later: list[ast.Module]) -> set[str]:
    """Those of the names that a later cell uses before one binds them again."""
    lost: set[str] = set()
    for tree in later:
        lost |= names & _taken(tree)
        names = names - _bound(tree)
    return lost


def _taken(tree: ast.Module) -> set[str]:
    """Names that a cell uses and binds nowhere itself, so that it has them from cells before it."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    grown = {node.target for node in ast.walk(tree) if isinstance(node, ast.AugAssign)}  # x |= y uses x
    own = {node.id for node in names if isinstance(node.ctx, ast.Store) and node not in grown} | _definitions([tree])
    return {node.id for node in names if isinstance(node.ctx, ast.Load) or node in grown} - own


def _definitions(trees: list[ast.Module]) -> set[str]:
    """Names that functions (their arguments too), classes and imports of the cells define."""
    found = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return found


def _of_chapter(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "ch"


def effect_names(slug: str) -> re.Pattern[str]:
    """What the names of the effects that the cells record look like; a name that is computed may be any."""
    cells = [cell["source"] for cell in json.loads(notebook_path(slug).read_text("utf-8"))["cells"]
             if cell["cell_type"] == "code"]  # fmt: skip
    calls = [node for source in cells for node in ast.walk(_tree("".join(source))) if isinstance(node, ast.Call)]
    names = [
        (call.args or [each.value for each in call.keywords if each.arg == "name"])[0]
        for call in calls
        if isinstance(call.func, ast.Attribute) and _of_chapter(call.func) and call.func.attr in EFFECTS
    ]
    return re.compile("|".join(map(_pattern, names)) or "(?!)")


def _pattern(name: ast.expr) -> str:
    if isinstance(name, ast.Constant):
        return re.escape(str(name.value))
    parts = name.values if isinstance(name, ast.JoinedStr) else [name]
    return "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in parts)
