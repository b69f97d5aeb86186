"""HIR-Diff: a hyperspectral image as three of its own bands, which a diffusion model for colours samples.

Pang, Rui, Cui, Wang, Meng and Cao, "HIR-Diff: Unsupervised Hyperspectral Image Restoration Via Improved
Diffusion Models", arXiv 2402.15865, CVPR 2024; its code, LiPang/HIRDiff, was read and is not copied. A cube
of C bands is E A: a matrix E (C, 3), estimated beforehand, times a reduced image A of three of the bands. A
is sampled with 20 steps of DDIM, each of which also descends a guidance of fidelity and total variation.

Implemented: strong rank-revealing QR, the coefficient matrix, the three noise schedules, the guidance of the
three tasks, the sampler; cubes made of photographs; a small denoiser. fourfold's own are the rivals: a
stationary Gaussian prior, as a denoiser and as the posterior mean of a whole task, and the guidance alone.

Departures. The denoiser is a Wiener filter with a learnt local shrinkage, for photographs, not a large
network for satellite images. Bicubic reduction treats borders as torch does. In denoising the code weights
spectral differences by what would be 0/0 but for rounding; here those weights are 1 (``edge_weights``).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from scipy.fft import dct
from torch import Tensor, nn
from torch.func import vjp
from torch.nn.functional import conv2d, conv_transpose2d, pad

from fourfold import checks
from fourfold.data.image_pairs import enlarge, shrink

TASKS = ("denoise", "sr", "inpainting")
SCHEDULES = ("exp", "linear", "cosine")
FACTOR = 4
"""Of super-resolution."""
ETA1, ETA2, SIDE = 256 * 64, 8 * 64, 256
"""The code multiplies its two weights by these, for cubes of 256 x 256 pixels."""

Denoiser = Callable[[Tensor, float], Tensor]
"""The noise in x_t: images (n, 3, h, w) in -1..1 and the level alpha-bar in (0, 1] -> (n, 3, h, w)."""


# --- three bands and a matrix -----------------------------------------------------------------------------


class Selected(NamedTuple):
    """What strong rank-revealing QR found."""

    columns: list[int]
    """The k columns, in the order of their pivots."""
    dependence: Tensor
    """The other columns in terms of these: R11^-1 R12, (k, n - k)."""
    swaps: int
    """Exchanges after the pivoted QR."""


def right_singular(cube: Tensor, rank: int = 3) -> Tensor:
    """The first right singular vectors of pixels x bands, (C, h, w) -> V (C, rank), in float64."""
    checks.between(1, len(cube), "the bands", rank=rank)
    pixels = rearrange(cube.double(), "c h w -> (h w) c")
    return torch.linalg.svd(pixels, full_matrices=False).Vh[:rank].T


def pivots(A: Tensor, k: int) -> list[int]:
    """The first k pivots of QR with column pivoting (Businger and Golub), and then the other columns.

    Each is the column of A (m, n) with most left after what lies along the earlier ones is taken off.
    """
    left = A.clone()
    order: list[int] = []
    for _ in range(k):
        chosen = int(left.norm(dim=0).argmax())
        unit = left[:, chosen] / left[:, chosen].norm()
        left = left - torch.outer(unit, unit @ left)
        left[:, [*order, chosen]] = 0
        order.append(chosen)
    return order + [column for column in range(A.shape[1]) if column not in order]


def strong_rrqr(A: Tensor, k: int, f: float = 1.2) -> Selected:
    """k columns of A (m, n) that span it well: algorithm 4 of Gu and Eisenstat (1996).

    From pivoted QR on, a column of the k and one of the others change places while that multiplies the volume
    of the k by more than f. Raises ``ValueError`` for f < 1 and for k outside 1..min(m, n).
    """
    checks.between(1, min(A.shape), "the smaller side of A", k=k)
    checks.finite(1, f=f)
    order, swaps = pivots(A, k), 0
    while True:
        R = torch.linalg.qr(A[:, order]).R
        inverse = torch.linalg.inv(R[:k, :k])
        dependence = inverse @ R[:k, k:]
        volume = dependence.square() + torch.outer(inverse.norm(dim=1), R[k:, k:].norm(dim=0)).square()
        larger = (volume > f * f).T.nonzero()
        if not len(larger):
            return Selected(order[:k], dependence, swaps)
        j, i = larger[0].tolist()
        order[i], order[k + j] = order[k + j], order[i]
        swaps += 1


def equal_interval(bands: int, rank: int = 3) -> list[int]:
    """The code's alternative: bands at equal distance, such as 7, 15, 23 of 31."""
    checks.between(1, bands - 1, "the bands but one", rank=rank)
    return [bands * i // (rank + 1) for i in range(1, rank + 1)]


def coef_matrix(V: Tensor, bands: list[int]) -> Tensor:
    """E = V V_B^-1, (C, k): every band in terms of the bands B. E_B = I, so that the reduced image is X_B.

    Raises ``ValueError`` unless there are k different bands.
    """
    if len(set(bands)) != V.shape[1] or not all(0 <= band < len(V) for band in bands):
        raise ValueError(f"bands must be {V.shape[1]} different ones in 0..{len(V) - 1}, got {bands}")
    return V @ torch.linalg.inv(V[bands])


def expand(E: Tensor, reduced: Tensor) -> Tensor:
    """The cube of a reduced image: (C, k) and (k, h, w) -> (C, h, w)."""
    return torch.einsum("ck,khw->chw", E.to(reduced), reduced)


def reduce(E: Tensor, cube: Tensor) -> Tensor:
    """The reduced image nearest to a cube by least squares: (C, k) and (C, h, w) -> (k, h, w)."""
    return expand(torch.linalg.pinv(E), cube)


# --- cubes and what damages them --------------------------------------------------------------------------


def make_hsi(rgb: Tensor, bands: int = 31, fourth: float = 0.01) -> Tensor:
    """A cube (bands, h, w) made of a photograph (3, h, w) in 0..1: a made-up image, no measured one.

    Red, green and blue have Gaussian spectra; ``fourth`` is the strength of one more spectrum, of brightness,
    so that rank 3 is not exact. The spectra of a white pixel add up to 1 at most.
    Raises ``ValueError`` for fewer than four bands.
    """
    checks.at_least(4, bands=bands)
    checks.finite(fourth=fourth)
    place = torch.linspace(0, 1, bands, dtype=torch.float64)[:, None]
    spectra = torch.exp(-(((place - torch.tensor([0.15, 0.5, 0.85])) / 0.18) ** 2) / 2)
    cube = expand(spectra / spectra.sum(1).max(), rgb)
    wave = torch.sin(6 * math.pi * place[:, :, None]).to(rgb)
    return (cube + fourth * wave * (rgb.mean(0) - 0.5)).clamp(0, 1)


class Seen(NamedTuple):
    """What is left of a cube."""

    task: str
    """One of ``TASKS``."""
    image: Tensor
    """Noisy: (C, h, w), or (C, h/4, w/4) in super-resolution; 0 where the mask is."""
    mask: Tensor | None = None
    """1 where an entry was seen, else 0; in inpainting only."""

    def degrade(self, cube: Tensor) -> Tensor:
        """What a cube (C, h, w) would look like without noise, masked entries too."""
        if self.task != "sr":
            return cube
        width = math.sqrt(FACTOR**2 / (8 * math.log(2)))
        bell = torch.exp(-(torch.arange(-4, 5).to(cube) ** 2) / (2 * width**2))
        blurred = pad(cube[:, None], (4,) * 4)
        for taps in (bell[:, None], bell[None]):
            blurred = conv2d(blurred, taps[None, None] / bell.sum())
        return shrink(blurred[:, 0], FACTOR)


def damage(task: str, cube: Tensor, sigma: float, generator: torch.Generator, keep: float = 0.2) -> Seen:
    """Degrade a cube (C, h, w), add noise of standard deviation ``sigma``, and, in inpainting, keep a share.

    A pixel is kept or lost in all bands. Raises ``ValueError`` for another task, a negative sigma, a share
    outside (0, 1], and, in super-resolution, sides that 4 does not divide.
    """
    checks.one_of(TASKS, task=task)
    checks.finite(sigma=sigma)
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    seen = Seen(task, cube).degrade(cube)
    seen = seen + sigma * torch.randn(seen.shape, generator=generator).to(seen)
    if task != "inpainting":
        return Seen(task, seen)
    mask = (torch.rand(seen.shape[1:], generator=generator) < keep).to(seen).expand_as(seen)
    return Seen(task, seen * mask, mask)


def start(seen: Seen, E: Tensor) -> Tensor:
    """The simplest reduced image (3, h, w) of what was seen: least squares on E.

    Of a small image it is enlarged bicubically; missing entries are first filled with a Gaussian mean around.
    """
    if seen.task == "sr":
        return enlarge(reduce(E, seen.image), FACTOR)
    if seen.mask is None:
        return reduce(E, seen.image)
    bell = torch.exp(-(torch.arange(-4, 5).to(seen.image) ** 2) / 2)
    kernel = torch.outer(bell, bell)[None, None]
    known, weight = (conv2d(part[:, None], kernel, padding=4)[:, 0] for part in (seen.image, seen.mask))
    return reduce(E, known / weight.clamp(min=1e-6))


# --- schedules --------------------------------------------------------------------------------------------


def alpha_bar(kind: str, T: int = 1000, k: float = 8.0) -> Tensor:
    """Share of the image in x_t, from 1 at t = 0: (T + 1,), float64; ``k`` bends the exponential one.

    Raises ``ValueError`` for another kind, T < 1 or k <= 0.
    """
    checks.one_of(SCHEDULES, kind=kind)
    checks.at_least(1, T=T)
    checks.finite(above=True, k=k)
    t = torch.arange(T + 1, dtype=torch.float64) / T
    if kind == "exp":
        return (1 - torch.exp(-k * (1 - t))) / (1 - math.exp(-k)) * (1 - 1e-3) + 1e-3
    if kind == "linear":
        betas = torch.linspace(1e-6, 1e-2, T, dtype=torch.float64)
    else:
        cosine = torch.cos(math.pi / 2 * t).square()
        betas = (1 - cosine[1:] / cosine[:-1]).clamp(max=0.999)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


def levels(bars: Tensor, steps: int, first: float | None = None) -> list[float]:
    """The levels that a sampler visits: ``steps`` of bars (T + 1,), equally spaced, t falling, and then 1.

    As the code has it they begin at t = T - T/steps + 1; with ``first`` at the last t of at least that level
    instead. Raises ``ValueError`` unless steps divide T.
    """
    T = len(bars) - 1
    checks.divides(T, "T", steps=steps)
    begin = T - T // steps + 1 if first is None else int((bars >= first).nonzero()[-1])
    visited = torch.linspace(begin, 1, steps, dtype=torch.float64).round().long()
    return [*bars[visited].tolist(), 1.0]


# --- guidance and sampler ---------------------------------------------------------------------------------


def differences(x: Tensor, circular: bool) -> list[Tensor]:
    """Forward differences of (C, h, w) along h, w and C; circular ones also from the last to the first."""
    if circular:
        return [x.roll(-1, axis) - x for axis in (1, 2, 0)]
    return [x.diff(dim=axis) for axis in (1, 2, 0)]


def edge_weights(cube: Tensor) -> list[Tensor]:
    """Weights (1, h, w) of total variation in denoising: along h and w, small at edges of its rank-3 part; 1.

    The 1 is for differences along the bands, where the code has a function of their mean over all bands: they
    are circular, so that it is zero up to rounding.
    """
    V = right_singular(cube).to(cube)
    slopes = [d.mean(0, keepdim=True).abs() for d in differences(expand(V @ V.T, cube), True)[:2]]
    # Half the code's max / (slope + max / 2), which is 2 where there is no slope.
    weights = [0.5 / (slope / slope.max().clamp(min=1e-12) + 0.5) for slope in slopes]
    return [*weights, torch.ones_like(weights[0])]


def guidance_loss(
    cube: Tensor, seen: Seen, eta1: float, eta2: float, weights: list[Tensor] | None = None
) -> Tensor:
    """eta1 times the mean squared misfit to what was seen, plus eta2 times the mean absolute differences.

    ``cube`` (C, h, w); ``weights`` of the differences along h, w and C. As in the code, the misfit of a small
    image, too, is divided by the entries of the cube, and that of a masked one by the entries seen.
    """
    misfit = seen.image - seen.degrade(cube)
    if seen.mask is None:
        fidelity = misfit.square().sum() / cube.numel()
    else:
        fidelity = (seen.mask * misfit).square().sum() / seen.mask.sum()
    steps = differences(cube, circular=seen.mask is None)
    if weights is not None:
        steps = [weight * step for weight, step in zip(weights, steps, strict=True)]
    return eta1 * fidelity + eta2 * sum(step.abs().mean() for step in steps)


def restore(
    seen: Seen, E: Tensor, denoiser: Denoiser, bars: list[float], eta1: float, eta2: float, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample a reduced image from ``noise`` (3, h, w) along ``levels``: its cube, and each step's guess,
    (steps, 3, h, w) in 0..1. The etas are the code's command line's, scaled to the size of the image."""
    scale = noise[0].numel() / SIDE**2
    eta1, eta2 = eta1 * ETA1 * scale, eta2 * ETA2 * scale
    weights = edge_weights(seen.image) if seen.task == "denoise" else None
    x, guesses = noise, []
    for now, then in pairwise(bars):
        x = x.detach().requires_grad_()
        eps = denoiser(x[None], now)[0]
        clean = ((x - math.sqrt(1 - now) * eps) / math.sqrt(now)).clamp(-1, 1)
        cube = expand(E, (clean + 1) / 2)
        (slope,) = torch.autograd.grad(guidance_loss(cube, seen, eta1, eta2, weights), x)
        x = math.sqrt(then) * clean + math.sqrt(1 - then) * eps - slope
        guesses.append((clean.detach() + 1) / 2)
    return expand(E, (x.detach() + 1) / 2).clamp(0, 1), torch.stack(guesses)


# --- denoisers --------------------------------------------------------------------------------------------


class Gaussian(NamedTuple):
    """A stationary Gaussian prior of images (3, h, w) in -1..1, periodic at their borders."""

    mean: Tensor
    """(3, 1, 1)."""
    power: Tensor
    """Eigenvalues of the channels' covariance at each frequency of ``fft2(norm="ortho")``, (h, w, 3)."""
    vectors: Tensor
    """Its eigenvectors, (h, w, 3, 3), complex."""

    def filtered(self, x: Tensor, gain: Tensor) -> Tensor:
        """Images (n, 3, h, w), each component of each frequency times its ``gain`` (..., h, w, 3)."""
        waves = torch.einsum("hwji,njhw->nhwi", self.vectors.conj(), torch.fft.fft2(x.to(self.power)))
        return torch.fft.ifft2(torch.einsum("hwij,nhwj->nihw", self.vectors, gain * waves)).real.to(x)

    def denoise(self, x: Tensor, level: Tensor | float) -> Tensor:
        """A ``Denoiser``, for levels (n, 1, 1, 1) too: the exact E[noise | x_t], which is a Wiener filter."""
        level = torch.as_tensor(level, dtype=self.power.dtype)
        rest = x - level.sqrt() * self.mean
        return self.filtered(rest, (1 - level).sqrt() / (level * self.power + 1 - level)).to(x)


def gaussian_prior(crops: Tensor) -> Gaussian:
    """The prior with the mean and the mean spectrum of crops (n, 3, h, w) in 0..1, in their precision."""
    images = 2 * crops.double() - 1
    mean = images.mean((0, 2, 3))[:, None, None]
    waves = torch.fft.fft2(images - mean, norm="ortho")
    power, vectors = torch.linalg.eigh(torch.einsum("nihw,njhw->hwij", waves, waves.conj()) / len(crops))
    complex_too = torch.complex64 if crops.dtype == torch.float32 else torch.complex128
    return Gaussian(mean.to(crops), power.clamp(min=0).to(crops), vectors.to(complex_too))


class Shrinkage(nn.Module):
    """What a Wiener filter got wrong, seen in overlapping cosine transforms of 8 x 8 pixels.

    A coefficient of the filtered image is shrunk, and one of the noise that the filter took off is put back,
    each by a share that depends on its place among 3 x 64, on both magnitudes and on the noise level: a
    logistic curve of four numbers, which are all that is learnt, 1536 in all. Sides must be even.
    """

    SIDE, STRIDE = 8, 2
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        cosines = torch.tensor(dct(np.eye(self.SIDE), norm="ortho", axis=0))
        colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
        colours = colours / colours.norm(dim=1, keepdim=True)
        filters = torch.einsum("ab,ui,vj->auvbij", colours, cosines, cosines).reshape(-1, 3, *cosines.shape)
        self.register_buffer("filters", filters.to(torch.get_default_dtype()), persistent=False)
        start = torch.tensor([[3.0, 0, 0, 0], [-3, 0, 0, 0]])[..., None].expand(-1, -1, len(filters))
        self.curves = nn.Parameter(start.clone())

    def forward(self, told: Tensor) -> Tensor:
        """Noise by the filter, its image, the logit of alpha-bar everywhere: (n, 7, h, w) -> (n, 3, h, w)."""
        height, width = told.shape[2:]
        margin = self.SIDE - self.STRIDE
        level = told[:, 6:, :1, :1]
        part, rest = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
        noise, image = (
            conv2d(pad(x, (margin,) * 4, mode="reflect"), self.filters, stride=self.STRIDE)
            for x in (told[:, :3], told[:, 3:6])
        )
        sizes = torch.log((part / rest * image).square() + 0.1), torch.log(noise.square() + 0.1)
        kept, returned = (
            torch.sigmoid(a + b * sizes[0] + c * sizes[1] + d * level)
            for a, b, c, d in self.curves[..., None, None]
        )
        change = (kept - 1) * image / rest + returned * noise / part
        spread = conv_transpose2d(change, self.filters, stride=self.STRIDE) * (self.STRIDE / self.SIDE) ** 2
        return spread[..., margin : margin + height, margin : margin + width]


def _told(x: Tensor, level: Tensor, prior: Gaussian) -> Tensor:
    """What a ``Shrinkage`` is told of x_t (n, 3, h, w) at levels (n, 1, 1, 1)."""
    eps = prior.denoise(x, level)
    guess = (x - (1 - level).sqrt() * eps) / level.sqrt()
    logit = torch.logit(level.double()).to(x)
    return torch.cat([eps, guess, logit.expand(-1, 1, *x.shape[2:])], 1)


def denoiser_of(net: nn.Module, prior: Gaussian) -> Denoiser:
    """The Wiener filter and what a ``Shrinkage`` has learnt to add to it."""

    def denoise(x: Tensor, level: float) -> Tensor:
        told = _told(x, torch.full((len(x), 1, 1, 1), level, dtype=torch.float64).to(x), prior)
        return told[:, :3] - math.sqrt(level) * net(told)

    return denoise


def lessons(crops: Tensor, prior: Gaussian, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What a ``Shrinkage`` learns from crops (n, 3, h, w) in 0..1: inputs (n, 7, h, w), targets (n, 3, h, w).

    The target is the filter's error over the noise's share of x_t. The logit of alpha-bar is drawn from
    -6..6; half of the crops are mirrored.
    """
    level, turned = torch.rand(2, len(crops), 1, 1, 1, dtype=crops.dtype, generator=generator)
    clean = 2 * torch.where(turned < 0.5, crops.flip(-1), crops) - 1
    level = torch.sigmoid(12 * level - 6)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    told = _told(level.sqrt() * clean + (1 - level).sqrt() * noise, level, prior)
    return told, (told[:, :3] - noise) / level.sqrt()


# --- what is cheaper --------------------------------------------------------------------------------------


def posterior_mean(seen: Seen, E: Tensor, prior: Gaussian, sigma: float, rounds: int = 40) -> Tensor:
    """The mean reduced image (3, h, w) in 0..1 given what was seen, by conjugate gradients. No sampling."""
    weight = (1 if seen.mask is None else seen.mask) / sigma
    white = torch.zeros(1, 3, *prior.power.shape[:2]).to(seen.image)
    middle = ((prior.mean + 1) / 2).to(white).expand_as(white[0])

    def coloured(white: Tensor) -> Tensor:
        return prior.filtered(white, prior.power.sqrt())[0] / 2

    def ahead(white: Tensor) -> Tensor:
        return weight * seen.degrade(expand(E, coloured(white)))

    back = vjp(ahead, white)[1]
    rest = back(weight * (seen.image - seen.degrade(expand(E, middle))))[0]
    step, power = rest, rest.square().sum()
    enough = 1e-24 * power
    while power > enough and rounds:
        rounds -= 1
        curved = step + back(ahead(step))[0]
        length = power / (step * curved).sum()
        white, rest = white + length * step, rest - length * curved
        power, before = rest.square().sum(), power
        step = rest + power / before * step
    return middle + coloured(white)


def guidance_alone(
    seen: Seen, E: Tensor, begin: Tensor, weight: float, steps: int = 100, rate: float = 0.02
) -> Tensor:
    """The reduced image (3, h, w) that Adam finds from ``begin`` for the guidance alone.

    Low rank and total variation without diffusion; ``weight`` is eta2 over eta1. The rate falls to 0.
    """
    weights = edge_weights(seen.image) if seen.task == "denoise" else None
    reduced = begin.clone().requires_grad_()
    optimizer = torch.optim.Adam([reduced], rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * math.cos(math.pi / 2 * step / steps) ** 2
        optimizer.zero_grad()
        guidance_loss(expand(E, reduced), seen, 1.0, weight, weights).backward()
        optimizer.step()
    return reduced.detach()


def one_pass(begin: Tensor, denoiser: Denoiser, level: float) -> Tensor:
    """The denoiser's guess of the clean image behind ``begin`` (3, h, w) in 0..1, taken at this level."""
    x = math.sqrt(level) * (2 * begin - 1)[None]
    with torch.no_grad():
        clean = (x - math.sqrt(1 - level) * denoiser(x, level)) / math.sqrt(level)
    return (clean[0].clamp(-1, 1) + 1) / 2


def mpsnr(restored: Tensor, clean: Tensor) -> float:
    """Mean over bands of the peak signal-to-noise ratio of cubes (C, h, w), dB; peak 1, borders included."""
    error = (restored.double().clamp(0, 1) - clean.double()).square().mean((1, 2))
    return float((-10 * error.log10()).mean())
