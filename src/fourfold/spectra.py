"""How much of a map lives at which spatial frequency: the one instrument for every claim about frequencies.

Maps are (..., height, width), real or complex, on any device; half precision and integers are measured in
float32. Frequencies are in cycles per pixel, so that Nyquist is 0.5 whatever the size; the corner of the
frequency square lies at sqrt(1/2). Frequency axes are in the order of ``torch.fft``, zero first.
Values stay on the maps' device; the frequencies that go with them are on the CPU.

Normalisation: the powers of all frequencies sum to the mean square of the map (Parseval), and the amplitude
at zero frequency is the absolute mean. A cosine of amplitude a has amplitude a/2 and power a^2/4 at each of
its two frequencies.

A finite map leaks power along both axes unless it happens to be periodic. The Hann window stops that, at the
price of resolution: a cosine spreads over 3 x 3 frequencies. Windowed amplitudes are divided by the mean of
the window (coherent gain), windowed powers by its mean square (noise gain): a cosine keeps its amplitude,
noise keeps its power, and no single number does both (Harris 1978). Subtract the mean first: it spreads too.

Rings are those of equal width around multiples of their width, the first one half a ring: on an n x n map the
default is one ring per rounded radius k = 0 .. n//2. The corners beyond the last ring belong to none.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Window = Literal["hann"]
Quantity = Literal["amplitude", "power"]

TIE = 1e-9
"""Cycles per pixel, far below any spacing: a frequency on the edge of a band counts to the band above."""


# --- per frequency ----------------------------------------------------------------------------------------


def amplitude(x: Tensor, window: Window | None = None) -> Tensor:
    """|FFT2| of maps (..., H, W) over H W, per frequency: (..., H, W), real.

    With a window: over the sum of the window, so that the peak of a cosine stays at half its amplitude.
    """
    x, weights = _windowed(x, window)
    return torch.fft.fft2(x).abs() / weights.sum()


def power(x: Tensor, window: Window | None = None) -> Tensor:
    """Share of each frequency in the mean square of maps (..., H, W): (..., H, W), real.

    Sums to the mean square of the map. With a window w: to the mean of (w x)^2 over the mean of w^2.
    """
    x, weights = _windowed(x, window)
    spectrum = torch.view_as_real(torch.fft.fft2(x)).square().sum(-1)
    return spectrum / (weights.numel() * weights.square().sum())


def frequencies(height: int, width: int) -> Tensor:
    """Radial frequency of each entry of an FFT2 in cycles per pixel: (height, width), float64."""
    return torch.hypot(*_axes(height, width))


def transfer_function(
    system: Tensor | Callable[[Tensor], Tensor],
    size: int | tuple[int, int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Frequency response of a filter on a size x size or (height, width) grid: (..., height, width), complex.

    ``system`` is a kernel (..., kh, kw) as ``conv2d`` takes it, its origin at (kh//2, kw//2); or a function
    (1, 1, height, width) -> (1, c, height, width) that is linear and shift-invariant up to a constant (a bias
    drops out), measured by its response to an impulse of ``dtype`` on ``device`` (torch's defaults) in the
    middle, far from what it does at the border.
    Raises ``ValueError`` if the kernel is larger than the grid or the function changes the size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if isinstance(system, Tensor):
        kh, kw = _size("a kernel", system)
        if kh > height or kw > width:
            raise ValueError(f"kernel must fit in the grid of {height} x {width}, got {kh} x {kw}")
        taps = pad(_floating(system), (0, width - kw, 0, height - kh))
        # conv2d correlates: it mirrors the kernel about its origin, which mirrors the exponent's sign.
        return torch.fft.ifft2(taps.roll((-(kh // 2), -(kw // 2)), (-2, -1)), norm="forward")
    silence = torch.zeros(1, 1, height, width, dtype=dtype, device=device)
    impulse = silence.clone()
    impulse[..., height // 2, width // 2] = 1
    response = system(impulse) - system(silence)
    if response.shape[-2:] != (height, width):
        raise ValueError(f"system must keep the size {height} x {width}, got {tuple(response.shape)}")
    return torch.fft.fft2(response[0].roll((-(height // 2), -(width // 2)), (-2, -1)))


# --- rings, bands, aliasing -------------------------------------------------------------------------------


def radial(
    x: Tensor, quantity: Quantity = "amplitude", window: Window | None = None, bins: int | None = None
) -> tuple[Tensor, Tensor]:
    """Mean amplitude or power per frequency in rings: (bins,) in cycles per pixel, and (..., bins).

    Rings are 1/n wide, n the shorter side of the maps (..., H, W); with ``bins`` there are that many, the
    last one around Nyquist. The value is a mean over the ring, so that white noise is flat; ``band_energy``
    is the power in a ring. Raises ``ValueError`` for bins outside 2 .. n//2 + 1: more rings would stay empty.
    """
    if quantity not in ("amplitude", "power"):
        raise ValueError(f"quantity must be 'amplitude' or 'power', got {quantity!r}")
    height, width = _size("x", x)
    shorter = min(height, width)
    most = shorter // 2 + 1
    if bins is not None and not 2 <= bins <= most:
        raise ValueError(f"bins must be in 2..{most} for maps of {height} x {width}, got {bins}")
    spacing = 1 / shorter if bins is None else 0.5 / (bins - 1)
    bins = bins or most
    ring = (frequencies(height, width) / spacing + 0.5 + TIE).long()
    member = torch.stack([(ring == k).flatten() for k in range(bins)], dim=-1).double()
    values = (amplitude if quantity == "amplitude" else power)(x, window)
    means = values.flatten(-2) @ (member / member.sum(0)).to(values)
    return torch.arange(bins, dtype=torch.float64) * spacing, means


def rel_log_amplitude(features: Tensor | Sequence[Tensor]) -> Tensor:
    """Relative log amplitude of feature maps (..., g, g): (g//2 + 1,), ring by ring; 0 at ring 0.

    log A(k) - log A(0), natural logarithm, with A(k) the mean of |FFT2| over the batch, the channels and the
    ring of rounded radius k, at k/g cycles per pixel. For a sequence of feature maps, one per layer:
    (depth, g//2 + 1).
    Raises ``ValueError`` for maps that are not square, and where A(0) is zero up to rounding, as after an
    instance norm, so that nothing is left to compare with.
    """
    if not isinstance(features, Tensor):
        return torch.stack([rel_log_amplitude(layer) for layer in features])
    height, width = _size("features", features)
    if height != width:
        raise ValueError(f"features must be square maps (..., g, g), got {tuple(features.shape)}")
    mean = radial(features)[1].reshape(-1, height // 2 + 1).mean(0)
    if not mean[0] > 10 * torch.finfo(mean.dtype).eps * mean.max():
        raise ValueError(
            f"features must have a mean to compare with, got A(0) = {mean[0]:.3g} of {mean.max():.3g}"
        )
    return (mean / mean[0]).log()


def band_energy(x: Tensor, edges: Sequence[float], window: Window | None = None) -> Tensor:
    """Share of each radial band in the power of maps (..., H, W): (..., len(edges) - 1).

    Band i holds edges[i] <= frequency < edges[i+1], in cycles per pixel; the last band its upper edge too.
    All power counts in the total, so edges from 0 to 0.71 give shares that sum to 1; subtract the mean from x
    to leave it out. NaN for a map without power.
    Raises ``ValueError`` unless edges are two or more increasing numbers >= 0.
    """
    bounds = torch.tensor(edges, dtype=torch.float64)
    if len(bounds) < 2 or not (bounds[0] >= 0 and (bounds.diff() > 0).all()):
        raise ValueError(f"edges must be two or more increasing numbers >= 0, got {list(edges)}")
    bounds = bounds - TIE
    bounds[-1] += 2 * TIE
    energy = power(x, window)
    radius = frequencies(*_size("x", x)).flatten()[:, None]
    member = ((radius >= bounds[:-1]) & (radius < bounds[1:])).to(energy)
    return energy.flatten(-2) @ member / energy.sum((-2, -1))[..., None]


def centroid(x: Tensor, window: Window | None = None) -> Tensor:
    """Mean radial frequency of maps (batch, channels, H, W), weighted by power: (batch,), cycles per pixel.

    Each channel's mean is taken off first, and channels are added before dividing. NaN for constant maps.
    Raises ``ValueError`` for x of another rank.
    """
    if x.ndim != 4:
        raise ValueError(f"x must be (batch, channels, height, width), got {tuple(x.shape)}")
    x = _floating(x)
    energy = power(x - x.mean((-2, -1), keepdim=True), window).sum(1)
    return (energy * frequencies(*_size("x", x)).to(energy)).sum((-2, -1)) / energy.sum((-2, -1))


def alias_ratio(x: Tensor, stride: int) -> Tensor:
    """Share of the power of maps (B, C, H, W) that folds when every ``stride``-th pixel is kept: (B,).

    Power at max(|fx|, |fy|) > 1/(2 stride), the Nyquist limit of the smaller map, over all power but that of
    each channel's mean; channels are added before dividing. The limit itself does not count. NaN for constant
    maps. Raises ``ValueError`` for a stride < 1 or x of another rank.
    """
    if x.ndim != 4:
        raise ValueError(f"x must be (batch, channels, height, width), got {tuple(x.shape)}")
    if stride < 1:
        raise ValueError(f"stride must be >= 1, got {stride}")
    x = _floating(x)
    energy = power(x - x.mean((-2, -1), keepdim=True)).sum(1)
    limit = 1 / (2 * stride) + TIE
    fy, fx = _axes(*_size("x", x))
    folds = ((fy.abs() > limit) | (fx.abs() > limit)).to(energy)
    return (energy * folds).sum((-2, -1)) / energy.sum((-2, -1))


# --- figures ----------------------------------------------------------------------------------------------


def _axes(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Signed frequencies along the rows (height, 1) and the columns (1, width), float64."""
    fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    return fy[:, None], fx[None]


def _size(name: str, x: Tensor) -> tuple[int, int]:
    if x.ndim < 2 or not x.numel():
        raise ValueError(f"{name} must hold maps (..., height >= 1, width >= 1), got {tuple(x.shape)}")
    return x.shape[-2], x.shape[-1]


def _floating(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128) else x.float()


def _windowed(x: Tensor, window: Window | None) -> tuple[Tensor, Tensor]:
    """The maps times the window, and the window (height, width)."""
    height, width = _size("x", x)
    x = _floating(x)
    if window is None:
        return x, x.real.new_ones(height, width)
    if window != "hann":
        raise ValueError(f"window must be None or 'hann', got {window!r}")
    column, row = (torch.hann_window(n, dtype=x.real.dtype, device=x.device) for n in (height, width))
    weights = torch.outer(column, row)
    return x * weights, weights
