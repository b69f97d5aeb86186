"""How a figure stands on a page: with its name, caption, label, and the table that it was drawn from."""

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fourfold.figures import still
from fourfold.figures.control import NAME, Control
from fourfold.figures.style import Drawing, settle


@dataclass(frozen=True)
class Shown:
    """A drawn figure, displayed as the last value of a cell: SVG in the book, PNG everywhere else."""

    drawn: Figure
    name: str
    caption: str
    alt: str
    table: pd.DataFrame | None = None
    controls: Sequence[Control] = ()
    data: dict[str, Any] | None = None

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        download = "" if self.table is None else _download(self.table, self.name)
        page = (
            f"<figure class='fourfold' id='figure-{self.name}'>"
            f"<div class='drawing'>{still.svg(self.drawn, self.name, self.alt)}</div>"
            f"{self._interactive() if self.controls else ''}"
            f"<figcaption>{html.escape(self.caption)}{download}</figcaption></figure>"
        )
        return {
            "text/plain": f"Figure {self.name}: {self.alt}",
            "text/html": page,
            "image/png": base64.b64encode(still.png(self.drawn)).decode("ascii"),
        }

    def _interactive(self) -> str:
        steps = {c.name: {"values": list(c.values), "texts": c.texts} for c in self.controls}
        carried = as_json({"controls": steps, "data": self.data})
        return (
            f"<div class='controls'>{''.join(c.html(self.name) for c in self.controls)}</div>"
            "<p class='finding' aria-live='polite'></p>"
            f"<script type='application/json' class='interactive'>{carried}</script>"
        )


def show(
    figure: Figure,
    table: pd.DataFrame | None = None,
    *,
    name: str,
    caption: str,
    alt: str,
    controls: Sequence[Control] = (),
    data: dict[str, Any] | None = None,
) -> Shown:
    """Put a figure on the page.

    Args:
        figure: drawn; its axes carry titles with units. With controls, as it is at their start.
        table: offered under it as CSV; by default the one that the vocabulary drew.
        name: lower-case words joined by ``-``, unique in the chapter.
        caption: what to see.
        alt: what a reader who cannot see the figure needs to know.
        controls: sliders; ``book/_static`` has a function under the figure's name that moves its parts.
        data: numbers that this function reads, JSON.

    Raises:
        ValueError: if the name is malformed, caption or alt text is empty, two controls share a name, there
            are data without controls, or a number in them is not finite.
    """
    check_words("figure", name, caption, alt)
    names = [control.name for control in controls]
    if len(set(names)) < len(names):
        raise ValueError(f"figure {name}: controls {', '.join(names)}: expected different names")
    if data is not None and not controls:
        raise ValueError(f"figure {name} has data but no controls that would use them")
    as_json(data)  # raises here, in the author's cell, and not when the page is made
    settle(figure)
    if table is None and isinstance(figure, Drawing):
        table = figure.table
    return Shown(figure, name, caption, alt, table, tuple(controls), data)


def check_words(what: str, name: str, caption: str, alt: str) -> None:
    """Raise ValueError for a malformed name, or an empty caption or alt text."""
    if not NAME.fullmatch(name):
        raise ValueError(f"name = {name!r}: expected lower-case words joined by '-'")
    if not caption.strip() or not alt.strip():
        raise ValueError(f"{what} {name} needs a caption and an alt text")


def as_json(value: Any) -> str:
    """JSON for a script element, which "</" would end. ValueError for numbers that no browser reads."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")


def _download(table: pd.DataFrame, name: str) -> str:
    """A link that holds the table as CSV: no script, no file beside the page."""
    text = table.to_csv(index=table.index.name is not None, float_format="%.6g", lineterminator="\n")
    packed = base64.b64encode(text.encode()).decode("ascii")
    return (
        f" <a class='data' download='{name}.csv' href='data:text/csv;charset=utf-8;base64,{packed}'>"
        "Data (CSV)</a>"
    )
