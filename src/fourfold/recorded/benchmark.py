"""Benchmarks: contestants timed side by side in one run, and the record that a chapter judges.

A time says something about a machine, a ratio of times something about the code. So contestants run in
turns, ratios are taken within a turn, and their spread over turns is kept. ``data/benchmarks/<name>.json``
holds the rows that ``benchmarks/<name>.py`` measured, with machine, date and a hash of every source that
they depend on; a chapter shows and judges that record, since a live time would differ at every run. Rounds
of one run share the state that the machine is in, so the record keeps two runs, an hour or more apart, and
what is judged are the rounds of both.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NotRequired

import torch
from torch.profiler import ProfilerActivity, profile

from fourfold.judging import records
from fourfold.recorded import sources
from fourfold.recorded.machine import Machine, machine

RECORDS = records.ROOT / "data" / "benchmarks"
SCRIPTS = records.ROOT / "benchmarks"

APART = timedelta(hours=1)
"""Two runs are as far apart, at least, for the machine to be in another state."""

Call = Callable[[], Any]


class Run(Machine):
    """What ``data/benchmarks/<name>.json`` holds, beside settings of the benchmark's own."""

    sources: dict[str, str]
    rows: list[Any] | dict[str, Any]
    earlier: NotRequired[dict[str, Any]]
    """The run before, of the same sources and an hour or more older: its ``started`` and ``rows``."""


@dataclass(frozen=True)
class Ratio:
    """How many times longer one contestant takes than another: median over rounds, smallest, largest, all."""

    median: float
    low: float
    high: float
    rounds: list[float]
    """Each round's: the sample that a verdict on it is judged by."""

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def interleaved(
    calls: Mapping[str, Call], *, rounds: int = 15, at_least: float = 0.005, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds per call of each contestant, one number a round; in a round each runs in turn.

    On the CPU this is processor time, which other processes do not lengthen; on a GPU wall time between
    synchronisations. A contestant is called as often as fills ``at_least`` seconds; one round before the
    first is not counted. Raises ``ValueError`` for fewer than 3 rounds.
    """
    if rounds < 3:
        raise ValueError(f"rounds must be >= 3, for a median with a spread, got {rounds}")
    times = {name: seconds(call, 1, device) for name, call in calls.items()}
    times = {name: seconds(call, 1, device) for name, call in calls.items()}
    number = {name: max(1, math.ceil(at_least / max(once, 1e-9))) for name, once in times.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(seconds(call, number[name], device))
    return samples


def seconds(call: Call, number: int = 1, device: str = "cpu") -> float:
    """Seconds per call over ``number`` calls in a row."""
    gpu = device.startswith("cuda")
    clock = time.perf_counter if gpu else time.process_time
    if gpu:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(number):
        call()
    if gpu:
        torch.cuda.synchronize()
    return (clock() - start) / number


def ratio(samples: Mapping[str, Sequence[float]], slower: str, faster: str) -> Ratio:
    """``slower`` over ``faster`` within each round of `interleaved`."""
    rounds = [a / b for a, b in zip(samples[slower], samples[faster], strict=True)]
    return Ratio(statistics.median(rounds), min(rounds), max(rounds), rounds)


def peak_memory(call: Call, device: str = "cpu") -> int:
    """Bytes that torch allocates at the peak of a first call, on top of what was there before.

    What a first call makes and keeps counts, so call it before timing. On the CPU from the allocation events
    of ``torch.profiler``, which do not see libraries' own workspaces.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    # The profiler's own table books an allocation on its operator; only the raw events keep the order.
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def keep(name: str, rows: Any, device: str = "cpu", **about: Any) -> Path:
    """Write the record of ``benchmarks/<name>.py``: its rows, the machine, the sources' hashes.

    To ``data/benchmarks/<name>.json``, or ``<name>.<device>.json`` for a device other than the CPU. Of a run
    before, of the same sources on the same processor, the rows stay beside it.
    """
    entry: dict[str, Any] = {**machine(), **about, "sources": _sources(name), "rows": rows}
    path = _record(name, device)
    if earlier := _earlier(path, entry):
        entry["earlier"] = {key: earlier[key] for key in ("started", "rows")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load(name: str, device: str = "cpu") -> dict[str, Any] | None:
    """The recorded run with ``stale``: names of sources that changed since; None if there is none.

    Lists whose name begins with ``rounds`` are those of both runs, the earlier ones last. Raises
    ``RecordError`` naming the file if it is not a whole `Run`.
    """
    path = _record(name, device)
    if not path.is_file():
        return None
    entry = records.read_run(path, Run)
    if "earlier" in entry:
        entry["rows"] = _pooled(entry["rows"], entry["earlier"]["rows"])
    entry["stale"] = sources.changed(entry["sources"], _sources(name))
    return entry


def _earlier(path: Path, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The run to stand beside a new one: the last that is an hour older, of the same code and processor."""
    if not path.is_file():
        return None
    last = records.read_run(path, Run)
    if any(last[key] != entry[key] for key in ("sources", "processor")):
        return None
    candidates = (last, last.get("earlier"))
    now = datetime.fromisoformat(entry["started"])
    return next(
        (run for run in candidates if run and now - datetime.fromisoformat(run["started"]) >= APART), None
    )


def _pooled(new: Any, old: Any, name: str = "") -> Any:
    """Rows with the rounds of another run's rows behind their own."""
    if isinstance(new, dict):
        return {key: _pooled(value, old[key], key) if key in old else value for key, value in new.items()}
    if isinstance(new, list):
        if name.startswith("rounds"):
            return [*new, *old]
        return [_pooled(one, other, name) for one, other in zip(new, old, strict=True)]
    return new


def _record(name: str, device: str) -> Path:
    return RECORDS / f"{name}.json" if device == "cpu" else RECORDS / f"{name}.{device}.json"


def _sources(name: str) -> dict[str, str]:
    return sources.hashes("script", (SCRIPTS / f"{name}.py").read_text(encoding="utf-8"))
