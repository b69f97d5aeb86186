"""Images under affine maps of the plane: ``f(A^-1 (x - t))`` by bilinear interpolation, and draws of maps.

The plane is [-1, 1] x [-1, 1], x to the right and y downwards; images are zero outside.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, pad

from fourfold.checks import at_least, finite
from fourfold.matrices import inverse, rotation, sym_exp, symmetric


def warped(images: Tensor, maps: Tensor, shifts: Tensor | None = None) -> Tensor:
    """Images (B, C, h, w) under maps A (B, 2, 2) and shifts t (B, 2), in half widths; the same shape.

    Raises ``ValueError`` unless there is one map, and one shift, for each image.
    """
    t = maps.new_zeros(len(maps), 2) if shifts is None else shifts
    if maps.shape != (len(images), 2, 2) or t.shape != (len(images), 2):
        raise ValueError(
            f"expected maps ({len(images)}, 2, 2) and shifts ({len(images)}, 2), "
            f"got {tuple(maps.shape)} and {tuple(t.shape)}"
        )
    back = inverse(maps)
    theta = torch.cat([back, -(back @ t[..., None])], -1).to(images)
    places = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, places, padding_mode="zeros", align_corners=False)


def on_canvas(images: Tensor, margin: int) -> Tensor:
    """Images (B, h, w), each side halved by averaging, zeros around: (B, 1, h/2 + 2 margin, ...)."""
    return pad(avg_pool2d(images[:, None], 2), (margin,) * 4)


def blurred(images: Tensor) -> Tensor:
    """Images (B, C, h, w) averaged over 3 x 3 pixels, twice; the same shape."""
    return avg_pool2d(avg_pool2d(images, 3, 1, 1), 3, 1, 1)


def affnist_maps(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Maps (n, 2, 2) and shifts (n, 2), float64, drawn in the range of affNIST's affine maps.

    A turn of up to 20 degrees after a shear of up to 0.2 after scales of 0.8 to 1.2, one for each axis, all
    uniform; shifts are ours: up to 0.2 half widths along each axis. Raises ``ValueError`` for n < 1.
    """
    at_least(1, n=n)
    turn, shear, *rest = (2 * torch.rand(n, 6, generator=generator, dtype=torch.float64) - 1).unbind(-1)
    scale_x, scale_y, x, y = rest
    maps = torch.diag_embed(1 + 0.2 * torch.stack([scale_x, scale_y], -1))
    maps[:, 0] += 0.2 * shear[:, None] * maps[:, 1]
    return rotation(math.radians(20) * turn) @ maps, 0.2 * torch.stack([x, y], -1)


def stretches(n: int, least: float, most: float, generator: torch.Generator) -> Tensor:
    """Symmetric maps (n, 2, 2) of determinant 1, float64: longer along one axis, shorter across.

    The ratio of their singular values is uniform in [least, most], the axis uniform as well. Raises
    ``ValueError`` for n < 1 or ``least`` < 1.
    """
    at_least(1, n=n)
    finite(1, least=least)
    ratio, axis = torch.rand(n, 2, generator=generator, dtype=torch.float64).unbind(-1)
    size, angle = (least + (most - least) * ratio).log() / math.sqrt(2), 2 * math.pi * axis
    return sym_exp(symmetric(size[:, None] * torch.stack([angle.cos(), angle.sin()], -1)))
