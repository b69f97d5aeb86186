"""DPP least squares: the samplers follow their laws, volume sampling is unbiased, and its rivals are not."""

import math
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize

from fourfold.judging import parameters, records
from fourfold.theory.dpp_least_squares import (
    along,
    best_uniform,
    chernoff_ratio,
    christoffel_weights,
    condition,
    drawn_functions,
    error_ratio,
    expectations,
    gram,
    iid_law,
    likeness,
    measured_likeness,
    needed,
    pivoted,
    polynomials,
    projection,
    sample_dpp,
    sample_iid,
    sample_repeated,
    sample_strata,
    sample_volume,
    span_of,
    stability,
    strata_law,
    volume_law,
    wls,
)


def numbers(seed):
    return np.random.default_rng(seed)


def odd_space(count=11, m=3, seed=5):
    """Random features on an odd number of nodes."""
    return span_of(numbers(seed).standard_normal((count, m)))


def kernel(space):
    rows = space.phi * np.sqrt(space.mu)[:, None]
    return rows @ rows.T


SPACES = [polynomials(1, 2, 14), odd_space()]


# --- spaces -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "count", "m"),
    [
        (polynomials(1, 39, 40), 40, 40),
        (polynomials(2, 7, 9), 81, 36),
        (polynomials(6, 2, 3), 729, 28),
        (polynomials(1, 0, 1), 1, 1),
        (odd_space(), 11, 3),
    ],
)
def test_features_are_orthonormal_and_nodes_are_all_listed(space, count, m):
    assert space.phi.shape == (count, m)
    assert space.mu.sum() == pytest.approx(1)
    np.testing.assert_allclose(space.phi.T @ (space.mu[:, None] * space.phi), np.eye(m), atol=1e-12)
    np.testing.assert_array_equal(np.sort(space.order), np.arange(count))


def test_optimal_weights_make_all_summands_of_the_gram_matrix_equally_large():
    space = polynomials(2, 3, 7)
    weights = christoffel_weights(space)
    np.testing.assert_allclose(weights * (space.phi**2).sum(1), space.m)
    for mix in (0.0, 0.3, 1.0):
        w = christoffel_weights(space, mix)
        assert (space.mu / w).sum() == pytest.approx(1)
        assert mix == 0 or w.max() <= 1 / mix + 1e-12


def test_strata_are_cut_where_nodes_are_near():
    line = polynomials(1, 4, 9)
    assert (np.diff(line.points[line.order, 0]) < 0).all()  # arccos falls
    clouds = np.concatenate([numbers(0).standard_normal((5, 3)), 50 + numbers(1).standard_normal((5, 3))])
    assert {frozenset(part) for part in np.split(along(clouds), 2)} == {
        frozenset(range(5)),
        frozenset(range(5, 10)),
    }


# --- samplers ---------------------------------------------------------------------------------------------

# What DPPy 0.3.3 drew: proj_dpp_sampler_eig_GS(sqrt(mu) phi, random_state=RandomState(seed)).
DPPY = [
    (polynomials(1, 5, 40), 1, [16, 30, 0, 12, 21, 33]),
    (polynomials(2, 3, 8), 2, [27, 1, 40, 31, 30, 20, 15, 53, 25, 47]),
    (
        polynomials(1, 29, 200),
        3,
        [110, 143, 54, 98, 181, 176, 19, 38, 7, 88, 4, 104, 138, 64, 151, 126, 14, 122, 60, 83, 71, 168, 117,
         33, 161, 192, 48, 68, 159, 198],
    ),
]  # fmt: skip


class LegacyNumbers:
    """NumPy's older generator, which DPPy draws from, behind the one method that is needed."""

    def __init__(self, seed):
        self.state = np.random.RandomState(seed)

    def random(self, size):
        return self.state.random_sample(size)


@pytest.mark.parametrize(("space", "seed", "theirs"), DPPY)
def test_the_dpp_draws_what_dppy_draws_from_the_same_random_numbers(space, seed, theirs):
    assert sample_dpp(space, 1, LegacyNumbers(seed))[0].tolist() == theirs


def p_value(law, index):
    """Chi-square p of what was drawn, rare outcomes pooled; 0 if the law forbids one."""
    index = np.sort(index, 1)
    expected = Counter()
    for row, chance in zip(np.sort(law[0], 1).tolist(), law[1], strict=True):
        expected[tuple(row)] += chance * len(index)
    seen = Counter(map(tuple, index.tolist()))
    if any(expected[key] < 1e-12 for key in seen):
        return 0.0
    rare = [key for key, value in expected.items() if value < 5]
    pairs = [(seen[key], value) for key, value in expected.items() if value >= 5]
    pairs.append((sum(seen[key] for key in rare), sum(expected[key] for key in rare)))
    found, wanted = np.array(pairs).T
    return stats.chisquare(found[wanted > 0], wanted[wanted > 0], sum_check=False).pvalue


@pytest.mark.parametrize("space", SPACES)
def test_what_is_drawn_follows_the_enumerated_laws(space):
    rng, draws = numbers(11), 20_000
    for mix in (0.0, 1.0):
        w = christoffel_weights(space, mix)
        assert p_value(volume_law(space, w, 4), sample_volume(space, w, 4, draws, rng)) > 1e-4
        assert p_value(iid_law(space, w, 2), sample_iid(space, w, 2, draws, rng)) > 1e-4
        assert p_value(strata_law(space, w, 4), sample_strata(space, w, 4, draws, rng)) > 1e-4
    assert p_value(volume_law(space, w, 3), sample_dpp(space, draws, rng)) > 1e-4
    w = christoffel_weights(space)
    assert p_value(volume_law(space, w, 3), sample_iid(space, w, 3, draws, rng)) == 0


def test_a_draw_of_volume_sampling_is_in_random_order():
    space = SPACES[0]
    index = sample_volume(space, christoffel_weights(space), 5, 20_000, numbers(3))
    for place in range(5):
        counts = np.bincount(index[:, place], minlength=14)
        assert stats.chisquare(counts, 20_000 * space.mu * (space.phi**2).mean(1)).pvalue > 1e-4


def test_inclusion_probabilities_of_the_dpp_are_minors_of_the_projection():
    space = polynomials(1, 5, 40)
    k, index = kernel(space), sample_dpp(space, 20_000, numbers(4))
    member = np.zeros((20_000, 40))
    np.put_along_axis(member, index, 1, axis=1)
    assert (member.sum(1) == 6).all()  # no point comes twice
    together = member.T @ member / len(member)
    for got, chance in ((np.diag(together), np.diag(k)), (together, np.outer(np.diag(k), np.diag(k)) - k**2)):
        if got.ndim == 2:
            got, chance = (part[np.triu_indices(40, 1)] for part in (got, chance))
        error = np.sqrt(np.maximum(chance * (1 - chance), 1e-4) / len(member))
        assert (np.abs(got - chance) / error).max() < 5


def test_repeated_draws_are_independent_dpps_and_strata_hold_one_point_each():
    space = polynomials(1, 4, 21)
    index = sample_repeated(space, 15, 50, numbers(1))
    assert index.shape == (50, 15)
    assert all(len(set(row)) == 5 for part in np.split(index, 3, axis=1) for row in part.tolist())
    w = christoffel_weights(space)
    heap = np.cumsum((space.mu / w)[space.order])
    rank = np.argsort(space.order)[sample_strata(space, w, 7, 30, numbers(2))]
    assert (heap[rank] >= np.arange(7) / 7 - 1e-12).all()
    assert (np.concatenate([[0], heap])[rank] <= (np.arange(7) + 1) / 7 + 1e-12).all()


def test_sixty_features_are_chosen_without_a_point_twice():
    space = polynomials(1, 59, 400)
    index = sample_dpp(space, 5, numbers(0))
    assert all(len(set(row)) == 60 for row in index.tolist())
    assert (np.linalg.eigvalsh(gram(space, index, christoffel_weights(space)))[:, 0] > 1e-9).all()


def test_the_same_numbers_give_the_same_points():
    space = polynomials(2, 3, 6)
    w = christoffel_weights(space)
    for sample in (
        lambda rng: sample_dpp(space, 3, rng),
        lambda rng: sample_volume(space, w, 13, 3, rng),
        lambda rng: sample_repeated(space, 20, 3, rng),
        lambda rng: sample_strata(space, w, 13, 3, rng),
    ):
        np.testing.assert_array_equal(sample(numbers(8)), sample(numbers(8)))
        assert (sample(numbers(8)) != sample(numbers(9))).any()
    np.testing.assert_array_equal(pivoted(space), pivoted(space))
    assert pivoted(space).shape == (1, 10)


# --- laws and their expectations --------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("n", [3, 4])
def test_volume_sampling_is_the_density_det_g(space, n):
    """The law of the two-stage sampler is the determinant's: Cauchy and Binet, for any density."""
    for mix in (0.0, 0.4, 1.0):
        w = christoffel_weights(space, mix)
        index, chance = volume_law(space, w, n)
        alone = iid_law(space, w, n)[1]
        mean = math.factorial(n) / (math.factorial(n - 3) * n**3)
        np.testing.assert_allclose(chance, alone * np.linalg.det(gram(space, index, w)) / mean, atol=1e-13)


def expected_inverse(space, n):
    """E adj(G) / E det(G) over independent points: E G^-1 of volume sampling if no node came twice."""
    w = christoffel_weights(space)
    index, chance = iid_law(space, w, n)
    g = gram(space, index, w)
    cross = [np.cross(g[:, a], g[:, b]) for a, b in ((1, 2), (2, 0), (0, 1))]
    return np.tensordot(chance, np.stack(cross, 1), 1) / (chance @ np.linalg.det(g))


@pytest.mark.parametrize("space", SPACES)
def test_the_mean_inverse_is_that_of_the_theory_and_less_where_a_node_can_come_twice(space):
    w = christoffel_weights(space)
    for n in (3, 4, 5):
        np.testing.assert_allclose(expected_inverse(space, n), n / (n - 2) * np.eye(3), atol=1e-12)
        index, chance = volume_law(space, w, n)
        good = chance > 1e-20
        inverse = np.tensordot(chance[good], np.linalg.inv(gram(space, index[good], w)), 1)
        assert np.linalg.eigvalsh(inverse)[-1] < n / (n - 2)


@pytest.mark.parametrize("space", SPACES)
def test_volume_sampling_is_unbiased_and_its_rivals_are_not(space):
    values = numbers(2).standard_normal((len(space.mu), 2))
    best, _ = projection(space, values)
    for n, mix in product((3, 4), (0.0, 0.5, 1.0)):
        w = christoffel_weights(space, mix)
        fit, error = expectations(space, volume_law(space, w, n), values, w)
        np.testing.assert_allclose(fit, best, atol=1e-11)
        if n == 3:
            np.testing.assert_allclose(error, 4, atol=1e-10)
    w = christoffel_weights(space)
    for law in (iid_law, strata_law, rest_from_mu, no_square):
        assert np.abs(expectations(space, law(space, w, 4), values, w)[0] - best).max() > 1e-3


def test_the_laws_are_probabilities():
    space = odd_space(7, 2)
    for mix in (0.0, 1.0):
        w = christoffel_weights(space, mix)
        for law in (volume_law, iid_law, strata_law):
            assert law(space, w, 3)[1].sum() == pytest.approx(1)
    assert len(iid_law(space, w, 3)[0]) == math.comb(9, 3)


# --- diversity --------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 50), m=st.integers(2, 5))
def test_the_pairs_of_a_dpp_are_less_alike_than_independent_ones(seed, m):
    space = odd_space(9, m, seed)
    k = kernel(space)
    cosine = k**2 / np.outer(np.diag(k), np.diag(k))
    pair = (np.outer(np.diag(k), np.diag(k)) - k**2) / (m * (m - 1))
    assert pair.sum() == pytest.approx(1)
    assert likeness(space) == pytest.approx(m * (pair * cosine).sum())
    assert likeness(space) <= 1 + 1e-12


def test_the_closed_form_of_likeness_is_what_pairs_of_draws_have():
    space = polynomials(2, 3, 9)
    found = measured_likeness(space, sample_dpp(space, 4000, numbers(1)))
    assert found.mean() == pytest.approx(likeness(space), abs=5 * found.std() / math.sqrt(4000))
    alone = measured_likeness(space, sample_iid(space, christoffel_weights(space), 10, 4000, numbers(1)))
    assert alone.mean() == pytest.approx(1, abs=5 * alone.std() / math.sqrt(4000))


def test_repeated_draws_need_rho_times_the_points_for_an_equal_gram_matrix():
    """E |G - I|^2 = (m^2 - m)/n for independent points, enumerated; times rho for one DPP."""
    for space in SPACES:
        w = christoffel_weights(space)
        sizes = []
        for law in (volume_law, iid_law):
            index, chance = law(space, w, 3)
            sizes.append(chance @ ((gram(space, index, w) - np.eye(3)) ** 2).sum((1, 2)))
        assert sizes[1] == pytest.approx((9 - 3) / 3)
        assert sizes[0] == pytest.approx(likeness(space) * sizes[1])


# --- fits -------------------------------------------------------------------------------------------------


def test_the_fit_is_numpys_least_squares():
    space, rng = polynomials(2, 3, 7), numbers(6)
    values = rng.standard_normal((49, 3))
    w = christoffel_weights(space, 0.5)
    index = sample_iid(space, w, 23, 4, rng)
    ours = wls(space, index, values, w)
    for i, row in enumerate(index):
        root = np.sqrt(w[row])[:, None]
        theirs = np.linalg.lstsq(root * space.phi[row], root * values[row], rcond=None)[0]
        np.testing.assert_allclose(ours[i], theirs, atol=1e-10)
        rows = space.phi[row] * root
        np.testing.assert_allclose(gram(space, index, w)[i], rows.T @ rows / 23, atol=1e-12)
        assert stability(space, index, w)[i] == pytest.approx(np.linalg.svd(rows)[1][-1] ** 2 / 23)
    error = space.mu @ (values[:, None] - np.einsum("nm,rmf->nrf", space.phi, ours)).reshape(49, -1) ** 2
    np.testing.assert_allclose(
        error_ratio(space, ours, values), error.reshape(4, 3) / projection(space, values)[1]
    )


def test_a_function_of_the_space_is_found_from_any_points_that_determine_it():
    space, rng = polynomials(1, 4, 30), numbers(7)
    coefficients = rng.standard_normal((5, 2))
    found = wls(space, sample_dpp(space, 6, rng), space.phi @ coefficients, christoffel_weights(space))
    np.testing.assert_allclose(found, np.broadcast_to(coefficients, found.shape), atol=1e-10)


def test_the_best_uniform_error_is_chebyshevs():
    """|T_5| / 2^4 is the least uniform error of x^5 by degree 4, on the line; on nodes it is hardly less."""
    space = polynomials(1, 4, 600)
    x = space.points[:, 0]
    least = best_uniform(space, x**5)
    assert 0.999 / 16 < least <= 1 / 16 + 1e-12
    step = np.sign(x - 0.1)
    start = projection(space, step[:, None])[0][:, 0]
    found = minimize(lambda c: np.abs(step - space.phi @ c).max(), start, method="Powell")
    assert best_uniform(space, step) <= found.fun + 1e-9


def test_the_error_of_kept_draws_is_below_its_sure_bound():
    space = polynomials(1, 9, 100)
    w, rng = christoffel_weights(space, 0.5), numbers(5)
    values = np.abs(space.points[:, :1])

    def good(index):
        return stability(space, index, w) >= 0.5

    index = condition(lambda: sample_iid(space, w, 60, 50, rng), good)
    assert good(index).all()
    assert not good(sample_iid(space, w, 60, 50, rng)).all()
    error = np.sqrt(error_ratio(space, wls(space, index, values, w), values) * projection(space, values)[1])
    bound = 1 + np.sqrt(w[index].mean(1, keepdims=True) / 0.5)
    assert (error <= bound * best_uniform(space, values[:, 0])).all()


def test_points_that_half_the_draws_need():
    assert needed([1, 2, 3], [0.1, 0.5, 0.4], 9) == 2
    assert needed([1, 2], [0.1, 0.4], 9) == 9
    assert chernoff_ratio(10) == pytest.approx(19.5, abs=0.05)
    assert chernoff_ratio(40) == pytest.approx(28.6, abs=0.05)
    assert drawn_functions(numbers(0).uniform(-1, 1, (9, 2)), 5, numbers(1)).shape == (9, 5)


def test_the_claims_order_of_samplers_and_the_controls_that_fail_them():
    """On the line at n = 4m repeated draws are well conditioned; independent ones, volume and copies not."""
    space, rng = polynomials(1, 19, 200), numbers(3)
    w, n = christoffel_weights(space), 80

    def share(index, weights=w):
        return (stability(space, index, weights) >= 0.5).mean()

    joint = sample_repeated(space, n, 60, rng)
    assert share(joint) > 0.35
    assert share(sample_strata(space, w, n, 60, rng)) > 0.9
    assert share(np.tile(joint[:, :20], 4)) < 0.1
    assert share(sample_iid(space, w, n, 60, rng)) < 0.1
    assert share(sample_volume(space, w, n, 60, rng)) < 0.15
    one = np.ones(200)
    assert share(sample_iid(space, one, 400, 60, rng), one) < 0.5 < share(sample_iid(space, w, 400, 60, rng))


# --- the mechanism without its heart ----------------------------------------------------------------------


def rest_from_mu(space, weights, n):
    """Volume sampling takes its further points from mu, though they are weighted for another density."""
    return volume_law(space, np.ones_like(weights), n)


def no_square(space, weights, n):
    """The joint points have a density proportional to the determinant's size, not to its square."""
    index, orders = iid_law(space, space.mu, n)  # density 1: what is left is in how many orders each comes
    density, chance = space.mu / weights, np.zeros(len(index))
    for mine in combinations(range(n), space.m):
        rest = [place for place in range(n) if place not in mine]
        joint = np.abs(np.linalg.det(space.phi[index[:, mine]])) * space.mu[index[:, mine]].prod(1)
        chance += joint * density[index[:, rest]].prod(1)
    return index, orders * chance / (orders @ chance)


MUTATIONS = [("volume_law", no_square)]


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"m_list": [10, 601]}, r"m_list = \[10, 601\]"),
        ({"delta": 1.0}, r"delta = 1\.0: expected float"),
        ({"square_degree": 20, "square_nodes": 10}, "square_degree = 20: expected at most square_nodes"),
    ],
)
def test_parameters_that_no_cell_can_use_are_refused_by_name(given, message):
    record = records.load("dpp_least_squares")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


S, W = SPACES[0], christoffel_weights(SPACES[0])
RNG = numbers(0)
REFUSED = [
    (lambda: polynomials(0, 2, 5), "dim must be >= 1, got 0"),
    (lambda: polynomials(1, -1, 5), "degree must be >= 0, got -1"),
    (lambda: polynomials(1, 5, 5), "nodes must be >= 6, got 5"),
    (lambda: span_of(np.ones((3, 4))), r"features must be in 1\.\.3 \(the nodes\), got 4"),
    (lambda: span_of(np.ones((4, 2))), "features must be independent, got 2 of rank 1"),
    (lambda: christoffel_weights(S, 1.5), r"mix must be in 0\.\.1, got 1\.5"),
    (lambda: sample_iid(S, W, 0, 1, RNG), "n must be >= 1, got 0"),
    (lambda: sample_dpp(S, 0, RNG), "draws must be >= 1, got 0"),
    (lambda: sample_volume(S, W, 2, 1, RNG), "n must be >= 3, got 2"),
    (lambda: sample_repeated(S, 7, 1, RNG), "n must be a multiple of m = 3, got 7"),
    (lambda: sample_strata(S, W, 0, 1, RNG), "n must be >= 1, got 0"),
    (lambda: volume_law(S, W, 2), "n must be >= 3, got 2"),
    (lambda: drawn_functions(S.points, 0, RNG), "functions must be >= 1, got 0"),
    (lambda: chernoff_ratio(0), "m must be >= 1, got 0"),
    (lambda: chernoff_ratio(5, 1.0), r"delta must be in \(0, 1\), got 1\.0"),
    (lambda: best_uniform(S, np.full(14, np.nan)), "values must be finite, got nan"),
    (lambda: condition(lambda: sample_dpp(S, 2, RNG), lambda i: i[:, 0] < 0, 2), "tries = 2 rounds 2 draws"),
    (lambda: condition(lambda: sample_dpp(S, 2, RNG), lambda i: i[:, 0] < 0, 0), "tries must be >= 1, got 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
