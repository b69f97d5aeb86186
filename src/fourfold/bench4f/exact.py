"""The ideal bench, its field read with signs: ``conv2d`` through the Fourier plane.

A lens is a discrete Fourier transform, along each axis a matrix. In the Fourier plane pictures and filters
meet frequency by frequency, and since nothing is squared before the sum over channels, channels are summed
there. Two ways to the same numbers; `cheaper` counts what each would cost:

- ``matrices``, for many channels on small planes: lenses are matrix products over all channels at once,
  pixels stand before channels, and each frequency is a matrix product over channels;
- ``fft``, for few channels or large planes: torch's real FFT, channels before pixels, multiplied pixel by
  pixel.

Tried and slower: real products in place of complex ones, four or three for each, whose parts must be packed
and unpacked; cosines and sines of the lenses apart.
"""

import math
from functools import cache
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from fourfold.bench4f.geometry import Axis, Padding, Pair, check_finish, finish, prepare

Way = Literal["matrices", "fft"]
FEW_CHANNELS = 32
"""Up to as many, spectra by FFT are multiplied pixel by pixel; more are summed by matrix products."""
NUMBERS_AT_ONCE = 3 * 2**16
"""Of the largest array that a gradient makes, about: few enough for the cache."""
FRESH = 2**22
"""Numbers above which an array's memory comes fresh from the system: to write one takes far longer."""


def fft_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = "valid",
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d`` through the Fourier plane: the ideal bench, its field read with signs.

    ``x``: (batch, groups * in, height, width); ``weight``: (groups * out, in, k_y, k_x), which correlates as
    torch's does; ``bias``: (groups * out,). Returns (batch, groups * out, height', width'). Differentiable,
    in float32 or float64. ``padding``: dark pixels on each side, torch's words, or "full" for kernel - 1.
    Raises ``ValueError`` for shapes that make no convolution.
    """
    y_axis, x_axis, weight = prepare(x, weight, padding, dilation, groups)
    check_finish(len(weight), bias, stride)
    return finish(correlate(x, weight, y_axis, x_axis, groups), bias, stride)


def correlate(x: Tensor, weight: Tensor, y_axis: Axis, x_axis: Axis, groups: int) -> Tensor:
    """`fft_conv2d` of checked arguments, the way that is `cheaper`."""
    way = cheaper(len(x), len(weight), weight.shape[1], y_axis, x_axis)
    return {"matrices": by_matrices, "fft": by_fft}[way](x, weight, y_axis, x_axis, groups)


@cache
def cheaper(batch: int, kernels: int, channels: int, y_axis: Axis, x_axis: Axis) -> Way:
    """The way of the smaller `cost`."""
    shape = (batch, kernels, channels, y_axis, x_axis)
    return "fft" if cost("fft", *shape) < cost("matrices", *shape) else "matrices"


def cost(way: Way, batch: int, kernels: int, channels: int, y_axis: Axis, x_axis: Axis) -> float:
    """Microseconds of one thread, about, in float32: operations counted, times what we measured for one.

    Of ``kernels`` each meets ``channels`` channels of every image.
    """
    lenses, meetings = multiplications(way, batch, kernels, channels, y_axis, x_axis)
    if way == "matrices":
        frequencies = y_axis.plane * (x_axis.plane // 2 + 1)
        return 70 + lenses / 4e4 + 0.06 * frequencies + meetings / 4e4
    return 35 + lenses / 1.25e4 + meetings / 4.8e3


def multiplications(
    way: Way, batch: int, kernels: int, channels: int, y_axis: Axis, x_axis: Axis
) -> tuple[float, float]:
    """Real multiply-adds in the lenses and between them; an FFT of n numbers has n log2(n) 5/4."""
    counts = {"image": batch * channels, "kernel": kernels * channels, "read": batch * kernels}
    meetings = 4 * batch * kernels * channels
    if way == "matrices":
        y, half = y_axis.plane, x_axis.plane // 2 + 1
        lenses = sum(
            count * half * getattr(y_axis, side) * (2 * getattr(x_axis, side) + 4 * y)
            for side, count in counts.items()
        )
        return lenses, y * half * meetings
    (y, x), *_ = _fft_plane(y_axis, x_axis)
    return 1.25 * sum(counts.values()) * y * x * math.log2(y * x), y * (x // 2 + 1) * meetings


# --- by FFT -------------------------------------------------------------------------------------------------


def by_fft(x: Tensor, weight: Tensor, y_axis: Axis, x_axis: Axis, groups: int) -> Tensor:
    """Pictures and kernels through torch's real FFT, on planes whose sides have small factors."""
    plane, dark, first = _fft_plane(y_axis, x_axis)
    if any(dark):
        x = pad(x, (dark[1], 0, dark[0], 0))
    images = torch.fft.rfft2(x, s=plane)
    # Light convolves: what correlates is shown turned by 180 degrees.
    filters = torch.fft.rfft2(weight.flip(-2, -1), s=plane)
    field = torch.fft.irfft2(_meet(images, filters, groups), s=plane)
    return field[..., first[0] : first[0] + y_axis.read, first[1] : first[1] + x_axis.read]


@cache
def _fft_plane(*axes: Axis) -> tuple[tuple[int, ...], ...]:
    """Sides of the plane, dark pixels before the image, and the first pixel that is read; y and x."""
    # Padding wider than the kernel reads dark pixels before the first ones.
    dark = [max(0, axis.before - axis.kernel + 1) for axis in axes]
    first = [axis.kernel - 1 - axis.before + d for axis, d in zip(axes, dark, strict=True)]
    least = (max(a.plane + d, f + a.read) for a, d, f in zip(axes, dark, first, strict=True))
    return tuple(next_fast_len(side, real=True) for side in least), tuple(dark), tuple(first)


def _meet(images: Tensor, filters: Tensor, groups: int) -> Tensor:
    """Spectra (b, g i, y, x) and (g o, i, y, x), summed over i: (b, g o, y, x)."""
    channels, (height, width) = filters.shape[1], filters.shape[2:]
    if channels > FEW_CHANNELS:
        image = rearrange(images, "b (g i) y x -> (y x g) b i", g=groups)
        kernel = rearrange(filters, "(g o) i y x -> (y x g) i o", g=groups)
        return rearrange(torch.bmm(image, kernel), "(y x g) b o -> b (g o) y x", y=height, x=width)
    shown, through = [images[:, i::channels] for i in range(channels)], list(filters.unbind(1))
    if groups > 1:
        shown = [image[:, :, None] for image in shown]
        through = [kernel.unflatten(0, (groups, -1)) for kernel in through]
    met = shown[0] * through[0]
    for i in range(1, channels):
        met = torch.addcmul(met, shown[i], through[i])
    return met if groups == 1 else met.flatten(1, 2)


# --- by matrices --------------------------------------------------------------------------------------------


@cache
@torch.inference_mode(False)
def first_lens(
    plane: int, frequencies: int, pixels: range, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The first lens along one axis, exp(-2 pi i f x / plane): (frequencies, pixels)."""
    f, x = torch.arange(frequencies)[:, None], torch.tensor(pixels)
    # Modulo the plane, before the rounding of a large angle can matter.
    angle = -2 * torch.pi * (f * x % plane).double() / plane
    return torch.polar(torch.ones_like(angle), angle).to(device, dtype)


@cache
@torch.inference_mode(False)
def real_lens(
    plane: int, frequencies: int, pixels: range, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`first_lens` for a real field, real above imaginary part: (2 frequencies, pixels)."""
    lens = first_lens(plane, frequencies, pixels, torch.complex128, device)
    return torch.cat([lens.real, lens.imag]).to(dtype)


@cache
@torch.inference_mode(False)
def second_lens(plane: int, half: bool, pixels: range, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The second lens, its picture upright: (pixels, frequencies); ``half`` of them for a real field."""
    frequencies = plane // 2 + 1 if half else plane
    lens = first_lens(plane, frequencies, pixels, torch.complex128, device).conj().T / plane
    if half:
        # A frequency and its negative are conjugate, so each stands for two, but 0 and Nyquist.
        twins = torch.full((frequencies,), 2.0, dtype=torch.float64, device=device)
        twins[0] = 1
        if plane % 2 == 0:
            twins[-1] = 1
        lens = lens * twins
    return lens.to(dtype).contiguous()


Places = tuple[range, range]


def by_matrices(x: Tensor, weight: Tensor, y_axis: Axis, x_axis: Axis, groups: int) -> Tensor:
    """Pixels before channels, and matrix products along each axis and at each frequency."""
    plane = (y_axis.plane, x_axis.plane)
    image = _spectrum(rearrange(x, "b (g i) y x -> y x g b i", g=groups), plane, _image(y_axis, x_axis))
    kernel = rearrange(weight, "(g o) i y x -> y x g i o", g=groups)
    met = torch.bmm(image, _spectrum(kernel, plane, _turned_kernel(y_axis, x_axis)))
    pixels = _field(met, plane, _read(y_axis, x_axis), groups)
    return rearrange(pixels, "y x g b o -> b (g o) y x")


def _image(y_axis: Axis, x_axis: Axis) -> Places:
    return tuple(range(axis.before, axis.before + axis.image) for axis in (y_axis, x_axis))  # type: ignore[return-value]


def _turned_kernel(y_axis: Axis, x_axis: Axis) -> Places:
    """Light convolves: what correlates is shown turned by 180 degrees, about its first tap."""
    return tuple(range(0, -axis.kernel, -1) for axis in (y_axis, x_axis))  # type: ignore[return-value]


def _read(y_axis: Axis, x_axis: Axis) -> Places:
    return tuple(range(axis.read) for axis in (y_axis, x_axis))  # type: ignore[return-value]


def _turned(places: Places) -> Places:
    """About pixel 0; the spectrum of what is shown there is the conjugate."""
    return tuple(range(-p.start, -p.stop, -p.step) for p in places)  # type: ignore[return-value]


def _spectrum(pixels: Tensor, plane: tuple[int, int], places: Places) -> Tensor:
    """Real (y, x, g, p, q) to its half spectrum (f_y f_x g, p, q), a matrix product along each axis."""
    height, width = pixels.shape[:2]
    half, kind = plane[1] // 2 + 1, pixels.dtype.to_complex()
    along_x = real_lens(plane[1], half, places[1], pixels.dtype, pixels.device)
    along_y = first_lens(plane[0], plane[0], places[0], kind, pixels.device)
    rows = along_x @ pixels.reshape(height, width, -1)
    rows = torch.complex(*rows.split(half, dim=1))
    return (along_y @ rows.view(height, -1)).view(-1, *pixels.shape[3:])


def _field(spectrum: Tensor, plane: tuple[int, int], places: Places, groups: int) -> Tensor:
    """A half spectrum (f_y f_x g, p, q) to real pixels (y, x, g, p, q)."""
    half, how, channels = plane[1] // 2 + 1, (spectrum.dtype, spectrum.device), spectrum.shape[1:]
    along_y = second_lens(plane[0], False, places[0], *how)
    along_x = second_lens(plane[1], True, places[1], *how)
    rows = (along_y @ spectrum.reshape(plane[0], -1)).view(len(places[0]), half, -1)
    del spectrum  # as large as all the rest
    return (along_x @ rows).real.unflatten(-1, (groups, *channels))


# --- gradients ----------------------------------------------------------------------------------------------


def gradients(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    y_axis: Axis,
    x_axis: Axis,
    groups: int,
    needed: tuple[bool, bool],
) -> list[Tensor | None]:
    """Gradients of x and weight, those that are ``needed``, from that of `correlate`.

    Channels of images do not meet in them, so they are computed a few at a time, in little memory, and the
    way that is cheapest: for small kernels torch's own ``convolution_backward``.
    """
    x, weight, gradient = x.detach(), weight.detach(), gradient.contiguous()
    found = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if need else None
        for tensor, need in zip((x, weight), needed, strict=True)
    ]
    way = _cheaper_gradient(x, weight, y_axis, x_axis)
    at_once = _channels_at_once(way, x, weight, y_axis, x_axis)
    compute = {"direct": _direct, "matrices": _of_matrices, "fft": _of_fft}[way]
    sought = _Sought(y_axis, x_axis, groups, *needed)
    for first in range(0, weight.shape[1], at_once):
        some = slice(first, first + at_once)
        images = x.unflatten(1, (groups, -1))[:, :, some].flatten(1, 2)
        of_x, of_weight = compute(gradient, images, weight[:, some], sought)
        if found[0] is not None and of_x is not None:
            found[0].unflatten(1, (groups, -1))[:, :, some] = of_x.unflatten(1, (groups, -1))
        if found[1] is not None and of_weight is not None:
            found[1][:, some] = of_weight
        del of_x, of_weight
    return found


class _Sought(NamedTuple):
    """Which gradients of which geometry."""

    y: Axis
    x: Axis
    groups: int
    of_x: bool
    of_weight: bool


def _cheaper_gradient(x: Tensor, weight: Tensor, y_axis: Axis, x_axis: Axis) -> Literal["direct", Way]:
    """The way of the smallest cost; measured for torch's own on 1 to 32 channels and sides 10 to 512."""
    shape = (len(x), len(weight), weight.shape[1], y_axis, x_axis)
    way = cheaper(*shape)
    window = y_axis.kernel * y_axis.read * x_axis.kernel * x_axis.read
    products = 2 * math.prod(shape[:3]) * window
    if x.dtype == torch.float64:  # torch forms windows
        written = len(x) * weight.shape[1] * window
        direct = products / 2e4 + written / (3e3 if window < FRESH else 150)
        return "direct" if direct < 4 * cost(way, *shape) else way
    # Its vectors have eight channels, of which few may be in use.
    direct = products / 8e4 * math.prod(-(-n // 8) * 8 / n for n in (x.shape[1], len(weight)))
    return "direct" if direct < 2 * cost(way, *shape) else way


def _channels_at_once(way: str, x: Tensor, weight: Tensor, y_axis: Axis, x_axis: Axis) -> int:
    """How many channels fit into the cache; blocks of about the same size."""
    channels = weight.shape[1]
    if way == "fft":
        return channels
    if way == "direct":
        numbers = 2 * len(x) * y_axis.image * x_axis.image
        if x.dtype == torch.float64:  # then torch forms windows
            numbers += 2 * y_axis.kernel * y_axis.read * x_axis.kernel * x_axis.read
    else:
        numbers = 2 * len(weight) * y_axis.plane * (x_axis.plane // 2 + 1)
    at_once = math.ceil(channels / math.ceil(channels * numbers / NUMBERS_AT_ONCE))
    # In single precision torch's vectors have up to sixteen channels.
    return max(16, at_once) if way == "direct" and x.dtype == torch.float32 else at_once


def _direct(gradient: Tensor, x: Tensor, weight: Tensor, sought: _Sought) -> tuple[Tensor | None, ...]:
    y_axis, x_axis, groups, *needed = sought
    dark = pad(x, (x_axis.before, x_axis.after, y_axis.before, y_axis.after))
    geometry = ([1, 1], [0, 0], [1, 1], False, [0, 0], groups)
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, dark, weight.contiguous(), None, *geometry, [*needed, False]
    )
    if sought.of_x:
        of_x = of_x.narrow(2, y_axis.before, y_axis.image).narrow(3, x_axis.before, x_axis.image)
    return of_x, of_weight


def _of_fft(gradient: Tensor, x: Tensor, weight: Tensor, sought: _Sought) -> tuple[Tensor | None, ...]:
    """`by_fft` backwards: where it multiplied by a spectrum, by its conjugate."""
    y_axis, x_axis, groups, *_ = sought
    plane, dark, first = _fft_plane(y_axis, x_axis)
    seen = torch.fft.rfft2(pad(gradient, (first[1], 0, first[0], 0)), s=plane)
    of_x = of_weight = None
    if sought.of_x:
        filters = torch.fft.rfft2(weight.flip(-2, -1), s=plane).conj()
        filters = rearrange(filters, "(g o) i y x -> (g i) o y x", g=groups)
        of_x = torch.fft.irfft2(_meet(seen, filters, groups), s=plane)
        of_x = of_x[..., dark[0] : dark[0] + y_axis.image, dark[1] : dark[1] + x_axis.image]
        del filters
    if sought.of_weight:
        images = torch.fft.rfft2(pad(x, (dark[1], 0, dark[0], 0)), s=plane).conj()
        images = rearrange(images, "b (g i) y x -> (g i) b y x", g=groups)
        met = _meet(rearrange(seen, "b (g o) y x -> o (g b) y x", g=groups), images, groups)
        turned = torch.fft.irfft2(met, s=plane)[..., : y_axis.kernel, : x_axis.kernel].flip(-2, -1)
        of_weight = rearrange(turned, "o (g i) y x -> (g o) i y x", g=groups)
    return of_x, of_weight


def _of_matrices(gradient: Tensor, x: Tensor, weight: Tensor, sought: _Sought) -> tuple[Tensor | None, ...]:
    y_axis, x_axis, groups, *_ = sought
    plane, read, image = (y_axis.plane, x_axis.plane), _read(y_axis, x_axis), _image(y_axis, x_axis)
    kernel = _turned_kernel(y_axis, x_axis)
    # Turned, so that this spectrum is the conjugate, and with it those of both gradients.
    seen = _spectrum(rearrange(gradient, "b (g o) y x -> y x g b o", g=groups), plane, _turned(read))
    of_x = of_weight = None
    if sought.of_x:
        filters = _spectrum(rearrange(weight, "(g o) i y x -> y x g o i", g=groups), plane, kernel)
        pixels = _field(torch.bmm(seen, filters), plane, _turned(image), groups)
        of_x = rearrange(pixels, "y x g b i -> b (g i) y x")
        del filters
    if sought.of_weight:
        images = _spectrum(rearrange(x, "b (g i) y x -> y x g i b", g=groups), plane, image)
        pixels = _field(torch.bmm(images, seen), plane, _turned(kernel), groups)
        of_weight = rearrange(pixels, "y x g i o -> (g o) i y x")
    return of_x, of_weight
