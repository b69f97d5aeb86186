"""KDE in large dimensions: closed forms, exact sums against simulation and scipy, and what breaks them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

from fourfold.judging import records
from fourfold.sums import Terms, exact_law, mean_log, participation, stable_law
from fourfold.theory import kde_large_dimensions as paper
from fourfold.theory.kde_large_dimensions import (
    best_bandwidth,
    best_over_threshold,
    energy,
    entropy,
    equal_variance,
    gaussian_energies,
    least_squared_error,
    limit_kl,
    log_density,
    log_deviation,
    log_kde,
    mean_kl,
    mean_participation,
    most_likely,
    phi,
    sample_dist2,
    scott,
    shares,
    stable_index,
    terms,
    thresholds,
    to_normal,
    to_stable,
    top_share,
)

HALF = thresholds(0.5)

# --- the limit --------------------------------------------------------------------------------------------


@given(lam=st.floats(1e-3, 1e3), spread=st.floats(0.1, 10))
@settings(max_examples=25)
def test_energy_is_the_slope_of_the_free_energy_and_entropy_its_legendre_transform(lam, spread):
    spectrum, step = [1.0, spread], 1e-4 * lam
    slope = (phi(lam + step, spectrum) - phi(lam - step, spectrum)) / (2 * step)
    assert -energy(lam, spectrum) == pytest.approx(slope, rel=1e-6)
    assert entropy(lam, spectrum) == pytest.approx(lam * slope - phi(lam, spectrum), rel=1e-4, abs=1e-7)
    assert entropy(2 * lam, spectrum) > entropy(lam, spectrum) > 0


def test_the_free_energy_is_that_of_gaussian_integrals():
    """E exp(-lam |x - y|^2 / 2) over y of variance s at x^2 = s, by scipy, a factor for each direction."""
    for lam, s in ((0.3, 1.0), (2.0, 0.5), (5.0, 3.0)):
        one, _ = integrate.quad(
            lambda y, s=s, lam=lam: math.exp(-(lam * (math.sqrt(s) - y) ** 2 + y * y / s) / 2),
            -30,
            30,
            epsabs=1e-13,
        )
        one /= math.sqrt(2 * math.pi * s)
        assert phi(lam, [s]) == pytest.approx(math.log(one), abs=1e-9)


def test_thresholds_solve_their_equation_and_scale_with_the_data():
    assert HALF[:3] == pytest.approx((0.6521, 0.9223, 0.6224), abs=5e-5)
    lam = HALF.h_g**-2
    assert math.log1p(lam) / 2 - lam / (2 * (1 + lam) ** 2) == pytest.approx(0.5)
    assert HALF.h_star**2 == pytest.approx(HALF.h_g**2 * (1 - (1 + lam) ** -2))
    wide = thresholds(0.5, [9.0, 9.0, 9.0])
    assert wide[:3] == pytest.approx([3 * h for h in HALF[:3]])
    mixed = thresholds(0.5, [4.0, 1.0, 0.25])
    assert 0.5 * HALF.h_g < mixed.h_g < 2 * HALF.h_g
    assert stable_index(HALF.h_clt, 0.5) == pytest.approx(2)


def test_the_limit_of_the_divergence_is_smooth_and_least_where_the_chapter_says():
    low, high = limit_kl(HALF.h_g * (1 - 1e-7), 0.5), limit_kl(HALF.h_g * (1 + 1e-7), 0.5)
    assert low == pytest.approx(high, abs=1e-6)
    grid = np.linspace(0.55, 0.7, 151)
    assert grid[np.argmin([limit_kl(h, 0.5) for h in grid])] == pytest.approx(HALF.h_star, abs=1e-3)
    assert equal_variance(0.5) < HALF.h_clt < math.sqrt(2) * gaussian_energies(0.5)


# --- estimates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 5])
def test_estimates_are_those_of_scipy_and_scikit_learn(d):
    rng = np.random.default_rng(d)
    points, places, h = rng.standard_normal((37, d)), rng.standard_normal((5, d)), 0.4
    dist2 = ((places[:, None] - points) ** 2).sum(-1)
    theirs = KernelDensity(bandwidth=h, rtol=0, atol=0).fit(points).score_samples(places)
    np.testing.assert_allclose(log_kde(dist2, h, d), theirs, rtol=0, atol=1e-10)
    if d == 1:
        scipys = stats.gaussian_kde(points[:, 0], bw_method=h / points.std(ddof=1))
        np.testing.assert_allclose(log_kde(dist2, h, d), scipys.logpdf(places[:, 0]), rtol=0, atol=1e-10)
        assert scott(37, d) == pytest.approx(scipys.scotts_factor())


def test_shares_sum_to_one_and_the_nearest_points_have_the_largest():
    dist2 = sample_dist2(7, 21, 3, np.random.default_rng(0))
    got = shares(dist2, 0.01)
    np.testing.assert_allclose(got.sum(-1), 1)
    assert (got.argmax(-1) == dist2.argmin(-1)).all()
    np.testing.assert_allclose(top_share(dist2, 1.0, 21), 1)
    np.testing.assert_allclose(top_share(dist2, 1.0, 1), shares(dist2, 1.0).max(-1))


def test_distances_are_those_of_vectors_and_come_from_the_generator():
    rng = np.random.default_rng(3)
    x = np.full(5, 1.3)
    vectors = ((rng.standard_normal((20_000, 5)) - x) ** 2).sum(-1)
    drawn = sample_dist2(5, 20_000, 1, np.random.default_rng(4), x_norm2=float(x @ x))[0]
    assert stats.ks_2samp(vectors, drawn).pvalue > 1e-3
    again = sample_dist2(5, 20_000, 1, np.random.default_rng(4), x_norm2=float(x @ x))[0]
    assert np.array_equal(drawn, again)
    line = sample_dist2(1, 20_000, 1, rng)[0]
    assert stats.kstest(line, stats.ncx2(1, 1).cdf).pvalue > 1e-3


def test_rules_for_the_bandwidth():
    """Least squared error against a grid, and in one dimension against its classical asymptote."""
    assert least_squared_error(1e6, 1) == pytest.approx((4 / 3) ** 0.2 * 1e6**-0.2, rel=0.02)
    points = np.random.default_rng(5).standard_normal(200)
    dist2 = (points[:, None] - points) ** 2
    np.fill_diagonal(dist2, np.inf)
    grid = np.geomspace(0.1, 0.6, 60)
    best = grid[np.argmax([log_kde(dist2, h, 1).mean() for h in grid])]
    assert most_likely(dist2, 1) == pytest.approx(best, rel=0.03)


def test_gaussian_data_in_large_dimension_have_their_best_bandwidth_below_h_clt():
    rows = np.random.default_rng(6).standard_normal((400, 40))
    ratio, carrying = best_over_threshold(rows, np.ones(40), 50)
    assert ratio < 1
    assert 1 <= carrying < 20
    scaled = best_over_threshold(rows * 0.5, np.full(40, 0.25), 50)
    assert scaled == pytest.approx((ratio, carrying), rel=0.02)
    assert best_over_threshold(rows[:, :1], np.ones(1), 50)[1] > carrying


# --- exact results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3, 12, 60])
def test_the_density_of_distances_is_scipys(d):
    dist2 = np.array([0.002, 0.1, 0.5, 1.0, 1.7]) * 2 * d
    np.testing.assert_allclose(
        log_density(dist2, d, float(d)), stats.ncx2.logpdf(dist2, d, d), rtol=0, atol=1e-9
    )


def test_equal_terms_have_a_known_sum():
    """n terms of one size: log Z is known, and each has the share 1 / n."""
    spread = 1e-2 * np.arange(-500, 501)
    for n in (10, 100):
        mass = stats.norm.logpdf(spread, scale=0.3) + math.log(1e-2 * n)
        at = Terms(spread, mass, math.log(n))
        rng = np.random.default_rng(n)
        drawn = 0.3 * rng.standard_normal((10_000, n))
        assert mean_log(at) == pytest.approx(logsumexp(drawn, axis=1).mean(), abs=5e-3)
        weights = np.exp(drawn)
        simulated = ((weights / weights.sum(1, keepdims=True)) ** 2).sum(1).mean()
        assert participation(at) == pytest.approx(simulated, rel=5e-3)


@pytest.mark.parametrize(("d", "n"), [(2, 7), (3, 50), (9, 90)])
def test_exact_means_are_those_of_simulations(d, n):
    rng = np.random.default_rng(d)
    dist2 = sample_dist2(d, n, 20_000, rng)
    for h in (0.4, 0.9):
        log_z = logsumexp(-dist2 / (2 * h * h), axis=1)
        error = log_z.std() / math.sqrt(len(log_z))
        assert abs(mean_log(terms(d, math.log(n), h)) - log_z.mean()) < 4.5 * error
        squares = (shares(dist2, h) ** 2).sum(1)
        error = squares.std() / math.sqrt(len(squares))
        assert abs(mean_participation(d, math.log(n), h) - squares.mean()) < 4.5 * error


def test_exact_results_do_not_depend_on_the_grid():
    for d, log_n, h, error in ((3, 7.0, 0.2, 5e-3), (12, 6.0, 0.7, 1e-6), (400, 200.0, 0.7, 1e-8)):
        coarse, fine = terms(d, log_n, h), terms(d, log_n, h, step=0.07)
        assert mean_log(coarse) == pytest.approx(mean_log(fine), abs=error)
        assert participation(coarse) == pytest.approx(participation(fine), abs=error)
    assert mean_kl(25, 12.5, 0.7, nodes=5) == pytest.approx(mean_kl(25, 12.5, 0.7, nodes=9), abs=1e-6)
    assert mean_kl(1600, 800.0, 0.63) == pytest.approx(limit_kl(0.63, 0.5), abs=2e-3)


def test_the_law_is_that_of_simulated_sums_and_its_deviation_the_closed_form():
    d, n, h = 8, 55, 1.1 * HALF.h_clt
    at = terms(d, math.log(n), h, step=0.05)
    log_moments = [logsumexp(at.log_count + power * at.log_w) for power in (1, 2)]
    variance = math.exp(log_moments[1]) - math.exp(2 * log_moments[0]) / n
    assert log_deviation(d, math.log(n), h) == pytest.approx(math.log(variance) / 2, abs=1e-5)
    law, log_unit = exact_law(at, centred=True)
    sums = np.exp(-sample_dist2(d, n, 20_000, np.random.default_rng(0)) / (2 * h * h)).sum(1)
    scored = np.sort(sums - math.exp(log_moments[0])) / math.exp(log_unit)
    ranks = (np.arange(20_000) + 0.5) / 20_000
    assert np.abs(law.cdf(scored[::100]) - ranks[::100]).max() < 0.015


def test_terms_have_the_moments_of_gaussian_integrals_in_large_dimension():
    """E w^p in closed form, where the points that dominate it are there."""
    for d, alpha, ratio, power in (
        (400, 0.5, 1.2, 1),
        (400, 0.5, 1.2 * math.sqrt(2), 2),
        (1600, 0.1, 1.2, 1),
    ):
        h = ratio * thresholds(alpha).h_g
        at, lam = terms(d, alpha * d, h), power / h**2
        closed = alpha * d - d / 2 * (math.log1p(lam) + lam / (1 + lam))
        assert logsumexp(at.log_count + power * at.log_w) == pytest.approx(closed, abs=1e-6)


@pytest.mark.parametrize("mu", [0.7, 1.44, 1.69])
def test_the_stable_law_is_scipys(mu):
    x = np.array([-2, -0.3, 0.2, 1, 3, 10.0])
    np.testing.assert_allclose(stable_law(mu).cdf(x), stats.levy_stable.cdf(x, mu, 1), rtol=0, atol=2e-4)


def test_shares_below_h_g_are_those_of_poisson_and_dirichlet():
    """Stick breaking: the mean of the sum of squares is 1 - mu, to which the exact ratio tends."""
    mu, rng = 0.49, np.random.default_rng(1)
    sticks = rng.beta(1 - mu, mu * np.arange(1, 400), (4000, 399))
    left = np.cumprod(np.concatenate([np.ones((4000, 1)), 1 - sticks[:, :-1]], axis=1), axis=1)
    assert ((sticks * left) ** 2).sum(1).mean() == pytest.approx(1 - mu, abs=0.015)
    gaps = [mean_participation(d, d / 2, 0.7 * HALF.h_g) - (1 - mu) for d in (25, 100, 400)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.02


# --- the controls, failing --------------------------------------------------------------------------------


def test_in_the_plane_there_is_no_transition():
    """The law depends on n h^2 alone: with a hundred times the points nothing changes."""
    distances = [to_normal(2, log_n, 1.1 * thresholds(log_n / 2).h_clt) for log_n in (8.0, 12.6)]
    assert distances[0] == pytest.approx(distances[1], rel=0.05)
    assert min(distances) > 0.05
    assert best_bandwidth(3, math.log(1000))[0] > thresholds(math.log(1000) / 3).h_clt


def test_the_wrong_index_is_far_from_the_law():
    h = 1.2 * HALF.h_g
    assert to_stable(100, 50.0, h, 1.44) < 0.03
    assert to_stable(100, 50.0, h, 1.2) > 0.3


# --- the mechanism without its heart ----------------------------------------------------------------------


def no_entropy(lam, spectrum=None):
    """The number of points at a distance is forgotten: only the free energy counts."""
    return -phi(lam, spectrum)


def threshold_of_the_sum(alpha, spectrum=None):
    """The fluctuations are said to freeze where the sum does."""
    right = thresholds(alpha, spectrum)
    return right._replace(h_clt=right.h_g)


def nearest_forgotten(alpha, spectrum=None):
    """Below h_G the estimate is said to get no better: the nearest point is forgotten."""
    right = thresholds(alpha, spectrum)
    return right._replace(h_star=right.h_g)


def index_unsquared(h, alpha, spectrum=None):
    """The index is the ratio of bandwidths, not of temperatures."""
    return h / thresholds(alpha, spectrum).h_g


MUTATIONS = [
    ("entropy", no_entropy),
    ("thresholds", threshold_of_the_sum),
    ("thresholds", nearest_forgotten),
    ("stable_index", index_unsquared),
]


# --- bad input --------------------------------------------------------------------------------------------


def test_what_no_seed_changes_is_judged_as_exact():
    record = records.load("kde_large_dimensions")
    for claim in ("K1", "K2", "K3", "K5a", "K5b"):
        assert record.claim(claim).evidence == ["exact"]


REFUSED = [
    (lambda: phi(1, [1.0, 0.0]), r"spectrum must have finite variances > 0, got 0\.0"),
    (lambda: thresholds(0), "alpha must be finite and > 0, got 0"),
    (lambda: thresholds(math.nan), "alpha must be finite"),
    (lambda: thresholds(50), "alpha must be in .*, got 50"),
    (lambda: stable_index(0, 0.5), "h must be finite and > 0, got 0"),
    (lambda: limit_kl(-1, 0.5), "h must be finite and > 0, got -1"),
    (lambda: equal_variance(-1), "alpha must be finite and > 0, got -1"),
    (lambda: gaussian_energies(0), "alpha must be finite and > 0, got 0"),
    (lambda: sample_dist2(0, 3, 3, np.random.default_rng(0)), "d must be >= 1, got 0"),
    (lambda: log_kde(np.ones(3), 0, 2), "h must be finite and > 0, got 0"),
    (lambda: shares(np.ones(3), math.inf), "h must be finite and > 0, got inf"),
    (lambda: top_share(np.ones((2, 3)), 1, 4), r"k must be in 1\.\.3, the number of points, got 4"),
    (lambda: log_density([1.0], 1, 1.0), "d must be >= 2, got 1"),
    (lambda: log_density([1.0], 2, 0.0), r"x_norm2 must be finite and > 0, got 0\.0"),
    (lambda: terms(1, 5, 1), "d must be >= 2, got 1"),
    (lambda: terms(5, 0.5, 1), "log_n must be finite and >= 1, got 0.5"),
    (lambda: terms(5, 5, 0), "h must be finite and > 0, got 0"),
    (lambda: terms(5, 5, 1, step=0), "step must be finite and > 0, got 0"),
    (lambda: best_over_threshold(np.eye(3), np.ones(3), 4), r"queries must be in 1\.\.3 \(the rows\), got 4"),
    (lambda: stable_law(1), "mu must be above 0, below 2 and not 1, got 1"),
    (lambda: stable_law(2), "mu must be above 0, below 2 and not 1, got 2"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mutation_changes_what_it_says(monkeypatch):
    monkeypatch.setattr(paper, "entropy", no_entropy)
    assert thresholds(0.5).h_g > 1.5 * HALF.h_g
