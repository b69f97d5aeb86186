"""SVT: early layers mix tokens in an invertible complex wavelet domain, later layers by attention.

Patro and Agneeswaran, "Scattering Vision Transformer: Spectral Mixing Matters", arXiv 2311.01310, NeurIPS
2023. A scatter layer splits a feature map by a one-level dual-tree complex wavelet transform (DTCWT): a low
band of the map's own size, and a high band of six orientations, complex, at half the size. The low band is
gated pixel by pixel, the high band mixed by a small complex network, and both are transformed back.

Variants have four letters: how the low band mixes tokens and channels, then the high band. T is a dense
tensor, E the Einstein blend (a two-layer complex MLP with block-diagonal weights), X nothing. TTTT and TTXE
act on all channels; TTEE, the paper's final choice, and TTEX on half of them, while the other half passes a
3 x 3 depthwise convolution.

Implemented: the transform (near_sym_b filters, as in the authors' code), both blends, the mixer, the block,
the hierarchical backbone SVT-H for counting, and a network of one mixer and one attention layer for
experiments. The transform multiplies by matrices instead of convolving: the same map, several
times faster on small grids.

Departures. The paper's figure draws one residual around mixer and feed-forward; like the code we have two.
No drop path. Where code and tables disagree (the code ships one scatter stage with TTXE, the tables count two
with TTEE) we follow the tables. The backbone serves for counting: published, its class block comes after the
last norm, its patch norms have an epsilon of 1e-5, and at inference half of the auxiliary head's largest
score is added; none of this has a weight of its own.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from fourfold.attention import EPS, MLP, Attention, Block
from fourfold.mixers import SelfAttention

Variant = Literal["TTTT", "TTXE", "TTEX", "TTEE"]
Size = Literal["S", "B", "L"]
Arm = Literal["scatter", "attention", "gate", "none"]

STD = 0.02
"""Standard deviation of all initial weights of the mixer, and of its biases."""

TAPS = 13 + 19
"""Taps of the low and high filter together; analysis and synthesis have the same number."""

WAVE_VECTORS = (75, 45, 15, 165, 135, 105)
"""Direction of the waves that each oriented band is for, in degrees from the horizontal."""

DENSE = 256
"""Maps of at most so many pixels are transformed by one matrix: faster than two steps and a shuffle."""

SIZES = {  # stem, dims, depths, heads
    "S": (32, (64, 128, 320, 448), (3, 4, 6, 3), (2, 4, 10, 14)),
    "B": (64, (64, 128, 320, 512), (3, 4, 12, 3), (2, 4, 10, 16)),
    "L": (64, (96, 192, 384, 512), (3, 6, 18, 3), (3, 6, 12, 16)),
}
RATIOS = (8, 8, 4, 4)
"""Widening of the feed-forward layers in the four stages; 4 in the class-attention block."""


# --- the transform ----------------------------------------------------------------------------------------


@cache
def filters() -> tuple[np.ndarray, ...]:
    """near_sym_b's low and high analysis and low and high synthesis filter, float64 (Kingsbury 1999).

    Read from the file in pytorch_wavelets. Importing that package warns, and its modules would hold float32.
    """
    spec = find_spec("pytorch_wavelets")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the filters need the package pytorch_wavelets")
    file = Path(spec.submodule_search_locations[0]) / "dtcwt" / "data" / "near_sym_b.npz"
    with np.load(file) as taps:
        return tuple(taps[name].ravel() for name in ("h0o", "h1o", "g0o", "g1o"))


def dtcwt2(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the dual-tree complex wavelet transform of maps (..., H, W), H and W even.

    Returns the low band (..., H, W), four interleaved trees and hence of full size, and the high band
    (..., 6, H/2, W/2, 2): orientations near 15, 45, 75, 105, 135, 165 degrees, then real and imaginary part.
    Redundancy 4. Raises ``ValueError`` for odd sizes, which the library would pad without a word.
    """
    height, width = _even(x)
    if height * width > DENSE:
        return _analyse(x)
    matrix = _dense(height, width, x.dtype, x.device)[0]
    low, high = linear(x.flatten(-2), matrix).split([height * width, 3 * height * width], -1)
    return low.unflatten(-1, (height, width)), high.unflatten(-1, (6, height // 2, width // 2, 2))


def idtcwt2(low: Tensor, high: Tensor) -> Tensor:
    """The inverse of ``dtcwt2``: (..., H, W) and (..., 6, H/2, W/2, 2) -> (..., H, W).

    Raises ``ValueError`` for shapes that do not belong together.
    """
    height, width = _even(low)
    expected = (*low.shape[:-2], 6, height // 2, width // 2, 2)
    if high.shape != expected:
        raise ValueError(
            f"high must be {expected} for a low band {tuple(low.shape)}, got {tuple(high.shape)}"
        )
    if height * width > DENSE:
        return _synthesise(low, high)
    matrix = _dense(height, width, low.dtype, low.device)[1]
    return linear(torch.cat([low.flatten(-2), high.flatten(-4)], -1), matrix).unflatten(-1, (height, width))


def _analyse(x: Tensor) -> tuple[Tensor, Tensor]:
    height, width = x.shape[-2:]
    rows, columns = (_bank(n, x.dtype, x.device)[0] for n in (height, width))
    bands = rows @ x @ columns.T
    low, high_x = bands[..., :height, :width], bands[..., :height, width:]
    high_y, diagonal = bands[..., height:, :width], bands[..., height:, width:]
    (d15, d165), (d45, d135), (d75, d105) = (_complex(band) for band in (high_y, diagonal, high_x))
    return low, torch.stack([d15, d45, d75, d105, d135, d165], dim=-4)


def _synthesise(low: Tensor, high: Tensor) -> Tensor:
    d15, d45, d75, d105, d135, d165 = high.unbind(-4)
    high_y, diagonal, high_x = _quads(d15, d165), _quads(d45, d135), _quads(d75, d105)
    bands = torch.cat([torch.cat([low, high_x], -1), torch.cat([high_y, diagonal], -1)], -2)
    rows, columns = (_bank(n, low.dtype, low.device)[1] for n in low.shape[-2:])
    return rows @ bands @ columns.T


@cache
def _bank(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Analysis (2n, n), low band first, and synthesis (n, 2n) on a line of n pixels, mirrored at its ends."""

    def matrix(taps: np.ndarray) -> Tensor:
        half = len(taps) // 2
        mirrored = np.pad(np.arange(n), half, mode="symmetric")
        rows = torch.zeros(n, n, dtype=torch.float64)
        for k, tap in enumerate(taps[::-1]):
            rows[torch.arange(n), torch.from_numpy(mirrored[k : k + n].copy())] += tap
        return rows

    h0, h1, g0, g1 = (matrix(taps) for taps in filters())
    analysis, synthesis = torch.cat([h0, h1]), torch.cat([g0, g1], dim=1)
    return analysis.to(device, dtype), synthesis.to(device, dtype)


@cache
def _dense(height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The whole transform of a small map as one matrix (4 H W, H W), and its inverse (H W, 4 H W)."""
    n = height * width
    basis = torch.eye(4 * n, dtype=torch.float64)
    low, high = _analyse(basis[:n, :n].reshape(n, height, width))
    analysis = torch.cat([low.flatten(1), high.flatten(1)], dim=1).T
    lows = basis[:, :n].unflatten(1, (height, width))
    highs = basis[:, n:].unflatten(1, (6, height // 2, width // 2, 2))
    synthesis = _synthesise(lows, highs).flatten(1).T
    return analysis.contiguous().to(device, dtype), synthesis.contiguous().to(device, dtype)


def _even(x: Tensor) -> tuple[int, int]:
    height, width = x.shape[-2:]
    if height < 2 or width < 2 or height % 2 or width % 2:
        raise ValueError(f"height and width must be even and >= 2, got {height} x {width}")
    return height, width


def _complex(band: Tensor) -> tuple[Tensor, Tensor]:
    """The four trees, interleaved in quads a b / c d, as two complex maps of opposite orientation."""
    a, b, c, d = (band[..., i::2, j::2] / 2**0.5 for i in (0, 1) for j in (0, 1))
    return torch.stack([a - d, b + c], -1), torch.stack([a + d, b - c], -1)


def _quads(first: Tensor, second: Tensor) -> Tensor:
    """The inverse of ``_complex``."""
    total, difference = (first + second) / 2**0.5, (second - first) / 2**0.5
    quads = torch.stack([total[..., 0], total[..., 1], -difference[..., 1], difference[..., 0]], -1)
    return rearrange(quads, "... h w (i j) -> ... (h i) (w j)", i=2)


# --- the blends -------------------------------------------------------------------------------------------


class TensorBlend(nn.Module):
    """Gates maps (B, C, H, W) elementwise with one weight per channel and pixel; no bias."""

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(STD * torch.randn(channels, height, width))

    def forward(self, low: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return low * self.weight


class DenseBlend(nn.Module):
    """The T of a high band: two real weights per slot of (B, C, 6, h, w, 2), one for each part."""

    def __init__(self, channels: int, h: int, w: int):
        super().__init__()
        self.weight = nn.Parameter(STD * torch.randn(channels, 6, h, w, 2))

    def forward(self, high: Tensor) -> Tensor:
        """(B, C, 6, h, w, 2) -> the same shape."""
        return high * self.weight


class ComplexMLP(nn.Module):
    """Two complex linear layers, block by block, on (blocks, n, 2 size) with all real parts first.

    ``r' = relu(r Wr - i Wi + br)``, ``i' = relu(r Wi + i Wr + bi)``; the second layer has no ReLU. ReLU acts
    on each part by itself, so the whole is not complex-linear. A complex product is one real product with
    ``[[Wr, Wi], [-Wi, Wr]]``.
    """

    def __init__(self, blocks: int, size: int):
        super().__init__()
        self.weights = nn.ParameterList(STD * torch.randn(2, blocks, size, size) for _ in range(2))
        self.biases = nn.ParameterList(STD * torch.randn(2, blocks, size) for _ in range(2))

    def forward(self, z: Tensor) -> Tensor:
        """(blocks, n, 2 size) -> (blocks, n, 2 size)."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            real, imaginary = weight
            matrix = torch.cat([torch.cat([real, imaginary], -1), torch.cat([-imaginary, real], -1)], -2)
            z = torch.baddbmm(rearrange(bias, "r g c -> g 1 (r c)"), z, matrix)
            if layer == 0:
                z = z.relu()
        return z


class EinsteinBlend(nn.Module):
    """Mixes the channels of a high band within ``blocks`` groups, alike for all orientations and pixels.

    Each of its two layers has C^2/blocks complex weights, whatever the size of the map.
    Raises ``ValueError`` if ``blocks`` does not divide the channels.
    """

    def __init__(self, channels: int, blocks: int = 4):
        super().__init__()
        if blocks < 1 or channels % blocks:
            raise ValueError(f"blocks must be >= 1 and divide the channels, {channels}, got {blocks}")
        self.mlp = ComplexMLP(blocks, channels // blocks)

    def forward(self, high: Tensor) -> Tensor:
        """(B, C, 6, h, w, 2) -> the same shape."""
        sizes = {"b": high.shape[0], "h": high.shape[3], "w": high.shape[4], "r": 2, "o": 6}
        blocks = self.mlp.weights[0].shape[1]
        z = self.mlp(rearrange(high, "b (g c) o h w r -> g (b o h w) (r c)", g=blocks))
        return rearrange(z, "g (b o h w) (r c) -> b (g c) o h w r", **sizes)


class EinsteinTokenBlend(nn.Module):
    """Mixes the columns of each row of a high band; every row has its own weights, and rows never mix."""

    def __init__(self, h: int, w: int):
        super().__init__()
        self.mlp = ComplexMLP(h, w)

    def forward(self, high: Tensor) -> Tensor:
        """(B, C, 6, h, w, 2) -> the same shape."""
        z = self.mlp(rearrange(high, "b c o h w r -> h (b c o) (r w)"))
        return rearrange(z, "h (b c o) (r w) -> b c o h w r", b=high.shape[0], o=6, r=2)


# --- mixers: maps (B, C, H, W) to the same shape ----------------------------------------------------------


class ScatterMixer(nn.Module):
    """Spectral gating: ``low`` gates the low band, ``high`` mixes the high band, between split and inverse.

    TTEE and TTEX do so on the second half of the channels; the first half passes ``local``, a 3 x 3 depthwise
    convolution, and the halves are interleaved channel by channel. H and W are fixed at construction.
    Raises ``ValueError`` for an unknown variant, odd sizes, or channels that do not divide.
    """

    def __init__(self, channels: int, height: int, width: int, variant: Variant = "TTEE", blocks: int = 4):
        super().__init__()
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, got {variant!r}")
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ValueError(f"height and width must be even and >= 2, got {height} x {width}")
        h, w = height // 2, width // 2
        halved = variant in ("TTEE", "TTEX")
        if halved and channels % 2:
            raise ValueError(f"channels must be even for {variant}, got {channels}")
        mixed = channels // 2 if halved else channels
        self.local = nn.Conv2d(mixed, mixed, 3, padding=1, groups=mixed) if halved else None
        self.low: nn.Module = TensorBlend(mixed, height, width)
        self.high = nn.Sequential()
        if variant == "TTTT":
            self.high.append(DenseBlend(mixed, h, w))
        if variant in ("TTXE", "TTEE"):
            self.high.append(EinsteinBlend(mixed, blocks))
        if variant in ("TTEX", "TTEE"):
            self.high.append(EinsteinTokenBlend(h, w))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.local is None:
            return self._scatter(x)
        near, far = x.chunk(2, dim=1)
        return torch.stack([self.local(near), self._scatter(far)], dim=2).flatten(1, 2)

    def _scatter(self, x: Tensor) -> Tensor:
        low, high = dtcwt2(x)
        return idtcwt2(self.low(low), self.high(high))


class Silence(nn.Module):
    """Nothing: zeros of the same shape. Stands for a part that is taken out."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return torch.zeros_like(x)


# --- blocks and networks: maps with channels last, (B, H, W, C) -------------------------------------------


class FeedForward(nn.Module):
    """Linear, 3 x 3 depthwise convolution, GELU, Linear."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.local = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim)."""
        hidden = self.local(rearrange(self.up(x), "b h w c -> b c h w"))
        return self.down(rearrange(gelu(hidden), "b c h w -> b h w c"))


class SVTBlock(nn.Module):
    """``x + mixer(norm(x))``, then ``x + feed_forward(norm(x))``; the mixer takes (B, C, H, W)."""

    def __init__(self, dim: int, mixer: nn.Module, ratio: int):
        super().__init__()
        self.norm_mixer = nn.LayerNorm(dim, eps=EPS)
        self.mixer = mixer
        self.norm_ffn = nn.LayerNorm(dim, eps=EPS)
        self.ffn = FeedForward(dim, ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim)."""
        mixed = self.mixer(rearrange(self.norm_mixer(x), "b h w c -> b c h w"))
        x = x + rearrange(mixed, "b c h w -> b h w c")
        return x + self.ffn(self.norm_ffn(x))


class Embedding(nn.Module):
    """A strided convolution, maybe after a stem, and LayerNorm: (B, C, H, W) -> (B, H/s, W/s, dim)."""

    def __init__(self, *stem: nn.Module, dim_in: int, dim: int):
        super().__init__()
        self.layers = nn.Sequential(*stem, nn.Conv2d(dim_in, dim, 3, 2, 1))
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H/s, W/s, dim)."""
        return self.norm(rearrange(self.layers(x), "b c h w -> b h w c"))


class TwoLayerNet(nn.Module):
    """The smallest network of the paper's kind: a mixer block, an attention block, read-out of the mean.

    Two strided convolutions make ``side/4`` x ``side/4`` tokens. ``arm`` says what mixes in the first block;
    everything else is the same. ``"gate"`` is the low band's gate put on the map itself, without a transform.
    Raises ``ValueError`` for an unknown arm or sizes that the mixer cannot take.
    """

    def __init__(
        self, arm: Arm, *, side: int, width: int, classes: int = 10, colours: int = 1, heads: int = 2,
        variant: Variant = "TTXE", blocks: int = 4, ratio: int = 2,
    ):  # fmt: skip
        super().__init__()
        if arm not in get_args(Arm):
            raise ValueError(f"arm must be one of {', '.join(get_args(Arm))}, got {arm!r}")
        if side < 8 or side % 8:
            raise ValueError(f"side must be a multiple of 8, for an even grid of tokens, got {side}")
        grid = side // 4
        mixers = {
            "scatter": lambda: ScatterMixer(width, grid, grid, variant, blocks),
            "attention": lambda: SelfAttention(width, heads),
            "gate": lambda: TensorBlend(width, grid, grid),
            "none": Silence,
        }
        mixer = mixers[arm]()
        self.embedding = Embedding(nn.Conv2d(colours, width, 3, 2, 1), nn.ReLU(), dim_in=width, dim=width)
        self.blocks = nn.ModuleList(
            [SVTBlock(width, mixer, ratio), SVTBlock(width, SelfAttention(width, heads), ratio)]
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B, colours, side, side) to logits (B, classes) and the maps of each stage, (B, C, g, g).

        The maps are those of the embedding and of each block.
        """
        maps = [self.embedding(x)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        logits = self.head(self.norm(maps[-1]).mean((1, 2)))
        return logits, [rearrange(stage, "b h w c -> b c h w") for stage in maps]


class SVTH(nn.Module):
    """The hierarchical backbone; built by ``svt_h``."""

    def __init__(
        self, size: Size, variant: Variant, alpha: int, aux_head: bool, image: int = 224, classes: int = 1000
    ):
        super().__init__()
        stem, dims, depths, heads = SIZES[size]
        layers: list[nn.Module] = []
        for dim_in, kernel, stride in ((3, 7, 2), (stem, 3, 1), (stem, 3, 1)):
            conv = nn.Conv2d(dim_in, stem, kernel, stride, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(stem), nn.ReLU()]
        self.embeddings, self.stages, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage, dim in enumerate(dims):
            before = [] if stage else layers
            self.embeddings.append(Embedding(*before, dim_in=dims[stage - 1] if stage else stem, dim=dim))
            blocks = nn.Sequential()
            for _ in range(depths[stage]):
                grid = image // 4 // 2**stage
                mixer = (
                    ScatterMixer(dim, grid, grid, variant)
                    if stage < alpha
                    else SelfAttention(dim, heads[stage])
                )
                blocks.append(SVTBlock(dim, mixer, RATIOS[stage]))
            self.stages.append(blocks)
            self.norms.append(nn.LayerNorm(dim, eps=EPS))
        self.class_block = Block(dim, Attention(dim, heads[-1]), MLP(dim, 4 * dim))
        self.head = nn.Linear(dim, classes)
        self.aux_head = nn.Linear(dim, classes) if aux_head else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (B, 3, image, image) to logits (B, classes), and (B, tokens, classes) from ``aux_head``."""
        for embedding, stage, norm in zip(self.embeddings, self.stages, self.norms, strict=True):
            x = rearrange(norm(stage(embedding(x))), "b h w c -> b c h w")
        tokens = rearrange(x, "b c h w -> b (h w) c")
        summary, _ = self.class_block(torch.cat([tokens.mean(1, keepdim=True), tokens], 1), queries=1)
        return self.head(summary[:, 0]), None if self.aux_head is None else self.aux_head(tokens)


def svt_h(size: Size = "S", variant: Variant = "TTEE", alpha: int = 2, aux_head: bool = True) -> SVTH:
    """SVT-H for images of 224 x 224 and 1000 classes; the first ``alpha`` stages scatter, the rest attend.

    ``aux_head``: the second read-out that token labelling adds. Raises ``ValueError`` for an unknown size or
    alpha outside 0..3 (the last stage is 7 x 7, and the transform needs even maps).
    """
    _backbone(size, alpha)
    return SVTH(size, variant, alpha, aux_head)


# --- costs ------------------------------------------------------------------------------------------------


def mixer_parameters(channels: int, height: int, width: int, variant: Variant, blocks: int = 4) -> int:
    """Number of weights of a ``ScatterMixer`` by formula."""
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, got {variant!r}")
    h, w = height // 2, width // 2
    halved = variant in ("TTEE", "TTEX")
    c = channels // 2 if halved else channels
    total = c * height * width + (10 * c if halved else 0)
    if variant == "TTTT":
        total += 2 * 6 * c * h * w
    if variant in ("TTXE", "TTEE"):
        total += 2 * 2 * (c * c // blocks + c)
    if variant in ("TTEX", "TTEE"):
        total += 2 * 2 * (h * w * w + h * w)
    return total


def svt_param_count(size: Size, variant: Variant, alpha: int = 2, aux_head: bool = True) -> int:
    """Number of weights of ``svt_h`` by formula, for images of 224 x 224 and 1000 classes."""
    _backbone(size, alpha)
    stem, dims, depths, _ = SIZES[size]
    total = 3 * 49 * stem + 2 * 9 * stem**2 + 3 * 2 * stem
    for stage, (before, c, depth, ratio) in enumerate(
        zip((stem, *dims[:-1]), dims, depths, RATIOS, strict=True)
    ):
        grid = 56 // 2**stage
        mixer = mixer_parameters(c, grid, grid, variant) if stage < alpha else 4 * c * (c + 1)
        feed_forward = 2 * ratio * c * c + (10 + 1) * ratio * c + c
        total += 9 * before * c + c + 2 * c + depth * (mixer + feed_forward + 4 * c) + 2 * c
    class_block = 4 * c * (c + 1) + 8 * c * c + 5 * c + 4 * c
    return total + class_block + (2 if aux_head else 1) * 1000 * (c + 1)


def multiply_accumulates(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Multiply-accumulates of one forward pass by kind: ``layers``, ``attention``, ``blends``, ``wavelets``.

    ``layers`` are Linear and Conv2d; the wavelet is counted with its 13 and 19 taps, as a convolution would
    compute it and not as the matrices that do here. Works on the meta device.
    """
    counts = dict.fromkeys(("layers", "attention", "blends", "wavelets"), 0)

    def count(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        x = inputs[0]
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            counts["layers"] += output.numel() * module.weight[0].numel()
        elif isinstance(module, SelfAttention):
            counts["attention"] += 2 * x.numel() * x.shape[-2:].numel()
        elif isinstance(module, Attention):
            counts["attention"] += 2 * output[0].numel() * x.shape[-2]
        elif isinstance(module, ComplexMLP):
            counts["blends"] += 2 * 2 * x.numel() * module.weights[0].shape[-1]
        elif isinstance(module, (TensorBlend, DenseBlend)):
            counts["blends"] += x.numel()
            # Rows give two maps of each, columns four: 3 filter pairs for the analysis, 3 for the synthesis.
            counts["wavelets"] += 2 * 3 * TAPS * x.numel() if isinstance(module, TensorBlend) else 0

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return counts


def _backbone(size: str, alpha: int) -> None:
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    if not 0 <= alpha <= 3:
        raise ValueError(f"alpha must be in 0..3, since the last stage is 7 x 7, got {alpha}")
