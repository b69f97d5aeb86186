"""The run log: how every chapter of this copy was run, and where its time went."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from fourfold.book import commands
from fourfold.judging import records
from fourfold.recorded import evidence, executed

KINDS = ("imports", "experiment", "figures")
NOTHING, WORDS = "from nothing", "after a change of words in one chapter"
"""What a whole build did, in the record of ``benchmarks/build.py``."""


def table() -> pd.DataFrame:
    """A row for each executed chapter and each recorded run: time, seeds, machine, versions."""
    rows = []
    for record in records.chapters():
        path = executed.of(record)
        if not executed.failure(path):
            (run,) = executed.faces(path, "run")
            rows.append(_run(run, executed.seconds(path)))
        for tier in evidence.TIERS:
            if kept := evidence.read(record.slug, tier):
                rows.append(_run(kept, kept["seconds"]))
    return pd.DataFrame(rows)


def failures() -> pd.Series:
    """Why chapters did not run to their end, by chapter; empty where all did."""
    everything = {record.slug: executed.failure(executed.of(record)) for record in records.chapters()}
    return pd.Series(everything, name="did not run to its end", dtype=object).dropna()


def costs() -> pd.DataFrame:
    """Seconds of each finished chapter by what they went into, the dearest chapter first, their sum last."""
    finished = [record for record in records.chapters() if not executed.failure(executed.of(record))]
    return _costs({record.slug: seconds(executed.of(record)) for record in finished}).round(1)


def _costs(chapters: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    columns = ["total", "start-up", *KINDS]
    table = pd.DataFrame.from_dict(dict(chapters), orient="index", columns=columns)
    table = table.sort_values("total", ascending=False)
    table.loc["all chapters"] = table.sum()
    return table


def builds() -> dict[str, Any] | None:
    """The record of ``benchmarks/build.py``: whole builds, and nbconvert; None if there is none."""
    path = records.ROOT / "data" / "benchmarks" / "build.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def build_seconds(record: Mapping[str, Any]) -> pd.DataFrame:
    """Seconds of whole builds: what was done (rows, in the order of timing), by the book and by nbconvert."""
    rows = pd.DataFrame(record["rows"])
    timed = rows.pivot(index="what", columns="who", values="seconds")
    timed = timed.loc[rows.what.unique(), ["now", "nbconvert"]].rename(columns={"now": "make book"})
    # Names of axes would be a second row of headings.
    return timed.rename_axis(index=None, columns=None)


def build_summary(record: Mapping[str, Any]) -> str:
    """What the whole builds add up to, in Markdown."""
    ours = build_seconds(record)["make book"]
    (theirs,) = (row for row in record["rows"] if row["who"] == "nbconvert")
    times = theirs["seconds"] / ours
    return (
        f"Seconds for {len(_chapters(record))} chapters. nbconvert takes "
        f"**{times[theirs['what']]:.1f} times** as long as the same chapters within `make book`, "
        f"**{times[NOTHING]:.1f} times** as long as all of `make book` from nothing, "
        f"**{times[WORDS]:.0f} times** as long as after a change of words. "
        f"Compared cells in which its results and ours differ: {theirs['cells_that_differ']}. "
        f"Timed on {record['started'][:10]}: {record['processor']}, {record['cores']} cores."
    )


def build_costs(record: Mapping[str, Any]) -> pd.DataFrame:
    """Seconds of each chapter in the build from nothing, by what they went into; their sum last."""
    return _costs(_chapters(record))


def _chapters(record: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    (ran,) = (row["chapters"] for row in record["rows"] if row["who"] == "now" and "chapters" in row)
    return ran


def seconds(notebook: Path) -> dict[str, float]:
    """Seconds of one executed notebook.

    ``start-up`` is the kernel and papermill, ``imports`` the cells that import, ``figures`` those that draw,
    ``experiment`` the others.
    """
    node = nbformat.read(notebook, as_version=4)
    spent = dict.fromkeys(KINDS, 0.0)
    for cell in node.cells:
        if cell.cell_type == "code":
            kind = "imports" if cell.source.startswith(("import ", "from ")) else "experiment"
            if commands.IGNORED in cell.metadata.get("tags", ()):
                kind = "figures"
            spent[kind] += cell.metadata["papermill"]["duration"]
    total = node.metadata["papermill"]["duration"]
    return {"total": total, "start-up": total - sum(spent.values()), **spent}


def _run(run: dict[str, Any], spent: float) -> dict[str, Any]:
    values = run["parameters"]
    return {
        "chapter": run["paper"],
        "profile": run["profile"],
        "seconds": round(spent),
        "seeds": evidence.seeds(values),
        "started (UTC)": run["started"].removesuffix("+00:00").replace("T", " "),
        "processor": f"{run['processor']}, {run['cores']} cores",
        "Python": run["python"],
        **run["versions"],
    }
