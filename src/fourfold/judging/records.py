"""The records: what fourfold knows about each paper, one YAML file a paper.

A record holds the bibliography, the abstract cut into clauses, every claim with its thresholds, controls and
expected word, and the parameters of the chapter. It is written before the chapter runs, and everything else
reads it: the notebook, the judge, the ledger, the tests. Nothing about a paper is written down twice.
"""

import datetime
import json
import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)

ROOT = Path(__file__).resolve().parents[3]
PAPERS = ROOT / "data" / "papers"

PARTS = ("optics", "frequency", "hybrids", "efficiency", "restoration", "theory")
Part = Literal["optics", "frequency", "hybrids", "efficiency", "restoration", "theory"]

STATISTICS = {
    "exact": "one number that no seed changes",
    "mean": "mean over seeds, 95 % Student t interval",
    "every": "every seed, from the smallest to the largest",
    "fraction": "share of seeds, 95 % Clopper-Pearson interval",
    "fisher": "one-sided Fisher exact p: the first group succeeds less often than the second",
    "median": "median over the rounds of two recorded benchmarks, 95 % interval by order statistics",
}
Statistic = Literal["exact", "mean", "every", "fraction", "fisher", "median"]

EVIDENCE = {
    "exact": "depends on no seed and no clock: computed in every build and compared strictly",
    "recorded": "depends on seeds: judged by a recorded run of twenty or more, which a build spot-checks",
    "timed": "depends on a clock: judged by the rounds of a recorded benchmark",
}
Evidence = Literal["exact", "recorded", "timed"]

KINDS = {
    "identity": "two things are the same, by algebra or by construction",
    "property": "what the mechanism does, measured on it",
    "count": "parameters, operations, bytes",
    "speed": "a ratio of times",
    "accuracy": "a trained model against another",
    "robustness": "what is left under noise, shifts, missing data",
    "scaling": "how a quantity grows: an exponent, a trend",
}
Kind = Literal["identity", "property", "count", "speed", "accuracy", "robustness", "scaling"]

CONTROLS = {
    "baseline": "what a user would take instead",
    "ablation": "the mechanism with its heart removed",
    "sanity": "something that cannot work: it guards the measurement and earns nothing",
}

# A verdict's four words; the judge gives them, a record expects one and keeps earlier ones.
VerdictWord = Literal["reproduced", "not reproduced", "inconclusive", "beyond this scale"]


class RecordError(ValueError):
    """A record that cannot be used; the message names the file, the field and what was expected."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Region:
    """A set of numbers that a measured value must lie in, written as in ``"<= 1e-5"``.

    The forms are ``< x``, ``<= x``, ``> x``, ``>= x``, ``== x``, ``in [low, high]`` (closed) and
    ``outside [low, high]``, its complement.
    """

    _NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    _RELATION = re.compile(rf"^(<=|>=|==|<|>)\s*{_NUMBER}$")
    _RANGE = re.compile(rf"^(in|outside)\s*\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]$")
    _OPPOSITE: ClassVar = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}

    def __init__(self, text: str):
        self.text = text.strip()
        self._low, self._high, self._open, self._outside = -math.inf, math.inf, False, False
        if match := self._RELATION.match(self.text):
            relation, number = match[1], float(match[2])
            self._open = relation in "<>"
            if relation in (">", ">=", "=="):
                self._low = number
            if relation in ("<", "<=", "=="):
                self._high = number
        elif match := self._RANGE.match(self.text):
            self._outside = match[1] == "outside"
            self._low, self._high = float(match[2]), float(match[3])
            if self._low > self._high:
                raise ValueError(f"empty range {text!r}: {self._low:g} is above {self._high:g}")
        else:
            raise ValueError(
                "expected a threshold such as '<= 1e-5', '> 0', '== 961', 'in [5.3, 6.7]' or "
                f"'outside [-1, 1]', got {text!r}"
            )

    def __contains__(self, value: float) -> bool:
        return self.covers(value, value)

    def covers(self, low: float, high: float) -> bool:
        """Whether all points of the closed interval [low, high] lie in the region."""
        return self._apart(low, high) if self._outside else self._within(low, high)

    def disjoint(self, low: float, high: float) -> bool:
        """Whether no point of the closed interval [low, high] lies in the region."""
        return self._within(low, high) if self._outside else self._apart(low, high)

    def _within(self, low: float, high: float) -> bool:
        return (
            self._low < low and high < self._high if self._open else self._low <= low and high <= self._high
        )

    def _apart(self, low: float, high: float) -> bool:
        return high <= self._low or low >= self._high if self._open else high < self._low or low > self._high

    @property
    def complement(self) -> str:
        """The region of all other numbers, as a record would write it."""
        if match := self._RELATION.match(self.text):
            relation, number = match[1], match[2]
            return (
                f"outside [{number}, {number}]"
                if relation == "=="
                else f"{self._OPPOSITE[relation]} {number}"
            )
        return self.text.replace("outside", "in") if self._outside else self.text.replace("in", "outside", 1)

    def apart_from(self, other: "Region") -> bool:
        """Whether the two have no number in common."""
        edges = [e for r in (self, other) for e in (r._low, r._high)]
        near = [math.nextafter(e, way) for e in edges for way in (-math.inf, math.inf)]
        return not any(point in self and point in other for point in (*edges, *near))

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def _region(value: object) -> Region:
    if not isinstance(value, str):
        raise ValueError(f"expected a threshold in quotes such as '<= 1e-5', got {value!r}")
    return Region(value)


Threshold = Annotated[Any, BeforeValidator(_region), PlainSerializer(str)]


class Quantity(_Model):
    """Something a chapter measures, and how its values over seeds become one statement."""

    what: str
    statistic: Statistic = "exact"
    unit: str = ""
    resolution: float = Field(gt=0)
    """The smallest difference shown, coarse enough that another CPU prints the same text."""
    min_seeds: int | None = Field(default=None, ge=1)

    @property
    def seeds_needed(self) -> int:
        """Fewer seeds or rounds than this cannot judge, unless the record says more.

        1 if no seed matters; 20 rounds, more than one benchmark has, so that two of them judge; else 4.
        """
        return self.min_seeds or {"exact": 1, "median": 20}.get(self.statistic, 4)

    @property
    def evidence(self) -> Evidence:
        """What a verdict on this quantity rests on; see `EVIDENCE`."""
        kinds: dict[str, Evidence] = {"exact": "exact", "median": "timed"}
        return kinds.get(self.statistic, "recorded")


class Criterion(Quantity):
    """What must be measured for the claim to hold."""

    reproduced_if: Threshold
    source: Annotated[str, Field(pattern=r"^(paper|closed form|code|ours): \S")] | None = None
    """Where the threshold comes from: the paper, a closed form, someone else's code, or us and why."""


class Control(Quantity):
    """What must not meet the criterion: a rival, or something that cannot work."""

    kind: Literal["baseline", "ablation", "sanity"] | None = None
    """See `CONTROLS`."""
    of: "Name | None" = None
    """The criterion whose quantity it measures. It fails if it does not meet it, or as `fails_if` says."""
    fails_if: Threshold

    @model_validator(mode="after")
    def _kind_fits(self) -> "Control":
        if (self.kind in ("baseline", "ablation")) != (self.of is not None):
            raise ValueError(
                "a baseline or an ablation says which criterion it is a control 'of', nothing else does"
            )
        return self


class Condition(Quantity):
    """What must be so for the claim to be about anything, such as that the networks compared are trained."""

    needed: Threshold


ClaimId = Annotated[str, Field(pattern=r"^[A-Z]\d+[a-z]?$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Sentence = Annotated[str, Field(min_length=10, pattern=r"[.?!]$")]


class Expected(_Model):
    """The word that we expect of a claim, written before the run that judges it, and why."""

    word: VerdictWord
    basis: Sentence


class Earlier(_Model):
    """A word that a claim had before, and why it is no longer said."""

    word: VerdictWord
    date: datetime.date
    why: Sentence


class Clause(_Model):
    """One thing that the paper's abstract claims, in our words: carried by claims, or by none and why."""

    clause: Sentence
    claims: list[ClaimId] = []
    why_not: Sentence | None = None

    @model_validator(mode="after")
    def _carried_or_not(self) -> "Clause":
        if bool(self.claims) == bool(self.why_not):
            raise ValueError("a clause names the claims that carry it, or says why_not: one of the two")
        return self


class Claim(_Model):
    """One claim of a paper. Without criteria it is stated but not judged yet.

    A ``check`` verifies our own rebuilding: it must hold, and is not counted as a claim of the paper.
    """

    id: ClaimId
    check: bool = False
    kind: Kind | None = None
    """See `KINDS`."""
    statement: Sentence
    paper: str | None = None
    """What the paper itself reports: a number, a table, a sentence."""
    expected: Expected | None = None
    mutation: Name | None = None
    """What takes the mechanism's heart out; a function of that name stands in the chapter's test file."""
    before: list[Earlier] = []
    criteria: dict[Name, Criterion] = {}
    controls: dict[Name, Control] = {}
    conditions: dict[Name, Condition] = {}

    @property
    def evidence(self) -> list[Evidence]:
        """The kinds of evidence that its verdict rests on, in the order of `EVIDENCE`."""
        found = {quantity.evidence for named in self.quantities.values() for quantity in named.values()}
        return [kind for kind in ("exact", "recorded", "timed") if kind in found]

    @property
    def quantities(self) -> dict[str, Mapping[str, Quantity]]:
        """All that is measured for it, by role and name."""
        return {"criterion": self.criteria, "control": self.controls, "condition": self.conditions}

    @model_validator(mode="before")
    @classmethod
    def _controls_measure_their_criterion(cls, given: Any) -> Any:
        """A control ``of`` a criterion has its statistic, unit, resolution, and fails outside its region."""
        if not isinstance(given, dict) or not isinstance(given.get("controls"), dict):
            return given
        filled = {}
        for name, control in given["controls"].items():
            if isinstance(control, dict) and "of" in control:
                criteria = given.get("criteria") or {}
                if not isinstance(criterion := criteria.get(control["of"]), dict):
                    raise ValueError(
                        f"control {name} is of {control['of']!r}; the criteria are {', '.join(criteria)}"
                    )
                region = _region(criterion.get("reproduced_if"))
                shared = ("statistic", "unit", "resolution", "min_seeds")
                control = (
                    {key: criterion[key] for key in shared if key in criterion}
                    | {"fails_if": region.complement}
                    | control
                )
                if not _region(control["fails_if"]).apart_from(region):
                    raise ValueError(
                        f"control {name} may fail where {control['of']} is met: {control['fails_if']}"
                    )
            filled[name] = control
        return {**given, "controls": filled}

    @model_validator(mode="after")
    def _can_be_judged(self) -> "Claim":
        if self.check:
            if not self.criteria or self.expected or self.mutation or self.before:
                raise ValueError("a check has criteria, and neither expected, mutation nor before")
        elif bool(self.criteria) != bool(self.controls):
            raise ValueError("criteria and controls come together: a claim that cannot fail cannot be judged")
        if self.conditions and not self.criteria:
            raise ValueError("conditions need criteria: there is nothing that they would be conditions of")
        return self


ParameterType = Literal["int", "float", "bool", "str", "list[int]", "list[float]", "list[str]"]


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 1e7 else f"{number:g}"


class Parameter(_Model):
    """One papermill parameter: its values in each kind of run and what is allowed."""

    type: ParameterType
    meaning: str
    quick: Any
    full: Any
    recorded: Any = None
    """Its value in the recorded run; the quick one unless stated."""
    doubled: Any = None
    """Its value where that run is repeated at twice the budget, say twice the steps; the same if unstated."""
    optional: bool = False
    """Whether None is allowed."""
    min: float | None = None
    max: float | None = None
    choices: list[str] | list[int] | None = None
    repeats: bool = False
    """Whether a list may hold a value twice."""
    shortest: int = Field(default=1, ge=1)
    """Values in a list, at least."""
    longest: int = Field(default=100, ge=1)
    """Values in a list, at most: one more than the default is a mistake, and would run for days."""
    multiple_of: "Name | int | None" = None
    divides: "Name | int | None" = None
    at_most: "Name | None" = None
    """Rules between parameters: a name stands for that parameter's value; each value of a list obeys."""
    long_as: "Name | None" = None
    """Another list, which must have as many values."""

    @model_validator(mode="after")
    def _bounded(self) -> "Parameter":
        if (
            self.type.endswith(("int", "int]"))
            and not self.choices
            and (self.min is None or self.max is None)
        ):
            raise ValueError("an integer needs min and max: a size without bound can run for ever")
        if self.type.endswith(("float", "float]")) and (self.min is None or self.max is None):
            raise ValueError("a float needs min and max: 1e-300 and 1e300 break the arithmetic far from here")
        return self

    def value(self, profile: str) -> Any:
        """Its value in a run of this profile: ``"quick"``, ``"recorded"``, ``"doubled"`` or ``"full"``."""
        if profile == "full":
            return self.full
        if profile == "doubled" and self.doubled is not None:
            return self.doubled
        return self.quick if profile == "quick" or self.recorded is None else self.recorded

    @property
    def allowed(self) -> str:
        """The allowed values in words, as every error and the parameter table print them."""
        if self.choices:
            words = " | ".join(map(str, self.choices))
        elif self.min is not None and self.max is not None:
            words = f"{_plain(self.min)}..{_plain(self.max)}"
        else:
            words = "True | False" if self.type == "bool" else "any"
        rules = (
            (self.multiple_of, "a multiple of"),
            (self.divides, "a divisor of"),
            (self.at_most, "at most"),
        )
        words += "".join(f", {rule} {other}" for other, rule in rules if other is not None)
        if self.type.startswith("list"):
            words = f"each {words}" + ("" if self.repeats else ", no repeats")
            if self.shortest > 1:
                words += f", at least {self.shortest} values"
            if self.longest < 100:
                words += f", at most {self.longest} value{'s' if self.longest > 1 else ''}"
            if self.long_as:
                words += f", as many as {self.long_as}"
        return f"{words}, or None" if self.optional else words


class Record(_Model):
    """A paper: bibliography, claims, parameters. ``slug`` is its one name in all code and data."""

    slug: Name
    part: Part
    name: Annotated[str, Field(min_length=2, max_length=24)]
    """What the paper is called where its title has no room: its method's name, as a page's heading begins."""
    title: str
    authors: list[str] = Field(min_length=1)
    year: int = Field(ge=1960, le=2100)
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None
    doi: Annotated[str, Field(pattern=r"^10\.\d{4,9}/\S+$")] | None = None
    venue: str | None = None
    code: Annotated[str, Field(pattern=r"^https://\S+$")] | None = None
    code_licence: str | None = None
    idea: Sentence
    companion: bool = False
    """A chapter of fourfold's own beside the papers; it is not counted among them."""
    pilot: bool = False
    """The thresholds were written with pilot runs at hand, so verdicts use fresh seeds."""
    abstract: list[Clause] = []
    """The paper's abstract, cut into what it claims."""
    claims: list[Claim] = Field(min_length=1)
    parameters: dict[Name, Parameter] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "Record":
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) < len(ids):
            raise ValueError(f"claim ids must differ, got {ids}")
        for clause in self.abstract:
            if unknown := set(clause.claims) - set(ids):
                raise ValueError(f"{clause.clause!r} names {', '.join(sorted(unknown))}, which is no claim")
            if checks := [one for one in clause.claims if self.claim(one).check]:
                raise ValueError(
                    f"{clause.clause!r} is carried by {', '.join(checks)}, which only checks our rebuilding"
                )
        if any(claim.criteria for claim in self.claims) and not self.parameters:
            raise ValueError("a record with criteria needs parameters")
        sampled = [claim.id for claim in self.claims if "recorded" in claim.evidence]
        if sampled and all(spec.recorded is None for spec in self.parameters.values()):
            raise ValueError(
                f"{', '.join(sampled)} depend on seeds: a parameter must say how many are recorded"
            )
        for name, spec in self.parameters.items():
            for other in (spec.multiple_of, spec.divides, spec.at_most, spec.long_as):
                if isinstance(other, str) and other not in self.parameters:
                    raise ValueError(f"{name} names {other!r}, which is no parameter")
        return self

    def values(self, profile: str) -> dict[str, Any]:
        """The parameters of a run: ``"quick"``, ``"recorded"``, ``"doubled"`` or ``"full"``."""
        return {name: spec.value(profile) for name, spec in self.parameters.items()}

    @property
    def notebook(self) -> Path:
        """The chapter's page; its pair has the suffix ``.ipynb``."""
        return ROOT / "notebooks" / self.part / f"{self.slug}.md"

    @property
    def has_chapter(self) -> bool:
        """Whether the chapter is built: from then on the record carries parameters."""
        return bool(self.parameters)

    def claim(self, claim_id: str) -> Claim:
        """The claim with this id. Raises ``ValueError`` for an id that the record does not have."""
        for claim in self.claims:
            if claim.id == claim_id:
                return claim
        known = ", ".join(claim.id for claim in self.claims)
        raise ValueError(f"{self.slug} has no claim {claim_id!r}; its claims are {known}")


def explain(file: str, error: ValidationError) -> str:
    """What pydantic found wrong with a file: a line for each field, with what was expected and its value."""
    return "\n".join(
        f"{file}: {'.'.join(str(step) for step in problem['loc']) or 'record'}: "
        f"{problem['msg']}, got {problem['input']!r:.200}"
        for problem in error.errors()
    )


class _OneOfEachKey(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing; YAML itself forbids them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # As written: a key that a merge (<<) brings may be written again.
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, key in enumerate(keys):
            if (key.tag, key.value) in ((before.tag, before.value) for before in keys[:place]):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} stands there twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, read safely. Raises ``RecordError`` naming the file and, if known, the line."""
    try:
        # Besides its own errors PyYAML lets through those of a date or a number that it cannot make sense of.
        return _OneOfEachKey(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        raise RecordError(f"{path.name}: not valid YAML: {error}") from error


def read(path: Path) -> Record:
    """Read and validate one record file. Raises ``RecordError`` naming file, field and expectation."""
    content = read_yaml(path)
    record = _validated(path, Record, content)
    if record.slug != path.stem:
        raise RecordError(f"{path.name}: slug: expected {path.stem!r}, the file's name, got {record.slug!r}")
    return record


def read_run(path: Path, kind: Any) -> dict[str, Any]:
    """Read the JSON of a recorded run, whose keys and types the ``TypedDict`` ``kind`` states.

    Raises ``RecordError`` naming file, field and expectation.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path.name}: not valid JSON: {error}") from error
    _validated(path, kind, content)  # for its errors: of keys that are not in ``kind`` it keeps nothing
    return content


@cache
def load(slug: str) -> Record:
    """The record of one paper. Raises ``RecordError`` if there is none or it is not valid."""
    path = PAPERS / f"{slug}.yml"
    if not path.is_file():
        alike = get_close_matches(slug.lower(), [other.stem for other in PAPERS.glob("*.yml")], n=1)
        hint = f"; did you mean {alike[0]!r}?" if alike else ""
        raise RecordError(f"no record {slug!r} in data/papers{hint}")
    return read(path)


def _validated(path: Path, kind: Any, content: object) -> Any:
    try:
        return TypeAdapter(kind).validate_python(content, strict=True)
    except ValidationError as error:
        raise RecordError(explain(path.name, error)) from error


def load_all() -> list[Record]:
    """All records in the book's order: by part, chapters first, then by slug."""
    records = [load(path.stem) for path in PAPERS.glob("*.yml")]
    return sorted(records, key=lambda r: (PARTS.index(r.part), not r.has_chapter, r.slug))


def chapters() -> list[Record]:
    """The records whose chapters are built."""
    return [record for record in load_all() if record.has_chapter]
