"""HAWQV3: inference by integer multiply, add and shift, and bits for each layer from an integer program.

Yao, Dong, Zheng, Gholami and others, "HAWQV3: Dyadic Neural Network Quantization", arXiv 2011.10680, ICML
2021. Details were read in the official repository (Zhen-Dong/HAWQ); the code here is written anew.

Implemented: uniform quantisers, dyadic rescaling, convolutions, residual blocks and average pooling on
integers (section 3.1 and appendix), Hutchinson's estimate of Hessian traces, the integer linear program
(section 3.4), sizes and bit operations of ResNet18 and ResNet50, and the authors' own inputs and allocations.

Departures. Integers live in integer tensors, where the repository has them in floats. The sum of average
pooling stays an integer; the repository divides in float and truncates. The last layer has one weight scale,
so that its accumulators can be compared: the repository has one a class. Ranges are the largest values of
calibration images. No training goes on after quantisation.

Images are (batch, 1, height, width); accumulators are int32, their products with a multiplier int64.
"""

import copy
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode

from fourfold import checks

ACCUMULATOR, WIDE = 32, 16
"""Bits of an accumulator, and of the sum of a residual block."""

SMALLEST = 1e-8
"""The least range of weights, so that a channel of zeros has a scale."""

# --- quantisers -------------------------------------------------------------------------------------------


def code_range(bits: int) -> tuple[int, int]:
    """Lowest and highest code of an activation after ReLU: from 8 bits on signed, below without a sign."""
    checks.between(2, WIDE, bits=bits)
    return (0, 2**bits - 1) if bits < 8 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def act_quant(x: Tensor, bits: int, scale: float) -> Tensor:
    """The nearest codes of x / scale, ties upwards, clipped to `code_range`: any shape, int32."""
    checks.finite(0, above=True, scale=scale)
    return (x.double() / scale + 0.5).floor().clamp(*code_range(bits)).int()


def weight_quant(w: Tensor, bits: int, per_channel: bool = True) -> tuple[Tensor, Tensor]:
    """Symmetric codes of weights (out, ...), and the scale of each output channel or one for all, (out,).

    Codes are int64 of the shape of ``w``, scales float64: the largest weight has the highest code.
    """
    checks.between(2, WIDE, bits=bits)
    flat = w.detach().double().flatten(1)
    largest = (flat.abs().amax(1) if per_channel else flat.abs().max().expand(len(flat))).clamp(min=SMALLEST)
    scale = largest / (2 ** (bits - 1) - 1)
    codes = (flat / scale[:, None]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes.long().view_as(w), scale


def rounded_weight(w: Tensor, bits: int) -> Tensor:
    """The weights (out, ...) that the codes of ``bits`` stand for, in the dtype of ``w``."""
    codes, scale = weight_quant(w, bits)
    return (codes * scale.view(-1, *[1] * (w.ndim - 1))).to(w)


# --- dyadic numbers ---------------------------------------------------------------------------------------


def dyadic(ratio: Tensor, bits: int = 31) -> tuple[Tensor, Tensor]:
    """Multipliers m and shifts c, int64, with ratio = m / 2^c up to a relative error of 2^-bits.

    The mantissa of each ratio, of any shape, is rounded to ``bits`` bits; with one, m / 2^c is a power of
    two. c is in 1..62, m at most 2^31. Raises ``ValueError`` for bits outside 1..31, for a ratio that is not
    > 0, and for one so small or large that int64 has no room.
    """
    checks.between(1, 31, "products must fit into 64 bits", bits=bits)
    if not bool(((ratio > 0) & ratio.isfinite()).all()):
        raise ValueError(f"ratio must be finite and > 0, got {ratio.min().item()} to {ratio.max().item()}")
    fraction, exponent = torch.frexp(ratio.double())
    m, c = (fraction * 2**bits + 0.5).floor().long(), bits - exponent.long()
    # A short mantissa of a ratio above 1 leaves nothing to shift by: lengthen it with zeros.
    zeros = (1 - c).clamp(min=0)
    if int(c.max()) > 62 or int(zeros.max()) + bits > 31:
        raise ValueError(f"ratio must be in 2^{bits - 62}..2^30, got {ratio.min():g} to {ratio.max():g}")
    return m << zeros, c + zeros


def log2_of_worst_ratio(bits: int, n: int, generator: torch.Generator) -> float:
    """log2 of the largest relative error of `dyadic`, on ``n`` ratios log-uniform in 1e-6..1e3."""
    ratios = 10 ** (torch.rand(n, generator=generator, dtype=torch.float64) * 9 - 6)
    m, c = dyadic(ratios, bits)
    return float((m.double() / 2.0**c / ratios - 1).abs().max().log2())


def requantize(acc: Tensor, m: Tensor, c: Tensor) -> Tensor:
    """acc * m / 2^c, rounded to the nearest integer and upwards at ties, by multiply, add and shift: int64.

    ``m`` and ``c`` are int64 and broadcast against ``acc``, an integer tensor below 2^31.
    """
    return (acc.long() * m + (1 << (c - 1))) >> c


class Rescale(NamedTuple):
    """From integers at one scale to integers at another: scale / target = m / 2^c for each channel."""

    scale: Tensor
    """What one unit of the incoming integers is worth, for each channel: (channels,), float64."""
    target: float
    m: Tensor
    """(channels, 1, 1), or (1, 1, 1) for all; ``c`` too."""
    c: Tensor


def rescale(scale: Tensor, target: float, mantissa_bits: int = 31) -> Rescale:
    """From what units are worth, (channels,), to a target. Raises ``ValueError`` as `dyadic` does."""
    m, c = dyadic(scale / target, mantissa_bits)
    return Rescale(scale, target, m.view(-1, 1, 1), c.view(-1, 1, 1))


Apply = Callable[[Tensor, Rescale], Tensor]
"""How a network rescales (batch, channels, height, width)."""


def by_integers(acc: Tensor, to: Rescale) -> Tensor:
    """The paper's way."""
    return requantize(acc, to.m, to.c)


def by_floats(acc: Tensor, to: Rescale) -> Tensor:
    """Simulated quantisation, the usual way: back to a real number, divided by the new scale, rounded."""
    return ((acc.double() * to.scale.view(-1, 1, 1)) / to.target + 0.5).floor().long()


# --- the float network ------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a skip, by a 1 x 1 convolution where width or size change."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = _conv_bn(inside, outside, 3, stride)
        self.conv2 = _conv_bn(outside, outside, 3, 1)
        self.skip = None if (inside, stride) == (outside, 1) else _conv_bn(inside, outside, 1, stride)
        self.middle, self.end = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inside, height, width) -> (batch, outside, height / stride, width / stride)."""
        y = self.conv2(self.middle(self.conv1(x)))
        return self.end(y + (x if self.skip is None else self.skip(x)))


def _conv_bn(inside: int, outside: int, kernel: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


class SmallResNet(nn.Module):
    """A convolution, three residual blocks, the second at half the size and twice the width, mean, linear."""

    def __init__(self, width: int = 16, classes: int = 10):
        super().__init__()
        checks.at_least(1, width=width, classes=classes)
        self.stem, self.enter = _conv_bn(1, width, 3, 1), nn.ReLU()
        self.blocks = nn.ModuleList(
            [Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1)]
        )
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, height, width) -> logits (batch, classes)."""
        x = self.enter(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x).flatten(1))


INNER = (
    "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "blocks.1.skip",
    "blocks.2.conv1", "blocks.2.conv2",
)  # fmt: skip
"""The layers of `SmallResNet` whose bits are chosen, in their order; stem and head stay at 8 bits."""

TIES = ((2, 4),)
"""A skip has the bits of the convolution that reads the same tensor."""


def fold(net: SmallResNet) -> SmallResNet:
    """A copy in evaluation mode in which every BatchNorm has become part of the convolution before it."""
    folded = copy.deepcopy(net).eval()
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Sequential):
                conv, norm = child
                assert isinstance(conv, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
    return folded


def folded_conv(module: object) -> nn.Conv2d:
    """The module itself. Raises ``ValueError`` unless it is a convolution with a bias."""
    if not isinstance(module, nn.Conv2d) or module.bias is None:
        raise ValueError(f"fold BatchNorm first, got {type(module).__name__}")
    return module


def inner(net: SmallResNet) -> list[nn.Conv2d]:
    """The `INNER` layers of a folded network. Raises ``ValueError`` for one that is not folded."""
    return [folded_conv(net.get_submodule(name)) for name in INNER]


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def ranges(net: SmallResNet, images: Tensor) -> dict[str, float]:
    """The largest value after each ReLU and after pooling, by module name, of images (batch, 1, h, w).

    1 where all values are 0. Raises ``ValueError`` for no images.
    """
    if not len(images):
        raise ValueError("calibration needs at least one image, got none")
    found: dict[str, float] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, name=name: found.__setitem__(name, float(out.max()) or 1.0)
        )
        for name, module in net.named_modules()
        if isinstance(module, (nn.ReLU, nn.AdaptiveAvgPool2d))
    ]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return found


# --- the integer network ----------------------------------------------------------------------------------


class IntConv2d:
    """A convolution of int32 codes by int32 codes, its bias at the accumulator's scale.

    ``scale``: what one unit of the accumulator is worth, (out,). Raises ``ValueError`` if codes of ``bits``
    bits could make an accumulator overflow.
    """

    def __init__(self, conv: nn.Conv2d, bits: int, scale: float, per_channel: bool = True):
        codes, weight_scale = weight_quant(conv.weight, bits, per_channel)
        self.scale = weight_scale * scale
        bias = (_bias(conv).detach().double() / self.scale).round().long()
        largest = int((codes.abs().flatten(1).sum(1) * code_range(bits)[1] + bias.abs()).max())
        checks.between(0, 2 ** (ACCUMULATOR - 1) - 1, "int32", **{"an accumulator": largest})
        self.weight, self.bias, self.stride, self.padding = codes.int(), bias.int(), conv.stride, conv.padding

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, in, height, width), int32 -> accumulators (batch, out, h, w), int32."""
        return conv2d(x, self.weight, self.bias, self.stride, self.padding)


class IntResidual:
    """A residual block on integers: 16 bits come in and go out, each convolution reads its own bits."""

    def __init__(self, block: Block, name: str, build: "_Builder", scale: float):
        self.enter = build.rescale(torch.tensor([scale]), build.target(f"{name}.enter", scale))
        self.enter_range = code_range(build.bits[f"{name}.conv1"])
        self.conv1 = build.conv(block.conv1, f"{name}.conv1", self.enter.target)
        self.middle = build.rescale(self.conv1.scale, build.target(f"{name}.middle"))
        self.middle_range = code_range(build.bits[f"{name}.conv2"])
        self.conv2 = build.conv(block.conv2, f"{name}.conv2", self.middle.target)
        self.skip = build.conv(block.skip, f"{name}.skip", self.enter.target) if block.skip else None
        out = build.target(f"{name}.end")
        self.branch = build.rescale(self.conv2.scale, out)
        self.shortcut = build.rescale(self.skip.scale if self.skip else torch.tensor([scale]), out)

    def __call__(self, x: Tensor, apply: Apply = by_integers) -> Tensor:
        """(batch, in, height, width) in 16 bits -> (batch, out, h, w) in 16 bits.

        The input is requantised once, for both convolutions that read it. Branch and skip are brought to the
        scale of the output each by a multiplier and shift of its own, and added there.
        """
        h = apply(x, self.enter).clamp(*self.enter_range).int()
        y = apply(self.conv1(h), self.middle).relu().clamp(*self.middle_range).int()
        skip = x if self.skip is None else self.skip(h)
        total = apply(self.conv2(y), self.branch) + apply(skip, self.shortcut)
        return total.relu().clamp(*code_range(WIDE)).int()


class IntegerNet:
    """A folded `SmallResNet` on integers: between the codes of an image and its class nothing else.

    Args:
        net: the folded network; it is left alone.
        images: for calibration, (n, 1, height, width).
        bits: one number for all inner layers, or layer -> bits, of the weights and of what enters them.
        per_channel: whether each output channel of a convolution has its own scale; the last layer has one.
        mantissa_bits: of the multipliers, 1..31; with 1 they are powers of two: a shift alone.

    Raises ``ValueError`` for bits outside 2..8, for layers that are not `INNER`, and for a skip whose bits
    are not those of the convolution that reads the same tensor.
    """

    def __init__(
        self,
        net: SmallResNet,
        images: Tensor,
        bits: int | Mapping[str, int],
        *,
        per_channel: bool = True,
        mantissa_bits: int = 31,
    ):
        build = _Builder(ranges(net, images), bits, per_channel, mantissa_bits)
        self.stem = build.conv(net.stem, "stem", IMAGE)
        self.enter = build.rescale(self.stem.scale, build.target("enter"))
        self.blocks: list[IntResidual] = []
        scale = self.enter.target
        for index, block in enumerate(net.blocks):
            assert isinstance(block, Block)
            self.blocks.append(IntResidual(block, f"blocks.{index}", build, scale))
            scale = build.target(f"blocks.{index}.end")
        positions = -(-images.shape[-1] // 2) * -(-images.shape[-2] // 2)
        # The divisor of the average stands in the scale of the sum.
        self.pool = build.rescale(torch.tensor([scale]).double() / positions, build.target("pool"))
        head = nn.Conv2d(net.head.in_features, net.head.out_features, 1)
        head.load_state_dict({"weight": net.head.weight[..., None, None], "bias": net.head.bias})
        self.head = IntConv2d(head, 8, self.pool.target, per_channel=False)

    def logits(self, codes: Tensor, apply: Apply = by_integers) -> Tensor:
        """Codes of images, (batch, 1, height, width) -> int32 logits (batch, classes), at one scale."""
        x = apply(self.stem(codes), self.enter).relu().clamp(*code_range(WIDE)).int()
        for block in self.blocks:
            x = block(x, apply)
        pooled = apply(x.sum((2, 3), keepdim=True), self.pool).clamp(*code_range(8)).int()
        return self.head(pooled).flatten(1)

    def classes(self, codes: Tensor, apply: Apply = by_integers) -> Tensor:
        """Codes of images, (batch, 1, height, width) -> the largest logit's place, (batch,)."""
        return self.logits(codes, apply).argmax(1)


IMAGE = 1 / 127
"""The scale of an image in 0..1: 8 bits, symmetric."""


def image_codes(images: Tensor) -> Tensor:
    """Images in 0..1 of any shape -> int32 codes."""
    return act_quant(images, 8, IMAGE)


class _Builder:
    """What all layers of an integer network share while it is built."""

    def __init__(
        self, largest: Mapping[str, float], bits: int | Mapping[str, int], per_channel: bool, mantissa: int
    ):
        chosen = dict.fromkeys(INNER, bits) if isinstance(bits, int) else dict(bits)
        if chosen.keys() != set(INNER):
            raise ValueError(f"bits must be for the layers {', '.join(INNER)}, got {', '.join(chosen)}")
        for name, width in chosen.items():
            if not 2 <= width <= 8:
                raise ValueError(f"bits of {name} must be in 2..8, got {width}")
        for a, b in TIES:
            if chosen[INNER[a]] != chosen[INNER[b]]:
                raise ValueError(f"{INNER[b]} must have the bits of {INNER[a]}, got {chosen}")
        self.bits = chosen | {"stem": 8}
        self.largest, self.per_channel, self.mantissa = largest, per_channel, mantissa

    def conv(self, conv: nn.Module, name: str, scale: float) -> IntConv2d:
        return IntConv2d(folded_conv(conv), self.bits[name], scale, self.per_channel)

    def target(self, place: str, wide_scale: float = 0.0) -> float:
        """The scale of a tensor: its largest value has the highest code."""
        if place.endswith(".enter"):
            block = place.removesuffix(".enter")
            return wide_scale * code_range(WIDE)[1] / code_range(self.bits[f"{block}.conv1"])[1]
        block, _, which = place.rpartition(".")
        bits = {"middle": self.bits.get(f"{block}.conv2", 8), "pool": 8}.get(which, WIDE)
        return self.largest[place] / code_range(bits)[1]

    def rescale(self, scale: Tensor, target: float) -> Rescale:
        return rescale(scale.double(), target, self.mantissa)


class Operations(TorchDispatchMode):
    """Within the block every operation that torch runs is noted, with the dtypes of what goes in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, frozenset[torch.dtype]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (*args, out) if isinstance(t, Tensor)]
        self.seen.append((func.overloadpacket.__name__, frozenset(t.dtype for t in tensors)))
        return out

    def with_floats(self) -> int:
        """Operations that read or write a number that is no integer."""
        return sum(any(dtype.is_floating_point for dtype in dtypes) for _, dtypes in self.seen)

    def divisions(self) -> int:
        """Operations that divide, averages among them."""
        return sum(name.startswith(("div", "mean", "floor_divide", "reciprocal")) for name, _ in self.seen)

    def names(self) -> dict[str, int]:
        """operation -> how often it ran."""
        return {name: sum(n == name for n, _ in self.seen) for name in sorted({n for n, _ in self.seen})}


# --- an exact reference, without torch --------------------------------------------------------------------


def exact_logits(net: IntegerNet, codes: NDArray[np.integer]) -> NDArray[np.object_]:
    """Logits (batch, classes) with Python's integers and fractions, each rescale exact and rounded once.

    What is shared with `IntegerNet` are the codes of weights and biases, and the scales: each ratio of
    scales is the fraction that its two floats are, no dyadic number. ``codes``: (batch, 1, height, width).
    """
    x = _exactly(_convolved(net.stem, codes), net.enter, 0, 2 ** (WIDE - 1) - 1)
    for block in net.blocks:
        h = _exactly(x, block.enter, *block.enter_range)
        y = _exactly(_convolved(block.conv1, h), block.middle, 0, block.middle_range[1])
        skip = x if block.skip is None else _convolved(block.skip, h)
        total = _exactly(_convolved(block.conv2, y), block.branch) + _exactly(skip, block.shortcut)
        x = np.clip(total, 0, 2 ** (WIDE - 1) - 1)
    pooled = _exactly(x.sum((2, 3), keepdims=True), net.pool, *code_range(8))
    return _convolved(net.head, pooled)[..., 0, 0]


def _convolved(conv: IntConv2d, x: NDArray) -> NDArray[np.object_]:
    kernel, stride, padding = conv.weight.numpy().astype(np.int64), conv.stride[0], int(conv.padding[0])
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], (2, 3))
    found = np.einsum("bchwij,ocij->bohw", windows[:, :, ::stride, ::stride], kernel, optimize=True)
    return (found + conv.bias.numpy().astype(np.int64)[:, None, None]).astype(object)


def _exactly(acc: NDArray, to: Rescale, low: int | None = None, high: int | None = None) -> NDArray:
    """floor(acc * ratio + 1/2) for each channel; clipped if bounds are given."""
    ratios = [Fraction(float(s)) / Fraction(to.target) for s in to.scale]
    above = np.array([2 * r.numerator for r in ratios], object)[:, None, None]
    below = np.array([r.denominator for r in ratios], object)[:, None, None]
    rounded = (acc.astype(object) * above + below) // (2 * below)
    return rounded if low is None else np.clip(rounded, low, high)


# --- how sensitive a layer is -----------------------------------------------------------------------------


def hutchinson_trace(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], n_probe: int, generator: torch.Generator
) -> tuple[NDArray, NDArray]:
    """Hessian trace of the loss for each weight tensor, over its number of values: mean and standard error.

    ``n_probe`` vectors z of signs, all tensors at once: z^T H z by differentiating twice; terms between
    tensors have mean 0. Raises ``ValueError`` for fewer than two probes.
    """
    checks.at_least(2, n_probe=n_probe)
    gradients = torch.autograd.grad(loss(), weights, create_graph=True)
    samples = []
    for _ in range(n_probe):
        signs = [
            torch.randint(2, w.shape, generator=generator, dtype=w.dtype).mul_(2).sub_(1) for w in weights
        ]
        products = torch.autograd.grad(gradients, weights, signs, retain_graph=True)
        samples.append([float((z * p).mean()) for z, p in zip(signs, products, strict=True)])
    found = np.array(samples)
    return found.mean(0), found.std(0, ddof=1) / np.sqrt(n_probe)


def inner_traces(
    net: SmallResNet, images: Tensor, labels: Tensor, n_probe: int, generator: torch.Generator
) -> NDArray:
    """Mean Hessian traces of the `INNER` layers of a folded network, of its mean cross-entropy."""
    weights = [conv.weight for conv in inner(net)]
    return hutchinson_trace(lambda: cross_entropy(net(images), labels), weights, n_probe, generator)[0]


def squared_errors(net: SmallResNet, bits: int) -> NDArray:
    """||Q(W) - W||^2 of each `INNER` layer of a folded network."""
    weights = [conv.weight.detach() for conv in inner(net)]
    return np.array([float((rounded_weight(w, bits) - w).double().square().sum()) for w in weights])


def perturbation(traces: ArrayLike, errors: ArrayLike) -> NDArray:
    """Omega of each layer: mean Hessian trace times squared weight error; a negative estimate counts as 0."""
    return np.clip(np.asarray(traces, float), 0, None) * np.asarray(errors, float)


def all_bits(low: int, high: int) -> NDArray:
    """Every choice for the `INNER` layers, (2^7, 7); the last layer changes fastest."""
    return np.array(list(product((low, high), repeat=len(INNER))))


@torch.no_grad()
def sweep(net: SmallResNet, low: int, high: int, images: Tensor) -> Tensor:
    """Logits (2^7, batch, classes) for every choice of `all_bits` of weights; stem and head at ``high``.

    Choices that agree so far share their computation: a layer adds a factor of two.
    """
    net = copy.deepcopy(net)
    stem = folded_conv(net.stem)
    stem.weight.copy_(rounded_weight(stem.weight, high))
    net.head.weight.copy_(rounded_weight(net.head.weight, high))

    def both(x: Tensor, layer: object) -> Tensor:
        """(choices, batch, c, h, w) -> (2 choices, batch, out, h, w)."""
        conv = folded_conv(layer)
        weight = torch.cat([rounded_weight(conv.weight, low), rounded_weight(conv.weight, high)])
        bias = _bias(conv).repeat(2)
        y = conv2d(x.flatten(0, 1), weight, bias, conv.stride, conv.padding)
        return y.unflatten(1, (2, -1)).unflatten(0, x.shape[:2]).transpose(1, 2).flatten(0, 1)

    x = torch.relu(stem(images))[None]
    for block in net.blocks:
        y = both(torch.relu(both(x, block.conv1)), block.conv2).unflatten(0, (len(x), 4))
        skip = x[:, None] if block.skip is None else both(x, block.skip).unflatten(0, (len(x), 2))
        x = torch.relu(y[:, :, None] + skip[:, None]).flatten(0, 2)
    return net.head(x.mean((-1, -2)))


def sweep_losses(logits: Tensor, labels: Tensor) -> NDArray:
    """Mean cross-entropy of each choice: logits (choices, batch, classes), labels (batch,)."""
    return np.array([float(cross_entropy(choice.double(), labels)) for choice in logits])


def inner_macs(net: SmallResNet, side: int) -> NDArray:
    """Multiply-accumulates of each `INNER` layer for an image of side x side."""
    sides = [side if name.startswith("blocks.0") else -(-side // 2) for name in INNER]
    return np.array([conv.weight.numel() * n * n for conv, n in zip(inner(net), sides, strict=True)])


# --- bits for each layer ----------------------------------------------------------------------------------


def budget(cost_low: ArrayLike, cost_high: ArrayLike, phi: float) -> float:
    """What may be spent: all low, plus the share ``phi``, 0..1, of what all high would cost more."""
    if not 0 <= phi <= 1:
        raise ValueError(f"phi must be in 0..1, got {phi}")
    return float(np.sum(cost_low) + phi * (np.sum(cost_high) - np.sum(cost_low)))


def allocate_bits(
    omega_low: ArrayLike,
    omega_high: ArrayLike,
    cost_low: ArrayLike,
    cost_high: ArrayLike,
    limit: float,
    ties: Sequence[tuple[int, int]] = (),
) -> NDArray[np.bool_]:
    """Which layers get the high bits, (layers,): the least sum of omega that costs at most ``limit``.

    An integer linear program, solved to optimality by HiGHS; ``ties`` are pairs of layers that choose alike.
    Raises ``RuntimeError`` if even all low bits cost more than ``limit``.
    """
    low, high = np.asarray(cost_low, float), np.asarray(cost_high, float)
    gain = np.asarray(omega_high, float) - np.asarray(omega_low, float)
    span = high.sum()
    constraints = [LinearConstraint((high - low)[None] / span, -np.inf, (limit - low.sum()) / span + 1e-12)]
    for a, b in ties:
        row = np.zeros(len(low))
        row[a], row[b] = 1, -1
        constraints.append(LinearConstraint(row[None], 0, 0))
    scale = np.abs(gain).max() or 1.0
    found = milp(
        gain / scale,
        integrality=np.ones(len(low)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise RuntimeError(f"infeasible: a limit of {limit:g}, all low bits cost {low.sum():g}")
    return np.asarray(found.x).round().astype(bool)


def brute_force(
    omega_low: ArrayLike,
    omega_high: ArrayLike,
    cost_low: ArrayLike,
    cost_high: ArrayLike,
    limit: float,
    ties: Sequence[tuple[int, int]] = (),
) -> float:
    """The least sum of omega by trying every choice, which `allocate_bits` should find; up to 20 layers."""
    gain = np.asarray(omega_high, float) - np.asarray(omega_low, float)
    extra = np.asarray(cost_high, float) - np.asarray(cost_low, float)
    checks.between(1, 20, "2^20 choices", layers=len(gain))
    follows = {b: a for a, b in ties}
    free = [layer for layer in range(len(gain)) if layer not in follows]
    groups = np.zeros((len(free), len(gain)))
    for row, layer in enumerate(free):
        groups[row, [layer, *(b for b, a in follows.items() if a == layer)]] = 1
    choices = (np.arange(2 ** len(free))[:, None] >> np.arange(len(free))) & 1
    allowed = choices @ (groups @ extra) <= (limit - np.sum(cost_low)) * (1 + 1e-12)
    return float(np.sum(omega_low) + (choices[allowed] @ (groups @ gain)).min())


def early_layers(
    cost_low: ArrayLike, cost_high: ArrayLike, limit: float, ties: Sequence[tuple[int, int]] = ()
) -> NDArray[np.bool_]:
    """The lazy choice, (layers,): high bits from the front, for each layer that the limit still allows."""
    extra = np.asarray(cost_high, float) - np.asarray(cost_low, float)
    left = limit - float(np.sum(cost_low))
    partner = {a: b for a, b in ties} | {b: a for a, b in ties}
    chosen = np.zeros(len(extra), bool)
    for layer in range(len(extra)):
        group = [layer, partner[layer]] if layer in partner else [layer]
        if not chosen[layer] and extra[group].sum() <= left * (1 + 1e-12):
            chosen[group] = True
            left -= extra[group].sum()
    return chosen


def recovered(chosen: ArrayLike, damage_low: ArrayLike, damage_high: ArrayLike) -> float:
    """Share, at most 1, of what all low bits damage more than all high ones that a choice avoids."""
    saved = np.asarray(damage_low, float) - np.asarray(damage_high, float)
    return float(saved[np.asarray(chosen, bool)].sum() / saved.sum())


class MixedBits:
    """All choices of ``low`` or ``high`` bits for the weights of a folded network, and the loss of each.

    Costs are bit operations with activations of 8 bits. The loss is that of ``images`` (n, 1, side, side) and
    ``labels`` (n,).
    """

    def __init__(self, net: SmallResNet, low: int, high: int, images: Tensor, labels: Tensor):
        self.high = all_bits(low, high) == high
        self.loss = sweep_losses(sweep(net, low, high, images), labels)
        self.errors = squared_errors(net, low), squared_errors(net, high)
        macs = inner_macs(net, images.shape[-1])
        self.costs = bops(macs, low, 8), bops(macs, high, 8)

    def summed(self, low: ArrayLike, high: ArrayLike) -> NDArray:
        """The sum over layers, (choices,), of what a layer has with low bits or with high ones, (layers,)."""
        return np.where(self.high, np.asarray(high), np.asarray(low)).sum(1)

    def omegas(self, traces: ArrayLike) -> tuple[NDArray, NDArray]:
        """The perturbation of each layer at low and at high bits."""
        coarse, fine = self.errors
        return perturbation(traces, coarse), perturbation(traces, fine)

    def ranked(self, damage: NDArray) -> float:
        """Spearman's correlation of a predicted damage (choices,) with the loss."""
        return float(spearmanr(damage, self.loss).statistic)

    def depths(self) -> NDArray:
        """The lazy prediction, (choices,): a layer of low bits counts the layers from it to the end."""
        return self.summed(np.arange(len(INNER), 0, -1), np.zeros(len(INNER)))

    def program(self, traces: ArrayLike, phi: float) -> int:
        """The place, among all choices, of the one that the integer program makes."""
        limit = budget(*self.costs, phi)
        return self.place(allocate_bits(*self.omegas(traces), *self.costs, limit, TIES))

    def early(self, phi: float) -> int:
        """The place of the lazy choice, `early_layers`."""
        return self.place(early_layers(*self.costs, budget(*self.costs, phi), TIES))

    def scores(self, traces: NDArray, phi: float, orders: np.random.Generator) -> dict[str, float]:
        """How well predictions rank (``ranked``) and what choices avoid (``chosen``), ours and its rivals.

        Rivals: the weight error alone, depth and 8 bits from the front, traces in ten random orders.
        """
        flat = np.ones(len(traces))
        shuffled = [self.ranked(self.summed(*self.omegas(orders.permutation(traces)))) for _ in range(10)]
        return {
            "ranked": self.ranked(self.summed(*self.omegas(traces))),
            "error_ranked": self.ranked(self.summed(*self.omegas(flat))),
            "depth_ranked": self.ranked(self.depths()),
            "shuffled_ranked": float(np.mean(shuffled)),
            "chosen": self.avoided(self.program(traces, phi), phi),
            "error_chosen": self.avoided(self.program(flat, phi), phi),
            "early_chosen": self.avoided(self.early(phi), phi),
        }

    def places(self, traces: NDArray) -> dict[str, list[int]]:
        """What three rules choose at the authors' `SHARES`."""
        flat = np.ones(len(traces))
        return {
            "program, traces": [self.program(traces, share) for share in SHARES],
            "program, weight error": [self.program(flat, share) for share in SHARES],
            "8 bits from the front": [self.early(share) for share in SHARES],
        }

    def place(self, chosen: NDArray) -> int:
        """The place of a choice, (layers,), among all."""
        return int((self.high == chosen).all(1).argmax())

    def avoided(self, place: int, phi: float) -> float:
        """Share of the loss that a choice avoids: 0 at all low bits, 1 at the best choice that is allowed."""
        spent = self.summed(*self.costs)
        allowed = spent <= budget(*self.costs, phi) * (1 + 1e-12)
        for a, b in TIES:
            allowed &= self.high[:, a] == self.high[:, b]
        worst, best = self.loss[0], self.loss[allowed].min()
        return float((worst - self.loss[place]) / (worst - best))


# --- sizes and operations ---------------------------------------------------------------------------------


class Layer(NamedTuple):
    """Weights and biases that a layer stores, and its multiply-accumulates for an image of 224 x 224."""

    name: str
    parameters: int
    macs: int


def resnet_layers(depth: int) -> list[Layer]:
    """Convolutions and head of ResNet18 or ResNet50 (the first version, strides in its 1 x 1 convolutions).

    BatchNorm is folded, and its biases do not count, as the paper has it. Raises ``ValueError`` for another
    depth.
    """
    if depth not in (18, 50):
        raise ValueError(f"depth must be 18 or 50, got {depth}")
    deep = depth == 50
    expansion, units = (4, (3, 4, 6, 3)) if deep else (1, (2, 2, 2, 2))
    found = [Layer("stem", 7 * 7 * 3 * 64, 7 * 7 * 3 * 64 * 112 * 112)]
    inside, size = 64, 56

    def add(name: str, kernel: int, into: int, out: int) -> None:
        weights = kernel * kernel * into * out
        found.append(Layer(name, weights, weights * size * size))

    for stage, count in enumerate(units, start=1):
        width = 64 * 2 ** (stage - 1)
        for unit in range(1, count + 1):
            name, out = f"stage{stage}.unit{unit}", width * expansion
            size = size // 2 if stage > 1 and unit == 1 else size
            kernels = [(1, inside, width), (3, width, width), (1, width, out)]
            for index, layer in enumerate(kernels if deep else [(3, inside, out), (3, out, out)], start=1):
                add(f"{name}.conv{index}", *layer)
            if inside != out:
                add(f"{name}.skip", 1, inside, out)
            inside = out
    return [*found, Layer("head", inside * 1000 + 1000, inside * 1000)]


def bops(macs: ArrayLike, weight_bits: ArrayLike, act_bits: ArrayLike) -> NDArray:
    """Bit operations: each multiply-accumulate counts the product of its two widths."""
    return np.asarray(macs, float) * np.asarray(weight_bits) * np.asarray(act_bits)


def stored_bytes(parameters: ArrayLike, bits: ArrayLike) -> NDArray:
    """Bytes of a layer's parameters."""
    return np.asarray(parameters, float) * np.asarray(bits) / 8


def costs(depth: int, inner: int, edge: int = 8) -> tuple[float, float]:
    """Size (MB of 2^20 bytes) and 10^9 bit operations of a ResNet, first and last layer at ``edge`` bits."""
    layers = resnet_layers(depth)
    wide = [edge, *[inner] * (len(layers) - 2), edge]
    size = stored_bytes([layer.parameters for layer in layers], wide).sum() / 2**20
    return float(size), float(bops([layer.macs for layer in layers], wide, wide).sum() / 1e9)


# --- what the authors published ---------------------------------------------------------------------------

PUBLISHED = Path(__file__).resolve().parents[3] / "data" / "others" / "hawq" / "ilp.csv"
PUBLISHED_SHA256 = "391d77a9e3d891fbcd12293523751b851229bb927dc0b2a2e8d97c6c0445ac69"

CONSTRAINTS = ("size", "bops", "latency")
SHARES = (0.25, 0.5, 0.75)
"""The authors' three budgets: low, medium, high."""


def published(network: str) -> pd.DataFrame:
    """The authors' numbers for the inner layers of ``"resnet18"`` or ``"resnet50"``, a row a layer.

    Columns: layer, parameters, macs, trace (mean), dw4 and dw8 (squared errors), lat4 and lat8 (milliseconds
    on a T4), and the bits that they chose, such as ``bops_25`` for a quarter of the span. From
    Zhen-Dong/HAWQ, MIT. Raises ``ValueError`` for another network, or if the file is not the one committed.
    """
    checks.one_of(("resnet18", "resnet50"), network=network)
    content = PUBLISHED.read_bytes()
    if hashlib.sha256(content).hexdigest() != PUBLISHED_SHA256:
        raise ValueError(f"{PUBLISHED.name} is not the file that was committed")
    table = pd.read_csv(io.BytesIO(content))
    return table[table["network"] == network].reset_index(drop=True)


def published_ties(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Pairs of rows: each skip and the first convolution of its unit."""
    rows = {name: row for row, name in enumerate(table["layer"])}
    return [(rows[n.replace("skip", "conv1")], row) for n, row in rows.items() if n.endswith("skip")]


def published_costs(table: pd.DataFrame, constraint: str) -> tuple[NDArray, NDArray]:
    """Cost of each layer at 4 bits and at 8: bytes, bit operations or milliseconds.

    Raises ``ValueError`` for a constraint that is none of `CONSTRAINTS`.
    """
    checks.one_of(CONSTRAINTS, constraint=constraint)
    if constraint == "latency":
        return table["lat4"].to_numpy(), table["lat8"].to_numpy()
    if constraint == "size":
        return stored_bytes(table["parameters"], 4), stored_bytes(table["parameters"], 8)
    return bops(table["macs"], 4, 4), bops(table["macs"], 8, 8)


Choose = Callable[[pd.DataFrame, NDArray, NDArray, float], NDArray]
"""Chooses the layers of 8 bits from the authors' table, two costs a layer and the limit."""


def by_program(traces: Callable[[pd.DataFrame], ArrayLike] = lambda table: table["trace"]) -> Choose:
    """The paper's choice, with the authors' traces or others."""

    def choose(table: pd.DataFrame, low: NDArray, high: NDArray, limit: float) -> NDArray:
        coarse, fine = (perturbation(traces(table), table[name]) for name in ("dw4", "dw8"))
        return allocate_bits(coarse, fine, low, high, limit, published_ties(table))

    return choose


def by_depth(table: pd.DataFrame, low: NDArray, high: NDArray, limit: float) -> NDArray:
    """The lazy choice, `early_layers`."""
    return early_layers(low, high, limit, published_ties(table))


class Problem:
    """The inner layers of a network as the authors published them, with a cost that is limited.

    ``network`` as in `published`, ``constraint`` as in `published_costs`; a choice is the layers of 8 bits.
    """

    def __init__(self, network: str, constraint: str):
        self.table, self.constraint = published(network), constraint
        self.costs = published_costs(self.table, constraint)
        self.damage = [perturbation(self.table["trace"], self.table[name]) for name in ("dw4", "dw8")]

    def limit(self, share: float) -> float:
        """The cost that a share of the span allows."""
        return budget(*self.costs, share)

    def choose(self, rule: Choose, limit: float) -> NDArray[np.bool_]:
        """What a rule chooses at a limit."""
        return rule(self.table, *self.costs, limit)

    def theirs(self, share: float) -> NDArray[np.bool_]:
        """What the authors published, for one of their `SHARES`."""
        return (self.table[f"{self.constraint}_{100 * share:.0f}"] == 8).to_numpy()

    def spent(self, chosen: NDArray) -> float:
        """What a choice costs."""
        return float(np.where(chosen, *self.costs[::-1]).sum())

    def avoided(self, chosen: NDArray) -> float:
        """Share of the perturbation that it avoids, see `recovered`."""
        return recovered(chosen, *self.damage)

    def gap(self, chosen: NDArray, limit: float) -> float:
        """How far a choice's perturbation is from the least that `brute_force` finds."""
        (coarse, fine), (low, high) = self.damage, self.costs
        least = brute_force(coarse, fine, low, high, limit, published_ties(self.table))
        return abs(float(np.where(chosen, *self.damage[::-1]).sum()) - least)


EIGHTEEN = [(n, c, share) for n in ("resnet18", "resnet50") for c in CONSTRAINTS for share in SHARES]
"""The authors' problems: network, constraint, share."""


def decisions(rule: Choose) -> dict[tuple[str, str, float], NDArray]:
    """What a rule chooses in each of the `EIGHTEEN`."""
    problems = {key: Problem(*key[:2]) for key in EIGHTEEN}
    return {key: one.choose(rule, one.limit(key[2])) for key, one in problems.items()}


def agreement(found: Mapping[tuple[str, str, float], NDArray]) -> int:
    """Layers, of 639, that have the bits that the authors published."""
    return sum(int((chosen == Problem(*key[:2]).theirs(key[2])).sum()) for key, chosen in found.items())


def bit_map(network: str, found: Mapping[tuple[str, str, float], NDArray]) -> pd.DataFrame:
    """Bits of each layer (columns, from 1) in a network's nine problems; 6 where the authors' differ."""
    rows = {}
    for key, chosen in found.items():
        if key[0] == network:
            same = chosen == Problem(*key[:2]).theirs(key[2])
            rows[f"{key[1]} {key[2]:g}"] = np.where(same, np.where(chosen, 8, 4), 6)
    table = pd.DataFrame(rows).T
    table.columns = pd.Index(range(1, table.shape[1] + 1), name="layer")
    return table
