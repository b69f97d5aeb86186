"""What a restoration added: how much of it was missing, and how much it invented, band by band.

Of an image that was made of a base, and the truth: added = made - base, missing = truth - base. In a band of
spatial frequency added = g missing + rest, with the rest orthogonal to what was missing. The squared error is
then what is still missing, (1 - g)^2 of its energy, and the rest, which is *invented*. Who answers with the
mean of all truths that fit has an error orthogonal to what was added, so that g is the share of the energy
that was added, and invents g - g^2. One g serves a whole band: a filter that treats frequencies within it
unlike seems to invent a little.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fourfold import spectra


class Energies(NamedTuple):
    """Mean squares in bands, (..., bands) each: of what was missing, of what was added, of what is wrong."""

    missing: Tensor
    added: Tensor
    wrong: Tensor

    @property
    def gain(self) -> Tensor:
        """How much of what was missing was added: the number g above."""
        return (self.added + self.missing - self.wrong) / (2 * self.missing)

    @property
    def correlation(self) -> Tensor:
        """Of what was added with what was missing; nan where nothing was added."""
        return self.gain * (self.missing / self.added).sqrt()

    @property
    def invented(self) -> Tensor:
        """Energy of the rest over that of what was missing: wrong / missing = (1 - g)^2 + invented."""
        return self.added / self.missing - self.gain.square()

    def left(self) -> tuple[Tensor, Tensor]:
        """Of the squared error of the base, all bands: the shares still missing, and invented, (...)."""
        whole = self.missing.sum(-1)
        kinds = (1 - self.gain).square(), self.invented
        return tuple((kind * self.missing).sum(-1) / whole for kind in kinds)  # type: ignore[return-value]


def decibels(before: Tensor, after: Tensor) -> Tensor:
    """The gain in dB from squared errors ``before`` to ``after``, (..., bands) each, band by band.

    A band has its share of the error that was taken off, and the bands sum to the gain; nan without one.
    """
    gain = 10 * (before.sum(-1, keepdim=True) / after.sum(-1, keepdim=True)).log10()
    return gain * (before - after) / (before - after).sum(-1, keepdim=True)


def energies(made: Tensor, truth: Tensor, base: Tensor, edges: Sequence[float]) -> Energies:
    """`Energies` of maps (h, w) in radial bands between ``edges``, cycles per pixel, under a Hann window.

    Raises ``ValueError`` for unlike shapes and for edges that do not increase.
    """
    if not made.shape == truth.shape == base.shape or made.ndim != 2:
        raise ValueError(
            f"made, truth and base must be (h, w), got {[tuple(x.shape) for x in (made, truth, base)]}"
        )

    def energy(x: Tensor) -> Tensor:
        x = x.double()
        return spectra.band_energy(x, edges, "hann").nan_to_num() * spectra.power(x, "hann").sum()

    return Energies(energy(truth - base), energy(made - base), energy(made - truth))
