"""Tables with readable numbers, ours beside the paper's, and the labels that stand in them."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.show.output import Html, publish

if TYPE_CHECKING:
    import pandas as pd

CHIPS = {  # background colours with a contrast of at least 4.5 to white text
    "reproduced": ("rb-reproduced", "#1a7f37"),
    "partly": ("rb-partly", "#8a5a00"),
    "not reproduced": ("rb-not-reproduced", "#b42318"),
    "undecided": ("rb-undecided", "#4c5a8a"),
    "not testable here": ("rb-not-testable", "#57606a"),
    "challenged": ("rb-challenged", "#7d4e8a"),
    "never run": ("rb-never-run", ""),
}


_NUMBER = 'class="rb-number" style="text-align:right;vertical-align:top"'
_TEXT = 'style="text-align:left;vertical-align:top"'
_PROSE = 'style="text-align:left;vertical-align:top;min-width:10rem"'


def format_column(values: Sequence[Any], precision: int = 3) -> list[str]:
    """Readable cells: one number of decimals for the column (at most ``precision``), small numbers as 1.2e-05."""
    numbers = [float(v) for v in values if _is_number(v) and math.isfinite(v) and not float(v).is_integer()]
    decimals = min(precision, max((_decimals(v) for v in numbers), default=0))
    return [_cell(value, decimals) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and type(value).__name__ != "bool"


def _decimals(value: float) -> int:
    mantissa, _, exponent = repr(value).partition("e")
    return max(0, len(mantissa.partition(".")[2]) - int(exponent or 0))


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, Html):
        return value
    if is_missing(value):
        return "–"
    if isinstance(value, bool) or type(value).__name__ == "bool":  # Python's or numpy's
        return "yes" if value else "no"
    if not _is_number(value):
        return escape(joined(value))
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and (abs(value) < 0.5 * 10.0**-decimals or abs(value) >= 1e9):
        return f"{value:.2e}".replace("-", "−")
    places = 0 if isinstance(value, numbers.Integral) else decimals  # a count in a mixed column stays whole
    text = f"{value:,.{places}f}" if abs(value) >= 10_000 else f"{value:.{places}f}"
    return text.replace("-", "−")


def is_missing(value: Any) -> bool:
    """None, NaN, and pandas' NA and NaT."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (_is_number(value) and value != value)


def joined(value: Any) -> str:
    """A list as ``a, b``; anything else as its text."""
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple | set) else str(value)


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` without an index (a named or non-default one becomes columns) and with plain column names."""
    import pandas as pd

    default = isinstance(frame.index, pd.RangeIndex) or (frame.index.name is None and frame.index.dtype.kind in "iu")
    frame = frame.reset_index(drop=default and frame.index.nlevels == 1)
    frame.columns = [
        " ".join(str(part) for part in c if str(part)) if isinstance(c, tuple) else str(c) for c in frame.columns
    ]
    return frame


def html_table(frame: pd.DataFrame, caption: str = "", precision: int | Mapping[str, int] = 3) -> str:
    """``frame`` as an HTML table that scrolls sideways if narrow; ``precision``: decimals, or per column name."""
    frame = flat(frame)
    cells, numeric = [], []
    for name in frame.columns:
        values = frame[name].tolist()
        digits = precision.get(name, 3) if isinstance(precision, Mapping) else precision
        cells.append(format_column(values, digits))
        numeric.append(all(_is_number(v) or is_missing(v) for v in values))
    looks = [_NUMBER if right else _look(column) for right, column in zip(numeric, cells, strict=True)]
    head = "".join(
        f'<th scope="col" {look}>{escape(str(name))}</th>' for look, name in zip(looks, frame.columns, strict=True)
    )
    rows = [
        "".join(f"<td {look}>{cell}</td>" for look, cell in zip(looks, row, strict=True))
        for row in zip(*cells, strict=True)
    ]
    title = f'<caption style="caption-side:top;text-align:left">{escape(caption)}</caption>' if caption else ""
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="rb-table" tabindex="0" style="overflow-x:auto"><table class="dataframe">{title}\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _look(column: Sequence[str]) -> str:
    """Style of a column of texts: sentences get room, or a narrow page would show one word a line."""
    longest = max((len(line) for cell in column for line in re.sub("<(?!br)[^>]*>", "", cell).split("<br>")), default=0)
    return _PROSE if longest > 45 else _TEXT


def number(value: float | str | None) -> str:
    """One number for running text: four digits, whole from a thousand on; a text stays."""
    if value is None or isinstance(value, str):
        return value or "–"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")


def mean_sd(spread: Mapping[str, Any], n: int | None = None) -> str:
    """``1.918 ± 0.012 (n = 3)``: two digits of the spread, as many decimals of the mean; no n where it is ``n``."""
    mean, sd = spread["mean"], spread["sd"]
    count = f" (n = {spread['n']})" if spread["n"] and spread["n"] != n else ""
    if mean is None or not sd or sd < 5e-7:  # no digit of it would be seen
        return number(mean) + count
    decimals = min(6, max(0, 1 - math.floor(math.log10(sd))))
    return f"{mean:.{decimals}f} ± {sd:.{decimals}f}".replace("-", "−") + count


def lines(pairs: Mapping[str, str]) -> Html:
    """``label: text`` lines for one cell."""
    return Html("<br>".join(f"{escape(label)}: {escape(text)}" for label, text in pairs.items()) or "–")


def with_note(text: str, *notes: str) -> Html:
    """A cell with smaller lines below its text; ``text`` may be :class:`Html`."""
    main = text if isinstance(text, Html) else escape(text)
    return Html("<br>".join([main, *(f"<small>{escape(note)}</small>" for note in notes if note)]))


def _summary(frame: pd.DataFrame, caption: str) -> str:
    return f"{caption or 'table'} ({len(frame)} rows x {len(flat(frame).columns)} columns)"


def table(frame: pd.DataFrame, caption: str = "", precision: int | Mapping[str, int] = 3) -> None:
    """Show ``frame`` with readable numbers. See :func:`html_table`."""
    publish({"text/html": html_table(frame, caption, precision), "text/plain": _summary(frame, caption)})


def side_by_side(
    ours: pd.DataFrame,
    paper: pd.DataFrame,
    captions: tuple[str, str] = ("This chapter", "Paper"),
    precision: int | Mapping[str, int] = 3,
) -> None:
    """Show our table beside the paper's (one below the other on narrow screens)."""
    parts = [html_table(frame, caption, precision) for frame, caption in zip((ours, paper), captions, strict=True)]
    cells = "\n".join(f'<div style="min-width:0;max-width:100%">{part}</div>' for part in parts)
    html = (
        f'<div class="rb-side" style="display:flex;flex-wrap:wrap;gap:1.5rem;align-items:flex-start">\n{cells}\n</div>'
    )
    publish({"text/html": html, "text/plain": f"{_summary(ours, captions[0])} | {_summary(paper, captions[1])}"})


def beside(pages: Sequence[tuple[pd.DataFrame, str]], paper: tuple[pd.DataFrame, str] | None) -> None:
    """Show tables with their captions, the last one beside the paper's if there is one."""
    *first, (frame, caption) = pages
    for each in first:
        table(*each)
    if paper is None:
        table(frame, caption)
    else:
        side_by_side(frame, paper[0], (caption, paper[1]))


def chip(verdict: str) -> Html:
    """A verdict as a coloured label; the inline style serves JupyterLab, the class serves the book."""
    if verdict not in CHIPS:
        raise ReprobookError(f"unknown verdict {verdict!r}; verdicts: {', '.join(CHIPS)}")
    name, colour = CHIPS[verdict]
    colours = f"background:{colour};color:#fff" if colour else "border:1px solid currentColor"
    look = f"{colours};border-radius:0.8em;padding:0.1em 0.7em;white-space:nowrap"
    return Html(f'<span class="rb-chip {name}" style="{look}">{verdict}</span>')


def link(url: str, text: str = "") -> Html:
    """``url`` as a link in a table."""
    return Html(f'<a href="{escape(url, quote=True)}">{escape(text or url)}</a>')
