"""The camera: levels are where they should be, photons follow Poisson, gradients ignore both."""

from math import inf, nan, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fourfold.bench4f.camera import IDEAL, MAX_BITS, Noise, expose, quantise, quantise_filter

PIXELS = 200_000


def seeded(seed: int = 100) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frame(intensity: float, pixels: int = PIXELS) -> torch.Tensor:
    return torch.full((pixels,), intensity, dtype=torch.float64)


# --- bits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [1.0, 2.5])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_quantise_has_2_to_the_bits_equal_levels_from_0_to_full(bits, full):
    x = torch.linspace(0, full, 4001, dtype=torch.float64)
    shown = quantise(x, bits, full)
    levels = torch.linspace(0, full, 2**bits, dtype=torch.float64)
    torch.testing.assert_close(shown.unique(), levels, rtol=0, atol=1e-14)
    assert (shown - x).abs().max() <= full / (2**bits - 1) / 2 + 1e-12
    torch.testing.assert_close(quantise(levels, bits, full), levels, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantise_clips_however_bright(dtype):
    x = torch.tensor([-1e20, -3, -0.2, 1.2, 20, 1e9, 1e20], dtype=dtype)
    torch.testing.assert_close(quantise(x, 4), (x > 0).to(dtype), rtol=0, atol=0)


def test_quantise_lets_gradients_straight_through_even_where_it_clips():
    x = torch.tensor([-1.0, 0.1, 0.77, 5.0], requires_grad=True)
    quantise(x, 3).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 2.0, 3.0, 4.0]), rtol=0, atol=0)


def test_no_bits_leave_everything_alone():
    x, spectrum = torch.randn(3, 3), torch.randn(3, 3, dtype=torch.complex64)
    assert quantise(x, None) is x
    assert quantise_filter(spectrum, None) is spectrum
    assert expose(x, IDEAL).equal(x.clamp(min=0))


def spectrum_of(n: int, seed: int) -> torch.Tensor:
    kernel = torch.randn(n, n, dtype=torch.float64, generator=seeded(seed))
    spectrum = torch.fft.fft2(kernel)
    return spectrum / spectrum.abs().max()


@given(n=st.integers(2, 9), bits=st.integers(1, MAX_BITS), seed=st.integers(0, 99))
def test_a_quantised_filter_keeps_a_real_response_real(n, bits, seed):
    response = torch.fft.ifft2(quantise_filter(spectrum_of(n, seed), bits))
    assert response.imag.abs().max() < 1e-14


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_a_quantised_filter_has_2_to_the_bits_amplitudes_and_phases(bits):
    spectrum = spectrum_of(64, 0)
    shown = quantise_filter(spectrum, bits)
    amplitude = shown.abs() * (2**bits - 1)
    torch.testing.assert_close(amplitude, amplitude.round(), rtol=0, atol=1e-11)
    lit = amplitude > 0.5
    turns = shown.angle()[lit] / (2 * torch.pi) * 2**bits
    torch.testing.assert_close(turns, turns.round(), rtol=0, atol=1e-11)
    assert len((turns.round() % 2**bits).unique()) == 2**bits
    torch.testing.assert_close(shown.abs(), quantise(spectrum.abs(), bits), rtol=0, atol=1e-14)
    apart = (shown / spectrum).angle()[lit].abs()
    assert apart.max() <= torch.pi / 2**bits + 1e-12


def test_a_filter_of_many_bits_tends_to_the_filter_and_its_gradient_is_the_identity():
    spectrum = spectrum_of(16, 0)
    errors = [float((quantise_filter(spectrum, bits) - spectrum).abs().max()) for bits in (2, 6, 10, 16)]
    assert errors[0] > 0.3
    assert errors[-1] < 1e-4
    assert errors == sorted(errors, reverse=True)
    ahead = torch.randn(16, 16, dtype=torch.complex128, generator=seeded())
    quantise_filter(spectrum.requires_grad_(), 3).backward(ahead)
    torch.testing.assert_close(spectrum.grad, ahead, rtol=0, atol=0)


# --- photons ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("photons", "read_sigma"), [(100.0, 0.0), (1e4, 0.0), (500.0, 8.0), (1e4, 150.0)])
@pytest.mark.parametrize("intensity", [0.3, 1.0])
def test_counts_have_the_mean_and_variance_of_poisson_and_read_noise(photons, read_sigma, intensity):
    seen = expose(frame(intensity), Noise(photons=photons, read_sigma=read_sigma), generator=seeded())
    variance = (photons * intensity + read_sigma**2) / photons**2
    fourth = 2 + 1 / (photons * intensity)  # at most: kurtosis of a Poisson count, which a Gaussian dilutes
    assert abs(float(seen.mean()) - intensity) < 3 * sqrt(variance / PIXELS)
    assert abs(float(seen.var()) - variance) < 3 * variance * sqrt(fourth / PIXELS)


@pytest.mark.parametrize("photons", [1e3, 1e5])
def test_amplitude_noise_is_the_same_at_every_amplitude(photons):
    for amplitude in (0.3, 0.6, 1.0):
        seen = expose(frame(amplitude**2), Noise(photons=photons), generator=seeded()).sqrt()
        # 3 sigma of a standard deviation, and the delta method's next term.
        allowed = 3 / sqrt(2 * PIXELS) + 1 / (photons * amplitude**2)
        assert 2 * sqrt(photons) * float(seen.std()) == pytest.approx(1, abs=allowed)


def test_the_dark_counts_nothing_and_read_noise_never_reads_below_it():
    assert expose(frame(0.0), Noise(photons=100), generator=seeded()).max() == 0
    dark = expose(frame(0.0), Noise(photons=100, read_sigma=5), generator=seeded())
    assert dark.min() == 0
    assert float((dark > 0).double().mean()) == pytest.approx(0.5, abs=3 * 0.5 / sqrt(PIXELS))
    bits = expose(frame(0.0), Noise(photons=100, read_sigma=5, camera_bits=8), generator=seeded())
    assert bits.min() == 0


@pytest.mark.parametrize("full_well", [1.0, 4.0])
def test_a_full_well_is_the_brightest_that_bits_report(full_well):
    scene = torch.linspace(0, 6, 1001, dtype=torch.float64)
    seen = expose(scene, Noise(camera_bits=4), full_well=full_well)
    torch.testing.assert_close(seen, quantise(scene, 4, full_well), rtol=0, atol=0)
    assert seen.max() == pytest.approx(full_well)
    assert len(seen.unique()) == 16
    assert expose(scene, Noise(photons=1e4), full_well=full_well, generator=seeded()).max() > 5.5


def test_bits_follow_the_photons():
    seen = expose(frame(0.5, 1000), Noise(photons=50, read_sigma=2, camera_bits=5), generator=seeded())
    torch.testing.assert_close(seen, quantise(seen, 5), rtol=0, atol=1e-14)
    assert len(seen.unique()) > 3


@pytest.mark.parametrize("noise", [Noise(photons=50), Noise(photons=50, read_sigma=3, camera_bits=6)])
def test_the_generator_decides_the_photons(noise):
    first, again, other = (expose(frame(0.5, 1000), noise, generator=seeded(s)) for s in (100, 100, 101))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not first.equal(other)


def test_an_exposure_keeps_shape_and_dtype_and_spares_its_input():
    scene = torch.rand(2, 3, 4, generator=seeded())
    before = scene.clone()
    noise = Noise(photons=10, read_sigma=1, camera_bits=3)
    seen = expose(scene, noise, generator=seeded())
    assert (seen.shape, seen.dtype) == (scene.shape, torch.float32)
    assert scene.equal(before)


# --- bad input --------------------------------------------------------------------------------------------

REFUSED = [
    ({"photons": 0}, "photons must be > 0 and finite, or None for no shot noise, got 0"),
    ({"photons": -5.0}, r"photons must be > 0 .*got -5\.0"),
    ({"photons": inf}, "photons must be > 0 and finite.*got inf"),
    ({"photons": nan}, "photons must be .*got nan"),
    ({"photons": 10, "read_sigma": -1}, "read_sigma must be >= 0 and finite, got -1"),
    ({"photons": 10, "read_sigma": inf}, "read_sigma must be >= 0 and finite, got inf"),
    ({"photons": 10, "read_sigma": nan}, "read_sigma must be .*got nan"),
    ({"read_sigma": 2.0}, r"read_sigma = 2\.0 electrons needs photons > 0, got photons = None"),
    *(
        ({name: bits}, rf"{name} must be an integer in 1\.\.16, or None, got {bits}")
        for name in ("slm_bits", "filter_bits", "camera_bits")
        for bits in (0, -1, 17, 8.0, True)
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_a_bench_that_cannot_be_is_refused_with_the_numbers(values, message):
    with pytest.raises(ValueError, match=message):
        Noise(**values)


def test_the_ideal_bench_has_no_imperfection():
    assert Noise() == IDEAL
    assert Noise(photons=1e3) != IDEAL
    assert Noise(photons=1, read_sigma=0, slm_bits=1, filter_bits=MAX_BITS).camera_bits is None
