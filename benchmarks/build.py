"""What a build costs, beside `jupyter nbconvert --execute` of the same notebooks one after another.

In one run, on fresh clones of the current commit with this environment: the book from nothing; with nothing
to do; after a change of words in one chapter; the HTML alone, from nothing. Then nbconvert over the chapters,
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

from fourfold import benchmark, book, records, run_log, runs

NBCONVERT = "nbconvert==7.17.2"
CHANGED = "notebooks/optics/convsharevit.md"
NOTHING, WORDS = "from nothing", "after a change of words in one chapter"


def main() -> None:
    """Measure, print and keep the rows."""
    rows: list[dict[str, Any]] = []

    def timed(who: str, what: str, *command: str, within: Path) -> None:
        start = time.perf_counter()
        subprocess.run(command, cwd=within, env=_environment(within), check=True, capture_output=True)
        rows.append({"who": who, "what": what, "seconds": round(time.perf_counter() - start, 1)})
        print(f"{rows[-1]['seconds']:8.1f} s  {who}: {what}", flush=True)

    with TemporaryDirectory() as folder:
        ours = _clone(Path(folder) / "ours")
        timed("now", NOTHING, "make", "book", within=ours)
        rows[-1]["chapters"] = _chapters(ours / "_build" / "runs")
        timed("now", "with nothing to do", "make", "book", within=ours)
        _change_words(ours)
        timed("now", WORDS, "make", "book", within=ours)
        (ours / "_build" / "html.made-from").unlink()
        timed("now", "the HTML alone", sys.executable, "-m", "fourfold.book", "html", within=ours)

        theirs = _clone(Path(folder) / "theirs")
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
        benchmark.keep("build", rows, nbconvert=NBCONVERT)


def _clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(records.ROOT), str(folder)], check=True)
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
    (folder / "lib" / "python3.11" / "site-packages" / "book.pth").write_text(sysconfig.get_path("purelib"))
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
    return {r.slug: run_log.seconds(folder / r.part / f"{r.slug}.ipynb") for r in records.chapters()}


def _cells_that_differ(one: Path, other: Path) -> int:
    """Cells whose compared text differs; pictures are never compared."""
    cells = [runs.code_cells(nbformat.read(notebook, as_version=4)) for notebook in (one, other)]
    return sum(
        _text(mine) != _text(yours)
        for mine, yours in zip(*cells, strict=True)
        if book.IGNORED not in mine.metadata.get("tags", ())
    )


def _text(cell: nbformat.NotebookNode) -> list[str]:
    return [str(o.get("text") or o.get("data", {}).get("text/plain")) for o in cell.outputs]


if __name__ == "__main__":
    main()
