"""Full runs: the record's full parameters out, the verdicts of a long run in.

``data/full/<slug>.json`` keeps what a chapter said at its full parameters, where and when it ran, and a
hash of every source that its numbers came from. A source that has changed since makes the row stale.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

import jupytext
import yaml
from typing_extensions import TypedDict

from fourfold import ledger, records, runs
from fourfold import sources as dependencies
from fourfold.machine import Machine

FULL_RUNS = records.ROOT / "data" / "full"


class Verdict(TypedDict):
    """What the judge said of a claim, as far as pages read it."""

    claim: str
    verdict: ledger.Word


class Run(Machine):
    """What ``data/full/<slug>.json`` holds."""

    paper: str
    parameters: dict[str, Any]
    profile: Literal["full"]
    seconds: int
    sources: dict[str, str]
    verdicts: list[Verdict]
    data: dict[str, Any]


def parameters_file(slug: str) -> str:
    """The chapter's full parameters as YAML, for ``papermill -f``."""
    record = records.load(slug)
    return yaml.safe_dump({name: spec.full for name, spec in record.parameters.items()}, sort_keys=False)


def _experiment(slug: str, part: str) -> str:
    """The notebook's code, without parameters, figures and IPython magics."""
    text = (records.ROOT / "notebooks" / part / f"{slug}.md").read_text(encoding="utf-8")
    cells = jupytext.reads(text, fmt="md:myst").cells
    skip = {"parameters", "nbval-ignore-output"}
    return "\n".join(
        c.source for c in cells if c.cell_type == "code" and not skip & set(c.metadata.get("tags", []))
    )


def sources(slug: str) -> dict[str, str]:
    """name -> hash of everything that the chapter's numbers depend on.

    The chapter's experiment, its claims' criteria, and what the experiment reaches in our modules; figures
    change no number.
    """
    record = records.load(slug)
    criteria = json.dumps([c.model_dump(include={"id", "criteria", "controls"}) for c in record.claims])
    return dependencies.hashes("notebook", _experiment(slug, record.part)) | {
        "record": dependencies.digest(criteria)
    }


def keep(slug: str, notebook: Path) -> Path:
    """Write ``data/full/<slug>.json`` from a chapter executed at its full parameters.

    Raises:
        ValueError: if the notebook failed, or ran with other parameters than the record's full ones.
    """
    (run,) = runs.faces(notebook, "run")
    if run["profile"] != "full":
        raise ValueError(
            f"{slug} ran with {run['profile']} parameters; a full run uses the record's full ones"
        )
    entry = {
        **{key: value for key, value in run.items() if key != "kind"},
        "seconds": round(runs.seconds(notebook)),
        "sources": sources(slug),
        "verdicts": runs.faces(notebook, "verdict"),
        "data": {face["name"]: face["data"] for face in runs.faces(notebook, "data")},
    }
    path = FULL_RUNS / f"{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line for each innermost list, not for each of its numbers.
    text = re.sub(
        r"\[[^\[\]{}]*\]",
        lambda found: " ".join(found[0].split()),
        json.dumps(entry, indent=1, ensure_ascii=False),
    )
    path.write_text(text + "\n", encoding="utf-8")
    return path


def load(slug: str) -> dict[str, Any] | None:
    """The recorded full run with ``stale``: the names of sources that changed since; None if never run.

    Raises ``RecordError`` naming the file if it is not a whole `Run`.
    """
    path = FULL_RUNS / f"{slug}.json"
    if not path.is_file():
        return None
    entry = records.read_run(path, Run)
    entry["stale"] = dependencies.changed(entry["sources"], sources(slug))
    return entry
