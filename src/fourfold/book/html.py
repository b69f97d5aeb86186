"""The HTML: pages are woven from words and runs, then Sphinx writes those that changed.

Sphinx keeps what it read. It sees changed pages by itself and nothing else, so anything else that changed, or
a build that was cut off, makes it start from nothing. Either way the site is the same, byte for byte.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
import yaml

from fourfold.judging.records import ROOT
from fourfold.recorded import executed

HTML = ROOT / "_build" / "html"
CHAPTERS = ROOT / "book" / "chapters"
DOCTREES = ROOT / "_build" / ".doctrees"
MADE_FROM = ROOT / "_build" / "html.made-from"
"""Written last: a digest of all that pages share. Without it the site is not whole."""


def toc_files() -> list[str]:
    """Every page of the table of contents, the root included, as ``_toc.yml`` names them."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"]]

    def walk(node: dict) -> None:
        if "file" in node:
            files.append(node["file"])
        for child in [*node.get("chapters", ()), *node.get("sections", ())]:
            walk(child)

    for part in toc["parts"]:
        walk(part)
    return files


def build() -> None:
    """Build ``_build/html`` from ``book`` and the runs, and check that it is whole.

    Raises:
        ValueError: if a run is of other code than its page has, or a page is missing or too many.
        subprocess.CalledProcessError: if Sphinx warns.
    """
    _weave()
    shared = _shared()
    if not MADE_FROM.is_file() or MADE_FROM.read_text(encoding="utf-8") != shared:
        shutil.rmtree(HTML, ignore_errors=True)
        shutil.rmtree(DOCTREES, ignore_errors=True)
    MADE_FROM.unlink(missing_ok=True)
    builder = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        "book",
        "--config",
        "_config.yml",
    ]
    # These are written anew after the pages; of an old one Sphinx would put a checksum into changed pages.
    for pattern in ("mystnb.*.css", "mathjax/tex-chtml.js"):
        for file in (HTML / "_static").glob(pattern):
            file.unlink()
    sphinx = subprocess.run(
        [*builder, "--toc", str(ROOT / "_toc.yml"), "--path-output", ".", "-W", "-n", "--keep-going"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Where there is no space for the site there is none for a log of it.
    print(sphinx.stdout, file=sys.stderr if sphinx.returncode else sys.stdout, flush=True)
    sphinx.check_returncode()

    expected = {f"{name}.html" for name in toc_files()}
    built = {
        str(page.relative_to(HTML))
        for page in HTML.rglob("*.html")
        if "_static" not in page.parts and page.name not in ("404.html", "genindex.html", "search.html")
    }
    if built != expected:
        raise ValueError(
            f"pages missing: {sorted(expected - built) or 'none'}; "
            f"unexpected: {sorted(built - expected) or 'none'}"
        )
    MADE_FROM.write_text(shared, encoding="utf-8")


def failures() -> dict[str, str]:
    """Page -> why its run did not come to its end, for those that did not."""
    made = {page: run for page in executed.pages() if (run := executed.of_page(page)).is_file()}
    return {str(page.relative_to(ROOT)): why for page, run in made.items() if (why := executed.failure(run))}


def _weave() -> None:
    """Bring ``book/chapters`` up to date; a page that stays as it was is not touched, so Sphinx skips it."""
    wanted = {}
    for page in executed.pages():
        woven = (CHAPTERS / page.relative_to(executed.NOTEBOOKS)).with_suffix(".ipynb")
        wanted[woven] = nbformat.writes(executed.weave(page, executed.of_page(page)))
    for left in set(CHAPTERS.rglob("*.ipynb")) - set(wanted):
        left.unlink()
    for woven, text in wanted.items():
        woven.parent.mkdir(parents=True, exist_ok=True)
        if not woven.is_file() or woven.read_text(encoding="utf-8") != text:
            woven.write_text(text, encoding="utf-8")


def _shared() -> str:
    """A digest of everything that shows on more than one page."""
    digest = hashlib.sha256(os.environ.get("GITHUB_REPOSITORY", "").encode())
    book = ROOT / "book"
    words = [*book.glob("*.md"), *(book / "parts").glob("*.md"), *executed.pages()]
    for file in _files(
        ROOT / "src", ROOT / "data", book / "_static", book / "_templates", book / "_generated"
    ):
        digest.update(file.read_bytes())
    named = ("_config.yml", "_toc.yml", "CITATION.cff", "requirements.lock", "book/404.html")
    for file in [*sorted(book.glob("*.bib")), *(ROOT / name for name in named)]:
        digest.update(file.read_bytes())
    for page in sorted(words):
        # A title stands in every contents, a citation in the bibliography.
        shown = re.findall(r"^#.*|\{cite\S*", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        digest.update(f"{page.relative_to(ROOT)}{shown}".encode())
    return digest.hexdigest()


def _files(*folders: Path) -> Iterable[Path]:
    return sorted(
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    )
