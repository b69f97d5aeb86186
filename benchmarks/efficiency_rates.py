"""Which learning rate serves each arm of the page on efficiency: every rate on a seed that judges nothing.

At an arm's middle strength, scored on images of digits that no network trains on. Three rates; where the best
is the lowest or highest, the next one beyond, until it is not, within `LIMITS`. What goes on from the dense
network goes on from the one that was best here. Rows of a record whose definitions are today's stay.
"""

import time

from fourfold import training
from fourfold.compared import efficiency as compared
from fourfold.recorded import benchmark

NAME = "efficiency_rates"
RATES = {
    "from the start": (0.002, 0.004, 0.008),
    "further": (0.0005, 0.001, 0.002),
    "taught": (0.001, 0.002, 0.004),
    "replayed": (0.005, 0.01, 0.02),
}
LIMITS = (0.25, 4)
"""How far beyond these three a rate may go, as factors of the lowest and of the highest."""
SEED = 7


def next_rate(found: dict[float, float], rates: tuple[float, ...]) -> float | None:
    """The rate to try next, by the accuracies of those that were tried; None if the best is bracketed."""
    if waiting := [rate for rate in rates if rate not in found]:
        return waiting[0]
    best = max(found, key=lambda rate: found[rate])
    beyond = {min(found): best / 2, max(found): best * 2}.get(best)
    return beyond if beyond and LIMITS[0] * rates[0] <= beyond <= LIMITS[1] * rates[-1] else None


def main() -> None:
    """Train, print and keep."""
    training.deterministic()
    kept = benchmark.load(NAME)
    there = kept["rows"] if kept and set(kept["stale"]) <= {"script"} else []
    began = time.process_time()
    digits, test = compared.drawn(SEED, held_out=True)
    given, rows = compared.Given(SEED, digits), []
    for arm in (compared.DENSE, *compared.ARMS, compared.AGAIN, compared.BOTH):
        way = compared.way_of(arm)
        found = {row["rate"]: row["accuracy"] for row in there if row["arm"] == arm}
        while (rate := next_rate(found, RATES[way])) is not None:
            net = compared.trained(arm, compared.middle(arm), given, rate)
            found[rate] = compared.accuracy(net, test)
            print(f"{arm:>15} at {rate}: {found[rate]:.3f}", flush=True)
        rows += [{"arm": arm, "rate": rate, "accuracy": found[rate]} for rate in sorted(found)]
        if arm == compared.DENSE:
            best = max(found, key=lambda rate: found[rate])
            given = compared.Given(SEED, digits, compared.first(given, best))
    spent = round(time.process_time() - began)
    print(benchmark.keep(NAME, rows, seed=SEED, images=compared.UNSEEN, cpu_seconds=spent).name, spent)


if __name__ == "__main__":
    main()
