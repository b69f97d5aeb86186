"""Passes of light that a camera reads: the field of every pair of image and kernel, a block at a time.

The camera's square root comes before the sum over channels, so channels may not be summed in the Fourier
plane. But up to the camera a pass is a chain of matrices, which may be multiplied in the cheapest order. By
the convolution theorem the product of inverse lens, spectrum of the image and lens is the matrix of the
image's shifted pixels, and it serves all kernels that meet this image. Two ways; `cheaper` counts what each
would cost:

- ``windows``: those three are multiplied along both axes, and a field is one product of kernel and windows;
- ``rows``: along y only; along x image and kernel meet in the Fourier plane, and a second lens follows.

Fields are read where they are made, in the cache: as many images and channels at once as fit there.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from fourfold.bench4f.exact import first_lens, second_lens
from fourfold.bench4f.geometry import Axis

Way = Literal["windows", "rows"]
FIELDS_AT_ONCE = 3 * 2**16
"""Numbers that are computed before a camera reads them: few enough to be read from the cache."""
SHOWN_AT_ONCE = 3 * 2**16
"""Numbers that show images to kernels, which are prepared at once."""
ROWS_TAKE = 1.5
"""How much longer a multiplication takes in the smaller matrices of ``rows``."""


def multiplications(way: Way, y_axis: Axis, x_axis: Axis, k_y: int, k_x: int) -> float:
    """Real multiply-adds for each pixel of a field that is read."""
    if way == "windows":
        return k_y * k_x
    half = x_axis.plane // 2 + 1
    return 4 * half * k_y / x_axis.read + 2 * half


def cheaper(y_axis: Axis, x_axis: Axis, k_y: int, k_x: int) -> Way:
    """The way of fewer multiplications, of which those of ``rows``, in smaller matrices, take longer."""
    if (k_y, k_x) != (y_axis.kernel, x_axis.kernel):
        return "rows"  # a response that fills the plane
    windows, rows = (multiplications(way, y_axis, x_axis, k_y, k_x) for way in ("windows", "rows"))
    return "windows" if windows < ROWS_TAKE * rows else "rows"


class Passes:
    """The fields of all pairs of a few images and kernels, in memory that the next few overwrite.

    A field is (channels, outer, r, inner): r responses of each channel; all pixels of all images that the
    camera reads lie in the other two, in an order of the way's own, which `upright` undoes.
    """

    def __init__(self, y_axis: Axis, x_axis: Axis, k_y: int, k_x: int, way: Way | None = None):
        self.y, self.x, self.kernel = y_axis, x_axis, (k_y, k_x)
        self.way = way or cheaper(y_axis, x_axis, k_y, k_x)
        self.pixels = y_axis.read * x_axis.read
        # Of a field: what its lens sees, and the pixels that are read.
        met = 0 if self.way == "windows" else 2 * (x_axis.plane // 2 + 1) * y_axis.read
        self._made = met + self.pixels
        self.memory: dict[str, Tensor] = {}

    def images_at_once(self, batch: int, r: int) -> int:
        """How many images' fields of one channel fit into the cache."""
        return max(1, min(batch, FIELDS_AT_ONCE // (r * self._made)))

    def channels_at_once(self, images: int, r: int) -> int:
        """How many channels, as images and responses are shown to each other, fit into the cache."""
        k_y, k_x = self.kernel
        if self.way == "windows":
            shown = k_y * k_x * (images * self.pixels + r)
        else:
            half = self.x.plane // 2 + 1
            shown = 4 * half * k_y * images * self.y.read + (2 * half + 2 * k_x) * k_y * r
        return max(1, SHOWN_AT_ONCE // shown)

    def fields(self, images: Tensor, responses: Tensor, per_group: int) -> Iterator[tuple[slice, Tensor]]:
        """A few channels at a time: which, and their fields. Whole groups, or channels of one.

        ``images``: (n, c, height, width); ``responses``: (c, r, k_y, k_x), one set for each channel.
        """
        channels, r = responses.shape[:2]
        parts = blocks(channels, per_group, FIELDS_AT_ONCE // (r * images.shape[0] * self._made))
        make = (self._windows if self.way == "windows" else self._rows)(images, responses, parts[0].stop)
        for part in parts:
            yield part, make(part, part.stop - part.start)

    def shape(self, images: int, r: int) -> tuple[int, int, int]:
        """(outer, r, inner) of the fields of these images."""
        return (1, r, images * self.pixels) if self.way == "windows" else (images * self.pixels, r, 1)

    def each(self, values: Tensor) -> Tensor:
        """A number for each image and channel (n, c), as it meets a field (c, outer, r, inner)."""
        if self.way == "windows":
            return values.T.repeat_interleave(self.pixels, 1)[:, None, None]
        return values.T.repeat(1, self.pixels)[:, :, None, None]

    def upright(self, fields: Tensor, batch: int) -> Tensor:
        """(g, outer, r, inner) to pictures (batch, g r, y, x)."""
        if self.way == "windows":
            pictures = fields.view(len(fields), -1, batch, self.y.read, self.x.read).movedim(2, 0)
        else:
            pictures = fields.view(len(fields), self.x.read, self.y.read, batch, -1).permute(3, 0, 4, 2, 1)
        return pictures.flatten(1, 2)

    def _windows(self, images: Tensor, responses: Tensor, most: int) -> Callable[[slice, int], Tensor]:
        k_y, k_x = responses.shape[2:]
        dark = pad(images, (self.x.before, self.x.after, self.y.before, self.y.after))
        seen = dark.unfold(2, k_y, 1).unfold(3, k_x, 1).permute(1, 4, 5, 0, 2, 3)
        windows = self._held("windows", seen.shape, images).copy_(seen).view(len(responses), k_y * k_x, -1)
        responses = responses.flatten(2)
        fields = self._held("fields", (most, responses.shape[1], windows.shape[2]), images)

        def make(part: slice, n: int) -> Tensor:
            return torch.bmm(responses[part], windows[part], out=fields[:n])[:, None]

        return make

    def _rows(self, images: Tensor, responses: Tensor, most: int) -> Callable[[slice, int], Tensor]:
        channels, r, k_y, k_x = responses.shape
        half, batch = self.x.plane // 2 + 1, len(images)
        reads = self.y.read * batch
        for_images, for_kernels, for_camera = lenses(self.x, k_x, images.dtype, images.device)
        rows = _rows_placed(images, self.y, k_y).permute(1, 3, 2, 0).flatten(2)  # c x (y b)
        spectra = torch.bmm(for_images.expand(channels, -1, -1), rows).view(channels, half, 2, 2, -1)
        shifted = spectra.unfold(-1, reads, batch).permute(0, 1, 3, 4, 2, 5)  # c f of k to (y b)
        shown = self._held("shown", shifted.shape, images).copy_(shifted)
        shown = shown.view(channels * half, 2 * k_y, 2 * reads).mT
        filters = responses.permute(0, 3, 2, 1).flatten(2)  # c x (k r)
        filters = torch.bmm(for_kernels.expand(channels, -1, -1), filters).view(channels * half, 2 * k_y, r)
        met = self._held("met", (most * half, 2 * reads, r), images)
        fields = self._held("fields", (most, self.x.read, reads * r), images)
        for_camera = for_camera.expand(most, -1, -1)

        def make(part: slice, n: int) -> Tensor:
            some = slice(part.start * half, part.stop * half)
            product = torch.bmm(shown[some], filters[some], out=met[: n * half])
            torch.bmm(for_camera[:n], product.view(n, 2 * half, -1), out=fields[:n])
            return fields[:n].view(n, -1, r, 1)

        return make

    def _held(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        size = math.prod(shape)
        if name not in self.memory or self.memory[name].numel() < size:
            self.memory[name] = like.new_empty(size)
        return self.memory[name][:size].view(shape)


def blocks(channels: int, per_group: int, at_once: int) -> list[slice]:
    """Blocks of at most ``at_once`` channels: whole groups where they fit, else parts of one group."""
    if at_once >= per_group:
        step = at_once // per_group * per_group
        return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]
    return [
        slice(start, min(start + max(1, at_once), group + per_group))
        for group in range(0, channels, per_group)
        for start in range(group, group + per_group, max(1, at_once))
    ]


def _rows_placed(images: Tensor, y_axis: Axis, k_y: int) -> Tensor:
    """Every row that a response of k_y rows meets: (n, c, read + k_y - 1, width)."""
    if k_y == y_axis.kernel:
        return pad(images, (0, 0, y_axis.before, y_axis.after))
    # A response that fills the plane meets its rows all around the circle.
    plane = pad(images, (0, 0, y_axis.before, y_axis.plane - y_axis.before - y_axis.image))
    circle = torch.arange(y_axis.read + k_y - 1, device=images.device)
    return plane.index_select(2, circle % y_axis.plane)


@cache
@torch.inference_mode(False)
def lenses(
    x_axis: Axis, kernel: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Lenses along x in real numbers: images (4 half, image), kernels (2 half, kernel), camera (x, 2 half).

    X conj(K) is the real product of the matrix [re, im; im, -re] of X and (re, im) of K.
    """
    half = x_axis.plane // 2 + 1
    places = (range(x_axis.before, x_axis.before + x_axis.image), range(kernel))
    first, other = (first_lens(x_axis.plane, half, place, torch.complex128, device) for place in places)
    second = second_lens(x_axis.plane, True, range(x_axis.read), torch.complex128, device)
    # f, of which part of the kernel, to which part of the product
    images = torch.stack([first.real, first.imag, first.imag, -first.real], dim=1).flatten(0, 1).to(dtype)
    kernels = torch.stack([other.real, other.imag], dim=1).flatten(0, 1).to(dtype)
    camera = torch.stack([second.real, -second.imag], dim=2).flatten(1, 2).to(dtype)
    return images, kernels, camera
