"""Promised against measured speed: how many times as fast, by the paper, by operations and by the clock here.

`data/speeds.yml` says which finding of which claim holds a promised ratio; nothing is timed here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fourfold import figures
from fourfold.compared.found import card, entries, findings
from fourfold.figures.style import COLOURS, INK
from fourfold.judging import records

SPEEDS = records.ROOT / "data" / "speeds.yml"


class Promise(BaseModel):
    """A ratio of speeds that a paper promises, and the finding that measures it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str
    claim: str
    finding: str
    """Name of the criterion of that claim; how many times as fast."""
    quantity: str
    promised: float = Field(gt=0)
    """1 where the paper gives no number."""
    machine: Literal["GPU", "CPU", "none"]
    """What the paper's number was timed on; none where it gives none."""
    operations: float | None = Field(default=None, gt=0)
    """By which factor multiply-accumulates fall."""
    beside: str | None = None
    """A control on the same quantity."""
    beside_is: str | None = None

    @model_validator(mode="after")
    def _named(self) -> "Promise":
        if (self.beside is None) != (self.beside_is is None):
            raise ValueError(f"{self.paper} {self.claim}: beside and beside_is belong together")
        if self.machine == "none" and self.promised != 1:
            raise ValueError(
                f"{self.paper} {self.claim}: promised must be 1 without a machine, got {self.promised}"
            )
        return self


def load(path: Path = SPEEDS) -> list[Promise]:
    """All promises.

    Raises:
        pydantic.ValidationError: naming the entry and the field, if one is not as it should be.
    """
    return entries(Promise, path)


def measured(promises: Sequence[Promise]) -> pd.DataFrame:
    """What the chapters' runs found for each promise.

    Returns:
        A row a promise: its fields, and name and part (the paper's), word, value, low, high and other, what
        the control beside it measured.

    Raises:
        ValueError: if a chapter did not run to its end, or has no such finding.
    """
    found = findings((p.paper, p.claim, name) for p in promises for name in (p.finding, p.beside) if name)
    rows = []
    for p in promises:
        record, word, estimate = found[p.paper, p.claim, p.finding]
        other = found[p.paper, p.claim, p.beside].estimate["value"] if p.beside else None
        rows.append(
            p.model_dump()
            | estimate
            | {"name": record.name, "part": record.part, "word": word, "other": other}
        )
    return pd.DataFrame(rows)


def drawn(found: pd.DataFrame) -> Figure:
    """A row a promise on a logarithmic axis: ring, square, dot with interval, and cross.

    Args:
        found: as `measured` returns it.
    """
    figure, (axes,) = figures.canvas(height=1.3 + 0.32 * len(found))
    rows = found.iloc[::-1].reset_index(drop=True)
    given = rows[rows.machine != "none"]
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.plot(
        given.promised, given.index, "o", color=COLOURS[0], fillstyle="none", markersize=11, label="promised"
    )
    counted = rows[rows.operations.notna()]
    axes.plot(counted.operations, counted.index, "s", color=COLOURS[1], fillstyle="none", label="operations")
    axes.hlines(rows.index, rows.low, rows.high, color=COLOURS[2], linewidth=2)
    axes.plot(rows.value, rows.index, "o", color=COLOURS[2], markersize=5, label="timed here")
    beside = rows[rows.other.notna()]
    axes.plot(beside.other, beside.index, "x", color=COLOURS[3], markersize=7, label="beside it, timed here")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 5, 10, 20]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(rows.index, rows.quantity, fontsize=8.5)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel("times as fast")
    axes.grid(axis="y", visible=False)
    figures.legend(figure)
    return figure


def table(found: pd.DataFrame) -> pd.DataFrame:
    """What `measured` returns, in words, each chapter a link to the claim's card in the book."""

    def number(value: float | None) -> str:
        return "" if pd.isna(value) else f"{value:.3g}"

    return pd.DataFrame(
        {
            "what": row.quantity,
            "chapter": card(row.part, row.paper, row.claim, row.name),
            "promised": "no number" if row.machine == "none" else f"{number(row.promised)} ({row.machine})",
            "operations": number(row.operations),
            "timed here": f"{number(row.value)} [{number(row.low)}, {number(row.high)}]",
            "beside it": "" if pd.isna(row.other) else f"{number(row.other)}: {row.beside_is}",
            "word of the claim": row.word,
        }
        for row in found.itertuples(index=False)
    )


def over(
    rows: Sequence[Mapping[str, Any]], one: str, *, arm: str, at: str, times: str = "seconds"
) -> pd.DataFrame:
    """Speed of every other arm over that of one, at each place where both were timed.

    Args:
        rows: of a benchmark.
        one: the arm that all are compared with.
        arm: the field that names an arm.
        at: the field of what was varied.
        times: the field with the time of a call, one number or one a round.

    Returns:
        A row an arm and place: arm, at and "times as fast", the median of the rounds' ratios.

    Raises:
        ValueError: if no row is of that arm.
    """
    taken = {(row[arm], row[at]): np.asarray(row[times]) for row in rows}
    places = [place for who, place in taken if who == one]
    if not places:
        raise ValueError(f"one must be one of {sorted({who for who, _ in taken})}, got {one!r}")
    return pd.DataFrame(
        [
            {arm: who, at: place, "times as fast": float(np.median(taken[one, place] / time))}
            for (who, place), time in taken.items()
            if who != one and place in places
        ]
    )
