"""MR thermometry from undersampled k-space: primal-dual networks whose layers keep the complex value.

Khatun, Chatterjee et al., arXiv 2310.01073, Scientific Reports 2025. Heating turns the phase of an MR image,
about -0.08 rad per degree at 1.5 T and an echo time of 20 ms. The network unrolls a primal-dual iteration:
``h`` lives in k-space, ``f`` in image space, and small complex convolutions correct each in turn,

    h <- h + w_d D([h, mean F f / m, g / m]),    f <- f + w_p P([f, mean F^-1 (m h)]),    m = max |g|.

Written after the authors' code (soumickmj/NCC1701, ``Bridge/WarpDrives/PDUNet``) and its layers
(soumickmj/pytorch-complex). ``PrimalDual()`` is their PD, 505,360 real numbers;
``PrimalDual(n_primal=4, iters=2, primal="unet", zero_filled=True)`` is their PDUNet, 7,257,032.

Complex maps run through the layers *stacked*: (batch, 2 channels, height, width), all real parts first. A
complex convolution is then one real convolution with the kernel [[Re, -Im], [Im, Re]].

Departures. Their training configuration returns magnitudes (``return_abs``), which has no temperature; ours
returns the complex image. ``m`` is the maximum of each sample, not of the batch tensor. BatchNorm's eps is
added to the covariance, theirs elsewhere, a difference of 6e-7. A complex bias is b, where the
code's arithmetic makes it (1 + i) b. The code's real primal path, which drops the phase, is left out: its
place takes a net of real convolutions on the stacked maps, for comparison. Tables of the paper were not
available. Patients are synthetic.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad, relu

from fourfold.checks import at_least, finite, one_of

GAMMA = 42.577e6
"""Gyromagnetic ratio of the proton over 2 pi, Hz/T."""
ALPHA = -0.01e-6
"""Chemical shift of water per degree."""

Kind = Literal["complex", "crelu", "split", "real"]
Domains = Literal["both", "image"]


# --- thermometry and acquisition --------------------------------------------------------------------------


def phase_per_degree(b0: float, te: float) -> float:
    """Phase that one degree adds, in rad/K: 2 pi gamma alpha B0 TE, with ``b0`` in tesla, ``te`` in seconds.

    Raises ``ValueError`` unless both are > 0.
    """
    finite(above=True, b0=b0, te=te)
    return 2 * math.pi * GAMMA * ALPHA * b0 * te


def prf_temperature(base: Tensor, hot: Tensor, b0: float, te: float) -> Tensor:
    """Heating in K from the proton resonance frequency shift: arg(hot conj(base)) / ``phase_per_degree``.

    Complex images (..., height, width), the first before heating. The angle is taken of the product, since a
    difference of two angles jumps by 2 pi wherever one of them wraps. Unambiguous within
    +- pi / |phase_per_degree|.
    """
    return (hot * base.conj()).angle() / phase_per_degree(b0, te)


def fftc(x: Tensor) -> Tensor:
    """Image (..., height, width) -> k-space, complex: unitary, zero frequency in the middle of both."""
    shifted = torch.fft.ifftshift(x, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


def ifftc(k: Tensor) -> Tensor:
    """The inverse of ``fftc``, which is its adjoint."""
    shifted = torch.fft.ifftshift(k, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))


def vd_mask(n: int, af: float, centre: int, generator: torch.Generator) -> Tensor:
    """Which of ``n`` phase-encoding columns are measured: (n,), 1 or 0; round(n / af) of them in all.

    The ``centre`` columns around zero frequency are always there, the others are drawn without replacement
    with a density that falls as (1 - |k| / k_max)^3. The acceleration is ``n / mask.sum()``.
    Raises ``ValueError`` for ``af`` < 1 or a centre that is not in 1..round(n / af).
    """
    if not 1 <= af <= n:
        raise ValueError(f"af must be in 1..{n}, the number of columns, got {af}")
    lines = round(n / af)
    if not 1 <= centre <= lines:
        raise ValueError(f"centre must be in 1..{lines}, what af = {af} leaves of {n} columns, got {centre}")
    first = n // 2 - centre // 2
    mask = torch.zeros(n)
    mask[first : first + centre] = 1
    if lines > centre:
        distance = (torch.arange(n) - n // 2).abs() / (n // 2 + 1)
        density = torch.where(mask == 1, 0.0, (1 - distance) ** 3)
        mask[torch.multinomial(density, lines - centre, generator=generator)] = 1
    return mask


def data_consistency(x: Tensor, g: Tensor, mask: Tensor) -> Tensor:
    """The image with its measured columns put back: F^-1((1 - M) F x + g).

    ``x`` (..., height, width) complex, ``g`` its measured k-space, zero elsewhere, ``mask`` (width,).
    """
    return ifftc((1 - mask) * fftc(x) + g)


def tv_recon(g: Tensor, mask: Tensor, lam: float, iters: int) -> Tensor:
    """The image with the least |M F x - g|^2 / 2 + lam TV(x), after ``iters`` steps from the zero-filled one.

    TV is isotropic and of the complex image: the sum of sqrt(|dx|^2 + |dy|^2) over pixels, forward
    differences, none across the border. Chambolle and Pock's primal-dual iteration (2011, algorithm 1), of
    which the network is the learnt form. ``g``: (..., height, width) complex, ``mask``: (width,).
    Raises ``ValueError`` for ``lam`` < 0 or ``iters`` < 1.
    """
    finite(lam=lam)
    at_least(1, iters=iters)
    # Their product times 8, which bounds the squared norm of the gradient, is 1. The dual variable is no
    # larger than lam and so small that it needs the smaller step.
    step, dual_step = 3.0, 1 / 24
    x = ahead = ifftc(g)
    p = torch.zeros(2, *g.shape, dtype=g.dtype)
    for _ in range(iters):
        p = p + dual_step * _gradient(ahead)
        p = p / (p.abs().square().sum(0).sqrt() / lam).clamp(min=1) if lam else torch.zeros_like(p)
        moved = x + step * _divergence(p)
        last, x = x, ifftc((fftc(moved) + step * g) / (1 + step * mask))
        ahead = 2 * x - last
    return x


def row_maps(g: Tensor, images: Tensor, mask: Tensor, weight: float) -> Tensor:
    """A linear map for each row of the image, from what was measured near it: ridge regression.

    What a user would try before any network. Columns of k-space are missing, and along the height nothing is,
    so that each row of the image has measurements of its own; a row comes from its own and those of the two
    rows on either side, zero beyond the border. ``g`` (scans, height, width) is complex, 0 where ``mask``
    (width,) is, and ``images``, the same shape, are what should come out. ``weight`` penalises the squared
    modulus of a map, in units of what a measurement's power sums to over the scans, in the mean.
    Returns (height, 5 columns, width). Raises ``ValueError`` for ``weight`` <= 0 and for shapes that differ.
    """
    finite(above=True, weight=weight)
    if g.shape != images.shape:
        raise ValueError(f"expected images of g's shape, got {tuple(images.shape)} and {tuple(g.shape)}")
    x, y = _measured(g, mask), images.transpose(0, 1)
    gram = x.mH @ x
    power = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
    ridge = weight * power[:, None, None] * torch.eye(x.shape[-1], dtype=x.dtype)
    return torch.linalg.solve(gram + ridge, x.mH @ y)


def linear_recon(g: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
    """The images (..., height, width) that ``row_maps`` makes of k-space ``g``, the same shape, complex."""
    rows = _measured(g.flatten(0, -3), mask) @ maps
    return rows.transpose(0, 1).unflatten(0, g.shape[:-2])


def _measured(g: Tensor, mask: Tensor) -> Tensor:
    """(scans, height, width) -> (height, scans, 5 columns): what was measured of five rows of the image."""
    rows = torch.fft.ifftshift(g[..., mask == 1], dim=-2)
    rows = torch.fft.fftshift(torch.fft.ifft(rows, dim=-2, norm="ortho"), dim=-2)
    near = pad(rows, (0, 0, 2, 2)).unfold(-2, 5, 1)
    return rearrange(near, "scans y columns rows -> y scans (rows columns)")


def _gradient(x: Tensor) -> Tensor:
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    down[..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    right[..., :-1] = x[..., 1:] - x[..., :-1]
    return torch.stack([down, right])


def _divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of ``_gradient``."""
    down, right = p.clone()
    down[..., 1:, :] -= p[0, ..., :-1, :]
    right[..., 1:] -= p[1, ..., :-1]
    # The gradient has nothing to say on the last row and column.
    down[..., -1, :] = -p[0, ..., -2, :]
    right[..., -1] = -p[1, ..., :, -2]
    return down + right


# --- synthetic patients -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phantom:
    """A slice through a patient: what does not change while the tumour is heated. All (n, n), float64."""

    magnitude: Tensor
    phase: Tensor
    """Background phase, rad."""
    body: Tensor
    tumour: Tensor
    """Truth values."""
    heating: Tensor
    """Final heating, K: up to 6 around the tumour, and a drift of 0.3 everywhere."""

    def series(self, times: Sequence[float], b0: float, te: float) -> tuple[Tensor, Tensor]:
        """Noiseless images (times, n, n), complex128, and heating (times, n, n) in K.

        Time 0 is the baseline before heating, 1 the end of it; heating grows linearly.
        """
        heating = torch.tensor(times, dtype=torch.float64)[:, None, None] * self.heating
        phase = self.phase + phase_per_degree(b0, te) * heating
        return torch.polar(self.magnitude.expand_as(phase), phase), heating


def phantom(n: int, generator: torch.Generator) -> Phantom:
    """A random patient: elliptic body, eight random ellipses, 5 % texture, a brighter tumour, smooth phase.

    The phase is a random combination of 1, x, y, xy and x^2 - y^2. Raises ``ValueError`` for ``n`` < 16.
    """
    if n < 16:
        raise ValueError(f"n must be >= 16 for a body with a tumour in it, got {n}")

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    axis = (torch.arange(n, dtype=torch.float64) - n / 2 + 0.5) * 2 / n
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def ellipse(cx: float, cy: float, a: float, b: float, turn: float) -> Tensor:
        u, v = x - cx, y - cy
        across, along = math.cos(turn), math.sin(turn)
        return ((u * across + v * along) / a) ** 2 + ((v * across - u * along) / b) ** 2 <= 1

    body = ellipse(0, 0, uniform(0.75, 0.9), uniform(0.6, 0.8), 0)
    magnitude = 0.5 * body
    for _ in range(8):
        organ = ellipse(
            uniform(-0.5, 0.5),
            uniform(-0.4, 0.4),
            uniform(0.08, 0.3),
            uniform(0.08, 0.3),
            uniform(0, math.pi),
        )
        magnitude = magnitude + uniform(-0.15, 0.2) * (organ & body)
    cx, cy = uniform(-0.35, 0.35), uniform(-0.3, 0.3)
    tumour = ellipse(cx, cy, uniform(0.14, 0.22), uniform(0.14, 0.22), uniform(0, math.pi))
    # The floor keeps signal everywhere in the body: without signal there is no phase.
    magnitude = (magnitude + 0.25 * tumour).clamp(min=0.2) * (1 + 0.05 * normal(n, n)) * body
    weights = normal(5)
    phase = sum(
        w * term for w, term in zip(weights, (x * 0 + math.pi, x, y, x * y, x**2 - y**2), strict=True)
    )
    heating = 6 * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * uniform(0.2, 0.35) ** 2)) + 0.3
    return Phantom(magnitude / magnitude.max(), phase, body, tumour, heating * body)


# --- complex layers on stacked maps -----------------------------------------------------------------------


def stacked(z: Tensor) -> Tensor:
    """Complex (..., channels, height, width) -> real (..., 2 channels, height, width), real parts first."""
    return torch.cat([z.real, z.imag], -3)


def unstacked(x: Tensor) -> Tensor:
    """The inverse of ``stacked``."""
    return torch.complex(*x.chunk(2, -3))


def padded(x: Tensor, wrap: bool) -> Tensor:
    """One pixel more on each side: the border again, or with ``wrap`` along the width the opposite border."""
    x = torch.cat([x[..., :1, :], x, x[..., -1:, :]], -2)
    left, right = (x[..., -1:], x[..., :1]) if wrap else (x[..., :1], x[..., -1:])
    return torch.cat([left, x, right], -1)


def convolved(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """``conv2d`` with the channels filled up by zeros to multiples of eight.

    On a CPU, and mapped over an ensemble (a grouped convolution), that takes half the time.
    """
    cout, cin = kernel.shape[:2]
    more, extra = -cout % 8, -cin % 8
    y = conv2d(pad(x, (0, 0, 0, 0, 0, extra)), pad(kernel, (0, 0, 0, 0, 0, extra, 0, more)), padding=padding)
    y = y.narrow(-3, 0, cout)
    return y if bias is None else y + bias[:, None, None]


class ComplexConv2d(nn.Module):
    """Complex convolution (torch's correlation) of stacked maps, as one real convolution.

    ``weight`` (2, cout, cin, k, k) and ``bias`` (2, cout) hold real and imaginary parts; both parts of the
    weight start as ``nn.Conv2d``'s would, uniform within 1 / sqrt(cin k^2), the bias at 0. Pads with zeros.
    """

    def __init__(self, cin: int, cout: int, k: int, bias: bool = True, padding: int = 0):
        super().__init__()
        self.padding = padding
        bound = 1 / math.sqrt(cin * k * k)
        self.weight = nn.Parameter(torch.empty(2, cout, cin, k, k).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(2, cout)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 cin, height, width) -> (batch, 2 cout, ...)."""
        re, im = self.weight
        kernel = torch.cat([torch.cat([re, -im], 1), torch.cat([im, re], 1)])
        return convolved(x, kernel, None if self.bias is None else self.bias.flatten(), self.padding)


class RealConv2d(nn.Module):
    """Real convolution (torch's correlation) without padding; starts as ``nn.Conv2d``, with the bias at 0."""

    def __init__(self, cin: int, cout: int, k: int, bias: bool = True):
        super().__init__()
        bound = 1 / math.sqrt(cin * k * k)
        self.weight = nn.Parameter(torch.empty(cout, cin, k, k).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(cout)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, cin, height, width) -> (batch, cout, ...)."""
        return convolved(x, self.weight, self.bias)


class SplitConv2d(RealConv2d):
    """A complex convolution of stacked maps with real weights: real and imaginary parts never meet."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 cin, height, width) -> (batch, 2 cout, ...)."""
        re, im = x.chunk(2, -3)
        return torch.cat([super().forward(re), super().forward(im)], -3)


class CModReLU(nn.Module):
    """z relu(1 - tau / max(|z|, 1e-5)): shrinks the modulus by a learnt threshold and leaves the phase alone.

    One ``threshold`` per channel, drawn from N(0, 0.02^2).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.threshold = nn.Parameter(0.02 * torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 channels, height, width) -> the same shape."""
        parts = x.unflatten(-3, (2, -1))
        # Clamped before the root, whose slope at 0 is infinite.
        inverse = parts.square().sum(-4, keepdim=True).clamp(min=1e-10).rsqrt()
        return (parts * relu(1 - self.threshold * inverse)).flatten(-4, -3)


class ComplexBatchNorm2d(nn.Module):
    """Whitening of each complex channel (Trabelsi et al., arXiv 1705.09792), then a learnt map and shift.

    Before the map, ``weight`` (2, 2, channels), real and imaginary part are uncorrelated with variance 1.
    Running mean and covariance for evaluation, with momentum 0.1.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        identity = torch.eye(2)[..., None].repeat(1, 1, channels)
        self.weight = nn.Parameter(identity.clone())
        self.bias = nn.Parameter(torch.zeros(2, channels))
        self.register_buffer("mean", torch.zeros(2, channels))
        self.register_buffer("covariance", identity)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 channels, height, width) -> the same shape."""
        parts = x.unflatten(1, (2, -1))
        mean, covariance = self.mean, self.covariance
        if self.training:
            mean = parts.mean((0, 3, 4))
            off = parts - mean[..., None, None]
            covariance = torch.einsum("bichw,bjchw->ijc", off, off) / off[:, 0, 0].numel()
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.covariance.lerp_(covariance, self.momentum)
        (rr, ri), (_, ii) = covariance
        rr, ii = rr + self.eps, ii + self.eps
        # The inverse square root of a symmetric 2 x 2 matrix, in closed form.
        root = (rr * ii - ri * ri).sqrt()
        scale = root * (rr + ii + 2 * root).sqrt()
        whiten = torch.stack([torch.stack([ii + root, -ri]), torch.stack([-ri, rr + root])]) / scale
        both = torch.einsum("ijc,jkc->ikc", self.weight, whiten)
        shift = self.bias - torch.einsum("ijc,jc->ic", both, mean)
        out = torch.einsum("ijc,bjchw->bichw", both, parts) + shift[..., None, None]
        return out.flatten(1, 2)


class ComplexUNet(nn.Module):
    """U-Net on stacked maps: per level two 3 x 3 convolutions, each with CReLU and whitening BatchNorm.

    ``width`` channels on the first of ``depth`` levels, twice as many on each further one; average pooling
    down, bilinear and a 1 x 1 convolution up, concatenation across, a last 1 x 1 convolution. Zero padding.
    """

    def __init__(self, cin: int, cout: int, width: int = 32, depth: int = 4):
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList(map(_level, [cin, *widths], widths))
        self.shrink = nn.ModuleList(ComplexConv2d(2 * w, w, 1) for w in widths[:-1])
        self.up = nn.ModuleList(_level(2 * w, w) for w in widths[:-1])
        self.last = ComplexConv2d(width, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 cin, height, width), sides multiples of 2^(depth - 1) -> (batch, 2 cout, ...)."""
        factor = 2 ** (len(self.down) - 1)
        if x.shape[-2] % factor or x.shape[-1] % factor:
            raise ValueError(f"height and width must be multiples of {factor}, got {tuple(x.shape[-2:])}")
        bridges = []
        for level in self.down[:-1]:
            bridges.append(level(x))
            x = avg_pool2d(bridges[-1], 2)
        x = self.down[-1](x)
        for shrink, level, bridge in zip(
            reversed(self.shrink), reversed(self.up), reversed(bridges), strict=True
        ):
            x = shrink(interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
            x = level(_joined(x, bridge))
        return self.last(x)


def _level(cin: int, cout: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for channels in (cin, cout):
        steps += [ComplexConv2d(channels, cout, 3, padding=1), nn.ReLU(), ComplexBatchNorm2d(cout)]
    return nn.Sequential(*steps)


# --- the network ------------------------------------------------------------------------------------------


def real_width(features: int, cin: int, cout: int) -> int:
    """Channels of three real convolutions on stacked maps that have the weights of ``features`` complex ones.

    The nearest whole f with f^2 + 2 (cin + cout) f = 2 features^2 + 2 (cin + cout) features.
    """
    s = cin + cout
    return round(math.sqrt(s * s + 2 * features**2 + 2 * s * features) - s)


class Correction(nn.Module):
    """D or P: three 3 x 3 convolutions on stacked maps, an activation after the first two.

    ``kind`` "complex": complex convolutions and ``CModReLU``. "crelu": relu on both parts instead. "split":
    real weights, half the numbers. "real": real convolutions with as many numbers, and PReLU, as in the
    authors' real blocks. Borders are repeated; ``wrap`` makes the width circular, which the code keeps from
    tomography, where the width is an angle.
    """

    def __init__(self, cin: int, cout: int, features: int, kind: Kind, wrap: bool, bias: bool):
        super().__init__()
        self.wrap = wrap
        width = real_width(features, cin, cout) if kind == "real" else features
        activation: dict[Kind, Callable[[int], nn.Module]] = {
            "complex": CModReLU,
            "crelu": lambda channels: nn.ReLU(),
            "split": CModReLU,
            "real": nn.PReLU,
        }
        convolution = {"real": RealConv2d, "split": SplitConv2d}.get(kind, ComplexConv2d)
        sizes = (2 * cin, width, width, 2 * cout) if kind == "real" else (cin, width, width, cout)
        self.acts = nn.ModuleList(activation[kind](width) for _ in range(2))
        self.convs = nn.ModuleList(convolution(*pair, 3, bias) for pair in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 cin, height, width) -> (batch, 2 cout, height, width)."""
        for conv, act in zip(self.convs, self.acts, strict=False):
            x = act(conv(padded(x, self.wrap)))
        return self.convs[-1](padded(x, self.wrap))


class PrimalDual(nn.Module):
    """The unrolled primal-dual network; the defaults are the authors' PD.

    ``n_primal`` images ``f`` and ``n_dual`` k-spaces ``h`` are corrected ``iters`` times, each time by
    weights of its own. ``primal`` is "conv", or "unet" for PDUNet, whose first level then has ``features``
    channels. ``f`` starts at 0, or with ``zero_filled`` at the zero-filled image; ``h`` at 0. Corrections
    enter with a learnt weight per channel that starts at 1 for D and at ``primal_weight`` for P.

    ``domains`` "image" leaves the Fourier transforms between f and h out: D corrects images, with as many
    weights, and m is the largest modulus of the zero-filled one. Raises ``ValueError`` for sizes < 1 and
    unknown names.
    """

    def __init__(
        self,
        n_primal: int = 5,
        n_dual: int = 5,
        iters: int = 10,
        features: int = 32,
        primal: Literal["conv", "unet"] = "conv",
        kind: Kind = "complex",
        domains: Domains = "both",
        zero_filled: bool = False,
        primal_weight: float = torch.finfo(torch.float32).eps,
        bias: bool = True,
    ):
        super().__init__()
        at_least(1, n_primal=n_primal, n_dual=n_dual, iters=iters, features=features)
        one_of(("conv", "unet"), primal=primal)
        one_of(get_args(Kind), kind=kind)
        one_of(get_args(Domains), domains=domains)
        if primal == "unet" and kind != "complex":
            raise ValueError(f"kind must be 'complex' with primal = 'unet', got {kind!r}")
        self.n_primal, self.n_dual, self.iters = n_primal, n_dual, iters
        self.domains, self.zero_filled = domains, zero_filled
        self.dual, self.primal = nn.ModuleList(), nn.ModuleList()
        self.w_dual, self.w_primal = nn.ParameterList(), nn.ParameterList()
        # A complex weight per channel, or a real one per stacked channel.
        parts = 1 if kind == "real" else 2
        for _ in range(iters):
            self.dual.append(Correction(n_dual + 2, n_dual, features, kind, wrap=True, bias=bias))
            self.w_dual.append(_weight(parts, n_dual, 1.0))
            self.primal.append(
                ComplexUNet(n_primal + 1, n_primal, features)
                if primal == "unet"
                else Correction(n_primal + 1, n_primal, features, kind, wrap=False, bias=bias)
            )
            self.w_primal.append(_weight(parts, n_primal, primal_weight))

    def forward(self, g: Tensor) -> Tensor:
        """K-space (batch, 2, height, width), 0 where nothing was measured -> image, the same shape."""
        image = _transformed(ifftc, g)
        forth, back = (fftc, ifftc) if self.domains == "both" else (_unchanged, _unchanged)
        seen = g if self.domains == "both" else image
        m = seen.square().sum(-3, keepdim=True).amax((-2, -1), keepdim=True).sqrt()
        f = _repeated(image if self.zero_filled else torch.zeros_like(image), self.n_primal)
        h = _repeated(torch.zeros_like(g), self.n_dual)
        for i in range(self.iters):
            spectrum = _transformed(forth, _mean(f)) / m
            h = h + _weighted(self.w_dual[i], self.dual[i](_joined(h, spectrum, seen / m)))
            f = f + _weighted(self.w_primal[i], self.primal[i](_joined(f, _transformed(back, _mean(h)) * m)))
        return _mean(f)


def phase_equivariance(net: nn.Module, g: Tensor, phi: float) -> float:
    """How far ``net`` is from turning its image by ``phi`` rad with its data: largest error / largest output.

    ``g``: (batch, 2, height, width), stacked. A receiver's phase is arbitrary, so it should be 0.
    """
    turn = torch.polar(torch.ones((), dtype=g.dtype), torch.tensor(phi, dtype=g.dtype))
    with torch.no_grad():
        straight = net(g)
        turned = net(stacked(turn * unstacked(g)))
        return float((stacked(turn * unstacked(straight)) - turned).abs().max() / straight.abs().max())


def _weight(parts: int, channels: int, value: float) -> nn.Parameter:
    weight = torch.zeros(2, channels, 1, 1)
    weight[:1] = value
    return nn.Parameter(weight if parts == 2 else torch.full((2 * channels, 1, 1), value))


def _weighted(weight: Tensor, x: Tensor) -> Tensor:
    if weight.ndim == 3:
        return weight * x
    (re, im), (a, b) = weight, x.chunk(2, -3)
    return torch.cat([re * a - im * b, re * b + im * a], -3)


def _mean(x: Tensor) -> Tensor:
    return x.unflatten(-3, (2, -1)).mean(-3)


def _repeated(x: Tensor, channels: int) -> Tensor:
    return x.repeat_interleave(channels, -3)


def _joined(*maps: Tensor) -> Tensor:
    """Stacked maps side by side, and stacked again: all real parts first."""
    halves = [x.chunk(2, -3) for x in maps]
    return torch.cat([re for re, _ in halves] + [im for _, im in halves], -3)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _transformed(transform: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return stacked(transform(unstacked(x)))
