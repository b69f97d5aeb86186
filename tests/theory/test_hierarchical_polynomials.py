"""Hierarchical polynomials: targets, the network's stages, kernels, and the exact lemma."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.preprocessing import PolynomialFeatures

from fourfold.theory.hierarchical_polynomials import (
    ThreeLayerNet,
    arccos_kernel,
    clipped,
    first_stage,
    fit_stage2,
    hermite,
    inner,
    kernel_ridge,
    link,
    mean_slope,
    moment_matrix,
    polynomial_kernel,
    quadratic_features,
    relative_error,
    ridge,
    squared_correlation,
    stein_gap,
)
from fourfold.training import stream

from ..draws import normal

COEFFICIENTS = (1.0, 0.6, 0.6)


# --- targets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 7])
def test_hermite_polynomials_are_numpys(degree):
    z = normal(9)
    theirs = hermite_e.hermeval(z.numpy(), [0] * degree + [1]) / math.sqrt(math.factorial(degree))
    np.testing.assert_allclose(hermite(z, degree).numpy(), theirs, atol=1e-12)


def test_a_link_is_a_sum_and_its_first_coefficient_its_mean_slope():
    nodes, weights = hermite_e.hermegauss(20)
    z = torch.tensor(nodes, requires_grad=True)
    (slope,) = torch.autograd.grad(link(z, (1.5, -0.4, 0.3)).sum(), z)
    assert float(slope.numpy() @ weights) / weights.sum() == pytest.approx(mean_slope((1.5, -0.4, 0.3)))
    assert torch.equal(link(z, ()), torch.zeros_like(z))
    assert torch.autograd.gradcheck(partial(link, coefficients=(1.5, -0.4, 0.3)), z)


@pytest.mark.parametrize(
    ("kind", "d", "k"),
    [("tensors", 6, 1), ("tensors", 8, 2), ("tensors", 6, 3), ("parities", 6, 3), ("dense", 8, 2)],
)
def test_an_inner_polynomial_has_mean_0_variance_1_and_its_degree_only(kind, d, k):
    p = inner(kind, d, k, stream(0, "p"))
    x = normal(200_000, d, seed=1)
    value = p(x)
    assert float(value.mean()) == pytest.approx(0, abs=0.02)
    assert float(value.var()) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(p(-x[:5]), (-1) ** k * p(x[:5]))
    along = torch.stack([p(s * x[:5]) for s in range(k + 2)])
    assert torch.diff(along, n=k + 1, dim=0).abs().max() < 1e-9  # of degree k along every line
    assert torch.equal(p(x[:3]), inner(kind, d, k, stream(0, "p"))(x[:3]))
    assert not torch.equal(p(x[:3]), inner(kind, d, k, stream(1, "p"))(x[:3]))


def test_parities_of_two_are_tensors_along_the_diagonals():
    p = inner("parities", 6, 2, stream(0, "p"))
    x = normal(5, 6)
    z = x @ p.axes.T
    u, v = (z[:, ::2] + z[:, 1::2]) / math.sqrt(2), (z[:, ::2] - z[:, 1::2]) / math.sqrt(2)
    torch.testing.assert_close(p(x), (hermite(u, 2) - hermite(v, 2)).sum(1) / math.sqrt(6))


def test_a_dense_p_is_a_quadratic_form():
    p = inner("dense", 6, 2, stream(0, "p"))
    x = normal(5, 6)
    matrix = p.axes.T @ torch.diag(p.weights) @ p.axes / math.sqrt(2)
    torch.testing.assert_close(p(x), ((x @ matrix) * x).sum(1) - matrix.trace())


# --- the lemma --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [8, 32, 512])
def test_the_gap_has_a_closed_form_for_equal_terms(d):
    a2, a3 = 0.7, -0.4
    balanced = stein_gap({1: d // 2, -1: d // 2}, (1.3, a2, a3))
    assert balanced.quadratic == pytest.approx((4 * a2**2 + 24 * a3**2 / d) / d, rel=1e-9)
    assert balanced.lower < 1e-25
    one_sign = stein_gap({1: d}, (1.3, a2, a3))
    assert one_sign.quadratic == pytest.approx((2 * a2 + math.sqrt(24 / d) * a3) ** 2 / d, rel=1e-9)
    assert one_sign.lower == pytest.approx(4 / 3 * a3**2 / d, rel=1e-9)


def test_the_gap_is_what_quadrature_finds():
    """Two terms of unlike weights: every projection as an integral over a grid of Gauss's nodes."""
    nodes, weights = hermite_e.hermegauss(14)
    x = torch.tensor([(a, b) for a in nodes for b in nodes])
    mass = np.outer(weights, weights).ravel() / weights.sum() ** 2
    p = (3 * hermite(x[:, 0], 2) - 2 * hermite(x[:, 1], 2)) / math.sqrt(13)
    h, a1 = link(p, (0.8, 0.5, -0.3)).numpy(), 0.8
    features = quadratic_features(x).numpy()
    seen = features.T @ (mass * h)
    linear = features.T @ (mass * a1 * p.numpy())
    found = stein_gap({3: 1, -2: 1}, (0.8, 0.5, -0.3))
    assert found.lower == pytest.approx(float((seen[:3] ** 2).sum()), rel=1e-9)
    assert found.quadratic == pytest.approx(float(((seen - linear)[3:] ** 2).sum()), rel=1e-9)
    assert found.unprojected == pytest.approx(float(mass @ (h - a1 * p.numpy()) ** 2), rel=1e-9)


def test_a_single_term_does_not_come_closer():
    """C1's control, with its number at two dimensions."""
    assert stein_gap({1: 1, 0: 31}, (2, 1, 1)) == stein_gap({1: 1, 0: 511}, (2, 1, 1))


# --- the stages -------------------------------------------------------------------------------------------


def test_quadratic_features_are_orthonormal_and_span_what_scikit_learns_do():
    x = normal(200_000, 3)
    features = quadratic_features(x)
    torch.testing.assert_close(features.T @ features / len(x), torch.eye(10).double(), rtol=0, atol=0.03)
    theirs = PolynomialFeatures(2).fit_transform(x[:50].numpy())
    both = np.concatenate([theirs, features[:50].numpy()], 1)
    assert np.linalg.matrix_rank(both) == np.linalg.matrix_rank(theirs) == 10


@pytest.mark.parametrize(("n", "m"), [(50, 7), (7, 50), (20, 20)])
def test_ridge_is_scikit_learns_and_where_descent_ends(n, m):
    features, both = normal(n, m), normal(n, 2, seed=1)
    decays, y = [0.3, 2.0], both[:, 1]
    for weights, decay in zip(ridge(features, both, decays)[..., 1], decays, strict=True):
        theirs = Ridge(alpha=decay * n, fit_intercept=False).fit(features.numpy(), y.numpy())
        np.testing.assert_allclose(weights.numpy(), theirs.coef_, atol=1e-10)
        found = torch.zeros(m, dtype=torch.float64)
        for _ in range(1500):
            found = found - 0.05 * (features.T @ (features @ found - y) / n + decay * found)
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-8)


def test_the_decay_is_the_one_that_is_best_on_what_is_held_out_for_each_labelling():
    features, y, held = normal(30, 20), normal(30, 3, seed=1), normal(40, 20, seed=2)
    weights = ridge(features, y, [1e-3, 0.1, 10.0])
    wanted = torch.stack([weights[(1, 0, 2)[i], :, i] for i in range(3)], 1)
    torch.testing.assert_close(first_stage(features, y, held, held @ wanted, [1e-3, 0.1, 10.0]), wanted)


@pytest.mark.parametrize(("d", "k", "m1", "m2"), [(3, 1, 5, 4), (5, 2, 7, 3), (4, 3, 1, 1)])
def test_a_network_is_its_formula(jolted, d, k, m1, m2):
    net = jolted(ThreeLayerNet(d, k, m1, m2, stream(0, "net")))
    x = normal(6, d)
    q = sum(net.u[j] * (x @ net.v[j] + net.s[j]) ** k for j in range(m1)) / math.sqrt(m1)
    q = q / net.scale
    hidden = sum(net.c[j] * (net.a[j] * q + net.b[j]).clamp(min=0) for j in range(m2)) / math.sqrt(m2)
    torch.testing.assert_close(net(x), hidden + net.skip[0] + net.skip[1] * q)
    assert torch.autograd.gradcheck(net, x.requires_grad_())


def test_what_is_frozen_is_no_parameter():
    net = ThreeLayerNet(4, 2, 9, 5, stream(0, "net"))
    assert [name for name, _ in net.named_parameters()] == ["u", "c", "skip"]
    torch.testing.assert_close(net.v.norm(dim=1), torch.ones(9).double())
    assert set(net.a.tolist()) == {-1.0, 1.0}
    assert net.b.abs().max() <= 4


def task(d=8, n=600, coefficients=COEFFICIENTS):
    """A network and (x, first layer, p, h) of two stages and of a test."""
    p = inner("tensors", d, 2, stream(0, "p"))
    net = ThreeLayerNet(d, 2, 2 * d * d, 60, stream(0, "net"))
    parts = []
    for seed, size in enumerate((n, n // 3, 2000)):
        x = normal(size, d, seed=seed)
        parts.append((x, net.first_layer(x), p(x), link(p(x), coefficients)))
    return net, *parts


def test_a_wide_first_stage_is_ridge_regression_on_monomials():
    """Without noise both find h itself, if it has degree two: the same function in other features."""
    _, first, second, test = task(coefficients=(1.0,))
    u = first_stage(first[1], first[3][:, None], second[1], second[3][:, None], [1e-9])[:, 0]
    weights = ridge(quadratic_features(first[0]), first[3][:, None], [1e-9])[0, :, 0]
    torch.testing.assert_close(test[1] @ u, test[2], rtol=0, atol=1e-3)
    torch.testing.assert_close(quadratic_features(test[0]) @ weights, test[2], rtol=0, atol=1e-3)


def test_for_a_linear_p_the_first_stage_is_least_squares():
    x = normal(80, 6)
    y = link(inner("tensors", 6, 1, stream(0, "p"))(x), COEFFICIENTS)
    net = ThreeLayerNet(6, 1, 20, 5, stream(0, "net"))
    features = net.first_layer(x)
    u = first_stage(features, y[:, None], features, y[:, None], [1e-10])[:, 0]
    lines = np.concatenate([np.ones((80, 1)), x.numpy()], 1)
    theirs = lines @ np.linalg.lstsq(lines, y.numpy(), rcond=None)[0]
    np.testing.assert_allclose((features @ u).numpy(), theirs, atol=1e-5)


@torch.no_grad()
def test_the_second_stage_fits_the_link_and_leaves_the_first_alone():
    net, first, _, test = task()
    fit_stage2(net, first[2], first[3], 1e-7)  # p itself in the bottleneck's place
    assert not net.u.any()
    inside = test[2].abs() < 2
    error = (net.outer(test[2]) - test[3])[inside].square().mean() / test[3].var()
    assert float(error) < 0.01


def test_the_moment_matrix_is_a_gradient_and_so_is_one_step():
    x, y = normal(40, 5), normal(40, seed=1)
    weights = torch.zeros(5, 5, dtype=torch.float64, requires_grad=True)
    answer = torch.einsum("ni,ij,nj->n", x, weights, x)
    loss = (answer - (y - y.mean())).square().mean() / 2
    torch.testing.assert_close(moment_matrix(x, y), -torch.autograd.grad(loss, weights)[0])
    products = (x[:, :, None] * x[:, None]).flatten(1)
    torch.testing.assert_close(
        one_step_only(products, y[:, None], None, None, [])[:, 0], moment_matrix(x, y).flatten()
    )


def test_clipping_keeps_what_is_near():
    y = torch.tensor([0.0, 1.0, -1.0, 0.0, 100.0, -100.0], dtype=torch.float64)
    found = clipped(y, 1.0)
    assert torch.equal(found[:4], y[:4])
    assert found.abs().max() == pytest.approx(float(y.std()))
    assert torch.equal(clipped(y, math.inf), y)


# --- kernels ----------------------------------------------------------------------------------------------


def test_the_arc_cosine_kernel_is_the_mean_over_random_networks():
    x = normal(4, 6)
    first = normal(6, 3000, seed=1)
    hidden = (x @ first).relu() * math.sqrt(2 / 3000)
    second = (hidden @ normal(3000, 3000, seed=2)).relu() * math.sqrt(2 / 3000)
    torch.testing.assert_close(arccos_kernel(x, x), second @ second.T / 6, rtol=0.1, atol=0.1)
    torch.testing.assert_close(arccos_kernel(x, x).diagonal(), x.square().mean(1), rtol=1e-6, atol=0)


def test_the_polynomial_kernel_is_scikit_learns():
    x, y = normal(5, 4), normal(3, 4, seed=1)
    theirs = KernelRidge(kernel="polynomial", degree=6, gamma=1 / 4, coef0=1)._get_kernel(
        x.numpy(), y.numpy()
    )
    np.testing.assert_allclose(polynomial_kernel(x, y, 6).numpy(), theirs, rtol=1e-12)


def test_kernel_ridge_is_scikit_learns_with_the_better_decay():
    x, fresh = normal(60, 4), normal(20, 4, seed=1)
    y = link(inner("dense", 4, 2, stream(0, "p"))(x), COEFFICIENTS)
    y = y - y.mean()
    gram = polynomial_kernel(x, x, 2)
    unit, errors, answers = float(gram.diagonal().mean()), [], []
    for decay in (1e-3, 10.0):
        model = KernelRidge(alpha=decay * unit, kernel="precomputed")
        seen = model.fit(gram[:45, :45].numpy(), y[:45].numpy()).predict(gram[45:, :45].numpy())
        errors.append(np.mean((seen - y[45:].numpy()) ** 2))
        model.fit(gram.numpy(), y.numpy())
        answers.append(model.predict(polynomial_kernel(fresh, x, 2).numpy()))
    ours = polynomial_kernel(fresh, x, 2) @ kernel_ridge(gram, y, 45, [1e-3, 10.0])
    np.testing.assert_allclose(ours.numpy(), answers[int(np.argmin(errors))], atol=1e-8)


def test_measures_are_numpys():
    a, b = normal(50), normal(50, seed=1)
    assert squared_correlation(a, b) == pytest.approx(np.corrcoef(a.numpy(), b.numpy())[0, 1] ** 2)
    assert relative_error(a, b) == pytest.approx(((a - b).numpy() ** 2).mean() / b.numpy().var(ddof=1))
    assert squared_correlation(a, 3 - 2 * a) == pytest.approx(1)


# --- the claims, smaller ----------------------------------------------------------------------------------


def test_the_first_stage_finds_p_and_its_controls_do_not():
    """C2 and C4 in 16 dimensions, mean of four draws: in the order of the page's arms."""
    found = {"end": [], "moments": [], "clipped moments": [], "one step": [], "line": [], "no slope": []}
    for seed in range(4):
        p = inner("tensors", 16, 2, stream(seed, "p"))
        x, held, fresh = (normal(n, 16, seed=10 * seed + i) for i, n in enumerate((3000, 1000, 2000)))
        labels, kept = (
            torch.stack([link(p(z), COEFFICIENTS), link(p(z), (0, 0.6, 0.6))], 1) for z in (x, held)
        )
        for degree in (1, 2):
            net = ThreeLayerNet(16, degree, 230, 5, stream(seed, "net"))
            layer = net.first_layer(fresh)
            u = first_stage(net.first_layer(x), labels, net.first_layer(held), kept, [1e-5, 1e-3, 1e-1])
            for name, weights in {1: {"line": u[:, 0]}, 2: {"end": u[:, 0], "no slope": u[:, 1]}}[
                degree
            ].items():
                found[name].append(squared_correlation(layer @ weights, p(fresh)))
        step = layer @ one_step_only(net.first_layer(x), labels, None, None, [])[:, 0]
        found["one step"].append(squared_correlation(step, p(fresh)))
        for name, y in (("moments", labels[:, 0]), ("clipped moments", clipped(labels[:, 0], 1.0))):
            quadratic = ((fresh @ moment_matrix(x, y)) * fresh).sum(1)
            found[name].append(squared_correlation(quadratic, p(fresh)))
    mean = {name: np.mean(values) for name, values in found.items()}
    assert mean["end"] > mean["moments"] + 0.05
    assert mean["clipped moments"] > mean["moments"] + 0.05
    assert mean["one step"] < 0.4
    assert mean["line"] < 0.1
    assert mean["no slope"] < 0.3


def test_two_stages_are_the_same_twice_and_the_second_one_pays():
    @torch.no_grad()
    def errors():
        net, first, second, test = task(n=3000)
        net.u.copy_(
            first_stage(first[1], first[3][:, None], second[1], second[3][:, None], [1e-5, 1e-3])[:, 0]
        )
        fit_stage2(net, second[1] @ net.u, second[3], 1e-3)
        answers = net(test[0]), test[1] @ net.u
        return [relative_error(answer, test[3]) for answer in answers]

    both, alone = errors()
    assert [both, alone] == errors()
    assert both < alone - 0.1


# --- the mechanism without its heart ----------------------------------------------------------------------


def slope_forgotten(coefficients):
    """The mean slope of the link is taken for 1, so that p itself is expected."""
    return 1.0


def one_step_only(features, y, held, y_held, decays):
    """The first stage stops after one gradient step, centred as well as can be."""
    return (features - features.mean(0)).T @ (y - y.mean(0)) / len(y)


@torch.no_grad()
def line_only(net, q, y, decay):
    """The second stage is a line in what the first stage returns."""
    net.scale.copy_(q.std())
    line = torch.stack([torch.ones_like(q), q / net.scale], 1)
    net.skip.copy_(ridge(line, y[:, None], [decay])[0, :, 0])


MUTATIONS = [("mean_slope", slope_forgotten), ("first_stage", one_step_only), ("fit_stage2", line_only)]


# --- bad input --------------------------------------------------------------------------------------------

X, Y, G = normal(6, 4), normal(6), torch.Generator()
REFUSED = [
    (lambda: hermite(Y, -1), "degree must be >= 0, got -1"),
    (lambda: inner("sparse", 4, 2, G), "kind must be one of 'tensors', 'parities', 'dense', got 'sparse'"),
    (lambda: inner("tensors", 4, 4, G), r"k must be in 1\.\.3, got 4"),
    (lambda: inner("tensors", 5, 2, G), "pairs must be >= 1 and divide the dimension d = 5, got 2"),
    (lambda: inner("parities", 8, 3, G), "block must be >= 1 and divide the dimension d = 8, got 3"),
    (lambda: inner("dense", 4, 3, G), "k must be 2 for a dense matrix, got 3"),
    (lambda: ThreeLayerNet(4, 0, 3, 3, G), r"k must be in 1\.\.3, got 0"),
    (lambda: ThreeLayerNet(4, 2, 0, 3, G), "m1 must be >= 1, got 0"),
    (lambda: ridge(X, X, [0.0]), r"decay must be finite and > 0, got 0\.0"),
    (lambda: ridge(X, X, [math.nan]), "decay must be finite and > 0, got nan"),
    (lambda: clipped(Y, 0.0), r"level must be > 0, got 0\.0"),
    (lambda: clipped(Y, math.nan), "level must be > 0, got nan"),
    (lambda: polynomial_kernel(X, X, 0), "degree must be >= 1, got 0"),
    (lambda: kernel_ridge(X @ X.T, Y, 6, [1.0]), r"early must be in 1\.\.5, got 6"),
    (lambda: kernel_ridge(X @ X.T, Y, 3, [-1.0]), r"decay must be finite and > 0, got -1\.0"),
    (lambda: stein_gap({1: 0}, (1.0,)), r"weights\[1\] must be >= 1, got 0"),
    (lambda: stein_gap({0: 3}, (1.0,)), r"weights must not all be 0, got \{0: 3\}"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
