"""The law of a sum of many independent positive terms, from how many terms of each size are expected.

``Z = w_1 + ... + w_n``, where single terms may carry the sum, and n may be e^1000: all is in logarithms.
On an even grid of the logarithm of a term, Laplace transforms are sums, characteristic functions
correlations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from scipy.special import logsumexp, sici

Array = NDArray[Any]


@dataclass(frozen=True)
class Terms:
    """The terms of Z on a grid of their logarithms."""

    log_w: Array
    """Logarithms of terms w, ascending, evenly spaced, (cells,)."""
    log_count: Array
    """Logarithm of the expected number of terms in each cell, (cells,)."""
    log_n: float
    """Logarithm of the number of all terms, which are independent."""

    @property
    def step(self) -> float:
        """Width of a cell."""
        return float(self.log_w[1] - self.log_w[0])


def _expected(at: Terms, log_t: ArrayLike, kernel: Callable[[Array], Array]) -> Array:
    """Logarithm of ``n E k(t w)``, where ``kernel`` is log k as a function of log(t w); log_t: (...)."""
    log_t = np.asarray(log_t, float)
    return logsumexp(at.log_count + kernel(log_t[..., None] + at.log_w), axis=-1)


def _laplace(at: Terms) -> tuple[Array, Array, Terms]:
    """log t, evenly spaced, ``-log E e^(-tZ)`` there, from next to 0 to 36, and the terms that matter."""

    def log_exponent(log_t: ArrayLike, used: Terms) -> Array:
        log_few = _expected(
            used, log_t, lambda v: np.log(-np.expm1(-np.exp(np.clip(v, -30, 5)))) + np.minimum(v + 30, 0)
        )
        share = np.exp(np.minimum(log_few - at.log_n, -1e-15))
        few = np.maximum(share, 1e-9)
        # n terms, not a Poisson number of them: -n log(1 - share).
        return log_few + np.where(share > 1e-9, np.log(-np.log1p(-few) / few), 0)

    low, high = -at.log_w[-1] - at.log_n - 60, -at.log_w[0] + 10
    start = brentq(lambda v: log_exponent(v, at) + 34, low, high, xtol=0.1)
    stop = brentq(lambda v: log_exponent(v, at) - 3.6, low, high, xtol=0.1)
    matters = at.log_count + np.minimum(stop + at.log_w, 0) > -36
    used = Terms(at.log_w[matters], at.log_count[matters], at.log_n)
    log_t = np.arange(start, stop + 0.3, 0.3)
    return log_t, np.exp(log_exponent(log_t, used)), used


def mean_log(at: Terms) -> float:
    """``E log Z = int (e^-t - E e^(-tZ)) dt / t``, by the trapezoidal rule in log t."""
    log_t, exponent, _ = _laplace(at)
    return -np.euler_gamma - log_t[0] - 0.3 * float(np.exp(-exponent).sum() - 0.5)


def participation(at: Terms) -> float:
    """``E sum_i (w_i / Z)^2 = int t n E(w^2 e^(-tw)) (E e^(-tw))^(n - 1) dt``."""
    log_t, exponent, used = _laplace(at)
    squares = _expected(used, log_t, lambda v: 2 * v - np.exp(np.minimum(v, 50)))
    return 0.3 * float(np.exp(squares - exponent * (1 - math.exp(-at.log_n))).sum())


def _cosine(v: Array) -> Array:
    """The integral of (1 - cos x) / x from 0 to e^v."""
    x, small = np.exp(np.clip(v, -3, 600)), np.exp(2 * np.minimum(v, -3))
    return np.where(v < -3, small / 4 - small**2 / 96, np.euler_gamma + v - sici(x)[1])


def _sine(v: Array) -> Array:
    """The integral of (x - sin x) / x from 0 to e^v."""
    x, small = np.exp(np.clip(v, -3, 600)), np.exp(np.minimum(v, -3))
    return np.where(v < -3, small**3 / 18 - small**5 / 600, x - sici(x)[0])


class Law(NamedTuple):
    """The law of ``(Z - centre) / unit``: the logarithm of its characteristic function psi over log s."""

    log_s: Array
    log_psi: Array

    def cdf(self, x: Array) -> Array:
        """The distribution function, (...), by Gil-Pelaez's integral; |x| up to about 30."""
        log_s = np.linspace(self.log_s[0], self.log_s[-1], 6000)
        log_psi = CubicSpline(self.log_s, self.log_psi)(log_s)
        used = log_psi.real > -30
        waves = np.exp(log_psi[used] - 1j * np.exp(log_s[used]) * np.asarray(x)[..., None]).imag
        return 0.5 - waves.sum(-1) * (log_s[1] - log_s[0]) / math.pi


SPAN = (-30.0, 6.0)
"""Where psi is needed, in log s: it goes from 1 to 0 around s = 1."""


def stable_law(mu: float) -> Law:
    """The stable law of index mu that sums of heavy-tailed positive terms follow; |psi| = 1/e at s = 1.

    Centred at its mean if mu > 1. Raises ``ValueError`` unless 0 < mu < 2 and mu is not 1.
    """
    if not 0 < mu < 2 or mu == 1:
        raise ValueError(f"mu must be above 0, below 2 and not 1, got {mu}")
    log_s = np.arange(*SPAN, 0.05)
    return Law(log_s, -np.exp(mu * log_s) * (1 - 1j * math.tan(math.pi * mu / 2)))


def exact_law(at: Terms, centred: bool) -> tuple[Law, float]:
    """The law of Z, less its mean if ``centred``, with |psi| = 1/e at s = 1, and the logarithm of that unit.

    ``at``: with a step of at most 0.05. What oscillates within a cell is integrated, so that s may be large.
    """
    step, count = at.step, np.exp(at.log_count)
    # Spread evenly over a cell, a count would have too large a variance.
    count[1:-1] = (26 * count[1:-1] - count[2:] - count[:-2]) / 24

    def averages(integral: Callable[[Array], Array], edges: Array) -> Array:
        """``n E f(s w)`` for each s: the averages over cells of log(s w), weighted by their counts."""
        return np.correlate(np.diff(integral(edges)) / step, count, "valid")

    edges = at.log_w[0] + step * (np.arange(len(count) + 1) - 0.5)
    bounds = -at.log_w[-1] - at.log_n / 2 - 5, -at.log_w[0]
    scale = brentq(lambda v: math.log(averages(_cosine, edges + v)[0]), *bounds, xtol=1e-9)
    start, stop = (round(end / step) for end in SPAN)
    edges = at.log_w[0] + scale + step * (np.arange(start, stop + len(count) + 1) - 0.5)
    log_s = step * np.arange(start, stop + 1)
    decay = averages(_cosine, edges)
    if centred:
        turn = -averages(_sine, edges)
        whole = turn + np.exp(log_s + scale + logsumexp(at.log_count + at.log_w))
    else:
        turn = whole = averages(lambda v: sici(np.exp(np.clip(v, -700, 600)))[0], edges)
    # n log(1 + q) with q = E e^(isZ) - 1 of one term, for large n q less what the mean takes away.
    q = (-decay + 1j * whole) * math.exp(-at.log_n)
    series = -(q**2) / 2 + q**3 / 3 - q**4 / 4
    rest = np.where(np.abs(q) < 1e-3, series, np.log1p(q) - q) * math.exp(at.log_n)
    return Law(log_s, -decay + 1j * turn + rest), -scale
