"""A vision transformer over tokens that are already embedded, with every attention map in the open.

Pre-norm blocks as in Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv 2010.11929): learned CLS and
positions, exact GELU, LayerNorm eps 1e-6, scale ``1/sqrt(dim_head)``. The linear layers come from a factory
``(dim_in, dim_out) -> module``, so a paper that replaces them says only what it replaces them with.
Departures: the patches arrive as tokens (no patch embedding), no dropout, one linear layer reads the class
from CLS.

A token axis is ``tokens + 1`` long: CLS first, then the cells of the image in their order.
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

Linear = Callable[[int, int], nn.Module]
Mixing = Literal["softmax", "uniform"]
Reduce = Callable[[Tensor, Tensor], Tensor]
"""Tokens (..., tokens, dim) and attention (..., heads, tokens, tokens) -> fewer tokens (..., fewer, dim)."""

EPS = 1e-6
"""LayerNorm's epsilon, ViT's value and not torch's 1e-5."""


def target_mass(attention: Tensor, target: Tensor) -> Tensor:
    """Mean attention that CLS pays to one cell of each image, per layer and head.

    ``attention``: (batch, depth, heads, tokens+1), as ``ViT`` returns it. ``target``: (batch,), cells counted
    from 0 without CLS. Returns (depth, heads). Raises ``ValueError`` unless target is a cell for each image.
    """
    cells = attention.shape[-1] - 1
    if len(target) != len(attention):
        raise ValueError(f"target must be one cell for each of {len(attention)} images, got {len(target)}")
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < cells:
        raise ValueError(
            f"target must be a cell, 0..{cells - 1}, got {int(target.min())}..{int(target.max())}"
        )
    image = torch.arange(len(target), device=target.device)
    return attention[image, ..., target + 1].mean(0)


def best_head(mass: Tensor, layers: Literal["last", "any"] = "last") -> float:
    """The largest entry of ``mass`` (depth, heads) in the last layer, or in any layer.

    Heads are compared by their mean over images, so one head answers for all of them. A task that one look-up
    solves is scored over ``"any"`` layer, a task of two steps by the ``"last"``.
    Raises ``ValueError`` for another value of ``layers``.
    """
    if layers not in ("last", "any"):
        raise ValueError(f"layers must be 'last' or 'any', got {layers!r}")
    return float(mass[-1].max() if layers == "last" else mass.max())


def attention_score(mass: float, tokens: int) -> float:
    """Attention on the target, rescaled: 0 is uniform attention, 1 is all of it; below 0 it looks away.

    ``(mass - c) / (1 - c)`` with chance ``c = 1 / (tokens + 1)``, since CLS too can be attended to.
    fourfold's own definition. Raises ``ValueError`` for a mass outside 0..1 or fewer than 1 token.
    """
    if tokens < 1:
        raise ValueError(f"tokens must be >= 1, got {tokens}")
    if not -1e-6 <= mass <= 1 + 1e-6:
        raise ValueError(f"mass must be in 0..1, a share of attention, got {mass}")
    chance = 1 / (tokens + 1)
    return (mass - chance) / (1 - chance)


def best_look(
    attention: Tensor, target: Tensor, layers: Literal["last", "any"] = "last"
) -> tuple[float, Tensor]:
    """How well the best head of CLS finds the target: its `attention_score`, and where it looks.

    ``attention`` and ``target`` as in `target_mass`, ``layers`` as in `best_head`, and so are the errors.
    Returns the score and that head's attention to the cells, (batch, tokens).
    """
    mass = target_mass(attention, target)
    score = attention_score(best_head(mass, layers), attention.shape[-1] - 1)
    chosen = mass if layers == "any" else mass[-1:]
    layer, head = divmod(int(chosen.argmax()), mass.shape[1])
    return score, attention[:, len(mass) - len(chosen) + layer, head, 1:]


@torch.no_grad()
def attention_maps(model: "ViT", x: Tensor) -> Tensor:
    """Who looks where, for every token and not CLS alone.

    ``x``: (batch, tokens, dim). Returns (batch, depth, heads, tokens+1, tokens+1): entry [..., i, j] is how
    much token i takes from token j, CLS the first.
    """
    x, maps = model.embed(x), []
    for block in model.blocks:
        x, attention = block(x)
        maps.append(attention)
    return torch.stack(maps, dim=-4)


def with_uniform_attention(model: "ViT") -> "ViT":
    """A copy of ``model`` in which every token attends to all tokens alike, with the same weights."""
    frozen = copy.deepcopy(model)
    for attention in frozen.modules():
        if isinstance(attention, Attention):
            attention.mixing = "uniform"
    return frozen


class Attention(nn.Module):
    """Multi-head self-attention, ``softmax(q k^T * scale) v``, its query, key and value made separately.

    Heads are consecutive stretches of ``dim / heads`` features; ``scale`` is ``1/sqrt(dim / heads)`` unless
    it is given.
    ``mixing="uniform"`` sets every attention weight to ``1/tokens``; queries and keys then do nothing.
    Raises ``ValueError`` if ``heads`` does not divide ``dim`` or ``mixing`` is unknown.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        linear: Linear = nn.Linear,
        mixing: Mixing = "softmax",
        scale: float | None = None,
    ):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must be >= 1 and divide dim, got heads={heads}, dim={dim}")
        if mixing not in ("softmax", "uniform"):
            raise ValueError(f"mixing must be 'softmax' or 'uniform', got {mixing!r}")
        self.heads = heads
        self.mixing: Mixing = mixing
        self.scale = (dim // heads) ** -0.5 if scale is None else scale
        self.query = linear(dim, dim)
        self.key = linear(dim, dim)
        self.value = linear(dim, dim)
        self.projection = linear(dim, dim)

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor]:
        """Mix the first ``queries`` tokens, or all of them, from all tokens.

        (..., tokens, dim) -> (..., queries, dim), and attention (..., heads, queries, tokens).
        """
        v = self._split(self.value(x))
        if self.mixing == "uniform":
            tokens = x.shape[-2]
            attention = v.new_full((*v.shape[:-1], tokens), 1 / tokens)[..., :queries, :]
        else:
            q, k = self._split(self.query(x[..., :queries, :])), self._split(self.key(x))
            scores = rearrange(q @ k.transpose(-2, -1) * self.scale, "... i j -> j ... i")
            # Over the first axis, because torch's softmax over a short last axis is eight times slower.
            attention = rearrange(scores.softmax(dim=0), "j ... i -> ... i j")
        mixed = rearrange(attention @ v, "... heads tokens dim -> ... tokens (heads dim)")
        return self.projection(mixed), attention

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "... tokens (heads dim) -> ... heads tokens dim", heads=self.heads)


class MLP(nn.Module):
    """``dim -> hidden -> dim`` with an exact GELU between the two layers."""

    def __init__(self, dim: int, hidden: int, linear: Linear = nn.Linear):
        super().__init__()
        self.up = linear(dim, hidden)
        self.down = linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., tokens, dim) -> (..., tokens, dim)."""
        return self.down(nn.functional.gelu(self.up(x)))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; in between, tokens can be dropped or pooled."""

    def __init__(self, dim: int, attention: Attention, mlp: nn.Module):
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim, eps=EPS)
        self.attention = attention
        self.norm_mlp = nn.LayerNorm(dim, eps=EPS)
        self.mlp = mlp

    def forward(
        self, x: Tensor, queries: int | None = None, reduce: Reduce | None = None
    ) -> tuple[Tensor, Tensor]:
        """(..., tokens, dim) -> (..., queries, dim), and attention (..., heads, queries, tokens).

        ``reduce`` maps the tokens after attention, (..., queries, dim), and the attention to the fewer tokens
        that go on: (..., fewer, dim).
        """
        mixed, attention = self.attention(self.norm_attention(x), queries)
        x = x[..., :queries, :] + mixed
        if reduce is not None:
            x = reduce(x, attention)
        return x + self.mlp(self.norm_mlp(x)), attention


class PatchEmbedding(nn.Conv2d):
    """Images to tokens: one linear map of every ``patch`` x ``patch`` square, row by row."""

    def __init__(self, channels: int, dim: int, patch: int):
        super().__init__(channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, tokens, dim).

        Raises ``ValueError`` unless ``patch`` divides both sides: what is left over would be lost.
        """
        patch, (height, width) = self.kernel_size[0], x.shape[-2:]
        if height % patch or width % patch:
            raise ValueError(f"patch must divide the image's sides, got {patch} and {height} x {width}")
        return rearrange(super().forward(x), "batch dim rows columns -> batch (rows columns) dim")


class ViT(nn.Module):
    """CLS, positions, ``depth`` blocks, LayerNorm, and a linear read-out of CLS.

    ``tokens`` counts the cells of the image, without CLS. ``linear`` makes the attention's four projections
    and the MLP's two layers; ``mlp``, a factory ``(dim, hidden) -> module``, replaces the MLP alone;
    ``hidden`` is ``mlp_ratio * dim``. The read-out is always ``nn.Linear``.
    Runs under ``torch.func.functional_call`` and ``vmap``. Raises ``ValueError`` for a size below 1.
    """

    def __init__(
        self,
        *,
        tokens: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        classes: int,
        linear: Linear = nn.Linear,
        mlp: Linear | None = None,
        mixing: Mixing = "softmax",
        scale: float | None = None,
    ):
        super().__init__()
        sizes = {"tokens": tokens, "dim": dim, "depth": depth, "mlp_ratio": mlp_ratio, "classes": classes}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be >= 1, got {size}")

        def make_mlp() -> nn.Module:
            hidden = mlp_ratio * dim
            return MLP(dim, hidden, linear) if mlp is None else mlp(dim, hidden)

        self.cls = nn.Parameter(0.02 * torch.randn(dim))
        self.positions = nn.Parameter(0.02 * torch.randn(tokens + 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, heads, linear, mixing, scale), make_mlp()) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens to classes.

        ``x``: (batch, tokens, dim). Returns logits (batch, classes) and the attention of CLS, (batch, depth,
        heads, tokens+1): entry [..., j] is how much it takes from token j, itself the first.
        Only CLS is read, so the last block computes no other token: exact, and a quarter cheaper in all.
        Raises ``ValueError`` for another number of tokens or features.
        """
        x = self.embed(x)
        attentions = []
        for index, block in enumerate(self.blocks, start=1):
            x, attention = block(x, queries=1 if index == len(self.blocks) else None)
            attentions.append(attention[..., 0, :])
        return self.classify(x), torch.stack(attentions, dim=-3)

    def embed(self, x: Tensor) -> Tensor:
        """CLS before the tokens, positions on both: (..., tokens, dim) -> (..., tokens+1, dim)."""
        tokens, dim = self.positions.shape
        if x.shape[-2:] != (tokens - 1, dim):
            raise ValueError(f"expected x of shape (batch, {tokens - 1}, {dim}), got {tuple(x.shape)}")
        return torch.cat([self.cls.expand(*x.shape[:-2], 1, dim), x], dim=-2) + self.positions

    def classify(self, x: Tensor) -> Tensor:
        """What CLS, the first token, says: (..., tokens, dim) -> logits (..., classes)."""
        return self.head(self.norm(x[..., 0, :]))
