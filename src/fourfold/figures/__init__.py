"""Figures: drawn with matplotlib in one style, from tidy tables, with faces for page, paper and notebook.

``figures.show(figures.seeds(frame, "accuracy", by="arm"), name=..., caption=..., alt=...)``
"""

from fourfold.figures.control import NAME, Control
from fourfold.figures.shown import Shown, show
from fourfold.figures.style import (
    BLUE,
    COLOURS,
    DASHES,
    GREEN,
    GREY,
    INK,
    MAGNITUDE,
    MARKERS,
    ORANGE,
    PINK,
    SIGNED,
    SKY,
    VERMILION,
    canvas,
    legend,
    settle,
    threshold,
)
from fourfold.figures.vocabulary import bars, heatmap, lines, pictures, points, seeds, tidy

__all__ = [
    "BLUE",
    "COLOURS",
    "DASHES",
    "GREEN",
    "GREY",
    "INK",
    "MAGNITUDE",
    "MARKERS",
    "NAME",
    "ORANGE",
    "PINK",
    "SIGNED",
    "SKY",
    "VERMILION",
    "Control",
    "Shown",
    "bars",
    "canvas",
    "heatmap",
    "legend",
    "lines",
    "pictures",
    "points",
    "seeds",
    "settle",
    "show",
    "threshold",
    "tidy",
]
