"""What chapters said otherwise than their pairs when all of them were run anew, as the text of an issue.

Under ``pytest --nbval`` the project's ``conftest.py`` notes of each cell that failed what it said and what it
says now; ``make nbval`` leaves that in a JUnit file. ``python -m fourfold.recorded.drift FOLDER`` reads such
files, each in a folder named after the kernels that it was run under, and outcomes of mutations in
``FOLDER/mutations``, and prints Markdown; nothing where nothing differs.
"""

import difflib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from fourfold.judging import records, rule
from fourfold.recorded import survival

MOST = 60_000
"""Characters that an issue has room for, a few thousand less."""


class Difference(NamedTuple):
    """A cell that says something else now."""

    chapter: str
    claim: str
    """The claim that it judges; empty if it judges none."""
    committed: str
    found: str


def note(chapter: str, source: str, committed: Iterable[Mapping], found: Iterable[Mapping]) -> str:
    """A difference as it stands in a JUnit file: a cell's chapter, source, and outputs before and now."""
    judged = re.search(r"\.judge\(\s*[\"'](\w+)", source)
    return json.dumps(Difference(chapter, judged[1] if judged else "", _said(committed), _said(found)))


def _said(outputs: Iterable[Mapping[str, Any]]) -> str:
    """What a reader of the plain text sees of outputs."""
    parts = []
    for output in outputs:
        if "ename" in output:
            parts.append(f"{output['ename']}: {output['evalue']}")
        else:
            parts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(map(str.rstrip, parts))


def read(junit: Path) -> list[Difference]:
    """The differences in a JUnit file. Raises ``ValueError`` if it is none."""
    try:
        properties = list(ElementTree.parse(junit).iter("property"))
    except ElementTree.ParseError as error:
        raise ValueError(f"{junit} is not a JUnit file: {error}") from error
    return [Difference(*json.loads(p.attrib["value"])) for p in properties if p.attrib["name"] == "differs"]


def otherwise(folder: Path) -> dict[str, tuple[str, str]]:
    """Claim -> what became of it without its mechanism as committed and in ``folder``, where these differ."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        now = records.read_run(file, dict[str, survival.Outcome])
        for claim, outcome in survival.read(file.stem).items():
            if claim in now and now[claim]["turned"] != outcome["turned"]:
                found[f"{file.stem} {claim}"] = (survival.fate(outcome), survival.fate(now[claim]))
    return found


def issue(folder: Path) -> str:
    """All differences in Markdown: the words that changed first, then every line. Empty if there is none."""
    under: dict[Difference, list[str]] = {}
    for junit in sorted(folder.glob("*/*.xml")):
        for difference in read(junit):
            under.setdefault(difference, []).append(junit.parent.name)
    lines = [f"- {_headline(one)} ({', '.join(kernels)})" for one, kernels in sorted(under.items())]
    for claim, (before, now) in otherwise(folder / "mutations").items():
        lines.append(f"- **{claim}** without its mechanism: {before} → {now}")
    if not lines:
        return ""
    heading = "These say something else than what is committed, under the kernels in brackets:"
    details = [f"**{one.chapter} {one.claim}**\n\n```diff\n{_lines(one)}\n```" for one in sorted(under)]
    return _cut("\n\n".join([heading, "\n".join(lines), *details]) + "\n")


def _headline(one: Difference) -> str:
    """Which cell, and its words before and now where they are two."""
    words = [_word(text, one.claim) for text in (one.committed, one.found)]
    if one.claim and words[0] != words[1]:
        return f"**{one.chapter} {one.claim}: {words[0]} → {words[1]}**"
    where = f"{one.chapter} {one.claim}" if one.claim else f"{one.chapter}, a cell that judges nothing"
    return f"{where}: {'the same word, other text' if one.claim else 'other text'}"


def _word(text: str, claim: str) -> str:
    said = re.search(rf"^{claim} ({'|'.join(rule.SYMBOLS)}):", text, flags=re.MULTILINE)
    return said[1] if said else "no verdict"


def _lines(one: Difference) -> str:
    """The lines that differ, those committed first."""
    before, now = one.committed.splitlines(), one.found.splitlines()
    differing = list(difflib.unified_diff(before, now, lineterm="", n=0))[2:]
    return "\n".join(line for line in differing if not line.startswith("@@")) or "only its HTML differs"


def _cut(text: str) -> str:
    if len(text) <= MOST:
        return text
    shown = text[:MOST].rpartition("\n")[0]
    # A block of code that is cut has to end.
    end = "\n```" if shown.count("```") % 2 else ""
    return f"{shown}{end}\n\nThere is more, in the run's artifacts.\n"


def main() -> None:
    """The command line; errors are one line on stderr and a non-zero exit."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m fourfold.recorded.drift FOLDER")
    try:
        print(issue(Path(sys.argv[1])), end="")
    except (ValueError, OSError) as error:
        sys.exit(f"drift: {error}")


if __name__ == "__main__":
    main()
