"""Every page of the book as a reader has it: a file, no network, light and dark, phone and keyboard.

A page is opened once and looked at in one go (`Reader.visit`); each test reads one part of what was seen.
Pages with odd and even numbers are two classes, since pytest-xdist gives a class to one process.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from fourfold.book import html

LOOK = (Path(__file__).parent / "look.js").read_text(encoding="utf-8")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
OUTSIDE = re.compile(r"^(?!file:|data:|blob:|about:)")
WEIGHT = 1_500_000
"""Bytes that a page may have of its own."""
EACH_KIND = {
    "index",
    "how_to_read_a_verdict",
    "chapters/optics/convsharevit",
    "chapters/ledger",
    "bibliography",
}
"""Axe takes a second to judge contrast: it does so here, and the quick `look.texts` on every page."""
STILL = "*, ::before, ::after { transition: none !important; animation: none !important; }"


@dataclass
class Seen:
    """What was wrong with a page, in words; empty lists for a page in order."""

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    looks: dict[str, list[str]] = field(default_factory=dict)


class Reader:
    """Someone with a wide window who prefers light, and goes from page to page in one tab."""

    def __init__(self, context):
        context.set_default_timeout(20_000)
        context.add_init_script(LOOK)
        self.page = context.new_page()
        self.page.on("console", lambda m: self.seen.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.seen.errors.append(str(error)))
        self.page.on("request", lambda r: self.seen.files.add(Path(unquote(urlsplit(r.url).path))))
        self.page.on("websocket", lambda socket: self.seen.outside.append(socket.url))
        self.page.route(OUTSIDE, self.refuse)
        self.seen = Seen()

    def refuse(self, route):
        self.seen.outside.append(route.request.url)
        route.abort()

    def visit(self, name: str) -> Seen:
        page, looks = self.page, {}
        seen = self.seen = Seen(looks=looks)
        page.set_viewport_size(DESKTOP)
        page.goto((html.HTML / f"{name}.html").as_uri())
        page.add_style_tag(content=STILL)
        page.evaluate("window.MathJax?.startup?.promise")
        # Before anything is scrolled to: from there Chromium would go on.
        page.keyboard.press("Tab")
        looks["first by keyboard"] = page.evaluate("document.activeElement.textContent.trim()")
        page.evaluate("document.activeElement.blur()")
        looks["math"] = page.evaluate("look.math()")
        looks["figures in light"] = page.evaluate("look.figures()")
        looks["texts in light"] = page.evaluate("look.texts()")
        looks["unreachable"] = page.evaluate("look.unreachable()")

        page.evaluate("look.theme('dark')")
        looks["texts in dark"] = page.evaluate("look.texts()")
        page.set_viewport_size(PHONE)
        looks["figures in dark"] = page.evaluate("look.figures()")
        looks["overflow"] = page.evaluate("look.overflow()")

        page.evaluate("look.strip()")
        page.set_viewport_size(DESKTOP)
        page.evaluate(AXE_SCRIPT)
        contrast = name in EACH_KIND
        if contrast:
            looks["axe in dark"] = page.evaluate("look.axe({ runOnly: ['color-contrast'] })")
        page.evaluate("look.theme('light')")
        rules = {"color-contrast": {"enabled": contrast}}
        looks["axe in light"] = page.evaluate("(rules) => look.axe({ rules })", rules)
        return seen


@pytest.fixture(scope="class")
def reader(browser):
    with browser.new_context(viewport=DESKTOP, reduced_motion="reduce", color_scheme="light") as context:
        yield Reader(context)


@pytest.fixture(scope="class")
def seen(reader, request):
    return reader.visit(request.param)


class Pages:
    """What holds on every page."""

    def test_it_asks_nothing_of_the_network(self, seen):
        assert seen.outside == []

    def test_no_script_fails(self, seen):
        assert seen.errors == []

    def test_all_mathematics_is_typeset(self, seen):
        assert seen.looks["math"] == []

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_every_figure_is_drawn_whole_with_readable_axes(self, seen, theme):
        assert seen.looks[f"figures in {theme}"] == []

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_every_text_stands_out(self, seen, theme):
        assert seen.looks[f"texts in {theme}"] == []

    def test_nothing_leaves_a_phones_screen(self, seen):
        assert seen.looks["overflow"] == []

    def test_axe_finds_no_barrier(self, seen):
        assert seen.looks["axe in light"] == []
        assert seen.looks.get("axe in dark", []) == []

    def test_the_keyboard_reaches_everything_and_can_skip_the_contents(self, seen):
        assert seen.looks["unreachable"] == []
        assert seen.looks["first by keyboard"] == "Skip to main content"

    def test_it_is_light_enough(self, seen):
        shared = html.HTML / "_static", html.HTML / "searchindex.js"
        own = [file for file in seen.files if not any(file.is_relative_to(one) for one in shared)]
        assert sum(file.stat().st_size for file in own if file.is_file()) <= WEIGHT


class TestOddPages(Pages):
    names = html.toc_files()[0::2]


class TestEvenPages(Pages):
    names = html.toc_files()[1::2]


def pytest_generate_tests(metafunc):
    metafunc.parametrize("seen", metafunc.cls.names, indirect=True, scope="class")
