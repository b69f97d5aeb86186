"""Hyena N-D is the layer of its authors, and what the chapter measures fails where its parts are gone."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fourfold import cost
from fourfold.attention import PatchEmbedding
from fourfold.hybrids.hyena_nd import (
    MSA,
    Convolution,
    Fitted,
    HyenaND,
    ImplicitFilter2d,
    TinyViT,
    axis_features,
    by_flips,
    composite,
    decay,
    fftconv2d,
    flips,
    floor,
    hybrid,
    kernels_to_fit,
    last_layer_error,
    least_of_rivals,
    on_grid,
    outside_corner,
    reach,
    relative_error,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


def built(make) -> nn.Module:
    with seeded(0):
        return make().double()


# --- oracles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (5, 8)])
def test_the_long_convolution_is_scipys_and_a_skip(size):
    u, k, d = normal(2, 3, *size), normal(3, *size, seed=1), normal(3, seed=2)
    found = fftconv2d(u, k, d).numpy()
    for image, channel in np.ndindex(2, 3):
        x = u[image, channel].numpy()
        expected = convolve2d(x, k[channel].numpy())[: size[0], : size[1]] + float(d[channel]) * x
        np.testing.assert_allclose(found[image, channel], expected, rtol=0, atol=1e-10)


def test_a_grid_of_one_column_is_a_causal_sequence():
    u, k = normal(1, 1, 9, 1), normal(1, 9, 1, seed=1)
    expected = np.convolve(u.flatten(), k.flatten())[:9]
    found = fftconv2d(u, k, torch.zeros(1).double()).flatten()
    torch.testing.assert_close(found, torch.tensor(expected), **EXACT)


def test_without_zeros_around_it_wraps():
    u, k = normal(1, 2, 6, 6), normal(2, 6, 6, seed=1)
    wrapped = torch.fft.irfft2(torch.fft.rfft2(u) * torch.fft.rfft2(k), s=(6, 6))
    assert (wrapped - fftconv2d(u, k, torch.zeros(2).double())).abs().max() > 0.1


@pytest.mark.parametrize("mode", ["forward", "backward", "4dir"])
def test_a_layer_is_that_of_flipped_tokens(mode):
    layer = built(partial(HyenaND, 6, 5, mode=mode, kernel_scale=0.1))
    x = normal(2, 25, 6)
    flipped = by_flips(layer, x)
    torch.testing.assert_close(layer(x), flipped, **EXACT)
    layer.axes = [()] * len(layer.axes)
    assert mode == "forward" or (layer(x) - flipped).abs().max() > 1e-6


@pytest.mark.parametrize("mode", ["forward", "4dir"])
def test_order_three_is_the_recurrence_written_down(mode):
    dim, g = 4, 5
    layer = built(partial(HyenaND, dim, g, order=3, mode=mode))
    x = normal(2, g * g, dim)
    maps = layer.short(layer.enter(x).mT.reshape(2, 4 * dim, g, g))
    x0, x1, x2, v = maps.split(dim, 1)
    k = layer.filter.kernel().view(2, dim, g, g)
    weights, bias = layer.directions()
    y = torch.zeros_like(v) + bias
    for axes, weight in zip(flips(mode), weights, strict=True):
        first, second, third, z = (part.flip(axes) for part in (x0, x1, x2, v))
        z = fftconv2d(third * z, k[0], layer.skip[0])
        z = fftconv2d(second * z, k[1], layer.skip[1])
        y = y + weight * (first * z).flip(axes)
    torch.testing.assert_close(layer(x), layer.out(y.flatten(2).mT), **EXACT)


def test_kernels_at_zero_are_a_skip_and_the_weights_of_directions():
    layer, zero = built(partial(HyenaND, 4, 5)), built(partial(HyenaND, 4, 5, filter="zero"))
    shared = {name: value for name, value in layer.state_dict().items() if not name.startswith("filter")}
    zero.load_state_dict(shared)
    nn.init.zeros_(layer.filter.mlps[0].last.weight)
    x = normal(2, 25, 4)
    torch.testing.assert_close(layer(x), zero(x), **EXACT)
    torch.testing.assert_close(by_flips(zero, x), zero(x), **EXACT)


def test_attention_is_torchs():
    ours, theirs = built(lambda: MSA(8, 2)), nn.MultiheadAttention(8, 2, batch_first=True).double()
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
    theirs.out_proj.load_state_dict(ours.projection.state_dict())
    x = normal(2, 9, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], **EXACT)


def test_a_layer_has_the_parameters_of_its_closed_form():
    dim, width, emb = 24, 16, 3
    mlp = 2 * emb * width + width + 2 * (width**2 + width) + width + width * dim
    layer = 3 * dim * (dim + 1) + 3 * dim * 10 + dim + (4 + 1) + dim * (dim + 1)
    for g in (8, 16, 32):
        with torch.device("meta"):
            assert cost.parameters(HyenaND(dim, g, width=width, emb=emb)) == layer + mlp + emb * g
            assert cost.parameters(HyenaND(dim, g, filter="explicit")) == layer + dim * g**2
            assert cost.parameters(HyenaND(dim, g, filter="zero")) == layer


# --- the filter -------------------------------------------------------------------------------------------


def test_features_are_positions_and_waves():
    found = axis_features(8, 9)
    assert found.shape == (8, 9)
    torch.testing.assert_close(found[:, 0], torch.linspace(0, 1, 8))
    wave = torch.exp(-2j * torch.pi * 3 * torch.arange(8) / 8)
    torch.testing.assert_close(found[:, 4], wave.real, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, 8], wave.imag, rtol=0, atol=1e-5)
    assert float(axis_features(8)[:, 1:].std(0).max()) < 1e-3


def test_a_cell_has_its_rows_features_first():
    features = axis_features(4)
    assert torch.equal(on_grid(features)[1, 3], torch.cat([features[1], features[3]]))


def test_the_window_decays_to_a_hundredth_at_its_two_places():
    slow, fast = decay(2, 151)
    assert float(fast[45]) == pytest.approx(1e-2, rel=1e-4)
    assert float(slow[-1]) == pytest.approx(1e-2 ** (1 / 1.5), rel=1e-4)
    filter = ImplicitFilter2d(2, 6)
    along = decay(2, 6)
    assert torch.equal(filter.window[1], torch.outer(along[1], along[1]))


def test_products_have_rank_one_and_a_filter_over_the_grid_has_not():
    ranks = {
        kind: torch.linalg.matrix_rank(
            built(lambda kind=kind: ImplicitFilter2d(3, 8, kind, emb=9, window=False)).kernel(), rtol=1e-6
        )
        for kind in ("product", "2d")
    }
    assert (ranks["product"] == 1).all()
    assert (ranks["2d"] > 2).all()


def test_an_explicit_filter_is_its_weights():
    filter = ImplicitFilter2d(3, 5, "explicit", window=False)
    assert torch.equal(filter.kernel(), filter.weight)


def test_mirrored_kernels_add_up():
    k, d = normal(2, 3, 3), normal(2, seed=1)
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    found = composite(k, d, flips("4dir"), weights)
    assert found.shape == (2, 5, 5)
    torch.testing.assert_close(found[:, 3, 4], k[:, 1, 2])
    torch.testing.assert_close(found[:, 1, 0], 10 * k[:, 1, 2])
    torch.testing.assert_close(found[:, 3, 0], 100 * k[:, 1, 2])
    torch.testing.assert_close(found[:, 2, 2], 1111 * (k[:, 0, 0] + d))


# --- gradients, learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3])
def test_gradients_are_right_in_float64(order):
    module = built(partial(HyenaND, 2, 3, order=order, width=4))
    weights = dict(module.named_parameters())

    def apply(x, *values):
        return functional_call(module, dict(zip(weights, values, strict=True)), (x,))

    x = normal(1, 9, 2).requires_grad_()
    assert torch.autograd.gradcheck(apply, (x, *weights.values()), fast_mode=True)


def small(readout="mean"):
    return TinyViT([partial(HyenaND, 8, 4)] * 2, PatchEmbedding(1, 8, 4), 8, 16, 2, readout)


@pytest.fixture(scope="module")
def learned(bars):
    def train_on(labels=None):
        x, y = bars(80, 0)
        test = tuple(part[None] for part in bars(60, 1))
        draw = shuffled(x, y if labels is None else labels)
        return train(small, (0,), draw, test, Recipe(epochs=6, batch=10, lr=1e-2), together=False)

    return train_on


def test_it_learns_and_does_not_where_the_labels_say_nothing(learns_only_from_labels, learned):
    learns_only_from_labels(learned)


@pytest.mark.parametrize(("readout", "token"), [("first", 0), ("last", -1)])
def test_a_class_is_read_from_the_token_named(readout, token, bars):
    net = small(readout)
    x, _ = bars(4, 0)
    features = net.features(x)
    assert len(features) == 3
    torch.testing.assert_close(net(x), net.head(net.norm(features[-1][:, token])))


def test_one_direction_leaves_the_first_token_blind():
    blind, sighted = (built(partial(HyenaND, 4, 6, mode=mode)) for mode in ("forward", "4dir"))
    x = normal(2, 36, 4)
    seen = {name: reach(layer, 6, 0, 0, x) for name, layer in (("blind", blind), ("sighted", sighted))}
    assert {name: int((found > 1e-10 * found.max()).sum()) for name, found in seen.items()} == {
        "blind": 4,
        "sighted": 36,
    }


def test_the_rule_of_the_hybrid():
    assert "".join(hybrid("H", "M", 12)) == "HHHHHHHMMMMM"
    assert "".join(hybrid("H", "M", 4)) == "HHHM"
    assert "".join(hybrid("H", "M", 2)) == "HH"


# --- fits -------------------------------------------------------------------------------------------------


def test_kernels_to_fit_are_what_they_say():
    draw = torch.Generator().manual_seed(0)
    diagonals = kernels_to_fit("diagonals", 4, 6, draw)
    assert torch.equal(diagonals[2], torch.eye(6))
    assert diagonals.sum((1, 2)).tolist() == [4, 5, 6, 5]
    blobs = kernels_to_fit("blobs", 2, 9, draw)
    assert float(blobs[0, 4, 7]) == pytest.approx(np.exp(-0.5))
    torch.testing.assert_close(blobs[1], blobs[0].mT)
    assert kernels_to_fit("random", 2, 9, draw).shape == (2, 9, 9)


def test_rivals_fit_what_is_theirs_and_have_parameters_to_spare():
    rank_two = normal(24, 16, 2) @ normal(24, 2, 16, seed=1)
    assert least_of_rivals(rank_two, 24 * 32 + 1)["products"] < 1e-10
    assert least_of_rivals(rank_two, 24 * 32)["products"] > 0.1
    shared = (normal(24, 3) @ normal(3, 256, seed=1)).view(24, 16, 16)
    assert least_of_rivals(shared, 3 * 280)["basis"] < 1e-7
    assert least_of_rivals(shared, 2 * 280)["basis"] > 0.1
    diagonals = kernels_to_fit("diagonals", 3, 16, torch.Generator())
    assert least_of_rivals(diagonals, 2 * 46)["cells"] == 0
    assert least_of_rivals(diagonals, 2 * 23)["cells"] == pytest.approx(0.5**0.5)
    assert floor(shared, 3) < 1e-7 < 0.1 < floor(shared, 2)


def test_a_last_layer_fits_what_the_others_make_and_nothing_else():
    filter = built(lambda: ImplicitFilter2d(3, 6, emb=9, window=False))
    made = filter.kernel().detach()
    assert last_layer_error(filter, made) < 1e-6
    assert last_layer_error(filter, kernels_to_fit("diagonals", 3, 6, torch.Generator())) > 0.5


def test_what_lies_outside_the_corner_of_a_kernel():
    kernel = torch.ones(2, 4, 4)
    assert outside_corner(kernel) == pytest.approx(0.75)
    kernel[:, 2:] = kernel[:, :, 2:] = 0
    assert outside_corner(kernel) == 0


def test_a_fit_is_measured_by_its_targets_squares():
    targets = normal(3, 4, 4)
    assert float(relative_error(torch.zeros(1, 3, 4, 4), targets)) == pytest.approx(1)
    assert float(relative_error(1.1 * targets, targets)) == pytest.approx(0.1)
    filter = ImplicitFilter2d(3, 4)
    assert torch.equal(Fitted(filter)(torch.zeros(1, 1))[0], filter.kernel())


# --- mutations --------------------------------------------------------------------------------------------


def product_of_axes(self):
    """Kernels are a product: the filter told the mean column, times the filter told the mean row."""
    size, mlp = len(self.features), self.mlps[0]
    mean = self.features.mean(0).expand(size, -1)
    rows = mlp(torch.cat([self.features, mean], -1)).mT
    columns = mlp(torch.cat([mean, self.features], -1)).mT
    return rows[:, :, None] * columns[:, None] * self.window


MUTATIONS = [("ImplicitFilter2d.kernel", product_of_axes)]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, target, mutation, bars):
    x, y = bars(8, 0)
    net = small()
    given = net(x)
    monkeypatch.setattr(f"fourfold.hybrids.hyena_nd.{target}", mutation)
    assert not torch.equal(net(x), given)
    cross_entropy(net(x), y).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 18}, "dim = 18: expected a multiple of heads"),
        ({"emb": 4}, r"emb = 4: expected int, 3 \| 5 \| 7 \| 9"),
        ({"n_train": 410}, "n_train = 410: expected a multiple of 50"),
        ({"margin": 3}, r"margin = 3: expected int, 0 \| 2 \| 4"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("hyena_nd")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


REFUSED = [
    (lambda: axis_features(8, 4), "emb must be odd and >= 3, got 4"),
    (lambda: axis_features(0), "size must be >= 1, got 0"),
    (lambda: ImplicitFilter2d(2, 4, "sum"), "kind must be one of .*, got 'sum'"),
    (lambda: ImplicitFilter2d(2, 0), "grid must be >= 1, got 0"),
    (lambda: HyenaND(4, 4, order=1), "order must be >= 2, got 1"),
    (lambda: HyenaND(4, 4, mode="2dir"), "mode must be one of .*, got '2dir'"),
    (lambda: HyenaND(4, 4, filter="sum"), "filter must be one of .*, got 'sum'"),
    (lambda: HyenaND(4, 4)(torch.zeros(1, 15, 4)), r"tokens must be grid\^2 = 16, got 15"),
    (lambda: small("cls"), "readout must be one of .*, got 'cls'"),
    (lambda: TinyViT([], nn.Identity(), 4, 4, 2), "blocks must be >= 1, got 0"),
    (lambda: kernels_to_fit("lines", 2, 4, torch.Generator()), "family must be one of .*, got 'lines'"),
    (lambda: kernels_to_fit("diagonals", 8, 4, torch.Generator()), r"dim must be in 1\.\.7"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("make", [partial(Convolution, 3, 4), partial(MSA, 4, 2)])
def test_what_it_is_held_against_keeps_the_shape(make):
    dim = 3 if make.func is Convolution else 4
    assert make()(torch.zeros(2, 16, dim)).shape == (2, 16, dim)
