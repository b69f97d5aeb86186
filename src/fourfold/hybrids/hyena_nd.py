"""Hyena N-D: gates and an implicit convolution as large as the grid in the place of attention.

Zimerman and Wolf, "Multi-Dimensional Hyena for Spatial Inductive Bias", arXiv 2309.13600, AISTATS 2024. Sizes
and details were read in the official repository (Itamarzimm/HyenaND); the code here is written anew.

Implemented, for images (two axes): the implicit filters, two-dimensional and as a product of two
one-dimensional ones, with their window; the long convolution by FFT; the layer of any order in one, two and
four directions; and small vision transformers of it, of attention, of both, and of what they are held
against.

Departures. The repository divides the spectrum of the kernel by the size of the FFT and leaves that factor
in, so its kernels start 2 g times as small; ``kernel_scale`` has it. Its four-direction layer flips tokens,
here kernels are flipped, which is the same; at order 2 the flipped kernels add up to one (a test holds it to
the flips). Its variants with channels of their own for each direction are left out, as are dropout,
stochastic depth, and learned windows.

Tokens are (batch, g * g, dim), row by row; maps are (batch, dim, g, g).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from fourfold import checks
from fourfold.attention import EPS, MLP, Attention

Kind = Literal["2d", "product", "explicit", "zero"]
"""A long filter: implicit over the grid, a product of implicit ones, every value a weight, or none."""

Mode = Literal["forward", "backward", "4dir"]
"""What an output sees: what is above and left of it, below and right, or all four quadrants."""

Readout = Literal["mean", "first", "last"]
"""Which token tells the class: the mean of all, the upper left one, or the lower right one."""

Family = Literal["diagonals", "random", "blobs"]
"""Kernels to fit: thin lines, no structure, smooth and oriented."""

INNER = 2
"""Layers of the filter's MLP between its first and its last, as in the repository."""

FAST, SLOW, TARGET = 0.3, 1.5, 1e-2
"""The windows decay to ``TARGET`` within these parts of the grid, in the last and the first channel."""


# --- the implicit filter ----------------------------------------------------------------------------------


def axis_features(size: int, emb: int = 3) -> Tensor:
    """What the filter's MLP is told of each position of an axis: (size, emb).

    The position from 0 to 1, then cosines and negative sines of (emb - 1)/2 frequencies, spread evenly from
    1e-4 to (emb - 1)/2 - 1 cycles of the axis. With ``emb`` = 3 there is one, and its waves are constant.
    Raises ``ValueError`` unless ``emb`` is odd and at least 3.
    """
    checks.at_least(1, size=size)
    if emb < 3 or emb % 2 == 0:
        raise ValueError(f"emb must be odd and >= 3, got {emb}")
    bands = (emb - 1) // 2
    phase = 2 * math.pi / size * torch.arange(size)[:, None] * torch.linspace(1e-4, bands - 1, bands)
    return torch.cat([torch.linspace(0, 1, size)[:, None], phase.cos(), -phase.sin()], 1)


def on_grid(features: Tensor) -> Tensor:
    """Features of an axis (g, emb) -> of every cell, (g, g, 2 emb): its row's, then its column's."""
    size = len(features)
    rows = features[:, None].expand(-1, size, -1)
    columns = features[None].expand(size, -1, -1)
    return torch.cat([rows, columns], -1)


def decay(dim: int, size: int) -> Tensor:
    """The window along one axis, (dim, size): an exponential for each channel, slower in the first."""
    rates = torch.linspace(math.log(TARGET) / SLOW, math.log(TARGET) / FAST, dim)
    return torch.exp(rates[:, None] * torch.linspace(0, 1, size))


class FilterMLP(nn.Module):
    """Values of kernels from features of a position, through sines of one shared vector of frequencies.

    The frequencies, one for each of ``width`` features, are learned and start at 1. The last layer has no
    bias.
    """

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        widths = [inputs] + [width] * (INNER + 1)
        self.inner = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.frequency = nn.Parameter(torch.ones(width))
        self.last = nn.Linear(width, outputs, bias=False)

    def hidden(self, x: Tensor) -> Tensor:
        """(..., inputs) -> what enters the last layer, (..., width)."""
        for layer in self.inner:
            x = torch.sin(self.frequency * layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.last(self.hidden(x))


class ImplicitFilter2d(nn.Module):
    """Kernels that an MLP computes from the position, one a channel.

    ``kind``: ``"2d"``, an MLP of both positions of a cell; ``"product"``, one of its row times one of its
    column; ``"explicit"``, a normally distributed weight for every cell. ``window``: whether kernels decay.
    The features of positions are learned, as in the repository. Raises ``ValueError`` for an unknown kind
    and sizes below 1.
    """

    window: Tensor

    def __init__(
        self, dim: int, grid: int, kind: Kind = "2d", width: int = 16, emb: int = 3, window: bool = True
    ):
        super().__init__()
        checks.one_of(get_args(Kind)[:3], kind=kind)
        checks.at_least(1, dim=dim, grid=grid, width=width)
        self.kind = kind
        along = decay(dim, grid) if window else torch.ones(dim, grid)
        self.register_buffer("window", along[:, :, None] * along[:, None], persistent=False)
        if kind == "explicit":
            self.weight = nn.Parameter(torch.randn(dim, grid, grid))
            return
        self.features = nn.Parameter(axis_features(grid, emb))
        parts = 1 if kind == "2d" else 2
        self.mlps = nn.ModuleList(FilterMLP(2 * emb // parts, width, dim) for _ in range(parts))

    def kernel(self) -> Tensor:
        """The kernels, (dim, grid, grid)."""
        if self.kind == "explicit":
            k = self.weight
        elif self.kind == "2d":
            k = self.mlps[0](on_grid(self.features)).movedim(-1, 0)
        else:
            rows, columns = (mlp(self.features).mT for mlp in self.mlps)
            k = rows[:, :, None] * columns[:, None]
        return k * self.window


# --- the long convolution ---------------------------------------------------------------------------------


def fft_convolve(u: Tensor, kernel: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:
    """``y[i, j] = sum over (a, b) of kernel[a, b] u[i + oy - a, j + ox - b]``, zero outside, by FFT.

    ``u``: (..., dim, h, w). ``kernel``: (dim, up to 2h - 1, up to 2w - 1). An FFT of twice the size of the
    grid leaves room enough that nothing wraps around into what is cut out.
    """
    h, w = u.shape[-2:]
    size = (2 * h, 2 * w)
    y = torch.fft.irfft2(torch.fft.rfft2(u, s=size) * torch.fft.rfft2(kernel, s=size), s=size)
    return y[..., origin[0] : origin[0] + h, origin[1] : origin[1] + w]


def fftconv2d(u: Tensor, k: Tensor, d: Tensor) -> Tensor:
    """The long convolution in one direction, and a skip: ``k * u + d u``, zero outside the grid.

    ``u``: (batch, dim, g, g); ``k``: (dim, g, g); ``d``: (dim,). Output (i, j) sees only (i' <= i, j' <= j).
    """
    return fft_convolve(u, k) + d[:, None, None] * u


def flips(mode: Mode) -> list[tuple[int, ...]]:
    """The axes along which each direction of a mode mirrors the kernel."""
    checks.one_of(get_args(Mode), mode=mode)
    of_mode: dict[Mode, list[tuple[int, ...]]] = {
        "forward": [()],
        "backward": [(-2, -1)],
        "4dir": [(), (-2, -1), (-1,), (-2,)],
    }
    return of_mode[mode]


def composite(k: Tensor, d: Tensor, axes: Sequence[tuple[int, ...]], weights: Tensor) -> Tensor:
    """The one kernel that flipped copies of ``k`` (dim, g, g) and the skips ``d`` (dim,) add up to.

    ``weights``: one for each direction. Returns (dim, 2g - 1, 2g - 1), its origin in the middle.
    """
    g = k.shape[-1]
    at_origin = torch.nn.functional.pad(k, (g - 1, 0, g - 1, 0))
    skip = torch.nn.functional.pad(d[:, None, None], (g - 1,) * 4)
    return sum(w * (at_origin.flip(a) + skip) for a, w in zip(axes, weights, strict=True))


class HyenaND(nn.Module):
    """Gates and long convolutions in place of attention; the Hyena recurrence of any order, over a grid.

    Linear to (order + 1) times the channels, a depthwise 3 x 3 convolution, then by turns a gate and a long
    convolution, the last gate without one, and a linear layer. In four directions the outputs of all are
    added with learned weights, the same for all channels. ``filter="zero"`` leaves the convolutions out, but
    not their skips. Raises ``ValueError`` for an order below 2 and for an unknown mode or filter.
    """

    def __init__(
        self,
        dim: int,
        grid: int,
        order: int = 2,
        mode: Mode = "4dir",
        filter: Kind = "2d",
        width: int = 16,
        emb: int = 3,
        kernel_scale: float = 1.0,
    ):
        super().__init__()
        checks.at_least(2, order=order)
        checks.one_of(get_args(Kind), filter=filter)
        self.grid, self.axes, self.kernel_scale = grid, flips(mode), kernel_scale
        self.enter = nn.Linear(dim, (order + 1) * dim)
        self.short = nn.Conv2d((order + 1) * dim, (order + 1) * dim, 3, padding=1, groups=(order + 1) * dim)
        kernels = (order - 1) * dim
        self.filter = None if filter == "zero" else ImplicitFilter2d(kernels, grid, filter, width, emb)
        self.skip = nn.Parameter(torch.randn(order - 1, dim))
        self.mix = nn.Linear(4, 1) if mode == "4dir" else None
        self.out = nn.Linear(dim, dim)

    def directions(self) -> tuple[Tensor, Tensor | float]:
        """Weights of the directions, (directions,), and what is added to their sum."""
        if self.mix is None:
            return self.skip.new_ones(1), 0.0
        return self.mix.weight[0], self.mix.bias

    def kernels(self) -> Tensor:
        """Kernels of all convolutions: (order - 1, dim, g, g)."""
        if self.filter is None:
            return self.skip.new_zeros(*self.skip.shape, self.grid, self.grid)
        return self.kernel_scale * self.filter.kernel().unflatten(0, self.skip.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, g * g, dim) -> the same shape. Raises ``ValueError`` for another number of tokens."""
        g = self.grid
        if x.shape[-2] != g**2:
            raise ValueError(f"tokens must be grid^2 = {g**2}, got {x.shape[-2]}")
        maps = self.short(rearrange(self.enter(x), "b (h w) c -> b c h w", h=g))
        last, *gates, v = maps.chunk(len(self.skip) + 2, -3)
        weights, bias = self.directions()
        if len(gates) == 1:
            y = last * self.long(gates[0] * v, 0, self.axes, weights) + bias
        else:
            y = bias
            for axes, weight in zip(self.axes, weights, strict=True):
                z = v
                for i, gate in enumerate(reversed(gates)):
                    z = self.long(gate * z, i, [axes], weights.new_ones(1))
                y = y + weight * last * z
        return self.out(rearrange(y, "b c h w -> b (h w) c"))

    def long(self, z: Tensor, i: int, axes: Sequence[tuple[int, ...]], weights: Tensor) -> Tensor:
        """The i-th convolution and skip, in some directions at once: (batch, dim, g, g) -> the same shape."""
        skip = self.skip[i]
        if self.filter is None:
            return weights.sum() * skip[:, None, None] * z
        kernel = composite(self.kernels()[i], skip, axes, weights)
        return fft_convolve(z, kernel, (self.grid - 1, self.grid - 1))


def by_flips(layer: HyenaND, x: Tensor) -> Tensor:
    """What a layer of order 2 says, as the repository computes it: flip the tokens, convolve, flip back.

    (batch, g * g, dim) -> the same shape. Slower; the layer itself flips kernels.
    """
    maps = layer.short(rearrange(layer.enter(x), "b (h w) c -> b c h w", h=layer.grid))
    last, gate, v = maps.chunk(3, 1)
    weights, bias = layer.directions()
    y = torch.zeros_like(v) + bias
    for axes, weight in zip(layer.axes, weights, strict=True):
        z = fftconv2d((gate * v).flip(axes), layer.kernels()[0], layer.skip[0])
        y = y + weight * (last.flip(axes) * z).flip(axes)
    return layer.out(rearrange(y, "b c h w -> b (h w) c"))


# --- what it is held against ------------------------------------------------------------------------------


class MSA(Attention):
    """Multi-head self-attention between all tokens, its maps left out."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(batch, tokens, dim) -> the same shape."""
        return super().forward(x)[0]


class Convolution(nn.Module):
    """A depthwise 3 x 3 convolution of the grid of tokens and nothing else."""

    def __init__(self, dim: int, grid: int):
        super().__init__()
        self.grid = grid
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, g * g, dim) -> the same shape."""
        maps = rearrange(x, "b (h w) c -> b c h w", h=self.grid)
        return rearrange(self.local(maps), "b c h w -> b (h w) c")


class MixerBlock(nn.Module):
    """``x + mixer(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, dim: int, mixer: nn.Module, mlp_ratio: int = 2):
        super().__init__()
        self.norm_mixer, self.norm_mlp = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.mixer, self.mlp = mixer, MLP(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> the same shape."""
        x = x + self.mixer(self.norm_mixer(x))
        return x + self.mlp(self.norm_mlp(x))


class TinyViT(nn.Module):
    """A vision transformer whose blocks mix tokens by what ``mixers`` make, one a block, and read linearly.

    ``embed`` makes tokens of what comes in, ``patches`` for images. No class token, as in the repository,
    which reads the class from the first one. Raises ``ValueError`` for no blocks or an unknown readout.
    """

    def __init__(
        self,
        mixers: Sequence[Callable[[], nn.Module]],
        embed: nn.Module,
        dim: int,
        tokens: int,
        classes: int,
        readout: Readout = "mean",
    ):
        super().__init__()
        checks.at_least(1, blocks=len(mixers), classes=classes)
        checks.one_of(get_args(Readout), readout=readout)
        self.embed, self.readout = embed, readout
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.blocks = nn.ModuleList(MixerBlock(dim, make()) for make in mixers)
        self.norm, self.head = nn.LayerNorm(dim, EPS), nn.Linear(dim, classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Tokens before the first block and after each: (batch, tokens, dim) each."""
        found = [self.embed(x) + self.positions]
        for block in self.blocks:
            found.append(block(found[-1]))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """What ``embed`` takes -> logits (batch, classes)."""
        tokens = self.norm(self.features(x)[-1])
        read = {"mean": tokens.mean(-2), "first": tokens[..., 0, :], "last": tokens[..., -1, :]}
        return self.head(read[self.readout])


def hybrid(first: str, later: str, depth: int) -> list[str]:
    """The repository's rule: one mixer up to block depth // 2, counted from 0, the other after it."""
    return [first if block <= depth // 2 else later for block in range(depth)]


# --- fits of kernels --------------------------------------------------------------------------------------


def kernels_to_fit(family: Family, dim: int, size: int, generator: torch.Generator) -> Tensor:
    """Kernels (dim, size, size): diagonals side by side, normal values, or blobs turned by equal angles.

    A blob is a Gaussian in the middle, 3 cells long and 1 wide in standard deviations. Raises ``ValueError``
    for an unknown family, and for more diagonals than there are.
    """
    checks.one_of(get_args(Family), family=family)
    cells = torch.arange(size)
    if family == "random":
        return torch.randn(dim, size, size, generator=generator)
    if family == "diagonals":
        checks.between(1, 2 * size - 1, "diagonals of the grid", dim=dim)
        offsets = torch.arange(dim)[:, None, None] - dim // 2
        return (cells[:, None] - cells == offsets).float()
    angles = torch.linspace(0, math.pi, dim + 1)[:-1, None, None]
    y, x = (cells - (size - 1) / 2)[:, None], (cells - (size - 1) / 2)[None]
    along, across = x * angles.cos() + y * angles.sin(), y * angles.cos() - x * angles.sin()
    return torch.exp(-(along.square() / 9 + across.square()) / 2)


class Fitted(nn.Module):
    """A filter as a network that is given nothing: ``forward`` returns its kernels, (1, dim, g, g)."""

    def __init__(self, filter: ImplicitFilter2d):
        super().__init__()
        self.filter = filter

    def forward(self, _: Tensor) -> Tensor:
        """Anything -> (1, dim, g, g)."""
        return self.filter.kernel()[None]


def relative_error(kernels: Tensor, targets: Tensor) -> Tensor:
    """Root of the squared error over the targets' own squares: two of (..., dim, g, g) -> (...)."""
    squares = (kernels - targets).square().sum((-3, -2, -1)) / targets.square().sum((-3, -2, -1))
    return squares.sqrt()


def least_of_rivals(targets: Tensor, parameters: int) -> dict[str, float]:
    """Relative errors of the best explicit fits of ``targets`` (dim, g, g) with at least so many parameters.

    ``products``: a sum of products of a row and a column, as many for each kernel. ``basis``: combinations of
    kernels that all share. Both are cut singular value decompositions (Eckart and Young), float64.
    ``cells``: the largest values alone, each with its place, two numbers.
    """
    dim, g, _ = targets.shape
    wide = targets.double()
    each = torch.linalg.svdvals(wide).square().sum(0)
    flat = torch.linalg.svdvals(wide.flatten(1)).square()
    largest = wide.flatten().square().sort(descending=True).values
    # What one more term takes away of the squared error, and its parameters.
    rivals = {"products": (each, 2 * g * dim), "basis": (flat, g**2 + dim), "cells": (largest, 2)}
    return {
        name: float((values[math.ceil(parameters / size) :].sum() / values.sum()).sqrt())
        for name, (values, size) in rivals.items()
    }


def floor(targets: Tensor, width: int) -> float:
    """The least relative error of a filter whose last layer has ``width`` inputs: all kernels share them."""
    squares = torch.linalg.svdvals(targets.double().flatten(1)).square()
    return float((squares[width:].sum() / squares.sum()).sqrt())


def last_layer_error(filter: ImplicitFilter2d, targets: Tensor) -> float:
    """Relative error of the fit of ``targets`` (dim, g, g) by the last layer alone of a 2d filter."""
    (mlp,) = filter.mlps
    assert isinstance(mlp, FilterMLP)  # for mypy: a ModuleList forgets
    with torch.no_grad():
        hidden = mlp.hidden(on_grid(filter.features)).flatten(0, 1).double()
    wanted = targets.double().flatten(1).mT
    fit = hidden @ torch.linalg.lstsq(hidden, wanted, driver="gelsd").solution
    return float((fit - wanted).norm() / wanted.norm())


def outside_corner(kernel: Tensor) -> float:
    """Share of the absolute values of kernels (dim, g, g) beyond the 2 x 2 corner, which a 3 x 3 one sees."""
    values = kernel.abs()
    return float(1 - values[:, :2, :2].sum() / values.sum())


# --- what is measured -------------------------------------------------------------------------------------


def reach(layer: nn.Module, grid: int, i: int, j: int, x: Tensor) -> Tensor:
    """How strongly the output at (i, j) depends on each token of ``x`` (batch, g * g, dim): (g, g).

    The mean over the batch of the gradient's absolute values, summed over the channels of input and output.
    """
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[:, i * grid + j].sum(), x)
    return gradient.abs().sum(-1).mean(0).view(grid, grid)
