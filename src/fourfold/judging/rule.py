"""The rule: from measured values to a verdict's word.

In full. A criterion is met when the whole interval of its measured value lies in the
region the record states, violated when no point of it does, and open otherwise. A control fails, as
it must, when its whole interval lies in its own region. Then, in this order:

1. nothing measured at this scale: ``beyond this scale``;
2. a condition that does not hold, or a sanity control that does not fail, or one of them not measured, or two
   arms with the very same numbers: ``inconclusive``, whatever else was measured, since the measurement is in
   doubt;
3. a criterion violated: ``not reproduced``, whatever rivals do: a baseline or ablation that meets what the
   mechanism does not is no excuse for it;
4. a baseline or ablation that does not fail, or is not measured: ``inconclusive``;
5. a criterion not measured at this scale: ``beyond this scale``;
6. a criterion open (interval, too few seeds, not a number), or no baseline and no ablation that measures a
   criterion: ``inconclusive``;
7. otherwise ``reproduced``.

A check of our own rebuilding ``holds`` where a claim would be reproduced, and ``fails`` where something was
measured and it would not be. It needs no control.

What depends on seeds is judged by a recorded run: `fourfold.judging.spot_check` puts its values into the
place of those that a build computed, and says whether the two agree.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
from scipy import stats

from fourfold.judging.records import (
    Claim,
    Condition,
    Control,
    Criterion,
    Evidence,
    Quantity,
    Region,
    VerdictWord,
)

VERDICTS = get_args(VerdictWord)
DECIDED = ("reproduced", "not reproduced")
"""The verdicts that say yes or no."""
CHECKED = ("holds", "fails")
Word = Literal[VerdictWord, "holds", "fails", "not recorded yet"]
UNRECORDED: Word = "not recorded yet"
"""In a verdict's place where a claim depends on seeds or time and no run has its criteria."""
UNJUDGED = "not judged yet"
FAILED = "did not run"
SYMBOLS = {
    "reproduced": "✓",
    "not reproduced": "✗",
    "inconclusive": "≈",
    "beyond this scale": "↗",
    "holds": "=",
    "fails": "≠",
    UNRECORDED: "○",
    UNJUDGED: "·",
    FAILED: "!",
}


@dataclass(frozen=True)
class Estimate:
    """A measured value with the interval that its statistic gives it over seeds."""

    value: float
    low: float
    high: float
    seeds: int


def estimate(quantity: Quantity, values: Any) -> Estimate:
    """Turn what a chapter measured into one value with an interval.

    Args:
        quantity: says which statistic (see `fourfold.judging.records.STATISTICS`).
        values: a number for ``exact``; a number per seed for ``mean`` and ``every``; a truth value per
            seed for ``fraction``; two such groups for ``fisher``; a number per round for ``median``.

    Raises:
        ValueError: when the shape of ``values`` does not fit the statistic.
    """
    statistic = quantity.statistic
    if statistic == "fisher":
        groups = [np.asarray(group, dtype=float) for group in values]
        if len(groups) != 2 or any(g.ndim != 1 or not np.isin(g, (0, 1)).all() for g in groups):
            raise ValueError(f"{quantity.what}: fisher needs two groups of truth values, got {values!r}")
        table = [[g.sum(), len(g) - g.sum()] for g in groups]
        p = float(stats.fisher_exact(table, alternative="less").pvalue)
        return Estimate(p, p, p, min(len(g) for g in groups))

    array = np.asarray(values, dtype=float)
    if statistic == "exact":
        if array.ndim != 0:
            raise ValueError(f"{quantity.what}: exact needs one number, got {values!r}")
        return Estimate(float(array), float(array), float(array), 1)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{quantity.what}: {statistic} needs one number per seed, got {values!r}")
    n = len(array)
    if statistic == "every":
        return Estimate(float(np.median(array)), float(array.min()), float(array.max()), n)
    if statistic == "fraction":
        if not np.isin(array, (0, 1)).all():
            raise ValueError(f"{quantity.what}: fraction needs truth values, got {values!r}")
        return Estimate(float(array.mean()), *share_interval(int(array.sum()), n), n)
    if statistic == "median":
        # The interval from the k-th smallest round to the k-th largest covers the median with 95 % or more.
        k = int(stats.binom.ppf(0.025, n, 0.5))
        rounds = np.sort(array)
        low, high = (float(rounds[k - 1]), float(rounds[-k])) if k else (-math.inf, math.inf)
        return Estimate(float(np.median(array)), low, high, n)
    return Estimate(*mean_interval(array), n)


def share_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share by Clopper and Pearson: (low, high); from no trial it is everything."""
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of values, one a seed, with its 95 % interval by Student's t: (mean, low, high).

    Not a number if a value is not finite; from one value alone the interval is everything.
    """
    n = len(values)
    if not np.isfinite(values).all():
        return math.nan, math.nan, math.nan
    # fsum: equal values have their own mean, to the last bit, and so judge alike at equality.
    mean = math.fsum(values) / n
    if n == 1:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1, mean=mean) / math.sqrt(n))
    return mean, mean - half, mean + half


Role = Literal["criterion", "control", "condition"]
# What a region is to a quantity of each role, and how a reader is told the two states that settle it.
_ROLES: dict[Role, tuple[str, dict[str, str]]] = {
    "criterion": ("threshold", {}),
    "control": ("must be", {"met": "fails, as it must", "violated": "passes, where it must fail"}),
    "condition": ("needed", {"met": "holds", "violated": "does not hold, so the claim cannot be told"}),
}


@dataclass(frozen=True)
class SpotCheck:
    """How the values of a build compare with the recorded ones: ``agrees`` is None where it cannot tell."""

    agrees: bool | None
    words: str


@dataclass(frozen=True)
class Finding:
    """One criterion, control or condition after judging."""

    name: str
    what: str
    threshold: str
    role: Role
    evidence: Evidence
    state: str
    """``met``, ``violated`` or why it is neither."""
    values: Any
    shown: str
    estimate: Estimate | None
    spot_check: SpotCheck | None = None
    here: Any = None
    """What a build measured where ``values`` are the recorded ones."""
    kind: str = ""
    """Of a control: baseline, ablation or sanity."""
    source: str = ""
    """Of a criterion: where its threshold comes from."""

    @property
    def words(self) -> str:
        """The state in a reader's words: a control that is ``met`` has failed, as it must."""
        return _ROLES[self.role][1].get(self.state, self.state)

    def __str__(self) -> str:
        line = f"{self.role} {self.name}: {self.shown}; {_ROLES[self.role][0]} {self.threshold}: {self.words}"
        return f"{line}; {self.spot_check.words}" if self.spot_check else line


def _state(quantity: Quantity, region: Region, measured: Estimate) -> str:
    if math.isnan(measured.value):
        return "not a number"
    if quantity.statistic == "every":
        # One counterexample settles a statement about every seed, however few were run.
        if not region.covers(measured.low, measured.high):
            return "violated"
    elif measured.seeds >= quantity.seeds_needed and region.disjoint(measured.low, measured.high):
        return "violated"
    if measured.seeds < quantity.seeds_needed:
        sample = "rounds" if quantity.statistic == "median" else "seeds"
        return f"too few {sample} ({measured.seeds} of {quantity.seeds_needed})"
    if region.covers(measured.low, measured.high):
        return "met"
    return "interval straddles the threshold"


def show(value: float, resolution: float) -> str:
    """A number rounded to ``resolution``, so that another CPU prints the same text."""
    if not math.isfinite(value):
        return {"inf": "∞", "-inf": "−∞"}.get(str(value), "not a number")
    if resolution <= 1e-4 and abs(value) < resolution:
        return f"below {resolution:g}"
    decimals = max(0, math.ceil(-math.log10(resolution) - 1e-9))
    rounded = round(value / resolution) * resolution
    return f"{rounded + 0.0:.{decimals}f}" if decimals <= 4 else f"{rounded:.2g}"


def _step(quantity: Quantity, measured: Estimate) -> float:
    """What an interval is rounded to: finer than the resolution where its ends would contradict the verdict.

    What depends on no seed keeps its resolution, since it is compared as text with other processors'.
    """
    ends = (measured.low, measured.high)
    steps = [quantity.resolution / finer for finer in (1, 10, 100)]
    if quantity.statistic in ("exact", "fisher") or not all(map(math.isfinite, ends)):
        return steps[0]
    within = region(quantity)

    def told(low: float, high: float) -> tuple[bool, bool]:
        return within.covers(low, high), within.disjoint(low, high)

    # To the tenth digit, as it is printed: 3 steps of 0.1 are 0.3, and no more.
    said = ((step, [round(round(end / step) * step, 10) for end in ends]) for step in steps)
    return next((step for step, rounded in said if told(*rounded) == told(*ends)), steps[0])


def _shown(quantity: Quantity, measured: Estimate) -> str:
    step = _step(quantity, measured)
    middle, low, high = (show(v, step) for v in (measured.value, measured.low, measured.high))
    unit = f" {quantity.unit}" if quantity.unit else ""
    sample = "round" if quantity.statistic == "median" else "seed"
    seeds = f" ({measured.seeds} {sample}{'s' if measured.seeds > 1 else ''})"
    if quantity.statistic == "exact":
        return middle + unit
    if quantity.statistic == "fisher":
        return f"p = {middle}{seeds}"
    if quantity.statistic == "every":
        return f"{low} to {high}{unit}{seeds}"
    return f"{middle} [{low}, {high}]{unit}{seeds}"


def region(quantity: Quantity) -> Region:
    """Where a criterion must lie, where a control must lie to fail, or where a condition must lie to hold."""
    match quantity:
        case Criterion():
            return quantity.reproduced_if
        case Control():
            return quantity.fails_if
        case Condition():
            return quantity.needed
    raise TypeError(f"{quantity.what}: neither criterion nor control nor condition")


def find(name: str, quantity: Quantity, values: Any) -> Finding:
    """What the values of one quantity say; None are values that were not measured."""
    role: Role = type(quantity).__name__.lower()  # type: ignore[assignment]
    absent = "not measured at this scale" if role == "criterion" else "not run"
    finding = Finding(
        name,
        quantity.what,
        region(quantity).text,
        role,
        quantity.evidence,
        state=UNRECORDED if quantity.evidence == "timed" else absent,
        values=None,
        shown="–",
        estimate=None,
        kind=quantity.kind or "" if isinstance(quantity, Control) else "",
        source=quantity.source or "" if isinstance(quantity, Criterion) else "",
    )
    if values is None:
        return finding
    measured = estimate(quantity, values)
    plain = (
        np.asarray(values, dtype=float).tolist()
        if quantity.statistic != "fisher"
        else [np.asarray(group, dtype=float).tolist() for group in values]
    )
    return replace(
        finding,
        state=_state(quantity, region(quantity), measured),
        values=plain,
        shown=_shown(quantity, measured),
        estimate=measured,
    )


def word(findings: Sequence[Finding], check: bool = False) -> tuple[Word, str]:
    """The verdict on a claim's or a check's findings and its reason; the rule stands at this module's top."""
    said, reason = _word(findings, check)
    if not check or said in (UNRECORDED, "beyond this scale"):
        return said, reason
    return ("holds", "as it must") if said == "reproduced" else ("fails", reason)


def _word(findings: Sequence[Finding], check: bool) -> tuple[Word, str]:
    criteria = [f for f in findings if f.role == "criterion"]
    controls = [f for f in findings if f.role == "control"]
    if all(c.state == UNRECORDED for c in criteria):
        return UNRECORDED, "no run is recorded under these criteria"
    if all(c.values is None for c in criteria):
        return "beyond this scale", "not measured with these parameters"
    if unrecorded := [f.what for f in findings if f.state == UNRECORDED]:
        return UNRECORDED, f"no run is recorded under these criteria: {'; '.join(unrecorded)}"
    rivals = [c for c in controls if c.kind != "sanity"]
    for guard in findings:
        if (guard.role == "condition" or guard.kind == "sanity") and guard.state != "met":
            return "inconclusive", f"{guard.role} {guard.what}: {guard.words}"
    if twins := _twins([*criteria, *controls]):
        return "inconclusive", f"two arms with the very same numbers: {twins}"
    if violated := [c.what for c in criteria if c.state == "violated"]:
        return "not reproduced", f"violated: {'; '.join(violated)}"
    for rival in rivals:
        if rival.state != "met":
            return "inconclusive", f"control {rival.what}: {rival.words}"
    if absent := [c.what for c in criteria if c.values is None]:
        return "beyond this scale", f"not measured at this scale: {'; '.join(absent)}"
    for criterion in criteria:
        if criterion.state != "met":
            return "inconclusive", f"{criterion.what}: {criterion.state}"
    if not check and controls and not rivals:
        return "inconclusive", "no baseline and no ablation measures what the claim is judged by"
    return "reproduced", "every criterion is met and every control fails, as it must"


def _twins(findings: Sequence[Finding]) -> str:
    """Two sampled quantities with the same number at every seed, if it is not one number at all of them."""
    sampled = [f for f in findings if f.evidence == "recorded" and f.values and len(f.values) > 1]
    for one, other in combinations(sampled, 2):
        if one.values == other.values and any(value != one.values[0] for value in one.values):
            return f"{one.what}; {other.what}"
    return ""


def digest(claim: Claim) -> str:
    """A short hash of what a claim is judged by: another one, and an older record says nothing about it.

    Left out is what changes no measurement: how coarsely it is printed, where a threshold comes from, and
    what kind of control one is, by which a recorded run is judged anew and which a test compares by itself.
    """
    left_out = {"resolution", "source", "kind", "of"}
    text = {
        kind: {name: quantity.model_dump(exclude=left_out) for name, quantity in named.items()}
        for kind, named in claim.quantities.items()
    }
    return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:16]
