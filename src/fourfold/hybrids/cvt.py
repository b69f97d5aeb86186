"""CvT: a vision transformer whose tokens, queries, keys and values are made by convolutions.

Wu et al., "CvT: Introducing Convolutions to Vision Transformers", arXiv 2103.15808, ICCV 2021. Sizes and
details were read in the official repository (microsoft/CvT); the code here is written anew.

Implemented: the convolutional token embedding (section 3.1 of the paper), the convolutional projection
(section 3.2), the block and the network of three stages, the published sizes (table 2), the two other
projections of the repository, and the warps of an image that test what convolutions are said to bring.

Departures. No stochastic depth. The repository's ``linear`` projection does not run; here it is what it says,
the queries, keys and values of a plain vision transformer. ``avg`` pools keys and values and leaves queries
alone, as there. Positions can be learned for the first stage only. The bias of the read-out starts at 0 as
those of all linear layers do; in the repository it keeps torch's random start.

Maps are tokens (batch, height * width, dim), row by row, together with their height and width: a convolution
needs to know the grid, and the square root of the number of tokens is a guess.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import affine_grid, gelu, grid_sample, silu

Method = Literal["dw_bn", "avg", "linear"]
"""How the map is prepared for the linear layer of a projection; see ``ConvProjection``."""

Act = Literal["quickgelu", "gelu"]

# --- sizes ------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """One stage: its token embedding (kernel, stride, padding) and its blocks."""

    kernel: int
    stride: int
    padding: int
    dim: int
    heads: int
    depth: int
    cls: bool = False
    """Whether a class token joins the tokens; what a stage before the last learns in it is dropped."""


class Spec(NamedTuple):
    """A network: its stages and what they share."""

    stages: tuple[Stage, ...]
    mlp_ratio: int = 4
    stride_kv: int = 2
    method: Method | tuple[Method, Method, Method] = "dw_bn"
    """One for all, or one each for queries, keys and values."""
    kernel: int = 3
    """Side of the windows of the projections; with 1 no token sees its neighbours before attention."""
    act: Act = "quickgelu"


SIZES = {
    "CvT-13": ((64, 192, 384), (1, 3, 6), (1, 2, 10)),
    "CvT-21": ((64, 192, 384), (1, 3, 6), (1, 4, 16)),
    "CvT-W24": ((192, 768, 1024), (3, 12, 16), (2, 2, 20)),
}
"""Name -> widths, heads and numbers of blocks of the three stages (table 2)."""


class Count(NamedTuple):
    """Parameters, and multiply-accumulates for one image of 224 x 224 pixels."""

    parameters: int
    macs: int


PEERS = {
    "DeiT-S": Count(22_050_664, 4_598_882_304),
    "ResNet-50": Count(25_557_032, 4_089_184_256),
}
"""Networks of similar size, counted as ours are on the implementations in ``transformers`` (by the tests)."""


def cvt_spec(name: str) -> Spec:
    """A published size; its embeddings overlap (7 x 7 every 4 pixels, then 3 x 3 every 2), CLS comes last.

    Raises ``ValueError`` for a name not in ``SIZES``.
    """
    if name not in SIZES:
        raise ValueError(f"name must be one of {', '.join(SIZES)}, got {name!r}")
    embeddings = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
    stages = (
        Stage(*embedding, dim, heads, depth, cls=last)
        for embedding, dim, heads, depth, last in zip(
            embeddings, *SIZES[name], (False, False, True), strict=True
        )
    )
    return Spec(tuple(stages))


def small_spec(
    dims: Sequence[int],
    depths: Sequence[int],
    first: tuple[int, int, int] = (5, 4, 2),
    later: tuple[int, int, int] = (3, 2, 1),
) -> Spec:
    """A network for small images: MLPs of twice the width, i heads in stage i, CLS in the last.

    ``first``, ``later``: kernel, stride and padding of the first embedding and of the ones after it.
    Raises ``ValueError`` unless there is one depth for each width.
    """
    if len(dims) != len(depths):
        raise ValueError(f"depths must be one for each of dims = {list(dims)}, got {list(depths)}")
    stages = (
        Stage(*(later if index else first), dim, index + 1, depth, cls=index == len(dims) - 1)
        for index, (dim, depth) in enumerate(zip(dims, depths, strict=True))
    )
    return Spec(tuple(stages), mlp_ratio=2)


def map_sides(spec: Spec, height: int, width: int) -> list[tuple[int, int]]:
    """Sides of the map of tokens in each stage, ``floor((side + 2 padding - kernel) / stride) + 1``.

    Raises ``ValueError`` for an image in which a stage's kernel does not fit.
    """
    sides = []
    for index, stage in enumerate(spec.stages):
        if min(height, width) + 2 * stage.padding < stage.kernel:
            raise ValueError(f"stage {index}: a map of {height} x {width} is below its kernel {stage.kernel}")
        height, width = (
            (side + 2 * stage.padding - stage.kernel) // stage.stride + 1 for side in (height, width)
        )
        sides.append((height, width))
    return sides


def attention_macs(spec: Spec, height: int, width: int) -> int:
    """Multiply-accumulates of ``q k^T`` and of its product with v, over all blocks: ``2 N M dim`` each block.

    ``N`` tokens ask ``M = ceil(h / stride_kv) ceil(w / stride_kv)``, and CLS where there is one.
    """
    total = 0
    for stage, (h, w) in zip(spec.stages, map_sides(spec, height, width), strict=True):
        asked = math.ceil(h / spec.stride_kv) * math.ceil(w / spec.stride_kv) + stage.cls
        total += stage.depth * 2 * (h * w + stage.cls) * asked * stage.dim
    return total


# --- the mechanism ----------------------------------------------------------------------------------------


class ConvEmbed(nn.Module):
    """Convolutional token embedding: neighbouring tokens share pixels where kernel > stride."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding)
        self.norm = nn.LayerNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c_in, height, width) -> (batch, c_out, h, w), each token normalised over its channels."""
        return rearrange(self.norm(rearrange(self.conv(x), "b c h w -> b h w c")), "b h w c -> b c h w")


class ConvProjection(nn.Module):
    """What happens to a map before the linear layer that makes queries, keys or values of it.

    - ``"dw_bn"``: a depthwise ``kernel`` x ``kernel`` convolution without bias, then BatchNorm. With the
      linear layer after it, it is a depthwise-separable convolution.
    - ``"avg"``: the mean of the same window.
    - ``"linear"``: nothing, whatever the stride: a plain vision transformer.

    Raises ``ValueError`` for another method or stride, and for a kernel that is not odd.
    """

    def __init__(self, dim: int, kernel: int = 3, stride: int = 1, method: Method = "dw_bn"):
        super().__init__()
        if method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and >= 1, got {kernel}")
        padding = (kernel - 1) // 2
        self.spatial: nn.Module
        if method == "dw_bn":
            self.spatial = nn.Sequential(
                nn.Conv2d(dim, dim, kernel, stride, padding, groups=dim, bias=False), nn.BatchNorm2d(dim)
            )
        elif method == "avg":
            self.spatial = nn.AvgPool2d(kernel, stride, padding, ceil_mode=True)
        else:
            self.spatial = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> tokens (batch, h * w, dim): the sides over stride, rounded up."""
        return rearrange(self.spatial(x), "b c h w -> b (h w) c")


class CvtAttention(nn.Module):
    """Multi-head attention whose queries, keys and values come from convolutional projections.

    CLS, the first token if ``with_cls``, is not convolved. The scores are divided by ``sqrt(dim)``, the width
    of all heads together, as in the official code, and not by a head's width as is usual. Raises
    ``ValueError`` unless ``heads`` divides ``dim``, and what ``ConvProjection`` raises.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        stride_q: int = 1,
        stride_kv: int = 2,
        method: Method | tuple[Method, Method, Method] = "dw_bn",
        with_cls: bool = False,
        kernel: int = 3,
    ):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must be >= 1 and divide dim, got heads={heads}, dim={dim}")
        self.heads, self.with_cls, self.scale = heads, with_cls, dim**-0.5
        if isinstance(method, str):
            methods: tuple[Method, ...] = ("linear" if method == "avg" else method, method, method)
        else:
            methods = method
        strides = (stride_q, stride_kv, stride_kv)
        self.spatial = nn.ModuleList(
            ConvProjection(dim, kernel, stride, how) for stride, how in zip(strides, methods, strict=True)
        )
        self.pointwise = nn.ModuleList(nn.Linear(dim, dim) for _ in strides)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(batch, [1 +] height * width, dim) -> the same shape, or fewer tokens where ``stride_q`` is 2.

        Raises ``ValueError`` for another number of tokens.
        """
        if x.shape[1] != height * width + self.with_cls:
            also = "CLS and " if self.with_cls else ""
            raise ValueError(f"expected {also}{height} x {width} tokens, got {tuple(x.shape)}")
        cls, tokens = x[:, : self.with_cls], x[:, self.with_cls :]
        planes = rearrange(tokens, "b (h w) c -> b c h w", h=height)
        q, k, v = (
            rearrange(pointwise(torch.cat([cls, spatial(planes)], 1)), "b n (h d) -> b h n d", h=self.heads)
            for spatial, pointwise in zip(self.spatial, self.pointwise, strict=True)
        )
        # Written out, because torch's counter of operations does not see into the fused attention of a CPU.
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.projection(rearrange(weights @ v, "b heads n d -> b n (heads d)"))


class CvtBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, stage: Stage, spec: Spec):
        super().__init__()
        dim, hidden = stage.dim, spec.mlp_ratio * stage.dim
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = CvtAttention(
            dim, stage.heads, 1, spec.stride_kv, spec.method, stage.cls, spec.kernel
        )
        self.norm_mlp = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.act = spec.act

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(batch, [1 +] height * width, dim) -> the same shape."""
        x = x + self.attention(self.norm_attention(x), height, width)
        hidden = self.up(self.norm_mlp(x))
        hidden = gelu(hidden) if self.act == "gelu" else silu(1.702 * hidden) / 1.702
        return x + self.down(hidden)


class CvtStage(nn.Module):
    """Embedding, then blocks. ``positions``: sides of the map, (height, width), to learn positions for."""

    def __init__(self, c_in: int, stage: Stage, spec: Spec, positions: tuple[int, int] | None = None):
        super().__init__()
        self.embed = ConvEmbed(c_in, stage.dim, stage.kernel, stage.stride, stage.padding)
        self.cls = _small(1, 1, stage.dim) if stage.cls else None
        self.positions = None if positions is None else _small(stage.dim, *positions)
        self.blocks = nn.ModuleList(CvtBlock(stage, spec) for _ in range(stage.depth))

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor | None]:
        """(batch, c_in, height, width) -> map (batch, dim, h, w), and CLS (batch, dim) or None."""
        planes = self.embed(planes)
        if self.positions is not None:
            planes = planes + self.positions
        height, width = planes.shape[-2:]
        x = rearrange(planes, "b c h w -> b (h w) c")
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, height, width)
        cls = None if self.cls is None else x[:, 0]
        return rearrange(x[:, -height * width :], "b (h w) c -> b c h w", h=height), cls


class CvT(nn.Module):
    """The network: stages, LayerNorm, and a linear read-out of CLS, or of the mean token without CLS.

    ``positions``: sides of the first stage's map, (height, width), to add learned positions to it; the paper
    needs none. Raises ``ValueError`` for a spec without stages, a size below 1, heads that do not divide
    their width, and an unknown method, stride or activation.
    """

    def __init__(self, spec: Spec, in_chans: int, classes: int, positions: tuple[int, int] | None = None):
        super().__init__()
        _check(spec, in_chans, classes)
        widths = [in_chans, *(stage.dim for stage in spec.stages)]
        self.stages = nn.ModuleList(
            CvtStage(c_in, stage, spec, positions if index == 0 else None)
            for index, (c_in, stage) in enumerate(zip(widths, spec.stages, strict=False))
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_chans, height, width) -> logits (batch, classes)."""
        planes, cls = images, None
        for stage in self.stages:
            planes, cls = stage(planes)
        if cls is None:
            return self.head(self.norm(rearrange(planes, "b c h w -> b (h w) c")).mean(1))
        return self.head(self.norm(cls))


def _small(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _check(spec: Spec, in_chans: int, classes: int) -> None:
    if not spec.stages:
        raise ValueError("spec must have at least one stage, got none")
    sizes = {"in_chans": in_chans, "classes": classes, "mlp_ratio": spec.mlp_ratio}
    for index, stage in enumerate(spec.stages):
        fields = ("kernel", "stride", "dim", "heads", "depth")
        sizes |= {f"{field} of stage {index}": getattr(stage, field) for field in fields}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")
    if spec.act not in get_args(Act):
        raise ValueError(f"act must be one of {', '.join(get_args(Act))}, got {spec.act!r}")


# --- what convolutions are said to bring ------------------------------------------------------------------


def warp(
    images: Tensor, *, angle: Tensor | float = 0, scale: Tensor | float = 1, shift: Tensor | None = None
) -> Tensor:
    """Every image turned about its centre, magnified, then moved; what comes in from outside is 0.

    ``images``: (n, channels, height, width). ``angle``: degrees, counter-clockwise, (n,) or one for all;
    ``scale``: > 0, likewise; ``shift``: pixels to the right and down, (n, 2). Between pixels values are
    interpolated bilinearly. Raises ``ValueError`` for a scale that is not > 0.
    """
    count, _, height, width = images.shape
    turn = torch.deg2rad(torch.as_tensor(angle, dtype=images.dtype).expand(count))
    size = torch.as_tensor(scale, dtype=images.dtype).expand(count)
    if not (size > 0).all():
        raise ValueError(f"scale must be > 0, got {scale}")
    cos, sin = turn.cos() / size, turn.sin() / size
    # From where each pixel comes, in coordinates that run from -1 to 1 along either side.
    ratio = height / width
    back = torch.stack([torch.stack([cos, -sin * ratio], -1), torch.stack([sin / ratio, cos], -1)], -2)
    moved = torch.zeros(count, 2) if shift is None else shift
    moved = moved.to(images.dtype) * torch.tensor([2 / width, 2 / height], dtype=images.dtype)
    theta = torch.cat([back, -back @ moved[..., None]], -1)
    return grid_sample(
        images, affine_grid(theta, list(images.shape), align_corners=False), align_corners=False
    )
