"""One paper, one name, everywhere: records, notebooks, modules, tests, contents and pins agree."""

import ast
import base64
import json
import os
import re
import tomllib

import jupytext
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

from fourfold.book import commands, html
from fourfold.judging import parameters, records
from fourfold.judging.records import ROOT
from fourfold.recorded import executed

CHAPTERS = records.chapters()
SLUGS = [record.slug for record in CHAPTERS]


def committed(*folders):
    """The files of these folders but for what is generated; an exported tree has no git that would know."""
    generated = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file()):
        name = path.relative_to(ROOT)
        if not any(part.match(pattern) for part in (name, *name.parents) for pattern in generated):
            yield path


def names_in(folder, pattern):
    return {
        (path.parent.name, path.stem.removeprefix("test_"))
        for path in (ROOT / folder).glob(f"*/{pattern}")
        if path.parent.name in records.PARTS and path.stem != "__init__"
    }


def unshown(source):
    """The calls of a cell that keep or judge and that it does not show, by which they would reach no run."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    shown = [part for call in calls if ast.unparse(call.func) == "display" for part in call.args]
    match tree.body:
        case [*_, ast.Expr(value=last)]:
            shown.append(last)
    said = [call for call in calls if ast.unparse(call.func) in ("chapter.keep", "chapter.judge")]
    return [ast.unparse(call) for call in said if call not in shown]


@pytest.mark.parametrize(
    ("cell", "lost"),
    [
        ("a = [1]\nchapter.keep('a', a)", []),
        ("display(chapter.keep('a', [1]))\nplot()", []),
        ("chapter.keep('a', a)\nchapter.keep('b', b)", ["chapter.keep('a', a)"]),
        ("chapter.keep('a', a)\n\ndef late(): ...", ["chapter.keep('a', a)"]),
        ("if a:\n    chapter.keep('a', a)", ["chapter.keep('a', a)"]),
        ("said = chapter.judge('C1', {}, {})", ["chapter.judge('C1', {}, {})"]),
        ("", []),
    ],
)
def test_a_cell_shows_its_last_expression_and_what_it_displays(cell, lost):
    assert unshown(cell) == lost


def test_each_chapter_is_in_its_four_places_and_in_the_contents():
    expected = {(record.part, record.slug) for record in CHAPTERS}
    assert names_in("notebooks", "*.md") == expected
    assert names_in("notebooks", "*.ipynb") == expected
    assert names_in("src/fourfold", "*.py") == expected
    assert names_in("tests", "test_*.py") == expected
    in_toc = {
        tuple(f.split("/")[1:]) for f in html.toc_files() if f.startswith("chapters/") and f.count("/") == 2
    }
    assert in_toc == expected


def test_every_page_of_the_contents_has_a_source():
    made = {f"chapters/{r.part}/{r.slug}" for r in CHAPTERS}
    made |= {f"chapters/{page.stem}" for page in executed.NOTEBOOKS.glob("*.md")}
    prose = set(html.toc_files()) - made
    assert {str(p.relative_to(ROOT / "book").with_suffix("")) for p in (ROOT / "book").rglob("*.md")} == prose


@pytest.mark.parametrize("record", CHAPTERS, ids=SLUGS)
class TestChapter:
    @pytest.fixture
    def markdown(self, record):
        return record.notebook

    @pytest.fixture
    def cells(self, markdown):
        return jupytext.read(markdown, fmt="md:myst").cells

    def test_its_heading_begins_with_its_name(self, record, markdown):
        heading = next(line for line in markdown.read_text().splitlines() if line.startswith("# "))
        assert heading.startswith(f"# {record.name}: ")

    def test_it_explains_itself_and_says_what_surprised_and_what_it_cannot_show(self, markdown):
        headings = [line for line in markdown.read_text().splitlines() if line.startswith("## ")]
        assert headings[0] == "## The idea"
        assert headings[-2:] == ["## What surprised us", "## What small scale cannot show"]

    def test_the_pair_is_in_sync(self, record, markdown):
        kept, made = nbformat.read(markdown.with_suffix(".ipynb"), as_version=4), commands.pair(markdown)
        assert kept.metadata == made.metadata, "run make sync"
        for old, new in zip(kept.cells, made.cells, strict=True):
            tags = [cell.metadata.get("tags", []) for cell in (old, new)]
            assert (old.cell_type, old.source, tags[0]) == (new.cell_type, new.source, tags[1]), (
                "run make sync"
            )

    def test_the_pair_was_executed_and_carries_text_and_small_pictures_only(self, record, markdown):
        notebook = nbformat.read(markdown.with_suffix(".ipynb"), as_version=4)
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            assert cell.execution_count, "nbval compares nothing in a cell that was never executed"
            for output in cell.outputs:
                assert output.output_type in ("stream", "execute_result", "display_data")
                assert output.get("name") != "stderr", output
                drawn = commands.IGNORED in cell.metadata.get("tags", [])
                assert set(output.get("data", {})) <= {"text/plain", "image/png" if drawn else "text/html"}
                assert not output.get("metadata")

    def test_the_pair_shows_every_figure_in_150_kb(self, record, markdown):
        notebook = nbformat.read(markdown.with_suffix(".ipynb"), as_version=4)
        drawn = [c for c in notebook.cells if commands.IGNORED in c.metadata.get("tags", [])]
        pictures = [[out.data["image/png"] for out in cell.outputs if "data" in out] for cell in drawn]
        assert all(pictures), [c.source[:60] for c, p in zip(drawn, pictures, strict=True) if not p]
        assert sum(len(base64.b64decode(png)) for cell in pictures for png in cell) <= 150_000

    def test_it_shows_a_piece_of_its_mechanism(self, record, markdown):
        text = markdown.read_text(encoding="utf-8")
        (shown,) = re.findall(r"```\{literalinclude\} /\.\./(\S+)\n(.*?)```", text, flags=re.DOTALL)
        assert shown[0] == f"src/fourfold/{record.part}/{record.slug}.py"
        lines = (ROOT / shown[0]).read_text(encoding="utf-8").splitlines()
        if piece := re.search(r":pyobject: (\S+)", shown[1]):
            tree: ast.AST = ast.parse("\n".join(lines))
            for name in piece[1].split("."):
                tree = next(n for n in ast.iter_child_nodes(tree) if getattr(n, "name", None) == name)
            length = tree.end_lineno - tree.lineno + 1
        else:
            begin, end = (re.search(rf":{word}: (.+)", shown[1])[1] for word in ("start-at", "end-before"))
            first = next(i for i, line in enumerate(lines) if begin in line)
            last = next(i for i, line in enumerate(lines) if i > first and end in line)
            length = last - first
        assert 8 <= length <= 26

    def test_one_figure_is_its_headline(self, cells):
        (headline,) = [cell for cell in cells if "headline" in cell.metadata.get("tags", ())]
        assert "figures.show(" in headline.source

    def test_parameters_cell_is_the_records(self, record, cells):
        (cell,) = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
        assert cell.source == parameters.cell(record)
        validating = cells[cells.index(cell) + 1]
        assert f'open_chapter("{record.slug}", globals())' in validating.source

    def test_every_claim_with_criteria_is_judged_once_by_its_names(self, record, cells):
        source = "\n".join(c.source for c in cells if c.cell_type == "code")
        calls = [
            node for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "judge"
        ]  # fmt: skip
        assert sorted(call.args[0].value for call in calls) == sorted(
            c.id for c in record.claims if c.criteria
        )

    def test_figures_are_not_compared_and_nothing_else_is_skipped(self, record, cells):
        for cell in (c for c in cells if c.cell_type == "code"):
            ignored = commands.IGNORED in cell.metadata.get("tags", [])
            assert ignored or "figures.show(" not in cell.source, cell.source[:80]
            drawn = "figures." in cell.source or "explorer(" in cell.source
            assert drawn or not ignored, cell.source[:80]
            assert not ignored or "judge(" not in cell.source, cell.source[:80]

    def test_what_it_keeps_and_judges_is_shown(self, record, cells):
        assert [lost for cell in cells if cell.cell_type == "code" for lost in unshown(cell.source)] == []

    def test_verdicts_of_the_pair_are_what_its_record_says(self, record, markdown):
        text = "\n".join(
            output.data["text/plain"]
            for cell in nbformat.read(markdown.with_suffix(".ipynb"), as_version=4).cells
            for output in cell.get("outputs", [])
            if "data" in output
        )
        for claim in record.claims:
            for name, criterion in claim.criteria.items():
                assert re.search(
                    rf"criterion {name}: .*; threshold {re.escape(criterion.reproduced_if.text)}: ", text
                )
            for name, control in claim.controls.items():
                assert re.search(rf"control {name}: .*; must be {re.escape(control.fails_if.text)}: ", text)


def test_committed_outputs_tell_nothing_of_a_machine():
    for path in committed("notebooks", "data", "book"):
        text = path.read_text(encoding="utf-8", errors="ignore")
        assert not re.search(r"(^|[^A-Za-z0-9_.:/])/(home|root|work|tmp|Users)/", text), path
        if path.suffix == ".ipynb":
            outputs = [cell.get("outputs", []) for cell in json.loads(text)["cells"]]
            assert "Warning" not in json.dumps(outputs), path


def locked(name):
    """Name -> (version, hashes) of a file of pins in which nothing else stands but comments.

    Each name stands there once: another version for another Python would mean other numbers.
    """
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)
    pin = re.compile(
        r"^([a-z0-9._-]+)==(\S+)(?: ; [^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})*)\n", flags=re.M
    )
    assert pin.sub("", text) == ""
    pins = {package: (version, hashes.split()[1::2]) for package, version, hashes in pin.findall(text)}
    assert len(pins) == len(pin.findall(text))
    return pins


def test_every_pin_is_hashed_for_every_platform():
    lock, cpu = locked("requirements.lock"), locked("requirements-cpu.lock")
    assert [name for name, (_, hashes) in (lock | cpu).items() if not hashes] == []
    # A package with compiled code has a file for each platform: the hash of one would lock out the others.
    assert min(len(lock[name][1]) for name in ("numpy", "pandas", "scikit-image", "scipy", "torch")) > 4
    # What PyPI's build of torch for Linux brings along belongs to no other build.
    assert [name for name in lock if re.match("nvidia|cuda|triton", name)] == []
    assert cpu.keys() == {"torch"}
    assert cpu["torch"][0] == f"{lock['torch'][0]}+cpu"


def test_lock_environment_and_project_agree():
    pins = {name: version for name, (version, _) in locked("requirements.lock").items()}
    assert not [pin for pin in pins.values() if "+" in pin], "a local build is not a pin"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[wanted.name.lower()]), (
            f"{line} but the lock has {pins[wanted.name]}"
        )
    assert os.access(ROOT / "postBuild", os.X_OK)


def test_every_place_names_the_same_pythons():
    def text(name):
        return (ROOT / name).read_text(encoding="utf-8")

    wanted = tomllib.loads(text("pyproject.toml"))
    oldest, above = re.fullmatch(r">=(3\.\d+\.\d+),<(3\.\d+)", wanted["project"]["requires-python"]).groups()
    first, last = (int(version.split(".")[1]) for version in (oldest, above))
    minors = [f"3.{minor}" for minor in range(first, last)]
    assert wanted["tool"]["ruff"]["target-version"] == f"py3{first}"
    makefile = text("Makefile")
    newest_first = " ".join(f"python{minor}" for minor in reversed(minors))
    assert f"PYTHONS = {newest_first} python3\n" in makefile
    numbers = [f"({version.replace('.', ', ')})" for version in (oldest, above)]
    assert f"not {numbers[0]} <= sys.version_info < {numbers[1]}" in makefile
    assert f"--python-version {oldest} " in makefile
    assert f"from {oldest} to {minors[-1]} " in makefile
    environment = yaml.safe_load(text("environment.yml"))
    assert environment["dependencies"] == [f"python={minors[-1]}", "pip"], "postBuild installs the lock"
    image = json.loads(text(".devcontainer/devcontainer.json"))["image"]
    assert image.endswith(f"/python:{minors[-1]}")
    matrix = yaml.safe_load(text(".github/workflows/book.yml"))["jobs"]["build"]["strategy"]["matrix"]
    assert matrix["python"] == [minors[0], minors[-1]]
    for name in ("README.md", "book/how_to_rerun.md"):
        assert f"with Python {oldest} to {minors[-1]}, make and a network" in text(name)


# Of the Citation File Format 1.2.0, whose schema CI's own check has whole.
CFF = {
    *("cff-version", "title", "message", "type", "authors", "version", "date-released", "license"),
    *("abstract", "keywords"),
}


def test_citation_changelog_and_project_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation.keys() == CFF
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["authors"] == [{"name": "the fourfold authors"}]
    assert len(set(citation["keywords"])) == len(citation["keywords"])
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    papers = sum(not record.companion for record in records.load_all())
    assert f"{papers} papers" in citation["abstract"]
    assert f"{papers} papers" in project["description"]
    versions = [(version, date) for version, date, _ in changes()]
    assert versions[0] == (citation["version"], citation["date-released"].isoformat())


def changes():
    """The versions of the changelog with their dates and what stands below, the newest first."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    parts = re.split(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)\n", text, flags=re.M)
    return list(zip(parts[1::3], parts[2::3], parts[3::3], strict=True))


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.startswith("# Changelog\n")
    headings = re.findall(r"^## .*", text, flags=re.M)
    assert len(changes()) == len(headings), "a version is '## [1.2.3] - 2026-01-31'"
    numbers = [tuple(map(int, version.split("."))) for version, _, _ in changes()]
    dates = [date for _, date, _ in changes()]
    assert numbers == sorted(set(numbers), reverse=True)
    assert dates == sorted(dates, reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(set(re.findall(r"^### (.*)", said, flags=re.M)) <= kinds for _, _, said in changes())
    assert all("\n- " in said for _, _, said in changes())


def test_papers_import_shared_rooms_and_never_each_other():
    for record in CHAPTERS:
        path = ROOT / "src" / "fourfold" / record.part / f"{record.slug}.py"
        imported = {
            node.module or "" for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
        }  # fmt: skip
        assert not {m for m in imported if re.match(rf"fourfold\.({'|'.join(records.PARTS)})\b", m)}


def test_each_paper_is_in_the_bibliography_once():
    entries = "\n".join(commands.bibtex(record) for record in records.load_all())
    keys = re.findall(r"^@\w+\{(\w+),", entries + (ROOT / "book" / "references.bib").read_text(), flags=re.M)
    assert len(set(keys)) == len(keys)
    assert {record.slug for record in records.load_all()} <= set(keys)


@pytest.mark.parametrize("page", executed.pages(), ids=lambda page: page.stem)
def test_notebook_code_is_linted_and_formatted_like_all_other(page):
    assert commands.formatted(page) == page.read_text(encoding="utf-8"), "run make format"
