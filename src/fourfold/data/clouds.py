"""Clouds of points in space: charged particles, dipoles, a point with two neighbours; and how they move.

Charged particles are those of the n-body benchmark of equivariant networks, from the code of EGNN (Satorras,
Hoogeboom and Welling, arXiv 2102.09844), after Kipf et al. A cloud of them is one tensor (N, 7): position,
charge, velocity.
"""

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import normalize

from fourfold.checks import at_least, between, finite

SPREAD = 0.25
"""Of the energies of four dipoles."""

# --- rigid motions ----------------------------------------------------------------------------------------


def rotations(n: int, generator: torch.Generator) -> Tensor:
    """n uniform rotations of space, (n, 3, 3), float64. Raises ``ValueError`` for n < 1."""
    at_least(1, n=n)
    draw = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    return torch.from_numpy(Rotation.random(n, rng=draw).as_matrix())


def turned(clouds: Tensor, turns: Tensor, shift: float = 0.0) -> Tensor:
    """Charged clouds (..., N, 7) after rotations (..., 3, 3), and moved along (1, 1, 1) by ``shift``."""
    pos, charge, velocity = clouds.split([3, 1, 3], -1)
    return torch.cat([pos @ turns.mT + shift, charge, velocity @ turns.mT], -1)


def moved(points: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Groups of points (M, N, d) after a rigid motion each; a row is a place and vectors that turn with it.

    Raises ``ValueError`` for n other than 2 and 3.
    """
    between(2, 3, n=n)
    turns = rotations(len(points), generator)
    if n == 2:
        angle = 2 * math.pi * torch.rand(len(points), generator=generator, dtype=torch.float64)
        turns = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    rows = points.unflatten(-1, (-1, n)) @ turns[:, None].mT
    rows[..., 0, :] += torch.randn(len(points), 1, n, generator=generator, dtype=torch.float64)
    return rows.flatten(-2)


# --- charged particles ------------------------------------------------------------------------------------


def coulomb(pos: Tensor, charge: Tensor, soften: float = 0.0, power: float = 3.0) -> Tensor:
    """Forces between charges: positions (..., N, 3), charges (..., N) -> (..., N, 3).

    On particle i, ``sum_j q_i q_j (p_i - p_j) / (d_ij^2 + soften^2)^(power / 2)``.
    """
    away = pos[..., :, None, :] - pos[..., None, :, :]
    itself = torch.eye(pos.shape[-2]).to(pos)
    squared = away.square().sum(-1) + soften**2 + itself
    size = charge[..., :, None] * charge[..., None, :] * squared ** (-power / 2) * (1 - itself)
    return (size[..., None] * away).sum(-2)


def nbody(
    n: int, generator: torch.Generator, t0: int, horizon: int, particles: int = 5, dt: float = 1e-3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """n clouds of charges ±1: positions, velocities (n, N, 3), charges (n, N), later positions; float64.

    Standard normal starts, speed 0.5, each component of a force clamped to ±100, leapfrog steps of ``dt``;
    seen after ``t0`` steps, and ``horizon`` steps later. Raises ``ValueError`` for n, particles or horizon
    below 1, or t0 below 0.
    """
    at_least(1, n=n, particles=particles, horizon=horizon)
    at_least(0, t0=t0)
    pos, way = torch.randn(2, n, particles, 3, generator=generator, dtype=torch.float64).unbind()
    velocity = 0.5 * normalize(way, dim=-1)
    charge = 2.0 * torch.randint(2, (n, particles), generator=generator).double() - 1
    seen = pos, velocity
    for step in range(t0 + horizon):
        if step == t0:
            seen = pos, velocity
        velocity = velocity + dt * coulomb(pos, charge).clamp(-100, 100)
        pos = pos + dt * velocity
    return *seen, charge, pos


def trajectories(n: int, generator: torch.Generator, t0: int, horizon: int) -> tuple[Tensor, Tensor]:
    """n clouds of `nbody`, (n, 5, 7), and displacements (n, 5, 3) after ``horizon`` steps; float32."""
    pos, velocity, charge, later = nbody(n, generator, t0, horizon)
    return torch.cat([pos, charge[..., None], velocity], -1).float(), (later - pos).float()


def verlet(clouds: Tensor, time: float, steps: int = 4, soften: float = 0.4) -> Tensor:
    """Displacements (n, N, 3) by a few steps of the law of force itself, softened."""
    at_least(1, steps=steps)
    finite(soften=soften)
    start, charge, velocity = clouds.double().split([3, 1, 3], -1)
    pos, h = start, time / steps
    for _ in range(steps):
        half = velocity + h / 2 * coulomb(pos, charge[..., 0], soften)
        pos = pos + h * half
        velocity = half + h / 2 * coulomb(pos, charge[..., 0], soften)
    return pos - start


def forces(clouds: Tensor) -> Tensor:
    """Velocity and 15 Coulomb sums of different softening and power, (n, N, 3, 16), float64."""
    pos, charge, velocity = clouds.double().split([3, 1, 3], -1)
    ranges = [(soften, power) for soften in (0.1, 0.2, 0.4, 0.8, 1.6) for power in (1.0, 2.0, 3.0)]
    return torch.stack([velocity, *(coulomb(pos, charge[..., 0], *how) for how in ranges)], -1)


def ridge(known: tuple[Tensor, Tensor], clouds: Tensor) -> Tensor:
    """Displacements (n, N, 3) by ridge regression on `forces`, fitted to known clouds and displacements."""
    x, y = forces(known[0]).flatten(0, 2), known[1].double().flatten()
    return forces(clouds) @ torch.linalg.solve(x.T @ x + torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def rivals(known: tuple[Tensor, Tensor], clouds: Tensor, time: float) -> dict[str, Tensor]:
    """Displacements (n, N, 3) without a network, by name: `ridge`, `verlet`, and straight on."""
    return {
        "ridge": ridge(known, clouds),
        "Verlet": verlet(clouds, time),
        "straight": time * clouds[..., 4:],
    }


# --- clouds with something to predict ---------------------------------------------------------------------


def stars(n: int, generator: torch.Generator, *, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """A point and two neighbours (n, 3, 3), turned at random; their angle (n,) in units of its spread.

    Neighbours are 2.7 to 3 away and a quarter to half a turn apart, so 3.8 or more from each other, all times
    ``size``. Raises ``ValueError`` for a size that is not > 0.
    """
    finite(above=True, size=size)
    part, radii = torch.rand(n, generator=generator), 2.7 + 0.3 * torch.rand(n, 2, generator=generator)
    angle, zero = math.pi / 2 * (1 + part), torch.zeros(n)
    first = torch.stack([radii[:, 0], zero, zero], -1)
    second = radii[:, 1:] * torch.stack([angle.cos(), angle.sin(), zero], -1)
    flat = torch.stack([torch.zeros(n, 3), first, second], 1)
    return size * flat @ rotations(n, generator).float().mT, (part - 0.5) * 12**0.5


def dipoles(n: int, generator: torch.Generator, *, product: bool = True) -> tuple[Tensor, Tensor]:
    """Four points with an orientation each, (n, 4, 6), and their energy (n,), about 1 in spread.

    Standard normal places; a pair has ``o_i o_j / rho^3 - 3 (o_i r)(o_j r) / rho^5``, ``rho^2 = r^2 + 1``.
    Without ``product`` the mean of the squares of ``o_i r`` and ``o_j r`` stands in place of their product.
    """
    p, o = torch.randn(2, n, 4, 3, generator=generator)
    o = normalize(o, dim=-1)
    r, o_i, o_j = p[:, None] - p[:, :, None], o[:, :, None], o[:, None]
    rho = (r.square().sum(-1) + 1).sqrt()
    along, behind = (o_i * r).sum(-1), (o_j * r).sum(-1)
    mixed = along * behind if product else (along**2 + behind**2) / 2
    energy = (o_i * o_j).sum(-1) / rho**3 - 3 * mixed / rho**5
    return torch.cat([p, o], -1), energy.triu(1).sum((1, 2)) / SPREAD
