"""Figures: a shared style, curves with spread, contact sheets, captions, and figures that a reader can move."""

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


def animation(image: bytes, variants: Iterable[str], caption: str) -> None:
    """Show an animated PNG, which browsers and JupyterLab play; ``variants`` are the names of what runs in it."""
    text, names = base64.b64encode(image).decode(), list(variants)
    publish({"image/png": text, "text/plain": f"animation: {', '.join(names)}"}, {"image/png": {"alt": caption}})
    publish({"text/markdown": f"**Animation.** {caption}", "text/plain": f"animation of {len(names)} variants"})


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
