"""A small book: fourfold's own machinery around three tiny papers, built in seconds in a folder of its own.

What the real book is built with is copied from the repository and not rewritten: sources, Snakefile,
profiles, Makefile, settings, the ledger and the run log. ``small/`` is laid over the copy and holds three
papers with chapters, one without, and a first page.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jupytext
import nbformat
import yaml
from bs4 import BeautifulSoup

from fourfold.judging import records
from fourfold.recorded import executed

OVERLAY = Path(__file__).parent / "small"
MACHINERY = (
    "Makefile",
    "CITATION.cff",
    "pyproject.toml",
    "requirements.lock",
    "requirements-cpu.lock",
    "postBuild",
    "_config.yml",
    "workflow",
    "book/404.html",
    "book/_static",
    "book/_templates",
    "book/bibliography.md",
    "book/references.bib",
    "notebooks/ledger.md",
    "notebooks/run_log.md",
)
MAKES_OWN = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "MAKE_TERMOUT", "MAKE_TERMERR")
Ran = subprocess.CompletedProcess[str]
CHAPTERS = ("optics/rounding", "frequency/parseval", "theory/dice")
COLLECTED = ("ledger", "run_log")


@dataclass(frozen=True)
class SmallBook:
    """A small book in the folder ``root``. It is built by this interpreter, through ``make book``."""

    root: Path
    inside: tuple[str, ...] = ()
    """What puts a command into a namespace of its own, if the book is in one."""

    @property
    def tally(self) -> Path:
        """Where chapters note that they started; beside the book, so that no fault in it loses a line."""
        return self.root.with_name(f"{self.root.name}.tally")

    @property
    def html(self) -> Path:
        return self.root / "_build" / "html"

    def environment(self, **changes: str) -> dict[str, str]:
        """What every command of this book runs with."""
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "src"),
            "JUPYTER_PATH": str(self.root / "workflow" / "jupyter"),
            "FOURFOLD_TALLY": str(self.tally),
        }
        # A make that runs these tests must not pass its level, flags and job server on to this book's make.
        outside = {name: value for name, value in os.environ.items() if name not in MAKES_OWN}
        return {**outside, **own, **changes}

    def start(
        self, *command: str | Path, env: Mapping[str, str] = MappingProxyType({}), **popen: Any
    ) -> subprocess.Popen[str]:
        """Start a command in the book's folder, in a process group of its own."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            [*self.inside, "env", f"--chdir={self.root}", *command],
            env=self.environment(**env),
            start_new_session=True,
            **(streams | popen),
        )

    def run(self, *command: str | Path, env: Mapping[str, str] = MappingProxyType({})) -> Ran:
        """Run a command in the book's folder to its end."""
        process = self.start(*command, env=env)
        out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def build(
        self, *arguments: str, env: Mapping[str, str] = MappingProxyType({}), check: bool = True
    ) -> Ran:
        """``make book``; raises ``AssertionError`` with all it said if it should succeed and does not."""
        built = self.run("make", "book", *arguments, env=env)
        assert not check or built.returncode == 0, f"{built.returncode}\n{built.stdout}\n{built.stderr}"
        return built

    def executed(self, chapter: str) -> Path:
        """Where the run of a page lies: ``theory/dice``, or ``ledger``."""
        return self.root / executed.RUNS.relative_to(records.ROOT) / f"{chapter}.ipynb"

    def ledger(self) -> bytes:
        """The ledger that the site offers, and every verdict in full precision."""
        verdicts = {chapter: faces(self.executed(chapter), "verdict") for chapter in CHAPTERS}
        return b"\n".join(
            [
                (self.html / "downloads" / "ledger.csv").read_bytes(),
                (self.html / "downloads" / "ledger.json").read_bytes(),
                json.dumps(verdicts, indent=1).encode(),
            ]
        )

    def verdicts(self) -> dict[str, str]:
        """Claim -> all that the book says of it: row of the ledger, cards, faces in full precision."""
        rows = json.loads((self.html / "downloads" / "ledger.json").read_text(encoding="utf-8"))
        said = {f"{row['slug']} {row['claim']}": [row] for row in rows}
        for chapter in CHAPTERS:
            page = (self.html / "chapters" / f"{chapter}.html").read_text(encoding="utf-8")
            for card in BeautifulSoup(page, "html.parser").select("div.verdict"):
                said[" ".join(str(card["id"]).split("-"))].append(str(card))
            run = self.executed(chapter)
            for face in faces(run, "verdict") if run.exists() else ():
                said[f"{face['paper']} {face['claim']}"].append(face)
        return {claim: json.dumps(all_of_it) for claim, all_of_it in said.items()}

    def lost(self, reference: "SmallBook") -> int:
        """How many claims of an undisturbed book this one says nothing of, or something else."""
        here = self.verdicts()
        return sum(here.get(claim) != said for claim, said in reference.verdicts().items())

    def started(self) -> Counter[str]:
        """How often each chapter has started to run since the book was made."""
        return Counter(self.tally.read_text(encoding="utf-8").split() if self.tally.exists() else ())

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that stands once in a file of the book."""
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def copy(self, root: Path) -> "SmallBook":
        """A copy of the book as it stands, built or not, with the times of its files."""
        shutil.copytree(self.root, root, symlinks=True)
        return SmallBook(root)


def make(root: Path) -> SmallBook:
    """A small book, not built yet, in the folder ``root``, which must not exist."""
    modules = [f"{part}/*.py" for part in records.PARTS]

    def papers(folder: str, names: list[str]) -> set[str]:
        here = Path(folder)
        mine = {n for n in names if here.name in records.PARTS and any((here / n).match(m) for m in modules)}
        return (mine - {"__init__.py"}) | ({"__pycache__"} & set(names))

    shutil.copytree(records.ROOT / "src" / "fourfold", root / "src" / "fourfold", ignore=papers)
    for name in MACHINERY:
        source, target = records.ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    shutil.copytree(OVERLAY, root, dirs_exist_ok=True)

    for chapter in CHAPTERS:
        part, slug = chapter.split("/")
        markdown = root / "notebooks" / f"{chapter}.md"
        nbformat.write(jupytext.read(markdown), markdown.with_suffix(".ipynb"))
        test = root / "tests" / part / f"test_{slug}.py"
        test.parent.mkdir(parents=True)
        test.write_text(f'"""{slug} is there to be interrupted, not to be tested."""\n', encoding="utf-8")
    pages = [*CHAPTERS, *COLLECTED]
    toc = {
        "format": "jb-book",
        "root": "index",
        "parts": [
            {
                "caption": "All",
                "chapters": [{"file": name} for name in ("how_to_read_a_verdict", "bibliography")]
                + [{"file": f"chapters/{page}"} for page in pages],
            }
        ],
    }
    (root / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")
    # Drawing the cover takes seconds and says nothing of a verdict.
    generated = root / "book" / "_generated"
    generated.mkdir()
    (generated / "cover.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'></svg>\n", encoding="utf-8")
    (generated / "card.png").touch()
    # The environment that `make` would make is the one that runs the tests.
    (root / ".venv").mkdir()
    (root / ".venv" / ".ready").touch()
    return SmallBook(root)


def faces(notebook: Path, kind: str) -> list[dict[str, Any]]:
    """The machine faces of one kind in a notebook, whether it ran to its end or not."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    found = [output.get("metadata", {}).get("fourfold", {}) for output in outputs]
    return [face for face in found if face.get("kind") == kind]
