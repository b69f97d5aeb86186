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
    clauses: tuple[str, ...] = ()
    """What of the paper's abstract the claim carries."""
    mutation: str = ""
    """What became of it without its mechanism, in a sentence; empty if that was not tried."""
    replicated: str = ""
    """Whether runs of readers agree, in a sentence; empty if there is none."""

    @property
    def spot_checks(self) -> list[SpotCheck]:
        """How this run compares with the recorded one, quantity by quantity."""
        return [f.spot_check for f in self.findings if f.spot_check]

    def __str__(self) -> str:
        lines = [
            f"{self.claim.id} {self.word}: {self.reason}",
            *(f"  {finding}" for finding in self.findings),
        ]
        about = (self.mutation, self.basis, self.replicated)
        return "\n".join([*lines, *(f"  {words}" for words in about if words)])

    def to_html(self) -> str:
        """The card a reader sees; its numbers are rounded as in the text."""
        names = ("Quantity", "Must be", "Measured", "Finding", "Evidence")
        heads = "".join(f"<th scope='col'>{name}</th>" for name in names)
        symbol = SYMBOLS[self.word]
        check = "check: " if self.claim.check else ""
        return (
            f"<div class='verdict {css(self.word)}' id='{self.paper}-{self.claim.id}'>"
            f"<p class='word'><strong>{self.claim.id}</strong> "
            f"<span>{symbol} {check}{self.word}</span> <small>{self.profile} run</small></p>"
            f"{''.join(_line('clause', f'The abstract: {clause}') for clause in self.clauses)}"
            f"<p class='statement'>{html.escape(self.claim.statement)}</p>"
            f"{_line('paper', f'The paper: {self.claim.paper}') if self.claim.paper else ''}"
            f"<div class='scroll'><table><thead><tr>{heads}</tr></thead>"
            f"<tbody>{''.join(map(_row, self.findings))}</tbody></table></div>"
            f"{_line('reason', f'{self.reason}.')}"
            f"{''.join(_line('basis', words) for words in self._about if words)}</div>"
        )

    @property
    def _about(self) -> list[str]:
        """Sentences below the table: what it survives, rests on, was expected to be, and was before."""
        expected, before = self.claim.expected, self.claim.before
        return [
            self.mutation,
            self.basis,
            self.replicated,
            f"Expected before the run that judges: {expected.word}. {expected.basis}" if expected else "",
            *(f"Until {earlier.date} it was {earlier.word}. {earlier.why}" for earlier in before),
        ]

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


def _line(name: str, text: str) -> str:
    return f"<p class='{name}'>{html.escape(text)}</p>"


def _row(finding: Finding) -> str:
    """One quantity as a row of the card's table."""
    what, shown, words = (html.escape(text) for text in (finding.what, finding.shown, finding.words))
    role = "" if finding.role == "criterion" else f"{finding.role.capitalize()}: "
    if finding.kind:
        role = f"{finding.kind.capitalize()}: "
    source = f"<small>{html.escape(finding.source)}</small>" if finding.source else ""
    check = html.escape(f": {finding.spot_check.words}") if finding.spot_check else ""
    return (
        f"<tr class='{finding.role}'><th scope='row'>{role}{what}</th>"
        f"<td>{_signs(finding.threshold)}{source}</td><td>{shown}</td><td>{words}</td>"
        f"<td>{finding.evidence}{check}</td></tr>"
    )


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
    clauses = tuple(clause.clause for clause in record.abstract if claim_id in clause.claims)
    said, reason = word(findings, claim.check)
    return Verdict(record.slug, claim, profile, said, reason, findings, clauses=clauses)
