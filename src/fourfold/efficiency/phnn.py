"""PHNNs: a layer's weights as a sum of n Kronecker products, whose rule of multiplication is learnt.

Grassucci, Zhang and Comminiello, "PHNNs: Lightweight Neural Networks via Parameterized Hypercomplex
Convolutions", arXiv 2110.04176, IEEE TNNLS 2022. Sizes and details were read in the official repository
(eleGAN23/HyperNets); the code here is written anew.

Implemented: the parameterised hypercomplex linear layer and convolution in one, two and three dimensions
(section III), known algebras as their fixed case, the residual networks that the paper counts, and small
networks of such layers. Beside these, what fourfold holds against them: multiplication by the table of an
algebra, least squares, the nearest sum of Kronecker products, grouped convolutions, and its two tasks.

Departures. A bias is added where there is one; the official convolution makes one, counts it and never adds
it. Weights start with He's variance; the official start, ``init="xavier"``, has a smaller one.

An algebra is ``A`` (n, n, n), one matrix for each of its units; filters are ``F`` (n, o/n, c/n, *kernel).
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import linear, relu
from torch.utils.flop_counter import FlopCounterMode

from fourfold import checks, cost
from fourfold.data.probes import Images

Init = Literal["he", "xavier"]

# --- algebras ---------------------------------------------------------------------------------------------

LEFT = {
    "real": "r",
    "complex": "r -x / x r",
    "split_complex": "r x / x r",
    "dual": "r 0 / x r",
    "quaternion": "r -x -y -z / x r -z y / y z r -x / z -y x r",
    "klein": "r x y z / x r z y / y z r x / z y x r",
}
"""What multiplying by r + x i + y j + z k from the left does, as a matrix; ``klein``: Klein's four-group."""

TABLES = {
    "complex": ("1 i", "i -1"),
    "quaternion": ("1 i j k", "i -1 k -j", "j -k -1 i", "k j -i -1"),
}
"""Products of units: row times column (Hamilton 1843)."""


def algebra(name: str) -> Tensor:
    """The matrices of a known algebra, float64 (n, n, n): W = sum_i A_i f_i multiplies by f from the left.

    Raises ``ValueError`` for a name that `LEFT` does not have.
    """
    checks.one_of(LEFT, name=name)
    rows = [row.split() for row in LEFT[name].split("/")]
    found = torch.zeros(len(rows), len(rows), len(rows), dtype=torch.float64)
    for a, row in enumerate(rows):
        for b, entry in enumerate(row):
            if entry != "0":
                found["rxyz".index(entry[-1]), a, b] = -1 if entry.startswith("-") else 1
    return found


def table_convolution(name: str, F: Tensor, x: Tensor) -> Tensor:
    """A hypercomplex convolution unit by unit, n^2 real ones, each with the sign that the table gives it.

    ``F``: (n, o/n, c/n, *kernel), the filters' components; ``x``: (batch, c, *size), n blocks of channels.
    Returns (batch, o, *size) without padding. Raises ``ValueError`` for a name that `TABLES` does not have.
    """
    checks.one_of(TABLES, name=name)
    units = TABLES[name][0].split()
    convolve = _convolution(F.ndim - 3)
    parts = [torch.zeros(()).to(x)] * len(units)
    for filters, row in zip(F, TABLES[name], strict=True):
        for component, product in zip(x.chunk(len(units), 1), row.split(), strict=True):
            sign, place = (-1 if product.startswith("-") else 1), units.index(product.lstrip("-"))
            parts[place] = parts[place] + sign * convolve(component, filters)
    return torch.cat(parts, 1)


def table_error(table: str | None, rule: Tensor, generator: torch.Generator) -> float:
    """Largest difference between convolutions with a rule (n, n, n) and by a table, in 1, 2 and 3 dimensions.

    Random filters of side three, three channels and two outputs a component, maps of side five. No table:
    against the real convolution by the first component's filters.
    """
    n, worst = len(rule), 0.0
    for dim in (1, 2, 3):
        filters = torch.randn(n, 2, 3, *[3] * dim, dtype=rule.dtype, generator=generator)
        x = torch.randn(2, 3 * n, *[5] * dim, dtype=rule.dtype, generator=generator)
        convolve = _convolution(dim)
        by_hand = table_convolution(table, filters, x) if table else convolve(x, filters[0])
        worst = max(worst, float((convolve(x, kron_channels(rule, filters)) - by_hand).abs().max()))
    return worst


class Match(NamedTuple):
    """How well a learnt algebra is a target's, and the target's matrices as combinations of the learnt."""

    residual: float
    A: Tensor


def match_algebra(A: Tensor, target: Tensor) -> Match:
    """The best change of basis over the units: min over M of |sum_j M_ij A_j - target_i| / |target|.

    Filters absorb the inverse of M, so a layer knows an algebra only up to it. 0: every filter of the
    target can be made. Both (n, n, n), of any n each. Raises ``ValueError`` for matrices of unlike size.
    """
    if A.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"A and target must have matrices of one size, got {tuple(A.shape)} and {tuple(target.shape)}"
        )
    basis, wanted = A.detach().flatten(1).to(target).T, target.flatten(1).T
    found = basis @ torch.linalg.lstsq(basis, wanted, driver="gelsd").solution
    return Match(float((found - wanted).norm() / wanted.norm()), found.T.reshape(target.shape))


# --- the mechanism ----------------------------------------------------------------------------------------


def kron_channels(A: Tensor, F: Tensor) -> Tensor:
    """The weights of a layer, sum_i A_i (x) F_i, the Kronecker product taken over the two axes of channels.

    ``A``: (n, n, n); ``F``: (n, o/n, c/n, *kernel), without a kernel for a linear layer. Returns
    (o, c, *kernel).
    Raises ``ValueError`` for other shapes.
    """
    n = len(F)
    if A.shape != (n, n, n) or F.ndim < 3:
        raise ValueError(
            f"A must be (n, n, n) and F (n, o/n, c/n, *kernel), got {tuple(A.shape)} and {tuple(F.shape)}"
        )
    weight = torch.einsum("nab, npq... -> apbq...", A, F)
    return weight.flatten(2, 3).flatten(0, 1)


class PHConv(nn.Module):
    """A parameterised hypercomplex convolution: W = sum_i A_i (x) F_i, then an ordinary convolution by W.

    ``A``: learnt unless given, (n, n, n), and then a buffer. ``dim`` 0 is the linear layer. ``init``:
    ``"he"`` gives W the variance 2 / (c k^dim), ``"xavier"`` is the official start of both factors.
    Raises ``ValueError`` unless n divides channels and outputs, and for an impossible A, ``dim`` or ``init``.
    """

    def __init__(
        self,
        n: int,
        channels: int,
        outputs: int,
        kernel: int = 3,
        *,
        dim: int = 2,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        A: Tensor | None = None,
        init: Init = "he",
    ):
        super().__init__()
        checks.at_least(1, n=n, channels=channels, outputs=outputs, kernel=kernel, stride=stride)
        checks.at_least(0, padding=padding)
        checks.between(0, 3, dim=dim)
        checks.divides(channels, "channels", n=n)
        checks.divides(outputs, "outputs", n=n)
        checks.one_of(get_args(Init), init=init)
        if A is None:
            self.A = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n, n, n)))
        else:
            if A.shape != (n, n, n):
                raise ValueError(f"A must be ({n}, {n}, {n}), got {tuple(A.shape)}")
            self.register_buffer("A", A.to(torch.get_default_dtype()))
        filters = torch.empty(n, outputs // n, channels // n, *[kernel] * dim)
        if init == "xavier":
            nn.init.xavier_uniform_(filters)
        else:
            variance = 2 / (channels * kernel**dim) / (n * self.A.detach().square().mean())
            filters.normal_().mul_(variance.sqrt())
        self.F = nn.Parameter(filters)
        bound = 1 / math.sqrt(channels * kernel**dim)
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)) if bias else None
        self.dim, self.stride, self.padding = dim, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, *size), for the linear layer (..., channels) -> the same with its outputs."""
        weight = kron_channels(self.A, self.F)
        if self.dim == 0:
            return linear(x, weight, self.bias)
        return _convolution(self.dim)(x, weight, self.bias, self.stride, self.padding)


def PHLinear(n: int, channels: int, outputs: int, bias: bool = True, A: Tensor | None = None) -> PHConv:
    """The parameterised hypercomplex linear layer (PHM): a `PHConv` of no dimension."""
    return PHConv(n, channels, outputs, 1, dim=0, bias=bias, A=A)


def _convolution(dim: int) -> Callable[..., Tensor]:
    checks.between(1, 3, dim=dim)
    return getattr(functional, f"conv{dim}d")


# --- least squares, and what needs no training ------------------------------------------------------------


def fit_filters(A: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Filters F (n, o/n, c/n, *kernel) that fit examples best while the algebra stays as it is.

    ``x``: (m, c, *kernel), what a filter covers; ``y``: (m, o). With A = [[[1]]] it is the real layer. Of
    several equally good filters, the smallest. Raises ``ValueError`` unless n divides channels and outputs.
    """
    n = len(A)
    checks.divides(x.shape[1], "channels", n=n)
    checks.divides(y.shape[1], "outputs", n=n)
    blocks = x.flatten(2).unflatten(1, (n, -1))
    design = torch.einsum("nab, mbqk -> manqk", A.to(x), blocks).flatten(2).flatten(0, 1)
    wanted = y.unflatten(1, (n, -1)).flatten(0, 1)
    found = torch.linalg.lstsq(design, wanted, driver="gelsd").solution
    return found.T.reshape(-1, n, x.shape[1] // n, *x.shape[2:]).transpose(0, 1)


def product_error(m: int, generator: torch.Generator, shuffled: bool = False) -> float:
    """Largest error of the quaternions' algebra by `fit_algebra` from m random products.

    ``shuffled``: each pair has another pair's product.
    """
    f, x = torch.randn(2, m, 4, dtype=torch.float64, generator=generator)
    rule = algebra("quaternion")
    y = torch.einsum("mi, iab, mb -> ma", f, rule, x)
    return float((fit_algebra(f, x, y.roll(1, 0) if shuffled else y) - rule).abs().max())


def fit_algebra(f: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The algebra (n, n, n) for which y = sum_i f_i A_i x fits best; f, x and y are (m, n)."""
    design = torch.einsum("mi, mb -> mib", f, x).flatten(1)
    found = torch.linalg.lstsq(design, y, driver="gelsd").solution
    return found.reshape(f.shape[1], x.shape[1], -1).transpose(1, 2)


def nearest_kronecker(weight: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The sum of n Kronecker products nearest to a layer's weights (Van Loan and Pitsianis 1993), by one SVD.

    ``weight``: (o, c, *kernel). Returns A (n, n, n) and F (n, o/n, c/n, *kernel).
    Raises ``ValueError`` unless n divides channels and outputs.
    """
    outputs, channels, *kernel = weight.shape
    checks.divides(channels, "channels", n=n)
    checks.divides(outputs, "outputs", n=n)
    blocks = weight.flatten(2).unflatten(1, (n, -1)).unflatten(0, (n, -1))
    rows = rearrange(blocks, "a p b q k -> (a b) (p q k)")
    left, size, right = torch.linalg.svd(rows, full_matrices=False)
    A = (left * size)[:, :n].T.reshape(n, n, n)
    return A, right[:n].reshape(n, outputs // n, channels // n, *kernel)


class Refit(NamedTuple):
    """A layer's weights (o, c, *kernel), and their relative error on examples that it has not seen."""

    weight: Tensor
    error: float


def refit(A: Tensor, x: Tensor, y: Tensor, examples: int) -> Refit:
    """Fit filters to the first ``examples`` by `fit_filters`, and try them on the others."""
    weight = kron_channels(A, fit_filters(A, x[:examples], y[:examples]))
    found = weight.flatten(1) @ x[examples:].flatten(1).T
    return Refit(weight, float(relative_error(found.T, y[examples:])))


def nearest_algebra(x: Tensor, y: Tensor, examples: int, n: int) -> Tensor:
    """The algebra (n, n, n) of the sum of Kronecker products nearest to the real layer that fits examples."""
    return nearest_kronecker(refit(algebra("real"), x, y, examples).weight, n)[0]


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """|found - wanted| / |wanted|, over all axes: a scalar."""
    return (found - wanted).norm() / wanted.norm()


class Fitted(nn.Module):
    """One hypercomplex convolution of as many outputs as channels, side three, on what a filter covers."""

    def __init__(self, n: int, channels: int):
        super().__init__()
        self.layer = PHConv(n, channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(m, channels, 3, 3) -> (m, channels)."""
        return self.layer(x).flatten(1)


def convolution_examples(
    rule: Tensor | None, channels: int, m: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Normal inputs (m, channels, 3, 3) and what a random convolution makes of them (m, channels), float64.

    ``rule``: the algebra (n, n, n) of the convolution; without one its weights are independent.
    Raises ``ValueError`` for m < 1, and unless n divides the channels.
    """
    checks.at_least(1, m=m)
    n = 1 if rule is None else len(rule)
    checks.divides(channels, "channels", n=n)
    how = {"dtype": torch.float64, "generator": generator}
    filters = torch.randn(n, channels // n, channels // n, 3, 3, **how)  # type: ignore[call-overload]
    weight = filters[0] if rule is None else kron_channels(rule, filters)
    x = torch.randn(m, channels, 3, 3, **how)  # type: ignore[call-overload]
    return x, torch.einsum("ocyx, mcyx -> mo", weight / weight.norm() * math.sqrt(channels), x)


# --- the networks that the paper counts -------------------------------------------------------------------

WIDTHS = (60, 120, 240, 516)
"""Of the "Large" residual networks: 2, 3 and 4 divide them."""

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}

Kind = Literal["real", "ph", "grouped"]


def ph_param_count(n: int, channels: int, outputs: int, kernel: int, dim: int = 2, bias: bool = True) -> int:
    """Weights of one layer: n^3 of the algebra, o c k^dim / n of the filters, and a bias an output."""
    checks.divides(channels, "channels", n=n)
    checks.divides(outputs, "outputs", n=n)
    return n**3 + outputs * channels * kernel**dim // n + bias * outputs


class Step(NamedTuple):
    """A convolution of a residual network, with BatchNorm after it."""

    channels: int
    outputs: int
    kernel: int
    stride: int


class Block(NamedTuple):
    """The convolutions of a residual block, and that of its shortcut, where it has one."""

    path: tuple[Step, ...]
    shortcut: Step | None


def resnet_blocks(depth: int, widths: Sequence[int] = WIDTHS) -> list[Block]:
    """The blocks of a residual network for small images, after the stem, in their order.

    Raises ``ValueError`` for a depth that is not 18, 50 or 152.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}, got {depth}")
    enters, found = widths[0], []
    for stage, (width, count) in enumerate(zip(widths, BLOCKS[depth], strict=True)):
        for index in range(count):
            stride = 2 if stage and not index else 1
            if depth == 18:
                leaves = width
                path: tuple[Step, ...] = (Step(enters, width, 3, stride), Step(width, width, 3, 1))
            else:
                leaves = 4 * width
                path = (
                    Step(enters, width, 1, 1), Step(width, width, 3, stride), Step(width, leaves, 1, 1)
                )  # fmt: skip
            changes = stride > 1 or enters != leaves
            found.append(Block(path, Step(enters, leaves, 1, stride) if changes else None))
            enters = leaves
    return found


class Residual(nn.Module):
    """A residual block of convolutions with BatchNorm."""

    def __init__(self, block: Block, kind: Kind, n: int):
        super().__init__()
        self.path = nn.ModuleList(_normed(step, kind, n) for step in block.path)
        self.shortcut = nn.Identity() if block.shortcut is None else _normed(block.shortcut, kind, n)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, outputs, height / stride, width / stride)."""
        *inner, last = self.path
        change = x
        for step in inner:
            change = relu(step(change))
        return relu(last(change) + self.shortcut(x))


def _normed(step: Step, kind: Kind, n: int) -> nn.Module:
    sizes, padding = (step.channels, step.outputs, step.kernel), step.kernel // 2
    if kind == "ph":
        made: nn.Module = PHConv(n, *sizes, stride=step.stride, padding=padding)
    else:
        groups = n if kind == "grouped" else 1
        made = nn.Conv2d(*sizes, step.stride, padding, groups=groups, bias=False)
    return nn.Sequential(made, nn.BatchNorm2d(step.outputs))


def input_channels(n: int) -> int:
    """Of colour images: three, or with channels of zeros so many that n divides them."""
    return -(-3 // n) * n


def ph_resnet(
    depth: int, n: int, widths: Sequence[int] = WIDTHS, classes: int = 10, kind: Kind = "ph"
) -> nn.Sequential:
    """A residual network of hypercomplex layers, or of real or grouped ones; the last layer is real.

    Images are (batch, 3, height, width), with channels of zeros in front where n does not divide 3.
    Raises ``ValueError`` unless n divides all widths, and for another depth or kind.
    """
    checks.one_of(get_args(Kind), kind=kind)
    for width in widths:
        checks.divides(width, "a width", n=n)
    blocks = resnet_blocks(depth, widths)
    stem = Step(3 if kind == "real" else input_channels(n), widths[0], 3, 1)
    out = blocks[-1].path[-1].outputs
    return nn.Sequential(
        _normed(stem, kind, n),
        nn.ReLU(),
        *(Residual(block, kind, n) for block in blocks),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(out, classes),
    )


def ph_resnet_count(depth: int, n: int, widths: Sequence[int] = WIDTHS, classes: int = 10) -> int:
    """Parameters of ``ph_resnet`` by the closed form, biases that the official code never adds included."""
    blocks = resnet_blocks(depth, widths)
    steps = [Step(input_channels(n), widths[0], 3, 1)]
    for block in blocks:
        steps += [*block.path, *([block.shortcut] if block.shortcut else [])]
    convolutions = sum(ph_param_count(n, s.channels, s.outputs, s.kernel) + 2 * s.outputs for s in steps)
    return convolutions + classes * (blocks[-1].path[-1].outputs + 1)


@cache
def ph_resnet_size(depth: int, n: int, kind: Kind = "ph", narrower: float = 1.0) -> int:
    """Parameters of ``ph_resnet`` as built, without weights; widths divided by ``narrower`` and rounded."""
    widths = [round(width / narrower) for width in WIDTHS]
    with torch.device("meta"):
        net = ph_resnet(depth, n, widths, kind=kind)
    return cost.parameters(net)


def resnet_shares(n: int, kind: Kind = "ph", narrower: float = 1.0) -> dict[int, float]:
    """depth -> parameters over those of the real network of that depth."""
    return {
        depth: ph_resnet_size(depth, n, kind, narrower) / ph_resnet_size(depth, 1, "real") for depth in BLOCKS
    }


def farthest_share(n: int) -> float:
    """The one of `resnet_shares` that is farthest from 1/n."""
    return max(resnet_shares(n).values(), key=lambda share: abs(share - 1 / n))


class LayerMacs(NamedTuple):
    """Multiply-accumulates of a layer: of its convolution, and of all else, such as building its weights."""

    convolution: int
    rest: int


def macs_by_operation(layer: nn.Module, *shape: int) -> LayerMacs:
    """What a layer takes for an input of this shape, counted by torch; nothing is computed."""
    twin = layer.to("meta")
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty(shape, device="meta"))
    convolution = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] // 2
    return LayerMacs(convolution, counter.get_total_flops() // 2 - convolution)


# --- small networks ---------------------------------------------------------------------------------------


class PHNet(nn.Module):
    """Convolutions of side three with BatchNorm and ReLU, the mean over positions, and a real linear layer.

    ``rule``: an algebra's name, or ``"learned"``, or ``"frozen"``: as random as a learnt one starts, and
    left so. ``stem``: the n of the first layer, if it is another. With n = 1 a layer is real. Where n does
    not divide the channels, zeros stand in front of them.
    Raises ``ValueError`` as `PHConv` does, for a ``dim`` but 1 and 2, and unless each width has a stride.
    """

    def __init__(
        self,
        n: int,
        channels: int,
        widths: Sequence[int],
        strides: Sequence[int],
        classes: int,
        *,
        rule: str = "learned",
        dim: int = 2,
        stem: int | None = None,
    ):
        super().__init__()
        if len(strides) != len(widths) or not widths:
            raise ValueError(f"strides must be one for each of widths = {list(widths)}, got {list(strides)}")
        checks.between(1, 2, dim=dim)
        first = stem or n
        self.zeros = -channels % first
        norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dim]
        layers: list[nn.Module] = []
        sizes = pairwise([channels + self.zeros, *widths])
        for index, ((enters, leaves), stride) in enumerate(zip(sizes, strides, strict=True)):
            units = first if index == 0 else n
            A = _rule("real" if units == 1 else rule, units)
            conv = PHConv(units, enters, leaves, dim=dim, stride=stride, padding=1, bias=False, A=A)
            layers += [conv, norm(leaves), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, *size) -> logits (batch, classes)."""
        if self.zeros:
            x = torch.cat([x.new_zeros(len(x), self.zeros, *x.shape[2:]), x], 1)
        return self.head(self.body(x).flatten(2).mean(2))


def _rule(rule: str, n: int) -> Tensor | None:
    if rule == "learned":
        return None
    if rule == "frozen":
        return nn.init.xavier_uniform_(torch.empty(n, n, n))
    return algebra(rule)


def thin_widths(
    n: int, channels: int, widths: Sequence[int], strides: Sequence[int], classes: int, dim: int = 2
) -> list[int]:
    """Widths of the largest real `PHNet` with no more weights than one of n units, learnt, has at ``widths``.

    All widths are scaled by one factor and rounded. The other arguments are those of `PHNet`.
    """

    def count(n: int, widths: Sequence[int]) -> int:
        sizes = pairwise([channels + -channels % n, *widths])
        weights = sum(ph_param_count(n, *size, 3, dim, bias=False) - (n == 1) for size in sizes)
        return weights + 2 * sum(widths) + classes * (widths[-1] + 1)

    most = count(n, widths)
    tried = [[max(1, round(width * share / 200)) for width in widths] for share in range(1, 201)]
    return max((thin for thin in tried if count(1, thin) <= most), key=sum)


# --- the tasks --------------------------------------------------------------------------------------------

PHOTOS = {
    "astronaut": "skimage.data/astronaut.png",
    "cat": "skimage.data/chelsea.png",
    "coffee": "skimage.data/coffee.png",
    "histology": "skimage.data/ihc.png",
    "retina": "skimage.data/retina.jpg",
    "rocket": "skimage.data/rocket.jpg",
    "galaxies": "skimage.data/hubble_deep_field.jpg",
    "temple": "sklearn.datasets.images/china.jpg",
    "flower": "sklearn.datasets.images/flower.jpg",
}
"""Colour photographs that scikit-image and scikit-learn ship: package and file."""

Part = Literal["train", "held-out", "test"]
COLUMNS = {"train": (0.0, 0.5), "held-out": (0.5, 0.75), "test": (0.75, 1.0)}
"""Which of a photograph's columns a part has, so that no pixel is in two."""


@cache
def _photo(name: str) -> Tensor:
    """(3, height, width) in 0..1."""
    package, file = PHOTOS[name].split("/")
    with files(package).joinpath(file).open("rb") as opened:
        pixels = np.asarray(Image.open(opened).convert("RGB"))
    return torch.tensor(pixels).movedim(-1, 0).float() / 255


def colour_patches(n_per_class: int, part: Part, generator: torch.Generator, size: int = 16) -> Images:
    """Crops (n, 3, size, size) of colour photographs; the label is the photograph that a crop is of.

    Places are drawn with equal probability within the columns of the part. Values are (v - 0.45) / 0.25.
    Raises ``ValueError`` for no crops, an unknown part, and a size outside 1..100.
    """
    checks.at_least(1, n_per_class=n_per_class)
    checks.one_of(get_args(Part), part=part)
    checks.between(1, 100, "the narrowest part of a photograph", size=size)
    crops, labels = [], []
    for label, name in enumerate(PHOTOS):
        photo = _photo(name)
        height, width = photo.shape[1:]
        left, right = (round(share * width) for share in COLUMNS[part])
        rows = torch.randint(height - size + 1, (n_per_class,), generator=generator).tolist()
        columns = torch.randint(left, right - size + 1, (n_per_class,), generator=generator).tolist()
        crops += [photo[:, y : y + size, x : x + size] for y, x in zip(rows, columns, strict=True)]
        labels += [label] * n_per_class
    return Images((torch.stack(crops) - 0.45) / 0.25, torch.tensor(labels))


def colour_histograms(crops: Tensor, bins: int = 4) -> Tensor:
    """How many pixels of a crop have a colour, (n, bins^3): the lazy way to know a photograph."""
    places = ((crops * 0.25 + 0.45) * bins).long().clamp(0, bins - 1)
    colour = (places[:, 0] * bins + places[:, 1]) * bins + places[:, 2]
    return functional.one_hot(colour.flatten(1), bins**3).float().mean(1)


DELAYS = 9
"""Directions of a tone: delays of -2 to 2 samples between two microphones, half a sample apart."""


def two_microphones(n: int, generator: torch.Generator, length: int = 64, noise: float = 0.5) -> Images:
    """Tones at two microphones, (n, 2, length), and the direction that each comes from (n,).

    A tone has a random frequency, 0.04 to 0.2 cycles a sample, phase and loudness; the second microphone
    hears it later or earlier. Both hear noise of their own. At the highest frequency the largest delay is
    less than half a period, so no two directions sound alike. Raises ``ValueError`` for sizes below 1.
    """
    checks.at_least(1, n=n, length=length)
    labels = torch.randint(DELAYS, (n,), generator=generator)
    pitch, phase, loud = torch.rand(3, n, 1, 1, generator=generator)
    delay = ((labels - DELAYS // 2) / 2)[:, None, None] * torch.tensor([[0.0], [1.0]])
    turns = (0.04 + 0.16 * pitch) * (torch.arange(length) - delay) + phase
    heard = (0.5 + loud) * torch.sin(2 * math.pi * turns)
    return Images(heard + noise * torch.randn(heard.shape, generator=generator), labels)


def cross_correlations(heard: Tensor, reach: int = 4) -> Tensor:
    """Two microphones (n, 2, length) -> (n, 2 reach + 1), normalised: the classical way to a direction."""
    first, second = heard.unbind(1)
    found = [(first * second.roll(-lag, 1)).mean(1) for lag in range(-reach, reach + 1)]
    return torch.stack(found, 1) / heard.square().mean((1, 2))[:, None]


LAZY = {
    "logistic regression": lambda x: x.flatten(1),
    "SVM": lambda x: x.flatten(1),
    "histogram of colours": colour_histograms,
    "cross-correlation": cross_correlations,
}
"""Classifiers without a network, by name: what they are told. All but the SVM are logistic regression."""


def lazy_accuracy(name: str, known: Images, unseen: Images) -> float:
    """The share of unseen images that a classifier of `LAZY` gets right.

    The SVM has radial basis functions. Raises ``ValueError`` for another name.
    """
    # Importing scikit-learn takes a second, which readers of the networks should not wait.
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    checks.one_of(LAZY, name=name)
    strength = {"logistic regression": 0.01, "histogram of colours": 1000.0}.get(name, 1.0)
    model = SVC(C=10) if name == "SVM" else LogisticRegression(C=strength, max_iter=1000)
    model.fit(LAZY[name](known.images).numpy(), known.labels.numpy())
    return float(model.score(LAZY[name](unseen.images).numpy(), unseen.labels.numpy()))
