"""GLMix: convolution on the pixel grid and self-attention between a few slots, side by side in every block.

Zhu et al., "Revisiting the Integration of Convolution and Attention for Vision Backbone", arXiv 2411.14429,
NeurIPS 2024. Sizes and details were read in the official repository (rayleizhu/GLMix); the code here is
written anew.

Implemented: the pair of soft clustering and dispatching (section 3.2 of the paper), the GLMix block, the
block with attention between all tokens that stands beside it, the released networks, which tokens a slot
takes, and the task of the chapter, in which the label is out of reach of convolution.

Departures. No stochastic depth, and no switch that leaves out the attention between slots, which no released
network uses.

Maps are (batch, dim, height, width), their tokens (batch, height * width, dim), row by row.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, gelu, layer_norm, normalize, one_hot

from fourfold import checks
from fourfold.data.probes import Images
from fourfold.mixers import SelfAttention

SlotInit = Literal["ada_avgpool", "param"]
"""Where the queries of the slots come from: means of the map's parts, or learned, the same for all images."""

Mixing = Literal["glmix", "mhsa", "alternate", "plain_mhsa"]
"""What the blocks of a stage are; ``alternate`` begins with GLMix, ``plain_mhsa`` is a ViT's block."""

EPS = 1e-6
"""LayerNorm's epsilon, as in the repository."""

# --- the pair ---------------------------------------------------------------------------------------------


def soft_cluster(slots0: Tensor, tokens: Tensor, tau: Tensor | float) -> tuple[Tensor, Tensor]:
    """Every slot becomes a mean of the tokens, weighted by how much they look like its query.

    ``slots0``: queries (batch, slots, dim); ``tokens``: (batch, tokens, dim); ``tau``: what a cosine of 1 is
    worth. Returns the slots (batch, slots, dim) and the logits (batch, slots, tokens) that `dispatch` reads
    the other way. Raises ``ValueError`` for shapes that do not fit.
    """
    if slots0.shape[0] != tokens.shape[0] or slots0.shape[-1] != tokens.shape[-1]:
        raise ValueError(
            f"expected slots0 (batch, slots, dim) and tokens (batch, tokens, dim), "
            f"got {tuple(slots0.shape)} and {tuple(tokens.shape)}"
        )
    logits = normalize(slots0, dim=-1) @ (tau * normalize(tokens, dim=-1)).mT
    return logits.softmax(-1) @ tokens, logits


def dispatch(logits: Tensor, slots: Tensor) -> Tensor:
    """Every token gets a mean of the slots, by the logits that clustered it.

    (batch, slots, tokens) and (batch, slots, dim) -> (batch, tokens, dim).
    """
    return logits.softmax(-2).mT @ slots


# --- the block --------------------------------------------------------------------------------------------


class SlotBranch(nn.Module):
    """Cluster the map into slots, let these attend to each other, and dispatch them to the map.

    ``tau`` is learned and starts at ``tau0``, by default ``dim ** -0.5`` as released. Raises ``ValueError``
    for heads that do not divide ``dim``, and for slots pooled from a map that are not a square number.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        num_slots: int = 64,
        slot_init: SlotInit = "ada_avgpool",
        tau0: float | None = None,
    ):
        super().__init__()
        checks.at_least(1, dim=dim, num_slots=num_slots)
        checks.one_of(get_args(SlotInit), slot_init=slot_init)
        checks.finite(above=True, tau0=dim**-0.5 if tau0 is None else tau0)
        self.side = math.isqrt(num_slots)
        if slot_init == "ada_avgpool" and self.side**2 != num_slots:
            raise ValueError(f"num_slots must be a square number if slots are pooled, got {num_slots}")
        self.tau = nn.Parameter(torch.tensor(dim**-0.5 if tau0 is None else tau0))
        self.slots0 = nn.Parameter(0.02 * torch.randn(1, num_slots, dim)) if slot_init == "param" else None
        self.attention = _attention(dim, heads)

    def group(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Slots before they attend, (batch, slots, dim), and logits (batch, slots, tokens); maps as below."""
        if self.slots0 is None:
            slots0 = rearrange(adaptive_avg_pool2d(x, self.side), "b c h w -> b (h w) c")
        else:
            slots0 = self.slots0.expand(len(x), -1, -1)
        return soft_cluster(slots0, rearrange(u, "b c h w -> b (h w) c"), self.tau)

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        """``u``: the map after its norm, whose tokens are clustered; ``x``: the block's input, for queries.

        Both (batch, dim, height, width), and so is what comes back.
        """
        slots, logits = self.group(u, x)
        mixed = self.attention(rearrange(slots, "b m c -> b c m 1"))
        spread = dispatch(logits, rearrange(mixed, "b c m 1 -> b m c"))
        return rearrange(spread, "b (h w) c -> b c h w", h=u.shape[-2])


class LocalBranch(nn.Module):
    """Three convolutions without activation, in the places of qkv, attention and output projection."""

    def __init__(self, dim: int, kernel: int = 5):
        super().__init__()
        _odd(kernel=kernel)
        self.enter = nn.Conv2d(dim, dim, 1)
        self.depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.leave = nn.Conv2d(dim, dim, 1)

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape; only the normalised map ``u`` is read."""
        return self.leave(self.depthwise(self.enter(u)))


class Sum(nn.Module):
    """Mixers side by side: each is given the map after the norm and the block's input, and they are added."""

    def __init__(self, *mixers: nn.Module):
        super().__init__()
        self.mixers = nn.ModuleList(mixers)

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        """Two maps (batch, dim, height, width) -> one."""
        first, *others = (mixer(u, x) for mixer in self.mixers)
        return sum(others, first)


class PixelAttention(nn.Module):
    """Dense self-attention between all tokens of the map."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attention = _attention(dim, heads)

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape; only the normalised map ``u`` is read."""
        return self.attention(u)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm of every token of a map (batch, dim, height, width)."""

    def __init__(self, dim: int):
        super().__init__(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        normed = layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.movedim(-1, 1)


class Mlp(nn.Module):
    """``dim -> ratio * dim -> dim`` at every pixel; ``depthwise``: a residual 3 x 3 convolution between."""

    def __init__(self, dim: int, ratio: int, depthwise: bool = False):
        super().__init__()
        checks.at_least(1, ratio=ratio)
        hidden = ratio * dim
        self.up, self.down = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if depthwise else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        x = self.up(x)
        if self.depthwise is not None:
            x = x + self.depthwise(x)
        return self.down(gelu(x))


class Shell(nn.Module):
    """What all blocks share: ``x + mixer(norm(x), x)``, then ``x + mlp(norm(x))``.

    ``norms``: factories of the two norms. ``position_kernel``: side of a depthwise convolution whose output
    is added before all else, 0 for none; the mixer still gets the block's input from before it.
    ``layer_scale``: where the learned scales of the two branches start, None for none.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        *,
        mlp_ratio: int = 4,
        norms: tuple[Callable[[int], nn.Module], Callable[[int], nn.Module]] = (
            nn.BatchNorm2d,
            nn.BatchNorm2d,
        ),
        position_kernel: int = 0,
        mlp_depthwise: bool = False,
        layer_scale: float | None = None,
    ):
        super().__init__()
        self.position: nn.Module | None = None
        if position_kernel:
            _odd(position_kernel=position_kernel)
            padding = position_kernel // 2
            self.position = nn.Conv2d(dim, dim, position_kernel, padding=padding, groups=dim)
        self.norm_mixer, self.norm_mlp = (norm(dim) for norm in norms)
        self.mixer, self.mlp = mixer, Mlp(dim, mlp_ratio, mlp_depthwise)
        self.scales: nn.ParameterList | None = None
        if layer_scale is not None:
            self.scales = nn.ParameterList(layer_scale * torch.ones(dim, 1, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        raw = x
        if self.position is not None:
            x = x + self.position(x)
        one, two = (1.0, 1.0) if self.scales is None else self.scales
        x = x + one * self.mixer(self.norm_mixer(x), raw)
        return x + two * self.mlp(self.norm_mlp(x))


def glmix_block(
    dim: int,
    heads: int,
    num_slots: int = 64,
    slot_init: SlotInit = "ada_avgpool",
    tau0: float | None = None,
    kernel: int = 5,
    **shell: Any,
) -> Shell:
    """The block of the paper: slots and convolutions side by side. ``shell``: what `Shell` takes."""
    slots = SlotBranch(dim, heads, num_slots, slot_init, tau0)
    return Shell(dim, Sum(slots, LocalBranch(dim, kernel)), **shell)


def mhsa_block(dim: int, heads: int, plain: bool = False, **shell: Any) -> Shell:
    """The same shell with attention between all tokens, and a LayerNorm before it.

    ``plain`` is a vision transformer's block: a LayerNorm before the MLP too, and its start.
    """
    norms = (ChannelNorm, ChannelNorm if plain else nn.BatchNorm2d)
    block = Shell(dim, PixelAttention(dim, heads), norms=norms, **shell)
    if plain:
        for layer in (block.mlp.up, block.mlp.down):
            _small(layer)
    return block


def _attention(dim: int, heads: int) -> SelfAttention:
    """Attention that starts as ``nn.MultiheadAttention`` does inside the released networks."""
    attention = SelfAttention(dim, heads)
    nn.init.xavier_uniform_(attention.qkv.weight)
    nn.init.zeros_(attention.qkv.bias)
    _small(attention.projection)
    return attention


def _small(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _odd(**kernels: int) -> None:
    for name, kernel in kernels.items():
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"{name} must be odd and >= 1, got {kernel}")


# --- what stands beside it --------------------------------------------------------------------------------


class AloneAttention(PixelAttention):
    """All of attention's linear layers and none of its comparisons: every token attends to itself alone."""

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape; only the normalised map ``u`` is read."""
        b, _, h, w = u.shape
        mixed = super().forward(rearrange(u, "b c h w -> (b h w) c 1 1"), x)
        return rearrange(mixed, "(b h w) c 1 1 -> b c h w", b=b, h=h, w=w)


class PooledMean(nn.Module):
    """The mean of the map through a linear layer, everywhere: the lazy way to tell pixels of all others."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape; only the normalised map ``u`` is read."""
        return self.linear(u.mean((2, 3)))[..., None, None].expand_as(u)


class Excitation(LocalBranch):
    """The local branch, channels scaled by gates that their means decide (Hu et al., arXiv 1709.01507)."""

    def __init__(self, dim: int, kernel: int = 5):
        super().__init__(dim, kernel)
        few = max(1, dim // 4)
        self.gate = nn.Sequential(nn.Linear(dim, few), nn.ReLU(), nn.Linear(few, dim), nn.Sigmoid())

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape; only the normalised map ``u`` is read."""
        mixed = super().forward(u, x)
        return mixed * self.gate(mixed.mean((2, 3)))[..., None, None]


def two_means(values: Tensor) -> Tensor:
    """Two groups of the values in each row: k-means with k = 2 from the smallest and the largest.

    (batch, tokens) -> (batch, tokens), 1 for the group of the larger values.
    """
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    # More rounds than it takes: each moves values from one group to the other or changes nothing.
    for _ in range(values.shape[1]):
        above = values > (low + high) / 2
        low = (values * ~above).sum(1, keepdim=True) / (~above).sum(1, keepdim=True).clamp(min=1)
        high = (values * above).sum(1, keepdim=True) / above.sum(1, keepdim=True).clamp(min=1)
    return above.long()


# --- the networks -----------------------------------------------------------------------------------------


class Spec(NamedTuple):
    """A network of four stages: widths, numbers of blocks, and what the blocks are."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mixing: tuple[Mixing, Mixing, Mixing, Mixing]
    mlp_ratio: int = 4
    slot_init: SlotInit = "ada_avgpool"
    num_slots: int = 64
    overlap: bool = False
    """Whether stem and transitions are 3 x 3 convolutions, or cut the map into squares as Swin's do."""
    position_kernel: int = 0
    mlp_depthwise: bool = False
    layer_scale: float | None = None


HEAD_DIM = 32
"""Width of a head in every released network."""

_SWIN_LAYOUT = Spec((96, 192, 384, 768), (2, 2, 6, 2), ("glmix", "glmix", "glmix", "plain_mhsa"))
_LARGE = Spec(
    (64, 128, 256, 512),
    (4, 4, 18, 4),
    ("glmix", "glmix", "alternate", "mhsa"),
    mlp_ratio=3,
    overlap=True,
    position_kernel=3,
    mlp_depthwise=True,
)
RELEASED = {
    "STL": _SWIN_LAYOUT,
    "STL, learned slots": _SWIN_LAYOUT._replace(slot_init="param"),
    "4G": _LARGE,
    "9G": _LARGE._replace(dims=(96, 192, 384, 768)),
    "16G": _LARGE._replace(dims=(128, 256, 512, 1024), layer_scale=1e-4),
}
"""The networks of the repository; STL is the Swin-Tiny layout."""


class GLNet(nn.Module):
    """Stem, four stages with transitions between, BatchNorm, and a linear read-out of the mean token."""

    def __init__(self, spec: Spec, in_chans: int = 3, classes: int = 1000):
        super().__init__()
        checks.at_least(1, in_chans=in_chans, classes=classes)
        widths = (in_chans, *spec.dims)
        self.downsample = nn.ModuleList(
            _downsample(c_in, c_out, spec.overlap, first=index == 0)
            for index, (c_in, c_out) in enumerate(zip(widths, spec.dims, strict=False))
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(_block(spec, stage, index) for index in range(spec.depths[stage])))
            for stage in range(4)
        )
        self.norm = nn.BatchNorm2d(spec.dims[-1])
        self.head = nn.Linear(spec.dims[-1], classes)
        _small(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_chans, height, width) -> logits (batch, classes)."""
        x = images
        for downsample, stage in zip(self.downsample, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x).mean((2, 3)))


def _block(spec: Spec, stage: int, index: int) -> Shell:
    checks.one_of(get_args(Mixing), mixing=spec.mixing[stage])
    dim, mixing = spec.dims[stage], spec.mixing[stage]
    checks.divides(dim, "dim", HEAD_DIM=HEAD_DIM)
    heads = dim // HEAD_DIM
    if mixing == "plain_mhsa":
        return mhsa_block(dim, heads, plain=True, mlp_ratio=spec.mlp_ratio)
    shell: dict[str, Any] = {
        "mlp_ratio": spec.mlp_ratio,
        "position_kernel": spec.position_kernel,
        "mlp_depthwise": spec.mlp_depthwise,
        "layer_scale": spec.layer_scale,
    }
    if mixing == "mhsa" or (mixing == "alternate" and index % 2):
        return mhsa_block(dim, heads, **shell)
    return glmix_block(dim, heads, spec.num_slots, spec.slot_init, **shell)


def _downsample(c_in: int, c_out: int, overlap: bool, first: bool) -> nn.Sequential:
    if not overlap:
        if first:
            return nn.Sequential(nn.Conv2d(c_in, c_out, 4, 4), nn.BatchNorm2d(c_out))
        return nn.Sequential(nn.BatchNorm2d(c_in), nn.Conv2d(c_in, c_out, 2, 2))
    if first:
        half = c_out // 2
        return nn.Sequential(
            nn.Conv2d(c_in, half, 3, 2, 1), nn.BatchNorm2d(half), nn.GELU(),
            nn.Conv2d(half, c_out, 3, 2, 1), nn.BatchNorm2d(c_out),
        )  # fmt: skip
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, 2, 1), nn.BatchNorm2d(c_out))


# --- what the slots take ----------------------------------------------------------------------------------


@torch.no_grad()
def logits_of(net: nn.Module, images: Tensor) -> list[Tensor]:
    """The logits (batch, slots, tokens) of every slot branch of a network, in the order of its blocks."""
    found: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda branch, given, _: found.append(branch.group(*given)[1]))
        for module in net.modules()
        if isinstance(module, SlotBranch)
    ]
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def effective_tokens(logits: Tensor) -> Tensor:
    """How many tokens a slot is a mean of: the exponential of its weights' entropy, 1 to all tokens.

    (batch, slots, tokens) -> (batch, slots).
    """
    log_weights = logits.log_softmax(-1)
    return (-(log_weights.exp() * log_weights).sum(-1)).exp()


def mutual_information(groups: Tensor, truth: Tensor) -> Tensor:
    """How well groups of tokens agree with a partition, image by image, normalised to 0..1.

    Both (batch, tokens), integers from 0. The mutual information over the mean of the two entropies, as
    scikit-learn's ``normalized_mutual_info_score``; 1 where both are one group. Returns (batch,), float64.
    """
    if groups.shape != truth.shape:
        raise ValueError(
            f"groups and truth must have one shape, got {tuple(groups.shape)} and {tuple(truth.shape)}"
        )
    joint = one_hot(groups).double().mT @ one_hot(truth).double() / groups.shape[-1]
    rows, columns, both = (_entropy(p) for p in (joint.sum(2), joint.sum(1), joint.flatten(1)))
    mean = (rows + columns) / 2
    return torch.where(mean > 0, (rows + columns - both) / mean.clamp(min=1e-12), 1.0)


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)


# --- the task of the chapter ------------------------------------------------------------------------------

HEIGHT, WIDTH = 8, 32
"""Sides of the canvas, pixels."""
REACH = 13
"""Columns of the canvas, from the left, in which digits lie: too far for convolutions from what is read."""
READ = 4
"""Columns of tokens that are read, the last ones."""


def far_readout(digits: Images, generator: torch.Generator) -> Images:
    """Every digit at a random place in the left of an empty canvas, (n, 1, 8, 32), with its label.

    ``digits``: images (n, height <= 8, width <= 13). Raises ``ValueError`` for digits that do not fit.
    """
    n, height, width = digits.images.shape
    checks.between(1, HEIGHT, height=height)
    checks.between(1, REACH, width=width)
    top, left = (
        torch.randint(high - side + 1, (n,), generator=generator)
        for high, side in ((HEIGHT, height), (REACH, width))
    )
    canvas = torch.zeros(n, 1, HEIGHT, WIDTH)
    for image, digit, y, x in zip(canvas, digits.images, top.tolist(), left.tolist(), strict=True):
        image[0, y : y + height, x : x + width] = digit
    return Images(canvas, digits.labels)


class FarReadout(nn.Module):
    """A convolution to a map of 4 x 16 tokens, blocks, and a linear read-out of the last columns' mean."""

    def __init__(self, dim: int, blocks: Sequence[nn.Module], classes: int = 10):
        super().__init__()
        checks.at_least(1, dim=dim, classes=classes)
        self.stem = nn.Sequential(nn.Conv2d(1, dim, 5, 2, 2), nn.BatchNorm2d(dim))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, height, width) -> logits (batch, classes)."""
        # Channels last in memory: a map's tokens are then a view of it, and 1 x 1 convolutions cost half.
        x = self.stem(images).contiguous(memory_format=torch.channels_last)
        return self.head(self.norm(self.blocks(x))[..., -READ:].mean((2, 3)))
