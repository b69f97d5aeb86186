"""ClST: a convolutional transformer that recognises modulations, and its distillation into tiny networks.

Hou, Li, Lin, Liang and Han, "ClST: A Convolutional Transformer Framework for Automatic Modulation Recognition
by Knowledge Distillation", arXiv 2312.17446, IEEE Transactions on Wireless Communications 23(7), 2024.

The body of the paper was not available to us. Its abstract names the parts: a hierarchy of transformer stages
with convolutions, parallel spatial-channel attention (PSCA), convolution-transformer projection blocks (CTP),
signal knowledge distillation (SKD) with soft targets and a hybrid loss, students KD-CNN and KD-MobileNet. How
each part works inside is our reading of these names, after CvT's convolutional projection (arXiv 2103.15808);
sizes, temperature and loss weight are ours.

Frames are (batch, 2, length), in-phase and quadrature; tokens are (batch, tokens, dim) in order of time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax

from fourfold.attention import EPS, MLP, ViT

Channel = Literal["se", "xca", "none"]
Embedding = Literal["conv", "patches"]
Projection = Literal["conv", "linear"]

REDUCTION = 4
"""How much narrower the gate's hidden layer is than its input."""

RATIO = 2
"""Widening of the feed-forward layers."""


# --- the transformer --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """The sizes of a ClST, a value per stage. ``kv_stride`` 2 halves the tokens that are attended to.

    ``embedding``, ``projection`` and ``channel`` can each take one of the paper's three modifications away:
    ``"patches"`` cuts without overlap, ``"linear"`` makes queries, keys and values from each token alone,
    ``"none"`` leaves attention over time. Raises ``ValueError`` for stages that do not fit together.
    """

    dims: Sequence[int] = (24, 48)
    kernels: Sequence[int] = (7, 3)
    strides: Sequence[int] = (2, 2)
    heads: Sequence[int] = (2, 4)
    depths: Sequence[int] = (1, 1)
    channel: Channel = "se"
    embedding: Embedding = "conv"
    projection: Projection = "conv"
    kv_stride: int = 1
    classes: int = 8

    def __post_init__(self) -> None:
        """Refuse what could not be built."""
        stages = {
            name: tuple(getattr(self, name)) for name in ("dims", "kernels", "strides", "heads", "depths")
        }
        if not self.dims or len({len(values) for values in stages.values()}) > 1:
            raise ValueError(f"dims, kernels, strides, heads and depths need a value per stage, got {stages}")
        for name, values in {**stages, "classes": (self.classes,)}.items():
            if min(values) < 1:
                raise ValueError(f"{name} must be >= 1, got {min(values)}")
        for name, kinds in (("embedding", Embedding), ("projection", Projection)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(kinds))}, got {getattr(self, name)!r}"
                )


class ConvEmbed(nn.Module):
    """Signals or tokens to fewer, wider tokens: a strided convolution, BatchNorm, GELU, then LayerNorm.

    Raises ``ValueError`` for a stride < 1 or an even kernel, which would shift time by half a step.
    """

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int):
        super().__init__()
        if kernel < 1 or kernel % 2 == 0 or stride < 1:
            raise ValueError(f"kernel must be odd and stride >= 1, got {kernel} and {stride}")
        self.conv = nn.Conv1d(dim_in, dim, kernel, stride, kernel // 2)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim_in, length) -> (batch, ceil(length / stride), dim)."""
        x = nn.functional.gelu(self.batch_norm(self.conv(x)))
        return self.norm(rearrange(x, "batch dim tokens -> batch tokens dim"))


class PatchEmbed(nn.Module):
    """The embedding without overlap: one linear map of every ``stride`` samples, then LayerNorm."""

    def __init__(self, dim_in: int, dim: int, stride: int):
        super().__init__()
        self.conv = nn.Conv1d(dim_in, dim, stride, stride)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim_in, length) -> (batch, length // stride, dim). Samples left over are not seen."""
        return self.norm(rearrange(self.conv(x), "batch dim tokens -> batch tokens dim"))


class ConvProjection(nn.Module):
    """A linear map of what three neighbouring tokens say: depthwise convolution, BatchNorm, pointwise map."""

    def __init__(self, dim: int, stride: int = 1):
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, 3, stride, 1, groups=dim, bias=False)
        self.norm: nn.Module = nn.BatchNorm1d(dim)
        self.pointwise = nn.Linear(dim, dim)

    def forward(self, u: Tensor) -> Tensor:
        """(batch, tokens, dim) -> (batch, ceil(tokens / stride), dim)."""
        near = self.depthwise(rearrange(u, "batch tokens dim -> batch dim tokens"))
        # Statistics of (batch tokens, dim) are those of (batch, dim, tokens), and faster.
        rows = self.norm(rearrange(near, "batch dim tokens -> (batch tokens) dim"))
        return self.pointwise(rearrange(rows, "(batch tokens) dim -> batch tokens dim", batch=len(u)))


class SqueezeGate(nn.Module):
    """Channel attention that scales each channel by what all tokens together say (squeeze and excitation)."""

    def __init__(self, dim: int):
        super().__init__()
        self.down = nn.Linear(dim, max(1, dim // REDUCTION))
        self.up = nn.Linear(max(1, dim // REDUCTION), dim)

    def weights(self, u: Tensor) -> Tensor:
        """(batch, tokens, dim) -> a factor in 0..1 for each channel, (batch, 1, dim)."""
        return self.up(self.down(u.mean(1, keepdim=True)).relu()).sigmoid()

    def forward(self, u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``u`` (batch, tokens, dim) gated; queries, keys and values are not used."""
        return u * self.weights(u)


class CrossCovariance(nn.Module):
    """Channel attention that mixes channels by how alike their courses over time are (XCiT, 2106.09681)."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """(batch, dim, dim): [c, d] is how much of value channel c goes to channel d; columns sum to 1."""
        alike = normalize(k, dim=1).transpose(1, 2) @ normalize(q, dim=1)
        return (alike * self.temperature).softmax(1)

    def forward(self, u: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Values (batch, tokens, dim) with their channels mixed; ``u`` is not used."""
        return v @ self.weights(q, k)


class PSCA(nn.Module):
    """Parallel attention over time (multi-head) and over channels, from the same tokens, summed.

    ``channel``: ``"se"`` gates, ``"xca"`` mixes by cross-covariance, ``"none"`` leaves the branch out.
    ``projection="linear"`` replaces the three convolutional projections by linear layers.
    Raises ``ValueError`` if heads do not divide dim, for an unknown channel branch, or for a stride that
    queries, keys and values do not allow.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        channel: Channel = "se",
        kv_stride: int = 1,
        projection: Projection = "conv",
    ):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must be >= 1 and divide dim, got heads={heads}, dim={dim}")
        if channel not in get_args(Channel):
            raise ValueError(f"channel must be one of {', '.join(get_args(Channel))}, got {channel!r}")
        if kv_stride not in (1, 2) or (kv_stride == 2 and (channel == "xca" or projection == "linear")):
            raise ValueError(
                f"kv_stride must be 1, or 2 for convolutions without 'xca', got {kv_stride} "
                f"with channel={channel!r}, projection={projection!r}"
            )
        self.heads = heads

        def project(stride: int) -> nn.Module:
            return ConvProjection(dim, stride) if projection == "conv" else nn.Linear(dim, dim)

        self.query, self.key, self.value = project(1), project(kv_stride), project(kv_stride)
        self.projection = nn.Linear(dim, dim)
        self.channel = {"se": lambda: SqueezeGate(dim), "xca": CrossCovariance, "none": lambda: None}[
            channel
        ]()

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, tokens, dim) -> the same, and attention over time.

        The latter is (batch, heads, tokens, ceil(tokens / kv_stride)).
        """
        q, k, v = self.query(u), self.key(u), self.value(u)
        by_head = [rearrange(x, "b t (h d) -> b h t d", h=self.heads) for x in (q, k, v)]
        scale = (q.shape[-1] // self.heads) ** -0.5
        attention = (by_head[0] * scale @ by_head[1].transpose(-2, -1)).softmax(-1)
        out = self.projection(rearrange(attention @ by_head[2], "b h t d -> b t (h d)"))
        return out if self.channel is None else out + self.channel(u, q, k, v), attention


class CTPBlock(nn.Module):
    """``x + psca(norm(x))``, then ``x + mlp(norm(x))``; ``kinds`` are further arguments of `PSCA`."""

    def __init__(self, dim: int, heads: int, **kinds: Any):
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim, eps=EPS)
        self.psca = PSCA(dim, heads, **kinds)
        self.norm_mlp = nn.LayerNorm(dim, eps=EPS)
        self.mlp = MLP(dim, RATIO * dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, tokens, dim) -> the same, and the attention over time."""
        mixed, attention = self.psca(self.norm_attention(x))
        x = x + mixed
        return x + self.mlp(self.norm_mlp(x)), attention


class ClST(nn.Module):
    """Stages of an embedding and CTP blocks; the mean over time is read out. No positions are embedded."""

    def __init__(self, config: Config | None = None):
        super().__init__()
        config = Config() if config is None else config
        kinds = {name: getattr(config, name) for name in ("channel", "kv_stride", "projection")}
        self.embeddings, self.stages = nn.ModuleList(), nn.ModuleList()
        before = 2
        for dim, kernel, stride, heads, depth in zip(
            config.dims, config.kernels, config.strides, config.heads, config.depths, strict=True
        ):
            self.embeddings.append(
                ConvEmbed(before, dim, kernel, stride)
                if config.embedding == "conv"
                else PatchEmbed(before, dim, stride)
            )
            self.stages.append(nn.ModuleList(CTPBlock(dim, heads, **kinds) for _ in range(depth)))
            before = dim
        self.norm = nn.LayerNorm(before, eps=EPS)
        self.head = nn.Linear(before, config.classes)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Frames (batch, 2, length) -> logits (batch, classes), and each block's attention over time."""
        attentions = []
        for embedding, blocks in zip(self.embeddings, self.stages, strict=True):
            tokens = embedding(x)
            for block in cast(nn.ModuleList, blocks):
                tokens, attention = block(tokens)
                attentions.append(attention)
            x = rearrange(tokens, "batch tokens dim -> batch dim tokens")
        return self.head(self.norm(tokens).mean(1)), attentions


# --- the students and the baselines -----------------------------------------------------------------------


def _conv(dim_in: int, dim: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv1d(dim_in, dim, kernel, stride, kernel // 2, groups=groups)
    return [conv, nn.BatchNorm1d(dim), nn.ReLU()]


class _Pooled(nn.Sequential):
    """Layers on (batch, 2, length), then the mean over time and a linear read-out: (batch, classes)."""

    def __init__(self, width: int, classes: int, *later: list[nn.Module]):
        if width < 2 or classes < 1:
            raise ValueError(f"w must be >= 2 and classes >= 1, got {width} and {classes}")
        layers = [*_conv(2, width, 7, 2), *(layer for group in later for layer in group)]
        super().__init__(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2 * width, classes))


class KDCNN(_Pooled):
    """Three convolutions 2-w-2w-2w, kernels 7, 5, 3, stride 2. Raises ``ValueError`` for w < 2."""

    def __init__(self, w: int = 8, classes: int = 8):
        super().__init__(w, classes, _conv(w, 2 * w, 5, 2), _conv(2 * w, 2 * w, 3, 2))


class KDMobileNet(_Pooled):
    """KD-CNN with later convolutions separable: one per channel, kernel 3, then a mix of channels."""

    def __init__(self, w: int = 8, classes: int = 8):
        separable = [
            [*_conv(before, before, 3, 2, groups=before), *_conv(before, 2 * w, 1, 1)]
            for before in (w, 2 * w)
        ]
        super().__init__(w, classes, *separable)


class PatchViT(nn.Module):
    """The baseline without convolutions: patches of ``patch`` samples, positions, plain attention, CLS.

    Raises ``ValueError`` unless ``patch`` divides ``length``.
    """

    def __init__(
        self, dim: int, heads: int, depth: int, *, patch: int = 8, length: int = 128, classes: int = 8
    ):
        super().__init__()
        if patch < 1 or length % patch:
            raise ValueError(f"patch must be >= 1 and divide the length, got {patch} and {length}")
        self.patches = nn.Conv1d(2, dim, patch, patch)
        self.vit = ViT(
            tokens=length // patch, dim=dim, depth=depth, heads=heads, mlp_ratio=RATIO, classes=classes
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2, length) -> (batch, classes)."""
        return self.vit(rearrange(self.patches(x), "batch dim tokens -> batch tokens dim"))[0]


class LSTM(nn.Module):
    """The baseline with memory: one recurrent layer over patches; the mean of its states is read out.

    A sample a step, read out after the last, hardly learns in a few hundred steps of training.
    """

    def __init__(self, width: int, *, patch: int = 8, classes: int = 8):
        super().__init__()
        self.patch = patch
        self.cells = nn.LSTM(2 * patch, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2, length) -> (batch, classes). The patch must divide the length."""
        patches = rearrange(x, "batch parts (time patch) -> batch time (parts patch)", patch=self.patch)
        return self.head(self.cells(patches)[0].mean(1))


# --- distillation -----------------------------------------------------------------------------------------


def kd_loss(zs: Tensor, zt: Tensor, y: Tensor, T: float = 3.0, a: float = 0.7) -> Tensor:
    """Signal knowledge distillation: ``(1 - a) CE(zs, y) + a T^2 KL(softmax(zt / T) || softmax(zs / T))``.

    ``zs`` and ``zt``: logits of student and teacher, (batch, classes); ``y``: labels (batch,). The mean over
    the batch. T^2 keeps the size of the gradient as T grows (Hinton, Vinyals and Dean, arXiv 1503.02531).
    Raises ``ValueError`` for T <= 0, a outside 0..1, or logits of different shapes.
    """
    if not 0 < T < float("inf"):
        raise ValueError(f"T must be > 0 and finite, got {T}")
    if not 0 <= a <= 1:
        raise ValueError(f"a must be in 0..1, got {a}")
    if zs.shape != zt.shape:
        raise ValueError(f"expected logits of one shape, got {tuple(zs.shape)} and {tuple(zt.shape)}")
    soft = kl_div(log_softmax(zs / T, -1), softmax(zt / T, -1), reduction="batchmean")
    return (1 - a) * cross_entropy(zs, y) + a * T**2 * soft
