"""Recorded runs: a chapter at many seeds, or at its full parameters, kept with all that it came from.

``data/recorded/<slug>.json`` is the evidence for what depends on seeds: the record's quick parameters at
twenty seeds or more. ``data/doubled/<slug>.json`` is the same at twice the budget, where a record says what
that is: a verdict that it changes was one of the budget. ``data/full/<slug>.json`` is the same of its full
parameters. All have every seed's value, where and when they ran, and a hash of every source that the
numbers came from. A source that has changed since makes the run *stale*, which pages say. A claim whose
criteria, controls or parameters have changed since is *refused*: the run was made for another question.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

import yaml
from typing_extensions import TypedDict

from fourfold.judging import records, rule
from fourfold.judging.records import Record
from fourfold.recorded.machine import Machine

Tier = Literal["recorded", "doubled", "full"]
TIERS: tuple[Tier, ...] = ("recorded", "doubled", "full")
DATA = records.ROOT / "data"


class Verdict(TypedDict):
    """What the judge said of a claim, as far as pages and later verdicts read it."""

    claim: str
    criteria: NotRequired[str]
    """A hash of what it was judged by; the oldest full runs have none."""
    verdict: rule.Word
    findings: list[dict[str, Any]]


class Run(Machine):
    """What a recorded run holds."""

    paper: str
    parameters: dict[str, Any]
    profile: Tier
    seconds: int
    sources: dict[str, str]
    verdicts: list[Verdict]
    data: dict[str, Any]


def path(slug: str, tier: Tier) -> Path:
    """Where the recorded run of a chapter lies."""
    return DATA / tier / f"{slug}.json"


def parameters_file(slug: str, tier: Tier) -> str:
    """The chapter's parameters of this tier as YAML, for ``papermill -f``."""
    return yaml.safe_dump(records.load(slug).values(tier), sort_keys=False)


def sources(slug: str) -> dict[str, str]:
    """name -> hash of everything that the chapter's numbers depend on.

    The chapter's experiment and what it reaches in our modules; figures change no number. A claim's criteria
    are hashed with its verdict, and parameters stand in the run itself.
    """
    # A chapter only reads runs, and need not wait for what reads notebooks and source.
    from fourfold.recorded import sources as dependencies

    page = records.load(slug).notebook
    return dependencies.hashes("notebook", dependencies.experiment(page))


def keep(slug: str, tier: Tier, notebook: Path) -> Path:
    """Write a recorded run from a chapter executed at its parameters of this tier.

    Raises:
        ValueError: if the notebook failed, ran with other parameters, or before its criteria were committed.
    """
    from fourfold.recorded import executed

    (run,) = executed.faces(notebook, "run")
    if run["profile"] != tier:
        raise ValueError(f"{slug} ran with {run['profile']} parameters; data/{tier} keeps {tier} ones")
    if run["commit"] is None:
        raise ValueError(
            f"{slug} ran while code or criteria were not committed: commit them first, so that everybody "
            "sees that they were there before the result"
        )
    judged = executed.faces(notebook, "verdict")
    asked = {claim.id for claim in records.load(slug).claims if claim.criteria}
    if silent := asked - {face["claim"] for face in judged}:
        raise ValueError(
            f"{slug} shows no verdict on {', '.join(sorted(silent))}: a cell shows only its last expression"
        )
    entry = {
        **{key: value for key, value in run.items() if key != "kind"},
        "seconds": round(executed.seconds(notebook)),
        "sources": sources(slug),
        "verdicts": judged,
        "data": {face["name"]: face["data"] for face in executed.faces(notebook, "data")},
    }
    file = path(slug, tier)
    file.parent.mkdir(parents=True, exist_ok=True)
    # A line for each innermost list, not for each of its numbers.
    text = re.sub(
        r"\[[^\[\]{}]*\]",
        lambda found: " ".join(found[0].split()),
        json.dumps(entry, indent=1, ensure_ascii=False),
    )
    file.write_text(text + "\n", encoding="utf-8")
    return file


def read(slug: str, tier: Tier) -> dict[str, Any] | None:
    """The recorded run; None if there is none.

    Raises ``RecordError`` naming the file if it is not a whole `Run`.
    """
    file = path(slug, tier)
    return records.read_run(file, Run) if file.is_file() else None


def load(slug: str, tier: Tier) -> dict[str, Any] | None:
    """The recorded run with ``stale``: names of sources that changed since, and criteria; None if none.

    Raises ``RecordError`` naming the file if it is not a whole `Run`.
    """
    from fourfold.recorded import sources as dependencies

    entry = read(slug, tier)
    if entry is not None:
        record = records.load(slug)
        today = {claim.id: rule.digest(claim) for claim in record.claims}
        then = {verdict["claim"]: verdict.get("criteria") for verdict in entry["verdicts"]}
        entry["stale"] = dependencies.changed(entry["sources"], sources(slug))
        if any(then[claim] != today.get(claim) for claim in then):
            entry["stale"].append("criteria")
    return entry


def faces(record: Record, run: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The machine faces of those claims in a recorded run that it judged by today's question.

    None of a run of other parameters than the record states today, and none of a claim with other criteria,
    controls or conditions.
    """
    if run is None or run["parameters"] != record.values(run["profile"]):
        return []
    now = {(claim.id, rule.digest(claim)) for claim in record.claims}
    return [face for face in run["verdicts"] if (face["claim"], face.get("criteria")) in now]


def face(record: Record, run: Mapping[str, Any] | None, claim_id: str) -> dict[str, Any] | None:
    """The machine face of a claim in a recorded run; None where there is none for today's question."""
    return next((face for face in faces(record, run) if face["claim"] == claim_id), None)


def about(run: Mapping[str, Any]) -> str:
    """Seeds, day, processor and, where the run says, kernels of a recorded run, in words."""
    where = " with ".join(run[key] for key in ("processor", "kernels") if key in run)
    return f"{seeds(run['parameters'])}, {run['started'][:10]}, {where}"


def seeds(values: Mapping[str, Any]) -> str:
    """The seeds of a run in words."""
    if "seed" not in values:
        return "no seeds"
    first, number = values["seed"], values.get("seeds", 1)
    return f"seed {first}" if number == 1 else f"seeds {first} to {first + number - 1}"
