"""Counts how often chapters start: a line for each start, in the file that the environment names."""

import os


def started(slug: str) -> None:
    """Note that a chapter has started."""
    with open(os.environ.get("FOURFOLD_TALLY", os.devnull), "a", encoding="utf-8") as tally:
        tally.write(f"{slug}\n")
