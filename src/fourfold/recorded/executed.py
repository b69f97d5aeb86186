"""Runs: executed notebooks, where they lie, whether they came to their end, and what their cells say.

A run is made by `fourfold.book.execute` and says what happened, an error included: whoever reads
it asks `failure` first. It belongs to a page's code, not to its words, which `weave` puts around the outputs.
"""

from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from fourfold.judging import records
from fourfold.judging.records import Record

NOTEBOOKS = records.ROOT / "notebooks"
RUNS = records.ROOT / "_build" / "runs"


def pages() -> list[Path]:
    """The Markdown of every page that runs: chapters, then the pages that collect what was made elsewhere."""
    return [
        *(NOTEBOOKS / r.part / f"{r.slug}.md" for r in records.chapters()),
        *sorted(NOTEBOOKS.glob("*.md")),
    ]


def of(record: Record) -> Path:
    """Where the run of a chapter lies."""
    return RUNS / record.part / f"{record.slug}.ipynb"


def of_page(page: Path) -> Path:
    """Where the run of a page lies."""
    return (RUNS / page.relative_to(NOTEBOOKS)).with_suffix(".ipynb")


def unfinished(output: Path, process: int | str) -> Path:
    """The file that grows while ``process`` runs it, in a folder of its own beside ``output``.

    A kill leaves it behind. Who takes the folder away shuts out a process that lives on: it has nowhere to
    write, and nothing to put in the place of ``output``.
    """
    return output.with_name(f".{output.stem}.{process}.running") / output.name


def weave(page: Path, run: Path | None = None) -> NotebookNode:
    """A page's words with the outputs of its run.

    Raises:
        ValueError: if the run did not have the page's code.
    """
    woven = jupytext.read(page, fmt="md:myst")
    woven.metadata = {"kernelspec": woven.metadata["kernelspec"]}
    woven.nbformat, woven.nbformat_minor = 4, 5
    for i, cell in enumerate(woven.cells):
        cell.id = f"{cell.cell_type}-{i}"
    if run is not None:
        code, ran = code_cells(woven), code_cells(nbformat.read(run, as_version=4))
        if [cell.source for cell in code] != [cell.source for cell in ran]:
            raise ValueError(f"{run.name} was executed from other code than {page.name} has now")
        for cell, done in zip(code, ran, strict=True):
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
    return woven


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def failure(notebook: Path) -> str | None:
    """Why the notebook did not run to its end, in a line; None if it did."""
    code = code_cells(nbformat.read(notebook, as_version=4))
    for cell in code:
        for output in cell.outputs:
            if output.output_type == "error":
                return f"{output.ename}: {output.evalue}".splitlines()[0]
    # papermill marks an error in the notebook, and a kill only by cells that never completed.
    if any(cell.metadata.get("papermill", {}).get("status") != "completed" for cell in code):
        return "it was cut off"
    return None


def useless(page: Path) -> str | None:
    """Why the run of a page must be made again, in a line; None if it is whole and of today's code."""
    run = of_page(page)
    try:
        weave(page, run)
        why = failure(run)
        return why and f"did not run to its end ({why})"
    except FileNotFoundError:
        return "was not run yet"
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError):
        return "is damaged or of other code than its page has now"


def faces(notebook: Path, kind: str) -> list[dict[str, Any]]:
    """The machine faces of one kind (``"run"``, ``"verdict"``, ``"data"``) in an executed notebook, in order.

    Raises:
        ValueError: if the notebook did not run to its end under papermill.
    """
    if why := failure(notebook):
        raise ValueError(f"{notebook.name} did not run to its end ({why}); its verdicts are not used")
    found = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            face = output.get("metadata", {}).get("fourfold")
            if face and face["kind"] == kind:
                found.append(face)
    return found


def seconds(notebook: Path) -> float:
    """How long papermill took to execute a notebook, in seconds."""
    return nbformat.read(notebook, as_version=4).metadata["papermill"]["duration"]
