"""Predicted against measured: exponents and constants that papers give, and what the chapters found.

`data/predictions.yml` says which finding of which claim holds a predicted number; nothing is measured here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict

from fourfold import figures
from fourfold.compared.found import entries, findings
from fourfold.figures.style import COLOURS
from fourfold.judging import records

PREDICTIONS = records.ROOT / "data" / "predictions.yml"

BY = {
    "proof": "a theorem or a count",
    "heuristic": "an argument that leaves something out",
    "fit": "a number fitted elsewhere",
}
"""How a prediction was obtained -> what that means."""


class Prediction(BaseModel):
    """A number that a paper gives in advance, and the finding that measures it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str
    claim: str
    finding: str
    """Name of the criterion or control of that claim."""
    quantity: str
    predicted: float
    scale: Literal["exponent", "constant", "distance"]
    """A distance is what is left of a limit, whose prediction is 0."""
    by: Literal["proof", "heuristic", "fit"]
    end: Literal["", "low", "high"] = ""
    """Which end of its own interval the finding is; empty if it is the number itself."""
    sizes: str
    """The range in which it was measured."""


def load(path: Path = PREDICTIONS) -> list[Prediction]:
    """All predictions.

    Raises:
        pydantic.ValidationError: naming the entry and the field, if one is not as it should be.
    """
    return entries(Prediction, path)


def measured(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """What the chapters' runs found for each prediction.

    Returns:
        A row a prediction: its fields, and name and part (the paper's), word, value, low and high, and miss.
        An exact number is its own interval, and one end of an interval leaves the other end open (infinite).
        miss is how far the prediction lies outside of the interval, 0 inside.

    Raises:
        ValueError: if a chapter did not run to its end, or has no such finding.
    """
    found = findings((p.paper, p.claim, p.finding) for p in predictions)
    rows = []
    for p in predictions:
        record, word, estimate = found[p.paper, p.claim, p.finding]
        low = float("-inf") if p.end == "high" else estimate["low"]
        high = float("inf") if p.end == "low" else estimate["high"]
        rows.append(
            p.model_dump()
            | {
                "name": record.name,
                "part": record.part,
                "word": word,
                "value": estimate[p.end or "value"],
                "low": low,
                "high": high,
                "miss": max(0.0, low - p.predicted, p.predicted - high),
            }
        )
    return pd.DataFrame(rows)


def drawn(found: pd.DataFrame, x: str, *, ratio: bool = False) -> Figure:
    """A row a prediction: a ring where it was predicted, a dot and its interval where it was measured.

    Args:
        found: as `measured` returns it.
        x: what the axis shows.
        ratio: draw everything over what was predicted, so that all rings stand at 1.
    """
    figure, (axes,) = figures.canvas(height=0.9 + 0.3 * len(found))
    rows = found.iloc[::-1].reset_index(drop=True)
    scale = rows.predicted if ratio else 1
    at, low, high = (rows[column] / scale for column in ("value", "low", "high"))
    ring = rows.predicted / scale
    reach = 0.06 * (max(at.max(), ring.max()) - min(at.min(), ring.min()))
    for i, by in enumerate(BY):
        part = rows.index[rows.by == by]
        if not len(part):
            continue
        axes.plot(ring[part], part, "o", color=COLOURS[i], fillstyle="none", markersize=11)
        axes.plot(at[part], part, "o", color=COLOURS[i], markersize=5, label=f"{by}: {BY[by]}")
        for row in part:
            if rows.end[row]:
                # An open end is an arrow away from what was measured.
                tip = at[row] + (reach if rows.end[row] == "low" else -reach)
                axes.annotate(
                    "", (tip, row), (at[row], row), arrowprops={"arrowstyle": "->", "color": COLOURS[i]}
                )
            else:
                axes.plot([low[row], high[row]], [row, row], color=COLOURS[i], linewidth=2)
    axes.set_yticks(rows.index, rows.quantity, fontsize=8.5)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(x)
    axes.grid(axis="y", visible=False)
    figures.legend(figure)
    return figure
