"""H-DenseUNet: a 2-D network reads slices, a 3-D one volumes, the sum of their features is classified.

Li et al., "H-DenseUNet: Hybrid Densely Connected UNet for Liver and Tumor Segmentation from CT Volumes",
arXiv 1709.07330, IEEE TMI 2018. Sizes and details were read in the official repository
(xmengli/H-DenseUNet); the code here is written anew.

Implemented: the slice transform and its inverse, both DenseUNets at any size, with and without the U-Net's
skips, auto-context, the fusion of features (section III of the paper), the weighted loss, Dice, decisions by
a threshold and scores averaged over slices; made-up volumes; and what a training step keeps in memory.

Departures. One affine BatchNorm stands for Keras' BatchNorm and learned scale, which are the same function.
Networks may have any number of blocks. The 3-D network with all skips has widths of ours, since the released
ones do not allow the additions, and neither do they in the released code.

Volumes are (batch, 1, depth, height, width), label maps (batch, depth, height, width) of 0 for background, 1
for liver and 2 for tumour.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d, cross_entropy, interpolate

from fourfold import checks

Skips = Literal["all", "projected", "none"]
"""Which of the U-Net's additions there are: all, only that by a 1 x 1 convolution at the bottom, or none."""

Along = Literal["strided", "full", "in-plane"]
"""What a 3-D network does along the depth: kernels with strides in stem and first pool, as in the paper;
kernels without strides; or neither, so that it sees each slice by itself."""

Context = Literal["scores", "zeros", "blurred"]
"""What the 3-D network sees beside the volume: the 2-D network's scores, nothing, or the volume blurred."""

CLASSES, LIVER, TUMOUR = 3, 1, 2
WEIGHTS = (0.78, 0.65, 8.57)
"""Of the loss: background, liver, tumour."""


# --- slices -----------------------------------------------------------------------------------------------


def adjacent_slices(volume: Tensor, reach: int = 1) -> Tensor:
    """(batch, 1, depth, height, width) -> (batch * depth, 2 * reach + 1, height, width): each slice as an
    image whose channels are the slices around it; at both ends the last slice stands for those beyond.

    Raises ``ValueError`` for volumes of more than one channel and a negative reach.
    """
    checks.at_least(0, reach=reach)
    if volume.ndim != 5 or volume.shape[1] != 1:
        raise ValueError(f"volume must be (batch, 1, depth, height, width), got {tuple(volume.shape)}")
    depth = volume.shape[2]
    around = torch.arange(depth)[:, None] + torch.arange(-reach, reach + 1)
    images = volume[:, 0, around.clamp(0, depth - 1).to(volume.device)]
    return rearrange(images, "b d c h w -> (b d) c h w")


def stack_slices(features: Tensor, depth: int) -> Tensor:
    """(batch * depth, dim, height, width) -> (batch, dim, depth, height, width).

    Raises ``ValueError`` unless depth divides the number of images.
    """
    checks.divides(len(features), "the number of images", depth=depth)
    return rearrange(features, "(b d) c h w -> b c d h w", d=depth)


# --- the networks -----------------------------------------------------------------------------------------


class Spec(NamedTuple):
    """Sizes of a DenseUNet. ``widths``: of the decoder's steps, one more than there are blocks."""

    dim: Literal[2, 3]
    in_chans: int
    stem: int
    growth: int
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    skips: Skips = "all"
    along: Along = "strided"
    dropout: float = 0.3

    @property
    def block_chans(self) -> list[int]:
        """Channels after each block: where transitions halve them, before they do."""
        found, chans = [], self.stem
        for number in self.layers:
            found.append(chans + number * self.growth)
            chans = found[-1] // 2
        return found

    @property
    def boxes(self) -> list[int]:
        """Channels of the maps that skips add: after the stem and after each block but the last."""
        return [self.stem, *self.block_chans[:-1]]


def fitting(stem: int, growth: int, layers: Sequence[int]) -> Spec:
    """A 2-D network whose decoder is as wide as the maps that are added, then as the stem; no dropout."""
    spec = Spec(2, 3, stem, growth, tuple(layers), (), dropout=0.0)
    return spec._replace(widths=(*spec.boxes[-2::-1], stem, stem))


TWO_D = Spec(2, 3, 96, 48, (6, 12, 36, 24), (768, 384, 96, 96, 64))
"""2-D DenseUNet-167, as in the authors' file for slices alone. Their hybrid has ``skips="none"``."""
THREE_D = Spec(3, 4, 96, 32, (3, 4, 12, 8), (504, 224, 192, 96, 64), "none")
"""3-D DenseUNet-65, as the authors' hybrid has it."""
THREE_D_SKIPS = THREE_D._replace(widths=(224, 192, 96, 96, 64), skips="all")
"""The same with all additions: widths are ours, for the released ones do not fit."""
DEEP_THREE_D = TWO_D._replace(dim=3, in_chans=4)
"""The layers of the 2-D network in three dimensions."""


class _Kit(NamedTuple):
    """Makes layers of two or three dimensions, that look along the depth or not."""

    dim: Literal[2, 3]
    along: Along

    # Any: torch's types want a tuple of two or of three, by the layer.
    def sides(self, side: int, deep: int | None = None) -> Any:
        """A kernel or a stride: ``deep`` along the depth, by default as in the plane."""
        return (side,) * 2 if self.dim == 2 else (side if deep is None else deep, side, side)

    def kernel(self, side: int) -> Any:
        """Of convolutions and of the first pool."""
        return self.sides(side, 1 if self.along == "in-plane" else None)

    def conv(self, chans: int, out: int, side: int, stride: int = 1, bias: bool = False) -> nn.Module:
        """A convolution that keeps the size, or divides it by the stride."""
        kernel = self.kernel(side)
        make = nn.Conv2d if self.dim == 2 else nn.Conv3d
        return make(
            chans, out, kernel, self.strides(stride), padding=tuple(k // 2 for k in kernel), bias=bias
        )

    def strides(self, stride: int) -> Any:
        """Of stem and first pool, and how much the last two steps of the decoder enlarge."""
        return self.sides(stride, stride if self.along == "strided" else 1)

    def norm(self, chans: int) -> nn.Module:
        """BatchNorm, then ReLU."""
        return nn.Sequential((nn.BatchNorm2d if self.dim == 2 else nn.BatchNorm3d)(chans), nn.ReLU())

    def first_pool(self) -> nn.Module:
        """Largest of 3, stride 2."""
        kernel = self.kernel(3)
        make = nn.MaxPool2d if self.dim == 2 else nn.MaxPool3d
        return make(kernel, self.strides(2), padding=tuple(k // 2 for k in kernel))

    def halving(self) -> nn.Module:
        """Means of 2 x 2; the depth stays."""
        return (nn.AvgPool2d if self.dim == 2 else nn.AvgPool3d)(self.sides(2, 1))


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1 x 1 to four times the growth; BatchNorm, ReLU, 3 x 3; appended to what came in."""

    def __init__(self, chans: int, growth: int, kit: _Kit):
        super().__init__()
        self.norm1, self.narrow = kit.norm(chans), kit.conv(chans, 4 * growth, 1)
        self.norm2, self.wide = kit.norm(4 * growth), kit.conv(4 * growth, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, chans, ...) -> (batch, chans + growth, ...)."""
        return torch.cat([x, self.wide(self.norm2(self.narrow(self.norm1(x))))], 1)


class DenseUNet(nn.Module):
    """A DenseNet whose last map is enlarged step by step, with the encoder's maps added on the way.

    Each step: nearest upsampling, plus the encoder's map of that size, 3 x 3, BatchNorm, ReLU. Raises
    ``ValueError`` for sizes that are not one a block, or widths that do not fit the maps to be added.
    """

    def __init__(self, spec: Spec, classes: int = CLASSES):
        super().__init__()
        checks.one_of(get_args(Skips), skips=spec.skips)
        checks.one_of(get_args(Along), along=spec.along)
        checks.between(2, 3, dim=spec.dim)
        checks.at_least(1, classes=classes, in_chans=spec.in_chans, stem=spec.stem, growth=spec.growth)
        checks.at_least(1, layers=min(spec.layers), widths=min(spec.widths))
        chans, steps = spec.block_chans, len(spec.widths)
        if steps != len(chans) + 1:
            raise ValueError(f"widths must be {len(chans) + 1}, one more than layers, got {spec.widths}")
        if spec.skips == "all" and (wanted := tuple(spec.boxes[-2::-1])) != spec.widths[: steps - 2]:
            raise ValueError(f"widths must start with {wanted} for skips to be added, got {spec.widths}")
        kit = _Kit(spec.dim, spec.along)
        self.spec = spec
        self.stem = nn.Sequential(kit.conv(spec.in_chans, spec.stem, 7, 2), kit.norm(spec.stem))
        self.pool = kit.first_pool()
        enters = [spec.stem, *(n // 2 for n in chans)]
        self.blocks = nn.ModuleList(
            nn.Sequential(*(DenseLayer(n + i * spec.growth, spec.growth, kit) for i in range(number)))
            for n, number in zip(enters, spec.layers, strict=False)
        )
        self.transitions = nn.ModuleList(
            nn.Sequential(kit.norm(n), kit.conv(n, n // 2, 1), kit.halving()) for n in chans[:-1]
        )
        self.norm = kit.norm(chans[-1])
        self.project = None if spec.skips == "none" else kit.conv(spec.boxes[-1], chans[-1], 1, bias=True)
        self.enlarge = [kit.sides(2, 1)] * (steps - 2) + [kit.strides(2)] * 2
        self.steps = nn.ModuleList(
            nn.Sequential(
                kit.conv(n, width, 3, bias=True),
                nn.Dropout(spec.dropout if i == steps - 1 else 0.0),
                kit.norm(width),
            )
            for i, (n, width) in enumerate(pairwise((chans[-1], *spec.widths)))
        )
        self.head = kit.conv(spec.widths[-1], classes, 1, bias=True)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Maps after the stem and after each block; the last is normalised."""
        # Channels last in memory, which convolutions of few channels run through in half the time.
        last = torch.channels_last if self.spec.dim == 2 else torch.channels_last_3d
        maps = [self.stem(x.contiguous(memory_format=last))]
        x = self.blocks[0](self.pool(maps[0]))
        for transition, block in zip(self.transitions, self.blocks[1:], strict=True):
            maps.append(x)
            x = block(transition(x))
        return [*maps, self.norm(x)]

    def features(self, x: Tensor) -> Tensor:
        """(batch, in_chans, ...) -> (batch, widths[-1], ...), as large as the input."""
        *maps, x = self.encode(x)
        for i, (factor, step) in enumerate(zip(self.enlarge, self.steps, strict=True)):
            x = interpolate(x, scale_factor=tuple(map(float, factor)))
            if i == 0 and self.project is not None:
                x = x + self.project(maps[-1])
            elif 0 < i < len(maps) and self.spec.skips == "all":
                x = x + maps[-1 - i]
            x = step(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_chans, ...) -> scores (batch, classes, ...). The plane must be a multiple of what the
        encoder divides it by, 32 for four blocks, the depth of 4."""
        return self.head(self.features(x))


class SliceBySlice(nn.Module):
    """A 2-D network on every slice of a volume, which it sees with its neighbours."""

    def __init__(self, two_d: DenseUNet):
        super().__init__()
        self.two_d = two_d

    def features(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 1, depth, height, width) -> features (batch, dim, ...) and scores (batch, classes, ...)."""
        depth = volume.shape[2]
        found = self.two_d.features(adjacent_slices(volume, self.two_d.spec.in_chans // 2))
        return stack_slices(found, depth), stack_slices(self.two_d.head(found), depth)

    def forward(self, volume: Tensor) -> Tensor:
        """(batch, 1, depth, height, width) -> scores (batch, classes, depth, height, width)."""
        return self.features(volume)[1]


class HDenseUNet(nn.Module):
    """Scores of the 2-D network guide the 3-D one; the sum of both networks' features is classified.

    ``context``: what the 3-D network sees beside the volume; ``scale``: what scores are multiplied by, 250
    in the paper, where volumes are in Hounsfield units. ``cut``: where no gradient goes back into the 2-D
    network; both places freeze it. Its running averages are frozen in any case, as the authors' are. Raises
    ``ValueError`` for networks whose features cannot be added, or an unknown name.
    """

    def __init__(
        self,
        two_d: SliceBySlice,
        three_d: Spec,
        *,
        context: Context = "scores",
        scale: float = 250.0,
        cut: Collection[Literal["context", "sum"]] = (),
        classes: int = CLASSES,
    ):
        super().__init__()
        checks.one_of(get_args(Context), context=context)
        checks.finite(scale=scale)
        for place in cut:
            checks.one_of(("context", "sum"), cut=place)
        width, other = three_d.widths[-1], two_d.two_d.spec.widths[-1]
        if three_d.dim != 3 or width != other or three_d.in_chans != 1 + classes:
            raise ValueError(
                f"three_d must have dim 3, {1 + classes} in_chans and last width {other}, got {three_d}"
            )
        self.context, self.scale, self.cut = context, scale, frozenset(cut)
        self.two_d, self.three_d = two_d, DenseUNet(three_d, classes)
        del self.three_d.head  # the sum is classified in its place
        kit = _Kit(3, three_d.along)
        self.fuse = nn.Sequential(
            kit.conv(width, width, 3, bias=True),
            nn.Dropout(three_d.dropout),
            kit.norm(width),
            kit.conv(width, classes, 1, bias=True),
        )

    def train(self, mode: bool = True) -> "HDenseUNet":
        """As ever, but the 2-D network keeps the running averages that it came with."""
        super().train(mode)
        for module in self.two_d.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def guide(self, volume: Tensor, scores: Tensor) -> Tensor:
        """What the 3-D network sees beside the volume, (batch, classes, depth, height, width)."""
        if self.context == "scores":
            return self.scale * scores
        if self.context == "blurred":
            return avg_pool3d(volume, 3, 1, 1, count_include_pad=False).expand_as(scores)
        return torch.zeros_like(scores)

    def forward(self, volume: Tensor) -> Tensor:
        """(batch, 1, depth, height, width) -> scores (batch, classes, depth, height, width)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and len(self.cut) < 2):
            flat, scores = self.two_d.features(volume)
        flat = flat.detach() if "sum" in self.cut else flat
        scores = scores.detach() if "context" in self.cut else scores
        deep = self.three_d.features(torch.cat([volume, self.guide(volume, scores)], 1))
        return self.fuse(deep + flat)


# --- loss, decisions, Dice --------------------------------------------------------------------------------


def weighted_cross_entropy(
    scores: Tensor, labels: Tensor, weights: Sequence[float] = WEIGHTS, trim: int = 1
) -> Tensor:
    """Mean over voxels of ``-w_y log p_y``, without ``trim`` slices at both ends.

    Not divided by the sum of weights, as torch's own mean is. Scores are (batch, classes, depth, height,
    width), labels (batch, depth, height, width). Raises ``ValueError`` for weights that are not one > 0 a
    class, and where no slice is left.
    """
    if len(weights) != scores.shape[1] or not min(weights) > 0:
        raise ValueError(f"weights must be {scores.shape[1]} numbers > 0, got {tuple(weights)}")
    inner = within(scores.shape[2], trim)
    each = cross_entropy(
        scores[:, :, inner], labels[:, inner], weight=scores.new_tensor(weights), reduction="none"
    )
    return each.mean()


def within(depth: int, trim: int) -> slice:
    """The slices that count, without ``trim`` at both ends.

    Raises ``ValueError`` where none is left.
    """
    checks.between(0, (depth - 1) // 2, f"depth is {depth}", trim=trim)
    return slice(trim, depth - trim)


def over_slices(scores: Tensor, reach: int = 1) -> Tensor:
    """Means over ``2 * reach + 1`` slices, fewer at the ends: (..., depth, height, width) -> the same shape.

    Raises ``ValueError`` for a negative reach.
    """
    checks.at_least(0, reach=reach)
    flat = rearrange(scores, "... d h w -> (...) 1 d (h w)")
    means = avg_pool2d(flat, (2 * reach + 1, 1), 1, (reach, 0), count_include_pad=False)
    return means.reshape(scores.shape)


def decide(scores: Tensor, threshold: float) -> Tensor:
    """Tumour where its probability is at least ``threshold``, elsewhere the better of the other classes.

    Scores (batch, classes, depth, height, width) -> labels (batch, depth, height, width).
    """
    chance = scores.softmax(1)[:, TUMOUR]
    return torch.where(chance >= threshold, TUMOUR, scores[:, :TUMOUR].argmax(1))


def dice(found: Tensor, true: Tensor, label: int) -> Tensor:
    """Overlap of two label maps (batch, ...) in one class, ``2 |A and B| / (|A| + |B|)``, for each volume.

    -> (batch,) in float64; 1 where neither has the class. Raises ``ValueError`` for shapes that differ.
    """
    if found.shape != true.shape:
        raise ValueError(f"found and true must have one shape, got {tuple(found.shape)}, {tuple(true.shape)}")
    a, b = (found == label).flatten(1), (true == label).flatten(1)
    both, either = 2.0 * (a & b).sum(1).double(), (a.sum(1) + b.sum(1)).double()
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


THRESHOLDS = (*(i / 20 for i in range(1, 20)), 0.97, 0.98, 0.99)
"""Those tried for the tumour's probability."""


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Those tried for the mean over slices."""


def blended(scores: Tensor, share: float) -> Tensor:
    """``share`` of the mean over three slices and the rest of the scores themselves, the same shape."""
    return share * over_slices(scores) + (1 - share) * scores


def best_decision(
    scores: Tensor, labels: Tensor, shares: Sequence[float] = (0.0,), thresholds: Sequence[float] = THRESHOLDS
) -> tuple[float, float]:
    """Share and threshold with the largest mean Dice of tumours on these volumes; the first of equals."""
    tumours = labels == TUMOUR
    tried: dict[tuple[float, float], float] = {}
    for share in shares:
        chance = blended(scores, share).softmax(1)[:, TUMOUR]
        tried |= {(share, at): float(dice(chance >= at, tumours, 1).mean()) for at in thresholds}
    return max(tried, key=tried.__getitem__)


BOXES = ((1, 1), (1, 3), (3, 3), (3, 5), (3, 7), (5, 9))
"""Depth and side of the boxes over which `surroundings` takes means."""


def surroundings(volumes: Tensor) -> Tensor:
    """What a classifier of single voxels is given, means over `BOXES` around each.

    (batch, 1, depth, height, width) -> (batch, depth, height, width, 6).
    """
    means = (
        avg_pool3d(volumes, (deep, side, side), 1, (deep // 2, side // 2, side // 2), count_include_pad=False)
        for deep, side in BOXES
    )
    return torch.cat(list(means), 1).movedim(1, -1)


# --- made-up volumes --------------------------------------------------------------------------------------


class Phantoms(NamedTuple):
    """Volumes with their truth."""

    volumes: Tensor
    """(n, 1, depth, size, size)."""
    labels: Tensor
    """(n, depth, size, size)."""
    correlation: Tensor
    """Of each volume's noise between neighbouring slices, (n,)."""


def phantoms(
    n: int,
    generator: torch.Generator,
    *,
    size: int = 32,
    depth: int = 8,
    noise: float = 0.35,
    correlations: Sequence[float] = (0.0, 0.5, 0.9),
) -> Phantoms:
    """A liver at 0.5 with two tumours at 0.2, beside it another organ at 0.62 that is background, in noise.

    All are ellipsoids; tumours lie in the liver and are 2.8 times as long in slices as their radius in the
    plane, of 0.12 to 0.22 of half a side. Noise is blurred in the plane and correlated between slices, by
    each of ``correlations`` in turn. Raises ``ValueError`` for sizes below 4, noise below 0 and correlations
    outside of 0..1.
    """
    checks.at_least(1, n=n)
    checks.at_least(4, size=size, depth=depth)
    checks.finite(noise=noise)
    if wrong := [value for value in correlations if not 0 <= value <= 1]:
        raise ValueError(f"correlations must be in 0..1, got {wrong}")

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    axes = [(torch.arange(m) + 0.5) * 2 / m - 1 for m in (depth, size, size)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def ellipsoid(centre: Tensor, radii: Tensor) -> Tensor:
        """Centre and radii (n, 3) -> (n, depth, size, size)."""
        away = (places - centre[..., None, None, None]) / radii[..., None, None, None]
        return away.square().sum(1) <= 1

    middle = torch.stack([between(-0.15, 0.15), between(-0.15, 0.15), between(-0.35, -0.15)], 1)
    radii = torch.stack([between(0.9, 1.2), between(0.5, 0.7), between(0.4, 0.55)], 1)
    liver = ellipsoid(middle, radii)
    beside = torch.stack([between(-0.2, 0.2), between(-0.4, 0.4), between(0.55, 0.7)], 1)
    organ = ellipsoid(beside, torch.stack([between(0.6, 1), between(0.3, 0.5), between(0.15, 0.25)], 1))
    tumours = torch.zeros_like(liver)
    for _ in range(2):
        radius = between(0.12, 0.22)
        shape = torch.stack([2.8 * radius, radius, radius], 1)
        tumours |= ellipsoid(middle + radii * between(-0.5, 0.5, 3), shape)
    tumours &= liver
    clean = 0.62 * (organ & ~liver) + 0.5 * liver - 0.3 * tumours
    correlation = torch.tensor([correlations[i % len(correlations)] for i in range(n)])
    white = torch.randn(n, depth, size + 2, size + 2, generator=generator)
    blurred = 2.2 * avg_pool2d(white, 3, 1)
    along = [blurred[:, 0]]
    keep, add = correlation[:, None, None], (1 - correlation.square()).sqrt()[:, None, None]
    for fresh in blurred[:, 1:].unbind(1):
        along.append(keep * along[-1] + add * fresh)
    volumes = clean + noise * torch.stack(along, 1)
    return Phantoms(volumes[:, None], liver.long() * LIVER + tumours.long() * (TUMOUR - LIVER), correlation)


# --- counts -----------------------------------------------------------------------------------------------


def convolutions(net: nn.Module) -> int:
    """Convolution layers of a network."""
    return sum(isinstance(module, (nn.Conv2d, nn.Conv3d)) for module in net.modules())


def kept_bytes(net: nn.Module, *shape: int) -> int:
    """What a training step keeps of its activations for the gradient, in bytes, for an input of this shape.

    A network on torch's meta device, so that nothing is computed. Memory that is kept twice counts once,
    weights do not count.
    """
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    found: dict[int, tuple[Tensor, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        net(torch.empty(shape, device="meta"))
    return sum(size for _, size in found.values())
