"""A record of no paper, for tests of the judge."""

from typing import Any

from fourfold.judging.records import Parameter, Record

ABOUT = {
    "slug": "a_paper",
    "part": "optics",
    "name": "Paper",
    "title": "A paper",
    "authors": ["A. Author"],
    "year": 2025,
    "arxiv": None,
    "idea": "Light convolves for free.",
}
"""What a record says beside claims and parameters."""


def paper(**more: Any) -> Record:
    """A record with these claims and parameters; all else is made up."""
    return Record.model_validate(ABOUT | more)


def sampled(first: int) -> dict[str, Parameter]:
    """Parameters ``seed`` and ``seeds``: two in a build, twenty in a recorded run."""
    return {
        "seed": Parameter(type="int", meaning="first seed", quick=first, full=first, min=0, max=10**6),
        "seeds": Parameter(type="int", meaning="seeds", quick=2, recorded=20, full=20, min=1, max=20),
    }
