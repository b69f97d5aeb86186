"""Drift: what cells said and say now, as nbval finds it, ends up as an issue that names claims and words."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fourfold.judging.records import ROOT
from fourfold.recorded import drift, survival

JUDGE = """from types import SimpleNamespace

class Card:
    def __repr__(self):
        return "C1 inconclusive: its seeds cannot tell\\n  criterion a: 0.5; threshold > 1: open"

chapter = SimpleNamespace(judge=lambda *_, **__: Card())
chapter.judge(
    "C1",
    criteria={"a": 0.5},
)"""


def result(text):
    return [new_output("execute_result", {"text/plain": text}, execution_count=1)]


@pytest.fixture(scope="module")
def junit(tmp_path_factory):
    """What pytest writes of a notebook whose card, print and error differ; its last cell is the same."""
    folder = tmp_path_factory.mktemp("project")
    cells = [
        (JUDGE, result("C1 reproduced: every criterion is met\n  criterion a: 0.5; threshold > 1: open")),
        ("print('two')", [new_output("stream", text="one\n", name="stdout")]),
        ("1 / 0", result("1")),
        ("6 * 7", result("42")),
    ]
    notebook = new_notebook(
        cells=[new_code_cell(code, outputs=outputs, execution_count=1) for code, outputs in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, folder / "snn.ipynb")
    (folder / "conftest.py").write_bytes((ROOT / "conftest.py").read_bytes())
    kept = folder / "old" / "nbval.xml"
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--junitxml={kept}", "snn.ipynb"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout
    return kept


def test_an_issue_names_claims_words_and_kernels(junit):
    said = drift.issue(junit.parent.parent)
    assert said.splitlines()[2:6] == [
        "- snn, a cell that judges nothing: other text (old)",
        "- snn, a cell that judges nothing: other text (old)",
        "- **snn C1: reproduced → inconclusive** (old)",
        "",
    ]
    assert "-C1 reproduced: every criterion is met\n+C1 inconclusive: its seeds cannot tell\n" in said
    assert "criterion a" not in said, "a line that is the same is not shown"
    assert "-one\n+two" in said
    assert "-1\n+ZeroDivisionError: division by zero" in said
    assert "42" not in said


def test_the_same_under_two_kernels_is_told_once(junit, tmp_path):
    for kernels in ("avx2", "own"):
        (tmp_path / kernels).mkdir()
        (tmp_path / kernels / "nbval.xml").write_bytes(junit.read_bytes())
    said = drift.issue(tmp_path)
    assert "**snn C1: reproduced → inconclusive** (avx2, own)" in said
    assert said.count("```diff") == 3


def test_where_nothing_differs_nothing_is_said(tmp_path):
    assert drift.issue(tmp_path) == ""
    (tmp_path / "own").mkdir()
    root = ElementTree.Element("testsuites")
    ElementTree.SubElement(root, "testcase", name="Cell 0")
    ElementTree.ElementTree(root).write(tmp_path / "own" / "nbval.xml")
    assert drift.issue(tmp_path) == ""
    (tmp_path / "own" / "nbval.xml").write_text("<")
    with pytest.raises(ValueError, match=r"nbval\.xml is not a JUnit file"):
        drift.issue(tmp_path)


def test_a_claim_that_survives_since_is_told(tmp_path, monkeypatch):
    kept, found = tmp_path / "kept", tmp_path / "mutations"
    outcome = survival.read("snn")
    claim = next(claim for claim, one in outcome.items() if one["turned"])
    for folder in (kept, found):
        folder.mkdir()
        survives = {claim: outcome[claim] | {"word": "reproduced", "turned": folder == kept}}
        monkeypatch.setattr(survival, "DATA", folder)
        survival.path("snn").write_text(json.dumps(outcome | survives), encoding="utf-8")
    monkeypatch.setattr(survival, "DATA", kept)
    assert f"- **snn {claim}** without its mechanism: turned → it survives" in drift.issue(tmp_path)
    assert drift.otherwise(kept) == {}


def test_an_issue_is_cut_to_what_it_has_room_for(monkeypatch):
    monkeypatch.setattr(drift, "MOST", 40)
    said = drift._cut("words\n```diff\n-one\n+two\n-three\n+four\n-five\n```\n")
    assert (
        said == "words\n```diff\n-one\n+two\n-three\n+four\n```\n\nThere is more, in the run's artifacts.\n"
    )
