"""HiLo attention and LITv2: some heads look closely inside small windows, the others at a blurred whole.

Pan, Cai and Zhuang, "Fast Vision Transformers with HiLo Attention", arXiv 2205.13213, NeurIPS 2022. Sizes and
counting rules were read in the official repository (ziplab/LITv2), the code here is written anew.

Implemented: the HiLo layer (section 3.2 of the paper), the three layers that it is compared with, the LITv2
network, and what each costs in closed form.

Departures. Token merging between stages is an ordinary 2 x 2 convolution: LITv2's is deformable, its offsets
start at zero, and with zero offsets the two are one function. The layer that makes the offsets is there and
counted, and never called. Weights start as in ``torch.nn``. No stochastic depth.

Maps are tokens (batch, height * width, dim), row by row, together with their height and width.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn.functional import gelu

from fourfold import spectra

# --- attention --------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """``softmax(q k^T / sqrt(d)) v`` for each head, a stretch of d features.

    ``q``: (..., n, dim); ``k``, ``v``: (..., m, dim). Returns (..., n, dim), heads side by side.
    """
    q, k, v = (rearrange(x, "... tokens (h d) -> ... h tokens d", h=heads) for x in (q, k, v))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
    return rearrange(weights @ v, "... h tokens d -> ... tokens (h d)")


def to_windows(x: Tensor, side: int) -> Tensor:
    """A map (batch, height, width, dim) cut in squares: (batch, windows, side^2, dim), both row by row.

    Raises ``ValueError`` unless ``side`` divides height and width.
    """
    _divides(side, x.shape[1], x.shape[2])
    return rearrange(x, "b (y i) (x j) d -> b (y x) (i j) d", i=side, j=side)


def from_windows(windows: Tensor, height: int) -> Tensor:
    """Undo ``to_windows``: (batch, windows, side^2, dim) -> (batch, height, width, dim)."""
    side = math.isqrt(windows.shape[2])
    return rearrange(windows, "b (y x) (i j) d -> b (y i) (x j) d", y=height // side, i=side)


def split_heads(heads: int, alpha: float) -> tuple[int, int]:
    """Numbers of Hi-Fi and Lo-Fi heads; Lo-Fi gets ``int(alpha * heads)``, so 3 heads at 0.9 are 1 and 2.

    Raises ``ValueError`` for heads < 1 or alpha outside 0..1.
    """
    if heads < 1:
        raise ValueError(f"heads must be >= 1, got {heads}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0..1, got {alpha}")
    lofi = int(heads * alpha)
    return heads - lofi, lofi


class MSA(nn.Module):
    """Standard multi-head self-attention with biases.

    Raises ``ValueError`` if ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        _head_width(dim, heads)
        self.dim, self.heads = dim, heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)

    def heads_apart(self, x: Tensor) -> Tensor:
        """What the heads found, before the projection mixes them: (..., tokens, dim) -> the same shape."""
        q, k, v = self.qkv(x).chunk(3, -1)
        return attend(q, k, v, self.heads)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(batch, height * width, dim) -> the same shape."""
        return self.projection(self.heads_apart(x))

    def macs(self, height: int, width: int) -> int:
        """``4 N D^2 + 2 N^2 D`` for N tokens."""
        tokens = height * width
        return 4 * tokens * self.dim**2 + 2 * tokens**2 * self.dim


class WindowAttention(MSA):
    """Standard attention inside non-overlapping windows (Swin's, without shift and position bias)."""

    def __init__(self, dim: int, heads: int, window: int = 7):
        super().__init__(dim, heads)
        self.window = window

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(batch, height * width, dim) -> the same shape. ``window`` must divide height and width."""
        windows = to_windows(_map(x, height, width), self.window)
        return from_windows(super().forward(windows, self.window, self.window), height).flatten(1, 2)

    def macs(self, height: int, width: int) -> int:
        """``4 N D^2 + 2 N s^2 D``."""
        _divides(self.window, height, width)
        return 4 * height * width * self.dim**2 + 2 * height * width * self.window**2 * self.dim


class SRA(nn.Module):
    """Spatial-reduction attention (PVT, arXiv 2102.12122): keys and values from a smaller map.

    A convolution of side and stride ``ratio`` makes it, followed by a LayerNorm.
    Raises ``ValueError`` if ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int, ratio: int = 2):
        super().__init__()
        _head_width(dim, heads)
        self.dim, self.heads, self.ratio = dim, heads, ratio
        self.query = nn.Linear(dim, dim)
        self.reduction = nn.Conv2d(dim, dim, ratio, stride=ratio)
        self.norm = nn.LayerNorm(dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(batch, height * width, dim) -> the same shape. ``ratio`` must divide height and width."""
        _divides(self.ratio, height, width)
        small = self.reduction(rearrange(_map(x, height, width), "b y x d -> b d y x"))
        k, v = self.key_value(self.norm(rearrange(small, "b d y x -> b (y x) d"))).chunk(2, -1)
        return self.projection(attend(self.query(x), k, v, self.heads))

    def macs(self, height: int, width: int) -> int:
        """``3 N D^2 + 2 M D^2 + 2 N M D`` for M = N / ratio^2; one N D^2 is the convolution."""
        _divides(self.ratio, height, width)
        tokens = height * width
        reduced = tokens // self.ratio**2
        return (3 * tokens + 2 * reduced) * self.dim**2 + 2 * tokens * reduced * self.dim


class HiLo(nn.Module):
    """Hi-Fi heads attend inside ``window`` x ``window`` squares, Lo-Fi heads to the means of these squares.

    Each kind has its own projection and the results stand side by side, Hi-Fi first: nothing in the layer
    mixes the two. ``window=1`` is standard attention whatever ``alpha``; ``alpha=0`` leaves only Hi-Fi,
    ``alpha=1`` only Lo-Fi. Raises ``ValueError`` if ``heads`` does not divide ``dim``, for a window < 1, or
    for alpha outside 0..1.
    """

    def __init__(self, dim: int, heads: int, window: int = 2, alpha: float = 0.9):
        super().__init__()
        width = _head_width(dim, heads)
        if window < 1:
            raise ValueError(f"window must be >= 1, got {window}")
        self.dim, self.window = dim, window
        self.hi_heads, self.lo_heads = split_heads(heads, 1.0 if window == 1 else alpha)
        self.hi_dim, self.lo_dim = self.hi_heads * width, self.lo_heads * width
        if self.hi_heads:
            self.hi_qkv = nn.Linear(dim, 3 * self.hi_dim)
            self.hi_projection = nn.Linear(self.hi_dim, self.hi_dim)
        if self.lo_heads:
            self.lo_query = nn.Linear(dim, self.lo_dim)
            self.lo_key_value = nn.Linear(dim, 2 * self.lo_dim)
            self.lo_projection = nn.Linear(self.lo_dim, self.lo_dim)

    def hifi(self, x: Tensor) -> Tensor:
        """The Hi-Fi half of the output: (batch, height, width, dim) -> (..., hi_dim)."""
        q, k, v = self.hi_qkv(to_windows(x, self.window)).chunk(3, -1)
        return self.hi_projection(from_windows(attend(q, k, v, self.hi_heads), x.shape[1]))

    def lofi(self, x: Tensor) -> Tensor:
        """The Lo-Fi half of the output: (batch, height, width, dim) -> (..., lo_dim)."""
        _divides(self.window, x.shape[1], x.shape[2])
        means = reduce(x, "b (y i) (x j) d -> b (y x) d", "mean", i=self.window, j=self.window)
        k, v = self.lo_key_value(means).chunk(2, -1)
        mixed = attend(self.lo_query(x).flatten(1, 2), k, v, self.lo_heads)
        return self.lo_projection(_map(mixed, x.shape[1], x.shape[2]))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(batch, height * width, dim) -> the same shape. ``window`` must divide height and width."""
        x = _map(x, height, width)
        halves = [self.hifi(x)] if self.hi_heads else []
        if self.lo_heads:
            halves.append(self.lofi(x))
        return torch.cat(halves, -1).flatten(1, 2)

    def macs(self, height: int, width: int) -> tuple[int, int]:
        """Multiply-accumulates of Hi-Fi and Lo-Fi on a map padded to whole windows.

        ``3 N D D_h + 2 N s^2 D_h + N D_h^2`` and ``N D D_l + 2 M D D_l + 2 N M D_l + N D_l^2``, M = N / s^2.
        """
        side, dim, hi, lo = self.window, self.dim, self.hi_dim, self.lo_dim
        means = math.ceil(height / side) * math.ceil(width / side)
        tokens = means * side**2
        hifi = tokens * hi * (3 * dim + 2 * side**2 + hi)
        lofi = tokens * lo * (dim + 2 * means + lo) + 2 * means * dim * lo
        return hifi, lofi


def share_weights(hilo: HiLo, peer: MSA) -> None:
    """Give ``peer`` the weights of ``hilo``: queries, keys, values of all heads, a block-diagonal projection.

    The two then differ only in where their heads look. Raises ``ValueError`` for another width.
    """
    if hilo.dim != peer.dim:
        raise ValueError(f"peer must be {hilo.dim} wide as hilo is, got {peer.dim}")
    inputs, projections = [], []
    if hilo.hi_heads:
        inputs.append([hilo.hi_qkv])
        projections.append(hilo.hi_projection)
    if hilo.lo_heads:
        inputs.append([hilo.lo_query, hilo.lo_key_value])
        projections.append(hilo.lo_projection)
    with torch.no_grad():
        for kind in ("weight", "bias"):
            rows = [torch.cat([getattr(layer, kind) for layer in branch]).chunk(3) for branch in inputs]
            # Queries of all heads come first, then their keys, then their values.
            parts = [part for third in zip(*rows, strict=True) for part in third]
            getattr(peer.qkv, kind).copy_(torch.cat(parts))
        peer.projection.weight.copy_(torch.block_diag(*(layer.weight for layer in projections)))
        peer.projection.bias.copy_(torch.cat([layer.bias for layer in projections]))


# --- the network ------------------------------------------------------------------------------------------

Mixer = Callable[[int, int], nn.Module | None]
"""Makes the attention of a block from its stage (0, 1, ...) and width; None: the block has none."""


class ConvFFN(nn.Module):
    """Linear to four times the width, 3 x 3 depthwise convolution, GELU, Linear back.

    The zero padding of the convolution is all that tells the network where a token is.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.up = nn.Linear(dim, 4 * dim)
        self.depthwise = nn.Conv2d(4 * dim, 4 * dim, 3, padding=1, groups=4 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(batch, height * width, dim) -> the same shape."""
        planes = rearrange(self.up(x), "b (y x) d -> b d y x", y=height, x=width)
        return self.down(gelu(rearrange(self.depthwise(planes), "b d y x -> b (y x) d")))


class LITBlock(nn.Module):
    """``x + mixer(norm(x))``, then ``x + ffn(norm(x))``; without a mixer only the second."""

    def __init__(self, dim: int, mixer: nn.Module | None):
        super().__init__()
        self.mixer = mixer
        self.norm_mixer = None if mixer is None else nn.LayerNorm(dim)
        self.norm_ffn = nn.LayerNorm(dim)
        self.ffn = ConvFFN(dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(batch, height * width, dim) -> the same shape."""
        if self.mixer is not None and self.norm_mixer is not None:
            x = x + self.mixer(self.norm_mixer(x), height, width)
        return x + self.ffn(self.norm_ffn(x), height, width)


class TokenMerging(nn.Module):
    """2 x 2 convolution of stride 2 to twice the width, BatchNorm, GELU; (batch, dim, height, width)."""

    def __init__(self, dim: int):
        super().__init__()
        self.offsets = nn.Conv2d(dim, 8, 2, stride=2)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]
        self.merge = nn.Conv2d(dim, 2 * dim, 2, stride=2)
        self.norm = nn.BatchNorm2d(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Halves the sides, doubles the width."""
        return gelu(self.norm(self.merge(x)))


class LITv2(nn.Module):
    """Patch embedding, stages of blocks with token merging between them, LayerNorm, mean, linear read-out.

    Stage i has ``depths[i]`` blocks of width ``embed * 2^i``; ``mixer`` makes their attention.
    """

    def __init__(
        self,
        *,
        embed: int,
        depths: Sequence[int],
        mixer: Mixer,
        classes: int,
        channels: int = 3,
        patch: int = 4,
        padding: int = 0,
    ):
        super().__init__()
        self.embed = nn.Conv2d(channels, embed, patch, stride=patch, padding=padding)
        self.norm_embed = nn.LayerNorm(embed)
        self.stages = nn.ModuleList(
            nn.ModuleList(LITBlock(embed * 2**i, mixer(i, embed * 2**i)) for _ in range(depth))
            for i, depth in enumerate(depths)
        )
        self.merges = nn.ModuleList(TokenMerging(embed * 2**i) for i in range(len(depths) - 1))
        last = embed * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(last)
        self.head = nn.Linear(last, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        planes = self.embed(images)
        for index, stage in enumerate(self._blocks()):
            if index:
                planes = self.merges[index - 1](planes)
            height, width = planes.shape[-2:]
            x = rearrange(planes, "b d y x -> b (y x) d")
            if not index:
                x = self.norm_embed(x)
            for block in stage:
                x = block(x, height, width)
            planes = rearrange(x, "b (y x) d -> b d y x", y=height)
        return self.head(self.norm(x).mean(1))

    def mixer_inputs(self, images: Tensor) -> list[Tensor]:
        """What each mixer sees, (batch, height, width, dim) each, in order."""
        seen: list[Tensor] = []

        def keep(_: nn.Module, given: tuple[Tensor, int, int]) -> None:
            seen.append(_map(*given))

        mixers = [block.mixer for stage in self._blocks() for block in stage if block.mixer is not None]
        hooks = [mixer.register_forward_pre_hook(keep) for mixer in mixers]
        try:
            self(images)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def _blocks(self) -> list[list[LITBlock]]:
        return [list(cast(Iterable[LITBlock], stage)) for stage in self.stages]


class Size(NamedTuple):
    """One of the three published networks."""

    embed: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]


SIZES = {
    "S": Size(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "M": Size(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "B": Size(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
WINDOWS = (None, None, 2, 1)
"""Side of the windows in each stage: none has attention in the first two, the last has the standard one."""


def litv2(
    size: str, alpha: float = 0.9, *, windows: Sequence[int | None] = WINDOWS, classes: int = 1000
) -> LITv2:
    """LITv2-S, -M or -B. Raises ``ValueError`` for another size or alpha outside 0..1."""
    spec = _size(size)

    def mixer(stage: int, dim: int) -> nn.Module | None:
        window = windows[stage]
        return None if window is None else HiLo(dim, spec.heads[stage], window, alpha)

    return LITv2(embed=spec.embed, depths=spec.depths, mixer=mixer, classes=classes)


class Count(NamedTuple):
    """The cost of a network, one image at a time."""

    parameters: int
    products: int
    """Multiply-accumulates of the products and convolutions that run, as torch's counter has them."""
    extras: int
    """What the repository counts besides: norms, biases of convolutions, the layer that makes the offsets."""

    @property
    def flops(self) -> int:
        """What the paper calls FLOPs."""
        return self.products + self.extras


def litv2_count(
    size: str, alpha: float = 0.9, image: int = 224, *, windows: Sequence[int | None] = WINDOWS
) -> Count:
    """Parameters and cost of ``litv2`` in closed form, by the rules of the repository's ``flops()``.

    A norm is one operation an element, the bias of a depthwise or merging convolution one an output. The
    layer of offsets counts with 12 outputs though it has 8, the last norm on a map twice as wide and high as
    it is. Biases of linear layers and of the patch embedding are free.
    Raises ``ValueError`` for an unknown size or an image whose side is not a multiple of 32.
    """
    spec = _size(size)
    if image < 32 or image % 32:
        raise ValueError(f"image must be a multiple of 32, got {image}")
    side, dim = image // 4, spec.embed
    parameters = dim * (3 * 16 + 1) + 2 * dim
    products, extras = side**2 * dim * 3 * 16, side**2 * dim
    for stage, (depth, heads, window) in enumerate(zip(spec.depths, spec.heads, windows, strict=True)):
        if stage:
            side, dim = side // 2, 2 * dim
            parameters += 2 * dim * 8 + 8 + 2 * dim * dim + dim + 2 * dim
            products += side**2 * 2 * dim * dim
            extras += side**2 * (2 * dim * 12 + 12 + dim + dim)
        tokens = side**2
        parameters += depth * (8 * dim**2 + 5 * dim + 40 * dim + 2 * dim)
        products += depth * tokens * (8 * dim**2 + 36 * dim)
        extras += depth * tokens * (4 * dim + dim)
        if window is not None:
            with torch.device("meta"):
                hilo = HiLo(dim, heads, window, alpha)
            hi, lo = hilo.hi_dim, hilo.lo_dim
            attention = 3 * (dim + 1) * (hi + lo) + hi**2 + hi + lo**2 + lo
            parameters += depth * (attention + 2 * dim)
            products += depth * sum(hilo.macs(side, side))
            extras += depth * tokens * dim
    parameters += 2 * dim + 1000 * (dim + 1)
    return Count(parameters, products + 1000 * dim, extras + dim * (image // 4) ** 2 // 16)


# --- frequencies ------------------------------------------------------------------------------------------


def high_share(maps: Tensor) -> float:
    """Share of the power above 0.25 cycles per token, half of Nyquist: (batch, height, width, dim) -> 0..1.

    Powers are added over batch and features. The mean of each feature's map is left out, so that the share
    says how fast a map varies and not how large its mean is. NaN for maps that are constant.
    """
    planes = rearrange(maps, "b y x d -> b d y x")
    power = spectra.power(planes - planes.mean((-2, -1), keepdim=True)).mean((0, 1))
    high = spectra.frequencies(*power.shape) > 0.25 + spectra.TIE
    return float(power[high].sum() / power.sum())


# --- sizes ------------------------------------------------------------------------------------------------


def _head_width(dim: int, heads: int) -> int:
    if heads < 1 or dim < heads or dim % heads:
        raise ValueError(f"heads must be >= 1 and divide dim, got heads={heads}, dim={dim}")
    return dim // heads


def _divides(side: int, height: int, width: int) -> None:
    if side < 1 or height % side or width % side:
        raise ValueError(f"window must be >= 1 and divide the map, got {side} for {height} x {width}")


def _map(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[-2] != height * width:
        raise ValueError(f"expected {height} x {width} = {height * width} tokens, got {tuple(x.shape)}")
    return x.reshape(*x.shape[:-2], height, width, x.shape[-1])


def _size(size: str) -> Size:
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    return SIZES[size]
