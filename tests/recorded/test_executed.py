"""Runs: what a page's run is good for, and that running keeps whatever happened."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile

import nbformat
import pytest

from fourfold.book import execute, snakemake
from fourfold.judging.records import ROOT
from fourfold.recorded import executed

HEADER = "---\nkernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\n---\n"
CELL = "```{{code-cell}} ipython3\n{}\n```\n"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page of a project of its own; call it with the code of its cells."""
    monkeypatch.setattr(executed, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(executed, "RUNS", tmp_path / "runs")
    page = tmp_path / "notebooks" / "page.md"
    page.parent.mkdir()

    def write(*cells, words="words"):
        page.write_text(f"{HEADER}\n# Title\n\n{words}\n\n" + "\n".join(CELL.format(cell) for cell in cells))
        return page

    return write


def test_a_run_serves_other_words_and_not_other_code(page):
    written = page("1 + 1")
    assert executed.useless(written) == "was not run yet"
    execute.run(written, executed.of_page(written), {})
    assert executed.useless(written) is None
    woven = executed.weave(page("1 + 1", words="*other* words"), executed.of_page(written))
    assert woven.cells[0].source == "# Title\n\n*other* words"
    assert woven.cells[1].outputs[0].data == {"text/plain": "2"}
    assert "of other code" in executed.useless(page("1 + 2"))


def test_a_cell_that_raises_is_kept_with_its_error(page):
    written = page("print('before')", "raise ValueError('no\\nsuch luck')", "print('after')")
    execute.run(written, executed.of_page(written), {})
    assert executed.failure(executed.of_page(written)) == "ValueError: no"
    assert executed.useless(written) == "did not run to its end (ValueError: no)"
    first, second, third = executed.weave(written, executed.of_page(written)).cells[1::1]
    assert (first.outputs[0].text, second.outputs[0].ename, third.outputs) == ("before\n", "ValueError", [])
    with pytest.raises(ValueError, match=r"page\.ipynb did not run to its end \(ValueError: no\)"):
        executed.faces(executed.of_page(written), "verdict")


def test_a_kernel_that_dies_is_a_failure(page):
    written = page("1", "import os\nos._exit(1)", "2")
    execute.run(written, executed.of_page(written), {})
    assert executed.failure(executed.of_page(written)).startswith("DeadKernelError")


def test_a_kernel_needs_no_port_that_another_program_might_take(page):
    written = page(
        "import json\nfrom ipykernel import connect\njson.loads(connect.get_connection_info())['transport']"
    )
    execute.run(written, executed.of_page(written), {})
    assert (
        executed.weave(written, executed.of_page(written)).cells[1].outputs[0].data["text/plain"] == "'ipc'"
    )


def test_a_long_tmpdir_is_no_place_for_sockets(page, tmp_path, monkeypatch):
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with execute._folder_for_sockets() as folder, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{folder}/socket-1")
    assert list(long.iterdir()) == []
    written = page("1 + 1")
    execute.run(written, executed.of_page(written), {})
    assert executed.useless(written) is None


def test_where_no_socket_can_be_made_is_said(monkeypatch, page):
    def no_sockets(*_):
        raise OSError("Operation not supported")

    monkeypatch.setattr(execute.socket, "socket", no_sockets)
    written = page("1 + 1")
    with pytest.raises(OSError, match=r"no folder for a kernel's sockets in .*/tmp.*: set TMPDIR"):
        execute.run(written, executed.of_page(written), {})


@pytest.fixture
def habits(tmp_path, monkeypatch):
    """An IPython of the user's that would change what a page prints and computes."""
    profile = tmp_path / "home" / ".ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "ipython_config.py").write_text("get_config().InteractiveShell.ast_node_interactivity = 'all'")
    (profile / "startup" / "00-mine.py").write_text("import numpy\nnumpy.set_printoptions(precision=2)")
    (tmp_path / "home" / "startup.py").write_text("import numpy\nnumpy.set_printoptions(precision=3)")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(profile.parent))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "home" / "startup.py"))
    yield
    assert list(profile.parent.rglob("history*")) == []


CELLS = ("1\n2", "import numpy\nnumpy.array([1 / 3])")
PRINTED = ["2", "array([0.33333333])"]


@pytest.mark.usefixtures("habits")
def test_a_run_is_deaf_to_the_users_ipython(page):
    written = page(*CELLS)
    execute.run(written, executed.of_page(written), {})
    woven = executed.weave(written, executed.of_page(written))
    assert [o.data["text/plain"] for cell in woven.cells[1:] for o in cell.outputs] == PRINTED


@pytest.mark.usefixtures("habits")
def test_nbval_is_deaf_to_the_users_ipython(tmp_path):
    cells = [
        nbformat.v4.new_code_cell(
            cell,
            execution_count=i,
            outputs=[nbformat.v4.new_output("execute_result", {"text/plain": printed}, execution_count=i)],
        )
        for i, (cell, printed) in enumerate(zip(CELLS, PRINTED, strict=True), 1)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "page.ipynb")
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_a_damaged_run_is_made_again(page):
    written = page("1 + 1")
    made = executed.of_page(written)
    execute.run(written, made, {})
    whole = made.read_text()
    for length in (0, 1, len(whole) // 2, len(whole) - 2):
        made.write_text(whole[:length])
        assert "damaged" in executed.useless(written)
    made.write_text("{}")
    assert "damaged" in executed.useless(written)
    made.write_text(whole.replace('"completed"', '"running"'))
    assert executed.useless(written) == "did not run to its end (it was cut off)"


def test_parameters_come_from_a_file(page, tmp_path):
    written = page("n: int = 1", "print(n)")
    written.write_text(
        written.read_text().replace("ipython3\nn: int", "ipython3\n:tags: [parameters]\nn: int")
    )
    (tmp_path / "parameters.yml").write_text("n: 7")
    command = [sys.executable, "-m", "fourfold.book.execute", str(written), str(tmp_path / "out.ipynb")]
    subprocess.run([*command, "-f", str(tmp_path / "parameters.yml")], check=True)
    (output,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs
    assert output.text == "7\n"
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_a_parameter_that_is_written_twice_stops_the_run(page, tmp_path):
    (tmp_path / "parameters.yml").write_text("n: 7\nn: 8\n")
    command = [sys.executable, "-m", "fourfold.book.execute", str(page("1")), str(tmp_path / "out.ipynb")]
    done = subprocess.run([*command, "-f", str(tmp_path / "parameters.yml")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "parameters.yml: not valid YAML" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.ipynb").exists()


def test_what_cannot_be_written_is_said_and_nothing_is_left(page, tmp_path):
    (tmp_path / "file").touch()
    command = [
        sys.executable,
        "-m",
        "fourfold.book.execute",
        str(page("1")),
        str(tmp_path / "file" / "out.ipynb"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "could not be run into" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_build_waits_for_the_first_and_a_dead_one_holds_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(snakemake, "BUILD", tmp_path)
    held = snakemake.lock()
    second = os.open(tmp_path / ".lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(held)
    os.close(second)
    os.close(snakemake.lock())
    assert capsys.readouterr().err == ""


def test_on_windows_a_build_says_what_is_supported():
    without = "import sys; sys.modules['fcntl'] = None; sys.platform = 'win32'"
    code = f"from fourfold.book import snakemake; {without}; snakemake.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "the book cannot be built here: fourfold runs on Linux and macOS, and on Windows within WSL\n"
    )


def test_discarded_is_what_is_useless_and_nothing_else(page, monkeypatch, capsys):
    written = page("1 + 1")
    made = executed.of_page(written)
    monkeypatch.setattr(executed.records, "chapters", list)
    monkeypatch.setattr(snakemake, "BUILD", executed.RUNS)
    monkeypatch.setattr(snakemake, "ROOT", executed.RUNS.parent)
    execute.run(written, made, {})
    executed.unfinished(made, 7).parent.mkdir()
    executed.unfinished(made, 7).touch()
    snakemake.discard()
    assert [file.name for file in executed.RUNS.iterdir()] == ["page.ipynb"]
    page("1 + 2")
    site = executed.RUNS / "html" / "index.html"
    site.parent.mkdir()
    site.touch()
    snakemake.discard()
    assert list(executed.RUNS.glob("*.ipynb")) == []
    assert site.stat().st_mtime == 1, "to Snakemake the site looks newer than all that it is made from"
    assert "runs/page.ipynb is damaged or of other code than its page has now; it is made again." in (
        capsys.readouterr().err
    )


def test_a_run_that_was_given_up_cannot_come_back(page, monkeypatch):
    written = page("1 + 1")
    made = executed.of_page(written)

    def given_up(*_, **__):
        monkeypatch.setattr(snakemake, "BUILD", executed.RUNS)
        monkeypatch.setattr(executed, "pages", list)
        snakemake.discard()

    monkeypatch.setattr(execute.papermill, "execute_notebook", given_up)
    with pytest.raises(FileNotFoundError):
        execute.run(written, made, {})
    assert list(executed.RUNS.iterdir()) == []
