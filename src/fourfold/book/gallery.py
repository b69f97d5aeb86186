"""The front page's gallery: every chapter's headline figure, small, with its title and its verdicts."""

import base64
import io
from functools import cache
from html import escape
from itertools import groupby
from pathlib import Path

import nbformat
from PIL import Image

from fourfold.judging import card, records, rule
from fourfold.judging.records import Record
from fourfold.recorded import executed

FOLDER = "gallery"
"""Where the pictures lie in the built site."""
SIZE = (360, 240)
"""Pixels that a picture fits into; most screens show them at two thirds."""


@cache
def headline(run: Path) -> bytes | None:
    """The figure of the cell tagged ``headline``, as PNG, small; None if the run shows none."""
    cells = executed.code_cells(nbformat.read(run, as_version=4))
    shown = [
        output.data["image/png"]
        for cell in cells
        if "headline" in cell.metadata.get("tags", ())
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    if not shown:
        return None
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0]))).convert("RGB")
    picture.thumbnail(SIZE, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.quantize(64, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        file, "png", optimize=True
    )
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    """File name -> picture, of every chapter that has one."""
    drawn = {f"{record.slug}.png": headline(executed.of(record)) for record in _shown()}
    return {name: picture for name, picture in drawn.items() if picture}


def page() -> str:
    """The gallery by part, and which papers wait for their chapter. HTML."""
    parts = [
        f"<h3>{part.capitalize()}</h3><ul class='gallery'>{''.join(map(_item, chapters))}</ul>"
        for part, chapters in groupby(_shown(), key=lambda record: record.part)
    ]
    waiting = [escape(record.name) for record in records.load_all() if not record.has_chapter]
    still = f"<p>Still to be written: {', '.join(waiting)}.</p>" if waiting else ""
    return "".join(parts) + still


def _shown() -> list[Record]:
    return [record for record in records.chapters() if not executed.failure(executed.of(record))]


def _item(record: Record) -> str:
    faces = executed.faces(executed.of(record), "verdict")
    squares = "".join(
        f"<span class='square {card.css(face['verdict'])}'>{rule.SYMBOLS[face['verdict']]}</span>"
        for face in faces
    )
    counted = {word: sum(face["verdict"] == word for face in faces) for word in rule.SYMBOLS}
    words = ", ".join(f"{count} {word}" for word, count in counted.items() if count)
    image = ""
    if drawn := headline(executed.of(record)):
        with Image.open(io.BytesIO(drawn)) as picture:
            size = "width='{}' height='{}'".format(*picture.size)
        image = f"<img src='{FOLDER}/{record.slug}.png' alt='' {size}>"
    return (
        f"<li><a href='chapters/{record.part}/{record.slug}.html'>{image}"
        f"<strong>{escape(record.name)}:</strong> <span>{escape(_subtitle(record))}</span></a>"
        f"<span class='claims' role='img' aria-label='{words}'>{squares}</span></li>"
    )


def _subtitle(record: Record) -> str:
    """A page's heading behind the paper's name."""
    lines = record.notebook.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("# ")).partition(": ")[2]
