"""Light networks for super-resolution: what stands around a body, their training, and what is measured."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import signal
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio
from torch import nn
from torch.nn.functional import conv2d, gelu, layer_norm, pad, pixel_shuffle

from fourfold import cost
from fourfold import super_resolution as sr
from fourfold.data import image_pairs
from fourfold.training import stream

from .draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


def small_pairs(factor: int = 2, n: int = 2) -> image_pairs.Pairs:
    return image_pairs.shrunk([normal(3, 40, 48, seed=seed).sigmoid().float() for seed in range(n)], factor)


# --- what stands around a body ----------------------------------------------------------------------------


@pytest.mark.parametrize("over_bicubic", [False, True])
@pytest.mark.parametrize("scale", sr.SCALES)
def test_a_network_is_what_its_convolutions_say(jolted, scale, over_bicubic):
    body = nn.Conv2d(4, 4, 1)
    net = jolted(
        sr.SuperResolver, body, 4, scale, tail=sr.ChannelNorm(4), multiple=4, over_bicubic=over_bicubic
    )
    x = normal(2, 3, 6, 7).sigmoid()
    mean = torch.tensor(sr.MEAN, dtype=torch.float64)[:, None, None]

    def convolved(layer, x):
        return conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)

    first = convolved(net.first, pad(x - mean, (0, 1, 0, 2), mode="reflect"))
    inside = convolved(body, first).movedim(1, -1)
    inside = layer_norm(inside, (4,), net.tail.weight, net.tail.bias).movedim(-1, 1)
    large = pixel_shuffle(convolved(net.last, first + convolved(net.after, inside)), scale)
    large = large[..., : 6 * scale, : 7 * scale]
    wanted = large + (image_pairs.enlarge(x, scale) if over_bicubic else mean)
    torch.testing.assert_close(net(x), wanted, **EXACT)


def test_over_bicubic_a_network_starts_as_bicubic_interpolation():
    x = torch.rand(1, 3, 9, 11)
    start = sr.SuperResolver(nn.Identity(), 8, 2, over_bicubic=True)(x)
    torch.testing.assert_close(start, image_pairs.enlarge(x, 2), rtol=0, atol=1e-7)


def test_the_gated_network_by_hand(jolted):
    net, x = jolted(sr.GDFN, 3, 5), normal(2, 3, 6, 7)
    up = torch.einsum("oc, bcyx -> boyx", net.up.weight[..., 0, 0], x)
    near = torch.stack(
        [
            torch.from_numpy(
                np.stack(
                    [signal.correlate2d(one, kernel, mode="same") for one in up[:, channel].detach().numpy()]
                )
            )
            for channel, kernel in enumerate(net.near.weight[:, 0].detach().numpy())
        ],
        1,
    )
    wanted = torch.einsum("oc, bcyx -> boyx", net.down.weight[..., 0, 0], gelu(near[:, :5]) * near[:, 5:])
    torch.testing.assert_close(net(x), wanted, **EXACT)
    assert cost.parameters(net) == 3 * 10 + 9 * 10 + 5 * 3


def test_gradients():
    net = sr.SuperResolver(sr.GDFN(2, 2), 2, 2, tail=sr.ChannelNorm(2)).double()
    assert torch.autograd.gradcheck(net, (normal(1, 3, 3, 4).requires_grad_(),))


# --- training ---------------------------------------------------------------------------------------------


def test_the_three_lots_have_no_photograph_in_common():
    lots = [*sr.LEARN, *sr.CHOOSE, *sr.JUDGE]
    assert len(set(lots)) == len(lots)
    assert set(lots) <= set(image_pairs.WHOLE)


def test_pairs_are_central_squares_or_whole_photographs():
    square, whole = sr.pairs(["chelsea"], 3, 60), sr.pairs(["chelsea"], 3)
    assert square.clean[0].shape == (3, 60, 60)
    assert square.degraded[0].shape == (3, 20, 20)
    photo = image_pairs.photograph("chelsea")
    assert torch.equal(square.clean[0], photo[:, 120:180, 195:255])
    assert whole.clean[0].shape == (3, 300, 450)


def test_crops_are_turned_with_their_partners_in_all_eight_ways():
    pairs = image_pairs.shrunk([torch.arange(3 * 64.0).reshape(3, 8, 8) / 192], 2)
    low, high = sr.turned(image_pairs.crops(pairs, 64, 4))(stream(0, "crops"))
    torch.testing.assert_close(image_pairs.shrink(high, 2), low, rtol=0, atol=1e-5)
    assert len({tuple(one.flatten().tolist()) for one in high}) == 8


def test_training_repeats_and_depends_on_its_seed():
    make = partial(sr.SuperResolver, nn.Identity(), 4, 2, over_bicubic=True)
    how = {"steps": 6, "batch": 2, "crop": 8, "lr": 1e-3}
    one, same = (sr.fit(make, [3], small_pairs(), **how) for _ in range(2))
    other = sr.fit(make, [4], small_pairs(), **how)
    assert one.loss.shape == (1, 6)
    assert torch.equal(one.loss, same.loss)
    assert not torch.equal(one.loss, other.loss)


def test_crops_that_memory_cannot_hold_are_drawn_in_several_epochs():
    make = partial(sr.SuperResolver, nn.Identity(), 1, 2)
    run = sr.fit(make, [0], small_pairs(), steps=6, batch=1024, crop=2, lr=1e-3)
    assert run.score.shape == (1, 2)
    assert run.loss.shape == (1, 6)


# --- what is measured -------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3])
def test_gains_are_scikit_images_psnr_of_luminance(factor):
    of = small_pairs(factor)
    large = [clean + 0.05 * normal(*clean.shape, seed=9).float() for clean in of.clean]

    def psnr(image, clean):
        ours, theirs = (
            rgb2ycbcr(part.clamp(0, 1).movedim(0, -1).double().numpy())[..., 0] / 255
            for part in (image, clean)
        )
        inner = (slice(factor, -factor),) * 2
        return peak_signal_noise_ratio(theirs[inner], ours[inner], data_range=1)

    wanted = [
        psnr(made, clean) - psnr(image_pairs.enlarge(small, factor), clean)
        for made, small, clean in zip(large, *of, strict=True)
    ]
    assert sr.gains(large, of) == pytest.approx(wanted, abs=1e-4)


def test_errors_of_one_frequency_lie_in_its_band():
    of = image_pairs.shrunk([torch.full((3, 68, 68), 0.5)], 2)
    wave = 0.1 * torch.cos(2 * torch.pi * 10 / 64 * torch.arange(68))
    edges = (0, 0.1, 0.2, 0.5)
    bands = sr.band_errors([of.clean[0] + wave], of, edges)
    # Luminance of grey is 219/255 of it; a cosine has half its square.
    wanted = 0.5 * (0.1 * 219 / 255) ** 2
    torch.testing.assert_close(
        bands, torch.tensor([0.0, wanted, 0.0], dtype=torch.float64), rtol=2e-3, atol=1e-7
    )
    two = image_pairs.Pairs(of.degraded * 2, of.clean * 2)
    torch.testing.assert_close(sr.band_errors([of.clean[0] + wave] * 2, two, edges), 2 * bands)


def test_restoring_is_the_network_image_by_image():
    small = [torch.rand(3, 5, 6), torch.rand(3, 7, 5)]
    large = sr.restored(lambda x: image_pairs.enlarge(x, 2), small)
    assert [one.shape for one in large] == [(3, 10, 12), (3, 14, 10)]


REFUSED = [
    (lambda: sr.SuperResolver(nn.Identity(), 4, 5), "scale must be 2, 3 or 4, got 5"),
    (lambda: sr.SuperResolver(nn.Identity(), 0, 2), "dim must be >= 1, got 0"),
    (lambda: sr.SuperResolver(nn.Identity(), 4, 2, multiple=8)(torch.zeros(1, 3, 9, 4)), "got 9 x 4"),
    (lambda: sr.GDFN(4, 0), "hidden must be >= 1, got 0"),
    (lambda: sr.pairs(["chelsea"], 2, 301), r"side must be in 1\.\.300, got 301"),
    (lambda: sr.pairs(["dog"], 2), "name must be one of"),
    (lambda: sr.fit(nn.Identity, [0], small_pairs(), steps=0, batch=1, crop=4, lr=0.1), "steps must be >= 1"),
    (lambda: sr.fit(nn.Identity, [0], small_pairs(), steps=1, batch=1, crop=99, lr=0.1), r"1\.\.20"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
