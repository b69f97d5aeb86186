"""The control of the browser tests: where everything is wrong, each look finds what it looks for."""

from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT

LOOK = (Path(__file__).parent / "look.js").read_text(encoding="utf-8")
WRONG = """
<html lang="en"><head><title>wrong</title></head><body><main><article>
  <h1>Title</h1> <h4>Too deep</h4>
  <p>left: $x^2$ and <span class="math">\\(y\\)</span></p>
  <p style="color: #999; background: #fff8">faint</p>
  <pre><span class="kn" style="color: #bbb">import</span></pre>
  <div style="width: 900px">wide</div>
  <div style="overflow-x: auto"><div style="width: 900px">boxed</div></div>
  <button tabindex="-1">for mice only</button> <img src="data:,">
  <figure class="fourfold" id="figure-none"><div class="drawing"></div></figure>
  <figure class="fourfold" id="figure-bare"><div class="drawing">
    <svg role="img" width="90" height="40"><text x="60" y="20" fill="#bbb" color="#bbb">a long title</text>
    </svg></div></figure>
</article></main></body></html>
"""


@pytest.fixture
def wrong(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.set_content(WRONG)
    page.evaluate(LOOK)
    return page


@pytest.mark.parametrize(
    ("look", "found"),
    [
        ("math", ["not typeset: span.math", "left as typed: left: $x^2$", "left as typed: \\(y\\)"]),
        ("texts", ['p "faint" 2.8', 'span.kn "import" 1.9']),
        ("overflow", ['div "wide"', "the page is 908 wide"]),
        ("unreachable", ['button "for mice only"']),
        (
            "figures",
            [
                "figure-none is not drawn",
                "figure-bare is empty",
                'figure-bare: text "a long title" is cut off',
            ],
        ),
    ],
)
def test_a_look_finds_what_is_wrong(wrong, look, found):
    words = wrong.evaluate(f"look.{look}()")
    assert len(words) == len(found)
    for word, start in zip(words, found, strict=True):
        assert word.startswith(start)


def test_axe_is_asked(wrong):
    wrong.evaluate(AXE_SCRIPT)
    rules = {word.split(":")[0] for word in wrong.evaluate("look.axe({})")}
    assert rules >= {"color-contrast", "heading-order", "image-alt"}
