"""Wide CNNs: numbers of the authors' code, integrals, scikit-learn's regression, closed forms."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from sklearn.kernel_ridge import KernelRidge
from torch.nn.functional import conv1d

from fourfold import cost
from fourfold.theory.wide_cnn import (
    JITTER,
    LocalNet,
    arccos_kernels,
    effective_dim,
    empirical_ntk,
    fully_connected_kernel,
    gaussian_field,
    gram,
    hierarchical_kernel,
    learning_curves,
    patch_cosines,
    predicted_exponent,
    random_network,
    sample_multisphere,
    torus_spectrum,
)
from fourfold.training import stream


def points(n, patches, s1):
    """Points that any code can make again."""
    x = torch.cos(1 + torch.arange(n * patches * s1, dtype=torch.float64) ** 1.5).reshape(n, patches, s1)
    return (x / x.norm(dim=-1, keepdim=True)).flatten(1)


# --- the kernels ------------------------------------------------------------------------------------------

# Computed by dcntk and dcrfk of the authors' kernel_functions.py at these points: patches, filters, NTK, RFK.
AUTHORS = [
    (4, [2], [0.42593888840244787, 1.90848889326681, 0.3703728900090432, 0.6769552129632554,
              0.639818978087284, 0.2633958671050299],
     [0.34416909262373135, 0.9797202341045808, 0.24297006637586938, 0.45791126791324255, 0.40995983837767247,
      0.2716315910738724]),
    (4, [2, 2, 2], [1.1538090190764116, 3.5952178703392907, 1.042306612645984, 1.4375617200304478,
                    1.2993734512832105, 1.013489690432451],
     [0.618692204619306, 0.9816617591558648, 0.5810147716564936, 0.6728743770325473, 0.6431539222969406,
      0.5898187983961147]),
    (6, [3, 3, 2], [1.3065927697410866, 1.1167454849992553, 1.3861008881758392, 1.9753119596792583,
                    1.1941928110576259, 1.0408894030504232],
     [0.646604140849969, 0.608682708083006, 0.6630524408577981, 0.7660634843603081, 0.6325710744363459,
      0.5959739454214882]),
    (6, [2, 3], [1.2921392272158938, 1.3936289453580633, 0.6613777965630426, 0.9962499693543623,
                 0.6462395967014399, 0.8348980994166293],
     [0.6306418812091685, 0.6734408634953543, 0.4805017078606715, 0.5764799045738209, 0.45501162008850693,
      0.5204801284636326]),
]  # fmt: skip


@pytest.mark.parametrize(("patches", "filters", "ntk", "rfk"), AUTHORS)
def test_the_kernel_is_the_authors(patches, filters, ntk, rfk):
    x, y = points(3, patches, filters[0]), points(5, patches, filters[0])[3:]
    cosines = patch_cosines(x, y, filters[0])
    for kind, numbers in (("ntk", ntk), ("rfk", rfk)):
        theirs = torch.tensor(numbers, dtype=torch.float64).reshape(3, 2)
        torch.testing.assert_close(
            hierarchical_kernel(cosines, filters, kind), theirs, rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("t", [-0.97, -0.3, 0.0, 0.4, 0.999])
def test_arccos_kernels_are_gaussian_integrals(t):
    """In polar coordinates, where the two half planes overlap on angles from angle - pi/2 to pi/2."""
    angle = math.acos(t)
    step, ramp = arccos_kernels(torch.tensor(t, dtype=torch.float64))
    overlap = (angle - math.pi / 2, math.pi / 2)
    assert float(step) == pytest.approx(quad(lambda a: 1 / math.pi, *overlap)[0], abs=1e-12)
    products = quad(lambda a: 2 / math.pi * math.cos(a) * math.cos(a - angle), *overlap)[0]
    assert float(ramp) == pytest.approx(products, abs=1e-12)


def test_cosines_beyond_one_are_cut():
    step, ramp = arccos_kernels(torch.tensor([1 + 1e-12, -1 - 1e-12], dtype=torch.float64))
    assert step.tolist() == ramp.tolist() == [1, 0]


@pytest.mark.parametrize("filters", [[2], [2, 2], [3, 2, 2], [2, 3, 2]])
def test_the_diagonal_is_one_and_the_number_of_layers(filters):
    ones = torch.ones(math.prod(filters[1:]) * 2, 1, dtype=torch.float64)
    assert float(hierarchical_kernel(ones, filters, "rfk")) == pytest.approx(1, abs=1e-12)
    assert float(hierarchical_kernel(ones, filters, "ntk")) == pytest.approx(len(filters) + 1, abs=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_fully_connected_kernel_iterates_the_arccos_kernels_on_one_cosine(depth):
    x = points(7, 3, 3)
    cosines = patch_cosines(x, x, 3)
    sigma = theta = np.clip((x @ x.T / 3).numpy(), -1, 1)
    for _ in range(depth):
        angle = math.pi - np.arccos(sigma)
        ramp = (np.sqrt(1 - sigma**2) + angle * sigma) / math.pi
        sigma, theta = np.minimum(ramp, 1), angle / math.pi * theta + ramp
    off = ~np.eye(7, dtype=bool)  # on the diagonal the slope is infinite
    for kind, expected in (("rfk", sigma), ("ntk", theta)):
        ours = fully_connected_kernel(cosines, depth, kind).numpy()
        np.testing.assert_allclose(ours[off], expected[off], atol=1e-12)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_a_kernel_of_one_position_is_fully_connected():
    x = points(5, 1, 3)
    cosines = patch_cosines(x, x, 3)
    torch.testing.assert_close(hierarchical_kernel(cosines, [3, 1, 1]), fully_connected_kernel(cosines, 3))


@pytest.mark.parametrize("rows", [1, 4, 128])
def test_a_gram_matrix_in_blocks_is_that_at_once(rows):
    x = points(9, 4, 2)
    kernel = partial(hierarchical_kernel, filters=[2, 2, 2])
    whole = gram(kernel, x, 2, rows)
    assert torch.equal(whole, whole.T)
    torch.testing.assert_close(whole, kernel(patch_cosines(x, x, 2)), rtol=0, atol=1e-7)
    assert torch.linalg.eigvalsh(whole).min() > 0


def test_gradients_are_right():
    cosines = torch.tensor([[-0.7, 0.2], [0.1, 0.9], [0.3, -0.4], [0.8, 0.5]], dtype=torch.float64)
    for kind in ("ntk", "rfk"):
        kernel = partial(hierarchical_kernel, filters=[2, 2, 2], kind=kind)
        assert torch.autograd.gradcheck(kernel, cosines.requires_grad_())


# --- the spectrum -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 2, 8])
@pytest.mark.parametrize("kind", ["ntk", "rfk"])
def test_eigenvalues_on_a_circle_are_integrals(k, kind):
    kernel = partial(hierarchical_kernel, filters=[2], kind=kind)

    def integrand(phi):
        cosine = torch.tensor([math.cos(phi)], dtype=torch.float64)
        return float(kernel(cosine)) * math.cos(k * phi) / math.pi

    assert float(torus_spectrum(kernel, 1, 4096)[k]) == pytest.approx(
        quad(integrand, 0, math.pi)[0], abs=2e-7
    )


def test_one_layer_knows_no_products_and_no_odd_harmonics():
    values = torus_spectrum(partial(hierarchical_kernel, filters=[2]), 2, 128)
    assert values[1:, 1:].abs().max() < 1e-12
    assert values[3:60:2, 0].abs().max() < 1e-5
    assert values[2, 0] > 1e-3


def slopes(kernel, kind):
    even = list(range(8, 33, 2))
    values = torus_spectrum(partial(kernel, kind=kind), 2, 512)
    return [cost.exponent(even, values[at].tolist()).slope for at in ((even, 0), (even, even))]


@pytest.mark.parametrize(("kind", "two_nu"), [("ntk", 1), ("rfk", 3)])
def test_nested_patches_cost_a_power_that_full_connection_does_not(kind, two_nu):
    """C2 and its control, on a coarser grid."""
    one, both = slopes(partial(hierarchical_kernel, filters=[2, 2]), kind)
    assert (one, both) == (pytest.approx(-two_nu - 1, abs=0.15), pytest.approx(-two_nu - 2, abs=0.15))
    one, both = slopes(partial(fully_connected_kernel, depth=2), kind)
    assert one - both == pytest.approx(0, abs=0.1)


def test_no_eigenvalue_is_negative():
    for kind in ("ntk", "rfk"):
        assert (
            torus_spectrum(partial(hierarchical_kernel, filters=[2, 2, 2], kind=kind), 4, 16).min() > -1e-12
        )


# --- dimensions and rates ---------------------------------------------------------------------------------


def test_dimensions_and_exponents_are_those_of_the_page():
    assert [effective_dim([2, 2, 2], level) for level in (1, 2, 3)] == [1, 2, 4]
    assert effective_dim([3, 4], 2) == 8
    rates = [predicted_exponent(0.5, 0.5, effective_dim([2, 2, 2], level), 4) for level in (1, 2, 3)]
    assert rates == pytest.approx([5 / 8, 5 / 12, 1 / 4])
    assert [predicted_exponent(1.5, nu, p, p) for p in (2, 8) for nu in (0.5, 1.5)] == pytest.approx(
        [3 / 2, 3 / 2, 3 / 8, 3 / 8]
    )


def test_the_estimate_counts_modes():
    """The cut-off of n modes, counted on the torus, is where the estimate's power of n says."""
    values = torus_spectrum(partial(hierarchical_kernel, filters=[2, 2], kind="ntk"), 2, 512)
    sizes = [1000, 2000, 4000, 8000]
    largest = values.flatten().sort(descending=True).values
    found = cost.exponent(sizes, [float(largest[n]) for n in sizes]).slope
    assert found == pytest.approx(-(1 + 1 / 2), abs=0.25)


# --- finite networks --------------------------------------------------------------------------------------

# Of the authors' LocNet1dNT with filters 2, 2, three channels and eight inputs, its i-th parameter (readout
# first) sin(1 + i + j^1.3), at three of these points: outputs and products of gradients.
OUTPUTS = [0.03604176658790982, -0.28628363565756526, -0.026733771270378664]
PRODUCTS = [0.03837995367026361, 0.013056682599562035, 0.010235874573739725, 0.013056682599562035,
            0.14792420927279284, 0.028501160692688307, 0.010235874573739725, 0.028501160692688307,
            0.06486624604948055]  # fmt: skip


def test_a_network_is_the_authors_up_to_its_constants():
    net = LocalNet([2, 2], 3, 8, torch.Generator())

    def filled(i, *shape):
        steps = torch.arange(math.prod(shape), dtype=torch.float64)
        return torch.sin(1 + i + steps**1.3).reshape(shape)

    with torch.no_grad():
        # theirs: (out, in, positions, size) and (channels, positions)
        net.layers[0].copy_(filled(1, 3, 1, 4, 2).permute(2, 0, 3, 1).flatten(2))
        net.layers[1].copy_(filled(2, 3, 3, 2, 2).permute(2, 0, 3, 1).flatten(2))
        net.layers[2].copy_(filled(0, 3, 2).T.reshape(1, 1, -1))
    x = points(3, 4, 2)
    # sqrt(2) for each of two layers, and sqrt(s_1)
    torch.testing.assert_close(net(x).detach(), math.sqrt(8) * torch.tensor(OUTPUTS, dtype=torch.float64))
    theirs = torch.tensor(PRODUCTS, dtype=torch.float64).reshape(3, 3)
    torch.testing.assert_close(empirical_ntk(net, x), 8 * theirs)


@pytest.mark.parametrize(("filters", "d"), [([2], 4), ([3, 2], 12), ([2, 3, 2], 12)])
def test_a_network_is_grouped_convolutions(jolted, filters, d):
    net = jolted(LocalNet(filters, 5, d, stream(0, "net")))
    x = points(4, d // filters[0], filters[0])
    hidden = x[..., None]
    for depth, weight in enumerate(net.layers):
        positions, units, fan_in = weight.shape
        kernel = weight.reshape(positions * units, fan_in, 1) * (math.sqrt(2 / fan_in) if depth else 1)
        hidden = conv1d(hidden.reshape(4, -1, 1), kernel, groups=positions).reshape(4, positions, units)
        hidden = hidden.relu() if depth < len(filters) else hidden
    torch.testing.assert_close(net(x), hidden.flatten())


def test_products_of_gradients_are_those_of_autograds_jacobian():
    net = LocalNet([2, 2], 4, 8, stream(0, "net"))
    x = points(3, 4, 2)
    rows = torch.func.jacrev(lambda weights: torch.func.functional_call(net, weights, x))(
        dict(net.named_parameters())
    )
    jacobian = torch.cat([row.flatten(1) for row in rows.values()], 1)
    torch.testing.assert_close(empirical_ntk(net, x), (jacobian @ jacobian.T).detach())


def test_a_wider_network_is_closer_to_the_kernel_unless_its_factors_are_missing():
    x = points(4, 4, 2)
    exact = gram(partial(hierarchical_kernel, filters=[2, 2, 2]), x)

    def error(width, gain):
        nets = [LocalNet([2, 2, 2], width, 8, stream(i, f"net {width}"), gain) for i in range(4)]
        return float(np.mean([(empirical_ntk(net, x) - exact).norm() / exact.norm() for net in nets]))

    assert error(256, 2.0) < 0.2 < error(16, 2.0)
    assert error(256, 1.0) > 0.5


# --- targets and regression -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "patches", "s1"), [(1, 1, 2), (7, 3, 5)])
def test_patches_are_points_of_the_sphere(n, patches, s1):
    x = sample_multisphere(n, patches, s1, stream(0, "x"))
    assert x.shape == (n, patches * s1)
    torch.testing.assert_close(x.unflatten(1, (-1, s1)).norm(dim=-1), torch.ones(n, patches).double())
    assert torch.equal(x, sample_multisphere(n, patches, s1, stream(0, "x")))
    assert not torch.equal(x, sample_multisphere(n, patches, s1, stream(1, "x")))


def test_angles_are_uniform():
    x = sample_multisphere(20_000, 1, 2, stream(0, "angles"))
    angle = torch.atan2(x[:, 1], x[:, 0])
    for k in (1, 2, 3):
        assert float((k * angle).cos().mean().abs()) < 0.03


def test_a_field_has_its_covariance():
    covariance = torch.tensor([[1, 0.5, 0.1], [0.5, 2, -0.4], [0.1, -0.4, 1]], dtype=torch.float64)
    generator = stream(0, "field")
    draws = torch.stack([gaussian_field(covariance, generator) for _ in range(5000)])
    torch.testing.assert_close(draws.T @ draws / 5000, covariance, rtol=0, atol=0.1)


def test_a_random_network_is_a_field_with_the_kernel_of_outputs():
    x = points(6, 4, 2)
    covariance = hierarchical_kernel(patch_cosines(x, x, 2), [2, 2], "rfk")
    expected = gaussian_field(covariance, stream(0, "one"))
    torch.testing.assert_close(random_network(x, [2, 2], stream(0, "one")), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_regression_is_scikit_learns(ridge):
    x = sample_multisphere(60, 4, 2, stream(0, "x"))
    student = gram(partial(hierarchical_kernel, filters=[2, 2, 2]), x)
    targets = torch.randn(2, 60, dtype=torch.float64, generator=stream(0, "y"))
    found = learning_curves(student, targets, [5, 17, 40], ridge)
    assert found.shape == (2, 3)
    for row, target in zip(found, targets.numpy(), strict=True):
        for error, size in zip(row, (5, 17, 40), strict=True):
            theirs = KernelRidge(alpha=ridge + JITTER, kernel="precomputed")
            theirs.fit(student[:size, :size].numpy(), target[:size])
            guess = theirs.predict(student[40:, :size].numpy())
            assert float(error) == pytest.approx(np.mean((guess - target[40:]) ** 2), rel=1e-6)


def errors(kernel, x, targets):
    return learning_curves(gram(kernel, x), targets, [64, 128, 256])


def test_nested_patches_help_with_local_targets_and_not_if_coordinates_are_permuted():
    """C3 with fewer points: what it judges, and its ablation on the same quantity."""
    x = sample_multisphere(384, 4, 2, stream(3, "x"))
    nested = partial(hierarchical_kernel, filters=[2, 2, 2])
    teacher = gram(partial(hierarchical_kernel, filters=[2]), x)
    targets = torch.stack([gaussian_field(teacher, stream(i, "teacher")) for i in range(4)])
    swapped = x.unflatten(1, (4, 2)).mT.flatten(1).unflatten(1, (4, 2))
    swapped = (swapped / swapped.norm(dim=-1, keepdim=True)).flatten(1)
    connected = errors(partial(fully_connected_kernel, depth=3), x, targets)[:, -1]
    assert (errors(nested, x, targets)[:, -1] / connected).log().mean() < math.log(0.6)
    assert (errors(nested, swapped, targets)[:, -1] / connected).log().mean() > 0


def test_a_network_of_two_patches_is_learnt_faster_than_one_of_four():
    """C4a's number for four patches, and with the input cut to two."""
    x = sample_multisphere(640, 4, 2, stream(4, "x"))
    kernel = partial(hierarchical_kernel, filters=[2, 2, 2], kind="rfk")
    whole, part = (
        torch.stack([network(x, [2, 2, 2], stream(i, "network")) for i in range(4)])
        for network in (random_network, two_patches)
    )

    def times_four(targets):
        found = learning_curves(gram(kernel, x), targets, [64, 128, 256, 512])
        return np.mean([-4 * cost.exponent([64, 128, 256, 512], row.tolist()).slope for row in found])

    assert 2.25 < times_four(whole) < 3.75 < times_four(part)


# --- the mechanism without its heart ----------------------------------------------------------------------


def averaged_first(cosines, filters, kind="ntk"):
    """Where there is more than one level, the cosines of all patches are averaged before any nonlinearity."""
    if len(filters) == 1:
        return hierarchical_kernel(cosines, filters, kind)
    return hierarchical_kernel(cosines.mean(0, keepdim=True), [1] * len(filters), kind)


def two_patches(x, filters, generator):
    """A random network sees only the first two patches of its input, however many there are."""
    return random_network(x[:, : 2 * filters[0]], filters[:2], generator)


MUTATIONS = [("hierarchical_kernel", averaged_first), ("random_network", two_patches)]


# --- bad input --------------------------------------------------------------------------------------------

X = torch.ones(3, 8, dtype=torch.float64)
COSINES = torch.ones(4, 3, 3, dtype=torch.float64)
G = torch.Generator()
REFUSED = [
    (lambda: patch_cosines(X, X, 3), "s1 must be >= 1 and divide the dimension = 8, got 3"),
    (lambda: hierarchical_kernel(COSINES, [2, 3]), r"divide the patches, got \[2, 3\] for 4 patches"),
    (lambda: hierarchical_kernel(COSINES, []), r"got \[\] for 4 patches"),
    (lambda: hierarchical_kernel(COSINES, [2, 0]), r"filters must be >= 1 .* got \[2, 0\]"),
    (lambda: hierarchical_kernel(COSINES[:0], [2]), "for 0 patches"),
    (lambda: hierarchical_kernel(COSINES, [2], "gp"), "kind must be one of 'ntk', 'rfk', got 'gp'"),
    (lambda: fully_connected_kernel(COSINES, 0), "depth must be >= 1, got 0"),
    (lambda: gram(lambda cosines: cosines[0], X, 2, 0), "rows must be >= 1, got 0"),
    (lambda: effective_dim([2, 2], 3), r"level must be in 1\.\.2, got 3"),
    (lambda: effective_dim([2, 2], 0), r"level must be in 1\.\.2, got 0"),
    (lambda: LocalNet([2, 3], 4, 8, G), "product_of_filters must .* divide the dimension = 8, got 6"),
    (lambda: LocalNet([2], 0, 8, G), "width must be >= 1, got 0"),
    (lambda: torus_spectrum(torch.sum, 0, 8), "patches must be >= 1, got 0"),
    (lambda: torus_spectrum(torch.sum, 1, 3), "grid must be >= 4, got 3"),
    (lambda: sample_multisphere(0, 2, 2, G), "n must be >= 1, got 0"),
    (lambda: sample_multisphere(2, 2, 1, G), "s1 must be >= 2, got 1"),
    (lambda: learning_curves(COSINES[0], X[:1, :3], [3]), r"increase from >= 1 to < 3 points, got \[3\]"),
    (lambda: learning_curves(COSINES[0], X[:1, :3], [2, 1]), r"train_sizes must increase .* got \[2, 1\]"),
    (lambda: learning_curves(COSINES[0], X[:1, :3], [0, 1]), r"train_sizes must increase .* got \[0, 1\]"),
    (lambda: learning_curves(COSINES[0], X[:1, :3], [1], -1.0), r"ridge must be finite and >= 0, got -1\.0"),
    (lambda: learning_curves(COSINES[0], X[:1, :3], [1], math.nan), "ridge must be finite and >= 0, got nan"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
