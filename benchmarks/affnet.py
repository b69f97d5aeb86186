"""How the times of four token mixers grow with the number of tokens: AFF, attention, two convolutions.

One image of 32 channels, forward pass without gradients, one thread; all mixers on all sizes take turns. Each
row is one mixer on one size, with its seconds in every round.
"""

import statistics
from functools import partial

import torch
from torch import nn

from fourfold import mixers, training
from fourfold.frequency import affnet
from fourfold.recorded import benchmark

CHANNELS = 32
SIDES = (16, 20, 24, 28, 32, 40, 48, 64)
ROUNDS = 15


def contestants(side: int) -> dict[str, nn.Module]:
    """The contestants on a map of side x side."""
    return {
        "aff": affnet.AFFMixer(CHANNELS),
        "attention": mixers.SelfAttention(CHANNELS),
        "global": affnet.GlobalDepthwise(CHANNELS, side, side),
        "local": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
    }


def main() -> None:
    """Measure, print and keep."""
    training.deterministic()
    calls = {}
    for side in SIDES:
        x = torch.randn(1, CHANNELS, side, side, generator=training.stream(0, "map"))
        with training.seeded(0):
            calls |= {f"{name} {side}": partial(mixer, x) for name, mixer in contestants(side).items()}
    # A round has every size, so that an exponent can be fitted to each.
    with torch.no_grad():
        samples = benchmark.interleaved(calls, rounds=ROUNDS, at_least=0.05)
    rows = []
    for key, times in samples.items():
        name, side = key.split()
        rows.append({"mixer": name, "side": int(side), "rounds": times})
        print(f"{name:>10} {side:>3}: {1e3 * statistics.median(times):8.3f} ms")
    print(benchmark.keep("affnet", rows, channels=CHANNELS, rounds=ROUNDS).name)


if __name__ == "__main__":
    main()
