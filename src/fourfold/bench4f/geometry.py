"""Where pictures, kernels and the camera's pixels lie on a circular plane of light, axis by axis.

A layer's geometry is checked here before anything is computed. On an axis the picture stands behind the dark
pixels that padding puts before it, so that pixel r of the camera sees pixels r .. r + kernel - 1, and the
plane is the smallest on which light that wraps around falls onto dark pixels only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pair = int | tuple[int, int]
Padding = Literal["same", "valid", "full"] | Pair


@dataclass(frozen=True)
class Axis:
    """One axis of a plane of light, pixels."""

    image: int
    kernel: int
    before: int
    """Dark pixels before the image, of which the camera sees some."""
    after: int
    """Dark pixels behind it."""

    @property
    def plane(self) -> int:
        """The smallest plane on which no light wraps around onto a pixel that is read."""
        return max(self.image + max(self.before, self.after), self.kernel, self.read)

    @property
    def read(self) -> int:
        """Pixels that the camera reads, the plane's first ones."""
        return self.image + self.before + self.after - self.kernel + 1


def prepare(
    x: Tensor, weight: Tensor, padding: Padding, dilation: Pair, groups: int
) -> tuple[Axis, Axis, Tensor]:
    """The axes y and x, and the weight with the dark taps that dilation puts between its own.

    ``x``: (batch, groups * in, height, width); ``weight``: (groups * out, in, k_y, k_x). Raises
    ``ValueError`` for shapes, types or a padding that make no convolution.
    """
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(
            f"expected x (batch, channels, height, width) and weight (out, in, k_y, k_x), "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if groups < 1 or x.shape[1] != groups * weight.shape[1] or len(weight) % groups:
        raise ValueError(
            f"groups = {groups} must divide {len(weight)} kernels, and the {x.shape[1]} channels of x into "
            f"{weight.shape[1]} a group"
        )
    if x.dtype != weight.dtype or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x and weight must both be float32 or float64, got {x.dtype} and {weight.dtype}")
    if not (x.numel() and weight.numel()):
        raise ValueError(f"x and weight must not be empty, got {tuple(x.shape)} and {tuple(weight.shape)}")
    spread = pair("dilation", dilation)
    if spread != (1, 1):
        size = [(taps - 1) * gap + 1 for taps, gap in zip(weight.shape[-2:], spread, strict=True)]
        dark = weight.new_zeros(*weight.shape[:2], *size)
        dark[..., :: spread[0], :: spread[1]] = weight
        weight = dark
    both = padding if isinstance(padding, Sequence) and not isinstance(padding, str) else (padding, padding)
    if len(both) != 2:
        raise ValueError(f"padding must be one or two integers, 'same', 'valid' or 'full', got {padding!r}")
    (height, width), (k_y, k_x) = x.shape[2:], weight.shape[2:]
    return _axis("height", height, k_y, both[0]), _axis("width", width, k_x, both[1]), weight


def _axis(name: str, image: int, kernel: int, padding: str | int) -> Axis:
    if padding == "same":
        before, after = (kernel - 1) // 2, kernel // 2
    elif padding in ("valid", "full"):
        before = after = 0 if padding == "valid" else kernel - 1
    elif isinstance(padding, int) and padding >= 0:
        before = after = padding
    else:
        raise ValueError(f"padding must be 'same', 'valid', 'full' or an integer >= 0, got {padding!r}")
    axis = Axis(image, kernel, before, after)
    if axis.read < 1:
        raise ValueError(
            f"kernel {name} must be at most {image + before + after} pixels, the image's {image} with "
            f"padding {padding!r}, got {kernel}; take a smaller kernel or padding 'same'"
        )
    return axis


def finish(camera: Tensor, bias: Tensor | None, stride: Pair) -> Tensor:
    """Keep every stride-th pixel, and add the bias."""
    rows, columns = pair("stride", stride)
    if (rows, columns) != (1, 1):
        camera = camera[..., ::rows, ::columns]
    return camera if bias is None else camera + bias[:, None, None]


def check_finish(kernels: int, bias: Tensor | None, stride: Pair) -> None:
    """Raise ``ValueError`` for what `finish` cannot do."""
    pair("stride", stride)
    if bias is not None and bias.shape != (kernels,):
        raise ValueError(f"bias must be of shape ({kernels},), one for each kernel, got {tuple(bias.shape)}")


def pair(name: str, value: Pair) -> tuple[int, int]:
    """Two integers >= 1; ``ValueError`` with the name if they are not."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or not all(isinstance(v, int) and v >= 1 for v in both):
        raise ValueError(f"{name} must be one or two integers >= 1, got {value}")
    return both
