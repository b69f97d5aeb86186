"""Transformer UAT: floors are conditional means, built networks numpy's interpolation, attention torch's."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from fourfold import cost
from fourfold.attention import Attention
from fourfold.theory.transformer_uat import (
    FixedMixing,
    FlatNetwork,
    SingleLayerTransformer,
    TrigPolynomial,
    attend,
    attend_backward,
    averaged,
    build_constructive,
    constant_part,
    equivariant_part,
    error_bound,
    gather_error,
    gathering,
    knots_for,
    own_token_part,
    pooled_part,
    retrieval,
    trig_target,
    wave_mean,
)
from fourfold.training import seeded, stream


def target(n=3, waves=12, d=1, seed=0):
    return trig_target(n, waves, stream(seed, "target"), d)


def cube(count, n=3, d=1, seed=0):
    return torch.rand(count, n, d, generator=stream(seed, "x"), dtype=torch.float64)


# --- targets and floors -----------------------------------------------------------------------------------


def test_the_frequencies_are_the_first_above_zero():
    listed = target().frequencies[..., 0].int().tolist()
    assert listed[:5] == [[0, 0, 1], [0, 0, 2], [0, 1, -1], [0, 1, 0], [0, 1, 1]]
    assert listed[-1] == [1, -1, 0]
    assert target(n=2, waves=8, d=2).frequencies.shape == (8, 2, 2)


@pytest.mark.parametrize(("n", "d"), [(3, 1), (2, 2), (4, 1)])
def test_a_target_is_a_sum_of_cosines(n, d):
    f, x = target(n, 8, d), cube(5, n, d)
    for t in range(n):
        by_hand = sum(
            abs(c) * np.cos(math.pi * (k.numpy() * x.numpy()).sum((1, 2)) + np.angle(c))
            for k, c in zip(f.frequencies, f.coefficients[t].numpy(), strict=True)
        )
        np.testing.assert_allclose(f(x)[:, t, 0], by_hand, rtol=0, atol=1e-12)
    assert f(x.float()).dtype == torch.float32


def test_means_are_what_quadrature_finds():
    nodes, weights = np.polynomial.legendre.leggauss(24)
    x = torch.cartesian_prod(*[torch.tensor((nodes + 1) / 2)] * 3)[..., None]
    w = torch.cartesian_prod(*[torch.tensor(weights / 2)] * 3).prod(1)
    f = target()
    mean_square = (w[:, None] * f(x)[..., 0].square()).sum(0).mean()
    assert f.rms() == pytest.approx(math.sqrt(float(mean_square)), rel=1e-12)
    waves = torch.exp(1j * math.pi * (x.flatten(1) @ f.frequencies.flatten(1).T))
    torch.testing.assert_close(wave_mean(f.frequencies), (w[:, None] * waves).sum(0), rtol=0, atol=1e-12)
    overall = (w[:, None] * f(x)[..., 0]).sum(0).mean()
    torch.testing.assert_close(constant_part(f)(x[:1])[0, 2, 0], overall)


def test_the_floor_without_mixing_is_what_binning_finds():
    """The card's oracle: 100 bins of the own token, 200 000 draws, 2 %."""
    f, x = target(), cube(200_000)
    values, within = f(x)[..., 0].numpy(), 0.0
    for t in range(3):
        bins = (x[:, t, 0].numpy() * 100).astype(int)
        counts, sums = np.bincount(bins), np.bincount(bins, values[:, t])
        within += np.mean((values[:, t] - (sums / counts)[bins]) ** 2) / 3
    assert (f - own_token_part(f)).rms() == pytest.approx(math.sqrt(within), rel=0.02)


@pytest.mark.parametrize("part", [constant_part, own_token_part, equivariant_part, pooled_part])
@pytest.mark.parametrize(("n", "waves", "d"), [(3, 12, 1), (2, 8, 1), (2, 7, 2)])
def test_parts_are_orthogonal_projections(part, n, waves, d):
    f = target(n, waves, d)
    kept = part(f)
    assert (part(kept) - kept).rms() < 1e-7
    assert f.rms() ** 2 == pytest.approx(kept.rms() ** 2 + (f - kept).rms() ** 2, rel=1e-10)


def test_what_parts_see():
    f, x = target(), cube(20)
    other = x.roll(1, 0)
    for t in range(3):
        alone = other.clone()
        alone[:, t] = x[:, t]
        torch.testing.assert_close(own_token_part(f)(alone)[:, t], own_token_part(f)(x)[:, t])
        swapped = x[:, [p if p == t else 3 - t - p for p in range(3)]]
        torch.testing.assert_close(pooled_part(f)(swapped)[:, t], pooled_part(f)(x)[:, t])
    for order in map(list, permutations(range(3))):
        torch.testing.assert_close(equivariant_part(f)(x[:, order]), equivariant_part(f)(x)[:, order])


def test_an_average_by_hand():
    f, x = target(), cube(4)
    orders = list(permutations(range(3)))
    total = torch.zeros(4, 3, 1, dtype=torch.float64)
    for order in orders:
        total[:, list(order)] += f(x[:, list(order)])
    # Summing f(pi x) back to where its tokens came from.
    torch.testing.assert_close(averaged(f, [tuple(np.argsort(o)) for o in orders])(x), total / 6)
    torch.testing.assert_close(equivariant_part(f)(x), total / 6)


# --- the layer --------------------------------------------------------------------------------------------


def test_the_layer_is_torchs_attention_and_linear_layers(jolted):
    net, x = jolted(SingleLayerTransformer, 5, 2, 12, 3, 7), cube(4, 5, 2)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    three = (net.mixing.query, net.mixing.key, net.mixing.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in three]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in three]))
        theirs.out_proj.load_state_dict(net.mixing.projection.state_dict())
        z = net.embedding(x) + net.positions
        expected = net.down(torch.relu(net.up(z + theirs(z, z, z)[0])))
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)


def test_a_fixed_mixing_is_attention_whose_scores_are_given(jolted):
    mixing, x = jolted(FixedMixing, 4, 6, 2), cube(3, 4, 6)
    bias = mixing.scores.expand(3, -1, -1, -1)
    values = mixing.value(x).view(3, 4, 2, 3).transpose(1, 2)
    nothing = torch.zeros_like(values)
    expected = mixing.projection(
        scaled_dot_product_attention(nothing, nothing, values, attn_mask=bias)
        .transpose(1, 2)
        .reshape(3, 4, 6)
    )
    torch.testing.assert_close(mixing(x)[0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixing(2 * x)[1], mixing(x)[1])


@pytest.mark.parametrize("mixing", ["attention", "uniform"])
def test_only_positions_break_the_symmetry(jolted, mixing):
    x, order = cube(6, 5, 2), [3, 0, 4, 1, 2]
    for positions in (False, True):
        net = jolted(SingleLayerTransformer, 5, 2, 12, 3, 7, positions=positions, mixing=mixing)
        gap = float((net(x[:, order]) - net(x)[:, order]).detach().abs().max())
        assert gap > 1e-3 if positions else gap < 1e-12


def test_what_does_not_mix_sees_one_token(jolted):
    x = cube(6, 5, 2)
    moved = x.clone()
    moved[:, 1:] = 0
    for mixing, sees in (("none", False), ("fixed", True), ("uniform", True), ("attention", True)):
        net = jolted(SingleLayerTransformer, 5, 2, 12, 3, 7, mixing=mixing)
        assert bool(((net(x) - net(moved))[:, 0].detach().abs() > 1e-6).any()) is sees


def test_gradients_of_the_layer(jolted):
    for mixing in ("attention", "fixed"):
        net = jolted(SingleLayerTransformer, 3, 2, 4, 2, 5, mixing=mixing)
        assert torch.autograd.gradcheck(net, cube(2, 3, 2).requires_grad_())
    assert torch.autograd.gradcheck(jolted(FlatNetwork, 3, 2, 5), cube(2, 3, 2).requires_grad_())


def test_parameters_by_their_closed_form():
    n, d, dim, hidden = 5, 2, 12, 7
    rest = dim * (d + 1) + n * dim + hidden * (dim + 2) + 1
    assert cost.parameters(SingleLayerTransformer(n, d, dim, 3, hidden)) == rest + 4 * dim**2 + 4 * dim
    fixed = SingleLayerTransformer(n, d, dim, 3, hidden, mixing="fixed")
    assert cost.parameters(fixed) == rest + 2 * dim**2 + 2 * dim + 3 * n * n
    assert cost.parameters(SingleLayerTransformer(n, d, dim, 3, hidden, mixing="none")) == rest


def test_weights_come_from_the_seed():
    nets = []
    for seed in (1, 1, 2):
        with seeded(seed):
            nets.append(SingleLayerTransformer(3, 1, 6, 2, 5, mixing="fixed"))
    one, same, other = (net(cube(2).float()) for net in nets)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# --- the construction -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 1), (3, 2), (5, 1)])
def test_sharp_attention_gathers_the_whole_sequence(n, d):
    x = cube(6, n, d)
    seen = gathering(n, d, 40.0).mixed(x).detach()
    torch.testing.assert_close(seen[..., :d], x)
    everything = x.flatten(1)[:, None].expand(-1, n, -1)
    torch.testing.assert_close(seen[..., d : d + n * d], everything, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[0, :, d + n * d : d + n * d + n], torch.eye(n, dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.0, 1.0, 7.0])
def test_what_gathering_costs(beta):
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    seen = gathering(3, 1, beta).mixed(corners[..., None]).detach()[..., 1:4]
    assert float((seen - corners[:, None]).abs().max()) == pytest.approx(gather_error(3, beta), rel=1e-9)
    inside = gathering(3, 1, beta).mixed(cube(500)).detach()[..., 1:4] - cube(500)[:, None, :, 0]
    assert float(inside.abs().max()) <= gather_error(3, beta)


@pytest.mark.parametrize(("n", "waves", "d"), [(3, 12, 1), (2, 9, 2)])
@pytest.mark.parametrize("knots", [1, 3, 8])
def test_the_built_network_is_numpys_interpolation(n, waves, d, knots):
    f, x = target(n, waves, d), cube(40, n, d)
    net = build_constructive(f, knots, 40.0)
    assert net.up.out_features == n * waves * knots + n
    for t in range(n):
        total = np.zeros(40)
        for k, c in zip(f.frequencies.numpy(), f.coefficients[t].numpy(), strict=True):
            places = np.linspace(np.minimum(k, 0).sum(), np.maximum(k, 0).sum(), knots + 1)
            waves_there = abs(c) * np.cos(math.pi * places + np.angle(c))
            total += np.interp((k * x.numpy()).sum((1, 2)), places, waves_there)
        np.testing.assert_allclose(net(x).detach()[:, t, 0], total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("beta", [2.0, 5.0, 40.0])
@pytest.mark.parametrize("knots", [4, 16])
def test_the_bound_holds(knots, beta):
    f, x = target(seed=3), cube(2000)
    error = float((build_constructive(f, knots, beta)(x) - f(x)).detach().abs().max())
    assert error <= error_bound(f, knots, beta)
    assert error_bound(f, knots) <= error_bound(f, knots, beta)


@pytest.mark.parametrize("error", [1.0, 0.03])
def test_knots_are_the_fewest_for_an_error(error):
    f = target(seed=3)
    knots = knots_for(f, error)
    assert error_bound(f, knots) <= error < error_bound(f, knots - 1)


def test_neither_four_knots_nor_scores_of_zero_are_enough():
    """C1's ablation and its mutation, on one target."""
    f, x = target(), cube(500)
    for net in (build_constructive(f, 4, 40.0), build_constructive(f, 52, 0.0)):
        assert float((net(x) - f(x)).detach().abs().max()) > 0.5


# --- attention by hand, retrieval -------------------------------------------------------------------------


def test_attention_and_its_gradient_are_torchs():
    q, k, v, g = (torch.randn(2, 3, 5, 4, generator=stream(1, "qkv"), dtype=torch.float64) for _ in range(4))
    for tensor in (q, k, v):
        tensor.requires_grad_()
    theirs = scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v)[0], theirs, rtol=0, atol=1e-12)
    expected = torch.autograd.grad(theirs, (q, k, v), g)
    for ours, gradient in zip(attend_backward(q, k, v, g), expected, strict=True):
        torch.testing.assert_close(ours, gradient, rtol=0, atol=1e-12)


def test_the_answer_is_the_value_of_the_nearest_key():
    x, y = retrieval(50, 4, stream(0, "keys"))
    for sequence, answers in zip(x.numpy(), y.numpy(), strict=True):
        asked = np.arctan2(sequence[:, 1], sequence[:, 0])
        keys = np.arctan2(sequence[:, 3], sequence[:, 2])
        gaps = np.abs(np.angle(np.exp(1j * (asked[:, None] - keys))))
        np.testing.assert_array_equal(answers[:, 0], sequence[gaps.argmin(1), 4])
    assert torch.equal(retrieval(50, 4, stream(0, "keys"))[0], x)


# --- mutations --------------------------------------------------------------------------------------------


def scores_zero(n, d, beta):
    """Attention in the construction has all scores 0: every position gets the mean of the tokens."""
    return gathering(n, d, 0.0)


def nothing_averaged(target):
    """The mean over permutations has the identity alone."""
    return target


class _Values(Attention):
    def forward(self, x, queries=None):
        return self.projection(self.value(x)), x.new_zeros(())


def values_returned(*sizes, **how):
    """Attention returns each position's own value: nothing is mixed."""
    return _Values(*sizes, **how) if how["mixing"] == "softmax" else Attention(*sizes, **how)


def positions_dropped(*sizes, **how):
    """Transformers with attention have no positions."""
    mixes = how.get("mixing", "attention") == "attention"
    return SingleLayerTransformer(*sizes, **(how | {"positions": False} if mixes else how))


class _Mean(Attention):
    def forward(self, x, queries=None):
        _, weights = super().forward(x)
        values = self._split(self.value(x))
        mixed = (weights.mean(0) @ values).transpose(-3, -2).flatten(-2)
        return self.projection(mixed), weights


def mean_weights(*sizes, **how):
    """Attention weights are their mean over the batch: they do not depend on content."""
    return _Mean(*sizes, **how) if how["mixing"] == "softmax" else Attention(*sizes, **how)


MUTATIONS = [
    ("gathering", scores_zero),
    ("equivariant_part", nothing_averaged),
    ("Attention", values_returned),
    ("Attention", mean_weights),
    ("SingleLayerTransformer", positions_dropped),
]


def test_mutated_attention_no_longer_mixes_by_content():
    x = cube(6, 4, 8)
    with seeded(0):
        own, mean = (make(8, 2, mixing="softmax").double() for make in (values_returned, mean_weights))
    moved = x.clone()
    moved[:, 1:] = 0
    torch.testing.assert_close(own(x)[0][:, 0], own(moved)[0][:, 0])
    # With weights that are the same for all, mixing is linear.
    both = torch.stack([x[0], x[1], (x[0] + x[1]) / 2])
    torch.testing.assert_close(mean(both)[0][2], mean(both)[0][:2].mean(0))


# --- bad input --------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: target(n=1), r"n must be in 2\.\.6, got 1"),
    (lambda: target(waves=33), r"waves must be in 1\.\.32, got 33"),
    (lambda: target(d=0), "d must be >= 1, got 0"),
    (lambda: SingleLayerTransformer(3, 1, 10, 3, 5), "heads must divide dim = 10, got 3"),
    (lambda: SingleLayerTransformer(3, 1, 9, 3, 0), "hidden must be >= 1, got 0"),
    (lambda: SingleLayerTransformer(3, 1, 9, 3, 5, mixing="static"), "mixing must be one of 'attention'"),
    (lambda: FlatNetwork(3, 1, 0), "hidden must be >= 1, got 0"),
    (lambda: gathering(3, 1, -1.0), "beta must be finite and >= 0, got -1.0"),
    (lambda: gather_error(1, 1.0), "n must be >= 2, got 1"),
    (lambda: build_constructive(target(), 0, 1.0), "knots must be >= 1, got 0"),
    (lambda: build_constructive(constant_part(target()), 4, 1.0), "no frequency 0"),
    (lambda: error_bound(target(), 0), "knots must be >= 1, got 0"),
    (lambda: knots_for(target(), 0.0), "error must be finite and > 0, got 0.0"),
    (lambda: retrieval(0, 4, stream(0, "x")), "count must be >= 1, got 0"),
    (lambda: retrieval(4, 1, stream(0, "x")), "n must be >= 2, got 1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused_with_name_value_and_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_target_is_frozen():
    with pytest.raises(AttributeError):
        target().frequencies = torch.zeros(1)
    assert isinstance(target() - target(), TrigPolynomial)
    assert (target() - target()).rms() == 0
