"""Real images, and the tasks that fourfold composes to ask one thing of attention.

``digits`` ships with scikit-learn and needs no network; ``cifar10`` and ``cifar100`` are fetched once.
``content_selection`` and ``key_recall`` are fourfold's own probes: in each, one cell of a small mosaic
decides the label and the loader says which, so that attention on it can be measured. Both draw from the
generator they are given.
"""

from typing import Literal, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import interpolate, pad

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


def cue_cells(tokens: Tensor) -> Tensor:
    """Which cell of each sample of ``key_recall`` is the cue, lit in its lower left corner.

    ``tokens``: (n, cells, p^2), as ``key_recall`` makes them. Returns (n,), cells counted from 0.
    """
    p = int(tokens.shape[-1] ** 0.5)
    return (tokens.unflatten(-1, (p, p))[..., -1, 0] > 1).int().argmax(1)


def mosaic(tokens: Tensor, columns: int) -> Tensor:
    """The cells of one sample, (cells, p^2), as a picture in rows of ``columns``, a gap of nan after each.

    Raises ``ValueError`` if rows would be of different lengths.
    """
    _at_least(1, columns=columns)
    if len(tokens) % columns:
        raise ValueError(f"columns must divide the {len(tokens)} cells, got {columns}")
    p = int(tokens.shape[-1] ** 0.5)
    cells = pad(tokens.unflatten(-1, (p, p)), (0, 1, 0, 1), value=torch.nan)
    return rearrange(cells, "(r c) y x -> (r y) (c x)", c=columns)[:-1, :-1]


def _at_least(low: int, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < low:
            raise ValueError(f"{name} must be >= {low}, got {size}")
