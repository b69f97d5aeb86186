"""Cross-D Conv: a 2-D convolution with slices of 3-D kernels, which a phase on their spectrum moves.

Yavuz and Yang, arXiv 2411.02441, 2024; from the paper's description and the authors' repository (MIT). For
each input a small head predicts an axis k and an angle theta. The frequencies f of a K x K x K kernel become
f' = R f with R = I + theta [k]x; the spectrum is multiplied by exp(-2 pi i (f'_1 + f'_2 + f'_3)); the middle
slice along the depth is this input's 2-D kernel. The same weights can later serve a ``Conv3d``.

What that computes: 1'R f = t'f with t = R'1 = 1 + theta (1 x k). The phase is a linear ramp, so the operation
is a circular translation of the kernel by t taps, fractional, with the Dirichlet kernel between taps for odd
K. It is no rotation. Three modes share everything else:

- *official*: the above. At theta = 0 it is a translation by one tap along each axis.
- *centred*: a translation by t - 1, so that theta = 0 leaves the kernel where it is.
- *rotate*: the kernel turned by the exact rotation and interpolated linearly, as the paper's text describes.

All three are linear in the weights, so the layer makes one (K^2, K^3) matrix per input, the same for every
channel, and multiplies; ``shift_kernel`` is the operation as the paper writes it.

Axes are in the order depth, height, width (x, y, z of the authors' code). Departure: the head's BatchNorm
always takes the statistics of the batch at hand, in evaluation too (the authors': running averages). As in
the authors' layer there is no bias, and groups are those of ``Conv2d``.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, batch_norm, conv2d, conv3d, one_hot

Mode = Literal["official", "centred", "rotate"]

LARGEST_ANGLE = math.pi / 4
SHAPES = ("ball", "cube", "rod", "shell")
"""Classes of ``solids``, in the order of their labels."""


def _checked(size: int, allow_even: bool = False) -> int:
    if size < 1 or (size % 2 == 0 and not allow_even):
        raise ValueError(f"kernel must be odd and >= 1, got {size}")
    return size


def _axis_angle(k: Tensor, theta: Tensor) -> None:
    if k.ndim != 2 or k.shape[1] != 3 or theta.shape != (len(k), 1):
        raise ValueError(
            f"expected k (batch, 3) and theta (batch, 1), got {tuple(k.shape)} and {tuple(theta.shape)}"
        )


# --- axes, angles, matrices -------------------------------------------------------------------------------


def cross_matrix(k: Tensor) -> Tensor:
    """The matrix of the cross product, ``cross_matrix(k) v = k x v``: (batch, 3) -> (batch, 3, 3)."""
    zero = torch.zeros_like(k[:, 0])
    x, y, z = k.unbind(1)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).unflatten(1, (3, 3))


def linearised_rotation(k: Tensor, theta: Tensor) -> Tensor:
    """``I + theta [k]x``, what the authors use for a rotation: (batch, 3), (batch, 1) -> (batch, 3, 3)."""
    _axis_angle(k, theta)
    return torch.eye(3, dtype=k.dtype, device=k.device) + theta[..., None] * cross_matrix(k)


def exact_rotation(k: Tensor, theta: Tensor) -> Tensor:
    """Rodrigues' ``I + sin(theta) [k]x + (1 - cos(theta)) [k]x^2`` for unit axes; shapes as above."""
    cross, angle = cross_matrix(k), theta[..., None]
    linear = linearised_rotation(k, theta.sin())
    return linear + (1 - angle.cos()) * (cross @ cross)


def translation(k: Tensor, theta: Tensor) -> Tensor:
    """How far the official operation moves a kernel, in taps: t = 1 + theta (1 x k), (batch, 3).

    The three components always sum to 3, and |t - 1| <= sqrt(3) |theta|.
    """
    _axis_angle(k, theta)
    ones = torch.ones_like(k)
    return ones + theta * torch.linalg.cross(ones, k)


# --- what becomes of a kernel -----------------------------------------------------------------------------


def _phase(k: Tensor, theta: Tensor, size: int) -> Tensor:
    """exp(-2 pi i 1'R f) at the frequencies of a kernel of this size: (batch, K, K, K), complex."""
    axis = torch.fft.fftfreq(size, dtype=k.dtype, device=k.device)
    frequencies = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    turned = torch.einsum("brf,fxyz->brxyz", linearised_rotation(k, theta), frequencies)
    angle = -2 * math.pi * turned.sum(1)
    return torch.complex(angle.cos(), angle.sin())


def shift_kernel(weight: Tensor, k: Tensor, theta: Tensor, *, allow_even: bool = False) -> Tensor:
    """Kernels with the authors' phase on their spectrum: (o, i, K, K, K) -> (batch, o, i, K, K, K), complex.

    For odd K the imaginary part is rounding. For even K it is not, because the frequency -1/2 has no partner;
    taking the real part then loses energy. Raises ``ValueError`` for even K unless ``allow_even``.
    """
    _axis_angle(k, theta)
    spectrum = torch.fft.fftn(weight, dim=(-3, -2, -1))
    phase = _phase(k, theta, _checked(weight.shape[-1], allow_even))
    return torch.fft.ifftn(spectrum * phase[:, None, None], dim=(-3, -2, -1))


def dirichlet_shift(weight: Tensor, t: Tensor) -> Tensor:
    """A circular translation by t (batch, 3) taps in closed form: (o, i, K, K, K) -> (batch, o, i, K, K, K).

    Along each axis ``D(n - a - t)`` with ``D(x) = sin(pi x) / (K sin(pi x / K))``, odd K.
    """
    size = _checked(weight.shape[-1])
    tap = torch.arange(size, dtype=t.dtype)
    x = tap[:, None] - tap - t[..., None, None]
    # D has the period K; within half of it from 0 the denominator stays away from 0.
    x = x - size * (x / size).round()
    d, h, w = (x.sinc() / (x / size).sinc()).unbind(1)
    return torch.einsum("bxp,byq,bzr,oipqr->boixyz", d, h, w, weight)


def _turned_taps(k: Tensor, theta: Tensor, points: Tensor, size: int) -> Tensor:
    """Trilinear weights of all taps at turned points, from the middle: (n, 3) -> (batch, n, K, K, K)."""
    sources = torch.einsum("bts,nt->bns", exact_rotation(k, theta), points)  # the inverse rotation of each
    tap = torch.arange(size, dtype=k.dtype, device=k.device) - size // 2
    d, h, w = (1 - (sources[..., None] - tap).abs()).clamp_min(0).unbind(2)
    return torch.einsum("bnx,bny,bnz->bnxyz", d, h, w)


@cache
def _grid(size: int) -> Tensor:
    """The taps of a kernel relative to its middle: (K, K, K, 3)."""
    tap = torch.arange(size) - size // 2
    return torch.stack(torch.meshgrid(tap, tap, tap, indexing="ij"), -1)


def rotate_kernel(weight: Tensor, k: Tensor, theta: Tensor) -> Tensor:
    """Kernels turned about unit axes by Rodrigues' matrix: (o, i, K, K, K) -> (batch, o, i, K, K, K).

    Linear interpolation between taps; what comes from outside the kernel is zero.
    """
    size = _checked(weight.shape[-1])
    taps = _turned_taps(k, theta, _grid(size).reshape(-1, 3).to(weight), size)
    turned = torch.einsum("bnxyz,oixyz->boin", taps, weight)
    return turned.unflatten(-1, (size, size, size))


@cache
def _wrapped(size: int) -> Tensor:
    """(n - m) mod K as a flat index, n over the middle slice, m over all taps: (K^2, K^3)."""
    tap = torch.arange(size)
    target = torch.cartesian_prod(torch.tensor([size // 2]), tap, tap)
    source = torch.cartesian_prod(tap, tap, tap)
    return ((target[:, None] - source) % size) @ torch.tensor([size * size, size, 1])


def slice_matrix(k: Tensor, theta: Tensor, size: int, mode: Mode = "official") -> Tensor:
    """What every mode does to a kernel, as a matrix from its taps to its new middle slice: (batch, K^2, K^3).

    A phase on the spectrum is a circular convolution with the inverse transform of the phase, so one
    transform per input serves all channels.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    _checked(size)
    if mode == "rotate":
        return _turned_taps(k, theta, _grid(size)[size // 2].reshape(-1, 3).to(k), size).flatten(2)
    moved = torch.fft.ifftn(_phase(k, theta, size), dim=(-3, -2, -1)).real
    if mode == "centred":
        moved = moved.roll((-1, -1, -1), (-3, -2, -1))
    return moved.flatten(1)[:, _wrapped(size)]


# --- layers -----------------------------------------------------------------------------------------------


class CrossDConv2d(nn.Module):
    """A 2-D convolution with kernels cut from 3-D ones, for each input along its own slice.

    ``weight``: (cout, cin / groups, K, K, K), Kaiming normal. No bias.
    Raises ``ValueError`` for an even K, groups that do not divide the channels, or an unknown mode.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        K: int,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        mode: Mode = "official",
    ):
        super().__init__()
        _checked(K)
        if groups < 1 or cin % groups or cout % groups:
            raise ValueError(f"groups must be >= 1 and divide cin={cin} and cout={cout}, got {groups}")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        self.K, self.stride, self.groups, self.mode = K, stride, groups, mode
        self.padding = K // 2 if padding is None else padding
        self.weight = nn.Parameter(torch.empty(cout, cin // groups, K, K, K))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.head = nn.Sequential(
            nn.Conv2d(cin, 16, 1),
            nn.BatchNorm2d(16, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(16, 4, 1),
        )

    def rotation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Axis (batch, 3), of length 1 or, where the head says nothing, 0; angle (batch, 1), within pi/4.

        Each of the head's four maps is averaged with weights from its own softmax over the pixels.
        """
        maps = self.head(x).flatten(2)
        pooled = (maps * maps.softmax(-1)).sum(-1)
        axis, angle = pooled[:, :3], pooled[:, 3:]
        return axis / (axis.norm(dim=1, keepdim=True) + 1e-8), LARGEST_ANGLE * angle.tanh()

    def kernel2d(self, x: Tensor) -> Tensor:
        """The kernels of each input: (batch, cin, height, width) -> (batch, cout, cin / groups, K, K)."""
        matrix = slice_matrix(*self.rotation(x), self.K, self.mode)
        kernels = torch.einsum("bnm,oim->boin", matrix, self.weight.flatten(2))
        return kernels.unflatten(-1, (self.K, self.K))

    def convolve(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Each input with its own kernels, in one convolution whose groups are the inputs."""
        planes = rearrange(x, "b c h w -> 1 (b c) h w")
        stacked = rearrange(kernels, "b o i h w -> (b o) i h w")
        groups = len(x) * self.groups
        y = conv2d(planes, stacked, stride=self.stride, padding=self.padding, groups=groups)
        return rearrange(y, "1 (b o) h w -> b o h w", b=len(x))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, cin, height, width) -> (batch, cout, height', width')."""
        return self.convolve(x, self.kernel2d(x))

    def to_conv3d(self) -> nn.Conv3d:
        """A 3-D convolution with these weights as they are; the head is dropped."""
        cout, cin = self.weight.shape[:2]
        return _conv3d(self.weight, cin * self.groups, cout, self.K, self.stride, self.padding, self.groups)


class Still(CrossDConv2d):
    """The same layer with the angle held at 0: nothing is learned about where the kernels go."""

    def rotation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Axis (batch, 3) as learned, angle (batch, 1) 0."""
        k, angle = super().rotation(x)
        return k, 0 * angle


class RandomHead(CrossDConv2d):
    """The same layer with axis and angle at random for each input: projections of its pixels, never trained.

    ``side``: height and width of the inputs. ``generator`` draws the projections.
    """

    projection: Tensor

    def __init__(self, cin: int, cout: int, K: int, side: int, generator: torch.Generator):
        super().__init__(cin, cout, K)
        projection = torch.randn(cin * side * side, 4, generator=generator)
        self.register_buffer("projection", projection, persistent=False)

    def rotation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Axis (batch, 3) of length 1, angle (batch, 1) within pi/4."""
        pixels = (x - x.mean((-2, -1), keepdim=True)).flatten(1)
        four = (nn.functional.normalize(pixels, dim=1) @ self.projection).detach()
        return nn.functional.normalize(four[:, :3], dim=1), LARGEST_ANGLE * four[:, 3:].tanh()


def _conv3d(weight: Tensor, cin: int, cout: int, K: int, stride: int, padding: int, groups: int) -> nn.Conv3d:
    conv = nn.Conv3d(cin, cout, K, stride, padding, groups=groups, bias=False, device=weight.device)
    conv.load_state_dict({"weight": weight})
    return conv.to(weight.dtype)


def inflate(conv: nn.Conv2d) -> nn.Conv3d:
    """The 2-D kernels repeated along the depth and divided by K, as fits a volume of equal slices."""
    K = conv.kernel_size[0]
    weight = conv.weight.detach()[:, :, None].expand(-1, -1, K, -1, -1) / K
    return _conv3d(
        weight, conv.in_channels, conv.out_channels, K, conv.stride[0], int(conv.padding[0]), conv.groups
    )


class ACSConv3d(nn.Module):
    """ACS convolution (arXiv 1911.10477): each plane of a volume gets a third of the 2-D kernels.

    The first third is axial (height, width), the next coronal (depth, width), the rest sagittal (depth,
    height); what does not divide goes to the first. For stride 1, odd K, padding K//2, one group and at least
    three output channels; raises ``ValueError`` for another convolution.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        K = _checked(conv.kernel_size[0])
        if conv.stride != (1, 1) or conv.padding != (K // 2, K // 2) or conv.groups != 1:
            raise ValueError(f"conv must have stride 1, padding {K // 2} and one group, got {conv}")
        if conv.out_channels < 3:
            raise ValueError(f"conv must have >= 3 output channels, one a plane, got {conv.out_channels}")
        self.weight = nn.Parameter(conv.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(batch, cin, depth, height, width) -> (batch, cout, depth, height, width)."""
        thirds = zip(self.weight.tensor_split(3), (2, 3, 4), strict=True)
        return torch.cat([conv3d(x, third.unsqueeze(plane), padding="same") for third, plane in thirds], 1)


def depth_share(weight: Tensor) -> Tensor:
    """Share of each depth slice in the energy of weights or their gradients, (o, i, K, K, K) -> (K,)."""
    energy = weight.square().sum((0, 1, 3, 4))
    return energy / energy.sum()


# --- networks ---------------------------------------------------------------------------------------------


class SliceNet(nn.Module):
    """Two layers of 8 and 16 channels, BatchNorm and ReLU after each; halved between, averaged at the end.

    ``conv(cin, cout)`` makes a layer that keeps the size.
    """

    def __init__(self, conv: Callable[[int, int], nn.Module], classes: int = len(SHAPES)):
        super().__init__()
        self.convs = nn.ModuleList([conv(1, 8), conv(8, 16)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(c, track_running_stats=False) for c in (8, 16)])
        self.head = nn.Linear(16, classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps after each layer: (batch, 1, h, w) -> (batch, 8, h, w), (batch, 16, h/2, w/2)."""
        first = self.norms[0](self.convs[0](x)).relu()
        return [first, self.norms[1](self.convs[1](nn.functional.avg_pool2d(first, 2))).relu()]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, height, width) -> (batch, classes)."""
        return self.head(self.features(x)[-1].mean((-2, -1)))


def volume_features(
    net: SliceNet, layers: tuple[Callable[[Tensor], Tensor], ...], fit: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """The network carried over to volumes, frozen: features of ``fit`` and of ``x``, each (volumes, 16).

    ``layers`` stand in for the network's convolutions; its norms keep scale and offset and take mean and
    variance from ``fit``, (volumes, 1, d, h, w) like ``x``.
    """
    both = torch.cat([fit, x])
    with torch.no_grad():
        for depth, (layer, norm) in enumerate(zip(layers, net.norms, strict=True)):
            y = layer(avg_pool3d(both, 2) if depth else both)
            seen = y[: len(fit)]
            mean, variance = seen.mean((0, 2, 3, 4)), seen.var((0, 2, 3, 4), unbiased=False)
            scale, offset = norm.parameters()
            both = batch_norm(y, mean, variance, scale, offset).relu()
    pooled = both.mean((-3, -2, -1))
    return pooled[: len(fit)], pooled[len(fit) :]


def ridge_accuracy(fit: Tensor, labels: Tensor, x: Tensor, truth: Tensor, penalty: float = 1.0) -> float:
    """Test accuracy of a ridge regression on one-hot labels, features standardised on ``fit``.

    ``fit``, ``x``: (n, features); ``labels``, ``truth``: (n,). The offset is not penalised.
    """
    mean, spread = fit.double().mean(0), fit.double().std(0) + 1e-8
    a, b = (fit.double() - mean) / spread, (x.double() - mean) / spread
    targets = one_hot(labels).double()
    gram = a.T @ a + penalty * torch.eye(a.shape[1], dtype=a.dtype)
    weights = torch.linalg.solve(gram, a.T @ (targets - targets.mean(0)))
    return float(((b @ weights + targets.mean(0)).argmax(1) == truth).double().mean())


class _Residual(nn.Module):
    def __init__(
        self, conv: Callable[..., nn.Module], norm: Callable[..., nn.Module], cin: int, cout: int, stride: int
    ):
        super().__init__()
        self.body = nn.Sequential(
            conv(cin, cout, 3, stride, 1), norm(cout), nn.ReLU(), conv(cout, cout, 3, 1, 1), norm(cout)
        )
        same = stride == 1 and cin == cout
        self.skip = nn.Identity() if same else nn.Sequential(conv(cin, cout, 1, stride, 0), norm(cout))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.skip(x)).relu()


def resnet18(conv: Callable[..., nn.Module], dims: int = 2) -> nn.Sequential:
    """ResNet-18, which the authors train, for 1000 classes.

    ``conv(cin, cout, K, stride, padding)`` makes every convolution; ``dims`` is 2 for images, 3 for volumes.
    """
    norm, pool, average = (
        (nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
        if dims == 2
        else (nn.BatchNorm3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d)
    )
    widths = [64, 64, 128, 256, 512]
    blocks = [
        block
        for i in range(4)
        for block in (
            _Residual(conv, norm, widths[i], widths[i + 1], 1 if i == 0 else 2),
            _Residual(conv, norm, widths[i + 1], widths[i + 1], 1),
        )
    ]
    stem = [conv(3, 64, 7, 2, 3), norm(64), nn.ReLU(), pool(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, average(1), nn.Flatten(), nn.Linear(512, 1000))


# --- data -------------------------------------------------------------------------------------------------


class Solids(NamedTuple):
    """Volumes (n, side, side, side) and their labels (n,), in the order of ``SHAPES``."""

    volumes: Tensor
    labels: Tensor


def solids(n: int, side: int, noise: float, generator: torch.Generator) -> Solids:
    """Balls, cubes, rods and shells, turned and shifted at random, in white noise of this standard deviation.

    Sizes scale with the side and vary by 15 %; centres lie within 1/10 of the side of the middle. Inside is
    1, outside 0, with an edge one voxel wide. Raises ``ValueError`` for n < 1, a side that is no multiple of
    4, or a negative noise.
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    if side < 4 or side % 4:
        raise ValueError(f"side must be a multiple of 4, >= 4, got {side}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be >= 0, got {noise}")
    labels = torch.randint(len(SHAPES), (n,), generator=generator)
    turns = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator))[0]
    centres = (torch.rand(n, 1, 3, generator=generator) - 0.5) * side / 5
    scale = (1 + 0.3 * (torch.rand(n, 1, generator=generator) - 0.5)) * side / 12
    points = _grid_points(side)
    own = ((points - centres) @ turns) / scale[..., None]
    radius = own.norm(dim=-1)
    along, across = own[..., 0].abs(), own[..., 1:].norm(dim=-1)
    # Distance inside the surface, for each shape, at a side of 12 voxels.
    inside = torch.stack(
        [
            3.6 - radius,
            2.9 - own.abs().amax(-1),
            torch.minimum(5.0 - along, 1.8 - across),
            0.8 - (radius - 3.6).abs(),
        ]
    )
    mine = inside[labels, torch.arange(n)]
    clean = (mine * scale + 0.5).clamp(0, 1).reshape(n, side, side, side)
    return Solids(clean + noise * torch.randn(clean.shape, generator=generator), labels)


def _grid_points(side: int) -> Tensor:
    axis = torch.arange(side) - (side - 1) / 2
    return torch.cartesian_prod(axis, axis, axis)
