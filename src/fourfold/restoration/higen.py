"""HiGen: one denoiser draws a picture, then lets it move, with two cues for how much.

Qing, Zhang, Wang, Wang, Wei, Zhang, Gao and Sang, "Hierarchical Spatio-temporal Decoupling for Text-to-Video
Generation", arXiv 2312.04483, CVPR 2024. The official repository (ali-vilab/VGen) was read for the network,
the sampling in two steps, and, in its history, the training script, which says how the cues are made; the
code here is written anew.

Implemented: the switch that turns a video model into an image model on a single frame, the convolution by
which the spatial prior comes in, both cues and their embeddings, v-prediction on the schedule with zero
terminal signal-to-noise ratio, and sampling in two steps. Beside these stand fourfold's own clips of digits
and what is measured on them.

Departures. The network is small, has one level below the first, no spatial attention, and takes a class in
place of text. The angle of a frame's brightness stands in for its CLIP embedding, whose cosines the official
code spreads by 5 s - 4. Guidance is off.

Clips are (batch, frames, channels, height, width) in -1..1, images (batch, channels, height, width).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from fourfold import checks
from fourfold.attention import Attention
from fourfold.data.probes import Images

# --- noise ------------------------------------------------------------------------------------------------

TIMES = 1000
OFFSET_NOISE = 0.1
"""Standard deviation of the noise that a frame's channel has in common, official."""


def scaled_linear_abar() -> Tensor:
    """The products of 1 - beta of Stable Diffusion's schedule, (1000,), float64; the last is 0.0047."""
    betas = torch.linspace(8.5e-4**0.5, 0.012**0.5, TIMES, dtype=torch.float64).square()
    return (1 - betas).cumprod(0)


def zero_snr_abar() -> Tensor:
    """The same rescaled so that the last is 0 and the first stays (Lin et al., arXiv 2305.08891)."""
    root = scaled_linear_abar().sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


def offset_noise(clips: int, frames: int, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Gaussian noise and a little that is the same all over a channel of a frame, (clips, frames, *size)."""
    noise = torch.randn(clips, frames, *size, generator=generator)
    return noise + OFFSET_NOISE * torch.randn(clips, frames, size[0], 1, 1, generator=generator)


def noised(x: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """sqrt(abar) x + sqrt(1 - abar) noise; ``abar`` broadcasts."""
    return abar.sqrt() * x + (1 - abar).sqrt() * noise


def v_target(x: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """What is predicted: sqrt(abar) noise - sqrt(1 - abar) x, `noised` turned by a right angle."""
    return abar.sqrt() * noise - (1 - abar).sqrt() * x


def x0_from_v(noisy: Tensor, v: Tensor, abar: Tensor) -> Tensor:
    """The clean image that a noisy one and v say: sqrt(abar) noisy - sqrt(1 - abar) v."""
    return abar.sqrt() * noisy - (1 - abar).sqrt() * v


# --- cues -------------------------------------------------------------------------------------------------

LATENT = 4 * 32 * 56
"""Values of a frame of the official latents: cues of other frames are scaled as if they had as many."""


def motion_amount(clips: Tensor) -> Tensor:
    """Root mean squared difference of neighbouring frames, (batch, frames - 1)."""
    return clips.diff(dim=1).flatten(2).square().mean(2).sqrt()


def motion_code(amount: Tensor) -> Tensor:
    """Motion as the whole number that the network is told: ten times the norm of a difference."""
    return (10 * math.sqrt(LATENT) * amount).long()


def motion_cue(clips: Tensor) -> Tensor:
    """How much moves: a whole number for every two neighbouring frames, (batch, frames - 1).

    Raises ``ValueError`` for a single frame.
    """
    checks.at_least(2, frames=clips.shape[1])
    return motion_code(motion_amount(clips))


def brightness_code(clips: Tensor) -> Tensor:
    """A frame's embedding, (batch, frames, 2): its brightness over the brightest frame's as an angle.

    Black is 90 degrees from the brightest. It sees a fade and no shift, in the place of CLIP.
    """
    bright = ((clips + 1) / 2).flatten(2).mean(2).clamp(min=0)
    angle = (1 - bright / bright.amax(1, keepdim=True).clamp(min=1e-6)) * math.pi / 2
    return torch.stack([angle.cos(), angle.sin()], -1)


def appearance_cue(clips: Tensor) -> Tensor:
    """How alike frames look: cosines of their embeddings, (batch, frames, frames)."""
    code = brightness_code(clips)
    return code @ code.mT


def appearance_toeplitz(change: Tensor, frames: int) -> Tensor:
    """The cue asked for when sampling: 1 - change |i - j| / (frames - 1).

    (batch,) -> (batch, frames, frames). Raises ``ValueError`` for fewer than 2 frames or a change that is
    not in 0..1.
    """
    checks.at_least(2, frames=frames)
    if change.numel() and not 0 <= float(change.min()) <= float(change.max()) <= 1:
        raise ValueError(f"change must be in 0..1, got {float(change.min()):g}..{float(change.max()):g}")
    places = torch.arange(frames)
    apart = (places[:, None] - places).abs() / (frames - 1)
    return 1 - change[:, None, None] * apart


class Conditions(NamedTuple):
    """What the network is told beside the noisy clip and its time."""

    labels: Tensor
    """(batch,)"""
    prior: Tensor
    """The spatial prior, (batch, channels, height, width); 0 where there is none."""
    motion: Tensor
    """(batch, frames - 1), whole numbers; (batch, 1) for a single frame."""
    appearance: Tensor
    """(batch, frames, longest): row i says how alike the others look to frame i."""


def no_conditions(labels: Tensor, frames: int, longest: int, size: Sequence[int]) -> Conditions:
    """The class alone, as the first step has it: prior 0, motion 0, all frames alike."""
    batch = len(labels)
    return Conditions(
        labels,
        torch.zeros(batch, *size),
        torch.zeros(batch, max(1, frames - 1), dtype=torch.int64),
        torch.ones(batch, frames, longest),
    )


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of values times 10000^(-2 i / dim): (...,) -> (..., dim)."""
    rates = 10000 ** (-torch.arange(dim // 2) / (dim // 2))
    angles = values[..., None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


# --- the denoiser -----------------------------------------------------------------------------------------


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters at 0: what it adds is nothing until it has learnt."""
    for value in layer.parameters():
        nn.init.zeros_(value)
    return layer


class TemporalAttention(nn.Module):
    """Attention of each pixel over its frames. On a single frame it adds nothing, whatever its weights."""

    def __init__(self, channels: int, frames: int):
        super().__init__()
        self.places = nn.Parameter(0.1 * torch.randn(frames, channels))
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(channels, 1)
        zeroed(self.attention.projection)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(batch * frames, channels, height, width) -> the same."""
        tokens = rearrange(x, "(b f) c y x -> b (y x) f c", f=frames)
        mixed = self.attention(self.norm(tokens) + self.places[:frames])[0]
        return _switched(x, rearrange(mixed, "b (y x) f c -> (b f) c y x", y=x.shape[-2]), frames)


class TemporalConvolution(nn.Module):
    """A convolution over three frames. On a single frame it adds nothing, whatever its weights."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.convolution = zeroed(nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(batch * frames, channels, height, width) -> the same."""
        h = rearrange(silu(self.norm(x)), "(b f) c y x -> b c f (y x)", f=frames)
        mixed = self.convolution(h)
        return _switched(x, rearrange(mixed, "b c f (y x) -> (b f) c y x", y=x.shape[-2]), frames)


def _switched(x: Tensor, branch: Tensor, frames: int) -> Tensor:
    return x + (0.0 if frames == 1 else 1.0) * branch


class Block(nn.Module):
    """Two convolutions, the embedding added between them, around a shortcut; then what mixes frames."""

    def __init__(self, channels: int, outputs: int, embedding: int, frames: int | None = None):
        super().__init__()
        self.norm_in = nn.GroupNorm(4, channels)
        self.conv_in = nn.Conv2d(channels, outputs, 3, padding=1)
        self.embedding = nn.Linear(embedding, outputs)
        self.norm_out = nn.GroupNorm(4, outputs)
        self.conv_out = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Identity() if channels == outputs else nn.Conv2d(channels, outputs, 1)
        self.temporal = nn.ModuleList([TemporalConvolution(outputs)])
        if frames is not None:
            self.temporal.append(TemporalAttention(outputs, frames))

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        """``x``: (batch * frames, channels, ...), ``embedding``: (batch * frames, dim)."""
        h = self.conv_in(silu(self.norm_in(x)))
        h = h + self.embedding(silu(embedding))[..., None, None]
        x = self.shortcut(x) + self.conv_out(silu(self.norm_out(h)))
        for mix in self.temporal:
            x = mix(x, frames)
        return x


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs))


class HiGenNet(nn.Module):
    """A small U-Net that predicts v of an image (one frame) or of a clip (``frames`` of them).

    ``width`` is that of the first level, the second has twice as many channels. Raises ``ValueError`` unless
    width is a multiple of 4, and for fewer than 3 frames or no class.
    """

    def __init__(self, width: int, frames: int, classes: int, channels: int = 1):
        super().__init__()
        checks.at_least(1, classes=classes, channels=channels)
        checks.at_least(3, frames=frames)
        if width < 4 or width % 4:
            raise ValueError(f"width must be a multiple of 4, >= 4, got {width}")
        dim = 4 * width
        self.width = width
        self.time = _mlp(width, dim)
        self.label = nn.Embedding(classes, dim)
        self.motion = _mlp(width, dim)
        self.appearance = _mlp(frames, dim)
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.prior = zeroed(nn.Conv2d(channels, width, 3, padding=1))
        self.temporal = TemporalAttention(width, frames)
        self.high = Block(width, width, dim)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, padding=1)
        self.low = nn.ModuleList([Block(2 * width, 2 * width, dim, frames) for _ in range(2)])
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = Block(2 * width, width, dim)
        self.norm = nn.GroupNorm(4, width)
        self.out = nn.Conv2d(width, channels, 3, padding=1)
        for layer in (self.motion[-1], self.appearance[-1], self.out):
            zeroed(layer)

    def forward(self, x: Tensor, times: Tensor, given: Conditions) -> Tensor:
        """``x``: (batch, frames, channels, height, width), ``times``: (batch,). Returns v as x."""
        frames = x.shape[1]
        embedding = self.embed(times, given, frames)
        x = rearrange(x, "b f c y x -> (b f) c y x")
        x = self.temporal(self.enter(x, given.prior, frames), frames)
        high = self.high(x, embedding, frames)
        x = self.down(high)
        for block in self.low:
            x = block(x, embedding, frames)
        x = self.up(interpolate(x, size=high.shape[-2:]))
        x = self.last(torch.cat([x, high], 1), embedding, frames)
        x = self.out(silu(self.norm(x)))
        return rearrange(x, "(b f) c y x -> b f c y x", f=frames)

    def enter(self, x: Tensor, prior: Tensor, frames: int) -> Tensor:
        """The noisy frames' first features and the prior's, added to each: (batch * frames, width, ...)."""
        return self.conv_in(x) + self.prior(prior).repeat_interleave(frames, 0)

    def embed(self, times: Tensor, given: Conditions, frames: int) -> Tensor:
        """Time, class and both cues in one vector for each frame, (batch * frames, dim).

        Motion is told of pairs of frames, and spread over the frames linearly.
        """
        whole = self.time(sinusoid(times, self.width)) + self.label(given.labels)
        motion = sinusoid(given.motion, self.width)
        if frames > 1:
            motion = interpolate(motion.mT, size=frames, mode="linear").mT
        each = whole[:, None] + self.motion(motion) + self.appearance(given.appearance)
        return each.flatten(0, 1)


# --- sampling ---------------------------------------------------------------------------------------------


@torch.no_grad()
def ddim_sample(predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """DDIM without noise of its own: from ``noise`` to clips or images like it, in as many calls as steps.

    ``predict(x, times)`` gives v. The first time is the last of the schedule, where nothing but noise is
    left; estimates of the clean clip are clamped to -1..1.
    Raises ``ValueError`` for fewer than 1 step or more than there are times.
    """
    checks.between(1, TIMES, steps=steps)
    abar = torch.cat([torch.ones(1, dtype=torch.float64), zero_snr_abar()]).float()
    places = torch.linspace(TIMES, 0, steps + 1).round().long().tolist()
    x = noise
    for here, after in pairwise(places):
        v = predict(x, torch.full((len(x),), here - 1))
        clean = x0_from_v(x, v, abar[here]).clamp(-1, 1)
        left = (x - abar[here].sqrt() * clean) / (1 - abar[here]).sqrt()
        x = noised(clean, left, abar[after])
    return x


class Drawn(NamedTuple):
    """What two steps make: the spatial prior (batch, channels, height, width) and the clip."""

    prior: Tensor
    clip: Tensor


def second_step(
    net: HiGenNet,
    labels: Tensor,
    prior: Tensor,
    motion: Tensor,
    appearance: Tensor,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Clips from class, spatial prior and cues, (batch, frames, channels, height, width).

    ``prior``: (batch, channels, height, width), ``motion``: (batch, frames - 1), ``appearance``:
    (batch, frames, frames); the network is called ``steps`` times.
    """
    given = Conditions(labels, prior, motion, appearance)
    noise = offset_noise(len(labels), appearance.shape[-1], prior.shape[1:], generator)
    return ddim_sample(lambda x, times: net(x, times, given), noise, steps)


def two_step_sample(
    net: HiGenNet,
    labels: Tensor,
    motion: Tensor,
    appearance: Tensor,
    steps: int,
    size: Sequence[int],
    generator: torch.Generator,
) -> Drawn:
    """First an image from the class alone, then a clip from class, image and cues, by the same network.

    As `second_step`, with ``steps`` calls for each of the two.
    """
    alone = no_conditions(labels, 1, appearance.shape[-1], size)
    noise = torch.randn(len(labels), 1, *size, generator=generator)
    prior = ddim_sample(lambda x, times: net(x, times, alone), noise, steps)[:, 0]
    return Drawn(prior, second_step(net, labels, prior, motion, appearance, steps, generator))


# --- training ---------------------------------------------------------------------------------------------


def training_rows(x: Tensor, given: Conditions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips or images (n, frames, ...) noised at times of their own: rows for `Rows`, and v as they are."""
    times = torch.randint(TIMES, (len(x),), generator=generator)
    noise = offset_noise(len(x), x.shape[1], x.shape[2:], generator)
    abar = zero_snr_abar().float()[times][:, None, None, None, None]
    told = [given.prior, given.motion, given.appearance, times[:, None], given.labels[:, None]]
    rows = torch.cat([part.flatten(1).float() for part in (noised(x, noise, abar), *told)], 1)
    return rows, v_target(x, noise, abar)


class Rows(nn.Module):
    """A network that takes everything in one tensor, as `fourfold.training.train` gives it.

    The first ``stills`` rows of a batch are images, as many in a row as a clip has frames; the others clips.
    """

    def __init__(self, net: HiGenNet, frames: int, side: int, stills: int):
        super().__init__()
        self.net, self.stills = net, stills
        self.shape = (frames, 1, side, side)

    def forward(self, rows: Tensor) -> Tensor:
        """(batch, values), as `rows` makes them -> v (batch, frames, 1, side, side)."""
        frames, _, side, _ = self.shape
        x, prior, motion, appearance, rest = rows.split(
            [frames * side**2, side**2, frames - 1, frames**2, 2], 1
        )
        x = x.unflatten(1, self.shape)
        times, labels = rest.long().unbind(1)
        given = Conditions(
            labels, prior.unflatten(1, self.shape[1:]), motion, appearance.unflatten(1, (frames, frames))
        )
        k = self.stills
        parts = [self.net(x[k:], times[k:], Conditions(*(value[k:] for value in given)))]
        if k:
            each = no_conditions(labels[:k].repeat_interleave(frames), 1, frames, self.shape[1:])
            images = x[:k].flatten(0, 1)[:, None]
            parts.insert(0, self.net(images, times[:k].repeat_interleave(frames), each).view_as(x[:k]))
        return torch.cat(parts)


# --- clips of digits --------------------------------------------------------------------------------------

BRIGHT = 0.6
"""Brightness of the middle frame; a fade begins above and ends below it."""

DIRECTIONS = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])
"""Where the digits of each class go: 0 right, 1 down, 2 left, 3 up."""


def digits_of_writers() -> tuple[Images, Images]:
    """Digits 0 to 3, (n, 8, 8) in 0..1: of the first nine writers or so, and of the others.

    Scikit-learn's file goes writer by writer (Alpaydin and Kaynak 1998) and does not name them.
    """
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 8, 8) / 16
    labels = torch.tensor(classes, dtype=torch.int64)
    wanted, seen = labels < len(DIRECTIONS), torch.arange(len(labels)) < 1250
    first, rest = (Images(images[part], labels[part]) for part in (wanted & seen, wanted & ~seen))
    return first, rest


def shifted(images: Tensor, by: Tensor) -> Tensor:
    """Images (..., height, width) moved down and right by (..., 2) pixels, parts of one too, on a torus."""
    height, width = images.shape[-2:]
    down = by[..., 0, None, None] * torch.fft.fftfreq(height)[:, None]
    right = by[..., 1, None, None] * torch.fft.fftfreq(width)
    turn = torch.exp(-2j * math.pi * (down + right))
    return torch.fft.ifft2(torch.fft.fft2(images) * turn).real


def panned(images: Tensor, velocity: Tensor, frames: int) -> Tensor:
    """Images (n, h, w) that move by (n, 2) pixels a frame and are where they were in the middle one."""
    places = torch.arange(frames) - frames // 2
    return shifted(images[:, None], velocity[:, None] * places[:, None])[:, :, None]


class Clips(NamedTuple):
    """Clips (n, frames, 1, height, width) and their classes (n,)."""

    clips: Tensor
    labels: Tensor


def digit_clips(
    source: Images, n: int, frames: int, generator: torch.Generator, speed: float = 1.5, fade: float = 0.6
) -> Clips:
    """Digits that move in the direction of their class and fade.

    Speeds are uniform in 0..``speed`` pixels a frame; the brightness falls from 0.6 (1 + g) to 0.6 (1 - g),
    g uniform in 0..``fade``. The middle frame is the digit in its place.
    """
    checks.at_least(1, n=n)
    chosen = torch.randint(len(source.labels), (n,), generator=generator)
    labels = source.labels[chosen]
    fast = speed * torch.rand(n, 1, generator=generator)
    moved = panned(source.images[chosen], fast * DIRECTIONS[labels], frames).clamp(0, 1)
    ramp = torch.linspace(1, -1, frames) * fade * torch.rand(n, 1, generator=generator)
    bright = BRIGHT * (1 + ramp)[..., None, None, None]
    return Clips(2 * bright * moved - 1, labels)


def still_images(source: Images, labels: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Unmoved digits of the classes given, ``frames`` for each, as bright as a clip's middle frame.

    (n,) -> (n, frames, 1, height, width).
    """
    drawn = torch.rand(len(labels), frames, generator=generator)
    found = torch.zeros(len(labels), frames, *source.images.shape[1:])
    for label in labels.unique():
        pool, rows = source.images[source.labels == label], labels == label
        found[rows] = pool[(drawn[rows] * len(pool)).long()]
    return 2 * BRIGHT * found[:, :, None] - 1


def told(drawn: Clips, cued: bool) -> Conditions:
    """What a network learns from beside the clips: middle frames and both cues, or their classes alone."""
    clips, labels = drawn
    frames = clips.shape[1]
    given = no_conditions(labels, frames, frames, clips.shape[2:])
    if not cued:
        return given
    return Conditions(labels, clips[:, frames // 2], motion_cue(clips), appearance_cue(clips))


def training_batches(
    source: Images,
    length: int,
    batch: int,
    stills: int,
    frames: int,
    cued: bool,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """``length`` batches of clips behind ``stills`` rows of images each, for `Rows`, and their v."""
    rows = batch + stills
    drawn = digit_clips(source, length * rows, frames, generator)
    images = still_images(source, drawn.labels, frames, generator)
    is_image = torch.arange(length * rows) % rows < stills
    x = torch.where(is_image[:, None, None, None, None], images, drawn.clips)
    return training_rows(x, told(drawn, cued), generator)


# --- what is measured -------------------------------------------------------------------------------------

FINE = 4
"""Places a pixel is divided into when a shift is looked for."""


def correlations(one: Tensor, other: Tensor) -> Tensor:
    """Correlation of images (..., h, w) with others at every shift, quarters of a pixel: (..., 4 h, 4 w).

    Entry [a, b] belongs to a shift of the other back by a / 4 down and b / 4 right.
    """
    height, width = one.shape[-2:]
    first, second = (image - image.mean((-2, -1), keepdim=True) for image in (one, other))
    spectrum = torch.fft.fft2(first).conj() * torch.fft.fft2(second)
    size = (*spectrum.shape[:-2], FINE * height, FINE * width)
    rows = torch.fft.fftfreq(height, 1 / height).long() % size[-2]
    columns = torch.fft.fftfreq(width, 1 / width).long() % size[-1]
    finer = torch.zeros(size, dtype=spectrum.dtype)
    finer[..., rows[:, None], columns] = spectrum
    surface = torch.fft.ifft2(finer).real * FINE**2
    scale = (first.square().sum((-2, -1)) * second.square().sum((-2, -1))).sqrt().clamp(min=1e-6)
    return surface / scale[..., None, None]


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Correlation of images (..., h, w) with others, as they lie: (...,)."""
    return correlations(one, other)[..., 0, 0]


def displacement(clips: Tensor) -> Tensor:
    """By how many pixels each frame moves on to the next, down and right.

    (n, frames, 1, h, w) -> (n, frames - 1, 2), where the two correlate best.
    """
    surface = correlations(clips[:, :-1, 0], clips[:, 1:, 0])
    height, width = surface.shape[-2:]
    best = surface.flatten(-2).argmax(-1)
    found = torch.stack([best // width, best % width], -1)
    size = torch.tensor([height, width])
    return ((found + size // 2) % size - size // 2) / FINE


def alignment(clips: Tensor, labels: Tensor) -> float:
    """Of all movement between frames the share in the direction of the class, -1..1; 0 if nothing moves."""
    moves = displacement(clips)
    length = float(moves.norm(dim=-1).sum())
    return float((moves * DIRECTIONS[labels][:, None]).sum()) / length if length else 0.0


def spectrum(images: Tensor) -> Tensor:
    """Moduli of Fourier coefficients, which neither a shift nor a fade changes: (..., h, w) -> (..., n)."""
    found = torch.fft.rfft2((images + 1) / 2).abs().flatten(-2)
    return found / found.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def energy_distance(one: Tensor, other: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two sets (n, ...) and (m, ...): 0 for one distribution.

    Without the pairs of a point with itself, so that sets of any size compare alike.
    """
    x, y = one.flatten(1), other.flatten(1)

    def within(a: Tensor) -> Tensor:
        return torch.cdist(a, a).sum() / (len(a) * (len(a) - 1))

    return float(2 * torch.cdist(x, y).mean() - within(x) - within(y))


def class_distance(clips: Tensor, labels: Tensor, other: Clips) -> float:
    """`energy_distance` to other clips, class by class, and the mean of these."""
    each = [energy_distance(clips[labels == k], other.clips[other.labels == k]) for k in labels.unique()]
    return sum(each) / len(each)


def handed_out(clips: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """The same clips in another order: within a class those that move most go where most is wanted, (n,)."""
    amount, found = motion_amount(clips).mean(1), clips.clone()
    for label in labels.unique():
        rows = torch.nonzero(labels == label)[:, 0]
        found[rows[wanted[rows].argsort()]] = clips[rows[amount[rows].argsort()]]
    return found


def moved_like(images: Tensor, labels: Tensor, seen: Clips, generator: torch.Generator) -> Tensor:
    """Images (n, h, w) in -1..1, each moved and dimmed as some seen clip of its class was measured to be."""
    velocity, middle = displacement(seen.clips).mean(1), seen.clips.shape[1] // 2
    bright = ((seen.clips + 1) / 2).flatten(2).mean(2)
    chosen = torch.rand(len(images), len(seen.labels), generator=generator)
    chosen = chosen.where(labels[:, None] == seen.labels, -1.0).argmax(1)
    dimmed = (bright / bright[:, middle : middle + 1])[chosen, :, None, None, None]
    return dimmed * (panned(images, velocity[chosen], seen.clips.shape[1]) + 1) - 1


def moved_at(images: Tensor, labels: Tensor, seen: Clips, wanted: Tensor) -> Tensor:
    """Images (n, h, w), each moved as seen clips of its class in the mean, as fast as wanted, (n,), asks."""
    moves = displacement(seen.clips).mean(1)
    mean = torch.stack([moves[seen.labels == label].mean(0) for label in labels])
    speeds, frames = torch.linspace(0, 3, 31), seen.clips.shape[1]
    each = torch.stack(
        [panned(images, speed * mean / mean.norm(dim=1, keepdim=True), frames) for speed in speeds]
    )
    amount = motion_amount(each.flatten(0, 1)).mean(1).view(len(speeds), -1)
    return each[(amount - wanted).abs().argmin(0), torch.arange(len(images))]


def faded(clips: Tensor, change: Tensor) -> Tensor:
    """Clips whose frames are multiplied until their brightness falls evenly and the look changes as asked.

    ``change``: (n,), 1 minus the cosine between the first and the last frame's `brightness_code`.
    """
    bright = ((clips + 1) / 2).flatten(2).mean(2).clamp(min=1e-6)
    angle = torch.arccos(1 - change)[:, None] * torch.linspace(0, 1, clips.shape[1])
    factor = bright[:, :1] * (1 - 2 * angle / math.pi) / bright
    return (clips + 1) * factor[..., None, None, None] - 1


@torch.no_grad()
def losses_by_time(
    net: HiGenNet, drawn: Clips, cued: bool, spans: int, generator: torch.Generator
) -> list[float]:
    """The loss in v on clips in so many equal spans of times, one time for each clip."""
    x, n = drawn.clips, len(drawn.clips)
    times = torch.arange(n) * TIMES // n
    noise = offset_noise(n, x.shape[1], x.shape[2:], generator)
    abar = zero_snr_abar().float()[times][:, None, None, None, None]
    errors = (net(noised(x, noise, abar), times, told(drawn, cued)) - v_target(x, noise, abar)).square()
    return [float(errors[times * spans // TIMES == span].mean()) for span in range(spans)]


def pixel_guess_loss(clips: Tensor) -> float:
    """The loss in v of the best guess that knows each pixel's mean and variance alone, mean over all times.

    With variance s^2 it is s^2 / (abar s^2 + 1 - abar): the error in v is that in x over 1 - abar.
    """
    variance = clips.double().var(0).flatten()[:, None]
    abar = zero_snr_abar()
    return float((variance / (abar * variance + 1 - abar)).mean())
