"""What methods that make a network cheaper leave of its accuracy, over the seeds that the page shows.

Each arm has the rate that served it best in ``efficiency_rates``. Seed by seed, so that arms are compared
within a seed, and kept after each. About three minutes of a core a seed. A record of today's code is left
alone: numbers of seeds do not depend on the machine's state. Remove it to measure anew.
"""

import time

from fourfold import training
from fourfold.compared import efficiency as compared
from fourfold.recorded import benchmark

NAME = "efficiency_trained"
SEEDS = range(1000, 1005)


def best_rates() -> dict[str, float]:
    """Arm -> the rate that served it best. Raises ``ValueError`` without a sweep."""
    kept = benchmark.load("efficiency_rates")
    if kept is None:
        raise ValueError("there is no record of rates: run benchmarks/efficiency_rates.py first")
    best: dict[str, tuple[float, float]] = {}
    for row in kept["rows"]:
        found = (row["accuracy"], row["rate"])
        if row["arm"] not in best or found[0] > best[row["arm"]][0]:
            best[row["arm"]] = found
    return {arm: rate for arm, (_, rate) in best.items()}


def of_seed(seed: int, rates: dict[str, float]) -> list[dict[str, object]]:
    """A row for each arm and strength, and for each line that knows nothing of images."""
    digits, test = compared.drawn(seed)
    alone = compared.Given(seed, digits)
    given = compared.Given(seed, digits, compared.first(alone, rates[compared.DENSE]))
    rows: list[dict[str, object]] = [
        {"seed": seed, "arm": line, "strength": "", "accuracy": right}
        for line, right in compared.on_pixels(given, test).items()
    ]
    for arm, strength in compared.networks():
        net = compared.trained(arm, strength, given, rates[arm])
        row = {"seed": seed, "arm": arm, "strength": strength, "accuracy": compared.accuracy(net, test)}
        rows.append(row | {"bytes": compared.stored(net)})
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
