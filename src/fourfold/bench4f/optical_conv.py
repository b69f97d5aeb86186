"""Convolution on a 4f bench as a layer: the fast engine, and a drop-in for ``nn.Conv2d``.

Sources: Ibadulla, Chen, Reyes-Aldasoro, FatNet (arXiv 2210.16914) for pseudo-negativity and the trainable
optical layer; the other read-outs, passive filters and everything about speed are derived here.

A bench computes ``lens(filter * lens(image))``, and a lens is a discrete Fourier transform: along each axis a
matrix. So a layer is a chain of matrix products, and it is bracketed in the cheapest way:

- *exact*, a field read with its sign: channels meet in the Fourier plane, where each frequency is a matrix
  product over channels. `fft_conv2d`.
- *with a camera*, which sees intensities: the square root comes before the sum over channels, so each pair of
  image and kernel is a pass of its own. Along x it goes through the Fourier plane; along y the three factors
  inverse lens, spectrum of the image, lens are multiplied first. Their product, by the convolution theorem
  the matrix of the image's shifted rows, serves all kernels that meet this image. `optical_conv2d`.

Up to `MATRIX_LENS` pixels a lens is a matrix, beyond it torch's FFT, which is then faster; both are exact.

Read-outs of kernels with signs, for images that are not negative (``mode``):

- ``pm``, FatNet's pseudo-negativity: k = k+ - k-, two passes, sqrt(I+) - sqrt(I-);
- ``offset``: k - min k >= 0, one pass, and one of a box of ones that all kernels of an image share;
- ``reference``: one pass with a coherent wave of amplitude r >= max |U| on the camera, sqrt(I) - r.

Images with signs (``signed``): ``split`` shows x+ and x- in passes of their own; ``offset`` adds a constant c
to a sample and subtracts, in electronics, c times the kernels' response to a bright frame.

Gradients are the ideal bench's: where a field is not negative sqrt(I) is the field itself, and noise and
quantisation let gradients straight through.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from einops import rearrange
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn.functional import pad

from fourfold.bench4f.camera import IDEAL, Noise, expose, quantise, quantise_filter

Mode = Literal["exact", "pm", "offset", "reference"]
Signed = Literal["split", "offset"]
MODES = ("exact", "pm", "offset", "reference")
SIGNED = (None, "split", "offset")
MATRIX_LENS = 48
"""Largest plane, pixels, whose lenses are matrix products and not FFTs: where they are faster on a CPU."""
_FIELDS_AT_ONCE = 2**18
"""Camera pixels that are computed before they are read: few enough to be read from the cache."""

Pair = int | tuple[int, int]
Padding = Literal["same", "valid", "full"] | Pair


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
    y_axis, x_axis, weight = _prepare(x, weight, padding, dilation, groups)
    _check_finish(len(weight), bias, stride)
    if max(y_axis.plane, x_axis.plane) <= MATRIX_LENS:
        transform, inverse = _matrix_spectrum, _matrix_field
    else:
        y_axis, x_axis = (
            replace(axis, plane=next_fast_len(axis.plane, real=True)) for axis in (y_axis, x_axis)
        )
        transform, inverse = _fft_spectrum, _fft_field
    image = transform(rearrange(x, "b (g i) y x -> y x g b i", g=groups), y_axis, x_axis, turned=False)
    # Light convolves: what correlates is shown turned by 180 degrees.
    kernel = transform(rearrange(weight, "(g o) i y x -> y x g i o", g=groups), y_axis, x_axis, turned=True)
    return _finish(inverse(torch.bmm(image, kernel), y_axis, x_axis, groups), bias, stride)


def optical_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = "valid",
    dilation: Pair = 1,
    groups: int = 1,
    mode: Mode = "pm",
    signed: Signed | None = None,
    noise: Noise = IDEAL,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`fft_conv2d` as a camera reads it: each pass of light on its own, channels summed in electronics.

    Shapes and padding as there; ``mode``, ``signed`` and gradients as at the top of this module. The largest
    pixel of each channel fills the display's range, and a filter is divided by the largest modulus of its
    spectrum, as it cannot amplify. ``generator`` draws photons and read noise.
    Raises ``ValueError`` for an unknown mode, noise without a camera, negative pixels if not ``signed``.
    """
    _one_of("mode", mode, MODES)
    _one_of("signed", signed, SIGNED)
    _check_camera(mode, noise)
    _check_finish(len(weight), bias, stride)
    geometry: dict[str, Any] = {"padding": padding, "dilation": dilation, "groups": groups}
    if mode == "exact":
        return fft_conv2d(x, weight, bias, stride=stride, **geometry)
    if signed is None and x.numel() and (lowest := float(x.detach().min())) < 0:
        raise ValueError(
            f"x must not be negative, as a display has no signs, got a pixel of {lowest:.3g}; "
            "use signed='split' or signed='offset'"
        )
    camera = _Camera.apply(x, weight, geometry, mode, signed, noise, generator)
    return _finish(camera, bias, stride)


class OpticalConv2d(nn.Conv2d):
    """``nn.Conv2d`` on a 4f bench: the same arguments, weights and state, read by a camera.

    Further arguments are those of `optical_conv2d`; ``padding`` may also be "full".
    Raises ``ValueError`` for a ``padding_mode`` other than "zeros": around its frame a display is dark.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        *args: Any,
        mode: Mode = "pm",
        signed: Signed | None = None,
        noise: Noise = IDEAL,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ):
        _one_of("mode", mode, MODES)
        _one_of("signed", signed, SIGNED)
        _check_camera(mode, noise)
        # torch would refuse "full"; what it makes of the padding is not used.
        known = "valid" if padding == "full" else padding
        super().__init__(in_channels, out_channels, kernel_size, stride, known, *args, **kwargs)
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', as a display is dark, got {self.padding_mode!r}")
        self.light_padding = padding
        self.mode, self.signed, self.noise, self.generator = mode, signed, noise, generator

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height', width')."""
        return optical_conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,  # type: ignore[arg-type]
            padding=self.light_padding,
            dilation=self.dilation,  # type: ignore[arg-type]
            groups=self.groups,
            mode=self.mode,
            signed=self.signed,
            noise=self.noise,
            generator=self.generator,
        )

    def extra_repr(self) -> str:
        """As ``nn.Conv2d``'s, with what the bench adds."""
        geometry = super().extra_repr()
        if self.light_padding == "full":
            geometry = geometry.replace("padding=valid", "padding=full")
        return f"{geometry}, mode={self.mode!r}, signed={self.signed!r}, noise={self.noise}"


def optical_passes(
    batch: int, channels: int, kernels: int, mode: Mode = "pm", signed: Signed | None = None
) -> int:
    """Passes of light of a layer with one image and one kernel in each: what `optical_conv2d` simulates.

    ``kernels`` on each of ``channels`` input channels. "exact" and "reference" take one pass a kernel, "pm"
    two, "offset" one and one more an image; ``signed="split"`` doubles them. Images that share a plane divide
    them, see `fourfold.bench4f.light`. Raises ``ValueError`` for a count below 1 or an unknown mode.
    """
    for name, count in {"batch": batch, "channels": channels, "kernels": kernels}.items():
        if count < 1:
            raise ValueError(f"{name} must be >= 1, got {count}")
    _one_of("mode", mode, MODES)
    _one_of("signed", signed, SIGNED)
    per_image = {"exact": kernels, "reference": kernels, "pm": 2 * kernels, "offset": kernels + 1}[mode]
    return batch * channels * per_image * (2 if signed == "split" else 1)


# --- geometry -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """One axis of a circular plane of light, and the pixels of it that are read."""

    plane: int
    """Smallest plane on which no light wraps around onto a pixel that is read."""
    start: int
    """First pixel of the linear convolution that is read."""
    read: int

    @property
    def pixels(self) -> range:
        return range(self.start, self.start + self.read)


def _axis(name: str, image: int, kernel: int, padding: str | int) -> _Axis:
    if padding == "same":
        before, after = (kernel - 1) // 2, kernel // 2
    elif padding in ("valid", "full"):
        before = after = 0 if padding == "valid" else kernel - 1
    elif isinstance(padding, int) and padding >= 0:
        before = after = padding
    else:
        raise ValueError(f"padding must be 'same', 'valid', 'full' or an integer >= 0, got {padding!r}")
    read = image + before + after - kernel + 1
    if read < 1:
        raise ValueError(
            f"kernel {name} must be at most {image + before + after} pixels, the image's {image} with "
            f"padding {padding!r}, got {kernel}; take a smaller kernel or padding 'same'"
        )
    return _Axis(max(image + max(before, after), kernel), kernel - 1 - before, read)


def _prepare(
    x: Tensor, weight: Tensor, padding: Padding, dilation: Pair, groups: int
) -> tuple[_Axis, _Axis, Tensor]:
    """The two axes, and the weight with the dark taps that dilation puts between its own."""
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
    spread = _pair("dilation", dilation)
    if spread != (1, 1):
        size = [(taps - 1) * gap + 1 for taps, gap in zip(weight.shape[-2:], spread, strict=True)]
        dark = weight.new_zeros(*weight.shape[:2], *size)
        dark[..., :: spread[0], :: spread[1]] = weight
        weight = dark
    both = (
        tuple(padding)
        if isinstance(padding, Sequence) and not isinstance(padding, str)
        else (padding, padding)
    )
    if len(both) != 2:
        raise ValueError(f"padding must be one or two integers, 'same', 'valid' or 'full', got {padding!r}")
    axes = (
        _axis(name, image, kernel, dark_pixels)
        for name, image, kernel, dark_pixels in zip(
            ("height", "width"), x.shape[-2:], weight.shape[-2:], both, strict=True
        )
    )
    return *axes, weight  # type: ignore[return-value]


def _finish(camera: Tensor, bias: Tensor | None, stride: Pair) -> Tensor:
    """Keep every stride-th pixel, and add the bias."""
    rows, columns = _pair("stride", stride)
    camera = camera[..., ::rows, ::columns]
    return camera if bias is None else camera + bias[:, None, None]


def _pair(name: str, value: Pair) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ValueError(f"{name} must be one or two integers >= 1, got {value}")
    return pair


def _check_finish(kernels: int, bias: Tensor | None, stride: Pair) -> None:
    _pair("stride", stride)
    if bias is not None and bias.shape != (kernels,):
        raise ValueError(f"bias must be of shape ({kernels},), one for each kernel, got {tuple(bias.shape)}")


def _check_camera(mode: Mode, noise: Noise) -> None:
    if mode == "exact" and noise != IDEAL:
        raise ValueError(f"mode must be 'pm', 'offset' or 'reference' for {noise}, got 'exact'")


def _one_of(name: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


# --- lenses -------------------------------------------------------------------------------------------------


@cache
@torch.inference_mode(False)
def _lens(plane: int, frequencies: int, pixels: range, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The first lens along one axis, exp(-2 pi i f x / plane): (frequencies, pixels)."""
    f, x = torch.arange(frequencies)[:, None], torch.tensor(pixels)
    # Modulo the plane, before the rounding of a large angle can matter.
    angle = -2 * torch.pi * (f * x % plane).double() / plane
    return torch.polar(torch.ones_like(angle), angle).to(device, dtype)


@cache
@torch.inference_mode(False)
def _real_lens(
    plane: int, frequencies: int, pixels: range, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`_lens` for a real field, real above imaginary part: (2 frequencies, pixels)."""
    lens = _lens(plane, frequencies, pixels, dtype, device)
    return torch.cat([lens.real, lens.imag])


@cache
@torch.inference_mode(False)
def _second_lens(plane: int, half: bool, pixels: range, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The second lens, its picture upright: (pixels, frequencies); ``half`` of them for a real field."""
    frequencies = plane // 2 + 1 if half else plane
    lens = _lens(plane, frequencies, pixels, torch.complex128, device).conj().T / plane
    if half:
        # A frequency and its negative are conjugate, so each stands for two, but 0 and Nyquist.
        twins = torch.full((frequencies,), 2.0, dtype=torch.float64, device=device)
        twins[0] = 1
        if plane % 2 == 0:
            twins[-1] = 1
        lens = lens * twins
    return lens.to(dtype).contiguous()


def _complex(real: torch.dtype) -> torch.dtype:
    return torch.complex128 if real == torch.float64 else torch.complex64


def _places(size: int, turned: bool) -> range:
    """Where the pixels of a picture stand on the plane."""
    return range(size)[::-1] if turned else range(size)


def _matrix_spectrum(pixels: Tensor, y_axis: _Axis, x_axis: _Axis, turned: bool) -> Tensor:
    """Real (y, x, g, p, q) to its half spectrum (f_y f_x g, p, q), a matrix product along each axis."""
    height, width = pixels.shape[:2]
    half, how = x_axis.plane // 2 + 1, (_complex(pixels.dtype), pixels.device)
    along_x = _real_lens(x_axis.plane, half, _places(width, turned), *how)
    real, imaginary = (along_x @ pixels.reshape(height, width, -1)).split(half, dim=1)
    along_y = _lens(y_axis.plane, y_axis.plane, _places(height, turned), *how)
    return (along_y @ torch.complex(real, imaginary).view(height, -1)).view(-1, *pixels.shape[3:])


def _matrix_field(spectrum: Tensor, y_axis: _Axis, x_axis: _Axis, groups: int) -> Tensor:
    """A half spectrum (f_y f_x g, b, o) to the camera's pixels (b, g o, y, x)."""
    half, how = x_axis.plane // 2 + 1, (spectrum.dtype, spectrum.device)
    along_y = _second_lens(y_axis.plane, False, y_axis.pixels, *how)
    along_x = _second_lens(x_axis.plane, True, x_axis.pixels, *how)
    rows = (along_y @ spectrum.reshape(y_axis.plane, -1)).view(y_axis.read, half, -1)
    field = (along_x @ rows).real.unflatten(-1, (groups, *spectrum.shape[1:]))
    return rearrange(field, "y x g b o -> b (g o) y x")


def _fft_spectrum(pixels: Tensor, y_axis: _Axis, x_axis: _Axis, turned: bool) -> Tensor:
    """`_matrix_spectrum` by FFT."""
    planes = rearrange(pixels.flip(0, 1) if turned else pixels, "y x g p q -> g p q y x")
    spectrum = torch.fft.rfft2(planes, s=(y_axis.plane, x_axis.plane))
    return rearrange(spectrum, "g p q y x -> (y x g) p q")


def _fft_field(spectrum: Tensor, y_axis: _Axis, x_axis: _Axis, groups: int) -> Tensor:
    """`_matrix_field` by FFT."""
    planes = rearrange(spectrum, "(y x g) b o -> b (g o) y x", y=y_axis.plane, g=groups)
    field = torch.fft.irfft2(planes, s=(y_axis.plane, x_axis.plane))
    # Padding wider than the kernel reads dark pixels before the first ones: on a circle, the last ones.
    y, x = (torch.tensor(axis.pixels, device=field.device) % axis.plane for axis in (y_axis, x_axis))
    return field.index_select(-2, y).index_select(-1, x)


# --- passes with a camera -----------------------------------------------------------------------------------


class _Camera(torch.autograd.Function):
    """Forward: passes, camera, electronics. Backward: the ideal bench."""

    @staticmethod
    def forward(ctx, x, weight, geometry, mode, signed, noise, generator):
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        how = (weight, geometry, mode, noise, generator)
        if signed == "split":
            return _read_out(x.clamp(min=0), *how) - _read_out((-x).clamp(min=0), *how)
        if signed == "offset":
            lift = (-x).amax((1, 2, 3), keepdim=True).clamp(min=0)
            return _read_out(x + lift, *how) - lift * fft_conv2d(torch.ones_like(x[:1]), weight, **geometry)
        return _read_out(x, *how)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x, weight = (
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        )
        with torch.enable_grad():
            ideal = fft_conv2d(x, weight, **ctx.geometry)
        wanted = [tensor for tensor in (x, weight) if tensor.requires_grad]
        found = dict(zip(map(id, wanted), torch.autograd.grad(ideal, wanted, gradient), strict=True))
        return found.get(id(x)), found.get(id(weight)), None, None, None, None, None


def _read_out(
    x: Tensor, weight: Tensor, geometry: dict, mode: Mode, noise: Noise, generator: torch.Generator | None
) -> Tensor:
    """Non-negative images (batch, groups * in, height, width) through passes, camera and electronics."""
    groups, dtype = geometry["groups"], x.dtype
    if mode == "offset":
        # The answer is a small difference of two bright pictures.
        x, weight = x.double(), weight.double()
    y_axis, x_axis, weight = _prepare(x, weight, **geometry)
    size = weight.shape[1:]
    # Transposed as a matrix, which is fast, and only then as a picture: (g i) x y o.
    kernels = weight.reshape(groups, -1, size.numel()).mT.contiguous()
    kernels = kernels.view(-1, *size[1:], kernels.shape[-1]).transpose(1, 2)
    out = kernels.shape[-1]
    if mode == "pm":
        # k- as it is, negative: the camera does not see the sign.
        both = _scratch("kernels", (*kernels.shape[:3], 2 * out), kernels)
        torch.clamp(kernels, min=0, out=both[..., :out])
        torch.clamp(kernels, max=0, out=both[..., out:])
        kernels = both
    elif mode == "offset":
        lowest = kernels.amin((1, 2))
        kernels = torch.cat([kernels - lowest[:, None, None], torch.ones_like(kernels[..., :1])], dim=-1)
    real_camera = noise != IDEAL or mode == "reference"
    if real_camera:
        brightest = _or_one(x.amax((2, 3), keepdim=True))
        x = quantise(x / brightest, noise.slm_bits)
        kernels, gains = _passive(kernels, y_axis, x_axis, noise.filter_bits)
        # What electronics multiply a pass with: (c, 1, y b, r).
        scale = brightest[..., 0, 0].T.repeat(1, y_axis.read)[:, None, :, None] * gains[:, None, None]
    # Young's inequality: as the display stays below 1, no field exceeds its kernel's sum of moduli.
    wave = float(kernels.abs().sum((1, 2)).max().clamp(min=1)) if mode == "reference" else 0.0

    total = x.new_zeros(groups, x_axis.read, y_axis.read * len(x), out)
    for where, channels, field in _fields(x, kernels, y_axis, x_axis, groups):
        if real_camera:
            seen = expose(
                (field + wave).square_(), noise, full_well=(2 * wave or 1) ** 2, generator=generator
            )
            seen = (seen.sqrt_() - wave) * scale[channels].unflatten(0, field.shape[:2])
        else:
            seen = field.abs_()  # the square root of the intensity
        if mode == "offset":
            box = lowest[channels].view(*field.shape[:2], out)
            total[where] += torch.einsum("gixs,gio->gxso", seen[..., out], box)
        summed = torch.sum(seen, 1, out=_scratch("sum", (field.shape[0], *field.shape[2:]), field))
        block = total[where]
        block += summed[..., :out]
        if mode == "pm":
            block -= summed[..., out:]
    return rearrange(total, "g x (y b) o -> b (g o) y x", b=len(x)).to(dtype)


def _passive(kernels: Tensor, y_axis: _Axis, x_axis: _Axis, bits: int | None) -> tuple[Tensor, Tensor]:
    """Kernels (c, k_x, k_y, r) over the largest modulus of their spectra, and that modulus (c, r).

    With ``bits`` the filter's spectrum is quantised, and its impulse response fills the plane.
    """
    plane, axes = (x_axis.plane, y_axis.plane), (1, 2)
    spectra = torch.fft.rfft2(kernels.flip(axes), s=plane, dim=axes)
    gains = _or_one(spectra.abs().amax(axes))
    if bits is None:
        return kernels / gains[:, None, None], gains
    shown = quantise_filter(spectra / gains[:, None, None], bits)
    return torch.fft.irfft2(shown, s=plane, dim=axes).flip(axes), gains


def _or_one(x: Tensor) -> Tensor:
    """``x``, but 1 where it is 0: the dark needs no scale."""
    return torch.where(x > 0, x, 1)


@cache
@torch.inference_mode(False)
def _pass_lenses(
    x_axis: _Axis, image: int, kernel: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Lenses along x in real numbers: images (4 half, image), kernels (2 half, kernel), camera (x, 2 half).

    A complex product of image and kernel is a real one of the 2 x 2 matrix [re, -im; im, re] with (re, im).
    """
    half = x_axis.plane // 2 + 1
    first, other = (
        _lens(x_axis.plane, half, places, torch.complex128, device)
        for places in (_places(image, turned=False), _places(kernel, turned=True))
    )
    second = _second_lens(x_axis.plane, True, x_axis.pixels, torch.complex128, device)
    images = torch.stack([first.real, -first.imag, first.imag, first.real], dim=1).flatten(0, 1)
    kernels = torch.stack([other.real, other.imag], dim=1).flatten(0, 1)
    camera = torch.stack([second.real, -second.imag], dim=2).flatten(1, 2)
    return images.to(dtype), kernels.to(dtype), camera.to(dtype)


def _fields(
    x: Tensor, kernels: Tensor, y_axis: _Axis, x_axis: _Axis, groups: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The field of every pass on the pixels that are read, a block of channels at a time.

    ``x``: (batch, channels, height, width). ``kernels``: (channels, k_x, k_y, r), r for each channel of x.
    Yields the block's groups, its channels and the field (groups, channels of each, x, y * batch, r), whose
    memory the next block overwrites.
    """
    batch, channels, height, width = x.shape
    _, k_x, k_y, r = kernels.shape
    half, reads = x_axis.plane // 2 + 1, y_axis.read * batch
    for_images, for_kernels, for_camera = _pass_lenses(x_axis, width, k_x, x.dtype, x.device)
    if k_y < y_axis.plane:
        meeting = pad(x, (0, 0, k_y - 1 - y_axis.start, y_axis.start + y_axis.read - height))
    else:
        # A response that fills the plane meets its rows all around the circle.
        circle = torch.arange(y_axis.start - k_y + 1, y_axis.start + y_axis.read, device=x.device)
        meeting = pad(x, (0, 0, 0, y_axis.plane - height)).index_select(2, circle % y_axis.plane)
    spectra = for_images @ meeting.permute(1, 3, 2, 0).flatten(2)  # c (f to of) (y b)
    shifted = spectra.view(channels, half, 2, 2, -1).unfold(-1, reads, batch)
    images = _scratch("images", (channels, half, 2, k_y, 2, reads), x)
    images.copy_(shifted.permute(0, 1, 3, 4, 2, 5))  # c f of k to (y b)
    images = images.view(channels * half, 2 * k_y, 2 * reads).mT
    responses = (for_kernels @ kernels.flatten(2)).view(channels * half, 2 * k_y, r)

    blocks = _blocks(channels, channels // groups, max(1, _FIELDS_AT_ONCE // (x_axis.read * reads * r)))
    most = max(map(len, blocks))
    products = _scratch("products", (most * half, 2 * reads, r), x)
    fields = _scratch("fields", (most, x_axis.read, reads * r), x)
    for block in blocks:
        n, some = len(block), slice(block.start * half, block.stop * half)
        product, field = products[: n * half], fields[:n]
        torch.bmm(images[some], responses[some], out=product)
        torch.bmm(for_camera.expand(n, -1, -1), product.view(n, 2 * half, -1), out=field)
        where = slice(block.start * groups // channels, -(-block.stop * groups // channels))
        shape = (where.stop - where.start, -1, x_axis.read, reads, r)
        yield where, slice(block.start, block.stop), field.view(shape)


class _Memory(threading.local):
    """Scratch memory of one thread, by what it is for."""

    def __init__(self) -> None:
        self.held: dict[tuple, Tensor] = {}


_MEMORY = _Memory()


def _scratch(purpose: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """Memory that the next call with the same purpose overwrites: fresh memory costs as much as the light.

    What is larger than a few blocks of fields is not kept.
    """
    size = math.prod(shape)
    if size > 4 * _FIELDS_AT_ONCE:
        return like.new_empty(shape)
    key = (purpose, like.dtype, like.device)
    if key not in _MEMORY.held or _MEMORY.held[key].numel() < size:
        with torch.inference_mode(False):  # a later call may be one that trains
            _MEMORY.held[key] = torch.empty(size, dtype=like.dtype, device=like.device)
    return _MEMORY.held[key][:size].view(*shape)


def forget() -> None:
    """Free the lenses and this thread's scratch memory, which otherwise wait for the next call."""
    _MEMORY.held.clear()
    for kept in (_lens, _real_lens, _second_lens, _pass_lenses):
        kept.cache_clear()


def _blocks(channels: int, per_group: int, at_once: int) -> list[range]:
    """Blocks of at most ``at_once`` channels: whole groups where they fit, else parts of one group."""
    if at_once >= per_group:
        step = at_once // per_group * per_group
        return [range(start, min(start + step, channels)) for start in range(0, channels, step)]
    groups = range(0, channels, per_group)
    return [
        range(start, min(start + at_once, group + per_group))
        for group in groups
        for start in range(group, group + per_group, at_once)
    ]
