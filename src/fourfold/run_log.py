"""The run log: how every chapter of this copy was run, and where its time went."""

from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from fourfold import book, full, ledger


def runs() -> pd.DataFrame:
    """A row for each executed chapter and each recorded full run: time, seeds, machine, versions."""
    rows = []
    for record in book.chapter_records():
        path = book.executed(record)
        (run,) = ledger.faces(path, "run")
        rows.append(_run(run, ledger.duration(path)))
        if recorded := full.load(record.slug):
            rows.append(_run(recorded, recorded["seconds"]))
    return pd.DataFrame(rows)


def costs() -> pd.DataFrame:
    """Seconds of each executed chapter by what they went into, the dearest chapter first, their sum last."""
    rows = {record.slug: seconds(book.executed(record)) for record in book.chapter_records()}
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("total", ascending=False)
    table.loc["all chapters"] = table.sum()
    return table.round(1)


def seconds(notebook: Path) -> dict[str, float]:
    """Seconds of one executed notebook.

    ``start-up`` is the kernel and papermill, ``imports`` the cells that import, ``figures`` those that draw,
    ``experiment`` the others.
    """
    node = nbformat.read(notebook, as_version=4)
    spent = {"imports": 0.0, "experiment": 0.0, "figures": 0.0}
    for cell in node.cells:
        if cell.cell_type == "code":
            kind = "imports" if cell.source.startswith(("import ", "from ")) else "experiment"
            if book.IGNORED in cell.metadata.get("tags", ()):
                kind = "figures"
            spent[kind] += cell.metadata["papermill"]["duration"]
    total = node.metadata["papermill"]["duration"]
    return {"total": total, "start-up": total - sum(spent.values()), **spent}


def _run(run: dict[str, Any], spent: float) -> dict[str, Any]:
    values = run["parameters"]
    first, number = values.get("seed"), values.get("seeds", 1)
    return {
        "chapter": run["paper"],
        "profile": run["profile"],
        "seconds": round(spent),
        "seeds": "–" if first is None else f"{first}" if number == 1 else f"{first} to {first + number - 1}",
        "started (UTC)": run["started"].removesuffix("+00:00").replace("T", " "),
        "processor": f"{run['processor']}, {run['cores']} cores",
        "Python": run["python"],
        **run["versions"],
    }
