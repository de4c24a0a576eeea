"""What is shown: readable numbers, valid HTML, pictures with captions, and outputs that are the same every time."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from reprobook import ReprobookError, record, show
from reprobook.show.tables import format_column, html_table

CHECKOUT = re.escape(str(Path(__file__).resolve().parents[2]))
FRAME = pd.DataFrame({"model": ["A", "<B>"], "ppl": [28.23, 30.6], "n": [3, 12000], "ok": [True, None]})


class Checker(HTMLParser):
    """Collects the rows of a table and fails on tags that don't nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "br":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def cells(html: str) -> list[list[str]]:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker.rows


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    outputs: list[dict[str, str]] = []
    for module in (show, show.tables, show.figures):
        monkeypatch.setattr(module, "publish", lambda bundle, metadata=None: outputs.append(bundle))
    return outputs


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([28.23, 30.6], ["28.23", "30.60"]),  # as many decimals as the column has
        ([1.23456, 2.0], ["1.235", "2.000"]),
        ([1.0, 2.0], ["1", "2"]),
        ([1, 20000], ["1", "20,000"]),
        ([2024, 2025], ["2024", "2025"]),
        ([0.25, 0.00001], ["0.250", "1.00e−05"]),
        ([0.0, 0.5], ["0.0", "0.5"]),
        ([-0.5, None, float("nan")], ["−0.5", "–", "–"]),
        ([math.inf, -math.inf], ["∞", "−∞"]),
        ([2.5e12], ["2.50e+12"]),
        ([True, False], ["yes", "no"]),
        ([np.bool_(True), np.float32(0.5), np.int64(7)], ["yes", "0.5", "7"]),
        (["a<b", ["x", 1], pd.NA, pd.NaT], ["a&lt;b", "x, 1", "–", "–"]),
        ([show.Html("<b>x</b>")], ["<b>x</b>"]),
    ],
)
def test_cells_are_readable(values: list[Any], expected: list[str]) -> None:
    assert format_column(values) == expected


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=5), st.integers(0, 6))
def test_a_shown_number_is_the_number_to_its_last_shown_digit(values: list[float], precision: int) -> None:
    for value, text in zip(values, format_column(values, precision), strict=True):
        back = float(text.replace("−", "-").replace(",", ""))
        assert back == pytest.approx(value, rel=0.51e-2, abs=0.51 * 10.0**-precision)
        assert (back == 0) <= (abs(value) <= 0.5 * 10.0**-precision)


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        ({"mean": 1.9181, "sd": 0.0123, "n": 3}, "1.918 ± 0.012 (n = 3)"),
        ({"mean": -120.4, "sd": 35.0, "n": 5}, "−120 ± 35 (n = 5)"),
        ({"mean": 0.5, "sd": 0.0, "n": 2}, "0.5 (n = 2)"),
        ({"mean": 2.1e-9, "sd": 3.0e-10, "n": 3}, "2.1e−09 (n = 3)"),
        ({"mean": 56.985483, "sd": 7.1e-15, "n": 3}, "56.99 (n = 3)"),
        ({"mean": 1234.5, "sd": None, "n": 1}, "1,234 (n = 1)"),
        ({"mean": None, "sd": None, "n": 0}, "–"),
    ],
)
def test_mean_and_spread_have_the_same_decimals(spread: dict[str, Any], expected: str) -> None:
    assert show.mean_sd(spread) == expected


def test_an_n_that_is_said_elsewhere_is_left_out() -> None:
    spread = {"mean": 1.9181, "sd": 0.0123, "n": 3}
    assert show.mean_sd(spread, 3) == "1.918 ± 0.012" and show.mean_sd(spread, 4) == "1.918 ± 0.012 (n = 3)"


# ------------------------------------------------------------------------------------------------ tables


def test_a_table_has_no_index_and_escapes_text() -> None:
    assert cells(html_table(FRAME, "A <caption>")) == [
        ["model", "ppl", "n", "ok"],
        ["A", "28.23", "3", "yes"],
        ["<B>", "30.60", "12,000", "–"],
    ]
    html = html_table(FRAME, "A <caption>")
    assert "<B>" not in html and "A &lt;caption&gt;" in html
    assert html.startswith('<div class="rb-table" tabindex="0" style="overflow-x:auto">')
    assert html.count('class="rb-number"') == 2 * 3, "the two numeric columns, with their heads"


def test_named_indices_become_columns_and_nested_heads_one_line() -> None:
    frame = pd.DataFrame({("ppl", "mean"): [1.0], ("ppl", "sd"): [0.5]}, index=pd.Index(["A"], name="model"))
    assert cells(html_table(frame)) == [["model", "ppl mean", "ppl sd"], ["A", "1", "0.5"]]
    grouped = pd.DataFrame({"a": [1, 1], "b": [2, 3], "v": [0.5, 0.25]}).set_index(["a", "b"])
    assert cells(html_table(grouped))[0] == ["a", "b", "v"]
    filtered = pd.DataFrame({"v": [1, 2, 3]})[lambda f: f["v"] > 1]
    assert cells(html_table(filtered)) == [["v"], ["2"], ["3"]], "the leftover of a filter is no column"


def test_precision_can_be_given_per_column_and_empty_tables_are_fine() -> None:
    frame = pd.DataFrame({"a": [1.23456], "b": [1.23456]})
    assert cells(html_table(frame, precision={"a": 1}))[1] == ["1.2", "1.235"]
    assert cells(html_table(frame, precision=0))[1] == ["1", "1"]
    assert cells(html_table(frame.iloc[:0])) == [["a", "b"]]


def test_the_frame_itself_is_left_alone() -> None:
    before = FRAME.copy()
    html_table(FRAME)
    pd.testing.assert_frame_equal(FRAME, before)


def test_sentences_get_room_and_notes_stand_below() -> None:
    frame = pd.DataFrame({"id": ["C1"], "says": [show.with_note("A < B " * 10, "Table 1", "")]}, dtype=object)
    html = html_table(frame)
    assert html.count("min-width:10rem") == 2, "head and cell of the long column"
    assert "A &lt; B" in html and html.count("<br><small>Table 1</small>") == 1


def test_side_by_side_shows_both_with_their_captions(shown: list[dict[str, str]]) -> None:
    show.side_by_side(FRAME, FRAME[["model"]], ("ours", "theirs"))
    (output,) = shown
    assert len(cells(output["text/html"])) == 6
    assert output["text/html"].index("ours") < output["text/html"].index("theirs")
    assert output["text/plain"] == "ours (2 rows x 4 columns) | theirs (2 rows x 1 columns)"


def test_every_verdict_has_a_chip_that_can_be_read() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for verdict in record.VERDICTS:
        html = show.chip(verdict)
        colour = re.search("background:(#[0-9a-f]{6})", html)
        assert colour and verdict in html and 'class="rb-chip rb-' in html
        assert 1.05 / (luminance(colour[1]) + 0.05) >= 4.5, "white on this colour is hard to read"
    assert "never run" in show.chip("never run")
    with pytest.raises(ReprobookError, match="unknown verdict 'maybe'"):
        show.chip("maybe")


# ------------------------------------------------------------------------------------------------ figures


def test_curves_show_the_mean_over_seeds_and_a_band() -> None:
    frame = pd.DataFrame({"step": [0, 1] * 4, "loss": [1, 2, 3, 4, 5, 6, 5, 6], "m": ["a"] * 4 + ["b"] * 4,
                          "seed": [0, 0, 1, 1] * 2})  # fmt: skip
    axes = show.curves(frame, "step", "loss", hue="m", xlabel="step (updates)", ylabel="loss (nats)", logy=True).axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[2.0, 3.0], [5.0, 6.0]]
    assert len(axes.collections) == 2
    low, high = axes.collections[0].get_datalim(axes.transData).intervaly
    assert (low, high) == pytest.approx((2 - math.sqrt(2), 3 + math.sqrt(2)))
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("step (updates)", "loss (nats)", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    with pytest.raises(ReprobookError, match="no column 'time'; columns: step, loss, m, seed"):
        show.curves(frame, "time", "loss")


def test_one_seed_has_no_band_and_a_given_axis_is_used() -> None:
    ax = plt.subplots()[1]
    assert show.curves(pd.DataFrame({"x": [0, 1], "y": [1, 2]}), "x", "y", ax=ax) is ax.figure
    assert len(ax.collections) == 0 and len(ax.lines) == 1


def test_a_counted_axis_has_whole_ticks_unless_the_caller_chose_them() -> None:
    frame = pd.DataFrame({"iteration": [1, 2, 3], "y": [0.1, 0.2, 0.3]})
    axes = show.curves(frame, "iteration", "y").axes[0]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert not all(
        float(t).is_integer() for t in show.curves(frame.astype(float), "iteration", "y").axes[0].get_xticks()
    )
    ax = plt.subplots()[1]
    ax.set_xticks([1.5, 2.5])
    show.curves(frame, "iteration", "y", ax=ax)
    assert ax.get_xticks().tolist() == [1.5, 2.5]


def test_dots_show_every_seed_and_the_interval_of_their_mean() -> None:
    """Gains 1, 2, 3 of three seeds: 2 +- 4.303 / sqrt(3); one seed has no interval; a lost seed (NaN) no dot."""
    frame = pd.DataFrame({"gain": [1.0, 2.0, 3.0, 5.0, math.nan], "variant": ["EIE"] * 3 + ["FIF"] * 2})
    axes = show.dots(frame, "gain", "variant", xlabel="gain (accuracy)").axes[0]
    seeds, bar, mean, *other = axes.lines
    assert seeds.get_xdata().tolist() == [1, 2, 3] and seeds.get_ydata().tolist() == [0, 0, 0]
    assert bar.get_xdata() == pytest.approx([2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)], abs=1e-3)
    assert list(mean.get_xdata()) == [2] and list(other[0].get_xdata()) == [5] and np.isnan(other[1].get_xdata()).all()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["EIE", "FIF"] and axes.yaxis_inverted()
    with pytest.raises(ReprobookError, match="dots: no column 'filter'; columns: gain, variant"):
        show.dots(frame, "gain", "variant", hue="filter")


def test_dots_take_pooled_intervals_and_keep_hues_apart() -> None:
    frame = pd.DataFrame({"gain": [1.0, 2.0, 3.0, 4.0], "v": ["a"] * 4, "when": ["last", "last", "chosen", "chosen"]})
    pooled = pd.DataFrame({"v": ["a"], "when": ["chosen"], "estimate": [3.4], "low": [3.0], "high": [4.5]})
    axes = show.dots(frame, "gain", "v", "when", intervals=pooled, zero=False).axes[0]
    bars = [line for line in axes.lines if len(line.get_xdata()) and line.get_linewidth() == 2.4]
    assert np.isnan(bars[0].get_xdata()).all() and list(bars[1].get_xdata()) == [3.0, 4.5]
    assert bars[0].get_ydata()[0] < bars[1].get_ydata()[0] and bars[0].get_color() != bars[1].get_color()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["last", "chosen"]


def test_a_heat_map_says_its_values_so_that_they_can_be_read() -> None:
    table = pd.DataFrame([[0.0, -0.256], [math.nan, 1.0]], index=pd.Index([1, 3], name="N_init"), columns=["x", "y"])
    image = show.heatmap(table, low=-1, high=1)
    texts = {text.get_position(): (text.get_text(), text.get_color()) for text in image.axes.texts}
    assert texts == {(0, 0): ("0.00", "k"), (1, 0): ("−0.26", "w"), (1, 1): ("1.00", "k")}  # NaN has no number
    assert image.get_clim() == (-1, 1) and image.axes.get_ylabel() == "N_init"
    assert [text.get_text() for text in image.axes.get_yticklabels()] == ["1", "3"]
    assert not show.heatmap(table, decimals=None).axes.texts


def test_panels_share_their_axes() -> None:
    fig, axes = show.panels(["a", "b", "c"], columns=2, size=(2.0, 1.5), extra=0.5, ylabel="share")
    assert fig.get_size_inches().tolist() == [4.5, 3.0] and [ax.get_title() for ax in axes] == ["a", "b", "c"]
    assert [ax.get_ylabel() for ax in axes] == ["share", "", "share"] and len(fig.axes) == 4
    axes[1].set(xlim=(0, 7), ylim=(0, 3))
    assert axes[2].get_xlim() == (0, 7) and axes[0].get_ylim() == (0, 3)
    with pytest.raises(ReprobookError, match="needs at least one title"):
        show.panels([])


def test_a_run_is_laid_over_a_figure_by_title_label_and_colour() -> None:
    """Its panels come in another order, its rows are others, and what both show is drawn once."""
    from reprobook.show.own import lay_over

    def drawn(titles: list[str], rows: list[str], value: float) -> Any:
        fig, axes = plt.subplots(1, len(titles), squeeze=False)
        for ax, title in zip(axes[0], titles, strict=True):
            ax.plot([0.5], [0], "s", label="paper")
            ax.plot([value] * len(rows), range(len(rows)), "o", label="ours", color="C3" if title == "a" else "C4")
            ax.errorbar([0.7], [0], [0.1], fmt="o", label="more", color="C5")
            ax.set(title=title, xlim=(0, 1), yticks=range(len(rows)), yticklabels=rows)
            ax.legend()
        return fig

    base, own = drawn(["a", "b"], ["x", "y"], 0.2), drawn(["b"], ["z", "y"], 3.0)
    assert lay_over(base, own)
    a, b = base.axes
    assert len(a.lines) + 1 == len(b.lines)
    cross = b.lines[-1]
    assert cross.get_marker() == "X" and cross.get_color() == "C4"
    x, y = cross.get_data()
    assert x[1] == 3.0 and y[1] == 1 and np.isnan(y[0]), "row z is not in the figure, y is its second"
    assert b.get_xlim()[1] > 3.0 and [text.get_text() for text in base.legends[0].get_texts()] == ["this run"]
    plt.close(base)


def test_bars_and_levels_are_laid_over_and_surfaces_are_not() -> None:
    from reprobook.show.own import lay_over

    def drawn(height: float) -> Any:
        fig, ax = plt.subplots()
        ax.bar([0, 1], [height, 2.0])
        ax.barh([0, 1], [height, 2.0])
        ax.axhline(height)
        ax.scatter([height], [height])
        return fig

    base = drawn(1.0)
    before = len(base.axes[0].lines)
    assert lay_over(base, drawn(0.5))
    laid = [tuple(map(list, line.get_data())) for line in base.axes[0].lines[before:]]
    assert laid[0][1][0] == 0.5, "a level from edge to edge"
    assert laid[1:] == [([0.5], [0.5]), ([0.0, 1.0], [0.5, 2.0]), ([0.5, 2.0], [0.0, 1.0])]
    plt.close(base)
    fig, ax = plt.subplots()
    ax.stackplot([0, 1], [[1, 2]])
    assert not lay_over(fig, fig)


def test_a_grid_has_one_picture_per_image() -> None:
    fig = show.grid([np.zeros((4, 4)), np.zeros((4, 4, 3)), np.ones((4, 4))], ["a", "b", "c"], columns=2)
    assert [len(axis.images) for axis in fig.axes] == [1, 1, 1, 0]
    assert [axis.get_title() for axis in fig.axes] == ["a", "b", "c", ""]
    for images, titles in (([], []), ([np.zeros((2, 2))], ["a", "b"])):
        with pytest.raises(ReprobookError, match="one title each"):
            show.grid(images, titles)


def test_a_picture_is_the_same_bytes_every_time_and_white_behind() -> None:
    def draw() -> bytes:
        fig, ax = plt.subplots()
        ax.plot([0, 1])
        return show.png(fig)

    with plt.rc_context():
        show.style()
        first = draw()
        assert first == draw() and first[:8] == b"\x89PNG\r\n\x1a\n"
        assert b"Software" not in first and len(first) < 60_000
    pixels = plt.imread(io.BytesIO(first))
    assert pixels[0, 0].tolist()[:3] == [1.0, 1.0, 1.0] and pixels[..., 3:].min(initial=1.0) == 1.0


def test_a_drawing_has_a_palette_and_a_photograph_all_its_colours() -> None:
    from PIL import Image
    from reprobook.show.figures import few_bytes

    def picture(pixels: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()

    def same(image: bytes, pixels: np.ndarray) -> bool:
        return np.array_equal(np.asarray(Image.open(io.BytesIO(image)).convert("RGB")), pixels)

    drawing = np.full((80, 90, 3), 255, np.uint8)
    drawing[20:40, 10:80] = (0, 114, 178)
    few = few_bytes(picture(drawing))
    assert Image.open(io.BytesIO(few)).mode == "P" and same(few, drawing)
    photograph = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    assert same(few_bytes(picture(photograph)), photograph)
    with plt.rc_context():
        show.style()
        fig, ax = plt.subplots()
        ax.scatter(*np.random.default_rng(1).random((2, 200)), c=np.arange(200), alpha=0.7)
        stream = io.BytesIO()
        fig.savefig(stream, facecolor="white")
        small = few_bytes(stream.getvalue())
    assert len(small) < 0.6 * len(stream.getvalue())
    errors = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    errors -= np.asarray(Image.open(stream).convert("RGB")).astype(int)
    assert np.quantile(np.abs(errors).max(axis=2), 0.999) <= 24


def test_a_figure_has_twice_the_pixels_that_a_page_gives_it_and_a_large_photograph_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from PIL import Image

    sizes: list[tuple[int, int | None]] = []

    def note(bundle: dict[str, str], metadata: dict[str, Any] | None = None) -> None:
        if "image/png" in bundle:
            image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
            sizes.append((image.width, (metadata or {})["image/png"].get("width")))

    for module in (show.figures, show.pictures):
        monkeypatch.setattr(module, "publish", note)
    with plt.rc_context():
        show.style()
        show.figure(plt.subplots(figsize=(3.0, 2.0))[0], "A drawing.")
        fig, ax = plt.subplots(figsize=(3.0, 2.0))
        ax.imshow(np.random.default_rng(0).random((600, 900, 3)))
        show.figure(fig, "A photograph.")
        show.picture(show.image_bytes(plt.subplots(figsize=(3.0, 2.0))[0]), "A kept figure.", "a frame")
    show.picture(show.image_bytes(np.zeros((4, 5))), "A sample.", "four by five pixels")
    assert sizes == [(660, 330), (330, 330), (660, 330), (5, None)]


@pytest.mark.parametrize(("width", "points"), [(16.0, 4.0), (9.0, 5.0), (6.0, 12.0)])
def test_labels_stay_legible_in_the_column_of_a_page(width: float, points: float) -> None:
    from PIL import Image

    with plt.rc_context():
        show.style()
        fig, (ax, empty) = plt.subplots(1, 2, figsize=(width, 3))
        ax.plot([0, 1])
        ax.tick_params(labelsize=points)
        empty.axis("off")
        note = ax.text(0.5, 0.5, "a note", fontsize=points)
        picture = Image.open(io.BytesIO(show.png(fig)))
    scale = min(0.5, 688 / picture.width)  # as a page at 1,280 pixels shows it
    sizes = [text.get_fontsize() for text in (note, *ax.get_xticklabels(), *ax.get_yticklabels())]
    shown = [size * 220 / 72 * scale for size in sizes]
    assert min(shown) >= 9.0 and float(picture.info["Smallest label"]) * scale >= 9.0
    if points * 220 / 72 * scale >= 9.2:
        assert note.get_fontsize() == points, "what can be read stays as it is"


def test_a_figure_is_a_png_with_an_alternative_text_and_a_caption(shown: list[dict[str, str]]) -> None:
    show.figure(plt.subplots()[0], "**Figure 1.** The $x$ of `y`.")
    picture, caption = shown
    assert set(picture) == {"image/png", "text/plain"} and picture["text/plain"] == "figure: Figure 1. The x of y."
    assert caption["text/markdown"] == "**Figure 1.** The $x$ of `y`."
    assert plt.get_fignums() == []


def test_an_animation_is_shown_as_it_is_with_its_variants_and_caption(shown: list[dict[str, str]]) -> None:
    show.animation(b"\x89PNG frames", {"a": 1, "b": 2}, "Two clips.")
    picture, caption = shown
    assert base64.b64decode(picture["image/png"]) == b"\x89PNG frames"
    assert picture["text/plain"] == "animation: a, b" and caption["text/markdown"] == "**Animation.** Two clips."


def test_explore_stands_still_where_nobody_can_move_it(
    shown: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    drawn = []

    def draw(k: int) -> Any:
        drawn.append(k)
        return plt.subplots()[0]

    show.explore(draw, "Caption.", {"k": 3}, k=[1, 2, 3])
    assert drawn == [3] and "image/png" in shown[0]


# ------------------------------------------------------------------------------------------------ text


def test_samples_keep_their_line_breaks_and_are_escaped(shown: list[dict[str, str]]) -> None:
    show.text_samples({"A": "one\n<two>", "B": ["x", "y"]}, "Samples & more")
    html = shown[0]["text/html"]
    cells(html)
    assert "one\n&lt;two&gt;" in html and "Samples &amp; more" in html and "pre-wrap" in html
    assert html.count("<strong>") == 2 and html.count("border-left") == 3


class Documented:
    """Has a fence in its text:
    ```
    x
    ```
    """

    def method(self) -> int:
        return 1


def decorated_function() -> None:
    """A function."""


def test_a_listing_is_the_objects_own_source_in_a_fence_that_holds() -> None:
    text = show.source_markdown(decorated_function, Documented.method)
    assert "`" in text and "def decorated_function() -> None:\n" in text
    assert "\ndef method(self) -> int:\n    return 1\n```" in text, "a method stands without its indent"
    assert show.source_markdown(Documented).count("````") == 2


def test_what_has_no_source_is_refused() -> None:
    for item in (len, 3, np.add):
        with pytest.raises(ReprobookError, match="has no Python source to show"):
            show.source_markdown(item)


# ------------------------------------------------------------------------------------------------ in a real kernel

CELLS = """\
import warnings; import matplotlib.pyplot as plt; import numpy as np; import pandas as pd
from reprobook import show
show.style()
show.table(pd.DataFrame({"a": [1.5, 2]}), "T")
show.side_by_side(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}))
fig, ax = plt.subplots(); ax.plot([0, 1]); show.figure(fig, "**Figure 1.** A line.")
show.source(show.table)
show.text_samples({"A": "x"})
show.explore(lambda k: plt.subplots()[0], "Moves.", {"k": 1}, k=[1, 2])
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """A notebook of displays, executed by a kernel of its own as papermill does it."""
    from nbclient import NotebookClient

    nb = new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nb.cells = [new_code_cell(line) for line in CELLS.splitlines()]
    folder = tmp_path_factory.mktemp("displays")
    NotebookClient(nb, timeout=60, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.write(nb, folder / "displays.ipynb")
    nb.metadata["folder"] = str(folder)
    return nb


def test_a_kernel_stores_exactly_the_forms_that_readers_need(executed: nbformat.NotebookNode) -> None:
    nbformat.validate(executed)
    forms = [[sorted(output.get("data", {output.output_type: 0})) for output in c.outputs] for c in executed.cells]
    figure = [["image/png", "text/plain"], ["text/markdown", "text/plain"]]
    html, markdown = [["text/html", "text/plain"]], [["text/markdown", "text/plain"]]
    assert forms == [[], [], [], html, html, figure, markdown, html, figure]
    assert executed.cells[5].outputs[0].metadata == {"image/png": {"alt": "Figure 1. A line.", "width": 770}}


def test_nothing_stored_holds_an_address_or_a_path(executed: nbformat.NotebookNode) -> None:
    texts = [
        text
        for cell in executed.cells
        for output in cell.outputs
        for form, text in output.get("data", {}).items()
        if form != "image/png"
    ]
    assert texts and not [
        text for text in texts if re.search(rf"0x[0-9a-f]{{6,}}|/home/|/tmp/|{CHECKOUT}|site-packages", text)
    ]


def test_every_form_becomes_html(executed: nbformat.NotebookNode) -> None:
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="classic").from_notebook_node(executed)
    assert 'alt="Figure 1. A line."' in body and "<strong>Figure 1.</strong> A line." in body
    assert body.count('class="rb-table"') == 3
    assert re.search(r'<div class="highlight"><pre>.*?<span class="k">def</span>', body, flags=re.DOTALL)


def test_nbval_gets_the_same_outputs_from_another_kernel(executed: nbformat.NotebookNode) -> None:
    import subprocess
    import sys

    path = Path(executed.metadata["folder"]) / "displays.ipynb"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", path.name],
        cwd=path.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert json.loads(path.read_text())["cells"], "the stored notebook is what was compared"
