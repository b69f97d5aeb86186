"""The gallery: a small picture of every chapter's headline, its title, and its verdicts in words."""

import base64
import io

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from fourfold.book import gallery
from fourfold.judging import records
from fourfold.recorded import executed


def run(path, *tags, width=630, height=400):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "png")
    shown = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()})
    cell = nbformat.v4.new_code_cell("1", outputs=[shown], metadata={"tags": list(tags)})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


@pytest.mark.parametrize(
    ("size", "small"), [((630, 400), (360, 229)), ((630, 1200), (126, 240)), ((90, 60), (90, 60))]
)
def test_a_picture_is_small_and_keeps_its_shape(tmp_path, size, small):
    drawn = gallery.headline(run(tmp_path / "run.ipynb", "headline", width=size[0], height=size[1]))
    assert Image.open(io.BytesIO(drawn)).size == small


def test_a_run_without_a_headline_has_no_picture(tmp_path):
    assert gallery.headline(run(tmp_path / "run.ipynb", "hide-input")) is None


def test_every_chapter_hangs_with_its_title_and_verdicts_and_the_rest_is_named():
    chapters = records.chapters()
    if not all(executed.of(record).is_file() for record in chapters):
        pytest.skip("the site is not built; run make book first")
    page = BeautifulSoup(gallery.page(), "html.parser")
    items = page.select("ul.gallery > li")
    assert len(items) == len(chapters)
    assert {item.img["src"] for item in items} == {f"gallery/{name}" for name in gallery.pictures()}
    for item, record in zip(items, chapters, strict=True):
        assert item.a["href"] == f"chapters/{record.part}/{record.slug}.html"
        assert item.strong.text == f"{record.name}:"
        judged = [claim for claim in record.claims if claim.criteria]
        assert len(item.select(".square")) == len(judged)
        counts = item.select_one(".claims")["aria-label"].split(", ")
        assert sum(int(words.split()[0]) for words in counts) == len(judged)
    rest = [record.name for record in records.load_all() if not record.has_chapter]
    assert all(name in page.find_all("p")[-1].text for name in rest)
