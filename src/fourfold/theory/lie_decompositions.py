"""Lie decompositions: coordinates and an invariant measure for GL+(2) and SL(2) by polar decomposition.

Mironenco and Forre, arXiv 2310.11366; the authors' code is mirceamironenco/rgenn (MIT). Every g of GL+(2) is
``e^X R`` with X symmetric and R a rotation, and with ``S = g g^T = e^(2X)`` the Haar measure is that of S
times that of R. Kernels are functions of the coordinates of ``g^-1 g~``; group elements are sampled.

Implemented: the decomposition, coordinates both ways, which elements have a real logarithm, the measure, the
published sampler, one layer on the group by any rule, lifting and group convolutions, the published network
and a plain one.

Departures from the code, where it departs from the text: the angle is the principal one, in (-pi, pi] and not
in [0, 2 pi), which cuts at the identity; equidistant rotations do not count -pi and pi twice; a group layer
divides by the number of samples (LayerNorm hides that) and by its output's determinant, not its input's; the
last layer takes its input where that was computed (the code evaluates the kernel at fresh samples there).
Matrices are 2 x 2 throughout, so closed forms take the place of eigenvalue solvers.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, conv2d, gelu, layer_norm, max_pool2d, sigmoid

from fourfold.checks import at_least, finite, one_of

Group = Literal["so2", "sl2", "gl2"]
Samples = tuple[Tensor, Tensor]
"""Group elements (G, 2, 2) and their inverses."""

DIM = {"so2": 1, "sl2": 3, "gl2": 4}
CUT = 1e-6
"""Angles so close to -pi are taken for pi: rounding must not decide between the two."""
NEGLIGIBLE = 1e-9
"""Nodes of a rule at which a feature has no more than that of its largest value are left out."""

# --- the groups -------------------------------------------------------------------------------------------


def matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Entries (...), row by row -> matrices (..., 2, 2)."""
    return torch.stack([a, b, c, d], -1).unflatten(-1, (2, 2))


def rotation(theta: Tensor) -> Tensor:
    """Angles (...) -> rotations (..., 2, 2), counter-clockwise."""
    c, s = theta.cos(), theta.sin()
    return matrix(c, -s, s, c)


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


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of ``[[m + a, b], [b, m - a]]``: m, a, b, and half the gap of its eigenvalues, d >= 0."""
    x11, x12, x21, x22 = x.flatten(-2).unbind(-1)
    a, b = (x11 - x22) / 2, (x12 + x21) / 2
    return (x11 + x22) / 2, a, b, torch.hypot(a, b)


def _sinhc(d: Tensor) -> Tensor:
    """``sinh(d) / d``, 1 at zero."""
    small = d < 1e-3
    return torch.where(small, 1 + d**2 / 6 + d**4 / 120, d.sinh() / d.masked_fill(small, 1))


def sym_exp(x: Tensor) -> Tensor:
    """``exp`` of symmetric matrices (..., 2, 2)."""
    m, a, b, d = _parts(x)
    middle, slope = m.exp() * d.cosh(), m.exp() * _sinhc(d)
    return matrix(middle + slope * a, slope * b, slope * b, middle - slope * a)


def sym_log(p: Tensor) -> Tensor:
    """``log`` of symmetric positive definite matrices (..., 2, 2)."""
    m, a, b, d = _parts(p)
    root, small = ((m - d) * (m + d)).sqrt(), d < 1e-3 * m
    # Half the gap of the logarithms over half the gap: artanh(d/m) / d.
    series = (1 + (d / m) ** 2 / 3 + (d / m) ** 4 / 5) / m
    slope = torch.where(small, series, ((m + d) / root).log() / d.masked_fill(small, 1))
    return matrix(root.log() + slope * a, slope * b, slope * b, root.log() - slope * a)


def polar(g: Tensor) -> tuple[Tensor, Tensor]:
    """``g = e^X R(theta)``, det g > 0: X (..., 2, 2), symmetric, and theta (...) in (-pi, pi].

    The rotation has a closed form, so that ``g g^T`` is never formed and its logarithm not halved.
    """
    theta = torch.atan2(g[..., 1, 0] - g[..., 0, 1], g[..., 0, 0] + g[..., 1, 1])
    theta = torch.where(theta <= CUT - math.pi, theta + 2 * math.pi, theta)
    return sym_log(g @ rotation(-theta)), theta


def xi_inv(g: Tensor, group: Group) -> Tensor:
    """Coordinates of elements (..., 2, 2) -> (..., dim), in the order of the authors' code.

    GL+(2): ``X11, sqrt(2) X12, X22, theta``; SL(2): ``sqrt(2) X12, theta, sqrt(2) X11``.
    """
    one_of(("sl2", "gl2"), group=group)
    x, theta = polar(g)
    x11, x12, _, x22 = x.flatten(-2).unbind(-1)
    root = math.sqrt(2)
    listed = (x11, root * x12, x22, theta) if group == "gl2" else (root * x12, theta, root * x11)
    return torch.stack(listed, -1)


def xi(coordinates: Tensor, group: Group) -> Tensor:
    """The elements of coordinates (..., dim): (..., 2, 2). The inverse of ``xi_inv``."""
    one_of(("sl2", "gl2"), group=group)
    if group == "gl2":
        x11, x12, x22, theta = coordinates.unbind(-1)
    else:
        x12, theta, x11 = coordinates.unbind(-1)
        x11, x22 = x11 / math.sqrt(2), -x11 / math.sqrt(2)
    x12 = x12 / math.sqrt(2)
    return sym_exp(matrix(x11, x12, x12, x22)) @ rotation(theta)


def in_exp_image(g: Tensor) -> Tensor:
    """Whether elements (..., 2, 2) of GL+(2) have a real logarithm: (...).

    They have none if their eigenvalues are negative and differ. (Neither have Jordan blocks, a null set.)
    """
    trace = g[..., 0, 0] + g[..., 1, 1]
    return (trace >= 0) | (trace**2 <= 4 * torch.linalg.det(g))


# --- measure and samples ----------------------------------------------------------------------------------


def haar_weight(log_s: Tensor) -> Tensor:
    """Density of the invariant measure of ``S = e^L`` in L, (..., 2, 2) -> (...): ``sinh(d)/d``.

    d is half the gap between the eigenvalues of L; the constant is such that it is 1 at the identity.
    """
    return _sinhc(_parts(log_s)[3])


def lognormal_weight(log_s: Tensor, var: float = 0.1) -> Tensor:
    """Density of the published sampler in L, up to a constant: ``exp(-tr(L^2) / (2 var))``."""
    return (log_s.square().sum((-2, -1)) / (-2 * var)).exp()


def sample(
    group: Group,
    n: int,
    generator: torch.Generator,
    *,
    var: float = 0.1,
    rotations: Literal["equidistant", "uniform"] = "equidistant",
) -> Samples:
    """n elements ``S^(1/2) R`` and their inverses, float64: log S is normal, sample i has the i-th rotation.

    ``var``: of each orthonormal coordinate of log S. SO(2) has ``S = 1``, SL(2) ``det S = 1``.
    Raises ``ValueError`` for another group, n < 1, var that is not > 0, or other rotations.
    """
    one_of(DIM, group=group)
    at_least(1, n=n)
    finite(above=True, var=var)
    one_of(("equidistant", "uniform"), rotations=rotations)
    normal = torch.randn(n, max(DIM[group] - 1, 2), generator=generator, dtype=torch.float64)
    x = symmetric(math.sqrt(var) * normal) / 2 * (group != "so2")
    turns = torch.arange(n, dtype=torch.float64) / n
    if rotations == "uniform":
        turns = torch.rand(n, generator=generator, dtype=torch.float64)
    r = rotation(2 * math.pi * turns - math.pi)
    return sym_exp(x) @ r, r.mT @ sym_exp(-x)


def grid(group: Group, reach: float, points: int, angles: int, traces: int = 0) -> tuple[Tensor, Tensor]:
    """Nodes of a product rule on the group: elements ``e^(L/2) R`` (N, 2, 2) and L (N, 2, 2), float64.

    ``points`` places from -reach to reach in each traceless coordinate of L, ``traces`` for GL+(2) in the
    third, ``angles`` around the circle. All have equal weight in dL dtheta.
    """
    counts = (points, points, traces) if group == "gl2" else (points, points)
    lines = (torch.linspace(-reach, reach, count, dtype=torch.float64) for count in counts)
    log_s = symmetric(torch.cartesian_prod(*lines))
    theta = 2 * math.pi * (torch.arange(angles, dtype=torch.float64) + 0.5) / angles - math.pi
    g = sym_exp(log_s / 2)[:, None] @ rotation(theta)
    return g.flatten(0, 1), log_s.repeat_interleave(angles, 0)


def group_layer(
    feature: Callable[[Tensor], Tensor],
    kernel: Callable[[Tensor], Tensor],
    outputs: Tensor,
    nodes: Tensor,
    weights: Tensor,
) -> Tensor:
    """``sum_i w_i f(g_i) k(g^-1 g_i)`` for several weightings of one set of nodes: (M, m, C).

    ``outputs``: g, (m, 2, 2). ``nodes``: g_i, (N, 2, 2). ``weights``: (M, N). ``kernel``: (..., 2, 2) ->
    (..., C).
    """
    values = weights * feature(nodes)
    seen = (values / values.amax(1, keepdim=True)).amax(0) > NEGLIGIBLE
    return torch.einsum("wn,mnc->wmc", values[:, seen], kernel(inverse(outputs)[:, None] @ nodes[seen]))


# --- layers -----------------------------------------------------------------------------------------------


class Siren(nn.Module):
    """A kernel as a function of coordinates: (..., inputs) -> (..., cout, cin), three sine layers."""

    def __init__(self, inputs: int, cin: int, cout: int, kernel: int, hidden: int = 60, w0: float = 10.0):
        super().__init__()
        at_least(1, inputs=inputs, cin=cin, cout=cout, kernel=kernel, hidden=hidden)
        self.shape, self.w0 = (cout, cin), w0
        first, second, third, self.out = (
            nn.Linear(*sizes)
            for sizes in ((inputs, hidden), (hidden, hidden), (hidden, hidden), (hidden, cin * cout))
        )
        self.layers = nn.ModuleList([first, second, third])
        root = math.sqrt(6 / hidden)
        nn.init.uniform_(first.weight, -1 / inputs, 1 / inputs)  # its bias stays torch's own, as in the code
        for layer, bound in ((second, root / w0), (third, root / w0), (self.out, root / kernel / cin**0.5)):
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates (..., inputs) -> kernel values (..., cout, cin)."""
        for layer in self.layers:
            x = torch.sin(self.w0 * layer(x))
        return self.out(x).unflatten(-1, self.shape)


class GroupConv(nn.Module):
    """``out(x, g) = |det g|^-1 mean_g~ sum_y f(y, g~) k(g^-1 (y - x), xi^-1(g^-1 g~))``; see ``LiftConv``."""

    lifting = False

    def __init__(self, group: Group, cin: int, cout: int, kernel: int = 5, padding: int = 0):
        super().__init__()
        one_of(("sl2", "gl2"), group=group)
        at_least(0, padding=padding)
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and >= 3, got {kernel}")
        self.group, self.padding = group, padding
        self.siren = Siren(2 if self.lifting else 2 + DIM[group], cin, cout, kernel)
        places = affine_grid(torch.eye(2, 3)[None], [1, 1, kernel, kernel], align_corners=False)
        self.places: Tensor  # (x, y) of pixel centres in [-1, 1]
        self.register_buffer("places", places[0], persistent=False)

    def kernels(self, inputs: Tensor, out_inverse: Tensor) -> Tensor:
        """The whole kernel (cout, Gout, cin, Gin, k, k), for given samples (G, 2, 2)."""
        with torch.no_grad():
            at = torch.einsum("oij,hwj->ohwi", out_inverse, self.places.to(out_inverse))[:, None]
            if not self.lifting:
                relative = xi_inv(out_inverse[:, None] @ inputs, self.group)[:, :, None, None]
                size = (*relative.shape[:2], *at.shape[2:4], -1)
                at = torch.cat([at.expand(size), relative.expand(size)], -1)
            if self.group == "sl2":
                mask = (at[..., :2].norm(dim=-1) <= 1).to(at)
            else:
                mask = sigmoid(2 * (1 - at.norm(dim=-1)))
            mask = mask * torch.linalg.det(out_inverse)[:, None, None, None]
        values = self.siren(at.to(self.siren.out.weight)) * mask.to(self.siren.out.weight)[..., None, None]
        return values.permute(4, 0, 5, 1, 2, 3) / values.shape[1]

    def forward(self, x: Tensor, inputs: Tensor, out_inverse: Tensor) -> Tensor:
        """(B, cin, Gin, h, w) -> (B, cout, Gout, h', w')."""
        kernel = self.kernels(inputs, out_inverse).flatten(2, 3).flatten(0, 1)
        return conv2d(x.flatten(1, 2), kernel, padding=self.padding).unflatten(1, (-1, len(out_inverse)))


class LiftConv(GroupConv):
    """``out(x, g) = |det g|^-1 sum_y f(y) k(g^-1 (y - x))``, no element on the input: Gin = 1.

    Raises ``ValueError`` for a group other than ``"sl2"`` and ``"gl2"`` or an even kernel.
    """

    lifting = True


class AffineNet(nn.Module):
    """The published digit classifier: lifting, a residual block, pooling, a group convolution, a head."""

    def __init__(self, group: Group, channels: int = 40, kernel: int = 5):
        super().__init__()
        at_least(1, channels=channels)
        self.lift = LiftConv(group, 1, channels, kernel)
        self.block = nn.ModuleList(
            GroupConv(group, channels, channels, kernel, kernel // 2) for _ in range(2)
        )
        self.last = GroupConv(group, channels, channels, kernel)
        self.head = head(channels)

    def stages(self, x: Tensor, first: Samples, last: Samples) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 1, h, w) -> features (B, channels, G, h', w') after lifting, block and last layer.

        The first two live at the samples ``first``, the third at ``last``.
        """
        lifted = y = _active(self.lift(x[:, :, None], first[0][:1], first[1]))
        for layer in self.block:
            y = _active(layer(y, *first))
        y = max_pool2d(_normed(gelu(lifted + y)).flatten(1, 2), 2).unflatten(1, lifted.shape[1:3])
        y = gelu(y)
        return lifted, y, _active(self.last(y, first[0], last[1]))

    def forward(self, x: Tensor, first: Samples, last: Samples) -> Tensor:
        """Images (B, 1, h, w) -> logits (B, 10)."""
        return self.head(self.stages(x, first, last)[-1].amax((2, 3, 4)))


class Resampled(nn.Module):
    """A network that draws its samples at every forward pass, in training and after, as published."""

    def __init__(self, net: AffineNet, n: int, generator: torch.Generator):
        super().__init__()
        self.net, self.n, self.generator = net, n, generator

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 1, h, w) -> logits (B, 10)."""
        return self.net(x, *(sample(self.net.lift.group, self.n, self.generator) for _ in range(2)))


class PlainNet(nn.Module):
    """The same network without a group: four convolutions with kernels of their own."""

    def __init__(self, channels: int, kernel: int = 5):
        super().__init__()
        at_least(1, channels=channels)
        sizes = ((1, 0), (channels, kernel // 2), (channels, kernel // 2), (channels, 0))
        self.layers = nn.ModuleList(nn.Conv2d(c, channels, kernel, 1, p, bias=False) for c, p in sizes)
        self.head = head(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 1, h, w) -> logits (B, 10)."""
        lift, one, two, last = self.layers
        x = _active(lift(x))
        x = max_pool2d(_normed(gelu(x + _active(two(_active(one(x)))))), 2)
        return self.head(_active(last(gelu(x))).amax((2, 3)))


def head(channels: int) -> nn.Sequential:
    """The published classifier of pooled features."""
    hidden = nn.Linear(channels, 256, bias=False)
    return nn.Sequential(hidden, nn.LayerNorm(256), nn.GELU(), nn.Dropout(0.3), nn.Linear(256, 10))


def _normed(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[1:])


def _active(x: Tensor) -> Tensor:
    return gelu(_normed(x))
