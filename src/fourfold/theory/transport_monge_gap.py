"""The Monge gap, a penalty under which any network learns an optimal transport map (Uscidda and Cuturi 2023).

A map T moves mass at the cost of c(x, T(x)), averaged over a reference measure. The Monge gap is how much
more that is than the least cost of moving the reference to the same image. It is zero for optimal maps alone,
for any cost, and can be added to any distance between image and target.

Implemented: costs that are powers of the distance; Sinkhorn in log domain, its entropic cost and divergence,
with gradients by the envelope theorem; the gap from samples, entropic and exact; the two kinds of network;
known maps; three rivals: networks convex in their input, Gaussian and entropic maps; scores.

Departures: a fixed number of Sinkhorn iterations, where the authors' code (ott-jax) iterates until it
converges. All measures are uniform on their points.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn.functional import softplus

from fourfold.checks import at_least, finite, one_of

Map = Callable[[Tensor], Tensor]


# --- transport between samples ----------------------------------------------------------------------------


def cost_matrix(x: Tensor, y: Tensor, p: float = 2.0) -> Tensor:
    """The p-th power of the Euclidean distance: x (..., n, d), y (..., m, d) -> (..., n, m).

    Where two points coincide its gradient is set to zero. Raises ``ValueError`` for p <= 0 or other
    dimensions.
    """
    finite(above=True, p=p)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"y must have x's dimension {x.shape[-1]}, got {y.shape[-1]}")
    square = (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)
    if p == 2:
        return square
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0) ** (p / 2), 0.0)


def sinkhorn_potentials(
    cost: Tensor, eps: float | Tensor, n_iter: int, g: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Dual potentials f (..., n), g (..., m) of entropic transport, uniform weights: cost (..., n, m).

    The plan is ``exp((f + g - cost) / eps) / (n m)``; after the last half step its columns have their mass.

    Args:
        cost: what moving from each point to each point costs.
        eps: weight of the entropy, in units of the cost; a number, or one for each matrix.
        n_iter: iterations, each an update of f and one of g, in log domain.
        g: where to start, by default 0.

    Raises:
        ValueError: for n_iter < 1, or a number eps that is not > 0.
    """
    at_least(1, n_iter=n_iter)
    if not isinstance(eps, Tensor):
        finite(above=True, eps=eps)
    scale = torch.as_tensor(eps, dtype=cost.dtype)[..., None]
    kernel = -cost / scale[..., None]
    n, m = cost.shape[-2:]
    v = torch.zeros_like(cost[..., 0, :]) if g is None else g / scale
    for _ in range(n_iter):
        u = math.log(m) - torch.logsumexp(kernel + v.unsqueeze(-2), -1)
        v = math.log(n) - torch.logsumexp(kernel + u.unsqueeze(-1), -2)
    return scale * u, scale * v


def entropic_cost(cost: Tensor, eps: float | Tensor, n_iter: int, g: Tensor | None = None) -> Tensor:
    """The least of <P, cost> - eps H(P) over plans P with uniform marginals: (..., n, m) -> (...).

    H(P) = - sum P log P is Shannon's entropy, not the divergence from the product of the marginals, so that
    the value is below the cost of transport. It is the dual value, which is below the least until Sinkhorn's
    iterations have converged. The gradient is the plan, by the envelope theorem: iterations are not
    differentiated. Arguments and errors as for `sinkhorn_potentials`.
    """
    frozen = cost.detach()
    n, m = cost.shape[-2:]
    f, g = sinkhorn_potentials(frozen, eps, n_iter, g)
    scale = torch.as_tensor(eps, dtype=cost.dtype)
    plan = ((f.unsqueeze(-1) + g.unsqueeze(-2) - frozen) / scale[..., None, None]).exp() / (n * m)
    value = f.mean(-1) + g.mean(-1) - scale * math.log(n * m)
    return value + (plan * (cost - frozen)).sum((-2, -1))


def sinkhorn_divergence(x: Tensor, y: Tensor, eps: float, n_iter: int) -> Tensor:
    """How far two samples are apart, squared distances as costs: x (..., n, d), y (..., n, d) -> (...).

    Of the entropic costs, that between the two less the mean of those within each (Feydy et al. 2019); these
    converge faster and get half the iterations. ``eps`` is relative to the mean cost within y, which is not
    differentiated. Raises ``ValueError`` for samples of different size, and as `sinkhorn_potentials` does.
    """
    if x.shape != y.shape:
        raise ValueError(f"y must have x's shape {tuple(x.shape)}, got {tuple(y.shape)}")
    within_y = cost_matrix(y, y)
    scale, half = _relative(eps, within_y), (n_iter + 1) // 2
    between = entropic_cost(cost_matrix(x, y), scale, n_iter)
    within = entropic_cost(cost_matrix(x, x), scale, half) + entropic_cost(within_y, scale, half)
    return between - within / 2


def monge_gap(x: Tensor, mapped: Tensor, eps: float, n_iter: int, p: float = 2.0) -> Tensor:
    """The entropic Monge gap of a map from a sample of the reference: x (..., n, d) and T(x) alike -> (...).

    Cost is the p-th power of the distance, and ``eps`` relative to the mean cost between x and T(x), which is
    not differentiated. It is never below the exact gap (see `exact_monge_gap`), and above it by eps log n to
    2 eps log n once Sinkhorn has converged.
    Raises ``ValueError`` as `cost_matrix` and `sinkhorn_potentials` do.
    """
    cost = cost_matrix(x, mapped, p)
    moved = cost.diagonal(dim1=-2, dim2=-1).mean(-1)
    return moved - entropic_cost(cost, _relative(eps, cost), n_iter)


def displacement(x: Tensor, mapped: Tensor, p: float = 2.0) -> Tensor:
    """Mean cost of a map's moves, the p-th power of the distance: x (..., n, d) and T(x) alike -> (...).

    It is what the gap has before the least cost is subtracted. Raises ``ValueError`` as `cost_matrix` does.
    """
    return cost_matrix(x, mapped, p).diagonal(dim1=-2, dim2=-1).mean(-1)


def objective(
    outputs: Tensor,
    y: Tensor,
    misfit: Callable[[Tensor, Tensor], Tensor],
    penalty: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """What training minimises on a batch, a number: misfit of images to targets, and penalty on a reference.

    ``outputs`` (n, 2, 2 d) are a source point and a point of the reference, each with its image beside it;
    ``y`` (n, d) targets, which are never paired. ``penalty`` takes reference points and their images.
    """
    (_, mapped), reference = outputs[:, 0].chunk(2, -1), outputs[:, 1].chunk(2, -1)
    return misfit(mapped, y) + (penalty(*reference) if penalty else 0.0)


def _relative(eps: float, cost: Tensor) -> Tensor:
    finite(above=True, eps=eps)
    return eps * cost.detach().mean((-2, -1))


def exact_monge_gap(x: Tensor, mapped: Tensor, p: float = 2.0) -> float:
    """The Monge gap of a map on a sample, by assignment: x (n, d) and T(x) alike, in units of the cost.

    Raises ``ValueError`` for samples of different shape, and as `cost_matrix` does.
    """
    if x.shape != mapped.shape:
        raise ValueError(f"mapped must have x's shape {tuple(x.shape)}, got {tuple(mapped.shape)}")
    cost = cost_matrix(x.detach().double(), mapped.detach().double(), p).numpy()
    return float(cost.diagonal().mean() - cost[linear_sum_assignment(cost)].mean())


def exact_gaps(x: Tensor, mapped: Tensor, p: float = 2.0) -> list[float]:
    """The exact gap of each of several maps: x (maps, n, d) and T(x) alike. Errors as `exact_monge_gap`."""
    return [exact_monge_gap(*pair, p) for pair in zip(x, mapped, strict=True)]


def entropic_excess(
    x: Tensor, images: Tensor, epsilons: Sequence[float], n_iter: int
) -> tuple[Tensor, Tensor]:
    """By how much the entropic gap of several maps exceeds the exact one, and how far its plans stray.

    Args:
        x: points of the reference, (n, d), and ``images`` of them under each map, (maps, n, d); float64.
        epsilons: weights of the entropy in units of the squared distance, falling.
        n_iter: iterations for each, from where the last one ended.

    Returns:
        Excess and largest relative error of a point's mass, both (maps, epsilons).

    Raises:
        ValueError: as `cost_matrix` and `sinkhorn_potentials` do.
    """
    points = x.expand_as(images)
    matrices, gaps = cost_matrix(points, images), torch.tensor(exact_gaps(points, images), dtype=x.dtype)
    moved, g = displacement(points, images), None
    excess, strayed = [], []
    for e in epsilons:
        f, g = sinkhorn_potentials(matrices, e, n_iter, g)
        mass = ((f[..., None] + g[:, None] - matrices) / e).exp().mean(-1)
        strayed.append((mass - 1).abs().amax(-1))
        excess.append(moved - entropic_cost(matrices, e, 1, g) - gaps)
    return torch.stack(excess, -1), torch.stack(strayed, -1)


def asymmetry(mapped: Map, x: Tensor) -> Tensor:
    """How far a map's Jacobians are from symmetric, as those of optimal maps are for the squared distance.

    The norm of the antisymmetric part over that of the whole, 0 to 1, mean over points x (n, d): a number.
    """
    jacobians = vmap(jacrev(mapped))(x)
    return ((jacobians - jacobians.mT).norm(dim=(1, 2)) / jacobians.norm(dim=(1, 2)) / 2).mean()


# --- networks ---------------------------------------------------------------------------------------------


class MapMLP(nn.Module):
    """``T(x) = skip x + MLP(x)`` with GELU between layers, (..., d) -> (..., 2 d): x, and T(x) beside it.

    A gap needs both. The authors' code has skip = 1; with 0 it is a plain network, with -1 it starts near the
    worst of all maps. Raises ``ValueError`` for sizes below 1.
    """

    def __init__(self, d: int, hidden: int = 64, layers: int = 3, skip: float = 0.0):
        super().__init__()
        at_least(1, d=d, hidden=hidden, layers=layers)
        self.skip = skip
        widths = [d, *[hidden] * layers]
        inner = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.GELU())]
        self.net = nn.Sequential(*inner, nn.Linear(hidden, d))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 2 d)."""
        return torch.cat([x, self.skip * x + self.net(x)], -1)


class ICNN(nn.Module):
    """The gradient of a network that is convex in its input (Amos et al. 2017): (..., d) -> (..., 2 d).

    Softplus units whose weights on units below are softplus of what is learnt, so that they are positive; at
    every layer an affine part of x; and half the squared norm of x. As for `MapMLP` the output has x first.
    Raises ``ValueError`` for sizes below 1.
    """

    def __init__(self, d: int, hidden: int = 64, layers: int = 3):
        super().__init__()
        at_least(1, d=d, hidden=hidden, layers=layers)
        widths = [*[hidden] * layers, 1]
        self.affine = nn.ModuleList(nn.Linear(d, width) for width in widths)
        self.raw = nn.ParameterList(torch.randn(b, a) * 0.1 - 3 for a, b in pairwise(widths))

    def potential(self, x: Tensor) -> Tensor:
        """The convex function: (..., d) -> (...)."""
        z = softplus(self.affine[0](x))
        for depth, (raw, affine) in enumerate(zip(self.raw, list(self.affine)[1:], strict=True), 1):
            z = z @ softplus(raw).T * 2 / math.sqrt(raw.shape[1]) + affine(x)
            z = softplus(z) if depth < len(self.raw) else z
        return z[..., 0] + x.square().sum(-1) / 2

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 2 d)."""
        return torch.cat([x, torch.func.grad(lambda at: self.potential(at).sum())(x)], -1)


def map_of(net: nn.Module) -> Map:
    """The map of a network that returns points with their images beside them: (..., d) -> (..., d)."""
    return lambda x: net(x).chunk(2, -1)[1]


# --- known maps, and maps without training ----------------------------------------------------------------


@dataclass(frozen=True)
class ConvexGradient:
    """``T(x) = A x + amplitude V^T tanh(1.5 (V x + b))``, the gradient of a convex function of x in R^d.

    So it is the optimal map to its image for the squared distance. A (d, d) is symmetric and positive, V
    (k, d), b (k).
    """

    a: Tensor
    v: Tensor
    b: Tensor
    amplitude: float

    def __call__(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d), computed in float64."""
        at = x.double()
        return (at @ self.a + self.amplitude * torch.tanh(1.5 * (at @ self.v.T + self.b)) @ self.v).to(x)


def convex_gradient(
    d: int, generator: torch.Generator, smallest: float = 0.5, largest: float = 1.5, amplitude: float = 0.8
) -> ConvexGradient:
    """Draw such a map: eigenvalues of A from smallest to largest, eight unit rows of V, normal b; in float64.

    Raises ``ValueError`` for d < 1, or an eigenvalue or amplitude below zero.
    """
    at_least(1, d=d)
    finite(smallest=smallest, largest=largest, amplitude=amplitude)
    q, _ = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))
    v = torch.randn(8, d, dtype=torch.float64, generator=generator)
    b = torch.randn(8, dtype=torch.float64, generator=generator)
    eigenvalues = torch.linspace(smallest, largest, d, dtype=torch.float64)
    return ConvexGradient(q * eigenvalues @ q.T, v / v.norm(dim=1, keepdim=True), b, amplitude)


def moon(n: int, generator: torch.Generator) -> Tensor:
    """Points of half a circle, turned by 30 degrees, noise 0.05: (n, 2). Source of the authors' tutorial."""
    t = math.pi * torch.rand(n, generator=generator)
    return _placed(torch.stack([t.cos(), t.sin()], -1), generator, 30, 1.0, (0.0, -0.5))


def s_curve(n: int, generator: torch.Generator) -> Tensor:
    """Points of an S, 0.6 as large and turned by 90 degrees, noise 0.05: (n, 2). Its target."""
    t = 3 * math.pi * (torch.rand(n, generator=generator) - 0.5)
    return _placed(torch.stack([t.sign() * (t.cos() - 1), t.sin()], -1), generator, 90, 0.6, (1.0, -2.0))


def _placed(
    x: Tensor, generator: torch.Generator, degrees: float, scale: float, mean: tuple[float, float]
) -> Tensor:
    noisy = x + 0.05 * torch.randn(x.shape, generator=generator)
    return scale * noisy @ rotation(degrees).float().T + torch.tensor(mean)


def rotation(degrees: float) -> Tensor:
    """The matrix (2, 2) of a turn of the plane, float64."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def rings(radii: int, turns: int) -> Tensor:
    """Points of a standard normal in the plane, on rings of equal mass: (radii * turns, 2), float64."""
    at_least(1, radii=radii, turns=turns)
    radius = (-2 * torch.log1p(-(torch.arange(radii, dtype=torch.float64) + 0.5) / radii)).sqrt()
    first = torch.stack([radius, 0 * radius], -1)
    return torch.cat([first @ rotation(360 * i / turns).T for i in range(turns)])


def shelf(books: int, way: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Books on a shelf, at exponential distances, and where they go to be one place further: (books, 1) each.

    "push" sends each to the next place, "jump" the first one behind the last. In float64.
    Raises ``ValueError`` for fewer than one book or another way.
    """
    at_least(1, books=books)
    one_of(("push", "jump"), way=way)
    apart = torch.empty(books, 1, dtype=torch.float64).exponential_(generator=generator)
    places = torch.cat([0 * apart[:1], apart.cumsum(0)])
    return places[:-1], places[1:] if way == "push" else torch.cat([places[-1:], places[1:-1]])


def gaussian_map(x: Tensor, y: Tensor) -> Map:
    """The optimal map, squared distance, between Gaussians with the moments of x (n, d) and of y (m, d).

    Computed in float64. Raises ``ValueError`` for fewer than d + 1 points.
    """
    for name, sample in {"x": x, "y": y}.items():
        if len(sample) <= sample.shape[1]:
            raise ValueError(f"{name} must have > d = {sample.shape[1]} points, got {len(sample)}")
    x, y = x.double(), y.double()
    source, target = torch.cov(x.T), torch.cov(y.T)
    root = _power(source, 0.5)
    inverse = _power(source, -0.5)
    linear = inverse @ _power(root @ target @ root, 0.5) @ inverse
    return lambda at: ((at.double() - x.mean(0)) @ linear + y.mean(0)).to(at)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values**exponent @ vectors.T


def entropic_map(x: Tensor, y: Tensor, eps: float, n_iter: int, p: float = 2.0) -> Map:
    """The map of entropic transport from x (n, d) to y (m, d), at any point: a mean of y (Pooladian 2021).

    Its weights are the plan's, from the potential on y and the p-th power of the distance; eps is relative to
    the mean cost. Raises ``ValueError`` as `cost_matrix` and `sinkhorn_potentials` do.
    """
    cost = cost_matrix(x, y, p)
    scale = _relative(eps, cost)
    _, g = sinkhorn_potentials(cost, scale, n_iter)
    return lambda at: torch.softmax((g - cost_matrix(at, y, p)) / scale, -1) @ y


# --- scores -----------------------------------------------------------------------------------------------


def l2_uvp(mapped: Tensor, truth: Tensor) -> Tensor:
    """Unexplained variance in per cent: T(x) and the optimal T*(x), both (..., n, d) -> (...).

    ``100 E |T - T*|^2 / Var T*``: 0 for T*, 100 for the constant map to the mean (Korotin et al. 2021).
    Raises ``ValueError`` for different shapes.
    """
    if mapped.shape != truth.shape:
        raise ValueError(f"mapped must have truth's shape {tuple(truth.shape)}, got {tuple(mapped.shape)}")
    variance = (truth - truth.mean(-2, keepdim=True)).square().sum(-1).mean(-1)
    return 100 * (mapped - truth).square().sum(-1).mean(-1) / variance


def crossings(x: Tensor, mapped: Tensor) -> int:
    """How many pairs of the segments from x to T(x) cross, both (n, 2); touching does not count.

    Raises ``ValueError`` unless points are of the plane.
    """
    if x.shape != mapped.shape or x.shape[-1] != 2:
        raise ValueError(f"x and mapped must be (n, 2), got {tuple(x.shape)} and {tuple(mapped.shape)}")

    def side(point: Tensor) -> Tensor:
        """On which side of segment i a point j lies, (n, n)."""
        along, off = (mapped - x)[:, None], point[None] - x[:, None]
        return along[..., 0] * off[..., 1] - along[..., 1] * off[..., 0]

    parted = side(x) * side(mapped) < 0
    return int((parted & parted.T).sum()) // 2
