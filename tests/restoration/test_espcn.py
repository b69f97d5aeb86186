"""ESPCN: the shuffle is the paper's formula, its layer a deconvolution, its counts the published ones."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.func import functional_call
from torch.nn.functional import (
    conv2d,
    conv_transpose2d,
    interpolate,
    mse_loss,
    pixel_shuffle,
    pixel_unshuffle,
)

from fourfold import cost, training
from fourfold.data import image_pairs
from fourfold.judging import parameters, records
from fourfold.judging.card import judge
from fourfold.restoration.espcn import (
    ACTIVATIONS,
    ESPCN,
    Centred,
    Interpolated,
    SubPixelLayer,
    channel_order,
    least_squares_layer,
    macs_per_pixel,
    periodic_shuffle,
    srcnn,
    subpixel_to_deconv,
    unsharp,
    weights,
)

from ..draws import normal

FACTORS = (2, 3, 4)


def made(make, *args, **kwargs) -> nn.Module:
    with training.seeded(0):
        return make(*args, **kwargs).double().requires_grad_(False)


# --- periodic shuffling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (3, 7)])
def test_the_shuffle_is_the_papers_formula_pixel_by_pixel(r, colours, size):
    t = np.random.default_rng(0).normal(size=(*size, colours * r * r))
    wanted = np.empty((size[0] * r, size[1] * r, colours))
    for x, y, c in np.ndindex(*wanted.shape):
        wanted[x, y, c] = t[x // r, y // r, colours * r * (y % r) + colours * (x % r) + c]
    channels_first = torch.from_numpy(t).movedim(-1, 0)[None]
    assert np.array_equal(periodic_shuffle(channels_first, r)[0].movedim(0, -1).numpy(), wanted)
    assert torch.equal(
        periodic_shuffle(channels_first, r), pixel_shuffle(channels_first[:, channel_order(r, colours)], r)
    )


@pytest.mark.parametrize("r", FACTORS)
def test_the_order_of_channels_is_a_transposition_for_one_colour(r):
    assert torch.equal(channel_order(r), torch.arange(r * r).reshape(r, r).T.flatten())
    t = normal(1, r * r, 3, 4)
    assert not torch.equal(periodic_shuffle(t, r), pixel_shuffle(t, r))  # so the order must be said


@pytest.mark.parametrize("r", FACTORS)
def test_shuffling_back_the_targets_leaves_the_loss_alone(r):
    output, target = normal(2, r * r, 5, 4), normal(2, 1, 5 * r, 4 * r, seed=1)
    order = channel_order(r)
    back = pixel_unshuffle(target, r)[:, order.argsort()]
    assert torch.equal(periodic_shuffle(back, r), target)
    assert mse_loss(periodic_shuffle(output, r), target) == pytest.approx(
        float(mse_loss(output, back)), rel=1e-12
    )
    wrong = mse_loss(output, pixel_unshuffle(target, r))
    assert wrong != pytest.approx(float(mse_loss(output, back)), rel=1e-3)


# --- the layer is a deconvolution -------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, *FACTORS])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("size", [(7, 9), (1, 5), (4, 4)])
def test_convolving_and_shuffling_is_a_strided_transposed_convolution(r, k, size):
    weight, x = normal(r * r, 6, k, k), normal(2, 6, *size, seed=1)
    kernels = subpixel_to_deconv(weight, r)
    assert kernels.shape == (6, 1, k * r, k * r)
    for u, v, a, b in np.ndindex(k, k, r, r):
        row, column = (k - 1 - u) * r + a, (k - 1 - v) * r + b
        assert torch.equal(kernels[:, 0, row, column], weight[a * r + b, :, u, v])
    small = pixel_shuffle(conv2d(x, weight, padding=k // 2), r)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        large = conv_transpose2d(x.to(dtype), kernels.to(dtype), stride=r, padding=r * (k // 2))
        torch.testing.assert_close(large.double(), small, rtol=0, atol=tolerance)
    if r > 1:
        swapped = weight[[1, 0, *range(2, r * r)]]
        wrong = pixel_shuffle(conv2d(x, swapped, padding=k // 2), r)
        assert (wrong - small).abs().max() > 0.1


def test_the_networks_last_layer_is_a_deconvolution_and_a_periodic_bias():
    net, x = made(ESPCN, 3), normal(2, 1, 6, 5)
    large = conv_transpose2d(net.features(x), subpixel_to_deconv(net.last.weight, 3), stride=3, padding=3)
    bias = net.last.bias.reshape(3, 3).repeat(6, 5)
    torch.testing.assert_close(net(x), large + bias, rtol=0, atol=1e-12)


# --- networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("r", "expected"), [(2, 21184), (3, 22624), (4, 24640)])
def test_counts_are_the_published_ones(r, expected):
    net, twin = ESPCN(r), Interpolated(r)
    assert weights(net) == expected
    assert cost.parameters(net) == expected + 96 + r * r
    assert macs_per_pixel(net, r) == pytest.approx(expected / r**2, rel=1e-12)
    assert macs_per_pixel(twin, r) == weights(twin) == 20320
    assert (weights(srcnn(r, 1)), weights(srcnn(r, 5))) == (8032, 57184)
    assert macs_per_pixel(srcnn(r, 5), r) == 57184
    ratio = macs_per_pixel(twin, r) / macs_per_pixel(net, r)
    assert ratio == pytest.approx(r**2 * 20320 / (20032 + 288 * r**2), rel=1e-12)
    assert weights(ESPCN(r, kernels=(3, 3, 3))) != expected


@pytest.mark.parametrize("r", FACTORS)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_networks_are_what_their_layers_say(r, act, size):
    x = normal(2, 1, *size)
    for net, start, outputs in (
        (made(ESPCN, r, act), x, r * r),
        (made(Interpolated, r, act), image_pairs.enlarge(x, r), 1),
        (made(Interpolated, r, act, kernels=(9, 1, 5)), image_pairs.enlarge(x, r), 1),
    ):
        value = start
        values = dict(net.named_parameters())
        for name in ("features.0", "features.2", "last"):
            weight = values[f"{name}.weight"]
            value = conv2d(value, weight, values[f"{name}.bias"], padding=weight.shape[-1] // 2)
            if name != "last":
                value = torch.tanh(value) if act == "tanh" else value.relu()
        assert value.shape[1] == outputs
        wanted = pixel_shuffle(value, r) if outputs > 1 else value
        torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-12)
        assert net(x).shape == (2, 1, r * size[0], r * size[1])


def test_srcnn_enlarges_first_and_can_run_without():
    net, x = made(srcnn, 3), normal(1, 1, 6, 7)
    torch.testing.assert_close(
        net(x), net.refine(interpolate(x, scale_factor=3, mode="bicubic", antialias=True))
    )
    assert net.refine(x).shape == (1, 1, 6, 7)
    assert isinstance(net.features[1], nn.ReLU)


def test_a_new_network_is_a_matter_of_the_seed_and_of_no_other_state():
    torch.manual_seed(0)
    with training.seeded(5):
        one = ESPCN(3)
    torch.manual_seed(1)
    with training.seeded(5):
        same, other = ESPCN(3), ESPCN(3)
    x = normal(1, 1, 5, 5).float()
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("make", [ESPCN, Interpolated])
def test_gradients(make, act):
    net, x = made(make, 2, act, channels=(3, 2)), normal(1, 1, 3, 4)
    names = [name for name, _ in net.named_parameters()]
    values = tuple(value.requires_grad_() for value in net.parameters())

    def run(*values):
        return functional_call(net, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, values)


# --- it learns, and its control does not ------------------------------------------------------------------


def gain(draw, seed: int = 0) -> float:
    """PSNR of a narrow ESPCN over bicubic interpolation on the part of a photograph that it did not see."""
    y = image_pairs.luminance(image_pairs.photograph("coffee"))[:, ::2, ::2]
    learn, held = (image_pairs.shrunk([part], 2) for part in (y[:, :, :200], y[:, :, 200:]))
    x, clean = held.degraded[0][None, None], held.clean[0][None, None]
    recipe = training.Recipe(5, 8, 1e-2, weight_decay=0, slower={"last": 0.1})
    crops, make = draw(image_pairs.crops(learn, 1200, 10)), partial(ESPCN, 2, channels=(32, 16))
    trained = training.train(
        make, [seed], crops, (x, clean), recipe,
        loss=mse_loss, score=image_pairs.mean_psnr, together=False,
    )  # fmt: skip
    return float(trained.score[0, -1]) - image_pairs.psnr(image_pairs.enlarge(x[0, 0], 2), clean[0, 0])


def test_crops_with_their_partners_teach_and_mispaired_ones_do_not():
    assert gain(lambda crops: crops) > -0.5
    assert gain(image_pairs.mispaired) < -1


# --- what is cheaper --------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", FACTORS)
def test_least_squares_find_the_layer_that_made_the_image(r):
    made_it = made(SubPixelLayer, r, 3)
    small = [normal(1, 9, 11, seed=seed) for seed in range(3)]
    pairs = image_pairs.Pairs(small, [made_it(x[None])[0] for x in small])
    found = least_squares_layer(pairs, r, 3).double()
    torch.testing.assert_close(found.last.weight, made_it.last.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.last.bias, made_it.last.bias, rtol=0, atol=1e-6)
    same = least_squares_layer(pairs, r, 3, places=False)(small[0][None].float())
    blocks = same.unfold(2, r, r).unfold(3, r, r)
    torch.testing.assert_close(blocks, blocks[..., :1, :1].expand_as(blocks))


def test_no_other_layer_of_that_size_has_a_smaller_error():
    small = normal(1, 20, 20).float()
    pairs = image_pairs.Pairs([small], [normal(1, 40, 40, seed=1).float()])
    layer = least_squares_layer(pairs, 2)
    loss = mse_loss(layer(small[None]), pairs.clean[0][None])
    gradients = torch.autograd.grad(loss, list(layer.parameters()))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-6


def test_an_unsharp_mask_is_scipys_blur_turned_round():
    image = normal(1, 30, 40)
    blurred = ndimage.gaussian_filter(image[0].numpy(), 1.5, mode="mirror", truncate=4)
    expected = image[0].numpy() + 0.7 * (image[0].numpy() - blurred)
    np.testing.assert_allclose(unsharp(image, 1.5, 0.7)[0].numpy(), expected, rtol=0, atol=1e-12)
    assert torch.equal(unsharp(image, 1.5, 0), image)


def test_a_centred_network_continues_grey_as_grey():
    net = made(ESPCN, 2)
    x = 0.5 + normal(2, 1, 6, 7)
    torch.testing.assert_close(made(Centred, net)(x), net(x - 0.5) + 0.5)


# --- what the record says ---------------------------------------------------------------------------------

RECORD = records.load("espcn")


@pytest.mark.parametrize(("on_learnt", "word"), [(0.3, "not reproduced"), (-3.0, "inconclusive")])
def test_networks_that_are_not_trained_are_no_evidence_for_an_activation(on_learnt, word):
    worse, none = [-0.2] * 6, [0.0] * 6
    verdict = judge(RECORD, "E5", {"every_seed": worse}, {"other_seed": none}, {"trained": [on_learnt] * 6})
    assert verdict.word == word


@pytest.mark.parametrize(("same_time", "word"), [(1.0, "reproduced"), (4.0, "inconclusive")])
def test_srcnn_that_trained_longer_is_no_evidence_at_equal_time(same_time, word):
    better, worse = [0.2] * 6, [-0.2] * 6
    verdict = judge(
        RECORD, "E4b", {"over_srcnn": better}, {"bicubic": worse}, {"same_time": [same_time] * 40}
    )
    assert verdict.word == word


@pytest.mark.parametrize(("name", "value", "of"), [("iters", 13, 10), ("long", [520, 104], 10)])
def test_steps_that_epochs_do_not_divide_are_refused(name, value, of):
    with pytest.raises(parameters.ParameterError, match=f"{name} = .*a multiple of {of}"):
        parameters.validate(RECORD, RECORD.values("quick") | {name: value})


# --- the mechanism without its heart ----------------------------------------------------------------------


def one_place(t, r):
    """All places of a block get one value, the mean of its channels."""
    return pixel_shuffle(t.mean(1, keepdim=True).expand_as(t), r)


MUTATIONS = [("pixel_shuffle", one_place)]


# --- bad input --------------------------------------------------------------------------------------------


REFUSED = [
    (lambda: ESPCN(1), "r must be 2, 3 or 4, got 1"),
    (lambda: Interpolated(5), "r must be 2, 3 or 4, got 5"),
    (lambda: srcnn(0), "r must be 2, 3 or 4, got 0"),
    (lambda: ESPCN(3, "gelu"), "act must be one of tanh, relu, got 'gelu'"),
    (lambda: ESPCN(3, kernels=(5, 2, 3)), r"kernels must be three odd sizes >= 1, got \(5, 2, 3\)"),
    (lambda: ESPCN(3, kernels=(5, 3)), r"kernels must be three odd sizes >= 1, got \(5, 3\)"),
    (lambda: srcnn(3, 3), "middle must be 1 or 5, got 3"),
    (lambda: periodic_shuffle(torch.zeros(1, 8, 2, 2), 3), r"a multiple of r\^2, .*got 8 channels and r = 3"),
    (lambda: periodic_shuffle(torch.zeros(1, 8, 2, 2), 0), r"r >= 1, got 8 channels and r = 0"),
    (lambda: channel_order(2, 0), r"r >= 1, got 0 channels and r = 2"),
    (lambda: subpixel_to_deconv(torch.zeros(4, 2, 3, 3), 3), r"\(r\^2 = 9, n, k, k\).*got \(4, 2, 3, 3\)"),
    (lambda: subpixel_to_deconv(torch.zeros(4, 2, 3, 5), 2), r"k odd, got \(4, 2, 3, 5\)"),
    (lambda: SubPixelLayer(5), "r must be 2, 3 or 4, got 5"),
    (lambda: unsharp(torch.zeros(1, 9, 9), 0, 1), "width must be > 0, got 0"),
    (lambda: subpixel_to_deconv(torch.zeros(4, 2, 2, 2), 2), r"k odd, got \(4, 2, 2, 2\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
