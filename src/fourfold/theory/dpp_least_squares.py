"""DPP least squares: the points of a weighted least-squares fit drawn jointly, so that they avoid each other.

Nouy and Michel, arXiv 2312.14057, 2023. A function f is approximated in the span V of m features phi that are
orthonormal in L2 of a probability mu, from its values at n random points. With the density nu = mu/w, where
``1/w(x) = |phi(x)|^2 / m``, the empirical Gram matrix ``G = (1/n) sum w(x_i) phi(x_i) phi(x_i)^T`` has mean
I, and the fit is as good as ``1 / lambda_min(G)`` allows. Points may be drawn independently from nu, as one
projection determinantal process (DPP) of m points, by volume sampling (density proportional to det G), or as
several independent DPPs.

Implemented: finite spaces; the samplers, all draws at once; stratified points, a rival; Gram matrices, fits,
errors; the samplers' laws on a few nodes, enumerated, from which expectations come without draws.

Departures: mu lives on a grid of nodes (Gauss quadrature, which keeps polynomials orthonormal), so that a
draw needs no rejection. No code of the authors was found; only abstract and introduction could be read.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.linalg import qr
from scipy.optimize import linprog

from fourfold.checks import at_least, between

Array = NDArray[np.float64]
Index = NDArray[np.intp]

# --- finite spaces ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """Features ``phi`` (N, m) on N nodes, orthonormal for the probabilities ``mu`` (N,).

    ``order`` (N,) lists the nodes, alike ones together; strata are cut along it. ``points``: (N, dim).
    """

    phi: Array
    mu: Array
    order: Index
    points: Array

    @property
    def m(self) -> int:
        """The number of features."""
        return self.phi.shape[1]


def polynomials(dim: int, degree: int, nodes: int) -> Space:
    """Polynomials of at most this total degree on [-1, 1]^dim, mu uniform, on nodes^dim Gauss points.

    There are C(dim + degree, dim) of them. Gauss points are nearly equidistant in ``arccos x``; strata are
    cut there: along the line, or in more dimensions along the leaves of Ward's tree.
    Raises ``ValueError`` for dim < 1, a negative degree or nodes <= degree, where they are not orthonormal.
    """
    at_least(1, dim=dim)
    at_least(0, degree=degree)
    at_least(degree + 1, nodes=nodes)
    x, weights = np.polynomial.legendre.leggauss(nodes)
    one = np.polynomial.legendre.legvander(x, degree) * np.sqrt(2 * np.arange(degree + 1) + 1)
    powers = [p for p in product(range(degree + 1), repeat=dim) if sum(p) <= degree]
    grid = np.array(list(product(range(nodes), repeat=dim)))
    phi = np.stack([np.prod([one[grid[:, k], p[k]] for k in range(dim)], 0) for p in powers], 1)
    mu = (weights / 2)[grid].prod(1)
    return Space(phi, mu, along(np.arccos(x)[grid]), x[grid])


def span_of(features: ArrayLike, points: ArrayLike | None = None) -> Space:
    """The space that ``features`` (N, m) span on N equally likely nodes; strata in ``points`` (N, dim).

    Without points strata are cut along the nodes' numbers.
    Raises ``ValueError`` for more features than nodes or linearly dependent ones.
    """
    table = np.asarray(features, float)
    between(1, len(table), "the nodes", features=table.shape[1])
    if (rank := int(np.linalg.matrix_rank(table))) < table.shape[1]:
        raise ValueError(f"features must be independent, got {table.shape[1]} of rank {rank}")
    phi = np.linalg.qr(table)[0] * math.sqrt(len(table))
    number = np.arange(len(table), dtype=float)
    places = number[:, None] if points is None else np.asarray(points, float)
    return Space(phi, np.full(len(table), 1 / len(table)), along(places), places)


def along(points: Array) -> Index:
    """The nodes' numbers, neighbours close together: sorted on a line, else as the leaves of Ward's tree."""
    if points.shape[1] == 1:
        return np.argsort(points[:, 0])
    return leaves_list(linkage(points, "ward")).astype(np.intp)


def christoffel_weights(space: Space, mix: float = 0.0) -> Array:
    """The weights w (N,) of the density ``nu = mu / w``: of the optimal one, mixed with a share of mu itself.

    ``1/w = (1 - mix) |phi|^2 / m + mix``; at ``mix=1`` points are drawn from mu and w is 1.
    Raises ``ValueError`` unless 0 <= mix <= 1.
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"mix must be in 0..1, got {mix}")
    return 1 / ((1 - mix) * (space.phi**2).mean(1) + mix)


# --- samplers: each returns node numbers (draws, n) -------------------------------------------------------


def _pick(mass: Array, uniform: Array) -> Index:
    """The node in whose part of the total mass each number of [0, 1) falls: (N,), (...) -> (...)."""
    heap = np.cumsum(mass)
    return np.minimum(np.searchsorted(heap, uniform * heap[-1], side="right"), len(mass) - 1)


def sample_iid(space: Space, weights: Array, n: int, draws: int, rng: np.random.Generator) -> Index:
    """n independent points of ``nu = mu / weights``."""
    at_least(1, n=n, draws=draws)
    return _pick(space.mu / weights, rng.random((draws, n)))


def sample_dpp(space: Space, draws: int, rng: np.random.Generator) -> Index:
    """The m points of the projection DPP, density ``det(phi_j(x_i))^2 / m!``: (draws, m).

    The chain rule: each next point has a density proportional to the squared length of what its features
    have beyond those of the points before, which Gram-Schmidt subtracts.
    """
    at_least(1, draws=draws)
    rows = space.phi * np.sqrt(space.mu)[:, None]
    left = np.tile((rows**2).sum(1), (draws, 1))
    chosen = np.empty((draws, space.m), np.intp)
    basis = np.zeros((draws, space.m, space.m))
    every = np.arange(draws)
    for k in range(space.m):
        heap = np.cumsum(left, 1)
        point = (heap <= (rng.random(draws) * heap[:, -1])[:, None]).sum(1)
        chosen[:, k] = point
        new = rows[point]
        for _ in range(2):  # twice is enough: the second pass takes what rounding left
            new = new - np.einsum("rkm,rk->rm", basis[:, :k], np.einsum("rkm,rm->rk", basis[:, :k], new))
        basis[:, k] = new / np.linalg.norm(new, axis=1, keepdims=True)
        left = np.maximum(left - (basis[:, k] @ rows.T) ** 2, 0)
        left[every, point] = 0
    return chosen


def sample_volume(space: Space, weights: Array, n: int, draws: int, rng: np.random.Generator) -> Index:
    """n points, density proportional to ``det G`` under ``nu = mu / weights``: generalised volume sampling.

    They are m points of the DPP and n - m of nu in random order: by Cauchy and Binet det G is a sum over the
    m points that could be the DPP's, and their weights cancel.
    Raises ``ValueError`` for n < m.
    """
    at_least(space.m, n=n)
    free = (
        sample_iid(space, weights, n - space.m, draws, rng) if n > space.m else np.empty((draws, 0), np.intp)
    )
    return rng.permuted(np.concatenate([sample_dpp(space, draws, rng), free], 1), axis=1)


def sample_repeated(space: Space, n: int, draws: int, rng: np.random.Generator) -> Index:
    """n/m independent draws of the DPP, one after the other. Raises ``ValueError`` unless m divides n."""
    if n < 1 or n % space.m:
        raise ValueError(f"n must be a multiple of m = {space.m}, got {n}")
    return sample_dpp(space, draws * (n // space.m), rng).reshape(draws, n)


def sample_strata(space: Space, weights: Array, n: int, draws: int, rng: np.random.Generator) -> Index:
    """One point of ``nu = mu / weights`` in each of n strata of equal mass, cut along ``space.order``."""
    at_least(1, n=n, draws=draws)
    mass = (space.mu / weights)[space.order]
    return space.order[_pick(mass, (np.arange(n) + rng.random((draws, n))) / n)]


def pivoted(space: Space) -> Index:
    """The m points that QR with column pivoting takes one after the other, always the most novel: (1, m)."""
    return qr((space.phi * np.sqrt(space.mu)[:, None]).T, mode="r", pivoting=True)[1][None, : space.m]


def condition(
    sample: Callable[[], Index], keep: Callable[[Index], NDArray[np.bool_]], tries: int = 100
) -> Index:
    """Draw again what ``keep`` refuses: ``sample()`` gives (draws, n), ``keep`` a truth value for each draw.

    Raises ``ValueError`` if after ``tries`` rounds a draw is still refused.
    """
    at_least(1, tries=tries)
    kept = sample()
    for _ in range(tries):
        good = keep(kept)
        if good.all():
            return kept
        kept = np.where(good[:, None], kept, sample())
    raise ValueError(f"after tries = {tries} rounds {int((~keep(kept)).sum())} draws are still refused")


# --- diversity -------------------------------------------------------------------------------------------


def likeness(space: Space) -> float:
    """Mean squared cosine between the features of two points of the DPP, times m: 1 for independent points.

    Their joint density is ``nu nu (1 - cos^2) m / (m - 1)``, where independent points have ``nu nu``. In the
    mean over draws, ``|G - I|^2`` of repeated draws is that of as many independent points times this number.
    """
    rows = space.phi * np.sqrt(space.mu)[:, None]
    sizes = (rows**2).sum(1)
    quartic = 0.0
    for part in np.array_split(np.arange(len(rows)), max(1, len(rows) // 500)):
        inner = (rows[part] @ rows.T) ** 2
        quartic += float((inner**2 / np.maximum(sizes[part, None] * sizes, 1e-300)).sum())
    return (space.m - quartic) / (space.m - 1)


def measured_likeness(space: Space, index: Index) -> Array:
    """The same of each draw: the mean over pairs of its points, times m: (draws, n) -> (draws,)."""
    rows = space.phi[index]
    rows = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    cosines, n = (rows @ np.swapaxes(rows, 1, 2)) ** 2, index.shape[1]
    return space.m * (cosines.sum((1, 2)) - n) / (n * (n - 1))


# --- the fit ----------------------------------------------------------------------------------------------


def gram(space: Space, index: Index, weights: Array) -> Array:
    """The empirical Gram matrix of each draw: (draws, n) -> (draws, m, m)."""
    rows = space.phi[index] * np.sqrt(weights[index] / index.shape[1])[..., None]
    return np.swapaxes(rows, 1, 2) @ rows


def stability(space: Space, index: Index, weights: Array) -> Array:
    """The smallest eigenvalue of each draw's Gram matrix: (draws,). Of n < m points it is 0."""
    return np.linalg.eigvalsh(gram(space, index, weights))[:, 0].astype(float)


def wls(space: Space, index: Index, values: Array, weights: Array) -> Array:
    """Coefficients of the weighted least-squares fit to ``values`` (N, F): (draws, m, F).

    Where points do not determine them, those of least norm.
    """
    scale = np.sqrt(weights[index])[..., None]
    # A node drawn twice leaves singular values of the size of rounding, which no processor may read as more.
    return np.linalg.pinv(scale * space.phi[index], rcond=1e-10) @ (scale * values[index])


def projection(space: Space, values: Array) -> tuple[Array, Array]:
    """The best approximation to ``values`` (N, F): coefficients (m, F) and squared errors (F,)."""
    best = space.phi.T @ (space.mu[:, None] * values)
    return best, space.mu @ (values - space.phi @ best) ** 2


def error_ratio(space: Space, coefficients: Array, values: Array) -> Array:
    """Squared error of each fit over the least one possible: (draws, m, F) -> (draws, F)."""
    best, least = projection(space, values)
    return 1 + ((coefficients - best) ** 2).sum(1) / least


def best_uniform(space: Space, values: Array) -> float:
    """The least uniform error on the nodes with which V approximates ``values`` (N,): a linear program."""
    if not np.isfinite(values).all():
        raise ValueError(f"values must be finite, got {values[~np.isfinite(values)][0]}")
    ones, m = np.ones((len(values), 1)), space.m
    sides = np.block([[space.phi, -ones], [-space.phi, -ones]])
    cost, free = np.eye(m + 1)[m], [(None, None)] * (m + 1)
    found = linprog(cost, A_ub=sides, b_ub=np.concatenate([values, -values]), bounds=free)
    return float(np.abs(values - space.phi @ found.x[:m]).max())


def drawn_functions(points: Array, functions: int, rng: np.random.Generator) -> Array:
    """Thirty waves and a kink in random directions: values (N, functions) at ``points`` (N, dim)."""
    at_least(1, functions=functions)
    dim, waves = points.shape[1], 30
    k = rng.standard_normal((waves, dim, functions)) * rng.uniform(1, 20, (waves, 1, functions))
    height = rng.standard_normal((waves, functions)) / (1 + np.linalg.norm(k, axis=1))
    angle = np.einsum("nd,wdf->nwf", points, k) + rng.uniform(0, 2 * np.pi, (waves, functions))
    way = rng.standard_normal((dim, functions))
    kink = np.abs(points @ (way / np.linalg.norm(way, axis=0)) - rng.uniform(-0.8, 0.8, functions))
    return (np.cos(angle) * height).sum(1) + kink * rng.standard_normal(functions)


def chernoff_ratio(m: int, delta: float = 0.5) -> float:
    """The n/m from which independent points have ``lambda_min(G) >= 1 - delta`` in half the draws.

    Matrix Chernoff: the probability of less is at most ``m exp(-c n/m)``, ``c = delta + (1 - delta)
    log(1 - delta)``, so ``log(2m) / c`` suffices. Raises ``ValueError`` for m < 1 unless 0 < delta < 1.
    """
    at_least(1, m=m)
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    return math.log(2 * m) / (delta + (1 - delta) * math.log(1 - delta))


# --- laws, enumerated -------------------------------------------------------------------------------------


def volume_law(space: Space, weights: Array, n: int) -> tuple[Index, Array]:
    """All multisets of n nodes that ``sample_volume`` can draw, and their probabilities: (T, n), (T,).

    At n = m it is the DPP. Raises ``ValueError`` for n < m.
    """
    at_least(space.m, n=n)
    index, orders = _multisets(len(space.mu), n)
    density = space.mu / weights
    total = np.zeros(len(index))
    for mine in combinations(range(n), space.m):
        rest = [place for place in range(n) if place not in mine]
        joint = np.linalg.det(space.phi[index[:, mine]]) ** 2 / math.factorial(space.m)
        total += joint * space.mu[index[:, mine]].prod(1) * density[index[:, rest]].prod(1)
    return index, orders * total / math.comb(n, space.m)


def iid_law(space: Space, weights: Array, n: int) -> tuple[Index, Array]:
    """All multisets of n independent points of ``nu``, and their probabilities: (T, n), (T,)."""
    index, orders = _multisets(len(space.mu), n)
    return index, orders * (space.mu / weights)[index].prod(1)


def strata_law(space: Space, weights: Array, n: int) -> tuple[Index, Array]:
    """All that ``sample_strata`` can draw, and its probabilities: (T, n), (T,)."""
    mass = (space.mu / weights)[space.order]
    edges = np.concatenate([[0], np.cumsum(mass / mass.sum())])
    cells = [np.clip(edges, a / n, (a + 1) / n) for a in range(n)]
    shares = [n * np.diff(cell) for cell in cells]
    index = np.array(list(product(*[np.flatnonzero(share) for share in shares])))
    return space.order[index], np.prod([share[index[:, a]] for a, share in enumerate(shares)], 0)


def _multisets(count: int, n: int) -> tuple[Index, Array]:
    """Sorted n-tuples of ``count`` nodes and in how many orders each comes: (T, n), (T,)."""
    index = np.array(list(combinations_with_replacement(range(count), n)))
    repeats, run = np.ones(len(index)), np.ones(len(index))
    for place in range(1, n):  # n! over the factorial of each node's count
        run = np.where(index[:, place] == index[:, place - 1], run + 1, 1)
        repeats *= run
    return index, math.factorial(n) / repeats


def expectations(
    space: Space, law: tuple[Index, Array], values: Array, weights: Array
) -> tuple[Array, Array]:
    """Under a law: mean coefficients (m, F) and mean error ratio (F,); singular fits are of least norm."""
    index, chance = law[0][law[1] > 0], law[1][law[1] > 0]
    fits = wls(space, index, values, weights)
    return np.tensordot(chance, fits, 1), chance @ error_ratio(space, fits, values)


def needed(ratios: Sequence[int], shares: Sequence[float], beyond: float) -> float:
    """The first of the ``ratios`` n/m whose share is a half or more; ``beyond`` if there is none."""
    return next((float(r) for r, share in zip(ratios, shares, strict=True) if share >= 0.5), beyond)
