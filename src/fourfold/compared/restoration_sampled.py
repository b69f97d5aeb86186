"""Papers of restoration that sample or are distilled from what samples, on the task of the page.

HF-Diff and its teacher, HIR-Diff and the total variation that guides it, HiWave. Each function makes, of what
is given to learn from and of a setting, what restores a small image.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fourfold import training
from fourfold.compared.restoration_task import BATCH, CROP, FACTOR, STEPS, Given, Restore
from fourfold.data import image_pairs
from fourfold.data.image_pairs import enlarge
from fourfold.restoration import hf_diff, hir_diff, hiwave

# --- HF-Diff ------------------------------------------------------------------------------------------------

TEACHER, STUDENT, FEATURES = 3 * STEPS, 150, 150
"""Steps of HF-Diff's teacher, of its student, and of the network whose features its loss compares."""

WIDTH = 15
"""Channels of HF-Diff's denoiser."""


def denoiser() -> hf_diff.Denoiser:
    """HF-Diff's and its teacher's, as large as the other networks."""
    return hf_diff.Denoiser(WIDTH)


def _fitted(
    make: Callable[[], nn.Module],
    seed: int,
    draw: training.Draw,
    rate: float,
    loss: training.Measure,
    **how: Any,
) -> nn.Module:
    tiny = tuple(part[None, :1] for part in draw(training.stream(seed, "score")))  # decides nothing
    recipe = training.Recipe(1, BATCH, rate, weight_decay=0)
    score = lambda made, _: torch.zeros(len(made))  # noqa: E731
    run = training.train(make, [seed], draw, tiny, recipe, loss=loss, score=score, together=False, **how)  # type: ignore[arg-type]
    return run.member(0).requires_grad_(False)


@lru_cache(maxsize=1)
def diffusion(given: Given, rate: float) -> nn.Module:
    """HF-Diff's teacher: ResShift's denoiser from the enlarged image to the clean one."""
    etas = hf_diff.eta_schedule()

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y, x = _signed(*given.crops(BATCH * TEACHER)(generator))
        eta = etas[torch.randint(len(etas), (len(x),), generator=generator)].to(x)[:, None, None, None]
        z = hf_diff.diffuse(x, y, eta, torch.randn(x.shape, generator=generator))
        return hf_diff.packed(z, y, eta), x

    return _fitted(denoiser, given.seed, draw, rate, mse_loss)


def many_steps(given: Given, rate: float) -> Restore:
    """What HF-Diff's teacher samples in fifteen steps."""
    net, etas = diffusion(given, rate), hf_diff.eta_schedule()
    generator = given.stream("start")

    def restore(small: Tensor) -> Tensor:
        y = _signed(small)[0]
        return hf_diff.sample(net, _noised(y, etas, generator), y, etas) / 2 + 0.5

    return restore


def one_step(given: Given, rate: float) -> Restore:
    """HF-Diff: a student that goes on from the teacher, with SinSR's losses and the high-frequency loss."""
    teacher, etas = diffusion(given, rate), hf_diff.eta_schedule()

    def whole(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image = _signed(*given.crops(BATCH * FEATURES, CROP // 2)(generator))[1]
        return image, image

    features = _fitted(hf_diff.FeatureNet, given.seed, whole, 4e-3, hf_diff.blur_loss)
    assert isinstance(features, hf_diff.FeatureNet)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y, x = _signed(*given.crops(BATCH * STUDENT)(generator))
        z = _noised(y, etas, generator)
        taught = hf_diff.sample(teacher, z, y, etas)
        return torch.cat([z, y, x, taught], 1), hf_diff.distill_targets(z, x, taught)

    def loss(made: Tensor, wanted: Tensor) -> Tensor:
        return hf_diff.distill_loss(made, wanted) + 0.2 * hf_diff.hf_loss(
            made[:, 6:], wanted[:, 6:], features
        )

    start = {f"net.{name}": value[None] for name, value in teacher.state_dict().items()}
    make = lambda: hf_diff.Student(denoiser(), etas)  # noqa: E731
    student = _fitted(make, given.seed, draw, 0.3 * rate, loss, start=start)
    assert isinstance(student, hf_diff.Student)
    generator = given.stream("start")

    def restore(small: Tensor) -> Tensor:
        y = _signed(small)[0]
        return student.net(hf_diff.packed(_noised(y, etas, generator), y, etas[-1])) / 2 + 0.5

    return restore


def _signed(small: Tensor, clean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The enlarged image and the clean one in -1..1."""
    y = 2 * enlarge(small, FACTOR) - 1
    return y, y if clean is None else 2 * clean - 1


def _noised(y: Tensor, etas: Tensor, generator: torch.Generator) -> Tensor:
    """The noise that sampling starts from: one number for the three channels, which are one."""
    noise = torch.randn(y[:, :1].shape, generator=generator).expand_as(y)
    return hf_diff.diffuse(y, y, etas[-1], noise)


# --- HIR-Diff -----------------------------------------------------------------------------------------------


class Halved(hir_diff.Seen):
    """A small image as HIR-Diff's module reads one; its degradation is this page's."""

    __slots__ = ()

    def degrade(self, cube: Tensor) -> Tensor:
        """(3, h, w) -> (3, h / 2, w / 2)."""
        return image_pairs.shrink(cube, FACTOR)


BANDS = torch.eye(3)
"""HIR-Diff's matrix: the image is its own three bands."""

PATCH = 32
"""Side of the crops that HIR-Diff's denoiser learns from."""


def prior(given: Given, side: int, n: int) -> hir_diff.Gaussian:
    """HIR-Diff's: the mean spectrum of clean crops of the photographs to learn from."""
    return hir_diff.gaussian_prior(given.crops(n, side // FACTOR)(given.stream(f"prior {side}"))[1])


def variation(given: Given, weight: float) -> Restore:
    """HIR-Diff's guidance alone: the image that fits what was seen with little total variation."""

    def restore(small: Tensor) -> Tensor:
        begin = enlarge(small[0], FACTOR)
        return hir_diff.guidance_alone(Halved("sr", small[0]), BANDS, begin, weight)[None]

    return restore


def guided(given: Given, etas: tuple[float, float]) -> Restore:
    """HIR-Diff: twenty steps of its denoiser, each guided towards what was seen and little variation."""
    small_prior = prior(given, PATCH, 300)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        clean = given.crops(BATCH * STEPS, PATCH // FACTOR)(generator)[1]
        return hir_diff.lessons(clean, small_prior, generator)

    net = _fitted(hir_diff.Shrinkage, given.seed, draw, 0.1, mse_loss)
    bars, generator = hir_diff.levels(hir_diff.alpha_bar("exp"), 20), given.stream("start")

    def restore(small: Tensor) -> Tensor:
        side = FACTOR * small.shape[-1]
        noise = torch.randn(1, side, side, generator=generator).expand(3, -1, -1)
        denoiser = hir_diff.denoiser_of(net, prior(given, side, 60))
        return hir_diff.restore(Halved("sr", small[0]), BANDS, denoiser, bars, *etas, noise)[0][None]

    return restore


# --- HiWave -------------------------------------------------------------------------------------------------

VIEW, STRIDE, WAVES, SKIP = 8, 4, 50, 15
"""Side of HiWave's patches, pixels from one to the next, its steps, and those with the skip residual."""


def details(given: Given, w: float) -> Restore:
    """HiWave: details are guided by ``w`` to patches of photographs, away from those of enlarged ones."""
    mixtures, at = [], hiwave.levels(WAVES)
    enlarged = [enlarge(small, FACTOR) for small in given.learn.degraded]
    for name, images in (("sharp", given.learn.clean), ("soft", enlarged)):
        generator = given.stream(f"patches, {name}")
        drawn = [hiwave.crops(2 * image[0].double() - 1, 600, VIEW, generator) for image in images]
        mixtures.append(hiwave.PatchGMM.fit(torch.cat(drawn), 8, generator))
    predict = hiwave.predictor(mixtures, 0)

    def restore(small: Tensor) -> Tensor:
        base = 2 * enlarge(small, FACTOR)[0, 0].double() - 1
        places = hiwave.views(len(base), VIEW, STRIDE)
        states = hiwave.ddim_invert(mixtures[0].posterior_mean, hiwave.cut(base, places), at)
        guide = partial(hiwave.detail_enhance, w=w)
        made = hiwave.ddim_sample(predict, [guide], states[-1:], at, places, states, SKIP)[-1]
        return (made / 2 + 0.5).float().expand(1, 3, -1, -1)

    return restore
