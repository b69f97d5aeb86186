"""RRFormer: reflections taken off by hypercolumns, window attention at half resolution, and pyramid pooling.

Z. Zhang, Song, K. Zhang, Fan and Lu, "Benchmarking Ultra-High-Definition Image Reflection Removal", arXiv
2308.00265. Sizes and details were read in the authors' repository (Liar-zzy/Benchmarking-Ultra-High-
Definition-Single-Image-Reflection-Removal, 91aeb77), which has no licence; the code here is written anew.

Implemented: the modules PEM, SFEM and MSFEM with the layers of that code, the pixel loss, and a synthesis of
reflections that it carries, CEILNet's, not that of the paper's data. The audit and the reach of a pixel are
fourfold's own.

Departures. An SFEM returns what it finds, as the paper has it; ``released`` makes it return its input, as the
code does. There is no drop-path, and not the code's unused convolution of 6483 weights. ``global_skip`` adds
the image in place of the last ReLU and starts as nothing else: for short training. Extractors are untrained.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from fourfold import checks
from fourfold.attention import MLP

WIDTHS, LAYERS = (64, 128, 256, 512, 512), (2, 2, 4, 4, 1)  # of VGG19's stages up to relu5_1
WIDTH, DIM, HEADS, DEPTHS = 256, 240, 6, (6, 6, 6, 6, 6)  # of PEM and MSFEM; of the SFEM
WINDOW, POOLS, SLOPE = 8, (4, 8, 16, 32), 0.2

# --- hypercolumns, and the preprocessing embedding module -------------------------------------------------


class Extractor(nn.Module):
    """Frozen stages of 3 x 3 convolutions with ReLU, between them 2 x 2 pooling: maxima unless changed."""

    pool: Callable[[Tensor, int], Tensor] = staticmethod(functional.max_pool2d)

    def __init__(self, widths: Sequence[int] = WIDTHS, layers: Sequence[int] = LAYERS):
        super().__init__()
        if len(widths) != len(layers):
            raise ValueError(f"layers must be as many as widths, {len(widths)}, got {len(layers)}")
        checks.at_least(1, width=min(widths), layers=min(layers))
        self.channels, self.stages = 3 + sum(widths), nn.ModuleList()
        for before, width, count in zip((3, *widths), widths, layers, strict=False):
            inputs = [before] + [width] * (count - 1)
            self.stages.append(nn.ModuleList(nn.Conv2d(n, width, 3, padding=1) for n in inputs))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(batch, 3, h, w) -> the first ReLU of each stage k, (batch, width, h / 2^k, w / 2^k)."""
        x, features = image, list[Tensor]()
        for stage in self.stages:
            first, *rest = stage.children()
            x = functional.relu(first(self.pool(x, 2) if features else x))
            features.append(x)
            for convolution in rest:
                x = functional.relu(convolution(x))
        return features


def resized(feature: Tensor, image: Tensor) -> Tensor:
    """A feature (batch, c, h / 2^k, w / 2^k), bilinearly, at the size of the image: (batch, c, h, w)."""
    return functional.interpolate(feature, image.shape[-2:], mode="bilinear", align_corners=False)


def hypercolumn(image: Tensor, features: Sequence[Tensor]) -> Tensor:
    """The image (batch, 3, h, w) and all features at its size: (batch, 3 + widths, h, w)."""
    return torch.cat([image, *(resized(feature, image) for feature in features)], 1)


class PEM(nn.Module):
    """The preprocessing embedding module: 1 x 1, 3 x 3 and 3 x 3 convolution of stride 2, ReLU after each."""

    def __init__(self, channels: int, width: int = WIDTH, dim: int = DIM):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 1)
        self.near = nn.Conv2d(width, width, 3, padding=1)
        self.down = nn.Conv2d(width, dim, 3, stride=2, padding=1)

    def forward(self, column: Tensor) -> Tensor:
        """A hypercolumn (batch, channels, h, w) -> (batch, dim, h / 2, w / 2)."""
        x = functional.relu(self.near(functional.relu(self.first(column))))
        return functional.relu(self.down(x))

    def first_of(self, image: Tensor, features: Sequence[Tensor]) -> Tensor:
        """The 1 x 1 convolution of a hypercolumn without making it: (batch, width, h, w).

        It commutes with resizing, since one acts on channels and the other on places, both linearly.
        """
        own, *parts = self.first.weight.split([part.shape[1] for part in (image, *features)], 1)
        x = functional.conv2d(image, own, self.first.bias)
        for part, feature in zip(parts, features, strict=True):
            x = x + resized(functional.conv2d(feature, part), image)
        return x


# --- the self-attention feature extraction module ---------------------------------------------------------


def shift_mask(height: int, width: int, shift: int, device: torch.device | str = "cpu") -> Tensor:
    """Swin's mask for a map rolled by ``-shift``: (windows, 64, 64), 64 places in a window.

    0 for two places that lay side by side before, -100 for two that only the roll brought together.
    """
    places = (torch.arange(side, device=device) for side in (height, width))
    down, across = ((p >= len(p) - WINDOW).int() + (p >= len(p) - shift).int() for p in places)
    labels = 3 * down[:, None] + across
    of = rearrange(labels, "(y r) (x c) -> (y x) (r c)", r=WINDOW, c=WINDOW)
    return -100.0 * (of[:, :, None] != of[:, None])


class WindowAttention(nn.Module):
    """Attention within windows, softmax(q k^T / sqrt(d) + B) v; B depends on the offset of two places.

    With a ``shift`` the map is rolled before it is cut into windows, and back afterwards.
    """

    index: Tensor

    def __init__(self, dim: int, heads: int, shift: int = 0):
        super().__init__()
        checks.divides(dim, "dim", heads=heads)
        self.heads, self.shift = heads, shift
        self.bias = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.qkv, self.projection = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        places = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
        apart = places[:, None] - places + WINDOW - 1
        self.register_buffer("index", apart[..., 0] * (2 * WINDOW - 1) + apart[..., 1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape; sides are multiples of 8."""
        height, width = x.shape[1:3]
        qkv = self.qkv(x).roll((-self.shift, -self.shift), (1, 2))
        cut = "b (y r) (x c) (three h d) -> three b (y x) h (r c) d"
        q, k, v = rearrange(qkv, cut, three=3, h=self.heads, r=WINDOW, c=WINDOW)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + self.bias[self.index].movedim(-1, 0)
        if self.shift:
            scores = scores + shift_mask(height, width, self.shift, x.device)[:, None].to(scores)
        back = "b (y x) h (r c) d -> b (y r) (x c) (h d)"
        mixed = rearrange(scores.softmax(-1) @ v, back, y=height // WINDOW, r=WINDOW)
        return self.projection(mixed.roll((self.shift, self.shift), (1, 2)))


class Block(nn.Module):
    """A Swin block: window attention, then an MLP twice as wide, each on a LayerNorm, each added."""

    def __init__(self, dim: int, heads: int, shift: int):
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, shift)
        self.norm_mlp, self.mlp = nn.LayerNorm(dim), MLP(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape."""
        x = x + self.attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))


class Group(nn.Module):
    """Blocks, every second one with shifted windows, and a 3 x 3 convolution; the input is added."""

    def __init__(self, dim: int, heads: int, depth: int):
        super().__init__()
        checks.at_least(1, depth=depth)
        self.blocks = nn.Sequential(*(Block(dim, heads, k % 2 * WINDOW // 2) for k in range(depth)))
        self.near = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dim) -> the same shape."""
        return x + self.near(self.blocks(x).movedim(-1, 1)).movedim(1, -1)


class SFEM(nn.Module):
    """The self-attention feature extraction module: groups of Swin blocks between two LayerNorms.

    Where ``released`` is set it computes all this and returns its input, as the authors' code does.
    """

    released = False

    def __init__(self, dim: int, heads: int, depths: Sequence[int]):
        super().__init__()
        checks.at_least(1, groups=len(depths))
        self.norm_first = nn.LayerNorm(dim)
        self.groups = nn.Sequential(*(Group(dim, heads, depth) for depth in depths))
        self.norm_last = nn.LayerNorm(dim)
        self.near = nn.Conv2d(dim, dim, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape; padded to whole windows by reflection."""
        height, width = x.shape[-2:]
        padded = functional.pad(x, (0, -width % WINDOW, 0, -height % WINDOW), mode="reflect")
        tokens = self.groups(self.norm_first(padded.movedim(1, -1)))
        found = self.near(self.norm_last(tokens).movedim(-1, 1)) + padded
        return (padded if self.released else found)[..., :height, :width]


# --- the multi-scale spatial feature module, and the network ----------------------------------------------


class PyramidPooling(nn.Module):
    """Means of squares of four sizes, a 1 x 1 convolution of each, enlarged and joined to the map."""

    def __init__(self, width: int):
        super().__init__()
        checks.divides(width, "width", quarters=4)
        self.scales = nn.ModuleList(nn.Conv2d(width, width // 4, 1, bias=False) for _ in POOLS)
        self.mix = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, h, w) -> the same shape."""
        parts = []
        for scale, side in zip(self.scales, POOLS, strict=True):
            part = functional.leaky_relu(scale(functional.avg_pool2d(x, side)), SLOPE)
            parts.append(functional.interpolate(part, x.shape[-2:], mode="nearest"))
        return functional.leaky_relu(self.mix(torch.cat([*parts, x], 1)), SLOPE)


class MSFEM(nn.Module):
    """Back to full resolution, a convolution, pyramid pooling, three colours."""

    def __init__(self, dim: int = DIM, width: int = WIDTH):
        super().__init__()
        self.up = nn.ConvTranspose2d(dim, width, 4, stride=2, padding=1)
        self.near = nn.Conv2d(width, width, 3, padding=1)
        self.pyramid = PyramidPooling(width)
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, h / 2, w / 2) -> (batch, 3, h, w), before the last ReLU."""
        x = functional.relu(self.near(functional.relu(self.up(x))))
        return self.last(self.pyramid(x))


class RRFormer(nn.Module):
    """The network; ``extractor`` None leaves hypercolumns out, and any module may stand for the SFEM."""

    def __init__(
        self, extractor: Extractor | None, sfem: nn.Module, width: int, dim: int, global_skip: bool = False
    ):
        super().__init__()
        self.extractor, self.global_skip = extractor, global_skip
        self.pem = PEM(3 if extractor is None else extractor.channels, width, dim)
        self.sfem, self.msfem = sfem, MSFEM(dim, width)
        if global_skip:
            for value in self.msfem.last.parameters():
                nn.init.zeros_(value)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, h, w) in 0..1 -> the same shape. Raises ``ValueError`` for odd sides and below 32."""
        for name, side in zip(("height", "width"), image.shape[-2:], strict=True):
            if side % 2 or side < max(POOLS):
                raise ValueError(f"{name} must be even and >= {max(POOLS)}, got {side}")
        return self.restore(hypercolumn(image, self.extractor(image) if self.extractor else []))

    def restore(self, column: Tensor) -> Tensor:
        """A hypercolumn (batch, channels, h, w), the image first -> the restored image (batch, 3, h, w)."""
        made = self.msfem(self.sfem(self.pem(column)))
        return column[:, :3] + made if self.global_skip else functional.relu(made)


# --- the pixel loss, and reflections ----------------------------------------------------------------------


def pixel_loss(made: Tensor, clean: Tensor) -> Tensor:
    """0.2 times the mean square plus 0.4 times the mean absolute differences of both gradients."""
    down, across = (functional.l1_loss(made.diff(dim=axis), clean.diff(dim=axis)) for axis in (-2, -1))
    return 0.2 * functional.mse_loss(made, clean) + 0.4 * (down + across)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """(n, h, w) through a Gaussian of 11 x 11 taps, without the borders: (n, h - 10, w - 10)."""
    checks.finite(above=True, sigma=sigma)
    bell = torch.exp(-(torch.arange(-5, 6).to(image) ** 2) / (2 * sigma**2))
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    return functional.conv2d(image[:, None], kernel[None, None])[:, 0]


def blend(scene: Tensor, reflection: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """What is seen of a scene (3, h, w) behind glass, and the reflection in it: (3, h, w), 0..1.

    The reflection (3, h + 10, w + 10) is out of focus, and where the sum is too bright all of it is darkened,
    by 1.3 times the mean excess. Raises ``ValueError`` for a sigma that is not > 0.
    """
    soft = blurred(reflection, sigma)
    over = (scene + soft)[scene + soft > 1]
    if len(over):
        soft = (soft - 1.3 * (over.mean() - 1)).clamp(0, 1)
    return (scene + soft).clamp(0, 1), soft


# --- what a network uses, and how far it sees -------------------------------------------------------------


Parts = Mapping[str, list[nn.Module]]


def audit(net: nn.Module, parts: Parts, x: Tensor, generator: torch.Generator) -> pd.DataFrame:
    """What each part does for the output of ``net(x)``, a row a part.

    ``with_gradient``: tensors whose gradient, of the mean square of the output, is not all zero; ``used``:
    the parameters in them; ``change``: how much the output moves when the part is drawn anew, at most.
    """
    out = net(x)
    out.square().mean().backward()
    rows = {}
    for name, modules in parts.items():
        tensors = [tensor for module in modules for tensor in module.parameters()]
        used = [tensor for tensor in tensors if tensor.grad is not None and tensor.grad.any()]
        before = [tensor.detach().clone() for tensor in tensors]
        with torch.no_grad():
            for tensor in tensors:
                tensor.normal_(std=0.02, generator=generator)
            change = float((net(x) - out).abs().max())
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        size, learning = (sum(tensor.numel() for tensor in some) for some in (tensors, used))
        rows[name] = [len(tensors), size, len(used), learning, change]
    names = ["tensors", "parameters", "with_gradient", "used", "change"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def rows_reached(net: nn.Module, channels: int = 3, rows: int = 1024, columns: int = 32) -> float:
    """Rows of a strip that one pixel in its middle depends on, mean over eight neighbours; float64.

    Changes ``net``, (1, channels, rows, columns) -> the same sides: convolutions get positive weights and
    extractors pool by means, so that no path ends at a ReLU or a maximum, and none cancels another.
    """
    for module in net.double().modules():
        if isinstance(module, Extractor):
            module.pool = functional.avg_pool2d
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            for value in module.parameters():
                value.data.abs_()
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(1, channels, rows, columns, dtype=torch.float64, generator=draw)
    out = net(x.requires_grad_())[0, :, :, columns // 2].sum(0)
    reached = 0
    for place in range(rows // 2, rows // 2 + WINDOW):
        (slope,) = torch.autograd.grad(out[place], x, retain_graph=True)
        reached += int(slope.any(1).any(-1).sum())
    return reached / WINDOW


PUBLISHED = Path(__file__).resolve().parents[3] / "data" / "others" / "rrformer" / "audit.csv"


def published_audit() -> pd.DataFrame:
    """`audit` of the authors' network, by version and part: see the README beside the file."""
    return pd.read_csv(PUBLISHED, index_col=["version", "part"])
