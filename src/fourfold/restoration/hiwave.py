"""HiWave: a base image enlarged by a diffusion model that guides only its wavelet details.

Vontobel, Sadat, Salehi and Weber, "HiWave: Training-Free High-Resolution Image Generation via Wavelet-Based
Diffusion Sampling", arXiv 2506.20452 (2025). The enlarged base image is cut into overlapping patches. DDIM
inversion turns each into noise; DDIM sampling turns the noise into an image again. At every step the low band
of the prediction is that of the conditional model, and classifier-free guidance acts on the details alone.

Implemented: the transform with periodic borders, the detail enhancer, patch-wise inversion and sampling with
the skip residual, and a model whose predictions are known in closed form: a mixture of Gaussians of patches,
where the paper has Stable Diffusion XL. The authors released no code; details that the text leaves open are
those of a reimplementation (github.com/laihongphuc/minHiWave), where it is consistent. Departures: Haar
wavelets by default, since patches are small; and no final rescaling of mean and spread, which would move the
low frequencies. fourfold's own is what HiWave is compared with: guidance of the whole prediction or of all
but a Gaussian blur, the base's low band in place of the prediction's, noise added instead of inverted, with
and without a skip residual, a base whose details are amplified, and measures of structure and details.

Images are (..., side, side), patches (..., P, p, p), float64 in -1..1; levels are cumulative products of
1 - beta, the largest first, as diffusion papers write alpha-bar.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from math import cos, log, pi
from typing import NamedTuple

import numpy as np
import pywt
import torch
from scipy import ndimage
from sklearn.cluster import KMeans
from torch import Tensor

from fourfold import checks

WAVELETS = ("haar", "db2", "sym4")
RIDGE = 1e-3
"""Added to every covariance; pixels lie in -1..1."""

Predict = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""Conditional and unconditional prediction of the clean patches (..., p, p) at a level."""
Guide = Callable[[Tensor, Tensor], Tensor]
"""Makes one prediction of the conditional and the unconditional one."""


# --- the wavelet and what it guides -----------------------------------------------------------------------


@cache
def _bank(wavelet: str, n: int) -> Tensor:
    """The orthogonal transform of a line of n pixels with periodic borders, (n, n): low half, high half."""
    checks.one_of(WAVELETS, wavelet=wavelet)
    if n < 2 or n % 2:
        raise ValueError(f"sides of an image must be even and >= 2, got {n}")
    taps = pywt.Wavelet(wavelet)
    bank = torch.zeros(n, n, dtype=torch.float64)
    for half, filtered in enumerate((taps.dec_lo, taps.dec_hi)):
        for k in range(n // 2):
            for j, tap in enumerate(filtered):
                bank[half * n // 2 + k, (2 * k + len(filtered) // 2 - j) % n] += tap
    return bank


def dwt2(x: Tensor, wavelet: str = "haar") -> tuple[Tensor, Tensor]:
    """One level of the orthogonal wavelet transform of images (..., H, W) with periodic borders.

    Returns the low band (..., H/2, W/2) and the details (..., 3, H/2, W/2): high from top to bottom, from
    left to right, and both, as PyWavelets orders them. Raises ``ValueError`` for odd sides or a wavelet not
    in ``WAVELETS``.
    """
    rows, columns = (_bank(wavelet, n).to(x) for n in x.shape[-2:])
    bands = rows @ x @ columns.T
    height, width = (n // 2 for n in x.shape[-2:])
    upper, lower = bands[..., :height, :], bands[..., height:, :]
    details = (lower[..., :width], upper[..., width:], lower[..., width:])
    return upper[..., :width], torch.stack(details, -3)


def idwt2(low: Tensor, details: Tensor, wavelet: str = "haar") -> Tensor:
    """The inverse of ``dwt2``: (..., h, w) and (..., 3, h, w) -> (..., 2h, 2w).

    Raises ``ValueError`` for bands that do not belong together.
    """
    if details.shape != (*low.shape[:-2], 3, *low.shape[-2:]):
        raise ValueError(f"details must be (..., 3, h, w) for {tuple(low.shape)}, got {tuple(details.shape)}")
    vertical, horizontal, both = details.unbind(-3)
    bands = torch.cat([torch.cat([low, horizontal], -1), torch.cat([vertical, both], -1)], -2)
    rows, columns = (_bank(wavelet, n).to(low) for n in bands.shape[-2:])
    return rows.T @ bands @ columns


def detail_enhance(
    conditional: Tensor, unconditional: Tensor, w: float, wavelet: str = "haar", low: Tensor | None = None
) -> Tensor:
    """The detail enhancer: predictions (..., H, W) each -> one whose details alone are guided by w.

    Its low band is the conditional prediction's, or ``low`` (..., H/2, W/2): with the base image's this is
    fourfold's variant that cannot drift. w = 1 gives the conditional prediction back. Raises ``ValueError``
    for predictions of unlike shapes and a w that is not finite and >= 0.
    """
    _pair(conditional, unconditional, w)
    own, guided = dwt2(conditional, wavelet)
    plain = dwt2(unconditional, wavelet)[1]
    return idwt2(own if low is None else low, plain + w * (guided - plain), wavelet)


def drift_with_mirrored_borders(conditional: Tensor, unconditional: Tensor, w: float) -> np.ndarray:
    """How far the enhancer moves the low band with PyWavelets' default borders and sym4, (h, w).

    Predictions (H, W) each. Mirrored borders have more coefficients than the image has pixels; an image that
    is put together from others than its own has a third low band. The reimplementation does this.
    """
    _pair(conditional, unconditional, w)
    low, own = pywt.dwt2(conditional.numpy(), "sym4")
    plain = pywt.dwt2(unconditional.numpy(), "sym4")[1]
    guided = tuple(u + w * (c - u) for c, u in zip(own, plain, strict=True))
    return np.abs(pywt.dwt2(pywt.idwt2((low, guided), "sym4"), "sym4")[0] - low)


def guide_all(conditional: Tensor, unconditional: Tensor, w: float) -> Tensor:
    """Classifier-free guidance of the whole prediction (Ho and Salimans 2022); arguments as above."""
    _pair(conditional, unconditional, w)
    return unconditional + w * (conditional - unconditional)


def guide_all_but_blur(conditional: Tensor, unconditional: Tensor, w: float) -> Tensor:
    """Guidance of what a Gaussian blur leaves; the blur halves amplitudes at 1/4 cycle per pixel, as Haar.

    Periodic borders, as the transform's; arguments as above.
    """
    _pair(conditional, unconditional, w)
    squares = [torch.fft.fftfreq(n, dtype=torch.float64) ** 2 for n in conditional.shape[-2:]]
    blur = torch.exp(-log(2) * (squares[0][:, None] + squares[1]) / 0.25**2).to(conditional)
    difference = torch.fft.fft2(conditional - unconditional)
    return conditional + (w - 1) * torch.fft.ifft2((1 - blur) * difference).real


def _pair(conditional: Tensor, unconditional: Tensor, w: float) -> None:
    if conditional.shape != unconditional.shape:
        raise ValueError(
            f"predictions must have one shape, got {tuple(conditional.shape)}, {tuple(unconditional.shape)}"
        )
    checks.finite(w=w)


# --- patches ----------------------------------------------------------------------------------------------


def views(side: int, patch: int, stride: int) -> Tensor:
    """Where patches lie: flat indices (P, p, p) of the pixels of an image, rows of patches first.

    Patches are ``stride`` apart; a last one that would not fit is moved inwards. Raises ``ValueError`` for a
    patch that is odd, below 2 or above the side, and a stride outside 1..patch.
    """
    if patch % 2 or not 2 <= patch <= side:
        raise ValueError(f"patch must be even and in 2..{side}, the side, got {patch}")
    checks.between(1, patch, "the patch", stride=stride)
    starts = torch.tensor([*range(0, side - patch, stride), side - patch])
    corners = (starts[:, None] * side + starts).flatten()
    offsets = torch.arange(patch)[:, None] * side + torch.arange(patch)
    return corners[:, None, None] + offsets


def cut(image: Tensor, places: Tensor) -> Tensor:
    """The patches (..., P, p, p) of an image (..., side, side) at ``views``."""
    return image.flatten(-2)[..., places]


def crops(image: Tensor, n: int, size: int, generator: torch.Generator) -> Tensor:
    """Crops (n, size, size) of an image (H, W) at random places.

    Raises ``ValueError`` for n < 1 or a size outside 1..the shorter side.
    """
    checks.at_least(1, n=n)
    checks.between(1, min(image.shape), "the shorter side", size=size)
    corners = [torch.randint(side - size + 1, (n,), generator=generator).tolist() for side in image.shape]
    return torch.stack([image[y : y + size, x : x + size] for y, x in zip(*corners, strict=True)])


def merge(patches: Tensor, places: Tensor) -> Tensor:
    """The image (..., side, side) of patches (..., P, p, p) at ``views``: where they overlap, their mean."""
    pixels = int(places.max()) + 1
    flat, where = patches.flatten(-3), places.flatten()
    total = flat.new_zeros(*flat.shape[:-1], pixels).index_add(-1, where, flat)
    total = total / torch.bincount(where, minlength=pixels)
    side = round(pixels**0.5)
    return total.unflatten(-1, (side, side))


# --- noise and back ---------------------------------------------------------------------------------------


def levels(steps: int, last: int = 999) -> list[float]:
    """steps + 1 levels, evenly from place 0 to ``last`` of 1000; betas 1e-4 to 0.02, linear in their roots.

    Raises ``ValueError`` for a last place outside 1..999 and steps outside 1..last.
    """
    checks.between(1, 999, last=last)
    checks.between(1, last, "the last place", steps=steps)
    betas = torch.linspace(1e-4**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.linspace(0, last, steps + 1, dtype=torch.float64).round().long()
    return torch.cumprod(1 - betas, 0)[kept].tolist()


def ddim_step(x: Tensor, clean: Tensor, now: float, then: float) -> Tensor:
    """From one level to another, up or down, by the prediction of the clean patches and no new noise."""
    noise = (x - now**0.5 * clean) / (1 - now) ** 0.5
    return then**0.5 * clean + (1 - then) ** 0.5 * noise


def ddim_invert(denoise: Callable[[Tensor, float], Tensor], clean: Tensor, at: Sequence[float]) -> Tensor:
    """Patches turned into noise: their states (levels, ...), from the clean ones at the first level.

    ``denoise`` is the conditional model's prediction of clean patches at a level, without guidance. A step
    uses that of the level which it leaves, where sampling will use that of the other: an error of first
    order.
    """
    states = [clean]
    for now, then in pairwise(at):
        states.append(ddim_step(states[-1], denoise(states[-1], now), now, then))
    return torch.stack(states)


def add_noise(clean: Tensor, noise: Tensor, level: float) -> Tensor:
    """What inversion is compared with: clean images or patches with noise of the same shape, at a level."""
    return level**0.5 * clean + (1 - level) ** 0.5 * noise


def skip_weight(step: int, steps: int, alpha: float = 1.0) -> float:
    """Share of the inverted state before a step of sampling, 0 the first: 1 at first, then falling."""
    return ((1 + cos(pi * step / steps)) / 2) ** alpha


def ddim_sample(
    predict: Predict,
    guides: Sequence[Guide],
    start: Tensor,
    at: Sequence[float],
    places: Tensor,
    states: Tensor | None = None,
    skip: int = 0,
    alpha: float = 1.0,
) -> Tensor:
    """Images of patches: at each step overlaps are averaged, and the next one sees the merged image.

    Args:
        predict: the model.
        guides: one for each image that is sampled, side by side.
        start: patches (images, P, p, p) at the last of the levels.
        at: levels, the largest first.
        places: the ``views``.
        states: inverted states (levels, P, p, p), for all images; (levels, images, P, p, p) for each.
        skip: steps before which the inverted state is mixed in, with a share of ``skip_weight``.
        alpha: the power of that share.

    Returns the images (levels - 1, images, side, side), from noisy to clean: the last is the result, at the
    first level. Raises ``ValueError`` for another number of guides, and for skip > 0 without states.
    """
    if len(guides) != len(start):
        raise ValueError(f"guides must be one for each of {len(start)} images, got {len(guides)}")
    if skip and states is None:
        raise ValueError(f"skip must be 0 without states, got {skip}")
    patches, images = start, []
    downwards = list(pairwise(reversed(at)))
    for step, (now, then) in enumerate(downwards):
        if states is not None and step < skip:
            patches = torch.lerp(
                patches, states[len(downwards) - step], skip_weight(step, len(downwards), alpha)
            )
        pairs = zip(*predict(patches, now), strict=True)
        clean = torch.stack([guide(*pair) for guide, pair in zip(guides, pairs, strict=True)])
        images.append(merge(ddim_step(patches, clean, now, then), places))
        patches = cut(images[-1], places)
    return torch.stack(images)


# --- a model that is known in closed form -----------------------------------------------------------------


class PatchGMM(NamedTuple):
    """A mixture of K Gaussians of patches with p x p = d pixels."""

    log_weights: Tensor
    """(K,)"""
    means: Tensor
    """(K, d)"""
    variances: Tensor
    """(K, d), along the axes"""
    axes: Tensor
    """(K, d, d), columns"""

    @classmethod
    def fit(cls, patches: Tensor, components: int, generator: torch.Generator) -> "PatchGMM":
        """Clusters of patches (n, p, p) by k-means, each with its mean, covariance + ``RIDGE`` and share.

        Raises ``ValueError`` for fewer than 2 patches a component, of which one may still stay alone.
        """
        checks.at_least(1, components=components)
        if len(patches) < 2 * components:
            raise ValueError(f"patches must be >= 2 components = {2 * components}, got {len(patches)}")
        flat = patches.flatten(1).double()
        draw = int(torch.randint(2**31, (), generator=generator))
        found = KMeans(components, n_init=1, max_iter=50, random_state=draw).fit(flat.numpy())
        labels = torch.from_numpy(found.labels_).long()
        parts = [flat[labels == k] for k in range(components)]
        ridge = RIDGE * torch.eye(flat.shape[1], dtype=torch.float64)
        covariances = torch.stack([part.T.cov(correction=0) + ridge for part in parts])
        shares = torch.tensor([len(part) / len(flat) for part in parts], dtype=torch.float64)
        return cls(
            shares.log(), torch.stack([part.mean(0) for part in parts]), *torch.linalg.eigh(covariances)
        )

    @classmethod
    def joined(cls, mixtures: Sequence["PatchGMM"]) -> "PatchGMM":
        """The mixture of mixtures, each as likely."""
        fields = [torch.cat(parts) for parts in zip(*mixtures, strict=True)]
        return cls(fields[0] - log(len(mixtures)), *fields[1:])

    def components(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """Of noisy patches (..., p, p): log density in each component, and the mean of the clean patch in it.

        (..., K), the weights included, and (..., K, d).
        """
        x = x.flatten(-2)
        spread = level * self.variances + 1 - level
        along = torch.einsum("...d,kde->...ke", x, self.axes) - level**0.5 * torch.einsum(
            "kd,kde->ke", self.means, self.axes
        )
        density = self.log_weights - 0.5 * (along**2 / spread + (2 * pi * spread).log()).sum(-1)
        moved = level**0.5 * self.variances / spread * along
        return density, self.means + torch.einsum("...ke,kde->...kd", moved, self.axes)

    def log_density(self, x: Tensor, level: float) -> Tensor:
        """Log density (...) of noisy patches (..., p, p)."""
        return self.components(x, level)[0].logsumexp(-1)

    def posterior_mean(self, x: Tensor, level: float) -> Tensor:
        """The mean of the clean patches, given noisy ones (..., p, p)."""
        return _mean(*self.components(x, level)).unflatten(-1, x.shape[-2:])


def predictor(mixtures: Sequence[PatchGMM], own: int) -> Predict:
    """The model of one of several mixtures; the unconditional one does not know which.

    Raises ``ValueError`` for ``own`` outside the mixtures.
    """
    checks.between(0, len(mixtures) - 1, own=own)
    joined = PatchGMM.joined(mixtures)
    first = sum(len(mixture.means) for mixture in mixtures[:own])
    mine = slice(first, first + len(mixtures[own].means))

    def predict(x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        density, means = joined.components(x, level)
        conditional = _mean(density[..., mine], means[..., mine, :])
        return tuple(m.unflatten(-1, x.shape[-2:]) for m in (conditional, _mean(density, means)))

    return predict


def _mean(density: Tensor, means: Tensor) -> Tensor:
    return torch.einsum("...k,...kd->...d", density.softmax(-1), means)


# --- from a base to an image ------------------------------------------------------------------------------


class Enlarger(NamedTuple):
    """Makes images of a base (side, side) with the model of one of several mixtures, patch by patch."""

    mixtures: Sequence[PatchGMM]
    own: int
    """Whose model it is."""
    places: Tensor
    """Where patches lie: the ``views``."""
    at: Sequence[float]
    """Levels, the largest first."""

    def invert(self, base: Tensor) -> Tensor:
        """The states (levels, P, p, p) of the base's patches on their way to noise."""
        return ddim_invert(self.mixtures[self.own].posterior_mean, cut(base, self.places), self.at)

    def sample(
        self,
        guides: Sequence[Guide],
        start: Tensor,
        states: Tensor | None = None,
        skip: int = 0,
        alpha: float = 1.0,
    ) -> Tensor:
        """Images (steps, guides, side, side) of patches (guides, P, p, p); the rest as in ``ddim_sample``."""
        predict = predictor(self.mixtures, self.own)
        return ddim_sample(predict, guides, start, self.at, self.places, states, skip, alpha)

    def from_inverted(self, base: Tensor, guides: Sequence[Guide], skip: int) -> Tensor:
        """From the noise that inversion finds, ``skip`` steps with the skip residual: HiWave's own way.

        Images (steps, guides, side, side), the last ones the results.
        """
        states = self.invert(base)
        return self.sample(guides, states[-1].expand(len(guides), *states[-1].shape), states, skip)

    def from_noise(self, noise: Tensor, guides: Sequence[Guide]) -> Tensor:
        """From noise (side, side) alone: images (guides, side, side)."""
        start = cut(noise, self.places)
        return self.sample(guides, start.expand(len(guides), *start.shape))[-1]

    def from_noise_with_skips(self, base: Tensor, noise: Tensor, guide: Guide) -> Tensor:
        """The base with noise at all levels, and a skip residual at all steps, its share to the third power.

        After DemoFusion (Du et al., arXiv 2311.16973): an image (side, side).
        """
        clean, drawn = cut(base, self.places), cut(noise, self.places)
        states = torch.stack([add_noise(clean, drawn, level) for level in self.at])
        return self.sample([guide], states[-1:], states, len(self.at) - 1, 3.0)[-1][0]

    def from_noise_added(self, base: Tensor, noise: Tensor, guide: Guide, steps: int, last: int) -> Tensor:
        """The base with noise at place ``last`` of 1000, and from there down in ``steps`` steps.

        After SDEdit (Meng et al., arXiv 2108.01073): an image (side, side).
        """
        lower = self._replace(at=levels(steps, last))
        start = add_noise(cut(base, self.places), cut(noise, self.places), lower.at[-1])
        return lower.sample([guide], start[None])[-1][0]


# --- structure and details --------------------------------------------------------------------------------


def low_error(image: Tensor, base: Tensor) -> Tensor:
    """How far Haar's low band has moved, from images (..., H, W) each.

    The norm of the difference, over that of the base's band without its mean.
    """
    low, wanted = dwt2(image)[0], dwt2(base)[0]
    centred = wanted - wanted.mean((-2, -1), keepdim=True)
    return (low - wanted).norm(dim=(-2, -1)) / centred.norm(dim=(-2, -1))


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Of the pixels of images (..., H, W)."""
    both = torch.broadcast_tensors(one, other)
    first, second = (x - x.mean((-2, -1), keepdim=True) for x in both)
    return (first * second).sum((-2, -1)) / (first.norm(dim=(-2, -1)) * second.norm(dim=(-2, -1)))


def detail_energy(image: Tensor) -> Tensor:
    """Mean square of Haar's details of images (..., H, W)."""
    return dwt2(image)[1].square().mean((-3, -2, -1))


def kurtosis(image: Tensor) -> Tensor:
    """Of Haar's details of images (..., H, W), each direction by itself, in the mean: 3 for a Gaussian."""
    details = dwt2(image)[1]
    return (details**4).mean((-2, -1)).div(details.square().mean((-2, -1)) ** 2).mean(-1)


def windows(image: Tensor, side: int, step: int = 1) -> Tensor:
    """All squares (n, side, side) of an image (H, W), ``step`` pixels apart along both axes.

    Raises ``ValueError`` for squares that do not fit and a step below 1.
    """
    checks.between(1, min(image.shape), "the shorter side", side=side)
    checks.at_least(1, step=step)
    return image.unfold(0, side, step).unfold(1, side, step).reshape(-1, side, side)


def likelihood(image: Tensor, model: PatchGMM, side: int) -> Tensor:
    """Mean log density of all windows of an image (H, W) under a mixture, in nats per pixel."""
    return model.log_density(windows(image, side), 1.0).mean() / side**2


def seams(image: Tensor, patch: int) -> float:
    """Mean jump across borders of patches side by side, over that elsewhere: of a square image."""
    jumps = torch.stack([image.diff(dim=0), image.diff(dim=1).T]).abs()
    border = torch.arange(1, len(image)) % patch == 0
    return float(jumps[:, border].mean() / jumps[:, ~border].mean())


def at_detail(images: Tensor, energy: Tensor, costs: Tensor) -> float:
    """What images (n, H, W) cost (n,) where their detail energy is this one, or the most that they reach.

    Between two images costs are interpolated. Images come with more noise each; from the one with the most
    detail on, more noise is of no use.
    """
    energies = detail_energy(images).numpy()
    grows = slice(energies.argmax() + 1)
    return float(np.interp(float(energy), np.maximum.accumulate(energies[grows]), costs.numpy()[grows]))


def sharpen(base: Tensor, energy: Tensor, details: Tensor | None = None) -> Tensor:
    """An image (H, W) whose Haar details are amplified to an energy, the low band as it is.

    With ``details`` (3, H/2, W/2), say of another image, these are amplified and put in place of its own.
    """
    low, own = dwt2(base)
    chosen = own if details is None else details
    return idwt2(low, chosen * (energy / chosen.square().mean()).sqrt())


def disc(side: int, place: Sequence[int], radius: float) -> Tensor:
    """Which pixels (side, side) lie within a radius of a place: row, column."""
    rows, columns = torch.arange(side)[:, None] - place[0], torch.arange(side) - place[1]
    return rows**2 + columns**2 <= radius**2


def discs(image: Tensor, level: float) -> list[tuple[float, float, int]]:
    """Dark spots of an image (H, W), smoothed by 3 pixels, below a level: row, column of their centre, area.

    Spots of at most 60 pixels do not count; the largest comes first.
    """
    labels, found = ndimage.label(smooth(image) < level)
    spots = range(1, found + 1)
    areas = ndimage.sum_labels(np.ones_like(labels), labels, spots)
    centres = ndimage.center_of_mass(np.ones_like(labels), labels, spots)
    kept = [(float(y), float(x), int(a)) for (y, x), a in zip(centres, areas, strict=True) if a > 60]
    return sorted(kept, key=lambda spot: -spot[2])


def smooth(image: Tensor) -> np.ndarray:
    """An image blurred by a Gaussian of 3 pixels, as ``discs`` sees it."""
    return ndimage.gaussian_filter(image.numpy(), 3)


def keeps_disc(image: Tensor, base: Tensor, place: Sequence[int], near: float = 4, more: float = 1.1) -> bool:
    """Whether the disc of a base (H, W) is kept in an image of ``more`` times its detail energy at least.

    There is one dark spot, at most ``near`` pixels from the disc's place: row, column. Dark is below the
    middle between the base's darkest pixel and its median, both smoothed.
    """
    blurred = smooth(base)
    spots = discs(image, (blurred.min() + np.median(blurred)) / 2)
    there = len(spots) == 1 and np.hypot(spots[0][0] - place[0], spots[0][1] - place[1]) <= near
    return bool(there and detail_energy(image) >= more * detail_energy(base))
