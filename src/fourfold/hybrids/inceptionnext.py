"""InceptionNeXt: a large depthwise convolution cut along the channels into four parallel branches.

Yu, Zhou, Yan and Wang, "InceptionNeXt: When Inception Meets ConvNeXt", arXiv 2303.16900, CVPR 2024. Sizes
and details were read in the official repository (sail-sg/inceptionnext); the code here is written anew.

Implemented: the Inception depthwise convolution (section 3.3 of the paper), partial depthwise convolution
(section 3.1), the MetaNeXt block and network that both stand in, ConvNeXt (Liu et al., arXiv 2201.03545) as
one of its settings, the published sizes, and what a mixer costs.

Departures. No stochastic depth. Of 1 x 1 convolutions and linear layers on channels-last maps, which compute
the same and take different times, either can be chosen in any network.

Maps are (batch, dim, height, width).
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, pad

from fourfold import checks

Norm = Literal["batch", "layer"]
"""BatchNorm, or LayerNorm over the channels of each position."""

Mlp = Literal["conv", "linear"]
"""How the two layers of an MLP are computed: as 1 x 1 convolutions, or channels last, as linear layers."""

Head = Literal["mlp", "linear"]

EPS = 1e-6
"""LayerNorm's epsilon, as in both repositories."""

# --- the mechanism ----------------------------------------------------------------------------------------


def branch_channels(dim: int, ratio: float) -> int:
    """Channels of a branch, ``ratio * dim`` rounded down.

    Raises ``ValueError`` unless 0 < ratio <= 1 and a branch gets at least one channel.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    channels = int(dim * ratio)
    if channels < 1:
        raise ValueError(f"ratio must give a branch a channel: dim * ratio >= 1, got {dim} * {ratio}")
    return channels


def depthwise(dim: int, height: int, width: int) -> nn.Conv2d:
    """One kernel of odd sides for each channel, with a bias, padded by zeros to keep the map's size."""
    for name, side in {"height": height, "width": width}.items():
        if side < 1 or side % 2 == 0:
            raise ValueError(f"a kernel's {name} must be odd and >= 1, got {side}")
    return nn.Conv2d(dim, dim, (height, width), padding=(height // 2, width // 2), groups=dim)


class InceptionDWConv2d(nn.Module):
    """Channels in four groups: left as they are, and convolved by a square, by a row and by a column.

    The last three have ``int(dim * ratio)`` channels each, the first all others. Raises ``ValueError`` for
    kernels that are not odd, and for a ratio outside (0, 1/3] or without a channel for each branch.
    """

    def __init__(self, dim: int, square: int = 3, band: int = 11, ratio: float = 1 / 8):
        super().__init__()
        if not 0 < ratio <= 1 / 3:
            raise ValueError(f"ratio must be in (0, 1/3], since three branches share it, got {ratio}")
        branch = branch_channels(dim, ratio)
        self.square = depthwise(branch, square, square)
        self.row = depthwise(branch, 1, band)
        self.column = depthwise(branch, band, 1)
        self.split = (dim - 3 * branch, branch, branch, branch)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        same, square, row, column = x.split(self.split, 1)
        return torch.cat([same, self.square(square), self.row(row), self.column(column)], 1)


class PartialDWConv2d(nn.Module):
    """A square depthwise convolution of the last ``int(dim * ratio)`` channels; the first stay as they are.

    With ratio 1 it is the depthwise convolution of ConvNeXt. Raises as `branch_channels` and `depthwise` do.
    """

    def __init__(self, dim: int, kernel: int = 3, ratio: float = 1.0):
        super().__init__()
        branch = branch_channels(dim, ratio)
        self.square = depthwise(branch, kernel, kernel)
        self.split = (dim - branch, branch)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        if self.split[0] == 0:
            return self.square(x)
        same, square = x.split(self.split, 1)
        return torch.cat([same, self.square(square)], 1)


def grouped_pointwise(dim: int, group: int = 48) -> nn.Conv2d:
    """A 1 x 1 convolution in groups of channels: ``group`` operations a channel, 48 beside the 49 of 7 x 7.

    Raises ``ValueError`` unless ``group`` divides ``dim``.
    """
    checks.divides(dim, "dim", group=group)
    return nn.Conv2d(dim, dim, 1, groups=dim // group)


def as_dense_depthwise(mixer: InceptionDWConv2d | PartialDWConv2d) -> tuple[Tensor, Tensor]:
    """The one depthwise convolution that a mixer is: kernels (dim, 1, k, k), mostly zeros, and bias (dim,).

    ``k`` is the longest side of any of its kernels. A channel that stays as it is has a one in the middle.
    """
    branches = [module for module in mixer.children() if isinstance(module, nn.Conv2d)]
    side = max(max(conv.kernel_size) for conv in branches)
    same = mixer.split[0]
    middle = torch.ones(same, 1, 1, 1).to(branches[0].weight)
    kernels = [_centred(middle, side), *(_centred(conv.weight, side) for conv in branches)]
    biases = [torch.zeros(same).to(middle), *(conv.bias for conv in branches if conv.bias is not None)]
    return torch.cat(kernels), torch.cat(biases)


def _centred(kernel: Tensor, side: int) -> Tensor:
    """A kernel (dim, 1, h, w) of odd sides in the middle of one of side x side."""
    rows, columns = ((side - n) // 2 for n in kernel.shape[-2:])
    return pad(kernel, (columns, columns, rows, rows))


# --- what a mixer costs -----------------------------------------------------------------------------------


class MixerCost(NamedTuple):
    """Parameters; and for each position of the map multiply-accumulates, and values read and written."""

    parameters: int
    macs: int
    moved: int
    """Each value that is convolved is read once and written once: what no implementation can avoid."""


def mixer_cost(kind: Literal["inception", "partial"], dim: int, kernel: int, ratio: float) -> MixerCost:
    """Closed forms; ``kernel``: side of the partial convolution's square, or length of Inception's bands.

    Raises ``ValueError`` for another kind, and as the mixers do.
    """
    checks.one_of(("inception", "partial"), kind=kind)
    branch = branch_channels(dim, ratio)
    if kind == "partial":
        return MixerCost(branch * (kernel**2 + 1), branch * kernel**2, 2 * branch)
    taps = 3**2 + 2 * kernel
    return MixerCost(branch * (taps + 3), branch * taps, 2 * 3 * branch)


# --- block and network ------------------------------------------------------------------------------------


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every position of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape, in memory channels last."""
        last = layer_norm(
            rearrange(x, "b c h w -> b h w c"), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return rearrange(last, "b h w c -> b c h w")


def make_norm(norm: Norm, dim: int) -> nn.Module:
    """Raises ``ValueError`` for another norm than `Norm` has."""
    checks.one_of(get_args(Norm), norm=norm)
    return nn.BatchNorm2d(dim) if norm == "batch" else ChannelNorm(dim, EPS)


class ConvMlp(nn.Module):
    """Two 1 x 1 convolutions with GELU between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.up, self.down = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        return self.down(gelu(self.up(x)))


class LinearMlp(nn.Module):
    """The same function by linear layers, which take the channels last."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape, in memory channels last."""
        last = self.down(gelu(self.up(rearrange(x, "b c h w -> b h w c"))))
        return rearrange(last, "b h w c -> b c h w")


MLPS: dict[str, Callable[[int, int], nn.Module]] = {"conv": ConvMlp, "linear": LinearMlp}


class MetaNeXtBlock(nn.Module):
    """``x + scale * mlp(norm(mixer(x)))``: one residual for both, unlike a transformer's two.

    ``scale``: one learned number a channel that starts at ``scale0``; None leaves it out. Raises
    ``ValueError`` for an unknown norm or MLP, and for a ratio below 1.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        norm: Norm = "batch",
        mlp_ratio: int = 4,
        mlp: Mlp = "conv",
        scale0: float | None = EPS,
    ):
        super().__init__()
        checks.at_least(1, dim=dim, mlp_ratio=mlp_ratio)
        checks.one_of(get_args(Mlp), mlp=mlp)
        self.mixer = mixer
        self.norm = make_norm(norm, dim)
        self.mlp = MLPS[mlp](dim, mlp_ratio * dim)
        self.scale = None if scale0 is None else nn.Parameter(torch.full((dim,), scale0))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        change = self.mlp(self.norm(self.mixer(x)))
        return x + (change if self.scale is None else change * self.scale[:, None, None])


class MlpHead(nn.Sequential):
    """Linear to three times the width, GELU, LayerNorm, linear to the classes."""

    def __init__(self, dim: int, classes: int):
        super().__init__(
            nn.Linear(dim, 3 * dim), nn.GELU(), nn.LayerNorm(3 * dim, EPS), nn.Linear(3 * dim, classes)
        )


class LinearHead(nn.Sequential):
    """LayerNorm, then linear to the classes, as ConvNeXt has it."""

    def __init__(self, dim: int, classes: int):
        super().__init__(nn.LayerNorm(dim, EPS), nn.Linear(dim, classes))


HEADS: dict[str, Callable[[int, int], nn.Module]] = {"mlp": MlpHead, "linear": LinearHead}


class Spec(NamedTuple):
    """A network: blocks and width of every stage, and what its blocks are."""

    depths: Sequence[int]
    dims: Sequence[int]
    mixer: Callable[[int], nn.Module] = InceptionDWConv2d
    """Makes the mixer of a block from its width."""
    norm: Norm = "batch"
    mlp_ratios: Sequence[int] = (4, 4, 4, 3)
    mlp: Mlp = "conv"
    head: Head = "mlp"
    stem: int = 4
    """Side and stride of the first convolution."""
    scale0: float | None = EPS


class MetaNeXt(nn.Module):
    """Stages of blocks, each at half the resolution of the one before, and a read-out of the mean position.

    Raises ``ValueError`` unless there is one depth and one MLP ratio for each width, for a size below 1, and
    for an unknown norm, MLP or head.
    """

    def __init__(self, spec: Spec, in_chans: int, classes: int):
        super().__init__()
        _check(spec, in_chans, classes)
        norm = partial(make_norm, spec.norm)
        enter = nn.Conv2d(in_chans, spec.dims[0], spec.stem, spec.stem)
        stages: list[nn.Module] = [nn.Sequential(enter, norm(spec.dims[0]))]
        for index, (depth, dim, ratio) in enumerate(
            zip(spec.depths, spec.dims, spec.mlp_ratios, strict=True)
        ):
            if index:
                before = spec.dims[index - 1]
                stages.append(nn.Sequential(norm(before), nn.Conv2d(before, dim, 2, 2)))
            stages += [
                MetaNeXtBlock(dim, spec.mixer(dim), spec.norm, ratio, spec.mlp, spec.scale0)
                for _ in range(depth)
            ]
        self.stages = nn.Sequential(*stages)
        self.head = HEADS[spec.head](spec.dims[-1], classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_chans, height, width) -> logits (batch, classes)."""
        return self.head(self.stages(images).mean((2, 3)))


def _check(spec: Spec, in_chans: int, classes: int) -> None:
    checks.at_least(1, in_chans=in_chans, classes=classes, stem=spec.stem)
    checks.one_of(get_args(Head), head=spec.head)
    if not spec.dims:
        raise ValueError("dims must have at least one stage, got none")
    for name, values in {"depths": spec.depths, "mlp_ratios": spec.mlp_ratios}.items():
        if len(values) != len(spec.dims):
            raise ValueError(f"{name} must be one for each of dims = {list(spec.dims)}, got {list(values)}")
    for index, (depth, dim) in enumerate(zip(spec.depths, spec.dims, strict=True)):
        checks.at_least(1, **{f"depth of stage {index}": depth, f"dim of stage {index}": dim})


def restarted(net: nn.Module) -> nn.Module:
    """The network with weights as torch starts them, from its global generator, and not at 0.02."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
    return net


def cut_kernels(net: nn.Module, side: int) -> nn.Module:
    """A copy of a network whose depthwise kernels are 0 outside their middle ``side`` x ``side``.

    Raises ``ValueError`` for a side that is not odd.
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"side must be odd and >= 1, got {side}")
    copied = copy.deepcopy(net)
    mixers = [m for m in copied.modules() if isinstance(m, (InceptionDWConv2d, PartialDWConv2d))]
    for conv in (conv for mixer in mixers for conv in mixer.children() if isinstance(conv, nn.Conv2d)):
        height, width = conv.kernel_size
        rows, columns = (max(0, n - side) // 2 for n in (height, width))
        within = conv.weight.data[..., rows : height - rows, columns : width - columns]
        conv.weight.data = pad(within, (columns, columns, rows, rows))
    return copied


# --- the published networks -------------------------------------------------------------------------------

SIZES = {
    "atto": Spec((2, 2, 6, 2), (40, 80, 160, 320), partial(InceptionDWConv2d, band=9, ratio=1 / 4)),
    "T": Spec((3, 3, 9, 3), (96, 192, 384, 768)),
    "S": Spec((3, 3, 27, 3), (96, 192, 384, 768)),
    "B": Spec((3, 3, 27, 3), (128, 256, 512, 1024)),
}
"""InceptionNeXt's sizes by name (table 2 and the repository)."""


def convnext_tiny(kernel: int = 7, ratio: float = 1.0) -> Spec:
    """ConvNeXt-T; or with another kernel, or with only the last ``ratio`` of the channels convolved."""
    return Spec(
        depths=(3, 3, 9, 3),
        dims=(96, 192, 384, 768),
        mixer=partial(PartialDWConv2d, kernel=kernel, ratio=ratio),
        norm="layer",
        mlp_ratios=(4, 4, 4, 4),
        mlp="linear",
        head="linear",
    )


class Count(NamedTuple):
    """Parameters, and multiply-accumulates for one image of 224 x 224 pixels."""

    parameters: int
    macs: int


RESNET_50 = Count(25_557_032, 4_089_184_256)
"""Counted as ours are on the implementation in ``transformers`` (by the tests)."""
