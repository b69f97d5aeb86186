"""Which learning rate serves each arm of the page on hybrids: every rate on a seed that judges nothing.

Scored on images of the pool that were not trained on. Named arms alone are run if there are any, and the rows
of the others stay: ``python benchmarks/hybrids_rates.py CvT``.
"""

import sys

from fourfold import training
from fourfold.compared import hybrids as compared
from fourfold.recorded import benchmark

NAME = "hybrids_rates"
RATES = (0.01, 0.02, 0.04)
SEEDS = (7,)
TASKS = ("400 digits", "far read-out")
"""The first stands for all numbers of digits."""


def main(*arms: str) -> None:
    """Train, print and keep."""
    training.deterministic()
    kept = benchmark.load(NAME) if arms else None
    rows = [row for row in (kept["rows"] if kept else ()) if row["arm"] not in arms]
    for name in TASKS:
        data = [compared.drawn(compared.TASKS[name], seed, held_out=True) for seed in SEEDS]
        for arm in arms or compared.ARMS:
            for rate in RATES:
                found = []
                for seed, (train, test) in zip(SEEDS, data, strict=True):
                    net = compared.trained(arm, compared.TASKS[name], seed, rate, train)
                    found.append(compared.accuracy(net, test))
                rows.append({"task": name, "arm": arm, "rate": rate, "accuracy": found})
                print(f"{name:>12} {arm:>14} at {rate}: {sum(found) / len(found):.3f}", flush=True)
    print(benchmark.keep(NAME, rows, seeds=SEEDS, held_out=compared.HELD_OUT).name)


if __name__ == "__main__":
    main(*sys.argv[1:])
