"""Wiener's filter through a reduction: the mean of all large images that fit a small one, in closed form.

Photographs are taken to be stationary and Gaussian with a known spectrum; the small image is `shrink` of the
large one, and noise. Shrinking folds factor^2 waves onto one another. Of what was seen of their sum each gets
the share that its power has. Images are mirrored first, so that nothing jumps where a wave wraps around.
"""

import torch
from einops import rearrange
from torch import Tensor

from fourfold import checks, spectra
from fourfold.data.image_pairs import shrink


def mirrored(x: Tensor) -> Tensor:
    """Images (..., h, w) -> (..., 2 h, 2 w)."""
    wide = torch.cat([x, x.flip(-1)], -1)
    return torch.cat([wide, wide.flip(-2)], -2)


def spectrum(images: Tensor) -> Tensor:
    """Mean power of images (n, h, w), mirrored and without their means: (2 h, 2 w), float64."""
    large = mirrored(images.double())
    return spectra.power(large - large.mean((-2, -1), keepdim=True)).mean(0)


def response(n: int, factor: int) -> Tensor:
    """What `shrink` does to each wave of a line of n pixels before it samples: (n,), complex.

    Raises ``ValueError`` unless the factor divides n / 2.
    """
    checks.divides(n // 2, "n / 2", factor=factor)
    # Four pixels of the small image across: one alone comes out wrong of torch 2.13.
    lines = torch.eye(n, dtype=torch.float64)[:, :, None].expand(n, n, 4 * factor)
    middle = n // 2 // factor
    taps = shrink(lines, factor)[:, middle, 0]
    return torch.fft.fft(taps.roll(-middle * factor)).conj()


def enlarged(small: Tensor, power: Tensor, factor: int, noise: float) -> Tensor:
    """The mean large image (factor h, factor w) behind a small one (h, w), float64.

    ``power``: of the large image's waves, as `spectrum` has it; ``noise``: standard deviation of the small
    image's noise, > 0. Raises ``ValueError`` for another size of spectrum or noise.
    """
    sides = [2 * factor * side for side in small.shape]
    if list(power.shape) != sides:
        raise ValueError(f"power must be {tuple(sides)} for {tuple(small.shape)}, got {tuple(power.shape)}")
    checks.finite(above=True, noise=noise)
    fold, unfold = "(a y) (b x) -> (a b) y x", "(a b) y x -> (a y) (b x)"
    prior = rearrange(power, fold, a=factor, b=factor)
    blur = rearrange(torch.outer(*(response(n, factor) for n in sides)), fold, a=factor, b=factor)
    # Mirrored noise is twice as strong, in power, in waves that do not change along a side.
    twice = torch.outer(*(1 + (torch.arange(2 * side) == 0).double() for side in small.shape))
    folded = (prior * blur.abs().square()).sum(0) + twice * noise**2 * factor**2 / power.numel()
    y = mirrored(small.double())
    waves = factor**2 * prior * blur.conj() / folded * torch.fft.fft2(y - y.mean())
    made = torch.fft.ifft2(rearrange(waves, unfold, a=factor)).real + y.mean()
    return made[: sides[0] // 2, : sides[1] // 2]
