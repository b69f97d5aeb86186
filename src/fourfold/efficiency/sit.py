"""SiT: shrink the tokens of a vision transformer by weighted averages, and blow them up again to teach it.

Zong, Li, Song, Wang, Qiao, Leng and Liu, "Self-slimmed Vision Transformer", arXiv 2111.12624, ECCV 2022. What
is not in the text, such as where the softmax runs and which modules are decayed, follows the official code
(Sense-X/SiT); this code is new.

Implemented: token slimming (TSM, section 3.1 of the paper), reverse token slimming (RTSM, 3.2), the loss of
feature recalibration distillation (FRD), rivals with as many tokens (hard dropping, mean pooling, learned
weights that no image changes), and LV-ViT at its five published sizes for counts and times.

Departures. The weights start as in ``torch.nn``, not from a normal distribution of width 0.02, which networks
of 32 features hardly learn from. Weight decay is the same for all. No second, convolutional teacher: its code
path never ran. LayerNorm has this book's epsilon, 1e-6, and a block's three projections are three layers.
The teacher learns from its class token alone, as LV-ViT does not, so that nothing trains what its last block
makes of the patches; FRD teaches it all the same.

Tokens are (batch, N, dim). In a network the class token stands before them and is never slimmed.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from fourfold import checks, cost, training
from fourfold.attention import EPS, MLP, Attention, Block, ViT

# --- fewer tokens -----------------------------------------------------------------------------------------


class TokenSlimming(nn.Module):
    """TSM: ``n_out`` averages of the tokens, each with weights of its own that the tokens themselves decide.

    ``softmax over tokens of tau * W2 gelu(W1 norm(x))``; the average is of ``x``, not of ``norm(x)``. The
    hidden layer has ``ratio * dim`` features, ``tau`` is one learnable number, 1 at the start.
    Raises ``ValueError`` for n_out < 1 or a hidden layer without features.
    """

    def __init__(self, dim: int, n_out: int, ratio: float = 0.5):
        super().__init__()
        hidden = int(ratio * dim)
        checks.at_least(1, n_out=n_out, hidden=hidden)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, n_out)
        self.tau = nn.Parameter(torch.ones(()))

    def weights(self, x: Tensor, attention: Tensor | None = None) -> Tensor:
        """(batch, N, dim) -> (batch, n_out, N), every row positive with the sum 1."""
        scores = self.tau * self.down(functional.gelu(self.up(self.norm(x))))
        return scores.softmax(dim=-2).mT

    def forward(self, x: Tensor, attention: Tensor | None = None) -> Tensor:
        """(batch, N, dim) -> (batch, n_out, dim); the attention of the block before is not asked."""
        return self.weights(x) @ x


class StaticSlimming(nn.Module):
    """A rival without the mechanism: averages whose weights are learnt, but are the same for every image.

    Raises ``ValueError`` for n_in < 1 or n_out < 1.
    """

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        checks.at_least(1, n_in=n_in, n_out=n_out)
        self.scores = nn.Parameter(torch.randn(n_out, n_in))

    def forward(self, x: Tensor, attention: Tensor | None = None) -> Tensor:
        """(batch, n_in, dim) -> (batch, n_out, dim)."""
        return self.scores.softmax(dim=-1) @ x


class MeanPooling(nn.Module):
    """The lazy rival: the mean of each rectangle of neighbours, ``before`` and ``after`` in rows and columns.

    Raises ``ValueError`` unless ``after`` divides ``before``.
    """

    def __init__(self, before: tuple[int, int], after: tuple[int, int]):
        super().__init__()
        for size, fewer in zip(before, after, strict=True):
            checks.divides(size, "the side before", after=fewer)
        self.sizes = (after[0], before[0] // after[0], after[1], before[1] // after[1])

    def forward(self, x: Tensor, attention: Tensor | None = None) -> Tensor:
        """(batch, rows * columns, dim) -> (batch, fewer, dim)."""
        return x.unflatten(-2, self.sizes).mean((-4, -2)).flatten(-3, -2)


class NormPooling(MeanPooling):
    """Mean pooling that looks and does not learn: a softmax of the tokens' norms weighs each rectangle."""

    def forward(self, x: Tensor, attention: Tensor | None = None) -> Tensor:
        """(batch, rows * columns, dim) -> (batch, fewer, dim)."""
        parts = x.unflatten(-2, self.sizes).transpose(-4, -3).flatten(-3, -2)
        weights = torch.linalg.vector_norm(parts, dim=-1, keepdim=True).softmax(dim=-2)
        return (weights * parts).sum(-2).flatten(-3, -2)


class HardDrop(nn.Module):
    """The rival that drops: the ``n_out`` tokens to which the class token of the block before attends most.

    Raises ``ValueError`` for n_out < 1.
    """

    def __init__(self, n_out: int):
        super().__init__()
        checks.at_least(1, n_out=n_out)
        self.n_out = n_out

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """(batch, N, dim), attention (batch, heads, N + 1, N + 1) -> (batch, n_out, dim)."""
        return hard_drop(x, attention[..., 0, 1:].mean(-2), self.n_out)

    def weights(self, x: Tensor, attention: Tensor) -> Tensor:
        """The same as averages, each of one token: (batch, n_out, N)."""
        return self.forward(torch.eye(x.shape[-2]).to(x).expand(*x.shape[:-2], -1, -1), attention)


def hard_drop(x: Tensor, scores: Tensor, k: int) -> Tensor:
    """The ``k`` tokens of highest score, the highest first: (batch, N, dim), (batch, N) -> (batch, k, dim).

    Raises ``ValueError`` for k outside 1..N or scores of another shape.
    """
    checks.between(1, x.shape[-2], "the tokens there are", k=k)
    if scores.shape != x.shape[:-1]:
        raise ValueError(f"scores must be {tuple(x.shape[:-1])}, got {tuple(scores.shape)}")
    # Stable, so that a tie is broken alike everywhere.
    kept = scores.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return x.gather(-2, kept[..., None].expand(*kept.shape, x.shape[-1]))


GRIDS = {32: (4, 8), 16: (4, 4), 8: (2, 4), 4: (2, 2), 2: (1, 2), 1: (1, 1)}
"""Rows and columns of as many tokens of an image that is twice as wide as high, for ``MeanPooling``."""

REDUCERS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "TSM": lambda dim, before, after: TokenSlimming(dim, after),
    "hard": lambda dim, before, after: HardDrop(after),
    "mean": lambda dim, before, after: MeanPooling(GRIDS[before], GRIDS[after]),
    "static": lambda dim, before, after: StaticSlimming(before, after),
    "norm": lambda dim, before, after: NormPooling(GRIDS[before], GRIDS[after]),
}
"""What makes ``after`` tokens of ``dim`` features out of ``before``: the mechanism and its rivals."""


def one_hot_slimming(x: Tensor, scores: Tensor, k: int) -> Tensor:
    """Soft slimming in the limit of dropping: each average scores one of the ``k`` best 1e4, all others -1e4.

    (batch, N, dim), (batch, N) -> (batch, k, dim), the best first.
    """
    best = scores.argsort(dim=-1, descending=True, stable=True)[..., None, :k]
    picked = torch.full((*x.shape[:-1], k), -1e4, dtype=x.dtype).scatter(-2, best, 1e4)
    return picked.softmax(dim=-2).mT @ x


def untouched(module: nn.Module, x: Tensor, attention: Tensor) -> int:
    """How many of the tokens (batch, N, dim) get no gradient from all that ``module`` leaves."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x, attention).sum(), x)
    return int((gradient.abs().sum(-1) == 0).sum())


# --- all tokens again, to teach ---------------------------------------------------------------------------


class ReverseTokenSlimming(nn.Module):
    """RTSM: from ``n_in`` tokens back to ``n_out``, by an MLP across tokens and one across features.

    The first is not residual: there is nothing of the right size to add. Used in training only.
    Raises ``ValueError`` for a size < 1.
    """

    def __init__(self, dim: int, n_in: int, n_out: int, ratio: int = 4):
        super().__init__()
        checks.at_least(1, n_in=n_in, n_out=n_out, ratio=ratio)
        self.norm_tokens = nn.LayerNorm(dim, eps=EPS)
        self.up, self.down = nn.Linear(n_in, ratio * n_out), nn.Linear(ratio * n_out, n_out)
        self.norm_features = nn.LayerNorm(dim, eps=EPS)
        self.mlp = MLP(dim, ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, dim) -> (batch, n_out, dim)."""
        y = self.down(functional.gelu(self.up(self.norm_tokens(x).mT))).mT
        return y + self.mlp(self.norm_features(y))


class RepeatTokens(nn.Module):
    """RTSM without what it learns: every token is repeated, neighbours alike, until there are ``n_out``.

    Raises ``ValueError`` for n_in < 1 or n_out < n_in.
    """

    def __init__(self, dim: int, n_in: int, n_out: int):
        super().__init__()
        checks.between(1, n_out, "n_out", n_in=n_in)
        self.places = [place * n_in // n_out for place in range(n_out)]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, dim) -> (batch, n_out, dim)."""
        return x[..., self.places, :]


# --- networks ---------------------------------------------------------------------------------------------


class Backbone(Protocol):
    """What can be slimmed: ``patches`` makes images into tokens, ``vit`` goes on with them."""

    @property
    def patches(self) -> nn.Module:
        """Images -> tokens (batch, N, dim)."""

    @property
    def vit(self) -> ViT:
        """Tokens -> classes."""


class SlimViT(nn.Module):
    """A backbone whose tokens fall to ``n_tokens[i]`` after block ``after_blocks[i]``, counted from 0.

    The parameters of the backbone keep their names. ``reduce`` makes what does it from a stage's number, for
    which a rival may stand; without it this is ``TokenSlimming``. With no ``after_blocks`` it is the backbone
    with all its tokens: the teacher.
    Raises ``ValueError`` unless blocks rise within the depth and numbers fall from the backbone's, one each.
    """

    def __init__(
        self,
        backbone: Backbone,
        after_blocks: Sequence[int],
        n_tokens: Sequence[int],
        reduce: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        dim = backbone.vit.cls.shape[-1]
        check_stages(after_blocks, n_tokens, len(backbone.vit.blocks), len(backbone.vit.positions) - 1)
        self.patches, self.vit = backbone.patches, backbone.vit
        self.after_blocks, self.n_tokens = tuple(after_blocks), tuple(n_tokens)
        self.slim = nn.ModuleList(
            TokenSlimming(dim, fewer) if reduce is None else reduce(stage)
            for stage, fewer in enumerate(n_tokens)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits (batch, classes)."""
        return self.classes_and_tokens(images)[0]

    def classes_and_tokens(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images -> logits (batch, classes), and what every block passes on: (batch, its tokens, dim)."""
        x, tokens = self.vit.embed(self.patches(images)), []
        for index, block in enumerate(self.vit.blocks):
            x, attention = block(x)
            if index in self.after_blocks:
                slim = self.slim[self.after_blocks.index(index)]
                x = torch.cat([x[..., :1, :], slim(x[..., 1:, :], attention)], dim=-2)
            tokens.append(x[..., 1:, :])
        return self.vit.classify(x), tokens

    def tokens_after(self) -> list[int]:
        """How many tokens every block passes on, without the class token."""
        counts, now = [], len(self.vit.positions) - 1
        for index in range(len(self.vit.blocks)):
            if index in self.after_blocks:
                now = self.n_tokens[self.after_blocks.index(index)]
            counts.append(now)
        return counts


def slimmed(backbone: Backbone, way: str, after_blocks: Sequence[int], n_tokens: Sequence[int]) -> SlimViT:
    """A student whose tokens are reduced in one of the ways of ``REDUCERS``; ``ValueError`` for another."""
    checks.one_of(REDUCERS, way=way)
    dim, before = backbone.vit.cls.shape[-1], (len(backbone.vit.positions) - 1, *n_tokens)
    return SlimViT(backbone, after_blocks, n_tokens, lambda i: REDUCERS[way](dim, before[i], n_tokens[i]))


def check_stages(after_blocks: Sequence[int], n_tokens: Sequence[int], depth: int, tokens: int) -> None:
    """Raises ``ValueError`` unless blocks rise within depth and numbers, one each, fall from ``tokens``."""
    rising = all(one < other for one, other in pairwise(after_blocks))
    if not rising or not all(0 <= block < depth for block in after_blocks):
        raise ValueError(f"after_blocks must rise within 0..{depth - 1}, got {list(after_blocks)}")
    if len(n_tokens) != len(after_blocks):
        raise ValueError(f"n_tokens must be one for each of {len(after_blocks)}, got {list(n_tokens)}")
    if not all(one > other >= 1 for one, other in pairwise([tokens, *n_tokens])):
        raise ValueError(f"n_tokens must fall from {tokens} and be >= 1, got {list(n_tokens)}")


@torch.no_grad()
def patch_weights(net: SlimViT, images: Tensor) -> list[Tensor]:
    """How much of each patch's token is in what every stage leaves: (batch, n_out, N), a tensor a stage.

    The weights of all stages so far multiplied; a row has the sum 1. What blocks in between mix is not seen.
    """
    found: list[Tensor] = []
    hooks = [
        slim.register_forward_pre_hook(lambda slim, given: found.append(slim.weights(*given)))
        for slim in net.slim
    ]
    net(images)
    for hook in hooks:
        hook.remove()
    for stage in range(1, len(found)):
        found[stage] = found[stage] @ found[stage - 1]
    return found


def cut_off(stages: Sequence[Tensor], mask: Tensor, below: float = 1 / 20) -> float:
    """Share of the patches in ``mask`` (images, N) with less than ``below`` of an equal share at all stages.

    ``stages``: what ``patch_weights`` returns, (images, n_out, N) each.
    """
    nothing = [weights.mean(-2) < below / weights.shape[-1] for weights in stages]
    return float(torch.stack(nothing).all(0)[mask].double().mean())


def preference(weights: Tensor, mask: Tensor, others: Tensor) -> float:
    """Mean of weights (images, n_out, N) over patches in ``mask``, (images, N), over that of ``others``."""
    weights = weights.mean(-2)
    return float(weights[mask].mean() / weights[others].mean())


@torch.no_grad()
def sharpened(net: SlimViT, factor: float) -> SlimViT:
    """A copy whose scores are multiplied: with a large factor every average is nearly one token."""
    twin = copy.deepcopy(net)
    for slim in twin.slim:
        cast(TokenSlimming, slim).tau.mul_(factor)
    return twin


# --- distillation -----------------------------------------------------------------------------------------


def token_error(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of all tokens, mean over blocks: lists of (batch, N, dim) -> (batch,)."""
    errors = [(one - other).square().mean((-2, -1)) for one, other in zip(student, teacher, strict=True)]
    return torch.stack(errors).mean(0)


def frd_loss(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor,
    labels: Tensor,
    *,
    lambda_token: float = 2.0,
    lambda_logits: float = 2.0,
    tau: float = 1.0,
) -> dict[str, Tensor]:
    """The loss of feature recalibration distillation, its three terms and their ``total``.

    ``student`` and ``teacher``: logits (batch, classes); ``tokens``: (batch,), of ``token_error``;
    ``labels``: (batch,). ``classes`` is cross-entropy, ``logits`` is ``tau^2 KL(teacher || student)`` at
    temperature tau.
    Raises ``ValueError`` for a weight < 0 or tau <= 0.
    """
    checks.finite(lambda_token=lambda_token, lambda_logits=lambda_logits)
    checks.finite(above=True, tau=tau)
    log_student, log_teacher = (functional.log_softmax(logits / tau, -1) for logits in (student, teacher))
    terms = {
        "classes": functional.cross_entropy(student, labels),
        "tokens": tokens.mean(),
        "logits": tau**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean(),
    }
    total = terms["classes"] + lambda_token * terms["tokens"] + lambda_logits * terms["logits"]
    return terms | {"total": total}


class Recalibrated(nn.Module):
    """A student beside its frozen teacher, and what expands its tokens to the teacher's number at each block.

    ``expand``, ``(dim, n_in, n_out) -> module``, makes the RTSMs; a block before the first slimming has none.
    In evaluation this is the student alone.
    """

    def __init__(
        self,
        student: SlimViT,
        teacher: SlimViT,
        expand: Callable[[int, int, int], nn.Module] = ReverseTokenSlimming,
    ):
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)
        dim, full = teacher.vit.cls.shape[-1], teacher.tokens_after()[0]
        self.expand = nn.ModuleList(
            nn.Identity() if fewer == full else expand(dim, fewer, full) for fewer in student.tokens_after()
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images -> the student's logits (batch, classes); in training the token error stands behind them."""
        if not self.training:
            return self.student(images)
        with torch.no_grad():
            _, whole = self.teacher.classes_and_tokens(images)
        logits, tokens = self.student.classes_and_tokens(images)
        expanded = [make(x) for make, x in zip(self.expand, tokens, strict=True)]
        return torch.cat([logits, token_error(expanded, whole)[..., None]], -1)


def distillation_loss(output: Tensor, targets: Tensor, **weights: float) -> Tensor:
    """The total of ``frd_loss``, as ``training.train`` takes it.

    ``targets``: (batch, 1 + classes), label and teacher's logits. ``output``: (batch, classes), or one more
    with the token error of ``Recalibrated``; without it only classes and logits are compared.
    """
    classes = targets.shape[-1] - 1
    tokens = output[..., classes] if output.shape[-1] > classes else torch.zeros_like(output[..., 0])
    labels = targets[..., 0].long()
    return frd_loss(output[..., :classes], targets[..., 1:], tokens, labels, **weights)["total"]


@torch.no_grad()
def lessons(
    draw: training.Draw, teachers: Sequence[nn.Module], seeds: Sequence[int], epochs: int
) -> list[tuple[Tensor, Tensor]]:
    """What each teacher says of the images of each epoch: pairs in the order in which ``train`` draws them.

    A pair is images and targets (n, 1 + classes), as ``distillation_loss`` takes them. One list serves every
    student.
    """
    streams = [training.stream(seed, "train") for seed in seeds]
    found = []
    for _ in range(epochs):
        for stream, teacher in zip(streams, teachers, strict=True):
            images, labels = draw(stream)
            found.append((images, torch.cat([labels[:, None], teacher(images)], 1)))
    return found


def with_weights(
    make: Callable[[], nn.Module], seeds: Sequence[int], parts: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Weights to start from, stacked over seeds: those of ``make()``, but with ``parts`` already trained.

    ``parts``: what the names of a part begin with, such as ``"student."`` or nothing -> its weights, (seeds,
    ...) each, as ``training.train`` leaves them. Of these, what ``make()`` has no room for is left out.
    """
    states = []
    for seed in seeds:
        with training.seeded(seed):
            states.append(make().state_dict())
    known = {f"{part}{name}": value for part, values in parts.items() for name, value in values.items()}
    return {
        name: known[name] if name in known else torch.stack([state[name] for state in states])
        for name in states[0]
    }


def spared(tokens: int, dim: int) -> int:
    """Multiply-accumulates spared if the last block makes the class token alone, of so many tokens besides.

    The answer is the same. With an MLP of ratio four: ``10 tokens dim^2 + 2 tokens (tokens + 1) dim``.
    """
    return 10 * tokens * dim**2 + 2 * tokens * (tokens + 1) * dim


# --- LV-ViT at its true size ------------------------------------------------------------------------------


class Config(NamedTuple):
    """One published size: SiT's stages have ``blocks`` blocks, at whose ends, but the last, tokens halve."""

    dim: int
    heads: int
    blocks: tuple[int, ...]
    image: int = 224
    skip: float = 2.0
    """Both branches of a block are divided by it before they are added."""
    stem: int = 4
    """Convolutions in the stem: four of stride 2, and two of stride 1 behind the first."""


CONFIGS = {
    "T": Config(320, 5, (1, 1, 1, 11)),
    "XS": Config(384, 6, (1, 1, 1, 13)),
    "S": Config(384, 6, (9, 3, 2, 2)),
    "M": Config(512, 8, (10, 4, 3, 3)),
    "L": Config(768, 12, (10, 4, 3, 7), image=288, skip=3.0, stem=6),
}
CLASSES, MLP_RATIO, PATCH = 1000, 3, 16


def lvvit_config(name: str) -> Config:
    """A published size. Raises ``ValueError`` for another name than T, XS, S, M, L."""
    checks.one_of(CONFIGS, name=name)
    return CONFIGS[name]


class Stem(nn.Sequential):
    """Convolutions of 3 x 3 with BatchNorm and, but for the last, GELU; a token stands for 16 x 16 pixels."""

    def __init__(self, dim: int, convolutions: int):
        narrow = [dim // 8] * (convolutions - 4)
        widths = [3, dim // 8, *narrow, dim // 4, dim // 2, dim]
        strides = [2, *[1] * len(narrow), 2, 2, 2]
        layers: list[nn.Module] = []
        for (before, after), stride in zip(pairwise(widths), strides, strict=True):
            conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.GELU()]
        super().__init__(*layers[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, height * width / 256, dim)."""
        return rearrange(super().forward(images), "batch dim rows columns -> batch (rows columns) dim")


class LVBlock(Block):
    """A block whose branches are divided by ``skip``; queries, keys and values have no bias."""

    def __init__(self, dim: int, heads: int, skip: float):
        attention = Attention(dim, heads, partial(nn.Linear, bias=False))
        attention.projection = nn.Linear(dim, dim)
        super().__init__(dim, attention, MLP(dim, MLP_RATIO * dim))
        self.skip = skip

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        """(batch, tokens, dim) -> the same, and attention (batch, heads, tokens, tokens)."""
        mixed, attention = self.attention(self.norm_attention(x))
        x = x + mixed / self.skip
        return x + self.mlp(self.norm_mlp(x)) / self.skip, attention


class LVViT(nn.Module):
    """LV-ViT (Jiang et al., arXiv 2104.10858), SiT's backbone, less the head that only its training used."""

    def __init__(self, config: Config):
        super().__init__()
        dim, tokens = config.dim, (config.image // PATCH) ** 2
        self.patches = Stem(dim, config.stem)
        self.vit = ViT(tokens=tokens, dim=dim, depth=1, heads=config.heads, mlp_ratio=1, classes=CLASSES)
        self.vit.blocks = nn.ModuleList(
            LVBlock(dim, config.heads, config.skip) for _ in range(sum(config.blocks))
        )


def slimmed_lvvit(config: Config, reduce: Callable[[int], nn.Module] | None = None) -> SlimViT:
    """SiT of this size: tokens halve, rounded down from the first number, after each stage but the last."""
    ends = [sum(config.blocks[: stage + 1]) - 1 for stage in range(len(config.blocks) - 1)]
    tokens = (config.image // PATCH) ** 2
    fewer = [tokens // 2 ** (stage + 1) for stage in range(len(ends))]
    return SlimViT(LVViT(config), ends, fewer, reduce)


class Counts(NamedTuple):
    """Parameters of a network, and multiply-accumulates for one image."""

    parameters: int
    macs: int


def lvvit_counts(name: str, slim: bool, expand: bool = False) -> Counts:
    """Parameters and cost of SiT, or without ``slim`` of its teacher, on torch's meta device.

    The published sizes include the head with which LV-ViT learnt from labels for every token, which nothing
    uses any more, and so do these. ``expand`` counts the RTSMs, too, which inference does not have.
    Raises ``ValueError`` for an unknown name.
    """
    config = lvvit_config(name)
    with torch.device("meta"):
        net = slimmed_lvvit(config) if slim else SlimViT(LVViT(config), [], [])
        unused = cost.parameters(nn.Linear(config.dim, CLASSES))
        full = (config.image // PATCH) ** 2
        reverse = [ReverseTokenSlimming(config.dim, n, full) for n in net.tokens_after() if n < full]
    parameters = cost.parameters(net) + unused + (sum(map(cost.parameters, reverse)) if expand else 0)
    return Counts(parameters, cost.macs(net, (1, 3, config.image, config.image)))
