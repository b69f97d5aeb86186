"""One style for all figures: plotly, readable in light and dark, drawn in the page without a network.

A figure travels as JSON inside the page; ``fourfold.js`` draws it with the one ``plotly.min.js`` of the
book and takes text and grid colours from the reader's theme. Jupyter draws the same figure itself.

A figure with controls has sliders under it in the book. What they do is a function in ``book/_static`` that
registers itself under the figure's name; it reads numbers that Python computed. Jupyter shows the start.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from fourfold.figures.control import Control
from fourfold.figures.style import COLOURS, GREY

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


@dataclass(frozen=True)
class Plotted:
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
            f"<script type='application/json'>{as_json(plot)}</script>"
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
        carried = as_json({"controls": steps, "data": self.data})
        return (
            f"<div class='controls'>{''.join(c.html(self.name) for c in self.controls)}</div>"
            "<p class='finding' aria-live='polite'></p>"
            f"<script type='application/json' class='interactive'>{carried}</script>"
        )


def as_json(value: Any) -> str:
    """JSON for a script element, which "</" would end. ValueError for numbers that no browser reads."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
