"""SNN: networks whose activation function pulls every layer's mean and variance to 0 and 1.

Klambauer, Unterthiner, Mayr and Hochreiter, arXiv 1706.02515, NIPS 2017. A unit sums many inputs of mean mu
and variance nu with weights of sum omega and sum of squares tau. Its input is then nearly Gaussian with mean
``x = mu omega`` and variance ``y = nu tau``, and the mean and variance of its output are a function
g(mu, nu; omega, tau): the *moment map*. For SELU, g has the fixed point (0, 1) at omega = 0, tau = 1, and
contracts around it.

Implemented: SELU and its parameters for any fixed point, the moment map and its Jacobian in closed form, the
same map by quadrature for any activation, alpha dropout and its rivals, random networks that only propagate
moments, gradients or two passes of a batch, and the plain networks that the paper compares.

Departures: parameters for other fixed points come from a quadratic equation where the authors use a root
finder; the closed forms are rearranged so that no exponential overflows; a residual block has one layer; the
output layer of every kind starts as an SNN's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import erfc, erfcx
from torch import Tensor, nn
from torch.nn.functional import elu, linear

from fourfold.checks import at_least, finite, one_of

Array = NDArray[np.float64]

# --- the moment map ---------------------------------------------------------------------------------------


def _gaussian(mean: ArrayLike, variance: ArrayLike) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The integrals of z ~ N(x, y) that SELU's moments are made of, each twice its value.

    Returns x, y, 2 P(z > 0), 2 E[z; z > 0], 2 E[e^z; z < 0], 2 E[e^2z; z < 0]. The paper writes the last two
    as ``e^(kx + k^2 y/2) erfc(a)``, whose first factor overflows; ``e^(-x^2/2y) erfcx(a)`` is the same.
    Raises ``ValueError`` unless y > 0.
    """
    x, y = np.broadcast_arrays(np.asarray(mean, float), np.asarray(variance, float))
    if not (y > 0).all():
        raise ValueError(f"the variance of a unit's input, nu tau, must be > 0, got {y.min()}")
    root, bell = np.sqrt(2 * y), np.exp(-x * x / (2 * y))

    def exponential(k: int) -> Array:
        a = (x + k * y) / root
        # For a < 0 it is erfcx that overflows, and the exponent is negative.
        return np.where(
            a > 0, bell * erfcx(np.maximum(a, 0)), np.exp(np.minimum(k * x + k * k * y / 2, 0)) * erfc(a)
        )

    above = erfc(-x / root)
    return x, y, above, x * above + bell * np.sqrt(2 * y / np.pi), exponential(1), exponential(2)


def selu_parameters(mean: float = 0.0, var: float = 1.0) -> tuple[float, float]:
    """``(alpha, lam)`` for which (mean, var) is a fixed point of the moment map at omega = tau = 1.

    ``E selu = mean`` and ``E selu^2 = mean^2 + var`` read ``lam/2 (A + alpha B)`` and
    ``lam^2/2 (C + alpha^2 D)``; without lam they are a quadratic equation for alpha. For (0, 1) this is the
    paper's closed form, and omega does not matter.
    Raises ``ValueError`` if var is not > 0, or if no alpha > 0 and lam > 0 have this fixed point.
    """
    if not (math.isfinite(mean) and 0 < var < math.inf):
        raise ValueError(f"a fixed point must have a finite mean and a variance > 0, got {mean}, {var}")
    x, y, above, a, e1, e2 = map(float, _gaussian(mean, var))
    second, below = mean * mean + var, 2 - above
    b, c, d = e1 - below, x * a + y * above, e2 - 2 * e1 + below
    inner = 2 * (second * (d * a * a + c * b * b) - 2 * mean * mean * c * d)
    divisor = 2 * mean * mean * d - second * b * b
    # Both B and D vanish where practically no input is negative: alpha then has nothing to act on.
    if inner >= 0 and divisor:
        alpha = (second * a * b + mean * math.sqrt(inner)) / divisor
        lam = math.sqrt(2 * second / (c + alpha * alpha * d))
        if alpha > 0 and math.isclose(lam * (a + alpha * b) / 2, mean, rel_tol=1e-9, abs_tol=1e-12):
            return alpha, lam
    raise ValueError(f"no alpha > 0 and lambda > 0 give SELU the fixed point ({mean}, {var})")


ALPHA, LAM = selu_parameters()
"""SELU's own, for mean 0 and variance 1: 1.6732632423543778 and 1.0507009873554805."""
SATURATION = -LAM * ALPHA
"""SELU's limit for very negative inputs."""


def moment_map(
    mu: ArrayLike,
    omega: ArrayLike,
    nu: ArrayLike,
    tau: ArrayLike,
    alpha: float = ALPHA,
    lam: float = LAM,
) -> tuple[Array, Array]:
    """Mean and variance of a SELU unit's output (paper, equations 4 and 5); all arguments broadcast.

    ``mu``, ``nu``: mean and variance of its inputs; ``omega``, ``tau``: sum and sum of squares of weights.
    Raises ``ValueError`` unless ``nu tau > 0``.
    """
    x, y, above, ramp, e1, e2 = _gaussian(np.multiply(mu, omega), np.multiply(nu, tau))
    below = 2 - above
    mean = lam / 2 * (ramp + alpha * (e1 - below))
    second = lam**2 / 2 * (y * above + x * ramp + alpha**2 * (e2 - 2 * e1 + below))
    return mean, second - mean**2


def moment_jacobian(
    mu: ArrayLike,
    omega: ArrayLike,
    nu: ArrayLike,
    tau: ArrayLike,
    alpha: float = ALPHA,
    lam: float = LAM,
) -> Array:
    """The Jacobian of ``moment_map`` with respect to (mu, nu): (..., 2, 2), a row for each output.

    For a Gaussian, d/dx E f = E f' and d/dy E f = E f''/2, where f'' has a spike at SELU's kink.
    """
    x, y, above, ramp, e1, e2 = _gaussian(np.multiply(mu, omega), np.multiply(nu, tau))
    mean = lam / 2 * (ramp + alpha * (e1 - (2 - above)))
    density = np.exp(-x * x / (2 * y)) / np.sqrt(2 * np.pi * y)
    mean_x = lam / 2 * (above + alpha * e1)
    mean_y = lam / 4 * (alpha * e1 + 2 * (1 - alpha) * density)
    second_x = lam**2 * (ramp + alpha**2 * (e2 - e1))
    second_y = lam**2 / 2 * (above + alpha**2 * (2 * e2 - e1))
    columns = [
        np.stack([mean_x, second_x - 2 * mean * mean_x], -1) * np.asarray(omega, float)[..., None],
        np.stack([mean_y, second_y - 2 * mean * mean_y], -1) * np.asarray(tau, float)[..., None],
    ]
    return np.stack(np.broadcast_arrays(*columns), -1)


def steepness(mu: ArrayLike, omega: ArrayLike, nu: ArrayLike, tau: ArrayLike) -> Array:
    """The largest singular value of ``moment_jacobian``: below 1 the map contracts."""
    return np.linalg.norm(moment_jacobian(mu, omega, nu, tau), 2, axis=(-2, -1))


def quadrature_map(
    activation: Callable[[Array], Array], x: ArrayLike, y: ArrayLike, nodes: int = 100
) -> tuple[Array, Array]:
    """Mean and variance of ``activation(z)``, z ~ N(x, y), for any activation that is smooth but at zero.

    Gauss-Legendre on each side of zero, out to twelve standard deviations. ``x``, ``y`` broadcast.
    Raises ``ValueError`` unless y > 0.
    """
    x, y = np.broadcast_arrays(np.asarray(x, float)[..., None], np.asarray(y, float)[..., None])
    if not (y > 0).all():
        raise ValueError(f"the variance of a unit's input must be > 0, got {y.min()}")
    points, weights = np.polynomial.legendre.leggauss(nodes)
    first, second = np.zeros(x.shape[:-1]), np.zeros(x.shape[:-1])
    for end in (np.minimum(x - 12 * np.sqrt(y), 0), np.maximum(x + 12 * np.sqrt(y), 0)):
        z = end * (points + 1) / 2
        density = np.abs(end) / 2 * weights * np.exp(-((z - x) ** 2) / (2 * y)) / np.sqrt(2 * np.pi * y)
        first += (activation(z) * density).sum(-1)
        second += (activation(z) ** 2 * density).sum(-1)
    return first, second - first**2


def largest(
    function: Callable[..., Array], box: Mapping[str, tuple[float, float]], points: int, starts: int = 8
) -> float:
    """The largest value of ``function`` on a box: on a grid with its end points, then climbed from there.

    ``box``: argument -> (low, high); the function broadcasts over them. The climbers (L-BFGS-B) start from
    grid points spread over the ranks of their values, so that they look beyond the grid's best one too.
    Raises ``ValueError`` for fewer than 2 points.
    """
    if points < 2:
        raise ValueError(f"points must be >= 2 for a grid with its end points, got {points}")
    axes = [np.linspace(low, high, points) for low, high in box.values()]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    values = np.broadcast_to(function(**dict(zip(box, grid, strict=True))), [points] * len(box))
    order = np.argsort(values, axis=None)[:: -max(1, values.size // starts)]
    middle, half = np.array([[sum(side) / 2, (side[1] - side[0]) / 2] for side in box.values()]).T

    def descend(place: Array) -> float:
        # Sides differ by a factor of a hundred; seen from here each is 2.
        return -float(function(**dict(zip(box, middle + half * place, strict=True))))

    best = float(values.max())
    for index in order:
        start = [axis[i] for axis, i in zip(axes, np.unravel_index(index, values.shape), strict=True)]
        climbed = minimize(descend, (np.array(start) - middle) / half, bounds=[(-1, 1)] * len(box))
        best = max(best, -float(climbed.fun))
    return best


def extremes(
    function: Callable[..., Array], box: Mapping[str, tuple[float, float]], points: int
) -> tuple[float, float]:
    """The smallest and the largest value of ``function`` on a box, as ``largest`` finds them."""
    return -largest(lambda **at: -function(**at), box, points), largest(function, box, points)


DOMAIN = {"mu": (-0.1, 0.1), "omega": (-0.1, 0.1), "nu": (0.8, 1.5), "tau": (0.95, 1.1)}
"""Where the paper's first theorem says that the moment map contracts and does not leave."""


def image(points: int, alpha: float = ALPHA, lam: float = LAM) -> list[tuple[float, float]]:
    """Smallest and largest new mean, and new variance, on ``DOMAIN``; ``points`` as in ``largest``."""

    def moment(output: int, **at: Array) -> Array:
        return moment_map(**at, alpha=alpha, lam=lam)[output]

    return [extremes(partial(moment, output), DOMAIN, points) for output in (0, 1)]


def inside(means: tuple[float, float], variances: tuple[float, float]) -> float:
    """How far an image of ``DOMAIN`` stays from its border; negative where it leaves."""
    (low, high), (small, large) = DOMAIN["mu"], DOMAIN["nu"]
    return min(means[0] - low, high - means[1], variances[0] - small, large - variances[1])


# --- activation and dropout -------------------------------------------------------------------------------


def selu(x: Tensor, alpha: float = ALPHA, lam: float = LAM) -> Tensor:
    """``lam x`` above zero and ``lam alpha (e^x - 1)`` below: a scaled ELU, element by element."""
    return lam * elu(x, alpha)


def numpy_selu(z: Array, alpha: float = ALPHA, lam: float = LAM) -> Array:
    """The same for arrays, as ``quadrature_map`` takes it."""
    return lam * np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def _rate(p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"dropout rate must be in [0, 1), got {p}")


def alpha_dropout(x: Tensor, p: float, generator: torch.Generator, saturation: float = SATURATION) -> Tensor:
    """Send a share p of the units to SELU's saturation, then restore mean 0 and variance 1.

    ``a (x d + saturation (1 - d)) + b`` with d = 1 for units that are kept. If x has mean 0 and variance 1,
    so has the result, exactly and for any distribution. Raises ``ValueError`` unless 0 <= p < 1.
    """
    _rate(p)
    q = 1 - p
    a = 1 / math.sqrt(q * (p * saturation**2 + 1))
    dropped = torch.rand(x.shape, generator=generator, dtype=x.dtype) < p
    return a * x.masked_fill(dropped, saturation) - a * p * saturation


def standard_dropout(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Send a share p of the units to zero and multiply the rest by ``1/(1-p)``: only the mean is kept."""
    _rate(p)
    dropped = torch.rand(x.shape, generator=generator, dtype=x.dtype) < p
    return x.masked_fill(dropped, 0) / (1 - p)


def zero_dropout(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Send a share p of the units to zero and multiply the rest by ``1/sqrt(1-p)``.

    It keeps mean 0 and variance 1, as alpha dropout does, with nothing that is SELU's: the lazy rival.
    """
    return alpha_dropout(x, p, generator, saturation=0.0)


# --- networks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomLayers:
    """Layers of equal width with weights N(0, gain / width), new in every layer (gain 1: LeCun, 2: He).

    Raises ``ValueError`` for a depth, width or batch < 1 or a gain that is not > 0.
    """

    activation: Callable[[Tensor], Tensor]
    gain: float
    depth: int
    width: int
    batch: int

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for sizes that no layer has."""
        at_least(1, depth=self.depth, width=self.width, batch=self.batch)
        finite(above=True, gain=self.gain)

    def _start(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.batch, self.width, generator=generator)

    def _weights(self, generator: torch.Generator) -> Tensor:
        weights = torch.randn(self.width, self.width, generator=generator)
        return weights * math.sqrt(self.gain / self.width)

    def moments(
        self,
        generator: torch.Generator,
        start: tuple[float, float] = (0.0, 1.0),
        after: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """What the layers do to a batch of N(start) numbers: (depth, 3), a row for each layer.

        ``start``: mean and variance. ``after`` acts on every layer's output, such as noise or dropout. The
        columns: mean and variance over units and batch together, and the variance of a unit over the batch,
        averaged over units. Raises ``ValueError`` for a negative variance.
        """
        finite(variance=start[1])
        x = start[0] + math.sqrt(start[1]) * self._start(generator)
        rows = []
        for _ in range(self.depth):
            x = after(self.activation(x @ self._weights(generator)))
            rows.append(torch.stack([x.mean(), x.var(correction=0), x.var(0, correction=0).mean()]))
        return torch.stack(rows)

    def gradients(self, generator: torch.Generator, norm: bool = False) -> Tensor:
        """Size of a gradient that the layers send back: (depth,), of each layer's output, the last being 1.

        With ``norm`` each layer's units have their mean and variance over the batch divided out before the
        activation. A random direction arrives at the last layer; sizes are norms over units and batch.
        """
        x = self._start(generator).requires_grad_()
        outputs = []
        for _ in range(self.depth):
            x = x @ self._weights(generator)
            if norm:
                x = (x - x.mean(0)) * (x.var(0, correction=0) + 1e-5).rsqrt()
            x = self.activation(x)
            outputs.append(x)
        gradients = torch.autograd.grad(x, outputs, self._start(generator))
        sizes = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        return sizes / sizes[-1]

    def agreement(self, generator: torch.Generator, after: Callable[[Tensor], Tensor]) -> Tensor:
        """How far two passes of one batch correlate when ``after`` acts on each by itself: (depth,).

        Each unit's mean over the batch is subtracted first, so that only what differs from input to input
        counts: 1 where there is no noise, 0 where nothing of the input is left.
        """
        one = other = self._start(generator)
        found = []
        for _ in range(self.depth):
            weights = self._weights(generator)
            one, other = (after(self.activation(x @ weights)) for x in (one, other))
            a, b = (x - x.mean(0) for x in (one, other))
            found.append((a * b).sum() / torch.sqrt(a.square().sum() * b.square().sum()))
        return torch.stack(found)


class Dropout(nn.Module):
    """One of the three dropouts, in training only, from a generator that is seeded where the module is built.

    So a seed decides all masks of a network, whatever else draws numbers meanwhile.
    """

    def __init__(self, function: Callable[[Tensor, float, torch.Generator], Tensor], p: float):
        super().__init__()
        _rate(p)
        self.function = function
        self.p = p
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return self.function(x, self.p, self.generator) if self.training else x


class WeightNormLinear(nn.Linear):
    """A linear layer of directions and lengths (Salimans and Kingma 2016): rows ``g v / |v|``.

    Torch's own cannot be mapped over an ensemble.
    """

    def __init__(self, d_in: int, d_out: int):
        super().__init__(d_in, d_out)
        self.length = nn.Parameter(torch.ones(d_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        direction = self.weight / torch.linalg.vector_norm(self.weight, dim=1, keepdim=True)
        return linear(x, self.length * direction, self.bias)


class Skip(nn.Module):
    """``x + f(x)``, and with a gate (highway, Srivastava et al. 2015) ``t f(x) + (1 - t) x``."""

    def __init__(self, inside: nn.Module, gate: nn.Module | None = None):
        super().__init__()
        self.inside = inside
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) -> (batch, width)."""
        if self.gate is None:
            return x + self.inside(x)
        return x + torch.sigmoid(self.gate(x)) * (self.inside(x) - x)


@dataclass(frozen=True)
class Kind:
    """How the hidden layers of a plain network are made."""

    activation: type[nn.Module]
    gain: float
    """Weights start as N(0, gain / fan-in): 1 is LeCun's rule, 2 is He's."""
    norm: Literal["batch", "layer", "weight"] | None = None
    skip: Literal["highway", "residual"] | None = None
    dropout: Callable[[Tensor, float, torch.Generator], Tensor] = standard_dropout


KINDS = {
    "snn": Kind(nn.SELU, 1, dropout=alpha_dropout),
    "relu": Kind(nn.ReLU, 2),
    "bn": Kind(nn.ReLU, 2, norm="batch"),
    "ln": Kind(nn.ReLU, 2, norm="layer"),
    "wn": Kind(nn.ReLU, 2, norm="weight"),
    "highway": Kind(nn.ReLU, 2, skip="highway"),
    "residual": Kind(nn.ReLU, 2, norm="batch", skip="residual"),
    "snn_he": Kind(nn.SELU, 2, dropout=alpha_dropout),
    "snn_dropout": Kind(nn.SELU, 1),
    "snn_zero": Kind(nn.SELU, 1, dropout=zero_dropout),
    "relu_alpha": Kind(nn.ReLU, 2, dropout=alpha_dropout),
}
"""The networks by name. The last four have one thing exchanged: the initial weights or the dropout."""


GATE = -4.0
"""Bias of a highway layer's gates at first: 98 % closed, so that a deep network carries its input.

The more layers, the more negative, say Srivastava et al.; at -2 our 32 layers learn nothing.
"""


def make_mlp(
    kind: str,
    d_in: int,
    width: int,
    depth: int,
    n_classes: int,
    dropout: float = 0.0,
    bn_order: Literal["before", "after"] = "before",
) -> nn.Sequential:
    """A plain network of ``depth`` hidden layers of equal width and a linear output layer.

    (batch, d_in) -> (batch, n_classes). ``kind``: a name in ``KINDS``. Biases start at 0. ``dropout``: the
    rate after every activation; 0 adds no module. ``bn_order``: batch norm before the ReLU, as usual, or
    after it, as in the authors' code for their figure 1. Batch norm keeps no running averages: it uses the
    statistics of the batch at hand, in evaluation too. Skips start at the second layer, where shapes agree.
    Raises ``ValueError`` for an unknown kind or order, a size < 1, or a rate outside [0, 1).
    """
    one_of(KINDS, kind=kind)
    one_of(("before", "after"), bn_order=bn_order)
    at_least(1, d_in=d_in, width=width, depth=depth, n_classes=n_classes)
    _rate(dropout)
    spec = KINDS[kind]

    def dense(fan_in: int, fan_out: int, gain: float, bias: float = 0.0) -> nn.Linear:
        layer = (WeightNormLinear if spec.norm == "weight" else nn.Linear)(fan_in, fan_out)
        nn.init.normal_(layer.weight, std=math.sqrt(gain / fan_in))
        nn.init.constant_(layer.bias, bias)
        if isinstance(layer, WeightNormLinear):
            layer.length.data = torch.linalg.vector_norm(layer.weight.data, dim=1, keepdim=True)
        return layer

    def finish() -> list[nn.Module]:
        """What follows a linear layer."""
        steps: list[nn.Module] = [spec.activation()]
        if spec.norm == "batch":
            norm = nn.BatchNorm1d(width, track_running_stats=False)
            steps.insert(0 if bn_order == "before" else 1, norm)
        elif spec.norm == "layer":
            steps.insert(0, nn.LayerNorm(width))
        return [*steps, Dropout(spec.dropout, dropout)] if dropout else steps

    layers: list[nn.Module] = [dense(d_in, width, spec.gain)]
    if spec.skip != "residual":
        layers += finish()
    for _ in range(depth - 1):
        if spec.skip == "residual":
            layers.append(Skip(nn.Sequential(*finish(), dense(width, width, spec.gain))))
            continue
        layer = nn.Sequential(dense(width, width, spec.gain), *finish())
        gated = spec.skip == "highway"
        layers.append(Skip(layer, dense(width, width, 1, bias=GATE)) if gated else layer)
    if spec.skip == "residual":
        layers += finish()
    return nn.Sequential(*layers, dense(width, n_classes, 1))


@torch.no_grad()
def layer_variances(network: nn.Sequential, rows: Tensor) -> Tensor:
    """Variance over units and rows (n, d_in) together after each hidden layer, without dropout: (depth,)."""
    found = []
    for part in list(network)[:-1]:
        rows = part(rows)
        # The first layer stands apart from its activation.
        if not isinstance(part, nn.Linear):
            found.append(rows.var(correction=0))
    return torch.stack(found)
