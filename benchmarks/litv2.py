"""How fast one attention layer runs on one thread: HiLo beside the layers that it is meant to replace.

The setting is that of the published benchmark, 14 x 14 tokens of width 768, but for the batch (64 there). The
contestants take turns; a row holds a layer's seconds in every round.
"""

import statistics
from functools import partial

import torch

from fourfold import training
from fourfold.frequency.litv2 import MSA, SRA, HiLo, WindowAttention
from fourfold.recorded import benchmark

BATCH, SIDE, DIM, HEADS, ROUNDS = 4, 14, 768, 12, 15
LAYERS = {
    "MSA": partial(MSA, DIM, HEADS),
    "SRA": partial(SRA, DIM, HEADS),
    "local window": partial(WindowAttention, DIM, HEADS),
    "HiLo": partial(HiLo, DIM, HEADS),
    "HiLo, s = 1": partial(HiLo, DIM, HEADS, window=1),
    "HiLo, α = 0": partial(HiLo, DIM, HEADS, alpha=0.0),
}


def main() -> None:
    """Measure, print and keep the rows."""
    training.deterministic()
    x = torch.randn(BATCH, SIDE**2, DIM, generator=training.stream(0, "benchmark"))
    with training.seeded(0):
        layers = {name: make() for name, make in LAYERS.items()}
    with torch.inference_mode():
        calls = {name: partial(layer, x, SIDE, SIDE) for name, layer in layers.items()}
        samples = benchmark.interleaved(calls, rounds=ROUNDS)
    rows = [{"layer": name, "rounds": times} for name, times in samples.items()]
    benchmark.keep("litv2", rows, batch=BATCH, rounds=ROUNDS)
    for name, times in samples.items():
        print(f"{name:>14}: {BATCH / statistics.median(times):6.1f} images/s")


if __name__ == "__main__":
    main()
