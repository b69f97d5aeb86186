"""The spot check: a build repeats an experiment at a few seeds, and says whether it agrees with the record.

What depends on seeds is judged by a recorded run of twenty or more, so that the verdict is the same word on
every machine. A build's own values are compared with the recorded ones. For numbers the rule is: the two
means differ by no more than ``t * s * sqrt(1/m + 1/n)`` and the quantity's resolution, where s is the
standard deviation of the n recorded values, m the number of the build's and t the quantile of Student's
distribution that fresh seeds exceed in 8 of 100,000 cases: five for twenty recorded seeds. A build takes
the first of the recorded seeds, so on the same kind of processor the difference is none at all; the rule
has room for another one, where chaotic training makes what amounts to fresh draws. Shares of seeds are
compared by Fisher's exact test at the same level, which a few seeds may be too few to fail: then the check
says so. What is exact must print the same text as in the recorded run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from fourfold.judging import rule
from fourfold.judging.card import Verdict
from fourfold.judging.records import Quantity
from fourfold.judging.rule import Finding, SpotCheck

FALSE_ALARM = 8e-5
"""How often a quantity disagrees though nothing has changed: if values are normal, and seeds fresh."""

AGREES = SpotCheck(True, "this run agrees")


def recall(verdict: Verdict, face: Mapping[str, Any] | None, basis: str) -> Verdict:
    """The verdict of a build: recorded values where they depend on seeds, and how the build's own compare.

    Args:
        verdict: the claim judged on the values that the build computed.
        face: the machine face of the claim in the recorded run; None if none is recorded under its criteria.
        basis: where and when that run was made, in a sentence.
    """
    if "recorded" not in verdict.claim.evidence:
        return verdict
    if face is None:
        findings = tuple(_unrecorded(finding) for finding in verdict.findings)
        return replace(verdict, findings=findings, **_judged(verdict, findings))
    then = {(f["role"], f["name"]): f["values"] for f in face["findings"]}
    quantities = verdict.claim.quantities
    findings = tuple(
        _recalled(finding, quantities[finding.role][finding.name], then[finding.role, finding.name])
        for finding in verdict.findings
    )
    return replace(verdict, findings=findings, basis=basis, **_judged(verdict, findings))


def at_twice_the_budget(verdict: Verdict, face: Mapping[str, Any] | None) -> Verdict:
    """A verdict beside that of the same run at twice the budget, ``face``: a word that changes is untold."""
    if face is None or verdict.word not in rule.DECIDED:
        return verdict
    if face["verdict"] == verdict.word:
        # What is exact has no run to name, and nothing that a budget could change.
        same = f"{verdict.basis} At twice the budget the word is the same."
        return replace(verdict, basis=same) if verdict.basis else verdict
    reason = f"a word of the budget: {verdict.word}, and at twice the budget {face['verdict']}"
    return replace(verdict, word="inconclusive", reason=reason)


def compare(quantity: Quantity, recorded: Any, here: Any) -> SpotCheck | None:
    """Whether a build measured what the recorded run makes likely; None if neither measured anything."""
    if recorded is None and here is None:
        return None
    if recorded is None:
        return SpotCheck(False, "this run disagrees: the recorded one did not measure it")
    if here is None:
        return SpotCheck(None, "this run did not measure it")
    if quantity.statistic == "fisher":
        groups = [_shares(quantity, *pair) for pair in zip(recorded, here, strict=True)]
        return next((check for check in groups if check.agrees is False), groups[0])
    if quantity.statistic == "fraction":
        return _shares(quantity, recorded, here)
    return _means(quantity, np.asarray(recorded, dtype=float), np.asarray(here, dtype=float))


def _means(quantity: Quantity, recorded: np.ndarray, here: np.ndarray) -> SpotCheck:
    n, m = len(recorded), len(here)
    if n < 2 or not np.isfinite(recorded).all():
        return SpotCheck(None, "this run cannot tell: the recorded values have no spread")
    if not np.isfinite(here).all():
        return SpotCheck(False, "this run disagrees: it has a value that is not a number")
    standard_error = float(np.std(recorded, ddof=1)) * math.sqrt(1 / m + 1 / n)
    allowed = float(stats.t.isf(FALSE_ALARM / 2, n - 1)) * standard_error + quantity.resolution
    if abs(float(here.mean() - recorded.mean())) <= allowed:
        return AGREES
    expected, width = (rule.show(value, quantity.resolution) for value in (float(recorded.mean()), allowed))
    shown = rule.show(float(here.mean()), quantity.resolution)
    seeds = f"{m} seed{'s' if m > 1 else ''}"
    return SpotCheck(
        False, f"this run disagrees: its mean is {shown} ({seeds}), expected {expected} ± {width}"
    )


def _shares(quantity: Quantity, recorded: Sequence[float], here: Sequence[float]) -> SpotCheck:
    n, m, successes = len(recorded), len(here), int(sum(recorded))

    def p(k: int) -> float:
        return float(stats.fisher_exact([[successes, n - successes], [k, m - k]]).pvalue)

    k = int(sum(here))
    if p(k) < FALSE_ALARM:
        return SpotCheck(False, f"this run disagrees: {k} of {m} seeds, recorded {successes} of {n}")
    if min(p(0), p(m)) >= FALSE_ALARM:
        return SpotCheck(None, "this run cannot tell: it has too few seeds")
    return AGREES


def _recalled(finding: Finding, quantity: Quantity, then: Any) -> Finding:
    """A finding of the build with the recorded values in place of its own, if they depend on seeds."""
    if finding.evidence == "timed":
        return finding
    recorded = rule.find(finding.name, quantity, then)
    if finding.evidence == "recorded":
        return replace(recorded, spot_check=compare(quantity, then, finding.values), here=finding.values)
    if recorded.shown != finding.shown:
        return replace(
            finding, spot_check=SpotCheck(False, f"this run disagrees: the recorded one had {recorded.shown}")
        )
    return finding


def _unrecorded(finding: Finding) -> Finding:
    """A finding of the build without its numbers: another processor would print others."""
    if finding.evidence != "recorded" or finding.values is None:
        return finding
    return replace(finding, state=rule.UNRECORDED, values=None, estimate=None, shown="–", here=finding.values)


def _judged(verdict: Verdict, findings: Sequence[Finding]) -> dict[str, Any]:
    word, reason = rule.word(findings, verdict.claim.check)
    return {"word": word, "reason": reason}
