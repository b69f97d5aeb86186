"""One style for all figures: plotly, readable in light and dark, drawn in the page without a network.

A figure travels as JSON inside the page; ``fourfold.js`` draws it with the one ``plotly.min.js`` of the
book and takes text and grid colours from the reader's theme. Jupyter draws the same figure itself.
"""

import html
import json
import re
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Figure:
    """A figure with its name, caption and alt text, displayed as the last value of a cell."""

    plot: go.Figure
    name: str
    caption: str
    alt: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plot = json.loads(self.plot.to_json())
        # "</" would end the script element that carries the JSON.
        data = json.dumps(plot, separators=(",", ":")).replace("</", "<\\/")
        height = self.plot.layout.height or 420
        page = (
            f"<figure class='fourfold' id='figure-{self.name}'>"
            f"<div class='plot' role='img' aria-label='{html.escape(self.alt, quote=True)}' "
            f"style='min-height:{height}px'></div>"
            f"<script type='application/json'>{data}</script>"
            f"<figcaption>{html.escape(self.caption)}</figcaption></figure>"
        )
        return {
            "text/plain": f"Figure {self.name}: {self.alt}",
            "text/html": page,
            "application/vnd.plotly.v1+json": plot,
        }


def show(plot: go.Figure, *, name: str, caption: str, alt: str) -> Figure:
    """Dress a plotly figure for the book.

    Args:
        plot: the figure; its axes carry titles with units.
        name: lower-case words joined by ``-``, unique in the chapter.
        caption: what to see.
        alt: what a reader who cannot see the figure needs to know.

    Raises:
        ValueError: if the name is malformed, or caption or alt text is empty.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name = {name!r}: expected lower-case words joined by '-'")
    if not caption.strip() or not alt.strip():
        raise ValueError(f"figure {name} needs a caption and an alt text")
    plot.update_layout(template=STYLE)
    return Figure(plot, name, caption, alt)
