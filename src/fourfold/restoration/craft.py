"""CRAFT: attention in rectangular windows beside a convolution, which asks the questions when both are fused.

Li, Zhang, Liu and Zhu, "Feature Modulation Transformer: Cross-Refinement of Global Representation via
High-Frequency Prior for Image Super-Resolution", arXiv 2308.05022, ICCV 2023. Sizes and details were read in
the official repository (AVC2-UESTC/CRAFT-SR); the code here is written anew.

Implemented: attention in shifted rectangle windows (SRWAB), the convolution and max-pool block (HFERB), their
fusion (HFB), the network at its published sizes, and the counts of three peers from their own code. Beside
these, what fourfold holds against the parts: a window's mean in place of attention, fusion by queries of the
transformer's own or by a sum, and a block without its max-pool.

Where the code departs from the paper's text, both are here: ``pos_dim`` sets the width of the net that makes
the position bias, which is 1 as released, and ``masked`` forbids attention between the image's opposite
borders, which the released shift allows.

By ``split`` = (4, 16) half of the channels attend in windows of 4 rows x 16 columns, half in 16 x 4.
SRWABs work on (batch, height, width, dim), all else on (batch, dim, height, width).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, max_pool2d, normalize, relu

from fourfold import checks
from fourfold.attention import MLP
from fourfold.super_resolution import GDFN, SCALES, ChannelNorm, SuperResolver

Split = tuple[int, int]
Mixing = Literal["softmax", "uniform"]
Second = Literal["max", "identity", "conv"]
Fusion = Literal["high", "low", "sum"]

SPLIT: Split = (4, 16)
EXPANSION = 2.66
"""Hidden channels of the fusion's feed-forward network for each channel."""


# --- the position bias ------------------------------------------------------------------------------------


class DynamicPosBias(nn.Module):
    """A net from the offset between two places to a bias for each head, as in CrossFormer.

    As released its width is 1 for 48 channels, and a LayerNorm over one value returns its own offset:
    whatever goes in, the same comes out.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        checks.at_least(1, width=width, heads=heads)
        self.first = nn.Linear(2, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(width, outputs) for outputs in (width, width, heads))

    def forward(self, offsets: Tensor) -> Tensor:
        """Offsets (n, 2) in pixels -> biases (n, heads)."""
        x = self.first(offsets)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = layer(relu(norm(x)))
        return x


def released_width(dim: int) -> int:
    """The width of the released code's bias net in a block of ``dim`` channels: 1 for 48, 0 below 32."""
    return dim // 2 // 4 // 4


@torch.inference_mode()
def bias_table(width: int, heads: int, generator: torch.Generator, split: Split = SPLIT) -> Tensor:
    """Biases (2 rows - 1, 2 columns - 1, heads) of all offsets in a window, of a net with random weights.

    Weights are uniform in -1..1, those of norms too, so that what is constant is so by design.
    """
    net = DynamicPosBias(width, heads)
    for value in net.parameters():
        value.uniform_(-1, 1, generator=generator)
    return net(_offsets(*split)[0].float()).unflatten(0, (2 * split[0] - 1, -1))


def _offsets(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """All offsets ((2 rows - 1) (2 columns - 1), 2) in a window, and for each pair of places which it is."""
    table = torch.cartesian_prod(torch.arange(1 - rows, rows), torch.arange(1 - columns, columns))
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    apart = places[:, None] - places[None]
    index = (apart[..., 0] + rows - 1) * (2 * columns - 1) + apart[..., 1] + columns - 1
    return table, index


# --- attention in rectangles ------------------------------------------------------------------------------


def shift_mask(size: tuple[int, int], window: Split, shift: Split) -> Tensor:
    """Swin's mask for a map that was rolled by ``-shift``: (windows, n, n), n places in a window.

    0 for two places that were in one piece before, -100 for two that only the roll brought together.
    """
    pieces = [
        (torch.arange(side) >= side - far).int() + (torch.arange(side) >= side - near).int()
        for side, far, near in zip(size, window, shift, strict=True)
    ]
    labels = 3 * pieces[0][:, None] + pieces[1]
    of = rearrange(labels, "(y r) (x c) -> (y x) (r c)", r=window[0], c=window[1])
    return -100.0 * (of[:, :, None] != of[:, None])


class RectWindowAttention(nn.Module):
    """Multi-head attention within windows of rows x columns: softmax(q k^T / sqrt(d) + bias) v.

    ``pos_dim``: width of the net that makes the bias; 0 for none. ``mixing="uniform"`` takes the mean of the
    window instead, and queries and keys then do nothing. Raises ``ValueError`` if heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, window: Split, pos_dim: int = 0, mixing: Mixing = "softmax"):
        super().__init__()
        checks.at_least(1, rows=window[0], columns=window[1])
        checks.at_least(0, pos_dim=pos_dim)
        checks.divides(dim, "dim", heads=heads)
        checks.one_of(get_args(Mixing), mixing=mixing)
        self.heads, self.window, self.mixing = heads, window, mixing
        self.scale = (dim // heads) ** -0.5
        self.position = DynamicPosBias(pos_dim, heads) if pos_dim else None
        if pos_dim:
            table, index = _offsets(*window)
            self.register_buffer("offsets", table, persistent=False)
            self.register_buffer("index", index, persistent=False)

    def forward(self, qkv: Tensor, shift: Split = (0, 0), masked: bool = False) -> Tensor:
        """Queries, keys and values (batch, height, width, 3, dim) -> (batch, height, width, dim).

        The map is rolled by ``-shift`` before it is cut into windows, and back afterwards. Raises
        ``ValueError`` unless the windows fill the map.
        """
        (rows, columns), (height, width) = self.window, qkv.shape[1:3]
        checks.divides(height, "height", rows=rows)
        checks.divides(width, "width", columns=columns)
        cut = "b (y r) (x c) t (h d) -> t (b y x) h (r c) d"
        rolled = qkv.roll((-shift[0], -shift[1]), (1, 2)) if any(shift) else qkv
        q, k, v = rearrange(rolled, cut, r=rows, c=columns, h=self.heads)
        if self.mixing == "uniform":
            mixed = v.mean(-2, keepdim=True).expand_as(v)
        else:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            if self.position is not None:
                scores = scores + self.position(self.offsets.to(scores))[self.index].movedim(-1, 0)
            if masked and any(shift):
                mask = shift_mask((height, width), self.window, shift).to(scores)
                scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
            mixed = scores.softmax(-1) @ v
        back = "(b y x) h (r c) d -> b (y r) (x c) (h d)"
        mixed = rearrange(mixed, back, y=height // rows, x=width // columns, r=rows)
        return mixed.roll(shift, (1, 2)) if any(shift) else mixed


class SRWAB(nn.Module):
    """The shifted rectangle window attention block: attention in flat and upright windows, then an MLP.

    ``shifted``: windows move by half their sides. ``local``: a depthwise 3 x 3 convolution of the values is
    added, the paper's locality complementary module. ``pos_dim`` None is the released width. Raises
    ``ValueError`` unless heads are even and twice their number divides dim.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        split: Split = SPLIT,
        shifted: bool = False,
        pos_dim: int | None = None,
        masked: bool = False,
        local: bool = True,
        mixing: Mixing = "softmax",
    ):
        super().__init__()
        checks.at_least(2, heads=heads)
        checks.divides(heads, "heads", halves=2)
        checks.divides(dim, "dim", heads=heads)
        width = released_width(dim) if pos_dim is None else pos_dim
        self.shift = (split[0] // 2, split[1] // 2) if shifted else (0, 0)
        self.masked = masked
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.flat = RectWindowAttention(dim // 2, heads // 2, split, width, mixing)
        self.upright = RectWindowAttention(dim // 2, heads // 2, (split[1], split[0]), width, mixing)
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if local else None
        self.projection = nn.Linear(dim, dim)
        self.mlp = MLP(dim, 2 * dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape; sides are multiples of those of the windows."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, -1))
        down, across = self.shift
        flat, upright = qkv.chunk(2, -1)
        parts = [
            self.flat(flat, (down, across), self.masked),
            self.upright(upright, (across, down), self.masked),
        ]
        mixed = torch.cat(parts, -1)
        if self.local is not None:
            mixed = mixed + self.local(qkv[..., 2, :].movedim(-1, 1)).movedim(1, -1)
        x = x + self.projection(mixed)
        return x + self.mlp(self.norm_mlp(x))


class Attentive(nn.Sequential):
    """``depth`` SRWABs, every second one shifted, on maps (batch, dim, height, width)."""

    def __init__(self, depth: int, dim: int, heads: int, **how: Any):
        checks.at_least(1, depth=depth)
        super().__init__(*(SRWAB(dim, heads, shifted=index % 2 == 1, **how) for index in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


# --- convolution, and the fusion --------------------------------------------------------------------------


class HFERB(nn.Module):
    """The high-frequency enhancement residual block: half of the channels convolved, half max-pooled.

    ``second`` is what the other half goes through: ``"max"``, a 3 x 3 max-pool and a 1 x 1 convolution;
    ``"identity"``, the 1 x 1 convolution alone; ``"conv"``, a 3 x 3 convolution as the first half. Raises
    ``ValueError`` for another one or an odd dim.
    """

    def __init__(self, dim: int, second: Second = "max"):
        super().__init__()
        checks.divides(dim, "dim", halves=2)
        checks.one_of(get_args(Second), second=second)
        half, side = dim // 2, 3 if second == "conv" else 1
        self.second = second
        self.near = nn.Conv2d(half, half, 3, padding=1)
        self.point = nn.Conv2d(half, half, side, padding=side // 2)
        self.mix = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        first, second = x.chunk(2, 1)
        if self.second == "max":
            second = max_pool2d(second, 3, stride=1, padding=1)
        return x + self.mix(torch.cat([gelu(self.near(first)), gelu(self.point(second))], 1))


class HFB(nn.Module):
    """The hybrid fusion block: attention between channels, with queries of the convolution's features.

    ``query="low"`` takes them from the transformer's own, normalised, features, as Restormer does.
    Raises ``ValueError`` for another query or heads that do not divide dim.
    """

    def __init__(self, dim: int, heads: int, query: Literal["high", "low"] = "high"):
        super().__init__()
        checks.divides(dim, "dim", heads=heads)
        checks.one_of(("high", "low"), query=query)
        self.heads, self.query = heads, query
        self.norm_attention, self.norm_gdfn = ChannelNorm(dim), ChannelNorm(dim)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.q, self.kv = _point_and_near(dim, dim), _point_and_near(dim, 2 * dim)
        self.projection = nn.Conv2d(dim, dim, 1, bias=False)
        self.gdfn = GDFN(dim, int(EXPANSION * dim))

    def attend(self, low: Tensor, high: Tensor) -> Tensor:
        """softmax(t q k^T) v over channels, q and k of length 1; both (batch, dim, height, width)."""
        height, width = low.shape[-2:]
        q, k, v = (
            rearrange(part, "b (heads c) y x -> b heads c (y x)", heads=self.heads)
            for part in (self.q(high), *self.kv(low).chunk(2, 1))
        )
        scores = normalize(q, dim=-1) @ normalize(k, dim=-1).transpose(-2, -1)
        mixed = (scores * self.temperature).softmax(-1) @ v
        return self.projection(rearrange(mixed, "b heads c (y x) -> b (heads c) y x", y=height, x=width))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Features of attention and of convolution (batch, dim, height, width) each -> the same shape."""
        normed = self.norm_attention(low)
        x = low + self.attend(normed, high if self.query == "high" else normed)
        return x + self.gdfn(self.norm_gdfn(x))


class Sum(nn.Module):
    """The fusion without attention: the sum of both."""

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """(batch, dim, height, width) each -> the same shape."""
        return low + high


def _point_and_near(dim: int, outputs: int) -> nn.Sequential:
    point = nn.Conv2d(dim, outputs, 1, bias=False)
    return nn.Sequential(point, nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False))


# --- the network ------------------------------------------------------------------------------------------


class CRFB(nn.Module):
    """The cross-refinement fusion block: ``depth`` times two SRWABs beside an HFERB, then their fusion.

    ``fusion``: queries from ``"high"`` (the paper's), from ``"low"``, or the ``"sum"`` of both.
    ``second``: see `HFERB`; the rest goes to the `SRWAB`. Raises ``ValueError`` for another fusion.
    """

    def __init__(
        self, dim: int, depth: int, heads: int, *, fusion: Fusion = "high", second: Second = "max", **how: Any
    ):
        super().__init__()
        checks.at_least(1, depth=depth)
        checks.one_of(get_args(Fusion), fusion=fusion)
        self.low = nn.ModuleList(Attentive(2, dim, heads, **how) for _ in range(depth))
        self.high = nn.ModuleList(HFERB(dim, second) for _ in range(depth))
        self.fuse = nn.ModuleList(Sum() if fusion == "sum" else HFB(dim, heads, fusion) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape. Nothing goes round the fusion."""
        for low, high, fuse in zip(self.low, self.high, self.fuse, strict=True):
            x = fuse(low(x), high(x))
        return x


class RCRFG(nn.Module):
    """The residual group: x + convolution of a `CRFB`, which gets all arguments."""

    def __init__(self, dim: int, depth: int, heads: int, **how: Any):
        super().__init__()
        self.block = CRFB(dim, depth, heads, **how)
        self.after = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        return x + self.after(self.block(x))


def craft(
    scale: int,
    dim: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: int = 6,
    *,
    split: Split = SPLIT,
    over_bicubic: bool = False,
    **how: Any,
) -> SuperResolver:
    """CRAFT, at its published size by default; what is left goes to every `CRFB`.

    Raises ``ValueError`` for sizes that do not fit one another, or another scale than 2, 3 or 4.
    """
    groups = nn.Sequential(*(RCRFG(dim, depth, heads, split=split, **how) for depth in depths))
    return SuperResolver(
        groups, dim, scale, tail=ChannelNorm(dim), multiple=math.lcm(*split), over_bicubic=over_bicubic
    )


def branches(net: SuperResolver, small: Tensor) -> tuple[Tensor, Tensor]:
    """What meets in the first fusion of a `craft`, of attention and of convolution: (1, dim, h, w) each.

    ``small``: one image (3, h, w), its sides multiples of those of the windows.
    """
    met: list[tuple[Tensor, Tensor]] = []
    fuse = net.body[0].block.fuse[0]  # type: ignore[index]
    handle = fuse.register_forward_pre_hook(lambda _, given: met.append(given))
    with torch.inference_mode():
        net(small[None])
    handle.remove()
    return met[0]


# --- counts, and who reacts to whom -----------------------------------------------------------------------


def peer_parameters(scale: int) -> dict[str, int]:
    """Trained parameters of three light networks that the paper compares with, each layer of their own code.

    SwinIR-light's tables of position bias are among them, which its paper leaves out of its 878 K at scale 2.
    Raises ``ValueError`` for another scale than 2, 3 or 4.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be 2, 3 or 4, got {scale}")

    def conv(channels: int, outputs: int, side: int = 3) -> int:
        return outputs * (channels * side**2 + 1)

    mlp, last = conv(60, 120, 1) + conv(120, 60, 1), conv(60, 3 * scale**2)
    swin = 4 * 60 + conv(60, 180, 1) + conv(60, 60, 1) + mlp + 225 * 6
    swinir = conv(3, 60) + 4 * (6 * swin + conv(60, 60)) + 4 * 60 + conv(60, 60) + last
    # Two feed-forward networks, attention and its second use; norms have two values a channel.
    elab = 2 * mlp + conv(60, 120, 1) + 2 * 120 + conv(60, 60, 1) + 2 * 60 + 2 * conv(60, 60, 1)
    elan = conv(3, 60) + 12 * elab + last
    gate = conv(32, 2, 1) + conv(2, 32, 1)
    module = 2 * (conv(32, 16) + conv(16, 32) + 16 + 2) + 9 * 32 * 32 + 64 * 32 + gate + 5
    attention = 288 * 144 + 3 * 144**2 + conv(144, 288, 1) + 4 * 288 + conv(288, 72, 1) + conv(72, 288, 1)
    backbone = 3 * (4 * module + 64 * 32 + gate) + conv(96, 32) + attention + conv(32, 32) + 2
    up = {2: conv(32, 128), 3: conv(32, 288), 4: 2 * conv(32, 128)}[scale]
    esrt = conv(3, 32) + backbone + conv(32, 32) + 2 * up + conv(32, 3) + 9 * 32 * 3
    return {"SwinIR-light": swinir, "ELAN-light": elan, "ESRT": esrt}


@torch.inference_mode()
def rows_reached(block: nn.Module, dim: int, generator: torch.Generator, side: int = 64) -> float:
    """Rows of the output of ``block`` that change with one pixel, mean over 16 rows that the pixel lies in.

    ``block``: (batch, dim, side, side) -> the same shape. The pixels lie in the middle column, half of them
    above the middle row and half below. In float64, so that all that is connected shows.
    """
    block = block.double().eval()
    x, other = torch.randn(2, 1, dim, side, side, dtype=torch.float64, generator=generator)
    changed = x.repeat(16, 1, 1, 1)
    for index, one in enumerate(changed):
        pixel = (slice(None), side // 2 - 8 + index, side // 2)
        one[pixel] = other[(0, *pixel)]
    moved = (block(changed) - block(x)).abs().amax((1, 3)) > 0
    return float(moved.sum(1).double().mean())


@torch.inference_mode()
def rows_across_the_border(dim: int, heads: int, masked: bool, generator: torch.Generator) -> int:
    """Rows of the upper half of a map that change with its last row, in one shifted SRWAB without its
    convolution."""
    block = SRWAB(dim, heads, shifted=True, masked=masked, local=False).double()
    x, other = torch.randn(2, 1, 32, 32, dim, dtype=torch.float64, generator=generator)
    changed = torch.cat([x[:, :-1], other[:, -1:]], 1)
    return int(((block(changed) - block(x)).abs().amax((0, 2, 3))[:16] > 0).sum())
