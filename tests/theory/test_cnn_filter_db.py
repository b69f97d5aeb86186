"""CNN Filter DB: scikit-learn's components, scipy's entropies, torch's layers, known qualities, bad input."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.decomposition import PCA
from torch import nn

from fourfold.data import filters, image_pairs, images
from fourfold.data.filters import Layer
from fourfold.judging import records
from fourfold.theory import cnn_filter_db as paper
from fourfold.theory.cnn_filter_db import (
    FilterNet,
    FilterPCA,
    at_depth,
    compare,
    degenerate,
    densities,
    drift,
    excess,
    near_zero,
    randomness_threshold,
    sample,
    scale_filters,
    smallest,
    span_of,
    sparsity,
    super_resolve,
    training_set,
    turned,
    variance_entropy,
    zeroings,
)

from ..draws import normal


def rows(n, seed=0):
    """Rows with a mean, unequal variances and correlations."""
    mixing = normal(9, 9, seed=99).numpy()
    return normal(n, 9, seed=seed).numpy() @ mixing + np.linspace(-0.3, 0.3, 9)


def rng(seed=0):
    return np.random.default_rng(seed)


# --- drift ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [11, 500])
def test_components_are_those_of_scikit_learn(n):
    ours, theirs = FilterPCA.fit(rows(n)), PCA().fit(rows(n))
    np.testing.assert_allclose(ours.ratios, theirs.explained_variance_ratio_, atol=1e-12)
    np.testing.assert_allclose(np.abs((ours.axes * theirs.components_).sum(1)), 1, atol=1e-9)
    np.testing.assert_allclose(np.abs(ours(rows(5, 1))), np.abs(theirs.transform(rows(5, 1))), atol=1e-9)


def test_drift_is_the_sum_of_scipys_divergences_there_and_back():
    """As the authors compute it: densities, empty bins at float32's epsilon, made to sum to one again."""
    pca = FilterPCA.fit(scale_filters(rows(900)))
    a, b = (pca(scale_filters(rows(n, seed))) for n, seed in ((300, 1), (407, 2)))
    span, expected = span_of(pca), 0.0
    for i, ratio in enumerate(pca.ratios):
        p, q = (np.histogram(x[:, i], 70, span, density=True)[0] for x in (a, b))
        p, q = (np.where(x == 0, 1.19e-7, x) for x in (p, q))
        expected += ratio * (stats.entropy(p, q) + stats.entropy(q, p))
    assert drift(a, b, pca.ratios, span) == pytest.approx(expected, rel=2e-3)
    assert drift(a, b, pca.ratios, span) == pytest.approx(drift(b, a, pca.ratios, span), rel=1e-12)
    assert drift(a, a[::-1], pca.ratios, span) == pytest.approx(0, abs=1e-12)


def test_scaled_rows_reach_one_and_fill_the_span_at_most():
    scaled = scale_filters(np.concatenate([1e3 * rows(50), np.zeros((1, 9))]))
    np.testing.assert_allclose(np.abs(scaled[:-1]).max(1), 1)
    assert not scaled[-1].any()
    corners = np.sign(rows(400, 3))
    pca = FilterPCA.fit(corners)
    low, high = span_of(pca)
    assert low <= pca(corners).min() < pca(corners).max() <= high
    assert densities(pca(corners), span_of(pca)).sum(1) == pytest.approx(1)


def test_chance_is_what_samples_of_that_size_differ_by():
    """Two samples of one law: about 2 (bins - 1) / n, and no excess; of two laws nearly the same at any n."""
    pool, moved = rows(40_000), rows(40_000, 1) * np.linspace(0.6, 1.4, 9)
    pca = FilterPCA.fit(scale_filters(pool))
    for n in (2000, 8000):
        alike = compare(pool[:n], pool[n : 2 * n], pca, span_of(pca), rng())
        assert alike.chance == pytest.approx(2 * 69 / n, rel=0.35)
        assert abs(alike.drift - alike.chance) < 0.25 * alike.chance
    few, many = (excess(pool, moved, n, pca, rng(), 8) for n in (2000, 16000))
    assert few == pytest.approx(many, rel=0.4)
    assert excess(pool, moved, 100, pca, rng(1)) == excess(pool, moved, 100, pca, rng(1))


def test_relatives_are_drawn_at_places_apart():
    """A group against itself: apart no filter is met twice, and there is no excess; else copies hide it."""
    pool = rows(4000)
    pca = FilterPCA.fit(scale_filters(pool))
    assert abs(excess(pool, pool, 2000, pca, rng(), 8, apart=True)) < 0.01
    assert excess(pool, pool, 4000, pca, rng(), 8) < -0.02


def test_turned_rows_keep_mean_covariance_and_sizes_and_lose_the_rest():
    found = normal(4000, 9).numpy() @ np.diag(np.linspace(1, 2, 9)) + 0.5
    found[:, 0] = 3 * np.sign(found[:, 0] - 0.5)
    new = turned(found, rng())
    np.testing.assert_allclose(new.mean(0), found.mean(0), atol=0.35)
    np.testing.assert_allclose(np.cov(new.T), np.cov(found.T), atol=0.09 * np.cov(found.T).max())
    inverse = np.linalg.inv(np.cov(found.T))

    def sizes(x):
        return np.einsum("ni,ij,nj->n", x - found.mean(0), inverse, x - found.mean(0))

    np.testing.assert_allclose(sizes(new), sizes(found), rtol=1e-6)
    assert stats.kurtosis(found[:, 0]) < -1.9
    assert abs(stats.kurtosis(new[:, 0])) < 0.4


def test_sampling_and_depth_take_what_they_say():
    drawn = sample(rows(30), 30, rng())
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, rows(30)))
    layers = [Layer(str(d), np.full((1, 2, 3, 3), d), 1, depth=d / 4) for d in range(5)]
    assert at_depth(layers, 0, 0.25)[:, 0].tolist() == [0, 0, 1, 1]
    assert at_depth(layers, 0.9, 1)[:, 0].tolist() == [4, 4]


# --- the quality of a layer -------------------------------------------------------------------------------


@given(n=st.integers(2, 40), seed=st.integers(0, 50))
@settings(max_examples=25)
def test_entropy_is_scipys_of_the_covariances_eigenvalues(n, seed):
    values = np.linalg.eigvalsh(np.cov(rows(n, seed).T)).clip(0)
    assert variance_entropy(rows(n, seed)) == pytest.approx(stats.entropy(values, base=10), abs=1e-6)
    assert variance_entropy(-3 * rows(n, seed) + 1) == pytest.approx(variance_entropy(rows(n, seed)))


def test_known_layers_have_known_qualities():
    one = np.ones((1, 9))
    assert sparsity(0 * one) == 1
    assert sparsity(np.concatenate([one, 0.009 * one, 0.011 * one, 0 * one])) == 0.5
    assert sparsity(rows(20), eps=0) == 0
    assert variance_entropy(np.repeat(0.1 * one, 7, 0)) == 0
    assert variance_entropy(np.outer([1.0, 2, 4], one)) == pytest.approx(0, abs=1e-12)
    assert variance_entropy(np.concatenate([np.eye(9), -np.eye(9)])) == pytest.approx(math.log10(9))


def test_the_threshold_is_the_least_entropy_of_random_layers():
    for n, most in ((64, 0.01), (1024, 0.005)):
        least = min(variance_entropy(normal(n, 9, seed=s).numpy()) for s in range(200))
        assert abs(least - randomness_threshold(n)) < most
    assert randomness_threshold(2**40) == pytest.approx(1.2618047 - 0.31050834)
    np.testing.assert_allclose(randomness_threshold([8, 64]), [0.5092, 0.9056], atol=1e-4)


def test_public_networks_have_the_qualities_that_the_plan_measured():
    """Numbers of the plan's own prototype, which read the packages with other code."""
    ppocr = [variance_entropy(layer.rows) for layer in filters.load("ppocr")]
    assert min(ppocr) == pytest.approx(0.25, abs=0.005)
    assert sum(value < 0.5 for value in ppocr) == 4
    srmd = [sparsity(layer.rows) for layer in filters.load("srmd_x3")]
    counts = [int(near_zero(layer.rows).sum()) for layer in filters.load("srmd_x3")]
    assert max(srmd) == pytest.approx(0.304, abs=0.001)
    assert sum(counts) == 33_219


def test_a_layer_is_degenerate_by_either_measure_and_not_in_random_order():
    dead = np.concatenate([rows(80), 1e-3 * rows(20, 1)])
    alike = rows(100) + 50 * np.outer(normal(100).numpy(), np.ones(9))
    assert degenerate(dead)
    assert degenerate(alike)
    assert not degenerate(rng().permuted(alike.ravel()).reshape(-1, 9))
    assert not degenerate(normal(100, 9).numpy())


# --- filters at work --------------------------------------------------------------------------------------


def test_srmd_is_torchs_own_layers_and_gains_on_bicubic_interpolation():
    photo = images.photographs(["astronaut"], 96, grey=False)
    for factor in (2, 3):
        layers, reduced = filters.load(f"srmd_x{factor}"), image_pairs.shrink(photo, factor)
        steps: list[nn.Module] = []
        for layer in layers:
            steps += [nn.Conv2d(*layer.weight.shape[1::-1], 3, padding=1), nn.ReLU()]
            steps[-2].load_state_dict(
                {"weight": torch.tensor(layer.weight.astype("f4")), "bias": torch.tensor(layer.bias)}
            )
        net = nn.Sequential(*steps[:-1], nn.PixelShuffle(factor))
        told = torch.tensor(paper.BICUBIC)[None, :, None, None].expand(1, -1, *reduced.shape[2:])
        with torch.no_grad():
            made, received = super_resolve(layers, reduced)
            torch.testing.assert_close(made, net(torch.cat([reduced, told], 1)))
            torch.testing.assert_close(received[1], net[:2](received[0]))
        plain = image_pairs.psnr(image_pairs.enlarge(reduced, factor)[0], photo[0], 6)
        assert image_pairs.psnr(made[0], photo[0], 6) > plain + 1


def test_zeroed_filters_are_zeroed_and_no_others():
    layers = filters.load("srmd_x3")
    photo = image_pairs.shrink(images.photographs(["astronaut"], 48, grey=False), 3)
    nothing = [np.zeros(len(layer.rows), bool) for layer in layers]
    with torch.no_grad():
        intact, received = super_resolve(layers, photo)
        assert torch.equal(super_resolve(layers, photo, nothing)[0], intact)
        one = [mask.copy() for mask in nothing]
        one[1][128 * 5 + 7] = True
        _, after = super_resolve(layers, photo, one)
    changed = (after[2] != received[2]).any(-1).any(-1)[0]
    assert set(changed.nonzero().flatten().tolist()) <= {5}
    masks = zeroings(layers, received, rng())
    totals = {title: sum(int(mask.sum()) for mask in found) for title, found in masks.items()}
    assert set(totals.values()) == {33_219}
    norms = [np.linalg.norm(layer.rows, axis=1) for layer in layers]
    kept = np.concatenate([n[~m] for n, m in zip(norms, masks["as many smallest"], strict=True)])
    gone = np.concatenate([n[m] for n, m in zip(norms, masks["as many smallest"], strict=True)])
    assert gone.max() <= kept.min()


def test_smallest_takes_as_many_as_asked_of_all_or_of_each():
    sizes = [np.array([3.0, 1, 2]), np.array([0.5, 9])]
    assert [mask.tolist() for mask in smallest(sizes, 2)] == [[False, True, False], [True, False]]
    assert [mask.tolist() for mask in smallest(sizes, [2, 0])] == [[False, True, True], [False, False]]


# --- the network to be trained ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 7), (14, 14)])
def test_the_network_is_convolutions_batch_norm_and_a_mean(size, jolted):
    net, x = jolted(FilterNet, 3, classes=4), normal(6, 1, *size)
    hidden = x
    for i, (convolution, norm) in enumerate(zip(net.convolutions, net.norms, strict=True)):
        hidden = nn.functional.conv2d(hidden, convolution.weight, padding=1)
        mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3), correction=0)
        scale = norm.weight / (variance + 1e-5).sqrt()
        hidden = (scale[:, None, None] * (hidden - mean[:, None, None]) + norm.bias[:, None, None]).relu()
        if i == 0:
            hidden = nn.functional.max_pool2d(hidden, 2)
    torch.testing.assert_close(net(x), hidden.mean((2, 3)) @ net.readout.weight.T + net.readout.bias)


def test_gradients_of_the_network_are_right(jolted):
    net = jolted(FilterNet, 2, classes=2)
    assert torch.autograd.gradcheck(net, normal(3, 1, 4, 4).requires_grad_())


def test_training_sets_are_drawn_without_repetition_and_by_the_generator():
    def draw(seed):
        return training_set(torch.zeros(50, 2, 2), 20, torch.Generator().manual_seed(seed))

    assert len(set(draw(0).tolist())) == 20
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


# --- the mechanism without its heart ----------------------------------------------------------------------


def moments_only(a, b, ratios, span, bins=70):
    """Histograms are forgotten: means and variances of coefficients are compared as those of Gaussians."""
    squared = (a.mean(0) - b.mean(0)) ** 2
    v, w = a.var(0), b.var(0)
    return float(np.asarray(ratios) @ ((v + squared) / w + (w + squared) / v - 2) / 2)


def one_by_one(one, other, n, pca, rng, repeats=1, apart=False):
    """Distributions are forgotten: filters are compared one by one, of relatives at the same places."""

    def difference():
        places = sample(np.arange(len(one)), n, rng)
        others = places if apart else sample(np.arange(len(other)), n, rng)
        a, b = (pca(scale_filters(found)) for found in (one[places], other[others]))
        return ((a - b) ** 2).sum(1).mean()

    return float(np.mean([difference() for _ in range(repeats)]))


def depth_forgotten(layers, low, high):
    """A quarter of the layers holds them all."""
    return np.concatenate([layer.rows for layer in layers])


def nothing_near_zero(found, eps=0.01):
    """No filter counts as near zero but one of zeros."""
    return sparsity(found, 0.0)


def all_images(digits, n, generator):
    """Every network is trained on all images."""
    return torch.randperm(len(digits), generator=generator)


MUTATIONS = [
    ("drift", moments_only),
    ("excess", one_by_one),
    ("at_depth", depth_forgotten),
    ("sparsity", nothing_near_zero),
    ("training_set", all_images),
]


def test_what_no_seed_changes_is_judged_as_exact():
    record = records.load("cnn_filter_db")
    for claim in ("C5a", "C5b", "C7"):
        assert record.claim(claim).evidence == ["exact"]


def test_moments_do_not_see_a_shape_that_histograms_see():
    """Two clouds of equal means and variances: one Gaussian, one of two heaps along an axis."""
    base = normal(8000, 9).numpy()
    heaps = normal(8000, 9, seed=1).numpy()
    heaps[:, 0] = 0.95 * np.sign(heaps[:, 0]) + math.sqrt(1 - 0.95**2) * normal(8000, seed=2).numpy()
    ratios, span = np.full(9, 1 / 9), (-6.0, 6.0)
    assert moments_only(base, heaps, ratios, span) < 0.01
    assert drift(base, heaps, ratios, span) > 0.1


def test_one_by_one_sees_two_samples_of_one_law_that_distributions_do_not():
    pool, fresh = rows(4000), rows(4000, 1)
    pca = FilterPCA.fit(scale_filters(pool))
    assert abs(excess(pool, fresh, 2000, pca, rng(), 4)) < 0.02
    assert one_by_one(pool, fresh, 2000, pca, rng(), apart=True) > 1
    assert one_by_one(pool, pool, 2000, pca, rng(), apart=True) == 0


# --- bad input --------------------------------------------------------------------------------------------

PLAIN = FilterPCA.fit(rows(20))
REFUSED = [
    (lambda: scale_filters(np.zeros((3, 8))), r"rows must be \(n >= 1, 9\), got \(3, 8\)"),
    (lambda: variance_entropy(np.full((3, 9), np.nan)), "rows must be finite"),
    (lambda: FilterPCA.fit(rows(1)), r"rows must be \(n >= 2, 9\), got \(1, 9\)"),
    (lambda: FilterPCA.fit(np.ones((4, 9))), "rows must differ, got equal ones"),
    (lambda: densities(rows(9), (-9, 9), 1), "bins must be >= 2, got 1"),
    (lambda: densities(np.ones((2, 9)), (0, 0.5)), "span must hold all coefficients, got 0 to 0.5"),
    (lambda: compare(rows(3), rows(4), PLAIN, (-9, 9), rng()), "equally many rows, got 3 and 4"),
    (lambda: compare(rows(3), rows(3), PLAIN, (-9, 9), rng(), halvings=0), "halvings must be >= 1, got 0"),
    (lambda: excess(rows(3), rows(3), 2, PLAIN, rng(), 0), "repeats must be >= 1, got 0"),
    (lambda: excess(rows(3), rows(4), 1, PLAIN, rng(), apart=True), "one size, got 3 and 4 rows"),
    (lambda: sample(rows(3), 4, rng()), r"n must be in 1\.\.3 \(the number of rows\), got 4"),
    (lambda: at_depth([], 0.5, 0.2), r"low and high must be in 0\.\.1, in that order, got 0\.5 and 0\.2"),
    (lambda: at_depth([], 0, 1), "no layer has a depth of 0 to 1"),
    (lambda: near_zero(rows(3), 2), r"eps must be in 0\.\.1, got 2"),
    (lambda: randomness_threshold(0), "n must be >= 1, got 0"),
    (lambda: super_resolve([], torch.zeros(1, 1, 4, 4)), r"images must be \(b, 3, h, w\), got \(1, 1,"),
    (lambda: super_resolve([], torch.zeros(1, 3, 4, 4), [1]), "a mask for each of 0 layers, got 1"),
    (lambda: smallest([np.ones(2)], 3), r"count must be in 0\.\.2 \(the number of filters\), got 3"),
    (lambda: FilterNet(0), "width must be >= 1, got 0"),
    (lambda: FilterNet(3, 1), "classes must be >= 2, got 1"),
    (partial(training_set, torch.zeros(3), 4, None), r"n must be in 1\.\.3 \(the number of images\), got 4"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
