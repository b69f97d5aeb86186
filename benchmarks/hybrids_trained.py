"""What the hybrids learn: accuracy, consistency and detail, over the seeds that the page shows.

Each arm has the rate that served it best in ``hybrids_rates``. Seed by seed, so that arms are compared
within a seed, and kept after each. One to two minutes of a core a seed. A record of today's code is left
alone: numbers of seeds do not depend on the machine's state. Remove it to measure anew.
"""

import time

from fourfold import training
from fourfold.compared import hybrids as compared
from fourfold.recorded import benchmark

NAME = "hybrids_trained"
SEEDS = range(1000, 1010)
TASKS = ("100 digits", "2000 digits", "far read-out")
SHIFTED = "2000 digits"
"""The networks whose consistency and detail are measured."""
LOOKED_AT = 100
"""Test digits at which mixers are differentiated."""


def best_rates() -> dict[str, dict[str, float]]:
    """Task of the sweep -> arm -> the rate that served it best. Raises ``ValueError`` without a sweep."""
    kept = benchmark.load("hybrids_rates")
    if kept is None:
        raise ValueError("there is no record of rates: run benchmarks/hybrids_rates.py first")
    rates: dict[str, dict[str, float]] = {}
    best: dict[tuple[str, str], float] = {}
    for row in kept["rows"]:
        place, right = (row["task"], row["arm"]), row["accuracy"]
        if right > best.get(place, -1.0):
            best[place] = right
            rates.setdefault(row["task"], {})[row["arm"]] = row["rate"]
    return rates


def of_seed(seed: int, rates: dict[str, dict[str, float]]) -> list[dict[str, object]]:
    """A row for each task and arm, and for each task and line that knows nothing of images."""
    rows: list[dict[str, object]] = []
    for name in TASKS:
        task = compared.TASKS[name]
        train, test = compared.drawn(task, seed)
        of_task = rates["far read-out" if task.read else "400 digits"]
        for line, right in compared.on_pixels(train, test).items():
            rows.append({"seed": seed, "task": name, "arm": line, "accuracy": right})
        for arm in compared.ARMS:
            net = compared.trained(arm, task, seed, of_task[arm], train)
            row = {"seed": seed, "task": name, "arm": arm, "accuracy": compared.accuracy(net, test)}
            if name == SHIFTED:
                row["consistency"] = compared.consistency(net, test)
                row["detail"] = compared.details(
                    net, test.images[:LOOKED_AT], training.stream(seed, "detail")
                )
            rows.append(row)
    return rows


def main() -> None:
    """Train, print and keep."""
    kept = benchmark.load(NAME)
    if kept and not kept["stale"] and kept["seeds"] == list(SEEDS):
        print(f"{NAME}: of today's code")
        return
    training.deterministic()
    rates, rows, began = best_rates(), [], time.process_time()
    for seed in SEEDS:
        rows += of_seed(seed, rates)
        spent = time.process_time() - began
        seeds = list(range(SEEDS[0], seed + 1))
        benchmark.keep(NAME, rows, seeds=seeds, rates=rates, cpu_seconds=round(spent))
        print(f"seed {seed}: {spent:.0f} s of a core so far", flush=True)


if __name__ == "__main__":
    main()
