"""EGNN, the network on distances that equivariant networks are compared with.

Satorras, Hoogeboom and Welling, arXiv 2102.09844; the authors' code is vgsatorras/egnn (MIT). Here it is the
variant for particles with velocities, as in their n-body experiment: positions move along their differences
and along velocities, by factors that depend on distances alone.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fourfold.checks import at_least


def _two(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class EGNNLayer(nn.Module):
    """One step of messages between all pairs of particles."""

    def __init__(self, hidden: int):
        super().__init__()
        self.edge, self.node = _two(2 * hidden + 2, hidden, hidden), _two(2 * hidden, hidden, hidden)
        self.move, self.keep = _two(hidden, hidden, 1), _two(hidden, hidden, 1)

    def forward(
        self, h: Tensor, x: Tensor, velocity: Tensor, product: Tensor, heard: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features (B, N, C), places, velocities, products of charges and who hears whom (B, N, N, 1)."""
        n = x.shape[1]
        away = x[:, :, None] - x[:, None]
        ends = h[:, :, None].expand(-1, n, n, -1), h[:, None].expand(-1, n, n, -1)
        m = silu(self.edge(torch.cat([*ends, away.square().sum(-1, keepdim=True), product], -1)))
        m = m * heard
        moved = x + (away * self.move(m)).sum(2) / (n - 1) + self.keep(h) * velocity
        return h + self.node(torch.cat([h, m.sum(2)], -1)), moved


class EGNN(nn.Module):
    """The network. Raises ``ValueError`` for hidden or layers < 1, or a radius that is not > 0."""

    def __init__(self, hidden: int, layers: int, radius: float = math.inf):
        super().__init__()
        at_least(1, hidden=hidden, layers=layers)
        if not radius > 0:
            raise ValueError(f"radius must be > 0, got {radius}")
        self.radius, self.embed = radius, nn.Linear(1, hidden)
        self.layers = nn.ModuleList(EGNNLayer(hidden) for _ in range(layers))

    def forward(self, pos: Tensor, charge: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (B, N, 3), charges (B, N, 1), velocities (B, N, 3).

        Returns features (B, N, hidden) and displacements (B, N, 3). Particles that start further apart than
        the radius do not hear each other.
        """
        h, x = self.embed(velocity.norm(dim=-1, keepdim=True)), pos
        product = charge[:, :, None] * charge[:, None]
        near = (pos[:, :, None] - pos[:, None]).square().sum(-1, keepdim=True) < self.radius**2
        heard = near * (1 - torch.eye(pos.shape[1]).to(pos))[..., None]
        for layer in self.layers:
            h, x = layer(h, x, velocity, product, heard)
        return h, x - pos
