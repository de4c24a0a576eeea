"""What a reader sees: tables, curves, sample grids, text samples and source listings.

Everything is shown as HTML, PNG or Markdown with a short plain text beside it, so that JupyterLab, the HTML book and
nbval accept it; nothing shown holds an address, a time or a path.
"""

from __future__ import annotations

import base64
import inspect
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
)  # Okabe-Ito, reordered
CHIPS = {  # background colours with a contrast of at least 4.5 to white text
    "reproduced": ("rb-reproduced", "#1a7f37"),
    "partly": ("rb-partly", "#8a5a00"),
    "not reproduced": ("rb-not-reproduced", "#b42318"),
    "not testable here": ("rb-not-testable", "#57606a"),
}


class Html(str):
    """Text that is already HTML: tables show it as it is."""


def style() -> None:
    """Set matplotlib's defaults: white page, legible in a light and a dark book; colour-blind-safe colours."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 3.8),
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.facecolor": "white",
            "text.color": "#1f2328",
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.grid": True,
            "grid.color": "#d8dee4",
            "grid.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "lines.linewidth": 1.8,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "font.size": 10,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "image.cmap": "cividis",
            "svg.hashsalt": "reprobook",
        }
    )


def publish(bundle: Mapping[str, str], metadata: Mapping[str, Any] | None = None) -> None:
    """Show one output given as ``{MIME type: content}``; outside a notebook print its plain text."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(bundle["text/plain"])
        return
    display(dict(bundle), raw=True, metadata=dict(metadata or {}))


# ------------------------------------------------------------------------------------------------ tables


def format_column(values: Sequence[Any], precision: int = 3) -> list[str]:
    """Readable cells: one number of decimals for the column (at most ``precision``), small numbers as 1.2e-05."""
    numbers = [float(v) for v in values if _is_number(v) and math.isfinite(v) and not float(v).is_integer()]
    decimals = min(precision, max((_decimals(v) for v in numbers), default=0))
    return [_cell(value, decimals) for value in values]


def _is_number(value: Any) -> bool:
    import numbers

    return isinstance(value, numbers.Real) and not isinstance(value, bool) and type(value).__name__ != "bool"


def _decimals(value: float) -> int:
    mantissa, _, exponent = repr(value).partition("e")
    return max(0, len(mantissa.partition(".")[2]) - int(exponent or 0))


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, Html):
        return value
    if value is None or value != value:
        return "–"
    if type(value).__name__ in ("bool", "bool_"):
        return "yes" if value else "no"
    if not _is_number(value):
        return escape(_sequence(value))
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and (abs(value) < 0.5 * 10.0**-decimals or abs(value) >= 1e9):
        return f"{value:.2e}".replace("-", "−")
    text = f"{value:,.{decimals}f}" if abs(value) >= 10_000 else f"{value:.{decimals}f}"
    return text.replace("-", "−")


def _sequence(value: Any) -> str:
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
        numeric.append(all(_is_number(v) or v is None or v != v for v in values))
    side = ["right" if right else "left" for right in numeric]
    head = "".join(
        f'<th style="text-align:{s}">{escape(str(name))}</th>' for s, name in zip(side, frame.columns, strict=True)
    )
    rows = [
        "".join(f'<td style="text-align:{s}">{c}</td>' for s, c in zip(side, row, strict=True))
        for row in zip(*cells, strict=True)
    ]
    title = f'<caption style="caption-side:top;text-align:left">{escape(caption)}</caption>' if caption else ""
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="rb-table" style="overflow-x:auto"><table class="dataframe">{title}\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


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


def chip(verdict: str) -> Html:
    """A verdict as a coloured label; the inline style serves JupyterLab, the class serves the book."""
    if verdict not in CHIPS:
        raise ReprobookError(f"unknown verdict {verdict!r}; verdicts: {', '.join(CHIPS)}")
    name, colour = CHIPS[verdict]
    look = f"background:{colour};color:#fff;border-radius:0.8em;padding:0.1em 0.7em;white-space:nowrap"
    return Html(f'<span class="rb-chip {name}" style="{look}">{verdict}</span>')


def link(url: str, text: str = "") -> Html:
    """``url`` as a link in a table."""
    return Html(f'<a href="{escape(url, quote=True)}">{escape(text or url)}</a>')


# ------------------------------------------------------------------------------------------------ figures


def png(fig: Figure) -> bytes:
    """The figure as PNG on a solid white page, without the metadata that changes with the version of matplotlib."""
    stream = io.BytesIO()
    fig.savefig(stream, format="png", facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def figure(fig: Figure, caption: str) -> None:
    """Show ``fig`` as PNG and ``caption`` (Markdown) below it, then close it so that it's not shown twice."""
    import matplotlib.pyplot as plt

    if not caption.strip():
        raise ReprobookError("a figure needs a caption that says what to see in it")
    words = re.sub(r"[*_`$]", "", caption).strip()
    image = base64.b64encode(png(fig)).decode()
    plt.close(fig)
    publish({"image/png": image, "text/plain": f"figure: {textwrap.shorten(words, 60)}"}, {"image/png": {"alt": words}})
    publish({"text/markdown": caption, "text/plain": textwrap.shorten(words, 80)})


def curves(
    frame: pd.DataFrame, x: str, y: str, hue: str | None = None, *, seed: str = "seed", xlabel: str = "",
    ylabel: str = "", title: str = "", logx: bool = False, logy: bool = False, marker: str | None = None,
    ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """Lines of ``y`` over ``x``, one per ``hue``: mean over column ``seed``, band of one standard deviation."""
    import matplotlib.pyplot as plt

    needed = [name for name in (x, y, hue) if name is not None]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise ReprobookError(f"curves: no column {missing[0]!r}; columns: {', '.join(map(str, frame.columns))}")
    axes = ax if ax is not None else plt.subplots()[1]
    for label, part in frame.groupby(hue, sort=False) if hue else [(None, frame)]:
        stats = part.groupby(x)[y].agg(["mean", "std", "count"])
        (line,) = axes.plot(stats.index, stats["mean"], marker=marker, label=None if label is None else str(label))
        if seed in part.columns and (stats["count"] > 1).any():
            spread = stats["std"].fillna(0.0)
            axes.fill_between(
                stats.index, stats["mean"] - spread, stats["mean"] + spread, color=line.get_color(), alpha=0.2, lw=0
            )
    axes.set(
        xlabel=xlabel or x,
        ylabel=ylabel or y,
        title=title,
        **({"xscale": "log"} if logx else {}),
        **({"yscale": "log"} if logy else {}),
    )
    if hue:
        axes.legend(title=hue)
    return axes.figure  # type: ignore[return-value]


def grid(
    images: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    columns: int = 4,
    size: float = 1.7,
    cmap: str | None = None,
    **options: Any,
) -> Figure:
    """A contact sheet. ``images``: arrays of shape (H, W), (H, W, 3) or (H, W, 4); ``size``: inches per image."""
    import matplotlib.pyplot as plt
    import numpy as np

    if len(images) == 0 or (titles and len(titles) != len(images)):
        raise ReprobookError(
            f"grid: needs at least one image and one title each, got {len(images)} images and {len(titles)} titles"
        )
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(size * columns, (size + 0.25 * bool(titles)) * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for k, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(np.asarray(image), cmap=cmap, interpolation="nearest", **options)
        if titles:
            axis.set_title(titles[k], fontsize=9)
    return fig


# ------------------------------------------------------------------------------------------------ text


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
