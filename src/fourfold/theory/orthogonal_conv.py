"""Orthogonal convolutions: which layers can keep lengths, and a penalty on the kernel that makes them.

Achour, Malgouyres and Mamalet, arXiv 2108.05623, JMLR 23(347), 2022. A layer with M filters of C channels and
k x k taps at stride S maps C x SN x SN images to M x N x N. As a matrix it has M N^2 rows and C S^2 N^2
columns; it is *orthogonal* if its rows are orthonormal (row case, M <= C S^2) or its columns are (column
case, M >= C S^2). Whether any kernel does that depends on (M, C, k, S) alone. How far a kernel is from it is
told by a penalty that never sees the image, L_orth: N^-2 times the squared Frobenius distance.

Implemented: the layer as a dense matrix with three kinds of border, and as one small matrix for each
frequency; the penalty, its constants, the conditions of existence, the simplest kernel of every shape;
descent on any such distance from many starts at once; a small classifier, an attack on it; shapes of
convolutions in five networks. Theorems are as remembered; constants and conditions agree with those that
the authors' group ships in deel-lip (github.com/deel-ai/deel-lip, MIT), which was read.

Departures: the least penalty where no orthogonal kernel exists, and counting zeros of determinants, are ours.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, normalize, pad

from fourfold.checks import at_least, divides, finite, one_of

Padding = Literal["circular", "zeros", "valid"]


class Shape(NamedTuple):
    """A layer's shape: filters M, channels C, side k of the kernel, stride S."""

    m: int
    c: int
    k: int
    s: int


class Case(NamedTuple):
    """What is known of a shape: what can be orthonormal, whether a kernel makes it so, the least penalty."""

    name: Literal["rows", "columns", "square"]
    exists: bool
    floor: int


def orthogonality_case(m: int, c: int, k: int, s: int) -> Case:
    """Whether a layer of this shape can be orthogonal, with circular padding.

    In the row case an orthogonal kernel exists if and only if M <= C k^2, in the column case if and only if
    S <= k. Where none does, k < S and patches do not overlap: each is multiplied by a matrix of rank C k^2 at
    most, and ``floor``, M - C k^2 or C (S^2 - k^2), is the number of directions that must be lost.
    Raises ``ValueError`` for sizes below 1 or an even k.
    """
    _odd(k)
    at_least(1, m=m, c=c, s=s)
    rows, columns = m <= c * s**2, m >= c * s**2
    exists = (not rows or m <= c * k**2) and (not columns or s <= k)
    floor = 0 if exists else min(m, c * s**2) - c * k**2
    return Case("square" if rows and columns else "rows" if rows else "columns", exists, floor)


def spectral_alpha(m: int, c: int, k: int, s: int) -> int:
    """The constant in: the squared spectral distance from orthogonality is at most alpha L_orth, at every N.

    M (2 floor((k - 1) / S) + 1)^2 in the row case, C (2k - 1)^2 in the column case, the smaller one if both.
    Raises ``ValueError`` as `orthogonality_case` does.
    """
    case = orthogonality_case(m, c, k, s).name
    rows, columns = m * (2 * ((k - 1) // s) + 1) ** 2, c * (2 * k - 1) ** 2
    return {"rows": rows, "columns": columns}.get(case, min(rows, columns))


def built_kernel(m: int, c: int, k: int, s: int) -> Tensor:
    """The simplest kernel of least penalty, (M, C, k, k): each filter has one tap, no two have the same.

    Taps are those of a central block of min(k, S) x min(k, S), so that patches do not overlap. At stride 1 it
    copies channels. Raises ``ValueError`` as `orthogonality_case` does.
    """
    orthogonality_case(m, c, k, s)
    side = min(k, s)
    block = torch.eye(m, c * side**2, dtype=torch.float64).unflatten(1, (c, side, side))
    before = (k - side) // 2
    after = k - side - before
    return pad(block, (before, after, before, after))


def gaussian_kernel(m: int, c: int, k: int, generator: torch.Generator) -> Tensor:
    """A random kernel (M, C, k, k) of independent N(0, 1 / (C k^2)) taps, float64.

    Raises ``ValueError`` for sizes below 1 or an even k.
    """
    _odd(k)
    at_least(1, m=m, c=c)
    return torch.randn(m, c, k, k, dtype=torch.float64, generator=generator) / math.sqrt(c * k**2)


# --- the layer --------------------------------------------------------------------------------------------


def layer_matrix(kernel: Tensor, stride: int, n_out: int, padding: Padding = "circular") -> Tensor:
    """The layer's matrix for N x N outputs: kernels (..., M, C, k, k) -> (..., M N^2, C side^2).

    Images have side SN, padded by (k - 1) / 2 with ``"circular"`` or ``"zeros"``, or S (N - 1) + k with
    ``"valid"``, not padded. Raises ``ValueError`` for a kernel that is even or not square, an unknown
    padding, and an image smaller than the kernel.
    """
    one_of(("circular", "zeros", "valid"), padding=padding)
    m, c, k = _sizes(kernel)
    side = stride * (n_out - 1) + k if padding == "valid" else _image(k, stride, n_out)
    pixels = torch.eye(c * side**2, dtype=kernel.dtype).unflatten(1, (c, side, side))
    r = (k - 1) // 2
    if padding == "circular":
        pixels = pad(pixels, (r, r, r, r), mode="circular")
    filters = kernel.reshape(-1, c, k, k)
    seen = conv2d(pixels, filters, stride=stride, padding=r if padding == "zeros" else 0)
    return seen.flatten(1).T.reshape(*kernel.shape[:-4], m * n_out**2, c * side**2)


def squared_distance(matrix: Tensor) -> Tensor:
    """Squared Frobenius distance of the shorter side's Gram matrix from 1: (..., a, b) -> (...)."""
    short = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    return (short @ short.mT - torch.eye(short.shape[-2], dtype=matrix.dtype)).square().sum((-2, -1))


def symbol(kernel: Tensor, stride: int, n_out: int) -> Tensor:
    """The circular layer at every frequency: kernels (..., M, C, k, k) -> complex (..., N, N, M, C S^2).

    The image is split into its S^2 polyphase components, C S^2 channels on a torus of N x N, where a Fourier
    transform makes the layer one matrix a frequency, in the order of ``torch.fft``, zero first.
    Raises ``ValueError`` for a kernel that is even or not square, and for SN < k.
    """
    k = _sizes(kernel)[2]
    rest, r = _image(k, stride, n_out) - k, (k - 1) // 2
    torus = pad(kernel, (0, rest, 0, rest)).roll((-r, -r), (-2, -1))
    # (..., M, C, N, S, N, S): the tap at S j + a is tap j of the channel of phase a.
    phases = torus.unflatten(-1, (n_out, stride)).unflatten(-3, (n_out, stride))
    channels = phases.movedim((-3, -1), (-5, -4)).flatten(-5, -3)
    # conv2d correlates, hence the inverse transform.
    return torch.fft.ifft2(channels, norm="forward").movedim((-2, -1), (-4, -3))


def singular_values(kernel: Tensor, stride: int, n_out: int) -> Tensor:
    """Singular values of the circular layer, (..., N, N, min(M, C S^2)), descending at each frequency.

    Sedghi, Gupta and Long (ICLR 2019) do this for S = 1. Raises ``ValueError`` as `symbol` does.
    """
    return torch.linalg.svdvals(symbol(kernel, stride, n_out))


def spectral_distance(kernel: Tensor, stride: int, n_out: int) -> Tensor:
    """Spectral norm of the circular layer's Gram matrix less 1: kernels (..., M, C, k, k) -> (...)."""
    return (singular_values(kernel, stride, n_out).square() - 1).abs().amax((-3, -2, -1))


def vortices(kernel: Tensor, stride: int, n_out: int) -> Tensor:
    """Number of zeros of a square layer's determinant over frequencies: kernels (..., M, C, k, k) -> (...).

    Its phase turns once around a zero, which is looked for between neighbours of N x N frequencies.
    Raises ``ValueError`` unless M = C S^2, and as `symbol` does.
    """
    m, c, _ = _sizes(kernel)
    if m != c * stride**2:
        raise ValueError(f"M must be C S^2 = {c * stride**2} for a determinant, got {m}")
    phase = torch.linalg.det(symbol(kernel, stride, n_out)).angle()
    right, down = (
        torch.remainder(phase.roll(-1, axis) - phase + math.pi, 2 * math.pi) - math.pi for axis in (-1, -2)
    )
    around = right + down.roll(-1, -1) - right.roll(-1, -2) - down
    return (around / (2 * math.pi)).round().abs().sum((-2, -1))


# --- the penalty ------------------------------------------------------------------------------------------


def l_orth(kernel: Tensor, stride: int = 1) -> Tensor:
    """The paper's penalty, 0 for orthogonal layers: a kernel (M, C, k, k) -> a scalar; ``vmap`` maps it.

    The filters, as M images of C channels, are convolved with themselves at the layer's stride, padded by
    zeros as far as they overlap; what comes out must be 1 at the centre of each filter with itself (Wang et
    al., CVPR 2020). The constant, which makes 0 the least value of the column case too, is of this paper.
    Raises ``ValueError`` for a kernel that is even or not square, or a stride below 1.
    """
    m, c, k = _sizes(kernel)
    at_least(1, stride=stride)
    reach = (k - 1) // stride
    overlaps = conv2d(kernel, kernel, stride=stride, padding=reach * stride)
    wanted = torch.zeros_like(overlaps)
    wanted[:, :, reach, reach] = torch.eye(m, dtype=kernel.dtype)
    return (overlaps - wanted).square().sum() - max(0, m - c * stride**2)


def flat_gram(kernel: Tensor) -> Tensor:
    """The rival that knows no overlap: `squared_distance` of kernels (..., M, C, k, k) as (..., M, C k^2)."""
    return squared_distance(kernel.flatten(-3))


def optimise_kernel(
    start: Tensor, distance: Callable[[Tensor], Tensor], steps: int, lr: float, until: float = -math.inf
) -> Tensor:
    """Kernels after descent on a distance, all starts at once: (n, M, C, k, k) -> same.

    Adam; its rate falls from ``lr`` to 0 along half a cosine. ``distance`` maps (n, M, C, k, k) to (n,). A
    kernel is returned as it was when it first came below ``until``, else as it is at the end.
    Raises ``ValueError`` for steps < 1 or lr <= 0.
    """
    at_least(1, steps=steps)
    finite(0, above=True, lr=lr)
    kernel = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([kernel], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    kept, done = start.clone(), torch.zeros(len(start), dtype=torch.bool)
    for step in range(steps + 1):
        found = distance(kernel)
        kept[~done] = kernel.detach()[~done]
        done |= found.detach() < until
        if done.all() or step == steps:
            break
        optimiser.zero_grad()
        found.sum().backward()
        optimiser.step()
        schedule.step()
    return kept


class LorthCNN(nn.Module):
    """Circular 3 x 3 convolutions with MaxMin, then a linear head: (b, side, side) -> logits (b, classes).

    MaxMin (Anil, Lucas and Grosse, ICML 2019) replaces channels i and i + n/2 by the larger and the smaller,
    which keeps lengths. ``channels``: widths, the input's first, all others even; a stride a convolution.
    Raises ``ValueError`` for sizes that do not fit.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], side: int, classes: int = 10):
        super().__init__()
        if len(channels) != len(strides) + 1 or any(width % 2 for width in channels[1:]):
            raise ValueError(
                f"channels must be even but the first, for {len(strides)} layers, got {channels}"
            )
        divides(side, "the side", product_of_strides=math.prod(strides))
        self.convs = nn.ModuleList(
            nn.Conv2d(c, m, 3, stride, 1, padding_mode="circular")
            for (c, m), stride in zip(pairwise(channels), strides, strict=True)
        )
        self.head = nn.Linear(channels[-1] * (side // math.prod(strides)) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        x = x.unsqueeze(1)
        for conv in self.convs:
            one, other = conv(x).chunk(2, 1)
            x = torch.cat([torch.maximum(one, other), torch.minimum(one, other)], 1)
        return self.head(x.flatten(1))

    def kernels(self) -> list[tuple[Tensor, int]]:
        """Kernel (M, C, k, k) and stride of each layer; the head, last, is a convolution of one pixel."""
        convs = [(conv.weight, conv.stride[0]) for conv in self.convs if isinstance(conv, nn.Conv2d)]
        return [*convs, (self.head.weight[:, :, None, None], 1)]


def pgd_l2(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float, steps: int) -> Tensor:
    """Attacked images within eps of x in L2: images (b, ...) and labels (b,) -> (b, ...).

    Projected gradient ascent on the cross-entropy of the model's logits (Madry et al., ICLR 2018) from x;
    each step is eps / 3 along the normalised gradient. Raises ``ValueError`` for eps < 0 or steps < 1.
    """
    finite(eps=eps)
    at_least(1, steps=steps)
    moved = torch.zeros_like(x)
    for _ in range(steps):
        moved.requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(model(x + moved), y, reduction="sum"), moved)
        step = eps / 3 * normalize(slope.flatten(1)).view_as(slope)
        moved = torch.renorm(moved.detach() + step, 2, 0, eps)
    return x + moved


def resnet_shapes(blocks: Sequence[int], bottleneck: bool) -> list[Shape]:
    """A ResNet with so many blocks a stage (He et al. 2016); a bottleneck's stride is in its 3 x 3."""
    shapes, wide = [Shape(64, 3, 7, 2)], 64
    for stage, block in ((stage, block) for stage, count in enumerate(blocks) for block in range(count)):
        width, stride = 64 * 2**stage, 2 if stage and not block else 1
        out = 4 * width if bottleneck else width
        if bottleneck:
            shapes += [Shape(width, wide, 1, 1), Shape(width, width, 3, stride), Shape(out, width, 1, 1)]
        else:
            shapes += [Shape(width, wide, 3, stride), Shape(width, width, 3, 1)]
        shapes += [Shape(out, wide, 1, stride)] * (wide != out)
        wide = out
    return shapes


def mobilenetv2_shapes() -> list[Shape]:
    """MobileNetV2 (Sandler et al. 2018); a depthwise convolution by the shape of one of its channels."""
    shapes, wide = [Shape(32, 3, 3, 2)], 32
    stages = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
    for width, count, first in stages:
        for block in range(count):
            inner = wide if width == 16 else 6 * wide
            shapes += [Shape(inner, wide, 1, 1)] * (inner > wide)
            shapes += [Shape(1, 1, 3, 1 if block else first), Shape(width, inner, 1, 1)]
            wide = width
    return [*shapes, Shape(1280, 320, 1, 1)]


def densenet121_shapes() -> list[Shape]:
    """DenseNet-121 (Huang et al. 2017)."""
    shapes, wide = [Shape(64, 3, 7, 2)], 64
    for stage, count in enumerate((6, 12, 24, 16)):
        if stage:
            shapes.append(Shape(wide // 2, wide, 1, 1))
            wide //= 2
        for _ in range(count):
            shapes += [Shape(128, wide, 1, 1), Shape(32, 128, 3, 1)]
            wide += 32
    return shapes


NETWORKS = {
    "ResNet-18": resnet_shapes((2, 2, 2, 2), bottleneck=False),
    "ResNet-50": resnet_shapes((3, 4, 6, 3), bottleneck=True),
    "VGG-16": [Shape(m, c, 3, 1) for c, m in pairwise([3, 64, 64, 128, 128, *[256] * 3, *[512] * 6])],
    "MobileNetV2": mobilenetv2_shapes(),
    "DenseNet-121": densenet121_shapes(),
}
"""Shapes of all convolutions, in order. VGG-16: Simonyan and Zisserman 2015."""


def _odd(k: int) -> None:
    if k < 1 or k % 2 == 0:
        raise ValueError(f"k must be odd and >= 1, got {k}")


def _sizes(kernel: Tensor) -> tuple[int, int, int]:
    """M, C and k of kernels (..., M, C, k, k)."""
    if kernel.ndim < 4 or kernel.shape[-1] != kernel.shape[-2]:
        raise ValueError(f"kernel must be (..., M, C, k, k), got {tuple(kernel.shape)}")
    _odd(k := kernel.shape[-1])
    return kernel.shape[-4], kernel.shape[-3], k


def _image(k: int, stride: int, n_out: int) -> int:
    at_least(1, stride=stride)
    if stride * n_out < k:
        raise ValueError(
            f"n_out must be >= {math.ceil(k / stride)} for an image like the kernel, got {n_out}"
        )
    return stride * n_out
