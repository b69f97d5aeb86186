"""The judge: from measured values to verdicts.

The rule, in full. A criterion is met when the whole interval of its measured value lies in the
region the record states, violated when no point of it does, and open otherwise. A control fails, as
it must, when its whole interval lies in its own region. Then, in this order:

1. nothing measured at this scale: ``beyond this scale``;
2. a control that does not fail, or was not run: ``inconclusive``, whatever was measured;
3. a criterion violated: ``not reproduced``;
4. a criterion not measured at this scale: ``beyond this scale``;
5. a criterion open (interval, too few seeds, not a number): ``inconclusive``;
6. otherwise ``reproduced``.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from fourfold.records import Claim, Control, Criterion, Quantity, Record, Region

VERDICTS = ("reproduced", "not reproduced", "inconclusive", "beyond this scale")
Word = Literal["reproduced", "not reproduced", "inconclusive", "beyond this scale"]
UNJUDGED = "not judged yet"
FAILED = "did not run"
SYMBOLS = {
    "reproduced": "✓",
    "not reproduced": "✗",
    "inconclusive": "≈",
    "beyond this scale": "↗",
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
        quantity: says which statistic (see `fourfold.records.STATISTICS`).
        values: a number for ``exact``; a number per seed for ``mean`` and ``every``; a truth value per
            seed for ``fraction``; two such groups for ``fisher``.

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
        interval = stats.binomtest(int(array.sum()), n).proportion_ci(0.95, method="exact")
        return Estimate(float(array.mean()), float(interval.low), float(interval.high), n)
    if not np.isfinite(array).all():
        return Estimate(math.nan, math.nan, math.nan, n)
    # fsum: equal values have their own mean, to the last bit, and so judge alike at equality.
    mean = math.fsum(array) / n
    if n == 1:
        return Estimate(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(array, ddof=1, mean=mean) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Finding:
    """One criterion or control after judging."""

    name: str
    what: str
    threshold: str
    role: Literal["criterion", "control"]
    state: str
    """``met``, ``violated`` or why it is neither."""
    values: Any
    shown: str
    estimate: Estimate | None

    @property
    def words(self) -> str:
        """The state in a reader's words: a control that is ``met`` has failed, as it must."""
        if self.role == "criterion":
            return self.state
        return {"met": "fails, as it must", "violated": "passes, so the claim cannot be told"}.get(
            self.state, self.state
        )


def _state(quantity: Quantity, region: Region, measured: Estimate) -> str:
    if math.isnan(measured.value):
        return "not a number"
    if quantity.statistic == "every":
        # One counterexample settles a statement about every seed, however few were run.
        if measured.low not in region or measured.high not in region:
            return "violated"
    elif measured.seeds >= quantity.seeds_needed and region.disjoint(measured.low, measured.high):
        return "violated"
    if measured.seeds < quantity.seeds_needed:
        return f"too few seeds ({measured.seeds} of {quantity.seeds_needed})"
    if measured.low in region and measured.high in region:
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


def _shown(quantity: Quantity, measured: Estimate) -> str:
    middle, low, high = (show(v, quantity.resolution) for v in (measured.value, measured.low, measured.high))
    unit = f" {quantity.unit}" if quantity.unit else ""
    seeds = f" ({measured.seeds} seed{'s' if measured.seeds > 1 else ''})"
    if quantity.statistic == "exact":
        return middle + unit
    if quantity.statistic == "fisher":
        return f"p = {middle}{seeds}"
    if quantity.statistic == "every":
        return f"{low} to {high}{unit}{seeds}"
    return f"{middle} [{low}, {high}]{unit}{seeds}"


def _find(name: str, quantity: Criterion | Control, values: Any) -> Finding:
    role: Literal["criterion", "control"] = "criterion" if isinstance(quantity, Criterion) else "control"
    region = quantity.reproduced_if if isinstance(quantity, Criterion) else quantity.fails_if
    if values is None:
        state = "not measured at this scale" if role == "criterion" else "not run"
        return Finding(name, quantity.what, region.text, role, state, None, "–", None)
    measured = estimate(quantity, values)
    state = _state(quantity, region, measured)
    plain = (
        np.asarray(values, dtype=float).tolist()
        if quantity.statistic != "fisher"
        else [np.asarray(group, dtype=float).tolist() for group in values]
    )
    return Finding(name, quantity.what, region.text, role, state, plain, _shown(quantity, measured), measured)


def _word(criteria: Sequence[Finding], controls: Sequence[Finding]) -> tuple[Word, str]:
    if all(c.values is None for c in criteria):
        return "beyond this scale", "not measured with these parameters"
    for control in controls:
        if control.state != "met":
            return "inconclusive", f"control {control.what}: {control.words}"
    for state, word in (("violated", "not reproduced"), ("not measured at this scale", "beyond this scale")):
        named = [c.what for c in criteria if c.state == state]
        if named:
            return word, f"{state}: {'; '.join(named)}"  # type: ignore[return-value]
    for criterion in criteria:
        if criterion.state != "met":
            return "inconclusive", f"{criterion.what}: {criterion.state}"
    return "reproduced", "every criterion is met and every control fails, as it must"


@dataclass(frozen=True)
class Verdict:
    """A claim, judged. Displayed in a notebook it has three faces: HTML, text, and metadata."""

    paper: str
    claim: Claim
    profile: str
    word: Word
    reason: str
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        lines = [f"{self.claim.id} {self.word}: {self.reason}"]
        lines += [
            f"  {f.role} {f.name}: {f.shown}; {'must be' if f.role == 'control' else 'threshold'} "
            f"{f.threshold}: {f.words}"
            for f in self.findings
        ]
        return "\n".join(lines)

    def to_html(self) -> str:
        """The card a reader sees; its numbers are rounded as in the text."""
        rows = "".join(
            f"<tr class='{f.role}'><th scope='row'>{'Control: ' if f.role == 'control' else ''}"
            f"{html.escape(f.what)}</th><td>{_signs(f.threshold)}</td>"
            f"<td>{html.escape(f.shown)}</td><td>{html.escape(f.words)}</td></tr>"
            for f in self.findings
        )
        paper = f"<p class='paper'>The paper: {html.escape(self.claim.paper)}</p>" if self.claim.paper else ""
        return (
            f"<div class='verdict {css(self.word)}' id='{self.paper}-{self.claim.id}'>"
            f"<p class='word'><strong>{self.claim.id}</strong> "
            f"<span>{SYMBOLS[self.word]} {self.word}</span> <small>{self.profile} run</small></p>"
            f"<p class='statement'>{html.escape(self.claim.statement)}</p>{paper}"
            "<div class='scroll'><table><thead><tr><th scope='col'>Quantity</th><th scope='col'>Must be</th>"
            f"<th scope='col'>Measured</th><th scope='col'>Finding</th></tr></thead><tbody>{rows}</tbody>"
            f"</table></div><p class='reason'>{html.escape(self.reason)}.</p></div>"
        )

    def to_metadata(self) -> dict[str, Any]:
        """The machine face, full precision; non-finite numbers as text, since JSON has none."""
        face = {
            "kind": "verdict",
            "paper": self.paper,
            "claim": self.claim.id,
            "profile": self.profile,
            "verdict": self.word,
            "reason": self.reason,
            "findings": [asdict(f) for f in self.findings],
        }
        return jsonable(face)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        return {"text/plain": str(self), "text/html": self.to_html()}, {"fourfold": self.to_metadata()}


def css(word: str) -> str:
    """The style sheets' class for a verdict's word."""
    return word.replace(" ", "-")


def _signs(threshold: str) -> str:
    """A threshold as print has it: ≤ for <=."""
    for ascii_sign, sign in (("<=", "≤"), (">=", "≥"), ("==", "=")):
        threshold = threshold.replace(ascii_sign, sign)
    return html.escape(threshold)


def jsonable(value: Any) -> Any:
    """The value as JSON can carry it: tuples as lists, non-finite numbers as text."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def judge(
    record: Record,
    claim_id: str,
    criteria: Mapping[str, Any],
    controls: Mapping[str, Any],
    *,
    profile: str = "custom",
) -> Verdict:
    """Judge one claim by the thresholds in its record; the rule stands at the top of this module.

    Args:
        record: the paper's record.
        claim_id: the claim, such as ``"C1"``.
        criteria: a value for every criterion of the claim; None where these parameters cannot measure it.
        controls: likewise for its controls; one that is None was not run.
        profile: ``"quick"``, ``"full"`` or ``"custom"``.

    Raises:
        ValueError: for a claim without criteria, a criterion left out, or a name the record does not have.
    """
    claim = record.claim(claim_id)
    if not claim.criteria:
        raise ValueError(f"{record.slug} {claim_id} has no criteria in its record, so it cannot be judged")
    if set(criteria) != set(claim.criteria):
        raise ValueError(f"{claim_id} criteria: expected {sorted(claim.criteria)}, got {sorted(criteria)}")
    if unknown := set(controls) - set(claim.controls):
        raise ValueError(
            f"{claim_id} controls: expected {sorted(claim.controls)}, got also {sorted(unknown)}"
        )
    met = [_find(name, spec, criteria[name]) for name, spec in claim.criteria.items()]
    failing = [_find(name, spec, controls.get(name)) for name, spec in claim.controls.items()]
    word, reason = _word(met, failing)
    return Verdict(record.slug, claim, profile, word, reason, (*met, *failing))
