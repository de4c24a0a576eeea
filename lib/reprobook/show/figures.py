"""Figures: a shared style, curves with spread, dots with intervals, heat maps, panels, contact sheets, captions, and
figures that a reader can move."""

from __future__ import annotations

import base64
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.show.output import interactive, publish

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

LABEL, TALLER = "Smallest label", 1.6  # in a picture's metadata; by how much larger labels may make it
SHARP, RATIO = 2, "Pixel ratio"  # pixels of a figure for each that a page gives it; that number in its metadata
LARGE = 300_000  # bytes of a figure
COLUMN, LEAST_LABEL = 688, 9.2  # pixels: of a page's column at a window of 1,280, of the smallest label in it
UNSEEN = 24  # of 255 levels: error of a colour
# Okabe and Ito's colour-blind-safe colours, the ones that stand out on white first
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")


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


def legible(fig: Figure) -> float:
    """Enlarge the labels of ``fig`` that would be too small in the column of a page, and its height with them; returns
    the pixels of the smallest."""
    from matplotlib.text import Text

    per_point = fig.dpi / 72
    least = LEAST_LABEL * max(1.0, fig.get_figwidth() * fig.dpi / COLUMN) / per_point
    fig.draw_without_rendering()  # makes the labels of ticks
    texts = [text for text in fig.findobj(Text) if text.get_text().strip() and text.get_visible()]
    sizes = [float(text.get_fontsize()) for text in texts]
    for axis in (axis for axes in fig.axes for axis in (axes.xaxis, axes.yaxis)):
        axis.set_tick_params(labelsize=max([least, *(label.get_fontsize() for label in axis.get_ticklabels())]))
    for text, size in zip(texts, sizes, strict=True):
        text.set_fontsize(max(least, size))
    smallest = min(sizes, default=least)
    fig.set_figheight(fig.get_figheight() * min(max(1.0, least / smallest), TALLER))
    return round(per_point * max(least, smallest), 1)


def png(fig: Figure) -> bytes:
    """The figure as PNG on a solid white page, in as few bytes as nobody can tell, with twice the pixels that a page
    gives it (a photograph that would be too large has as many). Its metadata say which, how many pixels the smallest
    label has, and nothing that changes with the version of matplotlib."""
    smallest, image = legible(fig), b""
    for ratio in (SHARP, 1):
        metadata = {"Software": None, LABEL: f"{ratio * smallest:.1f}", RATIO: f"{ratio}"}
        stream = io.BytesIO()
        fig.savefig(stream, format="png", facecolor="white", dpi=ratio * fig.dpi, metadata=metadata)
        image = few_bytes(stream.getvalue())
        if len(image) <= LARGE:
            break
    return image


def few_bytes(image: bytes) -> bytes:
    """A PNG without transparency, its texts kept, in the fewest of 64, 128 and 256 colours that are off by no more than
    :data:`UNSEEN` in all but one of 1,000 pixels (a third of the bytes), or in all its colours where 256 are too few,
    as in photographs and smooth maps."""
    from PIL import Image, ImageChops
    from PIL.PngImagePlugin import PngInfo

    full = Image.open(io.BytesIO(image))
    plain = kept = full.convert("RGB")
    for colours in (256, 128, 64):
        few = plain.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=int(colours < 256), dither=Image.Dither.NONE)
        red, green, blue = ImageChops.difference(few.convert("RGB"), plain).split()
        errors = ImageChops.lighter(ImageChops.lighter(red, green), blue).histogram()
        if sum(errors[UNSEEN + 1 :]) > plain.width * plain.height / 1000:
            break
        kept = few
    texts, stream = PngInfo(), io.BytesIO()
    for key, value in full.info.items():
        if isinstance(key, str) and isinstance(value, str):
            texts.add_text(key, value)
    kept.save(stream, "PNG", optimize=True, pnginfo=texts)
    return stream.getvalue()


def figure(fig: Figure, caption: str) -> None:
    """Show ``fig`` as PNG and ``caption`` (Markdown) below it, then close it so that it's not shown twice."""
    import matplotlib.pyplot as plt

    if not caption.strip():
        raise ReprobookError("a figure needs a caption that says what to see in it")
    words = re.sub(r"[*_`$]", "", caption).strip()
    image = png(fig)
    plt.close(fig)
    publish_png(image, words, f"figure: {textwrap.shorten(words, 60)}")
    publish({"text/markdown": caption, "text/plain": textwrap.shorten(words, 80)})


def publish_png(image: bytes, alt: str, said: str) -> None:
    """Show the bytes of a PNG as wide as its metadata say, or as it is; ``alt`` is for who can't see it, ``said`` is
    the plain text in its place."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(image))
        width = {"width": picture.width // int(picture.info[RATIO])}
    except (KeyError, OSError):
        width = {}
    text = base64.b64encode(image).decode()
    publish({"image/png": text, "text/plain": said}, {"image/png": {"alt": alt, **width}})


def animation(image: bytes, variants: Iterable[str], caption: str) -> None:
    """Show an animated PNG, which browsers and JupyterLab play; ``variants`` are the names of what runs in it."""
    names = list(variants)
    publish_png(image, caption, f"animation: {', '.join(names)}")
    publish({"text/markdown": f"**Animation.** {caption}", "text/plain": f"animation of {len(names)} variants"})


def curves(
    frame: pd.DataFrame, x: str, y: str, hue: str | None = None, *, seed: str = "seed", xlabel: str = "",
    ylabel: str = "", title: str = "", logx: bool = False, logy: bool = False, marker: str | None = None,
    ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """Lines of ``y`` over ``x``, one per ``hue``: mean over column ``seed``, band of one standard deviation."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import AutoLocator

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
    locator = axes.xaxis.get_major_locator()
    if frame[x].dtype.kind in "iu" and isinstance(locator, AutoLocator):
        locator.set_params(integer=True)  # there is no iteration 2.5
    if hue:
        axes.legend(title=hue)
    return axes.figure  # type: ignore[return-value]


def dots(
    frame: pd.DataFrame, x: str, y: str, hue: str | None = None, *, intervals: pd.DataFrame | None = None,
    xlabel: str = "", title: str = "", zero: bool = True, ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """One dot a row of ``frame`` (a seed) at ``x`` in the line of its ``y`` (a variant), and the pooled estimate with
    its interval as a bar.

    ``hue``: a column of which every value gets its own colour and its own place in the line. ``intervals``: pooled
    values, columns ``y``, ``hue``, estimate, low, high; without it the mean of the dots and its 95 % t interval, right
    where every seed has test units of its own. ``zero``: a line at 0.
    """
    import matplotlib.pyplot as plt

    missing = [name for name in (x, y, *([hue] if hue else [])) if name not in frame.columns]
    if missing:
        raise ReprobookError(f"dots: no column {missing[0]!r}; columns: {', '.join(map(str, frame.columns))}")
    lines, kinds = list(dict.fromkeys(frame[y])), list(dict.fromkeys(frame[hue])) if hue else [None]
    axes = ax if ax is not None else plt.subplots(figsize=(7.0, 1.0 + 0.22 * len(lines) * (1 + len(kinds))))[1]
    for k, kind in enumerate(kinds):
        colour, shift = COLOURS[k % len(COLOURS)], 0.6 * ((k + 0.5) / len(kinds) - 0.5)
        for row, line in enumerate(lines):
            part = frame[(frame[y] == line) & (frame[hue] == kind)] if hue else frame[frame[y] == line]
            values = part[x].dropna()
            axes.plot(values, [row + shift] * len(values), "o", ms=4, mfc="none", color=colour, alpha=0.7)
            estimate, low, high = _interval(values, intervals, {y: line, **({hue: kind} if hue else {})})
            axes.plot([low, high], [row + shift] * 2, color=colour, lw=2.4, solid_capstyle="butt")
            axes.plot([estimate], [row + shift], "D", ms=5, color=colour)
        if hue:
            axes.plot([], [], "D-", color=colour, label=str(kind))
    if zero:
        axes.axvline(0, color="#57606a", lw=1, zorder=0)
    axes.set(xlabel=xlabel or x, title=title, ylim=(len(lines) - 0.5, -0.5))
    axes.set_yticks(range(len(lines)), [str(line) for line in lines])
    if hue:
        axes.legend(title=hue)
    return axes.figure  # type: ignore[return-value]


def _interval(values: pd.Series, given: pd.DataFrame | None, key: Mapping[str, Any]) -> tuple[float, float, float]:
    """Estimate, low and high of the row ``key`` of ``given``, or those of the mean of ``values``; NaN: no interval."""
    from scipy.stats import t

    if given is not None:
        for name, value in key.items():
            given = given[given[name] == value]
        return tuple(given[["estimate", "low", "high"]].iloc[0]) if len(given) else (math.nan,) * 3
    half = t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5 if len(values) > 1 else math.nan
    return values.mean(), values.mean() - half, values.mean() + half


def panels(
    titles: Sequence[str], *, columns: int = 0, size: tuple[float, float] = (3.5, 3.6), extra: float = 0.0,
    ylabel: str = "",
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Small multiples: one titled panel each, all with the same axes, ``ylabel`` on the first of a row. ``columns``: in
    a row (0: all); ``size``: inches of a panel; ``extra``: inches beside them for a legend or a colour bar."""
    import matplotlib.pyplot as plt

    if not titles:
        raise ReprobookError("panels: needs at least one title")
    columns = min(columns or len(titles), len(titles))
    rows = math.ceil(len(titles) / columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(size[0] * columns + extra, size[1] * rows), sharex=True, sharey=True, squeeze=False
    )
    for axis in axes.flat[len(titles) :]:
        axis.axis("off")
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    return fig, list(axes.flat[: len(titles)])


def heatmap(
    table: pd.DataFrame, *, decimals: int | None = 2, low: float | None = None, high: float | None = None,
    cmap: str = "cividis", fontsize: float = 8, rotation: float = 0, ax: Axes | None = None,
) -> AxesImage:  # fmt: skip
    """Values of ``table`` as colours, its columns along x and its index down y, each value written in (``decimals``
    None: not). ``low``, ``high``: ends of the scale; ``rotation`` of the column labels in degrees. Returns the image,
    for a colour bar."""
    import matplotlib.pyplot as plt
    import numpy as np

    axes = ax if ax is not None else plt.subplots()[1]
    values = table.to_numpy(dtype=float)
    image = axes.imshow(values, cmap=cmap, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(values):
        if decimals is not None and math.isfinite(value):
            red, green, blue = ((c + 0.055) ** 2.4 / 1.137 for c in image.cmap(image.norm(value))[:3])
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179  # where white has the higher contrast
            text = f"{value:.{decimals}f}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", fontsize=fontsize, color="w" if dark else "k")
    beside = "right" if 0 < rotation < 90 else "center"
    axes.set_xticks(range(table.shape[1]), table.columns, fontsize=fontsize, rotation=rotation, ha=beside)
    axes.set_yticks(range(table.shape[0]), table.index, fontsize=fontsize)
    axes.set(xlabel=table.columns.name or "", ylabel=table.index.name or "")
    axes.grid(False)
    return image


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


def explore(draw: Callable[..., Figure], caption: str, start: Mapping[str, Any], **controls: Any) -> None:
    """A figure that a JupyterLab user can move with ipywidgets; elsewhere the figure at ``start`` as PNG.

    ``controls``: one per argument of ``draw``, a list of values or ``(low, high, step)``. Values that ``draw`` refuses
    (:class:`ReprobookError`) show the reason in place of the figure.
    """
    if not interactive():
        figure(draw(**start), caption)
        return
    import ipywidgets as widgets
    import matplotlib.pyplot as plt
    from IPython.display import Markdown, display

    def widget(name: str) -> widgets.Widget:
        values = controls[name]
        if isinstance(values, list):
            return widgets.SelectionSlider(options=values, value=start[name], description=name, continuous_update=False)
        low, high, step = values
        return widgets.FloatSlider(start[name], min=low, max=high, step=step, description=name, continuous_update=False)

    def update(**values: Any) -> None:
        try:
            fig = draw(**values)
        except ReprobookError as error:
            print(error)
            return
        display(fig)
        plt.close(fig)

    moved = {name: widget(name) for name in controls}
    display(widgets.VBox(list(moved.values())), widgets.interactive_output(update, moved), Markdown(caption))
