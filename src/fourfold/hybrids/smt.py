"""SMT: convolutions that modulate values in early blocks, self-attention in late ones, both in between.

Lin et al., "Scale-Aware Modulation Meet Transformer", arXiv 2307.08579, ICCV 2023. Sizes and details were
read in the official repository (AFeng-x/SMT); the code here is written anew.

Implemented: multi-head mixed convolution and scale-aware aggregation (section 3.1 of the paper), the
modulation that they make together, attention with a convolution of its values beside it, the released
networks and what is in which block of them (section 3.2), counts with and without the products between
tokens, and how far a block reaches.

Departures. No stochastic depth, which only long training uses. Networks may have any number of stages: the
last but one is the mixed stage, the last attends, the others modulate, which are the paper's four.

Maps are (batch, height, width, dim); convolutions see them as (batch, dim, height, width), without a copy.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fourfold import checks, cost

Kind = Literal["sam", "msa"]
"""What mixes tokens in a block: scale-aware modulation or self-attention."""

Strategy = Literal["evolutionary", "all_sam", "all_msa", "half", "reversed"]
"""What is in which block. ``half``: the mixed stage does not alternate; ``reversed``: attention is first."""

Aggregation = Literal["interleaved", "concatenated", "plain"]
"""How heads are fused: as in the paper, without the interleaving, or by one dense 1 x 1 convolution."""

Gate = Literal["product", "sum", "value", "modulator"]
"""What a modulation gives: m * v as in the paper, m + v, v alone (m is 1), or m alone (v is 1)."""

Start = Literal["released", "torch"]
"""Where initial weights come from: the repository's rule, or torch's, which goes by each layer's width."""

EPS = 1e-6
"""Epsilon of the blocks' LayerNorms; stem and transitions keep torch's 1e-5, as in the repository."""


def convolved(convolution: nn.Module, x: Tensor) -> Tensor:
    """A module for (batch, dim, height, width) on a map (batch, height, width, dim)."""
    return convolution(x.movedim(-1, 1)).movedim(1, -1)


# --- scale-aware modulation -------------------------------------------------------------------------------


def kernels_of(heads: int) -> tuple[int, ...]:
    """Sides of the heads' kernels: 3, 5, 7, 9 and so on."""
    return tuple(3 + 2 * head for head in range(heads))


class MultiHeadMixedConv(nn.Module):
    """Each group of channels, a head, has a depthwise convolution with a kernel of its own size (MHMC).

    ``kernels``: their sides, by default 3, 5, 7, 9. Raises ``ValueError`` for heads that do not divide
    ``dim`` and for kernels that are not an odd number for each.
    """

    def __init__(self, dim: int, heads: int = 4, kernels: Sequence[int] | None = None):
        super().__init__()
        checks.divides(dim, "dim", heads=heads)
        kernels = kernels_of(heads) if kernels is None else tuple(kernels)
        if len(kernels) != heads or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels must be {heads} odd numbers >= 1, got {kernels}")
        width = dim // heads
        self.heads = nn.ModuleList(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width) for kernel in kernels
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape, head after head."""
        parts = x.chunk(len(self.heads), 1)
        return torch.cat([head(part) for head, part in zip(self.heads, parts, strict=True)], 1)


def saa_groups(dim: int, heads: int) -> list[list[int]]:
    """Which channels of the heads' output, head after head, each group of the aggregation sees.

    One of every head: ``saa_groups(8, 4)`` is ``[[0, 2, 4, 6], [1, 3, 5, 7]]``. Raises ``ValueError`` unless
    the heads divide the channels.
    """
    checks.divides(dim, "dim", heads=heads)
    width = dim // heads
    return [[head * width + channel for head in range(heads)] for channel in range(width)]


class ScaleAwareAggregation(nn.Module):
    """Fuse heads in small groups that hold one channel of each, then all channels (SAA).

    A grouped 1 x 1 convolution makes ``expand`` times as many channels, a dense one brings them back.
    ``interleave=False`` leaves the channels where they are, so that a group holds neighbours.
    """

    order: Tensor

    def __init__(self, dim: int, heads: int = 4, expand: int = 2, interleave: bool = True):
        super().__init__()
        checks.at_least(1, expand=expand)
        groups = saa_groups(dim, heads)
        order = torch.tensor(groups).flatten() if interleave else torch.arange(dim)
        self.register_buffer("order", order, persistent=False)
        self.narrow = nn.Conv2d(dim, expand * dim, 1, groups=len(groups))
        self.norm, self.activation = nn.BatchNorm2d(expand * dim), nn.GELU()
        self.dense = nn.Conv2d(expand * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width), head after head -> the same shape."""
        return self.dense(self.activation(self.norm(self.narrow(x[:, self.order]))))


class SAM(nn.Module):
    """Scale-aware modulation: values of each token times what convolutions say about its surroundings.

    ``kernels``, ``aggregation`` and ``gate`` are the paper's by default, and other things to hold it against.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        kernels: Sequence[int] | None = None,
        aggregation: Aggregation = "interleaved",
        gate: Gate = "product",
    ):
        super().__init__()
        checks.one_of(get_args(Aggregation), aggregation=aggregation)
        checks.one_of(get_args(Gate), gate=gate)
        self.gate = gate
        if gate != "modulator":
            self.value = nn.Linear(dim, dim)
        if gate != "value":
            self.source = nn.Linear(dim, dim)
            self.mixed = MultiHeadMixedConv(dim, heads, kernels)
            self.fuse = (
                nn.Conv2d(dim, dim, 1)
                if aggregation == "plain"
                else ScaleAwareAggregation(dim, heads, interleave=aggregation == "interleaved")
            )
        self.out = nn.Linear(dim, dim)

    def modulator(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape: what the values are multiplied by."""
        return convolved(self.fuse, convolved(self.mixed, self.source(x)))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape."""
        if self.gate == "value":
            return self.out(self.value(x))
        m = self.modulator(x)
        if self.gate == "modulator":
            return self.out(m)
        v = self.value(x)
        return self.out(m * v if self.gate == "product" else m + v)


# --- attention, blocks ------------------------------------------------------------------------------------


class Products(nn.Module):
    """What attention computes between tokens, in a module of its own so that a count can leave it out."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each (batch, heads, tokens, dim / heads) -> the same shape."""
        return scaled_dot_product_attention(q, k, v)


class LocalGlobalAttention(nn.Module):
    """Attention between all tokens, and a depthwise 3 x 3 convolution of the values added to it.

    Raises ``ValueError`` unless the heads divide ``dim``.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        checks.divides(dim, "dim", heads=heads)
        self.heads = heads
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.products = Products()
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape."""
        k, v = self.key_value(x).chunk(2, -1)
        split = partial(rearrange, pattern="b h w (heads d) -> b heads (h w) d", heads=self.heads)
        mixed = self.products(split(self.query(x)), split(k), split(v))
        everywhere = rearrange(mixed, "b heads (h w) d -> b h w (heads d)", h=x.shape[1])
        return self.out(everywhere + convolved(self.local, v))


class Convolution(nn.Module):
    """The lazy way to mix tokens: linear, depthwise 3 x 3, linear."""

    def __init__(self, dim: int):
        super().__init__()
        self.enter, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape."""
        return self.out(convolved(self.local, self.enter(x)))


class MLP(nn.Module):
    """``dim -> hidden -> dim`` for every token, with a residual depthwise 3 x 3 convolution between.

    ``ratio``: hidden over ``dim``, which need not be whole; hidden is rounded.
    """

    def __init__(self, dim: int, ratio: float):
        super().__init__()
        hidden = round(ratio * dim)
        checks.at_least(1, hidden=hidden)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.local, self.activation = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape."""
        z = self.up(x)
        return self.down(self.activation(z + convolved(self.local, z)))


class SMTBlock(nn.Module):
    """``x + mixer(norm(x))``, then ``x + mlp(norm(x))``.

    ``layer_scale``: where the learned scales of the two branches start, None for none.
    """

    def __init__(self, dim: int, mixer: nn.Module, mlp_ratio: float, layer_scale: float | None = None):
        super().__init__()
        self.norm_mixer, self.norm_mlp = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.mixer, self.mlp = mixer, MLP(dim, mlp_ratio)
        self.scales: nn.ParameterList | None = None
        if layer_scale is not None:
            self.scales = nn.ParameterList(layer_scale * torch.ones(dim) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape."""
        one, two = (1.0, 1.0) if self.scales is None else self.scales
        x = x + one * self.mixer(self.norm_mixer(x))
        return x + two * self.mlp(self.norm_mlp(x))


# --- the networks -----------------------------------------------------------------------------------------


class Spec(NamedTuple):
    """Sizes of a network, stage by stage; ``heads`` are attention's."""

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    heads: tuple[int, ...]
    stem_kernel: int = 3
    patch: int = 2
    """Side and stride of the stem's second convolution, after a first of stride 2."""
    layer_scale: float | None = None


_WIDTHS, _HEADS = (64, 128, 256, 512), (1, 1, 8, 16)
_LARGE = (4, 6, 28, 4)
RELEASED = {
    "T": Spec(_WIDTHS, (2, 2, 8, 1), (4, 4, 4, 2), _HEADS),
    "S": Spec(_WIDTHS, (3, 4, 18, 2), (4, 4, 4, 2), _HEADS),
    "B": Spec(_WIDTHS, (4, 6, 28, 2), (8, 6, 4, 2), _HEADS, stem_kernel=7),
    "L": Spec((96, 192, 384, 768), _LARGE, (8, 6, 4, 2), _HEADS, stem_kernel=7, layer_scale=1e-4),
}
"""The networks of the repository. Where only modulation is, heads of attention are ours: one."""


def kinds(depths: Sequence[int], strategy: Strategy = "evolutionary") -> list[list[Kind]]:
    """What mixes tokens in each block of each stage.

    Evolutionary, as in the paper: modulation, then a stage in which it alternates with attention, then a
    stage of attention. Raises ``ValueError`` for fewer than two stages or an unknown strategy.
    """
    checks.one_of(get_args(Strategy), strategy=strategy)
    checks.at_least(2, stages=len(depths))
    if strategy in ("all_sam", "all_msa"):
        everywhere: Kind = "sam" if strategy == "all_sam" else "msa"
        return [[everywhere] * depth for depth in depths]
    between = depths[-2]
    mixed: list[Kind] = [
        "msa" if (index >= (between + 1) // 2 if strategy == "half" else index % 2) else "sam"
        for index in range(between)
    ]
    # mypy does not carry the literals through the sum.
    stages: list[list[Kind]] = [["sam"] * depth for depth in depths[:-2]] + [mixed, ["msa"] * depths[-1]]  # type: ignore[assignment]
    if strategy != "reversed":
        return stages
    backwards = iter([kind for stage in reversed(stages) for kind in reversed(stage)])
    return [[next(backwards) for _ in range(depth)] for depth in depths]


MIXERS: Mapping[Kind, Callable[[int, int], nn.Module]] = {
    "sam": lambda dim, heads: SAM(dim),
    "msa": LocalGlobalAttention,
}
"""Makes the mixer of a block from its width and the heads of attention in its stage."""


class SMT(nn.Module):
    """Stem, stages of blocks with a LayerNorm after each, and a linear read-out of the mean token.

    ``spec``: a released name or sizes; ``strategy``: what is in which block, by a name or block by block in
    each stage; ``mixers`` replaces the mixers of blocks of a kind. ``start="torch"`` suits narrow networks:
    0.02, as released for linear layers, is far too little where they have few inputs. Raises ``ValueError``
    for an unknown name, sizes that are not one a stage, or kinds that are not one a block.
    """

    def __init__(
        self,
        spec: str | Spec,
        strategy: Strategy | Sequence[Sequence[Kind]] = "evolutionary",
        mixers: Mapping[Kind, Callable[[int, int], nn.Module]] | None = None,
        in_chans: int = 3,
        classes: int = 1000,
        start: Start = "released",
    ):
        super().__init__()
        checks.one_of(get_args(Start), start=start)
        if isinstance(spec, str):
            checks.one_of(RELEASED, spec=spec)
            spec = RELEASED[spec]
        checks.at_least(1, in_chans=in_chans, classes=classes, patch=spec.patch, depth=min(spec.depths))
        sizes = (spec.dims, spec.depths, spec.mlp_ratios, spec.heads)
        if len({len(size) for size in sizes}) != 1:
            raise ValueError(f"dims, depths, mlp_ratios and heads must be one a stage, got {sizes}")
        inside = kinds(spec.depths, strategy) if isinstance(strategy, str) else strategy
        if tuple(map(len, inside)) != tuple(spec.depths):
            raise ValueError(
                f"strategy must have a kind for each block of depths {spec.depths}, got {inside}"
            )
        makers = {**MIXERS, **(mixers or {})}
        self.stem = _Stem(in_chans, spec)
        self.transitions = nn.ModuleList(
            _Transition(narrow, wide) for narrow, wide in zip(spec.dims, spec.dims[1:], strict=False)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(SMTBlock(dim, makers[kind](dim, heads), ratio, spec.layer_scale) for kind in stage),
                nn.LayerNorm(dim, EPS),
            )
            for dim, heads, ratio, stage in zip(spec.dims, spec.heads, spec.mlp_ratios, inside, strict=True)
        )
        self.head = nn.Linear(spec.dims[-1], classes)
        if start == "released":
            self.apply(_start)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_chans, height, width) -> logits (batch, classes)."""
        x = self.stages[0](self.stem(images))
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            x = stage(transition(x))
        return self.head(x.mean((1, 2)))


class _Stem(nn.Module):
    def __init__(self, in_chans: int, spec: Spec):
        super().__init__()
        dim, kernel = spec.dims[0], spec.stem_kernel
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_chans, dim, kernel, 2, kernel // 2, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, spec.patch, spec.patch),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(
            self.convolutions(images.contiguous(memory_format=torch.channels_last)).movedim(1, -1)
        )


class _Transition(nn.Module):
    def __init__(self, narrow: int, wide: int):
        super().__init__()
        self.convolution = nn.Conv2d(narrow, wide, 3, 2, 1)
        self.norm = nn.LayerNorm(wide)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(convolved(self.convolution, x))


def _start(module: nn.Module) -> None:
    """Initial weights as in the repository."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


# --- counts -----------------------------------------------------------------------------------------------


class Count(NamedTuple):
    """Operations of one forward pass, in parts."""

    multiplied: int
    """Multiply-accumulates of layers, without the products between tokens."""
    products: int
    """Multiply-accumulates between tokens: queries with keys, weights with values."""
    small: int
    """What counters add that look at each layer's output: one for a convolution's bias and for an activation,
    two for a BatchNorm."""

    @property
    def whole(self) -> int:
        """All multiply-accumulates."""
        return self.multiplied + self.products

    @property
    def layers(self) -> int:
        """What a counter of layers finds, which sees no products between tokens."""
        return self.multiplied + self.small


def count(model: nn.Module, size: int) -> Count:
    """Operations for an image of ``size`` x ``size`` pixels in three channels.

    Raises ``ValueError`` for a size below 1.
    """
    checks.at_least(1, size=size)
    products: list[int] = []
    small: list[int] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, Products):
            products.append(2 * given[1].shape[-2] * given[0].numel())
        elif isinstance(module, nn.BatchNorm2d):
            small.append(2 * out.numel())
        elif not isinstance(module, nn.Conv2d) or module.bias is not None:
            small.append(out.numel())

    counted = (Products, nn.BatchNorm2d, nn.Conv2d, nn.ReLU, nn.GELU)
    # The hooks go with the twin that is counted.
    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, counted)]
    try:
        whole = cost.macs(model, (1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    return Count(whole - sum(products), sum(products), sum(small))


# --- how far a block reaches ------------------------------------------------------------------------------


def inputs_of(net: SMT, images: Tensor) -> list[Tensor]:
    """What comes into each block of a network, (batch, height, width, dim), in their order."""
    found: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, given: found.append(given[0].detach()))
        for module in net.modules()
        if isinstance(module, SMTBlock)
    ]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def influence(block: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """How much what a block adds to the central token depends on each token, (height, width).

    ``x``: what comes in, (batch, height, width, dim). The squared gradient of a random combination of the
    token's channels, one for each image, summed over channels and images. What the block hands on as it is
    does not count.
    """
    x = x.detach().requires_grad_()
    _, height, width, _ = x.shape
    added = (block(x) - x)[:, height // 2, width // 2]
    mixture = torch.randn(added.shape, generator=generator, dtype=x.dtype)
    (gradient,) = torch.autograd.grad((added * mixture).sum(), x)
    return gradient.square().sum((0, 3))


def reach(energy: Tensor) -> float:
    """How far from the central token the energy (height, width) lies, over the same if it were spread evenly.

    Root mean squares of distances: 0 if all is at the centre, 1 if evenly spread. Raises ``ValueError`` for a
    map of one token or without energy.
    """
    height, width = energy.shape
    if height * width < 2 or not float(energy.sum()) > 0:
        raise ValueError(f"energy must be > 0 on two tokens or more, got {tuple(energy.shape)}")
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    squares = (rows[:, None].square() + columns.square()).to(energy)
    return float(((energy * squares).sum() / energy.sum() / squares.mean()).sqrt())
