"""The house: who may import whom, and where things lie."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

from fourfold.judging import records

SOURCE = records.ROOT / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "fourfold").rglob("*.py"))
}
PAPERS = {f"fourfold.{record.part}.{record.slug}" for record in records.chapters()}


def imported(path: Path) -> set[str]:
    """The modules of ours that a module imports, at its top or later; types alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in inside}
    return found & MODULES.keys()


GRAPH = {name: imported(path) for name, path in MODULES.items()}


def test_no_module_imports_itself_through_others():
    graphlib.TopologicalSorter(GRAPH).prepare()


def test_a_parts_folder_holds_papers_and_every_chapter_has_its_module():
    there = {name for name in MODULES if name.count(".") == 2 and name.split(".")[1] in records.PARTS}
    assert there == PAPERS


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_a_paper_imports_no_other_paper(paper):
    assert not GRAPH[paper] & PAPERS


def test_the_laboratory_does_not_know_the_press():
    press = {name for name in MODULES if name.startswith("fourfold.book")}
    outside = {name: GRAPH[name] & press for name in MODULES.keys() - press}
    assert not {name: found for name, found in outside.items() if found}


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "notebooks/robustness.md"])
def test_a_document_names_files_that_are_there(document):
    text = (records.ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:tests|src/fourfold|book|workflow|benchmarks)/[\w/]+\.\w+", text))
    assert named
    assert not {name for name in named if not (records.ROOT / name).is_file()}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_a_document_names_modules_that_are_there(document):
    text = (records.ROOT / document).read_text(encoding="utf-8")
    for name in re.findall(r"`(fourfold(?:\.\w+)+)`", text):
        folder = SOURCE.joinpath(*name.split("."))
        known = name in MODULES or folder.is_dir()
        assert known or name.rpartition(".")[0] in MODULES, name
