"""What a build costs: before runs belonged to a page's code, now, and by `jupyter nbconvert --execute`.

In one run, on fresh clones with this environment: the book from nothing; with nothing to do; after a change
of words in one chapter; the HTML alone, from nothing. Then nbconvert over the chapters one after another,
which is all that it does: no ledger, no HTML. What it computed is compared with ours, cell by cell.
"""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat

from fourfold.book import commands, run_log
from fourfold.judging import records
from fourfold.recorded import benchmark, executed

NBCONVERT = "nbconvert==7.17.2"
CHANGED = "notebooks/optics/convsharevit.md"
BEFORE = "f61d261aa97ecbed2c965f0b3688528841cf0c77"
"""The last commit at which a change of words ran a page again, by two programs, and wrote every page."""
NOTHING, WORDS = "from nothing", "after a change of words in one chapter"


def main() -> None:
    """Measure, print and keep the rows."""
    rows: list[dict[str, Any]] = []

    def timed(who: str, what: str, *command: str, within: Path) -> None:
        start = time.perf_counter()
        subprocess.run(command, cwd=within, env=_environment(within), check=True, capture_output=True)
        rows.append({"who": who, "what": what, "seconds": round(time.perf_counter() - start, 1)})
        print(f"{rows[-1]['seconds']:8.1f} s  {who}: {what}", flush=True)

    def build(who: str, clone: Path, chapters: Path) -> None:
        timed(who, NOTHING, "make", "book", within=clone)
        rows[-1]["chapters"] = _chapters(chapters)
        timed(who, "with nothing to do", "make", "book", within=clone)
        _change_words(clone)
        timed(who, WORDS, "make", "book", within=clone)
        (clone / "_build" / "html.made-from").unlink(missing_ok=True)
        timed(who, "the HTML alone", sys.executable, "-m", "fourfold.book", "html", within=clone)

    with TemporaryDirectory() as folder:
        before = _clone(Path(folder) / "before", BEFORE)
        build("before", before, before / "book" / "chapters")
        ours = _clone(Path(folder) / "ours", "HEAD")
        build("now", ours, ours / "_build" / "runs")

        theirs = _clone(Path(folder) / "theirs", "HEAD")
        nbconvert = _peer(Path(folder) / "peer")
        chapters, differ = [], 0
        for record in records.chapters():
            options = "--execute", "--to", "notebook", "--output", "done.ipynb"
            notebook = f"notebooks/{record.part}/{record.slug}.ipynb"
            timed("nbconvert", notebook, nbconvert, *options, notebook, within=theirs)
            chapters.append(rows.pop()["seconds"])
            differ += _cells_that_differ(
                theirs / "notebooks" / record.part / "done.ipynb",
                ours / "_build" / "runs" / record.part / f"{record.slug}.ipynb",
            )
        spent = round(sum(chapters), 1)
        rows.append({"who": "nbconvert", "what": NOTHING, "seconds": spent, "cells_that_differ": differ})
        print(
            f"{spent:8.1f} s  nbconvert: all chapters; {differ} compared cells differ from ours", flush=True
        )
        benchmark.keep("build", rows, nbconvert=NBCONVERT, before=BEFORE)


def _clone(folder: Path, commit: str) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(records.ROOT), str(folder)], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=folder, check=True)
    (folder / ".venv").symlink_to(Path(sys.prefix).resolve())
    # Older than the environment, which is not made anew: that is not what is timed.
    for made_from in [
        *folder.glob("requirements*.lock"),
        *folder.glob("postBuild"),
        folder / "pyproject.toml",
    ]:
        os.utime(made_from, (0, 0))
    return folder


def _peer(folder: Path) -> str:
    """nbconvert in an environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", NBCONVERT], check=True)
    # Its kernel is its own Python, which sees the book's packages behind nbconvert's.
    (library,) = folder.glob("lib/python3.*/site-packages")
    (library / "book.pth").write_text(sysconfig.get_path("purelib"))
    return str(folder / "bin" / "jupyter-nbconvert")


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "JUPYTER_PATH": str(folder / "workflow" / "jupyter"),
    }


def _change_words(folder: Path) -> None:
    page = folder / CHANGED
    words = page.read_text(encoding="utf-8")
    more = words.replace("## The idea\n", "## The idea\n\nOne more line of words.\n", 1)
    page.write_text(more, encoding="utf-8")


def _chapters(folder: Path) -> dict[str, dict[str, float]]:
    """Of the chapters that there were."""
    ran = {record.slug: folder / record.part / f"{record.slug}.ipynb" for record in records.chapters()}
    return {slug: run_log.seconds(path) for slug, path in ran.items() if path.is_file()}


def _cells_that_differ(one: Path, other: Path) -> int:
    """Cells whose compared text differs; pictures are never compared."""
    cells = [executed.code_cells(nbformat.read(notebook, as_version=4)) for notebook in (one, other)]
    return sum(
        _text(mine) != _text(yours)
        for mine, yours in zip(*cells, strict=True)
        if commands.IGNORED not in mine.metadata.get("tags", ())
    )


def _text(cell: nbformat.NotebookNode) -> list[str]:
    return [str(o.get("text") or o.get("data", {}).get("text/plain")) for o in cell.outputs]


if __name__ == "__main__":
    main()
