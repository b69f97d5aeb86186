"""DLGSANet: depthwise kernels made for each pixel, in turn with attention between channels that a ReLU thins.

Li, Pan, Tang and Dong, "DLGSANet: Lightweight Dynamic Local and Global Self-Attention Networks for Image
Super-Resolution", arXiv 2301.02031, ICCV 2023. Sizes and details were read in the official repository
(NeonLeexiang/DLGSANet); the code here is written anew.

Implemented: dynamic depthwise convolution (MHDLSA), gated attention between channels (SparseGSA) with tiles
at test time (TLC), their block (HDTB) and residual group (RHDTG), the network at its published sizes, the
authors' formula for its cost, and the true cost. Beside these, what fourfold holds against the parts: kernels
of a whole image, static ones, other gates, and blocks of one kind of layer.

A departure: the authors run TLC in every test, here ``tile`` says whether and how large tiles are.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, relu

from fourfold import checks, cost
from fourfold.super_resolution import GDFN, SCALES, ChannelNorm, SuperResolver

Kernels = Literal["pixel", "image", "static", "near"]
Gate = Literal["relu", "softmax", "none", "own"]
Kind = Literal["local", "global"]
Weigh = Callable[[Tensor], Tensor]

SIZES = {"tiny": (48, 3, 3), "light": (48, 4, 3), "regular": (90, 6, 4)}
"""Channels, groups, and blocks in each group of the published networks."""

TILES = {2: 96, 3: 72, 4: 48}
"""The authors' side of tiles at test time for each scale, pixels of the small image."""

EXPANSION = 2.0
"""Hidden channels of each feed-forward network for each channel."""


# --- local: kernels for every pixel -----------------------------------------------------------------------


def dynamic_depthwise(u: Tensor, kernels: Tensor) -> Tensor:
    """Convolve every pixel with its own kernel: sum over d of k_d(p) u(p + d), zero beyond the border.

    ``u``: (batch, channels, height, width). ``kernels``: (batch, groups, window^2, height, width), one for
    each group of neighbouring channels; with (..., 1, 1) the same at all pixels. Raises ``ValueError`` for a
    window that is not odd, or groups that do not divide the channels.
    """
    groups, places = kernels.shape[1:3]
    window = math.isqrt(places)
    if window**2 != places or window % 2 == 0:
        raise ValueError(f"kernels must have the square of an odd number of places, got {places}")
    checks.divides(u.shape[1], "channels", groups=groups)
    padded = pad(u, [window // 2] * 4).unflatten(1, (groups, -1))
    height, width = u.shape[-2:]
    made = torch.zeros_like(u).unflatten(1, (groups, -1))
    for place in range(places):
        down, across = divmod(place, window)
        beside = padded[..., down : down + height, across : across + width]
        made = torch.addcmul(made, kernels[:, :, place, None], beside)
    return made.flatten(1, 2)


def generator(dim: int, window: int, share: int) -> nn.Sequential:
    """What makes kernels of features: (batch, dim, h, w) -> (batch, window^2 dim / share, h, w), linear.

    A 1 x 1 convolution to a quarter of the channels, a depthwise one as large as the kernels, and a 1 x 1
    convolution. The authors' ``heads`` are ``share``: how many channels have one kernel.
    """
    quarter = dim // 4
    return nn.Sequential(
        nn.Conv2d(dim, quarter, 1),
        nn.Conv2d(quarter, quarter, window, padding=window // 2, groups=quarter),
        nn.Conv2d(quarter, window**2 * (dim // share), 1),
    )


class DynamicConv(nn.Module):
    """A depthwise convolution by kernels that a `generator` makes of its own input.

    ``whole``: one kernel for all pixels of an image, the mean of those generated. Raises ``ValueError`` for
    an even window, dim below 4, or share that does not divide dim.
    """

    def __init__(self, dim: int, window: int, share: int, whole: bool = False):
        super().__init__()
        checks.at_least(4, dim=dim)
        checks.divides(dim, "dim", share=share)
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window must be odd and >= 1, got {window}")
        self.dim, self.window, self.whole = dim, window, whole
        self.generate = generator(dim, window, share)

    def forward(self, u: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        kernels = self.generate(u).unflatten(1, (-1, self.window**2))
        return dynamic_depthwise(u, kernels.mean((-2, -1), keepdim=True) if self.whole else kernels)


def mhdlsa(dim: int, window: int, share: int, kernels: Kernels = "pixel") -> nn.Sequential:
    """Local mixing: 1 x 1 convolution, depthwise convolution, 1 x 1 convolution.

    ``kernels``: ``"pixel"``, generated for each pixel; ``"image"``, their mean over the image; ``"static"``,
    learnt ones, as large; ``"near"``, learnt ones of 3 x 3. Raises ``ValueError`` for others.
    """
    checks.one_of(get_args(Kernels), kernels=kernels)
    if kernels in ("pixel", "image"):
        mixing: nn.Module = DynamicConv(dim, window, share, kernels == "image")
    else:
        side = window if kernels == "static" else 3
        mixing = nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim)
    return nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), mixing, nn.Conv2d(dim, dim, 1, bias=False))


# --- global: attention between channels -------------------------------------------------------------------


GATES: dict[str, Weigh] = {
    "relu": relu,
    "softmax": lambda scores: scores.softmax(-1),
    "none": lambda scores: scores,
    "own": lambda scores: torch.eye(scores.shape[-1]).to(scores).expand_as(scores),
}
"""From scaled similarities (..., n, n) to weights; with ``"own"`` each channel keeps its own value."""


def channel_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, weigh: Weigh) -> Tensor:
    """Mix channels by how alike they are over all pixels: weigh(t q k^T) v, q and k of length 1.

    ``q``, ``k``, ``v``: (batch, heads, channels, pixels); ``temperature``: (heads, 1, 1) -> as ``v``.
    """
    similarity = normalize(q, dim=-1) @ normalize(k, dim=-1).transpose(-2, -1)
    return weigh(temperature * similarity) @ v


def tlc_apply(attend: Callable[[Tensor], Tensor], qkv: Tensor, tile: int) -> Tensor:
    """Attend within overlapping square tiles and average what overlaps (Chu et al., arXiv 2112.04491).

    ``attend``: queries, keys and values (batch, 3, dim, h, w) -> (batch, dim, h, w). As few tiles as cover
    the map, equally far apart; a side shorter than ``tile`` is one tile. Raises ``ValueError`` for tile < 1.
    """
    checks.at_least(1, tile=tile)
    height, width = qkv.shape[-2:]
    total, count = torch.zeros_like(qkv[:, 0]), qkv.new_zeros(height, width)
    for top in _starts(height, tile):
        for left in _starts(width, tile):
            place = (..., slice(top, top + tile), slice(left, left + tile))
            total[place] += attend(qkv[place])
            count[place] += 1
    return total / count


def _starts(side: int, tile: int) -> list[int]:
    """Where tiles begin: 0, and the last one at the end of the side."""
    gaps = -(-side // tile) - 1
    step = -(-(side - tile) // gaps) if gaps else tile
    return sorted({min(index * step, max(0, side - tile)) for index in range(gaps + 1)})


class SparseGSA(nn.Module):
    """Global mixing: `channel_attention` of queries, keys and values by 1 x 1 and depthwise 3 x 3.

    ``gate``: how similarities become weights, a key of ``GATES``; ``tile``: see `tlc_apply`, in evaluation
    mode only; None for none. Raises ``ValueError`` for another gate, heads that do not divide dim, tile < 1.
    """

    def __init__(self, dim: int, heads: int, gate: Gate = "relu", tile: int | None = None):
        super().__init__()
        checks.divides(dim, "dim", heads=heads)
        checks.one_of(get_args(Gate), gate=gate)
        if tile is not None:
            checks.at_least(1, tile=tile)
        self.heads, self.tile, self.weigh = heads, tile, GATES[gate]
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Sequential(
            nn.Conv2d(dim, 3 * dim, 1, bias=False),
            nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=False),
        )
        self.projection = nn.Conv2d(dim, dim, 1, bias=False)

    def attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values (batch, 3, dim, height, width) -> (batch, dim, height, width)."""
        height, width = qkv.shape[-2:]
        q, k, v = rearrange(qkv, "b t (heads c) y x -> t b heads c (y x)", heads=self.heads)
        mixed = channel_attention(q, k, v, self.temperature, self.weigh)
        return rearrange(mixed, "b heads c (y x) -> b (heads c) y x", y=height, x=width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        qkv = self.qkv(x).unflatten(1, (3, -1))
        tiled = self.tile is not None and not self.training
        return self.projection(tlc_apply(self.attend, qkv, self.tile) if tiled else self.attend(qkv))  # type: ignore[arg-type]


# --- which similarities are kept --------------------------------------------------------------------------


@contextmanager
def weighing(net: nn.Module, weigh: Weigh) -> Iterator[None]:
    """Within the block every `SparseGSA` of ``net`` weighs by this function instead of its gate."""
    layers = [module for module in net.modules() if isinstance(module, SparseGSA)]
    gates = [layer.weigh for layer in layers]
    try:
        for layer in layers:
            layer.weigh = weigh
        yield
    finally:
        for layer, gate in zip(layers, gates, strict=True):
            layer.weigh = gate


def positive(scores: Tensor) -> Tensor:
    """Keeps what a ReLU keeps: (..., n, n) -> the same shape, as the functions that follow."""
    return relu(scores)


def negative(scores: Tensor) -> Tensor:
    """Keeps what a ReLU drops."""
    return scores.clamp(max=0)


def largest(scores: Tensor) -> Tensor:
    """Keeps as many as are positive, matrix by matrix, those of largest magnitude."""
    sizes = scores.flatten(-2).abs()
    ranks = sizes.argsort(-1, descending=True).argsort(-1)
    kept = ranks < (scores > 0).flatten(-2).sum(-1, keepdim=True)
    return scores * kept.unflatten(-1, scores.shape[-2:])


def at_random(generator: torch.Generator) -> Weigh:
    """Keeps as many as are positive, matrix by matrix, drawn at random."""

    def keep(scores: Tensor) -> Tensor:
        order = torch.rand(scores.flatten(-2).shape, generator=generator).argsort(-1)
        return scores * (scores > 0).flatten(-2).gather(-1, order).unflatten(-1, scores.shape[-2:])

    return keep


# --- the network ------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """x + mixing(norm(x)), then x + GDFN(norm(x))."""

    def __init__(self, dim: int, mixing: nn.Module, hidden: int):
        super().__init__()
        self.norm_mixing, self.norm_gdfn = ChannelNorm(dim), ChannelNorm(dim)
        self.mixing, self.gdfn = mixing, GDFN(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        x = x + self.mixing(self.norm_mixing(x))
        return x + self.gdfn(self.norm_gdfn(x))


def local_layer(dim: int, share: int, window: int, kernels: Kernels, expansion: float = EXPANSION) -> Layer:
    """A `Layer` of `mhdlsa`. Where there is no generator its GDFN is wider, for nearly as many parameters."""
    mixing = mhdlsa(dim, window, share, kernels)
    with torch.device("meta"):
        missing = cost.parameters(mhdlsa(dim, window, share)) - cost.parameters(mixing)
    return Layer(dim, mixing, int(expansion * dim) + round(missing / (3 * dim + 18)))


class RHDTG(nn.Module):
    """The residual group: x + convolution of layers."""

    def __init__(self, dim: int, *layers: Layer):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.after = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        return x + self.after(self.layers(x))


def dlgsanet(
    scale: int,
    dim: int = 48,
    groups: int = 4,
    blocks: int = 3,
    heads: int = 6,
    share: int = 6,
    *,
    window: int = 7,
    kinds: Sequence[Kind] = ("local", "global"),
    kernels: Kernels = "pixel",
    gate: Gate = "relu",
    tile: int | None = None,
    expansion: float = EXPANSION,
    over_bicubic: bool = False,
) -> SuperResolver:
    """DLGSANet, the light one by default: groups of blocks (HDTB), each block a layer of each of ``kinds``.

    Raises ``ValueError`` for sizes that do not fit one another, or another scale than 2, 3 or 4.
    """
    checks.at_least(1, groups=groups, blocks=blocks)
    checks.finite(1, expansion=expansion)
    for kind in kinds:
        checks.one_of(get_args(Kind), kind=kind)
    make: dict[Kind, Callable[[], Layer]] = {
        "local": lambda: local_layer(dim, share, window, kernels, expansion),
        "global": lambda: Layer(dim, SparseGSA(dim, heads, gate, tile), int(expansion * dim)),
    }
    body = (RHDTG(dim, *(make[kind]() for kind in [*kinds] * blocks)) for _ in range(groups))
    net = SuperResolver(nn.Sequential(*body), dim, scale, over_bicubic=over_bicubic)
    net.first = nn.Conv2d(3, dim, 3, padding=1, bias=False)
    return net


# --- what it costs ----------------------------------------------------------------------------------------


def small_sides(scale: int) -> tuple[int, int]:
    """Height and width of what becomes 1280 x 720, rounded down; scale is 2, 3 or 4."""
    checks.between(min(SCALES), max(SCALES), scale=scale)
    return 720 // scale, 1280 // scale


def true_macs(net: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of convolutions and matrix products, dynamic convolutions included."""
    dynamic = sum(layer.dim * layer.window**2 for layer in net.modules() if isinstance(layer, DynamicConv))
    return cost.macs(net, (1, 3, height, width)) + dynamic * height * width


def official_macs(size: str, scale: int) -> float:
    """What the authors' own ``flops`` says of a published size, for 1280 x 720 pixels enlarged.

    Beside the layers it counts a norm as one each value and attention in tiles. It differs from the true cost
    in four terms: depthwise 3 x 3 of a GDFN at one pixel, the body's last convolution as 3 c^2 and not 9 c^2,
    the last one without scale^2, and the generator's depthwise one over c and not c / 4 channels.
    """
    (dim, groups, blocks), (height, width) = SIZES[size], small_sides(scale)
    pixels, squared, tile = height * width, dim**2, TILES[scale]
    tiled = -(-height // tile) * -(-width // tile) * tile**2
    feed_forward = pixels * 6 * squared + 36 * dim
    made = squared / 4 + 49 * dim + 49 * squared / (4 * 6)
    local = pixels * (2 * dim + 2 * squared + made + 49 * dim) + feed_forward
    attention = pixels * (2 * dim + 4 * squared + 27 * dim) + tiled * 2 * squared / 6 + feed_forward
    group = blocks * (local + attention) + pixels * 9 * squared
    return groups * group + pixels * (27 * dim + 3 * squared + 27 * dim)
