"""How the times of all mixers of the part "frequency" grow with the map: forward pass, one image, one thread.

The mixers of one size take turns. Each row is one mixer on one size: the median of its rounds in seconds, the
smallest and the largest.
"""

import statistics
from functools import partial

import torch

from fourfold import training
from fourfold.compared.frequency import MIXERS
from fourfold.recorded import benchmark

CHANNELS = 32
SIDES = (16, 20, 24, 32, 40, 48, 64)
ROUNDS = 7


def main() -> None:
    """Measure, print and keep."""
    training.deterministic()
    rows = []
    for side in SIDES:
        x = torch.randn(1, CHANNELS, side, side, generator=training.stream(0, "map"))
        with training.seeded(0):
            racing = {name: make(CHANNELS, side) for name, make in MIXERS.items()}
        with torch.inference_mode():
            calls = {name: partial(mixer, x) for name, mixer in racing.items()}
            samples = benchmark.interleaved(calls, rounds=ROUNDS, at_least=0.02)
        for name, times in samples.items():
            row = {"mixer": name, "side": side, "seconds": statistics.median(times)}
            rows.append({**row, "low": min(times), "high": max(times)})
            print(f"{name:>13} {side:3d}: {1e3 * row['seconds']:8.3f} ms")
    print(benchmark.keep("frequency_compared", rows, channels=CHANNELS, rounds=ROUNDS).name)


if __name__ == "__main__":
    main()
