"""The fault matrix: what was done to the book's build, how often, and what was lost.

The tests of ``tests/robust`` note in pytest's JUnit file what they did and measured;
``python -m fourfold.recorded.faults keep FILE`` records it with date and machine in ``data/faults.json``.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from fourfold.judging import records
from fourfold.recorded.machine import machine

KEPT = records.ROOT / "data" / "faults.json"
SURVIVED = "survived"


def read(junit: Path) -> list[dict[str, Any]]:
    """The faults in a JUnit file, in its order.

    A row is what the test noted, its module as ``group``, and its ``outcome``. A test that notes no fault
    gives no row, unless it failed.

    Raises:
        ValueError: if the file is no JUnit file, or has no fault.
    """
    try:
        cases = list(ElementTree.parse(junit).iter("testcase"))
    except ElementTree.ParseError as error:
        raise ValueError(f"{junit} is not a JUnit file: {error}") from error
    found = []
    for case in cases:
        # A test notes what it does, and later once more with what it measured.
        noted = [p.attrib["value"] for p in case.iter("property") if p.attrib["name"] == "fault"]
        outcome = _outcome(case)
        if noted or outcome.startswith("failed"):
            row = json.loads(noted[-1]) if noted else {"fault": case.attrib["name"], "how": ""}
            found.append(row | {"group": case.attrib["classname"].rpartition("test_")[2], "outcome": outcome})
    if not found:
        raise ValueError(f"{junit} has no faults; it is written by make faults")
    return found


def keep(junit: Path) -> Path:
    """Write ``data/faults.json`` from a JUnit file. Raises ``ValueError`` as `read` does."""
    entry = {**machine(), "faults": read(junit)}
    KEPT.write_text(json.dumps(entry, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return KEPT


def load() -> dict[str, Any] | None:
    """The record: `machine`'s entries, and under ``faults`` what `read` returned; None if there is none."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else None


def summary(faults: list[dict[str, Any]]) -> str:
    """What all faults add up to, in a few sentences."""

    def total(name: str) -> int:
        return sum(row.get(name) or 0 for row in faults)

    outcomes = Counter(row["outcome"].partition(":")[0] for row in faults)
    return (
        f"{len(faults)} tests made {total('times')} faults. "
        f"Verdicts lost or changed: {total('lost')}. Chapters run again: {total('repeated')}. "
        f"Tests failed: {outcomes['failed']}, not tried: {outcomes['not tried']}."
    )


def table(faults: list[dict[str, Any]]) -> pd.DataFrame:
    """The fault matrix as a reader sees it, a row for each fault."""

    def number(value: int | None) -> str:
        return "–" if value is None else str(value)

    return pd.DataFrame(
        {
            "fault": row["fault"],
            "how": row["how"],
            "times": number(row.get("times")),
            "verdicts lost or changed": number(row.get("lost")),
            "chapters run again": number(row.get("repeated")),
            "what the build says": row.get("said") or "–",
            "outcome": row["outcome"],
        }
        for row in faults
    )


def _outcome(case: ElementTree.Element) -> str:
    if (skipped := case.find("skipped")) is not None:
        return f"not tried: {skipped.attrib['message']}"
    for kind in ("failure", "error"):
        if (failed := case.find(kind)) is not None:
            return f"failed: {failed.attrib['message'].splitlines()[0]}"
    return SURVIVED


def main() -> None:
    """The command line; errors are one line on stderr and a non-zero exit."""
    parser = argparse.ArgumentParser(
        prog="python -m fourfold.recorded.faults", description="Record the fault tests."
    )
    parser.add_argument("command", choices=["keep"])
    parser.add_argument("junit", type=Path, help="what pytest --junitxml wrote")
    given = parser.parse_args()
    try:
        print(keep(given.junit).relative_to(records.ROOT))
    except (ValueError, OSError) as error:
        sys.exit(f"keep: {error}")


if __name__ == "__main__":
    main()
