"""One style for all figures: plotly, readable in light and dark, drawn in the page without a network.

A figure travels as JSON inside the page; ``fourfold.js`` draws it with the one ``plotly.min.js`` of the
book and takes text and grid colours from the reader's theme. Jupyter draws the same figure itself.

A figure with controls has sliders under it in the book. What they do is a function in ``book/_static`` that
registers itself under the figure's name; it reads numbers that Python computed. Jupyter shows the start.
"""

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito's palette without black and yellow, which vanish on one of the two backgrounds.
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#8A8A8A",
)
COLOURS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, GREY)
MAGNITUDE = "Cividis"
SIGNED = "RdBu_r"

STYLE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": GREY},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 16, "t": 40, "b": 56},
        "xaxis": {"showline": True, "ticks": "outside", "zeroline": False, "automargin": True},
        "yaxis": {"showline": True, "ticks": "outside", "zeroline": False, "automargin": True},
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top"},
        "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
    }
)

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""What a figure may be called: lower-case words joined by hyphens."""


@dataclass(frozen=True)
class Control:
    """A slider under a figure. ValueError for a malformed name, no label, or values that do not rise."""

    name: str
    label: str
    values: Sequence[float]  # the steps, rising
    start: float  # one of them
    unit: str = ""

    def __post_init__(self) -> None:
        """Reject what the page could not show."""
        if not NAME.fullmatch(self.name):
            raise ValueError(f"control name = {self.name!r}: expected lower-case words joined by '-'")
        if not self.label.strip():
            raise ValueError(f"control {self.name} needs a label")
        rising = all(low < high for low, high in zip(self.values, self.values[1:], strict=False))
        if len(self.values) < 2 or not rising or not all(map(isfinite, self.values)):
            raise ValueError(f"control {self.name}: values = {self.values}: expected at least two, rising")
        if self.start not in self.values:
            raise ValueError(f"control {self.name}: start = {self.start}: expected one of {self.values}")

    @property
    def texts(self) -> list[str]:
        """The values as the reader sees them, with their unit."""
        numbers = (
            f"{v:g}" if abs(v) < 10_000 else f"{v:,.15g}".replace(",", "\N{NO-BREAK SPACE}")
            for v in self.values
        )
        return [f"{number} {self.unit}".strip() for number in numbers]

    def html(self, figure: str) -> str:
        """A labelled native slider over the steps, for the figure of that name."""
        step = self.values.index(self.start)
        text, place = html.escape(self.texts[step], quote=True), f"figure-{figure}-{self.name}"
        # The slider itself speaks its value, so the output beside it keeps quiet.
        return (
            f"<label for='{place}'>{html.escape(self.label)}</label>"
            f"<input type='range' id='{place}' name='{self.name}' min='0' max='{len(self.values) - 1}' "
            f"step='1' value='{step}' aria-valuetext='{text}'>"
            f"<output for='{place}' aria-live='off'>{text}</output>"
        )


@dataclass(frozen=True)
class Figure:
    """A figure with its name, caption and alt text, displayed as the last value of a cell."""

    plot: go.Figure
    name: str
    caption: str
    alt: str
    controls: Sequence[Control] = ()
    data: dict[str, Any] | None = None

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plot = json.loads(self.plot.to_json())
        height = self.plot.layout.height or 420
        page = (
            f"<figure class='fourfold' id='figure-{self.name}'>"
            f"<div class='plot' role='img' aria-label='{html.escape(self.alt, quote=True)}' "
            f"style='min-height:{height}px'></div>"
            f"<script type='application/json'>{_json(plot)}</script>"
            f"{self._interactive() if self.controls else ''}"
            f"<figcaption>{html.escape(self.caption)}</figcaption></figure>"
        )
        return {
            "text/plain": f"Figure {self.name}: {self.alt}",
            "text/html": page,
            "application/vnd.plotly.v1+json": plot,
        }

    def _interactive(self) -> str:
        steps = {c.name: {"values": list(c.values), "texts": c.texts} for c in self.controls}
        carried = _json({"controls": steps, "data": self.data})
        return (
            f"<div class='controls'>{''.join(c.html(self.name) for c in self.controls)}</div>"
            "<p class='finding' aria-live='polite'></p>"
            f"<script type='application/json' class='interactive'>{carried}</script>"
        )


def show(
    plot: go.Figure,
    *,
    name: str,
    caption: str,
    alt: str,
    controls: Sequence[Control] = (),
    data: dict[str, Any] | None = None,
) -> Figure:
    """Dress a plotly figure for the book.

    Args:
        plot: the figure; its axes carry titles with units. With controls, as it is at their start.
        name: lower-case words joined by ``-``, unique in the chapter.
        caption: what to see.
        alt: what a reader who cannot see the figure needs to know.
        controls: sliders; ``book/_static`` has a function under the figure's name that redraws for them.
        data: numbers that this function reads, JSON.

    Raises:
        ValueError: if the name is malformed, caption or alt text is empty, two controls share a name, there
            are data without controls, or a number in them is not finite.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name = {name!r}: expected lower-case words joined by '-'")
    if not caption.strip() or not alt.strip():
        raise ValueError(f"figure {name} needs a caption and an alt text")
    names = [control.name for control in controls]
    if len(set(names)) < len(names):
        raise ValueError(f"figure {name}: controls {', '.join(names)}: expected different names")
    if data is not None and not controls:
        raise ValueError(f"figure {name} has data but no controls that would use them")
    _json(data)  # raises here, in the author's cell, and not when the page is made
    plot.update_layout(template=STYLE)
    return Figure(plot, name, caption, alt, tuple(controls), data)


def _json(value: Any) -> str:
    """JSON for a script element, which "</" would end. ValueError for numbers that no browser reads."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
