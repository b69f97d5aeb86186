"""How long the blends of SVT's high band take: Einstein with four blocks and with one, and a dense tensor.

Forward and backward on the high band of stage 1 of SVT-S, 64 channels at 28 x 28, interleaved in one process
on one thread.
"""

import torch

from fourfold import training
from fourfold.frequency.svt import DenseBlend, EinsteinBlend
from fourfold.recorded import benchmark

CHANNELS, SIDE, BATCH = 64, 28, 2


def main() -> None:
    """Measure, keep the rows for the chapter, and print them."""
    training.deterministic()
    with training.seeded(0):
        blends = {
            "four blocks": EinsteinBlend(CHANNELS, 4),
            "one block": EinsteinBlend(CHANNELS, 1),
            "dense": DenseBlend(CHANNELS, SIDE, SIDE),
        }
        high = torch.randn(BATCH, CHANNELS, 6, SIDE, SIDE, 2, requires_grad=True)

    def step(blend: torch.nn.Module) -> None:
        blend(high).sum().backward()

    samples = benchmark.interleaved({name: lambda b=b: step(b) for name, b in blends.items()}, rounds=15)
    rows = []
    for slower in ("one block", "dense"):
        ratio = benchmark.ratio(samples, slower, "four blocks")
        rows.append({"slower": slower, "rounds": ratio.rounds})
        print(f"time of {slower} over four blocks: {ratio}")
    benchmark.keep("svt", rows, channels=CHANNELS, side=SIDE, batch=BATCH)


if __name__ == "__main__":
    main()
