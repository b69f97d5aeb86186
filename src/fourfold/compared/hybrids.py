"""The hybrids of the part "hybrids" in one network: the same shell, the same parameters, the same measures.

This room compares papers, so it imports their modules; no other room does, and no chapter imports it.

`ARMS` has an entry for each hybrid, a plain ViT, a plain CNN, and a network in which nothing mixes tokens. An
entry says what mixes the tokens of a block and, where a paper cannot do without, what makes the tokens or
what stands in the MLP's place. `Shell` is all the rest. Each arm is as wide as `BUDGET` parameters allow.

Maps are (batch, dim, height, width). All measures of a mixer are of its derivative at real maps, which is
what it does to small changes: of a convolution the derivative is the convolution.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, pad

from fourfold import checks, cost, spectra, training
from fourfold.data import images, probes
from fourfold.data.probes import Images
from fourfold.hybrids import (
    channelvit,
    cvt,
    dhvt,
    duoformer,
    glmix,
    h_denseunet,
    hyena_nd,
    inceptionnext,
    polyphase_vit,
    smt,
    tic,
)
from fourfold.judging.rule import mean_interval
from fourfold.mixers import SelfAttention

Sides = tuple[int, int]
"""Height and width of the map of tokens."""

BUDGET = 16_000
"""Parameters of every network on the digits; what an arm has is within 5 % of it."""

DEPTH, HEADS, STRIDE, CLASSES = 2, 2, 2, 10
"""Blocks, heads of all attention, stride of the stem in pixels, digits."""

SQUARE, FAR = (6, 6), (4, 16)
"""The two maps of tokens: of a digit of 12 x 12 pixels, and of the far read-out's canvas of 8 x 32."""

SLOTS = 9
"""GLMix's slots, a quarter of the digit's tokens."""

SHIFT = 2
"""How far TiC's keys and values are moved, tokens."""


# --- what enters the shell --------------------------------------------------------------------------------


class Stem(nn.Module):
    """The start of all arms: a convolution of 5 x 5 with stride 2, BatchNorm, and learned positions if asked.

    ``anchored``: PolyViT's grid, which begins where the image says, and a convolution that wraps around.
    """

    def __init__(self, dim: int, sides: Sides, positions: bool = False, anchored: bool = False):
        super().__init__()
        mode: Literal["zeros", "circular"] = "circular" if anchored else "zeros"
        self.convolution = nn.Conv2d(1, dim, 5, STRIDE, 2, padding_mode=mode)
        self.norm = nn.BatchNorm2d(dim)
        self.positions = nn.Parameter(0.02 * torch.randn(dim, *sides)) if positions else None
        self.anchored = anchored

    def forward(self, pictures: Tensor) -> Tensor:
        """(batch, 1, 2 height, 2 width) -> (batch, dim, height, width)."""
        if self.anchored:
            pictures = polyphase_vit.anchor(pictures, STRIDE)
        x = self.norm(self.convolution(pictures))
        return x if self.positions is None else x + self.positions


class ChannelPatches(nn.Module):
    """ChannelViT's start: the four phases of an image, every second pixel of every second row, as channels.

    A digit has one channel, with which ChannelViT is a ViT. A token is a patch of 2 x 2 pixels of one phase;
    the four that cover the same 4 x 4 pixels are neighbours on the map and share their position. BatchNorm
    follows, as in all arms.
    """

    def __init__(self, dim: int, sides: Sides):
        super().__init__()
        self.phases = channelvit.PatchEmbedPerChannel(STRIDE**2, dim, STRIDE)
        self.norm = nn.BatchNorm2d(dim)
        self.rows = sides[0] // STRIDE
        self.positions = nn.Parameter(0.02 * torch.randn(self.rows * (sides[1] // STRIDE), dim))

    def forward(self, pictures: Tensor) -> Tensor:
        """(batch, 1, 2 height, 2 width) -> (batch, dim, height, width)."""
        phases = rearrange(pictures, "b 1 (y p) (x q) -> b (p q) y x", p=STRIDE, q=STRIDE)
        tokens = self.phases(phases, range(STRIDE**2)) + self.positions
        return self.norm(rearrange(tokens, "b (p q) (y x) c -> b c (y p) (x q)", p=STRIDE, y=self.rows))


class OnTokens(nn.Module):
    """A mixer of tokens (batch, height * width, dim) that asks for height and width, on maps."""

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        height, width = x.shape[-2:]
        mixed = self.mixer(rearrange(x, "b c h w -> b (h w) c"), height, width)
        return rearrange(mixed, "b (h w) c -> b c h w", h=height)


class ChannelsLast(nn.Module):
    """A mixer of maps (batch, height, width, dim) on maps (batch, dim, height, width)."""

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        return self.mixer(x.movedim(1, -1)).movedim(-1, 1)


class SlotsAndConvolution(glmix.Sum):
    """GLMix, whose slots are pooled from the map after the norm: there the shell keeps no other."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(batch, dim, height, width) -> the same shape."""
        return super().forward(x, x)


class HeadTokens(dhvt.HeadInteractionAttention):
    """DHVT's attention on maps. The shell has no CLS: the mean token stands for it.

    What CLS becomes, head tokens and all, is added to every token, and so to the mean that is read.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(batch, dim, height, width) -> the same shape."""
        tokens = rearrange(x, "b c h w -> b (h w) c")
        mixed, _ = super().forward(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))
        return rearrange(mixed[:, 1:] + mixed[:, :1], "b (h w) c -> b c h w", h=x.shape[-2])


class Aggregation(dhvt.DAFF):
    """DHVT's feed-forward layer on maps that need not be square, with the mean token for CLS as above."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        z = gelu(self.up(x))
        if self.depthwise is not None:
            z = z + gelu(self.depthwise(z))
        z = self.down(z)
        return z + (x.mean((2, 3)) * self.channel_weights(z))[..., None, None]


class Trees(nn.Module):
    """DuoFormer: 2 x 2 tokens and their mean attend to one another, then the means, as its patches, do.

    The mean is the coarse scale, which in the paper is a later map of a convolutional network. What it
    becomes is added to its four tokens.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.positions = nn.Parameter(duoformer.STD * torch.randn(duoformer.tree_size(2), dim))
        self.scales = duoformer.scale_block(dim, HEADS).attention
        self.patches = duoformer.BareBlock(dim, HEADS)

    def trees(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> (batch, patches, 5, dim), the coarse token first."""
        fine = rearrange(x, "b c (y i) (x j) -> b (y x) (i j) c", i=2, j=2)
        return torch.cat([fine.mean(2, keepdim=True), fine], 2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        tokens, _ = self.scales(self.trees(x) + self.positions)
        roots, _ = self.patches(tokens[:, :, 0])
        fine = tokens[:, :, 1:] + roots[:, :, None]
        return rearrange(fine, "b (y x) (i j) c -> b c (y i) (x j)", y=x.shape[-2] // 2, i=2)


class OnSquare(nn.Module):
    """Hyena N-D, whose grid is square, on any map: rows or columns of zeros are added, and cut off after."""

    def __init__(self, dim: int, sides: Sides):
        super().__init__()
        self.mixer = hyena_nd.HyenaND(dim, max(sides))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        (height, width), grid = x.shape[-2:], self.mixer.grid
        square = pad(x, (0, grid - width, 0, grid - height))
        mixed = self.mixer(rearrange(square, "b c h w -> b (h w) c"))
        return rearrange(mixed, "b (h w) c -> b c h w", h=grid)[..., :height, :width]


def dense_layers(dim: int, sides: Sides, index: int) -> nn.Module:
    """H-DenseUNet: two dense layers of its network for slices, and a 1 x 1 convolution back to the width."""
    growth = dim // 4
    block = h_denseunet.DenseUNet(h_denseunet.fitting(dim, growth, (2,))).blocks[0]
    return nn.Sequential(block, nn.Conv2d(dim + 2 * growth, dim, 1))


class MLP(nn.Module):
    """``dim -> hidden -> dim`` at every token."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        return self.down(gelu(self.up(x.movedim(1, -1)))).movedim(-1, 1)


@dataclass(frozen=True)
class Arm:
    """How one network of the comparison fills the shell.

    ``mixer``: makes what mixes tokens from width, sides of the map, and the number of the block, from 0; a
    module from maps to maps. ``embed``: makes the module from images to the map of tokens, from width and
    sides. ``feed``: makes what follows the mixer, from width, hidden width and the number of the block.
    ``note``: how a mixer with needs of its own enters.
    """

    mixer: Callable[[int, Sides, int], nn.Module]
    embed: Callable[[int, Sides], nn.Module] = Stem
    feed: Callable[[int, int, int], nn.Module] = lambda dim, hidden, index: MLP(dim, hidden)
    note: str = ""


def attention(dim: int, sides: Sides, index: int) -> nn.Module:
    """Plain self-attention between all tokens."""
    return SelfAttention(dim, HEADS)


def modulation_then_attention(dim: int, sides: Sides, index: int) -> nn.Module:
    """SMT: which block has what is the paper's rule for two stages of one block."""
    (kind,) = [kind for stage in smt.kinds((1, 1)) for kind in stage][index : index + 1]
    return ChannelsLast(smt.MIXERS[kind](dim, HEADS))


ARMS: dict[str, Arm] = {
    "ViT, conv stem": Arm(attention, partial(Stem, positions=True), note="learned positions"),
    "CNN": Arm(lambda dim, *_: nn.Conv2d(dim, dim, 3, padding=1), note="a dense 3 x 3 convolution"),
    "nothing": Arm(lambda dim, *_: nn.Conv2d(dim, dim, 1), note="a 1 x 1 convolution mixes no tokens"),
    "CvT": Arm(
        lambda dim, *_: OnTokens(cvt.CvtAttention(dim, HEADS)),
        note="convolutions make queries, keys and values; keys and values at half the resolution",
    ),
    "GLMix": Arm(
        lambda dim, *_: SlotsAndConvolution(glmix.SlotBranch(dim, HEADS, SLOTS), glmix.LocalBranch(dim)),
        note=f"{SLOTS} slots, pooled from the map after the norm, beside a convolution of 5 x 5",
    ),
    "TiC": Arm(
        lambda dim, *_: tic.MSAConv2d(dim, dim, heads=HEADS, shift=SHIFT),
        note=f"the released layer with its own residual and fusing convolution, shifts of {SHIFT}",
    ),
    "SMT": Arm(modulation_then_attention, note="modulation in the first block, attention in the second"),
    "ChannelViT": Arm(
        attention,
        ChannelPatches,
        note="a digit has one channel, so its four phases, every second pixel, are the channels",
    ),
    "DHVT": Arm(
        lambda dim, *_: HeadTokens(dim, HEADS),
        # Ratios are whole: those of the blocks differ by one at most.
        feed=lambda dim, hidden, index: Aggregation(dim, (round(hidden * DEPTH / dim) + index) // DEPTH),
        note="head tokens in attention; its convolutions stand in the MLP's place; the mean token is its CLS",
    ),
    "DuoFormer": Arm(
        lambda dim, *_: Trees(dim),
        partial(Stem, positions=True),
        note="the second scale is the mean of 2 x 2 tokens, where the paper has a backbone's later map",
    ),
    "Hyena N-D": Arm(
        lambda dim, sides, _: OnSquare(dim, sides),
        partial(Stem, positions=True),
        note="order 2, four directions; learned positions; the canvas is padded to a square",
    ),
    "H-DenseUNet": Arm(
        dense_layers,
        note="a digit has no third axis, so only the network for slices enters: two dense layers a block",
    ),
    "InceptionNeXt": Arm(
        lambda dim, *_: inceptionnext.InceptionDWConv2d(dim),
        note="its convolution has a residual of its own, and not one with the MLP",
    ),
    "PolyViT": Arm(
        attention,
        lambda dim, sides: nn.Sequential(Stem(dim, sides, anchored=True), polyphase_vit.CircularPEG(dim)),
        note="the image chooses where the stem's grid begins; convolutions wrap around",
    ),
}
"""Name -> how it fills the shell. A new hybrid is one more entry."""


# --- the shell --------------------------------------------------------------------------------------------


class Block(nn.Module):
    """``x + mixer(norm(x))``, then ``x + feed(norm(x))``."""

    def __init__(self, dim: int, mixer: nn.Module, feed: nn.Module):
        super().__init__()
        self.norm_mixer, self.norm_feed = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)
        self.mixer, self.feed = mixer, feed

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        x = x + self.mixer(self.norm_mixer(x))
        return x + self.feed(self.norm_feed(x))


class Shell(nn.Module):
    """Stem, `DEPTH` blocks, BatchNorm, and a linear read-out of the mean token.

    ``sides``: of the map of tokens. ``read``: only the last so many columns are read, all if None. Raises
    ``ValueError`` for an unknown arm, and what its modules raise.
    """

    def __init__(self, arm: str, dim: int, hidden: int, sides: Sides = SQUARE, read: int | None = None):
        super().__init__()
        checks.one_of(ARMS, arm=arm)
        checks.at_least(1, dim=dim, hidden=hidden, read=1 if read is None else read)
        entry = ARMS[arm]
        self.embed = entry.embed(dim, sides)
        self.blocks = nn.Sequential(
            *(Block(dim, entry.mixer(dim, sides, i), entry.feed(dim, hidden, i)) for i in range(DEPTH))
        )
        self.norm, self.head = nn.BatchNorm2d(dim), nn.Linear(dim, CLASSES)
        self.read = read

    def forward(self, pictures: Tensor) -> Tensor:
        """(batch, 1, 2 height, 2 width) -> logits (batch, classes)."""
        # Channels last in memory: a map's tokens are a view of it, and linear layers read them as they lie.
        x = self.embed(pictures).contiguous(memory_format=torch.channels_last)
        x = self.norm(self.blocks(x))
        return self.head((x if self.read is None else x[..., -self.read :]).mean((2, 3)))


@cache
def fitted(arm: str) -> tuple[int, int]:
    """Width and hidden width of an arm at `BUDGET` parameters.

    The widest multiple of 4 at which MLPs of twice the width fit; they then take what is left.
    """

    def size(dim: int, hidden: int) -> int:
        with torch.device("meta"):
            return cost.parameters(Shell(arm, dim, hidden))

    dim = 8
    while size(dim + 4, 2 * (dim + 4)) <= BUDGET:
        dim += 4
    least, each = size(dim, 2 * dim), size(dim, 3 * dim) - size(dim, 2 * dim)
    return dim, 2 * dim + round(dim * (BUDGET - least) / each)


def network(arm: str, sides: Sides = SQUARE, read: int | None = None) -> Shell:
    """An arm at its fitted size."""
    return Shell(arm, *fitted(arm), sides, read)


# --- tasks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What networks learn: training images, steps, the map of tokens, how many of its columns are read."""

    images: int
    steps: int = 160
    sides: Sides = SQUARE
    read: int | None = None


TASKS = {
    "100 digits": Task(100, steps=80),
    "400 digits": Task(400),
    "2000 digits": Task(2000),
    "far read-out": Task(1000, sides=FAR, read=glmix.READ),
}

POOL, TEST, HELD_OUT = 4000, 1000, 400
"""Digits of MNIST to train on and to test on; images of the pool that rates are chosen by."""

SHIFTS = [(down, right) for down in (0, -1, 1) for right in (0, -1, 1)]
"""Circular shifts in pixels: as it is, and by one pixel in all directions."""


def shown(pixels: Tensor) -> Tensor:
    """Digits (n, 28, 28) in 0..1 as the networks see them: (n, 1, 12, 12).

    The middle 24 x 24 pixels, in which nearly all ink is, each 2 x 2 of them averaged; brought near mean 0
    and variance 1 by MNIST's own.
    """
    return (avg_pool2d(pixels[:, None, 2:-2, 2:-2], 2) - 0.18) / 0.33


def drawn(task: Task, seed: int, held_out: bool = False) -> tuple[Images, Images]:
    """What one seed trains on and is tested on, images (n, 1, height, width).

    ``held_out``: `HELD_OUT` images to choose rates by, from the pool, in the place of the test images.
    """
    if task.sides == FAR:
        pool, test = probes.digits()
        # Sixteen grey levels in 0..1, brightened as in GLMix's chapter.
        pool, test = (Images(2 * part.images, part.labels) for part in (pool, test))
    else:
        pool, test = images.mnist5k(POOL, TEST)
        pool, test = (Images(shown(part.images), part.labels) for part in (pool, test))
    order = torch.randperm(len(pool.labels), generator=training.stream(seed, "images"))
    chosen = [order[: task.images], order[-HELD_OUT:]]
    train, other = (Images(pool.images[rows], pool.labels[rows]) for rows in chosen)
    if held_out:
        checks.at_least(task.images + HELD_OUT, pool=len(order))
        test = other
    if task.sides == FAR:
        train, test = (
            glmix.far_readout(part, training.stream(seed, f"{name} places"))
            for part, name in ((train, "train"), (test, "test"))
        )
    return train, test


BATCH = 25
"""Images of a step."""


def trained(arm: str, task: Task, seed: int, lr: float, train: Images) -> Shell:
    """An arm trained on one seed's images, in evaluation mode."""
    checks.divides(task.steps * BATCH, "steps * BATCH", images=task.images)
    run = training.train(
        lambda: network(arm, task.sides, task.read),
        (seed,),
        training.shuffled(*train),
        # Scored after each epoch, which decides nothing: one image does.
        (train.images[None, :1], train.labels[None, :1]),
        training.Recipe(task.steps * BATCH // task.images, BATCH, lr, weight_decay=0.05),
        together=False,  # BatchNorm, which some mixers have, keeps running averages
        label=f"{arm}, {task.images}",
    )
    member = run.member(0)
    assert isinstance(member, Shell)
    return member


@torch.no_grad()
def accuracy(net: nn.Module, test: Images) -> float:
    """Share of the test images that are read correctly."""
    return float(training.accuracy(net(test.images), test.labels))


@torch.no_grad()
def consistency(net: nn.Module, test: Images) -> float:
    """Share of pairs of `SHIFTS` at which a digit is read alike, right or wrong."""
    return polyphase_vit.consistency(polyphase_vit.over_shifts(net, test.images, SHIFTS))


def on_pixels(train: Images, test: Images) -> dict[str, float]:
    """Accuracy of what knows nothing of images: logistic regression and a Gaussian support vector machine."""
    # Importing scikit-learn takes a second, which readers of the networks should not wait.
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    lines = {"logistic regression": LogisticRegression(max_iter=300), "SVM": SVC(C=10)}
    flat, unseen = (part.images.flatten(1).numpy() for part in (train, test))
    return {
        name: float(line.fit(flat, train.labels.numpy()).score(unseen, test.labels.numpy()))
        for name, line in lines.items()
    }


# --- what a mixer does to a map ---------------------------------------------------------------------------


def derivative(module: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """How the central token depends on a map: the gradient of a random mix of its channels, shaped as x.

    ``x``: (n, channels, H, W), a map, or images for a module that begins with a stem; one mix for each of
    the n. Of a module that is linear and moves with the map these are its kernels, mixed at random.
    """
    x = x.detach().requires_grad_()
    out = module(x)
    centre = out[..., out.shape[-2] // 2, out.shape[-1] // 2]
    mix = torch.randn(centre.shape, generator=generator, dtype=x.dtype)
    (gradient,) = torch.autograd.grad((centre * mix).sum(), x)
    return gradient


def response(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Amplitude response of derivatives (n, channels, H, W), ring by ring: two times (rings,).

    Frequencies in cycles per token, and the root of the mean power in a ring over that of all frequencies
    together: 1 where a mixer treats all alike, whatever its scale.
    """
    frequency, power = spectra.radial(gradient, "power")
    return frequency, (power.mean((0, 1)) / spectra.power(gradient).mean()).sqrt()


def detail(gradient: Tensor) -> float:
    """Share of the response's power at 1/4 cycles per token and above: 0 for a mean, more for fine detail."""
    high = spectra.frequencies(*gradient.shape[-2:]) >= 1 / 4 - spectra.TIE
    power = spectra.power(gradient).sum((0, 1))
    return float(power[high].sum() / power.sum())


def maps_of(net: Shell, pictures: Tensor) -> list[Tensor]:
    """What comes into each mixer of a network, (n, dim, height, width), block by block."""
    found: list[Tensor] = []
    handles = [
        module.mixer.register_forward_pre_hook(lambda _, given: found.append(given[0].detach()))
        for module in net.blocks
        if isinstance(module, Block)
    ]
    try:
        with torch.no_grad():
            net(pictures)
    finally:
        for handle in handles:
            handle.remove()
    return found


def details(net: Shell, pictures: Tensor, generator: torch.Generator) -> float:
    """`detail` of a network's mixers at these images, mean over the blocks."""
    mixers = [module.mixer for module in net.blocks if isinstance(module, Block)]
    maps = maps_of(net, pictures)
    shares = [detail(derivative(mixer, x, generator)) for mixer, x in zip(mixers, maps, strict=True)]
    return sum(shares) / len(shares)


# --- cost -------------------------------------------------------------------------------------------------


def multiply_adds(arm: str, side: int) -> int:
    """Multiply-accumulates of an arm for one image of ``side`` x ``side`` tokens.

    As `cost.macs`, and what torch's counter does not see. TiC's products in windows of 3 x 3, two for each
    channel and place. Hyena's three real FFTs of twice the sides, 1.25 N log2 N each, and a complex product
    between, four. The anchor of PolyViT only moves pixels.
    """
    net = network(arm, (side, side))
    for module in net.modules():
        if isinstance(module, Stem):
            module.anchored = False  # where the grid begins is read from pixels, of which a count has none
    counted = cost.macs(net, (1, 1, STRIDE * side, STRIDE * side))
    pixels = (2 * side) ** 2
    unseen = {
        tic.MSAConv2d: 2 * 9 * side**2,
        hyena_nd.HyenaND: 3 * 1.25 * pixels * math.log2(pixels) + 4 * pixels / 2,
    }
    kinds = [type(module) for module in net.modules()]
    return counted + round(fitted(arm)[0] * sum(kinds.count(kind) * each for kind, each in unseen.items()))


# --- who is best ------------------------------------------------------------------------------------------


def leaders(values: Mapping[str, Sequence[float]]) -> tuple[str, list[str]]:
    """The arm with the largest mean, and the arms of which no difference from it is told.

    ``values``: one number a seed, the same seeds for all. No difference is told where the 95 % t interval of
    the differences, seed by seed, includes 0. The best is chosen by the same numbers: that it leads is no
    finding by itself.
    """
    best = max(values, key=lambda name: sum(values[name]))
    near = []
    for name in values.keys() - {best}:
        _, low, high = mean_interval(np.subtract(values[best], values[name]))
        if low <= 0 <= high:
            near.append(name)
    return best, sorted(near, key=list(values).index)
