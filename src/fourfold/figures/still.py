"""Faces of a drawn figure: an SVG for the page, a PNG for everything else.

The SVG stands inline in the page. Its text is text, its ink is ``currentColor``, so that one drawing serves
light, dark and paper; it has no date and no random ids, so that the same data give the same bytes. The PNG is
what Jupyter, VS Code, a repository's notebook view, and converters show.
"""

import html
import io
import re

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from fourfold.figures.style import DPI, INK

_FACELESS = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def svg(drawn: Figure, name: str, alt: str) -> str:
    """The figure as an inline SVG labelled ``alt``; parts that were given an id, ``<name>-...``, keep it."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        drawn.savefig(file, format="svg", metadata=_FACELESS)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    text = re.sub(
        r' id="([^"]+)"', lambda m: m[0] if m[1] in used or m[1].startswith(f"{name}-") else "", text
    )
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    # Matplotlib measured with the widest of these fonts, so none of the others can overlap.
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "system-ui, 'DejaVu Sans', sans-serif", text)
    # Hundredths of a point are finer than any screen.
    text = re.sub(
        r' (?:d|x|y|points|transform|width|height)="[^"]*"',
        lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]),
        text,
    )
    label = html.escape(alt, quote=True)
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', text, count=1).strip()


def png(drawn: Figure) -> bytes:
    """The figure on white, in few colours: small enough to be kept beside a notebook's text."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    small = io.BytesIO()
    # Of Pillow's methods the one that moves no colour by more than an eye can see.
    few, plain = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    image = Image.open(file).convert("RGB").quantize(256, method=few, dither=plain)
    image.save(small, format="png", optimize=True)
    return small.getvalue()
