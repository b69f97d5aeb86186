"""One pass of light through a 4f bench: tiles on its plane, and what a pass computes.

Sources: Ibadulla, Chen, Reyes-Aldasoro, ConvShareViT (arXiv 2504.11517) for token images with shared kernels
and FatNet (arXiv 2210.16914) for tiling and the timing rule. The tight pitches, mix tiling, attention in one
pass and all pass counts are derived here.

Implemented: a pass is the circular convolution of a whole R x R plane with one impulse response. A token
image is p x p and stands in a tile of side `pitch`, so a plane holds floor(R / pitch)^2 tiles. Tokens form an
array of a_y x a_x tiles; kernels lie in the impulse response at multiples of that array, b_y x b_x of them.
Every (token, kernel) then has its own tile on the camera if a_y b_y and a_x b_x are at most floor(R / pitch).
Batch tiling has one kernel a pass (b = 1), kernel tiling one token (a = 1), mix tiling both.

The tight pitch is p for valid and p + k//2 for same padding: foreign light falls only on pixels that nobody
reads. FatNet's rule p + k - 1 keeps all light apart; it is exact too and takes more plane.

Departures. Mix passes are counted for arrays that fit, ceil(n / a) ceil(d / b), which can exceed the area
bound ceil(n d / capacity); T tokens and T kernels need one pass exactly if T <= floor(R / pitch) either way.
A vector whose length is not a square is padded with zeros. Softmax and sums over exposures are electronic.
Fields are signed; what signs cost is in `fourfold.bench4f.throughput`.
"""

from functools import cache
from math import isqrt, prod, sqrt

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad, softmax

from fourfold import checks

PADDINGS = ("valid", "same")
MODES = ("batch", "kernel", "mix")

_PIXELS_AT_ONCE = 2**24  # camera pixels computed in one FFT batch: 128 MiB in float64


def light_pass(plane: Tensor, kernel: Tensor) -> Tensor:
    """Circular convolution of `plane` (..., R, R) with the impulse response `kernel` (..., k, k), k <= R.

    y[u] = sum_v plane[u - v] kernel[v], indices modulo R; the origin of the impulse response is pixel [0, 0].
    Real or complex; leading axes broadcast, each combination is a pass. Returns (..., R, R). This is the
    ideal 4f bench without its 180 degree turn (convolution theorem). ValueError if k > R.
    """
    size = (plane.shape[-2], plane.shape[-1])
    if kernel.shape[-2] > size[0] or kernel.shape[-1] > size[1]:
        raise ValueError(f"kernel of {tuple(kernel.shape[-2:])} pixels: expected at most the plane's {size}")
    if plane.is_complex() or kernel.is_complex():
        return torch.fft.ifft2(torch.fft.fft2(plane) * torch.fft.fft2(kernel, s=size))
    return torch.fft.irfft2(torch.fft.rfft2(plane) * torch.fft.rfft2(kernel, s=size), s=size)


def capacity(R: int, pitch: int) -> int:
    """Tiles on an R x R plane, floor(R / pitch)^2 (FatNet). ValueError if not even one fits."""
    return lattice_side(R, pitch) ** 2


def lattice_side(R: int, pitch: int) -> int:
    """Tiles along one side of the plane, floor(R / pitch). ValueError for pitch < 1 or R < pitch."""
    checks.at_least(1, pitch=pitch)
    if pitch > R:
        raise ValueError(f"plane of R = {R} pixels: expected at least the pitch, {pitch}")
    return R // pitch


def token_side(dim: int) -> int:
    """Side in pixels of the square image that holds a vector of length dim, ceil(sqrt(dim))."""
    return isqrt(dim - 1) + 1


def tile(x: Tensor, R: int, pitch: int) -> Tensor:
    """Put token images `x` (..., n, p, p) on a dark plane (..., R, R), row by row, one every `pitch` pixels.

    ValueError if the images are not square, overlap (pitch < p) or are more than `capacity(R, pitch)`.
    """
    _check_tokens(x, pitch)
    if x.shape[-3] > capacity(R, pitch):
        raise ValueError(
            f"x has {x.shape[-3]} tokens: expected at most floor({R} / {pitch})^2 = {capacity(R, pitch)}; "
            f"use R >= {pitch * token_side(x.shape[-3])} or several passes"
        )
    return _lay(x, _corners(x.shape[-3], R // pitch, pitch), R)


def untile(plane: Tensor, count: int, size: int, pitch: int) -> Tensor:
    """Read the upper left `size` x `size` pixels of the first `count` tiles of `plane` (..., R, R).

    Undoes `tile` with size = p; valid results have size p - k + 1. Returns (..., count, size, size).
    ValueError if the plane has fewer tiles or a read-out would reach into the next tile.
    """
    tiles = capacity(plane.shape[-1], pitch)
    if not 1 <= count <= tiles:
        raise ValueError(f"count = {count}: expected 1..{tiles}, the tiles on this plane")
    if not 1 <= size <= pitch:
        raise ValueError(f"size = {size}: expected 1..{pitch}, the pitch")
    return _read(plane, _corners(count, plane.shape[-1] // pitch, pitch), size)


def tight_pitch(p: int, k: int, padding: str) -> int:
    """Smallest exact pitch for p x p tokens and k x k kernels: p (valid) or p + k//2 (same). Derived."""
    checks.one_of(PADDINGS, padding=padding)
    if padding == "valid":
        checks.between(1, p, "the token side, as padding is 'valid'", k=k)
        return p
    if k % 2 == 0:
        raise ValueError(f"kernel side k = {k}: expected an odd number, as padding is 'same'")
    return p + k // 2


def linear_passes(tokens: int, kernels: int, R: int, pitch: int, mode: str = "batch") -> int:
    """Passes for all products of tokens and shared kernels, ceil(tokens / a) ceil(kernels / b). Derived.

    With n = `capacity(R, pitch)`: a = n, b = 1 (batch), a = 1, b = n (kernel), the best that fit (mix).
    ValueError for a count below 1, R < pitch or an unknown mode.
    """
    rows, columns, kernel_rows, kernel_columns = _arrangement(tokens, kernels, lattice_side(R, pitch), mode)
    return -(-tokens // (rows * columns)) * -(-kernels // (kernel_rows * kernel_columns))


def token_groups(tokens: int, kernels: int, R: int, pitch: int, mode: str = "batch") -> int:
    """Planes that the tokens of `linear_passes` take, ceil(tokens / a); it refuses the same. Derived."""
    rows, columns, *_ = _arrangement(tokens, kernels, lattice_side(R, pitch), mode)
    return -(-tokens // (rows * columns))


def optical_linear(
    x: Tensor, kernels: Tensor, R: int, padding: str = "valid", mode: str = "batch", pitch: int | None = None
) -> tuple[Tensor, int]:
    """Take token images `x` (..., tokens, p, p) through shared `kernels` (..., d_out, k, k) on R x R planes.

    Equals `conv2d` (a correlation) of every token with every kernel; valid with k = p is a linear layer with
    rows vec(kernel) (ConvShareViT). Returns the maps (..., tokens, d_out, o, o), o = p - k + 1 (valid) or p
    (same), and the passes used, `linear_passes`; leading axes are separate problems and multiply them.

    `pitch` None is `tight_pitch`; FatNet's safe one is p + k - 1; below tight, neighbours leak in (same).
    ValueError for images not square, k > p (valid), even k (same), pitch < p, R < pitch, unknown names.
    """
    p, k = x.shape[-1], kernels.shape[-1]
    if kernels.ndim < 3 or kernels.shape[-2] != k:
        raise ValueError(f"kernels of shape {tuple(kernels.shape)}: expected (..., d_out, k, k)")
    tight = tight_pitch(p, k, padding)
    pitch = tight if pitch is None else pitch
    _check_tokens(x, pitch)
    n, d = x.shape[-3], kernels.shape[-3]
    corners, offsets = _mix_corners(n, d, R, pitch, mode)
    # light convolves and conv2d correlates: flip the kernels, and shift them so that results start at corners
    responses = _groups(kernels.flip(-1, -2), len(offsets)).unsqueeze(-4)
    shift, size = (1 - k, p - k + 1) if padding == "valid" else (k // 2 + 1 - k, p)
    reading = (offsets[:, None] + corners).flatten(0, 1)
    planes = _lay(_groups(x, len(corners)), corners, R)
    camera = _expose(planes, responses, offsets + shift, reading, size)
    y = rearrange(camera, "... f g (b a) h w -> ... (g a) (f b) h w", b=len(offsets))
    return y[..., :n, :d, :, :], prod(camera.shape[:-3])


def optical_mix(weights: Tensor, values: Tensor, R: int, tiling: str = "mix") -> tuple[Tensor, int]:
    """Weighted sums `weights` (..., m, n) @ `values` (..., n, d) on R x R planes: ((..., m, d), passes).

    Attention's A v (ConvShareViT). The values stand in tiles of side ceil(sqrt(d)) at P_j; mask i of the
    filter has deltas of height weights[i, j] at Q_i - P_j, so that all meet in tile Q_i (derived). One mask a
    pass if naive, as many as fit if mix. ValueError for another tiling or R < ceil(sqrt(d)).
    """
    images = _as_images(values)
    p, (m, n) = images.shape[-1], weights.shape[-2:]
    corners, targets = _mix_corners(n, m, R, p, _attention_mode(tiling))
    full = pad(weights, (0, -n % len(corners), 0, -m % len(targets)))
    masks = rearrange(full, "... (f b) (g a) -> ... f g (b a) 1 1", a=len(corners), b=len(targets))
    planes = _lay(_groups(images, len(corners)), corners, R)
    camera = _expose(planes, masks, (targets[:, None] - corners).flatten(0, 1), targets, p)
    y = rearrange(camera.sum(dim=-4), "... f b h w -> ... (f b) (h w)")  # sum over token groups: electronic
    return y[..., :m, : values.shape[-1]], prod(camera.shape[:-3])


def optical_attention(q: Tensor, k: Tensor, v: Tensor, R: int, tiling: str = "mix") -> tuple[Tensor, int]:
    """softmax(q k^T / sqrt(d)) v with both products on the plane: (y, passes), all of shape (..., T, d).

    ConvShareViT, counts derived. Leading axes are separate problems (image, head). With p = ceil(sqrt(d)) and
    n_h = floor(R / p)^2 a product takes T passes if naive (T <= n_h) and one if mix (T^2 <= n_h). The softmax
    is electronic. ValueError for another tiling or R < p.
    """
    scores, passes_scores = optical_linear(_as_images(q), _as_images(k), R, mode=_attention_mode(tiling))
    weights = softmax(scores[..., 0, 0] / sqrt(q.shape[-1]), dim=-1)
    y, passes_values = optical_mix(weights, v, R, tiling)
    return y, passes_scores + passes_values


def _expose(planes: Tensor, patches: Tensor, places: Tensor, reading: Tensor, size: int) -> Tensor:
    """Filters with patches (..., f, g or 1, n, k, k) at `places` (n, 2), each with the planes (..., g, R, R).

    Returns the squares read at `reading` (m, 2), (..., f, g, m, size, size).
    """
    shots = []
    for block in patches.split(max(1, _PIXELS_AT_ONCE // planes.numel()), dim=-5):
        camera = light_pass(planes.unsqueeze(-4), _lay(block, places, planes.shape[-1]))
        shots.append(_read(camera, reading, size))
    return torch.cat(shots, dim=-5)


def _attention_mode(tiling: str) -> str:
    checks.one_of(("naive", "mix"), tiling=tiling)
    return "batch" if tiling == "naive" else "mix"


@cache
def _arrangement(tokens: int, kernels: int, side: int, mode: str) -> tuple[int, int, int, int]:
    """Rows and columns of the token array, then of the kernel array, on a lattice of side x side tiles."""
    checks.at_least(1, tokens=tokens)
    checks.at_least(1, kernels=kernels)
    checks.one_of(MODES, mode=mode)
    if mode == "batch":
        return side, side, 1, 1
    if mode == "kernel":
        return 1, 1, side, side
    widths = sorted({side // b for b in range(1, side + 1)})  # any other width leaves room unused

    def cost(array: tuple[int, int]) -> tuple[int, int]:
        rows, columns = array
        used = -(-tokens // (rows * columns)) * -(-kernels // ((side // rows) * (side // columns)))
        return used, abs(rows - columns)  # of equally good arrays, the squarest

    rows, columns = min(((rows, columns) for rows in widths for columns in widths), key=cost)
    return rows, columns, side // rows, side // columns


def _mix_corners(tokens: int, kernels: int, R: int, pitch: int, mode: str) -> tuple[Tensor, Tensor]:
    """Corners (a, 2) of one pass's tokens on the plane and (b, 2) of its kernels in the impulse response."""
    rows, columns, kernel_rows, kernel_columns = _arrangement(tokens, kernels, lattice_side(R, pitch), mode)
    offsets = _corners(kernel_rows * kernel_columns, kernel_columns, pitch) * torch.tensor([rows, columns])
    return _corners(rows * columns, columns, pitch), offsets


def _corners(count: int, columns: int, pitch: int) -> Tensor:
    """Upper left pixels (count, 2) of tiles laid row by row."""
    index = torch.arange(count)
    return torch.stack((index // columns, index % columns), dim=-1) * pitch


def _pixels(corners: Tensor, size: int, R: int) -> Tensor:
    """Flat indices (..., size, size), modulo the plane, of the squares at `corners` (..., 2)."""
    span = torch.arange(size)
    rows, columns = ((corners[..., axis, None] + span) % R for axis in (0, 1))
    return rows[..., :, None] * R + columns[..., None, :]


def _lay(images: Tensor, corners: Tensor, R: int) -> Tensor:
    """Dark planes (..., R, R) with images (..., n, p, p) added at `corners` (n, 2), modulo R."""
    dark = images.new_zeros(*images.shape[:-3], R * R)
    index = _pixels(corners, images.shape[-1], R).flatten().to(images.device)
    return dark.index_add(-1, index, images.flatten(-3)).unflatten(-1, (R, R))


def _read(plane: Tensor, corners: Tensor, size: int) -> Tensor:
    """Squares (..., *n, size, size) of planes (..., R, R) at `corners` (*n, 2)."""
    return plane.flatten(-2)[..., _pixels(corners, size, plane.shape[-1]).to(plane.device)]


def _groups(images: Tensor, size: int) -> Tensor:
    """Images (..., n, p, p) as (..., ceil(n / size), size, p, p), groups that share a plane; padded dark."""
    return pad(images, (0, 0, 0, 0, 0, -images.shape[-3] % size)).unflatten(-3, (-1, size))


def _as_images(vectors: Tensor) -> Tensor:
    """Vectors (..., d) as images (..., p, p), p = ceil(sqrt(d)), the rest dark."""
    p = token_side(vectors.shape[-1])
    return pad(vectors, (0, p * p - vectors.shape[-1])).unflatten(-1, (p, p))


def _check_tokens(x: Tensor, pitch: int) -> None:
    if x.ndim < 3 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"x of shape {tuple(x.shape)}: expected token images (..., tokens, p, p)")
    if pitch < x.shape[-1]:
        raise ValueError(f"pitch = {pitch}: expected at least the token side, {x.shape[-1]}")
