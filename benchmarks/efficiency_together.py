"""Whether the losses of EViT and of HAWQ-V3 add where all four networks learn at one rate.

In ``efficiency_trained`` each of the four has the rate that served it best, and those are not the same. This
was added after its numbers had been seen, with the middle one of their rates for all. Same seeds, same dense
networks to go on from. Half a minute of a core a seed.
"""

import time

from fourfold import training
from fourfold.compared import efficiency as compared
from fourfold.recorded import benchmark

NAME = "efficiency_together"
RATE = 0.002


def main() -> None:
    """Train, print and keep. Raises ``ValueError`` without a record of the trained networks."""
    before = benchmark.load("efficiency_trained")
    if before is None:
        raise ValueError("there is no record of networks: run benchmarks/efficiency_trained.py first")
    training.deterministic()
    rate, rows, began = before["rates"][compared.DENSE], [], time.process_time()
    for seed in before["seeds"]:
        digits, test = compared.drawn(seed)
        given = compared.Given(seed, digits, compared.first(compared.Given(seed, digits), rate))
        for arm, strength in compared.crossed():
            net = compared.trained(arm, strength, given, RATE)
            right = compared.accuracy(net, test)
            rows.append({"seed": seed, "arm": arm, "strength": strength, "accuracy": right})
        print(f"seed {seed}: {time.process_time() - began:.0f} s of a core so far", flush=True)
    spent = round(time.process_time() - began)
    print(benchmark.keep(NAME, rows, seeds=before["seeds"], rate=RATE, cpu_seconds=spent).name)


if __name__ == "__main__":
    main()
