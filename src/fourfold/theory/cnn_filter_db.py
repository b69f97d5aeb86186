"""CNN Filter DB: the 3 x 3 filters of trained networks as a distribution in nine dimensions.

Gavrikov and Keuper, arXiv 2203.15331, CVPR 2022. Every convolution with 3 x 3 kernels gives out * in rows of
nine numbers. Rows, each divided by its largest entry, are compared between groups along their principal
components, by the symmetric Kullback-Leibler divergence of histograms; layers are judged by how many of their
filters are next to zero and by the entropy of their filters' variance.

Implemented: scaling, components, drift, the same in excess of what samples of that size differ by, sparsity,
entropy and its threshold for random layers, groups by depth, layers as noise of their own mean, covariance
and sizes; SRMD (Zhang et al., CVPR 2018) run with filters zeroed; a small network for few images or many.
Departure: the authors compare groups of all sizes and subtract nothing, though small samples drift apart.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_shuffle

from fourfold.checks import at_least, between
from fourfold.data.filters import Layer

EMPTY = float(np.finfo(np.float32).eps)
"""The density of an empty bin, as in the authors' code."""

# --- filters as points -------------------------------------------------------------------------------------


def scale_filters(rows: ArrayLike) -> NDArray:
    """Each row (n, 9) over its largest absolute entry; a row of zeros stays."""
    rows = _rows(rows)
    largest = np.abs(rows).max(1, keepdims=True)
    return rows / np.where(largest > 0, largest, 1)


class FilterPCA(NamedTuple):
    """Principal components of rows: mean (9,), axes (9, 9) by rows, shares of the variance (9,), falling."""

    mean: NDArray
    axes: NDArray
    ratios: NDArray

    @classmethod
    def fit(cls, rows: ArrayLike) -> "FilterPCA":
        """From rows (n >= 2, 9) that are not all equal. Raises ``ValueError`` for others."""
        rows = _rows(rows, 2)
        values, axes = np.linalg.eigh(np.cov(rows.T))
        if not values[-1] > 0:
            raise ValueError("rows must differ, got equal ones")
        falling = values[::-1].clip(0)
        return cls(rows.mean(0), axes[:, ::-1].T, falling / falling.sum())

    def __call__(self, rows: ArrayLike) -> NDArray:
        """Coefficients of scaled rows: (n, 9) -> (n, 9)."""
        return (_rows(rows) - self.mean) @ self.axes.T


def densities(coefficients: NDArray, span: tuple[float, float], bins: int = 70) -> NDArray:
    """Shares of each component's coefficients (n, 9) in equal bins over ``span``: (9, bins), none zero.

    Raises ``ValueError`` for fewer than 2 bins or coefficients outside of the span.
    """
    at_least(2, bins=bins)
    low, high = span
    if not (low <= coefficients.min() and coefficients.max() <= high):
        raise ValueError(f"span must hold all coefficients, got {low:.3g} to {high:.3g}")
    counted = [np.histogram(c, bins, (low, high), density=True)[0] for c in coefficients.T]
    found = np.array(counted)
    found[found == 0] = EMPTY
    return found / found.sum(1, keepdims=True)


def drift(a: NDArray, b: NDArray, ratios: ArrayLike, span: tuple[float, float], bins: int = 70) -> float:
    """Sum over components of their share times KL(a|b) + KL(b|a), nats, of coefficients (n, 9) and (m, 9).

    ``span`` is the range of the histograms, the same for all groups that are compared. Two samples of one
    law have about 2 (bins - 1) / n; with n and m different, (bins - 1) (1/n + 1/m).
    """
    p, q = densities(a, span, bins), densities(b, span, bins)
    return float(np.asarray(ratios) @ ((p - q) * np.log(p / q)).sum(1))


class Compared(NamedTuple):
    """A drift, and what chance leaves: the mean drift of random halves of both samples together."""

    drift: float
    chance: float


def compare(
    a: NDArray,
    b: NDArray,
    pca: FilterPCA,
    span: tuple[float, float],
    rng: np.random.Generator,
    bins: int = 70,
    halvings: int = 4,
) -> Compared:
    """Drift of two samples of equally many rows of filters, with what chance leaves at that size.

    Raises ``ValueError`` for samples of different sizes, whose drift says how small they are.
    """
    at_least(1, halvings=halvings)
    if len(a) != len(b):
        raise ValueError(f"a and b must have equally many rows, got {len(a)} and {len(b)}")
    both = pca(scale_filters(np.concatenate([a, b])))
    chance = []
    for _ in range(halvings):
        order = rng.permutation(len(both))
        chance.append(drift(both[order[: len(a)]], both[order[len(a) :]], pca.ratios, span, bins))
    return Compared(drift(both[: len(a)], both[len(a) :], pca.ratios, span, bins), float(np.mean(chance)))


def excess(
    one: NDArray,
    other: NDArray,
    n: int,
    pca: FilterPCA,
    rng: np.random.Generator,
    repeats: int = 1,
    apart: bool = False,
) -> float:
    """Drift of two groups of filters in excess of chance, at n filters drawn from each: a mean of draws.

    With ``apart`` both come from networks of one architecture, and no place of it is drawn from both: where
    one network was trained from the other, filters of one place are alike.
    Raises ``ValueError`` if a group has too few filters, or for groups of unlike sizes that are apart.
    """
    at_least(1, repeats=repeats)
    if apart and len(one) != len(other):
        raise ValueError(f"apart needs groups of one size, got {len(one)} and {len(other)} rows")

    def draw() -> tuple[NDArray, NDArray]:
        if not apart:
            return sample(one, n, rng), sample(other, n, rng)
        places = sample(np.arange(len(one)), 2 * n, rng)
        return one[places[:n]], other[places[n:]]

    found = [compare(*draw(), pca, span_of(pca), rng) for _ in range(repeats)]
    return float(np.mean([each.drift - each.chance for each in found]))


def span_of(pca: FilterPCA) -> tuple[float, float]:
    """A range that holds the coefficients of all scaled rows, which are at most 3 long.

    The authors take the lowest and the highest coefficient that occur, which tend to the same.
    """
    most = 3 + float(np.linalg.norm(pca.mean))
    return -most, most


def sample(rows: NDArray, n: int, rng: np.random.Generator) -> NDArray:
    """n of the rows, without repetition. Raises ``ValueError`` if there are fewer."""
    between(1, len(rows), "the number of rows", n=n)
    return rows[rng.choice(len(rows), n, replace=False)]


def at_depth(layers: Sequence[Layer], low: float, high: float) -> NDArray:
    """Filters of the layers with a depth in [low, high], 0 the first and 1 the last: (rows, 9)."""
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low and high must be in 0..1, in that order, got {low} and {high}")
    chosen = [layer.rows for layer in layers if low <= layer.depth <= high]
    if not chosen:
        raise ValueError(f"no layer has a depth of {low} to {high}")
    return np.concatenate(chosen)


def turned(rows: NDArray, rng: np.random.Generator) -> NDArray:
    """Each row (n, 9) turned at random about their mean, where the axes are those of equal variance.

    Mean, covariance and the distances from the mean in those axes stay; every other shape of the distribution
    goes. With the sizes of Gaussian rows these would be Gaussian.
    """
    rows = _rows(rows, 2)
    values, axes = np.linalg.eigh(np.cov(rows.T))
    deviations = np.sqrt(values.clip(1e-12 * values[-1]))
    whitened = (rows - rows.mean(0)) @ axes / deviations
    directions = rng.standard_normal(rows.shape)
    lengths = np.linalg.norm(whitened, axis=1, keepdims=True)
    lengths /= np.linalg.norm(directions, axis=1, keepdims=True)
    return rows.mean(0) + (lengths * directions * deviations) @ axes.T


# --- the quality of a layer --------------------------------------------------------------------------------


def near_zero(rows: ArrayLike, eps: float = 0.01) -> NDArray:
    """Which rows (n, 9) of a layer have all entries below eps times the layer's largest: (n,), bool.

    In a layer of zeros all have. Raises ``ValueError`` for eps outside 0..1.
    """
    rows = _rows(rows)
    if not 0 <= eps <= 1:
        raise ValueError(f"eps must be in 0..1, got {eps}")
    largest = np.abs(rows).max(1)
    return (largest < eps * largest.max()) | (largest == 0)


def sparsity(rows: ArrayLike, eps: float = 0.01) -> float:
    """Share of a layer's rows (n, 9) that are ``near_zero``."""
    return float(near_zero(rows, eps).mean())


def variance_entropy(rows: ArrayLike) -> float:
    """Entropy, to base 10, of the variances along the principal axes of rows (n, 9): 0 to log10(9) = 0.954.

    0 where all rows are equal.
    """
    rows = _rows(rows)
    centred = rows - rows.mean(0)
    shares = np.linalg.eigvalsh(centred.T @ centred).clip(0)
    if not shares.sum() > 1e-24 * (rows**2).sum():
        return 0.0
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log10(shares)).sum())


def randomness_threshold(n: ArrayLike) -> NDArray:
    """The authors' fit to the least entropy of random layers of n >= 1 rows; above it one looks random."""
    n = np.asarray(n, dtype=float)
    if not (n >= 1).all():
        raise ValueError(f"n must be >= 1, got {n}")
    return 1.2618047 / (1 + np.exp(-0.88767525 * (np.log2(n) - 2.30436435))) - 0.31050834


def degenerate(rows: NDArray, entropy: float = 0.6, share: float = 0.1, eps: float = 0.01) -> bool:
    """Whether a layer has an entropy below a share of its threshold, or a sparsity above ``share``."""
    low = variance_entropy(rows) / randomness_threshold(len(rows)) < entropy
    return bool(low or sparsity(rows, eps) > share)


# --- filters at work ---------------------------------------------------------------------------------------

BICUBIC = (-1.12360956e-08, -1.36899159e-08, 1.85637958e-02, 2.86066886e-08, 3.35292965e-02, 8.37272935e-08,
           -2.54424009e-07, -3.16234976e-02, -1.35169253e-02, -1.10466090e-08, 3.84753793e-02, 3.79465739e-08,
           -2.44916752e-01, -8.02213490e-01, -5.40549755e-01)  # fmt: skip
"""How SRMD is told that its input was reduced bicubically: fifteen inputs that are constant over the image.
From nihui/srmd-ncnn-vulkan (MIT), src/srmd_preproc.comp."""


def super_resolve(
    layers: Sequence[Layer], images: Tensor, zeroed: Sequence[NDArray] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Images enlarged by SRMD without noise, (b, 3, h, w) -> (b, 3, s h, s w), with what each layer received.

    Args:
        layers: the twelve of ``srmd_x2`` or ``srmd_x3``, with biases.
        images: RGB in 0..1, reduced bicubically.
        zeroed: for each layer which of its filters are zeroed, (out * in,) as of ``near_zero``.

    Raises:
        ValueError: if images are not RGB or ``zeroed`` is not one mask a layer.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (b, 3, h, w), got {tuple(images.shape)}")
    if zeroed is not None and len(zeroed) != len(layers):
        raise ValueError(f"zeroed must have a mask for each of {len(layers)} layers, got {len(zeroed)}")
    told = torch.tensor(BICUBIC)[None, :, None, None].expand(len(images), -1, *images.shape[2:])
    x, received = torch.cat([images, told], 1), []
    for i, layer in enumerate(layers):
        received.append(x := x.relu() if i else x)
        weight = torch.tensor(layer.weight, dtype=torch.float32)
        if zeroed is not None:
            weight[torch.tensor(zeroed[i]).view(weight.shape[:2])] = 0
        x = conv2d(x, weight, torch.tensor(layer.bias), padding=1)
    return pixel_shuffle(x, math.isqrt(x.shape[1] // 3)), received


def smallest(sizes: Sequence[NDArray], count: int | Sequence[int]) -> list[NDArray]:
    """Which filters are the smallest: ``count`` of all layers together, or so many in each layer.

    ``sizes`` has a value for each filter, (rows,) a layer; the masks are alike.
    """
    if not isinstance(count, int):
        return [smallest([size], c)[0] for size, c in zip(sizes, count, strict=True)]
    joined = np.concatenate(sizes)
    between(0, len(joined), "the number of filters", count=count)
    chosen = np.zeros(len(joined), bool)
    chosen[np.argsort(joined, kind="stable")[:count]] = True
    return np.split(chosen, np.cumsum([len(size) for size in sizes])[:-1])


def zeroings(
    layers: Sequence[Layer], received: Sequence[Tensor], rng: np.random.Generator
) -> dict[str, list[NDArray]]:
    """Which filters to zero, by name: those that sparsity counts, and as many by four other rules.

    ``received`` is what each layer receives, as of ``super_resolve``. *Silent* are those whose norm times the
    root mean square of what they receive is smallest.
    """
    flagged = [near_zero(layer.rows) for layer in layers]
    counts = [int(mask.sum()) for mask in flagged]
    norms = [np.linalg.norm(layer.rows, axis=1) for layer in layers]
    loud = [x.square().mean((0, 2, 3)).sqrt().numpy() for x in received]
    outputs = [len(layer.weight) for layer in layers]
    silence = [norm * np.tile(level, out) for norm, level, out in zip(norms, loud, outputs, strict=True)]
    return {
        "counted by sparsity": flagged,
        "as many smallest": smallest(norms, sum(counts)),
        "as many smallest, by layer": smallest(norms, counts),
        "as many at random": smallest([rng.random(len(norm)) for norm in norms], counts),
        "as many silent": smallest(silence, sum(counts)),
    }


# --- a network to be trained -------------------------------------------------------------------------------


class FilterNet(nn.Module):
    """Three 3 x 3 convolutions of one width with batch norm and ReLU, pooled: (b, 1, h, w) -> (b, classes).

    Batch norm takes the statistics of its batch, at test time too, and so keeps no state.
    """

    def __init__(self, width: int, classes: int = 10):
        """Raises ``ValueError`` for width < 1 or fewer than 2 classes."""
        super().__init__()
        at_least(1, width=width)
        at_least(2, classes=classes)
        wide = [nn.Conv2d(c, width, 3, padding=1, bias=False) for c in (1, width, width)]
        self.convolutions = nn.ModuleList(wide)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, track_running_stats=False) for _ in wide)
        self.pool, self.readout = nn.MaxPool2d(2), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 1, h, w) -> logits (b, classes); the map is halved after the first convolution."""
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x)).relu()
            x = x if i else self.pool(x)
        return self.readout(x.mean((2, 3)))


def training_set(images: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Which n of the images a network is trained on: (n,), without repetition."""
    between(1, len(images), "the number of images", n=n)
    return torch.randperm(len(images), generator=generator)[:n]


def _rows(rows: ArrayLike, least: int = 1) -> NDArray:
    found = np.asarray(rows, dtype=float)
    if found.ndim != 2 or found.shape[1] != 9 or len(found) < least:
        raise ValueError(f"rows must be (n >= {least}, 9), got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("rows must be finite")
    return found
