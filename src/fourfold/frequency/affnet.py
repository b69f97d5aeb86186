"""AFFNet: adaptive frequency filters, a convolution as large as the map whose kernel depends on the input.

Huang, Zhang, Lan, Zha, Lu and Guo, "Adaptive Frequency Filters As Efficient Global Token Mixers", arXiv
2307.14008, ICCV 2023; code microsoft/TokenMixers (MIT). The mixer multiplies the spectrum X of a feature map
by a mask M(X) that a small channel network computes at each frequency from the values at that frequency. By
the convolution theorem this is a circular convolution per channel with the kernel irfft2(M).

Implemented: the mixer, its kernel, the whole AFFNet in its three sizes; and what the chapter compares with:
a static depthwise kernel as large as the map, a test image with a planted wave, and a small classifier around
any mixer. GFNet's static gate and attention lie in `fourfold.mixers`.

Departures. The mask network is written with real matrices twice as large instead of complex ones: the same
map, and all of its multiplications are counted. Half precision is filtered in float32, as in the authors'
code; float64 stays float64. DropPath is left out (it is off at test time). Convolutions have SiLU and the
mask the paper's ReLU; in the authors' code one option sets both, ReLU unless it is changed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, softshrink

from fourfold.mixers import INIT
from fourfold.spectra import power

Mixer = Callable[[int], nn.Module]
"""Makes a mixer (batch, channels, H, W) -> the same shape, from the number of channels."""


# --- circular convolution and its spectrum ----------------------------------------------------------------


def circular_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """``y[n] = sum_m kernel[m] x[n - m]`` per channel, indices modulo the map; summed directly.

    ``x``, ``kernel``: (..., H, W), broadcast over the leading axes. O(N^2) for N = H W tokens, no FFT.
    """
    height, width = x.shape[-2:]
    if kernel.shape[-2:] != (height, width):
        raise ValueError(f"kernel must be as large as the map, {height} x {width}, got {tuple(kernel.shape)}")
    total = torch.zeros_like(x * kernel[..., :1, :1])
    for row in range(height):
        for column in range(width):
            total += kernel[..., row, column, None, None] * x.roll((row, column), (-2, -1))
    return total


def spectrum(x: Tensor) -> Tensor:
    """``rfft2`` with norm "ortho": (..., H, W) -> (..., H, W//2 + 1), complex; half precision in float32."""
    return torch.fft.rfft2(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, norm="ortho")


def filtered(mask: Tensor, frequencies: Tensor, size: tuple[int, int]) -> Tensor:
    """A spectrum times a mask, (..., H, W//2 + 1) each, back on the map: (..., H, W) for ``size`` (H, W)."""
    return torch.fft.irfft2(mask * frequencies, s=size, norm="ortho")


def kernel_of(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The kernel (..., H, W) by which ``filtered`` convolves: irfft2 with the backward norm.

    The two ortho norms of a filter cancel, so its kernel carries the whole 1/(H W). A mask need not be
    Hermitian in the columns kx = 0 and Nyquist: irfft2 drops the same part of M as of M X.
    """
    return torch.fft.irfft2(mask, s=size)


# --- mixers -----------------------------------------------------------------------------------------------


class AFFMixer(nn.Module):
    """Adaptive frequency filter: ``x + irfft2(M(X) X)``.

    Channels are cut in ``blocks``; in each, two complex linear layers act on every frequency, with a ReLU on
    real and imaginary parts between them, and soft shrinkage by ``shrink`` after them. ``weight_1``,
    ``weight_2``: (2, blocks, d, d), ``bias_1``, ``bias_2``: (2, blocks, d), real and imaginary parts, with
    d = channels / blocks: 4 C^2/blocks + 4 C values.
    Raises ``ValueError`` if ``blocks`` does not divide ``channels`` or ``shrink`` is negative.
    """

    def __init__(self, channels: int, blocks: int = 8, shrink: float = 0.01):
        super().__init__()
        if blocks < 1 or channels < 1 or channels % blocks:
            raise ValueError(f"blocks must be >= 1 and divide channels, got {blocks} and {channels}")
        if not shrink >= 0:
            raise ValueError(f"shrink must be >= 0, got {shrink}")
        self.channels, self.blocks, self.shrink = channels, blocks, shrink
        d = channels // blocks
        self.weight_1 = nn.Parameter(INIT * torch.randn(2, blocks, d, d))
        self.bias_1 = nn.Parameter(INIT * torch.randn(2, blocks, d))
        self.weight_2 = nn.Parameter(INIT * torch.randn(2, blocks, d, d))
        self.bias_2 = nn.Parameter(INIT * torch.randn(2, blocks, d))

    def mask_of(self, frequencies: Tensor) -> Tensor:
        """The mask of a spectrum, both (batch, channels, H, W//2 + 1), complex."""
        batch, _, height, half = frequencies.shape
        parts = torch.view_as_real(frequencies)
        z = rearrange(parts, "b (k d) h w part -> b k (part d) (h w)", k=self.blocks)
        hidden = (_real_matrix(self.weight_1) @ z + _column(self.bias_1)).relu()
        mask = softshrink(_real_matrix(self.weight_2) @ hidden + _column(self.bias_2), self.shrink)
        mask = mask.reshape(batch, self.blocks, 2, -1, height, half).movedim(2, -1)
        return torch.view_as_complex(mask.reshape(batch, self.channels, height, half, 2).contiguous())

    def mask(self, x: Tensor) -> Tensor:
        """The mask that ``x`` (batch, channels, H, W) gets: (batch, channels, H, W//2 + 1), complex."""
        return self.mask_of(spectrum(x))

    def kernel(self, x: Tensor) -> Tensor:
        """The kernel that ``x`` (batch, channels, H, W) is convolved with, circularly: the shape of ``x``."""
        return kernel_of(self.mask(x), (x.shape[-2], x.shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape and dtype."""
        frequencies = spectrum(x)
        y = filtered(self.mask_of(frequencies), frequencies, (x.shape[-2], x.shape[-1]))
        return x + y.to(x.dtype)


def _real_matrix(weight: Tensor) -> Tensor:
    """Complex u = z W, parts (2, blocks, d, d), as a real matrix (blocks, 2d, 2d) on columns [re z; im z]."""
    real, imaginary = weight[0].mT, weight[1].mT
    return torch.cat([torch.cat([real, -imaginary], -1), torch.cat([imaginary, real], -1)], -2)


def _column(bias: Tensor) -> Tensor:
    """Parts (2, blocks, d) as columns (blocks, 2d, 1)."""
    return torch.cat([bias[0], bias[1]], -1)[..., None]


class AveragedAFF(AFFMixer):
    """AFF robbed of its adaptivity: every image gets the mean mask of its batch."""

    def mask_of(self, frequencies: Tensor) -> Tensor:
        """As in ``AFFMixer``, averaged over the batch."""
        mask = super().mask_of(frequencies)
        return mask.mean(0, keepdim=True).expand_as(mask)


class GlobalDepthwise(nn.Module):
    """One kernel as large as the map for each channel, slid circularly over it: O(N^2), no FFT.

    ``weight``: (channels, 1, H, W), the kernel in ``circular_conv``'s order.
    """

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(INIT * torch.randn(channels, 1, height, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape."""
        height, width = x.shape[-2:]
        wrapped = pad(x, (width - 1, 0, height - 1, 0), mode="circular")
        return conv2d(wrapped, self.weight.flip(-2, -1), groups=x.shape[1])


class LocalDepthwise(nn.Conv2d):
    """A depthwise convolution with a kernel of odd side, padded by zeros: the map keeps its size."""

    def __init__(self, channels: int, side: int):
        super().__init__(channels, channels, side, padding=side // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape."""
        # With channels last in memory training takes a third of the time on a CPU.
        return super().forward(x.contiguous(memory_format=torch.channels_last))


def reach(mixer: nn.Module, x: Tensor) -> float:
    """Share of the tokens of ``x`` (1, channels, H, W) that the output at the first token depends on."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mixer(x)[..., 0, 0].sum(), x)
    return float((gradient.abs().amax((0, 1)) > 0).double().mean())


def kernel_spread(kernels: Tensor) -> float:
    """How much kernels (n, C, H, W) differ from each other: their standard deviation over their mean norm.

    The deviation is the root of the mean squared distance from the mean kernel; 0 exactly for equal kernels.
    """
    from_first = (kernels - kernels[:1]).flatten(1)
    deviation = (from_first - from_first.mean(0)).square().sum(1).mean().sqrt()
    # Kernels that are all zero are equal, too.
    return float(deviation / kernels.flatten(1).norm(dim=1).mean()) if deviation else 0.0


def shift_error(mixer: nn.Module, x: Tensor, shift: tuple[int, int]) -> float:
    """How much of a filter's output changes with the origin: ``f(roll x)`` against ``roll f(x)``, relative.

    ``x``: (batch, channels, H, W). The inner skip, which commutes with shifts, is taken out of the output; 0
    where nothing else is left of it.
    """
    with torch.no_grad():
        y = mixer(x) - x
        shifted = x.roll(shift, (-2, -1))
        change = (mixer(shifted) - shifted - y.roll(shift, (-2, -1))).norm()
        return float(change / y.norm()) if change else 0.0


def swap_frequencies(x: Tensor, one: tuple[int, int], other: tuple[int, int]) -> Tensor:
    """Maps (..., H, W) with the values of two frequencies (down, across) swapped, and of their negatives."""
    plane = torch.fft.fft2(x)
    swapped = plane.clone()
    for sign in (1, -1):
        (u, v), (r, s) = ((sign * a, sign * b) for a, b in (one, other))
        swapped[..., u, v], swapped[..., r, s] = plane[..., r, s], plane[..., u, v]
    return torch.fft.ifft2(swapped).real


def mixing_operations(mixer: str, tokens: int, channels: int, blocks: int = 8) -> float:
    """Real multiply-adds of one mixer on a square map, in closed form, FFTs included.

    ``"aff"``: two real FFTs, 2.5/2 N log2 N multiply-adds each per channel (half of the 5 N log2 N flops of a
    complex one, two flops a multiply-add), the mask network's 8 C^2/blocks and 4 C of the product for each of
    the N/2 + sqrt(N) frequencies. ``"attention"``: 2 N^2 C + 4 N C^2. ``"global"``: N^2 C.
    Raises ``ValueError`` for another name.
    """
    if mixer == "aff":
        half = tokens / 2 + tokens**0.5
        fft = 2 * 1.25 * tokens * torch.tensor(float(tokens)).log2().item() * channels
        return fft + half * (8 * channels**2 / blocks + 4 * channels)
    if mixer == "attention":
        return 2 * tokens**2 * channels + 4 * tokens * channels**2
    if mixer == "global":
        return tokens**2 * channels
    raise ValueError(f"mixer must be 'aff', 'attention' or 'global', got {mixer!r}")


# --- AFFNet -----------------------------------------------------------------------------------------------


def conv_norm(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, zero-padded by kernel//2, and BatchNorm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand by 1 x 1, 3 x 3 depthwise, project by 1 x 1; a skip where shapes allow."""

    def __init__(self, c_in: int, c_out: int, expansion: int, stride: int = 1):
        super().__init__()
        hidden = c_in * expansion
        self.skip = stride == 1 and c_in == c_out
        self.layers = nn.Sequential(
            conv_norm(c_in, hidden),
            nn.SiLU(),
            conv_norm(hidden, hidden, 3, stride, hidden),
            nn.SiLU(),
            conv_norm(hidden, c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c_in, H, W) -> (batch, c_out, ceil(H/stride), ceil(W/stride))."""
        return x + self.layers(x) if self.skip else self.layers(x)


class AFFUnit(nn.Module):
    """``x + mixer(norm(mb(norm(x))))``: the code's order, channels before tokens, one skip around both.

    ``mb`` is an inverted residual that expands twice, with a skip of its own around the normed map.
    """

    def __init__(self, channels: int, mixer: Mixer):
        super().__init__()
        self.norm_1 = nn.GroupNorm(1, channels)
        self.mb = InvertedResidual(channels, channels, 2)
        self.norm_2 = nn.GroupNorm(1, channels)
        self.mixer = mixer(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape."""
        return x + self.mixer(self.norm_2(self.mb(self.norm_1(x))))


class AFFBlock(nn.Module):
    """A stage: units, norm, 1 x 1; joined with the stage's input and brought back to C channels by 1 x 1."""

    def __init__(self, channels: int, units: int, mixer: Mixer):
        super().__init__()
        self.units = nn.Sequential(*(AFFUnit(channels, mixer) for _ in range(units)))
        self.project = nn.Sequential(nn.GroupNorm(1, channels), conv_norm(channels, channels))
        self.fuse = nn.Sequential(conv_norm(2 * channels, channels), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape."""
        return self.fuse(torch.cat([x, self.project(self.units(x))], 1))


SIZES = {
    "et": (2, (32, 48, 64, 104, 144)),
    "t": (4, (32, 48, 96, 160, 192)),
    "base": (4, (32, 64, 128, 256, 320)),
}
"""Expansion of the inverted residuals and the widths of the five stages."""


def affnet(size: str, classes: int = 1000, mixer: Mixer = AFFMixer) -> nn.Sequential:
    """AFFNet-ET, -T or AFFNet: (batch, 3, H, W) -> logits (batch, classes); the paper's input is 256 x 256.

    ``mixer`` replaces the adaptive filter in every unit. Raises ``ValueError`` for an unknown size.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    e, (c1, c2, *widths) = SIZES[size]
    layers = [conv_norm(3, 16, 3, 2), nn.SiLU(), InvertedResidual(16, c1, e)]
    layers += [InvertedResidual(c1, c2, e, 2), *(InvertedResidual(c2, c2, e) for _ in range(2))]
    before = c2
    for width, units in zip(widths, (2, 4, 3), strict=True):
        layers += [InvertedResidual(before, width, e, 2), AFFBlock(width, units, mixer)]
        before = width
    last = min(4 * before, 960)
    head = (
        conv_norm(before, last),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(last, classes),
    )
    return nn.Sequential(*layers, *head)


# --- fourfold's own small experiments ---------------------------------------------------------------------


class Interference(NamedTuple):
    """Images with a planted wave (n, H, W), and its frequency (n, 2): periods down and across the image."""

    noisy: Tensor
    frequency: Tensor


def with_interference(clean: Tensor, amplitude: float, generator: torch.Generator) -> Interference:
    """Images (n, H, W) plus one cosine each, of whole periods (u, v) in -6..6, |u| + |v| >= 3, random phase.

    Raises ``ValueError`` for an amplitude that is not > 0, or a side below 13, on which a wave would alias.
    """
    if not amplitude > 0:
        raise ValueError(f"amplitude must be > 0, got {amplitude}")
    n, height, width = clean.shape
    if min(height, width) < 13:
        raise ValueError(f"clean must have sides >= 13, got {tuple(clean.shape)}")
    grid = torch.cartesian_prod(torch.arange(-6, 7), torch.arange(-6, 7))
    allowed = grid[grid.abs().sum(1) >= 3]
    frequency = allowed[torch.randint(len(allowed), (n,), generator=generator)]
    phase = 2 * torch.pi * torch.rand(n, 1, 1, generator=generator)
    u, v = (part[:, None, None] for part in frequency.T)
    turns = u * torch.arange(height)[:, None] / height + v * torch.arange(width) / width
    return Interference(clean + amplitude * (2 * torch.pi * turns + phase).cos(), frequency)


def static_limit(clean: Tensor, noise: Tensor) -> float:
    """What the best static filter leaves: mean squared error over the variance of ``clean``, both (n, H, W).

    Wiener's filter for circular convolution and uncorrelated noise: the sum of S N / (S + N).
    """
    signal, disturbance = power(clean).mean(0), power(noise).mean(0)
    return float((signal * disturbance / (signal + disturbance)).sum() / clean.var())


class Restorer(nn.Module):
    """A mixer between two 1 x 1 convolutions: (batch, H, W) -> (batch, H, W)."""

    def __init__(self, channels: int, mixer: Mixer):
        super().__init__()
        self.embed = nn.Conv2d(1, channels, 1)
        self.mixer = mixer(channels)
        self.read = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, H, W) -> (batch, H, W)."""
        return self.read(self.mixer(self.embed(x[:, None])))[:, 0]


class Classifier(nn.Module):
    """A 7 x 7 convolution to a quarter of the side, ``depth`` blocks of mixer and channel MLP, mean, linear.

    A block is ``x + mixer(norm(x))``, then ``x + mlp(norm(x))`` with 1 x 1 convolutions: past the stem only
    the mixer moves anything between tokens. Takes (batch, c_in, H, W).
    """

    def __init__(self, channels: int, mixer: Mixer, depth: int = 2, c_in: int = 1, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(c_in, channels, 7, 4, 2)
        self.mixers = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, channels), mixer(channels)) for _ in range(depth)
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, channels), nn.Conv2d(channels, 2 * channels, 1), nn.GELU(),
                nn.Conv2d(2 * channels, channels, 1),
            )
            for _ in range(depth)
        )  # fmt: skip
        self.head = nn.Sequential(nn.GroupNorm(1, channels), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classify = nn.Linear(channels, classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The map after the stem and after every block: depth + 1 times (batch, channels, H/4, W/4)."""
        maps = [self.stem(x)]
        for mixer, mlp in zip(self.mixers, self.mlps, strict=True):
            mixed = maps[-1] + mixer(maps[-1])
            maps.append(mixed + mlp(mixed))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c_in, H, W) -> logits (batch, classes)."""
        return self.classify(self.head(self.features(x)[-1]))
