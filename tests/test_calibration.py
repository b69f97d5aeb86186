"""Calibration: scikit-learn's curves and regressions, scipy's temperature, unbiased estimates."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import nll_loss

from fourfold import calibration
from fourfold.calibration import (
    VectorScaling,
    best_power,
    binned_error,
    class_wise_error,
    distance,
    draw_labels,
    fit,
    kernel_error,
    log_probs,
    one_vs_rest,
    reliability,
    sharpened,
    too_sure,
    top_label,
)
from fourfold.training import stream

from .draws import normal


def calibrated(n, classes=4, seed=0, scale=2.0):
    logits = scale * normal(n, classes, seed=seed)
    return logits, draw_labels(logits.softmax(1), stream(seed, "labels"))


# --- how wrong probabilities are --------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "mass"), [("uniform", False), ("quantile", True)])
def test_bins_are_scikit_learns(strategy, mass):
    logits, labels = calibrated(300)
    q, hit = top_label(logits.softmax(1), labels)
    count, sums, hits = reliability(q, hit, 10, mass).numpy()
    share, mean = calibration_curve(hit.numpy(), q.numpy(), n_bins=10, strategy=strategy)
    some = count > 0
    np.testing.assert_allclose(hits[some] / count[some], share, atol=1e-12)
    np.testing.assert_allclose(sums[some] / count[some], mean, atol=1e-12)
    expected = (count[some] * np.abs(share - mean)).sum() / 300
    assert binned_error(q, hit, 10, mass) == pytest.approx(expected, abs=1e-12)


def test_bins_are_open_below_and_hold_the_ends():
    q = torch.tensor([0.0, 0.1, 0.5, 0.500001, 1.0], dtype=torch.float64)
    assert reliability(q, torch.zeros(5), 2)[0].tolist() == [3, 2]
    assert reliability(q, torch.zeros(5), 2, mass=True)[0].tolist() == [3, 2]


def test_the_class_wise_error_is_the_mean_over_classes():
    logits, labels = calibrated(200)
    probs = logits.softmax(1)
    by_hand = [binned_error(probs[:, k], (labels == k).double()) for k in range(4)]
    assert class_wise_error(probs, labels) == pytest.approx(np.mean(by_hand))


def test_all_errors_at_once():
    logits, labels = calibrated(100)
    found = calibration.errors(logits.softmax(1), labels)
    assert found["class-wise, equal width"] == class_wise_error(logits.softmax(1), labels)
    assert found["class-wise, equal mass"] == class_wise_error(logits.softmax(1), labels, mass=True)
    assert found["top label"] == binned_error(*top_label(logits.softmax(1), labels))
    assert found["negative log likelihood"] == pytest.approx(
        float(nn.functional.cross_entropy(logits, labels))
    )
    assert found["wrong"] == pytest.approx(float((logits.argmax(1) != labels).double().mean()))


def test_the_kernel_error_is_its_double_sum_and_zero_on_average_if_calibrated():
    probs, labels = calibrated(12)[0].softmax(1), calibrated(12)[1]
    residual = torch.eye(4)[labels] - probs
    pairs = [
        float(torch.exp(-(probs[i] - probs[j]).norm()) * residual[i] @ residual[j])
        for i in range(12)
        for j in range(12)
        if i != j
    ]
    assert kernel_error(probs, labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    logits = 2 * normal(200, 3)
    draws = [
        kernel_error(logits.softmax(1), draw_labels(logits.softmax(1), stream(i, "y"))) for i in range(60)
    ]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(60)
    assert np.mean(draws) + 3 * np.std(draws) < kernel_error((4 * logits).softmax(1), calibrated(200, 3)[1])


def test_brier_is_its_sum():
    probs, labels = calibrated(50)[0].softmax(1), calibrated(50)[1]
    by_hand = np.mean([((probs[i] - torch.eye(4)[labels[i]]) ** 2).sum() for i in range(50)])
    assert float(calibration.brier(probs.log(), labels)) == pytest.approx(float(by_hand))


# --- predictions whose truth is known ---------------------------------------------------------------------


def test_labels_have_their_probabilities_and_come_from_the_generator():
    truth = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).expand(50_000, 3)
    labels = draw_labels(truth, stream(0, "y"))
    torch.testing.assert_close(torch.bincount(labels) / 50_000, truth[0].float(), rtol=0, atol=0.01)
    assert torch.equal(labels, draw_labels(truth, stream(0, "y")))


@pytest.mark.parametrize("far", [0.0, 0.1, 0.4])
def test_predictions_are_sharpened_to_a_distance(far):
    probs = normal(500, 3).softmax(1)
    sure = too_sure(probs, far)
    assert distance(sure, probs) == pytest.approx(far, abs=1e-4)
    torch.testing.assert_close(sure.sum(1), torch.ones(500).double())
    assert (sure.max(1).values >= probs.max(1).values - 1e-12).all()


def test_the_best_power_undoes_a_power():
    logits, labels = calibrated(4000)
    found = best_power(lambda p, y: nll_loss(p.log(), y), sharpened(logits.softmax(1), 1.5), labels)
    assert found == pytest.approx(1 / 1.5, rel=0.05)


# --- maps -------------------------------------------------------------------------------------------------


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, logits):
        return log_probs(logits * self.scale.abs())


def test_the_temperature_is_scipys():
    logits, labels = calibrated(500)
    logits = 2 * logits
    theirs = minimize_scalar(
        lambda t: float(nll_loss(torch.log_softmax(t * logits, 1), labels)), bounds=(0.1, 2), method="bounded"
    )
    found = fit(Temperature(), nll_loss, logits, labels, steps=300, lr=0.02)
    # The kept step has the least class-wise error; the losses tell where the fit ends.
    assert found.losses[-1] == pytest.approx(theirs.fun, abs=1e-4)
    assert min(found.losses) < found.losses[0]
    probs = found.mapping(logits).exp()
    assert class_wise_error(probs, labels) == pytest.approx(found.error)
    assert found.error <= class_wise_error(logits.softmax(1), labels)
    last = fit(Temperature(), nll_loss, logits, labels, steps=300, lr=0.02, choose=False)
    assert float(last.mapping.scale.abs()) == pytest.approx(theirs.x, rel=1e-2)


def test_vector_scaling_is_what_it_says():
    mapping = VectorScaling(3)
    logits = normal(5, 3)
    torch.testing.assert_close(mapping(logits).detach(), torch.log_softmax(logits, 1))
    with torch.no_grad():
        mapping.scale.copy_(torch.tensor([1.0, 2, 3]))
        mapping.shift.copy_(torch.tensor([0.0, 1, -1]))
    by_hand = torch.log_softmax(
        torch.log_softmax(logits, 1) * torch.tensor([1.0, 2, 3]) + torch.tensor([0.0, 1, -1]), 1
    )
    torch.testing.assert_close(mapping(logits).detach(), by_hand)


@pytest.mark.parametrize("kind", ["beta", "isotonic", "histogram"])
def test_one_vs_rest_is_scikit_learns_class_by_class(kind):
    logits, labels = calibrated(404, 3)  # no quantile is one of the numbers
    probs, new = (2 * logits).softmax(1), normal(50, 3, seed=1).softmax(1)
    columns = []
    for k in range(3):
        p, hit, x = probs[:, k].numpy(), (labels == k).numpy().astype(float), new[:, k].numpy()
        if kind == "isotonic":
            columns.append(IsotonicRegression(out_of_bounds="clip").fit(p, hit).predict(x))
        elif kind == "beta":
            two = [np.stack([np.log(v), -np.log(1 - v)], 1) for v in (p, x)]
            model = LogisticRegression(C=1e6, max_iter=1000).fit(two[0], hit)
            columns.append(model.predict_proba(two[1])[:, 1])
        else:
            share, _ = calibration_curve(hit, p, n_bins=15, strategy="quantile")
            edges = np.quantile(p, np.linspace(0, 1, 16))[1:-1]
            columns.append(share[np.searchsorted(edges, x)])
    expected = np.maximum(np.stack(columns, 1), 1e-6)
    found = one_vs_rest(kind, probs, labels, new)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-5)


P, Y = calibrated(6)[0].softmax(1), calibrated(6)[1]
REFUSED = [
    (lambda: reliability(P[:, 0], Y, 0), "bins must be >= 1, got 0"),
    (lambda: kernel_error(P[:1], Y[:1]), "rows must be >= 2, got 1"),
    (lambda: sharpened(P, 0.0), r"power must be finite and > 0, got 0\.0"),
    (lambda: too_sure(P, -0.1), r"far must be in \[0, .*, got -0\.1"),
    (lambda: too_sure(P, 2.0), r"far must be in .* got 2\.0"),
    (lambda: VectorScaling(1), "classes must be >= 2, got 1"),
    (lambda: one_vs_rest("platt", P, Y, P), "kind must be one of 'beta', 'isotonic', 'histogram'"),
    (lambda: fit(Temperature(), nll_loss, P, Y, steps=0, lr=1.0), "steps must be >= 1, got 0"),
    (lambda: fit(Temperature(), nll_loss, P, Y, steps=1, lr=0.0), r"lr must be finite and > 0, got 0\.0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
