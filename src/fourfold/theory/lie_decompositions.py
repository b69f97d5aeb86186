"""Lie decompositions: coordinates and an invariant measure for GL+(2) and SL(2) by polar decomposition.

Mironenco and Forre, arXiv 2310.11366; the authors' code is mirceamironenco/rgenn (MIT). Every g of GL+(2) is
``e^X R`` with X symmetric and R a rotation, and with ``S = g g^T = e^(2X)`` the Haar measure is that of S
times that of R. Kernels are functions of the coordinates of ``g^-1 g~``; group elements are sampled.

Implemented: the decomposition, coordinates both ways, which elements have a real logarithm, the measure, the
published sampler, one layer on the group by any rule, lifting and group convolutions, the published network.

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
from torch.nn.functional import affine_grid, conv2d, gelu, layer_norm, max_pool2d, pad, sigmoid

from fourfold.checks import at_least, finite, one_of
from fourfold.matrices import inverse, matrix, parts, rotation, sinhc, sym_exp, sym_log, symmetric
from fourfold.training import seeded, stream

Group = Literal["so2", "sl2", "gl2"]
Samples = tuple[Tensor, Tensor]
"""Group elements (G, 2, 2) and their inverses."""

DIM = {"so2": 1, "sl2": 3, "gl2": 4}
CUT = 1e-6
"""Angles so close to -pi are taken for pi: rounding must not decide between the two."""
NEGLIGIBLE = 1e-9
"""Nodes of a rule at which a feature has no more than that of its largest value are left out."""

# --- the groups -------------------------------------------------------------------------------------------


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
    return sinhc(parts(log_s)[3])


def lognormal_weight(log_s: Tensor, var: float = 0.1) -> Tensor:
    """Density of the published sampler in L, up to a constant: ``exp(-tr(L^2) / (2 var))``."""
    return (log_s.square().sum((-2, -1)) / (-2 * var)).exp()


def sample(group: Group, n: int, generator: torch.Generator, var: float = 0.1) -> Samples:
    """n elements ``S^(1/2) R`` and their inverses, float64: log S is normal, rotations are equidistant.

    ``var``: of each orthonormal coordinate of log S. SO(2) has ``S = 1``, SL(2) ``det S = 1``.
    Raises ``ValueError`` for another group, n < 1, or var that is not > 0.
    """
    one_of(DIM, group=group)
    at_least(1, n=n)
    finite(above=True, var=var)
    normal = torch.randn(n, max(DIM[group] - 1, 2), generator=generator, dtype=torch.float64)
    x = symmetric(math.sqrt(var) * normal) / 2 * (group != "so2")
    r = rotation(2 * math.pi * torch.arange(n, dtype=torch.float64) / n - math.pi)
    return sym_exp(x) @ r, r.mT @ sym_exp(-x)


def draw_two(group: Group | None, n: int, generator: torch.Generator) -> tuple[Samples, Samples]:
    """Samples of the first layers and of the last; of no group the identity alone, an ordinary kernel."""
    one = torch.eye(2, dtype=torch.float64)[None]
    if group is None:
        return (one, one), (one, one)
    return sample(group, n, generator), sample(group, n, generator)


def published(group: Group, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n samples (n, 2, 2) and their weights (1, n), all the same."""
    return sample(group, n, generator)[0], torch.full((1, n), 1 / n, dtype=torch.float64)


def weighted(group: Group, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same, wider and weighted so that sums estimate invariant integrals."""
    g, _ = sample(group, n, generator, var := 0.5)
    log_s = 2 * polar(g)[0]
    return g, haar_weight(log_s)[None] / lognormal_weight(log_s, var) / n


def relative(group: Group, n: int, var: float = 0.1) -> Tensor:
    """``g^-1 g~`` for n pairs of samples with uniform rotations, by a Sobol sequence: (n, 2, 2), float64."""
    half = DIM[group]
    u = torch.quasirandom.SobolEngine(2 * half, scramble=True, seed=0).draw(n, dtype=torch.float64)
    x = symmetric(math.sqrt(var) * torch.special.ndtri(u.unflatten(1, (2, half))[..., :-1])) / 2
    g = sym_exp(x) @ rotation(2 * math.pi * u.unflatten(1, (2, half))[..., -1])
    return inverse(g[:, 0]) @ g[:, 1]


def grid(group: Group, points: int, angles: int) -> tuple[Tensor, Tensor]:
    """Nodes of a product rule on the group: elements ``e^(L/2) R`` (N, 2, 2) and L (N, 2, 2), float64.

    ``points`` places from -6 to 6 in each traceless coordinate of L, in GL+(2) as many from -4.5 to 4.5 in
    the third, ``angles`` around the circle. All have equal weight in dL dtheta.
    """
    line = torch.linspace(-6, 6, points, dtype=torch.float64)
    log_s = symmetric(torch.cartesian_prod(*(line, line, 0.75 * line)[: DIM[group] - 1]))
    theta = 2 * math.pi * (torch.arange(angles, dtype=torch.float64) + 0.5) / angles - math.pi
    g = sym_exp(log_s / 2)[:, None] @ rotation(theta)
    return g.flatten(0, 1), log_s.repeat_interleave(angles, 0)


def bump(g: Tensor, width: float = 0.3, sharpness: float = 6.0) -> Tensor:
    """A smooth function on the group, largest at the identity: (..., 2, 2) -> (...).

    Normal in the symmetric coordinate, von Mises in the angle.
    """
    x, theta = polar(g)
    return (x.square().sum((-2, -1)) / (-2 * width**2) + sharpness * (theta.cos() - 1)).exp()


def change(still: Tensor, moved: Tensor, *, forgive: bool = False) -> Tensor:
    """Relative change of responses (M, m, C) -> (M,); with ``forgive`` up to the best common factor."""
    still, moved = still.flatten(1), moved.flatten(1)
    if forgive:
        moved = moved * ((moved * still).sum(1) / moved.square().sum(1))[:, None]
    return (moved - still).norm(dim=1) / still.norm(dim=1)


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


class RandomLayer:
    """A random SIREN of the coordinates, at its centre in the plane, outputs near 1, a bump as its input."""

    def __init__(self, group: Group, seed: int, outputs: int = 3, width: float = 0.3):
        self.group, self.width = group, width
        with seeded(seed):
            self.siren = Siren(2 + DIM[group], 1, 4, 5).double().requires_grad_(False)
        normal = torch.randn(outputs, DIM[group], generator=stream(seed, "outputs"), dtype=torch.float64)
        self.outputs = sym_exp(symmetric(0.15 * normal[:, 1:])) @ rotation(0.5 * normal[:, 0])

    def response(self, h: Tensor, nodes: Tensor, weights: Tensor) -> Tensor:
        """At outputs ``h g`` to the bump moved by h: ``sum_i w_i f(h^-1 g_i) k((h g)^-1 g_i)``.

        ``nodes``: g_i, (N, 2, 2). ``weights``: (M, N), several for one set of nodes. Returns (M, outputs,
        4). Equivariance is that h does not matter.
        """
        values = weights * bump(inverse(h) @ nodes, self.width)
        seen = (values / values.amax(1, keepdim=True)).amax(0) > NEGLIGIBLE
        at = xi_inv(inverse(h @ self.outputs)[:, None] @ nodes[seen], self.group)
        return torch.einsum("wn,mnc->wmc", values[:, seen], self.siren(pad(at, (2, 0)))[..., 0])

    def noisy_change(
        self,
        h: Tensor,
        draw: Callable[..., tuple[Tensor, Tensor]],
        counts: list[int],
        generator: torch.Generator,
    ) -> list[float]:
        """Root mean square change under h between two draws of n samples, over eight pairs, for each n.

        ``draw``: such as ``published``. Relative to the mean response for the last of ``counts``.
        """
        one = torch.eye(2, dtype=torch.float64)
        drawn = [[self.response(by, *draw(self.group, n, generator)) for by in (one, h) * 8] for n in counts]
        pairs = torch.stack([torch.cat(row) for row in drawn]).flatten(2).unflatten(1, (8, 2))
        change = (pairs[:, :, 1] - pairs[:, :, 0]).square().sum(2).mean(1).sqrt()
        return (change / pairs[-1, :, 0].mean(0).norm()).tolist()


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
        places = affine_grid(torch.eye(2, 3).double()[None], [1, 1, kernel, kernel], align_corners=False)
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

    def pooled(self, x: Tensor, first: Samples, last: Samples) -> Tensor:
        """Images (B, 1, h, w) -> maximum, mean and mean square of each stage's channels, (B, 9 channels)."""
        stages = [z.flatten(2) for z in self.stages(x, first, last)]
        return torch.cat([p for z in stages for p in (z.amax(2), z.mean(2), z.square().mean(2))], 1)

    def forward(self, x: Tensor, first: Samples, last: Samples) -> Tensor:
        """Images (B, 1, h, w) -> logits (B, 10)."""
        return self.head(self.stages(x, first, last)[-1].amax((2, 3, 4)))


class Resampled(nn.Module):
    """A network that draws its samples at every forward pass, in training and after, as published."""

    def __init__(self, net: AffineNet, group: Group | None, n: int, generator: torch.Generator):
        super().__init__()
        self.net, self.how = net, (group, n, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 1, h, w) -> logits (B, 10)."""
        return self.net(x, *draw_two(*self.how))


def head(channels: int) -> nn.Sequential:
    """The published classifier of pooled features."""
    hidden = nn.Linear(channels, 256, bias=False)
    return nn.Sequential(hidden, nn.LayerNorm(256), nn.GELU(), nn.Dropout(0.3), nn.Linear(256, 10))


def _normed(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[1:])


def _active(x: Tensor) -> Tensor:
    return gelu(_normed(x))
