"""The 4f bench as a layer of a network: what it is compared with, and what runs on it.

Companion to FatNet (Ibadulla, Chen, Reyes-Aldasoro, arXiv 2210.16914), whose simulator is optnn. The bench
itself lies in `fourfold.bench4f`: `propagation` (fields), `camera` (noise, bits) and `optical_conv` (the fast
engine and the layer). Here are the same layer computed field by field, its fields for other ways to read
them, optnn's noise as it is, a camera without signs, a small network for digits, and a transformer on the
bench.
"""

import copy
import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d

from fourfold.attention import Attention, ViT
from fourfold.bench4f.camera import Noise
from fourfold.bench4f.optical_conv import Mode, Signed, fft_conv2d, optical_conv2d
from fourfold.bench4f.propagation import Bench, upright


def field_by_field(x: Tensor, weight: Tensor, dtype: torch.dtype = torch.complex64) -> Tensor:
    """A layer with pseudo-negativity and same padding, every pass propagated through both lenses.

    ``x``: (batch, in, n, n), not negative; ``weight``: (out, in, k, k). Returns (batch, out, n, n), as
    ``optical_conv2d(x, weight, padding="same")`` does, at the cost of a simulator that forms every field:
    (batch, 2 out, in, plane, plane) complex numbers on each of seven planes.
    """
    n, k = x.shape[-1], weight.shape[-1]
    bench = Bench(2 * math.ceil((n + k // 2) / 2), dtype=dtype)
    kernels = weight.flip(-2, -1)
    kernels = torch.cat([kernels.clamp(min=0), (-kernels).clamp(min=0)])
    seen = upright(bench.run(x[:, None], kernels)).abs()
    first = bench.n // 2 - n // 2
    plus, minus = seen[..., first : first + n, first : first + n].sum(2).chunk(2, dim=1)
    return plus - minus


def unsplit_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """What a camera reads of unsplit kernels, |x * k| per channel, then their sum; same padding."""
    out, channels, *_ = weight.shape
    kernels = rearrange(weight, "o i y x -> (i o) 1 y x")
    fields = conv2d(x, kernels, padding="same", groups=channels)
    return fields.abs().unflatten(1, (channels, out)).sum(1)


def passive_fields(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The two fields of pseudo-negativity before the camera, and what electronics multiply them with.

    ``x``: (batch, 1, height, width), not negative and not dark; ``weight``: (out, 1, k, k). Returns fields
    (2, batch, out, y, x), those of k+ first, and gains (2, 1, out, 1, 1). The display's brightest pixel is 1
    and no filter amplifies, so no field exceeds 1; ``fields * gains``, the first less the second, is
    ``conv2d(x, weight)``. For cameras other than `optical_conv2d` has.
    """
    brightest = x.amax()
    parts = torch.stack([weight.clamp(min=0), (-weight).clamp(min=0)])
    # The spectrum of a kernel that is not negative has its largest modulus at frequency 0.
    sums = parts.sum((2, 3, 4), keepdim=True)
    sums = torch.where(sums > 0, sums, 1)
    fields = torch.stack([conv2d(x / brightest, part) for part in parts / sums])
    return fields, brightest * sums.transpose(1, 2)


def optnn_shot_noise(intensity: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Noise as optnn 0.1 has it: (255 y + Poisson(255 y)) / 255, which adds the counts to the picture."""
    counts = 255 * intensity
    return (counts + torch.poisson(counts, generator=generator)) / 255


def decibel(clean: Tensor, noisy: Tensor) -> float:
    """Signal to noise, 10 log10(sum clean^2 / sum (noisy - clean)^2), dB; infinite where they are equal."""
    error = float((noisy - clean).square().sum())
    return math.inf if error == 0 else 10 * math.log10(float(clean.square().sum()) / error)


class DigitsNet(nn.Module):
    """Two 3 x 3 convolutions with ReLU, 4 and 8 channels, mean over 2 x 2 blocks, a linear layer.

    ``convolution`` makes a layer from (in_channels, out_channels): same padding, 3 x 3. Its inputs are never
    negative. Takes (batch, 8, 8), returns (batch, 10).
    """

    def __init__(self, convolution: Callable[[int, int], nn.Module]):
        super().__init__()
        self.features = nn.Sequential(
            convolution(1, 4), nn.ReLU(), convolution(4, 8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8, 8) -> (batch, 10)."""
        return self.head(self.features(x[:, None]))


class UnsplitConv2d(nn.Conv2d):
    """``nn.Conv2d`` read as `unsplit_conv2d`, same padding."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height, width)."""
        assert self.bias is not None
        return unsplit_conv2d(x, self.weight) + self.bias[:, None, None]


class Light:
    """How a network's products are made of light: read-out, imperfections, and where its noise comes from."""

    def __init__(
        self,
        noise: Noise,
        generator: torch.Generator | None = None,
        mode: Mode = "pm",
        signed: Signed = "split",
    ):
        self.how = {"noise": noise, "generator": generator, "mode": mode, "signed": signed}

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: object) -> Tensor:
        """`fourfold.bench4f.optical_conv.optical_conv2d` with this light."""
        return optical_conv2d(x, weight, bias, **geometry, **self.how)  # type: ignore[arg-type]


class UnsplitLight(Light):
    """`Light` whose camera reads |U| of images and kernels as they are: every sign is lost."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: object) -> Tensor:
        """As `Light.convolve`, without noise."""
        field = fft_conv2d(x, weight, **geometry).abs()  # type: ignore[arg-type]
        return field if bias is None else field + bias[:, None, None]


class BenchLinear(nn.Module):
    """A layer whose kernels all tokens share, on the bench: each token an image of p x p pixels.

    ``weight``: (kernels, maps, k, k), ``bias``: (kernels,), padding in pixels, as ConvShareViT's layers have.
    """

    def __init__(self, weight: Tensor, bias: Tensor, p: int, padding: int, light: Light):
        super().__init__()
        self.weight, self.bias, self.p, self.padding, self.light = weight, bias, p, padding, light

    def forward(self, x: Tensor) -> Tensor:
        """(..., maps * p^2) -> (..., kernels * outputs)."""
        images = x.reshape(-1, self.weight.shape[1], self.p, self.p)
        y = self.light.convolve(images, self.weight, self.bias, padding=self.padding)
        return y.reshape(*x.shape[:-1], -1)


class BenchAttention(Attention):
    """`fourfold.attention.Attention` whose two products of data with data are made of light, too.

    Scores: every query map meets every key map as kernel. Mixing: a 1 x 1 convolution over token channels
    whose kernels are the attention. A head's map is a row of its features. Softmax is electronic.
    """

    def __init__(self, made: Attention, light: Light):
        nn.Module.__init__(self)
        self.__dict__.update(made.__dict__)
        self.light = light

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor]:
        """As `Attention`: (batch, tokens, dim) -> (batch, queries, dim), (batch, heads, queries, tokens)."""
        q, k, v = (
            rearrange(layer(part), "b t (h d) -> (b h) t 1 d", h=self.heads)
            for layer, part in ((self.query, x[:, :queries]), (self.key, x), (self.value, x))
        )
        problems = len(k)
        kernels = rearrange(k, "p j y x -> (p j) 1 y x")
        scores = self.light.convolve(rearrange(q, "p i y x -> i p y x"), kernels, groups=problems)
        scores = rearrange(scores, "i (p j) 1 1 -> p i j", p=problems)
        attention = (scores * self.scale).softmax(-1)
        mixing = rearrange(attention, "p i j -> (p i) j 1 1")
        mixed = self.light.convolve(rearrange(v, "p j y x -> 1 (p j) y x"), mixing, groups=problems)
        mixed = rearrange(mixed, "1 (b h i) 1 d -> b i (h d)", b=len(x), h=self.heads)
        return self.projection(mixed), rearrange(attention, "(b h) i j -> b h i j", b=len(x))


def on_the_bench(model: ViT, light: Light) -> ViT:
    """A copy of a trained ConvShareViT whose linear layers and attention are made of light.

    Its layers of shared kernels are those that ``convolve``; what has none, the read-out of the class, stays
    electronic, as do norms, softmax and GELU. Raises ``ValueError`` if some kernels are not shared.
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "convolve"):
                if child.tokens is not None:
                    raise ValueError(f"{name} must share its kernels, got kernels for {child.tokens} tokens")
                layer = BenchLinear(child.weight, child.bias, child.p, child.padded, light)
                setattr(module, name, layer)
            elif isinstance(child, Attention):
                setattr(module, name, BenchAttention(child, light))
    return model
