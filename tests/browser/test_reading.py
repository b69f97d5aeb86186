"""What a reader does: search, use the keyboard, follow a dead link, print, share a link."""

import re

import pytest

from fourfold.book import html

BENCH = "chapters/optics/four_f"
# A word of one chapter's title, and where it should lead.
WORD, FOUND = "Gaunt", "chapters/frequency/gaunt_tensor_product"


def address(name: str) -> str:
    return (html.HTML / f"{name}.html").as_uri()


@pytest.fixture
def errors(page):
    """What scripts complain about while a test runs; nothing, or the test that asked fails at its end."""
    found = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    yield found
    assert found == []


@pytest.mark.parametrize("where", ["file", "server"])
def test_search_finds_the_chapter(page, errors, server, where):
    page.goto(f"{address('search') if where == 'file' else f'{server}/search.html'}?q={WORD}")
    result = page.locator("#search-results li a").first
    result.wait_for()
    page.wait_for_function("!/Searching/.test(document.querySelector('#search-results h2').textContent)")
    links = page.locator("#search-results li a").evaluate_all("all => all.map((a) => a.href)")
    assert any(FOUND in link for link in links)
    if where == "server":
        page.locator("#search-results .context").first.wait_for()
    page.locator(f"#search-results a[href*='{FOUND}']").first.click()
    page.wait_for_url(f"**/{FOUND}.html*")


def tab_to(page, selector: str, most: int = 150) -> None:
    """Press Tab until the focus is on the element."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not within {most} steps of the keyboard")


def test_search_opens_by_keyboard_and_answers(page, errors):
    page.goto(address("index"))
    tab_to(page, ".search-button__button")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.name === 'q'")
    page.keyboard.type(WORD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/search.html?q={WORD}")
    page.locator("#search-results li a").first.wait_for()


def test_keyboard_skips_the_contents(page):
    page.goto(address("index"))
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_keyboard_changes_the_theme(page):
    page.goto(address("index"))
    before = page.evaluate("document.documentElement.dataset.theme")
    tab_to(page, ".theme-switch-button")
    for _ in range(2):  # automatic, light, dark
        page.keyboard.press("Enter")
    assert (before, page.evaluate("document.documentElement.dataset.theme")) == ("light", "dark")


def test_keyboard_moves_every_slider(page, errors):
    page.goto(address(BENCH))
    sliders = page.locator("figure.fourfold .controls input")
    assert sliders.count() > 0
    for slider in sliders.all():
        slider.scroll_into_view_if_needed()
        drawing = slider.locator("xpath=ancestor::figure").locator(".drawing svg")
        drawn = drawing.inner_html()
        output = slider.locator("xpath=following-sibling::output[1]")
        before = output.inner_text()
        assert slider.get_attribute("aria-valuetext") == before
        slider.focus()
        last = slider.input_value() == slider.get_attribute("max")
        page.keyboard.press("ArrowLeft" if last else "ArrowRight")
        page.wait_for_function(
            "([output, before]) => output.textContent !== before", arg=[output.element_handle(), before]
        )
        assert slider.get_attribute("aria-valuetext") == output.inner_text()
        assert drawing.inner_html() != drawn


def test_keyboard_unfolds_code(page):
    page.goto(address(FOUND))
    tab_to(page, "details > summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")


@pytest.mark.parametrize("lost", ["gone.html", "chapters/optics/gone.html", "a/b/c/d", "chapters/%E0%A4%A"])
def test_a_dead_link_leads_back_from_any_depth(page, server, lost):
    failed = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(f"{server}/{lost}")
    links = page.get_by_role("link")
    links.first.wait_for()
    addresses = links.evaluate_all("all => all.map((a) => a.href)")
    assert len(addresses) >= 3
    for link in addresses:
        assert page.request.get(link).headers["content-type"] == "text/html"
        assert (html.HTML / link.removeprefix(f"{server}/")).is_file()
    page.get_by_role("searchbox").fill(WORD)
    page.get_by_role("button").click()
    page.wait_for_url(f"{server}/search.html?q={WORD}")
    assert failed == []


def test_print_is_the_page_alone_on_white_with_every_figure(page):
    page.goto(address(BENCH))
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 without the browser's margins
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    for selector in (
        ".bd-sidebar-primary",
        ".bd-sidebar-secondary",
        ".bd-header-article",
        ".prev-next-footer",
    ):
        assert not page.locator(selector).first.is_visible(), selector
    figures = page.locator("figure.fourfold")
    assert figures.count() == figures.locator(".drawing > svg").count() > 0
    for selector in ("figure.fourfold", ".verdict tr"):
        breaks = page.locator(selector).evaluate_all(
            "all => all.map((one) => getComputedStyle(one).breakInside)"
        )
        assert set(breaks) == {"avoid"}, selector
    assert page.locator("figure.fourfold .drawing > svg").evaluate_all(
        "all => all.every((one) => one.getBoundingClientRect().right <= innerWidth)"
    )
    run = page.locator("details.rerun")
    assert run.locator("table").first.is_visible(), "parameters and the line that reruns the page"
    assert not page.locator("details.hide").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert run.get_attribute("open") is None
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_wide_equations_scroll_in_their_own_box_and_by_keyboard(page):
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(address(BENCH))
    page.evaluate("window.MathJax.startup.promise")
    wide = page.locator("div.math mjx-container").evaluate_all(
        "all => all.filter((box) => box.scrollWidth > box.clientWidth)"
        ".map((box) => [getComputedStyle(box).overflowX, box.tabIndex])"
    )
    assert wide, "no equation of this page is wide, so this test has nothing to look at"
    assert all(box == ["auto", 0] for box in wide)


@pytest.mark.parametrize("width", [992, 1199, 1200])
@pytest.mark.parametrize("name", ["ledger", "what_holds_up", "hybrids_compared"])
def test_full_width_cells_stay_in_the_window(page, width, name):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(address(f"chapters/{name}"))
    assert page.locator(".tag_full-width").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_shared_link_has_a_title_words_and_a_picture(page):
    for name in html.toc_files():
        text = (html.HTML / f"{name}.html").read_text()
        told = dict(re.findall(r'<meta property="og:(\w+)" content="([^"]*)"', text))
        assert told["title"], name
        assert len(told["description"]) > 20, name
        assert told["image"].endswith("card.png"), name
    assert (html.HTML / "card.png").stat().st_size < 100_000
    page.goto((html.HTML / "card.png").as_uri())
    assert page.evaluate("[document.images[0].naturalWidth, document.images[0].naturalHeight]") == [1200, 630]


def test_the_tab_has_an_icon(page):
    page.goto(address("parts/optics"))
    icon = page.locator("link[rel=icon]").evaluate("link => link.href")
    page.goto(icon)
    assert page.locator("svg path").count() > 0
