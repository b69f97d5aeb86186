"""SReT: a vision transformer whose blocks run twice with the same weights, and attention cut into groups.

Shen, Liu and Xing, "Sliced Recursive Transformer", arXiv 2111.05297, ECCV 2022. Sizes and details were read
in the official repository (szq0214/SReT); the code here is written anew.

Implemented: sliced group attention with its shuffle (section 3.3 of the paper), the block with learnable
residual coefficients, the non-linear projection (NLL) after every pass (section 3.2), the recursion, the
pyramid network in its published sizes, and closed forms for what all of it stores and computes.

Departures. No stochastic depth and no distillation. The repository finds a second pass by its place in a list
of modules; here a pass knows its number. A network can have a plain patch embedding in place of the pyramid's
stem, and its weights can be unshared.

Tokens are (batch, tokens, dim). Raises ``ValueError`` for groups that do not divide the tokens.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from fourfold import checks, cost
from fourfold.attention import EPS, MLP, PatchEmbedding

# --- the mechanism ----------------------------------------------------------------------------------------


class GroupAttention(nn.Module):
    """Multi-head self-attention inside each of ``groups`` contiguous stretches of the sequence.

    One matrix makes queries, keys and values, in this order and with a bias; a head is a stretch of
    ``dim / heads`` features. Raises ``ValueError`` unless ``heads`` divides ``dim``.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        checks.divides(dim, "dim", heads=heads)
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor, groups: int = 1, perm: Tensor | None = None) -> Tensor:
        """(batch, tokens, dim) -> the same shape.

        ``perm``: (tokens,), the order in which tokens are cut into groups; each result goes back to its
        token's place. Raises ``ValueError`` unless ``groups`` divides the tokens.
        """
        checks.divides(x.shape[1], "the number of tokens", groups=groups)
        if perm is not None:
            x = x[:, perm]
        q, k, v = rearrange(
            self.qkv(x), "b (g n) (three h d) -> three (b g) h n d", g=groups, three=3, h=self.heads
        )
        weights = (q * self.scale @ k.mT).softmax(-1)
        mixed = rearrange(weights @ v, "(b g) h n d -> b (g n) (h d)", g=groups)
        return self.projection(mixed if perm is None else mixed[:, perm.argsort()])


class LearnableResidual(nn.Module):
    """``a x + b y``, with learned numbers a and b that start at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(()))
        self.b = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two tensors of one shape -> one."""
        return self.a * x + self.b * y


class SlicedBlock(nn.Module):
    """A pre-norm transformer block with grouped attention and learnable residuals.

    Raises ``ValueError`` unless ``heads`` divides ``dim`` and the MLP has at least one hidden feature.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.attention = GroupAttention(dim, heads)
        self.mlp = MLP(dim, hidden_features(dim, mlp_ratio))
        self.after_attention, self.after_mlp = LearnableResidual(), LearnableResidual()

    def forward(self, x: Tensor, groups: int = 1, perm: Tensor | None = None) -> Tensor:
        """(batch, tokens, dim) -> the same shape."""
        x = self.after_attention(x, self.attention(self.norm_attention(x), groups, perm))
        return self.after_mlp(x, self.mlp(self.norm_mlp(x)))


class NonLinearProjection(nn.Module):
    """The NLL: a small MLP of every token with a learnable residual, which each pass has for its own."""

    def __init__(self, dim: int, ratio: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim, EPS)
        self.mlp = MLP(dim, hidden_features(dim, ratio))
        self.after = LearnableResidual()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> the same shape."""
        return self.after(x, self.mlp(self.norm(x)))


class RecursiveSlot(nn.Module):
    """One slot of the depth: a block that runs once for each entry of ``groups``, and an NLL after each run.

    ``share=False`` gives every pass a block of its own, ``nll=False`` takes the projections away. From the
    second pass on, groups are cut from tokens in a random order, drawn anew at each call from ``rng``,
    evaluation included, and the same for the whole batch. Raises ``ValueError`` as its parts do, and for no
    pass at all.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float,
        nll_ratio: float,
        groups: Sequence[int],
        share: bool = True,
        nll: bool = True,
        rng: np.random.Generator | None = None,
    ):
        super().__init__()
        checks.at_least(1, **{"number of passes": len(groups)})
        self.groups, self.rng = tuple(groups), rng or np.random.default_rng(0)
        distinct = 1 if share else len(groups)
        self.blocks = nn.ModuleList(SlicedBlock(dim, heads, mlp_ratio) for _ in range(distinct))
        self.projections = nn.ModuleList(NonLinearProjection(dim, nll_ratio) for _ in groups if nll)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> the same shape."""
        return self.passes(x)[-1]

    def passes(self, x: Tensor, loops: int | None = None) -> list[Tensor]:
        """The tokens that come in, and those after each pass, (batch, tokens, dim) each.

        ``loops`` runs a block without NLLs more or less often than it was made for, ungrouped from there on.
        Raises ``ValueError`` for another number of loops where a pass has weights of its own.
        """
        if loops not in (None, len(self.groups)) and (self.projections or len(self.blocks) > 1):
            raise ValueError(f"loops must be {len(self.groups)}, since passes have own weights, got {loops}")
        states = [x]
        wanted = loops or len(self.groups)
        for r, groups in enumerate([*self.groups, *[1] * wanted][:wanted]):
            perm = None
            if r > 0 and groups > 1:
                perm = torch.from_numpy(self.rng.permutation(x.shape[1])).to(x.device)
            x = self.blocks[r % len(self.blocks)](x, groups, perm)
            if self.projections:
                x = self.projections[r](x)
            states.append(x)
        return states


def hidden_features(dim: int, ratio: float) -> int:
    """``ratio * dim`` rounded down, as the repository does. Raises ``ValueError`` unless it is at least 1."""
    hidden = int(dim * ratio)
    if hidden < 1:
        raise ValueError(f"ratio must give a hidden feature: ratio * dim >= 1, got {ratio} * {dim}")
    return hidden


# --- the network ------------------------------------------------------------------------------------------


class Spec(NamedTuple):
    """A network: the stages' sizes, the groups of every pass, and what is shared."""

    dims: Sequence[int]
    heads: Sequence[int]
    blocks: Sequence[int]
    """Slots of each stage."""
    groups: Sequence[Sequence[int]]
    """For each stage the groups of each pass; how many there are is how often a block runs."""
    mlp_ratio: float
    nll_ratio: float = 1.0
    share: bool = True
    nll: bool = True
    patch: int | None = None
    """Side of the patches in place of the stem of three convolutions."""

    def with_loops(self, loops: int) -> "Spec":
        """The same network, every block run ``loops`` times, unsliced."""
        checks.at_least(1, loops=loops)
        return self._replace(groups=((1,) * loops,) * len(self.dims))


class SReT(nn.Module):
    """Stem, learned positions, stages of slots, mean token, LayerNorm, linear to the classes.

    ``rng`` draws the shuffles of all slots. Raises ``ValueError`` unless all fields of the stages are
    as many, for an image that the stem cannot cut, and as `RecursiveSlot` does.
    """

    def __init__(
        self,
        spec: Spec,
        image: int,
        in_chans: int = 3,
        classes: int = 1000,
        rng: np.random.Generator | None = None,
    ):
        super().__init__()
        sides = stage_sides(spec, image)
        checks.at_least(1, in_chans=in_chans, classes=classes)
        dim = spec.dims[0]
        self.stem = Stem(in_chans, dim) if spec.patch is None else PatchEmbedding(in_chans, dim, spec.patch)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(sides[0] ** 2, dim), std=0.02))
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2, 1, groups=a) for a, b in itertools.pairwise(spec.dims)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(
                RecursiveSlot(dim, heads, spec.mlp_ratio, spec.nll_ratio, groups, spec.share, spec.nll, rng)
                for _ in range(blocks)
            )
            for dim, heads, blocks, groups in zip(
                spec.dims, spec.heads, spec.blocks, spec.groups, strict=True
            )
        )
        self.norm = nn.LayerNorm(spec.dims[-1], EPS)
        self.head = nn.Linear(spec.dims[-1], classes)

    def forward(self, images: Tensor, loops: int | None = None) -> Tensor:
        """(batch, in_chans, image, image) -> logits (batch, classes); ``loops`` as in `passes` of a slot."""
        return self.head(self.norm(self.slots(images, loops)[-1][-1].mean(1)))

    def slots(self, images: Tensor, loops: int | None = None) -> list[list[Tensor]]:
        """For every slot what enters it and what each pass makes of it, (batch, tokens, dim) each."""
        x, states = self.stem(images) + self.positions, []
        for index, stage in enumerate(self.stages):
            if index:
                side = round(x.shape[1] ** 0.5)
                maps = self.downs[index - 1](rearrange(x, "b (y x) d -> b d y x", y=side))
                x = rearrange(maps, "b d y x -> b (y x) d")
            for slot in stage:  # type: ignore[attr-defined]
                states.append(slot.passes(x, loops))
                x = states[-1][-1]
        return states


class Stem(nn.Sequential):
    """Three 3 x 3 convolutions of stride 2 with BatchNorm and ReLU: an eighth of the image's side."""

    def __init__(self, in_chans: int, dim: int):
        widths = (in_chans, dim // 2, dim, dim)
        super().__init__(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in itertools.pairwise(widths)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """(batch, in_chans, image, image) -> (batch, tokens, dim)."""
        return rearrange(super().forward(images), "b d y x -> b (y x) d")


def stage_sides(spec: Spec, image: int) -> list[int]:
    """The side of each stage's map of tokens.

    Raises ``ValueError`` unless the stages' fields are as many, each width divides the next, the first stride
    divides the image, the groups divide the tokens, and all stages have as many passes.
    """
    for name in ("heads", "blocks", "groups"):
        if len(getattr(spec, name)) != len(spec.dims) or not spec.dims:
            raise ValueError(
                f"{name} must be one for each of dims = {list(spec.dims)}, got {getattr(spec, name)}"
            )
    for width, wider in itertools.pairwise(spec.dims):
        checks.divides(wider, "that of the next stage", width=width)
    if len({len(groups) for groups in spec.groups}) > 1:
        raise ValueError(f"groups must have as many passes in every stage, got {spec.groups}")
    checks.divides(image, "image", stride=spec.patch or 8)
    sides = [image // (spec.patch or 8)]
    for _ in spec.dims[1:]:
        sides.append(-(-sides[-1] // 2))
    for side, groups in zip(sides, spec.groups, strict=True):
        for number in groups:
            checks.divides(side**2, "the number of tokens", groups=number)
    return sides


# --- the published networks -------------------------------------------------------------------------------

SLICED = ((8, 2), (4, 1), (1, 1))
"""Groups of first and second pass in the three stages, as published."""

_T = Spec((64, 128, 256), (2, 4, 8), (2, 5, 3), SLICED, 3.6)
SIZES = {
    "T": _T,
    "LT": _T._replace(mlp_ratio=4.0),
    "LT, 16 and 14 groups": _T._replace(mlp_ratio=4.0, groups=((16, 1), (14, 1), (1, 1))),
    "S": Spec((126, 252, 504), (3, 6, 12), (2, 5, 3), SLICED, 3.0, 2.0),
}
"""SReT's sliced networks by name; ``with_loops(2)`` makes them unsliced."""

# --- what is stored and what is computed ------------------------------------------------------------------

PARTS = ("attention weights", "attention maps", "MLP", "NLL", "other")


class Count(NamedTuple):
    """Parameters that are stored, and multiply-accumulates that are computed for one image."""

    parameters: int
    macs: int


def block_parameters(dim: int, mlp_ratio: float) -> int:
    """Parameters of a `SlicedBlock`: four projections, the MLP, biases, two norms, four coefficients."""
    hidden = hidden_features(dim, mlp_ratio)
    return 4 * dim**2 + 4 * dim + 2 * dim * hidden + hidden + dim + 4 * dim + 4


def nll_parameters(dim: int, ratio: float) -> int:
    """Parameters of a `NonLinearProjection`: two layers, biases, a norm, two coefficients."""
    hidden = hidden_features(dim, ratio)
    return 2 * dim * hidden + hidden + dim + 2 * dim + 2


def attention_macs(tokens: int, dim: int, groups: Sequence[int]) -> int:
    """Multiply-accumulates of the attention maps of all passes, the sum of ``2 tokens^2 dim / groups``.

    With as many groups as passes in each it is that of one global attention. Raises ``ValueError`` unless
    all groups divide the tokens.
    """
    for number in groups:
        checks.divides(tokens, "the number of tokens", groups=number)
    return sum(2 * tokens * (tokens // number) * dim for number in groups)


def slot_parameters(dim: int, spec: Spec) -> int:
    """Parameters of one slot: its block, stored once or once a pass, and its NLLs, stored once a pass."""
    loops = len(spec.groups[0])
    blocks = block_parameters(dim, spec.mlp_ratio) * (1 if spec.share else loops)
    return blocks + (loops * nll_parameters(dim, spec.nll_ratio) if spec.nll else 0)


def macs_by_stage(spec: Spec, image: int, in_chans: int = 3, classes: int = 1000) -> list[dict[str, int]]:
    """Multiply-accumulates of each stage by `PARTS`; stem, downsampling and read-out are other."""
    sides = stage_sides(spec, image)
    stages = []
    for index, (dim, side) in enumerate(zip(spec.dims, sides, strict=True)):
        tokens, slots, loops = side**2, spec.blocks[index], len(spec.groups[index])
        if index:
            into = tokens * dim * 9
        elif spec.patch:
            into = tokens * dim * in_chans * spec.patch**2
        else:
            half, areas = dim // 2, (16 * tokens, 4 * tokens, tokens)
            into = 9 * sum(
                n * a * b for n, a, b in zip(areas, (in_chans, half, dim), (half, dim, dim), strict=True)
            )
        per_token = slots * loops * tokens * dim
        nll = 2 * per_token * hidden_features(dim, spec.nll_ratio)
        stages.append(
            {
                "attention weights": 4 * per_token * dim,
                "attention maps": slots * attention_macs(tokens, dim, spec.groups[index]),
                "MLP": 2 * per_token * hidden_features(dim, spec.mlp_ratio),
                "NLL": nll if spec.nll else 0,
                "other": into,
            }
        )
    stages[-1]["other"] += spec.dims[-1] * classes
    return stages


def sret_counts(spec: Spec, image: int = 224, in_chans: int = 3, classes: int = 1000) -> Count:
    """What `SReT` stores and computes, in closed form: a shared block is stored once and computed every pass.

    Raises ``ValueError`` as `SReT` does.
    """
    first, last = spec.dims[0], spec.dims[-1]
    side = stage_sides(spec, image)[0]
    if spec.patch:
        stem = in_chans * spec.patch**2 * first + first
    else:
        half = first // 2
        # Weights, and for each channel a bias, and BatchNorm's two.
        stem = 9 * (in_chans * half + half * first + first * first) + 3 * (half + first + first)
    downs = sum(10 * dim for dim in spec.dims[1:])
    slots = sum(
        blocks * slot_parameters(dim, spec) for dim, blocks in zip(spec.dims, spec.blocks, strict=True)
    )
    parameters = stem + side**2 * first + downs + slots + 2 * last + last * classes + classes
    return Count(
        parameters, sum(sum(parts.values()) for parts in macs_by_stage(spec, image, in_chans, classes))
    )


def widened(spec: Spec, most: int, image: int, in_chans: int, classes: int) -> Spec:
    """The network with the widest MLPs of its blocks that keep it within ``most`` parameters.

    Raises ``ValueError`` for more than one stage, or if one hidden feature is too much already.
    """
    checks.between(1, 1, "stages", **{"number of dims": len(spec.dims)})
    dim = spec.dims[0]

    def made(hidden: int) -> Spec:
        # Half a feature more, so that no rounding takes one away.
        return spec._replace(mlp_ratio=(hidden + 0.5) / dim)

    one, two = (sret_counts(made(h), image, in_chans, classes).parameters for h in (1, 2))
    if one > most:
        raise ValueError(f"most must be >= {one}, the parameters with one hidden feature, got {most}")
    return made(1 + (most - one) // (two - one))


def counted(spec: Spec, image: int = 224) -> Count:
    """What `sret_counts` has, counted by torch on the network itself, which is built without memory."""
    with torch.device("meta"):
        net = SReT(spec, image)
    return Count(cost.parameters(net), cost.macs(net, (1, 3, image, image)))


def map_ratio(tokens: int, dim: int, loops: int, groups: int, *, weights: bool = False) -> float:
    """Multiply-accumulates of attention in ``loops`` passes of ``groups`` over one global attention.

    Counted by torch on the layer; without ``weights`` the attention maps alone, less the linear layers' part.
    """
    with torch.device("meta"):
        layer = GroupAttention(dim, 1)
    linear = 0 if weights else 4 * tokens * dim**2
    sliced, whole = (cost.macs(layer, (1, tokens, dim), g) - linear for g in (groups, 1))
    return loops * sliced / whole


def saving(sliced: Spec, image: int = 224) -> float:
    """Per cent of the multiply-accumulates that slicing saves over the same network with one group."""
    whole = sret_counts(sliced.with_loops(len(sliced.groups[0])), image).macs
    return 100 * (1 - sret_counts(sliced, image).macs / whole)


# --- digits amid noise ------------------------------------------------------------------------------------

SIDE, MARGIN = 8, 2
"""The side of a digit, and the width of the noise around it, in pixels."""

WHOLE, CLASSES = SIDE + 2 * MARGIN, 10
"""The side of an image, and how many digits there are."""


def amid_noise(digits: Tensor, generator: torch.Generator) -> Tensor:
    """8 x 8 digits in the middle of 12 x 12 pixels of noise, uniform in 0..0.5: a small task of fourfold's.

    ``digits``: (n, 8, 8) in 0..1. Returns (n, 1, 12, 12), standardised by ``(v - 0.25) / 0.3``. Raises
    ``ValueError`` for another shape.
    """
    if digits.shape != (len(digits), SIDE, SIDE):
        raise ValueError(f"digits must be (n, {SIDE}, {SIDE}), got {tuple(digits.shape)}")
    canvas = torch.rand(len(digits), WHOLE, WHOLE, generator=generator) / 2
    canvas[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = digits
    return ((canvas - 0.25) / 0.3)[:, None]


# --- the networks compared ----------------------------------------------------------------------------------

HEAD = 8
"""Features of a head in the small networks."""


def compared(
    dim: int, blocks: int, mlp_ratio: float, nll_ratio: float, patch: int, sliced: Sequence[int]
) -> dict[str, Spec]:
    """The small networks of fourfold's experiment, by name; they read the images of `amid_noise`.

    ``sliced``: groups of the first and of the second pass. *Wider* gives the weights of the NLLs to the MLPs,
    *narrow* those of the blocks to twice as many blocks, two thirds as wide, each run once.
    """

    def spec(*groups: int, **how: Any) -> Spec:
        plain = Spec(
            (dim,), (dim // HEAD,), (blocks,), (groups,), mlp_ratio, nll_ratio, nll=False, patch=patch
        )
        return plain._replace(**how)

    def filled(network: Spec, like: Spec) -> Spec:
        return widened(network, small_counts(like).parameters, WHOLE, 1, CLASSES)

    one, two, nll = spec(1), spec(1, 1), spec(1, 1, nll=True)
    thin, alone = max(1, round(dim / HEAD * 2 / 3)), (WHOLE // patch) ** 2
    narrow = spec(1, dims=(HEAD * thin,), heads=(thin,), blocks=(2 * blocks,))
    return {
        "one pass": one,
        "one pass, 2 x epochs": one,
        "two passes": two,
        "four narrow blocks": filled(narrow, one),
        "two passes, NLL": nll,
        "two passes, wider": filled(two, nll),
        "sliced": spec(*sliced, nll=True),
        "second pass alone": spec(1, alone, nll=True),
    }


def small_counts(spec: Spec) -> Count:
    """`sret_counts` of a network for the images of `amid_noise`."""
    return sret_counts(spec, WHOLE, 1, CLASSES)


# --- what passes do ---------------------------------------------------------------------------------------


@torch.no_grad()
def update_cosines(net: SReT, images: Tensor) -> Tensor:
    """How alike two passes in a row change a token: mean cosine of their changes, (slots, loops - 1).

    1 where the second pass goes on in the direction of the first, -1 where it takes it back.
    ``images``: (batch, in_chans, image, image).
    """
    found = []
    for states in net.slots(images):
        changes = [b - a for a, b in itertools.pairwise(states)]
        found.append(
            torch.stack(
                [torch.cosine_similarity(a, b, dim=-1).mean() for a, b in itertools.pairwise(changes)]
            )
        )
    return torch.stack(found)
