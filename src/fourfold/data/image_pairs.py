"""Image pairs, degraded and clean: the data and the measures of every chapter about restoration.

Photographs come whole, from files inside Python packages; nothing is downloaded. What damages them is a
chapter's own matter, except for shrinking, which is here with its inverse. A chapter trains on random crops
of pairs, cut at the same place of both, and measures with scikit-image.

Images are (channels, height, width) or (n, channels, height, width), float in 0..1 unless said otherwise.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import torch
from einops import repeat
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from fourfold.data.images import PHOTOGRAPHS
from fourfold.training import Draw

WHOLE = {
    **{name: ("skimage.data", file) for name, file in PHOTOGRAPHS.items()},
    "motorcycle": ("skimage.data", "motorcycle_left.png"),
    "china": ("sklearn.datasets.images", "china.jpg"),
    "flower": ("sklearn.datasets.images", "flower.jpg"),
}
"""Name -> package and file."""

YCBCR = torch.tensor([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
OFFSET = torch.tensor([16.0, 128.0, 128.0]) / 255
"""ITU-R BT.601 for digital video: black is 16/255, white 235/255, no colour 128/255."""


class Pairs(NamedTuple):
    """Degraded images and what they were, one by one: (c, h, w) and (c, factor h, factor w)."""

    degraded: list[Tensor]
    clean: list[Tensor]


# --- photographs and their colours ------------------------------------------------------------------------


def photograph(name: str) -> Tensor:
    """One whole photograph (3, height, width), float32; a grey one repeats its channel.

    Raises ``ValueError`` for a name that is not in ``WHOLE``.
    """
    if name not in WHOLE:
        raise ValueError(f"name must be one of {', '.join(WHOLE)}, got {name!r}")
    package, file = WHOLE[name]
    with files(package).joinpath(file).open("rb") as source:
        pixels = torch.tensor(np.asarray(Image.open(source))).float() / 255
    return repeat(pixels, "y x -> c y x", c=3) if pixels.ndim == 2 else pixels.movedim(-1, 0)


def ycbcr(rgb: Tensor) -> Tensor:
    """Luminance and two colour differences, (..., 3, height, width) -> the same shape."""
    return torch.einsum("ij,...jyx->...iyx", YCBCR.to(rgb), _colour(rgb)) + OFFSET.to(rgb)[:, None, None]


def rgb(ycbcr: Tensor) -> Tensor:
    """The inverse of ``ycbcr``, not clipped: colours that no screen shows lie outside 0..1."""
    inverse = torch.linalg.inv(YCBCR.double()).to(ycbcr)
    return torch.einsum("ij,...jyx->...iyx", inverse, _colour(ycbcr) - OFFSET.to(ycbcr)[:, None, None])


def luminance(rgb: Tensor) -> Tensor:
    """The first channel of ``ycbcr`` alone: (..., 3, height, width) -> (..., 1, height, width)."""
    return ycbcr(rgb)[..., :1, :, :]


def _colour(image: Tensor) -> Tensor:
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ValueError(f"a colour image must be (..., 3, height, width), got {tuple(image.shape)}")
    return image


# --- shrinking --------------------------------------------------------------------------------------------


def whole_multiple(image: Tensor, factor: int) -> Tensor:
    """The upper left part of (..., height, width) whose sides are the largest multiples of ``factor``.

    Raises ``ValueError`` for a factor below 1 or above a side.
    """
    height, width = image.shape[-2:]
    if not 1 <= factor <= min(height, width):
        raise ValueError(f"factor must be in 1..{min(height, width)}, the shorter side, got {factor}")
    return image[..., : height // factor * factor, : width // factor * factor]


def shrink(image: Tensor, factor: int) -> Tensor:
    """Bicubic reduction of (..., height, width) by a whole factor, as MATLAB's ``imresize`` does it.

    Keys's cubic with a = -0.5, widened by the factor so that it blurs before it samples. Raises
    ``ValueError`` unless the factor is >= 1 and divides both sides; see ``whole_multiple``.
    """
    height, width = image.shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"factor must be >= 1 and divide both sides, got {factor} for {height} x {width}")
    return _resized(image, (height // factor, width // factor), antialias=True)


def enlarge(image: Tensor, factor: int, a: float = -0.5) -> Tensor:
    """Bicubic interpolation of (..., height, width) by a whole factor; ``a`` is the slope of Keys's cubic.

    -0.5 is MATLAB's and Pillow's, -0.75 OpenCV's and torch's, which sharpens more: papers that only say
    "bicubic" differ by it. Raises ``ValueError`` for a factor below 1 or another ``a``.
    """
    if factor < 1:
        raise ValueError(f"factor must be >= 1, got {factor}")
    if a not in (-0.5, -0.75):
        raise ValueError(f"a must be -0.5 or -0.75, the slopes that torch has, got {a}")
    height, width = image.shape[-2:]
    # With antialias torch takes the kernel of Pillow, and there is nothing to blur when an image grows.
    return _resized(image, (height * factor, width * factor), antialias=a == -0.5)


def _resized(image: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    planes = image.reshape(-1, 1, *image.shape[-2:])
    return interpolate(planes, size, mode="bicubic", antialias=antialias).reshape(*image.shape[:-2], *size)


def shrunk(images: Sequence[Tensor], factor: int) -> Pairs:
    """Pairs of images (c, h, w) with themselves reduced, sides cut to a multiple of the factor."""
    clean = [whole_multiple(image, factor) for image in images]
    return Pairs([shrink(image, factor) for image in clean], clean)


# --- crops to learn from ----------------------------------------------------------------------------------


def crops(pairs: Pairs, n: int, size: int) -> Draw:
    """Random crops as ``training.train`` draws them: (n, c, size, size) and what they were, factor as large.

    Image and place of each crop are drawn with equal probability; places are whole pixels of the degraded
    image, and the clean crop is what lies there. Raises ``ValueError`` for n < 1, for no images or images
    that are no pairs of one factor, and for a size below 1 or above a side.
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    factor = _factor(pairs)
    shortest = min(min(image.shape[-2:]) for image in pairs.degraded)
    if not 1 <= size <= shortest:
        raise ValueError(f"size must be in 1..{shortest}, the shortest side, got {size}")

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        low, high = [], []
        which = torch.randint(len(pairs.degraded), (n,), generator=generator).tolist()
        places = torch.rand(n, 2, generator=generator, dtype=torch.float64).tolist()
        for index, (down, across) in zip(which, places, strict=True):
            degraded, clean = pairs.degraded[index], pairs.clean[index]
            height, width = degraded.shape[-2:]
            top, left = int(down * (height - size + 1)), int(across * (width - size + 1))
            low.append(degraded[:, top : top + size, left : left + size])
            top, left, side = top * factor, left * factor, size * factor
            high.append(clean[:, top : top + side, left : left + side])
        return torch.stack(low), torch.stack(high)

    return draw


def mispaired(draw: Draw) -> Draw:
    """A control: the clean crops that ``draw`` makes, dealt out at random to other degraded ones."""

    def dealt(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        degraded, clean = draw(generator)
        return degraded, clean[torch.randperm(len(clean), generator=generator)]

    return dealt


def _factor(pairs: Pairs) -> int:
    factors = set()
    for degraded, clean in zip(pairs.degraded, pairs.clean, strict=True):
        height, width = degraded.shape[-2:]
        factor = clean.shape[-1] // width
        if (len(degraded), factor * height, factor * width) != clean.shape:
            raise ValueError(
                "a clean image must be (c, factor h, factor w) for a degraded one (c, h, w), "
                f"got {tuple(clean.shape)} for {tuple(degraded.shape)}"
            )
        factors.add(factor)
    if len(factors) != 1:
        raise ValueError(f"pairs must be at least one, all of one factor, got factors {sorted(factors)}")
    return factors.pop()


# --- how good is a restoration? ---------------------------------------------------------------------------


def psnr(restored: Tensor, clean: Tensor, border: int = 0) -> float:
    """Peak signal-to-noise ratio of one image (c, height, width) in decibels, peak 1, by scikit-image.

    What was restored is clipped to 0..1, as a file would. ``border`` pixels are left out on every side: there
    methods differ by how they pad. Raises ``ValueError`` for unlike shapes or a border that leaves nothing.
    """
    return float(peak_signal_noise_ratio(*_compared(restored, clean, border), data_range=1))


def ssim(restored: Tensor, clean: Tensor, border: int = 0) -> float:
    """Structural similarity (Wang et al. 2004) of one image (c, height, width), at most 1, by scikit-image.

    With the paper's Gaussian window of 1.5 pixels; otherwise as ``psnr``. Images of at least 11 x 11 pixels.
    """
    reference, image = _compared(restored, clean, border)
    if min(image.shape[1:]) < 11:
        raise ValueError(f"ssim needs at least 11 x 11 pixels within the border, got {image.shape[1:]}")
    return float(
        structural_similarity(
            reference, image, channel_axis=0, data_range=1,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
    )  # fmt: skip


def gmsd(restored: Tensor, clean: Tensor, border: int = 0) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014) of one image (1, height, width): 0 is best.

    As in the authors' code: means of 2 x 2 pixels, Prewitt's gradients, c = 170 for a range of 255, and the
    sample's standard deviation; but only where gradients are whole, where theirs has zeros around the image.
    Otherwise as ``psnr``. Raises ``ValueError`` for an image in colour or below 8 x 8 pixels, too.
    """
    reference, image = _compared(restored, clean, border)
    if len(image) != 1 or min(image.shape[1:]) < 8:
        raise ValueError(f"gmsd needs (1, height >= 8, width >= 8) within the border, got {image.shape}")
    across = torch.tensor([[1.0, 0, -1]] * 3, dtype=torch.float64) / 3
    kernels = torch.stack([across, across.T])[:, None]
    one, other = (
        conv2d(avg_pool2d(255 * torch.from_numpy(plane)[None], 2), kernels).square().sum(1)
        for plane in (image, reference)
    )
    return float(((2 * (one * other).sqrt() + 170) / (one + other + 170)).std())


def mean_psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """A ``score`` for ``training.train``: (seeds, m, c, height, width) each -> mean ``psnr`` (seeds,)."""
    scores = [
        [psnr(*pair) for pair in zip(*member, strict=True)] for member in zip(restored, clean, strict=True)
    ]
    return torch.tensor(scores, dtype=torch.float64).mean(1)


def _compared(restored: Tensor, clean: Tensor, border: int) -> tuple[np.ndarray, np.ndarray]:
    if restored.shape != clean.shape or clean.ndim != 3:
        raise ValueError(
            f"images to compare must be (c, height, width), "
            f"got {tuple(restored.shape)} and {tuple(clean.shape)}"
        )
    if not 0 <= 2 * border < min(clean.shape[1:]):
        raise ValueError(f"border must be >= 0 and leave some of {tuple(clean.shape[1:])}, got {border}")
    height, width = clean.shape[1:]
    inner = (..., slice(border, height - border), slice(border, width - border))
    # In double precision, so that the mean of a large image does not depend on the order of its sum.
    image, reference = restored[inner].double().clamp(0, 1), clean[inner].double()
    return reference.numpy(force=True), image.numpy(force=True)
