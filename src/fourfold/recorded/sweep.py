"""What a sweep is: a chapter over a grid of parameters, and what is measured in each run.

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
reordered it keeps its name, and two sweeps of a chapter share it. `fourfold.recorded.sweep_run` runs points,
`fourfold.recorded.sweep_table` keeps what they measured.
"""

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fourfold.judging import parameters, records
from fourfold.recorded import sources as dependencies

SWEEPS = records.ROOT / "sweeps"
RUNS = records.ROOT / "_build" / "sweeps"

MOST = 2000
"""Points in a sweep, at most: one more is a mistake in the grid."""
SEEDS = ("seed", "seeds")
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
                steps(path, point)
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


def steps(path: str, point: Point) -> list[str]:
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


def run_of(point: Point) -> Path:
    """Where the executed notebook of a point lies."""
    return RUNS / point.chapter / f"{point.name}.ipynb"
