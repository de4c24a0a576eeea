"""Every chapter of the book obeys the rules that all chapters share: its notebook, parameters, facts and manifest."""

from __future__ import annotations

import pytest
from reprobook import project
from reprobook.authoring.check import problems


@pytest.mark.parametrize("slug", project.chapters())
def test_every_room_of_the_chapter_is_in_order(slug: str) -> None:
    assert problems(slug) == []


def test_the_book_has_chapters() -> None:
    assert project.chapters()
