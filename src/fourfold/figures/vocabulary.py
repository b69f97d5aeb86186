"""The drawings of this book, each a sentence about a tidy table.

A table is a pandas frame with a row for each measured value; the names of its columns are the titles of the
axes, units included. Where several rows share their place they are seeds: lines and bars show their mean and
its 95 % interval, the one the judge uses.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
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
    wrapped,
)
from fourfold.judging.rule import mean_interval

LETTER = 0.085
"""Width of a letter of an axis' name, inches."""

Threshold = float | Sequence[float] | Mapping[str, float | Sequence[float]] | None
"""Dotted lines, where a claim is decided: one value or several, for all panels or panel -> values."""

Limits = tuple[float | None, float | None]
"""The ends of an axis; None leaves one to the data."""


def interval(values: pd.Series) -> tuple[float, float]:
    """The judge's interval of a mean, from three seeds on: that of two is wider than any figure."""
    mean, low, high = mean_interval(np.asarray(values, dtype=float))
    return (low, high) if len(values) > 2 else (mean, mean)


def tidy(
    values: Mapping[str, Any], *names: str, along: str | tuple[str, Sequence[Any]] | None = None
) -> pd.DataFrame:
    """A tidy table of nested results: a column for each level of keys, then one for the value.

    Args:
        values: ``{"arm": [one, number, a, seed]}``, as deeply nested as there are names; a leaf is a number,
            one a seed, or with ``along`` an array (points,) or (seeds, points), tensors too.
        names: of the levels of keys, from the outside, and last of the value.
        along: the leaf's last axis: its name and the places of its points, or its name alone for points that
            are counted from 1.

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
        counted = range(1, 1 + leaf.shape[-1]) if leaf.ndim else ()
        axis, points = (along, counted) if isinstance(along, str) else along
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
    at_text: str = "threshold",
    limits: Limits | Mapping[str, Limits] | None = None,
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
        at_text: what the dotted line is; ``{:.2f}`` in it is its value.
        limits: the ends of the axis of the value, for all panels or panel -> ends.
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
        _finish(
            axes,
            name,
            x=value,
            y="",
            log="x" if log else "",
            at=at,
            at_text=at_text,
            axis="x",
            limits=limits,
        )
    legend(figure)
    return figure


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str | None = None,
    panel: str | None = None,
    row: str | None = None,
    each: str | None = None,
    log: str | Mapping[str, str] = "",
    fit: bool = False,
    markers: bool | None = None,
    at: Threshold = None,
    at_text: str = "threshold",
    at_x: Mapping[str, float] | None = None,
    limits: Limits | Mapping[str, Limits] | None = None,
    sharey: bool = True,
) -> Figure:
    """Curves of means with a band for the interval over seeds; told apart by colour, mark and dash.

    Args:
        frame: columns ``x`` and ``y``, a row a measured value; ``by`` and ``panel`` name further columns.
        x: what was varied, with its unit.
        y: what was measured, with its unit.
        by: the curve, at most seven.
        panel: another distinction, side by side.
        row: a third one, panels below one another.
        each: a column whose values have a thin curve each, in place of the mean.
        log: the logarithmic axes, such as ``"xy"``, for all panels or panel -> axes.
        fit: whether to draw each curve's power law, its exponent in the legend, instead of joining points.
        markers: whether points are marked; by default where a curve has at most 20.
        at: a level of y, a dotted line.
        at_text: what the dotted line is; ``{:.2f}`` in it is its value.
        at_x: dotted lines across the x axis, by name.
        limits: the ends of the y axis, for all panels or panel -> ends.
        sharey: whether panels have one scale.
    """
    _columns(frame, x, y, by, panel, row, each)
    figure, panels = _panels(frame, panel, height=3.5, sharey=sharey, row=row)
    if markers is None:
        markers = frame[x].nunique() <= 20
    names = _told_apart(frame, by)
    for name, axes, part in panels:
        shown = [n for n in names if (part[by] == n).any()] if by else []
        look: dict[str, Any] = {"x": x, "y": y, "ax": axes, "markeredgewidth": 0}
        if each:
            look |= {"units": each, "estimator": None, "linewidth": 0.8, "markersize": 4, "alpha": 0.7}
        else:
            look |= {"errorbar": interval, "err_kws": {"alpha": 0.18}}
            if frame[x].nunique() > 40:
                look |= {"markersize": 3.5, "linewidth": 1.2}
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
            seaborn.lineplot(part, **look)
        logarithmic = log.get(name, "") if isinstance(log, Mapping) else log
        _finish(
            axes, name, x=x, y=y, log=logarithmic, at=at, at_text=at_text, axis="y", at_x=at_x, limits=limits
        )
        places = sorted(part[x].unique())
        if "x" in logarithmic:
            _name_places(axes, places)
        elif all(float(place).is_integer() for place in places):
            across = frame[panel].nunique() if panel else 1
            axes.xaxis.set_major_locator(MaxNLocator(max(3, 8 // across), integer=True))
    if row is not None:
        _name_rows(figure, _order(frame[row]), y, titled=panel is None)
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
    rings: bool = False,
    log: str = "",
    at: Threshold = None,
    at_text: str = "threshold",
    at_x: Mapping[str, float] | None = None,
    sharey: bool = True,
) -> Figure:
    """A dot for every row, told apart by ``by`` in colour and mark; the column ``text`` is written beside.

    With ``rings`` the first of ``by``, such as what was published, are rings: a dot that agrees sits in one.
    """
    _columns(frame, x, y, by, text, panel)
    figure, panels = _panels(frame, panel, height=3.5, sharey=sharey)
    names = _told_apart(frame, by) or [None]
    for name, axes, part in panels:
        for i, group in enumerate(names):
            rows = part if group is None else part[part[by] == group]
            look: dict[str, Any] = {"marker": MARKERS[i], "alpha": 0.85}
            if len(rows) > 200:
                look |= {"markersize": 2.5, "alpha": 0.5, "markeredgewidth": 0, "rasterized": True}
            if rings:
                look = {"marker": "o", "markersize": 13, "fillstyle": "none"} if i == 0 else {"marker": "o"}
            axes.plot(rows[x], rows[y], color=COLOURS[i], label=str(group), linestyle="none", **look)
            for _, row in rows.iterrows() if text else ():
                aside = (9, 5) if rings else (5, 4)
                axes.annotate(
                    str(row[text]), (row[x], row[y]), xytext=aside, textcoords="offset points", fontsize=8.5
                )
        if text:
            axes.margins(x=0.16)
        if not pd.api.types.is_numeric_dtype(frame[y]):
            axes.margins(y=0.12)
        _finish(axes, name, x=x, y=y, log=log, at=at, at_text=at_text, axis="y", at_x=at_x)
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
        axes.margins(x=0.1 + 0.05 * len(panels))
        axes.grid(False, axis="y")
        _finish(axes, name, x=value, y="", log="", at=at, axis="x")
    legend(figure)
    return figure


def _meets(line: Line2D, bar: Rectangle) -> bool:
    """Whether an interval's line belongs to a bar."""
    y = np.asarray(line.get_ydata(), dtype=float)
    return len(y) > 0 and bool(bar.get_y() <= y.mean() <= bar.get_y() + bar.get_height())


Scale = str | tuple[float, float]
"""``"shared"``, ``"each"``, ``"row"``, or (lowest, highest)."""


def pictures(
    images: Mapping[str, Any] | Mapping[str, Mapping[str, Any]],
    *,
    scale: Scale | Mapping[str, Scale] = "shared",
    colours: str | Mapping[str, str] = "gray",
    unit: str | Mapping[str, str] = "",
    columns: int | None = None,
) -> Figure:
    """Images side by side with their titles: title -> picture, or row -> title -> picture.

    Scale and colours may each be a mapping from row or title to its own, unit one from row. Titles that stand
    above already are not repeated.

    Args:
        images: pictures (height, width) of any real values, nan where there is nothing, or (height, width,
            3) in 0..1; a row may lack some of the titles.
        scale: ``"shared"`` by all, ``"each"`` its own, ``"row"`` shared within a row, or (lowest, highest).
        colours: matplotlib's colour map; `style.SIGNED` is centred at zero.
        unit: what the values are; named beside a colour bar if one scale serves all, or the row.
        columns: pictures in a row of a plain mapping.
    """
    rows = _rows(images, columns)
    width = max(map(len, rows.values()))
    side = min((WIDTH - (0.8 if unit else 0)) / width, 2.6)
    names = [[wrapped(title, side) for title in row] for row in rows.values()]
    titled = [r == 0 or names[r] != names[r - 1] for r in range(len(rows))]
    tall = []
    for r, row in enumerate(rows.values()):
        lines_above = 1 + max(name.count("\n") for name in names[r]) if titled[r] else 0
        tall.append(side * max(p.shape[0] / p.shape[1] for p in row.values()) + 0.06 + 0.17 * lines_above)
    figure, axes = canvas(width, len(rows), height=sum(tall) + (0.1 if unit else 0), height_ratios=tall)
    axes = np.atleast_2d(axes)
    limits = _limits(rows, scale, colours)
    bars: list[tuple[Any, Any, str]] = []
    for r, (label, row) in enumerate(rows.items()):
        drawn = None
        for place in axes[r]:
            place.set_axis_off()
        for c, ((title, picture), (low, high)) in enumerate(zip(row.items(), limits[r], strict=True)):
            place = axes[r, c]
            values = np.asarray(picture, dtype=float)
            drawn = place.imshow(values, cmap=_own(colours, label, title, "gray"), vmin=low, vmax=high)
            if titled[r]:
                place.set_title(names[r][c], fontsize=9 if side > 0.75 else 7.5)
        if label:
            edge = {"transform": axes[r, 0].transAxes, "ha": "right", "va": "center", "fontsize": 9.5}
            axes[r, 0].text(-0.04, 0.5, label, rotation=90, **edge)
        if isinstance(unit, Mapping) and label in unit:
            bars.append((drawn, axes[r], unit[label]))
    if isinstance(unit, str) and unit and scale not in ("each", "row"):
        bars = [(drawn, axes, unit)]
    for drawn, places, words in bars:
        thick = {"aspect": 28, "shrink": 0.75} if places is axes else {"aspect": 12}
        figure.colorbar(drawn, ax=places, pad=0.02, label=words, **thick).outline.set_visible(False)
    return figure


def heatmap(
    table: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    label: str,
    signed: bool = False,
    log: bool = False,
    numbers: str | None = None,
    ticks: int = 12,
) -> Figure:
    """A table as a map of colours: its index runs up the y axis, its columns along x, under their names.

    Several tables, by title, stand side by side on one scale and share their y axis. ``label`` says what the
    cells are, ``log`` that their colours are logarithmic; ``numbers`` is the format in which each cell shows
    its own, such as ``".2f"``; ``ticks`` limits how many places are named along an axis. Cells that are nan
    stay empty.
    """
    tables = table if isinstance(table, Mapping) else {"": table}
    rows = max(map(len, tables.values()))
    height = min(5.5, 1.2 + 0.32 * rows if rows <= 14 else 4.2)
    whole = pd.concat(tables, names=["panel"]).reset_index() if isinstance(table, Mapping) else table
    figure, panels = canvas(len(tables), height=height, table=whole, sharey=True)
    values = np.concatenate([part.to_numpy(dtype=float).ravel() for part in tables.values()])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if signed:
        low, high = -max(-low, high), max(-low, high)
    for axes, (title, part) in zip(panels, tables.items(), strict=True):
        seaborn.heatmap(
            part,
            ax=axes,
            cmap=SIGNED if signed else MAGNITUDE,
            norm=LogNorm(low, high) if log else Normalize(low, high),
            annot=numbers is not None,
            fmt=numbers or "",
            annot_kws={"fontsize": 8.5},
            cbar=False,
            xticklabels=max(1, -(-part.shape[1] // ticks)),
            yticklabels=max(1, -(-part.shape[0] // ticks)),
            rasterized=part.size > 400,
        )
        axes.set(title=title, ylabel=axes.get_ylabel() if axes is panels[0] else "")
        axes.grid(False)
        axes.tick_params(length=0, rotation=0)
        every = max(1, -(-part.shape[1] // ticks)) * (WIDTH - 1.6) / len(tables) / part.shape[1]
        longest = max(len(line) for name in part.columns for line in str(name).split("\n"))
        if longest * LETTER > every:
            axes.tick_params(axis="x", rotation=90)
    panels[0].invert_yaxis()
    bar = figure.colorbar(panels[0].collections[0], ax=panels, label=label, pad=0.02, aspect=28)
    bar.outline.set_visible(False)
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
    frame: pd.DataFrame, panel: str | None, *, height: float, sharey: bool, row: str | None = None
) -> tuple[Figure, list[tuple[str, Axes, pd.DataFrame]]]:
    """A figure with a panel for each value of a column, or of two: (title, axes, its rows)."""
    if row is not None:
        across, down = _order(frame[panel]) if panel else [None], _order(frame[row])
        share: Any = True if sharey else "row"
        height = 2.6 + 0.8 * len(down)
        figure, axes = canvas(len(across), len(down), height=height, table=frame, sharex=True, sharey=share)
        found = []
        for place, (r, c) in zip(axes.flat, product(down, across), strict=True):
            part = frame[(frame[row] == r) & ((frame[panel] == c) if panel else True)]
            found.append((str(c if panel else r), place, part))
        return figure, found
    if panel is None:
        figure, axes = canvas(height=height, table=frame)
        return figure, [("", axes[0], frame)]
    names = _order(frame[panel])
    figure, axes = canvas(len(names), height=height, table=frame, sharey=sharey)
    return figure, [(str(n), a, frame[frame[panel] == n]) for n, a in zip(names, axes, strict=True)]


def _name_rows(figure: Figure, names: Sequence[Any], y: str, *, titled: bool) -> None:
    """What stands once in rows of panels: titles above, x below, the rows' names at the left; y for all."""
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        if spec is None:
            continue
        axes.set_ylabel(str(names[spec.rowspan.start]) if spec.is_first_col() and not titled else "")
        if not spec.is_last_row():
            axes.set_xlabel("")
        if not spec.is_first_row() and not titled:
            axes.set_title("")
    figure.supylabel(y, fontsize=10)


def _finish(
    axes: Axes,
    title: str,
    *,
    x: str,
    y: str,
    log: str,
    at: Threshold,
    axis: str,
    at_text: str = "threshold",
    at_x: Mapping[str, float] | None = None,
    limits: Limits | Mapping[str, Limits] | None = None,
) -> None:
    above = at_x or (at is not None and axis == "x" and at_text)
    axes.set_title(title, pad=14 if above else None)
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
    ends = limits.get(title) if isinstance(limits, Mapping) else limits
    if ends is not None:
        axes.set(**{f"{axis}lim": ends})
    level = at.get(title) if isinstance(at, Mapping) else at
    for value in level if isinstance(level, Sequence) else [level]:
        if value is not None:
            threshold(axes, value, at_text.format(value), axis=axis)
    for text, place in (at_x or {}).items():
        threshold(axes, place, text)


def _name_decades(axis: Axis, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5, in plain numbers, where powers of ten alone would be one or two."""
    if 0 < low < high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())


def _name_places(axes: Axes, places: Sequence[float]) -> None:
    """A tick at each place of a logarithmic x axis, in plain numbers, if there is room for their names."""
    names = [f"{place:g}" for place in places]
    spec = axes.get_subplotspec()
    width = WIDTH / (1 if spec is None else spec.get_gridspec().ncols) - 0.6
    if places[-1] < 1e4 * places[0] and sum(len(name) + 1.5 for name in names) * LETTER < width:
        axes.set_xticks(places, names)
        axes.set_xticks([], minor=True)


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


def _own(given: Any, row: str, title: str, otherwise: Any) -> Any:
    """What is given for all pictures, or in a mapping for one: by its title, else by its row."""
    return given.get(title, given.get(row, otherwise)) if isinstance(given, Mapping) else given


def _limits(
    rows: Mapping[str, Mapping[str, np.ndarray]],
    scale: Scale | Mapping[str, Scale],
    colours: str | Mapping[str, str],
) -> list[list[tuple[float, float]]]:
    """(lowest, highest) of every picture of every row."""

    def look(row: str, title: str) -> tuple[Scale, str]:
        return _own(scale, row, title, "row"), _own(colours, row, title, "gray")

    def span(row: str, title: str) -> tuple[float, float]:
        how, colour = look(row, title)
        if not isinstance(how, str):
            return how
        if how not in ("shared", "each", "row"):
            raise ValueError(f"scale must be 'shared', 'each', 'row' or (lowest, highest), got {how!r}")
        sharing = [
            picture
            for r, pictures in rows.items()
            for t, picture in pictures.items()
            if (r, t) == (row, title)
            or (how != "each" and look(r, t) == (how, colour) and (how == "shared" or r == row))
        ]
        low = min(float(np.nanmin(picture)) for picture in sharing)
        high = max(float(np.nanmax(picture)) for picture in sharing)
        return (-max(-low, high), max(-low, high)) if colour == SIGNED else (low, high)

    return [[span(row, title) for title in pictures] for row, pictures in rows.items()]
