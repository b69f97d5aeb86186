"""Benchmarks of arms: a setting is chosen for each of them, then all are measured, seed by seed."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fourfold.recorded import benchmark

FURTHER = 2
"""How often a sweep may go beyond the settings given, on either side, by a factor of two each time."""


def next_setting(found: Mapping[Any, float], settings: Sequence[Any]) -> Any | None:
    """The setting to try next, by the scores of those tried; None if the best is not at an edge.

    Beyond the lowest and the highest of several numbers the next is half and twice as large. Settings that
    are no numbers, or only one, are tried as they are. Raises ``ValueError`` for no settings.
    """
    if not settings:
        raise ValueError("settings must be at least one, got none")
    if waiting := [setting for setting in settings if setting not in found]:
        return waiting[0]
    if len(settings) == 1 or not all(isinstance(setting, float) for setting in settings):
        return None
    best = max(found, key=lambda setting: found[setting])
    low, high = min(settings) / 2**FURTHER, max(settings) * 2**FURTHER
    beyond = {min(found): best / 2, max(found): best * 2}.get(best)
    return beyond if beyond is not None and low <= beyond <= high else None


def swept(settings: Sequence[Any], score: Callable[[Any], float]) -> dict[Any, float]:
    """Setting -> score, of all that `next_setting` asks for, in the order in which they were tried."""
    found: dict[Any, float] = {}
    while len(found) < len(settings) or next_setting(found, settings) is not None:
        setting = next_setting(found, settings)
        found[setting] = score(setting)
    return found


def best(rows: Iterable[Mapping[str, Any]], score: str, *by: str) -> dict[tuple[Any, ...], Any]:
    """The setting of the row with the highest score, for each combination of the columns ``by``."""
    found: dict[tuple[Any, ...], tuple[float, Any]] = {}
    for row in rows:
        place = tuple(row[name] for name in by)
        if place not in found or row[score] > found[place][0]:
            found[place] = (row[score], row["setting"])
    return {place: setting for place, (_, setting) in found.items()}


def seed_by_seed(
    name: str, seeds: Sequence[int], of_seed: Callable[[int], list[dict[str, Any]]], **about: Any
) -> None:
    """Keep the rows of all seeds in the benchmark ``name``, after each seed those so far, and print the time.

    Arms are compared within a seed. A record of today's code is left alone: such numbers do not depend on the
    machine's state.
    """
    kept = benchmark.load(name)
    if kept and not kept["stale"] and kept["seeds"] == list(seeds):
        print(f"{name}: of today's code")
        return
    rows: list[dict[str, Any]] = []
    began = time.process_time()
    for done, seed in enumerate(seeds, 1):
        rows += of_seed(seed)
        spent = round(time.process_time() - began)
        benchmark.keep(name, rows, seeds=list(seeds[:done]), cpu_seconds=spent, **about)
        print(f"{name}, seed {seed}: {spent} s of a core so far", flush=True)
