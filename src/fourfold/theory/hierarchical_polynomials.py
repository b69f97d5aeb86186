"""Hierarchical polynomials: a three-layer network that first finds p and then g in a target g(p(x)).

Wang, Nichani and Lee, arXiv 2311.13774, ICLR 2024. Inputs are standard Gaussian in d dimensions, and the
target is ``h = g(p(x))``: p a polynomial of degree k made of many small independent terms, g a polynomial of
one number. Stage 1 fits the second layer, ridge regression on ``(V x + s)^k``: it sees of h only what has
degree k or less, and that is nearly a multiple of p. Stage 2 fits g on the one number that stage 1 returns.

Implemented: inner polynomials and links; the network and its two stages; the matrix of second moments, which
is one gradient step without a network; kernels that do not find p; and the projections of h for quadratic p,
exactly.

Departures: no code of the authors was found, and of the paper only the abstract and reports on it could be
read; the network's formula is from memory. Gradient descent with weight decay on one layer is convex, so its
limit is computed, by Cholesky; the decay is chosen on held-out data. Biases b are uniform, not heavy-tailed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial import hermite_e
from torch import Tensor, nn

from fourfold.checks import at_least, between, divides, finite, one_of

KINDS = ("tensors", "parities", "dense")


# --- targets ----------------------------------------------------------------------------------------------


def hermite(z: Tensor, degree: int) -> Tensor:
    """The Hermite polynomial of this degree with variance 1 for Gaussian z, elementwise.

    Raises ``ValueError`` for a negative degree.
    """
    at_least(0, degree=degree)
    before, value = torch.zeros_like(z), torch.ones_like(z)
    for n in range(degree):
        before, value = value, z * value - n * before
    return value / math.sqrt(math.factorial(degree))


def link(z: Tensor, coefficients: Sequence[float]) -> Tensor:
    """g(z) = a_1 he_1(z) + a_2 he_2(z) + ..., elementwise."""
    return sum((a * hermite(z, n) for n, a in enumerate(coefficients, 1)), torch.zeros_like(z))


def mean_slope(coefficients: Sequence[float]) -> float:
    """The mean of a link's slope over Gaussian z: a_1, since every other he_n' has mean 0."""
    return coefficients[0]


@dataclass(frozen=True)
class Inner:
    """An inner polynomial p of degree k with mean 0 and variance 1: (n, d) -> (n,).

    ``axes`` (d, d) has orthonormal rows, along which p falls into independent terms.
    """

    kind: str
    k: int
    axes: Tensor
    weights: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(n, d) -> (n,)."""
        z = x @ self.axes.T
        terms = z.unflatten(1, (-1, self.k)).prod(-1) if self.kind == "parities" else hermite(z, self.k)
        return terms @ self.weights


def inner(kind: str, d: int, k: int, generator: torch.Generator) -> Inner:
    """Draw an inner polynomial.

    Args:
        kind: ``"tensors"``, he_k along d random axes, half of them with a minus; ``"parities"``, products of
            k random axes in d / k disjoint blocks, which for k = 2 are tensors along other axes;
            ``"dense"``, only for k = 2, a symmetric matrix of Gaussian numbers.
        d: dimension, even.
        k: degree, 1 to 3.
        generator: draws axes and weights.

    Raises:
        ValueError: for another kind or degree, a dimension that is odd or not a multiple of the blocks.
    """
    one_of(KINDS, kind=kind)
    between(1, 3, k=k)
    divides(d, "the dimension d", pairs=2, block=k if kind == "parities" else 1)
    if kind == "dense" and k != 2:
        raise ValueError(f"k must be 2 for a dense matrix, got {k}")
    square = torch.randn(d, d, dtype=torch.float64, generator=generator)
    if kind == "dense":
        values, vectors = torch.linalg.eigh(square + square.T)
        return Inner(kind, k, vectors.T, values / values.norm())
    weights = torch.ones(d // k if kind == "parities" else d, dtype=torch.float64)
    if kind == "tensors":
        weights[d // 2 :] = -1
    return Inner(kind, k, torch.linalg.qr(square).Q, weights / weights.norm())


class Part(NamedTuple):
    """Samples: inputs (n, d), what a first layer makes of them (n, m1), p (n,) and labels h (n,)."""

    x: Tensor
    layer: Tensor
    p: Tensor
    h: Tensor


def squared_correlation(a: Tensor, b: Tensor) -> float:
    """Of (n,) with (n,): 1 where one is a line of the other."""
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1] ** 2)


def relative_error(answer: Tensor, h: Tensor) -> float:
    """Mean squared error over the variance of the labels, (n,) and (n,): 1 for their mean."""
    return float((answer - h).square().mean() / h.var())


# --- the network and its two stages -----------------------------------------------------------------------


def ridge(features: Tensor, y: Tensor, decays: Sequence[float]) -> Tensor:
    """Where gradient descent with weight decay ends: features (n, m), targets (n, t) -> (decays, m, t).

    Weights w of least mean squared error plus decay |w|^2, for each decay. The smaller system is solved.
    Raises ``ValueError`` for a decay that is not > 0.
    """
    for decay in decays:
        finite(above=True, decay=decay)
    n, m = features.shape
    if m <= n:
        gram, target = features.T @ features / n, features.T @ y / n
        return torch.stack([_solve(gram, target, decay) for decay in decays])
    gram = features @ features.T / n
    return torch.stack([features.T @ _solve(gram, y / n, decay) for decay in decays])


def clipped(y: Tensor, level: float) -> Tensor:
    """Targets (n,), cut off at this many standard deviations from their mean.

    Raises ``ValueError`` for level <= 0 or nan.
    """
    if not level > 0:
        raise ValueError(f"level must be > 0, got {level}")
    mean, reach = y.mean(), level * y.std()
    return y.clamp(mean - reach, mean + reach)


def moment_matrix(x: Tensor, y: Tensor) -> Tensor:
    """One step of descent on all products x_i x_j, (n, d), (n,) -> (d, d): the mean of (y - mean of y) x x^T.

    x^T M x is then a guess of p, for k = 2; the size of the step does not matter.
    """
    return (x.T * (y - y.mean())) @ x / len(y)


class ThreeLayerNet(nn.Module):
    """A bottleneck of one number, q = u . (V x + s)^k, and one more hidden layer behind it: (n, d) -> (n,).

    With q scaled to variance 1 the output is c . relu(a q + b) + skip . (1, q). V, s, a and b stay as drawn
    and are buffers; u comes from `first_stage`, then c and skip from `fit_stage2`.
    """

    v: Tensor
    s: Tensor
    a: Tensor
    b: Tensor
    scale: Tensor

    def __init__(self, d: int, k: int, m1: int, m2: int, generator: torch.Generator):
        """k is the degree of the first activation. Raises ``ValueError`` for sizes < 1 or k not in 1..3."""
        super().__init__()
        at_least(1, d=d, m1=m1, m2=m2)
        between(1, 3, k=k)
        self.k = k

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        directions = draw(m1, d)
        self.register_buffer("v", directions / directions.norm(dim=1, keepdim=True))
        self.register_buffer("s", 0.5 * draw(m1))
        self.register_buffer("a", draw(m2).sign())
        self.register_buffer("b", 8 * torch.rand(m2, dtype=torch.float64, generator=generator) - 4)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.u = nn.Parameter(torch.zeros(m1, dtype=torch.float64))
        self.c = nn.Parameter(torch.zeros(m2, dtype=torch.float64))
        self.skip = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def first_layer(self, x: Tensor) -> Tensor:
        """(V x + s)^k over the root of the width: (n, d) -> (n, m1)."""
        z = x @ self.v.T + self.s
        power = z / math.sqrt(len(self.s))
        for _ in range(self.k - 1):
            power = power * z
        return power

    def last_layer(self, q: Tensor) -> Tensor:
        """relu(a q + b) over the root of the width, then 1 and q, q scaled: (n,) -> (n, m2 + 2)."""
        q = q[:, None] / self.scale
        hidden = (q * self.a + self.b).relu() / math.sqrt(len(self.b))
        return torch.cat([hidden, torch.ones_like(q), q], 1)

    def outer(self, q: Tensor) -> Tensor:
        """What the network makes of the bottleneck's number: (n,) -> (n,)."""
        return self.last_layer(q) @ torch.cat([self.c, self.skip])

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (n,)."""
        return self.outer(self.first_layer(x) @ self.u)


def first_stage(features: Tensor, y: Tensor, held: Tensor, y_held: Tensor, decays: Sequence[float]) -> Tensor:
    """The weights u of stage 1 for each of several labellings of the same inputs: (n, m), (n, t) -> (m, t).

    Ridge regression, of all decays with the one of least squared error on what is held out, (h, m), (h, t).
    """
    weights = ridge(features, y, decays)
    errors = torch.stack([(held @ each - y_held).square().mean(0) for each in weights])
    return torch.stack([weights[best, :, i] for i, best in enumerate(errors.argmin(0))], 1)


@torch.no_grad()
def fit_stage2(net: ThreeLayerNet, q: Tensor, y: Tensor, decay: float) -> None:
    """Fit c and skip to the bottleneck's numbers (n,) and targets (n,), all before them frozen."""
    net.scale.copy_(q.std())
    weights = ridge(net.last_layer(q), y[:, None], [decay])[0, :, 0]
    net.c.copy_(weights[:-2])
    net.skip.copy_(weights[-2:])


def quadratic_features(x: Tensor) -> Tensor:
    """All Hermite polynomials of degree up to 2, orthonormal: (n, d) -> (n, 1 + d + d (d + 1) / 2).

    Ridge regression on them is what stage 1 tends to, for k = 2, when its width grows.
    """
    first, second = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return torch.cat([torch.ones_like(x[:, :1]), x, hermite(x, 2), x[:, first] * x[:, second]], 1)


# --- kernels ----------------------------------------------------------------------------------------------


def arccos_kernel(x: Tensor, y: Tensor) -> Tensor:
    """The kernel of an infinitely wide ReLU network of two hidden layers: (n, d), (m, d) -> (n, m)."""
    lengths = x.norm(dim=1)[:, None] * y.norm(dim=1)
    cosine = (x @ y.T / lengths).clamp(-1, 1)
    for _ in range(2):
        cosine = ((1 - cosine**2).clamp(min=0).sqrt() + (math.pi - cosine.arccos()) * cosine) / math.pi
        cosine = cosine.clamp(-1, 1)
    return cosine * lengths / x.shape[1]


def polynomial_kernel(x: Tensor, y: Tensor, degree: int) -> Tensor:
    """(1 + x . y / d)^degree: (n, d), (m, d) -> (n, m). Raises ``ValueError`` for a degree < 1."""
    at_least(1, degree=degree)
    return (1 + x @ y.T / x.shape[1]) ** degree


def kernel_ridge(gram: Tensor, y: Tensor, early: int, decays: Sequence[float]) -> Tensor:
    """Kernel ridge regression on all points: (n, n), targets (n,) with mean 0 -> coefficients (n,).

    Of the decays, in units of the mean diagonal, it takes the one with which the ``early`` first points
    answer best at the others. Raises ``ValueError`` for a decay that is not > 0 or ``early`` not in 1..n - 1.
    """
    between(1, len(y) - 1, early=early)
    for decay in decays:
        finite(above=True, decay=decay)
    unit, y = float(gram.diagonal().mean()), y[:, None]
    tried = [_solve(gram[:early, :early], y[:early], decay * unit) for decay in decays]
    errors = [float((gram[early:, :early] @ each - y[early:]).square().mean()) for each in tried]
    return _solve(gram, y, unit * decays[errors.index(min(errors))])[:, 0]


def _solve(matrix: Tensor, target: Tensor, decay: float) -> Tensor:
    shifted = matrix.clone()
    shifted.diagonal().add_(decay)
    return torch.cholesky_solve(target, torch.linalg.cholesky(shifted))


# --- the lemma, exactly -----------------------------------------------------------------------------------


class Gap(NamedTuple):
    """Squared distances of what a polynomial of degree 2 sees of h = g(p) from a_1 p, for quadratic p."""

    quadratic: float
    """Of the part of degree 2."""
    lower: float
    """Of the part of lower degree, from 0."""
    unprojected: float
    """Of all of h."""


def stein_gap(weights: Mapping[int, int], coefficients: Sequence[float]) -> Gap:
    """The approximate Stein lemma in closed form, for p = sum_i w_i (x_i^2 - 1), scaled to variance 1.

    Moments of sums are built of cumulants, in integers: those of x^2 - 1 are 2^(r-1) (r-1)!, and
    ``E[S^j (x_i^2 - 1)] = sum_r C(j, r-1) E[S^(j+1-r)] w_i^(r-1) kappa_r``.

    Args:
        weights: a weight -> how many of the x_i have it.
        coefficients: a_1, a_2, ... of the link.

    Raises:
        ValueError: for a count < 1 or weights that are all zero.
    """
    at_least(1, **{f"weights[{weight}]": count for weight, count in weights.items()})
    if not any(weights):
        raise ValueError(f"weights must not all be 0, got {dict(weights)}")
    degree = len(coefficients)
    kappa = [0, 0, *(2 ** (r - 1) * math.factorial(r - 1) for r in range(2, 2 * degree + 2))]
    whole = [k * sum(count * w**r for w, count in weights.items()) for r, k in enumerate(kappa)]
    moments = [1]
    for j in range(2 * degree):
        moments.append(sum(math.comb(j, r - 1) * moments[j + 1 - r] * whole[r] for r in range(1, j + 2)))
    unit = math.sqrt(moments[2])  # the standard deviation of the sum S
    scaled = [a / math.sqrt(math.factorial(n)) for n, a in enumerate([0.0, *coefficients])]
    g = hermite_e.herme2poly(scaled)
    slope = mean_slope(coefficients)
    rest = g - np.eye(1, len(g), 1)[0] * slope

    def mean(powers: Iterable[float]) -> float:
        return sum(b * moments[n] / unit**n for n, b in enumerate(powers))

    quadratic = 0.0
    for w, count in weights.items():
        with_term = [
            sum(math.comb(j, r - 1) * moments[j + 1 - r] * w ** (r - 1) * kappa[r] for r in range(1, j + 2))
            for j in range(degree + 1)
        ]
        seen = sum(b * with_term[n] / unit**n for n, b in enumerate(g)) / math.sqrt(2)
        quadratic += count * (seen - slope * w * math.sqrt(2) / unit) ** 2
    return Gap(quadratic, mean(g) ** 2, mean(np.convolve(rest, rest)))
