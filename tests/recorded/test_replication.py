"""Replications by readers: pooled and compared with the record, or refused in a sentence."""

import json
import re

import nbformat
import pytest

from fourfold.judging import card, records, rule
from fourfold.recorded import evidence, replication
from fourfold.recorded.machine import machine

RECORD = records.load("gaunt_tensor_product")
RUN = evidence.read(RECORD.slug, "recorded")
CLAIM = next(claim for claim in RECORD.claims if "recorded" in claim.evidence)
FACE = evidence.face(RECORD, RUN, CLAIM.id)
SAMPLED = [finding for finding in FACE["findings"] if finding["evidence"] == "recorded"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(replication, "DATA", tmp_path)
    return tmp_path


def executed(path, seed=20_000, seeds=4, shift=0.0, **parameters):
    """A chapter as executed for a replication, with the values that the recorded run had."""
    findings = [{**f, "values": [value + shift for value in f["values"][:seeds]]} for f in SAMPLED]
    faces = [
        {
            "kind": "run",
            "paper": RECORD.slug,
            "profile": "custom",
            "parameters": RUN["parameters"] | {"seed": seed, "seeds": seeds} | parameters,
            **machine(),
        },
        {"kind": "verdict", "claim": CLAIM.id, "criteria": rule.digest(CLAIM), "findings": findings},
    ]
    cells = []
    for face in faces:
        output = nbformat.v4.new_output("execute_result", {"text/plain": ""}, metadata={"fourfold": face})
        cells.append(
            nbformat.v4.new_code_cell("1", outputs=[output], metadata={"papermill": {"status": "completed"}})
        )
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["papermill"] = {"duration": 3.0, "exception": None}
    nbformat.write(notebook, path)
    return path


def edited(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def file(tmp_path):
    return replication.keep(RECORD.slug, executed(tmp_path / "run.ipynb"))


def test_what_readers_measured_is_pooled_and_agrees(tmp_path, file):
    assert replication.refused() == {}
    processor = json.loads(file.read_text())["processor"]
    assert replication.words(RECORD, CLAIM.id) == f"Replicated at 4 fresh seeds ({processor}): they agree."
    replication.keep(RECORD.slug, executed(tmp_path / "run.ipynb", seed=30_000, seeds=3))
    assert replication.words(RECORD, CLAIM.id).startswith("Replicated at 7 fresh seeds")
    exact = next(claim for claim in RECORD.claims if claim.evidence == ["exact"])
    assert replication.words(RECORD, exact.id) == ""
    verdict = card.Verdict(RECORD.slug, CLAIM, "quick", "reproduced", "", (), replicated="Replicated at 4.")
    assert "Replicated at 4." in str(verdict)
    assert "Replicated at 4." in verdict.to_html()


def test_other_numbers_disagree_and_the_card_says_in_what(tmp_path):
    replication.keep(RECORD.slug, executed(tmp_path / "run.ipynb", shift=1e3))
    said = replication.words(RECORD, CLAIM.id)
    assert "they disagree in " in said
    assert CLAIM.quantities[SAMPLED[0]["role"]][SAMPLED[0]["name"]].what in said


def test_without_replications_a_card_says_nothing_of_them():
    assert replication.words(RECORD, CLAIM.id) == ""
    assert replication.refused() == {}


def test_a_file_that_was_edited_is_refused(file):
    edited(file, seconds=1)
    (why,) = replication.refused().values()
    assert why == "it was edited after its run: its sum does not fit"
    assert replication.words(RECORD, CLAIM.id) == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sources": {"notebook": "0"}}, "it comes from other code than the recorded run: "),
        ({"criteria": {CLAIM.id: "0"}}, f"{CLAIM.id} has other criteria today"),
        ({"parameters": RUN["parameters"]}, "it repeats seeds 1000 to 1019|it repeats seeds 2000 to 2019"),
        (
            {"parameters": RUN["parameters"] | {"seed": 10**5, "seeds": 1, "epochs": 1}},
            "other parameters .*: epochs",
        ),
        ({"paper": "snn"}, "it is of snn"),
    ],
)
def test_another_experiment_is_refused(file, changes, why):
    entry = json.loads(file.read_text()) | changes
    entry["sum"] = replication._sum(entry)
    edited(file, **entry)
    (said,) = replication.refused().values()
    assert re.search(why, said)


def test_seeds_count_once(tmp_path, file):
    with pytest.raises(ValueError, match="would be refused: it repeats seeds 20002 to 20003"):
        replication.keep(RECORD.slug, executed(tmp_path / "run.ipynb", seed=20_002))
    with pytest.raises(ValueError, match="would be refused: it repeats seed 20003"):
        replication.values(RECORD.slug, 2, 20_003)


def test_the_experiment_is_the_recorded_one_at_fresh_seeds():
    wanted = replication.values(RECORD.slug, 5)
    assert wanted == RUN["parameters"] | {"seeds": 5, "seed": wanted["seed"]}
    assert wanted["seed"] >= replication.FRESH
    with pytest.raises(ValueError, match="SEED must be >= 10000, got 1000"):
        replication.values(RECORD.slug, 5, 1000)
    with pytest.raises(ValueError, match="seeds"):
        replication.values(RECORD.slug, 0)


def test_what_would_be_refused_is_not_run(monkeypatch):
    changed = RUN["sources"] | {"GauntTP": "0"}
    monkeypatch.setattr(evidence, "sources", lambda slug: changed)
    with pytest.raises(ValueError, match="it comes from other code than the recorded run: GauntTP"):
        replication.values(RECORD.slug, 5)
    monkeypatch.setattr(evidence, "read", lambda slug, tier: None)
    with pytest.raises(ValueError, match="no run is recorded that it could be compared with"):
        replication.values(RECORD.slug, 5)


def test_a_broken_file_is_named(file):
    file.write_text("{")
    with pytest.raises(records.RecordError, match=file.name):
        replication.refused()


def test_all_that_was_sent_counts(monkeypatch):
    monkeypatch.undo()
    assert replication.refused() == {}
