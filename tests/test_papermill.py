"""Chapters as a researcher reruns them: from any folder, with papermill's own ways of passing parameters."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from fourfold import records
from fourfold.records import ROOT

PAPERMILL = Path(sys.executable).with_name("papermill")


def papermill(folder, *arguments):
    return subprocess.run(
        [PAPERMILL, "--no-progress-bar", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("record", records.chapters(), ids=lambda record: record.slug)
class TestChapter:
    @pytest.fixture
    def notebook(self, record):
        return ROOT / "notebooks" / record.part / f"{record.slug}.ipynb"

    def test_papermill_lists_every_parameter(self, record, notebook, tmp_path):
        listed = papermill(tmp_path, "--help-notebook", notebook)
        assert listed.returncode == 0
        for name, spec in record.parameters.items():
            assert f"  {name}: {spec.type} (default" in listed.stdout

    def test_wrong_parameters_stop_the_run_before_any_compute(self, record, notebook, tmp_path):
        (tmp_path / "given.yml").write_text("seed: -1\nsed: 7\nfrequency: 1e-3\n")
        run = papermill(tmp_path, "-f", "given.yml", "-p", "seeds", "true", notebook, "out.ipynb")
        assert run.returncode != 0
        for words in (
            "seed = -1: expected int, ",
            "seeds = 'true': expected int, ",
            f"sed = 7: {record.slug} has no such parameter; did you mean 'seed'?",
            f"frequency = '1e-3': {record.slug} has no such parameter",
        ):
            assert words in run.stderr
        cells = [
            c for c in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells if c.cell_type == "code"
        ]
        # The parameters, papermill's own cell, and the one that refused.
        assert sum(cell.execution_count is not None for cell in cells) == 3
