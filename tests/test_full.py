"""Full runs: what is recorded, what makes it stale, and what is refused."""

import json

import nbformat
import pytest
import yaml

from fourfold import full, parameters, records
from fourfold.machine import machine


def test_parameters_file_is_the_full_profile_even_through_yaml():
    for record in records.load_all():
        if record.has_chapter:
            read = yaml.safe_load(full.parameters_file(record.slug))
            assert parameters.profile(record, parameters.validate(record, read)) == "full"


def test_sources_are_all_that_the_numbers_depend_on_and_nothing_else():
    names = set(full.sources("convsharevit"))
    assert {"notebook", "record", "fourfold.optics.convsharevit", "fourfold.light"} <= names
    assert {"fourfold.attention", "fourfold.datasets", "fourfold.training"} <= names
    assert not {"fourfold.figures", "fourfold.full", "fourfold.ledger", "fourfold.book"} & names


def executed(path, profile="full", status="completed"):
    face = {
        "kind": "run",
        "paper": "convsharevit",
        "profile": profile,
        "parameters": {},
        **machine(),
    }
    kept = {"kind": "data", "paper": "convsharevit", "name": "recall", "data": {"a": [1.0]}}
    outputs = [nbformat.v4.new_output("display_data", {}, metadata={"fourfold": f}) for f in (face, kept)]
    cell = nbformat.v4.new_code_cell("run", outputs=outputs, metadata={"papermill": {"status": status}})
    node = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {"duration": 61.7}})
    nbformat.write(node, path)
    return path


def test_keep_and_load(tmp_path, monkeypatch):
    monkeypatch.setattr(full, "FULL_RUNS", tmp_path / "full")
    assert full.load("convsharevit") is None
    path = full.keep("convsharevit", executed(tmp_path / "ran.ipynb"))
    run = full.load("convsharevit")
    assert (run["seconds"], run["profile"], run["data"], run["stale"]) == (
        62,
        "full",
        {"recall": {"a": [1.0]}},
        [],
    )

    entry = json.loads(path.read_text())
    entry["sources"]["fourfold.light"] = "0" * 16
    del entry["sources"]["notebook"]
    path.write_text(json.dumps(entry))
    assert full.load("convsharevit")["stale"] == ["fourfold.light", "notebook"]


def test_only_a_finished_run_with_full_parameters_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(full, "FULL_RUNS", tmp_path / "full")
    with pytest.raises(ValueError, match="ran with quick parameters"):
        full.keep("convsharevit", executed(tmp_path / "ran.ipynb", profile="quick"))
    with pytest.raises(ValueError, match="did not run to its end"):
        full.keep("convsharevit", executed(tmp_path / "ran.ipynb", status="failed"))
    assert not (tmp_path / "full").exists()
