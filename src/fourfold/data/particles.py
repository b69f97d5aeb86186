"""Charged particles that move under Coulomb forces, as in the n-body benchmark of equivariant networks.

The benchmark is from the code of EGNN (Satorras, Hoogeboom and Welling, arXiv 2102.09844), after Kipf et al.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fourfold.checks import at_least


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
    seen after ``t0`` steps, and ``horizon`` steps later. Raises ``ValueError`` for a number below 1, or t0
    below 0.
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
