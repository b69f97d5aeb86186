"""Where a token looks: one layer of each mechanism, at its start, on the same maps of the same photographs.

This room compares papers, so it imports their modules; no other room does, and no chapter imports it.

A look is the derivative of a token of the output by the map, so it means the same for attention, for
convolutions, for filters and for what is none of these. No layer has a residual around it but TiC's own.
Hybrids are as in `hybrids`, made for small maps: two heads, nine slots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from fourfold import training
from fourfold.compared import frequency, hybrids
from fourfold.efficiency import sret
from fourfold.frequency import svt
from fourfold.mixers import SelfAttention
from fourfold.restoration import craft, dlgsanet, uhd_reflection

HEADS, WINDOW, SHARE, GROUPS = 4, 8, 4, 4
"""Heads of attention; side of windows, channels that share a dynamic kernel, groups of sliced attention."""


@dataclass(frozen=True)
class Mechanism:
    """``make``: the layer on maps from its width and the side of the map; ``paper``: slug, empty for what
    no paper of this book claims; ``family``: what the book's parts call it."""

    family: str
    paper: str
    make: Callable[[int, int], nn.Module]


class Sliced(nn.Module):
    """SReT's sliced attention on maps: tokens in reading order attend within `GROUPS` stretches."""

    def __init__(self, dim: int):
        super().__init__()
        self.attention = sret.GroupAttention(dim, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        mixed = self.attention(rearrange(x, "b c h w -> b (h w) c"), GROUPS)
        return rearrange(mixed, "b (h w) c -> b c h w", h=x.shape[-2])


class Rectangles(nn.Module):
    """CRAFT's attention on maps: half of the features in flat windows, half in upright ones, shifted by half.

    Beside it a depthwise convolution of the values, the paper's locality complementary module.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        (rows, columns), pos_dim = craft.SPLIT, craft.released_width(dim)
        self.flat = craft.RectWindowAttention(dim // 2, HEADS // 2, (rows, columns), pos_dim)
        self.upright = craft.RectWindowAttention(dim // 2, HEADS // 2, (columns, rows), pos_dim)
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        qkv = self.qkv(x.movedim(1, -1)).unflatten(-1, (3, -1))
        down, across = craft.SPLIT[0] // 2, craft.SPLIT[1] // 2
        flat, upright = qkv.chunk(2, -1)
        parts = [self.flat(flat, (down, across)), self.upright(upright, (across, down))]
        return torch.cat(parts, -1).movedim(-1, 1) + self.local(qkv[..., 2, :].movedim(-1, 1))


def _hybrid(name: str) -> Callable[[int, int], nn.Module]:
    return lambda dim, side: hybrids.ARMS[name].mixer(dim, (side, side), 0)


MECHANISMS: dict[str, Mechanism] = {
    "attention": Mechanism("attention", "", lambda dim, side: SelfAttention(dim, HEADS)),
    "DHVT": Mechanism("attention", "dhvt", _hybrid("DHVT")),
    "CvT": Mechanism("attention", "cvt", _hybrid("CvT")),
    "GLMix": Mechanism("attention", "glmix", _hybrid("GLMix")),
    "DuoFormer": Mechanism("attention", "duoformer", _hybrid("DuoFormer")),
    "Lo-Fi": Mechanism("attention", "litv2", frequency.MIXERS["Lo-Fi"]),
    "SReT, sliced": Mechanism("attention in parts", "sret", lambda dim, side: Sliced(dim)),
    "Hi-Fi": Mechanism("attention in parts", "litv2", frequency.MIXERS["Hi-Fi"]),
    "RRFormer": Mechanism(
        "attention in parts",
        "uhd_reflection",
        lambda dim, side: hybrids.ChannelsLast(uhd_reflection.WindowAttention(dim, HEADS, WINDOW // 2)),
    ),
    "CRAFT": Mechanism("attention in parts", "craft", lambda dim, side: Rectangles(dim)),
    "TiC": Mechanism("attention in parts", "tic", _hybrid("TiC")),
    "DLGSANet, channels": Mechanism(
        "attention in parts", "dlgsanet", lambda dim, side: dlgsanet.SparseGSA(dim, HEADS)
    ),
    "3 x 3 convolution": Mechanism("convolutions", "", _hybrid("CNN")),
    "InceptionNeXt": Mechanism("convolutions", "inceptionnext", _hybrid("InceptionNeXt")),
    "H-DenseUNet": Mechanism("convolutions", "h_denseunet", _hybrid("H-DenseUNet")),
    "SMT": Mechanism("convolutions", "smt", _hybrid("SMT")),
    "DLGSANet, local": Mechanism(
        "convolutions", "dlgsanet", lambda dim, side: dlgsanet.mhdlsa(dim, WINDOW - 1, SHARE)
    ),
    "Hyena N-D": Mechanism("convolutions", "hyena_nd", _hybrid("Hyena N-D")),
    "static filter": Mechanism("frequencies", "", frequency.MIXERS["static filter"]),
    "AFF": Mechanism("frequencies", "affnet", frequency.MIXERS["AFF"]),
    "SVT": Mechanism("frequencies", "svt", lambda dim, side: svt.ScatterMixer(dim, side, side)),
    "SFM": Mechanism("frequencies", "sfm", frequency.MIXERS["SFM"]),
}
"""Name -> mechanism. A new one is one more entry."""


def looks(name: str, x: Tensor, seeds: Sequence[int]) -> Tensor:
    """Derivatives of the central token by the map, (seeds, dim, side, side), one random mix a seed.

    Weights and mix of a seed are the same for every map, so that looks at two maps differ by the maps alone.
    Layers are in evaluation mode: BatchNorm, at its start, does nothing, where it would look at whole maps.

    Args:
        name: of a mechanism.
        x: a map (dim, side, side).
        seeds: each draws weights and mix.
    """
    found = []
    for seed in seeds:
        with training.seeded(seed):
            layer = MECHANISMS[name].make(x.shape[0], x.shape[-1]).eval()
        found.append(hybrids.derivative(layer, x[None], training.stream(seed, "mix"))[0])
    return torch.stack(found)


def strength(found: Tensor) -> Tensor:
    """Looks (seeds, dim, side, side) as one picture (side, side) that adds up to 1: their mean energy."""
    energy = found.square().mean((0, 1))
    return energy / energy.sum()


def reach(picture: Tensor) -> float:
    """Mean distance of a picture (side, side) that adds up to 1 from its centre, tokens."""
    places = [torch.arange(side) - side // 2 for side in picture.shape]
    return float((picture * torch.hypot(places[0][:, None].float(), places[1].float())).sum())


def changed(one: Tensor, other: Tensor) -> float:
    """How far looks at one map are from looks at another with the same weights: 0 if the map does not matter.

    The norm of the difference over the norm of both, (seeds, dim, side, side) each; 1 if they have nothing
    in common.
    """
    return float((one - other).norm() / torch.sqrt(one.square().sum() + other.square().sum()))
