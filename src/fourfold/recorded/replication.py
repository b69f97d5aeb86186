"""Replications: a chapter's recorded experiment, repeated by a reader at seeds that nobody used before.

``make replicate NAME=<slug> SEEDS=5`` keeps one small file in ``data/replications/<slug>``, which can be sent
as a pull request. What lies there is pooled and compared with the recorded run by the rule of the spot check,
and the card says whether they agree. The verdict stays that of the recorded run.

A file is refused that was edited after its run, comes from other code, parameters or criteria, or repeats
seeds. Its sum tells an edit by mistake; who wants to deceive can compute the sum anew, and is found out by
whoever repeats the seeds, which on one processor gives the same numbers to the last digit.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any

from fourfold.judging import parameters, records, rule, spot_check
from fourfold.judging.records import Record
from fourfold.recorded import evidence, executed
from fourfold.recorded.machine import Machine

DATA = records.ROOT / "data" / "replications"
FRESH = 10_000
"""Seeds of replications are no smaller: the book's own are."""


class Replication(Machine):
    """What a replication holds."""

    paper: str
    parameters: dict[str, Any]
    seconds: int
    sources: dict[str, str]
    criteria: dict[str, str]
    """Claim -> hash of what it is judged by."""
    values: dict[str, dict[str, Any]]
    """Claim -> ``role/name`` -> a value for each seed."""
    sum: str
    """SHA-256 of all else."""


def values(slug: str, seeds: int, seed: int | None = None) -> dict[str, Any]:
    """The parameters of a replication: those of the recorded run, at fresh seeds.

    Raises:
        ValueError: if the chapter has no seeds, these are not allowed, or what they give would be refused.
    """
    record = records.load(slug)
    if "seeds" not in record.parameters:
        raise ValueError(f"{slug} has no seeds: nothing of it can be replicated, only computed again")
    if seed is None:
        highest = int(record.parameters["seed"].max or 10**6)
        seed = SystemRandom().randrange(FRESH, highest - 20)
    elif seed < FRESH:
        raise ValueError(f"SEED must be >= {FRESH}, got {seed}: smaller ones are the book's own")
    wanted = record.values("recorded") | {"seeds": seeds, "seed": seed}
    parameters.validate(record, wanted)
    # What can be known before minutes of computing is said before them.
    planned = {"paper": slug, "parameters": wanted, "sources": evidence.sources(slug), "criteria": {}}
    if why := refusal(record, planned | {"sum": _sum(planned)}, accepted(slug)):
        raise ValueError(f"a replication of {slug} would be refused: {why}")
    return wanted


def keep(slug: str, notebook: Path) -> Path:
    """Write the replication that a chapter executed at `values` is.

    Raises:
        ValueError: if it did not run to its end, or would be refused.
    """
    (run,) = executed.faces(notebook, "run")
    judged = executed.faces(notebook, "verdict")
    record = records.load(slug)
    entry: dict[str, Any] = {
        **{key: value for key, value in run.items() if key not in ("kind", "profile")},
        "seconds": round(executed.seconds(notebook)),
        "sources": evidence.sources(slug),
        "criteria": {face["claim"]: face["criteria"] for face in judged},
        "values": {
            face["claim"]: {
                f"{finding['role']}/{finding['name']}": finding["values"]
                for finding in face["findings"]
                if finding["evidence"] == "recorded" and finding["values"] is not None
            }
            for face in judged
            if "recorded" in record.claim(face["claim"]).evidence
        },
    }
    entry["sum"] = _sum(entry)
    if why := refusal(record, entry, accepted(slug)):
        raise ValueError(f"this replication would be refused: {why}")
    file = DATA / slug / f"{run['parameters']['seed']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entry, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def refusal(record: Record, entry: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> str | None:
    """Why a replication does not count beside the recorded run and ``others``; None if it does."""
    run = evidence.read(record.slug, "recorded")
    if run is None:
        return "no run is recorded that it could be compared with"
    if entry["sum"] != _sum(entry):
        return "it was edited after its run: its sum does not fit"
    if entry["paper"] != record.slug:
        return f"it is of {entry['paper']}"
    if changed := sorted(set(run["sources"].items()) ^ set(entry["sources"].items())):
        names = ", ".join(sorted({name for name, _ in changed})[:5])
        return f"it comes from other code than the recorded run: {names}"
    mine, ours = ({**r["parameters"], "seed": 0, "seeds": 0} for r in (entry, run))
    if differing := [name for name in ours if mine.get(name) != ours[name]]:
        return f"it has other parameters than the recorded run: {', '.join(differing)}"
    for claim, criteria in entry["criteria"].items():
        if criteria != rule.digest(record.claim(claim)):
            return f"{claim} has other criteria today"
    for other in (run, *others):
        if again := _seeds(entry["parameters"]) & _seeds(other["parameters"]):
            return f"it repeats {_listed(again)}"
    return None


def accepted(slug: str) -> list[dict[str, Any]]:
    """The replications of a chapter that count, in the order of their files' names.

    Raises ``RecordError`` naming the file if one is not a whole `Replication`.
    """
    return _sorted(slug)[0]


def refused() -> dict[str, str]:
    """File -> why it does not count, of all that lie in ``data/replications``."""
    folders = sorted(path.name for path in DATA.glob("*") if path.is_dir())
    return {file: why for slug in folders for file, why in _sorted(slug)[1].items()}


def _sorted(slug: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    record = records.load(slug)
    good: list[dict[str, Any]] = []
    amiss: dict[str, str] = {}
    for file in sorted((DATA / slug).glob("*.json")):
        entry = records.read_run(file, Replication)
        if why := refusal(record, entry, good):
            amiss[f"{slug}/{file.name}"] = why
        else:
            good.append(entry)
    return good, amiss


def words(record: Record, claim_id: str) -> str:
    """Whether replications agree with the recorded run about a claim, in a sentence; empty without any."""
    there = [entry for entry in accepted(record.slug) if claim_id in entry["values"]]
    if not there:
        return ""
    face = evidence.face(record, evidence.read(record.slug, "recorded"), claim_id)
    if face is None:
        return ""
    quantities, differing = record.claim(claim_id).quantities, []
    for finding in face["findings"]:
        name = f"{finding['role']}/{finding['name']}"
        here = [entry["values"][claim_id][name] for entry in there if name in entry["values"][claim_id]]
        quantity = quantities[finding["role"]][finding["name"]]
        if not here or quantity.statistic == "fisher":
            continue
        check = spot_check.compare(quantity, finding["values"], [value for part in here for value in part])
        if check and check.agrees is False:
            differing.append(f"{quantity.what} ({check.words.removeprefix('this run disagrees: ')})")
    number = sum(len(_seeds(entry["parameters"])) for entry in there)
    where = ", ".join(dict.fromkeys(entry["processor"] for entry in there))
    told = f"they disagree in {'; '.join(differing)}" if differing else "they agree"
    return f"Replicated at {number} fresh seeds ({where}): {told}."


def _seeds(given: Mapping[str, Any]) -> set[int]:
    return set(range(given["seed"], given["seed"] + given["seeds"]))


def _listed(seeds: set[int]) -> str:
    first, last = min(seeds), max(seeds)
    return f"seed {first}" if first == last else f"seeds {first} to {last}"


def _sum(entry: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in entry.items() if key != "sum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
