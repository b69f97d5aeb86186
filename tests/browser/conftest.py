"""A real browser over the built book. Nothing is downloaded for it: the machine's own Chromium is used."""

import functools
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fourfold.book import html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESKTOP = {"width": 1280, "height": 900}


def pytest_collection_modifyitems(items):
    reason = None
    if not (html.HTML / "index.html").is_file():
        reason = "the site is not built; run make book first"
    elif not CHROMIUM:
        reason = "no chromium on this machine, so nobody looked at the site as a reader does"
    for item in items:
        if reason and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser():
    """One browser for all tests of this process."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """An empty page of a reader who prefers light."""
    with browser.new_context(viewport=DESKTOP, reduced_motion="reduce", color_scheme="light") as context:
        context.set_default_timeout(10_000)
        yield context.new_page()


class _Server(SimpleHTTPRequestHandler):
    """The book in a folder of a server that answers every miss with its 404.html, as hosts of pages do."""

    folder = "/some/where"

    def translate_path(self, path):
        return super().translate_path(
            path.removeprefix(self.folder) if path.startswith(self.folder) else "/-"
        )

    def send_error(self, code, message=None, explain=None):
        body = (html.HTML / "404.html").read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def server():
    """The address of the book on a server of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Server, directory=html.HTML)) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}{_Server.folder}"
        listening.shutdown()
