"""Spectra: Parseval, cosines in their rings, scipy's periodogram, and decimation folds what is counted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, signal
from torch.nn.functional import avg_pool2d, conv2d

from fourfold.spectra import (
    alias_ratio,
    amplitude,
    band_energy,
    centroid,
    frequencies,
    power,
    radial,
    rel_log_amplitude,
    transfer_function,
)

SIZES = [(8, 8), (9, 9), (7, 12), (12, 7), (1, 16), (5, 1), (1, 1), (2, 3)]
WINDOWS = [None, "hann"]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cosine(height: int, width: int, u: int, v: int, phase: float = 0.3) -> torch.Tensor:
    """u cycles down the height and v along the width."""
    y, x = torch.arange(height).double()[:, None], torch.arange(width).double()
    return torch.cos(2 * math.pi * (u * y / height + v * x / width) + phase)


# --- power and amplitude ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("size", SIZES)
def test_the_powers_sum_to_the_mean_square(size, dtype):
    x = noise(2, 3, *size).to(dtype)
    tolerance = {"rtol": 1e-5, "atol": 0} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 0}
    torch.testing.assert_close(power(x).sum((-2, -1)), x.abs().square().mean((-2, -1)), **tolerance)
    torch.testing.assert_close(power(x), amplitude(x).square(), **tolerance)
    assert power(x).shape == x.shape
    hann = torch.outer(*(torch.hann_window(n, dtype=torch.float64) for n in size))
    windowed = ((hann * x.abs()) ** 2).mean((-2, -1)) / (hann**2).mean()
    torch.testing.assert_close(power(x, "hann").sum((-2, -1)), windowed.to(power(x)), **tolerance)


@pytest.mark.parametrize(("scaling", "ours"), [("density", power), ("spectrum", amplitude)])
@pytest.mark.parametrize("n", [16, 21])
@pytest.mark.parametrize(("window", "theirs"), [(None, "boxcar"), ("hann", "hann")])
def test_one_row_is_scipys_periodogram(window, theirs, n, scaling, ours):
    x = noise(3, n)
    _, expected = signal.periodogram(
        x.numpy(), window=theirs, detrend=False, return_onesided=False, scaling=scaling
    )
    # scipy's density is per cycle/pixel, and a map of one row has n frequencies per cycle/pixel.
    got = power(x[:, None], window) * n if ours is power else amplitude(x[:, None], window) ** 2
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_cosine_keeps_its_amplitude_and_noise_its_power_under_a_window(window):
    assert amplitude(4 * cosine(32, 24, 5, 3), window).max().item() == pytest.approx(2, rel=1e-12)
    assert amplitude(torch.full((6, 5), -3.0), window)[0, 0].item() == pytest.approx(3)
    mean_square = power(noise(400, 16, 16), window).sum((-2, -1)).mean().item()
    assert mean_square == pytest.approx(1, abs=0.02)


def test_a_window_stops_leakage():
    y, x = torch.arange(64).double()[:, None], torch.arange(64).double()
    between = torch.cos(2 * math.pi * 10.5 / 64 * (x + 0 * y))
    far = frequencies(64, 64) > 0.3
    assert power(between)[far].sum() > 1e-3
    assert power(between, "hann")[far].sum() < 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_frequencies_are_in_cycles_per_pixel(size):
    fy, fx = (np.fft.fftfreq(n) for n in size)
    np.testing.assert_array_equal(frequencies(*size), np.hypot(fy[:, None], fx[None]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.bool])
def test_other_numbers_are_measured_in_float32(dtype):
    x = (noise(2, 8, 6).abs() * 3).to(dtype)
    assert power(x).dtype == torch.float32
    assert torch.equal(power(x, "hann"), power(x.float(), "hann"))
    assert alias_ratio(x[None], 2).dtype == torch.float32


# --- rings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (15, 15), (12, 20), (20, 11)])
@pytest.mark.parametrize("quantity", ["amplitude", "power"])
def test_a_cosine_lands_in_its_ring_and_nowhere_else(size, quantity):
    for u, v in [(0, 3), (4, 0), (2, -3), (3, 3)]:
        frequency, values = radial(cosine(*size, u, v), quantity)
        assert len(frequency) == len(values) == min(size) // 2 + 1
        ring = int((frequency - math.hypot(u / size[0], v / size[1])).abs().argmin())
        assert values[ring] > 1e-3
        assert values[torch.arange(len(values)) != ring].abs().max() < 1e-15


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_rings_are_means_over_radii_on_any_size(height, width, data):
    most = min(height, width) // 2 + 1
    bins = data.draw(st.none() | st.integers(2, most)) if most >= 2 else None
    x = noise(2, height, width)
    frequency, values = radial(x, "power", bins=bins)
    spacing = 1 / min(height, width) if bins is None else 0.5 / (bins - 1)
    ring = np.floor(frequencies(height, width).numpy() / spacing + 0.5 + 1e-9)
    index = np.arange(len(frequency))
    np.testing.assert_allclose(frequency, index * spacing)
    for single, means in zip(power(x), values, strict=True):
        np.testing.assert_allclose(means, ndimage.mean(single.numpy(), ring, index), rtol=1e-12)
    assert not values.isnan().any()


def test_white_noise_is_flat_and_blurred_noise_falls():
    _, values = radial(noise(500, 16, 15), "power", window="hann")
    torch.testing.assert_close(values.mean(0) * 240, torch.ones(8).double(), rtol=0, atol=0.1)
    _, blurred = radial(avg_pool2d(noise(200, 33, 33), 2, 1), "power", window="hann")
    assert (blurred.mean(0).diff() < 0).all()


@pytest.mark.parametrize("g", [8, 9, 14])
def test_relative_log_amplitude_is_the_cards_formula(g):
    x = noise(4, 3, g, g) + 1
    rounded = torch.hypot(
        *(f * g for f in torch.meshgrid(*[torch.fft.fftfreq(g, dtype=torch.float64)] * 2, indexing="ij"))
    )
    spectrum = torch.fft.fft2(x).abs()
    log = torch.stack([spectrum[..., rounded.round() == k].mean() for k in range(g // 2 + 1)]).log()
    torch.testing.assert_close(rel_log_amplitude(x), log - log[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(rel_log_amplitude(x * 7), log - log[0], rtol=0, atol=1e-12)
    over_depth = rel_log_amplitude([x, avg_pool2d(x, 3, 1, 1)])
    assert over_depth.shape == (2, g // 2 + 1)
    torch.testing.assert_close(over_depth[0], rel_log_amplitude(x))
    assert over_depth[1, -1] < over_depth[0, -1]


def test_bands_share_the_power():
    x = 3 + 2 * cosine(20, 20, 0, 2) + cosine(20, 20, 6, 0) + cosine(20, 20, 10, 10, 0)
    # Powers 9, 2, 1/2 and, alternating at the corner, 1; the second cosine lies on the edge at 0.3.
    shares = band_energy(x, [0, 0.05, 0.3, 0.5, 0.75])
    torch.testing.assert_close(shares, torch.tensor([9, 2, 0.5, 1]).double() / 12.5, rtol=0, atol=1e-12)
    assert band_energy(x, [0.05, 0.3])[0].item() == pytest.approx(2.5 / 12.5)  # the last edge belongs
    sizes = band_energy(noise(2, 3, 7, 10), [0, 0.25, 0.71])
    torch.testing.assert_close(sizes.sum(-1), torch.ones(2, 3).double())
    assert band_energy(torch.zeros(4, 4), [0, 1]).isnan().all()


# --- aliasing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_only_cosines_above_the_new_nyquist_count(stride, axis):
    n = 24
    for cycles in range(1, n // 2 + 1):
        wave = cosine(n, n, *((cycles, 1) if axis == 0 else (1, cycles)))
        expected = float(cycles * 2 * stride > n)
        got = alias_ratio(5 + wave[None, None], stride)
        assert got.shape == (1,)
        assert got.item() == pytest.approx(expected, abs=1e-12)


def test_channels_are_added_before_dividing_and_the_diagonal_is_below_the_limit():
    low, high = cosine(16, 16, 4, 4), cosine(16, 16, 0, 5)  # radius 0.354, but neither axis above 0.25
    pair = torch.stack([low, 3 + 2 * high])[None]
    assert alias_ratio(pair, 2).item() == pytest.approx(4 / 5)
    assert alias_ratio(torch.zeros(1, 1, 4, 4), 2).isnan().all()


@pytest.mark.parametrize("stride", [2, 3])
def test_decimation_folds_what_is_counted(stride):
    """Averaged over where the grid starts, the power that decimation puts on top of the band is the ratio."""
    n = 12 * stride
    x = noise(1, 1, n, n)
    x = x - x.mean()
    spectrum = torch.fft.fft2(x)
    f = torch.fft.fftfreq(n, dtype=torch.float64).abs()
    kept = torch.maximum(f[:, None], f) <= 0.5 / stride + 1e-9
    starts = [(a, b) for a in range(stride) for b in range(stride)]

    def decimated(spectrum):
        full = torch.fft.ifft2(spectrum).real
        return [full[..., a::stride, b::stride] for a, b in starts]

    folded = [
        power(both - low).sum()
        for both, low in zip(decimated(spectrum), decimated(spectrum * kept), strict=True)
    ]
    share = torch.stack(folded).mean() / power(x).sum()
    assert alias_ratio(x, stride).item() == pytest.approx(share.item(), rel=1e-12)
    # The same wave is told apart from its alias before decimation and not after.
    high, alias = cosine(n, n, 0, 13, 0), cosine(n, n, 0, n // stride - 13, 0)
    torch.testing.assert_close(high[::stride, ::stride], alias[::stride, ::stride], rtol=0, atol=1e-12)
    assert (high - alias).abs().max() > 0.1


# --- transfer functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (15, 18)])
def test_box_and_gaussian_have_their_closed_forms(size):
    fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in size)
    box = transfer_function(torch.full((3, 3), 1 / 9, dtype=torch.float64), size)
    one = [(1 + 2 * torch.cos(2 * math.pi * f)) / 3 for f in (fy, fx)]
    torch.testing.assert_close(box, torch.outer(*one) + 0j, rtol=0, atol=1e-14)
    taps = torch.arange(-7, 8).double()
    gaussian = torch.exp(-(taps**2) / 2) / math.sqrt(2 * math.pi)
    response = transfer_function(torch.outer(gaussian, gaussian), size)
    expected = torch.outer(*(torch.exp(-2 * (math.pi * f) ** 2) for f in (fy, fx)))
    # Sampling a Gaussian of sigma = 1 aliases its transform by exp(-2 pi^2/4) = 0.7 % at Nyquist.
    torch.testing.assert_close(response.real, expected, rtol=0, atol=2e-2)
    low = (fy.abs()[:, None] < 0.2) & (fx.abs() < 0.2)
    torch.testing.assert_close(response.real[low], expected[low], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernel", [(3, 3), (5, 1), (4, 3)])
@pytest.mark.parametrize("size", [8, (9, 12)])
def test_a_kernel_and_the_layer_that_applies_it_agree(kernel, size):
    weight = noise(2, *kernel)

    def layer(x):
        padded = torch.nn.functional.pad(
            x, (kernel[1] // 2, (kernel[1] - 1) // 2, kernel[0] // 2, (kernel[0] - 1) // 2), mode="circular"
        )
        return conv2d(padded, weight[:, None], bias=torch.tensor([1.0, -2]).double())

    response = transfer_function(weight, size)
    torch.testing.assert_close(response, transfer_function(layer, size, dtype=torch.float64))
    x = noise(1, 1, *(response.shape[-2:]))
    filtered = torch.fft.ifft2(torch.fft.fft2(x) * response).real
    shifted = layer(x) - torch.tensor([1.0, -2]).double()[:, None, None]
    torch.testing.assert_close(filtered, shifted)


# --- every map alone, gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
def test_a_batch_is_its_maps_and_vmap_agrees(window):
    x = noise(2, 3, 9, 8)
    for measure in (
        lambda m: power(m, window),
        lambda m: amplitude(m, window),
        lambda m: radial(m, "power", window)[1],
        lambda m: band_energy(m, [0, 0.2, 0.5], window),
    ):
        whole = measure(x)
        for i in range(2):
            for j in range(3):
                torch.testing.assert_close(measure(x[i, j]), whole[i, j], rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(torch.func.vmap(measure)(x), whole, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(alias_ratio(x, 2), torch.cat([alias_ratio(x[i : i + 1], 2) for i in range(2)]))


def test_gradients_flow():
    x = noise(1, 2, 6, 6).requires_grad_()
    for measure in (
        lambda m: power(m, "hann"),
        lambda m: radial(m, "amplitude")[1],
        lambda m: band_energy(m, [0.1, 0.4]),
        lambda m: alias_ratio(m, 2),
        rel_log_amplitude,
        lambda m: torch.view_as_real(transfer_function(m, 8)),
    ):
        assert torch.autograd.gradcheck(measure, x)
    zero = torch.zeros(1, 1, 4, 4, requires_grad=True)
    amplitude(zero).sum().backward()
    assert zero.grad.isfinite().all()


def test_no_tensor_of_another_device_is_mixed_in():
    x = torch.empty(2, 3, 9, 8, device="meta")
    for window in WINDOWS:
        for measured in (power(x, window), radial(x, window=window)[1], band_energy(x, [0, 0.2], window)):
            assert measured.device.type == "meta"
    assert alias_ratio(x, 2).device.type == "meta"
    assert transfer_function(x, 12).device.type == "meta"
    assert transfer_function(lambda impulse: impulse, 12, device="meta").device.type == "meta"


# --- figures ----------------------------------------------------------------------------------------------


# --- bad input --------------------------------------------------------------------------------------------

X = torch.ones(2, 3, 8, 6)
REFUSED = [
    (lambda: power(torch.ones(3)), r"x must hold maps .*got \(3,\)"),
    (lambda: power(torch.ones(0, 3)), r"x must hold maps .*got \(0, 3\)"),
    (lambda: power(X, "hamming"), "window must be None or 'hann', got 'hamming'"),
    (lambda: radial(X, "energy"), "quantity must be 'amplitude' or 'power', got 'energy'"),
    (lambda: radial(X, bins=1), r"bins must be in 2\.\.4 for maps of 8 x 6, got 1"),
    (lambda: radial(X, bins=5), r"bins must be in 2\.\.4 for maps of 8 x 6, got 5"),
    (lambda: rel_log_amplitude(X), r"square maps \(\.\.\., g, g\), got \(2, 3, 8, 6\)"),
    (lambda: rel_log_amplitude(cosine(8, 8, 0, 2)), r"must have a mean .*A\(0\)"),
    (lambda: rel_log_amplitude(torch.full((8, 8), math.nan)), r"A\(0\) = nan"),
    (lambda: band_energy(X, [0.1]), r"edges must be .*got \[0\.1\]"),
    (lambda: band_energy(X, [0.2, 0.1]), r"edges must be .*got \[0\.2, 0\.1\]"),
    (lambda: band_energy(X, [-0.1, 0.1]), r"edges must be .*got \[-0\.1, 0\.1\]"),
    (lambda: band_energy(X, [0, math.nan]), r"edges must be .*nan"),
    (lambda: alias_ratio(X[0], 2), r"x must be \(batch, .*got \(3, 8, 6\)"),
    (lambda: centroid(X[0]), r"x must be \(batch, .*got \(3, 8, 6\)"),
    (lambda: alias_ratio(X, 0), "stride must be >= 1, got 0"),
    (lambda: transfer_function(torch.ones(9, 3), 8), "fit in the grid of 8 x 8, got 9 x 3"),
    (lambda: transfer_function(lambda x: x[..., ::2, ::2], 8), r"keep the size 8 x 8, got \(1, 1, 4, 4\)"),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_the_centroid_of_two_cosines_lies_between_them_by_their_power(window):
    waves = [cosine(64, 64, 4, 0), 2 * cosine(64, 64, 0, 16)]
    both = torch.stack(waves)[None] + 7
    wanted = (1 * 4 / 64 + 4 * 16 / 64) / 5
    assert centroid(both, window).item() == pytest.approx(wanted, rel=2e-3)
    assert centroid(sum(waves)[None, None], window).item() == pytest.approx(wanted, rel=2e-3)
    assert centroid(torch.ones(1, 2, 8, 8), window).isnan().all()


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
