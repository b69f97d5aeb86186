"""HST: a small pyramid beside a frozen vision transformer, which reads every block of it.

Lin et al., "Hierarchical Side-Tuning for Vision Transformers" (arXiv 2310.05393): registers for each block,
bridges, side network and the tuned norms of the transformer, all as in the paper; what the text leaves open
(linear layers shared by the blocks of a stage, norms on registers only, resizing before the bridge) follows
the authors' code (AFeng-x/HST). The transformer is fourfold's own (``fourfold.attention``).
Departures: no dropped paths; the head for segmentation is ours, since the authors released none, and so are
the textures that transformer and tasks are made of.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import avg_pool2d, conv2d, interpolate, layer_norm

from fourfold.attention import EPS, MLP, Block, PatchEmbedding, ViT
from fourfold.checks import at_least, between, divides, one_of
from fourfold.data.probes import Images

STRIDES = (4, 8, 16, 32)
"""Pixels between neighbouring positions of the four stages."""

MLP_RATIO = 4
"""Hidden over outer width of every MLP, of the transformer and of the side network."""

INIT = 0.02
"""Standard deviation of the side network's linear weights at first."""


# --- the transformer and its registers --------------------------------------------------------------------


class Backbone(nn.Module):
    """A plain vision transformer on square images: patches, class token, blocks; its head reads the class.

    Raises ``ValueError`` unless ``patch`` divides ``size``, and for what ``fourfold.attention.ViT`` refuses.
    """

    def __init__(
        self, *, size: int, patch: int, channels: int, dim: int, depth: int, heads: int, classes: int
    ):
        super().__init__()
        divides(size, "size", patch=patch)
        self.patches = PatchEmbedding(channels, dim, patch)
        self.vit = ViT(
            tokens=(size // patch) ** 2,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=MLP_RATIO,
            classes=classes,
        )

    @property
    def blocks(self) -> list[Block]:
        """The blocks, first to last."""
        return list(cast(Iterable[Block], self.vit.blocks))

    @property
    def dim(self) -> int:
        """Features of a token."""
        return self.vit.positions.shape[1]

    def embed(self, images: Tensor) -> Tensor:
        """(batch, channels, size, size) -> tokens (batch, 1 + patches, dim), the class token first."""
        return self.vit.embed(self.patches(images))

    def as_map(self, tokens: Tensor) -> Tensor:
        """The last tokens, one for each patch, as a square: (batch, any, dim) -> (batch, dim, rows, rows)."""
        patches = self.vit.positions.shape[0] - 1
        return rearrange(tokens[:, -patches:], "b (y x) d -> b d y x", y=math.isqrt(patches))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, size, size) -> logits (batch, classes)."""
        x = self.embed(images)
        for index, block in enumerate(self.blocks, start=1):
            x, _ = block(x, 1 if index == len(self.blocks) else None)
        return self.vit.classify(x)


class MetaRegisterViT(nn.Module):
    """A transformer that gives each of its blocks ``n_registers`` learnable tokens and takes them out again.

    Tokens of a block see its registers; no block sees those of another. ``registers``: (depth, n, dim).
    Raises ``ValueError`` for n_registers < 0.
    """

    def __init__(self, backbone: Backbone, n_registers: int = 1):
        super().__init__()
        at_least(0, n_registers=n_registers)
        self.backbone = backbone
        shape = (len(backbone.blocks), n_registers, backbone.dim)
        self.registers = nn.Parameter(torch.empty(shape), requires_grad=n_registers > 0)
        for register in self.registers if n_registers else ():
            nn.init.xavier_uniform_(register)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(batch, channels, size, size) -> for each block its registers' outputs and its map of patches.

        Registers: (batch, n, dim). Maps: (batch, dim, rows, rows).
        """
        registers, maps = [], []
        x, n = self.backbone.embed(images), self.registers.shape[1]
        for block, register in zip(self.backbone.blocks, self.registers, strict=True):
            x, _ = block(torch.cat([register.expand(len(x), -1, -1), x], dim=1))
            registers.append(x[:, :n])
            x = x[:, n:]
            maps.append(self.backbone.as_map(x))
        return registers, maps


class Blind(nn.Module):
    """Zeros in the shapes of what ``MetaRegisterViT`` gives, so that a side network is left alone."""

    def __init__(self, backbone: Backbone, n_registers: int = 1):
        super().__init__()
        rows = math.isqrt(backbone.vit.positions.shape[0] - 1)
        self.depth, self.shapes = (
            len(backbone.blocks),
            ((n_registers, backbone.dim), (backbone.dim, rows, rows)),
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(batch, channels, size, size) -> registers (batch, n, dim), maps (batch, dim, rows, rows)."""
        registers, maps = (images.new_zeros(len(images), *shape) for shape in self.shapes)
        return [registers] * self.depth, [maps] * self.depth


# --- the side network -------------------------------------------------------------------------------------


class CrossAttention(nn.Module):
    """Multi-head attention of one set of tokens to another, ``softmax(q k^T / sqrt(d_head)) v``, with biases.

    Raises ``ValueError`` if ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        divides(dim, "dim", heads=heads)
        self.heads = heads
        self.query, self.key, self.value, self.projection = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, kv: Tensor) -> Tensor:
        """Queries from x (batch, n, dim), keys and values from kv (batch, m, dim) -> (batch, n, dim)."""
        q, k, v = (
            rearrange(linear(tokens), "b n (heads d) -> b heads n d", heads=self.heads)
            for linear, tokens in ((self.query, x), (self.key, kv), (self.value, kv))
        )
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.projection(rearrange(weights @ v, "b heads n d -> b n (heads d)"))


class SideBlock(nn.Module):
    """One block of the side network: attend to a few tokens, add the fine map, then an MLP.

    Raises ``ValueError`` if ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: int = MLP_RATIO):
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim, eps=EPS)
        self.attention = CrossAttention(dim, heads)
        self.norm_mlp = nn.LayerNorm(dim, eps=EPS)
        self.mlp = MLP(dim, mlp_ratio * dim)

    def forward(self, x: Tensor, kv: Tensor, fine: Tensor | None) -> Tensor:
        """Tokens x and fine (batch, n, dim), few tokens kv (batch, m, dim) -> (batch, n, dim).

        Without few tokens nothing is attended to, and without ``fine`` nothing is added.
        """
        if kv.shape[1]:
            x = x + self.attention(self.norm_attention(x), kv)
        if fine is not None:
            x = x + fine
        return x + self.mlp(self.norm_mlp(x))


class Bridge(nn.Module):
    """From the transformer's width to a stage's: one linear layer for all blocks and both kinds of tokens.

    Registers get a norm for each block, maps none. Raises ``ValueError`` for a size below 1.
    """

    def __init__(self, vit_dim: int, dim: int, blocks: int):
        super().__init__()
        at_least(1, vit_dim=vit_dim, dim=dim, blocks=blocks)
        self.linear = nn.Linear(vit_dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=EPS) for _ in range(blocks))

    def forward(
        self, index: int, register: Tensor, features: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """What a block of the transformer hands over, in the stage's width and on its grid.

        register (batch, n, vit_dim), features (batch, vit_dim, rows, rows) -> (batch, n, dim),
        (batch, positions, dim).
        """
        resized = interpolate(features, size=grid, mode="bilinear", align_corners=False)
        fine = self.linear(rearrange(resized, "b d y x -> b (y x) d"))
        return self.norms[index](self.linear(register)), fine


class Entry(nn.Module):
    """How a stage begins: convolutions that halve the map, or for stage 1 quarter the image, and a norm."""

    def __init__(self, dim_in: int, dim: int, first: bool):
        super().__init__()
        stem = [
            nn.Conv2d(dim_in, dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 2, 2),
        ]
        self.convolve = nn.Sequential(*stem) if first else nn.Conv2d(dim_in, dim, 3, 2, 1)  # fmt: skip
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(batch, dim_in, height, width) -> tokens (batch, rows * columns, dim), and (rows, columns)."""
        x = self.convolve(x)
        rows, columns = x.shape[-2:]
        return self.norm(rearrange(x, "b c y x -> b (y x) c")), (rows, columns)


class Stage(nn.Module):
    """Entry, bridge, a side block for each block of the transformer that it reads, norm."""

    def __init__(self, dim_in: int, dim: int, vit_dim: int, heads: int, depth: int, first: bool):
        super().__init__()
        self.entry = Entry(dim_in, dim, first)
        self.bridge = Bridge(vit_dim, dim, depth)
        self.blocks = nn.ModuleList(SideBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=EPS)


class HSN(nn.Module):
    """The hierarchical side network: four stages with strides 4, 8, 16 and 32, ``depths`` blocks each.

    ``use_global``: whether the mean of a block's map is among the tokens that are attended to; ``use_fine``:
    whether the map itself is added. Both are the paper's. Raises ``ValueError`` unless dims, heads and depths
    have four values each, depths of 1 or more, and heads divide dims.
    """

    def __init__(
        self,
        vit_dim: int,
        dims: Sequence[int],
        heads: Sequence[int],
        depths: Sequence[int],
        in_chans: int = 3,
        *,
        use_global: bool = True,
        use_fine: bool = True,
    ):
        super().__init__()
        for name, values in (("dims", dims), ("heads", heads), ("depths", depths)):
            if len(values) != len(STRIDES) or min(values) < 1:
                raise ValueError(f"{name} must be {len(STRIDES)} values >= 1, got {list(values)}")
        self.use_global, self.use_fine = use_global, use_fine
        before = (in_chans, *dims)
        self.stages = nn.ModuleList(
            Stage(before[i], dims[i], vit_dim, heads[i], depths[i], first=i == 0) for i in range(len(STRIDES))
        )
        self.apply(_initialise)

    def forward(self, images: Tensor, registers: Sequence[Tensor], maps: Sequence[Tensor]) -> list[Tensor]:
        """Images, each block's registers (batch, n, vit_dim) and map (batch, vit_dim, rows, rows) -> maps.

        (batch, in_chans, height, width) -> four maps (batch, dim, rows, columns), the finest first.
        Raises ``ValueError`` for another number of blocks than depths add up to.
        """
        stages = cast(Iterable[Stage], self.stages)
        if len(maps) != sum(len(stage.blocks) for stage in stages):
            raise ValueError(f"depths must add up to the transformer's, {len(maps)}")
        given = zip(registers, maps, strict=True)
        x, pyramid = images, []
        for stage in stages:
            tokens, grid = stage.entry(x)
            for index, block in enumerate(stage.blocks):
                register, fine = stage.bridge(index, *next(given), grid)
                pooled = fine.mean(1, keepdim=True)
                kv = torch.cat([register, pooled], 1) if self.use_global else register
                tokens = block(tokens, kv, fine if self.use_fine else None)
            x = rearrange(stage.norm(tokens), "b (y x) c -> b c y x", y=grid[0])
            pyramid.append(x)
        return pyramid


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# --- heads, and what reads the transformer without a side network ------------------------------------------


class PooledHead(nn.Module):
    """Classes from the coarsest map: mean over positions, BatchNorm without weights, a linear layer."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, eps=1e-6, affine=False)
        self.linear = nn.Linear(dim, classes)
        _initialise(self.linear)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Maps, the last (batch, dim, rows, columns) -> logits (batch, classes)."""
        return self.linear(self.norm(pyramid[-1].mean((-2, -1))))


class PyramidHead(nn.Module):
    """Classes of pixels, linear in all maps: each to ``hidden`` channels, resized to the finest, added."""

    def __init__(self, dims: Sequence[int], hidden: int, classes: int):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(dim, hidden, 1) for dim in dims)
        self.classes = nn.Conv2d(hidden, classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Maps (batch, dim, rows, columns), the finest first -> logits (batch, classes, height, width)."""
        size = pyramid[0].shape[-2:]
        merged = [_resized(lateral(x), size) for lateral, x in zip(self.laterals, pyramid, strict=True)]
        return _resized(self.classes(torch.stack(merged).sum(0)), [STRIDES[0] * side for side in size])


class BlocksHead(nn.Module):
    """A linear read-out of the maps of all blocks, each normed without weights; of pixels, or of the image.

    What is linear in a position commutes with bilinear resizing, so that classes are resized, not features.
    """

    def __init__(self, dim: int, depth: int, classes: int, *, patch: int, dense: bool):
        super().__init__()
        self.linear = nn.Conv2d(depth * dim, classes, 1)
        self.patch, self.dense = patch, dense

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (batch, dim, rows, rows) -> logits (batch, classes, size, size), or (batch, classes)."""
        normed = [layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1) for x in maps]
        features = torch.cat(normed, 1)
        if not self.dense:
            return self.linear(features.mean((-2, -1), keepdim=True)).flatten(1)
        return _resized(self.linear(features), [self.patch * side for side in features.shape[-2:]])


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


# --- whole models -----------------------------------------------------------------------------------------


class HST(nn.Module):
    """A transformer with registers, or ``Blind``, a side network that reads it, and a head on its maps."""

    def __init__(self, vit: nn.Module, hsn: HSN, head: nn.Module):
        super().__init__()
        self.vit, self.hsn, self.head = vit, hsn, head

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, size, size) -> what the head makes of the maps."""
        return self.head(self.pyramid(images))

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The four maps of the side network, (batch, dim, rows, columns)."""
        return self.hsn(images, *self.vit(images))


class Prompted(nn.Module):
    """A transformer whose sequence has ``n_tokens`` learnable prompts, and a head on the maps of its blocks.

    Without prompts a linear probe, tuned norms or full fine-tuning, depending on what is frozen; with them
    VPT-shallow (Jia et al., arXiv 2203.12119). Raises ``ValueError`` for n_tokens < 0.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, n_tokens: int = 0):
        super().__init__()
        at_least(0, n_tokens=n_tokens)
        self.backbone, self.head = backbone, head
        # Without prompts no gradient enters a frozen transformer, and nothing is kept for one.
        self.prompts = nn.Parameter(INIT * torch.randn(n_tokens, backbone.dim), requires_grad=n_tokens > 0)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, size, size) -> what the head makes of the maps."""
        x, maps = self.backbone.embed(images), []
        x = torch.cat([self.prompts.expand(len(x), -1, -1), x], dim=1)
        for block in self.backbone.blocks:
            x, _ = block(x)
            maps.append(self.backbone.as_map(x))
        return self.head(maps)


class Added(nn.Module):
    """Two models side by side that know nothing of each other; their logits are added."""

    def __init__(self, one: nn.Module, other: nn.Module):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, images: Tensor) -> Tensor:
        """Images -> the sum of what the two make of them."""
        return self.one(images) + self.other(images)


def freeze_backbone(model: nn.Module, *, tune_ln: bool = True) -> list[str]:
    """Freeze every ``Backbone`` in a model, but with ``tune_ln`` not the norms in its blocks.

    Returns the names of the model's parameters that stay trainable.
    """
    for part in model.modules():
        if isinstance(part, Backbone):
            part.requires_grad_(False)
            for block in part.blocks if tune_ln else ():
                block.norm_attention.requires_grad_(True)
                block.norm_mlp.requires_grad_(True)
    return [name for name, value in model.named_parameters() if value.requires_grad]


Arm = Literal[
    "HST", "side network alone", "added afterwards", "HST, ViT not tuned", "no fine map", "no registers",
    "no global token", "norms not tuned", "linear probe", "LN tuning", "VPT", "full fine-tuning",
]  # fmt: skip

ARMS: tuple[Arm, ...] = Arm.__args__  # type: ignore[attr-defined]


class Sizes(NamedTuple):
    """What all arms of an experiment share besides the transformer."""

    dims: tuple[int, ...]
    heads: tuple[int, ...]
    depths: tuple[int, ...]
    classes: int
    patch: int
    channels: int = 1
    dense: bool = True
    hidden: int = 16
    prompts: int = 8


def tuned(arm: Arm, backbone: Backbone, sizes: Sizes) -> nn.Module:
    """A model that adapts a copy of ``backbone``, frozen as the arm says.

    - "HST", and without one of its parts: "no fine map", "no registers", "no global token", "norms not
      tuned".
    - "HST, ViT not tuned": registers stay as they were made and norms as they were, so that no gradient
      enters the transformer.
    - "side network alone": what it reads of the transformer is zeros; "added afterwards": its logits are
      added to those of a linear probe.
    - "linear probe", "LN tuning", "VPT", "full fine-tuning": a linear read-out of all blocks' maps.

    Raises ``ValueError`` for another arm.
    """
    one_of(ARMS, arm=arm)
    backbone = copy.deepcopy(backbone)
    # Nobody reads the class: its norm and head would count and not learn.
    backbone.vit.norm.requires_grad_(False)
    backbone.vit.head.requires_grad_(False)
    depth, dim = len(backbone.blocks), backbone.dim

    def blocks_head() -> nn.Module:
        return BlocksHead(dim, depth, sizes.classes, patch=sizes.patch, dense=sizes.dense)

    def side_tuned(vit: nn.Module) -> HST:
        hsn = HSN(
            dim, sizes.dims, sizes.heads, sizes.depths, sizes.channels,
            use_global=arm != "no global token", use_fine=arm != "no fine map",
        )  # fmt: skip
        pixels = PyramidHead(sizes.dims, sizes.hidden, sizes.classes)
        return HST(vit, hsn, pixels if sizes.dense else PooledHead(sizes.dims[-1], sizes.classes))

    model: nn.Module
    if arm in ("side network alone", "added afterwards"):
        model = side_tuned(Blind(backbone))
        if arm == "added afterwards":
            model = Added(Prompted(backbone, blocks_head()), model)
    elif arm in ("linear probe", "LN tuning", "VPT", "full fine-tuning"):
        model = Prompted(backbone, blocks_head(), sizes.prompts if arm == "VPT" else 0)
    else:
        model = side_tuned(MetaRegisterViT(backbone, 0 if arm == "no registers" else 1))
    if arm != "full fine-tuning":
        tune_ln = arm in ("HST", "LN tuning", "no fine map", "no registers", "no global token")
        freeze_backbone(model, tune_ln=tune_ln)
    if arm == "HST, ViT not tuned":
        cast(MetaRegisterViT, model.vit).registers.requires_grad_(False)
    return model


# --- what it costs ----------------------------------------------------------------------------------------


def vit_b(classes: int = 1000) -> Backbone:
    """ViT-B/16 at 224 pixels."""
    return Backbone(size=224, patch=16, channels=3, dim=768, depth=12, heads=12, classes=classes)


PUBLISHED = Sizes(
    (32, 48, 64, 72), (2, 4, 8, 12), (3, 3, 3, 3), classes=50, patch=16, channels=3, dense=False
)
"""The side network of the paper, for ViT-B/16."""

GROUPS = {
    "bridges": ".bridge.linear.",
    "bridge norms": ".bridge.norms.",
    "side blocks": ".blocks.",
    "stage entries": ".entry.",
    "stage norms": ".norm.",
}
"""Group of the side network's parameters -> what their names hold."""


def trainable_parameters(model: HST) -> dict[str, int]:
    """How many values an ``HST`` trains, by group: those of ``GROUPS``, registers, ViT norms, head."""
    found = dict.fromkeys((*GROUPS, "registers", "ViT norms", "head"), 0)
    for name, value in model.named_parameters():
        if value.requires_grad:
            found[_group(name)] += value.numel()
    return found


def _group(name: str) -> str:
    if name.startswith("hsn."):
        return next(group for group, part in GROUPS.items() if part in name)
    return {"vit.registers": "registers"}.get(name, "head" if name.startswith("head.") else "ViT norms")


def kept_bytes(model: nn.Module, *shape: int) -> int:
    """What a training step keeps of its activations for the gradient, in bytes, for an input of this shape.

    Weights do not count, memory that is kept twice counts once, and nothing is counted where no trainable
    value needs it. Exact for a model on torch's meta device, which computes nothing.
    """
    weights = {value.untyped_storage()._cdata for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    device = next(model.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.empty(shape, device=device))
    return sum(x.untyped_storage().nbytes() for key, x in kept.items() if key not in weights)


# --- textures ---------------------------------------------------------------------------------------------

SHAPES = ("as it is", "ridges", "edges", "spots")
"""What a family does to its filtered noise, point by point."""


class Families(NamedTuple):
    """Families of textures, each value (families,): noise, filtered, then bent point by point."""

    wavelength: Tensor
    """Pixels from crest to crest."""
    bandwidth: Tensor
    """Spread of the logarithm of the frequency."""
    orientation: Tensor
    """Radians."""
    spread: Tensor
    """Spread of the orientation; from about 1 on there is none."""
    shape: Tensor
    """Which of ``SHAPES``."""


def draw_families(n: int, generator: torch.Generator) -> Families:
    """``n`` families of textures, drawn independently. Raises ``ValueError`` for n < 1."""
    at_least(1, n=n)

    def between_logs(low: float, high: float) -> Tensor:
        return low * (high / low) ** torch.rand(n, generator=generator)

    return Families(
        wavelength=between_logs(3, 12),
        bandwidth=between_logs(0.15, 0.6),
        orientation=math.pi * torch.rand(n, generator=generator),
        spread=between_logs(0.15, 1.5),
        shape=torch.randint(len(SHAPES), (n,), generator=generator),
    )


def textures(families: Families, labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A texture of the family of each label, (n,) -> (n, size, size), each of mean 0 and variance 1.

    Noise is filtered on a torus of twice the size, of which a corner is cut, so that opposite edges do not
    fit. Raises ``ValueError`` for size < 4.
    """
    at_least(4, size=size)
    side = 2 * size
    y, x = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    radius, angle = (x**2 + y**2).sqrt().clamp_min(1e-6), torch.atan2(y, x)
    chosen = Families(*(values[labels][:, None, None] for values in families))
    ring = -((radius * chosen.wavelength).log() ** 2) / (2 * chosen.bandwidth**2)
    fan = ((2 * (angle - chosen.orientation)).cos() - 1) / (4 * chosen.spread**2)
    noise = torch.randn(len(labels), side, side, generator=generator)
    filtered = torch.fft.irfft2(torch.fft.rfft2(noise) * (ring + fan).exp(), s=(side, side))
    filtered = _standardised(filtered)[:, :size, :size]
    bent = torch.stack([filtered, filtered.abs(), (4 * filtered).tanh(), (1.2 * filtered).exp()])
    return _standardised(bent[chosen.shape.flatten(), torch.arange(len(labels))])


def _standardised(x: Tensor) -> Tensor:
    return (x - x.mean((-2, -1), keepdim=True)) / x.std((-2, -1), keepdim=True)


def crops(families: Families, each: int, size: int, generator: torch.Generator) -> Images:
    """``each`` textures of every family, shuffled: images (n, 1, size, size), labels (n,).

    Raises ``ValueError`` for each < 1 or size < 4.
    """
    at_least(1, each=each)
    kinds = len(families.wavelength)
    labels = torch.randperm(each * kinds, generator=generator) % kinds
    return Images(textures(families, labels, size, generator)[:, None], labels)


def mosaics(families: Families, n: int, size: int, generator: torch.Generator) -> Images:
    """Squares of two textures, parted by a line: images (n, 1, size, size), family of each pixel.

    The line passes within a quarter of the side from the middle; the two families differ.
    Raises ``ValueError`` for n < 1, fewer than two families, or size < 4.
    """
    kinds = len(families.wavelength)
    at_least(1, n=n)
    at_least(2, families=kinds)
    one = torch.randint(kinds, (n,), generator=generator)
    other = (one + torch.randint(1, kinds, (n,), generator=generator)) % kinds
    both = torch.stack([textures(families, labels, size, generator) for labels in (one, other)])
    angle = 2 * math.pi * torch.rand(n, 1, 1, generator=generator)
    offset = size / 4 * (2 * torch.rand(n, 1, 1, generator=generator) - 1)
    place = torch.arange(size) - (size - 1) / 2
    left = place * angle.cos() + place[:, None] * angle.sin() < offset
    images = torch.where(left, both[0], both[1])
    return Images(images[:, None], torch.where(left, one[:, None, None], other[:, None, None]))


def mean_iou(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """Intersection over union in per cent, mean over the classes that occur; integers of any one shape.

    Raises ``ValueError`` for shapes that differ or classes outside 0..classes - 1.
    """
    if predicted.shape != labels.shape:
        raise ValueError(
            f"expected one prediction a label, got {tuple(predicted.shape)}, {tuple(labels.shape)}"
        )
    for values in (predicted, labels):
        between(0, classes - 1, lowest_class=int(values.min()), highest_class=int(values.max()))
    pairs = (labels * classes + predicted).flatten().bincount(minlength=classes**2).view(classes, classes)
    union = pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
    return float(100 * (pairs.diagonal() / union.double())[union > 0].mean())


LAWS = torch.tensor(
    [[1, 4, 6, 4, 1], [-1, -2, 0, 2, 1], [-1, 0, 2, 0, -1], [-1, 2, 0, -2, 1], [1, -4, 6, -4, 1]]
).float()
"""Laws' five vectors: level, edge, spot, wave, ripple."""


def texture_energy(images: Tensor, window: int = 11) -> Tensor:
    """Laws' texture energy (1980), from before networks: (n, 1, size, size) -> (n, 25, size, size).

    Logarithms of the mean size, in a window around each pixel, of what 25 masks of 5 x 5 answer.
    Raises ``ValueError`` for a window that is not odd and >= 1.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and >= 1, got {window}")
    masks = torch.einsum("ay,bx->abyx", LAWS, LAWS).reshape(-1, 1, 5, 5)
    answers = conv2d(functional.pad(images, (2, 2, 2, 2), mode="reflect"), masks).abs()
    energy = avg_pool2d(answers, window, 1, window // 2, count_include_pad=False)
    return (energy + 1e-3).log()


def pixel_values(
    images: Tensor, labels: Tensor, what: Literal["pixels", "energies"]
) -> tuple[Tensor, Tensor]:
    """What classifiers without a network know of every eighth pixel either way: (pixels, values), (pixels,).

    Of images (n, 1, size, size) and labels (n, size, size): the 9 x 9 pixels around it, or its texture
    energies. Raises ``ValueError`` for anything else.
    """
    one_of(("pixels", "energies"), what=what)
    if what == "pixels":
        values = functional.unfold(images, 9, padding=4).unflatten(2, images.shape[2:])
    else:
        values = texture_energy(images)
    return values[:, :, 4::8, 4::8].movedim(1, -1).flatten(0, 2), labels[:, 4::8, 4::8].flatten()


def lazy_iou(
    classifier: Any, seen: Images, unseen: Images, what: Literal["pixels", "energies"], classes: int
) -> float:
    """``mean_iou`` of a classifier of scikit-learn's kind, given ``pixel_values``, on unseen mosaics."""
    values, labels = pixel_values(*seen, what)
    classifier.fit(values.numpy(), labels.numpy())
    values, labels = pixel_values(*unseen, what)
    return mean_iou(torch.tensor(classifier.predict(values.numpy())), labels, classes)


@torch.inference_mode()
def predicted(model: nn.Module, images: Tensor) -> Tensor:
    """The likeliest class of each pixel: (n, channels, height, width) -> (n, height, width)."""
    return torch.cat([model(part).argmax(1) for part in images.split(100)])


def framed(part: Images, size: int) -> Images:
    """Images (n, side, side) in a frame of zeros, all standardised as one: (n, 1, size, size).

    Raises ``ValueError`` if they are larger than ``size``.
    """
    side = part.images.shape[-1]
    at_least(side, size=size)
    before = (size - side) // 2
    canvas = functional.pad(part.images[:, None], (before, size - side - before) * 2)
    return Images((canvas - canvas.mean()) / canvas.std(), part.labels)


def first_component(x: Tensor) -> Tensor:
    """The first principal component of a map's positions: (dim, rows, columns) -> (rows, columns)."""
    positions = x.flatten(1) - x.flatten(1).mean(1, keepdim=True)
    return (torch.linalg.svd(positions, full_matrices=False)[0][:, 0] @ positions).unflatten(0, x.shape[1:])
