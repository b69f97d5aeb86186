"""The record of ``benchmarks/optics_compared.py`` as tables: simulators of the 4f bench side by side."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fourfold.compared.optics_peers import CONTESTANTS

PASSES = {"forward": "forward", "backward": "forward and backward"}
BYTES = {"float32": 8, "float64": 16}
"""Of a complex number."""
SIDE = "pixels of a side"
ERROR = "relative error"
TIME = "milliseconds"

Row = dict[str, Any]


def name(contestant: str) -> str:
    """The simulator's name: one that stands in both tasks has one name in either."""
    return contestant.removesuffix(", layer")


def timed(record: Mapping[str, Any], task: str) -> pd.DataFrame:
    """A row for each simulator, plane, precision and pass of a task; who was not timed has none.

    Columns: simulator, `SIDE`, precision, pass, and `TIME`, the median of the rounds. Raises ``ValueError``
    for a task without rows.
    """
    return pd.DataFrame(
        {**_place(row), "pass": word, TIME: 1e3 * float(np.median(row[f"rounds_{kind}"]))}
        for row in _of(record, task)
        for kind, word in PASSES.items()
        if "untimed" not in row
    )


def erring(record: Mapping[str, Any], task: str) -> pd.DataFrame:
    """A row for each simulator, plane and precision of a task that gave an answer.

    Columns: simulator, `SIDE`, precision, `ERROR` of its answer, "gradient", the worst of its gradients, and
    "exact waves", its distance from our bench with exact waves where its own are. Raises as `timed`.
    """
    return pd.DataFrame(
        _place(row)
        | {
            ERROR: row["error"],
            "gradient": max(row["gradient_errors"]),
            "exact waves": row.get("error_to_exact_waves", np.nan),
        }
        for row in _of(record, task)
        if "error" in row
    )


def held(record: Mapping[str, Any]) -> pd.DataFrame:
    """Peaks of memory: a row for each contestant that was measured, in the precision that it was.

    Columns: contestant, simulator, `SIDE`, precision, and for each of `PASSES` its peak in complex planes of
    that side.
    """
    return pd.DataFrame(
        {"contestant": row["contestant"], **_place(row)}
        | {word: row[kind] / (BYTES[row["precision"]] * row["side"] ** 2) for kind, word in PASSES.items()}
        for row in record["rows"]["memory"].values()
        if "unmeasured" not in row
    )


def untimed(record: Mapping[str, Any]) -> dict[str, str]:
    """Contestant -> why it was not timed: at all, or from which plane on in which precision."""
    first: dict[tuple[str, str], Row] = {}
    for row in record["rows"]["times"].values():
        if "untimed" in row:
            first.setdefault((row["contestant"], row["precision"]), row)
    why: dict[str, str] = dict(record["rows"]["absent"])
    for (contestant, precision), row in first.items():
        said = f"{precision} from {row['side']} pixels on: {row['untimed']}"
        why[contestant] = f"{why[contestant]}; {said}" if contestant in why else said
    return why


def table(record: Mapping[str, Any], task: str, side: int) -> pd.DataFrame:
    """All contestants of a task on a plane of one side, or the largest of theirs, in words.

    Two numbers are float32's and float64's; a dash stands where there is none.
    """
    times = record["rows"]["times"]
    memory = held(record).set_index("contestant")

    def both(said: Callable[[str], str]) -> str:
        found = [said(precision) for precision in BYTES]
        return " / ".join(found) if set(found) != {"–"} else "–"

    def of_row(contestant: str, at: int, said: Callable[[Row], str]) -> str:
        def found(precision: str) -> str:
            row = times.get(f"{contestant}, {at}, {precision}")
            try:
                return said(row) if row else "–"
            except KeyError:  # it got no further
                return "–"

        return both(found)

    def planes(contestant: str, word: str) -> str:
        return f"{memory.loc[contestant, word]:.0f}" if contestant in memory.index else "–"

    rows = []
    for contestant, one in CONTESTANTS.items():
        if one.task != task:
            continue
        at = min(side, one.largest)
        rows.append(
            {
                "simulator": name(contestant) + (f", on {at}" if at < side else ""),
                ERROR: of_row(contestant, at, lambda row: _short(row["error"])),
                "forward, ms": of_row(contestant, at, lambda row: _milliseconds(row["rounds_forward"])),
                "and backward, ms": of_row(contestant, at, lambda row: _milliseconds(row["rounds_backward"])),
                "made in, s": of_row(contestant, at, lambda row: f"{row['first']['make']:.2f}"),
                "planes held": planes(contestant, PASSES["forward"]),
                "and backward, planes": planes(contestant, PASSES["backward"]),
                "on a GPU": "not measured: none at hand",
            }
        )
    return pd.DataFrame(rows)


def _place(row: Row) -> Row:
    return {"simulator": name(row["contestant"]), SIDE: row["side"], "precision": row["precision"]}


def _of(record: Mapping[str, Any], task: str) -> list[Row]:
    """The rows of a task, in the order of `CONTESTANTS`."""
    found = [row for row in record["rows"]["times"].values() if row["task"] == task]
    if not found:
        tasks = sorted({row["task"] for row in record["rows"]["times"].values()})
        raise ValueError(f"task must be one of {', '.join(map(repr, tasks))}, got {task!r}")
    return sorted(found, key=lambda row: list(CONTESTANTS).index(row["contestant"]))


def _short(error: float) -> str:
    return f"{error:.0e}" if error else "0"


def _milliseconds(seconds: list[float]) -> str:
    """The median, three digits without an exponent."""
    value = 1e3 * float(np.median(seconds))
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
