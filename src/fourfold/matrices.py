"""Matrices of the plane in closed form: turns, inverses, symmetric ones and their exponential, batched."""

import math

import torch
from torch import Tensor


def matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Entries (...), row by row -> matrices (..., 2, 2)."""
    return torch.stack([a, b, c, d], -1).unflatten(-1, (2, 2))


def rotation(theta: Tensor) -> Tensor:
    """Angles (...), radians -> rotations (..., 2, 2), from x to y."""
    c, s = theta.cos(), theta.sin()
    return matrix(c, -s, s, c)


def shear(amount: float, axis: int = 0) -> Tensor:
    """The shear (2, 2), float64, that moves along ``axis`` by ``amount`` times the other coordinate."""
    h = torch.eye(2, dtype=torch.float64)
    h[axis, 1 - axis] = amount
    return h


def inverse(g: Tensor) -> Tensor:
    """The inverses of matrices (..., 2, 2)."""
    a, b, c, d = g.flatten(-2).unbind(-1)
    return matrix(d, -b, -c, a) / (a * d - b * c)[..., None, None]


def symmetric(coordinates: Tensor) -> Tensor:
    """Symmetric matrices (..., 2, 2) by coordinates (..., 2 or 3), orthonormal in ``tr(X Y)``.

    The first two are traceless, ``diag(1, -1)/sqrt(2)`` and the swap over ``sqrt(2)``; the third is a trace.
    """
    a, b, *trace = (coordinates / math.sqrt(2)).unbind(-1)
    m = trace[0] if trace else torch.zeros_like(a)
    return matrix(m + a, b, b, m - a)


def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of symmetric ``[[m + a, b], [b, m - a]]``: m, a, b, and half the gap of the eigenvalues, d >= 0."""
    x11, x12, x21, x22 = x.flatten(-2).unbind(-1)
    a, b = (x11 - x22) / 2, (x12 + x21) / 2
    return (x11 + x22) / 2, a, b, torch.hypot(a, b)


def sinhc(d: Tensor) -> Tensor:
    """``sinh(d) / d``, 1 at zero, for d >= 0."""
    small = d < 1e-3
    return torch.where(small, 1 + d**2 / 6 + d**4 / 120, d.sinh() / d.masked_fill(small, 1))


def sym_exp(x: Tensor) -> Tensor:
    """``exp`` of symmetric matrices (..., 2, 2)."""
    m, a, b, d = parts(x)
    middle, slope = m.exp() * d.cosh(), m.exp() * sinhc(d)
    return matrix(middle + slope * a, slope * b, slope * b, middle - slope * a)


def sym_log(p: Tensor) -> Tensor:
    """``log`` of symmetric positive definite matrices (..., 2, 2)."""
    m, a, b, d = parts(p)
    root, small = ((m - d) * (m + d)).sqrt(), d < 1e-3 * m
    # Half the gap of the logarithms over half the gap: artanh(d/m) / d.
    series = (1 + (d / m) ** 2 / 3 + (d / m) ** 4 / 5) / m
    slope = torch.where(small, series, ((m + d) / root).log() / d.masked_fill(small, 1))
    return matrix(root.log() + slope * a, slope * b, slope * b, root.log() - slope * a)
