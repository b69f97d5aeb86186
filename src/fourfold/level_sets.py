"""Other points at which a function has the values that it has at a given one."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from fourfold.checks import at_least


def partner(
    values: Callable[[Tensor], Tensor], points: Tensor, generator: torch.Generator, tries: int = 8
) -> Tensor:
    """For each point (M, ...) another one with the same values to 1e-10: (M, ...), nan where none was found.

    Damped Gauss-Newton steps of least length from random starts. They know nothing but ``values``, a smooth
    function of one point, (...) -> (k,). Raises ``ValueError`` for tries < 1.
    """
    at_least(1, tries=tries)
    wanted, found = vmap(values)(points), torch.full_like(points, math.nan)
    for _ in range(tries):
        x = torch.randn(points.shape, generator=generator, dtype=points.dtype)
        for _ in range(30):
            miss, slope = vmap(values)(x) - wanted, vmap(jacrev(values))(x).flatten(2)
            damping = miss.square().sum(-1).clamp(1e-12, 1e-2)[:, None, None] * torch.eye(miss.shape[1]).to(x)
            x = x - (slope.mT @ torch.linalg.solve(slope @ slope.mT + damping, miss[..., None])).view_as(x)
        reached = (vmap(values)(x) - wanted).abs().amax(-1) < 1e-10
        missing = found.flatten(1).isnan().any(1)
        found[missing & reached] = x[missing & reached]
        if not found.isnan().any():
            break
    return found
