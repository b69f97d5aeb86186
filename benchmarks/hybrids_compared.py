"""How time and memory of the hybrids grow with the image: forward pass, one image, one thread.

The arms of one size take turns. Each row is one arm on one size: the median of its rounds in seconds, all of
them, and the bytes that torch allocates at the peak.
"""

import statistics
from functools import partial

import torch

from fourfold import training
from fourfold.compared import hybrids as compared
from fourfold.recorded import benchmark

SIDES = (12, 16, 24, 32, 48, 64)
ROUNDS = 5


def main() -> None:
    """Measure, print and keep."""
    training.deterministic()
    rows = []
    for side in SIDES:
        pixels = compared.STRIDE * side
        x = torch.randn(1, 1, pixels, pixels, generator=training.stream(0, "image"))
        with training.seeded(0):
            racing = {arm: compared.network(arm, (side, side)).eval() for arm in compared.ARMS}
        with torch.inference_mode():
            calls = {arm: partial(net, x) for arm, net in racing.items()}
            held = {arm: benchmark.peak_memory(call) for arm, call in calls.items()}
            samples = benchmark.interleaved(calls, rounds=ROUNDS, at_least=0.02)
        for arm, times in samples.items():
            middle = statistics.median(times)
            rows.append({"arm": arm, "side": side, "seconds": middle, "rounds": times, "bytes": held[arm]})
            print(f"{arm:>14} {side:3d}: {1e3 * middle:8.2f} ms, {held[arm] / 2**20:7.2f} MiB")
    print(benchmark.keep("hybrids_compared", rows, rounds=ROUNDS).name)


if __name__ == "__main__":
    main()
