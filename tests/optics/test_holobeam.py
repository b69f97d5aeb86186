"""HoloBeam: gain against sums of waves, pilots against scipy, searches against what they can find."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import optimize, special, stats

from fourfold import training
from fourfold.judging import parameters, records
from fourfold.optics.holobeam import (
    HMT,
    HOLDS,
    LAST,
    SCHEDULES,
    array_factor,
    array_gain,
    beta_grid,
    decay,
    error_window,
    even_sampling,
    halving_start,
    holobeam,
    interval_sizes,
    is_unimodal,
    line_search,
    lse_2d,
    random_directions,
    received,
    sequential_halving,
    sequential_halving_2d,
    sequential_halving_coord,
    smallest_budget,
    spherical_field,
    success,
    uniform,
    uniform_coord,
)

ALGORITHMS = {
    **{f"{h} {s}": partial(holobeam, hold=h, schedule=s) for h in HOLDS for s in SCHEDULES},
    "halving": sequential_halving_2d,
    "halving by coordinate": sequential_halving_coord,
    "even": uniform,
    "even by coordinate": uniform_coord,
    "joint": lse_2d,
}
rng = np.random.default_rng


def link(snr_db: float, receivers: int = 60, seed: int = 0, m: int = 64, d: float = 0.25) -> HMT:
    return HMT.towards(random_directions(receivers, rng(seed)), m, m, d, snr_db)


def counted(env: HMT):
    """The same surface, and the number of pilots that each trial has spent so far."""
    spent = [0]

    class Counted(HMT):
        def pull(self, i, j, m, rng):
            spent[0] += i.shape[1] * m
            return super().pull(i, j, m, rng)

        def pull_row(self, axis, arms, m, rng):
            spent[0] += arms.shape[1] * m
            return super().pull_row(axis, arms, m, rng)

    return Counted(**vars(env)), spent


def mean_success(env: HMT, algorithm, budget: int, draws: int = 10, seed: int = 5) -> float:
    return float(success(env, algorithm, budget, rng(seed), draws).mean())


# --- the gain ---------------------------------------------------------------------------------------------


@given(m=st.integers(1, 70), d=st.floats(0.01, 0.5), u=st.floats(-2, 2))
def test_array_factor_is_scipys_dirichlet_kernel_and_the_sum_of_plane_waves(m, d, u):
    place = np.arange(m) - (m - 1) / 2
    summed = np.exp(2j * np.pi * d * place * u).mean()
    assert abs(array_factor(m, d, u) - summed) < 1e-12
    assert abs(array_gain(m, d, u) - special.diric(2 * np.pi * d * u, m) ** 2) < 1e-9


@pytest.mark.parametrize(("mx", "my", "d"), [(5, 8, 0.25), (7, 4, 0.5), (16, 9, 0.1)])
def test_gain_is_the_product_of_its_factors(mx, my, d):
    (alpha,), beta = random_directions(1, rng(1)), (0.3, -0.6)
    x, y = np.arange(mx)[:, None], np.arange(my)
    summed = np.exp(2j * np.pi * d * (x * (alpha[0] - beta[0]) + y * (alpha[1] - beta[1]))).mean()
    product = array_gain(mx, d, alpha[0] - beta[0]) * array_gain(my, d, alpha[1] - beta[1])
    assert abs(abs(summed) ** 2 - product) < 1e-12


def test_grating_lobe_and_exact_hits():
    assert array_gain(64, 0.5, [0.0, 2.0, -2.0]) == pytest.approx([1, 1, 1], abs=1e-12)
    assert array_factor(63, 0.5, 2.0) == pytest.approx(1)
    assert array_factor(64, 0.5, 2.0) == pytest.approx(-1)


@pytest.mark.parametrize("alpha", [(0.31, -0.52), (-0.9, 0.1), (0.0, 0.0)])
def test_best_slopes_are_the_receivers_direction(alpha):
    def loss(beta):
        return -array_gain(64, 0.25, alpha[0] - beta[0]) * array_gain(64, 0.25, alpha[1] - beta[1])

    grid = beta_grid(64, 0.25)
    start = [grid[np.abs(grid - a).argmin()] for a in alpha]
    found = optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15})
    assert found.x == pytest.approx(alpha, abs=1e-6)
    assert -found.fun == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("m", [32, 33])
def test_spherical_waves_approach_the_product_as_one_over_distance(m):
    alpha, beta, fraunhofer = (0.3, -0.2), (0.31, -0.22), 2 * (m * 0.5) ** 2
    far = array_factor(m, 0.5, alpha[0] - beta[0]) * array_factor(m, 0.5, alpha[1] - beta[1])
    errors = [abs(spherical_field(m, 0.5, alpha, beta, r * fraunhofer) - far) for r in (10, 100, 1000)]
    assert np.polyfit([1, 2, 3], np.log10(errors), 1)[0] == pytest.approx(-1, abs=0.02)
    assert abs(spherical_field(m, 0.5, alpha, alpha, 0.05 * fraunhofer) - 1) > 0.5  # the near field does not


@pytest.mark.parametrize("m", [8, 9, 32, 57, 64, 301, 2048])
def test_the_gain_approaches_a_continuous_apertures_as_one_over_m_squared(m):
    u = 0.3 - np.linspace(-1, 1, 4001)
    assert (m / 64) ** 2 * np.abs(array_gain(m, 0.5, u) - np.sinc(m * 0.5 * u) ** 2).max() <= 3e-4
    grazing = np.abs(array_gain(m, 0.5, u + 0.7) - np.sinc(m * 0.5 * (u + 0.7)) ** 2).max()
    assert grazing > 0.5  # not where the grating lobe stands


# --- the grid ---------------------------------------------------------------------------------------------


@given(m=st.integers(8, 300), d=st.floats(0.13, 0.5), finer=st.sampled_from([0.5, 1, 2, 4]))
def test_grid_covers_the_slopes_once(m, d, finer):
    grid = beta_grid(m, d, finer)
    assert grid[0] == -1
    assert grid[-1] < 1 <= grid[-1] + 1 / (m * d * finer) + 1e-9
    assert np.diff(grid) == pytest.approx(1 / (m * d * finer))
    if finer == 1:
        u = 0.123 - grid  # the numerator is the same for all beams
        assert np.ptp(np.sin(np.pi * m * d * u) ** 2) < 1e-10


def test_sizes_of_the_card():
    assert len(beta_grid(64, 0.25)) == 32
    assert len(beta_grid(128, 0.25, 4)) == 256
    assert interval_sizes(32)[:3] == (32, 22, 15)


@pytest.mark.parametrize(
    ("values", "one_peak"),
    [
        ([1, 2, 3, 2, 1], True), ([3, 2, 1], True), ([1, 2, 3], True), ([1, 3, 2, 3, 1], False),
        ([2, 1, 2], False), ([1, 2, 2, 1], False), ([1, 1, 2], False), ([1, 2], True),
    ],
)  # fmt: skip
def test_unimodal(values, one_peak):
    assert is_unimodal(np.array(values)) == one_peak
    assert is_unimodal(np.array([values, values[::-1]])).tolist() == [one_peak] * 2


@given(m=st.integers(8, 200), d=st.floats(0.07, 0.25), step=st.integers(1, 4), alpha=st.floats(-0.999, 0.999))
def test_a_grid_of_whole_null_spacings_has_one_peak_at_the_nearest_beam(m, d, step, alpha):
    assume(2 * m * d > step)
    grid = beta_grid(m, d, 1 / step)
    place = (alpha + 1) * m * d
    # An exact hit has nulls, midway two beams tie.
    if min(abs(place - round(place)), abs(place / step % 1 - 0.5)) > 1e-3:
        gain = array_gain(m, d, alpha - grid)
        assert is_unimodal(gain)
        assert gain.argmax() == np.abs(alpha - grid).argmin()


def test_finer_grids_and_wide_spacing_have_more_peaks():
    alpha = random_directions(300, rng(2))[:, :1]
    shares = {
        (m, d, f): is_unimodal(array_gain(m, d, alpha - beta_grid(m, d, f))).mean()
        for m, d, f in [(128, 0.25, 1), (128, 0.25, 2), (128, 0.25, 4), (42, 0.375, 1), (32, 0.5, 1)]
    }
    assert shares[128, 0.25, 1] == 1
    assert max(shares[128, 0.25, 2], shares[128, 0.25, 4]) <= 0.05
    assert max(shares[42, 0.375, 1], shares[32, 0.5, 1]) <= 0.6


@pytest.mark.parametrize("side", [24, 25, 31, 64, 257, 4096])
def test_every_side_that_the_record_allows_has_the_shares_that_are_judged(side):
    anywhere = random_directions(500, rng(training.stream(0, "anywhere").initial_seed()))[:, :1]

    def share(step):
        return is_unimodal(array_gain(side, 0.25, anywhere - beta_grid(side, 0.25, 1 / step))).mean()

    assert share(1) == share(2) == share(3) == share(4) == 1
    assert max(share(0.5), share(0.25)) <= 0.05
    assert share(1.5) <= 0.15


# --- pilots -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("power", "m"), [(0.0, 1), (0.7, 1), (30.0, 1), (5.0, 7)])
def test_pilots_are_noncentral_chi_square_and_the_power_of_complex_noise(power, m):
    ours = received(np.full(4000, power), m, rng(3))
    assert stats.kstest(2 * m * ours, stats.ncx2(2 * m, 2 * m * power + 1e-300).cdf).pvalue > 0.01
    real, imaginary = rng(4).normal(scale=0.5**0.5, size=(2, 4000, m))
    assert stats.ks_2samp(ours, np.mean((power**0.5 + real) ** 2 + imaginary**2, 1)).pvalue > 0.01
    assert ours.mean() == pytest.approx(power + 1, rel=0.05)


def test_directions_are_even_on_the_half_sphere():
    alpha = random_directions(5000, rng(0))
    assert (np.hypot(*alpha.T) <= 1).all()
    for sine in alpha.T:
        assert stats.kstest(sine, stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_a_row_at_the_same_power_loses_the_other_sides_elements():
    alpha = random_directions(3, rng(0))
    env = HMT.towards(alpha, 16, 24, 0.25, 60)
    arms = np.tile(np.arange(8), (3, 1))
    row = env.pull_row(0, arms, 4000, rng(1))
    assert row == pytest.approx(1 + 1e6 * env.gains[0] / 24, rel=0.02)
    column = env.pull_row(1, np.tile(np.arange(12), (3, 1)), 4000, rng(1))
    assert column == pytest.approx(1 + 1e6 * env.gains[1] / 16, rel=0.02)
    whole = env.pull(arms, arms, 4000, rng(1))
    assert whole == pytest.approx(1 + 1e6 * env.gains[0] * env.gains[1][:, :8], rel=0.02)
    assert env.shape == (8, 12)
    assert env.rest == (4, 6)


# --- searches ---------------------------------------------------------------------------------------------


@given(arms=st.integers(1, 70), seed=st.integers(0, 100), schedule=st.sampled_from(SCHEDULES))
def test_line_search_without_noise_finds_any_peak_within_its_budget(arms, seed, schedule):
    peaks = rng(seed).integers(arms, size=20)
    budget = smallest_budget(arms) + int(rng(seed).integers(200))
    spent = 0

    def pull(probes, m):
        nonlocal spent
        assert m >= 1
        assert (probes >= 0).all()
        assert (probes < arms).all()
        spent += m * probes.shape[1]
        return -np.abs(probes - peaks[:, None]).astype(float)

    assert (line_search(pull, arms, 20, budget, schedule=schedule) == peaks).all()
    assert spent <= budget < spent + LAST


def test_line_search_keeps_its_reserve_and_spreads_the_rest():
    def pilots(schedule):
        used = []

        def pull(probes, m):
            used.append(m)
            return -probes.astype(float)

        line_search(pull, 32, 1, 1000, schedule=schedule)
        return used

    flat, late, early = (pilots(schedule) for schedule in SCHEDULES)
    assert flat == [20] * 8 + [120]
    assert late[:8] == sorted(late[:8])
    assert late[0] < flat[0] < late[7]
    assert early[:8] == late[7::-1]
    for used in (flat, late, early):
        assert LAST * used[-1] >= 340


@given(arms=st.integers(1, 300), budget=st.integers(1, 2000), seed=st.integers(0, 20))
def test_halving_and_even_sampling_stay_within_budget_and_find_what_they_pull(arms, budget, seed):
    best = rng(seed).integers(arms, size=5)
    for search in (sequential_halving, even_sampling):
        pulled, spent = np.zeros((5, arms), bool), 0

        def pull(probes, m):
            nonlocal spent
            assert m >= 1
            spent += m * probes.shape[1]
            np.put_along_axis(pulled, probes, True, 1)  # noqa: B023
            return (probes == best[:, None]).astype(float)

        found = search(pull, arms, 5, budget, rng(seed))
        assert spent <= budget
        if arms > 1 and budget > 1:
            assert ((found == best) == pulled[np.arange(5), best]).all()


@pytest.mark.parametrize(
    ("arms", "budget", "start"), [(1024, 5000, 1024), (32, 100, 32), (1024, 4, 2), (7, 1, 1)]
)
def test_halving_starts_with_what_the_budget_allows(arms, budget, start):
    assert halving_start(arms, budget) == start


def test_halving_could_not_start_with_one_more():
    def least(start):
        return start if start <= 2 else start + least(-(-start // 2))

    for arms in (1, 5, 33, 100):
        for budget in range(1, 220):
            start = halving_start(arms, budget)
            assert least(start) <= budget
            assert start == arms or least(start + 1) > budget


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("budget", [203, 1000])
def test_algorithms_keep_the_budget_and_their_seed(name, budget):
    env, spent = counted(link(40, 7))
    i, j = ALGORITHMS[name](env, budget, rng(1))
    assert i.shape == j.shape == (7,)
    assert ((i >= 0) & (i < 32) & (j >= 0) & (j < 32)).all()
    assert 0.5 * budget < spent[0] <= budget
    again = ALGORITHMS[name](env, budget, rng(1))
    assert (again[0] == i).all()
    assert (again[1] == j).all()


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "joint"])
def test_every_search_but_the_joint_one_succeeds_without_noise(name):
    assert mean_success(link(100), ALGORITHMS[name], 5000, draws=1) >= 0.97


def test_held_parameters():
    env = link(100, 5)
    i, j = holobeam(env, 400, rng(0), axes=(0,))
    assert (j == 16).all()
    assert (i == env.gains[0].argmax(1)).all()
    i, j = holobeam(env, 400, rng(0), axes=(1,))
    assert (i == 16).all()
    assert (j == env.gains[1].argmax(1)).all()


# --- the controls: without the mechanism the verdict's numbers fail ---------------------------------------


def test_line_search_needs_the_peak_and_halving_does_not():
    env = link(50)
    mixed = env.shuffled(rng(9))
    assert mean_success(env, holobeam, 1000) > 0.8
    assert mean_success(mixed, holobeam, 1000) < 0.3
    assert mean_success(mixed, sequential_halving_coord, 1000) == pytest.approx(
        mean_success(env, sequential_halving_coord, 1000), abs=0.05
    )


def test_equal_gains_leave_the_error_at_one():
    env = link(32, 2000)
    env = replace(env, gains=(np.ones_like(env.gains[0]), np.ones_like(env.gains[1])))
    i, j = holobeam(env, 1600, rng(0))
    assert ((i != 11) | (j != 20)).mean() > 0.99


def test_a_search_over_all_beams_cannot_find_what_it_cannot_pull():
    env = link(60)
    assert mean_success(env, sequential_halving_2d, 200) < 0.2 < mean_success(env, holobeam, 200)
    assert mean_success(env, partial(holobeam, axes=(0,)), 1000) < 0.2


def test_the_window_of_an_error_that_falls_by_a_power_law_is_exact():
    budgets = [100 * 4**k for k in range(12)]
    for power in (0.5, 1.0, 2.0):
        errors = [min(1.0, (n / 200) ** -power) for n in budgets]
        window = error_window(budgets, errors, 0.1, 0.003)
        exact = [200 * level ** (-1 / power) for level in (0.1, 0.003)]
        assert window == pytest.approx(exact, rel=0.01)
    assert error_window(budgets, [0.9] * 12, 0.1, 0.003) is None
    noisy = [0.5, 0.2, 0.25, 0.01, 0.02, 0.0, 0.001, 0, 0, 0, 0, 0]
    first, last = error_window(budgets, noisy, 0.1, 0.003)
    assert budgets[1] < first < budgets[3] < last < budgets[5]


def test_ties_are_hits():
    env = link(50, 4)
    best = success(env, lambda env, n, rng: tuple(g.argmax(1) for g in env.gains), 100, rng(0), 3)
    assert best.tolist() == [1] * 4
    first = success(env, lambda env, n, rng: (np.zeros(env.trials, int),) * 2, 100, rng(0), 3)
    assert first.tolist() == [0] * 4
    equal = replace(env, gains=(np.ones_like(env.gains[0]), np.ones_like(env.gains[1])))
    assert success(equal, holobeam, 200, rng(0)).tolist() == [1] * 4


def test_an_error_is_followed_between_the_budgets_that_a_scan_finds():
    """A stand-in that errs with probability 20 / budget: its window is 200 to 6667."""

    def sometimes(env, budget, generator):
        wrong = generator.random(env.trials) < 20 / budget
        i, j = (g.argmax(1) for g in env.gains)
        return np.where(wrong, (i + 5) % env.shape[0], i), j

    def named(purpose):
        return rng(sum(purpose.encode()))

    env = link(50, 3)
    for budgets, errors in decay(env, sometimes, named, 20_000, 0.1, 0.003):
        assert budgets.shape == errors.shape == (6,)
        assert 120 < budgets[0] < 330
        assert errors == pytest.approx(20 / budgets, rel=0.4)
    assert decay(env, lambda env, n, rng: tuple(g.argmax(1) for g in env.gains), named, 1, 0.1, 0.003) == []
    assert (
        decay(env, lambda env, n, rng: (np.zeros(env.trials, int),) * 2, named, 1, 0.1, 0.003) == [None] * 3
    )


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: array_gain(0, 0.25, 0.1), r"m must be >= 1, got 0"),
        (lambda: array_gain(8, 0.6, 0.1), r"d must be in \(0, 0.5\], got 0.6"),
        (lambda: beta_grid(64, 0.0), r"d must be in \(0, 0.5\], got 0.0"),
        (lambda: beta_grid(64, 0.25, 0), r"oversample must be > 0, got 0"),
        (lambda: beta_grid(2, 0.1), r"number of beams, must be >= 2, got 1"),
        (lambda: spherical_field(8, 0.25, (0.9, 0.9), (0, 0), 100), r"unit circle, got \(0.9, 0.9\)"),
        (lambda: HMT.towards(np.zeros(2), 64, 64, 0.25, 30), r"must be of shape \(trials, 2\), got \(2,\)"),
        (lambda: HMT.towards(np.full((1, 2), 1.5), 64, 64, 0.25, 30), r"alpha must be in \[-1, 1\], got 1.5"),
        (lambda: received(np.ones(2), 0, rng(0)), r"number of pilots, must be >= 1, got 0"),
        (lambda: holobeam(link(30, 2), 60, rng(0)), r"budget must be >= 35 for 32 arms, got 30"),
        (lambda: holobeam(link(30, 2), 200, rng(0), hold="none"), r"hold must be one of .*, got 'none'"),
        (lambda: holobeam(link(30, 2), 200, rng(0), schedule="no"), r"schedule must be one of .*, got 'no'"),
        (lambda: line_search(lambda a, m: a, 0, 1, 10), r"arms must be >= 1, got 0"),
        (lambda: sequential_halving(lambda a, m: a, 4, 1, 0, rng(0)), r"budget must be >= 1, got 0"),
        (lambda: even_sampling(lambda a, m: a, 4, 1, 0, rng(0)), r"budget must be >= 1, got 0"),
        (lambda: success(link(30, 2), holobeam, 0, rng(0)), r"budget must be >= 1, got 0"),
        (lambda: error_window([1, 2], [0.5, 0.1], 0.1, 0.3), r"must be rising within \(0, 1\), got \(0.3"),
        (lambda: error_window([1, 2], [0.05, 0], 0.1, 0.01), r"the first error must be >= 0.1, got 0.05"),
        (lambda: success(link(30, 2), holobeam, 9, rng(0), 0), r"draws must be >= 1, got 0"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sides": [128, 16]}, r"sides = \[128, 16\]: expected list\[int\], each 24..4096"),
        ({"oversample": 3}, "oversample = 3: expected int, 1..2"),
        ({"budgets": list(range(100, 111))}, "at most 10 values, got 11"),
    ],
)
def test_parameters_that_break_what_is_exact_or_run_for_days_are_refused(given, message):
    record = records.load("holobeam")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


# --- mutations --------------------------------------------------------------------------------------------


def lesser(self, i, j):
    """The gain is the lesser of the two factors, not their product."""
    return np.minimum(np.take_along_axis(self.gains[0], i, 1), np.take_along_axis(self.gains[1], j, 1))


def fine_grid(m, d, oversample=1):
    """The beams lie twice as dense, so that side lobes are among them."""
    return beta_grid(m, d, 2 * oversample)


def evenly(pull, arms, trials, budget, rng=None, schedule="flat"):
    """A phase spreads its pilots evenly over its beams: the product is used, the peak is not."""
    return even_sampling(pull, arms, trials, budget, rng)


MUTATIONS = [("HMT.gain", lesser), ("beta_grid", fine_grid), ("line_search", evenly)]
