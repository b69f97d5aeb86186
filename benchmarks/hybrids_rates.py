"""Which learning rate serves each arm of the page on hybrids: every rate on a seed that judges nothing.

Scored on images of the pool that were not trained on. Three rates; where the best is the lowest or highest,
the next one beyond, until it is not, within `LIMITS`. Rows of a record whose definitions are today's stay.
"""

from fourfold import training
from fourfold.compared import hybrids as compared
from fourfold.recorded import benchmark

NAME = "hybrids_rates"
RATES, LIMITS = (0.01, 0.02, 0.04), (0.0025, 0.04)
SEED = 7
TASKS = ("400 digits", "far read-out")
"""The first stands for all numbers of digits."""


def next_rate(found: dict[float, float]) -> float | None:
    """The rate to try next, by the accuracies of those that were tried; None if the best is bracketed."""
    if waiting := [rate for rate in RATES if rate not in found]:
        return waiting[0]
    best = max(found, key=lambda rate: found[rate])
    beyond = {min(found): best / 2, max(found): best * 2}.get(best)
    return beyond if beyond is not None and LIMITS[0] <= beyond <= LIMITS[1] else None


def main() -> None:
    """Train, print and keep."""
    training.deterministic()
    kept = benchmark.load(NAME)
    there = kept["rows"] if kept and set(kept["stale"]) <= {"script"} else []
    rows = []
    for name in TASKS:
        train, test = compared.drawn(compared.TASKS[name], SEED, held_out=True)
        for arm in compared.ARMS:
            found = {
                row["rate"]: row["accuracy"] for row in there if (row["task"], row["arm"]) == (name, arm)
            }
            while (rate := next_rate(found)) is not None:
                net = compared.trained(arm, compared.TASKS[name], SEED, rate, train)
                found[rate] = compared.accuracy(net, test)
                print(f"{name:>12} {arm:>14} at {rate}: {found[rate]:.3f}", flush=True)
            rows += [
                {"task": name, "arm": arm, "rate": rate, "accuracy": found[rate]} for rate in sorted(found)
            ]
    print(benchmark.keep(NAME, rows, seed=SEED, held_out=compared.HELD_OUT).name)


if __name__ == "__main__":
    main()
