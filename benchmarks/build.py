"""What a build costs, and what `jupyter nbconvert --execute` does of it.

In one run, on fresh clones with this environment, one thread a process: the book from nothing; with nothing
to do; after a change of words in one chapter; the HTML alone, from nothing. Then nbconvert over the chapters
one after another, which is all that it does: no pages that collect, no ledger, no HTML. So it stands beside
the chapters alone, too: what went by in the book's own build until the last of them had run. What it computed
is compared with ours, cell by cell.
"""

import os
import subprocess
import sys
import sysconfig
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat

from fourfold.book import commands, run_log
from fourfold.judging import records
from fourfold.recorded import benchmark, executed

NBCONVERT = "nbconvert==7.17.2"


def main() -> None:
    """Measure, print and keep the rows."""
    chapters = records.chapters()
    rows: list[dict[str, Any]] = []

    def add(who: str, what: str, seconds: float, **more: Any) -> None:
        rows.append({"who": who, "what": what, "seconds": round(seconds, 1), **more})
        print(f"{seconds:8.1f} s  {who}: {what}", flush=True)

    with TemporaryDirectory() as folder:
        ours, theirs = (_clone(Path(folder) / name) for name in ("ours", "theirs"))
        runs = {r.slug: ours / executed.of(r).relative_to(records.ROOT) for r in chapters}
        started = datetime.now(UTC)
        book = _timed("make", "book", within=ours)
        seconds = {slug: run_log.seconds(run) for slug, run in runs.items()}
        add("now", run_log.NOTHING, book, chapters=seconds)
        add("now", "the chapters alone", (max(map(_ended, runs.values())) - started).total_seconds())
        add("now", "with nothing to do", _timed("make", "book", within=ours))
        _change_words(ours / chapters[0].notebook.relative_to(records.ROOT))
        add("now", run_log.WORDS, _timed("make", "book", within=ours))
        (ours / "_build" / "html.made-from").unlink()
        add("now", "the HTML alone", _timed(sys.executable, "-m", "fourfold.book", "html", within=ours))

        nbconvert = _peer(Path(folder) / "peer")
        spent, differ = 0.0, 0
        for record in chapters:
            options = "--execute", "--to", "notebook", "--output", "done.ipynb"
            notebook = theirs / record.notebook.relative_to(records.ROOT).with_suffix(".ipynb")
            spent += _timed(nbconvert, *options, str(notebook), within=theirs)
            print(f"{spent:8.1f} s  nbconvert, with {record.slug}", flush=True)
            differ += _cells_that_differ(notebook.with_name("done.ipynb"), runs[record.slug])
        add("nbconvert", "the chapters alone", spent, cells_that_differ=differ)
        benchmark.keep("build", rows, nbconvert=NBCONVERT)


def _timed(*command: str, within: Path) -> float:
    """Seconds that a command took."""
    start = time.perf_counter()
    subprocess.run(command, cwd=within, env=_environment(within), check=True, capture_output=True)
    return time.perf_counter() - start


def _ended(run: Path) -> datetime:
    """When a run had come to its end."""
    return datetime.fromisoformat(nbformat.read(run, as_version=4).metadata["papermill"]["end_time"])


def _clone(folder: Path) -> Path:
    """What is committed, with this environment."""
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
    (library,) = folder.glob("lib/python3.*/site-packages")
    (library / "book.pth").write_text(sysconfig.get_path("purelib"))
    return str(folder / "bin" / "jupyter-nbconvert")


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "JUPYTER_PATH": str(folder / "workflow" / "jupyter"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def _change_words(page: Path) -> None:
    words = page.read_text(encoding="utf-8")
    more = words.replace("## The idea\n", "## The idea\n\nOne more line of words.\n", 1)
    assert more != words
    page.write_text(more, encoding="utf-8")


def _cells_that_differ(one: Path, other: Path) -> int:
    """Cells whose compared text differs; pictures are never compared."""
    cells = [executed.code_cells(nbformat.read(notebook, as_version=4)) for notebook in (one, other)]
    return sum(
        _text(mine) != _text(yours)
        for mine, yours in zip(*cells, strict=True)
        if commands.IGNORED not in mine.metadata.get("tags", ())
    )


def _text(cell: nbformat.NotebookNode) -> str:
    """All that a cell says, whole: a kernel cuts what is printed into pieces anew in each run."""
    return "".join(str(o.get("text") or o.get("data", {}).get("text/plain")) for o in cell.outputs)


if __name__ == "__main__":
    main()
