"""The card: a claim, judged, with three faces.

HTML for readers, plain text for comparing runs, and metadata for the ledger and for records.
"""

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fourfold.judging.records import Claim, Record
from fourfold.judging.rule import SYMBOLS, Finding, SpotCheck, Word, digest, find, word


@dataclass(frozen=True)
class Verdict:
    """A claim, judged. Displayed in a notebook it has three faces: HTML, text, and metadata."""

    paper: str
    claim: Claim
    profile: str
    word: Word
    reason: str
    findings: tuple[Finding, ...]
    basis: str = ""
    """Where and when what it rests on was recorded, in a sentence; empty if this run alone judges."""

    @property
    def spot_checks(self) -> list[SpotCheck]:
        """How this run compares with the recorded one, quantity by quantity."""
        return [f.spot_check for f in self.findings if f.spot_check]

    def __str__(self) -> str:
        lines = [
            f"{self.claim.id} {self.word}: {self.reason}",
            *(f"  {finding}" for finding in self.findings),
        ]
        return "\n".join([*lines, f"  {self.basis}"] if self.basis else lines)

    def to_html(self) -> str:
        """The card a reader sees; its numbers are rounded as in the text."""
        rows = "".join(
            f"<tr class='{f.role}'>"
            f"<th scope='row'>{'' if f.role == 'criterion' else f.role.capitalize() + ': '}"
            f"{html.escape(f.what)}</th><td>{_signs(f.threshold)}</td>"
            f"<td>{html.escape(f.shown)}</td><td>{html.escape(f.words)}</td>"
            f"<td>{f.evidence}{html.escape(f': {f.spot_check.words}') if f.spot_check else ''}</td></tr>"
            for f in self.findings
        )
        paper = f"<p class='paper'>The paper: {html.escape(self.claim.paper)}</p>" if self.claim.paper else ""
        basis = f"<p class='basis'>{html.escape(self.basis)}</p>" if self.basis else ""
        names = ("Quantity", "Must be", "Measured", "Finding", "Evidence")
        heads = "".join(f"<th scope='col'>{name}</th>" for name in names)
        return (
            f"<div class='verdict {css(self.word)}' id='{self.paper}-{self.claim.id}'>"
            f"<p class='word'><strong>{self.claim.id}</strong> "
            f"<span>{SYMBOLS[self.word]} {self.word}</span> <small>{self.profile} run</small></p>"
            f"<p class='statement'>{html.escape(self.claim.statement)}</p>{paper}"
            f"<div class='scroll'><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
            f"<p class='reason'>{html.escape(self.reason)}.</p>{basis}</div>"
        )

    def to_metadata(self) -> dict[str, Any]:
        """The machine face, full precision; non-finite numbers as text, since JSON has none."""
        face = {
            "kind": "verdict",
            "paper": self.paper,
            "claim": self.claim.id,
            "criteria": digest(self.claim),
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
    conditions: Mapping[str, Any] | None = None,
    *,
    profile: str = "custom",
) -> Verdict:
    """Judge one claim by the thresholds in its record; see `fourfold.judging.rule`.

    Args:
        record: the paper's record.
        claim_id: the claim, such as ``"C1"``.
        criteria: a value for every criterion of the claim; None where these parameters cannot measure it.
        controls: likewise for its controls; one that is None was not run.
        conditions: likewise for its conditions.
        profile: ``"quick"``, ``"recorded"``, ``"full"`` or ``"custom"``.

    Raises:
        ValueError: for a claim without criteria, a criterion left out, or a name the record does not have.
    """
    claim = record.claim(claim_id)
    if not claim.criteria:
        raise ValueError(f"{record.slug} {claim_id} has no criteria in its record, so it cannot be judged")
    if set(criteria) != set(claim.criteria):
        raise ValueError(f"{claim_id} criteria: expected {sorted(claim.criteria)}, got {sorted(criteria)}")
    measured = {"controls": controls, "conditions": conditions or {}}
    for kind, specs in (("controls", claim.controls), ("conditions", claim.conditions)):
        if unknown := set(measured[kind]) - set(specs):
            raise ValueError(f"{claim_id} {kind}: expected {sorted(specs)}, got also {sorted(unknown)}")
    findings = (
        *(find(name, spec, criteria[name]) for name, spec in claim.criteria.items()),
        *(find(name, spec, measured["conditions"].get(name)) for name, spec in claim.conditions.items()),
        *(find(name, spec, measured["controls"].get(name)) for name, spec in claim.controls.items()),
    )
    return Verdict(record.slug, claim, profile, *word(findings), findings)
