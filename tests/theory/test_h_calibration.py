"""h-calibration: numbers of the authors' code, scikit-learn's clusters, closed forms by simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from sklearn.cluster import KMeans
from torch.nn.functional import nll_loss

from fourfold.calibration import draw_labels, fit, sharpened
from fourfold.theory import h_calibration as paper
from fourfold.theory.h_calibration import (
    Ensemble,
    PiecewiseLinear,
    cyclic,
    draw_dirichlet,
    h_loss,
    kmeans_1d,
    left_out_bias,
    moving_average,
    noise_floor,
    over_floor,
    profile,
    sorted_events,
)
from fourfold.training import stream

from ..draws import normal

ALIKE = torch.ones(3, dtype=torch.long)
UNLIKE = torch.tensor([2, 1, 1])


def calibrated(n, alpha=ALIKE, seed=0):
    probs = draw_dirichlet(n, alpha, stream(seed, "probs"))
    return probs, draw_labels(probs, stream(seed, "labels"))


def known(n, classes):
    """Predictions and labels that any code can make again."""
    i = torch.arange(n * classes, dtype=torch.float64).reshape(n, classes)
    return torch.softmax(3 * torch.sin(1 + i**1.5), 1), (torch.arange(n) * 7 % 5) % classes


# --- the loss ---------------------------------------------------------------------------------------------

# Computed by the authors' hcalibration at these predictions, weighting "unweighted", without its factor 1e5:
# rows, classes, leave one out, {window: loss}.
AUTHORS = [
    (60, 3, True, {2: 0.307490736246109, 20: 0.2246214598417282}),
    (60, 3, False, {2: 0.312200665473938, 20: 0.23616671562194824}),
    (41, 4, True, {2: 0.2656651735305786, 20: 0.19067257642745972}),
    (41, 4, False, {2: 0.26512017846107483, 20: 0.2005634754896164}),
]


@pytest.mark.parametrize(("n", "classes", "leave", "values"), AUTHORS)
def test_the_loss_in_one_cluster_is_the_authors(n, classes, leave, values):
    probs, labels = known(n, classes)
    for window, value in values.items():
        ours = h_loss(probs, labels, window, clusters=1, leave_one_out=leave)
        assert float(ours) == pytest.approx(value, abs=2e-7)


@pytest.mark.parametrize(("n", "window"), [(1, 0), (7, 0), (7, 2), (7, 6), (40, 8), (41, 40)])
def test_the_moving_average_is_numpys_convolution(n, window):
    values = normal(n)
    theirs = np.convolve(values.numpy(), np.ones(window + 1) / (window + 1), "full")
    np.testing.assert_allclose(
        moving_average(values, window), theirs[window // 2 : window // 2 + n], atol=1e-12
    )


@pytest.mark.parametrize("k", [1, 2, 15])
def test_clusters_are_as_tight_as_scikit_learns(k):
    for values in (
        normal(1500),
        torch.softmax(4 * normal(1000, 10), 1).flatten(),
        torch.softmax(1.5 * normal(1000, 10), 1).flatten(),
        draw_dirichlet(2000, ALIKE, stream(0, "even")).flatten(),
    ):
        values = values.sort().values
        theirs = KMeans(k, n_init=3, random_state=0).fit(values[:, None].numpy()).inertia_
        of = kmeans_1d(values, k)
        ours = sum(float((values[of == j] - values[of == j].mean()).square().sum()) for j in range(k))
        assert (of.diff() >= 0).all()
        assert ours < 1.01 * theirs


def test_clusters_of_equal_numbers_are_one_and_no_more_than_numbers():
    assert torch.equal(kmeans_1d(torch.full((5,), 0.3), 4), torch.zeros(5, dtype=torch.long))
    assert kmeans_1d(torch.tensor([0.1, 0.2, 0.9]), 15).tolist() == [0, 1, 2]


def test_a_cluster_counts_once_however_many_events_it_has():
    """The loss by hand: NumPy sorts each subset again; scikit-learn's clusters start where ours end."""
    probs, labels = known(90, 3)
    q = probs.flatten().sort().values
    start = torch.stack([q[kmeans_1d(q, 4) == j].mean() for j in range(4)])
    theirs = KMeans(4, init=start[:, None].numpy(), n_init=1).fit(q[:, None].numpy())
    by_hand = []
    for left_out in range(3):
        kept = labels != left_out
        q, hit = probs[kept].flatten().numpy(), torch.eye(3)[labels[kept]].flatten().numpy()
        order = np.argsort(q)
        error = np.abs(np.convolve((q - hit)[order], np.ones(11) / 11, "same"))
        of = theirs.predict(q[order][:, None])
        by_hand.append(np.mean([error[of == j].mean() for j in range(4)]))
    assert float(h_loss(probs, labels, 10, 4)) == pytest.approx(np.mean(by_hand), abs=1e-12)


def test_events_are_sorted_with_their_outcomes_and_labels():
    probs, labels = known(31, 4)
    q, outcome, label = sorted_events(probs, labels)
    assert torch.equal(q, probs.flatten().sort().values)
    for k in range(4):
        assert outcome[label == k].sum() == (labels == k).sum()
        assert torch.equal(q[(label == k) & (outcome == 1)], probs[labels == k, k].sort().values)


def test_a_cluster_that_a_subset_lacks_is_left_out_of_its_mean():
    probs = torch.tensor([[0.9, 0.1], [0.88, 0.12], [0.45, 0.55], [0.45, 0.55]], dtype=torch.float64)
    found = h_loss(probs, torch.tensor([0, 0, 1, 1]), 0, 3)
    without_first, without_second = (0.45 + 0.45) / 2, (0.1 + 0.12 + 0.1 + 0.12) / 4
    assert float(found) == pytest.approx((without_first + without_second) / 2)


def test_gradients_are_right():
    probs, labels = known(9, 3)
    logits = probs.log().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: h_loss(z.softmax(1), labels, 4, 3), logits)
    for mapping in (PiecewiseLinear(20), PiecewiseLinear(20, "value"), Ensemble(3, stream(0, "start"))):
        assert torch.autograd.gradcheck(lambda z, mapping=mapping: mapping(z), logits)


def test_the_loss_does_not_depend_on_the_order_of_rows_or_classes():
    probs, labels = known(50, 3)
    rows, classes = torch.randperm(50, generator=stream(0, "rows")), torch.tensor([2, 0, 1])
    moved = h_loss(probs[rows][:, classes], classes.argsort()[labels[rows]], 10)
    assert float(moved) == pytest.approx(float(h_loss(probs, labels, 10)), abs=1e-12)


# --- noise, and what the loss does not see ----------------------------------------------------------------


def test_the_noise_floor_is_that_of_drawn_labels():
    """Many draws, classes alike; without leaving out for unlike ones, too."""
    for alpha, leave in ((ALIKE, True), (UNLIKE, False)):
        probs, _ = calibrated(3000, alpha)
        draws = [draw_labels(probs, stream(i, "draw")) for i in range(20)]
        ratios = [over_floor(probs, y, window=50, leave_one_out=leave) for y in draws]
        assert np.mean(ratios) == pytest.approx(1, abs=0.05)


def test_the_loss_of_calibrated_predictions_falls_as_noise_and_that_of_others_stays():
    probs, labels = calibrated(8000)
    sure = sharpened(probs, 2)
    small, large = (float(h_loss(probs, labels, window) / h_loss(probs, labels, 50)) for window in (200, 800))
    assert small == pytest.approx(math.sqrt(51 / 201), rel=0.15)
    assert large == pytest.approx(math.sqrt(51 / 801), rel=0.3)
    assert float(h_loss(sure, labels, 800) / h_loss(sure, labels, 50)) > 0.85


@pytest.mark.parametrize("classes", [3, 5])
def test_a_cyclic_truth_is_calibrated_for_each_class_and_pooled_but_not_together(classes):
    """Exact expectations of the truth in place of outcomes; every average must be that of the prediction."""
    probs = draw_dirichlet(200_000, torch.ones(classes, dtype=torch.long), stream(1, "probs"))
    truth = cyclic(probs)
    torch.testing.assert_close(truth.sum(1), torch.ones(len(truth), dtype=torch.float64))
    assert truth.min() >= 0
    for k in range(classes):
        order = probs[:, k].argsort()
        gap = (truth - probs)[order, k].unflatten(0, (20, -1)).mean(1)
        assert gap.abs().max() < 5e-3
    stays = 1 - truth  # the probability that a row is in the subset without each class
    events = probs.flatten().argsort()
    for c in range(classes):
        gap = probs * stays[:, [c]] - truth
        gap[:, c] = probs[:, c] * stays[:, c]
        assert gap.flatten()[events].unflatten(0, (20, -1)).mean(1).abs().max() < 5e-3
    assert torch.equal(cyclic(probs, 0), probs)
    if classes == 3:
        assert float((truth - probs).abs().sum(1).mean()) == pytest.approx(1 / 4, abs=1e-3)
        assert float((truth.argmax(1) != probs.argmax(1)).double().mean()) == pytest.approx(0.2, abs=0.01)


def test_the_loss_tells_too_sure_predictions_and_not_a_cyclic_truth():
    """H2 and its conditions with fewer rows."""
    probs, labels = calibrated(6000)
    turned = draw_labels(cyclic(probs), stream(0, "turned"))
    base = float(h_loss(probs, labels))
    assert float(h_loss(probs, turned)) < 1.3 * base
    assert float(h_loss(sharpened(probs, 1.84), labels)) > 2 * base


@pytest.mark.parametrize("alpha", [[2, 1, 1], [1, 3, 2], [1, 1, 1, 4]])
def test_what_leaving_out_a_class_does_is_the_closed_form(alpha):
    """Against averages of 300 000 rows, the labels' probabilities in place of labels."""
    alpha = torch.tensor(alpha)
    probs = draw_dirichlet(300_000, alpha, stream(2, "probs"))
    for c in range(len(alpha)):
        stays = (1 - probs[:, [c]]).expand_as(probs)
        gap = probs * stays - probs
        gap[:, c] = probs[:, c] * stays[:, c]
        order = probs.flatten().argsort()
        q, gap, stays = (one.flatten()[order].unflatten(0, (100, -1)).mean(1) for one in (probs, gap, stays))
        inner = (q > 0.05) & (q < 0.85)
        torch.testing.assert_close(
            (gap / stays)[inner], left_out_bias(q, alpha, c)[inner], rtol=0, atol=0.015
        )


def test_leaving_out_costs_nothing_where_classes_are_alike():
    q = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    for classes in (3, 10):
        assert left_out_bias(q, torch.ones(classes, dtype=torch.long), 1).abs().max() < 1e-12
    assert left_out_bias(q, UNLIKE, 0).abs().max() > 0.05


def test_the_closed_form_predicts_the_loss_of_calibrated_predictions_of_unlike_classes():
    """H2c's factor: a mean absolute normal variable around the bias, over the same clusters and subsets."""
    probs, labels = calibrated(20_000, UNLIKE)
    q, _, label = sorted_events(probs, labels)
    cluster, predicted = kmeans_1d(q, 15), []
    for c in range(3):
        kept = label != c
        bias = moving_average(left_out_bias(q[kept].clamp(1e-9, 1 - 1e-9), UNLIKE, c), 200)
        noise = (moving_average(q[kept] * (1 - q[kept]), 200) / 201).sqrt()
        size = stats.foldnorm.mean(bias.abs() / noise, scale=noise)
        predicted.append(np.mean([size[cluster[kept] == j].mean() for j in range(15)]))
    ratio = np.mean(predicted) / float(noise_floor(probs, labels))
    assert ratio == pytest.approx(3.12, abs=0.05)
    assert over_floor(probs, labels) == pytest.approx(ratio, rel=0.05)


def test_a_profile_lies_on_the_closed_form_within_noise():
    grid = np.linspace(0.1, 0.8, 15)
    average, noise = profile(*calibrated(20_000, UNLIKE), 2000, grid)
    exact = left_out_bias(torch.tensor(grid), UNLIKE, 0).numpy()
    assert (np.abs(average - exact) < 5 * noise + 0.01).all()
    assert np.abs(average / noise).max() > 5


def test_dirichlet_rows_have_their_moments_and_come_from_the_generator():
    probs = draw_dirichlet(100_000, UNLIKE, stream(0, "a"))
    torch.testing.assert_close(probs.mean(0), UNLIKE.double() / 4, rtol=0, atol=3e-3)
    a = UNLIKE.double() / 4
    torch.testing.assert_close(probs.var(0), a * (1 - a) / 5, rtol=0.03, atol=0)
    assert torch.equal(probs[:5], draw_dirichlet(100_000, UNLIKE, stream(0, "a"))[:5])


# --- the maps ---------------------------------------------------------------------------------------------

V = [0.0, 0.3, 4.9, 5.0, 5.1, 12.0, 33.3, 99.0]
# The authors' PiecewiseLinear with 20 segments and slopes 1.5 sin(1 + i^1.3), at -V, computed in float64.
CODED = [0.477145021488, 0.067961197426, -6.20619077153, -6.650409592972, -6.697693695412, -12.519072561473,
         -33.602947284774, -82.21068999299]  # fmt: skip


def test_the_map_anchored_at_values_is_the_authors():
    mapping = PiecewiseLinear(20, "value")
    with torch.no_grad():
        mapping.slopes.copy_(1.5 * torch.sin(1 + torch.arange(21) ** 1.3))
        ours = -mapping.curve(torch.tensor(V, dtype=torch.float64))
    np.testing.assert_allclose(ours, CODED, atol=1e-4)  # their slopes are drawn in float32


def test_with_slopes_of_two_the_coded_map_falls_by_two_at_every_knot_and_the_integral_rises():
    v = torch.arange(0, 12, 0.25, dtype=torch.float64)
    for anchor in ("value", "knot"):
        mapping = PiecewiseLinear(100, anchor)
        with torch.no_grad():
            mapping.slopes.fill_(2)
            below, at = (mapping.curve(torch.arange(1.0, 9.0).double() - by) for by in (1e-9, 0))
            fall = (below - at).numpy()
            np.testing.assert_allclose(fall, 2 if anchor == "value" else 0, atol=1e-8)
            rises = bool((mapping.curve(v).diff() > 0).all())
        assert rises == (anchor == "knot")


@pytest.mark.parametrize("segments", [1, 7, 100])
def test_the_integral_is_the_integral(segments):
    mapping = PiecewiseLinear(segments)
    with torch.no_grad():
        mapping.slopes.copy_(normal(segments + 1))
    fine = torch.linspace(0, 60, 600_001, dtype=torch.float64)
    part = (fine[:-1] / (100 / segments)).floor().long()
    heights = mapping.slopes.abs()[part + 1].cumsum(0) * 1e-4
    curve = (mapping.curve(fine[1:]) - mapping.curve(torch.zeros(1, dtype=torch.float64))).detach()
    torch.testing.assert_close(curve, heights.detach(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("anchor", ["value", "knot"])
def test_maps_start_as_the_identity_and_one_segment_is_temperature_scaling(anchor):
    logits = 4 * normal(20, 5)
    expected = torch.log_softmax(logits, 1)
    torch.testing.assert_close(PiecewiseLinear(50, anchor)(logits).detach(), expected)
    one = PiecewiseLinear(1, anchor)
    with torch.no_grad():
        one.slopes[1] = -0.4
    torch.testing.assert_close(one(logits).detach(), torch.log_softmax(0.4 * logits, 1))


def test_one_segment_fitted_as_on_the_page_is_scipys_temperature():
    logits = 3 * normal(1000, 10)
    labels = draw_labels((0.5 * logits).softmax(1), stream(0, "y"))
    theirs = minimize_scalar(lambda t: float(nll_loss(torch.log_softmax(t * logits, 1), labels)), (0.1, 1))
    found = fit(PiecewiseLinear(1), nll_loss, logits, labels, steps=100, lr=0.03, choose=False)
    assert float(found.mapping.slopes[1]) == pytest.approx(theirs.x, rel=1e-2)


def test_an_ensemble_is_a_mean_of_softmaxes_and_keeps_the_order():
    mapping = Ensemble(4, stream(0, "start"))
    assert all(p.abs().max() <= 0.5 for p in mapping.parameters())
    logits = 4 * normal(30, 6)
    weights = mapping.weights.detach().abs() / mapping.weights.detach().abs().sum()
    by_hand = sum(
        w * torch.softmax(s * logits, 1) for w, s in zip(weights, mapping.scales.detach().abs(), strict=True)
    )
    found = mapping(logits).detach()
    torch.testing.assert_close(found, by_hand.log())
    assert torch.equal(found.argsort(1), logits.argsort(1))


def test_slopes_move_the_coded_map_out_of_order_and_not_the_integral():
    """H3b and H3a on random slopes."""
    logits = 6 * normal(400, 10)
    for anchor in ("value", "knot"):
        mapping = PiecewiseLinear(100, anchor)
        with torch.no_grad():
            mapping.slopes.copy_(0.5 + 0.3 * normal(101))
        moved = (mapping(logits).argmax(1) != logits.argmax(1)).double().mean()
        assert (moved > 0) == (anchor == "value")


# --- the mechanism without its heart ----------------------------------------------------------------------


def each_event_alone(values, window):
    """Nothing is averaged over neighbours: each event's own |q - o| is what is left."""
    return values


MUTATIONS = [("moving_average", each_event_alone)]


def test_without_an_average_the_loss_is_no_measure_of_calibration(monkeypatch):
    probs, labels = calibrated(4000)
    sure = sharpened(probs, 1.25)
    assert float(h_loss(sure, labels) / h_loss(probs, labels)) > 1.3
    monkeypatch.setattr(paper, "moving_average", each_event_alone)
    assert float(h_loss(sure, labels) / h_loss(probs, labels)) < 1.1


# --- bad input --------------------------------------------------------------------------------------------

P, Y = known(6, 3)
REFUSED = [
    (lambda: moving_average(P[:, 0], 3), r"window must be even and in 0\.\.6, the events, got 3"),
    (lambda: moving_average(P[:, 0], -2), "got -2"),
    (lambda: h_loss(P, Y, 200), r"window must be even and in 0\.\.\d+, the events, got 200"),
    (lambda: h_loss(P, Y[:5], 2), r"labels \(n,\), got \(6, 3\) and \(5,\)"),
    (lambda: h_loss(P[0], Y, 2), r"expected probs \(n, classes\)"),
    (lambda: kmeans_1d(P[:, 0].sort().values, 0), "k must be >= 1, got 0"),
    (lambda: kmeans_1d(P[:0, 0], 2), "values must be >= 1, got 0"),
    (lambda: kmeans_1d(torch.tensor([0.3, 0.1]), 2), "values must be sorted"),
    (lambda: noise_floor(P, Y, 1), "window must be even"),
    (lambda: cyclic(P[:, :2]), "classes must be >= 3, got 2"),
    (lambda: cyclic(P, 1.5), r"strength must be in 0\.\.1, got 1\.5"),
    (lambda: draw_dirichlet(0, ALIKE, stream(0, "x")), "n must be >= 1, got 0"),
    (lambda: Ensemble(0, stream(0, "x")), "k must be >= 1, got 0"),
    (lambda: PiecewiseLinear(0), "segments must be >= 1, got 0"),
    (lambda: PiecewiseLinear(3, "end"), "anchor must be one of 'value', 'knot', got 'end'"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
