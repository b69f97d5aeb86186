"""The 4f bench as a layer of a network: what it is compared with, and what runs on it.

Companion to FatNet (Ibadulla, Chen, Reyes-Aldasoro, arXiv 2210.16914), whose simulator is optnn. The bench
itself lies in `fourfold.bench4f`: `propagation` (fields), `camera` (noise, bits) and `optical_conv` (the fast
engine and the layer). Here are the same layer computed field by field, its fields for other ways to read
them, optnn's noise as it is, a camera without signs, a small network for digits, and a transformer on the
bench; how far the bench is from what it computes, and what photons, bits and the benchmark's rounds say.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d

from fourfold.attention import Attention, ViT
from fourfold.bench4f.camera import Noise, expose, quantise
from fourfold.bench4f.optical_conv import Mode, OpticalConv2d, Signed, fft_conv2d, optical_conv2d
from fourfold.bench4f.propagation import (
    Bench,
    ParaxialWarning,
    critical_pitch,
    embed,
    lens_phase,
    transfer_function,
    upright,
)
from fourfold.checks import at_least

READ_OUTS: dict[Mode, str] = {
    "pm": "two passes a kernel",
    "offset": "one, and one a picture",
    "reference": "one pass a kernel",
}
"""How a camera that sees no sign reads kernels that have signs, and the passes that this takes."""
MIDDLE = (-2, -1)


def field_by_field(x: Tensor, weight: Tensor, dtype: torch.dtype = torch.complex64) -> Tensor:
    """A layer with pseudo-negativity and same padding, every pass propagated through both lenses.

    ``x``: (batch, in, n, n), not negative; ``weight``: (out, in, k, k). Returns (batch, out, n, n), as
    ``optical_conv2d(x, weight, padding="same")`` does, at the cost of a simulator that forms every field:
    (batch, 2 out, in, plane, plane) complex numbers on each of seven planes.
    """
    n, k = x.shape[-1], weight.shape[-1]
    bench = Bench(2 * math.ceil((n + k // 2) / 2), dtype=dtype)
    kernels = weight.flip(-2, -1)
    kernels = torch.cat([kernels.clamp(min=0), (-kernels).clamp(min=0)])
    seen = upright(bench.run(x[:, None], kernels)).abs()
    first = bench.n // 2 - n // 2
    plus, minus = seen[..., first : first + n, first : first + n].sum(2).chunk(2, dim=1)
    return plus - minus


# --- waves against what they should compute -----------------------------------------------------------------


def relative_error(made: Tensor, truth: Tensor) -> float:
    """``|made - truth| / |truth|`` over all entries; both have the same shape, real or complex."""
    return float((made - truth).norm() / truth.norm())


def centred_dft(field: Tensor) -> Tensor:
    """The unitary DFT with pixel n // 2 as origin on both sides: (..., n, n) -> (..., n, n)."""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(field, MIDDLE), norm="ortho"), MIDDLE)


def circular(image: Tensor, kernel: Tensor) -> Tensor:
    """Circular convolution of an image (n, n) by FFT; the middle pixel of the kernel (k, k) is its origin."""
    kernel = torch.fft.ifftshift(embed(kernel, image.shape[-1]), MIDDLE)
    return torch.fft.ifft2(torch.fft.fft2(image) * torch.fft.fft2(kernel)).real


def fresnel_bench(n: int, wavelength: float, focal: float, **flaws: Any) -> Bench:
    """A `Bench` that does not warn where Fresnel's approximation fails, for those who ask what it does there.

    Arguments and errors are those of `Bench`, lengths in metres.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParaxialWarning)
        return Bench(n, wavelength, focal, **flaws)


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=generator)


def identity_errors(n: int, wavelength: float, focal: float, generator: torch.Generator) -> dict[str, float]:
    """Relative errors of the two identities of a bench of n x n pixels, for an image and a 5 x 5 kernel.

    Their pixels are drawn from 0..1. ``lens``: the field behind a lens against the unitary DFT; ``bench``:
    the field on the camera against the circular convolution, signs included; ``stretched``: the amplitude
    there likewise, where pixels are 5 % too far apart. Raises what `Bench` raises, as for an odd n.
    """
    good = fresnel_bench(n, wavelength, focal)
    stretched = fresnel_bench(n, wavelength, focal, pitch=1.05 * good.pitch)
    image, kernel = _uniform(generator, n, n), _uniform(generator, 5, 5)
    truth = circular(image, kernel)
    return {
        "lens": relative_error(good.lens_ft(image.to(good.dtype)), -1j * centred_dft(image)),
        "bench": relative_error(-upright(good.run(image, kernel)), truth),
        "stretched": relative_error(upright(stretched.run(image, kernel)).abs(), truth),
    }


def odd_plane_error(n: int, wavelength: float, focal: float, generator: torch.Generator) -> float:
    """Relative error of a lens against the unitary DFT on an odd plane of n pixels, which a `Bench` refuses.

    Up to the phase that fits best, so that it is not the phase that fails. ``ValueError`` for an even n.
    """
    if n % 2 == 0:
        raise ValueError(f"n must be odd, got {n}: there a lens is a DFT")
    pitch = critical_pitch(n, wavelength, focal)
    space = transfer_function(n, pitch, wavelength, focal)
    image = _uniform(generator, n, n)
    field = torch.fft.ifft2(torch.fft.fft2(image) * space) * lens_phase(n, pitch, wavelength, focal)
    behind, truth = torch.fft.ifft2(torch.fft.fft2(field) * space), centred_dft(image)
    phase = (behind.conj() * truth).sum()
    return relative_error(behind * phase / phase.abs(), truth)


def flawed_errors(n: int, wavelength: float, focal: float, generator: torch.Generator) -> dict[str, float]:
    """Relative error of the camera's amplitude against the convolution, for each way to depart from an ideal.

    Image and kernel as in `identity_errors`, and the errors raised. From 1024 pixels on only Fresnel's waves
    are compared with exact ones: that plane costs more than all smaller ones.
    """
    flaws: dict[str, dict[str, Any]] = {
        "Fresnel, as simulators have it": {},
        "exact free space": {"exact": True},
    }
    if n < 1024:
        flaws |= {
            "camera 10 µm out of focus": {"dz": (0, 0, 0, 1e-5)},
            "filter half a pixel off": {"shift": (0, 0.5)},
            "round lenses as wide as the plane": {"pupil": n / 2 * critical_pitch(n, wavelength, focal)},
        }
    benches = {name: fresnel_bench(n, wavelength, focal, **flaw) for name, flaw in flaws.items()}
    image, kernel = _uniform(generator, n, n), _uniform(generator, 5, 5)
    truth = circular(image, kernel)
    return {
        name: relative_error(upright(bench.run(image, kernel)).abs(), truth)
        for name, bench in benches.items()
    }


def amplitude_and_phase(field: Tensor, dark: float = 1e-2) -> tuple[Tensor, Tensor]:
    """A complex field (n, n) to look at: log10 of its amplitude over the largest, and its phase, rad.

    Below ``dark`` of the largest amplitude the first is cut off and the second nan: there is no phase to see.
    """
    amplitude = (field.abs() / field.abs().max()).clamp(min=dark)
    return amplitude.log10(), field.angle().where(amplitude > dark, torch.nan)


# --- signs, photons and bits --------------------------------------------------------------------------------


def read_out_error(x: Tensor, weight: Tensor, dtype: torch.dtype) -> float:
    """Largest error of a layer on an ideal bench against ``conv2d`` in float64, over the largest output.

    Over all `READ_OUTS` and over valid, same and full padding, but for valid where the kernel is larger than
    the image. ``x``: (batch, in, n, n), not negative; ``weight``: (out, in, k, k), k odd.
    """
    worst, k = 0.0, weight.shape[-1]
    pixels: dict[Literal["valid", "same", "full"], int] = {"valid": 0, "same": k // 2, "full": k - 1}
    for padding in pixels:
        if padding == "valid" and k > x.shape[-1]:
            continue
        truth = conv2d(x.double(), weight.double(), padding=pixels[padding])
        for mode in READ_OUTS:
            made = optical_conv2d(x.to(dtype), weight.to(dtype), padding=padding, mode=mode)
            worst = max(worst, float((made - truth).abs().max() / truth.abs().max()))
    return worst


def unsplit_error(x: Tensor, weight: Tensor) -> float:
    """Relative error of `unsplit_conv2d` against ``conv2d``, float64, for kernels without their mean.

    ``x``: (batch, in, n, n); ``weight``: (out, in, k, k), k odd.
    """
    kernels = weight - weight.mean((-2, -1), keepdim=True)
    return relative_error(unsplit_conv2d(x.double(), kernels), conv2d(x.double(), kernels, padding="same"))


def unsplit_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """What a camera reads of unsplit kernels, |x * k| per channel, then their sum; same padding."""
    out, channels, *_ = weight.shape
    kernels = rearrange(weight, "o i y x -> (i o) 1 y x")
    fields = conv2d(x, kernels, padding="same", groups=channels)
    return fields.abs().unflatten(1, (channels, out)).sum(1)


def passive_fields(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The two fields of pseudo-negativity before the camera, and what electronics multiply them with.

    ``x``: (batch, 1, height, width), not negative and not dark; ``weight``: (out, 1, k, k). Returns fields
    (2, batch, out, y, x), those of k+ first, and gains (2, 1, out, 1, 1). The display's brightest pixel is 1
    and no filter amplifies, so no field exceeds 1; ``fields * gains``, the first less the second, is
    ``conv2d(x, weight)``. For cameras other than `optical_conv2d` has.
    """
    brightest = x.amax()
    parts = torch.stack([weight.clamp(min=0), (-weight).clamp(min=0)])
    # The spectrum of a kernel that is not negative has its largest modulus at frequency 0.
    sums = parts.sum((2, 3, 4), keepdim=True)
    sums = torch.where(sums > 0, sums, 1)
    fields = torch.stack([conv2d(x / brightest, part) for part in parts / sums])
    return fields, brightest * sums.transpose(1, 2)


def optnn_shot_noise(intensity: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Noise as optnn 0.1 has it: (255 y + Poisson(255 y)) / 255, which adds the counts to the picture."""
    counts = 255 * intensity
    return (counts + torch.poisson(counts, generator=generator)) / 255


def decibel(clean: Tensor, noisy: Tensor) -> float:
    """Signal to noise, 10 log10(sum clean^2 / sum (noisy - clean)^2), dB; infinite where they are equal."""
    error = float((noisy - clean).square().sum())
    return math.inf if error == 0 else 10 * math.log10(float(clean.square().sum()) / error)


def _bright_over_dark(errors: Tensor, brightness: Tensor) -> float:
    """Standard deviation in the brightest quarter of the pixels over that in the darkest."""
    low, high = brightness.quantile(0.25), brightness.quantile(0.75)
    return float(errors[brightness > high].std() / errors[brightness < low].std())


def _regression(made: Tensor, truth: Tensor) -> float:
    """Slope of the line through the origin that predicts ``made`` from ``truth``."""
    return float((made * truth).sum() / truth.square().sum())


def per_decade(photons: Sequence[float], decibels: Sequence[float]) -> float | None:
    """Slope of a signal to noise ratio, dB per decade of photons, from a thousand photons on.

    None over less than a decade, where a slope is noise.
    """
    bright = [(math.log10(p), ratio) for p, ratio in zip(photons, decibels, strict=True) if p >= 1e3]
    decades, ratios = zip(*bright, strict=True) if bright else ((0.0,), (0.0,))
    return float(np.polyfit(decades, ratios, 1)[0]) if max(decades) - min(decades) >= 1 else None


def shot_noise(
    photo: Tensor, kernel: Tensor, photons: Sequence[float], generator: torch.Generator
) -> dict[str, Any]:
    """What photons do to a picture (1, 1, height, width), brightest 1, convolved with a kernel (1, 1, k, k).

    Errors count in units of a passive filter, the root mean square of the sums of k+ and k-.

    - ``decibels``: signal to noise for each of ``photons``, by read-out, and in closed form;
    - ``std``: error times the root of the photons, from 10^4 on the one farthest from 1/sqrt(2); ``slope``:
      `per_decade` with pseudo-negativity; at the most photons ``flat``, the error where the picture is
      brightest over that where it is darkest (from 10^6 on), and ``gain``, the regression of the noisy
      picture on the clean one (from 10^4 on). None where there are too few photons;
    - ``counts``: ``flat`` of the counts of both passes, subtracted without taking roots; ``additive``:
      ``gain`` with optnn's noise, which adds the counts to the picture.

    Raises ``ValueError`` for no photons.
    """
    at_least(1, **{"number of photons": len(photons)})

    def read(kernel: Tensor, **how: Any) -> Tensor:
        return optical_conv2d(photo, kernel, **how)

    most, clean, brightness = max(photons), read(kernel), read(kernel.abs())
    scale = float(((kernel.clamp(min=0).sum() ** 2 + kernel.clamp(max=0).sum() ** 2) / 2).sqrt())
    noisy = {p: read(kernel, noise=Noise(photons=p), generator=generator) for p in photons}
    errors = {p: (made - clean) / scale for p, made in noisy.items()}
    decibels = {"pm": [decibel(clean, made) for made in noisy.values()]}
    for mode in ("offset", "reference"):
        decibels[mode] = [
            decibel(clean, read(kernel, mode=mode, noise=Noise(photons=p), generator=generator))
            for p in photons
        ]
    power = 10 * math.log10(float(clean.square().mean()) / scale**2)
    scaled = [float(errors[p].std() * p**0.5) for p in photons if p >= 1e4]
    intensities = passive_fields(photo, kernel)[0].square()
    counts = expose(intensities, Noise(photons=most), generator=generator) - intensities
    intensity = clean.abs() / clean.abs().max()
    return {
        "decibels": decibels | {"closed form": [power + 10 * math.log10(2 * p) for p in photons]},
        "std": max(scaled, key=lambda value: abs(value - 0.5**0.5), default=None),
        "slope": per_decade(photons, decibels["pm"]),
        "flat": _bright_over_dark(errors[most], brightness) if most >= 1e6 else None,
        "gain": _regression(noisy[most], clean) if most >= 1e4 else None,
        "counts": _bright_over_dark(counts[0] - counts[1], brightness) if most >= 1e6 else None,
        "additive": _regression(optnn_shot_noise(intensity, generator), intensity),
    }


def few_bits(photo: Tensor, kernel: Tensor, bits: Sequence[int], mode: Mode = "pm") -> dict[str, list[float]]:
    """Signal to noise, dB, for each of ``bits``: of the display, the filter, or the camera alone.

    And of ``"a camera of amplitudes"``, which rounds these and not intensities. Shapes as in `shot_noise`.
    Raises ``ValueError`` for bits that no device has.
    """

    def seen(**flaws: int) -> Tensor:
        return optical_conv2d(photo, kernel, mode=mode, noise=Noise(**flaws))

    clean, (fields, gains) = seen(), passive_fields(photo, kernel)
    devices = {"display": "slm_bits", "filter": "filter_bits", "camera": "camera_bits"}
    curves = {name: [decibel(clean, seen(**{device: b})) for b in bits] for name, device in devices.items()}
    rounded = (gains * quantise(fields, b) for b in bits)
    return curves | {"a camera of amplitudes": [decibel(clean, plus - minus) for plus, minus in rounded]}


# --- networks -----------------------------------------------------------------------------------------------


class DigitsNet(nn.Module):
    """Two 3 x 3 convolutions with ReLU, 4 and 8 channels, mean over 2 x 2 blocks, a linear layer.

    ``convolution`` makes a layer from (in_channels, out_channels): same padding, 3 x 3. Its inputs are never
    negative. Takes (batch, 8, 8), returns (batch, 10).
    """

    def __init__(self, convolution: Callable[[int, int], nn.Module]):
        super().__init__()
        self.features = nn.Sequential(
            convolution(1, 4), nn.ReLU(), convolution(4, 8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8, 8) -> (batch, 10)."""
        return self.head(self.features(x[:, None]))


class UnsplitConv2d(nn.Conv2d):
    """``nn.Conv2d`` read as `unsplit_conv2d`, same padding."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height, width)."""
        assert self.bias is not None
        return unsplit_conv2d(x, self.weight) + self.bias[:, None, None]


def optical(noise: Noise, mode: Mode = "pm") -> Callable[[int, int], nn.Module]:
    """A factory of layers for `DigitsNet`, each with a source of noise drawn from the seed of the network."""

    def layer(channels: int, out: int) -> nn.Module:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        return OpticalConv2d(channels, out, 3, padding="same", mode=mode, noise=noise, generator=generator)

    return layer


def electronic(kind: type[nn.Conv2d]) -> Callable[[int, int], nn.Module]:
    """As `optical`, without noise: it draws as many numbers, so that weights start from the same ones."""

    def layer(channels: int, out: int) -> nn.Module:
        torch.randint(2**31, ())
        return kind(channels, out, 3, padding="same")

    return layer


class Light:
    """How a network's products are made of light: read-out, imperfections, and where its noise comes from."""

    def __init__(
        self,
        noise: Noise,
        generator: torch.Generator | None = None,
        mode: Mode = "pm",
        signed: Signed = "split",
    ):
        self.how = {"noise": noise, "generator": generator, "mode": mode, "signed": signed}

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: object) -> Tensor:
        """`fourfold.bench4f.optical_conv.optical_conv2d` with this light."""
        return optical_conv2d(x, weight, bias, **geometry, **self.how)  # type: ignore[arg-type]


class UnsplitLight(Light):
    """`Light` whose camera reads |U| of images and kernels as they are: every sign is lost."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: object) -> Tensor:
        """As `Light.convolve`, without noise."""
        field = fft_conv2d(x, weight, **geometry).abs()  # type: ignore[arg-type]
        return field if bias is None else field + bias[:, None, None]


class BenchLinear(nn.Module):
    """A layer whose kernels all tokens share, on the bench: each token an image of p x p pixels.

    ``weight``: (kernels, maps, k, k), ``bias``: (kernels,), padding in pixels, as ConvShareViT's layers have.
    """

    def __init__(self, weight: Tensor, bias: Tensor, p: int, padding: int, light: Light):
        super().__init__()
        self.weight, self.bias, self.p, self.padding, self.light = weight, bias, p, padding, light

    def forward(self, x: Tensor) -> Tensor:
        """(..., maps * p^2) -> (..., kernels * outputs)."""
        images = x.reshape(-1, self.weight.shape[1], self.p, self.p)
        y = self.light.convolve(images, self.weight, self.bias, padding=self.padding)
        return y.reshape(*x.shape[:-1], -1)


class BenchAttention(Attention):
    """`fourfold.attention.Attention` whose two products of data with data are made of light, too.

    Scores: every query map meets every key map as kernel. Mixing: a 1 x 1 convolution over token channels
    whose kernels are the attention. A head's map is a row of its features. Softmax is electronic.
    """

    def __init__(self, made: Attention, light: Light):
        nn.Module.__init__(self)
        self.__dict__.update(made.__dict__)
        self.light = light

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor]:
        """As `Attention`: (batch, tokens, dim) -> (batch, queries, dim), (batch, heads, queries, tokens)."""
        q, k, v = (
            rearrange(layer(part), "b t (h d) -> (b h) t 1 d", h=self.heads)
            for layer, part in ((self.query, x[:, :queries]), (self.key, x), (self.value, x))
        )
        problems = len(k)
        kernels = rearrange(k, "p j y x -> (p j) 1 y x")
        scores = self.light.convolve(rearrange(q, "p i y x -> i p y x"), kernels, groups=problems)
        scores = rearrange(scores, "i (p j) 1 1 -> p i j", p=problems)
        attention = (scores * self.scale).softmax(-1)
        mixing = rearrange(attention, "p i j -> (p i) j 1 1")
        mixed = self.light.convolve(rearrange(v, "p j y x -> 1 (p j) y x"), mixing, groups=problems)
        mixed = rearrange(mixed, "1 (b h i) 1 d -> b i (h d)", b=len(x), h=self.heads)
        return self.projection(mixed), rearrange(attention, "(b h) i j -> b h i j", b=len(x))


def on_the_bench(model: ViT, light: Light) -> ViT:
    """A copy of a trained ConvShareViT whose linear layers and attention are made of light.

    Its layers of shared kernels are those that ``convolve``; what has none, the read-out of the class, stays
    electronic, as do norms, softmax and GELU. Raises ``ValueError`` if some kernels are not shared.
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "convolve"):
                if child.tokens is not None:
                    raise ValueError(f"{name} must share its kernels, got kernels for {child.tokens} tokens")
                layer = BenchLinear(child.weight, child.bias, child.p, child.padded, light)
                setattr(module, name, layer)
            elif isinstance(child, Attention):
                setattr(module, name, BenchAttention(child, light))
    return model


# --- the benchmark's record ---------------------------------------------------------------------------------


def time_ratio(
    rows: Iterable[Mapping[str, Any]],
    slower: str,
    faster: str,
    kind: str,
    choose: Callable[..., Any] = max,
) -> list[float] | None:
    """How many times longer one contestant takes than another, one number a round; None without rows.

    ``rows``: of a race of ``benchmarks/four_f.py``, a layer each; ``kind``: ``"forward"`` or ``"training"``.
    Of the layer with the largest median, or with ``choose=min`` the smallest.
    """
    times = ([row["contestants"][name][kind]["rounds"] for name in (slower, faster)] for row in rows)
    ratios = ([a / b for a, b in zip(*pair, strict=True)] for pair in times)
    return choose(ratios, key=np.median, default=None)


def layer_name(shape: Sequence[int]) -> str:
    """A layer of the benchmark, (batch, in, out, k, n), in words."""
    return "{} x {}→{}, k = {}, n = {}".format(*shape)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def contestants(rows: Iterable[Mapping[str, Any]], race: str, reference: str) -> pd.DataFrame:
    """A race as a table: every contestant of every layer, its error, times, ratios with spread, memory."""
    lines = []
    for row in rows:
        for i, (name, of) in enumerate(row["contestants"].items()):
            line = [layer_name(row["shape"]) if i == 0 else "", name, f"{of['error']:.0e}"]
            for kind in ("forward", "training"):
                middle, low, high = map(_number, of[kind]["ratio"])
                line += [_number(of[kind]["ms"]), f"{middle} ({low} to {high})"]
            lines.append([*line, _number(of["training"]["mb"])])
    over = f"over {reference}"
    titles = ["layer", race, "error", "forward, ms", over, "with backward, ms", over, "peak MB"]
    return pd.DataFrame(lines, columns=titles)


def how_far(
    rows: Iterable[Mapping[str, Any]],
    limits: Mapping[str, Mapping[str, float]],
    name: str,
    dtype: torch.dtype,
    peer: str | None = None,
) -> pd.DataFrame:
    """How far a contestant's forward pass is from what the machine can do, a line a layer.

    Multiply-adds and numbers moved are counted; ``limits``: dtype -> GFLOP/s of a large matrix product
    (``gemm``) and GB/s of a copy in the cache (``cache``). With ``peer`` how many times faster than it the
    slower of both would be.
    """
    precision = str(dtype).removeprefix("torch.")
    can, lines = limits[precision], []
    for row in rows:
        ms, work = row["contestants"][name]["forward"]["ms"], row["work"]
        done, moved = 2 * work["multiply_adds"], dtype.itemsize * work["numbers"]
        flops, bytes_ = done / ms / 1e6, moved / ms / 1e6
        line = [layer_name(row["shape"]), work["way"], _number(work["multiply_adds"] / 1e6), _number(flops)]
        line += [f"{flops / can['gemm']:.0%}", _number(moved / 1e6)]
        line += [_number(bytes_), f"{bytes_ / can['cache']:.0%}"]
        if peer:
            best = max(done / can["gemm"], moved / can["cache"]) / 1e6
            line.append(_number(row["contestants"][peer]["forward"]["ms"] / best))
        lines.append(line)
    titles = ["layer", f"{name}, {precision}", "million multiply-adds", "GFLOP/s", "of a matrix product"]
    titles += ["MB moved", "GB/s", "of a copy"] + ([f"{peer} over the limit"] if peer else [])
    return pd.DataFrame(lines, columns=titles)
