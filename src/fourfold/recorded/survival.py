"""What is known of verdicts without their mechanisms; `fourfold.recorded.mutation` finds it out."""

from collections.abc import Mapping
from dataclasses import replace

from typing_extensions import TypedDict

from fourfold.judging import card, records, rule

FILE = records.ROOT / "data" / "mutations.json"


class Outcome(TypedDict):
    """What became of one claim under its mutation."""

    mutation: str
    words: str
    """What was taken away."""
    target: str
    """What was replaced."""
    word: rule.Word
    reason: str
    disagrees: str
    """How a criterion differs from the recorded run; empty if none does."""
    turned: bool
    criteria: str
    """A hash of what the claim is judged by."""
    sources: str
    """A hash of all that the numbers come from, and of the mutation."""


def read() -> dict[str, dict[str, Outcome]]:
    """slug -> claim -> what became of it. Raises ``RecordError`` naming file and field if a file is wrong."""
    return records.read_run(FILE, dict[str, dict[str, Outcome]]) if FILE.is_file() else {}


def tell(verdict: card.Verdict, outcomes: Mapping[str, Mapping[str, Outcome]]) -> card.Verdict:
    """A verdict with what became of it without its mechanism: a claim that survives that is not told."""
    claim = verdict.claim
    if verdict.word != "reproduced" or claim.mutation is None or "timed" in claim.evidence:
        return verdict
    outcome = outcomes.get(verdict.paper, {}).get(claim.id)
    if outcome is None or (outcome["mutation"], outcome["criteria"]) != (claim.mutation, rule.digest(claim)):
        return replace(verdict, mutation="What becomes of it without its mechanism has not been run.")
    without = outcome["words"].rstrip(".")
    if not outcome["turned"]:
        return replace(verdict, word="inconclusive", reason=f"it survives without its mechanism ({without})")
    return replace(verdict, mutation=f"Without its mechanism ({without}): {outcome['word']}.")
