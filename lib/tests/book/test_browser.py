"""Pages as a reader gets them: opened in Chromium at a desktop's and a phone's width, in light and dark."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from reprobook import facts, project
from reprobook.show import CHIPS

PAGES = [
    "book/scoreboard",
    "book/findings",
    "book/index",
    "book/data",
    "book/how_to_run",
    *(f"notebooks/{s}" for s in project.chapters()),
]

READY = """
const done = arguments[0];
const maths = () => !document.querySelector('.math') || (window.MathJax && MathJax.startup && MathJax.startup.promise);
const wait = () => document.readyState === 'complete' && maths()
    ? Promise.resolve(maths()).then(() => document.fonts.ready).then(() => requestAnimationFrame(() => done(true)))
    : setTimeout(wait, 50);
wait();
"""
TOO_WIDE = """
const limit = document.documentElement.clientWidth;
return [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > limit + 1)
    .filter(e => { for (let p = e.parentElement; p; p = p.parentElement)
        if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX) && p.tagName != 'BODY'
            && p.tagName != 'HTML') return false; return true; })
    .slice(0, 5).map(e => e.tagName + ' ' + e.className + ': ' + e.textContent.slice(0, 60));
"""
IMAGES = (
    "return [...document.images].map(i => [i.getAttribute('src').slice(0, 80), i.complete, i.naturalWidth, i.alt]);"
)


FIRST_SCREEN = """
const bottom = selector => { const e = document.querySelector('article ' + selector);
    return e ? e.getBoundingClientRect().bottom + window.scrollY : 1e9; };
const costs = document.querySelectorAll('dl.rb-facts dd')[1].getBoundingClientRect().bottom + window.scrollY;
const cut = [...document.querySelectorAll('.rb-verdicts *')]
    .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1);
const links = [...document.querySelectorAll('ul.rb-verdicts a')].map(a => a.getAttribute('href'));
return [bottom('img.rb-hero'), bottom('ul.rb-verdicts li'), links.filter(name => document.querySelector(name)).length,
    costs, cut.map(e => e.textContent)];
"""


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return request.param


def open_page(chromium: Any, address: str, page: str, width: int, theme: str = "light") -> None:
    chromium.get_log("browser"), chromium.get_log("performance")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": theme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    chromium.get(f"{address}/{page}.html")
    chromium.set_script_timeout(30)
    assert chromium.execute_async_script(READY)


@pytest.mark.parametrize("width", [1280, 390])
def test_no_errors_no_overflow_all_figures_decoded(chromium: Any, address: str, page: str, width: int) -> None:
    open_page(chromium, address, page, width)
    problems = [entry["message"] for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert problems == []
    wide, visible = chromium.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= visible, chromium.execute_script(TOO_WIDE)
    images = chromium.execute_script(IMAGES)
    assert [image for image in images if not image[1] or image[2] == 0] == []
    silent = [source for source, *_, alt in images if " " not in alt or alt.endswith(".png")]
    assert not silent, "pictures without words for those who can't see them (a file name is none)"
    if page.startswith("notebooks/"):  # the first screen has the idea and the first verdict
        picture, verdict, n_links, costs, cut = chromium.execute_script(FIRST_SCREEN)
        assert cut == [], "a claim or an effect is not shown whole"
        assert width < 1280 or costs < 900, "on a wide screen also runs, minutes and memory"
        assert picture < 700 and verdict < 900, f"ends of the picture and of the first verdict: {picture}, {verdict} px"
        assert n_links == len(facts.load(page.removeprefix("notebooks/")).claims), "a verdict leads to no evidence"


def test_formulas_are_set_and_nothing_comes_from_elsewhere(chromium: Any, address: str, page: str) -> None:
    open_page(chromium, address, page, 1280)
    formulas, set_ = chromium.execute_script(
        "return [document.querySelectorAll('.math').length, document.querySelectorAll('.math mjx-container').length]"
    )
    assert set_ >= formulas and not chromium.find_elements("css selector", "mjx-merror")
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith((address, "data:", "blob:", "chrome:", "about:"))] == []


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of ``rgb(r, g, b)``."""
    parts = [float(x) / 255 for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_verdict_colours_are_readable(chromium: Any, address: str, theme: str) -> None:
    open_page(chromium, address, "book/index", 1280, theme)
    chips = chromium.execute_script(
        "const page = getComputedStyle(document.body).backgroundColor;"
        "return [...document.querySelectorAll('.rb-chip')].map(c => { const s = getComputedStyle(c);"
        "return [c.textContent, s.color, s.backgroundColor == 'rgba(0, 0, 0, 0)' ? page : s.backgroundColor]; })"
    )
    assert {name for name, _, _ in chips} == set(CHIPS)
    for name, ink, ground in chips:
        light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (theme, name, ink, ground)


@pytest.mark.parametrize(
    ("name", "width"), [("index", 1280), ("index", 390), ("scoreboard", 1280), ("scoreboard", 390), ("data", 1280)]
)
def test_no_column_is_hidden_on_the_book_s_own_pages(chromium: Any, address: str, name: str, width: int) -> None:
    open_page(chromium, address, f"book/{name}", width)
    tables = "article .rb-table" if width == 1280 else "article .rb-matrix, article .rb-claims"
    hidden = chromium.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => [e.className, e.scrollWidth, e.clientWidth]);", tables
    )  # fmt: skip
    assert hidden == []


LABELS = """
const drawn = [...document.querySelectorAll('article svg text')].filter(t => t.textContent.trim())
    .map(t => [t.textContent.slice(0, 30), parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a]);
const images = [...document.querySelectorAll('article .cell_output img, article img.rb-hero')]
    .map(i => [i.src, i.getBoundingClientRect().width / i.naturalWidth]);
return [drawn, images];
"""


def test_labels_are_legible(chromium: Any, address: str, page: str, html: Path) -> None:
    """Of our own drawings, and of figures that say how small their labels are (stored ones may be from before)."""
    open_page(chromium, address, page, 1280)
    drawn, images = chromium.execute_script(LABELS)
    told = [
        (source, float(label) * scale)
        for source, scale in images
        if (label := Image.open(html / source.removeprefix(f"{address}/")).info.get("Smallest label"))
    ]
    assert [small for small in (*drawn, *told) if small[1] < 9.0] == []


BROKEN = """
const seen = selector => [...document.querySelectorAll('article ' + selector)]
    .filter(e => e.checkVisibility({contentVisibilityAuto: true}));
const lines = e => new Set([...e.getClientRects()].map(r => Math.round(r.top))).size;
return [
    seen('.rb-table').filter(e => e.scrollWidth > e.clientWidth + 1)
        .map(e => [e.scrollWidth, e.clientWidth, e.textContent.trim().slice(0, 40)]),
    seen('.highlight span:is(.n, .nf, .nc, .nn, .nb, .k, .kn, .mi, .mf)').filter(e => lines(e) > 1)
        .map(e => e.textContent),
    [...document.querySelectorAll('article th:not([scope])')].map(e => e.textContent),
];
"""


def test_no_column_is_hidden_and_no_name_broken(chromium: Any, address: str, page: str) -> None:
    """A table that does not fit takes the room of the page's contents; a screen reader knows every header."""
    open_page(chromium, address, page, 1280)
    assert chromium.execute_script(BROKEN) == [[], [], []]


FAINT = """
document.documentElement.dataset.theme = arguments[0];
const parts = colour => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
const ground = e => { const chain = [];
    for (; e; e = e.parentElement) chain.unshift(parts(getComputedStyle(e).backgroundColor));
    return chain.reduce((below, colour) => over(colour, below), [255, 255, 255, 1]); };
const opacity = e => { let all = 1; for (; e; e = e.parentElement) all *= getComputedStyle(e).opacity; return all; };
const light = rgb => rgb.slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const looks = new Map();
for (const e of document.querySelectorAll('article *')) {
    if (!e.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim())) continue;
    if (e.closest('.MathJax, mjx-container, svg')) continue;
    const style = getComputedStyle(e), below = ground(e), [r, g, b, a] = parts(style.color);
    const ink = over([r, g, b, a * opacity(e)], below);
    const [low, high] = [light(ink), light(below)].sort((x, y) => x - y);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5, found = (high + 0.05) / (low + 0.05);
    if (found < least) looks.set(`${e.tagName}.${e.className} ${ink.map(Math.round)} on ${below.map(Math.round)}`,
        [Math.round(100 * found) / 100, e.textContent.slice(0, 30)]);
}
return [...looks];
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_not_faint(chromium: Any, address: str, page: str, theme: str) -> None:
    """Contrast of at least 4.5 to what is below it, 3 for large text (WCAG 2, level AA)."""
    open_page(chromium, address, page, 1280, theme)
    assert chromium.execute_script(FAINT, theme) == []


@pytest.mark.parametrize("slug", project.chapters())
def test_figures_have_no_frame_in_the_dark_and_a_click_enlarges_them(chromium: Any, address: str, slug: str) -> None:
    open_page(chromium, address, f"notebooks/{slug}", 1280, "dark")
    looks = chromium.execute_script(
        "return [...document.querySelectorAll('article .cell_output img, img.rb-hero')].map(i => {"
        "const s = getComputedStyle(i); return [s.paddingTop, s.borderTopWidth, s.backgroundColor, s.filter]; })"
    )
    assert looks and {tuple(look) for look in looks} == {("0px", "0px", "rgba(0, 0, 0, 0)", "none")}
    image = chromium.find_element("css selector", "article .cell_output img")
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
    image.click()
    width = "return document.querySelector('dialog.rb-zoom[open] img')?.getBoundingClientRect().width"
    assert chromium.execute_script(width) > 1.4 * image.size["width"]
    chromium.find_element("css selector", "dialog.rb-zoom img").click()
    assert chromium.execute_script(width) is None


CLAIMS = """
return [...document.querySelectorAll('.rb-claims tbody tr')].filter(row => row.offsetParent)
    .map(row => [row.closest('section').id, row.cells[0].textContent, row.cells[4].textContent]);
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_the_scoreboard_is_filtered(chromium: Any, address: str, width: int) -> None:
    from selenium.webdriver.support.ui import Select

    open_page(chromium, address, "book/scoreboard", width)
    every = chromium.execute_script(CLAIMS)
    count = chromium.find_element("css selector", ".rb-filter output")
    assert count.text == f"{len(every)} of {len(every)} claims"
    choice = Select(chromium.find_element("css selector", ".rb-filter select"))
    for verdict in {said for *_, said in every}:
        choice.select_by_visible_text(verdict)
        wanted = [claim for claim in every if claim[2] == verdict]
        assert chromium.execute_script(CLAIMS) == wanted and count.text == f"{len(wanted)} of {len(every)} claims"
    choice.select_by_visible_text("all")
    words = chromium.find_element("css selector", ".rb-filter input")
    title = facts.load(slug := project.chapters()[-1]).title
    words.send_keys(title)
    assert [cid for _, cid, _ in chromium.execute_script(CLAIMS)] == [*facts.load(slug).claims]
    drawn = "return [...document.querySelectorAll('svg.rb-forest')].filter(s => s.getClientRects().length).length"
    assert chromium.execute_script(drawn) <= len(facts.load(slug).claims)
    words.send_keys(" no such words")
    assert chromium.execute_script(CLAIMS) == [] and chromium.execute_script(drawn) == 0


def test_a_click_on_a_head_sorts(chromium: Any, address: str) -> None:
    open_page(chromium, address, "book/scoreboard", 1280)
    said = "return [...document.querySelectorAll('.rb-matrix tbody tr')].map(row => row.cells[%d].textContent.trim())"
    before = chromium.execute_script(said % 0)
    head = chromium.find_element("css selector", ".rb-matrix th")
    head.click()
    assert chromium.execute_script(said % 0) == sorted(before, key=str.lower)
    head.click()
    assert chromium.execute_script(said % 0) == sorted(before, key=str.lower, reverse=True)
    chromium.find_elements("css selector", ".rb-matrix th")[1].click()
    signs = chromium.execute_script(said % 1)
    assert [a != b for a, b in itertools.pairwise(signs)].count(True) == len({*signs}) - 1, "like by like"
