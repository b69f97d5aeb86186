"""Polyphase anchoring: the grid of a vision transformer follows the image, so that shifts commute with it.

Ding et al., "Reviving Shift Equivariance in Vision Transformers", arXiv 2306.07470, 2023. Details were read
in the official repository (willding123/Shift-Equivariant-Vision-Transformers); the code here is written anew.

Implemented: the anchor (section 3 of the paper), the circular positional convolution, window and subsampled
attention on anchored maps, ViT and Twins-SVT with and without all that at any size, the published sizes, and
what they are judged by: shifts, consistency, affine maps, a roll that centres the image.

Departures. An index gathers the rolled image, where the authors pad and interpolate to the nearest pixel; the
two axes may differ in length. Energies are summed in float64, or in float32 as published. They may be of
another order than the published second, because after a LayerNorm all tokens have nearly the same energy of
the second. No dropout and no stochastic depth; weights start as torch draws them.

Shifts are circular. A map of tokens is (batch, dim, height, width), as an image is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, linear, scaled_dot_product_attention

from fourfold import checks
from fourfold.attention import EPS, MLP, Attention, Block

ORDERS = (1, 2, 4)
"""Orders of a polyphase component's energy: the sum of its absolute values to that power."""

# --- the anchor -------------------------------------------------------------------------------------------


def polyphase_energy(
    x: Tensor, stride: int, order: int = 2, precision: torch.dtype = torch.float64
) -> Tensor:
    """The norm of every polyphase component, (batch, stride, stride), computed in ``precision``.

    Component (p, q) of ``x`` (batch, channels, height, width) is ``x[..., p::stride, q::stride]``. Its norm
    of order 2 is the paper's, which the authors' code computes in float32. Raises ``ValueError`` unless
    ``stride`` divides both sides, and for an order that is not in ``ORDERS``.
    """
    checks.divides(x.shape[-2], "height", stride=stride)
    checks.divides(x.shape[-1], "width", stride=stride)
    checks.one_of([str(known) for known in ORDERS], order=str(order))
    powers = x.to(precision).square() if order > 1 else x.to(precision).abs()
    if order == 4:
        powers = powers.square()
    sums = reduce(powers, "b c (y p) (x q) -> b p q", "sum", p=stride, q=stride)
    return sums ** (1 / order)


def strongest_phase(x: Tensor, stride: int, order: int = 2, precision: torch.dtype = torch.float64) -> Tensor:
    """Row and column, each in 0..stride-1, where the strongest component of each image starts: (batch, 2)."""
    best = polyphase_energy(x.detach(), stride, order, precision).flatten(1).argmax(1)
    return torch.stack([best // stride, best % stride], 1)


def roll(x: Tensor, shifts: Tensor) -> Tensor:
    """Every image rolled by its own shift: x (batch, channels, height, width), shifts (batch, 2) down, right.

    As ``torch.roll`` of each image. Gradients pass; the shift is a constant.
    """
    height, width = x.shape[-2:]
    rows = (torch.arange(height) - shifts[:, :1]) % height
    columns = (torch.arange(width) - shifts[:, 1:]) % width
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    flat = x.flatten(2)
    return flat.gather(2, index[:, None].expand_as(flat)).view_as(x)


def anchor(x: Tensor, stride: int, order: int = 2, precision: torch.dtype = torch.float64) -> Tensor:
    """Every image rolled so that its strongest polyphase component starts at the grid's origin.

    (batch, channels, height, width) -> the same shape. A shift of the input rolls the output by a multiple of
    ``stride``: what works on cells of that side sees the same cells, in an order that is rolled. A tie of two
    components is no longer broken by the content. Raises what ``polyphase_energy`` raises.
    """
    return roll(x, -strongest_phase(x, stride, order, precision))


def energy_gap(x: Tensor, stride: int, order: int = 2) -> Tensor:
    """How far the strongest component is above the second, over its own energy: (batch,), 0 for a tie."""
    first, second = polyphase_energy(x, stride, order).flatten(1).topk(2, 1).values.unbind(1)
    return (first - second) / first


# --- layers -----------------------------------------------------------------------------------------------


def over_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm of every token of a map (batch, dim, height, width)."""
    return rearrange(norm(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")


class CircularPEG(nn.Module):
    """Positions from neighbours: ``x`` plus a depthwise 3 x 3 convolution of it that wraps around.

    With ``padding="zeros"`` it is that of Twins, which knows where the border is.
    """

    def __init__(self, dim: int, padding: Literal["circular", "zeros"] = "circular"):
        super().__init__()
        self.convolution = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, padding_mode=padding)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        return x + self.convolution(x)


class PolyPatchEmbed(nn.Module):
    """One linear map of every ``stride`` x ``stride`` square, on a grid that the image itself anchors.

    ``order`` None leaves the grid where it is; ``norm`` ends in a LayerNorm of every token. ``precision``, in
    which energies are computed, may be set to another dtype later.
    """

    def __init__(self, stride: int, channels: int, dim: int, order: int | None = 2, norm: bool = True):
        super().__init__()
        self.stride, self.order, self.precision = stride, order, torch.float64
        self.projection = nn.Conv2d(channels, dim, stride, stride)
        self.norm = nn.LayerNorm(dim) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, dim, height / stride, width / stride).

        Raises ``ValueError`` unless ``stride`` divides both sides: what is left over would be lost.
        """
        checks.divides(x.shape[-2], "height", stride=self.stride)
        checks.divides(x.shape[-1], "width", stride=self.stride)
        if self.order is not None:
            x = anchor(x, self.stride, self.order, self.precision)
        # The convolution as one product of matrices, which is faster where kernel and stride are the same.
        squares = rearrange(x, "b c (y p) (x q) -> b y x (c p q)", p=self.stride, q=self.stride)
        tokens = linear(squares, self.projection.weight.flatten(1), self.projection.bias)
        return rearrange(tokens if self.norm is None else self.norm(tokens), "b y x c -> b c y x")


class LocalAttention(nn.Module):
    """Attention within windows of ``window`` x ``window`` tokens, without overlap.

    Raises ``ValueError`` unless ``heads`` divides ``dim``.
    """

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        checks.at_least(1, window=window)
        checks.divides(dim, "dim", heads=heads)
        self.heads, self.window = heads, window
        self.qkv, self.projection = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape. ``ValueError`` unless ``window`` divides both."""
        side = self.window
        checks.divides(x.shape[-2], "height", window=side)
        checks.divides(x.shape[-1], "width", window=side)
        windows = rearrange(x, "b c (y p) (x q) -> b (y x) (p q) c", p=side, q=side)
        pattern = "b windows n (three heads d) -> three b windows heads n d"
        q, k, v = rearrange(self.qkv(windows), pattern, three=3, heads=self.heads)
        mixed = scaled_dot_product_attention(q, k, v)
        mixed = self.projection(rearrange(mixed, "b windows heads n d -> b windows n (heads d)"))
        rows = x.shape[-2] // side
        return rearrange(mixed, "b (y x) (p q) c -> b c (y p) (x q)", y=rows, p=side)


class GlobalSubAttention(nn.Module):
    """Attention of every token on a smaller map, which a convolution with kernel = stride = ``sr`` makes.

    With ``sr`` = 1 it is plain attention. Raises ``ValueError`` unless ``heads`` divides ``dim``.
    """

    def __init__(self, dim: int, heads: int, sr: int):
        super().__init__()
        checks.at_least(1, sr=sr)
        checks.divides(dim, "dim", heads=heads)
        self.heads, self.sr = heads, sr
        self.q, self.kv, self.projection = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.reduction = PolyPatchEmbed(sr, dim, dim, order=None) if sr > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape. Raises ``ValueError`` unless ``sr`` divides both."""
        small = x if self.reduction is None else self.reduction(x)
        tokens, asked = (rearrange(each, "b c h w -> b (h w) c") for each in (x, small))
        q = rearrange(self.q(tokens), "b n (heads d) -> b heads n d", heads=self.heads)
        k, v = rearrange(self.kv(asked), "b m (two heads d) -> two b heads m d", two=2, heads=self.heads)
        mixed = self.projection(
            rearrange(scaled_dot_product_attention(q, k, v), "b heads n d -> b n (heads d)")
        )
        return rearrange(mixed, "b (h w) c -> b c h w", h=x.shape[-2])


class TwinsBlock(nn.Module):
    """The map anchored to its own content, then ``x + attention(norm(x))`` and ``x + mlp(norm(x))``.

    ``cell`` is the side of what the attention takes together, a window or a square of the subsampling;
    ``precision`` as in ``PolyPatchEmbed``.
    """

    def __init__(self, dim: int, attention: nn.Module, cell: int, mlp_ratio: int, order: int | None):
        super().__init__()
        self.attention, self.cell, self.order, self.precision = attention, cell, order, torch.float64
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.mlp = MLP(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape, rolled where it was anchored."""
        if self.order is not None and self.cell > 1:
            x = anchor(x, self.cell, self.order, self.precision)
        x = x + self.attention(over_channels(self.norm_attention, x))
        mixed = self.mlp(self.norm_mlp(rearrange(x, "b c h w -> b h w c")))
        return x + rearrange(mixed, "b h w c -> b c h w")


# --- networks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwinsSpec:
    """Sizes of a Twins-SVT: a value for each stage, and what the stages share.

    A stage's blocks attend by turns within windows and to the subsampled map. Raises ``ValueError`` for
    stages that do not end in the second kind, on whose anchor the next stage relies, and for lists of
    different lengths.
    """

    dims: Sequence[int]
    depths: Sequence[int]
    heads: Sequence[int]
    patches: Sequence[int] = (4, 2, 2, 2)
    sr: Sequence[int] = (8, 4, 2, 1)
    window: int = 7
    mlp_ratio: int = 4
    channels: int = 3
    classes: int = 1000

    def __post_init__(self) -> None:
        """Check the sizes."""
        for name in ("depths", "heads", "patches", "sr"):
            if len(getattr(self, name)) != len(self.dims):
                given = list(getattr(self, name))
                raise ValueError(f"{name} must be one for each of dims = {list(self.dims)}, got {given}")
        if any(depth < 2 or depth % 2 for depth in self.depths):
            raise ValueError(f"depths must be even and >= 2, got {list(self.depths)}")


TWINS = {
    "Twins-SVT-S": TwinsSpec((64, 128, 256, 512), (2, 2, 10, 4), (2, 4, 8, 16)),
    "Twins-SVT-B": TwinsSpec((96, 192, 384, 768), (2, 2, 18, 2), (3, 6, 12, 24)),
    "Twins-SVT-L": TwinsSpec((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32)),
}
"""The published sizes, for 224 x 224 pixels and 1000 classes."""


class Twins(nn.Module):
    """Twins-SVT; with an ``order`` its grids are anchored and its positional convolutions wrap around.

    A stage is its patches, a first block, the convolution for positions, and the other blocks. Stages after
    the first need no anchor before their patches: the last block of the stage before left no shift but
    multiples of its ``sr``. The mean of all tokens is read.
    """

    def __init__(self, spec: TwinsSpec, order: int | None = None):
        super().__init__()
        self.stages = nn.ModuleList(_stage(spec, index, order) for index in range(len(spec.dims)))
        self.norm = nn.LayerNorm(spec.dims[-1], eps=EPS)
        self.head = nn.Linear(spec.dims[-1], spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        x = images
        for stage in self.stages:
            x = stage(x)
        return self.head(reduce(over_channels(self.norm, x), "b c h w -> b c", "mean"))


def _stage(spec: TwinsSpec, index: int, order: int | None) -> nn.Sequential:
    dim, heads, sr = spec.dims[index], spec.heads[index], spec.sr[index]
    blocks = [
        TwinsBlock(dim, attention, cell, spec.mlp_ratio, order)
        for _ in range(spec.depths[index] // 2)
        for attention, cell in (
            (LocalAttention(dim, heads, spec.window), spec.window),
            (GlobalSubAttention(dim, heads, sr), sr),
        )
    ]
    before = spec.dims[index - 1] if index else spec.channels
    patches = PolyPatchEmbed(spec.patches[index], before, dim, None if index else order)
    positions = CircularPEG(dim, "zeros" if order is None else "circular")
    return nn.Sequential(patches, blocks[0], positions, *blocks[1:])


@dataclass(frozen=True)
class ViTSpec:
    """Sizes of a plain vision transformer on square images of ``image`` x ``image`` pixels."""

    dim: int
    depth: int
    heads: int
    patch: int = 16
    image: int = 224
    mlp_ratio: int = 4
    channels: int = 3
    classes: int = 1000


VIT = {"ViT-S/16": ViTSpec(384, 12, 6), "ViT-B/16": ViTSpec(768, 12, 12)}
"""The published sizes."""


class ViT(nn.Module):
    """A vision transformer that reads its class token.

    The paper's has an ``order`` (anchored patches), ``peg`` (a circular convolution for positions, before the
    class token joins) and ``token_norm`` (a LayerNorm of the patches, added by the authors' code); the plain
    one has none of them and learned positions. Raises ``ValueError`` unless ``patch`` divides ``image``.
    """

    def __init__(self, spec: ViTSpec, order: int | None = None, peg: bool = False, token_norm: bool = False):
        super().__init__()
        checks.divides(spec.image, "image", patch=spec.patch)
        tokens = (spec.image // spec.patch) ** 2
        self.embed = PolyPatchEmbed(spec.patch, spec.channels, spec.dim, order, token_norm)
        self.cls = nn.Parameter(0.02 * torch.randn(spec.dim))
        self.peg = CircularPEG(spec.dim) if peg else None
        self.positions = None if peg else nn.Parameter(0.02 * torch.randn(tokens + 1, spec.dim))
        self.blocks = nn.ModuleList(
            Block(spec.dim, Attention(spec.dim, spec.heads), MLP(spec.dim, spec.mlp_ratio * spec.dim))
            for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(spec.dim, eps=EPS)
        self.head = nn.Linear(spec.dim, spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, image, image) -> logits (batch, classes)."""
        x = self.embed(images)
        if self.peg is not None:
            x = self.peg(x)
        x = rearrange(x, "b c h w -> b (h w) c")
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], 1)
        if self.positions is not None:
            x = x + self.positions
        for index, block in enumerate(self.blocks, start=1):
            # Only the class token is read, so the last block computes no other.
            x, _ = block(x, queries=1 if index == len(self.blocks) else None)
        return self.head(self.norm(x[:, 0]))


# --- the rival, and what networks are judged by -----------------------------------------------------------


def centred(x: Tensor) -> Tensor:
    """Every image rolled so that its circular centroid lies at the middle, rounded to whole pixels.

    (batch, channels, height, width) -> the same shape. The centroid is the direction of the mean of
    ``exp(2 pi i y / height)``, weighted by squared values: like the anchor a roll that follows the content,
    but one that leaves no shift at all.
    """
    weights = reduce(x.double().square(), "b c h w -> b h w", "sum")
    shifts = []
    for kept, size in (("b h", x.shape[-2]), ("b w", x.shape[-1])):
        angles = 2 * torch.pi * torch.arange(size, dtype=torch.float64) / size
        profile = reduce(weights, f"b h w -> {kept}", "sum")
        mean = torch.atan2(profile @ angles.sin(), profile @ angles.cos()) * size / (2 * torch.pi)
        shifts.append(size // 2 - mean.round().long())
    return roll(x, torch.stack(shifts, 1))


class Centred(nn.Module):
    """A network that sees every image `centred`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> what the network makes of it."""
        return self.network(centred(images))


@torch.no_grad()
def over_shifts(model: nn.Module, images: Tensor, shifts: Sequence[tuple[int, int]]) -> Tensor:
    """Logits for every circular shift of the images: (shifts, n, classes)."""
    return torch.stack([model(torch.roll(images, shift, (-2, -1))) for shift in shifts])


def consistency(logits: Tensor) -> float:
    """Share of equal predictions among all pairs of different shifts: logits (shifts, n, classes).

    Raises ``ValueError`` for fewer than two shifts.
    """
    checks.at_least(2, shifts=len(logits))
    count = len(logits)
    votes = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
    return float((votes * (votes - 1)).sum(-1).double().mean() / (count * (count - 1)))


def spread(logits: Tensor) -> Tensor:
    """How far any logit of an image moves over the shifts: (shifts, n, classes) -> (n,)."""
    return (logits.amax(0) - logits.amin(0)).amax(-1)


def worst_shift_drop(logits: Tensor, labels: Tensor) -> float:
    """Accuracy without a shift, the first one, minus that at the shift that is worst for the set.

    logits (shifts, n, classes), labels (n,). The first half of the images chooses the shift and the second is
    judged at it, so that the luck of a choice among many is not counted. Raises ``ValueError`` for fewer than
    two images.
    """
    checks.at_least(2, images=len(labels))
    right = (logits.argmax(-1) == labels).double()
    half = len(labels) // 2
    worst = int(right[:, :half].mean(-1).argmin())
    return float(right[0, half:].mean() - right[worst, half:].mean())


def affine(images: Tensor, angle: Tensor, move: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Every image sheared, magnified, turned about its centre, then moved; what comes from outside is 0.

    ``images``: square, (n, channels, side, side). ``angle`` and ``shear`` in degrees and ``scale`` > 0, each
    (n,); ``move``: share of the side to the right and down, (n, 2). Between pixels values are interpolated
    bilinearly. Raises ``ValueError`` for images that are not square and a scale that is not > 0.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images must be square, got {tuple(images.shape)}")
    if not (scale > 0).all():
        raise ValueError(f"scale must be > 0, got {scale.tolist()}")
    turn = torch.deg2rad(angle)
    slope = torch.deg2rad(shear).tan()
    one, zero = torch.ones_like(turn), torch.zeros_like(turn)
    turned = _matrices((turn.cos(), turn.sin()), (-turn.sin(), turn.cos()))
    sheared = _matrices((one, zero), (slope, one))
    # From where each pixel comes, in coordinates that run from -1 to 1.
    back = torch.linalg.inv(scale[:, None, None] * turned @ sheared)
    theta = torch.cat([back, -back @ (2 * move[..., None])], -1).to(images.dtype)
    return grid_sample(
        images, affine_grid(theta, list(images.shape), align_corners=False), align_corners=False
    )


def _matrices(*rows: tuple[Tensor, Tensor]) -> Tensor:
    """Matrices (n, 2, 2) from their entries (n,), row by row."""
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def cropped(images: Tensor, offsets: Tensor) -> Tensor:
    """Every image moved by its own offset, (n, 2) pixels down and right; what comes from outside is 0.

    The same as a crop of the image's size from the image with a border of zeros. Raises ``ValueError`` for
    an offset of a side or more.
    """
    height, width = images.shape[-2:]
    if offsets.abs().max() >= min(height, width):
        raise ValueError(f"offsets must be below {min(height, width)}, got {int(offsets.abs().max())}")
    rows = torch.arange(height) - offsets[:, :1]
    columns = torch.arange(width) - offsets[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    return roll(images, offsets) * inside[:, None]


def shift_error(one: Tensor, others: Tensor) -> float:
    """How far maps, (n, channels, height, width), are from being circular shifts of ``one``, without n.

    The largest difference, each map taken at the shift where its cross-correlation is largest, which for two
    shifted maps is the shift between them.
    """
    spectrum, spectra = torch.fft.fft2(one), torch.fft.fft2(others)
    correlation = torch.fft.ifft2((spectrum.conj() * spectra).sum(1)).real
    best, width = correlation.flatten(1).argmax(1), others.shape[-1]
    back = -torch.stack([best // width, best % width], 1)
    return float((roll(others, back) - one).abs().max())
