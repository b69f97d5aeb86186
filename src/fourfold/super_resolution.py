"""Light networks for super-resolution: what stands around them, how they are trained, what is measured.

Papers about such networks change the *body*, which maps features to features. Around it stands what EDSR,
SwinIR and those after them share: the mean colour goes off, a convolution makes features, a convolution and a
skip follow the body, and a last convolution with a pixel shuffle (ESPCN) makes the large image.

Photographs are read from files inside Python packages and come in three lots: a network learns from one,
learning rates are chosen on another, and verdicts are given on the third. Images are RGB in 0..1; PSNR and
spectra of errors are those of luminance, Y of BT.601, within a border of as many pixels as the factor.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, l1_loss, pad, pixel_shuffle

from fourfold import checks, spectra, training
from fourfold.data import image_pairs
from fourfold.data.image_pairs import Pairs

LEARN = ("astronaut", "coffee", "rocket", "brick", "gravel")
CHOOSE = ("china", "grass")
JUDGE = ("chelsea", "flower", "motorcycle")
"""Photographs to learn from, to choose rates on, and to judge by; see `image_pairs.WHOLE`."""

MEAN = (0.4488, 0.4371, 0.4040)
"""The mean colour of DIV2K, which these networks take off and add again."""

SCALES = (2, 3, 4)


# --- what stands around a body ----------------------------------------------------------------------------


class SuperResolver(nn.Module):
    """A body (batch, dim, h, w) -> the same shape, and all that makes a super-resolving network of it.

    ``tail``: what comes after the body, before the convolution whose output the first features are added to.
    ``multiple``: sides of the small image are padded to a multiple of it by reflection, at the right and at
    the bottom, and the large image is cropped again.
    ``over_bicubic``: the network adds to bicubic interpolation instead of to the mean colour, and starts as
    nothing but that, its last convolution at zero: for short training. Raises ``ValueError`` for a scale
    that is not 2, 3 or 4.
    """

    def __init__(
        self,
        body: nn.Module,
        dim: int,
        scale: int,
        *,
        tail: nn.Module | None = None,
        multiple: int = 1,
        over_bicubic: bool = False,
    ):
        super().__init__()
        checks.at_least(1, dim=dim, multiple=multiple)
        if scale not in SCALES:
            raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
        self.scale, self.multiple, self.over_bicubic = scale, multiple, over_bicubic
        self.first = nn.Conv2d(3, dim, 3, padding=1)
        self.body = body
        self.tail = nn.Identity() if tail is None else tail
        self.after = nn.Conv2d(dim, dim, 3, padding=1)
        self.last = nn.Conv2d(dim, 3 * scale**2, 3, padding=1)
        if over_bicubic:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """RGB (batch, 3, h, w) in 0..1 -> (batch, 3, scale h, scale w).

        Raises ``ValueError`` for a side that reflection cannot pad: at most ``multiple`` / 2.
        """
        height, width = x.shape[-2:]
        if any(-side % self.multiple >= side for side in (height, width)):
            raise ValueError(f"sides must be > {self.multiple} / 2 to be padded, got {height} x {width}")
        mean = x.new_tensor(MEAN)[:, None, None]
        padded = pad(x - mean, (0, -width % self.multiple, 0, -height % self.multiple), mode="reflect")
        features = self.first(padded)
        features = features + self.after(self.tail(self.body(features)))
        large = pixel_shuffle(self.last(features), self.scale)
        large = large[..., : height * self.scale, : width * self.scale]
        return large + (image_pairs.enlarge(x, self.scale) if self.over_bicubic else mean)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of maps (batch, channels, height, width), with scale and offset."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GDFN(nn.Module):
    """Restormer's gated feed-forward network (Zamir et al., arXiv 2111.09881), without biases.

    A 1 x 1 convolution to twice ``hidden`` channels, a depthwise 3 x 3, and the GELU of one half times the
    other half, back to ``dim``.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        checks.at_least(1, dim=dim, hidden=hidden)
        self.up = nn.Conv2d(dim, 2 * hidden, 1, bias=False)
        self.near = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.down = nn.Conv2d(hidden, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) -> the same shape."""
        gate, value = self.near(self.up(x)).chunk(2, 1)
        return self.down(gelu(gate) * value)


# --- training ---------------------------------------------------------------------------------------------


def pairs(names: Sequence[str], factor: int, side: int | None = None) -> Pairs:
    """Photographs in colour and the same ``factor`` times smaller; with ``side`` their central squares.

    Raises ``ValueError`` for an unknown name, and for a side above a photograph's shorter one.
    """
    whole = [image_pairs.photograph(name) for name in names]
    return image_pairs.shrunk([photo if side is None else _centre(photo, side) for photo in whole], factor)


def turned(draw: training.Draw) -> training.Draw:
    """Pairs of square crops that ``draw`` makes, each pair turned and mirrored in one of eight ways."""

    def anyhow(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        low, high = draw(generator)
        ways = torch.randint(8, (len(low),), generator=generator).tolist()
        return _turned(low, ways), _turned(high, ways)

    return anyhow


def fit(
    make: Callable[[], nn.Module],
    seeds: Sequence[int],
    learn: Pairs,
    *,
    steps: int,
    batch: int,
    crop: int,
    lr: float,
    slow_last: float = 1.0,
    label: str = "",
) -> training.Trained:
    """Train ``make()`` once per seed as light networks are: L1, Adam, square crops turned and mirrored.

    ``crop``: side of the small crops. The learning rate runs one cycle that peaks at ``lr``, where papers
    halve it a few times; ``slow_last``: the rate of the module ``last`` over that of all others. Raises
    ``ValueError`` for sizes below 1, a crop that does not fit, and a wrong rate.
    """
    checks.at_least(1, steps=steps)
    # Crops of an epoch lie in memory at once.
    epochs = next(
        n for n in range(1, steps + 1) if (steps % n == 0 and batch * steps // n <= 2**12) or n == steps
    )
    draw = turned(image_pairs.crops(learn, batch * (steps // epochs), crop))
    # The score, which nobody reads, is taken on a crop of the least size.
    small, large = draw(training.stream(0, "score"))
    test = tuple(part[:1].expand(len(seeds), 1, *part.shape[1:]) for part in (small, large))
    return training.train(
        make,
        seeds,
        draw,
        test,  # type: ignore[arg-type]
        training.Recipe(epochs, batch, lr, weight_decay=0, slower={"last": slow_last}),
        loss=l1_loss,
        score=lambda made, clean: (made - clean).abs().flatten(1).mean(1),
        together=False,
        label=label,
    )


# --- what is measured -------------------------------------------------------------------------------------


@torch.inference_mode()
def restored(net: Callable[[Tensor], Tensor], small: Sequence[Tensor]) -> list[Tensor]:
    """What ``net``, (1, 3, h, w) -> (1, 3, factor h, factor w), makes of each small image (3, h, w)."""
    return [net(image[None])[0] for image in small]


def gains(large: Sequence[Tensor], of: Pairs) -> list[float]:
    """PSNR of luminance over that of bicubic interpolation, in dB, image by image; border: the factor."""
    return [
        _psnr(made, clean, small) - _psnr(image_pairs.enlarge(small, _factor(small, clean)), clean, small)
        for made, small, clean in zip(large, *of, strict=True)
    ]


def band_errors(large: Sequence[Tensor], of: Pairs, edges: Sequence[float]) -> Tensor:
    """Mean square of the error of luminance in each radial band, summed over images: (len(edges) - 1,).

    ``edges`` in cycles per pixel of the large image; within the border, under a Hann window.
    """
    total = torch.zeros(len(edges) - 1, dtype=torch.float64)
    for made, small, clean in zip(large, *of, strict=True):
        border = _factor(small, clean)
        error = image_pairs.luminance(made.clamp(0, 1)).double() - image_pairs.luminance(clean).double()
        inner = error[..., border:-border, border:-border]
        share = spectra.band_energy(inner, edges, "hann")[0]
        total += share * spectra.power(inner, "hann").sum()
    return total


def _psnr(made: Tensor, clean: Tensor, small: Tensor) -> float:
    ours, theirs = (image_pairs.luminance(image.clamp(0, 1)) for image in (made, clean))
    return image_pairs.psnr(ours, theirs, _factor(small, clean))


def _factor(small: Tensor, clean: Tensor) -> int:
    return clean.shape[-1] // small.shape[-1]


def _centre(photo: Tensor, side: int) -> Tensor:
    height, width = photo.shape[-2:]
    if not 1 <= side <= min(height, width):
        raise ValueError(f"side must be in 1..{min(height, width)}, got {side}")
    top, left = (height - side) // 2, (width - side) // 2
    return photo[..., top : top + side, left : left + side]


def _turned(images: Tensor, ways: Sequence[int]) -> Tensor:
    turned = [image.rot90(way % 4, (-2, -1)) for image, way in zip(images, ways, strict=True)]
    return torch.stack(
        [image.flip(-1) if way >= 4 else image for image, way in zip(turned, ways, strict=True)]
    )
