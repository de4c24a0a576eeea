"""The stored form of a notebook, and its shape: a good one passes, each fault is found and named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from reprobook.authoring.notebook import CHECKED, SECTIONS, check_shape, effect_names, normalise, write

SLUG = "block_diffusion"
PICTURE = {"image/png": "iVBORw0KGgo=", "text/plain": "figure"}


def _text(text: str) -> Any:
    return new_output("stream", name="stdout", text=text)


def _figure() -> list[Any]:
    return [new_output("display_data", PICTURE), new_output("display_data", {"text/markdown": "**Figure 1.** It."})]


def good() -> nbformat.NotebookNode:
    """A notebook in the shape of a chapter: 26 cells, executed."""
    cells = [new_markdown_cell("# A title\n\n## The paper in one page\n\nThe idea.")]
    cells += [new_markdown_cell(f"## {name}\n\nText.") for name in SECTIONS[1:]]
    code = {
        1: new_code_cell("scale = 'smoke'  # scale", metadata={"tags": ["parameters"]}),
        2: new_code_cell("x = 1\nch.figure(fig, 'It.')", outputs=_figure()),
        3: new_code_cell("y = x", outputs=[_text("1 row\n")]),
        4: new_code_cell("size = 3\nch.figure(fig, f'{size}')", outputs=_figure(), metadata={"tags": ["display"]}),
    }
    cells[2:2] = code.values()
    cells += [new_code_cell(f"z{k} = y") for k in range(11)]
    cells.append(new_code_cell("ch.finish()", metadata={"tags": [CHECKED]}, outputs=[_text("smoke metrics: fine\n")]))
    for count, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
    return normalise(new_notebook(cells=cells))


def _shape(checkout: Any, nb: nbformat.NotebookNode) -> list[str]:
    nbformat.write(nb, checkout.root / "notebooks" / f"{SLUG}.ipynb")
    return check_shape(SLUG)


def test_a_good_notebook_has_no_problem(checkout: Any) -> None:
    assert _shape(checkout, good()) == []


def test_a_display_cell_may_use_a_name_that_the_next_cells_bind_themselves(checkout: Any) -> None:
    nb = good()
    nb.cells[5].source = "z0 = [y for y in range(3)]\nch.figure(fig, f'{(lambda x: x)(z0)}')"
    assert not [line for line in _shape(checkout, nb) if "anew" in line]
    nb.cells[-2].source = "z10 += 1"
    nb.cells[5].source = "z10 = 2\nch.figure(fig, 'It.')"
    assert [line for line in _shape(checkout, nb) if "binds z10 anew" in line]


def _set(cell: int, **changes: Any) -> Callable[[nbformat.NotebookNode], None]:
    return lambda nb: nb.cells[cell].update(changes)


def _drop(*cells: int) -> Callable[[nbformat.NotebookNode], None]:
    def change(nb: nbformat.NotebookNode) -> None:
        nb.cells = [cell for k, cell in enumerate(nb.cells) if k not in cells]

    return change


def _tags(cell: int, *tags: str) -> Callable[[nbformat.NotebookNode], None]:
    return lambda nb: nb.cells[cell].update(metadata=nbformat.from_dict({"tags": list(tags)}))


def _prints(text: str) -> Callable[[nbformat.NotebookNode], None]:
    return _set(4, outputs=[_text(text)])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_set(8, source="## Approach\n\nText."), "sections (##) must be"),
        (_set(0, source="Text."), "needs one title"),
        (_drop(*range(15, 25)), "16 cells; a chapter has 25 to 45"),
        (_set(4, source="y = x\n" * 31), "cell 5 has 31 lines"),
        (_set(4, source=""), "cell 5 has 0 lines"),
        (_set(4, source=f"y = {'x' * 102}"), "cell 5 has a line of 106 characters"),
        (_tags(4, "hidden"), "cell 5 has the unknown tag hidden"),
        (_tags(2), "0 cells tagged parameters"),
        (_tags(25), "the last code cell must call ch.finish() and have the tag NBVAL_CHECK_OUTPUT"),
        (_set(25, source="print()"), "the last code cell must call ch.finish()"),
        (_set(4, execution_count=9), "not in its stored form"),
        (_set(4, execution_count=None), "not stored as executed"),
        (_set(4, outputs=[new_output("error", ename="E", evalue="e", traceback=[])]), "cell 5 stores an error"),
        (_set(4, outputs=[new_output("stream", name="stderr", text="w")]), "cell 5 stores standard error"),
        (_set(4, outputs=[new_output("display_data", {"image/svg+xml": "<svg/>"})]), "widget or SVG"),
        (_set(3, outputs=_figure()[:1]), "cell 4 shows a picture without a caption"),
        (_set(3, outputs=[]), "1 figures; a chapter has at least 2"),
        (_prints("in /home/reader/data.bin"), "cell 5 stores an absolute path: '/home/reader'"),
        (_prints("in C:\\Users\\x"), "cell 5 stores an absolute path"),
        (_prints("<Model object at 0x7f55f76a97d0>"), "cell 5 stores a memory address"),
        (_prints("100%|#####| 3/3"), "cell 5 stores a progress bar"),
        (_prints("run of 2025-03-01 12:30"), "cell 5 stores a time of day"),
        (_prints("hf_abcdefghijklmnopqrstuvwx"), "cell 5 stores a token"),
        (_prints("sk-proj-abcdefghijklmnopqrstuvwx"), "cell 5 stores a token"),
        (_prints("serving on localhost:8888"), "cell 5 stores a host: 'localhost:8888'"),
        (_prints("10.0.0.7:22"), "cell 5 stores a host"),
        (_prints("node gpu-4.internal"), "cell 5 stores a host"),
        (_prints("done at 12:31:05"), "cell 5 stores a time of day"),
        (_prints("loss 2.791470051"), "cell 5 stores a number that is not rounded: '2.791470051'"),
        (_set(4, outputs=[new_output("display_data", {"application/javascript": "x"})]), "cell 5 stores a script"),
        (_set(4, outputs=[new_output("display_data", {"text/html": "<script>x</script>"})]), "cell 5 stores a script"),
        (_tags(3, "display"), "cell 4 is tagged display, but defines x, which cells that count use"),
        (_set(5, source="ch.metric('a', 1)"), "cell 6 is tagged display, but calls ch.metric"),
        (_set(5, source="y = 2\nch.figure(fig, 'It.')"), "cell 6 is tagged display, but binds y anew, which a later"),
        (_set(5, source="def y():\n    return 2"), "cell 6 is tagged display, but binds y anew"),
    ],
)
def test_faults_of_shape(checkout: Any, change: Callable[[Any], None], problem: str) -> None:
    nb = good()
    change(nb)
    found = _shape(checkout, nb)
    assert any(problem in line for line in found), found


def short() -> nbformat.NotebookNode:
    """A notebook of the new kind: as :func:`good`, with about as much prose as code."""
    nb = good()
    del nb.cells[15:19]
    for count, cell in enumerate((cell for cell in nb.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
    return normalise(nb)


def _long(*cells: int) -> Callable[[nbformat.NotebookNode], None]:
    return lambda nb: [nb.cells[k].update(source="y = x\n" * 9) for k in cells] and None


def test_a_short_notebook_has_no_problem(checkout: Any) -> None:
    nb = short()
    nb.cells[3]["source"] = "y = x\n" * 24 + "z = dict(below=y)"
    nb.cells[4]["source"] += "\n# a call of holds= in words"
    nbformat.write(normalise(nb), checkout.root / "notebooks" / f"{SLUG}.ipynb")
    assert check_shape(SLUG, judged=True) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_set(4, source="y = x\n" * 26), "cell 5 has 26 lines; 1 to 25 are allowed"),
        (_set(4, source=""), "cell 5 has 0 lines"),
        (_long(3, 4, 5, 14, 15, 16), "half of the code cells have more than 8 lines"),
        (_set(1, source="## Parameters\n\n" + "word " * 251), "cell 2 has 253 words; 1 to 250 are allowed"),
        (_drop(7, 8, 9, 10, 11, 12), "4 prose cells and 11 code cells"),
        (_drop(3, 14, 15, 16, 17, 18), "10 prose cells and 5 code cells"),
        (_set(4, source="ch.claim('C1', value={},\n    holds=True)"), "cell 5 decides with holds="),
        (_set(5, source="ch.compare('gain', a, b)"), "cell 6 is tagged display, but calls ch.compare"),
        (_set(5, source="ch.recomputed('sums', frame)"), "cell 6 is tagged display, but calls ch.recomputed"),
    ],
)
def test_faults_of_a_notebook_of_the_new_kind(checkout: Any, change: Callable[[Any], None], problem: str) -> None:
    nb = short()
    change(nb)
    nbformat.write(nb, checkout.root / "notebooks" / f"{SLUG}.ipynb")
    found = check_shape(SLUG, judged=True)
    assert any(problem in line for line in found), found


def test_names_of_recorded_effects(checkout: Any) -> None:
    checkout.notebook(
        "ch.compare('gain EIE', a, b, unit='accuracy', over='question')",
        "for k in (1, 2):\n    ch.exact(f'rows of {k}', k, unit='rows')\nch.table('no effect', frame)",
        "ch.effect(name='slope', values=v, unit='nats', over='text')",
    )
    names = effect_names(SLUG)
    recorded = ["gain EIE", "rows of 2", "slope"]
    assert [name for name in [*recorded, "gain", "rows of ", "no effect"] if names.fullmatch(name)] == recorded
    checkout.notebook("ch.metric('a', 1)")
    assert not effect_names(SLUG).fullmatch("")
    checkout.notebook("for name, v in found.items():\n    ch.effect(name, v, unit='nats', over='text')")
    assert effect_names(SLUG).fullmatch("any name at all")


def test_pages_of_the_web_are_not_paths_of_this_machine(checkout: Any) -> None:
    nb = good()
    nb.cells[4]["outputs"] = [_text("see https://example.org/home/page and book/papers, 3/4 of 1/2; and/or </tmp>\n")]
    assert _shape(checkout, nb) == []


def test_a_metric_is_printed_with_the_decimals_that_its_tolerance_supports(checkout: Any) -> None:
    checkout.write(
        f"notebooks/expected/{SLUG}.json",
        '{"a": {"value": 2.79147, "rtol": 0.05}, "b": {"value": 31.4159, "atol": 0.001}}',
    )
    for text, problem in [
        ("loss 2.7915", "cell 5 prints 2.7915, but 'a' is only sure to 0.1: print fewer decimals"),
        ("loss 2.8, 2.79", None),
        ("another number, 2.7912", None),
        ("b is 31.416 or 31.4159", None),
        ("b is 31.41590", "cell 5 prints 31.41590, but 'b' is only sure to 0.001"),
    ]:
        nb = good()
        nb.cells[4]["outputs"] = [_text(f"{text}\n")]
        found = _shape(checkout, nb)
        assert (found == []) if problem is None else problem in found[0], found


def test_the_name_of_the_host_is_found(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nb = good()
    nb.cells[4]["outputs"] = [_text("computed on Workhorse-7, in python\n")]
    monkeypatch.setattr("socket.gethostname", lambda: "workhorse-7.example.org")
    assert _shape(checkout, nb) == ["cell 5 stores the name of this host: 'Workhorse-7'"]
    monkeypatch.setattr("socket.gethostname", lambda: "python")
    assert _shape(checkout, nb) == []


def test_size(checkout: Any) -> None:
    nb = good()
    nb.cells[3]["outputs"][0]["data"]["image/png"] = "A" * 1_600_000
    assert any("1.6 MB; at most 1.5" in line for line in _shape(checkout, nb))


def test_what_is_not_a_notebook(checkout: Any) -> None:
    assert check_shape(SLUG) == [f"notebooks/{SLUG}.ipynb does not exist"]
    checkout.write(f"notebooks/{SLUG}.ipynb", "{")
    assert check_shape(SLUG)[0].startswith("not a valid notebook")


def test_what_papermill_and_widgets_leave_is_removed(checkout: Any) -> None:
    """Execute with plain papermill, as a reader would, and normalise."""
    path = checkout.notebook(
        """
        import sys, warnings
        print("a"); sys.stdout.flush(); print("b")
        print("noise", file=sys.stderr)
        """,
        "import ipywidgets\nipywidgets.IntSlider()",
        "3 + steps",
    )
    command = [sys.executable, "-m", "papermill", str(path), str(path), "-p", "steps", "4", "--no-progress-bar"]
    subprocess.run(command, check=True, capture_output=True)
    raw = nbformat.read(path, as_version=4)
    nb = normalise(raw)
    assert "papermill" in raw.metadata and set(nb.metadata) == {"kernelspec", "language_info"}
    assert [cell.metadata for cell in nb.cells] == [{}, {"tags": ["parameters"]}, {}, {}, {}]
    outputs = [[dict(output) for output in cell.get("outputs", [])] for cell in nb.cells]
    assert outputs[2] == [{"output_type": "stream", "name": "stdout", "text": "a\nb\n"}]
    assert outputs[3] == []
    assert outputs[4][0]["data"] == {"text/plain": "7"} and outputs[4][0]["execution_count"] == 4
    assert [cell.execution_count for cell in nb.cells if cell.cell_type == "code"] == [1, 2, 3, 4]
    assert nbformat.writes(normalise(nb)) == nbformat.writes(nb)
    write(nb, path)
    subprocess.run(command, check=True, capture_output=True)
    assert nbformat.writes(normalise(nbformat.read(path, as_version=4))) + "\n" == _written(nb, path)


def _written(nb: nbformat.NotebookNode, path: Path) -> str:
    write(nb, path)
    return path.read_text("utf-8")
