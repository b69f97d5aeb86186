"""The drawings of this book, each a sentence about a tidy table.

A table is a pandas frame with a row for each measured value; the names of its columns are the titles of the
axes, units included. Where several rows share their place they are seeds: lines and bars show their mean and
its 95 % interval, the one the judge uses.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from fourfold.figures.style import (
    COLOURS,
    DASHES,
    INK,
    MAGNITUDE,
    MARKERS,
    SIGNED,
    WIDTH,
    canvas,
    legend,
    threshold,
)
from fourfold.judging.rule import mean_interval

LETTER = 0.085
"""Width of a letter of an axis' name, inches."""

Threshold = float | Mapping[str, float] | None
"""Where a claim is decided: one value for all panels, or panel -> value."""


def interval(values: pd.Series) -> tuple[float, float]:
    """The judge's interval of a mean, from three seeds on: that of two is wider than any figure."""
    mean, low, high = mean_interval(np.asarray(values, dtype=float))
    return (low, high) if len(values) > 2 else (mean, mean)


def tidy(
    values: Mapping[str, Any], *names: str, along: tuple[str, Sequence[Any]] | None = None
) -> pd.DataFrame:
    """A tidy table of nested results: a column for each level of keys, then one for the value.

    Args:
        values: ``{"arm": [one, number, a, seed]}``, as deeply nested as there are names; a leaf is a number,
            one a seed, or with ``along`` an array (points,) or (seeds, points), tensors too.
        names: of the levels of keys, from the outside, and last of the value.
        along: the leaf's last axis: its name and the places of its points.

    Raises:
        ValueError: if keys are nested less deeply than names are given, or a leaf has other points.
    """
    *levels, value = names
    rows: list[dict[str, Any]] = []

    def collect(found: Any, place: dict[str, Any], left: Sequence[str]) -> None:
        if left:
            if not isinstance(found, Mapping):
                raise ValueError(f"names = {names}: no keys for {left[0]!r}, got {type(found).__name__}")
            for key, inner in found.items():
                collect(inner, {**place, left[0]: key}, left[1:])
            return
        leaf = np.asarray(found, dtype=float)
        if along is None:
            rows.extend({**place, value: float(number)} for number in leaf.reshape(-1))
            return
        axis, points = along
        if leaf.ndim == 0 or leaf.shape[-1] != len(points):
            raise ValueError(f"{place}: expected {len(points)} points along {axis!r}, got {leaf.shape}")
        for curve in leaf.reshape(-1, len(points)):
            rows.extend({**place, axis: p, value: float(n)} for p, n in zip(points, curve, strict=True))

    collect(values, {}, levels)
    return pd.DataFrame(rows)


def seeds(
    frame: pd.DataFrame,
    value: str,
    *,
    by: str,
    hue: str | None = None,
    panel: str | None = None,
    at: Threshold = None,
    log: bool = False,
) -> Figure:
    """Every seed a dot, with mean and interval, a row for each ``by``.

    Args:
        frame: columns ``value`` and ``by``, a row a seed; ``hue`` and ``panel`` name further columns.
        value: what was measured, with its unit.
        by: the arm; rows stand in the order of the table.
        hue: a second distinction within a row, by colour; several in one row stand below one another.
        panel: a third one, side by side.
        at: the threshold, a dotted line.
        log: whether the axis is logarithmic.
    """
    _columns(frame, value, by, hue, panel)
    within = int(frame.groupby(by)[hue].nunique().max()) if hue else 1
    height = 1.15 + 0.42 * frame[by].nunique() * within**0.6
    figure, panels = _panels(frame, panel, height=height, sharey=True)
    look: dict[str, Any] = {"x": value, "y": by, "hue": hue or by, "order": list(_order(frame[by]))}
    look |= {"hue_order": list(_order(frame[hue or by])), "dodge": within > 1, "legend": bool(hue)}
    colours = _colours(frame[hue or by])
    for name, axes, part in panels:
        seaborn.stripplot(
            part, ax=axes, palette=colours, jitter=False, size=5, alpha=0.5, linewidth=0, **look, zorder=2
        )
        seaborn.pointplot(
            part,
            ax=axes,
            palette=colours,
            errorbar=interval,
            linestyle="none",
            marker="|",
            markersize=9 if within > 1 else 13,
            markeredgewidth=2,
            err_kws={"linewidth": 2.2},
            **{**look, "dodge": 0.8 - 0.8 / len(colours) if within > 1 else False, "legend": False},
        )
        # seaborn draws a line for every pair of row and colour, most of them of nothing. Those without points
        # are what the legend shows.
        for line in list(axes.lines):
            places = np.asarray(line.get_xdata(), float)
            if len(places) and np.isnan(places).all():
                line.remove()
        _finish(axes, name, x=value, y="", log="x" if log else "", at=at, axis="x")
    legend(figure)
    return figure


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str | None = None,
    panel: str | None = None,
    log: str = "",
    fit: bool = False,
    markers: bool | None = None,
    at: Threshold = None,
    sharey: bool = True,
) -> Figure:
    """Curves of means with a band for the interval over seeds; told apart by colour, mark and dash.

    Args:
        frame: columns ``x`` and ``y``, a row a measured value; ``by`` and ``panel`` name further columns.
        x: what was varied, with its unit.
        y: what was measured, with its unit.
        by: the curve, at most seven.
        panel: another distinction, side by side.
        log: the logarithmic axes, such as ``"xy"``.
        fit: whether to draw each curve's power law, its exponent in the legend, instead of joining points.
        markers: whether points are marked; by default where a curve has at most 20.
        at: a level of y, a dotted line.
        sharey: whether panels have one scale.
    """
    _columns(frame, x, y, by, panel)
    figure, panels = _panels(frame, panel, height=3.5, sharey=sharey)
    if markers is None:
        markers = frame[x].nunique() <= 20
    names = _told_apart(frame, by)
    for name, axes, part in panels:
        shown = [n for n in names if (part[by] == n).any()] if by else []
        look: dict[str, Any] = {"x": x, "y": y, "ax": axes, "errorbar": interval, "err_kws": {"alpha": 0.18}}
        if by:
            place = [names.index(n) for n in shown]
            look |= {
                "hue": by,
                "style": by,
                "hue_order": shown,
                "style_order": shown,
                "palette": [COLOURS[i] for i in place],
                "dashes": [DASHES[i] for i in place],
            }
            look["markers"] = [MARKERS[i] for i in place] if markers else False
        else:
            look |= {"color": COLOURS[0], "marker": "o" if markers else None}
        if fit:
            _power_laws(part, x, y, by, names, axes)
        else:
            seaborn.lineplot(part, **look, markeredgewidth=0)
        _finish(axes, name, x=x, y=y, log=log, at=at, axis="y")
        if "x" in log and frame[x].nunique() <= 8:
            places = sorted(frame[x].unique())
            axes.set_xticks(places, [f"{place:g}" for place in places])
            axes.set_xticks([], minor=True)
    legend(figure)
    return figure


def _power_laws(part: pd.DataFrame, x: str, y: str, by: str | None, names: list, axes: Axes) -> None:
    """Points and, for three or more of a curve, the least-squares power law through them."""
    from fourfold.cost import exponent

    for i, name in enumerate(names or [None]):
        points = part if name is None else part[part[by] == name]
        label = str(name or y)
        if len(points) >= 3:
            law = exponent(points[x].tolist(), points[y].tolist())
            ends = np.array([points[x].min(), points[x].max()])
            axes.plot(ends, law.factor * ends**law.slope, color=COLOURS[i], linewidth=1.2)
            label = f"{label}: slope {law.slope:.2f} [{law.low:.2f}, {law.high:.2f}]"
        axes.plot(points[x], points[y], MARKERS[i], color=COLOURS[i], label=label)


def points(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str | None = None,
    text: str | None = None,
    panel: str | None = None,
    log: str = "",
    at: Threshold = None,
    sharey: bool = True,
) -> Figure:
    """A dot for every row, told apart by ``by`` in colour and mark; the column ``text`` is written beside."""
    _columns(frame, x, y, by, text, panel)
    figure, panels = _panels(frame, panel, height=3.5, sharey=sharey)
    names = _told_apart(frame, by) or [None]
    for name, axes, part in panels:
        for i, group in enumerate(names):
            rows = part if group is None else part[part[by] == group]
            axes.plot(rows[x], rows[y], MARKERS[i], color=COLOURS[i], label=str(group), alpha=0.85)
            for _, row in rows.iterrows() if text else ():
                axes.annotate(
                    str(row[text]), (row[x], row[y]), xytext=(5, 4), textcoords="offset points", fontsize=8.5
                )
        _finish(axes, name, x=x, y=y, log=log, at=at, axis="y")
    if by:
        legend(figure)
    return figure


def bars(
    frame: pd.DataFrame,
    value: str,
    *,
    by: str,
    hue: str | None = None,
    panel: str | None = None,
    at: Threshold = None,
    form: str = "{:.3g}",
) -> Figure:
    """Horizontal bars from zero with their numbers; several rows of one bar are seeds."""
    _columns(frame, value, by, hue, panel)
    rows = frame[by].nunique() * (frame[hue].nunique() if hue else 1)
    figure, panels = _panels(frame, panel, height=1.1 + 0.36 * rows, sharey=True)
    for name, axes, part in panels:
        seaborn.barplot(
            part,
            x=value,
            y=by,
            hue=hue or by,
            order=list(_order(frame[by])),
            hue_order=list(_order(frame[hue or by])),
            palette=_colours(frame[hue or by]) if hue else {key: COLOURS[0] for key in frame[by]},
            errorbar=interval,
            err_kws={"color": INK, "linewidth": 1.4},
            saturation=1,
            legend=bool(hue),
            ax=axes,
        )
        for bar in (bar for container in axes.containers for bar in container):
            spans = [np.asarray(line.get_xdata(), float) for line in axes.lines if _meets(line, bar)]
            left = bar.get_width() < 0
            ends = [bar.get_width(), *(span.min() if left else span.max() for span in spans)]
            end = min(ends) if left else max(ends)
            place: dict[str, Any] = {
                "xytext": (-4 if left else 4, 0),
                "textcoords": "offset points",
                "ha": "right" if left else "left",
                "va": "center",
                "fontsize": 8.5,
            }
            middle = bar.get_y() + bar.get_height() / 2
            axes.annotate(form.format(bar.get_width()), (end, middle), color=INK, **place)
        axes.margins(x=0.14)
        axes.grid(False, axis="y")
        _finish(axes, name, x=value, y="", log="", at=at, axis="x")
    legend(figure)
    return figure


def _meets(line: Line2D, bar: Rectangle) -> bool:
    """Whether an interval's line belongs to a bar."""
    y = np.asarray(line.get_ydata(), dtype=float)
    return len(y) > 0 and bool(bar.get_y() <= y.mean() <= bar.get_y() + bar.get_height())


def pictures(
    images: Mapping[str, Any] | Mapping[str, Mapping[str, Any]],
    *,
    scale: str | tuple[float, float] = "shared",
    colours: str = "gray",
    unit: str = "",
    columns: int | None = None,
) -> Figure:
    """Images side by side with their titles: title -> picture, or row -> title -> picture.

    Args:
        images: pictures (height, width) of any real values, or (height, width, 3) in 0..1; a row may lack
            some of the titles.
        scale: ``"shared"`` by all, ``"each"`` its own, ``"row"`` shared within a row, or (lowest, highest).
        colours: matplotlib's colour map; `style.SIGNED` is centred at zero.
        unit: what the values are; named beside a colour bar if one scale serves all.
        columns: pictures in a row of a plain mapping.
    """
    rows = _rows(images, columns)
    width = max(map(len, rows.values()))
    side = min(WIDTH / width, 2.6)
    tall = [side * max(p.shape[0] / p.shape[1] for p in row.values()) + 0.32 for row in rows.values()]
    figure, axes = canvas(width, len(rows), height=sum(tall) + (0.1 if unit else 0), height_ratios=tall)
    axes = np.atleast_2d(axes)
    limits = _limits(rows, scale, colours)
    drawn = None
    for r, (label, row) in enumerate(rows.items()):
        for c in range(width):
            place = axes[r, c]
            place.set_axis_off()
            if c >= len(row):
                continue
            title, picture = list(row.items())[c]
            low, high = limits[r][c]
            drawn = place.imshow(np.asarray(picture, dtype=float), cmap=colours, vmin=low, vmax=high)
            place.set_title(title, fontsize=9)
        if label:
            edge = {"transform": axes[r, 0].transAxes, "ha": "right", "va": "center", "fontsize": 9.5}
            axes[r, 0].text(-0.04, 0.5, label, rotation=90, **edge)
    if unit and drawn is not None and scale not in ("each", "row"):
        bar = figure.colorbar(drawn, ax=axes, shrink=0.75, aspect=28, pad=0.02)
        bar.set_label(unit)
        bar.outline.set_visible(False)
    return figure


def heatmap(
    table: pd.DataFrame, *, label: str, signed: bool = False, numbers: str | None = None, ticks: int = 12
) -> Figure:
    """A table as a map of colours: its index runs up the y axis, its columns along x, under their names.

    ``label`` says what the cells are; ``numbers`` is the format in which each cell shows its own, such as
    ``".2f"``; ``ticks`` limits how many places are named along an axis.
    """
    height = min(5.5, 1.2 + 0.32 * len(table) if len(table) <= 14 else 4.2)
    figure, (axes,) = canvas(height=height)
    values = table.to_numpy(dtype=float)
    largest = float(np.nanmax(np.abs(values)))
    seaborn.heatmap(
        table,
        ax=axes,
        cmap=SIGNED if signed else MAGNITUDE,
        vmin=-largest if signed else None,
        vmax=largest if signed else None,
        annot=numbers is not None,
        fmt=numbers or "",
        annot_kws={"fontsize": 8.5},
        cbar_kws={"label": label},
        xticklabels=max(1, -(-table.shape[1] // ticks)),
        yticklabels=max(1, -(-table.shape[0] // ticks)),
        rasterized=table.size > 400,
    )
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0, rotation=0)
    return figure


# --- parts --------------------------------------------------------------------------------------------------


def _order(column: pd.Series) -> list:
    return list(dict.fromkeys(column))


def _colours(column: pd.Series) -> dict[Any, str]:
    """A colour for each name; one for all where there are more names than colours."""
    names = _order(column)
    return {name: COLOURS[i] if len(names) <= len(COLOURS) else COLOURS[0] for i, name in enumerate(names)}


def _told_apart(frame: pd.DataFrame, by: str | None) -> list:
    """The names of what a panel tells apart. Raises ValueError for more than there are colours."""
    names = _order(frame[by]) if by else []
    if len(names) > len(COLOURS):
        raise ValueError(f"{by}: at most {len(COLOURS)} can be told apart, got {len(names)}")
    return names


def _columns(frame: pd.DataFrame, *named: str | None) -> None:
    """Raise ValueError for a column that the frame lacks or a frame without rows."""
    if missing := [name for name in named if name is not None and name not in frame]:
        raise ValueError(f"no column {', '.join(map(repr, missing))}; there are {', '.join(map(str, frame))}")
    if frame.empty:
        raise ValueError("the table has no rows")


def _panels(
    frame: pd.DataFrame, panel: str | None, *, height: float, sharey: bool
) -> tuple[Figure, list[tuple[str, Axes, pd.DataFrame]]]:
    """A figure with a panel for each value of a column: (title, axes, its rows)."""
    if panel is None:
        figure, axes = canvas(height=height)
        return figure, [("", axes[0], frame)]
    names = _order(frame[panel])
    figure, axes = canvas(len(names), height=height, sharey=sharey)
    return figure, [(str(n), a, frame[frame[panel] == n]) for n, a in zip(names, axes, strict=True)]


def _finish(axes: Axes, title: str, *, x: str, y: str, log: str, at: Threshold, axis: str) -> None:
    axes.set_title(title, pad=14 if at is not None and axis == "x" else None)
    spec = axes.get_subplotspec()
    panels = 1 if spec is None else spec.get_gridspec().ncols
    axes.set_xlabel(textwrap.fill(x, int((WIDTH / panels - 0.3) / LETTER)))
    axes.set_ylabel(y if spec is None or spec.is_first_col() or not _shares_y(axes) else "")
    if "x" in log:
        axes.set_xscale("log")
        _name_decades(axes.xaxis, *axes.get_xlim())
    elif axes.get_xscale() == "linear" and isinstance(axes.xaxis.get_major_locator(), MaxNLocator):
        axes.xaxis.set_major_locator(MaxNLocator(max(3, min(6, 13 // panels))))
    if "y" in log:
        axes.set_yscale("log")
        _name_decades(axes.yaxis, *axes.get_ylim())
    value = at.get(title) if isinstance(at, Mapping) else at
    if value is not None:
        threshold(axes, value, axis=axis)


def _name_decades(axis: Axis, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5, in plain numbers, where powers of ten alone would be one or two."""
    if 0 < low < high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())


def _shares_y(axes: Axes) -> bool:
    return len(axes.get_shared_y_axes().get_siblings(axes)) > 1


def _rows(images: Mapping[str, Any], columns: int | None) -> dict[str, dict[str, Any]]:
    """Rows of titled pictures, numpy arrays."""
    if not images:
        raise ValueError("pictures needs at least one picture")
    if all(isinstance(row, Mapping) for row in images.values()):
        return {label: {t: np.asarray(p) for t, p in row.items()} for label, row in images.items()}
    titled = [(title, np.asarray(picture)) for title, picture in images.items()]
    width = columns or min(len(titled), 5)
    return {" " * (i // width): dict(titled[i : i + width]) for i in range(0, len(titled), width)}


def _limits(
    rows: Mapping[str, Mapping[str, np.ndarray]], scale: str | tuple[float, float], colours: str
) -> list[list[tuple[float, float]]]:
    """(lowest, highest) of every picture of every row."""

    def span(pictures: Sequence[np.ndarray]) -> tuple[float, float]:
        low = min(float(np.nanmin(p)) for p in pictures)
        high = max(float(np.nanmax(p)) for p in pictures)
        return (-max(-low, high), max(-low, high)) if colours == SIGNED else (low, high)

    if not isinstance(scale, str):
        return [[scale] * len(row) for row in rows.values()]
    if scale == "each":
        return [[span([p]) for p in row.values()] for row in rows.values()]
    if scale == "row":
        return [[span(list(row.values()))] * len(row) for row in rows.values()]
    if scale != "shared":
        raise ValueError(f"scale must be 'shared', 'each', 'row' or (lowest, highest), got {scale!r}")
    whole = span([p for row in rows.values() for p in row.values()])
    return [[whole] * len(row) for row in rows.values()]
