"""A stored notebook becomes a page: what is folded, what goes, what its head says."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import nbformat
import pytest
from reprobook import project
from reprobook.authoring import page as page_module
from reprobook.authoring.page import as_page
from reprobook.authoring.standing import standing, version

if TYPE_CHECKING:
    from reprobook.authoring.standing import Standing

CHECKED = "C1 recorded; a smoke run is no evidence\n"
PNG = base64.b64encode(b"\x89PNG stands for a picture").decode()


@pytest.fixture(scope="module")
def stasc() -> Standing:
    return standing("stasc")


def notebook() -> nbformat.NotebookNode:
    output, stream = nbformat.v4.new_output, lambda text: nbformat.v4.new_output("stream", text=text)
    picture = [
        output("display_data", {"image/png": PNG}, metadata={"image/png": {"alt": "a\nloop"}}),
        output("display_data", {"text/markdown": "**Figure 1.** The loop."}),
    ]
    verdicts = [output("display_data", {"text/html": "<td><strong>C1</strong> says</td><td><strong>C2</strong></td>"})]
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n## The paper in one page\n\nProse."),
        nbformat.v4.new_code_cell("import a", id="imports"),
        nbformat.v4.new_code_cell("draw()", id="hero", outputs=picture, metadata={"tags": ["display", "hero"]}),
        nbformat.v4.new_code_cell("model = method(x)", id="idea"),
        nbformat.v4.new_code_cell("ch.provenance()", id="lookup"),
        nbformat.v4.new_code_cell(
            "x = 1\n" * 11, id="long", outputs=[stream("C1 recorded; a smoke run is no evidence\nkept\n")]
        ),
        nbformat.v4.new_code_cell("x = 1", id="claim", outputs=[stream("C1 recorded; a smoke run is no evidence\n")]),
        nbformat.v4.new_code_cell("ch.claims_table()", id="claims", outputs=verdicts),
        nbformat.v4.new_code_cell("ch.finish()", id="finish"),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_plumbing_and_tables_are_folded_and_the_idea_stays_open(stasc: Standing) -> None:
    cells = as_page(notebook(), stasc)[0].cells
    tags = {cell.id: set(cell.metadata.get("tags", [])) for cell in cells if cell.cell_type == "code"}
    assert tags["idea"] == set() and tags["lookup"] == {"hide-output"} and tags["finish"] == {"remove-cell"}
    assert all("hide-input" in tags[name] for name in ("imports", "hero", "long"))


def test_lines_for_checks_go_and_other_lines_stay(stasc: Standing) -> None:
    cells = {cell.id: cell for cell in as_page(notebook(), stasc)[0].cells}
    assert [output.text for output in cells["long"].outputs] == ["kept\n"] and cells["claim"].outputs == []


def test_the_head_has_the_picture_a_verdict_for_each_claim_and_links_that_lead_somewhere(stasc: Standing) -> None:
    page, picture = as_page(notebook(), stasc)
    title, head, opening = (cell.source for cell in page.cells[:3])
    assert title == "# Title" and opening.startswith("## The paper in one page")
    assert picture == base64.b64decode(PNG) and ":alt: a loop\n" in head and "\nThe loop.\n" in head
    assert [head.count(f'href="#{cid.lower()}"') for cid in stasc.found] == [1] * len(stasc.found)
    assert head.index("rb-reproduced") > head.index("#c2"), "C2 of stasc is reproduced, C1 is challenged"
    assert head.count(f"{len(stasc.records)} runs") == 1, "said once"
    assert "@misc{reprobook_stasc,\n  author = {{" in head and f"note = {{Results {version([stasc])}. The" in head
    (table,) = (cell.outputs[0].data["text/html"] for cell in page.cells if cell.get("id") == "claims")
    assert '<strong id="c1">C1' in table and '<strong id="c2">C2' in table


def test_the_words_of_a_picture_stand_where_the_builder_of_pages_looks(stasc: Standing) -> None:
    cells = {cell.id: cell for cell in as_page(notebook(), stasc)[0].cells}
    assert cells["hero"].metadata["mystnb"] == {"image": {"alt": "a loop"}}
    assert "mystnb" not in cells["claims"].metadata, "a table is no picture"


def test_tables_get_headers_for_screen_readers_and_figures_that_stay_in_one_line() -> None:
    old = '<th style="a">x</th><th scope="col" b>y</th><td>0.07 ± 0.01 (n = 3), 95 %</td>'
    new = page_module.readable(old)
    assert new.count('<th scope="col" ') == 2 and "0.07\u00a0±\u00a00.01 (n\u00a0=\u00a03), 95\u00a0%" in new


def test_listings_show_no_raw_formulas_and_roles() -> None:
    text = (
        '$$x$$\n\n```python\ndef f():\n    r"""Word :math:`c_0` of :class:`~a.B`:\n\n    .. math:: \\Delta = -2\n'
        '\n    with D.\n    $$\n    y\n    $$\n    """\n    return 1\n```\n'
    )
    assert page_module.without_markup(text) == (
        '$$x$$\n\n```python\ndef f():\n    r"""Word c_0 of a.B:\n\n    with D.\n    """\n    return 1\n```\n'
    )


def test_the_stored_notebook_is_left_alone(stasc: Standing) -> None:
    stored = notebook()
    before = nbformat.writes(stored)
    as_page(stored, stasc)
    assert nbformat.writes(stored) == before


@pytest.mark.parametrize(
    ("config", "links"), [("title: T\n", 0), ("repository: {url: https://github.com/a/b}\n", 2), ("repository:\n", 0)]
)
def test_launchers_need_the_address_of_the_repository(
    stasc: Standing, tmp_path, monkeypatch: pytest.MonkeyPatch, config: str, links: int
) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data_manifests").mkdir()
    (tmp_path / "_config.yml").write_text(config)
    monkeypatch.setenv("REPROBOOK_ROOT", str(tmp_path))
    assert page_module._launchers("stasc").count("<a href") == links


def test_every_chapter_names_its_hero_picture() -> None:
    for slug in project.chapters():
        assert page_module._hero(nbformat.read(project.notebook_path(slug), 4)), f"{slug}: tag a cell with `hero`"
