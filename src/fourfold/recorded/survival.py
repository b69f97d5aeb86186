"""What is known of verdicts without their mechanisms; `fourfold.recorded.mutation` finds it out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
from typing_extensions import TypedDict

from fourfold.judging import card, records, rule

DATA = records.ROOT / "data" / "mutations"


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


def path(slug: str) -> Path:
    """Where it is kept what became of a chapter's claims."""
    return DATA / f"{slug}.json"


def read(slug: str) -> dict[str, Outcome]:
    """claim -> what became of it. Raises ``RecordError`` naming file and field if the file is wrong."""
    file = path(slug)
    return records.read_run(file, dict[str, Outcome]) if file.is_file() else {}


def fate(outcome: Outcome) -> str:
    """In a few words, whether the claim needed its mechanism."""
    if outcome["turned"]:
        return "turned"
    # A mutated run may end in another word and yet lie within what the recorded seeds make likely.
    survives = outcome["word"] == "reproduced"
    return "it survives" if survives else "its seeds cannot tell it from what is left"


def tell(verdict: card.Verdict, outcomes: Mapping[str, Outcome]) -> card.Verdict:
    """A verdict with what became of it without its mechanism: a claim that survives that is not told."""
    claim = verdict.claim
    if verdict.word != "reproduced" or claim.mutation is None or "timed" in claim.evidence:
        return verdict
    outcome = outcomes.get(claim.id)
    if outcome is None or (outcome["mutation"], outcome["criteria"]) != (claim.mutation, rule.digest(claim)):
        return replace(verdict, mutation="What becomes of it without its mechanism has not been run.")
    without = outcome["words"].rstrip(".")
    if not outcome["turned"]:
        reason = f"{fate(outcome)} without its mechanism ({without})"
        return replace(verdict, word="inconclusive", reason=reason)
    return replace(verdict, mutation=f"Without its mechanism ({without}): {outcome['word']}.")


def table() -> pd.DataFrame:
    """A row for each claim under its mutation: what was taken away, and what became of the verdict."""
    rows = [
        (
            record.slug,
            claim,
            outcome["words"],
            outcome["target"].removeprefix("fourfold."),
            outcome["word"],
            outcome["turned"],
        )
        for record in records.chapters()
        for claim, outcome in read(record.slug).items()
    ]
    columns = ["paper", "claim", "what was taken away", "by replacing", "verdict without it", "turned"]
    return pd.DataFrame(rows, columns=columns)
