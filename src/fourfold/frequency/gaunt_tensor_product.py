"""Gaunt tensor products: a product of irreps is a product of functions on the sphere, and an FFT computes it.

Luo, Chen and Krishnapriyan, arXiv 2401.10216, ICLR 2024. Features are coefficients x_lm of real orthonormal
spherical harmonics, degrees l = 0..L, orders m = -l..l, at flat index l^2 + l + m, in e3nn's order and axes
(the polar axis is y). Coupled by Gaunt coefficients, the integrals of three harmonics, two of them make the
coefficients of the product of their functions. Three ways to it:

- *dense*: contraction with the tensor of all Gaunt coefficients (``gaunt_tensor``);
- *path by path*: Wigner 3j symbols of e3nn, one weight for each path (``cg_tensor_product``), which with the
  weights of ``path_factor`` is the same product and with others is more general;
- *Fourier*: ``GauntTP``. The sphere is covered twice by the torus, (theta, phi) and (2 pi - theta, phi + pi);
  there every harmonic is a trigonometric polynomial of degree l, so products are convolutions of
  coefficients. Exact, and all three steps take at most O(L^3) operations.

Implemented: feature interaction and many-body products, one power where the paper sums the powers 1 to nu.
Not implemented: the paper's equivariant convolution, the first one with a second operand that a rotation to
the pole makes sparse. Degrees run to L here; the L of the paper and of the authors' code counts them, 0..L-1.

Departures from the authors' code: tables hold real numbers, since an even order has a cosine series in theta
and an odd one a sine series; functions are real, so half the spectrum is stored and the FFTs are real; grids
are padded to a length with small prime factors; many-body products are powers of one grid. The integrals of
the way back are a closed form: quadrature nodes near the poles cost two digits at degree 10.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from e3nn import o3
from scipy.fft import next_fast_len
from scipy.linalg import expm
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Path = tuple[int, int, int]
Weights = tuple[Tensor, Tensor, Tensor]
Product = Callable[[Tensor, Tensor], Tensor]
Method = Literal["paths", "sparse"]


# --- harmonics and coupling coefficients ------------------------------------------------------------------


def _legendre(L: int, cos: Tensor) -> Tensor:
    """Normalised associated Legendre functions over sin^m, polynomials in cos: (m, l, *cos.shape), float64.

    Times sin^|m| and, for m != 0, sqrt(2) cos or sin of |m| phi they are orthonormal on the sphere. No
    Condon-Shortley sign. Zero where l < m.
    """
    values = torch.zeros(L + 1, L + 1, *cos.shape, dtype=torch.float64)
    values[0, 0] = math.sqrt(1 / (4 * math.pi))
    for m in range(1, L + 1):
        values[m, m] = math.sqrt((2 * m + 1) / (2 * m)) * values[m - 1, m - 1]
    for m in range(L):
        values[m, m + 1] = math.sqrt(2 * m + 3) * cos * values[m, m]
        for n in range(m + 2, L + 1):
            up = math.sqrt((4 * n * n - 1) / (n * n - m * m))
            down = math.sqrt(((n - 1) ** 2 - m * m) / (4 * (n - 1) ** 2 - 1))
            values[m, n] = up * (cos * values[m, n - 1] - down * values[m, n - 2])
    return values


def _orders(L: int) -> tuple[Tensor, Tensor]:
    """Degree l and order m at each flat index: ((L+1)^2,), twice."""
    degree = torch.arange(L + 1).repeat_interleave(2 * torch.arange(L + 1) + 1)
    return degree, torch.arange((L + 1) ** 2) - degree * (degree + 1)


def real_sh(L: int, points: Tensor) -> Tensor:
    """Real orthonormal spherical harmonics of the directions of points (N, 3): (N, (L+1)^2), float64.

    Points are (x, y, z) of e3nn, whose polar axis is y: in textbook axes they read (z, x, y).
    Raises ``ValueError`` for L < 0, another shape, or a point without a direction.
    """
    _degree("L", L)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must be (N, 3), got {tuple(points.shape)}")
    length = points.double().norm(dim=1, keepdim=True)
    if not (length > 0).all():
        raise ValueError("points must have a direction, got one of length 0")
    y, z, x = (points.double() / length).unbind(1)
    ring = torch.complex(x, y)
    powers = torch.stack([ring**m for m in range(L + 1)])  # sin^m e^(i m phi)
    degree, order = _orders(L)
    polar = _legendre(L, z)[order.abs(), degree]
    power = powers[order.abs()]
    azimuth = torch.where((order < 0)[:, None], power.imag, power.real)
    return (_fold(order)[:, None] * polar * azimuth).T


@cache
def gaunt_tensor(L1: int, L2: int, Lo: int) -> Tensor:
    """All integrals of three harmonics: ((L1+1)^2, (L2+1)^2, (Lo+1)^2), float64.

    By a quadrature that is exact for these degrees: Gauss-Legendre in cos theta, equally spaced in phi.
    Raises ``ValueError`` for a negative degree, or degrees that add up to more than 48 (0.2 GB).
    """
    total = _degree("L1", L1) + _degree("L2", L2) + _degree("Lo", Lo)
    if total > 48:
        raise ValueError(f"L1 + L2 + Lo must be <= 48, for the tensor to fit in memory, got {total}")
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(total // 2 + 1))
    phi = 2 * math.pi * torch.arange(total + 1, dtype=torch.float64) / (total + 1)
    cos, phi = (grid.flatten() for grid in torch.meshgrid(nodes, phi, indexing="ij"))
    sin = (1 - cos**2).sqrt()
    y1, y2, yo = (
        real_sh(L, torch.stack([sin * phi.sin(), cos, sin * phi.cos()], dim=1)) for L in (L1, L2, Lo)
    )
    yo = yo * (weights.repeat_interleave(total + 1) * 2 * math.pi / (total + 1))[:, None]
    return torch.stack([(column[:, None] * y2).T @ yo for column in y1.unbind(1)])


def path_constant(l1: int, l2: int, l3: int) -> float:
    """Size of the factor from Wigner 3j symbols to Gaunt coefficients on a path; 0 for an odd sum of degrees.

    ``sqrt((2 l1 + 1)(2 l2 + 1)(2 l3 + 1) / 4 pi) |3j(l1 l2 l3; 0 0 0)|``, from factorials.
    """
    total = l1 + l2 + l3
    if total % 2 or not abs(l1 - l2) <= l3 <= l1 + l2:
        return 0.0
    half, f = total // 2, math.factorial
    square = math.prod(f(total - 2 * degree) for degree in (l1, l2, l3)) / f(total + 1)
    zeros = f(half) // math.prod(f(half - degree) for degree in (l1, l2, l3)) * math.sqrt(square)
    return math.sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) / (4 * math.pi)) * zeros


def path_factor(path: Path, coupling: Tensor) -> Tensor:
    """The best factor, with its sign, from e3nn's Wigner 3j to the path's block of a ``gaunt_tensor``."""
    l1, l2, l3 = path
    # e3nn's symbols have norm 1 on a path, so the inner product is the projection.
    return (coupling[block(l1), block(l2), block(l3)] * o3.wigner_3j(*path, dtype=coupling.dtype)).sum()


def paths(L1: int, L2: int, Lo: int) -> list[Path]:
    """Triples of degrees that satisfy the triangle inequality, odd sums included."""
    return [
        (l1, l2, l3)
        for l1 in range(L1 + 1)
        for l2 in range(L2 + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, Lo) + 1)
    ]


def cg_tensor_product(
    x: Tensor, y: Tensor, L1: int, L2: int, Lo: int, weights: Mapping[Path, float] | None = None
) -> Tensor:
    """Clebsch-Gordan product, path by path: (..., (L1+1)^2), (..., (L2+1)^2) -> (..., (Lo+1)^2).

    Each path adds its weight (1, or that of ``weights``, where a missing path is left out) times the
    contraction with e3nn's Wigner 3j. Leading dimensions are broadcast.
    """
    _sized("x", x, L1)
    _sized("y", y, L2)
    lead = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    z = [x.new_zeros(*lead, 2 * degree + 1) for degree in range(Lo + 1)]
    for path in paths(L1, L2, Lo) if weights is None else weights:
        l1, l2, l3 = path
        product = torch.einsum(
            "...i,...j,ijk->...k", x[..., block(l1)], y[..., block(l2)], o3.wigner_3j(*path, dtype=x.dtype)
        )
        z[l3] = z[l3] + (1.0 if weights is None else weights[path]) * product
    return torch.cat(z, dim=-1)


def rotate(x: Tensor, R: Tensor) -> Tensor:
    """Coefficients of the turned function, ``f(R^-1 p)``: (..., (L+1)^2) for R (3, 3) in O(3).

    By Wigner D matrices from e3nn's generators; degree l has the parity (-1)^l. Raises ``ValueError`` for R
    not orthogonal.
    """
    L = _degree_of("x", x)
    if R.shape != (3, 3) or not torch.allclose(R @ R.T, torch.eye(3, dtype=R.dtype), atol=1e-5):
        raise ValueError(f"R must be an orthogonal 3 x 3 matrix, got {R.tolist()}")
    entries = tuple(R.double().flatten().tolist())
    matrices = [_turn(degree, entries).to(x) for degree in range(L + 1)]
    return torch.cat([x[..., block(degree)] @ D.T for degree, D in enumerate(matrices)], dim=-1)


# Making them costs more than all else in a check of equivariance, which asks for the same ones many times.
@lru_cache(maxsize=1024)
def _turn(degree: int, entries: tuple[float, ...]) -> Tensor:
    """The Wigner D matrix of one degree for the nine entries of an orthogonal matrix, float64.

    From e3nn's generators and the rotation vector: e3nn's own ``wigner_D`` is off by up to 1e-10 for some
    angles, where ``torch.matrix_exp`` is, and near a pole, where it takes an angle from its cosine.
    """
    with _default_float64():
        generators = o3.so3_generators(degree).numpy()
    R = np.array(entries).reshape(3, 3)
    sign = np.sign(np.linalg.det(R))
    vector = Rotation.from_matrix(sign * R).as_rotvec()
    return torch.from_numpy(sign**degree * expm(np.tensordot(vector, generators, 1)))


def equivariance_error(product: Product, x: Tensor, y: Tensor, R: Tensor) -> float:
    """How much turning before differs from turning after: norm of the difference over that of the product."""
    z = product(x, y)
    return float((product(rotate(x, R), rotate(y, R)) - rotate(z, R)).norm() / z.norm())


def invariants(product: Product, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Invariants of three operands, one for each triple of degrees: three times (n, (L+1)^2) -> (n, (L+1)^3).

    The degrees of x and y are coupled pair by pair by ``product``, (L, L) -> L, and its degrees contracted
    with those of z. Triples that the product does not couple stay 0.
    """
    degree, _ = _orders(_degree_of("x", x))
    apart = (degree == torch.arange(int(degree[-1]) + 1)[:, None]).to(x)
    pairs = product((x[:, None] * apart)[:, :, None], (y[:, None] * apart)[:, None])
    return ((pairs * z[:, None, None]) @ apart.T).flatten(1)


# --- the Fourier route ------------------------------------------------------------------------------------


def sh_to_fourier(x: Tensor, n: int) -> Tensor:
    """Fourier coefficients of the function on the torus: (..., (L+1)^2) -> (..., n, L+1), complex.

    Entry (u, v) belongs to ``exp(i (u theta + v phi))``; u is kept modulo n, and only v >= 0, since the
    function is real. Raises ``ValueError`` if n < 2L + 1 frequencies do not hold degree L.
    """
    L = _degree_of("x", x)
    if n < 2 * L + 1:
        raise ValueError(f"n must be >= {2 * L + 1} for degree {L}, got {n}")
    series, (index, scale) = _series(L).to(x), _half(L)
    half = x[..., index] * scale.to(x)  # (..., m, l, re and im)
    # A batch of matrix products, one for each order m; (u, l) times (l, batch).
    columns = torch.einsum("mul,...mlc->...umc", series, half)
    spectrum = torch.view_as_complex(columns.contiguous())
    gap = spectrum.new_zeros(*x.shape[:-1], n - 2 * L - 1, L + 1)
    return torch.cat([spectrum[..., : L + 1, :], gap, spectrum[..., L + 1 :, :]], dim=-2)


def multiply(first: Tensor, second: Tensor) -> Tensor:
    """Circular convolution of half spectra (..., n, k) by FFT: (..., n, n // 2 + 1), complex.

    It is the linear one, and the functions' product, if n is at least twice the sum of the degrees plus 1.
    Raises ``ValueError`` for different n.
    """
    n = first.shape[-2]
    if second.shape[-2] != n:
        raise ValueError(f"spectra must share n, got {n} and {second.shape[-2]}")
    f, g = (torch.fft.irfft2(spectrum, s=(n, n), norm="forward") for spectrum in (first, second))
    return torch.fft.rfft2(f * g, norm="forward")


def convolve(first: Tensor, second: Tensor) -> Tensor:
    """What ``multiply`` does, summed term by term without an FFT: (..., n, k) twice -> (..., n, n // 2 + 1).

    Only the first operand's own 2 k - 1 frequencies along each axis enter the sum. Raises ``ValueError`` for
    different n.
    """
    n, k = first.shape[-2:]
    if second.shape[-2] != n:
        raise ValueError(f"spectra must share n, got {n} and {second.shape[-2]}")
    u, v = torch.arange(n)[:, None], torch.arange(n // 2 + 1)
    a, b = (grid.flatten() for grid in torch.meshgrid(*2 * [torch.arange(1 - k, k)], indexing="ij"))
    terms = _whole(second)[..., (u[..., None] - a) % n, (v[..., None] - b) % n]
    return (terms @ _whole(first)[..., a % n, b % n][..., None, :, None])[..., 0]


def _whole(half: Tensor) -> Tensor:
    """All n x n coefficients of a real function from those with v >= 0: (..., n, k) -> (..., n, n)."""
    n, k = half.shape[-2:]
    mirrored = half[..., 1:].conj().flip(-2, -1).roll(1, -2)  # (-u, -v) has the conjugate
    # Where the half holds more orders than a grid of n needs, v and v - n are one column.
    return torch.cat([half, half.new_zeros(*half.shape[:-1], max(n - 2 * k + 1, 0)), mirrored], -1)[..., :n]


def fourier_to_sh(spectrum: Tensor, Lo: int) -> Tensor:
    """Harmonic coefficients up to degree Lo of a function on the torus: (..., n, k > Lo) -> (..., (Lo+1)^2).

    The integral over the sphere of each harmonic with each Fourier function; higher degrees are cut off.
    """
    n, k = spectrum.shape[-2:]
    if not 0 <= Lo < k:
        raise ValueError(f"Lo must be in 0..{k - 1} for {k} orders, got {Lo}")
    parts = torch.view_as_real(spectrum[..., : Lo + 1])
    half = torch.einsum("mlu,...umc->...mlc", _integrals(Lo, n).to(parts), parts)
    entry, factor = _back(Lo)
    return half.flatten(-3)[..., entry] * factor.to(parts)


class GauntTP:
    """The Gaunt tensor product of degrees L1 and L2, up to degree Lo, by the Fourier route.

    ``weights``: three tensors of one factor a degree, (L1+1,), (L2+1,), (Lo+1,), for the operands and the
    result; more, such as one a path, would not be a product of functions. ``grid``: points around each circle
    of the torus; below 2 (L1 + L2) + 1 the convolution is circular and high frequencies fold onto low ones.
    Raises ``ValueError`` for degrees < 0, Lo > L1 + L2, weights of another shape, or a grid too small for
    either operand or the result.
    """

    def __init__(self, L1: int, L2: int, Lo: int, weights: Weights | None = None, grid: int | None = None):
        _degree("L1", L1)
        _degree("L2", L2)
        if not 0 <= Lo <= L1 + L2:
            raise ValueError(f"Lo must be in 0..{L1 + L2}, the degrees of the product, got {Lo}")
        smallest = 2 * max(L1, L2, Lo) + 1
        if grid is not None and grid < smallest:
            raise ValueError(f"grid must be >= {smallest}, got {grid}")
        if weights is not None:
            shapes, wanted = [tuple(w.shape) for w in weights], [(L1 + 1,), (L2 + 1,), (Lo + 1,)]
            if shapes != wanted:
                raise ValueError(f"weights must have shapes {wanted}, got {shapes}")
        self.degrees = (L1, L2, Lo)
        self.weights = weights
        self.n = grid or fast_length(L1 + L2)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(..., (L1+1)^2), (..., (L2+1)^2) -> (..., (Lo+1)^2); leading dimensions are broadcast."""
        L1, L2, Lo = self.degrees
        _sized("x", x, L1)
        _sized("y", y, L2)
        if self.weights is not None:
            x, y = scale_degrees(x, self.weights[0]), scale_degrees(y, self.weights[1])
        z = fourier_to_sh(multiply(sh_to_fourier(x, self.n), sh_to_fourier(y, self.n)), Lo)
        return z if self.weights is None else scale_degrees(z, self.weights[2])


def gaunt_many_body(x: Tensor, nu: int, Lo: int) -> Tensor:
    """nu-fold product of x (..., (L+1)^2) with itself, up to degree Lo: (..., (Lo+1)^2).

    All operands stay on one grid that holds nu L; only the result is converted.
    Raises ``ValueError`` for nu < 1 or Lo > nu L.
    """
    L = _degree_of("x", x)
    if nu < 1:
        raise ValueError(f"nu, the number of operands, must be >= 1, got {nu}")
    if not 0 <= Lo <= nu * L:
        raise ValueError(f"Lo must be in 0..{nu * L}, the degrees of the product, got {Lo}")
    n = fast_length(nu * L)
    grid = torch.fft.irfft2(sh_to_fourier(x, n), s=(n, n), norm="forward")
    return fourier_to_sh(torch.fft.rfft2(grid**nu, norm="forward"), Lo)


def scale_degrees(x: Tensor, weights: Tensor) -> Tensor:
    """x (..., (L+1)^2) with all orders of degree l times ``weights[l]``, (L+1,)."""
    return x * weights.repeat_interleave(2 * torch.arange(len(weights)) + 1)


def fast_length(degree: int) -> int:
    """Smallest number of points >= 2 degree + 1 around a circle with prime factors up to 5."""
    return next_fast_len(2 * degree + 1, real=True)


# --- what it costs ----------------------------------------------------------------------------------------


def multiplications(product: Product, *operands: Tensor) -> int:
    """Real multiplications that ``product(*operands)`` carries out; operands on the meta device cost no time.

    Counted while it runs: matrix products and pointwise products, a complex one as four real ones, and FFTs
    by Cooley and Tukey, ``n (p - 1)`` complex multiplications for each prime factor p of a length n, twiddle
    factors among them, half as many where one side is real. A first run, not counted, makes the tables.
    """
    product(*operands)
    with _Multiplications() as counter:
        product(*operands)
    return counter.total


class _Multiplications(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.total += out.numel() * args[0].shape[-1] * (4 if out.is_complex() else 1)
        elif name == "mul":
            self.total += out.numel() * (4 if out.is_complex() else 1)
        elif name in ("_fft_c2c", "_fft_c2r", "_fft_r2c"):
            larger = max(args[0].numel(), out.numel())
            lengths = [out.shape[axis] if name == "_fft_c2r" else args[0].shape[axis] for axis in args[1]]
            steps = sum(p - 1 for n in lengths for p in _primes(n))
            self.total += 4 * larger * steps // (1 if name == "_fft_c2c" else 2)
        return out


def op_count(L: int, method: Method) -> int:
    """Real multiplications of a full product, degrees L, L -> 2L, for one pair of operands.

    ``paths``: the outer product and a contraction with the blocks that the triangle rule allows. ``sparse``:
    two for each Gaunt coefficient that the selection rules leave. Raises ``ValueError`` for another method or
    L < 0.
    """
    _degree("L", L)
    if method == "paths":
        return (L + 1) ** 4 + sum(math.prod(2 * n + 1 for n in path) for path in paths(L, L, 2 * L))
    if method == "sparse":
        return 2 * sum(_allowed(*path) for path in paths(L, L, 2 * L))
    raise ValueError(f"method must be paths or sparse, got {method!r}")


@cache
def _allowed(l1: int, l2: int, l3: int) -> int:
    """Coefficients of a path that the selection rules do not put to zero.

    Even sum of degrees; |m3| is the sum or the difference of |m1| and |m2|; an even number of sines.
    """
    if (l1 + l2 + l3) % 2:
        return 0
    m1, m2 = np.arange(-l1, l1 + 1)[:, None], np.arange(-l2, l2 + 1)[None]
    total, difference = abs(m1) + abs(m2), abs(abs(m1) - abs(m2))
    sine = (m1 < 0) != (m2 < 0)
    distinct = (m1 != 0) & (m2 != 0)
    apart = distinct & (difference <= l3) & ~(sine & (difference == 0))
    return int((total <= l3).sum() + apart.sum())


def _primes(n: int) -> list[int]:
    factors, p = [], 2
    while n > 1:
        while n % p == 0:
            factors.append(p)
            n //= p
        p += 1
    return factors


# --- a network on invariants ------------------------------------------------------------------------------


class Clusters(NamedTuple):
    """Atoms of three kinds in random directions from a centre, and the energies of the clusters."""

    directions: Tensor
    """Unit vectors, (3, n, atoms, 3), float64."""
    energies: Tensor
    """Mean solid angle of all triangles with a corner of each kind, (n,), in steradian."""


def clusters(n: int, atoms: int, generator: torch.Generator) -> Clusters:
    """n clusters with this many atoms of each of three kinds, uniform on the sphere.

    The solid angle of a triangle needs its three corners at once, does not change in a mirror, and is no
    polynomial, so that no set of degrees holds it exactly. Raises ``ValueError`` for n or atoms < 1.
    """
    if n < 1 or atoms < 1:
        raise ValueError(f"n and atoms must be >= 1, got {n} and {atoms}")
    points = torch.randn(3, n, atoms, 3, dtype=torch.float64, generator=generator)
    points = points / points.norm(dim=-1, keepdim=True)
    a, b, c = points[0][:, :, None, None], points[1][:, None, :, None], points[2][:, None, None]
    return Clusters(points, solid_angle(a, b, c).mean((1, 2, 3)))


def solid_angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Solid angle, 0 to 2 pi, of the triangle of three unit vectors (..., 3), broadcast: (...).

    By Van Oosterom and Strackee (1983), ``tan(angle / 2) = |a . b x c| / (1 + a . b + b . c + c . a)``.
    """
    a, b, c = torch.broadcast_tensors(a, b, c)
    volume = (a * torch.linalg.cross(b, c)).sum(-1).abs()
    return 2 * torch.atan2(volume, 1 + (a * b + b * c + c * a).sum(-1))


def density(L: int, directions: Tensor) -> Tensor:
    """Harmonics up to degree L, summed over atoms: (..., atoms, 3) -> (..., (L+1)^2)."""
    return real_sh(L, directions.reshape(-1, 3)).unflatten(0, directions.shape[:-1]).sum(-2)


class InvariantNet(nn.Module):
    """Channels of weighted invariants, then two layers: (n, inputs) -> (n,).

    A channel has a weight for each input, as Clebsch-Gordan products allow for their paths. With
    ``separable`` the inputs are (L+1)^3 triples of degrees, and a channel has one weight a degree for each
    operand and for the result, 3 (L+1), as the Fourier route does. Either way the channel is what the product
    of weighted operands gives: an invariant is linear in each of its operands.
    Raises ``ValueError`` for separable inputs whose number is no cube.
    """

    def __init__(self, inputs: int, separable: bool = False, channels: int = 16, hidden: int = 32):
        super().__init__()
        side = round(inputs ** (1 / 3))
        if separable and side**3 != inputs:
            raise ValueError(f"separable inputs must be triples of degrees, (L+1)^3, got {inputs}")
        self.separable = separable
        self.weight = nn.Parameter(torch.randn((3, side, channels) if separable else (inputs, channels)))
        self.head = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Inputs of about unit variance, triples in the order of ``invariants``."""
        weight: Tensor = self.weight
        if self.separable:
            weight = torch.einsum("ac,bc,dc->abdc", *weight.unbind()).flatten(0, 2)
        return self.head(x @ weight / len(weight) ** 0.5)[:, 0]


# --- tables -----------------------------------------------------------------------------------------------


@contextmanager
def _default_float64() -> Iterator[None]:
    """Within the block torch makes float64 tensors: e3nn's generators follow that, not their argument."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@cache
def _series(L: int) -> Tensor:
    """Cosine (even m) or sine (odd m) coefficients in theta of each harmonic: (m, u, l), u in FFT order."""
    theta = 2 * math.pi * torch.arange(2 * L + 1, dtype=torch.float64) / (2 * L + 1)
    polar = _legendre(L, theta.cos()) * theta.sin() ** torch.arange(L + 1)[:, None, None]
    angles = _frequencies(2 * L + 1)[:, None] * theta
    waves = torch.stack([angles.sin() if m % 2 else angles.cos() for m in range(L + 1)])
    return torch.einsum("mup,mlp->mul", waves, polar) / len(theta)


@cache
def _integrals(Lo: int, n: int) -> Tensor:
    """Integral over theta in 0..pi of harmonic, cosine or sine of u theta, and sin theta: (m, l, u)."""
    # A product of two cosines or sines is two cosines, of the difference and of the sum of the frequencies.
    u, other = _frequencies(n)[:, None], _frequencies(2 * Lo + 1)
    difference, total = _cosine_integral(u - other), _cosine_integral(u + other)
    pairs = [(difference - total if m % 2 else difference + total) / 2 for m in range(Lo + 1)]
    return torch.einsum("muk,mkl->mlu", torch.stack(pairs), _series(Lo))


def _cosine_integral(k: Tensor) -> Tensor:
    """Integral of cos(k theta) sin(theta) over 0..pi: 2 / (1 - k^2) for an even integer k, else 0."""
    return torch.where(k % 2 == 0, 2 / (1 - k**2), 0.0)


def _frequencies(n: int) -> Tensor:
    """The n integer frequencies in FFT order, float64."""
    return torch.fft.ifftshift(torch.arange(n, dtype=torch.float64) - n // 2)


@cache
def _half(L: int) -> tuple[Tensor, Tensor]:
    """Which coefficient is real and which imaginary part of order v = m >= 0: index and factor, (m, l, 2).

    At v = m, sqrt(2) cos(m phi) has the coefficient sqrt(1/2) and sqrt(2) sin(m phi) the same times -i; an
    odd order's sine series in theta brings another -i.
    """
    index = torch.zeros(L + 1, L + 1, 2, dtype=torch.long)
    scale = torch.zeros(L + 1, L + 1, 2, dtype=torch.float64)
    for m in range(L + 1):
        for degree in range(m, L + 1):
            middle = degree * (degree + 1)
            index[m, degree] = torch.tensor([middle - m, middle + m] if m % 2 else [middle + m, middle - m])
            scale[m, degree] = torch.tensor([1.0, 0.0] if m == 0 else [-1.0, -1.0] if m % 2 else [1.0, -1.0])
    return index, scale / _fold(torch.arange(L + 1))[:, None, None]


@cache
def _back(Lo: int) -> tuple[Tensor, Tensor]:
    """Where ``_half`` put each coefficient, (m, l, 2) flattened, and the factor to read it: ((Lo+1)^2,)."""
    degree, order = _orders(Lo)
    index, scale = _half(Lo)
    m = order.abs()
    part = (index[m, degree] == torch.arange(len(order))[:, None]).long().argmax(1)
    factor = 2 * math.pi * _fold(order) * scale[m, degree, part].sign()
    return (m * (Lo + 1) + degree) * 2 + part, factor


def _fold(order: Tensor) -> Tensor:
    """sqrt(2), the norm of a sine or cosine of an order that is not 0, else 1; float64."""
    return torch.where(order == 0, 1.0, 2.0).double().sqrt()


def block(degree: int) -> slice:
    """Where the orders of a degree lie in the flat index."""
    return slice(degree**2, (degree + 1) ** 2)


def _degree(name: str, L: int) -> int:
    if L < 0:
        raise ValueError(f"{name} must be a degree >= 0, got {L}")
    return L


def _degree_of(name: str, x: Tensor) -> int:
    L = math.isqrt(x.shape[-1]) - 1
    if L < 0 or x.shape[-1] != (L + 1) ** 2:
        raise ValueError(f"{name} must be (..., (L+1)^2) with L >= 0, got {tuple(x.shape)}")
    return L


def _sized(name: str, x: Tensor, L: int) -> None:
    if x.shape[-1] != (L + 1) ** 2:
        raise ValueError(f"{name} must be (..., {(L + 1) ** 2}) for degree {L}, got {tuple(x.shape)}")
