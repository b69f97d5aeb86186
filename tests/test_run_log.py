"""The run log: seconds are counted once, under what they went into."""

import nbformat
import pytest

from fourfold import run_log


def cell(source, seconds, *tags):
    metadata = {"tags": list(tags), "papermill": {"duration": seconds}}
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def test_seconds_add_up_by_kind(tmp_path):
    node = nbformat.v4.new_notebook(
        cells=[
            cell("from fourfold import training", 2.0),
            cell("import torch", 1.0),
            cell("x = training.train()", 30.0),
            cell("figures.show(plot)", 0.5, "nbval-ignore-output"),
            nbformat.v4.new_markdown_cell("words"),
        ],
        metadata={"papermill": {"duration": 36.0}},
    )
    nbformat.write(node, tmp_path / "ran.ipynb")
    assert run_log.seconds(tmp_path / "ran.ipynb") == pytest.approx(
        {"total": 36.0, "start-up": 2.5, "imports": 3.0, "experiment": 30.0, "figures": 0.5}
    )
