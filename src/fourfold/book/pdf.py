"""The whole book as one PDF: ``python -m fourfold.book.pdf``, printed by a Chromium on the machine.

Every page of the site is printed as a reader's browser prints it, and the sheets are bound: a table of
contents with their numbers, bookmarks, a number on each sheet, and links that lead within the book.
"""

import html as escaping
import io
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, PdfMargins, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, Fit, NameObject

from fourfold.book import html
from fourfold.judging.records import ROOT

TARGET = html.HTML / "fourfold.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MARGIN: PdfMargins = {"top": "16mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
SCALE = 0.75
"""Text of 9 points, and a sheet as wide as a screen: a card's rows stay rows."""
FOOT = """<div style="width:100%; font:8px sans-serif; text-align:center; color:#555">
<span class="pageNumber"></span></div>"""
CONTENTS = """<!doctype html><html lang="en"><meta charset="utf-8"><style>
body {{ font: 11pt/1.5 system-ui, sans-serif; }} h1 {{ font-size: 20pt; }}
p {{ display: flex; margin: 0 0 0.25em; }}
p.part {{ font-weight: 600; margin-top: 0.9em; break-after: avoid; }} p.inner {{ margin-left: 1.6em; }}
p span {{ flex: 1; border-bottom: 1px dotted #999; margin: 0 0.5em 0.3em; }}
</style><h1>Contents</h1>{lines}</html>"""


class Entry(NamedTuple):
    """A page in the table of contents."""

    name: str
    title: str
    depth: int


def entries() -> Iterator[Entry]:
    """The pages of the site in their order, with their titles."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))

    def walk(node: dict[str, Any], depth: int) -> Iterator[Entry]:
        name = node["file"]
        text = (html.HTML / f"{name}.html").read_text(encoding="utf-8")
        heading = BeautifulSoup(text, "html.parser").select_one("article h1")
        assert heading is not None, f"{name}.html has no heading"
        yield Entry(name, heading.get_text().rstrip("#").strip(), depth)
        for inner in node.get("sections", ()):
            yield from walk(inner, depth + 1)

    yield from walk({"file": toc["root"]}, 0)
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            yield from walk(chapter, 0)


def printed(browser: Browser, address: str, **more: Any) -> PdfReader:
    """The sheets of a page, A4."""
    page = browser.new_page(color_scheme="light")
    page.goto(address)
    page.evaluate("window.MathJax?.startup?.promise")
    sheets = page.pdf(format="A4", margin=MARGIN, scale=SCALE, **more)
    page.close()
    return PdfReader(io.BytesIO(sheets))


def bind() -> int:
    """Print the site that is built, bind it as `TARGET` and offer it on the first page.

    Returns the number of sheets.

    Raises:
        ValueError: if there is no Chromium on the machine, or no site.
    """
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        raise ValueError(f"a PDF needs a browser: none of {', '.join(BROWSERS)} is on this machine")
    if not (html.HTML / "index.html").is_file():
        raise ValueError("the site is not built; run make book first")
    pages = list(entries())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        sheets = {
            entry.name: printed(browser, (html.HTML / f"{entry.name}.html").as_uri()) for entry in pages
        }
        # The contents stand behind the cover; how many sheets they take does not depend on the numbers.
        front = len(_contents(browser, pages, dict.fromkeys(sheets, 0)).pages)
        starts, at = {}, 1
        for entry in pages:
            starts[entry.name] = at
            at += len(sheets[entry.name].pages) + (front if entry is pages[0] else 0)
        contents = _contents(browser, pages, starts)
        numbers = _numbers(browser, at - 1)
        browser.close()
    book = PdfWriter()
    for entry in pages:
        book.append(sheets[entry.name], import_outline=False)
        if entry is pages[0]:
            book.append(contents, import_outline=False)
    for sheet, number in zip(book.pages, numbers.pages, strict=True):
        sheet.merge_page(number)
    _link(book, starts)
    above: dict[int, Any] = {}
    for entry in pages:
        above[entry.depth] = book.add_outline_item(
            title=entry.title, page_number=starts[entry.name] - 1, parent=above.get(entry.depth - 1)
        )
    book.add_metadata({"/Title": "fourfold", "/Author": "the fourfold authors"})
    book.compress_identical_objects()
    beside = TARGET.with_name(f".{TARGET.name}")
    with beside.open("wb") as file:
        book.write(file)
    beside.replace(TARGET)
    _offer(len(book.pages))
    return len(book.pages)


def _offer(sheets: int) -> None:
    index = html.HTML / "index.html"
    link = f"<a href='{TARGET.name}'>Here it is</a>, {sheets} sheets."
    text = index.read_text(encoding="utf-8")
    offered = re.sub(r'(<span class="bound">).*?(</span>)', rf"\g<1>{link}\g<2>", text, flags=re.DOTALL)
    index.write_text(offered, encoding="utf-8")


def _contents(browser: Browser, pages: list[Entry], starts: dict[str, int]) -> PdfReader:
    lines = "".join(
        f"<p class='{'inner' if entry.depth else 'part'}'>{escaping.escape(entry.title)}"
        f"<span></span>{starts[entry.name]}</p>"
        for entry in pages
    )
    return _from_text(browser, CONTENTS.format(lines=lines))


def _numbers(browser: Browser, count: int) -> PdfReader:
    """As many empty sheets with their numbers at the foot."""
    sheets = "<div style='break-after: page'>&nbsp;</div>" * (count - 1) + "&nbsp;"
    return _from_text(browser, sheets, display_header_footer=True, header_template=" ", footer_template=FOOT)


def _from_text(browser: Browser, text: str, **more: Any) -> PdfReader:
    page = browser.new_page()
    page.set_content(text)
    sheets = page.pdf(format="A4", margin=MARGIN, **more)
    page.close()
    return PdfReader(io.BytesIO(sheets))


def _link(book: PdfWriter, starts: dict[str, int]) -> None:
    """Let links from page to page lead within the book, and take away those to other files of the site."""
    site = html.HTML.resolve()
    for sheet in book.pages:
        kept = ArrayObject()
        for reference in sheet.get("/Annots", ()):
            link = reference.get_object()
            action = link.get("/A", DictionaryObject())
            address = urlsplit(str(action.get("/URI", "")))
            if address.scheme == "file":
                file = Path(unquote(address.path))
                name = str(file.relative_to(site).with_suffix("")) if file.is_relative_to(site) else ""
                if name not in starts:
                    continue
                del link["/A"]
                place = book.pages[starts[name] - 1].indirect_reference
                link[NameObject("/Dest")] = ArrayObject([place, NameObject(Fit.fit().fit_type)])
            kept.append(reference)
        sheet[NameObject("/Annots")] = kept


def main() -> None:
    """The command line: what cannot be done is one line on stderr and a non-zero exit."""
    try:
        print(f"{TARGET.relative_to(ROOT)}: {bind()} sheets")
    except (ValueError, OSError) as error:
        sys.exit(f"pdf: {error}")


if __name__ == "__main__":
    main()
