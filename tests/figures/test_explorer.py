"""The explorer carries whole per cent of the maps it was given, and refuses what is no map."""

import json

import pytest
import torch
from bs4 import BeautifulSoup

from fourfold.figures.explorer import Samples, explore

SAMPLES = Samples(torch.rand(2, 6, 4, 4), 3, [{4: "target"}, {}])
MAPS = torch.rand(2, 2, 4, 7, 7).softmax(-1)
WORDS = {"name": "maps", "caption": "What to <see>.", "alt": "Cells."}


def test_the_page_carries_every_share_to_the_per_cent():
    page = BeautifulSoup(
        explore({"a": MAPS, "b": MAPS.tolist()}, SAMPLES, **WORDS)._repr_mimebundle_()["text/html"],
        "html.parser",
    )
    data = json.loads(page.script.text)
    for variant in ("a", "b"):
        assert (torch.tensor(data["maps"][variant]) / 100 - MAPS).abs().max() <= 0.0051
    assert torch.tensor(data["pictures"]).shape == (2, 6, 16)
    assert (data["width"], data["columns"], data["notes"]) == (4, 3, [{"4": "target"}, {}])
    pixels = torch.tensor(data["pictures"])
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)
    assert page.figcaption.text == "What to <see>."
    assert page.figure["aria-label"] == "Cells."


REFUSED = [
    (lambda: Samples(torch.rand(2, 5, 4, 4), 3, [{}, {}]), r"columns = 3, got \(2, 5, 4, 4\)"),
    (lambda: Samples(torch.rand(2, 6, 4, 4), 3, [{}]), "notes must be one per sample, 2, got 1"),
    (lambda: explore({}, SAMPLES, **WORDS), "at least one variant"),
    (lambda: explore({"a": MAPS}, SAMPLES, **(WORDS | {"name": "A b"})), "name = 'A b'"),
    (lambda: explore({"a": MAPS}, SAMPLES, **(WORDS | {"alt": " "})), "caption and an alt text"),
    (lambda: explore({"a": MAPS[:1]}, SAMPLES, **WORDS), r"maps\['a'\] must be \(2, depth, heads, 7, 7\)"),
    (lambda: explore({"a": 2 * MAPS + 1}, SAMPLES, **WORDS), r"shares of attention in 0\.\.1"),
    (lambda: explore({"a": MAPS * torch.nan}, SAMPLES, **WORDS), r"shares of attention in 0\.\.1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
