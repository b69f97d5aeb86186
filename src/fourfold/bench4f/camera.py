"""What a 4f bench can show and see: display and filter of few bits, photons, read noise, camera of few bits.

One pass of light, in order: the input display is quantised, light crosses the bench, the camera counts
photons of the intensity |U|^2, adds read noise, converts to a few bits, and electronics take the square root.
Nothing amplifies: amplitudes of display and filter lie in 0..1, so an intensity of 1 fills the camera's well.

Closed form: the square root of a Poisson count of mean photons * |U|^2, over sqrt(photons), has a standard
deviation of 1 / (2 sqrt(photons)) whatever the amplitude |U|, once the count is well above 1 (delta method).
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

MAX_BITS = 16


@dataclass(frozen=True)
class Noise:
    """How far a bench is from ideal. None, or 0 for the read noise, switches an imperfection off.

    ``ValueError`` for photons or read noise that are not finite or out of range, bits outside 1..16, or read
    noise without photons, in whose units it counts.
    """

    photons: float | None = None
    """Photons per unit intensity: what a pixel counts at full amplitude."""
    read_sigma: float = 0.0
    """Standard deviation of the camera's read noise, electrons."""
    slm_bits: int | None = None
    """Bits of the input display, over amplitudes 0..1."""
    filter_bits: int | None = None
    """Bits of the filter, for its amplitude over 0..1 and again for its phase over a full turn."""
    camera_bits: int | None = None
    """Bits of the camera, over intensities from 0 to the full well."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for what no bench has."""
        if self.photons is not None and not 0 < self.photons < math.inf:
            raise ValueError(f"photons must be > 0 and finite, or None for no shot noise, got {self.photons}")
        if not 0 <= self.read_sigma < math.inf:
            raise ValueError(f"read_sigma must be >= 0 and finite, got {self.read_sigma}")
        if self.read_sigma and self.photons is None:
            raise ValueError(
                f"read_sigma = {self.read_sigma} electrons needs photons > 0, got photons = None"
            )
        for name in (field.name for field in fields(self) if field.name.endswith("_bits")):
            bits = getattr(self, name)
            if bits is not None and not (type(bits) is int and 1 <= bits <= MAX_BITS):
                raise ValueError(f"{name} must be an integer in 1..{MAX_BITS}, or None, got {bits!r}")


IDEAL = Noise()


def quantise(x: Tensor, bits: int | None, full: float = 1.0) -> Tensor:
    """The nearest of 2^bits levels from 0 to ``full``; values outside are clipped. None leaves ``x`` alone.

    Any shape. The gradient is that of the identity (straight-through estimator, Bengio et al. 2013).
    """
    if bits is None:
        return x
    step = full / (2**bits - 1)
    shown = (x / step).round().clamp(0, 2**bits - 1) * step
    return shown.detach() + (x - x.detach())


def quantise_filter(spectrum: Tensor, bits: int | None) -> Tensor:
    """A filter of 2^bits amplitudes in 0..1 and 2^bits phases; complex, any shape, |spectrum| <= 1.

    Keeps Hermitian symmetry: a real impulse response stays real. Straight-through gradient.
    """
    if bits is None:
        return spectrum
    turn = 2 * math.pi / 2**bits
    angle = (spectrum.angle() / turn).round() * turn
    shown = torch.polar(quantise(spectrum.abs(), bits), angle)
    return shown.detach() + (spectrum - spectrum.detach())


def expose(
    intensity: Tensor, noise: Noise, *, full_well: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """What the camera reports for an intensity, in the intensity's own units. Any shape, non-negative.

    Photons, read noise, then bits over 0..``full_well``; never below 0. Counting photons has no gradient; for
    the straight-through estimator of a whole pass see `fourfold.bench4f.optical_conv`.
    """
    if noise.photons is not None:
        electrons = torch.poisson(noise.photons * intensity, generator=generator)
        if noise.read_sigma:
            read = torch.empty_like(electrons).normal_(std=noise.read_sigma, generator=generator)
            electrons = electrons + read
        intensity = electrons / noise.photons
    return quantise(intensity, noise.camera_bits, full_well).clamp(min=0)
