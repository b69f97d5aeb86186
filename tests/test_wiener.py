"""Wiener's filter in closed form against the posterior mean by matrices, and its limits."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dct

from fourfold import wiener
from fourfold.data.image_pairs import enlarge, photograph, psnr, shrink

from .draws import normal

EXACT = {"rtol": 0, "atol": 1e-9}


def keys(x):
    """Keys's cubic with a = -0.5."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def reduction(n, factor):
    """The matrix (n / factor, n) of the reduction of a mirrored line, tap by tap."""
    matrix = np.zeros((n // factor, n))
    for i in range(n // factor):
        middle = factor * i + (factor - 1) / 2
        taps = {j: keys((j - middle) / factor) for j in range(math.floor(middle) - 8, math.floor(middle) + 9)}
        for j, tap in taps.items():
            inside = j % (2 * n)
            matrix[i, min(inside, 2 * n - 1 - inside)] += tap / sum(taps.values())
    return matrix


@pytest.mark.parametrize(("factor", "height", "width"), [(2, 16, 24), (3, 18, 24)])
def test_it_is_the_posterior_mean(factor, height, width):
    images = normal(5, height, width).cumsum(1).cumsum(2)
    power, noise = wiener.spectrum(images), 0.3
    # A mirrored image's waves are its cosine transform; a cosine is two waves along each axis, or the mean.
    waves = np.kron(dct(np.eye(height), norm="ortho", axis=0), dct(np.eye(width), norm="ortho", axis=0))
    variance = height * width * power[:height, :width].numpy()
    variance *= np.outer(np.where(np.arange(height), 2, 1), np.where(np.arange(width), 2, 1))
    covariance = waves.T @ np.diag(variance.ravel()) @ waves
    R = np.kron(reduction(height, factor), reduction(width, factor))
    small = normal(height // factor, width // factor, seed=1)
    seen = (small - small.mean()).numpy().ravel()
    wanted = covariance @ R.T @ np.linalg.solve(R @ covariance @ R.T + noise**2 * np.eye(len(R)), seen)
    found = wiener.enlarged(small, power, factor, noise) - small.mean()
    torch.testing.assert_close(found, torch.tensor(wanted.reshape(height, width)), **EXACT)


def test_the_response_is_that_of_shrink():
    x = normal(64, 64)
    for factor in (2, 4):
        response = wiener.response(128, factor)
        blurred = torch.fft.ifft2(torch.fft.fft2(wiener.mirrored(x)) * torch.outer(response, response)).real
        inside = slice(4, -4)
        ours = blurred[:64:factor, :64:factor][inside, inside]
        torch.testing.assert_close(ours, shrink(x[None], factor)[0][inside, inside], **EXACT)


def test_without_noise_what_was_seen_is_kept_and_with_much_only_the_mean_is_left():
    x = normal(1, 32, 32).cumsum(1)
    power, small = wiener.spectrum(x), shrink(x, 2)[0]
    kept = shrink(wiener.enlarged(small, power, 2, 1e-6)[None], 2)[0]
    torch.testing.assert_close(kept[3:-3, 3:-3], small[3:-3, 3:-3], rtol=0, atol=1e-4)
    flat = wiener.enlarged(small, power, 2, 1e6)
    torch.testing.assert_close(flat, small.mean().expand_as(flat), rtol=0, atol=1e-6)


def test_on_a_photograph_it_beats_bicubic():
    grey = photograph("chelsea").mean(0)[40:136, 100:196]
    other = photograph("coffee").mean(0)
    crops = torch.stack([other[i : i + 96, j : j + 96] for i in (0, 150, 300) for j in (0, 200, 400)])
    small = shrink(grey[None], 2)
    made = wiener.enlarged(small[0], wiener.spectrum(crops), 2, 0.005)[None].float()
    assert psnr(made, grey[None], 8) > psnr(enlarge(small, 2), grey[None], 8) + 0.3


def test_bad_input_is_refused():
    power = wiener.spectrum(normal(2, 8, 8))
    with pytest.raises(ValueError, match=r"power must be \(20, 16\) for \(5, 4\), got \(16, 16\)"):
        wiener.enlarged(normal(5, 4), power, 2, 0.1)
    with pytest.raises(ValueError, match="noise must be finite and > 0, got 0"):
        wiener.enlarged(normal(4, 4), power, 2, 0)
    with pytest.raises(ValueError, match="factor must be >= 1 and divide n / 2 = 5, got 2"):
        wiener.response(10, 2)
