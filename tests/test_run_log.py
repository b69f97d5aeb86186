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


def test_whole_builds_are_compared_with_nbconvert_from_nothing():
    nothing, words = "from nothing", "after a change of words in one chapter"
    chapters = {"a": {"total": 3.0, "figures": 1.0}, "b": {"total": 4.0, "figures": 0.5}}
    record = {
        "started": "2026-01-02T03:04:05+00:00",
        "processor": "abacus",
        "cores": 2,
        "rows": [
            {"who": "now", "what": nothing, "seconds": 50.0, "chapters": chapters},
            {"who": "now", "what": words, "seconds": 2.0},
            {"who": "nbconvert", "what": nothing, "seconds": 100.0, "cells_that_differ": 0},
        ],
    }
    assert run_log.build_seconds(record).now.to_dict() == {nothing: 50.0, words: 2.0}
    assert run_log.build_costs(record).now.to_dict() == {"total": 7.0, "figures": 1.5}
    said = run_log.build_summary(record)
    assert "**2.0 times** as long from nothing" in said
    assert "**50 times** as long after a change" in said
