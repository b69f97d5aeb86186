"""PHNNs: the Kronecker sum is NumPy's, its fixed cases are SciPy's, and rules are found up to a basis."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.signal import correlate
from scipy.spatial.transform import Rotation
from torch import nn
from torch.nn.functional import cross_entropy

from fourfold import cost
from fourfold.efficiency.phnn import (
    BLOCKS,
    LAZY,
    LEFT,
    PHOTOS,
    Fitted,
    PHConv,
    PHLinear,
    PHNet,
    algebra,
    colour_histograms,
    colour_patches,
    convolution_examples,
    cross_correlations,
    fit_algebra,
    fit_filters,
    input_channels,
    kron_channels,
    lazy_accuracy,
    macs_by_operation,
    match_algebra,
    nearest_algebra,
    nearest_kronecker,
    ph_param_count,
    ph_resnet,
    ph_resnet_count,
    ph_resnet_size,
    product_error,
    refit,
    relative_error,
    resnet_blocks,
    resnet_shares,
    table_convolution,
    table_error,
    thin_widths,
    two_microphones,
)
from fourfold.judging import parameters, records
from fourfold.judging.card import judge
from fourfold.training import Recipe, seeded, shuffled, stream, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
QUATERNIONS = algebra("quaternion")
SMALL = {"channels": 3, "widths": (12, 12), "strides": (2, 2), "classes": 3}


# --- the mechanism ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_weights_are_numpys_kronecker_products_at_every_place_of_the_kernel(n, kernel):
    A, F = normal(n, n, n), normal(n, 2, 3, *kernel, seed=1)
    found = kron_channels(A, F)
    assert found.shape == (2 * n, 3 * n, *kernel)
    for place in np.ndindex(kernel):
        wanted = sum(np.kron(A[i].numpy(), F[(i, ..., *place)].numpy()) for i in range(n))
        np.testing.assert_allclose(found[(..., *place)].numpy(), wanted, rtol=0, atol=1e-12)


def test_weights_are_a_loop_over_five_indices():
    A, F = normal(2, 2, 2), normal(2, 2, 3, 2, 2, seed=1)
    wanted = torch.zeros(4, 6, 2, 2, dtype=torch.float64)
    for i, a, b, p, q in np.ndindex(2, 2, 2, 2, 3):
        wanted[2 * a + p, 3 * b + q] += A[i, a, b] * F[i, p, q]
    torch.testing.assert_close(kron_channels(A, F), wanted, **EXACT)


def test_the_official_codes_other_routine_is_something_else():
    """torch.kron of a matrix and a bank of kernels mixes the axes of channels and of kernels."""
    A, F = normal(2, 2, 2), normal(2, 2, 3, 3, 3, seed=1)
    mixed = sum(torch.kron(A[i], F[i]) for i in range(2)).reshape(4, 6, 3, 3)
    assert (mixed - kron_channels(A, F)).abs().max() > 0.3


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_a_layer_is_torchs_with_the_same_weights(dim):
    with seeded(0):
        layer = PHConv(3, 6, 9, 3, dim=dim, stride=2, padding=1).double()
    x = normal(2, 6, *[5 if dim == 3 else 7] * dim)
    weight, bias = kron_channels(layer.A, layer.F), layer.bias
    if dim == 0:
        wanted = x @ weight.T + bias
    else:
        theirs = getattr(nn, f"Conv{dim}d")(6, 9, 3, stride=2, padding=1).double()
        theirs.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        wanted = theirs(x)
    torch.testing.assert_close(layer(x), wanted, **EXACT)
    assert torch.autograd.gradcheck(layer, (x[:1].requires_grad_(),))


def test_gradients_reach_rule_and_filters():
    A, F = normal(2, 2, 2).requires_grad_(), normal(2, 1, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(kron_channels, (A, F))


def test_a_start_has_hes_variance_and_xaviers_a_smaller_one():
    with seeded(0):
        stds = {
            init: torch.stack([kron_channels(layer.A, layer.F).std() for layer in layers]).mean().item()
            for init, layers in {
                how: [PHConv(4, 8, 12, init=how) for _ in range(100)] for how in ("he", "xavier")
            }.items()
        }
    assert stds["he"] == pytest.approx((2 / 72) ** 0.5, rel=0.05)
    assert stds["xavier"] == pytest.approx(0.067, rel=0.1)


def test_a_given_rule_is_no_parameter():
    layer = PHConv(4, 4, 4, A=QUATERNIONS, bias=False)
    assert [name for name, _ in layer.named_parameters()] == ["F"]
    assert PHLinear(2, 4, 6)(torch.zeros(3, 4)).shape == (3, 6)


# --- known rules ------------------------------------------------------------------------------------------


def test_quaternions_multiply_as_scipys_rotations():
    first, second = (
        torch.tensor(Rotation.random(1, rng=seed).as_quat(scalar_first=True)[0]) for seed in (0, 1)
    )
    product = torch.einsum("i, iab, b -> a", first, QUATERNIONS, second)
    theirs = Rotation.from_quat(first.numpy(), scalar_first=True) * Rotation.from_quat(
        second.numpy(), scalar_first=True
    )
    wanted = torch.tensor(theirs.as_quat(scalar_first=True))
    assert min((product - wanted).abs().max(), (product + wanted).abs().max()) < 1e-12


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_complex_table_is_scipys_complex_correlation(dim):
    filters, x = normal(2, 1, 1, *[3] * dim), normal(1, 2, *[5] * dim, seed=1)
    ours = table_convolution("complex", filters, x)[0]
    f, z = torch.complex(*filters[:, 0, 0]).numpy(), torch.complex(*x[0]).numpy()
    wanted = correlate(z, f.conj(), mode="valid", method="direct")  # scipy conjugates its second argument
    np.testing.assert_allclose(ours[0].numpy(), wanted.real, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours[1].numpy(), wanted.imag, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_quaternion_table_is_four_complex_correlations(dim):
    """A quaternion a + b j of complex a, b: (a + b j)(c + d j) = (a c - b d*) + (a d + b c*) j."""
    filters, x = normal(4, 1, 1, *[3] * dim), normal(1, 4, *[5] * dim, seed=1)
    ours = table_convolution("quaternion", filters, x)[0].numpy()

    def pair(parts):
        return [torch.complex(parts[i], parts[i + 1]).numpy() for i in (0, 2)]

    (a, b), (c, d) = pair(filters[:, 0, 0]), pair(x[0])
    times = partial(correlate, mode="valid", method="direct")
    first = times(c, a.conj()) - times(d.conj(), b.conj())
    second = times(d, a.conj()) + times(c.conj(), b.conj())
    wanted = np.stack([first.real, first.imag, second.real, second.imag])
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("table", "rule", "same"),
    [
        ("quaternion", "quaternion", True),
        ("quaternion", "klein", False),
        ("complex", "complex", True),
        ("complex", "split_complex", False),
        ("complex", "dual", False),
        (None, "real", True),
    ],
)
def test_a_rule_meets_its_table_and_no_other(table, rule, same):
    error = table_error(table, algebra(rule), stream(0, "filters"))
    assert error < 1e-12 if same else error > 0.1


def test_one_sign_makes_another_rule():
    flipped = QUATERNIONS.clone()
    flipped[3, 0, 3] *= -1
    assert table_error("quaternion", flipped, stream(0, "filters")) > 0.1
    assert match_algebra(flipped, QUATERNIONS).residual > 0.1


def test_every_known_rule_is_unital():
    for name in LEFT:
        rule = algebra(name)
        assert torch.equal(rule[0], torch.eye(len(rule), dtype=torch.float64))


# --- rules that are found ---------------------------------------------------------------------------------


def test_a_change_of_basis_changes_no_layer_and_is_seen_through():
    M, F = normal(4, 4), normal(4, 2, 2, 3, 3, seed=1)
    turned = torch.einsum("ij, jab -> iab", M, QUATERNIONS)
    filters = torch.einsum("ji, j... -> i...", torch.linalg.inv(M), F)
    torch.testing.assert_close(
        kron_channels(turned, filters), kron_channels(QUATERNIONS, F), rtol=0, atol=1e-10
    )
    match = match_algebra(turned, QUATERNIONS)
    assert match.residual < 1e-12
    torch.testing.assert_close(match.A, QUATERNIONS, rtol=0, atol=1e-10)
    assert match_algebra(normal(4, 4, 4), QUATERNIONS).residual > 0.5


def test_least_squares_finds_the_rule_unless_products_are_shuffled():
    assert product_error(16, stream(0, "products")) < 1e-9
    assert product_error(16, stream(0, "products"), shuffled=True) > 0.2
    f, x = normal(2, 40, 3)
    rule = normal(3, 3, 3, seed=1)
    torch.testing.assert_close(
        fit_algebra(f, x, torch.einsum("mi, iab, mb -> ma", f, rule, x)), rule, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("n", [1, 2, 4])
def test_filters_are_found_by_least_squares_where_the_rule_is_known(n):
    rule, F = normal(n, n, n), normal(n, 8 // n, 8 // n, 3, 3, seed=1)
    x = normal(80, 8, 3, 3, seed=2)
    y = torch.einsum("ocyx, mcyx -> mo", kron_channels(rule, F), x)
    torch.testing.assert_close(fit_filters(rule, x, y), F, rtol=0, atol=1e-9)


def test_a_decomposition_shows_the_rule_of_known_weights():
    weight = kron_channels(QUATERNIONS, normal(4, 2, 3, 3, 3))
    A, F = nearest_kronecker(weight, 4)
    torch.testing.assert_close(kron_channels(A, F), weight, **EXACT)
    assert match_algebra(A, QUATERNIONS).residual < 1e-12
    other = normal(8, 12, 3, 3)
    nearest = kron_channels(*nearest_kronecker(other, 4))
    assert 0.1 < relative_error(nearest, other) < 0.9


def test_quaternion_weights_are_among_those_of_two_units_and_of_a_random_rule_are_not():
    filters = normal(4, 2, 2, 3, 3)
    for rule, within in ((QUATERNIONS, True), (normal(4, 4, 4, seed=1), False)):
        weight = kron_channels(rule, filters)
        error = relative_error(kron_channels(*nearest_kronecker(weight, 2)), weight)
        assert error < 1e-12 if within else error > 0.1


def test_two_matrices_cannot_span_four():
    assert match_algebra(normal(2, 4, 4), QUATERNIONS).residual > 0.5


def test_from_few_examples_only_a_learnt_rule_finds_the_convolution():
    x, y = convolution_examples(QUATERNIONS, 8, 148, stream(0, "examples"))
    x_known, y_known, x_test, y_test = x[:48], y[:48], x[48:], y[48:]
    run = train(
        lambda: Fitted(4, 8),
        [0],
        lambda _: (x_known.repeat(50, 1, 1, 1), y_known.repeat(50, 1)),
        (x_test[None], y_test[None]),
        Recipe(16, batch=48, lr=0.02, weight_decay=0),
        loss=relative_error,
        score=lambda found, wanted: relative_error(found, wanted)[None],
    )
    assert run.score[0, -1] < 1e-4
    assert match_algebra(run.parameters["layer.A"][0], QUATERNIONS).residual < 1e-4
    for rule in (algebra("real"), normal(4, 4, 4), nearest_algebra(x, y, 48, 4)):
        assert refit(rule, x, y, 48).error > 0.1
    assert refit(QUATERNIONS, x, y, 48).error < 1e-12


def test_examples_without_a_rule_are_of_independent_weights():
    x, y = convolution_examples(None, 4, 200, stream(0, "examples"))
    weight = refit(algebra("real"), x, y, 150).weight
    assert relative_error(kron_channels(*nearest_kronecker(weight, 2)), weight) > 0.1
    assert refit(algebra("real"), x, y, 150).error < 1e-12


# --- the networks that the paper counts -------------------------------------------------------------------

MILLIONS = {
    18: (10.877, 5.451, 3.641, 2.736),
    50: (22.538, 11.331, 7.588, 5.718),
    152: (52.985, 26.648, 17.847, 13.451),
}
"""Of the official networks, counted in its code for fourfold's card; real and n = 2, 3, 4."""


@pytest.mark.parametrize("depth", BLOCKS)
def test_the_counts_are_those_of_the_official_networks(depth):
    built = [ph_resnet_size(depth, 1, "real"), *(ph_resnet_size(depth, n) for n in (2, 3, 4))]
    assert tuple(round(count / 1e6, 3) for count in built) == MILLIONS[depth]
    assert built[1:] == [ph_resnet_count(depth, n) for n in (2, 3, 4)]


def test_grouped_and_narrower_networks_have_one_nth_too():
    assert all(abs(share - 1 / 3) < 0.01 for share in resnet_shares(3, "grouped").values())
    assert all(abs(share - 1 / 3) < 0.01 for share in resnet_shares(1, "real", 3**0.5).values())


def test_a_tiny_layer_is_larger_than_a_real_one():
    assert ph_param_count(4, 4, 4, 1, bias=False) > 16
    assert ph_param_count(4, 8, 12, 3) == cost.parameters(PHConv(4, 8, 12))
    assert ph_param_count(2, 4, 6, 1, dim=1, bias=False) == cost.parameters(
        PHConv(2, 4, 6, 1, dim=1, bias=False)
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_residual_network_computes(n):
    with seeded(0):
        net = ph_resnet(18, n, widths=(12, 12, 12, 12)).eval()
    assert net(torch.zeros(2, input_channels(n), 8, 8)).shape == (2, 10)
    assert [block.shortcut is None for block in resnet_blocks(18)] == [True, True, *[False, True] * 3]


def test_only_weights_are_saved():
    plain = macs_by_operation(nn.Conv2d(24, 48, 3), 1, 24, 16, 16)
    ours = macs_by_operation(PHConv(4, 24, 48), 1, 24, 16, 16)
    assert plain == (48 * 24 * 9 * 14 * 14, 0)
    assert ours == (plain.convolution, 4 * 48 * 24 * 9)
    assert (
        macs_by_operation(nn.Conv2d(24, 48, 3, groups=4), 1, 24, 16, 16).convolution * 4 == plain.convolution
    )


# --- small networks and their tasks -----------------------------------------------------------------------


def algebras(net: PHNet) -> list[torch.Tensor]:
    return [layer.A.detach() for layer in net.body if isinstance(layer, PHConv)]


@pytest.mark.parametrize(
    ("n", "how", "zeros"), [(1, {}, 0), (2, {}, 1), (3, {}, 0), (4, {}, 1), (4, {"stem": 1}, 0)]
)
def test_zeros_stand_in_front_where_n_does_not_divide_the_colours(n, how, zeros):
    with seeded(0):
        net = PHNet(n, **SMALL, **how).double().eval()
    x = normal(2, 3, 8, 8)
    padded = torch.cat([torch.zeros(2, zeros, 8, 8, dtype=torch.float64), x], 1)
    torch.testing.assert_close(net(x), net.head(net.body(padded).mean((2, 3))), **EXACT)
    assert [len(A) for A in algebras(net)] == [how.get("stem", n), n]


def test_a_frozen_rule_starts_as_a_learnt_one_and_stays():
    images, labels = normal(12, 3, 8, 8).float(), torch.arange(12) % 3
    start, trained = {}, {}
    for rule in ("learned", "frozen"):
        make = partial(PHNet, 3, **SMALL, rule=rule)
        with seeded(0):
            start[rule] = make()
        run = train(
            make, [0], shuffled(images, labels), (images[None], labels[None]), Recipe(2, 6), together=False
        )
        trained[rule] = run.member(0)
    same = zip(algebras(start["frozen"]), algebras(trained["frozen"]), strict=True)
    assert all(torch.equal(*pair) for pair in same)
    moved = zip(algebras(start["learned"]), algebras(trained["learned"]), strict=True)
    assert all((one - other).abs().max() > 1e-4 for one, other in moved)
    assert algebras(start["learned"])[0].shape == algebras(start["frozen"])[0].shape


def test_every_parameter_has_a_gradient():
    with seeded(0):
        net = PHNet(3, **SMALL)
    cross_entropy(net(torch.randn(4, 3, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in net.parameters())


@pytest.mark.parametrize(("n", "scale"), [(2, 1), (3, 1), (3, 2), (4, 3), (6, 2)])
def test_a_thin_network_has_no_more_weights_and_nearly_as_many(n, scale):
    how = {"channels": 3, "strides": (2, 1), "classes": 3}
    widths = (12 * scale, 24 * scale)
    with torch.device("meta"):
        ours = cost.parameters(PHNet(n, widths=widths, **how))
        thin = cost.parameters(PHNet(1, widths=thin_widths(n, widths=widths, **how), **how))
    assert 0.75 * ours < thin <= ours


def test_patches_are_crops_of_their_part_of_the_photograph_and_repeat():
    train_set, again = (colour_patches(5, "train", stream(3, "crops")) for _ in range(2))
    assert torch.equal(train_set.images, again.images)
    assert train_set.images.shape == (5 * len(PHOTOS), 3, 16, 16)
    assert train_set.labels.bincount().tolist() == [5] * len(PHOTOS)
    values = train_set.images * 0.25 + 0.45
    assert values.min() > -1e-6
    assert values.max() < 1 + 1e-6
    other = colour_patches(5, "test", stream(3, "crops"))
    assert not torch.equal(train_set.images, other.images)


def test_histograms_and_cross_correlations():
    histogram = colour_histograms((torch.rand(4, 3, 8, 8) - 0.45) / 0.25)
    assert histogram.shape == (4, 64)
    torch.testing.assert_close(histogram.sum(1), torch.ones(4))
    first = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    found = cross_correlations(torch.stack([first, first.roll(2, 1)], 1))
    assert found.argmax(1).tolist() == [6, 6, 6] or found.argmax(1).tolist() == [2, 2, 2]


def test_a_tone_comes_later_by_its_delay():
    tones = two_microphones(40, stream(0, "tones"), length=200, noise=0.0)
    lags = cross_correlations(tones.images).argmax(1)
    straight = tones.labels == 4
    assert straight.any()
    torch.testing.assert_close(tones.images[straight, 0], tones.images[straight, 1])
    assert (lags[straight] == 4).all()


@pytest.mark.parametrize("name", LAZY)
def test_lazy_classifiers_know_more_than_chance(name):
    if name == "cross-correlation":
        sets = [two_microphones(300, stream(seed, "tones")) for seed in (0, 1)]
    else:
        sets = [colour_patches(20, part, stream(0, part)) for part in ("train", "test")]
    assert lazy_accuracy(name, *sets) > 0.25


RECORD = records.load("phnn")


@pytest.mark.parametrize(("thin", "word"), [(3.0, "inconclusive"), (-3.0, "reproduced")])
def test_a_lead_that_thin_networks_have_too_is_no_finding(thin, word):
    lead, less = [2.0, 2.5] * 4, [-2.0, -2.6] * 4
    verdict = judge(
        RECORD,
        "C4a",
        {"over_real": lead, "over_quaternion": [3.0, 2.0] * 4, "over_thin": [2.2, 2.4] * 4},
        {
            "thin_real": [thin, thin + 0.1] * 4,
            "frozen_real": less,
            "thin_quaternion": [-1.0, -1.2] * 4,
            "frozen_thin": [-1.5, -1.1] * 4,
        },
        {"trained": [10.0] * 8},
    )
    assert verdict.word == word


def test_parameters_that_n_does_not_divide_are_refused():
    with pytest.raises(parameters.ParameterError, match="multiple of 12"):
        parameters.validate(RECORD, RECORD.values("quick") | {"widths": [12, 24, 24, 50]})


# --- the mechanism without its heart ----------------------------------------------------------------------


def one_sign(name):
    """One sign of every rule is turned."""
    found = algebra(name)
    found[-1, 0, -1] *= -1
    return found


def algebra_untrained(A, F):
    """No gradient reaches the algebra, which stays as random as it starts."""
    return kron_channels(A.detach(), F)


MUTATIONS = [("algebra", one_sign), ("kron_channels", algebra_untrained)]


# --- bad input --------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: algebra("octonion"), "name must be one of 'real', .*, got 'octonion'"),
    (
        lambda: table_convolution("klein", normal(4, 1, 1, 3), normal(1, 4, 5)),
        "name must be one of 'complex'",
    ),
    (lambda: kron_channels(normal(2, 2, 2), normal(3, 1, 1)), r"A must be \(n, n, n\)"),
    (lambda: kron_channels(normal(2, 2, 2), normal(2, 1)), r"A must be \(n, n, n\)"),
    (lambda: match_algebra(normal(2, 2, 2), QUATERNIONS), "matrices of one size"),
    (lambda: PHConv(16, 60, 64), "n must be >= 1 and divide channels = 60, got 16"),
    (lambda: PHConv(3, 6, 10), "n must be >= 1 and divide outputs = 10, got 3"),
    (lambda: PHConv(2, 4, 4, dim=4), r"dim must be in 0\.\.3, got 4"),
    (lambda: PHConv(2, 4, 4, init="zero"), "init must be one of 'he', 'xavier', got 'zero'"),
    (lambda: PHConv(2, 4, 4, A=QUATERNIONS), r"A must be \(2, 2, 2\), got \(4, 4, 4\)"),
    (lambda: PHConv(2, 4, 4, padding=-1), "padding must be >= 0, got -1"),
    (lambda: ph_param_count(3, 4, 6, 1), "n must be >= 1 and divide channels = 4, got 3"),
    (lambda: nearest_kronecker(normal(4, 6, 3), 4), "n must be >= 1 and divide channels = 6, got 4"),
    (lambda: fit_filters(QUATERNIONS, normal(2, 6, 3), normal(2, 4)), "divide channels = 6, got 4"),
    (lambda: convolution_examples(QUATERNIONS, 6, 5, stream(0, "x")), "divide channels = 6, got 4"),
    (lambda: convolution_examples(None, 6, 0, stream(0, "x")), "m must be >= 1, got 0"),
    (lambda: resnet_blocks(34), "depth must be one of 18, 50, 152, got 34"),
    (lambda: ph_resnet(18, 7), "n must be >= 1 and divide a width = 60, got 7"),
    (lambda: ph_resnet(18, 2, kind="thin"), "kind must be one of 'real'"),
    (
        lambda: PHNet(3, 3, (12, 12), (1,), 3),
        r"strides must be one for each of widths = \[12, 12\], got \[1\]",
    ),
    (lambda: PHNet(3, 3, (12,), (1,), 3, rule="quaternion"), r"A must be \(3, 3, 3\), got \(4, 4, 4\)"),
    (lambda: PHNet(3, 3, (12,), (1,), 3, dim=3), r"dim must be in 1\.\.2, got 3"),
    (lambda: colour_patches(0, "train", stream(0, "x")), "n_per_class must be >= 1, got 0"),
    (lambda: colour_patches(1, "all", stream(0, "x")), "part must be one of 'train', 'held-out', 'test'"),
    (lambda: colour_patches(1, "test", stream(0, "x"), 120), r"size must be in 1\.\.100"),
    (lambda: two_microphones(0, stream(0, "x")), "n must be >= 1, got 0"),
    (lambda: lazy_accuracy("oracle", *[None] * 2), "name must be one of"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
