"""The bound book: numbered sheets, contents, bookmarks, and no link that leaves it by a machine's path."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from urllib.parse import urlsplit

import pytest
from pypdf import PdfReader

from fourfold.book import html, pdf


@pytest.fixture(scope="module")
def bound(tmp_path_factory):
    """The first pages of the book, bound."""
    with pytest.MonkeyPatch.context() as patch:
        few = list(islice(pdf.entries(), 5))
        patch.setattr(pdf, "entries", lambda: iter(few))
        patch.setattr(pdf, "TARGET", tmp_path_factory.mktemp("bound") / "fourfold.pdf")
        patch.setattr(pdf, "_offer", lambda sheets: None)
        # In a thread of its own, since this one has a browser already.
        with ThreadPoolExecutor(1) as thread:
            sheets = thread.submit(pdf.bind).result()
        return few, sheets, PdfReader(pdf.TARGET)


def test_every_sheet_has_its_number(bound):
    _, sheets, book = bound
    assert len(book.pages) == sheets
    for number, sheet in enumerate(book.pages, start=1):
        assert sheet.extract_text().split()[-1] == str(number)


def test_contents_and_bookmarks_lead_to_the_first_sheet_of_a_page(bound):
    few, _, book = bound
    (contents,) = [
        text for text in (sheet.extract_text() for sheet in book.pages) if text.startswith("Contents")
    ]
    marks = list(_flat(book.outline))
    assert [mark.title for mark in marks] == [entry.title for entry in few]
    for entry, mark in zip(few, marks, strict=True):
        at = book.get_destination_page_number(mark)
        words = book.pages[at].extract_text()
        assert entry.title.split()[0] in words
        if entry is not few[0]:
            assert f"{at + 1}" in contents


def test_links_lead_within_the_book_or_to_the_world(bound):
    _, _, book = bound
    links = [link.get_object() for sheet in book.pages for link in sheet.get("/Annots", ())]
    assert any("/Dest" in link for link in links)
    outside = [str(link["/A"]["/URI"]) for link in links if "/URI" in link.get("/A", {})]
    assert {urlsplit(address).scheme for address in outside} <= {"http", "https"}


def test_the_first_page_offers_what_was_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "HTML", tmp_path)
    index = tmp_path / "index.html"
    index.write_text('<p>paper? <span class="bound"></span></p>')
    for sheets in (7, 8):
        pdf._offer(sheets)
        offer = f"<a href='fourfold.pdf'>Here it is</a>, {sheets} sheets."
        assert index.read_text() == f'<p>paper? <span class="bound">{offer}</span></p>'


def test_without_a_browser_it_says_so(monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="none of chromium, chromium-browser, google-chrome"):
        pdf.bind()


def _flat(outline):
    for mark in outline:
        yield from _flat(mark) if isinstance(mark, list) else [mark]
