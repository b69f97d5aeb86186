"""DeepONet: a map between functions as the product of a network of the function and one of the place.

Lu, Jin and Karniadakis, arXiv 1910.03193; Nature Machine Intelligence 3, 218-229, 2021. A *branch* network
sees an input function u at fixed sensors, a *trunk* network the place y at which the answer is wanted, and
G(u)(y) is approximated by the inner product of what they return.

Implemented: the unstacked DeepONet and a network without its product, a fully connected one, Gaussian random
input functions, two operators with their solver, data sets of triples (u at the sensors, y, G(u)(y)), the
exact member of the class for the antiderivative, closed forms for what sensors miss and for the distance of
two families of input functions, and two rivals without training: regression on principal components times
polynomials of y, and kernel regression.

Departures: y is a node of the solver's grid, which has 201; where the authors' labels come from an adaptive
solver at its default tolerance, ours are exact to about 1e-9. Networks take u and y in one tensor, as the
fully connected one has to.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from fourfold.checks import at_least, between, finite, one_of

Array = NDArray[np.float64]
Family = Literal["smooth", "rough"]
"""Covariance of the input functions: exp(-d^2 / 2 ell^2), or exp(-d / ell), which has no derivative."""

GRID: Array = np.linspace(0, 1, 401)
"""Where input functions are known: the 201 nodes of the solver, and half-way between them."""

SENSORS = 100
"""Of the branch network, equispaced over [0, 1], as in the paper."""

OPERATORS: dict[str, Callable[[Array, Array], Array]] = {
    "antiderivative": lambda s, u: u,
    "nonlinear": lambda s, u: u - s * s,
}
"""Right-hand sides of s' = f(s, u), s(0) = 0; the operator maps u to s."""

LARGEST = 10.0
"""A solution that leaves [-10, 10] blows up sooner or later; its input function is drawn anew."""


# --- input functions --------------------------------------------------------------------------------------


def covariance(x: Array, z: Array, ell: float, family: Family = "smooth") -> Array:
    """Covariance of an input function of variance 1 at places x (n,) and z (m,): (n, m).

    Raises ``ValueError`` for an unknown family or a correlation length that is not > 0.
    """
    one_of(("smooth", "rough"), family=family)
    finite(above=True, ell=ell)
    apart = np.abs(x[:, None] - z) / ell
    return np.exp(-apart) if family == "rough" else np.exp(-(apart**2) / 2)


def sample_fields(n: int, ell: float, generator: torch.Generator, family: Family = "smooth") -> Array:
    """Gaussian random functions of mean 0 and variance 1 on ``GRID``: (n, 401).

    Raises ``ValueError`` for n < 1, or an ell below two steps of the grid, which could not resolve it.
    """
    at_least(1, n=n)
    finite(2 * float(GRID[1]), ell=ell)
    factor = np.linalg.cholesky(covariance(GRID, GRID, ell, family) + 1e-10 * np.eye(len(GRID)))
    noise = torch.randn(n, len(GRID), dtype=torch.float64, generator=generator).numpy()
    return noise @ factor.T


def sensed(u: Array, m: int) -> Array:
    """Values at m equispaced sensors of functions on ``GRID``, by cubic splines: (n, 401) -> (n, m)."""
    at_least(2, m=m)
    return CubicSpline(GRID, u, axis=1)(np.linspace(0, 1, m))


def interpolated(values: Array, at: Array) -> Array:
    """The piecewise linear functions through values (n, m) at equispaced sensors, at places (k,): (n, k)."""
    m = values.shape[1]
    at_least(2, m=m)
    hats = np.clip(1 - np.abs(np.linspace(0, 1, m)[:, None] - at) * (m - 1), 0, None)
    return values @ hats


def posterior_mean(values: Array, at: Array, ell: float, family: Family = "smooth") -> Array:
    """The best guess of Gaussian functions from values (n, m) at equispaced sensors, at (k,): (n, k)."""
    sensors = np.linspace(0, 1, values.shape[1])
    inner = covariance(sensors, sensors, ell, family) + 1e-10 * np.eye(len(sensors))
    return values @ np.linalg.solve(inner, covariance(sensors, at, ell, family))


def sensor_error(m: int, ell: float, family: Family = "smooth") -> float:
    """Root mean square of u less its linear interpolant, half-way between two of m sensors; closed form.

    Raises ``ValueError`` for fewer than two sensors.
    """
    at_least(2, m=m)
    near, far = covariance(np.zeros(1), np.array([0.5, 1]) / (m - 1), ell, family)[0]
    return float(np.sqrt(1.5 + 0.5 * far - 2 * near))


def w2_distance(one: float, other: float, points: int = 100) -> float:
    """Wasserstein distance of two smooth families, by correlation length, on a grid, per root of a point.

    The trace of (K_1^1/2 K_2 K_1^1/2)^1/2 is the sum of the singular values of K_1^1/2 K_2^1/2.
    """
    at_least(2, points=points)
    grid = np.linspace(0, 1, points)
    roots = []
    for ell in (one, other):
        values, vectors = np.linalg.eigh(covariance(grid, grid, ell))
        roots.append(vectors * np.sqrt(values.clip(0)) @ vectors.T)
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum() / points
    return float(np.sqrt(max(2 - 2 * overlap, 0)))


# --- operators and data -----------------------------------------------------------------------------------


def solve(u: Array, operator: str = "nonlinear") -> Array:
    """Solutions of s' = f(s, u), s(0) = 0, by the classical Runge-Kutta method in 200 steps.

    Args:
        u: (n, 401), on ``GRID``.
        operator: one of ``OPERATORS``.

    Returns:
        (n, 201): at every second place of ``GRID``; infinite or not a number after a solution blew up.

    Raises:
        ValueError: for an unknown operator, or functions on another grid.
    """
    one_of(OPERATORS, operator=operator)
    if u.shape[1:] != GRID.shape:
        raise ValueError(f"u must be (n, {len(GRID)}), got {u.shape}")
    f, h = OPERATORS[operator], 2 * float(GRID[1])
    s = np.zeros(len(u))
    path = [s]
    with np.errstate(over="ignore", invalid="ignore"):
        for left, middle, right in zip(u.T[:-1:2], u.T[1::2], u.T[2::2], strict=True):
            k1 = f(s, left)
            k2 = f(s + h / 2 * k1, middle)
            k3 = f(s + h / 2 * k2, middle)
            k4 = f(s + h * k3, right)
            s = s + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            path.append(s)
    return np.stack(path, 1)


def sample_pairs(
    n: int,
    generator: torch.Generator,
    *,
    ell: float = 0.2,
    amplitude: float = 0.7,
    family: Family = "smooth",
    operator: str = "nonlinear",
) -> tuple[Array, Array]:
    """Input functions and their solutions, (n, 401) and (n, 201), none of which leaves [-10, 10].

    ``amplitude`` is the standard deviation of u. Raises ``ValueError`` for n < 1, or an amplitude outside
    (0, 1]: beyond it a share worth mentioning of the nonlinear solutions blows up.
    """
    at_least(1, n=n)
    if not 0 < amplitude <= 1:
        raise ValueError(f"amplitude must be in (0, 1], got {amplitude}")
    inputs, solutions = np.empty((0, len(GRID))), np.empty((0, len(GRID) // 2 + 1))
    while len(inputs) < n:
        u = amplitude * sample_fields(n, ell, generator, family)
        s = solve(u, operator)
        fine = (np.abs(s) < LARGEST).all(1)
        inputs, solutions = np.concatenate([inputs, u[fine]]), np.concatenate([solutions, s[fine]])
    return inputs[:n], solutions[:n]


def make_triples(
    n: int, generator: torch.Generator, *, known: int = SENSORS, **family: float | str
) -> tuple[Tensor, Tensor]:
    """A data set of n triples, a random place y for each function: inputs (n, 101) and targets (n,), float32.

    Args:
        n: how many.
        generator: of functions and places.
        known: at how many equispaced sensors u is known. The network's 100 inputs are then the values of the
            linear interpolant: as much as is known, and the same network for every number.
        family: ``ell``, ``amplitude``, ``family``, ``operator`` of `sample_pairs`.
    """
    u, s = sample_pairs(n, generator, **family)  # type: ignore[arg-type]
    place = torch.randint(s.shape[1], (n,), generator=generator).numpy()
    inputs = network_inputs(u, GRID[2 * place], known)
    return inputs, torch.from_numpy(s[np.arange(n), place]).float()


def network_inputs(u: Array, y: Array, known: int = SENSORS) -> Tensor:
    """Functions on ``GRID`` (n, 401) and places (n,) as networks take them: (n, 101), float32."""
    seen = interpolated(sensed(u, known), np.linspace(0, 1, SENSORS))
    return torch.from_numpy(np.concatenate([seen, y[:, None]], 1)).float()


# --- networks ---------------------------------------------------------------------------------------------


def mlp(sizes: Sequence[int], last_relu: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them: (..., sizes[0]) -> (..., sizes[-1]).

    Weights are Glorot-normal and biases 0, as the authors'. Raises ``ValueError`` for fewer than two sizes or
    one below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be two or more, each >= 1, got {list(sizes)}")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers if last_relu else layers[:-1])


class DeepONet(nn.Module):
    """A function's network times a place's network: (n, m + 1), u at the sensors and y -> (n,)."""

    def __init__(self, m: int = SENSORS, width: int = 40, p: int = 40):
        """The branch ends in a linear layer, the trunk in a ReLU: p numbers each, and one bias for both."""
        super().__init__()
        self.m = m
        self.branch = mlp([m, width, p])
        self.trunk = mlp([1, width, p], last_relu=True)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(n, m + 1) -> (n,)."""
        u, y = x[..., : self.m], x[..., self.m :]
        return (self.branch(u) * self.trunk(y)).sum(-1) + self.bias


class SumNet(nn.Module):
    """A DeepONet without its product: branch and trunk are added, and a ReLU and a linear layer follow."""

    def __init__(self, m: int = SENSORS, width: int = 40, p: int = 40):
        """Has p more parameters than the DeepONet, the weights of the last layer."""
        super().__init__()
        self.m = m
        self.branch = mlp([m, width, p])
        self.trunk = mlp([1, width, p], last_relu=True)
        self.last = mlp([p, 1])

    def forward(self, x: Tensor) -> Tensor:
        """(n, m + 1) -> (n,)."""
        u, y = x[..., : self.m], x[..., self.m :]
        return self.last((self.branch(u) + self.trunk(y)).relu())[..., 0]


class FNN(nn.Module):
    """A fully connected network on function and place side by side: (n, m + 1) -> (n,).

    Every ``every``-th sensor is seen, and the place times ``stretch``: with 1 and 1 the authors' rival, else
    one whose inputs are prepared, so that a single number is not lost among many that are nearly equal.
    """

    def __init__(
        self, m: int = SENSORS, width: int = 100, hidden: int = 2, every: int = 1, stretch: float = 1.0
    ):
        """``hidden`` layers of ``width`` units; the authors' has two of a hundred."""
        super().__init__()
        at_least(1, every=every)
        finite(above=True, stretch=stretch)
        self.m, self.every, self.stretch = m, every, stretch
        self.layers = mlp([len(range(0, m, every)) + 1, *[width] * hidden, 1])

    def forward(self, x: Tensor) -> Tensor:
        """(n, m + 1) -> (n,)."""
        seen = torch.cat([x[..., : self.m : self.every], self.stretch * x[..., self.m :]], -1)
        return self.layers(seen)[..., 0]


def exact_trunk(y: Array, m: int) -> Array:
    """Trunk functions with which a DeepONet integrates exactly what m sensors know: (n,) -> (n, m).

    With the branch u(x_k) they are the integrals from 0 to y of the hat functions of the sensors, so that the
    inner product is the antiderivative of the interpolant.
    """
    at_least(2, m=m)

    def integral(at: Array) -> Array:
        z = np.clip((at[:, None] - np.linspace(0, 1, m)) * (m - 1), -1, 1)
        return (0.5 + z - z * np.abs(z) / 2) / (m - 1)

    return integral(y) - integral(np.zeros(1))


# --- rivals without training ------------------------------------------------------------------------------

Data = tuple[Tensor, Tensor]
"""Inputs (n, m + 1) and targets (n,), as of `make_triples`."""


def score_regression(data: Data, sizes: Sequence[int] = (4, 8, 12)) -> Callable[[Tensor], Array]:
    """Bilinear regression: principal components of u times Legendre polynomials of y, with ridge.

    Returns a function of inputs (n, m + 1) -> (n,). The number of components, which is also the degree in y,
    is the best of ``sizes``, and the ridge the best of fifteen, by leaving out one training example at a
    time. Components of no variance are left out, since u may be known at fewer sensors. Raises ``ValueError``
    for a size below 1 or more components than there are.
    """
    x, s = _numbers(data[0]), _numbers(data[1])
    for size in sizes:
        between(1, min(len(x), x.shape[1] - 1), "the least of examples and sensors", sizes=size)
    components = PCA(max(sizes)).fit(x[:, :-1])
    spread = np.sqrt(components.explained_variance_)
    spread[spread < 1e-4 * spread[0]] = np.inf

    def features(x: Array, size: int) -> Array:
        of_u = np.insert((components.transform(x[:, :-1]) / spread)[:, :size], 0, 1, axis=1)
        of_y = np.polynomial.legendre.legvander(2 * x[:, -1] - 1, size)
        return (of_u[:, :, None] * of_y[:, None]).reshape(len(x), -1)

    ridges = np.logspace(-4, 3, 15)
    fits = {size: RidgeCV(ridges, fit_intercept=False).fit(features(x, size), s) for size in sizes}
    best = max(fits, key=lambda size: fits[size].best_score_)
    return lambda inputs: fits[best].predict(features(_numbers(inputs), best))


def kernel_regression(
    data: Data, of_u: float = 2.0, of_y: float = 0.3, ridge: float = 1e-6
) -> Callable[[Tensor], Array]:
    """Regression with a Gaussian kernel on u and y side by side, which knows nothing of operators.

    ``of_u`` is the kernel's length in the root mean square of a difference of two functions, ``of_y`` the one
    in y. Returns a function of inputs (n, m + 1) -> (n,). Raises ``ValueError`` for numbers that are not > 0.
    """
    finite(above=True, of_u=of_u, of_y=of_y, ridge=ridge)
    m = data[0].shape[1] - 1
    scale = np.r_[np.full(m, of_u * np.sqrt(m)), of_y]
    fitted = KernelRidge(alpha=ridge, kernel="rbf", gamma=0.5)
    fitted.fit(_numbers(data[0]) / scale, _numbers(data[1]))
    return lambda inputs: fitted.predict(_numbers(inputs) / scale)


def _numbers(tensor: Tensor) -> Array:
    return tensor.double().numpy()
