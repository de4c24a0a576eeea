"""reprobook: the thin library behind eighteen executable chapters.

``import reprobook`` loads neither torch nor pandas; a notebook starts with ``reprobook.open_chapter(...)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ReprobookError", "__version__", "open_chapter"]

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from reprobook.chapter import Chapter


def open_chapter(slug: str, **kwargs: Any) -> Chapter:
    """Open a chapter: the one object that a notebook talks to. See :func:`reprobook.chapter.open_chapter`."""
    from reprobook.chapter import open_chapter as _open_chapter

    return _open_chapter(slug, **kwargs)
