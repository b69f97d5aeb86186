"""The lock: criteria, controls and code were committed before the run that they judge."""

import shutil
import subprocess

import pytest
import yaml

from fourfold.judging import records, rule
from fourfold.recorded import evidence

JUDGED_BY = ("id", "statement", "criteria", "controls", "conditions")


def git(*words):
    return subprocess.run(
        ["git", "-C", str(records.ROOT), *words], capture_output=True, text=True, check=True
    ).stdout


RENAMED = {("craft", "C5a"): {"nowhere": "sanity"}}
"""Controls of another kind than at the run. No word hangs on it: a criterion is violated either way."""

RUNS = [
    (record.slug, tier)
    for record in records.chapters()
    for tier in evidence.TIERS
    if (run := evidence.read(record.slug, tier)) and run.get("commit")
]


@pytest.mark.skipif(
    shutil.which("git") is None or not (records.ROOT / ".git").exists(), reason="history needs git"
)
@pytest.mark.parametrize(("slug", "tier"), RUNS)
def test_a_recorded_run_was_judged_by_what_its_commit_holds(slug, tier):
    run = evidence.read(slug, tier)
    git("merge-base", "--is-ancestor", run["commit"], "HEAD")
    then = yaml.safe_load(git("show", f"{run['commit']}:data/papers/{slug}.yml"))
    criteria, steps, kinds = {}, {}, {}
    for claim in then["claims"]:
        if claim.get("criteria"):
            told = {"controls": {}} | {key: claim[key] for key in JUDGED_BY if key in claim}
            check = {"check": True} if claim.get("check") else {}
            criteria[claim["id"]] = rule.digest(records.Claim.model_validate(told | check))
            steps[claim["id"]] = {name: each["resolution"] for name, each in claim["criteria"].items()}
            kinds[claim["id"]] = {name: each.get("kind") for name, each in claim.get("controls", {}).items()}
    assert {face["claim"]: face["criteria"] for face in run["verdicts"]} == criteria
    # What a card rounds to is no criterion, but how far a build or a mutated run may stray hangs on it.
    now = {claim.id: claim.criteria for claim in records.load(slug).claims if claim.id in steps}
    assert {c: {name: each.resolution for name, each in found.items()} for c, found in now.items()} == steps
    # Nor is a control's kind, by which the rule puts it before or after a criterion that is violated.
    for claim in records.load(slug).claims:
        if criteria.get(claim.id) == rule.digest(claim):
            found = {name: each.kind for name, each in claim.controls.items()}
            assert found == kinds[claim.id] | RENAMED.get((slug, claim.id), {})
