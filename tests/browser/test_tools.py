"""What a reader works with: the ledger's table, the attention explorer, a figure's data as a file."""

import csv
import io

import pytest

from fourfold.book import html, ledger_page
from fourfold.judging import records

LEDGER = (html.HTML / "chapters" / "ledger.html").as_uri()
LEAD = (html.HTML / "chapters" / "optics" / "convsharevit.html").as_uri()


@pytest.fixture(scope="module")
def claims():
    return ledger_page.claims()


def left(page):
    """The rows that the filters leave, in papers folded or not."""
    rows = page.locator(".papers details:visible tbody tr:not([hidden])")
    return rows.evaluate_all("rows => rows.map((row) => row.id)")


def read(page):
    return page.locator("table.ledger tbody tr:visible").evaluate_all("rows => rows.map((row) => row.id)")


def ids(claims):
    return [f"{row.slug}-{row.claim}" for row in claims.itertuples()]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("part", "optics"),
        ("paper", "four_f"),
        ("verdict", "not reproduced"),
        ("verdict", "beyond this scale"),
        ("full", "reproduced"),
    ],
)
def test_each_filter_leaves_the_rows_that_it_says(page, claims, name, value):
    page.goto(LEDGER)
    assert left(page) == ids(claims)
    assert read(page) == []
    page.locator(f".ledger-controls [name={name}]").select_option(value)
    wanted = claims[claims[{"paper": "slug"}.get(name, name)] == value]
    assert left(page) == ids(wanted)
    assert read(page) == ([] if name == "part" else left(page))
    assert page.locator(".found output").inner_text() == f"{len(wanted)} of {len(claims)} claims and checks"
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function(
        f"document.querySelectorAll('table.ledger tbody tr:not([hidden])').length == {len(claims)}"
    )
    assert read(page) == []


def test_one_click_reads_a_paper_and_two_compare_two(page, claims):
    page.goto(LEDGER)
    for count, slug in enumerate(("evit", "hiwave"), start=1):
        page.locator(f"details[data-paper={slug}] .name").click()
        assert len({row.rpartition("-")[0] for row in read(page)}) == count
    assert read(page) == ids(claims[claims.slug.isin(["evit", "hiwave"])])


@pytest.mark.parametrize("name", ["ledger", "what_holds_up"])
def test_every_square_says_its_claim(page, name):
    page.goto((html.HTML / "chapters" / f"{name}.html").as_uri())
    titles = page.locator("a.square").evaluate_all("all => all.map((square) => square.title)")
    assert min(map(len, titles)) > 10


def test_without_a_script_a_line_opens_its_paper(browser, claims):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(LEDGER)
        assert not page.locator(".ledger-controls").is_visible()
        edge = page.locator(".papers .square").first.evaluate("one => getComputedStyle(one).borderTopWidth")
        assert edge == "1px", "the theme's colours are there"
        page.locator("details[data-paper=evit] .name").click()
        assert read(page) == ids(claims[claims.slug == "evit"])


def test_stale_runs_are_found_by_what_changed(page, claims):
    page.goto(LEDGER)
    page.locator(".ledger-controls [name=full]").select_option("stale")
    assert read(page) == ids(claims[claims.full_stale != ""])


def test_search_takes_words_in_any_order_and_a_view_has_an_address(page, claims):
    page.goto(LEDGER)
    page.get_by_role("searchbox").last.fill("attention ConvShareViT")
    found = read(page)
    assert found
    said = dict(zip(ids(claims), claims.astype(str).agg(" ".join, axis=1), strict=True))
    assert all("attention" in said[row].lower() and "convsharevit" in said[row].lower() for row in found)
    page.locator(".ledger-controls [name=verdict]").select_option("reproduced")
    view = read(page)
    page.goto(page.locator(".found a").evaluate("(link) => link.href"))
    assert read(page) == view
    assert set(view) <= set(found)


def test_a_claim_has_an_address_that_opens_it_whatever_is_filtered(page, claims):
    last = ids(claims)[-1]
    page.goto(f"{LEDGER}?part=optics#{last}")
    assert page.locator(f"[id='{last}']").is_visible()
    assert "asked" in page.locator(f"[id='{last}']").get_attribute("class")
    assert page.locator(f"[id='{last}'] .permalink").get_attribute("href") == f"#{last}"


def test_a_square_of_the_map_opens_its_claim(page):
    record = next(r for r in records.load_all() if r.has_chapter)
    claim = next(c for c in record.claims if c.criteria)
    page.goto(LEDGER)
    page.locator(f".papers .claims a[href$='#{record.slug}-{claim.id}']").click()
    page.wait_for_url(f"**/{record.slug}.html#{record.slug}-{claim.id}")
    assert page.locator(f"#{record.slug}-{claim.id}.verdict").is_visible()


def test_the_explorer_shows_where_a_cell_looks_by_mouse_and_by_keyboard(page):
    page.goto(LEAD)
    explorers = page.locator("figure.explorer")
    assert explorers.count() == 2
    for explorer in explorers.all():
        cells, said = explorer.locator(".board button"), explorer.locator(".finding")

        def shares(cells=cells):
            return [int(text.rstrip(" %")) for text in cells.locator(".share").all_inner_texts()]

        assert said.inner_text().startswith("CLS looks most at ")
        cells.nth(3).hover()
        assert said.inner_text().startswith("Cell 3")
        cells.nth(4).focus()
        assert said.inner_text().startswith("Cell 4")
        assert cells.nth(4).get_attribute("aria-pressed") == "true"
        assert sum(shares()) == pytest.approx(100, abs=cells.count() / 2)
        seen = set()
        for variant in explorer.locator("[name=Variant] option").all_inner_texts():
            explorer.locator("[name=Variant]").select_option(variant)
            for head in explorer.locator("[name=Head] option").all_inner_texts():
                explorer.locator("[name=Head]").select_option(head)
                seen.add(tuple(shares()))
        assert len(seen) > 3


def test_the_data_of_a_figure_come_as_a_file_without_a_script(browser):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(LEAD)
        figure = page.locator("figure.fourfold:has(a.data)").first
        with page.expect_download() as started:
            figure.get_by_role("link", name="Data (CSV)").click()
        name = figure.get_attribute("id").removeprefix("figure-")
        assert started.value.suggested_filename == f"{name}.csv"
        lines = list(csv.DictReader(io.StringIO(started.value.path().read_text())))
        assert len(lines) > 3


def test_without_a_script_every_figure_and_explorer_is_drawn(browser):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(LEAD)
        for figure in page.locator("figure.fourfold, figure.explorer").all():
            assert figure.locator("svg[role=img]").first.is_visible(), figure.get_attribute("id")
