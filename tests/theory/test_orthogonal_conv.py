"""Orthogonal convolutions: torch's own layers, dense matrices, scipy's circulants, counts of other people."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.linalg import circulant
from torch.nn.functional import conv2d, cross_entropy
from transformers import MobileNetV2Config, MobileNetV2Model, ResNetConfig, ResNetModel

from fourfold.theory import orthogonal_conv
from fourfold.theory.orthogonal_conv import (
    NETWORKS,
    Case,
    LorthCNN,
    Shape,
    built_kernel,
    flat_gram,
    gaussian_kernel,
    l_orth,
    layer_matrix,
    optimise_kernel,
    orthogonality_case,
    pgd_l2,
    singular_values,
    spectral_alpha,
    spectral_distance,
    squared_distance,
    symbol,
    vortices,
)
from fourfold.training import stream

from ..draws import normal

ODD = [
    (4, 3, 3, 1),
    (8, 4, 3, 1),
    (4, 2, 5, 2),
    (12, 2, 3, 2),
    (3, 1, 3, 3),
    (6, 2, 5, 3),
    (2, 2, 1, 1),
    (1, 3, 7, 2),
]
GRID = [*product((1, 2, 5, 9, 20), (1, 3), (1, 3, 5), (1, 2, 4))]


def kernel(m, c, k, *_, seed=0):
    return gaussian_kernel(m, c, k, stream(seed, f"{m} {c} {k}"))


def smallest(k, s):
    """Outputs a side of the smallest image on which no overlap goes once around."""
    return math.ceil((2 * k - 1) / s)


def penalty(s):
    return torch.vmap(partial(l_orth, stride=s))


# --- the layer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "c", "k", "s"), ODD)
@pytest.mark.parametrize("padding", ["circular", "zeros", "valid"])
def test_the_matrix_is_the_layer(m, c, k, s, padding):
    n, taps = smallest(k, s), kernel(m, c, k)
    side = s * (n - 1) + k if padding == "valid" else s * n
    x = normal(2, c, side, side)
    layer = torch.nn.Conv2d(
        c, m, k, s, 0 if padding == "valid" else k // 2, bias=False,
        padding_mode="circular" if padding == "circular" else "zeros", dtype=torch.float64,
    )  # fmt: skip
    layer.weight.data = taps
    found = x.flatten(1) @ layer_matrix(taps, s, n, padding).T
    torch.testing.assert_close(found, layer(x).detach().flatten(1))


def test_one_channel_of_one_row_is_scipys_circulant():
    taps, n = normal(3), 7
    square = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    square[0, 0, 1] = taps
    column = np.zeros(n)
    column[[1, 0, -1]] = taps
    expected = np.kron(np.eye(n), circulant(column))
    np.testing.assert_allclose(layer_matrix(square, 1, n).numpy(), expected, atol=1e-15)


@pytest.mark.parametrize(("m", "c", "k", "s"), ODD)
def test_singular_values_are_the_matrixs(m, c, k, s):
    n, taps = smallest(k, s), kernel(m, c, k)
    expected = torch.linalg.svdvals(layer_matrix(taps, s, n))
    found = singular_values(taps, s, n).flatten().sort(descending=True).values
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    far = (expected.square() - 1).abs().max()
    torch.testing.assert_close(spectral_distance(taps, s, n), far)


def test_the_symbol_is_what_becomes_of_waves():
    taps, n = kernel(3, 2, 3), 6
    grid = torch.arange(n, dtype=torch.float64)
    wave = torch.exp(2j * math.pi * (grid[:, None] * 2 + grid * 5) / n)
    amplitudes = torch.complex(normal(2), normal(2, seed=1))
    x = torch.nn.functional.pad(amplitudes[:, None, None] * wave, (1, 1, 1, 1), mode="circular")
    found = conv2d(x[None], taps.to(x.dtype))[0]
    expected = (symbol(taps, 1, n)[2, 5] @ amplitudes)[:, None, None] * wave
    torch.testing.assert_close(found, expected)


def test_many_kernels_at_once_are_each_alone():
    taps = torch.stack([kernel(4, 2, 3, seed=i) for i in range(3)])
    for one, matrix, values in zip(taps, layer_matrix(taps, 2, 3), singular_values(taps, 2, 4), strict=True):
        torch.testing.assert_close(matrix, layer_matrix(one, 2, 3))
        torch.testing.assert_close(values, singular_values(one, 2, 4))
    torch.testing.assert_close(penalty(2)(taps), torch.stack([l_orth(one, 2) for one in taps]))


# --- the penalty ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "c", "k", "s"), ODD)
@pytest.mark.parametrize("more", [0, 1])
def test_the_penalty_is_the_squared_distance_per_pixel(m, c, k, s, more):
    n, taps = smallest(k, s) + more, kernel(m, c, k)
    true = float(squared_distance(layer_matrix(taps, s, n)))
    assert n**2 * float(l_orth(taps, s)) == pytest.approx(true, rel=1e-12)
    if k > s:
        assert n**2 * float(flat_gram(taps)) != pytest.approx(true, rel=1e-3)


@pytest.mark.parametrize(("m", "c", "k", "s"), [(4, 3, 3, 1), (4, 2, 5, 2), (12, 2, 3, 2), (6, 2, 5, 3)])
def test_on_a_smaller_image_it_is_not(m, c, k, s):
    n, taps = smallest(k, s) - 1, kernel(m, c, k)
    assert n**2 * float(l_orth(taps, s)) != pytest.approx(
        float(squared_distance(layer_matrix(taps, s, n))), rel=1e-3
    )


def test_the_penalty_is_wang_and_others_for_padding_enough():
    """Their deconv_orth_dist, github.com/samaonline/Orthogonal-Convolutional-Neural-Networks, squared."""
    taps = kernel(5, 4, 3)
    output = conv2d(taps, taps, stride=1, padding=2)
    target = torch.zeros(5, 5, *output.shape[-2:], dtype=torch.float64)
    target[:, :, output.shape[-1] // 2, output.shape[-1] // 2] = torch.eye(5)
    assert float(l_orth(taps) + 1) == pytest.approx(float(torch.norm(output - target) ** 2))


@pytest.mark.parametrize(("m", "c", "k", "s"), [(2, 2, 3, 1), (3, 1, 3, 2), (1, 2, 5, 3)])
def test_gradients_are_right(m, c, k, s):
    assert torch.autograd.gradcheck(partial(l_orth, stride=s), kernel(m, c, k).requires_grad_())


@pytest.mark.parametrize(("m", "c", "k", "s"), GRID)
def test_no_kernel_is_farther_than_alpha_allows(m, c, k, s):
    taps = kernel(m, c, k)
    bound = spectral_alpha(m, c, k, s) * float(l_orth(taps, s))
    assert float(spectral_distance(taps, s, math.ceil(k / s) + 1)) ** 2 <= bound * (1 + 1e-9)


def test_one_filter_reaches_the_bound_and_many_do_not():
    def ratio(taps):
        matrix = symbol(taps, 1, 3)[:, 0, 0].real
        far = (torch.linalg.svdvals(matrix).square() - 1).abs().amax(-1)
        return far.square() / penalty(1)(taps)

    for m, c in ((1, 2), (3, 4)):
        start = torch.stack([kernel(m, c, 3, seed=i) for i in range(4)])
        found = ratio(optimise_kernel(start, lambda taps: -ratio(taps).log(), 150, 0.05)).max()
        assert 20 < found <= 25 * (1 + 1e-9)
        assert spectral_alpha(m, c, 3, 1) == 25 * m


# --- existence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "c", "k", "s"), GRID)
def test_the_simplest_kernel_is_orthogonal_exactly_where_the_conditions_say_so(m, c, k, s):
    case, taps = orthogonality_case(m, c, k, s), built_kernel(m, c, k, s)
    off = (singular_values(taps, s, math.ceil(k / s)) - 1).abs().max()
    assert (off < 1e-12) == case.exists
    assert float(l_orth(taps, s)) == pytest.approx(case.floor, abs=1e-12)
    assert (case.floor > 0) != case.exists


def test_cases_are_those_of_the_card():
    for shape in [(8, 4, 3, 1), (4, 8, 3, 1), (36, 4, 3, 1), (8, 1, 3, 4), (10, 1, 3, 1), (12, 2, 3, 2)]:
        assert orthogonality_case(*shape).exists
    floors = {(10, 1, 3, 4): 1, (17, 1, 3, 4): 7, (18, 4, 1, 2): 12, (9, 4, 1, 2): 5}
    for shape, floor in floors.items():
        assert orthogonality_case(*shape) == Case(orthogonality_case(*shape).name, False, floor)
    assert orthogonality_case(4, 1, 3, 2).name == "square"


@pytest.mark.parametrize("shape", [(9, 4, 1, 2), (10, 1, 3, 4), (8, 4, 3, 1), (3, 2, 3, 2)])
def test_descent_ends_at_the_least_penalty(shape):
    start = torch.stack([kernel(*shape, seed=i) for i in range(3)])
    found = penalty(shape[3])(optimise_kernel(start, penalty(shape[3]), 300, 0.05))
    assert (found - orthogonality_case(*shape).floor).abs().max() < 1e-3


def test_descent_stops_at_a_level_and_does_nothing_at_once():
    start = torch.stack([kernel(4, 6, 3, seed=i) for i in range(3)])
    level = penalty(1)(optimise_kernel(start, penalty(1), 300, 0.05, until=0.1))
    assert ((level < 0.1) & (level > 0.01)).all()
    torch.testing.assert_close(optimise_kernel(start, penalty(1), 300, 0.05, until=math.inf), start)
    assert torch.equal(
        optimise_kernel(start, penalty(1), 5, 0.05), optimise_kernel(start, penalty(1), 5, 0.05)
    )


# --- the square case --------------------------------------------------------------------------------------


def test_zeros_are_counted():
    """1 + (e^ix + e^iy) / sqrt(2) is zero at two frequencies, a copy of channels nowhere."""
    taps = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    taps[0, 0, 1, 1], taps[0, 0, 1, 2], taps[0, 0, 2, 1] = 1, 2**-0.5, 2**-0.5
    assert float(vortices(taps, 1, 16)) == 2
    assert torch.equal(vortices(torch.stack([built_kernel(3, 3, 3, 1), kernel(3, 3, 3)]), 1, 32) > 0,
                       torch.tensor([False, True]))  # fmt: skip
    assert float(vortices(built_kernel(4, 1, 3, 2), 2, 8)) == 0


def test_descent_solves_a_square_layer_exactly_where_no_zero_is_left():
    start = torch.stack([kernel(4, 4, 3, seed=i) for i in range(8)])
    found = optimise_kernel(start, penalty(1), 400, 0.05)
    done = penalty(1)(found) < 1e-3
    assert 0 < done.sum() < 8
    assert torch.equal(vortices(found, 1, 64) == 0, done)
    assert (vortices(start, 1, 64) > 0).all()


# --- borders ----------------------------------------------------------------------------------------------


def test_padded_by_zeros_only_the_centre_keeps_corners():
    one_tap = built_kernel(3, 3, 3, 1)
    for padding in ("circular", "zeros"):
        assert float(squared_distance(layer_matrix(one_tap, 1, 5, padding))) == 0
    shifted = one_tap.roll(1, -1)
    assert float(squared_distance(layer_matrix(shifted, 1, 5))) == 0
    # A column of the image falls off, in three channels.
    assert float(squared_distance(layer_matrix(shifted, 1, 5, "zeros"))) == 15


def test_without_padding_corners_and_inner_pixels_cannot_both_have_length_one():
    """At least 3/17 a pixel of 6 x 6, with an energy of 5/17 in the tap of each corner."""
    best = min(4 * (4 * a - 1) ** 2 + 4 * (a - 1) ** 2 for a in np.linspace(0, 1, 1701))
    assert 3 * best / 36 == pytest.approx(3 / 17)
    for seed in range(5):
        found = squared_distance(layer_matrix(kernel(12, 3, 3, seed=seed), 1, 4, "valid"))
        assert float(found) / 36 > 3 / 17


# --- networks ---------------------------------------------------------------------------------------------


def convolutions(model):
    """Shapes, a depthwise convolution by that of one channel."""
    found = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    return [(len(c.weight) // c.groups, c.weight.shape[1], c.kernel_size[0], c.stride[0]) for c in found]


@pytest.mark.parametrize("name", ["ResNet-18", "ResNet-50", "MobileNetV2"])
def test_shapes_are_those_of_transformers(name):
    small = dict(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])
    with torch.device("meta"):
        model = {
            "ResNet-18": lambda: ResNetModel(ResNetConfig(**small)),
            "ResNet-50": lambda: ResNetModel(ResNetConfig()),
            "MobileNetV2": lambda: MobileNetV2Model(MobileNetV2Config()),
        }[name]()
    assert sorted(NETWORKS[name]) == sorted(convolutions(model))


def test_weights_are_as_many_as_published():
    """torchvision's parameters less those of norms, biases and the head."""
    published = {
        "ResNet-18": 11_689_512 - 9_600 - 513_000,
        "ResNet-50": 25_557_032 - 53_120 - 2_049_000,
        "VGG-16": 14_714_688 - 4_224,
        "DenseNet-121": 7_978_856 - 83_648 - 1_025_000,
    }
    for name, weights in published.items():
        assert sum(m * c * k**2 for m, c, k, _ in NETWORKS[name]) == weights


def test_the_table_of_networks():
    def counted(name):
        cases = [(shape, orthogonality_case(*shape)) for shape in NETWORKS[name]]
        hard = [case.name == "square" and shape.s == 1 < shape.k for shape, case in cases]
        return len(cases), sum(not case.exists for _, case in cases), sum(hard)

    assert {name: counted(name) for name in NETWORKS} == {
        "ResNet-18": (20, 3, 13),
        "ResNet-50": (53, 3, 13),
        "VGG-16": (13, 0, 9),
        "MobileNetV2": (52, 0, 13),
        "DenseNet-121": (120, 0, 0),
    }


def test_an_orthogonal_network_without_a_head_keeps_lengths():
    x = normal(5, 4, 8, 8)
    length = x.flatten(1).norm(dim=1)
    for m, stride in ((4, 1), (16, 2), (16, 1)):
        matrix = layer_matrix(built_kernel(m, x.shape[1], 3, stride), stride, x.shape[-1] // stride)
        one, other = (x.flatten(1) @ matrix.T).unflatten(1, (m, -1)).chunk(2, 1)
        x = torch.cat([one.maximum(other), one.minimum(other)], 1).unflatten(2, (x.shape[-1] // stride, -1))
    torch.testing.assert_close(x.flatten(1).norm(dim=1), length)


def test_the_network_is_its_layers(jolted):
    net = jolted(LorthCNN, (1, 4, 6), (2, 1), 6, classes=3)
    x = normal(2, 6, 6)
    y = x[:, None]
    for taps, stride in net.kernels()[:-1]:
        bias = net.convs[0 if stride == 2 else 1].bias
        y = conv2d(torch.nn.functional.pad(y, (1, 1, 1, 1), mode="circular"), taps, bias, stride)
        half = y.shape[1] // 2
        y = torch.cat([y[:, :half].maximum(y[:, half:]), y[:, :half].minimum(y[:, half:])], 1)
    torch.testing.assert_close(net(x), y.flatten(1) @ net.head.weight.T + net.head.bias)
    head, stride = net.kernels()[-1]
    assert stride == 1
    torch.testing.assert_close(l_orth(head), flat_gram(head))


def test_an_attack_finds_the_worst_of_a_linear_model():
    weight, x, y = normal(2, 9), normal(4, 3, 3, seed=1), torch.tensor([0, 1, 0, 1])

    def model(x):
        return x.flatten(1) @ weight.T

    found = pgd_l2(model, x, y, 0.5, 10)
    torch.testing.assert_close((found - x).flatten(1).norm(dim=1), torch.full((4,), 0.5, dtype=torch.float64))
    away = (weight[1 - y] - weight[y]) / (weight[1] - weight[0]).norm()
    torch.testing.assert_close((found - x).flatten(1), 0.5 * away)
    assert cross_entropy(model(found), y) > cross_entropy(model(x), y)
    assert torch.equal(pgd_l2(model, x, y, 0.0, 2), x)


# --- the mechanism without its heart ----------------------------------------------------------------------


def centre_only(kernel, stride=1):
    """The penalty looks at the centre alone, where filters meet in place, as if the layer were a matrix."""
    return flat_gram(kernel)


def square_rule(m, c, k, s):
    """The size of the kernel is left out of the row case's condition: M <= C S^2 is enough."""
    case = orthogonality_case(m, c, k, s)
    return case if case.name == "columns" else case._replace(exists=True, floor=0)


def one_tap_start(start, distance, steps, lr, until=-math.inf):
    """Descent starts near the simplest kernel of a shape at stride 1, with a third of the random one."""
    return optimise_kernel(built_kernel(*start.shape[1:4], 1) + start / 3, distance, steps, lr, until)


def wrapped(kernel, stride, n_out, padding="circular"):
    """Whatever the border is to be, the image is closed to a torus."""
    return layer_matrix(kernel, stride, n_out)


MUTATIONS = [
    ("l_orth", centre_only),
    ("orthogonality_case", square_rule),
    ("optimise_kernel", one_tap_start),
    ("layer_matrix", wrapped),
]


def test_every_mutation_changes_its_function():
    taps = kernel(4, 3, 3)
    assert float(centre_only(taps)) != pytest.approx(float(l_orth(taps)))
    assert square_rule(10, 1, 3, 4) != orthogonality_case(10, 1, 3, 4)
    assert not torch.allclose(wrapped(taps, 1, 5, "zeros"), layer_matrix(taps, 1, 5, "zeros"))
    start = torch.stack([kernel(3, 3, 3, seed=i) for i in range(2)])
    assert not torch.equal(
        one_tap_start(start, penalty(1), 1, 0.05), optimise_kernel(start, penalty(1), 1, 0.05)
    )
    assert all(hasattr(orthogonal_conv, name) for name, _ in MUTATIONS)


# --- bad input --------------------------------------------------------------------------------------------

K = torch.ones(2, 1, 3, 3)
G = torch.Generator()
REFUSED = [
    (lambda: orthogonality_case(4, 2, 2, 1), "k must be odd and >= 1, got 2"),
    (lambda: orthogonality_case(0, 2, 3, 1), "m must be >= 1, got 0"),
    (lambda: spectral_alpha(4, 2, 3, 0), "s must be >= 1, got 0"),
    (lambda: built_kernel(4, 0, 3, 1), "c must be >= 1, got 0"),
    (lambda: gaussian_kernel(4, 1, 4, G), "k must be odd and >= 1, got 4"),
    (lambda: l_orth(K[..., :2], 1), r"kernel must be \(..., M, C, k, k\), got \(2, 1, 3, 2\)"),
    (lambda: l_orth(K[..., :2, :2], 1), "k must be odd and >= 1, got 2"),
    (lambda: l_orth(K, 0), "stride must be >= 1, got 0"),
    (lambda: layer_matrix(K, 1, 2), "n_out must be >= 3 .* got 2"),
    (lambda: layer_matrix(K, 1, 5, "same"), "padding must be one of .*, got 'same'"),
    (lambda: symbol(K, 0, 5), "stride must be >= 1, got 0"),
    (lambda: vortices(K, 1, 5), r"M must be C S\^2 = 1 for a determinant, got 2"),
    (lambda: optimise_kernel(K[None], penalty(1), 0, 0.1), "steps must be >= 1, got 0"),
    (lambda: optimise_kernel(K[None], penalty(1), 1, 0.0), "lr must be finite and > 0, got 0.0"),
    (lambda: LorthCNN((1, 4), (1, 2), 8), r"for 2 layers, got \(1, 4\)"),
    (lambda: LorthCNN((1, 4, 5), (1, 2), 8), r"channels must be even but the first, .* got \(1, 4, 5\)"),
    (lambda: LorthCNN((1, 4, 6), (2, 2), 6), "product_of_strides must .* the side = 6, got 4"),
    (lambda: pgd_l2(torch.sum, K, G, -1.0, 2), "eps must be finite and >= 0, got -1.0"),
    (lambda: pgd_l2(torch.sum, K, G, 1.0, 0), "steps must be >= 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_shapes_have_names():
    assert Shape(4, 3, 5, 2) == (4, 3, 5, 2)
