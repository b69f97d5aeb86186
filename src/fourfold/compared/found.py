"""What the chapters' runs found, for pages that collect numbers from many chapters."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter

from fourfold.judging import records
from fourfold.judging.records import Record
from fourfold.recorded import executed

Entry = TypeVar("Entry", bound=BaseModel)


def entries(kind: type[Entry], path: Path) -> list[Entry]:
    """The entries of a YAML file that says which findings a page collects.

    Raises:
        pydantic.ValidationError: naming the entry and the field, if one is not as it should be.
    """
    return TypeAdapter(list[kind]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))  # type: ignore[valid-type]


def card(part: str, paper: str, claim: str, name: str) -> str:
    """A link from a page of the whole book to a claim's card, by the name of its paper."""
    return f"<a href='{part}/{paper}.html#{paper}-{claim}'>{name} {claim}</a>"


class Found(NamedTuple):
    """A finding of a chapter's run."""

    record: Record
    word: str
    """The word of its claim."""
    estimate: dict[str, float]
    """low, value, high."""


def findings(wanted: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], Found]:
    """The findings (paper, claim, name of a criterion or control) that are wanted.

    Raises:
        ValueError: if a paper has no chapter, its chapter did not run to its end, or a finding is not there
            or was not measured.
    """
    wanted = list(wanted)
    chapters = {record.slug: record for record in records.chapters()}
    words: dict[tuple[str, str, str], tuple[str, Any]] = {}
    for slug in {slug for slug, _, _ in wanted}:
        if slug not in chapters:
            raise ValueError(f"paper {slug!r} has no chapter")
        for face in executed.faces(executed.of(chapters[slug]), "verdict"):
            for finding in face["findings"]:
                words[slug, face["claim"], finding["name"]] = (face["verdict"], finding["estimate"])
    for slug, claim, name in wanted:
        if (slug, claim, name) not in words:
            raise ValueError(f"{slug} {claim} has no finding {name!r}")
        if words[slug, claim, name][1] is None:
            raise ValueError(f"{slug} {claim} {name} was not measured")
    return {key: Found(chapters[key[0]], *words[key]) for key in wanted}
