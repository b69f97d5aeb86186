"""How far a network of charged clouds is from turning with its input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.data.clouds import turned


class Reads(nn.Module):
    """A network, and how it reads the one tensor that a training loop hands it: ``read(net, x)``."""

    def __init__(self, net: nn.Module, read: Callable[[nn.Module, Tensor], Any]):
        super().__init__()
        self.net, self.read = net, read

    def forward(self, x: Tensor) -> Any:
        """Whatever ``read`` makes of it."""
        return self.read(self.net, x)


def lifted(net: nn.Module, x: Tensor) -> Any:
    """Charged clouds (..., N, 7) as positions, scalars and vectors: ``net(pos, charge, velocity)``."""
    return net(x[..., :3], x[..., 3:4], x[..., None, 4:])


def raw(net: nn.Module, x: Tensor) -> Any:
    """Charged clouds as positions and scalars, velocities are three more of them."""
    return net(x[..., :3], x[..., 3:])


@torch.no_grad()
def errors(net: Callable[[Tensor], tuple[Tensor, Tensor]], clouds: Tensor, turns: Tensor) -> Tensor:
    """For each rotation (T, 3, 3), how far vectors, turned back, and scalars are off: (T, 2), relative.

    Clouds (n, N, 7) are moved by (1, 1, 1), too. Vectors are relative to their size, scalars to their spread.
    """
    (scalars, vectors), found = net(clouds), []
    for turn in turns:
        s, v = net(turned(clouds, turn, 1.0))
        off = (v - vectors @ turn.mT).norm() / vectors.norm()
        found.append(torch.stack([off, (s - scalars).square().mean().sqrt() / scalars.std()]))
    return torch.stack(found)


@torch.no_grad()
def off(net: Callable[[Tensor], Tensor], clouds: Tensor, turns: Tensor) -> float:
    """How far vectors (n, N, 3), turned back, differ from those for clouds as they are, relative.

    Clouds (n, N, 7) have a rotation each, (n, 3, 3).
    """
    there, turns = net(clouds), turns.to(clouds)
    return float((net(turned(clouds, turns)) - there @ turns.mT).norm() / there.norm())
