"""DuoFormer: the maps of a convolutional network regrouped into a tree of tokens for each patch.

Tang, Zhang, Ho, Knudsen and Tasdizen, "DuoFormer: Leveraging Hierarchical Representations by Local and Global
Attention Vision Transformer", arXiv 2506.12982, MIDL 2025. Sizes and details were read in the first author's
repository (xiaoyatang/duoformer_TCGA), which has no licence; the code here is written anew.

Implemented: patch tokenisation, both scale tokens, scale attention inside each patch, patch attention between
patches, with standard blocks and with the released bare ones, what their scores cost, how far tokens still
differ, small backbones with maps at several scales, and lazy ways to make one token of a patch's tree. The
chapter's networks have the learned scale token; the one made of all maps is only tested.

Departures. Patch blocks are standard ones unless ``patch_kind="bare"`` is asked for: the released ones are
attention alone, without residual, LayerNorm or MLP. The last LayerNorm is applied; the released class
computes it and drops its result. Inside a block of 2 x 2 tokens the order is row-major, the released one
column-major; positions are learned, so both are the same. Linear layers start as torch starts them.

With P x P patches, stage a, counted from the coarsest, has a map (batch, channels, P 2^a, P 2^a).
"""

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from fourfold import checks
from fourfold.attention import EPS, MLP, Attention, Block, Mixing

Reader = Literal["attention", "linear", "means"]
"""What makes one token of a tree: scale attention, or one linear layer over all tokens or scale means."""

TokenKind = Literal["learned", "channel", "none"]
"""The token that reads a patch: learned, made of all maps, or none, where the coarsest token does it."""

BlockKind = Literal["vit", "bare"]
BackboneKind = Literal["conv", "resnet", "metanext"]

STD = 0.036
"""Standard deviation of tokens and positions at the start, as released."""

# --- tokens -----------------------------------------------------------------------------------------------


def region_index(grid: int, k: int) -> Tensor:
    """Where the tokens of each patch lie in a map of side ``grid * k``: (grid^2, k^2), row by row.

    Raises ``ValueError`` for sizes below 1.
    """
    checks.at_least(1, grid=grid, k=k)
    places = torch.arange((grid * k) ** 2)
    return rearrange(places, "(r i c j) -> (r c) (i j)", r=grid, i=k, c=grid, j=k)


def tree_size(scales: int) -> int:
    """Tokens of a patch: 1 + 4 + 16 + ..., one term a scale."""
    return (4**scales - 1) // 3


class PatchTokenizer(nn.Module):
    """Each map projected by its own 1 x 1 convolution, and cut into the patches' blocks, coarse to fine.

    ``channels``: of the maps, the coarsest first. ``scales``: the stage of each, 0, 1, 2, ... by default.
    Raises ``ValueError`` for no maps, another number of scales, and sizes below 1.
    """

    def __init__(self, channels: Sequence[int], dim: int, grid: int, scales: Sequence[int] | None = None):
        super().__init__()
        checks.at_least(1, dim=dim, grid=grid, **{"number of maps": len(channels)})
        self.grid, self.scales = grid, list(range(len(channels)) if scales is None else scales)
        if len(self.scales) != len(channels) or min(self.scales) < 0:
            raise ValueError(f"scales must be {len(channels)} numbers >= 0, got {self.scales}")
        self.sizes = [4**scale for scale in self.scales]
        """Tokens that a patch has of each map."""
        self.projections = nn.ModuleList(_projection(c, dim) for c in channels)
        self.regions = [region_index(grid, 2**scale) for scale in self.scales]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (batch, channels, side, side), coarsest first -> (batch, grid^2, tokens, dim).

        Raises ``ValueError`` for another number of maps, and unless their sides are grid, 2 grid, 4 grid, ...
        """
        if len(maps) != len(self.projections):
            raise ValueError(f"maps must be {len(self.projections)}, got {len(maps)}")
        parts = []
        for scale, region, x, project in zip(self.scales, self.regions, maps, self.projections, strict=True):
            side = self.grid * 2**scale
            if x.shape[-2:] != (side, side):
                raise ValueError(
                    f"the map of scale {scale} must be {side} x {side}, got {x.shape[-2]} x {x.shape[-1]}"
                )
            parts.append(rearrange(project(x), "b dim y x -> b (y x) dim")[:, region.to(x.device)])
        return torch.cat(parts, 2)


def _projection(channels: int, dim: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, dim, 1)
    nn.init.kaiming_normal_(convolution.weight)
    if convolution.bias is not None:
        nn.init.normal_(convolution.bias, std=1e-6)
    return convolution


class ChannelToken(nn.Module):
    """A token for each patch, made of all maps: brought to the coarsest side, concatenated, and convolved.

    A map of 2 P is max-pooled; finer ones pass a 3 x 3 convolution of stride 2 for each halving before that.
    Four 3 x 3 convolutions with BatchNorm and ReLU then lead to ``dim`` channels.
    """

    def __init__(self, channels: Sequence[int], dim: int):
        super().__init__()
        self.shrink = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(c, c, 3, 2, 1) for _ in range(scale - 1)),
                nn.MaxPool2d(2) if scale else nn.Identity(),
            )
            for scale, c in enumerate(channels)
        )
        widths = [sum(channels), dim, dim, dim, dim]
        self.fuse = nn.Sequential(*(conv_norm(a, b) for a, b in itertools.pairwise(widths)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, coarsest first -> (batch, grid^2, 1, dim)."""
        small = [shrink(x) for shrink, x in zip(self.shrink, maps, strict=True)]
        return rearrange(self.fuse(torch.cat(small, 1)), "b dim y x -> b (y x) 1 dim")


def conv_norm(channels: int, dim: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution of maps (batch, channels, y, x), BatchNorm and ReLU."""
    conv = nn.Conv2d(channels, dim, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(dim), nn.ReLU())


# --- attention --------------------------------------------------------------------------------------------


def scale_block(dim: int, heads: int, mlp_ratio: int = 4, mixing: Mixing = "softmax") -> Block:
    """A block of ViT; over (batch, grid^2, tokens, dim) its attention never leaves a patch.

    Raises ``ValueError`` unless ``heads`` divides ``dim``.
    """
    return Block(dim, Attention(dim, heads, mixing=mixing), MLP(dim, mlp_ratio * dim))


class BareBlock(Attention):
    """The released patch block: attention, and nothing around it."""


def patch_block(kind: BlockKind, dim: int, heads: int, mlp_ratio: int = 4) -> nn.Module:
    """A standard block of ViT, or the released bare one. Raises ``ValueError`` for another kind."""
    checks.one_of(get_args(BlockKind), kind=kind)
    if kind == "bare":
        return BareBlock(dim, heads)
    return Block(dim, Attention(dim, heads), MLP(dim, mlp_ratio * dim))


class Merge(nn.Module):
    """One token for each patch by one linear layer: over all its tokens, or over the mean of each scale.

    ``reader``: ``linear`` or ``means``, see `Reader`. ``sizes``: a patch's tokens of each scale.
    """

    def __init__(self, reader: Reader, sizes: Sequence[int], dim: int):
        super().__init__()
        self.reader, self.sizes = reader, list(sizes)
        features = {"linear": sum(sizes), "means": len(sizes)}
        checks.one_of(features, reader=reader)
        self.linear = nn.Linear(features[reader] * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, patches, tokens, dim) -> (batch, patches, dim)."""
        if self.reader == "linear":
            return self.linear(tokens.flatten(-2))
        means = [part.mean(-2) for part in tokens.split(self.sizes, -2)]
        return self.linear(torch.cat(means, -1))


class DuoFormer(nn.Module):
    """Maps of several scales to classes: a tree of tokens a patch, scale attention, patch attention, CLS.

    Args:
        channels: of the maps that are used, the coarsest first.
        grid: side P of the coarsest map, which has a patch at each place.
        dim, heads, mlp_ratio: width of the tokens, heads of both attentions, and width of the MLPs over dim.
        depth_scale, depth_patch: blocks of both. Without patch blocks the mean of the patches is read.
        classes: outputs.
        reader: what makes one token of a tree; others than ``attention`` have no scale blocks.
        scale_token: see `TokenKind`.
        patch_kind: standard blocks of ViT, or the released bare ones.
        mixing: ``uniform`` makes every scale attention's weights equal.
        scales: the stage of each map, see `PatchTokenizer`.

    Raises ``ValueError`` for sizes that do not fit, unknown kinds, and a scale token without scale blocks.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        grid: int,
        dim: int,
        heads: int,
        classes: int,
        depth_scale: int = 2,
        depth_patch: int = 2,
        mlp_ratio: int = 4,
        reader: Reader = "attention",
        scale_token: TokenKind = "learned",
        patch_kind: BlockKind = "vit",
        mixing: Mixing = "softmax",
        scales: Sequence[int] | None = None,
    ):
        super().__init__()
        checks.at_least(0, depth_scale=depth_scale, depth_patch=depth_patch)
        checks.at_least(1, classes=classes, mlp_ratio=mlp_ratio)
        checks.one_of(get_args(Reader), reader=reader)
        checks.one_of(get_args(TokenKind), scale_token=scale_token)
        self.tokenizer = PatchTokenizer(channels, dim, grid, scales)
        self.scale_token = scale_token if reader == "attention" else "none"
        if self.scale_token != "none" and depth_scale < 1:
            raise ValueError(f"depth_scale must be >= 1 with a scale token, got {depth_scale}")
        if reader == "attention":
            self._make_scale_stage(channels, dim)
            self.scale_blocks = nn.ModuleList(
                scale_block(dim, heads, mlp_ratio, mixing) for _ in range(depth_scale)
            )
        else:
            self.merge = Merge(reader, self.tokenizer.sizes, dim)
        if depth_patch:
            self.cls = nn.Parameter(STD * torch.randn(1, 1, dim))
            self.patch_positions = nn.Parameter(_positions(grid**2 + 1, dim))
        self.patch_blocks = nn.ModuleList(
            patch_block(patch_kind, dim, heads, mlp_ratio) for _ in range(depth_patch)
        )
        self.norm, self.head = nn.LayerNorm(dim, eps=EPS), nn.Linear(dim, classes)

    def _make_scale_stage(self, channels: Sequence[int], dim: int) -> None:
        extra = self.scale_token != "none"
        if self.scale_token == "learned":
            self.token = nn.Parameter(STD * torch.randn(1, 1, 1, dim))
        if self.scale_token == "channel":
            self.make_token = ChannelToken(channels, dim)
        self.scale_positions = nn.Parameter(_positions(sum(self.tokenizer.sizes) + extra, dim))

    def trees(self, maps: Sequence[Tensor]) -> Tensor:
        """The tokens that scale attention sees: (batch, grid^2, tokens, dim), the scale token first."""
        tokens = self.tokenizer(maps)
        if self.scale_token == "learned":
            tokens = torch.cat([self.token.expand(*tokens.shape[:2], -1, -1), tokens], 2)
        if self.scale_token == "channel":
            tokens = torch.cat([self.make_token(maps), tokens], 2)
        return tokens + self.scale_positions

    def attend_scales(self, trees: Tensor, queries: int | None = None) -> Tensor:
        """Scale attention: (batch, patches, tokens, dim) -> the first ``queries`` of them, or all."""
        for index, block in enumerate(self.scale_blocks, start=1):
            trees, _ = block(trees, queries=queries if index == len(self.scale_blocks) else None)
        return trees

    def patch_tokens(self, maps: Sequence[Tensor]) -> Tensor:
        """One token a patch, (batch, grid^2, dim)."""
        if hasattr(self, "merge"):
            return self.merge(self.tokenizer(maps))
        # The others of the last block are not read, so they need not be computed.
        return self.attend_scales(self.trees(maps), queries=1)[:, :, 0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (batch, channels, side, side), coarsest first -> logits (batch, classes)."""
        x = self.patch_tokens(maps)
        if not len(self.patch_blocks):
            return self.head(self.norm(x.mean(1)))
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.patch_positions
        for block in self.patch_blocks:
            x, _ = block(x)
        return self.head(self.norm(x[:, 0]))


def _positions(tokens: int, dim: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(tokens, dim), std=STD)


def hybrid(channels: int, **sizes: Any) -> DuoFormer:
    """The hybrid transformer that DuoFormer is compared with: the coarsest map alone, no scale attention."""
    return DuoFormer([channels], depth_scale=0, scale_token="none", **sizes)


class ScoreCost(NamedTuple):
    """Multiply-accumulates of one layer's scores: scale and patch attention, and over all tokens."""

    scale: int
    patch: int
    flat: int


def score_cost(grid: int, scales: int, dim: int) -> ScoreCost:
    """Closed forms, scale and class tokens included, and for ``flat`` attention none.

    Raises ``ValueError`` for sizes below 1.
    """
    checks.at_least(1, grid=grid, scales=scales, dim=dim)
    patches, tokens = grid**2, tree_size(scales)
    return ScoreCost(
        patches * (tokens + 1) ** 2 * dim, (patches + 1) ** 2 * dim, (patches * tokens) ** 2 * dim
    )


def spread(tokens: Tensor) -> Tensor:
    """How far tokens (batch, tokens, dim) differ: distance to their mean over their norm, (batch,).

    0 where all are the same vector, 1 where their mean is zero.
    """
    apart = tokens - tokens.mean(1, keepdim=True)
    return apart.flatten(1).norm(dim=1) / tokens.flatten(1).norm(dim=1)


@torch.no_grad()
def spreads(blocks: Iterable[nn.Module], x: Tensor) -> list[float]:
    """`spread` after each block, mean over images (batch, tokens, dim)."""
    found = []
    for block in blocks:
        x, _ = block(x)
        found.append(float(spread(x).mean()))
    return found


def untrained(
    kind: BlockKind, depth: int, dim: int, heads: int, mixing: Mixing = "softmax"
) -> Iterator[nn.Module]:
    """Patch blocks as they start, in double precision, made one at a time to save memory."""
    for _ in range(depth):
        block = patch_block(kind, dim, heads).double()
        for attention in (m for m in block.modules() if isinstance(m, Attention)):
            attention.mixing = mixing
        yield block


# --- small backbones --------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a residual."""

    def __init__(self, dim: int):
        super().__init__()
        self.first = conv_norm(dim, dim)
        self.second = nn.Sequential(nn.Conv2d(dim, dim, 3, 1, 1, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, y, x) -> the same shape."""
        return relu(x + self.second(self.first(x)))


class NextBlock(nn.Module):
    """A 3 x 3 depthwise convolution, BatchNorm, an MLP of 1 x 1 convolutions, and one residual."""

    def __init__(self, dim: int):
        super().__init__()
        self.mixer, self.norm = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim), nn.BatchNorm2d(dim)
        self.up, self.down = nn.Conv2d(dim, 2 * dim, 1), nn.Conv2d(2 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, y, x) -> the same shape."""
        return x + self.down(gelu(self.up(self.norm(self.mixer(x)))))


class TinyStages(nn.Module):
    """A small convolutional network for grey images of 16 P pixels: maps of P, 2 P and 4 P, coarsest first.

    A stem of two 3 x 3 convolutions of stride 2, and stages of a (strided) convolution and, except for
    ``conv``, a block of the kind. ``dims``: width of each stage, the finest first, as the images pass them.
    Raises ``ValueError`` for another kind and for no stages.
    """

    def __init__(self, kind: BackboneKind = "conv", dims: Sequence[int] = (16, 32, 64)):
        super().__init__()
        checks.one_of(get_args(BackboneKind), kind=kind)
        checks.at_least(1, **{"number of stages": len(dims)})
        self.channels = list(reversed(dims))
        self.stem = nn.Sequential(conv_norm(1, dims[0], 2), conv_norm(dims[0], dims[0], 2))
        block = {"conv": nn.Identity, "resnet": ResidualBlock, "metanext": NextBlock}[kind]
        widths = [dims[0], *dims]
        self.stages = nn.ModuleList(
            nn.Sequential(conv_norm(before, dim, 2 if index else 1), block(dim))
            for index, (before, dim) in enumerate(itertools.pairwise(widths))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(batch, 1, side, side) -> maps (batch, channels, y, x), coarsest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[::-1]


class Classifier(nn.Module):
    """A backbone with a linear layer on the mean of its coarsest map."""

    def __init__(self, backbone: TinyStages, classes: int):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.channels[0], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, side, side) -> logits (batch, classes)."""
        return self.head(self.backbone(images)[0].mean((2, 3)))


def packed(maps: Sequence[Tensor]) -> Tensor:
    """Maps as one vector an image, (batch, values), coarsest first: what a frozen backbone's cache holds."""
    return torch.cat([x.flatten(1) for x in maps], 1)


def unpacked(vector: Tensor, channels: Sequence[int], grid: int) -> list[Tensor]:
    """The maps of `packed`: (batch, values) -> (batch, channels, side, side) each, coarsest first."""
    sides = [grid * 2**scale for scale in range(len(channels))]
    parts = vector.split([c * side**2 for c, side in zip(channels, sides, strict=True)], 1)
    return [part.view(-1, c, side, side) for part, c, side in zip(parts, channels, sides, strict=True)]


class OnPacked(nn.Module):
    """A head of maps that takes them `packed`, and sees those of its own scales.

    ``channels``: of all maps in the vector, the coarsest first.
    """

    def __init__(self, head: DuoFormer, channels: Sequence[int]):
        super().__init__()
        self.head, self.channels = head, list(channels)

    def forward(self, vector: Tensor) -> Tensor:
        """(batch, values) -> logits (batch, classes)."""
        tokenizer = self.head.tokenizer
        maps = unpacked(vector, self.channels, tokenizer.grid)
        return self.head([maps[scale] for scale in tokenizer.scales])


# --- what is taken away -----------------------------------------------------------------------------------


def with_equal_patches(net: nn.Module) -> nn.Module:
    """A copy of a network whose patch attention gives all tokens equal weights."""
    copied = copy.deepcopy(net)
    for duoformer in (m for m in copied.modules() if isinstance(m, DuoFormer)):
        for attention in (m for m in duoformer.patch_blocks.modules() if isinstance(m, Attention)):
            attention.mixing = "uniform"
    return copied


def misdealt(net: DuoFormer, where: Literal["across", "inside"], generator: torch.Generator) -> DuoFormer:
    """The network itself, its tokens of all maps but the coarsest dealt to wrong places, always the same.

    ``across``: to any patch, ``inside``: to any place of their own. Raises ``ValueError`` for another place.
    """
    checks.one_of(("across", "inside"), where=where)
    tokenizer = net.tokenizer
    for i in range(1, len(tokenizer.regions)):
        region = tokenizer.regions[i]
        rows = region.flatten()[None] if where == "across" else region
        order = torch.rand(rows.shape, generator=generator).argsort(1)
        tokenizer.regions[i] = rows.gather(1, order).view(region.shape)
    return net


# --- what is measured -------------------------------------------------------------------------------------


def misplaced(index: Tensor, grid: int, k: int) -> int:
    """Of the places that an index (grid^2, k^2) gathers, those that do not lie in the row's own patch."""
    row, column = index // (grid * k), index % (grid * k)
    return int((row // k * grid + column // k != torch.arange(grid**2)[:, None]).sum())


def influences(net: DuoFormer, trees: Tensor, generator: torch.Generator, flat: bool = False) -> Tensor:
    """What scale attention gives which tokens, largest derivative: (patches, scales, patches, scales).

    Of a random mixture of the outputs of one patch and scale (row) by the tokens of another (column), for
    ``trees`` (1, patches, tokens, dim) with a scale token, which counts as the first scale. ``flat``: the
    same blocks over the tokens of all patches.
    """
    sizes = [1, *net.tokenizer.sizes]
    x = trees.detach().requires_grad_()
    out = net.attend_scales(x.flatten(1, 2)[:, None]).view(x.shape) if flat else net.attend_scales(x)
    rows = []
    for patch in range(x.shape[1]):
        for part in out[0, patch].split(sizes):
            mixture = torch.randn(part.shape, dtype=part.dtype, generator=generator)
            (gradient,) = torch.autograd.grad((part * mixture).sum(), x, retain_graph=True)
            found = [g.abs().amax((1, 2)) for g in gradient[0].split(sizes, 1)]
            rows.append(torch.stack(found, 1))
    return torch.stack(rows).view(x.shape[1], len(sizes), x.shape[1], len(sizes))


def silent(*nets: nn.Module) -> int:
    """Weights, biases and norms not counted, that have no gradient or one of zeros."""
    weights = (w for net in nets for w in net.parameters() if w.ndim > 1)
    return sum(w.grad is None or not bool(w.grad.any()) for w in weights)


def drawn_tree(photo: Tensor, grid: int, row: int, column: int, scales: int) -> list[Tensor]:
    """What the tokens of one patch of a photograph (side, side) stand for: its block means, coarse to fine.

    Raises ``ValueError`` unless the finest grid divides the side.
    """
    checks.divides(len(photo), "side", finest=grid * 2 ** (scales - 1))
    found = []
    for k in (2**scale for scale in range(scales)):
        cells = reduce(photo, "(y a) (x b) -> y x", "mean", y=grid * k, x=grid * k)
        found.append(cells[row * k : (row + 1) * k, column * k : (column + 1) * k])
    return found


@torch.no_grad()
def scale_attention(net: DuoFormer, maps: Sequence[Tensor]) -> Tensor:
    """Attention that the tokens of each scale pay to each, (blocks, scales, scales), the scale token first.

    Mean over images, patches, heads and the paying tokens, sum over those that are looked at: rows sum to 1.
    """
    sizes, x, found = [1, *net.tokenizer.sizes], net.trees(maps), []
    for block in net.scale_blocks:
        x, attention = block(x)
        mean = attention.mean((0, 1, 2))
        columns = torch.stack([part.sum(1) for part in mean.split(sizes, 1)], 1)
        found.append(torch.stack([part.mean(0) for part in columns.split(sizes)]))
    return torch.stack(found)


def five_statistics(images: Tensor) -> Tensor:
    """Mean, median, deviation, and those of the steps to the right and down: (n, 1, y, x) -> (n, 5)."""
    pixels = images.flatten(1)
    steps = [images.diff(dim=dim).flatten(1).std(1) for dim in (-1, -2)]
    return torch.stack([pixels.mean(1), pixels.median(1).values, pixels.std(1), *steps], 1)
