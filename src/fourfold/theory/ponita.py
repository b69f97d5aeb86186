"""PONITA: convolutions over positions with orientations, conditioned on invariants of point pairs.

Bekkers, Vadgama, Hesselink, van der Linden and Romero, arXiv 2310.02970; the authors' code is ebekkers/ponita
(MIT). A message from j to i depends on nothing but *attributes* of the pair, which a rigid motion does not
change. What depends on the places and the receiver's orientation (`place`) and what depends on the two
orientations alone (`turn`) are kept apart, since a separable convolution takes them one after the other.

Implemented: attributes of all spaces, grids of orientations, the separable convolution, its calibration, and
the network over a bundle of directions (PONITA), over positions alone (PNITA), over rigid motions, over
shifts only, and over points with one orientation each; the motion that joins two pairs.

Departures from the code: batches are dense, of clouds of one size, all neighbours if there is no radius;
calibration is a pass of its own before training.
"""

import math
from typing import Literal

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

from fourfold.checks import at_least, between, finite, one_of

Space = Literal["translations", "R2", "R3", "R2xS1", "R3xS2", "R3xS2+", "SE3"]
"""Where features live. ``"translations"`` shares messages among shifted pairs only, as any convolution does;
``"R3xS2+"`` has a fourth attribute, without which ``"R3xS2"`` is not complete."""

NUMBERS = {"translations": (3, 0), "R3": (1, 0), "R3xS2": (2, 1), "R3xS2+": (3, 1), "SE3": (3, 9)}
"""How many numbers `place` and `turn` are where the network runs; a fourth attribute counts with places."""
TINY = 1e-12
"""Under a root, so that the length of a vector has a gradient at 0."""

# --- attributes of pairs ----------------------------------------------------------------------------------


def length(v: Tensor) -> Tensor:
    """(..., n) -> (..., 1)."""
    return (v.square().sum(-1, keepdim=True) + TINY).sqrt()


def place(space: Space, r: Tensor, o: Tensor | None) -> Tensor:
    """Where a sender lies, seen from a receiver: relative positions r (..., n) -> (..., k).

    o is the receiver's orientation: unit vectors (..., n), in SE(3) rotations (..., 3, 3), or None. It is r
    itself; its length; along and across o; along o and the distance from its line; or ``R^T r``.
    """
    if space == "translations":
        return r
    if o is None:
        return length(r)
    if space == "SE3":
        return (r[..., None, :] @ o).squeeze(-2)
    along = (o * r).sum(-1, keepdim=True)
    if space == "R2xS1":
        return torch.cat([along, o[..., :1] * r[..., 1:] - o[..., 1:] * r[..., :1]], -1)
    return torch.cat([along, length(r - along * o)], -1)


def turn(space: Space, o_i: Tensor, o_j: Tensor) -> Tensor:
    """How the sender's orientation lies to the receiver's, -> (..., k).

    An angle in (-pi, pi] in the plane, the cosine of one in space, ``R_i^T R_j`` in SE(3).
    """
    if space == "SE3":
        return (o_i.mT @ o_j).flatten(-2)
    cosine = (o_i * o_j).sum(-1, keepdim=True)
    if space == "R2xS1":
        return torch.atan2(o_i[..., :1] * o_j[..., 1:] - o_i[..., 1:] * o_j[..., :1], cosine)
    return cosine


def attributes(space: Space, r: Tensor, o_i: Tensor | None = None, o_j: Tensor | None = None) -> Tensor:
    """The paper's attributes of pairs: r = p_j - p_i (..., n) and orientations as in `place`, -> (..., k).

    Raises ``ValueError`` for a space that is not known or lacks its orientations.
    """
    one_of((*NUMBERS, "R2", "R2xS1"), space=space)
    if space in ("translations", "R2", "R3"):
        return place(space, r, None)
    if o_i is None or o_j is None:
        raise ValueError(f"space = {space!r} needs orientations o_i and o_j, got None")
    fourth = [(o_j * r).sum(-1, keepdim=True)] if space == "R3xS2+" else []
    return torch.cat([place(space, r, o_i), turn(space, o_i, o_j), *fourth], -1)


def pair(space: Space, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Two points of a space from any numbers (..., 2, d): positions (..., 2, n) and axes (..., 2, m, n).

    d is 2 or 3 without orientations (m = 0), 4 or 6 with unit vectors (m = 1), 9 for SE(3): two of its axes.
    """
    n = 2 if space.startswith("R2") else 3
    p, rest = raw[..., :n], raw[..., n:].reshape(*raw.shape[:-1], -1, n)
    if space != "SE3":
        return p, normalize(rest, dim=-1)
    first = normalize(rest[..., 0, :], dim=-1)
    second = normalize(rest[..., 1, :] - (first * rest[..., 1, :]).sum(-1, keepdim=True) * first, dim=-1)
    return p, torch.stack([first, second, torch.linalg.cross(first, second)], -2)


def pair_attributes(space: Space, raw: Tensor) -> Tensor:
    """Attributes of two points given as in `pair`: (..., 2, d) -> (..., k)."""
    p, axes = pair(space, raw)
    o = axes.mT if space == "SE3" else axes[..., 0, :] if axes.shape[-2] else None
    ends = (None, None) if o is None else o.unbind(-3 if space == "SE3" else -2)
    return attributes(space, p[..., 1, :] - p[..., 0, :], *ends)


def apart(space: Space, one: Tensor, other: Tensor, *, mirror: bool = False) -> Tensor:
    """How far pairs (..., 2, d) stay apart after the rigid motion that joins them best: (...).

    The largest distance between their points and the tips of their axes, aligned by Kabsch's method; with
    ``mirror`` a motion may be followed by a reflection.
    """
    tips = []
    for raw in (one, other):
        p, axes = pair(space, raw)
        points = torch.cat([p[..., None, :], p[..., None, :] + axes], -2).flatten(-3, -2)
        tips.append(points - points.mean(-2, keepdim=True))
    u, _, vh = torch.linalg.svd(tips[1].mT @ tips[0])
    if not mirror:
        u = torch.cat([u[..., :-1], u[..., -1:] * torch.linalg.det(u @ vh)[..., None, None]], -1)
    return (tips[1] @ u @ vh - tips[0]).norm(dim=-1).amax(-1)


# --- grids of orientations --------------------------------------------------------------------------------


def repelled(n: int, generator: torch.Generator, steps: int = 100, rate: float = 0.1) -> Tensor:
    """The published grid: n random directions that repel each other on the sphere, (n, 3), float64.

    Gradient descent in polar angles on the mean of ``(distance / pi)^-2``, distances along the sphere, with a
    little noise that dies out; as ``uniform_grid_s2`` of the authors' code. Raises ``ValueError`` for n < 4.
    """
    at_least(4, n=n)
    at_least(0, steps=steps)
    u = torch.rand(2, n, generator=generator, dtype=torch.float64)
    angles = torch.stack([2 * math.pi * u[0], (2 * u[1] - 1).acos()], -1)
    away = ~torch.eye(n, dtype=torch.bool)
    for step in range(steps):
        x = angles.detach().requires_grad_()
        o = directions(x)
        distance = (o @ o.T)[away].clamp(-1 + 1e-12, 1 - 1e-12).acos()
        (slope,) = torch.autograd.grad((distance / math.pi).pow(-2).mean(), x)
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        angles = x.detach() - rate * (slope + (steps - step) / steps * 1e-3 * noise)
    return directions(angles)


def directions(angles: Tensor) -> Tensor:
    """Azimuth and polar angle (..., 2) -> unit vectors (..., 3)."""
    azimuth, polar = angles.unbind(-1)
    return torch.stack([polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], -1)


def icosahedron() -> Tensor:
    """Its 12 corners, (12, 3), float64: those of ``(0, ±1, ±golden ratio)`` and their cyclic shifts."""
    golden = (1 + 5**0.5) / 2
    signs = torch.cartesian_prod(*2 * [torch.tensor([1.0, -1.0], dtype=torch.float64)])
    corners = torch.cat([torch.zeros(4, 1), signs * torch.tensor([1.0, golden], dtype=torch.float64)], 1)
    return normalize(torch.cat([corners.roll(shift, 1) for shift in range(3)]), dim=-1)


def icosahedral() -> Tensor:
    """The 60 rotations of the icosahedron, (60, 3, 3), float64."""
    return torch.from_numpy(Rotation.create_group("I").as_matrix())


def frames(o: Tensor, k: int) -> Tensor:
    """Rotations (n k, 3, 3) that take the z axis to directions (n, 3), k in-plane angles each."""
    at_least(1, k=k)
    raised = torch.zeros_like(o).scatter(1, o.abs().argmin(1, keepdim=True), 1.0)
    x = normalize(torch.linalg.cross(o, raised), dim=-1)
    y = torch.linalg.cross(o, x)
    angle = 2 * math.pi * torch.arange(k, dtype=o.dtype)[:, None, None] / k
    first, second = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    return torch.stack([first, second, o.expand_as(first)], -1).flatten(0, 1)


# --- the network ------------------------------------------------------------------------------------------


class PolyFeatures(nn.Module):
    """All products of up to ``degree`` entries, repeated ones kept, without a constant."""

    def __init__(self, degree: int = 3):
        super().__init__()
        between(1, 4, degree=degree)
        self.degree = degree

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) -> (..., k + k^2 + ... + k^degree)."""
        powers = [x]
        for _ in range(1, self.degree):
            powers.append((powers[-1][..., :, None] * x[..., None, :]).flatten(-2))
        return torch.cat(powers, -1)


def basis_of(inputs: int, hidden: int, basis: int, degree: int) -> nn.Sequential:
    """The functions that kernels are made of: attributes (..., inputs) -> (..., basis)."""
    seen = sum(inputs**power for power in range(1, degree + 1))
    layers = PolyFeatures(degree), nn.Linear(seen, hidden), nn.GELU(), nn.Linear(hidden, basis), nn.GELU()
    return nn.Sequential(*layers)


def window(distance: Tensor, radius: float, p: int = 6) -> Tensor:
    """A smooth cut-off, 1 at distance 0, and 0 from ``radius`` on."""
    u = distance / radius
    inside = 1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1) - p * (p + 1) / 2 * u ** (p + 2)
    return inside * (u < 1)


class BundleConv(nn.Module):
    """One separable depth-wise convolution: over places, then over orientations if there are several."""

    def __init__(self, channels: int, basis: int, *, fibre: bool):
        super().__init__()
        self.kernel = nn.Linear(basis, channels, bias=False)
        self.fibre_kernel = nn.Linear(basis, channels, bias=False) if fibre else None
        self.bias = nn.Parameter(torch.zeros(channels))

    def steps(self, x: Tensor, edges: Tensor, turns: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features (B, N, O, C) after either step; bases of edges (B, N, N, O, D), of turns (O, O, D)."""
        first = torch.einsum("bijoc,bjoc->bioc", self.kernel(edges), x)
        if self.fibre_kernel is None:
            return first, first
        return first, torch.einsum("opc,bioc->bipc", self.fibre_kernel(turns), first) / x.shape[2]

    def forward(self, x: Tensor, edges: Tensor, turns: Tensor | None) -> Tensor:
        """(B, N, O, C) -> (B, N, O, C)."""
        return self.steps(x, edges, turns)[1] + self.bias

    @torch.no_grad()
    def rescale(self, x: Tensor, edges: Tensor, turns: Tensor | None) -> None:
        """Make both steps keep the standard deviation of features."""
        first, second = self.steps(x, edges, turns)
        self.kernel.weight *= x.std() / first.std()
        if self.fibre_kernel is not None:
            self.fibre_kernel.weight *= first.std() / second.std()


class PonitaBlock(nn.Module):
    """A ConvNeXt block around the convolution; ``layer_scale`` is where the factor on it starts, or None."""

    def __init__(self, channels: int, basis: int, *, fibre: bool, layer_scale: float | None = None):
        super().__init__()
        self.conv = BundleConv(channels, basis, fibre=fibre)
        self.norm = nn.LayerNorm(channels)
        self.widen, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        scale = None if layer_scale is None else nn.Parameter(torch.full((channels,), layer_scale))
        self.register_parameter("scale", scale)

    def forward(self, x: Tensor, edges: Tensor, turns: Tensor | None) -> Tensor:
        """(B, N, O, C) -> (B, N, O, C)."""
        y = self.narrow(gelu(self.widen(self.norm(self.conv(x, edges, turns)))))
        return x + (y if self.scale is None else self.scale * y)


class Ponita(nn.Module):
    """The network: scalars and vectors at points in space -> scalars and vectors at the same points.

    ``space`` and ``grid`` say where features live: ``"R3xS2"`` over directions (O, 3) is PONITA, ``"R3"``
    without a grid PNITA, ``"SE3"`` over rotations (O, 3, 3) what they are compared with. ``"R3xS2"`` without
    a grid has points with an orientation each. ``"translations"`` takes coordinates as scalars.
    Raises ``ValueError`` for sizes < 1, a radius that is not > 0, or a grid that does not fit the space.
    """

    def __init__(
        self,
        space: Space,
        inputs: int,
        hidden: int,
        out_scalar: int,
        out_vector: int,
        layers: int,
        grid: Tensor | None = None,
        *,
        basis: int | None = None,
        degree: int = 3,
        radius: float | None = None,
        layer_scale: float | None = None,
    ):
        super().__init__()
        one_of(NUMBERS, space=space)
        outputs = out_scalar + out_vector
        at_least(1, inputs=inputs, hidden=hidden, outputs=outputs, layers=layers)
        finite(above=True, radius=1.0 if radius is None else radius)
        fits = {"R3xS2": (None, (3,)), "SE3": ((3, 3),)}.get(space, (None,))
        if (shape := None if grid is None else tuple(grid.shape[1:])) not in fits:
            raise ValueError(f"grid must have elements of {space}, got elements of shape {shape}")
        self.space, self.radius, self.out_scalar = space, radius, out_scalar
        # A parameter, though none that is trained, so that networks trained side by side keep their own.
        self.grid = None if grid is None else nn.Parameter(grid, requires_grad=False)
        places, turns = NUMBERS[space] if grid is not None else (sum(NUMBERS[space]), 0)
        basis = basis or hidden
        self.edge_basis = basis_of(places, hidden, basis, degree)
        self.turn_basis = basis_of(turns, hidden, basis, degree) if turns else None
        self.embed = nn.Linear(inputs, hidden, bias=False)
        self.blocks = nn.ModuleList(
            PonitaBlock(hidden, basis, fibre=turns > 0, layer_scale=layer_scale) for _ in range(layers)
        )
        self.read_outs = nn.ModuleList(nn.Linear(hidden, outputs) for _ in range(layers))

    def forward(
        self, pos: Tensor, x: Tensor, vec: Tensor | None = None, ori: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Positions (B, N, 3), scalars (B, N, s), vectors (B, N, v, 3), own orientations (B, N, 3).

        Returns scalars (B, N, out_scalar) and vectors (B, N, out_vector, 3).
        """
        r, turns = pos[:, None] - pos[:, :, None], None
        grid = None if self.grid is None else self.grid.to(pos)
        if ori is not None:
            axes = ori[:, :, None]
            edges = attributes(self.space, r, axes, ori[:, None])[..., None, :]
        else:
            edges = place(self.space, r[..., None, :], grid)
            axes = torch.zeros_like(pos[:, :, None])
        if grid is not None and self.turn_basis is not None:
            axes = grid[..., -1] if self.space == "SE3" else grid
            turns = self.turn_basis(turn(self.space, grid[:, None], grid))
        edges = self.edge_basis(edges)
        if self.radius is not None:
            edges = edges * window(length(r), self.radius)[..., None, :]
        lifted = [x[:, :, None].expand(-1, -1, axes.shape[-2], -1)]
        if vec is not None:
            lifted.append((vec[:, :, None] * axes[..., None, :]).sum(-1))
        h, read = self.embed(torch.cat(lifted, -1)), []
        for block, read_out in zip(self.blocks, self.read_outs, strict=True):
            h = block(h, edges, turns)
            read.append(read_out(h))
        out = torch.stack(read).mean(0)
        vectors = out[..., self.out_scalar :, None] * axes[..., None, :]
        return out[..., : self.out_scalar].mean(2), vectors.mean(2)


def calibrate(net: nn.Module, *inputs: Tensor) -> nn.Module:
    """The same network, its convolutions rescaled on these inputs, one after the other."""
    hooks = [
        module.register_forward_pre_hook(lambda conv, given: conv.rescale(*given))
        for module in net.modules()
        if isinstance(module, BundleConv)
    ]
    with torch.no_grad():
        net(*inputs)
    for hook in hooks:
        hook.remove()
    return net
