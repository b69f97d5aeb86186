"""Image pairs: scikit-image's colours and measures, Pillow's bicubic kernel, crops that stay aligned."""

import math
import socket
from functools import partial
from importlib.metadata import files as wheel
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d
from skimage import io
from skimage.color import rgb2ycbcr, ycbcr2rgb
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn.functional import mse_loss

from fourfold import training
from fourfold.data.image_pairs import (
    WHOLE,
    Pairs,
    crops,
    enlarge,
    gmsd,
    luminance,
    mean_psnr,
    mispaired,
    photograph,
    psnr,
    rgb,
    shrink,
    shrunk,
    ssim,
    whole_multiple,
    ycbcr,
)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an image was asked from the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=training.stream(seed, "uniform"))


def ramps(*sizes: tuple[int, int], factor: int) -> Pairs:
    """Degraded images that hold the index of each pixel, clean ones with the index of the pixel above it."""
    degraded = [torch.arange(float(h * w)).reshape(1, h, w) for h, w in sizes]
    return Pairs(degraded, [d.repeat_interleave(factor, 1).repeat_interleave(factor, 2) for d in degraded])


# --- photographs and their colours ------------------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE)
def test_each_photograph_is_whole_and_in_a_wheel(name):
    package, file = WHOLE[name]
    distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package.split(".")[0]]
    assert f"{package.replace('.', '/')}/{file}" in {str(path) for path in wheel(distribution)}
    pixels = io.imread(files(package).joinpath(file))
    colour = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels
    ours = photograph(name)
    assert (ours.dtype, ours.shape[0]) == (torch.float32, 3)
    assert np.array_equal((ours * 255).round().byte().permute(1, 2, 0).numpy(), colour)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 7, 5), (2, 3, 4, 6)])
def test_colours_are_scikit_images(shape):
    image = uniform(*shape)
    theirs = rgb2ycbcr(image.movedim(-3, -1).numpy()) / 255
    np.testing.assert_allclose(ycbcr(image).movedim(-3, -1).numpy(), theirs, rtol=0, atol=1e-7)
    np.testing.assert_allclose(luminance(image)[..., 0, :, :].numpy(), theirs[..., 0], rtol=0, atol=1e-7)
    back = ycbcr2rgb(theirs * 255)
    np.testing.assert_allclose(rgb(ycbcr(image)).movedim(-3, -1).numpy(), back, rtol=0, atol=1e-6)
    torch.testing.assert_close(rgb(ycbcr(image)), image, rtol=0, atol=1e-7)
    torch.testing.assert_close(rgb(ycbcr(image.float())), image.float(), rtol=0, atol=1e-6)


def test_black_white_and_grey_in_digital_video():
    for value, level in ((0.0, 16), (1.0, 235), (0.5, 125.5)):
        y, cb, cr = (255 * ycbcr(torch.full((3, 1, 1), value, dtype=torch.float64))).flatten().tolist()
        assert (y, cb, cr) == pytest.approx((level, 128, 128), abs=1e-4)


# --- shrinking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "factor"), [((12, 18), 3), ((10, 8), 2), ((16, 20), 4), ((7, 5), 1)])
def test_shrinking_and_enlarging_are_pillows_bicubic(size, factor):
    image = uniform(1, *size).float()
    height, width = size
    for ours, wanted in (
        (shrink(image, factor), (height // factor, width // factor)),
        (enlarge(image, factor), (height * factor, width * factor)),
    ):
        theirs = Image.fromarray(image[0].numpy()).resize(wanted[::-1], Image.Resampling.BICUBIC)
        np.testing.assert_allclose(ours[0].numpy(), np.asarray(theirs), rtol=0, atol=1e-5)


def test_kernels_of_interpolation_are_keyss_cubics():
    impulse = torch.zeros(1, 1, 9, dtype=torch.float64)
    impulse[..., 4] = 1
    distance = ((torch.arange(27) - 13).abs() / 3).double()
    for a in (-0.5, -0.75):
        inner = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        outer = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        cubic = torch.where(distance <= 1, inner, torch.where(distance < 2, outer, 0))
        torch.testing.assert_close(enlarge(impulse, 3, a)[0, 1], cubic, rtol=0, atol=1e-6)


def test_flat_images_stay_flat_and_batches_are_images():
    flat = torch.full((2, 1, 6, 9), 0.3)
    torch.testing.assert_close(shrink(flat, 3), torch.full((2, 1, 2, 3), 0.3))
    torch.testing.assert_close(enlarge(flat, 2), torch.full((2, 1, 12, 18), 0.3))
    image = uniform(2, 3, 6, 9)
    assert torch.equal(shrink(image, 3)[1], shrink(image[1], 3))
    assert torch.equal(enlarge(image, 3)[0, 2], enlarge(image[0, 2], 3))


def test_shrinking_keeps_what_it_can_and_interpolation_brings_it_back():
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(90.0), indexing="ij")
    slow, fast = (0.5 + 0.3 * torch.cos(2 * math.pi * (x + y) * f)[None] for f in (1 / 30, 1 / 3))
    assert psnr(enlarge(shrink(slow, 3), 3), slow, 6) > 40
    # A wave of three pixels would fold to a flat image 0.3 too bright; a blur leaves the mean instead.
    assert (shrink(fast, 3)[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.02


def test_sides_are_cut_to_a_multiple():
    image = uniform(1, 8, 10)
    assert torch.equal(whole_multiple(image, 3), image[:, :6, :9])
    assert torch.equal(whole_multiple(image, 1), image)
    (small,), (large,) = shrunk([image], 3)
    assert torch.equal(large, image[:, :6, :9])
    assert torch.equal(small, shrink(large, 3))


# --- crops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_crops_are_aligned_and_reach_every_place(factor):
    pairs = ramps((3, 4), (5, 3), factor=factor)
    low, high = crops(pairs, 400, 2)(training.stream(0, "crops"))
    assert (low.shape, high.shape) == ((400, 1, 2, 2), (400, 1, 2 * factor, 2 * factor))
    assert torch.equal(high, low.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
    places = {(int(d[0, 0, 1] - d[0, 0, 0]), int(d[0, 1, 0] - d[0, 0, 0]), int(d[0, 0, 0])) for d in low}
    assert len(places) == 2 * 3 + 4 * 2
    narrow = (low[:, 0, 1, 0] - low[:, 0, 0, 0] == 3).double().mean()
    assert narrow == pytest.approx(0.5, abs=0.08)


def test_crops_repeat_with_the_generator_alone():
    draw = crops(ramps((20, 30), factor=2), 5, 7)
    first, again = (draw(training.stream(1, "crops")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(draw(training.stream(2, "crops"))[0], first[0])


def test_mispaired_crops_are_the_same_crops_with_other_partners():
    draw = crops(ramps((20, 30), factor=2), 40, 3)
    (low, high), (same, dealt) = draw(training.stream(1, "c")), mispaired(draw)(training.stream(1, "c"))
    assert torch.equal(low, same)
    assert (dealt != high).flatten(1).any(1).double().mean() > 0.8
    assert sorted(dealt.sum((1, 2, 3)).tolist()) == sorted(high.sum((1, 2, 3)).tolist())


@pytest.mark.parametrize("deal", [False, True])
def test_a_network_learns_the_relation_of_pairs_and_nothing_when_they_are_mispaired(deal):
    """Inverting images is learnt from pairs by one weight and a bias; dealt to others, only the mean is."""
    clean = [uniform(1, 12, 12, seed=seed).float() for seed in range(4)]
    draw = crops(Pairs([1 - image for image in clean], clean), 256, 4)
    test = tuple(part[None] for part in draw(training.stream(9, "test")))
    recipe = training.Recipe(6, 16, 0.1, weight_decay=0)
    trained = training.train(
        partial(nn.Conv2d, 1, 1, 1), [0], mispaired(draw) if deal else draw, test, recipe,
        loss=mse_loss, score=mean_psnr,
    )  # fmt: skip
    assert trained.score[0, -1] < 12 if deal else trained.score[0, -1] > 25


# --- measures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", [0, 1, 3])
def test_psnr_is_its_formula_within_the_border(border):
    clean = uniform(1, 9, 8)
    restored = clean + 0.3 * (uniform(1, 9, 8, seed=1) - 0.5)
    inner = (..., slice(border, 9 - border), slice(border, 8 - border))
    error = (restored.clamp(0, 1) - clean)[inner].square().mean()
    assert psnr(restored, clean, border) == pytest.approx(float(-10 * error.log10()), abs=1e-9)
    noise = 1000 * (1 - torch.ones(9, 8))
    noise[0] = 5
    assert (psnr(restored + noise, clean, 1) == psnr(restored, clean, 1)) is True


def test_psnr_of_all_images_is_the_mean_of_their_own():
    clean = uniform(2, 3, 1, 6, 5)
    restored = clean + 0.1 * uniform(2, 3, 1, 6, 5, seed=1)
    means = mean_psnr(restored, clean)
    assert means.shape == (2,)
    assert float(means[1]) == pytest.approx(sum(psnr(restored[1, i], clean[1, i]) for i in range(3)) / 3)


def test_ssim_is_scikit_images_with_the_window_of_its_paper():
    clean = uniform(2, 30, 25)
    restored = (clean + 0.2 * uniform(2, 30, 25, seed=1)).clamp(0, 1)
    theirs = [
        structural_similarity(
            c[3:-3, 3:-3],
            d[3:-3, 3:-3],
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for c, d in zip(clean.numpy(), restored.numpy(), strict=True)
    ]
    assert ssim(restored, clean, 3) == pytest.approx(sum(theirs) / 2, abs=1e-9)
    assert ssim(clean, clean) == pytest.approx(1)
    assert ssim(restored, clean) < ssim((clean + restored) / 2, clean)


def by_matlab(restored, clean):
    """The authors' MATLAB code, line by line, but with ``valid`` in place of ``same`` for the gradients."""
    dx = np.array([[1, 0, -1]] * 3) / 3
    magnitudes = []
    for image in (255 * clean.double().numpy(), 255 * restored.double().numpy()):
        # conv2 (.., 'same') with four ones, every second value of which is kept.
        halved = convolve2d(image, np.ones((2, 2)) / 4)[1::2, 1::2][
            : image.shape[0] // 2, : image.shape[1] // 2
        ]
        slopes = [convolve2d(halved, kernel, mode="valid") for kernel in (dx, dx.T)]
        magnitudes.append(np.sqrt(slopes[0] ** 2 + slopes[1] ** 2))
    one, other = magnitudes
    return np.std((2 * one * other + 170) / (one**2 + other**2 + 170), ddof=1)


@pytest.mark.parametrize("size", [(30, 24), (31, 25)])
def test_gmsd_is_that_of_the_authors_code(size):
    clean = uniform(1, *size)
    restored = (clean + 0.3 * uniform(1, *size, seed=1)).clamp(0, 1)
    assert gmsd(restored, clean) == pytest.approx(by_matlab(restored[0], clean[0]), abs=1e-9)
    inner = (slice(3, -3), slice(3, -3))
    assert gmsd(restored, clean, 3) == pytest.approx(by_matlab(restored[0][inner], clean[0][inner]), abs=1e-9)
    assert gmsd(clean, clean) == pytest.approx(0, abs=1e-12)
    assert gmsd(restored, clean) > gmsd((clean + restored) / 2, clean)


PAIRS = ramps((4, 6), factor=2)
ODD = Pairs([torch.zeros(1, 4, 4)], [torch.zeros(1, 8, 9)])
MIXED = Pairs([torch.zeros(1, 4, 4)] * 2, [torch.zeros(1, 8, 8), torch.zeros(1, 4, 4)])
IMAGE = torch.zeros(1, 12, 12)
REFUSED = [
    (lambda: photograph("lena"), "name must be one of astronaut, .*got 'lena'"),
    (lambda: ycbcr(torch.zeros(1, 4, 4)), r"must be \(\.\.\., 3, height, width\), got \(1, 4, 4\)"),
    (lambda: rgb(torch.zeros(4, 4)), r"must be \(\.\.\., 3, height, width\), got \(4, 4\)"),
    (lambda: shrink(IMAGE, 5), "factor must be >= 1 and divide both sides, got 5 for 12 x 12"),
    (lambda: shrink(IMAGE, 0), "factor must be >= 1 .*got 0"),
    (lambda: enlarge(IMAGE, 0), "factor must be >= 1, got 0"),
    (lambda: enlarge(IMAGE, 2, -0.6), r"a must be -0\.5 or -0\.75, .*got -0\.6"),
    (lambda: whole_multiple(IMAGE, 13), r"factor must be in 1\.\.12, .*got 13"),
    (lambda: whole_multiple(IMAGE, 0), r"factor must be in 1\.\.12, .*got 0"),
    (lambda: crops(PAIRS, 0, 2), "n must be >= 1, got 0"),
    (lambda: crops(PAIRS, 1, 5), r"size must be in 1\.\.4, the shortest side, got 5"),
    (lambda: crops(PAIRS, 1, 0), r"size must be in 1\.\.4, .*got 0"),
    (lambda: crops(ODD, 1, 2), r"\(c, factor h, factor w\) .*got \(1, 8, 9\) for \(1, 4, 4\)"),
    (lambda: crops(MIXED, 1, 2), r"all of one factor, got factors \[1, 2\]"),
    (lambda: crops(Pairs([], []), 1, 2), r"at least one, .*got factors \[\]"),
    (lambda: psnr(IMAGE, IMAGE[0]), r"images to compare .*got \(1, 12, 12\) and \(12, 12\)"),
    (lambda: psnr(IMAGE[0], IMAGE[0]), r"images to compare .*got \(12, 12\) and \(12, 12\)"),
    (lambda: psnr(IMAGE, IMAGE, 6), r"border must be >= 0 and leave some of \(12, 12\), got 6"),
    (lambda: psnr(IMAGE, IMAGE, -1), r"border must be >= 0 .*got -1"),
    (lambda: gmsd(IMAGE.expand(3, -1, -1), IMAGE.expand(3, -1, -1)), r"gmsd needs \(1, .*got \(3, 12, 12\)"),
    (lambda: gmsd(IMAGE, IMAGE, 3), r"gmsd needs \(1, height >= 8, .*got \(1, 6, 6\)"),
    (lambda: ssim(IMAGE, IMAGE, 1), r"at least 11 x 11 pixels .*got \(10, 10\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
