"""DHVT: a plain vision transformer with what small data sets cannot teach it built in.

Lu et al., "Bridging the Gap Between Vision Transformers and Convolutional Neural Networks on Small Datasets",
arXiv 2210.05958, NeurIPS 2022. Sizes and details were read in the official repository (ArieSeirack/DHVT); the
code here is written anew.

Implemented: the convolutional patch embedding (SOPE), attention with head tokens (HI-MHSA), the convolutional
feed-forward layer that rescales the class token (DAFF), the published networks, and the convolutional network
that the chapter compares with.

Departures. BatchNorm is not synchronised between devices, there is no stochastic depth, and query, key and
value come from three linear layers in place of one three times as wide, which is the same function.

Tokens are (batch, 1 + side^2, dim): CLS first, then the map of tokens row by row.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu

from fourfold import checks
from fourfold.attention import EPS, MLP, Attention, Block, PatchEmbedding

PATCHES = (2, 4, 16)
"""Sides of a patch for which the authors say how wide the convolutions of SOPE are."""

Gate = Literal["dynamic", "alone", "static", "none"]
"""What becomes of CLS in DAFF: it is multiplied by weights read from the map, as published; these weights
stand in its place; it is multiplied by learned weights that do not look; nothing."""

Heads = Literal["means", "registers"]
"""What head tokens are made of: the channels' means over all tokens, as published, or zeros instead. The
latter are learned registers, the same for all images before attention."""

# --- patch embedding --------------------------------------------------------------------------------------


class Affine(nn.Module):
    """A factor and an offset for each channel of a map, 1 and 0 at the start."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        return self.alpha * x + self.beta


class SOPE(nn.Module):
    """Sequential overlapping patch embedding: 3 x 3 convolutions of stride 2 in place of one linear map.

    One for each halving, each twice as wide as the one before, the last ``dim`` wide; GELU between them, and
    after the only one where ``patch`` is 2, as in the released code. With ``norm=False`` there is neither
    BatchNorm nor `Affine`, and the convolutions have a bias. Raises ``ValueError`` for a patch other than 2,
    4 or 16 and for a width that cannot be halved so often.
    """

    def __init__(self, channels: int, dim: int, patch: int, norm: bool = True):
        super().__init__()
        checks.at_least(1, channels=channels, dim=dim)
        if patch not in PATCHES:
            raise ValueError(f"patch must be one of {', '.join(map(str, PATCHES))}, got {patch}")
        layers = int(math.log2(patch))
        checks.divides(dim, "dim", **{f"2 ** {layers - 1}": 2 ** (layers - 1)})
        widths = [channels, *(dim // 2**left for left in reversed(range(layers)))]
        steps: list[nn.Module] = [Affine(channels)] if norm else []
        for index in range(layers):
            c_in, c_out = widths[index : index + 2]
            steps.append(nn.Conv2d(c_in, c_out, 3, 2, 1, bias=not norm))
            if norm:
                steps.append(nn.BatchNorm2d(c_out))
            if index < layers - 1 or layers == 1:
                steps.append(nn.GELU())
        if norm:
            steps.append(Affine(dim))
        self.patch, self.steps = patch, nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, tokens, dim).

        Raises ``ValueError`` unless ``patch`` divides both sides.
        """
        height, width = x.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"patch must divide the image's sides, got {self.patch} and {height} x {width}")
        return rearrange(self.steps(x), "b c h w -> b (h w) c")


# --- attention --------------------------------------------------------------------------------------------


class HeadInteractionAttention(Attention):
    """HI-MHSA: attention in which each group of channels has a token of its own.

    ``source="registers"`` makes the head tokens of zeros instead of the channels' means: as many tokens and
    parameters, but what they see of the image they see by attention alone. Raises ``ValueError`` unless
    ``heads`` divides ``dim``.
    """

    def __init__(self, dim: int, heads: int, source: Heads = "means"):
        super().__init__(dim, heads)
        checks.one_of(get_args(Heads), source=source)
        self.source = source
        # One layer for all heads, from the width of a head to that of all.
        self.head_projection = nn.Linear(dim // heads, dim)
        self.head_norm = nn.LayerNorm(dim // heads)
        self.head_embedding = _small(heads, dim)

    def head_tokens(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> (batch, heads, dim): token i is made of the channels of head i alone."""
        means = rearrange(x.mean(1), "b (h d) -> b h d", h=self.heads)
        if self.source == "registers":
            means = torch.zeros_like(means)
        parts = rearrange(self.head_projection(means), "b h (g d) -> b h g d", g=self.heads)
        return rearrange(gelu(self.head_norm(parts)), "b h g d -> b h (g d)") + self.head_embedding

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor]:
        """Attention among tokens and head tokens; what the head tokens have become is added to CLS.

        (batch, tokens, dim) -> its first ``queries`` tokens, or all, and the attention (batch, heads,
        tokens + heads, tokens + heads), head tokens last.
        """
        tokens = x.shape[1]
        mixed, weights = super().forward(torch.cat([x, self.head_tokens(x)], 1))
        cls = mixed[:, :1] + mixed[:, tokens:].mean(1, keepdim=True)
        return torch.cat([cls, mixed[:, 1:tokens]], 1)[:, :queries], weights


# --- feed-forward -----------------------------------------------------------------------------------------


class DAFF(nn.Module):
    """Dynamic aggregation feed-forward: convolutions on the map, whose mean then rescales CLS.

    ``kernel``: side of the depthwise convolution, 0 for none of it. ``norm``: whether there is BatchNorm.
    Raises ``ValueError`` for an even kernel other than 0, an unknown gate, and a size that is too small.
    """

    def __init__(self, dim: int, ratio: int = 4, kernel: int = 3, norm: bool = True, gate: Gate = "dynamic"):
        super().__init__()
        checks.at_least(4, dim=dim)
        checks.at_least(1, ratio=ratio)
        checks.one_of(get_args(Gate), gate=gate)
        if kernel < 0 or (kernel and kernel % 2 == 0):
            raise ValueError(f"kernel must be odd, or 0 for none, got {kernel}")
        hidden = ratio * dim

        def normed(convolution: nn.Module, width: int) -> nn.Module:
            return nn.Sequential(convolution, nn.BatchNorm2d(width)) if norm else convolution

        self.up = normed(nn.Conv2d(dim, hidden, 1), hidden)
        self.depthwise = (
            normed(nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden), hidden)
            if kernel
            else None
        )
        self.down = normed(nn.Conv2d(hidden, dim, 1), dim)
        self.gate: Gate = gate
        if gate in ("dynamic", "alone"):
            self.squeeze, self.excite = nn.Linear(dim, dim // 4), nn.Linear(dim // 4, dim)
        elif gate == "static":
            # Where weights that are read start too, in all but a small number.
            self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1 + side^2, dim) -> the same shape. Raises ``ValueError`` for tokens of another number."""
        cls, z = x[:, :1], as_map(x)
        z = gelu(self.up(z))
        if self.depthwise is not None:
            z = z + gelu(self.depthwise(z))
        z = self.down(z)
        weights = self.channel_weights(z)[:, None]
        cls = weights if self.gate == "alone" else cls * weights
        return torch.cat([cls, rearrange(z, "b c h w -> b (h w) c")], 1)

    def channel_weights(self, z: Tensor) -> Tensor:
        """What CLS is multiplied by: map (batch, dim, side, side) -> (batch, dim)."""
        if self.gate == "none":
            return torch.ones_like(z[:, :, 0, 0])
        if self.gate == "static":
            return self.weight.expand(len(z), -1)
        return self.excite(gelu(self.squeeze(z.mean((2, 3)))))


def as_map(x: Tensor) -> Tensor:
    """The tokens after CLS as a square map: (batch, 1 + side^2, dim) -> (batch, dim, side, side).

    Raises ``ValueError`` for another number of tokens.
    """
    side = math.isqrt(x.shape[1] - 1)
    if side < 1 or side**2 != x.shape[1] - 1:
        raise ValueError(f"expected CLS and side^2 tokens, got {tuple(x.shape)}")
    return rearrange(x[:, 1:], "b (h w) c -> b c h w", h=side)


# --- networks ---------------------------------------------------------------------------------------------

Embed = Callable[[int, int, int], nn.Module]
"""(channels, dim, patch) -> a module from images to tokens, such as `SOPE`."""

Mix = Callable[[int, int], Attention]
"""(dim, heads) -> attention, such as `HeadInteractionAttention`."""

Feed = Callable[[int, int], nn.Module]
"""(dim, ratio) -> a module from tokens to tokens, such as `DAFF`."""


def plain_feed(dim: int, ratio: int) -> MLP:
    """The MLP of a plain transformer, which treats all tokens alike."""
    return MLP(dim, ratio * dim)


class DHVT(nn.Module):
    """Embedding, CLS, blocks, LayerNorm, and a linear read-out of CLS. There are no positions.

    Each of the three parts can be replaced. ``positions``: the number of tokens of an image, to learn
    positions for them and CLS. See `vit` for the transformer without any of it. Raises ``ValueError`` for a
    size below 1 and for what the parts refuse.
    """

    def __init__(
        self,
        *,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        channels: int = 3,
        classes: int = 100,
        ratio: int = 4,
        embed: Embed = SOPE,
        mix: Mix = HeadInteractionAttention,
        feed: Feed = DAFF,
        positions: int | None = None,
    ):
        super().__init__()
        checks.at_least(1, dim=dim, depth=depth, heads=heads, classes=classes, ratio=ratio)
        checks.at_least(1, positions=1 if positions is None else positions)
        checks.divides(dim, "dim", heads=heads)
        self.embed = embed(channels, dim, patch)
        self.cls = _small(1, 1, dim)
        self.positions = None if positions is None else _small(1 + positions, dim)
        self.blocks = nn.ModuleList(Block(dim, mix(dim, heads), feed(dim, ratio)) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.head = nn.Linear(dim, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        return self.run(images)[0]

    def run(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the attention of each block (batch, heads, tokens, tokens), head tokens last."""
        x = self.embed(images)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        if self.positions is not None:
            x = x + self.positions
        maps = []
        for block in self.blocks:
            x, weights = block(x)
            maps.append(weights)
        return self.head(self.norm(x[:, 0])), maps


def vit(*, tokens: int, **sizes: Any) -> DHVT:
    """The plain vision transformer: a linear patch embedding, learned positions, attention, an MLP.

    ``tokens``: of an image, without CLS. ``sizes`` as for `DHVT`.
    """
    return DHVT(embed=PatchEmbedding, mix=Attention, feed=plain_feed, positions=tokens, **sizes)


@torch.no_grad()
def with_mean_weights(net: DHVT, images: Tensor) -> DHVT:
    """A copy of ``net`` whose weights for CLS are no longer read: each block has their mean over ``images``.

    ``images``: (batch, channels, height, width). Raises ``ValueError`` unless every feed-forward layer is a
    `DAFF` with the gate ``"dynamic"``.
    """
    fixed = copy.deepcopy(net)
    feeds = []
    for block in fixed.blocks:
        feed = block.mlp
        if not isinstance(feed, DAFF) or feed.gate != "dynamic":
            raise ValueError(f"net must have dynamic weights for CLS, got {feed.__class__.__name__}")
        feeds.append(feed)
    seen: list[Tensor] = []
    hooks = [feed.excite.register_forward_hook(lambda *call: seen.append(call[-1].mean(0))) for feed in feeds]
    fixed(images)
    for feed, hook, mean in zip(feeds, hooks, seen, strict=True):
        hook.remove()
        feed.gate, feed.weight = "static", nn.Parameter(mean)
    return fixed


class Size(NamedTuple):
    """A published network."""

    patch: int
    dim: int
    heads: int
    classes: int
    image: int


PUBLISHED = {
    "S/16, ImageNet": Size(16, 384, 6, 1000, 224),
    "T/16, ImageNet": Size(16, 192, 3, 1000, 224),
    "S/2, CIFAR-100": Size(2, 384, 8, 100, 32),
    "S/4, CIFAR-100": Size(4, 384, 8, 100, 32),
    "T/2, CIFAR-100": Size(2, 192, 4, 100, 32),
    "T/4, CIFAR-100": Size(4, 192, 4, 100, 32),
}


def published(name: str, plain: bool = False) -> DHVT:
    """A published network of 12 blocks, or the plain transformer of its size.

    Raises ``ValueError`` for a name not in ``PUBLISHED``.
    """
    checks.one_of(tuple(PUBLISHED), name=name)
    patch, dim, heads, classes, image = PUBLISHED[name]
    sizes: dict[str, Any] = {"patch": patch, "dim": dim, "heads": heads, "classes": classes, "depth": 12}
    return vit(tokens=(image // patch) ** 2, **sizes) if plain else DHVT(**sizes)


class SmallCNN(nn.Module):
    """A convolutional network: a 3 x 3 convolution, BatchNorm and ReLU a stage, pooling between the stages.

    Then the mean over the map and a linear read-out. The first stage sees every pixel. With ``early=True``
    the image is first made four times smaller, by a 7 x 7 convolution of stride 2 and pooling, as in networks
    for ImageNet. ``norm=False`` leaves out BatchNorm. Raises ``ValueError`` for a size below 1.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: tuple[int, ...] = (16, 32, 48),
        norm: bool = True,
        early: bool = False,
    ):
        super().__init__()
        checks.at_least(
            1, channels=channels, classes=classes, stages=len(widths), narrowest=min(widths, default=1)
        )
        steps: list[nn.Module] = []
        for index, (c_in, c_out) in enumerate(zip((channels, *widths), widths, strict=False)):
            stem = early and index == 0
            steps.append(nn.Conv2d(c_in, c_out, 7, 2, 3) if stem else nn.Conv2d(c_in, c_out, 3, 1, 1))
            if norm:
                steps.append(nn.BatchNorm2d(c_out))
            steps.append(nn.ReLU())
            if index < len(widths) - 1:
                steps.append(nn.MaxPool2d(2))
        self.steps = nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        return self.head(self.steps(images))


# --- where tokens look ------------------------------------------------------------------------------------


def attention_distance(weights: Tensor, side: int) -> float:
    """How far a patch token looks: the distance to the others, weighted by its attention among the patches.

    ``weights``: (batch, heads, tokens, tokens) of CLS, ``side``^2 patches, and any tokens after. The mean
    over images, heads and queries, in tokens (Dosovitskiy et al., arXiv 2010.11929, appendix). Raises
    ``ValueError`` for fewer tokens.
    """
    if weights.shape[-1] < 1 + side**2 or side < 1:
        raise ValueError(f"expected CLS and {side} x {side} patches, got {tuple(weights.shape)}")
    among = weights[..., 1 : 1 + side**2, 1 : 1 + side**2].double()
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1).double()
    among = among / among.sum(-1, keepdim=True)
    return float((among * torch.cdist(places, places)).sum(-1).mean())


def _small(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
