"""TiC: self-attention inside the sliding window of a convolution.

Zhang, Wang, Bian and Xiong, "TiC: Exploring Vision Transformer in Convolution", arXiv 2310.04134. Operator
and layer were read in the official repository (zs670980918/MSA-Conv), which holds nothing else; the code here
is written anew.

Implemented from that code: MSA-Conv, with positions outside the map unmasked, and the layer around it.
Reconstructed from the abstract and from names, since the network was never released: the multi-directional
cyclic shift, inter-pooling, and the network `TiC`.

Departures. Several heads, over groups of channels, where the released operator has one. No dropout on the
weights. BatchNorm before queries, keys and values and after the fusing convolution, without which the layer
does not train here. The fusing convolution's padding follows its kernel; the released one is 1 for every
kernel, so that larger kernels shrink the map.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from fourfold import attention, checks

Window = int | tuple[int, int]
Padding = Literal["zeros", "circular"]

Operator = Literal["attention", "uniform", "none", "depthwise", "global"]
"""What a layer does with q, k and v; see `MSAConv2d`."""

Shift = Literal["four", "one"]
"""Whether a shift goes in four directions, a quarter of the channels each, or all of it one way."""

# --- the operator -----------------------------------------------------------------------------------------


def sides(window: Window) -> tuple[int, int]:
    """A window as (rows, columns). Raises ``ValueError`` unless both are odd and >= 1."""
    both = (window, window) if isinstance(window, int) else tuple(window)
    if len(both) != 2 or any(side < 1 or side % 2 == 0 for side in both):
        raise ValueError(f"window must be odd and >= 1 on both sides, got {window}")
    return both


def offsets(window: Window, dilation: int = 1) -> list[tuple[int, int]]:
    """Where a window looks, (rows down, columns right) from its centre, row by row.

    Raises ``ValueError`` for a window that is not odd and for a dilation below 1.
    """
    checks.at_least(1, dilation=dilation)
    rows, columns = (
        range(-(side // 2) * dilation, side // 2 * dilation + 1, dilation) for side in sides(window)
    )
    return [(row, column) for row in rows for column in columns]


class WindowAttention(torch.autograd.Function):
    """Attention of every position over its window, an offset at a time, without storing the windows.

    The batch comes last, so that a shifted map is a few long stretches of memory: three times faster than
    autograd's own gradient of the same loop.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, corners: Sequence[tuple[int, int]]) -> Any:
        """q (heads, d, H, W, batch), k, v with a margin -> out, weights (offsets, heads, H, W, batch)."""
        height, width = q.shape[2:4]
        places = [(..., slice(y, y + height), slice(x, x + width), slice(None)) for y, x in corners]
        weights = torch.stack([(q * k[place]).sum(1) for place in places]).softmax(0)
        out = torch.zeros_like(q)
        for weight, place in zip(weights, places, strict=True):
            out.addcmul_(weight[:, None], v[place])
        ctx.save_for_backward(q, k, v, weights)
        ctx.places = places
        ctx.mark_non_differentiable(weights)
        return out, weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Softmax passes on ``a (da - sum a da)``; every window adds to the keys and values that it saw."""
        q, k, v, weights = ctx.saved_tensors
        d_out = gradients[0].contiguous()
        d_weights = torch.stack([(d_out * v[place]).sum(1) for place in ctx.places])
        d_scores = weights * (d_weights - (weights * d_weights).sum(0))
        d_q, d_k, d_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for weight, d_score, place in zip(weights, d_scores, ctx.places, strict=True):
            d_q.addcmul_(d_score[:, None], k[place])
            d_k[place].addcmul_(d_score[:, None], q)
            d_v[place].addcmul_(weight[:, None], d_out)
        return d_q, d_k, d_v, None


def msa_conv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Window = 3,
    dilation: int = 1,
    heads: int = 1,
    padding_mode: Padding = "zeros",
) -> tuple[Tensor, Tensor]:
    """Every position attends to its window: ``y_p = sum_o softmax_o(q_p . k_{p+o} / sqrt(d)) v_{p+o}``.

    Maps (batch, channels, H, W) -> the same, and weights (batch, heads, offsets, H * W). Heads are
    consecutive stretches of ``d = channels / heads`` channels. With ``"zeros"`` a position outside the map
    has score 0 and value 0 and takes its share of the softmax, as in the released code; ``"circular"`` wraps
    around. Raises ``ValueError`` for maps of different shapes, a window that is not odd, a dilation below 1,
    heads that do not divide the channels, and another padding.
    """
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k and v must be maps (batch, channels, H, W) of one shape, got {shapes}")
    checks.divides(q.shape[1], "channels", heads=heads)
    checks.one_of(get_args(Padding), padding_mode=padding_mode)
    seen = offsets(window, dilation)
    down, right = (max(steps) for steps in zip(*seen, strict=True))
    mode = "constant" if padding_mode == "zeros" else "circular"
    margin = [right, right, down, down]
    scaled = q / (q.shape[1] // heads) ** 0.5
    split = [
        rearrange(x, "b (heads d) h w -> heads d h w b", heads=heads).contiguous()
        for x in (scaled, pad(k, margin, mode), pad(v, margin, mode))
    ]
    out, weights = WindowAttention.apply(*split, [(down + row, right + column) for row, column in seen])
    return (
        rearrange(out, "heads d h w b -> b (heads d) h w").contiguous(memory_format=torch.channels_last),
        rearrange(weights, "o heads h w b -> b heads o (h w)"),
    )


def global_attention(q: Tensor, k: Tensor, v: Tensor, heads: int = 1) -> Tensor:
    """The same with the whole map for a window: (batch, channels, H, W) -> the same shape."""
    q_, k_, v_ = (rearrange(x, "b (heads d) h w -> b heads (h w) d", heads=heads) for x in (q, k, v))
    out = scaled_dot_product_attention(q_, k_, v_)
    return rearrange(out, "b heads (h w) d -> b (heads d) h w", h=q.shape[2])


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Window = 3,
    dilation: int = 1,
    heads: int = 1,
    margin: bool = True,
) -> Tensor:
    """`msa_conv` by torch's attention over all of the padded map, with a mask that leaves the window.

    Slow, and the reference that the operator is checked against. Without ``margin`` the mask hides what lies
    outside the map as well.
    """
    height, width = q.shape[2:]
    seen = offsets(window, dilation)
    down, right = (max(steps) for steps in zip(*seen, strict=True))
    padded = [pad(x, [right, right, down, down]) for x in (k, v)]
    rows, columns = (torch.arange(-by, side + by) for by, side in ((down, height), (right, width)))
    row_step, column_step = rows - torch.arange(height)[:, None], columns - torch.arange(width)[:, None]
    looks = torch.zeros(height, width, len(rows), len(columns), dtype=torch.bool)
    for row, column in seen:
        looks |= (row_step == row)[:, None, :, None] & (column_step == column)[None, :, None, :]
    if not margin:
        looks &= ((rows >= 0) & (rows < height))[:, None] & (columns >= 0) & (columns < width)
    q_, k_, v_ = (rearrange(x, "b (heads d) h w -> b heads (h w) d", heads=heads) for x in (q, *padded))
    out = scaled_dot_product_attention(q_, k_, v_, attn_mask=looks.reshape(height * width, -1))
    return rearrange(out, "b heads (h w) d -> b (heads d) h w", h=height)


# --- far tokens: reconstructed ----------------------------------------------------------------------------


def multi_directional_shift(x: Tensor, s: int) -> Tensor:
    """Four groups of channels rolled ``s`` positions down, up, right and left; ``-s`` undoes it.

    (batch, channels, H, W) -> the same shape. Raises ``ValueError`` unless 4 divides the channels and
    ``|s| < min(H, W)``.
    """
    _shiftable(x, s)
    groups = zip(x.chunk(4, 1), ((s, 0), (-s, 0), (0, s), (0, -s)), strict=True)
    return torch.cat([group.roll(step, (2, 3)) for group, step in groups], 1)


def one_way_shift(x: Tensor, s: int) -> Tensor:
    """All channels rolled ``s`` positions down: as far, and in one direction alone."""
    _shiftable(x, s)
    return x.roll(s, 2)


def _shiftable(x: Tensor, s: int) -> None:
    checks.divides(x.shape[1], "channels", groups=4)
    if abs(s) >= min(x.shape[-2:]):
        raise ValueError(f"shift must be below the map's sides, {x.shape[-2]} x {x.shape[-1]}, got {s}")


class InterPool(nn.Module):
    """Adds to every position the mean of its 2 x 2 block, so that the four share what they know."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape; at an odd side the last blocks are smaller."""
        height, width = x.shape[-2:]
        blocks = avg_pool2d(x, 2, ceil_mode=True)
        return x + blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :height, :width]


# --- layer and network ------------------------------------------------------------------------------------


class MSAConv2d(nn.Module):
    """The released layer: a 1 x 1 convolution to q, k, v, the operator, a residual, a fusing convolution.

    It ends in ReLU. ``fusing`` is the fusing kernel's side, that of ``window`` unless given; it alone has the
    stride and is never dilated. Keys and values are shifted by ``shift`` positions first.
    ``operator`` says what happens to q, k and v:

    - ``"attention"``: MSA-Conv;
    - ``"uniform"``: the mean over the same window, MSA-Conv with q = 0;
    - ``"none"``: v itself, so that what is left is an ordinary convolution;
    - ``"depthwise"``: a learned depthwise convolution of v with the same window;
    - ``"global"``: attention to the whole map.

    Raises ``ValueError`` for a size below 1, a window that is not odd, heads that do not divide ``c_in``, and
    another operator.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        window: int = 3,
        stride: int = 1,
        dilation: int = 1,
        heads: int = 1,
        shift: int = 0,
        norm: bool = True,
        operator: Operator = "attention",
        ways: Shift = "four",
        fusing: int | None = None,
    ):
        super().__init__()
        checks.at_least(1, c_in=c_in, c_out=c_out, stride=stride, dilation=dilation)
        checks.at_least(0, shift=shift)
        checks.divides(c_in, "c_in", heads=heads)
        checks.one_of(get_args(Operator), operator=operator)
        checks.one_of(get_args(Shift), ways=ways)
        fusing = window if fusing is None else fusing
        half, around = (sides(side)[0] // 2 for side in (fusing, window))
        self.window, self.dilation, self.heads = window, dilation, heads
        self.shift, self.operator, self.ways = shift, operator, ways
        self.norm = nn.BatchNorm2d(c_in) if norm else nn.Identity()
        self.qkv = nn.Conv2d(c_in, 3 * c_in, 1)
        self.fuse = nn.Sequential(
            nn.Conv2d(c_in, c_out, fusing, stride, half, bias=False),
            nn.BatchNorm2d(c_out) if norm else nn.Identity(),
            nn.ReLU(),
        )
        if operator == "depthwise":
            self.depthwise = nn.Conv2d(c_in, c_in, window, padding=around, groups=c_in, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c_in, H, W) -> (batch, c_out, H', W'), sides over the stride, rounded up."""
        return self.fuse(x + self.mix(self.norm(x)))

    def mix(self, x: Tensor) -> Tensor:
        """The operator on what q, k and v are made of, (batch, c_in, H, W) -> the same shape."""
        if self.operator not in ("attention", "global"):
            # No other operator asks for queries and keys, whose weights are left where they are.
            channels = x.shape[1]
            weight, bias = (value[2 * channels :] for value in self.qkv.parameters())
            v = self.move(conv2d(x, weight, bias))
            if self.operator == "uniform":
                return avg_pool2d(v, self.window, 1, self.window // 2)
            return v if self.operator == "none" else self.depthwise(v)
        q, k, v = self.qkv(x).chunk(3, 1)
        k, v = self.move(k), self.move(v)
        if self.operator == "global":
            return global_attention(q, k, v, self.heads)
        return msa_conv(q, k, v, self.window, self.dilation, self.heads)[0]

    def move(self, x: Tensor) -> Tensor:
        """Keys or values, shifted: (batch, c_in, H, W) -> the same shape."""
        if not self.shift:
            return x
        return (multi_directional_shift if self.ways == "four" else one_way_shift)(x, self.shift)


class TiC(nn.Module):
    """A stem that halves the image, stages of layers whose last has stride 2, a pooled read-out.

    Reconstructed: only the layers are the paper's. ``dims``, ``depths``: width and number of layers of each
    stage; a stage's last layer widens to the next. ``inter_pool`` puts `InterPool` between any two layers.
    ``pool``: how the last map is read, its mean or its maximum. Images may have any size, and nothing but the
    border tells a layer where it is. ``how`` goes to `MSAConv2d`, whose errors are raised here too.
    Raises ``ValueError`` for a size below 1, depths that are not one for each width, and another pool.
    """

    def __init__(
        self,
        in_chans: int,
        classes: int,
        dims: Sequence[int],
        depths: Sequence[int],
        *,
        inter_pool: bool = False,
        pool: Literal["mean", "max"] = "mean",
        **how: Any,
    ):
        super().__init__()
        checks.at_least(1, in_chans=in_chans, classes=classes, stages=len(dims))
        checks.one_of(("mean", "max"), pool=pool)
        if len(depths) != len(dims):
            raise ValueError(f"depths must be one for each of dims = {list(dims)}, got {list(depths)}")
        checks.at_least(1, **{f"depths[{stage}]": depth for stage, depth in enumerate(depths)})
        self.pool = pool
        self.stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], 4, 2, 1), nn.BatchNorm2d(dims[0]))
        widths = [*dims, dims[-1]]
        layers: list[nn.Module] = []
        for width, wider, depth in zip(widths, widths[1:], depths, strict=False):
            layers += [MSAConv2d(width, width, **how) for _ in range(depth - 1)]
            layers.append(MSAConv2d(width, wider, stride=2, **how))
        self.layers = nn.ModuleList(layers)
        self.between = InterPool() if inter_pool else nn.Identity()
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_chans, H, W) of any size -> logits (batch, classes)."""
        # Channels last in memory, which makes convolutions of so few channels a third faster.
        x = self.stem(images).contiguous(memory_format=torch.channels_last)
        for index, layer in enumerate(self.layers):
            x = layer(self.between(x) if index else x)
        return self.head(x.mean((2, 3)) if self.pool == "mean" else x.amax((2, 3)))


# --- what a layer costs and sees --------------------------------------------------------------------------


def macs(run: Callable[..., Any], *shapes: tuple[int, ...]) -> int:
    """Multiply-accumulates of ``run`` on maps of these shapes, by torch's counter, without computing.

    As `fourfold.cost.macs`, and products of map with map count too, which torch's counter leaves out: the
    operator is made of them. A module must lie on the meta device.
    """

    def products(*shapes: Any, out_shape: Any, **_: Any) -> int:
        maps = [shape for shape in shapes if isinstance(shape, torch.Size) and len(shape)]
        # A map times a number, such as a scale, is none.
        return 2 * torch.Size(out_shape).numel() if len(maps) > 1 else 0

    aten = torch.ops.aten
    with FlopCounterMode(
        display=False, custom_mapping={aten.mul: products, aten.addcmul_: products}
    ) as counter:
        run(*(torch.empty(shape, device="meta") for shape in shapes))
    return counter.get_total_flops() // 2


def influence(net: nn.Module, image: Tensor) -> Tensor:
    """How much the centre of a network's map depends on every position of its input.

    ``image``: (1, channels, H, W), sides odd, and ``net`` keeps them. Returns (H, W): the squared gradient
    of the sum of the centre's channels, summed over the input's. Where it is 0 nothing is seen.
    Raises ``ValueError`` for a map of another size than the image.
    """
    x = image.detach().requires_grad_()
    out = net(x)
    height, width = image.shape[-2:]
    if out.shape[-2:] != (height, width):
        raise ValueError(f"net must keep {height} x {width}, got {tuple(out.shape[-2:])}")
    (gradient,) = torch.autograd.grad(out[0, :, height // 2, width // 2].sum(), x)
    return gradient[0].square().sum(0)


def share_outside(energy: Tensor, side: int) -> float:
    """Share of ``energy`` (H, W) outside of the central square of that odd side.

    Raises ``ValueError`` for an even side or one that does not fit.
    """
    height, width = energy.shape
    if side % 2 == 0 or not 1 <= side <= min(height, width):
        raise ValueError(f"side must be odd and in 1..{min(height, width)}, got {side}")
    top, left = (height - side) // 2, (width - side) // 2
    inside = energy[top : top + side, left : left + side].sum()
    return float(1 - inside / energy.sum())


# --- other sizes ------------------------------------------------------------------------------------------


def canvas(images: Tensor, side: int) -> Tensor:
    """Square images in the middle of an empty canvas: (..., n, n) -> (..., side, side).

    Raises ``ValueError`` for a canvas below the images.
    """
    checks.at_least(images.shape[-1], side=side)
    before = (side - images.shape[-1]) // 2
    after = side - images.shape[-1] - before
    return pad(images, [before, after, before, after])


def resized(images: Tensor, side: int) -> Tensor:
    """Images resampled bilinearly, without aliasing: (n, H, W) -> (n, side, side), side >= 1."""
    checks.at_least(1, side=side)
    return interpolate(images[:, None], (side, side), mode="bilinear", antialias=True)[:, 0]


# --- the vision transformers it is held against -----------------------------------------------------------


def resampled(vit: attention.ViT, side: int) -> attention.ViT:
    """A copy of a ViT on a square grid, its positions resampled bicubically to ``side`` x ``side`` tokens.

    Raises ``ValueError`` for a side below 1.
    """
    checks.at_least(1, side=side)
    copied = copy.deepcopy(vit)
    cls, grid = vit.positions[:1], vit.positions[1:]
    old = round(len(grid) ** 0.5)
    planes = rearrange(grid, "(y x) dim -> 1 dim y x", y=old)
    resized = interpolate(planes, (side, side), mode="bicubic", align_corners=False)
    copied.positions = nn.Parameter(torch.cat([cls, rearrange(resized, "1 dim y x -> (y x) dim")]).detach())
    return copied


class BagOfPatches(nn.Module):
    """A ViT without positions and CLS: its blocks on the patches, in no order, and the mean token read."""

    def __init__(self, channels: int, patch: int, **sizes: Any):
        super().__init__()
        self.patches = attention.PatchEmbedding(channels, sizes["dim"], patch)
        vit = attention.ViT(tokens=1, **sizes)
        self.blocks, self.norm, self.head = vit.blocks, vit.norm, vit.head

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, H, W), sides multiples of the patch -> logits (batch, classes)."""
        x = self.patches(images)
        for block in self.blocks:
            x = block(x)[0]
        return self.head(self.norm(x).mean(1))
