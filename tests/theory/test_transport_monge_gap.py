"""The Monge gap: POT's solvers, closed forms for Gaussians and books, scikit-learn's toys, gradients."""

import math
from itertools import combinations

import numpy as np
import ot
import pytest
import torch
from sklearn.datasets import make_moons, make_s_curve
from torch.func import jacrev, vmap

from fourfold.theory.transport_monge_gap import (
    ICNN,
    MapMLP,
    asymmetry,
    convex_gradient,
    cost_matrix,
    crossings,
    displacement,
    entropic_cost,
    entropic_excess,
    entropic_map,
    exact_gaps,
    exact_monge_gap,
    gaussian_map,
    l2_uvp,
    map_of,
    monge_gap,
    moon,
    objective,
    rings,
    rotation,
    s_curve,
    shelf,
    sinkhorn_divergence,
    sinkhorn_potentials,
)
from fourfold.training import seeded, stream

from ..draws import normal

# --- transport between samples ----------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "metric"), [(2.0, "sqeuclidean"), (1.0, "euclidean")])
@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 3), (1, 4, 1)])
def test_costs_are_pots(n, m, d, p, metric):
    x, y = normal(n, d), normal(m, d, seed=1)
    np.testing.assert_allclose(cost_matrix(x, y, p), ot.dist(x.numpy(), y.numpy(), metric), atol=1e-12)
    np.testing.assert_allclose(cost_matrix(x, y, p + 1), cost_matrix(x, y, 1.0) ** (p + 1), atol=1e-12)


def pots_plan(cost, eps):
    weights = [np.full(n, 1 / n) for n in cost.shape]
    return ot.sinkhorn(*weights, cost, eps, method="sinkhorn_log", stopThr=1e-10, numItermax=4000)


def pots(cost, eps):
    """POT's entropic cost with Shannon's entropy, from its plan."""
    plan = pots_plan(cost, eps)
    return float((plan * cost).sum() + eps * (plan * np.log(plan)).sum())


@pytest.mark.parametrize(("n", "m", "eps", "p"), [(20, 20, 0.5, 2.0), (9, 14, 0.3, 1.0), (12, 12, 0.3, 2.0)])
def test_entropic_costs_are_pots(n, m, eps, p):
    cost = cost_matrix(normal(n, 2), normal(m, 2, seed=1), p)
    assert float(entropic_cost(cost, eps, 1000)) == pytest.approx(pots(cost.numpy(), eps), rel=1e-6)


MAPS = {
    "identity": lambda x: x,
    "positive": lambda x: x @ torch.tensor([[1.2, 0.3], [0.3, 0.6]], dtype=torch.float64),
    "turned": lambda x: x @ rotation(60).T,
    "negated": lambda x: -x,
}


@pytest.mark.parametrize("name", MAPS)
def test_gaps_are_pots(name):
    x = normal(24, 2)
    mapped = MAPS[name](x)
    moved = (x - mapped).square().sum(1).mean()
    uniform = np.full(24, 1 / 24)
    cost = ot.dist(x.numpy(), mapped.numpy())
    assert exact_monge_gap(x, mapped) == pytest.approx(
        float(moved) - ot.emd2(uniform, uniform, cost), abs=1e-12
    )
    ours = float(monge_gap(x, mapped, 0.2, 1000))
    assert ours == pytest.approx(float(moved) - pots(cost, 0.2 * cost.mean()), rel=1e-4)


@pytest.mark.parametrize("n", [1, 9, 30])
def test_potentials_make_a_plan_and_may_start_where_others_ended(n):
    cost = cost_matrix(normal(n, 3), normal(n, 3, seed=1))
    f, g = sinkhorn_potentials(cost, 1.0, 500)
    plan = ((f[:, None] + g - cost) / 1.0).exp() / n**2
    torch.testing.assert_close(plan.sum(0), torch.full((n,), 1 / n).double())
    torch.testing.assert_close(plan.sum(1), torch.full((n,), 1 / n).double())
    again, _ = sinkhorn_potentials(cost, 1.0, 1, g)
    torch.testing.assert_close(again, f)


def test_several_matrices_at_once_are_each_alone():
    x, y = normal(3, 8, 2), normal(3, 8, 2, seed=1)
    for several in (monge_gap, sinkhorn_divergence):
        alone = torch.stack([several(a, b, 0.1, 50) for a, b in zip(x, y, strict=True)])
        torch.testing.assert_close(several(x, y, 0.1, 50), alone)
    eps = torch.tensor([0.1, 0.3, 1.0], dtype=torch.float64)
    alone = torch.stack(
        [entropic_cost(cost_matrix(a, b), float(e), 50) for a, b, e in zip(x, y, eps, strict=True)]
    )
    torch.testing.assert_close(entropic_cost(cost_matrix(x, y), eps, 50), alone)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_gradients_are_right_by_the_envelope_theorem(p):
    x, mapped = normal(4, 2), normal(4, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda at: entropic_cost(cost_matrix(x, at, p), 1.0, 200), mapped, atol=1e-5
    )
    assert torch.autograd.gradcheck(lambda at: sinkhorn_divergence(at, x, 0.3, 400), mapped, atol=1e-5)


def test_the_gap_holds_its_entropy_fixed_in_its_gradient():
    x, mapped = normal(6, 2), normal(6, 2, seed=1).requires_grad_()
    cost = cost_matrix(x, mapped)
    by_hand = cost.diagonal().mean() - entropic_cost(cost, 0.1 * float(cost.detach().mean()), 50)
    expected = torch.autograd.grad(by_hand, mapped)
    torch.testing.assert_close(torch.autograd.grad(monge_gap(x, mapped, 0.1, 50), mapped), expected)


def test_a_distance_of_zero_has_a_gradient():
    x = normal(4, 2).requires_grad_()
    cost_matrix(x, x.detach(), 1.0).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_the_divergence_is_pots_and_zero_at_itself():
    x, y = normal(15, 2), normal(15, 2, seed=1) + 1
    assert float(sinkhorn_divergence(x, x, 0.2, 500)) == pytest.approx(0, abs=1e-9)
    eps = 0.2 * float(cost_matrix(y, y).mean())
    costs = [pots(cost_matrix(a, b).numpy(), eps) for a, b in ((x, y), (x, x), (y, y))]
    assert float(sinkhorn_divergence(x, y, 0.2, 1000)) == pytest.approx(
        costs[0] - (costs[1] + costs[2]) / 2, rel=1e-6
    )


# --- the gap ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradients_of_convex_functions_have_no_gap_and_turned_ones_have(seed):
    x, best = normal(50, 2), convex_gradient(2, stream(seed, "map"))
    assert exact_monge_gap(x, best(x)) == pytest.approx(0, abs=1e-12)
    gaps = [exact_monge_gap(x, best(x) @ rotation(angle).T) for angle in (60, 120, 180)]
    assert 0.5 < gaps[0] < gaps[1] < gaps[2]


def test_a_turned_gaussian_map_has_its_closed_form():
    """For N(0, 1) and A positive the gap of R A is 2 tr(A) (1 - cos), up to what sampling leaves."""
    x, a = normal(600, 2), torch.tensor([[1.2, 0.3], [0.3, 0.6]], dtype=torch.float64)
    assert exact_monge_gap(x, x @ a @ rotation(60).T) == pytest.approx(2 * 1.8 * 0.5, rel=0.15)


@pytest.mark.parametrize("eps", [0.3, 0.03])
@pytest.mark.parametrize("name", MAPS)
def test_the_entropic_gap_is_above_the_exact_one_by_one_to_two_eps_log_n(name, eps):
    x = normal(30, 2)
    mapped = MAPS[name](x)
    unit = eps * math.log(30) * float(cost_matrix(x, mapped).mean())
    excess = float(monge_gap(x, mapped, eps, 500)) - exact_monge_gap(x, mapped)
    assert 1 - 1e-9 <= excess / unit <= 2
    # With the divergence from the product of the marginals, 2 eps log n less, it falls below.
    assert excess - 2 * unit < 0


def test_for_the_squared_distance_the_gap_is_convex_homogeneous_and_blind_to_constants():
    x, one, two = (normal(40, 2, seed=i) for i in range(3))
    gaps = [exact_monge_gap(x, image) for image in (one, two)]
    for t in (0.0, 0.2, 0.5, 0.9):
        assert exact_monge_gap(x, (1 - t) * one + t * two) <= (1 - t) * gaps[0] + t * gaps[1] + 1e-12
    assert exact_monge_gap(x, 3 * one) == pytest.approx(3 * gaps[0])
    assert exact_monge_gap(x, one + 5) == pytest.approx(gaps[0])
    # For the distance it is not homogeneous.
    assert abs(exact_monge_gap(x, 3 * one, 1.0) - 3 * exact_monge_gap(x, one, 1.0)) > 0.1


def test_rings_look_the_same_from_all_sides():
    points = rings(3, 5)
    turned = points @ rotation(72).T
    assert points.shape == (15, 2)
    assert torch.cdist(turned, points).min(1).values.max() < 1e-12
    assert float(rings(2000, 1).square().sum(1).mean()) == pytest.approx(2, rel=0.01)


def test_the_excess_is_that_of_gaps_computed_one_by_one_and_plans_stray_less_with_more_iterations():
    x, epsilons = normal(12, 2), [1.0, 0.3]
    images = torch.stack([MAPS[name](x) for name in ("positive", "turned")])
    excess, strayed = entropic_excess(x, images, epsilons, 400)
    assert excess.shape == strayed.shape == (2, 2)
    assert exact_gaps(x.expand_as(images), images) == [exact_monge_gap(x, image) for image in images]
    for found, image in zip(excess, images, strict=True):
        relative = [e / float(cost_matrix(x, image).mean()) for e in epsilons]
        gaps = [float(monge_gap(x, image, e, 400)) - exact_monge_gap(x, image) for e in relative]
        assert found.tolist() == pytest.approx(gaps, rel=1e-6)
    assert strayed.max() < 1e-4 < entropic_excess(x, images, epsilons, 2)[1].max()


def test_the_objective_is_misfit_and_penalty_each_on_its_own_points():
    source, reference, y = (normal(9, 2, seed=i) for i in range(3))
    outputs = torch.stack([torch.cat([x, MAPS["turned"](x)], -1) for x in (source, reference)], 1)

    def misfit(mapped, targets):
        return (mapped.mean(0) - targets.mean(0)).square().sum()

    plain = misfit(MAPS["turned"](source), y)
    assert objective(outputs, y, misfit) == plain
    moved = displacement(reference, MAPS["turned"](reference))
    assert objective(outputs, y, misfit, displacement) == plain + moved
    torch.testing.assert_close(moved, (reference - MAPS["turned"](reference)).square().sum(1).mean())


def test_asymmetry_is_zero_for_gradients_and_one_for_a_quarter_turn():
    x, best = normal(7, 2), convex_gradient(2, stream(0, "map"))
    assert float(asymmetry(best, x)) == pytest.approx(0, abs=1e-12)
    assert float(asymmetry(lambda at: at @ rotation(90).T, x)) == pytest.approx(1)
    assert float(asymmetry(lambda at: at @ rotation(60).T, x)) == pytest.approx(math.sin(math.radians(60)))


def test_books_on_a_shelf():
    """Move the first of ten books behind the last, or all of them by one place: Villani's example."""
    x = torch.arange(10.0, dtype=torch.float64)[:, None]
    jump = torch.cat([x[-1:] + 1, x[1:]])
    assert [exact_monge_gap(x, jump, p) for p in (1.0, 2.0)] == [0, 9]
    assert [exact_monge_gap(x, x + 1, p) for p in (1.0, 2.0)] == [0, 0]
    assert exact_monge_gap(x, x + 1, 0.5) == pytest.approx(1 - math.sqrt(10) / 10)
    drawn = {way: shelf(6, way, stream(0, "shelf")) for way in ("push", "jump")}
    (books, pushed), (same, jumped) = drawn.values()
    assert torch.equal(books, same)
    assert torch.equal(pushed[:-1], books[1:])
    assert torch.equal(jumped[1:], books[1:])
    assert float(jumped[0]) == float(pushed[-1]) > float(books[-1])
    assert [len(part) for part in shelf(1, "jump", stream(0, "shelf"))] == [1, 1]


# --- networks and maps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "skip"), [(1, 0.0), (2, 1.0), (3, -1.0)])
def test_a_plain_network_shows_its_input_first(jolted, d, skip):
    net, x = jolted(MapMLP, d, 7, 2, skip), normal(5, 2, d)
    shown, mapped = net(x).chunk(2, -1)
    assert torch.equal(shown, x)
    assert torch.equal(map_of(net)(x), mapped)
    torch.testing.assert_close(mapped, skip * x + net.net(x))
    assert sum(p.numel() for p in MapMLP(2).parameters()) == 2 * 64 + 64 + 2 * (64 * 64 + 64) + 64 * 2 + 2


@pytest.mark.parametrize(("d", "layers"), [(1, 1), (2, 3), (3, 2)])
def test_an_icnn_is_the_gradient_of_a_convex_function(jolted, d, layers):
    net, x = jolted(ICNN, d, 6, layers), normal(40, d)
    shown, mapped = net(x).chunk(2, -1)
    assert torch.equal(shown, x)
    torch.testing.assert_close(mapped, vmap(jacrev(net.potential))(x))
    assert torch.linalg.eigvalsh(vmap(jacrev(jacrev(net.potential)))(x)).min() >= 1 - 1e-9
    assert exact_monge_gap(x, mapped) == pytest.approx(0, abs=1e-12)


def test_an_icnn_learns_through_its_gradient():
    with seeded(0):
        net = ICNN(2, 4, 2).double()
    net(normal(3, 2))[..., 2:].square().sum().backward()
    unseen = [name for name, p in net.named_parameters() if p.grad is None]
    assert unseen == ["affine.2.bias"]  # adds a constant to the potential
    assert net.raw[0].grad.abs().max() > 0


@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_known_map_is_the_gradient_of_a_convex_function(d):
    known = convex_gradient(d, stream(0, "map"), 0.1, 0.4, 3.0)
    jacobians = vmap(jacrev(known))(normal(20, d))
    torch.testing.assert_close(jacobians, jacobians.mT)
    assert torch.linalg.eigvalsh(jacobians).min() >= 0.1 - 1e-12
    assert torch.equal(known(normal(3, d)), convex_gradient(d, stream(0, "map"), 0.1, 0.4, 3.0)(normal(3, d)))
    assert not torch.equal(known.v, convex_gradient(d, stream(1, "map")).v)


@pytest.mark.parametrize(
    ("ours", "theirs", "degrees", "scale", "mean"),
    [
        (moon, make_moons((4000, 0))[0], 30, 1.0, (0.0, -0.5)),
        (s_curve, make_s_curve(4000, random_state=0)[0][:, [2, 0]], 90, 0.6, (1.0, -2.0)),
    ],
)
def test_toys_are_scikit_learns(ours, theirs, degrees, scale, mean):
    placed = scale * theirs @ rotation(degrees).numpy().T + np.array(mean)
    drawn = ours(500, stream(0, "toy")).double().numpy()
    # Every point of ours has one of theirs within the noise, and the other way round.
    distances = ot.dist(drawn, placed, "euclidean")
    assert np.sqrt((distances.min(1) ** 2).mean()) == pytest.approx(0.05 * scale, rel=0.15)
    assert distances.min(0).max() < 0.15


def test_the_gaussian_map_is_pots_and_exact_for_linear_maps():
    x = normal(300, 3)
    a = torch.tensor([[2, 0.3, 0], [0.3, 1, 0.2], [0, 0.2, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(gaussian_map(x, x @ a + 1)(x), x @ a + 1)
    y = normal(200, 3, seed=1) ** 3
    theirs, shift = ot.gaussian.empirical_bures_wasserstein_mapping(x.numpy(), y.numpy(), reg=0)
    np.testing.assert_allclose(gaussian_map(x, y)(x), x.numpy() @ theirs + shift, atol=0.02)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_entropic_map_is_the_mean_under_pots_plan(p):
    x, y = normal(25, 2), normal(35, 2, seed=1) + 2
    cost = cost_matrix(x, y, p).numpy()
    plan = pots_plan(cost, 0.1 * cost.mean())
    found = entropic_map(x, y, 0.1, 800, p)(x)
    np.testing.assert_allclose(found, 25 * plan @ y.numpy(), atol=1e-6)


def test_the_entropic_map_has_no_gap_for_the_squared_distance():
    x, y = normal(60, 2), normal(60, 2, seed=1) + 2
    at = normal(80, 2, seed=2)
    assert exact_monge_gap(at, entropic_map(x, y, 0.02, 50)(at)) == pytest.approx(0, abs=1e-12)


def test_scores():
    truth = normal(500, 2)
    assert float(l2_uvp(truth, truth)) == 0
    assert float(l2_uvp(truth.mean(0).expand(500, 2), truth)) == pytest.approx(100)
    x, mapped = normal(30, 2), normal(30, 2, seed=1)

    def cross(i, j):
        def left(a, b, c):
            return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])) > 0

        a, b, c, d = x[i], mapped[i], x[j], mapped[j]
        return left(a, b, c) != left(a, b, d) and left(c, d, a) != left(c, d, b)

    assert crossings(x, mapped) == sum(cross(i, j) for i, j in combinations(range(30), 2)) > 0


# --- the mechanism without its heart ----------------------------------------------------------------------


def own_pairs(x, mapped, p=2.0):
    """The exact gap compares the map's cost with itself, not with the best assignment."""
    return 0.0 * exact_monge_gap(x, mapped, p)


def without_entropy(cost, eps, n_iter, g=None):
    """The entropic cost leaves out the entropy: the cost of the entropic plan alone."""
    f, g = sinkhorn_potentials(cost, eps, n_iter, g)
    scale = torch.as_tensor(eps, dtype=cost.dtype)[..., None, None]
    plan = ((f.unsqueeze(-1) + g.unsqueeze(-2) - cost) / scale).exp() / cost.shape[-1] ** 2
    return (plan * cost).sum((-2, -1))


def squared_for_all(x, y, p=2.0):
    """Every cost is the squared distance."""
    return cost_matrix(x, y)


def no_gap(x, mapped, eps, n_iter, p=2.0):
    """The penalty is zero for every map."""
    return 0.0 * mapped.sum((-2, -1))


def gap_of_the_square(x, mapped, eps, n_iter, p=2.0):
    """The penalty is that of the squared distance, whatever the cost."""
    return monge_gap(x, mapped, eps, n_iter)


MUTATIONS = [
    ("exact_monge_gap", own_pairs),
    ("entropic_cost", without_entropy),
    ("cost_matrix", squared_for_all),
    ("monge_gap", no_gap),
    ("monge_gap", gap_of_the_square),
]


# --- bad input --------------------------------------------------------------------------------------------

X, COST = torch.ones(3, 2), torch.ones(3, 3)
G = torch.Generator()
REFUSED = [
    (lambda: cost_matrix(X, X, 0.0), "p must be finite and > 0, got 0"),
    (lambda: cost_matrix(X, torch.ones(3, 4)), "y must have x's dimension 2, got 4"),
    (lambda: sinkhorn_potentials(COST, 0.1, 0), "n_iter must be >= 1, got 0"),
    (lambda: sinkhorn_potentials(COST, 0.0, 1), "eps must be finite and > 0, got 0"),
    (lambda: entropic_cost(COST, math.nan, 1), "eps must be finite and > 0, got nan"),
    (lambda: sinkhorn_divergence(X, X[:2], 0.1, 1), r"x's shape \(3, 2\), got \(2, 2\)"),
    (lambda: exact_monge_gap(X, X[:2]), r"x's shape \(3, 2\), got \(2, 2\)"),
    (lambda: MapMLP(0), "d must be >= 1, got 0"),
    (lambda: MapMLP(2, 0), "hidden must be >= 1, got 0"),
    (lambda: ICNN(2, layers=0), "layers must be >= 1, got 0"),
    (lambda: convex_gradient(0, G), "d must be >= 1, got 0"),
    (lambda: convex_gradient(2, G, smallest=-1.0), r"smallest must be finite and >= 0, got -1\.0"),
    (lambda: rings(3, 0), "turns must be >= 1, got 0"),
    (lambda: shelf(0, "push", G), "books must be >= 1, got 0"),
    (lambda: shelf(3, "pull", G), "way must be one of 'push', 'jump', got 'pull'"),
    (lambda: monge_gap(X, X, 0.0, 1), "eps must be finite and > 0, got 0"),
    (lambda: gaussian_map(X[:2], X), "x must have > d = 2 points, got 2"),
    (lambda: entropic_map(X, X, -1.0, 1), r"eps must be finite and > 0, got -1\.0"),
    (lambda: l2_uvp(X, X[:2]), r"truth's shape \(2, 2\), got \(3, 2\)"),
    (lambda: crossings(COST, COST), r"must be \(n, 2\), got \(3, 3\) and \(3, 3\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
