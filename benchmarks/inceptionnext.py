"""How fast InceptionNeXt-T and ConvNeXt-T train: real size, one thread, two images of 224 pixels a step.

A step is a forward and a backward pass. The contestants take turns, in channels-last memory, which in a trial
suited 7 x 7 kernels best, and two of them in the default layout besides. Eight are the cells of a factorial
design in ConvNeXt-T's skeleton: mixer, norm, and how the MLP is computed. Mixers are timed alone, too, and
whole networks in evaluation. A row holds the seconds of a call in each round.
"""

import statistics
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from fourfold import training
from fourfold.hybrids.inceptionnext import (
    SIZES,
    InceptionDWConv2d,
    MetaNeXt,
    PartialDWConv2d,
    Spec,
    convnext_tiny,
    grouped_pointwise,
)
from fourfold.recorded import benchmark

BATCH, ROUNDS = 2, 10
INCEPTION, CONVNEXT = SIZES["T"], convnext_tiny()
SQUARE_7 = partial(PartialDWConv2d, kernel=7)


def unmixed(_: int) -> nn.Module:
    """No mixer at all."""
    return nn.Identity()


def zeroed(dim: int) -> nn.Module:
    """A 7 x 7 convolution of which only the middle 3 x 3 values are not 0."""
    mixer = SQUARE_7(dim)
    outside = torch.ones(7, 7, dtype=torch.bool)
    outside[2:5, 2:5] = False
    mixer.square.register_parameter(
        "weight", nn.Parameter(mixer.square.weight.detach().masked_fill(outside, 0))
    )
    return mixer


CELLS: dict[str, Spec] = {
    f"{mixer}, {norm} norm, {mlp}": CONVNEXT._replace(mixer=make, norm=norm, mlp=mlp)
    for mixer, make in {"7 x 7": SQUARE_7, "Inception": InceptionDWConv2d}.items()
    for norm in ("layer", "batch")
    for mlp in ("linear", "conv")
}
SPECS: dict[str, Spec] = {
    "InceptionNeXt-T": INCEPTION,
    "InceptionNeXt-T, 7 x 7": INCEPTION._replace(mixer=SQUARE_7),
    "ConvNeXt-T, 7 x 7 with zeros": CONVNEXT._replace(mixer=zeroed),
    "ConvNeXt-T, 5 x 5": convnext_tiny(5),
    "ConvNeXt-T, 3 x 3": convnext_tiny(3),
    "ConvNeXt-T, 3 x 3 on 1/8": convnext_tiny(3, 1 / 8),
    "ConvNeXt-T, grouped 1 x 1": CONVNEXT._replace(mixer=grouped_pointwise),
    "ConvNeXt-T, no mixer": CONVNEXT._replace(mixer=unmixed),
} | CELLS
DEFAULT_LAYOUT = {
    "InceptionNeXt-T, default layout": INCEPTION,
    "ConvNeXt-T, default layout": CONVNEXT,
}
MIXERS: dict[str, Callable[[int], nn.Module]] = {
    "7 x 7": SQUARE_7,
    "5 x 5": partial(PartialDWConv2d, kernel=5),
    "3 x 3": partial(PartialDWConv2d, kernel=3),
    "3 x 3 on 1/8": partial(PartialDWConv2d, kernel=3, ratio=1 / 8),
    "11 x 11 on 1/8": partial(PartialDWConv2d, kernel=11, ratio=1 / 8),
    "Inception": InceptionDWConv2d,
    "grouped 1 x 1": grouped_pointwise,
    "3 x 3 over all channels": lambda dim: nn.Conv2d(dim, dim, 3, padding=1),
}
SHAPES = {"96 x 56 x 56": (8, 96, 56, 56), "384 x 14 x 14": (8, 384, 14, 14)}


class Logits(nn.Module):
    """A network of ``transformers`` that gives its logits, as ours do."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) -> logits (batch, classes)."""
        return self.net(images).logits


def channels_last(net: nn.Module) -> nn.Module:
    """The network with its weights in that layout."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


def step(net: nn.Module, x: Tensor) -> None:
    """One forward and one backward pass; no gradient stays in memory."""
    net(x).square().sum().backward()
    net.zero_grad()


def evaluate(net: nn.Module, x: Tensor) -> None:
    """One forward pass without gradients."""
    with torch.inference_mode():
        net(x)


def race(calls: Mapping[str, Callable[[], None]], name: str) -> list[dict]:
    """Rows of one race, printed as they are."""
    samples = benchmark.interleaved(calls, rounds=ROUNDS)
    for contestant, times in samples.items():
        print(f"{name}, {contestant}: {statistics.median(times):.4g} s")
    return [{"contestant": contestant, "rounds": times} for contestant, times in samples.items()]


def main() -> None:
    """Measure, print and keep the rows."""
    training.deterministic()
    generator = training.stream(0, "benchmark")
    images = torch.randn(BATCH, 3, 224, 224, generator=generator)
    images_last = images.to(memory_format=torch.channels_last)
    with training.seeded(0):
        nets = {name: channels_last(MetaNeXt(spec, 3, 1000)) for name, spec in SPECS.items()}
        resnet = ResNetForImageClassification(ResNetConfig(num_labels=1000))
        nets["ResNet-50"] = channels_last(Logits(resnet))
        plain = {name: MetaNeXt(spec, 3, 1000) for name, spec in DEFAULT_LAYOUT.items()}
    calls = {name: partial(step, net, images_last) for name, net in nets.items()}
    calls |= {name: partial(step, net, images) for name, net in plain.items()}
    rows = {"training": race(calls, "training")}
    for net in (*nets.values(), *plain.values()):
        net.eval()
    shown = ("InceptionNeXt-T", "7 x 7, layer norm, linear", "ConvNeXt-T, 3 x 3 on 1/8", "ResNet-50")
    calls = {name: partial(evaluate, nets[name], images_last) for name in shown}
    rows["inference"] = race(calls, "inference")
    for name, shape in SHAPES.items():
        x = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
        with training.seeded(0):
            mixers = {mixer: channels_last(make(shape[1])) for mixer, make in MIXERS.items()}
        rows[name] = race({mixer: partial(step, net, x) for mixer, net in mixers.items()}, name)
    benchmark.keep("inceptionnext", rows, batch=BATCH, rounds=ROUNDS)


if __name__ == "__main__":
    main()
