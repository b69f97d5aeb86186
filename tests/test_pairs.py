"""The run that the book is built from says what the committed pair says, as nbval compares the two."""

import json
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fourfold.book import execute
from fourfold.judging import records
from fourfold.recorded import executed

from .replay import compare, differences


@pytest.mark.parametrize("record", records.chapters(), ids=lambda record: record.slug)
def test_the_run_of_a_chapter_says_what_its_pair_says(record, request):
    page, made = record.notebook, executed.of(record)
    try:
        executed.weave(page, made)
    except (FileNotFoundError, ValueError) as error:
        pytest.fail(f"there is no run of {page.name} as it is now, make book first: {error}", pytrace=False)
    compare(page.with_suffix(".ipynb"), made, request.session)
    assert executed.failure(made) is None


def shown(data, **metadata):
    return new_output("display_data", data=data, metadata=metadata)


def result(text, **data):
    return new_output("execute_result", data={"text/plain": text, **data}, execution_count=1)


def printed(text, name="stdout"):
    return new_output("stream", text=text, name=name)


DISPLAY = "from IPython.display import display, HTML; "
NO_DIFFERENCE, DIFFERENCE = False, True
# What a cell is about -> its code, the outputs that the notebook keeps, whether nbval takes them for others.
KINDS = {
    "the same": ("6 * 7", [result("42")], NO_DIFFERENCE),
    "text": ("6 * 7", [result("43")], DIFFERENCE),
    "HTML": (
        DISPLAY + "display(HTML('<b>1</b>'))",
        [shown({"text/html": "<b>2</b>", "text/plain": "<IPython.core.display.HTML object>"})],
        DIFFERENCE,
    ),
    "JSON": (
        DISPLAY + "display({'application/json': {'a': 1}}, raw=True)",
        [shown({"application/json": {"a": 2}})],
        DIFFERENCE,
    ),
    "a stream": ("print('one')", [printed("two\n")], DIFFERENCE),
    "a stream in pieces": (
        DISPLAY + "print('one'); display(1); print('two')",
        [printed("one\ntwo\n"), shown({"text/plain": "1"})],
        NO_DIFFERENCE,
    ),
    "a line that was drawn over": ("print('one\\rtwo')", [printed("two\n")], NO_DIFFERENCE),
    "another stream": ("import sys; print('one', file=sys.stderr)", [printed("one\n")], DIFFERENCE),
    "one output more": (DISPLAY + "display(1); display(1)", [shown({"text/plain": "1"})], DIFFERENCE),
    "another kind of output more": ("print('one'); 6 * 7", [result("42")], DIFFERENCE),
    "one output less": (DISPLAY + "display(1)", 2 * [shown({"text/plain": "1"})], DIFFERENCE),
    "all outputs less": ("product = 6 * 7", [result("42")], DIFFERENCE),
    "another order of kinds": (
        DISPLAY + "display(1); print('one')",
        [printed("one\n"), shown({"text/plain": "1"})],
        NO_DIFFERENCE,
    ),
    "a picture": (
        DISPLAY + "display({'image/png': 'iVBORw0K', 'text/plain': 'a'}, raw=True)",
        [shown({"image/png": "AAAA", "text/plain": "a"})],
        NO_DIFFERENCE,
    ),
    "a picture that is not there": (
        DISPLAY + "display({'image/png': 'iVBORw0K', 'text/plain': 'a'}, raw=True)",
        [shown({"text/plain": "a"})],
        NO_DIFFERENCE,
    ),
    "metadata": (
        DISPLAY + "display({'text/plain': 'a'}, metadata={'fourfold': 1}, raw=True)",
        [shown({"text/plain": "a"}, fourfold=2)],
        NO_DIFFERENCE,
    ),
    "nbval-ignore-output": ("6 * 7", [result("43")], NO_DIFFERENCE),
    "nbval-skip": ("6 * 7", [result("43")], NO_DIFFERENCE),
    "raises-exception": ("1 / 0", [new_output("error", ename="ZeroDivisionError", evalue="no")], DIFFERENCE),
    # papermill ends a run here, nbval goes on.
    "an error": ("1 / 0", [result("42")], DIFFERENCE),
}
# As a reader runs it, and what came of each cell in a file.
CONFTEST = """
import json

def pytest_runtest_logreport(report):
    if report.when == "call":
        said = [report.nodeid.rpartition("::")[2], report.outcome, str(report.longrepr)]
        with open("reports.jsonl", "a") as file:
            file.write(json.dumps(said) + "\\n")
"""


def lines(said):
    """What nbval says without colours, and without a kernel's traceback, which numbers cells its own way."""
    return re.sub(r"\x1b\[[\d;]*m", "", said).partition("-----")[0].splitlines()


def test_it_fails_where_nbval_fails_and_says_the_same(tmp_path, request):
    notebook, made = tmp_path / "kinds.ipynb", tmp_path / "run.ipynb"
    cells = [
        new_code_cell(code, outputs=outputs, execution_count=1, metadata={"tags": [kind.replace(" ", "-")]})
        for kind, (code, outputs, _) in KINDS.items()
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), notebook)
    execute.run(notebook, made, {})
    ours = differences(notebook, made, request.session)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider"]
    ended = subprocess.run([*command, notebook.name], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1, ended.stdout
    reports = [json.loads(line) for line in (tmp_path / "reports.jsonl").read_text().splitlines()]
    theirs = {cell: said for cell, outcome, said in reports if outcome == "failed"}
    names = dict(zip((f"Cell {i}" for i in range(len(KINDS))), KINDS, strict=True))
    assert {names[cell] for cell in ours} == {kind for kind, (*_, differs) in KINDS.items() if differs}
    assert {cell: lines(said) for cell, said in ours.items()} == {
        cell: lines(said) for cell, said in theirs.items()
    }


def test_a_run_of_other_code_is_not_compared(tmp_path, request):
    one, other = tmp_path / "one.ipynb", tmp_path / "other.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")]), one)
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 2")]), other)
    with pytest.raises(ValueError, match=r"other\.ipynb was executed from other code than one\.ipynb has"):
        differences(one, other, request.session)
