"""Radio signals: constellations, pulses, power, spectra, error rates, and frames that give nothing away."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from scipy.stats import norm

from fourfold.data import signals
from fourfold.training import stream


def made(name: str, count: int = 40, symbols: int = 60, seed: int = 1):
    return signals.modulate(name, count, symbols, stream(seed, name))


@pytest.mark.parametrize("name", signals.LINEAR)
def test_constellations_have_energy_one_no_mean_and_different_points(name):
    points = signals.constellation(name)
    assert points.abs().square().mean() == pytest.approx(1, abs=1e-12)
    assert abs(points.mean()) < 1e-12
    distances = (points[:, None] - points).abs() + 9 * torch.eye(len(points))
    side = {"BPSK": 2, "QPSK": 2**0.5, "8PSK": 2 * math.sin(math.pi / 8), "16QAM": 2 / 10**0.5,
            "64QAM": 2 / 42**0.5, "PAM4": 2 / 5**0.5}[name]  # fmt: skip
    assert distances.min() == pytest.approx(side, abs=1e-12)


@pytest.mark.parametrize(("sps", "roll_off"), [(8, 0.35), (4, 0.25), (5, 0.5), (3, 0.9)])
def test_the_pulse_has_energy_one_and_no_interference_if_it_is_long(sps, roll_off):
    assert signals.root_raised_cosine(sps, roll_off).square().sum() == pytest.approx(1, abs=1e-12)
    pulse = signals.root_raised_cosine(sps, roll_off, span=60).numpy()
    correlation = np.convolve(pulse, pulse)[len(pulse) - 1 :: sps]
    assert correlation[0] == pytest.approx(1, abs=1e-12)
    assert np.abs(correlation[1:]).max() < 1e-3


def test_the_pulse_of_the_chapter_leaves_little_interference():
    pulse = signals.root_raised_cosine().numpy()
    correlation = np.convolve(pulse, pulse)[len(pulse) - 1 :: signals.SPS]
    assert 10 * math.log10(2 * (correlation[1:] ** 2).sum()) == pytest.approx(-36, abs=0.5)


@pytest.mark.parametrize("name", signals.MODULATIONS)
def test_signals_have_power_one_and_their_length(name):
    signal, symbols = made(name)
    taps = 2 * signals.SPAN * signals.SPS + 1
    assert signal.shape == (40, 59 * signals.SPS + taps)
    assert symbols.shape == (40, 60)
    steady = signal[:, taps - 1 : -taps]
    assert steady.abs().square().mean() == pytest.approx(1, abs=0.05)
    if name not in signals.LINEAR:
        torch.testing.assert_close(signal.abs(), torch.ones_like(signal.abs()))


@pytest.mark.parametrize("name", signals.LINEAR)
def test_a_receiver_without_noise_makes_no_error(name):
    assert signals.symbol_error_rate(name, 60, 4000, stream(0, name)) == 0


@pytest.mark.parametrize("name", ["GFSK", "CPFSK"])
def test_a_symbol_turns_the_phase_by_pi_h(name):
    signal, symbols = made(name, 3, 200)
    turned = (signal[:, 1:] * signal[:, :-1].conj()).angle().sum(-1) / torch.pi
    sent = (2 * symbols - 1).sum(-1) * signals.INDEX[name]
    # Before its first sample the signal has turned by that sample's share, of which nothing is seen.
    torch.testing.assert_close(turned, sent.double(), rtol=0, atol=1e-6)


def test_gfsk_is_narrower_than_cpfsk():
    def outside(name):
        signal, _ = made(name, 100, 100)
        window = torch.hann_window(signal.shape[-1], dtype=torch.float64)
        spectrum = torch.fft.fft(signal * window).abs().square().mean(0)
        frequency = torch.fft.fftfreq(len(spectrum)).abs() * signals.SPS
        return float(spectrum[frequency > 1].sum() / spectrum.sum())

    assert outside("GFSK") < outside("CPFSK") / 10


@pytest.mark.parametrize(
    ("name", "level"), [("BPSK", 4), ("QPSK", 7), ("8PSK", 11), ("16QAM", 13), ("64QAM", 17), ("PAM4", 11)]
)
def test_symbol_errors_follow_theory_and_a_wrong_filter_does_not(name, level):
    symbols, theory = 60_000, signals.theoretical_error_rate(name, level)
    sigma = (theory * (1 - theory) / symbols) ** 0.5
    assert abs(signals.symbol_error_rate(name, level, symbols, stream(2, name)) - theory) < 4 * sigma
    wrong = torch.zeros(65, dtype=torch.float64)
    wrong[28:36] = 8**-0.5
    assert signals.symbol_error_rate(name, level, symbols, stream(2, name), pulse=wrong) > theory + 4 * sigma


def test_theory_against_formulas_written_otherwise():
    ratio = 10**0.4
    assert signals.theoretical_error_rate("BPSK", 4) == pytest.approx(norm.sf((2 * ratio) ** 0.5), rel=1e-12)
    one = 0.5 * special.erfc((ratio / 2) ** 0.5)
    assert signals.theoretical_error_rate("QPSK", 4) == pytest.approx(2 * one - one**2, rel=1e-9)
    # M-PSK at high Es/N0 is a pair of half planes.
    close = 2 * norm.sf((2 * 10**1.6) ** 0.5 * math.sin(math.pi / 8))
    assert signals.theoretical_error_rate("8PSK", 16) == pytest.approx(close, rel=1e-3)


def test_frames_are_balanced_normalised_and_the_same_for_the_same_seed():
    levels = [0, 5.5, 14]
    first, again, other = (signals.make_frames(240, levels, stream(s, "f")) for s in (1, 1, 2))
    assert first.frames.shape == (240, 2, 128)
    assert first.frames.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.frames, other.frames)
    assert first.labels.bincount().tolist() == [30] * 8
    for level in levels:
        assert first.labels[first.snr == level].bincount().tolist() == [10] * 8
    torch.testing.assert_close(first.frames.square().sum(1).mean(1), torch.ones(240))
    assert not first.labels.sort().values.equal(first.labels)


@pytest.mark.parametrize("multipath", [False, True])
@pytest.mark.parametrize("length", [1, 7, 128, 200])
def test_frames_of_odd_lengths_and_channels(length, multipath):
    made = signals.make_frames(
        9, [10], stream(0, "odd"), mods=["CPFSK", "64QAM"], length=length, multipath=multipath
    )
    assert made.frames.shape == (9, 2, length)
    assert made.frames.isfinite().all()
    assert set(made.labels.tolist()) == {0, 1}


def test_the_snr_is_per_sample():
    """A constant envelope tells noise from signal: at noise power s, E|x|^4 = (1 + 4s + 2s^2) / (1 + s)^2."""
    for level in (-5, 0, 10):
        frames = signals.make_frames(2000, [level], stream(0, "power"), mods=["CPFSK"]).frames.double()
        noise = 10 ** (-level / 10)
        expected = (1 + 4 * noise + 2 * noise**2) / (1 + noise) ** 2
        assert frames.square().sum(1).square().mean() == pytest.approx(expected, rel=0.02)


def test_rotation_turns_each_frame_as_a_whole():
    frames = signals.make_frames(20, [10], stream(0, "turn")).frames
    turned = signals.rotate(frames, stream(1, "turn"))
    before, after = (torch.complex(x[:, 0], x[:, 1]) for x in (frames, turned))
    phase = (after / before).angle()
    spread = (torch.polar(torch.ones_like(phase), phase).mean(1).abs() - 1).abs()
    assert spread.max() < 1e-4
    assert phase[:, 0].std() > 1


G = stream(0, "bad")
REFUSED = [
    (lambda: signals.constellation("GFSK"), "name must be one of BPSK, .*, got 'GFSK'"),
    (lambda: signals.modulate("AM", 1, 1, G), "name must be one of BPSK, .*CPFSK, got 'AM'"),
    (lambda: signals.modulate("BPSK", 0, 1, G), "count must be >= 1, got 0"),
    (lambda: signals.modulate("BPSK", 1, 0, G), "symbols must be >= 1, got 0"),
    (lambda: signals.modulate("BPSK", 1, 1, G, sps=0), "sps must be >= 1, got 0"),
    (lambda: signals.root_raised_cosine(0), "sps and span must be >= 1, got 0 and 4"),
    (lambda: signals.root_raised_cosine(8, 1.0), "roll_off must be in 0..1, ends excluded, got 1.0"),
    (lambda: signals.make_frames(0, [1], G), "n and length must be >= 1, got 0 and 128"),
    (lambda: signals.make_frames(1, [], G), "snrs must hold at least one SNR in dB"),
    (
        lambda: signals.make_frames(1, [1], G, mods=["BPSK", "AM"]),
        "mods must be different ones of .*got BPSK, AM",
    ),
    (lambda: signals.make_frames(1, [1], G, mods=["BPSK", "BPSK"]), "mods must be different"),
    (lambda: signals.make_frames(1, [1], G, mods=[]), "mods must be different .*got none"),
    (lambda: signals.theoretical_error_rate("CPFSK", 3), "name must be one of"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
