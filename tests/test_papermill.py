"""Chapters as a researcher reruns them: from any folder, with papermill's own ways of passing parameters."""

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

import fourfold
from fourfold.judging import parameters, records
from fourfold.recorded import executed

PAPERMILL = Path(sys.executable).with_name("papermill")
CHEAPEST = records.load("gaunt_tensor_product")
# What papermill makes of `-p seeds true` and of a file with 1e-3 is text.
WRONG = {"seed": -1, "sed": 7, "frequency": "1e-3", "seeds": "true"}


def pair(record):
    return executed.NOTEBOOKS / record.part / f"{record.slug}.ipynb"


def refusals(record):
    """What is said of each of the wrong parameters."""
    return (
        "seed = -1: expected int, ",
        "seeds = 'true': expected int, ",
        f"sed = 7: {record.slug} has no such parameter; did you mean 'seed'?",
        f"frequency = '1e-3': {record.slug} has no such parameter",
    )


@pytest.mark.parametrize("record", records.chapters(), ids=lambda record: record.slug)
class TestChapter:
    def test_papermill_knows_every_parameter(self, record):
        known = papermill.inspect_notebook(pair(record))
        assert {name: spec["inferred_type_name"] for name, spec in known.items()} == {
            name: spec.type for name, spec in record.parameters.items()
        }

    def test_wrong_parameters_are_refused_where_the_chapter_is_opened(self, record):
        """In its second cell, which tests/test_project.py sees to: before any compute."""
        known = papermill.inspect_notebook(pair(record))
        given = {name: ast.literal_eval(spec["default"]) for name, spec in known.items()}
        assert parameters.validate(record, given) == given
        with pytest.raises(parameters.ParameterError) as refused:
            fourfold.open_chapter(record.slug, given | WRONG)
        for words in refusals(record):
            assert words in str(refused.value)


def test_a_papermill_that_is_given_wrong_parameters_ends_with_the_cell_that_refuses(tmp_path):
    (tmp_path / "given.yml").write_text("seed: -1\nsed: 7\nfrequency: 1e-3\n")
    passed = ["-f", "given.yml", "-p", "seeds", "true", pair(CHEAPEST), "out.ipynb"]
    ended = subprocess.run(
        [PAPERMILL, "--no-progress-bar", *passed], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode != 0
    for words in refusals(CHEAPEST):
        assert words in ended.stderr
    cells = executed.code_cells(nbformat.read(tmp_path / "out.ipynb", as_version=4))
    # The parameters, papermill's own cell, and the one that refused.
    assert sum(cell.execution_count is not None for cell in cells) == 3
    (given,) = [cell for cell in cells if "injected-parameters" in cell.metadata.tags]
    assigned = ast.parse(given.source).body
    assert {one.targets[0].id: ast.literal_eval(one.value) for one in assigned} == WRONG


def test_papermill_lists_parameters_for_a_reader(tmp_path):
    listed = subprocess.run(
        [PAPERMILL, "--help-notebook", pair(CHEAPEST)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for name, spec in CHEAPEST.parameters.items():
        assert f"  {name}: {spec.type} (default" in listed.stdout
