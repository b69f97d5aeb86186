"""CIFAR-10 and CIFAR-100, fetched once and checked."""

import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from fourfold.data.probes import Images

CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
CIFAR100_MD5 = "03b5dce01913d631647c71ecec9e9cb8"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


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
