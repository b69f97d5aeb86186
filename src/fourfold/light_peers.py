"""Light networks for super-resolution that papers compare with, counted layer by layer of their own code.

SwinIR (Liang et al., arXiv 2108.10257) and ELAN (Zhang et al., arXiv 2203.06697). Parameters are all that are
trained, with SwinIR's tables of position bias, which its paper leaves out. Multiply-accumulates are those of
convolutions and matrix products. Windows are not padded, so that costs are the least there can be.
"""

from typing import NamedTuple

from fourfold import checks
from fourfold.super_resolution import SCALES


class Count(NamedTuple):
    """Trained parameters, and multiply-accumulates for each pixel of the small image."""

    parameters: int
    macs: int


def counts(scale: int) -> dict[str, Count]:
    """SwinIR's and ELAN's counts, layer by layer of their own code, their windows without padding.

    Raises ``ValueError`` for another scale than 2, 3 or 4.
    """
    checks.between(min(SCALES), max(SCALES), scale=scale)
    last = (1, 60, 3 * scale**2, 3, 1)
    up = [(1, 64, 256, 3, 1), (1, 64, 256, 3, 4)] if scale == 4 else [(1, 64, 64 * scale**2, 3, 1)]
    # Of two layers of ELAN's attention the second takes the first one's scores; windows of 4, 8 and 16.
    points = [(24, 60, 120, 1, 1), (24, 120, 60, 1, 1), (12, 60, 120, 1, 1), (36, 60, 60, 1, 1)]
    elan = _convolutions((1, 3, 60, 3, 1), *points, last)
    return {
        "SwinIR": _swinir(180, 6, (1, 180, 64, 3, 1), *up, (1, 64, 3, 3, scale**2)),
        "SwinIR-light": _swinir(60, 4, last),
        "ELAN-light": Count(elan.parameters + 24 * 180, elan.macs + 36 * 20 * (4**2 + 8**2 + 16**2)),
    }


_Convolution = tuple[int, int, int, int, int]
"""How many, inputs, outputs, side of the kernel, and pixels for each of the small image."""


def _swinir(c: int, stages: int, *tail: _Convolution) -> Count:
    layers = 6 * stages
    points = [(layers, c, outputs, 1, 1) for outputs in (3 * c, c, 2 * c)]
    back = (layers, 2 * c, c, 1, 1)
    found = _convolutions((1, 3, c, 3, 1), *points, back, (stages + 1, c, c, 3, 1), *tail)
    # Norms have two values a channel, tables of position bias 225 a head; windows are 8 x 8.
    return Count(
        found.parameters + layers * (4 * c + 225 * 6) + 4 * c,
        found.macs + layers * 2 * 64 * c,
    )


def _convolutions(*layers: _Convolution) -> Count:
    return Count(
        sum(n * outputs * (inputs * side**2 + 1) for n, inputs, outputs, side, _ in layers),
        sum(n * outputs * inputs * side**2 * area for n, inputs, outputs, side, area in layers),
    )
