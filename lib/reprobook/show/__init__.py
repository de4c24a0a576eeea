"""What a reader sees: tables, curves, sample grids, text samples and source listings.

Everything is shown as HTML, PNG or Markdown with a short plain text beside it, so that JupyterLab, the HTML book and
nbval accept it; nothing shown holds an address, a time or a path.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from reprobook.errors import ReprobookError
from reprobook.show.figures import COLOURS, animation, curves, dots, explore, figure, grid, heatmap, panels, png, style
from reprobook.show.output import Html, interactive, publish
from reprobook.show.own import with_run
from reprobook.show.pictures import PNG_SIGNATURE, image_bytes, markdown, picture
from reprobook.show.tables import (
    CHIPS,
    beside,
    chip,
    flat,
    format_column,
    html_table,
    joined,
    lines,
    link,
    mean_sd,
    number,
    side_by_side,
    table,
    with_note,
)

__all__ = [
    "CHIPS", "COLOURS", "PNG_SIGNATURE", "Html", "animation", "beside", "chip",
    "curves", "dots", "explore", "figure", "flat", "format_column", "grid",
    "heatmap", "html_table", "image_bytes", "interactive",
    "joined", "lines", "link", "markdown", "mean_sd", "number", "panels", "picture", "png", "publish",
    "side_by_side", "source", "source_markdown", "style", "table", "text_samples", "with_note", "with_run",
]  # fmt: skip


def text_samples(samples: Mapping[str, str | Sequence[str]], caption: str = "") -> None:
    """Show samples of text, each under its label, line breaks kept; a label may have several samples."""
    look = "white-space:pre-wrap;overflow-wrap:anywhere;border-left:3px solid #0072B2;margin:0.3em 0;padding:0 0.8em"
    parts = [f"<p>{escape(caption)}</p>"] if caption else []
    for label, texts in samples.items():
        parts.append(f"<strong>{escape(str(label))}</strong>")
        parts += [
            f'<div style="{look}">{escape(text)}</div>' for text in ([texts] if isinstance(texts, str) else texts)
        ]
    html = '<div class="rb-samples">\n' + "\n".join(parts) + "\n</div>"
    publish({"text/html": html, "text/plain": f"{caption or 'text samples'}: {', '.join(map(str, samples))}"})


def source_markdown(*objects: Any) -> str:
    """The objects' own source as Markdown: a heading line and a fenced Python block each."""
    return "\n\n".join(_listing(item) for item in objects)


def _listing(item: Any) -> str:
    item = inspect.unwrap(item) if callable(item) else item
    try:
        code = textwrap.dedent(inspect.getsource(item)).rstrip()
    except (TypeError, OSError) as error:
        raise ReprobookError(
            f"source: {type(item).__name__} has no Python source to show: give a function, class or module"
        ) from error
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * max(3, longest + 1)
    name = item.__name__ if inspect.ismodule(item) else f"{item.__module__}.{item.__qualname__}"
    return f"`{name}`\n\n{fence}python\n{code}\n{fence}"


def source(*objects: Any) -> None:
    """Show the source of functions, classes or modules as the library has it: a listing, not a copy."""
    names = ", ".join(getattr(item, "__qualname__", getattr(item, "__name__", "?")) for item in objects)
    publish({"text/markdown": source_markdown(*objects), "text/plain": f"source of {names}"})
