"""Convolution on a 4f bench as a layer: the fast engine, and a drop-in for ``nn.Conv2d``.

Sources: Ibadulla, Chen, Reyes-Aldasoro, FatNet (arXiv 2210.16914) for pseudo-negativity and the trainable
optical layer; the other read-outs, passive filters and everything about speed are derived here.

A bench computes ``lens(filter * lens(image))``, and a lens is a discrete Fourier transform: along each axis a
matrix. So a layer is a chain of matrix products, and it is bracketed in the cheapest way:

- *exact*, a field read with its sign: channels meet in the Fourier plane. `fft_conv2d`, from
  `fourfold.bench4f.exact`.
- *with a camera*, which sees intensities: the square root comes before the sum over channels, so each pair of
  image and kernel is a pass of its own. `optical_conv2d`, its passes in `fourfold.bench4f.passes`.

Read-outs of kernels with signs, for images that are not negative (``mode``):

- ``pm``, FatNet's pseudo-negativity: k = k+ - k-, two passes, sqrt(I+) - sqrt(I-);
- ``offset``: k - min k >= 0, one pass, and one of a box of ones that all kernels of an image share;
- ``reference``: one pass with a coherent wave of amplitude r >= max |U| on the camera, sqrt(I) - r.

Images with signs (``signed``): ``split`` shows x+ and x- in passes of their own; ``offset`` adds a constant c
to a sample and subtracts, in electronics, c times the kernels' response to a bright frame.

Gradients are the ideal bench's: where a field is not negative sqrt(I) is the field itself, and noise and
quantisation let gradients straight through.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fourfold.bench4f import exact, passes
from fourfold.bench4f.camera import IDEAL, Noise, expose, quantise, quantise_filter
from fourfold.bench4f.exact import fft_conv2d
from fourfold.bench4f.geometry import Axis, Padding, Pair, check_finish, finish, prepare

__all__ = [
    "MODES",
    "Mode",
    "OpticalConv2d",
    "Signed",
    "fft_conv2d",
    "forget",
    "optical_conv2d",
    "optical_passes",
]

Mode = Literal["exact", "pm", "offset", "reference"]
Signed = Literal["split", "offset"]
MODES = ("exact", "pm", "offset", "reference")
SIGNED = (None, "split", "offset")


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
    check_finish(len(weight), bias, stride)
    if mode == "exact":
        geometry: dict[str, Any] = {"padding": padding, "dilation": dilation, "groups": groups}
        return fft_conv2d(x, weight, bias, stride=stride, **geometry)
    if signed is None and x.numel() and (lowest := float(x.detach().min())) < 0:
        raise ValueError(
            f"x must not be negative, as a display has no signs, got a pixel of {lowest:.3g}; "
            "use signed='split' or signed='offset'"
        )
    y_axis, x_axis, weight = prepare(x, weight, padding, dilation, groups)
    camera = _Camera.apply(x, weight, y_axis, x_axis, groups, mode, signed, noise, generator)
    return finish(camera, bias, stride)


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


def _check_camera(mode: Mode, noise: Noise) -> None:
    if mode == "exact" and noise != IDEAL:
        raise ValueError(f"mode must be 'pm', 'offset' or 'reference' for {noise}, got 'exact'")


def _one_of(name: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


# --- passes with a camera -----------------------------------------------------------------------------------


class _Camera(torch.autograd.Function):
    """Forward: passes, camera, electronics. Backward: the ideal bench."""

    @staticmethod
    def forward(ctx, x, weight, y_axis, x_axis, groups, mode, signed, noise, generator):
        ctx.save_for_backward(x, weight)
        ctx.geometry = y_axis, x_axis, groups
        how = (weight, *ctx.geometry, mode, noise, generator)
        if signed == "split":
            return _read_out(x.clamp(min=0), *how) - _read_out((-x).clamp(min=0), *how)
        if signed == "offset":
            lift = (-x).amax((1, 2, 3), keepdim=True).clamp(min=0)
            return _read_out(x + lift, *how) - lift * exact.correlate(
                torch.ones_like(x[:1]), weight, *ctx.geometry
            )
        return _read_out(x, *how)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x, weight), (y_axis, x_axis, groups) = ctx.saved_tensors, ctx.geometry
        needed = ctx.needs_input_grad[:2]
        found = exact.gradients(gradient, x, weight, y_axis, x_axis, groups, needed)
        return *found, *[None] * 7


def _read_out(
    x: Tensor,
    weight: Tensor,
    y_axis: Axis,
    x_axis: Axis,
    groups: int,
    mode: Mode,
    noise: Noise,
    generator: torch.Generator | None,
) -> Tensor:
    """Non-negative images (batch, groups * in, height, width) through passes, camera and electronics."""
    dtype = x.dtype
    if mode == "offset":
        # The answer is a small difference of two bright pictures.
        x, weight = x.double(), weight.double()
    kernels = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # (g i) o y x
    channels, out, k_y, k_x = kernels.shape
    per_group = channels // groups
    kept = 2 * out if mode == "pm" else out
    r = out + 1 if mode == "offset" else kept
    lowest = kernels.amin((2, 3)) if mode == "offset" else kernels
    real_camera = noise != IDEAL or mode == "reference"
    if noise.filter_bits is not None:
        k_y, k_x = y_axis.plane, x_axis.plane
    wave = 0.0
    if real_camera:
        brightest = _or_one(x.amax((2, 3)))
        x = quantise(x / brightest[..., None, None], noise.slm_bits)
        passive, gains = _passive(_responses(kernels, mode), y_axis, x_axis, noise.filter_bits)
        if mode == "reference":
            # Young's inequality: as the display stays below 1, no field exceeds its kernel's sum of moduli.
            wave = float(passive.abs().sum((2, 3)).max().clamp(min=1))

    light = passes.through(y_axis, x_axis, k_y, k_x, r)
    at_once = light.images_at_once(len(x))
    some = [slice(start, min(start + at_once, len(x))) for start in range(0, len(x), at_once)]
    totals = [x.new_zeros(groups, *light.shape(images.stop - images.start, kept)) for images in some]
    for block in passes.blocks(channels, per_group, light.channels_at_once(at_once)):
        responses = passive[block] if real_camera else _responses(kernels[block], mode)
        filters = light.filters(responses)
        for images, total in zip(some, totals, strict=True):
            for part, field in light.fields(x[images, block], filters, min(per_group, len(filters))):
                which = slice(block.start + part.start, block.start + part.stop)
                if real_camera:
                    intensity = (field + wave).square_()
                    seen = expose(intensity, noise, full_well=(2 * wave or 1) ** 2, generator=generator)
                    seen = seen.sqrt_().sub_(wave).mul_(gains[which, None, :, None])
                    seen *= light.each(brightest[images, which])
                else:
                    seen = field.abs_()  # the square root of the intensity
                if mode == "offset":
                    seen = seen[:, :, :out] + lowest[which, None, :, None] * seen[:, :, out:]
                _add_channels(total[which.start // per_group : -(-which.stop // per_group)], seen)
    if mode == "pm":
        totals = [total[:, :, :out] - total[:, :, out:] for total in totals]
    sizes = (images.stop - images.start for images in some)
    return torch.cat([light.upright(*one) for one in zip(totals, sizes, strict=True)]).to(dtype)


def _add_channels(total: Tensor, seen: Tensor) -> None:
    """Add pictures (g i, outer, r, inner), summed over each group's channels, to (g, outer, r, inner)."""
    groups, channels = total.shape[0], seen.shape[0]
    if groups == channels:
        total += seen
    elif groups == 1:
        total.view(-1).addmv_(seen.view(channels, -1).T, seen.new_ones(channels))
    else:
        total += seen.unflatten(0, (groups, -1)).sum(1)


def _responses(kernels: Tensor, mode: Mode) -> Tensor:
    """What is shown for kernels with signs (c, o, k_y, k_x): (c, r, k_y, k_x)."""
    if mode == "pm":
        # k- as it is, negative: the camera does not see the sign.
        out = kernels.shape[1]
        both = kernels.new_empty(len(kernels), 2 * out, *kernels.shape[2:])
        torch.clamp(kernels, min=0, out=both[:, :out])
        torch.clamp(kernels, max=0, out=both[:, out:])
        return both
    if mode == "offset":
        lifted = kernels - kernels.amin((2, 3), keepdim=True)
        return torch.cat([lifted, torch.ones_like(kernels[:, :1])], dim=1)
    return kernels


def _passive(kernels: Tensor, y_axis: Axis, x_axis: Axis, bits: int | None) -> tuple[Tensor, Tensor]:
    """Kernels (c, r, k_y, k_x) over the largest modulus of their spectra, and that modulus (c, r).

    With ``bits`` the filter's spectrum is quantised, and its impulse response fills the plane.
    """
    plane, axes, size = (y_axis.plane, x_axis.plane), (2, 3), kernels.shape[2:]
    spectra = torch.fft.rfft2(kernels.flip(axes), s=plane)
    gains = _or_one(spectra.abs().amax(axes))
    if bits is None:
        return kernels / gains[..., None, None], gains
    shown = quantise_filter(spectra / gains[..., None, None], bits)
    # What correlates is shown turned by 180 degrees; back, its first tap stands first.
    return torch.fft.irfft2(shown, s=plane).flip(axes).roll(tuple(size), axes), gains


def _or_one(x: Tensor) -> Tensor:
    """``x``, but 1 where it is 0: the dark needs no scale."""
    return torch.where(x > 0, x, 1)


def forget() -> None:
    """Free the lenses, which otherwise wait for the next call."""
    for kept in (exact.first_lens, exact.real_lens, exact.second_lens, passes.lenses):
        kept.cache_clear()
