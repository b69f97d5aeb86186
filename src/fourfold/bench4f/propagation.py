"""The 4f bench, field by field: free space, thin lenses, apertures, and what goes wrong with them.

Planes: display -f- lens -f- filter -f- lens -f- camera, all on one n x n grid. Sources: Goodman, Introduction
to Fourier Optics, for the formulas; FatNet (arXiv 2210.16914) for the grid, one propagation per focal length
at the critical pitch sqrt(wavelength focal / n).

At that pitch, for even n, free space is exp(-i pi k^2 / n) over frequencies, a lens exp(-i pi x^2 / n) over
pixels. The three chirps between two focal planes then make, exactly, the unitary DFT centred on pixel n // 2,
times exp(-i pi / 2) (Gauss sums). Two lenses turn the picture by 180 degrees: `upright` turns it back.

Lengths are in metres. A length may be a tensor: every function is differentiable in each of them. The phase
exp(i k z) that all of a plane shares is left out. Fields are complex, (..., n, n), pixel n // 2 the middle.
"""

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

WAVELENGTH, FOCAL = 532e-9, 10e-3
"""FatNet's green light and focal length."""

Length = float | Tensor


class ParaxialWarning(UserWarning):
    """The bench is simulated in an approximation that does not hold at its size."""


def critical_pitch(n: int, wavelength: Length, focal: Length) -> Tensor:
    """The pixel pitch at which a lens is a DFT of n points: sqrt(wavelength focal / n)."""
    return (_length(wavelength) * focal / n).sqrt()


def transfer_function(
    n: int, pitch: Length, wavelength: Length, distance: Length, *, exact: bool = False
) -> Tensor:
    """Free space over a distance as a factor per frequency: (n, n) in the order of ``torch.fft``.

    Fresnel: exp(-i pi wavelength z nu^2), nu in cycles per metre. ``exact``: the angular spectrum
    exp(2 pi i z / wavelength (sqrt(1 - wavelength^2 nu^2) - 1)), and 0 where the wave is evanescent.
    """
    nu = torch.fft.fftfreq(n, dtype=torch.float64)
    squared = (nu[:, None] ** 2 + nu**2) / _length(pitch) ** 2
    wavelength = _length(wavelength)
    if not exact:
        return _phasor(-torch.pi * wavelength * distance * squared)
    cosine = 1 - wavelength**2 * squared
    travels = cosine > 0
    # sqrt(c) - 1 without taking nearly equal numbers from one another.
    root = torch.where(travels, cosine, 1).sqrt()
    return _phasor(-2 * torch.pi * wavelength * distance * squared / (1 + root)) * travels


def lens_phase(n: int, pitch: Length, wavelength: Length, focal: Length) -> Tensor:
    """A thin lens, exp(-i pi (x^2 + y^2) / (wavelength focal)): (n, n), its axis on pixel n // 2."""
    return _phasor(-torch.pi * _squared_radius(n, pitch) / (_length(wavelength) * focal))


def aperture(n: int, pitch: Length, radius: Length) -> Tensor:
    """A round stop: (n, n), 1 inside, 0 outside, and in between what part of a pixel's width is open."""
    # In pixels, where the root at the middle meets no gradient.
    return (_length(radius) / pitch - _squared_radius(n, 1.0).sqrt() + 0.5).clamp(0, 1)


def embed(picture: Tensor, n: int) -> Tensor:
    """A picture (..., h, w) in the middle of a dark plane (..., n, n): pixel (h // 2, w // 2) on n // 2.

    Raises ``ValueError`` for a picture larger than the plane.
    """
    h, w = picture.shape[-2:]
    if max(h, w) > n:
        raise ValueError(f"a picture or kernel must fit on the plane of {n} x {n} pixels, got {h} x {w}")
    top, left = n // 2 - h // 2, n // 2 - w // 2
    return torch.nn.functional.pad(picture, (left, n - w - left, top, n - h - top))


def upright(field: Tensor) -> Tensor:
    """A field (..., n, n), n even, turned by 180 degrees about pixel n // 2."""
    return field.flip(-2, -1).roll((1, 1), (-2, -1))


class Bench:
    """A 4f bench of n x n pixels.

    Args:
        n: pixels of a side, even, 8..4096.
        wavelength, focal: metres, > 0.
        pitch: pixel pitch, metres, > 0; None for the critical one.
        exact: exact free space instead of Fresnel's.
        pupil: radius of both lenses, metres, > 0; None for lenses without an edge.
        dz: what is too much, metres, in the distances display-lens, lens-filter, filter-lens, lens-camera.
        shift: how far the filter stands off the axis, pixels of the plane, (down, right).
        dtype: complex128 or complex64.

    Raises:
        ValueError: for an odd n, at which a lens centred on a pixel is no DFT, and lengths out of range.

    Warns:
        ParaxialWarning: if Fresnel's phase in the corner of the spectrum is off by more than a quarter wave.
    """

    def __init__(
        self,
        n: int,
        wavelength: Length = WAVELENGTH,
        focal: Length = FOCAL,
        *,
        pitch: Length | None = None,
        exact: bool = False,
        pupil: Length | None = None,
        dz: tuple[Length, Length, Length, Length] = (0.0, 0.0, 0.0, 0.0),
        shift: tuple[Length, Length] = (0.0, 0.0),
        dtype: torch.dtype = torch.complex128,
    ):
        if not isinstance(n, int) or n % 2 or not 8 <= n <= 4096:
            hint = (
                f"; take n = {n + 1}, since a lens centred on a pixel is a DFT only for even n"
                if n % 2 and 7 <= n < 4096
                else ""
            )
            raise ValueError(f"n must be even and in 8..4096, got {n}{hint}")
        lengths = {"wavelength": wavelength, "focal": focal, "pitch": pitch, "pupil": pupil}
        for name, length in lengths.items():
            if length is not None and not 0 < _number(length) < math.inf:
                raise ValueError(f"{name} must be > 0 m and finite, got {_number(length):g}")
        for name, several, expected in (("dz", dz, 4), ("shift", shift, 2)):
            if len(several) != expected:
                raise ValueError(f"{name} must have {expected} numbers, got {len(several)}")
        for off in dz:
            if not abs(_number(off)) < _number(focal):
                raise ValueError(
                    f"dz must be smaller than focal = {_number(focal):g} m, got {_number(off):g}"
                )
        for off in shift:
            if not math.isfinite(_number(off)):
                raise ValueError(f"shift must be finite, got {_number(off):g}")
        if dtype not in (torch.complex64, torch.complex128):
            raise ValueError(f"dtype must be complex64 or complex128, got {dtype}")
        self.n, self.shift, self.dtype = n, shift, dtype
        self.pitch = critical_pitch(n, wavelength, focal) if pitch is None else _length(pitch)
        if not exact:
            self._warn_if_not_paraxial(_number(wavelength), _number(focal), pitch is None)
        self.lens = lens_phase(n, self.pitch, wavelength, focal)
        if pupil is not None:
            self.lens = self.lens * aperture(n, self.pitch, pupil)
        self.space = [transfer_function(n, self.pitch, wavelength, focal + off, exact=exact) for off in dz]

    def _warn_if_not_paraxial(self, wavelength: float, focal: float, critical: bool) -> None:
        """Compare the next term of the root's series, pi/4 wavelength^3 z nu^4, with a quarter wave."""
        wrong = math.pi * wavelength**3 * focal / (16 * _number(self.pitch) ** 4)
        if wrong > math.pi / 2:
            # Rounded to three digits, 1 % more is enough.
            if critical:
                remedy = f"focal >= {1.01 * wavelength * self.n**2 / 8:.3g} m"
            else:
                remedy = f"pitch >= {1.01e6 * (wavelength**3 * focal / 8) ** 0.25:.3g} um"
            pitch, waves = _number(self.pitch) * 1e6, wrong / (2 * math.pi)
            warnings.warn(
                f"a bench of n = {self.n} pixels of {pitch:.2f} um with focal = {focal:g} m is not paraxial: "
                f"Fresnel's phase is off by {waves:.1f} waves in the corner of the spectrum; "
                f"use {remedy}, or exact=True to see what it does",
                ParaxialWarning,
                stacklevel=3,
            )

    def propagate(self, field: Tensor, leg: int = 0) -> Tensor:
        """Free space over one of the four legs, 0..3: (..., n, n) -> (..., n, n)."""
        return torch.fft.ifft2(torch.fft.fft2(field.to(self.dtype)) * self.space[leg].to(self.dtype))

    def lens_ft(self, field: Tensor, lens: int = 0) -> Tensor:
        """From one focal plane of lens 0 or 1 to the other: the unitary centred DFT, times exp(-i pi / 2)."""
        return self.propagate(self.propagate(field, 2 * lens) * self.lens.to(self.dtype), 2 * lens + 1)

    def filter(self, kernel: Tensor) -> Tensor:
        """What the filter shows for a kernel (..., k, k): spectrum (..., n, n), frequency 0 in the middle.

        A filter off the axis multiplies the kernel by a phase ramp. Raises ``ValueError`` if k > n.
        """
        ramps = [
            _phasor(2 * torch.pi / self.n * off * _from_middle(self.n)) for off in map(_length, self.shift)
        ]
        plane = embed(kernel, self.n).to(self.dtype) * (ramps[0][:, None] * ramps[1]).to(self.dtype)
        middle = (-2, -1)
        return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(plane, middle)), middle)

    def run(self, image: Tensor, kernel: Tensor) -> Tensor:
        """The field on the camera, (..., n, n): image convolved with kernel on a circle, turned, times -1.

        ``image``: (..., h, w), amplitudes on the display. ``kernel``: (..., k, k), complex or real; its pixel
        (k // 2, k // 2) is its origin. Raises ``ValueError`` if one of them does not fit on the plane.
        """
        *_, (_, field) = self.planes(image, kernel)
        return field

    def planes(self, image: Tensor, kernel: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and field (..., n, n) of every plane that the light crosses, in its order."""
        field = embed(image, self.n).to(self.dtype)
        yield "display", field
        field = self.propagate(field, 0) * self.lens.to(self.dtype)
        yield "behind lens 1", field
        field = self.propagate(field, 1)
        yield "before the filter", field
        field = field * self.filter(kernel)
        yield "behind the filter", field
        field = self.propagate(field, 2)
        yield "before lens 2", field
        field = field * self.lens.to(self.dtype)
        yield "behind lens 2", field
        yield "camera", self.propagate(field, 3)


def _length(value: Length) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _number(value: Length) -> float:
    return _length(value).detach().item()


def _phasor(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)


def _squared_radius(n: int, pitch: Length) -> Tensor:
    """Squared distance from pixel n // 2, square metres: (n, n)."""
    x = _from_middle(n)
    return (x[:, None] ** 2 + x**2) * _length(pitch) ** 2


def _from_middle(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64) - n // 2
