"""Real images, and the tasks that fourfold composes to ask one thing of attention.

``digits`` ships with scikit-learn and needs no network; ``cifar10`` and ``cifar100`` are fetched once.
``content_selection`` and ``key_recall`` are fourfold's own probes: in each, one cell of a small mosaic
decides the label and the loader says which, so that attention on it can be measured. Both draw from the
generator they are given.
"""

import sys
import tarfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import interpolate

CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
CIFAR100_MD5 = "03b5dce01913d631647c71ecec9e9cb8"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CODES = 4
"""Number of codes in ``key_recall``."""

Cue = Literal["random", "fixed", "transposed"]


class Images(NamedTuple):
    """Images (n, ...) and their labels (n,)."""

    images: Tensor
    labels: Tensor


class Probe(NamedTuple):
    """A task about one cell: tokens (n, cells, p^2), labels (n,), and the cell that decides each (n,)."""

    tokens: Tensor
    labels: Tensor
    target: Tensor


def digits() -> tuple[Images, Images]:
    """1400 training and 397 test images of handwritten digits, (n, 8, 8) in 0..1, from scikit-learn.

    Alpaydin and Kaynak (1998). Shuffled once, always the same way: the original goes writer by writer.
    """
    # Importing scikit-learn takes a second, which readers of the other data sets should not wait.
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels, dtype=torch.float32)[order].reshape(-1, 8, 8) / 16
    labels = torch.tensor(classes, dtype=torch.int64)[order]
    return Images(images[:1400], labels[:1400]), Images(images[1400:], labels[1400:])


def content_selection(
    source: Images, n: int, *, p: int = 8, grid: int = 4, generator: torch.Generator
) -> Probe:
    """A grid of digits, one of them flagged; the label is the flagged digit ("task A").

    Digits are drawn from ``source`` with replacement. The flag sets the upper left p//4 x p//4 pixels (2 x 2
    at p = 8) to 1; then 0.3 is subtracted everywhere. For p != 8 digits are resized bilinearly, before
    flagging. Returns grid^2 cells. Raises ``ValueError`` for n < 1, p < 4, grid < 1 or no images.
    """
    _at_least(1, n=n, grid=grid)
    _at_least(4, p=p)
    if source.images.ndim != 3 or not len(source.images):
        raise ValueError(
            f"source must be images (n, height, width), n >= 1, got {tuple(source.images.shape)}"
        )
    cells = grid * grid
    drawn = torch.randint(len(source.labels), (n, cells), generator=generator)
    target = torch.randint(cells, (n,), generator=generator)
    images = source.images
    if images.shape[-2:] != (p, p):
        images = interpolate(images[:, None], (p, p), mode="bilinear", antialias=True)[:, 0]
    maps = images[drawn]
    image = torch.arange(n)
    maps[image, target, : p // 4, : p // 4] = 1
    return Probe(maps.flatten(2) - 0.3, source.labels[drawn[image, target]], target)


def key_recall(
    n: int, *, cells: int = 6, p: int = 8, cue: Cue = "random", generator: torch.Generator
) -> Probe:
    """Find the cell whose key is the cue's and report its code ("task B"): one token must look for another.

    Every cell carries a random 4 x 4 binary key (upper left), no two alike, and one of 4 codes (which row of
    the lower right 4 x 4 is bright). One cell is the cue: its key is the key of another, random cell, the
    target; it has no code, and its lower left 4 x 4 is all ones. The label is the target's code. Pixels are
    doubled and 0.5 subtracted.
    ``cue``: in a ``"random"`` cell, ``"fixed"`` in cell 0, or random with its key ``"transposed"``.
    For p > 8 each pixel of this 8 x 8 design is a square of p/8 pixels: the task stays, distances grow.
    Raises ``ValueError`` for n < 1, cells outside 2..64, p not a multiple of 8, or an unknown cue.
    """
    _at_least(1, n=n)
    if not 2 <= cells <= 64:
        raise ValueError(f"cells must be in 2..64, got {cells}")
    if p < 8 or p % 8:
        raise ValueError(f"p must be a multiple of 8, got {p}")
    if cue not in ("random", "fixed", "transposed"):
        raise ValueError(f"cue must be 'random', 'fixed' or 'transposed', got {cue!r}")
    keys = torch.randint(2**16, (n, cells), generator=generator)
    while (repeated := (keys.sort().values.diff() == 0).any(1)).any():
        keys[repeated] = torch.randint(2**16, (int(repeated.sum()), cells), generator=generator)
    codes = torch.randint(CODES, (n, cells), generator=generator)
    cue_cell = torch.randint(1 if cue == "fixed" else cells, (n,), generator=generator)
    # A step of 1 .. cells-1 from the cue reaches each other cell with the same probability.
    target = (cue_cell + torch.randint(1, cells, (n,), generator=generator)) % cells

    image = torch.arange(n)
    maps = torch.zeros(n, cells, 8, 8)
    bits = rearrange(keys[..., None] >> torch.arange(16) & 1, "n cells (y x) -> n cells y x", y=4).float()
    shown = bits[image, target]
    bits[image, cue_cell] = shown.mT if cue == "transposed" else shown
    maps[:, :, :4, :4] = bits
    maps[:, :, 4:, 4:] = repeat(torch.eye(CODES)[codes], "n cells y -> n cells y x", x=4)
    maps[image, cue_cell, 4:, 4:] = 0
    maps[image, cue_cell, 4:, :4] = 1
    tokens = repeat(2 * maps - 0.5, "n cells y x -> n cells (y a x b)", a=p // 8, b=p // 8)
    return Probe(tokens, codes[image, target], target)


def cifar100(folder: Path | None = None) -> tuple[Images, Images]:
    """CIFAR-100 (Krizhevsky 2009): training and test images, uint8 (n, 3, 32, 32), with the 100 fine labels.

    Downloads 161 MB once into ``folder`` (default: the user's cache) and checks them against a known sum. The
    binary version, because the other one is a pickle and a pickle runs code. Raises ``OSError`` saying what
    to download and where to put it if there is neither a network nor the file.
    """
    return read_cifar100(_fetched("CIFAR-100", CIFAR100_URL, CIFAR100_MD5, folder))


def cifar10(folder: Path | None = None) -> tuple[Images, Images]:
    """CIFAR-10 (Krizhevsky 2009): training and test images, uint8 (n, 3, 32, 32), with their labels.

    Downloads 162 MB, as ``cifar100`` does, with the same errors.
    """
    return read_cifar10(_fetched("CIFAR-10", CIFAR10_URL, CIFAR10_MD5, folder))


def patches(photos: Images, p: int) -> Images:
    """Photographs (n, 3, side, side), uint8, as tokens (n, cells, p^2): grey values in -1..1, cut row by row.

    Raises ``ValueError`` if p does not divide the side.
    """
    side = photos.images.shape[-1]
    if p < 1 or side % p:
        raise ValueError(f"p must divide the photographs' side of {side} pixels, got {p}")
    grey = photos.images.float().mean(dim=1) / 127.5 - 1
    return Images(rearrange(grey, "n (r y) (c x) -> n (r c) (y x)", y=p, x=p), photos.labels)


def read_cifar100(archive: Path) -> tuple[Images, Images]:
    """The training and test images of a CIFAR-100 binary archive. Raises ``ValueError`` if it is not one."""
    # A coarse label stands before the fine one.
    return _read_cifar(archive, 2, [["cifar-100-binary/train.bin"], ["cifar-100-binary/test.bin"]])


def read_cifar10(archive: Path) -> tuple[Images, Images]:
    """The training and test images of a CIFAR-10 binary archive. Raises ``ValueError`` if it is not one."""
    batches = [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)]
    return _read_cifar(archive, 1, [batches, ["cifar-10-batches-bin/test_batch.bin"]])


def _fetched(name: str, url: str, md5: str, folder: Path | None) -> Path:
    # At import pooch asks Jupyter for a progress widget, and warns where there is none.
    import pooch

    folder = pooch.os_cache("fourfold") if folder is None else folder
    archive = Path(folder) / url.rsplit("/", 1)[1]
    try:
        pooch.retrieve(
            url,
            f"md5:{md5}",
            fname=archive.name,
            path=folder,
            progressbar=sys.stderr.isatty(),
        )
    except (OSError, ValueError) as error:
        raise OSError(
            f"{name} is not here and could not be downloaded: fetch {url} (md5 {md5}) "
            f"and save it as {archive}"
        ) from error
    return archive


def _read_cifar(archive: Path, labels: int, parts: list[list[str]]) -> tuple[Images, Images]:
    """Records of some label bytes, the last one kept, and the red, green and blue planes."""
    try:
        with tarfile.open(archive) as tar:
            records = [
                torch.cat([_records(tar, name, labels + 3 * 32 * 32) for name in part]) for part in parts
            ]
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} is not a whole tar archive: {error}") from error
    train, test = (
        Images(rearrange(part[:, labels:], "n (c y x) -> n c y x", c=3, y=32), part[:, labels - 1].long())
        for part in records
    )
    return train, test


def _records(tar: tarfile.TarFile, name: str, size: int) -> Tensor:
    """One file of records, (n, size) bytes."""
    if name not in tar.getnames() or (file := tar.extractfile(name)) is None:
        raise ValueError(f"expected {name} in the archive, got {', '.join(tar.getnames()) or 'nothing'}")
    data = np.frombuffer(file.read(), dtype=np.uint8)
    if not data.size or data.size % size:
        raise ValueError(f"{name} must be records of {size} bytes, got {data.size} bytes")
    return torch.from_numpy(data.reshape(-1, size).copy())


def _at_least(low: int, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < low:
            raise ValueError(f"{name} must be >= {low}, got {size}")
