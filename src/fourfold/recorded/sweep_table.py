"""The table of a sweep: read from its runs, kept with all that it came from, drawn by a page.

``data/sweeps/<name>.csv`` is the table, a row a point; ``data/sweeps/<name>.json`` says where and when it was
measured and holds a hash of every source that the numbers went through.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from fourfold.judging import records
from fourfold.recorded import evidence, executed
from fourfold.recorded import sources as dependencies
from fourfold.recorded.sweep import SWEEPS, Point, Sweep, SweepError, read, run_of, steps

TABLES = records.ROOT / "data" / "sweeps"


def failure(notebook: Path) -> str | None:
    """Why a point has no numbers, in a line; None if it ran to its end."""
    if not notebook.is_file():
        return "was not run"
    try:
        return executed.failure(notebook)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError):
        return "its notebook is damaged"


def measured(sweep: Sweep, point: Point, notebook: Path) -> dict[str, str]:
    """column -> number, of one executed run, as the table has it: six significant digits.

    More than a figure or an interval needs, and a table that can be read.

    Raises:
        SweepError: naming every measure that was not found, and what was there instead.
    """
    (run,) = executed.faces(notebook, "run")
    if run["parameters"] != json.loads(json.dumps(point.values)):
        raise SweepError(f"{point}: {notebook.name} ran with other parameters")
    found: dict[str, Any] = {face["name"]: face["data"] for face in executed.faces(notebook, "data")}
    for face in executed.faces(notebook, "verdict"):
        found[face["claim"]] = {finding["name"]: finding["values"] for finding in face["findings"]}
    row, problems = {}, []
    for column, path in sweep.measure.items():
        try:
            row[column] = f"{_number(found, steps(path, point)):.6g}"
        except ValueError as error:
            problems.append(f"{point}: measure {column}: {error}")
    if problems:
        raise SweepError("\n".join(problems))
    return row


def _number(found: Any, steps: Sequence[str]) -> float:
    """The number at the end of a path. Raises ``ValueError`` naming the step that leads nowhere."""
    for i, step in enumerate(steps):
        so_far = ".".join(steps[:i]) or "the run"
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        elif isinstance(found, dict):
            raise ValueError(f"{so_far} has no {step!r}; it has {', '.join(found) or 'nothing'}")
        elif isinstance(found, list):
            raise ValueError(f"{so_far} has no {step!r}; it is a list of {len(found)}")
        else:
            raise ValueError(f"{so_far} has no {step!r}; it is {found!r}")
    path = ".".join(steps)
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if found is None:
        raise ValueError(f"{path} was not measured with these parameters")
    try:
        # JSON has no infinity, so a notebook carries it as text.
        return float(found)
    except (TypeError, ValueError):
        raise ValueError(f"{path} is not one number, it is {found!r:.80}") from None


def keep(sweep: Sweep, hashes: Mapping[str, str]) -> Path:
    """Write the table and its provenance: from the executed runs, and what is recorded already from there.

    Args:
        sweep: the sweep.
        hashes: `sources` of the chapter when the runs were made.

    Raises:
        SweepError: naming every point that failed and why, or every measure that was not found; then nothing
            is written.
    """
    known, machines = recorded(sweep, hashes)
    made = [point for point in sweep.points if point.name not in known]
    if failed := [(point, why) for point in made if (why := failure(run_of(point)))]:
        raise SweepError("\n".join(f"{point} ({point.name}): {why}" for point, why in failed))
    rows, problems = dict(known), []
    for point in made:
        try:
            rows[point.name] = measured(sweep, point, run_of(point))
        except SweepError as error:
            problems.append(str(error))
    if problems:
        raise SweepError("\n".join(problems))
    about = {
        "chapter": sweep.chapter,
        "measure": sweep.measure,
        "sources": dict(hashes),
        "machines": _machines(sweep, machines, made),
    }
    TABLES.mkdir(parents=True, exist_ok=True)
    table, provenance = (TABLES / f"{sweep.name}.{kind}" for kind in ("csv", "json"))
    # In this order a kill in between leaves a table that looks stale, not an old one that looks fresh.
    write(table, _csv(sweep, rows))
    write(provenance, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return table


def _csv(sweep: Sweep, rows: Mapping[str, Mapping[str, str]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, sweep.columns, lineterminator="\n")
    table.writeheader()
    for point in sweep.points:
        varied = {name: _text(value) for name, value in point.varied.items()}
        table.writerow({"point": point.name, **varied, **rows[point.name]})
    return text.getvalue()


def _text(value: Any) -> str:
    """A parameter's value in a cell: a list is its items."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value))
    return "" if value is None else str(value)


def _machines(sweep: Sweep, before: Iterable[dict], made: Iterable[Point]) -> list[dict[str, Any]]:
    """Where and when the points were run: for each machine and day the seconds of each point."""
    new = []
    for point in made:
        (run,) = executed.faces(run_of(point), "run")
        about = {key: run[key] for key in ("processor", "cores", "python", "versions")}
        seconds = round(executed.seconds(run_of(point)), 1)
        new.append({"date": run["started"][:10], **about, "seconds": {point.name: seconds}})
    names = [point.name for point in sweep.points]
    merged: dict[str, dict[str, Any]] = {}
    for entry in [*before, *new]:
        about = {key: value for key, value in entry.items() if key != "seconds"}
        known = merged.setdefault(json.dumps(about, sort_keys=True), {**about, "seconds": {}})
        known["seconds"] |= entry["seconds"]
    for entry in merged.values():
        entry["seconds"] = {name: entry["seconds"][name] for name in names if name in entry["seconds"]}
    kept = [entry for entry in merged.values() if entry["seconds"]]
    return sorted(kept, key=lambda entry: (entry["date"], names.index(next(iter(entry["seconds"])))))


def recorded(sweep: Sweep, hashes: Mapping[str, str]) -> tuple[dict[str, dict[str, str]], list[dict]]:
    """The sweep's points that the table holds: point -> measured columns, and where they were run.

    Nothing if a source has changed since, or if the table lacks a measure of the sweep.
    """
    kept = _kept(sweep.name)
    if kept is None:
        return {}, []
    about, text = kept
    measures = sweep.measure.items()
    if about["sources"] != hashes or not measures <= about["measure"].items():
        return {}, []
    wanted = {point.name for point in sweep.points}
    rows = {
        row["point"]: {column: row[column] for column in sweep.measure}
        for row in csv.DictReader(io.StringIO(text))
        if row["point"] in wanted
    }
    return rows, about["machines"]


def load(name: str) -> dict[str, Any] | None:
    """The recorded sweep, or None if it was never run.

    Returns:
        ``rows``, the table as a data frame; ``stale``, the names of sources that changed since; ``missing``,
        how many points of today's ``sweeps/<name>.yml`` it lacks; ``seconds`` of all runs; and what `keep`
        wrote: ``chapter``, ``measure``, ``machines``.
    """
    kept = _kept(name)
    if kept is None:
        return None
    about, text = kept
    rows = pd.read_csv(io.StringIO(text), dtype={"point": str}, keep_default_na=False, na_values=[""])
    points = {point.name for point in read(SWEEPS / f"{name}.yml").points}
    return {
        **about,
        "rows": rows,
        "stale": dependencies.changed(about["sources"], evidence.sources(about["chapter"])),
        "missing": len(points - set(rows.point)),
        "seconds": sum(sum(entry["seconds"].values()) for entry in about["machines"]),
    }


def _kept(name: str) -> tuple[dict[str, Any], str] | None:
    about, table = TABLES / f"{name}.json", TABLES / f"{name}.csv"
    if not (about.is_file() and table.is_file()):
        return None
    return json.loads(about.read_text(encoding="utf-8")), table.read_text(encoding="utf-8")


def tables() -> dict[str, Path]:
    """The recorded tables as the book offers them: name of the download -> file."""
    return {f"sweep_{path.name}": path for path in sorted(TABLES.glob("*.csv"))}


def write(path: Path, text: str) -> None:
    """Write a file whole: a kill in between leaves the one that was there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
