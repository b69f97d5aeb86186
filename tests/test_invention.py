"""What was added splits into a multiple of what was missing and a rest that is orthogonal to it."""

from itertools import pairwise

import pytest
import torch

from fourfold import spectra
from fourfold.invention import Energies, decibels, energies

from .draws import normal

EXACT = {"rtol": 0, "atol": 1e-10}
EDGES = (0, 0.125, 0.25, 0.5, 0.71)


def projected(added, missing, edges):
    """By hand: windowed Fourier coefficients of each band as one vector, its projection and the rest."""
    window = torch.outer(*(torch.hann_window(n, dtype=torch.float64) for n in added.shape))
    radius = spectra.frequencies(*added.shape)
    waves = [torch.fft.fft2(x * window) for x in (added, missing)]
    found = []
    for low, high in pairwise(edges):
        inside = (radius >= low) & ((radius < high) | (high == edges[-1]))
        a, t = (torch.view_as_real(wave[inside]).flatten() for wave in waves)
        g = a @ t / (t @ t)
        found.append((g, a @ t / (a.norm() * t.norm()), (a - g * t).square().sum() / (t @ t)))
    return torch.tensor(found, dtype=torch.float64).T


@pytest.mark.parametrize("size", [(32, 32), (31, 46)])
def test_it_is_the_projection_and_what_is_orthogonal_to_it(size):
    base, truth, made = (normal(*size, seed=seed) for seed in range(3))
    made = made + 0.4 * truth
    found = energies(made, truth, base, EDGES)
    wanted = projected(made - base, truth - base, EDGES)
    for ours, theirs in zip((found.gain, found.correlation, found.invented), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    torch.testing.assert_close(
        found.wrong / found.missing, (1 - found.gain).square() + found.invented, **EXACT
    )


def test_nothing_half_and_all_of_it():
    base, truth = normal(24, 24), normal(24, 24, seed=1)
    for share in (0.0, 0.5, 1.0, -1.0):
        found = energies(base + share * (truth - base), truth, base, EDGES)
        torch.testing.assert_close(found.gain, torch.full((4,), share, dtype=torch.float64), **EXACT)
        torch.testing.assert_close(found.invented, torch.zeros(4, dtype=torch.float64), **EXACT)


def test_what_is_added_at_random_is_invented():
    base, truth, made = normal(256, 256), normal(256, 256, seed=1), normal(256, 256, seed=2)
    found = energies(base + made, truth + base, base, (0.2, 0.5))
    assert abs(float(found.gain)) < 0.02
    assert float(found.invented) == pytest.approx(1, abs=0.05)


def test_the_mean_of_what_fits_invents_g_minus_g_squared_and_a_draw_one_minus_g_squared():
    # Truth is known up to noise of the same size as what is known: the mean is what is known.
    known, one, other = (normal(256, 256, seed=seed) for seed in range(3))
    base, truth, draw = torch.zeros(256, 256), known + one, known + other
    mean, sample = (energies(made, truth, base, (0.2, 0.5)) for made in (known, draw))
    for found in (mean, sample):
        assert float(found.gain) == pytest.approx(0.5, abs=0.01)
    assert float(mean.invented) == pytest.approx(0.5 - 0.25, abs=0.01)
    assert float(sample.invented) == pytest.approx(1 - 0.25, abs=0.02)


def test_the_error_is_the_whole_error():
    base, truth, made = (normal(40, 28, seed=seed) for seed in range(3))
    found = energies(made, truth, base, (0, 0.71))
    torch.testing.assert_close(found.wrong[0], spectra.power(made - truth, "hann").sum(), **EXACT)


def test_what_is_left_of_the_error_is_missing_or_invented():
    base, truth, made = (normal(32, 32, seed=seed) for seed in range(3))
    found = energies(made + 0.5 * truth, truth, base, EDGES)
    missing, invented = found.left()
    torch.testing.assert_close(missing + invented, found.wrong.sum() / found.missing.sum(), **EXACT)
    several = Energies(*(part.expand(2, 3, -1) for part in found))
    torch.testing.assert_close(several.left()[1], invented.expand(2, 3), **EXACT)


def test_decibels_sum_to_the_gain_and_lie_where_errors_were_taken_off():
    before, after = torch.tensor([[4.0, 3, 1], [4, 3, 1]]), torch.tensor([[2.0, 1.5, 0.5], [2, 3, 1]])
    found = decibels(before, after)
    wanted = 10 * (before.sum(1) / after.sum(1)).log10()
    torch.testing.assert_close(found.sum(1), wanted)
    torch.testing.assert_close(found[0] / wanted[0], before[0] / 8)
    assert found[1, 1] == found[1, 2] == 0
    assert (decibels(after, before) < 0)[0].all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"must be \(h, w\), got \[\(4, 4\), \(4, 5\), \(4, 4\)\]"):
        energies(normal(4, 4), normal(4, 5), normal(4, 4), EDGES)
    with pytest.raises(ValueError, match="must be"):
        energies(normal(1, 4, 4), normal(1, 4, 4), normal(1, 4, 4), EDGES)
    with pytest.raises(ValueError, match="edges must be"):
        energies(normal(4, 4), normal(4, 4), normal(4, 4), (0.5, 0.1))
    assert Energies._fields == ("missing", "added", "wrong")
