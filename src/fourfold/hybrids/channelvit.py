"""ChannelViT: every channel of an image is cut into tokens of its own, and training draws which are there.

Bao et al., "Channel Vision Transformers: An Image Is Worth C x 16 x 16 Words", arXiv 2309.16108, ICLR 2024.
Sizes and details were read in the official repository (insitro/ChannelViT); the code here is written anew.

Implemented: tokens per channel with one projection for all and a learned embedding for each (section 3.1 of
the paper), the ViT that it is compared with, which fills missing channels, hierarchical channel sampling
(section 3.2), channel dropout, and the chapter's tasks on images of several channels.

Departures. No stochastic depth, and linear layers start as torch's do: the repository's 0.02 suits a width of
384 and not one of 32. Positions are not resized: images have the size that a network is made for. (The
repository resizes them by a factor of 14.1/14 even at that size, once there are two channels or more.) It
finds the missing channels of a batch by its zeros; here they are named. Channels that were drawn are sorted.

Images are (batch, present, height, width), where ``channels`` names those that are present, in their order.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from math import comb
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Generator, Tensor, nn

from fourfold import attention, checks, training
from fourfold.data.images import photographs
from fourfold.data.probes import Images

Embedding = Literal["learned", "frozen", "none"]
"""What tells a channel's tokens from another's: ``frozen`` keeps the random numbers of the start."""

SPREAD = 0.02
"""Standard deviation of CLS, positions and channel embeddings at the start, as in the repository."""


# --- the networks -----------------------------------------------------------------------------------------


class PatchEmbedPerChannel(nn.Module):
    """Every patch of every channel becomes a token: one projection for all, and the channel's embedding."""

    def __init__(self, channels: int, dim: int, patch: int, embedding: Embedding = "learned"):
        super().__init__()
        checks.at_least(1, channels=channels, dim=dim, patch=patch)
        checks.one_of(get_args(Embedding), embedding=embedding)
        self.projection = attention.PatchEmbedding(1, dim, patch)
        start = nn.init.trunc_normal_(torch.empty(channels, dim), std=SPREAD)
        # A network without embeddings draws them too, so that the weights after them start alike.
        self.channel = nn.Parameter(start * (embedding != "none"), requires_grad=embedding == "learned")

    def forward(self, x: Tensor, channels: Sequence[int]) -> Tensor:
        """(batch, present, height, width) -> (batch, present, positions, dim)."""
        tokens = self.projection(rearrange(x, "batch present h w -> (batch present) 1 h w"))
        tokens = rearrange(tokens, "(batch present) n dim -> batch present n dim", present=len(channels))
        return tokens + self.channel[channels, None]


class _Transformer(nn.Module):
    """What both networks share: CLS, positions, pre-norm blocks, and a linear read-out of CLS.

    Raises ``ValueError`` for sizes below 1, a patch that does not divide ``size`` and heads that do not
    divide ``dim``.
    """

    def __init__(
        self,
        channels: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        size: int,
        classes: int,
        mlp_ratio: int = 4,
    ):
        super().__init__()
        checks.at_least(1, channels=channels, dim=dim, depth=depth, classes=classes, mlp_ratio=mlp_ratio)
        checks.divides(size, "size", patch=patch)
        checks.divides(dim, "dim", heads=heads)
        self.channels = channels
        self.cls = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=SPREAD))
        places = (size // patch) ** 2 + 1
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(places, dim), std=SPREAD))
        self.blocks = nn.ModuleList(
            attention.Block(dim, attention.Attention(dim, heads), attention.MLP(dim, mlp_ratio * dim))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=attention.EPS)
        self.head = nn.Linear(dim, classes)

    def tokens(self, x: Tensor, channels: Sequence[int]) -> Tensor:
        """What the blocks read, CLS first: (batch, present, height, width) -> (batch, 1 + tokens, dim)."""
        raise NotImplementedError

    def with_cls(self, tokens: Tensor) -> Tensor:
        """CLS with its position before the tokens: (batch, tokens, dim) -> (batch, 1 + tokens, dim)."""
        return torch.cat([(self.cls + self.positions[0]).expand(len(tokens), 1, -1), tokens], 1)

    def encode(self, x: Tensor, channels: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """All tokens after the last norm, and the attention of each block, (batch, heads, tokens, tokens)."""
        tokens, maps = self.tokens(x, self._named(x, channels)), []
        for block in self.blocks:
            tokens, weights = block(tokens)
            maps.append(weights)
        return self.norm(tokens), maps

    def forward(self, x: Tensor, channels: Sequence[int] | None = None) -> Tensor:
        """(batch, present, height, width) -> logits (batch, classes); without ``channels`` all are present.

        Only CLS is read, so the last block computes no other token.
        Raises ``ValueError`` for channels that are not there, are named twice, or are not one a map.
        """
        tokens = self.tokens(x, self._named(x, channels))
        for index, block in enumerate(self.blocks, start=1):
            tokens, _ = block(tokens, queries=1 if index == len(self.blocks) else None)
        return self.head(self.norm(tokens[:, 0]))

    def _named(self, x: Tensor, channels: Sequence[int] | None) -> list[int]:
        named = list(range(self.channels)) if channels is None else list(channels)
        known = 1 <= len(named) == len(set(named)) and set(named) <= set(range(self.channels))
        if not known or x.shape[1] != len(named):
            raise ValueError(
                f"channels must be different ones of 0..{self.channels - 1}, one for each of the "
                f"{x.shape[1]} maps, got {named}"
            )
        return named


class ChannelViT(_Transformer):
    """A ViT that reads tokens of single channels. Missing channels are left out: the sequence is shorter."""

    def __init__(self, channels: int, *, embedding: Embedding = "learned", **sizes: int):
        super().__init__(channels, **sizes)
        self.embed = PatchEmbedPerChannel(channels, sizes["dim"], sizes["patch"], embedding)

    def tokens(self, x: Tensor, channels: Sequence[int]) -> Tensor:
        """CLS, then all positions of the first channel, of the second, ...; channels share the positions."""
        tokens = self.embed(x, channels) + self.positions[1:]
        return self.with_cls(rearrange(tokens, "batch present n dim -> batch (present n) dim"))


class MaskedViT(_Transformer):
    """A ViT whose patches span all channels. A missing channel is filled, see `masked`."""

    def __init__(self, channels: int, **sizes: int):
        super().__init__(channels, **sizes)
        self.embed = attention.PatchEmbedding(channels, sizes["dim"], sizes["patch"])

    def tokens(self, x: Tensor, channels: Sequence[int]) -> Tensor:
        """CLS, then the patches of the image with its missing channels filled."""
        return self.with_cls(self.embed(masked(x, channels, self.channels)) + self.positions[1:])


# --- missing channels -------------------------------------------------------------------------------------


def masked(x: Tensor, channels: Sequence[int], total: int) -> Tensor:
    """Missing channels are 0, which is their mean, and the present ones are multiplied by total / present.

    (batch, present, height, width) -> (batch, total, height, width).
    """
    whole = x.new_zeros(len(x), total, *x.shape[2:])
    whole[:, channels] = x * (total / len(channels))
    return whole


def filled(x: Tensor, channels: Sequence[int], total: int) -> Tensor:
    """Missing channels are the mean of the present ones, which stay as they are; shapes as of `masked`."""
    whole = x.mean(1, keepdim=True).repeat(1, total, 1, 1)
    whole[:, channels] = x
    return whole


# --- sampling ---------------------------------------------------------------------------------------------


def hcs_sample(total: int, generator: Generator) -> list[int]:
    """Hierarchical channel sampling: first how many channels, 1..total alike, then which, all sets alike."""
    checks.at_least(1, total=total)
    count = int(torch.randint(1, total + 1, (), generator=generator))
    return sorted(torch.randperm(total, generator=generator)[:count].tolist())


def hcs_probability(total: int, count: int) -> float:
    """The probability that `hcs_sample` draws one particular set of ``count`` channels."""
    checks.at_least(1, total=total)
    checks.between(1, total, count=count)
    return 1 / (total * comb(total, count))


def coin_sample(total: int, generator: Generator) -> list[int]:
    """A coin for each channel, with HCS's chance of (total + 1) / (2 total); thrown anew if none is left."""
    checks.at_least(1, total=total)
    while True:
        kept = torch.rand(total, generator=generator) < (total + 1) / (2 * total)
        if kept.any():
            return kept.nonzero()[:, 0].tolist()


def channel_dropout(x: Tensor, rate: float, generator: Generator) -> Tensor:
    """Channels of each image dropped on their own, the others divided by 1 - rate (torch's ``Dropout2d``).

    (batch, channels, height, width) -> the same shape.
    Raises ``ValueError`` for a rate outside 0..1, 1 excluded.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in 0..1, 1 excluded, got {rate}")
    kept = torch.rand(*x.shape[:2], 1, 1, generator=generator, dtype=x.dtype) >= rate
    return x * kept / (1 - rate)


def mixed_batches(n: int, whole: int, batch: int, generator: Generator) -> list[tuple[Tensor, bool]]:
    """An epoch of images, the first ``whole`` with all channels: batches of one kind, in random order.

    Returns the rows of each batch and whether they have all channels. Raises ``ValueError`` unless ``batch``
    divides ``n`` and ``whole``, which is 1 or more.
    """
    checks.between(1, n, whole=whole)
    checks.divides(n, "n", batch=batch)
    checks.divides(whole, "whole", batch=batch)
    rows = torch.cat(
        [
            torch.randperm(whole, generator=generator),
            whole + torch.randperm(n - whole, generator=generator),
        ]
    )
    batches = [(part, bool(part[0] < whole)) for part in rows.split(batch)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


class Sampled(nn.Module):
    """A network that in training reads the channels in ``present`` only, and in evaluation all of them."""

    def __init__(self, net: _Transformer):
        super().__init__()
        self.net = net
        self.present = list(range(net.channels))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes)."""
        return self.net(x[:, self.present], self.present) if self.training else self.net(x)


# --- evaluation -------------------------------------------------------------------------------------------


def subsets(total: int) -> list[tuple[int, ...]]:
    """All sets of channels but the empty one, smaller ones first. Raises ``ValueError`` above 10 channels."""
    checks.between(1, 10, "there are 2 ** total of them", total=total)
    return [chosen for count in range(1, total + 1) for chosen in combinations(range(total), count)]


@torch.no_grad()
def by_size(
    net: Callable[[Tensor, Sequence[int]], Tensor], test: Images, sizes: Sequence[int] | None = None
) -> dict[int, float]:
    """Accuracy with so many channels, mean over all sets of that size; ``net`` gets images and channels."""
    total = test.images.shape[1]
    found: dict[int, list[float]] = {}
    for chosen in subsets(total):
        if sizes is None or len(chosen) in sizes:
            logits = net(test.images[:, chosen], chosen)
            found.setdefault(len(chosen), []).append(float(training.accuracy(logits, test.labels)))
    return {size: sum(values) / len(values) for size, values in found.items()}


def on_pixels(train: Images) -> dict[str, Callable[[Tensor, Sequence[int]], Tensor]]:
    """What knows nothing of images, by name: images and channels -> scores (n, classes).

    Logistic regression and a support vector machine with a Gaussian kernel read all pixels, missing channels
    as `masked` has them. Late fusion adds the log-probabilities of a logistic regression for each channel.
    """
    # Importing scikit-learn takes a second, which readers of the networks should not wait.
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    total, labels = train.images.shape[1], train.labels.numpy()
    flat = train.images.flatten(2).numpy()
    whole = flat.reshape(len(flat), -1)
    vectors = SVC(C=10).fit(whole, labels)
    logistic, *alone = (
        LogisticRegression(C=0.1, max_iter=1000).fit(pixels, labels)
        for pixels in (whole, *(flat[:, c] for c in range(total)))
    )

    def of_all(model: LogisticRegression | SVC, x: Tensor, channels: Sequence[int]) -> Tensor:
        return torch.tensor(model.decision_function(masked(x, channels, total).flatten(1).numpy()))

    def fused(x: Tensor, channels: Sequence[int]) -> Tensor:
        parts = zip(channels, x.flatten(2).unbind(1), strict=True)
        scores = [torch.tensor(alone[c].predict_log_proba(part.numpy())) for c, part in parts]
        return torch.stack(scores).sum(0)

    return {
        "logistic regression": partial(of_all, logistic),
        "support vectors": partial(of_all, vectors),
        "late fusion": fused,
    }


# --- tasks ------------------------------------------------------------------------------------------------


def shares(source: Images, n: int, noise: float, generator: Generator) -> Images:
    """A secret in three shares: channel c shows a digit of class (a + c y) mod 3, with ``a`` at random.

    One channel alone says nothing of y, any two say all. (n, 3, 8, 8) and labels y in 0..2.
    """
    label, first = torch.randint(3, (2, n), generator=generator)
    shown = (first[:, None] + torch.arange(3) * label[:, None]) % 3
    return Images(_noisy(_drawn(source, shown, generator), noise, generator), label)


def disguised(source: Images, n: int, noise: float, generator: Generator) -> Images:
    """Four images of one digit, each channel in its own way: as it is, inverted, transposed, mirrored.

    (n, 4, 8, 8) and labels in 0..9.
    """
    label = torch.randint(10, (n,), generator=generator)
    plain, inverted, transposed, mirrored = _drawn(source, label[:, None].expand(n, 4), generator).unbind(1)
    maps = torch.stack([plain, 1 - inverted, transposed.mT, mirrored.flip(-1)], 1)
    return Images(_noisy(maps, noise, generator), label)


def odd_one_out(source: Images, n: int, noise: float, generator: Generator) -> Images:
    """Three channels show one of the digits 0 and 1, one channel the other; the label is that channel.

    (n, 4, 8, 8) and labels in 0..3.
    """
    label = torch.randint(4, (n,), generator=generator)
    common = torch.randint(2, (n, 1), generator=generator)
    shown = torch.where(torch.arange(4) == label[:, None], 1 - common, common)
    return Images(_noisy(_drawn(source, shown, generator), noise, generator), label)


COLOURED = ("astronaut", "chelsea", "coffee", "rocket")
"""scikit-image's photographs in colour."""


def colour_crops(part: Literal["train", "test"], n: int, noise: float, generator: Generator) -> Images:
    """Crops of 8 x 8 pixels from four colour photographs of 128 x 128: (n, 3, 8, 8), labelled by photograph.

    No pixel is in both parts: of 8 x 8 blocks of 16 x 16 pixels the diagonal belongs to the test.
    """
    checks.one_of(("train", "test"), part=part)
    maps = photographs(COLOURED, 128, grey=False)
    blocks = rearrange(maps, "n c (r y) (s x) -> n r s c y x", y=16, x=16)
    diagonal = torch.eye(8, dtype=torch.bool)
    blocks = blocks[:, diagonal if part == "test" else ~diagonal]
    label = torch.randint(len(COLOURED), (n,), generator=generator)
    block = torch.randint(blocks.shape[1], (n,), generator=generator)
    top, left = torch.randint(9, (2, n), generator=generator)
    windows = blocks.unfold(3, 8, 1).unfold(4, 8, 1)
    return Images(_noisy(windows[label, block, :, top, left], noise, generator), label)


def standardised(train: Images, *others: Images) -> list[Images]:
    """Every channel shifted and scaled to mean 0 and variance 1 over the *training* images."""
    mean = train.images.mean((0, 2, 3), keepdim=True)
    spread = train.images.std((0, 2, 3), keepdim=True)
    return [Images((part.images - mean) / spread, part.labels) for part in (train, *others)]


def _drawn(source: Images, shown: Tensor, generator: Generator) -> Tensor:
    """A random image of each class in ``shown``: (n, channels) -> (n, channels, height, width)."""
    chance = torch.rand(shown.shape, generator=generator)
    maps = torch.empty(*shown.shape, *source.images.shape[1:])
    for digit in shown.unique():
        of_class, here = source.images[source.labels == digit], shown == digit
        maps[here] = of_class[(chance[here] * len(of_class)).long()]
    return maps


def _noisy(maps: Tensor, noise: float, generator: Generator) -> Tensor:
    checks.finite(noise=noise)
    return maps + noise * torch.randn(maps.shape, generator=generator)
