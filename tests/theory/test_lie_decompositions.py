"""Lie decompositions: SciPy finds the same factors and logarithms, the measure is Haar's, turns commute."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import linalg

from fourfold import cost
from fourfold.matrices import inverse, rotation, shear, sym_exp, symmetric
from fourfold.theory.lie_decompositions import (
    DIM,
    AffineNet,
    GroupConv,
    LiftConv,
    RandomLayer,
    Resampled,
    Siren,
    bump,
    change,
    draw_two,
    grid,
    haar_weight,
    in_exp_image,
    lognormal_weight,
    polar,
    published,
    relative,
    sample,
    weighted,
    xi,
    xi_inv,
)
from fourfold.training import seeded, stream

from ..draws import normal

GROUPS = ("sl2", "gl2")
ONE = torch.eye(2, dtype=torch.float64)


def samples(group, n, seed=0, var=0.1):
    return sample(group, n, stream(seed, "samples"), var)


# --- coordinates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("var", [0.1, 1.0])
def test_the_decomposition_is_scipys(group, var):
    for g in relative(group, 64, var):
        x, theta = polar(g)
        turn, stretch = linalg.polar(g.numpy(), side="left")
        np.testing.assert_allclose(rotation(theta), turn, rtol=0, atol=1e-12)
        np.testing.assert_allclose(sym_exp(x), stretch, rtol=1e-12 * np.linalg.cond(g), atol=1e-12)
        np.testing.assert_allclose(x, np.real(linalg.logm(stretch)), rtol=0, atol=1e-11)
        np.testing.assert_allclose(linalg.expm(x.numpy()), stretch, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("var", [0.1, 1.0, 4.0])
def test_coordinates_go_both_ways(group, var):
    g = relative(group, 4096, var)
    c = xi_inv(g, group)
    assert c.shape == (4096, DIM[group])
    size = g.flatten(1).abs().amax(1)
    assert float(((xi(c, group) - g).flatten(1).abs().amax(1) / size).max()) <= 1e-9
    torch.testing.assert_close(xi_inv(xi(c, group), group), c, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("group", GROUPS)
def test_scipy_finds_a_real_logarithm_where_trace_and_determinant_say_so(group):
    g = relative(group, 300, 1.0)
    imaginary = [np.abs(np.imag(linalg.logm(one.numpy()))).max() > 1e-8 for one in g]
    assert (~in_exp_image(g)).tolist() == imaginary
    assert 0 < sum(imaginary) < 150


def test_coordinates_have_the_codes_order_and_metric():
    x = torch.tensor([[0.3, 0.2], [0.2, -0.3]], dtype=torch.float64)
    g = sym_exp(x) @ rotation(torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(
        xi_inv(g, "gl2"), torch.tensor([0.3, 0.2 * 2**0.5, -0.3, 0.7], dtype=torch.float64)
    )
    torch.testing.assert_close(
        xi_inv(g, "sl2"), torch.tensor([0.2 * 2**0.5, 0.7, 0.3 * 2**0.5], dtype=torch.float64)
    )


@pytest.mark.parametrize("n", [4, 8, 10])
def test_rounding_does_not_choose_a_side_of_the_cut(n):
    turns = sample("so2", n, stream(0, "x"))
    theta = polar(turns[1][:, None] @ turns[0])[1]
    opposite = (torch.arange(n)[:, None] - torch.arange(n)).abs() == n // 2
    assert float(theta[opposite].min()) > 3


def test_a_common_left_factor_does_not_matter():
    g, other, h = (
        relative("gl2", 50),
        relative("gl2", 50, 1.0),
        shear(0.4) @ rotation(torch.tensor(1.0, dtype=torch.float64)),
    )
    torch.testing.assert_close(xi_inv(inverse(h @ g) @ (h @ other), "gl2"), xi_inv(inverse(g) @ other, "gl2"))


# --- measure and samples ----------------------------------------------------------------------------------


def test_the_weight_is_the_jacobian_over_haars_density_in_the_entries():
    """The measure of GL(2) in its entries is ``dg / det(g)^2``, whatever the decomposition."""

    def entries(c):
        return (sym_exp(symmetric(c[:3]) / 2) @ rotation(c[3])).flatten()

    def density(c):
        jacobian = torch.autograd.functional.jacobian(entries, c)
        return float(torch.linalg.det(jacobian).abs() / torch.linalg.det(entries(c).view(2, 2)) ** 2)

    near_one = density(torch.tensor([1e-4, 0, 0, 0], dtype=torch.float64))
    for c in normal(12, 4):
        assert density(c) / near_one == pytest.approx(float(haar_weight(symmetric(c[:3]))), rel=1e-6)


@pytest.mark.parametrize("group", GROUPS)
def test_integrals_do_not_move_and_without_weight_they_do(group):
    nodes, log_s = grid(group, 31, 20)
    h = shear(0.6) @ rotation(torch.tensor(0.4, dtype=torch.float64))
    f = bump(nodes), bump(h @ nodes)
    right, flat = (
        float((w * f[1]).sum() / (w * f[0]).sum()) for w in (haar_weight(log_s), torch.ones(len(nodes)))
    )
    assert right == pytest.approx(1, abs=1e-5)
    assert abs(flat - 1) > 0.01


@pytest.mark.parametrize(("group", "n"), [("so2", 1), ("so2", 7), ("sl2", 5), ("gl2", 10)])
def test_samples_and_their_inverses(group, n):
    g, back = samples(group, n)
    torch.testing.assert_close(g @ back, ONE.expand(n, 2, 2))
    x, theta = polar(g)
    torch.testing.assert_close(theta.sort().values.diff(), torch.full((n - 1,), 2 * math.pi / n).double())
    if group == "so2":
        assert float(x.abs().max()) < 1e-12
    if group == "sl2":
        torch.testing.assert_close(torch.linalg.det(g), torch.ones(n).double())
    assert torch.equal(g, samples(group, n)[0])
    assert not torch.equal(g, samples(group, n, seed=1)[0]) or group == "so2"


@pytest.mark.parametrize("group", GROUPS)
def test_samples_have_the_published_spread(group):
    log_s = 2 * polar(samples(group, 40_000)[0])[0]
    assert float(log_s.square().sum((1, 2)).mean()) == pytest.approx(0.1 * (DIM[group] - 1), rel=0.03)
    far = lognormal_weight(log_s) / lognormal_weight(log_s, 0.2)
    torch.testing.assert_close(far, (-log_s.square().sum((1, 2)) / 0.4).exp())


def test_weighted_samples_estimate_invariant_integrals():
    nodes, log_s = grid("sl2", 37, 24)
    w = haar_weight(log_s)
    exact = float((w * bump(nodes)).sum() / (w * bump(nodes) * bump(nodes)).sum())
    g, weights = weighted("sl2", 100_000, stream(0, "w"))
    found = float((weights * bump(g)).sum() / (weights * bump(g) ** 2).sum())
    assert found == pytest.approx(exact, rel=0.02)
    g, weights = published("sl2", 100_000, stream(0, "w"))
    assert abs(float((weights * bump(g)).sum() / (weights * bump(g) ** 2).sum()) / exact - 1) > 0.1


# --- layers -----------------------------------------------------------------------------------------------


def test_a_layer_is_equivariant_with_the_invariant_measure_alone():
    nodes, log_s = grid("sl2", 41, 24)
    weights = torch.stack([haar_weight(log_s), torch.ones(len(nodes)), lognormal_weight(log_s)])
    layer, h = RandomLayer("sl2", 3), shear(0.7)
    right, flat, sampler = change(
        layer.response(ONE, nodes, weights), layer.response(h, nodes, weights)
    ).tolist()
    assert right < 1e-4
    assert flat > 0.02
    assert sampler > 0.2


def test_of_narrow_features_the_change_is_a_common_factor_and_of_wide_ones_it_is_not():
    nodes, log_s = grid("sl2", 49, 24)
    weights = lognormal_weight(log_s)[None]

    def changes(width, **how):
        layers = [RandomLayer("sl2", i, width=width) for i in range(3)]
        both = [[layer.response(h, nodes, weights) for h in (ONE, shear(0.2))] for layer in layers]
        return sum(float(change(*pair, **how)) for pair in both) / 3

    assert changes(0.1, forgive=True) < 0.1 < 0.15 < changes(0.3, forgive=True)
    assert all(0.15 < changes(width) < 0.3 for width in (0.1, 0.3, 0.6))


def test_change_forgives_a_common_factor_and_nothing_else():
    still = normal(2, 3, 4)
    torch.testing.assert_close(change(still, 3 * still), torch.full((2,), 2.0).double())
    assert float(change(still, 3 * still, forgive=True).max()) < 1e-12
    assert float(change(still, normal(2, 3, 4, seed=1), forgive=True).min()) > 0.3


def by_hand(conv, x, inputs, out_inverse):
    """The layer's formula, one value at a time."""
    batch, _, gin, height, width = x.shape
    k, p = conv.places.shape[0], conv.padding
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 0), (p, p), (p, p)))
    grid_ = (2 * np.arange(k) + 1) / k - 1
    out = np.zeros(
        (batch, conv.siren.shape[0], len(out_inverse), height + 2 * p - k + 1, width + 2 * p - k + 1)
    )
    for (o, back), i in product(enumerate(out_inverse), range(gin)):
        relative_ = xi_inv(back @ inputs[i], conv.group)
        for row, column in product(range(k), range(k)):
            at = back.numpy() @ [grid_[column], grid_[row]]
            inside = float(np.linalg.norm(at) <= 1)
            if conv.group == "gl2":
                every = at if conv.lifting else np.concatenate([at, relative_])
                inside = 1 / (1 + np.exp(-2 * (1 - np.linalg.norm(every))))
            asked = torch.from_numpy(at) if conv.lifting else torch.cat([torch.from_numpy(at), relative_])
            kernel = conv.siren(asked).detach().numpy() * inside * float(torch.linalg.det(back)) / gin
            patch = padded[:, :, i, row : row + out.shape[-2], column : column + out.shape[-1]]
            out[:, :, o] += np.einsum("oc,bchw->bohw", kernel, patch)
    return out


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("make", [LiftConv, GroupConv])
def test_layers_are_their_formula(group, make, jolted):
    conv = jolted(make, group, 2, 3, 3, 1, by=0.05)
    x = normal(2, 2, 1 if make is LiftConv else 4, 6, 5)
    inputs, out_inverse = samples(group, 4)[0], samples(group, 3, seed=1)[1]
    found = conv(x, inputs, out_inverse).detach()
    np.testing.assert_allclose(found, by_hand(conv, x, inputs, out_inverse), rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", GROUPS)
def test_a_quarter_turn_of_image_and_samples_turns_what_comes_out(group):
    """On the screen y points down, so that ``rot90`` is a turn by -90 degrees in (x, y)."""
    with seeded(0):
        net = AffineNet(group, 3).double().eval()
    turn = rotation(torch.tensor(-math.pi / 2, dtype=torch.float64))
    x = normal(2, 1, 14, 14)
    draws = samples(group, 4), samples(group, 5, seed=1)
    turned = [(turn @ g, back @ turn.mT) for g, back in draws]
    still, moved = net.stages(x, *draws), net.stages(torch.rot90(x, 1, (2, 3)), *turned)
    for one, other in zip(still, moved, strict=True):
        torch.testing.assert_close(other, torch.rot90(one, 1, (3, 4)), rtol=0, atol=1e-10)
    torch.testing.assert_close(net(torch.rot90(x, 1, (2, 3)), *turned), net(x, *draws), rtol=0, atol=1e-10)
    assert float((net(torch.rot90(x, 1, (2, 3)), *draws) - net(x, *draws)).detach().abs().max()) > 1e-3


def test_gradients_reach_image_and_kernel(jolted):
    conv = jolted(GroupConv, "gl2", 1, 1, 3, by=0.05)
    inputs, out_inverse = samples("gl2", 2)[0], samples("gl2", 2, seed=1)[1]
    x = normal(1, 1, 2, 4, 4).requires_grad_()
    weight = conv.siren.layers[0].weight

    def outputs(x, w):
        return torch.func.functional_call(conv, {"siren.layers.0.weight": w}, (x, inputs, out_inverse))

    assert torch.autograd.gradcheck(outputs, (x, weight.detach().clone().requires_grad_()))


def test_ordinary_kernels_are_the_identity_alone_and_sizes_are_the_codes():
    first, last = draw_two(None, 10, stream(0, "x"))
    assert first[0].shape == (1, 2, 2)
    assert torch.equal(first[0], last[1])
    with torch.device("meta"):
        sizes = [cost.parameters(AffineNet(group)) for group in GROUPS]
    assert sizes == [339_102, 339_282]


def test_pooled_features_are_those_of_the_stages():
    with seeded(0):
        net = AffineNet("sl2", 2).double()
    draws, x = draw_two("sl2", 3, stream(0, "x")), normal(2, 1, 14, 14)
    stages = net.stages(x, *draws)
    found = net.pooled(x, *draws)
    assert found.shape == (2, 18)
    torch.testing.assert_close(found[:, 6:8], stages[1].amax((2, 3, 4)))
    torch.testing.assert_close(found[:, 14:16], stages[2].mean((2, 3, 4)))


def test_samples_are_drawn_at_every_pass():
    with seeded(0):
        net = Resampled(AffineNet("sl2", 2).double(), "sl2", 3, stream(0, "x")).eval()
    x = normal(1, 1, 14, 14)
    assert not torch.equal(net(x), net(x))


def test_a_layers_noise_falls_with_the_number_of_samples():
    layer = RandomLayer("sl2", 0, 1)
    few, many = layer.noisy_change(ONE, weighted, [20, 2000], stream(0, "x"))
    assert 4 < few / many < 25
    again = layer.noisy_change(ONE, weighted, [20, 2000], stream(0, "x"))
    assert [few, many] == again


# --- mutations --------------------------------------------------------------------------------------------


def no_rotation(g):
    """The decomposition loses its rotation."""
    x, theta = polar(g)
    return x, torch.zeros_like(theta)


def lebesgue(log_s):
    """The measure of the symmetric part is flat in log S."""
    return torch.ones_like(log_s[..., 0, 0])


def rotations_only(group, n, generator, var=0.1):
    """Samples lose their symmetric part."""
    return sample("so2", n, generator, var)


MUTATIONS = [("polar", no_rotation), ("haar_weight", lebesgue), ("sample", rotations_only)]


def test_mutations_take_away_what_they_say():
    g = relative("gl2", 20)
    torch.testing.assert_close(no_rotation(g)[0], polar(g)[0])
    assert float(no_rotation(g)[1].abs().max()) == 0
    assert torch.equal(lebesgue(g), torch.ones(20).double())
    assert torch.equal(rotations_only("gl2", 4, stream(0, "x"))[0], sample("so2", 4, stream(1, "x"))[0])


# --- bad input --------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: xi(ONE, "so3"), "group must be one of 'sl2', 'gl2', got 'so3'"),
    (lambda: xi_inv(ONE, "so2"), "group must be one of 'sl2', 'gl2', got 'so2'"),
    (lambda: sample("o2", 3, stream(0, "x")), "group must be one of 'so2', 'sl2', 'gl2', got 'o2'"),
    (lambda: sample("sl2", 0, stream(0, "x")), "n must be >= 1, got 0"),
    (lambda: samples("sl2", 3, var=0.0), "var must be finite and > 0, got 0.0"),
    (lambda: samples("sl2", 3, var=math.nan), "var must be finite and > 0, got nan"),
    (lambda: GroupConv("gl2", 1, 1, 4), "kernel must be odd and >= 3, got 4"),
    (lambda: LiftConv("gl2", 1, 1, 1), "kernel must be odd and >= 3, got 1"),
    (lambda: GroupConv("so2", 1, 1), "group must be one of 'sl2', 'gl2', got 'so2'"),
    (lambda: GroupConv("sl2", 1, 1, 5, -1), "padding must be >= 0, got -1"),
    (lambda: AffineNet("sl2", 0), "channels must be >= 1, got 0"),
    (lambda: Siren(0, 1, 1, 5), "inputs must be >= 1, got 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused_with_name_value_and_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
