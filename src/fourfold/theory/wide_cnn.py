"""Wide CNNs: the kernels of infinitely wide convolutional networks whose patches are nested.

Cagnetta, Favero and Wyart, arXiv 2208.01003, ICML 2023. The input, d numbers, is cut into patches of s_1
neighbours, each of them a point of the unit sphere. The first layer looks at patches, the second at groups of
s_2 patches, and so on: patches of patches, *meta-patches*, up to layer L; a linear readout looks at whatever
positions are left. With infinitely many channels such a network is a kernel, which follows from the cosines
of patches by a recursion over the meta-patches.

Implemented: that recursion for the network's outputs (random feature kernel, RFK or NNGP) and for its
gradients (neural tangent kernel, NTK), the same for a fully connected network, a finite network and its
tangent kernel, eigenvalues on a torus by FFT, Gaussian random targets, kernel regression on nested training
sets, and the exponents that the theory expects.

Departures: the authors draw new points and a new target for every number of training points, and invert; here
training sets are nested and share one Cholesky factor. Their targets have the NTK as covariance; the output
of a random network has the RFK, and both can be had. Their finite network leaves out factors of the square
root of 2 and divides the first layer by the root of s_1, so that its kernel is smaller by a constant.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from fourfold.checks import at_least, divides, finite, one_of

Kind = Literal["ntk", "rfk"]
NU = {"ntk": 0.5, "rfk": 1.5}
"""Smoothness of a kernel: near t = 1 it is as singular as (1 - t)^nu."""

JITTER = 1e-9
"""Added to the diagonal of a Gram matrix with entries of order 1: that of the RFK is ill-conditioned."""


# --- the kernels ------------------------------------------------------------------------------------------


def arccos_kernels(t: Tensor) -> tuple[Tensor, Tensor]:
    """The arc-cosine kernels of degree 0 and 1 at cosines t, two tensors like t; t is clamped to [-1, 1].

    Twice the mean of step(u) step(v), and of relu(u) relu(v), for Gaussians u, v of variance 1 and
    correlation t (Cho and Saul 2009).
    """
    t = t.clamp(-1, 1)
    angle = math.pi - torch.arccos(t)
    return angle / math.pi, ((1 - t * t).sqrt() + angle * t) / math.pi


def patch_cosines(x: Tensor, y: Tensor, s1: int) -> Tensor:
    """Inner products of the patches of s1 neighbours: x (n, d), y (m, d) -> (d / s1, n, m).

    Raises ``ValueError`` if s1 does not divide d.
    """
    divides(x.shape[1], "the dimension", s1=s1)
    return torch.einsum("nps,mps->pnm", x.unflatten(1, (-1, s1)), y.unflatten(1, (-1, s1)))


def hierarchical_kernel(cosines: Tensor, filters: Sequence[int], kind: Kind = "ntk") -> Tensor:
    """The kernel of an infinitely wide network with nested patches, from its patches' cosines.

    Args:
        cosines: (patches, ...), of patches of filters[0] neighbours; any shape may follow.
        filters: sizes of filters, the first layer's first; strides are the same. What positions are left
            after the last layer, the readout takes all at once.
        kind: ``"rfk"`` for the covariance of the outputs, ``"ntk"`` for that of the gradients.

    Returns:
        (...): 1 on the diagonal for the RFK, the number of layers with the readout for the NTK.

    Raises:
        ValueError: if the patches are not a multiple of the filters that follow, or for an unknown kind.
    """
    one_of(NU, kind=kind)
    _nested(len(cosines), filters)
    sigma = theta = cosines
    for size in (*filters[1:], None):
        step, ramp = arccos_kernels(sigma)
        parts = (-1, size or len(sigma))  # (meta-patches, children of each)
        theta = (step * theta + ramp).unflatten(0, parts).mean(1)
        sigma = ramp.unflatten(0, parts).mean(1)
    return (theta if kind == "ntk" else sigma)[0]


def fully_connected_kernel(cosines: Tensor, depth: int, kind: Kind = "ntk") -> Tensor:
    """The kernel of a fully connected network with ``depth`` hidden layers: cosines (patches, ...) -> (...).

    The input of p unit patches has length sqrt(p), so that its cosine is the mean of the patches' cosines.
    """
    at_least(1, depth=depth)
    return hierarchical_kernel(cosines.mean(0, keepdim=True), [1] * depth, kind)


def gram(kernel: Callable[[Tensor], Tensor], x: Tensor, s1: int = 2, rows: int = 128) -> Tensor:
    """A kernel of all pairs of points: x (n, d) -> (n, n), symmetric.

    In blocks of rows, each from the diagonal on, so that a kernel's temporaries stay small and half the work
    is spared.
    ``kernel`` takes the cosines of patches of s1, (patches, rows, columns).
    Raises ``ValueError`` if s1 does not divide d or rows < 1.
    """
    at_least(1, rows=rows)
    whole = x.new_empty(len(x), len(x))
    for start in range(0, len(x), rows):
        block = kernel(patch_cosines(x[start : start + rows], x[start:], s1))
        whole[start : start + rows, start:] = block
        whole[start:, start : start + rows] = block.T
    return whole


def effective_dim(filters: Sequence[int], level: int) -> int:
    """Dimension of a meta-patch of a level (1 .. layers): (s_1 - 1) s_2 ... s_level.

    Raises ``ValueError`` for a level that the filters do not have.
    """
    if not 1 <= level <= len(filters):
        raise ValueError(f"level must be in 1..{len(filters)}, got {level}")
    return (filters[0] - 1) * math.prod(filters[1:level])


def predicted_exponent(nu_teacher: float, nu_student: float, d_target: int, d_input: int) -> float:
    """The exponent b with which a spectral-bias estimate lets the test error fall, error ~ n^-b.

    n points fix the n modes with the largest eigenvalues. Most modes belong to the whole input, so that the
    cut lies at the eigenvalue n^-(1 + 2 nu_student / d_input). Those of the target's meta-patches reach it at
    the frequency k with k^-(2 nu_student + d_target) as small, and the target has the power k^-2nu_teacher
    beyond it. Derived for this book.
    """
    return 2 * nu_teacher / (2 * nu_student + d_target) * (2 * nu_student + d_input) / d_input


def _nested(patches: int, filters: Sequence[int]) -> None:
    if not filters or min(filters) < 1 or patches < 1 or patches % math.prod(filters[1:]):
        raise ValueError(
            f"filters must be >= 1 and those after the first divide the patches, "
            f"got {list(filters)} for {patches} patches"
        )


# --- a finite network -------------------------------------------------------------------------------------


class LocalNet(nn.Module):
    """A network of finite width with nested patches and one output, locally connected as the authors' is.

    (n, d) -> (n,); weights are standard normal and the scale stands in front, so that with ever more channels
    the tangent kernel becomes ``hierarchical_kernel``. ReLU halves the power, hence ``gain`` 2.
    """

    def __init__(
        self, filters: Sequence[int], width: int, d: int, generator: torch.Generator, gain: float = 2.0
    ):
        """Raises ``ValueError`` if the filters do not divide d."""
        super().__init__()
        at_least(1, width=width)
        divides(d, "the dimension", product_of_filters=math.prod(filters))
        self.width, self.gain, self.sizes = width, gain, list(filters)
        self.layers, positions, channels = nn.ParameterList(), d, 1
        for size in (*filters, None):
            positions = positions // size if size else 1
            fan_in = channels * (size or d // math.prod(filters))
            units = width if size else 1
            weight = torch.randn(positions, units, fan_in, dtype=torch.float64, generator=generator)
            self.layers.append(nn.Parameter(weight))
            channels = width

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (n,)."""
        hidden = x[..., None]
        for depth, weight in enumerate(self.layers):
            positions, _, fan_in = weight.shape
            scale = math.sqrt(self.gain / fan_in) if depth else 1.0  # a patch already has length 1
            hidden = torch.einsum("npi,phi->nph", hidden.reshape(len(x), positions, fan_in), scale * weight)
            if depth + 1 < len(self.layers):
                hidden = hidden.relu()
        return hidden.flatten()


def empirical_ntk(net: nn.Module, x: Tensor) -> Tensor:
    """Inner products of the gradients of a network's one output in its weights: x (n, d) -> (n, n)."""
    rows = []
    for output in net(x):
        gradients = torch.autograd.grad(output, tuple(net.parameters()), retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


# --- the exact spectrum -----------------------------------------------------------------------------------


def torus_spectrum(kernel: Callable[[Tensor], Tensor], patches: int, grid: int) -> Tensor:
    """Eigenvalues of a kernel on circles, patches of two numbers: (grid,) * patches, by wave number.

    There a kernel depends on differences of angles only, and its eigenvalues are its Fourier coefficients;
    those on a grid hold also what folds back from wave numbers beyond. ``kernel`` takes cosines
    (patches, grid, ..., grid).
    Raises ``ValueError`` for less than one patch or a grid below 4.
    """
    at_least(1, patches=patches)
    at_least(4, grid=grid)
    cosine = (2 * math.pi / grid * torch.arange(grid, dtype=torch.float64)).cos()
    cosines = torch.stack(torch.meshgrid(*[cosine] * patches, indexing="ij"))
    return torch.fft.fftn(kernel(cosines)).real / grid**patches


# --- targets and regression -------------------------------------------------------------------------------


def sample_multisphere(n: int, patches: int, s1: int, generator: torch.Generator) -> Tensor:
    """Points whose patches are uniform on the unit sphere of s1 dimensions: (n, patches * s1), float64."""
    at_least(1, n=n, patches=patches)
    at_least(2, s1=s1)
    x = torch.randn(n, patches, s1, dtype=torch.float64, generator=generator)
    return (x / x.norm(dim=-1, keepdim=True)).flatten(1)


def gaussian_field(covariance: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of a centred Gaussian with covariance (n, n): (n,). Training and test points go together."""
    noise = torch.randn(len(covariance), dtype=covariance.dtype, generator=generator)
    return _cholesky(covariance, 0.0) @ noise


def random_network(x: Tensor, filters: Sequence[int], generator: torch.Generator) -> Tensor:
    """What an infinitely wide network with random weights returns at n points: x (n, d) -> (n,).

    Its outputs are jointly Gaussian with the RFK as covariance.
    """
    return gaussian_field(
        gram(partial(hierarchical_kernel, filters=filters, kind="rfk"), x, filters[0]), generator
    )


def learning_curves(
    student: Tensor, targets: Tensor, train_sizes: Sequence[int], ridge: float = 0.0
) -> Tensor:
    """Test errors of kernel regression, for several targets at once: (targets, sizes).

    Args:
        student: (n, n), the student's kernel of all points; the first max(train_sizes) train, the rest test.
        targets: (targets, n).
        train_sizes: increasing numbers of training points; each set begins with the smaller ones, so that one
            Cholesky factor serves all.
        ridge: added to the diagonal, besides ``JITTER``.

    Raises:
        ValueError: if no points are left to test on, sizes do not increase, or the ridge is negative.
    """
    finite(ridge=ridge)
    most = max(train_sizes)
    if sorted(set(train_sizes)) != list(train_sizes) or not 1 <= train_sizes[0] <= most < len(student):
        raise ValueError(
            f"train_sizes must increase from >= 1 to < {len(student)} points, got {list(train_sizes)}"
        )
    factor = _cholesky(student[:most, :most], ridge)
    errors = []
    for size in train_sizes:
        weights = torch.cholesky_solve(targets[:, :size].T, factor[:size, :size])
        errors.append((student[most:, :size] @ weights - targets[:, most:].T).square().mean(0))
    return torch.stack(errors, -1)


def _cholesky(matrix: Tensor, ridge: float) -> Tensor:
    return torch.linalg.cholesky(matrix + (JITTER + ridge) * torch.eye(len(matrix), dtype=matrix.dtype))
