"""ESPCN: super-resolution that computes at low resolution and shuffles channels into pixels.

Shi, Caballero, Huszár, Totz, Aitken, Bishop, Rueckert and Wang, "Real-Time Single Image and Video
Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", arXiv 1609.05158, CVPR 2016.
Two convolutions make features of the small image; a third makes r^2 channels from them; a fixed permutation,
*periodic shuffling*, lays the channels out as an image r times as large. All of it on luminance.

Implemented: the shuffling by the paper's formula, the network, the deconvolution that it equals, and what the
paper compares with: SRCNN (Dong et al. 2014), which enlarges the image first and then works on all of its
pixels, and the paper's own network used that way. fourfold's own are the cheaper rivals: an unsharp mask, and
the sub-pixel layer alone, fitted in closed form.

Departures. ``forward`` uses torch's ``pixel_shuffle``, which numbers channels row by row where the formula
goes column by column: the two differ by ``channel_order``, a renaming of the last layer's filters. The paper
trains on targets that are shuffled back, which is the same loss; here the output is shuffled.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, pixel_shuffle, unfold

from fourfold import cost
from fourfold.data.image_pairs import Pairs, enlarge

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}

CHANNELS = (64, 32)
"""Feature maps of the two hidden layers, in ESPCN and in SRCNN."""

KERNELS = (5, 3, 3)
"""Sides of ESPCN's kernels, layer by layer."""


# --- periodic shuffling -----------------------------------------------------------------------------------


def periodic_shuffle(t: Tensor, r: int) -> Tensor:
    """The paper's PS, by its formula (equation 4), x down and y across:

    ``PS(T)[x, y, c] = T[x // r, y // r, C r mod(y, r) + C mod(x, r) + c]``.

    ``t``: (batch, C r^2, height, width) -> (batch, C, r height, r width). Raises ``ValueError`` for r < 1 or
    channels that are not a multiple of r^2.
    """
    colours = _colours(t.shape[1], r)
    x = torch.arange(t.shape[2] * r, device=t.device)[None, :, None]
    y = torch.arange(t.shape[3] * r, device=t.device)[None, None, :]
    c = torch.arange(colours, device=t.device)[:, None, None]
    return t[:, colours * r * (y % r) + colours * (x % r) + c, x // r, y // r]


def channel_order(r: int, colours: int = 1) -> Tensor:
    """Where torch looks for what: ``periodic_shuffle(t, r) == pixel_shuffle(t[:, channel_order(r, C)], r)``.

    Indices (C r^2,). Torch counts colour, row, column; the formula column, row, colour.
    """
    order = torch.arange(_colours(colours * r * r, r) * r * r)
    return rearrange(order, "(column row colour) -> (colour row column)", column=r, row=r)


def subpixel_to_deconv(weight: Tensor, r: int) -> Tensor:
    """The kernels of the transposed convolution that equals a convolution followed by ``pixel_shuffle``.

    ``weight``: (r^2, n, k, k), k odd. Returns (n, 1, k r, k r) for ``conv_transpose2d`` with stride r and
    padding r (k // 2): tap u of filter (a, b) becomes row (k - 1 - u) r + a, and likewise columns. Biases
    are not part of it: a deconvolution has one, the shuffled convolution one for each of the r^2 filters.
    Raises ``ValueError`` for another shape.
    """
    filters, _, height, width = weight.shape
    if filters != r * r or height != width or height % 2 == 0:
        raise ValueError(f"weight must be (r^2 = {r * r}, n, k, k), k odd, got {tuple(weight.shape)}")
    # A deconvolution places each kernel as it is, a convolution reads its taps in the opposite direction.
    return rearrange(weight.flip(-2, -1), "(a b) n u v -> n 1 (u a) (v b)", a=r)


def _colours(channels: int, r: int) -> int:
    if r < 1 or channels < 1 or channels % (r * r):
        raise ValueError(f"channels must be a multiple of r^2, r >= 1, got {channels} channels and r = {r}")
    return channels // (r * r)


# --- networks ---------------------------------------------------------------------------------------------


class ESPCN(nn.Module):
    """Convolutions on the small image, the last one to r^2 channels, then the shuffle.

    ``kernels`` are the sides of the three layers, zero-padded so that the size stays. No activation after the
    last one, and no residual to an interpolated image. Raises ``ValueError`` for r outside 2..4, an unknown
    activation, or kernels that are not three odd sizes.
    """

    def __init__(
        self,
        r: int,
        act: str = "tanh",
        channels: tuple[int, int] = CHANNELS,
        kernels: tuple[int, int, int] = KERNELS,
    ):
        super().__init__()
        self.r = _factor(r)
        self.features, self.last = _layers(kernels, act, channels, r * r)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, height, width) -> (batch, 1, r height, r width)."""
        return pixel_shuffle(self.last(self.features(x)), self.r)


class Interpolated(nn.Module):
    """The same layers the other way round: enlarge the image (bicubic), then convolve all of its pixels.

    With the default kernels it is ESPCN's twin at high resolution. Raises ``ValueError`` as ``ESPCN``.
    """

    def __init__(
        self,
        r: int,
        act: str = "tanh",
        channels: tuple[int, int] = CHANNELS,
        kernels: tuple[int, int, int] = KERNELS,
    ):
        super().__init__()
        self.r = _factor(r)
        self.features, self.last = _layers(kernels, act, channels, 1)

    def refine(self, x: Tensor) -> Tensor:
        """The convolutions alone, at the size of ``x`` (batch, 1, height, width)."""
        return self.last(self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, height, width) -> (batch, 1, r height, r width)."""
        return self.refine(enlarge(x, self.r))


def srcnn(r: int, middle: int = 1) -> Interpolated:
    """SRCNN 9-1-5 or 9-5-5 (``middle`` 1 or 5), with ReLU. Raises ``ValueError`` for another middle."""
    if middle not in (1, 5):
        raise ValueError(f"middle must be 1 or 5, got {middle}")
    return Interpolated(r, "relu", kernels=(9, middle, 5))


class Centred(nn.Module):
    """A network that sees luminance around 0 instead of 0.5, which its zero padding then continues as grey.

    An addition to the paper: with it both networks learn faster.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, height, width) -> (batch, 1, r height, r width)."""
        return self.model(x - 0.5) + 0.5


def weights(model: nn.Module) -> int:
    """Number of weights without biases, which is what the paper and SRCNN's count."""
    return sum(value.numel() for name, value in model.named_parameters() if name.endswith("weight"))


def macs_per_pixel(model: nn.Module, r: int) -> float:
    """Multiply-accumulates of the convolutions for each pixel of the large image; any size gives the same."""
    return cost.macs(model, (1, 1, 8, 8)) / (8 * r) ** 2


# --- what is cheaper --------------------------------------------------------------------------------------


class SubPixelLayer(nn.Module):
    """The last layer alone: r^2 filters on the small image itself, and the shuffle."""

    def __init__(self, r: int, k: int = 5):
        super().__init__()
        self.r = _factor(r)
        self.last = nn.Conv2d(1, r * r, k, padding=k // 2, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, height, width) -> (batch, 1, r height, r width)."""
        return pixel_shuffle(self.last(x), self.r)


def least_squares_layer(pairs: Pairs, r: int, k: int = 5, places: bool = True) -> SubPixelLayer:
    """The ``SubPixelLayer`` with the least mean squared error on ``pairs`` of images (1, height, width).

    Without ``places`` one filter serves all places of a block: its mean, which is then the best one.
    """
    layer = SubPixelLayer(r, k)
    normal = torch.zeros(k * k + 1, k * k + 1, dtype=torch.float64)
    right = torch.zeros(k * k + 1, r * r, dtype=torch.float64)
    for small, clean in zip(*pairs, strict=True):
        taps = unfold(pad(small[None].double(), (k // 2,) * 4, mode="reflect"), k)[0]
        taps = torch.cat([taps, torch.ones_like(taps[:1])])
        targets = unfold(clean[None].double(), r, stride=r)[0]
        normal, right = normal + taps @ taps.T, right + taps @ targets.T
    filters = torch.linalg.lstsq(normal, right).solution.T
    if not places:
        filters = filters.mean(0, keepdim=True).expand_as(filters)
    with torch.no_grad():
        layer.last.weight.copy_(filters[:, :-1].reshape(layer.last.weight.shape))
        layer.last.bias.copy_(filters[:, -1])  # type: ignore[union-attr]
    return layer


def unsharp(image: Tensor, width: float, amount: float) -> Tensor:
    """``image`` (1, height, width) plus ``amount`` times what a Gaussian blur takes from it; sd in pixels.

    Raises ``ValueError`` for a width that is not > 0.
    """
    if not width > 0:
        raise ValueError(f"width must be > 0, got {width}")
    reach = round(4 * width)
    bell = torch.exp(-(torch.arange(-reach, reach + 1).to(image) ** 2) / (2 * width**2))
    bell = bell / bell.sum()
    blurred = pad(image[None], (reach,) * 4, mode="reflect")
    blurred = conv2d(conv2d(blurred, bell[None, None, :, None]), bell[None, None, None])[0]
    return image + amount * (image - blurred)


# --- sizes ------------------------------------------------------------------------------------------------


def _factor(r: int) -> int:
    if r not in (2, 3, 4):
        raise ValueError(f"r must be 2, 3 or 4, got {r}")
    return r


def _layers(
    kernels: tuple[int, int, int], act: str, channels: tuple[int, int], outputs: int
) -> tuple[nn.Sequential, nn.Conv2d]:
    if act not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if len(kernels) != 3 or any(k < 1 or k % 2 == 0 for k in kernels):
        raise ValueError(f"kernels must be three odd sizes >= 1, got {kernels}")
    widths = (1, *channels, outputs)
    convolutions = [
        nn.Conv2d(before, after, k, padding=k // 2)
        for before, after, k in zip(widths, widths[1:], kernels, strict=False)
    ]
    first, second, last = convolutions
    return nn.Sequential(first, ACTIVATIONS[act](), second, ACTIVATIONS[act]()), last
