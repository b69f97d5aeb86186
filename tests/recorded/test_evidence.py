"""Recorded runs: what is kept, what makes it stale, and what is refused."""

import json

import nbformat
import pytest
import yaml

from fourfold.judging import parameters, records, rule
from fourfold.recorded import evidence
from fourfold.recorded.machine import machine

RECORD = records.load("gaunt_tensor_product")


@pytest.mark.parametrize("tier", evidence.TIERS)
def test_parameters_file_is_the_tiers_profile_even_through_yaml(tier):
    for record in records.chapters():
        read = yaml.safe_load(evidence.parameters_file(record.slug, tier))
        found = parameters.profile(record, parameters.validate(record, read))
        assert found == tier or record.values(tier) == record.values(found)


def test_every_chapter_with_seeds_records_twenty_fresh_ones_or_more():
    for record in records.chapters():
        if any("recorded" in claim.evidence for claim in record.claims):
            values, quick = record.values("recorded"), record.values("quick")
            assert values["seed"] >= 1000, record.slug
            assert values["seeds"] >= 20, record.slug
            # What a build leaves to the recorded run beside seeds is drawn or named on the card.
            assert "seeds" in {name for name in values if values[name] != quick[name]}, record.slug


def test_sources_are_all_that_the_numbers_depend_on_and_nothing_else():
    names = set(evidence.sources("convsharevit"))
    assert {"notebook", "SharedConv", "optical_linear", "ViT", "key_recall", "train"} <= names
    unread = {"judge", "recall", "keep", "show", "explore", "Record", "cifar10", "OpticalConv2d"}
    assert not unread & names


def executed(path, profile="full", status="completed", commit="4c50398", silent=False, **claim):
    (first, *_) = RECORD.claims
    run = {
        "kind": "run",
        "paper": RECORD.slug,
        "profile": profile,
        "parameters": RECORD.values("recorded"),
        **machine(),
        "commit": commit,
    }
    judged = {
        "kind": "verdict",
        "claim": first.id,
        "criteria": rule.digest(first),
        "verdict": "reproduced",
        "findings": [],
    }
    kept = {"kind": "data", "paper": RECORD.slug, "name": "recall", "data": {"a": [1.0]}}
    others = [
        judged | {"claim": other.id, "criteria": rule.digest(other)}
        for other in RECORD.claims[1:]
        if other.criteria and not silent
    ]
    faces = (run, judged | claim, *others, kept)
    outputs = [nbformat.v4.new_output("display_data", {}, metadata={"fourfold": face}) for face in faces]
    cell = nbformat.v4.new_code_cell("run", outputs=outputs, metadata={"papermill": {"status": status}})
    node = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {"duration": 61.7}})
    nbformat.write(node, path)
    return path


@pytest.fixture(autouse=True)
def _data(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "DATA", tmp_path / "data")


@pytest.mark.parametrize("tier", evidence.TIERS)
def test_keep_and_load(tmp_path, tier):
    assert evidence.load(RECORD.slug, tier) is None
    file = evidence.keep(RECORD.slug, tier, executed(tmp_path / "ran.ipynb", profile=tier))
    run = evidence.load(RECORD.slug, tier)
    assert (run["seconds"], run["profile"], run["data"], run["stale"]) == (
        62,
        tier,
        {"recall": {"a": [1.0]}},
        [],
    )

    entry = json.loads(file.read_text())
    entry["sources"]["fourfold.spectra"] = "0" * 16
    del entry["sources"]["notebook"]
    entry["verdicts"][0]["criteria"] = "0" * 16
    file.write_text(json.dumps(entry))
    assert evidence.load(RECORD.slug, tier)["stale"] == ["fourfold.spectra", "notebook", "criteria"]


def test_a_claim_is_found_only_under_todays_criteria_and_parameters(tmp_path):
    first = RECORD.claims[0].id
    evidence.keep(RECORD.slug, "recorded", executed(tmp_path / "ran.ipynb", profile="recorded"))
    run = evidence.read(RECORD.slug, "recorded")
    assert evidence.face(RECORD, run, first)["verdict"] == "reproduced"
    assert evidence.face(RECORD, run, RECORD.claims[1].id)["claim"] == RECORD.claims[1].id
    assert evidence.face(RECORD, None, first) is None
    assert evidence.face(RECORD, run | {"parameters": RECORD.values("quick")}, first) is None
    path = executed(tmp_path / "ran.ipynb", profile="recorded", criteria="0" * 16)
    evidence.keep(RECORD.slug, "recorded", path)
    assert evidence.face(RECORD, evidence.read(RECORD.slug, "recorded"), first) is None


def test_only_a_finished_run_with_the_tiers_parameters_is_kept(tmp_path):
    with pytest.raises(ValueError, match="ran with quick parameters; data/full keeps full ones"):
        evidence.keep(RECORD.slug, "full", executed(tmp_path / "ran.ipynb", profile="quick"))
    with pytest.raises(ValueError, match="ran with full parameters; data/recorded keeps recorded ones"):
        evidence.keep(RECORD.slug, "recorded", executed(tmp_path / "ran.ipynb"))
    with pytest.raises(ValueError, match="did not run to its end"):
        evidence.keep(RECORD.slug, "full", executed(tmp_path / "ran.ipynb", status="failed"))
    with pytest.raises(ValueError, match="were not committed: commit them first"):
        evidence.keep(RECORD.slug, "full", executed(tmp_path / "ran.ipynb", commit=None))
    with pytest.raises(ValueError, match="shows no verdict on C2, "):
        evidence.keep(RECORD.slug, "full", executed(tmp_path / "ran.ipynb", silent=True))
    assert not evidence.DATA.exists()


def test_seeds_in_words():
    assert evidence.seeds({"seed": 3, "seeds": 1}) == "seed 3"
    assert evidence.seeds({"seed": 3}) == "seed 3"
    assert evidence.seeds({"seed": 1000, "seeds": 20}) == "seeds 1000 to 1019"
    assert evidence.seeds({}) == "no seeds"
