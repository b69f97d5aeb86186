"""Kernel density estimates in large dimensions: a random energy model, its thresholds, its exact laws.

Biroli and Mezard, arXiv 2408.05807, 2024. With ``n = e^(alpha d)`` points y of N(0, 1) in d dimensions, a
Gaussian kernel of bandwidth h and ``lam = h^-2``, the estimate at x is ``Z / (n (2 pi h^2)^(d/2))``, where
``Z = sum_i w_i``, ``w_i = exp(-lam |x - y_i|^2 / 2)``: a partition function at inverse temperature lam with
the energies ``|x - y_i|^2 / 2``.

Implemented: free energy, entropy and the thresholds that follow from them, for any variances of a Gaussian;
estimates from given distances and rules for the bandwidth; and, for equal variances, at every finite d and n,
the exact mean divergence, participation ratio and law of an estimate, by way of ``fourfold.sums``.

Departures: of the paper only abstract and introduction were at hand. The thresholds were derived anew from
the model, and the exact results are ours.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.linalg import eigh_tridiagonal
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaln, logsumexp, ndtr

from fourfold.checks import at_least, between, finite
from fourfold.sums import Terms, exact_law, mean_log, participation, stable_law

Array = NDArray[Any]

# --- the limit of large dimension ---------------------------------------------------------------------------


def _variances(spectrum: ArrayLike | None) -> Array:
    variances = np.atleast_1d(np.asarray(1.0 if spectrum is None else spectrum, float))
    if not (variances > 0).all() or not np.isfinite(variances).all():
        raise ValueError(f"spectrum must have finite variances > 0, got {variances.min()}")
    return variances


def phi(lam: float, spectrum: ArrayLike | None = None) -> float:
    """Free energy ``lim 1/d log E_y exp(-lam |x - y|^2 / 2)`` at a typical x of the same Gaussian.

    ``spectrum``: its variances, (d,), by default all 1. Raises ``ValueError`` unless they are > 0.
    """
    s = _variances(spectrum)
    return float(-np.mean(np.log1p(lam * s) + lam * s / (1 + lam * s)) / 2)


def energy(lam: float, spectrum: ArrayLike | None = None) -> float:
    """``-phi'``: half the squared distance per dimension of the points that dominate E Z at this lam."""
    s = _variances(spectrum)
    return float(np.mean(s / (1 + lam * s) + s / (1 + lam * s) ** 2) / 2)


def entropy(lam: float, spectrum: ArrayLike | None = None) -> float:
    """``I = lam phi' - phi``: ``n e^(-d I)`` of n points lie at the distance that dominates E Z at lam."""
    return -lam * energy(lam, spectrum) - phi(lam, spectrum)


class Thresholds(NamedTuple):
    """Bandwidths at which the statistics of an estimate change, in the unit of the data."""

    h_g: float
    """Below, a few points carry the estimate."""
    h_clt: float
    """Above, its fluctuations are Gaussian."""
    h_star: float
    """Of least Kullback-Leibler divergence: the distance per root dimension of the nearest point."""
    e_min: float
    """Half the square of that distance."""


def thresholds(alpha: float, spectrum: ArrayLike | None = None) -> Thresholds:
    """What the limit of large d at ``alpha = log(n) / d`` says; ``spectrum`` as in ``phi``.

    The lowest populated energy is where ``entropy = alpha``; there is h_G. The variance of Z has its own such
    point, at twice the lam: that is h_CLT.
    Raises ``ValueError`` unless alpha is finite, > 0, and has a threshold with lam in e^-20..e^60.
    """
    finite(above=True, alpha=alpha)
    low, high = (entropy(math.exp(end), spectrum) for end in (-20, 60))
    if not low < alpha < high:
        raise ValueError(f"alpha must be in {low:.3g}..{high:.3g} for a threshold, got {alpha}")
    lam = math.exp(brentq(lambda log_lam: entropy(math.exp(log_lam), spectrum) - alpha, -20, 60))
    e_min = energy(lam, spectrum)
    return Thresholds(lam**-0.5, math.sqrt(2 / lam), math.sqrt(2 * e_min), e_min)


def stable_index(h: float, alpha: float, spectrum: ArrayLike | None = None) -> float:
    """``mu = lam_G / lam``: index of the stable law that Z follows where it is below 2."""
    finite(above=True, h=h)
    return (h / thresholds(alpha, spectrum).h_g) ** 2


def limit_kl(h: float, alpha: float) -> float:
    """Limit of the mean Kullback-Leibler divergence per dimension, nats, equal variances of 1."""
    finite(above=True, h=h)
    at = thresholds(alpha)
    log_z = phi(h**-2) if h > at.h_g else -alpha - at.e_min / h**2
    return math.log(h) - 0.5 - log_z


def equal_variance(alpha: float) -> float:
    """The bandwidth at which variance and squared mean of an estimate are equal."""
    finite(above=True, alpha=alpha)
    return float(brentq(lambda lam: phi(2 * lam) - 2 * phi(lam) - alpha, 1e-9, 1e9)) ** -0.5


def gaussian_energies(alpha: float) -> float:
    """The h_G of a random energy model whose energies are Gaussian with the mean and variance of ours."""
    finite(above=True, alpha=alpha)
    return (4 * alpha / 3) ** -0.25


# --- estimates from distances -------------------------------------------------------------------------------


def sample_dist2(d: int, n: int, size: int, rng: np.random.Generator, x_norm2: float | None = None) -> Array:
    """Squared distances of n points of N(0, 1) in d dimensions from x: (size, n), new points in each row.

    ``x_norm2``: the squared length of x, by default d, the typical one; nothing else of x matters.
    Raises ``ValueError`` for sizes < 1.
    """
    at_least(1, d=d, n=n, size=size)
    dist2 = (rng.standard_normal((size, n)) - math.sqrt(d if x_norm2 is None else x_norm2)) ** 2
    return dist2 + 2 * rng.standard_gamma((d - 1) / 2, (size, n)) if d > 1 else dist2


def log_kde(dist2: ArrayLike, h: float, d: int) -> Array:
    """Logarithm of the estimate from squared distances (..., n) to all points: (...).

    Raises ``ValueError`` unless h is finite and > 0.
    """
    finite(above=True, h=h)
    dist2 = np.asarray(dist2, float)
    constant = math.log(dist2.shape[-1]) + d / 2 * math.log(2 * math.pi * h**2)
    return logsumexp(-dist2 / (2 * h**2), axis=-1) - constant


def shares(dist2: ArrayLike, h: float) -> Array:
    """Each point's share ``w_i / Z`` of the estimate, (..., n)."""
    finite(above=True, h=h)
    weights = -np.asarray(dist2, float) / (2 * h**2)
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def top_share(dist2: ArrayLike, h: float, k: int) -> Array:
    """The share of the k nearest points, (..., n) -> (...). Raises ``ValueError`` unless 1 <= k <= n."""
    nearest = shares(dist2, h)
    if not 1 <= k <= nearest.shape[-1]:
        raise ValueError(f"k must be in 1..{nearest.shape[-1]}, the number of points, got {k}")
    return np.partition(nearest, -k, axis=-1)[..., -k:].sum(-1)


def most_likely(dist2: ArrayLike, d: int) -> float:
    """The bandwidth in 0.02..5 of highest mean ``log_kde`` at distances (rows, n); inf is left out."""
    found = minimize_scalar(
        lambda log_h: -float(log_kde(dist2, math.exp(log_h), d).mean()),
        bounds=(math.log(0.02), math.log(5)),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return math.exp(found.x)


def best_over_threshold(rows: Array, variances: ArrayLike, queries: int) -> tuple[float, float]:
    """The best bandwidth of data over the h_CLT of Gaussian data, and the points that carry an estimate.

    ``rows``: (n, d), the data in their principal axes, whose ``variances`` are (d,). The best is the most
    likely one for the first ``queries`` rows, each left out; the second number is the median over them of one
    over the sum of squared `shares`. Raises ``ValueError`` unless 1 <= queries <= n and variances are > 0.
    """
    n, d = rows.shape
    between(1, n, "the rows", queries=queries)
    some = rows[:queries]
    dist2 = np.maximum((some**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * some @ rows.T, 0)
    np.fill_diagonal(dist2, np.inf)
    best = most_likely(dist2, d)
    carrying = np.median(1 / (shares(dist2, best) ** 2).sum(1))
    return best / thresholds(math.log(n) / d, variances).h_clt, float(carrying)


def scott(n: float, d: int) -> float:
    """Scott's rule for data of variance 1."""
    return n ** (-1 / (d + 4))


def least_squared_error(n: float, d: int) -> float:
    """The bandwidth of least mean integrated squared error for N(0, 1), whose error has a closed form."""

    def error(log_h: float) -> float:
        h2 = math.exp(2 * log_h)
        noise = h2 ** (-d / 2) / n + (1 - 1 / n) * (1 + h2) ** (-d / 2)
        return noise - 2 * (1 + h2 / 2) ** (-d / 2)

    found = minimize_scalar(
        error, bounds=(math.log(0.02), math.log(5)), method="bounded", options={"xatol": 1e-6}
    )
    return math.exp(found.x)


# --- exact results at finite d and n ------------------------------------------------------------------------


@cache
def _gauss() -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre quadrature on -1..1."""
    return np.polynomial.legendre.leggauss(400)


def log_density(dist2: ArrayLike, d: int, x_norm2: float) -> Array:
    """Log density of ``|x - y|^2``, noncentral chi-square with d degrees, at ``dist2`` > 0.

    The angle between x and x - y is integrated out in logarithms: Bessel functions of an order of hundreds
    underflow. Raises ``ValueError`` unless d >= 2 and x_norm2 > 0.
    """
    at_least(2, d=d)
    finite(above=True, x_norm2=x_norm2)
    dist2 = np.asarray(dist2, float)
    nodes, weights = _gauss()
    angle = math.pi / 2 * (nodes + 1)
    log_weight = np.log(math.pi / 2 * weights) + (d - 2) * np.log(np.sin(angle))
    r = np.sqrt(x_norm2 * dist2)
    inner = logsumexp(r[..., None] * (np.cos(angle) - 1) + log_weight, axis=-1)
    constant = d / 2 * math.log(2) + math.log(math.pi) / 2 + gammaln((d - 1) / 2)
    return inner - (np.sqrt(dist2) - math.sqrt(x_norm2)) ** 2 / 2 + (d / 2 - 1) * np.log(dist2) - constant


@cache
def _spline(d: int, x_norm2: float) -> CubicSpline:
    """``log_density`` of e^s as a function of s, from -60 to where nothing is left."""
    top = math.log((math.sqrt(x_norm2) + math.sqrt(d) + 12) ** 2)
    s = np.unique(np.concatenate([np.linspace(-60, top - 4, 400), np.linspace(top - 4, top, 1000)]))
    return CubicSpline(s, log_density(np.exp(s), d, x_norm2))


REACH = 40.0
"""Where fewer than e^-40 points are expected, there are none."""


def terms(d: int, log_n: float, h: float, x_norm2: float | None = None, step: float = 0.2) -> Terms:
    """The terms of Z at an x of squared length ``x_norm2``, by default d, for n = e^log_n points.

    ``step``: the widest cell. Means are exact to six digits from d = 12 on, to two or three in fewer
    dimensions, where the density ends abruptly at x.
    Raises ``ValueError`` for d < 2, log_n < 1, or h, step or x_norm2 not > 0.
    """
    at_least(2, d=d)
    finite(1, log_n=log_n)
    finite(above=True, h=h, step=step)
    density = _spline(d, float(d) if x_norm2 is None else float(x_norm2))
    s = np.linspace(density.x[0], density.x[-1], 4000)
    log_count = log_n + density(s) + s
    within = np.logaddexp.accumulate(log_count) + math.log(s[1] - s[0])
    carried = log_count - np.exp(s) / (2 * h**2)
    # Beyond where 60 points surely are, only what adds to their sum.
    sure = within > math.log(60)
    kept = (log_count > -REACH) & (~sure | (carried > np.max(carried, where=sure, initial=-np.inf) - 60))
    near, *_, far = s[kept]
    first, last = (-math.exp(end) / (2 * h**2) for end in (far, near))
    step = min(step, (last - first) / 500)
    log_w = -step * (np.arange(math.floor(-last / step), math.ceil(-first / step))[::-1] + 0.5)
    log_count = log_n + density(np.log(-2 * h**2 * log_w)) + math.log(2 * h**2 * step)
    return Terms(log_w, log_count, log_n)


def mean_participation(d: int, log_n: float, h: float) -> float:
    """``E sum_i (w_i / Z)^2`` at a typical x, 1 over the number of points that carry an estimate."""
    return participation(terms(d, log_n, h))


def mean_kl(d: int, log_n: float, h: float, nodes: int = 5) -> float:
    """Mean Kullback-Leibler divergence from N(0, 1) to an estimate of n = e^log_n points, nats per dimension.

    ``nodes``: of Gauss quadrature over the squared length of x, chi-square with d degrees.
    """
    k = np.arange(nodes)
    diagonal, beside = 2 * k + d / 2, np.sqrt(k[1:] * (k[1:] + d / 2 - 1))
    halves, vectors = eigh_tridiagonal(diagonal, beside)
    log_z = [mean_log(terms(d, log_n, h, 2 * half)) for half in halves]
    return math.log(h) - 0.5 + (log_n - float(np.dot(vectors[0] ** 2, log_z))) / d


def best_bandwidth(d: int, log_n: float) -> tuple[float, float]:
    """The bandwidth of least ``mean_kl`` and its value."""
    at = thresholds(log_n / d)
    found = minimize_scalar(
        lambda log_h: mean_kl(d, log_n, math.exp(log_h)),
        bounds=(math.log(0.7 * at.h_star), math.log(max(2 * at.h_clt, 1))),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return math.exp(found.x), float(found.fun)


def log_deviation(d: int, log_n: float, h: float) -> float:
    """Logarithm of the standard deviation of Z at an x of squared length d, in closed form."""
    lam = h**-2
    mean, square = (-d / 2 * (math.log1p(p * lam) + p * lam / (1 + p * lam)) for p in (1, 2))
    return (log_n + square + math.log1p(-math.exp(2 * mean - square))) / 2


PLACES = np.sinh(np.linspace(-4, 4, 161))
"""Where distribution functions are compared, in units in which |psi(1)| = 1/e."""


def to_normal(d: int, log_n: float, h: float) -> float:
    """Kolmogorov distance between the law of Z at a typical x and the normal law of its mean and variance.

    Above h_G. Raises ``ValueError`` as ``terms`` does.
    """
    law, log_unit = exact_law(terms(d, log_n, h, step=0.05), centred=True)
    deviation = math.exp(min(log_deviation(d, log_n, h) - log_unit, 50))
    places = PLACES * min(deviation / 5, 1)
    return float(np.abs(law.cdf(places) - ndtr(places / deviation)).max())


def to_stable(d: int, log_n: float, h: float, mu: float) -> float:
    """Kolmogorov distance between the law of Z at a typical x and the stable law of index mu, in like units.

    Raises ``ValueError`` as ``terms`` and ``stable_law`` do.
    """
    law, _ = exact_law(terms(d, log_n, h, step=0.05), centred=mu > 1)
    return float(np.abs(law.cdf(PLACES) - stable_law(mu).cdf(PLACES)).max())
