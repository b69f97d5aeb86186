"""The built site: every page there, nothing asked of the network, verdicts and figures in place."""

import csv
import io
import json
import re
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from fourfold.book import furniture, html
from fourfold.judging import records
from fourfold.recorded import executed

pytestmark = pytest.mark.skipif(
    not (html.HTML / "index.html").is_file(), reason="the site is not built; run make book first"
)


@pytest.fixture(scope="module")
def pages():
    return {
        name: BeautifulSoup((html.HTML / f"{name}.html").read_text(), "html.parser")
        for name in html.toc_files()
    }


def test_number_of_pages(pages):
    chapters = sum(record.has_chapter for record in records.load_all())
    fixed = ["index", "how_to_read_a_verdict", "how_to_rerun", "bibliography"]
    collected = list(executed.NOTEBOOKS.glob("*.md"))
    parts = [name for name in pages if name.startswith("parts/")]
    assert len(pages) == len(fixed) + len(collected) + len(parts) + chapters


def test_no_page_asks_the_network_for_anything(pages):
    for name, page in pages.items():
        for tag in page.find_all(
            ["script", "link", "img", "iframe", "source", "video", "audio", "object", "embed"]
        ):
            if tag.get("rel") == ["canonical"]:
                continue
            for attribute in ("src", "href", "data", "srcset"):
                assert not re.match(r"(https?:)?//", tag.get(attribute) or ""), (name, str(tag)[:200])
        for script in page.find_all("script", src=False):
            if script.get("type") != "application/json":
                assert not re.search(r"(fetch|import)\s*\(\s*['\"]https?:", script.text), name
    for sheet in html.HTML.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text(errors="ignore")), sheet


def test_every_internal_link_leads_somewhere(pages):
    for name, page in pages.items():
        here = html.HTML / f"{name}.html"
        for link in page.find_all("a", href=True):
            target = urlsplit(link["href"])
            if target.scheme or not (target.path or target.fragment):
                continue
            file = (here.parent / unquote(target.path)).resolve() if target.path else here
            assert file.is_file(), (name, link["href"])
            if target.fragment and file.suffix == ".html":
                there = file.read_text()
                fragment = re.escape(unquote(target.fragment))
                assert re.search(rf"""(id|name)=["']{fragment}["']""", there), (name, link["href"])


def test_each_chapter_shows_every_verdict_and_each_figure_has_words(pages):
    for record in records.chapters():
        page = pages[f"chapters/{record.part}/{record.slug}"]
        shown = {card["id"] for card in page.select("div.verdict")}
        assert shown == {f"{record.slug}-{claim.id}" for claim in record.claims if claim.criteria}
        for figure in page.select("figure.fourfold"):
            assert figure.select_one("svg[role=img]")["aria-label"].strip()
            assert figure.figcaption.text.strip()


def test_no_page_shows_a_traceback_or_a_warning(pages):
    for name, page in pages.items():
        text = page.get_text()
        assert "Traceback (most recent call last)" not in text, name
        assert not re.search(r"\b\w*Warning: ", text), name


def test_ledger_lists_every_paper_and_claim(pages):
    everything = records.load_all()
    claims = [claim for record in everything for claim in record.claims]
    papers = sum(not claim.check for claim in claims)
    assert f"51 papers, {papers} claims." in pages["chapters/ledger"].get_text()
    told = pages["chapters/ledger"].select_one(".papers").get_text()
    for claim in claims:
        assert claim.statement in told


def test_what_a_page_offers_for_download_is_there_and_is_the_original(pages):
    for record in records.chapters():
        for source in furniture.files(record).values():
            assert (html.HTML / "downloads" / source.name).read_bytes() == source.read_bytes()
    listed = json.loads((html.HTML / "downloads" / "ledger.json").read_text())
    assert len(listed) == sum(len(record.claims) for record in records.load_all())
    lines = csv.DictReader(io.StringIO((html.HTML / "downloads" / "ledger.csv").read_text()))
    assert [row["claim"] for row in lines] == [row["claim"] for row in listed]


def test_a_badge_for_every_verdict_leads_to_its_card(pages):
    for record in records.chapters():
        page = pages[f"chapters/{record.part}/{record.slug}"]
        first = page.select_one(".furniture .badges")
        cards = {card["id"] for card in page.select("div.verdict")}
        assert {badge["href"][1:] for badge in first.select("a.badge")} == cards
        assert page.select_one(".furniture table.parameters")


def test_math_is_rendered_from_this_site(pages):
    scripts = [
        s["src"] for page in pages.values() for s in page.find_all("script", src=True) if "athjax" in s["src"]
    ]
    assert scripts
    assert not [src for src in scripts if "//" in src]
