"""A figure's faces: whole, light, the same bytes twice, and unable to break out of the page."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from fourfold import figures

ARMS = pd.DataFrame(
    [(arm, seed, 0.5 + 0.1 * i + 0.01 * seed) for i, arm in enumerate("abc") for seed in range(5)],
    columns=["arm", "seed", "accuracy, %"],
)


def drawings():
    noise = np.random.default_rng(0)
    curves = figures.tidy(
        {"x": noise.random((3, 6)), "y": noise.random(6)}, "arm", "loss", along=("epoch", range(1, 7))
    )
    return {
        "seeds": lambda: figures.seeds(ARMS, "accuracy, %", by="arm", at=0.6),
        "lines": lambda: figures.lines(curves, "epoch", "loss", by="arm", log="y"),
        "fits": lambda: figures.lines(curves, "epoch", "loss", by="arm", log="xy", fit=True),
        "points": lambda: figures.points(ARMS, "seed", "accuracy, %", by="arm"),
        "bars": lambda: figures.bars(ARMS, "accuracy, %", by="arm"),
        "pictures": lambda: figures.pictures({"one": np.eye(4), "two": np.ones((4, 4))}, unit="shade"),
        "heatmap": lambda: figures.heatmap(pd.DataFrame(np.eye(3)), label="share", numbers=".1f"),
    }


def faces(name):
    return figures.show(
        drawings()[name](), ARMS, name=name, caption="What to see.", alt="Dots."
    )._repr_mimebundle_()


@pytest.mark.parametrize("name", drawings())
def test_a_figure_is_the_same_bytes_twice(name):
    assert faces(name) == faces(name)


@pytest.mark.parametrize("name", drawings())
def test_the_drawing_is_text_in_the_readers_ink_with_ids_of_its_own(name):
    page = BeautifulSoup(faces(name)["text/html"], "html.parser")
    svg = page.select_one("figure.fourfold .drawing svg[role=img]")
    assert svg["aria-label"] == "Dots."
    assert svg.select("text")
    text = str(svg)
    assert figures.INK not in text
    assert "currentColor" in text
    assert not re.search(r"<metadata|20\d\d-\d\d", text)
    ids = [part["id"] for part in svg.select("[id]")]
    assert len(ids) == len(set(ids))
    assert all(f"#{one}" in text or one.startswith(f"{name}-") for one in ids)


@pytest.mark.parametrize("name", drawings())
def test_the_picture_is_small_and_white(name):
    data = base64.b64decode(faces(name)["image/png"])
    assert len(data) < 25_000
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    assert picture.width == 630
    assert picture.getpixel((0, 0)) == (255, 255, 255)


def offered(shown):
    """The name of the CSV under a figure and what is in it; None where there is none."""
    link = BeautifulSoup(shown["text/html"], "html.parser").select_one("figcaption a.data")
    packed = link and link["href"].removeprefix("data:text/csv;charset=utf-8;base64,")
    return link and (link["download"], pd.read_csv(io.BytesIO(base64.b64decode(packed))))


def test_the_table_is_offered_as_it_is():
    name, table = offered(faces("pictures"))
    assert name == "pictures.csv"
    pd.testing.assert_frame_equal(table, ARMS)


@pytest.mark.parametrize("name", ["seeds", "points", "bars", "panels"])
def test_a_drawing_offers_the_table_it_was_made_from(name):
    made = drawings() | {"panels": lambda: figures.lines(ARMS, "seed", "accuracy, %", row="arm")}
    words = {"name": name, "caption": "What to see.", "alt": "Dots."}
    _, table = offered(figures.show(made[name](), **words)._repr_mimebundle_())
    pd.testing.assert_frame_equal(table, ARMS)
    _, table = offered(figures.show(made[name](), ARMS[:2], **words)._repr_mimebundle_())
    assert len(table) == 2


def test_maps_offer_their_cells_and_pictures_nothing():
    words = {"name": "one", "caption": "What to see.", "alt": "Dots."}
    maps = {title: pd.DataFrame(np.eye(2)).rename_axis("row") for title in "ab"}
    _, table = offered(figures.show(figures.heatmap(maps, label="share"), **words)._repr_mimebundle_())
    assert list(table) == ["panel", "row", "0", "1"]
    assert table.to_numpy()[:, 0].tolist() == ["a", "a", "b", "b"]
    for plot in (drawings()["pictures"](), figures.canvas()[0]):
        assert offered(figures.show(plot, **words)._repr_mimebundle_()) is None


def test_nothing_breaks_out_of_the_page():
    frame = pd.DataFrame({"arm": ["</svg><script>"], "value": [1.0]})
    shown = figures.show(
        figures.bars(frame, "value", by="arm"), frame, name="one", caption="a < b", alt='it\'s "so"'
    )
    text = shown._repr_mimebundle_()["text/html"]
    assert "<script" not in text
    assert text.count("</svg>") == 1
    assert "a &lt; b" in text
    assert 'aria-label="it&#x27;s &quot;so&quot;"' in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "One Pass"}, "lower-case words"),
        ({"caption": " "}, "needs a caption and an alt text"),
        ({"alt": ""}, "needs a caption and an alt text"),
        ({"data": {"x": 1}}, "no controls"),
    ],
)
def test_a_figure_needs_words(change, said):
    figure, _ = figures.canvas()
    with pytest.raises(ValueError, match=said):
        figures.show(figure, **({"name": "one", "caption": "c", "alt": "a"} | change))
