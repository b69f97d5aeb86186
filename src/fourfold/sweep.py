"""Sweeps: a chapter over a grid of parameters, and the table that a page draws.

``sweeps/<name>.yml`` says what is varied and what is measured::

    title: ConvShareViT over patch size and padding
    chapter: convsharevit
    parameters: {epochs_b: 30}              # the same in every run; the others are the record's quick ones
    grid:                                   # every combination is run
      p: [8, 16]
      arms_b: [[valid], [same3]]
    seed: 300                               # and every combination with seeds 300 to 303,
    seeds: 4                                # a run for each
    measure:                                # column of the table -> where its number stands in a run
      accuracy: recall.arms.{arms_b}.accuracy
      solves: C4a.solves

A measure is a path: first what the chapter kept (``chapter.keep("recall", ...)``) or a claim that it
judged, then keys, or places in a list; ``{arms_b}`` stands for the run's value. It ends at one number, or a
list of one.

A run is a *point*, named by a hash of its chapter and all its parameters: in a grid that grew or was
reordered it keeps its name, and two sweeps of a chapter share it. ``data/sweeps/<name>.csv`` is the table, a
row a point; ``data/sweeps/<name>.json`` says where and when it was measured and holds a hash of every source
that the numbers went through. A point in the table is not run again until one of them changes; then all are.

``python -m fourfold.sweep sweeps/<name>.yml`` runs what is missing and writes the table.
"""

import argparse
import csv
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import nbformat
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fourfold import parameters, records, runs
from fourfold import recorded as recorded_runs
from fourfold import sources as dependencies

SWEEPS = records.ROOT / "sweeps"
TABLES = records.ROOT / "data" / "sweeps"
RUNS = records.ROOT / "_build" / "sweeps"

MOST = 2000
"""Points in a sweep, at most: one more is a mistake in the grid."""
SEEDS = ("seed", "seeds")
SOURCES = "sources.json"
"""Beside the runs of a chapter: `sources` when they were made."""
CLAIM = re.compile(r"[A-Z]\d+[a-z]?")
PLACEHOLDER = re.compile(r"\{(\w+)\}")


class SweepError(ValueError):
    """A sweep that cannot be run or recorded; each line says what is wrong and what was expected."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    chapter: str
    values: Mapping[str, Any]
    """All parameters of the chapter."""
    varied: Mapping[str, Any]
    """Those of the grid, and the seed."""

    @property
    def name(self) -> str:
        """A short hash of chapter and parameters."""
        return dependencies.digest(json.dumps([self.chapter, sorted(self.values.items())]))[:12]

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value!r}" for name, value in self.varied.items())


class Sweep(BaseModel):
    """A sweep's file; the top of this module explains its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: records.Name
    title: Annotated[str, Field(min_length=1)]
    chapter: records.Name
    parameters: dict[records.Name, Any] = {}
    grid: dict[records.Name, Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    seed: int
    seeds: int = Field(ge=1)
    measure: dict[records.Name, str] = Field(min_length=1)

    @property
    def points(self) -> list[Point]:
        """Every combination of the grid with every seed, in the order of the file."""
        defaults = {n: spec.quick for n, spec in records.load(self.chapter).parameters.items()}
        axes = [*self.grid.values(), range(self.seed, self.seed + self.seeds)]
        found = []
        for combination in itertools.product(*axes):
            varied = dict(zip([*self.grid, "seed"], combination, strict=True))
            found.append(Point(self.chapter, defaults | self.parameters | varied | {"seeds": 1}, varied))
        return found

    @property
    def columns(self) -> list[str]:
        """The table's columns."""
        return ["point", *self.grid, "seed", *self.measure]


def read(path: Path) -> Sweep:
    """Read a sweep's file and check every point's parameters against the chapter's record.

    Raises:
        SweepError: naming the file and, for everything that is wrong, the key or the parameter, its value and
            what is allowed.
    """
    where = f"sweeps/{path.name}"
    if not path.is_file() or path.resolve().parent != SWEEPS.resolve() or path.suffix != ".yml":
        there = ", ".join(f"sweeps/{file.name}" for file in sorted(SWEEPS.glob("*.yml")))
        raise SweepError(f"{path}: expected a file sweeps/<name>.yml; there are: {there or 'none'}")
    try:
        given = records.read_yaml(path)
    except records.RecordError as error:
        raise SweepError(f"sweeps/{error}") from error
    if not isinstance(given, dict):
        keys = ", ".join(key for key in Sweep.model_fields if key != "name")
        raise SweepError(f"{where}: expected keys {keys}, got {given!r:.80}")
    if "name" in given:
        raise SweepError(f"{where}: name: not a key; a sweep has its file's name")
    try:
        sweep = Sweep.model_validate({**given, "name": path.stem})
    except ValidationError as error:
        raise SweepError(records.explain(where, error)) from error
    if problems := _problems(sweep):
        raise SweepError("\n".join(f"{where}: {problem}" for problem in problems))
    return sweep


def _problems(sweep: Sweep) -> list[str]:
    """What is wrong with a sweep that has the right keys."""
    try:
        record = records.load(sweep.chapter)
    except records.RecordError as error:
        return [f"chapter: {error}"]
    if not record.has_chapter:
        return [f"chapter: {sweep.chapter} has a record and no chapter yet"]
    problems = [
        f"{place}: {name}: the seeds of a sweep are its keys seed and seeds"
        for place, names in (("parameters", sweep.parameters), ("grid", sweep.grid))
        for name in SEEDS
        if name in names
    ]
    problems += [
        f"{name}: in parameters and in grid; expected in one of them"
        for name in sweep.grid.keys() & sweep.parameters
    ]
    problems += [
        f"measure: {name}: the table has a column of that name already"
        for name in ["point", *sweep.grid, "seed"]
        if name in sweep.measure
    ]
    number = sweep.seeds
    for values in sweep.grid.values():
        number *= len(values)
    if number > MOST:
        problems.append(f"grid: {number} runs; expected at most {MOST}")
    if problems:
        return problems
    for point in sweep.points:
        try:
            parameters.validate(record, point.values)
        except parameters.ParameterError as error:
            problems += str(error).splitlines()
    if problems:
        return list(dict.fromkeys(problems))
    for name, values in sweep.grid.items():
        problems += [f"grid: {name} repeats {v!r}" for i, v in enumerate(values) if v in values[:i]]
    for column, path in sweep.measure.items():
        try:
            _check_claim(record, path)
            for point in sweep.points:
                _steps(path, point)
        except ValueError as error:
            problems.append(f"measure: {column} = {path!r}: {error}")
    return problems


def _check_claim(record: records.Record, path: str) -> None:
    first, *rest = path.split(".")
    if CLAIM.fullmatch(first):
        claim = record.claim(first)
        findings = [*claim.criteria, *claim.controls]
        if not rest or rest[0] not in findings:
            raise ValueError(f"expected {first}.<finding>; findings are {', '.join(findings) or 'none'}")


def _steps(path: str, point: Point) -> list[str]:
    """A measure's path for one run. ValueError for a placeholder that is no parameter or not one value."""

    def value(found: re.Match) -> str:
        name = found[1]
        if name not in point.values:
            raise ValueError(f"{{{name}}} is no parameter; known are {', '.join(point.values)}")
        given = point.values[name]
        if isinstance(given, (list, tuple)):
            if len(given) != 1:
                raise ValueError(f"{{{name}}} is {given!r} in a run; expected one value")
            return str(given[0])
        return str(given)

    steps = path.split(".")
    if not all(steps):
        raise ValueError("expected a path such as recall.arms.{arms_b}.accuracy")
    return [PLACEHOLDER.sub(value, step) for step in steps]


def failure(notebook: Path) -> str | None:
    """Why a point has no numbers, in a line; None if it ran to its end."""
    if not notebook.is_file():
        return "was not run"
    try:
        return runs.failure(notebook)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError):
        return "its notebook is damaged"


def measured(sweep: Sweep, point: Point, notebook: Path) -> dict[str, str]:
    """column -> number, of one executed run, as the table has it: six significant digits.

    More than a figure or an interval needs, and a table that can be read.

    Raises:
        SweepError: naming every measure that was not found, and what was there instead.
    """
    (run,) = runs.faces(notebook, "run")
    if run["parameters"] != json.loads(json.dumps(point.values)):
        raise SweepError(f"{point}: {notebook.name} ran with other parameters")
    found: dict[str, Any] = {face["name"]: face["data"] for face in runs.faces(notebook, "data")}
    for face in runs.faces(notebook, "verdict"):
        found[face["claim"]] = {finding["name"]: finding["values"] for finding in face["findings"]}
    row, problems = {}, []
    for column, path in sweep.measure.items():
        try:
            row[column] = f"{_number(found, _steps(path, point)):.6g}"
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
    _write(table, _csv(sweep, rows))
    _write(provenance, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
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
        (run,) = runs.faces(run_of(point), "run")
        about = {key: run[key] for key in ("processor", "cores", "python", "versions")}
        seconds = round(runs.seconds(run_of(point)), 1)
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
        "stale": dependencies.changed(about["sources"], recorded_runs.sources(about["chapter"])),
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


def run_of(point: Point) -> Path:
    """Where the executed notebook of a point lies."""
    return RUNS / point.chapter / f"{point.name}.ipynb"


def prepare(sweep: Sweep, hashes: Mapping[str, str]) -> list[Path]:
    """Write what Snakemake runs the missing points from. Returns their notebooks.

    Runs that failed are thrown away, and all of the chapter's runs if a source has changed: a run that is
    there was made by today's code.
    """
    known, _ = recorded(sweep, hashes)
    stamp = RUNS / sweep.chapter / SOURCES
    text = json.dumps(dict(hashes), indent=1) + "\n"
    if not _says(stamp, text):
        for old in stamp.parent.glob("*.ipynb"):
            old.unlink()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        _write(stamp, text)
    missing = [point for point in sweep.points if point.name not in known]
    for point in missing:
        notebook = run_of(point)
        text = yaml.safe_dump(dict(point.values), sort_keys=False)
        # Snakemake goes by time: a file that says the same stays as it was.
        if not _says(notebook.with_suffix(".yml"), text):
            _write(notebook.with_suffix(".yml"), text)
        if failure(notebook):
            notebook.unlink(missing_ok=True)
    return [run_of(point) for point in missing]


def run(sweep: Sweep, profile: str) -> Path:
    """Run the points that are missing and write the table.

    Raises:
        SweepError: as `keep` does, or if the code was changed meanwhile.
    """
    hashes = recorded_runs.sources(sweep.chapter)
    notebooks = prepare(sweep, hashes)
    number = len(sweep.points)
    print(f"{sweep.title}: {number} runs, {number - len(notebooks)} of them recorded", flush=True)
    if notebooks:
        targets = [str(path.relative_to(records.ROOT)) for path in notebooks]
        # Ctrl-C reaches Snakemake, which stops its jobs; we wait for that.
        signal.signal(signal.SIGINT, lambda *_: None)
        # Its exit code tells less than the runs do: a failed one says why.
        subprocess.run(
            [sys.executable, "-m", "fourfold.build", "--quiet", "rules", "--profile", profile, *targets],
            cwd=records.ROOT,
            check=False,
        )
    dependencies.forget()
    if changed := dependencies.changed(hashes, recorded_runs.sources(sweep.chapter)):
        (RUNS / sweep.chapter / SOURCES).unlink()
        raise SweepError(f"{', '.join(changed)} changed while the sweep ran: run it again")
    return keep(sweep, hashes)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main() -> None:
    """The command line: exit code 2 for a file that cannot be run, 1 for points that failed."""
    parser = argparse.ArgumentParser(prog="python -m fourfold.sweep", description="Run and record a sweep.")
    parser.add_argument("file", type=Path, help="sweeps/<name>.yml")
    parser.add_argument(
        "--profile", default="workflow/profiles/local", help="where Snakemake runs the points"
    )
    given = parser.parse_args()
    try:
        sweep = read(given.file)
    except ValueError as error:
        print(f"sweep: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        print(run(sweep, given.profile).relative_to(records.ROOT))
    except SweepError as error:
        sys.exit(f"{error}\nsweep: no table was written; the next call runs only what failed")


if __name__ == "__main__":
    main()
