"""How much faster a shared convolution is as one matrix product than as torch's conv2d over many tiny maps.

Both run in turns in one process on one thread; what is printed is the ratio of their times, its median and
its range over rounds. Their agreement is checked first.
"""

from functools import partial

import torch
from torch.nn.functional import cross_entropy

from fourfold import training
from fourfold.optics.convsharevit import convsharevit
from fourfold.recorded import benchmark

BATCH, TOKENS, SIDE = 64, 6, 8


def step(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """One forward and backward pass."""
    net.zero_grad()
    cross_entropy(net(x)[0], y).backward()


def main() -> None:
    """Print a table of ratios."""
    training.deterministic()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, TOKENS, SIDE * SIDE, generator=generator)
    y = torch.randint(4, (BATCH,), generator=generator)
    print(f"Forward and backward, batch {BATCH}, {TOKENS} tokens of {SIDE} x {SIDE}.")
    print("Time with conv2d over time with the matrix product, median (smallest to largest):")
    for arm in ("valid", "valid5", "same3", "same7", "unshared_same7"):
        build = partial(convsharevit, arm, p=SIDE, tokens=TOKENS, classes=4)
        with training.seeded(0):
            matrix = build()
        sliding = build(by_conv2d=True)
        sliding.load_state_dict(matrix.state_dict())
        torch.testing.assert_close(sliding(x)[0], matrix(x)[0], rtol=0, atol=1e-4)
        nets = {"sliding": sliding, "matrix": matrix}
        samples = benchmark.interleaved(
            {name: partial(step, net, x, y) for name, net in nets.items()}, at_least=0.1
        )
        print(f"{arm:>15}: {benchmark.ratio(samples, 'sliding', 'matrix')}")


if __name__ == "__main__":
    main()
