"""Radio signals made here: eight modulations, a channel, frames with labels, and what theory says of them.

A stand-in for the RadioML sets, which must be downloaded. Linear modulations shape random symbols with a root
raised cosine; the two frequency modulations keep a constant envelope. A frame is what a receiver has
before it is synchronised: unknown timing, phase, and a small frequency offset, in white Gaussian noise.

Signals are complex baseband, (..., samples), of average power 1 before the noise. SNR is per sample, in dB:
with `SPS` samples a symbol the energy of a symbol over the noise density, Es/N0, is 10 log10(SPS) = 9.03 dB
higher, since a matched filter adds up a symbol's samples.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import integrate, special
from torch import Generator, Tensor

LINEAR = ("BPSK", "QPSK", "8PSK", "16QAM", "64QAM", "PAM4")
MODULATIONS = (*LINEAR, "GFSK", "CPFSK")

SPS = 8
"""Samples a symbol."""

SPAN = 4
"""Reach of a pulse, symbols on each side of its middle."""

ROLL_OFF = 0.35

INDEX = {"GFSK": 0.25, "CPFSK": 0.5}
"""Modulation index h: a symbol turns the phase by +-pi h. GFSK's as in RadioML's generator, 8 x 0.1 / pi."""

BT = 0.35
"""GFSK: bandwidth of the Gaussian filter times the length of a symbol."""

OFFSET = 0.002
"""Standard deviation of the frequency offset, cycles a sample."""

DELAYS = (0, 4, 8)
"""Multipath: delays of the three taps, samples; the powers fall by half from tap to tap."""


class Frames(NamedTuple):
    """Frames (n, 2, length), I and Q; labels (n,), places in the list of modulations; SNR (n,), dB."""

    frames: Tensor
    labels: Tensor
    snr: Tensor


def constellation(name: str) -> Tensor:
    """The points of a linear modulation, complex128 (points,), energy 1. ValueError for another name."""
    if name not in LINEAR:
        raise ValueError(f"name must be one of {', '.join(LINEAR)}, got {name!r}")
    if name.endswith("PSK"):
        points = {"BPSK": 2, "QPSK": 4, "8PSK": 8}[name]
        turn = 2 * torch.pi * torch.arange(points, dtype=torch.float64) / points
        # QPSK stands on the diagonals, as a QAM of four points.
        return torch.polar(
            torch.ones(points, dtype=torch.float64), turn + (torch.pi / 4 if points == 4 else 0)
        )
    side = {"16QAM": 4, "64QAM": 8, "PAM4": 4}[name]
    levels = torch.arange(1 - side, side, 2, dtype=torch.float64)
    grid = torch.complex(levels, torch.zeros_like(levels))
    if name.endswith("QAM"):
        grid = torch.complex(*torch.meshgrid(levels, levels, indexing="ij")).flatten()
    return grid / grid.abs().square().mean().sqrt()


def root_raised_cosine(sps: int = SPS, roll_off: float = ROLL_OFF, span: int = SPAN) -> Tensor:
    """The pulse whose own correlation has zeros at every other symbol: float64 (2 span sps + 1,), energy 1.

    Cut at ``span`` symbols on each side, which leaves about -36 dB of interference between symbols.
    Raises ``ValueError`` for sizes < 1 or a roll-off outside 0..1, ends excluded.
    """
    if sps < 1 or span < 1:
        raise ValueError(f"sps and span must be >= 1, got {sps} and {span}")
    if not 0 < roll_off < 1:
        raise ValueError(f"roll_off must be in 0..1, ends excluded, got {roll_off}")
    t = np.arange(-span * sps, span * sps + 1) / sps
    b = roll_off
    with np.errstate(divide="ignore", invalid="ignore"):
        pulse = np.sin(np.pi * t * (1 - b)) + 4 * b * t * np.cos(np.pi * t * (1 + b))
        pulse /= np.pi * t * (1 - (4 * b * t) ** 2)
    # The formula's removable singularities: the middle, and where 4 b t = +-1.
    pulse[t == 0] = 1 - b + 4 * b / np.pi
    edge = np.pi / (4 * b)
    pulse[np.isclose(np.abs(4 * b * t), 1)] = (
        b / 2**0.5 * ((1 + 2 / np.pi) * np.sin(edge) + (1 - 2 / np.pi) * np.cos(edge))
    )
    return torch.from_numpy(pulse / np.linalg.norm(pulse))


def modulate(
    name: str, count: int, symbols: int, generator: Generator, *, sps: int = SPS
) -> tuple[Tensor, Tensor]:
    """``count`` signals of random symbols, average power 1 away from their ends, and the symbols.

    Returns complex128 (count, (symbols - 1) sps + taps) with taps = 2 span sps + 1, and int64 (count,
    symbols): places in `constellation`, or 0 and 1 for a frequency that goes down and up. Symbol j is centred
    on sample (span + j) sps. Raises ``ValueError`` for an unknown name or sizes < 1.
    """
    if name not in MODULATIONS:
        raise ValueError(f"name must be one of {', '.join(MODULATIONS)}, got {name!r}")
    for what, size in {"count": count, "symbols": symbols, "sps": sps}.items():
        if size < 1:
            raise ValueError(f"{what} must be >= 1, got {size}")
    points = len(constellation(name)) if name in LINEAR else 2
    drawn = torch.randint(points, (count, symbols), generator=generator)
    if name in LINEAR:
        return sps**0.5 * _shape(constellation(name)[drawn], root_raised_cosine(sps), sps), drawn
    frequency = _shape((2 * drawn - 1).double(), _frequency_pulse(name, sps), sps)
    phase = torch.pi * INDEX[name] * frequency.cumsum(-1)
    return torch.polar(torch.ones_like(phase), phase), drawn


def make_frames(
    n: int,
    snrs: Sequence[float],
    generator: Generator,
    *,
    mods: Sequence[str] = MODULATIONS,
    length: int = 128,
    sps: int = SPS,
    multipath: bool = False,
) -> Frames:
    """``n`` labelled frames; modulations and SNRs take turns, so that each pair is as frequent as any other.

    Frames start anywhere within two symbols and have a uniform phase and a frequency offset N(0, `OFFSET`).
    With ``multipath`` each passes its own three-tap Rayleigh channel, scaled to energy 1 so that its SNR is
    what the label says. After the noise each is normalised to power 1, or its power would tell the SNR.
    Frames are float32.
    Raises ``ValueError`` for n or length < 1, no SNRs, or modulations that are unknown or named twice.
    """
    if n < 1 or length < 1:
        raise ValueError(f"n and length must be >= 1, got {n} and {length}")
    if not len(snrs):
        raise ValueError("snrs must hold at least one SNR in dB, got none")
    if not mods or len(set(mods)) < len(mods) or not set(mods) <= set(MODULATIONS):
        raise ValueError(
            f"mods must be different ones of {', '.join(MODULATIONS)}, got {', '.join(mods) or 'none'}"
        )
    number = torch.arange(n)
    labels = number % len(mods)
    snr = torch.tensor(snrs, dtype=torch.float64)[(number // len(mods)) % len(snrs)]
    needed = math.ceil(length / sps) + 4  # two symbols for the timing, two for the longest echo and rounding
    clean = torch.empty(n, length, dtype=torch.complex128)
    for label, name in enumerate(mods):
        here = (labels == label).nonzero()[:, 0]
        if len(here):
            clean[here] = _cut(name, len(here), needed, length, sps, multipath, generator)
    turns = torch.rand(n, 1, dtype=torch.float64, generator=generator)
    offset = OFFSET * torch.randn(n, 1, dtype=torch.float64, generator=generator)
    angle = 2 * torch.pi * (turns + offset * torch.arange(length))
    noise = torch.randn(n, length, dtype=torch.complex128, generator=generator)  # power 1
    received = clean * torch.polar(torch.ones_like(angle), angle) + noise * 10 ** (-snr[:, None] / 20)
    received = received / received.abs().square().mean(-1, keepdim=True).sqrt()
    frames = torch.stack([received.real, received.imag], 1).float()
    order = torch.randperm(n, generator=generator)
    return Frames(frames[order], labels[order], snr[order].float())


def rotate(frames: Tensor, generator: Generator) -> Tensor:
    """Each frame (n, 2, length) turned by a phase of its own, uniform: a receiver cannot know it."""
    angle = 2 * torch.pi * torch.rand(len(frames), 1, generator=generator)
    cos, sin = angle.cos(), angle.sin()
    i, q = frames.unbind(1)
    return torch.stack([cos * i - sin * q, sin * i + cos * q], 1)


def matched_filter(received: Tensor, pulse: Tensor, symbols: int, *, sps: int = SPS) -> Tensor:
    """What a synchronised receiver decides on: received (count, samples) -> complex (count, symbols).

    ``received`` as `modulate` returns it, ``pulse`` real of the same number of taps and energy 1.
    """
    windows = received.unfold(-1, len(pulse), sps)[:, :symbols]
    return windows @ pulse.to(received.dtype) / sps**0.5


def symbol_error_rate(
    name: str, es_n0: float, symbols: int, generator: Generator, *, pulse: Tensor | None = None
) -> float:
    """Share of wrong decisions of a synchronised receiver on a linear modulation at Es/N0 in dB.

    ``pulse``: the receiver's filter, by default the transmitter's own.
    """
    pulse = root_raised_cosine() if pulse is None else pulse
    block = min(symbols, 1000)
    signal, sent = modulate(name, math.ceil(symbols / block), block, generator)
    noise = torch.randn(signal.shape, dtype=signal.dtype, generator=generator)
    received = signal + noise * (SPS / 10 ** (es_n0 / 10)) ** 0.5
    points = constellation(name)
    decided = (matched_filter(received, pulse, block)[..., None] - points).abs().argmin(-1)
    return float((decided != sent).double().mean())


def theoretical_error_rate(name: str, es_n0: float) -> float:
    """Symbol error rate of the best receiver in white Gaussian noise (Proakis), Es/N0 in dB.

    For linear modulations. Raises ``ValueError`` for another modulation.
    """
    points = len(constellation(name))
    ratio = 10 ** (es_n0 / 10)
    if name == "BPSK":
        return _tail(math.sqrt(2 * ratio))
    if name == "8PSK":
        peak = ratio * math.sin(math.pi / points) ** 2
        return (
            integrate.quad(
                lambda angle: math.exp(-peak / math.sin(angle) ** 2), 0, math.pi * (1 - 1 / points)
            )[0]
            / math.pi
        )
    if name == "PAM4":
        return 2 * (1 - 1 / points) * _tail(math.sqrt(6 / (points**2 - 1) * ratio))
    side = math.isqrt(points)
    one = 2 * (1 - 1 / side) * _tail(math.sqrt(3 / (points - 1) * ratio))
    return 1 - (1 - one) ** 2


def _tail(x: float) -> float:
    """Q(x), the probability that a standard normal number exceeds x."""
    return 0.5 * float(special.erfc(x / 2**0.5))


def _shape(symbols: Tensor, pulse: Tensor, sps: int) -> Tensor:
    """The sum of a pulse at each symbol: (count, symbols) -> (count, (symbols - 1) sps + taps)."""
    count, number = symbols.shape
    impulses = symbols.new_zeros(count, (number - 1) * sps + 1)
    impulses[:, ::sps] = symbols
    size = impulses.shape[-1] + len(pulse) - 1
    shaped = torch.fft.ifft(torch.fft.fft(impulses, size) * torch.fft.fft(pulse, size))
    return shaped if symbols.is_complex() else shaped.real


def _frequency_pulse(name: str, sps: int) -> Tensor:
    """What one symbol adds to the frequency, in units of h/2 cycles: sums to 1, (2 span sps + 1,)."""
    t = (torch.arange(2 * SPAN * sps + 1, dtype=torch.float64) - SPAN * sps) / sps
    if name == "CPFSK":
        # A rectangle of one symbol. It has an even number of samples, so it stands half a sample early.
        return ((t >= -0.5) & (t < 0.5)).double() / sps
    width = 2 * torch.pi * BT / math.log(2) ** 0.5 / 2**0.5
    pulse = torch.special.erf(width * (t + 0.5)) - torch.special.erf(width * (t - 0.5))
    return pulse / pulse.sum()


def _cut(
    name: str, count: int, needed: int, length: int, sps: int, multipath: bool, generator: Generator
) -> Tensor:
    """Pieces (count, length) of signals that have reached their full power, starting within two symbols."""
    signal, _ = modulate(name, count, needed + 2 * SPAN, generator, sps=sps)
    if multipath:
        power = torch.tensor([0.5**tap for tap in range(len(DELAYS))], dtype=torch.float64).sqrt()
        taps = power * torch.randn(count, len(DELAYS), dtype=torch.complex128, generator=generator)
        taps = taps / taps.abs().square().sum(-1, keepdim=True).sqrt()
        echoes = torch.stack([signal.roll(delay, -1) for delay in DELAYS], 1)
        signal = (taps[..., None] * echoes).sum(1)
    # From the first sample that all its neighbouring symbols reach, and past the longest echo.
    start = 2 * SPAN * sps + max(DELAYS) + torch.randint(2 * sps, (count, 1), generator=generator)
    return signal.gather(-1, start + torch.arange(length))
