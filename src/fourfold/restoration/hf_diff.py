"""HF-Diff: a one-step diffusion super-resolver, fine-tuned with a loss on features of an invertible network.

Sami, Hasan, Dawson and Nasrabadi, "HF-Diff: High-Frequency Perceptual Loss and Distribution Matching for
One-Step Diffusion-Based Image Super-Resolution", arXiv 2411.13548. Its base is SinSR (Wang et al. 2024): a
student that learns in one step what ResShift (Yue et al. 2023) makes in fifteen.

Implemented: ResShift's schedule and deterministic steps; SinSR's three losses; the invertible detail network
with the couplings of CDDFuse (Zhao et al. 2023), whose detail branch the authors' released code imports; the
high-frequency loss; the Jensen-Shannon term on embeddings. fourfold's own are the rivals: a plain residual
network of the same size, a small VGG, a Laplacian pyramid, and the closed form of what a weight on
frequencies does to a linear student.

Departures. Pixels stand in the place of latents, a few convolutions in that of the U-Net, a small VGG's
pooled features in that of DINO-v2. How the authors trained the invertible network is not known: two losses
stand for it. The couplings' exponent is clamped, without which it may overflow.

Images are (batch, 3, height, width) in -1..1.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool2d,
    conv2d,
    interpolate,
    layer_norm,
    mse_loss,
    pad,
    pixel_shuffle,
    pixel_unshuffle,
    relu6,
    unfold,
)

from fourfold import checks, spectra
from fourfold.data import image_pairs
from fourfold.data.image_pairs import Pairs
from fourfold.training import Draw

CLAMP = 2.0
"""Bound of the exponent in a coupling."""

SCALE = 4
"""How many times smaller the degraded image was, and the side of the blur that the base branch sees."""


Loss = Callable[[Tensor, Tensor], Tensor]
"""Compares what was made with what it shall be."""


# --- crops of photographs, in -1..1 ------------------------------------------------------------------------


def clean_crops(pairs: Pairs, n: int, size: int) -> Draw:
    """Draws ``n`` true crops (n, 3, size, size), each its own target.

    Raises ``ValueError`` for a size that is no multiple of 4, and as `image_pairs.crops`.
    """
    draw = image_pairs.crops(pairs, n, _small(size))

    def drawn(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        clean = draw(generator)[1]
        return clean, clean

    return drawn


def labelled_crops(pairs: Pairs, n: int, size: int) -> Draw:
    """Draws ``n`` true crops (n, 3, size, size) with the number of the photograph that each is of (n,).

    Raises as ``clean_crops``.
    """
    photographs = [Pairs([low], [high]) for low, high in zip(*pairs, strict=True)]
    draws = [clean_crops(photograph, n, size) for photograph in photographs]

    def drawn(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images = torch.stack([draw(generator)[0] for draw in draws])
        which = torch.randint(len(draws), (n,), generator=generator)
        return images[which, torch.arange(n)], which

    return drawn


def degraded_crops(pairs: Pairs, n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``n`` degraded crops, enlarged by bicubic interpolation, and the true ones: (n, 3, size, size) each.

    Raises as ``clean_crops``.
    """
    low, high = image_pairs.crops(pairs, n, _small(size))(generator)
    return image_pairs.enlarge(low, SCALE), high


def psnr(made: Tensor, truth: Tensor) -> float:
    """Mean PSNR of images (b, 3, h, w), peak 1 for values brought to 0..1, four border pixels left out."""
    pairs = zip(made / 2 + 0.5, truth / 2 + 0.5, strict=True)
    return sum(image_pairs.psnr(*pair, SCALE) for pair in pairs) / len(truth)


def _small(size: int) -> int:
    """The side of what was degraded of a crop."""
    if size % SCALE:
        raise ValueError(f"size must be a multiple of {SCALE}, got {size}")
    return size // SCALE


# --- ResShift: noise that also shifts towards the degraded image ------------------------------------------


def eta_schedule(T: int = 15, kappa: float = 2.0, power: float = 0.3, end: float = 0.99) -> Tensor:
    """How far each of ``T`` levels has shifted: eta (T,), float64, rising to ``end``^2.

    sqrt(eta) grows from min(0.04 / kappa, 0.04, sqrt(0.001)) to ``end`` by powers, as in the released code.
    Raises ``ValueError`` for T < 2, kappa or power that are not > 0, and for an end outside of (start, 1].
    """
    checks.at_least(2, T=T)
    checks.finite(above=True, kappa=kappa, power=power)
    start = min(0.04 / kappa, 0.04, 0.001**0.5)
    if not start < end <= 1:
        raise ValueError(f"end must be in ({start:.4g}, 1], got {end}")
    return (start * (end / start) ** torch.linspace(0, 1, T, dtype=torch.float64).pow(power)) ** 2


def diffuse(x0: Tensor, y: Tensor, eta: Tensor | float, noise: Tensor, kappa: float = 2.0) -> Tensor:
    """z_t = x0 + eta (y - x0) + kappa sqrt(eta) noise, all of x0's shape; eta a number or one per image."""
    eta = torch.as_tensor(eta, dtype=x0.dtype)
    return x0 + eta * (y - x0) + kappa * eta.sqrt() * noise


class Step(NamedTuple):
    """Weights of the clean image, of the noisy one and of the degraded one; they sum to 1."""

    k: Tensor
    m: Tensor
    j: Tensor


def ddim_coefficients(etas: Tensor, t: int) -> Step:
    """The deterministic step from level t of ``etas`` to the one before, or to eta = 0 from level 0.

    Raises ``ValueError`` for a level that is not there.
    """
    checks.between(0, len(etas) - 1, t=t)
    now, before = etas[t], etas[t - 1] if t else torch.zeros_like(etas[0])
    m, j = (before / now).sqrt(), before - (before * now).sqrt()
    return Step(1 - m - j, m, j)


def ddim_step(z: Tensor, x0: Tensor, y: Tensor, etas: Tensor, t: int) -> Tensor:
    """One deterministic step from z at level t, where x0 is the guess of the clean image."""
    k, m, j = ddim_coefficients(etas, t)
    return k * x0 + m * z + j * y


def ddim_inverse(z: Tensor, x0: Tensor, y: Tensor, etas: Tensor, t: int) -> Tensor:
    """What was at level t >= 1 before the step that made z."""
    checks.between(1, len(etas) - 1, t=t)
    k, m, j = ddim_coefficients(etas, t)
    return (z - k * x0 - j * y) / m


def sample(net: nn.Module, z: Tensor, y: Tensor, etas: Tensor, kappa: float = 2.0) -> Tensor:
    """All deterministic steps from z at the last level: the result, like z, without gradients."""
    with torch.no_grad():
        for t in reversed(range(len(etas))):
            z = ddim_step(z, net(packed(z, y, etas[t], kappa)), y, etas, t).to(y)
    return z


def step_errors(etas: Tensor, x0: Tensor, y: Tensor, noise: Tensor, kappa: float = 2.0) -> dict[str, float]:
    """How far steps are from their closed forms where the truth x0 is known, at the worst level.

    ``marginal``: a step from level t to x0 diffused to the level before; ``sum``: its three weights to a sum
    of 1; ``inverse``: what its inverse makes of it to what was there. x0, y and noise have one shape.
    """
    landed, undone = [], []
    for t in range(1, len(etas)):
        z = diffuse(x0, y, etas[t], noise, kappa)
        before = ddim_step(z, x0, y, etas, t)
        landed.append(float((before - diffuse(x0, y, etas[t - 1], noise, kappa)).abs().max()))
        undone.append(float((ddim_inverse(before, x0, y, etas, t) - z).abs().max()))
    sums = [abs(float(sum(ddim_coefficients(etas, t))) - 1) for t in range(len(etas))]
    return {"marginal": max(landed), "sum": max(sums), "inverse": max(undone)}


def noisy(y: Tensor, generator: torch.Generator, etas: Tensor, kappa: float = 2.0) -> Tensor:
    """z at the last level, where nothing but the degraded image y and noise is left: y's shape."""
    return y + kappa * etas[-1].sqrt().to(y) * torch.randn(y.shape, generator=generator)


def one_step(net: nn.Module, z: Tensor, y: Tensor, etas: Tensor, kappa: float = 2.0) -> Tensor:
    """What a denoiser guesses of the clean image from z at the last level: z's shape."""
    return net(packed(z, y, etas[-1], kappa))


def task(
    x0: Tensor, y: Tensor, t: Tensor, etas: Tensor, generator: torch.Generator, kappa: float = 2.0
) -> Tensor:
    """What a denoiser reads of images (b, 3, h, w) diffused to a level ``t`` (b,) each: (b, 7, h, w)."""
    eta = etas[t].to(x0)[:, None, None, None]
    z = diffuse(x0, y, eta, torch.randn(x0.shape, generator=generator), kappa)
    return packed(z, y, eta, kappa)


def tasks(pairs: Pairs, n: int, size: int, etas: Tensor, kappa: float = 2.0) -> Draw:
    """Draws what a teacher learns from: ``n`` times `task` at a random level, and the true crops.

    Raises as ``clean_crops``.
    """

    def drawn(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y, x0 = degraded_crops(pairs, n, size, generator)
        t = torch.randint(len(etas), (n,), generator=generator)
        return task(x0, y, t, etas, generator, kappa), x0

    return drawn


def packed(z: Tensor, y: Tensor, eta: Tensor, kappa: float = 2.0) -> Tensor:
    """What a denoiser reads: z scaled as in the released code for pixels, y, and sqrt(eta) as a map.

    (b, 3, h, w) twice -> (b, 7, h, w); eta is a number, or (b, 1, 1, 1).
    """
    level = eta.sqrt().to(z)
    return torch.cat([z / (3 * kappa * level + 1), y, level.expand_as(z[:, :1])], 1)


class Denoiser(nn.Module):
    """f(z_t, y, t): convolutions at a quarter of the side add to y, (b, 7, h, w) -> (b, 3, h, w).

    Raises ``ValueError`` for a width below 1.
    """

    def __init__(self, width: int = 48):
        super().__init__()
        checks.at_least(1, width=width)
        self.body = nn.Sequential(
            nn.Conv2d(6 * SCALE**2 + 1, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 3 * SCALE**2, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class. Sides are multiples of 4."""
        small = torch.cat([pixel_unshuffle(x[:, :6], SCALE), x[:, 6:, ::SCALE, ::SCALE]], 1)
        return x[:, 3:6] + pixel_shuffle(self.body(small), SCALE)


class Student(nn.Module):
    """SinSR's three uses of one denoiser, (b, 12, h, w) -> (b, 9, h, w).

    Reads noise z_T, degraded image, truth and what the teacher made of z_T. Makes three images: f(z_T) at the
    last level; f(teacher's) at the first one, which shall return z_T; f(z) at the last level, where z is what
    the denoiser itself finds for the truth at the first one, without gradient. See ``distill_targets``.
    """

    def __init__(self, net: nn.Module, etas: Tensor, kappa: float = 2.0):
        super().__init__()
        self.net, self.kappa = net, kappa
        self.first, self.last = etas[0], etas[-1]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        z, y, truth, taught = x.split(3, 1)
        with torch.no_grad():
            found = self.net(packed(truth, y, self.first, self.kappa))
        once = self.net(packed(z, y, self.last, self.kappa))
        back = self.net(packed(taught, y, self.first, self.kappa))
        return torch.cat([once, back, self.net(packed(found, y, self.last, self.kappa))], 1)


def distill_targets(z: Tensor, truth: Tensor, taught: Tensor) -> Tensor:
    """What the three images of ``Student`` shall be: (b, 3, h, w) each -> (b, 9, h, w)."""
    return torch.cat([taught, z, truth], 1)


def lessons(
    net: nn.Module, y: Tensor, truth: Tensor, generator: torch.Generator, etas: Tensor, kappa: float = 2.0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What students of a teacher ``net`` read (b, 12, h, w) and shall make (b, 9, h, w), and an ablation.

    In the ablation, the second pair, the teacher's results are those of other noise than the student reads.
    """
    z, other = (noisy(y, generator, etas, kappa) for _ in range(2))
    taught, mixed = (sample(net, start, y, etas, kappa) for start in (z, other))

    def lesson(made: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([z, y, truth, made], 1), distill_targets(z, truth, made)

    return lesson(taught), lesson(mixed)


def distill_loss(made: Tensor, targets: Tensor, extra: Loss | None = None, weight: float = 1.0) -> Tensor:
    """SinSR's three mean squared errors, each of weight 1, and HF-Diff's ``weight`` times ``extra``.

    What is made and its targets are (b, 9, h, w); the extra loss compares the third image with the truth.
    """
    base = 3 * mse_loss(made, targets)
    return base if extra is None else base + weight * extra(made[:, 6:], targets[:, 6:])


def truth_loss(made: Tensor, targets: Tensor) -> Tensor:
    """A rival to distillation: the squared error of the first image, f(z_T), to the truth."""
    return mse_loss(made[:, :3], targets[:, 6:])


# --- the invertible detail network ------------------------------------------------------------------------


class InvertedResidual(nn.Module):
    """1x1, ReLU6, depthwise 3x3 with reflected borders, ReLU6, 1x1, without biases: channels stay."""

    def __init__(self, channels: int, hidden: int | None = None):
        super().__init__()
        hidden = hidden or 2 * channels
        self.widen = nn.Conv2d(channels, hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, groups=hidden, bias=False)
        self.narrow = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> the same."""
        x = pad(relu6(self.widen(x)), (1, 1, 1, 1), mode="reflect")
        return self.narrow(relu6(self.depthwise(x)))


class CouplingNode(nn.Module):
    """An invertible layer on 2 x ``half`` channels: mix, then each half moves the other."""

    def __init__(self, half: int):
        super().__init__()
        self.mix = nn.Conv2d(2 * half, 2 * half, 1)
        nn.init.orthogonal_(self.mix.weight)
        self.phi, self.rho, self.eta = (InvertedResidual(half) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(b, 2 half, h, w) -> the same."""
        a, b = self.mix(x).chunk(2, 1)
        b = b + self.phi(a)
        a = a * gain(self.rho(b)) + self.eta(b)
        return torch.cat([a, b], 1)

    def inverse(self, x: Tensor) -> Tensor:
        """What ``forward`` was given."""
        a, b = x.chunk(2, 1)
        a = (a - self.eta(b)) / gain(self.rho(b))
        b = b - self.phi(a)
        unmixed = torch.linalg.inv(self.mix.weight[:, :, 0, 0])
        return conv2d(_without_bias(self.mix, torch.cat([a, b], 1)), unmixed[:, :, None, None])


def log_det(node: CouplingNode, x: Tensor) -> Tensor:
    """log |det| of a node's Jacobian at x (b, 2 half, h, w): (b,)."""
    a, b = node.mix(x).chunk(2, 1)
    scale = gain(node.rho(b + node.phi(a))).log().flatten(1).sum(1)
    pixels = x.shape[-2] * x.shape[-1]
    return pixels * torch.linalg.slogdet(node.mix.weight[:, :, 0, 0]).logabsdet + scale


def _without_bias(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return x if layer.bias is None else x - layer.bias[:, None, None]


def gain(rho: Tensor) -> Tensor:
    """exp(rho), rho clamped."""
    return rho.clamp(-CLAMP, CLAMP).exp()


class ResidualNode(nn.Module):
    """A plain rival with about a coupling's parameters: x + an inverted residual of x."""

    def __init__(self, half: int):
        super().__init__()
        size = sum(value.numel() for value in CouplingNode(half).parameters())
        self.body = InvertedResidual(2 * half, round(size / (4 * half + 9)))

    def forward(self, x: Tensor) -> Tensor:
        """(b, 2 half, h, w) -> the same."""
        return x + self.body(x)


NODES = {"coupling": CouplingNode, "residual": ResidualNode}


class Detail(nn.Module):
    """A 3x3 convolution to 2 x ``half`` channels, then nodes: the detail branch.

    Raises ``ValueError`` for half or nodes below 1 and for an unknown kind.
    """

    def __init__(self, half: int = 16, nodes: int = 3, kind: str = "coupling"):
        super().__init__()
        checks.at_least(1, half=half, nodes=nodes)
        checks.one_of(NODES, kind=kind)
        self.stem = nn.Conv2d(3, 2 * half, 3, padding=1, padding_mode="reflect")
        self.nodes = nn.ModuleList(NODES[kind](half) for _ in range(nodes))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images -> the maps after each node, each (b, 2 half, h, w)."""
        maps, x = [], self.stem(x)
        for node in self.nodes:
            x = node(x)
            maps.append(x)
        return maps

    def image(self, maps: Tensor) -> Tensor:
        """The image whose last maps these are: couplings turned round, then the stem, by least squares.

        Raises ``ValueError`` where the stem has fewer channels than its 27 taps, and for other nodes.
        """
        taps = self.stem.weight.flatten(1)
        if len(taps) < taps.shape[1]:
            raise ValueError(f"half must be >= 14 so that a stem can be undone, got {len(taps) // 2}")
        for node in reversed(self.nodes):
            if not isinstance(node, CouplingNode):
                raise ValueError(f"kind must be 'coupling' for maps to be undone, got {type(node).__name__}")
            maps = node.inverse(maps)
        # The middle tap of each colour: what a pixel was itself.
        middle = torch.linalg.pinv(taps)[4::9]
        return conv2d(_without_bias(self.stem, maps), middle[:, :, None, None])


class FeatureNet(nn.Module):
    """The detail branch, a base branch that sees averages of 4x4 pixels, and a decoder, to train them.

    ``forward``: images (b, 3, h, w) -> (b, 6, h, w): decoded from both branches, and from the base alone.
    Raises ``ValueError`` as ``Detail``.
    """

    def __init__(self, half: int = 16, nodes: int = 3, kind: str = "coupling"):
        super().__init__()
        self.detail = Detail(half, nodes, kind)
        width = 2 * half
        self.lower = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * width, width, 1), nn.GELU(), nn.Conv2d(width, 3, 3, padding=1)
        )

    def base(self, x: Tensor) -> Tensor:
        """Images (b, 3, h, w) -> maps (b, 2 half, h, w)."""
        return interpolate(self.lower(avg_pool2d(x, SCALE)), scale_factor=SCALE, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        """See the class. Sides are multiples of 4."""
        base, detail = self.base(x), self.detail(x)[-1]
        both = torch.cat([base, detail], 1), torch.cat([base, silenced(detail)], 1)
        return torch.cat([self.decoder(part) for part in both], 1)


def silenced(detail: Tensor) -> Tensor:
    """Nothing, in the place of details."""
    return torch.zeros_like(detail)


def blurred(x: Tensor) -> Tensor:
    """Averages of 4x4 pixels, enlarged again."""
    return interpolate(avg_pool2d(x, SCALE), scale_factor=SCALE, mode="bilinear")


def reconstruction_loss(made: Tensor, image: Tensor) -> Tensor:
    """Both branches decode to the image; nothing says which of them explains what."""
    return mse_loss(made[:, :3], image)


def blur_loss(made: Tensor, image: Tensor) -> Tensor:
    """Both branches decode to the image, the base alone to its blur."""
    return mse_loss(made[:, :3], image) + mse_loss(made[:, 3:], blurred(image))


def over_blur(net: FeatureNet, x: Tensor) -> Tensor:
    """Squared error of the image that both branches decode to, over that of its blur: below 1 if trained."""
    return mse_loss(net(x)[:, :3], x) / mse_loss(blurred(x), x)


def affine_residual(maps: Tensor, x: Tensor) -> Tensor:
    """What the best affine map of ``maps`` (b, c, h, w), pixel by pixel, leaves of images x: (b h w, 3)."""
    known = torch.cat([maps, torch.ones_like(maps[:, :1])], 1).movedim(1, -1).flatten(0, -2)
    wanted = x.movedim(1, -1).flatten(0, -2)
    return known @ torch.linalg.lstsq(known, wanted).solution - wanted


def hf_loss(made: Tensor, truth: Tensor, net: FeatureNet) -> Tensor:
    """The high-frequency perceptual loss: mean squared distance of the last detail maps."""
    return mse_loss(net.detail(made)[-1], net.detail(truth)[-1])


# --- what else could weigh frequencies --------------------------------------------------------------------


class SmallVGG(nn.Module):
    """Two blocks of two convolutions; tells which photograph a crop is of: (b, 3, h, w) -> (b, classes)."""

    def __init__(self, classes: int, widths: tuple[int, int, int, int] = (16, 16, 32, 64)):
        super().__init__()
        checks.at_least(1, classes=classes)
        a, b, c, d = widths
        self.first = nn.Sequential(
            nn.Conv2d(3, a, 3, padding=1), nn.ReLU(), nn.Conv2d(a, b, 3, padding=1), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.MaxPool2d(2),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(d, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last maps, (b, 64, h / 2, w / 2): what a VGG loss compares."""
        return self.second(self.first(x))

    def embedding(self, x: Tensor) -> Tensor:
        """One vector an image, (b, 64): pooled maps, of mean 0 and variance 1."""
        pooled = self.features(x).mean((2, 3))
        return layer_norm(pooled, pooled.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.head(self.embedding(x))


def laplacian_pyramid(x: Tensor, levels: int = 3) -> list[Tensor]:
    """Differences of blurred images, none of them reduced: coarsest first, the finest last."""
    checks.at_least(1, levels=levels)
    taps = torch.tensor([1.0, 4, 6, 4, 1], dtype=x.dtype) / 16
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 5, 5)
    found: list[Tensor] = []
    for level in range(levels):
        gap = 2**level
        smooth = conv2d(pad(x, (2 * gap,) * 4, mode="reflect"), kernel, dilation=gap, groups=x.shape[1])
        found.insert(0, x - smooth)
        x = smooth
    return found


def laplacian_loss(made: Tensor, truth: Tensor) -> Tensor:
    """Mean squared distance of the finest levels of two images' Laplacian pyramids."""
    return mse_loss(laplacian_pyramid(made)[-1], laplacian_pyramid(truth)[-1])


def sharpened(x: Tensor, energy: float) -> Tensor:
    """An unsharp mask: x with so much of its finest level added that ``high_energy`` is at least ``energy``.

    Amounts go up to 2 in hundredths; what needs more gets 2.
    """
    finest = laplacian_pyramid(x)[-1]
    made = (x + step / 100 * finest for step in range(1, 201))
    return next((sharp for sharp in made if high_energy(sharp) >= energy), x + 2 * finest)


def weighted_student(spectrum: Tensor, blur: Tensor, noise: float, weight: Tensor, taps: int) -> Tensor:
    """The linear student that is best for a periodic Gaussian signal: its frequency response (n,), complex.

    A signal with power ``spectrum`` (n,) is blurred, by ``blur`` (n,) over frequencies, and gets white noise
    of power ``noise``. The student is a filter of ``taps`` taps; its error is weighed by ``weight`` (n,) over
    frequencies, as any squared loss on linear, shift-invariant features weighs it. With n taps it is Wiener's
    filter, whatever the weight. Raises ``ValueError`` unless taps are odd, 1..n, or n itself.
    """
    n = len(spectrum)
    if not 1 <= taps <= n or (taps % 2 == 0 and taps < n):
        raise ValueError(f"taps must be odd in 1..{n}, or {n}, got {taps}")
    places = torch.arange(taps, dtype=torch.float64) - taps // 2
    waves = torch.exp(-2j * torch.pi * torch.arange(n)[:, None] * places / n)
    heavy = (weight * (blur.abs().square() * spectrum + noise)).to(waves)
    wanted = (weight * blur.conj() * spectrum).to(waves)
    solved = torch.linalg.solve(waves.mH @ (heavy[:, None] * waves), waves.mH @ wanted)
    return waves @ solved


def noise_filter(noise: Tensor, wanted: Tensor, side: int = 5) -> Tensor:
    """The kernel (side, side) that brings ``noise`` nearest to ``wanted``, one for all colours.

    Both (b, c, h, w); least squares over all places, borders reflected. Raises ``ValueError`` unless the side
    is odd and >= 1.
    """
    columns = unfold(_reflected(noise, side), side)
    found = torch.linalg.lstsq(columns.movedim(1, -1).flatten(0, 1).double(), wanted.reshape(-1, 1).double())
    return found.solution.reshape(side, side).to(noise)


def filtered(noise: Tensor, kernel: Tensor) -> Tensor:
    """``noise`` (b, c, h, w) through a kernel (side, side), colour by colour."""
    padded = _reflected(noise, len(kernel))
    return conv2d(padded, kernel[None, None]).reshape(noise.shape)


def _reflected(noise: Tensor, side: int) -> Tensor:
    if side < 1 or side % 2 == 0:
        raise ValueError(f"side must be odd and >= 1, got {side}")
    return pad(noise.flatten(0, 1)[:, None], (side // 2,) * 4, mode="reflect")


# --- embeddings -------------------------------------------------------------------------------------------


def jsd(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the softmax of embeddings (..., d) and (..., d): (...), 0..log 2."""
    p, q = a.softmax(-1), b.softmax(-1)
    mean = ((p + q) / 2).log()
    return ((p * (p.log() - mean)).sum(-1) + (q * (q.log() - mean)).sum(-1)) / 2


def squared_distance(a: Tensor, b: Tensor, weighted: bool = True) -> Tensor:
    """An eighth of the variance of a - b over its d places: the second order of ``jsd``.

    Places weigh as the softmax of the mean of a and b says or, if not ``weighted``, all alike.
    """
    p = ((a + b) / 2 if weighted else torch.zeros_like(a)).softmax(-1)
    apart = a - b
    centred = apart - (p * apart).sum(-1, keepdim=True)
    return (p * centred.square()).sum(-1) / 8


def of_embeddings(measure: Loss, net: SmallVGG, made: Tensor, truth: Tensor) -> Tensor:
    """The mean of a measure of two sets of images' embeddings, (b, d) and (b, d)."""
    return measure(net.embedding(made), net.embedding(truth)).mean()


def push(loss: Loss, made: Tensor, truth: Tensor) -> float:
    """How hard a loss pulls at images: the norm of its gradient, to give two losses equal weight."""
    made = made.detach().requires_grad_()
    return float(torch.autograd.grad(loss(made, truth), made)[0].norm())


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """How far two sets of vectors, (n, d) and (m, d), are apart as distributions: 0 only if they are one."""
    return 2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()


# --- what features react to -------------------------------------------------------------------------------


def band_noise(shape: Sequence[int], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Noise whose frequencies lie in low <= f < high, in cycles per pixel, of unit energy per image.

    Raises ``ValueError`` for a band that holds no frequency.
    """
    inside = (spectra.frequencies(*shape[-2:]) >= low) & (spectra.frequencies(*shape[-2:]) < high)
    if not inside.any():
        raise ValueError(f"low and high must enclose a frequency of {tuple(shape[-2:])}, got {low}, {high}")
    noise = torch.randn(*shape, generator=generator)
    kept = torch.fft.ifft2(torch.fft.fft2(noise) * inside).real
    return kept / kept.flatten(1).norm(dim=1)[:, None, None, None]


def sensitivity(
    features: Callable[[Tensor], Tensor],
    x: Tensor,
    edges: Sequence[float],
    generator: torch.Generator,
    rms: float = 0.05,
) -> Tensor:
    """Squared change of features for a small change of images, over its squared size, band by band.

    Bands lie between neighbours of ``edges``, in cycles per pixel; ``rms`` is the change's size per value.
    Returns (len(edges) - 1,), means over images. For the identity all are 1.
    """
    size = rms * x[0].numel() ** 0.5
    with torch.no_grad():
        still, found = features(x), []
        for low, high in pairwise(edges):
            moved = features(x + size * band_noise(x.shape, low, high, generator))
            found.append(((moved - still).square().flatten(1).sum(1) / size**2).mean())
    return torch.stack(found)


def centroid(maps: Tensor) -> float:
    """Mean radial frequency of maps (b, c, h, w), weighed by power, as a fraction of Nyquist.

    Under a Hann window, without each map's mean.
    """
    power = spectra.power(maps - maps.mean((-2, -1), keepdim=True), "hann").sum((0, 1)).double()
    return float((power * spectra.frequencies(*maps.shape[-2:])).sum() / power.sum() / 0.5)


def least_rise(maps: Sequence[Tensor]) -> float:
    """The least step of the ``centroid`` from one of several maps to the next, of Nyquist."""
    return float(torch.tensor([centroid(each) for each in maps]).diff().min())


def high_energy(x: Tensor, cut: float = 0.25) -> float:
    """Power of images at ``cut`` cycles per pixel and above, under a Hann window."""
    power = spectra.power(x - x.mean((-2, -1), keepdim=True), "hann").sum((0, 1)).double()
    return float(power[spectra.frequencies(*x.shape[-2:]) >= cut].sum())
