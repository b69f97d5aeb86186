"""Whether the losses of EViT and of HAWQ-V3 add where all four networks learn at one rate.

In ``efficiency_trained`` each of the four has the rate that served it best, and those are not the same. This
was added after its numbers had been seen, with the middle one of their rates for all. Same seeds, same dense
networks to go on from. Half a minute of a core a seed.
"""

import time

from efficiency_trained import SEEDS, best_rates

from fourfold import training
from fourfold.compared import efficiency as compared
from fourfold.recorded import benchmark

NAME = "efficiency_together"
RATE = 0.002


def main() -> None:
    """Train, print and keep."""
    training.deterministic()
    rate, rows, began = best_rates()[compared.DENSE], [], time.process_time()
    for seed in SEEDS:
        digits, test = compared.drawn(seed)
        given = compared.Given(seed, digits, compared.first(compared.Given(seed, digits), rate))
        for arm, strength in compared.crossed():
            net = compared.trained(arm, strength, given, RATE)
            right = compared.accuracy(net, test)
            rows.append({"seed": seed, "arm": arm, "strength": strength, "accuracy": right})
        print(f"seed {seed}: {time.process_time() - began:.0f} s of a core so far", flush=True)
    spent = round(time.process_time() - began)
    print(benchmark.keep(NAME, rows, seeds=list(SEEDS), rate=RATE, cpu_seconds=spent).name)


if __name__ == "__main__":
    main()
