"""Citations: links that JupyterLab follows, and a list that holds what is cited and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from reprobook import ReprobookError
from reprobook.authoring.citations import in_page, readable

BIBLIOGRAPHY = r"""
@article{many, title = {A {Great} Idea}, author = {{\"O}st, Ada and Doe, Bob and Roe, Carl}, year = {2024},
  eprint = {2401.00001}, archiveprefix = {arXiv}, journal = {Some Journal}}
@misc{two, title = {Two of us}, author = {van der Berg, Eva and Li, Wei}, year = {2020}, url = {https://example.org/two}}
@misc{others, title = {A team}, author = {Smith, Jo and others}, year = {1999}}
@misc{never, title = {Never cited}, author = {Nobody, N.}, year = {2001}}
@misc{ageless, title = {Maps}, author = {{Map Makers}}, howpublished = {printed}}
"""


@pytest.fixture
def book(checkout: Any) -> Any:
    checkout.write("book/references.bib", BIBLIOGRAPHY)
    return checkout


def cited(*texts: str) -> list[str]:
    notebook = new_notebook(cells=[new_markdown_cell(text) for text in texts])
    once = readable(notebook)
    assert readable(once) == once, "a second time changes something"
    return [cell.source for cell in once.cells]


def test_roles_become_links_to_a_list_of_what_is_cited(book: Any) -> None:
    text, end = cited(
        "Öst et al. (2024)\n{cite}`many` say so; others {cite}`two,others` with maps {cite:p}`ageless` do not.",
        "Exercises.\n\n## References\n\n```{bibliography}\n:filter: docname in docnames\n```",
    )
    assert text == (
        "[Öst et al. (2024)](#many) say so; others ([van der Berg and Li, 2020](#two); [Smith et al., 1999](#others)) "
        "with maps ([Map Makers](#ageless)) do not."
    )
    assert end.splitlines() == [
        "Exercises.", "", "## References", "",
        '- <a id="ageless"></a>Map Makers. Maps. printed.',
        '- <a id="others"></a>Smith et al. (1999). A team.',
        '- <a id="two"></a>van der Berg and Li (2020). [Two of us](https://example.org/two).',
        '- <a id="many"></a>Öst et al. (2024). [A Great Idea](https://arxiv.org/abs/2401.00001). Some Journal.',
    ]  # fmt: skip


def test_the_list_follows_when_a_citation_goes(book: Any) -> None:
    _, end = cited("Only [Smith et al., 1999](#others).", '## References\n\n- <a id="two"></a>van der Berg (2020).')
    assert end == '## References\n\n- <a id="others"></a>Smith et al. (1999). A team.'


def test_an_unknown_key_is_an_error_and_code_stays(book: Any) -> None:
    with pytest.raises(ReprobookError, match="no entry 'nobody1900'"):
        cited("{cite}`nobody1900`")
    notebook = new_notebook(cells=[new_code_cell("text = '{cite}`two`'")])
    assert readable(notebook) == notebook


def test_pages_get_links_that_need_no_target_of_sphinx() -> None:
    assert in_page("see [A, 2024](#many) and [x](y.md)") == 'see <a href="#many">A, 2024</a> and [x](y.md)'
