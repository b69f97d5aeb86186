"""How fast SiT's five sizes run beside their teachers: real size, one thread, batch 4 (2 for the largest).

The contestants take turns. Beside each SiT runs a network with mean pooling to as many tokens, and
for all but T one that slims as much, but after its last block. A row holds the seconds of a call in each
round.
"""

import statistics
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fourfold import training
from fourfold.efficiency.sit import CONFIGS, LVViT, SlimViT, slimmed_lvvit
from fourfold.recorded import benchmark

ROUNDS = 10


class Pooled(nn.Module):
    """Mean pooling of neighbours in the order of the tokens; ``n_out`` need not divide their number."""

    def __init__(self, n_out: int):
        super().__init__()
        self.n_out = n_out

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """(batch, N, dim) -> (batch, n_out, dim)."""
        return functional.adaptive_avg_pool1d(x.mT, self.n_out).mT


def contestants(name: str) -> dict[str, SlimViT]:
    """A teacher, what its tokens are slimmed to, and the rivals."""
    config = CONFIGS[name]
    slimmed = slimmed_lvvit(config)
    found = {
        f"{name} teacher": SlimViT(LVViT(config), (), ()),
        f"{name} SiT": slimmed,
        f"{name} pooled": slimmed_lvvit(config, lambda stage: Pooled(slimmed.n_tokens[stage])),
    }
    if name != "T":
        last = sum(config.blocks) - 1
        found[f"{name} late"] = SlimViT(LVViT(config), (last,), slimmed.n_tokens[-1:])
    return found


def main() -> None:
    """Measure, print and keep the rows."""
    training.deterministic()
    rows = []
    for name, config in CONFIGS.items():
        batch = 2 if name == "L" else 4
        images = torch.randn(batch, 3, config.image, config.image, generator=training.stream(0, "benchmark"))
        with training.seeded(0), torch.inference_mode():
            calls = {label: partial(net.eval(), images) for label, net in contestants(name).items()}
            samples = benchmark.interleaved(calls, rounds=ROUNDS)
        for label, times in samples.items():
            gain = benchmark.ratio(samples, f"{name} teacher", label)
            print(f"{label:>10}: {batch / statistics.median(times):6.2f} images/s, speed-up {gain}")
        rows += [{"contestant": label, "rounds": times} for label, times in samples.items()]
    benchmark.keep("sit", rows, rounds=ROUNDS)


if __name__ == "__main__":
    main()
