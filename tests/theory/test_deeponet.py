"""DeepONet: scipy's solvers and linear algebra, closed forms, sums written out, scikit-learn's kernels."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import cumulative_trapezoid, solve_ivp
from scipy.interpolate import CubicSpline
from scipy.linalg import sqrtm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from torch.nn.functional import mse_loss

from fourfold import cost, training
from fourfold.theory.deeponet import (
    FNN,
    GRID,
    DeepONet,
    SumNet,
    covariance,
    exact_trunk,
    interpolated,
    kernel_regression,
    make_triples,
    mlp,
    network_inputs,
    posterior_mean,
    sample_fields,
    sample_pairs,
    score_regression,
    sensed,
    sensor_error,
    solve,
    w2_distance,
)
from fourfold.training import stream

from ..draws import normal

# --- input functions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["smooth", "rough"])
def test_fields_have_their_covariance(family):
    u = sample_fields(20_000, 0.2, stream(0, "u"), family)[:, ::50]
    expected = covariance(GRID[::50], GRID[::50], 0.2, family)
    np.testing.assert_allclose(u.T @ u / len(u), expected, atol=0.05)
    apart = 0.5 / 0.2
    assert expected[0, 4] == pytest.approx(math.exp(-apart if family == "rough" else -(apart**2) / 2))


def test_fields_are_drawn_from_their_generator():
    one, again, other = (sample_fields(3, 0.3, stream(i, "u")) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("m", [2, 5, 100, 401])
def test_sensors_see_smooth_functions_between_the_nodes_too(m):
    u = np.stack([np.sin(7 * GRID), GRID**3])
    x = np.linspace(0, 1, m)
    np.testing.assert_allclose(sensed(u, m), [np.sin(7 * x), x**3], atol=1e-8)


@pytest.mark.parametrize("m", [2, 3, 7])
def test_interpolation_is_numpys(m):
    values, at = normal(4, m).numpy(), np.linspace(0, 1, 23)
    expected = [np.interp(at, np.linspace(0, 1, m), row) for row in values]
    np.testing.assert_allclose(interpolated(values, at), expected, atol=1e-14)


def test_the_best_guess_is_scikit_learns():
    values, at = normal(6).numpy(), np.linspace(0, 1, 11)
    theirs = GaussianProcessRegressor(RBF(0.3), alpha=1e-10, optimizer=None)
    theirs.fit(np.linspace(0, 1, 6)[:, None], values)
    np.testing.assert_allclose(
        posterior_mean(values[None], at, 0.3)[0], theirs.predict(at[:, None]), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("m", "ell", "family"), [(9, 0.1, "smooth"), (33, 0.4, "smooth"), (17, 0.2, "rough")]
)
def test_what_sensors_miss_is_the_variance_of_a_difference(m, ell, family):
    places = np.array([0.5, 0, 1]) / (m - 1)
    weights = np.array([1, -0.5, -0.5])
    expected = weights @ covariance(places, places, ell, family) @ weights
    assert sensor_error(m, ell, family) == pytest.approx(math.sqrt(expected), rel=1e-6)


def test_what_sensors_miss_is_seen_in_draws():
    u = sample_fields(4000, 0.2, stream(0, "u"))
    missed = u - interpolated(u[:, ::50], GRID)
    assert math.sqrt((missed[:, 25] ** 2).mean()) == pytest.approx(sensor_error(9, 0.2), rel=0.05)


def test_it_falls_with_the_second_power_and_for_rough_fields_with_the_half():
    """The numbers of D2a and its control."""
    m = [9, 17, 33, 65]
    smooth, rough = (
        cost.exponent([i - 1 for i in m], [sensor_error(i, 0.2, family) for i in m]).slope
        for family in ("smooth", "rough")
    )
    assert -2.05 < smooth < -1.95
    assert -0.55 < rough < -0.45


@pytest.mark.parametrize(("one", "other"), [(0.2, 0.1), (0.2, 1.0), (0.3, 0.3)])
def test_the_distance_of_families_is_scipys(one, other):
    grid = np.linspace(0, 1, 40)
    a, b = (covariance(grid, grid, ell) for ell in (one, other))
    root = np.real(sqrtm(a + 1e-12 * np.eye(40)))
    cross = np.real(sqrtm(root @ b @ root + 1e-14 * np.eye(40)))
    expected = np.trace(a + b - 2 * cross) / 40
    assert w2_distance(one, other, 40) ** 2 == pytest.approx(expected, abs=1e-5)


# --- operators and data -----------------------------------------------------------------------------------


def test_solutions_are_scipys():
    u, s = sample_pairs(20, stream(0, "u"))
    for one, path in zip(u, s, strict=True):
        force = CubicSpline(GRID, one)
        theirs = solve_ivp(
            lambda y, s, force=force: force(y) - s**2,
            (0, 1),
            [0],
            "DOP853",
            GRID[::2],
            rtol=1e-9,
            atol=1e-12,
        )
        np.testing.assert_allclose(path, theirs.y[0], atol=1e-6)


def test_antiderivatives_of_cosines_are_sines():
    k = 2 * math.pi * np.arange(1, 9)[:, None]
    np.testing.assert_allclose(
        solve(np.cos(k * GRID), "antiderivative"), np.sin(k * GRID[::2]) / k, atol=1e-6
    )


def test_a_constant_push_gives_a_hyperbolic_tangent_and_a_pull_a_tangent():
    u = np.outer([4.0, -1.0], np.ones(len(GRID)))
    np.testing.assert_allclose(solve(u)[0], 2 * np.tanh(2 * GRID[::2]), atol=1e-7)
    np.testing.assert_allclose(solve(u)[1], -np.tan(GRID[::2]), atol=1e-6)


def test_what_blows_up_is_drawn_anew(monkeypatch):
    def fields(n, ell, generator, family):
        draws = torch.where(torch.rand(n, generator=generator) < 0.5, -6.0, 1.0).double().numpy()
        return draws[:, None] * np.ones(len(GRID))

    monkeypatch.setattr("fourfold.theory.deeponet.sample_fields", fields)
    u, s = sample_pairs(9, stream(0, "u"), amplitude=1.0)
    assert len(u) == len(s) == 9
    assert u.min() == 1  # -6 would reach minus infinity before y = 1
    assert not np.isfinite(solve(np.full((1, len(GRID)), -6.0))).all()


def test_triples_are_functions_places_and_answers():
    x, s = make_triples(50, stream(3, "x"), ell=0.3, amplitude=0.5)
    assert (x.shape, s.shape, x.dtype, s.dtype) == ((50, 101), (50,), torch.float32, torch.float32)
    assert 0.2 < float(x[:, :-1].std()) < 0.8
    for row, answer in zip(x.double().numpy(), s.tolist(), strict=True):
        path = solve(CubicSpline(np.linspace(0, 1, 100), row[:-1])(GRID)[None])[0]
        assert np.interp(row[-1], GRID[::2], path) == pytest.approx(answer, abs=1e-5)
    again = make_triples(50, stream(3, "x"), ell=0.3, amplitude=0.5)
    assert torch.equal(x, again[0])


def test_fewer_sensors_change_what_is_known_and_nothing_else():
    (x, s), (y, t) = (make_triples(30, stream(1, "x"), known=m) for m in (100, 3))
    assert torch.equal(s, t)
    assert torch.equal(x[:, -1], y[:, -1])
    torch.testing.assert_close(x[:, [0, 99]], y[:, [0, 99]])
    bends = y[:, :-1].diff(dim=1).diff(dim=1).abs()
    assert float(bends[:, :48].max()) < 1e-5  # straight up to the sensor in the middle
    assert float(bends[:, 48:50].max()) > 1e-2


# --- networks ---------------------------------------------------------------------------------------------


def test_the_authors_sizes():
    with torch.device("meta"):
        assert cost.parameters(DeepONet()) == 7401
        assert cost.parameters(FNN()) == 20401
        assert cost.parameters(SumNet()) == 7401 + 40
        assert cost.parameters(FNN(width=49)) >= 7401 > cost.parameters(FNN(width=48))


def written_out(net, x):
    """Layer by layer in numpy, and torch's bilinear form for the inner product."""

    def layers(sequence, h, last):
        linear = [layer for layer in sequence if hasattr(layer, "weight")]
        for i, layer in enumerate(linear):
            h = layer.weight.detach().numpy() @ h + layer.bias.detach().numpy()
            h = np.maximum(h, 0) if last or i + 1 < len(linear) else h
        return h

    branch = layers(net.branch, x[: net.m], False)
    trunk = layers(net.trunk, x[net.m :], True)
    b, t = torch.tensor(branch), torch.tensor(trunk)
    identity = torch.eye(len(b), dtype=b.dtype)[None]
    return float(torch.nn.functional.bilinear(b, t, identity, net.bias.detach()[None]))


@pytest.mark.parametrize(("m", "width", "p"), [(100, 40, 40), (7, 5, 3), (1, 1, 1)])
def test_a_deeponet_is_a_sum_of_products(jolted, m, width, p):
    net = jolted(DeepONet, m, width, p)
    x = normal(5, m + 1)
    expected = [written_out(net, row) for row in x.numpy()]
    torch.testing.assert_close(net(x).detach().numpy(), np.array(expected))


def test_branch_and_trunk_separate_function_and_place(jolted):
    net = jolted(DeepONet, 6, 4, 3)
    u, y = normal(5, 6), normal(4, 1, seed=1)
    table = torch.stack([net(torch.cat([u, one.expand(5, 1)], 1)) for one in y], 1) - net.bias
    assert int(torch.linalg.matrix_rank(table, rtol=1e-10)) <= 3
    sums = jolted(SumNet, 6, 4, 3)
    table = torch.stack([sums(torch.cat([u, one.expand(5, 1)], 1)) for one in y], 1)
    assert table.shape == (5, 4)


def test_a_prepared_network_sees_some_sensors_and_a_stretched_place(jolted):
    net = jolted(FNN, 7, 5, 2, every=3, stretch=4.0)
    x = normal(6, 8)
    seen = torch.cat([x[:, [0, 3, 6]], 4 * x[:, 7:]], 1)
    torch.testing.assert_close(net(x), net.layers(seen)[:, 0])


@pytest.mark.parametrize("make", [DeepONet, SumNet, FNN])
def test_gradients(jolted, make):
    net = jolted(make, 4, 3)
    assert torch.autograd.gradcheck(net, (normal(3, 5).requires_grad_(),))


def test_weights_are_glorots_and_biases_zero():
    with training.seeded(0):
        layer = mlp([300, 200])[0]
    assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / 500), rel=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize("m", [2, 9, 33])
def test_the_exact_trunk_integrates_the_interpolant(m):
    values = normal(4, m).numpy()
    fine = np.linspace(0, 1, 32 * 99 + 1)
    expected = cumulative_trapezoid(interpolated(values, fine), fine, initial=0)
    product = values @ exact_trunk(fine, m).T
    np.testing.assert_allclose(product, expected, atol=1e-6)
    # At the sensors the trapezoid rule is exact.
    at = np.linspace(0, 1, m)
    np.testing.assert_allclose(
        values @ exact_trunk(at, m).T, cumulative_trapezoid(values, at, initial=0), atol=1e-12
    )


# --- rivals -----------------------------------------------------------------------------------------------


def test_bilinear_regression_learns_a_linear_operator_and_not_a_nonlinear_one():
    def error(operator):
        data, (x, s) = (make_triples(400, stream(i, "x"), operator=operator) for i in (0, 1))
        return float(((score_regression(data)(x) - s.numpy()) ** 2).mean())

    assert error("antiderivative") < 1e-5
    assert error("nonlinear") > 1e-3


def test_bilinear_regression_knows_how_few_sensors_there_were():
    data = make_triples(200, stream(0, "x"), known=3)
    x, s = (part.double().numpy() for part in data)
    sensors = np.c_[np.ones(200), x[:, 0], x[:, 49:51].mean(1), x[:, 99]]
    of_y = np.polynomial.legendre.legvander(2 * x[:, -1] - 1, 4)
    columns = (sensors[:, :, None] * of_y[:, None]).reshape(200, -1)
    least = float(((columns @ np.linalg.lstsq(columns, s)[0] - s) ** 2).mean())
    ours = float(((score_regression(data, [4])(data[0]) - s) ** 2).mean())
    assert least <= ours < 1.1 * least


def test_kernel_regression_is_a_linear_system():
    data, (x, _) = (make_triples(40, stream(i, "x")) for i in (0, 1))
    scale = torch.cat([torch.full((100,), 20.0), torch.tensor([0.3])])

    def kernel(a, b):
        return (-(torch.cdist((a / scale).double(), (b / scale).double()) ** 2) / 2).exp()

    inner = kernel(data[0], data[0]) + 1e-3 * torch.eye(40)
    expected = kernel(x, data[0]) @ torch.linalg.solve(inner, data[1].double())
    found = kernel_regression(data, ridge=1e-3)(x)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


# --- what is judged, small --------------------------------------------------------------------------------


def errors(make, rate, n=250, seeds=(0, 1)):
    data = [[make_triples(m, stream(i, p)) for p, m in (("a", n), ("b", 1000))] for i in seeds]
    draw = training.sampled({i: d for i, (d, _) in zip(seeds, data, strict=True)}, 4000)
    test = tuple(torch.stack(part) for part in zip(*(test for _, test in data), strict=True))
    recipe = training.Recipe(10, 100, rate, weight_decay=0.0)
    score = training.train(
        make, seeds, draw, test, recipe, loss=mse_loss, score=lambda a, s: (a - s).square().mean(-1)
    ).score
    return score[:, -1].log().mean()


def test_a_product_is_ahead_and_a_sum_is_not():
    """D1a with 400 steps: what it judges, and its ablation on the same quantity."""
    connected = errors(lambda: FNN(width=64, hidden=3), 0.02)
    assert connected - errors(DeepONet, 0.01) > math.log(3)
    assert connected - errors(SumNet, 0.02) < math.log(3)


# --- the mechanism without its heart ----------------------------------------------------------------------


def added(self, x):
    """Branch and trunk are added, not multiplied."""
    return (self.branch(x[..., : self.m]) + self.trunk(x[..., self.m :])).sum(-1) + self.bias


def three_sensors(n, generator, *, known=100, **family):
    """However many sensors there are, only what three of them know reaches the network."""
    return make_triples(n, generator, known=3, **family)


MUTATIONS = [("DeepONet.forward", added), ("make_triples", three_sensors)]


# --- bad input --------------------------------------------------------------------------------------------

ZERO, G = np.zeros(1), torch.Generator()
DATA = (normal(6, 101).float(), normal(6).float())
REFUSED = [
    (lambda: covariance(ZERO, ZERO, 0.0), r"ell must be finite and > 0, got 0\.0"),
    (lambda: covariance(ZERO, ZERO, 0.2, "flat"), "family must be one of 'smooth', 'rough', got 'flat'"),
    (lambda: sample_fields(0, 0.2, G), "n must be >= 1, got 0"),
    (lambda: sample_fields(1, 0.004, G), r"ell must be finite and >= 0\.005, got 0\.004"),
    (lambda: sensed(np.zeros((1, 401)), 1), "m must be >= 2, got 1"),
    (lambda: interpolated(np.zeros((1, 1)), GRID), "m must be >= 2, got 1"),
    (lambda: sensor_error(1, 0.2), "m must be >= 2, got 1"),
    (lambda: exact_trunk(ZERO, 1), "m must be >= 2, got 1"),
    (lambda: w2_distance(0.2, 0.3, 1), "points must be >= 2, got 1"),
    (lambda: solve(np.zeros((1, 401)), "heat"), "operator must be one of .* got 'heat'"),
    (lambda: solve(np.zeros((1, 400))), r"u must be \(n, 401\), got \(1, 400\)"),
    (lambda: sample_pairs(1, G, amplitude=1.5), r"amplitude must be in \(0, 1\], got 1\.5"),
    (lambda: sample_pairs(1, G, amplitude=math.nan), r"amplitude must be in \(0, 1\], got nan"),
    (lambda: make_triples(0, G), "n must be >= 1, got 0"),
    (lambda: make_triples(2, G, known=1), "m must be >= 2, got 1"),
    (lambda: network_inputs(np.zeros((1, 401)), ZERO, 0), "m must be >= 2, got 0"),
    (lambda: mlp([3]), r"sizes must be two or more, each >= 1, got \[3\]"),
    (lambda: DeepONet(p=0), r"each >= 1, got \[100, 40, 0\]"),
    (lambda: SumNet(m=0), r"each >= 1, got \[0, 40, 40\]"),
    (lambda: FNN(width=0), r"each >= 1, got \[101, 0, 0, 1\]"),
    (lambda: FNN(every=0), "every must be >= 1, got 0"),
    (lambda: FNN(stretch=0.0), r"stretch must be finite and > 0, got 0\.0"),
    (lambda: score_regression(DATA, [4, 7]), r"sizes must be in 1\.\.6 \(the least of .*\), got 7"),
    (lambda: score_regression(DATA, [0]), r"sizes must be in 1\.\.6 .* got 0"),
    (lambda: kernel_regression(DATA, ridge=0.0), r"ridge must be finite and > 0, got 0\.0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
