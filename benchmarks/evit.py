"""How fast DeiT-S runs at several keep rates: real size, one thread, batch 4, all tokens of every block.

The contestants take turns. Two give the logits of keep rate 0.7 and 0.5 but hide the dropped tokens from
attention instead of taking them out, so that every block works on all of them; one is a second copy of keep
rate 1, which must tie. A row holds the seconds of a call in each round.
"""

import statistics
from functools import partial

import torch

from fourfold import training
from fourfold.efficiency.evit import EViT, masked
from fourfold.recorded import benchmark

BATCH, ROUNDS = 4, 15
CONTESTANTS = {"1.0": 1.0, "1.0 again": 1.0, "0.9": 0.9, "0.7": 0.7, "0.5": 0.5}
MASKED = {"0.7 masked": 0.7, "0.5 masked": 0.5}


def main() -> None:
    """Measure, print and keep the rows."""
    training.deterministic()
    with training.seeded(0):
        net = EViT(image=224, patch=16, dim=384, depth=12, heads=6, classes=1000).eval()
    images = torch.randn(BATCH, 3, 224, 224, generator=training.stream(0, "benchmark"))
    with torch.inference_mode():
        calls = {name: partial(net, images, rate) for name, rate in CONTESTANTS.items()}
        calls |= {name: partial(masked, net, images, rate) for name, rate in MASKED.items()}
        samples = benchmark.interleaved(calls, rounds=ROUNDS)
    for name, times in samples.items():
        gain = benchmark.ratio(samples, "1.0", name)
        print(f"keep rate {name:>10}: {BATCH / statistics.median(times):5.1f} images/s, speed-up {gain}")
    rows = [{"contestant": name, "rounds": times} for name, times in samples.items()]
    benchmark.keep("evit", rows, batch=BATCH, rounds=ROUNDS)


if __name__ == "__main__":
    main()
