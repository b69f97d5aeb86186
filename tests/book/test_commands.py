"""The book's chores: scaffolding, pairing, and refusing what is not whole."""

import base64
import io

import jupytext
import nbformat
import pytest
from PIL import Image

from fourfold.book import commands
from fourfold.judging import parameters, records
from fourfold.recorded import executed

RECORD = records.load("convsharevit")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A project folder of its own, with the real templates."""
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    monkeypatch.setattr(executed, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def test_scaffold_has_the_records_parameters_and_a_cell_for_each_claim(places):
    made = commands.new("convsharevit")
    assert [str(path.relative_to(places)) for path in made] == [
        "notebooks/optics/convsharevit.md",
        "src/fourfold/optics/convsharevit.py",
        "tests/optics/test_convsharevit.py",
    ]
    cells = jupytext.read(made[0], fmt="md:myst").cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert code[0] == parameters.cell(RECORD)
    for claim in RECORD.claims:
        assert any(f"{claim.id!r}," in source for source in code)
    compile("\n".join(code), "scaffold", "exec")
    with pytest.raises(ValueError, match=r"already there: notebooks/optics/convsharevit\.md"):
        commands.new("convsharevit")


def test_scaffold_waits_for_thresholds(monkeypatch):
    monkeypatch.setattr(records.Record, "has_chapter", False)
    with pytest.raises(ValueError, match="no criteria, controls and parameters yet"):
        commands.new("convsharevit")


def picture(grey, size=(80, 40), dots=()):
    """A PNG of one shade with black dots, as a notebook carries it."""
    image, file = Image.new("L", size, grey), io.BytesIO()
    for dot in dots:
        image.putpixel(dot, 0)
    image.save(file, "png")
    return base64.b64encode(file.getvalue()).decode("ascii")


@pytest.fixture
def chapter(tmp_path):
    """A chapter of two cells and its executed copy."""
    header = "---\nkernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\n---\n"
    compared = "```{code-cell} ipython3\n1 + 1\n```\n"
    drawn = "```{code-cell} ipython3\n:tags: [nbval-ignore-output]\n\nplot\n```\n"
    markdown = tmp_path / "chapter.md"
    markdown.write_text(f"{header}\n# Title\n\n{compared}\n{drawn}")
    ran = jupytext.read(markdown, fmt="md:myst")
    data = {"text/plain": "2", "text/html": "<b>2</b>", "image/png": picture(200)}
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    for cell in code:
        output = nbformat.v4.new_output("execute_result", data, metadata={"fourfold": {}}, execution_count=9)
        cell.outputs = [output, nbformat.v4.new_output("stream", text="hello\n")]
    executed = tmp_path / "executed.ipynb"
    nbformat.write(ran, executed)
    return markdown, executed


def test_pair_keeps_what_is_compared_and_drops_the_rest(chapter):
    markdown, executed = chapter
    title, first, second = commands.pair(markdown, executed).cells
    assert title.cell_type == "markdown"
    assert (first.execution_count, first.outputs[0].execution_count) == (1, 1)
    assert first.outputs[0].data == {"text/plain": "2", "text/html": "<b>2</b>"}
    assert first.outputs[0].metadata == {}
    assert first.outputs[1].text == "hello\n"
    assert second.execution_count == 2
    assert [output.data for output in second.outputs] == [{"text/plain": "2", "image/png": picture(200)}]


def test_a_pair_does_not_show_where_a_stream_was_cut(chapter):
    markdown, ran = chapter
    notebook = nbformat.read(ran, as_version=4)
    pieces = [("stdout", "one\n"), ("stdout", "two\n"), ("stderr", "three\n"), ("stdout", "four\n")]
    notebook.cells[1].outputs[1:] = [
        nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces
    ]
    nbformat.write(notebook, ran)
    result, *streams = commands.pair(markdown, ran).cells[1].outputs
    assert result.data["text/plain"] == "2"
    assert [(output.name, output.text) for output in streams] == [
        ("stdout", "one\ntwo\n"),
        ("stderr", "three\n"),
        ("stdout", "four\n"),
    ]


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (picture(200, dots=[(3, 3)]), True),  # a line that moved by less than a pixel
        (picture(200, dots=[(x, 3) for x in range(20)]), False),
        (picture(200, size=(80, 42)), False),
    ],
)
def test_a_pair_keeps_a_picture_until_it_looks_different(chapter, before, kept):
    markdown, executed = chapter
    pair = commands.pair(markdown, executed)
    pair.cells[2].outputs[0].data["image/png"] = before
    nbformat.write(pair, markdown.with_suffix(".ipynb"))
    (output,) = commands.pair(markdown, executed).cells[2].outputs
    assert (output.data["image/png"] == before) is kept


def test_pair_is_stable_and_refuses_an_execution_of_other_code(chapter):
    markdown, executed = chapter
    nbformat.write(commands.pair(markdown, executed), markdown.with_suffix(".ipynb"))
    before = markdown.with_suffix(".ipynb").read_bytes()
    nbformat.write(commands.pair(markdown, executed), markdown.with_suffix(".ipynb"))
    assert markdown.with_suffix(".ipynb").read_bytes() == before
    markdown.write_text(markdown.read_text().replace("1 + 1", "1 + 2"))
    with pytest.raises(ValueError, match=r"executed from other code than chapter\.md"):
        commands.pair(markdown, executed)


def test_bibtex_of_a_paper():
    entry = commands.bibtex(RECORD)
    assert entry.startswith("@misc{convsharevit,")
    assert "eprint = {2504.11517}" in entry
    assert "author = {R. Ibadulla and T. M. Chen and C. C. Reyes-Aldasoro}" in entry
