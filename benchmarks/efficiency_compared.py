"""How long the networks of the page on efficiency take: forward pass, one thread, in turns.

All that compute something else than the dense network, and this one, on one image and on many. Each row is
one network at one number of images: the median of its rounds in seconds an image, and all of them.
"""

import statistics
from functools import partial

import torch

from fourfold import training
from fourfold.compared import efficiency as compared
from fourfold.recorded import benchmark

BATCHES = (1, 256)
ROUNDS = 15


def main() -> None:
    """Measure, print and keep."""
    training.deterministic()
    rows = []
    for batch in BATCHES:
        x = torch.randn(batch, 1, compared.SIDE, compared.SIDE, generator=training.stream(0, "images"))
        with training.seeded(0):
            racing = {place: compared.untrained(*place).eval() for place in compared.racing()}
        with torch.inference_mode():
            calls = {": ".join(place): partial(net, x) for place, net in racing.items()}
            samples = benchmark.interleaved(calls, rounds=ROUNDS, at_least=0.02)
        for (arm, strength), times in zip(racing, samples.values(), strict=True):
            each = [seconds / batch for seconds in times]
            middle = statistics.median(each)
            rows.append(
                {"arm": arm, "strength": strength, "images": batch, "seconds": middle, "rounds": each}
            )
            print(f"{arm:>12} {strength:>12} {batch:3d}: {1e6 * middle:8.1f} us")
    print(benchmark.keep("efficiency_compared", rows, rounds=ROUNDS).name)


if __name__ == "__main__":
    main()
