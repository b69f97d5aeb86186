"""Passes of light that a camera reads: the field of every pair of image and kernel, a block at a time.

The camera's square root comes before the sum over channels, so channels may not be summed in the Fourier
plane. But up to the camera a pass is a chain of matrices, which may be multiplied in the cheapest order. By
the convolution theorem the product of inverse lens, spectrum of the image and lens is the matrix of the
image's shifted pixels, and it serves all kernels that meet this image. Three ways; `cheaper` counts what each
would cost:

- ``windows``: those three are multiplied along both axes, and a field is one product of kernel and windows;
- ``rows``: along y only; along x image and kernel meet in the Fourier plane, and a second lens follows;
- ``planes``, for large ones: no lens is a matrix, each is torch's real FFT, and spectra are multiplied.

Fields are read where they are made, in the cache: as many images and channels at once as fit there.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from fourfold.bench4f.exact import FRESH, first_lens, second_lens
from fourfold.bench4f.geometry import Axis

Way = Literal["windows", "rows", "planes"]
Make = Callable[[slice, int], Tensor]
FIELDS_AT_ONCE = 3 * 2**16
"""Numbers that are computed before a camera reads them: few enough to be read from the cache."""
SHOWN_AT_ONCE = 3 * 2**16
"""Numbers that show images to kernels, which are prepared at once."""
ROWS_TAKE = 1.5
"""How much longer a multiplication takes in the smaller matrices of ``rows``."""
PLANES_TAKE = 6.0
"""How much longer one takes in the FFTs of ``planes``, all that is shared and copied included: measured with
2 to 64 responses on sides 16 to 1020, 3 to 9 in float32 and 3 to 6 in float64."""
ROUGH_TAKE = 5
"""And again how much longer on a circle whose side has a large prime factor: measured on 29 to 509."""
WINDOWS_TAKE, FRESH_WINDOWS_TAKE = 6.0, 40.0
"""How many multiplications a number takes that is written into a window, which all responses of an image
share: measured with 2 to 16 responses on sides 60 to 252, 4 to 9; the second for more than `FRESH` of them,
on sides 252 to 1020, 15 to 60."""


def multiplications(way: Way, y_axis: Axis, x_axis: Axis, k_y: int, k_x: int) -> float:
    """Real multiply-adds for each pixel of a field that is read; an FFT of n numbers has n log2(n) 5/4."""
    if way == "windows":
        return k_y * k_x
    if way == "rows":
        half = x_axis.plane // 2 + 1
        return 4 * half * k_y / x_axis.read + 2 * half
    numbers = math.prod(_sides(y_axis, x_axis, k_y, k_x))
    return numbers * (1.25 * math.log2(numbers) + 2) / (y_axis.read * x_axis.read)


def cost(way: Way, y_axis: Axis, x_axis: Axis, k_y: int, k_x: int, r: int) -> float:
    """What a pixel of a field costs, of r that share an image, in multiplications of ``windows``."""
    counted = multiplications(way, y_axis, x_axis, k_y, k_x)
    if way == "windows":
        written = counted * y_axis.read * x_axis.read
        return counted * (1 + (WINDOWS_TAKE if written < FRESH else FRESH_WINDOWS_TAKE) / r)
    if way == "rows":
        return counted * ROWS_TAKE
    # Factors up to 11 are no burden.
    rough = any(side != next_fast_len(side) for side in _sides(y_axis, x_axis, k_y, k_x))
    return counted * PLANES_TAKE * (ROUGH_TAKE if rough else 1)


@cache
def cheaper(y_axis: Axis, x_axis: Axis, k_y: int, k_x: int, r: int) -> Way:
    """The way of the smallest `cost`."""
    ways: list[Way] = ["windows", "rows", "planes"]
    if (k_y, k_x) != (y_axis.kernel, x_axis.kernel):
        ways.remove("windows")  # a response that fills the plane
    return min(ways, key=lambda way: cost(way, y_axis, x_axis, k_y, k_x, r))


def through(y_axis: Axis, x_axis: Axis, k_y: int, k_x: int, r: int) -> "Passes":
    """Passes of ``r`` responses a channel, of k_y x k_x pixels, the way that is `cheaper`."""
    kinds: dict[Way, type[Passes]] = {"windows": Windows, "rows": Rows, "planes": Planes}
    return kinds[cheaper(y_axis, x_axis, k_y, k_x, r)](y_axis, x_axis, k_y, k_x, r)


class Passes(ABC):
    """The fields of all pairs of a few images and kernels, in memory that the next few overwrite.

    A field is (channels, outer, r, inner): r responses of each channel; all pixels of all images that the
    camera reads lie in the other two, in an order of the way's own, which `upright` undoes.
    """

    def __init__(self, y_axis: Axis, x_axis: Axis, k_y: int, k_x: int, r: int):
        self.y, self.x, self.kernel, self.r = y_axis, x_axis, (k_y, k_x), r
        self.pixels = y_axis.read * x_axis.read
        self.memory: dict[str, Tensor] = {}

    def images_at_once(self, batch: int) -> int:
        """How many images' fields of one channel fit into the cache."""
        return max(1, min(batch, FIELDS_AT_ONCE // (self.r * self.made)))

    def channels_at_once(self, images: int) -> int:
        """How many channels, as images and responses are shown to each other, fit into the cache."""
        return max(1, SHOWN_AT_ONCE // self.shown(images))

    def fields(self, images: Tensor, filters: Tensor, per_group: int) -> Iterator[tuple[slice, Tensor]]:
        """A few channels at a time: which, and their fields. Whole groups, or channels of one.

        ``images``: (n, c, height, width); ``filters``: those of c channels, from `filters`.
        """
        n, channels = images.shape[:2]
        parts = blocks(channels, per_group, FIELDS_AT_ONCE // (self.r * n * self.made))
        make = self.prepare(images, filters, parts[0].stop)
        for part in parts:
            yield part, make(part, part.stop - part.start)

    @property
    @abstractmethod
    def made(self) -> int:
        """Numbers that are made for a field: what its lens sees, and the pixels that are read."""

    @abstractmethod
    def shown(self, images: int) -> int:
        """Numbers that show one channel of these images and its responses to each other."""

    @abstractmethod
    def filters(self, responses: Tensor) -> Tensor:
        """Responses (c, r, k_y, k_x), one set for each channel, as images meet them: (c, ...)."""

    @abstractmethod
    def prepare(self, images: Tensor, filters: Tensor, most: int) -> Make:
        """What makes the fields of some channels, at ``most`` so many: which, and how many."""

    @abstractmethod
    def shape(self, images: int, r: int) -> tuple[int, int, int]:
        """(outer, r, inner) of the fields of these images."""

    @abstractmethod
    def each(self, values: Tensor) -> Tensor:
        """A number for each image and channel (n, c), as it meets a field (c, outer, r, inner)."""

    @abstractmethod
    def upright(self, fields: Tensor, batch: int) -> Tensor:
        """(g, outer, r, inner) to pictures (batch, g r, y, x)."""

    def held(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory of a name, grown where the shape needs more."""
        size = math.prod(shape)
        if name not in self.memory or self.memory[name].numel() < size:
            self.memory[name] = like.new_empty(size)
        return self.memory[name][:size].view(shape)


class Windows(Passes):
    """Fields (c, 1, r, n y x): a matrix product of responses and the image's windows."""

    @property
    def made(self) -> int:
        """Only what is read."""
        return self.pixels

    def shown(self, images: int) -> int:
        """Windows, and responses as they are."""
        return math.prod(self.kernel) * (images * self.pixels + self.r)

    def filters(self, responses: Tensor) -> Tensor:
        """As they are: (c, r, k_y k_x)."""
        return responses.flatten(2)

    def prepare(self, images: Tensor, filters: Tensor, most: int) -> Make:
        """The windows of every pixel."""
        k_y, k_x = self.kernel
        dark = pad(images, (self.x.before, self.x.after, self.y.before, self.y.after))
        seen = dark.unfold(2, k_y, 1).unfold(3, k_x, 1).permute(1, 4, 5, 0, 2, 3)
        windows = self.held("windows", seen.shape, images).copy_(seen).view(len(filters), k_y * k_x, -1)
        fields = self.held("fields", (most, self.r, windows.shape[2]), images)

        def make(part: slice, n: int) -> Tensor:
            return torch.bmm(filters[part], windows[part], out=fields[:n])[:, None]

        return make

    def shape(self, images: int, r: int) -> tuple[int, int, int]:
        """Images one after the other."""
        return 1, r, images * self.pixels

    def each(self, values: Tensor) -> Tensor:
        """Repeated for its pixels."""
        return values.T.repeat_interleave(self.pixels, 1)[:, None, None]

    def upright(self, fields: Tensor, batch: int) -> Tensor:
        """Pixels of an image lie together."""
        pictures = fields.view(len(fields), -1, batch, self.y.read, self.x.read)
        return pictures.movedim(2, 0).flatten(1, 2)


class Rows(Passes):
    """Fields (c, x y n, r, 1): matrix products at each frequency along x, and a lens along x."""

    def __init__(self, y_axis: Axis, x_axis: Axis, k_y: int, k_x: int, r: int):
        super().__init__(y_axis, x_axis, k_y, k_x, r)
        self.half = x_axis.plane // 2 + 1

    @property
    def made(self) -> int:
        """Half spectra of rows, and what is read."""
        return 2 * self.half * self.y.read + self.pixels

    def shown(self, images: int) -> int:
        """Spectra of rows as matrices, and filters on their way."""
        k_y, k_x = self.kernel
        return 4 * self.half * k_y * images * self.y.read + (2 * self.half + 2 * k_x) * k_y * self.r

    def filters(self, responses: Tensor) -> Tensor:
        """Spectra along x: (c, half, 2 k_y, r)."""
        k_y, k_x = self.kernel
        _, for_kernels, _ = lenses(self.x, k_x, responses.dtype, responses.device)
        filters = responses.permute(0, 3, 2, 1).flatten(2)  # c x (k r)
        filters = torch.bmm(for_kernels.expand(len(filters), -1, -1), filters)
        return filters.view(-1, self.half, 2 * k_y, self.r)

    def prepare(self, images: Tensor, filters: Tensor, most: int) -> Make:
        """Every row's spectrum as the matrix that meets the filters."""
        (k_y, k_x), half, r, (batch, channels) = self.kernel, self.half, self.r, images.shape[:2]
        reads = self.y.read * batch
        for_images, _, for_camera = lenses(self.x, k_x, images.dtype, images.device)
        rows = _rows_placed(images, self.y, k_y).permute(1, 3, 2, 0).flatten(2)  # c x (y b)
        spectra = torch.bmm(for_images.expand(channels, -1, -1), rows).view(channels, half, 2, 2, -1)
        shifted = spectra.unfold(-1, reads, batch).permute(0, 1, 3, 4, 2, 5)  # c f of k to (y b)
        shown = self.held("shown", shifted.shape, images).copy_(shifted)
        shown = shown.view(channels * half, 2 * k_y, 2 * reads).mT
        filters = filters.flatten(0, 1)
        met = self.held("met", (most * half, 2 * reads, r), images)
        fields = self.held("fields", (most, self.x.read, reads * r), images)
        for_camera = for_camera.expand(most, -1, -1)

        def make(part: slice, n: int) -> Tensor:
            some = slice(part.start * half, part.stop * half)
            product = torch.bmm(shown[some], filters[some], out=met[: n * half])
            torch.bmm(for_camera[:n], product.view(n, 2 * half, -1), out=fields[:n])
            return fields[:n].view(n, -1, r, 1)

        return make

    def shape(self, images: int, r: int) -> tuple[int, int, int]:
        """Every pixel apart, its responses together."""
        return images * self.pixels, r, 1

    def each(self, values: Tensor) -> Tensor:
        """Images alternate fastest."""
        return values.T.repeat(1, self.pixels)[:, :, None, None]

    def upright(self, fields: Tensor, batch: int) -> Tensor:
        """Columns, rows, then images."""
        pictures = fields.view(len(fields), self.x.read, self.y.read, batch, -1)
        return pictures.permute(3, 0, 4, 2, 1).flatten(1, 2)


class Planes(Passes):
    """Fields (c, n, r, y x): spectra of images and responses, each made once, and an FFT for each field."""

    def __init__(self, y_axis: Axis, x_axis: Axis, k_y: int, k_x: int, r: int):
        super().__init__(y_axis, x_axis, k_y, k_x, r)
        self.sides = _sides(y_axis, x_axis, k_y, k_x)
        self.spectrum = 2 * self.sides[0] * (self.sides[1] // 2 + 1)

    @property
    def made(self) -> int:
        """A half spectrum before and between the lens' two axes, a plane, and what is read of it."""
        return 2 * self.spectrum + math.prod(self.sides) + self.pixels

    def shown(self, images: int) -> int:
        """Half spectra."""
        return self.spectrum * (images + self.r)

    def filters(self, responses: Tensor) -> Tensor:
        """Half spectra, which correlate: (c, 1, r, y, x)."""
        return torch.fft.rfft2(responses, s=self.sides).conj_physical_()[:, None]

    def prepare(self, images: Tensor, filters: Tensor, most: int) -> Make:
        """Half spectra of the images where they stand on the plane."""
        n, r, y, x = len(images), self.r, self.y, self.x
        dark = pad(images.movedim(0, 1), (x.before, 0, y.before, 0))
        spectra = torch.fft.rfft2(dark, s=self.sides)[:, :, None]
        fields = self.held("fields", (most, n, r, self.pixels), images)

        def make(part: slice, count: int) -> Tensor:
            seen = fields[:count].view(count, n, r, y.read, x.read)
            step = max(1, FIELDS_AT_ONCE // (count * n * self.made))
            for first in range(0, r, step):
                some = slice(first, first + step)
                planes = torch.fft.irfft2(spectra[part] * filters[part, :, some], s=self.sides)
                seen[:, :, some] = planes[..., : y.read, : x.read]
            return fields[:count]

        return make

    def shape(self, images: int, r: int) -> tuple[int, int, int]:
        """Every image apart."""
        return images, r, self.pixels

    def each(self, values: Tensor) -> Tensor:
        """Its plane as a whole."""
        return values.T[:, :, None, None]

    def upright(self, fields: Tensor, batch: int) -> Tensor:
        """Images before groups."""
        pictures = fields.view(len(fields), batch, -1, self.y.read, self.x.read)
        return pictures.movedim(1, 0).flatten(1, 2)


def _sides(y_axis: Axis, x_axis: Axis, k_y: int, k_x: int) -> tuple[int, int]:
    """Of a plane whose sides have small factors, or the circle's own where responses fill it."""
    if (k_y, k_x) != (y_axis.kernel, x_axis.kernel):
        return y_axis.plane, x_axis.plane
    return next_fast_len(y_axis.plane, real=True), next_fast_len(x_axis.plane, real=True)


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
