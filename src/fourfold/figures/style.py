"""One look for all figures: palette, sizes, and matplotlib's settings.

Text, axes and ticks are drawn in `INK` alone, which becomes the reader's own text colour in the page; data in
`COLOURS`, which read on light, dark and paper, and are told apart by colour-blind readers.
"""

import textwrap
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DASHES = ("", (4, 1.5), (1, 1), (3, 1, 1, 1), (5, 1, 1, 1, 1, 1), (2, 2), (1, 3))
MAGNITUDE = "cividis"
SIGNED = "RdBu_r"
INK = "#1f2329"

DPI = 90
"""Of PNGs. Figures are laid out at it: letters are not as wide at another."""
WIDTH = 7.0
"""Inches: the width of the text at 96 pixels an inch."""

# For all that is drawn from now on, as with a style of matplotlib's own: text takes its look when it is made.
matplotlib.rcParams.update(
    {
        "font.family": ["DejaVu Sans"],
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.labelsize": 10,
        "legend.fontsize": 9.5,
        "legend.frameon": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.edgecolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=COLOURS),
        "grid.color": INK,
        "grid.alpha": 0.13,
        "grid.linewidth": 0.7,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.5,
        "image.cmap": MAGNITUDE,
        "image.interpolation": "none",
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "svg.fonttype": "none",
    }
)


class Drawing(Figure):
    """A figure that knows the table it is drawn from, if there is one."""

    table: pd.DataFrame | None = None


def canvas(
    columns: int = 1,
    rows: int = 1,
    *,
    height: float | None = None,
    table: pd.DataFrame | None = None,
    **layout: Any,
) -> tuple[Drawing, np.ndarray]:
    """An empty figure as wide as the text: (figure, axes), axes (rows, columns) or flat for a single row.

    ``height`` is in inches, by default 3.2 a row; ``table`` is what will be drawn, for the page to offer;
    ``layout`` goes to matplotlib's ``Figure.subplots``.
    """
    figure = Drawing(figsize=(WIDTH, 3.2 * rows if height is None else height), dpi=DPI, layout="constrained")
    figure.table = table
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    return figure, axes[0] if rows == 1 else axes


def legend(figure: Figure, axes: Any = None) -> None:
    """One legend under the figure for the lines of all its panels, each name once."""
    found: dict[str, Any] = {}
    for panel in figure.axes if axes is None else axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
        if inside := panel.get_legend():
            inside.remove()
    if len(found) > 1:
        widest = max(map(len, found))
        figure.legend(
            list(found.values()),
            list(found),
            loc="outside lower center",
            ncols=max(1, min(len(found), 92 // (widest + 7))),
        )


def wrapped(title: str, width: float) -> str:
    """A picture's title in as many lines as its width in inches needs."""
    return "\n".join(
        textwrap.fill(line, max(8, int(width / 0.08)), break_long_words=False) for line in title.split("\n")
    )


def settle(figure: Figure) -> None:
    """Lay a figure out once and for all: every face and every call draws the same."""
    if figure.get_layout_engine() is not None:
        # Once to see how wide things are, once more for those that a picture's shape then made narrower.
        figure.draw_without_rendering()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def threshold(axes: Axes, value: float, text: str = "threshold", *, axis: str = "x") -> None:
    """A dotted line across a panel at a value of its x or y axis, named at its end."""
    line: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 1.1, "zorder": 1}
    if axis == "x":
        axes.axvline(value, **line)
        place: dict[str, Any] = {
            "xy": (value, 1),
            "xycoords": ("data", "axes fraction"),
            "ha": "center",
            "va": "bottom",
        }
    else:
        axes.axhline(value, **line)
        place = {"xy": (1.01, value), "xycoords": ("axes fraction", "data"), "ha": "left", "va": "center"}
    axes.annotate(text, **place, fontsize=8.5, color=INK)
