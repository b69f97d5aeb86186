"""Gaunt tensor products: e3nn, scipy and sympy agree, all routes are one function, and aliasing breaks it."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y
from sympy.physics.wigner import gaunt
from torch.autograd import gradcheck

from fourfold.cost import exponent
from fourfold.frequency.gaunt_tensor_product import (
    GauntTP,
    InvariantNet,
    block,
    cg_tensor_product,
    clusters,
    convolve,
    density,
    equivariance_error,
    fast_length,
    fourier_to_sh,
    gaunt_many_body,
    gaunt_tensor,
    invariants,
    multiplications,
    multiply,
    op_count,
    path_constant,
    path_factor,
    paths,
    real_sh,
    rotate,
    scale_degrees,
    sh_to_fourier,
    solid_angle,
)

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}  # the record's C1 to C3


# --- mutations --------------------------------------------------------------------------------------------


def summed(first, second):
    """The convolution of Fourier coefficients is summed term by term, without an FFT."""
    return convolve(first, second)


def scalars(self, x, y):
    """The product keeps its degree 0 alone, which couples equal degrees and says nothing of directions."""
    z = x.new_zeros(*torch.broadcast_shapes(x.shape[:-1], y.shape[:-1]), (self.degrees[2] + 1) ** 2)
    shared = min(x.shape[-1], y.shape[-1])
    z[..., 0] = (x[..., :shared] * y[..., :shared]).sum(-1) / math.sqrt(4 * math.pi)
    return z


MUTATIONS = [("multiply", summed), ("GauntTP.__call__", scalars)]


def size(L: int) -> int:
    return (L + 1) ** 2


def dense(x, y, L1, L2, Lo):
    return torch.einsum("...i,...j,ijk->...k", x, y, gaunt_tensor(L1, L2, Lo))


def orthogonal(seed: int, inverted: bool = False) -> torch.Tensor:
    Q = torch.linalg.qr(normal(3, 3, seed=seed)).Q
    return Q * torch.linalg.det(Q).sign() * (-1 if inverted else 1)


# --- oracles ----------------------------------------------------------------------------------------------


def test_harmonics_are_those_of_e3nn_and_scipy():
    points = torch.cat([normal(50, 3), torch.eye(3), -torch.eye(3)]).double()
    theirs = o3.spherical_harmonics(list(range(9)), points, normalize=True, normalization="integral")
    torch.testing.assert_close(real_sh(8, points), theirs, **EXACT)
    y, z, x = (points / points.norm(dim=1, keepdim=True)).numpy().T
    theta, phi = np.arccos(z), np.arctan2(y, x)
    for degree, order in ((0, 0), (3, 0), (3, 2), (5, -1), (12, 7), (12, -12)):
        value = (-1) ** order * sph_harm_y(degree, abs(order), theta, phi)
        value = value.real if order == 0 else math.sqrt(2) * (value.real if order > 0 else value.imag)
        torch.testing.assert_close(
            real_sh(degree, points)[:, degree * (degree + 1) + order], torch.tensor(value), **EXACT
        )


def test_coefficients_of_order_0_are_those_of_sympy():
    coupling = gaunt_tensor(4, 3, 7)
    for l1, l2, l3 in paths(4, 3, 7):
        ours = coupling[l1 * (l1 + 1), l2 * (l2 + 1), l3 * (l3 + 1)]
        assert float(ours) == pytest.approx(float(gaunt(l1, l2, l3, 0, 0, 0)), abs=1e-13)


def test_each_path_is_a_multiple_of_e3nns_symbols_and_odd_ones_are_zero():
    coupling = gaunt_tensor(3, 2, 5)
    rebuilt = torch.zeros_like(coupling)
    for path in paths(3, 2, 5):
        factor = path_factor(path, coupling)
        assert abs(float(factor)) == pytest.approx(path_constant(*path), abs=1e-13)
        assert (path_constant(*path) == 0) == (sum(path) % 2 == 1)
        rebuilt[tuple(block(degree) for degree in path)] = factor * o3.wigner_3j(*path, dtype=torch.float64)
    torch.testing.assert_close(rebuilt, coupling, **EXACT)
    assert path_constant(1, 1, 4) == 0


def test_with_its_factors_the_path_loop_is_the_fourier_route():
    x, y = normal(5, size(3)), normal(5, size(2), seed=1)
    coupling = gaunt_tensor(3, 2, 4)
    factors = {path: float(path_factor(path, coupling)) for path in paths(3, 2, 4)}
    torch.testing.assert_close(cg_tensor_product(x, y, 3, 2, 4, factors), GauntTP(3, 2, 4)(x, y), **EXACT)
    alone = cg_tensor_product(x, y, 3, 2, 4, {(1, 1, 1): 2.0})
    cross = torch.linalg.cross(x[:, block(1)], y[:, block(1)])
    assert (alone[:, block(1)] / cross).std() < 1e-12  # the odd path of two vectors is their cross product
    assert not alone[:, block(2)].any()


# --- the route --------------------------------------------------------------------------------------------


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 8), st.integers(0, 1000))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_route_is_the_dense_contraction(L1, L2, Lo, seed):
    Lo = min(Lo, L1 + L2)
    x, y = normal(2, 1, size(L1), seed=seed), normal(3, size(L2), seed=seed + 1)
    z = GauntTP(L1, L2, Lo)(x, y)
    assert z.shape == (2, 3, size(Lo))
    torch.testing.assert_close(z, dense(x, y, L1, L2, Lo), **EXACT)


def test_the_spectrum_is_that_of_the_function_on_the_torus():
    L, n = 3, 9
    x = normal(size(L))
    grid = torch.fft.irfft2(sh_to_fourier(x, n), s=(n, n), norm="forward")
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    theta, phi = torch.meshgrid(angle, angle, indexing="ij")
    z, s = theta.cos(), theta.sin()
    points = torch.stack([s * phi.sin(), z, s * phi.cos()], dim=-1).reshape(-1, 3)
    torch.testing.assert_close(grid.flatten(), real_sh(L, points) @ x, **EXACT)


@pytest.mark.parametrize(("L", "n"), [(0, 1), (1, 3), (3, 8), (4, 9), (5, 30), (24, 49)])
def test_to_the_torus_and_back(L, n):
    x = normal(2, size(L))
    torch.testing.assert_close(fourier_to_sh(sh_to_fourier(x, n), L), x, **EXACT)


def test_many_bodies_are_products_of_products():
    x = normal(3, size(2))
    two = GauntTP(2, 2, 4)(x, x)
    torch.testing.assert_close(gaunt_many_body(x, 1, 2), x, **EXACT)
    torch.testing.assert_close(gaunt_many_body(x, 2, 4), two, **EXACT)
    torch.testing.assert_close(gaunt_many_body(x, 3, 6), GauntTP(4, 2, 6)(two, x), **EXACT)
    torch.testing.assert_close(gaunt_many_body(x, 4, 3), GauntTP(4, 4, 3)(two, two), **EXACT)


def test_weights_are_factors_of_degrees():
    x, y = normal(4, size(2)), normal(4, size(1), seed=1)
    weights = normal(3), normal(2, seed=1), normal(4, seed=2)
    z = GauntTP(2, 1, 3, weights)(x, y)
    by_hand = dense(scale_degrees(x, weights[0]), scale_degrees(y, weights[1]), 2, 1, 3)
    torch.testing.assert_close(z, scale_degrees(by_hand, weights[2]), **EXACT)


def test_gradients_in_float64():
    x, y = normal(2, size(2)).requires_grad_(), normal(2, size(1), seed=1).requires_grad_()
    weights = tuple(normal(n, seed=n).requires_grad_() for n in (3, 2, 3))
    assert gradcheck(lambda x, y, *w: GauntTP(2, 1, 2, w)(x, y), (x, y, *weights))
    assert gradcheck(partial(gaunt_many_body, nu=3, Lo=2), (x,))


def test_single_precision_stays_single_and_close():
    x, y = normal(4, size(8)), normal(4, size(8), seed=1)
    z = GauntTP(8, 8, 16)(x.float(), y.float())
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.double(), GauntTP(8, 8, 16)(x, y), rtol=0, atol=1e-4)


def test_same_input_same_bits():
    x, y = normal(4, size(3)), normal(4, size(3), seed=1)
    assert torch.equal(GauntTP(3, 3, 6)(x, y), GauntTP(3, 3, 6)(x, y))


# --- rotations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverted", [False, True])
def test_the_turned_function_has_the_old_values_at_turned_points(inverted):
    x, points, R = normal(3, size(4)), normal(20, 3), orthogonal(2, inverted)
    before, after = real_sh(4, points) @ x.T, real_sh(4, points @ R.T) @ rotate(x, R).T
    torch.testing.assert_close(after, before, **EXACT)
    assert torch.get_default_dtype() == torch.float32  # left as it was


def test_the_table_does_not_depend_on_the_axes_but_the_function_does():
    """Why C3 evaluates functions: products of coefficients cannot tell which axis is polar."""
    R = orthogonal(3)
    turned = torch.stack([rotate(row, R) for row in torch.eye(size(2), dtype=torch.float64)])
    coupling = gaunt_tensor(2, 2, 2)
    torch.testing.assert_close(
        torch.einsum("ai,bj,ck,ijk->abc", turned, turned, turned, coupling), coupling, **EXACT
    )
    x, points, axes = normal(size(2)), normal(20, 3), (1, 2, 0)
    before, after = (real_sh(2, p[:, axes]) for p in (points, points @ R.T))
    assert (after @ rotate(x, R) - before @ x).abs().max() > 0.1


@pytest.mark.parametrize("tilt", [0.0, 1e-9, 1e-5, 0.005, 0.02, 1.0, math.pi - 1e-5, math.pi])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_rotation_loses_digits(tilt, sign):
    R = sign * o3.angles_to_matrix(*torch.tensor([1.0, tilt, 0.5 * tilt], dtype=torch.float64))
    x, points = normal(size(8)), normal(20, 3)
    torch.testing.assert_close(real_sh(8, points @ R.T) @ rotate(x, R), real_sh(8, points) @ x, **EXACT)


@pytest.mark.parametrize("inverted", [False, True])
def test_the_product_is_equivariant_and_without_the_mechanism_it_is_not(inverted):
    x, y, R = normal(4, size(3)), normal(4, size(3), seed=1), orthogonal(4, inverted)
    assert equivariance_error(GauntTP(3, 3, 6), x, y, R) <= 1e-12
    coupling = normal(size(3), size(3), size(6), seed=2)
    assert equivariance_error(lambda x, y: torch.einsum("bi,bj,ijk->bk", x, y, coupling), x, y, R) > 0.5
    if not inverted:  # a pseudovector is as good a vector as long as nothing is mirrored
        assert equivariance_error(partial(cg_tensor_product, L1=3, L2=3, Lo=3), x, y, R) <= 1e-12


@pytest.mark.parametrize("L", [1, 2, 5])
def test_too_small_a_grid_aliases_and_the_verdicts_number_fails(L):
    x, y = normal(4, size(L)), normal(4, size(L), seed=1)
    truth = dense(x, y, L, L, L)
    torch.testing.assert_close(GauntTP(L, L, L, grid=4 * L + 1)(x, y), truth, **EXACT)
    aliased = GauntTP(L, L, L, grid=2 * L + 1)
    assert (aliased(x, y) - truth).abs().max() > 1e-2
    assert equivariance_error(aliased, x, y, orthogonal(5)) > 1e-2


# --- invariants and counts --------------------------------------------------------------------------------


def test_only_odd_paths_know_the_determinant():
    a, b, c = (v / v.norm(dim=1, keepdim=True) for v in normal(3, 50, 3))
    operands = [real_sh(2, v) for v in (a, b, c)]
    by_gaunt = invariants(GauntTP(2, 2, 2), *operands)
    by_cg = invariants(partial(cg_tensor_product, L1=2, L2=2, Lo=2), *operands)
    det = torch.linalg.det(torch.stack([a, b, c], dim=1))
    vectors = by_cg[:, 9 + 3 + 1]  # the path (1, 1, 1)
    assert (vectors / det).std() < 1e-10
    mirrored = [real_sh(2, -v) for v in (a, b, c)]
    torch.testing.assert_close(invariants(GauntTP(2, 2, 2), *mirrored), by_gaunt, **EXACT)
    assert by_gaunt.abs().amax(0).gt(1e-12).sum() == 11  # triangles up to 2, even sums
    assert by_cg.abs().amax(0).gt(1e-12).sum() == 11 + 4


def test_counts_are_those_of_the_tables():
    for L in (1, 2):
        assert op_count(L, "sparse") == 2 * int((gaunt_tensor(L, L, 2 * L).abs() > 1e-12).sum())
    # From degree 3 a few allowed coefficients vanish by accident: 708 of 714 remain.
    assert int((gaunt_tensor(3, 3, 6).abs() > 1e-12).sum()) == 708
    assert op_count(3, "sparse") == 2 * 714
    assert op_count(0, "paths") == 2
    assert op_count(1, "paths") == 16 + 1 + 3 * 3 * 3 + 27 + 45


def counted(product, L):
    return multiplications(product, *torch.empty(2, 1, size(L), device="meta"))


def test_multiplications_are_counted_while_the_product_runs():
    """The Fourier route against the sum of its steps by hand: two conversions there, FFTs, one back."""
    for L in (2, 5, 8):
        n = fast_length(2 * L)
        steps = {9: 4, 24: 5, 36: 6}.get(n) or {20: 6, 25: 8}[n]  # sum of p - 1 over the prime factors
        transforms = [4 * (n // 2 + 1) * n * steps + 4 * n * n * steps // 2] * 2
        back = 4 * n * n * steps // 2 + 4 * (n // 2 + 1) * n * steps
        convert = 2 * 2 * (L + 1) ** 2 * (2 * L + 1) + 2 * (2 * L + 1) ** 2 * n
        by_hand = convert + sum(transforms) + back + n * n
        assert counted(GauntTP(L, L, 2 * L), L) == pytest.approx(by_hand, rel=0.05)
    x, y = normal(1, 9), normal(1, 9)
    assert multiplications(lambda x, y: x[:, :, None] * y[:, None], x, y) == 81
    assert multiplications(lambda x, y: x @ y.T, x, y) == 9
    assert multiplications(lambda x, y: torch.complex(x, y) @ torch.complex(y, x).T, x, y) == 36
    assert multiplications(lambda x, y: torch.fft.fft(torch.complex(x, y)), x, y) == 4 * 9 * 4
    assert multiplications(lambda x, y: torch.fft.rfft(x), x, y) == 2 * 9 * 4


def test_without_the_fft_the_exponent_fails():
    degrees = range(8, 33, 8)

    def direct(L):
        there = partial(sh_to_fourier, n=fast_length(2 * L))
        return lambda x, y: fourier_to_sh(convolve(there(x), there(y)), 2 * L)

    sizes = [L + 1 for L in degrees]
    assert exponent(sizes, [op_count(L, "paths") for L in degrees]).slope > 5.7
    assert 4.8 < exponent(sizes, [op_count(L, "sparse") for L in degrees]).slope < 5.7
    assert exponent(sizes, [counted(direct(L), L) for L in degrees]).slope > 3.7
    assert exponent(sizes, [counted(GauntTP(L, L, 2 * L), L) for L in degrees]).slope < 3


@pytest.mark.parametrize(
    ("L1", "L2", "n"), [(0, 0, 1), (1, 2, 7), (2, 2, 9), (3, 2, 12), (2, 2, 5), (3, 3, 8)]
)
def test_the_sum_is_what_the_fft_computes(L1, L2, n):
    first, second = (sh_to_fourier(normal(4, size(L), seed=L), n) for L in (L1, L2))
    torch.testing.assert_close(convolve(first, second), multiply(first, second), **EXACT)


# --- a network on invariants ------------------------------------------------------------------------------


def test_solid_angles():
    x, y, z = torch.eye(3).double()
    assert float(solid_angle(x, y, z)) == pytest.approx(math.pi / 2)
    assert float(solid_angle(x, z, y)) == pytest.approx(math.pi / 2)  # a mirror changes nothing
    assert float(solid_angle(x, x, z)) == pytest.approx(0)
    three = [torch.tensor([math.cos(a), math.sin(a), 0.0]) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    assert float(solid_angle(*three)) == pytest.approx(2 * math.pi, abs=1e-3)  # half the sphere


def test_clusters_are_turned_without_a_change():
    drawn = clusters(5, 2, torch.Generator().manual_seed(0))
    assert drawn.directions.shape == (3, 5, 2, 3)
    assert drawn.energies.shape == (5,)
    first = [
        solid_angle(*(drawn.directions[kind, 0, i] for kind, i in enumerate(c))) for c in np.ndindex(2, 2, 2)
    ]
    assert float(drawn.energies[0]) == pytest.approx(float(sum(first)) / 8)
    product = partial(invariants, GauntTP(2, 2, 2))
    x, turned = (density(2, p) for p in (drawn.directions, drawn.directions @ orthogonal(1, inverted=True).T))
    torch.testing.assert_close(product(*x), product(*turned), **EXACT)
    torch.testing.assert_close(x[0, 0], real_sh(2, drawn.directions[0, 0]).sum(0), **EXACT)


def test_separable_weights_are_those_of_the_route():
    """A channel on invariants is the invariant of weighted operands: the network trains the product."""
    net, (x, y, z) = InvariantNet(27, separable=True).double(), normal(3, 5, size(2))
    first, second, third = net.weight.detach().double()[:, :, 0]
    weighted = GauntTP(2, 2, 2, (first, second, third))(x, y)
    channel = (weighted * z).sum(-1)
    made = invariants(GauntTP(2, 2, 2), x, y, z) @ torch.einsum("a,b,d->abd", first, second, third).flatten()
    torch.testing.assert_close(made, channel, **EXACT)
    features = invariants(GauntTP(2, 2, 2), x, y, z)
    weight = torch.einsum("ac,bc,dc->abdc", *net.weight.double().unbind()).flatten(0, 2)
    torch.testing.assert_close(net(features), net.head(features @ weight / 27**0.5)[:, 0])
    assert InvariantNet(81)(torch.zeros(4, 81)).shape == (4,)


@pytest.mark.parametrize("degree", [0, 1, 2, 8, 17, 24])
def test_grids_hold_the_product_and_have_small_factors(degree):
    n = fast_length(degree)
    assert 2 * degree + 1 <= n <= 2 * (2 * degree + 1)
    for p in (2, 3, 5):
        while n % p == 0:
            n //= p
    assert n == 1


# --- bad input --------------------------------------------------------------------------------------------


X = torch.zeros(2, 9)
REFUSED = [
    (lambda: real_sh(-1, torch.eye(3)), "L must be a degree >= 0, got -1"),
    (lambda: real_sh(2, torch.eye(2)), r"points must be \(N, 3\), got \(2, 2\)"),
    (lambda: real_sh(2, torch.zeros(1, 3)), "points must have a direction"),
    (lambda: gaunt_tensor(1, -1, 1), "L2 must be a degree >= 0, got -1"),
    (lambda: gaunt_tensor(20, 20, 40), "L1 .* must be <= 48, .* got 80"),
    (lambda: GauntTP(-1, 1, 0), "L1 must be a degree >= 0, got -1"),
    (lambda: GauntTP(2, 1, 4), r"Lo must be in 0\.\.3, .* got 4"),
    (lambda: GauntTP(2, 2, 2, grid=4), "grid must be >= 5, got 4"),
    (lambda: GauntTP(1, 1, 2, grid=3), "grid must be >= 5, got 3"),
    (lambda: GauntTP(1, 1, 2, (X[0, :2], X[0, :2], X[0, :2])), r"weights must have shapes .*\(3,\).*got"),
    (lambda: GauntTP(2, 1, 3)(X, X), r"y must be \(\.\.\., 4\) for degree 1, got \(2, 9\)"),
    (lambda: GauntTP(1, 2, 3)(X, X), r"x must be \(\.\.\., 4\) for degree 1, got \(2, 9\)"),
    (lambda: cg_tensor_product(X, X, 2, 3, 2), r"y must be \(\.\.\., 16\) for degree 3"),
    (lambda: sh_to_fourier(X, 4), "n must be >= 5 for degree 2, got 4"),
    (lambda: sh_to_fourier(X[:, :8], 9), r"x must be \(\.\.\., \(L\+1\)\^2\) .* got \(2, 8\)"),
    (lambda: fourier_to_sh(sh_to_fourier(X, 5), 3), r"Lo must be in 0\.\.2 for 3 orders, got 3"),
    (lambda: gaunt_many_body(X, 0, 1), "nu, .* must be >= 1, got 0"),
    (lambda: gaunt_many_body(X, 2, 5), r"Lo must be in 0\.\.4, .* got 5"),
    (lambda: rotate(X, torch.ones(3, 3)), "R must be an orthogonal 3 x 3 matrix"),
    (lambda: op_count(3, "gemm"), "method must be paths or sparse, got 'gemm'"),
    (lambda: op_count(-1, "paths"), "L must be a degree >= 0, got -1"),
    (lambda: convolve(sh_to_fourier(X, 5), sh_to_fourier(X, 6)), "spectra must share n, got 5 and 6"),
    (lambda: clusters(0, 2, torch.Generator()), "n and atoms must be >= 1, got 0 and 2"),
    (lambda: InvariantNet(26, separable=True), r"triples of degrees, \(L\+1\)\^3, got 26"),
    (lambda: multiply(sh_to_fourier(X, 5), sh_to_fourier(X, 6)), "spectra must share n, got 5 and 6"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
