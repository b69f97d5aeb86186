"""The token mixers of the part "frequency" side by side: one width, one interface, the same measures.

This room compares papers, so it imports their modules; no other room does, and no chapter imports it.

Every entry of ``MIXERS`` maps (batch, channels, side, side) to the same shape and is the branch without a
residual around it. SVT comes in two parts, each with the other one silenced, as does HiLo, where all heads
are Hi-Fi or all Lo-Fi. AFF's own skip is taken out. SFM has no weights here: it reads the map on a grid that
follows the map's own edges. The static filter is GFNet's gate, the one that AFF makes adaptive.

What a mixer answers to an empty map says nothing of the map, and at the start of training can be most of its
output. So all measures are of the ``answer``: the output less the output for zeros.
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from fourfold import spectra
from fourfold.frequency import affnet, litv2, sfm, svt
from fourfold.mixers import GlobalFilter, SelfAttention

HEADS = 4
"""Heads of attention, Hi-Fi and Lo-Fi."""


# --- the mixers: maps (batch, channels, side, side) to the same shape -------------------------------------


class AFFBranch(affnet.AFFMixer):
    """``AFFMixer`` without its skip: what its filter alone gives."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape."""
        frequencies = affnet.spectrum(x)
        return affnet.filtered(self.mask_of(frequencies), frequencies, (x.shape[-2], x.shape[-1]))


class HiLoOnMaps(litv2.HiLo):
    """``HiLo`` for maps instead of tokens."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(batch, channels, H, W) -> the same shape."""
        height, width = x.shape[-2:]
        mixed = super().forward(rearrange(x, "b c h w -> b (h w) c"), height, width)
        return rearrange(mixed, "b (h w) c -> b c h w", h=height)


class Modulation(nn.Module):
    """SFM's adaptive resampling by edges: the map read on a grid that crowds where the map has detail.

    ``sigma``, in pixels, is the reach of the attention; sides must be >= 10, for the blur of the edges.
    """

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def grid(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> where it is read, (batch, H, W, 2)."""
        return sfm.ars_grid(sfm.edge_saliency(x), self.sigma)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape."""
        return sfm.modulate(x, self.grid(x))


def _scatter(channels: int, side: int, silent: str) -> svt.ScatterMixer:
    """SVT's TTXE, the one variant whose two bands both see all channels, with one band silenced."""
    mixer = svt.ScatterMixer(channels, side, side, "TTXE")
    setattr(mixer, silent, svt.Silence())
    return mixer


MIXERS: dict[str, Callable[[int, int], nn.Module]] = {
    "attention": lambda channels, side: SelfAttention(channels, HEADS),
    "static filter": lambda channels, side: GlobalFilter(channels, side, side),
    "SVT low": lambda channels, side: _scatter(channels, side, silent="high"),
    "SVT high": lambda channels, side: _scatter(channels, side, silent="low"),
    "AFF": lambda channels, side: AFFBranch(channels),
    "Hi-Fi": lambda channels, side: HiLoOnMaps(channels, HEADS, alpha=0.0),
    "Lo-Fi": lambda channels, side: HiLoOnMaps(channels, HEADS, alpha=1.0),
    "SFM": lambda channels, side: Modulation(side / 8),
}
"""Name -> maker of a mixer from its channels (a multiple of 8) and the side of its maps (even, >= 10)."""


def channels_only(channels: int, side: int) -> nn.Module:
    """The control: a 1 x 1 convolution. It mixes channels and no tokens."""
    return nn.Conv2d(channels, channels, 1)


def multiply_adds(name: str, channels: int, side: int) -> float:
    """Real multiply-adds of one mixer for one square map, in closed form, by its chapter's rules.

    A real FFT counts 1.25 N log2 N for N pixels, the wavelets as convolutions with their 13 and 19 taps, a
    bilinear reading 4; blurs of SFM as we compute them, one matrix an axis, side^3 a map. Softmax, norms,
    biases and activations do not count. Raises ``ValueError`` for an unknown name.
    """
    tokens = side**2
    transforms = 2 * 1.25 * tokens * torch.tensor(float(tokens)).log2().item() * channels
    wavelets = 2 * 3 * svt.TAPS * tokens * channels
    if name == "attention":
        return affnet.mixing_operations("attention", tokens, channels)
    if name == "static filter":
        return transforms + 4 * channels * (tokens / 2 + side)
    if name == "SVT low":
        return wavelets + tokens * channels
    if name == "SVT high":
        return wavelets + 12 * tokens * channels**2 / 4
    if name == "AFF":
        return affnet.mixing_operations("aff", tokens, channels)
    if name in ("Hi-Fi", "Lo-Fi"):
        with torch.device("meta"):
            hilo = litv2.HiLo(channels, HEADS, alpha=float(name == "Lo-Fi"))
        return sum(hilo.macs(side, side))
    if name == "SFM":
        return (2 * channels + 7) * side**3 + 4 * tokens * channels
    raise ValueError(f"name must be one of {', '.join(MIXERS)}, got {name!r}")


# --- the same maps for all --------------------------------------------------------------------------------


def embedded(pictures: Tensor, channels: int, generator: torch.Generator) -> Tensor:
    """Colour pictures (n, 3, 2 side, 2 side) as maps (n, channels, side, side), as a network would start.

    Patches of 2 x 2 pixels times one random matrix; each picture's map is brought to mean 0 and variance 1 as
    a whole, like the norm before a mixer. Channels keep means and contrasts of their own.
    """
    patches = rearrange(pictures, "n c (y i) (x j) -> n (c i j) y x", i=2, j=2)
    matrix = torch.randn(channels, patches.shape[1], generator=generator) / patches.shape[1] ** 0.5
    return nn.functional.group_norm(torch.einsum("oi,niyx->noyx", matrix, patches), 1)


# --- what a mixer does to a map ---------------------------------------------------------------------------


def answer(mixer: nn.Module, x: Tensor) -> Tensor:
    """The output for maps (n, channels, H, W) less the output for a map of zeros, without gradients.

    One map at a time, which bounds the memory of attention.
    """
    with torch.no_grad():
        silence = mixer(torch.zeros_like(x[:1]))
        return torch.cat([mixer(one) - silence for one in x.split(1)])


def contrast(x: Tensor) -> Tensor:
    """Maps (..., H, W) less their means."""
    return x - x.mean((-2, -1), keepdim=True)


def above_zero(x: Tensor) -> float:
    """Share of the power of maps (..., H, W) that is not at frequency zero, all maps together."""
    return float(contrast(x).square().sum() / x.square().sum())


def gain(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How y treats the frequencies of x, both (n, channels, H, W), ring by ring: two times (rings,).

    Frequencies in cycles per pixel from ring 1 on, and half the log of the ratio of powers (y over x, means
    over maps and channels, Hann window), less the same of all frequencies above zero together. A mixer that
    treats all frequencies alike has 0 everywhere, whatever its scale: channels that are mixed at random keep
    their mean power spectrum. One that makes fine detail stronger than coarse has more at high frequencies.
    """
    (frequency, before), (_, after) = (spectra.radial(contrast(maps), "power", "hann") for maps in (x, y))
    ratio = after.mean((0, 1)) / before.mean((0, 1))
    whole = spectra.power(contrast(y), "hann").sum() / spectra.power(contrast(x), "hann").sum()
    return frequency[1:], (ratio.log() - whole.log())[1:] / 2


def shift_error(mixer: nn.Module, x: Tensor, shift: tuple[int, int]) -> float:
    """How much of the answer's contrast changes with the origin: 0 for a shift-equivariant mixer.

    The norm of ``answer(roll x) - roll answer(x)`` over that of the answer, ``shift`` in pixels down and
    right. Rolling wraps around, so what a mixer does at the border counts too.
    """
    here = contrast(answer(mixer, x))
    there = contrast(answer(mixer, x.roll(shift, (-2, -1))))
    return float((there - here.roll(shift, (-2, -1))).norm() / here.norm())


def superposition_error(mixer: nn.Module, a: Tensor, b: Tensor) -> float:
    """How far the answer to a sum is from the sum of the answers: 0 for a mixer that is blind to content.

    The norm of the difference of the contrasts over that of the answer to ``a + b``. A linear mixer treats
    every map alike; whatever chooses by content cannot be linear.
    """
    both = contrast(answer(mixer, a + b))
    return float((both - contrast(answer(mixer, a) + answer(mixer, b))).norm() / both.norm())


# --- learning to split bands ------------------------------------------------------------------------------


def bands(x: Tensor, edges: Sequence[float]) -> Tensor:
    """Maps (..., H, W) cut in bands of frequency: (..., len(edges) + 1, H, W), which add up to x.

    Band i holds edges[i-1] <= frequency < edges[i], in cycles per pixel; cut on the FFT, so circularly.
    """
    radius = spectra.frequencies(*x.shape[-2:]) + spectra.TIE
    band = torch.bucketize(radius, torch.tensor(edges, dtype=radius.dtype), right=True)
    masks = torch.stack([band == i for i in range(len(edges) + 1)])
    return torch.fft.ifft2(torch.fft.fft2(x)[..., None, :, :] * masks).real.to(x.dtype)


class BandSplitter(nn.Module):
    """A 1 x 1 convolution to ``channels``, a mixer with a residual around it, a 1 x 1 convolution to bands.

    Only the mixer moves anything between pixels.
    """

    def __init__(self, channels: int, mixer: nn.Module, parts: int):
        super().__init__()
        self.embed = nn.Conv2d(1, channels, 1)
        self.mixer = mixer
        self.read = nn.Conv2d(channels, parts, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, H, W) -> (batch, parts, H, W)."""
        z = self.embed(x[:, None])
        return self.read(z + self.mixer(z))


def response(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What of each frequency of x arrives in y, both (n, H, W): two times (rings,), ring 0 included.

    Frequencies in cycles per pixel, and the real part of the cross spectrum over the power of x, sums over
    maps and rings: the amplitude response of the filter, without phase, that is closest to x -> y. 1 where y
    holds x unchanged, 0 where it has nothing of x, whatever else it has.
    """
    frequency, total = spectra.radial(x + y, "power")
    difference, power = (spectra.radial(maps, "power")[1] for maps in (x - y, x))
    return frequency, (total - difference).sum(0) / (4 * power.sum(0))
