"""EViT: a vision transformer that keeps the patches its class token looks at and melts the rest into one.

Liang, Ge, Tong, Song, Wang and Xie, "Not All Patches are What You Need: Expediting Vision Transformers via
Token Reorganizations", arXiv 2202.07800, ICLR 2022. What is not in the text, such as the order of the steps
in a block, follows the official code (youweiliang/evit); this code is new.

Implemented: the reorganisation of tokens (section 3.2 of the paper), DeiT with it, positions for another
resolution (section 4), the cost in closed form, and the way back from kept tokens to places in the image.
Left out is the schedule by which the keep rate falls when the paper trains from scratch: nothing here does.

Departures. Weights start as in ``torch.nn``: DeiT's normal distribution of width 0.02 suits its 384 features,
and a network of 32 hardly starts to learn from it. No stochastic depth and no dropout, so scores are the
attention itself. No distillation token: it would stand among the candidates and could be dropped. Token
counts are what whole numbers say; the official code rounds up a product that floating point has made a little
larger, and so keeps one candidate more at some keep rates: 8 of 100 at 0.07, 56 at 0.55. A model that is
built at keep rate 1 obeys a keep rate that it is given later; the official one then keeps everything.

Tokens are (batch, N, dim), the class token first. The N - 1 others are the candidates of a reorganisation, a
token fused earlier among them, always the last.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fourfold.attention import Attention, Block, PatchEmbedding, ViT

Select = Literal["top", "bottom", "random", "shared"]
SELECTS = ("top", "bottom", "random", "shared")
Rank = Callable[[Tensor], Tensor]
"""Images (batch, channels, height, width) -> a value for each patch, (batch, tokens): what is kept first."""

MLP_RATIO = 4
FUSED = -1
"""The place of a fused token, which has none in the image."""


# --- one reorganisation -----------------------------------------------------------------------------------


def class_attention_scores(attention: Tensor) -> Tensor:
    """What the class token pays to each candidate, mean over heads: (..., heads, N, N) -> (..., N - 1).

    The scores of a row sum to less than 1, since the class token attends to itself too. They are not
    renormalised.
    """
    return attention[..., 0, 1:].mean(-2)


def tokens_kept(candidates: int, keep_rate: float) -> int:
    """``ceil(keep_rate * candidates)``: how many candidates one reorganisation keeps.

    Raises ``ValueError`` for fewer than 1 candidate or a keep rate outside (0, 1].
    """
    if candidates < 1:
        raise ValueError(f"candidates must be >= 1, got {candidates}")
    if not 0 < keep_rate <= 1:
        raise ValueError(f"keep_rate must be > 0 and <= 1, got {keep_rate}")
    # 0.07 * 100 is 7.000000000000001 in floating point, and must be 7; the official code keeps 8.
    return max(1, math.ceil(keep_rate * candidates - 1e-9))


def reorganize(
    x: Tensor,
    scores: Tensor,
    keep: int,
    *,
    fuse: bool = True,
    normalize: bool = False,
    select: Select | Tensor = "top",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Keep the class token and ``keep`` candidates; melt the others into one token behind them.

    ``x``: (batch, N, dim), ``scores``: (batch, N - 1). Returns the new tokens, (batch, keep + 2, dim) or
    without ``fuse`` (batch, keep + 1, dim), and the kept candidates, (batch, keep), counted from 0 without
    the class token and ordered by falling rank. The fused token is the sum of the others weighted by their
    scores; ``normalize`` makes the weights sum to 1. With keep = N - 1 nothing happens.

    ``select``: who is kept, the paper's ``"top"`` or a baseline. ``"bottom"`` keeps the lowest scores,
    ``"random"`` draws from ``generator``, ``"shared"`` keeps the same candidates for the whole batch, those
    with the largest mean score. A tensor, (batch, N - 1), ranks in the scores' place, the largest first; the
    fused token's weights are the scores still.
    Raises ``ValueError`` for scores or ranks of another shape, keep outside 1..N - 1, an unknown ``select``,
    or ``"random"`` without a generator.
    """
    candidates = x.shape[-2] - 1
    if scores.shape != (*x.shape[:-2], candidates):
        raise ValueError(f"scores must be {(*x.shape[:-2], candidates)}, got {tuple(scores.shape)}")
    if not 1 <= keep <= candidates:
        raise ValueError(f"keep must be in 1..{candidates}, got {keep}")
    if keep == candidates:
        return x, torch.arange(candidates, device=x.device).expand(scores.shape)
    # Stable, so that a tie is broken alike everywhere. One order splits into kept and fused: they partition.
    order = _ranks(scores, select, generator).argsort(dim=-1, descending=True, stable=True)
    kept, rest = order[..., :keep], order[..., keep:]
    parts = [x[..., :1, :], _pick(x[..., 1:, :], kept)]
    if fuse:
        weights = scores.gather(-1, rest)
        if normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        parts.append((weights[..., None] * _pick(x[..., 1:, :], rest)).sum(-2, keepdim=True))
    return torch.cat(parts, dim=-2), kept


def original_indices(kept: Sequence[Tensor], fuse: bool = True) -> list[Tensor]:
    """Places in the image of the tokens that each reorganisation kept, -1 for a fused one.

    ``kept``: what ``reorganize`` returned, stage by stage, (batch, keep) each. Same shapes out.
    """
    places: list[Tensor] = []
    for stage in kept:
        if not places:
            places.append(stage)
            continue
        before = places[-1]
        if fuse:
            before = torch.cat([before, torch.full_like(before[..., :1], FUSED)], dim=-1)
        places.append(before.gather(-1, stage))
    return places


def _ranks(scores: Tensor, select: Select | Tensor, generator: torch.Generator | None) -> Tensor:
    if isinstance(select, Tensor):
        if select.shape != scores.shape:
            raise ValueError(f"select must be ranks {tuple(scores.shape)}, got {tuple(select.shape)}")
        return select
    if select == "top":
        return scores
    if select == "bottom":
        return -scores
    if select == "shared":
        return scores.mean(0, keepdim=True).expand_as(scores)
    if select != "random":
        raise ValueError(f"select must be one of {', '.join(SELECTS)}, got {select!r}")
    if generator is None:
        raise ValueError("select = 'random' needs a generator, got None")
    return torch.rand(scores.shape, generator=generator)


def _pick(tokens: Tensor, indices: Tensor) -> Tensor:
    """The tokens (..., n, dim) at ``indices`` (..., k): (..., k, dim)."""
    return tokens.gather(-2, repeat(indices, "... k -> ... k dim", dim=tokens.shape[-1]))


# --- the networks -----------------------------------------------------------------------------------------


class DeiT(nn.Module):
    """DeiT (Touvron et al., arXiv 2012.12877) without distillation: square patches, then a ViT.

    ``whole`` computes every token of every block, as the paper counts. Without it the last block makes only
    the class token, the one that is read: the same logits, cheaper.
    Raises ``ValueError`` for an image that patches do not fill, and for what ``ViT`` refuses.
    """

    def __init__(
        self,
        *,
        image: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        classes: int,
        channels: int = 3,
        whole: bool = True,
    ):
        super().__init__()
        self.patches = PatchEmbedding(channels, dim, patch)
        self.vit = ViT(
            tokens=_tokens(image, patch),
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=MLP_RATIO,
            classes=classes,
        )
        self.whole = whole

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, image, image) -> logits (batch, classes)."""
        x = self.vit.embed(self.patches(images))
        for index, block in enumerate(self.vit.blocks):
            x, _ = block(x, self.queries(index))
        return self.vit.classify(x)

    def queries(self, index: int) -> int | None:
        """How many tokens the block makes: None is all of them."""
        return None if self.whole or index < len(self.vit.blocks) - 1 else 1


class EViT(DeiT):
    """DeiT whose blocks at ``locations``, counted from 0, reorganise tokens between attention and MLP.

    It has DeiT's parameters and no others. ``keep_rate`` may change at any time. ``fuse``, ``normalize``,
    ``select`` and ``generator`` as in ``reorganize``, the rest as in ``DeiT``. ``select`` may also rank the
    patches by the images instead of by attention, once; a fused token, which shows no patch, then ranks last.
    Raises ``ValueError`` for a keep rate outside (0, 1], for locations that do not rise within the depth, and
    for one in a last block that is not ``whole``, where nothing is left to drop.
    """

    def __init__(
        self,
        *,
        image: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        classes: int,
        channels: int = 3,
        whole: bool = True,
        keep_rate: float = 0.7,
        locations: Sequence[int] = (3, 6, 9),
        fuse: bool = True,
        normalize: bool = False,
        select: Select | Rank = "top",
        generator: torch.Generator | None = None,
    ):
        super().__init__(
            image=image,
            patch=patch,
            dim=dim,
            depth=depth,
            heads=heads,
            classes=classes,
            channels=channels,
            whole=whole,
        )
        _check_locations(locations, depth if whole else depth - 1)
        tokens_kept(1, keep_rate)
        self.keep_rate, self.locations, self.fuse, self.normalize = (
            keep_rate,
            tuple(locations),
            fuse,
            normalize,
        )
        self.select: Select | Rank = select
        self.generator = generator

    def forward(self, images: Tensor, keep_rate: float | None = None) -> Tensor:
        """(batch, channels, image, image) -> logits (batch, classes).

        ``keep_rate`` replaces the model's own for this call.
        """
        return self._run(images, keep_rate)[0]

    def kept(self, images: Tensor, keep_rate: float | None = None) -> list[Tensor]:
        """What each reorganisation keeps, (batch, keep) each, counted as ``reorganize`` does."""
        return self._run(images, keep_rate)[1]

    def _run(self, images: Tensor, keep_rate: float | None) -> tuple[Tensor, list[Tensor]]:
        rate = self.keep_rate if keep_rate is None else keep_rate
        stages: list[Tensor] = []
        select = self.select if isinstance(self.select, str) else self.select(images)

        def reduce(tokens: Tensor, attention: Tensor) -> Tensor:
            nonlocal select
            tokens, kept = reorganize(
                tokens, class_attention_scores(attention), tokens_kept(tokens.shape[-2] - 1, rate),
                fuse=self.fuse, normalize=self.normalize, select=select, generator=self.generator,
            )  # fmt: skip
            if isinstance(select, Tensor):
                select = select.gather(-1, kept)
                if tokens.shape[-2] > 1 + kept.shape[-1]:
                    select = torch.cat([select, torch.full_like(select[..., :1], -torch.inf)], dim=-1)
            stages.append(kept)
            return tokens

        x = self.vit.embed(self.patches(images))
        for index, block in enumerate(self.vit.blocks):
            x, _ = block(x, self.queries(index), reduce if index in self.locations else None)
        return self.vit.classify(x), stages


def masked(net: EViT, images: Tensor, keep_rate: float) -> Tensor:
    """The logits of ``net``, keeping the top, with what it drops hidden from attention, not taken out.

    (batch, channels, image, image) -> (batch, classes). No token attends to a hidden one, but all stay in the
    sequence and go through every block, with each stage's fused token behind them: what reorganisation gives,
    without what it saves. Raises ``ValueError`` unless the network is ``whole`` and fuses, without
    ``normalize``, and for what ``tokens_kept`` refuses.
    """
    if not (net.whole and net.fuse) or net.normalize:
        raise ValueError(
            f"masked needs whole = True, fuse = True, normalize = False, got {net.whole}, {net.fuse}, "
            f"{net.normalize}"
        )
    x = net.vit.embed(net.patches(images))
    hidden = torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device)
    candidates = x.shape[-2] - 1
    for index, block in enumerate(cast(Iterable[Block], net.vit.blocks)):
        mixed, attention = _attend(block.attention, block.norm_attention(x), hidden)
        x = x + mixed
        keep = tokens_kept(candidates, keep_rate) if index in net.locations else candidates
        if keep < candidates:
            scores = class_attention_scores(attention)
            order = scores.masked_fill(hidden[:, 1:], -1).argsort(dim=-1, descending=True, stable=True)
            rest = order[:, keep:candidates]
            fused = (scores.gather(-1, rest)[..., None] * _pick(x[:, 1:], rest)).sum(-2, keepdim=True)
            hidden = torch.cat([hidden.scatter(-1, rest + 1, True), torch.zeros_like(hidden[:, :1])], dim=-1)
            x = torch.cat([x, fused], dim=-2)
            candidates = keep + 1
        x = x + block.mlp(block.norm_mlp(x))
    return net.vit.classify(x)


def _attend(attention: Attention, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What ``attention`` makes of ``x``, (batch, N, dim), if no token sees the hidden ones, (batch, N)."""
    q, k, v = (
        rearrange(linear(x), "batch n (heads d) -> batch heads n d", heads=attention.heads)
        for linear in (attention.query, attention.key, attention.value)
    )
    # Softmax over the first axis, as there, so that the mask is the only difference in cost.
    scores = rearrange(q @ k.transpose(-2, -1) * attention.scale, "batch heads i j -> j batch heads i")
    scores = scores.masked_fill(rearrange(hidden, "batch j -> j batch 1 1"), -torch.inf)
    weights = rearrange(scores.softmax(dim=0), "j batch heads i -> batch heads i j")
    mixed = rearrange(weights @ v, "batch heads n d -> batch n (heads d)")
    return attention.projection(mixed), weights


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Positions for a grid of ``side`` x ``side`` patches: (n^2 + 1, dim) -> (side^2 + 1, dim), bicubic.

    The class token's own is left alone. Raises ``ValueError`` for side < 1 or patches that are not a square.
    """
    old = math.isqrt(len(positions) - 1)
    if side < 1 or old < 1 or old**2 != len(positions) - 1:
        raise ValueError(f"expected side >= 1 and n^2 + 1 positions, got {side} and {len(positions)}")
    grid = rearrange(positions[1:], "(y x) dim -> 1 dim y x", y=old)
    resized = interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], rearrange(resized, "1 dim y x -> (y x) dim")])


# --- what it costs ----------------------------------------------------------------------------------------


class BlockCost(NamedTuple):
    """Multiply-accumulates of one block for one image."""

    attention: int
    mlp: int


def token_counts(
    image: int, patch: int, depth: int, keep_rate: float, locations: Sequence[int], fuse: bool = True
) -> list[tuple[int, int]]:
    """Tokens that the attention and then the MLP of each block work on, the class token included.

    Raises ``ValueError`` as ``EViT`` does.
    """
    _check_locations(locations, depth)
    tokens = _tokens(image, patch) + 1
    counts = []
    for block in range(depth):
        before, candidates = tokens, tokens - 1
        keep = tokens_kept(candidates, keep_rate) if block in locations else candidates
        if keep < candidates:
            tokens = 1 + keep + fuse
        counts.append((before, tokens))
    return counts


def block_costs(counts: Iterable[tuple[int, int]], dim: int) -> list[BlockCost]:
    """``4 N d^2 + 2 N^2 d`` for attention on N tokens and ``8 M d^2`` for the MLP on M, block by block."""
    return [
        BlockCost(4 * before * dim**2 + 2 * before**2 * dim, 2 * MLP_RATIO * after * dim**2)
        for before, after in counts
    ]


def evit_macs(
    image: int,
    patch: int,
    dim: int,
    counts: Iterable[tuple[int, int]],
    *,
    channels: int = 3,
    classes: int = 1000,
) -> int:
    """Multiply-accumulates for one image: patch embedding, blocks with these token counts, read-out."""
    embedding = _tokens(image, patch) * channels * patch**2 * dim
    return embedding + sum(sum(cost) for cost in block_costs(counts, dim)) + classes * dim


# --- digits beside background -----------------------------------------------------------------------------

SIDE = 8
"""The side of a digit, and of the background beside it, in pixels."""


class SideBySide(EViT):
    """EViT for the canvases of ``beside``, which are twice as wide as high.

    All but the number of tokens is as in ``EViT``, whose positions are those of a square image.
    Raises ``ValueError`` as ``EViT`` does.
    """

    def __init__(self, *, patch: int, dim: int, depth: int, heads: int, classes: int, **how: Any):
        sizes = {"dim": dim, "depth": depth, "heads": heads, "classes": classes}
        super().__init__(image=SIDE, patch=patch, channels=1, **sizes, **how)  # type: ignore[arg-type]
        self.vit = ViT(tokens=2 * _tokens(SIDE, patch), mlp_ratio=MLP_RATIO, **sizes)  # type: ignore[arg-type]


def beside_background(digits: Tensor, right: Tensor, generator: torch.Generator) -> Tensor:
    """8 x 8 digits beside 8 x 8 pixels of noise, fourfold's own test of which tokens matter.

    ``digits``: (n, 8, 8) in 0..1; ``right``: (n,), bool, whether the digit is the right half. The noise is
    uniform in 0..0.5. Arithmetic on pixels tells the two apart nearly always (``patch_norm``): a digit's
    pixels reach 1, and more than a quarter of its patches of 2 x 2 are entirely 0, which noise never is.
    Returns (n, 1, 8, 16), standardised by ``(v - 0.25) / 0.3``. Raises ``ValueError`` for another shape.
    """
    n = len(digits)
    if digits.shape != (n, SIDE, SIDE) or right.shape != (n,):
        raise ValueError(
            f"expected digits (n, {SIDE}, {SIDE}) and right (n,), got {tuple(digits.shape)} and "
            f"{tuple(right.shape)}"
        )
    pair = torch.stack([digits, torch.rand(digits.shape, generator=generator) / 2], 1)
    canvas = torch.where(right[:, None, None, None], pair.flip(1), pair)
    return (rearrange(canvas, "n half y x -> n 1 y (half x)") - 0.25) / 0.3


def mosaic(digits: Tensor, generator: torch.Generator, patch: int = 2) -> Tensor:
    """Background made of ``digits``, (n, height, width), as many images, that norm and contrast cannot tell.

    Each patch is that of a digit drawn at random, at its place; the pixels in it are dealt out at random.
    So at each place the norms and contrasts of all patches are exactly those of the digits. What differs is
    the order of pixels, within a patch and across its border.
    Raises ``ValueError`` unless patches divide the sides.
    """
    height, width = digits.shape[-2:]
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"patch must be >= 1 and divide the sides, got {patch} and {height} x {width}")
    tiles = _pixels(digits[:, None], patch)
    lender = torch.rand(tiles.shape[:2], generator=generator).argsort(0)
    tiles = tiles.gather(0, lender[..., None].expand(tiles.shape))
    tiles = tiles.gather(-1, torch.rand(tiles.shape, generator=generator).argsort(-1))
    return rearrange(tiles, "n (y x) (a b) -> n (y a) (x b)", y=height // patch, a=patch)


def beside(digits: Tensor, background: Tensor, right: Tensor) -> Tensor:
    """8 x 8 digits, the right half where ``right``, (n,), says so, beside a background: (n, 1, 8, 16).

    ``digits`` and ``background``: (n, 8, 8) in 0..1. Standardised by ``(v - 0.25) / 0.3``.
    Raises ``ValueError`` for another shape.
    """
    if digits.shape != (len(right), SIDE, SIDE) or background.shape != digits.shape:
        raise ValueError(
            f"expected digits and background ({len(right)}, {SIDE}, {SIDE}), got {tuple(digits.shape)} and "
            f"{tuple(background.shape)}"
        )
    pair = torch.stack([digits, background], 1)
    canvas = torch.where(right[:, None, None, None], pair.flip(1), pair)
    return (rearrange(canvas, "n half y x -> n 1 y (half x)") - 0.25) / 0.3


def on_the_digit(right: Tensor, patch: int = 2) -> Tensor:
    """Which patches show the digit, row by row: ``right`` (n,) -> (n, tokens), bool.

    Raises ``ValueError`` unless patches divide the digit's side.
    """
    rows = math.isqrt(_tokens(SIDE, patch))
    is_right = torch.arange(2 * rows) >= rows
    return (is_right == right[:, None]).repeat(1, rows)


def contrast(images: Tensor, patch: int = 2) -> Tensor:
    """Standard deviation within each patch: (n, channels, height, width) -> (n, tokens).

    What ranks patches without a network, a lazy alternative to attention.
    """
    return _pixels(images, patch).std(-1, correction=0)


def patch_norm(images: Tensor, patch: int = 2) -> Tensor:
    """Euclidean norm of each patch: (n, channels, height, width) -> (n, tokens).

    The lazy alternative to attention that knows ``beside_background``: standardised pixels are 0 at the mean
    of its noise, so that black and white patches of a digit stand out. In a ``mosaic`` it tells nothing.
    """
    return torch.linalg.vector_norm(_pixels(images, patch), dim=-1)


def _pixels(images: Tensor, patch: int) -> Tensor:
    """(n, channels, height, width) -> (n, tokens, values in a patch)."""
    return rearrange(images, "n channels (y a) (x b) -> n (y x) (channels a b)", a=patch, b=patch)


# --- sizes ------------------------------------------------------------------------------------------------


def _tokens(image: int, patch: int) -> int:
    if patch < 1 or image < patch or image % patch:
        raise ValueError(f"patch must be >= 1 and divide the image's side, got {patch} and {image}")
    return (image // patch) ** 2


def _check_locations(locations: Sequence[int], depth: int) -> None:
    rising = all(one < other for one, other in pairwise(locations))
    if not rising or not all(0 <= block < depth for block in locations):
        raise ValueError(f"locations must rise within 0..{depth - 1}, got {list(locations)}")
