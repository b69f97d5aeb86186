"""The run log: seconds are counted once, under what they went into."""

import nbformat
import pytest

from fourfold.book import run_log


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
    nothing, words = run_log.NOTHING, run_log.WORDS

    def row(who, what, seconds, **more):
        return {"who": who, "what": what, "seconds": seconds, **more}

    def spent(total, imports):
        rest = {"experiment": total - imports - 1, "figures": 0}
        return {"total": total, "start-up": 1.0, "imports": imports, **rest}

    record = {
        "started": "2026-01-02T03:04:05+00:00",
        "processor": "abacus",
        "cores": 2,
        "rows": [
            row("now", nothing, 50.0, chapters={"a": spent(6.0, 1.0), "b": spent(8.0, 2.0)}),
            row("now", "the chapters alone", 40.0),
            row("now", words, 2.0),
            row("nbconvert", "the chapters alone", 100.0, cells_that_differ=0),
        ],
    }
    timed = run_log.build_seconds(record)
    assert list(timed) == ["make book", "nbconvert"]
    assert timed["make book"].to_dict() == {nothing: 50.0, "the chapters alone": 40.0, words: 2.0}
    costs = run_log.build_costs(record)
    assert costs.total.to_dict() == {"b": 8.0, "a": 6.0, "all chapters": 14.0}
    assert costs.imports["a"] == 1
    said = run_log.build_summary(record)
    assert said.startswith("Seconds for 2 chapters. ")
    assert "**2.5 times** as long as the same chapters within `make book`" in said
    assert "**2.0 times** as long as all of `make book` from nothing" in said
    assert "**50 times** as long as after a change" in said


def test_the_record_that_is_kept_can_be_told():
    record = run_log.builds()
    assert "nbconvert" in run_log.build_summary(record)
    assert run_log.build_costs(record).total["all chapters"] > 100
