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
    """Peaks of memory: a row for each contestant and precision that was measured.

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
    """All contestants of a task on a plane of one side, in words; two numbers are float32's and float64's."""
    memory = held(record).set_index(["contestant", "precision"])

    def both(contestant: str, found: Callable[[Row], str]) -> str:
        rows = (record["rows"]["times"].get(f"{contestant}, {side}, {precision}") for precision in BYTES)
        said = [found(row) if row else "–" for row in rows]
        return " / ".join(said) if set(said) != {"–"} else "–"

    def milliseconds(kind: str) -> Callable[[Row], str]:
        return lambda row: "–" if "untimed" in row else _short(1e3 * float(np.median(row[f"rounds_{kind}"])))

    def planes(word: str) -> Callable[[Row], str]:
        def said(row: Row) -> str:
            at = (row["contestant"], row["precision"])
            return f"{memory.loc[at, word]:.0f}" if at in memory.index else "–"

        return said

    return pd.DataFrame(
        {
            "simulator": name(contestant),
            ERROR: both(contestant, lambda row: f"{row['error']:.0e}" if "error" in row else "–"),
            "forward, ms": both(contestant, milliseconds("forward")),
            "and backward, ms": both(contestant, milliseconds("backward")),
            "planes held": both(contestant, planes(PASSES["forward"])),
            "and backward, planes": both(contestant, planes(PASSES["backward"])),
            "on a GPU": "not measured: none at hand",
        }
        for contestant, one in CONTESTANTS.items()
        if one.task == task
    )


def _place(row: Row) -> Row:
    return {"simulator": name(row["contestant"]), SIDE: row["side"], "precision": row["precision"]}


def _of(record: Mapping[str, Any], task: str) -> list[Row]:
    """The rows of a task, in the order of `CONTESTANTS`."""
    found = [row for row in record["rows"]["times"].values() if row["task"] == task]
    if not found:
        tasks = sorted({row["task"] for row in record["rows"]["times"].values()})
        raise ValueError(f"task must be one of {', '.join(map(repr, tasks))}, got {task!r}")
    return sorted(found, key=lambda row: list(CONTESTANTS).index(row["contestant"]))


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
