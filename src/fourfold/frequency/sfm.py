"""SFM: stretch detail below the Nyquist limit of a strided layer, and undo the warp after the head.

Chen, Fu, Gu, Zheng and Dai, "Spatial Frequency Modulation for Semantic Segmentation", arXiv 2507.11893, IEEE
TPAMI 2025. Adaptive resampling (ARS): an attention map says where detail is, sampling points crowd there,
and the feature is read on them, at the same size. Detail then spans more pixels and its frequency falls
before an ordinary strided layer reads every r-th pixel. Afterwards each value belongs to a known scattered
position, and a Delaunay triangulation brings the prediction back (the paper's equations 17 and 18, MSAU).

Implemented: attention by edges and learned, the sampling grid, modulation, demodulation, the local pixel
relation module (LPRM), one small network and the text scenes it is trained on.

Departures. The formula of the grid, the attention network and the LPRM could not be read; they are
reconstructions. The grid is the saliency sampler of Recasens et al. (2018): the mean position under
attention times a Gaussian. One ARS, not one before each of three strides. Edge attention looks at the image.
"""

import math
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.spatial import Delaunay, cKDTree
from torch import Tensor, nn
from torch.nn.functional import grid_sample, pad, relu, unfold

from fourfold.data import images

Attention = Literal["edge", "learned"]
Part = Literal["train", "test"]

PHOTOGRAPHS = {"train": ("astronaut", "camera", "coins", "rocket"), "test": ("chelsea", "coffee", "moon")}
"""Backgrounds of the scenes: no photograph is in both parts."""

PATCH = 24
"""Side of the piece of text in a scene, pixels."""


# --- blurs and grids --------------------------------------------------------------------------------------


@cache
def _blur_matrices(size: int, sigma: float) -> tuple[Tensor, Tensor]:
    """A Gaussian along one axis with reflected ends: two (size, size) matrices, float64.

    The first blurs. The second gives the blurred map of value times (its position - the position asked for),
    where positions go on linearly beyond the ends.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be > 0, got {sigma}")
    radius = max(1, round(3 * sigma))
    if radius > size - 1:
        raise ValueError(
            f"sigma must be <= {(size - 1) / 3:.3g} for maps of {size} pixels, so that 3 sigma fit into the "
            f"reflection at the border, got {sigma}"
        )
    step = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-step.double().square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    position = torch.arange(size)[:, None] + step
    reflected = (size - 1 - (size - 1 - position.abs()).abs()).abs()
    blur, shift = torch.zeros(2, size, size, dtype=torch.float64)
    blur.scatter_add_(1, reflected, kernel.expand(size, -1))
    shift.scatter_add_(1, reflected, (kernel * step).expand(size, -1))
    return blur, shift


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Maps (..., H, W) blurred by a Gaussian of ``sigma`` pixels, cut at 3 sigma, reflected at the border.

    Raises ``ValueError`` if sigma is not > 0 or 3 sigma reach beyond the side less one.
    """
    rows, columns = (_blur_matrices(size, sigma)[0].to(x) for size in x.shape[-2:])
    return rows @ x @ columns.mT


def edge_saliency(x: Tensor, blur: float = 3.0, power: float = 1.5, floor: float = 0.05) -> Tensor:
    """Attention without weights: how much fine detail is near. (B, C, H, W) -> (B, 1, H, W), >= floor.

    e is the mean over channels of |x - x blurred by 1 px|; then (e blurred, over its mean)^power + floor. A
    constant image gets uniform attention. Power 0 is uniform too. Raises ``ValueError`` for floor <= 0 or
    power < 0.
    """
    if not floor > 0:
        raise ValueError(f"floor must be > 0, got {floor}")
    if not power >= 0:
        raise ValueError(f"power must be >= 0, got {power}")
    _maps("x", x)
    edges = gaussian_blur((x - gaussian_blur(x, 1.0)).abs().mean(1, keepdim=True), blur)
    mean = edges.mean((-2, -1), keepdim=True)
    return (edges / mean.clamp_min(torch.finfo(x.dtype).tiny)) ** power + floor


class LearnedSaliency(nn.Module):
    """Attention from features: conv3x3, ReLU, conv3x3 (zero at first, so uniform), blur, softmax times HW."""

    def __init__(self, channels: int, blur: float = 3.0, floor: float = 0.05):
        super().__init__()
        if not floor > 0:
            raise ValueError(f"floor must be > 0, got {floor}")
        self.blur, self.floor = blur, floor
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W), mean 1 + floor."""
        scores = gaussian_blur(self.second(relu(self.first(x))), self.blur)
        return scores.flatten(1).softmax(-1).view_as(scores) * scores[0].numel() + self.floor


def ars_grid(attention: Tensor, sigma: float) -> Tensor:
    """Where adaptive resampling reads: attention (B, 1, H, W) > 0 -> (B, H, W, 2) in [-1, 1], x before y.

    ``T(u) = sum_v A(v) k(u - v) v / sum_v A(v) k(u - v)``, k a Gaussian of ``sigma`` pixels: the mean
    position under the attention near u. Uniform attention gives the identity, borders stay where they are,
    and T_x grows with u_x: the more attention k sees to the right, the further right the mean lies. Raises
    ``ValueError`` for another shape, and for sigmas as ``gaussian_blur``.
    """
    if attention.ndim != 4 or attention.shape[1] != 1:
        raise ValueError(f"attention must be (batch, 1, height, width), got {tuple(attention.shape)}")
    height, width = attention.shape[-2:]
    (blur_y, shift_y), (blur_x, shift_x) = (
        [matrix.to(attention) for matrix in _blur_matrices(size, sigma)] for size in (height, width)
    )
    near = blur_y @ attention
    total = near @ blur_x.mT
    moved = torch.cat([near @ shift_x.mT, shift_y @ attention @ blur_x.mT], 1) / total
    return (_identity(height, width).to(attention) + moved.movedim(1, -1) * _units(attention)).clamp(-1, 1)


def jacobian(grid: Tensor) -> Tensor:
    """Forward differences of a grid (B, H, W, 2), in pixels per pixel: (B, H-1, W-1, 2, 2).

    Entry [i, j] is the change of coordinate i along axis j, x before y. Its determinant is negative where the
    grid folds over.
    """
    pixels = grid / _units(grid.movedim(-1, 1))
    along_x = (pixels[:, :, 1:] - pixels[:, :, :-1])[:, :-1]
    along_y = (pixels[:, 1:] - pixels[:, :-1])[:, :, :-1]
    return torch.stack([along_x, along_y], -1)


# --- there and back ---------------------------------------------------------------------------------------


def modulate(x: Tensor, grid: Tensor) -> Tensor:
    """The feature read on the grid: (B, C, H, W) and (B, H, W, 2) -> (B, C, H, W), bilinear."""
    return grid_sample(x, grid, mode="bilinear", align_corners=True)


def band_limited(x: Tensor, factor: int) -> Tensor:
    """Maps (B, C, H, W) between their pixels: (B, C, (H-1)*factor + 1, (W-1)*factor + 1), pixels unchanged.

    Trigonometric interpolation of the mirrored maps. Read bilinearly on a grid the result loses no high
    frequencies, as x itself would: a change of the spectrum is then the grid's doing. Raises ``ValueError``
    for a factor < 1 or a side < 2.
    """
    if factor < 1 or min(x.shape[-2:]) < 2:
        raise ValueError(f"factor must be >= 1 and sides >= 2, got {factor} and {tuple(x.shape)}")
    for axis in (-2, -1):
        x = x.movedim(axis, -1)
        size = x.shape[-1]
        period = 2 * (size - 1)
        spectrum = torch.fft.rfft(torch.cat([x, x.flip(-1)[..., 1:-1]], -1))
        if factor > 1:
            # The mirrored period is even: half of the highest frequency belongs to its negative.
            spectrum = torch.cat([spectrum[..., :-1], spectrum[..., -1:] / 2], -1)
        fine = torch.fft.irfft(spectrum, period * factor) * factor
        x = fine[..., : (size - 1) * factor + 1].movedim(-1, axis)
    return x


def magnification(grid: Tensor, labels: Tensor) -> Tensor:
    """Area of the labelled pixels as read on the grid, over their own: (B, H, W, 2), (B, H, W) -> (B,).

    1 if the grid stretches nothing; NaN where nothing is labelled.
    """
    area = labels[:, None].to(grid)
    return modulate(area, grid).sum((1, 2, 3)) / area.sum((1, 2, 3))


def sample_points(grid: Tensor, stride: int) -> Tensor:
    """Original positions, in pixels, of what a strided layer keeps: (B, H, W, 2) -> (B, h, w, 2), x before y.

    Raises ``ValueError`` if the stride does not divide height and width.
    """
    height, width = grid.shape[1:3]
    if stride < 1 or height % stride or width % stride:
        raise ValueError(f"stride must be >= 1 and divide {height} x {width}, got {stride}")
    return (grid[:, ::stride, ::stride] + 1) / _units(grid.movedim(-1, 1))


def bary_weights(coords: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """How each pixel is mixed from scattered samples: coords (B, h, w, 2) in pixels, x before y.

    Delaunay triangulation per image; a pixel takes the three corners of its triangle with its barycentric
    weights, and outside the hull, or in a triangle without area, the nearest sample. Returns indices into the
    h w samples (B, height*width, 3), int64, and weights of the same shape, in the dtype of ``coords``. No
    gradient passes: weights are constants. Raises ``ValueError`` for fewer than 2 x 2 samples, or positions
    that are not finite.
    """
    if coords.ndim != 4 or min(coords.shape[1:3]) < 2 or coords.shape[3] != 2:
        raise ValueError(f"coords must be (batch, h >= 2, w >= 2, 2), got {tuple(coords.shape)}")
    if not coords.isfinite().all():
        raise ValueError("coords must be finite, got infinity or NaN")
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2).astype(float)
    indices, weights = [], []
    for points in coords.detach().double().flatten(1, 2).numpy():
        mesh = Delaunay(points)
        triangle = mesh.find_simplex(pixels)
        affine = mesh.transform[triangle]
        weight = np.einsum("nij,nj->ni", affine[:, :2], pixels - affine[:, 2])
        weight = np.concatenate([weight, 1 - weight.sum(1, keepdims=True)], 1)
        index = mesh.simplices[triangle].astype(np.int64)
        lost = (triangle < 0) | ~np.isfinite(weight).all(1)
        index[lost] = cKDTree(points).query(pixels[lost])[1][:, None]
        weight[lost] = (1, 0, 0)
        indices.append(torch.from_numpy(index))
        weights.append(torch.from_numpy(weight))
    return torch.stack(indices), torch.stack(weights).to(coords.dtype)


def demodulate(y: Tensor, index: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    """Scattered samples back on the pixels: (B, C, h, w) -> (B, C, height, width).

    ``index`` and ``weight`` (B, height*width, 3) are those of ``bary_weights``; linear in y.
    """
    batch, channels = y.shape[:2]
    corners = y.flatten(2).gather(2, index.reshape(batch, 1, -1).expand(-1, channels, -1))
    mixed = (corners.unflatten(2, (-1, 3)) * weight[:, None]).sum(-1)
    return mixed.unflatten(2, (height, width))


def back(kept: Tensor, grid: Tensor, stride: int) -> Tensor:
    """What a stride kept of maps read on a grid, demodulated: (B, C, h, w), (B, H, W, 2) -> (B, C, H, W)."""
    height, width = grid.shape[1:3]
    return demodulate(kept, *bary_weights(sample_points(grid, stride), height, width), height, width)


@cache
def _linear_matrix(size: int, stride: int) -> Tensor:
    """Linear interpolation along one axis, (size*stride, size), float64: sample i at pixel i*stride."""
    place = (torch.arange(size * stride, dtype=torch.float64) / stride).clamp(max=size - 1)
    return (1 - (place[:, None] - torch.arange(size)).abs()).clamp(min=0)


def upsample(y: Tensor, stride: int) -> Tensor:
    """Bilinear from (B, C, h, w) to (B, C, h*stride, w*stride): sample i lies at pixel i*stride.

    Pixels beyond the last sample repeat it.
    """
    rows, columns = (_linear_matrix(size, stride).to(y) for size in y.shape[-2:])
    return rows @ y @ columns.mT


def warp(grid: Tensor, stride: int) -> Tensor:
    """All that a network needs to go there and back, as maps (B, 8, H, W): grid, indices (3), weights (3).

    Float maps, so that they can be carried along with the image; indices are exact up to 2^24 samples.
    """
    height, width = grid.shape[1:3]
    index, weight = bary_weights(sample_points(grid, stride), height, width)
    back = torch.cat([index.to(grid), weight.to(grid)], -1).unflatten(1, (height, width))
    return torch.cat([grid, back], -1).movedim(-1, 1)


class LPRM(nn.Module):
    """Local pixel relations: each pixel attends to its 3 x 3 neighbours, at several dilations, and adds that.

    Softmax of scaled dot products of 1 x 1 projections; sums over dilations, 1 x 1 convolution, residual. The
    border repeats. The suite's form: the paper's was not readable.
    """

    def __init__(self, channels: int, dilations: tuple[int, ...] = (1, 2, 4)):
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations must be one or more numbers >= 1, got {dilations}")
        self.dilations = dilations
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        batch, channels, *_ = x.shape
        query = self.query(x).reshape(batch, channels, 1, -1)
        total = torch.zeros_like(x)
        for dilation in self.dilations:
            key, value = (
                unfold(pad(maps, [dilation] * 4, mode="replicate"), 3, dilation).view(batch, channels, 9, -1)
                for maps in (self.key(x), self.value(x))
            )
            relation = ((query * key).sum(1, keepdim=True) / math.sqrt(channels)).softmax(2)
            total = total + (relation * value).sum(2).view_as(x)
        return x + self.out(total)


class SegNet(nn.Module):
    """Two-class segmentation with one stride: conv3x3, [ARS], conv3x3 with the stride, conv3x3, 1x1, back.

    Without ``sfm`` the class scores are upsampled bilinearly; ``blur`` puts a Gaussian of 1 px before the
    stride. With ``sfm`` the features are modulated before the stride and the scores demodulated, by attention
    to the edges of the image or learned from the features; ``lprm`` then refines the scores.
    Raises ``ValueError`` for an unknown ``sfm``, and for ``blur`` or ``lprm`` where they do not belong.
    """

    def __init__(
        self,
        channels: int = 8,
        sfm: Attention | None = None,
        blur: bool = False,
        *,
        stride: int = 2,
        sigma: float = 8.0,
        lprm: bool = False,
    ):
        super().__init__()
        if sfm not in (None, "edge", "learned"):
            raise ValueError(f"sfm must be None, 'edge' or 'learned', got {sfm!r}")
        if (blur and sfm) or (lprm and not sfm):
            raise ValueError(f"blur goes without sfm and lprm with it, got {blur=}, {lprm=}, {sfm=}")
        self.sfm, self.blur, self.stride, self.sigma = sfm, blur, stride, sigma
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.strided = nn.Conv2d(channels, channels, 3, stride, padding=1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Conv2d(channels, 2, 1)
        self.saliency = LearnedSaliency(channels) if sfm == "learned" else None
        self.relations = LPRM(2) if lprm else None

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Every feature map by name; ``forward`` returns the last, "scores" (B, 2, H, W)."""
        image, given = x[:, :1], x[:, 1:]
        features = {"stem": relu(self.stem(image))}
        before = features["stem"]
        if self.saliency is not None:
            given = warp(ars_grid(self.saliency(before), self.sigma), self.stride)
        elif self.sfm and not given.shape[1]:
            given = warp(ars_grid(edge_saliency(image), self.sigma), self.stride)
        if self.sfm:
            before = modulate(before, given[:, :2].movedim(1, -1))
        elif self.blur:
            before = gaussian_blur(before, 1.0)
        features["before"] = before
        features["strided"] = relu(self.strided(before))
        features["middle"] = relu(self.middle(features["strided"]))
        features["low"] = self.head(features["middle"])
        if self.sfm:
            back = given[:, 2:].flatten(2).mT
            scores = demodulate(features["low"], back[..., :3].long(), back[..., 3:], *image.shape[-2:])
            features["scores"] = scores if self.relations is None else self.relations(scores)
        else:
            features["scores"] = upsample(features["low"], self.stride)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, 1, H, W), or image and ``warp`` (B, 9, H, W) -> class scores (B, 2, H, W).

        A warp that is given is used with edge attention; the other networks leave it alone.
        """
        return self.stages(x)["scores"]


# --- the task ---------------------------------------------------------------------------------------------


class Scenes(NamedTuple):
    """Grey images (n, 1, size, size) and which pixels are strokes (n, size, size), int64."""

    images: Tensor
    labels: Tensor


def text_scenes(
    n: int, part: Part, *, size: int = 64, patch: int = PATCH, zoom: float = 1.0, generator: torch.Generator
) -> Scenes:
    """Printed text on smooth ground: a patch x patch piece of a scanned page darkens a blurred photograph.

    Strokes are where the page is darker than its surroundings by 0.1 (Gaussian of 6 px), magnified by
    ``zoom``; they darken the ground by 0.35, and noise of 0.02 is added. A patch has at least 10 % strokes.
    Photographs of the two parts differ, and so do the pieces of the page (left 119 columns, right 72). Raises
    ``ValueError`` for n < 1, zoom < 1, or a patch larger than the scene or the piece.
    """
    pages = {"train": slice(0, 119), "test": slice(119, None)}
    if part not in pages:
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    if not zoom >= 1:
        raise ValueError(f"zoom must be >= 1, got {zoom}")
    cut = math.ceil((patch - 1) / zoom) + 1
    if not 1 <= patch <= size <= 128 or cut > 72:
        raise ValueError(f"1 <= patch <= size <= 128 and patch <= 72 must hold, got {patch=}, {size=}")
    grounds = gaussian_blur(images.photographs(PHOTOGRAPHS[part], 128), 2.0)
    page = images.photographs(["page"], 191)
    ink = (gaussian_blur(page, 6.0) - page - 0.1)[0, :, pages[part]]

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    reach = 2 * (patch - 1) / zoom / (cut - 1) if cut > 1 else 0.0
    lattice = ((_identity(patch, patch) + 1) * reach / 2 - 1).to(ink)
    scenes, labels = [], torch.zeros(n, size, size, dtype=torch.int64)
    for label in labels:
        strokes = torch.zeros(())
        while strokes.float().mean() < 0.1:
            top, left = draw(ink.shape[0] - cut + 1), draw(ink.shape[1] - cut + 1)
            piece = ink[None, None, top : top + cut, left : left + cut]
            strokes = grid_sample(piece, lattice[None], align_corners=True)[0, 0] > 0
        y, x = draw(size - patch + 1), draw(size - patch + 1)
        label[y : y + patch, x : x + patch] = strokes
        y, x = draw(129 - size), draw(129 - size)
        scenes.append(grounds[draw(len(grounds)), y : y + size, x : x + size])
    noise = torch.randn(labels.shape, generator=generator)
    return Scenes((torch.stack(scenes) - 0.35 * labels + 0.02 * noise)[:, None], labels)


def class_iou(scores: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union per class, all images together: (..., n, classes, H, W) -> (..., classes).

    ``labels`` is (..., n, H, W). NaN for a class that is neither there nor predicted.
    """
    # Along an axis that is not the last one argmax takes many times as long as the copy.
    guess = scores.movedim(-3, -1).contiguous().argmax(-1)
    classes = range(scores.shape[-3])
    hits = [((guess == c) & (labels == c)).sum((-3, -2, -1)) for c in classes]
    either = [((guess == c) | (labels == c)).sum((-3, -2, -1)) for c in classes]
    return torch.stack(hits, -1).double() / torch.stack(either, -1)


def over_calling_all(iou: Tensor, labels: Tensor) -> Tensor:
    """Each class's intersection over union, over that of calling every pixel of (n, H, W) this class.

    ``iou`` is ``class_iou``'s, (classes,).
    """
    return iou / torch.stack([(labels == c).double().mean() for c in range(len(iou))])


def mean_iou(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over the classes of ``class_iou``: (..., n, classes, H, W), (..., n, H, W) -> (...)."""
    return class_iou(scores, labels).mean(-1)


# --- shapes -----------------------------------------------------------------------------------------------


def _maps(name: str, x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"{name} must be (batch, channels, height, width), got {tuple(x.shape)}")


def _units(x: Tensor) -> Tensor:
    """Units of [-1, 1] per pixel of maps (..., height, width), x before y."""
    per_pixel = [2 / (size - 1) for size in reversed(x.shape[-2:])]
    return torch.tensor(per_pixel, dtype=torch.float64).to(x)


@cache
def _identity(height: int, width: int) -> Tensor:
    """The grid (height, width, 2) in [-1, 1] that reads every pixel where it is, float64."""
    ys, xs = (torch.linspace(-1, 1, size, dtype=torch.float64) for size in (height, width))
    return torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1)
