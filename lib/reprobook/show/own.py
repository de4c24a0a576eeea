"""A run laid over the figure of the committed records: the marks of its own figure, as crosses in the same panels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from reprobook.show.figures import figure

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MOST_CROSSES = 9  # of a line


def with_run(
    draw: Callable[..., Figure], found: Sequence[pd.DataFrame | None], own: Sequence[pd.DataFrame] | None,
    caption: str, this: str, numbered: Callable[[str], str],
) -> None:  # fmt: skip
    """Show what ``draw`` makes of the tables ``found`` of records (nothing if one is missing), and in it or below it
    what it makes of those of a run, ``own`` (None: not wanted). ``this`` names the run, ``numbered`` counts figures."""
    if any(table is None for table in found):
        return
    import matplotlib.pyplot as plt

    fig, drawn = draw(*found), None
    there = plt.get_fignums()
    try:
        drawn = draw(*own) if own is not None else None
    except (LookupError, ValueError, TypeError):  # a run of few rows may lack one that the figure names
        for begun in set(plt.get_fignums()) - set(there):
            plt.close(begun)
    crossed = drawn is not None and lay_over(fig, drawn)
    figure(fig, numbered(f"{caption} Crosses: {this}." if crossed else caption))
    if drawn is not None and not crossed:
        figure(drawn, f"The same of {this}.")


def lay_over(fig: Figure, own: Figure) -> bool:
    """Draw the marks of ``own`` (lines, dots, ends of bars) into ``fig`` as crosses; both come from one function.

    Panels belong together by title or place, rows and columns by their labels, colours by the legend; what is the same
    in both (the paper's points, a closed form) is not drawn twice. Returns False, and draws nothing, where a panel has
    only surfaces (heat maps, stacks, pictures), on which nothing can be laid."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    plt.close(own)
    for each in (fig, own):
        each.draw_without_rendering()  # makes the labels of ticks
    pairs = [(_partner(fig, own, k), axes) for k, axes in enumerate(own.axes) if axes.has_data()]
    if not pairs or any(axes.images or not list(_marks(axes)) for _, axes in pairs):
        return False
    for base, axes in pairs:
        if base is not None:
            _lay_over(base, axes)
    cross = Line2D([], [], ls=":", marker="X", color="0.4", mec="k")
    fig.legend([cross], ["this run"], loc="outside upper right")
    return True


def _partner(fig: Figure, own: Figure, k: int) -> Axes | None:
    """The panel of ``fig`` with the title of panel ``k`` of ``own``, or the one at its place."""
    same = [axes for axes in fig.axes if axes.get_title() == own.axes[k].get_title()]
    return same[0] if len(same) == 1 else fig.axes[k] if len(fig.axes) == len(own.axes) else None


def _lay_over(base: Axes, axes: Axes) -> None:
    import numpy as np

    known = [*map(_data, base.lines), *((x, y) for x, y, _ in _marks(base))]
    colours, names = {name: line.get_color() for line, name in _named(base)}, dict(_named(axes))
    places = _places(base, axes, "x"), _places(base, axes, "y")
    seen = []
    for x, y, line in list(_marks(axes)):
        x, y = places[0](x), places[1](y)
        there = np.isfinite(x) & np.isfinite(y)  # not: a row that the figure doesn't have
        if not there.any() or any(np.array_equal(x, a, True) and np.array_equal(y, b, True) for a, b in known):
            continue
        colour = "0.4" if line is None else colours.get(names.get(line, ""), line.get_color())
        if line is not None and line.get_transform() != axes.transData:  # from edge to edge
            level = (base.axhline, y) if len(set(y)) == 1 else (base.axvline, x)
            level[0](level[1][0], color=colour, lw=1.4, ls=(0, (1, 1)))
            continue
        joined = line is not None and line.get_linestyle() not in ("None", "") and len(x) > 1
        (cross,) = base.plot(x, y, ls=":" if joined else "none", lw=1.4, color=colour, marker="X", ms=7, zorder=5)
        cross.set(markeredgecolor="k", markeredgewidth=0.7, markevery=max(1, len(x) // MOST_CROSSES))
        seen.append((x, y))
    for name, k in (("x", 0), ("y", 1)):
        if seen:
            _include(base, name, np.concatenate([each[k] for each in seen]))


def _marks(axes: Axes) -> Iterator[tuple[np.ndarray, np.ndarray, Line2D | None]]:
    """``(x, y, line)`` of every line, set of dots and row of bars (line: None), without ends of error bars and without
    strokes, which mark a mean of what is drawn as well."""
    import numpy as np
    from matplotlib.collections import PathCollection
    from matplotlib.container import BarContainer, ErrorbarContainer

    caps = {id(cap) for each in axes.containers if isinstance(each, ErrorbarContainer) for cap in each[1]}
    for line in axes.lines:
        x, y = _data(line)
        bare = line.get_marker() in ("None", "", None)
        stroke = bare and len(x) == 2 and (x[0] == x[1] or y[0] == y[1]) and line.get_transform() == axes.transData
        if id(line) not in caps and not stroke and (np.isfinite(x) & np.isfinite(y)).any():
            yield x, y, line
    for dots in axes.collections:
        if isinstance(dots, PathCollection):
            yield *np.asarray(dots.get_offsets(), dtype=float).T, None
    for bars in axes.containers:
        if isinstance(bars, BarContainer):
            ends = [(b.get_x() + b.get_width() / 2, b.get_height()) if bars.orientation == "vertical"
                    else (b.get_width(), b.get_y() + b.get_height() / 2) for b in bars.patches]  # fmt: skip
            yield *np.asarray(ends, dtype=float).T, None


def _named(axes: Axes) -> Iterator[tuple[Line2D, str]]:
    """Lines with what the legend calls them."""
    from matplotlib.container import ErrorbarContainer

    bars = [(each[0], each.get_label()) for each in axes.containers if isinstance(each, ErrorbarContainer)]
    for line, name in [*((line, line.get_label()) for line in axes.lines), *bars]:
        if line is not None and not str(name).startswith("_"):
            yield line, str(name)


def _data(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    x, y = (np.asarray(values, dtype=float) for values in line.get_data(orig=False))
    return x, y


def _places(base: Axes, axes: Axes, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """From places on the ``name`` axis of ``axes`` to those on that of ``base``: by label where labels are names."""
    import numpy as np

    there, here = _labels(base, name), _labels(axes, name)
    if not here or not there or all(_is_number(label) for label in here):
        return lambda values: values
    at = np.asarray(list(here.values()))
    to = np.asarray([there.get(label, np.nan) for label in here])

    def moved(values: np.ndarray) -> np.ndarray:
        nearest = np.abs(values[:, None] - at).argmin(1)
        return to[nearest] + values - at[nearest]

    return moved


def _labels(axes: Axes, name: str) -> dict[str, float]:
    axis = axes.xaxis if name == "x" else axes.yaxis
    labels = [label.get_text() for label in axis.get_ticklabels()]
    return {label: place for label, place in zip(labels, axis.get_ticklocs(), strict=False) if label}


def _is_number(text: str) -> bool:
    try:
        float(text.replace("−", "-").replace(",", ""))
    except ValueError:
        return text.startswith("$")  # powers of ten
    return True


def _include(axes: Axes, name: str, values: np.ndarray) -> None:
    """Widen an axis that would not show all ``values``."""
    import numpy as np

    low, high = sorted(getattr(axes, f"get_{name}lim")())
    log = getattr(axes, f"get_{name}scale")() == "log"
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if not len(values) or (low <= values.min() and values.max() <= high):
        return
    pad: Any = 0.04 * (max(high, values.max()) - min(low, values.min()))
    low, high = (min(low, values.min() / 1.2), max(high, values.max() * 1.2)) if log else (
        min(low, values.min() - pad), max(high, values.max() + pad))  # fmt: skip
    inverted = getattr(axes, f"{name}axis_inverted")()
    getattr(axes, f"set_{name}lim")(*((high, low) if inverted else (low, high)))
